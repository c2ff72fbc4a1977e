//! What a plugin or a client does wrong, and what the other side sees of it.

use super::{limits, serve, soon};

#[tokio::test]
async fn a_failure_is_answered_without_its_reason_and_reported_with_it() {
    let served = serve(limits());
    let mut client = served.connect().await;
    for (asked, status) in [(500, 500), (503, 503), (200, 500), (0, 500)] {
        let reply = client.get(&format!("/fail/{asked}")).await;
        assert_eq!((reply.status, reply.closes()), (status, false));
        assert!(!reply.text().contains("secret"), "{reply:?}");
    }
    assert!(served.told("GET /fail/503 HTTP/1.1 from 127.0.0.1:"), "{:?}", served.events());
    assert!(served.told("answered with 503: the secret reason"), "{:?}", served.events());
}

#[tokio::test]
async fn a_head_that_cannot_be_sent_is_a_500() {
    let served = serve(limits());
    let mut client = served.connect().await;
    for path in ["/status/101", "/status/100", "/wrong-length"] {
        assert_eq!(client.get(path).await.status, 500, "{path}");
    }
    assert_eq!(client.get("/status/204").await.header("content-length"), None);
    assert_eq!(client.get("/hello").await.text(), "hello");
    assert!(served.told("Content-Length 3 for a body of 5 bytes"), "{:?}", served.events());
}

#[tokio::test]
async fn a_panic_costs_its_connection_only() {
    let served = serve(limits());
    let mut client = served.connect().await;
    client.send("GET /panic HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.fill_to_end().await;
    assert_eq!(served.connect().await.get("/hello").await.text(), "hello");
}

#[tokio::test]
async fn a_response_that_is_not_whole_does_not_look_whole() {
    let served = serve(limits());

    let mut client = served.connect().await;
    client.send("GET /short HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let reply = client.head().await;
    assert_eq!(reply.header("content-length"), Some("10"));
    client.fill_to_end().await;
    assert_eq!(client.read, b"hello");
    assert!(served.told("ended 5 bytes before its Content-Length"), "{:?}", served.events());

    let mut client = served.connect().await;
    client.send("GET /break HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.head().await.header("transfer-encoding"), Some("chunked"));
    assert_eq!(client.chunk().await.as_deref(), Some(&b"hello"[..]), "what was sent before the failure arrives");
    client.fill_to_end().await;
    assert_eq!(client.read, b"", "no last chunk");
    assert!(served.told("response to GET /break HTTP/1.1 from 127.0.0.1:"), "{:?}", served.events());
    assert!(served.told("a pipe burst"), "{:?}", served.events());

    let mut client = served.connect().await;
    client.send("GET /break HTTP/1.0\r\n\r\n").await;
    assert!(!client.fill_to_end().await, "the end of an HTTP/1.0 response is a close: only a reset says otherwise");
}

#[tokio::test]
async fn a_client_that_goes_cancels_the_plugin() {
    let served = serve(limits());
    for reset in [false, true] {
        let mut client = served.connect().await;
        client.send("GET /never HTTP/1.1\r\nHost: a\r\n\r\n").await;
        soon("the handler", served.plugin.waiting.notified()).await;
        if reset {
            client.stream.set_zero_linger().expect("an open connection");
        }
        drop(client);
        soon("the cancellation", served.plugin.cancelled.notified()).await;
    }
}

#[tokio::test]
async fn an_upload_that_is_cut_ends_its_handler() {
    let served = serve(limits());
    // One reads the upload, the other does not.
    for path in ["/drink", "/never"] {
        let mut client = served.connect().await;
        let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello");
        client.send(head).await;
        soon("the handler", served.plugin.waiting.notified()).await;
        drop(client);
        soon("the cancellation", served.plugin.cancelled.notified()).await;
    }
}

#[tokio::test]
async fn an_upload_that_nobody_reads_does_not_cost_the_response() {
    let served = serve(limits());
    let mut client = served.connect().await;
    let length = 4 << 20;
    client.send(format!("POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")).await;
    client.send(vec![b'x'; length]).await; // fails if the server resets the connection
    assert_eq!(client.reply().await.text(), "hello");
    client.assert_closed().await;
}

#[tokio::test]
async fn a_small_body_that_nobody_reads_is_skipped() {
    let served = serve(limits());
    let mut client = served.connect().await;
    client.send("POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 27\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n!").await;
    assert_eq!(client.reply().await.text(), "hello");
    assert_eq!(client.get("/uri").await.status, 200);
    assert_eq!(*served.plugin.seen.lock().expect("no panic"), ["/hello", "/uri"]);
}
