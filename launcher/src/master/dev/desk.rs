//! What follows from what: a changed source from a save, a build from that, a deployment from a good build, and what
//! browsers show from all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::super::journal::feed::Wanted;
use super::super::journal::record::What;
use super::super::journal::{Fact, Journal, Level, Name, Stream, WorkerName};
use super::super::pool::{Generation, WorkerId};
use super::super::{Event, milliseconds};
use super::building::{self, Built};
use super::changes::{Changed, Changes, Unit};
use super::cycles::{Cycle, Cycles};
use super::sources::Sources;
use super::words::Words;
use super::{News, Order, Project};
use crate::channel::dev as channel;

/// How long what a worker wrote about a failure may take to come through its pipe; the failure itself comes by another
/// way.
const STRAGGLERS: Duration = Duration::from_millis(20);
/// Records that are read at once.
const BATCH: usize = 512;
/// Changed files that are named.
const NAMED: usize = 3;

/// See the module.
pub(super) struct Desk {
    journal: Journal,
    events: mpsc::Sender<Event>,
    news: mpsc::UnboundedReceiver<News>,
    builds: Vec<Build>,
    /// What each build is made from, and whether it runs.
    sources: Vec<(Sources, bool)>,
    changes: Changes,
    ended: (mpsc::UnboundedSender<Ended>, mpsc::UnboundedReceiver<Ended>),
    services: BTreeMap<Name, Shown>,
    words: Words,
    /// Place in the journal.
    cursor: u64,
    /// Failures whose words are waited for, and until when.
    asked: Vec<(Instant, WorkerName, channel::Asked)>,
    failures: u64,
    runs: u64,
}

/// One command, and the services whose plugins it makes.
struct Build {
    projects: Vec<Project>,
    running: Option<Running>,
    /// Files that changed since the last build that ended.
    changed: BTreeSet<PathBuf>,
}

struct Running {
    /// Number of this run.
    run: u64,
    since: Instant,
    task: JoinHandle<()>,
}

/// A build has ended.
struct Ended {
    unit: Unit,
    run: u64,
    built: Built,
    took: Duration,
}

/// A service, as its author sees it.
#[derive(Default)]
struct Shown {
    generation: Option<Generation>,
    state: channel::Dev,
    /// Good builds whose plugin is on its way.
    cycles: Cycles,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Desk {
    pub(super) fn new(
        journal: Journal,
        events: mpsc::Sender<Event>,
        news: mpsc::UnboundedReceiver<News>,
    ) -> io::Result<Desk> {
        Ok(Desk {
            journal,
            events,
            news,
            builds: Vec::new(),
            sources: Vec::new(),
            changes: Changes::new()?,
            ended: mpsc::unbounded_channel(),
            services: BTreeMap::new(),
            words: Words::default(),
            cursor: 0,
            asked: Vec::new(),
            failures: 0,
            runs: 0,
        })
    }

    pub(super) async fn run(mut self) {
        let feed = self.journal.feed().clone();
        loop {
            let due = self.asked.iter().map(|(at, ..)| *at).min();
            let stragglers = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(ended) = self.ended.1.recv() => self.on_ended(ended).await,
                news = self.news.recv() => match news {
                    Some(News::Projects(projects)) => self.on_projects(projects).await,
                    Some(News::Asked(worker, asked)) => self.asked.push((Instant::now() + STRAGGLERS, worker, asked)),
                    // The master is gone.
                    None => return,
                },
                () = feed.newer_than(self.cursor) => self.read_journal().await,
                changed = self.changes.next(&mut self.sources) => match changed {
                    Ok(changed) => self.on_changed(changed).await,
                    Err(error) => {
                        let reason = format!("changes of sources cannot be seen any more: {error}");
                        self.journal.record(&Fact::Trouble { reason });
                        return;
                    }
                },
                () = stragglers => {
                    // What was written before has been read: the journal comes first.
                    let now = Instant::now();
                    let due: Vec<_> = self.asked.extract_if(.., |(at, ..)| *at <= now).collect();
                    for (_, worker, asked) in due {
                        self.on_failure(&worker, asked.request, asked.title, &asked.reason).await;
                    }
                }
            }
        }
    }

    // ---- builds

    /// Services that are built by the same command in the same directory are built together.
    async fn on_projects(&mut self, projects: Vec<Project>) {
        let mut wanted: BTreeMap<(PathBuf, String), Vec<Project>> = BTreeMap::new();
        for project in projects {
            wanted.entry((project.directory.clone(), project.command.clone())).or_default().push(project);
        }
        let wanted: Vec<Vec<Project>> = wanted.into_values().collect();
        if wanted.len() == self.builds.len() && wanted.iter().zip(&self.builds).all(|(new, old)| *new == old.projects) {
            return;
        }
        for unit in 0..self.builds.len() {
            self.changes.watch(unit, &BTreeSet::new());
        }
        self.builds.clear();
        self.sources.clear();
        for projects in wanted {
            let Some(first) = projects.first() else { continue };
            let artefacts = projects.iter().map(|project| project.artefact.clone()).collect();
            self.sources.push((Sources::new(first.directory.clone(), artefacts, first.excluded.clone()), false));
            self.builds.push(Build { projects, running: None, changed: BTreeSet::new() });
        }
        for unit in 0..self.builds.len() {
            self.watch(unit);
            self.start(unit).await;
        }
    }

    fn watch(&mut self, unit: Unit) {
        let Some((sources, _)) = self.sources.get_mut(unit) else { return };
        let directories = sources.directories();
        let cut = std::mem::take(&mut sources.cut);
        let trouble = self.changes.watch(unit, &directories).or_else(|| {
            cut.then(|| "the build's directory holds too many others; list what is no source in .gitignore".to_owned())
        });
        if let Some(trouble) = trouble {
            let reason = format!("not every source is watched: {trouble}");
            self.journal.record(&Fact::Trouble { reason });
        }
    }

    async fn on_changed(&mut self, changed: Changed) {
        for (unit, file) in changed.outputs {
            let Some((sources, _)) = self.sources.get(unit) else { continue };
            let file = sources.shown(&file);
            let reason =
                format!("{file} is written by the build itself and not watched any more; add it to .gitignore");
            self.journal.record(&Fact::Trouble { reason });
        }
        for (unit, files) in changed.files {
            if let Some(build) = self.builds.get_mut(unit) {
                build.changed.extend(files);
                self.start(unit).await;
            }
        }
    }

    /// Build anew; a build that is running is stale and ends.
    async fn start(&mut self, unit: Unit) {
        let (Some(build), Some((sources, building))) = (self.builds.get_mut(unit), self.sources.get_mut(unit)) else {
            return;
        };
        // A mistake that was taken back: what serves is right, whatever the build makes anew.
        let as_built = sources.are_as_built();
        let Some(project) = build.projects.first() else { return };
        *building = true;
        self.runs += 1;
        let run = self.runs;
        let (command, directory) = (project.command.clone(), project.directory.clone());
        let (journal, sender, since) = (self.journal.clone(), self.ended.0.clone(), Instant::now());
        let task = tokio::spawn(async move {
            let built = building::run(&command, &directory, |text| journal.say(text)).await;
            // Nobody waits any more if the desk is gone.
            let _ = sender.send(Ended { unit, run, built, took: since.elapsed() });
        });
        build.running = Some(Running { run, since, task });
        for service in build.projects.iter().map(|project| project.service.clone()).collect::<Vec<_>>() {
            let shown = self.services.entry(service.clone()).or_default();
            let serves = shown.generation.is_some();
            match shown.state.build {
                channel::Build::Good => self.show(&service, channel::Build::Running).await,
                channel::Build::Failed { .. } if as_built && serves => self.show(&service, channel::Build::Good).await,
                channel::Build::Failed { .. } | channel::Build::Running => {}
            }
        }
    }

    async fn on_ended(&mut self, Ended { unit, run, built, took }: Ended) {
        let (Some(build), Some((sources, building))) = (self.builds.get_mut(unit), self.sources.get_mut(unit)) else {
            return;
        };
        let Some(running) = build.running.take_if(|running| running.run == run) else { return };
        *building = false;
        let began = running.since;
        let changed = std::mem::take(&mut build.changed);
        let names: Vec<String> = changed.iter().map(|file| sources.shown(file)).collect();
        let services: Vec<Name> = build.projects.iter().map(|project| project.service.clone()).collect();
        let build_ms = milliseconds(took);
        match built.failure {
            Some(reason) => {
                sources.failed = true;
                for service in services {
                    let shown = self.services.entry(service.clone()).or_default();
                    let generation = shown.generation;
                    let text = built.text.clone();
                    let title = format!("the build failed: {reason}");
                    self.show(&service, channel::Build::Failed { title, text: text.clone() }).await;
                    let output = plain(&text);
                    let changed = named(&names);
                    let reason = reason.clone();
                    self.journal.record(&Fact::BuildFailed { service, changed, build_ms, reason, generation, output });
                }
            }
            None => {
                sources.note_good_build();
                let why = match named(&names).as_slice() {
                    [] => "built".to_owned(),
                    names => format!("{} changed", names.join(", ")),
                };
                for service in &services {
                    let cycle = Cycle { trigger: why.clone(), changed: named(&names), build_ms };
                    self.services.entry(service.clone()).or_default().cycles.built(cycle);
                }
                self.order(Order::Deploy(services, why, Instant::now())).await;
            }
        }
        let Some((sources, _)) = self.sources.get_mut(unit) else { return };
        let known_already = sources.is_listed();
        let new = sources.read_again();
        // A source that was not known before may have been saved while it was compiled and not watched.
        let missed = new.into_iter().filter(|file| {
            let modified = std::fs::metadata(file).and_then(|metadata| metadata.modified());
            let age = modified.ok().and_then(|modified| modified.elapsed().ok());
            known_already && age.is_some_and(|age| age < began.elapsed())
        });
        let missed: Vec<PathBuf> = missed.collect();
        self.watch(unit);
        missed.into_iter().for_each(|file| self.changes.gather(unit, file));
    }

    // ---- what the journal says

    async fn read_journal(&mut self) {
        let wanted = Wanted { facts: Some(Level::Debug), output: true, services: None };
        let batch = self.journal.feed().read(self.cursor, &wanted, BATCH);
        self.cursor = batch.next;
        for record in batch.records {
            match &record.what {
                What::Line(line) if line.stream == Stream::Stderr => self.words.add(line.worker.worker, &line.text),
                What::Line(_) => {}
                What::Fact(fact) => self.on_fact(fact).await,
            }
        }
    }

    async fn on_fact(&mut self, fact: &Fact) {
        match fact {
            Fact::Promoted { service, generation, took_ms, trigger, .. } => {
                let shown = self.services.entry(service.clone()).or_default();
                if *generation == super::AWAITED {
                    return;
                }
                shown.generation = Some(*generation);
                if let Some(Cycle { changed, build_ms, .. }) = shown.cycles.promoted(trigger) {
                    let (service, swap_ms, generation) = (service.clone(), *took_ms, *generation);
                    self.journal.record(&Fact::Swapped { service, changed, build_ms, swap_ms, generation });
                }
                self.good(service).await;
            }
            Fact::Unchanged { service, trigger } => {
                let shown = self.services.entry(service.clone()).or_default();
                if let Some(Cycle { changed, build_ms, .. }) = shown.cycles.unchanged(trigger) {
                    self.journal.record(&Fact::Rebuilt { service: service.clone(), changed, build_ms });
                }
                self.good(service).await;
            }
            Fact::ReloadFailed { service, reason, .. }
            | Fact::RolledBack { service, reason, .. }
            | Fact::ServiceFailed { service, reason } => {
                self.services.entry(service.clone()).or_default().cycles.failed();
                let title = "what was built cannot be served".to_owned();
                self.show(service, channel::Build::Failed { title, text: reason.clone() }).await;
            }
            Fact::Superseded { service, .. } => {
                self.services.entry(service.clone()).or_default().cycles.superseded();
            }
            Fact::ServiceRecovered { service } => self.good(service).await,
            Fact::Exited { worker, reason, expected: false, .. } => {
                let title = format!("the worker {}", reason.lines().next().unwrap_or_default());
                self.on_failure(worker, 0, title, reason).await;
            }
            _ => {}
        }
    }

    /// What serves is what was built, unless a newer build is on its way.
    async fn good(&mut self, service: &Name) {
        let building = self
            .builds
            .iter()
            .any(|build| build.running.is_some() && build.projects.iter().any(|project| project.service == *service));
        self.show(service, if building { channel::Build::Running } else { channel::Build::Good }).await;
    }

    async fn on_failure(&mut self, worker: &WorkerName, request: u64, title: String, reason: &str) {
        self.failures += 1;
        let text = self.words.take(worker.worker, reason);
        let WorkerId(id) = worker.worker;
        let failure = channel::Failure { number: self.failures, worker: id, request, title, text };
        let shown = self.services.entry(worker.service.clone()).or_default();
        shown.state.failure = Some(failure);
        let state = shown.state.clone();
        self.order(Order::Show(worker.service.clone(), state)).await;
    }

    async fn show(&mut self, service: &Name, build: channel::Build) {
        let shown = self.services.entry(service.clone()).or_default();
        if shown.state.build == build {
            return;
        }
        shown.state.build = build;
        let state = shown.state.clone();
        self.order(Order::Show(service.clone(), state)).await;
    }

    async fn order(&self, order: Order) {
        // Without a master the desk ends at its next event.
        let _ = self.events.send(order.into()).await;
    }
}

/// The first few.
fn named(names: &[String]) -> Vec<String> {
    let mut named: Vec<String> = names.iter().take(NAMED).cloned().collect();
    if names.len() > NAMED {
        named.push(format!("{} more", names.len() - NAMED));
    }
    named
}

/// Text without its escape sequences, for programs.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        plain.push_str(before);
        rest = match after.strip_prefix('[') {
            Some(sequence) => {
                sequence.trim_start_matches(|c: char| !('\u{40}'..='\u{7e}').contains(&c)).get(1..).unwrap_or("")
            }
            None => after.split_once(['\u{7}', '\\']).map_or("", |(_, rest)| rest),
        };
    }
    plain + rest
}
