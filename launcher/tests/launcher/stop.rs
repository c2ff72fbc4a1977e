//! The end: what is in flight finishes, nothing outlives the master unknowingly.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::http::{Connection, fetch};
use crate::harness::{Launcher, Site, process};

fn kitchen(site: &Site, drain: &str) -> Launcher {
    site.kitchen();
    site.run(&format!(
        "
services:
  kitchen:
    plugin: kitchen.wasm
    listen: 127.0.0.1:0
    workers: 2
    stop: {{ drain_timeout: {drain} }}
"
    ))
}

/// A request whose head was answered and whose body goes on: it is surely in flight.
fn in_flight(address: &str, chunks: u32, ms: u32) -> (Connection, crate::harness::http::Head) {
    let mut connection = Connection::open(address).expect("connect");
    connection.send_head("GET", &format!("/slow-body?chunks={chunks}&ms={ms}"), &[]).expect("send");
    let head = connection.head("GET").expect("a head");
    (connection, head)
}

#[test]
fn term_lets_requests_in_flight_finish() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let site = Site::new();
        let mut launcher = kitchen(&site, "30s");
        let address = launcher.address("kitchen");
        let workers = launcher.workers(2);
        let requests: Vec<_> = (0..8).map(|_| in_flight(&address, 10, 50)).collect();
        launcher.signal(signal);
        launcher.wait("stopping", |event| event.is("stopping"));
        for (mut connection, head) in requests {
            let mut body = Vec::new();
            connection.body(&head, |part| body.extend_from_slice(part)).expect("the whole body");
            assert_eq!(String::from_utf8_lossy(&body).lines().last(), Some("chunk 9"), "{signal}");
        }
        assert_eq!(launcher.exit().code(), Some(0), "{signal}\n{}", launcher.story());
        launcher.wait("stopped", |event| event.is("stopped"));
        assert!(Connection::open(&address).is_err(), "the port is still open after the stop");
        for worker in workers {
            assert!(!process::runs(worker), "worker {worker} outlives the master");
        }
    }
}

#[test]
fn idle_kept_connections_do_not_hold_up_the_stop() {
    let site = Site::new();
    let mut launcher = kitchen(&site, "30s");
    let address = launcher.address("kitchen");
    let mut kept = Connection::open(&address).expect("connect");
    assert_eq!(kept.request("GET", "/hello", &[], b"").expect("an answer").status(), 200);
    let _unused = Connection::open(&address).expect("connect");
    let asked = std::time::Instant::now();
    launcher.stop();
    assert!(asked.elapsed() < Duration::from_secs(15), "the stop took {:?}", asked.elapsed());
}

#[test]
fn a_second_term_stops_now() {
    let site = Site::new();
    let mut launcher = kitchen(&site, "300s");
    let (_connection, _head) = in_flight(&launcher.address("kitchen"), 1, 600_000);
    launcher.signal(Signal::SIGTERM);
    launcher.wait("stopping", |event| event.is("stopping"));
    launcher.signal(Signal::SIGTERM);
    let asked = std::time::Instant::now();
    assert_eq!(launcher.exit().code(), Some(0), "{}", launcher.story());
    assert!(asked.elapsed() < Duration::from_secs(5), "the stop took {:?}", asked.elapsed());
}

#[test]
fn the_drain_deadline_ends_what_does_not_end() {
    let site = Site::new();
    let mut launcher = kitchen(&site, "300ms");
    let workers = launcher.workers(2);
    let (_connection, _head) = in_flight(&launcher.address("kitchen"), 1, 600_000);
    let asked = std::time::Instant::now();
    launcher.signal(Signal::SIGTERM);
    assert_eq!(launcher.exit().code(), Some(0), "{}", launcher.story());
    assert!(asked.elapsed() < Duration::from_secs(8), "the stop took {:?}", asked.elapsed());
    for worker in workers {
        assert!(!process::runs(worker), "worker {worker} outlives the master");
    }
}

#[test]
fn hup_applies_the_edited_configuration() {
    let site = Site::new();
    site.kitchen();
    let yaml = |greeting: &str| {
        format!(
            "
services:
  kitchen:
    plugin: kitchen.wasm
    listen: 127.0.0.1:0
    env: {{ GREETING: {greeting} }}
"
        )
    };
    let launcher = site.run(&yaml("old"));
    let address = launcher.address("kitchen");
    assert!(fetch(&address, "/env").text().contains("GREETING=old\n"));
    let mark = launcher.mark();
    site.configure(&yaml("new"));
    launcher.signal(Signal::SIGHUP);
    launcher.wait_after(mark, "promoted", |event| event.is("promoted"));
    assert!(fetch(&address, "/env").text().contains("GREETING=new\n"), "{}", launcher.story());
    assert_eq!(launcher.address("kitchen"), address, "the listener is kept");

    let mark = launcher.mark();
    site.configure("services: { kitchen: { plugin: kitchen.wasm, listen: 127.0.0.1:0, wrokers: 2 } }");
    launcher.signal(Signal::SIGHUP);
    let rejected = launcher.wait_after(mark, "config_rejected", |event| event.is("config_rejected"));
    assert!(rejected.text("reason").contains("wrokers"), "{rejected:?}");
    assert!(fetch(&address, "/env").text().contains("GREETING=new\n"), "a rejected file changes nothing");
}

#[test]
fn no_worker_outlives_a_killed_master() {
    let site = Site::new();
    let launcher = kitchen(&site, "1s");
    let workers = launcher.workers(2);
    let (_connection, _head) = in_flight(&launcher.address("kitchen"), 1, 600_000);
    launcher.kill();
    for worker in &workers {
        assert!(process::ends(*worker, Duration::from_secs(5)), "worker {worker} outlives the killed master");
    }
}

#[test]
fn a_worker_that_computes_for_ever_does_not_outlive_a_killed_master() {
    let site = Site::new();
    site.kitchen();
    let launcher = site.run(
        "
services:
  kitchen:
    plugin: kitchen.wasm
    listen: 127.0.0.1:0
    workers: 1
    stop: { drain_timeout: 500ms }
    limits: { request_timeout: 600s }
    wasm: { cpu_time: 600s }
",
    );
    let worker = launcher.workers(1)[0];
    let mut spinning = Connection::open(&launcher.address("kitchen")).expect("connect");
    spinning.send_head("GET", "/spin", &[]).expect("send");
    assert!(crate::harness::launcher::eventually(|| cpu_ticks(worker) > 5), "the guest does not spin");
    launcher.kill();
    assert!(process::ends(worker, Duration::from_secs(5)), "the spinning worker outlives the killed master");
}

/// CPU time of a process in ticks of 10 ms: proc(5), field 14 of stat.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    fields.split_whitespace().nth(11).and_then(|ticks| ticks.parse().ok()).unwrap_or(0)
}
