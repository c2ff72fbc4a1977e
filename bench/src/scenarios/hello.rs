//! A small handler: one request after the other on kept connections, one worker against one process.

use super::rounds::{add, compare, measure};
use crate::bench::Bench;
use crate::figures::Table;
use crate::load::Ask;
use crate::server::{Server, bare, launcher, nginx, wasmtime, wasmtime_tuned};

const BARE: &str = "bare hyper";
const RUST: &str = "native, Rust";
const C: &str = "native, C";
const REUSED: &str = "WASM, instances reused";
const FRESH: &str = "WASM, fresh instances";
const WASMTIME: &str = "wasmtime serve";
const TUNED: &str = "wasmtime serve, tuned";

pub(super) fn run(bench: &Bench) -> Result<Vec<Table>, String> {
    let mut table = Table::new("hello", "GET / on kept connections, 1 worker", "CPU µs/request");
    let wat = bench.wasm_hello();
    let reuse = "workers: 1, wasm: { reuse: 1000000 }";
    let started = [
        (BARE, bare(None)),
        (RUST, bench.native_hello().and_then(|plugin| launcher(bench, RUST, &plugin, "workers: 1"))),
        (C, bench.c_hello().and_then(|plugin| launcher(bench, C, &plugin, "workers: 1"))),
        (REUSED, launcher(bench, REUSED, &wat, reuse)),
        (FRESH, launcher(bench, FRESH, &wat, "workers: 1, wasm: { reuse: 1 }")),
        (WASMTIME, wasmtime(bench, WASMTIME, &wat, &[])),
        (TUNED, wasmtime_tuned(bench, TUNED, &wat)),
        ("nginx", nginx(bench)),
    ];
    let mut subjects = Vec::new();
    for (name, server) in started {
        add(&mut subjects, &mut table, name, server, |server: &Server| Ask::get(server.address, "/"));
    }
    measure(bench, &subjects, bench.options.connections, &mut table)?;
    compare(
        &mut table,
        BARE,
        &[
            (RUST, Some((1.10, 1.05))),
            (C, Some((1.05, 1.02))),
            (REUSED, Some((2.7, 1.8))),
            (FRESH, None),
            (WASMTIME, None),
            (TUNED, None),
            ("nginx", None),
        ],
    );
    compare(&mut table, WASMTIME, &[(REUSED, Some((0.08, 0.05))), (FRESH, Some((0.37, 0.25)))]);
    compare(&mut table, TUNED, &[(REUSED, Some((0.50, 0.33)))]);
    Ok(vec![table])
}
