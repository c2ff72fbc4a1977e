//! What is told survives what is told too much: floods, lines without end, escape sequences, full and moved files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::http::{Connection, fetch};
use crate::harness::launcher::eventually;
use crate::harness::{Launcher, PATIENCE, Site, guests, process};

/// Two services of the plugin that prints what it is told, and the log's settings.
fn config(log: &str) -> String {
    let plugin = guests::native("misbehave");
    let plugin = plugin.display();
    format!(
        "
services:
  loud: {{ plugin: {plugin}, listen: 127.0.0.1:0, workers: 1, limits: {{ request_timeout: 5m, idle_timeout: 5m }} }}
  quiet:
    plugin: {plugin}
    listen: 127.0.0.1:0
    workers: 1
    restart: {{ backoff: 1ms..10ms, budget: 100/60s }}
master: {{ log: {{ level: debug, {log} }} }}
"
    )
}

fn run(site: &Site, log: &str) -> Launcher {
    let config = config(log);
    let path = site.write("config.yaml", &config);
    let mut command = site.command(["run"]);
    command.arg(path);
    let launcher = Launcher::start(command, &config);
    launcher.wait("serving", |event| event.is("serving"));
    launcher
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// MiB of the flood; more by hand.
fn flood_size() -> u64 {
    std::env::var("LAUNCHER_TEST_FLOOD").ok().and_then(|size| size.parse().ok()).unwrap_or(200)
}

#[test]
fn a_flood_harms_neither_its_neighbour_nor_the_supervision_and_every_drop_is_counted() {
    let site = Site::alone();
    let config = config("format: json");
    let path = site.write("config.yaml", &config);
    let mut command = site.command(["run"]);
    command.arg(path);
    let flooded = Arc::new(AtomicU64::new(0));
    let (quiet, quiet_lines) = mpsc::channel();
    let count = Arc::clone(&flooded);
    let launcher = Launcher::start_taking(command, &config, move |line| {
        if line.ends_with(b"xxx\"}") {
            count.fetch_add(1, Ordering::Relaxed);
        } else if let Ok(fields) = serde_json::from_slice::<serde_json::Value>(line) {
            let _ = quiet.send(fields["line"].as_str().unwrap_or_default().to_owned());
        }
    });
    launcher.wait("serving", |event| event.is("serving"));
    let (loud, quiet) = (launcher.address("loud"), launcher.address("quiet"));

    let size = flood_size();
    let flood = thread::spawn(move || {
        let mut connection = Connection::open(&loud).expect("connects");
        connection.set_read_timeout(Duration::from_secs(300)).expect("a time-out");
        connection.request("GET", &format!("/flood?{size}"), &[], b"").expect("an answer").status()
    });
    assert!(eventually(|| flooded.load(Ordering::Relaxed) > 1000), "no flood\n{}", launcher.story());
    let (mut lines, mut replacements, mut number) = (Vec::new(), Vec::new(), 0);
    while !flood.is_finished() {
        number += 1;
        let since = Instant::now();
        fetch(&quiet, &format!("/print?{number}"));
        let told = quiet_lines.recv_timeout(PATIENCE).expect("the neighbour's line");
        assert_eq!(told, number.to_string());
        lines.push(since.elapsed());
        let mark = launcher.mark();
        let of_quiet = |event: &crate::harness::Event| event.of("quiet");
        let ready = launcher.events_after(0, |event| event.is("ready") && of_quiet(event));
        let pid = ready.last().expect("it is ready").number("pid") as i32;
        let since = Instant::now();
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill the neighbour's worker");
        let spawned = launcher.wait_after(mark, "spawned", |event| event.is("spawned") && of_quiet(event));
        replacements.push(spawned.at.saturating_duration_since(since));
        launcher.wait_after(mark, "ready", |event| event.is("ready") && of_quiet(event));
    }
    assert_eq!(flood.join().expect("no panic"), 200);

    let total = size * 66 * 160;
    let accounted = || {
        let dropped = launcher.events_after(0, |event| event.is("lines_dropped"));
        assert!(dropped.iter().all(|event| event.of("loud") && event.number("slot") == 0), "{dropped:?}");
        dropped.iter().map(|event| event.number("lines")).sum::<u64>()
    };
    assert!(
        eventually(|| flooded.load(Ordering::Relaxed) + accounted() == total),
        "{} lines came, {} were dropped, {total} were printed\n{}",
        flooded.load(Ordering::Relaxed),
        accounted(),
        launcher.story()
    );
    let (rounds, line, replaced) = (lines.len(), median(lines), median(replacements));
    let peak = process::peak_resident(launcher.master());
    println!(
        "{size} MiB: {} of {total} lines passed; {rounds} rounds: line after {line:?}, replaced after {replaced:?}; peak {} KiB",
        flooded.load(Ordering::Relaxed),
        peak,
    );
    assert!(line < Duration::from_millis(100), "the neighbour's line came after {line:?}");
    assert!(replaced < Duration::from_millis(100), "a killed worker was replaced after {replaced:?}");
    assert!(peak < 100 << 10, "the master took {peak} KiB");
}

#[test]
fn nothing_that_a_worker_prints_is_obeyed_by_a_terminal() {
    for format in ["pretty", "json"] {
        let site = Site::new();
        let log = format!("format: {format}, file: launcher.log");
        let (site_config, printed) = (config(&log), Arc::new(std::sync::Mutex::new(Vec::new())));
        let path = site.write("config.yaml", &site_config);
        let mut command = site.command(["run"]);
        command.arg(path);
        let taken = Arc::clone(&printed);
        let mut launcher = Launcher::start_taking(command, &site_config, move |line| {
            taken.lock().expect("no panic").push(line.to_vec());
        });
        let serving = format!("{} ", if format == "json" { "\"event\":\"serving\"" } else { "serving loud, quiet" });
        assert!(eventually(|| launcher.story().contains(serving.trim_end())), "{}", launcher.story());
        let file = || fs::read_to_string(site.path("launcher.log")).unwrap_or_default();
        let address = address_in(&file());
        fetch(&address, "/escapes");
        assert!(eventually(|| !printed.lock().expect("no panic").is_empty()), "{}", launcher.story());
        launcher.stop();
        let line = String::from_utf8(printed.lock().expect("no panic")[0].clone()).expect("UTF-8");
        for text in [line.as_str(), file().as_str()] {
            let bad = |c: &char| c.is_control() && *c != '\n' || matches!(c, '\u{2028}'..='\u{202e}');
            assert_eq!(text.chars().find(bad), None, "{format}: {text:?}");
            assert!(text.contains("]0;mine") && text.contains("\\xff"), "{format}: it is shown: {text:?}");
        }
    }
}

/// The address of the loud service, out of a log of either format.
fn address_in(log: &str) -> String {
    let line = log.lines().find(|line| line.contains("listening on") && line.contains("loud")).expect("it listens");
    let address = line.split("listening on ").nth(1).expect("an address");
    address.trim_end_matches(['"', '}']).to_owned()
}

#[test]
fn a_line_of_ten_megabytes_comes_in_pieces_that_say_so() {
    let site = Site::new();
    let launcher = run(&site, "format: json");
    fetch(&launcher.address("loud"), "/long-line?1");
    fetch(&launcher.address("loud"), "/print?7");
    let seven = launcher.wait_lines(1, "the line after it", |line| line.text == "7");
    assert!(!seven[0].continues);
    let pieces = launcher.wait_lines(64, "pieces", |line| line.text.starts_with('y'));
    let lengths: Vec<usize> = pieces.iter().map(|piece| piece.text.len()).collect();
    assert!(lengths.iter().all(|length| *length <= 16 << 10), "{lengths:?}");
    assert_eq!(lengths.iter().sum::<usize>(), 1 << 20);
    let continues: Vec<bool> = pieces.iter().map(|piece| piece.continues).collect();
    assert!(continues[..continues.len() - 1].iter().all(|continues| *continues), "{continues:?}");
    assert!(!continues[continues.len() - 1]);
    // Ten, as a neighbour prints: more than may wait at once.
    fetch(&launcher.address("loud"), "/long-line?10");
    fetch(&launcher.address("quiet"), "/print?8");
    launcher.wait_lines(1, "the neighbour's line", |line| line.text == "8");
    fetch(&launcher.address("loud"), "/print?9");
    launcher.wait_lines(1, "the next line", |line| line.text == "9");
}

/// The numbers of `/count` in a log file so far, in their order. Every line must be whole. A write may be seen before its
/// end.
fn numbers(path: &Path) -> Vec<u64> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text[..text.rfind('\n').unwrap_or(0)].lines().map(|line| {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error}: not whole: {line}"))
    });
    let number = |line: serde_json::Value| line["line"].as_str()?.strip_prefix("line ")?.parse().ok();
    lines.filter_map(number).collect()
}

#[test]
fn rotation_under_load_loses_no_line() {
    let site = Site::new();
    let mut launcher = run(&site, "format: json, file: log/launcher.log, max_size: 100KiB, keep: 100");
    // The directory is not there yet: what is told meanwhile waits for it.
    launcher.wait("log_failed", |event| event.is("log_failed"));
    fs::create_dir(site.path("log")).expect("make a directory");
    launcher.signal(Signal::SIGUSR1);
    launcher.wait("log_reopened", |event| event.is("log_reopened"));
    let address = launcher.address("loud");
    const REQUESTS: u64 = 40;
    const LINES: u64 = 500;
    for _ in 0..REQUESTS {
        fetch(&address, &format!("/count?{LINES}"));
    }
    // The last line of the worker: when it is there, so is everything before.
    fetch(&address, "/print?77");
    let ends = |name: &str| fs::read_to_string(site.path(name)).is_ok_and(|text| text.contains("\"line\":\"77\""));
    assert!(eventually(|| ends("log/launcher.log") || ends("log/launcher.log.1")), "{}", launcher.story());
    launcher.stop();
    let dropped =
        launcher.events_after(0, |event| event.is("lines_dropped") && event.text("destination").contains("file"));
    let dropped: u64 = dropped.iter().map(|event| event.number("lines")).sum();
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(site.path("log")).expect("readable").map(|entry| entry.expect("readable").path()) {
        let age = entry.extension().and_then(|age| age.to_str()?.parse::<u32>().ok()).unwrap_or(0);
        assert!(fs::metadata(&entry).expect("there").len() <= 100 << 10, "{} is too large", entry.display());
        files.insert(std::cmp::Reverse(age), numbers(&entry));
    }
    assert!(files.len() > 20, "{} files", files.len());
    let all: Vec<u64> = files.into_values().flatten().collect();
    assert_eq!(all.len() as u64 + dropped, REQUESTS * LINES);
    if dropped == 0 {
        let wanted: Vec<u64> = (0..REQUESTS).flat_map(|_| 1..=LINES).collect();
        assert!(all == wanted, "they are in their order");
    }
}

#[test]
fn a_log_that_was_moved_away_is_opened_anew_on_usr1() {
    let site = Site::new();
    let mut launcher = run(&site, "format: json, file: launcher.log");
    let (path, moved) = (site.path("launcher.log"), site.path("launcher.log.yesterday"));
    let address = launcher.address("loud");
    fetch(&address, "/count?1");
    assert!(eventually(|| numbers(&path) == [1]), "{}", launcher.story());
    fs::rename(&path, &moved).expect("move it");
    fetch(&address, "/count?2");
    assert!(eventually(|| numbers(&moved) == [1, 1, 2]), "{}", launcher.story());
    launcher.signal(Signal::SIGUSR1);
    let reopened = launcher.wait("log_reopened", |event| event.is("log_reopened"));
    assert!(reopened.text("path").ends_with("/launcher.log"));
    fetch(&address, "/count?3");
    assert!(eventually(|| numbers(&path) == [1, 2, 3]), "{}", launcher.story());
    assert_eq!(numbers(&moved), [1, 1, 2]);
    launcher.stop();
    let text = fs::read_to_string(&path).expect("readable");
    assert!(text.contains("\"event\":\"stopped\""), "the last words are in it: {text}");
}

#[test]
fn a_full_disk_stops_nobody_and_is_told() {
    let site = Site::new();
    let mut launcher = run(&site, "format: json, file: /dev/full");
    launcher.wait("log_failed", |event| event.is("log_failed") && event.text("path") == "/dev/full");
    let address = launcher.address("loud");
    fetch(&address, "/count?2000");
    launcher.wait_lines(1, "the last line", |line| line.text == "line 2000");
    assert_eq!(fetch(&address, "/").status(), 200);
    assert_eq!(launcher.events_after(0, |event| event.is("log_failed")).len(), 1, "it is told once");
    launcher.stop();
}

#[test]
fn facts_have_their_place_and_both_clocks() {
    let site = Site::new();
    let mut launcher = run(&site, "format: json");
    launcher.stop();
    let events = launcher.events_after(0, |_| true);
    let of = |field: &str| events.iter().map(|event| event.number(field)).collect::<Vec<_>>();
    assert!(of("seq").windows(2).all(|pair| pair[0] < pair[1]), "{:?}", of("seq"));
    assert!(of("monotonic_ms").is_sorted(), "{:?}", of("monotonic_ms"));
}
