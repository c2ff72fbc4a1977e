//! The C contract between a launcher worker (the *host*) and a native plugin.
//!
//! **Flow.** The host reads the exported *data* symbol [`SYMBOL`], a static [`Plugin`], from the ELF file without
//! executing anything; loads the library (never unloading it) and calls `init` once. Then, by the plugin's kind:
//! - `http`: `handle` for each request, which polls the plugin's work for the first time; and at the end `drop`, when no
//!   call and no body is left.
//! - `socket`: `serve` once, on a thread of its own (or, by [`PLUGIN_TURNS_WORKER`], on the worker's, whose loop it turns
//!   then), with the listening sockets as descriptors. It says `ready` when it
//!   accepts, runs its own loop, and returns when it was told to stop and has finished; then `drop`. Coming back before it
//!   was told is a crash. It is told by a flag, a descriptor and a waker at once, so that every loop has a way to hear it.
//!
//! **Rules that hold for every type below.**
//! - No unwinding across the border: a function that would unwind returns [`PANIC`].
//! - Each side frees its own memory. Whatever is in an out-parameter when a function returns belongs to the
//!   receiver, whatever the code that was returned; the receiver releases it exactly once, from any thread.
//! - An argument of type [`Waker`] is borrowed for the call. A clone is owned, may be used on any thread and may
//!   outlive the call, the request and the connection.
//! - `poll` functions are called by one thread at a time and never after they returned something else than
//!   [`PENDING`] ([`READY`] and [`TRAILERS`] of a body: until [`END`]). `drop` functions may come at any time: that is cancellation.
//! - Structs that one side allocates for the other begin with `size`; fields are only ever appended, so check
//!   `size` before a field that is younger than [`ABI`] 1.
//! - Text is not terminated. Pointer and length come in pairs; a null pointer is allowed where the length is 0.
//!
//! `include/worker.h` says the same in C; a test compiles it against these layouts.

#![expect(unsafe_code, reason = "reading through a foreign pointer is this contract's subject")]

use core::ffi::c_void;

/// Name of the exported data symbol, a [`Plugin`].
pub const SYMBOL: &str = "launcher_plugin";
/// First eight bytes of a [`Plugin`].
pub const MAGIC: [u8; 8] = *b"LAUNCHER";
/// Version of this contract. It changes only when an old plugin could not work with a new host.
pub const ABI: u32 = 1;

/// Kind: the host speaks HTTP and calls [`Plugin::handle`].
pub const KIND_HTTP: u32 = 1;
/// Kind: the plugin owns the listening sockets, and the host calls [`Plugin::serve`].
pub const KIND_SOCKET: u32 = 2;

/// [`Listener::kind`]: a listening TCP socket.
pub const SOCKET_TCP: u32 = 1;
/// [`Listener::kind`]: a bound UDP socket.
pub const SOCKET_UDP: u32 = 2;
/// [`Listener::kind`]: a listening Unix socket.
pub const SOCKET_UNIX: u32 = 3;
/// [`Listener::kind`]: a bound Unix socket for datagrams.
pub const SOCKET_UNIX_DATAGRAM: u32 = 4;
/// [`Listener::kind`]: a listening Unix socket whose connections keep the borders of messages (`SOCK_SEQPACKET`).
pub const SOCKET_UNIX_PACKET: u32 = 5;

/// Flag of a [`Plugin`]: built with `panic = "abort"`, so that a panic ends the worker instead of one request.
pub const PLUGIN_PANIC_ABORTS: u32 = 1;
/// [`Plugin::flags`]: the plugin's loop turns the worker's, if it is given [`Sockets::turn`]. Of kind [`KIND_SOCKET`] only.
pub const PLUGIN_TURNS_WORKER: u32 = 2;
/// Flag of a [`Chunk`] or [`Response`]: the bytes live as long as the process; the receiver need not copy them.
pub const STATIC: u32 = 1;

/// Done: the out-parameter is filled. From a body: one chunk of bytes.
pub const READY: i32 = 0;
/// Not yet: the waker (or a clone of it) will be woken.
pub const PENDING: i32 = 1;
/// A body has ended.
pub const END: i32 = 2;
/// A body's trailers are in the chunk; only [`END`] may follow.
pub const TRAILERS: i32 = 3;
/// It failed. The host answers 500, or cuts the body off.
pub const ERROR: i32 = -1;
/// It panicked. The host answers 500, or cuts the body off.
pub const PANIC: i32 = -2;

/// A message or a connection is larger than it may be: 64 KiB (8 for an operator), 16 descriptors.
pub const SEND_TOO_LARGE: i32 = -10;
/// There is no such service, or no worker of it that the message could go to.
pub const SEND_NOBODY: i32 = -11;
/// The receiver ended before it said that it has the message.
pub const SEND_GONE: i32 = -12;
/// The receiver's plugin receives nothing, or it takes no connections.
pub const SEND_NOT_WANTED: i32 = -13;
/// The receiver, or this process, may not open as many descriptors.
pub const SEND_NO_ROOM: i32 = -14;
/// The letter breaks this contract, or what it carries is not fit for it.
pub const SEND_BAD: i32 = -15;
/// The worker has not yet said that it is ready.
pub const SEND_NOT_READY: i32 = -16;

/// [`Letter::kind`]: a message for the plugin.
pub const LETTER_MESSAGE: u32 = 1;
/// [`Letter::kind`]: a connection for the HTTP side; one descriptor.
pub const LETTER_CONNECTION: u32 = 2;
/// [`Letter::to`]: the worker of the id `worker`.
pub const TO_WORKER: u32 = 1;
/// [`Letter::to`]: the worker in the slot `slot` of `service`.
pub const TO_SLOT: u32 = 2;
/// [`Letter::to`]: one worker of `service`, each in its turn; not this one.
pub const TO_ANY: u32 = 3;
/// [`Letter::to`]: every worker of `service` but this one. Without descriptors.
pub const TO_EVERY: u32 = 4;
/// [`Letter::to`]: whoever operates the launcher, as an event of its. JSON of at most 8 KiB, without descriptors.
pub const TO_OPERATOR: u32 = 5;
/// [`Arrival::from`]: another worker.
pub const FROM_WORKER: u32 = 1;
/// [`Arrival::from`]: an operator.
pub const FROM_OPERATOR: u32 = 2;

/// Levels of [`Host::log`].
pub const LOG_ERROR: u32 = 1;
/// See [`LOG_ERROR`].
pub const LOG_WARN: u32 = 2;
/// See [`LOG_ERROR`].
pub const LOG_INFO: u32 = 3;
/// See [`LOG_ERROR`].
pub const LOG_DEBUG: u32 = 4;

/// Bytes that someone else owns.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Str {
    /// First byte; may be null when `len` is 0.
    pub ptr: *const u8,
    /// Bytes.
    pub len: usize,
}

impl Str {
    /// No bytes.
    pub const EMPTY: Str = Str { ptr: core::ptr::null(), len: 0 };

    /// A view of `bytes`; the caller keeps them alive as the contract of the field demands.
    pub const fn new(bytes: &[u8]) -> Self {
        Str { ptr: bytes.as_ptr(), len: bytes.len() }
    }

    /// The bytes, or `None` for a null pointer with a length or a length that no allocation can have.
    ///
    /// # Safety
    /// `ptr` is null or points to `len` readable bytes that do not change during `'a`.
    pub unsafe fn get<'a>(self) -> Option<&'a [u8]> {
        if self.len == 0 {
            return Some(&[]);
        }
        if self.ptr.is_null() || self.len > isize::MAX as usize {
            return None;
        }
        // SAFETY: not null and not longer than isize::MAX by the checks above; the rest is this function's requirement.
        Some(unsafe { core::slice::from_raw_parts(self.ptr, self.len) })
    }
}

/// One header or trailer field, or one field of a log line.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// Lower case is customary; the receiver accepts any case.
    pub name: Str,
    /// Without line breaks.
    pub value: Str,
}

impl Header {
    /// No name, no value.
    pub const EMPTY: Header = Header { name: Str::EMPTY, value: Str::EMPTY };
}

/// How a waker is used. Any function may be called on any thread.
#[repr(C)]
#[derive(Debug)]
pub struct WakerVtable {
    /// Makes an owned waker from a borrowed or an owned one.
    pub clone: unsafe extern "C" fn(data: *const c_void) -> Waker,
    /// Wakes and consumes an owned waker.
    pub wake: unsafe extern "C" fn(data: *const c_void),
    /// Wakes, consuming nothing.
    pub wake_by_ref: unsafe extern "C" fn(data: *const c_void),
    /// Consumes an owned waker without waking.
    pub drop: unsafe extern "C" fn(data: *const c_void),
}

/// Whom to tell that polling again is worth it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Waker {
    /// First argument of every function of the table.
    pub data: *const c_void,
    /// Never null; alive as long as the process.
    pub vtable: *const WakerVtable,
}

/// What [`Body::poll`] fills.
#[repr(C)]
#[derive(Debug)]
pub struct Chunk {
    /// `size_of::<Chunk>()` as its allocator knows it.
    pub size: u32,
    /// [`STATIC`] or 0.
    pub flags: u32,
    /// With [`READY`]: the bytes. Empty chunks are allowed and mean nothing.
    /// Without `release` and [`STATIC`] they are valid until the body is polled or dropped next.
    pub bytes: Str,
    /// With [`TRAILERS`]: the fields.
    pub trailers: *const Header,
    /// Number of `trailers`.
    pub trailers_len: usize,
    /// Argument of `release`.
    pub owner: *mut c_void,
    /// Frees what the chunk borrows; once, any thread.
    pub release: Option<unsafe extern "C" fn(owner: *mut c_void)>,
}

impl Chunk {
    /// What a caller of [`Body::poll`] passes.
    pub const EMPTY: Chunk = Chunk {
        size: size_of::<Chunk>() as u32,
        flags: 0,
        bytes: Str::EMPTY,
        trailers: core::ptr::null(),
        trailers_len: 0,
        owner: core::ptr::null_mut(),
        release: None,
    };
}

/// A body that its reader pulls: what is not polled is not produced, so back-pressure needs nothing else.
#[repr(C)]
#[derive(Debug)]
pub struct Body {
    /// First argument of both functions.
    pub data: *mut c_void,
    /// [`READY`], [`TRAILERS`], [`PENDING`], [`END`], [`ERROR`] or [`PANIC`]. `None`: there is no body.
    pub poll: Option<unsafe extern "C" fn(data: *mut c_void, waker: Waker, chunk: *mut Chunk) -> i32>,
    /// Frees the body, read to its end or not; once, any thread.
    pub drop: Option<unsafe extern "C" fn(data: *mut c_void)>,
    /// Bytes that it will yield; -1: unknown.
    pub len: i64,
}

impl Body {
    /// No body.
    pub const NONE: Body = Body { data: core::ptr::null_mut(), poll: None, drop: None, len: 0 };
}

/// [`Peer::family`]: not known.
pub const PEER_UNKNOWN: u16 = 0;
/// [`Peer::family`]: a client of a Unix socket; it has no address.
pub const PEER_UNIX: u16 = 1;
/// [`Peer::family`]: IPv4; the first four bytes of `address`.
pub const PEER_IPV4: u16 = 4;
/// [`Peer::family`]: IPv6.
pub const PEER_IPV6: u16 = 6;

/// Address of the client.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// [`PEER_UNKNOWN`], [`PEER_UNIX`], [`PEER_IPV4`] or [`PEER_IPV6`].
    pub family: u16,
    /// In the byte order of the machine.
    pub port: u16,
    /// IPv6 scope id.
    pub scope: u32,
    /// Network order.
    pub address: [u8; 16],
}

impl Peer {
    /// Not known.
    pub const UNKNOWN: Peer = Peer { family: PEER_UNKNOWN, port: 0, scope: 0, address: [0; 16] };
}

/// One request. Everything but `body` is borrowed from the host until `handle` returns.
#[repr(C)]
#[derive(Debug)]
pub struct Request {
    /// `size_of::<Request>()` as the host knows it.
    pub size: u32,
    /// HTTP version: 10, 11, 20.
    pub version: u32,
    /// `GET`, …
    pub method: Str,
    /// Path and query, `*`, or the authority of CONNECT (RFC 9112 section 3.2; the absolute form is reduced to its path).
    pub target: Str,
    /// Validated by the host, names in lower case.
    pub headers: *const Header,
    /// Number of `headers`.
    pub headers_len: usize,
    /// To take it, copy it and put [`Body::NONE`] in its place; what is left here the host drops.
    pub body: Body,
    /// The client's address.
    pub peer: Peer,
}

/// One response. The host releases it once it has copied or sent what it borrows.
#[repr(C)]
#[derive(Debug)]
pub struct Response {
    /// `size_of::<Response>()` as the host knows it.
    pub size: u32,
    /// [`STATIC`] (of `bytes`) or 0.
    pub flags: u32,
    /// 100 … 999; the host refuses what HTTP does not allow a server to send here.
    pub status: u32,
    /// 0.
    pub reserved: u32,
    /// Header fields.
    pub headers: *const Header,
    /// Number of `headers`.
    pub headers_len: usize,
    /// The whole body, when `body` is [`Body::NONE`].
    /// Without `release` and [`STATIC`] it is valid until the host next calls the plugin.
    pub bytes: Str,
    /// A streamed body.
    pub body: Body,
    /// Argument of `release`.
    pub owner: *mut c_void,
    /// Frees what `headers` and `bytes` borrow (not `body`); once, any thread.
    pub release: Option<unsafe extern "C" fn(owner: *mut c_void)>,
}

impl Response {
    /// What the host passes.
    pub const EMPTY: Response = Response {
        size: size_of::<Response>() as u32,
        flags: 0,
        status: 0,
        reserved: 0,
        headers: core::ptr::null(),
        headers_len: 0,
        bytes: Str::EMPTY,
        body: Body::NONE,
        owner: core::ptr::null_mut(),
        release: None,
    };
}

/// A request that waits for something.
#[repr(C)]
#[derive(Debug)]
pub struct Call {
    /// First argument of both functions.
    pub data: *mut c_void,
    /// [`READY`] with a filled response, [`PENDING`], [`ERROR`] or [`PANIC`].
    pub poll: Option<unsafe extern "C" fn(data: *mut c_void, waker: Waker, response: *mut Response) -> i32>,
    /// Frees the call, finished or not; once, any thread.
    pub drop: Option<unsafe extern "C" fn(data: *mut c_void)>,
}

impl Call {
    /// Nothing waits.
    pub const NONE: Call = Call { data: core::ptr::null_mut(), poll: None, drop: None };
}

/// A socket that is the plugin's. It is non-blocking and stays so: other processes accept from the same socket. It must not
/// be shut down (shutdown(2) would stop those too); close(2) lets go of it.
#[repr(C)]
#[derive(Debug)]
pub struct Listener {
    /// `size_of::<Listener>()` as the host knows it.
    pub size: u32,
    /// [`SOCKET_TCP`] and the like; other numbers may come.
    pub kind: u32,
    /// The descriptor, which the plugin closes.
    pub descriptor: i32,
    /// 0.
    pub reserved: u32,
    /// Its name from the configuration.
    pub name: Str,
    /// `127.0.0.1:8080`, `[::1]:8080`, `udp://127.0.0.1:53`, `unix:/path` or `unix:@name`.
    pub address: Str,
}

/// What [`Plugin::serve`] is given. It and all that it points to live as long as the process.
#[repr(C)]
#[derive(Debug)]
pub struct Sockets {
    /// `size_of::<Sockets>()` as the host knows it.
    pub size: u32,
    /// Readable from the moment at which the plugin is told to stop, and for ever then: an eventfd to poll for `POLLIN`,
    /// not to be read and not to be closed.
    pub stop_descriptor: i32,
    /// Not 0 from that moment on. To be read atomically; any order of memory.
    pub stop_flag: *const u32,
    /// Milliseconds from then to the death of the worker.
    pub drain_timeout_ms: u64,
    /// The sockets, in the order of the configuration.
    pub listeners: *const *const Listener,
    /// Number of `listeners`.
    pub listeners_len: usize,
    /// First argument of the functions. Each may be called on any thread, as often as one likes, until `serve` returns.
    pub host: *mut c_void,
    /// The plugin accepts: from now on it counts as started. Without it no generation is promoted.
    pub ready: unsafe extern "C" fn(host: *mut c_void),
    /// The plugin, told to stop, has closed its listeners and finishes what it has begun. Returning from `serve` says so too.
    pub not_accepting: unsafe extern "C" fn(host: *mut c_void),
    /// [`READY`] if the plugin was told to stop; else [`PENDING`], and a clone of the waker is woken when it is. Every
    /// waker that was given is woken once.
    pub poll_stop: unsafe extern "C" fn(host: *mut c_void, waker: Waker) -> i32,
    /// The plugin's loop has something to do (not 0), or is about to wait (0). Who is at work and says nothing for
    /// `limits.stuck_timeout` is replaced; who never says this is not watched. One thread says it: that whose backtrace is
    /// wanted then. Cheap enough for every turn of a loop.
    ///
    /// Check `size` before this field and those that follow: hosts of before 2027 end here.
    pub at_work: Option<AtWork>,
    /// A sign of life, for loops that may be at work for long without a wait in between. [`PENDING`]; a clone of the waker
    /// is woken when the next one is wanted, about once a second while the loop is at work and never while it waits. One
    /// waker is kept, the last.
    pub poll_alive: Option<PollAlive>,
    /// Can be read from (`POLLIN`) when the worker's own loop has something to do; not to be read and not to be closed. -1
    /// unless there is [`turn`](Self::turn).
    pub worker_descriptor: i32,
    /// 0.
    pub reserved: u32,
    /// Only for a plugin with [`PLUGIN_TURNS_WORKER`], and null from a host that does not turn by it. Does what the worker's
    /// loop has to do, without waiting: [`PENDING`] when that was all until the descriptor can be read from, [`READY`] when there
    /// is more and it can be (who watches edges calls again until it is [`PENDING`]); [`ERROR`] on another thread than that of `serve`. Messages come, and the plugin is told to stop, in such calls only.
    ///
    /// It costs less than a thread beside the loop: the kernel counts references to a table of descriptors that two threads
    /// share, with every call.
    pub turn: Option<Turn>,
}

/// Type of [`Sockets::turn`].
pub type Turn = unsafe extern "C" fn(host: *mut c_void) -> i32;
/// Type of [`Sockets::at_work`].
pub type AtWork = unsafe extern "C" fn(host: *mut c_void, yes: u32);
/// Type of [`Sockets::poll_alive`].
pub type PollAlive = unsafe extern "C" fn(host: *mut c_void, waker: Waker) -> i32;

/// A message to be sent. All of it is borrowed for the call; descriptors are duplicated.
#[repr(C)]
#[derive(Debug)]
pub struct Letter {
    /// `size_of::<Letter>()` as the plugin knows it.
    pub size: u32,
    /// [`LETTER_MESSAGE`] or [`LETTER_CONNECTION`].
    pub kind: u32,
    /// [`TO_WORKER`] … [`TO_OPERATOR`].
    pub to: u32,
    /// See [`TO_SLOT`].
    pub slot: u32,
    /// See [`TO_WORKER`].
    pub worker: u64,
    /// UTF-8.
    pub service: Str,
    /// JSON by custom (UTF-8), or what was read of a connection.
    pub payload: Str,
    /// Open descriptors.
    pub descriptors: *const i32,
    /// Number of `descriptors`.
    pub descriptors_len: usize,
}

/// A message that was sent and not yet taken.
#[repr(C)]
#[derive(Debug)]
pub struct Sending {
    /// First argument of both functions.
    pub data: *mut c_void,
    /// [`READY`]: every receiver's plugin has it. [`PENDING`], or one of [`SEND_GONE`] and its like.
    pub poll: Option<unsafe extern "C" fn(data: *mut c_void, waker: Waker) -> i32>,
    /// Frees it, finished or not, which changes nothing about the message; once, any thread.
    pub drop: Option<unsafe extern "C" fn(data: *mut c_void)>,
}

impl Sending {
    /// What a caller of [`Host::send`] passes.
    pub const NONE: Sending = Sending { data: core::ptr::null_mut(), poll: None, drop: None };
}

/// A message that came. Texts are valid until it is released; the descriptors belong to the plugin from the start.
#[repr(C)]
#[derive(Debug)]
pub struct Arrival {
    /// `size_of::<Arrival>()` as the plugin knows it.
    pub size: u32,
    /// [`FROM_WORKER`] or [`FROM_OPERATOR`].
    pub from: u32,
    /// Id of the worker that sent it.
    pub worker: u64,
    /// Its place in its service.
    pub slot: u32,
    /// 0.
    pub reserved: u32,
    /// Its service.
    pub service: Str,
    /// The message: JSON by custom, which the host does not check.
    pub payload: Str,
    /// Open descriptors, close-on-exec.
    pub descriptors: *const i32,
    /// Number of `descriptors`.
    pub descriptors_len: usize,
    /// Argument of `release`.
    pub owner: *mut c_void,
    /// Frees what the texts borrow; once, any thread.
    pub release: Option<unsafe extern "C" fn(owner: *mut c_void)>,
}

impl Arrival {
    /// What a caller of [`Host::receive`] passes.
    pub const EMPTY: Arrival = Arrival {
        size: size_of::<Arrival>() as u32,
        from: 0,
        worker: 0,
        slot: 0,
        reserved: 0,
        service: Str::EMPTY,
        payload: Str::EMPTY,
        descriptors: core::ptr::null(),
        descriptors_len: 0,
        owner: core::ptr::null_mut(),
        release: None,
    };
}

/// Type of [`Host::send`].
pub type SendLetter = unsafe extern "C" fn(letter: *const Letter, sending: *mut Sending) -> i32;
/// Type of [`Host::receive`].
pub type ReceiveMessage = unsafe extern "C" fn(waker: Waker, arrival: *mut Arrival) -> i32;

/// What the host offers. Given to `init`; it and all that it points to live as long as the process.
#[repr(C)]
#[derive(Debug)]
pub struct Host {
    /// The host's [`ABI`].
    pub abi: u32,
    /// `size_of::<Host>()` as the host knows it.
    pub size: u32,
    /// The service's `config:` as JSON text (UTF-8).
    pub config: Str,
    /// Name of the service.
    pub service: Str,
    /// Id of the worker, never reused by its master.
    pub worker: u64,
    /// Generation of the service.
    pub generation: u64,
    /// Place among the service's workers, from 0; a replacement inherits it.
    pub slot: u32,
    /// 0.
    pub reserved: u32,
    /// The table of every waker that the host passes.
    pub wakers: *const WakerVtable,
    /// Writes one line to the log; any thread. `level` is [`LOG_ERROR`] … [`LOG_DEBUG`].
    pub log: unsafe extern "C" fn(level: u32, message: Str, fields: *const Header, fields_len: usize),
    /// Sends a message; any thread. [`PENDING`] with a filled [`Sending`], or a negative code, and nothing was sent.
    /// Messages of one thread to one worker arrive in the order of the calls.
    ///
    /// Check `size` before this field and those that follow: hosts of before 2027 end here.
    pub send: Option<SendLetter>,
    /// The next message; any thread, one at a time. [`READY`] with a filled arrival, [`PENDING`] or [`END`]: this
    /// host has none. From the first call on the worker receives messages; before it they are refused.
    pub receive: Option<ReceiveMessage>,
}

/// Type of [`Plugin::init`].
pub type Init = unsafe extern "C" fn(host: *const Host, state: *mut *mut c_void, error: *mut Chunk) -> i32;
/// Type of [`Plugin::handle`].
pub type Handle = unsafe extern "C" fn(
    state: *mut c_void,
    request: *mut Request,
    waker: Waker,
    response: *mut Response,
    call: *mut Call,
) -> i32;
/// Type of [`Plugin::serve`].
pub type Serve = unsafe extern "C" fn(state: *mut c_void, sockets: *const Sockets, error: *mut Chunk) -> i32;
/// Type of [`Plugin::drop`].
pub type DropState = unsafe extern "C" fn(state: *mut c_void);

/// The descriptor: a constant, exported under the name [`SYMBOL`].
///
/// Everything before `init` is plain data without pointers: readable from the file, before any relocation.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Plugin {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`ABI`] that the plugin was built for.
    pub abi: u32,
    /// `size_of::<Plugin>()` as the plugin knows it; at least [`PLUGIN_FIRST`].
    pub size: u32,
    /// [`KIND_HTTP`] or [`KIND_SOCKET`].
    pub kind: u32,
    /// [`PLUGIN_PANIC_ABORTS`] and [`PLUGIN_TURNS_WORKER`], or 0.
    pub flags: u32,
    /// UTF-8, padded with zeros.
    pub name: [u8; 64],
    /// UTF-8, padded with zeros.
    pub version: [u8; 32],
    /// Called once before everything else: [`READY`], or [`ERROR`] with the reason as the bytes of `error`.
    pub init: Option<Init>,
    /// Begins a request and polls it for the first time: [`READY`] with a filled response, [`PENDING`] with a
    /// filled call, [`ERROR`] or [`PANIC`]. Called by one thread at a time. Of kind [`KIND_HTTP`] only.
    pub handle: Option<Handle>,
    /// Called once after everything else; the process exits after it.
    pub drop: Option<DropState>,
    /// Serves until it is told to stop, then [`READY`]; or [`ERROR`] with the reason as the bytes of `error`, or [`PANIC`].
    /// Called once. Of kind [`KIND_SOCKET`] only. Younger than the first version: an old descriptor ends before it.
    pub serve: Option<Serve>,
}

/// Bytes of a [`Plugin`] of the first version, which had no sockets.
pub const PLUGIN_FIRST: usize = core::mem::offset_of!(Plugin, serve);

/// `text` padded with zeros, cut off at a character's border when it is too long.
pub const fn padded<const N: usize>(text: &str) -> [u8; N] {
    let bytes = text.as_bytes();
    let mut len = bytes.len();
    if len > N {
        len = N;
        while bytes[len] & 0xC0 == 0x80 {
            len -= 1;
        }
    }
    let mut out = [0; N];
    let mut at = 0;
    while at < len {
        out[at] = bytes[at];
        at += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::padded;

    #[test]
    fn a_name_that_does_not_fit_is_cut_between_characters() {
        assert_eq!(padded::<4>("ab"), *b"ab\0\0");
        assert_eq!(padded::<4>("abcd"), *b"abcd");
        assert_eq!(&padded::<4>("abcé"), b"abc\0");
    }
}
