//! Native plugins that own their sockets: the host's side of `serve`.
//!
//! The plugin runs on a thread of its own for as long as it likes, and the worker's loop beside it; or, if it says that its
//! loop turns the worker's, on the worker's thread.

use std::cell::Cell;
use std::ffi::c_void;
use std::os::fd::{BorrowedFd, IntoRawFd as _, OwnedFd};
use std::time::Duration;

use tokio::sync::oneshot;
use worker_sdk::abi;

use super::owned::{OwnedChunk, guard};
use super::{Identity, LoadError, begin, leak, open, reason, waker};
use crate::channel::{Listener, SocketKind};
use crate::sys::turned::Turned;
use crate::worker::socket::Side;

/// Bytes of the stack of the plugin's thread, as of a process's first thread; what is not used costs nothing.
const STACK: usize = 8 << 20;

/// A loaded plugin of kind `socket`.
#[derive(Debug)]
pub struct NativeSocket {
    serve: abi::Serve,
    drop: Option<abi::DropState>,
    turns: bool,
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
        let turns = descriptor.flags & abi::PLUGIN_TURNS_WORKER != 0;
        Ok(NativeSocket { serve, drop: descriptor.drop, turns, state })
    }

    /// Its loop turns the worker's: [`serve_here`](Self::serve_here) is for it.
    pub fn turns(&self) -> bool {
        self.turns
    }

    /// Gives the plugin its sockets, and waits until it comes back. Why it failed, for a person.
    pub async fn serve(
        &self,
        sockets: Vec<(Listener, OwnedFd)>,
        side: &'static Side,
        drain_timeout: Duration,
    ) -> Result<(), String> {
        let (serve, state) = (self.serve, self.state);
        let given = given(sockets, side, drain_timeout, None);
        let (back, awaited) = oneshot::channel();
        let thread = std::thread::Builder::new().name("serve".to_owned()).stack_size(STACK);
        let run = move || {
            // Nobody waits any more if the worker has ended meanwhile.
            let _ = back.send(call(serve, state, given));
        };
        thread.spawn(run).map_err(|error| format!("no thread could be started for it: {error}"))?;
        awaited.await.unwrap_or_else(|_| Err("its thread ended".to_owned()))
    }

    /// Gives the plugin its sockets and this thread, whose loop it turns, until it comes back. Why it failed, for a person.
    ///
    /// # Errors
    /// As above.
    pub fn serve_here(
        &self,
        sockets: Vec<(Listener, OwnedFd)>,
        side: &'static Side,
        drain_timeout: Duration,
        turned: &Turned,
    ) -> Result<(), String> {
        TURNED.set(turned);
        let outcome = call(self.serve, self.state, given(sockets, side, drain_timeout, Some(turned)));
        TURNED.set(std::ptr::null());
        outcome
    }

    /// Calls the plugin's `drop`; comes after `serve`, and the process is expected to `_exit` after it.
    pub fn shutdown(self) {
        if let Some(drop) = self.drop {
            // SAFETY: called once (`self` is consumed) and last: `serve` has come back, or was not called.
            unsafe { drop(self.state.0) }
        }
    }
}

thread_local! {
    /// The loop that the plugin on this thread turns; null on all others.
    static TURNED: Cell<*const Turned> = const { Cell::new(std::ptr::null()) };
}

/// Calls `serve` on this thread, once.
fn call(serve: abi::Serve, State(state): State, Given(given): Given) -> Result<(), String> {
    crate::sys::fatal_signal::answer_on_this_thread();
    let mut error = OwnedChunk::empty();
    // SAFETY: called once, with the state that `init` made; the table is leaked and the out-parameter ours.
    let code = unsafe { serve(state, given, error.out()) };
    match code {
        abi::READY => Ok(()),
        abi::PANIC => Err("it panicked while it served; its message is above".to_owned()),
        code => Err(reason(error, || format!("serve returned {code} without a reason"))),
    }
}

/// What `serve` gets; leaked.
struct Given(*const abi::Sockets);

// SAFETY: constant memory that lives as long as the process.
unsafe impl Send for Given {}

fn given(
    sockets: Vec<(Listener, OwnedFd)>,
    side: &'static Side,
    drain_timeout: Duration,
    turned: Option<&Turned>,
) -> Given {
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
        at_work: Some(if turned.is_some() { turns } else { at_work }),
        // A loop that does not turn sends no beat of the worker's either: it need not be asked.
        poll_alive: if turned.is_some() { None } else { Some(poll_alive) },
        worker_descriptor: turned.map_or(-1, Turned::descriptor),
        reserved: 0,
        turn: turned.map(|_| turn as abi::Turn),
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

/// [`at_work`], where the plugin's loop is the worker's as well.
unsafe extern "C" fn turns(host: *mut c_void, yes: u32) {
    guard(|| {
        if yes != 0 {
            // SAFETY: as above.
            unsafe { side(host) }.pulse().turn();
        }
        abi::READY
    });
}

unsafe extern "C" fn turn(_host: *mut c_void) -> i32 {
    guard(|| {
        let turned = TURNED.get();
        if turned.is_null() {
            // Another thread of the plugin's.
            return abi::ERROR;
        }
        // SAFETY: set by `serve_here`, to what it borrows until `serve` is back and this is null again.
        match unsafe { &*turned }.turn() {
            true => abi::READY,
            false => abi::PENDING,
        }
    })
}
