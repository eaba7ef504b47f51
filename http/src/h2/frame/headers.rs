//! HEADERS and CONTINUATION (RFC 9113, 6.2 and 6.10).

use super::{HEADER_LEN, Header, flag, kind, put_header};

/// The fragment of a HEADERS frame, without padding and priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers<'a> {
    pub fragment: &'a [u8],
    /// Of the deprecated priority fields.
    pub depends_on: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadersError {
    /// Too short for the fields that the flags announce.
    Length,
    Padding,
}

pub fn headers<'a>(header: &Header, mut payload: &'a [u8]) -> Result<Headers<'a>, HeadersError> {
    let mut padding = 0;
    if header.has(flag::PADDED) {
        let (len, rest) = payload.split_first().ok_or(HeadersError::Length)?;
        (padding, payload) = (*len as usize, rest);
    }
    let mut depends_on = None;
    if header.has(flag::PRIORITY) {
        let (priority, rest) = payload.split_at_checked(5).ok_or(HeadersError::Length)?;
        (depends_on, payload) = (super::control::priority(priority), rest);
    }
    let len = payload.len().checked_sub(padding).ok_or(HeadersError::Padding)?;
    Ok(Headers { fragment: &payload[..len], depends_on })
}

/// Completes the frame that begins at `at` in `out`: the header has been left blank there and a block follows to the end. What is longer than a frame may be
/// goes into CONTINUATION frames.
#[inline]
pub fn finish(out: &mut Vec<u8>, at: usize, stream: u32, end: bool, max_frame: usize) {
    let len = out.len() - at - HEADER_LEN;
    let end = u8::from(end) * flag::END_STREAM;
    if len > max_frame {
        return split(out, at, stream, end, max_frame);
    }
    let header = Header { len: len as u32, kind: kind::HEADERS, flags: flag::END_HEADERS | end, stream };
    out[at..at + HEADER_LEN].copy_from_slice(&header.bytes());
}

#[cold]
fn split(out: &mut Vec<u8>, at: usize, stream: u32, end: u8, max_frame: usize) {
    let block = out[at + HEADER_LEN..].to_vec();
    out.truncate(at);
    let mut pieces = block.chunks(max_frame).peekable();
    let (mut kind, mut flags) = (kind::HEADERS, end);
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            flags |= flag::END_HEADERS;
        }
        put_header(out, piece.len(), kind, flags, stream);
        out.extend_from_slice(piece);
        (kind, flags) = (kind::CONTINUATION, 0);
    }
}
