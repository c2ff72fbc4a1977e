//! A run: faults by schedule, a check after each, a judgement of every complaint, and a look at what is left.
//!
//! It ends at the first thing that is not as it should be: what follows from that would only hide it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::check;
use crate::clients::Crowd;
use crate::disk::Disk;
use crate::fault::{Needs, Schedule};
use crate::group::Group;
use crate::http::Trouble;
use crate::inject;
use crate::judge::{Verdict, judge};
use crate::launcher::PATIENCE;
use crate::leaks::{self, Footprint};
use crate::options::Options;
use crate::random::Random;
use crate::world::{WILD, World};

/// How often a fault was brought, and how long the recovery took at most.
#[derive(Debug, Default, Clone, Copy)]
pub struct Row {
    /// How often.
    pub times: u32,
    /// From the end of the fault until everything was well again.
    pub recovery: Duration,
}

/// What a run showed.
#[derive(Debug, Default)]
pub struct Outcome {
    /// For each fault that was brought.
    pub rows: BTreeMap<&'static str, Row>,
    /// Steps, in words, as they were taken.
    pub steps: Vec<String>,
    /// Right answers.
    pub answered: u64,
    /// Clients that keep a connection.
    pub keepers: u64,
    /// Complaints with an excuse: see [`crate::judge`].
    pub excused: usize,
    /// The longest wait for a right answer.
    pub worst: Duration,
    /// Complaints without an excuse, by kind.
    pub failed: usize,
    /// No connection.
    pub refused: usize,
    /// Told to reconnect.
    pub reconnected: usize,
    /// No answer.
    pub hung: usize,
    /// Another answer than the right one.
    pub wrong: usize,
    /// What grew or was left behind.
    pub leaked: Vec<String>,
    /// Why the run ended early, or what was wrong at its end.
    pub failures: Vec<String>,
    /// The launcher's log around the first failure.
    pub story: Vec<String>,
    /// What could not be done here, and why.
    pub without: Vec<String>,
    /// How long it ran.
    pub time: Duration,
    /// The master before and after.
    pub footprints: Option<(Footprint, Footprint)>,
}

impl Outcome {
    /// Whether everything was as it should be.
    pub fn good(&self) -> bool {
        self.failures.is_empty() && self.leaked.is_empty()
    }
}

/// Carries it out. `say` is told what happens.
///
/// # Errors
/// It cannot begin: there is no compiler, or the launcher does not serve.
pub fn run(options: &Options, mut say: impl FnMut(&str)) -> Result<Outcome, String> {
    let mut outcome = Outcome::default();
    let wants_disk = options.faults.iter().any(|fault| fault.needs == Needs::Disk);
    let mount = |site: &crate::site::Site| wants_disk.then(|| Disk::mount(&site.state(), 16));
    let (mut world, disk) = World::start(options, mount)?;
    let disk = match disk {
        Some(Ok(disk)) => Some(disk),
        Some(Err(why)) => {
            outcome.without.push(format!("disk-full: {why}"));
            None
        }
        None => None,
    };
    let wants_group = options.faults.iter().any(|fault| fault.needs == Needs::Group);
    let group = wants_group.then(Group::possible).unwrap_or(Ok(()));
    if let Err(why) = &group {
        outcome.without.push(format!("out-of-memory, master-out-of-memory: {why}"));
    }
    let possible = |needs: Needs| match needs {
        Needs::Nothing | Needs::Planted => true,
        Needs::Disk => disk.is_some(),
        Needs::Group => group.is_ok(),
    };
    let faults = options.faults.iter().filter(|fault| possible(fault.needs)).copied().collect();
    // The master, the workers, and whatever else it has while it is well.
    let processes = leaks::at_work(&world.launcher).len();
    // What a flood leaves in the history of the log is kept, up to a bound: it must be there before anything is measured.
    inject::ask(world.service(WILD).address, "GET", "/flood?8")?;
    let random = Random::new(options.seed);
    let mut crowd = Crowd::start(world.crowd(), &random.part(u64::MAX), Arc::clone(&world.ledger))?;
    // A fault that comes before the clients harms nobody, and shows nothing.
    let keepers: u64 = world.crowd().iter().filter(|group| group.habit.keeps()).map(|group| group.count).sum();
    if !crate::process::until(PATIENCE, || world.ledger.opened.load(Relaxed) >= keepers) {
        return Err(format!("the {keepers} clients are not connected within {PATIENCE:?}"));
    }
    let begun = Instant::now();
    let mut early = None;
    for mut step in Schedule::new(options.seed, faults) {
        if begun.elapsed() >= options.time {
            break;
        }
        let at = Instant::now();
        let header = format!("{:>6.1} s  {:>4}  {}", begun.elapsed().as_secs_f64(), step.number, step.fault.name);
        let done = inject::inject(&step, &mut world, disk.as_ref());
        let line = format!("{header}: {}", done.as_ref().map_or("…", String::as_str));
        let settled = done.and_then(|_| check::settle(&world));
        let resident = world.launcher.master().ok().and_then(crate::process::resident).unwrap_or_default();
        let line = format!("{line} [{resident} KiB]");
        say(&line);
        outcome.steps.push(line);
        let (incidents, losses) = (world.ledger.incidents(), &world.losses);
        let verdict = judge(&incidents, losses, &world.wants);
        let row = outcome.rows.entry(step.fault.name).or_default();
        row.times += 1;
        match settled {
            Ok(took) => row.recovery = row.recovery.max(took),
            Err(why) => outcome.failures.push(format!("step {}, {}: {why}", step.number, step.fault.name)),
        }
        complain(&mut outcome, &incidents, &verdict, begun);
        if !outcome.failures.is_empty() {
            outcome.story = world.launcher.story(at - Duration::from_secs(2), 300);
            break;
        }
        world.demand_versions();
        if early.is_none() && begun.elapsed() > options.time / 2 {
            early = Some(footprint(&mut world, processes)?);
        }
        let pause = Duration::from_millis(step.random.between(20, 300));
        std::thread::sleep(pause);
    }
    outcome.time = begun.elapsed();
    let healthy = outcome.failures.is_empty();
    if healthy {
        match (early, footprint(&mut world, processes)) {
            (Some(early), Ok(late)) => {
                outcome.leaked.extend(leaks::grown(&early, &late));
                outcome.footprints = Some((early, late));
            }
            (None, _) => {}
            (_, Err(why)) => outcome.leaked.push(why),
        }
    }
    crowd.stop()?;
    let incidents = world.ledger.incidents();
    let verdict = judge(&incidents, &world.losses, &world.wants);
    outcome.failures.retain(|failure| !failure.starts_with(COMPLAINT));
    complain(&mut outcome, &incidents, &verdict, begun);
    outcome.excused = verdict.excused;
    outcome.answered = world.ledger.answered.load(Relaxed);
    outcome.keepers = world.ledger.keepers.load(Relaxed);
    outcome.worst = world.ledger.worst();
    for number in verdict.guilty {
        match incidents[number].trouble {
            Trouble::Failed(_) => outcome.failed += 1,
            Trouble::Refused(_) => outcome.refused += 1,
            Trouble::ToldToReconnect => outcome.reconnected += 1,
            Trouble::Hung => outcome.hung += 1,
            Trouble::Wrong(_) => outcome.wrong += 1,
        }
    }
    if let Err(why) = world.launcher.stop(PATIENCE) {
        outcome.failures.push(format!("at the end: {why}"));
    }
    if healthy {
        outcome.leaked.extend(leaks::left_behind(&world.launcher, &world.site.state()));
    }
    if outcome.story.is_empty() && !outcome.good() {
        outcome.story = world.launcher.story(Instant::now() - Duration::from_secs(30), 100);
    }
    drop(disk);
    Ok(outcome)
}

/// Always of the same services and workers.
fn footprint(world: &mut World, processes: usize) -> Result<Footprint, String> {
    world.normalise()?;
    check::settle(world)?;
    leaks::footprint(&world.launcher, processes, PATIENCE)
}

const COMPLAINT: &str = "a client complains: ";

fn complain(outcome: &mut Outcome, incidents: &[crate::ledger::Incident], verdict: &Verdict, begun: Instant) {
    for number in verdict.guilty.iter().take(20) {
        let incident = &incidents[*number];
        let since = |at: Instant| at.saturating_duration_since(begun).as_secs_f64();
        outcome.failures.push(format!(
            "{COMPLAINT}{}, {}, port {}: {} (opened at {:.3} s, asked at {:.3} s, complained at {:.3} s)",
            incident.service,
            incident.client,
            incident.port,
            incident.trouble,
            since(incident.opened),
            since(incident.asked),
            since(incident.at),
        ));
    }
}
