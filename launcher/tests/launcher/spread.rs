//! How connections spread over the workers of a service, and that none is lost of those that wait while every worker dies.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::harness::control::Control;
use crate::harness::http::{Connection, fetch};
use crate::harness::launcher::eventually;
use crate::harness::load::Connections;
use crate::harness::{Launcher, Load, Site, guests, process};

/// Connections that wait at once.
const QUEUED: usize = 10_000;

/// Descriptors besides those of the clients.
const OTHERS: u64 = 1_000;

/// As many connections as the system lets this process have, at most [`QUEUED`].
fn many() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let wanted = QUEUED as u64 + OTHERS;
    let most = limit.maximum.unwrap_or(wanted).min(wanted).max(limit.current.unwrap_or(wanted));
    setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: limit.maximum }).expect("raise a soft limit");
    let count = QUEUED.min((most - OTHERS) as usize);
    if count < QUEUED {
        eprintln!("{count} instead of {QUEUED} connections: the limit of descriptors does not admit more");
    }
    count
}

/// Listeners whose queues together have room for `count` connections.
fn listeners(count: usize) -> usize {
    let text = fs::read_to_string("/proc/sys/net/core/somaxconn").expect("read the longest queue");
    let longest: usize = text.trim().parse().expect("a number");
    // A queue that is nearly full drops handshakes, which are repeated after a second.
    count.div_ceil(longest * 9 / 10)
}

fn signal(pids: &[u64], signal: Signal) {
    for pid in pids {
        kill(Pid::from_raw(*pid as i32), signal).expect("signal a worker");
    }
}

/// Stops workers, and waits until they stand still.
fn stop(pids: &[u64]) {
    signal(pids, Signal::SIGSTOP);
    let stopped = |pid: &u64| process::state(*pid as u32).is_some_and(|state| state.starts_with('T'));
    assert!(eventually(|| pids.iter().all(stopped)), "the workers run on");
}

/// Everybody waits in the queues of workers that stand still; all of them are killed, and their successors replaced while they
/// serve: every single client gets its answer.
fn none_is_lost(settings: &str) {
    let site = Site::alone();
    let count = many();
    site.write("hello.wasm", guests::hello(1));
    let listen = vec!["127.0.0.1:0"; listeners(count)].join(", ");
    let names = (0..listeners(count)).map(|number| format!("{{ name: l{number}, address: 127.0.0.1:0 }}"));
    let listen = if listen.contains(',') { names.collect::<Vec<_>>().join(", ") } else { listen };
    let yaml = |version: u32| {
        format!(
            "
services:
  hello:
    plugin: hello.wasm
    listen: [{listen}]
    workers: 8
    env: {{ VERSION: {version} }}
    restart: {{ backoff: 1ms..10ms, budget: 1000/60s }}
{settings}
"
        )
    };
    let launcher = site.run(&yaml(1));
    let listening =
        launcher.wait_many(0, listeners(count), "listening", |event| event.is("listening") && event.of("hello"));
    let addresses: Vec<String> = listening.iter().map(|event| event.text("address").to_owned()).collect();
    let control = Control::of(&site);
    let victims = control.ready("hello");
    assert_eq!(victims.len(), 8, "{victims:?}");
    stop(&victims);
    let begun = Instant::now();
    let mut clients: Vec<Connection> = (0..count)
        .map(|number| {
            let mut client = Connection::open_lean(&addresses[number % addresses.len()]).expect("connect");
            client.send_head("GET", "/", &[("connection", "close")]).expect("send");
            client
        })
        .collect();
    let queued = begun.elapsed();
    let mark = launcher.mark();
    signal(&victims, Signal::SIGKILL);
    let answers = |clients: &mut dyn Iterator<Item = (usize, Connection)>| {
        for (number, mut client) in clients {
            let response =
                client.response("GET").unwrap_or_else(|error| panic!("client {number}: {error}\n{}", launcher.story()));
            assert_eq!((response.status(), response.text()), (200, guests::greeting(1)), "client {number}");
        }
    };
    let mut clients = clients.drain(..).enumerate();
    answers(&mut clients.by_ref().take(count / 20));
    // All of those that came in their place are replaced, too, while the others wait.
    site.configure(&yaml(2));
    launcher.signal(Signal::SIGHUP);
    answers(&mut clients);
    launcher.wait_after(mark, "promoted", |event| event.is("promoted"));
    println!("{count} clients: queued within {queued:?}, all answered after {:?}", begun.elapsed());
    let killed = launcher.wait_many(mark, 8, "exited", |event| event.is("exited") && event.has("signal"));
    assert_eq!(killed.len(), 8);
}

#[test]
fn none_of_ten_thousand_that_wait_is_lost_in_turn() {
    none_is_lost("    balance: requests");
}

#[test]
fn none_of_ten_thousand_that_wait_is_lost_by_connections() {
    none_is_lost("    balance: connections");
}

#[test]
fn none_of_ten_thousand_that_wait_is_lost_by_reuseport() {
    none_is_lost("    scheduling: reuseport");
}

#[test]
fn none_of_ten_thousand_that_wait_is_lost_by_round_robin() {
    none_is_lost("    scheduling: round_robin");
}

fn hello(site: &Site, workers: u32, settings: &str) -> Launcher {
    site.write("hello.wasm", guests::hello(1));
    let service = format!("plugin: hello.wasm, listen: 127.0.0.1:0, workers: {workers}, {settings}");
    site.run(&format!("services: {{ hello: {{ {service} }} }}"))
}

/// Connections that have asked once and stay open.
fn held(launcher: &Launcher, count: usize) -> Vec<Connection> {
    let address = launcher.address("hello");
    let open = |_| {
        let mut connection = Connection::open_lean(&address).expect("connect");
        assert_eq!(connection.request("GET", "/", &[], b"").expect("an answer").status(), 200);
        connection
    };
    (0..count).map(open).collect()
}

/// The open connections of each slot's worker.
fn shares(site: &Site) -> Vec<u64> {
    let service = Control::of(site).service("hello");
    let workers = service["workers"].as_array().unwrap_or_else(|| panic!("no workers in {service}"));
    let mut shares: Vec<_> = workers
        .iter()
        .map(|worker| (worker["slot"].as_u64(), worker["connections"].as_u64().expect("a number")))
        .collect();
    shares.sort_unstable();
    shares.into_iter().map(|(_, share)| share).collect()
}

/// The open connections of the worker with this pid.
fn share_of(site: &Site, pid: u64) -> u64 {
    let service = Control::of(site).service("hello");
    let workers = service["workers"].as_array().unwrap_or_else(|| panic!("no workers in {service}"));
    let its = workers.iter().find(|worker| worker["pid"] == pid).and_then(|worker| worker["connections"].as_u64());
    its.unwrap_or_else(|| panic!("no worker {pid} in {service}"))
}

#[test]
fn long_lived_connections_spread_evenly_by_connections() {
    let site = Site::alone();
    let launcher = hello(&site, 8, "balance: connections");
    many();
    let _held = held(&launcher, 1000);
    let shares = shares(&site);
    println!("1000 connections: {shares:?}");
    assert_eq!(shares.iter().sum::<u64>(), 1000);
    // 124 to 126 on a machine that does nothing else; a worker that gets no processor for 3 ms misses its turn.
    assert!(shares.iter().all(|share| (115..=135).contains(share)), "{shares:?}");
}

#[test]
fn workers_that_come_later_catch_up_by_connections() {
    let site = Site::alone();
    let launcher = hello(&site, 2, "balance: connections");
    many();
    let _early = held(&launcher, 400);
    let mark = launcher.mark();
    Control::of(&site).ask("POST", "/v1/services/hello/scale", r#"{"workers":"8"}"#).good();
    launcher.workers_after(mark, 6);
    let before: u64 = shares(&site)[..2].iter().sum();
    let _late = held(&launcher, 1200);
    let grown = shares(&site);
    println!("2 workers have 400 connections, 6 come, and 1200 connections more: {grown:?}");
    // In turn the two would get 300 of them. On a machine that does nothing else they get those that are theirs when all
    // have as many: none of the first 1200. One that gets no processor for 3 ms misses its turn, so it may be some.
    let gained = grown[..2].iter().sum::<u64>() - before;
    assert!(gained < 200, "{gained}: {grown:?}");
    // The counts of one that crashes are nobody's: its successor begins with none, and gets the next ones.
    let mark = launcher.mark();
    let victims = [Control::of(&site).ready("hello")[0]];
    signal(&victims, Signal::SIGKILL);
    let successor = u64::from(launcher.workers_after(mark, 1)[0]);
    let _more = held(&launcher, 160);
    let its = share_of(&site, successor);
    println!("one is killed, and of 160 connections more its successor has {its}");
    // In turn: 20.
    assert!(its > 40, "{:?}", shares(&site));
}

#[test]
fn nobody_waits_for_the_least_loaded_if_it_stands_still() {
    let site = Site::alone();
    let launcher = hello(&site, 4, "balance: connections");
    let _held = held(&launcher, 40);
    let mark = launcher.mark();
    let control = Control::of(&site);
    signal(&control.ready("hello")[..1], Signal::SIGKILL);
    let successor = u64::from(launcher.workers_after(mark, 1)[0]);
    stop(&[successor]);
    let begun = Instant::now();
    let _more = held(&launcher, 100);
    let took = begun.elapsed();
    println!("100 connections beside a least loaded worker that stands still: {took:?}, {:?}", shares(&site));
    assert!(took < Duration::from_secs(20), "{took:?}");
    signal(&[successor], Signal::SIGCONT);
    assert_eq!(fetch(&launcher.address("hello"), "/").status(), 200);
}

#[test]
fn round_robin_is_exact_and_passes_over_who_stands_still() {
    let site = Site::alone();
    let launcher = hello(&site, 4, "scheduling: round_robin");
    let mut held = held(&launcher, 100);
    let before = shares(&site);
    println!("100 connections: {before:?}");
    // 25 each on a machine that does nothing else; one that does not answer for 100 ms misses its turn.
    assert!(before.iter().all(|share| (15..=35).contains(share)), "{before:?}");
    let stopped = Control::of(&site).ready("hello")[0];
    stop(&[stopped]);
    let its = share_of(&site, stopped);
    held.extend(self::held(&launcher, 100));
    println!("100 more beside one that stands still: {:?}", shares(&site));
    assert_eq!((shares(&site).iter().sum::<u64>(), share_of(&site, stopped)), (200, its));
    // It goes on, and takes part again.
    let mark = launcher.mark();
    signal(&[stopped], Signal::SIGCONT);
    let part = || {
        held.extend(self::held(&launcher, 4));
        share_of(&site, stopped) > its
    };
    assert!(eventually(part), "{:?}", shares(&site));
    assert!(launcher.events_after(mark, |event| event.is("exited")).is_empty());
}

#[test]
fn round_robin_asks_another_when_a_worker_is_full() {
    let site = Site::new();
    let launcher = hello(&site, 3, "scheduling: round_robin, limits: { connections: 10 }");
    let mut held = held(&launcher, 30);
    assert_eq!(shares(&site), [10; 3]);
    // All refuse; whoever has room again takes it.
    let mut waiting = Connection::open_lean(&launcher.address("hello")).expect("connect");
    waiting.send_head("GET", "/", &[]).expect("send");
    drop(held.remove(17));
    assert_eq!(waiting.response("GET").expect("an answer").status(), 200);
    held.push(waiting);
    assert_eq!(shares(&site), [10; 3]);
}

#[test]
fn round_robin_goes_on_under_another_master() {
    let site = Site::new();
    let launcher = hello(&site, 2, "scheduling: round_robin");
    let mut held = held(&launcher, 10);
    for _ in 0..3 {
        let mark = launcher.mark();
        let masters = launcher.events_after(0, |event| event.is("starting") || event.is("adopted"));
        let master = masters.last().expect("a master").number("pid");
        signal(&[master], Signal::SIGKILL);
        launcher.wait_after(mark, "adopted", |event| event.is("adopted"));
        held.extend(self::held(&launcher, 10));
    }
    let shares = shares(&site);
    assert!(shares.iter().sum::<u64>() == 40 && shares.iter().all(|share| *share >= 10), "{shares:?}");
}

#[test]
fn a_slot_of_its_own_that_is_given_up_loses_nobody() {
    let site = Site::alone();
    let launcher = hello(&site, 6, "scheduling: reuseport");
    let address = launcher.address("hello");
    drop(held(&launcher, 100));
    let control = Control::of(&site);
    let workers = control.ready("hello");
    stop(&workers);
    let mut clients: Vec<Connection> = (0..600)
        .map(|_| {
            let mut client = Connection::open_lean(&address).expect("connect");
            client.send_head("GET", "/", &[("connection", "close")]).expect("send");
            client
        })
        .collect();
    let mark = launcher.mark();
    control.ask("POST", "/v1/services/hello/scale", r#"{"workers":"2"}"#).good();
    signal(&workers, Signal::SIGCONT);
    for (number, client) in clients.iter_mut().enumerate() {
        let response = client.response("GET").unwrap_or_else(|error| panic!("client {number}: {error}"));
        assert_eq!(response.status(), 200, "client {number}");
    }
    launcher.wait_many(mark, 4, "exited", |event| event.is("exited"));
    // Connections are led to the sockets of all six for ever, also by another master.
    drop(held(&launcher, 100));
    let mark = launcher.mark();
    signal(&[launcher.master().into()], Signal::SIGKILL);
    launcher.wait_after(mark, "adopted", |event| event.is("adopted"));
    drop(held(&launcher, 100));
    let mark = launcher.mark();
    control.ask("POST", "/v1/services/hello/scale", r#"{"workers":"7"}"#).good();
    launcher.workers_after(mark, 5);
    drop(held(&launcher, 100));
}

#[test]
fn who_accepts_changes_without_a_client_noticing() {
    let site = Site::new();
    let launcher = hello(&site, 3, "scheduling: shared");
    let address = launcher.address("hello");
    let load = Load::start(&address, "/", Connections::Fresh, 4);
    load.more(50);
    for scheduling in ["reuseport", "round_robin", "shared", "round_robin", "reuseport", "shared"] {
        let mark = launcher.mark();
        let service = format!("plugin: hello.wasm, listen: 127.0.0.1:0, workers: 3, scheduling: {scheduling}");
        site.configure(&format!("services: {{ hello: {{ {service} }} }}"));
        launcher.signal(Signal::SIGHUP);
        launcher.wait_after(mark, "promoted", |event| event.is("promoted"));
        launcher.wait_many(mark, 3, "exited", |event| event.is("exited"));
        load.more(200);
    }
    load.stop().assert_flawless();
}
