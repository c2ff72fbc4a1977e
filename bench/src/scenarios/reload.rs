//! A new version in the place of the old: from its rename to promoted; of the others from their order to the first answer
//! of the new version.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::bench::Bench;
use crate::figures::{Line, Table};
use crate::server::{Peer, START, Started, ended_within};
use crate::supervised::{Supervised, milliseconds, until};

pub(super) fn run(bench: &Bench) -> Result<Vec<Table>, String> {
    let mut table = Table::new("reload", "a new version, 2 workers: from its rename to promoted", "ms");
    let least = ("WASM, compiled anew", bench.least_component(), Some((60.0, 25.0)));
    let larger = ("WASM, compiled anew", bench.wasm_shapes(), None);
    for (name, plugin, target) in [("native", bench.native_hello(), Some((40.0, 25.0))), least, larger] {
        match plugin.and_then(|plugin| renamed(bench, name, &plugin)) {
            Ok(line) => table.lines.push(match target {
                Some((must, goal)) => line.target(must, goal),
                None => line,
            }),
            Err(reason) => table.missing(name, reason),
        }
    }
    let mut peers = Table::new("reload", "the order to the first answer of the new version, 2 workers", "ms");
    for peer in [Peer::Pm2, Peer::Gunicorn] {
        match ordered(bench, peer) {
            Ok(line) => peers.lines.push(line),
            Err(reason) => peers.missing(peer.name(), reason),
        }
    }
    Ok(vec![table, peers])
}

fn renamed(bench: &Bench, name: &'static str, plugin: &Path) -> Result<Line, String> {
    let failed = |error: std::io::Error| error.to_string();
    let place = bench.scratch("reload")?;
    let file = place.join(plugin.file_name().ok_or("the plugin has no name")?);
    let bytes = fs::read(plugin).map_err(failed)?;
    fs::write(&file, &bytes).map_err(failed)?;
    let launcher = Supervised::start(bench, name, &file, "workers: 2, reload: { probation: 0s }")?;
    launcher.wait("serving")?;
    let mut samples = Vec::new();
    for version in 0..bench.options.samples(30) {
        let beside = place.join("new");
        fs::write(&beside, another(&bytes, version)).map_err(failed)?;
        launcher.spares(2)?;
        let from = Instant::now();
        fs::rename(&beside, &file).map_err(failed)?;
        // The old ones have left before the next comes.
        samples.push(milliseconds(from, launcher.wait_all(&[("promoted", 1), ("exited", 2)])?));
    }
    let size = bytes.len() / 1024;
    Ok(Line::new(format!("{name}, {size} KiB"), samples))
}

/// The same plugin with other bytes: a section of its own for a component, bytes that nobody loads for a library.
fn another(plugin: &[u8], version: usize) -> Vec<u8> {
    let mark = format!("version {version:08}");
    match plugin.starts_with(b"\0asm") {
        // A custom section: its id, its size, the length of its name, the name, what it holds.
        true => {
            let name = b"bench";
            let size = u8::try_from(1 + name.len() + mark.len()).unwrap_or_default();
            [plugin, &[0, size, 5], name, mark.as_bytes()].concat()
        }
        false => [plugin, mark.as_bytes()].concat(),
    }
}

fn ordered(bench: &Bench, peer: Peer) -> Result<Line, String> {
    let failed = |error: std::io::Error| error.to_string();
    let file: PathBuf = bench.scratch("version")?.join("version");
    fs::write(&file, "0\n").map_err(failed)?;
    let started = peer.start(bench, 2, Some(&file))?;
    let mut samples = Vec::new();
    for version in 1..=bench.options.samples(10) {
        fs::write(&file, format!("{version}\n")).map_err(failed)?;
        let from = Instant::now();
        let ordered = order(bench, peer, &started)?;
        let is_new = |answer: &str| {
            let lower = answer.to_ascii_lowercase();
            lower
                .lines()
                .any(|line| line.strip_prefix("x-version:").is_some_and(|text| text.trim() == version.to_string()))
        };
        samples.push(until(from, started.server.address, is_new)?);
        if let Some(mut ordered) = ordered {
            // It goes on with the second worker.
            ended_within(&mut ordered, START);
            let _ = ordered.kill();
            let _ = ordered.wait();
        }
    }
    Ok(Line::new(peer.name(), samples))
}

fn order(bench: &Bench, peer: Peer, started: &Started) -> Result<Option<Child>, String> {
    match peer {
        Peer::Pm2 => {
            let mut command = Command::new(bench.peer("node_modules/.bin/pm2")?);
            command
                .args(["reload", "hello"])
                .env("PM2_HOME", &started.home)
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command.spawn().map(Some).map_err(|error| error.to_string())
        }
        _ => started.server.signal(Signal::SIGHUP).map(|()| None),
    }
}
