//! Native plugins: shared libraries that speak the C contract of `worker-sdk/src/abi.rs`.
//!
//! Flow: [`verify`] reads the file without executing it (the master's side of a reload); [`NativeHttp::load`] opens
//! the sealed copy and calls `init`; [`NativeHttp::call`] lends a request to the plugin and polls it at once, so that a
//! handler that does not wait costs no task; [`NativeHttp::shutdown`] ends it. A plugin that owns its sockets is a
//! [`NativeSocket`]. A library is never unloaded: a new version is a new process.
//!
//! Whatever the plugin hands over is wrapped by a type of `owned` before anything else looks at it, so that it is
//! released exactly once on every path. What cannot be checked is trusted: the plugin shares our address space.

#![expect(unsafe_code, reason = "the host's side of the C contract of native plugins")]

mod call;
mod content_type;
mod lend;
mod manifest;
mod owned;
pub(in crate::worker) mod post;
mod response;
mod serve;
mod socket;
mod waker;

use std::ffi::c_void;
use std::io::Write as _;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use worker_sdk::abi;

pub use call::{Call, CallError};
pub use manifest::{ManifestError, NativeKind, NativeManifest, verify};
pub use response::{BodyError, NativeBody};
pub use socket::NativeSocket;

use owned::OwnedChunk;

/// A loaded plugin of kind `http`.
#[derive(Debug, Clone, Copy)]
pub struct NativeHttp(&'static Instance);

/// Who the plugin is told that it is.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// Name of the service.
    pub service: &'a str,
    /// Id of the worker.
    pub worker: u64,
    /// Place among the service's workers.
    pub slot: u32,
    /// Generation of the service.
    pub generation: u64,
}

/// Why a library cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LoadError {
    /// The dynamic linker refused it: unresolved symbols, missing libraries, …
    #[error("cannot be linked: {0}")]
    Link(String),
    /// The descriptor in memory is not what the file promised.
    #[error("its descriptor is unusable: {0}")]
    Descriptor(&'static str),
    /// `init` said no.
    #[error("refuses to start: {0}")]
    Refused(String),
    /// `init` panicked.
    #[error("panicked while it started; its message is above")]
    Panicked,
}

/// What lives as long as the process.
#[derive(Debug)]
struct Instance {
    handle: abi::Handle,
    drop: Option<abi::DropState>,
    state: *mut c_void,
    /// Calls and bodies of the plugin that are not yet dropped. `drop` may come only when it is 0.
    live: AtomicUsize,
    /// `drop` was called.
    over: AtomicBool,
}

// SAFETY: the state is the plugin's and is only passed to its functions, which the contract lets us call on any
// thread (one at a time for `handle`: the worker serves on one).
unsafe impl Send for Instance {}
// SAFETY: as above.
unsafe impl Sync for Instance {}

/// Counts something of the plugin's that has yet to be dropped.
#[derive(Debug)]
struct Live(&'static Instance);

impl Live {
    fn new(instance: &'static Instance) -> Self {
        instance.live.fetch_add(1, Ordering::Relaxed);
        Live(instance)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::Release);
    }
}

impl NativeHttp {
    /// Loads a plugin and calls its `init`, which may take as long as it likes: the deadline is the master's.
    ///
    /// `library` is the sealed copy; it may be closed afterwards. This executes the plugin: its constructors, then `init`.
    ///
    /// # Errors
    /// What the dynamic linker says, what is wrong with the descriptor, or why the plugin refuses.
    pub fn load(
        library: BorrowedFd<'_>,
        config: &serde_json::Value,
        identity: Identity<'_>,
    ) -> Result<NativeHttp, LoadError> {
        let descriptor = open(library)?;
        let Some(handle) = descriptor.handle else {
            return Err(LoadError::Descriptor("`handle` is null"));
        };
        let state = begin(&descriptor, config, identity)?;
        Ok(NativeHttp(Box::leak(Box::new(Instance {
            handle,
            drop: descriptor.drop,
            state,
            live: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        }))))
    }

    /// Answers one request. Poll it at once: the first poll is what calls the plugin.
    ///
    /// Dropping it cancels the plugin's work.
    #[inline]
    pub fn call<B>(&self, request: http::Request<B>, peer: abi::Peer) -> Call<B> {
        Call::new(self.0, request, peer)
    }

    /// Calls the plugin's `drop`, which runs its stop hook. The process is expected to `_exit` after it, because
    /// threads of the plugin may still run and must not see destructors of ours.
    ///
    /// # Errors
    /// The number of calls and bodies that still exist: then nothing was called, because the contract says that
    /// `drop` comes last.
    pub fn shutdown(&self) -> Result<(), usize> {
        match self.0.live.load(Ordering::Acquire) {
            0 => {}
            live => return Err(live),
        }
        if let (false, Some(drop)) = (self.0.over.swap(true, Ordering::AcqRel), self.0.drop) {
            // SAFETY: called once (the swap), last (nothing is live), with the state that `init` made.
            unsafe { drop(self.0.state) }
        }
        Ok(())
    }
}

/// Opens a library and takes its descriptor. What a younger version appended is absent in an older descriptor.
fn open(library: BorrowedFd<'_>) -> Result<abi::Plugin, LoadError> {
    // A descriptor of our own that is never closed: the linker knows libraries by their path first, so that a later
    // descriptor of the same number would be taken for this library; and backtraces read their symbols by it.
    let pinned = library.try_clone_to_owned().map_err(|error| LoadError::Link(error.to_string()))?;
    let path = format!("/proc/self/fd/{}", pinned.as_raw_fd());
    // SAFETY: running the library's constructors is what loading a trusted plugin means. RTLD_LOCAL keeps its
    // symbols from ours.
    let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) }
        .map_err(|error| LoadError::Link(linker_message(&error, &path)))?;
    // SAFETY: the symbol is data by contract (`verify` checked its kind); only its address is taken here.
    let symbol = unsafe { library.get::<*mut abi::Plugin>(abi::SYMBOL) }
        .map_err(|error| LoadError::Link(linker_message(&error, &path)))?;
    let descriptor = symbol.as_raw_ptr().cast::<abi::Plugin>();
    // Never unloaded: wakers, threads and thread-locals of the plugin may outlive everything we know of.
    let _ = library.into_raw();
    std::mem::forget(pinned);

    if descriptor.is_null() || !descriptor.is_aligned() {
        return Err(LoadError::Descriptor("null or misaligned"));
    }
    // SAFETY: a data symbol of the loaded library, aligned; its first 16 bytes exist in every version. Only those are
    // read: a reference to the whole would promise what an older one does not have.
    let (magic, version, size) = unsafe {
        (
            (&raw const (*descriptor).magic).read(),
            (&raw const (*descriptor).abi).read(),
            (&raw const (*descriptor).size).read(),
        )
    };
    if magic != abi::MAGIC || version != abi::ABI || (size as usize) < abi::PLUGIN_FIRST {
        return Err(LoadError::Descriptor("another version than its file said"));
    }
    let mut known = MaybeUninit::<abi::Plugin>::zeroed();
    let bytes = (size as usize).min(size_of::<abi::Plugin>());
    // SAFETY: the plugin's has `size` bytes, ours as many as its type; they are two objects.
    unsafe { std::ptr::copy_nonoverlapping(descriptor.cast::<u8>(), known.as_mut_ptr().cast::<u8>(), bytes) };
    // SAFETY: numbers and bytes are valid whatever they are, and a function that was not copied is null: `None`.
    Ok(unsafe { known.assume_init() })
}

/// Calls `init`: the plugin's state.
fn begin(
    descriptor: &abi::Plugin,
    config: &serde_json::Value,
    identity: Identity<'_>,
) -> Result<*mut c_void, LoadError> {
    let Some(init) = descriptor.init else {
        return Err(LoadError::Descriptor("`init` is null"));
    };
    let host = host_table(config, identity);
    let mut state = std::ptr::null_mut();
    let mut error = OwnedChunk::empty();
    // SAFETY: the table is constant and leaked, the out-parameters are ours for the call.
    match unsafe { init(host, &raw mut state, error.out()) } {
        abi::READY => Ok(state),
        abi::PANIC => Err(LoadError::Panicked),
        code => Err(LoadError::Refused(reason(error, || format!("init returned {code} without a reason")))),
    }
}

/// What a plugin says of a failure.
fn reason(error: OwnedChunk, otherwise: impl FnOnce() -> String) -> String {
    let reason = error.into_bytes().unwrap_or_default();
    let reason = String::from_utf8_lossy(&reason);
    match reason.trim() {
        "" => otherwise(),
        reason => reason.to_owned(),
    }
}

/// The linker's words without the path in memory, which tells a person nothing.
fn linker_message(error: &libloading::Error, path: &str) -> String {
    let mut text = error.to_string();
    if let Some(source) = std::error::Error::source(error) {
        text = source.to_string();
    }
    let text = text.replace(&format!("{path}: "), "");
    match text.strip_prefix("undefined symbol: ") {
        Some(symbol) => {
            format!("undefined symbol `{symbol}`: a library is missing from its link line, or is older here")
        }
        None if text.contains("cannot open shared object file") => {
            format!("{text}; install that library on this machine, or link it statically")
        }
        None => text,
    }
}

fn leak(text: String) -> abi::Str {
    abi::Str::new(Box::leak(text.into_boxed_str()).as_bytes())
}

fn host_table(config: &serde_json::Value, identity: Identity<'_>) -> *const abi::Host {
    Box::leak(Box::new(abi::Host {
        abi: abi::ABI,
        size: size_of::<abi::Host>() as u32,
        config: leak(config.to_string()),
        service: leak(identity.service.to_owned()),
        worker: identity.worker,
        generation: identity.generation,
        slot: identity.slot,
        reserved: 0,
        wakers: &raw const waker::TABLE,
        log,
        send: Some(post::send),
        receive: Some(post::receive),
    }))
}

/// A plugin's line: on standard error, which the master drains, prefixes and bounds.
unsafe extern "C" fn log(level: u32, message: abi::Str, fields: *const abi::Header, fields_len: usize) {
    let _ = catch_unwind(|| {
        let level = match level {
            abi::LOG_ERROR => "ERROR",
            abi::LOG_WARN => "WARN",
            abi::LOG_INFO => "INFO",
            _ => "DEBUG",
        };
        // SAFETY: texts and fields are the plugin's and constant for the call.
        let text = |text: abi::Str| String::from_utf8_lossy(unsafe { text.get() }.unwrap_or_default()).into_owned();
        let mut line = format!("{level} {}", text(message));
        if !fields.is_null() {
            // SAFETY: an array of that many fields, constant for the call.
            for field in unsafe { std::slice::from_raw_parts(fields, fields_len) } {
                line.push_str(&format!(" {}={}", text(field.name), text(field.value)));
            }
        }
        // One line a call, whatever the message holds.
        let line = line.replace('\n', "\\n");
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    });
}

#[cfg(test)]
mod tests;
