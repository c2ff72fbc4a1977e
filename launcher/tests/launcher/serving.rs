//! A component is served with `plugin:` and `listen:` alone, and HTTP/1.1 is spoken as it should be.

use std::fs;

use crate::harness::http::{Connection, fetch};
use crate::harness::{Site, guests};

const HELLO: &str = "
services:
  hello:
    plugin: hello.wat
    listen: 127.0.0.1:0
";

const KITCHEN: &str = "
services:
  kitchen:
    plugin: kitchen.wasm
    listen: 127.0.0.1:0
";

#[test]
fn a_component_in_text_form_answers_every_path_and_method() {
    let site = Site::new();
    site.write("hello.wat", guests::hello_wat());
    let mut launcher = site.run(HELLO);
    let mut connection = Connection::open(&launcher.address("hello")).expect("connect");
    for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "BREW"] {
        for target in ["/", "/any/path?and=query", "/%20"] {
            let body: &[u8] = if matches!(method, "POST" | "PUT" | "PATCH") { b"ignored" } else { b"" };
            let response = connection.request(method, target, &[], body).expect("an answer on the kept connection");
            assert_eq!(response.status(), 200, "{method} {target}");
            assert_eq!(response.head.header("content-type"), Some("text/plain; charset=utf-8"));
            assert_eq!(response.head.header("content-length"), Some("24"), "{method} {target}");
            let expected = if method == "HEAD" { "" } else { "Hello from WebAssembly!\n" };
            assert_eq!(response.text(), expected, "{method} {target}");
        }
    }
    launcher.stop();
}

#[test]
fn a_component_of_wasi_0_3_is_served() {
    let site = Site::new();
    fs::copy(guests::async_hello(), site.path("async.wasm")).expect("copy the guest");
    let mut launcher = site.run(
        "
services:
  async:
    plugin: async.wasm
    listen: 127.0.0.1:0
",
    );
    let address = launcher.address("async");
    assert_eq!(fetch(&address, "/").text(), "Hello from WASI 0.3!\n");
    assert_eq!(fetch(&address, "/sleep").text(), "slept\n");
    let mut connection = Connection::open(&address).expect("connect");
    let body = vec![b'x'; 300_000];
    let response = connection.request("POST", "/echo", &[], &body).expect("an answer");
    assert_eq!((response.status(), response.body.len()), (200, body.len()));
    launcher.stop();
}

#[test]
fn the_example_server_of_wstd_is_served_unmodified() {
    let site = Site::new();
    fs::copy(guests::wstd_server(), site.path("wstd.wasm")).expect("copy the guest");
    let mut launcher = site.run(
        "
services:
  wstd:
    plugin: wstd.wasm
    listen: 127.0.0.1:0
",
    );
    let address = launcher.address("wstd");
    assert_eq!(fetch(&address, "/").text(), "Hello, wasi:http/proxy world!\n");
    assert_eq!(fetch(&address, "/stream-body").text().lines().count(), 5);
    assert_eq!(fetch(&address, "/no-such-page").status(), 404);
    let mut connection = Connection::open(&address).expect("connect");
    let echoed = connection.request("POST", "/echo", &[], b"there and back").expect("an answer");
    assert_eq!(echoed.text(), "there and back");
    let status =
        connection.request("GET", "/response-status", &[("x-response-status", "418")], b"").expect("an answer");
    assert_eq!(status.status(), 418);
    assert_eq!(fetch(&address, "/response-fail").status(), 500);
    launcher.stop();
}

#[test]
fn the_guest_sees_the_request_as_it_was_sent() {
    let site = Site::new();
    site.kitchen();
    let launcher = site.run(KITCHEN);
    let mut connection = Connection::open(&launcher.address("kitchen")).expect("connect");
    let response = connection
        .request("GET", "/headers?a=b%20c", &[("x-one", "1"), ("x-two", "2a"), ("x-two", "2b")], b"")
        .expect("an answer");
    let seen = response.text();
    for line in ["x-one: 1", "x-two: 2a", "x-two: 2b"] {
        assert!(seen.lines().any(|seen| seen == line), "no {line:?} in {seen}");
    }
    let first = seen.lines().next().unwrap_or_default();
    assert!(first.starts_with("GET ") && first.ends_with("test.example/headers?a=b%20c"), "{first}");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let site = Site::new();
    site.kitchen();
    let launcher = site.run(KITCHEN);
    let mut connection = Connection::open(&launcher.address("kitchen")).expect("connect");
    let one = |target: &str| format!("GET {target} HTTP/1.1\r\nhost: test.example\r\n\r\n");
    connection.send([one("/sleep?ms=100"), one("/hello"), one("/version")].concat().as_bytes()).expect("send");
    for expected in ["slept 100\n", "hello\n", "kitchen-version-00000000"] {
        assert_eq!(connection.response("GET").expect("an answer").text(), expected);
    }
}

#[test]
fn a_chunked_request_and_its_trailers_reach_the_guest_and_come_back() {
    let site = Site::new();
    site.kitchen();
    let launcher = site.run(KITCHEN);
    let mut connection = Connection::open(&launcher.address("kitchen")).expect("connect");
    let headers = [("transfer-encoding", "chunked"), ("trailer", "x-sum"), ("te", "trailers")];
    connection.send_head("POST", "/trailers", &headers).expect("send the head");
    connection.send(b"5\r\nhello\r\n6\r\n world\r\n0\r\nx-sum: 42\r\n\r\n").expect("send the body");
    let response = connection.response("POST").expect("an answer");
    assert_eq!(response.text(), "hello world");
    let trailer = |name: &str| response.trailers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    assert_eq!(trailer("x-sum"), Some("42"), "{:?}", response.trailers);
    assert_eq!(trailer("x-trailers-received"), Some("1"), "{:?}", response.trailers);
}

#[test]
fn a_client_that_expects_100_continue_is_told_to_go_on() {
    let site = Site::new();
    site.kitchen();
    let launcher = site.run(KITCHEN);
    let mut connection = Connection::open(&launcher.address("kitchen")).expect("connect");
    // A guest that reads the body before it answers: one that answers first makes the interim answer superfluous.
    connection
        .send_head("POST", "/upload", &[("content-length", "4"), ("expect", "100-continue")])
        .expect("send the head");
    assert_eq!(connection.any_head("POST").expect("an interim answer").status, 100);
    connection.send(b"body").expect("send the body");
    assert!(connection.response("POST").expect("an answer").text().starts_with("4 "));
}

#[test]
fn a_malformed_request_costs_its_connection_only() {
    let site = Site::new();
    site.write("hello.wat", guests::hello_wat());
    let launcher = site.run(HELLO);
    let address = launcher.address("hello");
    let mut kept = Connection::open(&address).expect("connect");
    assert_eq!(kept.request("GET", "/", &[], b"").expect("an answer").status(), 200);
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
    ] {
        let mut connection = Connection::open(&address).expect("connect");
        connection.send(garbage).expect("send");
        connection.finish().expect("close our half");
        if let Ok(head) = connection.head("GET") {
            assert!((400..506).contains(&head.status), "{garbage:?} was answered with {}", head.status);
        }
    }
    assert_eq!(kept.request("GET", "/", &[], b"").expect("the other connection goes on").status(), 200);
}

#[test]
fn a_unix_socket_gets_its_mode_and_serves() {
    use std::os::unix::fs::PermissionsExt;
    let site = Site::new();
    site.write("hello.wat", guests::hello_wat());
    let socket = site.path("hello.sock");
    let mut launcher = site.run(&format!(
        "
services:
  hello:
    plugin: hello.wat
    listen: unix:{}?mode=0660
",
        socket.display()
    ));
    let mode = fs::metadata(&socket).expect("the socket is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let response = fetch(&format!("unix:{}", socket.display()), "/");
    assert_eq!(response.text(), "Hello from WebAssembly!\n");
    launcher.stop();
    assert!(!socket.exists(), "the socket stays after the stop");
}

#[test]
fn a_service_listens_on_several_addresses_of_both_families() {
    let site = Site::new();
    site.write("hello.wat", guests::hello_wat());
    let launcher = site.run(
        "
services:
  hello:
    plugin: hello.wat
    listen: [\"127.0.0.1:0\", \"[::1]:0\"]
",
    );
    for listening in launcher.wait_many(0, 2, "listening", |event| event.is("listening")) {
        assert_eq!(fetch(listening.text("address"), "/").status(), 200, "{listening:?}");
    }
}

#[test]
fn several_services_run_beside_each_other() {
    let site = Site::new();
    site.write("a.wasm", guests::hello(1));
    site.write("b.wasm", guests::hello(2));
    let launcher = site.run(
        "
services:
  a: { plugin: a.wasm, listen: 127.0.0.1:0, workers: 1 }
  b: { plugin: b.wasm, listen: 127.0.0.1:0, workers: 1 }
",
    );
    assert_eq!(fetch(&launcher.address("a"), "/").text(), guests::greeting(1));
    assert_eq!(fetch(&launcher.address("b"), "/").text(), guests::greeting(2));
}

#[test]
fn an_instance_of_a_0_2_component_serves_one_request_unless_told_otherwise() {
    let site = Site::new();
    site.kitchen();
    let launcher = site.run(
        "
services:
  fresh: { plugin: kitchen.wasm, listen: 127.0.0.1:0, workers: 1 }
  reused: { plugin: kitchen.wasm, listen: 127.0.0.1:0, workers: 1, wasm: { reuse: 3 } }
",
    );
    let counts = |service: &str| {
        let address = launcher.address(service);
        (0..6).map(|_| fetch(&address, "/count").text().trim().to_owned()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(counts("fresh"), "1 1 1 1 1 1");
    assert_eq!(counts("reused"), "1 2 3 1 2 3");
}
