//! A guest has what its service gives it and nothing else.

use std::fs;

use crate::harness::http::fetch;
use crate::harness::{Launcher, Site};

#[test]
fn the_environment_is_what_the_service_gives() {
    let site = Site::new();
    site.kitchen();
    let yaml = "
services:
  kitchen:
    plugin: kitchen.wasm
    listen: 127.0.0.1:0
    env: { GREETING: hello, FROM_OUTSIDE: \"${LAUNCHER_TEST_GIVEN:-absent}\", PRICE: \"$${5}\" }
";
    let config = site.configure(yaml);
    let mut command = site.command(["run"]);
    command.arg(config).env("LAUNCHER_TEST_SECRET", "secret").env("LAUNCHER_TEST_GIVEN", "given");
    let launcher = Launcher::start(command, yaml);
    launcher.wait("serving", |event| event.is("serving"));
    let seen = fetch(&launcher.address("kitchen"), "/env").text();
    // A worker tells its plugin who it is.
    let own = |line: &str| line.starts_with("LAUNCHER_WORKER_") || line.starts_with("LAUNCHER_SERVICE=");
    let mut seen: Vec<_> = seen.lines().filter(|line| !own(line)).collect();
    seen.sort_unstable();
    assert_eq!(seen, ["FROM_OUTSIDE=given", "GREETING=hello", "PRICE=${5}"]);
}

#[test]
fn without_settings_a_guest_has_no_environment_files_or_input() {
    let site = Site::new();
    site.kitchen();
    let launcher = site.run("services: { kitchen: { plugin: kitchen.wasm, listen: 127.0.0.1:0 } }");
    let address = launcher.address("kitchen");
    let environment = fetch(&address, "/env").text();
    assert!(environment.lines().all(|line| line.starts_with("LAUNCHER_")), "{environment}");
    for target in [
        "/read?path=/etc/passwd",
        "/read?path=config.yaml",
        "/read?path=/",
        "/list?path=/",
        "/list?path=.",
        "/write?path=/x",
    ] {
        let response = fetch(&address, target);
        assert_eq!(response.status(), 403, "{target}: {}", response.text());
    }
    assert_eq!(fetch(&address, "/stdin").text(), "0 bytes\n");
    assert_eq!(fetch(&address, "/config").text(), "missing: None\n");
}

#[test]
fn the_guest_reads_its_configuration() {
    let site = Site::new();
    site.kitchen();
    let launcher = site.run(
        "
services:
  kitchen:
    plugin: kitchen.wasm
    listen: 127.0.0.1:0
    config: { colour: blue, size: 3 }
",
    );
    assert_eq!(fetch(&launcher.address("kitchen"), "/config").text(), "missing: None\ncolour=blue\nsize=3\n");
}

#[test]
fn directories_are_seen_where_given_and_nowhere_else() {
    let site = Site::new();
    site.kitchen();
    site.write("data/file.txt", "readable\n");
    site.write("secret.txt", "secret\n");
    site.link("data/escape.txt", "../secret.txt");
    site.link("data/absolute.txt", "/etc/passwd");
    fs::create_dir(site.path("scratch")).expect("make a directory");
    let launcher = site.run(
        "
services:
  kitchen:
    plugin: kitchen.wasm
    listen: 127.0.0.1:0
    wasm:
      dirs:
        - { host: ./data, guest: /data, mode: ro }
        - { host: ./scratch, guest: /scratch, mode: rw }
",
    );
    let address = launcher.address("kitchen");
    assert_eq!(fetch(&address, "/read?path=/data/file.txt").text(), "readable\n");
    assert_eq!(fetch(&address, "/write?path=/scratch/new.txt").text(), "written\n");
    assert_eq!(fs::read_to_string(site.path("scratch/new.txt")).expect("the guest wrote it"), "written by the guest\n");
    for target in [
        "/write?path=/data/file.txt",
        "/write?path=/data/new.txt",
        "/read?path=/data/escape.txt",
        "/read?path=/data/absolute.txt",
        "/read?path=/data/../secret.txt",
        "/read?path=/etc/passwd",
        "/write?path=/scratch/../data/new.txt",
    ] {
        let response = fetch(&address, target);
        assert_eq!(response.status(), 403, "{target}: {}", response.text());
    }
    assert_eq!(fs::read_to_string(site.path("data/file.txt")).expect("still there"), "readable\n");
}
