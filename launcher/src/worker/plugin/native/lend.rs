//! A request as the plugin sees it: a flat view of ours, and a body that it pulls.

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Version};
use http_body::Body;
use worker_sdk::abi;

use super::owned::guard;
use super::waker;

/// Most requests have no more header fields than this; then the array needs no allocation.
const INLINE: usize = 32;

fn view((name, value): (&HeaderName, &HeaderValue)) -> abi::Header {
    abi::Header { name: abi::Str::new(name.as_str().as_bytes()), value: abi::Str::new(value.as_bytes()) }
}

/// Builds the view of a request's head and passes it to `work` with a body; what the plugin did not take of that is
/// dropped after.
#[inline]
pub(super) fn with_request<B, R>(
    head: &Request<B>,
    body: abi::Body,
    peer: abi::Peer,
    work: impl FnOnce(*mut abi::Request) -> R,
) -> R {
    let mut few = [const { MaybeUninit::<abi::Header>::uninit() }; INLINE];
    let mut many = Vec::new();
    let fields = head.headers();
    let headers = if fields.len() <= INLINE {
        for (slot, field) in few.iter_mut().zip(fields) {
            slot.write(view(field));
        }
        few.as_ptr().cast()
    } else {
        many.extend(fields.iter().map(view));
        many.as_ptr()
    };
    let target = head.uri().path_and_query().map_or("/", |target| target.as_str());
    let target = match head.uri().authority() {
        // CONNECT, the authority form of RFC 9112 section 3.2.3.
        Some(authority) if head.method() == http::Method::CONNECT => authority.as_str(),
        _ => target,
    };
    let mut request = LentRequest(abi::Request {
        size: size_of::<abi::Request>() as u32,
        version: match head.version() {
            Version::HTTP_10 => 10,
            Version::HTTP_2 => 20,
            _ => 11,
        },
        method: abi::Str::new(head.method().as_str().as_bytes()),
        target: abi::Str::new(target.as_bytes()),
        headers,
        headers_len: fields.len(),
        body,
        peer,
    });
    work(&raw mut request.0)
}

/// Drops a body that the plugin left.
struct LentRequest(abi::Request);

impl Drop for LentRequest {
    fn drop(&mut self) {
        if let Some(drop) = self.0.body.drop.take() {
            // SAFETY: the plugin replaces a body that it takes, so this is still ours; once (taken).
            unsafe { drop(self.0.body.data) }
        }
    }
}

/// A body that the plugin may take. One that has ended is not worth it: [`abi::Body::NONE`] says the same.
pub(super) fn lend_body<B>(body: B) -> abi::Body
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    let len = body.size_hint().exact().and_then(|len| i64::try_from(len).ok()).unwrap_or(-1);
    abi::Body {
        data: Box::into_raw(Box::new(body)).cast(),
        poll: Some(poll_body::<B>),
        drop: Some(drop_body::<B>),
        len,
    }
}

unsafe extern "C" fn poll_body<B>(data: *mut c_void, waker: abi::Waker, chunk: *mut abi::Chunk) -> i32
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    guard(|| {
        // SAFETY: `data` is the box that `lend_body` leaked, alive until `drop_body`; one thread at a time.
        let body = unsafe { &mut *data.cast::<B>() };
        waker::with_context(waker, |context| {
            loop {
                let frame = match Pin::new(&mut *body).poll_frame(context) {
                    Poll::Pending => return abi::PENDING,
                    Poll::Ready(None) => return abi::END,
                    Poll::Ready(Some(Err(_))) => return abi::ERROR,
                    Poll::Ready(Some(Ok(frame))) => frame,
                };
                let (code, lent) = match frame.into_data() {
                    Ok(bytes) if bytes.is_empty() => continue,
                    Ok(bytes) => (abi::READY, lend_bytes(bytes)),
                    Err(frame) => match frame.into_trailers() {
                        Ok(trailers) => (abi::TRAILERS, lend_trailers(trailers)),
                        Err(_) => continue,
                    },
                };
                // SAFETY: the plugin's chunk is ours to fill for the call.
                unsafe { chunk.write(lent) };
                return code;
            }
        })
    })
}

unsafe extern "C" fn drop_body<B>(data: *mut c_void) {
    guard(|| {
        // SAFETY: `data` is the box that `lend_body` leaked; dropped once.
        drop(unsafe { Box::from_raw(data.cast::<B>()) });
        abi::READY
    });
}

fn lend_bytes(bytes: Bytes) -> abi::Chunk {
    let view = abi::Str::new(&bytes);
    abi::Chunk {
        bytes: view,
        owner: Box::into_raw(Box::new(bytes)).cast(),
        release: Some(release::<Bytes>),
        ..abi::Chunk::EMPTY
    }
}

/// The fields' texts live in the map, the views in the vector; both on the heap.
struct Trailers {
    _map: HeaderMap,
    views: Vec<abi::Header>,
}

fn lend_trailers(map: HeaderMap) -> abi::Chunk {
    let mut trailers = Box::new(Trailers { _map: map, views: Vec::new() });
    trailers.views = trailers._map.iter().map(view).collect();
    abi::Chunk {
        trailers: trailers.views.as_ptr(),
        trailers_len: trailers.views.len(),
        owner: Box::into_raw(trailers).cast(),
        release: Some(release::<Trailers>),
        ..abi::Chunk::EMPTY
    }
}

unsafe extern "C" fn release<T>(owner: *mut c_void) {
    guard(|| {
        // SAFETY: `owner` is the box of that type that was lent; released once.
        drop(unsafe { Box::from_raw(owner.cast::<T>()) });
        abi::READY
    });
}
