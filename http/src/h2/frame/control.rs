//! Frames of fixed form: RST_STREAM, PING, GOAWAY, WINDOW_UPDATE, PRIORITY (RFC 9113, 6.3, 6.4, 6.7, 6.8, 6.9).

use super::{kind, put_header};
use crate::h2::ErrorCode;

#[inline]
fn word(payload: &[u8], at: usize) -> Option<u32> {
    payload.get(at..at + 4)?.first_chunk().map(|b| u32::from_be_bytes(*b))
}

pub fn put_rst_stream(out: &mut Vec<u8>, stream: u32, code: ErrorCode) {
    put_header(out, 4, kind::RST_STREAM, 0, stream);
    out.extend_from_slice(&code.to_u32().to_be_bytes());
}

/// `None`: not four bytes.
pub fn rst_stream(payload: &[u8]) -> Option<ErrorCode> {
    (payload.len() == 4).then(|| word(payload, 0)).flatten().map(ErrorCode::from_u32)
}

pub fn put_window_update(out: &mut Vec<u8>, stream: u32, increment: u32) {
    put_header(out, 4, kind::WINDOW_UPDATE, 0, stream);
    out.extend_from_slice(&increment.to_be_bytes());
}

/// `None`: not four bytes. Zero is for the caller to judge.
#[inline]
pub fn window_update(payload: &[u8]) -> Option<u32> {
    (payload.len() == 4).then(|| word(payload, 0)).flatten().map(|n| n & 0x7fff_ffff)
}

pub fn put_ping(out: &mut Vec<u8>, ack: bool, payload: [u8; 8]) {
    put_header(out, 8, kind::PING, u8::from(ack) * super::flag::ACK, 0);
    out.extend_from_slice(&payload);
}

/// `None`: not eight bytes.
pub fn ping(payload: &[u8]) -> Option<[u8; 8]> {
    payload.try_into().ok()
}

pub fn put_goaway(out: &mut Vec<u8>, last: u32, code: ErrorCode, debug: &[u8]) {
    put_header(out, 8 + debug.len(), kind::GOAWAY, 0, 0);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&code.to_u32().to_be_bytes());
    out.extend_from_slice(debug);
}

/// The last stream that the peer processes, and why it goes. `None`: shorter than eight bytes.
pub fn goaway(payload: &[u8]) -> Option<(u32, ErrorCode)> {
    Some((word(payload, 0)? & 0x7fff_ffff, ErrorCode::from_u32(word(payload, 4)?)))
}

/// The stream that is depended on. Nothing else of PRIORITY is used (RFC 9113, 5.3.2). `None`: not five bytes.
pub fn priority(payload: &[u8]) -> Option<u32> {
    (payload.len() == 5).then(|| word(payload, 0)).flatten().map(|n| n & 0x7fff_ffff)
}
