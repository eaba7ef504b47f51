//! HTTP/1.0 and HTTP/1.1 (RFC 9112), sans-I/O: [`Server`] reads requests and writes responses, [`Client`] the other way round.
//!
//! ```text
//!   bytes from the socket                      Head, data, trailers of the other connection
//!          |  next(&mut input)                        |  send_head, send_data, send_trailers
//!          v                                          v
//!   parse.rs (head) -> body.rs (framing)       encode.rs (head, framing)
//!          |  Event<'i>                               |  output(): plain bytes, written once per turn
//! ```
//!
//! One exchange at a time. What a client sends behind its request (pipelining, or early data of an upgrade) is *held* inside and parsed when the exchange
//! is over; [`Server::wants_read`] turns false when enough is held, so it is bounded without an error. `next` returns `None` only when all
//! input is consumed. Because an event borrows the input and never the codec, held bytes come back through [`Server::take_held`]:
//!
//! ```text
//! input(bytes):  while let Some(e) = server.next(&mut bytes)? { .. }
//!                while let Some(held) = server.take_held() {         // None unless an exchange has just ended
//!                    let mut rest = &held[..];
//!                    while let Some(e) = server.next(&mut rest)? { .. }
//!                    server.recycle(held);
//!                }
//! ```
//!
//! The second loop also runs after the last `send_*` of a response, since that is when an exchange ends.
//!
//! Both versions of HTTP meet in [`Head`]: names in lower case, `Host` only as [`Pseudo::Authority`](crate::head::Pseudo), no hop-by-hop fields. A request with `Upgrade` becomes
//! an extended CONNECT (RFC 8441) and its answer a 200; the codecs translate at both ends (see `translate`). Framing is never forwarded: `Content-Length`
//! and `Transfer-Encoding` are parsed, refused when they leave any doubt, and written anew.
//!
//! Idle connections own no buffers: partial heads, held bytes and output come from a free list of the thread and go back to it ([`spare`]).

mod body;
mod client;
mod encode;
mod fields;
mod parse;
mod server;
pub mod spare;
mod websocket;

pub use client::Client;
pub(crate) use fields::ignored_trailer;
pub use server::Server;

use crate::head::Head;
use std::time::Duration;

/// What arrived. The vocabulary of `h2`, without streams.
#[derive(Debug)]
pub enum Event<'i> {
    /// Server side. `end`: there is no body. An upgrade request never has `end`: what follows after the switch is its body.
    Request { head: Box<Head>, end: bool, info: RequestInfo },
    /// Client side. Interim responses (`head.status` < 200) come first and never have `end`. With `upgraded` the status is 200 (extended CONNECT's
    /// success, RFC 8441) and everything after it is opaque data.
    Response { head: Box<Head>, end: bool, upgraded: bool },
    /// A piece of the body, without framing. May be empty when only the end had to be said.
    Data { data: &'i [u8], end: bool },
    /// Always the end of the message.
    Trailers { head: Box<Head> },
}

/// What a request said about its connection; these fields are not in the [`Head`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// HTTP/1.0: no chunked answers, no interim responses.
    pub http10: bool,
    /// The client wants the connection kept (1.1 without `close`, or 1.0 with `keep-alive`).
    pub keep_alive: bool,
    /// `Expect: 100-continue`, which stays in the head: it is the application that decides.
    pub expect_continue: bool,
    /// `TE: trailers`: trailers of the response are passed on.
    pub te_trailers: bool,
    /// The head is an extended CONNECT made from `Upgrade`.
    pub upgrade: bool,
}

/// Limits, each with its reason, and the deadlines that the rim arms by [`Waiting`]. Shared by all connections of a listener or pool.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bytes of a head, or of a trailer section. 64 KiB: what one read delivers, and above what Envoy (60 KiB) and nginx (32 KiB) take.
    pub max_head: usize,
    /// Bytes of the request target. 16 KiB: twice what common servers accept, so that the mesh is not the one that refuses.
    pub max_target: usize,
    /// Fields in a head, and in a trailer section; at most [`MAX_FIELDS`].
    pub max_fields: usize,
    /// Bytes held behind an unfinished exchange before reading stops. 16 KiB: a dozen pipelined requests; one more read may come on top.
    pub max_held: usize,
    /// Bytes of a request's body that are read and dropped when the response is over before it (a redirect, a 401), so that the connection can be kept.
    /// 64 KiB: one read; for more a new connection is cheaper.
    pub max_discard: usize,
    /// Interim responses of one exchange. 32: 103 comes once or twice, 102 every few seconds.
    pub max_interim: u8,
    /// From the first byte of a head (or from accept) to its end. 10 s: slowloris costs the attacker a connection each 10 s; a slow link sends 64 KiB in that time.
    pub head_deadline: Duration,
    /// Between two pieces of a body. 60 s, as nginx and Envoy's stream idle are in minutes, but a vanished peer must not hold a slot for long.
    pub body_idle: Duration,
    /// Between two requests. 75 s: above the usual 60 s of load balancers in front, so that it is they who close.
    pub keep_alive_idle: Duration,
    /// How long a closed connection is still read (and discarded), so that our last bytes are not lost to a reset (RFC 9112, 9.6). 2 s.
    pub linger: Duration,
    /// `:scheme` of requests that arrive here.
    pub https: bool,
}

/// Room for parsed fields on the stack (4 KiB): browsers send 20, the worst gateways 60.
pub const MAX_FIELDS: usize = 128;

impl Default for Config {
    fn default() -> Self {
        Config {
            max_head: 64 * 1024,
            max_target: 16 * 1024,
            max_fields: MAX_FIELDS,
            max_held: 16 * 1024,
            max_discard: 64 * 1024,
            max_interim: 32,
            head_deadline: Duration::from_secs(10),
            body_idle: Duration::from_secs(60),
            keep_alive_idle: Duration::from_secs(75),
            linger: Duration::from_secs(2),
            https: false,
        }
    }
}

/// What a connection waits for from its peer: the rim picks the deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Nothing is under way ([`Config::keep_alive_idle`]; on a fresh connection [`Config::head_deadline`]).
    Idle,
    /// A head has begun ([`Config::head_deadline`], from its first byte); on the client side also: the response has not begun.
    Head,
    /// More of a body ([`Config::body_idle`]).
    Body,
    /// Nothing from this peer: the other side of the exchange is to act.
    Local,
    /// Opaque bytes after an upgrade.
    Tunnel,
    /// Nothing any more: close ([`Close`] says how).
    Closed,
}

/// How to close, once the output has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// The peer has nothing under way to us.
    Now,
    /// The peer may still be sending: shut down our side, read and discard for [`Config::linger`], then close; else a reset may destroy the last answer.
    Linger,
    /// At once, with a reset: a body without length or chunks was cut off, and an orderly close would make it look complete.
    Reset,
}

/// The peer's bytes cannot be understood, or must not be. The codec takes nothing more; the relay answers with `status` where a response
/// has not begun, and closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct ParseError {
    /// What the client is to be told: 4xx or 5xx of its own mistake, 502 for an upstream's.
    pub status: u16,
    pub reason: Reason,
}

/// Why. `Display` is the text for logs and for `weft-error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Reason {
    #[error("malformed request line")]
    RequestLine,
    #[error("malformed status line")]
    StatusLine,
    #[error("HTTP/2 preface on an HTTP/1 port")]
    Http2Preface,
    #[error("TLS on a plain-text port")]
    Tls,
    #[error("HTTP version is not 1.0 or 1.1")]
    Version,
    #[error("malformed header field")]
    Field,
    #[error("line end is not CR LF")]
    LineEnd,
    #[error("head is larger than the limit")]
    HeadTooLarge,
    #[error("too many header fields")]
    TooManyFields,
    #[error("request target is longer than the limit")]
    TargetTooLong,
    #[error("malformed request target")]
    Target,
    #[error("CONNECT is not offered")]
    Connect,
    #[error("Host is missing")]
    HostMissing,
    #[error("more than one Host")]
    HostDuplicate,
    #[error("Host or authority is malformed")]
    Authority,
    #[error("malformed Content-Length")]
    ContentLength,
    #[error("more than one Content-Length")]
    ContentLengthDuplicate,
    #[error("Content-Length together with Transfer-Encoding")]
    LengthAndCoding,
    #[error("Transfer-Encoding other than chunked")]
    TransferEncoding,
    #[error("Transfer-Encoding in HTTP/1.0")]
    CodingInHttp10,
    #[error("malformed chunk")]
    Chunk,
    #[error("chunk extensions are larger than the limit")]
    ChunkExtensions,
    #[error("malformed trailer section")]
    Trailers,
    #[error("field {0:?} must not be a trailer")]
    ForbiddenTrailer(&'static str),
    #[error("connection closed in the middle of a head")]
    ClosedInHead,
    #[error("connection closed in the middle of a body")]
    ClosedInBody,
    /// Not a byte of the response came. On a `reused` connection the peer has most likely closed it while it was idle: the retry class of
    /// RFC 9112, 9.3.1 (idempotent methods only).
    #[error("connection closed before the response")]
    ClosedUnanswered { reused: bool },
    #[error("101 without having asked for it")]
    UnsolicitedSwitch,
    #[error("switched to another protocol than asked for")]
    WrongSwitch,
    #[error("bytes without a request")]
    Unsolicited,
    #[error("more bytes behind the request than may be held")]
    Pipelined,
    #[error("too many interim responses")]
    TooManyInterim,
}

/// A message cannot be written. Nothing of the call has reached the output; the connection must be closed when the message had begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The codec is in no state for this call: no request to answer, head already sent, message over, or the connection has failed.
    #[error("no message to send in this state")]
    State,
    /// A name or value that would change the meaning of the message in HTTP/1 (RFC 9113, 10.3).
    #[error("head has a field that HTTP/1 cannot carry safely")]
    Field,
    /// More data than `content-length` says.
    #[error("body is longer than its content-length")]
    TooLong,
    /// Ended before `content-length` bytes.
    #[error("body is shorter than its content-length")]
    TooShort,
}

/// Marks, between the codecs, a 2xx response to an upgrade request that did *not* switch: as extended CONNECT's answer it would mean success. [`Client`] adds it,
/// [`Server`] takes it away; towards a foreign HTTP/2 client `translate::response_to_h2` makes a 502 of it.
pub const UPGRADE_IGNORED: &[u8] = b"weft-upgrade";
