//! A master from its start to its end: the runtime, the journal, and what is let go when.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::sync::mpsc;
use wasm_host::Purpose;

use super::adoption::Legacy;
use super::journal::{self, Journal, Level};
use super::kept::Inheritance;
use super::signals::Signals;
use super::starter::Starter;
use super::{Event, Host, Master, StartError, Strictness, dev, lock};
use crate::config::{self, Config};
use crate::keeping::ToKeeper;

/// Events that may wait. More slow their senders down, which are tasks of one child each.
pub(super) const QUEUE: usize = 1024;
/// How long clients of the control socket may take to read that the launcher has stopped.
pub(super) const FAREWELL: Duration = Duration::from_millis(200);
/// How long processes that workers left behind may take to die in the end.
const LEFT_BEHIND: Duration = Duration::from_secs(1);

/// Run the launcher on a configuration until it is told to stop. A daemon has a `starter`. Without an inheritance the
/// launcher does not survive this process.
pub fn run(
    config: Config,
    strictness: Strictness,
    starter: Option<Starter>,
    inheritance: Option<Inheritance>,
) -> Result<ExitCode, StartError> {
    let master = config.master.clone();
    let log = starter.is_some().then(|| master.state_dir.join("launcher.log"));
    if starter.is_some() {
        // The log may be there before the lock, which makes the directory otherwise.
        lock::make_directory(&master.state_dir)?;
    }
    run_with(Purpose::Production, &master, log.clone(), starter, |journal, events| {
        Master::start(Purpose::Production, config, strictness, journal, events, Host::Launcher { inheritance, log })
    })
}

/// Run the launcher for somebody who writes its plugins: they are built again after every save.
pub fn develop(config: Config) -> Result<ExitCode, StartError> {
    let config = dev::adjust(config);
    let master = config.master.clone();
    run_with(Purpose::Development, &master, None, None, |journal, events| {
        let host = Host::Launcher { inheritance: None, log: None };
        Master::start(Purpose::Development, config, Strictness::Lenient, journal, events, host)
    })
}

/// Go on where another master ended.
pub fn go_on(legacy: Legacy, inheritance: Inheritance) -> Result<ExitCode, StartError> {
    let (master, log) = (legacy.config().master.clone(), legacy.launcher.log.clone());
    run_with(Purpose::Production, &master, log, None, |journal, events| {
        Master::adopt(legacy, inheritance, journal, events)
    })
}

fn run_with(
    purpose: Purpose,
    settings: &config::Master,
    log: Option<PathBuf>,
    starter: Option<Starter>,
    make: impl FnOnce(Journal, mpsc::Sender<Event>) -> Result<Master, StartError>,
) -> Result<ExitCode, StartError> {
    let system = |what| move |source| StartError::System { what, source };
    crate::sys::process::close_on_exec_everything().map_err(system("mark inherited descriptors close-on-exec"))?;
    let inherited = crate::sys::reaper::adopt().map_err(system("adopt orphans"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Copies and hashes plugins; more threads would only make a reload of many services greedier.
        .max_blocking_threads(2)
        .build()
        .map_err(system("start the event loop"))?;
    // A daemon has no terminal but while its starter waits.
    let terminal = starter.is_some() || log.is_none();
    let log = settings.log_file.clone().or(log);
    let journal = Journal::start(journal::Settings {
        format: settings.log_format,
        level: Level::named(&settings.log_level),
        file: log.clone().map(|path| settings.rotated(path)),
        terminal,
        terse: purpose == Purpose::Development,
    })
    .map_err(system("start the journal's threads"))?;
    let code = runtime.block_on(async {
        let (events, incoming) = mpsc::channel(QUEUE);
        let signals = Signals::new().map_err(system("install signal handlers"))?;
        tokio::spawn(crate::sys::reaper::reap_orphans().map_err(system("install signal handlers"))?);
        let mut master = make(journal.clone(), events)?;
        if let (Some(starter), Some(log)) = (starter, log) {
            master.starter = Some(starter.wait(&log).map_err(system("open the log"))?);
        }
        let code = master.serve(incoming, Some(signals)).await;
        let Some(code) = code else {
            // Another program takes over: nothing is let go.
            if let Some(control) = &master.control {
                control.finish(FAREWELL).await;
            }
            journal.finish();
            let reason = master.make_way();
            // It could not, and has taken its own descriptors apart: whoever keeps starts another.
            eprintln!("launcher: the other program could not be executed: {reason}");
            crate::sys::process::exit_at_once(1);
        };
        if let Some(control) = &master.control {
            control.finish(FAREWELL).await;
        }
        if let Some(keeping) = &mut master.keeping {
            keeping.tell(ToKeeper::Leaves(code), None);
            keeping.let_go(FAREWELL).await;
        }
        Ok(ExitCode::from(code))
    });
    journal.finish();
    // Not a drop: it would wait for a thread that copies a plugin nobody wants any more.
    runtime.shutdown_background();
    // What left the group of its worker has outlived it, and holds what it inherited: the listeners.
    crate::sys::reaper::end_descendants(&inherited, LEFT_BEHIND);
    code
}
