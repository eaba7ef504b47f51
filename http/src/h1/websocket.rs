//! The handshake fields of WebSocket (RFC 6455, 4) that HTTP/2 does not have (RFC 8441, 5.1): made here where one side speaks HTTP/1 and the other
//! does not. Between two HTTP/1 sides the original fields pass through and nothing here runs.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};
use std::hash::{BuildHasher, RandomState};

const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// `Sec-WebSocket-Accept` for a key.
pub(super) fn accept(key: &[u8]) -> Vec<u8> {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize()).into_bytes()
}

/// A new `Sec-WebSocket-Key`: 16 bytes that differ from one handshake to the next. It is no secret, it only proves that the server is not a cache.
pub(super) fn key() -> Vec<u8> {
    let mut nonce = [0; 16];
    nonce[..8].copy_from_slice(&RandomState::new().hash_one(0u8).to_ne_bytes());
    nonce[8..].copy_from_slice(&RandomState::new().hash_one(1u8).to_ne_bytes());
    STANDARD.encode(nonce).into_bytes()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_example_of_the_rfc() {
        assert_eq!(super::accept(b"dGhlIHNhbXBsZSBub25jZQ=="), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(super::key().len(), 24);
        assert_ne!(super::key(), super::key());
    }
}
