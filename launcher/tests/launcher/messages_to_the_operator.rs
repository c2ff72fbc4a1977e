//! What plugins tell the operator: events, in their order, and no more of them than an operator wants.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::harness::control::Control;
use crate::harness::http::{Connection, Response, fetch};
use crate::harness::{Event, Launcher, Site, guests, process};
use crate::wasm_sockets::ask;

/// A courier beside a service that says nothing.
fn courier(site: &Site) -> Launcher {
    let plugin = guests::native("courier").display().to_string();
    site.write("hello.wasm", guests::hello(1));
    let launcher = site.run(&format!(
        "
services:
  post: {{ plugin: {plugin}, listen: 127.0.0.1:0, workers: 1, limits: {{ request_timeout: 2m }} }}
  quiet: {{ plugin: hello.wasm, listen: 127.0.0.1:0, workers: 1 }}
"
    ));
    launcher.workers(2);
    launcher
}

fn post(launcher: &Launcher, target: &str, body: &str) -> Response {
    let mut connection = Connection::open(&launcher.address("post")).expect("connect");
    connection.request("POST", target, &[], body.as_bytes()).expect("an answer")
}

fn is_message(event: &Event) -> bool {
    event.is("message")
}

/// What `/report` tells.
fn report(number: u64) -> Value {
    json!({ "ping": { "n": number } })
}

#[test]
fn a_plugin_tells_the_operator_and_it_is_an_event() {
    let site = Site::new();
    let launcher = courier(&site);
    let worker = launcher.wait("ready", |event| event.is("ready") && event.of("post"));
    let body = json!({ "progress": [1, 2.5, null], "text": "größer\u{1b}[2J\u{202e}" });
    assert_eq!(post(&launcher, "/tell", &body.to_string()).text(), "taken\n");
    let told = launcher.wait("message", is_message);
    assert!(told.of("post"), "{told:?}");
    for field in ["worker", "slot", "pid", "generation"] {
        assert_eq!(told.number(field), worker.number(field), "{told:?}");
    }
    assert_eq!(told.value("body"), &body);
    let says = format!("worker {} says ", worker.number("worker"));
    assert!(told.text("message").starts_with(&format!("{says}{{\"progress\":[1,2.5,null],")), "{told:?}");

    assert_eq!(post(&launcher, "/tell", " 7 ").text(), "taken\n");
    assert_eq!(launcher.wait_many(0, 2, "message", is_message)[1].value("body"), &json!(7));
    // The control API's stream and `launcher events` have the same.
    let shown = site.output(["events", "-n", "1000", "-o", "json"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let shown: Vec<Value> = shown.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let shown: Vec<_> = shown.iter().filter(|event| event["event"] == "message").collect();
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert_eq!((&shown[0]["body"], &shown[0]["number"]), (&body, &json!(0)));
    assert_eq!((&shown[1]["body"], &shown[1]["number"]), (&json!(7), &json!(1)));
    let pretty = site.output(["events", "-n", "1000"]);
    let pretty = String::from_utf8_lossy(&pretty.stdout).into_owned();
    assert!(pretty.contains(&format!("{says}7\n")) && !pretty.contains('\u{1b}'), "{pretty}");

    // What is no message for an operator is the sender's to know.
    for (wrong, said) in [
        ("no json".to_owned(), "Bad"),
        (String::new(), "Bad"),
        ("[".repeat(100) + &"]".repeat(100), "Bad"),
        (format!("\"{}\"", "x".repeat(8191)), "TooLarge"),
    ] {
        let answer = post(&launcher, "/tell", &wrong);
        assert_eq!((answer.status(), answer.text()), (409, format!("{said}\n")));
    }
    assert_eq!(post(&launcher, "/tell", &format!("\"{}\"", "\\\"".repeat(4095))).text(), "taken\n");
    let large = &launcher.wait_many(0, 3, "message", is_message)[2];
    assert_eq!(large.value("body").as_str().map(str::len), Some(4095));
    assert_eq!(launcher.events_after(0, is_message).len(), 3);
}

#[test]
fn components_tell_it_too() {
    let site = Site::new();
    site.write("lines.wasm", guests::lines());
    let launcher = site.run("services: { lines: { plugin: lines.wasm, listen: 127.0.0.1:0, workers: 1 } }");
    let address = launcher.address("lines");
    assert_eq!(ask(&address, "tell operator - {\"temperature\":21}"), "taken");
    let told = launcher.wait("message", is_message);
    assert_eq!(told.value("body"), &json!({ "temperature": 21 }));
    let refused = ask(&address, "tell operator - hello");
    assert!(refused.to_ascii_lowercase().contains("bad"), "{refused}");
}

/// Whoever has much to say waits, and costs the master and everybody else nothing.
#[test]
fn a_flood_is_slowed_down_and_displaces_nothing() {
    const COUNT: u64 = 400;
    let site = Site::new();
    let launcher = courier(&site);
    let master = launcher.master();
    assert_eq!(post(&launcher, "/report?1", "").text(), "taken\n");
    let (resident, before) = (process::resident(master), Instant::now());
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| post(&launcher, &format!("/report?{COUNT}"), ""));
        launcher.wait_many(0, 150, "message", is_message);
        assert_eq!(fetch(&launcher.address("quiet"), "/").text(), guests::greeting(1));
        assert_eq!(Control::of(&site).service("quiet")["state"], "serving");
        let answer = flood.join().expect("no panic");
        assert_eq!((answer.status(), answer.text().as_str()), (200, "taken\n"));
    });
    // A hundred at once and a hundred a second.
    assert!(before.elapsed() > Duration::from_millis(2900), "{:?}", before.elapsed());
    let told = launcher.wait_many(0, 1 + COUNT as usize, "message", is_message);
    for (number, told) in told[1..].iter().enumerate() {
        assert_eq!((told.value("body"), told.number("number")), (&report(number as u64), 1 + number as u64));
    }
    let grown = process::resident(master);
    assert!(grown < resident + (8 << 10), "{resident} KiB, then {grown} KiB");
    assert_eq!(launcher.master(), master);
}

#[test]
fn what_was_said_before_the_end_is_told() {
    let site = Site::new();
    let launcher = courier(&site);
    let worker = launcher.wait("ready", |event| event.is("ready") && event.of("post")).number("worker");
    assert_eq!(post(&launcher, "/report?16,0", "").text(), "parted\n");
    Control::of(&site).post("/v1/services/post/restart?wait=true");
    launcher.wait("exited", |event| event.is("exited") && event.number("worker") == worker);
    let told = launcher.wait_many(0, 16, "message", is_message);
    let bodies: Vec<_> = told.iter().map(|told| told.value("body").clone()).collect();
    assert_eq!(bodies, (0..16).map(report).collect::<Vec<_>>());
}

/// The next master hears what the one before has not answered, and nothing twice.
#[test]
fn a_flood_goes_on_under_the_next_master() {
    const COUNT: u64 = 300;
    let site = Site::new();
    let launcher = courier(&site);
    let master = launcher.master();
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| post(&launcher, &format!("/report?{COUNT}"), ""));
        launcher.wait_many(0, 150, "message", is_message);
        kill(Pid::from_raw(master as i32), Signal::SIGKILL).expect("kill the master");
        let answer = flood.join().expect("no panic");
        assert_eq!((answer.status(), answer.text().as_str()), (200, "taken\n"), "{}", launcher.story());
    });
    let adopted = launcher.wait("adopted", |event| event.is("adopted"));
    launcher.wait("the last", |event| is_message(event) && event.number("number") == COUNT - 1);
    let told = launcher.events_after(0, is_message);
    for told in &told {
        assert_eq!(told.value("body"), &report(told.number("number")));
    }
    // What a master that is killed has answered and not yet written is lost with it; what comes after has no gap.
    let (before, after): (Vec<_>, Vec<_>) = told.iter().partition(|told| told.at < adopted.at);
    for of_one in [before, after] {
        let numbers: Vec<_> = of_one.iter().map(|told| told.number("number")).collect();
        assert!(numbers.windows(2).all(|two| two[0] + 1 == two[1]), "{numbers:?}");
    }
    assert!(launcher.events_after(0, |event| event.is("exited")).is_empty(), "{}", launcher.story());
}
