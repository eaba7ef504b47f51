//! Recorded request bodies, for retries.
//!
//! A body streams to its endpoint while it is recorded; a retry plays back what is recorded and goes on with what arrives. 64 KiB for each
//! request and 8 MiB for the process bound the memory. When either is exceeded the recording is given up as a whole and its memory returned at
//! once: the request is committed to its attempt. Mirrors that have fallen behind read from the same recording.
//!
//! Memory is chunks of 4 KiB (a page: the usual body takes one, the largest sixteen), kept on a free list of the worker. What the process may hold is one atomic
//! that is touched once for each chunk.

use smallvec::SmallVec;
use std::{
    cell::RefCell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// Bytes of a chunk.
pub const CHUNK: usize = 4096;
/// Most bytes of one recorded body.
pub const MOST_PER_REQUEST: usize = 64 * 1024;
/// Most bytes of all recorded bodies of a process.
pub const MOST_PER_PROCESS: usize = 8 * 1024 * 1024;
/// Chunks that a worker keeps for the next recordings: 1 MiB.
const MOST_SPARE: usize = 256;

type Chunk = Box<[u8; CHUNK]>;

/// What the recordings of a process hold, and may hold.
#[derive(Debug)]
pub struct ReplayBudget {
    limit: usize,
    held: AtomicUsize,
}
impl ReplayBudget {
    pub fn new(limit: usize) -> Self {
        Self { limit, held: AtomicUsize::new(0) }
    }
    /// Bytes in chunks that recordings hold (spare chunks of workers are not counted: 1 MiB each at most).
    pub fn held(&self) -> usize {
        self.held.load(Relaxed)
    }
    fn take(&self) -> bool {
        let add = |h: usize| (h + CHUNK <= self.limit).then_some(h + CHUNK);
        self.held.fetch_update(Relaxed, Relaxed, add).is_ok()
    }
}
impl Default for ReplayBudget {
    fn default() -> Self {
        Self::new(MOST_PER_PROCESS)
    }
}

/// The chunks of one worker.
#[derive(Clone, Debug)]
pub struct ReplayPool(Rc<Inner>);
#[derive(Debug)]
struct Inner {
    budget: Arc<ReplayBudget>,
    spare: RefCell<Vec<Chunk>>,
}
impl ReplayPool {
    pub fn new(budget: Arc<ReplayBudget>) -> Self {
        Self(Rc::new(Inner { budget, spare: RefCell::default() }))
    }
    /// An empty recording. Takes no memory before the first byte.
    pub fn record(&self) -> Replay {
        Replay { pool: self.0.clone(), chunks: SmallVec::new(), len: 0, state: State::Open }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The body is complete.
    Ended,
    /// Given up: too large, or no longer needed.
    Dropped,
}

/// The recording of one body. Returns its memory when dropped.
#[derive(Debug)]
pub struct Replay {
    pool: Rc<Inner>,
    chunks: SmallVec<[Chunk; 2]>,
    len: usize,
    state: State,
}
impl Replay {
    /// Appends what has arrived. False: the recording has been given up, now or before, and no retry can have the body any more.
    pub fn push(&mut self, mut data: &[u8]) -> bool {
        debug_assert_ne!(self.state, State::Ended, "data after the end of a body");
        if self.state == State::Dropped {
            return false;
        }
        if self.len + data.len() > MOST_PER_REQUEST {
            self.discard();
            return false;
        }
        while !data.is_empty() {
            let at = self.len % CHUNK;
            if at == 0 {
                if !self.pool.budget.take() {
                    self.discard();
                    return false;
                }
                let spare = self.pool.spare.borrow_mut().pop();
                self.chunks.push(spare.unwrap_or_else(|| Box::new([0; CHUNK])));
            }
            let n = data.len().min(CHUNK - at);
            let chunk = self.chunks.last_mut().expect("one was pushed when the last was full");
            chunk[at..at + n].copy_from_slice(&data[..n]);
            self.len += n;
            data = &data[n..];
        }
        true
    }

    /// The body is complete (trailers, if any, are the exchange's to keep).
    pub fn end(&mut self) {
        if self.state == State::Open {
            self.state = State::Ended;
        }
    }

    /// No retry will need it: returns the memory. Later pushes do nothing.
    pub fn discard(&mut self) {
        self.state = State::Dropped;
        self.len = 0;
        let inner = &self.pool;
        inner.budget.held.fetch_sub(self.chunks.len() * CHUNK, Relaxed);
        let mut spare = inner.spare.borrow_mut();
        for c in self.chunks.drain(..) {
            if spare.len() < MOST_SPARE {
                spare.push(c);
            }
        }
    }

    /// Still whole: everything that arrived so far can be played back.
    pub fn is_whole(&self) -> bool {
        self.state != State::Dropped
    }
    /// Whole, and nothing more will come.
    pub fn is_complete(&self) -> bool {
        self.state == State::Ended
    }
    /// Bytes recorded.
    pub fn len(&self) -> usize {
        self.len
    }
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// The recorded bytes from `from` on, as far as one chunk goes; empty at the end of what is recorded.
    pub fn at(&self, from: usize) -> &[u8] {
        if from >= self.len {
            return &[];
        }
        let start = from % CHUNK;
        let end = (self.len - (from - start)).min(CHUNK);
        &self.chunks[from / CHUNK][start..end]
    }
}
impl Drop for Replay {
    fn drop(&mut self) {
        self.discard();
    }
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
