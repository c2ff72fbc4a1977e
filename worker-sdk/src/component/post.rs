//! `launcher:messages@0.1.0`, by hand: what a plugin sends to other workers and to the operator, and what comes to it.
//!
//! A component imports it only if the plugin sends, or asks for messages. `wit/messages` holds the world.

#![expect(unsafe_code, reason = "raw imports of the canonical ABI")]

use std::task::{Context, Poll};

use wasip2::io::poll::Pollable;

use super::executor::Wait;
use crate::messages::{From, Message, Reason, Receiver};

/// `wit/messages` in binary: tells the component linker what the imports below mean.
#[unsafe(link_section = "component-type:launcher-sdk-messages")]
#[used]
static WORLD: [u8; WORLD_TEXT.len()] = *WORLD_TEXT;

const WORLD_TEXT: &[u8; 861] = b"\
\x00asm\x0d\x00\x01\x00\x00\x19\x16wit-component-encoding\x04\x00\x07\xf7\x05\x01A\x02\x01A\x05\x01B\x0a\
\x04\x00\x08pollable\x03\x01\x01h\x00\x01@\x01\x04self\x01\x00\x7f\x04\x00\x16[method]pollable.ready\x01\x02\
\x01@\x01\x04self\x01\x01\x00\x04\x00\x16[method]pollable.block\x01\x03\x01p\x01\x01py\x01@\x01\x02in\x04\x00\
\x05\x04\x00\x04poll\x01\x06\x03\x00\x12wasi:io/poll@0.2.0\x05\x00\x02\x03\x00\x00\x08pollable\x01B%\x02\x03\
\x02\x01\x01\x04\x00\x08pollable\x03\x00\x00\x01o\x02sy\x01q\x05\x06worker\x01w\x00\x04slot\x01\x02\x00\x03a\
ny\x01s\x00\x05every\x01s\x00\x08operator\x00\x00\x04\x00\x08receiver\x03\x00\x03\x01m\x07\x09too-large\x06n\
obody\x04gone\x0anot-wanted\x07no-room\x03bad\x09not-ready\x04\x00\x06reason\x03\x00\x05\x04\x00\x07sending\x03\
\x01\x01r\x03\x02idw\x07services\x04sloty\x04\x00\x04peer\x03\x00\x08\x01q\x02\x06worker\x01\x09\x00\x08oper\
ator\x00\x00\x04\x00\x06sender\x03\x00\x0a\x01p}\x01r\x02\x06sender\x0b\x07payload\x0c\x04\x00\x07message\x03\
\x00\x0d\x04\x00\x05inbox\x03\x01\x01h\x07\x01i\x01\x01@\x01\x04self\x10\x00\x11\x04\x00\x19[method]sending.\
subscribe\x01\x12\x01j\x00\x01\x06\x01k\x13\x01@\x01\x04self\x10\x00\x14\x04\x00\x17[method]sending.outcome\x01\
\x15\x01i\x0f\x01@\x00\x00\x16\x04\x00\x12[constructor]inbox\x01\x17\x01h\x0f\x01@\x01\x04self\x18\x00\x11\x04\
\x00\x17[method]inbox.subscribe\x01\x19\x01k\x0e\x01@\x01\x04self\x18\x00\x1a\x04\x00\x12[method]inbox.next\x01\
\x1b\x01i\x07\x01j\x01\x1c\x01\x06\x01@\x02\x02to\x04\x07payload\x0c\x00\x1d\x04\x00\x04send\x01\x1e\x03\x00\
\x20launcher:messages/messages@0.1.0\x05\x02\x04\x00\x1flauncher:messages/talking@0.1.0\x04\x00\x0b\x0d\x01\x00\
\x07talking\x03\x00\x00\x00/\x09producers\x01\x0cprocessed-by\x01\x0dwit-component\x070.254.2";

#[link(wasm_import_module = "launcher:messages/messages@0.1.0")]
unsafe extern "C" {
    /// `send: func(to: receiver, payload: list<u8>) -> result<sending, reason>`, lowered: the case of the receiver and what
    /// the cases hold, joined; the result is written to `out`.
    #[link_name = "send"]
    fn send_raw(case: u32, first: u64, second: usize, third: u32, payload: *const u8, len: usize, out: *mut Sent);
    #[link_name = "[method]sending.subscribe"]
    fn sending_subscribe(sending: u32) -> u32;
    #[link_name = "[method]sending.outcome"]
    fn sending_outcome(sending: u32, out: *mut Outcome);
    #[link_name = "[resource-drop]sending"]
    fn sending_drop(sending: u32);
    #[link_name = "[constructor]inbox"]
    fn inbox_new() -> u32;
    #[link_name = "[method]inbox.subscribe"]
    fn inbox_subscribe(inbox: u32) -> u32;
    #[link_name = "[method]inbox.next"]
    fn inbox_next(inbox: u32, out: *mut Next);
    #[link_name = "[resource-drop]inbox"]
    fn inbox_drop(inbox: u32);
}

/// `result<sending, reason>` in memory.
#[repr(C)]
struct Sent {
    /// 0: `ok`, 1: `err`.
    is_err: u8,
    /// The handle, or in its first byte the number of the reason.
    payload: u32,
}

/// `option<result<_, reason>>` in memory.
#[repr(C)]
struct Outcome {
    is_some: u8,
    is_err: u8,
    reason: u8,
}

/// `option<message>` in memory.
#[repr(C)]
struct Next {
    is_some: u8,
    /// The case of the sender, 0: a worker, whose place in memory the other case leaves as it is.
    sender: SenderCase,
    payload: List<u8>,
}

#[repr(C, align(8))]
struct SenderCase {
    case: u8,
    peer: Peer,
}

#[repr(C)]
struct Peer {
    id: u64,
    service: List<u8>,
    slot: u32,
}

/// `list<T>` in memory.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct List<T> {
    pub(super) pointer: *mut T,
    pub(super) len: usize,
}

impl<T> List<T> {
    pub(super) const EMPTY: Self = List { pointer: std::ptr::null_mut(), len: 0 };
}

impl List<u8> {
    /// Takes the bytes, which the host has allocated with our allocator (`cabi_realloc`).
    ///
    /// # Safety
    /// A list that the host returned, taken once.
    pub(super) unsafe fn take(self) -> Vec<u8> {
        if self.len == 0 {
            return Vec::new();
        }
        // SAFETY: allocated by `cabi_realloc`, which is our allocator, with this length and alignment 1; taken once.
        unsafe { Vec::from_raw_parts(self.pointer, self.len, self.len) }
    }
}

/// `enum reason`, in the order of its cases.
const REASONS: [Reason; 7] =
    [Reason::TooLarge, Reason::Nobody, Reason::Gone, Reason::NotWanted, Reason::NoRoom, Reason::Bad, Reason::NotReady];

fn reason(number: u8) -> Reason {
    REASONS.get(usize::from(number)).copied().unwrap_or(Reason::Bad)
}

/// Makes a pollable of its handle.
fn pollable(handle: u32) -> Pollable {
    // SAFETY: the host has just given it to this instance, and nothing else has it.
    unsafe { Pollable::from_handle(handle) }
}

/// A message that was sent; dropped, it changes nothing.
#[derive(Debug)]
pub(crate) struct Sending {
    // Dropped first: a host traps when a resource goes before what came from it.
    wait: Option<Wait>,
    handle: SendingHandle,
}

#[derive(Debug)]
struct SendingHandle(u32);

impl Drop for SendingHandle {
    fn drop(&mut self) {
        // SAFETY: this instance's, dropped once.
        unsafe { sending_drop(self.0) }
    }
}

/// Sends; otherwise why not.
pub(crate) fn send(to: &Receiver, payload: &[u8]) -> Result<Sending, Reason> {
    let text = |text: &str| (text.as_ptr().addr() as u64, text.len());
    let (case, (first, second), third) = match to {
        Receiver::Worker(worker) => (0, (*worker, 0), 0),
        Receiver::Slot(service, slot) => (1, text(service), *slot),
        Receiver::Any(service) => (2, text(service), 0),
        Receiver::Every(service) => (3, text(service), 0),
        Receiver::Operator => (4, (0, 0), 0),
    };
    let mut sent = Sent { is_err: 0, payload: 0 };
    // SAFETY: what is pointed to lives for the call; room for the result as the canonical ABI lays it out.
    unsafe { send_raw(case, first, second, third, payload.as_ptr(), payload.len(), &raw mut sent) };
    match sent.is_err {
        0 => Ok(Sending { wait: None, handle: SendingHandle(sent.payload) }),
        _ => Err(reason(sent.payload.to_le_bytes()[0])),
    }
}

impl Sending {
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        let mut outcome = Outcome { is_some: 0, is_err: 0, reason: 0 };
        // SAFETY: this instance's handle; room for the result as the canonical ABI lays it out.
        unsafe { sending_outcome(self.handle.0, &raw mut outcome) };
        if outcome.is_some != 0 {
            self.wait = None;
            return Poll::Ready(if outcome.is_err == 0 { Ok(()) } else { Err(reason(outcome.reason)) });
        }
        // SAFETY: this instance's handle.
        let subscribe = || Wait::new(pollable(unsafe { sending_subscribe(self.handle.0) }));
        self.wait.get_or_insert_with(subscribe).arm(context);
        Poll::Pending
    }
}

/// The messages of this worker.
#[derive(Debug)]
pub(crate) struct Inbox {
    // Dropped first, as above.
    wait: Option<Wait>,
    handle: InboxHandle,
}

#[derive(Debug)]
struct InboxHandle(u32);

impl Drop for InboxHandle {
    fn drop(&mut self) {
        // SAFETY: this instance's, dropped once.
        unsafe { inbox_drop(self.0) }
    }
}

impl Inbox {
    /// From now on messages are received.
    pub(crate) fn open() -> Inbox {
        // SAFETY: it has no requirement.
        Inbox { wait: None, handle: InboxHandle(unsafe { inbox_new() }) }
    }

    /// The next message; there is always another one to wait for.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Message>> {
        let peer = Peer { id: 0, service: List::EMPTY, slot: 0 };
        let mut next = Next { is_some: 0, sender: SenderCase { case: 1, peer }, payload: List::EMPTY };
        // SAFETY: this instance's handle; room for the result as the canonical ABI lays it out.
        unsafe { inbox_next(self.handle.0, &raw mut next) };
        if next.is_some == 0 {
            // SAFETY: this instance's handle.
            let subscribe = || Wait::new(pollable(unsafe { inbox_subscribe(self.handle.0) }));
            self.wait.get_or_insert_with(subscribe).arm(context);
            return Poll::Pending;
        }
        let from = match next.sender.case {
            0 => {
                let Peer { id, service, slot } = next.sender.peer;
                // SAFETY: the case says that the host returned it; taken once.
                let service = String::from_utf8_lossy(&unsafe { service.take() }).into_owned();
                From::Worker { id, service, slot }
            }
            _ => From::Operator,
        };
        // SAFETY: the host returned it; taken once.
        let payload = unsafe { next.payload.take() };
        Poll::Ready(Some(Message { from, payload: payload.into(), descriptors: Vec::new() }))
    }
}
