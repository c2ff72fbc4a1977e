//! A worker's death costs the requests in it and nothing else.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::http::{Connection, fetch};
use crate::harness::load::Connections;
use crate::harness::{Load, Site, guests, process};

fn kill_worker(pid: u32) {
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).expect("kill a worker");
}

#[test]
fn killing_every_worker_under_load_refuses_nothing_and_fails_only_what_was_in_them() {
    const CLIENTS: u32 = 4;
    let site = Site::alone();
    site.write("hello.wasm", guests::hello(1));
    let mut launcher = site.run(
        "
services:
  hello: { plugin: hello.wasm, listen: 127.0.0.1:0, workers: 4 }
",
    );
    let load = Load::start(&launcher.address("hello"), "/", Connections::Fresh, CLIENTS);
    for (victim, pid) in launcher.workers(4).into_iter().enumerate() {
        load.more(100);
        let mark = launcher.mark();
        kill_worker(pid);
        let exited =
            launcher.wait_after(mark, "exited", |event| event.is("exited") && event.number("pid") == u64::from(pid));
        assert!(exited.has("signal"), "{exited:?}");
        let ready = launcher.wait_after(mark, "ready", |event| event.is("ready"));
        assert_eq!(ready.number("slot"), exited.number("slot"), "the replacement takes the slot of the dead");
        if victim == 0 {
            let took = ready.at.duration_since(exited.at);
            assert!(took <= Duration::from_millis(50), "the first replacement took {took:?}\n{}", launcher.story());
        }
    }
    load.more(100);
    let tally = load.stop();
    assert!(tally.refused.is_empty(), "{}", tally.summary());
    // A client has one request under way at a time, and a victim may hold all of them.
    assert!(tally.failed.len() <= 4 * CLIENTS as usize, "{}", tally.summary());
    launcher.stop();
}

#[test]
fn connections_wait_while_the_only_worker_is_replaced() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let launcher = site.run(
        "
services:
  hello: { plugin: hello.wasm, listen: 127.0.0.1:0, workers: 1 }
",
    );
    let address = launcher.address("hello");
    let mut mark = 0;
    for _ in 0..3 {
        let pid = launcher.workers_after(mark, 1)[0];
        mark = launcher.mark();
        kill_worker(pid);
        launcher.wait_after(mark, "exited", |event| event.is("exited"));
        // Nobody is there to accept it: it waits in the queue of the listener, which the master holds.
        assert_eq!(fetch(&address, "/").text(), guests::greeting(1));
    }
}

#[test]
fn a_crash_of_one_worker_leaves_the_connections_of_the_others() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let launcher = site.run(
        "
services:
  hello: { plugin: hello.wasm, listen: 127.0.0.1:0, workers: 2 }
",
    );
    let address = launcher.address("hello");
    let [victim, other] = launcher.workers(2)[..] else { panic!("two workers were asked for") };
    let (before, held_before) = (process::sockets(victim), process::sockets(other));
    // A worker that the scheduler leaves out for a while gets fewer, so: until each has some.
    let mut connections = Vec::new();
    while process::sockets(victim) < before + 5 || process::sockets(other) < held_before + 5 {
        assert!(connections.len() < 1000, "one of two workers took nearly all of 1000 connections");
        let mut connection = Connection::open(&address).expect("connect");
        assert_eq!(connection.request("GET", "/", &[], b"").expect("an answer").status(), 200);
        connections.push(connection);
    }
    let held = process::sockets(other) - held_before;
    let mark = launcher.mark();
    kill_worker(victim);
    launcher.wait_after(mark, "ready", |event| event.is("ready"));
    let alive = connections.iter_mut().filter_map(|connection| connection.request("GET", "/", &[], b"").ok()).count();
    assert_eq!(alive, held, "of {} connections the living worker held {held}", connections.len());
}

#[test]
fn later_replacements_follow_the_backoff() {
    let site = Site::alone();
    site.write("hello.wasm", guests::hello(1));
    let launcher = site.run(
        "
services:
  hello:
    plugin: hello.wasm
    listen: 127.0.0.1:0
    workers: 1
    restart: { backoff: 400ms..5s, budget: 50/60s }
",
    );
    let mut waits = Vec::new();
    let mut mark = 0;
    for _ in 0..3 {
        let pid = launcher.workers_after(mark, 1)[0];
        mark = launcher.mark();
        kill_worker(pid);
        let exited = launcher.wait_after(mark, "exited", |event| event.is("exited"));
        let spawned = launcher.wait_after(mark, "spawned", |event| event.is("spawned"));
        waits.push(spawned.at.duration_since(exited.at));
    }
    // The first at once; then 400 ms and 800 ms, each a fifth more or less.
    assert!(waits[0] < Duration::from_millis(50), "{waits:?}");
    assert!((300..=600).contains(&waits[1].as_millis()), "{waits:?}");
    assert!((600..=1100).contains(&waits[2].as_millis()), "{waits:?}");
}
