//! Leaving: nothing in flight is lost, and no connection is closed under a client's next request without a linger.

use std::time::{Duration, Instant};

use super::super::LINGER;
use super::{limits, serve, soon};

#[tokio::test]
async fn an_idle_server_is_done_at_once() {
    let served = serve(limits());
    served.control.drain();
    soon("the drain", served.done).await.expect("no panic");
}

#[tokio::test]
async fn a_response_in_flight_is_finished_and_says_close() {
    let served = serve(limits());
    let mut client = served.connect().await;
    client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await;
    soon("the handler", served.plugin.waiting.notified()).await;
    served.control.drain();
    served.plugin.release.notify_one();
    // Whether the server has seen the order before the response is a matter of turns, so a second one may pass.
    let mut reply = client.reply().await;
    assert_eq!(reply.text(), "waited");
    if !reply.closes() {
        reply = client.get("/hello").await;
    }
    assert!(reply.closes());
    client.assert_closed().await;
    drop(client);
    soon("the drain", served.done).await.expect("no panic");
}

#[tokio::test]
async fn an_idle_connection_may_ask_once_more() {
    let served = serve(limits());
    let mut silent = served.connect().await;
    let mut kept = served.connect().await;
    kept.get("/hello").await;
    drain_is_seen(&served).await;
    for client in [&mut silent, &mut kept] {
        let reply = client.get("/hello").await;
        assert_eq!((reply.text(), reply.closes()), ("hello", true));
        client.assert_closed().await;
    }
    drop((silent, kept));
    soon("the drain", served.done).await.expect("no panic");
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_the_linger() {
    let served = serve(limits());
    let mut silent = served.connect().await;
    let mut kept = served.connect().await;
    kept.get("/hello").await;
    let begun = Instant::now();
    served.control.drain();
    silent.assert_closed().await;
    kept.assert_closed().await;
    let took = begun.elapsed();
    assert!(took >= LINGER && took < LINGER * 5, "{took:?}");
    soon("the drain", served.done).await.expect("no panic");
}

/// The promise of those who call it is that something has *not* happened when the deadline is over, so the deadline is
/// let pass; nothing is synchronised by it.
async fn the_linger_passes() {
    tokio::time::sleep(LINGER + Duration::from_millis(300)).await;
}

#[tokio::test]
async fn a_stream_outlives_the_linger_and_its_connection_lingers_after_it() {
    let served = serve(limits());
    let mut client = served.connect().await;
    client.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(!client.head().await.closes());
    let feed = served.plugin.feed.lock().expect("no panic").take().expect("the handler ran");
    served.control.drain();
    the_linger_passes().await;
    feed.send("late".into()).expect("the body is alive");
    assert_eq!(client.chunk().await.as_deref(), Some(&b"late"[..]));
    drop(feed);
    assert_eq!(client.chunk().await, None);
    assert_eq!(client.line().await, "");
    assert!(client.get("/hello").await.closes());
    client.assert_closed().await;
}

#[tokio::test]
async fn a_head_that_has_begun_is_waited_for() {
    let served = serve(limits());
    let (mut fresh, mut pipelined) = (served.connect().await, served.connect().await);
    fresh.send("GET /hello HT").await;
    pipelined.send("GET /hello HTTP/1.1\r\nHost: a\r\n\r\nGET /uri HT").await;
    assert_eq!(pipelined.reply().await.text(), "hello");
    drain_is_seen(&served).await;
    the_linger_passes().await;
    for client in [&mut fresh, &mut pipelined] {
        client.send("TP/1.1\r\nHost: a\r\n\r\n").await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.closes()), (200, true));
        client.assert_closed().await;
    }
    assert_eq!(*served.plugin.seen.lock().expect("no panic"), ["/hello", "/hello", "/uri"]);
}

#[tokio::test]
async fn the_rest_of_an_upload_that_was_answered_early_is_not_taken_for_a_request() {
    let served = serve(limits());
    let mut client = served.connect().await;
    let rest = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let length = 100_000 + rest.len();
    client.send(format!("POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")).await;
    assert_eq!(client.reply().await.text(), "held");
    served.control.drain();
    client.send("x".repeat(100_000)).await;
    client.send(rest).await;
    the_linger_passes().await;
    served.plugin.release.notify_one();
    soon("the upload", served.plugin.held_done.notified()).await;
    let held = served.plugin.held.lock().expect("no panic").take();
    assert_eq!(held.map(|read| read.map(|bytes| bytes.len())), Some(Ok(length)));
    assert_eq!(*served.plugin.seen.lock().expect("no panic"), ["/hold"]);
    assert!(client.get("/hello").await.closes());
}

#[tokio::test]
async fn a_slow_reader_gets_all_of_its_response() {
    let served = serve(limits());
    let mut client = served.connect().await;
    client.send("GET /big/30000000 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.head().await;
    served.control.drain();
    the_linger_passes().await;
    let mut got = 0;
    while let Some(chunk) = client.chunk().await {
        got += chunk.len();
    }
    assert_eq!(got, 30_000_000);
}

#[tokio::test]
async fn a_draining_server_leaves_new_connections_to_others() {
    let served = serve(limits());
    let mut held = served.connect().await;
    held.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await;
    soon("the handler", served.plugin.waiting.notified()).await;
    drain_is_seen(&served).await;
    let successor = super::serve_on(served.listener.try_clone().expect("a descriptor"), limits());
    for _ in 0..10 {
        assert_eq!(successor.connect().await.get("/hello").await.text(), "hello");
    }
    assert_eq!(served.requests(), 1);
    assert_eq!(successor.requests(), 10);
    served.plugin.release.notify_one();
    assert!(held.reply().await.closes());
}

/// Orders the drain and waits until the accept loop has obeyed: it has closed its listener by then.
async fn drain_is_seen(served: &super::Served) {
    served.control.drain();
    let patience = Instant::now() + super::PATIENCE;
    while !served.control.accepting_ended() {
        assert!(Instant::now() < patience, "the accept loop goes on");
        tokio::task::yield_now().await;
    }
}
