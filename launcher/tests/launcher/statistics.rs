//! What is counted belongs to the service and not to the process that counts.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::control::Control;
use crate::harness::http::{Connection, fetch};
use crate::harness::{Launcher, Site, guests};

const ACCEPTED: &str = "launcher_connections_accepted_total";
const OPEN: &str = "launcher_connections_open";
const REQUESTS: &str = "launcher_requests_total";
const MEMORY: &str = "launcher_workers_pss_bytes";

fn metric(launcher: &Launcher, family: &str) -> u64 {
    let text = fetch(&launcher.address("master"), "/metrics").text();
    let sample = format!("{family}{{service=\"hello\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&sample));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {family} in\n{text}"))
}

fn hello(site: &Site, workers: u32) -> Launcher {
    site.write("hello.wasm", guests::hello(1));
    site.run(&format!("services: {{ hello: {{ plugin: hello.wasm, listen: 127.0.0.1:0, workers: {workers} }} }}"))
}

/// Connections on which this many requests were answered each, and that stay open.
fn connections(launcher: &Launcher, count: usize, requests: usize) -> Vec<Connection> {
    let address = launcher.address("hello");
    let open = |_| {
        let mut connection = Connection::open(&address).expect("connect");
        for _ in 0..requests {
            assert_eq!(connection.request("GET", "/", &[], b"").expect("an answer").status(), 200);
        }
        connection
    };
    (0..count).map(open).collect()
}

#[test]
fn a_killed_worker_leaves_its_counts_and_no_open_connection() {
    let site = Site::new();
    let launcher = hello(&site, 1);
    let mut mark = 0;
    for round in 1..=3 {
        let pid = launcher.workers_after(mark, 1)[0];
        let held = connections(&launcher, 4, 5);
        assert_eq!([ACCEPTED, OPEN, REQUESTS].map(|m| metric(&launcher, m)), [4 * round, 4, 20 * round]);
        mark = launcher.mark();
        kill(Pid::from_raw(pid as i32), Signal::SIGKILL).expect("kill a worker");
        launcher.wait_after(mark, "exited", |event| event.is("exited"));
        assert_eq!([ACCEPTED, OPEN, REQUESTS].map(|m| metric(&launcher, m)), [4 * round, 0, 20 * round]);
        drop(held);
    }
}

#[test]
fn two_generations_that_serve_at_once_count_together() {
    let site = Site::new();
    site.kitchen();
    let launcher = site.run(
        "services: { hello: { plugin: kitchen.wasm, listen: 127.0.0.1:0, workers: 1, stop: { drain_timeout: 300s } } }",
    );
    // It keeps the old worker from leaving.
    let mut held = Connection::open(&launcher.address("hello")).expect("connect");
    held.send_head("GET", "/slow-body?chunks=1&ms=600000", &[]).expect("send");
    held.head("GET").expect("a head");
    for version in 1..=3 {
        let mark = launcher.mark();
        site.replace("kitchen.wasm", guests::kitchen_version(version).0);
        launcher.wait_after(mark, "promoted", |event| event.is("promoted"));
        let new = {
            let mut connection = Connection::open(&launcher.address("hello")).expect("connect");
            assert_eq!(connection.request("GET", "/hello", &[], b"").expect("an answer").status(), 200);
            connection
        };
        assert_eq!(metric(&launcher, OPEN), 2);
        assert_eq!([ACCEPTED, REQUESTS].map(|m| metric(&launcher, m)), [1 + u64::from(version); 2]);
        drop(new);
        let gone = || metric(&launcher, OPEN) == 1;
        assert!(crate::harness::launcher::eventually(gone), "the connection is closed and counts as open");
    }
}

#[test]
fn a_scale_resets_nothing() {
    let site = Site::new();
    let launcher = hello(&site, 3);
    let mut counted = 0;
    for signal in [Signal::SIGTTOU, Signal::SIGTTOU, Signal::SIGTTIN, Signal::SIGTTIN] {
        drop(connections(&launcher, 30, 1));
        counted += 30;
        let mark = launcher.mark();
        launcher.signal(signal);
        let done = if signal == Signal::SIGTTOU { "exited" } else { "ready" };
        launcher.wait_after(mark, done, |event| event.is(done));
        assert_eq!([ACCEPTED, REQUESTS].map(|m| metric(&launcher, m)), [counted, counted]);
    }
    assert!(metric(&launcher, MEMORY) > 1 << 20);
}

#[test]
fn the_status_tells_what_a_worker_uses_and_serves_and_how_the_one_before_it_ended() {
    let site = Site::new();
    let launcher = hello(&site, 1);
    let worker = || Control::of(&site).service("hello")["workers"][0].clone();
    let number = |field: &str| worker()[field].as_f64().unwrap_or_else(|| panic!("no {field} in {}", worker()));
    let first = connections(&launcher, 3, 2);
    assert_eq!(["connections", "accepted", "requests"].map(number), [3.0, 3.0, 6.0]);
    assert!(number("pss_bytes") > f64::from(1 << 20) && number("cpu_s") >= 0.0, "{}", worker());
    assert!(worker()["last_exit"].is_null(), "{}", worker());

    let mark = launcher.mark();
    let pid = launcher.workers(1)[0];
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).expect("kill a worker");
    launcher.workers_after(mark, 1);
    drop(first);
    let _second = connections(&launcher, 2, 1);
    assert_eq!(["connections", "accepted", "requests"].map(number), [2.0, 5.0, 8.0]);
    let last = worker()["last_exit"].clone();
    assert!(last["signal"] == 9 && last["code"].is_null() && last["reason"] == "was killed by SIGKILL", "{last}");
    assert!(last["ago_s"].as_f64().is_some_and(|ago| (0.0..60.0).contains(&ago)), "{last}");
}
