//! The injector's own serving certificate: an authority of its own and a leaf, both in one Secret that all replicas share. It has nothing to do with the mesh's identities: the
//! API server verifies it by the caBundle of the webhook's configuration.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::{ServerConfig, pki_types::pem::PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::{sync::Arc, time::Duration};
use time::OffsetDateTime;

/// A year; renewed when a third is left. The authority lives as long as its leaf: both are replaced together, and the old authority stays in the caBundle until the new one is in force.
const LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// Clocks of nodes may differ.
const SKEW: Duration = Duration::from_secs(300);

#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error(transparent)]
    Make(#[from] rcgen::Error),
    #[error("{field}: {text}")]
    Read { field: &'static str, text: String },
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// The parts of the Secret, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The authority: what goes into the caBundle.
    pub ca: String,
    pub certificate: String,
    pub key: String,
    /// Seconds since 1970.
    pub not_after: i64,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl Pair {
    /// Makes an authority and a leaf for the Service `name` in `namespace`.
    pub fn make(name: &str, namespace: &str, now: OffsetDateTime) -> Result<Pair, CertificateError> {
        let not_after = now + LIFE;
        let dated = |mut p: CertificateParams| {
            (p.not_before, p.not_after) = (now - SKEW, not_after);
            p
        };
        let ca_key = KeyPair::generate()?;
        let mut ca = dated(CertificateParams::default());
        ca.distinguished_name.push(DnType::CommonName, "weft-injector");
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca_certificate = ca.self_signed(&ca_key)?;
        let issuer = Issuer::new(ca, ca_key);
        let key = KeyPair::generate()?;
        let names = vec![format!("{name}.{namespace}.svc"), format!("{name}.{namespace}.svc.cluster.local")];
        let mut leaf = dated(CertificateParams::new(names)?);
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.use_authority_key_identifier_extension = true;
        let certificate = leaf.signed_by(&key, &issuer)?;
        Ok(Pair {
            ca: ca_certificate.pem(),
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            not_after: not_after.unix_timestamp(),
        })
    }

    /// A third of its life is left, or it says nothing of itself.
    pub fn is_due(&self, now: OffsetDateTime) -> bool {
        self.not_after - now.unix_timestamp() < (LIFE.as_secs() / 3) as i64
    }

    /// As a TLS configuration; also the check that certificate and key belong together.
    pub fn server(&self) -> Result<Arc<ServerConfig>, CertificateError> {
        let bad = |field, e: &dyn std::fmt::Display| CertificateError::Read { field, text: e.to_string() };
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| bad("tls.crt", &e))?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|e| bad("tls.key", &e))?;
        CertificateDer::from_pem_slice(self.ca.as_bytes()).map_err(|e| bad("ca.crt", &e))?;
        let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_serves_and_is_due_in_time() {
        weft_identity::provider::install();
        let now = OffsetDateTime::now_utc();
        let p = Pair::make("weft-injector", "weft-system", now).unwrap();
        p.server().unwrap();
        assert!(!p.is_due(now) && !p.is_due(now + LIFE * 60 / 100) && p.is_due(now + LIFE * 70 / 100));
        assert!(!format!("{p:?}").contains("PRIVATE"));
        let other = Pair::make("weft-injector", "weft-system", now).unwrap();
        for broken in [
            Pair { key: other.key, ..p.clone() },
            Pair { certificate: "x".into(), ..p.clone() },
            Pair { ca: String::new(), ..p },
        ] {
            assert!(broken.server().is_err());
        }
    }
}
