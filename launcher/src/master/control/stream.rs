//! Events and logs as a stream of JSON lines: what is remembered, then what happens, for as long as the client reads.
//!
//! The client pulls: a line leaves the journal's feed when there is room in the connection, so one who does not read
//! makes nobody remember anything for him. What he misses by that he is told.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Frame;

use super::super::journal::feed::{Feed, Wanted};
use super::super::journal::record::What as Happened;
use super::super::journal::{Fact, Journal, Level, Name};
use super::routes::{Body, Query};
use crate::api;

/// Records of one frame.
const BATCH: usize = 128;
/// Records that a follower of events, or anybody who asks for logs, sees of the past unless he says more.
const RECENT_EVENTS: usize = 10;
const RECENT_LOGS: usize = 100;

/// Which stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// Facts of every level.
    Events,
    /// Facts that an operator wants to see, and lines of workers.
    Logs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// With what is remembered.
    Past,
    /// With the launcher.
    Never,
}

/// The body of the answer; an error is for the client.
pub(super) fn body(journal: &Journal, what: What, query: &Query) -> Result<Body, String> {
    let services = query.get("service").map(|names| names.split(',').map(Name::from).collect());
    let wanted = match what {
        What::Events => Wanted { facts: Some(Level::Debug), output: false, services },
        What::Logs => Wanted { facts: Some(Level::Info), output: true, services },
    };
    let end = if query.flag("follow").map_err(|refusal| refusal.error)? { End::Never } else { End::Past };
    let lines = match query.get("lines") {
        None => None,
        Some(text) => Some(text.parse::<usize>().map_err(|_| format!("lines={text:?}: it is a number"))?),
    };
    let since = query.get("since").map(moment).transpose()?;
    let feed = Arc::clone(journal.feed());
    let after = match (lines, since, what, end) {
        (Some(lines), Some(since), ..) => feed.last(&wanted, lines).max(feed.since(since)),
        (Some(lines), None, ..) => feed.last(&wanted, lines),
        (None, Some(since), ..) => feed.since(since),
        (None, None, What::Logs, _) => feed.last(&wanted, RECENT_LOGS),
        (None, None, What::Events, End::Never) => feed.last(&wanted, RECENT_EVENTS),
        (None, None, What::Events, End::Past) => 0,
    };
    let cursor = Cursor { feed, wanted, after, end, begun: false };
    Ok(Lines { next: Some(Box::pin(cursor.advance())) }.boxed_unsync())
}

/// A time: RFC 3339, or how long ago.
fn moment(text: &str) -> Result<SystemTime, String> {
    let ago = || humantime::parse_duration(text).ok().and_then(|ago| SystemTime::now().checked_sub(ago));
    humantime::parse_rfc3339_weak(text)
        .ok()
        .or_else(ago)
        .ok_or_else(|| format!("since={text:?}: it is a time (2026-01-31T12:00:00Z) or how long ago (10m)"))
}

struct Cursor {
    feed: Arc<Feed>,
    wanted: Wanted,
    after: u64,
    end: End,
    /// Something was sent: what is missed from now on was missed by the client, not before him.
    begun: bool,
}

impl Cursor {
    /// The next lines and where they leave the cursor; `None` at the end.
    async fn advance(mut self) -> Option<(Bytes, Option<Cursor>)> {
        loop {
            let batch = self.feed.read(self.after, &self.wanted, BATCH);
            let mut text = Vec::new();
            if batch.missed > 0 && self.begun {
                missed(self.after, batch.missed, &mut text);
            }
            let stopped = |record: &Happened| matches!(record, Happened::Fact(Fact::Stopped { .. }));
            let last = batch.records.iter().any(|record| stopped(&record.what));
            for record in &batch.records {
                text.extend_from_slice(&record.json());
                text.push(b'\n');
            }
            self.begun = true;
            self.after = batch.next;
            if last {
                return Some((Bytes::from(text), None));
            }
            if !text.is_empty() {
                return Some((Bytes::from(text), Some(self)));
            }
            if self.end == End::Past {
                return None;
            }
            self.feed.newer_than(self.after).await;
        }
    }
}

/// A record that says how many there are none of.
fn missed(seq: u64, count: u64, to: &mut Vec<u8>) {
    let record = api::Record {
        seq,
        time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
        monotonic_ms: 0,
        level: Some("warn".to_owned()),
        event: Some("missed".to_owned()),
        message: Some(format!("{count} records came faster than they were read, and are forgotten")),
        service: None,
        slot: None,
        stream: None,
        line: None,
        more: serde_json::Map::from_iter([("count".to_owned(), count.into())]),
    };
    to.extend(serde_json::to_vec(&record).unwrap_or_default());
    to.push(b'\n');
}

type Advance = Pin<Box<dyn Future<Output = Option<(Bytes, Option<Cursor>)>> + Send>>;

/// A body of JSON lines.
struct Lines {
    next: Option<Advance>,
}

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(next) = &mut self.next else { return Poll::Ready(None) };
        match next.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => {
                self.next = None;
                Poll::Ready(None)
            }
            Poll::Ready(Some((bytes, cursor))) => {
                self.next = cursor.map(|cursor| Box::pin(cursor.advance()) as Advance);
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
        }
    }
}
