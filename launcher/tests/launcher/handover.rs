//! Live hand-over: clients that keep their connection, and never retry or reconnect, notice no change of workers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::control::Control;
use crate::harness::http::Connection;
use crate::harness::launcher::eventually;
use crate::harness::{Launcher, PATIENCE, Site, guests, process};

/// Clients with one connection each for their whole life. One in four asks without pause, the others after pauses of up
/// to half a second, drawn from a seed.
struct Faithful {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stopping: AtomicBool,
    answered: AtomicU64,
    /// The longest wait for an answer, microseconds.
    worst: AtomicU64,
    texts: Mutex<BTreeMap<String, u64>>,
    complaints: Mutex<Vec<String>>,
}

impl Faithful {
    fn start(address: &str, count: u64, seed: u64) -> Self {
        let shared = Arc::new(Shared::default());
        let threads = (0..count).map(|number| {
            let (shared, address) = (Arc::clone(&shared), address.to_owned());
            let mut pauses = Pauses(seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            thread::spawn(move || {
                let mut connection = match Connection::open(&address) {
                    Ok(connection) => connection,
                    Err(error) => return shared.complain(format!("refused: {error}")),
                };
                while !shared.stopping.load(Relaxed) {
                    if number % 4 > 0 {
                        thread::park_timeout(pauses.next());
                    }
                    let asked = Instant::now();
                    let answer = connection.request("GET", "/", &[], b"");
                    shared.worst.fetch_max(asked.elapsed().as_micros() as u64, Relaxed);
                    match answer {
                        Ok(response) if response.status() == 200 => {
                            shared.answered.fetch_add(1, Relaxed);
                            let text = response.text();
                            let mut texts = shared.texts.lock().expect("no panic");
                            match texts.get_mut(&text) {
                                Some(count) => *count += 1,
                                None => drop(texts.insert(text, 1)),
                            }
                            if response.head.header("connection").is_some() {
                                return shared.complain("told to reconnect".to_owned());
                            }
                        }
                        Ok(response) => return shared.complain(format!("{} {}", response.status(), response.text())),
                        Err(error) => return shared.complain(format!("failed: {error}")),
                    }
                }
            })
        });
        let threads = threads.collect();
        Self { shared, threads }
    }

    /// Waits for so many more answers.
    fn more(&self, count: u64) {
        let target = self.shared.answered.load(Relaxed) + count;
        let enough = || self.shared.answered.load(Relaxed) >= target || !self.shared.complaints().is_empty();
        assert!(eventually(enough), "no {count} more answers in time");
        self.assert_unnoticed();
    }

    fn assert_unnoticed(&self) {
        let complaints = self.shared.complaints();
        assert!(complaints.is_empty(), "{} complaints: {:?}", complaints.len(), &complaints[..complaints.len().min(5)]);
    }

    /// Stops them and gives what was answered how often.
    fn stop(mut self) -> BTreeMap<String, u64> {
        self.shared.stopping.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            thread.join().expect("no panic");
        }
        self.assert_unnoticed();
        std::mem::take(&mut *self.shared.texts.lock().expect("no panic"))
    }
}

impl Drop for Faithful {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Relaxed);
    }
}

impl Shared {
    fn complain(&self, what: String) {
        self.complaints.lock().expect("no panic").push(what);
    }

    fn complaints(&self) -> Vec<String> {
        self.complaints.lock().expect("no panic").clone()
    }
}

/// Pauses of 0 to 500 ms: xorshift.
struct Pauses(u64);

impl Pauses {
    fn next(&mut self) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Duration::from_micros(self.0 % 500_000)
    }
}

/// Connections that have asked once and say nothing more.
fn idle(address: &str, count: usize) -> Vec<Connection> {
    (0..count)
        .map(|_| {
            let mut connection = Connection::open_lean(address).expect("connect");
            assert_eq!(connection.request("GET", "/", &[], b"").expect("an answer").status(), 200);
            connection
        })
        .collect()
}

fn assert_answered(connections: &mut [Connection], text: &str) {
    for (number, connection) in connections.iter_mut().enumerate() {
        let response = connection.request("GET", "/", &[], b"");
        let response = response.unwrap_or_else(|error| panic!("connection {number}: {error}"));
        assert_eq!((response.status(), response.text().as_str()), (200, text), "connection {number}");
        assert_eq!(response.head.header("connection"), None, "connection {number} is told to reconnect");
    }
}

/// Replaces the plugin and waits for the promotion; how long the last old worker took from the order to its exit.
fn reload(launcher: &Launcher, site: &Site, file: &str, bytes: &[u8], workers: usize) -> Duration {
    let mark = launcher.mark();
    site.replace(file, bytes);
    launcher.wait_after(mark, "promoted", |event| event.is("promoted"));
    let told = launcher.wait_many(mark, workers, "draining", |event| event.is("draining"));
    let left = launcher.wait_many(mark, workers, "exited", |event| event.is("exited"));
    assert!(left.iter().all(|event| event.number("code") == 0), "{left:?}\n{}", launcher.story());
    left[workers - 1].at.duration_since(told[0].at)
}

const HELLO: &str = "services: { hello: { plugin: hello.wasm, listen: 127.0.0.1:0, workers: 2 } }";

/// Reloads under clients who must not notice; and on a connection that stands idle the next request is the new code's.
fn reloads_unnoticed(file: &str, version: impl Fn(u32) -> (Vec<u8>, String)) {
    const RELOADS: u32 = 20;
    let versions: Vec<_> = (1..=RELOADS + 1).map(version).collect();
    let site = Site::new();
    let (bytes, text) = &versions[0];
    site.write(file, bytes);
    let launcher = site.run(&HELLO.replace("hello.wasm", file));
    let address = launcher.address("hello");
    let clients = Faithful::start(&address, 64, 1);
    let mut kept = idle(&address, 3);
    assert_answered(&mut kept, text);
    clients.more(200);
    let mut exits = Vec::new();
    for (bytes, text) in &versions[1..] {
        exits.push(reload(&launcher, &site, file, bytes, 2));
        assert_answered(&mut kept, text);
        clients.assert_unnoticed();
    }
    clients.more(500);
    let texts = clients.stop();
    exits.sort_unstable();
    println!("{RELOADS} reloads, {} answers; exits {:?}..{:?}", texts.values().sum::<u64>(), exits[0], exits.last());
    assert!(texts.contains_key(&versions[RELOADS as usize].1), "{texts:?}");
}

#[test]
fn reloads_of_a_component_are_not_noticed() {
    reloads_unnoticed("hello.wasm", |number| (guests::hello(number), guests::greeting(number)));
}

#[test]
fn reloads_of_a_native_plugin_are_not_noticed() {
    reloads_unnoticed("hello.so", |number| (guests::c_hello(number), format!("Hello from C, version {number:02}\n")));
}

#[test]
fn a_thousand_idle_connections_move_at_once_and_cost_little() {
    // By hand with more, if the limit of descriptors admits them.
    let count = std::env::var("LAUNCHER_IDLE_CONNECTIONS").map_or(1000, |count| count.parse().expect("a number"));
    let site = Site::alone();
    site.write("hello.wasm", guests::hello(1));
    let launcher = site.run(&HELLO.replace("workers: 2", "workers: 1, limits: { connections: 20000 }"));
    let address = launcher.address("hello");
    let mut kept = idle(&address, count);
    let busy = Faithful::start(&address, 2, 7);
    busy.more(100);
    busy.shared.worst.store(0, Relaxed);
    let mark = launcher.mark();
    let took = reload(&launcher, &site, "hello.wasm", &guests::hello(2), 1);
    let worst = Duration::from_micros(busy.shared.worst.load(Relaxed));
    let resident = process::resident(launcher.workers_after(mark, 1)[0]);
    busy.more(100);
    assert_eq!(busy.stop().len(), 2);
    println!("{count} idle connections: old worker gone after {took:?}, new one {resident} KiB, worst wait {worst:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_answered(&mut kept, &guests::greeting(2));
}

#[test]
fn a_response_in_flight_ends_in_the_old_code_and_the_next_request_is_the_new_codes() {
    let site = Site::new();
    site.kitchen();
    let (next, text) = guests::kitchen_version(2);
    let launcher = site.run("services: { kitchen: { plugin: kitchen.wasm, listen: 127.0.0.1:0, workers: 1 } }");
    let mut slow = Connection::open(&launcher.address("kitchen")).expect("connect");
    slow.send_head("GET", "/slow-body?chunks=20&ms=50", &[]).expect("send");
    let head = slow.head("GET").expect("a head");
    let mark = launcher.mark();
    site.replace("kitchen.wasm", next);
    launcher.wait_after(mark, "promoted", |event| event.is("promoted"));
    let mut body = Vec::new();
    slow.body(&head, |part| body.extend_from_slice(part)).expect("the whole body");
    assert_eq!(String::from_utf8_lossy(&body).lines().count(), 20);
    let response = slow.request("GET", "/version", &[], b"").expect("on the same connection");
    assert_eq!((response.text(), response.head.header("connection")), (text, None));
    launcher.wait_after(mark, "exited", |event| event.is("exited") && event.number("code") == 0);
}

#[test]
fn what_a_guest_does_after_its_response_is_waited_for() {
    // It computes for about a second, then traps: that is told on standard error.
    let busy = guests::hello_wat()
        .replace("(param $request i32) (param $out i32)", "(param $request i32) (param $out i32) (local $n i32)")
        .replace(
            "(i32.const 0) (i32.const 0) (global.get $result)))\n",
            "(i32.const 0) (i32.const 0) (global.get $result))\n(loop $work (br_if $work (i32.ne \
             (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 1000000000)))) unreachable)\n",
        );
    let site = Site::new();
    site.write("hello.wasm", guests::component(&busy));
    let launcher = site.run(&HELLO.replace("workers: 2", "workers: 1"));
    let mut kept = idle(&launcher.address("hello"), 1);
    reload(&launcher, &site, "hello.wasm", &guests::hello(2), 1);
    launcher.wait_lines(1, "the guest's end", |line| line.text.contains("after the response: the guest trapped"));
    assert_answered(&mut kept, &guests::greeting(2));
}

#[test]
fn recycled_workers_pass_their_connections_on() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let yaml = HELLO.replace("workers: 2", "workers: 2, limits: { max_requests: 300 }");
    let launcher = site.run(&yaml);
    let clients = Faithful::start(&launcher.address("hello"), 16, 3);
    launcher.wait_many(0, 6, "exit of a recycled worker", |event| event.is("exited"));
    clients.more(100);
    clients.stop();
    assert!(launcher.events_after(0, |event| event.is("exited")).iter().all(|event| event.number("code") == 0));
}

#[test]
fn restarted_workers_pass_their_connections_on() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let launcher = site.run(HELLO);
    let clients = Faithful::start(&launcher.address("hello"), 16, 4);
    let mut kept = idle(&launcher.address("hello"), 30);
    let control = Control::of(&site);
    for _ in 0..3 {
        control.post("/v1/services/hello/restart?wait=true");
        assert_answered(&mut kept, &guests::greeting(1));
        clients.more(50);
    }
    clients.stop();
}

#[test]
fn a_worker_that_is_sent_term_is_replaced_and_passes_its_connections_on() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let launcher = site.run(HELLO);
    let workers = launcher.workers(2);
    let clients = Faithful::start(&launcher.address("hello"), 16, 6);
    let mut kept = idle(&launcher.address("hello"), 30);
    for pid in workers {
        let mark = launcher.mark();
        kill(Pid::from_raw(pid as i32), Signal::SIGTERM).expect("signal the worker");
        let exited = launcher.wait_after(mark, "exit", |event| event.is("exited"));
        assert_eq!((exited.number("pid"), exited.number("code")), (u64::from(pid), 0), "{exited:?}");
        assert_answered(&mut kept, &guests::greeting(1));
        clients.more(50);
    }
    clients.stop();
}

#[test]
fn a_worker_that_may_open_no_descriptor_passes_its_connections_on() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let launcher = site.run(HELLO);
    let [worker, neighbour] = launcher.workers(2)[..] else { panic!("two workers") };
    // The neighbour's death is a message to the worker, after which it must still have room for another one.
    let mark = launcher.mark();
    kill(Pid::from_raw(neighbour as i32), Signal::SIGKILL).expect("signal the neighbour");
    launcher.workers_after(mark, 1);
    let mut kept = idle(&launcher.address("hello"), 30);
    process::forbid_descriptors(worker);
    // What it may still accept takes whatever it does not hold.
    let more: Vec<_> = (0..8).map(|_| Connection::open(&launcher.address("hello")).expect("connect")).collect();
    reload(&launcher, &site, "hello.wasm", &guests::hello(2), 2);
    assert_answered(&mut kept, &guests::greeting(2));
    drop(more);
}

#[test]
fn a_worker_that_is_scaled_away_passes_its_connections_on() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let launcher = site.run(&HELLO.replace("workers: 2", "workers: 3"));
    let clients = Faithful::start(&launcher.address("hello"), 16, 5);
    let mut kept = idle(&launcher.address("hello"), 30);
    for leaving in 1..=2 {
        launcher.signal(Signal::SIGTTOU);
        launcher.wait_many(0, leaving, "exit", |event| event.is("exited"));
        assert_answered(&mut kept, &guests::greeting(1));
        clients.more(50);
    }
    clients.stop();
}

#[test]
fn connections_of_a_unix_listener_move_too() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let socket = site.path("http.sock");
    let launcher = site.run(&HELLO.replace("127.0.0.1:0", &format!("'unix:{}'", socket.display())));
    let mut kept = idle(&launcher.address("hello"), 10);
    for version in 2..5 {
        reload(&launcher, &site, "hello.wasm", &guests::hello(version), 2);
        assert_answered(&mut kept, &guests::greeting(version));
    }
}

#[test]
fn a_successor_that_dies_before_it_takes_loses_nothing() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let launcher = site.run(HELLO);
    let ready = launcher.wait_many(0, 2, "ready", |event| event.is("ready"));
    let pid_of = |slot: u64| {
        let event = ready.iter().find(|event| event.number("slot") == slot).expect("a worker in each slot");
        event.number("pid") as u32
    };
    // The higher slot leaves when there are fewer, and the other one is its only successor.
    let (staying, leaving) = (pid_of(0), pid_of(1));
    let mut kept = idle(&launcher.address("hello"), 300);
    let service = Control::of(&site).service("hello");
    let workers = service["workers"].as_array().expect("workers");
    let worker = workers.iter().find(|worker| worker["pid"] == leaving).expect("the one that leaves");
    let held = worker["connections"].as_u64().expect("a number") as usize;
    assert!((1..300).contains(&held), "both have some: {service}");
    let signal = |signal| kill(Pid::from_raw(staying as i32), signal).expect("signal the worker");
    signal(Signal::SIGSTOP);
    let mark = launcher.mark();
    launcher.signal(Signal::SIGTTOU);
    launcher.wait_after(mark, "draining", |event| event.is("draining"));
    // The stopped worker takes nothing, and its own connections are stopped with it; the others are answered.
    for connection in &mut kept {
        connection.set_read_timeout(Duration::from_millis(2)).expect("set the timeout");
        connection.send_head("GET", "/", &[]).expect("send");
    }
    let mut answered = Vec::new();
    let begun = Instant::now();
    while answered.len() < held {
        assert!(begun.elapsed() < PATIENCE, "only {} of {held} were answered\n{}", answered.len(), launcher.story());
        for mut connection in std::mem::take(&mut kept) {
            match connection.response("GET") {
                Ok(response) if response.head.header("connection").is_none() => answered.push(connection),
                _ => kept.push(connection),
            }
        }
    }
    // Killed, it takes those with it that it had accepted, and no other.
    signal(Signal::SIGKILL);
    let exited =
        launcher.wait_after(mark, "exit", |event| event.is("exited") && event.number("pid") == u64::from(leaving));
    assert_eq!(exited.number("code"), 0, "{}", launcher.story());
    for connection in &answered {
        connection.set_read_timeout(Duration::from_secs(30)).expect("set the timeout");
    }
    assert_answered(&mut answered, &guests::greeting(1));
}

#[test]
fn after_a_promotion_nobody_is_answered_by_an_older_generation_that_its_successor_took_too_little_from() {
    let site = Site::new();
    for version in 1..4 {
        site.write(&format!("{version}.wasm"), guests::hello(version));
    }
    let config = |version: u32, connections: u32| {
        format!(
            "services: {{ hello: {{ plugin: {version}.wasm, listen: 127.0.0.1:0, workers: 1, \
             limits: {{ connections: {connections} }} }} }}"
        )
    };
    let launcher = site.run(&config(1, 1000));
    let mut kept = idle(&launcher.address("hello"), 100);
    let change = |version, connections| {
        let mark = launcher.mark();
        site.replace("config.yaml", config(version, connections).as_bytes());
        launcher.wait_after(mark, "promoted", |event| event.is("promoted"));
    };
    // It takes a message of 64 whole, and is full for a long time then.
    change(2, 1);
    let mut answers = BTreeMap::new();
    for connection in &mut kept {
        let text = connection.request("GET", "/", &[], b"").expect("an answer").text();
        *answers.entry(text).or_insert(0) += 1;
    }
    assert_eq!(answers, BTreeMap::from([(guests::greeting(1), 36), (guests::greeting(2), 64)]));
    change(3, 1000);
    assert_answered(&mut kept, &guests::greeting(3));
}

#[test]
fn without_a_successor_connections_are_told_to_close() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let mut launcher = site.run(HELLO);
    let mut kept = idle(&launcher.address("hello"), 4);
    launcher.signal(Signal::SIGTERM);
    launcher.wait_many(0, 2, "draining", |event| event.is("draining"));
    for connection in &mut kept {
        // The worker may hear of the stop after the first answers; every request before the close is answered.
        let begun = Instant::now();
        while connection.request("GET", "/", &[], b"").expect("an answer").head.header("connection") != Some("close") {
            assert!(begun.elapsed() < PATIENCE, "it is not told to close\n{}", launcher.story());
        }
    }
    assert_eq!(launcher.exit().code(), Some(0), "{}", launcher.story());
}
