//! `cargo run --release -p faults -- …`: see `README.md`.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use faults::fault::FAULTS;
use faults::handover::{self, Language};
use faults::options::{Options, USAGE, choose, duration};
use faults::{launcher, plugins, report, run};

fn main() -> ExitCode {
    match start(std::env::args().skip(1).collect()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("faults: {error}");
            ExitCode::from(2)
        }
    }
}

/// What was typed.
#[derive(Default)]
struct Typed {
    seed: Option<u64>,
    time: Option<Duration>,
    list: Option<String>,
    binary: Option<PathBuf>,
    results: Option<PathBuf>,
    kind: Option<String>,
    count: Option<usize>,
}

fn start(mut arguments: VecDeque<String>) -> Result<bool, String> {
    let measures = ["reloads", "idle", "latency"];
    let measure = arguments.pop_front_if(|first| measures.contains(&first.as_str()));
    let mut typed = Typed::default();
    while let Some(argument) = arguments.pop_front() {
        match argument.as_str() {
            "--list" => {
                for fault in FAULTS {
                    println!("{:<24} {}", fault.name, fault.what);
                }
                return Ok(true);
            }
            "--help" | "-h" => {
                println!("{USAGE}");
                return Ok(true);
            }
            _ => {}
        }
        let value = arguments.pop_front().ok_or_else(|| format!("{argument} needs a value\n{USAGE}"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{argument} {value}: not a number"));
        match argument.as_str() {
            "--seed" => typed.seed = Some(number()?),
            "--for" => typed.time = Some(duration(&value)?),
            "--faults" => typed.list = Some(value),
            "--binary" => typed.binary = Some(value.into()),
            "--results" => typed.results = Some(value.into()),
            "--kind" => typed.kind = Some(value),
            "--count" => typed.count = Some(usize::try_from(number()?).unwrap_or(usize::MAX)),
            _ => return Err(format!("unknown argument {argument}\n{USAGE}")),
        }
    }
    let faults = choose(typed.list.as_deref())?;
    build(typed.binary.is_none())?;
    let program = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    let libraries = program.parent().map(Path::to_owned).unwrap_or_default();
    let binary = launcher::binary(typed.binary.as_deref().map(Path::as_os_str))?;
    match measure.as_deref() {
        Some(measure) => measured(measure, &binary, &libraries.join("libhello.so"), &typed),
        None => {
            let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_secs());
            let options = Options {
                libraries,
                binary,
                seed: typed.seed.unwrap_or(clock),
                time: typed.time.unwrap_or(Duration::from_secs(60)),
                faults,
                list: typed.list,
            };
            scheduled(&options, typed.results.as_deref())
        }
    }
}

fn scheduled(options: &Options, results: Option<&Path>) -> Result<bool, String> {
    println!("seed {}", options.seed);
    let outcome = run::run(options, |line| println!("{line}"))?;
    print!("{}", report::text(options, &outcome));
    if let Some(path) = results {
        let written = std::fs::write(path, report::markdown(options, &outcome));
        written.map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    Ok(outcome.good())
}

/// The plugins, and the launcher unless another one is named, as they are now.
fn build(launcher: bool) -> Result<(), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut arguments = vec!["build", "--release", "--quiet", "-p", "hello", "-p", "misbehave"];
    if launcher {
        arguments.extend(["-p", "launcher"]);
    }
    match Command::new(cargo).args(&arguments).current_dir(plugins::project()?).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("cargo {} failed: {status}", arguments.join(" "))),
        Err(error) => Err(format!("cargo does not start: {error}")),
    }
}

fn measured(measure: &str, binary: &Path, hello: &Path, typed: &Typed) -> Result<bool, String> {
    let languages: Vec<Language> = match typed.kind.as_deref() {
        None => Language::ALL.to_vec(),
        Some("c") => vec![Language::C],
        Some("rust") => vec![Language::Rust],
        Some("wasm") => vec![Language::Wasm],
        Some(other) => return Err(format!("--kind {other}: c, rust or wasm")),
    };
    println!("{}", report::machine());
    let mut good = true;
    for language in languages {
        let name = language.name();
        match measure {
            "reloads" => {
                let count = u32::try_from(typed.count.unwrap_or(50)).unwrap_or(u32::MAX);
                let series = handover::reloads::run(binary, language, hello, count, typed.seed.unwrap_or(1))?;
                good &= series.complaints.is_empty() && series.reconnects == 0;
                println!(
                    "{name}: {count} reloads, {} answers of {} versions, {} complaints, {} reconnects; the old workers \
                     were gone after {} ms (median; {} at most); longest wait {:.1} ms",
                    series.answered,
                    series.versions,
                    series.complaints.len(),
                    series.reconnects,
                    series.left[series.left.len() / 2],
                    series.left.last().copied().unwrap_or_default(),
                    series.worst.as_secs_f64() * 1e3,
                );
                for complaint in series.complaints.iter().take(10) {
                    println!("  {complaint}");
                }
            }
            "idle" => {
                let count = typed.count.unwrap_or(10_000);
                for moved in handover::idle::run(binary, language, hello, count, 5)? {
                    println!(
                        "{name}: {count} idle connections moved in {} ms; others waited {:.1} ms at most, {:.1} ms before",
                        moved.took_ms,
                        moved.worst.as_secs_f64() * 1e3,
                        moved.calm.as_secs_f64() * 1e3,
                    );
                }
            }
            _ => {
                for pair in handover::latency::run(binary, language, hello, 10, typed.count.unwrap_or(3))? {
                    let ms = |time: Duration| time.as_secs_f64() * 1e3;
                    let (calm, reloading) = (pair.calm, pair.reloading);
                    println!(
                        "{name}: {} requests a second, p50 {:.2} -> {:.2} ms, p99.9 {:.2} -> {:.2} ms ({:.1} x), worst \
                         {:.1} -> {:.1} ms, with {} reloads",
                        calm.rate,
                        ms(calm.p50),
                        ms(reloading.p50),
                        ms(calm.p999),
                        ms(reloading.p999),
                        ms(reloading.p999) / ms(calm.p999),
                        ms(calm.worst),
                        ms(reloading.worst),
                        reloading.reloads,
                    );
                }
            }
        }
    }
    Ok(good)
}
