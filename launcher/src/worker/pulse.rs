//! Telling the master that this worker's loop turns, so that one that is stuck is noticed.
//!
//! ```text
//! resting ──the loop turns──▶ Busy, then Beat once a second ──a second without a turn──▶ Idle, resting
//! ```
//!
//! A plugin that owns its sockets has a loop of its own, on another thread, which says of itself when it is at work and when
//! it waits (`Sockets::at_work` of the ABI). While it is at work, every second must bring a word of it; without one no beat
//! is sent, so that the master misses it as it misses a worker's own loop. One that never waits is asked every second.
//! One that turns the worker's loop is the loop: it wakes, and that is a turn.
//!
//! A worker that says `Ready` is at work. `Busy` is said by the thread of the loop itself before it does what it was woken for: a plugin that computes for ever
//! or waits for a lock says nothing more after it. While the worker rests nothing is said and nobody expects anything, so
//! an idle launcher sleeps. How long a silence may last is the master's business.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::Notify;

use crate::channel::{Channel, ToMaster};
use crate::sys::alarm::Alarm;

/// Between two beats, and the rest after which a worker is idle.
const BEAT: Duration = Duration::from_secs(1);

/// The pulse of a worker's loop; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// How often the loop slept and woke.
    turns: AtomicU64,
    resting: AtomicBool,
    woken: Notify,
    channel: OnceLock<Arc<Channel>>,
    plugin: Loop,
}

/// The loop of the plugin, if it has one and says so.
#[derive(Debug, Default)]
struct Loop {
    /// How often something was heard of it.
    words: AtomicU64,
    at_work: AtomicBool,
    /// Woken when the next sign of life is wanted.
    asked: Mutex<Option<Waker>>,
}

impl Loop {
    fn words(&self) -> u64 {
        self.words.load(Ordering::Relaxed)
    }

    /// Cheaper than an atomic addition, with every turn of the loop; its thread alone says words.
    fn count(&self) {
        self.words.store(self.words().wrapping_add(1), Ordering::Relaxed);
    }

    fn asked(&self) -> std::sync::MutexGuard<'_, Option<Waker>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self) {
        let waker = self.asked().take();
        // Outside of the lock: a waker is somebody else's code.
        waker.into_iter().for_each(Waker::wake);
    }
}

impl Pulse {
    /// Be told of every turn of a loop of one thread.
    pub(super) fn watch(&self, runtime: &mut Builder) {
        let pulse = self.clone();
        runtime.on_thread_unpark(move || pulse.turn());
    }

    /// The loop has woken.
    pub fn turn(&self) {
        self.0.turns.fetch_add(1, Ordering::Relaxed);
        self.end_rest();
    }

    /// Whoever ends it says so, once.
    fn end_rest(&self) {
        // Sequentially consistent, as all that two threads say of a rest: the plugin's, which says that it is at work and
        // then looks here, and ours, which says here that it rests and then looks there, must not both see the past.
        if self.0.resting.load(Ordering::SeqCst) && self.0.resting.swap(false, Ordering::SeqCst) {
            // Not said if the master does not read: then a beat tells it.
            self.say_now(&ToMaster::Busy);
            self.0.woken.notify_one();
        }
    }

    /// The plugin's loop has something to do.
    pub fn plugin_works(&self) {
        self.0.plugin.count();
        self.0.plugin.at_work.store(true, Ordering::SeqCst);
        self.end_rest();
    }

    /// The plugin's loop is about to wait.
    pub fn plugin_waits(&self) {
        self.0.plugin.at_work.store(false, Ordering::Release);
    }

    /// The plugin's loop lives. Its waker is woken when that is to be said again.
    pub fn plugin_lives(&self, context: &Context<'_>) {
        self.0.plugin.count();
        let before = self.0.plugin.asked().replace(context.waker().clone());
        // Outside of the lock, as above.
        drop(before);
    }

    fn say_now(&self, word: &ToMaster) -> bool {
        self.0.channel.get().is_some_and(|channel| channel.send_now(word, &[]).is_ok_and(|sent| sent))
    }

    /// Say what there is to say, on the watched loop, as long as it turns.
    pub(super) async fn beat(self, channel: Arc<Channel>) {
        let _ = self.0.channel.set(Arc::clone(&channel));
        // Without one this worker is not timed.
        let Ok(alarm) = Alarm::new() else { return drop(channel.send(&ToMaster::Idle, &[]).await) };
        let mut known = self.0.plugin.words();
        loop {
            let before = self.0.turns.load(Ordering::Relaxed);
            if alarm.wait(BEAT).await.is_err() {
                return drop(channel.send(&ToMaster::Idle, &[]).await);
            }
            // Taken before the plugin is asked: it may answer at once, and that is a word of the next second.
            let words = self.0.plugin.words();
            let heard = std::mem::replace(&mut known, words) != words;
            if self.0.plugin.at_work.load(Ordering::SeqCst) {
                self.0.plugin.ask();
                if !heard {
                    // It answers before the next beat, or stands still.
                    continue;
                }
            }
            // One turn is this timer's. None: there was so much to do that the loop did not sleep at all.
            if heard || self.0.turns.load(Ordering::Relaxed).wrapping_sub(before) != 1 {
                drop(channel.send(&ToMaster::Beat, &[]).await);
            } else if self.say_now(&ToMaster::Idle) {
                self.0.resting.store(true, Ordering::SeqCst);
                if self.0.plugin.at_work.load(Ordering::SeqCst) {
                    // It may have looked just before this rest.
                    self.end_rest();
                }
                self.0.woken.notified().await;
            }
        }
    }
}
