//! kill -9 of the only worker: to the replacement's word that it is ready, and to the answer of whoever connects next.

use std::time::Instant;

use nix::sys::signal::Signal;

use crate::bench::Bench;
use crate::figures::{Line, Table};
use crate::server::{Peer, Started, signal_to};
use crate::supervised::{Supervised, milliseconds, until};
use crate::usage;

pub(super) fn run(bench: &Bench) -> Result<Vec<Table>, String> {
    let mut ready = Table::new("recovery", "kill -9 of a worker to the replacement's ready", "ms");
    let mut answered = Table::new("recovery", "kill -9 of the only worker to the next answer", "ms");
    let native = bench.native_hello().map(|plugin| ("native hello", plugin));
    for plugin in [native, Ok(("WASM hello", bench.wasm_hello()))] {
        let (name, plugin) = match plugin {
            Ok(plugin) => plugin,
            Err(reason) => {
                ready.missing("native hello", reason);
                continue;
            }
        };
        // Each is the first one: those that follow at once wait for the backoff, which is not what is measured.
        let more = "workers: 1, restart: { backoff: 1ms..2ms, budget: 1000/1s, reset_after: 100ms }";
        let launcher = Supervised::start(bench, name, &plugin, more)?;
        launcher.wait("serving")?;
        let (mut to_ready, mut to_answer) = (Vec::new(), Vec::new());
        for _ in 0..bench.options.samples(30) {
            launcher.spares(1)?;
            let [worker] = launcher.workers()?[..] else { return Err("it has not one worker".to_owned()) };
            let from = Instant::now();
            signal_to(worker, Signal::SIGKILL)?;
            to_answer.push(until(from, launcher.server.address, |_| true)?);
            to_ready.push(milliseconds(from, launcher.wait("ready")?.at));
        }
        ready.lines.push(Line::new(name, to_ready).target(10.0, 2.0));
        answered.lines.push(Line::new(name, to_answer));
    }
    for peer in Peer::ALL {
        match peer.start(bench, 1, None).and_then(|started| killed(bench, peer, &started)) {
            Ok(line) => answered.lines.push(line),
            Err(reason) => answered.missing(peer.name(), reason),
        }
    }
    Ok(vec![ready, answered])
}

fn killed(bench: &Bench, peer: Peer, started: &Started) -> Result<Line, String> {
    let address = started.server.address;
    let mut samples = Vec::new();
    for _ in 0..bench.options.samples(10) {
        let answer = crate::load::ask(address, crate::server::START).map_err(|error| error.to_string())?;
        let worker = worker_of(&answer).ok_or("it does not say which process answers")?;
        if !started.server.family().contains(&worker) && !usage::family(1).contains(&worker) {
            return Err(format!("{worker} is no process of it"));
        }
        let from = Instant::now();
        signal_to(worker, Signal::SIGKILL)?;
        samples.push(until(from, address, |answer| worker_of(answer).is_some_and(|other| other != worker))?);
    }
    Ok(Line::new(peer.name(), samples))
}

/// Which process has answered.
pub(super) fn worker_of(answer: &str) -> Option<u32> {
    let line = answer.lines().find(|line| line.to_ascii_lowercase().starts_with("x-process:"))?;
    line.split_once(':')?.1.trim().parse().ok()
}
