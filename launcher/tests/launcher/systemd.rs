//! systemd is told what it asked to be told, and gives what it was given to keep.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::harness::http::{Connection, fetch};
use crate::harness::{Launcher, PATIENCE, Site, guests, process};

const HELLO: &str = "services: { hello: { plugin: hello.wasm, listen: 127.0.0.1:0, workers: 2 } }";

/// What stands for systemd: a socket, and the messages that came.
struct Manager {
    socket: UnixDatagram,
    name: String,
}

impl Manager {
    fn at_a_path(site: &Site) -> Manager {
        let name = site.path("notify").display().to_string();
        Manager { socket: UnixDatagram::bind(&name).expect("bind"), name }
    }

    fn at_an_abstract_name(site: &Site) -> Manager {
        let name = format!("launcher-test{}", site.path("notify").display());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        Manager { socket: UnixDatagram::bind_addr(&address).expect("bind"), name: format!("@{name}") }
    }

    /// The next message, unless none comes within `patience`.
    fn within(&self, patience: Duration) -> Option<String> {
        let mut message = [0; 4096];
        self.socket.set_read_timeout(Some(patience)).expect("a time-out");
        let length = self.socket.recv(&mut message).ok()?;
        Some(String::from_utf8_lossy(&message[..length]).into_owned())
    }

    /// The first message that has this line, and those before it.
    fn wait(&self, line: &str) -> (String, Vec<String>) {
        let mut before = Vec::new();
        while let Some(message) = self.within(PATIENCE) {
            if message.lines().any(|there| there.starts_with(line)) {
                return (message, before);
            }
            before.push(message);
        }
        panic!("no `{line}` after {before:?}");
    }

    fn command(&self, site: &Site, yaml: &str) -> Command {
        let mut command = site.command(["run"]);
        command.arg(site.configure(yaml)).env("NOTIFY_SOCKET", &self.name);
        command
    }

    fn start(&self, site: &Site, yaml: &str) -> Launcher {
        Launcher::start(self.command(site, yaml), yaml)
    }
}

fn number(message: &str, field: &str) -> u64 {
    let value = message.lines().find_map(|line| line.strip_prefix(field));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {field} in {message:?}"))
}

#[test]
fn it_is_told_when_the_launcher_serves_and_when_it_stops() {
    for manager in [Manager::at_a_path, Manager::at_an_abstract_name] {
        let site = Site::new();
        site.write("hello.wasm", guests::hello(1));
        let manager = manager(&site);
        let mut launcher = manager.start(&site, HELLO);
        let (ready, before) = manager.wait("READY=1");
        assert!(before.iter().all(|message| message.starts_with("STATUS=")), "{before:?}");
        assert_eq!(number(&ready, "MAINPID="), u64::from(launcher.pid()));
        assert_eq!(fetch(&launcher.address("hello"), "/").text(), guests::greeting(1));
        manager.wait("STATUS=1 service, 2 workers ready; last: hello: generation 1 serves with 2 workers");
        launcher.stop();
        manager.wait("STOPPING=1");
    }
}

#[test]
fn a_launcher_that_cannot_serve_is_never_ready() {
    let site = Site::new();
    site.write("hello.wasm", "no component");
    let manager = Manager::at_a_path(&site);
    let mut launcher = manager.start(&site, HELLO);
    assert_eq!(launcher.exit().code(), Some(2), "{}", launcher.story());
    manager.socket.set_nonblocking(true).expect("does not block");
    let mut message = [0; 4096];
    while let Ok(length) = manager.socket.recv(&mut message) {
        let message = String::from_utf8_lossy(&message[..length]);
        assert!(!message.contains("READY=1"), "{message}");
    }
}

#[test]
fn a_reload_lasts_until_the_new_code_serves() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let manager = Manager::at_a_path(&site);
    let launcher = manager.start(&site, &HELLO.replace("workers", "reload: { watch: false }, workers"));
    manager.wait("READY=1");
    let address = launcher.address("hello");
    let mut last = 0;
    for version in 2..5 {
        site.replace("hello.wasm", guests::hello(version));
        launcher.signal(Signal::SIGHUP);
        let since = number(&manager.wait("RELOADING=1").0, "MONOTONIC_USEC=");
        assert!(since > last, "{since} is not after {last}");
        last = since;
        manager.wait("READY=1");
        assert_eq!(fetch(&address, "/").text(), guests::greeting(version));
    }
    // A file that is refused ends the reload too.
    site.write("config.yaml", "services: 3");
    launcher.signal(Signal::SIGHUP);
    manager.wait("RELOADING=1");
    manager.wait("READY=1");
    manager.wait("STATUS=1 service, 2 workers ready; last: configuration rejected");
}

#[test]
fn it_hears_of_a_master_that_lives_and_not_of_one_that_hangs() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let manager = Manager::at_a_path(&site);
    let within = Duration::from_millis(500);
    let mut command = manager.command(&site, HELLO);
    command.env("WATCHDOG_USEC", within.as_micros().to_string());
    let launcher = Launcher::start(command, HELLO);
    manager.wait("WATCHDOG=1");
    let mut last = Instant::now();
    let mut pauses = [0; 9].map(|_| {
        manager.wait("WATCHDOG=1");
        std::mem::replace(&mut last, Instant::now()).elapsed()
    });
    pauses.sort_unstable();
    // A machine that stands still for a while makes some of them longer.
    assert!(pauses[4] < within, "{pauses:?}");
    launcher.signal(Signal::SIGSTOP);
    while manager.within(within * 2).is_some() {} // what it said before
    launcher.signal(Signal::SIGCONT);
    manager.wait("WATCHDOG=1");
}

#[test]
fn a_watchdog_of_another_process_is_not_answered() {
    for (pid, answered) in [("$$", true), ("1", false)] {
        let site = Site::new();
        site.write("hello.wasm", guests::hello(1));
        let manager = Manager::at_a_path(&site);
        let command = manager.command(&site, HELLO);
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("WATCHDOG_USEC=100000 WATCHDOG_PID={pid} exec \"$0\" \"$@\""));
        shell.arg(command.get_program()).args(command.get_args()).env("NOTIFY_SOCKET", &manager.name);
        let launcher = Launcher::start(shell, HELLO);
        launcher.wait("serving", |event| event.is("serving"));
        thread::sleep(Duration::from_millis(300)); // three times what it asks for
        launcher.signal(Signal::SIGTERM);
        let (_, before) = manager.wait("STOPPING=1");
        assert_eq!(before.iter().any(|message| message == "WATCHDOG=1"), answered, "{before:?}");
    }
}

#[test]
fn a_daemon_says_that_it_is_the_main_process() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let manager = Manager::at_a_path(&site);
    let mut command = manager.command(&site, HELLO);
    assert!(command.arg("--daemon").status().expect("start the launcher").success());
    let pid = number(&manager.wait("READY=1").0, "MAINPID=");
    kill(Pid::from_raw(pid as i32), Signal::SIGTERM).expect("it runs");
    manager.wait("STOPPING=1");
    assert!(crate::harness::process::ends(pid as u32, PATIENCE));
}

/// A manager that keeps descriptors for the next launcher ("File Descriptor Store", systemd.service(5)).
struct Keeper {
    manager: Manager,
    kept: Vec<(String, OwnedFd)>,
}

/// Descriptors that are kept have higher numbers, so that giving one overwrites none.
const HIGH: i32 = 500;

impl Keeper {
    fn new(site: &Site) -> Keeper {
        Keeper { manager: Manager::at_a_path(site), kept: Vec::new() }
    }

    /// Starts a launcher with what is kept.
    #[expect(unsafe_code, reason = "descriptors get the numbers by which a program is given them")]
    fn start(&self, site: &Site, yaml: &str) -> Launcher {
        let command = self.manager.command(site, yaml);
        let mut shell = Command::new("sh");
        shell.args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\""]).arg(command.get_program()).args(command.get_args());
        let names: Vec<&str> = self.kept.iter().map(|(name, _)| name.as_str()).collect();
        shell.env("NOTIFY_SOCKET", &self.manager.name).env("FDSTORE", "512");
        shell.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        let numbers: Vec<i32> = self.kept.iter().map(|(_, kept)| kept.as_raw_fd()).collect();
        let give = move || {
            for (number, target) in numbers.iter().zip(3..HIGH) {
                // SAFETY: dup2(2) touches no memory, and this child uses nothing that had the number: it executes another
                // program next.
                if unsafe { libc::dup2(*number, target) } < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        };
        // SAFETY: it makes system calls only.
        unsafe { shell.pre_exec(give) };
        Launcher::start(shell, yaml)
    }

    /// The next message, carried out. `None`: none comes within `patience`.
    fn next(&mut self, patience: Duration) -> Option<String> {
        let mut bytes = [0; 8192];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        self.manager.socket.set_read_timeout(Some(patience)).expect("a time-out");
        let socket = self.manager.socket.as_fd();
        let received =
            recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC).ok()?;
        let message = String::from_utf8_lossy(&bytes[..received.bytes]).into_owned();
        let name = message.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or_default().to_owned();
        for came in control.drain() {
            if let RecvAncillaryMessage::ScmRights(came) = came {
                let high = |one: OwnedFd| rustix::io::fcntl_dupfd_cloexec(one, HIGH).expect("duplicated");
                self.kept.extend(came.map(|one| (name.clone(), high(one))));
            }
        }
        if message.starts_with("BARRIER=1") {
            // Whoever sent it waits until this is closed.
            self.kept.retain(|(name, _)| !name.is_empty());
        }
        if message.starts_with("FDSTOREREMOVE=1") {
            self.kept.retain(|(kept, _)| *kept != name);
        }
        Some(message)
    }

    /// Reads until a message that begins like this.
    fn wait(&mut self, start: &str) {
        while let Some(message) = self.next(PATIENCE) {
            if message.starts_with(start) {
                return;
            }
        }
        panic!("no message {start}");
    }

    /// Reads what was said by a launcher that has ended.
    fn catch_up(&mut self) {
        while self.next(Duration::from_millis(1)).is_some() {}
    }
}

#[test]
fn the_next_master_goes_on_with_what_systemd_has_kept() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let mut keeper = Keeper::new(&site);
    let first = keeper.start(&site, HELLO);
    keeper.wait("READY=1");
    let (address, workers) = (first.address("hello"), first.workers(2));
    let mut connection = Connection::open(&address).expect("connect");
    first.signal(Signal::SIGKILL);
    assert!(process::ends(first.pid(), PATIENCE));
    keeper.catch_up();
    let second = keeper.start(&site, HELLO);
    keeper.wait("READY=1");
    second.wait("adopted", |event| event.is("adopted") && event.number("workers") == 2);
    assert_eq!(connection.request("GET", "/", &[], b"").expect("an answer").text(), guests::greeting(1));
    assert!(workers.iter().all(|pid| process::runs(*pid)), "{}", second.story());
    drop(second);
}

#[test]
fn a_unit_that_is_restarted_begins_anew() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let mut keeper = Keeper::new(&site);
    for _ in 0..3 {
        let mut launcher = keeper.start(&site, HELLO);
        keeper.wait("READY=1");
        assert!(keeper.kept.len() > 10, "it keeps {:?}", keeper.kept);
        assert_eq!(fetch(&launcher.address("hello"), "/").text(), guests::greeting(1));
        launcher.stop();
        keeper.catch_up();
        assert!(keeper.kept.is_empty(), "of a launcher that has stopped it keeps {:?}", keeper.kept);
    }
}

#[test]
fn a_unit_that_is_started_after_a_master_that_died_while_it_stopped_begins_anew() {
    let site = Site::new();
    site.write("hello.so", guests::c_hello(1));
    let yaml =
        "services: { hello: { plugin: hello.so, listen: 127.0.0.1:0, workers: 1, stop: { drain_timeout: 1s } } }";
    let mut keeper = Keeper::new(&site);
    let first = keeper.start(&site, yaml);
    keeper.wait("READY=1");
    let worker = first.workers(1)[0];
    let mut slow = Connection::open(&first.address("hello")).expect("connect");
    slow.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab").expect("sent");
    let head = slow.head("POST").expect("the head of the answer");
    assert_eq!(head.status, 200);
    first.signal(Signal::SIGTERM);
    keeper.wait("STOPPING=1");
    first.signal(Signal::SIGKILL);
    assert!(process::ends(first.pid(), PATIENCE));
    keeper.catch_up();
    assert!(!keeper.kept.is_empty());

    let mut second = keeper.start(&site, yaml);
    keeper.wait("READY=1");
    assert_eq!(fetch(&second.address("hello"), "/").text(), "Hello from C, version 01\n");
    assert!(second.events_after(0, |event| event.is("adopted")).is_empty(), "{}", second.story());
    // Nobody holds its channel any more.
    assert!(process::ends(worker, PATIENCE), "the worker of before runs on\n{}", second.story());
    second.stop();
}
