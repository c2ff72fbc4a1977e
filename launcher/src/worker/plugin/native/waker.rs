//! Wakers across the border: the worker's for a plugin's calls and bodies, a plugin's for request bodies.

use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::task::{Context, RawWaker, RawWakerVTable, Waker};

use worker_sdk::abi;

use super::owned::guard;

/// The table of every waker that a plugin gets. `data` is a `*const Waker`: ours while it is lent, a box once cloned.
pub(super) static TABLE: abi::WakerVtable = abi::WakerVtable { clone, wake, wake_by_ref, drop: drop_owned };

/// Lends a waker for one call.
pub(super) fn lend(waker: &Waker) -> abi::Waker {
    abi::Waker { data: (&raw const *waker).cast(), vtable: &raw const TABLE }
}

unsafe extern "C" fn clone(data: *const c_void) -> abi::Waker {
    // SAFETY: a borrowed or owned waker of ours, alive for the call. `Waker::clone` of tokio does not panic; if
    // another did, the abort of an `extern "C"` function is the only answer that this signature leaves.
    let owned = Box::new(unsafe { &*data.cast::<Waker>() }.clone());
    abi::Waker { data: Box::into_raw(owned).cast_const().cast(), vtable: &raw const TABLE }
}

unsafe extern "C" fn wake(data: *const c_void) {
    guard(|| {
        // SAFETY: an owned waker is the box that `clone` leaked, consumed once.
        unsafe { Box::from_raw(data.cast::<Waker>().cast_mut()) }.wake();
        abi::READY
    });
}

unsafe extern "C" fn wake_by_ref(data: *const c_void) {
    guard(|| {
        // SAFETY: a borrowed or owned waker of ours, alive for the call.
        unsafe { &*data.cast::<Waker>() }.wake_by_ref();
        abi::READY
    });
}

unsafe extern "C" fn drop_owned(data: *const c_void) {
    guard(|| {
        // SAFETY: an owned waker is the box that `clone` leaked, consumed once.
        drop(unsafe { Box::from_raw(data.cast::<Waker>().cast_mut()) });
        abi::READY
    });
}

/// Wakers that a plugin made: `data` is a `*const abi::Waker`, on our stack while borrowed, a box once cloned.
static FOREIGN: RawWakerVTable = RawWakerVTable::new(
    |data| {
        // SAFETY: see above. The plugin's `clone` makes an owned waker, which the box keeps.
        let waker = unsafe { *data.cast::<abi::Waker>() };
        // SAFETY: its table is never null and lives as long as the process.
        let owned = unsafe { ((*waker.vtable).clone)(waker.data) };
        RawWaker::new(Box::into_raw(Box::new(owned)).cast_const().cast(), &FOREIGN)
    },
    |data| {
        // SAFETY: an owned one is a box of ours, consumed once.
        let waker = unsafe { Box::from_raw(data.cast::<abi::Waker>().cast_mut()) };
        // SAFETY: owned, consumed once.
        unsafe { ((*waker.vtable).wake)(waker.data) }
    },
    |data| {
        // SAFETY: see above; alive for the call.
        let waker = unsafe { *data.cast::<abi::Waker>() };
        // SAFETY: borrowed or owned; not consumed.
        unsafe { ((*waker.vtable).wake_by_ref)(waker.data) }
    },
    |data| {
        // SAFETY: an owned one is a box of ours, consumed once.
        let waker = unsafe { Box::from_raw(data.cast::<abi::Waker>().cast_mut()) };
        // SAFETY: owned, consumed once.
        unsafe { ((*waker.vtable).drop)(waker.data) }
    },
);

/// Polls something of ours with a waker that a plugin lends for the call: often our own, coming back.
pub(super) fn with_context<R>(waker: abi::Waker, work: impl FnOnce(&mut Context<'_>) -> R) -> R {
    if std::ptr::eq(waker.vtable, &raw const TABLE) {
        // SAFETY: with our table `data` is a waker of ours, alive for the call.
        let waker = unsafe { &*waker.data.cast::<Waker>() };
        return work(&mut Context::from_waker(waker));
    }
    if waker.vtable.is_null() {
        return work(&mut Context::from_waker(Waker::noop()));
    }
    let raw = RawWaker::new((&raw const waker).cast(), &FOREIGN);
    // SAFETY: FOREIGN's functions do what `RawWaker` demands; `waker` outlives the context, and is not dropped as an
    // owned one (ManuallyDrop), because it is borrowed.
    let lent = ManuallyDrop::new(unsafe { Waker::from_raw(raw) });
    work(&mut Context::from_waker(&lent))
}
