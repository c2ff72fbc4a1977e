//! The clocks of one connection: silence, a head that does not end, a half-closed client, the linger of a drain.
//!
//! One coarse timer a connection watches for silence: it looks four times an `idle_timeout` whether bytes have
//! moved, so that a request costs no timer and a silent connection ends between 1 and 1.25 times its limit. The
//! other clocks exist only while they are needed.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::track::Track;
use super::{HEAD_TIMEOUT, LINGER};

/// Looks in an idle timeout.
const LOOKS: u32 = 4;

/// How long a client that has closed its sending half may wait for the next bytes of its response. TCP does not
/// tell it from a client that is gone, whose request should be cancelled.
const HALF_CLOSED: Duration = Duration::from_millis(500);

/// Why a connection is ended by the launcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expired {
    /// No byte has moved for `limits.idle_timeout`.
    Silence,
    /// A request's head did not end in time.
    Head,
    /// Nobody seems to wait for the response.
    Gone,
    /// The worker leaves, and the linger is over.
    Linger,
}

/// What the clocks of a connection have counted, for whoever watches it next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Elapsed {
    /// Since bytes have moved.
    pub(super) quiet: Duration,
    /// Since the first byte of a head that is not complete, zero without one; of a proxy's head, since it is due.
    pub(super) head: Duration,
}

/// How long a head may take, a request's and a proxy's.
pub(super) fn head_timeout(idle: Duration) -> Duration {
    if idle.is_zero() { HEAD_TIMEOUT } else { HEAD_TIMEOUT.min(idle) }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Watchdog {
    idle: Duration,
    head: Duration,
    /// Counted by another worker.
    earlier: Elapsed,
    timer: Option<Pin<Box<Sleep>>>,
    /// The timer knows the task, which is the same for the connection's life: no need to poll it until it is over.
    watched: bool,
    next_look: Option<Instant>,
    head_deadline: Option<Instant>,
    /// Of the last look.
    progress: u32,
    /// Looks since bytes have moved.
    quiet: u32,
    linger: Option<Pin<Box<Sleep>>>,
    /// With the progress at its start.
    half_closed: Option<(Pin<Box<Sleep>>, u32)>,
}

impl Watchdog {
    /// `idle` zero: silence is no reason to end.
    pub(super) fn new(idle: Duration, earlier: Elapsed) -> Self {
        Self {
            idle,
            head: head_timeout(idle),
            earlier,
            timer: None,
            watched: false,
            next_look: None,
            head_deadline: None,
            progress: 0,
            quiet: 0,
            linger: None,
            half_closed: None,
        }
    }

    /// What the clocks show.
    pub(super) fn elapsed(&self, track: &Track) -> Elapsed {
        let now = Instant::now();
        let quiet = match self.next_look {
            // Not polled yet: nothing has moved since the other worker had it.
            None => self.earlier.quiet,
            Some(_) if track.progress() != self.progress => Duration::ZERO,
            Some(next) => {
                let look = self.idle / LOOKS;
                look * self.quiet + look.saturating_sub(next.saturating_duration_since(now))
            }
        };
        let head = match self.head_deadline.filter(|_| track.head_open()) {
            Some(deadline) => self.head.saturating_sub(deadline.saturating_duration_since(now)),
            // Of a head that was not looked at yet, if there is one.
            None => self.earlier.head,
        };
        Elapsed { quiet, head }
    }

    /// To be polled after everything else of the connection.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, track: &Track) -> Poll<Expired> {
        if track.draining() && self.poll_linger(cx, track).is_ready() {
            return Poll::Ready(Expired::Linger);
        }
        if track.was_reset() || track.half_closed() && self.poll_half_closed(cx, track).is_ready() {
            return Poll::Ready(Expired::Gone);
        }
        self.poll_timer(cx, track)
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>, track: &Track) -> Poll<()> {
        if !track.between_requests() || track.head_open() {
            self.linger = None;
            return Poll::Pending;
        }
        let linger = self.linger.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        let polled = linger.as_mut().poll(cx);
        if polled.is_ready() {
            self.linger = None;
        }
        polled
    }

    fn poll_half_closed(&mut self, cx: &mut Context<'_>, track: &Track) -> Poll<()> {
        let progress = track.progress();
        let (timer, seen) = self.half_closed.get_or_insert_with(|| (Box::pin(sleep(HALF_CLOSED)), progress));
        if *seen != progress {
            *seen = progress;
            timer.as_mut().reset(Instant::now() + HALF_CLOSED);
        }
        while timer.as_mut().poll(cx).is_ready() {
            // A client that takes its bytes slowly is there; silence ends it if it is not.
            if !track.write_blocked() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(Instant::now() + HALF_CLOSED);
        }
        Poll::Pending
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>, track: &Track) -> Poll<Expired> {
        if track.head_open() != self.head_deadline.is_some() {
            let earlier = std::mem::take(&mut self.earlier.head);
            self.head_deadline = track.head_open().then(|| Instant::now() + self.head.saturating_sub(earlier));
            self.arm();
        }
        if self.next_look.is_none() && !self.idle.is_zero() {
            self.begin_looking(track);
        }
        while let Some(timer) = &mut self.timer {
            if self.watched && !timer.is_elapsed() {
                return Poll::Pending;
            }
            self.watched = true;
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            if self.head_deadline.is_some_and(|deadline| deadline <= now) {
                return Poll::Ready(Expired::Head);
            }
            if self.next_look.is_some_and(|look| look <= now) {
                self.next_look = Some(now + self.idle / LOOKS);
                let progress = track.progress();
                if progress != self.progress || track.plugin_at_work() {
                    self.progress = progress;
                    self.quiet = 0;
                } else {
                    self.quiet += 1;
                }
                if self.quiet >= LOOKS {
                    return Poll::Ready(Expired::Silence);
                }
            }
            self.arm();
        }
        Poll::Pending
    }

    fn begin_looking(&mut self, track: &Track) {
        let look = (self.idle / LOOKS).max(Duration::from_nanos(1));
        let looks = self.earlier.quiet.as_nanos() / look.as_nanos();
        // One look is left in any case: bytes that came meanwhile are seen before it.
        self.quiet = u32::try_from(looks).unwrap_or(u32::MAX).min(LOOKS - 1);
        let into = self.earlier.quiet.saturating_sub(look * self.quiet).min(look);
        self.next_look = Some(Instant::now() + (look - into));
        self.progress = track.progress();
        self.arm();
    }

    /// Sets the timer to the earlier of its two purposes.
    fn arm(&mut self) {
        self.watched = false;
        let next = match (self.next_look, self.head_deadline) {
            (Some(look), Some(head)) => Some(look.min(head)),
            (look, head) => look.or(head),
        };
        match (next, &mut self.timer) {
            (None, timer) => *timer = None,
            (Some(at), Some(timer)) => timer.as_mut().reset(at),
            (Some(at), timer) => *timer = Some(Box::pin(sleep_until(at))),
        }
    }
}
