//! Plugins that own their sockets: nothing is lost when workers change, and what breaks is told.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::control::Control;
use crate::harness::http::fetch;
use crate::harness::launcher::eventually;
use crate::harness::{Launcher, PATIENCE, Site, guests, process};

/// A service of one plugin; `more` are further keys.
fn service(plugin: &str, more: &str) -> String {
    let plugin = guests::native(plugin);
    format!("services: {{ s: {{ plugin: {}, listen: 127.0.0.1:0, {more} }} }}", plugin.display())
}

/// The plugin that breaks in this way.
fn misbehave(how: &str, more: &str) -> String {
    service("misbehave-sockets", &format!("workers: 1, config: {{ how: {how} }}, {more}"))
}

/// A connection that speaks in lines.
struct Lines(BufReader<TcpStream>);

impl Lines {
    fn open(address: &str) -> Lines {
        let stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("connect to {address}: {error}"));
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        Lines(BufReader::new(stream))
    }

    /// The next line; `None`: the end.
    fn read(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.0.read_line(&mut line).unwrap_or_else(|error| panic!("read a line: {error}"));
        (read > 0).then_some(line)
    }

    /// What is said to this line.
    fn ask(&mut self, line: &str) -> Option<String> {
        self.0.get_mut().write_all(line.as_bytes()).unwrap_or_else(|error| panic!("write a line: {error}"));
        self.read()
    }

    /// The number of the worker at the other end.
    fn worker(&mut self) -> u64 {
        let answer = self.ask("who\n").expect("an answer");
        let number = answer.split_whitespace().nth(1).and_then(|number| number.parse().ok());
        number.unwrap_or_else(|| panic!("no worker in {answer:?}"))
    }
}

fn promoted(launcher: &Launcher, mark: usize) {
    launcher.wait_after(mark, "promoted", |event| event.is("promoted"));
}

fn stop(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid as i32), signal).expect("it runs");
}

/// Starts an example with its configuration, at an address of loopback to itself.
fn example(site: &Site, name: &str, number: u32) -> (Launcher, String) {
    let directory = guests::project().join("examples/sockets").join(name);
    let yaml = fs::read_to_string(directory.join("config.yaml")).expect("read the configuration");
    let host = format!("127.78.{}.{number}", std::process::id() % 250);
    let built = guests::native("echo-lines");
    let built = built.parent().expect("a directory").display().to_string();
    let yaml = match name {
        "axum" => yaml.replace("target/release/libaxum_app.so", &guests::axum_app().display().to_string()),
        _ => yaml,
    };
    let yaml = yaml.replace("127.0.0.1", &host).replace("../../../target/release", &built);
    let yaml = yaml.replace("../../../", &format!("{}/", guests::project().display()));
    if directory.join("poll.c").exists() {
        fs::copy(directory.join("poll.c"), site.path("poll.c")).expect("copy the source");
    }
    (site.run(&yaml), host)
}

#[test]
fn every_example_serves_and_stops() {
    let site = Site::new();
    let (mut launcher, _) = example(&site, "echo", 1);
    assert_eq!(Lines::open(&launcher.address("echo")).ask("hi\n").as_deref(), Some("hi\n"));
    assert_eq!(Control::of(&site).service("echo")["kind"], "socket");
    launcher.stop();

    let (mut launcher, _) = example(&site, "udp", 2);
    let address = launcher.address("udp");
    let address = address.strip_prefix("udp://").expect("a UDP address");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("binds");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    socket.send_to(b"ping", address).expect("sends");
    let mut answer = [0; 64];
    let (length, from) = socket.recv_from(&mut answer).expect("an answer");
    assert_eq!((&answer[..length], from.to_string().as_str()), (&b"ping"[..], address));
    launcher.stop();

    let (mut launcher, _) = example(&site, "unix", 3);
    let mut said = String::new();
    let mut client = UnixStream::connect(site.path("hello.sock")).expect("connects");
    client.read_to_string(&mut said).expect("a greeting");
    assert_eq!(said, format!("hello, user {}, process {}\n", nix::unistd::getuid(), std::process::id()));
    launcher.stop();
    assert!(!site.path("hello.sock").exists(), "{}", launcher.story());

    let (mut launcher, host) = example(&site, "axum", 4);
    assert_eq!(fetch(&format!("{host}:7009"), "/").text(), "Hello from axum!\n");
    let order = fetch(&format!("{host}:7009"), "/orders/7").text();
    assert!(order.starts_with(r#"{"id":7,"served_by":"#), "{order}");
    launcher.stop();

    let (mut launcher, host) = example(&site, "poll-c", 5);
    assert_eq!(Lines::open(&format!("{host}:7010")).ask("from C\n").as_deref(), Some("from C\n"));
    launcher.stop();
}

#[test]
fn hot_restarts_lose_no_connection() {
    let site = Site::new();
    let launcher = site.run(&service("echo-lines", "workers: 3"));
    let address = launcher.address("s");
    let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|client| {
            let (over, asked, address) = (Arc::clone(&over), Arc::clone(&asked), address.clone());
            thread::spawn(move || {
                let mut workers = std::collections::BTreeSet::new();
                while !over.load(Ordering::Relaxed) {
                    let mut connection = Lines::open(&address);
                    let line = format!("{client}\n");
                    assert_eq!(connection.ask(&line), Some(line));
                    workers.insert(connection.worker());
                    asked.fetch_add(1, Ordering::Relaxed);
                }
                workers
            })
        })
        .collect();
    let mut idle = Lines::open(&address);
    assert_eq!(idle.ask("here\n").as_deref(), Some("here\n"));
    for _ in 0..5 {
        let (mark, before) = (launcher.mark(), asked.load(Ordering::Relaxed));
        let restarted = site.output(["restart", "s", "--wait"]);
        assert!(restarted.status.success(), "{restarted:?}\n{}", launcher.story());
        assert!(eventually(|| asked.load(Ordering::Relaxed) > before + 50), "{}", launcher.story());
        launcher.wait_many(mark, 3, "exited", |event| event.is("exited"));
    }
    // Who says nothing sees a clean end, and no reset.
    assert_eq!(idle.read(), None);
    over.store(true, Ordering::Relaxed);
    let workers: std::collections::BTreeSet<u64> =
        clients.into_iter().flat_map(|client| client.join().expect("every line was answered")).collect();
    assert!(workers.len() > 3, "workers of several generations answered: {workers:?}");
    let exits = launcher.events_after(0, |event| event.is("exited"));
    assert!(exits.iter().all(|exit| exit.number("code") == 0), "{}", launcher.story());
}

#[test]
fn datagrams_are_answered_across_restarts() {
    let site = Site::new();
    let plugin = guests::native("udp-responder");
    let launcher = site.run(&format!(
        "services: {{ s: {{ plugin: {}, listen: 'udp://127.0.0.1:0', workers: 2 }} }}",
        plugin.display()
    ));
    let address = launcher.address("s").replace("udp://", "");
    let over = Arc::new(AtomicBool::new(false));
    let asking = Arc::clone(&over);
    let client = thread::spawn(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("binds");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let mut number = 0_u64;
        while !asking.load(Ordering::Relaxed) {
            number += 1;
            socket.send_to(&number.to_ne_bytes(), &address).expect("sends");
            let mut answer = [0; 8];
            socket.recv(&mut answer).unwrap_or_else(|error| panic!("no answer to datagram {number}: {error}"));
            assert_eq!(answer, number.to_ne_bytes());
        }
        number
    });
    for _ in 0..5 {
        let restarted = site.output(["restart", "s", "--wait"]);
        assert!(restarted.status.success(), "{restarted:?}\n{}", launcher.story());
    }
    over.store(true, Ordering::Relaxed);
    assert!(client.join().expect("every datagram was answered") > 5);
}

#[test]
fn a_killed_worker_takes_only_its_own_connections_with_it() {
    let site = Site::new();
    let launcher = site.run(&service("echo-lines", "workers: 2, restart: { backoff: 1ms..10ms, budget: 100/60s }"));
    let address = launcher.address("s");
    let mut connections: Vec<(u64, Lines)> = Vec::new();
    while connections.len() < 40 || connections.iter().all(|(worker, _)| *worker == connections[0].0) {
        let mut connection = Lines::open(&address);
        connections.push((connection.worker(), connection));
        assert!(connections.len() < 10_000, "one worker takes everything\n{}", launcher.story());
    }
    let victim = connections[0].0;
    let ready = launcher.wait("ready", |event| event.is("ready") && event.number("worker") == victim);
    let mark = launcher.mark();
    stop(ready.number("pid") as u32, Signal::SIGKILL);
    launcher.wait_after(mark, "exited", |event| event.is("exited"));
    for (worker, connection) in &mut connections {
        if *worker == victim {
            let mut byte = [0];
            let ended = match connection.0.get_mut().read(&mut byte) {
                Ok(read) => read == 0,
                Err(error) => error.kind() == ErrorKind::ConnectionReset,
            };
            assert!(ended, "{}", launcher.story());
        } else {
            assert_eq!(connection.ask("still\n").as_deref(), Some("still\n"), "{}", launcher.story());
        }
    }
    launcher.workers_after(mark, 1);
    assert_eq!(Lines::open(&address).ask("anew\n").as_deref(), Some("anew\n"));
}

#[test]
fn connections_outlive_the_master_and_the_next_one_goes_on_with_the_workers() {
    let site = Site::new();
    let launcher = site.run(&service("echo-lines", "workers: 2"));
    let mut connection = Lines::open(&launcher.address("s"));
    let worker = connection.worker();
    for _ in 0..3 {
        let mark = launcher.mark();
        stop(launcher.master(), Signal::SIGKILL);
        launcher.wait_after(mark, "adopted", |event| event.is("adopted"));
        assert_eq!(connection.worker(), worker);
        assert_eq!(Control::of(&site).ready("s").len(), 2, "{}", launcher.story());
    }
    assert!(launcher.events_after(0, |event| event.is("exited")).is_empty(), "{}", launcher.story());
}

#[test]
fn the_word_to_stop_is_heard_as_a_future_as_a_flag_and_by_a_descriptor() {
    for yaml in [service("echo-lines", "workers: 2"), misbehave("flag", ""), misbehave("not", "")] {
        let site = Site::new();
        let mut launcher = site.run(&yaml);
        drop(TcpStream::connect(launcher.address("s")).expect("connects"));
        let since = Instant::now();
        launcher.stop();
        assert!(since.elapsed() < Duration::from_secs(20), "it was killed\n{}", launcher.story());
        for exited in launcher.events_after(0, |event| event.is("exited")) {
            assert_eq!(exited.number("code"), 0, "{}", launcher.story());
        }
    }
}

#[test]
fn a_loop_of_the_sdk_turns_the_workers_and_others_have_a_thread() {
    // Beside the first thread there is one that waits for the master's death, with descriptors of its own.
    for (yaml, threads) in [(service("misbehave-loop", ""), 2), (misbehave("not", ""), 3)] {
        let site = Site::new();
        let launcher = site.run(&yaml);
        drop(TcpStream::connect(launcher.address("s")).expect("connects"));
        let ready = launcher.wait("ready", |event| event.is("ready"));
        let found = process::tasks(ready.number("pid") as u32);
        assert_eq!(found.len(), threads, "{found:?}");
    }
}

#[test]
fn who_blocks_the_loop_that_turns_the_workers_hears_and_sends_all_the_same() {
    let site = Site::new();
    let mut launcher = site.run(&service("misbehave-loop", "workers: 2"));
    let address = launcher.address("s");
    for _ in 0..1000 {
        let mut client = Lines::open(&address);
        let adopted = client.ask("give\n").expect("an answer");
        assert!(adopted.starts_with("mine, says "), "{adopted}");
    }
    let mut waiting = Lines::open(&address);
    waiting.0.get_mut().write_all(b"hello\nawait\n").expect("writes");
    assert_eq!(waiting.read().as_deref(), Some("hello\n"));
    let since = Instant::now();
    launcher.stop();
    assert_eq!(waiting.read().as_deref(), Some("await\n"), "{}", launcher.story());
    assert!(since.elapsed() < Duration::from_secs(20), "it was killed\n{}", launcher.story());
    for exited in launcher.events_after(0, |event| event.is("exited")) {
        assert_eq!(exited.number("code"), 0, "{}", launcher.story());
    }
}

#[test]
fn who_never_says_that_it_is_ready_is_not_promoted() {
    let site = Site::new();
    let quick = "reload: { ready_timeout: 300ms }";
    let mut launcher = site.start(&misbehave("never-ready", quick));
    assert_eq!(launcher.exit().code(), Some(1), "{}", launcher.story());
    assert!(
        launcher.events_after(0, |event| event.is("ready") || event.is("promoted")).is_empty(),
        "{}",
        launcher.story()
    );

    let launcher = site.run(&misbehave("not", quick));
    let address = launcher.address("s");
    let mark = launcher.mark();
    site.configure(&misbehave("never-ready", quick));
    launcher.wait_after(mark, "rolled_back", |event| event.is("rolled_back"));
    assert_eq!(Lines::open(&address).read().as_deref(), Some("hello\n"), "{}", launcher.story());
}

#[test]
fn who_is_slow_to_say_that_it_is_ready_is_told_what_is_missing() {
    let site = Site::new();
    let launcher = site.start(&misbehave("never-ready", ""));
    let lines = launcher.wait_lines(1, "a hint", |line| line.text.contains("not ready yet"));
    assert!(lines[0].text.contains("sockets.ready()"), "{lines:?}");
    // Whoever is ready in time reads nothing of it.
    let ready = Site::new();
    let ready = ready.run(&misbehave("not", ""));
    assert_eq!(Lines::open(&ready.address("s")).read().as_deref(), Some("hello\n"));
    assert!(!ready.story().contains("not ready yet"), "{}", ready.story());
}

#[test]
fn coming_back_unasked_is_a_crash() {
    for (how, reason) in [
        ("at-once", "it came back before it was told to stop"),
        ("refuse", "it does not want to"),
        ("panic", "it panicked while it served"),
    ] {
        let site = Site::new();
        let mut launcher = site.start(&misbehave(how, "restart: { backoff: 1ms..10ms }"));
        assert_eq!(launcher.exit().code(), Some(1), "{how}\n{}", launcher.story());
        let exited = launcher.wait("exited", |event| event.is("exited"));
        assert!(exited.text("reason").contains(reason), "{how}: {exited:?}");
        assert!(exited.text("reason").contains("misbehave_sockets"), "{how}: {exited:?}");
    }
    let site = Site::new();
    let launcher = site.run(&misbehave("after-one", "restart: { backoff: 1ms..10ms, budget: 100/60s }"));
    for _ in 0..5 {
        let mark = launcher.mark();
        assert_eq!(Lines::open(&launcher.address("s")).read().as_deref(), Some("hello\n"));
        let exited = launcher.wait_after(mark, "exited", |event| event.is("exited"));
        assert!(exited.text("reason").contains("it came back before it was told to stop"), "{exited:?}");
        assert_eq!(exited.number("code"), 1);
    }
}

#[test]
fn a_panic_in_a_thread_of_its_own_is_the_plugins_business() {
    let site = Site::new();
    let mut launcher = site.run(&misbehave("panic-in-thread", ""));
    launcher.wait_lines(1, "the panic", |line| line.text.contains("on purpose, in a thread"));
    launcher.wait_lines(1, "the plugin's own words", |line| line.text.contains("the thread ended: true"));
    assert_eq!(Lines::open(&launcher.address("s")).read().as_deref(), Some("hello\n"));
    launcher.stop();
}

#[test]
fn who_does_not_hear_is_killed_at_the_deadline() {
    for how in ["deaf", "lingers"] {
        let site = Site::new();
        let mut launcher = site.run(&misbehave(how, "stop: { drain_timeout: 300ms }"));
        let since = Instant::now();
        launcher.stop();
        assert!(since.elapsed() >= Duration::from_millis(300), "{}", launcher.story());
        let exited = launcher.wait("exited", |event| event.is("exited"));
        assert_eq!(exited.number("signal"), 9, "{exited:?}");
    }
}

#[test]
fn a_promotion_is_told_when_the_old_ones_say_that_they_accept_no_more() {
    let site = Site::new();
    let launcher = site.run(&misbehave("lingers", "stop: { drain_timeout: 60s }"));
    let mark = launcher.mark();
    site.configure(&misbehave("not", "stop: { drain_timeout: 60s }"));
    promoted(&launcher, mark);
    // It said so, and lives.
    assert!(launcher.events_after(mark, |event| event.is("exited")).is_empty(), "{}", launcher.story());
    assert_eq!(Lines::open(&launcher.address("s")).read().as_deref(), Some("hello\n"));
}

#[test]
fn what_is_said_too_often_or_too_early_does_no_harm() {
    let site = Site::new();
    let mut launcher = site.run(&misbehave("chatty", ""));
    assert_eq!(Lines::open(&launcher.address("s")).read().as_deref(), Some("hello\n"));
    let mark = launcher.mark();
    let restarted = site.output(["restart", "s", "--wait"]);
    assert!(restarted.status.success(), "{restarted:?}\n{}", launcher.story());
    launcher.wait_after(mark, "exited", |event| event.is("exited") && event.number("code") == 0);
    launcher.stop();
}

#[test]
fn a_failure_while_it_stops_is_told_and_holds_nobody_up() {
    let site = Site::new();
    let mut launcher = site.run(&misbehave("fail-late", ""));
    launcher.stop();
    let exited = launcher.wait("exited", |event| event.is("exited"));
    assert!(exited.text("reason").contains("it could not finish"), "{exited:?}");
}

#[test]
fn a_socket_that_nobody_took_is_told() {
    let site = Site::new();
    let mut launcher = site.run(&misbehave("takes-nothing", ""));
    let lines = launcher.wait_lines(1, "a warning", |line| line.text.contains("nobody serves"));
    assert!(lines[0].text.starts_with("WARN") && lines[0].text.contains("127.0.0.1"), "{lines:?}");
    launcher.stop();
}

#[test]
fn nobody_claims_to_count_what_is_the_plugins() {
    let site = Site::new();
    site.write("lines.wasm", guests::lines());
    let native = guests::native("echo-lines");
    let launcher = site.run(&format!(
        "services:\n  native: {{ plugin: {}, listen: 127.0.0.1:0, workers: 1 }}\n  program: {{ plugin: lines.wasm, listen: 127.0.0.1:0, workers: 1 }}\n",
        native.display()
    ));
    let open = ["native", "program"].map(|name| {
        let mut talk = Lines::open(&launcher.address(name));
        assert!(talk.ask("who\n").is_some());
        talk
    });
    let worker = |name: &str| Control::of(&site).service(name)["workers"][0].clone();
    let (native, program) = (worker("native"), worker("program"));
    for number in ["connections", "accepted", "requests"] {
        assert!(native[number].is_null(), "{native}");
    }
    assert_eq!((program["connections"].as_u64(), program["accepted"].as_u64()), (Some(1), Some(1)), "{program}");
    assert!(program["requests"].is_null(), "{program}");
    let metrics = fetch(&launcher.address("master"), "/metrics").text();
    assert!(metrics.contains("launcher_connections_open{service=\"program\"} 1\n"), "{metrics}");
    for absent in ["launcher_connections_open{service=\"native\"}", "launcher_requests_total{"] {
        assert!(!metrics.contains(absent), "{absent}\n{metrics}");
    }
    let status = String::from_utf8(site.output(["status"]).stdout).expect("text");
    let row = |service: &str| status.lines().find(|line| line.starts_with(service)).unwrap_or_default().to_owned();
    assert!(row("native").ends_with("-         -") && row("program").ends_with("1         -"), "{status}");
    drop(open);
}

#[test]
fn keys_of_http_are_refused_with_their_lines() {
    let site = Site::new();
    let plugin = guests::native("misbehave-sockets");
    let yaml = format!(
        "services:\n  s:\n    plugin: {}\n    config: {{ how: not }}\n    workers: 1\n    listen: 127.0.0.1:0\n    access_log: json\n    limits:\n      idle_timeout: 5s\n",
        plugin.display()
    );
    let mut launcher = site.start(&yaml);
    assert_eq!(launcher.exit().code(), Some(2), "{}", launcher.story());
    for said in ["config.yaml:7:5: access_log: has no effect", "config.yaml:9:7: limits.idle_timeout: has no effect"] {
        assert!(eventually(|| launcher.story().contains(said)), "{said}\n{}", launcher.story());
    }
    let checked = site.output(["check"]);
    let shown = String::from_utf8_lossy(&checked.stderr);
    assert_eq!(checked.status.code(), Some(2), "{shown}");
    assert!(shown.contains("config.yaml:7:5") && shown.contains("config.yaml:9:7"), "{shown}");
    // A reload to such a file changes nothing.
    let good = yaml.replace("    access_log: json\n    limits:\n      idle_timeout: 5s\n", "");
    let launcher = site.run(&good);
    let mark = launcher.mark();
    site.configure(&yaml);
    let failed = launcher.wait_after(mark, "reload_failed", |event| event.is("reload_failed"));
    assert!(failed.text("reason").contains("limits.idle_timeout: has no effect"), "{failed:?}");
    assert_eq!(Lines::open(&launcher.address("s")).read().as_deref(), Some("hello\n"));
    let inspected = site.output(["inspect", &plugin.display().to_string()]);
    assert!(String::from_utf8_lossy(&inspected.stdout).contains("owns its sockets"), "{inspected:?}");
}

#[test]
fn out_of_descriptors_a_connection_waits_for_better_times() {
    let site = Site::new();
    let launcher = site.run(&service("echo-lines", "workers: 1"));
    let address = launcher.address("s");
    assert_eq!(Lines::open(&address).ask("before\n").as_deref(), Some("before\n"));
    let pid = launcher.workers(1)[0];
    process::forbid_descriptors(pid);
    let mut waiting = Lines::open(&address);
    waiting.0.get_mut().write_all(b"waited\n").expect("it is queued");
    launcher.wait_lines(1, "a warning", |line| line.text.contains("cannot accept"));
    process::allow_descriptors(pid);
    assert_eq!(waiting.read().as_deref(), Some("waited\n"), "{}", launcher.story());
    assert!(launcher.events_after(0, |event| event.is("exited")).is_empty(), "{}", launcher.story());
}

#[test]
fn a_stale_unix_socket_is_found_by_connecting_and_a_live_one_never_taken() {
    let hello = |path: &Path| {
        let plugin = guests::native("unix-server");
        format!("services: {{ s: {{ plugin: {}, workers: 1, listen: 'unix:{}' }} }}", plugin.display(), path.display())
    };
    let site = Site::new();
    let path = site.path("hello.sock");
    let greeted = || {
        let mut said = String::new();
        UnixStream::connect(&path).expect("connects").read_to_string(&mut said).expect("a greeting");
        assert!(said.starts_with("hello, user"), "{said}");
    };
    let mut launcher = site.run(&hello(&path));
    greeted();
    let (worker, master) = (launcher.workers(1)[0], launcher.master());
    launcher.kill();
    // The keeper and the master have the lock of the directory until they are gone.
    launcher.exit();
    for pid in [master, worker] {
        assert!(process::ends(pid, PATIENCE), "{pid} goes on\n{}", launcher.story());
    }
    assert!(path.exists(), "nobody was left to unlink it");
    let launcher = site.run(&hello(&path));
    greeted();
    // Another launcher, with a state directory of its own.
    let config = site.write("other/config.yaml", hello(&path));
    let refused = site.command(["run"]).arg(config).output().expect("start the launcher");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("another program listens there"), "{said}");
    greeted();
    drop(launcher);
}

#[test]
fn workers_are_replaced_by_age_and_nobody_is_refused() {
    let site = Site::new();
    let launcher = site.run(&service("echo-lines", "workers: 1, limits: { max_lifetime: 200ms }"));
    let address = launcher.address("s");
    let mut seen = std::collections::BTreeSet::new();
    assert!(
        eventually(|| {
            seen.insert(Lines::open(&address).worker());
            seen.len() > 3
        }),
        "{}",
        launcher.story()
    );
    let exits = launcher.events_after(0, |event| event.is("exited"));
    assert!(exits.iter().all(|exit| exit.number("code") == 0), "{}", launcher.story());
}
