//! What reloads do to the latency that clients see at half load: requests at a fixed rate, whatever the answers do.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::LocalSet;

use super::{Language, Stage};
use crate::http::Connection;

/// Latencies of one time of load.
#[derive(Debug, Clone, Copy)]
pub struct Latency {
    /// Requests a second that were sent.
    pub rate: u64,
    /// The median.
    pub p50: Duration,
    /// Of a thousand requests, one takes longer.
    pub p999: Duration,
    /// The longest.
    pub worst: Duration,
    /// Reloads meanwhile.
    pub reloads: u32,
}

/// The same load without and with reloads.
#[derive(Debug, Clone, Copy)]
pub struct Pair {
    /// Without.
    pub calm: Latency,
    /// With one reload a second.
    pub reloading: Latency,
}

/// Keep-alive connections over which the requests are spread.
const CONNECTIONS: usize = 64;

/// Finds out what the service can do, then loads it with half of it, alternately without and with reloads.
///
/// # Errors
/// Any request fails.
pub fn run(binary: &Path, language: Language, hello: &Path, seconds: u64, rounds: usize) -> Result<Vec<Pair>, String> {
    let mut stage = Stage::start(binary, language, hello, 2, "")?;
    let most = capacity(stage.address, Duration::from_secs(3))?;
    let mut pairs = Vec::new();
    for _ in 0..rounds {
        let calm = load(stage.address, most / 2, seconds, |_| Ok(0))?;
        let reloading = load(stage.address, most / 2, seconds, |over| {
            let mut reloads = 0;
            while !over.load(Relaxed) {
                let begun = Instant::now();
                let mark = stage.reload()?;
                stage.left(mark)?;
                reloads += 1;
                while begun.elapsed() < Duration::from_secs(1) && !over.load(Relaxed) {
                    std::thread::park_timeout(Duration::from_millis(10));
                }
            }
            Ok(reloads)
        })?;
        pairs.push(Pair { calm, reloading });
    }
    Ok(pairs)
}

/// Requests a second that clients get which send the next one when they have the answer.
fn capacity(address: SocketAddr, time: Duration) -> Result<u64, String> {
    let runtime = crate::clients::event_loop()?;
    let tasks = LocalSet::new();
    let end = Instant::now() + time;
    let running: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            tasks.spawn_local(async move {
                let mut connection = Connection::open(address).await?;
                let mut count = 0_u64;
                while Instant::now() < end {
                    connection.get("/", 200).await?;
                    count += 1;
                }
                Ok::<_, crate::http::Trouble>(count)
            })
        })
        .collect();
    let counted = runtime.block_on(tasks.run_until(async {
        let mut all = 0;
        for task in running {
            all += task.await.map_err(|error| error.to_string())?.map_err(|trouble| trouble.to_string())?;
        }
        Ok::<_, String>(all)
    }))?;
    Ok((counted as f64 / time.as_secs_f64()) as u64)
}

/// The moments at which requests are due, for those who take them.
#[derive(Default)]
struct Due {
    waiting: Mutex<VecDeque<Instant>>,
    more: Notify,
    over: AtomicBool,
}

impl Due {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<Instant>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next moment, waited for; `None` at the end.
    async fn next(&self) -> Option<Instant> {
        loop {
            let more = self.more.notified();
            let next = self.waiting().pop_front();
            if next.is_some() || self.over.load(Relaxed) {
                return next;
            }
            more.await;
        }
    }

    /// In a thread of its own: an event loop's timer has milliseconds only.
    fn tick(&self, rate: u64, seconds: u64) {
        let begin = Instant::now();
        let (mut sent, all) = (0, rate * seconds);
        while sent < all {
            let now = ((begin.elapsed().as_secs_f64() * rate as f64) as u64).min(all);
            for number in sent..now {
                self.waiting().push_back(begin + Duration::from_secs_f64(number as f64 / rate as f64));
                self.more.notify_one();
            }
            sent = now;
            std::thread::sleep(Duration::from_micros(200));
        }
        self.over.store(true, Relaxed);
        self.more.notify_waiters();
    }
}

fn load(
    address: SocketAddr,
    rate: u64,
    seconds: u64,
    meanwhile: impl FnOnce(&AtomicBool) -> Result<u32, String>,
) -> Result<Latency, String> {
    let over = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&over);
    let clients = std::thread::spawn(move || {
        let outcome = fixed_rate(address, rate, seconds);
        flag.store(true, Relaxed);
        outcome
    });
    let reloads = meanwhile(&over);
    let latencies = clients.join().map_err(|_| "the clients panicked")??;
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize];
    Ok(Latency { rate, p50: at(0.5), p999: at(0.999), worst: at(1.0), reloads: reloads? })
}

/// Latencies, sorted, each from the moment at which its request was due: a client that is held up sends late, and that
/// counts as the server's delay.
fn fixed_rate(address: SocketAddr, rate: u64, seconds: u64) -> Result<Vec<Duration>, String> {
    let runtime = crate::clients::event_loop()?;
    let tasks = LocalSet::new();
    let due = Arc::new(Due::default());
    let running: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let due = Arc::clone(&due);
            tasks.spawn_local(async move {
                let mut connection = Connection::open(address).await?;
                let mut latencies = Vec::new();
                while let Some(moment) = due.next().await {
                    connection.get("/", 200).await?;
                    latencies.push(moment.elapsed());
                }
                Ok::<_, crate::http::Trouble>(latencies)
            })
        })
        .collect();
    let clock = Arc::clone(&due);
    std::thread::spawn(move || clock.tick(rate, seconds));
    runtime.block_on(tasks.run_until(async {
        let mut all = Vec::new();
        for task in running {
            let outcome = task.await.map_err(|error| error.to_string())?;
            all.append(&mut outcome.map_err(|trouble| trouble.to_string())?);
        }
        all.sort_unstable();
        Ok(all)
    }))
}
