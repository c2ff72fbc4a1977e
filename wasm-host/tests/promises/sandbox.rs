//! What a guest may use: nothing by default, and what is granted.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use wasm_host::{Dir, Endpoint, PluginError, Settings, Variables};

use crate::{Probe, file_of, probe, settings};

#[tokio::test]
async fn everything_is_denied_by_default() {
    let probe = Probe::new(&settings());
    assert_eq!(probe.ask("/v").await.as_deref(), Ok("0"), "environment");
    assert_eq!(probe.ask("/g").await.as_deref(), Ok("-"), "configuration");
    assert_eq!(probe.ask("/d").await.as_deref(), Ok("0"), "directories");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    assert_eq!(probe.ask(&format!("/o?{address}")).await.as_deref(), Ok(DENIED), "network");
}

/// 'A' plus the place of `HTTP-request-denied` among the error codes of wasi:http 0.2.
const DENIED: &str = "P";
const CONNECTION_REFUSED: &str = "G";

#[tokio::test]
async fn what_is_granted_is_there() {
    let env = Variables::from([("A".into(), "1".into()), ("B".into(), "2".into())]);
    let dir = tempfile::tempdir().expect("directory");
    let dirs = vec![Dir { host: dir.path().to_owned(), guest: "/data".into(), writable: false }];
    let probe = Probe::configured(&Settings { dirs, ..settings() }, &env, &serde_json::json!({"key": {"a": [1, 2]}}));
    assert_eq!(probe.ask("/v").await.as_deref(), Ok("2"));
    assert_eq!(probe.ask("/g").await.as_deref(), Ok("{\"a\":[1,2]}"));
    assert_eq!(probe.ask("/d").await.as_deref(), Ok("1"));
}

#[tokio::test]
async fn a_missing_directory_fails_the_load() {
    let (manifest, compiled) = probe();
    let dirs = vec![Dir { host: "/nowhere/at/all".into(), guest: "/data".into(), writable: false }];
    let loaded = wasm_host::HttpGuest::load(
        file_of(compiled),
        manifest,
        &Settings { dirs, ..settings() },
        &Variables::new(),
        &serde_json::Value::Null,
        crate::surroundings(std::sync::Arc::new(|_, _| {})),
    );
    assert!(matches!(loaded.err(), Some(PluginError::Dir { .. })));
}

#[tokio::test]
async fn listed_peers_are_reached_and_only_they() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    let network = vec![Endpoint { host: "127.0.0.1".into(), port }, Endpoint { host: "localhost".into(), port }];
    let probe = Probe::new(&Settings { network, ..settings() });
    let server = tokio::spawn(async move {
        let mut requests = Vec::new();
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.expect("accept");
            let mut request = vec![0; 1_024];
            let length = stream.read(&mut request).await.expect("read");
            request.truncate(length);
            requests.push(String::from_utf8_lossy(&request).into_owned());
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("write");
        }
        requests
    });
    assert_eq!(probe.ask(&format!("/o?127.0.0.1:{port}")).await.as_deref(), Ok("R"));
    assert_eq!(probe.ask(&format!("/o?localhost:{port}")).await.as_deref(), Ok("R"));
    let requests = server.await.expect("server");
    assert!(requests[0].starts_with("GET / HTTP/1.1\r\n"), "{}", requests[0]);
    assert!(requests[0].contains(&format!("host: 127.0.0.1:{port}\r\n")), "{}", requests[0]);
    assert_eq!(probe.ask(&format!("/o?[::1]:{port}")).await.as_deref(), Ok(DENIED));
    assert_eq!(probe.ask("/o?127.0.0.1:1").await.as_deref(), Ok(DENIED));
    assert_eq!(probe.ask("/o?example.com").await.as_deref(), Ok(DENIED));
    assert_eq!(probe.ask(&format!("/o?127.0.0.1:{port}")).await.as_deref(), Ok(CONNECTION_REFUSED));
}

#[tokio::test]
async fn memory_beyond_the_limit_is_refused_to_the_guest() {
    let small = Probe::new(&Settings { memory: 32 << 20, ..settings() });
    assert_eq!(small.ask("/m").await.as_deref(), Ok("refused"));
    assert_eq!(small.ask("/h").await.as_deref(), Ok("Hello from the probe\n"));
    let large = Probe::new(&Settings { memory: 128 << 20, ..settings() });
    assert_eq!(large.ask("/m").await.as_deref(), Ok("granted"));
}

#[tokio::test]
async fn a_guest_that_cannot_start_is_found_before_the_first_request() {
    let starved = Probe::new(&Settings { memory: 64 << 10, ..settings() });
    let error = starved.guest.warm().await.expect_err("two pages are more than one");
    assert!(error.to_string().contains("memory"), "{error}");
}

#[tokio::test]
async fn output_comes_in_lines() {
    let probe = Probe::new(&settings());
    probe.ask("/p").await.expect("answers");
    tokio::time::timeout(Duration::from_secs(5), async {
        while probe.lines().len() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the remainder comes with the end of the instance");
    assert_eq!(probe.lines(), ["one", "two"]);
}
