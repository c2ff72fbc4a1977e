//! A configuration that a program has put together as values. It becomes the tree that a file is parsed to, so that the
//! same reader holds it against the same grammar and says the same of it; nothing is expanded in it.
//!
//! The tree's text is JSON of our own writing: it is what messages point into and what is shown as the configuration in
//! force.

use std::path::Path;

use serde_json::Value as Json;

use super::diagnostics::{Diagnostic, Diagnostics, quoted};
use super::document::mean;
use super::written::{DEPTH, Entry, Node, Value};
use super::{Config, reader};

/// The configuration that `values` is. `name` stands for the file: relative paths are relative to its directory.
pub fn built(name: &Path, values: &Json) -> Result<Config, Diagnostics> {
    let mut writer = Writer { text: String::new(), found: Vec::new() };
    let root = writer.node(values, "", 0);
    writer.text.push('\n');
    mean(name, &writer.text, &root, writer.found)
}

struct Writer {
    text: String,
    found: Vec<Diagnostic>,
}

impl Writer {
    fn node(&mut self, value: &Json, path: &str, depth: usize) -> Node {
        let start = self.text.len();
        let value = match value {
            Json::Array(_) | Json::Object(_) if depth >= DEPTH => {
                self.text.push_str("null");
                let problem = format!("{path}: nested deeper than {DEPTH} levels");
                self.found.push(Diagnostic::error(start..self.text.len(), problem));
                Value::Broken
            }
            Json::Null => {
                self.text.push_str("null");
                Value::Null
            }
            Json::Bool(value) => {
                self.text.push_str(if *value { "true" } else { "false" });
                Value::Bool(*value)
            }
            Json::Number(number) => {
                self.text.push_str(&number.to_string());
                match number.as_i128() {
                    Some(integer) => Value::Integer(integer),
                    None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
                }
            }
            Json::String(text) => {
                self.string(text);
                Value::Text { text: text.clone(), expanded: false }
            }
            Json::Array(items) => {
                let mut nodes = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    self.begin_item(index == 0, '[', depth);
                    nodes.push(self.node(item, &format!("{path}[{index}]"), depth + 1));
                }
                self.end_items(items.is_empty(), "[", ']', depth);
                Value::List(nodes)
            }
            Json::Object(values) => {
                let mut entries = Vec::with_capacity(values.len());
                for (index, (key, value)) in values.iter().enumerate() {
                    self.begin_item(index == 0, '{', depth);
                    let key_start = self.text.len();
                    self.string(key);
                    let key_span = key_start..self.text.len();
                    self.text.push_str(": ");
                    // What is shown of a key is bounded and harmless.
                    let path = reader::join(path, quoted(key).trim_matches('`'));
                    entries.push(Entry { key: key.clone(), key_span, node: self.node(value, &path, depth + 1) });
                }
                self.end_items(values.is_empty(), "{", '}', depth);
                Value::Mapping(entries)
            }
        };
        Node { span: start..self.text.len(), value }
    }

    fn string(&mut self, text: &str) {
        // As serde_json quotes it.
        self.text.push_str(&Json::from(text).to_string());
    }

    fn begin_item(&mut self, first: bool, open: char, depth: usize) {
        self.text.push(if first { open } else { ',' });
        self.line(depth + 1);
    }

    fn end_items(&mut self, none: bool, open: &str, close: char, depth: usize) {
        match none {
            true => self.text.push_str(open),
            false => self.line(depth),
        }
        self.text.push(close);
    }

    fn line(&mut self, depth: usize) {
        self.text.push('\n');
        self.text.extend(std::iter::repeat_n("  ", depth));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(values: &Json) -> Vec<String> {
        let diagnostics = built(Path::new("/the/program"), values).expect_err("not good");
        diagnostics.iter().map(|diagnostic| diagnostic.message.clone()).collect()
    }

    #[test]
    fn values_mean_what_the_same_file_means() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("a.wasm"), "").expect("written");
        let name = directory.path().join("config.yaml");
        let values = json!({
            "services": { "web": {
                "plugin": "a.wasm",
                "listen": ["127.0.0.1:8080", { "name": "local", "address": "unix:web.sock?mode=0600" }],
                "workers": 3,
                "env": { "A": "${HOME}", "N": 5 },
                "config": { "list": [1, -2, 1.5, "x", true, null, {}], "big": u64::MAX, "odd \u{1f}\u{2028}\"": "\u{7f}" },
                "limits": { "memory": "256MiB" },
                "stop": { "drain_timeout": "1500ms" },
            } },
            "master": { "state_dir": "state" },
        });
        let config = built(&name, &values).expect("good");
        let web = &config.services["web"];
        assert_eq!(web.env["A"], "${HOME}", "a program says what it means");
        assert_eq!(web.env["N"], "5");
        assert_eq!(web.config, values["services"]["web"]["config"]);
        assert_eq!((web.workers, web.limits.memory), (3, Some(256 << 20)));
        assert_eq!(web.listen[1].name, "local");
        assert_eq!(config.master.state_dir, directory.path().join("state"));
        // Its text is JSON of the same values, so it is a file, too, but for what looks like a variable.
        let text = config.warnings.text();
        assert_eq!(serde_json::from_str::<Json>(text).expect("JSON"), values);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_key_and_all_at_once() {
        let messages = refused(&json!({
            "services": { "web": { "listen": 80, "workers": 0, "limts": {}, "stop": { "drain_timeout": 5 } } },
            "master": { "state_dir": "" },
        }));
        for said in [
            "services.web.plugin: is missing",
            "services.web.listen: expected an address, found the number `80`",
            "services.web.workers: must be at least 1, found 0",
            "unknown key `limts` in `services.web`",
            "services.web.stop.drain_timeout: the duration `5` has no unit",
            "master.state_dir: is empty",
        ] {
            assert!(messages.iter().any(|message| message == said), "{said} is not in {messages:#?}");
        }
        assert_eq!(refused(&json!({})), ["`services` is missing: there is nothing to run"]);
    }

    #[test]
    fn values_are_nested_as_deep_as_a_file_may_be() {
        let nested = (0..1000).fold(Json::Null, |inner, _| json!([inner]));
        let messages = refused(&json!({ "services": { "web": { "config": nested } } }));
        assert!(messages.iter().any(|message| message.ends_with("nested deeper than 64 levels")), "{messages:#?}");
    }
}
