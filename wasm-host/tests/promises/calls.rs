//! Calls: bodies, failures, limits, reuse.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body::{Body, Frame};
use http_body_util::BodyExt;

use crate::{Probe, channel_body, get, request, settings};

#[tokio::test]
async fn hello_is_answered_with_its_headers() {
    let probe = Probe::new(&settings());
    probe.guest.warm().await.expect("starts");
    let response = probe.head("/h").await.expect("answers");
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-length"], "21");
    let body = response.into_body().collect().await.expect("whole body").to_bytes();
    assert_eq!(body, "Hello from the probe\n");
}

#[tokio::test]
async fn bodies_stream_both_ways_without_being_held() {
    let probe = Probe::new(&settings());
    let (frames, body) = channel_body();
    let mut response = probe.guest.handle(request("/e", body)).await.expect("answers before the body ends").into_body();
    for byte in 0..64_u8 {
        let chunk = Bytes::from(vec![byte; 3_000]);
        // The channel holds one frame: this goes on only because the response is read.
        frames.send(Frame::data(chunk.clone())).await.expect("the guest reads");
        let mut seen = Vec::new();
        while seen.len() < chunk.len() {
            let frame = response.frame().await.expect("more").expect("no failure");
            seen.extend_from_slice(&frame.into_data().expect("data"));
        }
        assert_eq!(seen, chunk);
    }
    let trailers = HeaderMap::from_iter([(HeaderName::from_static("x-sum"), HeaderValue::from_static("7"))]);
    frames.send(Frame::trailers(trailers.clone())).await.expect("the guest reads");
    drop(frames);
    let frame = response.frame().await.expect("trailers").expect("no failure");
    assert_eq!(frame.into_trailers().expect("trailers"), trailers);
    assert!(response.frame().await.is_none());
}

#[tokio::test]
async fn a_guest_is_held_back_by_a_client_that_does_not_read() {
    let probe = Probe::new(&settings());
    let (frames, body) = channel_body();
    let mut response = probe.guest.handle(request("/e", body)).await.expect("answers").into_body();
    let mut sent = 0;
    // Nobody polls the response: the guest takes a few chunks and then no more.
    while frames.try_send(Frame::data(Bytes::from(vec![0; 4_096]))).is_ok() {
        sent += 1;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(sent < 100, "unread chunks pile up");
    }
    drop(frames);
    let mut received = 0;
    while let Some(frame) = response.frame().await {
        received += frame.expect("no failure").into_data().map_or(0, |data| data.len());
    }
    assert_eq!(received, sent * 4_096);
}

#[tokio::test]
async fn a_trap_costs_its_own_request_only() {
    let probe = Probe::new(&settings());
    let failure = probe.ask("/t").await.expect_err("traps");
    assert_eq!(failure.status, 500);
    assert!(failure.reason.contains("unreachable"), "{}", failure.reason);
    assert_eq!(probe.ask("/h").await.as_deref(), Ok("Hello from the probe\n"));
}

#[tokio::test]
async fn a_trap_in_the_middle_is_an_error_of_the_body() {
    let probe = Probe::new(&settings());
    let mut body = probe.head("/T").await.expect("the head is set").into_body();
    let first = body.frame().await.expect("first").expect("written before the trap");
    assert_eq!(first.into_data().expect("data"), "Hello");
    let failure = body.frame().await.expect("not a clean end").expect_err("the trap");
    assert!(failure.reason.contains("unreachable"), "{}", failure.reason);
}

#[tokio::test]
async fn no_response_is_a_failure() {
    let probe = Probe::new(&settings());
    let failure = probe.ask("/n").await.expect_err("no response");
    assert_eq!((failure.status, failure.reason.contains("without setting")), (500, true), "{}", failure.reason);
    let failure = probe.ask("/x").await.expect_err("exits");
    assert!(failure.reason.contains("exit(1)"), "{}", failure.reason);
}

#[tokio::test]
async fn an_unfinished_body_ends_with_an_error() {
    for reuse in [1, 8] {
        let probe = Probe::new(&wasm_host::Settings { reuse: Some(reuse), ..settings() });
        let body = probe.head("/u").await.expect("the head is set").into_body();
        let collected = tokio::time::timeout(Duration::from_secs(5), body.collect()).await.expect("ends");
        // With reuse the instance lives on, and the end of the body would otherwise never come.
        assert!(reuse == 1 || collected.is_err());
    }
}

#[tokio::test]
async fn an_endless_loop_ends_at_its_limit() {
    let probe = Probe::new(&wasm_host::Settings { cpu_time: Duration::from_millis(100), ..settings() });
    let failure = probe.ask("/l").await.expect_err("ended");
    assert_eq!(failure.status, 504);
    assert!(failure.reason.contains("cpu_time"), "{}", failure.reason);
    assert_eq!(probe.ask("/h").await.as_deref(), Ok("Hello from the probe\n"));
}

#[tokio::test]
async fn an_endless_loop_holds_nobody_up() {
    let probe = Probe::new(&settings());
    let others = async {
        for _ in 0..10 {
            probe.ask("/h").await.expect("answers beside the loop");
        }
    };
    tokio::select! {
        looping = probe.ask("/l") => panic!("{looping:?} before the others were served"),
        () = others => {}
    }
}

#[tokio::test]
async fn a_loop_can_be_given_up_at_any_time() {
    let probe = Probe::new(&settings());
    let given_up = tokio::time::timeout(Duration::from_millis(50), probe.ask("/l")).await;
    assert!(given_up.is_err(), "the timer fires although the guest computes");
    assert_eq!(probe.ask("/h").await.as_deref(), Ok("Hello from the probe\n"));
}

#[tokio::test]
async fn waiting_is_not_computing() {
    let probe = Probe::new(&wasm_host::Settings { cpu_time: Duration::from_millis(20), ..settings() });
    for _ in 0..3 {
        assert_eq!(probe.ask("/s").await.as_deref(), Ok("Hello from the probe\n"));
    }
}

#[tokio::test]
async fn an_instance_serves_as_many_requests_as_configured() {
    let probe = Probe::new(&settings());
    for _ in 0..3 {
        assert_eq!(probe.ask("/c").await.as_deref(), Ok("1"), "every request gets an instance of its own");
    }
    let probe = Probe::new(&wasm_host::Settings { reuse: Some(3), ..settings() });
    let mut counts = Vec::new();
    for _ in 0..5 {
        counts.push(probe.ask("/c").await.expect("answers"));
    }
    assert_eq!(counts, ["1", "2", "3", "1", "2"]);
}

#[tokio::test]
async fn an_abandoned_instance_is_not_used_again() {
    let probe = Probe::new(&wasm_host::Settings { reuse: Some(100), ..settings() });
    assert_eq!(probe.ask("/c").await.as_deref(), Ok("1"));
    assert!(tokio::time::timeout(Duration::from_millis(5), probe.ask("/s")).await.is_err());
    assert_eq!(probe.ask("/c").await.as_deref(), Ok("1"), "a fresh one");
}

#[tokio::test]
async fn the_guest_goes_on_after_its_response() {
    let probe = Probe::new(&wasm_host::Settings { reuse: Some(100), ..settings() });
    // As a server does: it reads what content-length promises and drops the body; a HEAD has no body at all.
    let mut body = probe.head("/a").await.expect("answers").into_body();
    let frame = body.frame().await.expect("body").expect("no failure");
    assert_eq!(frame.into_data().expect("data").len(), 21);
    drop(body);
    let mut head = get("/a");
    *head.method_mut() = Method::HEAD;
    drop(probe.guest.handle(head).await.expect("answers"));
    while probe.lines().iter().filter(|line| *line == "one").count() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // The client of a body without a promised length is gone: its call ends.
    let (frames, body) = channel_body();
    drop(probe.guest.handle(request("/e", body)).await.expect("answers"));
    frames.closed().await;
}

#[tokio::test]
async fn many_at_once_wait_for_their_turn() {
    let probe = Probe::new(&settings());
    let calls = (0..250).map(|_| probe.ask("/s"));
    for answer in futures::future::join_all(calls).await {
        assert_eq!(answer.as_deref(), Ok("Hello from the probe\n"));
    }
}

#[tokio::test]
async fn requests_beyond_the_queue_are_refused() {
    let probe = Probe::new(&settings());
    let calls = (0..1_200).map(|_| probe.ask("/s"));
    let answers = futures::future::join_all(calls).await;
    let refused: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    assert_eq!(refused.len(), 100, "100 instances, 1,000 places in the queue");
    assert!(refused.iter().all(|failure| failure.status == 503));
}

#[tokio::test]
async fn a_body_that_is_complete_with_the_head_says_so() {
    let probe = Probe::new(&settings());
    let body = probe.head("/h").await.expect("answers").into_body();
    assert!(!body.is_end_stream());
    assert_eq!(body.collect().await.expect("whole").to_bytes().len(), 21);
}
