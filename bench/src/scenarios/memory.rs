//! What one more idle worker takes: all processes with five workers, less those with one, divided by four.

use std::time::Duration;

use crate::bench::Bench;
use crate::figures::{Line, Table};
use crate::server::Peer;
use crate::supervised::Supervised;
use crate::usage;

const FEW: u32 = 1;
const MANY: u32 = 5;

pub(super) fn run(bench: &Bench) -> Result<Vec<Table>, String> {
    let mut pss = Table::new("memory", "one more idle worker, proportional set size", "MiB");
    let mut private = Table::new("memory", "one more idle worker, private", "MiB");
    let native = bench.native_hello().map(|plugin| ("native hello", plugin));
    for plugin in [Ok(("WASM hello", bench.wasm_hello())), native] {
        let (name, plugin) = match plugin {
            Ok(plugin) => plugin,
            Err(reason) => {
                pss.missing("native hello", reason);
                continue;
            }
        };
        let sizes = |workers: u32| {
            let launcher = Supervised::cold(bench, name, &plugin, &format!("workers: {workers}"))?;
            launcher.wait("serving")?;
            Ok(size(&launcher.server.family()))
        };
        add((&mut pss, &mut private), name, samples(bench, sizes)?, true);
    }
    let launcher = Supervised::start(bench, "spare", &bench.wasm_hello(), "workers: 2")?;
    launcher.wait("serving")?;
    let spares = launcher.spares(2)?;
    if !spares.is_empty() {
        let of_each = |bytes: u64| vec![bytes as f64 / 1024.0 / spares.len() as f64];
        pss.lines.push(Line::new("a spare worker, for WASM", of_each(usage::memory(&spares))));
        private.lines.push(Line::new("a spare worker, for WASM", of_each(usage::private(&spares))));
    }
    let node = |workers: u32| {
        let started = Peer::NodeCluster.start(bench, workers, None)?;
        // It answers when the first of them does.
        let deadline = std::time::Instant::now() + crate::server::START;
        while started.server.family().len() < 1 + workers as usize && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(500));
        Ok(size(&started.server.family()))
    };
    match samples(bench, node) {
        Ok(samples) => add((&mut pss, &mut private), Peer::NodeCluster.name(), samples, false),
        Err(reason) => pss.missing(Peer::NodeCluster.name(), reason),
    }
    Ok(vec![pss, private])
}

/// PSS and private memory, MiB.
fn size(family: &[u32]) -> (f64, f64) {
    (usage::memory(family) as f64 / 1024.0, usage::private(family) as f64 / 1024.0)
}

fn samples(bench: &Bench, sizes: impl Fn(u32) -> Result<(f64, f64), String>) -> Result<(Vec<f64>, Vec<f64>), String> {
    let (mut pss, mut private) = (Vec::new(), Vec::new());
    for _ in 0..bench.options.samples(5) {
        let (few, many) = (sizes(FEW)?, sizes(MANY)?);
        pss.push((many.0 - few.0) / f64::from(MANY - FEW));
        private.push((many.1 - few.1) / f64::from(MANY - FEW));
    }
    Ok((pss, private))
}

fn add((pss, private): (&mut Table, &mut Table), name: &str, samples: (Vec<f64>, Vec<f64>), ours: bool) {
    let (one, other) = (Line::new(name, samples.0), Line::new(name, samples.1));
    pss.lines.push(if ours { one.target(4.0, 2.0) } else { one });
    private.lines.push(if ours { other.target(2.0, 1.0) } else { other });
}
