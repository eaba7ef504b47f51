//! What a connection tells.

use super::{ErrorCode, Reason, StreamId};
use crate::head::Head;
use std::time::Duration;

/// Something has happened. Heads come from [`crate::head::pool`]; give them back there.
#[derive(Debug)]
pub enum Event<'i, T> {
    /// Server: a request. Call [`set_token`](super::Connection::set_token) before the next event is taken: a stream without token tells nothing more and its data is dropped.
    Request { stream: StreamId, head: Box<Head>, end: bool },
    /// Server: a request whose decoded head is larger than the limit. Answer 431 with [`send_head`](super::Connection::send_head) (`end`) and
    /// [`discard`](super::Connection::discard), or reset it. It has no token.
    TooLarge { stream: StreamId, end: bool },
    /// Client: a response; interim ones, too (`head.status` < 200; they never have `end`).
    Response { stream: StreamId, token: T, head: Box<Head>, end: bool },
    /// A piece of a body, never empty unless `end`. `data.len()` bytes are to be [`release`](super::Connection::release)d once they have been passed on.
    /// (Padding is not seen and has been released already.)
    Data { stream: StreamId, token: T, data: &'i [u8], end: bool },
    /// Trailers; always the end of the message.
    Trailers { stream: StreamId, token: T, head: Box<Head> },
    /// The stream is gone, nothing more will be told about it. If the fault was the peer's, RST_STREAM is in the output already.
    Reset { stream: StreamId, token: T, code: ErrorCode, cause: Cause },
    /// Bytes that `send_data` had to queue have left for the output: whoever they came from may be granted as much. `end`: the end of the message, which
    /// had waited behind them, too.
    Sent { stream: StreamId, token: T, bytes: u32, end: bool },
    /// The peer goes away. Streams that it will not process have been or will be told as `Reset` with [`Cause::GoAway`]; others run on; no more can be opened.
    GoAway { code: ErrorCode },
    /// Streams can be opened again after [`open`](super::Connection::open) said [`NoRoom`](super::OpenError::NoRoom).
    Room,
    /// The peer's SETTINGS have arrived (the first time, or a change).
    Settings,
    /// The answer to our [`ping`](super::Connection::ping).
    Pong { rtt: Duration },
}

/// Why a stream was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// RST_STREAM of the peer.
    Peer,
    /// The peer broke a rule on this stream.
    Violation(Reason),
    /// GOAWAY of the peer said that the stream was not and will not be processed.
    GoAway,
}

impl Cause {
    /// The peer has certainly not processed the request: it may be sent again, elsewhere, whatever its method (RFC 9113, 8.7).
    pub fn unprocessed(self, code: ErrorCode) -> bool {
        match self {
            Cause::GoAway => true,
            Cause::Peer => code == ErrorCode::RefusedStream,
            Cause::Violation(_) => false,
        }
    }
}
