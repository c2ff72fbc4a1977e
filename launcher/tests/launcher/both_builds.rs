//! One source, two builds: `plugins/showcase` as a native library and as a component answers the same requests alike.

use serde_json::{Value, json};

use crate::harness::control::Control;
use crate::harness::http::{Connection, fetch};
use crate::harness::launcher::eventually;
use crate::harness::{Launcher, Site, guests};
use crate::messages::wait_heard;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Build {
    Native,
    Wasm,
}

/// Runs a promise against both builds.
fn both(promise: impl Fn(Build, &Launcher, &str)) {
    let site = Site::new();
    let yaml = |plugin: &std::path::Path| {
        format!(
            "
services:
  showcase:
    plugin: {}
    listen: 127.0.0.1:0
    forwarded: set
    workers: 1
    env: {{ GREETING: hello }}
    config: {{ number: 1, text: x, list: [1, two], deep: {{ a: b }} }}
",
            plugin.display()
        )
    };
    for (build, plugin) in [(Build::Native, guests::native("showcase")), (Build::Wasm, guests::wasm("showcase"))] {
        let mut launcher = site.run(&yaml(&plugin));
        let address = launcher.address("showcase");
        promise(build, &launcher, &address);
        launcher.stop();
    }
}

fn exchange(
    address: &str,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> crate::harness::http::Response {
    let mut connection = Connection::open(address).expect("connect");
    connection.request(method, target, headers, body).unwrap_or_else(|error| panic!("{method} {target}: {error}"))
}

#[test]
fn statuses_and_headers_pass() {
    both(|build, _, address| {
        for status in [200, 201, 204, 301, 304, 404, 418, 503, 599] {
            assert_eq!(fetch(address, &format!("/status/{status}")).status(), status, "{build:?}");
        }
        let response = fetch(address, "/");
        assert_eq!(response.text(), "A plugin for everything.\n");
        assert_eq!(response.head.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(response.head.header("content-length"), Some("25"), "{build:?}");

        let response =
            exchange(address, "GET", "/headers/a%20b?c=d", &[("x-one", "1"), ("x-empty", ""), ("x-one", "2")], b"");
        let body: Value = serde_json::from_str(&response.text()).expect("JSON");
        assert_eq!((&body["method"], &body["target"]), (&json!("GET"), &json!("/headers/a%20b?c=d")), "{build:?}");
        let headers = body["headers"].as_array().expect("headers");
        for field in
            [json!(["host", "test.example"]), json!(["x-one", "1"]), json!(["x-one", "2"]), json!(["x-empty", ""])]
        {
            assert!(headers.contains(&field), "{build:?}: {field} is not among {headers:?}");
        }
    });
}

#[test]
fn bodies_stream_both_ways() {
    both(|build, _, address| {
        let response = fetch(address, "/bytes/10000000");
        assert_eq!(response.head.header("content-length"), Some("10000000"), "{build:?}");
        assert!(response.body.iter().enumerate().all(|(at, byte)| usize::from(*byte) == at % 251), "{build:?}");
        let response = fetch(address, "/chunks/300");
        assert_eq!(response.head.header("transfer-encoding"), Some("chunked"), "{build:?}");
        assert_eq!(response.text().lines().count(), 300);

        let sent: Vec<u8> = (0..5_000_000_u32).map(|at| (at % 13) as u8).collect();
        let sum: u64 = sent.iter().map(|byte| u64::from(*byte)).sum();
        let response = exchange(address, "POST", "/count", &[], &sent);
        assert_eq!(response.text(), format!("5000000 bytes, sum {sum}\n"), "{build:?}");
        let response = exchange(address, "POST", "/upper", &[], b"quiet");
        assert_eq!(response.text(), "QUIET", "{build:?}");
        assert_eq!(exchange(address, "POST", "/upper", &[], &vec![b'x'; (1 << 20) + 1]).status(), 413, "{build:?}");
    });
}

#[test]
fn a_stream_answers_while_the_request_is_still_being_sent() {
    both(|build, _, address| {
        let mut connection = Connection::open(address).expect("connect");
        connection.send_head("POST", "/echo", &[("transfer-encoding", "chunked")]).expect("send the head");
        connection.send(b"5\r\nfirst\r\n").expect("send a chunk");
        let head = connection.head("POST").expect("a head");
        let mut sender = connection.sender().expect("a second handle");
        let mut received = Vec::new();
        let mut parts = 0;
        connection
            .body(&head, |part| {
                received.extend_from_slice(part);
                parts += 1;
                // Only now does the client go on: an echo that collected the body would wait for ever.
                let rest: &[u8] = match received.len() {
                    5 => b"6\r\nsecond\r\n",
                    11 => b"0\r\n\r\n",
                    _ => b"",
                };
                sender.write_all(rest).expect("send more");
            })
            .unwrap_or_else(|error| panic!("{build:?}: {error} after {received:?}"));
        assert_eq!(received, b"firstsecond", "{build:?}");
        assert!(parts >= 2);
    });
}

#[test]
fn trailers_pass_both_ways() {
    both(|build, _, address| {
        let response = exchange(address, "GET", "/trailers", &[("te", "trailers")], b"");
        assert_eq!(response.text(), "with a trailer\n");
        assert_eq!(response.trailers, [("x-checksum".to_owned(), "abc".to_owned())], "{build:?}");

        let mut connection = Connection::open(address).expect("connect");
        let headers = [("transfer-encoding", "chunked"), ("te", "trailers"), ("trailer", "x-mine")];
        connection.send_head("POST", "/echo", &headers).expect("send the head");
        connection.send(b"3\r\nabc\r\n0\r\nx-mine: 7\r\n\r\n").expect("send the body");
        let response = connection.response("POST").expect("an answer");
        assert_eq!(response.text(), "abc", "{build:?}");
        assert_eq!(response.trailers, [("x-mine".to_owned(), "7".to_owned())], "{build:?}");
    });
}

#[test]
fn a_head_request_gets_the_head_alone() {
    both(|build, _, address| {
        let mut connection = Connection::open(address).expect("connect");
        for _ in 0..3 {
            let response = connection.request("HEAD", "/bytes/123456", &[], b"").expect("an answer");
            assert_eq!(response.head.header("content-length"), Some("123456"), "{build:?}");
            // The connection is still in step.
            assert_eq!(connection.request("GET", "/sleep/1", &[], b"").expect("an answer").text(), "awake\n");
        }
    });
}

#[test]
fn a_client_that_leaves_cancels_its_stream() {
    both(|build, launcher, address| {
        let mut streams: Vec<_> = (0..3)
            .map(|_| {
                let mut connection = Connection::open(address).expect("connect");
                connection.send_head("GET", "/ticks", &[]).expect("send");
                connection.head("GET").expect("a head");
                connection
            })
            .collect();
        if build == Build::Native {
            assert_eq!(fetch(address, "/open").text(), "3");
        }
        streams.clear();
        // A component's instances do not share the counter: there it shows that one is free again.
        assert!(eventually(|| fetch(address, "/open").text() == "0"), "{build:?}\n{}", launcher.story());
    });
}

#[test]
fn a_plugin_knows_its_worker_its_configuration_and_its_environment() {
    both(|build, launcher, address| {
        let ready = launcher.wait("ready", |event| event.is("ready"));
        let worker: Value = serde_json::from_str(&fetch(address, "/worker").text()).expect("JSON");
        assert_eq!(worker["service"], "showcase", "{build:?}");
        assert_eq!(worker["slot"], ready.number("slot"), "{build:?}");
        assert_eq!(worker["generation"], ready.number("generation"), "{build:?}");
        let config: Value = serde_json::from_str(&fetch(address, "/config").text()).expect("JSON");
        assert_eq!(config, json!({ "number": 1, "text": "x", "list": [1, "two"], "deep": { "a": "b" } }), "{build:?}");
        assert_eq!(fetch(address, "/env/GREETING").text(), "hello", "{build:?}");
        if build == Build::Wasm {
            assert_eq!(fetch(address, "/env/HOME").status(), 404, "the launcher's environment leaks into the sandbox");
        }
        let mut connection = Connection::open(address).expect("connect");
        let claim = [("forwarded", "for=192.0.2.1:7")];
        let peer = connection.request("GET", "/peer", &claim, b"").expect("an answer").text();
        assert!(peer.starts_with("127.0.0.1:"), "{build:?}: {peer}");
        assert_eq!(fetch(address, "/log/here").status(), 204);
        let line = "INFO a line from here path=/log/here number=7";
        launcher.wait_lines(1, "the logged line", |seen| seen.text == line);
    });
}

#[test]
fn an_instance_that_asked_for_it_serves_many_requests() {
    both(|_, launcher, address| {
        for _ in 0..20 {
            assert_eq!(fetch(address, "/").status(), 200);
        }
        // The start hook runs once a worker natively and once an instance in a component.
        let starts =
            launcher.wait_lines(1, "the start hook's line", |line| line.text.ends_with("INFO showcase starts"));
        assert!(starts.len() <= 2, "{} starts", starts.len());
    });
}

#[test]
fn messages_are_sent_and_received_alike() {
    let courier = guests::native("courier").display().to_string();
    for (build, plugin) in [(Build::Native, guests::native("showcase")), (Build::Wasm, guests::wasm("showcase"))] {
        let site = Site::new();
        let launcher = site.run(&format!(
            "
services:
  showcase: {{ plugin: {plugin}, listen: 127.0.0.1:0, workers: 1 }}
  other: {{ plugin: {plugin}, listen: 127.0.0.1:0, workers: 1 }}
  post: {{ plugin: {courier}, listen: 127.0.0.1:0, workers: 1 }}
",
            plugin = plugin.display()
        ));
        launcher.workers(3);
        let (showcase, other, post) =
            (launcher.address("showcase"), launcher.address("other"), launcher.address("post"));
        let send = |from: &str, whom: &str, text: &str| {
            let answer = exchange(from, "POST", &format!("/send/{whom}"), &[], text.as_bytes());
            (answer.status(), answer.text().trim_end().to_owned())
        };
        let taken = (200, "taken".to_owned());
        for number in 0..3 {
            assert_eq!(send(&showcase, "post/0", &number.to_string()), taken, "{build:?}");
        }
        // Taken is what its worker has; the plugin's thread writes it down a moment later.
        let heard = wait_heard(&mut Connection::open(&post).expect("connects"), 3);
        assert_eq!(heard, ["showcase/0: 0", "showcase/0: 1", "showcase/0: 2"], "{build:?}");
        assert_eq!(send(&showcase, "operator", r#"{"done": 3}"#), taken, "{build:?}");
        let told = launcher.wait("message", |event| event.is("message") && event.of("showcase"));
        assert_eq!(told.value("body"), &json!({ "done": 3 }), "{build:?}");
        let large = "x".repeat(70_000);
        for (whom, text, reason) in [
            ("nobody/0", "1", "Nobody"),
            ("post/7", "1", "Nobody"),
            ("post/0", &large, "TooLarge"),
            ("operator", "{", "Bad"),
        ] {
            assert_eq!(send(&showcase, whom, text), (409, reason.to_owned()), "{build:?} to {whom}");
        }

        let hear = || {
            let showcase = showcase.clone();
            std::thread::spawn(move || fetch(&showcase, "/hear").text())
        };
        // It is not wanted until the handler waits for it.
        let hearing = hear();
        let sent = eventually(|| send(&other, "showcase/0", "\"thanks\"") == taken);
        assert!(sent, "{build:?}\n{}", launcher.story());
        assert_eq!(hearing.join().expect("the client"), "other/0: \"thanks\"\n", "{build:?}");
        let hearing = hear();
        let message = json!({ "service": "showcase", "message": [1] }).to_string();
        assert_eq!(Control::of(&site).ask("POST", "/v1/messages", &message).status, 200, "{build:?}");
        assert_eq!(hearing.join().expect("the client"), "operator: [1]\n", "{build:?}");
    }
}
