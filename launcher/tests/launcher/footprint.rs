//! What the launcher costs: processes, memory, wake-ups, and nothing more after many reloads.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::harness::http::fetch;
use crate::harness::launcher::eventually;
use crate::harness::{Launcher, Site, guests, process};

fn hello(site: &Site, workers: u32) -> Launcher {
    site.write("hello.wasm", guests::hello(1));
    let launcher = site.run(&format!(
        "
services:
  hello: {{ plugin: hello.wasm, listen: 127.0.0.1:0, workers: {workers} }}
"
    ));
    launcher.workers(workers as usize);
    launcher
}

#[test]
fn four_workers_are_four_processes_with_an_equal_share() {
    const REQUESTS: usize = 400;
    let site = Site::new();
    site.kitchen();
    let launcher = site.run("services: { kitchen: { plugin: kitchen.wasm, listen: 127.0.0.1:0, workers: 4 } }");
    let mut pids = launcher.workers(4);
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 4);
    let address = launcher.address("kitchen");
    for _ in 0..REQUESTS {
        fetch(&address, "/stdout");
    }
    let lines = launcher.wait_lines(REQUESTS, "line of every request", |line| line.text == "a line on stdout");
    let mut shares = BTreeMap::<u64, usize>::new();
    for line in lines {
        *shares.entry(line.worker).or_default() += 1;
    }
    assert_eq!(shares.len(), 4, "{shares:?}");
    assert!(shares.values().all(|share| (80..=120).contains(share)), "{shares:?}");
}

#[test]
fn an_idle_launcher_sleeps() {
    let site = Site::alone();
    let launcher = hello(&site, 2);
    assert_eq!(fetch(&launcher.address("hello"), "/").status(), 200);
    // A worker is idle a second after its last work, and says so.
    thread::sleep(Duration::from_secs(3));
    let resting = [launcher.pid(), launcher.master()].map(|pid| (pid, process::sleeps(pid)));
    let workers: Vec<_> = launcher.workers(2).into_iter().map(|pid| (pid, process::sleeps(pid))).collect();
    thread::sleep(Duration::from_secs(10)); // the span that is measured
    for (pid, before) in resting {
        let woke = process::woke_since(pid, &before);
        assert!(woke <= 3, "keeper or master {pid} woke {woke} times in 10 idle seconds");
    }
    for (pid, before) in workers {
        let woke = process::woke_since(pid, &before);
        assert!(woke <= 5, "worker {pid} woke {woke} times in 10 idle seconds");
    }
}

#[test]
fn master_and_workers_are_small() {
    let site = Site::alone();
    let pss = |workers: u32| {
        let mut launcher = hello(&site, workers);
        let pids = launcher.workers(workers as usize);
        let address = launcher.address("hello");
        for _ in 0..20 * workers {
            fetch(&address, "/");
        }
        let (master, keeper) = (process::pss(launcher.master()), process::pss(launcher.pid()));
        let all = master + pids.iter().map(|pid| process::pss(*pid)).sum::<u64>();
        launcher.stop();
        (master, keeper, all)
    };
    let (master, keeper, two) = pss(2);
    let (.., six) = pss(6);
    let further = (six - two) / 4;
    println!("master {master} KiB, keeper {keeper} KiB, a further worker {further} KiB");
    assert!(master < 15 << 10, "the master has {master} KiB");
    assert!(keeper < 6 << 10, "the keeper has {keeper} KiB");
    assert!(further < 4 << 10, "a further idle worker costs {further} KiB");
}

/// 300 reloads; `scripts/soak-reloads N` runs it with more.
#[test]
fn reloads_leak_no_descriptor_memory_process_or_file() {
    let reloads: u32 = match std::env::var("LAUNCHER_SOAK_RELOADS") {
        Ok(count) => count.parse().expect("LAUNCHER_SOAK_RELOADS is a number"),
        Err(_) => 300,
    };
    let site = Site::new();
    let mut launcher = hello(&site, 2);
    let address = launcher.address("hello");
    let mut early = None;
    for version in 2..reloads + 2 {
        let mark = launcher.mark();
        site.replace("hello.wasm", guests::hello(version));
        launcher.wait_after(mark, "promoted", |event| event.is("promoted"));
        launcher.wait_many(mark, 2, "exit of the old workers", |event| event.is("exited"));
        assert_eq!(fetch(&address, "/").text(), guests::greeting(version));
        if version == reloads / 5 {
            early = Some(footprint(&launcher, &site));
        }
    }
    let (early, late) = (early.expect("was taken on the way"), footprint(&launcher, &site));
    println!("after a fifth of {reloads} reloads: {early:?}; after all: {late:?}");
    assert!(late.descriptors <= early.descriptors + 2, "descriptors: {early:?} -> {late:?}");
    assert!(late.files <= early.files + 2, "files: {early:?} -> {late:?}");
    assert!(late.resident_kib <= early.resident_kib + 4096, "memory: {early:?} -> {late:?}");
    launcher.stop();
}

#[derive(Debug)]
struct Footprint {
    descriptors: usize,
    files: usize,
    resident_kib: u64,
}

/// Taken once the old workers are gone.
fn footprint(launcher: &Launcher, site: &Site) -> Footprint {
    // Two workers, and two that wait to become some.
    let settled = eventually(|| {
        let (children, spares) = (process::children(launcher.master()), process::spares(launcher.master()));
        (children.len(), spares.len()) == (4, 2)
    });
    assert!(settled, "{} children of the master stay", process::children(launcher.master()).len());
    Footprint {
        descriptors: process::descriptors(launcher.master()) + process::descriptors(launcher.pid()),
        files: files(&site.path("")),
        resident_kib: process::resident(launcher.master()) + process::resident(launcher.pid()),
    }
}

fn files(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).expect("read a directory of the site");
    entries
        .filter_map(Result::ok)
        .map(|entry| if entry.file_type().is_ok_and(|kind| kind.is_dir()) { files(&entry.path()) } else { 1 })
        .sum()
}
