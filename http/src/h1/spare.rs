//! Free lists of byte buffers, two for each thread, so that connections own none while they are idle: large ones for output, small ones for what
//! waits for its rest (the head of a slow client, of which there may be 10,000).

use std::cell::RefCell;

/// 8 buffers: as many connections as are in the middle of something in one turn; with the largest ones that is 1 MiB for each thread. The rest is given back to the allocator.
const KEEP: usize = 8;
/// Larger ones are not kept: one burst must not pin memory.
const KEEP_CAPACITY: usize = 128 * 1024;
/// A response head with a small body fits without growing.
const FRESH_CAPACITY: usize = 4096;
/// The head of a request of curl or wrk fits; 10,000 of them are 5 MB.
const SMALL_CAPACITY: usize = 512;

type List = RefCell<Vec<Vec<u8>>>;

thread_local! {
    static SPARE: List = const { RefCell::new(Vec::new()) };
    static SMALL: List = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with some capacity.
pub fn take() -> Vec<u8> {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(FRESH_CAPACITY))
}

/// Takes a buffer back; its content is dropped.
pub fn give(mut buffer: Vec<u8>) {
    let capacity = buffer.capacity();
    let keep = |list: &mut Vec<Vec<u8>>| {
        if list.len() < KEEP {
            buffer.clear();
            list.push(buffer);
        }
    };
    match capacity {
        SMALL_CAPACITY..FRESH_CAPACITY => SMALL.with_borrow_mut(keep),
        FRESH_CAPACITY..=KEEP_CAPACITY => SPARE.with_borrow_mut(keep),
        _ => {}
    }
}

/// Makes sure that `buffer` has memory, from the list when it has none.
#[inline]
pub(crate) fn ensure(buffer: &mut Vec<u8>) {
    if buffer.capacity() == 0 {
        *buffer = take();
    }
}

/// The same, for bytes that wait and may be few.
#[inline]
pub(crate) fn ensure_small(buffer: &mut Vec<u8>) {
    if buffer.capacity() == 0 {
        *buffer = SMALL.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(SMALL_CAPACITY));
    }
}

/// Gives an empty buffer's memory back.
#[inline]
pub(crate) fn release(buffer: &mut Vec<u8>) {
    if buffer.is_empty() && buffer.capacity() > 0 {
        give(std::mem::take(buffer));
    }
}
