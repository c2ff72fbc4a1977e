//! The plugin's side of the C ABI: what the exported functions do.
//!
//! Flow: [`descriptor`] is the exported constant; the worker calls `init` (remember the host, run the start hook),
//! `handle` for each request (import it, poll the author's future once; what is not ready becomes a call) and
//! `drop_state` (stop hook, reactor).
//!
//! Every `extern "C"` function of this module and its children runs inside `guard`: unwinding out of one would
//! abort the worker, and with it every other request.

#![expect(unsafe_code, reason = "this is the border of the C ABI")]

mod buffer;
mod incoming;
mod outgoing;
pub(crate) mod post;
pub(crate) mod rehearsal;
#[cfg(feature = "tokio")]
pub(crate) mod runtime;
pub mod socket;
mod spare;
mod waker;

use std::any::Any;
use std::ffi::c_void;
use std::fmt::Display;
use std::future::Future;
use std::mem::{MaybeUninit, offset_of};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use crate::IntoResponse;
use crate::abi;
use crate::export::Http;
use crate::log::Level;

pub(crate) use incoming::Incoming;

/// The exported constant of a plugin.
pub const fn descriptor<P: Http>(name: &str, version: &str, panic_aborts: bool) -> abi::Plugin {
    abi::Plugin {
        magic: abi::MAGIC,
        abi: abi::ABI,
        size: size_of::<abi::Plugin>() as u32,
        kind: abi::KIND_HTTP,
        flags: if panic_aborts { abi::PLUGIN_PANIC_ABORTS } else { 0 },
        name: abi::padded(name),
        version: abi::padded(version),
        init: Some(init::<P>),
        handle: Some(handle::<P>),
        drop: Some(drop_state::<P>),
        serve: None,
    }
}

/// The host's table, once `init` was called.
#[derive(Clone, Copy)]
pub(crate) struct Host(&'static abi::Host);

// SAFETY: the contract says of `Host` that it and all it points to are constant and live as long as the process, and
// of `log` that any thread may call it.
unsafe impl Send for Host {}
// SAFETY: as above.
unsafe impl Sync for Host {}

static HOST: OnceLock<Host> = OnceLock::new();

/// The host; `None` outside of a worker (the author's unit tests).
pub(crate) fn host() -> Option<Host> {
    HOST.get().copied()
}

impl Host {
    fn text(text: abi::Str) -> &'static str {
        // SAFETY: texts of the host table live as long as the process, by its contract.
        let bytes = unsafe { text.get() }.unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    #[cfg(feature = "json")]
    pub(crate) fn config(self) -> &'static str {
        match Host::text(self.0.config) {
            "" => "{}",
            text => text,
        }
    }

    pub(crate) fn service(self) -> &'static str {
        Host::text(self.0.service)
    }

    pub(crate) fn worker(self) -> u64 {
        self.0.worker
    }

    pub(crate) fn slot(self) -> u32 {
        self.0.slot
    }

    pub(crate) fn generation(self) -> u64 {
        self.0.generation
    }

    pub(crate) fn log(self, level: Level, fields: &[(&str, &dyn Display)], message: &str) {
        let values: Vec<String> = fields.iter().map(|(_, value)| value.to_string()).collect();
        let fields: Vec<abi::Header> = fields
            .iter()
            .zip(&values)
            .map(|((name, _), value)| abi::Header {
                name: abi::Str::new(name.as_bytes()),
                value: abi::Str::new(value.as_bytes()),
            })
            .collect();
        let message = abi::Str::new(message.as_bytes());
        // SAFETY: `log` may be called on any thread and borrows its arguments for the call; `message`, `fields` and
        // the `values` that they point to live until the end of this function.
        unsafe { (self.0.log)(level as u32, message, fields.as_ptr(), fields.len()) }
    }
}

/// Runs `work`; a panic becomes [`abi::PANIC`]. The panic hook has written its message by then.
fn guard(work: impl FnOnce() -> i32) -> i32 {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        discard(payload);
        abi::PANIC
    })
}

/// Drops a panic's payload, whose own drop is the author's code and may panic again; then it is leaked.
fn discard(payload: Box<dyn Any + Send>) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(second);
    }
}

/// Drops something of the author's: in the reactor, because dropping a timer or a socket outside of it panics.
fn release(owned: impl Sized) {
    guard(|| {
        enter();
        drop(owned);
        abi::READY
    });
}

/// Comes before anything of the author's runs.
#[inline]
fn enter() {
    #[cfg(feature = "tokio")]
    runtime::enter();
}

unsafe extern "C" fn init<P: Http>(host: *const abi::Host, _state: *mut *mut c_void, error: *mut abi::Chunk) -> i32 {
    guard(|| {
        // SAFETY: the host passes its table and a chunk of its own that is ours to fill until we return.
        let set = unsafe { host_is_set(host, error) };
        if set != abi::READY {
            return set;
        }
        enter();
        match block_on(P::start()) {
            Ok(()) => abi::READY,
            // SAFETY: as above.
            Err(reason) => unsafe { failed(error, reason) },
        }
    })
}

/// # Safety
/// `error` is a chunk that can be written.
unsafe fn failed(error: *mut abi::Chunk, message: String) -> i32 {
    // SAFETY: this function's requirement.
    unsafe { error.write(buffer::export_chunk(message.into())) };
    abi::ERROR
}

/// Remembers the host: the first part of every `init`.
///
/// # Safety
/// `host` is the host's table, which is constant and lives as long as the process, and `error` a chunk that can be written.
unsafe fn host_is_set(host: *const abi::Host, error: *mut abi::Chunk) -> i32 {
    // SAFETY: this function's requirement; abi and size are the first fields of every version. It may be older than ours,
    // and shorter.
    let (version, size) = unsafe { ((*host).abi, (*host).size as usize) };
    if version != abi::ABI || size < offset_of!(abi::Host, send) {
        let message = format!(
            "the launcher speaks version {version} of the plugin interface, this plugin was built for version {}: rebuild it with the worker-sdk of this launcher",
            abi::ABI
        );
        // SAFETY: this function's requirement.
        return unsafe { failed(error, message) };
    }
    // SAFETY: zeros are a table without the functions that may be missing; as much of it as the host has is read, which
    // has all the others.
    let host: &'static abi::Host = unsafe {
        let mut own = Box::new(MaybeUninit::<abi::Host>::zeroed());
        let known = size.min(size_of::<abi::Host>());
        std::ptr::copy_nonoverlapping(host.cast::<u8>(), own.as_mut_ptr().cast::<u8>(), known);
        Box::leak(own).assume_init_ref()
    };
    if HOST.set(Host(host)).is_err() {
        // SAFETY: this function's requirement.
        return unsafe { failed(error, "init was called twice".to_owned()) };
    }
    abi::READY
}

unsafe extern "C" fn drop_state<P: Http>(_state: *mut c_void) {
    guard(|| {
        enter();
        block_on(P::stop());
        abi::READY
    });
    #[cfg(feature = "tokio")]
    guard(|| {
        runtime::stop();
        abi::READY
    });
}

unsafe extern "C" fn handle<P: Http>(
    _state: *mut c_void,
    request: *mut abi::Request,
    waker: abi::Waker,
    response: *mut abi::Response,
    call: *mut abi::Call,
) -> i32 {
    guard(|| {
        // SAFETY: the host's request is ours to read, and its body ours to take, until this function returns.
        let Some(request) = incoming::import(unsafe { &mut *request }) else {
            return abi::ERROR;
        };
        enter();
        let slot = Box::pin(Some(P::handle(request)));
        // SAFETY: `response` and `call` are the host's, and ours to fill until this function returns.
        unsafe { begin(slot, waker, response, call) }
    })
}

/// A backtrace ends where a function of this name is called (std's `backtrace` looks for it): what an author sees of a
/// panic is the handler, and not the fifty functions between it and the worker's `main`.
#[inline(never)]
fn __rust_begin_short_backtrace<T>(run: impl FnOnce() -> T) -> T {
    let result = run();
    // Not a tail call, which would take this function off the stack.
    std::hint::black_box(());
    result
}

/// A future of the author's, until it is done. On the heap from the start: it must not move once it was polled.
type Slot<F> = Option<F>;

/// # Safety
/// `response` and `call` can be written.
#[inline]
unsafe fn begin<F>(
    mut slot: Pin<Box<Slot<F>>>,
    waker: abi::Waker,
    response: *mut abi::Response,
    call: *mut abi::Call,
) -> i32
where
    F: Future<Output: IntoResponse> + Send + 'static,
{
    let Some(future) = slot.as_mut().as_pin_mut() else {
        return abi::ERROR;
    };
    match waker::with_context(waker, |context| __rust_begin_short_backtrace(|| future.poll(context))) {
        Poll::Ready(done) => {
            // SAFETY: this function's requirement.
            unsafe { response.write(outgoing::export(done.into_response())) };
            abi::READY
        }
        Poll::Pending => {
            // SAFETY: the box is only taken out of its pin to travel as a pointer; it stays where it is, and
            // `poll_call` and `drop_call` treat it as pinned.
            let slot = unsafe { Pin::into_inner_unchecked(slot) };
            let pending =
                abi::Call { data: Box::into_raw(slot).cast(), poll: Some(poll_call::<F>), drop: Some(drop_call::<F>) };
            // SAFETY: this function's requirement.
            unsafe { call.write(pending) };
            abi::PENDING
        }
    }
}

unsafe extern "C" fn poll_call<F>(data: *mut c_void, waker: abi::Waker, response: *mut abi::Response) -> i32
where
    F: Future<Output: IntoResponse> + Send + 'static,
{
    guard(|| {
        // SAFETY: `data` is the slot that `begin` leaked, alive until `drop_call`, polled by one thread at a time,
        // and never moved.
        let mut slot = unsafe { Pin::new_unchecked(&mut *data.cast::<Slot<F>>()) };
        enter();
        let Some(future) = slot.as_mut().as_pin_mut() else {
            return abi::ERROR; // polled after it was done
        };
        match waker::with_context(waker, |context| __rust_begin_short_backtrace(|| future.poll(context))) {
            Poll::Pending => abi::PENDING,
            Poll::Ready(done) => {
                slot.set(None);
                // SAFETY: the host's response is ours to fill until this function returns.
                unsafe { response.write(outgoing::export(done.into_response())) };
                abi::READY
            }
        }
    })
}

unsafe extern "C" fn drop_call<F>(data: *mut c_void) {
    // SAFETY: `data` is the box that `begin` leaked; the host drops a call once.
    release(unsafe { Box::from_raw(data.cast::<Slot<F>>()) });
}

/// The same inside of the plugin's reactor, if it has one.
pub(crate) fn block_on_entered<F: Future>(future: F) -> F::Output {
    enter();
    block_on(future)
}

/// Runs a future on this thread.
pub fn block_on<F: Future>(future: F) -> F::Output {
    block_on_and(future, |_| ())
}

/// The same; `waits` is told before and after each wait whether the thread waits.
fn block_on_and<F: Future>(future: F, waits: impl Fn(bool)) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    if let Some(side) = socket::turns() {
        return side.block_on(future, waits);
    }
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        waits(true);
        std::thread::park();
        waits(false);
    }
}
