//! Reading a signing request: its public key, and the proof that the sender holds the private half. Everything else that it asks for
//! (names, CA flags, lifetimes, extensions) is passed over unread.

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use rcgen::{PublicKeyData, SignatureAlgorithm};
use weft_identity::der::{self, KeyKind};

/// The largest request that is read. A P-256 request without names has 200 bytes.
pub const MAX_CSR: usize = 8 << 10;

const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const ECDSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    #[error("request is larger than {MAX_CSR} bytes")]
    TooLarge,
    #[error("request is not PKCS#10 in DER")]
    Malformed,
    #[error("the key is not P-256, P-384 or Ed25519")]
    Key,
    #[error("the request is not signed with its own key")]
    Signature,
}

/// The public key of a request that was signed with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenKey {
    raw: Vec<u8>,
    algorithm: &'static SignatureAlgorithm,
}
impl PublicKeyData for ProvenKey {
    fn der_bytes(&self) -> &[u8] {
        &self.raw
    }
    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

/// Reads a request. Call only for callers who have been authenticated.
pub fn proven_key(csr: &[u8]) -> Result<ProvenKey, CsrError> {
    if csr.len() > MAX_CSR {
        return Err(CsrError::TooLarge);
    }
    let request = der::request(csr).map_err(|_| CsrError::Malformed)?;
    let (verify, algorithm): (&dyn VerificationAlgorithm, _) = match (request.key, request.algorithm) {
        (KeyKind::P256, ECDSA_SHA256) => (&signature::ECDSA_P256_SHA256_ASN1, &rcgen::PKCS_ECDSA_P256_SHA256),
        (KeyKind::P384, ECDSA_SHA384) => (&signature::ECDSA_P384_SHA384_ASN1, &rcgen::PKCS_ECDSA_P384_SHA384),
        (KeyKind::Ed25519, ED25519) => (&signature::ED25519, &rcgen::PKCS_ED25519),
        (KeyKind::Other, _) => return Err(CsrError::Key),
        _ => return Err(CsrError::Signature),
    };
    let key = UnparsedPublicKey::new(verify, request.public_key);
    key.verify(request.signed, request.signature).map_err(|_| CsrError::Signature)?;
    Ok(ProvenKey { raw: request.public_key.to_vec(), algorithm })
}

#[cfg(test)]
#[path = "csr_tests.rs"]
mod tests;
