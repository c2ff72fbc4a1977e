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
        bomb.push_str(&format!("      a{level}: &a{level} [{}]\n", [alias.as_str(); 9].join(", ")));
    }
    let deep = with(&format!("config: {}{}", "[".repeat(10_000), "]".repeat(10_000)));
    let deep_block: String = (0..10_000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    let cases: Vec<(&str, String, (usize, usize), &str)> = vec![
        ("unknown key", with("restrat: {}"), (5, 5), "unknown key `restrat`"),
        ("duplicate key", with("workers: 1\nworkers: 2"), (6, 5), "duplicate key `workers`"),
        ("wrong type", with("workers: many"), (5, 14), "expected a number or auto"),
        ("wrong type of a section", with("reload: [1]"), (5, 13), "expected a mapping, found a list"),
        ("bad duration", with("stop: { drain_timeout: 30 }"), (5, 28), "has no unit"),
        ("beats are slower", with("limits: { stuck_timeout: 1s }"), (5, 30), "3s is the least"),
        (
            "bad address",
            "services:\n  a:\n    plugin: hello.wasm\n    listen: 127.0.0.1:99999\n".into(),
            (4, 13),
            "the port `99999`",
        ),
        ("undefined variable", with("env: { A: '${NONE}' }"), (5, 15), "the variable `NONE` is not set"),
        (
            "missing plugin",
            "services:\n  a:\n    plugin: gone.wasm\n    listen: 127.0.0.1:80\n".into(),
            (3, 13),
            "there is no file `gone.wasm`",
        ),
        ("unclosed quote", with("user: \"www"), (5, 11), "not valid YAML"),
        ("empty file", String::new(), (1, 1), "the file is empty"),
        ("alias bomb", bomb, (0, 0), "aliases repeat too much"),
        ("deep nesting", deep, (5, 74), "nested deeper than 64 levels"),
        ("deep block nesting", deep_block, (65, 65), "nested deeper than 64 levels"),
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
        assert!(shown.contains(&format!("config.yaml:{line}:{column}")), "{what}: {shown}");
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
        assert!(shown.contains(&format!("--> {}", path.display())), "{shown}");
        load_master(&path).expect_err("not a file");
    }
    let shown = load(std::path::Path::new("/dev/zero")).expect_err("endless").to_string();
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

/// The cases of `refused.txt`: position, parts of the message and of the help, the file.
fn refused() -> Vec<(usize, usize, String, String, String)> {
    let mut cases: Vec<(usize, usize, String, String, String)> = Vec::new();
    for line in include_str!("refused.txt").lines() {
        if line.starts_with("##") {
            continue;
        }
        if let Some(head) = line.strip_prefix("@ ") {
            let mut parts = head.splitn(3, '|').map(str::trim);
            let mut part = || parts.next().expect("three parts").to_owned();
            let (position, message, help) = (part(), part(), part());
            let (row, column) = position.split_once(':').expect("LINE:COLUMN");
            let number = |text: &str| text.parse().expect("a number");
            cases.push((number(row), number(column), message, help, String::new()));
            continue;
        }
        let (.., text) = cases.last_mut().expect("a case begins with its line `@`");
        match line {
            "=" => text.push_str(&with("")),
            line => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    cases
}

#[test]
fn what_is_wrong_is_located_and_advised() {
    let place = Place::new();
    let cases = refused();
    assert!(cases.len() > 100, "{}", cases.len());
    let mut wrong = String::new();
    for (line, column, message, help, text) in cases {
        let problems = place.refuse(&text);
        let shown = problems.to_string();
        let as_promised = problems.len() == 1
            && problems.iter().all(|problem| {
                problem.message.contains(&message)
                    && problem.help.as_deref().unwrap_or_default().contains(&help)
                    && problems.position(problem) == Some((line, column))
            })
            && shown.contains(&format!("config.yaml:{line}:{column}\n"));
        if !as_promised {
            wrong.push_str(&format!("{text}\nexpected {line}:{column} {message} / {help}\n{shown}\n"));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn names_and_paths_have_a_longest_length() {
    let place = Place::new();
    let service =
        |name: &str, listen: &str| format!("services: {{ {name}: {{ plugin: hello.wasm, listen: '{listen}' }} }}");
    place.accept(&service(&"n".repeat(64), ":0"));
    let (_, column, problem) = place.problem(&service(&"n".repeat(65), ":0"));
    assert_eq!(column, 13);
    assert!(problem.help.is_some_and(|help| help.contains("1 to 64")));
    let directory = place.directory.path().as_os_str().len() + 1;
    place.accept(&service("a", &format!("unix:{}", "p".repeat(107 - directory))));
    let (_, _, problem) = place.problem(&service("a", &format!("unix:{}", "p".repeat(108 - directory))));
    assert!(problem.message.contains("108 bytes; the system allows 107"), "{problem:?}");
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
        assert!(problem.message.contains("`services.a.listen` listens there already"), "{problem:?}");
        assert!(problem.help.is_some_and(|help| help.contains("line 2, column 36")));
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
    let (_, column, problem) = place.problem("services: {a: {plugin: hello.wasm, listen: [':80', ':80']}}");
    assert_eq!(column, 52, "{problem:?}");
    assert!(problem.message.contains("`services.a.listen[0]`"), "{problem:?}");
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
    let messages: Vec<&str> = problems.iter().map(|problem| problem.message.as_str()).collect();
    assert_eq!(messages.len(), 3, "{problems}");
    for (service, message) in ["a", "b", "c"].iter().zip(messages) {
        assert!(message.starts_with(&format!("services.{service}.limits.connections: ")), "{problems}");
    }
    for problem in problems.iter() {
        assert_eq!(problems.position(problem), Some((5, 28)), "{problems}");
    }
}

#[test]
fn a_host_without_an_answer_does_not_hold_the_reader_up() {
    let hosts: String =
        (0..20).map(|n| format!("  s{n}: {{ plugin: hello.wasm, listen: 'no-such-host-{n}.invalid:80' }}\n")).collect();
    let started = Instant::now();
    let problems = Place::new().refuse(&format!("services:\n{hosts}"));
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(problems.len(), 20, "{problems}");
}

#[test]
fn a_hostile_file_is_refused_quickly() {
    let place = Place::new();
    let many_keys: String = (0..20_000).map(|n| format!("k{n}: 1\n")).collect();
    let long_line = format!("services: {{ a: '{}', b: 1 }}\n", "x".repeat(1 << 20));
    let merges: String = (0..2000).map(|n| format!("    k{n}: {{ <<: *base }}\n")).collect();
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
        assert!(started.elapsed() < Duration::from_secs(2), "{start}: {:?}", started.elapsed());
        assert!(shown.contains("config.yaml:"), "{start}: {}", &shown[..shown.len().min(2000)]);
    }
}

#[test]
fn control_characters_of_the_file_do_not_reach_the_terminal() {
    let shown = Place::new().refuse(&with("\"\\e[31mred\": 1\nuser: \"\\a\"")).to_string();
    assert!(!shown.chars().any(|char| char.is_control() && char != '\n'), "{shown:?}");
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
