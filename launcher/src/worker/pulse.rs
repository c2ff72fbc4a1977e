//! Telling the master that this worker's loop turns, so that one that is stuck is noticed.
//!
//! ```text
//! resting ──the loop turns──▶ Busy, then Beat once a second ──a second without a turn──▶ Idle, resting
//! ```
//!
//! A worker that says `Ready` is at work. `Busy` is said by the thread of the loop itself before it does what it was woken for: a plugin that computes for ever
//! or waits for a lock says nothing more after it. While the worker rests nothing is said and nobody expects anything, so
//! an idle launcher sleeps. How long a silence may last is the master's business.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::Notify;

use crate::channel::{Channel, ToMaster};
use crate::sys::alarm::Alarm;

/// Between two beats, and the rest after which a worker is idle.
const BEAT: Duration = Duration::from_secs(1);

/// The pulse of a worker's loop; cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Pulse(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// How often the loop slept and woke.
    turns: AtomicU64,
    resting: AtomicBool,
    woken: Notify,
    channel: OnceLock<Arc<Channel>>,
}

impl Pulse {
    /// Be told of every turn of a loop of one thread.
    pub(super) fn watch(&self, runtime: &mut Builder) {
        let pulse = self.clone();
        runtime.on_thread_unpark(move || pulse.turn());
    }

    fn turn(&self) {
        self.0.turns.fetch_add(1, Ordering::Relaxed);
        if self.0.resting.load(Ordering::Relaxed) {
            self.0.resting.store(false, Ordering::Relaxed);
            // Not said if the master does not read: then a beat tells it.
            self.say_now(&ToMaster::Busy);
            self.0.woken.notify_one();
        }
    }

    fn say_now(&self, word: &ToMaster) -> bool {
        self.0.channel.get().is_some_and(|channel| channel.send_now(word, &[]).is_ok_and(|sent| sent))
    }

    /// Say what there is to say, on the watched loop, as long as it turns.
    pub(super) async fn beat(self, channel: Arc<Channel>) {
        let _ = self.0.channel.set(Arc::clone(&channel));
        // Without one this worker is not timed.
        let Ok(alarm) = Alarm::new() else { return drop(channel.send(&ToMaster::Idle, &[]).await) };
        loop {
            let before = self.0.turns.load(Ordering::Relaxed);
            if alarm.wait(BEAT).await.is_err() {
                return drop(channel.send(&ToMaster::Idle, &[]).await);
            }
            // One turn is this timer's. None: there was so much to do that the loop did not sleep at all.
            if self.0.turns.load(Ordering::Relaxed).wrapping_sub(before) != 1 {
                drop(channel.send(&ToMaster::Beat, &[]).await);
            } else if self.say_now(&ToMaster::Idle) {
                self.0.resting.store(true, Ordering::Relaxed);
                self.0.woken.notified().await;
            }
        }
    }
}
