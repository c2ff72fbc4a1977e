//! 200 services of one worker each: how long until all serve, and what the master takes then.

use std::fs;
use std::time::Instant;

use crate::bench::Bench;
use crate::figures::{Line, Table};
use crate::supervised::{Supervised, milliseconds};
use crate::usage;

const SERVICES: usize = 200;

pub(super) fn run(bench: &Bench) -> Result<Vec<Table>, String> {
    let mut time = Table::new("many", format!("{SERVICES} services × 1 worker until all serve"), "s");
    let mut memory = Table::new("many", "and what the master takes then, PSS", "MiB");
    let place = bench.scratch("many")?;
    let config = place.join("config.yaml");
    let plugin = bench.wasm_hello();
    let mut text = format!(
        "master: {{ state_dir: {:?}, log: {{ format: json, level: info }} }}\nservices:\n",
        place.join("state")
    );
    for number in 0..SERVICES {
        text += &format!("  hello-{number}: {{ plugin: {plugin:?}, listen: '127.0.0.1:0', workers: 1 }}\n");
    }
    fs::write(&config, text).map_err(|error| error.to_string())?;
    let (mut took, mut sizes) = (Vec::new(), Vec::new());
    // The first fills the cache.
    for round in 0..=bench.options.samples(5) {
        let from = Instant::now();
        let launcher = Supervised::run(bench, "200 services", config.clone())?;
        let serving = launcher.wait("serving")?;
        if round > 0 {
            took.push(milliseconds(from, serving.at) / 1e3);
            sizes.push(usage::memory(&[launcher.master()?]) as f64 / 1024.0);
        }
    }
    time.lines.push(Line::new("WASM hello", took).target(3.0, 1.0));
    memory.lines.push(Line::new("WASM hello", sizes).target(25.0, 25.0));
    Ok(vec![time, memory])
}
