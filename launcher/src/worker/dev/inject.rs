//! The script at the end of a page: the one thing that is changed in what a plugin answers, and only for a browser that
//! shows it.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use ::http::{Response, StatusCode};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;

use super::{DevBody, Hub, is_good, page};

/// The response with the script, if it is a page; without a page to put it on, what is wrong stands for the response.
pub(super) fn with_script(response: Response<DevBody>, hub: &Arc<Hub>) -> Response<DevBody> {
    let state = hub.state();
    if !takes_script(&response) {
        return if is_good(&state) || !shows_text(&response) { response } else { page::broken(hub, &state) };
    }
    let (mut head, body) = response.into_parts();
    let script = page::appendix(hub, &state);
    if let Some(length) = head.headers.get(CONTENT_LENGTH).and_then(length) {
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length.saturating_add(script.len() as u64)));
    }
    let body = Appended { body, appendix: Some(script), held: None, ended: false };
    Response::from_parts(head, body.boxed_unsync())
}

fn length(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.parse().ok()
}

/// A whole page as text. Compressed ones, parts of one, and answers without a body stay as they are.
fn takes_script(response: &Response<DevBody>) -> bool {
    kind(response).is_some_and(|kind| kind == "text/html" || kind == "application/xhtml+xml") && is_whole(response)
}

/// Something that a browser shows by itself, such as plain text or JSON.
fn shows_text(response: &Response<DevBody>) -> bool {
    kind(response).is_none_or(|kind| kind.starts_with("text/") || kind == "application/json") && is_whole(response)
}

fn is_whole(response: &Response<DevBody>) -> bool {
    let bodiless = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED, StatusCode::PARTIAL_CONTENT];
    let encoded = response.headers().get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity");
    !encoded && !bodiless.contains(&response.status()) && !response.status().is_redirection()
}

fn kind(response: &Response<DevBody>) -> Option<String> {
    let kind = response.headers().get(CONTENT_TYPE)?.to_str().ok()?;
    Some(kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

/// A body, then the script, then the trailers.
struct Appended {
    body: DevBody,
    appendix: Option<Bytes>,
    held: Option<Frame<Bytes>>,
    ended: bool,
}

impl Body for Appended {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        if let Some(trailers) = this.held.take() {
            this.ended = true;
            return Poll::Ready(Some(Ok(trailers)));
        }
        if this.ended {
            return Poll::Ready(None);
        }
        let frame = match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(frame) => frame,
        };
        match frame {
            Some(Ok(frame)) if frame.is_trailers() => {
                this.held = Some(frame);
            }
            None => this.ended = true,
            other => return Poll::Ready(other),
        }
        match (this.appendix.take(), this.held.take()) {
            (Some(script), held) => {
                this.held = held;
                Poll::Ready(Some(Ok(Frame::data(script))))
            }
            (None, Some(trailers)) => Poll::Ready(Some(Ok(trailers))),
            (None, None) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.appendix.is_none() && self.held.is_none() && (self.ended || self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let more = self.appendix.as_ref().map_or(0, |script| script.len() as u64);
        let inner = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(more));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(more));
        }
        hint
    }
}
