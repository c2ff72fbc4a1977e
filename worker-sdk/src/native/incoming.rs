//! A request of the host's becomes one of `http`'s.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Uri, Version, header};
use http_body::Frame;

use super::buffer::Chunk;
use super::{spare, waker};
use crate::{Body, Error, Request, abi};

/// A request's body, pulled from the host.
pub(crate) struct Incoming {
    /// `poll` is taken away at the end, so that nothing polls beyond it.
    body: abi::Body,
}

// SAFETY: a body may be polled by one thread at a time and dropped on any, says the contract; `&Incoming` gives
// nothing but its length.
unsafe impl Send for Incoming {}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(drop) = self.body.drop.take() {
            // SAFETY: called once (taken), with its own argument.
            unsafe { drop(self.body.data) }
        }
    }
}

impl Incoming {
    /// Takes the body out of a request.
    fn take(body: &mut abi::Body) -> Option<Incoming> {
        let body = Incoming { body: std::mem::replace(body, abi::Body::NONE) };
        body.body.poll.is_some().then_some(body)
    }

    /// Gives the body back to the host, as a response's.
    pub(super) fn into_raw(mut self) -> abi::Body {
        std::mem::replace(&mut self.body, abi::Body::NONE)
    }

    pub(crate) fn len(&self) -> Option<u64> {
        u64::try_from(self.body.len).ok()
    }

    pub(crate) fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(poll) = self.body.poll else {
            return Poll::Ready(None);
        };
        let mut chunk = Chunk(abi::Chunk::EMPTY);
        // SAFETY: the body is not yet dropped and has not ended; the waker is lent for the call, the chunk ours to lend.
        let code = unsafe { poll(self.body.data, waker::lend(context.waker()), &mut chunk.0) };
        match code {
            abi::PENDING => Poll::Pending,
            abi::READY => {
                // What came is no longer to come.
                self.body.len = self.body.len.saturating_sub(chunk.0.bytes.len as i64).max(-1);
                Poll::Ready(Some(Ok(Frame::data(chunk.into_bytes()))))
            }
            abi::TRAILERS => Poll::Ready(Some(Ok(Frame::trailers(chunk.trailers())))),
            abi::END => {
                self.body.poll = None;
                Poll::Ready(None)
            }
            _ => {
                self.body.poll = None;
                Poll::Ready(Some(Err(Error::Broken)))
            }
        }
    }
}

/// Copies a request. `None`: the host sent what `http` does not accept.
pub(super) fn import(request: &mut abi::Request) -> Option<Request> {
    let body = Body::incoming(Incoming::take(&mut request.body), request.peer);
    let fields: &[abi::Header] = if request.headers_len == 0 {
        &[]
    } else {
        // SAFETY: the host's array of that many headers, constant until `handle` returns.
        unsafe { std::slice::from_raw_parts(request.headers, request.headers_len) }
    };
    // SAFETY: every text of the request is constant until `handle` returns; nothing here is kept beyond it.
    let text = |text: abi::Str| unsafe { text.get() }.unwrap_or_default();

    let mut imported = Request::new(body);
    match text(request.method) {
        b"GET" => {}
        method => *imported.method_mut() = Method::from_bytes(method).ok()?,
    }
    match text(request.target) {
        // What a fresh request has.
        b"/" => {}
        target => *imported.uri_mut() = Uri::from_maybe_shared(Bytes::copy_from_slice(target)).ok()?,
    }
    *imported.version_mut() = match request.version {
        10 => Version::HTTP_10,
        20 => Version::HTTP_2,
        _ => Version::HTTP_11,
    };
    let headers = imported.headers_mut();
    // What was there is empty and owns nothing, which its destructor does not know.
    std::mem::forget(std::mem::replace(headers, spare::take_map()));
    headers.reserve(fields.len());
    for field in fields {
        // An allocation for each: values that share one cost as much for their counting, and a value that a handler
        // keeps would keep the others.
        let value = Bytes::copy_from_slice(text(field.value));
        // SAFETY: the value must be one of HTTP's: the contract says that the host has validated it.
        let value = unsafe { HeaderValue::from_maybe_shared_unchecked(value) };
        headers.append(name(text(field.name))?, value);
    }
    Some(imported)
}

/// A header's name. Comparing with the few that nearly every request has is much cheaper than parsing.
fn name(name: &[u8]) -> Option<HeaderName> {
    Some(match name {
        b"host" => header::HOST,
        b"accept" => header::ACCEPT,
        b"cookie" => header::COOKIE,
        b"origin" => header::ORIGIN,
        b"referer" => header::REFERER,
        b"connection" => header::CONNECTION,
        b"user-agent" => header::USER_AGENT,
        b"content-type" => header::CONTENT_TYPE,
        b"authorization" => header::AUTHORIZATION,
        b"cache-control" => header::CACHE_CONTROL,
        b"content-length" => header::CONTENT_LENGTH,
        b"accept-encoding" => header::ACCEPT_ENCODING,
        b"accept-language" => header::ACCEPT_LANGUAGE,
        name => HeaderName::from_bytes(name).ok()?,
    })
}
