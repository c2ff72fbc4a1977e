//! Promises of the configuration, on whole files.

mod bad;
mod good;

use std::path::PathBuf;

use super::{Config, Diagnostic, Diagnostics, load_text};

/// A directory with a plugin of each kind, in which a configuration is read.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for name in ["hello.wasm", "other.wasm", "text.wat", "native.so"] {
            std::fs::write(directory.path().join(name), "").expect("write a plugin");
        }
        Self { directory }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("config.yaml")
    }

    fn read(&self, text: &str) -> Result<Config, Diagnostics> {
        load_text(&self.file(), text, &variables)
    }

    fn accept(&self, text: &str) -> Config {
        self.read(text).unwrap_or_else(|problems| panic!("{text}\n{problems}"))
    }

    fn refuse(&self, text: &str) -> Diagnostics {
        match self.read(text) {
            Ok(config) => panic!("was accepted:\n{text}\n{config:?}"),
            Err(problems) => problems,
        }
    }

    /// Where the only problem is, and what it says.
    fn problem(&self, text: &str) -> (usize, usize, Diagnostic) {
        let problems = self.refuse(text);
        assert_eq!(problems.len(), 1, "{text}\n{problems}");
        let problem = problems.iter().next().expect("one problem").clone();
        let (line, column) = problems.position(&problem).expect("a position");
        (line, column, problem)
    }
}

fn variables(name: &str) -> Option<String> {
    match name {
        "PORT" => Some("8123".to_owned()),
        "COUNT" => Some("7".to_owned()),
        "TRUE" => Some("true".to_owned()),
        _ => None,
    }
}

/// A service `hello` with further lines, each of which is a key of it.
fn with(lines: &str) -> String {
    let mut text = String::from("services:\n  hello:\n    plugin: hello.wasm\n    listen: 127.0.0.1:8080\n");
    for line in lines.lines() {
        text.push_str("    ");
        text.push_str(line);
        text.push('\n');
    }
    text
}
