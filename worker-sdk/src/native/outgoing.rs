//! A response of `http`'s becomes one for the host.

use std::ffi::c_void;
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Body as _;

use super::{buffer, enter, guard, release, spare, waker};
use crate::body::Parts;
use crate::{Body, Response, abi};

/// Most responses have no more header fields than this; then the array needs no allocation of its own.
const INLINE: usize = 4;

/// What the views of an exported response point into; on the heap, so that it does not move.
pub(super) struct Head {
    headers: HeaderMap,
    body: Bytes,
    few: [abi::Header; INLINE],
    many: Vec<abi::Header>,
}

impl Default for Head {
    fn default() -> Head {
        Head { headers: HeaderMap::new(), body: Bytes::new(), few: [abi::Header::EMPTY; INLINE], many: Vec::new() }
    }
}

fn view((name, value): (&HeaderName, &HeaderValue)) -> abi::Header {
    abi::Header { name: abi::Str::new(name.as_str().as_bytes()), value: abi::Str::new(value.as_bytes()) }
}

/// Gives a response to the host. Nothing here runs the author's code, and all of it is complete before it is returned.
pub(super) fn export(response: Response) -> abi::Response {
    let (parts, body) = response.into_parts();
    let mut out = abi::Response { status: parts.status.as_u16().into(), ..abi::Response::EMPTY };
    let mut bytes = Bytes::new();
    match body.into_parts() {
        Parts::Empty => {}
        Parts::Full(full) => bytes = full,
        Parts::Static(text) => {
            out.bytes = abi::Str::new(text);
            out.flags = abi::STATIC;
        }
        // The host's own stream, straight back: it recognises it and takes us out of the way.
        Parts::Incoming(incoming) => out.body = incoming.into_raw(),
        Parts::Stream(stream) => out.body = export_body(stream),
    }
    if parts.headers.is_empty() && bytes.is_empty() {
        return out;
    }
    let mut head = spare::take_head().unwrap_or_default();
    // What was there is empty and owns nothing, which its destructor does not know.
    std::mem::forget(std::mem::replace(&mut head.headers, parts.headers));
    head.body = bytes;
    let Head { headers, body, few, many } = &mut *head;
    if !body.is_empty() {
        out.bytes = abi::Str::new(body);
    }
    out.headers_len = headers.len();
    if headers.len() <= INLINE {
        for (slot, field) in few.iter_mut().zip(headers.iter()) {
            *slot = view(field);
        }
    } else {
        many.extend(headers.iter().map(view));
    }
    let few_or_many: fn(&Head) -> *const abi::Header = |head| {
        if head.many.is_empty() { head.few.as_ptr() } else { head.many.as_ptr() }
    };
    let head = Box::into_raw(head);
    // SAFETY: just leaked and not shared. The pointer is derived from the leaked one, so that moving the box into it
    // has not invalidated it.
    out.headers = few_or_many(unsafe { &*head });
    out.owner = head.cast();
    out.release = Some(release_head);
    out
}

unsafe extern "C" fn release_head(owner: *mut c_void) {
    // SAFETY: `owner` is the box that `export` leaked; the host releases a response once.
    let mut head = unsafe { Box::from_raw(owner.cast::<Head>()) };
    guard(|| {
        // Values and bytes may hold an author's owner (`Bytes::from_owner`), whose drop is the author's code.
        enter();
        head.body = Bytes::new();
        spare::keep_map(std::mem::take(&mut head.headers));
        if head.many.capacity() <= spare::FIELDS {
            head.many.clear();
            spare::keep_head(head);
        }
        abi::READY
    });
}

fn export_body(body: Body) -> abi::Body {
    let len = body.size_hint().exact().and_then(|len| i64::try_from(len).ok()).unwrap_or(-1);
    abi::Body { data: Box::into_raw(Box::new(body)).cast(), poll: Some(poll_body), drop: Some(drop_body), len }
}

unsafe extern "C" fn poll_body(data: *mut c_void, waker: abi::Waker, chunk: *mut abi::Chunk) -> i32 {
    guard(|| {
        // SAFETY: `data` is the box that `export_body` leaked, alive until `drop_body`, polled by one thread at a time.
        let body = unsafe { &mut *data.cast::<Body>() };
        enter();
        waker::with_context(waker, |context| {
            loop {
                let frame = match Pin::new(&mut *body).poll_frame(context) {
                    Poll::Pending => return abi::PENDING,
                    Poll::Ready(None) => return abi::END,
                    Poll::Ready(Some(Err(error))) => {
                        crate::log::error!("a response's body failed: {error}");
                        return abi::ERROR;
                    }
                    Poll::Ready(Some(Ok(frame))) => frame,
                };
                let (code, exported) = match frame.into_data() {
                    Ok(bytes) if bytes.is_empty() => continue,
                    Ok(bytes) => (abi::READY, buffer::export_chunk(bytes)),
                    Err(frame) => match frame.into_trailers() {
                        Ok(trailers) => (abi::TRAILERS, export_trailers(trailers)),
                        Err(_) => continue,
                    },
                };
                // SAFETY: the host's chunk is ours to fill until this function returns.
                unsafe { chunk.write(exported) };
                return code;
            }
        })
    })
}

unsafe extern "C" fn drop_body(data: *mut c_void) {
    // SAFETY: `data` is the box that `export_body` leaked; the host drops a body once.
    release(unsafe { Box::from_raw(data.cast::<Body>()) });
}

/// The fields' texts live in the map, the views in the vector; both on the heap.
struct Trailers {
    _map: HeaderMap,
    views: Vec<abi::Header>,
}

fn export_trailers(map: HeaderMap) -> abi::Chunk {
    let views: Vec<abi::Header> = map.iter().map(view).collect();
    // A moved map keeps its heap, except for standard names, whose texts are static.
    let trailers = Box::new(Trailers { _map: map, views });
    abi::Chunk {
        trailers: trailers.views.as_ptr(),
        trailers_len: trailers.views.len(),
        owner: Box::into_raw(trailers).cast(),
        release: Some(release_trailers),
        ..abi::Chunk::EMPTY
    }
}

unsafe extern "C" fn release_trailers(owner: *mut c_void) {
    // SAFETY: `owner` is the box that `export_trailers` leaked; the host releases a chunk once.
    release(unsafe { Box::from_raw(owner.cast::<Trailers>()) });
}
