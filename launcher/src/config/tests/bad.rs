//! What is refused, where the diagnostic points, and what it advises.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::{load, load_master, load_text};
use super::{Place, variables, with};

/// The bad configurations that everybody makes, with the line and column of each.
#[test]
fn thirteen_bad_configurations_are_located_within_two_seconds() {
    let mut bomb = String::from(
        "services:\n  hello:\n    plugin: hello.wasm\n    listen: 127.0.0.1:8080\n    config:\n      a0: &a0 [x, x, x, x, x, x, x, x, x]\n",
    );
    for level in 1..12 {
        let before = level - 1;
        let alias = format!("*a{before}");
        bomb.push_str(&format!(
            "      a{level}: &a{level} [{}]\n",
            [alias.as_str(); 9].join(", ")
        ));
    }
    let deep = with(&format!(
        "config: {}{}",
        "[".repeat(10_000),
        "]".repeat(10_000)
    ));
    let deep_block: String = (0..10_000)
        .map(|depth| format!("{}a:\n", " ".repeat(depth)))
        .collect();
    let cases: Vec<(&str, String, (usize, usize), &str)> = vec![
        (
            "unknown key",
            with("restrat: {}"),
            (5, 5),
            "unknown key `restrat`",
        ),
        (
            "duplicate key",
            with("workers: 1\nworkers: 2"),
            (6, 5),
            "duplicate key `workers`",
        ),
        (
            "wrong type",
            with("workers: many"),
            (5, 14),
            "expected a number or auto",
        ),
        (
            "wrong type of a section",
            with("reload: [1]"),
            (5, 13),
            "expected a mapping, found a list",
        ),
        (
            "bad duration",
            with("stop: { drain_timeout: 30 }"),
            (5, 28),
            "has no unit",
        ),
        (
            "bad address",
            "services:\n  a:\n    plugin: hello.wasm\n    listen: 127.0.0.1:99999\n".into(),
            (4, 13),
            "the port `99999`",
        ),
        (
            "undefined variable",
            with("env: { A: '${NONE}' }"),
            (5, 15),
            "the variable `NONE` is not set",
        ),
        (
            "missing plugin",
            "services:\n  a:\n    plugin: gone.wasm\n    listen: 127.0.0.1:80\n".into(),
            (3, 13),
            "there is no file `gone.wasm`",
        ),
        (
            "unclosed quote",
            with("user: \"www"),
            (5, 11),
            "not valid YAML",
        ),
        ("empty file", String::new(), (1, 1), "the file is empty"),
        ("alias bomb", bomb, (0, 0), "aliases repeat too much"),
        (
            "deep nesting",
            deep,
            (5, 74),
            "nested deeper than 64 levels",
        ),
        (
            "deep block nesting",
            deep_block,
            (65, 65),
            "nested deeper than 64 levels",
        ),
    ];
    let place = Place::new();
    for (what, text, position, message) in &cases {
        let started = Instant::now();
        let (line, column, problem) = place.problem(text);
        let shown = place.refuse(text).to_string();
        let took = started.elapsed();
        assert!(problem.message.contains(message), "{what}: {shown}");
        if *position != (0, 0) {
            assert_eq!((line, column), *position, "{what}: {shown}");
        }
        assert!(
            shown.contains(&format!("config.yaml:{line}:{column}")),
            "{what}: {shown}"
        );
        assert!(took < Duration::from_secs(2), "{what} took {took:?}");
    }
}

#[test]
fn a_byte_that_is_not_utf8_is_located() {
    let place = Place::new();
    let file = place.file();
    std::fs::write(&file, b"services:\n  h\xC3\xA9: \xFFx\n").expect("write");
    let problems = load(&file).expect_err("not UTF-8");
    let shown = problems.to_string();
    assert!(shown.contains("byte 0xff"), "{shown}");
    assert!(shown.contains("config.yaml:2:7"), "{shown}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let place = Place::new();
    for path in [place.file(), place.directory.path().to_owned()] {
        let shown = load(&path).expect_err("not a file").to_string();
        assert!(shown.contains("cannot be read"), "{shown}");
        assert!(
            shown.contains(&format!("--> {}", path.display())),
            "{shown}"
        );
        load_master(&path).expect_err("not a file");
    }
    let shown = load(std::path::Path::new("/dev/zero"))
        .expect_err("endless")
        .to_string();
    assert!(shown.contains("larger than 8MiB"), "{shown}");
}

#[test]
fn all_problems_are_shown_at_once() {
    let text = "services:
  a:
    plugin: hello.wasm
    listen: 127.0.0.1:80
    restrat: {}
    env: { X: '${NONE}' }
  b:
    plugin: gone.wasm
    listen: 127.0.0.1:81
    stop: { drain_timeout: 30sec }
    stop: {}
master:
  log: { level: loud }
";
    let problems = Place::new().refuse(text);
    let shown = problems.to_string();
    for expected in [
        "config.yaml:5:5",
        "did you mean `restart`?",
        "config.yaml:6:15",
        "config.yaml:8:13",
        "config.yaml:10:28",
        "did you mean `30s`?",
        "config.yaml:11:5",
        "config.yaml:13:17",
    ] {
        assert!(shown.contains(expected), "{expected}:\n{shown}");
    }
    assert_eq!(problems.len(), 6, "{shown}");
    let styled = problems.render(true);
    assert!(styled.contains("\u{1b}["), "{styled}");
    assert!(!shown.contains('\u{1b}'), "{shown}");
}

#[test]
fn what_is_wrong_is_located_and_advised() {
    let place = Place::new();
    let long_name = "n".repeat(65);
    let long_path = "p".repeat(200);
    let cases: &[(&str, (usize, usize), &str, &str)] = &[
        // The file as a whole.
        (
            "# nothing\n",
            (1, 1),
            "the file is empty",
            "the smallest configuration",
        ),
        ("---\n...\n", (1, 1), "the file is empty", ""),
        (
            "[]\n",
            (1, 1),
            "expected a mapping with the key `services`",
            "",
        ),
        (
            "text\n",
            (1, 1),
            "expected a mapping with the key `services`",
            "",
        ),
        (
            "master: {}\n",
            (1, 1),
            "`services` is missing",
            "the smallest configuration",
        ),
        ("services:\n", (1, 1), "`services` is empty", ""),
        ("services: {}\n", (1, 11), "`services` is empty", ""),
        (
            "services: []\n",
            (1, 11),
            "expected a mapping from names to services",
            "",
        ),
        ("services:\n  a: text\n", (2, 6), "expected a mapping", ""),
        (
            "serivces: {}\nservices: {a: {plugin: hello.wasm, listen: ':80'}}\n",
            (1, 1),
            "unknown key `serivces`",
            "did you mean `services`?",
        ),
        // Names.
        (
            "services: {'a b': {plugin: hello.wasm, listen: ':80'}}\n",
            (1, 12),
            "`a b` is not a name",
            "letters, digits",
        ),
        (
            "services: {'': {plugin: hello.wasm, listen: ':80'}}\n",
            (1, 12),
            "`` is not a name",
            "",
        ),
        (
            &format!("services: {{{long_name}: {{plugin: hello.wasm, listen: ':80'}}}}\n"),
            (1, 12),
            "is not a name",
            "1 to 64",
        ),
        // Plugins.
        (
            "services: {a: {plugin: hello.exe, listen: ':80'}}\n",
            (1, 24),
            "no kind of plugin",
            ".wasm, .wat and .so",
        ),
        (
            "services: {a: {plugin: helo.wasm, listen: ':80'}}\n",
            (1, 24),
            "there is no file `helo.wasm`",
            "did you mean `hello.wasm`?",
        ),
        (
            "services: {a: {plugin: 5, listen: ':80'}}\n",
            (1, 24),
            "expected a text, found the number `5`",
            "quote it: \"5\"",
        ),
        (
            "services: {a: {plugin: '', listen: ':80'}}\n",
            (1, 24),
            "is empty",
            "",
        ),
        (
            "services: {a: {listen: ':80'}}\n",
            (1, 12),
            "services.a.plugin: is missing",
            "plugin: ",
        ),
        (
            "services: {a: {plugin: hello.wasm}}\n",
            (1, 12),
            "services.a.listen: is missing",
            "listen: ",
        ),
        // Addresses.
        (
            "services: {a: {plugin: hello.wasm, listen: 8080}}\n",
            (1, 44),
            "the number `8080`",
            "did you mean `127.0.0.1:8080`?",
        ),
        (
            "services: {a: {plugin: hello.wasm, listen: '8080'}}\n",
            (1, 44),
            "is not HOST:PORT",
            "did you mean `127.0.0.1:8080`?",
        ),
        (
            "services: {a: {plugin: hello.wasm, listen: localhost}}\n",
            (1, 44),
            "is not HOST:PORT",
            "did you mean `localhost:8080`?",
        ),
        (
            "services: {a: {plugin: hello.wasm, listen: '::1:80'}}\n",
            (1, 44),
            "is not HOST:PORT",
            "did you mean `[::1]:80`?",
        ),
        (
            "services: {a: {plugin: hello.wasm, listen: '999.1.1.1:80'}}\n",
            (1, 44),
            "not an IPv4 address",
            "",
        ),
        (
            "services: {a: {plugin: hello.wasm, listen: '127.1:80'}}\n",
            (1, 44),
            "not an IPv4 address",
            "",
        ),
        (
            "services: {a: {plugin: hello.wasm, listen: 'a:b'}}\n",
            (1, 44),
            "the port `b` is not a number",
            "",
        ),
        (
            "services: {a: {plugin: hello.wasm, listen: 'a:+80'}}\n",
            (1, 44),
            "the port `+80` is not a number",
            "",
        ),
        (
            "services: {a: {plugin: hello.wasm, listen: 'ho st:80'}}\n",
            (1, 44),
            "is not a host's name",
            "",
        ),
        (
            "services: {a: {plugin: hello.wasm, listen: 'http://127.0.0.1:80'}}\n",
            (1, 44),
            "is not an address",
            "tcp://",
        ),
        (
            "services: {a: {plugin: hello.wasm, listen: 'udp://127.0.0.1:80'}}\n",
            (1, 44),
            "not supported by this version",
            "",
        ),
        (
            "services: {a: {plugin: hello.wasm, listen: 'fd://web'}}\n",
            (1, 44),
            "not supported by this version",
            "",
        ),
        (
            "services: {a: {plugin: hello.wasm, listen: 'unix:'}}\n",
            (1, 44),
            "has no path",
            "",
        ),
        (
            "services: {a: {plugin: hello.wasm, listen: 'unix:@abstract'}}\n",
            (1, 44),
            "abstract",
            "",
        ),
        (
            "services: {a: {plugin: hello.wasm, listen: 'unix:a?mode=999'}}\n",
            (1, 44),
            "not the mode of a file",
            "0660",
        ),
        (
            "services: {a: {plugin: hello.wasm, listen: 'unix:a?moed=0660'}}\n",
            (1, 44),
            "unknown parameter `moed`",
            "did you mean `mode`?",
        ),
        (
            &format!("services: {{a: {{plugin: hello.wasm, listen: 'unix:{long_path}'}}}}\n"),
            (1, 44),
            "the system allows 107",
            "",
        ),
        (
            "services: {a: {plugin: hello.wasm, listen: []}}\n",
            (1, 44),
            "is empty",
            "",
        ),
        (
            "services: {a: {plugin: hello.wasm, listen: }}\n",
            (1, 36),
            "found nothing",
            "",
        ),
        (
            "services: {a: {plugin: hello.wasm, listen: [{name: x}]}}\n",
            (1, 45),
            "listen[0].address: is missing",
            "",
        ),
        (
            "services: {a: {plugin: hello.wasm, listen: [{nmae: x, address: ':1'}]}}\n",
            (1, 46),
            "unknown key `nmae`",
            "did you mean `name`?",
        ),
        (
            "services: {a: {plugin: hello.wasm, listen: [{name: 'a:b', address: ':1'}]}}\n",
            (1, 52),
            "`a:b` is not a name",
            "",
        ),
        (
            "services: {a: {plugin: hello.wasm, listen: [{name: a, address: ':1'}, {name: a, address: ':2'}]}}\n",
            (1, 90),
            "the name `a` is given twice",
            "",
        ),
        (
            "services:\n  a:\n    plugin: hello.wasm\n    listen: *:8080\n",
            (4, 13),
            "an alias to an anchor that does not exist",
            "\"*:8080\"",
        ),
        (
            "services:\n  a:\n    plugin: hello.wasm\n    listen: [::1]:8080\n",
            (4, 18),
            "not valid YAML",
            "\"[::1]:8080\"",
        ),
        // Sections.
        (
            &with("drain_timeout: 3s"),
            (5, 5),
            "unknown key `drain_timeout`",
            "`drain_timeout` belongs under `stop`",
        ),
        (
            &with("reload: { ready-timeout: 3s }"),
            (5, 15),
            "unknown key `ready-timeout` in `services.hello.reload`",
            "did you mean `ready_timeout`?",
        ),
        (
            &with("zzz: 1"),
            (5, 5),
            "unknown key `zzz`",
            "known keys: plugin, build",
        ),
        (
            &with("sandbox: {}"),
            (5, 5),
            "services.hello.sandbox: not supported by this version",
            "",
        ),
        (
            &with("rlimits: {}"),
            (5, 5),
            "not supported by this version",
            "",
        ),
        (
            &with("balance: connections"),
            (5, 14),
            "not supported by this version",
            "use `requests`",
        ),
        (
            &with("balance: request"),
            (5, 14),
            "expected `requests`",
            "did you mean `requests`?",
        ),
        (
            &with("workers: 0"),
            (5, 14),
            "must be at least 1, found 0",
            "",
        ),
        (
            &with("workers: -1"),
            (5, 14),
            "must be at least 1, found -1",
            "",
        ),
        (&with("workers: 5000"), (5, 14), "must be at most 1024", ""),
        (
            &with("workers: '4'"),
            (5, 14),
            "expected a number or auto",
            "remove the quotes",
        ),
        (&with("workers: 1.5"), (5, 14), "found the number `1.5`", ""),
        (&with("workers:"), (5, 5), "found nothing", ""),
        (
            &with("workers: ${NONE:-0}"),
            (5, 14),
            "must be at least 1",
            "",
        ),
        (
            &with("reload: { watch: yes }"),
            (5, 22),
            "expected true or false",
            "did you mean `true`?",
        ),
        (
            &with("reload: { surge: 0 }"),
            (5, 22),
            "must be at least 1",
            "",
        ),
        (
            &with("reload: { ready_timeout: 0s }"),
            (5, 30),
            "must be longer than zero",
            "",
        ),
        (
            &with("restart: { backoff: 30s..100ms }"),
            (5, 25),
            "the shortest delay is longer than the longest",
            "",
        ),
        (
            &with("restart: { backoff: 30s }"),
            (5, 25),
            "not a range of durations",
            "100ms..30s",
        ),
        (
            &with("restart: { backoff: 0s..1s }"),
            (5, 25),
            "longer than zero",
            "",
        ),
        (
            &with("restart: { budget: 0/60s }"),
            (5, 24),
            "would never let a worker start again",
            "",
        ),
        (
            &with("restart: { budget: 5/0s }"),
            (5, 24),
            "would never let a worker start again",
            "",
        ),
        (
            &with("restart: { budget: 5 }"),
            (5, 24),
            "not a number in a time",
            "5/60s",
        ),
        (
            &with("restart: { budget: 5/60 }"),
            (5, 24),
            "has no unit",
            "did you mean `60s`?",
        ),
        (
            &with("limits: { memory: 64 }"),
            (5, 23),
            "has no unit",
            "did you mean `64MiB`?",
        ),
        (
            &with("limits: { memory: true }"),
            (5, 23),
            "expected a size",
            "",
        ),
        (
            &with("limits: { memory: 10B }"),
            (5, 23),
            "must be at least 1024KiB",
            "",
        ),
        (
            &with("limits: { connections: 0 }"),
            (5, 28),
            "must be at least 1",
            "",
        ),
        (
            &with("limits: { request_timeout: 0s }"),
            (5, 32),
            "must be longer than zero",
            "",
        ),
        (
            &with("limits: { max_requests: -1 }"),
            (5, 29),
            "must be at least 0",
            "",
        ),
        (
            &with("env: [A=1]"),
            (5, 10),
            "expected a mapping, found a list",
            "",
        ),
        (
            &with("env: { A: [1] }"),
            (5, 15),
            "services.hello.env.A: expected a single value, found a list",
            "",
        ),
        (&with("env: { A: }"), (5, 12), "found nothing", "write \"\""),
        (
            &with("env: { A=B: 1 }"),
            (5, 12),
            "`A=B` is not a variable's name",
            "",
        ),
        (
            &with("config: { a: [.inf] }"),
            (5, 19),
            "services.hello.config.a[0]: the number `.inf` is out of range",
            "",
        ),
        (
            &with("config: { a: { b: '${NONE}' } }"),
            (5, 23),
            "the variable `NONE` is not set",
            "${NONE:-default}",
        ),
        (
            &with("config: { a: { b: 1, b: 2 } }"),
            (5, 26),
            "duplicate key `b`",
            "line 5, column 20",
        ),
        (
            &with("wasm: { dirs: [{ host: gone, guest: /d }] }"),
            (5, 28),
            "there is no directory `gone`",
            "",
        ),
        (
            &with("wasm: { dirs: [{ host: hello.wasm, guest: /d }] }"),
            (5, 28),
            "is not a directory",
            "",
        ),
        (
            &with("wasm: { dirs: [{ host: . }] }"),
            (5, 20),
            "dirs[0].guest: is missing",
            "",
        ),
        (
            &with("wasm: { dirs: [{ host: ., guest: /d, mode: r }] }"),
            (5, 48),
            "expected one of ro, rw",
            "",
        ),
        (
            &with("wasm: { dirs: [{ host: ., guest: /d }, { host: ., guest: /d }] }"),
            (5, 62),
            "`/d` is given twice",
            "",
        ),
        (
            &with("wasm: { dirs: [.] }"),
            (5, 20),
            "expected a mapping with `host` and `guest`",
            "",
        ),
        (
            &with("wasm: { network: [example.com] }"),
            (5, 23),
            "is not HOST:PORT",
            "",
        ),
        (
            &with("wasm: { network: ['*:443'] }"),
            (5, 23),
            "names no host",
            "",
        ),
        (
            &with("wasm: { network: ['a:0'] }"),
            (5, 23),
            "no port 0",
            "",
        ),
        (
            &with("wasm: { network: 'a:1' }"),
            (5, 22),
            "expected a list",
            "",
        ),
        (
            &with("wasm: { reuse: 0 }"),
            (5, 20),
            "must be at least 1",
            "",
        ),
        (
            &with("user: no-such-user-here"),
            (5, 11),
            "there is no user `no-such-user-here`",
            "",
        ),
        (
            &with("group: no-such-group-here"),
            (5, 12),
            "there is no group `no-such-group-here`",
            "",
        ),
        (
            &with("user: -1"),
            (5, 11),
            "no account has the number -1",
            "",
        ),
        (
            &with("user: 4294967295"),
            (5, 11),
            "no account has the number",
            "",
        ),
        (
            &with("user: [a]"),
            (5, 11),
            "expected a name or a number",
            "",
        ),
        (
            &format!("{}master: {{ admin: nowhere }}\n", with("")),
            (5, 18),
            "is not HOST:PORT",
            "",
        ),
        (
            &format!("{}master: {{ admin: '127.0.0.1:8080' }}\n", with("")),
            (5, 18),
            "`services.hello.listen` listens there already",
            "line 4, column 13",
        ),
        (
            &format!("{}master: {{ log: {{ format: xml }} }}\n", with("")),
            (5, 26),
            "expected one of pretty, json",
            "",
        ),
        (
            &format!("{}master: {{ state_dir: hello.wasm }}\n", with("")),
            (5, 22),
            "is not a directory",
            "",
        ),
        (
            &format!("{}master: []\n", with("")),
            (5, 9),
            "expected a mapping",
            "",
        ),
        // YAML.
        (
            &format!("{}---\n{}", with(""), with("")),
            (5, 1),
            "more than one YAML document",
            "`---`",
        ),
        (
            &with("config: { a: *none }"),
            (5, 18),
            "an alias to an anchor that does not exist",
            "",
        ),
        (&with("config: !custom 5"), (5, 13), "not valid YAML", ""),
        (&with("? [a, b]\n: 1"), (5, 7), "", ""),
        (&with("? ~\n: 1"), (5, 7), "a key must be a text", ""),
        (
            "services:\n\ta: 1\n",
            (2, 2),
            "not valid YAML",
            "never with tabs",
        ),
        (
            "services: {a: {plugin: hello.wasm, listen: ':80'}\n",
            (1, 11),
            "not valid YAML",
            "",
        ),
    ];
    let mut wrong = String::new();
    for (text, position, message, help) in cases {
        let problems = place.refuse(text);
        let shown = problems.to_string();
        let as_promised = problems.len() == 1
            && problems.iter().all(|problem| {
                problem.message.contains(message)
                    && problem.help.as_deref().unwrap_or_default().contains(help)
                    && problems.position(problem) == Some(*position)
            })
            && shown.contains(&format!("config.yaml:{}:{}\n", position.0, position.1));
        if !as_promised {
            wrong.push_str(&format!(
                "{text}\nexpected {position:?} {message} / {help}\n{shown}\n"
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn two_that_would_listen_at_one_place_are_refused() {
    let place = Place::new();
    let pair = |one: &str, other: &str| {
        format!(
            "services:\n  a: {{ plugin: hello.wasm, listen: '{one}' }}\n  b: {{ plugin: hello.wasm, listen: '{other}' }}\n"
        )
    };
    for (one, other) in [
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("127.0.0.1:80", "localhost:80"),
        ("127.0.0.1:80", "tcp://127.0.0.1:80"),
        ("0.0.0.0:80", "127.0.0.1:80"),
        ("127.0.0.1:80", "0.0.0.0:80"),
        ("[::]:80", "127.0.0.1:80"),
        ("[::1]:80", "[::]:80"),
        ("127.0.0.1:80", "[::]:80"),
        ("*:80", "*:80"),
        ("unix:x.sock", "unix:./x.sock?mode=0600"),
    ] {
        let (line, column, problem) = place.problem(&pair(one, other));
        assert_eq!((line, column), (3, 36), "{one} {other}");
        assert!(
            problem
                .message
                .contains("`services.a.listen` listens there already"),
            "{problem:?}"
        );
        assert!(
            problem
                .help
                .is_some_and(|help| help.contains("line 2, column 36"))
        );
    }
    for (one, other) in [
        ("127.0.0.1:80", "127.0.0.1:81"),
        ("127.0.0.1:80", "127.0.0.2:80"),
        ("127.0.0.1:80", "[::1]:80"),
        ("0.0.0.0:80", "[::1]:80"),
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("*:0", "*:0"),
        ("unix:x.sock", "unix:y.sock"),
    ] {
        place.accept(&pair(one, other));
    }
    let (_, column, problem) =
        place.problem("services: {a: {plugin: hello.wasm, listen: [':80', ':80']}}");
    assert_eq!(column, 52, "{problem:?}");
    assert!(
        problem.message.contains("`services.a.listen[0]`"),
        "{problem:?}"
    );
}

#[test]
fn a_problem_behind_an_alias_is_shown_where_it_is_written_for_each_service() {
    let text = "services:
  a: &base
    plugin: hello.wasm
    listen: 127.0.0.1:0
    limits: { connections: none }
  b: *base
  c:
    <<: *base
    workers: 2
";
    let problems = Place::new().refuse(text);
    let messages: Vec<&str> = problems
        .iter()
        .map(|problem| problem.message.as_str())
        .collect();
    assert_eq!(messages.len(), 3, "{problems}");
    for (service, message) in ["a", "b", "c"].iter().zip(messages) {
        assert!(
            message.starts_with(&format!("services.{service}.limits.connections: ")),
            "{problems}"
        );
    }
    for problem in problems.iter() {
        assert_eq!(problems.position(problem), Some((5, 28)), "{problems}");
    }
}

#[test]
fn a_host_without_an_answer_does_not_hold_the_reader_up() {
    let hosts: String = (0..20)
        .map(|n| {
            format!("  s{n}: {{ plugin: hello.wasm, listen: 'no-such-host-{n}.invalid:80' }}\n")
        })
        .collect();
    let started = Instant::now();
    let problems = Place::new().refuse(&format!("services:\n{hosts}"));
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(problems.len(), 20, "{problems}");
}

#[test]
fn a_hostile_file_is_refused_quickly() {
    let place = Place::new();
    let many_keys: String = (0..20_000).map(|n| format!("k{n}: 1\n")).collect();
    let long_line = format!("services: {{ a: '{}', b: 1 }}\n", "x".repeat(1 << 20));
    let merges: String = (0..2000)
        .map(|n| format!("    k{n}: {{ <<: *base }}\n"))
        .collect();
    let wide: String = (0..1000).map(|n| format!("b{n}: 1, ")).collect();
    let merges = with(&format!("config:\n  base: &base {{ {wide} }}\n")) + &merges;
    for text in [
        many_keys,
        long_line,
        merges,
        "&a ".repeat(100_000),
        "- ".repeat(100_000),
        "? ".repeat(100_000),
        "{a: ".repeat(100_000),
        "\"".repeat(100_001),
        "a: |\n".to_owned() + &" \n".repeat(100_000),
        "&a [*a]\n".to_owned(),
        "a: &a { b: *a }\n".to_owned(),
        "<<: &a { <<: *a }\n".to_owned(),
        "!".repeat(100_000),
        "%".repeat(100_000),
        "\u{0}".to_owned(),
    ] {
        let started = Instant::now();
        let problems = place.refuse(&text);
        let shown = problems.to_string();
        let start: String = text.chars().take(20).collect();
        assert!(
            started.elapsed() < Duration::from_secs(2),
            "{start}: {:?}",
            started.elapsed()
        );
        assert!(
            shown.contains("config.yaml:"),
            "{start}: {}",
            &shown[..shown.len().min(2000)]
        );
    }
}

#[test]
fn control_characters_of_the_file_do_not_reach_the_terminal() {
    let shown = Place::new()
        .refuse(&with("\"\\e[31mred\": 1\nuser: \"\\a\""))
        .to_string();
    assert!(
        !shown.chars().any(|char| char.is_control() && char != '\n'),
        "{shown:?}"
    );
}

/// Fragments that make a random text look like a configuration more often than letters do.
fn fragments() -> impl Strategy<Value = String> {
    let fragment = prop_oneof![
        prop::sample::select(vec![
            "services",
            "master",
            "hello",
            "plugin",
            "listen",
            "workers",
            "env",
            "config",
            "reload",
            "restart",
            "stop",
            "limits",
            "wasm",
            "user",
            "dirs",
            "network",
            "log",
            ": ",
            ":\n",
            "\n",
            "\n  ",
            "\n    ",
            "- ",
            "{",
            "}",
            "[",
            "]",
            ", ",
            "&a ",
            "*a",
            "<<: ",
            "${",
            "}",
            ":-",
            "\"",
            "'",
            "|\n",
            ">\n",
            "#",
            "!!str ",
            "~",
            "é",
            "\u{FEFF}",
            "hello.wasm",
            "127.0.0.1:80",
            "unix:",
            "30",
            "30s",
            "1..2",
            "5/",
            "64MiB",
            "-1",
            "1e999",
            ".inf",
            "0x10",
        ])
        .prop_map(str::to_owned),
        "[ -~]{0,3}",
    ];
    prop::collection::vec(fragment, 0..60).prop_map(|fragments| fragments.concat())
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in ".*") {
        let place = std::path::Path::new("/nowhere/config.yaml");
        if let Err(problems) = load_text(place, &text, &variables) {
            prop_assert!(!problems.render(true).is_empty());
        }
    }

    #[test]
    fn any_mixture_of_fragments_is_read_or_refused(text in fragments()) {
        let place = std::path::Path::new("/nowhere/config.yaml");
        if let Err(problems) = load_text(place, &text, &variables) {
            prop_assert!(problems.to_string().contains("/nowhere/config.yaml:"), "{problems}");
        }
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Err((text, problem)) = super::super::written::decode(&bytes) {
            let problems = super::super::Diagnostics::new("c.yaml", text, vec![problem]);
            prop_assert!(problems.to_string().contains("c.yaml:"));
        }
    }

    #[test]
    fn any_scalar_in_any_place_is_read_or_refused(key in 0..12_usize, value in "[ -~]{0,12}") {
        let keys = [
            "workers: ", "plugin: ", "listen: ", "env: ", "user: ", "build: ", "config: ", "balance: ",
            "reload: { settle: ", "limits: { memory: ", "restart: { backoff: ", "restart: { budget: ",
        ];
        let place = std::path::Path::new("/nowhere/config.yaml");
        let close = if keys[key].contains('{') { " }" } else { "" };
        let text = format!("services:\n  a:\n    {}{value}{close}\n", keys[key]);
        prop_assert!(load_text(place, &text, &variables).is_err());
    }
}
