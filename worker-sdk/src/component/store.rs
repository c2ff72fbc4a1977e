//! `wasi:config/store@0.2.0-rc.1`, the one interface that the `wasip2` crate does not bind: one function, by hand.
//!
//! A component imports it only if the plugin calls [`crate::config`]. `wit/config.wit` holds the world.

#![expect(unsafe_code, reason = "a raw import of the canonical ABI")]

use std::alloc::{Layout, dealloc};

use super::post::List;

/// `wit/config.wit` in binary: tells the component linker what the import below means.
#[unsafe(link_section = "component-type:launcher-sdk-config")]
#[used]
static WORLD: [u8; WORLD_TEXT.len()] = *WORLD_TEXT;

const WORLD_TEXT: &[u8; 257] = b"\
\x00asm\x0d\x00\x01\x00\x00\x19\x16wit-component-encoding\x04\x00\x07\x9c\x01\x01A\x02\x01A\x02\x01B\
\x0b\x01q\x02\x08upstream\x01s\x00\x02io\x01s\x00\x04\x00\x05error\x03\x00\x00\x01ks\x01j\x01\x02\
\x01\x01\x01@\x01\x03keys\x00\x03\x04\x00\x03get\x01\x04\x01o\x02ss\x01p\x05\x01j\x01\x06\x01\x01\
\x01@\x00\x00\x07\x04\x00\x07get-all\x01\x08\x03\x00\x1cwasi:config/store@0.2.0-rc.1\x05\x00\x04\x00\
\x13launcher:sdk/config\x04\x00\x0b\x0c\x01\x00\x06config\x03\x00\x00\x00/\x09producers\x01\x0cproce\
ssed-by\x01\x0dwit-component\x070.254.2";

#[link(wasm_import_module = "wasi:config/store@0.2.0-rc.1")]
unsafe extern "C" {
    /// `get-all: func() -> result<list<tuple<string, string>>, error>`, lowered: the result is written to `out`.
    #[link_name = "get-all"]
    fn get_all_raw(out: *mut Outcome);
}

/// The result in memory: a discriminant, then the larger of the two payloads.
#[repr(C)]
struct Outcome {
    /// 0: `ok`, 1: `err`.
    is_err: u8,
    payload: Payload,
}

#[repr(C)]
#[derive(Clone, Copy)]
union Payload {
    /// `ok`: the list.
    pairs: List<Pair>,
    /// `err`: a variant whose cases both hold a text.
    error: ErrorText,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct ErrorText {
    _case: u32,
    reason: List<u8>,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Pair {
    key: List<u8>,
    value: List<u8>,
}

/// A text of the host's.
///
/// # Safety
/// A list that the host returned, taken once.
unsafe fn text(list: List<u8>) -> String {
    // SAFETY: as this function's own requirement.
    String::from_utf8_lossy(&unsafe { list.take() }).into_owned()
}

/// Every top-level key of the service's `config:` with its value as text.
///
/// # Errors
/// What the host says.
pub(crate) fn get_all() -> Result<Vec<(String, String)>, String> {
    let mut outcome = Outcome { is_err: 0, payload: Payload { pairs: List::EMPTY } };
    // SAFETY: room for the result as the canonical ABI lays it out.
    unsafe { get_all_raw(&raw mut outcome) };
    if outcome.is_err != 0 {
        // SAFETY: the discriminant says that the host wrote this one.
        let ErrorText { reason, .. } = unsafe { outcome.payload.error };
        // SAFETY: just returned, taken once.
        return Err(unsafe { text(reason) });
    }
    // SAFETY: the discriminant says that the host wrote this one.
    let list = unsafe { outcome.payload.pairs };
    let mut pairs = Vec::with_capacity(list.len);
    for index in 0..list.len {
        // SAFETY: within the list that the host wrote.
        let pair = unsafe { list.pointer.add(index).read() };
        // SAFETY: each text is taken once: the list itself is freed below without its elements.
        pairs.push(unsafe { (text(pair.key), text(pair.value)) });
    }
    if let (Ok(layout), true) = (Layout::array::<Pair>(list.len), list.len > 0) {
        // SAFETY: allocated by `cabi_realloc`, which is our allocator, with this layout; freed once.
        unsafe { dealloc(list.pointer.cast(), layout) };
    }
    Ok(pairs)
}
