//! Where a service listens: every form of an address, its options, and sockets that the launcher is started with.

use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt};

use crate::harness::control::Control;
use crate::harness::http::fetch;
use crate::harness::launcher::eventually;
use crate::harness::{Launcher, Site, guests};

/// The launcher started as systemd would with this socket, as descriptor 3 and again as descriptor 4.
fn with_sockets(site: &Site, socket: &OwnedFd, names: &str, yaml: &str) -> Launcher {
    let command = site.command(["run"]);
    let mut shell = Command::new("sh");
    let script = "LISTEN_PID=$$ LISTEN_FDS=2 exec \"$0\" \"$@\" 3<&0 4<&0 </dev/null";
    shell.args(["-c", script]).arg(command.get_program()).args(command.get_args()).arg(site.configure(yaml));
    shell.env("LISTEN_FDNAMES", names).current_dir(site.path("")).stdin(socket.try_clone().expect("duplicates"));
    Launcher::start(shell, yaml)
}

fn listening() -> (OwnedFd, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = listener.local_addr().expect("an address").to_string();
    (listener.into(), address)
}

/// It has printed this; what is printed last may be read after the exit is seen.
fn tells(launcher: &Launcher, said: &str) {
    assert!(eventually(|| launcher.story().contains(said)), "no {said:?}\n{}", launcher.story());
}

fn serving(launcher: &Launcher) {
    launcher.wait("serving", |event| event.is("serving"));
}

#[test]
fn an_abstract_name_is_listened_on_and_gone_with_the_service() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let name = format!("unix:@launcher-test-{}", site.path("").display());
    let mut launcher =
        site.run(&format!("services: {{ hello: {{ plugin: hello.wasm, workers: 2, listen: '{name}' }} }}"));
    assert_eq!(launcher.address("hello"), name);
    assert_eq!(fetch(&name, "/").text(), guests::greeting(1));
    launcher.stop();
    assert!(crate::harness::http::get(&name, "/").is_err(), "{}", launcher.story());
}

#[test]
fn a_socket_that_the_launcher_is_started_with_outlives_masters_and_whoever_used_it() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let (socket, address) = listening();
    let hello =
        |listen: &str| format!("services: {{ hello: {{ plugin: hello.wasm, workers: 2, listen: '{listen}' }} }}");
    let launcher = with_sockets(&site, &socket, "web.socket:spare", &hello("fd://web.socket"));
    serving(&launcher);
    assert_eq!(launcher.address("hello"), address);
    let greets = || assert_eq!(fetch(&address, "/").text(), guests::greeting(1), "{}", launcher.story());
    let next_master = |end: &dyn Fn()| {
        let mark = launcher.mark();
        end();
        launcher.wait_after(mark, "adopted", |event| event.is("adopted"));
    };
    greets();
    next_master(&|| kill(Pid::from_raw(launcher.master() as i32), Signal::SIGKILL).expect("it runs"));
    greets();
    // Another service may use what nobody uses any more, however many masters later.
    let reload = |yaml: &str| {
        let mark = launcher.mark();
        site.configure(yaml);
        launcher.wait_after(mark, "promoted", |event| event.is("promoted"));
    };
    reload(&hello("127.0.0.1:0"));
    next_master(&|| {
        let upgraded = site.output(["upgrade"]);
        assert!(upgraded.status.success(), "{upgraded:?}\n{}", launcher.story());
    });
    next_master(&|| kill(Pid::from_raw(launcher.master() as i32), Signal::SIGKILL).expect("it runs"));
    reload(&hello("fd://web.socket"));
    greets();
    reload(&hello("fd://spare"));
    greets();
}

#[test]
fn sockets_of_one_name_are_told_apart_and_one_that_is_not_there_is_told_with_those_that_are() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let (socket, address) = listening();
    let hello =
        |name: &str| format!("services: {{ hello: {{ plugin: hello.wasm, workers: 1, listen: 'fd://{name}' }} }}");
    let mut launcher = with_sockets(&site, &socket, "web:web", &hello("web+2"));
    serving(&launcher);
    assert_eq!(fetch(&address, "/").text(), guests::greeting(1));
    launcher.stop();
    let mut launcher = with_sockets(&site, &socket, "web:dns", &hello("wbe"));
    assert_eq!(launcher.exit().code(), Some(1), "{}", launcher.story());
    tells(&launcher, "fd://wbe: it was not passed to the launcher, which has `fd://dns`, `fd://web`");
    let mut launcher = site.start(&hello("web"));
    assert_eq!(launcher.exit().code(), Some(1), "{}", launcher.story());
    tells(&launcher, "started without sockets");
}

#[test]
fn a_socket_for_datagrams_is_refused_for_http_with_its_line() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let yaml = "services:\n  hello:\n    plugin: hello.wasm\n    workers: 1\n    listen: udp://127.0.0.1:0\n";
    let mut launcher = site.start(yaml);
    assert_eq!(launcher.exit().code(), Some(2), "{}", launcher.story());
    let said =
        "config.yaml:5:13: hello.wasm answers HTTP requests, which do not come over a UDP socket; listen on HOST:PORT";
    tells(&launcher, said);
    let checked = site.output(["check"]);
    let shown = String::from_utf8_lossy(&checked.stderr);
    assert_eq!(checked.status.code(), Some(2), "{shown}");
    assert!(shown.contains("config.yaml:5:13") && shown.contains("#[worker_sdk::socket]"), "{shown}");
    // What a descriptor is shows only when it is there.
    let socket = UdpSocket::bind("127.0.0.1:0").expect("binds").into();
    let mut launcher = with_sockets(&site, &socket, "dns", &yaml.replace("udp://127.0.0.1:0", "fd://dns"));
    assert_eq!(launcher.exit().code(), Some(2), "{}", launcher.story());
    tells(&launcher, "do not come over a UDP socket");
}

#[test]
fn nodelay_is_on_for_http_unless_it_is_turned_off() {
    for (option, expected) in [("", true), ("?nodelay=true", true), ("?nodelay=false", false)] {
        let site = Site::new();
        site.write("hello.wasm", guests::hello(1));
        let (socket, _) = listening();
        let yaml = format!("services: {{ hello: {{ plugin: hello.wasm, workers: 1, listen: 'fd://a{option}' }} }}");
        let launcher = with_sockets(&site, &socket, "a:b", &yaml);
        serving(&launcher);
        // The option is the socket's, whoever asks.
        assert_eq!(sockopt::tcp_nodelay(&socket).expect("a TCP socket"), expected, "{option}");
    }
}

/// Connections that the kernel queues at `path` for a process that stands still.
fn queued(path: &Path) -> Vec<OwnedFd> {
    let address = SocketAddrUnix::new(path).expect("a short path");
    let attempt = || {
        let client =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).expect("a socket");
        connect(&client, &address).is_ok().then_some(client)
    };
    std::iter::from_fn(attempt).take(100).collect()
}

#[test]
fn the_backlog_is_what_was_asked_for_and_follows_the_configuration() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let yaml = |backlog: u32| {
        format!("services: {{ hello: {{ plugin: hello.wasm, workers: 1, listen: 'unix:s?backlog={backlog}' }} }}")
    };
    let launcher = site.run(&yaml(1));
    let standing = |pid: u32, count: usize| {
        kill(Pid::from_raw(pid as i32), Signal::SIGSTOP).expect("it runs");
        let clients = queued(&site.path("s"));
        // The kernel takes one more than the backlog says.
        assert_eq!(clients.len(), count, "{}", launcher.story());
        kill(Pid::from_raw(pid as i32), Signal::SIGCONT).expect("it runs");
        drop(clients);
    };
    standing(launcher.workers(1)[0], 2);
    let mark = launcher.mark();
    site.configure(&yaml(5));
    launcher.wait_after(mark, "promoted", |event| event.is("promoted"));
    let pid = Control::of(&site).ready("hello")[0];
    standing(pid as u32, 6);
}

#[test]
fn what_a_bound_socket_cannot_become_is_refused_and_changes_nothing() {
    if TcpListener::bind("[::1]:0").is_err() {
        return; // no IPv6 here
    }
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let port = TcpListener::bind("[::]:0").expect("binds").local_addr().expect("an address").port();
    let yaml = |option: &str| {
        format!("services: {{ hello: {{ plugin: hello.wasm, workers: 1, listen: '[::]:{port}{option}' }} }}")
    };
    let launcher = site.run(&yaml(""));
    let mark = launcher.mark();
    site.configure(&yaml("?ipv6_only=true"));
    let refused = launcher.wait_after(mark, "config_rejected", |event| event.is("config_rejected"));
    assert!(
        refused.text("reason").contains("`ipv6_only`") && refused.text("reason").contains("restart"),
        "{refused:?}"
    );
    assert_eq!(fetch(&format!("[::1]:{port}"), "/").text(), guests::greeting(1));
}
