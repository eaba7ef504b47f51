//! Looking at the first bytes of a connection: is it TLS, for whom, and what is inside?
//!
//! The inbound side must tell the mesh's TLS from the application's own before it answers, the outbound side routes the application's TLS
//! by SNI. [`peek`] is called again with all bytes so far until it decides. A hello may be split over packets and over records; more
//! than [`MAX_HELLO`] bytes are not waited for.

use std::{borrow::Cow, ops::Range};

/// The most bytes that are looked at. A hello with a post-quantum key share has 1.7 KiB; browsers with grease stay below 3 KiB.
pub const MAX_HELLO: usize = 16 << 10;

/// What the first bytes are.
#[derive(Debug, PartialEq, Eq)]
pub enum Peek {
    /// Not enough bytes to tell.
    More,
    /// Not a TLS handshake.
    NotTls,
    Hello(ClientHello),
    /// It began as TLS and is none: a hello that breaks RFC 8446 section 4.1.2.
    Malformed,
    /// A hello of more than [`MAX_HELLO`] bytes.
    TooLong,
}

/// What a ClientHello says in clear.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientHello {
    /// The server name, in lower case.
    pub sni: Option<Box<str>>,
    /// Application protocols, in the client's order.
    pub alpn: Vec<Box<[u8]>>,
}

impl ClientHello {
    /// Whether the client speaks the mesh's TLS: it offers a `weft/` protocol. Anything else is the application's own.
    pub fn is_mesh(&self) -> bool {
        self.alpn.iter().any(|p| p.starts_with(b"weft/"))
    }
}

/// Looks at the first bytes of a connection.
pub fn peek(bytes: &[u8]) -> Peek {
    let mut handshake: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    let mut at = 0;
    loop {
        // record: type 22, version 3.x, length
        let record = &bytes[at.min(bytes.len())..];
        let first = at == 0;
        for (i, ok) in [|b: u8| b == 22, |b| b == 3, |b| b <= 4].into_iter().enumerate() {
            match record.get(i) {
                Some(b) if !ok(*b) => return if first { Peek::NotTls } else { Peek::Malformed },
                None => return more(bytes),
                _ => {}
            }
        }
        let Some(&[high, low]) = record.get(3..5) else { return more(bytes) };
        let len = usize::from(u16::from_be_bytes([high, low]));
        // RFC 8446 section 5.1: no empty fragments, at most 2^14 bytes
        if len == 0 || len > 1 << 14 {
            return if first { Peek::NotTls } else { Peek::Malformed };
        }
        let fragment = &record[5..record.len().min(5 + len)];
        if handshake.is_empty() {
            handshake = Cow::Borrowed(fragment);
        } else {
            handshake.to_mut().extend_from_slice(fragment);
        }
        match handshake.first() {
            Some(1) | None => {}
            Some(_) => return if first { Peek::NotTls } else { Peek::Malformed },
        }
        if let Some(&[a, b, c]) = handshake.get(1..4) {
            let len = u32::from_be_bytes([0, a, b, c]) as usize;
            if len + 4 > MAX_HELLO {
                return Peek::TooLong;
            }
            if let Some(hello) = handshake.get(4..4 + len) {
                return hello_body(hello).map_or(Peek::Malformed, Peek::Hello);
            }
        }
        if fragment.len() < len {
            return more(bytes);
        }
        at += 5 + len;
    }
}

fn more(bytes: &[u8]) -> Peek {
    if bytes.len() >= MAX_HELLO { Peek::TooLong } else { Peek::More }
}

struct Cursor<'a>(&'a [u8]);
impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }
    fn int(&mut self, width: usize) -> Option<usize> {
        Some(self.take(width)?.iter().fold(0, |a, b| a << 8 | *b as usize))
    }
    /// A vector whose length stands before it in `width` bytes.
    fn vector(&mut self, width: usize, sizes: Range<usize>) -> Option<&'a [u8]> {
        let len = self.int(width)?;
        if sizes.contains(&len) { self.take(len) } else { None }
    }
}

fn hello_body(body: &[u8]) -> Option<ClientHello> {
    let mut c = Cursor(body);
    c.take(2 + 32)?; // legacy_version, random
    c.vector(1, 0..33)?; // session id
    c.vector(2, 2..1 << 16)?; // cipher suites
    c.vector(1, 1..256)?; // compression methods
    let mut hello = ClientHello::default();
    if c.0.is_empty() {
        return Some(hello); // before TLS 1.3 extensions are optional
    }
    let mut extensions = Cursor(c.vector(2, 0..1 << 16)?);
    if !c.0.is_empty() {
        return None;
    }
    let (mut names, mut protocols) = (false, false);
    while !extensions.0.is_empty() {
        let kind = extensions.int(2)?;
        let mut value = Cursor(extensions.vector(2, 0..1 << 16)?);
        match kind {
            // RFC 6066 section 3: one name of type host_name, ASCII, no trailing dot
            0 => {
                if std::mem::replace(&mut names, true) {
                    return None;
                }
                let mut list = Cursor(value.vector(2, 1..1 << 16)?);
                let (0, name) = (list.int(1)?, list.vector(2, 1..256)?) else { return None };
                let clean = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':');
                if !list.0.is_empty() || !value.0.is_empty() || !name.iter().all(clean) {
                    return None;
                }
                hello.sni = Some(std::str::from_utf8(name).ok()?.to_ascii_lowercase().into());
            }
            // RFC 7301 section 3.1
            16 => {
                if std::mem::replace(&mut protocols, true) {
                    return None;
                }
                let mut list = Cursor(value.vector(2, 2..1 << 16)?);
                while !list.0.is_empty() {
                    hello.alpn.push(list.vector(1, 1..256)?.into());
                }
                if !value.0.is_empty() {
                    return None;
                }
            }
            _ => {}
        }
    }
    Some(hello)
}

#[cfg(test)]
#[path = "hello_tests.rs"]
mod tests;
