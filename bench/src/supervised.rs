//! A launcher seen by its events and steered by its command line.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bench::Bench;
use crate::server::{START, Server, configuration, configuration_with};
use crate::usage;

/// How long a launcher may take to compile a large component, on a machine that does other things.
const COMPILED: Duration = Duration::from_secs(300);
/// How long a launcher may take to make its spare workers.
const MADE: Duration = Duration::from_secs(3);
/// How long one of them may take to make ready what it can.
const REST: Duration = Duration::from_millis(50);

/// See the module.
pub(crate) struct Supervised<'b> {
    pub(crate) server: Server,
    bench: &'b Bench,
    config: PathBuf,
}

/// A fact of the launcher's log, and when it was read.
#[derive(Debug, Clone)]
pub(crate) struct Fact {
    pub(crate) at: Instant,
    pub(crate) fields: Value,
}

impl Fact {
    /// A number of it.
    pub(crate) fn number(&self, field: &str) -> Option<f64> {
        self.fields[field].as_f64()
    }
}

impl<'b> Supervised<'b> {
    /// Starts one that serves a plugin.
    pub(crate) fn start(
        bench: &'b Bench,
        name: &'static str,
        plugin: &Path,
        more: &str,
    ) -> Result<Supervised<'b>, String> {
        Supervised::run(bench, name, configuration(bench, name, plugin, more)?)
    }

    /// The same without spare workers: every worker is a process that starts.
    pub(crate) fn cold(
        bench: &'b Bench,
        name: &'static str,
        plugin: &Path,
        more: &str,
    ) -> Result<Supervised<'b>, String> {
        Supervised::run(bench, name, configuration_with(bench, name, plugin, more, ", spare_workers: 0")?)
    }

    /// Starts one with a configuration.
    pub(crate) fn run(bench: &'b Bench, name: &'static str, config: PathBuf) -> Result<Supervised<'b>, String> {
        let server = Server::spawn(name, Command::new(&bench.binary).arg("run").arg(&config), None)?;
        let mut supervised = Supervised { server, bench, config };
        let listening = supervised.wait("listening")?;
        let address = listening.fields["address"].as_str().and_then(|address| address.parse().ok());
        supervised.server.address = address.ok_or("it does not say where it listens")?;
        Ok(supervised)
    }

    /// The next fact of that name.
    pub(crate) fn wait(&self, event: &str) -> Result<Fact, String> {
        self.wait_for(event, |_| true)
    }

    /// That it serves, which a large component has to be compiled for.
    pub(crate) fn serves(&self) -> Result<(), String> {
        self.wait_within(COMPILED, "serving", |_| true).map(drop)
    }

    /// The next fact of that name that is the right one.
    pub(crate) fn wait_for(&self, event: &str, is_it: impl Fn(&Value) -> bool) -> Result<Fact, String> {
        self.wait_within(START, event, is_it)
    }

    fn wait_within(&self, time: Duration, event: &str, is_it: impl Fn(&Value) -> bool) -> Result<Fact, String> {
        let found = self.server.wait(time, |line| {
            let fields: Value = serde_json::from_str(line).ok()?;
            (fields["event"] == event && is_it(&fields)).then_some(fields)
        });
        let (at, fields) = found.map_err(|error| format!("{event}: {error}"))?;
        Ok(Fact { at, fields })
    }

    /// Facts of these names, so many of each, in any order; when the first one of the first name was read.
    pub(crate) fn wait_all(&self, wanted: &[(&str, usize)]) -> Result<Instant, String> {
        let left: RefCell<Vec<(&str, usize)>> = RefCell::new(wanted.to_vec());
        let first = Cell::new(None);
        while left.borrow().iter().any(|(_, count)| *count > 0) {
            let (at, event) = self.server.wait(START, |line| {
                let fields: Value = serde_json::from_str(line).ok()?;
                let mut left = left.borrow_mut();
                let (event, count) = left.iter_mut().find(|(event, count)| fields["event"] == *event && *count > 0)?;
                *count -= 1;
                Some(*event)
            })?;
            if first.get().is_none() && wanted.first().is_some_and(|(name, _)| *name == event) {
                first.set(Some(at));
            }
        }
        first.get().ok_or_else(|| "nothing was waited for".to_owned())
    }

    /// Runs a command of the launcher's and waits for its end.
    pub(crate) fn order(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(&self.bench.binary);
        command.args(arguments).arg("-c").arg(&self.config);
        let output = command.output().map_err(|error| error.to_string())?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr))),
        }
    }

    /// The pids of the workers, by slot.
    pub(crate) fn workers(&self) -> Result<Vec<u32>, String> {
        let status: Value = serde_json::from_str(&self.order(&["status", "-o", "json"])?).map_err(|e| e.to_string())?;
        let services = status["services"].as_array().cloned().unwrap_or_default();
        let workers = services.iter().filter_map(|service| service["workers"].as_array()).flatten();
        Ok(workers.filter_map(|worker| u32::try_from(worker["pid"].as_u64()?).ok()).collect())
    }

    /// The spare workers, once there are so many and they have come to rest; fewer if there are not within a while.
    pub(crate) fn spares(&self, count: usize) -> Result<Vec<u32>, String> {
        let deadline = Instant::now() + MADE;
        loop {
            let spares: Vec<u32> = self.server.family().into_iter().filter(|pid| usage::is_spare(*pid)).collect();
            let (settled, late) = (spares.len() >= count, Instant::now() > deadline);
            std::thread::sleep(if settled && !late { REST } else { Duration::from_millis(10) });
            if settled || late {
                return Ok(spares);
            }
        }
    }

    /// The pid of the master, which is not the process that was started: that is its keeper.
    pub(crate) fn master(&self) -> Result<u32, String> {
        let status: Value = serde_json::from_str(&self.order(&["status", "-o", "json"])?).map_err(|e| e.to_string())?;
        status["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).ok_or_else(|| "no pid of a master".to_owned())
    }
}

/// Milliseconds between two moments.
pub(crate) fn milliseconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64() * 1e3
}

/// How long after a try the next one begins, which does not wait for it: a server may keep a connection that it never
/// answers.
const NEXT_TRY: Duration = Duration::from_millis(10);

/// Asks until something is answered that is right: milliseconds since `from`.
pub(crate) fn until(from: Instant, address: std::net::SocketAddr, is_it: impl Fn(&str) -> bool) -> Result<f64, String> {
    let deadline = from + START;
    let (answers, answered) = mpsc::channel();
    while Instant::now() < deadline {
        let answers = answers.clone();
        std::thread::spawn(move || {
            if let Ok(answer) = crate::load::ask(address, Duration::from_secs(2)) {
                // Nobody waits for it after the first that was right.
                let _ = answers.send((answer, Instant::now()));
            }
        });
        let next = Instant::now() + NEXT_TRY;
        while let Ok((answer, at)) = answered.recv_timeout(next.saturating_duration_since(Instant::now())) {
            if is_it(&answer) {
                return Ok(milliseconds(from, at));
            }
        }
    }
    Err(format!("{address} does not answer as it should"))
}
