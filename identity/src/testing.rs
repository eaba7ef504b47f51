//! A mesh's CA and leaves in memory, for tests. Also the odd certificates that a peer must refuse.
#![allow(clippy::unwrap_used, reason = "only tests use it")]

use crate::{
    bundle::Bundle,
    credentials::{CredentialCell, Credentials},
    provider::{self, Clock},
};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::{sync::Arc, time::Duration, time::SystemTime};
use weft_core::identity::WorkloadIdentity;

/// A root and an issuer under it. Leaves live for a day.
pub struct TestMesh {
    pub trust_domain: String,
    pub root: CertificateDer<'static>,
    pub issuer: CertificateDer<'static>,
    issuer_params: Issuer<'static, KeyPair>,
    pub clock: Clock,
    version: u64,
}

fn authority(name: &str, depth: u8) -> CertificateParams {
    let mut p = CertificateParams::default();
    p.distinguished_name = DistinguishedName::new();
    // names of their own, as the CA gives them: two authorities of one name differ in their keys only
    static MADE: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = MADE.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    p.distinguished_name.push(DnType::CommonName, format!("{name} {number}"));
    p.is_ca = IsCa::Ca(BasicConstraints::Constrained(depth));
    p.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    p.not_before = (SystemTime::now() - Duration::from_secs(86_400)).into();
    p.not_after = (SystemTime::now() + Duration::from_secs(86_400 * 365)).into();
    p.use_authority_key_identifier_extension = true;
    p
}

impl TestMesh {
    pub fn new(trust_domain: &str) -> Self {
        let root_key = KeyPair::generate().unwrap();
        let root = authority("root", 1);
        let root_cert = root.self_signed(&root_key).unwrap();
        let root = Issuer::new(root, root_key);
        let issuer_key = KeyPair::generate().unwrap();
        let issuer = authority("issuer", 0);
        let issuer_cert = issuer.signed_by(&issuer_key, &root).unwrap();
        Self {
            trust_domain: trust_domain.into(),
            root: root_cert.der().clone(),
            issuer: issuer_cert.der().clone(),
            issuer_params: Issuer::new(issuer, issuer_key),
            clock: provider::system_clock(),
            version: 1,
        }
    }
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }
    pub fn identity(&self, namespace: &str, account: &str) -> WorkloadIdentity {
        WorkloadIdentity::new(&self.trust_domain, namespace, account).unwrap()
    }
    pub fn bundle(&self) -> Arc<Bundle> {
        Arc::new(Bundle::new(&self.trust_domain, self.version, &[], vec![self.root.clone()]).unwrap())
    }

    /// The parameters of a correct leaf, to be spoilt.
    pub fn leaf_params(&self, namespace: &str, account: &str) -> CertificateParams {
        let mut p = CertificateParams::default();
        p.distinguished_name = DistinguishedName::new();
        let uri = self.identity(namespace, account).uri().to_owned();
        p.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        p.is_ca = IsCa::ExplicitNoCa;
        p.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        p.use_authority_key_identifier_extension = true;
        p.not_before = (SystemTime::now() - Duration::from_secs(60)).into();
        p.not_after = (SystemTime::now() + Duration::from_secs(86_400)).into();
        p
    }
    pub fn sign(&self, params: &CertificateParams, key: &KeyPair) -> Certificate {
        params.signed_by(key, &self.issuer_params).unwrap()
    }
    /// Chain and key of a leaf made from `params`.
    pub fn leaf_from(&self, params: &CertificateParams) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        self.leaf_with_key(params, KeyPair::generate().unwrap())
    }
    pub fn leaf_with_key(
        &self,
        params: &CertificateParams,
        key: KeyPair,
    ) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let leaf = self.sign(params, &key).der().clone();
        (vec![leaf, self.issuer.clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
    }
    pub fn leaf(&self, namespace: &str, account: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        self.leaf_from(&self.leaf_params(namespace, account))
    }

    /// Credentials of a workload.
    pub fn credentials(&self, namespace: &str, account: &str, uid: Option<&str>) -> Arc<Credentials> {
        let (chain, key) = self.leaf(namespace, account);
        let uid = uid.map(Into::into);
        Arc::new(Credentials::new(key, chain, self.bundle(), uid, self.clock.clone()).unwrap())
    }
    /// A cell that already holds credentials.
    pub fn cell(&self, namespace: &str, account: &str, uid: Option<&str>) -> CredentialCell {
        let cell = CredentialCell::new(self.bundle());
        let (chain, key) = self.leaf(namespace, account);
        cell.install_leaf(key, chain, uid.map(Into::into), self.clock.clone()).unwrap();
        cell
    }
}
