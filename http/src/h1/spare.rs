//! A free list of byte buffers, one for each thread, so that connections own none while they are idle.

use std::cell::RefCell;

/// 8 buffers: as many connections as are in the middle of something in one turn; with the largest ones that is 1 MiB for each thread. The rest is given back to the allocator.
const KEEP: usize = 8;
/// Larger ones are not kept: one burst must not pin memory.
const KEEP_CAPACITY: usize = 128 * 1024;
/// A response head with a small body fits without growing.
const FRESH_CAPACITY: usize = 4096;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with some capacity.
pub fn take() -> Vec<u8> {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(FRESH_CAPACITY))
}

/// Takes a buffer back; its content is dropped.
pub fn give(mut buffer: Vec<u8>) {
    if buffer.capacity() == 0 || buffer.capacity() > KEEP_CAPACITY {
        return;
    }
    buffer.clear();
    SPARE.with_borrow_mut(|s| {
        if s.len() < KEEP {
            s.push(buffer);
        }
    });
}

/// Makes sure that `buffer` has memory, from the list when it has none.
#[inline]
pub(crate) fn ensure(buffer: &mut Vec<u8>) {
    if buffer.capacity() == 0 {
        *buffer = take();
    }
}

/// Gives an empty buffer's memory back.
#[inline]
pub(crate) fn release(buffer: &mut Vec<u8>) {
    if buffer.is_empty() && buffer.capacity() > 0 {
        give(std::mem::take(buffer));
    }
}
