//! A bad configuration is refused at once, with its place and what to do; nothing is started.

use std::process::Output;
use std::time::{Duration, Instant};

use crate::harness::http::fetch;
use crate::harness::{Launcher, Site, guests};

/// Runs the launcher on a bad file with `run` and with `check`; gives what both print to stderr.
fn refused(yaml: impl AsRef<[u8]>) -> String {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    site.write("config.yaml", yaml);
    let mut told = String::new();
    for command in ["check", "run"] {
        let started = Instant::now();
        let output = site.output([command, "config.yaml"]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{command}: {stderr}");
        assert!(started.elapsed() < Duration::from_secs(3), "{command} took {:?}", started.elapsed());
        assert!(!stderr.contains("panicked"), "{stderr}");
        told = stderr;
    }
    told
}

/// The message has this place and all these words.
#[track_caller]
fn assert_told(told: &str, place: &str, words: &[&str]) {
    assert!(told.contains(&format!("config.yaml:{place}")), "no place config.yaml:{place} in\n{told}");
    for word in words {
        assert!(told.contains(word), "no {word:?} in\n{told}");
    }
}

#[test]
fn an_unknown_key_is_refused_with_a_suggestion() {
    let told = refused("services:\n  hello:\n    plugin: hello.wasm\n    listen: 127.0.0.1:0\n    wrokers: 2\n");
    assert_told(&told, "5:5", &["wrokers", "workers"]);
}

#[test]
fn a_duplicate_key_is_refused() {
    let told =
        refused("services:\n  hello:\n    plugin: hello.wasm\n    listen: 127.0.0.1:0\n    plugin: hello.wasm\n");
    assert_told(&told, "5:5", &["plugin"]);
}

#[test]
fn a_wrong_type_is_refused() {
    let told = refused("services:\n  hello:\n    plugin: hello.wasm\n    listen: 127.0.0.1:0\n    workers: many\n");
    assert_told(&told, "5:14", &["workers"]);
    let told = refused("services: [hello]\n");
    assert_told(&told, "1:11", &[]);
}

#[test]
fn a_bad_duration_is_refused() {
    let told = refused(
        "services:\n  hello:\n    plugin: hello.wasm\n    listen: 127.0.0.1:0\n    stop: { drain_timeout: 30 }\n",
    );
    assert_told(&told, "5:28", &["30s"]);
}

#[test]
fn a_bad_address_is_refused() {
    let told = refused("services:\n  hello:\n    plugin: hello.wasm\n    listen: 127.0.0.1:99999\n");
    assert_told(&told, "4:13", &["127.0.0.1:99999"]);
}

#[test]
fn an_undefined_variable_is_refused() {
    let told = refused("services:\n  hello:\n    plugin: ${LAUNCHER_TEST_UNDEFINED}\n    listen: 127.0.0.1:0\n");
    assert_told(&told, "3:13", &["LAUNCHER_TEST_UNDEFINED"]);
}

#[test]
fn a_missing_plugin_is_refused() {
    let told = refused("services:\n  hello:\n    plugin: no-such-file.wasm\n    listen: 127.0.0.1:0\n");
    assert_told(&told, "3:13", &["no-such-file.wasm"]);
}

#[test]
fn an_unclosed_quote_is_refused() {
    let told = refused("services:\n  hello:\n    plugin: \"hello.wasm\n    listen: 127.0.0.1:0\n");
    assert_told(&told, "", &[]);
}

#[test]
fn invalid_utf_8_is_refused() {
    let told = refused(b"services:\n  hello:\n    plugin: hello\xff.wasm\n");
    assert_told(&told, "3:18", &["0xff"]);
}

#[test]
fn an_empty_file_is_refused() {
    for empty in ["", "\n\n", "# nothing\n", "services: {}\n", "services:\n"] {
        assert!(refused(empty).contains("service"), "{empty:?}");
    }
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb += &format!("a{level}: &a{level} [{aliases}]\n");
    }
    refused(bomb + "services: *a11\n");
}

#[test]
fn ten_thousand_levels_are_refused() {
    refused(format!("services: {}{}\n", "[".repeat(10_000), "]".repeat(10_000)));
    refused(format!("services: {}x\n", "{a: ".repeat(10_000)));
}

#[test]
fn several_mistakes_are_told_at_once() {
    let told = refused("services:\n  hello:\n    plugin: no-such-file.wasm\n    listen: nowhere\n    workers: 2\n");
    assert_told(&told, "3:13", &[]);
    assert_told(&told, "4:13", &[]);
}

#[test]
fn a_missing_configuration_and_a_misused_command_line_are_exit_2() {
    let site = Site::new();
    for arguments in
        [["run", "no-such.yaml"], ["check", "no-such.yaml"], ["run", "--no-such-flag"], ["inspect", "no-such.wasm"]]
    {
        let output = site.output(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
    }
}

#[test]
fn check_accepts_a_good_file_and_starts_nothing() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    site.configure("services: { hello: { plugin: hello.wasm, listen: 127.0.0.1:0 } }");
    let output = site.output(["check", "config.yaml"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn inspect_says_what_a_plugin_is() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    site.write("text.wasm", "no component");
    let text = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let output = site.output(["inspect", "hello.wasm"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output).contains("wasi:http/incoming-handler@0.2.0"), "{output:?}");
    assert_ne!(site.output(["inspect", "text.wasm"]).status.code(), Some(0));
}

#[test]
fn a_missing_plugin_is_built_first() {
    let site = Site::new();
    site.write("sources/hello.wasm", guests::hello(3));
    let yaml = "
services:
  hello:
    plugin: built/hello.wasm
    build: echo building the plugin && mkdir -p built && cp sources/hello.wasm built/
    listen: 127.0.0.1:0
";
    let launcher = site.run(yaml);
    assert_eq!(fetch(&launcher.address("hello"), "/").text(), guests::greeting(3));
    assert!(
        launcher.story().contains("\nbuilding the plugin") || launcher.story().contains("building the plugin\n"),
        "{}",
        launcher.story()
    );
}

#[test]
fn a_failed_build_is_told_with_its_output() {
    let site = Site::new();
    let config = site.configure(
        "services: { hello: { plugin: built/hello.wasm, build: \"echo no compiler here; exit 7\", listen: 127.0.0.1:0 } }",
    );
    let output = site.command(["run"]).arg(config).output().expect("start the launcher");
    let told = format!("{}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    assert!(matches!(output.status.code(), Some(1 | 2)), "{told}");
    assert!(told.contains("no compiler here") && told.contains('7'), "{told}");
}

#[test]
fn an_address_in_use_is_told() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind on loopback");
    let address = taken.local_addr().expect("a bound socket has an address");
    let config = site.configure(&format!("services: {{ hello: {{ plugin: hello.wasm, listen: \"{address}\" }} }}"));
    let output = site.command(["run"]).arg(config).output().expect("start the launcher");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains(&address.to_string()) && told.contains("in use"), "{told}");
}

#[test]
fn the_default_configuration_serves() {
    // The project's own config.yaml, on a free port.
    let project = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the project's directory");
    let site = Site::new();
    site.write("plugins/hello.wat", guests::hello_wat());
    let yaml = std::fs::read_to_string(project.join("config.yaml")).expect("the project has a config.yaml");
    let yaml = yaml.replace("127.0.0.1:8080", "127.0.0.1:0");
    let launcher: Launcher = site.run(&yaml);
    let listening = launcher.wait("listening", |event| event.is("listening"));
    assert_eq!(fetch(listening.text("address"), "/").text(), "Hello from WebAssembly!\n");
}
