//! Components of other people and of other toolchains, each served with `plugin:` and `listen:` alone.
//!
//! `scripts/slow-tests` makes or fetches the components and runs this. It takes minutes and the package registries of
//! three languages: therefore it is no part of `cargo test`.

#[path = "../launcher/harness/mod.rs"]
#[expect(dead_code, unused_imports, reason = "these tests use a part of the harness")]
mod harness;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;

use harness::Site;
use harness::control::Control;
use harness::http::fetch;
use harness::projects::{develop, edited, passes, project};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Copies a component to where it is served.
fn copy(component: &str, site: &Site) {
    let directory = std::env::var_os("LAUNCHER_FOREIGN_COMPONENTS")
        .map(PathBuf::from)
        .expect("run scripts/slow-tests: it makes the components and sets LAUNCHER_FOREIGN_COMPONENTS");
    std::fs::copy(directory.join(component), site.path(component)).expect("copy the component");
}

/// Serves one component and asks it twice: the second answer shows that the first request left it whole.
fn served(component: &str, target: &str, good: impl Fn(&str) -> bool) {
    let site = Site::new();
    copy(component, &site);
    let mut launcher = site.run(&format!("services: {{ foreign: {{ plugin: {component}, listen: 127.0.0.1:0 }} }}"));
    let address = launcher.address("foreign");
    for _ in 0..2 {
        let response = fetch(&address, target);
        assert_eq!(response.status(), 200, "{}\n{}", response.text(), launcher.story());
        assert!(good(&response.text()), "{:?}", response.text());
    }
    launcher.stop();
}

/// A template's project goes through its author's loop. Its build fetches packages at first.
fn looped(template: &str, source: &str, mistake: &str, complaint: &str, test: &str) {
    let site = Site::new();
    let project = project(&site, template, "my-app");
    let mut launcher = develop(&project, "config.yaml", &[]);
    edited(&mut launcher, &project.join(source), "my-app", mistake, complaint);
    passes(Command::new("sh").args(["-c", test]).current_dir(&project));
}

#[test]
fn a_project_in_javascript_is_served_edited_and_tested() {
    looped("javascript", "app.js", "const x = ;\n", "SyntaxError", "npm test");
}

#[test]
fn a_project_in_python_is_served_edited_and_tested() {
    looped("python", "pages.py", "def f(:\n", "SyntaxError", "python3 -m unittest");
}

#[test]
fn an_app_of_hono_answers_json() {
    served("wash-runtime.wasm", "/v1/example", |text| serde_json::from_str::<serde_json::Value>(text).is_ok());
}

#[test]
fn a_fetch_listener_by_componentize_js_is_served() {
    served("componentize-js.wasm", "/some/path", |text| text == "Hello from JavaScript: /some/path\n");
}

#[test]
fn a_handler_of_wasi_0_3_by_componentize_qjs_is_served() {
    served("componentize-qjs.wasm", "/some/path", |text| text == "Hello from QuickJS: /some/path\n");
}

#[test]
fn a_handler_by_componentize_py_is_served() {
    served("componentize-py.wasm", "/some/path", |text| text == "Hello from Python: /some/path\n");
}

#[test]
fn a_program_by_componentize_py_owns_its_socket() {
    let site = Site::new();
    copy("python-program.wasm", &site);
    let mut launcher =
        site.run("services: { foreign: { plugin: python-program.wasm, listen: 127.0.0.1:0, workers: 2 } }");
    let address = launcher.address("foreign");
    let greeted = || {
        let stream = TcpStream::connect(&address).expect("connect");
        (&stream).write_all(b"you\n").expect("send");
        let mut answer = String::new();
        BufReader::new(&stream).read_line(&mut answer).expect("an answer");
        assert_eq!(answer, "Hello from Python: you\n", "{}", launcher.story());
    };
    greeted();
    let mark = launcher.mark();
    kill(Pid::from_raw(launcher.workers(2)[0] as i32), Signal::SIGKILL).expect("kill a worker");
    greeted();
    launcher.wait_after(mark, "ready", |event| event.is("ready"));
    Control::of(&site).post("/v1/services/foreign/restart?wait=true");
    greeted();
    launcher.stop();
}

/// `std::net` as it is, in one thread that blocks. Debian's toolchain, with which the other tests can be run, has no sockets.
#[test]
fn a_program_of_std_net_owns_its_sockets() {
    let site = Site::new();
    copy("std-net.wasm", &site);
    let mut launcher = site.run(
        "services:
           lines: { plugin: std-net.wasm, listen: 127.0.0.1:0, workers: 2 }
           datagrams: { plugin: std-net.wasm, listen: [{ name: datagrams, address: 'udp://127.0.0.1:0' }], workers: 2 }",
    );
    let lines = launcher.address("lines");
    let datagrams = launcher.address("datagrams");
    let served = |worker: &mut Option<String>| {
        let stream = TcpStream::connect(&lines).expect("connect");
        stream.set_read_timeout(Some(harness::PATIENCE)).expect("a time-out");
        (&stream).write_all(b"who\npeer\nhello\n").expect("send");
        let mut answers = BufReader::new(&stream).lines();
        let mut next = || answers.next().expect("an answer").expect("an answer");
        *worker = Some(next());
        assert_eq!(next(), stream.local_addr().expect("connected").to_string(), "{}", launcher.story());
        assert_eq!(next(), "hello", "{}", launcher.story());
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
        socket.set_read_timeout(Some(harness::PATIENCE)).expect("a time-out");
        let address = datagrams.strip_prefix("udp://").expect("an address of UDP");
        socket.send_to(b"a datagram", address).expect("send");
        let mut answer = [0; 64];
        let (length, _) = socket.recv_from(&mut answer).expect("an answer");
        assert_eq!(&answer[..length], b"a datagram", "{}", launcher.story());
    };
    let (mut before, mut after) = (None, None);
    served(&mut before);
    for service in ["lines", "datagrams"] {
        Control::of(&site).post(&format!("/v1/services/{service}/restart?wait=true"));
    }
    served(&mut after);
    assert_ne!(before, after, "other workers\n{}", launcher.story());
    launcher.stop();
}
