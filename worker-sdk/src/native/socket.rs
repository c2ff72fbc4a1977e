//! The plugin's side of `serve`: the sockets come in, the author's function runs, and its words go out.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{c_int, c_ulong, c_void};
use std::fmt;
use std::future::Future;
use std::io::{self, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

#[cfg(feature = "tokio")]
use tokio::io::{Interest, unix::AsyncFd};

use super::{buffer, guard, host_is_set, waker};
use crate::abi;
use crate::export::Socket;
use crate::sockets::{Listener, SocketKind, Sockets};

/// The exported constant of a plugin that owns its sockets.
pub const fn descriptor<P: Socket>(name: &str, version: &str, panic_aborts: bool) -> abi::Plugin {
    abi::Plugin {
        magic: abi::MAGIC,
        abi: abi::ABI,
        size: size_of::<abi::Plugin>() as u32,
        kind: abi::KIND_SOCKET,
        flags: if panic_aborts { abi::PLUGIN_PANIC_ABORTS } else { 0 }
            | if P::ASYNCHRONOUS { abi::PLUGIN_TURNS_WORKER } else { 0 },
        name: abi::padded(name),
        version: abi::padded(version),
        init: Some(init),
        handle: None,
        drop: None,
        serve: Some(serve::<P>),
    }
}

unsafe extern "C" fn init(host: *const abi::Host, _state: *mut *mut c_void, error: *mut abi::Chunk) -> i32 {
    // SAFETY: the host passes its table and a chunk of its own that is ours to fill until we return.
    guard(|| unsafe { host_is_set(host, error) })
}

unsafe extern "C" fn serve<P: Socket>(
    _state: *mut c_void,
    sockets: *const abi::Sockets,
    error: *mut abi::Chunk,
) -> i32 {
    guard(|| {
        // SAFETY: the host's table is constant and lives as long as the process.
        let side = unsafe { Side::read(sockets) };
        // SAFETY: the host gives the descriptors away with this call, which comes once.
        let listeners = unsafe { side.take_listeners() };
        match P::serve(Sockets::new(listeners, side)) {
            Ok(()) => abi::READY,
            Err(reason) => {
                // SAFETY: the host passes a chunk of its own that is ours to fill until we return.
                unsafe { error.write(buffer::export_chunk(reason.into())) };
                abi::ERROR
            }
        }
    })
}

thread_local! {
    /// This thread turns the worker's loop, and does not do so at this moment.
    static TURNS: Cell<Option<Side>> = const { Cell::new(None) };
}

/// Whose worker this thread turns. Who blocks it has to turn it meanwhile, or waits for what never comes.
pub(super) fn turns() -> Option<Side> {
    TURNS.get()
}

/// Runs an author's `async fn`: on a tokio of its own, if the plugin has one, and on this thread, whose worker it turns. The
/// worker is told when the loop has something to do and when it waits, so that one that stands still is noticed.
///
/// # Errors
/// What the function says, or that there can be no runtime.
pub fn run<F: Future>(sockets: Sockets, serve: impl FnOnce(Sockets) -> F) -> Result<F::Output, String> {
    let side = sockets.side();
    side.at_work(true);
    #[cfg(feature = "tokio")]
    {
        super::runtime::stay_away();
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().on_thread_park(move || side.at_work(false)).on_thread_unpark(move || side.at_work(true));
        let runtime = runtime.build().map_err(|error| format!("cannot start the plugin's tokio: {error}"))?;
        if side.0.turn.is_some() {
            let _within = runtime.enter();
            // SAFETY: a `BorrowedFd` whose descriptor stays open for as long as the process, and always the same.
            let watched = unsafe { AsyncFd::register_with_interest(side.worker_descriptor(), Interest::READABLE) }
                .map_err(|error| format!("cannot watch the worker's loop: {error}"))?;
            runtime.spawn(side.turn_the_worker(watched));
            TURNS.set(Some(side));
        } else {
            // A loop with so much to do that it never waits is alive, too.
            runtime.spawn(std::future::poll_fn(move |context| {
                side.poll_alive(context);
                Poll::<()>::Pending
            }));
        }
        let output = runtime.block_on(async { serve(sockets).await });
        TURNS.set(None);
        // Tasks that block must not hold up the end for longer.
        runtime.shutdown_timeout(super::runtime::SHUTDOWN);
        Ok(output)
    }
    #[cfg(not(feature = "tokio"))]
    {
        TURNS.set(side.0.turn.map(|_| side));
        let output = super::block_on_and(async { serve(sockets).await }, |waits| side.at_work(!waits));
        TURNS.set(None);
        Ok(output)
    }
}

/// The host's table of this plugin's sockets; what an older host does not have is null.
#[derive(Clone, Copy)]
pub(crate) struct Side(&'static abi::Sockets);

// SAFETY: the contract says of the table that it is constant and lives as long as the process, and of its functions that
// any thread may call them.
unsafe impl Send for Side {}
// SAFETY: as above.
unsafe impl Sync for Side {}

impl fmt::Debug for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Side").field("was_told", &self.was_told()).finish()
    }
}

/// What poll(2) looks at.
#[repr(C)]
struct PollFd {
    descriptor: c_int,
    events: i16,
    revents: i16,
}

/// `POLLIN` of poll(2), the same on every Linux.
const POLLIN: i16 = 1;

unsafe extern "C" {
    fn poll(descriptors: *mut PollFd, count: c_ulong, timeout: c_int) -> c_int;
}

impl Side {
    pub(super) fn of(table: &'static abi::Sockets) -> Side {
        Side(table)
    }

    /// # Safety
    /// A host's table, which is constant and lives as long as the process.
    unsafe fn read(table: *const abi::Sockets) -> Side {
        // SAFETY: this function's requirement; size is the first field of every version. Zeros are a table without the
        // functions that may be missing; as much of it as the host has is read, which has all the others.
        let table: &'static abi::Sockets = unsafe {
            let known = ((*table).size as usize).min(size_of::<abi::Sockets>());
            let mut own = Box::new(MaybeUninit::<abi::Sockets>::zeroed());
            std::ptr::copy_nonoverlapping(table.cast::<u8>(), own.as_mut_ptr().cast::<u8>(), known);
            Box::leak(own).assume_init_ref()
        };
        Side(table)
    }

    /// # Safety
    /// Called once: the descriptors become ours.
    unsafe fn take_listeners(self) -> Vec<Listener> {
        if self.0.listeners.is_null() {
            return Vec::new();
        }
        // SAFETY: an array of that many pointers, constant.
        let listeners = unsafe { std::slice::from_raw_parts(self.0.listeners, self.0.listeners_len) };
        let text = |text: abi::Str| {
            // SAFETY: texts of the table live as long as the process.
            String::from_utf8_lossy(unsafe { text.get() }.unwrap_or_default()).into_owned()
        };
        let listener = |listener: &*const abi::Listener| {
            // SAFETY: each is valid and constant.
            let listener = unsafe { &**listener };
            Listener {
                name: text(listener.name),
                address: text(listener.address),
                kind: match listener.kind {
                    abi::SOCKET_TCP => SocketKind::Tcp,
                    abi::SOCKET_UDP => SocketKind::Udp,
                    abi::SOCKET_UNIX => SocketKind::Unix,
                    abi::SOCKET_UNIX_DATAGRAM => SocketKind::UnixDatagram,
                    abi::SOCKET_UNIX_PACKET => SocketKind::UnixPacket,
                    _ => SocketKind::Other,
                },
                // SAFETY: open, and ours from now on, by the contract and this function's requirement.
                descriptor: unsafe { OwnedFd::from_raw_fd(listener.descriptor) },
            }
        };
        listeners.iter().map(listener).collect()
    }

    pub(crate) fn ready(self) {
        // SAFETY: any thread, with its own argument.
        unsafe { (self.0.ready)(self.0.host) }
    }

    pub(crate) fn not_accepting(self) {
        // SAFETY: as above.
        unsafe { (self.0.not_accepting)(self.0.host) }
    }

    /// The loop of the calling thread has something to do, or is about to wait.
    pub(crate) fn at_work(self, yes: bool) {
        if let Some(at_work) = self.0.at_work {
            // SAFETY: with its own argument; on one thread, which is the caller's business.
            unsafe { at_work(self.0.host, u32::from(yes)) }
        }
    }

    /// A sign of life; wakes when another one is wanted.
    #[cfg(feature = "tokio")]
    fn poll_alive(self, context: &mut Context<'_>) {
        if let Some(poll_alive) = self.0.poll_alive {
            // SAFETY: with its own argument; the waker is lent for the call.
            unsafe { poll_alive(self.0.host, waker::lend(context.waker())) };
        }
    }

    /// The worker's loop has something to do when it can be read from; -1 if nobody here turns it.
    #[cfg(feature = "tokio")]
    fn worker_descriptor(&self) -> BorrowedFd<'static> {
        // SAFETY: the host keeps it open for as long as the process.
        unsafe { BorrowedFd::borrow_raw(self.0.worker_descriptor) }
    }

    /// Does what the worker's loop has to do: whether that was all.
    fn turn(self) -> bool {
        let Some(turn) = self.0.turn else { return true };
        // What it calls may wait for the word, and must not turn it meanwhile.
        let turns = TURNS.take();
        // SAFETY: with its own argument, on whatever thread.
        let code = unsafe { turn(self.0.host) };
        TURNS.set(turns);
        code != abi::READY
    }

    /// Runs a future, and the worker's loop besides; `waits` as in `block_on_and`.
    pub(super) fn block_on<F: Future>(self, mut future: Pin<&mut F>, waits: impl Fn(bool)) -> F::Output {
        struct Told(UnixStream);
        impl Wake for Told {
            fn wake(self: Arc<Self>) {
                // If it is full, it was written to.
                let _ = (&self.0).write(&[0]);
            }
        }
        let pair = UnixStream::pair().and_then(|(ours, theirs)| {
            ours.set_nonblocking(true).and_then(|()| theirs.set_nonblocking(true))?;
            Ok((ours, Waker::from(Arc::new(Told(theirs)))))
        });
        loop {
            let waker = pair.as_ref().map_or(Waker::noop(), |(_, waker)| waker);
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(waker)) {
                return output;
            }
            match &pair {
                Ok((ours, _)) => {
                    waits(true);
                    // An error is a signal that came.
                    let (told, worker) = Side::look(-1, Some(ours.as_fd()), None).unwrap_or_default();
                    waits(false);
                    if worker {
                        self.turn();
                    }
                    // All that was told so far leads to one look.
                    while told && (&*ours).read(&mut [0; 64]).is_ok_and(|read| read == 64) {}
                }
                // There are no descriptors left: it asks until it is so.
                Err(_) => {
                    self.turn();
                    std::thread::yield_now();
                }
            }
        }
    }

    #[cfg(feature = "tokio")]
    async fn turn_the_worker(self, worker: AsyncFd<BorrowedFd<'static>>) {
        // An error would be that of a runtime that ends.
        while let Ok(mut ready) = worker.readable().await {
            if self.turn() {
                // What has come since then is told anew.
                ready.clear_ready();
            }
            tokio::task::yield_now().await;
        }
    }

    pub(crate) fn was_told(self) -> bool {
        // SAFETY: the host keeps the flag for as long as the process and writes it atomically; it is aligned as a u32.
        unsafe { AtomicU32::from_ptr(self.0.stop_flag.cast_mut()) }.load(Ordering::Acquire) != 0
    }

    pub(crate) fn drain_timeout(self) -> Duration {
        Duration::from_millis(self.0.drain_timeout_ms)
    }

    pub(crate) fn stop_descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: the host keeps it open for as long as the process.
        unsafe { BorrowedFd::borrow_raw(self.0.stop_descriptor) }
    }

    /// Waits for the word, or until the socket can be read from: whether that is so.
    pub(crate) fn poll(self, socket: Option<BorrowedFd<'_>>, timeout: Option<Duration>) -> io::Result<bool> {
        let (socket, worker) = Side::look(self.0.stop_descriptor, socket, timeout)?;
        if worker {
            self.turn();
        }
        Ok(socket)
    }

    /// Waits for one of the two or the worker's loop, if this thread turns that: whether the socket and the loop are ready.
    fn look(stop: c_int, socket: Option<BorrowedFd<'_>>, timeout: Option<Duration>) -> io::Result<(bool, bool)> {
        // poll(2) ignores what is negative.
        let socket = socket.map_or(-1, |socket| socket.as_raw_fd());
        // Or nobody would turn it while this waits, and the word never came.
        let worker = turns().map_or(-1, |side| side.0.worker_descriptor);
        let watched = |descriptor| PollFd { descriptor, events: POLLIN, revents: 0 };
        let mut all = [watched(stop), watched(socket), watched(worker)];
        let timeout = timeout.map_or(-1, |timeout| c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX));
        // SAFETY: an array of three, ours for the call.
        if unsafe { poll(all.as_mut_ptr(), 3, timeout) } < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok((false, false)) } else { Err(error) };
        }
        // An error of the socket is what the next call on it says.
        Ok((all[1].revents != 0, all[2].revents != 0))
    }

    pub(crate) fn told(self) -> Told {
        Told { side: self, number: None }
    }
}

/// Futures that wait for the word. A host keeps every waker that it is given, so it is given one for all of them.
struct Waiting {
    /// The hosts that have it: one, but for tests.
    registered: BTreeSet<usize>,
    last: u64,
    wakers: BTreeMap<u64, Waker>,
}

static WAITING: Mutex<Waiting> = Mutex::new(Waiting { registered: BTreeSet::new(), last: 0, wakers: BTreeMap::new() });

fn waiting() -> MutexGuard<'static, Waiting> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Everybody;

impl Wake for Everybody {
    fn wake(self: Arc<Self>) {
        let wakers = std::mem::take(&mut waiting().wakers);
        // Outside of the lock: a waker is somebody else's code.
        wakers.into_values().for_each(Waker::wake);
    }
}

/// See `Stop::told`.
pub(crate) struct Told {
    side: Side,
    /// Our entry among those that wait.
    number: Option<u64>,
}

impl Future for Told {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.side.was_told() {
            return Poll::Ready(());
        }
        let first = {
            let mut waiting = waiting();
            let number = self.number.unwrap_or_else(|| {
                waiting.last += 1;
                waiting.last
            });
            self.number = Some(number);
            waiting.wakers.insert(number, context.waker().clone());
            waiting.registered.insert(self.side.0.host.addr())
        };
        if first {
            let everybody = Waker::from(Arc::new(Everybody));
            let table = self.side.0;
            // SAFETY: any thread, with its own argument; the waker is lent for the call.
            if unsafe { (table.poll_stop)(table.host, waker::lend(&everybody)) } == abi::READY {
                everybody.wake_by_ref();
            }
        }
        // It may have been said since the look at the head, before our waker was there.
        if self.side.was_told() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let waker = waiting().wakers.remove(&number);
            // Outside of the lock, as above.
            drop(waker);
        }
    }
}
