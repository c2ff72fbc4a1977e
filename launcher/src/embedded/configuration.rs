//! A configuration that a program puts together: the keys of the file, with the file's rules.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::config::{self, Config, Diagnostics};

/// What a launcher is to run, put together by a program.
///
/// It has the keys of the configuration file, and the same rules hold; what is wrong is said by
/// [`Launcher::start`](crate::Launcher::start), or by [`check`](Configuration::check), with the key and all at once.
/// Variables (`${NAME}`) are not expanded.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Configuration {
    directory: Option<PathBuf>,
    values: Map<String, Value>,
}

impl Configuration {
    /// One without services.
    pub fn new() -> Configuration {
        Configuration::default()
    }

    /// The directory that relative paths are relative to. Unless given, the program's working directory when the
    /// launcher starts.
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Configuration {
        self.directory = Some(directory.into());
        self
    }

    /// `master.state_dir`: where the cache, the lock and the control socket live. Unless given, `.launcher` in the
    /// directory. Two launchers cannot share one.
    pub fn state_dir(self, directory: impl AsRef<Path>) -> Configuration {
        self.set("master.state_dir", path(directory.as_ref()))
    }

    /// A service under its name; one of the same name is replaced.
    pub fn service(mut self, name: impl Into<String>, service: Service) -> Configuration {
        let services = self.values.entry("services").or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(services) = services {
            services.insert(name.into(), Value::Object(service.values));
        }
        self
    }

    /// Any key outside of the services, by its path: `master.log.file`, `master.admin`. Values have the forms of the
    /// file: a duration is `"30s"`, a size `"64MiB"`.
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Configuration {
        put(&mut self.values, key, value.into());
        self
    }

    /// What would be wrong with it now. Files that it names are looked at and nothing is changed.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn check(&self) -> Result<(), ConfigurationError> {
        self.meant().map(drop)
    }

    pub(super) fn meant(&self) -> Result<Config, ConfigurationError> {
        let program = std::env::current_exe().ok();
        let program =
            program.as_deref().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or("a program");
        // Stands where a file's path does, in messages and in the status.
        let name = self.directory.clone().unwrap_or_default().join(format!("(configuration of {program})"));
        config::built(&name, &Value::Object(self.values.clone())).map_err(ConfigurationError)
    }
}

/// A service of a [`Configuration`].
#[derive(Debug, Clone)]
#[must_use]
pub struct Service {
    values: Map<String, Value>,
}

impl Service {
    /// One that runs this plugin: a `.wasm`, `.wat` or `.so` file. It needs a place to [`listen`](Service::listen) as well.
    pub fn new(plugin: impl AsRef<Path>) -> Service {
        Service { values: Map::new() }.set("plugin", path(plugin.as_ref()))
    }

    /// A place to listen: `HOST:PORT`, `unix:PATH`; more of them with every call. Port 0 is any that is free;
    /// [`status`](crate::Launcher::status) tells which.
    pub fn listen(mut self, address: impl Into<String>) -> Service {
        self.places().push(Value::from(address.into()));
        self
    }

    /// A place to listen with the name under which the plugin finds it.
    pub fn listen_as(mut self, name: impl Into<String>, address: impl Into<String>) -> Service {
        let place = serde_json::json!({ "name": name.into(), "address": address.into() });
        self.places().push(place);
        self
    }

    fn places(&mut self) -> &mut Vec<Value> {
        let places = self.values.entry("listen").or_insert_with(|| Value::Array(Vec::new()));
        if !places.is_array() {
            // Set by its key before: that is the first of several then.
            *places = Value::Array(vec![places.take()]);
        }
        match places {
            Value::Array(places) => places,
            _ => unreachable!("made an array above"),
        }
    }

    /// How many worker processes. Unless given, as many as there are processors.
    pub fn workers(self, workers: u32) -> Service {
        self.set("workers", workers)
    }

    /// A variable of the plugin's environment.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Service {
        let env = self.values.entry("env").or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(env) = env {
            env.insert(name.into(), Value::from(value.into()));
        }
        self
    }

    /// Settings of the plugin's own, handed to it.
    pub fn config(self, settings: impl Into<Value>) -> Service {
        self.set("config", settings)
    }

    /// `reload.watch`: whether a change of the plugin's file is taken up; it is, unless this says no.
    pub fn watch(self, watch: bool) -> Service {
        self.set("reload.watch", watch)
    }

    /// `stop.drain_timeout`: how long requests in flight may take to finish when a worker leaves; whole milliseconds.
    pub fn drain_timeout(self, within: Duration) -> Service {
        self.set("stop.drain_timeout", milliseconds(within))
    }

    /// `reload.ready_timeout`: how long a worker may take from its start until it serves; whole milliseconds.
    pub fn ready_timeout(self, within: Duration) -> Service {
        self.set("reload.ready_timeout", milliseconds(within))
    }

    /// Any key of a service, by its path: `wasm.reuse`, `limits.max_requests`, `balance`. Values have the forms of the
    /// file: a duration is `"30s"`, a size `"64MiB"`.
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Service {
        put(&mut self.values, key, value.into());
        self
    }
}

/// A path as the file has it. One that is not UTF-8 is refused later: no file is named like that.
fn path(path: &Path) -> Value {
    Value::from(path.to_string_lossy())
}

fn milliseconds(duration: Duration) -> Value {
    Value::from(format!("{}ms", duration.as_millis()))
}

/// Sets what the path says, and makes the mappings that lead there.
fn put(values: &mut Map<String, Value>, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            values.insert(key.to_owned(), value);
        }
        Some((first, rest)) => {
            let inner = values.entry(first).or_insert_with(|| Value::Object(Map::new()));
            if !inner.is_object() {
                *inner = Value::Object(Map::new());
            }
            if let Value::Object(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

/// What is wrong with a configuration. Shown, it is a line for each problem, with the key; of a file with its place, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigurationError(pub(super) Diagnostics);

impl ConfigurationError {
    /// Each problem in words, in the order of the configuration. Warnings are among them.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|diagnostic| match &diagnostic.help {
            Some(help) => format!("{}: {help}", diagnostic.message),
            None => diagnostic.message.clone(),
        })
    }
}

impl fmt::Display for ConfigurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_string().trim_end())
    }
}

impl std::error::Error for ConfigurationError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setters_and_keys_make_the_same_values() {
        let service = Service::new("a.wasm").listen("127.0.0.1:0").workers(2).watch(false).env("A", "1");
        let service = service.drain_timeout(Duration::from_millis(1500)).listen_as("second", "unix:b.sock");
        let by_keys = Service { values: Map::new() }
            .set("plugin", "a.wasm")
            .set(
                "listen",
                vec![Value::from("127.0.0.1:0"), serde_json::json!({ "name": "second", "address": "unix:b.sock" })],
            )
            .set("workers", 2)
            .set("reload.watch", false)
            .set("env.A", "1")
            .set("stop.drain_timeout", "1500ms");
        assert_eq!(service.values, by_keys.values);
        let listens = Service::new("a.wasm").set("listen", "127.0.0.1:1").listen("127.0.0.1:2");
        assert_eq!(listens.values["listen"], serde_json::json!(["127.0.0.1:1", "127.0.0.1:2"]));
    }

    #[test]
    fn what_is_wrong_names_its_key() {
        let service = Service::new("missing.wasm").workers(0).set("limits.max_requests", "many");
        let error = Configuration::new().service("web", service).set("master.log.level", "loud").check();
        let error = error.expect_err("nothing of it is right");
        let problems: Vec<String> = error.problems().collect();
        for said in [
            "services.web.plugin: there is no file `missing.wasm`",
            "services.web.workers: must be at least 1, found 0",
            "services.web.limits.max_requests: expected a number, found the text `many`",
            "master.log.level: expected one of error, warn, info, debug, found `loud`",
            "services.web.listen: is missing",
        ] {
            assert!(problems.iter().any(|problem| problem.contains(said)), "{said} is not in {problems:#?}");
        }
        let shown = error.to_string();
        assert!(shown.contains("(configuration of ") && shown.contains("\"workers\": 0"), "{shown}");
    }
}
