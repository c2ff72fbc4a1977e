//! The verbs that steer a launcher, against something that answers what a real master answers seldom or never.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::harness::Site;
use crate::harness::fake_master::{FakeMaster, response};
use crate::harness::terminal::on_a_terminal;

/// What a launcher with two services says.
const STATUS: &str = r#"{"version":"0.1.0","pid":1,"uptime_s":187200.5,"config":"/srv/config.yaml","services":[
{"name":"api","kind":"http","plugin":"api.so","generation":3,"previous":2,"state":"reloading","reason":null,
"listeners":["127.0.0.1:8081"],"wanted":2,"workers":[
{"id":9,"slot":0,"pid":77,"generation":4,"state":"ready","uptime_s":1.5,"restarts":0,"pss_bytes":1048576,
"cpu_s":0.5,"connections":1,"accepted":2,"requests":3,"last_exit":null}],"last_reload":null},
{"name":"web","kind":"http","plugin":"web.wasm","generation":null,"previous":null,"state":"failed",
"reason":"it keeps crashing","listeners":[],"wanted":1,"workers":[],
"last_reload":{"generation":2,"result":"rolled_back","reason":"no \u001b[2J luck","took_ms":3100,"trigger":"web.wasm changed"}}]}"#;

fn outcome(service: &str, result: &str, reason: &str) -> String {
    format!(
        r#"{{"outcomes":[{{"service":"{service}","result":"{result}","generation":4,"reason":{reason},"took_ms":1234}}]}}"#
    )
}

/// A site whose services cannot be read any more: nothing of them is needed to find the master.
fn site() -> Site {
    let site = Site::new();
    site.write("config.yaml", "services: { api: { plugin: 7, what: is this } }\nmaster: { state_dir: state }\n");
    site
}

/// A master that answers everything with the same bytes.
fn always(site: &Site, answer: impl Into<Vec<u8>>) -> FakeMaster {
    let answer = answer.into();
    FakeMaster::listen(&site.path("state"), move |_, _, _| answer.clone())
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("it was killed: {output:?}"))
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("what is printed is UTF-8")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("what is said is UTF-8")
}

#[test]
fn without_a_launcher_every_verb_says_where_it_looked_and_how_to_start_one() {
    let verbs: [&[&str]; 14] = [
        &["status"],
        &["ps"],
        &["ls", "-o", "json"],
        &["reload"],
        &["reload", "api", "web", "--wait"],
        &["restart", "--wait"],
        &["rollback", "api"],
        &["scale", "api", "-1"],
        &["stop"],
        &["stop", "api"],
        &["start", "api", "-c", "config.yaml"],
        &["logs", "-f"],
        &["events", "--since", "10m"],
        &["plan"],
    ];
    let site = site();
    for stale in [false, true] {
        if stale {
            // As a killed master leaves it: nobody listens any more.
            site.write("state/lock", "");
            drop(std::os::unix::net::UnixListener::bind(site.path("state/control.sock")).expect("bind"));
        }
        for verb in verbs {
            let output = site.command([]).args(verb).output().expect("start the launcher");
            assert_eq!(code(&output), 3, "{verb:?}: {output:?}");
            assert_eq!(stdout(&output), "", "{verb:?}");
            let said = stderr(&output);
            let state = site.path("state").display().to_string();
            assert!(said.contains(&state) && said.contains("launcher run config.yaml"), "{verb:?}: {said}");
        }
    }
}

#[test]
fn a_configuration_that_does_not_lead_to_a_launcher_is_misuse() {
    let site = site();
    let output = site.output(["status", "-c", "nowhere.yaml"]);
    assert_eq!(code(&output), 2, "{output:?}");
    assert!(stderr(&output).contains("nowhere.yaml") && stderr(&output).contains("-c FILE"), "{output:?}");
    site.write("config.yaml", "master: { state_dir: [] }");
    assert_eq!(code(&site.output(["status"])), 2);
    for misuse in
        [&["scale", "api", "many"][..], &["stop", "api", "--now"], &["start"], &["rollback"], &["logs", "-n", "-1"]]
    {
        let output = site.command([]).args(misuse).output().expect("start the launcher");
        assert_eq!(code(&output), 2, "{misuse:?}: {output:?}");
    }
}

#[test]
fn status_is_a_table_for_people_and_the_contract_for_programs() {
    let site = site();
    let _master = always(&site, response(200, STATUS));
    let table = site.output(["status"]);
    assert_eq!(code(&table), 0, "{table:?}");
    let shown = stdout(&table);
    assert!(shown.starts_with("launcher 0.1.0, pid 1, up 2d 4h, /srv/config.yaml\nSERVICE "), "{shown}");
    assert!(shown.contains("no \\u{1b}[2J luck (web.wasm changed)\n"), "{shown}");
    assert!(!shown.contains('\x1b'), "colours are for terminals: {shown:?}");
    let json = site.output(["status", "-o", "json"]);
    assert_eq!(stdout(&json), format!("{STATUS}\n"), "as the master says it");
    let one = site.output(["status", "web", "-o", "json"]);
    let one: Value = serde_json::from_slice(&one.stdout).expect("JSON");
    assert_eq!(one["services"].as_array().map(Vec::len), Some(1));
    assert_eq!(one["services"][0]["name"], "web");
}

#[test]
fn on_a_terminal_there_are_colours_unless_somebody_wants_none() {
    let site = site();
    let _master = always(&site, response(200, STATUS));
    let run = |variables: &[(&str, &str)]| {
        let mut command = site.command(["status"]);
        command.env_remove("NO_COLOR").env("TERM", "xterm").envs(variables.iter().copied());
        let (seen, status) = on_a_terminal(&mut command);
        assert!(status.success(), "{seen}");
        seen
    };
    assert!(run(&[]).contains("\x1b[31mfailed 0/1\x1b[0m"), "{:?}", run(&[]));
    for plain in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        assert!(!run(&[plain]).contains('\x1b'), "{plain:?}: {:?}", run(&[plain]));
    }
}

#[test]
fn what_is_no_answer_of_a_master_is_a_clear_error() {
    let cases: [(&[u8], &str); 7] = [
        (b"", "ended the connection"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "is not understood"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"vers", "ended the connection within its answer"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "is not understood"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n\x1b[2J", "is not understood"),
        (b"HTTP/1.1 502 Bad\r\ncontent-length: 6\r\n\r\n<html>", "status 502"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 34\r\n\r\n{\"version\":\"9.9.9\",\"planets\":true}",
            concat!("it is launcher 9.9.9 and this is ", env!("CARGO_PKG_VERSION")),
        ),
    ];
    for (answer, expected) in cases {
        let site = site();
        let _master = always(&site, answer);
        for verb in [&["status"][..], &["reload", "--wait"], &["logs"]] {
            let output = site.command([]).args(verb).output().expect("start the launcher");
            assert_eq!((code(&output), stdout(&output)), (1, ""), "{verb:?} {output:?}");
            assert!(!stderr(&output).contains('\x1b'), "{output:?}");
            if verb == ["status"] {
                assert!(stderr(&output).contains(expected), "{expected}: {output:?}");
            }
        }
    }
}

#[test]
fn a_refusal_is_told_in_the_masters_words_and_its_kind_decides_the_code() {
    let cases = [
        (404, "unknown_service", 2),
        (400, "bad_request", 2),
        (422, "bad_configuration", 2),
        (409, "conflict", 1),
        (403, "forbidden", 1),
        (503, "stopping", 1),
        (418, "teapot_of_the_future", 1),
    ];
    for (status, kind, expected) in cases {
        let site = site();
        let body = format!(r#"{{"code":"{kind}","error":"this is\nwhy \u001b[2J","suggestion":"api"}}"#);
        let _master = always(&site, response(status, &body));
        let output = site.output(["reload", "ap", "--wait", "-o", "json"]);
        assert_eq!((code(&output), stdout(&output)), (expected, ""), "{kind}: {output:?}");
        assert_eq!(stderr(&output), "error: this is\n    why \\u{1b}[2J; did you mean `api`?\n", "{kind}");
    }
}

#[test]
fn an_outcome_is_told_and_decides_the_code() {
    for (result, reason, expected) in [
        ("promoted", "null", 0),
        ("accepted", "null", 0),
        ("unchanged", "null", 0),
        ("scaled", "null", 0),
        ("rolled_back", "\"it exited with code 3\"", 4),
        ("failed", "\"it is stopped\"", 1),
    ] {
        let site = site();
        let body = outcome("api", result, reason);
        let _master = always(&site, response(200, &body));
        let told = site.output(["reload", "api", "--wait"]);
        assert_eq!(code(&told), expected, "{result}: {told:?}");
        let text = if expected == 0 { stdout(&told) } else { stderr(&told) };
        assert!(text.contains("api: ") && text.ends_with('\n'), "{result}: {told:?}");
        if expected == 4 {
            assert_eq!(text, "error: api: generation 4 was rolled back after 1.2 s: it exited with code 3\n");
        }
        let json = site.output(["reload", "api", "--wait", "-o", "json"]);
        assert_eq!((code(&json), stderr(&json)), (expected, ""), "{result}");
        let json: Value = serde_json::from_slice(&json.stdout).expect("JSON");
        assert_eq!(json, serde_json::from_str::<Value>(&body).expect("JSON"), "{result}");
    }
}

#[test]
fn orders_arrive_as_they_were_meant() {
    let site = site();
    let scaled = outcome("api", "scaled", "null");
    let master = FakeMaster::listen(&site.path("state"), move |_, body, _| {
        let _ = body;
        response(200, &scaled)
    });
    for (typed, sent) in [
        (&["reload"][..], "POST /v1/reload"),
        (&["reload", "--wait"], "POST /v1/reload?wait=true"),
        (&["restart", "api"], "POST /v1/services/api/restart"),
        (&["restart", "a/../b c"], "POST /v1/services/a%2F..%2Fb%20c/restart"),
        (&["rollback", "api", "--wait"], "POST /v1/services/api/rollback?wait=true"),
        (&["scale", "api", "-1"], "POST /v1/services/api/scale"),
        (&["scale", "api", "-1", "--wait"], "POST /v1/services/api/scale?wait=true"),
        (&["scale", "--wait", "api", "+2"], "POST /v1/services/api/scale?wait=true"),
        (&["stop", "api"], "POST /v1/services/api/stop?wait=true"),
        (&["start", "api"], "POST /v1/services/api/start"),
    ] {
        let output = site.command([]).args(typed).output().expect("start the launcher");
        assert_eq!(code(&output), 0, "{typed:?}: {output:?}");
        assert_eq!(master.asked().last().map(String::as_str), Some(sent), "{typed:?}");
    }
}

#[test]
fn a_wrong_name_among_several_leaves_the_others_alone() {
    let site = site();
    let master = FakeMaster::listen(&site.path("state"), |request, _, _| match request {
        "GET /v1/services/api" => {
            let status: Value = serde_json::from_str(STATUS).expect("JSON");
            response(200, &status["services"][0].to_string())
        }
        _ => response(404, r#"{"code":"unknown_service","error":"there is no service `wbe`","suggestion":"web"}"#),
    });
    let output = site.output(["restart", "api", "wbe"]);
    assert_eq!(code(&output), 2, "{output:?}");
    assert_eq!(stderr(&output), "error: there is no service `wbe`; did you mean `web`?\n");
    assert!(master.asked().iter().all(|request| request.starts_with("GET ")), "{:?}", master.asked());
}

#[test]
fn several_services_are_ordered_at_once() {
    let site = site();
    let waiting = std::sync::Barrier::new(2);
    let _master = FakeMaster::listen(&site.path("state"), move |request, _, _| {
        let name = if request.contains("/api") { "api" } else { "web" };
        if request.starts_with("GET") {
            let status: Value = serde_json::from_str(STATUS).expect("JSON");
            return response(200, &status["services"][0].to_string());
        }
        // Neither is answered before both have come.
        waiting.wait();
        response(200, &outcome(name, "restarted", "null"))
    });
    let output = site.output(["restart", "web", "api", "web", "--wait"]);
    assert_eq!(code(&output), 0, "{output:?}");
    let lines: Vec<&str> = stdout(&output).lines().collect();
    assert_eq!(lines.len(), 2, "{output:?}");
    assert!(lines[0].starts_with("web: ") && lines[1].starts_with("api: "), "{output:?}");
}

#[test]
fn a_terminal_shows_what_is_waited_for() {
    let site = site();
    let _master = FakeMaster::listen(&site.path("state"), |request, _, stream| {
        if request.starts_with("GET") {
            return response(200, STATUS);
        }
        // Longer than what needs no explanation.
        let mut gone = [0];
        stream.set_read_timeout(Some(Duration::from_millis(1_800))).expect("set a time-out");
        assert!(stream.read(&mut gone).is_err(), "the client sends nothing more and stays");
        response(200, &outcome("api", "promoted", "null"))
    });
    let mut command = site.command(["reload", "api", "--wait"]);
    let (seen, status) = on_a_terminal(command.env("TERM", "xterm"));
    assert!(status.success(), "{seen}");
    assert!(seen.contains("\rreload: api generation 4 … 1 of 2 workers ready, 1 s\x1b[K"), "{seen:?}");
    assert!(seen.contains("\r\x1b[K"), "the line goes when it is over: {seen:?}");
    assert!(seen.contains(": generation 4 serves, after 1.2 s"), "{seen:?}");
}

const RECORDS: &str = concat!(
    r#"{"seq":1,"time":"2020-01-01T00:00:00.000Z","monotonic_ms":1,"level":"info","event":"ready","message":"worker 1 ready","service":"api","slot":0,"pid":7}"#,
    "\n",
    r#"{"seq":2,"time":"2020-01-01T00:00:00.001Z","monotonic_ms":2,"service":"api","slot":0,"stream":"stderr","line":"oh \u001b[2J"}"#,
    "\n"
);

#[test]
fn logs_are_lines_for_people_and_objects_for_programs() {
    let site = site();
    let master = always(&site, response(200, RECORDS));
    let output = site.output(["logs", "-n", "5", "--since", "10m"]);
    assert_eq!((code(&output), stderr(&output)), (0, ""), "{output:?}");
    let lines: Vec<&str> = stdout(&output).lines().collect();
    assert!(lines[0].ends_with(":00.000 api/0: worker 1 ready"), "{lines:?}");
    assert!(lines[1].ends_with(":00.001 api/0 ! oh \\u{1b}[2J"), "{lines:?}");
    assert_eq!(master.asked().last().map(String::as_str), Some("GET /v1/logs?lines=5&since=10m"));
    assert_eq!(stdout(&site.output(["events", "-o", "json"])), RECORDS);
    assert_eq!(master.asked().last().map(String::as_str), Some("GET /v1/events"));
}

/// A master whose stream stays open until the returned end is dropped.
fn streaming(site: &Site) -> (FakeMaster, std::sync::mpsc::Sender<()>) {
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let ended = std::sync::Mutex::new(ended);
    let master = FakeMaster::listen(&site.path("state"), move |request, _, stream: &mut UnixStream| {
        if request.starts_with("GET /v1/status") {
            // A pid that nothing has: the end of this master is seen at its socket.
            return response(200, &STATUS.replacen("\"pid\":1", "\"pid\":4194305", 1));
        }
        if request.starts_with("GET /v1/services/") {
            let status: Value = serde_json::from_str(STATUS).expect("JSON");
            return response(200, &status["services"][0].to_string());
        }
        let chunk =
            format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{RECORDS}\r\n", RECORDS.len());
        stream.write_all(chunk.as_bytes()).expect("send the records");
        let _ = ended.lock().expect("one stream").recv();
        b"0\r\n\r\n".to_vec()
    });
    (master, end)
}

#[test]
fn followed_lines_come_at_once_and_a_reader_that_leaves_ends_it_quietly() {
    let site = site();
    let (_master, end) = streaming(&site);
    let mut command = site.command(["logs", "-f", "api"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start the launcher");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped"));
    let mut line = String::new();
    lines.read_line(&mut line).expect("read a line");
    assert!(line.ends_with("api/0: worker 1 ready\n"), "{line:?}");
    // Nothing more comes, so only the pipe itself can say that its reader is gone.
    drop(lines);
    let output = child.wait_with_output().expect("wait for the launcher");
    assert_eq!((code(&output), stderr(&output)), (0, ""), "{output:?}");
    drop(end);
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let site = site();
    let record = RECORDS.lines().next().expect("a record");
    // More than any pipe holds.
    let _master = always(&site, response(200, &format!("{record}\n").repeat(40_000)));
    let mut command = site.command(["logs"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start the launcher");
    let mut first = [0; 1];
    child.stdout.as_mut().expect("stdout is piped").read_exact(&mut first).expect("read a byte");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("wait for the launcher");
    assert_eq!((code(&output), stderr(&output)), (0, ""), "{output:?}");
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let site = site();
    let _master = always(&site, response(200, STATUS));
    let full = std::fs::File::options().write(true).open("/dev/full").expect("open /dev/full");
    let output = site.command(["status"]).stdout(full).output().expect("start the launcher");
    assert_eq!(code(&output), 1, "{output:?}");
    assert!(stderr(&output).contains("the output cannot be written"), "{output:?}");
}

#[test]
fn completions_are_made_for_each_shell() {
    let site = site();
    for (shell, expected) in [("bash", "_launcher()"), ("zsh", "#compdef launcher"), ("fish", "complete -c launcher")] {
        let output = site.output(["completions", shell]);
        assert_eq!(code(&output), 0, "{output:?}");
        assert!(stdout(&output).contains(expected) && stdout(&output).contains("rollback"), "{shell}");
    }
}
