//! What a proxy says before its client speaks: read to its end before there is a hyper connection.
//!
//! The whole head is due within the time that a request's head has, counted from the accept, also when the connection
//! changes its worker meanwhile: a proxy sends it at once. Whoever sends anything else is cut off without a word: it may
//! not be one who speaks HTTP, and an answer would have to be given in the name of nobody.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, sleep_until};

use super::LINGER;
use super::proxy_protocol::{self, Head, MOST};
use super::track::Track;
use crate::sys::accept::{PeerAddress, Stream};

/// How it ends.
pub(super) enum Greeted {
    /// The client's address, if the proxy told one. What was read after the head is left in the buffer.
    Said(Option<PeerAddress>),
    /// The connection is to be closed: why, for a person, if it is not the proxy that ended it.
    Over(Option<String>),
    /// A successor wants the connection; so long the head has been due.
    Departs(Duration),
}

/// Reads a head into `read`, which may hold the beginning of it. `since`: how long it has been due already.
pub(super) async fn greeting(
    stream: &mut Stream,
    track: &Track,
    read: &mut BytesMut,
    patience: Duration,
    since: Duration,
) -> Greeted {
    let begun = Instant::now();
    let mut timer = std::pin::pin!(sleep_until(begun + patience.saturating_sub(since)));
    let mut leaving = None;
    poll_fn(|cx| {
        track.remember(cx);
        loop {
            match proxy_protocol::read(read) {
                Ok(None) => {}
                Ok(Some(Head { length, client })) => {
                    drop(read.split_to(length));
                    return Poll::Ready(Greeted::Said(client));
                }
                Err(error) => return Poll::Ready(Greeted::Over(Some(error.to_string()))),
            }
            if track.departs() {
                return Poll::Ready(Greeted::Departs(since + begun.elapsed()));
            }
            match poll_more(stream, cx, read) {
                Poll::Ready(true) => track.advance(),
                Poll::Ready(false) => return Poll::Ready(Greeted::Over(None)),
                Poll::Pending => break,
            }
        }
        if track.draining() {
            // Nobody stays: as long as for a client that says nothing.
            let until = *leaving.get_or_insert_with(|| Instant::now() + LINGER);
            if until < timer.deadline() {
                timer.as_mut().reset(until);
            }
        }
        ready!(timer.as_mut().poll(cx));
        let late = leaving.is_none().then(|| format!("its PROXY head did not come within {patience:?}"));
        Poll::Ready(Greeted::Over(late))
    })
    .await
}

/// `false`: there is no more.
fn poll_more(stream: &mut Stream, cx: &mut Context<'_>, read: &mut BytesMut) -> Poll<bool> {
    // Nearly all heads fit, with the client's first request behind them. A head is never longer than MOST, so there is
    // always room for a byte of it.
    let mut buffer = [0_u8; 1024];
    let room = MOST.saturating_sub(read.len()).clamp(1, buffer.len());
    let mut part = ReadBuf::new(&mut buffer[..room]);
    match ready!(Pin::new(stream).poll_read(cx, &mut part)) {
        Ok(()) if !part.filled().is_empty() => {
            read.extend_from_slice(part.filled());
            Poll::Ready(true)
        }
        _ => Poll::Ready(false),
    }
}
