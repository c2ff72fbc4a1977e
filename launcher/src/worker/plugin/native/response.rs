//! A plugin's response: checked, copied where it must be, and its body.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use worker_sdk::abi;

use super::call::CallError;
use super::owned::{BadPointer, OwnedBody, OwnedChunk, OwnedResponse, text};
use super::{Instance, Live, content_type, waker};
use crate::worker::http::is_hop_by_hop;

/// More header fields than this are a broken plugin's (http's own map ends at 32,768).
pub(super) const MAX_HEADERS: usize = 1024;

/// Bytes of all values beyond which a plugin is broken; clients give up long before.
pub(super) const MAX_HEADER_BYTES: usize = 1 << 20;

/// Why a response was cut off after its head.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BodyError {
    /// Its producer panicked.
    #[error("the plugin panicked in a response's body; its message is above")]
    Panicked,
    /// Its producer returned an error.
    #[error("the plugin's response body failed")]
    Failed,
    /// Its producer returned something that the contract does not know.
    #[error("the plugin's response body returned {0}, which means nothing here")]
    Code(i32),
    /// A null pointer with a length, a misaligned one, or an impossible length.
    #[error("the plugin's response body has an invalid pointer or length")]
    Pointer,
    /// Not a trailer.
    #[error("the plugin's response body has the invalid trailer `{0}`")]
    Trailer(String),
    /// Longer than announced.
    #[error("the plugin's response body is longer than the announced {0} bytes")]
    TooLong(u64),
    /// Shorter than announced.
    #[error("the plugin's response body ended {0} bytes before its announced length")]
    TooShort(u64),
}

/// Checks a response and takes it over. `map`, empty, becomes its header map.
pub(super) fn accept(
    mut answer: OwnedResponse,
    instance: &'static Instance,
    head: bool,
    map: HeaderMap,
) -> Result<Response<NativeBody>, CallError> {
    let status = u16::try_from(answer.status())
        .ok()
        .filter(|status| *status >= 200)
        .and_then(|status| StatusCode::from_u16(status).ok())
        .ok_or(CallError::Status(answer.status()))?;
    let (headers, declared) = headers(answer.headers(), &answer, map)?;
    let bodiless = head || status == StatusCode::NOT_MODIFIED || status == StatusCode::NO_CONTENT;
    let mismatch = |actual: u64| match declared {
        Some(declared) if declared != actual && !bodiless => {
            Err(CallError::Length { declared: declared.to_string(), actual })
        }
        _ => Ok(()),
    };
    let body = match answer.take_stream() {
        Some(stream) => {
            if let Some(len) = stream.len() {
                mismatch(len)?;
            }
            let remaining = declared.or(stream.len());
            NativeBody { inner: Inner::Stream(stream, Live::new(instance)), announced: remaining, remaining }
        }
        None => {
            let bytes = answer.into_bytes().map_err(|BadPointer| CallError::Pointer("body"))?;
            mismatch(bytes.len() as u64)?;
            let inner = if bytes.is_empty() { Inner::Empty } else { Inner::Full(bytes) };
            NativeBody { inner, announced: None, remaining: None }
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    // The map that was there owns nothing, and its destructor does not know.
    std::mem::forget(std::mem::replace(response.headers_mut(), headers));
    Ok(response)
}

/// Copies header fields into `map`, and reads the length that they declare. Values share one allocation.
fn headers(
    fields: Result<&[abi::Header], BadPointer>,
    owner: &OwnedResponse,
    mut map: HeaderMap,
) -> Result<(HeaderMap, Option<u64>), CallError> {
    let bad = |BadPointer| CallError::Pointer("headers");
    let fields = fields.map_err(bad)?;
    if fields.len() > MAX_HEADERS {
        return Err(CallError::Headers(fields.len()));
    }
    let (mut total, mut remembered) = (0_usize, 0_usize);
    for field in fields {
        let value = text(field.value, owner).map_err(bad)?;
        total = total.saturating_add(value.len());
        if text(field.name, owner).map_err(bad)? == b"content-type" {
            remembered += value.len();
        }
    }
    if total > MAX_HEADER_BYTES {
        return Err(CallError::HeaderBytes(total));
    }
    let mut all = Vec::with_capacity(total - remembered);
    for field in fields {
        if text(field.name, owner).map_err(bad)? != b"content-type" {
            all.extend_from_slice(text(field.value, owner).map_err(bad)?);
        }
    }
    let mut all = Bytes::from(all);
    let mut declared = None;
    map.reserve(fields.len());
    for field in fields {
        let name = text(field.name, owner).map_err(bad)?;
        let invalid = || CallError::Header(format!("{}", name.escape_ascii()));
        let value = match name {
            b"content-type" => content_type::value(text(field.value, owner).map_err(bad)?),
            _ => HeaderValue::from_maybe_shared(all.split_to(field.value.len)).ok(),
        };
        let value = value.ok_or_else(invalid)?;
        let name = header_name(name).ok_or_else(invalid)?;
        if is_hop_by_hop(&name) {
            continue;
        }
        // Whether several agree is looked at by the server, for plugins of every kind.
        if name == header::CONTENT_LENGTH && declared.is_none() {
            let length = value.to_str().ok().and_then(|value| value.parse::<u64>().ok());
            let invalid = || CallError::Header(format!("content-length: {}", value.as_bytes().escape_ascii()));
            declared = Some(length.ok_or_else(invalid)?);
        }
        map.append(name, value);
    }
    Ok((map, declared))
}

/// A header's name. Comparing with the few that nearly every response has is much cheaper than parsing.
fn header_name(name: &[u8]) -> Option<HeaderName> {
    match name {
        b"content-type" => Some(header::CONTENT_TYPE),
        b"content-length" => Some(header::CONTENT_LENGTH),
        b"cache-control" => Some(header::CACHE_CONTROL),
        b"set-cookie" => Some(header::SET_COOKIE),
        b"location" => Some(header::LOCATION),
        b"vary" => Some(header::VARY),
        b"etag" => Some(header::ETAG),
        _ => HeaderName::from_bytes(name).ok(),
    }
}

/// Most fields for which a request's map is kept for its response.
const REUSED: usize = 64;

/// The map of a request that is over, emptied: hyper keeps a response's map for the next request, so that a connection
/// comes to need no allocation for either.
pub(super) fn reusable(mut map: HeaderMap) -> HeaderMap {
    if map.capacity() > REUSED {
        return HeaderMap::new();
    }
    map.clear();
    map
}

/// A body of a plugin's response.
#[derive(Debug)]
pub struct NativeBody {
    inner: Inner,
    /// Bytes that a stream announced; the receiver relies on it, so it is enforced.
    announced: Option<u64>,
    /// Bytes that are left of it.
    remaining: Option<u64>,
}

#[derive(Debug)]
enum Inner {
    Empty,
    Full(Bytes),
    Stream(OwnedBody, Live),
}

impl Body for NativeBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let outcome = match std::mem::replace(&mut self.inner, Inner::Empty) {
            Inner::Empty => return Poll::Ready(None),
            Inner::Full(bytes) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Inner::Stream(mut stream, live) => {
                let mut chunk = OwnedChunk::empty();
                let code = stream.poll(waker::lend(context.waker()), &mut chunk);
                if code == abi::PENDING {
                    self.inner = Inner::Stream(stream, live);
                    return Poll::Pending;
                }
                let outcome = self.receive(code, chunk);
                if let Ok(Some(_)) = &outcome {
                    self.inner = Inner::Stream(stream, live);
                }
                // Otherwise the stream is over and is dropped here, at once: it may hold a lot.
                outcome
            }
        };
        Poll::Ready(outcome.transpose())
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.inner, Inner::Empty)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Empty => SizeHint::with_exact(0),
            Inner::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Inner::Stream(..) => self.remaining.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

impl NativeBody {
    fn receive(&mut self, code: i32, chunk: OwnedChunk) -> Result<Option<Frame<Bytes>>, BodyError> {
        match code {
            abi::READY => {
                let bytes = chunk.into_bytes().map_err(|BadPointer| BodyError::Pointer)?;
                if let Some(remaining) = &mut self.remaining {
                    *remaining = remaining
                        .checked_sub(bytes.len() as u64)
                        .ok_or(BodyError::TooLong(self.announced.unwrap_or_default()))?;
                }
                Ok(Some(Frame::data(bytes)))
            }
            abi::TRAILERS => {
                self.complete()?;
                let mut map = HeaderMap::new();
                for field in chunk.trailers().map_err(|BadPointer| BodyError::Pointer)? {
                    let name = text(field.name, &chunk).map_err(|BadPointer| BodyError::Pointer)?;
                    let value = text(field.value, &chunk).map_err(|BadPointer| BodyError::Pointer)?;
                    let invalid = || BodyError::Trailer(name.escape_ascii().to_string());
                    map.append(
                        HeaderName::from_bytes(name).map_err(|_| invalid())?,
                        HeaderValue::from_bytes(value).map_err(|_| invalid())?,
                    );
                }
                Ok(Some(Frame::trailers(map)))
            }
            abi::END => self.complete().map(|()| None),
            abi::PANIC => Err(BodyError::Panicked),
            abi::ERROR => Err(BodyError::Failed),
            code => Err(BodyError::Code(code)),
        }
    }

    /// All that was announced has come.
    fn complete(&self) -> Result<(), BodyError> {
        match self.remaining {
            Some(missing) if missing > 0 => Err(BodyError::TooShort(missing)),
            _ => Ok(()),
        }
    }
}
