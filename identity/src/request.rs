//! Keys and signing requests. A key is made for each certificate and lives in memory only.

use base64::Engine as _;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroize;

/// A fresh P-256 key with its certificate signing request. The request carries no names: the CA takes the public key and nothing else.
pub struct KeyRequest {
    key: rcgen::KeyPair,
    csr: Vec<u8>,
}

impl KeyRequest {
    pub fn generate() -> Result<Self, rcgen::Error> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let csr = params.serialize_request(&key)?.der().to_vec();
        Ok(Self { key, csr })
    }
    /// PKCS#10, DER.
    pub fn csr(&self) -> &[u8] {
        &self.csr
    }
    /// The key, for [`crate::Credentials::new`].
    pub fn into_key(self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }
}

impl Drop for KeyRequest {
    fn drop(&mut self) {
        // wipes the serialised form; aws-lc wipes its own copy when it frees it
        self.key.zeroize();
    }
}

impl std::fmt::Debug for KeyRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyRequest(..)")
    }
}

/// PEM (RFC 7468) of DER.
pub fn pem(label: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = String::with_capacity(text.len() + text.len() / 64 + 64);
    out.push_str(&format!("-----BEGIN {label}-----\n"));
    for at in (0..text.len()).step_by(64) {
        out.push_str(&text[at..text.len().min(at + 64)]);
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}
