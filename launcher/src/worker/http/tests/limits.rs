//! Time limits, the limit of connections, recycling, and running out of descriptors.

use std::io::ErrorKind;
use std::process::Command;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::{Client, limits, serve, soon};
use crate::channel::Limits;

const SHORT: Duration = Duration::from_millis(400);

fn idle(idle_timeout: Duration) -> Limits {
    Limits { idle_timeout, ..limits() }
}

/// The server closes after `SHORT`, and not much later.
async fn assert_ends(client: &mut Client, since: Instant) {
    client.fill_to_end().await;
    let took = since.elapsed();
    assert!(took >= SHORT, "after {took:?}");
    assert!(took < SHORT * 10, "after {took:?}");
}

#[tokio::test]
async fn a_plugin_that_is_late_is_cancelled_and_answered_for() {
    let served = serve(Limits { request_timeout: SHORT, ..limits() });
    let mut client = served.connect().await;
    let begun = Instant::now();
    let reply = client.get("/never").await;
    assert_eq!(reply.status, 504);
    assert!(begun.elapsed() >= SHORT && begun.elapsed() < SHORT * 5, "{:?}", begun.elapsed());
    soon("the cancellation", served.plugin.cancelled.notified()).await;
    assert_eq!(client.get("/hello").await.text(), "hello");
    assert!(served.told("answered with 504"), "{:?}", served.events());
}

#[tokio::test]
async fn a_response_may_take_longer_than_its_head() {
    let served = serve(Limits { request_timeout: Duration::from_millis(100), ..limits() });
    let mut client = served.connect().await;
    client.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.head().await;
    let feed = served.plugin.feed.lock().expect("no panic").take().expect("the handler ran");
    tokio::time::sleep(Duration::from_millis(300)).await;
    feed.send("late".into()).expect("the body is alive");
    assert_eq!(client.chunk().await.as_deref(), Some(&b"late"[..]));
}

#[tokio::test]
async fn zero_means_no_limit() {
    let served = serve(Limits { request_timeout: Duration::ZERO, idle_timeout: Duration::ZERO, ..limits() });
    let mut client = served.connect().await;
    assert_eq!(client.get("/slow/300").await.text(), "slow");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(client.get("/hello").await.text(), "hello");
}

#[tokio::test]
async fn a_connection_that_says_nothing_ends() {
    let served = serve(idle(SHORT));
    let begun = Instant::now();
    let mut client = served.connect().await;
    assert_ends(&mut client, begun).await;
    assert_eq!(client.read, b"");
}

#[tokio::test]
async fn a_kept_connection_ends_when_it_is_silent() {
    let served = serve(idle(SHORT));
    let mut client = served.connect().await;
    client.get("/hello").await;
    let silent = Instant::now() - Duration::from_millis(50); // the server's clock began before ours
    assert_ends(&mut client, silent).await;
    assert_eq!(client.read, b"");
}

#[tokio::test]
async fn a_head_that_trickles_is_ended() {
    let served = serve(idle(SHORT));
    let mut client = served.connect().await;
    let begun = Instant::now();
    client.send("GET /hello HTTP/1.1\r\nX: ").await;
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    let reply = loop {
        tokio::select! {
            _ = pace.tick() => client.send("x").await,
            read = client.fill() => {
                assert!(read.is_ok_and(|length| length > 0));
                break client.head().await;
            }
        }
        assert!(begun.elapsed() < SHORT * 10, "still reading");
    };
    assert_eq!((reply.status, reply.closes()), (408, true));
    assert!(begun.elapsed() >= SHORT);
}

#[tokio::test]
async fn an_upload_that_stalls_ends_although_its_handler_waits() {
    let served = serve(idle(SHORT));
    let mut client = served.connect().await;
    let begun = Instant::now();
    client.send("POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello").await;
    assert_ends(&mut client, begun).await;
}

#[tokio::test]
async fn a_download_that_stalls_ends() {
    let served = serve(idle(SHORT));
    let mut client = served.connect().await;
    client.send("GET /big/1000000000 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.head().await;
    // Nothing is read from here on until the server has given up.
    let patience = Instant::now() + super::PATIENCE;
    while served.counters.open.load(Relaxed) > 0 {
        assert!(Instant::now() < patience, "the server still holds the connection");
        tokio::task::yield_now().await;
    }
    client.fill_to_end().await;
    assert!(client.read.len() < 1_000_000_000);
}

#[tokio::test]
async fn a_transfer_that_moves_is_never_ended() {
    let served = serve(idle(SHORT));
    let mut client = served.connect().await;
    client.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.head().await;
    let feed = served.plugin.feed.lock().expect("no panic").take().expect("the handler ran");
    let begun = Instant::now();
    while begun.elapsed() < SHORT * 3 {
        tokio::time::sleep(SHORT / 8).await;
        feed.send("x".into()).expect("the body is alive");
        assert_eq!(client.chunk().await.as_deref(), Some(&b"x"[..]));
    }
}

#[tokio::test]
async fn a_plugin_at_work_is_not_silence() {
    let served = serve(idle(Duration::from_millis(100)));
    let mut client = served.connect().await;
    assert_eq!(client.get("/slow/600").await.text(), "slow");
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_in_the_kernel() {
    let served = serve(Limits { connections: 2, ..limits() });
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut client = served.connect().await;
        client.get("/hello").await;
        open.push(client);
    }
    let mut third = served.connect().await;
    third.send("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n").await;
    for client in &mut open {
        client.get("/slow/20").await; // the server's loop has turned
    }
    assert_eq!(served.counters.accepted.load(Relaxed), 2);
    open.pop();
    assert_eq!(third.reply().await.text(), "hello");
    assert_eq!(served.counters.accepted.load(Relaxed), 3);
}

#[tokio::test]
async fn the_number_of_requests_after_which_to_recycle_is_told_once() {
    let served = serve(Limits { max_requests: 3, ..limits() });
    let mut client = served.connect().await;
    for nth in 1..6 {
        client.get("/hello").await;
        let told = served.events().iter().filter(|event| event.contains("max_requests")).count();
        assert_eq!(told, usize::from(nth >= 3), "after {nth}");
    }
}

/// Runs itself in a process that may have 40 descriptors: the limit would hit the other tests of this one.
#[test]
fn running_out_of_descriptors_is_told_and_recovered_from() {
    const CHILD: &str = "LAUNCHER_TEST_FEW_DESCRIPTORS";
    if std::env::var_os(CHILD).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        return runtime.block_on(out_of_descriptors());
    }
    let this = std::env::current_exe().expect("this test");
    let name = "worker::http::tests::limits::running_out_of_descriptors_is_told_and_recovered_from";
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 40 && exec \"$0\" --exact \"$1\" --nocapture"])
        .arg(this)
        .arg(name)
        .env(CHILD, "1")
        .output()
        .expect("a shell");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    assert!(printed.contains("1 passed"), "{printed}");
}

async fn out_of_descriptors() {
    let served = serve(limits());
    let mut first = served.connect().await;
    first.get("/hello").await;
    // Take all descriptors but one: a connection can be made, but not accepted.
    let mut hoard = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        hoard.push(file);
    }
    hoard.pop();
    let mut late = served.connect().await;
    late.send("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n").await;
    // Two pauses, of 100 ms and of 200 ms.
    assert_eq!(first.get("/slow/400").await.text(), "slow", "open connections are served on");
    let failures = || served.events().iter().filter(|event| event.contains("cannot accept on front")).count();
    assert_eq!(failures(), 1, "{:?}", served.events());
    let waits = late.stream.try_read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(waits, Err(ErrorKind::WouldBlock), "it waits in the kernel");
    hoard.clear();
    assert_eq!(late.reply().await.text(), "hello");
    assert!(served.told("accepting on front again"), "{:?}", served.events());
    assert_eq!(failures(), 1);
}
