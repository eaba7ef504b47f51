//! Frames (RFC 9113, 4.1 and 6): parsing and writing, no state. One file for each kind that has more than a fixed form.

pub mod control;
pub mod headers;
pub mod settings;

/// Frame types.
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Frame flags.
pub mod flag {
    pub const END_STREAM: u8 = 0x1;
    pub const ACK: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

/// What a client sends first (RFC 9113, 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const HEADER_LEN: usize = 9;
/// The least SETTINGS_MAX_FRAME_SIZE, and its default (RFC 9113, 6.5.2).
pub const MIN_MAX_FRAME: u32 = 16_384;
/// The default SETTINGS_INITIAL_WINDOW_SIZE, and the connection's window at the start (RFC 9113, 6.9.2).
pub const DEFAULT_WINDOW: u32 = 65_535;
/// RFC 9113, 6.9.1.
pub const MAX_WINDOW: i64 = (1 << 31) - 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub len: u32,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

impl Header {
    #[inline]
    pub fn parse(b: &[u8; HEADER_LEN]) -> Header {
        Header {
            len: u32::from_be_bytes([0, b[0], b[1], b[2]]),
            kind: b[3],
            flags: b[4],
            // the reserved bit is ignored
            stream: u32::from_be_bytes([b[5], b[6], b[7], b[8]]) & 0x7fff_ffff,
        }
    }
    #[inline]
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
    #[inline]
    pub fn bytes(&self) -> [u8; HEADER_LEN] {
        let (l, s) = (self.len.to_be_bytes(), self.stream.to_be_bytes());
        [l[1], l[2], l[3], self.kind, self.flags, s[0], s[1], s[2], s[3]]
    }
}

/// Appends a frame header.
#[inline]
pub fn put_header(out: &mut Vec<u8>, len: usize, kind: u8, flags: u8, stream: u32) {
    out.extend_from_slice(&Header { len: len as u32, kind, flags, stream }.bytes());
}

/// Appends a DATA frame.
#[inline]
pub fn put_data(out: &mut Vec<u8>, stream: u32, data: &[u8], end: bool) {
    put_header(out, data.len(), kind::DATA, u8::from(end) * flag::END_STREAM, stream);
    out.extend_from_slice(data);
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
