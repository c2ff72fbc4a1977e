//! How long a request takes at a rate that does not depend on the answers.

use super::rounds::{Subject, add, compare};
use crate::bench::Bench;
use crate::figures::{Line, Table, at};
use crate::load::{Ask, open};
use crate::server::{Server, bare, launcher, nginx, wasmtime};

/// Requests a second: far below what the slowest of them can do, so that it is the way that is measured and not a queue.
const RATE: f64 = 2000.0;
/// Connections over which they go.
const CONNECTIONS: usize = 64;

pub(super) fn run(bench: &Bench) -> Result<Vec<Table>, String> {
    let mut table =
        Table::new("latency", format!("GET / {RATE} times a second on kept connections"), "µs, half of them");
    let wat = bench.wasm_hello();
    let reuse = "workers: 1, wasm: { reuse: 1000000 }";
    let started = [
        ("bare hyper", bare(None)),
        (
            "native, Rust",
            bench.native_hello().and_then(|plugin| launcher(bench, "native, Rust", &plugin, "workers: 1")),
        ),
        ("WASM, instances reused", launcher(bench, "WASM, instances reused", &wat, reuse)),
        ("WASM, fresh instances", launcher(bench, "WASM, fresh instances", &wat, "workers: 1, wasm: { reuse: 1 }")),
        ("wasmtime serve", wasmtime(bench, "wasmtime serve", &wat, &[])),
        ("nginx", nginx(bench)),
    ];
    let mut subjects = Vec::new();
    for (name, server) in started {
        add(&mut subjects, &mut table, name, server, |server: &Server| Ask::get(server.address, "/"));
    }
    let mut samples: Vec<(Vec<f64>, Vec<f64>)> = vec![Default::default(); subjects.len()];
    for round in 0..=bench.options.rounds {
        for (Subject { server, ask }, (halves, all)) in subjects.iter().zip(&mut samples) {
            let took = open::load(server.address, ask, CONNECTIONS, RATE, bench.options.time);
            let took = took.map_err(|error| format!("{}: {error}", server.name))?;
            // The first round is to warm up.
            if round > 0 {
                halves.extend(at(&took, 0.5));
                all.extend(took);
            }
        }
    }
    table.more = vec!["p90", "p99", "p99.9", "longest"];
    for (subject, (halves, all)) in subjects.iter().zip(samples) {
        let mut line = Line::new(subject.server.name, halves);
        let parts = [0.9, 0.99, 0.999, 1.0].map(|part| at(&all, part).unwrap_or(f64::NAN));
        line.more = parts.iter().map(|took| format!("{took:.0}")).collect();
        table.lines.push(line);
    }
    let others = ["native, Rust", "WASM, instances reused", "WASM, fresh instances", "wasmtime serve", "nginx"];
    compare(&mut table, "bare hyper", &others.map(|other| (other, None)));
    Ok(vec![table])
}
