//! The task of one connection.
//!
//! ```text
//! greeting ──> (listeners behind a proxy only; see there)
//!   v
//! silent ──bytes──> hyper ──closed──> farewell
//!   │                 │ between requests, and wanted by a successor: taken apart ──> Departure
//!   │                 │ between requests, linger of the drain over: taken apart
//!   │<── nothing read ┘   (bytes read or waiting: back to hyper with them in front)
//!   └─ linger or silence: closed; wanted: Departure
//! ```
//!
//! hyper exists only once the client has spoken: an open connection that says nothing costs no buffers. Taking a
//! connection apart between two requests sends nothing and loses nothing; the hand-over of connections rests on it.
//! It is not done by `graceful_shutdown`, which adds `Connection: close` and cannot be taken back.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::exchange;
use super::greeting::{Greeted, greeting};
use super::handover::{Arrival, Departure, Origin, PREFIX_MAX};
use super::io::Io;
use super::serve::Shared;
use super::track::Track;
use super::watchdog::{Elapsed, Expired, Watchdog, head_timeout};
use crate::sys::accept::Stream;
use crate::worker::plugin::HttpPlugin;

/// How long a client may still send what nobody reads, after the last response.
const FAREWELL: Duration = Duration::from_secs(2);

const HEAD_TOO_LATE: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

enum End {
    /// hyper is done with it.
    Closed,
    Expired(Expired),
    /// It stands between two requests and a successor wants it.
    Departs,
}

/// Serves a connection until one side ends it, or a successor takes it.
pub(super) async fn run<P: HttpPlugin>(
    shared: Arc<Shared<P>>,
    stream: Stream,
    track: Arc<Track>,
    arrival: Arrival,
) -> Option<Departure> {
    let idle = shared.limits.idle_timeout;
    let (stream, arrival) = match arrival.origin {
        // Boxed, because other connections should not have the room for it in their tasks.
        Origin::Due => match Box::pin(greet(&shared, stream, &track, arrival)).await {
            Greeting::Over => return None,
            Greeting::Departs(stream, arrival) => return Some(Departure { stream, track, arrival }),
            Greeting::Done(stream, arrival) => (stream, arrival),
        },
        Origin::Socket | Origin::Announced(_) => (stream, arrival),
    };
    let origin = arrival.origin;
    let mut watchdog = Watchdog::new(idle, arrival.elapsed);
    let mut io = Io::new(stream, arrival.prefix, track.clone());
    if io.prefix.is_empty() {
        match silence(&io.stream, &track, &mut watchdog).await {
            Silence::Broken => {}
            Silence::Over => return None,
            Silence::Departs => {
                let elapsed = watchdog.elapsed(&track);
                let arrival = Arrival { prefix: io.prefix, elapsed, origin };
                return Some(Departure { stream: io.stream, track, arrival });
            }
        }
    }
    // More was read than travels: hyper must get on with it first.
    let mut laden = false;
    loop {
        let service = {
            let (shared, track) = (shared.clone(), track.clone());
            service_fn(move |request| exchange::begin(&shared, &track, request))
        };
        let mut connection = shared.http.serve_connection(io, service);
        let end = poll_fn(|cx| {
            track.remember(cx);
            // Idle when its turn came: hyper need not look at it again.
            if track.departs() && !laden {
                return Poll::Ready(End::Departs);
            }
            if Pin::new(&mut connection).poll(cx).is_ready() {
                return Poll::Ready(End::Closed);
            }
            track.skip(cx);
            // hyper notices only when it is polled that nobody will read a request's body.
            while let Some(number) = track.body_gone() {
                if Pin::new(&mut connection).poll(cx).is_ready() {
                    return Poll::Ready(End::Closed);
                }
                track.settle(number);
            }
            // The response is out: hyper may look for the next request, and will find the end.
            if track.half_closed() && track.between_requests() && Pin::new(&mut connection).poll(cx).is_ready() {
                return Poll::Ready(End::Closed);
            }
            if track.departs() {
                return Poll::Ready(End::Departs);
            }
            watchdog.poll(cx, &track).map(End::Expired)
        })
        .await;
        let parts = connection.into_parts();
        io = parts.io;
        match end {
            End::Closed => {
                Box::pin(farewell(io.stream, &track)).await;
                return None;
            }
            End::Departs => {
                io.prefix = joined(parts.read_buf, io.prefix);
                laden = io.prefix.len() > PREFIX_MAX;
                if !laden {
                    let elapsed = watchdog.elapsed(&track);
                    let arrival = Arrival { prefix: io.prefix, elapsed, origin };
                    return Some(Departure { stream: io.stream, track, arrival });
                }
            }
            End::Expired(Expired::Linger) => {
                io.prefix = joined(parts.read_buf, io.prefix);
                if io.prefix.is_empty() && !io.stream.has_input() {
                    return None;
                }
            }
            End::Expired(Expired::Head) => {
                // Nothing else is in the stream's way. Whether it fits does not matter.
                let _ = io.stream.try_write(HEAD_TOO_LATE);
                Box::pin(farewell(io.stream, &track)).await;
                return None;
            }
            End::Expired(Expired::Silence | Expired::Gone) => {
                if track.close_would_lie() {
                    io.stream.reset_on_close();
                }
                return None;
            }
        }
    }
}

/// How the part of a proxy ends.
enum Greeting {
    /// What comes now is the client's.
    Done(Stream, Arrival),
    /// A successor wants the connection.
    Departs(Stream, Arrival),
    /// It is to be closed.
    Over,
}

/// Waits until the proxy has said whose the connection is.
async fn greet<P: HttpPlugin>(shared: &Shared<P>, mut stream: Stream, track: &Track, arrival: Arrival) -> Greeting {
    let mut read = BytesMut::from(arrival.prefix);
    let patience = head_timeout(shared.limits.idle_timeout);
    match greeting(&mut stream, track, &mut read, patience, arrival.elapsed.head).await {
        Greeted::Said(client) => {
            let origin = client.map_or(Origin::Socket, Origin::Announced);
            if let Some(client) = client {
                track.announce(client);
            }
            Greeting::Done(stream, Arrival { prefix: read.freeze(), elapsed: Elapsed::default(), origin })
        }
        Greeted::Departs(head) => {
            let elapsed = Elapsed { quiet: Duration::ZERO, head };
            Greeting::Departs(stream, Arrival { prefix: read.freeze(), elapsed, origin: Origin::Due })
        }
        Greeted::Over(reason) => {
            if let Some(reason) = reason {
                shared.tell_ungreeted(track.peer(), &reason);
            }
            Greeting::Over
        }
    }
}

/// How the silence of a client ends.
enum Silence {
    /// There are bytes.
    Broken,
    /// It is to be closed.
    Over,
    /// A successor wants it.
    Departs,
}

/// Waits for the first bytes of a connection.
async fn silence(stream: &Stream, track: &Track, watchdog: &mut Watchdog) -> Silence {
    poll_fn(|cx| {
        track.remember(cx);
        if track.departs() {
            return Poll::Ready(Silence::Departs);
        }
        if stream.poll_read_ready(cx).is_ready() {
            return Poll::Ready(Silence::Broken);
        }
        watchdog.poll(cx, track).map(|expired| match expired {
            Expired::Linger if stream.has_input() => Silence::Broken,
            _ => Silence::Over,
        })
    })
    .await
}

/// Closes so that the client gets all of the last response: a close with unread input is a reset, on which the
/// client may throw away what it has not read yet (RFC 9112, section 9.6). Callers box it: its buffer would otherwise
/// be a part of every connection's task.
async fn farewell(mut stream: Stream, track: &Track) {
    if track.close_would_lie() {
        stream.reset_on_close();
        return;
    }
    if track.ended() || !(track.request_open() || track.draining() || stream.has_input()) {
        return;
    }
    // An error means that the client is gone, which is as good as its end.
    let _ = timeout(FAREWELL, async {
        stream.shutdown().await?;
        let mut unread = [0_u8; 4096];
        while stream.read(&mut unread).await? > 0 {}
        Ok::<_, io::Error>(())
    })
    .await;
}

/// `first`, then `second`; they are rarely both there.
fn joined(first: Bytes, second: Bytes) -> Bytes {
    if second.is_empty() {
        return first;
    }
    let mut all = BytesMut::from(first);
    all.extend_from_slice(&second);
    all.freeze()
}
