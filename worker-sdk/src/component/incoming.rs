//! A request of `wasi:http` becomes one of `http`'s.

use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use http_body::Frame;
use wasip2::http::types::{self, ErrorCode, Fields, FutureTrailers, IncomingBody, IncomingRequest};
use wasip2::io::streams::{InputStream, StreamError};

use super::executor::Wait;
use crate::{Body, Error, Request, abi};

/// Bytes asked for at once.
const READ: u64 = 64 * 1024;

/// A request's body.
pub(crate) struct Incoming {
    // Dropped in this order: what waits before what it waits for, the stream before the body that it came from.
    wait: Option<Wait>,
    state: State,
    /// Bytes that are still to come, by Content-Length.
    len: Option<u64>,
}

enum State {
    /// Nobody has asked for the body yet. Most handlers never do, and each step towards it is a call of the host.
    Unread(IncomingRequest),
    Reading(InputStream, IncomingBody),
    Trailers(FutureTrailers),
    Over,
}

impl Incoming {
    pub(crate) fn len(&self) -> Option<u64> {
        self.len
    }

    pub(crate) fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            match std::mem::replace(&mut self.state, State::Over) {
                State::Over => return Poll::Ready(None),
                State::Unread(request) => {
                    let Ok(body) = request.consume() else { return Poll::Ready(None) };
                    let Ok(stream) = body.stream() else { return Poll::Ready(None) };
                    self.state = State::Reading(stream, body);
                }
                State::Reading(stream, body) => match stream.read(READ) {
                    Ok(bytes) if bytes.is_empty() => {
                        self.wait.get_or_insert_with(|| Wait::new(stream.subscribe())).arm(context);
                        self.state = State::Reading(stream, body);
                        return Poll::Pending;
                    }
                    Ok(bytes) => {
                        self.state = State::Reading(stream, body);
                        self.len = self.len.map(|len| len.saturating_sub(bytes.len() as u64));
                        return Poll::Ready(Some(Ok(Frame::data(bytes.into()))));
                    }
                    Err(StreamError::Closed) => {
                        self.wait = None;
                        drop(stream);
                        self.state = State::Trailers(IncomingBody::finish(body));
                    }
                    Err(StreamError::LastOperationFailed(_)) => {
                        self.wait = None;
                        drop(stream);
                        drop(body);
                        return Poll::Ready(Some(Err(Error::Broken)));
                    }
                },
                State::Trailers(future) => match future.get() {
                    None => {
                        self.wait.get_or_insert_with(|| Wait::new(future.subscribe())).arm(context);
                        self.state = State::Trailers(future);
                        return Poll::Pending;
                    }
                    Some(outcome) => {
                        self.wait = None;
                        drop(future);
                        return Poll::Ready(match outcome {
                            Ok(Ok(None)) | Err(()) => None,
                            Ok(Ok(Some(fields))) => Some(Ok(Frame::trailers(map(&fields)))),
                            Ok(Err(_)) => Some(Err(Error::Broken)),
                        });
                    }
                },
            }
        }
    }
}

fn map(fields: &Fields) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields.entries() {
        // The host has validated them; what `http` refuses all the same is not worth failing a request.
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_maybe_shared(Bytes::from(value))) {
            map.append(name, value);
        }
    }
    map
}

fn method(method: types::Method) -> Option<Method> {
    Some(match method {
        types::Method::Get => Method::GET,
        types::Method::Head => Method::HEAD,
        types::Method::Post => Method::POST,
        types::Method::Put => Method::PUT,
        types::Method::Delete => Method::DELETE,
        types::Method::Connect => Method::CONNECT,
        types::Method::Options => Method::OPTIONS,
        types::Method::Trace => Method::TRACE,
        types::Method::Patch => Method::PATCH,
        types::Method::Other(name) => Method::from_bytes(name.as_bytes()).ok()?,
    })
}

/// Copies a request's head; its body comes when it is read.
pub(super) fn import(request: IncomingRequest) -> Result<Request, ErrorCode> {
    let mut headers = map(&request.headers());
    // The host keeps Host to itself and says it as the authority; natively it is a header like any other.
    if let Some(authority) = request.authority() {
        if let (false, Ok(value)) = (headers.contains_key(header::HOST), HeaderValue::try_from(authority)) {
            headers.insert(header::HOST, value);
        }
    }
    let method = method(request.method()).ok_or(ErrorCode::HttpRequestMethodInvalid)?;
    let target = request.path_with_query().unwrap_or_else(|| "/".to_owned());
    let target = if target.is_empty() { "/".to_owned() } else { target };
    let uri = Uri::from_maybe_shared(Bytes::from(target)).map_err(|_| ErrorCode::HttpRequestUriInvalid)?;
    let len = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse::<u64>().ok());
    // Without a length it may be chunked: the host keeps Transfer-Encoding to itself, so only reading tells.
    let incoming = (len != Some(0)).then(|| Incoming { wait: None, state: State::Unread(request), len });
    let peer = peer(&headers);
    let mut imported = Request::new(Body::incoming(incoming, peer));
    *imported.method_mut() = method;
    *imported.uri_mut() = uri;
    *imported.headers_mut() = headers;
    Ok(imported)
}

/// The last hop of `Forwarded` (RFC 7239): what the launcher has added, where it says that it does.
fn peer(headers: &HeaderMap) -> abi::Peer {
    thread_local! {
        static FORWARDED: bool = std::env::var_os("LAUNCHER_FORWARDED").is_some();
    }
    if !FORWARDED.with(|forwarded| *forwarded) {
        return abi::Peer::UNKNOWN;
    }
    headers
        .get_all("forwarded")
        .iter()
        .next_back()
        .and_then(|value| value.to_str().ok())
        .and_then(forwarded_for)
        .map_or(abi::Peer::UNKNOWN, |address| match address.ip() {
            IpAddr::V4(ip) => {
                let mut bytes = [0; 16];
                bytes[..4].copy_from_slice(&ip.octets());
                abi::Peer { family: abi::PEER_IPV4, port: address.port(), scope: 0, address: bytes }
            }
            IpAddr::V6(ip) => {
                abi::Peer { family: abi::PEER_IPV6, port: address.port(), scope: 0, address: ip.octets() }
            }
        })
}

/// `for=` of the last element; without a port it is 0.
fn forwarded_for(value: &str) -> Option<SocketAddr> {
    let last = value.rsplit(',').next()?;
    let node = last.split(';').find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        name.eq_ignore_ascii_case("for").then_some(value.trim_matches('"'))
    })?;
    node.parse().ok().or_else(|| {
        let ip = node.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
        Some(SocketAddr::new(ip, 0))
    })
}
