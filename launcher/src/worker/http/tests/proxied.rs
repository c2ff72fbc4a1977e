//! Behind a proxy that says whose a connection is: the PROXY protocol.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::{Client, Served, limits, serve_behind_a_proxy, soon};
use crate::channel::Limits;
use crate::sys::passing;

const V1: &str = "PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n";
const REQUEST: &str = "GET /uri HTTP/1.1\r\nHost: example.com\r\n\r\n";

fn v2(kind: u8, address: &[u8]) -> Vec<u8> {
    [b"\r\n\r\n\0\r\nQUIT\n", &[kind, 0x11, 0, address.len() as u8][..], address].concat()
}

fn listener() -> std::net::TcpListener {
    std::net::TcpListener::bind("127.0.0.1:0").expect("a free port")
}

fn serve() -> Served {
    serve_behind_a_proxy(listener(), limits(), None)
}

/// Whom the plugin takes the client for.
async fn seen_by(client: &mut Client) -> String {
    let reply = client.reply().await;
    reply.text().rsplit(' ').next().expect("a word").to_owned()
}

#[tokio::test]
async fn the_plugin_sees_whom_the_proxy_names() {
    let served = serve();
    let v2_address = [192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 0x04, 1, 187, 0x04, 0, 3, 1, 2, 3];
    for head in [V1.as_bytes(), &v2(0x21, &v2_address)] {
        let mut client = served.connect().await;
        client.send([head, REQUEST.as_bytes()].concat()).await;
        assert_eq!(seen_by(&mut client).await, "192.0.2.7:56324");
        client.send(REQUEST).await;
        assert_eq!(seen_by(&mut client).await, "192.0.2.7:56324", "of every request");
    }
    for head in [&b"PROXY UNKNOWN\r\n"[..], &v2(0x20, &[])] {
        let mut client = served.connect().await;
        let own = client.stream.local_addr().expect("connected").to_string();
        client.send([head, REQUEST.as_bytes()].concat()).await;
        assert_eq!(seen_by(&mut client).await, own);
    }
    assert!(!served.told("was closed"), "{:?}", served.events());
}

#[tokio::test]
async fn a_head_may_come_in_any_pieces() {
    let served = serve();
    for head in [V1.as_bytes(), &v2(0x21, &[192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 0x04, 1, 187])] {
        let mut client = served.connect().await;
        for byte in head.iter().chain(REQUEST.as_bytes()) {
            client.send([*byte]).await;
        }
        assert_eq!(seen_by(&mut client).await, "192.0.2.7:56324");
    }
}

#[tokio::test]
async fn whoever_sends_no_head_is_cut_off_and_told_of_once() {
    let served = serve();
    for garbage in ["GET / HTTP/1.1\r\n\r\n", "PROXY TCP4 1.2.3.4\r\n", "\r\n\r\n\0\r\nQUIT\r"] {
        let mut client = served.connect().await;
        client.send(garbage).await;
        client.fill_to_end().await;
        assert!(client.read.is_empty(), "an answer to {garbage:?}");
    }
    // One that goes away without a word is a health check, which is none of anybody's business.
    drop(served.connect().await);
    assert_eq!(served.requests(), 0);
    let events = served.events();
    let told: Vec<_> = events.iter().filter(|event| event.contains("does not begin with a PROXY head")).collect();
    assert_eq!(told.len(), 1, "{events:?}");
}

#[tokio::test]
async fn a_head_that_does_not_come_in_time_ends_the_connection() {
    let limits = Limits { idle_timeout: Duration::from_millis(200), ..limits() };
    let served = serve_behind_a_proxy(listener(), limits, None);
    let mut silent = served.connect().await;
    let mut slow = served.connect().await;
    slow.send("PROXY TCP4 192.").await;
    silent.assert_closed().await;
    slow.assert_closed().await;
    assert!(served.told("did not come within 200ms"), "{:?}", served.events());
}

async fn accepted(served: &Served, count: u64) {
    soon("the connections", async {
        while served.counters.open.load(Relaxed) < count {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// A service of two workers behind a proxy, whose old one has accepted a client.
async fn succession() -> (impl AsyncFn(Served) -> Served, Served, Client) {
    let (listener, (give, take)) = (listener(), passing::pair().expect("a pair"));
    let worker = move || {
        let take: OwnedFd = take.try_clone().expect("a descriptor");
        serve_behind_a_proxy(listener.try_clone().expect("a descriptor"), limits(), Some(take))
    };
    let old = worker();
    let client = old.connect().await;
    accepted(&old, 1).await;
    let succeed = async move |old: Served| {
        let new = worker();
        old.control.hand_over(give.try_clone().expect("a descriptor"), 1);
        soon("the hand-over", old.done).await.expect("no panic");
        new
    };
    (succeed, old, client)
}

#[tokio::test]
async fn whom_the_proxy_has_named_survives_the_hand_over() {
    let (succeed, old, mut client) = succession().await;
    client.send([V1, REQUEST].concat()).await;
    assert_eq!(seen_by(&mut client).await, "192.0.2.7:56324");
    let mut worker = old;
    for _ in 0..3 {
        worker = succeed(worker).await;
        client.send(REQUEST).await;
        assert_eq!(seen_by(&mut client).await, "192.0.2.7:56324");
    }
    assert_eq!(worker.requests(), 1);
}

#[tokio::test]
async fn a_head_may_be_cut_by_a_hand_over_anywhere() {
    let (succeed, old, mut client) = succession().await;
    let mut worker = old;
    for byte in V1.as_bytes() {
        worker = succeed(worker).await;
        client.send([*byte]).await;
    }
    client.send(REQUEST).await;
    assert_eq!(seen_by(&mut client).await, "192.0.2.7:56324");
    assert_eq!(worker.requests(), 1);
}

#[tokio::test]
async fn a_worker_that_leaves_waits_for_no_proxy() {
    let served = serve();
    let mut silent = served.connect().await;
    let mut late = served.connect().await;
    accepted(&served, 2).await;
    served.control.drain();
    late.send([V1, REQUEST].concat()).await;
    let reply = late.reply().await;
    assert!(reply.closes() && reply.text().ends_with(" 192.0.2.7:56324"), "{reply:?}");
    silent.assert_closed().await;
    soon("the end", served.done).await.expect("no panic");
}
