//! A master within another program: on a thread of its own, with nothing of the program's process changed.
//!
//! What `launcher run` does because its process is its own is not done here. Signals and their handlers, the statuses of
//! the program's own children, its descriptors, its standard streams and what systemd is told are the program's; there
//! is no keeper, so the launcher does not survive the program, and its workers drain when it dies. Orphans of workers
//! become children of init: a subreaper would have to reap them, and would reap the program's own with them.
//!
//! An order goes the way of the control API: one event, then whoever asked waits for the end, in a task of the master's
//! runtime, so that the program may wait with any executor, or with none.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{mpsc, oneshot, watch};
use wasm_host::Purpose;

use super::control::routes::outcomes;
use super::control::{Order, Reply, Request};
use super::journal::feed::{Feed, Wanted};
use super::journal::record::What;
use super::journal::{self, Fact, Journal, Level};
use super::orders::Scale;
pub use super::post::Receiver;
use super::running::{FAREWELL, QUEUE};
use super::{Event, Host, Master, Origin, StartError, Strictness};
use crate::api::{Outcome, Refusal, RefusalCode, Status};
use crate::config::Config;

/// Who asks, as part of a trigger.
const WHO: &str = "by the program";

/// A master that runs, seen from the program.
#[derive(Debug)]
pub(crate) struct Embedded {
    events: mpsc::Sender<Event>,
    runtime: Handle,
    feed: Arc<Feed>,
    life: watch::Receiver<Life>,
}

/// How far the master is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Life {
    /// What became of the first generations, once that is decided.
    pub(crate) start: Option<Result<Serving, String>>,
    /// It has ended, and everything that it held is free.
    pub(crate) ended: bool,
    /// Why services do not serve, as it was told.
    failures: Vec<String>,
    /// How far the history was read.
    seen: u64,
}

/// What became of the first generation of every service.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Serving {
    /// Services that serve.
    pub services: Vec<String>,
    /// Services that could not be started. Their files are watched, and a good one heals them.
    pub failed: Vec<String>,
}

/// What can be asked of the master, with an end of its own for each service.
#[derive(Debug)]
pub(crate) enum Wish {
    /// Look at configuration and plugins. `None` here and below: of every service.
    Reload(Option<String>),
    /// Replace every worker.
    Restart(Option<String>),
    /// Return to the generation before.
    Rollback(String),
    /// Have so many workers.
    Scale(String, u32),
    /// Let workers and listeners of a service go.
    Stop(String),
    /// Run it again.
    Start(String),
    /// Change what differs in a file.
    ApplyFile(String),
    /// Change what differs in a configuration of the program's.
    Apply(Box<Config>),
}

impl Wish {
    fn order(self) -> Order {
        match self {
            Wish::Reload(service) => Order::Reload(service),
            Wish::Restart(service) => Order::Restart(service),
            Wish::Rollback(service) => Order::Rollback(service),
            Wish::Scale(service, workers) => Order::Scale(service, Scale::To(workers)),
            Wish::Stop(service) => Order::Stop(service),
            Wish::Start(service) => Order::Start(service),
            Wish::ApplyFile(path) => Order::Apply(Some(path)),
            Wish::Apply(config) => Order::Take(config),
        }
    }
}

/// Start a master. It returns when the sockets are bound and the first generations are on their way.
pub(crate) fn start(config: Config, origin: Origin) -> Result<Embedded, StartError> {
    let system = |what| move |source| StartError::System { what, source };
    let runtime = Builder::new_current_thread()
        .enable_all()
        .thread_name("launcher-files")
        .max_blocking_threads(2)
        .build()
        .map_err(system("start the event loop"))?;
    let settings = &config.master;
    let journal = Journal::start(journal::Settings {
        format: settings.log_format,
        level: Level::named(&settings.log_level),
        file: settings.log_file.clone().map(|path| settings.rotated(path)),
        // The program's own.
        terminal: false,
        terse: false,
    })
    .map_err(system("start the journal's threads"))?;
    let (events, incoming) = mpsc::channel(QUEUE);
    let (life, watched) = watch::channel(Life::default());
    let (tell, told) = sync_channel(1);
    let embedded = Embedded {
        events: events.clone(),
        runtime: runtime.handle().clone(),
        feed: Arc::clone(journal.feed()),
        life: watched,
    };
    let body = move || {
        let life = Arc::new(life);
        live(&runtime, &journal, config, origin, (events, incoming), &life, |started| {
            // Whoever started it waits.
            let _ = tell.send(started);
        });
        journal.finish();
        // Not a drop: it would wait for a thread that copies a plugin nobody wants any more.
        runtime.shutdown_background();
        life.send_modify(|life| {
            life.read(journal.feed());
            life.ended = true;
        });
    };
    std::thread::Builder::new().name("launcher".to_owned()).spawn(body).map_err(system("start a thread"))?;
    // Nothing is told by a thread that has panicked.
    let lost = || StartError::System { what: "start", source: std::io::Error::other("the launcher's thread panicked") };
    told.recv().unwrap_or_else(|_| Err(lost()))?;
    Ok(embedded)
}

fn live(
    runtime: &Runtime,
    journal: &Journal,
    config: Config,
    origin: Origin,
    (events, incoming): (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    life: &Arc<watch::Sender<Life>>,
    started: impl FnOnce(Result<(), StartError>),
) {
    runtime.block_on(async {
        let host = Host::Program(origin);
        let master = Master::start(Purpose::Production, config, Strictness::Lenient, journal.clone(), events, host);
        let mut master = match master {
            Ok(master) => master,
            Err(error) => return started(Err(error)),
        };
        started(Ok(()));
        tokio::spawn(tell_of_start(Arc::clone(journal.feed()), Arc::clone(life)));
        // Without a keeper no other program can take over, so it ends only when it is stopped.
        master.serve(incoming, None).await;
        if let Some(control) = &master.control {
            control.finish(FAREWELL).await;
        }
    });
}

async fn tell_of_start(feed: Arc<Feed>, life: Arc<watch::Sender<Life>>) {
    let mut known = life.borrow().clone();
    while known.start.is_none() {
        known.read(&feed);
        let seen = known.seen;
        if known.start.is_some() {
            life.send_modify(|life| *life = Life { ended: life.ended, ..known.clone() });
        } else {
            feed.newer_than(seen).await;
        }
    }
}

impl Life {
    /// Learn what the launcher has told since.
    fn read(&mut self, feed: &Feed) {
        let wanted = Wanted { facts: Some(Level::Info), output: false, services: None };
        let batch = feed.read(self.seen, &wanted, usize::MAX);
        self.seen = batch.next;
        for record in batch.records {
            let What::Fact(fact) = &record.what else { continue };
            match fact {
                _ if self.start.is_some() => return,
                Fact::ServiceFailed { service, reason } => self.failures.push(format!("{service}: {reason}")),
                Fact::Serving { services, failed, .. } => {
                    self.start = Some(Ok(Serving { services: services.clone(), failed: failed.clone() }));
                }
                Fact::Stopping { reason } => {
                    let reasons = std::iter::once(reason.clone()).chain(std::mem::take(&mut self.failures));
                    self.start = Some(Err(reasons.collect::<Vec<_>>().join("\n")));
                }
                _ => {}
            }
        }
    }
}

impl Embedded {
    /// The history.
    pub(crate) fn feed(&self) -> Arc<Feed> {
        Arc::clone(&self.feed)
    }

    /// How far it is.
    pub(crate) fn life(&self) -> watch::Receiver<Life> {
        self.life.clone()
    }

    /// Have something done; what became of it for each service that it was about.
    pub(crate) fn wish(&self, wish: Wish) -> oneshot::Receiver<Result<Vec<Outcome>, Refusal>> {
        let order = wish.order();
        self.task(async move |events| match ask(&events, order).await? {
            Reply::Begun(begun) | Reply::Applied(_, begun) => Ok(outcomes(begun, true).await),
            _ => Err(unforeseen()),
        })
    }

    /// The launcher, its services and their workers.
    pub(crate) fn status(&self) -> oneshot::Receiver<Result<Status, Refusal>> {
        self.task(async move |events| match ask(&events, Order::Status).await? {
            Reply::Status(snapshot) => {
                tokio::task::spawn_blocking(move || snapshot.complete()).await.map_err(|_| stopped())
            }
            _ => Err(unforeseen()),
        })
    }

    /// Give plugins a message; the workers whose plugins have taken it.
    pub(crate) fn send(
        &self,
        service: String,
        receiver: Receiver,
        message: serde_json::Value,
    ) -> oneshot::Receiver<Result<Vec<u64>, Refusal>> {
        let order = Order::Send { service, receiver, message };
        self.task(async move |events| match ask(&events, order).await? {
            Reply::Delivered(delivered) => Ok(delivered.workers),
            _ => Err(unforeseen()),
        })
    }

    /// End it; whoever wants to know when looks at its life.
    pub(crate) fn stop(&self, now: bool) {
        drop(self.task(async move |events| ask(&events, Order::StopLauncher { now }).await.map(drop)));
    }

    /// Do something in the master's runtime, whether anybody waits for it or not.
    fn task<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        body: impl FnOnce(mpsc::Sender<Event>) -> F,
    ) -> oneshot::Receiver<T> {
        let (answer, answered) = oneshot::channel();
        let body = body(self.events.clone());
        self.runtime.spawn(async move { drop(answer.send(body.await)) });
        answered
    }
}

async fn ask(events: &mpsc::Sender<Event>, order: Order) -> Result<Reply, Refusal> {
    let (answer, answered) = oneshot::channel();
    drop(events.send(Event::Request(Box::new(Request { order, who: WHO.to_owned(), answer }))).await);
    answered.await.unwrap_or_else(|_| Err(stopped()))
}

/// What is answered where nobody is left who could.
pub(crate) fn stopped() -> Refusal {
    Refusal { code: RefusalCode::Stopping, error: "the launcher has stopped".to_owned(), suggestion: None }
}

fn unforeseen() -> Refusal {
    let error = "the launcher answered something else".to_owned();
    Refusal { code: RefusalCode::Conflict, error, suggestion: None }
}
