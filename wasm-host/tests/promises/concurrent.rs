//! Calls of `wasi:http/handler@0.3`: several at once in an instance.

use std::sync::OnceLock;
use std::time::Duration;

use http_body_util::BodyExt;
use wasm_host::{Manifest, Purpose, Settings, Variables, World, compile};

use crate::{Probe, component, settings};

fn async_probe() -> &'static (Manifest, Vec<u8>) {
    static PROBE: OnceLock<(Manifest, Vec<u8>)> = OnceLock::new();
    PROBE.get_or_init(|| {
        compile(&component(include_str!("../async_probe.wat"), "async-probe"), Purpose::Production)
            .expect("the probe compiles")
    })
}

fn load(settings: &Settings) -> Probe {
    Probe::of(async_probe(), settings, &Variables::new(), &serde_json::Value::Null)
}

const HELLO: Result<&str, &wasm_host::CallFailure> = Ok("Hello from afar\n");

#[tokio::test]
async fn hello_is_answered() {
    let (manifest, _) = async_probe();
    assert_eq!((manifest.world, manifest.concurrency), (World::Http03, true));
    let probe = load(&settings());
    probe.guest.warm().await.expect("starts");
    assert_eq!(probe.ask("/h").await.as_deref(), HELLO);
}

#[tokio::test]
async fn an_instance_serves_many_unless_told_otherwise() {
    let probe = load(&settings());
    probe.guest.warm().await.expect("starts");
    let mut counts = Vec::new();
    for _ in 0..3 {
        counts.push(probe.ask("/c").await.expect("answers"));
    }
    assert_eq!(counts, ["1", "2", "3"]);
    let probe = load(&Settings { reuse: Some(1), ..settings() });
    for _ in 0..3 {
        assert_eq!(probe.ask("/c").await.as_deref(), Ok("1"));
    }
}

#[tokio::test]
async fn many_are_served_at_once() {
    let probe = load(&settings());
    // The heads come before any body is read: each of these is in progress.
    let mut responses = Vec::new();
    for _ in 0..300 {
        responses.push(probe.head("/h").await.expect("answers"));
    }
    for response in responses {
        let body = response.into_body().collect().await.expect("whole body");
        assert_eq!(body.to_bytes(), "Hello from afar\n");
    }
    for answer in futures::future::join_all((0..300).map(|_| probe.ask("/h"))).await {
        assert_eq!(answer.as_deref(), HELLO);
    }
}

#[tokio::test]
async fn a_trap_is_a_failure_and_the_next_request_is_served() {
    let probe = load(&settings());
    let failure = probe.ask("/t").await.expect_err("traps");
    assert_eq!(failure.status, 500);
    assert!(failure.reason.contains("unreachable"), "{}", failure.reason);
    assert_eq!(probe.ask("/h").await.as_deref(), HELLO);
}

#[tokio::test]
async fn a_trap_in_the_middle_is_an_error_of_the_body() {
    let probe = load(&settings());
    let failure = probe.ask("/T").await.expect_err("not a clean end");
    assert!(failure.reason.contains("unreachable"), "{}", failure.reason);
}

#[tokio::test]
async fn an_error_code_is_a_failure_that_costs_no_instance() {
    let probe = load(&settings());
    let failure = probe.ask("/e").await.expect_err("an error");
    assert!(failure.reason.contains("LoopDetected"), "{}", failure.reason);
    assert_eq!(probe.ask("/c").await.as_deref(), Ok("2"));
}

#[tokio::test]
async fn an_endless_loop_ends_at_its_limit() {
    let probe = load(&Settings { cpu_time: Duration::from_millis(100), ..settings() });
    assert_eq!(probe.ask("/l").await.expect_err("ended").status, 504);
    assert_eq!(probe.ask("/h").await.as_deref(), HELLO);
}

#[tokio::test]
async fn an_endless_loop_holds_nobody_up() {
    let probe = load(&settings());
    let others = async {
        for _ in 0..5 {
            assert_eq!(probe.ask("/h").await.as_deref(), HELLO);
        }
    };
    tokio::select! {
        looping = probe.ask("/l") => panic!("{looping:?} before the others were served"),
        () = others => {}
    }
}

#[tokio::test]
async fn a_loop_can_be_given_up_at_any_time() {
    let probe = load(&settings());
    let given_up = tokio::time::timeout(Duration::from_millis(50), probe.ask("/l")).await;
    assert!(given_up.is_err(), "the timer fires although the guest computes");
    assert_eq!(probe.ask("/h").await.as_deref(), HELLO);
}
