//! Signatures.
use super::*;
use crate::head::Head;
use std::sync::Arc;
use std::time::Instant;

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

/// See the module. `T` is the caller's token of a stream.
pub struct Connection<T: Copy> {
    token: std::marker::PhantomData<T>,
    out: Vec<u8>,
}

#[allow(unused_variables, clippy::todo)]
impl<T: Copy> Connection<T> {
    /// Our preface is in the output at once.
    pub fn server(config: Arc<Config>) -> Self {
        todo!()
    }
    pub fn client(config: Arc<Config>) -> Self {
        todo!()
    }
    /// The next event out of `input`, which is consumed; `None` when all of it has been taken in. After an error, the same error.
    pub fn next<'i>(&mut self, input: &mut &'i [u8], now: Instant) -> Result<Option<Event<'i, T>>, ConnectionError> {
        todo!()
    }
    /// Events that do not come from input: `Sent` after [`output_taken`](Self::output_taken).
    pub fn poll(&mut self) -> Option<Event<'static, T>> {
        todo!()
    }
    /// Client: sends a request.
    pub fn open(&mut self, head: &Head, end: bool, token: T) -> Result<StreamId, OpenError> {
        todo!()
    }
    pub fn set_token(&mut self, stream: StreamId, token: T) {
        todo!()
    }
    pub fn token(&self, stream: StreamId) -> Option<T> {
        todo!()
    }
    /// Server: sends a response, interim (1xx, never with `end`) or final.
    pub fn send_head(&mut self, stream: StreamId, head: &Head, end: bool) -> Result<(), SendError> {
        todo!()
    }
    /// Sends data. Returns how many of the bytes went to the output at once; `Event::Sent` tells about the rest, and about `end` when it had to wait.
    /// Of a stream that is gone all bytes count as sent.
    pub fn send_data(&mut self, stream: StreamId, data: &[u8], end: bool) -> usize {
        todo!()
    }
    /// Ends the message with trailers, behind what is queued; false when they have to wait (`Event::Sent` with `end` tells). The head goes back to the pool.
    pub fn send_trailers(&mut self, stream: StreamId, head: Box<Head>) -> bool {
        todo!()
    }
    /// RST_STREAM; the stream is gone at once, its queue dropped, no event follows.
    pub fn reset(&mut self, stream: StreamId, code: ErrorCode) {
        todo!()
    }
    /// The rest of what the peer sends on this stream is not wanted (early response): it is dropped and credited, and when our message has ended RST_STREAM(NO_ERROR) follows
    /// (RFC 9113, 8.1), which ends the stream without an event.
    pub fn discard(&mut self, stream: StreamId) {
        todo!()
    }
    /// `n` bytes of `Event::Data` have been passed on.
    pub fn release(&mut self, stream: StreamId, n: usize) {
        todo!()
    }
    /// Lets the peer send `n` bytes more on this stream, for good.
    pub fn grow_window(&mut self, stream: StreamId, n: u32) {
        todo!()
    }
    /// The receive window's size, delivered and not yet released bytes included.
    pub fn window(&self, stream: StreamId) -> u32 {
        todo!()
    }
    /// Bytes delivered and not yet released.
    pub fn unreleased(&self, stream: StreamId) -> u32 {
        todo!()
    }
    /// Bytes queued on a stream.
    pub fn queued(&self, stream: StreamId) -> usize {
        todo!()
    }
    /// Bytes queued on all streams.
    pub fn queued_total(&self) -> usize {
        todo!()
    }
    /// What is to be written. Take bytes from the front (or all of them), then call `output_taken`.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }
    pub fn has_output(&self) -> bool {
        todo!()
    }
    /// The output has left (entirely or in part): queued data moves in, in turns, at most `Config::max_output`. `Sent` events follow: `poll`.
    pub fn output_taken(&mut self) {
        todo!()
    }
    /// Streams open now.
    pub fn streams(&self) -> usize {
        todo!()
    }
    /// How many more streams may be opened now (client).
    pub fn room(&self) -> usize {
        todo!()
    }
    /// No stream is open and nothing waits to be written.
    pub fn is_idle(&self) -> bool {
        todo!()
    }
    /// In the middle of a header block: the rim sets a deadline.
    pub fn in_head(&self) -> bool {
        todo!()
    }
    /// The peer's first SETTINGS have arrived.
    pub fn is_ready(&self) -> bool {
        todo!()
    }
    pub fn extended_connect(&self) -> bool {
        todo!()
    }
    /// Announces that no new streams are wanted: GOAWAY with the highest identifier and a PING; when its answer comes, the final GOAWAY (RFC 9113, 6.8).
    pub fn go_away_gracefully(&mut self, now: Instant) {
        todo!()
    }
    /// The final GOAWAY at once. Streams that run go on.
    pub fn go_away(&mut self, code: ErrorCode) {
        todo!()
    }
    /// Going away, and every stream has ended: flush and close.
    pub fn is_finished(&self) -> bool {
        todo!()
    }
    /// GOAWAY was sent or received.
    pub fn is_going_away(&self) -> bool {
        todo!()
    }
    /// Sends PING unless one is under way; `Event::Pong` tells. True when it was sent.
    pub fn ping(&mut self, now: Instant) -> bool {
        todo!()
    }
    /// When the PING that is under way was sent.
    pub fn ping_sent(&self) -> Option<Instant> {
        todo!()
    }
    /// After the end of the connection: takes out one stream after the other, so that the caller can fail their other halves.
    pub fn take_stream(&mut self) -> Option<(StreamId, T)> {
        todo!()
    }
}
