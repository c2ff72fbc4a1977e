//! The host's side against plugins that were written with worker-sdk.

use std::fs;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Command;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use worker_sdk::abi;

use super::super::{BodyError, CallError, Identity, LoadError, NativeBody, NativeHttp, verify};
use super::{Frames, get, project, runtime};
use crate::sys::memfd;

/// Builds the plugins once a run.
fn library(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let directory = BUILT.get_or_init(|| {
        // Beside the main build, not in it: the outer cargo may hold that one's lock.
        let target = std::env::current_exe().expect("our own path").ancestors().nth(3).expect("target").join("plugins");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--release", "--locked", "--target-dir"]).arg(&target);
        for package in ["json-api", "misbehave", "proxy", "showcase"] {
            cargo.args(["-p", package]);
        }
        let output = cargo.current_dir(project()).output().expect("start cargo");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        target.join("release")
    });
    directory.join(format!("lib{name}.so"))
}

/// Loads a copy of its own: the same file would be the same library, with the same statics.
pub(super) fn load(name: &str, config: &Value) -> Result<NativeHttp, LoadError> {
    let bytes = fs::read(library(name)).expect("read the library");
    verify(&bytes).expect("a plugin");
    let mut file = memfd::create(name).expect("memfd");
    file.write_all(&bytes).expect("write");
    memfd::seal(&file).expect("seal");
    NativeHttp::load(file.as_fd(), config, Identity { service: "shop", worker: 12, slot: 1, generation: 4 })
}

fn plugin(name: &str) -> NativeHttp {
    load(name, &json!({})).expect("the plugin loads")
}

async fn text(plugin: NativeHttp, target: &str) -> String {
    let response = plugin.call(get(target), abi::Peer::UNKNOWN).await.expect("an answer");
    String::from_utf8(response.into_body().collect().await.expect("the body").to_bytes().to_vec()).expect("text")
}

#[test]
fn it_describes_itself() {
    let manifest = verify(&fs::read(library("showcase")).expect("read")).expect("a plugin");
    assert_eq!(manifest.name, "showcase");
    assert_eq!(manifest.version, env!("CARGO_PKG_VERSION"));
    assert!(!manifest.panic_aborts);
}

#[test]
fn a_panic_costs_its_request_and_nothing_else() {
    let plugin = plugin("misbehave");
    runtime().block_on(async {
        for target in ["/panic", "/panic-late", "/panic-payload"] {
            let outcome = plugin.call(get(target), abi::Peer::UNKNOWN).await;
            assert_eq!(outcome.err(), Some(CallError::Panicked), "{target}");
            assert_eq!(text(plugin, "/").await, "it behaves\n");
        }
        for (target, error) in [
            ("/panic-body", BodyError::Panicked),
            ("/fail-body", BodyError::Failed),
            ("/short", BodyError::TooShort(84)),
            ("/long", BodyError::TooLong(3)),
        ] {
            let response = plugin.call(get(target), abi::Peer::UNKNOWN).await.expect("a head");
            assert_eq!(response.into_body().collect().await.err(), Some(error), "{target}");
        }
    });
    assert_eq!(plugin.shutdown(), Ok(()));
}

#[test]
fn a_start_hook_may_refuse_or_panic() {
    let error = load("misbehave", &json!({ "start": "refuse" })).expect_err("it refuses");
    assert_eq!(error, LoadError::Refused("it does not want to".to_owned()));
    let error = load("misbehave", &json!({ "start": "panic" })).expect_err("it panics");
    assert_eq!(error, LoadError::Panicked);
    let LoadError::Refused(reason) = load("misbehave", &json!({ "strat": 1 })).expect_err("unknown key") else {
        panic!("it should refuse");
    };
    assert!(reason.contains("`strat`"), "{reason}");
}

#[test]
fn it_knows_its_worker_its_configuration_and_its_client() {
    let plugin = load("showcase", &json!({ "a": [1, "x"] })).expect("the plugin loads");
    runtime().block_on(async {
        let worker: Value = serde_json::from_str(&text(plugin, "/worker").await).expect("JSON");
        let expected =
            json!({ "service": "shop", "id": 12, "slot": 1, "generation": 4, "process": std::process::id() });
        assert_eq!(worker, expected);
        let config: Value = serde_json::from_str(&text(plugin, "/config").await).expect("JSON");
        assert_eq!(config, json!({ "a": [1, "x"] }));
        let mut address = [0; 16];
        address[15] = 1;
        let peer = abi::Peer { family: abi::PEER_IPV6, port: 4711, scope: 0, address };
        let response = plugin.call(get("/peer"), peer).await.expect("an answer");
        assert_eq!(response.into_body().collect().await.expect("the body").to_bytes(), "[::1]:4711");
        assert_eq!(text(plugin, "/peer").await, "unknown");
    });
}

#[test]
fn requests_arrive_as_they_were_sent() {
    let plugin = plugin("showcase");
    let mut request = Request::get("/headers/x?y=z&%20");
    for n in 0..60 {
        request = request.header(format!("x-{n}"), format!("value {n}"));
    }
    let request = request.header("x-empty", "").header("x-bytes", &b"\xff\x80"[..]).body(Full::new(Bytes::new()));
    runtime().block_on(async {
        let response = plugin.call(request.expect("a request"), abi::Peer::UNKNOWN).await.expect("an answer");
        let cookies: Vec<_> = response.headers().get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["a=1", "b=2"]);
        let body = response.into_body().collect().await.expect("the body").to_bytes();
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(body["target"], "/headers/x?y=z&%20");
        let headers = body["headers"].as_array().expect("headers");
        assert_eq!(headers.len(), 62);
        assert!(headers.contains(&json!(["x-59", "value 59"])));
        assert!(headers.contains(&json!(["x-empty", ""])));
    });
}

#[test]
fn bodies_of_any_size_and_trailers_pass_both_ways() {
    let plugin = plugin("showcase");
    runtime().block_on(async {
        let mut trailers = HeaderMap::new();
        trailers.append("x-sum", HeaderValue::from_static("1"));
        trailers.append("x-sum", HeaderValue::from_static("2"));
        let frames: Vec<_> = (0..200)
            .map(|n| Ok(Frame::data(Bytes::from(vec![n as u8; 1 + n * 37]))))
            .chain([Ok(Frame::trailers(trailers.clone()))])
            .collect();
        let request = Request::post("/echo").body(Frames(frames.into_iter())).expect("a request");
        let response = plugin.call(request, abi::Peer::UNKNOWN).await.expect("an answer");
        let collected = response.into_body().collect().await.expect("the body");
        assert_eq!(collected.trailers(), Some(&trailers));
        assert_eq!(collected.to_bytes().len(), (0..200).map(|n| 1 + n * 37).sum::<usize>());

        let chunk = Bytes::from(vec![3; 1 << 20]);
        let frames: Vec<_> = (0..64).map(|_| Ok(Frame::data(chunk.clone()))).collect();
        let request = Request::post("/count").body(Frames(frames.into_iter())).expect("a request");
        let response = plugin.call(request, abi::Peer::UNKNOWN).await.expect("an answer");
        let body = response.into_body().collect().await.expect("the body").to_bytes();
        assert_eq!(body, format!("{} bytes, sum {}\n", 64 << 20, 3_u64 << 26));

        let response = plugin.call(get("/bytes/1000000"), abi::Peer::UNKNOWN).await.expect("an answer");
        assert_eq!(response.body().size_hint().exact(), Some(1_000_000));
        let body = response.into_body().collect().await.expect("the body").to_bytes();
        assert!(body.iter().enumerate().all(|(n, byte)| usize::from(*byte) == n % 251));
        assert_eq!(text(plugin, "/chunks/250").await.lines().count(), 250);

        let response = plugin.call(get("/trailers"), abi::Peer::UNKNOWN).await.expect("an answer");
        let collected = response.into_body().collect().await.expect("the body");
        assert_eq!(collected.trailers().expect("trailers")["x-checksum"], "abc");
    });
}

#[test]
fn timers_of_the_sdk_wake_the_host_and_cancelling_drops_them() {
    let plugin = plugin("showcase");
    runtime().block_on(async {
        let calls: Vec<_> = (0..100)
            .map(|n| tokio::spawn(plugin.call(get(&format!("/sleep/{}", n % 7)), abi::Peer::UNKNOWN)))
            .collect();
        for call in calls {
            let response =
                tokio::time::timeout(Duration::from_secs(20), call).await.expect("in time").expect("no panic");
            assert_eq!(response.expect("an answer").status(), StatusCode::OK);
        }
        let mut bodies: Vec<NativeBody> = Vec::new();
        for _ in 0..5 {
            bodies.push(plugin.call(get("/ticks"), abi::Peer::UNKNOWN).await.expect("an answer").into_body());
        }
        for body in &mut bodies {
            assert!(body.frame().await.expect("a frame").is_ok());
            // Waiting for its next tick when it is dropped.
            assert!(matches!(Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop())), Poll::Pending));
        }
        assert_eq!(text(plugin, "/open").await, "5");
        assert_eq!(plugin.shutdown(), Err(5));
        drop(bodies);
        assert_eq!(text(plugin, "/open").await, "0");
    });
    assert_eq!(plugin.shutdown(), Ok(()));
    assert_eq!(plugin.shutdown(), Ok(()), "the second time nothing is called");
}
