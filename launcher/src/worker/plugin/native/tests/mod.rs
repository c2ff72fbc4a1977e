//! The host's side against plugins in C, compiled by the tests: a good one and one that breaks the contract.

mod files;
mod own_tokio;
mod sdk;

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Empty, Full};
use worker_sdk::abi;

use super::{BodyError, CallError, Identity, LoadError, NativeBody, NativeHttp};

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the project's directory")
}

/// Compiles C into a library in `directory`.
fn compile(directory: &Path, source: &Path, flags: &[&str]) -> PathBuf {
    let library = directory.join("plugin.so");
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(project().join("worker-sdk/include"))
        .arg(source)
        .arg("-o")
        .arg(&library)
        .arg("-lpthread")
        .args(flags)
        .output()
        .expect("cc is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    library
}

fn source(name: &str) -> PathBuf {
    match name {
        "hello" => project().join("plugins/hello-c/hello.c"),
        name => Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/worker/plugin/native/tests/{name}.c")),
    }
}

fn load(name: &str, config: &serde_json::Value) -> Result<NativeHttp, LoadError> {
    let directory = tempfile::tempdir().expect("make a directory");
    let library = compile(directory.path(), &source(name), &[]);
    let library = std::fs::File::open(library).expect("open the library");
    let identity = Identity { service: "test", worker: 7, slot: 1, generation: 3 };
    NativeHttp::load(library.as_fd(), config, identity)
}

fn plugin(name: &str) -> NativeHttp {
    load(name, &serde_json::json!({})).expect("the plugin loads")
}

fn get(target: &str) -> Request<Empty<Bytes>> {
    Request::get(target).body(Empty::new()).expect("a request")
}

type Answer = Result<http::Response<NativeBody>, CallError>;

/// Polls once; the plugin is expected to be ready.
fn at_once<B>(plugin: NativeHttp, request: Request<B>) -> Answer
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    let mut call = plugin.call(request, abi::Peer::UNKNOWN);
    match Pin::new(&mut call).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("it waits"),
    }
}

fn alive(plugin: NativeHttp) -> String {
    let response = at_once(plugin, get("/alive")).expect("the count");
    String::from_utf8(drain(response.into_body()).expect("the body").0).expect("text")
}

fn drain(mut body: NativeBody) -> Result<(Vec<u8>, HeaderMap), BodyError> {
    let (mut bytes, mut trailers) = (Vec::new(), HeaderMap::new());
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match Pin::new(&mut body).poll_frame(&mut context) {
            Poll::Pending => panic!("the body waits"),
            Poll::Ready(None) => return Ok((bytes, trailers)),
            Poll::Ready(Some(frame)) => match frame?.into_data() {
                Ok(data) => bytes.extend_from_slice(&data),
                Err(frame) => trailers.extend(frame.into_trailers().expect("data or trailers")),
            },
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

#[test]
fn a_synchronous_handler_is_ready_at_the_first_poll() {
    let plugin = plugin("hello");
    let response = at_once(plugin, get("/")).expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
    assert_eq!(drain(response.into_body()).expect("the body").0, b"Hello from C!\n");
    assert_eq!(at_once(plugin, get("/nothing")).expect("an answer").status(), StatusCode::NOT_FOUND);
}

#[test]
fn a_stream_from_a_buffer_of_its_own_is_copied_between_polls() {
    let response = at_once(plugin("hello"), get("/count")).expect("an answer");
    assert_eq!(response.body().size_hint().exact(), Some(70));
    let body = String::from_utf8(drain(response.into_body()).expect("the body").0).expect("text");
    assert_eq!(body, (0..10).map(|n| format!("line {n}\n")).collect::<String>());
}

#[test]
fn a_thread_of_the_plugin_completes_a_request() {
    let plugin = plugin("hello");
    let calls: Vec<_> = (0..50).map(|_| plugin.call(get("/later"), abi::Peer::UNKNOWN)).collect();
    runtime().block_on(async {
        let tasks: Vec<_> = calls.into_iter().map(|call| tokio::spawn(call)).collect();
        for task in tasks {
            let answer = tokio::time::timeout(Duration::from_secs(20), task).await.expect("in time");
            let body = answer.expect("no panic").expect("an answer").into_body();
            assert_eq!(body.collect().await.expect("the body").to_bytes(), "It took a while.\n");
        }
    });
    assert_eq!(plugin.shutdown(), Ok(()));
}

#[test]
fn a_dropped_call_is_cancelled_and_its_late_waker_is_harmless() {
    let plugin = plugin("hello");
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let mut call = plugin.call(get("/later"), abi::Peer::UNKNOWN);
            let mut context = Context::from_waker(Waker::noop());
            assert!(Pin::new(&mut call).poll(&mut context).is_pending());
            call
        })
        .collect();
    assert_eq!(plugin.shutdown(), Err(20), "drop must come last");
    drop(waiting);
    assert_eq!(plugin.shutdown(), Ok(()));
}

#[test]
fn bodies_and_trailers_pass_both_ways() {
    let plugin = plugin("hello");
    let frames = (0..100).map(|n| Ok(Frame::data(Bytes::from(vec![n; 1000]))));
    let mut trailers = HeaderMap::new();
    trailers.insert("x-mine", http::HeaderValue::from_static("1"));
    let frames: Vec<_> = frames.chain([Ok(Frame::trailers(trailers))]).collect();
    let body = Frames(frames.into_iter());
    let request = Request::post("/echo").body(body).expect("a request");
    let response = at_once(plugin, request).expect("an answer");
    let (bytes, trailers) = drain(response.into_body()).expect("the body");
    assert_eq!(bytes.len(), 100_000);
    assert_eq!(bytes[99_999], 99);
    assert_eq!(trailers["x-echo"], "complete");
    assert!(!trailers.contains_key("x-mine"));
    assert_eq!(plugin.shutdown(), Ok(()));
}

/// A body of these frames.
struct Frames(std::vec::IntoIter<std::io::Result<Frame<Bytes>>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        Poll::Ready(self.0.next())
    }
}

#[test]
fn a_request_body_that_fails_cuts_the_response_off() {
    let frames = vec![Ok(Frame::data(Bytes::from_static(b"x"))), Err(std::io::Error::other("gone"))];
    let request = Request::post("/echo").body(Frames(frames.into_iter())).expect("a request");
    let response = at_once(plugin("hello"), request).expect("an answer");
    assert_eq!(drain(response.into_body()), Err(BodyError::Failed));
}

#[test]
fn a_body_that_nobody_takes_is_dropped() {
    let plugin = plugin("hello");
    let body = Full::new(Bytes::from_static(b"unread"));
    let request = Request::builder().method(Method::POST).uri("/").body(body).expect("a request");
    assert!(at_once(plugin, request).is_ok());
}

#[test]
fn broken_responses_are_errors_and_everything_is_released_once() {
    let plugin = plugin("hostile");
    let mut expected = vec![
        ("/status-0", CallError::Status(0)),
        ("/status-100", CallError::Status(100)),
        ("/status-70000", CallError::Status(70000)),
        ("/split", CallError::Header("x".to_owned())),
        ("/bad-name", CallError::Header("no spaces allowed".to_owned())),
        ("/null-value", CallError::Pointer("headers")),
        ("/null-headers", CallError::Pointer("headers")),
        ("/many-headers", CallError::Pointer("headers")),
        ("/null-bytes", CallError::Pointer("body")),
        ("/huge-bytes", CallError::Pointer("body")),
        ("/length", CallError::Length { declared: "5".to_owned(), actual: 10 }),
        ("/error", CallError::Failed),
        ("/panic", CallError::Panicked),
        ("/code", CallError::Code(4711)),
        ("/no-call", CallError::NoCall),
        ("/error-with-call", CallError::Failed),
    ];
    for (target, error) in expected.drain(..) {
        assert_eq!(at_once(plugin, get(target)).err(), Some(error), "{target}");
        assert_eq!(alive(plugin), "0", "{target}");
    }
}

#[test]
fn broken_bodies_are_cut_off_and_everything_is_released_once() {
    let plugin = plugin("hostile");
    let expected = [
        ("/too-long", BodyError::TooLong(25)),
        ("/too-short", BodyError::TooShort(25)),
        ("/null-chunk", BodyError::Pointer),
        ("/bad-trailer", BodyError::Trailer("bad name".to_owned())),
        ("/body-code", BodyError::Code(77)),
    ];
    for (target, error) in expected {
        let response = at_once(plugin, get(target)).expect("a head");
        assert_eq!(drain(response.into_body()), Err(error), "{target}");
        assert_eq!(alive(plugin), "0", "{target}");
    }
}

#[test]
fn what_is_left_half_done_is_released_once() {
    let plugin = plugin("hostile");
    // A call that came with READY; a body that is not read to its end; a call that is never done.
    let response = at_once(plugin, get("/ready-with-call")).expect("an answer");
    let mut body = response.into_body();
    let frame = Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(frame, Poll::Ready(Some(Ok(_)))));
    drop(body);
    assert_eq!(alive(plugin), "0");

    let mut call = plugin.call(get("/never"), abi::Peer::UNKNOWN);
    assert!(Pin::new(&mut call).poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert!(Pin::new(&mut call).poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(call);
    assert_eq!(alive(plugin), "0");
}

#[test]
fn headers_that_belong_to_the_connection_are_left_out() {
    let response = at_once(plugin("hostile"), get("/framing")).expect("an answer");
    assert!(response.headers().is_empty(), "{:?}", response.headers());
    assert_eq!(drain(response.into_body()).expect("the body").0, b"0123456789");
}

#[test]
fn a_refusal_to_start_gives_the_plugins_reason() {
    let error = load("hostile", &serde_json::json!({ "why": "no licence" })).expect_err("it refuses");
    assert_eq!(error, LoadError::Refused(r#"{"why":"no licence"}"#.to_owned()));
}
