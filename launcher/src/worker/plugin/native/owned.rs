//! Owners of what a plugin hands over. Each releases exactly once, whatever the plugin returned beside it.
//!
//! The host allocates an owner first and lends the inside of it as the out-parameter: there is no moment at which
//! something foreign exists without an owner.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use worker_sdk::abi;

/// Below it copying is cheaper than keeping the plugin's owner alive, bytes.
const COPY: usize = 512;

/// A pointer was null where the contract wants one, or a length impossible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadPointer;

/// Header fields of the plugin's.
pub(super) fn fields(
    pointer: *const abi::Header,
    len: usize,
    _owner: &impl Sized,
) -> Result<&[abi::Header], BadPointer> {
    if len == 0 {
        return Ok(&[]);
    }
    if pointer.is_null() || !pointer.is_aligned() || len > isize::MAX as usize / size_of::<abi::Header>() {
        return Err(BadPointer);
    }
    // SAFETY: not null, aligned and of a possible length; by the contract an array of that many fields, constant until
    // its owner is released, which the borrow of the owner prevents.
    Ok(unsafe { std::slice::from_raw_parts(pointer, len) })
}

/// A text of the plugin's.
pub(super) fn text(text: abi::Str, _owner: &impl Sized) -> Result<&[u8], BadPointer> {
    // SAFETY: by the contract constant until its owner is released, which the borrow of the owner prevents.
    unsafe { text.get() }.ok_or(BadPointer)
}

/// What both chunks and responses are released by.
#[derive(Debug)]
struct Release {
    owner: *mut c_void,
    release: Option<unsafe extern "C" fn(*mut c_void)>,
}

impl Drop for Release {
    fn drop(&mut self) {
        if let Some(release) = self.release.take() {
            // SAFETY: once (taken), with its own argument; the contract allows any thread.
            unsafe { release(self.owner) }
        }
    }
}

/// Bytes with whatever keeps them alive.
struct Kept {
    bytes: abi::Str,
    _release: Release,
}

// SAFETY: constant memory of the plugin's, and the contract allows its release on any thread.
unsafe impl Send for Kept {}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        text(self.bytes, self).unwrap_or_default()
    }
}

fn into_bytes(bytes: abi::Str, flags: u32, release: Release) -> Result<Bytes, BadPointer> {
    let view = text(bytes, &release)?;
    if view.is_empty() {
        return Ok(Bytes::new());
    }
    if flags & abi::STATIC != 0 {
        // SAFETY: the plugin says that these bytes live as long as the process, and it is never unloaded.
        return unsafe { bytes.get() }.map(Bytes::from_static).ok_or(BadPointer);
    }
    if release.release.is_none() || view.len() <= COPY {
        return Ok(Bytes::copy_from_slice(view));
    }
    Ok(Bytes::from_owner(Kept { bytes, _release: release }))
}

/// A chunk.
#[derive(Debug)]
pub(super) struct OwnedChunk(abi::Chunk);

impl OwnedChunk {
    pub(super) fn empty() -> Self {
        OwnedChunk(abi::Chunk::EMPTY)
    }

    /// Where the plugin writes.
    pub(super) fn out(&mut self) -> *mut abi::Chunk {
        &raw mut self.0
    }

    pub(super) fn into_bytes(mut self) -> Result<Bytes, BadPointer> {
        let release = self.take_release();
        into_bytes(self.0.bytes, self.0.flags, release)
    }

    pub(super) fn trailers(&self) -> Result<&[abi::Header], BadPointer> {
        fields(self.0.trailers, self.0.trailers_len, self)
    }

    fn take_release(&mut self) -> Release {
        Release { owner: self.0.owner, release: self.0.release.take() }
    }
}

impl Drop for OwnedChunk {
    fn drop(&mut self) {
        drop(self.take_release());
    }
}

/// A streamed body.
#[derive(Debug)]
pub(super) struct OwnedBody(abi::Body);

// SAFETY: the contract: polled by one thread at a time (it takes `&mut self`), dropped on any.
unsafe impl Send for OwnedBody {}

impl OwnedBody {
    /// Bytes that it announces.
    pub(super) fn len(&self) -> Option<u64> {
        u64::try_from(self.0.len).ok()
    }

    pub(super) fn poll(&mut self, waker: abi::Waker, chunk: &mut OwnedChunk) -> i32 {
        match self.0.poll {
            // SAFETY: not yet dropped; the caller stops at the first end or error. The chunk is ours for the call.
            Some(poll) => unsafe { poll(self.0.data, waker, chunk.out()) },
            None => abi::END,
        }
    }
}

impl Drop for OwnedBody {
    fn drop(&mut self) {
        if let Some(drop) = self.0.drop.take() {
            // SAFETY: once (taken), with its own argument.
            unsafe { drop(self.0.data) }
        }
    }
}

/// A response.
#[derive(Debug)]
pub(super) struct OwnedResponse(abi::Response);

impl OwnedResponse {
    pub(super) fn empty() -> Self {
        OwnedResponse(abi::Response::EMPTY)
    }

    /// Where the plugin writes.
    pub(super) fn out(&mut self) -> *mut abi::Response {
        &raw mut self.0
    }

    pub(super) fn status(&self) -> u32 {
        self.0.status
    }

    pub(super) fn headers(&self) -> Result<&[abi::Header], BadPointer> {
        fields(self.0.headers, self.0.headers_len, self)
    }

    /// The stream, if there is one.
    pub(super) fn take_stream(&mut self) -> Option<OwnedBody> {
        let body = OwnedBody(std::mem::replace(&mut self.0.body, abi::Body::NONE));
        body.0.poll.is_some().then_some(body)
    }

    pub(super) fn into_bytes(mut self) -> Result<Bytes, BadPointer> {
        let release = Release { owner: self.0.owner, release: self.0.release.take() };
        into_bytes(self.0.bytes, self.0.flags, release)
    }
}

impl Drop for OwnedResponse {
    fn drop(&mut self) {
        drop(self.take_stream());
        drop(Release { owner: self.0.owner, release: self.0.release.take() });
    }
}

/// A pending call.
#[derive(Debug)]
pub(super) struct OwnedCall(abi::Call);

// SAFETY: the contract: polled by one thread at a time (it takes `&mut self`), dropped on any.
unsafe impl Send for OwnedCall {}

impl OwnedCall {
    pub(super) fn none() -> Self {
        OwnedCall(abi::Call::NONE)
    }

    /// Where the plugin writes.
    pub(super) fn out(&mut self) -> *mut abi::Call {
        &raw mut self.0
    }

    /// Whether it can be polled.
    pub(super) fn is_some(&self) -> bool {
        self.0.poll.is_some()
    }

    pub(super) fn poll(&mut self, waker: abi::Waker, response: &mut OwnedResponse) -> i32 {
        match self.0.poll {
            // SAFETY: not yet dropped; the caller stops at the first answer. The response is ours for the call.
            Some(poll) => unsafe { poll(self.0.data, waker, response.out()) },
            None => abi::ERROR,
        }
    }
}

impl Drop for OwnedCall {
    fn drop(&mut self) {
        if let Some(drop) = self.0.drop.take() {
            // SAFETY: once (taken), with its own argument.
            unsafe { drop(self.0.data) }
        }
    }
}

/// Runs work of ours that a plugin called; unwinding into its frames would abort the worker.
pub(super) fn guard(work: impl FnOnce() -> i32) -> i32 {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        // A payload of ours is a message; it is leaked all the same, because its drop is not worth a second guard.
        std::mem::forget(payload);
        abi::PANIC
    })
}
