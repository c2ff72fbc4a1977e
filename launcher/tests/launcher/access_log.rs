//! The access log: a line for each request, whole, whoever else writes into the file.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::http::{Connection, fetch};
use crate::harness::launcher::eventually;
use crate::harness::{Launcher, Site, guests};

fn run(site: &Site, workers: u32, access_log: &str) -> Launcher {
    let plugin = guests::native("misbehave");
    site.run(&format!(
        "
services:
  web:
    plugin: {}
    listen: 127.0.0.1:0
    workers: {workers}
    access_log: {access_log}
",
        plugin.display()
    ))
}

/// The lines of a file so far; each must be an object. A write may be seen before its end.
fn objects(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text[..text.rfind('\n').unwrap_or(0)]
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

#[test]
fn every_request_is_told_with_what_became_of_it() {
    let site = Site::new();
    let mut launcher = run(&site, 1, "{ file: access.log }");
    let mut connection = Connection::open(&launcher.address("web")).expect("connects");
    let headers = [("user-agent", "test/1 \"quoted\""), ("referer", "http://example.com/\u{e9}")];
    connection.request("GET", "/?a='b'", &headers, b"").expect("an answer");
    connection.request("HEAD", "/", &[], b"").expect("an answer");
    connection.request("GET", "/nowhere", &[], b"").expect("an answer");
    connection.request("GET", "/panic", &[], b"").expect("an answer");
    connection.send_head("GET", "/fail-body", &[]).expect("sent");
    connection.response("GET").expect_err("the response is cut");
    // One that nobody waits for.
    let mut gone = Connection::open(&launcher.address("web")).expect("connects");
    gone.send_head("GET", "/hang", &[]).expect("sent");
    let mut malformed = Connection::open(&launcher.address("web")).expect("connects");
    malformed.send(b"GET /no-host HTTP/1.1\r\n\r\n").expect("sent");
    assert_eq!(malformed.response("GET").expect("an answer").status(), 400);
    drop(gone);
    let path = site.path("access.log");
    assert!(eventually(|| objects(&path).len() >= 7), "{:?}", objects(&path));
    launcher.stop();
    let all = objects(&path);
    assert_eq!(all.len(), 7, "{all:?}");
    let of = |target: &str, method: &str| {
        let mut found = all.iter().filter(|line| line["target"] == target && line["method"] == method);
        found.next().unwrap_or_else(|| panic!("no {method} {target} in {all:?}")).clone()
    };
    let whole = of("/?a='b'", "GET");
    for (field, value) in [
        ("service", "web".into()),
        ("slot", 0.into()),
        ("client", "127.0.0.1".into()),
        ("protocol", "HTTP/1.1".into()),
        ("status", 200.into()),
        ("bytes", 11.into()),
        ("user_agent", "test/1 \"quoted\"".into()),
        ("referer", "http://example.com/\\xc3\\xa9".into()),
        ("cut", Value::Null),
    ] {
        assert_eq!(whole[field], value, "{field} of {whole}");
    }
    assert!(whole["duration_ms"].as_f64().is_some_and(|duration| duration >= 0.0), "{whole}");
    let head = of("/", "HEAD");
    assert_eq!((&head["status"], &head["bytes"], &head["cut"]), (&200.into(), &0.into(), &Value::Null));
    assert_eq!(of("/nowhere", "GET")["status"], 404);
    assert_eq!(of("/panic", "GET")["status"], 500);
    assert_eq!(of("/no-host", "GET")["status"], 400);
    let cut = of("/fail-body", "GET");
    assert_eq!((&cut["status"], &cut["cut"]), (&200.into(), &true.into()), "{cut}");
    let left = of("/hang", "GET");
    assert_eq!((&left["status"], &left["cut"]), (&499.into(), &true.into()), "{left}");
}

#[test]
fn the_combined_format_comes_with_the_workers_output() {
    let site = Site::new();
    let launcher = run(&site, 1, "combined");
    fetch(&launcher.address("web"), "/?x");
    let line = &launcher.wait_lines(1, "the request's line", |line| line.text.contains("GET /?x"))[0];
    assert_eq!(line.stream, "stdout");
    let (before, after) = line.text.split_once(" - - [").expect("its form");
    let (_, after) = after.split_once("] ").expect("its form");
    assert_eq!((before, after), ("127.0.0.1", "\"GET /?x HTTP/1.1\" 200 11 \"-\" \"-\""));
}

#[test]
fn the_lines_of_several_workers_in_one_file_stay_whole() {
    const CLIENTS: usize = 8;
    const REQUESTS: usize = 500;
    let site = Site::new();
    let mut launcher = run(&site, 3, "{ format: json, file: access.log }");
    let address = launcher.address("web");
    // Connections until several workers have some: which worker accepts is the kernel's to say.
    let path = site.path("access.log");
    let slots = |lines: &[Value]| lines.iter().filter_map(|line| line["slot"].as_u64()).collect::<BTreeSet<_>>().len();
    let mut connections = Vec::new();
    let spread = || {
        let mut connection = Connection::open(&address).expect("connects");
        connection.request("GET", "/nowhere", &[], b"").expect("an answer");
        connections.push(connection);
        connections.len() >= CLIENTS && slots(&objects(&path)) > 1
    };
    assert!(eventually(spread), "one worker has all connections");
    let share = connections.len() / CLIENTS;
    thread::scope(|scope| {
        for (client, connections) in connections.chunks_exact_mut(share).take(CLIENTS).enumerate() {
            scope.spawn(move || {
                for request in 0..REQUESTS {
                    let target = format!("/?{client}-{request}-{}", "x".repeat(request % 300));
                    let connection = &mut connections[request % share];
                    let answer = connection.request("GET", &target, &[], b"").expect("an answer");
                    assert_eq!(answer.status(), 200);
                }
            });
        }
    });
    launcher.stop();
    let mut all = objects(&path);
    all.retain(|line| line["target"] != "/nowhere");
    assert_eq!(all.len(), CLIENTS * REQUESTS);
    let mut targets: Vec<_> = all.iter().filter_map(|line| line["target"].as_str()).collect();
    targets.sort_unstable();
    targets.dedup();
    assert_eq!(targets.len(), CLIENTS * REQUESTS, "each once");
    assert!(slots(&all) > 1, "several workers wrote");
}

#[test]
fn an_access_log_that_was_moved_away_is_opened_anew_on_usr1() {
    let site = Site::new();
    let mut launcher = run(&site, 2, "{ file: access.log }");
    let address = launcher.address("web");
    let (path, moved) = (site.path("access.log"), site.path("access.log.1"));
    fetch(&address, "/?before");
    assert!(eventually(|| objects(&path).len() == 1), "{:?}", objects(&path));
    fs::rename(&path, &moved).expect("move it");
    launcher.signal(Signal::SIGUSR1);
    launcher.wait("log_reopened", |event| event.is("log_reopened") && event.text("path").ends_with("/access.log"));
    let mut asked = 0;
    let told = || {
        asked += 1;
        fetch(&address, "/?after");
        !objects(&path).is_empty()
    };
    assert!(eventually(told), "nothing comes into the new file\n{}", launcher.story());
    launcher.stop();
    let (old, new) = (objects(&moved), objects(&path));
    assert_eq!(old[0]["target"], "/?before");
    assert_eq!(old.len() + new.len(), 1 + asked, "none is lost");
}

#[test]
fn an_access_log_that_cannot_be_written_stops_nobody() {
    for file in ["/dev/full", "no/such/directory/access.log"] {
        let site = Site::new();
        let mut launcher = run(&site, 1, &format!("{{ file: {file} }}"));
        let address = launcher.address("web");
        for _ in 0..100 {
            assert_eq!(fetch(&address, "/").status(), 200, "{file}");
        }
        if file == "/dev/full" {
            launcher
                .wait_lines(1, "that lines are lost", |line| line.text.contains("lines of the access log are lost"));
        } else {
            launcher.wait("log_failed", |event| event.is("log_failed"));
        }
        launcher.stop();
    }
}
