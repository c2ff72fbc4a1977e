//! What is accepted, and what it means.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::super::grammar::{Form, Key, ROOT, SERVICE};
use super::super::{
    AccessFormat, AccessLog, Address, Balance, ListenOptions, LogFormat, PluginKind, Scheduling, load, load_master,
    schema,
};
use super::{Place, with};

fn tcp(address: &str) -> Address {
    Address::Tcp(address.parse::<SocketAddr>().expect("an address"))
}

#[test]
fn what_is_left_out_has_its_default() {
    let place = Place::new();
    let config = place.accept(&with(""));
    let hello = &config.services["hello"];
    let root = place.directory.path();
    assert_eq!(config.path, place.file());
    assert_eq!(hello.plugin, "hello.wasm");
    assert_eq!(hello.plugin_path, root.join("hello.wasm"));
    assert_eq!(hello.build, None);
    assert_eq!(hello.listen.len(), 1);
    assert_eq!(hello.listen[0].name, "127.0.0.1:8080");
    assert_eq!(hello.listen[0].address, tcp("127.0.0.1:8080"));
    let cpus = std::thread::available_parallelism().expect("CPUs").get();
    assert_eq!(hello.workers as usize, cpus);
    assert!(hello.env.is_empty());
    assert_eq!(hello.config, json!({}));
    assert_eq!((hello.balance, hello.scheduling), (Balance::Requests, Scheduling::Shared));
    assert!(hello.reload.watch);
    assert_eq!(hello.reload.surge, 1);
    assert_eq!(hello.reload.ready_timeout, Duration::from_secs(60));
    assert_eq!(hello.reload.probation, Duration::from_secs(10));
    assert_eq!(hello.reload.settle, Duration::from_millis(100));
    assert_eq!(hello.restart.backoff_min, Duration::from_millis(100));
    assert_eq!(hello.restart.backoff_max, Duration::from_secs(30));
    assert_eq!(hello.restart.budget, 5);
    assert_eq!(hello.restart.budget_window, Duration::from_secs(60));
    assert_eq!(hello.restart.reset_after, Duration::from_secs(60));
    assert_eq!(hello.drain_timeout, Duration::from_secs(30));
    assert_eq!(hello.limits.memory, None);
    assert_eq!(hello.limits.request_timeout, Duration::from_secs(30));
    assert_eq!(hello.limits.idle_timeout, Duration::from_secs(65));
    assert_eq!(hello.limits.connections, 10_000);
    assert_eq!(hello.limits.max_requests, 0);
    assert_eq!(hello.limits.max_lifetime, Duration::ZERO);
    assert_eq!(hello.wasm.memory, 256 << 20);
    assert_eq!(hello.wasm.cpu_time, Duration::from_secs(10));
    assert_eq!(hello.wasm.reuse, None);
    assert!(hello.wasm.dirs.is_empty());
    assert!(hello.wasm.network.is_empty());
    assert_eq!(hello.user, None);
    assert_eq!(config.master.state_dir, root.join(".launcher"));
    assert!(!root.join(".launcher").exists(), "reading a file must not leave a trace");
    assert_eq!(config.master.admin, None);
    assert_eq!(config.master.spare_workers, 2);
    assert_eq!(config.master.log_format, LogFormat::Pretty);
    assert_eq!(config.master.log_level, "info");
    assert_eq!(config.master.log_file, None);
    assert_eq!((config.master.log_max_size, config.master.log_keep), (64 << 20, 5));
    assert_eq!(hello.access_log, None);
    assert!(config.warnings.is_empty());
}

#[test]
fn an_access_log_is_a_word_or_a_mapping() {
    let place = Place::new();
    for (written, format) in [
        ("json", AccessFormat::Json),
        ("combined", AccessFormat::Combined),
        ("{}", AccessFormat::Json),
        ("{ format: combined }", AccessFormat::Combined),
    ] {
        let config = place.accept(&format!(
            "services: {{ hello: {{ plugin: hello.wasm, listen: '127.0.0.1:8080', access_log: {written} }} }}"
        ));
        assert_eq!(config.services["hello"].access_log, Some(AccessLog { format, file: None }), "{written}");
    }
}

#[test]
fn every_key_has_its_documented_meaning() {
    let place = Place::new();
    let root = place.directory.path();
    std::fs::create_dir(root.join("data")).expect("a directory");
    let config = place.accept(
        "services:
  hello:
    plugin: ./other.wasm
    build: make all
    listen:
      - 127.0.0.1:8080
      - { name: local, address: 'unix:run/hello.sock?mode=0660', proxy_protocol: true }
      - tcp://[::1]:8081
    workers: 3
    env: { GREETING: hello, PORT: 0x1F, FLAG: yes, TRUE: true, RATE: 1.50, EMPTY: '' }
    config: { any: [yaml, 1, -2.5, true, null], nested: { port: '${PORT}' } }
    balance: connections
    access_log: { format: combined, file: logs/access.log }
    reload: { watch: false, surge: 2, ready_timeout: 5s, probation: 0s, settle: 200ms }
    restart: { backoff: 1s..1m30s, budget: 3/10s, reset_after: 2m }
    stop: { drain_timeout: 1s }
    limits: { memory: 256MiB, request_timeout: 300ms, idle_timeout: 60s, connections: 100, max_requests: 1000, max_lifetime: 1h, stuck_timeout: 10s }
    wasm:
      memory: 64MiB
      cpu_time: 1s
      reuse: 16
      dirs: [{ host: ./data, guest: /data, mode: ro }, { host: data, guest: /rw, mode: rw }, { host: ., guest: . }]
      network: ['api.example.com:443', '10.0.0.1:80', '[::1]:53']
master:
  state_dir: state
  admin: 127.0.0.1:9090
  spare_workers: 0
  log: { format: json, level: debug, file: launcher.log, max_size: 10MB, keep: 9 }
",
    );
    let hello = &config.services["hello"];
    assert_eq!(hello.plugin, "./other.wasm");
    assert_eq!(hello.plugin_path, root.join("other.wasm"));
    assert!(!hello.plugin_path.to_string_lossy().contains("/./"));
    assert_eq!(hello.build.as_deref(), Some("make all"));
    assert_eq!(hello.listen[0].address, tcp("127.0.0.1:8080"));
    assert_eq!(hello.listen[1].name, "local");
    assert_eq!(hello.listen.iter().map(|listen| listen.proxy_protocol).collect::<Vec<_>>(), [false, true, false]);
    let socket = Address::Unix { path: root.join("run/hello.sock"), mode: Some(0o660) };
    assert_eq!(hello.listen[1].address, socket);
    assert_eq!(hello.listen[2].address, tcp("[::1]:8081"));
    let access = AccessLog { format: AccessFormat::Combined, file: Some(root.join("logs/access.log")) };
    assert_eq!(hello.access_log, Some(access));
    assert_eq!(hello.workers, 3);
    assert_eq!(hello.balance, Balance::Connections);
    let env: Vec<(&str, &str)> = hello.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let expected =
        [("EMPTY", ""), ("FLAG", "yes"), ("GREETING", "hello"), ("PORT", "0x1F"), ("RATE", "1.50"), ("TRUE", "true")];
    assert_eq!(env, expected);
    assert_eq!(hello.config, json!({ "any": ["yaml", 1, -2.5, true, null], "nested": { "port": "8123" } }));
    assert!(!hello.reload.watch);
    assert_eq!(hello.reload.surge, 2);
    assert_eq!(hello.reload.ready_timeout, Duration::from_secs(5));
    assert_eq!(hello.reload.probation, Duration::ZERO);
    assert_eq!(hello.reload.settle, Duration::from_millis(200));
    assert_eq!(hello.restart.backoff_min, Duration::from_secs(1));
    assert_eq!(hello.restart.backoff_max, Duration::from_secs(90));
    assert_eq!(hello.restart.budget, 3);
    assert_eq!(hello.restart.budget_window, Duration::from_secs(10));
    assert_eq!(hello.restart.reset_after, Duration::from_secs(120));
    assert_eq!(hello.drain_timeout, Duration::from_secs(1));
    assert_eq!(hello.limits.memory, Some(256 << 20));
    assert_eq!(hello.limits.request_timeout, Duration::from_millis(300));
    assert_eq!(hello.limits.idle_timeout, Duration::from_secs(60));
    assert_eq!(hello.limits.connections, 100);
    assert_eq!(hello.limits.max_requests, 1000);
    assert_eq!(hello.limits.max_lifetime, Duration::from_secs(3600));
    assert_eq!(hello.limits.stuck_timeout, Duration::from_secs(10));
    assert_eq!(hello.wasm.memory, 64 << 20);
    assert_eq!(hello.wasm.cpu_time, Duration::from_secs(1));
    assert_eq!(hello.wasm.reuse, Some(16));
    let dirs = [
        (root.join("data"), "/data".to_owned(), false),
        (root.join("data"), "/rw".to_owned(), true),
        (root.to_owned(), ".".to_owned(), false),
    ];
    assert_eq!(hello.wasm.dirs, dirs);
    let network = [("api.example.com".to_owned(), 443), ("10.0.0.1".to_owned(), 80), ("::1".to_owned(), 53)];
    assert_eq!(hello.wasm.network, network);
    assert_eq!(config.master.state_dir, root.join("state"));
    assert_eq!(config.master.admin, Some("127.0.0.1:9090".parse().expect("an address")));
    assert_eq!(config.master.spare_workers, 0);
    assert_eq!(config.master.log_format, LogFormat::Json);
    assert_eq!(config.master.log_level, "debug");
    assert_eq!(config.master.log_file, Some(root.join("launcher.log")));
    assert_eq!((config.master.log_max_size, config.master.log_keep), (10_000_000, 9));
}

#[test]
fn who_accepts_is_a_word() {
    let place = Place::new();
    for scheduling in [Scheduling::Shared, Scheduling::Reuseport, Scheduling::RoundRobin] {
        let config = place.accept(&with(&format!("scheduling: {}", scheduling.word())));
        assert_eq!(config.services["hello"].scheduling, scheduling);
    }
    place.accept("services: {a: {plugin: hello.wasm, listen: 'unix:a.sock', scheduling: round_robin}}");
}

#[test]
fn addresses_of_every_form_are_understood() {
    let place = Place::new();
    let any = if std::path::Path::new("/proc/net/if_inet6").exists() { "[::]:8080" } else { "0.0.0.0:8080" };
    for (text, expected) in [
        ("localhost:8080", tcp("127.0.0.1:8080")),
        ("tcp://localhost:0", tcp("127.0.0.1:0")),
        ("[::1]:80", tcp("[::1]:80")),
        ("0.0.0.0:65535", tcp("0.0.0.0:65535")),
        ("*:8080", tcp(any)),
        (":8080", tcp(any)),
        ("${NONE:-127.0.0.1}:${PORT}", tcp("127.0.0.1:8123")),
        ("unix:/run/x.sock", Address::Unix { path: "/run/x.sock".into(), mode: None }),
        ("unix:///run/x.sock?mode=600", Address::Unix { path: "/run/x.sock".into(), mode: Some(0o600) }),
        ("unix:x.sock", Address::Unix { path: place.directory.path().join("x.sock"), mode: None }),
        ("unix:@x.sock", Address::Abstract("x.sock".into())),
        ("udp://[::1]:53", Address::Udp("[::1]:53".parse().expect("an address"))),
        ("fd://web.socket", Address::Inherited("web.socket".into())),
    ] {
        let yaml = format!("services: {{a: {{plugin: hello.wasm, listen: '{text}'}}}}");
        assert_eq!(place.accept(&yaml).services["a"].listen[0].address, expected, "{text}");
    }
}

#[test]
fn options_stand_behind_the_address() {
    let place = Place::new();
    for (text, expected) in [
        ("127.0.0.1:80?backlog=128", ListenOptions { backlog: Some(128), ..ListenOptions::default() }),
        (
            "tcp://[::]:80?ipv6_only=true&nodelay=false",
            ListenOptions { ipv6_only: Some(true), nodelay: Some(false), backlog: None },
        ),
        ("unix:x.sock?mode=0600&backlog=1", ListenOptions { backlog: Some(1), ..ListenOptions::default() }),
        ("udp://[::]:80?ipv6_only=false", ListenOptions { ipv6_only: Some(false), ..ListenOptions::default() }),
    ] {
        let yaml = format!("services: {{a: {{plugin: hello.wasm, listen: '{text}'}}}}");
        assert_eq!(place.accept(&yaml).services["a"].listen[0].options, expected, "{text}");
    }
}

#[test]
fn ports_of_tcp_and_udp_and_of_both_families_are_apart() {
    let listen = "[':80', 'udp://:80', '[::]:81?ipv6_only=true', '0.0.0.0:81', 'unix:@a', 'fd://a']";
    Place::new().accept(&format!("services: {{a: {{plugin: native.so, listen: {listen}}}}}"));
}

#[test]
fn what_a_plugin_of_the_other_kind_cannot_be_served_with_is_told_with_its_place() {
    let yaml = with("limits: { idle_timeout: 65s }\nbalance: requests");
    let config = Place::new().accept(&yaml.replace("listen: 127.0.0.1:8080", "listen: [':80', 'udp://:80']"));
    let hello = &config.services["hello"];
    let line = config.diagnostics(hello.misfits(PluginKind::Http)).in_a_line();
    assert!(line.contains("config.yaml:4:21: hello.wasm answers HTTP requests"), "{line}");
    let shown = config.diagnostics(hello.misfits(PluginKind::Socket)).to_string();
    assert!(shown.contains("config.yaml:5:15") && shown.contains("limits.idle_timeout: has no effect"), "{shown}");
    assert!(shown.contains("config.yaml:6:5") && shown.contains("balance: has no effect"), "{shown}");
    assert!(Place::new().accept(&with("workers: 2")).services["hello"].misfits(PluginKind::Socket).is_empty());
}

#[test]
fn a_plugin_of_each_kind_is_accepted_and_a_missing_one_if_it_can_be_built() {
    let place = Place::new();
    for plugin in ["hello.wasm", "text.wat", "native.so"] {
        place.accept(&format!("services: {{a: {{plugin: {plugin}, listen: ':0'}}}}"));
    }
    let config = place.accept("services: {a: {plugin: out/new.wasm, build: make, listen: ':0'}}");
    assert_eq!(config.services["a"].plugin_path, place.directory.path().join("out/new.wasm"));
}

#[test]
fn variables_may_be_numbers_and_truth_values() {
    let config = Place::new().accept(&with(
        "workers: ${COUNT}\nreload: { watch: '${TRUE}', settle: '${COUNT}s' }\nenv: { LITERAL: '$${COUNT}', A: '${NONE:-x}' }",
    ));
    let hello = &config.services["hello"];
    assert_eq!(hello.workers, 7);
    assert!(hello.reload.watch);
    assert_eq!(hello.reload.settle, Duration::from_secs(7));
    assert_eq!(hello.env["LITERAL"], "${COUNT}");
    assert_eq!(hello.env["A"], "x");
}

#[test]
fn a_byte_order_mark_aliases_merge_keys_and_empty_sections_are_fine() {
    let text = "\u{FEFF}services:
  a: &base
    plugin: hello.wasm
    listen: 127.0.0.1:0
    limits: { connections: 7 }
    reload:
    env:
    config:
    wasm: { dirs: , network: }
  b:
    <<: *base
    workers: 2
master:
";
    let place = Place::new();
    let config = place.accept(text);
    assert_eq!(config.services["b"].limits.connections, 7);
    assert_eq!(config.services["b"].workers, 2);
    assert_eq!(config.services["b"].config, json!({}));
    let dos = place.accept(&text.replace('\n', "\r\n"));
    assert_eq!(dos.services, config.services);
    std::fs::write(place.file(), text).expect("write");
    assert_eq!(load(&place.file()).expect("a good file"), config);
}

#[test]
fn keys_of_free_yaml_are_text_and_values_keep_their_kind() {
    let config = Place::new().accept(&with(
        "config: { 1: a, true: b, '2': ['1', 1, no, No, TRUE, 0x10, 1e3, 18446744073709551615, -9223372036854775808] }",
    ));
    assert_eq!(
        config.services["hello"].config,
        json!({
            "1": "a",
            "true": "b",
            "2": ["1", 1, "no", "No", true, 16, 1000.0, 18446744073709551615_u64, -9223372036854775808_i64],
        })
    );
}

#[test]
fn the_master_is_read_when_the_services_cannot_be() {
    let place = Place::new();
    std::fs::write(place.file(), "services: { a: { plugin: '${NONE}' } }\nmaster: { state_dir: s }\n").expect("write");
    load(&place.file()).expect_err("no such plugin");
    let master = load_master(&place.file()).expect("a good master");
    assert_eq!(master.state_dir, place.directory.path().join("s"));
    std::fs::write(place.file(), "services: 5\n").expect("write");
    let master = load_master(&place.file()).expect("a good master");
    assert_eq!(master.state_dir, place.directory.path().join(".launcher"));
}

#[test]
fn a_sandbox_that_does_not_hold_is_warned_about() {
    let config = Place::new().accept("services: {a: {plugin: native.so, listen: ':0', wasm: {memory: 1MiB}}}");
    let shown = config.warnings.to_string();
    assert!(shown.contains("warning: services.a.wasm: has no effect on a native plugin"), "{shown}");
    assert!(shown.contains("config.yaml:1:49"), "{shown}");
}

#[test]
fn root_may_name_users_and_groups_and_others_may_not() {
    let place = Place::new();
    if nix::unistd::geteuid().is_root() {
        let config = place.accept(&with("user: root"));
        let root = config.services["hello"].user.clone().expect("an identity");
        assert_eq!((root.uid, root.gid), (0, 0));
        assert!(root.groups.contains(&0));
        let config = place.accept(&with("user: 54321\ngroup: 54322"));
        let numbers = config.services["hello"].user.clone().expect("an identity");
        assert_eq!((numbers.uid, numbers.gid, numbers.groups), (54321, 54322, vec![]));
        let (line, _, problem) = place.problem(&with("user: 54321"));
        assert_eq!(line, 5);
        assert!(problem.help.is_some_and(|help| help.contains("give `group`")));
    } else {
        let (line, _, problem) = place.problem(&with("user: root"));
        assert_eq!(line, 5);
        assert!(problem.message.contains("only root"), "{problem:?}");
    }
}

#[test]
fn every_key_of_the_grammar_is_read_and_changes_what_is_meant() {
    let place = Place::new();
    let plain = place.accept(&with("build: 'true'"));
    fn keys(prefix: &[&'static str], table: &'static [Key], out: &mut Vec<(Vec<&'static str>, &'static Key)>) {
        for key in table {
            let mut path = prefix.to_vec();
            path.push(key.name);
            match key.form {
                Form::Section(inner) => keys(&path, inner, out),
                Form::Services(_) | Form::Unsupported => {}
                _ => out.push((path, key)),
            }
        }
    }
    let mut all = Vec::new();
    keys(&["service"], SERVICE, &mut all);
    keys(&[], ROOT, &mut all);
    assert!(all.len() > 30, "{}", all.len());
    for (path, key) in all {
        let nested = |path: &[&str]| {
            let open: String = path.iter().map(|name| format!("{name}: {{ ")).collect();
            format!("{open}{}: {} {}", key.name, key.example, "} ".repeat(path.len()))
        };
        let inner = &path[..path.len() - 1];
        let text = match inner.split_first() {
            Some((&"service", inner)) => {
                let mut lines = vec![nested(inner)];
                for line in ["plugin: hello.wasm", "listen: 127.0.0.1:8080", "build: 'true'"] {
                    if !line.starts_with(&format!("{}:", key.name)) {
                        lines.push(line.to_owned());
                    }
                }
                format!("services: {{ hello: {{ {} }} }}", lines.join(", "))
            }
            _ => format!(
                "services: {{ hello: {{ plugin: hello.wasm, listen: '127.0.0.1:8080', build: 'true' }} }}\n{}\n",
                nested(inner)
            ),
        };
        if matches!(key.form, Form::Account) && !nix::unistd::geteuid().is_root() {
            continue;
        }
        let config = place.accept(&text);
        let same = config.services == plain.services && config.master == plain.master;
        assert!(!same, "{}: {text}", path.join("."));
    }
}

#[test]
fn the_schema_has_the_keys_and_defaults_of_the_grammar() {
    fn compare(schema: &serde_json::Value, table: &[Key]) {
        let properties = schema["properties"].as_object().expect("properties");
        let known: Vec<&str> =
            table.iter().filter(|key| !matches!(key.form, Form::Unsupported)).map(|key| key.name).collect();
        assert_eq!(properties.len(), known.len());
        assert_eq!(schema["additionalProperties"], json!(false));
        for key in table {
            let Some(property) = properties.get(key.name) else {
                assert!(matches!(key.form, Form::Unsupported), "{}", key.name);
                continue;
            };
            assert_eq!(property["description"], json!(key.about));
            match key.form {
                Form::Section(inner) => compare(property, inner),
                Form::Services(inner) => compare(&property["additionalProperties"], inner),
                Form::Directories(inner) => compare(&property["items"], inner),
                _ => {}
            }
            let default = match &property["default"] {
                serde_json::Value::String(text) => text.clone(),
                serde_json::Value::Null => String::new(),
                other => other.to_string(),
            };
            assert_eq!(default, key.default, "{}", key.name);
        }
    }
    compare(&schema(), ROOT);
}

#[test]
fn state_without_a_writable_directory_beside_the_file_has_a_stable_place_elsewhere() {
    let place = Place::new();
    let runtime = place.directory.path();
    let find = |file: &str| super::super::places::default_state_dir(&PathBuf::from(file), Some(runtime));
    // Nothing can be made below a file, by root included.
    let one = find("/dev/null/config.yaml");
    assert!(one.starts_with(runtime), "{one:?}");
    assert_eq!(one, find("/dev/null/config.yaml"));
    assert_ne!(one, find("/dev/null/other.yaml"));
}
