//! The master may die: workers serve on, and another master goes on with them. The keeper may die as well.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::harness::control::Control;
use crate::harness::http::{Connection, fetch};
use crate::harness::launcher::eventually;
use crate::harness::load::{Connections, Load};
use crate::harness::{Launcher, PATIENCE, Site, guests, process};

const HELLO: &str = "services: { hello: { plugin: hello.wasm, listen: 127.0.0.1:0, workers: 2 } }";

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid as i32), signal).expect("it runs");
}

fn hello(site: &Site, yaml: &str) -> Launcher {
    site.write("hello.wasm", guests::hello(1));
    site.run(yaml)
}

/// Kills the master and waits for the next one, which has done everything that it does at its start.
fn kill_master(launcher: &Launcher, site: &Site) -> u32 {
    let mark = launcher.mark();
    send(launcher.master(), Signal::SIGKILL);
    next_master(launcher, site, mark)
}

fn next_master(launcher: &Launcher, site: &Site, mark: usize) -> u32 {
    let adopted = launcher.wait_after(mark, "adopted", |event| event.is("adopted"));
    assert_eq!(Control::of(site).get("/v1/status")["pid"], adopted.number("pid"));
    adopted.number("pid") as u32
}

fn sorted(site: &Site, service: &str) -> Vec<u64> {
    let mut pids = Control::of(site).ready(service);
    pids.sort_unstable();
    pids
}

fn serves(site: &Site, service: &str) -> bool {
    Control::of(site).service(service)["state"] == "serving"
}

#[test]
fn ten_deaths_of_the_master_under_load_fail_no_request_and_leave_the_workers_as_they_are() {
    let site = Site::alone();
    let launcher = hello(&site, HELLO);
    let address = launcher.address("hello");
    let workers = sorted(&site, "hello");
    let mut answers = Vec::new();
    let loads = [Connections::Kept, Connections::Fresh].map(|how| Load::start(&address, "/", how, 4));
    for _ in 0..10 {
        loads.iter().for_each(|load| load.more(20));
        let master = launcher.master();
        let mark = launcher.mark();
        send(master, Signal::SIGKILL);
        let since = Instant::now();
        let status = site.output(["status", "-o", "json"]);
        let took = since.elapsed();
        assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
        answers.push(took);
        let adopted = launcher.wait_after(mark, "adopted", |event| event.is("adopted"));
        assert_eq!((adopted.number("workers"), adopted.number("before")), (2, u64::from(master)));
        assert_eq!(adopted.text("how"), "was killed by SIGKILL");
        assert_eq!(sorted(&site, "hello"), workers);
    }
    answers.sort_unstable();
    println!("status answers after {answers:?}");
    // A machine that stands still for a while makes some of them longer.
    assert!(answers[4] < Duration::from_millis(300), "{answers:?} until status answers");
    for load in loads {
        load.stop().assert_flawless();
    }
    assert!(launcher.events_after(0, |event| event.is("exited")).is_empty(), "{}", launcher.story());
}

#[test]
fn what_was_counted_and_when_workers_started_is_kept() {
    let site = Site::new();
    let launcher = hello(&site, HELLO);
    let address = launcher.address("hello");
    site.replace("hello.wasm", guests::hello(2));
    launcher.wait("promoted", |event| event.is("promoted") && event.number("generation") == 2);
    for _ in 0..10 {
        fetch(&address, "/");
    }
    let sum = |site: &Site| {
        let service = Control::of(site).service("hello");
        let workers = service["workers"].as_array().expect("workers").clone();
        let ready: Vec<_> = workers.into_iter().filter(|worker| worker["state"] == "ready").collect();
        let total = |field: &str| ready.iter().filter_map(|worker| worker[field].as_f64()).sum::<f64>();
        (total("requests"), total("accepted"), total("uptime_s"), service)
    };
    let (requests, accepted, uptime, before) = sum(&site);
    assert_eq!(requests, 10.0);
    kill_master(&launcher, &site);
    let (requests_after, accepted_after, uptime_after, after) = sum(&site);
    assert_eq!((requests_after, accepted_after), (requests, accepted));
    assert!(uptime_after > uptime, "{uptime_after} after {uptime}");
    for field in ["generation", "previous", "state", "wanted", "listeners", "last_reload"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    // They count on.
    fetch(&address, "/");
    assert_eq!(sum(&site).0, 11.0);
}

#[test]
fn a_worker_that_dies_while_there_is_no_master_is_replaced_and_its_end_is_known() {
    let site = Site::new();
    let launcher = hello(&site, HELLO);
    let address = launcher.address("hello");
    let workers = launcher.workers(2);
    let mark = launcher.mark();
    send(launcher.pid(), Signal::SIGSTOP);
    send(launcher.master(), Signal::SIGKILL);
    send(workers[0], Signal::SIGABRT);
    // A connection for which a worker was woken that dies waits for a master: so it is gone before.
    assert!(eventually(|| !process::runs(workers[0])));
    assert_eq!(fetch(&address, "/").text(), guests::greeting(1), "without master and keeper");
    send(launcher.pid(), Signal::SIGCONT);
    let exited = launcher.wait_after(mark, "exited", |event| event.is("exited"));
    assert_eq!((exited.number("pid"), exited.number("signal")), (u64::from(workers[0]), 6), "{exited:?}");
    launcher.workers_after(mark, 1);
    assert!(eventually(|| serves(&site, "hello")));
    let now = sorted(&site, "hello");
    assert!(now.contains(&u64::from(workers[1])) && !now.contains(&u64::from(workers[0])), "{now:?}");
}

#[test]
fn the_end_of_a_worker_of_an_earlier_master_is_seen_and_told() {
    let site = Site::new();
    let launcher = hello(&site, HELLO);
    let workers = launcher.workers(2);
    kill_master(&launcher, &site);
    let mark = launcher.mark();
    send(workers[1], Signal::SIGKILL);
    let exited = launcher.wait_after(mark, "exited", |event| event.is("exited"));
    assert_eq!((exited.number("pid"), exited.number("signal")), (u64::from(workers[1]), 9), "{exited:?}");
    launcher.workers_after(mark, 1);
    assert!(eventually(|| serves(&site, "hello")));
}

#[test]
fn after_a_death_reload_rollback_scale_and_stop_work_as_before() {
    let site = Site::new();
    let mut launcher = hello(&site, HELLO);
    let address = launcher.address("hello");
    site.replace("hello.wasm", guests::hello(2));
    launcher.wait("promoted", |event| event.is("promoted") && event.number("generation") == 2);
    kill_master(&launcher, &site);
    let control = Control::of(&site);
    control.post("/v1/services/hello/rollback?wait=true");
    assert_eq!(fetch(&address, "/").text(), guests::greeting(1));
    // The file still holds what was rolled back: a death must not bring it back.
    let mark = launcher.mark();
    kill_master(&launcher, &site);
    assert_eq!(control.service("hello")["generation"], 1);
    assert!(launcher.events_after(mark, |event| event.is("reload_started")).is_empty());
    site.replace("hello.wasm", guests::hello(3));
    launcher.wait_after(mark, "promoted", |event| event.is("promoted") && event.number("generation") == 3);
    assert_eq!(fetch(&address, "/").text(), guests::greeting(3));
    control.ask("POST", "/v1/services/hello/scale?wait=true", r#"{"workers":"3"}"#).good();
    kill_master(&launcher, &site);
    assert_eq!(control.ready("hello").len(), 3, "a scale by hand holds");
    launcher.stop();
    assert!(!site.path(".launcher/launcher.pid").exists());
}

#[test]
fn a_death_in_the_middle_of_a_reload_ends_in_the_new_generation() {
    for pause in [0, 3, 6, 10, 20] {
        let site = Site::new();
        let launcher = hello(&site, HELLO);
        let address = launcher.address("hello");
        let load = Load::start(&address, "/", Connections::Kept, 4);
        load.more(20);
        let mark = launcher.mark();
        site.replace("hello.wasm", guests::hello(2));
        launcher.wait_after(mark, "reload", |event| event.is("reload_started") || event.is("spawned"));
        std::thread::sleep(Duration::from_millis(pause)); // somewhere in the rollout
        kill_master(&launcher, &site);
        load.first(&guests::greeting(2));
        assert!(eventually(|| serves(&site, "hello") && sorted(&site, "hello").len() == 2), "{}", launcher.story());
        load.stop().assert_flawless();
        assert_eq!(Control::of(&site).service("hello")["generation"], 2);
    }
}

#[test]
fn files_that_change_while_there_is_no_master_are_taken_up() {
    let site = Site::new();
    let launcher = hello(&site, HELLO);
    let address = launcher.address("hello");
    let mark = launcher.mark();
    send(launcher.pid(), Signal::SIGSTOP);
    send(launcher.master(), Signal::SIGKILL);
    site.replace("hello.wasm", guests::hello(2));
    site.configure(&HELLO.replace("workers: 2", "workers: 3"));
    send(launcher.pid(), Signal::SIGCONT);
    launcher.wait_after(mark, "promoted", |event| event.is("promoted") && event.number("generation") == 2);
    assert_eq!(fetch(&address, "/").text(), guests::greeting(2));
    assert!(eventually(|| serves(&site, "hello") && sorted(&site, "hello").len() == 3));
}

#[test]
fn a_dying_master_is_not_the_last_who_has_the_queue_of_file_events() {
    let site = Site::new();
    let launcher = hello(&site, HELLO);
    // The kernel has whoever closes it as the last wait: seconds, if a process of low priority works with files.
    let kept = process::watches(launcher.pid());
    assert!(matches!(kept[..], [count] if count > 0), "the keeper has {kept:?}");
    for version in 2..6 {
        let master = kill_master(&launcher, &site);
        // Once for itself and once for its event loop, and of the watches no more than before.
        let same = || process::watches(launcher.pid()) == kept && process::watches(master) == [kept[0]; 2];
        assert!(eventually(same), "{:?}, {:?}", process::watches(launcher.pid()), process::watches(master));
        let mark = launcher.mark();
        site.replace("hello.wasm", guests::hello(version));
        launcher.wait_after(mark, "promoted", |event| event.is("promoted"));
    }
}

#[test]
fn a_configuration_that_is_broken_by_then_changes_nothing() {
    let site = Site::new();
    let launcher = hello(&site, HELLO);
    let workers = sorted(&site, "hello");
    let mark = launcher.mark();
    send(launcher.pid(), Signal::SIGSTOP);
    send(launcher.master(), Signal::SIGKILL);
    site.write("config.yaml", "services: 3");
    send(launcher.pid(), Signal::SIGCONT);
    launcher.wait_after(mark, "rejected", |event| event.is("config_rejected"));
    assert_eq!(sorted(&site, "hello"), workers);
}

#[test]
fn the_death_of_the_keeper_is_answered_by_another_one_and_then_that_of_the_master_as_well() {
    let site = Site::new();
    let launcher = hello(&site, HELLO);
    let address = launcher.address("hello");
    let workers = sorted(&site, "hello");
    let load = Load::start(&address, "/", Connections::Kept, 4);
    let master = launcher.master();
    let mut keeper = launcher.pid();
    for _ in 0..2 {
        load.more(20);
        let mark = launcher.mark();
        send(keeper, Signal::SIGKILL);
        let replaced = launcher.wait_after(mark, "another keeper", |event| event.is("keeper_replaced"));
        keeper = replaced.number("keeper") as u32;
        let status = Control::of(&site).get("/v1/status");
        assert_eq!((&status["pid"], &status["keeper"]), (&Value::from(master), &Value::from(keeper)));
        let pid_file = fs::read_to_string(site.path(".launcher/launcher.pid")).expect("a pid file");
        assert_eq!(pid_file, format!("{keeper}\n"));
    }
    kill_master(&launcher, &site);
    load.more(20);
    assert_eq!(sorted(&site, "hello"), workers);
    // One of a master and a keeper that are both gone.
    let mark = launcher.mark();
    send(workers[0] as u32, Signal::SIGKILL);
    launcher.workers_after(mark, 1);
    load.more(20);
    send(keeper, Signal::SIGTERM);
    assert!(process::ends(keeper, PATIENCE), "{}", launcher.story());
    assert!(eventually(|| workers.iter().all(|pid| !process::runs(*pid as u32))));
    let tally = load.stop();
    assert!(tally.failed.iter().all(|failure| tally.answered > 0 && !failure.is_empty()));
}

/// Processes that were started with the configuration of this site.
fn launchers(site: &Site) -> Vec<u32> {
    let config = site.path("config.yaml").into_os_string().into_encoded_bytes();
    let of_site = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|argument| argument == config)
    };
    let all = fs::read_dir("/proc")
        .expect("it is mounted")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    all.filter(of_site).filter(|pid| process::runs(*pid)).collect()
}

#[test]
fn whoever_kills_keeper_and_master_at_once_finds_a_launcher_that_serves_or_none() {
    // The master starts another keeper as soon as it sees that it has none: the second kill meets every stage of that.
    for microseconds in [0, 300, 1_000, 2_000, 3_000, 4_000, 5_000, 6_000, 8_000, 12_000] {
        let site = Site::new();
        let launcher = hello(&site, HELLO);
        let workers = launcher.workers(2);
        let master = launcher.master();
        send(launcher.pid(), Signal::SIGKILL);
        let then = Instant::now() + Duration::from_micros(microseconds);
        while Instant::now() < then {
            std::hint::spin_loop();
        }
        send(master, Signal::SIGKILL);
        let gone = || launchers(&site).is_empty() && workers.iter().all(|pid| !process::runs(*pid));
        let control = format!("unix:{}", site.path(".launcher/control.sock").display());
        let status = || {
            let answer = Connection::open(&control)?.request("GET", "/v1/services/hello", &[], b"")?;
            Ok::<Value, std::io::Error>(serde_json::from_str(&answer.text())?)
        };
        let served = || status().is_ok_and(|service| service["state"] == "serving");
        assert!(eventually(|| gone() || served()), "after {microseconds} µs: {}", launcher.story());
        for pid in launchers(&site) {
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGTERM);
        }
        assert!(eventually(gone), "after {microseconds} µs: {:?}, {}", launchers(&site), launcher.story());
    }
}

#[test]
fn a_signal_that_comes_while_there_is_no_master_reaches_the_next_one() {
    let site = Site::new();
    let mut launcher = hello(&site, HELLO);
    send(launcher.pid(), Signal::SIGSTOP);
    send(launcher.master(), Signal::SIGKILL);
    send(launcher.pid(), Signal::SIGTERM);
    send(launcher.pid(), Signal::SIGCONT);
    assert_eq!(launcher.exit().code(), Some(0), "{}", launcher.story());
    assert!(launcher.events_after(0, |event| event.is("stopped")).len() == 1, "{}", launcher.story());
}

/// Where the master writes down what it knows: the keeper holds it.
fn ledger(keeper: u32) -> fs::File {
    let descriptors = fs::read_dir(format!("/proc/{keeper}/fd")).expect("it runs");
    let mut paths = descriptors.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let is_it = |path: &std::path::PathBuf| {
        fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains("launcher-ledger"))
    };
    let path = paths.find(is_it).expect("it has a ledger");
    fs::File::options().read(true).write(true).open(path).expect("it is ours")
}

#[test]
fn a_master_that_cannot_go_on_leaves_the_workers_serving_and_says_so() {
    let site = Site::new();
    let launcher = hello(&site, HELLO);
    let address = launcher.address("hello");
    let workers = launcher.workers(2);
    let mut kept = Connection::open(&address).expect("connects");
    // As a fault of memory might leave it.
    let ledger = ledger(launcher.pid());
    let mut heads = [[0; 32]; 2];
    for (head, at) in heads.iter_mut().zip([0, 1 << 28]) {
        ledger.read_exact_at(head, at).expect("it has two slots");
        ledger.write_all_at(&[7; 32], at).expect("writable");
    }
    send(launcher.master(), Signal::SIGKILL);
    assert!(eventually(|| launcher.story().contains("the workers serve on without a master")));
    assert!(launcher.story().contains("cannot be read"), "{}", launcher.story());
    assert_eq!(fetch(&address, "/").text(), guests::greeting(1));
    assert_eq!(kept.request("GET", "/", &[], b"").expect("an answer").text(), guests::greeting(1));
    assert!(workers.iter().all(|worker| process::runs(*worker)));
    // The next try finds it as it was.
    let mark = launcher.mark();
    for (head, at) in heads.iter().zip([0, 1 << 28]) {
        ledger.write_all_at(head, at).expect("writable");
    }
    launcher.wait_after(mark, "adopted", |event| event.is("adopted"));
    assert_eq!(sorted(&site, "hello").len(), 2);
}

#[test]
fn a_launcher_without_a_master_can_be_stopped() {
    let site = Site::new();
    let mut launcher = hello(&site, HELLO);
    let workers = launcher.workers(2);
    let ledger = ledger(launcher.pid());
    for at in [0, 1 << 28] {
        ledger.write_all_at(&[7; 32], at).expect("writable");
    }
    send(launcher.master(), Signal::SIGKILL);
    assert!(eventually(|| launcher.story().contains("the workers serve on without a master")));
    launcher.signal(Signal::SIGTERM);
    assert_eq!(launcher.exit().code(), Some(0), "{}", launcher.story());
    assert!(workers.iter().all(|worker| !process::runs(*worker)));
}

#[test]
fn a_stopped_service_stays_stopped_and_an_output_goes_on() {
    let site = Site::new();
    site.kitchen();
    site.write("hello.wasm", guests::hello(1));
    let launcher = site.run(
        "
services:
  hello: { plugin: hello.wasm, listen: 127.0.0.1:0 }
  kitchen: { plugin: kitchen.wasm, listen: 127.0.0.1:0 }
",
    );
    let control = Control::of(&site);
    control.post("/v1/services/hello/stop?wait=true");
    kill_master(&launcher, &site);
    assert_eq!(control.service("hello")["state"], "stopped");
    fetch(&launcher.address("kitchen"), "/stdout");
    launcher.wait_lines(1, "a line", |line| line.service == "kitchen" && line.text == "a line on stdout");
    control.post("/v1/services/hello/start?wait=true");
    assert!(serves(&site, "hello"));
}

#[test]
fn many_services_are_gone_on_with() {
    const SERVICES: usize = 40;
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let mut yaml = "services:\n".to_owned();
    for service in 0..SERVICES {
        yaml += &format!("  s{service}: {{ plugin: hello.wasm, listen: 127.0.0.1:0, workers: 2 }}\n");
    }
    let launcher = site.run(&yaml);
    let pids = |site: &Site| {
        let workers = Control::of(site).get("/v1/workers");
        let pid = |worker: &Value| worker["pid"].as_u64().expect("a pid");
        workers.as_array().expect("a list").iter().map(pid).collect::<BTreeSet<_>>()
    };
    let before = pids(&site);
    assert_eq!(before.len(), 2 * SERVICES);
    let since = Instant::now();
    kill_master(&launcher, &site);
    println!("{SERVICES} services are gone on with after {:?}", since.elapsed());
    assert_eq!(pids(&site), before);
}
