//! Bytes across the border, in both directions.

use std::ffi::c_void;

use bytes::Bytes;

use super::release;
use crate::abi;

/// Below it copying is cheaper than an owner on the heap and a call to release it, bytes.
const COPY: usize = 512;

/// A chunk of the host's, released exactly once.
pub(super) struct Chunk(pub(super) abi::Chunk);

// SAFETY: a chunk is constant memory of the host's, and the contract allows `release` on any thread.
unsafe impl Send for Chunk {}
// SAFETY: as above; a shared chunk is only read.
unsafe impl Sync for Chunk {}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the bytes live until `release`, which `drop` calls.
        unsafe { self.0.bytes.get() }.unwrap_or_default()
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let Some(release) = self.0.release.take() {
            // SAFETY: called once (taken), with its own argument.
            unsafe { release(self.0.owner) }
        }
    }
}

impl Chunk {
    /// The bytes, without a copy where that pays.
    pub(super) fn into_bytes(self) -> Bytes {
        // Without an owner the bytes are only lent until the next poll.
        if self.0.release.is_none() || self.0.bytes.len <= COPY {
            Bytes::copy_from_slice(self.as_ref())
        } else {
            Bytes::from_owner(self)
        }
    }

    /// The trailers.
    pub(super) fn trailers(&self) -> http::HeaderMap {
        let mut map = http::HeaderMap::new();
        if !self.0.trailers.is_null() {
            // SAFETY: with TRAILERS the host's chunk holds that many headers until its release.
            let fields = unsafe { std::slice::from_raw_parts(self.0.trailers, self.0.trailers_len) };
            for field in fields {
                // SAFETY: names and values live as long as the array.
                let (name, value) = unsafe { (field.name.get(), field.value.get()) };
                let name = http::HeaderName::from_bytes(name.unwrap_or_default());
                let value = http::HeaderValue::from_bytes(value.unwrap_or_default());
                if let (Ok(name), Ok(value)) = (name, value) {
                    map.append(name, value);
                }
            }
        }
        map
    }
}

/// Bytes of ours as a chunk for the host.
pub(super) fn export_chunk(bytes: Bytes) -> abi::Chunk {
    let view = abi::Str::new(&bytes);
    abi::Chunk {
        bytes: view,
        owner: Box::into_raw(Box::new(bytes)).cast(),
        release: Some(release_bytes),
        ..abi::Chunk::EMPTY
    }
}

unsafe extern "C" fn release_bytes(owner: *mut c_void) {
    // SAFETY: `owner` is the box that `export_chunk` leaked; the host releases a chunk once. `Bytes` may hold an
    // author's owner (`Bytes::from_owner`), hence the guard inside of `release`.
    release(unsafe { Box::from_raw(owner.cast::<Bytes>()) });
}
