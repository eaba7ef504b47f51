//! Header compression (RFC 7541), straight between the wire and [`Head`](crate::head::Head)s.
//!
//! The decoder hands each field to a closure as slices of the block, of a table or of a scratch buffer. What the field's name is ([`Class`]), whether its value is well formed and its hash
//! are found out once, when it enters the dynamic table, and come with it from then on; the hash travels in the head as a
//! [`Tag`](crate::head::Tag) to the encoder of the next connection, which needs one look-up and one comparison for a field that it has sent before.

mod decoder;
mod dynamic_table;
mod encoder;
pub mod huffman;
pub mod integer;
mod static_table;

pub use decoder::{DEFAULT_TABLE, Decoder, Field};
pub use encoder::Encoder;

use crate::head::Known;
use crate::syntax;

/// The block breaks RFC 7541: a connection error COMPRESSION_ERROR, because the tables of the two sides differ from here on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HpackError {
    #[error("header block ends in the middle of a field")]
    Truncated,
    #[error("integer is too large")]
    Integer,
    #[error("Huffman code is malformed")]
    Huffman,
    #[error("index is not in the tables")]
    Index,
    #[error("table size update is not at the beginning of the block, a third one, or beyond the limit")]
    SizeUpdate,
    #[error("table size update is missing")]
    SizeUpdateMissing,
}

/// What a field name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Method,
    Scheme,
    Authority,
    Path,
    Protocol,
    Status,
    UnknownPseudo,
    Regular(Known),
    /// Not a token in lower case, or longer than a [`Head`](crate::head::Head) can hold.
    BadName,
}

/// Names that are longer than this are malformed: the longest in use have 60 bytes.
const MAX_NAME: usize = 8 * 1024;

impl Class {
    pub fn of(name: &[u8]) -> Class {
        if name.first() == Some(&b':') {
            return match name {
                b":method" => Class::Method,
                b":scheme" => Class::Scheme,
                b":authority" => Class::Authority,
                b":path" => Class::Path,
                b":protocol" => Class::Protocol,
                b":status" => Class::Status,
                _ => Class::UnknownPseudo,
            };
        }
        match Known::of(name) {
            Known::Other if !syntax::is_lower_token(name) || name.len() > MAX_NAME => Class::BadName,
            known => Class::Regular(known),
        }
    }
}

/// No control characters, no white space at the ends (RFC 9113, 8.2.1).
#[inline]
pub(crate) fn value_ok(value: &[u8]) -> bool {
    let edge = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    syntax::is_value(value) && !edge(value.first()) && !edge(value.last())
}

/// Hash of a field, never 0 or 1. Not keyed: who makes collisions only makes his own connection compress worse.
#[inline]
pub(crate) fn hash(name: &[u8], value: &[u8]) -> u32 {
    const K: u64 = 0x517c_c1b7_2722_0a95;
    let mut h = (name.len() as u64) << 32 | value.len() as u64;
    for text in [name, value] {
        let (words, rest) = text.as_chunks::<8>();
        for w in words {
            h = (h.rotate_left(5) ^ u64::from_le_bytes(*w)).wrapping_mul(K);
        }
        let mut tail = 0u64;
        for b in rest {
            tail = tail << 8 | u64::from(*b);
        }
        h = (h.rotate_left(5) ^ tail).wrapping_mul(K);
    }
    ((h >> 32) as u32).max(2)
}

#[cfg(test)]
#[path = "hpack_tests.rs"]
mod tests;
