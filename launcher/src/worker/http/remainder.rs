//! What is left of a request's body that the plugin does not want.
//!
//! hyper closes a connection whose request's body was dropped before all of it had come, and says nothing of it: the
//! client's next request, already on its way, would be lost, for no other reason than that the body's last packet came
//! after the answer. So it is read and thrown away, as other servers do, up to a bound.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::Body;
use hyper::body::Incoming;

/// Most bytes of a body that are read for nobody, as with nginx's `client_max_body_size`. The connection is closed
/// instead of reading more; the response says so if the plugin had left the body before it answered.
pub(super) const SKIP_MAX: u64 = 1024 * 1024;

/// A body in the hands of the connection's task.
#[derive(Debug)]
pub(super) struct Remainder {
    incoming: Incoming,
    /// Bytes that may still be skipped.
    allowed: u64,
}

/// How skipping has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Skipped {
    /// Nothing is left; or the connection broke, which hyper knows.
    Whole,
    TooMuch,
}

impl Remainder {
    /// `None` if so much is left that it is not worth reading.
    pub(super) fn new(incoming: Incoming) -> Option<Self> {
        (incoming.size_hint().lower() <= SKIP_MAX).then_some(Self { incoming, allowed: SKIP_MAX })
    }

    /// Throws away what is there.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Skipped> {
        while !self.incoming.is_end_stream() {
            let Some(Ok(frame)) = ready!(Pin::new(&mut self.incoming).poll_frame(cx)) else { break };
            let length = frame.data_ref().map_or(0, |data| data.len() as u64);
            let Some(allowed) = self.allowed.checked_sub(length) else { return Poll::Ready(Skipped::TooMuch) };
            self.allowed = allowed;
        }
        Poll::Ready(Skipped::Whole)
    }
}
