//! Messages between workers: none lost, none out of order, nobody held up who is not concerned, and whoever cannot be
//! reached is told.

use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::harness::control::Control;
use crate::harness::http::{Connection, Response, fetch};
use crate::harness::launcher::eventually;
use crate::harness::{Launcher, Site, guests, process};

/// Couriers, each with an address of its own for the worker in its slot: one service a courier.
fn couriers(site: &Site, workers: u32, more: &str) -> Launcher {
    couriers_with(site, workers, "{}", more)
}

/// With this configuration of the plugin.
fn couriers_with(site: &Site, workers: u32, config: &str, more: &str) -> Launcher {
    let plugin = guests::native("courier");
    let plugin = plugin.display();
    let launcher = site.run(&format!(
        "
services:
  post: {{ plugin: {plugin}, listen: 127.0.0.1:0, workers: {workers}, restart: {{ budget: 100/60s }}, config: {config} }}
{more}
"
    ));
    launcher.workers(workers as usize);
    launcher
}

/// A connection to the worker in that slot: connections are spread, so one comes there soon.
fn in_slot(launcher: &Launcher, slot: u64) -> Connection {
    let mut found = None;
    let reached = eventually(|| {
        let mut connection = Connection::open(&launcher.address("post")).expect("connect");
        let me = connection.request("GET", "/", &[], b"").expect("an answer").text();
        let me: Value = serde_json::from_str(&me).expect("JSON");
        if me["slot"] == slot {
            found = Some(connection);
        }
        found.is_some()
    });
    assert!(reached, "no connection came to slot {slot}");
    found.expect("it was reached")
}

fn ask(connection: &mut Connection, method: &str, target: &str, body: &str) -> Response {
    connection.request(method, target, &[], body.as_bytes()).expect("an answer")
}

/// What the worker at the other end has heard.
fn heard(connection: &mut Connection) -> Vec<String> {
    let text = ask(connection, "GET", "/heard", "").text();
    serde_json::from_str(&text).expect("a list of texts")
}

pub(super) fn wait_heard(connection: &mut Connection, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    let came = eventually(|| {
        all.extend(heard(connection));
        all.len() >= count
    });
    assert!(came, "only {all:?} of {count} messages came");
    all
}

#[test]
fn every_message_comes_back_once_and_in_its_order() {
    for config in ["{}", "{ inline: true }"] {
        let site = Site::new();
        let launcher = couriers_with(&site, 2, config, "");
        let mut from = in_slot(&launcher, 0);
        for (count, window) in [(1, 1), (2_000, 1), (20_000, 64), (20_000, 2_000)] {
            let answer = ask(&mut from, "GET", &format!("/ping?1,{count},{window}"), "");
            assert_eq!(answer.status(), 200, "{count} with {window}, {config}: {}", answer.text());
        }
        let answer = ask(&mut from, "GET", "/handles?1,1000,50", "");
        assert_eq!(answer.status(), 200, "{config}: {}", answer.text());
        let mut to = in_slot(&launcher, 1);
        assert_eq!(ask(&mut from, "POST", "/send?1", "7").text(), "taken\n");
        assert_eq!(wait_heard(&mut to, 1), ["post/0: 7"], "{config}");
    }
}

#[test]
fn two_that_ask_each_other_at_once_both_get_their_answers() {
    let site = Site::new();
    let launcher = couriers(&site, 3, "");
    let mut askers: Vec<_> = (0..3).map(|slot| in_slot(&launcher, slot)).collect();
    thread::scope(|scope| {
        for (slot, asker) in askers.iter_mut().enumerate() {
            scope.spawn(move || {
                let answer = ask(asker, "GET", &format!("/ping?{},20000,100", (slot + 1) % 3), "");
                assert_eq!(answer.status(), 200, "from {slot}: {}", answer.text());
            });
        }
    });
}

#[test]
fn a_message_goes_to_a_slot_or_to_every_other_worker_and_tells_who_sent_it() {
    let site = Site::new();
    let launcher = couriers(&site, 3, "");
    let mut all: Vec<_> = (0..3).map(|slot| in_slot(&launcher, slot)).collect();
    assert_eq!(ask(&mut all[0], "POST", "/send?2", "\"one\"").text(), "taken\n");
    assert_eq!(ask(&mut all[0], "POST", "/every", "\"two\"").text(), "taken\n");
    assert_eq!(wait_heard(&mut all[2], 2), ["post/0: \"one\"", "post/0: \"two\""]);
    assert_eq!(wait_heard(&mut all[1], 1), ["post/0: \"two\""]);
    assert!(heard(&mut all[0]).is_empty(), "it does not write to itself");
    // Who is not there, and what is too large.
    assert_eq!(ask(&mut all[0], "POST", "/send?7", "\"x\"").text(), "Nobody\n");
    assert_eq!(ask(&mut all[0], "POST", "/send?0", "\"x\"").text(), "Nobody\n");
    assert_eq!(ask(&mut all[0], "POST", "/send?1", &"x".repeat(65 * 1024)).text(), "TooLarge\n");
    assert_eq!(ask(&mut all[0], "POST", "/send?1", &"x".repeat(64 * 1024)).text(), "taken\n");
    assert_eq!(wait_heard(&mut all[1], 1)[0].len(), "post/0: ".len() + 64 * 1024);
}

#[test]
fn whoever_takes_nothing_makes_his_senders_wait_and_nobody_else() {
    let site = Site::new();
    let launcher = couriers(&site, 3, "");
    let (mut from, mut deaf) = (in_slot(&launcher, 0), in_slot(&launcher, 1));
    assert_eq!(ask(&mut deaf, "GET", "/deaf", "").status(), 200);
    let waits = thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let mut other = in_slot(&launcher, 0);
            ask(&mut other, "GET", "/ping?1,5000,5000", "")
        });
        // Meanwhile others of the same worker are reached.
        for _ in 0..50 {
            assert_eq!(ask(&mut from, "POST", "/send?2", "{}").text(), "taken\n");
        }
        assert!(!waiting.is_finished(), "5000 messages were taken by one that takes none");
        assert_eq!(ask(&mut deaf, "GET", "/hear", "").status(), 200);
        waiting.join().expect("no panic")
    });
    assert_eq!(waits.status(), 200, "{}", waits.text());
}

#[test]
fn the_end_of_a_receiver_is_told_to_those_who_wait_for_it() {
    let site = Site::new();
    let launcher = couriers(&site, 2, "");
    let (mut from, mut deaf) = (in_slot(&launcher, 0), in_slot(&launcher, 1));
    // The first is taken before the receiver stops to take.
    assert_eq!(ask(&mut deaf, "GET", "/deaf", "").status(), 200);
    assert_eq!(ask(&mut from, "POST", "/send?1", "{}").text(), "taken\n");
    let waiting = thread::spawn(move || ask(&mut from, "POST", "/send?1", "{}").text());
    let victim = launcher.wait("ready", |event| event.is("ready") && event.number("slot") == 1).number("pid");
    let mark = launcher.mark();
    kill(Pid::from_raw(victim as i32), Signal::SIGKILL).expect("kill a worker");
    assert_eq!(waiting.join().expect("no panic"), "Gone\n");
    launcher.wait_after(mark, "ready", |event| event.is("ready"));
    let mut from = in_slot(&launcher, 0);
    let taken = eventually(|| ask(&mut from, "POST", "/send?1", "{}").text() == "taken\n");
    assert!(taken, "its successor in the slot is reached\n{}", launcher.story());
}

#[test]
fn messages_go_on_through_reloads_and_to_the_new_workers() {
    let site = Site::new();
    let launcher = couriers(&site, 2, "");
    let mut from = in_slot(&launcher, 0);
    assert_eq!(ask(&mut from, "POST", "/send?1", "\"before\"").text(), "taken\n");
    let control = Control::of(&site);
    control.post("/v1/services/post/restart?wait=true");
    let mut from = in_slot(&launcher, 0);
    assert_eq!(ask(&mut from, "GET", "/ping?1,5000,100", "").status(), 200);
}

#[test]
fn an_operators_message_is_taken_or_the_refusal_is_told() {
    let site = Site::new();
    let hello = guests::native("hello");
    let launcher =
        couriers(&site, 2, &format!("  mute: {{ plugin: {}, listen: 127.0.0.1:0, workers: 1 }}", hello.display()));
    let control = Control::of(&site);
    let send = |body: Value| control.ask("POST", "/v1/messages", &body.to_string());
    let delivered = send(json!({ "service": "post", "message": { "cache": ["forget", 1] } })).good();
    assert_eq!(delivered["workers"].as_array().map(Vec::len), Some(2), "{delivered}");
    for slot in 0..2 {
        let mut courier = in_slot(&launcher, slot);
        assert_eq!(wait_heard(&mut courier, 1), ["operator: {\"cache\":[\"forget\",1]}"]);
    }
    assert_eq!(send(json!({ "service": "post", "slot": 1, "message": 7 })).status, 200);
    assert_eq!(wait_heard(&mut in_slot(&launcher, 1), 1), ["operator: 7"]);
    let refused = send(json!({ "service": "mute", "message": 1 }));
    assert_eq!(refused.status, 409, "{refused:?}");
    assert!(refused.json["error"].as_str().is_some_and(|why| why.contains("receives no messages")), "{refused:?}");
    let told = launcher.wait("message_refused", |event| event.is("message_refused"));
    assert!(told.of("mute") && told.text("reason").contains("receives no messages"), "{told:?}");
    assert_eq!(send(json!({ "service": "post", "slot": 9, "message": 1 })).status, 409);
    assert_eq!(send(json!({ "service": "nobody", "message": 1 })).status, 404);
    assert_eq!(send(json!({ "service": "post", "slot": 0, "worker": 1, "message": 1 })).status, 400);

    let typed = |arguments: [&str; 3]| site.output(arguments);
    let done = typed(["send", "post/0", "{\"typed\":true}"]);
    assert!(done.status.success(), "{done:?}");
    assert!(String::from_utf8_lossy(&done.stdout).starts_with("post: taken by worker "), "{done:?}");
    let wrong = typed(["send", "post", "not json"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    assert_eq!(typed(["send", "mute", "1"]).status.code(), Some(1));
}

#[test]
fn sockets_come_back_as_they_were_sent_and_none_stays_open() {
    let site = Site::new();
    let launcher = couriers(&site, 2, "");
    let mut from = in_slot(&launcher, 0);
    let pids = launcher.workers(2);
    assert_eq!(ask(&mut from, "GET", "/handles?1,10,1", "").status(), 200);
    let before: Vec<_> = pids.iter().map(|pid| process::descriptors(*pid)).collect();
    for window in [1, 50, 500] {
        let answer = ask(&mut from, "GET", &format!("/handles?1,5000,{window}"), "");
        assert_eq!(answer.status(), 200, "with {window}: {}", answer.text());
    }
    let none = eventually(|| pids.iter().zip(&before).all(|(pid, before)| process::descriptors(*pid) <= *before));
    let after: Vec<_> = pids.iter().map(|pid| process::descriptors(*pid)).collect();
    assert!(none, "descriptors: {before:?}, then {after:?}");
}

#[test]
fn a_receiver_that_may_open_nothing_costs_no_socket() {
    let site = Site::new();
    let launcher = couriers(&site, 2, "");
    let (mut from, mut full) = (in_slot(&launcher, 0), in_slot(&launcher, 1));
    // The link is there, and nothing is open that is closed in a moment.
    assert_eq!(ask(&mut from, "GET", "/ping?1,10,1", "").status(), 200);
    let pid = launcher.wait("ready", |event| event.is("ready") && event.number("slot") == 1).number("pid") as u32;
    process::forbid_descriptors(pid);
    let answer = ask(&mut from, "GET", "/handles?1,1,1", "");
    assert_eq!(answer.status(), 500);
    assert_eq!(answer.text(), "too many open descriptors\n");
    // Messages without any still come, and so does what is asked of it.
    assert_eq!(ask(&mut from, "GET", "/ping?1,100,10", "").status(), 200);
    assert_eq!(ask(&mut full, "GET", "/", "").status(), 200);
    assert_eq!(fetch(&launcher.address("post"), "/").status(), 200);
}

#[test]
fn links_outlive_the_master() {
    let site = Site::new();
    let launcher = couriers(&site, 2, "");
    let mut from = in_slot(&launcher, 0);
    assert_eq!(ask(&mut from, "GET", "/ping?1,100,10", "").status(), 200);
    kill(Pid::from_raw(launcher.master() as i32), Signal::SIGKILL).expect("kill the master");
    assert_eq!(ask(&mut from, "GET", "/ping?1,1000,10", "").status(), 200);
    launcher.wait("adopted", |event| event.is("adopted"));
    let mark = launcher.mark();
    // The next master knows who follows whom: the successor of a worker is told.
    let victim = launcher.wait("ready", |event| event.is("ready") && event.number("slot") == 1).number("pid");
    kill(Pid::from_raw(victim as i32), Signal::SIGKILL).expect("kill a worker");
    launcher.wait_after(mark, "ready", |event| event.is("ready"));
    let reached = eventually(|| ask(&mut from, "POST", "/send?1", "{}").text() == "taken\n");
    assert!(reached, "{}", launcher.story());
}

/// The user's descriptors that are on their way are more than this worker may open (`ETOOMANYREFS`, unix(7)): it waits, and
/// only with what it has to send along, until there are fewer.
#[test]
fn too_many_descriptors_on_their_way_make_a_sender_wait_and_cost_nothing() {
    let site = Site::new();
    let plugin = guests::native("courier");
    let user = if nix::unistd::geteuid().is_root() { "user: nobody, " } else { "" };
    let launcher = site.run(&format!(
        "
services:
  post: {{ plugin: {}, listen: 127.0.0.1:0, workers: 4, {user}limits: {{ request_timeout: 2m, stuck_timeout: 0s }} }}
",
        plugin.display()
    ));
    let pid =
        |slot| launcher.wait("ready", |event| event.is("ready") && event.number("slot") == slot).number("pid") as u32;
    let pids = [0, 1, 2, 3].map(pid);
    let (mut limited, mut other, mut large) = (in_slot(&launcher, 0), in_slot(&launcher, 0), in_slot(&launcher, 2));
    // The links are there.
    assert_eq!(ask(&mut limited, "GET", "/handles?3,10,1", "").status(), 200);
    assert_eq!(ask(&mut other, "POST", "/send?2", "1").text(), "taken\n");
    assert_eq!(ask(&mut large, "GET", "/handles?1,10,1", "").status(), 200);
    let before = pids.map(process::descriptors);
    let signal = |pid: u32, signal| kill(Pid::from_raw(pid as i32), signal).expect("a worker");
    signal(pids[1], Signal::SIGSTOP);
    thread::scope(|scope| {
        // As many as a link lets on their way, to a worker that receives nothing.
        let waits = scope.spawn(|| ask(&mut large, "GET", "/handles?1,500,500", ""));
        let on_their_way = process::descriptors_on_their_way_to(pids[1]);
        assert!(eventually(|| process::descriptors_on_their_way_to(pids[1]) >= 60), "{on_their_way}");
        let limit = before[0] as u64 + 20;
        assert!(limit < 60, "{limit} is too much for this test");
        process::limit_descriptors(pids[0], limit);
        let blocked = scope.spawn(|| ask(&mut limited, "GET", "/handles?3,50,5", ""));
        // Not so what needs no descriptor and goes to somebody else.
        for _ in 0..500 {
            assert_eq!(ask(&mut other, "POST", "/send?2", "1").text(), "taken\n");
        }
        assert!(!blocked.is_finished() && !waits.is_finished(), "nothing makes it wait");
        signal(pids[1], Signal::SIGCONT);
        for answer in [blocked, waits].map(|waiting| waiting.join().expect("no panic")) {
            assert_eq!(answer.status(), 200, "{}", answer.text());
        }
    });
    let none = eventually(|| pids.iter().zip(&before).all(|(pid, before)| process::descriptors(*pid) <= *before));
    assert!(none, "{before:?} descriptors, then {:?}", pids.map(process::descriptors));
    assert!(launcher.events_after(0, |event| event.is("exited")).is_empty(), "{}", launcher.story());
}

/// As the system's least user, if this runs as root: then the limits of descriptors in flight count.
#[test]
fn a_hundred_thousand_messages_and_sockets_come_back_also_for_an_unprivileged_user() {
    const COUNT: u32 = 100_000;
    let site = Site::alone();
    let plugin = guests::native("courier");
    let user = if nix::unistd::geteuid().is_root() { "user: nobody, " } else { "" };
    let launcher = site.run(&format!(
        "
services:
  post:
    {{ plugin: {}, listen: 127.0.0.1:0, workers: 2, {user}limits: {{ request_timeout: 10m, idle_timeout: 10m }} }}
",
        plugin.display()
    ));
    let pids = launcher.workers(2);
    let mut from = in_slot(&launcher, 0);
    assert_eq!(ask(&mut from, "GET", "/handles?1,10,1", "").status(), 200);
    let before: Vec<_> = pids.iter().map(|pid| process::descriptors(*pid)).collect();
    let resident = pids.iter().map(|pid| process::resident(*pid)).max().unwrap_or_default();
    for (what, window) in [("ping", 500), ("handles", 200)] {
        let answer = ask(&mut from, "GET", &format!("/{what}?1,{COUNT},{window}"), "");
        println!("{what}: {}", answer.text());
        assert_eq!(answer.status(), 200, "{what}: {}", answer.text());
    }
    let none = eventually(|| pids.iter().zip(&before).all(|(pid, before)| process::descriptors(*pid) <= *before));
    assert!(
        none,
        "{before:?} descriptors, then {:?}",
        pids.iter().map(|pid| process::descriptors(*pid)).collect::<Vec<_>>()
    );
    let grown = pids.iter().map(|pid| process::resident(*pid)).max().unwrap_or_default();
    assert!(grown < resident + (8 << 10), "{resident} KiB, then {grown} KiB");
    let exits = launcher.events_after(0, |event| event.is("exited"));
    assert!(exits.is_empty(), "{exits:?}");
}

/// The address on which the courier of a service dispatches.
fn dispatcher(launcher: &Launcher, service: &str) -> String {
    let lines = launcher.wait_lines(1, "dispatching", |line| {
        line.service == service && line.text.starts_with("INFO dispatching address=")
    });
    lines[0].text.rsplit('=').next().expect("an address").to_owned()
}

#[test]
fn a_connection_that_is_passed_on_is_served_with_what_was_read_of_it() {
    let site = Site::new();
    let plugin = guests::native("courier").display().to_string();
    let launcher = couriers(
        &site,
        3,
        &format!(
            "  front: {{ plugin: {plugin}, listen: 127.0.0.1:0, workers: 1, config: {{ dispatch: post }} }}
  lost: {{ plugin: {plugin}, listen: 127.0.0.1:0, workers: 1, config: {{ dispatch: nobody }} }}"
        ),
    );
    let front = dispatcher(&launcher, "front");
    let slot = |text: &str| serde_json::from_str::<Value>(text).expect("JSON")["slot"].as_u64();
    for wanted in [2, 0, 1, 2] {
        let mut client = Connection::open(&front).expect("connect");
        // In two pieces; the dispatcher has read the first and a part of the head.
        client.send(format!("GET /?{wanted} HTTP/1.1\r\nho").as_bytes()).expect("sent");
        client.send(b"st: shards\r\n\r\n").expect("sent");
        assert_eq!(slot(&client.response("GET").expect("an answer").text()), Some(wanted));
        // It is that worker's now, whatever is asked for.
        assert_eq!(slot(&ask(&mut client, "GET", "/?1", "").text()), Some(wanted));
        // Two at once.
        let mut client = Connection::open(&front).expect("connect");
        let twice = format!("GET /?{wanted} HTTP/1.1\r\nhost: a\r\n\r\n").repeat(2);
        client.send(twice.as_bytes()).expect("sent");
        for _ in 0..2 {
            assert_eq!(slot(&client.response("GET").expect("an answer").text()), Some(wanted));
        }
    }
    // Nobody takes it: it comes back to who passed it on.
    for (address, target) in [(&front, "/?7"), (&dispatcher(&launcher, "lost"), "/?0")] {
        let answer = fetch(address, target);
        assert_eq!((answer.status(), answer.text().as_str()), (503, "no shard: Nobody\n"));
    }
}
