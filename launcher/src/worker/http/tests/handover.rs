//! Live hand-over: whatever a connection is doing when its worker leaves, the client does not notice.
//!
//! Two servers in one process, as two workers of a service. Nobody connects anew, and no response may say `close`.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::super::{Event, HEAD_MAX};
use super::{Client, Served, limits, serve_with, soon};
use crate::channel::Limits;
use crate::sys::passing;

/// The pair of a service, as its master holds it.
struct Service {
    listener: std::net::TcpListener,
    give: OwnedFd,
    take: OwnedFd,
}

impl Service {
    fn new() -> Self {
        let (give, take) = passing::pair().expect("a pair");
        Self { listener: std::net::TcpListener::bind("127.0.0.1:0").expect("a free port"), give, take }
    }

    fn worker(&self, limits: Limits) -> Served {
        let take = self.take.try_clone().expect("a descriptor");
        serve_with(self.listener.try_clone().expect("a descriptor"), limits, Some(take))
    }

    fn send_off(&self, old: &Served) {
        old.control.hand_over(self.give.try_clone().expect("a descriptor"), 1);
    }

    /// A successor for `old`, which is told to leave.
    fn succeed(&self, old: &Served) -> Served {
        let new = self.worker(limits());
        self.send_off(old);
        new
    }
}

/// Two workers, of which the first has accepted `clients` connections and leaves.
async fn succession<const N: usize>() -> (Service, Served, [Client; N]) {
    let service = Service::new();
    let old = service.worker(limits());
    let mut clients = Vec::new();
    for _ in 0..N {
        clients.push(old.connect().await);
    }
    open(&old, N as u64).await;
    let Ok(clients) = clients.try_into() else { panic!("N clients") };
    (service, old, clients)
}

async fn until(what: &str, mut fact: impl FnMut() -> bool) {
    soon(what, async {
        while !fact() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn open(served: &Served, count: u64) {
    until("open connections", || served.counters.open.load(Relaxed) == count).await;
}

async fn gone(old: Served) {
    soon("the hand-over", old.done).await.expect("no panic");
}

fn seen(served: &Served) -> Vec<String> {
    served.plugin.seen.lock().expect("no panic").clone()
}

async fn assert_served_by(client: &mut Client, new: &Served) {
    let before = new.requests();
    let reply = client.get("/hello").await;
    assert_eq!((reply.status, reply.text(), reply.closes()), (200, "hello", false));
    assert_eq!(new.requests(), before + 1, "the successor has not served it");
}

#[tokio::test]
async fn idle_connections_move_at_once() {
    let (service, old, [mut silent, mut kept]) = succession().await;
    kept.get("/hello").await;
    let new = service.succeed(&old);
    let asked = Instant::now();
    gone(old).await;
    assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
    open(&new, 2).await;
    for client in [&mut silent, &mut kept] {
        assert_served_by(client, &new).await;
        assert!(client.get("/uri").await.text().contains(" front 127.0.0.1:"), "peer and listener travel too");
    }
    assert_eq!(new.counters.accepted.load(Relaxed), 0, "they were accepted once");
}

#[tokio::test]
async fn a_head_may_be_cut_anywhere() {
    const HEAD: &[u8] = b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n";
    let (service, mut worker, [mut fresh, mut kept]) = succession().await;
    kept.get("/hello").await;
    for byte in &HEAD[..HEAD.len() - 1] {
        for client in [&mut fresh, &mut kept] {
            client.send([*byte]).await;
        }
        let new = service.succeed(&worker);
        gone(worker).await;
        worker = new;
    }
    for client in [&mut fresh, &mut kept] {
        client.send(b"\n").await;
        assert_eq!(client.reply().await.text(), "hello");
        assert_served_by(client, &worker).await;
    }
}

#[tokio::test]
async fn a_response_in_flight_is_finished_without_close() {
    let (service, old, [mut client]) = succession().await;
    client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await;
    soon("the handler", old.plugin.waiting.notified()).await;
    let new = service.succeed(&old);
    until("the old worker to leave its listener", || old.control.accepting_ended()).await;
    old.plugin.release.notify_one();
    let reply = client.reply().await;
    assert_eq!((reply.text(), reply.closes()), ("waited", false));
    gone(old).await;
    assert_served_by(&mut client, &new).await;
}

#[tokio::test]
async fn pipelined_requests_are_each_answered_once_and_in_order() {
    let (service, old, [mut client]) = succession().await;
    client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\nGET /status/201 HTTP/1.1\r\nHost: a\r\n\r\nGET /st").await;
    soon("the handler", old.plugin.waiting.notified()).await;
    let new = service.succeed(&old);
    until("the old worker to leave its listener", || old.control.accepting_ended()).await;
    client.send("atus/202 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    old.plugin.release.notify_one();
    for status in [200, 201, 202] {
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.closes()), (status, false));
    }
    let seen = [seen(&old), seen(&new)].concat();
    assert_eq!(seen, ["/wait", "/status/201", "/status/202"]);
    gone(old).await;
    assert_served_by(&mut client, &new).await;
}

#[tokio::test]
async fn more_pipelined_bytes_than_travel_are_served_out() {
    const REQUEST: &str = "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n";
    let count = 3 * HEAD_MAX / REQUEST.len();
    let (service, old, [mut client]) = succession().await;
    client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await;
    soon("the handler", old.plugin.waiting.notified()).await;
    client.send(REQUEST.repeat(count)).await;
    let new = service.succeed(&old);
    old.plugin.release.notify_one();
    assert_eq!(client.reply().await.text(), "waited");
    for _ in 0..count {
        let reply = client.reply().await;
        assert_eq!((reply.text(), reply.closes()), ("hello", false));
    }
    gone(old).await;
    assert_served_by(&mut client, &new).await;
}

#[tokio::test]
async fn an_upload_is_read_to_its_end_where_it_began() {
    let (service, old, [mut sized, mut chunked]) = succession().await;
    sized.send("POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n").await;
    sized.send("x".repeat(100_000)).await;
    chunked.send("POST /length HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\n").await;
    until("the handlers", || old.requests() == 2).await;
    let new = service.succeed(&old);
    until("the old worker to leave its listener", || old.control.accepting_ended()).await;
    sized.send("x".repeat(100_000)).await;
    chunked.send("x".repeat(0x1000) + "\r\n0\r\n\r\n").await;
    for (client, length) in [(&mut sized, "200000"), (&mut chunked, "4096")] {
        let reply = client.reply().await;
        assert_eq!((reply.text(), reply.closes()), (length, false));
    }
    gone(old).await;
    for client in [&mut sized, &mut chunked] {
        assert_served_by(client, &new).await;
    }
}

#[tokio::test]
async fn the_rest_of_an_upload_that_was_answered_early_is_no_request_of_the_successor() {
    let (service, old, [mut client, mut idle]) = succession().await;
    let rest = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    client.send(format!("POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 2 * rest.len())).await;
    assert_eq!(client.reply().await.text(), "held");
    client.send(rest).await;
    let new = service.succeed(&old);
    // Both were asked at once, and the one that was asked later is there.
    assert_served_by(&mut idle, &new).await;
    assert_eq!(old.counters.open.load(Relaxed), 1, "it was handed over in the middle of a request");
    old.plugin.release.notify_one();
    client.send(rest).await;
    soon("the upload", old.plugin.held_done.notified()).await;
    let held = old.plugin.held.lock().expect("no panic").take();
    assert_eq!(held.map(|read| read.map(|bytes| bytes.len())), Some(Ok(2 * rest.len())));
    gone(old).await;
    assert_served_by(&mut client, &new).await;
    assert_eq!(seen(&new), ["/hello", "/hello"]);
}

#[tokio::test]
async fn a_body_that_the_plugin_drops_is_no_request_of_the_successor() {
    let (service, old, [mut late, mut whole]) = succession().await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let head = format!("POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", smuggled.len());
    whole.send(head.clone() + smuggled).await;
    late.send(head).await;
    assert_eq!((whole.reply().await.status, late.reply().await.status), (200, 200));
    let new = service.succeed(&old);
    until("the old worker to leave its listener", || old.control.accepting_ended()).await;
    // hyper closes a connection whose body nobody reads, unless the rest of it is there already.
    let _ = late.stream.try_write(smuggled.as_bytes());
    assert_served_by(&mut whole, &new).await;
    gone(old).await;
    assert_eq!(seen(&new), ["/hello"]);
}

#[tokio::test]
async fn a_slow_reader_gets_all_of_its_response_before_it_moves() {
    const LENGTH: usize = 300_000;
    let service = Service::new();
    // The kernel takes a few thousand bytes and hyper all the others, so that the plugin is done and the client is not.
    rustix::net::sockopt::set_socket_send_buffer_size(&service.listener, 4096).expect("a socket");
    let old = service.worker(limits());
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a socket");
    let mut client = Client::new(socket.connect(old.address).await.expect("the listener is open"));
    client.send(format!("GET /big/{LENGTH} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
    until("the plugin's end", || old.plugin.produced.load(Relaxed) == LENGTH as u64).await;
    let mut idle = old.connect().await;
    open(&old, 2).await;
    let new = service.succeed(&old);
    // Both were asked at once, and the one that was asked later is there.
    assert_served_by(&mut idle, &new).await;
    assert_eq!(old.counters.open.load(Relaxed), 1, "it was handed over with a part of its response unsent");
    client.head().await;
    let mut got = 0;
    while let Some(chunk) = client.chunk().await {
        got += chunk.len();
    }
    assert_eq!((got, client.line().await.as_str()), (LENGTH, ""));
    gone(old).await;
    assert_served_by(&mut client, &new).await;
}

#[tokio::test]
async fn a_streamed_response_ends_before_its_connection_moves() {
    let (service, old, [mut client]) = succession().await;
    client.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(!client.head().await.closes());
    let feed = old.plugin.feed.lock().expect("no panic").take().expect("the handler ran");
    let new = service.succeed(&old);
    until("the old worker to leave its listener", || old.control.accepting_ended()).await;
    feed.send("late".into()).expect("the body is alive");
    assert_eq!(client.chunk().await.as_deref(), Some(&b"late"[..]));
    drop(feed);
    assert_eq!(client.chunk().await, None);
    assert_eq!(client.line().await, "");
    gone(old).await;
    assert_served_by(&mut client, &new).await;
}

#[tokio::test]
async fn a_response_without_body_ends_with_its_head() {
    let (service, old, [mut client]) = succession().await;
    client.send("HEAD /wait HTTP/1.1\r\nHost: a\r\n\r\n").await;
    soon("the handler", old.plugin.waiting.notified()).await;
    let new = service.succeed(&old);
    old.plugin.release.notify_one();
    assert!(!client.reply_to("HEAD").await.closes());
    gone(old).await;
    assert_served_by(&mut client, &new).await;
}

#[tokio::test]
async fn a_client_that_waits_for_100_is_told_by_the_worker_that_it_asked() {
    let (service, old, [mut told, mut cut]) = succession().await;
    let head = "POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    told.send(head).await;
    assert_eq!(told.reply().await.status, 100);
    cut.send(&head[..40]).await;
    let new = service.succeed(&old);
    open(&new, 1).await;
    told.send("hello").await;
    assert_eq!(told.reply().await.text(), "5");
    cut.send(&head[40..]).await;
    assert_eq!(cut.reply().await.status, 100);
    cut.send("hello").await;
    assert_eq!(cut.reply().await.text(), "5");
    gone(old).await;
    for client in [&mut told, &mut cut] {
        assert_served_by(client, &new).await;
    }
}

#[tokio::test]
async fn an_old_client_keeps_its_connection_if_it_asked_to() {
    const KEEP: &str = "GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let (service, old, [mut keeps, mut closes]) = succession().await;
    keeps.send(KEEP).await;
    assert_eq!(keeps.reply().await.text(), "hello");
    closes.send("GET /wait HTTP/1.0\r\n\r\n").await;
    soon("the handler", old.plugin.waiting.notified()).await;
    let new = service.succeed(&old);
    open(&new, 1).await;
    keeps.send(KEEP).await;
    assert_eq!(keeps.reply().await.text(), "hello");
    assert_eq!(new.requests(), 1);
    old.plugin.release.notify_one();
    assert_eq!(closes.reply().await.text(), "waited");
    closes.assert_closed().await;
    gone(old).await;
}

#[tokio::test]
async fn clients_that_have_left_meanwhile_harm_nobody() {
    let (service, old, [finished, reset, cut, mut stays]) = succession().await;
    let mut cut = cut;
    // Read by the old worker or still in the kernel: it goes with the connection either way.
    cut.send("GET /hello HT").await;
    service.send_off(&old);
    open(&old, 0).await;
    // They are parked: nobody is there to take them.
    reset.stream.set_zero_linger().expect("open");
    drop((finished, reset, cut));
    let new = service.worker(limits());
    open(&new, 1).await;
    assert_served_by(&mut stays, &new).await;
    gone(old).await;
    assert_eq!(new.events().iter().filter(|event| event.contains("lost")).count(), 0, "{:?}", new.events());
}

#[tokio::test]
async fn what_is_parked_outlives_its_sender() {
    // So few that they depart together, in one message.
    let (service, old, mut clients) = succession::<30>().await;
    clients[0].send("GET /hel").await;
    clients[1].get("/hello").await;
    service.send_off(&old);
    until("the message", || rustix::io::ioctl_fionread(&service.take).is_ok_and(|bytes| bytes > 0)).await;
    assert_eq!(old.counters.open.load(Relaxed), 0);
    old.done.abort();
    clients[2].send("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let new = service.worker(limits());
    open(&new, 30).await;
    clients[0].send("lo HTTP/1.1\r\nHost: a\r\n\r\n").await;
    for client in [0, 2] {
        assert_eq!(clients[client].reply().await.text(), "hello");
    }
    for client in &mut clients {
        assert_served_by(client, &new).await;
    }
}

#[tokio::test]
async fn while_nobody_takes_the_old_worker_serves_on() {
    let (service, old, mut clients) = succession::<200>().await;
    service.send_off(&old);
    for client in &mut clients {
        assert_served_by(client, &old).await;
    }
    let new = service.worker(limits());
    gone(old).await;
    for client in &mut clients {
        assert_served_by(client, &new).await;
    }
}

#[tokio::test]
async fn what_nobody_took_is_asked_again_when_somebody_may_and_that_is_told() {
    let (service, old, mut clients) = succession::<3>().await;
    let told = || {
        let events = old.events.lock().expect("no panic");
        events.iter().filter(|event| **event == Event::NotAccepting.to_string()).count()
    };
    service.send_off(&old);
    for client in &mut clients {
        assert_served_by(client, &old).await;
    }
    until("the first word", || told() == 1).await;
    let new = service.succeed(&old);
    until("the second word", || told() == 2).await;
    for client in &mut clients {
        assert_served_by(client, &new).await;
    }
    gone(old).await;
}

#[tokio::test]
async fn who_has_nobody_to_pass_on_to_says_so_a_second_time() {
    let (service, old, [mut client]) = succession().await;
    client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await;
    soon("the handler", old.plugin.waiting.notified()).await;
    old.control.drain();
    let told = |times| {
        let events = old.events.lock().expect("no panic");
        events.iter().filter(|event| **event == Event::NotAccepting.to_string()).count() == times
    };
    until("the first word", || told(1)).await;
    service.send_off(&old);
    until("the second word", || told(2)).await;
    old.plugin.release.notify_one();
    assert!(client.reply().await.closes());
    gone(old).await;
}

#[tokio::test]
async fn a_full_successor_takes_no_more_and_what_it_does_not_take_is_served() {
    let (service, old, mut clients) = succession::<150>().await;
    let new = service.worker(Limits { connections: 10, ..limits() });
    service.send_off(&old);
    // A message is taken whole.
    open(&new, 64).await;
    for client in &mut clients {
        assert_eq!(client.get("/hello").await.text(), "hello");
    }
    assert_eq!(new.counters.open.load(Relaxed), 64);
    assert_eq!((old.requests() + new.requests(), new.requests()), (150, 64));
    drop(clients);
    gone(old).await;
}

#[tokio::test]
async fn a_hand_over_that_is_called_off_ends_with_close() {
    let (service, old, mut clients) = succession::<200>().await;
    service.send_off(&old);
    until("the old worker to leave its listener", || old.control.accepting_ended()).await;
    old.control.drain();
    for client in &mut clients {
        // The first answer may come before the order is seen.
        if !client.get("/hello").await.closes() {
            assert!(client.get("/hello").await.closes());
        }
        client.assert_closed().await;
    }
    gone(old).await;
}

#[tokio::test]
async fn a_successor_without_that_listener_closes_after_the_next_response() {
    let (service, old, [mut client]) = succession().await;
    let elsewhere = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let new = serve_with(elsewhere, limits(), Some(service.take.try_clone().expect("a descriptor")));
    service.send_off(&old);
    gone(old).await;
    let reply = client.get("/hello").await;
    assert_eq!((reply.text(), reply.closes(), new.requests()), ("hello", true, 1));
    client.assert_closed().await;
}

#[tokio::test]
async fn the_clocks_go_on_where_they_were() {
    const LIMIT: Duration = Duration::from_secs(1);
    let service = Service::new();
    let limits = Limits { idle_timeout: LIMIT, ..limits() };
    let old = service.worker(limits.clone());
    let (mut idle, mut head) = (old.connect().await, old.connect().await);
    head.send("GET /hel").await;
    open(&old, 2).await;
    let begun = Instant::now();
    tokio::time::sleep(LIMIT * 7 / 10).await;
    let new = service.worker(limits);
    service.send_off(&old);
    gone(old).await;
    assert_eq!(head.reply().await.status, 408);
    let head_took = begun.elapsed();
    idle.assert_closed().await;
    let idle_took = begun.elapsed();
    assert!(head_took < LIMIT * 3 / 2, "{head_took:?}");
    assert!(idle_took > LIMIT * 9 / 10 && idle_took < LIMIT * 3 / 2, "{idle_took:?}");
    drop(new);
}

#[tokio::test]
async fn what_is_no_message_is_refused_and_the_next_one_taken() {
    let (service, old, [mut client]) = succession().await;
    let new = service.worker(limits());
    let (file, (_mine, receipt)) = (File::open("/dev/null").expect("it exists"), passing::pair().expect("a pair"));
    let item = |name: &[u8]| [&[1, 1, name.len() as u8, 0, 0, 0][..], name, &[0; 16]].concat();
    let bad: [(&[u8], Vec<_>); 8] = [
        (b"", vec![]),
        (b"", vec![file.as_fd()]),
        (b"\x01", vec![]),
        (b"garbage of any length", vec![file.as_fd(), file.as_fd(), file.as_fd()]),
        (&item(b"front"), vec![]),
        (&item(b"front"), vec![receipt.as_fd(), file.as_fd()]),
        (&item(b"front"), vec![receipt.as_fd(), service.listener.as_fd()]),
        (&item(b"front"), vec![receipt.as_fd(), file.as_fd(), file.as_fd(), file.as_fd()]),
    ];
    for (bytes, descriptors) in &bad {
        passing::send(&service.give, bytes, descriptors).expect("the queue has room");
    }
    passing::send(&service.give, &[255; 200_000], &[]).expect("the queue has room");
    // Both take. Each has told of its listener; the one with a socket that is not connected looks like a client's reset.
    until("complaints", || old.events().len() + new.events().len() == 2 + bad.len()).await;
    service.send_off(&old);
    gone(old).await;
    assert_served_by(&mut client, &new).await;
    let mut fresh = new.connect().await;
    assert_eq!(fresh.get("/hello").await.text(), "hello", "the listener was shut down");
}

#[tokio::test]
async fn several_successors_share_what_they_get() {
    let (service, old, mut clients) = succession::<64>().await;
    let news = [service.worker(limits()), service.worker(limits())];
    old.control.hand_over(service.give.try_clone().expect("a descriptor"), 2);
    gone(old).await;
    for client in &mut clients {
        assert_eq!(client.get("/hello").await.text(), "hello");
    }
    let shares = news.map(|new| new.requests());
    assert_eq!(shares.iter().sum::<u64>(), 64);
    assert!(shares.iter().all(|share| *share >= 8), "{shares:?}");
}
