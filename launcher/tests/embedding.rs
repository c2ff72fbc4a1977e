//! A program runs services of its own with the library. This is such a program: without the usual harness, because its
//! `main` begins with `worker_entry`, and its workers are processes of itself.
//!
//! A test waits for an answer or an event. One that waits in vain is ended with its name.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use launcher::api::{OutcomeResult, RefusalCode, State, Status, WorkerState};
use launcher::facts::{Fact, Record, What};
use launcher::{Configuration, Events, Launcher, Receiver, Service, StartError};

/// How long a test may take before it is called stuck.
const PATIENCE: Duration = Duration::from_secs(120);
/// The first argument of this program when it is the one that dies.
const VICTIM: &str = "--be-killed-in";

const TESTS: &[(&str, fn())] = &[
    ("the_process_stays_the_programs", the_process_stays_the_programs),
    ("a_configuration_in_code_is_served_and_steered", a_configuration_in_code_is_served_and_steered),
    ("a_plugin_that_changes_is_taken_up_or_refused", a_plugin_that_changes_is_taken_up_or_refused),
    ("a_native_plugin_is_served_and_replaced_when_it_crashes", a_native_plugin_is_served_and_replaced_when_it_crashes),
    ("what_a_plugin_tells_the_operator_comes_to_the_program", what_a_plugin_tells_the_operator_comes_to_the_program),
    ("another_configuration_is_applied_as_a_difference", another_configuration_is_applied_as_a_difference),
    ("a_file_is_run_and_followed", a_file_is_run_and_followed),
    ("what_cannot_be_started_is_told_with_its_reason", what_cannot_be_started_is_told_with_its_reason),
    ("two_launchers_do_not_mind_each_other", two_launchers_do_not_mind_each_other),
    ("an_asynchronous_program_awaits", an_asynchronous_program_awaits),
    ("dropped_it_ends_and_what_was_not_waited_for_is_done", dropped_it_ends_and_what_was_not_waited_for_is_done),
    ("workers_leave_when_the_program_dies", workers_leave_when_the_program_dies),
];

fn main() -> ExitCode {
    launcher::worker_entry();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, directory] = &arguments[..]
        && flag == VICTIM
    {
        victim(Path::new(directory));
    }
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let chosen =
        TESTS.iter().filter(|(name, _)| filters.is_empty() || filters.iter().any(|f| name.contains(f.as_str())));
    if arguments.iter().any(|argument| argument == "--list") {
        chosen.for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let mut failed = Vec::new();
    for (name, test) in chosen {
        let (done, told) = channel::<()>();
        let guard = std::thread::spawn(move || {
            if told.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                eprintln!("test {name} is stuck");
                std::process::abort();
            }
        });
        let outcome = catch_unwind(AssertUnwindSafe(test));
        drop(done);
        guard.join().expect("no panic");
        println!("test {name} ... {}", if outcome.is_ok() { "ok" } else { "FAILED" });
        if outcome.is_err() {
            failed.push(name);
        }
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A directory with a plugin in it.
struct Site(tempfile::TempDir);

impl Site {
    fn new() -> Site {
        let site = Site(tempfile::tempdir().expect("a directory"));
        site.plugin("Hello, version 1.......");
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes the plugin, which answers this text of 23 bytes, in one step.
    fn plugin(&self, answer: &str) {
        assert_eq!(answer.len(), 23, "the component says how long it is");
        let text = fs::read_to_string(project().join("plugins/hello.wat")).expect("readable");
        fs::write(self.path("new"), text.replace("Hello from WebAssembly!", answer)).expect("written");
        fs::rename(self.path("new"), self.path("hello.wat")).expect("renamed");
    }

    /// Makes `hello.so` of a source of the project's.
    fn compile(&self, source: &str) {
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-I"]).arg(project().join("worker-sdk/include"));
        compiler.arg(project().join(source)).arg("-o").arg(self.path("hello.so")).arg("-lpthread");
        assert!(compiler.status().expect("a C compiler").success());
    }

    fn configuration(&self) -> Configuration {
        Configuration::new().directory(self.0.path())
    }

    fn hello(&self) -> Service {
        Service::new("hello.wat").listen("127.0.0.1:0").workers(1).drain_timeout(Duration::from_secs(5))
    }

    fn start(&self, service: Service) -> Launcher {
        let launcher = Launcher::start(&self.configuration().service("hello", service)).expect("it starts");
        launcher.serving().wait().unwrap_or_else(|error| panic!("{error}\n{}", told(&launcher)));
        launcher
    }
}

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the project's directory")
}

/// Everything that has happened.
fn told(launcher: &Launcher) -> String {
    let status = launcher.status().wait();
    let mut events = launcher.events();
    let mut text = format!("{status:?}\n");
    drop(launcher.stop_now().wait());
    while let Some(event) = events.wait_next() {
        text += &format!("{event}\n");
    }
    text
}

fn status(launcher: &Launcher) -> Status {
    launcher.status().wait().expect("it runs")
}

fn address(launcher: &Launcher) -> String {
    status(launcher).services[0].listeners[0].clone()
}

/// The workers that serve.
fn pids(launcher: &Launcher) -> Vec<u32> {
    let workers = status(launcher).services.remove(0).workers;
    workers.iter().filter(|worker| worker.state == WorkerState::Ready).map(|worker| worker.pid).collect()
}

/// What is answered at an address; an error, too, is an answer.
fn get(address: &str) -> String {
    let asked = TcpStream::connect(address).and_then(|mut stream| {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    });
    asked.unwrap_or_else(|error| error.to_string())
}

/// Waits for an event.
fn wait(events: &mut Events, what: &str, is_it: impl Fn(&Fact) -> bool) -> Arc<Record> {
    let mut before = String::new();
    while let Some(event) = events.wait_next() {
        if matches!(&event.what, What::Fact(fact) if is_it(fact)) {
            return event;
        }
        before += &format!("{event}\n");
    }
    panic!("it ended without {what}:\n{before}");
}

fn exe(pid: u32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/exe")).expect("it runs")
}

/// Signals that are blocked, ignored or caught; not those of the processor, for which wasmtime has handlers that pass on
/// what is not its own.
fn signals() -> Vec<(String, u64)> {
    const FAULTS: [i32; 5] = [libc::SIGILL, libc::SIGTRAP, libc::SIGBUS, libc::SIGFPE, libc::SIGSEGV];
    let faults = FAULTS.iter().fold(0, |mask, signal| mask | 1 << (signal - 1));
    let status = fs::read_to_string("/proc/self/status").expect("readable");
    let masks = status.lines().filter_map(|line| line.split_once(":\t"));
    let masks = masks.filter(|(name, _)| ["SigBlk", "SigIgn", "SigCgt"].contains(name));
    masks.map(|(name, mask)| (name.to_owned(), u64::from_str_radix(mask, 16).expect("a mask") & !faults)).collect()
}

fn the_process_stays_the_programs() {
    let site = Site::new();
    let before = signals();
    // A descriptor that the program's own children are to inherit.
    let (shared, _other) = nix::unistd::pipe().expect("a pipe");
    let inode = fs::read_link(format!("/proc/self/fd/{}", shared.as_raw_fd())).expect("it is open");
    let mut own = Command::new("sh").args(["-c", "read x; exit 7"]).stdin(Stdio::piped()).spawn().expect("spawns");

    let launcher = site.start(site.hello());
    assert_eq!(signals(), before, "signals are the program's");
    let flags = nix::fcntl::fcntl(&shared, nix::fcntl::FcntlArg::F_GETFD).expect("flags");
    assert_eq!(flags & nix::fcntl::FdFlag::FD_CLOEXEC.bits(), 0, "so are its descriptors");
    for pid in pids(&launcher) {
        assert_eq!(exe(pid), exe(std::process::id()), "a worker is this program");
        let held = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
        let held: Vec<_> = held.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()).collect();
        assert!(!held.contains(&inode), "and holds nothing of the program's: {held:?}");
    }
    // A grandchild that loses its parent does not become the program's.
    let orphan = Command::new("sh").args(["-c", "sleep 60 >/dev/null 2>&1 & echo $!"]).output().expect("runs");
    let orphan = String::from_utf8_lossy(&orphan.stdout).trim().to_owned();
    let parent = fs::read_to_string(format!("/proc/{orphan}/status")).expect("it sleeps");
    assert!(!parent.contains(&format!("PPid:\t{}\n", std::process::id())), "{parent}");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(orphan.parse().expect("a pid")),
        nix::sys::signal::Signal::SIGKILL,
    )
    .expect("killed");

    drop(own.stdin.take());
    launcher.restart("hello").wait().expect("restarted");
    assert_eq!(own.wait().expect("its status is there").code(), Some(7), "nobody else has reaped it");
    launcher.stop().wait().expect("stopped");
    assert_eq!(signals(), before);
}

fn a_configuration_in_code_is_served_and_steered() {
    let site = Site::new();
    let launcher = site.start(site.hello());
    let at = address(&launcher);
    assert!(get(&at).ends_with("Hello, version 1.......\n"), "{}", get(&at));

    let outcome = launcher.scale("hello", 3).wait().expect("scaled");
    assert_eq!(outcome.result, OutcomeResult::Scaled);
    let first = pids(&launcher);
    assert_eq!(first.len(), 3);

    assert_eq!(launcher.restart("hello").wait().expect("restarted").result, OutcomeResult::Restarted);
    let second = pids(&launcher);
    assert!(second.iter().all(|pid| !first.contains(pid)), "{first:?} {second:?}");
    assert_eq!(launcher.reload("hello").wait().expect("looked at").result, OutcomeResult::Unchanged);
    assert_eq!(launcher.reload_all().wait().expect("looked at")[0].result, OutcomeResult::Unchanged);
    assert_eq!(launcher.restart_all().wait().expect("restarted")[0].result, OutcomeResult::Restarted);

    let refused = launcher.scale("helo", 2).wait().expect_err("there is none");
    assert_eq!((refused.code, refused.suggestion.as_deref()), (RefusalCode::UnknownService, Some("hello")));
    assert!(refused.to_string().contains("did you mean `hello`?"), "{refused}");
    assert_eq!(launcher.scale("hello", 0).wait().expect_err("too few").code, RefusalCode::BadRequest);

    assert_eq!(launcher.stop_service("hello").wait().expect("stopped").result, OutcomeResult::Stopped);
    assert_eq!(status(&launcher).services[0].state, State::Stopped);
    assert!(get(&at).contains("refused"), "{}", get(&at));
    assert_eq!(launcher.start_service("hello").wait().expect("started").result, OutcomeResult::Started);
    assert!(get(&address(&launcher)).contains("200 OK"));

    let mut events = launcher.events();
    launcher.stop().wait().expect("stopped");
    assert!(launcher.ended().wait().is_ok());
    assert_eq!(launcher.status().wait().expect_err("it has ended").code, RefusalCode::Stopping);
    assert_eq!(launcher.scale("hello", 1).wait().expect_err("it has ended").code, RefusalCode::Stopping);
    assert!(launcher.serving().wait().is_ok(), "it did serve");
    let listening = wait(&mut events, "listening", |fact| matches!(fact, Fact::Listening { .. }));
    assert!(listening.to_string().contains(&at), "{listening}");
    let scaled = wait(&mut events, "scaled", |fact| matches!(fact, Fact::Scaled { from: 1, to: 3, .. }));
    assert!(scaled.to_string().contains("by the program"), "{scaled}");
    wait(&mut events, "stopped", |fact| matches!(fact, Fact::Stopped { .. }));
    assert!(events.wait_next().is_none() && events.wait_next().is_none(), "that was the end");
    assert_eq!(events.missed(), 0);
    // Everything is free again.
    site.start(site.hello()).stop_now().wait().expect("stopped");
}

fn a_plugin_that_changes_is_taken_up_or_refused() {
    let site = Site::new();
    let launcher = site.start(site.hello().set("reload.probation", "0s"));
    let mut events = launcher.events();
    let at = address(&launcher);
    let generation =
        |wanted: u64| move |fact: &Fact| matches!(fact, Fact::Promoted { generation, .. } if generation.0 == wanted);
    wait(&mut events, "the first generation", generation(1));

    site.plugin("Hello, version 2.......");
    wait(&mut events, "the second generation", generation(2));
    assert!(get(&at).contains("version 2"));

    let launcher = {
        // Unwatched, it is looked at when it is told so.
        launcher.stop().wait().expect("stopped");
        site.start(site.hello().watch(false))
    };
    let at = address(&launcher);
    site.plugin("Hello, version 3.......");
    assert!(get(&at).contains("version 2"));
    assert_eq!(launcher.reload("hello").wait().expect("looked at").result, OutcomeResult::Promoted);
    assert!(get(&at).contains("version 3"));
    fs::write(site.path("hello.wat"), "(component").expect("written");
    let outcome = launcher.reload("hello").wait().expect("looked at");
    assert_eq!(outcome.result, OutcomeResult::RolledBack);
    assert!(outcome.reason.as_deref().is_some_and(|reason| reason.contains("hello.wat")), "{outcome:?}");
    assert!(get(&at).contains("version 3"), "what served serves on");
    assert_eq!(launcher.rollback("hello").wait().expect("returned").result, OutcomeResult::Promoted);
    assert!(get(&at).contains("version 2"));
}

fn a_native_plugin_is_served_and_replaced_when_it_crashes() {
    let site = Site::new();
    site.compile("plugins/hello-c/hello.c");
    let launcher = site.start(Service::new("hello.so").listen("127.0.0.1:0").workers(1));
    let mut events = launcher.events();
    assert!(get(&address(&launcher)).contains("200 OK"));
    let [pid] = pids(&launcher)[..] else { panic!("one worker") };
    let victim = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid"));
    nix::sys::signal::kill(victim, nix::sys::signal::Signal::SIGKILL).expect("killed");
    let lost = |fact: &Fact| matches!(fact, Fact::Exited { worker, signal: Some(9), expected: false, .. } if worker.pid == pid);
    wait(&mut events, "its end", lost);
    let replaced = |fact: &Fact| matches!(fact, Fact::Ready { worker, .. } if worker.pid != pid && worker.slot.0 == 0);
    wait(&mut events, "its replacement", replaced);
    assert!(get(&address(&launcher)).contains("200 OK"));

    // This plugin receives no messages, and says so.
    let refused = |service, to| launcher.send(service, to, "hello").wait().expect_err("nobody takes it").error;
    assert!(refused("hello", Receiver::Every).contains("receives no messages"));
    assert!(refused("hello", Receiver::Slot(0)).contains("receives no messages"));
    assert_eq!(refused("hello", Receiver::Slot(7)), "no worker of hello serves in slot 7");
    assert!(refused("helo", Receiver::Every).contains("helo"));
}

fn what_a_plugin_tells_the_operator_comes_to_the_program() {
    let site = Site::new();
    site.compile("launcher/tests/reporter.c");
    let launcher = site.start(Service::new("hello.so").listen("127.0.0.1:0").workers(1));
    let mut events = launcher.events();
    let [pid] = pids(&launcher)[..] else { panic!("one worker") };
    for expected in 0..3 {
        assert!(get(&address(&launcher)).contains("200 OK"));
        let told = |fact: &Fact| match fact {
            Fact::Message { worker, number, body } => {
                assert_eq!((&*worker.service, worker.pid, worker.slot.0), ("hello", pid, 0));
                assert_eq!(body.json(), r#"{"asked":"/"}"#);
                *number == expected
            }
            _ => false,
        };
        wait(&mut events, "the message", told);
    }
}

fn another_configuration_is_applied_as_a_difference() {
    let site = Site::new();
    let launcher = site.start(site.hello());
    let before = pids(&launcher);
    let both = site.configuration().service("hello", site.hello()).service("other", site.hello().workers(2));
    let outcomes = launcher.apply(&both).expect("good").wait().expect("applied");
    assert_eq!(outcomes.len(), 1, "{outcomes:?}");
    assert_eq!((outcomes[0].service.as_str(), outcomes[0].result), ("other", OutcomeResult::Started));
    assert_eq!(pids(&launcher), before, "what is untouched keeps its workers");

    // In the order of the calls, although nobody waits for the first: what is reloaded is what was applied.
    let more = site.configuration().service("hello", site.hello().workers(2));
    drop(launcher.apply(&more).expect("good"));
    let outcomes = launcher.reload_all().wait().expect("looked at");
    assert_eq!(outcomes.len(), 1, "{outcomes:?}");
    assert_eq!(status(&launcher).services[0].wanted, 2);

    let wrong = site.configuration().service("hello", site.hello().workers(0));
    let error = launcher.apply(&wrong).expect_err("wrong");
    assert_eq!(error.problems().collect::<Vec<_>>(), ["services.hello.workers: must be at least 1, found 0"]);
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("an address").to_string();
    let _holder = TcpListener::bind(&taken);
    let busy = site.configuration().service("hello", site.hello().listen(address(&launcher)).listen("256.0.0.1:1"));
    assert!(launcher.apply(&busy).is_err());
    assert_eq!(status(&launcher).services.len(), 1);
}

fn a_file_is_run_and_followed() {
    let site = Site::new();
    let file = site.path("config.yaml");
    let text = |workers: u32| {
        format!("services:\n  hello: {{ plugin: hello.wat, listen: '127.0.0.1:0', workers: {workers} }}\n")
    };
    fs::write(&file, text(1)).expect("written");
    let launcher = Launcher::start_file(&file).expect("it starts");
    let serving = launcher.serving().wait().expect("it serves");
    assert_eq!((serving.services, serving.failed), (vec!["hello".to_owned()], Vec::new()));
    assert_eq!(status(&launcher).config, file.display().to_string());
    let mut events = launcher.events();
    fs::write(site.path("new"), text(2)).expect("written");
    fs::rename(site.path("new"), &file).expect("renamed");
    wait(&mut events, "the change", |fact| matches!(fact, Fact::ConfigApplied { .. }));
    assert_eq!(status(&launcher).services[0].wanted, 2);

    // From here on it is the program's, and the file means nothing any more.
    let own = site.configuration().service("hello", site.hello().workers(3));
    launcher.apply(&own).expect("good").wait().expect("applied");
    assert_eq!(status(&launcher).services[0].wanted, 3);
    fs::write(&file, text(1)).expect("written");
    launcher.reload_all().wait().expect("looked at");
    assert_eq!(status(&launcher).services[0].wanted, 3);
    launcher.apply_file(&file).wait().expect("applied");
    assert_eq!(status(&launcher).services[0].wanted, 1);

    fs::write(&file, "services: {}\n").expect("written");
    let refused = launcher.apply_file(&file).wait().expect_err("nothing to run");
    assert_eq!(refused.code, RefusalCode::BadConfiguration, "{refused}");
    launcher.stop().wait().expect("stopped");
    let Err(StartError::Configuration(error)) = Launcher::start_file(&file) else { panic!("it is wrong") };
    assert!(error.to_string().contains("config.yaml:1:11"), "{error}");
}

fn what_cannot_be_started_is_told_with_its_reason() {
    let site = Site::new();
    let missing = site.configuration().service("hello", Service::new("missing.wasm").listen("127.0.0.1:0"));
    let error = Launcher::start(&missing).expect_err("there is no such file").to_string();
    assert!(error.contains("services.hello.plugin: there is no file `missing.wasm`"), "{error}");

    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().map(|address| (taken, address)).expect("an address");
    let busy = site.configuration().service("hello", site.hello().listen(taken.1.to_string()));
    let error = Launcher::start(&busy).expect_err("it is taken");
    assert!(matches!(error, StartError::Refused(_)) && error.to_string().contains("hello"), "{error}");

    fs::write(site.path("broken.wat"), "(component").expect("written");
    let broken = Service::new("broken.wat").listen("127.0.0.1:0");
    let launcher = Launcher::start(&site.configuration().service("broken", broken.clone())).expect("it starts");
    let error = launcher.serving().wait().expect_err("nothing serves").to_string();
    assert!(error.contains("broken could not be started") && error.contains("broken.wat"), "{error}");
    launcher.ended().wait().expect("it has ended by itself");
    drop(launcher);

    let both = site.configuration().service("broken", broken).service("hello", site.hello());
    let launcher = Launcher::start(&both).expect("it starts");
    let serving = launcher.serving().wait().expect("one serves");
    assert_eq!((serving.services, serving.failed), (vec!["hello".to_owned()], vec!["broken".to_owned()]));
    let again = Launcher::start(&both).expect_err("the state directory is taken").to_string();
    assert!(again.contains(&format!("pid {}", std::process::id())), "{again}");
}

fn two_launchers_do_not_mind_each_other() {
    let sites = [Site::new(), Site::new()];
    sites[1].plugin("Hello, the other one...");
    let [one, other] = sites.each_ref().map(|site| site.start(site.hello()));
    assert!(get(&address(&one)).contains("version 1") && get(&address(&other)).contains("the other one"));
    one.stop().wait().expect("stopped");
    other.restart("hello").wait().expect("restarted");
    assert!(get(&address(&other)).contains("the other one"));
}

fn an_asynchronous_program_awaits() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let site = Site::new();
        let launcher = Launcher::start(&site.configuration().service("hello", site.hello())).expect("it starts");
        launcher.serving().await.expect("it serves");
        let (scaled, status) = tokio::join!(launcher.scale("hello", 2), launcher.status());
        assert_eq!(scaled.expect("scaled").result, OutcomeResult::Scaled);
        assert_eq!(status.expect("it runs").services.len(), 1);
        let mut events = launcher.events();
        let mut ready = 0;
        while ready < 2 {
            let event = events.next().await.expect("it goes on");
            ready += usize::from(matches!(&event.what, What::Fact(Fact::Ready { .. })));
        }
        let follower = async { while events.next().await.is_some() {} };
        let (ended, ()) = tokio::join!(launcher.stop(), follower);
        ended.expect("stopped");
    });
}

fn dropped_it_ends_and_what_was_not_waited_for_is_done() {
    let site = Site::new();
    let launcher = site.start(site.hello());
    let mut events = launcher.events();
    launcher.scale("hello", 2);
    wait(&mut events, "the order", |fact| matches!(fact, Fact::Scaled { to: 2, .. }));
    drop(launcher);
    wait(&mut events, "the end", |fact| matches!(fact, Fact::Stopped { .. }));
    assert!(events.wait_next().is_none());
}

/// Another process of this program, which says who its workers are, and is killed.
fn workers_leave_when_the_program_dies() {
    let site = Site::new();
    let mut victim = Command::new(std::env::current_exe().expect("this program"))
        .arg(VICTIM)
        .arg(site.0.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut said = String::new();
    let mut stdout = std::io::BufReader::new(victim.stdout.take().expect("a pipe"));
    std::io::BufRead::read_line(&mut stdout, &mut said).expect("it says");
    let pids: Vec<i32> = said.split_whitespace().map(|pid| pid.parse().expect("a pid")).collect();
    assert_eq!(pids.len(), 2, "{said}");
    let pidfds: Vec<OwnedFd> = pids.iter().map(|pid| pidfd(*pid)).collect();
    victim.kill().expect("killed");
    victim.wait().expect("reaped");
    for pidfd in pidfds {
        let mut polled = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&pidfd), nix::poll::PollFlags::POLLIN)];
        // Until it has ended; the guard of the test knows when that is too long.
        nix::poll::poll(&mut polled, nix::poll::PollTimeout::NONE).expect("polls");
    }
    // Nothing is left that would keep another from the state.
    site.start(site.hello());
}

fn victim(directory: &Path) -> ! {
    let hello = Service::new("hello.wat").listen("127.0.0.1:0").workers(2);
    let configuration = Configuration::new().directory(directory).service("hello", hello);
    let launcher = Launcher::start(&configuration).expect("it starts");
    launcher.serving().wait().expect("it serves");
    println!("{}", pids(&launcher).iter().map(|pid| format!("{pid} ")).collect::<String>());
    loop {
        std::thread::park();
    }
}

fn pidfd(pid: i32) -> OwnedFd {
    // SAFETY: pidfd_open(2) touches no memory.
    #[expect(unsafe_code, reason = "nix does not wrap it")]
    let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let opened = i32::try_from(opened).expect("a descriptor");
    assert!(opened >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: just opened, and nobody else's.
    #[expect(unsafe_code, reason = "nix does not wrap it")]
    unsafe {
        OwnedFd::from_raw_fd(opened)
    }
}
