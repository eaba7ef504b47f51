//! The streams of a connection: their state (RFC 9113, 5.1), a slab that holds them, and the memory of those that we have reset.

use super::frame::MAX_WINDOW;
use crate::h1::spare;
use crate::head::{Head, pool};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

/// A stream of one connection: its identifier, and where it is kept. Stale ones are recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId {
    pub(super) id: u32,
    pub(super) slot: u32,
}

impl StreamId {
    /// The identifier on the wire.
    pub fn get(self) -> u32 {
        self.id
    }
}

/// What we wait for from the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    /// Client: the response.
    Head,
    Body,
    /// END_STREAM has come: half-closed (remote).
    Done,
}

/// What the peer waits for from us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// Server: the response.
    Head,
    Body,
    /// The end waits behind queued data.
    Ending,
    /// END_STREAM is in the output: half-closed (local).
    Done,
}

/// Server: our message has ended before the peer's, whose rest is dropped. RST_STREAM waits for a round trip, since clients exist that lose an answer to a RST_STREAM right behind
/// it (curl 7.88), and most have sent the rest by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Linger {
    No,
    /// For the next PING: one is under way that the peer may have answered before it saw our end.
    Waits,
    /// A PING follows our end: once it is answered the peer has seen both.
    Asked,
}

/// How the message ends that waits in the queue.
#[derive(Debug)]
pub(super) enum QueuedEnd {
    Open,
    Fin,
    Trailers(Box<Head>),
}

/// No `content-length`.
pub(super) const UNKNOWN_LENGTH: u64 = u64::MAX;

#[derive(Debug)]
pub(super) struct Stream<T> {
    /// 0: the slot is vacant.
    pub id: u32,
    pub token: Option<T>,
    pub receiving: Receiving,
    pub sending: Sending,
    /// What comes is dropped and credited; see [`discard`](super::Connection::discard).
    pub discard: bool,
    pub linger: Linger,
    /// Client: the response has no body (HEAD), whatever its fields say.
    pub head_request: bool,
    /// Client: a 2xx response has no length (CONNECT).
    pub connect: bool,
    pub interim: u8,
    /// Bytes of the body that `content-length` still promises.
    pub remaining: u64,
    /// What the peer lets us send; negative after it shrank its initial window (RFC 9113, 6.9.2).
    pub send_window: i64,
    /// What the peer may still send.
    pub receive_window: i64,
    /// Receive window size: `receive_window + credit + held + what is being delivered` at any time.
    pub window: u32,
    /// Released, not yet announced.
    pub credit: u32,
    /// Delivered, not yet released.
    pub held: u32,
    pub queue: Queue,
    pub queued_end: QueuedEnd,
    /// In the list of streams whose turn comes.
    pub in_ring: bool,
}

impl<T> Stream<T> {
    #[inline]
    pub fn ended(&self) -> bool {
        self.receiving == Receiving::Done && self.sending == Sending::Done
    }
    /// The sum that must not change but by growing the window; `delivering`: of a DATA frame under way.
    #[cfg(test)]
    pub fn accounted(&self, delivering: u32) -> i64 {
        self.receive_window + i64::from(self.credit) + i64::from(self.held) + i64::from(delivering)
    }
    /// Adds to the send window; false when it exceeds the protocol's maximum.
    #[inline]
    pub fn widen(&mut self, by: i64) -> bool {
        self.send_window += by;
        self.send_window <= MAX_WINDOW
    }
}

/// Bytes that wait for windows. Owns no memory while it is empty.
#[derive(Debug, Default)]
pub(super) struct Queue {
    bytes: Vec<u8>,
    at: usize,
}

impl Queue {
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.at
    }
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    pub fn push(&mut self, data: &[u8]) {
        spare::ensure(&mut self.bytes);
        if self.at > self.len() {
            self.bytes.drain(..self.at);
            self.at = 0;
        }
        self.bytes.extend_from_slice(data);
    }
    pub fn front(&self, n: usize) -> &[u8] {
        &self.bytes[self.at..self.at + n]
    }
    pub fn consume(&mut self, n: usize) {
        self.at += n;
        if self.is_empty() {
            self.clear();
        }
    }
    pub fn clear(&mut self) {
        self.at = 0;
        self.bytes.clear();
        spare::release(&mut self.bytes);
    }
}

/// Identifiers are the peer's choice, but odd and increasing: mixing the high bits down is enough.
#[derive(Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.write_u32(u32::from(*b));
        }
    }
    #[inline]
    fn write_u32(&mut self, n: u32) {
        let h = (self.0 ^ u64::from(n)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = h ^ (h >> 32);
    }
}

#[derive(Debug)]
pub(super) struct Streams<T> {
    slots: Vec<Stream<T>>,
    free: Vec<u32>,
    by_id: HashMap<u32, u32, BuildHasherDefault<IdHasher>>,
}

impl<T> Streams<T> {
    pub fn new() -> Self {
        Streams { slots: Vec::new(), free: Vec::new(), by_id: HashMap::default() }
    }
    #[inline]
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
    #[inline]
    pub fn find(&self, id: u32) -> Option<StreamId> {
        self.by_id.get(&id).map(|slot| StreamId { id, slot: *slot })
    }
    #[inline]
    pub fn get(&self, stream: StreamId) -> Option<&Stream<T>> {
        self.slots.get(stream.slot as usize).filter(|s| s.id == stream.id)
    }
    #[inline]
    pub fn get_mut(&mut self, stream: StreamId) -> Option<&mut Stream<T>> {
        self.slots.get_mut(stream.slot as usize).filter(|s| s.id == stream.id)
    }
    pub fn insert(&mut self, stream: Stream<T>) -> StreamId {
        let id = stream.id;
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = stream;
                slot
            }
            None => {
                self.slots.push(stream);
                self.slots.len() as u32 - 1
            }
        };
        self.by_id.insert(id, slot);
        StreamId { id, slot }
    }
    /// Vacates the slot; its queue and trailers go back to where they came from. Gives the bytes that were queued.
    pub fn remove(&mut self, stream: StreamId) -> usize {
        let Some(s) = self.get_mut(stream) else { return 0 };
        let queued = s.queue.len();
        s.queue.clear();
        if let QueuedEnd::Trailers(head) = std::mem::replace(&mut s.queued_end, QueuedEnd::Open) {
            pool::give(head);
        }
        s.token = None;
        s.id = 0;
        self.by_id.remove(&stream.id);
        self.free.push(stream.slot);
        queued
    }
    /// Gives the memory of a past burst back. Only without streams.
    pub fn shrink(&mut self) {
        if self.len() == 0 {
            *self = Streams::new();
        }
    }
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (StreamId, &mut Stream<T>)> {
        self.slots.iter_mut().enumerate().filter(|(_, s)| s.id != 0).map(|(slot, s)| {
            let id = s.id;
            (StreamId { id, slot: slot as u32 }, s)
        })
    }
    pub fn ids(&self) -> impl Iterator<Item = StreamId> {
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, s)| s.id != 0)
            .map(|(slot, s)| StreamId { id: s.id, slot: slot as u32 })
    }
}

/// Streams that we have reset: what the peer had sent before it knew is ignored (RFC 9113, 5.1, closed).
#[derive(Debug, Default)]
pub(super) struct OurResets {
    recent: VecDeque<u32>,
    forgotten: bool,
}

impl OurResets {
    /// What a peer sends within one round trip belongs to fewer streams than this; 1 KiB.
    const KEEP: usize = 256;

    pub fn push(&mut self, id: u32) {
        if self.recent.len() == Self::KEEP {
            self.recent.pop_front();
            self.forgotten = true;
        }
        self.recent.push_back(id);
    }
    pub fn contains(&self, id: u32) -> bool {
        self.recent.contains(&id)
    }
    /// Some have been forgotten: a closed stream may have been one of them.
    pub fn forgotten(&self) -> bool {
        self.forgotten
    }
}
