//! Facts as sentences for people, without the service's name.

use std::time::Duration;

use super::fact::Fact;

impl Fact {
    /// The fact as a sentence.
    pub fn sentence(&self) -> String {
        match self {
            Fact::Starting { version, pid, config } => format!("launcher {version}, pid {pid}, {config}"),
            Fact::Adopted { version, pid, workers, services, before, how, after_ms, .. } => format!(
                "launcher {version}, pid {pid}: adopted {} of {} after the master (pid {before}) {how}, after {}",
                counted(*workers, "worker"),
                counted(*services, "service"),
                Took(*after_ms)
            ),
            Fact::KeeperReplaced { keeper } => {
                format!("the keeper is gone; another one was started, pid {keeper}, and has everything")
            }
            Fact::UpgradeStarted { program, version, trigger } => {
                format!("upgrade to launcher {version} ({trigger}): {program} takes over")
            }
            Fact::UpgradeFailed { program, reason } => {
                format!("not upgraded to {program}: {reason}; everything goes on as it was")
            }
            Fact::Upgraded { version } => format!("launcher {version} has taken over; its workers are replaced"),
            Fact::Building { command, .. } => format!("the plugin is missing; building it: {command}"),
            Fact::Built { took_ms, .. } => format!("built in {}", Took(*took_ms)),
            Fact::Swapped { changed, build_ms, swap_ms, generation, .. } => format!(
                "{}built in {}, swapped in {}, generation {}",
                changed_files(changed),
                Took(*build_ms),
                Took(*swap_ms),
                generation.0
            ),
            Fact::Rebuilt { changed, build_ms, .. } => {
                format!("{}built in {}, the plugin is the same", changed_files(changed), Took(*build_ms))
            }
            Fact::BuildFailed { changed, build_ms, reason, generation, .. } => {
                let goes_on = match generation {
                    Some(generation) => format!("generation {} goes on", generation.0),
                    None => "nothing serves yet".to_owned(),
                };
                let changed = changed_files(changed);
                format!("{changed}the build failed after {} ({reason}); {goes_on}", Took(*build_ms))
            }
            Fact::Listening { address, .. } => format!("listening on {address}"),
            Fact::Spawned(w) => format!("worker {} spawned, pid {}, generation {}", w.worker.0, w.pid, w.generation.0),
            Fact::Ready { worker: w, took_ms, .. } => {
                format!(
                    "worker {} ready, pid {}, generation {}, after {}",
                    w.worker.0,
                    w.pid,
                    w.generation.0,
                    Took(*took_ms)
                )
            }
            Fact::Recycling { worker: w, reason } => {
                format!("worker {} (pid {}) is to be replaced: {reason}", w.worker.0, w.pid)
            }
            Fact::Draining(w) => {
                format!("worker {} draining, pid {}, generation {}", w.worker.0, w.pid, w.generation.0)
            }
            Fact::Stuck { worker: w, silent_ms, backtrace } => {
                let frames = match backtrace.is_empty() {
                    true => "; it does not say where".to_owned(),
                    false => backtrace.iter().map(|frame| format!("\n  {frame}")).collect(),
                };
                format!(
                    "worker {} (pid {}) is stuck: its loop has stood still for {}; it is replaced{frames}",
                    w.worker.0,
                    w.pid,
                    Took(*silent_ms)
                )
            }
            Fact::Message { worker: w, body, .. } => format!("worker {} says {}", w.worker.0, Short(body.json())),
            Fact::MessageRefused { worker, who, reason, .. } => {
                format!("a message {who} was not taken by worker {worker}: {reason}")
            }
            Fact::Exited { worker: w, reason, .. } => {
                format!("worker {} (pid {}, generation {}) {reason}", w.worker.0, w.pid, w.generation.0)
            }
            Fact::SpawnFailed { slot, reason, .. } => {
                format!("no worker could be started for slot {}: {reason}", slot.0)
            }
            Fact::ReloadStarted { generation, trigger, .. } => format!("generation {} starts: {trigger}", generation.0),
            Fact::Unchanged { trigger, .. } => format!("nothing to reload: {trigger}, but the contents are the same"),
            Fact::Promoted { generation, took_ms, trigger, workers, .. } => {
                let workers = counted(u64::from(*workers), "worker");
                format!("generation {} serves with {workers} after {} ({trigger})", generation.0, Took(*took_ms))
            }
            Fact::Superseded { generation, .. } => format!("generation {} gives way to a newer one", generation.0),
            Fact::RolledBack { generation, reason, .. } => {
                format!("generation {} was rolled back: {reason}", generation.0)
            }
            Fact::ReloadFailed { trigger, reason, .. } => format!("not reloaded ({trigger}): {reason}"),
            Fact::ServiceFailed { reason, .. } => format!("failed: {reason}"),
            Fact::ServiceRecovered { .. } => "serves again".to_owned(),
            Fact::ServiceAdded { .. } => "added".to_owned(),
            Fact::ServiceRemoved { .. } => "removed: its workers drain".to_owned(),
            Fact::ServiceStopped { trigger, .. } => format!("stopped ({trigger})"),
            Fact::ServiceStarted { trigger, .. } => format!("started ({trigger})"),
            Fact::Scaled { from, to, trigger, .. } => {
                format!("{from} -> {} ({trigger})", counted(u64::from(*to), "worker"))
            }
            Fact::Restarted { took_ms, trigger, .. } => {
                format!("every worker was replaced after {} ({trigger})", Took(*took_ms))
            }
            Fact::ConfigApplied { trigger, changed } if changed.is_empty() => {
                format!("configuration read ({trigger}): nothing changed")
            }
            Fact::ConfigApplied { trigger, changed } => {
                format!("configuration applied ({trigger}): {}", changed.join(", "))
            }
            Fact::ConfigRejected { trigger, reason } => {
                format!("configuration rejected ({trigger}); everything goes on as it was\n{reason}")
            }
            Fact::Serving { services, failed, took_ms } if failed.is_empty() => {
                format!("serving {} after {}", services.join(", "), Took(*took_ms))
            }
            Fact::Serving { services, failed, took_ms } => {
                format!("serving {} after {}; failed: {}", services.join(", "), Took(*took_ms), failed.join(", "))
            }
            Fact::Signal { name, effect } => format!("{name}: {effect}"),
            Fact::Stopping { reason } => format!("stopping: {reason}"),
            Fact::Stopped { uptime_s } => format!("stopped after {uptime_s} s"),
            Fact::Trouble { reason } => reason.clone(),
            Fact::LinesDropped { slot, lines, bytes, destination, .. } => format!(
                "{} of the worker in slot {} dropped ({bytes} bytes): they came faster than {destination} takes them",
                counted(*lines, "line"),
                slot.0
            ),
            Fact::FactsDropped { facts, destination } => {
                let facts = counted(*facts, "line");
                format!("{facts} of the launcher's own dropped: they came faster than {destination} takes them")
            }
            Fact::LogFailed { path, reason } => {
                format!("the log {path} cannot be written: {reason}; it is tried again until it can")
            }
            Fact::LogReopened { path } => format!("the log {path} was opened anew"),
        }
    }
}

/// `1 worker`, `2 workers`
fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// The beginning of a text: all of it is in the JSON format.
struct Short<'a>(&'a str);

impl std::fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const MOST: usize = 400;
        let end = self.0.floor_char_boundary(MOST);
        f.write_str(&self.0[..end])?;
        if end < self.0.len() { write!(f, "… ({} bytes)", self.0.len()) } else { Ok(()) }
    }
}

/// Milliseconds as a person reads them.
struct Took(u64);

impl std::fmt::Display for Took {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            ms @ 0..10_000 => write!(f, "{ms} ms"),
            ms => write!(f, "{:.1} s", Duration::from_millis(ms).as_secs_f64()),
        }
    }
}

fn changed_files(changed: &[String]) -> String {
    if changed.is_empty() { String::new() } else { format!("{} changed: ", changed.join(", ")) }
}
