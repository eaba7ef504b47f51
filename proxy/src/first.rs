//! The first bytes of an accepted connection: waiting for them, judging them, and watching both sides when the client stays silent.

use crate::{
    detect::{First, first_bytes},
    wire::{Read, Wire, WireError},
};
use std::{future::poll_fn, task::Poll, time::Duration};
use tokio::time::{Instant, timeout_at};
use weft_identity::{ClientHello, Peek, peek};

/// An undecided beginning (half a request line) is waited for this long after its first byte; then it is bytes. A request line comes in one segment but
/// for absurd lengths, while other protocols may begin with a few letters and wait for an answer.
pub const UNDECIDED: Duration = Duration::from_millis(100);
/// A ClientHello has begun, and its rest may come in several segments over a slow path.
const HELLO: Duration = Duration::from_secs(5);
/// More than this is not gathered: the longest ClientHello that is looked at.
const GATHER_MAX: usize = weft_identity::hello::MAX_HELLO;

/// What a connection turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    Http1,
    Http2,
    /// TLS that offers a `weft/` protocol.
    Mesh(ClientHello),
    /// TLS of the application's own; the server name when it was looked for.
    Tls(Option<Box<str>>),
    Other,
}

/// A verdict on a prefix, or `None` for more bytes.
pub type Judge = fn(&[u8]) -> Option<Kind>;

/// The outbound side cares for HTTP; TLS is told without its hello.
pub fn outbound(b: &[u8]) -> Option<Kind> {
    match first_bytes(b) {
        First::More => None,
        First::Http1 => Some(Kind::Http1),
        First::Http2 => Some(Kind::Http2),
        First::Tls => Some(Kind::Tls(None)),
        First::Other => Some(Kind::Other),
    }
}

/// Waits for the server name.
pub fn sni(b: &[u8]) -> Option<Kind> {
    match peek(b) {
        Peek::More => None,
        Peek::Hello(h) => Some(Kind::Tls(h.sni)),
        Peek::NotTls => Some(Kind::Other),
        Peek::Malformed | Peek::TooLong => Some(Kind::Tls(None)),
    }
}

/// The inbound side tells the mesh's TLS from the application's.
pub fn inbound(b: &[u8]) -> Option<Kind> {
    match peek(b) {
        Peek::More if b.first() == Some(&0x16) => None,
        Peek::Hello(h) if h.is_mesh() => Some(Kind::Mesh(h)),
        Peek::Hello(h) => Some(Kind::Tls(h.sni)),
        Peek::Malformed | Peek::TooLong => Some(Kind::Tls(None)),
        Peek::NotTls | Peek::More => outbound(b),
    }
}

/// A port that must be HTTP: everything that is not HTTP/2's preface is left to the HTTP/1 codec, which answers 400.
pub fn must_be_http(b: &[u8]) -> Option<Kind> {
    use crate::detect::PREFACE;
    // as far as "PRI * HTTP/2.0" the preface cannot be anything else
    const ENOUGH: usize = 14;
    let n = b.len().min(ENOUGH);
    if b.is_empty() || (n < ENOUGH && b == &PREFACE[..n]) {
        return None;
    }
    Some(if b[..n] == PREFACE[..n] { Kind::Http2 } else { Kind::Http1 })
}

/// A port whose application speaks HTTP/2: HTTP/1 clients are translated, anything else is left to the HTTP/2 codec, which answers GOAWAY and closes.
pub fn must_be_http2(b: &[u8]) -> Option<Kind> {
    match first_bytes(b) {
        First::More => None,
        First::Http1 => Some(Kind::Http1),
        First::Http2 | First::Tls | First::Other => Some(Kind::Http2),
    }
}

/// How gathering ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Gathered {
    Known(Kind),
    /// Not a byte within the silence that was allowed.
    Silent,
    /// Bytes came, but no verdict in time.
    Late,
    /// The client ended its side first.
    Eof,
}

/// Reads until `judge` decides; waits `silence` for the first byte and `decide` for the rest (longer for the rest of a ClientHello).
pub async fn gather(
    wire: &mut Wire,
    buf: &mut Vec<u8>,
    judge: Judge,
    silence: Duration,
    decide: Duration,
) -> Result<Gathered, WireError> {
    let mut deadline = Instant::now() + silence;
    loop {
        match timeout_at(deadline, wire.read_into(buf)).await {
            Err(_) if buf.is_empty() => return Ok(Gathered::Silent),
            Err(_) => return Ok(Gathered::Late),
            Ok(Ok(Read::Eof)) => return Ok(Gathered::Eof),
            Ok(Ok(Read::Data(n))) => {
                if buf.len() == n {
                    deadline = Instant::now() + if buf[0] == 0x16 { HELLO } else { decide };
                }
                if let Some(kind) = judge(buf) {
                    return Ok(Gathered::Known(kind));
                }
                if buf.len() >= GATHER_MAX {
                    return Ok(Gathered::Late);
                }
            }
            Ok(Ok(Read::Pending)) => {}
            Ok(Err(e)) => return Err(e),
        }
    }
}

/// Who spoke first on a connection whose client was silent while its server was dialled.
#[derive(Debug, PartialEq, Eq)]
pub enum Spoke {
    /// The server, or somebody ended: bytes from now on.
    Server,
    /// The client, after all.
    Client(Kind),
}

/// Watches both sides until one speaks. `first` receives what the server said, `buf` what the client said.
pub async fn watch(
    down: &mut Wire,
    up: &mut Wire,
    buf: &mut Vec<u8>,
    first: &mut Vec<u8>,
    judge: Judge,
) -> Result<Spoke, WireError> {
    if !first.is_empty() {
        return Ok(Spoke::Server);
    }
    let either = poll_fn(|cx| {
        match up.read(cx, |_, d| first.extend_from_slice(d))? {
            Read::Data(0) => cx.waker().wake_by_ref(),
            Read::Data(_) | Read::Eof => return Poll::Ready(Ok(true)),
            Read::Pending => {}
        }
        match down.read(cx, |_, d| buf.extend_from_slice(d))? {
            Read::Data(_) => Poll::Ready(Ok(false)),
            Read::Eof => Poll::Ready(Ok(true)),
            Read::Pending => Poll::Pending,
        }
    })
    .await;
    match either {
        Ok(true) => return Ok(Spoke::Server),
        Ok(false) => {}
        Err(e) => return Err(e),
    }
    if let Some(kind) = judge(buf) {
        return Ok(Spoke::Client(kind));
    }
    Ok(match gather(down, buf, judge, UNDECIDED, UNDECIDED).await? {
        Gathered::Known(kind) => Spoke::Client(kind),
        _ => Spoke::Client(Kind::Other),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_must_be_http_decides_early() {
        assert_eq!(must_be_http(b""), None);
        assert_eq!(must_be_http(b"PRI"), None);
        assert_eq!(must_be_http(b"PRO"), Some(Kind::Http1));
        assert_eq!(must_be_http(b"G"), Some(Kind::Http1));
        assert_eq!(must_be_http(&[0x16, 3, 1]), Some(Kind::Http1));
        assert_eq!(must_be_http(b"PRI * HTTP/2.0\r"), Some(Kind::Http2));
        assert_eq!(must_be_http2(b"INVALID CONNECTION PREFACE\r\n"), Some(Kind::Http2));
        assert_eq!(must_be_http2(b"GET / HTTP/1.1\r\n"), Some(Kind::Http1));
    }
}
