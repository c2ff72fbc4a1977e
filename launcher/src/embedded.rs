//! The launcher as a part of another program.
//!
//! ```text
//! the program ── Launcher ── orders, as the control API gives them ──> the master, on a thread of its own
//!                   └─ Events <── the journal's feed
//! ```
//!
//! Everything public of the crate is here and in [`configuration`]; what happens to the process is decided in
//! [`crate::master::embedding`].

use std::collections::VecDeque;
use std::fmt;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use tokio::sync::{oneshot, watch};

use crate::api::{Outcome, OutcomeResult, Refusal, RefusalCode, Status};
use crate::config;
use crate::master::Origin;
use crate::master::embedding::{Embedded, Life, Receiver, Serving, Wish, start, stopped};
use crate::master::journal::Level;
use crate::master::journal::feed::{Feed, Wanted};
use crate::master::journal::record::Record;

mod configuration;

pub use configuration::{Configuration, ConfigurationError, Service};

/// Records that are fetched at once.
const BATCH: usize = 128;

/// A launcher that runs within this program.
///
/// Dropping it ends it as [`stop`](Launcher::stop) does and waits for nobody. If the program ends first, however it
/// ends, the workers finish what is in flight within their drain time and leave by themselves.
///
/// An order is given when the method is called; the [`Answer`] is its end, and may be dropped.
pub struct Launcher {
    master: Embedded,
}

/// Why a launcher could not be started.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration is wrong.
    Configuration(ConfigurationError),
    /// It is not, and yet it cannot be done: an address is taken, a directory is not writable, another launcher has
    /// the state directory.
    Refused(Box<dyn std::error::Error + Send + Sync>),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Configuration(error) => error.fmt(f),
            StartError::Refused(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StartError::Configuration(_) => None,
            // What it says itself is said already.
            StartError::Refused(error) => error.source(),
        }
    }
}

impl Launcher {
    /// Run what a program has put together. It returns when the addresses are bound and the first workers are on their
    /// way, which takes milliseconds; [`serving`](Launcher::serving) tells what became of them.
    ///
    /// # Errors
    /// The configuration is wrong, an address is taken, or the state directory cannot be used.
    pub fn start(configuration: &Configuration) -> Result<Launcher, StartError> {
        let config = configuration.meant().map_err(StartError::Configuration)?;
        Launcher::run(config, Origin::Program)
    }

    /// Run what a configuration file describes, as `launcher run FILE` does. The file is watched, and applied when it
    /// changes.
    ///
    /// # Errors
    /// As for [`start`](Launcher::start).
    pub fn start_file(file: impl AsRef<Path>) -> Result<Launcher, StartError> {
        let config = config::load(file.as_ref()).map_err(ConfigurationError).map_err(StartError::Configuration)?;
        Launcher::run(config, Origin::File)
    }

    fn run(config: config::Config, origin: Origin) -> Result<Launcher, StartError> {
        let master = start(config, origin).map_err(|error| StartError::Refused(Box::new(error)))?;
        Ok(Launcher { master })
    }

    /// When every first generation serves or has failed: which do.
    ///
    /// # Errors
    /// None serves, or the launcher was stopped before; the launcher has ended then, and the text says why.
    pub fn serving(&self) -> Answer<Serving> {
        Answer::once(self.master.life(), |life| match &life.start {
            Some(Ok(serving)) => Some(Ok(serving.clone())),
            Some(Err(error)) if life.ended => {
                Some(Err(Refusal { code: RefusalCode::Stopping, error: error.clone(), suggestion: None }))
            }
            None if life.ended => Some(Err(stopped())),
            _ => None,
        })
    }

    /// What happens from the beginning on, as far as it is remembered: a few thousand facts, and of each service the last
    /// 256 KiB that its workers wrote.
    pub fn events(&self) -> Events {
        Events {
            feed: self.master.feed(),
            life: self.master.life(),
            after: 0,
            fetched: VecDeque::new(),
            missed: 0,
            done: false,
        }
    }

    /// The launcher, its services and their workers: states, addresses, pids, memory, requests.
    pub fn status(&self) -> Answer<Status> {
        Answer::of(self.master.status())
    }

    /// Look whether the plugin of a service has changed, and the configuration if it is a file; a new generation takes
    /// over when it is ready. The outcome tells whether it was promoted, rolled back or the same.
    pub fn reload(&self, service: &str) -> Answer<Outcome> {
        self.one(service, Wish::Reload(Some(service.to_owned())))
    }

    /// [`reload`](Launcher::reload) for every service.
    pub fn reload_all(&self) -> Answer<Vec<Outcome>> {
        Answer::of(self.master.wish(Wish::Reload(None)))
    }

    /// Replace every worker of a service by a new one of the same generation, without a gap.
    pub fn restart(&self, service: &str) -> Answer<Outcome> {
        self.one(service, Wish::Restart(Some(service.to_owned())))
    }

    /// [`restart`](Launcher::restart) for every service.
    pub fn restart_all(&self) -> Answer<Vec<Outcome>> {
        Answer::of(self.master.wish(Wish::Restart(None)))
    }

    /// Return to the generation that served before.
    pub fn rollback(&self, service: &str) -> Answer<Outcome> {
        self.one(service, Wish::Rollback(service.to_owned()))
    }

    /// Have so many workers, from 1 to 1024. It holds until the configuration says another number than it does now.
    pub fn scale(&self, service: &str, workers: u32) -> Answer<Outcome> {
        self.one(service, Wish::Scale(service.to_owned(), workers))
    }

    /// Let the workers of a service leave and its listeners go.
    pub fn stop_service(&self, service: &str) -> Answer<Outcome> {
        self.one(service, Wish::Stop(service.to_owned()))
    }

    /// Run a service that was stopped.
    pub fn start_service(&self, service: &str) -> Answer<Outcome> {
        self.one(service, Wish::Start(service.to_owned()))
    }

    /// Give the plugin of a worker, or of every worker that serves, a message: any JSON of at most 64 KiB. The answer comes
    /// when every plugin has taken it: the ids of their workers.
    ///
    /// # Errors
    /// Of the answer: no such worker serves, or one has not taken it, because its plugin receives no messages or it ended.
    pub fn send(&self, service: &str, to: Receiver, message: impl Into<serde_json::Value>) -> Answer<Vec<u64>> {
        Answer::of(self.master.send(service.to_owned(), to, message.into()))
    }

    /// Change to another configuration, as a difference: services that it does not touch keep their workers. One outcome
    /// for each service that was looked at; nothing is changed if an address cannot be bound.
    ///
    /// # Errors
    /// The configuration is wrong.
    pub fn apply(&self, configuration: &Configuration) -> Result<Answer<Vec<Outcome>>, ConfigurationError> {
        let config = Box::new(configuration.meant()?);
        Ok(Answer::of(self.master.wish(Wish::Apply(config))))
    }

    /// The same with a file, which is watched from then on. It must name the same state directory.
    pub fn apply_file(&self, file: impl AsRef<Path>) -> Answer<Vec<Outcome>> {
        let file = std::path::absolute(file.as_ref()).unwrap_or_else(|_| file.as_ref().to_owned());
        Answer::of(self.master.wish(Wish::ApplyFile(file.to_string_lossy().into_owned())))
    }

    /// End it when what is in flight is done. The answer comes when every worker and listener is gone and the state
    /// directory is free.
    pub fn stop(&self) -> Answer<()> {
        self.master.stop(false);
        self.ended()
    }

    /// End it now; what is in flight is cut off.
    pub fn stop_now(&self) -> Answer<()> {
        self.master.stop(true);
        self.ended()
    }

    /// When it has ended, whoever asked for that: an operator can stop it through the control socket in the state
    /// directory, and it ends by itself if no service could be started.
    pub fn ended(&self) -> Answer<()> {
        Answer::once(self.master.life(), |life| life.ended.then_some(Ok(())))
    }

    fn one(&self, service: &str, wish: Wish) -> Answer<Outcome> {
        let service = service.to_owned();
        let answer = self.master.wish(wish);
        Answer(Box::pin(async move {
            let outcomes = answer.await.unwrap_or_else(|_| Err(stopped()))?;
            let unmentioned = Outcome {
                service: service.clone(),
                result: OutcomeResult::Unchanged,
                generation: None,
                reason: None,
                took_ms: 0,
            };
            Ok(outcomes.into_iter().find(|outcome| outcome.service == service).unwrap_or(unmentioned))
        }))
    }
}

impl fmt::Debug for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launcher").finish_non_exhaustive()
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        self.master.stop(false);
    }
}

type Coming<T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send>>;

/// What an order has led to, when it has ended: a future for any executor, or [`wait`](Answer::wait) for a thread.
///
/// The error says why it was not done. What was done and did not end well (a generation that was rolled back) is no
/// error; the [`Outcome`] says so.
pub struct Answer<T>(Coming<T>);

impl<T: Send + 'static> Answer<T> {
    fn of(answer: oneshot::Receiver<Result<T, Refusal>>) -> Answer<T> {
        Answer(Box::pin(async move { answer.await.unwrap_or_else(|_| Err(stopped())) }))
    }

    /// When the life of the master has come to something.
    fn once(
        mut life: watch::Receiver<Life>,
        look: impl Fn(&Life) -> Option<Result<T, Refusal>> + Send + 'static,
    ) -> Answer<T> {
        Answer(Box::pin(async move {
            loop {
                let come = look(&life.borrow_and_update());
                if let Some(come) = come {
                    return come;
                }
                if life.changed().await.is_err() {
                    // Its thread is gone: it has panicked, or has just said the last.
                    let mut last = life.borrow().clone();
                    last.ended = true;
                    return look(&last).unwrap_or_else(|| Err(stopped()));
                }
            }
        }))
    }

    /// Wait on this thread. In an asynchronous program, await it instead: this would hold up the executor.
    ///
    /// # Errors
    /// Why it was not done.
    pub fn wait(self) -> Result<T, Refusal> {
        wait(self)
    }
}

impl<T> Future for Answer<T> {
    type Output = Result<T, Refusal>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(context)
    }
}

impl<T> fmt::Debug for Answer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").finish_non_exhaustive()
    }
}

/// What happens: [facts](crate::facts::Fact) of the launcher, and lines that workers wrote, in one order.
///
/// It costs nothing while nobody reads. Who reads too slowly misses the oldest and is told how many; nobody waits for
/// him.
pub struct Events {
    feed: Arc<Feed>,
    life: watch::Receiver<Life>,
    after: u64,
    fetched: VecDeque<Arc<Record>>,
    missed: u64,
    done: bool,
}

impl Events {
    /// The next; `None` when the launcher has ended and everything was read. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Arc<Record>> {
        let wanted = Wanted { facts: Some(Level::Debug), output: true, services: None };
        loop {
            if let Some(record) = self.fetched.pop_front() {
                return Some(record);
            }
            if self.done {
                return None;
            }
            // Before the look: what is told until the end is seen.
            let ended = self.life.borrow_and_update().ended;
            let batch = self.feed.read(self.after, &wanted, BATCH);
            self.after = batch.next;
            self.missed += batch.missed;
            self.fetched.extend(batch.records);
            if self.fetched.is_empty() {
                if ended {
                    self.done = true;
                    continue;
                }
                let over = async { self.life.changed().await.is_err() };
                tokio::select! {
                    () = self.feed.newer_than(self.after) => {}
                    // Its thread is gone without a word.
                    over = over => self.done = over,
                }
            }
        }
    }

    /// The next, waited for on this thread. In an asynchronous program, await [`next`](Events::next) instead.
    pub fn wait_next(&mut self) -> Option<Arc<Record>> {
        wait(self.next())
    }

    /// How many there were that were forgotten before they were read.
    pub fn missed(&self) -> u64 {
        self.missed
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("after", &self.after).field("missed", &self.missed).finish_non_exhaustive()
    }
}

/// Wait for a future on this thread, which sleeps meanwhile.
fn wait<F: Future>(future: F) -> F::Output {
    struct Parked(Thread);
    impl Wake for Parked {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Parked(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}
