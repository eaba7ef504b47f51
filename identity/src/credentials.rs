//! A workload's credentials and the TLS configurations made from them.
//!
//! A configuration for dialling is made for each expected identity, since the verifier carries it; it costs a few allocations
//! beside the 150 us of a handshake. Configurations for accepting are made once for each set of credentials.

use crate::{
    bundle::Bundle,
    der,
    provider::{self, Clock},
    verify::{self, Expect, Refusal, Role, Verifier},
};
use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use std::sync::{Arc, OnceLock};
use tokio::sync::watch;
use weft_core::identity::WorkloadIdentity;

/// What is inside a TLS connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// HTTP of any version, carried in the mesh's HTTP/2.
    MeshHttp,
    /// Bytes, after a preamble.
    MeshTcp,
    /// gRPC of the control plane.
    Control,
}
impl Alpn {
    pub const fn wire(self) -> &'static [u8] {
        match self {
            Alpn::MeshHttp => b"weft/h2",
            Alpn::MeshTcp => b"weft/tcp",
            Alpn::Control => b"h2",
        }
    }
    /// Of a finished handshake.
    pub fn from_wire(protocol: Option<&[u8]>) -> Option<Self> {
        [Alpn::MeshHttp, Alpn::MeshTcp, Alpn::Control].into_iter().find(|a| Some(a.wire()) == protocol)
    }
}

/// The name a control-plane connection carries as SNI. The identity is verified, not this name.
pub const CONTROL_NAME: &str = "control.weft";

#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("certificate chain is empty")]
    NoCertificate,
    #[error("private key: {0}")]
    Key(rustls::Error),
    #[error("private key does not belong to the certificate")]
    WrongKey,
    #[error("own certificate is not valid: {0}")]
    Leaf(#[from] Refusal),
    #[error("bundle version {version} does not contain the root of the own certificate: {refusal}")]
    BundleWithoutOwnRoot { version: u64, refusal: Refusal },
    #[error("bundle is of trust domain {got:?}, expected {expected:?}")]
    WrongTrustDomain { expected: Box<str>, got: Box<str> },
    #[error("pod UID {0:?} cannot be a TLS server name (letters, digits, - and . are)")]
    Uid(Box<str>),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// A pod UID as the server name of a mesh connection.
pub fn server_name(uid: &str) -> Result<ServerName<'static>, CredentialsError> {
    match ServerName::try_from(uid.to_owned()) {
        Ok(name @ ServerName::DnsName(_)) => Ok(name),
        _ => Err(CredentialsError::Uid(uid.into())),
    }
}

/// A leaf with its key and the bundle, verified against each other. Immutable.
pub struct Credentials {
    identity: WorkloadIdentity,
    uid: Option<Arc<str>>,
    key: Arc<CertifiedKey>,
    bundle: Arc<Bundle>,
    clock: Clock,
    not_before: UnixTime,
    not_after: UnixTime,
    issuer: Box<[u8]>,
    serial: Box<[u8]>,
    mesh_server: OnceLock<Arc<ServerConfig>>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("identity", &self.identity.uri())
            .field("not_after", &self.not_after.as_secs())
            .field("bundle", &self.bundle.version())
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// `chain` begins with the leaf. `uid` is the pod's own; peers that name another are refused. Errors: a key of another
    /// certificate, a leaf that a peer with this bundle would refuse now.
    pub fn new(
        key: PrivateKeyDer<'static>,
        chain: Vec<CertificateDer<'static>>,
        bundle: Arc<Bundle>,
        uid: Option<Arc<str>>,
        clock: Clock,
    ) -> Result<Self, CredentialsError> {
        if chain.is_empty() {
            return Err(CredentialsError::NoCertificate);
        }
        if let Some(uid) = &uid {
            server_name(uid)?;
        }
        let provider = provider::provider();
        let signer = provider.key_provider.load_private_key(key).map_err(CredentialsError::Key)?;
        let key = CertifiedKey::new(chain, signer);
        match key.keys_match() {
            Ok(()) => {}
            Err(rustls::Error::InconsistentKeys(_)) => return Err(CredentialsError::WrongKey),
            Err(e) => return Err(e.into()),
        }
        Self::assemble(Arc::new(key), bundle, uid, clock)
    }

    fn assemble(
        key: Arc<CertifiedKey>,
        bundle: Arc<Bundle>,
        uid: Option<Arc<str>>,
        clock: Clock,
    ) -> Result<Self, CredentialsError> {
        let provider = provider::provider();
        let (leaf, rest) = key.cert.split_first().ok_or(CredentialsError::NoCertificate)?;
        let now = provider::now(&clock);
        let identity = verify::verify(&bundle, &provider, leaf, rest, now, Role::Server, &Expect::Member)?;
        verify::verify(&bundle, &provider, leaf, rest, now, Role::Client, &Expect::Member)?;
        let facts = der::facts(leaf).map_err(|e| Refusal::Malformed(e.to_string().into()))?;
        let (not_before, not_after) = (facts.not_before, facts.not_after);
        let (issuer, serial) = (facts.authority_key.unwrap_or_default().into(), facts.serial.into());
        let mesh_server = OnceLock::new();
        Ok(Self { identity, uid, bundle, clock, not_before, not_after, issuer, serial, mesh_server, key })
    }

    /// The same leaf with another bundle.
    pub fn with_bundle(&self, bundle: Arc<Bundle>) -> Result<Self, CredentialsError> {
        if bundle.trust_domain() != self.bundle.trust_domain() {
            return Err(CredentialsError::WrongTrustDomain {
                expected: self.bundle.trust_domain().into(),
                got: bundle.trust_domain().into(),
            });
        }
        let version = bundle.version();
        Self::assemble(self.key.clone(), bundle, self.uid.clone(), self.clock.clone()).map_err(|e| match e {
            CredentialsError::Leaf(refusal @ (Refusal::UnknownIssuer | Refusal::BadSignature)) => {
                CredentialsError::BundleWithoutOwnRoot { version, refusal }
            }
            e => e,
        })
    }

    pub fn identity(&self) -> &WorkloadIdentity {
        &self.identity
    }
    pub fn uid(&self) -> Option<&Arc<str>> {
        self.uid.as_ref()
    }
    pub fn bundle(&self) -> &Arc<Bundle> {
        &self.bundle
    }
    pub fn not_before(&self) -> UnixTime {
        self.not_before
    }
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }
    /// Key identifier of the issuer that signed the leaf.
    pub fn issuer(&self) -> &[u8] {
        &self.issuer
    }
    pub fn serial(&self) -> &[u8] {
        &self.serial
    }
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// For dialling a meshed endpoint: only `expected` is accepted, and only `alpn` is spoken. The server name is [`server_name`]
    /// of the peer's UID.
    pub fn mesh_client(&self, expected: &WorkloadIdentity, alpn: Alpn) -> Result<Arc<ClientConfig>, CredentialsError> {
        let key = Some(self.key.clone());
        client(&self.bundle, key, Expect::Workload(expected.clone()), alpn, &self.clock)
    }

    /// For dialling the controller or the CA with our own certificate. The server name is [`CONTROL_NAME`].
    pub fn control_client(&self, expected: &WorkloadIdentity) -> Result<Arc<ClientConfig>, CredentialsError> {
        self.mesh_client(expected, Alpn::Control)
    }

    /// For the inbound side of a proxy: a client certificate of the trust domain is required, the server name must be our own UID
    /// (when we have one), ALPN `weft/h2` or `weft/tcp`. Made once.
    pub fn mesh_server(&self) -> Result<Arc<ServerConfig>, CredentialsError> {
        if let Some(made) = self.mesh_server.get() {
            return Ok(made.clone());
        }
        let made = self.server(true, self.uid.clone(), &[Alpn::MeshHttp, Alpn::MeshTcp])?;
        Ok(self.mesh_server.get_or_init(|| made).clone())
    }

    /// For the controller and the CA: ALPN `h2`. `anonymous` lets clients in that have no certificate yet (the CA); the caller then
    /// decides by [`crate::peer_identity`] what they may ask.
    pub fn control_server(&self, anonymous: bool) -> Result<Arc<ServerConfig>, CredentialsError> {
        self.server(!anonymous, None, &[Alpn::Control])
    }

    fn server(
        &self,
        mandatory: bool,
        uid: Option<Arc<str>>,
        alpn: &[Alpn],
    ) -> Result<Arc<ServerConfig>, CredentialsError> {
        let provider = provider::provider();
        let verifier =
            Verifier { bundle: self.bundle.clone(), provider: provider.clone(), expect: Expect::Member, mandatory };
        let resolver = OwnName { uid, key: self.key.clone() };
        let mut c = ServerConfig::builder_with_details(provider, self.clock.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(resolver));
        c.alpn_protocols = alpn.iter().map(|a| a.wire().to_vec()).collect();
        c.send_tls13_tickets = 0;
        c.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Arc::new(c))
    }
}

/// For a client without a certificate: fetching the first one from the CA.
pub fn anonymous_client(
    bundle: &Arc<Bundle>,
    expected: &WorkloadIdentity,
    clock: &Clock,
) -> Result<Arc<ClientConfig>, CredentialsError> {
    client(bundle, None, Expect::Workload(expected.clone()), Alpn::Control, clock)
}

fn client(
    bundle: &Arc<Bundle>,
    key: Option<Arc<CertifiedKey>>,
    expect: Expect,
    alpn: Alpn,
    clock: &Clock,
) -> Result<Arc<ClientConfig>, CredentialsError> {
    let provider = provider::provider();
    let verifier = Verifier { bundle: bundle.clone(), provider: provider.clone(), expect, mandatory: true };
    let builder = ClientConfig::builder_with_details(provider, clock.clone())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut c = match key {
        Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
        None => builder.with_no_client_auth(),
    };
    c.alpn_protocols = vec![alpn.wire().to_vec()];
    c.resumption = Resumption::disabled();
    Ok(Arc::new(c))
}

/// Answers only to the pod's own name: a connection meant for the pod that had this address before must not reach this one.
#[derive(Debug)]
struct OwnName {
    uid: Option<Arc<str>>,
    key: Arc<CertifiedKey>,
}
impl ResolvesServerCert for OwnName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let fits = match &self.uid {
            Some(own) => hello.server_name().is_some_and(|name| name.eq_ignore_ascii_case(own)),
            None => true,
        };
        fits.then(|| self.key.clone())
    }
}

/// Where the current bundle and credentials of a process are. Cheap to clone; readers take what is current for each handshake.
#[derive(Clone, Debug)]
pub struct CredentialCell(Arc<watch::Sender<Current>>);

/// What a [`CredentialCell`] holds.
#[derive(Clone, Debug)]
pub struct Current {
    pub bundle: Arc<Bundle>,
    /// `None` until the first certificate.
    pub credentials: Option<Arc<Credentials>>,
}

impl CredentialCell {
    pub fn new(bundle: Arc<Bundle>) -> Self {
        Self(Arc::new(watch::Sender::new(Current { bundle, credentials: None })))
    }
    pub fn current(&self) -> Current {
        self.0.borrow().clone()
    }
    pub fn credentials(&self) -> Option<Arc<Credentials>> {
        self.0.borrow().credentials.clone()
    }
    pub fn bundle(&self) -> Arc<Bundle> {
        self.0.borrow().bundle.clone()
    }
    /// Told of every change.
    pub fn subscribe(&self) -> watch::Receiver<Current> {
        self.0.subscribe()
    }
    /// Waits for the first certificate.
    pub async fn ready(&self) -> Arc<Credentials> {
        let mut changes = self.subscribe();
        // the sender lives as long as self
        let current = changes.wait_for(|c| c.credentials.is_some()).await.expect("the cell is borrowed here");
        current.credentials.clone().expect("waited for it")
    }

    /// Puts a new leaf in place, under the newest bundle known here. On an error the old one stays.
    pub fn install_leaf(
        &self,
        key: PrivateKeyDer<'static>,
        chain: Vec<CertificateDer<'static>>,
        uid: Option<Arc<str>>,
        clock: Clock,
    ) -> Result<Arc<Credentials>, CredentialsError> {
        self.install(None, key, chain, uid, clock)
    }

    /// Puts a new leaf and the bundle that came with it in place, both or neither; an older bundle than the one here is left out. For
    /// those who were away for a whole rotation: neither would fit what they have.
    pub fn install(
        &self,
        bundle: Option<Arc<Bundle>>,
        key: PrivateKeyDer<'static>,
        chain: Vec<CertificateDer<'static>>,
        uid: Option<Arc<str>>,
        clock: Clock,
    ) -> Result<Arc<Credentials>, CredentialsError> {
        let here = self.bundle();
        let newest = match bundle {
            Some(b) if b.trust_domain() != here.trust_domain() => {
                return Err(CredentialsError::WrongTrustDomain {
                    expected: here.trust_domain().into(),
                    got: b.trust_domain().into(),
                });
            }
            Some(b) if b.version() > here.version() => b,
            _ => here,
        };
        let mut installed = Arc::new(Credentials::new(key, chain, newest, uid, clock)?);
        let mut result = Ok(());
        self.0.send_if_modified(|c| {
            // a bundle that came while the leaf was checked wins
            if c.bundle.version() > installed.bundle().version() {
                match installed.with_bundle(c.bundle.clone()) {
                    Ok(again) => installed = Arc::new(again),
                    Err(e) => result = Err(e),
                }
            }
            if result.is_ok() {
                c.bundle = installed.bundle().clone();
                c.credentials = Some(installed.clone());
            }
            result.is_ok()
        });
        result.map(|()| installed)
    }

    /// Puts a newer bundle in place; an older or equal version changes nothing (`Ok(false)`). A bundle under which our own leaf would be
    /// refused is an error, and the old one stays.
    pub fn install_bundle(&self, bundle: Arc<Bundle>) -> Result<bool, CredentialsError> {
        let mut result = Ok(false);
        self.0.send_if_modified(|c| {
            if bundle.trust_domain() != c.bundle.trust_domain() {
                result = Err(CredentialsError::WrongTrustDomain {
                    expected: c.bundle.trust_domain().into(),
                    got: bundle.trust_domain().into(),
                });
                return false;
            }
            if bundle.version() <= c.bundle.version() {
                return false;
            }
            if let Some(old) = &c.credentials {
                match old.with_bundle(bundle.clone()) {
                    Ok(new) => c.credentials = Some(Arc::new(new)),
                    // an expired leaf says nothing about the bundle, which may be what makes the renewal possible
                    Err(CredentialsError::Leaf(Refusal::Expired { .. } | Refusal::NotYetValid { .. })) => {}
                    Err(e) => {
                        result = Err(e);
                        return false;
                    }
                }
            }
            c.bundle = bundle.clone();
            result = Ok(true);
            true
        });
        result
    }
}

#[cfg(test)]
#[path = "credentials_tests.rs"]
mod tests;
