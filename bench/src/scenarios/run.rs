//! From the command to the first response, with everything compiled before.

use std::process::Command;
use std::time::Instant;

use crate::bench::Bench;
use crate::figures::{Line, Table};
use crate::server::{Peer, Server, configuration, free_address};
use crate::supervised::until;

pub(super) fn run(bench: &Bench) -> Result<Vec<Table>, String> {
    let mut table = Table::new("run", "from the command to the first response, 2 workers", "ms");
    let native = bench.native_hello().map(|plugin| ("native hello", plugin));
    for plugin in [Ok(("WASM hello", bench.wasm_hello())), native] {
        let (name, plugin) = match plugin {
            Ok(plugin) => plugin,
            Err(reason) => {
                table.missing("native hello", reason);
                continue;
            }
        };
        let address = free_address()?;
        let config = configuration(bench, name, &plugin, &format!("workers: 2, listen: '{address}'"))?;
        // The key stands twice: ours is the one that counts.
        let text = std::fs::read_to_string(&config).map_err(|error| error.to_string())?;
        std::fs::write(&config, text.replace("listen: '127.0.0.1:0', ", "")).map_err(|error| error.to_string())?;
        let mut samples = Vec::new();
        // The first fills the cache.
        for round in 0..=bench.options.samples(20) {
            let from = Instant::now();
            let _server = Server::spawn(name, Command::new(&bench.binary).arg("run").arg(&config), Some(address))?;
            let took = until(from, address, |_| true)?;
            samples.extend((round > 0).then_some(took));
        }
        table.lines.push(Line::new(name, samples).target(40.0, 20.0));
    }
    for peer in Peer::ALL {
        let mut samples = Vec::new();
        for _ in 0..bench.options.samples(10) {
            let from = Instant::now();
            match peer.start(bench, 2, None) {
                // It answers already: that is how its start is known.
                Ok(_started) => samples.push(from.elapsed().as_secs_f64() * 1e3),
                Err(reason) => {
                    table.missing(peer.name(), reason);
                    break;
                }
            }
        }
        if !samples.is_empty() {
            table.lines.push(Line::new(peer.name(), samples));
        }
    }
    Ok(vec![table])
}
