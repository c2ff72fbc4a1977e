//! What a request costs behind the launcher, beside the same handler on a bare server. See `README.md`.
//!
//! Flow: build, start every server, then rounds: each server gets the same load for a moment, one after the other, and
//! what it used is divided by what it answered. A figure is the median of its rounds, a ratio the median of the ratios
//! within one round, so that what slows the machine down slows both.

mod bare;
mod client;
mod messages;
mod server;
mod spread;
mod table;
mod usage;

use std::error::Error;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use server::{Entry, Places, SERVERS, Server};
use table::{Row, Sample};

const USAGE: &str =
    "cargo run --release -p bench -- [messages] [--rounds N] [--seconds S] [--connections C] [--only TEXT] [--markdown]
       cargo run --release -p bench -- spread
  messages         messages between workers beside Node's, and nothing else
  spread           how connections spread over workers, and nothing else
  --rounds N       rounds (11)
  --seconds S      load for each server in a round (1)
  --connections C  keep-alive connections (16)
  --only TEXT      the servers whose name contains it, and what they are compared with
  --markdown       print the table as Markdown";

struct Options {
    rounds: usize,
    time: Duration,
    connections: usize,
    only: String,
    markdown: bool,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    let outcome = match arguments.peek().map(String::as_str) {
        Some("bare") => bare::serve(),
        Some("messages") => {
            options(arguments.skip(1)).map_err(Into::into).and_then(|options| compare_messages(&options))
        }
        Some("spread") => spread(),
        _ => options(arguments).map_err(Into::into).and_then(|options| run(&options)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options =
        Options { rounds: 11, time: Duration::from_secs(1), connections: 16, only: String::new(), markdown: false };
    while let Some(argument) = arguments.next() {
        if argument == "--markdown" {
            options.markdown = true;
            continue;
        }
        let value = arguments.next().unwrap_or_default();
        let wrong = |_| format!("{argument} {value}: not a number\n{USAGE}");
        match argument.as_str() {
            "--rounds" => options.rounds = value.parse::<usize>().map_err(|e| wrong(e.to_string()))?.max(1),
            "--connections" => options.connections = value.parse::<usize>().map_err(|e| wrong(e.to_string()))?.max(1),
            "--seconds" => {
                let seconds = value.parse::<f64>().map_err(|e| wrong(e.to_string()))?;
                options.time = Duration::try_from_secs_f64(seconds).map_err(|e| wrong(e.to_string()))?;
            }
            "--only" => options.only.clone_from(&value),
            _ => return Err(format!("unknown argument {argument}\n{USAGE}")),
        }
    }
    Ok(options)
}

/// `bench messages`: only `--rounds` counts.
fn compare_messages(options: &Options) -> Result<(), Box<dyn Error>> {
    let scratch = tempfile::tempdir()?;
    messages::compare(&prepare(scratch.path(), "courier")?, options.rounds)
}

/// Builds what is measured, and says where it is.
fn prepare(scratch: &Path, plugin: &str) -> Result<Places, Box<dyn Error>> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("the project's directory is gone")?;
    build(project, plugin)?;
    let program = std::env::current_exe()?;
    Ok(Places {
        project: project.to_owned(),
        built: program.parent().ok_or("this program is in no directory")?.to_owned(),
        scratch: scratch.to_owned(),
    })
}

fn spread() -> Result<(), Box<dyn Error>> {
    let scratch = tempfile::tempdir()?;
    spread::run(&prepare(scratch.path(), "misbehave")?)
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let scratch = tempfile::tempdir()?;
    let places = prepare(scratch.path(), "hello")?;
    let mut servers = Vec::new();
    let chosen = |entry: &&Entry| entry.name.contains(&options.only);
    let baselines: Vec<&str> = SERVERS.iter().filter(chosen).map(|entry| entry.baseline).collect();
    for entry in SERVERS.iter().filter(|entry| chosen(entry) || baselines.contains(&entry.name)) {
        // A baseline comes before what is compared with it.
        if entry.name != entry.baseline && !servers.iter().any(|server: &Server| server.name == entry.baseline) {
            eprintln!("bench: without {}: {} is not there", entry.name, entry.baseline);
            continue;
        }
        match (entry.start)(entry.name, &places) {
            Ok(server) => servers.push(server),
            Err(reason) => eprintln!("bench: without {}: {reason}", entry.name),
        }
    }
    if servers.is_empty() {
        return Err("there is nothing to compare".into());
    }
    let rows = measure(options, &servers)?;
    print!("{}", if options.markdown { table::markdown(&rows) } else { table::text(&rows) });
    Ok(())
}

/// The launcher and a plugin as they are now.
fn build(project: &Path, plugin: &str) -> Result<(), Box<dyn Error>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["build", "--release", "--quiet", "-p", "launcher", "-p", plugin];
    match Command::new(cargo).args(arguments).current_dir(project).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("cargo {} failed: {status}", arguments.join(" ")).into()),
        Err(error) => Err(format!("cargo does not start: {error}").into()),
    }
}

fn measure(options: &Options, servers: &[Server]) -> Result<Vec<Row>, Box<dyn Error>> {
    let baseline = |name| SERVERS.iter().find(|entry| entry.name == name).map_or(name, |entry| entry.baseline);
    let mut rows: Vec<Row> = servers.iter().map(|server| Row::new(server.name, baseline(server.name))).collect();
    for server in servers {
        load(server, options, Duration::from_millis(300))?;
    }
    for round in 0..options.rounds {
        eprint!("\rround {} of {} ", round + 1, options.rounds);
        for (server, row) in servers.iter().zip(&mut rows) {
            row.samples.push(load(server, options, options.time)?);
        }
    }
    eprintln!();
    for (server, row) in servers.iter().zip(&mut rows) {
        row.memory = usage::memory(&usage::family(server.pid()));
    }
    Ok(rows)
}

fn load(server: &Server, options: &Options, time: Duration) -> Result<Sample, Box<dyn Error>> {
    let family = usage::family(server.pid());
    let before = usage::processor_time(&family);
    let done = client::load(server.address, options.connections, time);
    let done = done.map_err(|error| format!("{}: {error}", server.name))?;
    let used = usage::processor_time(&family).saturating_sub(before);
    if done.requests == 0 {
        return Err(format!("{}: no request was answered", server.name).into());
    }
    let requests = done.requests as f64;
    Ok(Sample { cost: used.as_secs_f64() * 1e6 / requests, rate: requests / done.time.as_secs_f64() })
}
