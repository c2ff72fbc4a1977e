//! The access log: a line for each request, when its response is complete or cut.
//!
//! ```text
//! exchange, body ──> Watch (one a connection) ──> line ──> log (one a worker) ──> file or standard output
//! ```
//!
//! Without `access_log` a connection has no `Watch`, and a request costs a look at that. With it nothing waits for
//! the disk: lines are gathered in memory, and `log`'s thread writes them.

mod line;
mod log;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Instant, SystemTime};

use http::header::{HeaderName, REFERER, USER_AGENT};
use http::{Request, StatusCode, Version};

use super::Peer;
use crate::channel::AccessFormat;
use crate::sys::accept::PeerAddress;
pub use log::{AccessLog, Identity};

/// nginx's number for a client that left before it was answered.
const CLIENT_LEFT: u16 = 499;

/// Bytes that are kept of a target and of each header.
const KEPT: usize = 1024;

/// The access log's view of one connection.
#[derive(Debug)]
pub(super) struct Watch {
    log: Arc<AccessLog>,
    client: Box<str>,
    /// Whom a proxy has named as the client.
    announced: OnceLock<Box<str>>,
    open: Mutex<Option<Entry>>,
}

/// A request and what became of it.
#[derive(Debug)]
struct Entry {
    time: SystemTime,
    begun: Instant,
    method: http::Method,
    target: String,
    version: Version,
    referer: Option<String>,
    user_agent: Option<String>,
    /// `None`: there was no answer.
    status: Option<StatusCode>,
    /// Bytes that the body has, if that is known before its end.
    length: Option<u64>,
    /// Bytes of the body that were sent.
    sent: u64,
    /// The body has nothing more to give.
    given: bool,
}

/// How a response ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The client was sent all of it.
    Complete,
    /// It was not.
    Cut,
}

impl Watch {
    pub(super) fn new(log: &Arc<AccessLog>, peer: &Peer) -> Watch {
        Watch { log: Arc::clone(log), client: shown(peer), announced: OnceLock::new(), open: Mutex::new(None) }
    }

    /// A proxy has named the client.
    #[cold]
    pub(super) fn announce(&self, peer: &Peer) {
        self.announced.get_or_init(|| shown(peer));
    }

    /// A request's head is complete.
    #[cold]
    pub(super) fn begin<B>(&self, request: &Request<B>) {
        let header = |name: HeaderName| request.headers().get(name).map(|value| line::shown(value.as_bytes(), KEPT));
        let entry = Entry {
            time: SystemTime::now(),
            begun: Instant::now(),
            method: request.method().clone(),
            target: line::target(request.uri(), KEPT),
            version: request.version(),
            referer: header(REFERER),
            user_agent: header(USER_AGENT),
            status: None,
            length: None,
            sent: 0,
            given: false,
        };
        *self.open() = Some(entry);
    }

    /// The plugin's response has this body, and its head declares that length.
    #[cold]
    pub(super) fn body<B: http_body::Body>(&self, body: &B, declared: Option<u64>) {
        if let Some(entry) = &mut *self.open() {
            entry.length = if body.is_end_stream() { Some(0) } else { declared.or(body.size_hint().exact()) };
        }
    }

    /// The response's head is there.
    #[cold]
    pub(super) fn answered(&self, status: StatusCode) {
        if let Some(entry) = &mut *self.open() {
            entry.status = Some(status);
        }
    }

    /// A piece of the response's body goes out; `last`: nothing comes after it.
    #[cold]
    pub(super) fn sent(&self, bytes: usize, last: bool) {
        if let Some(entry) = &mut *self.open() {
            entry.sent += bytes as u64;
            entry.given |= last;
        }
    }

    /// hyper is done with the response: complete or not, it is told.
    #[cold]
    pub(super) fn ended(&self) {
        if let Some(entry) = self.open().take() {
            // hyper does not ask a body for its end once it has all that the head declared.
            let whole = entry.given || entry.length.is_some_and(|length| entry.sent >= length);
            let bodiless = entry.method == http::Method::HEAD
                || matches!(entry.status, Some(StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED));
            let complete = entry.status.is_some() && (whole || bodiless);
            self.write(&entry, if complete { End::Complete } else { End::Cut });
        }
    }

    fn write(&self, entry: &Entry, end: End) {
        let took = entry.begun.elapsed();
        let client = self.announced.get().unwrap_or(&self.client);
        self.log.write(|to| match self.log.format() {
            AccessFormat::Json => line::json(&self.log.identity, client, entry, end, took, to),
            AccessFormat::Combined => line::combined(client, entry, to),
        });
    }

    fn open(&self) -> MutexGuard<'_, Option<Entry>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shown(peer: &Peer) -> Box<str> {
    match peer.address {
        PeerAddress::Inet(address) => address.ip().to_canonical().to_string().into(),
        PeerAddress::Unix => "unix:".into(),
    }
}

impl Drop for Watch {
    /// The connection is over; a request that was not answered is told all the same.
    fn drop(&mut self) {
        self.ended();
    }
}
