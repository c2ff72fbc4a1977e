//! A worker from its start to ready: what the launcher says of each worker that comes when it is scaled up and down.

use std::path::Path;

use crate::bench::Bench;
use crate::figures::{Line, Table};
use crate::supervised::Supervised;

pub(super) fn run(bench: &Bench) -> Result<Vec<Table>, String> {
    let mut table = Table::new("start", "a worker from exec to ready", "ms");
    // Not interleaved: what is compared is a target and not another line.
    let wat = bench.wasm_hello();
    table.lines.push(started(bench, "WASM hello", &wat)?.target(5.0, 3.0));
    match bench.native_hello() {
        Ok(plugin) => table.lines.push(started(bench, "native hello", &plugin)?.target(4.0, 2.0)),
        Err(reason) => table.missing("native hello", reason),
    }
    match std::env::var_os("BENCH_JS_COMPONENT") {
        Some(component) => {
            table.lines.push(started(bench, "34 MB of JavaScript", Path::new(&component))?.target(7.0, 5.0))
        }
        None => {
            table.missing("34 MB of JavaScript", "missing: BENCH_JS_COMPONENT names no component of componentize-js")
        }
    }
    table.missing("warm spare to ready", "the launcher keeps no spare workers");
    Ok(vec![table])
}

fn started(bench: &Bench, name: &'static str, plugin: &Path) -> Result<Line, String> {
    let launcher = Supervised::start(bench, name, plugin, "workers: 1, stop: { drain_timeout: 1s }")?;
    launcher.wait("serving")?;
    let mut samples = Vec::new();
    for _ in 0..bench.options.samples(50) {
        launcher.order(&["scale", "hello", "2"])?;
        let ready = launcher.wait("ready")?;
        let exact = ready.number("took_us").map(|took| took / 1e3);
        samples.push(exact.or_else(|| ready.number("took_ms")).ok_or("a worker is ready and does not say when")?);
        launcher.order(&["scale", "hello", "1"])?;
        launcher.wait("exited")?;
    }
    Ok(Line::new(name, samples))
}
