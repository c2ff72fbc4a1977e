//! HTTP/1.1 itself: framing, keep-alive, HEAD, Expect, trailers, HTTP/1.0, targets and Host.

use tokio::io::AsyncWriteExt;

use super::{limits, serve, soon};

const HOST: &str = "Host: example.com\r\n";

#[tokio::test]
async fn a_connection_is_kept_and_counted() {
    let served = serve(limits());
    let mut client = served.connect().await;
    for _ in 0..3 {
        let reply = client.get("/hello").await;
        assert_eq!((reply.status, reply.text(), reply.closes()), (200, "hello", false));
        assert!(reply.header("date").is_some());
        assert_eq!(reply.header("content-length"), Some("5"));
    }
    assert_eq!(served.requests(), 3);
    assert_eq!(served.counters.accepted.load(std::sync::atomic::Ordering::Relaxed), 1);
    assert_eq!(served.counters.open.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let served = serve(limits());
    let mut client = served.connect().await;
    let mut all = String::new();
    for path in ["/slow/20", "/hello", "/uri", "/hello"] {
        all += &format!("GET {path} HTTP/1.1\r\n{HOST}\r\n");
    }
    client.send(all).await;
    let mut texts = Vec::new();
    for _ in 0..4 {
        texts.push(client.reply().await.text().split(' ').next().map(str::to_owned));
    }
    let expected = ["slow", "hello", "http://example.com/uri", "hello"].map(|text| Some(text.to_owned()));
    assert_eq!(texts, expected);
}

#[tokio::test]
async fn a_stream_flows_while_the_next_request_waits() {
    let served = serve(limits());
    let mut client = served.connect().await;
    client.send(format!("GET /stream HTTP/1.1\r\n{HOST}\r\nGET /hello HTTP/1.1\r\n{HOST}\r\n")).await;
    assert_eq!(client.head().await.status, 200);
    let feed = served.plugin.feed.lock().expect("no panic").take().expect("the handler ran");
    for part in ["one", "two"] {
        feed.send(part.into()).expect("the body is alive");
        assert_eq!(client.chunk().await.as_deref(), Some(part.as_bytes()));
    }
    drop(feed);
    assert_eq!(client.chunk().await, None);
    assert_eq!(client.line().await, "");
    assert_eq!(client.reply().await.text(), "hello");
}

#[tokio::test]
async fn uploads_arrive_by_length_and_by_chunks() {
    let served = serve(limits());
    let mut client = served.connect().await;
    client.send(format!("POST /echo HTTP/1.1\r\n{HOST}Content-Length: 5\r\n\r\nhe")).await;
    client.send("llo").await;
    assert_eq!(client.reply().await.text(), "hello");
    client.send(format!("POST /echo HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n")).await;
    client.send("3\r\nllo\r\n0\r\n\r\n").await;
    assert_eq!(client.reply().await.text(), "hello");
    assert_eq!(client.get("/hello").await.text(), "hello");
}

#[tokio::test]
async fn a_large_upload_passes_through() {
    let served = serve(limits());
    let mut client = served.connect().await;
    let length = 8 << 20;
    client.send(format!("POST /length HTTP/1.1\r\n{HOST}Content-Length: {length}\r\n\r\n")).await;
    client.send(vec![b'x'; length]).await;
    assert_eq!(client.reply().await.text(), length.to_string());
}

#[tokio::test]
async fn a_large_response_is_not_collected_in_memory() {
    let served = serve(limits());
    let mut client = served.connect().await;
    let length = 64 << 20;
    client.send(format!("GET /big/{length} HTTP/1.1\r\n{HOST}\r\n")).await;
    client.head().await;
    let produced = served.plugin.produced.load(std::sync::atomic::Ordering::Relaxed);
    assert!(produced < length / 2, "{produced} bytes were taken from the plugin before the client read any");
    let mut got = 0;
    while let Some(chunk) = client.chunk().await {
        got += chunk.len() as u64;
    }
    assert_eq!(got, length);
}

#[tokio::test]
async fn a_body_that_nobody_reads_costs_no_connection() {
    let served = serve(limits());
    let mut client = served.connect().await;
    for round in 0..20 {
        // The answer is there before the body is.
        client.send("POST /hello HTTP/1.1\r\nhost: x\r\ncontent-length: 300000\r\n\r\n").await;
        let reply = client.reply().await;
        assert!(reply.text() == "hello" && !reply.closes(), "round {round}: {reply:?}");
        client.send(vec![b'x'; 300_000]).await;
        client.send("POST /hello HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").await;
        assert_eq!(client.reply().await.text(), "hello", "round {round}");
        for part in ["5\r\n12345\r\n", "3\r\nabc\r\n0\r\n", "\r\n"] {
            client.send(part).await;
        }
    }
    assert_eq!(client.get("/hello").await.text(), "hello");
    assert_eq!(served.requests(), 41);
}

#[tokio::test]
async fn a_body_is_not_read_for_nobody_without_end() {
    let served = serve(limits());
    let mut client = served.connect().await;
    client.send("POST /hello HTTP/1.1\r\nhost: x\r\ncontent-length: 1048577\r\n\r\n").await;
    let reply = client.reply().await;
    assert!(reply.text() == "hello" && reply.closes(), "what was announced is too long: {reply:?}");
    client.assert_closed().await;

    let mut client = served.connect().await;
    client.send("POST /hello HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").await;
    assert_eq!(client.reply().await.text(), "hello");
    let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
    for _ in 0..17 {
        client.send(&chunk).await;
    }
    client.assert_closed().await;
}

#[tokio::test]
async fn a_client_that_expects_100_is_told_to_go_on_only_if_the_body_is_wanted() {
    let served = serve(limits());
    let mut client = served.connect().await;
    let head = |path| format!("POST {path} HTTP/1.1\r\n{HOST}Content-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    client.send(head("/length")).await;
    assert_eq!(client.reply().await.status, 100);
    client.send("hello").await;
    assert_eq!(client.reply().await.text(), "5");
    client.send(head("/hello")).await;
    assert_eq!(client.reply().await.text(), "hello");
}

#[tokio::test]
async fn head_has_the_length_and_no_body() {
    let served = serve(limits());
    let mut client = served.connect().await;
    for path in ["/hello", "/fail/500"] {
        client.send(format!("HEAD {path} HTTP/1.1\r\n{HOST}\r\n")).await;
        let reply = client.reply_to("HEAD").await;
        assert!(reply.header("content-length").is_some_and(|length| length != "0"), "{reply:?}");
    }
    client.send(format!("HEAD /big/100000 HTTP/1.1\r\n{HOST}\r\n")).await;
    assert_eq!(client.reply_to("HEAD").await.header("transfer-encoding"), None);
    assert_eq!(client.get("/hello").await.text(), "hello");
}

#[tokio::test]
async fn trailers_pass_in_both_directions() {
    let served = serve(limits());
    let mut client = served.connect().await;
    client.send(format!("GET /trailers HTTP/1.1\r\n{HOST}TE: trailers\r\n\r\n")).await;
    assert_eq!(client.reply().await.trailers, [("x-sum".to_owned(), "42".to_owned())]);
    client.send(format!("GET /trailers HTTP/1.1\r\n{HOST}\r\n")).await;
    assert_eq!(client.reply().await.trailers, [], "a client that did not ask for trailers gets none");
    client
        .send(format!(
            "POST /echo HTTP/1.1\r\n{HOST}TE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n\
             5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n"
        ))
        .await;
    let reply = client.reply().await;
    assert_eq!(reply.text(), "hello");
    assert_eq!(reply.trailers, [("x-sum".to_owned(), "7".to_owned())]);
}

#[tokio::test]
async fn http_1_0_is_spoken() {
    let served = serve(limits());
    let mut client = served.connect().await;
    client.send("GET /uri HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
    let reply = client.reply().await;
    assert!(reply.text().starts_with(&format!("http://{}/uri front 127.0.0.1:", served.address)), "{reply:?}");
    client.send("GET /big/100000 HTTP/1.0\r\n\r\n").await;
    let reply = client.reply().await;
    assert_eq!((reply.header("transfer-encoding"), reply.body.len()), (None, 100_000));
    client.assert_closed().await;
}

#[tokio::test]
async fn the_target_becomes_an_absolute_uri() {
    let served = serve(limits());
    let mut client = served.connect().await;
    let mut uri = async |target: &str, host: &str| {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        let reply = client.reply().await;
        assert_eq!(reply.status, 200, "{target} {host}");
        reply.text().split(' ').next().unwrap_or_default().to_owned()
    };
    assert_eq!(uri("/uri?a=b", "example.com:8080").await, "http://example.com:8080/uri?a=b");
    assert_eq!(uri("/uri", "[::1]:80").await, "http://[::1]:80/uri");
    assert_eq!(uri("http://other/uri", "example.com").await, "http://other/uri");
    assert_eq!(uri("/uri", "").await, format!("http://{}/uri", served.address));
}

#[tokio::test]
async fn requests_that_cannot_be_meant_are_refused_and_the_plugin_never_sees_them() {
    let served = serve(limits());
    for (request, status) in [
        ("GET /hello HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET /hello HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(), 400),
        ("GET /hello HTTP/1.1\r\nHost: user@host\r\n\r\n".to_owned(), 400),
        ("GET /hello HTTP/1.1\r\nHost: a/b\r\n\r\n".to_owned(), 400),
        ("GET /hello HTTP/1.1\r\nHost: a:b:c\r\n\r\n".to_owned(), 400),
        (format!("CONNECT a:443 HTTP/1.1\r\n{HOST}\r\n"), 501),
        ("GARBAGE\r\n\r\n".to_owned(), 400),
        (format!("GET /hello HTTP/1.1\r\n{HOST}X: {}\r\n\r\n", "x".repeat(100_000)), 431),
        (format!("GET /hello HTTP/1.1\r\n{HOST}{}\r\n", "X: y\r\n".repeat(101)), 431),
        (format!("POST /hello HTTP/1.1\r\n{HOST}Transfer-Encoding: gzip\r\n\r\n"), 400),
        (format!("POST /hello HTTP/1.1\r\n{HOST}Content-Length: 5, 6\r\n\r\n"), 400),
    ] {
        let mut client = served.connect().await;
        client.send(&request).await;
        assert_eq!(client.reply().await.status, status, "{request:.60}");
    }
    assert_eq!(served.plugin.seen.lock().expect("no panic").len(), 0);
}

#[tokio::test]
async fn close_is_obeyed_from_both_sides() {
    let served = serve(limits());
    let mut client = served.connect().await;
    client.send(format!("GET /hello HTTP/1.1\r\n{HOST}Connection: close\r\n\r\n")).await;
    assert!(client.reply().await.closes());
    client.assert_closed().await;
    let mut client = served.connect().await;
    let reply = client.get("/close").await;
    assert_eq!((reply.text(), reply.closes(), reply.header("transfer-encoding")), ("bye", true, None));
    client.assert_closed().await;
}

#[tokio::test]
async fn a_client_that_closed_its_sending_half_gets_its_response() {
    let served = serve(limits());
    for path in ["/hello", "/slow/100", "/big/20000000"] {
        let mut client = served.connect().await;
        client.send(format!("GET {path} HTTP/1.1\r\n{HOST}\r\n")).await;
        client.stream.shutdown().await.expect("an open connection");
        assert_eq!(client.reply().await.status, 200, "{path}");
        client.assert_closed().await;
    }
}

#[tokio::test]
async fn a_unix_socket_is_served() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("a free path");
    let named = crate::channel::Listener {
        name: "front".into(),
        address: format!("unix:{}", path.display()),
        proxy_protocol: false,
        kind: crate::channel::SocketKind::Unix,
        nodelay: None,
    };
    let (server, control) = super::Server::new(
        std::sync::Arc::default(),
        limits(),
        vec![(named, listener.into())],
        super::Counters::unshared(),
        std::sync::Arc::new(|_| {}),
        None,
    )
    .map(|(server, control): (super::Server<super::toy::Toy>, _)| (server, control))
    .expect("a listening socket");
    let done = tokio::spawn(server.serve());
    let mut client = tokio::net::UnixStream::connect(&path).await.expect("the listener is open");
    client.write_all(b"GET /uri HTTP/1.0\r\n\r\n").await.expect("an open connection");
    let mut reply = String::new();
    soon("a reply", tokio::io::AsyncReadExt::read_to_string(&mut client, &mut reply)).await.expect("text");
    assert!(reply.ends_with("http://localhost/uri front a unix client"), "{reply}");
    control.drain();
    soon("the drain", done).await.expect("no panic");
}
