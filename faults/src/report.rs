//! A result, as text and as Markdown.

use std::fmt::Write as _;
use std::fs;

use crate::fault::named;
use crate::options::Options;
use crate::run::Outcome;

/// The command that repeats a run.
pub fn command(options: &Options) -> String {
    let mut command = format!(
        "cargo run --release -p faults -- --seed {} --for {}s",
        options.seed,
        options.time.as_secs_f64().ceil()
    );
    if let Some(list) = &options.list {
        let _ = write!(command, " --faults {list}");
    }
    command
}

/// What runs beneath: kernel, processors, memory.
pub fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let memory = read("/proc/meminfo");
    let memory = memory.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok()).unwrap_or_default();
    let load = read("/proc/loadavg");
    format!(
        "Linux {}, {processors} processors ({}), {} GiB of memory, load {} at the end",
        kernel.trim(),
        model.trim_start_matches([' ', '\t', ':']),
        memory >> 20,
        load.split_whitespace().next().unwrap_or_default(),
    )
}

fn verdict(outcome: &Outcome) -> &'static str {
    if outcome.good() { "nothing lost, nothing leaked" } else { "FAILED" }
}

/// The figures, by name.
fn figures(outcome: &Outcome) -> Vec<(&'static str, String)> {
    vec![
        ("faults", outcome.rows.values().map(|row| row.times).sum::<u32>().to_string()),
        ("answers", outcome.answered.to_string()),
        ("clients that keep a connection", outcome.keepers.to_string()),
        ("failed", outcome.failed.to_string()),
        ("refused", outcome.refused.to_string()),
        ("told to reconnect", outcome.reconnected.to_string()),
        ("hung", outcome.hung.to_string()),
        ("wrong", outcome.wrong.to_string()),
        ("leaked", outcome.leaked.len().to_string()),
        ("excused: its worker was killed or had no memory", outcome.excused.to_string()),
        ("longest wait", format!("{:.0} ms", outcome.worst.as_secs_f64() * 1e3)),
    ]
}

/// For a terminal.
pub fn text(options: &Options, outcome: &Outcome) -> String {
    let mut text = String::new();
    if !outcome.good() {
        text += "\nsteps:\n";
        for step in &outcome.steps {
            let _ = writeln!(text, "  {step}");
        }
        text += "\nlog of the launcher around it:\n";
        for line in &outcome.story {
            let _ = writeln!(text, "  {line}");
        }
    }
    let _ = writeln!(text, "\n{:<24} {:>6}  {:>12}", "fault", "times", "recovery");
    for (name, row) in &outcome.rows {
        let _ = writeln!(text, "{name:<24} {:>6}  {:>9} ms", row.times, row.recovery.as_millis());
    }
    text.push('\n');
    for (name, figure) in figures(outcome) {
        let _ = writeln!(text, "{name:<46} {figure:>10}");
    }
    for what in &outcome.without {
        let _ = writeln!(text, "not possible here: {what}");
    }
    for what in outcome.failures.iter().chain(&outcome.leaked) {
        let _ = writeln!(text, "FAILED: {what}");
    }
    let _ =
        writeln!(text, "\n{} in {:.0} s; again: {}", verdict(outcome), outcome.time.as_secs_f64(), command(options));
    text
}

/// For the repository.
pub fn markdown(options: &Options, outcome: &Outcome) -> String {
    let mut text = format!("# Faults, seed {}: {}\n\n", options.seed, verdict(outcome));
    let _ = writeln!(text, "    {}\n\n{}; {:.0} s.\n", command(options), machine(), outcome.time.as_secs_f64());
    text += "| | |\n|---|---:|\n";
    for (name, figure) in figures(outcome) {
        let _ = writeln!(text, "| {name} | {figure} |");
    }
    if let Some((early, late)) = &outcome.footprints {
        let _ = writeln!(
            text,
            "| the master's descriptors, after half of the time and at the end | {}, {} |\n\
             | the master's memory, likewise | {} KiB, {} KiB |",
            early.descriptors.values().sum::<usize>(),
            late.descriptors.values().sum::<usize>(),
            early.resident,
            late.resident,
        );
    }
    text += "\n| fault | what happens | times | longest recovery |\n|---|---|---:|---:|\n";
    for (name, row) in &outcome.rows {
        let what = named(name).map_or("", |fault| fault.what);
        let _ = writeln!(text, "| {name} | {what} | {} | {} ms |", row.times, row.recovery.as_millis());
    }
    text += "\nThe wall clock jumps for the launcher and its workers alone (a library loaded into them); not the machine's.\n";
    for what in &outcome.without {
        let _ = writeln!(text, "Not possible there: {what}.");
    }
    for what in outcome.failures.iter().chain(&outcome.leaked) {
        let _ = writeln!(text, "\nFAILED: {what}");
    }
    text
}
