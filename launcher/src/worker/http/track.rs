//! What the launcher knows about one connection: whether it stands between two requests.
//!
//! hyper does not say in which state its connection is, so the wrappers of the io, the service and the bodies keep
//! book. A connection may be taken apart (`into_parts`) or closed only when
//!
//! ```text
//! busy = response open || unflushed || request open
//! ```
//!
//! is false. Without *request open* the rest of an upload that was answered early would be parsed as a request
//! (smuggling); without *unflushed* a slow reader would lose the tail of its response.
//!
//! Everything happens in the connection's task, except that a plugin may poll and drop a request's body on a thread
//! of its own, even after the next request has begun: the state of the body therefore carries the request's number,
//! and a stale body changes nothing. Flags with one writer are stored, not read-modify-written.

use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use http::Request;

use super::access::Watch;
use super::remainder::{Remainder, Skipped};
use super::{Peer, Report, RequestLine};
use crate::sys::accept::PeerAddress;

const BODY: u64 = 0b11;
const BODY_ENDED: u64 = 0;
const BODY_OPEN: u64 = 1;
/// Dropped before its end.
const BODY_GONE: u64 = 2;
/// The plugin does not want the rest, which the connection's task reads and throws away.
const BODY_LEFT: u64 = 3;
const NUMBER: u64 = 4;

const STAYS: u8 = 0;
/// To be handed over as soon as it stands between two requests.
const WANTED: u8 = 1;
/// To be closed after its next response.
const CLOSING: u8 = 2;

const CLIENT_QUIET: u8 = 0;
/// It has sent more: its end cannot be seen behind that.
const CLIENT_SPOKE: u8 = 1;
/// It has closed its side.
const CLIENT_ENDED: u8 = 2;
const CLIENT_RESET: u8 = 3;

/// State of one connection, shared by its task, its io and its bodies.
pub(super) struct Track {
    /// Who is at the other end of the socket.
    socket: Peer,
    /// Whom a proxy has named as the client.
    announced: OnceLock<Peer>,
    /// Where what goes wrong is told.
    pub(super) report: Report,
    /// Where requests are told, if they are.
    pub(super) access: Option<Box<Watch>>,
    /// Number of the request in the upper bits, state of its body in the lowest two.
    request: AtomicU64,
    /// From the service's call until hyper drops the response's body.
    response_open: AtomicBool,
    /// From the service's call or any write until hyper flushes the io.
    unflushed: AtomicBool,
    /// The plugin has not given a response's head yet.
    calling: AtomicBool,
    /// The plugin waits for more of the request's body.
    starved: AtomicBool,
    /// The last write did not fit: the client reads slowly.
    write_blocked: AtomicBool,
    /// Bytes of a request's head have come, the head is not complete.
    head_open: AtomicBool,
    /// What is known of the client's side while a response is due.
    client: AtomicU8,
    /// hyper knows that the client's stream has ended.
    ended: AtomicBool,
    /// The plugin's response failed after its head.
    cut: AtomicBool,
    /// The client speaks HTTP/1.0, where a plain close may look like the regular end of a response.
    old_client: AtomicBool,
    /// What is to become of the connection while the worker leaves.
    fate: AtomicU8,
    /// Changes with every transfer of bytes in either direction.
    progress: AtomicU32,
    /// A body that the plugin has left, with its request's number.
    left: Mutex<Option<(u64, Remainder)>>,
    /// First line of the request that was begun last, for the log.
    line: Mutex<RequestLine>,
    /// Of the connection's task, which is one task for the connection's life.
    waker: OnceLock<Waker>,
}

impl Track {
    pub(super) fn new(peer: Peer, report: Report, access: Option<Box<Watch>>) -> Self {
        Self {
            socket: peer,
            announced: OnceLock::new(),
            report,
            access,
            request: AtomicU64::new(BODY_ENDED),
            response_open: AtomicBool::new(false),
            unflushed: AtomicBool::new(false),
            calling: AtomicBool::new(false),
            starved: AtomicBool::new(false),
            write_blocked: AtomicBool::new(false),
            head_open: AtomicBool::new(false),
            client: AtomicU8::new(CLIENT_QUIET),
            ended: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            old_client: AtomicBool::new(false),
            fate: AtomicU8::new(STAYS),
            progress: AtomicU32::new(0),
            left: Mutex::default(),
            line: Mutex::default(),
            waker: OnceLock::new(),
        }
    }

    // ---- about the client

    /// The client, as far as it is known.
    #[inline]
    pub(super) fn peer(&self) -> &Peer {
        self.announced.get().unwrap_or(&self.socket)
    }

    /// A proxy has named the client; before its first request.
    pub(super) fn announce(&self, address: PeerAddress) {
        let peer = self.announced.get_or_init(|| Peer { address, ..self.socket.clone() });
        if let Some(access) = &self.access {
            access.announce(peer);
        }
    }

    // ---- asked by the connection's task

    /// No byte of this connection is in hyper's hands: it may be taken apart or closed.
    pub(super) fn between_requests(&self) -> bool {
        !self.response_open() && !self.unflushed.load(Relaxed) && !self.request_open()
    }

    /// The number of a request whose body was dropped unread and whose response is out. hyper must be polled once
    /// more, which makes it either skip the rest or close; then [`settle`](Self::settle).
    pub(super) fn body_gone(&self) -> Option<u64> {
        let request = self.request.load(Acquire);
        let gone = request & BODY == BODY_GONE && !self.response_open() && !self.unflushed.load(Relaxed);
        gone.then_some(request & !BODY)
    }

    /// hyper was polled after [`body_gone`](Self::body_gone) and did not close: that request is over. (Another may
    /// have begun in that poll.)
    pub(super) fn settle(&self, number: u64) {
        if self.request.load(Acquire) == number | BODY_GONE {
            self.request.store(number | BODY_ENDED, Release);
        }
    }

    /// Throws away what has come of a body that the plugin left, until its end or until it is too much. hyper must have
    /// been polled before.
    pub(super) fn skip(&self, cx: &mut Context<'_>) {
        let request = self.request.load(Acquire);
        if request & BODY != BODY_LEFT {
            return;
        }
        let number = request & !BODY;
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, remainder)) = left.as_mut().filter(|(of, _)| *of == number) else { return };
        if let Poll::Ready(skipped) = remainder.poll(cx) {
            *left = None;
            let now = if skipped == Skipped::Whole { BODY_ENDED } else { BODY_GONE };
            self.request.store(number | now, Release);
        }
    }

    /// The plugin has dropped a request's body unread, and what is left of it is not read here.
    pub(super) fn refuses_body(&self) -> bool {
        self.request.load(Acquire) & BODY == BODY_GONE
    }

    /// Waiting is the plugin's right at this moment: it works on an answer and has what it needs.
    pub(super) fn plugin_at_work(&self) -> bool {
        self.calling.load(Relaxed) && !self.starved.load(Acquire)
    }

    /// A request's head has begun and is incomplete.
    pub(super) fn head_open(&self) -> bool {
        self.head_open.load(Relaxed)
    }

    /// The client has closed its side while a response is due.
    pub(super) fn half_closed(&self) -> bool {
        self.client.load(Relaxed) == CLIENT_ENDED
    }

    /// The client has reset the connection while a response is due.
    pub(super) fn was_reset(&self) -> bool {
        self.client.load(Relaxed) == CLIENT_RESET
    }

    /// The client has closed its side and hyper knows.
    pub(super) fn ended(&self) -> bool {
        self.ended.load(Relaxed)
    }

    /// The client does not read as fast as the plugin writes.
    pub(super) fn write_blocked(&self) -> bool {
        self.write_blocked.load(Relaxed)
    }

    /// Closing now would look like the regular end of a response that is not whole.
    pub(super) fn close_would_lie(&self) -> bool {
        self.old_client.load(Relaxed) && (self.cut.load(Relaxed) || self.response_open())
    }

    /// A value that differs from an earlier one if bytes have moved since.
    pub(super) fn progress(&self) -> u32 {
        self.progress.load(Relaxed)
    }

    /// Remembers the task to wake; called from within it.
    pub(super) fn remember(&self, cx: &Context<'_>) {
        self.waker.get_or_init(|| cx.waker().clone());
    }

    // ---- told by the server

    /// The worker leaves: answer what is asked with `Connection: close`, then close.
    pub(super) fn drain(&self) {
        self.fate.store(CLOSING, Release);
        self.wake();
    }

    pub(super) fn draining(&self) -> bool {
        self.fate.load(Acquire) == CLOSING
    }

    /// The connection's turn to be handed over has come.
    pub(super) fn want(&self) {
        if self.fate.compare_exchange(STAYS, WANTED, Release, Relaxed).is_ok() {
            self.wake();
        }
    }

    /// Nobody takes it for now: serve on.
    pub(super) fn keep(&self) {
        if self.fate.compare_exchange(WANTED, STAYS, Release, Relaxed).is_ok() {
            self.wake(); // what waits behind the gate is read only if hyper is polled
        }
    }

    /// The connection is to be taken apart now and handed over.
    pub(super) fn departs(&self) -> bool {
        self.fate.load(Acquire) == WANTED && self.between_requests()
    }

    // ---- told by the io

    /// Nothing is to be read: the next request is the successor's, and its bytes stay in the kernel for it. What
    /// belongs to the request in progress is read.
    pub(super) fn gated(&self) -> bool {
        self.fate.load(Relaxed) == WANTED && !self.request_open()
    }

    pub(super) fn received(&self) {
        self.advance();
        if self.between_requests() {
            self.head_open.store(true, Relaxed);
        }
    }

    /// hyper reads the client's end.
    pub(super) fn end_read(&self) {
        self.ended.store(true, Relaxed);
    }

    /// Whether to look for the client's end: hyper does not read while it waits for the plugin.
    pub(super) fn end_is_of_interest(&self) -> bool {
        self.response_open() && self.client.load(Relaxed) == CLIENT_QUIET
    }

    /// The client has closed its side. It may wait for its response all the same.
    pub(super) fn end_seen(&self) {
        self.client.store(CLIENT_ENDED, Relaxed);
    }

    /// Bytes wait behind the request.
    pub(super) fn input_waits(&self) {
        self.client.store(CLIENT_SPOKE, Relaxed);
    }

    /// The client has reset the connection.
    pub(super) fn reset(&self) {
        self.client.store(CLIENT_RESET, Relaxed);
    }

    pub(super) fn writing(&self) {
        self.unflushed.store(true, Relaxed);
    }

    pub(super) fn written(&self) {
        self.advance();
        self.write_blocked.store(false, Relaxed);
    }

    pub(super) fn write_stalled(&self) {
        self.write_blocked.store(true, Relaxed);
    }

    /// hyper flushes the io only when its own buffer is empty.
    pub(super) fn flushed(&self) {
        if !self.response_open() {
            self.unflushed.store(false, Relaxed);
        }
    }

    // ---- told by the service and the bodies

    /// A request's head is complete. Returns the request's number.
    pub(super) fn begin(&self, has_body: bool, old_client: bool) -> u64 {
        let number = (self.request.load(Relaxed) & !BODY) + NUMBER;
        self.response_open.store(true, Relaxed);
        self.unflushed.store(true, Relaxed);
        self.calling.store(true, Relaxed);
        self.starved.store(false, Relaxed);
        self.head_open.store(false, Relaxed);
        self.client.store(CLIENT_QUIET, Relaxed);
        self.old_client.store(old_client, Relaxed);
        self.request.store(number | if has_body { BODY_OPEN } else { BODY_ENDED }, Release);
        number
    }

    pub(super) fn remember_line<B>(&self, request: &Request<B>) {
        self.line.lock().unwrap_or_else(PoisonError::into_inner).copy_from(request);
    }

    /// The line of the request that was begun last.
    pub(super) fn line(&self) -> RequestLine {
        self.line.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The response's head is there.
    pub(super) fn answered(&self) {
        self.calling.store(false, Relaxed);
    }

    /// hyper is done with the response's body.
    pub(super) fn response_ended(&self) {
        self.response_open.store(false, Relaxed);
    }

    /// The plugin's response failed after its head.
    pub(super) fn response_cut(&self) {
        self.cut.store(true, Relaxed);
    }

    /// The plugin waits for the client (`true`) or got something (`false`).
    pub(super) fn body_starved(&self, number: u64, starved: bool) {
        if self.request.load(Acquire) == number | BODY_OPEN {
            self.starved.store(starved, Release);
        }
    }

    /// The request's body was read to its end.
    pub(super) fn body_ended(&self, number: u64) {
        if self.body_moves(number, BODY_ENDED) && self.fate.load(Acquire) != STAYS {
            self.wake(); // it may have ended on another thread
        }
    }

    /// The request's body was dropped.
    pub(super) fn body_dropped(&self, number: u64) {
        if self.body_moves(number, BODY_GONE) {
            self.wake();
        }
    }

    /// The plugin has dropped the request's body, and the connection's task is to read what is left of it.
    pub(super) fn body_left(&self, number: u64, remainder: Remainder) {
        // The state after it: whoever sees the state finds the remainder.
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if self.body_moves(number, BODY_LEFT) {
            *left = Some((number, remainder));
            drop(left);
            self.wake();
        }
    }

    fn body_moves(&self, number: u64, to: u64) -> bool {
        let open = number | BODY_OPEN;
        self.request.load(Acquire) == open && self.request.compare_exchange(open, number | to, Release, Relaxed).is_ok()
    }

    pub(super) fn response_open(&self) -> bool {
        self.response_open.load(Relaxed)
    }

    pub(super) fn request_open(&self) -> bool {
        self.request.load(Acquire) & BODY != BODY_ENDED
    }

    /// Bytes have moved.
    pub(super) fn advance(&self) {
        self.progress.store(self.progress.load(Relaxed).wrapping_add(1), Relaxed);
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track() -> Track {
        Track::new(Peer::for_test(), std::sync::Arc::new(|_| {}), None)
    }

    #[test]
    fn a_fresh_connection_is_between_requests() {
        assert!(track().between_requests());
    }

    #[test]
    fn a_request_without_body_is_busy_until_its_response_is_flushed() {
        let track = track();
        track.begin(false, false);
        assert!(!track.between_requests());
        track.flushed(); // before the response: nothing of it is out yet
        track.response_ended();
        assert!(!track.between_requests(), "the head is in hyper's buffer");
        track.writing();
        track.flushed();
        assert!(track.between_requests());
    }

    #[test]
    fn a_slow_reader_keeps_its_connection_busy() {
        let track = track();
        track.begin(false, false);
        track.response_ended();
        track.writing();
        track.write_stalled();
        assert!(!track.between_requests());
        track.written();
        track.flushed();
        assert!(track.between_requests());
    }

    #[test]
    fn an_upload_answered_early_keeps_its_connection_busy() {
        let track = track();
        let number = track.begin(true, false);
        track.response_ended();
        track.flushed();
        assert!(!track.between_requests(), "the rest of the upload would be parsed as a request");
        track.body_ended(number);
        assert!(track.between_requests());
    }

    #[test]
    fn a_body_dropped_unread_needs_one_more_poll_of_hyper() {
        let track = track();
        let number = track.begin(true, false);
        track.body_dropped(number);
        assert_eq!(track.body_gone(), None, "the response is not out");
        track.response_ended();
        track.flushed();
        assert_eq!(track.body_gone(), Some(number));
        assert!(!track.between_requests());
        track.settle(number);
        assert!(track.between_requests());
        let next = track.begin(true, false);
        track.body_dropped(next);
        track.settle(number);
        assert!(!track.between_requests(), "the next request is not settled by the first");
    }

    #[test]
    fn a_stale_body_cannot_end_the_next_request() {
        let track = track();
        let first = track.begin(true, false);
        let second = track.begin(true, false);
        track.response_ended();
        track.flushed();
        track.body_ended(first);
        track.body_dropped(first);
        assert!(!track.between_requests());
        track.body_ended(second);
        track.body_dropped(second); // after its end: no longer of interest
        assert!(track.between_requests());
    }

    #[test]
    fn the_clients_end_is_looked_for_while_a_response_is_due() {
        let track = track();
        assert!(!track.end_is_of_interest());
        track.begin(false, false);
        assert!(track.end_is_of_interest());
        track.input_waits();
        assert!(!track.end_is_of_interest() && !track.half_closed());
        track.begin(false, false);
        track.end_seen();
        assert!(!track.end_is_of_interest() && track.half_closed());
        track.begin(false, false);
        assert!(track.end_is_of_interest() && !track.half_closed());
        track.response_ended();
        assert!(!track.end_is_of_interest());
    }

    #[test]
    fn bytes_open_a_head_only_between_requests() {
        let track = track();
        track.received();
        assert!(track.head_open());
        track.begin(false, false);
        assert!(!track.head_open());
        track.received(); // pipelined
        assert!(!track.head_open());
    }

    #[test]
    fn a_wanted_connection_departs_between_two_requests() {
        let track = track();
        assert!(!track.departs() && !track.gated());
        let number = track.begin(true, false);
        track.want();
        assert!(!track.departs() && !track.gated(), "the rest of the request is read");
        track.body_ended(number);
        assert!(!track.departs() && track.gated(), "the response is not out, and the next request not read");
        track.response_ended();
        assert!(!track.departs(), "the response is in hyper's buffer");
        track.flushed();
        assert!(track.departs());
        track.keep();
        assert!(!track.departs() && !track.gated());
        track.drain();
        track.want();
        track.keep();
        assert!(track.draining(), "closing is final");
    }

    #[test]
    fn a_plain_close_would_lie_to_an_old_client_in_the_middle_of_a_response() {
        let track = track();
        track.begin(false, false);
        assert!(!track.close_would_lie());
        track.begin(false, true);
        assert!(track.close_would_lie());
        track.response_ended();
        assert!(!track.close_would_lie());
        track.response_cut();
        assert!(track.close_would_lie());
    }

    #[test]
    fn a_plugin_that_waits_for_the_client_is_not_at_work() {
        let track = track();
        let number = track.begin(true, false);
        assert!(track.plugin_at_work());
        track.body_starved(number, true);
        assert!(!track.plugin_at_work());
        track.body_starved(number, false);
        assert!(track.plugin_at_work());
        track.answered();
        assert!(!track.plugin_at_work());
    }
}
