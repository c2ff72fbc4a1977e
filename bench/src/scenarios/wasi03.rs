//! A hello of WASI 0.3, whose instances serve many requests at the same time.

use super::rounds::{add, compare, measure};
use crate::bench::Bench;
use crate::figures::Table;
use crate::load::Ask;
use crate::server::{Server, bare, launcher, wasmtime};

const LAUNCHER: &str = "WASM 0.3";
const WASMTIME: &str = "wasmtime serve";

pub(super) fn run(bench: &Bench) -> Result<Vec<Table>, String> {
    let mut table = Table::new("wasi03", "GET / of a WASI 0.3 component, 1 worker", "CPU µs/request");
    let component = bench.wasi03_hello()?;
    let started = [
        ("bare hyper", bare(None)),
        (LAUNCHER, launcher(bench, LAUNCHER, &component, "workers: 1")),
        (WASMTIME, wasmtime(bench, WASMTIME, &component, &["-Sp3", "-Wcomponent-model-async"])),
    ];
    let mut subjects = Vec::new();
    for (name, server) in started {
        add(&mut subjects, &mut table, name, server, |server: &Server| Ask::get(server.address, "/"));
    }
    measure(bench, &subjects, bench.options.connections, &mut table)?;
    compare(&mut table, "bare hyper", &[(LAUNCHER, None), (WASMTIME, None)]);
    compare(&mut table, WASMTIME, &[(LAUNCHER, Some((0.60, 0.40)))]);
    Ok(vec![table])
}
