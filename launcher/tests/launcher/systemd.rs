//! systemd is told what it asked to be told.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::http::fetch;
use crate::harness::{Launcher, PATIENCE, Site, guests};

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
