//! Two post offices in one process, with a link between them.

use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::channel::post::{WINDOW, WINDOW_BYTES};
use crate::sys::passing;

const ONE: u64 = 1;
const TWO: u64 = 2;

fn office(worker: u64) -> Arc<Post> {
    let post = Post::new(worker);
    let (ours, theirs) = crate::channel::pair().expect("a channel");
    // The master never answers here; the channel stays open as long as the process.
    std::mem::forget(theirs);
    let channel = Channel::new(ours).expect("a channel");
    post.open(Arc::new(channel));
    post
}

fn peer(worker: u64) -> Peer {
    Peer { service: "post".to_owned(), worker, slot: worker as u32 }
}

/// What a master would do.
fn introduce(one: &Arc<Post>, two: &Arc<Post>) {
    let (ours, theirs) = passing::pair().expect("a pair");
    one.connect(peer(TWO), ours);
    two.connect(peer(ONE), theirs);
}

fn text(number: usize, length: usize) -> Vec<u8> {
    format!("{number:0length$}").into_bytes()
}

async fn next(post: &Post) -> Delivery {
    poll_fn(|context| post.receive(context)).await
}

async fn taken(sending: &Sending) -> Outcome {
    poll_fn(|context| sending.poll(context)).await
}

fn send(post: &Post, payload: Vec<u8>, descriptors: Vec<OwnedFd>) -> Sending {
    post.send(To::Worker(TWO), Kind::Message, payload, descriptors).expect("it is sent")
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), test).await.expect("in time") });
}

#[test]
fn messages_of_every_size_come_in_their_order_and_all_senders_know() {
    run(async {
        let (one, two) = (office(ONE), office(TWO));
        assert!(two.receive(&mut Context::from_waker(Waker::noop())).is_pending());
        // Sent before there is a link, and after.
        let early = send(&one, text(0, 9), Vec::new());
        introduce(&one, &two);
        let lengths = (1..2000).map(|number| if number % 97 == 0 { 60_000 } else { number % 700 + 9 });
        let sent: Vec<_> =
            (1..).zip(lengths).map(|(number, length)| send(&one, text(number, length), vec![])).collect();
        for number in 0..2000_usize {
            let came = next(&two).await;
            let read = String::from_utf8(came.payload).expect("text");
            assert_eq!(read.parse::<usize>().expect("a number"), number);
        }
        for sending in std::iter::once(&early).chain(&sent) {
            assert_eq!(taken(sending).await, Outcome::Told(Fate::Taken));
        }
    });
}

/// Lets everything else that can run do so, and the loop look at its sockets.
async fn turns(count: usize) {
    for _ in 0..count {
        tokio::task::yield_now().await;
    }
}

async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        turns(1).await;
    }
}

#[test]
fn no_more_than_a_window_is_held_for_a_plugin_that_takes_nothing() {
    run(async {
        let (one, two) = (office(ONE), office(TWO));
        assert!(two.receive(&mut Context::from_waker(Waker::noop())).is_pending());
        introduce(&one, &two);
        let small: Vec<_> = (0..4 * WINDOW).map(|number| send(&one, text(number, 9), vec![])).collect();
        let held = || two.desk().inbox.len();
        until(|| held() >= WINDOW).await;
        // Both sides have their turns before each look: were there no bound, all would be here after some.
        for _ in 0..4 * WINDOW {
            turns(10).await;
            assert!(held() <= WINDOW, "{}", held());
            next(&two).await;
        }
        assert_eq!(taken(small.last().expect("some")).await, Outcome::Told(Fate::Taken));
        let large: Vec<_> = (0..20).map(|number| send(&one, text(number, 50_000), vec![])).collect();
        let held = || two.desk().inbox.iter().map(|delivery| delivery.payload.len()).sum::<usize>();
        until(|| held() >= WINDOW_BYTES).await;
        for _ in 0..20 {
            turns(100).await;
            assert!(held() < WINDOW_BYTES + 50_000, "{}", held());
            next(&two).await;
        }
        assert_eq!(taken(large.last().expect("some")).await, Outcome::Told(Fate::Taken));
    });
}

#[test]
fn who_does_not_listen_says_so_and_who_is_gone_is_told() {
    run(async {
        let (one, two) = (office(ONE), office(TWO));
        introduce(&one, &two);
        assert_eq!(taken(&send(&one, text(1, 9), vec![])).await, Outcome::Told(Fate::NotWanted));
        assert!(two.receive(&mut Context::from_waker(Waker::noop())).is_pending());
        let waiting = send(&one, text(2, 9), vec![]);
        // It has come, and nobody has taken it.
        until(|| two.desk().inbox.len() == 1).await;
        let link = two.desk().links.values().next().cloned().expect("a link");
        link.close();
        assert_eq!(taken(&waiting).await, Outcome::Gone);
        assert!(one.desk().links.is_empty() || taken(&send(&one, text(3, 9), vec![])).await == Outcome::Gone);
        // The master says that there is nobody.
        let wanted = send(&one, text(4, 9), vec![]);
        one.no_link(TWO);
        assert_eq!(taken(&wanted).await, Outcome::Gone);
    });
}

#[test]
fn a_link_that_breaks_the_protocol_ends_and_costs_nothing_else() {
    let frame = |frame: crate::channel::post::Frame<'_>| {
        let mut packet = Vec::new();
        frame.write(&mut packet);
        packet
    };
    use crate::channel::post::Frame;
    let unasked = frame(Frame::Answer { fate: Fate::Taken, first: 0, count: 1 });
    let huge = frame(Frame::Answer { fate: Fate::Taken, first: u64::MAX, count: u32::MAX });
    let without = frame(Frame::Message { descriptors: 0, payload: b"{}" });
    run(async move {
        let two = office(TWO);
        assert!(two.receive(&mut Context::from_waker(Waker::noop())).is_pending());
        let file = std::fs::File::open("/dev/null").expect("/dev/null");
        let file = std::os::fd::AsFd::as_fd(&file);
        let long = vec![0; 100_000];
        for (packet, descriptors) in
            [(&b"garbage"[..], 0), (&[0; 40], 0), (&unasked, 0), (&huge, 0), (&without, 3), (&long, 0)]
        {
            let (ours, theirs) = passing::pair().expect("a pair");
            two.connect(peer(ONE), theirs);
            passing::send(&ours, packet, &vec![file; descriptors]).expect("sent");
            let over = async {
                while !passing::is_over(&ours) {
                    tokio::task::yield_now().await;
                }
            };
            over.await;
            assert!(two.desk().links.is_empty(), "{packet:?}");
            two.desk().inbox.clear();
        }
        // Links to one worker are bounded.
        let pairs: Vec<_> = (0..3 * LINKS_OF_A_PEER).map(|_| passing::pair().expect("a pair")).collect();
        let (ours, theirs): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        theirs.into_iter().for_each(|theirs| two.connect(peer(ONE), theirs));
        assert_eq!(ours.iter().filter(|ours| !passing::is_over(ours)).count(), LINKS_OF_A_PEER);
    });
}
