//! A request that misbehaves ends at its limit, and costs its worker and the others nothing.

use std::time::{Duration, Instant};

use crate::harness::http::{Connection, Failure, fetch, get};
use crate::harness::load::Connections;
use crate::harness::{Launcher, Load, Site, process};

fn one_worker(site: &Site, more: &str) -> (Launcher, String, u32) {
    site.kitchen();
    let launcher = site.run(&format!(
        "
services:
  kitchen:
    plugin: kitchen.wasm
    listen: 127.0.0.1:0
    workers: 1
{more}
"
    ));
    let (address, worker) = (launcher.address("kitchen"), launcher.workers(1)[0]);
    (launcher, address, worker)
}

fn assert_unharmed(launcher: &Launcher, address: &str, worker: u32) {
    assert_eq!(fetch(address, "/hello").text(), "hello\n");
    assert!(process::runs(worker), "the worker died\n{}", launcher.story());
    let exits = launcher.events_after(0, |event| event.is("exited"));
    assert!(exits.is_empty(), "{exits:?}");
}

#[test]
fn a_trap_is_a_500_and_the_worker_lives() {
    let site = Site::new();
    let (launcher, address, worker) = one_worker(&site, "");
    for _ in 0..5 {
        assert_eq!(fetch(&address, "/trap").status(), 500);
        assert_unharmed(&launcher, &address, worker);
    }
}

#[test]
fn a_trap_after_the_head_cuts_the_response_visibly() {
    let site = Site::new();
    let (launcher, address, worker) = one_worker(&site, "");
    match get(&address, "/trap-late") {
        Err(Failure::Broken(_)) => {}
        other => panic!("a cut response looks whole: {other:?}"),
    }
    assert_unharmed(&launcher, &address, worker);
}

#[test]
fn an_endless_loop_ends_with_504_while_other_requests_proceed() {
    let site = Site::alone();
    let (launcher, address, worker) = one_worker(&site, "    limits: { request_timeout: 300ms }");
    let load = Load::start(&address, "/hello", Connections::Fresh, 1);
    load.more(5);
    let before = load.tally().answered;
    let asked = Instant::now();
    let response = fetch(&address, "/spin");
    let took = asked.elapsed();
    let meanwhile = load.tally().answered - before;
    assert_eq!(response.status(), 504);
    assert!(took < Duration::from_millis(800), "the answer took {took:?}");
    assert!(took >= Duration::from_millis(290), "the answer came before its time, after {took:?}");
    assert!(meanwhile >= 10, "only {meanwhile} other requests were answered meanwhile");
    load.stop().assert_flawless();
    assert_unharmed(&launcher, &address, worker);
}

#[test]
fn several_endless_loops_at_once_end_as_well() {
    let site = Site::alone();
    let (launcher, address, worker) = one_worker(&site, "    limits: { request_timeout: 300ms }");
    let loops: Vec<_> = (0..4)
        .map(|_| {
            let mut connection = Connection::open(&address).expect("connect");
            connection.send_head("GET", "/spin", &[]).expect("send");
            connection
        })
        .collect();
    for mut connection in loops {
        assert_eq!(connection.response("GET").expect("an answer").status(), 504);
    }
    assert_unharmed(&launcher, &address, worker);
}

#[test]
fn computing_beyond_cpu_time_is_ended() {
    let site = Site::new();
    let (launcher, address, worker) = one_worker(&site, "    wasm: { cpu_time: 300ms }");
    let asked = Instant::now();
    let status = fetch(&address, "/spin").status();
    assert!((500..=504).contains(&status), "{status}");
    assert!(asked.elapsed() < Duration::from_secs(5), "the answer took {:?}", asked.elapsed());
    assert_unharmed(&launcher, &address, worker);
}

#[test]
fn waiting_is_not_computing() {
    let site = Site::new();
    let (launcher, address, worker) = one_worker(&site, "    wasm: { cpu_time: 200ms }");
    assert_eq!(fetch(&address, "/sleep?ms=700").text(), "slept 700\n");
    assert_unharmed(&launcher, &address, worker);
}

#[test]
fn a_guest_that_sleeps_beyond_the_request_timeout_gets_504() {
    let site = Site::new();
    let (launcher, address, worker) = one_worker(&site, "    limits: { request_timeout: 300ms }");
    let asked = Instant::now();
    assert_eq!(fetch(&address, "/sleep?ms=60000").status(), 504);
    assert!(asked.elapsed() < Duration::from_secs(5), "the answer took {:?}", asked.elapsed());
    assert_unharmed(&launcher, &address, worker);
}

#[test]
fn a_long_body_is_not_a_slow_head() {
    let site = Site::new();
    let (launcher, address, worker) = one_worker(&site, "    limits: { request_timeout: 300ms }");
    let response = fetch(&address, "/slow-body?chunks=8&ms=100");
    assert_eq!(response.text().lines().count(), 8);
    assert_unharmed(&launcher, &address, worker);
}

#[test]
fn an_idle_connection_is_closed_after_the_idle_timeout() {
    let site = Site::new();
    let (launcher, address, worker) = one_worker(&site, "    limits: { idle_timeout: 300ms }");
    let mut connection = Connection::open(&address).expect("connect");
    assert_eq!(connection.request("GET", "/hello", &[], b"").expect("an answer").status(), 200);
    connection.set_read_timeout(Duration::from_secs(10)).expect("set the timeout");
    assert!(connection.closed().expect("no answer comes, and no error"), "the server sent something");
    assert_unharmed(&launcher, &address, worker);
}

#[test]
fn memory_beyond_the_limit_is_refused_to_the_guest() {
    let site = Site::new();
    let (launcher, address, worker) = one_worker(&site, "    wasm: { memory: 64MiB }");
    assert_eq!(fetch(&address, "/grow?mib=32").text(), "32 MiB\n");
    let refused = fetch(&address, "/grow?mib=200");
    assert_eq!(refused.status(), 507, "{}", refused.text());
    assert_eq!(fetch(&address, "/grow?mib=32").text(), "32 MiB\n");
    assert_unharmed(&launcher, &address, worker);
}

#[test]
fn connections_beyond_the_limit_wait_in_the_queue() {
    let site = Site::new();
    let (launcher, address, worker) = one_worker(&site, "    limits: { connections: 2 }");
    let mut held: Vec<_> = (0..2).map(|_| Connection::open(&address).expect("connect")).collect();
    for connection in &mut held {
        assert_eq!(connection.request("GET", "/hello", &[], b"").expect("an answer").status(), 200);
    }
    let mut third = Connection::open(&address).expect("the kernel takes it");
    third.send_head("GET", "/hello", &[]).expect("send");
    third.set_read_timeout(Duration::from_millis(300)).expect("set the timeout");
    assert!(third.head("GET").is_err(), "a third connection is served beyond the limit");
    held.pop();
    third.set_read_timeout(Duration::from_secs(10)).expect("set the timeout");
    assert_eq!(third.response("GET").expect("an answer once there is room").status(), 200);
    drop((held, third));
    assert_unharmed(&launcher, &address, worker);
}

#[test]
fn a_worker_at_the_descriptor_limit_says_so_and_recovers() {
    let site = Site::new();
    site.kitchen();
    let yaml = "
services:
  kitchen: { plugin: kitchen.wasm, listen: 127.0.0.1:0, workers: 1 }
";
    let config = site.configure(yaml);
    // A shell lowers the limit of itself and of what it becomes.
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "ulimit -n 64; exec \"$0\" run \"$1\"", crate::harness::launcher::BINARY]).arg(config);
    let launcher = Launcher::start(shell, yaml);
    launcher.wait("serving", |event| event.is("serving"));
    let address = launcher.address("kitchen");
    let many: Vec<_> = (0..100).map(|_| Connection::open(&address).expect("the kernel queues it")).collect();
    drop(many);
    assert_unharmed(&launcher, &address, launcher.workers(1)[0]);
}
