//! Who may import whom. The parts stay apart because this test reads every `use` and every path of the source.

use std::fs;
use std::path::{Path, PathBuf};

/// A part of the crate, the parts of the crate that it may name, and why.
const RULES: &[(&str, &[&str], &str)] = &[
    ("master/pool", &[], "the pool is pure: it decides without a clock, a pid or a system call"),
    ("config", &[], "what a configuration means does not depend on who runs it"),
    ("api", &[], "the contract knows neither of its sides"),
    ("sys", &[], "a mechanism of the system knows no service"),
    ("channel", &["sys"], "the border knows neither of its sides"),
    ("plugin_file", &["channel", "sys", "worker"], "what a plugin is; its kinds live beside the code that loads them"),
    ("keeping", &[], "the protocol knows neither of its sides"),
    ("keeper", &["keeping", "sys"], "the keeper knows neither services nor configurations: it must not die of them"),
    ("master", &["api", "channel", "config", "keeping", "sys"], "the master and its workers are different processes"),
    ("worker", &["channel", "plugin_file", "sys"], "a worker never reads the configuration"),
    ("embedded", &["api", "config", "master"], "a program gives orders as the control API does, and is no worker"),
    ("new", &[], "a project is written without a launcher that runs"),
    ("reference", &["config"], "the pages come from what parses, and from nothing that runs"),
    ("cli", &["api", "config", "sys"], "the command line knows a master by what it says, and never reaches into one"),
];

/// The prefixes of paths into the crate: the binary names the library by its name.
const OWN: &[&str] = &["crate::", "launcher::"];

/// Crates that make system calls, and who may use them.
const SYSTEM: &[&str] = &["libc", "nix", "rustix"];
const MAY_CALL_THE_SYSTEM: &[&str] = &[
    "sys",
    "channel",
    // Users, groups and permissions: looked up while a file is read, and `config` imports nothing of the crate.
    "config/identity",
    "config/places",
    "config/tests",
    "worker/http/tests",
];

/// Crates that the pool may not even use; it has `std` alone.
const OUTSIDE_STD: &[&str] = &["tokio", "serde", "serde_json", "hyper", "http", "libc", "nix", "rustix", "wasm_host"];

/// What a pool remembers is data, and derives its written form.
const WRITTEN_DOWN: &str = "master/pool/snapshot.rs";

const TESTS_OF_THE_POOL: &[&str] = &["master/pool/histories", "master/pool/promises", "master/pool/world"];

fn sources() -> Vec<(String, String)> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).expect("the source is here").map(|entry| entry.expect("readable").path()) {
            if entry.is_dir() {
                walk(&entry, found);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                found.push(entry);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    let name = |path: &Path| path.strip_prefix(&root).expect("below").to_string_lossy().into_owned();
    files.iter().map(|path| (name(path), code(&fs::read_to_string(path).expect("readable")))).collect()
}

/// The source without its comments, which may name whom they like.
fn code(source: &str) -> String {
    source.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn belongs(file: &str, part: &str) -> bool {
    file.strip_prefix(part).is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
}

/// The first segments that follow `prefix` anywhere in the code: `crate::a::b` and `crate::{a, b::c}`.
fn named_after(code: &str, prefix: &str) -> Vec<String> {
    let identifier =
        |text: &str| text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut names = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        let preceded = code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':');
        if preceded {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            None => names.push(identifier(rest)),
            Some(group) => {
                let (mut depth, mut start) = (0, 0);
                for (index, character) in group.char_indices() {
                    match character {
                        '{' => depth += 1,
                        '}' if depth == 0 => {
                            names.push(identifier(&group[start..index]));
                            break;
                        }
                        '}' => depth -= 1,
                        ',' if depth == 0 => {
                            names.push(identifier(&group[start..index]));
                            start = index + 1;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

#[test]
fn the_parts_import_only_whom_they_may() {
    let mut breaches = Vec::new();
    for (file, code) in sources() {
        let Some((part, allowed, why)) = RULES.iter().find(|(part, ..)| belongs(&file, part)) else { continue };
        let own = part.split('/').next().expect("a first segment");
        for name in OWN.iter().flat_map(|prefix| named_after(&code, prefix)) {
            if name != own && !allowed.contains(&name.as_str()) {
                breaches.push(format!("src/{file} names crate::{name}, but {why}"));
            }
        }
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn the_pool_needs_the_standard_library_alone() {
    for (file, code) in sources().iter().filter(|(file, _)| belongs(file, "master/pool")) {
        if TESTS_OF_THE_POOL.iter().any(|part| belongs(file, part)) {
            continue; // they draw their histories with proptest, and start somewhere in time
        }
        for outside in OUTSIDE_STD.iter().filter(|outside| !(**outside == "serde" && file == WRITTEN_DOWN)) {
            assert!(named_after(code, &format!("{outside}::")).is_empty(), "src/{file} uses {outside}");
        }
        assert!(!code.contains("Instant::now"), "src/{file} reads the clock: it is given the time");
    }
}

#[test]
fn system_calls_are_made_where_the_mechanisms_live() {
    let mut breaches = Vec::new();
    for (file, code) in sources() {
        if MAY_CALL_THE_SYSTEM.iter().any(|part| belongs(&file, part)) {
            continue;
        }
        for system in SYSTEM {
            if !named_after(&code, &format!("{system}::")).is_empty() {
                breaches.push(format!("src/{file} uses {system}: give the mechanism a file in sys/"));
            }
        }
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn the_reader_of_imports_sees_them() {
    let code = "use crate::sys::x;\nuse crate::{config::{A, B}, master};\nlet y = crate::channel::Z; mycrate::worker;";
    assert_eq!(named_after(code, "crate::"), ["sys", "config", "master", "channel"]);
}
