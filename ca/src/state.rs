//! What the CA is: its authorities, which of them signs, and where a rotation stands. A pure value; every step makes a new one.
//!
//! A root rotation from A to B:
//!
//! ```text
//! stable {A}  --start-->  distribute {A,B}, A signs  --gate: all confirmed the bundle-->  renew {A,B}, B signs
//!             <--abort--                                                                    |  ^abort: A signs again, renew
//! stable {B}  <--gate: all confirmed a leaf of B and the bundle-----------------------------+
//! ```
//!
//! At each point the bundle that proxies have or are being given contains every root that any valid leaf was signed under, so a
//! rotation may stop, crash or be turned back at any step without an outage.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
    SerialNumber,
};
use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, time::Duration};
use weft_identity::{Bundle, BundleError, IdentityError, WorkloadIdentity, der, request};
use zeroize::Zeroizing;

/// Version of the document.
const FORMAT: u32 = 1;
/// Certificates begin this long before they are made: clocks of pods may be behind.
const BACKDATE: Duration = Duration::from_secs(300);

/// How long certificates live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lives {
    pub root: Duration,
    pub issuer: Duration,
}
impl Default for Lives {
    fn default() -> Self {
        Self { root: Duration::from_secs(10 * 365 * 86_400), issuer: Duration::from_secs(365 * 86_400) }
    }
}

/// A private key as PKCS#8 PEM: never shown, wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);
impl Secret {
    pub fn new(pem: String) -> Self {
        Self(Zeroizing::new(pem))
    }
    fn key(&self) -> Result<KeyPair, rcgen::Error> {
        KeyPair::from_pem(&self.0)
    }
}
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}
impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d).map(Self::new)
    }
}

/// A root and the issuer under it. Proxies get leaves of the issuer; the root's key is used for issuers only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authority {
    pub id: u32,
    /// PEM.
    pub root: String,
    pub root_key: Secret,
    /// PEM.
    pub issuer: String,
    pub issuer_key: Secret,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Both roots are being distributed, the old issuer signs.
    Distribute,
    /// The new issuer signs, leaves are being renewed.
    Renew,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    pub from: u32,
    pub to: u32,
    pub phase: Phase,
    /// When the phase began, seconds since the epoch.
    pub since: u64,
}

/// The document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    format: u32,
    pub trust_domain: String,
    /// Grows with every change.
    pub revision: u64,
    /// Grows with every change of the bundle.
    pub bundle_version: u64,
    /// One, or two during a rotation.
    pub authorities: Vec<Authority>,
    /// Id of the authority that signs leaves.
    pub signing: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
}

/// What must hold before a rotation goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gate {
    /// Every proxy uses this bundle or a later one.
    Bundle(u64),
    /// Every proxy has a leaf of this issuer, and the bundle.
    Issuer { bundle: u64, key: Box<[u8]> },
}

/// A root that the user brings: certificate and key, PEM.
#[derive(Clone, Debug)]
pub struct Made {
    pub root: String,
    pub key: Secret,
}

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("state has format {0}; this version knows {FORMAT}")]
    Format(u32),
    #[error("trust domain: {0}")]
    TrustDomain(#[from] IdentityError),
    #[error("authority {id}: {what} is not usable: {reason}")]
    Part { id: u32, what: &'static str, reason: Box<str> },
    #[error("authority {id}: the {what} key does not belong to the {what} certificate")]
    WrongPair { id: u32, what: &'static str },
    #[error("authority {id}: the issuer certificate was not signed by the root")]
    WrongIssuer { id: u32 },
    #[error("authority {id}: the {what} certificate expired {seconds} s ago")]
    Expired { id: u32, what: &'static str, seconds: u64 },
    #[error("authority {id}: the {what} certificate is not valid for another {seconds} s: is the clock right?")]
    NotYetValid { id: u32, what: &'static str, seconds: u64 },
    #[error("the {what} certificate is no CA certificate")]
    NotCa { what: &'static str },
    #[error("authority {0} is named but not there")]
    NoAuthority(u32),
    #[error("state has {0} authorities; one, or two during a rotation, are expected")]
    Authorities(usize),
    #[error("a rotation is under way ({0:?}); it must end or be aborted first")]
    UnderWay(Phase),
    #[error("no rotation is under way")]
    NoRotation,
    #[error("making a certificate: {0}")]
    Make(#[from] rcgen::Error),
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

pub(crate) fn certificate(pem: &str) -> Result<CertificateDer<'static>, Box<str>> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| e.to_string().into())
}

fn at(seconds: u64) -> time::OffsetDateTime {
    // beyond the year 9999 there are no certificates
    time::OffsetDateTime::from_unix_timestamp(seconds.min(253_402_300_799) as i64)
        .unwrap_or(time::OffsetDateTime::UNIX_EPOCH)
}

/// A random serial number: 127 bits, positive.
pub(crate) fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

/// Validity of a certificate made at `now`.
pub(crate) fn validity(p: &mut CertificateParams, now: u64, life: Duration, back: Duration, until: u64) {
    p.not_before = at(now.saturating_sub(back.as_secs()));
    p.not_after = at((now + life.as_secs()).min(until));
}

fn ca_params(kind: &str, trust_domain: &str, depth: u8) -> Result<CertificateParams, StateError> {
    let mut p = CertificateParams::default();
    let tag: u32 = rand::random();
    p.distinguished_name = DistinguishedName::new();
    p.distinguished_name.push(DnType::OrganizationName, "weft.dev");
    // the tag keeps the names of successive authorities apart, for path building and for people
    p.distinguished_name.push(DnType::CommonName, format!("{trust_domain} {kind} {tag:08x}"));
    p.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").try_into()?)];
    p.is_ca = IsCa::Ca(BasicConstraints::Constrained(depth));
    p.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    p.use_authority_key_identifier_extension = true;
    p.serial_number = Some(serial());
    Ok(p)
}

impl Authority {
    /// A new root with its issuer.
    fn make(id: u32, trust_domain: &str, now: u64, lives: Lives) -> Result<Self, StateError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = ca_params("root", trust_domain, 1)?;
        validity(&mut params, now, lives.root, BACKDATE, u64::MAX);
        let root = params.self_signed(&key)?.pem();
        let made = Made { root, key: Secret::new(key.serialize_pem()) };
        Self::under(id, made, trust_domain, now, lives)
    }
    /// A new issuer under a given root.
    fn under(id: u32, made: Made, trust_domain: &str, now: u64, lives: Lives) -> Result<Self, StateError> {
        let part = |reason: Box<str>| StateError::Part { id, what: "root", reason };
        let root = certificate(&made.root).map_err(part)?;
        let facts = der::facts(&root).map_err(|e| part(e.to_string().into()))?;
        if !facts.ca {
            return Err(StateError::NotCa { what: "root" });
        }
        let until = facts.not_after.as_secs();
        let root_key = made.key.key().map_err(|e| part(e.to_string().into()))?;
        belongs(id, "root", &root, &root_key)?;
        let signer = Issuer::from_ca_cert_der(&root, &root_key)?;
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = ca_params("issuer", trust_domain, 0)?;
        validity(&mut params, now, lives.issuer, BACKDATE, until);
        let issuer = params.signed_by(&key, &signer)?.pem();
        // the certificate alone: a file may hold text around it
        let root = request::pem("CERTIFICATE", &root);
        Ok(Self { id, root, root_key: made.key, issuer, issuer_key: Secret::new(key.serialize_pem()) })
    }

    /// Key identifier of the issuer.
    fn issuer_key_id(&self) -> Result<Box<[u8]>, StateError> {
        let part = |reason: Box<str>| StateError::Part { id: self.id, what: "issuer", reason };
        let cert = certificate(&self.issuer).map_err(part)?;
        let facts = der::facts(&cert).map_err(|e| part(e.to_string().into()))?;
        Ok(facts.subject_key.ok_or_else(|| part("it has no key identifier".into()))?.into())
    }

    fn check(&self, now: u64) -> Result<(), StateError> {
        let id = self.id;
        for (what, pem, key) in [("root", &self.root, &self.root_key), ("issuer", &self.issuer, &self.issuer_key)] {
            let part = |reason: String| StateError::Part { id, what, reason: reason.into() };
            let cert = certificate(pem).map_err(|e| part(e.into()))?;
            let facts = der::facts(&cert).map_err(|e| part(e.to_string()))?;
            if !facts.ca {
                return Err(StateError::NotCa { what });
            }
            if facts.not_after.as_secs() <= now {
                return Err(StateError::Expired { id, what, seconds: now - facts.not_after.as_secs() });
            }
            if facts.not_before.as_secs() > now {
                return Err(StateError::NotYetValid { id, what, seconds: facts.not_before.as_secs() - now });
            }
            belongs(id, what, &cert, &key.key().map_err(|e| part(e.to_string()))?)?;
        }
        let part = |what, reason: Box<str>| StateError::Part { id, what, reason };
        let (root, issuer) = (
            certificate(&self.root).map_err(|e| part("root", e))?,
            certificate(&self.issuer).map_err(|e| part("issuer", e))?,
        );
        signed_by(&issuer, &root).then_some(()).ok_or(StateError::WrongIssuer { id })
    }

    pub(crate) fn issuer_signer(&self) -> Result<(Issuer<'static, KeyPair>, CertificateDer<'static>), StateError> {
        let part = |reason: String| StateError::Part { id: self.id, what: "issuer", reason: reason.into() };
        let cert = certificate(&self.issuer).map_err(|e| part(e.into()))?;
        let key = self.issuer_key.key().map_err(|e| part(e.to_string()))?;
        Ok((Issuer::from_ca_cert_der(&cert, key)?, cert))
    }
}

/// Whether a key is the one in a certificate.
fn belongs(id: u32, what: &'static str, cert: &CertificateDer<'_>, key: &KeyPair) -> Result<(), StateError> {
    let parsed = webpki::EndEntityCert::try_from(cert).map_err(|e| StateError::Part {
        id,
        what,
        reason: e.to_string().into(),
    })?;
    let spki = rcgen::PublicKeyData::subject_public_key_info(key);
    (parsed.subject_public_key_info().as_ref() == spki).then_some(()).ok_or(StateError::WrongPair { id, what })
}

/// Whether the root signed the issuer. webpki judges issuers only on the way to a leaf, so the signature is verified directly.
fn signed_by(issuer: &CertificateDer<'_>, root: &CertificateDer<'_>) -> bool {
    let (Ok(signed), Ok(root)) = (der::signed(issuer), webpki::EndEntityCert::try_from(root)) else { return false };
    let provider = weft_identity::provider::provider();
    let mut algorithms = provider.signature_verification_algorithms.all.iter();
    algorithms.any(|a| {
        a.signature_alg_id().as_ref() == signed.algorithm
            && root.verify_signature(*a, signed.part, signed.signature).is_ok()
    })
}

fn is_old(pem: &str, now: UnixTime) -> bool {
    let Ok(cert) = certificate(pem) else { return false };
    der::facts(&cert).is_ok_and(|f| {
        let (from, to) = (f.not_before.as_secs(), f.not_after.as_secs());
        now.as_secs() > from + to.saturating_sub(from) / 3 * 2
    })
}

impl State {
    /// A first state: a new root, or the user's.
    pub fn make(trust_domain: &str, root: Option<Made>, now: UnixTime, lives: Lives) -> Result<Self, StateError> {
        // the same rules as for every identity of the domain
        WorkloadIdentity::new(trust_domain, "a", "b")?;
        let now = now.as_secs();
        let authority = match root {
            Some(made) => Authority::under(1, made, trust_domain, now, lives)?,
            None => Authority::make(1, trust_domain, now, lives)?,
        };
        let state = Self {
            format: FORMAT,
            trust_domain: trust_domain.into(),
            revision: 1,
            bundle_version: 1,
            signing: authority.id,
            authorities: vec![authority],
            rotation: None,
        };
        state.check(UnixTime::since_unix_epoch(Duration::from_secs(now)))?;
        Ok(state)
    }

    /// Whether leaves may be signed with it now. The error names the part that is wrong.
    pub fn check(&self, now: UnixTime) -> Result<(), StateError> {
        if self.format != FORMAT {
            return Err(StateError::Format(self.format));
        }
        WorkloadIdentity::new(&self.trust_domain, "a", "b")?;
        let expected = if self.rotation.is_some() { 2 } else { 1 };
        if self.authorities.len() != expected {
            return Err(StateError::Authorities(self.authorities.len()));
        }
        self.authority(self.signing)?;
        if let Some(r) = &self.rotation {
            self.authority(r.from)?;
            self.authority(r.to)?;
        }
        self.authorities.iter().try_for_each(|a| a.check(now.as_secs()))
    }

    pub fn authority(&self, id: u32) -> Result<&Authority, StateError> {
        self.authorities.iter().find(|a| a.id == id).ok_or(StateError::NoAuthority(id))
    }
    /// The authority for the CA's own certificate: the oldest, which even a pod that was created before the rotation trusts.
    pub fn oldest(&self) -> Result<&Authority, StateError> {
        self.authorities.iter().min_by_key(|a| a.id).ok_or(StateError::Authorities(0))
    }

    /// What proxies should trust now.
    pub fn bundle(&self) -> Result<Bundle, StateError> {
        let root =
            |a: &Authority| certificate(&a.root).map_err(|reason| StateError::Part { id: a.id, what: "root", reason });
        let roots = self.authorities.iter().map(root).collect::<Result<_, _>>()?;
        let issuer = self.authority(self.signing)?.issuer_key_id()?;
        Ok(Bundle::new(&self.trust_domain, self.bundle_version, &issuer, roots)?)
    }

    fn changed(mut self) -> Self {
        self.revision += 1;
        self.bundle_version += 1;
        self
    }

    /// Begins a root rotation: a second authority beside the first.
    pub fn rotate_root(&self, root: Option<Made>, now: UnixTime, lives: Lives) -> Result<Self, StateError> {
        if let Some(r) = &self.rotation {
            return Err(StateError::UnderWay(r.phase));
        }
        let (now, from) = (now.as_secs(), self.signing);
        let to = self.authorities.iter().map(|a| a.id).max().unwrap_or(0) + 1;
        let authority = match root {
            Some(made) => Authority::under(to, made, &self.trust_domain, now, lives)?,
            None => Authority::make(to, &self.trust_domain, now, lives)?,
        };
        let mut next = self.clone();
        next.authorities.push(authority);
        next.rotation = Some(Rotation { from, to, phase: Phase::Distribute, since: now });
        Ok(next.changed())
    }

    /// A new issuer under the same root. Needs no gate: everybody trusts the root, and leaves bring their issuer's certificate.
    pub fn rotate_issuer(&self, now: UnixTime, lives: Lives) -> Result<Self, StateError> {
        let mut next = self.clone();
        let signing = next.signing;
        let old = next.authorities.iter_mut().find(|a| a.id == signing).ok_or(StateError::NoAuthority(signing))?;
        let made = Made { root: old.root.clone(), key: old.root_key.clone() };
        *old = Authority::under(old.id, made, &self.trust_domain, now.as_secs(), lives)?;
        Ok(next.changed())
    }

    /// What the rotation waits for.
    pub fn gate(&self) -> Result<Option<Gate>, StateError> {
        let Some(r) = &self.rotation else { return Ok(None) };
        Ok(Some(match r.phase {
            Phase::Distribute => Gate::Bundle(self.bundle_version),
            Phase::Renew => {
                Gate::Issuer { bundle: self.bundle_version, key: self.authority(self.signing)?.issuer_key_id()? }
            }
        }))
    }

    /// The next step of the rotation. The caller has seen the gate open (or an operator answers for it).
    pub fn advance(&self, now: UnixTime) -> Result<Self, StateError> {
        let r = self.rotation.ok_or(StateError::NoRotation)?;
        let mut next = self.clone();
        match r.phase {
            Phase::Distribute => {
                next.signing = r.to;
                next.rotation = Some(Rotation { phase: Phase::Renew, since: now.as_secs(), ..r });
            }
            Phase::Renew => {
                next.authorities.retain(|a| a.id == r.to);
                next.rotation = None;
            }
        }
        Ok(next.changed())
    }

    /// Turns the rotation back. While distributing nothing was signed under the new root: it goes at once. Later its leaves are about:
    /// the old issuer signs again and the new root goes when all have renewed.
    pub fn abort(&self, now: UnixTime) -> Result<Self, StateError> {
        let r = self.rotation.ok_or(StateError::NoRotation)?;
        let mut next = self.clone();
        match r.phase {
            Phase::Distribute => {
                next.authorities.retain(|a| a.id == r.from);
                next.rotation = None;
            }
            Phase::Renew => {
                next.signing = r.from;
                next.rotation = Some(Rotation { from: r.to, to: r.from, phase: Phase::Renew, since: now.as_secs() });
            }
        }
        Ok(next.changed())
    }

    /// Whether one of the authorities has this root, PEM.
    pub fn has_root(&self, pem: &str) -> bool {
        let root = certificate(pem).ok();
        root.is_some() && self.authorities.iter().any(|a| certificate(&a.root).ok() == root)
    }
    /// Whether the signing issuer has lived two thirds of its life.
    pub fn issuer_is_old(&self, now: UnixTime) -> bool {
        self.authority(self.signing).is_ok_and(|a| is_old(&a.issuer, now))
    }
    /// Whether the root above it has.
    pub fn root_is_old(&self, now: UnixTime) -> bool {
        self.authority(self.signing).is_ok_and(|a| is_old(&a.root, now))
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
