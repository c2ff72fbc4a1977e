//! How connections spread over workers, and what that costs: every policy with few and many workers, and with one of them
//! stopped, spinning or slow. `cargo run --release -p bench -- spread`.
//!
//! Each cell is a launcher of its own with `plugins/misbehave`, whose answer to `/` costs next to nothing. Clients open a
//! connection for each request; one that is not answered in half a second counts as stranded and is given up. What the
//! launcher used meanwhile is read from /proc: processor time, and how often its threads went to sleep by themselves, which is
//! how often they were woken.

mod clients;
mod status;

use std::cell::Cell;
use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use self::clients::Answers;
use self::status::{Status, Worker};
use crate::bench::Bench;
use crate::server::{START, Server};
use crate::usage;

/// Connections that are opened one after the other, by each of [`clients::COUNT`] clients its part.
const CONNECTIONS: usize = 4_000;
/// The same with a worker that is not well, where each that is stranded costs half a second.
const FEWER: usize = 480;
/// Connections that stay open.
const HELD: usize = 1_000;

const WORKERS: [u32; 3] = [2, 8, 32];

/// A policy: its name, and the settings of the service.
const POLICIES: [(&str, &str); 4] = [
    ("requests", "balance: requests"),
    ("connections", "balance: connections"),
    ("reuseport", "scheduling: reuseport"),
    ("round_robin", "scheduling: round_robin"),
];

/// How one of the workers is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ill {
    Stopped,
    Spinning,
    /// It gets 5 ms, then nothing for 20 ms, and so on.
    Slow,
}

const ILL: [(Ill, &str); 3] = [(Ill::Stopped, "stopped"), (Ill::Spinning, "spinning"), (Ill::Slow, "slow")];

/// Measures everything and prints it as Markdown.
pub(crate) fn run(bench: &Bench) -> Result<(), Box<dyn Error>> {
    println!("{}", machine());
    println!(
        "| workers | policy | spread of {CONNECTIONS} | of {HELD} that stay | wake-ups/connection | CPU µs/connection |"
    );
    println!("|--:|---|--:|--:|--:|--:|");
    for workers in WORKERS {
        for (name, settings) in POLICIES {
            let well = well(bench, workers, settings).map_err(|error| format!("{name}, {workers}: {error}"))?;
            println!("| {workers} | {name} | {well} |");
        }
    }
    println!("\n| workers | policy | one worker is | answered | late | stranded | median ms | worst ms |");
    println!("|--:|---|---|--:|--:|--:|--:|--:|");
    for workers in WORKERS {
        for (name, settings) in POLICIES {
            for (ill, word) in ILL {
                let row = unwell(bench, workers, settings, ill);
                let row = row.map_err(|error| format!("{name}, {workers}, {word}: {error}"))?;
                println!("| {workers} | {name} | {word} | {row} |");
            }
        }
    }
    Ok(())
}

/// Everybody is well: the cells of a row.
fn well(bench: &Bench, workers: u32, settings: &str) -> Result<String, Box<dyn Error>> {
    let launcher = Launcher::start(bench, workers, settings)?;
    clients::ask(launcher.address, 200);
    let family = usage::family(launcher.server.pid());
    let (before, used, woken) = (launcher.workers()?, usage::processor_time(&family), usage::sleeps(&family));
    let Answers { latencies, stranded } = clients::ask(launcher.address, CONNECTIONS);
    let used = usage::processor_time(&family).saturating_sub(used);
    let woken = usage::sleeps(&family).saturating_sub(woken);
    let after = launcher.workers()?;
    if stranded > 0 {
        return Err(format!("{stranded} connections were not answered").into());
    }
    let accepted = before.iter().zip(&after).map(|(before, after)| after.accepted - before.accepted).collect();
    let held = clients::hold(launcher.address, HELD)?;
    let open = launcher.workers()?.iter().map(|worker| worker.connections).collect();
    drop(held);
    let count = latencies.len() as f64;
    Ok(format!(
        "{} | {} | {:.2} | {:.1}",
        range(accepted),
        range(open),
        woken as f64 / count,
        used.as_secs_f64() * 1e6 / count
    ))
}

/// One is not: the cells of a row.
fn unwell(bench: &Bench, workers: u32, settings: &str, ill: Ill) -> Result<String, Box<dyn Error>> {
    let launcher = Launcher::start(bench, workers, settings)?;
    clients::ask(launcher.address, 200);
    let victim = launcher.workers()?.first().ok_or("no worker")?.pid;
    let over = Arc::new(AtomicBool::new(false));
    let slowing = match ill {
        Ill::Stopped => {
            signal(victim, "STOP")?;
            None
        }
        Ill::Spinning => {
            clients::begin_loop(launcher.address)?;
            None
        }
        Ill::Slow => {
            let over = Arc::clone(&over);
            Some(thread::spawn(move || {
                while !over.load(Relaxed) {
                    // A worker that is gone shows in the figures.
                    let _ = signal(victim, "STOP");
                    thread::sleep(Duration::from_millis(20));
                    let _ = signal(victim, "CONT");
                    thread::sleep(Duration::from_millis(5));
                }
            }))
        }
    };
    let answers = clients::ask(launcher.address, FEWER);
    over.store(true, Relaxed);
    if let Some(slowing) = slowing {
        slowing.join().map_err(|_| "the one who slows it panicked")?;
    }
    signal(victim, "CONT")?;
    let late = answers.latencies.iter().filter(|latency| **latency > Duration::from_millis(20)).count();
    let mut latencies = answers.latencies;
    latencies.sort_unstable();
    let milliseconds = |latency: Option<&Duration>| latency.map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3);
    Ok(format!(
        "{} | {late} | {} | {:.2} | {:.1}",
        latencies.len(),
        answers.stranded,
        milliseconds(latencies.get(latencies.len() / 2)),
        milliseconds(latencies.last())
    ))
}

/// The least and the greatest share.
fn range(mut shares: Vec<u64>) -> String {
    shares.sort_unstable();
    match (shares.first(), shares.last()) {
        (Some(least), Some(greatest)) => format!("{least} – {greatest}"),
        _ => String::new(),
    }
}

fn signal(pid: u32, name: &str) -> Result<(), Box<dyn Error>> {
    let sent = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status()?;
    if sent.success() { Ok(()) } else { Err(format!("kill -{name} {pid} failed").into()) }
}

/// What it was measured on.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = thread::available_parallelism().map_or(0, usize::from);
    format!(
        "Linux {}, {cores} CPUs ({}), load {} at the start.\n",
        read("/proc/sys/kernel/osrelease").trim(),
        model.trim_start_matches([' ', '\t', ':']),
        read("/proc/loadavg").split(' ').next().unwrap_or_default(),
    )
}

struct Launcher {
    address: SocketAddr,
    status: Status,
    server: Server,
}

impl Launcher {
    fn start(bench: &Bench, workers: u32, settings: &str) -> Result<Launcher, Box<dyn Error>> {
        // Its own for each, because the state directory of the one before may be locked for a moment.
        let state = bench.scratch("spread")?;
        let config: PathBuf = state.join("config.yaml");
        let plugin = bench.misbehave()?;
        fs::write(
            &config,
            format!(
                "master: {{ state_dir: {state:?} }}\nservices:\n  web: {{ plugin: {plugin:?}, listen: 127.0.0.1:0, \
                 workers: {workers}, {settings} }}\n"
            ),
        )?;
        let server = Server::spawn("spread", Command::new(&bench.binary).arg("run").arg(&config), None)?;
        let address = Cell::new(None);
        let (_, address) = server.wait(START, |line| {
            address.set(address.get().or_else(|| {
                let at = line.find("127.0.0.1:")?;
                let end = line[at + 10..].find(|c: char| !c.is_ascii_digit()).map_or(line.len(), |end| at + 10 + end);
                line[at..end].parse().ok()
            }));
            address.get().filter(|_| line.contains("serving web"))
        })?;
        Ok(Launcher { address, status: Status::of(&state), server })
    }

    fn workers(&self) -> Result<Vec<Worker>, Box<dyn Error>> {
        self.status.workers("web")
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        // A worker that spins would be waited for otherwise.
        let _ = self.server.signal(nix::sys::signal::Signal::SIGQUIT);
    }
}
