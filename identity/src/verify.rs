//! Who is at the other end: verification of a peer's certificate chain and of the one name that counts.
//!
//! Order: limits, the chain (rustls-webpki: signatures, validity, CA flags, critical extensions, name constraints), then the leaf's
//! purpose and key, then its identity. Every refusal has a type, kept through rustls so that metrics and logs can name it
//! ([`crate::HandshakeFailure`]).

use crate::{
    bundle::Bundle,
    der::{self, Facts, KeyKind},
    provider::LEAF_SCHEMES,
};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;
use webpki::{EndEntityCert, KeyUsage};
use weft_core::identity::WorkloadIdentity;

/// Certificates a peer may send: a leaf and three issuers. Weft's own chains have one issuer.
pub const MAX_CHAIN: usize = 4;
/// Bytes of all certificates together. Weft's own chains have about 1 KiB; an RSA-4096 corporate chain about 6 KiB.
pub const MAX_CHAIN_BYTES: usize = 32 << 10;

/// Why a peer's certificate was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("certificate expired at {not_after}, the clock here says {now} (seconds since the epoch)")]
    Expired { not_after: u64, now: u64 },
    #[error("certificate is valid from {not_before}, the clock here says {now} (seconds since the epoch)")]
    NotYetValid { not_before: u64, now: u64 },
    #[error("no root of the trust bundle signed the certificate")]
    UnknownIssuer,
    #[error("a signature in the chain does not verify")]
    BadSignature,
    #[error("an issuer's name constraints forbid the certificate")]
    NameConstraint,
    #[error("certificate has a critical extension that is not understood")]
    CriticalExtension,
    #[error("a CA certificate was presented as a leaf")]
    CaAsLeaf,
    #[error("certificate may not be used for {0} authentication")]
    Purpose(&'static str),
    #[error("key is too weak or of an unsupported kind (P-256, P-384 and Ed25519 are accepted)")]
    WeakKey,
    #[error("certificate has no URI name")]
    NoIdentity,
    #[error("certificate has {0} URI names; exactly one is accepted")]
    SeveralIdentities(usize),
    #[error("URI name {0:?} is not a workload identity: {1}")]
    NotAnIdentity(Box<str>, Box<str>),
    #[error("peer is of trust domain {got:?}, ours is {expected:?}")]
    WrongTrustDomain { expected: Box<str>, got: Box<str> },
    #[error("peer is {got}, expected {expected}")]
    WrongIdentity { expected: WorkloadIdentity, got: WorkloadIdentity },
    #[error("chain has {0} certificates; {MAX_CHAIN} are accepted")]
    ChainTooLong(usize),
    #[error("chain has {0} bytes; {MAX_CHAIN_BYTES} are accepted")]
    ChainTooLarge(usize),
    #[error("certificate is malformed: {0}")]
    Malformed(Box<str>),
}

impl Refusal {
    /// The label of metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Refusal::Expired { .. } => "expired",
            Refusal::NotYetValid { .. } => "not_yet_valid",
            Refusal::UnknownIssuer => "unknown_issuer",
            Refusal::BadSignature => "bad_signature",
            Refusal::NameConstraint => "name_constraint",
            Refusal::CriticalExtension => "critical_extension",
            Refusal::CaAsLeaf => "ca_as_leaf",
            Refusal::Purpose(_) => "purpose",
            Refusal::WeakKey => "weak_key",
            Refusal::NoIdentity => "no_identity",
            Refusal::SeveralIdentities(_) => "several_identities",
            Refusal::NotAnIdentity(..) => "not_an_identity",
            Refusal::WrongTrustDomain { .. } => "wrong_trust_domain",
            Refusal::WrongIdentity { .. } => "wrong_identity",
            Refusal::ChainTooLong(_) => "chain_too_long",
            Refusal::ChainTooLarge(_) => "chain_too_large",
            Refusal::Malformed(_) => "malformed",
        }
    }
}

impl From<Refusal> for Error {
    /// rustls' own variants where they exist, so that the peer gets the matching alert; the rest travels as it is.
    fn from(r: Refusal) -> Self {
        Error::InvalidCertificate(match r {
            Refusal::Expired { not_after, now } => {
                CertificateError::ExpiredContext { time: seconds(now), not_after: seconds(not_after) }
            }
            Refusal::NotYetValid { not_before, now } => {
                CertificateError::NotValidYetContext { time: seconds(now), not_before: seconds(not_before) }
            }
            Refusal::UnknownIssuer => CertificateError::UnknownIssuer,
            Refusal::BadSignature => CertificateError::BadSignature,
            Refusal::CriticalExtension => CertificateError::UnhandledCriticalExtension,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        })
    }
}

fn seconds(s: u64) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(s))
}

impl From<webpki::Error> for Refusal {
    fn from(e: webpki::Error) -> Self {
        use webpki::Error as E;
        match e {
            E::CertExpired { time, not_after } => {
                Refusal::Expired { not_after: not_after.as_secs(), now: time.as_secs() }
            }
            E::CertNotValidYet { time, not_before } => {
                Refusal::NotYetValid { not_before: not_before.as_secs(), now: time.as_secs() }
            }
            E::UnknownIssuer => Refusal::UnknownIssuer,
            E::InvalidSignatureForPublicKey => Refusal::BadSignature,
            E::NameConstraintViolation => Refusal::NameConstraint,
            E::UnsupportedCriticalExtension => Refusal::CriticalExtension,
            E::CaUsedAsEndEntity => Refusal::CaAsLeaf,
            E::MaximumPathDepthExceeded => Refusal::ChainTooLong(MAX_CHAIN),
            E::UnsupportedSignatureAlgorithmContext(_)
            | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
            | E::SignatureAlgorithmMismatch => Refusal::WeakKey,
            other => Refusal::Malformed(other.to_string().into()),
        }
    }
}

/// Which side the peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Server,
    Client,
}

/// Whom the verifier accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// Exactly this workload.
    Workload(WorkloadIdentity),
    /// Any workload of the bundle's trust domain.
    Member,
}

/// Verifies a chain and returns who it belongs to.
pub fn verify(
    bundle: &Bundle,
    provider: &CryptoProvider,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    role: Role,
    expect: &Expect,
) -> Result<WorkloadIdentity, Refusal> {
    let count = intermediates.len() + 1;
    if count > MAX_CHAIN {
        return Err(Refusal::ChainTooLong(count));
    }
    let bytes = intermediates.iter().map(|c| c.len()).sum::<usize>() + leaf.len();
    if bytes > MAX_CHAIN_BYTES {
        return Err(Refusal::ChainTooLarge(bytes));
    }
    let (usage, name) = match role {
        Role::Server => (KeyUsage::server_auth(), "server"),
        Role::Client => (KeyUsage::client_auth(), "client"),
    };
    let cert = EndEntityCert::try_from(leaf)?;
    let algorithms = provider.signature_verification_algorithms.all;
    let chain = cert.verify_for_usage(algorithms, bundle.anchors(), intermediates, now, usage, None, None);
    chain.map_err(|e| match e {
        webpki::Error::RequiredEkuNotFoundContext(_) | webpki::Error::EmptyEkuExtension => Refusal::Purpose(name),
        e => e.into(),
    })?;
    let facts = der::facts(leaf).map_err(|e| Refusal::Malformed(e.to_string().into()))?;
    // webpki takes a missing extension as "any purpose": the mesh's own leaves always carry it
    let fit = facts.usages.is_some_and(|(server, client)| if role == Role::Server { server } else { client });
    if !fit {
        return Err(Refusal::Purpose(name));
    }
    if facts.ca {
        return Err(Refusal::CaAsLeaf);
    }
    if facts.key == KeyKind::Other {
        return Err(Refusal::WeakKey);
    }
    let got = identity_of(&facts)?;
    if got.trust_domain() != bundle.trust_domain() {
        return Err(Refusal::WrongTrustDomain {
            expected: bundle.trust_domain().into(),
            got: got.trust_domain().into(),
        });
    }
    match expect {
        Expect::Workload(expected) if *expected != got => {
            Err(Refusal::WrongIdentity { expected: expected.clone(), got })
        }
        _ => Ok(got),
    }
}

/// The one identity of a leaf.
pub(crate) fn identity_of(facts: &Facts<'_>) -> Result<WorkloadIdentity, Refusal> {
    match facts.uris[..] {
        [] => Err(Refusal::NoIdentity),
        [uri] => {
            // shown in errors with its escapes; only the canonical ASCII form parses
            let text = String::from_utf8_lossy(uri);
            let refuse = |why: &str| Refusal::NotAnIdentity(text.chars().take(256).collect(), why.into());
            let uri = std::str::from_utf8(uri).map_err(|_| refuse("not UTF-8"))?;
            uri.parse().map_err(|e: weft_core::identity::IdentityError| refuse(&e.to_string()))
        }
        _ => Err(Refusal::SeveralIdentities(facts.uris.len())),
    }
}

/// Who the peer of a finished handshake is, from the certificates that its connection holds. They were verified by the handshake;
/// this only reads the name.
pub fn peer_identity(certificates: Option<&[CertificateDer<'_>]>) -> Result<WorkloadIdentity, Refusal> {
    let leaf = certificates.and_then(|c| c.first()).ok_or(Refusal::NoIdentity)?;
    identity_of(&der::facts(leaf).map_err(|e| Refusal::Malformed(e.to_string().into()))?)
}

/// rustls' verifier of both sides.
#[derive(Debug)]
pub(crate) struct Verifier {
    pub bundle: Arc<Bundle>,
    pub provider: Arc<CryptoProvider>,
    pub expect: Expect,
    /// Whether a client must present a certificate (servers only).
    pub mandatory: bool,
}

impl Verifier {
    fn signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if !LEAF_SCHEMES.contains(&dss.scheme) {
            return Err(Refusal::WeakKey.into());
        }
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }
}

fn no_tls12() -> Error {
    Error::General("TLS 1.2 is not spoken in the mesh".into())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify(&self.bundle, &self.provider, leaf, intermediates, now, Role::Server, &self.expect)?;
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        LEAF_SCHEMES.to_vec()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }
    /// None: the roots are known to every member, and naming them costs bytes in every handshake.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        verify(&self.bundle, &self.provider, leaf, intermediates, now, Role::Client, &self.expect)?;
        Ok(ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        LEAF_SCHEMES.to_vec()
    }
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
