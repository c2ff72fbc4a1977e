//! Wake-ups while nothing happens: how often the threads of every process have gone to sleep again.

use std::time::Duration;

use crate::bench::Bench;
use crate::figures::{Line, Table};
use crate::server::{Peer, Server};
use crate::supervised::Supervised;
use crate::{load, usage};

/// How long it is looked at.
const SPAN: Duration = Duration::from_secs(10);
/// Until what was begun before has come to rest.
const REST: Duration = Duration::from_secs(2);

pub(super) fn run(bench: &Bench) -> Result<Vec<Table>, String> {
    let mut table = Table::new("idle", "wake-ups of all processes in 10 s, 2 workers that have served", "wake-ups");
    let native = bench.native_hello().map(|plugin| ("native hello", plugin));
    for plugin in [Ok(("WASM hello", bench.wasm_hello())), native] {
        let (name, plugin) = match plugin {
            Ok(plugin) => plugin,
            Err(reason) => {
                table.missing("native hello", reason);
                continue;
            }
        };
        let launcher = Supervised::start(bench, name, &plugin, "workers: 2")?;
        launcher.wait("serving")?;
        load::ask(launcher.server.address, SPAN).map_err(|error| error.to_string())?;
        table.lines.push(Line::new(name, vec![wake_ups(&launcher.server)]).target(0.0, 0.0));
    }
    for peer in Peer::ALL {
        match peer.start(bench, 2, None) {
            Ok(started) => table.lines.push(Line::new(peer.name(), vec![wake_ups(&started.server)])),
            Err(reason) => table.missing(peer.name(), reason),
        }
    }
    Ok(vec![table])
}

fn wake_ups(server: &Server) -> f64 {
    std::thread::sleep(REST);
    // Now, when the spare workers are there as well.
    let family = server.family();
    let before = usage::sleeps(&family);
    std::thread::sleep(SPAN);
    usage::sleeps(&family).saturating_sub(before) as f64
}
