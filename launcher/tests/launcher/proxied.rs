//! Behind a proxy: the client is whom the proxy names by the PROXY protocol, for plugins and logs alike.

use std::fs;

use serde_json::Value;

use crate::harness::http::Connection;
use crate::harness::launcher::eventually;
use crate::harness::{Launcher, Site, guests};

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n";
/// The same in version 2, with a TLV.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x13\xc0\0\x02\x07\xc6\x33\x64\x01\xdc\x04\x01\xbb\x04\0\x04abcd";
/// A proxy's own health check.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

fn yaml(plugin: &str, settings: &str) -> String {
    format!(
        "
services:
  web:
    plugin: {plugin}
    listen: [{{ name: front, address: 127.0.0.1:0, proxy_protocol: true }}]
    workers: 2
    forwarded: set
    access_log: {{ file: access.log }}
{settings}
"
    )
}

fn run(site: &Site, plugin: &str) -> Launcher {
    site.run(&yaml(plugin, ""))
}

fn open(launcher: &Launcher, head: &[u8]) -> Connection {
    let mut connection = Connection::open(&launcher.address("web")).expect("connect");
    connection.send(head).expect("send");
    connection
}

fn ask(connection: &mut Connection, target: &str) -> String {
    connection.request("GET", target, &[], b"").expect("an answer").text()
}

#[test]
fn a_guest_and_the_access_log_see_whom_the_proxy_names() {
    let site = Site::new();
    site.kitchen();
    let mut launcher = run(&site, "kitchen.wasm");
    for head in [V1, V2] {
        let mut connection = open(&launcher, head);
        for _ in 0..2 {
            let seen = ask(&mut connection, "/headers");
            for line in ["x-forwarded-for: 192.0.2.7", "forwarded: for=\"192.0.2.7:56324\";proto=http"] {
                assert!(seen.lines().any(|seen| seen == line), "no {line:?} in {seen}");
            }
        }
    }
    let seen = ask(&mut open(&launcher, LOCAL), "/headers");
    assert!(seen.lines().any(|seen| seen == "x-forwarded-for: 127.0.0.1"), "{seen}");
    let log = site.path("access.log");
    let clients = || -> Vec<String> {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let lines = text[..text.rfind('\n').unwrap_or(0)].lines();
        lines
            .map(|line| {
                serde_json::from_str::<Value>(line).expect("an object")["client"].as_str().expect("text").to_owned()
            })
            .collect()
    };
    assert!(eventually(|| clients().len() >= 5), "{:?}", clients());
    assert_eq!(clients().iter().filter(|client| *client == "192.0.2.7").count(), 4, "{:?}", clients());
    launcher.stop();
}

#[test]
fn a_native_plugin_sees_whom_the_proxy_names_after_every_reload_too() {
    let site = Site::new();
    let plugin = guests::native("showcase").display().to_string();
    let mut launcher = run(&site, &plugin);
    let mut named = open(&launcher, V2);
    assert_eq!(ask(&mut named, "/peer"), "192.0.2.7:56324");
    // A proxy that has connected and not spoken yet, and one that was interrupted.
    let mut silent = open(&launcher, b"");
    let mut cut = open(&launcher, &V2[..20]);
    for generation in 0..3 {
        let mark = launcher.mark();
        site.configure(&yaml(&plugin, &format!("    env: {{ GENERATION: {generation} }}")));
        launcher.signal(nix::sys::signal::Signal::SIGHUP);
        launcher.wait_after(mark, "promoted", |event| event.is("promoted"));
        launcher.wait_many(mark, 2, "exited", |event| event.is("exited"));
        assert_eq!(ask(&mut named, "/peer"), "192.0.2.7:56324", "generation {generation}");
    }
    silent.send(V1).expect("send");
    cut.send(&V2[20..]).expect("send");
    for connection in [&mut silent, &mut cut] {
        assert_eq!(ask(connection, "/peer"), "192.0.2.7:56324");
    }
    launcher.stop();
}

#[test]
fn whoever_says_nothing_of_a_client_is_cut_off() {
    let site = Site::new();
    site.kitchen();
    let mut launcher = run(&site, "kitchen.wasm");
    let mut direct = open(&launcher, b"");
    assert!(direct.request("GET", "/hello", &[], b"").is_err(), "it was answered without a PROXY head");
    let told = launcher.wait_lines(1, "the reason", |line| line.text.contains("does not begin with a PROXY head"));
    assert!(told[0].text.contains("to front"), "{told:?}");
    assert_eq!(ask(&mut open(&launcher, V1), "/hello"), "hello\n");
    launcher.stop();
}

#[test]
fn a_unix_socket_behind_a_proxy_gives_its_clients_addresses() {
    let site = Site::new();
    let plugin = guests::native("showcase").display().to_string();
    let mut launcher = site.run(&yaml(&plugin, "").replace("127.0.0.1:0", "'unix:web.sock'"));
    assert_eq!(ask(&mut open(&launcher, V1), "/peer"), "192.0.2.7:56324");
    assert_eq!(ask(&mut open(&launcher, LOCAL), "/peer"), "unknown");
    launcher.stop();
}
