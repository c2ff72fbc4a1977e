//! A worker whose plugin owns the listening sockets: it gives them away, and from then on only carries words between the
//! master and the plugin.
//!
//! ```text
//! master ──Drain──> worker ──flag, descriptor, waker──> plugin: closes its listeners, finishes, comes back
//!        <──Ready, NotAccepting── worker <──ready, not_accepting──
//! ```
//!
//! Ready is what the plugin says, never what is guessed. One that comes back before it was told to has failed. What it
//! speaks is not known here.
//!
//! A plugin whose loop turns the worker's ([`Turned`]) has the process's first thread, and the worker nothing but turns of
//! it. Any other one has a thread of its own, and the worker's loop runs beside it.

use std::future::Future;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::{Notify, oneshot};

use super::plugin::native::NativeSocket;
use super::post::Post;
use super::pulse::Pulse;
use super::recycle::{self, Memory, Wish};
use super::{Life, Steered, duplicate, fail};
use crate::channel::{Assign, Channel};
use crate::sys;
use crate::sys::announcement::Announcement;
use crate::sys::turned::{self, Turned};

/// After this long the worker says what it waits for.
const HESITATION: Duration = Duration::from_secs(2);
const NOT_READY: &str =
    "launcher: not ready yet: the plugin has not said that it accepts (`sockets.ready()`, or `ready` of worker.h)\n";

/// Between a plugin and its worker. It lives as long as the process, because a plugin's threads may.
#[derive(Debug)]
pub struct Side {
    /// The plugin is to stop.
    pub stop: Announcement,
    ready: Notify,
    left: Notify,
    pulse: Pulse,
}

impl Side {
    /// One for the plugin of this process.
    ///
    /// # Errors
    /// As eventfd(2).
    pub fn new(pulse: Pulse) -> io::Result<&'static Side> {
        Ok(Box::leak(Box::new(Side { stop: Announcement::new()?, ready: Notify::new(), left: Notify::new(), pulse })))
    }

    /// The pulse of the plugin's loop.
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// The plugin accepts. Any thread, any number of times.
    pub fn ready(&self) {
        self.ready.notify_one();
    }

    /// The plugin, told to stop, does not accept any more; likewise.
    pub fn not_accepting(&self) {
        // One that says so unasked would have the master believe that nobody need be waited for.
        if self.stop.was_said() {
            self.left.notify_one();
        }
    }
}

impl Steered for &'static Side {
    fn drain(&self) {
        self.stop.say();
    }

    fn hand_over(&self, _give: OwnedFd, _successors: u32) {
        // What is open is the plugin's, and speaks what nobody here knows.
        self.stop.say();
    }

    fn nudge(&self) {
        // A plugin's loop was woken like all others if it listens as everybody does.
    }
}

/// What a plugin's end means: `Ok` if it was told to come back.
fn verdict(side: &Side, outcome: Result<(), String>) -> Result<(), String> {
    match outcome {
        Ok(()) if side.stop.was_said() => Ok(()),
        Ok(()) => Err("it came back before it was told to stop: `serve` must run until then".to_owned()),
        Err(reason) => Err(reason),
    }
}

/// Serve by a plugin until it is back. Why it cannot, for a person.
pub(super) fn serve(
    channel: &OwnedFd,
    assign: Assign,
    listeners: Vec<OwnedFd>,
    (pulse, post): (Pulse, Arc<Post>),
    plugin: NativeSocket,
    runtime: Runtime,
) -> Result<(), String> {
    let (side, grace) =
        (Side::new(pulse).map_err(|error| format!("no descriptor to stop it by: {error}"))?, assign.drain_timeout);
    let sockets = assign.listeners.iter().cloned().zip(listeners).collect();
    let channel = duplicate(channel)?;
    let no_room = |error| format!("no descriptors for its loop: {error}");
    let epoll = if plugin.turns() { turned::epoll_of(&runtime).map_err(no_room)? } else { None };
    match epoll {
        None => runtime.block_on(run(channel, assign, (side, post), plugin.serve(sockets, side, grace))),
        Some(epoll) => {
            let turned = Turned::new(runtime, epoll).map_err(no_room)?;
            let (back, awaited) = oneshot::channel();
            let end = async { awaited.await.unwrap_or_else(|_| Err("nobody told how it ended".to_owned())) };
            let served = turned.begin(run(channel, assign, (side, post), end));
            // Nobody waits any more if the worker has failed meanwhile.
            let _ = back.send(plugin.serve_here(sockets, side, grace, &turned));
            drop(turned.run(served));
        }
    }
    plugin.shutdown();
    sys::process::exit_at_once(0)
}

/// What the worker does while a plugin runs as `plugin` and speaks through `side`, until it is back. One that has failed
/// ends the process here.
async fn run(
    channel: OwnedFd,
    assign: Assign,
    between: (&'static Side, Arc<Post>),
    plugin: impl Future<Output = Result<(), String>>,
) {
    if let Err(reason) = attend(&channel, &assign, between, plugin).await {
        // Not by a return: threads of the plugin may run on, and must not see destructors of ours.
        fail(&channel, format!("{}: {reason}", assign.plugin_path));
        sys::process::exit_at_once(1);
    }
}

async fn attend(
    channel: &OwnedFd,
    assign: &Assign,
    (side, post): (&'static Side, Arc<Post>),
    plugin: impl Future<Output = Result<(), String>>,
) -> Result<(), String> {
    let ours = duplicate(channel)?;
    let channel = Arc::new(Channel::new(ours).map_err(|error| format!("the channel cannot be used: {error}"))?);
    let life =
        Life { channel, said: Arc::default(), wish: Wish::default(), left: Arc::default(), post: Arc::clone(&post) };
    life.live(side, side.pulse.clone(), recycle::max_lifetime(&assign.limits, assign.worker), None, None)?;
    if let Some(memory) = Memory::of(&assign.limits, &life.wish) {
        turned::spawn(look_at(memory));
    }
    let mut plugin = std::pin::pin!(plugin);
    let mut accepts = std::pin::pin!(accepts(side));
    let mut ready = false;
    let outcome = loop {
        tokio::select! {
            // What it said before it came back counts.
            biased;
            () = &mut accepts, if !ready => {
                ready = true;
                life.ready().await?;
            }
            () = side.left.notified() => life.left.notify_one(),
            outcome = &mut plugin => break outcome,
        }
    };
    post.last_words();
    verdict(side, outcome)
}

/// Waits until the plugin says that it accepts. Whoever wrote one that does not waits for a word, too.
async fn accepts(side: &Side) {
    tokio::select! {
        biased;
        () = side.ready.notified() => {}
        () = turned::sleep(HESITATION) => {
            // Nobody is left to tell if it fails.
            let _ = io::stderr().write_all(NOT_READY.as_bytes());
            side.ready.notified().await;
        }
    }
}

/// No request leads to a look, so time does. Only where there is a limit: otherwise an idle worker does nothing.
async fn look_at(memory: Memory) {
    loop {
        turned::sleep(recycle::LOOK).await;
        memory.look();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coming_back_is_an_end_or_a_failure() {
        let side = Side::new(Pulse::default()).expect("eventfd");
        assert!(verdict(side, Ok(())).is_err(), "nobody told it to");
        side.not_accepting();
        side.stop.say();
        assert!(verdict(side, Ok(())).is_ok());
        assert!(verdict(side, Err("it broke".to_owned())).is_err(), "whenever that is");
    }
}
