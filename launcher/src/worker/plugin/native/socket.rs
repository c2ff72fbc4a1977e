//! Native plugins that own their sockets: the host's side of `serve`.
//!
//! The plugin runs on a thread of its own for as long as it likes, and the worker's loop beside it: a plugin that hangs
//! keeps nobody from telling it to stop.

use std::ffi::c_void;
use std::os::fd::{BorrowedFd, IntoRawFd as _, OwnedFd};
use std::time::Duration;

use tokio::sync::oneshot;
use worker_sdk::abi;

use super::owned::{OwnedChunk, guard};
use super::{Identity, LoadError, begin, leak, open, reason, waker};
use crate::channel::{Listener, SocketKind};
use crate::worker::socket::Side;

/// Bytes of the stack of the plugin's thread, as of a process's first thread; what is not used costs nothing.
const STACK: usize = 8 << 20;

/// A loaded plugin of kind `socket`.
#[derive(Debug)]
pub struct NativeSocket {
    serve: abi::Serve,
    drop: Option<abi::DropState>,
    state: State,
}

/// The plugin's state, which only its functions look at.
#[derive(Debug, Clone, Copy)]
struct State(*mut c_void);

// SAFETY: the contract lets us call `serve` on a thread of its own and `drop` on any.
unsafe impl Send for State {}

impl NativeSocket {
    /// See [`NativeHttp::load`](super::NativeHttp::load).
    ///
    /// # Errors
    /// As there.
    pub fn load(
        library: BorrowedFd<'_>,
        config: &serde_json::Value,
        identity: Identity<'_>,
    ) -> Result<NativeSocket, LoadError> {
        let descriptor = open(library)?;
        let Some(serve) = descriptor.serve else {
            return Err(LoadError::Descriptor("`serve` is null"));
        };
        let state = State(begin(&descriptor, config, identity)?);
        Ok(NativeSocket { serve, drop: descriptor.drop, state })
    }

    /// Gives the plugin its sockets, and waits until it comes back. Why it failed, for a person.
    pub async fn serve(
        &self,
        sockets: Vec<(Listener, OwnedFd)>,
        side: &'static Side,
        drain_timeout: Duration,
    ) -> Result<(), String> {
        let (serve, state) = (self.serve, self.state);
        let given = given(sockets, side, drain_timeout);
        let (back, awaited) = oneshot::channel();
        let thread = std::thread::Builder::new().name("serve".to_owned()).stack_size(STACK);
        let run = move || {
            crate::sys::fatal_signal::answer_on_this_thread();
            let State(state) = { state };
            let Given(given) = { given };
            let mut error = OwnedChunk::empty();
            // SAFETY: called once, with the state that `init` made; the table is leaked and the out-parameter ours.
            let code = unsafe { serve(state, given, error.out()) };
            // Nobody waits any more if the worker has ended meanwhile.
            let _ = back.send(match code {
                abi::READY => Ok(()),
                abi::PANIC => Err("it panicked while it served; its message is above".to_owned()),
                code => Err(reason(error, || format!("serve returned {code} without a reason"))),
            });
        };
        thread.spawn(run).map_err(|error| format!("no thread could be started for it: {error}"))?;
        awaited.await.unwrap_or_else(|_| Err("its thread ended".to_owned()))
    }

    /// Calls the plugin's `drop`; comes after `serve`, and the process is expected to `_exit` after it.
    pub fn shutdown(self) {
        if let Some(drop) = self.drop {
            // SAFETY: called once (`self` is consumed) and last: `serve` has come back, or was not called.
            unsafe { drop(self.state.0) }
        }
    }
}

/// What `serve` gets; leaked.
struct Given(*const abi::Sockets);

// SAFETY: constant memory that lives as long as the process.
unsafe impl Send for Given {}

fn given(sockets: Vec<(Listener, OwnedFd)>, side: &'static Side, drain_timeout: Duration) -> Given {
    let listener = |(listener, socket): (Listener, OwnedFd)| -> *const abi::Listener {
        Box::leak(Box::new(abi::Listener {
            size: size_of::<abi::Listener>() as u32,
            kind: match listener.kind {
                SocketKind::Tcp => abi::SOCKET_TCP,
                SocketKind::Udp => abi::SOCKET_UDP,
                SocketKind::Unix => abi::SOCKET_UNIX,
                SocketKind::UnixDatagram => abi::SOCKET_UNIX_DATAGRAM,
                SocketKind::UnixPacket => abi::SOCKET_UNIX_PACKET,
            },
            // The plugin's from here on.
            descriptor: socket.into_raw_fd(),
            reserved: 0,
            name: leak(listener.name),
            address: leak(listener.address),
        }))
    };
    let listeners: &'static [*const abi::Listener] = Vec::leak(sockets.into_iter().map(listener).collect());
    Given(Box::leak(Box::new(abi::Sockets {
        size: size_of::<abi::Sockets>() as u32,
        stop_descriptor: side.stop.descriptor(),
        stop_flag: side.stop.flag(),
        drain_timeout_ms: u64::try_from(drain_timeout.as_millis()).unwrap_or(u64::MAX),
        listeners: listeners.as_ptr(),
        listeners_len: listeners.len(),
        host: (&raw const *side).cast_mut().cast(),
        ready,
        not_accepting,
        poll_stop,
        at_work: Some(at_work),
        poll_alive: Some(poll_alive),
    })))
}

/// # Safety
/// `host` is what [`given`] wrote there.
unsafe fn side(host: *mut c_void) -> &'static Side {
    // SAFETY: a `&'static Side`, whose every method may be called on any thread.
    unsafe { &*host.cast_const().cast::<Side>() }
}

unsafe extern "C" fn ready(host: *mut c_void) {
    guard(|| {
        // SAFETY: the plugin passes what it was given, by the contract.
        unsafe { side(host) }.ready();
        abi::READY
    });
}

unsafe extern "C" fn not_accepting(host: *mut c_void) {
    guard(|| {
        // SAFETY: as above.
        unsafe { side(host) }.not_accepting();
        abi::READY
    });
}

unsafe extern "C" fn poll_stop(host: *mut c_void, waker: abi::Waker) -> i32 {
    guard(|| {
        // SAFETY: as above.
        let side = unsafe { side(host) };
        match waker::with_context(waker, |context| side.stop.poll(context)) {
            std::task::Poll::Ready(()) => abi::READY,
            std::task::Poll::Pending => abi::PENDING,
        }
    })
}

unsafe extern "C" fn at_work(host: *mut c_void, yes: u32) {
    guard(|| {
        // SAFETY: as above.
        let pulse = unsafe { side(host) }.pulse();
        if yes == 0 {
            pulse.plugin_waits()
        } else {
            pulse.plugin_works()
        }
        abi::READY
    });
}

unsafe extern "C" fn poll_alive(host: *mut c_void, waker: abi::Waker) -> i32 {
    guard(|| {
        // SAFETY: as above.
        let pulse = unsafe { side(host) }.pulse();
        waker::with_context(waker, |context| pulse.plugin_lives(context));
        abi::PENDING
    })
}
