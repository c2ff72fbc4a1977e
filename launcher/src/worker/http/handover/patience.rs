//! How long a worker that leaves waits for a sign that somebody takes its connections.

use tokio::time::{Instant, sleep_until};

use super::STALL;

/// Looks in a patience. Each is late by what holds the process up, and counts as one all the same.
const LOOKS: u32 = 10;

/// [`STALL`], in a clock that stands still while this process does.
///
/// Whatever holds up the sender, like the CPU quota of a container or a machine that was suspended, holds up those
/// who would take: by the wall clock nobody took for 100 ms, although nobody had a turn.
#[derive(Debug)]
pub(super) struct Patience {
    looks: u32,
    next: Instant,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self { looks: 0, next: Instant::now() + STALL / LOOKS }
    }

    /// There was a sign, or there is something to wait for only now.
    pub(super) fn renew(&mut self) {
        *self = Self::new();
    }

    /// Returns when it is exhausted. May be dropped and called again; it goes on where it was.
    pub(super) async fn exhausted(&mut self) {
        while self.looks < LOOKS {
            sleep_until(self.next).await;
            self.look(Instant::now());
        }
    }

    /// A look that was due.
    fn look(&mut self, now: Instant) {
        self.looks += 1;
        self.next = now + STALL / LOOKS;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// How long it lasts if the process stands still for `still` before its first look.
    fn lasts(patience: &mut Patience, still: Duration) -> Duration {
        let began = patience.next;
        while patience.looks < LOOKS {
            let late = if patience.looks == 0 { still } else { Duration::ZERO };
            patience.look(patience.next + late);
        }
        patience.next - began
    }

    #[test]
    fn it_lasts_as_long_as_it_is_said_to() {
        assert_eq!(lasts(&mut Patience::new(), Duration::ZERO), STALL);
    }

    #[test]
    fn a_process_that_stood_still_has_lost_one_look_only() {
        assert_eq!(lasts(&mut Patience::new(), STALL * 50), STALL * 51);
    }

    #[test]
    fn a_sign_begins_it_anew() {
        let mut patience = Patience::new();
        lasts(&mut patience, Duration::ZERO);
        patience.renew();
        assert_eq!(lasts(&mut patience, Duration::ZERO), STALL);
    }
}
