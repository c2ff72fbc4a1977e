//! The command line. Errors become exit codes here and nowhere else: 0 done, 1 failed, 2 misuse or bad
//! configuration, 3 not running, 4 reload rolled back.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use cli::client::Failure;
use cli::orders::{self, Order};
use cli::send::Receiver;
use cli::stream::{self, Part, Source};
use cli::{Ended, Format, Wait};
use launcher::config::Config;
use launcher::master::{Inheritance, StartError, Starter, Strictness};
use new::Template;
use reference::Subject;
use survival::Went;

mod cli;
mod daemon;
mod inspect;
mod new;
mod reference;
mod survival;

#[global_allocator]
static HEAP: launcher::Heap = launcher::Heap;

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
        /// Serve in the background: return when every service serves, or say why none does
        #[arg(long)]
        daemon: bool,
        /// This is the process that `--daemon` has started
        #[arg(long, hide = true, conflicts_with = "daemon")]
        daemonised: bool,
        /// What this process is for a launcher that runs already
        #[arg(long, hide = true, value_name = "ROLE")]
        role: Option<survival::Role>,
        /// The path by which the launcher was started
        #[arg(long, hide = true, value_name = "PATH")]
        program: Option<PathBuf>,
    },
    /// Begin a project: code, a configuration and a test
    New {
        /// Its directory; the last part is its name
        #[arg(value_name = "NAME", required_unless_present = "list")]
        directory: Option<PathBuf>,
        /// What to begin with
        #[arg(short, long, default_value = "rust")]
        template: Template,
        /// Take this worker-sdk instead of writing it into the project [Rust only]
        #[arg(long, value_name = "DIRECTORY")]
        sdk: Option<PathBuf>,
        /// Tell which templates there are
        #[arg(long)]
        list: bool,
    },
    /// Build, serve, and do both again after every save: for those who write plugins
    Dev(ConfigFile),
    /// Check a configuration and its plugins without running anything
    Check(ConfigFile),
    /// Show services and workers of the running launcher
    #[command(visible_aliases = ["ps", "ls"])]
    Status {
        /// Only these [default: all]
        #[arg(value_name = "SERVICE")]
        services: Vec<String>,
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        shown: Shown,
    },
    /// Take up changed files: a new generation takes over when it is ready
    Reload {
        /// Only these [default: all]
        #[arg(value_name = "SERVICE")]
        services: Vec<String>,
        #[command(flatten)]
        order: OrderArgs,
    },
    /// Replace every worker by a new one of the same generation, without a gap
    Restart {
        /// Only these [default: all]
        #[arg(value_name = "SERVICE")]
        services: Vec<String>,
        #[command(flatten)]
        order: OrderArgs,
    },
    /// Return to the generation that served before
    Rollback {
        /// This one
        service: String,
        #[command(flatten)]
        order: OrderArgs,
    },
    /// Run more or fewer workers
    Scale {
        /// This one
        service: String,
        /// So many, or so many more or fewer
        #[arg(value_name = "N|+N|-N", allow_negative_numbers = true, value_parser = workers)]
        workers: String,
        #[command(flatten)]
        order: OrderArgs,
    },
    /// Stop services, or the launcher itself; returns when they are gone
    Stop {
        /// These [default: the launcher itself]
        #[arg(value_name = "SERVICE")]
        services: Vec<String>,
        /// Do not finish what is in flight
        #[arg(long, conflicts_with = "services")]
        now: bool,
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        shown: Shown,
    },
    /// Start services that were stopped
    Start {
        /// These
        #[arg(value_name = "SERVICE", required = true)]
        services: Vec<String>,
        #[command(flatten)]
        order: OrderArgs,
    },
    /// Give plugins a message; returns when they have it
    Send {
        /// Every worker of a service, the one in a slot, or the one of an id
        #[arg(value_name = "SERVICE[/SLOT|/@WORKER]")]
        to: Receiver,
        /// Any JSON, at most 64 KiB
        #[arg(value_name = "JSON", value_parser = cli::send::message)]
        message: serde_json::Value,
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        shown: Shown,
    },
    /// Show what workers and the launcher have written
    Logs {
        /// Only of these [default: of all, and of the launcher]
        #[arg(value_name = "SERVICE")]
        services: Vec<String>,
        #[command(flatten)]
        stream: StreamArgs,
    },
    /// Show what has happened
    Events {
        #[command(flatten)]
        stream: StreamArgs,
    },
    /// Show what a configuration would change in the running launcher
    Plan {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        shown: Shown,
    },
    /// Change the running launcher to what a configuration says
    Apply {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        wait: WaitArgs,
        #[command(flatten)]
        shown: Shown,
    },
    /// Let another version of the launcher take over; workers are replaced without a gap
    Upgrade {
        /// The program [default: the one at the path by which the launcher was started]
        program: Option<PathBuf>,
        #[command(flatten)]
        order: OrderArgs,
    },
    /// Tell what a plugin is and what it needs, without running it
    Inspect {
        /// A .wasm, .wat or .so file
        plugin: PathBuf,
    },
    /// Print the JSON Schema of the configuration
    Schema,
    /// Print a script that completes this command line
    Completions { shell: Shell },
    /// Tell which versions of the launcher can go on for this one
    #[command(hide = true)]
    Contracts,
    /// Print a page of the documentation
    #[command(hide = true)]
    Reference { subject: Subject },
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

/// Which launcher.
#[derive(Args)]
struct Which {
    /// The configuration of the launcher that is meant
    #[arg(short, long = "config", value_name = "FILE", default_value = "config.yaml")]
    config: PathBuf,
}

#[derive(Args)]
struct Shown {
    /// How results are shown
    #[arg(short, long = "output", value_name = "FORMAT", default_value = "table")]
    output: Format,
}

#[derive(Args)]
struct WaitArgs {
    /// Wait for the end; code 4 if what is new was rolled back
    #[arg(long)]
    wait: bool,
}

impl WaitArgs {
    fn meant(&self) -> Wait {
        if self.wait { Wait::End } else { Wait::Acceptance }
    }
}

#[derive(Args)]
struct OrderArgs {
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    shown: Shown,
}

#[derive(Args)]
struct StreamArgs {
    /// Go on with what comes, until the launcher stops
    #[arg(short, long)]
    follow: bool,
    /// The last so many
    #[arg(short = 'n', long, value_name = "N")]
    lines: Option<u64>,
    /// From then on: `10m` ago, or 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    shown: Shown,
}

/// A number of workers as it is typed: `4`, `+1`, `-1`.
fn workers(text: &str) -> Result<String, &'static str> {
    match text.strip_prefix(['+', '-']).unwrap_or(text).parse::<u32>() {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("neither a number of workers nor a difference: 4, +1, -1"),
    }
}

/// A configuration or a plugin that is not good.
const BAD_INPUT: u8 = 2;
/// Something failed.
const FAILED: u8 = 1;
/// There is no launcher to steer.
const NOT_RUNNING: u8 = 3;
/// A reload was rolled back.
const ROLLED_BACK: u8 = 4;

fn main() -> ExitCode {
    let order = |order: Order, services: &[String], typed: OrderArgs| {
        steered(orders::order(&typed.which.config, &order, services, typed.wait.meant(), typed.shown.output))
    };
    match Cli::parse().command {
        Command::Status { services, which, shown } => {
            steered(cli::status::status(&which.config, &services, shown.output))
        }
        Command::Reload { services, order: typed } => order(Order::Reload, &services, typed),
        Command::Restart { services, order: typed } => order(Order::Restart, &services, typed),
        Command::Rollback { service, order: typed } => order(Order::Rollback, &[service], typed),
        Command::Scale { service, workers, order: typed } => order(Order::Scale(workers), &[service], typed),
        Command::Start { services, order: typed } => order(Order::Start, &services, typed),
        Command::Stop { services, now, which, shown } if services.is_empty() => {
            steered(orders::stop_launcher(&which.config, now, shown.output))
        }
        Command::Stop { services, which, shown, .. } => {
            steered(orders::order(&which.config, &Order::Stop, &services, Wait::End, shown.output))
        }
        Command::Send { to, message, which, shown } => {
            steered(cli::send::send(&which.config, to, message, shown.output))
        }
        Command::Logs { services, stream } => streamed(Source::Logs, services, stream),
        Command::Events { stream } => streamed(Source::Events, Vec::new(), stream),
        Command::Plan { config, shown } => steered(cli::plan::plan(&config.path(), shown.output)),
        Command::Apply { config, wait, shown } => steered(cli::plan::apply(&config.path(), wait.meant(), shown.output)),
        Command::Completions { shell } => completions(shell),
        Command::Run { config, strict, daemon, daemonised, role, program } => {
            let strictness = if strict { Strictness::Strict } else { Strictness::Lenient };
            if daemon {
                return daemon::start(&config.path(), strictness);
            }
            let inheritance = match survival::of(role, program, daemonised) {
                Ok(inheritance) => inheritance,
                Err(ended) => return ended,
            };
            run(config, strictness, daemonised, inheritance)
        }
        Command::Upgrade { program, order: typed } => {
            let OrderArgs { wait, which, shown } = typed;
            steered(cli::upgrade::upgrade(&which.config, program.as_deref(), wait.meant(), shown.output))
        }
        Command::Contracts => steered(cli::print_json(&launcher::master::Contracts::own()).map(|()| Ended::Done)),
        Command::New { list: true, .. } => printed(&new::list()),
        Command::New { directory, template, sdk, .. } => {
            match new::create(&directory.unwrap_or_default(), template, sdk.as_deref()) {
                Ok(words) => printed(&words),
                Err(error) => {
                    eprintln!("error: {error}");
                    ExitCode::from(BAD_INPUT)
                }
            }
        }
        Command::Dev(config) => serve(config, launcher::master::develop),
        Command::Check(config) => inspect::check(&config.path()),
        Command::Inspect { plugin } => inspect::inspect(&plugin),
        Command::Schema => inspect::schema(),
        Command::Reference { subject } => printed(&reference::page(subject, Cli::command())),
        Command::Worker { .. } => ExitCode::from(launcher::worker::main()),
    }
}

/// How a command that steered the launcher ended, as an exit code.
fn steered(result: Result<Ended, Failure>) -> ExitCode {
    let ended = result.unwrap_or_else(|failure| {
        failure.tell();
        failure.ended()
    });
    match ended {
        Ended::Done => ExitCode::SUCCESS,
        Ended::Failed => ExitCode::from(FAILED),
        Ended::Misuse => ExitCode::from(BAD_INPUT),
        Ended::NotRunning => ExitCode::from(NOT_RUNNING),
        Ended::RolledBack => ExitCode::from(ROLLED_BACK),
    }
}

fn streamed(source: Source, services: Vec<String>, typed: StreamArgs) -> ExitCode {
    let StreamArgs { follow, lines, since, which, shown } = typed;
    steered(stream::show(&which.config, source, &Part { services, follow, lines, since }, shown.output))
}

fn printed(text: &str) -> ExitCode {
    steered(cli::print(text.as_bytes()).map(|()| Ended::Done))
}

fn completions(shell: Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "launcher", &mut script);
    steered(cli::print(&script).map(|()| Ended::Done))
}

fn run(file: ConfigFile, strictness: Strictness, daemonised: bool, inheritance: Option<Inheritance>) -> ExitCode {
    let inheritance = match inheritance.map(survival::go_on).transpose() {
        Ok(Some(Went::On(code))) => return code,
        Ok(Some(Went::Nowhere(inheritance))) => Some(inheritance),
        Ok(None) => None,
        Err(error) => return failed(&error),
    };
    let starter = match daemonised.then(|| Starter::meet(inheritance.is_some())).transpose() {
        Ok(starter) => starter,
        Err(error) => {
            eprintln!("launcher: --daemonised is for `launcher run --daemon` only: {error}");
            return ExitCode::from(BAD_INPUT);
        }
    };
    serve(file, |config| launcher::master::run(config, strictness, starter, inheritance))
}

fn serve(file: ConfigFile, master: impl FnOnce(Config) -> Result<ExitCode, StartError>) -> ExitCode {
    let config = match launcher::config::load(&file.path()) {
        Ok(config) => config,
        Err(diagnostics) => {
            cli::print_diagnostics(&diagnostics);
            return ExitCode::from(BAD_INPUT);
        }
    };
    cli::print_diagnostics(&config.warnings);
    match master(config) {
        Ok(code) => code,
        Err(error) => failed(&error),
    }
}

fn failed(error: &StartError) -> ExitCode {
    eprintln!("launcher: {error}");
    ExitCode::from(FAILED)
}
