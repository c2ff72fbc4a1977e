//! Plugins that bring a tokio of their own: its timers and sockets wake the worker's task across the border.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::task::{Context, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use worker_sdk::abi;

use super::sdk::load;
use super::{get, runtime};

/// Answers one connection with `reply` (nothing: it stays silent) and gives what it received.
fn upstream(reply: &'static str) -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
        let mut received = Vec::new();
        let mut chunk = [0; 1024];
        // A silent one waits for the client's leaving.
        while reply.is_empty() || !received.ends_with(b"0\r\n\r\n") {
            match stream.read(&mut chunk).expect("the request") {
                0 => break,
                read => received.extend_from_slice(&chunk[..read]),
            }
        }
        stream.write_all(reply.as_bytes()).expect("the reply");
        String::from_utf8(received).expect("text")
    });
    (address, thread)
}

#[test]
fn a_handler_calls_out_on_sockets_of_its_own() {
    let (address, thread) = upstream("HTTP/1.1 203 Fine\r\nx-up: yes\r\ncontent-length: 5\r\n\r\nhello");
    let plugin = load("proxy", &json!({ "upstream": address.to_string() })).expect("the plugin loads");
    runtime().block_on(async {
        // A body of unknown length, so that it travels in chunks.
        let body = super::Frames(vec![Ok(http_body::Frame::data(Bytes::from_static(b"question")))].into_iter());
        let request = Request::post("/path?q").header("host", "front").body(body).expect("a request");
        let mut address = [0; 16];
        address[..4].copy_from_slice(&[192, 0, 2, 1]);
        let peer = abi::Peer { family: abi::PEER_IPV4, port: 99, scope: 0, address };
        let response = plugin.call(request, peer).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::NON_AUTHORITATIVE_INFORMATION);
        assert_eq!(response.headers()["x-up"], "yes");
        assert_eq!(response.into_body().collect().await.expect("the body").to_bytes(), "hello");
    });
    let received = thread.join().expect("the upstream");
    assert!(received.starts_with("POST /path?q HTTP/1.1\r\n"), "{received}");
    assert!(received.contains("forwarded: for=\"192.0.2.1:99\"") && received.contains("question"), "{received}");
    assert_eq!(plugin.shutdown(), Ok(()));
}

#[test]
fn a_timer_of_its_own_ends_a_wait() {
    let (address, thread) = upstream("");
    let config = json!({ "upstream": address.to_string(), "timeout": 50 });
    let plugin = load("proxy", &config).expect("the plugin loads");
    let status =
        runtime().block_on(async { plugin.call(get("/"), abi::Peer::UNKNOWN).await.expect("an answer").status() });
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
    // The wait was given up, and with it the connection.
    assert!(thread.join().expect("the upstream").starts_with("GET / HTTP/1.1\r\n"));
}

#[test]
fn a_dropped_call_drops_its_sockets() {
    let (address, thread) = upstream("");
    let plugin = load("proxy", &json!({ "upstream": address.to_string() })).expect("the plugin loads");
    let mut call = plugin.call(get("/"), abi::Peer::UNKNOWN);
    assert!(Pin::new(&mut call).poll(&mut Context::from_waker(Waker::noop())).is_pending());
    // The client has left before the upstream answers.
    drop(call);
    assert_eq!(plugin.shutdown(), Ok(()), "drop waits for the plugin's tasks to end");
    drop(thread);
}

#[test]
fn handlers_share_state_and_a_task() {
    let plugin = load("json_api", &json!({ "keep": 60, "most": 2 })).expect("the plugin loads");
    runtime().block_on(async {
        let post = |text: &'static str| {
            let body = Full::new(Bytes::from_static(text.as_bytes()));
            plugin.call(Request::post("/orders").body(body).expect("a request"), abi::Peer::UNKNOWN)
        };
        let response = post(r#"{"item":"tea","count":2}"#).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::CREATED);
        let placed = response.into_body().collect().await.expect("the body").to_bytes();
        assert_eq!(serde_json::from_slice::<Value>(&placed).expect("JSON"), json!({ "id": 1, "worker": 12 }));
        assert_eq!(post("{").await.expect("an answer").status(), StatusCode::BAD_REQUEST);
        assert_eq!(post(r#"{"item":"milk"}"#).await.expect("an answer").status(), StatusCode::CREATED);
        assert_eq!(
            post(r#"{"item":"one too many"}"#).await.expect("an answer").status(),
            StatusCode::SERVICE_UNAVAILABLE
        );
        let order = plugin.call(get("/orders/1"), abi::Peer::UNKNOWN).await.expect("an answer");
        let order = order.into_body().collect().await.expect("the body").to_bytes();
        assert_eq!(serde_json::from_slice::<Value>(&order).expect("JSON"), json!({ "item": "tea", "count": 2 }));
        assert_eq!(
            plugin.call(get("/orders/9"), abi::Peer::UNKNOWN).await.expect("an answer").status(),
            StatusCode::NOT_FOUND
        );
    });
    assert_eq!(plugin.shutdown(), Ok(()));
}
