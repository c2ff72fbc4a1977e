//! `launcher run --daemon` returns when the launcher serves, or says why it does not; and the pid file.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getsid};
use serde_json::Value;

use crate::harness::control::Control;
use crate::harness::http::fetch;
use crate::harness::launcher::eventually;
use crate::harness::{PATIENCE, Site, guests, process};

const HELLO: &str = "services: { hello: { plugin: hello.wasm, listen: 127.0.0.1:0, workers: 2 } }";

fn pid_file(site: &Site) -> PathBuf {
    site.path(".launcher/launcher.pid")
}

/// A daemon that somebody started: ended at the latest when the test is over.
struct Daemon {
    pid: u32,
}

impl Daemon {
    /// The one that the pid file of the site tells.
    fn of(site: &Site) -> Daemon {
        let pid = fs::read_to_string(pid_file(site)).expect("a pid file");
        Daemon { pid: pid.trim().parse().unwrap_or_else(|_| panic!("{pid:?} is no pid")) }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid as i32), signal).expect("signal the daemon");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        for pid in process::descendants(self.pid).into_iter().chain([self.pid]) {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
        }
    }
}

fn command(site: &Site, yaml: &str) -> Command {
    let mut command = site.command(["run", "--daemon"]);
    command.arg(site.configure(yaml));
    command
}

/// Runs `launcher run --daemon` until it returns, and until nobody holds its output any more.
fn start(site: &Site, yaml: &str) -> Output {
    command(site, yaml).output().expect("start the launcher")
}

fn story(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n--- stderr ---\n{}--- stdout ---\n{}", output.status, text(&output.stderr), text(&output.stdout))
}

fn address(output: &Output) -> String {
    let events = String::from_utf8_lossy(&output.stderr);
    let events = events.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut listening = events.filter(|event| event["event"] == "listening" && event["service"] == "hello");
    let listening = listening.next().unwrap_or_else(|| panic!("nothing listens: {}", story(output)));
    listening["address"].as_str().expect("an address").to_owned()
}

#[test]
fn a_daemon_serves_when_its_start_returns_and_has_left_the_terminal() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let inner = command(&site, HELLO);
    let mut shell = Command::new("sh");
    shell.current_dir(site.path(".")).stdin(Stdio::null());
    shell.arg("-c").arg("exec 9> left-open; exec \"$0\" \"$@\"").arg(inner.get_program()).args(inner.get_args());
    // `output` returns: so the daemon and its workers hold neither of the two streams.
    let output = shell.output().expect("start the launcher");
    assert_eq!(output.status.code(), Some(0), "{}", story(&output));
    let daemon = Daemon::of(&site);
    let said = format!("launcher: serving in the background, pid {}\n", daemon.pid);
    assert!(String::from_utf8_lossy(&output.stdout).ends_with(&said), "{}", story(&output));
    let address = address(&output);
    assert_eq!(fetch(&address, "/").text(), guests::greeting(1));
    let session = getsid(Some(Pid::from_raw(daemon.pid as i32))).expect("it runs");
    assert_eq!(session.as_raw(), daemon.pid as i32, "it has a session of its own");
    let log = site.path(".launcher/launcher.log");
    for (descriptor, wanted) in [Path::new("/dev/null"), &log, &log].into_iter().enumerate() {
        let open = fs::read_link(format!("/proc/{}/fd/{descriptor}", daemon.pid)).expect("is open");
        assert_eq!(open, wanted, "descriptor {descriptor}");
    }
    let open = fs::read_dir(format!("/proc/{}/fd", daemon.pid)).expect("it runs");
    let mut open = open.filter_map(|descriptor| fs::read_link(descriptor.ok()?.path()).ok());
    assert!(!open.any(|path| path.ends_with("left-open")), "it holds what its start had open");

    daemon.signal(Signal::SIGTERM);
    assert!(process::ends(daemon.pid, PATIENCE), "the daemon does not end");
    let log = fs::read_to_string(log).expect("a log");
    for event in ["starting", "serving", "stopped"] {
        assert_eq!(log.matches(&format!("\"event\":\"{event}\"")).count(), 1, "{event}: {log}");
    }
    assert!(!pid_file(&site).exists(), "the pid file is still there");
}

#[test]
fn a_daemon_that_cannot_serve_says_the_same_as_in_the_foreground() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    site.write("bad.wasm", "no component");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken.local_addr().expect("bound");
    let cases = [
        (HELLO.replace("workers", "wrokers"), 2, "did you mean `workers`"),
        (HELLO.replace("hello.wasm", "bad.wasm"), 2, "bad.wasm"),
        (HELLO.replace("hello.wasm", "absent.wasm"), 2, "absent.wasm"),
        (HELLO.replace("127.0.0.1:0", &taken.to_string()), 1, "in use"),
    ];
    for (yaml, code, words) in cases {
        let output = start(&site, &yaml);
        let mut command = site.command(["run"]);
        let foreground = command.arg(site.path("config.yaml")).output().expect("start the launcher");
        assert_eq!(foreground.status.code(), Some(code), "{}", story(&foreground));
        assert_eq!(output.status.code(), Some(code), "{}", story(&output));
        assert!(String::from_utf8_lossy(&output.stderr).contains(words), "{words}: {}", story(&output));
        assert!(!pid_file(&site).exists(), "the pid file is still there");
    }
}

#[test]
fn strictness_reaches_the_daemon() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    site.write("bad.wasm", "no component");
    let yaml = "
services:
  hello: { plugin: hello.wasm, listen: 127.0.0.1:0 }
  bad: { plugin: bad.wasm, listen: 127.0.0.1:0 }
";
    let output = command(&site, yaml).arg("--strict").output().expect("start the launcher");
    assert_eq!(output.status.code(), Some(2), "{}", story(&output));
    let output = start(&site, yaml);
    assert_eq!(output.status.code(), Some(0), "{}", story(&output));
    drop(Daemon::of(&site));
}

#[test]
fn a_daemon_has_the_sockets_that_its_start_was_given() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = listener.local_addr().expect("an address").to_string();
    let inner = command(&site, &HELLO.replace("127.0.0.1:0", "fd://web"));
    let mut shell = Command::new("sh");
    // As systemd would start it.
    let script = "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=web exec \"$0\" \"$@\" 3<&0 </dev/null";
    shell.args(["-c", script]).arg(inner.get_program()).args(inner.get_args());
    shell.current_dir(site.path("")).stdin(std::os::fd::OwnedFd::from(listener));
    let output = shell.output().expect("start the launcher");
    assert_eq!(output.status.code(), Some(0), "{}", story(&output));
    drop(shell);
    let daemon = Daemon::of(&site);
    assert_eq!(fetch(&address, "/").text(), guests::greeting(1));
    // The keeper has it for the next master.
    let masters = || fs::read_to_string(site.path(".launcher/launcher.log")).expect("a log");
    let first = Control::of(&site).get("/v1/status")["pid"].as_u64().expect("a pid");
    kill(Pid::from_raw(first as i32), Signal::SIGKILL).expect("it runs");
    assert!(eventually(|| masters().contains("\"event\":\"adopted\"")), "{}", masters());
    assert_eq!(fetch(&address, "/").text(), guests::greeting(1));
    daemon.signal(Signal::SIGTERM);
    assert!(process::ends(daemon.pid, PATIENCE), "the daemon does not end");
    assert!(std::net::TcpStream::connect(&address).is_err(), "somebody holds the socket still");
}

#[test]
fn a_second_daemon_is_refused_and_told_who_the_first_is() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let first = start(&site, HELLO);
    let daemon = Daemon::of(&site);
    let second = start(&site, HELLO);
    assert_eq!(second.status.code(), Some(1), "{}", story(&second));
    let named = format!("pid {}, ", daemon.pid);
    assert!(String::from_utf8_lossy(&second.stderr).contains(&named), "{}", story(&second));
    let pid = fs::read_to_string(pid_file(&site)).expect("a pid file");
    assert_eq!(pid, format!("{}\n", daemon.pid), "the pid file is the first one's");
    assert_eq!(fetch(&address(&first), "/").text(), guests::greeting(1));
}

#[test]
fn whoever_interrupts_the_start_leaves_no_daemon() {
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let site = Site::new();
        let yaml = format!("{} ", HELLO.replace("workers: 2", "build: 'echo > building; exec sleep 1000'"));
        let mut starter = command(&site, &yaml).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start");
        assert!(eventually(|| site.path("building").exists()), "nothing is built");
        let daemon = Daemon::of(&site);
        assert_eq!(process::children(starter.id()), [daemon.pid]);
        let building = process::descendants(daemon.pid);
        assert!(!building.is_empty());
        kill(Pid::from_raw(starter.id() as i32), signal).expect("signal");
        assert!(!starter.wait().expect("it ends").success());
        assert!(process::ends(daemon.pid, PATIENCE), "{signal}: the daemon goes on");
        for pid in building {
            assert!(!process::runs(pid), "{signal}: what the daemon started goes on");
        }
        // End of file: nobody is left.
        let mut said = String::new();
        starter.stderr.take().expect("piped").read_to_string(&mut said).expect("end of file");
        assert!(said.contains("was interrupted"), "{said}");
    }
}

#[test]
fn a_daemon_that_is_stopped_before_it_serves_is_a_failure_of_its_start() {
    let site = Site::new();
    let yaml = HELLO.replace("workers: 2", "build: 'echo > building; exec sleep 1000'");
    let mut command = command(&site, &yaml);
    thread::scope(|scope| {
        let starter = scope.spawn(|| command.output().expect("start the launcher"));
        assert!(eventually(|| site.path("building").exists()), "nothing is built");
        let daemon = Daemon::of(&site);
        daemon.signal(Signal::SIGTERM);
        let output = starter.join().expect("no panic");
        assert_eq!(output.status.code(), Some(1), "{}", story(&output));
        assert!(String::from_utf8_lossy(&output.stderr).contains("was stopped before it served"));
    });
}

#[test]
fn the_pid_file_names_a_launcher_in_the_foreground_too() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let mut launcher = site.run(HELLO);
    assert_eq!(fs::read_to_string(pid_file(&site)).expect("a pid file"), format!("{}\n", launcher.pid()));
    launcher.stop();
    assert!(!pid_file(&site).exists(), "the pid file is still there");
}
