//! The task of one connection.
//!
//! ```text
//! silent ──bytes──> hyper ──closed──> farewell
//!   │                 │ between requests, linger of the drain over: taken apart
//!   │<── nothing read ┘   (bytes read or waiting: back to hyper with them in front)
//!   └─ linger or silence: closed
//! ```
//!
//! hyper exists only once the client has spoken: an open connection that says nothing costs no buffers. Taking a
//! connection apart between two requests sends nothing and loses nothing; the hand-over of connections rests on it.

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
use super::io::Io;
use super::serve::Shared;
use super::track::Track;
use super::watchdog::{Expired, Watchdog};
use crate::sys::accept::Stream;
use crate::worker::plugin::HttpPlugin;

/// How long a client may still send what nobody reads, after the last response.
const FAREWELL: Duration = Duration::from_secs(2);

const HEAD_TOO_LATE: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

enum End {
    /// hyper is done with it.
    Closed,
    Expired(Expired),
}

/// Serves a connection until one side ends it.
pub(super) async fn run<P: HttpPlugin>(shared: Arc<Shared<P>>, stream: Stream, track: Arc<Track>) {
    let mut watchdog = Watchdog::new(shared.limits.idle_timeout);
    let mut io = Io::new(stream, track.clone());
    if !speaks(&io.stream, &track, &mut watchdog).await {
        return;
    }
    loop {
        let service = {
            let (shared, track) = (shared.clone(), track.clone());
            service_fn(move |request| exchange::begin(&shared, &track, request))
        };
        let mut connection = shared.http.serve_connection(io, service);
        let end = poll_fn(|cx| {
            track.remember(cx);
            if Pin::new(&mut connection).poll(cx).is_ready() {
                return Poll::Ready(End::Closed);
            }
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
            watchdog.poll(cx, &track).map(End::Expired)
        })
        .await;
        let parts = connection.into_parts();
        io = parts.io;
        match end {
            End::Closed => return farewell(io.stream, &track).await,
            End::Expired(Expired::Linger) => {
                io.prefix = joined(parts.read_buf, io.prefix);
                if io.prefix.is_empty() && !io.stream.has_input() {
                    return;
                }
            }
            End::Expired(Expired::Head) => {
                // Nothing else is in the stream's way. Whether it fits does not matter.
                let _ = io.stream.try_write(HEAD_TOO_LATE);
                return farewell(io.stream, &track).await;
            }
            End::Expired(Expired::Silence | Expired::Gone) => {
                if track.close_would_lie() {
                    io.stream.reset_on_close();
                }
                return;
            }
        }
    }
}

/// Waits for the first bytes of a connection; false when it is to be closed instead.
async fn speaks(stream: &Stream, track: &Track, watchdog: &mut Watchdog) -> bool {
    poll_fn(|cx| {
        track.remember(cx);
        if stream.poll_read_ready(cx).is_ready() {
            return Poll::Ready(true);
        }
        watchdog.poll(cx, track).map(|expired| expired == Expired::Linger && stream.has_input())
    })
    .await
}

/// Closes so that the client gets all of the last response: a close with unread input is a reset, on which the
/// client may throw away what it has not read yet (RFC 9112, section 9.6).
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
