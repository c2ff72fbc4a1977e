//! The command line. Errors become exit codes here and nowhere else: 0 done, 1 failed, 2 misuse or bad
//! configuration.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use launcher::master::Strictness;

mod inspect;

/// Runs WASM components and native plugins as supervised, hot-restarting worker processes.
#[derive(Parser)]
#[command(name = "launcher", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve what a configuration describes, in the foreground
    Run {
        #[command(flatten)]
        config: ConfigFile,
        /// End with code 1 if any service cannot be started (default: only if none can)
        #[arg(long)]
        strict: bool,
    },
    /// Check a configuration and its plugins without running anything
    Check(ConfigFile),
    /// Tell what a plugin is and what it needs, without running it
    Inspect {
        /// A .wasm, .wat or .so file
        plugin: PathBuf,
    },
    /// Print the JSON Schema of the configuration
    Schema,
    /// A worker process; started by `launcher run` only
    #[command(hide = true)]
    Worker {
        /// What is shown in the process list
        title: Vec<String>,
    },
}

#[derive(Args)]
struct ConfigFile {
    /// The configuration [default: config.yaml]
    file: Option<PathBuf>,
    /// The same, as an option
    #[arg(short, long = "config", value_name = "FILE", conflicts_with = "file")]
    config: Option<PathBuf>,
}

impl ConfigFile {
    fn path(self) -> PathBuf {
        self.file.or(self.config).unwrap_or_else(|| PathBuf::from("config.yaml"))
    }
}

/// A configuration or a plugin that is not good.
const BAD_INPUT: u8 = 2;
/// Something failed.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run { config, strict } => run(config, strict),
        Command::Check(config) => inspect::check(&config.path()),
        Command::Inspect { plugin } => inspect::inspect(&plugin),
        Command::Schema => inspect::schema(),
        Command::Worker { .. } => launcher::worker::main(),
    }
}

fn run(file: ConfigFile, strict: bool) -> ExitCode {
    let config = match launcher::config::load(&file.path()) {
        Ok(config) => config,
        Err(diagnostics) => {
            inspect::print_diagnostics(&diagnostics);
            return ExitCode::from(BAD_INPUT);
        }
    };
    inspect::print_diagnostics(&config.warnings);
    let strictness = if strict { Strictness::Strict } else { Strictness::Lenient };
    match launcher::master::run(config, strictness) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("launcher: {error}");
            ExitCode::from(FAILED)
        }
    }
}
