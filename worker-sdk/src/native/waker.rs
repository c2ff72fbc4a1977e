//! Wakers across the border: the host's for our futures, ours for the host's bodies.
//!
//! A waker of the host's is nothing but its `data` on our side, because the host promises one table for all of them.

use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::task::{Context, RawWaker, RawWakerVTable, Waker};

use super::{abi, guard, host, release};

/// The host's table. Wakers exist only after `init`.
fn table() -> &'static abi::WakerVtable {
    static NONE: abi::WakerVtable =
        abi::WakerVtable { clone: clone_ours, wake: wake_ours, wake_by_ref: wake_ours_by_ref, drop: drop_ours };
    match host() {
        // SAFETY: never null and alive as long as the process, by the host table's contract.
        Some(host) => unsafe { &*host.0.wakers },
        None => &NONE,
    }
}

static IMPORTED: RawWakerVTable = RawWakerVTable::new(
    |data| {
        // SAFETY: `data` is a waker of the host's, borrowed or owned; `clone` makes an owned one.
        let owned = unsafe { (table().clone)(data.cast()) };
        RawWaker::new(owned.data.cast(), &IMPORTED)
    },
    // SAFETY: an owned waker of the host's, consumed.
    |data| unsafe { (table().wake)(data.cast()) },
    // SAFETY: a waker of the host's, borrowed or owned.
    |data| unsafe { (table().wake_by_ref)(data.cast()) },
    // SAFETY: an owned waker of the host's, consumed.
    |data| unsafe { (table().drop)(data.cast()) },
);

/// Polls with a waker that the host lends for the call.
pub(super) fn with_context<R>(waker: abi::Waker, work: impl FnOnce(&mut Context<'_>) -> R) -> R {
    // Not dropped: it is borrowed.
    // SAFETY: `data` is valid for the call, and IMPORTED's functions do with it what `RawWaker` demands; clones are owned.
    let waker = ManuallyDrop::new(unsafe { Waker::from_raw(RawWaker::new(waker.data.cast(), &IMPORTED)) });
    work(&mut Context::from_waker(&waker))
}

static EXPORTED: abi::WakerVtable =
    abi::WakerVtable { clone: clone_ours, wake: wake_ours, wake_by_ref: wake_ours_by_ref, drop: drop_ours };

/// Lends a waker to the host for a call; its own go back as they came.
pub(super) fn lend(waker: &Waker) -> abi::Waker {
    if std::ptr::eq(waker.vtable(), &IMPORTED) {
        abi::Waker { data: waker.data().cast(), vtable: table() }
    } else {
        abi::Waker { data: (&raw const *waker).cast(), vtable: &EXPORTED }
    }
}

// `data` is a `*const Waker`: on our stack while it is lent, in a box once it was cloned.

unsafe extern "C" fn clone_ours(data: *const c_void) -> abi::Waker {
    let mut cloned = Waker::noop().clone();
    guard(|| {
        // SAFETY: see above; alive for the call.
        cloned = unsafe { &*data.cast::<Waker>() }.clone();
        abi::READY
    });
    abi::Waker { data: Box::into_raw(Box::new(cloned)).cast_const().cast(), vtable: &EXPORTED }
}

unsafe extern "C" fn wake_ours(data: *const c_void) {
    guard(|| {
        // SAFETY: owned, so it is the box of `clone_ours`, consumed once.
        unsafe { Box::from_raw(data.cast::<Waker>().cast_mut()) }.wake();
        abi::READY
    });
}

unsafe extern "C" fn wake_ours_by_ref(data: *const c_void) {
    guard(|| {
        // SAFETY: see above; alive for the call.
        unsafe { &*data.cast::<Waker>() }.wake_by_ref();
        abi::READY
    });
}

unsafe extern "C" fn drop_ours(data: *const c_void) {
    // SAFETY: owned, so it is the box of `clone_ours`, consumed once.
    release(unsafe { Box::from_raw(data.cast::<Waker>().cast_mut()) });
}
