//! Orders: reload, restart, rollback, scale, stop, start. The master carries them out; here they are given, waited
//! for, and their outcomes told.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use launcher::api::{Outcome, OutcomeResult, Outcomes, RefusalCode, Scale, Service, Status};
use launcher::sys::process::Stranger;

use super::client::{Exchange, Failure, Master, segment};
use super::progress::Progress;
use super::table::{Colour, Colours};
use super::{Ended, Format, Wait, print, print_json, words};

/// How often a process that cannot be watched is asked for.
const TICK: Duration = Duration::from_millis(500);

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    /// Take up changed files.
    Reload,
    /// Replace every worker.
    Restart,
    /// Return to the generation before.
    Rollback,
    /// Run so many workers: `4`, `+1`, `-1`.
    Scale(String),
    /// Let a service's workers finish, and start none.
    Stop,
    /// Serve again.
    Start,
    /// A configuration was applied.
    Apply,
    /// The launcher itself ends.
    StopLauncher {
        /// Without finishing what is in flight.
        now: bool,
    },
}

impl Order {
    /// As it is typed.
    pub(crate) fn verb(&self) -> &'static str {
        match self {
            Order::Reload => "reload",
            Order::Restart => "restart",
            Order::Rollback => "rollback",
            Order::Scale(_) => "scale",
            Order::Stop | Order::StopLauncher { .. } => "stop",
            Order::Start => "start",
            Order::Apply => "apply",
        }
    }

    fn body(&self) -> Option<Vec<u8>> {
        let Order::Scale(workers) = self else { return None };
        serde_json::to_vec(&Scale { workers: workers.clone() }).ok()
    }
}

/// Give an order for these services; none: for all.
pub(crate) fn order(
    config: &Path,
    order: &Order,
    names: &[String],
    wait: Wait,
    format: Format,
) -> Result<Ended, Failure> {
    let master = Master::of(config)?;
    let mut distinct: Vec<String> = Vec::new();
    for name in names {
        if !distinct.contains(name) {
            distinct.push(name.clone());
        }
    }
    if distinct.len() > 1 {
        // A wrong name among several must not leave the order half given.
        for name in &distinct {
            master.get::<Service>(&format!("/v1/services/{}", segment(name)))?;
        }
    }
    let query = if wait == Wait::End { "?wait=true" } else { "" };
    let verb = order.verb();
    let targets: Vec<String> = match distinct.as_slice() {
        [] => vec![format!("/v1/{verb}{query}")],
        names => names.iter().map(|name| format!("/v1/services/{}/{verb}{query}", segment(name))).collect(),
    };
    // All are given before the first is waited for: services do not wait for one another.
    let body = order.body();
    let given = targets.iter().map(|target| master.send("POST", target, body.as_deref()));
    let given: Vec<Exchange> = given.collect::<Result<_, _>>()?;
    let (outcomes, refused) = collect(&master, order, &distinct, wait, given);
    if !outcomes.is_empty() || refused.is_none() {
        tell(order, &Outcomes { outcomes: outcomes.clone() }, format)?;
    }
    match refused {
        Some(refused) => Err(refused),
        None => Ok(ended(&outcomes)),
    }
}

/// The outcomes, and what went wrong beside them.
fn collect(
    master: &Master,
    order: &Order,
    names: &[String],
    wait: Wait,
    given: Vec<Exchange>,
) -> (Vec<Outcome>, Option<Failure>) {
    let mut progress = Progress::of(master, order, names);
    let since = Instant::now();
    let (mut outcomes, mut refused) = (Vec::new(), None::<Failure>);
    for exchange in given {
        let mut tick = |_| progress.tick(since.elapsed());
        let answer = match wait {
            Wait::End => exchange.answer(Some(&mut tick)),
            Wait::Acceptance => exchange.answer(None),
        };
        match answer.and_then(|answer| answer.json::<Outcomes>()) {
            Ok(answered) => outcomes.extend(answered.outcomes),
            Err(failure) => {
                if let Some(earlier) = refused.replace(failure) {
                    earlier.tell();
                }
            }
        }
    }
    (outcomes, refused)
}

/// The worst of the outcomes. A failure is worse than a reload that was rolled back: nothing may serve.
pub(super) fn ended(outcomes: &[Outcome]) -> Ended {
    let any = |result| outcomes.iter().any(|outcome| outcome.result == result);
    match () {
        () if any(OutcomeResult::Failed) => Ended::Failed,
        () if any(OutcomeResult::RolledBack) => Ended::RolledBack,
        () => Ended::Done,
    }
}

fn tell(order: &Order, outcomes: &Outcomes, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => print_json(outcomes),
        Format::Table => tell_each(order, &outcomes.outcomes),
    }
}

/// For people: what is good on standard output, what is not on standard error.
pub(super) fn tell_each(order: &Order, outcomes: &[Outcome]) -> Result<(), Failure> {
    let (stdout, stderr) = (Colours::of(&io::stdout()), Colours::of(&io::stderr()));
    for outcome in outcomes {
        let text = words::escaped_lines(&sentence(order, outcome));
        match outcome.result {
            OutcomeResult::Failed | OutcomeResult::RolledBack => {
                eprintln!("{} {text}", stderr.paint(Colour::Red, "error:"));
            }
            _ => {
                let (name, rest) = text.split_at(outcome.service.len().min(text.len()));
                print(format!("{}{rest}\n", stdout.paint(Colour::Bold, name)).as_bytes())?;
            }
        }
    }
    Ok(())
}

fn sentence(order: &Order, outcome: &Outcome) -> String {
    let Outcome { service, result, generation, reason, took_ms } = outcome;
    let took = words::took(*took_ms);
    let why = reason.as_deref().map_or_else(String::new, |reason| format!(": {reason}"));
    match result {
        OutcomeResult::Accepted => format!("{service}: {} begun{why}", order.verb()),
        OutcomeResult::Promoted => match generation {
            Some(generation) => format!("{service}: generation {generation} serves, after {took}{why}"),
            None => format!("{service}: serves, after {took}{why}"),
        },
        OutcomeResult::RolledBack => match generation {
            Some(generation) => format!("{service}: generation {generation} was rolled back after {took}{why}"),
            // Refused before it was one.
            None => format!("{service}: not reloaded, after {took}{why}"),
        },
        OutcomeResult::Unchanged if *order == Order::Apply => format!("{service}: needs no new generation{why}"),
        OutcomeResult::Unchanged => format!("{service}: nothing has changed{why}"),
        OutcomeResult::Restarted => format!("{service}: every worker was replaced, after {took}{why}"),
        OutcomeResult::Scaled => format!("{service}: scaled, after {took}{why}"),
        OutcomeResult::Stopped => format!("{service}: stopped, after {took}{why}"),
        OutcomeResult::Started => format!("{service}: serves again, after {took}{why}"),
        OutcomeResult::Failed => format!("{service}: {} failed after {took}{why}", order.verb()),
    }
}

/// `launcher stop`: the launcher itself. It is gone when this returns: its locks and addresses are free.
pub(crate) fn stop_launcher(config: &Path, now: bool, format: Format) -> Result<Ended, Failure> {
    let master = Master::of(config)?;
    let status = master.get::<Status>("/v1/status")?;
    // Found before it is asked to end: later its pid may be another's.
    // The last to go, if there is one, is the keeper.
    let pid = status.keeper.unwrap_or(status.pid);
    let process = Stranger::find(pid).map_err(Failure::Watch)?;
    let since = Instant::now();
    let target = if now { "/v1/stop?now=true" } else { "/v1/stop" };
    match master.send("POST", target, None).and_then(|exchange| exchange.answer(None)) {
        Ok(_) | Err(Failure::Cut { .. } | Failure::NotRunning { .. }) => {}
        // Somebody else has asked for it.
        Err(Failure::Refused { refused }) if refused.code == Some(RefusalCode::Stopping) => {}
        Err(failure) => return Err(failure),
    }
    let order = Order::StopLauncher { now };
    let mut progress = Progress::of(&master, &order, &[]);
    loop {
        let ended = match &process {
            Some(process) => process.ends_within(TICK).map_err(Failure::Watch)?,
            // It runs where its pid cannot be seen, in a container perhaps.
            None => {
                std::thread::sleep(TICK);
                !master.listens()
            }
        };
        if ended {
            break;
        }
        progress.tick(since.elapsed());
    }
    drop(progress);
    let took_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
    match format {
        Format::Table => {
            let text = format!("the launcher has stopped: pid {pid}, after {}\n", words::took(took_ms));
            print(text.as_bytes())?;
        }
        Format::Json => {
            let outcome = |service: &Service| Outcome {
                service: service.name.clone(),
                result: OutcomeResult::Stopped,
                generation: service.generation,
                reason: None,
                took_ms,
            };
            print_json(&Outcomes { outcomes: status.services.iter().map(outcome).collect() })?;
        }
    }
    Ok(Ended::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(result: OutcomeResult, reason: Option<&str>) -> Outcome {
        let (service, reason) = ("hello".to_owned(), reason.map(str::to_owned));
        Outcome { service, result, generation: Some(4), reason, took_ms: 1_234 }
    }

    #[test]
    fn an_outcome_is_a_sentence() {
        let said = |result, reason| sentence(&Order::Reload, &outcome(result, reason));
        assert_eq!(said(OutcomeResult::Promoted, None), "hello: generation 4 serves, after 1.2 s");
        assert_eq!(
            said(OutcomeResult::RolledBack, Some("a worker exited with code 3")),
            "hello: generation 4 was rolled back after 1.2 s: a worker exited with code 3"
        );
        assert_eq!(said(OutcomeResult::Accepted, None), "hello: reload begun");
        assert_eq!(said(OutcomeResult::Failed, Some("no")), "hello: reload failed after 1.2 s: no");
    }

    #[test]
    fn the_worst_outcome_decides() {
        let of =
            |results: &[OutcomeResult]| ended(&results.iter().map(|result| outcome(*result, None)).collect::<Vec<_>>());
        use OutcomeResult::{Failed, Promoted, RolledBack, Unchanged};
        assert_eq!(of(&[]), Ended::Done);
        assert_eq!(of(&[Promoted, Unchanged]), Ended::Done);
        assert_eq!(of(&[Promoted, RolledBack]), Ended::RolledBack);
        assert_eq!(of(&[RolledBack, Failed]), Ended::Failed);
    }
}
