//! A connection for each request, two processes on one listener.

use super::rounds::{add, compare, measure};
use crate::bench::Bench;
use crate::figures::Table;
use crate::load::Ask;
use crate::server::{Server, bare, launcher};

const NATIVE: &str = "native, Rust";
const WASM: &str = "WASM, instances reused";

pub(super) fn run(bench: &Bench) -> Result<Vec<Table>, String> {
    let mut table = Table::new("connections", "GET / on a connection of its own, 2 workers", "CPU µs/request");
    let reuse = "workers: 2, wasm: { reuse: 1000000 }";
    let started = [
        ("bare hyper", bare(Some(2))),
        (NATIVE, bench.native_hello().and_then(|plugin| launcher(bench, NATIVE, &plugin, "workers: 2"))),
        (WASM, launcher(bench, WASM, &bench.wasm_hello(), reuse)),
    ];
    let mut subjects = Vec::new();
    for (name, server) in started {
        add(&mut subjects, &mut table, name, server, |server: &Server| Ask::once(server.address, "/"));
    }
    measure(bench, &subjects, bench.options.connections, &mut table)?;
    compare(&mut table, "bare hyper", &[(NATIVE, Some((1.10, 1.0))), (WASM, None)]);
    Ok(vec![table])
}
