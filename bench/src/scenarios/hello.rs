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
const SDK: &str = "WASM by worker-sdk, reused";
const WASMTIME: &str = "wasmtime serve";
const TUNED: &str = "wasmtime serve, tuned";

pub(super) fn run(bench: &Bench) -> Result<Vec<Table>, String> {
    let mut table = Table::new("hello", "GET / on kept connections, 1 worker", "CPU µs/request");
    // What a compiler makes of Rust and the bindings alone: nothing in it favours either host.
    let least = || bench.least_component();
    let sdk = bench.sdk_component();
    let reuse = "workers: 1, wasm: { reuse: 1000000 }";
    let started = [
        (BARE, bare(None)),
        (RUST, bench.native_hello().and_then(|plugin| launcher(bench, RUST, &plugin, "workers: 1"))),
        (C, bench.c_hello().and_then(|plugin| launcher(bench, C, &plugin, "workers: 1"))),
        (REUSED, least().and_then(|least| launcher(bench, REUSED, &least, reuse))),
        (FRESH, least().and_then(|least| launcher(bench, FRESH, &least, "workers: 1, wasm: { reuse: 1 }"))),
        (SDK, sdk.and_then(|sdk| launcher(bench, SDK, &sdk, reuse))),
        (WASMTIME, least().and_then(|least| wasmtime(bench, WASMTIME, &least, &[]))),
        (TUNED, least().and_then(|least| wasmtime_tuned(bench, TUNED, &least))),
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
            (SDK, Some((2.7, 1.8))),
            (WASMTIME, None),
            (TUNED, None),
            ("nginx", None),
        ],
    );
    compare(&mut table, WASMTIME, &[(REUSED, Some((0.08, 0.05))), (FRESH, Some((0.37, 0.25)))]);
    compare(&mut table, TUNED, &[(REUSED, Some((0.50, 0.33)))]);
    Ok(vec![table])
}
