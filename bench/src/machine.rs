//! What the figures were measured on.

use std::fs;
use std::process::Command;

use crate::bench::Bench;

/// Facts about the machine and the programs, each with its name.
pub(crate) fn describe(bench: &Bench) -> Vec<(&'static str, String)> {
    let processors = std::thread::available_parallelism().map_or_else(|_| "unknown".to_owned(), |n| n.to_string());
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    let options = &bench.options;
    let mut found = vec![
        ("processor", field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned())),
        ("processors", processors),
        ("memory", field("/proc/meminfo", "MemTotal").unwrap_or_else(|| "unknown".to_owned())),
        ("kernel", fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()),
        ("load at the end", load),
        ("launcher", said(&bench.binary.display().to_string(), &["--version"])),
        ("commit", said_in(bench, "git", &["describe", "--always", "--dirty"])),
        ("rustc", said("rustc", &["--version"])),
        (
            "rounds",
            format!("{} of {} ms, {} connections", options.rounds, options.time.as_millis(), options.connections),
        ),
    ];
    if options.quick {
        found.push(("note", "a quick run: it shows that everything works, and the figures mean little".to_owned()));
    }
    found
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
    line.split_once(':').map(|(_, value)| value.trim().to_owned())
}

fn said(program: &str, arguments: &[&str]) -> String {
    first_line(Command::new(program).args(arguments))
}

fn said_in(bench: &Bench, program: &str, arguments: &[&str]) -> String {
    first_line(Command::new(program).args(arguments).current_dir(&bench.project))
}

fn first_line(command: &mut Command) -> String {
    let output = command.output().ok().filter(|output| output.status.success());
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}
