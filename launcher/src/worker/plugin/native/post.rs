//! Messages across the border: what `send` and `receive` of the host's table do.
//!
//! The functions get no argument of the host's, so the worker's post office is a static; a plugin in a process without
//! one (a test) is told that there is none.

use std::ffi::c_void;
use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::{Arc, OnceLock};
use std::task::Poll;

use worker_sdk::abi;

use super::owned::guard;
use super::waker::with_context;
use crate::channel::post::Fate;
use crate::worker::post::{Delivery, Kind, Outcome, Post, Refused, Sender, Sending, To};

static POST: OnceLock<Arc<Post>> = OnceLock::new();

/// Plugins of this process send and receive here.
pub(in crate::worker) fn connect(post: &Arc<Post>) {
    let _ = POST.set(Arc::clone(post));
}

pub(super) unsafe extern "C" fn send(letter: *const abi::Letter, sending: *mut abi::Sending) -> i32 {
    guard(|| {
        let Some(post) = POST.get() else { return abi::SEND_NOT_READY };
        // SAFETY: the plugin's, and constant for the call; its size is the first field of every version.
        let letter = match letter.is_null() || unsafe { (*letter).size as usize } < size_of::<abi::Letter>() {
            true => return abi::SEND_BAD,
            // SAFETY: as above, and as large as our type.
            false => unsafe { &*letter },
        };
        let Some(read) = read(letter) else { return abi::SEND_BAD };
        let (to, kind, payload, descriptors) = match read {
            Ok(read) => read,
            Err(code) => return code,
        };
        match post.send(to, kind, payload, descriptors) {
            Ok(sent) => {
                let data = Box::into_raw(Box::new(sent)).cast();
                // SAFETY: the plugin lends it to be filled.
                unsafe { sending.write(abi::Sending { data, poll: Some(poll), drop: Some(drop_sending) }) };
                abi::PENDING
            }
            Err(Refused::TooLarge) => abi::SEND_TOO_LARGE,
            Err(Refused::Bad) => abi::SEND_BAD,
            Err(Refused::NotReady) => abi::SEND_NOT_READY,
        }
    })
}

type Read = (To, Kind, Vec<u8>, Vec<OwnedFd>);

/// `None`: it breaks the contract.
fn read(letter: &abi::Letter) -> Option<Result<Read, i32>> {
    // SAFETY: constant for the call, by the contract.
    let (service, payload) = unsafe { (letter.service.get()?, letter.payload.get()?) };
    let service = || std::str::from_utf8(service).ok().map(str::to_owned);
    let to = match letter.to {
        abi::TO_WORKER => To::Worker(letter.worker),
        abi::TO_SLOT => To::Slot(service()?, letter.slot),
        abi::TO_ANY => To::Any(service()?),
        abi::TO_EVERY => To::Every(service()?),
        abi::TO_OPERATOR => To::Operator,
        _ => return None,
    };
    let kind = match letter.kind {
        abi::LETTER_MESSAGE => Kind::Message,
        abi::LETTER_CONNECTION => Kind::Connection,
        _ => return None,
    };
    // Before anything is allocated for them.
    let most = crate::channel::post::DESCRIPTORS_MAX;
    if letter.descriptors_len > most || payload.len() > crate::channel::post::MESSAGE_MAX {
        return Some(Err(abi::SEND_TOO_LARGE));
    }
    let numbers: &[RawFd] = match letter.descriptors_len {
        0 => &[],
        _ if letter.descriptors.is_null() || !letter.descriptors.is_aligned() => return None,
        // SAFETY: not null and aligned; by the contract that many numbers, constant for the call.
        length => unsafe { std::slice::from_raw_parts(letter.descriptors, length) },
    };
    let mut descriptors = Vec::with_capacity(numbers.len());
    for number in numbers {
        if *number < 0 {
            return None;
        }
        // SAFETY: the plugin says that it is open during the call; if it is not, the duplication fails.
        let descriptor = unsafe { BorrowedFd::borrow_raw(*number) };
        match descriptor.try_clone_to_owned() {
            Ok(descriptor) => descriptors.push(descriptor),
            Err(error) if crate::sys::passing::is_full(&error) => return Some(Err(abi::SEND_NO_ROOM)),
            Err(_) => return None,
        }
    }
    Some(Ok((to, kind, payload.to_vec(), descriptors)))
}

unsafe extern "C" fn poll(data: *mut c_void, waker: abi::Waker) -> i32 {
    guard(|| {
        // SAFETY: the box of `send`, which the plugin has not dropped yet.
        let sending = unsafe { &*data.cast_const().cast::<Sending>() };
        match with_context(waker, |context| sending.poll(context)) {
            Poll::Pending => abi::PENDING,
            Poll::Ready(Outcome::Told(Fate::Taken)) => abi::READY,
            Poll::Ready(Outcome::Told(Fate::NotWanted)) => abi::SEND_NOT_WANTED,
            Poll::Ready(Outcome::Told(Fate::NoRoom)) => abi::SEND_NO_ROOM,
            Poll::Ready(Outcome::Told(Fate::Unfit)) => abi::SEND_BAD,
            Poll::Ready(Outcome::Gone) => abi::SEND_GONE,
            Poll::Ready(Outcome::Nobody) => abi::SEND_NOBODY,
        }
    })
}

unsafe extern "C" fn drop_sending(data: *mut c_void) {
    guard(|| {
        // SAFETY: the box of `send`, dropped once.
        drop(unsafe { Box::from_raw(data.cast::<Sending>()) });
        abi::READY
    });
}

/// What an arrival borrows from.
struct Arrived {
    delivery: Delivery,
    numbers: Vec<RawFd>,
}

pub(super) unsafe extern "C" fn receive(waker: abi::Waker, arrival: *mut abi::Arrival) -> i32 {
    guard(|| {
        let Some(post) = POST.get() else { return abi::END };
        // SAFETY: the plugin lends it to be filled and has set its size, the first field of every version.
        if arrival.is_null() || unsafe { (*arrival).size as usize } < size_of::<abi::Arrival>() {
            return abi::ERROR;
        }
        let Poll::Ready(mut delivery) = with_context(waker, |context| post.receive(context)) else {
            return abi::PENDING;
        };
        // From here on they are the plugin's.
        let numbers = std::mem::take(&mut delivery.descriptors).into_iter().map(IntoRawFd::into_raw_fd).collect();
        let arrived = Box::new(Arrived { delivery, numbers });
        let (from, worker, slot, service) = match &arrived.delivery.from {
            Sender::Worker(peer) => (abi::FROM_WORKER, peer.worker, peer.slot, peer.service.as_bytes()),
            Sender::Operator => (abi::FROM_OPERATOR, 0, 0, &[][..]),
        };
        let filled = abi::Arrival {
            size: size_of::<abi::Arrival>() as u32,
            from,
            worker,
            slot,
            reserved: 0,
            service: abi::Str::new(service),
            payload: abi::Str::new(&arrived.delivery.payload),
            descriptors: arrived.numbers.as_ptr(),
            descriptors_len: arrived.numbers.len(),
            owner: std::ptr::null_mut(),
            release: Some(release),
        };
        let owner = Box::into_raw(arrived).cast();
        // SAFETY: the plugin lends it to be filled, and it is as large as our type.
        unsafe { arrival.write(abi::Arrival { owner, ..filled }) };
        abi::READY
    })
}

unsafe extern "C" fn release(owner: *mut c_void) {
    guard(|| {
        // SAFETY: the box of `receive`, released once.
        drop(unsafe { Box::from_raw(owner.cast::<Arrived>()) });
        abi::READY
    });
}
