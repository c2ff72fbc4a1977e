//! A worker from its start to ready: what the launcher says of each worker that comes when it is scaled up and down.

use std::path::{Path, PathBuf};

use crate::bench::Bench;
use crate::figures::{Line, Table};
use crate::supervised::Supervised;

/// What `peers.sh` makes by componentize-js; its compiled form has about 34 MB.
const JAVASCRIPT: &str = "JavaScript by componentize-js";

pub(super) fn run(bench: &Bench) -> Result<Vec<Table>, String> {
    let mut table = Table::new("start", "a worker from exec to ready", "ms");
    // Not interleaved: what is compared is a target and not another line.
    let wat = bench.wasm_hello();
    table.lines.push(started(bench, "WASM hello", &wat)?.target(5.0, 3.0));
    match bench.native_hello() {
        Ok(plugin) => table.lines.push(started(bench, "native hello", &plugin)?.target(4.0, 2.0)),
        Err(reason) => table.missing("native hello", reason),
    }
    let named = std::env::var_os("BENCH_JS_COMPONENT").map(|path| Ok(PathBuf::from(path)));
    let javascript = named.unwrap_or_else(|| bench.peer("javascript/hello.wasm"));
    match &javascript {
        Ok(component) => table.lines.push(started(bench, JAVASCRIPT, component)?.target(7.0, 5.0)),
        Err(reason) => table.missing(JAVASCRIPT, reason),
    }
    let mut warm = Table::new("start", "a spare worker from its assignment to ready", "ms");
    warm.lines.push(assigned(bench, "WASM hello", &wat)?.target(1.5, 0.7));
    match bench.native_hello() {
        Ok(plugin) => warm.lines.push(assigned(bench, "native hello", &plugin)?.target(1.5, 0.7)),
        Err(reason) => warm.missing("native hello", reason),
    }
    if let Ok(component) = &javascript {
        warm.lines.push(assigned(bench, JAVASCRIPT, component)?);
    }
    Ok(vec![table, warm])
}

/// A worker that is added when a spare is there.
fn assigned(bench: &Bench, name: &'static str, plugin: &Path) -> Result<Line, String> {
    let launcher = Supervised::start(bench, name, plugin, "workers: 1, stop: { drain_timeout: 1s }")?;
    launcher.serves()?;
    let mut samples = Vec::new();
    for _ in 0..bench.options.samples(30) {
        let spares = launcher.spares(1)?;
        launcher.order(&["scale", "hello", "2"])?;
        let ready = launcher.wait("ready")?;
        let pid = ready.number("pid").ok_or("a worker is ready and does not say who it is")?;
        if !spares.iter().any(|spare| f64::from(*spare) == pid) {
            return Err(format!("worker {pid} was none of the spares {spares:?}"));
        }
        samples.push(ready.number("took_us").ok_or("a worker is ready and does not say when")? / 1e3);
        launcher.order(&["scale", "hello", "1"])?;
        launcher.wait("exited")?;
    }
    Ok(Line::new(name, samples))
}

fn started(bench: &Bench, name: &'static str, plugin: &Path) -> Result<Line, String> {
    let launcher = Supervised::cold(bench, name, plugin, "workers: 1, stop: { drain_timeout: 1s }")?;
    launcher.serves()?;
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
