//! Load: threads that ask without pause, each request on a fresh connection or all on kept ones, and the tally of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::PATIENCE;
use super::http::{Connection, Failure, Response};

/// The end of every load, wanted or not: a test that forgot to stop must not ask for ever.
const MOST_REQUESTS: u64 = 400_000;

/// How the requests travel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connections {
    /// One connection for each request.
    Fresh,
    /// One connection a thread, kept until the server says `connection: close`.
    Kept,
}

/// What became of the requests.
#[derive(Default, Debug, Clone)]
pub(crate) struct Tally {
    /// Answered with 200.
    pub(crate) answered: u64,
    /// No connection.
    pub(crate) refused: Vec<String>,
    /// Connected, and then not answered with 200.
    pub(crate) failed: Vec<String>,
    /// For each text that was answered: how often, and when first.
    pub(crate) texts: BTreeMap<String, (u64, Instant)>,
}

#[derive(Default)]
struct Shared {
    tally: Mutex<Tally>,
    changed: Condvar,
    stopping: AtomicBool,
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Threads that ask until they are stopped.
pub(crate) struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts it.
    pub(crate) fn start(address: &str, target: &str, connections: Connections, threads: u32) -> Self {
        let shared = Arc::new(Shared::default());
        let threads = (0..threads)
            .map(|_| {
                let (shared, address, target) = (Arc::clone(&shared), address.to_owned(), target.to_owned());
                thread::spawn(move || ask(&shared, &address, &target, connections))
            })
            .collect();
        Self { shared, threads }
    }

    /// What became of the requests so far.
    pub(crate) fn tally(&self) -> Tally {
        self.shared.tally().clone()
    }

    /// Waits until that many more requests are answered.
    pub(crate) fn more(&self, count: u64) {
        let wanted = self.shared.tally().answered + count;
        self.wait(&format!("{count} more answers"), |tally| (tally.answered >= wanted).then_some(()));
    }

    /// Waits for the first answer with that text and says when it came.
    pub(crate) fn first(&self, text: &str) -> Instant {
        self.wait(&format!("answer {text:?}"), |tally| tally.texts.get(text).map(|(_, first)| *first))
    }

    fn wait<T>(&self, what: &str, found: impl Fn(&Tally) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut tally = self.shared.tally();
        loop {
            if let Some(found) = found(&tally) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {what} in time; so far: {}", tally.summary());
            tally = self.shared.changed.wait_timeout(tally, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Stops it and gives the tally.
    pub(crate) fn stop(mut self) -> Tally {
        self.end();
        self.tally()
    }

    fn end(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic of the thread has printed itself and counts as missing answers.
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

impl Tally {
    /// For messages.
    pub(crate) fn summary(&self) -> String {
        let texts: BTreeMap<_, _> = self.texts.iter().map(|(text, (count, _))| (text, count)).collect();
        format!(
            "{} answered, {} refused {:?}, {} failed {:?}, texts {texts:?}",
            self.answered,
            self.refused.len(),
            self.refused.iter().take(3).collect::<Vec<_>>(),
            self.failed.len(),
            self.failed.iter().take(3).collect::<Vec<_>>(),
        )
    }

    /// No request was refused and none failed.
    pub(crate) fn assert_flawless(&self) {
        assert!(self.refused.is_empty() && self.failed.is_empty() && self.answered > 0, "{}", self.summary());
    }
}

fn ask(shared: &Shared, address: &str, target: &str, connections: Connections) {
    let mut kept: Option<Connection> = None;
    while !shared.stopping.load(Ordering::Relaxed) {
        let outcome = exchange(&mut kept, address, target, connections);
        let mut tally = shared.tally();
        match outcome {
            Ok(response) if response.status() == 200 => {
                tally.answered += 1;
                let text = tally.texts.entry(response.text()).or_insert_with(|| (0, Instant::now()));
                text.0 += 1;
            }
            Ok(response) => tally.failed.push(format!("{} {}", response.status(), response.text())),
            Err(Failure::Refused(error)) => tally.refused.push(error.to_string()),
            Err(Failure::Broken(error)) => tally.failed.push(error.to_string()),
        }
        let enough = tally.answered + (tally.refused.len() + tally.failed.len()) as u64 > MOST_REQUESTS;
        drop(tally);
        shared.changed.notify_all();
        if enough {
            break;
        }
    }
}

fn exchange(
    kept: &mut Option<Connection>,
    address: &str,
    target: &str,
    connections: Connections,
) -> Result<Response, Failure> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => Connection::open(address).map_err(Failure::Refused)?,
    };
    let headers: &[(&str, &str)] = match connections {
        Connections::Fresh => &[("connection", "close")],
        Connections::Kept => &[],
    };
    let response = connection.request("GET", target, headers, b"").map_err(Failure::Broken)?;
    if connections == Connections::Kept && response.head.header("connection") != Some("close") {
        *kept = Some(connection);
    }
    Ok(response)
}
