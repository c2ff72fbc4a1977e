//! What a response leaves behind for the next request of its thread: header maps and the memory that exported
//! responses live in. It saves most of a small request's allocations.

use std::cell::Cell;

use http::HeaderMap;

use super::outgoing::Head;

/// Most fields for which memory is kept.
pub(super) const FIELDS: usize = 64;

struct Spare {
    map: Cell<Option<HeaderMap>>,
    head: Cell<Option<Box<Head>>>,
}

thread_local! {
    static SPARE: Spare = const { Spare { map: Cell::new(None), head: Cell::new(None) } };
}

/// An empty map.
pub(super) fn take_map() -> HeaderMap {
    SPARE.try_with(|spare| spare.map.take()).ok().flatten().unwrap_or_default()
}

/// Keeps a map that nobody needs. Its values are dropped here.
pub(super) fn keep_map(mut map: HeaderMap) {
    if map.capacity() <= FIELDS {
        map.clear();
        // Where the thread is about to end, it is dropped.
        let _ = SPARE.try_with(|spare| spare.map.set(Some(map)));
    }
}

/// Memory for a response's head.
pub(super) fn take_head() -> Option<Box<Head>> {
    SPARE.try_with(|spare| spare.head.take()).ok().flatten()
}

/// Keeps the memory of a head that holds nothing any more.
pub(super) fn keep_head(head: Box<Head>) {
    // As above.
    let _ = SPARE.try_with(|spare| spare.head.set(Some(head)));
}
