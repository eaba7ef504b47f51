//! From a [`Head`] to bytes. Framing is decided here and nowhere else: the fields that tell it are written from what was decided, never copied.
//!
//! Names and values are checked while they are copied, wherever the head came from: this is the last place where a CR LF inside a value could become
//! a line of its own (RFC 9113, 10.3).

use super::{SendError, UPGRADE_IGNORED};
use crate::head::{Head, Known};
use crate::syntax;

/// How the body being sent shows its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoder {
    /// Bytes left of `content-length`.
    Length(u64),
    Chunked,
    /// Ends with the connection; after an upgrade, too.
    UntilClose,
    /// The message has no body; whatever comes is dropped.
    Nothing,
}

impl Encoder {
    pub(super) fn data(&mut self, out: &mut Vec<u8>, data: &[u8], end: bool) -> Result<(), SendError> {
        match self {
            Encoder::Nothing => {}
            Encoder::UntilClose => out.extend_from_slice(data),
            Encoder::Length(left) => {
                let rest = left.checked_sub(data.len() as u64).ok_or(SendError::TooLong)?;
                if end && rest > 0 {
                    return Err(SendError::TooShort);
                }
                *left = rest;
                out.extend_from_slice(data);
            }
            Encoder::Chunked => {
                if !data.is_empty() {
                    let mut size = [0; 18];
                    out.reserve(data.len() + size.len() + 7);
                    out.extend_from_slice(hexadecimal_line(data.len() as u64, &mut size));
                    out.extend_from_slice(data);
                    out.extend_from_slice(b"\r\n");
                }
                if end {
                    out.extend_from_slice(b"0\r\n\r\n");
                }
            }
        }
        Ok(())
    }
    /// Ends the body. `trailers` is `None` when the receiver does not take them.
    pub(super) fn trailers(&mut self, out: &mut Vec<u8>, trailers: Option<&Head>) -> Result<(), SendError> {
        let (Encoder::Chunked, Some(trailers)) = (&mut *self, trailers) else {
            return self.data(out, b"", true);
        };
        let start = out.len();
        out.extend_from_slice(b"0\r\n");
        for (known, name, value) in trailers.fields() {
            if !super::fields::ignored_trailer(known, name) {
                line(out, name, value).inspect_err(|_| out.truncate(start))?;
            }
        }
        out.extend_from_slice(b"\r\n");
        Ok(())
    }
}

/// `name: value`, both checked.
#[inline]
pub(super) fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) -> Result<(), SendError> {
    if !syntax::is_lower_token(name) || !syntax::is_value(value) {
        return Err(SendError::Field);
    }
    raw_line(out, name, value);
    Ok(())
}

/// A line whose parts are known to be harmless.
#[inline]
pub(super) fn raw_line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// All fields that are not about the connection, in their order, `content-length` only when it is true for this message.
pub(super) fn fields(out: &mut Vec<u8>, head: &Head, length: Option<u64>, request: bool) -> Result<(), SendError> {
    let mut length_due = length;
    let mut cookies_due = true;
    for (known, name, value) in head.fields() {
        match known {
            Known::ContentLength => {
                if let Some(n) = length_due.take() {
                    length_line(out, n);
                }
            }
            Known::Te if request => {
                if syntax::list(value).any(|t| t.eq_ignore_ascii_case(b"trailers")) {
                    out.extend_from_slice(b"te: trailers\r\nconnection: te\r\n");
                }
            }
            // HTTP/2 may cut cookies into crumbs; in HTTP/1 there is one field (RFC 9113, 8.2.3)
            Known::Cookie if request => {
                if std::mem::take(&mut cookies_due) {
                    cookies(out, head)?;
                }
            }
            Known::Other if name == UPGRADE_IGNORED => {}
            Known::Host | Known::Te => {}
            _ if known.hop_by_hop() => {}
            Known::Other => line(out, name, value)?,
            // well-known names are what they are
            _ if !syntax::is_value(value) => return Err(SendError::Field),
            _ => raw_line(out, name, value),
        }
    }
    if let Some(n) = length_due {
        length_line(out, n);
    }
    Ok(())
}

fn length_line(out: &mut Vec<u8>, n: u64) {
    let mut digits = [0; 20];
    raw_line(out, b"content-length", decimal(n, &mut digits));
}

fn cookies(out: &mut Vec<u8>, head: &Head) -> Result<(), SendError> {
    out.extend_from_slice(b"cookie: ");
    let mut first = true;
    for (_, _, value) in head.fields().filter(|(known, ..)| *known == Known::Cookie) {
        if !syntax::is_value(value) {
            return Err(SendError::Field);
        }
        if !std::mem::take(&mut first) {
            out.extend_from_slice(b"; ");
        }
        out.extend_from_slice(value);
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// The `content-length` of a head, if it has one; several must agree.
pub(super) fn content_length(head: &Head) -> Result<Option<u64>, SendError> {
    let mut length = None;
    for (_, _, value) in head.fields().filter(|(known, ..)| *known == Known::ContentLength) {
        let n = syntax::decimal(value).ok_or(SendError::Field)?;
        if length.is_some_and(|o| o != n) {
            return Err(SendError::Field);
        }
        length = Some(n);
    }
    Ok(length)
}

pub(super) fn decimal(mut n: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            return &digits[at..];
        }
    }
}

fn hexadecimal_line(mut n: u64, digits: &mut [u8; 18]) -> &[u8] {
    digits[16..].copy_from_slice(b"\r\n");
    let mut at = 16;
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[(n & 15) as usize];
        n >>= 4;
        if n == 0 {
            return &digits[at..];
        }
    }
}

pub(super) fn status_line(out: &mut Vec<u8>, status: u16) {
    out.extend_from_slice(b"HTTP/1.1 ");
    let mut digits = [0; 20];
    out.extend_from_slice(decimal(u64::from(status), &mut digits));
    out.push(b' ');
    out.extend_from_slice(reason_phrase(status).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// IANA's registry of status codes; unknown ones have an empty phrase, which RFC 9112, 4 permits.
pub(super) fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        510 => "Not Extended",
        511 => "Network Authentication Required",
        _ => "",
    }
}
