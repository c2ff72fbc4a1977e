//! The hello handler in the servers that the launcher is an alternative to, one worker each.

use super::rounds::{add, compare, measure};
use crate::bench::Bench;
use crate::figures::Table;
use crate::load::Ask;
use crate::server::{Peer, Server, launcher};

const NATIVE: &str = "native, Rust";
const WASM: &str = "WASM, instances reused";

pub(super) fn run(bench: &Bench) -> Result<Vec<Table>, String> {
    let mut table = Table::new("peers", "GET / on kept connections, 1 worker", "CPU µs/request");
    let reuse = "workers: 1, wasm: { reuse: 1000000 }";
    let mut started = vec![
        (NATIVE, bench.native_hello().and_then(|plugin| launcher(bench, NATIVE, &plugin, "workers: 1"))),
        (WASM, launcher(bench, WASM, &bench.wasm_hello(), reuse)),
    ];
    for peer in Peer::ALL {
        started.push((peer.name(), peer.start(bench, 1, None).map(|started| started.server)));
    }
    let mut subjects = Vec::new();
    for (name, server) in started {
        add(&mut subjects, &mut table, name, server, |server: &Server| Ask::get(server.address, "/"));
    }
    measure(bench, &subjects, bench.options.connections, &mut table)?;
    compare(&mut table, WASM, &Peer::ALL.map(|peer| (peer.name(), None)));
    Ok(vec![table])
}
