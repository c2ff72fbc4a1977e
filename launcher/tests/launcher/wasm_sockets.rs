//! A WASM program that binds and listens gets the sockets of its service, and nothing else of the network.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::control::Control;
use crate::harness::launcher::Event;
use crate::harness::peer::Peer;
use crate::harness::{Launcher, PATIENCE, Site, guests};

/// A connection to a guest that answers each line with a line.
struct Talk {
    reader: BufReader<TcpStream>,
}

impl Talk {
    fn open(address: &str) -> io::Result<Talk> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Talk { reader: BufReader::new(stream) })
    }

    /// The answer to a line; the end of the connection is an error.
    fn ask(&mut self, line: &str) -> io::Result<String> {
        self.reader.get_mut().write_all(format!("{line}\n").as_bytes())?;
        let mut answer = String::new();
        self.reader.read_line(&mut answer)?;
        match answer.strip_suffix('\n') {
            Some(answer) => Ok(answer.to_owned()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// The worker at the other end and its generation.
    fn who(&mut self) -> io::Result<(u64, u64)> {
        let answer = self.ask("who")?;
        let (worker, generation) = answer.split_once(' ').unwrap_or_else(|| panic!("nobody says {answer:?}"));
        let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("nobody says {answer:?}"));
        Ok((number(worker), number(generation)))
    }
}

/// One question on a connection of its own.
pub(crate) fn ask(address: &str, line: &str) -> String {
    let answer = Talk::open(address).and_then(|mut talk| talk.ask(line));
    answer.unwrap_or_else(|error| panic!("{line} to {address}: {error}"))
}

/// Clients that connect, ask five times and leave, and never try again.
struct Clients {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Clients {
    fn start(address: &str, number: usize) -> Clients {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..number).map(|_| {
            let (stop, answered, address) = (Arc::clone(&stop), Arc::clone(&answered), address.to_owned());
            std::thread::spawn(move || {
                let mut failures = Vec::new();
                while !stop.load(Relaxed) {
                    let conversation = Talk::open(&address).and_then(|mut talk| {
                        for _ in 0..5 {
                            talk.who()?;
                            answered.fetch_add(1, Relaxed);
                        }
                        Ok(())
                    });
                    failures.extend(conversation.err().map(|error| error.to_string()));
                }
                failures
            })
        });
        let threads = threads.collect();
        Clients { stop, answered, threads }
    }

    /// Waits until so many more questions are answered.
    fn more(&self, number: u64) {
        let wanted = self.answered.load(Relaxed) + number;
        let deadline = std::time::Instant::now() + PATIENCE;
        while self.answered.load(Relaxed) < wanted {
            assert!(std::time::Instant::now() < deadline, "the clients get no answers");
            std::thread::yield_now();
        }
    }

    /// What went wrong.
    fn stop(self) -> Vec<String> {
        self.stop.store(true, Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().expect("a client")).collect()
    }
}

fn lines(site: &Site, more: &str) -> Launcher {
    site.write("lines.wasm", guests::lines());
    site.run(&format!("services: {{ lines: {{ plugin: lines.wasm, listen: 127.0.0.1:0, {more} }} }}"))
}

/// Connections to each of so many workers, at least one.
fn to_each(address: &str, workers: usize) -> Vec<(u64, Talk)> {
    let mut open: Vec<(u64, Talk)> = Vec::new();
    while open.iter().map(|(worker, _)| *worker).collect::<BTreeSet<_>>().len() < workers {
        assert!(open.len() < 500, "{} of {workers} workers take connections", open.len());
        let mut talk = Talk::open(address).expect("connect");
        let (worker, _) = talk.who().expect("an answer");
        open.push((worker, talk));
    }
    open
}

fn pid_of(launcher: &Launcher, worker: u64) -> i32 {
    let ready = launcher.wait("ready", |event| event.is("ready") && event.number("worker") == worker);
    ready.number("pid") as i32
}

fn exits(pid: i32) -> impl Fn(&Event) -> bool {
    move |event| event.is("exited") && event.number("pid") == pid as u64
}

#[test]
fn four_workers_serve_one_port_and_a_restart_and_a_reload_under_load_lose_nothing() {
    let site = Site::alone();
    let mut launcher = lines(&site, "workers: 4");
    let address = launcher.address("lines");
    drop(to_each(&address, 4));
    let clients = Clients::start(&address, 4);
    clients.more(200);
    Control::of(&site).post("/v1/services/lines/restart?wait=true");
    clients.more(200);
    let mark = launcher.mark();
    site.replace("lines.wasm", guests::other_version(&guests::lines()));
    launcher.wait_after(mark, "promoted", |event| event.is("promoted"));
    clients.more(200);
    let failures = clients.stop();
    assert!(failures.is_empty(), "{failures:?}\n{}", launcher.story());
    assert_eq!(Talk::open(&address).and_then(|mut talk| talk.who()).expect("an answer").1, 2);
    launcher.stop();
}

#[test]
fn killing_a_worker_ends_its_connections_and_no_others() {
    let site = Site::alone();
    let launcher = lines(&site, "workers: 4");
    let address = launcher.address("lines");
    let mut open = to_each(&address, 4);
    let victim = open[0].0;
    let mark = launcher.mark();
    let pid = pid_of(&launcher, victim);
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill a worker");
    launcher.wait_after(mark, "ready", |event| event.is("ready"));
    for (worker, talk) in &mut open {
        let answer = talk.who();
        assert_eq!(answer.is_err(), *worker == victim, "worker {worker}, {victim} was killed: {answer:?}");
    }
    assert_eq!(ask(&address, "hello"), "hello");
}

#[test]
fn the_death_of_the_master_is_not_noticed() {
    let site = Site::alone();
    let launcher = lines(&site, "workers: 2");
    let address = launcher.address("lines");
    let mut open = to_each(&address, 2);
    let clients = Clients::start(&address, 2);
    clients.more(50);
    let mark = launcher.mark();
    kill(Pid::from_raw(launcher.master() as i32), Signal::SIGKILL).expect("kill the master");
    launcher.wait_after(mark, "adopted", |event| event.is("adopted"));
    clients.more(50);
    for (worker, talk) in &mut open {
        assert_eq!(talk.who().expect("the same connection").0, *worker);
    }
    let failures = clients.stop();
    assert!(failures.is_empty(), "{failures:?}\n{}", launcher.story());
    let exited = launcher.events_after(0, |event| event.is("exited"));
    assert!(exited.is_empty(), "{exited:?}");
}

#[test]
fn a_worker_that_leaves_accepts_nothing_and_goes_on_with_its_connections() {
    let site = Site::alone();
    let launcher = lines(&site, "workers: 1");
    let address = launcher.address("lines");
    let mut old = Talk::open(&address).expect("connect");
    let (first, _) = old.who().expect("an answer");
    let pid = pid_of(&launcher, first);
    let mark = launcher.mark();
    // A promotion is told when the old workers have said that they accept no more.
    site.replace("lines.wasm", guests::other_version(&guests::lines()));
    launcher.wait_after(mark, "promoted", |event| event.is("promoted"));
    for _ in 0..10 {
        let (now, _) = Talk::open(&address).and_then(|mut talk| talk.who()).expect("an answer");
        assert_ne!(now, first, "a worker that leaves accepted");
        assert_eq!(old.who().expect("the old connection goes on").0, first);
    }
    let mark = launcher.mark();
    drop(old);
    let exited = launcher.wait_after(mark, "exited", exits(pid));
    assert_eq!(exited.number("code"), 0, "{exited:?}");
}

#[test]
fn what_is_open_at_the_deadline_is_ended() {
    let site = Site::alone();
    let launcher = lines(&site, "workers: 1, stop: { drain_timeout: 300ms }");
    let address = launcher.address("lines");
    let mut old = Talk::open(&address).expect("connect");
    let (first, _) = old.who().expect("an answer");
    let pid = pid_of(&launcher, first);
    let mark = launcher.mark();
    Control::of(&site).post("/v1/services/lines/restart?wait=true");
    launcher.wait_after(mark, "exited", exits(pid));
    old.who().expect_err("its worker is gone");
    assert_eq!(ask(&address, "hello"), "hello");
}

/// What a guest is told of addresses that are not its own, in either version of WASI.
fn denials(component: Vec<u8>) {
    let site = Site::new();
    let named = Peer::start();
    let other = Peer::start();
    site.write("lines.wasm", component);
    let launcher = site.run(&format!(
        "
services:
  lines: {{ plugin: lines.wasm, listen: 127.0.0.1:0, wasm: {{ network: [\"{}\"] }} }}
  closed: {{ plugin: lines.wasm, listen: 127.0.0.1:0 }}
",
        named.address()
    ));
    let (address, closed) = (launcher.address("lines"), launcher.address("closed"));
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let port = address.rsplit(':').next().expect("a port");
    let denied = |answer: String| assert!(answer.to_lowercase().contains("access"), "{answer}");
    for bind in [free.to_string(), "127.0.0.1:0".to_owned(), "0.0.0.0:0".to_owned(), format!("0.0.0.0:{port}")] {
        denied(ask(&closed, &format!("bind {bind}")));
    }
    // Another service's address is not this one's, and what is given to it is given once.
    denied(ask(&closed, &format!("bind {address}")));
    let again = ask(&closed, &format!("bind {closed}"));
    assert!(again.to_lowercase().replace('-', "").contains("addressinuse"), "{again}");
    denied(ask(&closed, &format!("connect {}", named.address())));
    denied(ask(&address, &format!("connect {}", other.address())));
    denied(ask(&address, "bind 0.0.0.0:0"));
    assert_eq!(ask(&address, &format!("connect {}", named.address())), "done");
    assert_eq!(other.connections(), 0, "somebody was reached");
    // The operator reads of it.
    launcher.wait_lines(1, "the refusal", |line| line.service == "closed" && line.text.contains(&free.to_string()));
}

#[test]
fn every_other_bind_and_connect_of_a_program_is_denied() {
    denials(guests::lines());
}

#[test]
fn every_other_bind_and_connect_of_a_program_of_wasi_0_3_is_denied() {
    denials(guests::async_lines());
}

#[test]
fn a_program_of_wasi_0_3_shares_its_port_and_is_replaced_without_a_loss() {
    let site = Site::alone();
    site.write("lines.wasm", guests::async_lines());
    let mut launcher = site.run("services: { lines: { plugin: lines.wasm, listen: 127.0.0.1:0, workers: 3 } }");
    let address = launcher.address("lines");
    let mut open = to_each(&address, 3);
    let clients = Clients::start(&address, 4);
    clients.more(200);
    Control::of(&site).post("/v1/services/lines/restart?wait=true");
    clients.more(200);
    for (worker, talk) in &mut open {
        assert_eq!(talk.who().expect("the same connection").0, *worker);
    }
    drop(open);
    let failures = clients.stop();
    assert!(failures.is_empty(), "{failures:?}\n{}", launcher.story());
    launcher.stop();
}

#[test]
fn a_program_that_does_not_go_on_has_crashed() {
    let site = Site::new();
    let launcher = lines(&site, "workers: 1");
    let address = launcher.address("lines");
    for (line, said) in
        [("end", "returned although nobody told it"), ("exit 0", "exit(0)"), ("exit 7", "exit("), ("trap", "trapped")]
    {
        let mut talk = Talk::open(&address).expect("connect");
        let (worker, _) = talk.who().expect("an answer");
        let pid = pid_of(&launcher, worker);
        let mark = launcher.mark();
        // Whether the answer still comes is a race.
        drop(talk.ask(line));
        // The guest's runtime notices that its main future is done when something else happens to it.
        drop(talk);
        let exited = launcher.wait_after(mark, "exited", exits(pid));
        assert!(exited.text("reason").contains(said), "{line}: {exited:?}");
        launcher.wait_after(mark, "ready", |event| event.is("ready"));
    }
    assert_eq!(ask(&address, "hello"), "hello");
}

#[test]
fn a_program_that_computes_for_too_long_is_ended_and_others_serve_on() {
    let site = Site::new();
    let launcher = lines(&site, "workers: 2, wasm: { cpu_time: 300ms }");
    let address = launcher.address("lines");
    let mut open = to_each(&address, 2);
    let victim = open[0].0;
    let mark = launcher.mark();
    open[0].1.ask("spin").expect_err("it computes for ever");
    let exited = launcher.wait_after(mark, "exited", exits(pid_of(&launcher, victim)));
    assert!(exited.text("reason").contains("wasm.cpu_time"), "{exited:?}");
    for (worker, talk) in open.iter_mut().filter(|(worker, _)| *worker != victim) {
        assert_eq!(talk.who().expect("its worker lives").0, *worker);
    }
}

#[test]
fn a_program_that_ends_or_idles_before_it_listens_is_never_ready() {
    for (at_start, said) in [
        ("return", &["returned although nobody told it"][..]),
        // The toolchain decides: one's wasi-libc exits with the code of `main`, another's returns an error from `run`.
        ("fail", &["exit(1)", "returned an error"]),
        ("trap", &["trapped"]),
        ("idle", &["does not listen on 127.0.0.1:"]),
    ] {
        let site = Site::new();
        site.write("lines.wasm", guests::lines());
        let yaml = format!(
            "services: {{ lines: {{ plugin: lines.wasm, listen: 127.0.0.1:0, env: {{ AT_START: {at_start} }}, \
             reload: {{ ready_timeout: 3s }}, restart: {{ backoff: 10ms..20ms, budget: 1/60s }} }} }}"
        );
        let mut launcher = site.start(&yaml);
        assert_eq!(launcher.exit().code(), Some(1), "{at_start}\n{}", launcher.story());
        let story = launcher.story();
        assert!(said.iter().any(|said| story.contains(said)), "{at_start}: nothing says any of {said:?}:\n{story}");
    }
}

#[test]
fn a_program_is_ready_when_it_listens_on_all_that_it_is_given() {
    let site = Site::new();
    site.write("lines.wasm", guests::lines());
    let launcher = site.run(
        "
services:
  lines:
    plugin: lines.wasm
    listen: [127.0.0.1:0, { name: other, address: 127.0.0.1:0 }]
    env: { GREETING: hello }
",
    );
    let listening = launcher.wait_many(0, 2, "listening", |event| event.is("listening"));
    let [first, other] = [&listening[0], &listening[1]].map(|event| event.text("address").to_owned());
    assert_eq!(ask(&other, "hello"), "hello");
    assert_eq!(ask(&first, "variable LAUNCHER_LISTEN"), first);
    assert_eq!(ask(&first, "variable LAUNCHER_LISTEN_OTHER"), other);
    assert_eq!(ask(&first, "variable GREETING"), "hello");
    assert_eq!(ask(&first, "arguments"), "[\"lines.wasm\"]");
}

#[test]
fn a_program_that_leaves_one_of_its_addresses_alone_is_never_ready() {
    let site = Site::new();
    site.write("lines.wasm", guests::lines());
    let mut launcher = site.start(
        "
services:
  lines:
    plugin: lines.wasm
    listen: [127.0.0.1:0, { name: another, address: 127.0.0.1:0 }]
    reload: { ready_timeout: 3s }
    restart: { backoff: 10ms..20ms, budget: 1/60s }
",
    );
    assert_eq!(launcher.exit().code(), Some(1), "{}", launcher.story());
    let story = launcher.story();
    assert!(story.contains("does not listen on 127.0.0.1:"), "{story}");
}

#[test]
fn open_connections_are_bounded_and_counted() {
    let site = Site::alone();
    let launcher = lines(&site, "workers: 1, limits: { connections: 2 }");
    let address = launcher.address("lines");
    let mut open: Vec<Talk> = (0..2).map(|_| Talk::open(&address).expect("connect")).collect();
    for talk in &mut open {
        talk.who().expect("an answer");
    }
    let mut third = Talk::open(&address).expect("it waits in the queue");
    third.reader.get_mut().write_all(b"who\n").expect("it fits into the socket");
    let service = Control::of(&site).service("lines");
    assert_eq!(service["workers"][0]["connections"], 2, "{service}");
    drop(open.pop());
    let mut answer = String::new();
    third.reader.read_line(&mut answer).expect("it has a place now");
    assert!(answer.ends_with(" 1\n"), "{answer:?}");
}

#[test]
fn much_data_goes_both_ways_at_the_pace_of_the_reader() {
    let site = Site::new();
    let launcher = lines(&site, "workers: 1");
    let mut slow = Talk::open(&launcher.address("lines")).expect("connect");
    const BYTES: usize = 20_000_000;
    slow.reader.get_mut().write_all(format!("bytes {BYTES}\n").as_bytes()).expect("send");
    // Meanwhile others are served, although the first one reads nothing.
    for _ in 0..20 {
        assert_eq!(ask(&launcher.address("lines"), "hello"), "hello");
    }
    let mut answer = Vec::new();
    slow.reader.read_until(b'\n', &mut answer).expect("the whole answer");
    assert_eq!(answer.len(), BYTES + 1);
    assert_eq!(slow.ask(&"y".repeat(1_000_000)).expect("an answer").len(), 1_000_000);
}

/// A question by datagram, and its answer.
fn ask_by_datagram(address: &str, text: &str) -> io::Result<String> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(text.as_bytes(), address)?;
    let mut answer = [0; 4096];
    let (length, from) = socket.recv_from(&mut answer)?;
    assert_eq!(from.to_string(), address, "somebody else answers");
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

const DATAGRAMS: &str = "
services:
  lines:
    plugin: lines.wasm
    listen: { name: datagrams, address: \"udp://127.0.0.1:0\" }
    workers: 2
";

/// Datagrams are answered by all workers of a service, while they are killed and replaced, too.
fn datagrams(component: &[u8]) {
    let site = Site::alone();
    site.write("lines.wasm", component);
    let mut launcher = site.run(DATAGRAMS);
    let address = launcher.address("lines");
    let address = address.strip_prefix("udp://").expect("an address of UDP").to_owned();
    for number in 0..100 {
        let text = format!("datagram {number}");
        assert_eq!(ask_by_datagram(&address, &text).expect("an answer"), text);
    }
    let (stop, asking) = (Arc::new(AtomicBool::new(false)), address.clone());
    let stopped = Arc::clone(&stop);
    let client = std::thread::spawn(move || {
        let mut asked = 0_u64;
        while !stopped.load(Relaxed) {
            let text = format!("datagram {asked}");
            assert_eq!(ask_by_datagram(&asking, &text).expect("an answer"), text);
            asked += 1;
        }
        asked
    });
    let mark = launcher.mark();
    site.replace("lines.wasm", guests::other_version(component));
    launcher.wait_after(mark, "promoted", |event| event.is("promoted"));
    for pid in launcher.workers(2) {
        launcher.wait_after(mark, "exited", exits(pid as i32));
    }
    Control::of(&site).post("/v1/services/lines/restart?wait=true");
    stop.store(true, Relaxed);
    assert!(client.join().expect("every datagram was answered") > 0);
    launcher.stop();
}

#[test]
fn datagrams_are_answered_while_workers_are_replaced() {
    datagrams(&guests::lines());
}

#[test]
fn datagrams_are_answered_by_a_program_of_wasi_0_3() {
    datagrams(&guests::async_lines());
}

#[test]
fn a_program_writes_datagrams_to_those_who_wrote_to_it_and_to_nobody_else() {
    let site = Site::new();
    site.write("lines.wasm", guests::lines());
    let stranger = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let named = UdpSocket::bind("127.0.0.1:0").expect("a port");
    named.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let to = |socket: &UdpSocket| format!("to {}", socket.local_addr().expect("bound"));
    let launcher =
        site.run(&format!("{DATAGRAMS}    wasm: {{ network: [\"{}\"] }}\n", named.local_addr().expect("bound")));
    let address = launcher.address("lines").replace("udp://", "");
    let denied = ask_by_datagram(&address, &to(&stranger)).expect("an answer");
    assert!(denied.contains("access-denied"), "{denied}");
    assert_eq!(ask_by_datagram(&address, &to(&named)).expect("an answer"), "done");
    let mut received = [0; 64];
    let (length, _) = named.recv_from(&mut received).expect("the datagram");
    assert_eq!(&received[..length], b"unasked\n");
    stranger.set_nonblocking(true).expect("set");
    assert_eq!(stranger.recv_from(&mut received).expect_err("nothing came").kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn a_service_that_a_program_cannot_serve_is_refused_with_its_place() {
    let site = Site::new();
    site.write("lines.wasm", guests::lines());
    let yaml = "
services:
  lines:
    plugin: lines.wasm
    listen: [127.0.0.1:0, unix:./lines.sock]
    limits: { connections: 10 }
";
    site.configure(yaml);
    let checked = site.output(["check"]);
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert_eq!(checked.status.code(), Some(2), "{said}");
    assert!(said.contains("config.yaml:5:") && said.contains("WASM program"), "{said}");
    assert!(!said.contains("limits"), "{said}");
    let mut launcher = site.start(yaml);
    let status = launcher.exit();
    let story = launcher.story();
    assert_eq!(status.code(), Some(2), "{story}");
    assert!(story.contains("config.yaml:5:") && story.contains("WASM program"), "{story}");
}

#[test]
fn a_program_is_told_apart_before_it_runs() {
    let site = Site::new();
    for (name, component, version) in [("lines", guests::lines(), "0.2"), ("async", guests::async_lines(), "0.3")] {
        let file = format!("{name}.wasm");
        site.write(&file, component);
        let shown = String::from_utf8(site.output(["inspect", &file]).stdout).expect("text");
        let what = format!("WASM component, a program that owns its sockets (wasi:cli/run@{version})");
        assert!(shown.contains(&what), "{shown}");
    }
}

#[test]
fn the_example_serves_and_stops() {
    let site = Site::new();
    let yaml = std::fs::read_to_string(guests::project().join("examples/sockets/wasm/config.yaml"));
    let yaml = yaml.expect("read the configuration").replace("127.0.0.1:7011", "127.0.0.1:0");
    let component = "target/wasm32-wasip2/release/shout.wasm";
    let mut launcher = site.run(&yaml.replace(component, &guests::shout().display().to_string()));
    let address = launcher.address("shout");
    assert_eq!(ask(&address, "hello"), "HELLO");
    assert!(ask(&address, "who").starts_with("worker "));
    launcher.stop();
}
