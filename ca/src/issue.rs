//! Signing leaves.

use crate::{
    authenticate::Caller,
    csr::ProvenKey,
    state::{self, Authority, State, StateError},
};
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use std::time::Duration;
use weft_identity::{IdentityError, WorkloadIdentity, der};

#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    #[error("caller: {0}")]
    Identity(#[from] IdentityError),
    #[error("the issuer certificate has expired")]
    IssuerExpired,
    #[error("the issuer certificate is not valid yet: is the clock right?")]
    IssuerNotYetValid,
    #[error("signing: {0}")]
    Sign(#[from] rcgen::Error),
}

/// An issuer that is ready to sign.
pub struct LeafIssuer {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    trust_domain: Box<str>,
    not_before: UnixTime,
    not_after: UnixTime,
}

impl LeafIssuer {
    pub fn new(state: &State, authority: &Authority) -> Result<Self, StateError> {
        let (issuer, certificate) = authority.issuer_signer()?;
        let facts = der::facts(&certificate).map_err(|e| StateError::Part {
            id: authority.id,
            what: "issuer",
            reason: e.to_string().into(),
        })?;
        let (not_before, not_after) = (facts.not_before, facts.not_after);
        Ok(Self { issuer, trust_domain: state.trust_domain.as_str().into(), not_before, not_after, certificate })
    }

    /// The identity of a caller.
    pub fn identity(&self, caller: &Caller) -> Result<WorkloadIdentity, IdentityError> {
        WorkloadIdentity::new(&self.trust_domain, &caller.namespace, &caller.service_account)
    }

    /// A leaf for `identity` with the key, and the issuer's certificate after it. The leaf lives for `life`, but not longer than its issuer.
    pub fn sign(
        &self,
        identity: &WorkloadIdentity,
        key: &impl rcgen::PublicKeyData,
        now: UnixTime,
        life: Duration,
    ) -> Result<Vec<CertificateDer<'static>>, IssueError> {
        if now >= self.not_after {
            return Err(IssueError::IssuerExpired);
        }
        if now < self.not_before {
            return Err(IssueError::IssuerNotYetValid);
        }
        let mut p = CertificateParams::default();
        p.distinguished_name = DistinguishedName::new();
        p.subject_alt_names = vec![SanType::URI(identity.uri().to_owned().try_into()?)];
        p.is_ca = IsCa::ExplicitNoCa;
        p.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        p.use_authority_key_identifier_extension = true;
        p.serial_number = Some(state::serial());
        // clocks behind by a tenth of the life, at most a minute, do not matter; more would eat into the time before renewal
        let back = (life / 10).min(Duration::from_secs(60));
        state::validity(&mut p, now.as_secs(), life, back, self.not_after.as_secs());
        let leaf = p.signed_by(key, &self.issuer)?.der().clone();
        Ok(vec![leaf, self.certificate.clone()])
    }

    /// [`Self::sign`] for a request's key.
    pub fn sign_for(
        &self,
        caller: &Caller,
        key: &ProvenKey,
        now: UnixTime,
        life: Duration,
    ) -> Result<Vec<CertificateDer<'static>>, IssueError> {
        self.sign(&self.identity(caller)?, key, now, life)
    }
}
