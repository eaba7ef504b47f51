//! Why a handshake failed, for metrics and logs: one label of a fixed set, one sentence.

use crate::verify::Refusal;
use rustls::{AlertDescription, CertificateError, Error};
use std::io;

/// The cause of a failed handshake.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum HandshakeFailure {
    /// We refused the peer's certificate.
    #[error("peer's certificate refused: {0}")]
    Refused(Refusal),
    /// The peer presented no certificate where one is required.
    #[error("peer presented no certificate")]
    NoCertificate,
    /// The peer's ClientHello named a pod that is not this one, or none: a recycled address.
    #[error("the peer dialled another pod than this one")]
    ForeignName,
    /// The peer refused us; the alert is all it says.
    #[error("peer refused the handshake: {0:?}")]
    Alert(AlertDescription),
    /// No common protocol version, cipher suite, key exchange or application protocol.
    #[error("nothing in common with the peer: {0}")]
    Incompatible(Box<str>),
    /// Bytes that are not TLS, or TLS that breaks its rules.
    #[error("broken TLS: {0}")]
    Protocol(Box<str>),
    /// The connection ended during the handshake.
    #[error("connection lost during the handshake: {0:?}")]
    Lost(io::ErrorKind),
    #[error("handshake took too long")]
    TimedOut,
    /// Refused before it began: the source makes too many.
    #[error("too many handshakes from this source")]
    RateLimited,
}

impl HandshakeFailure {
    /// Of the error that tokio-rustls returns.
    pub fn of(error: &io::Error) -> Self {
        match error.get_ref().and_then(|e| e.downcast_ref::<Error>()) {
            Some(e) => Self::of_tls(e),
            None if error.kind() == io::ErrorKind::TimedOut => HandshakeFailure::TimedOut,
            None => HandshakeFailure::Lost(error.kind()),
        }
    }

    pub fn of_tls(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(e) => HandshakeFailure::Refused(refusal(e)),
            Error::NoCertificatesPresented => HandshakeFailure::NoCertificate,
            Error::AlertReceived(a) => HandshakeFailure::Alert(*a),
            Error::PeerIncompatible(e) => HandshakeFailure::Incompatible(format!("{e:?}").into()),
            Error::NoApplicationProtocol => HandshakeFailure::Incompatible("application protocol".into()),
            // the only resolver that can refuse is the one that looks at the name
            Error::General(text) if text == "no server certificate chain resolved" => HandshakeFailure::ForeignName,
            other => HandshakeFailure::Protocol(other.to_string().into()),
        }
    }

    /// The label of metrics: one of some thirty.
    pub fn label(&self) -> &'static str {
        match self {
            HandshakeFailure::Refused(r) => r.label(),
            HandshakeFailure::NoCertificate => "no_certificate",
            HandshakeFailure::ForeignName => "foreign_name",
            HandshakeFailure::Alert(_) => "refused_by_peer",
            HandshakeFailure::Incompatible(_) => "incompatible",
            HandshakeFailure::Protocol(_) => "protocol",
            HandshakeFailure::Lost(_) => "lost",
            HandshakeFailure::TimedOut => "timeout",
            HandshakeFailure::RateLimited => "rate_limited",
        }
    }

    /// Whether our own side found the peer's clock and ours apart, or might have: worth naming skew as the cause.
    pub fn suggests_skew(&self) -> bool {
        matches!(self, HandshakeFailure::Refused(Refusal::Expired { .. } | Refusal::NotYetValid { .. }))
            || matches!(self, HandshakeFailure::Alert(AlertDescription::CertificateExpired))
    }
}

fn refusal(e: &CertificateError) -> Refusal {
    match e {
        CertificateError::ExpiredContext { time, not_after } => {
            Refusal::Expired { not_after: not_after.as_secs(), now: time.as_secs() }
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            Refusal::NotYetValid { not_before: not_before.as_secs(), now: time.as_secs() }
        }
        CertificateError::UnknownIssuer => Refusal::UnknownIssuer,
        CertificateError::BadSignature => Refusal::BadSignature,
        CertificateError::UnhandledCriticalExtension => Refusal::CriticalExtension,
        CertificateError::Other(o) => match o.0.downcast_ref::<Refusal>() {
            Some(r) => r.clone(),
            None => Refusal::Malformed(o.to_string().into()),
        },
        other => Refusal::Malformed(format!("{other:?}").into()),
    }
}
