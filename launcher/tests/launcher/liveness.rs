//! A worker whose loop stands still is replaced, and says where it stood; one that rests is left alone.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::http::{Connection, fetch};
use crate::harness::{Event, Launcher, PATIENCE, Site, guests, process};

/// Services of one worker each that runs the plugin which misbehaves, and gives up on it after 3 seconds.
fn misbehave(site: &Site, services: &[&str]) -> Launcher {
    watched(site, services, "misbehave", "3s")
}

/// Services of one worker each whose plugin owns its socket and a loop, and gives up on it after 3 seconds.
fn loops(site: &Site, services: &[&str]) -> Launcher {
    watched(site, services, "misbehave-loop", "3s")
}

fn watched(site: &Site, services: &[&str], plugin: &str, timeout: &str) -> Launcher {
    let plugin = guests::native(plugin);
    let entry = |name: &&str| {
        let (plugin, limits) = (plugin.display(), format!("{{ stuck_timeout: {timeout} }}"));
        format!("  {name}: {{ plugin: {plugin}, listen: 127.0.0.1:0, workers: 1, limits: {limits} }}\n")
    };
    site.run(&format!("\nservices:\n{}", services.iter().map(entry).collect::<String>()))
}

/// Says a line and waits for nothing. The connection must be kept.
fn say(address: &str, line: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream.write_all(format!("{line}\n").as_bytes()).expect("write a line");
    stream
}

/// It is said back.
fn hear(stream: &TcpStream, line: &str) {
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap_or_else(|error| panic!("{line}: {error}"));
    assert_eq!(answer.trim_end(), line);
}

/// Sends a request and waits for nothing. The connection must be kept.
fn ask(address: &str, target: &str) -> Connection {
    let mut connection = Connection::open(address).expect("connect");
    connection.send_head("GET", target, &[]).expect("send the head");
    connection
}

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid as i32), signal).expect("signal a process");
}

fn stuck(launcher: &Launcher, service: &str) -> Event {
    launcher.wait("stuck", |event| event.is("stuck") && event.of(service))
}

#[test]
fn a_worker_that_computes_or_waits_for_ever_is_replaced_and_says_where_it_was() {
    let site = Site::new();
    let launcher = misbehave(&site, &["x"]);
    let address = launcher.address("x");
    for target in ["/loop", "/block"] {
        let mark = launcher.mark();
        let [pid] = launcher.workers_after(0, 1)[..] else { panic!("one worker") };
        assert!(process::runs(pid) || target == "/block");
        let cut = ask(&address, target);
        let stuck = launcher.wait_after(mark, "stuck", |event| event.is("stuck"));
        assert!((3000..6000).contains(&stuck.number("silent_ms")), "{stuck:?}");
        let frames = format!("{stuck:?}");
        assert!(frames.contains("misbehave::") && frames.contains("#1 "), "{target}: {frames}");
        let exited = launcher.wait_after(mark, "exited", |event| event.is("exited"));
        assert_eq!(exited.number("signal"), Signal::SIGQUIT as u64, "{exited:?}");
        assert!(exited.text("reason").contains("its loop stood still for 3s"), "{exited:?}");
        launcher.wait_after(mark, "ready", |event| event.is("ready"));
        assert_eq!(fetch(&address, "/").text(), "it behaves\n");
        drop(cut);
    }
}

#[test]
fn a_worker_that_stands_still_at_rest_is_left_alone() {
    let site = Site::new();
    let launcher = misbehave(&site, &["resting", "working", "other"]);
    let pids: Vec<u32> = ["resting", "working"]
        .map(|name| {
            let ready = launcher.wait("ready", |event| event.is("ready") && event.of(name));
            ready.number("pid") as u32
        })
        .to_vec();
    // Ready was news, so all of them are at work for a second. Who stands still after it rests.
    thread::sleep(Duration::from_secs(3));
    send(pids[0], Signal::SIGSTOP);
    assert_eq!(fetch(&launcher.address("working"), "/").text(), "it behaves\n");
    send(pids[1], Signal::SIGSTOP);
    let looping = ask(&launcher.address("other"), "/loop");
    // It cannot say where it is, and is killed a while later than the one that can.
    let told = stuck(&launcher, "working");
    assert!(!format!("{told:?}").contains("#1 "), "{told:?}");
    stuck(&launcher, "other");
    let of_the_resting = launcher.events_after(0, |event| event.of("resting") && event.is("exited"));
    assert!(of_the_resting.is_empty(), "{of_the_resting:?}");
    send(pids[0], Signal::SIGCONT);
    assert_eq!(fetch(&launcher.address("resting"), "/").text(), "it behaves\n");
    drop(looping);
}

#[test]
fn nobody_is_blamed_when_the_whole_machine_stands_still() {
    let site = Site::new();
    let launcher = misbehave(&site, &["x"]);
    let address = launcher.address("x");
    let all = [launcher.workers(1)[0], launcher.master(), launcher.pid()];
    assert_eq!(fetch(&address, "/").text(), "it behaves\n");
    all.iter().for_each(|pid| send(*pid, Signal::SIGSTOP));
    thread::sleep(Duration::from_secs(5)); // longer than a worker may stand still
    // The master first: it must not judge before the others had their turn.
    all.iter().skip(1).for_each(|pid| send(*pid, Signal::SIGCONT));
    thread::sleep(Duration::from_millis(200));
    send(all[0], Signal::SIGCONT);
    assert_eq!(fetch(&address, "/").text(), "it behaves\n");
    let looping = ask(&address, "/loop");
    let stuck = stuck(&launcher, "x");
    assert_eq!(stuck.number("pid"), u64::from(all[0]));
    assert!(stuck.number("silent_ms") >= 3000, "{stuck:?}");
    assert_eq!(launcher.events_after(0, |event| event.is("stuck")).len(), 1, "only the one that is stuck");
    drop(looping);
}

#[test]
fn a_worker_that_is_stuck_when_its_master_dies_is_replaced_by_the_next() {
    let site = Site::new();
    // So long that a busy machine does not let the first master find it.
    let launcher = watched(&site, &["x"], "misbehave", "8s");
    let address = launcher.address("x");
    let pid = launcher.workers(1)[0];
    let looping = ask(&address, "/loop");
    // Little, as a busy machine may give it no more before it is found.
    let spinning = || process::processor_time(pid) > Duration::from_millis(50);
    assert!(crate::harness::launcher::eventually(spinning), "it computes");
    send(launcher.master(), Signal::SIGKILL);
    launcher.wait("adopted", |event| event.is("adopted"));
    let stuck = stuck(&launcher, "x");
    assert_eq!(stuck.number("pid"), u64::from(pid));
    assert_eq!(fetch(&address, "/").text(), "it behaves\n");
    drop(looping);
}

#[test]
fn a_worker_of_wasm_says_where_it_is_when_it_is_asked_by_hand() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let launcher = site.run("services: { hello: { plugin: hello.wasm, listen: 127.0.0.1:0, workers: 1 } }");
    let address = launcher.address("hello");
    send(launcher.workers(1)[0], Signal::SIGQUIT);
    let exited = launcher.wait("exited", |event| event.is("exited"));
    assert_eq!(exited.number("signal"), Signal::SIGQUIT as u64, "{exited:?}");
    launcher.wait_lines(1, "FATAL SIGQUIT", |line| line.text.starts_with("FATAL SIGQUIT"));
    launcher.wait_lines(1, "a frame", |line| line.text.starts_with("  #0 "));
    assert!(launcher.events_after(0, |event| event.is("stuck")).is_empty(), "nobody was stuck");
    // Connected while nobody accepts, it waits.
    drop(TcpStream::connect(&address).expect("connect"));
    assert_eq!(fetch(&address, "/").text(), guests::greeting(1));
}

#[test]
fn the_loop_of_a_plugin_that_owns_its_sockets_is_watched_and_says_where_it_was() {
    let site = Site::new();
    let launcher = loops(&site, &["x"]);
    let address = launcher.address("x");
    for line in ["loop", "block"] {
        let mark = launcher.mark();
        let cut = say(&address, line);
        let stuck = launcher.wait_after(mark, "stuck", |event| event.is("stuck"));
        assert!((3000..6000).contains(&stuck.number("silent_ms")), "{stuck:?}");
        let frames = format!("{stuck:?}");
        let function = if line == "loop" { "misbehave_loop::compute" } else { "misbehave_loop::wait" };
        assert!(frames.contains(function), "{line}: {frames}");
        let exited = launcher.wait_after(mark, "exited", |event| event.is("exited"));
        assert_eq!(exited.number("signal"), Signal::SIGQUIT as u64, "{exited:?}");
        launcher.wait_after(mark, "ready", |event| event.is("ready"));
        hear(&say(&address, "hello"), "hello");
        drop(cut);
    }
}

#[test]
fn a_loop_that_never_waits_is_alive_and_one_that_waits_costs_nothing() {
    let site = Site::new();
    let launcher = loops(&site, &["toiling", "resting", "judge"]);
    let (toiling, resting) = (launcher.address("toiling"), launcher.address("resting"));
    let quiet = say(&resting, "hello");
    hear(&quiet, "hello");
    let toils = say(&toiling, "toil");
    let pid = |name: &str| launcher.wait("ready", |event| event.is("ready") && event.of(name)).number("pid") as u32;
    let (toiler, rester) = (pid("toiling"), pid("resting"));
    let spins = || process::processor_time(toiler) > Duration::from_millis(200);
    assert!(crate::harness::launcher::eventually(spins), "it has no rest");
    // Whoever would be given up is given up in the time in which this one is, twice.
    for round in 0..2 {
        let mark = launcher.mark();
        let cut = say(&launcher.address("judge"), "loop");
        let before = process::sleeps(rester);
        launcher.wait_after(mark, "stuck", |event| event.is("stuck") && event.of("judge"));
        let woke = process::woke_since(rester, &before);
        // The first round may have begun before the second of its beat was over.
        assert!(woke <= if round == 0 { 6 } else { 2 }, "it woke {woke} times at rest");
        drop(cut);
        launcher.wait_after(mark, "ready", |event| event.is("ready") && event.of("judge"));
    }
    let ended = launcher.events_after(0, |event| event.is("exited") && !event.of("judge"));
    assert!(ended.is_empty(), "{ended:?}");
    // Who rests may even stand still.
    send(rester, Signal::SIGSTOP);
    let cut = say(&launcher.address("judge"), "block");
    let mark = launcher.mark();
    launcher.wait_after(mark, "stuck", |event| event.is("stuck") && event.of("judge"));
    send(rester, Signal::SIGCONT);
    hear(&say(&resting, "hello"), "hello");
    hear(&say(&toiling, "rest"), "rest");
    hear(&toils, "toil");
    let ended = launcher.events_after(0, |event| event.is("exited") && !event.of("judge"));
    assert!(ended.is_empty(), "{ended:?}");
    drop((cut, quiet));
}
