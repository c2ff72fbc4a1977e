//! Bodies of both directions, wrapped so that the connection knows when they are over.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::Event;
use super::remainder::Remainder;
use super::track::Track;

/// What the client sends after a request's head: data, then perhaps trailers.
///
/// A client that announced `Expect: 100-continue` is told to go on when the body is first polled.
///
/// What the plugin leaves of it when it drops it is read and thrown away by the connection (`remainder`).
pub struct RequestBody {
    /// Taken when it is dropped.
    incoming: Option<Incoming>,
    /// Who is told, with the request's number; nobody needs to know of a body that has nothing to come.
    told: Option<(Arc<Track>, u64)>,
    /// The client sends it only if it is polled.
    held_back: bool,
    ended: bool,
}

impl RequestBody {
    /// `told` is `None` for a body that has ended; `held_back`: the client expects 100.
    #[inline]
    pub(super) fn new(incoming: Incoming, told: Option<(Arc<Track>, u64)>, held_back: bool) -> Self {
        Self { incoming: Some(incoming), told, held_back, ended: false }
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RequestBody").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        // hyper forgets to end a body whose response was complete before it, although it knows that nothing is left.
        let this = &mut *self;
        let Some(incoming) = this.incoming.as_mut().filter(|_| !this.ended) else {
            return Poll::Ready(None);
        };
        this.held_back = false;
        let polled = Pin::new(&mut *incoming).poll_frame(cx);
        let going_on = match &polled {
            Poll::Pending => true,
            Poll::Ready(Some(frame)) => frame.is_err() || !incoming.is_end_stream(),
            Poll::Ready(None) => false,
        };
        this.ended = !going_on;
        if let Some((track, number)) = &this.told {
            if going_on {
                track.body_starved(*number, polled.is_pending());
            } else {
                track.body_ended(*number);
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let Some((track, number)) = self.told.as_ref().filter(|_| !self.ended) else { return };
        // Reading on would invite a client that waits for leave to send what nobody wants.
        match self.incoming.take().filter(|_| !self.held_back).and_then(Remainder::new) {
            Some(remainder) => track.body_left(*number, remainder),
            None => track.body_dropped(*number),
        }
    }
}

/// What goes back: the plugin's body or a short text of the launcher's.
pub(super) struct ReplyBody<B> {
    content: Content<B>,
    /// Bytes that the head declared and that have not come yet.
    due: Option<u64>,
    /// It failed, and hyper is about to hear of it.
    failed: bool,
    track: Arc<Track>,
}

pub(super) enum Content<B> {
    Plugin(B),
    Text(Option<Bytes>),
}

impl<B> ReplyBody<B> {
    pub(super) fn new(content: Content<B>, due: Option<u64>, track: Arc<Track>) -> Self {
        Self { content, due, failed: false, track }
    }

    /// The failure is told at the next poll: hyper throws away what it has not flushed at an error, and the client
    /// would see neither the head nor what the plugin had sent.
    fn cut<T>(&mut self, cx: &Context<'_>, reason: &str) -> Poll<T> {
        self.failed = true;
        cx.waker().wake_by_ref();
        self.track.response_cut();
        (self.track.report)(Event::ResponseCut { request: &self.track.line(), peer: self.track.peer(), reason });
        Poll::Pending
    }
}

/// A plugin's body failed after its head was sent; the connection is closed.
#[derive(Debug)]
pub(super) struct Cut;

impl fmt::Display for Cut {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the plugin's response body failed")
    }
}

impl Error for Cut {}

impl<B> Body for ReplyBody<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin,
{
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if self.failed {
            return Poll::Ready(Some(Err(Cut)));
        }
        let body = match &mut self.content {
            Content::Text(text) => {
                let text = text.take();
                if let (Some(access), Some(text)) = (&self.track.access, &text) {
                    access.sent(text.len(), true);
                }
                return Poll::Ready(text.map(|text| Ok(Frame::data(text))));
            }
            Content::Plugin(body) => body,
        };
        match Pin::new(body).poll_frame(cx) {
            Poll::Ready(Some(Err(error))) => self.cut(cx, &error.into().to_string()),
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(due), Some(data)) = (&mut self.due, frame.data_ref()) {
                    *due = due.saturating_sub(data.len() as u64);
                }
                if let (Some(access), Some(data)) = (&self.track.access, frame.data_ref()) {
                    access.sent(data.len(), self.is_end_stream());
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => match self.due {
                Some(due @ 1..) => {
                    let reason = format!("the plugin's response ended {due} bytes before its Content-Length");
                    self.cut(cx, &reason)
                }
                _ => {
                    if let Some(access) = &self.track.access {
                        access.sent(0, true);
                    }
                    Poll::Ready(None)
                }
            },
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Plugin(body) => body.is_end_stream(),
            Content::Text(text) => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Plugin(body) => body.size_hint(),
            Content::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
        }
    }
}

impl<B> Drop for ReplyBody<B> {
    fn drop(&mut self) {
        if let Some(access) = &self.track.access {
            access.ended();
        }
        self.track.response_ended();
    }
}
