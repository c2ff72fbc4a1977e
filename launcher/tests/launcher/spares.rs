//! Spare workers: a replacement is a process that was there before, and nothing else is different from one that was not.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::control::Control;
use crate::harness::http::fetch;
use crate::harness::launcher::{BINARY, eventually};
use crate::harness::{Launcher, PATIENCE, Site, guests, process};

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid as i32), signal).expect("it runs");
}

fn hello(site: &Site, workers: usize) -> Launcher {
    site.write("hello.wasm", guests::hello(1));
    site.run(&format!("services: {{ hello: {{ plugin: hello.wasm, listen: 127.0.0.1:0, workers: {workers} }} }}"))
}

/// The spares of the newest master, once there are so many.
#[track_caller]
fn spares(launcher: &Launcher, count: usize) -> BTreeSet<u32> {
    let master = launcher.master();
    let found = eventually(|| process::spares(master).len() == count);
    assert!(found, "{:?} are the spares, not {count}\n{}", process::spares(master), launcher.story());
    process::spares(master).into_iter().collect()
}

/// Kills a worker; the pid of its replacement, which is ready.
fn replaced(launcher: &Launcher, worker: u32) -> u32 {
    let mark = launcher.mark();
    send(worker, Signal::SIGKILL);
    launcher.workers_after(mark, 1)[0]
}

#[test]
fn the_replacement_of_a_worker_is_a_spare_and_another_spare_is_made() {
    let site = Site::new();
    let mut launcher = hello(&site, 1);
    let address = launcher.address("hello");
    let mut worker = launcher.workers(1)[0];
    for _ in 0..3 {
        // As many as there are workers, and not two.
        let before = spares(&launcher, 1);
        let replacement = replaced(&launcher, worker);
        assert!(before.contains(&replacement), "{replacement} was none of {before:?}\n{}", launcher.story());
        let line = fs::read_to_string(format!("/proc/{replacement}/cmdline")).expect("it runs");
        let called: Vec<&str> = line.split('\0').filter(|argument| !argument.is_empty()).collect();
        assert_eq!(called, ["launcher", "worker", "hello/0"]);
        assert_eq!(fetch(&address, "/").text(), guests::greeting(1));
        worker = replacement;
    }
    let left = spares(&launcher, 1);
    launcher.stop();
    assert!(left.iter().all(|pid| !process::runs(*pid)), "{left:?} outlive the launcher");
}

#[test]
fn the_first_workers_of_a_reload_are_spares() {
    let site = Site::new();
    let launcher = hello(&site, 3);
    let before = spares(&launcher, 2);
    let mark = launcher.mark();
    site.replace("hello.wasm", guests::hello(2));
    launcher.wait_after(mark, "promoted", |event| event.is("promoted"));
    let new: BTreeSet<u32> = launcher.workers_after(mark, 3).into_iter().collect();
    assert!(new.is_superset(&before), "{new:?} are not {before:?}");
    assert_eq!(fetch(&launcher.address("hello"), "/").text(), guests::greeting(2));
}

#[test]
fn a_spare_that_dies_costs_no_service_anything() {
    let site = Site::new();
    let launcher = hello(&site, 1);
    let worker = launcher.workers(1)[0];
    let first = spares(&launcher, 1);
    let mark = launcher.mark();
    first.iter().for_each(|pid| send(*pid, Signal::SIGKILL));
    let gone = eventually(|| process::spares(launcher.master()).iter().any(|pid| !first.contains(pid)));
    assert!(gone, "no other was made\n{}", launcher.story());
    let next = spares(&launcher, 1);
    assert!(launcher.events_after(mark, |event| event.is("exited") || event.is("trouble")).is_empty());
    let service = Control::of(&site).service("hello");
    assert_eq!((&service["state"], service["workers"].as_array().map(Vec::len)), (&"serving".into(), Some(1)));
    // Dead and perhaps not yet missed, it is passed over.
    next.iter().for_each(|pid| send(*pid, Signal::SIGKILL));
    assert!(next.iter().all(|pid| process::ends(*pid, PATIENCE)));
    replaced(&launcher, worker);
    let exits = launcher.events_after(mark, |event| event.is("exited"));
    assert_eq!(exits.iter().map(|event| event.number("pid") as u32).collect::<Vec<_>>(), [worker], "{exits:?}");
}

#[test]
fn spares_of_a_master_that_dies_end_and_the_next_one_makes_its_own() {
    let site = Site::new();
    let launcher = hello(&site, 2);
    let old = spares(&launcher, 2);
    let workers = launcher.workers(2);
    let mark = launcher.mark();
    send(launcher.master(), Signal::SIGKILL);
    launcher.wait_after(mark, "adopted", |event| event.is("adopted"));
    assert!(old.iter().all(|pid| process::ends(*pid, PATIENCE)), "{old:?} go on without their master");
    let new = spares(&launcher, 2);
    assert!(new.is_disjoint(&old));
    assert!(workers.iter().all(|pid| process::runs(*pid)));
    let replacement = replaced(&launcher, workers[0]);
    assert!(new.contains(&replacement), "{replacement} was none of {new:?}");
    // One that was a spare is kept as any other.
    let mark = launcher.mark();
    send(launcher.master(), Signal::SIGKILL);
    let adopted = launcher.wait_after(mark, "adopted", |event| event.is("adopted"));
    assert_eq!(adopted.number("workers"), 2);
    assert!(process::runs(replacement));
}

#[test]
fn spares_of_another_program_are_not_used() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let program = site.path("launcher");
    let install = |from: &Path| {
        let beside = site.path("launcher.new");
        assert!(Command::new("cp").arg(from).arg(&beside).status().expect("start cp").success());
        fs::rename(beside, &program).expect("rename over the program");
    };
    install(Path::new(BINARY));
    let yaml = "services: { hello: { plugin: hello.wasm, listen: 127.0.0.1:0, workers: 2 } }";
    let mut command = Command::new(&program);
    command.arg("run").arg(site.configure(yaml)).current_dir(site.path(""));
    let launcher = Launcher::start(command, yaml);
    let old = spares(&launcher, 2);
    install(Path::new(BINARY));
    let mark = launcher.mark();
    launcher.signal(Signal::SIGUSR2);
    launcher.wait_after(mark, "restarted", |event| event.is("restarted"));
    let new: BTreeSet<u32> = launcher.workers_after(mark, 2).into_iter().collect();
    assert!(new.is_disjoint(&old), "{new:?} run the old program");
    assert!(old.iter().all(|pid| process::ends(*pid, PATIENCE)), "{old:?} go on without their master");
    let runs = |pid: u32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program);
    assert!(spares(&launcher, 2).into_iter().all(runs));
}

#[test]
fn a_spare_becomes_the_user_and_gets_the_environment_of_its_service() {
    let site = Site::new();
    let root = nix::unistd::geteuid().is_root();
    let user = if root { "user: nobody, " } else { "" };
    let plugin = guests::native("showcase");
    // Another user must be able to read it, which is not sure of the place where it was built.
    let launcher = site.run(&format!(
        "
services:
  showcase: {{ plugin: {}, listen: 127.0.0.1:0, workers: 1, {user}env: {{ GREETING: hello }} }}
",
        plugin.display()
    ));
    let address = launcher.address("showcase");
    let worker = launcher.workers(1)[0];
    let identity = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let of = |line: &&str| ["Uid:", "Gid:", "Groups:"].iter().any(|field| line.starts_with(field));
        status.lines().filter(of).map(str::to_owned).collect::<Vec<_>>()
    };
    let (first, greeting) = (identity(worker), fetch(&address, "/env/GREETING").text());
    assert!(greeting.contains("hello"), "{greeting}");
    let id = fetch(&address, "/env/LAUNCHER_WORKER_ID").text();
    let before = spares(&launcher, 1);
    let replacement = replaced(&launcher, worker);
    assert!(before.contains(&replacement), "{replacement} was none of {before:?}");
    assert_eq!(identity(replacement), first);
    assert_eq!(fetch(&address, "/env/GREETING").text(), greeting);
    assert_ne!(fetch(&address, "/env/LAUNCHER_WORKER_ID").text(), id);
    assert_eq!(root, !first[0].contains("\t0\t"), "{first:?}");
}

#[test]
fn what_the_loader_must_know_from_the_start_makes_a_process_of_its_own() {
    let site = Site::new();
    let plugin = guests::native("showcase");
    let launcher = site.run(&format!(
        "
services:
  showcase: {{ plugin: {}, listen: 127.0.0.1:0, workers: 1, env: {{ MALLOC_ARENA_MAX: '1' }} }}
",
        plugin.display()
    ));
    let before = spares(&launcher, 1);
    let replacement = replaced(&launcher, launcher.workers(1)[0]);
    assert!(!before.contains(&replacement), "the C library of {replacement} does not know its setting");
    let environment = fs::read(format!("/proc/{replacement}/environ")).expect("it runs");
    assert!(environment.split(|byte| *byte == 0).any(|variable| variable == b"MALLOC_ARENA_MAX=1"));
}

#[test]
fn who_wants_none_has_none() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let yaml = "services: { hello: { plugin: hello.wasm, listen: 127.0.0.1:0, workers: 2 } }";
    let master = "master: { spare_workers: 0, log: { format: json, level: debug } }";
    let config = site.write("config.yaml", format!("{yaml}\n{master}\n"));
    let mut command = site.command(["run"]);
    command.arg(config);
    let launcher = Launcher::start(command, yaml);
    launcher.wait("serving", |event| event.is("serving"));
    let worker = launcher.workers(2)[0];
    replaced(&launcher, worker);
    thread::sleep(Duration::from_secs(1)); // within which one would be made
    assert_eq!(process::spares(launcher.master()), [0_u32; 0]);
}

#[test]
fn a_launcher_whose_services_are_stopped_has_none() {
    let site = Site::new();
    let launcher = hello(&site, 2);
    spares(&launcher, 2);
    let control = Control::of(&site);
    control.post("/v1/services/hello/stop");
    spares(&launcher, 0);
    control.post("/v1/services/hello/start");
    spares(&launcher, 2);
}
