//! The control API: what it answers is what it describes, orders are carried out and their ends told, and nobody who
//! uses it badly holds anything up.

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::harness::control::Control;
use crate::harness::http::fetch;
use crate::harness::{Launcher, Load, Site, guests, load, process, schema};

const HELLO: &str = "services:\n  hello: { plugin: hello.wasm, listen: 127.0.0.1:0, workers: 2 }\n";

fn hello() -> (Site, Launcher, Control) {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let launcher = site.run(HELLO);
    let control = Control::of(&site);
    (site, launcher, control)
}

fn outcome(answer: &Value) -> &Value {
    assert_eq!(answer["outcomes"].as_array().map(Vec::len), Some(1), "{answer}");
    &answer["outcomes"][0]
}

#[test]
fn everything_that_is_described_is_served_as_described_and_nothing_else_is() {
    let (site, _launcher, control) = hello();
    let description = control.get("/openapi.json");
    let mut stop = None;
    let mut asked = 0;
    for (path, operations) in description["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            let method = method.to_uppercase();
            let mut target = path.replace("{name}", "hello");
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                if parameter["name"] == "wait" {
                    target += "?wait=true";
                }
            }
            if path == "/v1/stop" {
                stop = Some((method, target, operation.clone()));
                continue;
            }
            let body = if path.ends_with("/scale") { r#"{"workers":"+1"}"# } else { "" };
            check(&control, &description, operation, &method, &target, body);
            asked += 1;
            let other = if method == "GET" { "DELETE" } else { "GET" };
            let refused = control.ask(other, &target, "");
            assert_eq!(
                (refused.status, &refused.json["code"]),
                (405, &json!("method_not_allowed")),
                "{other} {target}"
            );
        }
    }
    assert!(asked >= 18, "{asked} operations");
    for nothing in ["/", "/v1", "/v1/", "/v1/status/", "/v2/status", "/v1/services/", "/v1/services/hello/kill"] {
        let answer = control.ask("GET", nothing, "");
        assert_eq!((answer.status, &answer.json["code"]), (404, &json!("not_found")), "{nothing}");
    }
    let (method, target, operation) = stop.expect("a launcher can be stopped");
    check(&control, &description, &operation, &method, &target, "");
    drop(site);
}

/// Ask, and hold the answer against the description.
fn check(control: &Control, description: &Value, operation: &Value, method: &str, target: &str, body: &str) {
    let asked = control.connect().request(method, target, &[("connection", "close")], body.as_bytes());
    let response = asked.unwrap_or_else(|error| panic!("{method} {target}: {error}"));
    let status = response.status().to_string();
    let described = operation["responses"].get(&status).unwrap_or(&operation["responses"]["default"]);
    let kind = response.head.header("content-type").expect("a content type").to_owned();
    let schema = &described["content"][&kind]["schema"];
    assert!(schema.is_object(), "{method} {target} answered {status} {kind}, which is not described");
    let text = response.text();
    let parse =
        |line: &str| serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{target}: {error}: {line}"));
    let values: Vec<Value> =
        if kind == "application/jsonl" { text.lines().map(parse).collect() } else { vec![parse(&text)] };
    assert!(!values.is_empty(), "{method} {target} answered nothing");
    for value in values {
        let faults = schema::faults(&value, schema, description, target);
        assert!(faults.is_empty(), "{method} {target} answered {value}:\n{}", faults.join("\n"));
    }
}

#[test]
fn the_socket_is_its_owners_alone_however_deep_its_directory() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let deep = format!("{}/state", ["d".repeat(60), "e".repeat(60), "f".repeat(60)].join("/"));
    std::fs::create_dir_all(site.path(&deep)).expect("make directories");
    site.write(
        "config.yaml",
        format!("{HELLO}master: {{ state_dir: ./{deep}, log: {{ format: json, level: debug }} }}\n"),
    );
    let launcher = Launcher::start(site.command(["run"]), HELLO);
    launcher.wait("serving", |event| event.is("serving"));
    let socket = site.path(&deep).join("control.sock");
    let mode = std::fs::metadata(&socket).expect("the socket is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    site.link("s", &deep);
    let control = Control::at(format!("unix:{}", site.path("s/control.sock").display()));
    assert_eq!(control.get("/v1/status")["pid"], launcher.master());
}

#[test]
fn a_reload_tells_its_end() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let launcher = site
        .run("services:\n  hello: { plugin: hello.wasm, listen: 127.0.0.1:0, workers: 2, reload: { watch: false } }\n");
    let control = Control::of(&site);
    assert_eq!(control.service("hello")["last_reload"], Value::Null);
    assert_eq!(outcome(&control.post("/v1/services/hello/reload?wait=true"))["result"], "unchanged");

    site.replace("hello.wasm", guests::hello(2));
    let promoted = control.post("/v1/reload?wait=true");
    assert_eq!(outcome(&promoted)["result"], "promoted");
    assert_eq!(outcome(&promoted)["generation"], 2);
    assert_eq!(fetch(&launcher.address("hello"), "/").text(), guests::greeting(2), "told when it serves, not before");
    let last = control.service("hello")["last_reload"].clone();
    assert_eq!((&last["result"], &last["generation"]), (&json!("promoted"), &json!(2)));
    assert!(last["trigger"].as_str().is_some_and(|trigger| trigger.starts_with("reload by ")), "{last}");

    site.replace("hello.wasm", b"no component");
    let refused = control.post("/v1/services/hello/reload?wait=true");
    assert_eq!(outcome(&refused)["result"], "rolled_back");
    assert!(outcome(&refused)["reason"].as_str().is_some_and(|reason| reason.contains("hello.wasm")), "{refused}");
    let service = control.service("hello");
    assert_eq!((&service["generation"], &service["state"]), (&json!(2), &json!("serving")));
    assert_eq!(service["last_reload"]["result"], "rolled_back");

    let back = control.post("/v1/services/hello/rollback?wait=true");
    assert_eq!((&outcome(&back)["result"], &outcome(&back)["generation"]), (&json!("promoted"), &json!(1)));
    assert_eq!(fetch(&launcher.address("hello"), "/").text(), guests::greeting(1));
}

#[test]
fn a_generation_that_is_never_ready_takes_no_request_and_its_reload_says_why() {
    let site = Site::new();
    std::fs::copy(guests::native("misbehave"), site.path("plugin.so")).expect("copy");
    let service = |start: &str| {
        format!(
            "services:\n  odd:\n    plugin: plugin.so\n    listen: 127.0.0.1:0\n    workers: 2\n    \
             config: {{ start: {start} }}\n    reload: {{ ready_timeout: 300ms }}\n"
        )
    };
    let launcher = site.run(&service("ok"));
    let control = Control::of(&site);
    let load = Load::start(&launcher.address("odd"), "/", load::Connections::Fresh, 2);
    load.more(50);
    let mark = launcher.mark();
    let config = site.path("config.yaml").display().to_string();
    // Applied by order, so that the answer is about this change.
    site.configure(&service("hang"));
    let answer = control.ask("POST", "/v1/config/apply?wait=true", &json!({ "path": config }).to_string()).good();
    launcher.wait_after(mark, "a rollback", |event| event.is("rolled_back"));
    let settled = |answer: &Value| answer["outcomes"].as_array().cloned().unwrap_or_default();
    // The watcher may have been quicker to apply the file: then a reload joins or repeats it.
    let mut outcomes = settled(&answer);
    if outcomes.is_empty() {
        outcomes = settled(&control.post("/v1/reload?wait=true"));
    }
    assert_eq!(outcomes[0]["result"], "rolled_back", "{outcomes:?}");
    assert!(
        outcomes[0]["reason"].as_str().is_some_and(|reason| reason.contains("not ready within 300ms")),
        "{outcomes:?}"
    );
    let tally = load.stop();
    tally.assert_flawless();
    assert_eq!(control.service("odd")["generation"], 1);
}

#[test]
fn a_generation_that_crashes_soon_after_it_became_ready_is_rolled_back_by_itself() {
    let site = Site::new();
    std::fs::copy(guests::native("misbehave"), site.path("plugin.so")).expect("copy");
    let service = |crash: &str| {
        format!(
            "services:\n  odd:\n    plugin: plugin.so\n    listen: 127.0.0.1:0\n    workers: 1\n    \
             reload: {{ probation: 3s }}\n    config: {{ {crash} }}\n"
        )
    };
    let launcher = site.run(&service("start: ok"));
    let control = Control::of(&site);
    let mark = launcher.mark();
    site.configure(&service("start: ok, crash: segfault, crash_after: 1000"));
    launcher.wait_after(mark, "generation 2 serves", |event| event.is("promoted") && event.number("generation") == 2);
    let back = launcher.wait_after(mark, "a rollback", |event| event.is("rolled_back"));
    assert_eq!(back.number("generation"), 2);
    assert!(back.text("reason").contains("SIGSEGV"), "{back:?}");
    launcher
        .wait_after(mark, "generation 1 serves again", |event| event.is("promoted") && event.number("generation") == 1);
    let service = control.service("odd");
    assert_eq!((&service["generation"], &service["state"]), (&json!(1), &json!("serving")), "{service}");
    let last = &service["last_reload"];
    assert_eq!((&last["result"], &last["generation"]), (&json!("rolled_back"), &json!(2)), "{last}");
    assert!(last["reason"].as_str().is_some_and(|reason| reason.contains("crash")), "{last}");
    assert!(last["took_ms"].as_u64().is_some_and(|took| took >= 3000), "three lives of a second each: {last}");
}

#[test]
fn a_restart_replaces_every_worker_and_loses_nothing() {
    let (_site, launcher, control) = hello();
    let before = control.ready("hello");
    let load = Load::start(&launcher.address("hello"), "/", load::Connections::Fresh, 2);
    load.more(50);
    assert_eq!(outcome(&control.post("/v1/services/hello/restart?wait=true"))["result"], "restarted");
    let after = control.ready("hello");
    load.more(50);
    load.stop().assert_flawless();
    assert_eq!(after.len(), 2);
    assert!(after.iter().all(|pid| !before.contains(pid)), "{before:?} {after:?}");
    assert_eq!(control.service("hello")["generation"], 1);
}

#[test]
fn workers_are_counted_as_asked_and_not_beyond_reason() {
    let (_site, _launcher, control) = hello();
    let scale =
        |to: &str| control.ask("POST", "/v1/services/hello/scale?wait=true", &json!({ "workers": to }).to_string());
    assert_eq!(outcome(&scale("4").good())["result"], "scaled");
    assert_eq!(control.ready("hello").len(), 4);
    assert_eq!(outcome(&scale("-3").good())["result"], "scaled");
    assert_eq!(control.ready("hello").len(), 1);
    assert_eq!(outcome(&scale("+1").good())["result"], "scaled");
    assert_eq!(control.service("hello")["wanted"], 2);
    for bad in ["0", "-2", "1025", "many", "", "1.5"] {
        let refused = scale(bad);
        assert_eq!((refused.status, &refused.json["code"]), (400, &json!("bad_request")), "{bad}: {:?}", refused.json);
    }
    let refused = control.ask("POST", "/v1/services/hello/scale", "workers=3");
    assert_eq!((refused.status, &refused.json["code"]), (400, &json!("bad_request")));
    assert_eq!(control.ready("hello").len(), 2);
}

#[test]
fn a_stopped_service_refuses_connections_until_it_is_started() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let port = free_port();
    let launcher = site.run(&format!(
        "services:\n  fixed: {{ plugin: hello.wasm, listen: 127.0.0.1:{port}, workers: 2 }}\n  \
         other: {{ plugin: hello.wasm, listen: 127.0.0.1:0, workers: 1 }}\n"
    ));
    let control = Control::of(&site);
    let address = format!("127.0.0.1:{port}");
    let others = control.ready("other");
    assert_eq!(outcome(&control.post("/v1/services/fixed/stop?wait=true"))["result"], "stopped");
    // Refused, and not left waiting in the queue of a listener that nobody accepts from.
    let refused = TcpStream::connect(&address).expect_err("nobody listens there");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let service = control.service("fixed");
    assert_eq!((&service["state"], &service["workers"]), (&json!("stopped"), &json!([])), "{service}");
    for order in ["reload", "restart", "rollback"] {
        let refused = control.ask("POST", &format!("/v1/services/fixed/{order}"), "");
        assert_eq!((refused.status, &refused.json["code"]), (409, &json!("conflict")), "{order}");
    }
    // What changes meanwhile does not wake it.
    site.replace("hello.wasm", guests::hello(2));
    launcher.wait("other is reloaded", |event| {
        event.is("promoted") && event.of("other") && event.number("generation") == 2
    });
    assert_eq!(control.service("fixed")["state"], "stopped");
    assert_eq!(outcome(&control.post("/v1/services/fixed/stop?wait=true"))["result"], "stopped", "again");

    let started = control.post("/v1/services/fixed/start?wait=true");
    assert!(["started", "promoted"].contains(&outcome(&started)["result"].as_str().expect("a word")), "{started}");
    assert_eq!(fetch(&address, "/").text(), guests::greeting(2));
    assert_eq!(control.ready("fixed").len(), 2);
    assert_ne!(control.ready("other"), others, "it was reloaded");
    assert_eq!(outcome(&control.post("/v1/services/fixed/start?wait=true"))["result"], "started", "again");
}

#[test]
fn a_service_whose_address_was_taken_meanwhile_is_not_started_and_may_be_later() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let port = free_port();
    let _launcher =
        site.run(&format!("services:\n  fixed: {{ plugin: hello.wasm, listen: 127.0.0.1:{port}, workers: 1 }}\n"));
    let control = Control::of(&site);
    control.post("/v1/services/fixed/stop?wait=true");
    let taken = std::net::TcpListener::bind(("127.0.0.1", port)).expect("it is free");
    let refused = control.ask("POST", "/v1/services/fixed/start?wait=true", "");
    assert_eq!((refused.status, &refused.json["code"]), (409, &json!("conflict")));
    assert!(
        refused.json["error"].as_str().is_some_and(|error| error.contains("another program")),
        "{:?}",
        refused.json
    );
    drop(taken);
    control.post("/v1/services/fixed/start?wait=true");
    assert_eq!(control.service("fixed")["state"], "serving");
}

#[test]
fn a_stop_of_the_launcher_ends_it_after_what_is_in_flight() {
    let (_site, mut launcher, control) = hello();
    control.post("/v1/stop");
    assert_eq!(launcher.exit().code(), Some(0));
    launcher.wait("who stopped it", |event| event.is("stopping") && event.text("reason").starts_with("stop by "));
}

#[test]
fn an_unknown_service_is_refused_with_what_was_probably_meant() {
    let (_site, _launcher, control) = hello();
    for (method, target) in
        [("GET", "/v1/services/helo"), ("POST", "/v1/services/helo/reload"), ("POST", "/v1/services/helo/stop")]
    {
        let refused = control.ask(method, target, "");
        assert_eq!((refused.status, &refused.json["code"]), (404, &json!("unknown_service")), "{target}");
        assert_eq!(refused.json["suggestion"], "hello");
    }
    let refused = control.ask("POST", "/v1/reload?wiat=true", "");
    assert_eq!((refused.status, &refused.json["code"]), (400, &json!("bad_request")));
}

#[test]
fn of_twenty_services_the_one_that_is_edited_changes_and_a_bad_file_changes_none() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let services = |workers_of_seven: u32, greeting: &str| {
        let mut yaml = "services:\n".to_owned();
        for number in 0..20 {
            let workers = if number == 7 { workers_of_seven } else { 1 };
            let env = if number == 9 { greeting } else { "same" };
            yaml += &format!(
                "  s{number}: {{ plugin: hello.wasm, listen: 127.0.0.1:0, workers: {workers}, env: {{ A: {env} }} }}\n"
            );
        }
        yaml
    };
    let launcher = site.run(&services(1, "same"));
    let control = Control::of(&site);
    let pids = || (0..20).map(|number| control.ready(&format!("s{number}"))).collect::<Vec<_>>();
    let before = pids();

    // Planned, beside the file that is in force: nothing changes.
    let candidate =
        format!("{}\nmaster: {{ admin: 127.0.0.1:0, log: {{ format: json, level: debug }} }}\n", services(1, "other"));
    let candidate = site.write("candidate.yaml", candidate).display().to_string();
    let plan = control.ask("POST", "/v1/config/plan", &json!({ "path": candidate }).to_string()).good();
    assert_eq!(
        plan["changes"],
        json!([{ "service": "s9", "kind": "replaced", "differences": ["env.A: changed"] }]),
        "{plan}"
    );
    assert_eq!(plan["unchanged"].as_array().map(Vec::len), Some(19));
    assert_eq!(pids(), before);

    let mark = launcher.mark();
    site.configure(&services(1, "other"));
    launcher.wait_after(mark, "s9 is replaced", |event| event.is("promoted") && event.of("s9"));
    let after = pids();
    for (number, (before, after)) in before.iter().zip(&after).enumerate() {
        assert_eq!(before == after, number != 9, "s{number}: {before:?} {after:?}");
    }

    let mark = launcher.mark();
    site.configure(&services(2, "other"));
    launcher.wait_after(mark, "s7 has a second worker", |event| event.is("ready") && event.of("s7"));
    assert_eq!(control.ready("s7")[..1], after[7][..], "the first stays");

    let before = pids();
    let mark = launcher.mark();
    site.write("config.yaml", "services:\n  s0: { plugin: hello.wasm, lisen: 127.0.0.1:0 }\n");
    launcher.wait_after(mark, "it is rejected", |event| event.is("config_rejected"));
    assert_eq!(pids(), before);
    let refused = control.ask("POST", "/v1/reload?wait=true", "");
    assert_eq!((refused.status, &refused.json["code"]), (422, &json!("bad_configuration")));
    assert!(refused.json["error"].as_str().is_some_and(|error| error.contains("config.yaml:2:")), "{:?}", refused.json);
    assert_eq!(pids(), before);
}

#[test]
fn an_applied_file_is_the_configuration_from_then_on() {
    let (site, launcher, control) = hello();
    let other = |workers: u32| {
        let service =
            format!("services:\n  hello: {{ plugin: hello.wasm, listen: 127.0.0.1:0, workers: {workers} }}\n");
        format!("{service}master: {{ admin: 127.0.0.1:0, log: {{ format: json, level: debug }} }}\n")
    };
    let path = site.write("other.yaml", other(3)).display().to_string();
    let applied = control.ask("POST", "/v1/config/apply?wait=true", &json!({ "path": path }).to_string()).good();
    assert_eq!(applied["plan"]["changes"][0]["differences"], json!(["workers: 2 -> 3"]), "{applied}");
    let status = control.get("/v1/status");
    assert_eq!(status["config"], path);
    assert_eq!(control.get("/v1/config")["text"], other(3));
    let mark = launcher.mark();
    site.replace("other.yaml", other(4));
    launcher.wait_after(mark, "it is watched", |event| event.is("config_applied"));
    assert_eq!(control.service("hello")["wanted"], 4);
    let foreign =
        "services:\n  hello: { plugin: hello.wasm, listen: 127.0.0.1:0 }\nmaster: { state_dir: ./elsewhere }\n";
    let foreign = site.write("foreign.yaml", foreign).display().to_string();
    let refused = control.ask("POST", "/v1/config/apply", &json!({ "path": foreign }).to_string());
    assert_eq!((refused.status, &refused.json["code"]), (422, &json!("bad_configuration")));
    assert!(
        refused.json["error"].as_str().is_some_and(|error| error.contains("another launcher")),
        "{:?}",
        refused.json
    );
}

#[test]
fn events_and_logs_are_lines_that_go_on_as_long_as_they_are_followed() {
    let (_site, launcher, control) = hello();
    let past =
        control.connect().request("GET", "/v1/events", &[("connection", "close")], b"").expect("answered").text();
    let past: Vec<Value> = past.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    assert_eq!(past[0]["event"], "starting");
    assert!(past.windows(2).all(|pair| pair[0]["seq"].as_u64() < pair[1]["seq"].as_u64()), "in order");
    assert!(past.windows(2).all(|pair| pair[0]["monotonic_ms"].as_u64() <= pair[1]["monotonic_ms"].as_u64()));

    let mut follower = control.connect();
    follower.send_head("GET", "/v1/events?follow=true&lines=0", &[]).expect("sent");
    let head = follower.head("GET").expect("answered");
    let pid = launcher.workers(2)[0];
    kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), Signal::SIGKILL).expect("killed");
    let mut text = String::new();
    let ended = follower.body(&head, |bytes| {
        text += &String::from_utf8_lossy(bytes);
        if text.contains("\"event\":\"ready\"") && !text.contains("\"event\":\"stopped\"") {
            // The launcher ends, and the stream with it.
            let _ = control.ask("POST", "/v1/stop", "");
        }
    });
    ended.expect("the stream ends as a whole");
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    assert!(
        events.iter().any(|event| event["event"] == "exited" && event["pid"] == pid && event["signal"] == 9),
        "{text}"
    );
    assert_eq!(events.last().expect("some")["event"], "stopped", "{text}");
}

#[test]
fn a_hostile_client_delays_neither_the_supervision_nor_the_operator() {
    let (_site, launcher, control) = hello();
    let socket = _site.path(".launcher/control.sock");
    let mut hostile = Vec::new();
    for number in 0..1000 {
        // Those that are put out are replaced, as fast as they come.
        let Ok(mut stream) = UnixStream::connect(&socket) else { continue };
        let request: &[u8] = match number % 4 {
            0 => b"",
            1 => b"GET /v1/sta",
            2 => b"POST /v1/reload HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\nhalf",
            // Never read.
            _ => b"GET /v1/events?follow=true HTTP/1.1\r\nhost: x\r\n\r\n",
        };
        let _ = stream.write_all(request);
        hostile.push(stream);
    }
    let asked = Instant::now();
    assert_eq!(control.get("/v1/status")["pid"], launcher.master());
    assert!(asked.elapsed() < Duration::from_secs(5), "the operator waited {:?}", asked.elapsed());
    for pid in launcher.workers(2) {
        let mark = launcher.mark();
        let killed = Instant::now();
        kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), Signal::SIGKILL).expect("killed");
        let spawned = launcher.wait_after(mark, "a replacement", |event| event.is("spawned"));
        launcher.wait_after(mark, "it serves", |event| event.is("ready"));
        // The second may wait for the backoff of the first.
        let limit = Duration::from_millis(if spawned.number("worker") == 3 { 100 } else { 1000 });
        assert!(killed.elapsed() < limit, "replaced after {:?}", killed.elapsed());
    }
    assert!(process::descriptors(launcher.master()) < 200, "the master holds what it was given");
    drop(hostile);
}

#[test]
fn a_process_that_descends_from_the_launcher_may_not_steer_it() {
    let site = Site::new();
    let fetch = "python3 -c \"import socket; s=socket.socket(socket.AF_UNIX); s.connect('.launcher/control.sock'); \
                 s.sendall(b'POST /v1/stop HTTP/1.0\\r\\n\\r\\n'); open('answer','wb').write(s.makefile('rb').read())\"";
    let (source, build) =
        (site.write("source.wasm", guests::hello(1)), format!("{fetch} && cp source.wasm hello.wasm"));
    let quoted = build.replace('\'', "''");
    let launcher =
        site.run(&format!("services:\n  hello: {{ plugin: hello.wasm, listen: 127.0.0.1:0, build: '{quoted}' }}\n"));
    let answer = std::fs::read_to_string(site.path("answer")).expect("it was answered");
    assert!(answer.starts_with("HTTP/1.0 403") && answer.contains("descends from the launcher"), "{answer}");
    drop((source, launcher));
}

/// A port that nobody uses. It may be taken before it is used: then the launcher says so, and the test fails.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("an address").port()
}
