//! How the proxy gets its certificate and keeps it: from the mesh's CA, or from a directory.
//!
//! ```text
//! bundle (injector) -> server TLS to the CA -> CSR with a token -> leaf -> renew between 50 and 80 % of its life
//!        ^ newest one seen is kept in a memory volume, since a root may rotate while the pod restarts
//! ```
//!
//! Everything ends in a [`CredentialCell`], which workers read at each handshake; running connections keep what they have.

use crate::config::{Credentials, Pod};
use rand::Rng;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::sleep;
use tonic::{Request, metadata::MetadataValue};
use weft_core::identity::WorkloadIdentity;
use weft_discovery::{
    client::control_channel,
    proto::{SignRequest, certificates_client::CertificatesClient},
};
use weft_identity::{
    Bundle, BundleError, CredentialCell, CredentialsError, KeyRequest,
    credentials::anonymous_client,
    provider::{self, system_clock},
    renewal,
};

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error("{path}: {text}")]
    File { path: PathBuf, text: String },
    #[error("the certificate is of {got}, this pod is {expected}")]
    Identity { expected: WorkloadIdentity, got: WorkloadIdentity },
    #[error("key: {0}")]
    Key(String),
    #[error("CA: {0}")]
    Ca(String),
}

/// The first bundle, or for a directory everything. Blocks; for the start.
pub fn open(c: &Credentials, pod: &Pod) -> Result<CredentialCell, Failure> {
    let domain = pod.identity.as_ref().map(WorkloadIdentity::trust_domain);
    match c {
        Credentials::Static { dir } => {
            let files = Files::read(dir, domain)?;
            let cell = CredentialCell::new(files.bundle.clone());
            files.install(&cell, pod)?;
            Ok(cell)
        }
        Credentials::Ca { bundle, state, .. } => {
            let mut newest = Bundle::read(bundle, domain)?;
            // what an earlier run of this container saw may be newer than what the pod was created with
            if let Some(kept) = state.as_ref().and_then(|d| Bundle::read(&kept(d), domain).ok())
                && kept.version() > newest.version()
            {
                newest = kept;
            }
            Ok(CredentialCell::new(Arc::new(newest)))
        }
    }
}

/// Keeps the credentials fresh, for as long as the proxy runs.
pub async fn keep(c: Credentials, pod: Pod, cell: CredentialCell) {
    match c {
        Credentials::Static { dir } => follow(&dir, &pod, &cell).await,
        Credentials::Ca { address, identity, token, state, .. } => {
            if let Some(dir) = state {
                tokio::spawn(persist(dir, cell.clone()));
            }
            match identity.map_or_else(|| weft_identity::ca_identity(cell.bundle().trust_domain()), Ok) {
                Ok(ca) => renew(&address, &ca, &token, &pod, &cell).await,
                Err(error) => tracing::error!(%error, "the trust domain of the bundle cannot name a CA"),
            }
        }
    }
}

fn kept(dir: &Path) -> PathBuf {
    dir.join("bundle.pem")
}

async fn persist(dir: PathBuf, cell: CredentialCell) {
    let mut changes = cell.subscribe();
    loop {
        let bundle = changes.borrow_and_update().bundle.clone();
        if let Err(error) = bundle.write(&kept(&dir)) {
            tracing::warn!(%error, "the trust bundle could not be kept");
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

// ---------------------------------------------------------------- from a directory

struct Files {
    bundle: Arc<Bundle>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// How often a directory is looked at. Kubernetes swaps a mounted Secret about once a minute.
const LOOK: Duration = Duration::from_secs(5);

fn stamp(dir: &Path) -> u64 {
    let at = |name| {
        let t = std::fs::metadata(dir.join(name)).and_then(|m| m.modified()).unwrap_or(UNIX_EPOCH);
        t.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
    };
    at("ca.pem").max(at("cert.pem")).max(at("key.pem"))
}

impl Files {
    fn read(dir: &Path, domain: Option<&str>) -> Result<Files, Failure> {
        let bad = |name: &str, text: String| Failure::File { path: dir.join(name), text };
        let chain = CertificateDer::pem_file_iter(dir.join("cert.pem"))
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|e| bad("cert.pem", e.to_string()))?;
        let key = PrivateKeyDer::from_pem_file(dir.join("key.pem")).map_err(|e| bad("key.pem", e.to_string()))?;
        let own = weft_identity::peer_identity(Some(&chain)).map_err(|e| bad("cert.pem", e.to_string()))?;
        let text = std::fs::read_to_string(dir.join("ca.pem")).map_err(|e| bad("ca.pem", e.to_string()))?;
        let bundle = Bundle::from_pem(&text, Some(domain.unwrap_or(own.trust_domain())))?;
        // plain PEM has no version: a file written later is newer
        let bundle = match bundle.version() {
            0 => Bundle::new(bundle.trust_domain(), stamp(dir), bundle.issuer(), bundle.roots().to_vec())?,
            _ => bundle,
        };
        Ok(Files { bundle: Arc::new(bundle), chain, key })
    }

    fn install(self, cell: &CredentialCell, pod: &Pod) -> Result<(), Failure> {
        cell.install_bundle(self.bundle)?;
        install(cell, self.key, self.chain, pod)
    }
}

fn install(
    cell: &CredentialCell,
    key: PrivateKeyDer<'static>,
    chain: Vec<CertificateDer<'static>>,
    pod: &Pod,
) -> Result<(), Failure> {
    if let Some(expected) = &pod.identity {
        let got = weft_identity::peer_identity(Some(&chain)).map_err(CredentialsError::Leaf)?;
        if got != *expected {
            return Err(Failure::Identity { expected: expected.clone(), got });
        }
    }
    let c = cell.install_leaf(key, chain, Some(pod.uid.clone()), system_clock())?;
    tracing::info!(identity = %c.identity(), not_after = c.not_after().as_secs(), bundle = c.bundle().version(), "certificate installed");
    Ok(())
}

async fn follow(dir: &Path, pod: &Pod, cell: &CredentialCell) {
    let domain = cell.bundle().trust_domain().to_owned();
    let mut seen = stamp(dir);
    loop {
        sleep(LOOK).await;
        let now = stamp(dir);
        if now == seen {
            continue;
        }
        match Files::read(dir, Some(&domain)).and_then(|f| f.install(cell, pod)) {
            Ok(()) => seen = now,
            // half-written files look like this, too: the next look reads them again
            Err(error) => tracing::warn!(%error, "new credentials refused; the old ones stay"),
        }
    }
}

// ---------------------------------------------------------------- from the CA

/// A leaf whose issuer is no longer the current one is renewed within this time, spread over all proxies: a root rotation waits for them.
const REISSUE: Duration = Duration::from_secs(60);

async fn renew(address: &str, ca: &WorkloadIdentity, token: &Path, pod: &Pod, cell: &CredentialCell) {
    let mut failures = 0;
    let mut changes = cell.subscribe();
    loop {
        match sign(address, ca, token, pod, cell).await {
            Ok(()) => failures = 0,
            Err(error) => {
                // the first one is a matter of start order, and the pod cannot serve without it
                tracing::warn!(%error, failures, "no certificate from the CA yet; trying again");
                let wait = renewal::backoff(failures, rand::rng().random());
                failures += 1;
                sleep(wait).await;
                continue;
            }
        }
        loop {
            changes.borrow_and_update();
            let Some(c) = cell.credentials() else { break };
            let draw = rand::rng().random();
            let current = cell.bundle();
            let stale = !current.issuer().is_empty() && current.issuer() != c.issuer();
            let wait = match stale {
                true => REISSUE.mul_f64(draw),
                false => renewal::wait(c.not_before(), c.not_after(), provider::now(c.clock()), draw),
            };
            tokio::select! {
                () = sleep(wait) => break,
                // a new bundle may name another issuer
                _ = changes.changed() => {}
            }
        }
    }
}

async fn sign(
    address: &str,
    ca: &WorkloadIdentity,
    token: &Path,
    pod: &Pod,
    cell: &CredentialCell,
) -> Result<(), Failure> {
    // the kubelet rotates projected tokens: read anew each time
    let bearer = tokio::fs::read_to_string(token)
        .await
        .map_err(|e| Failure::File { path: token.into(), text: e.to_string() })?;
    let key = KeyRequest::generate().map_err(|e| Failure::Key(e.to_string()))?;
    let tls = anonymous_client(&cell.bundle(), ca, &system_clock())?;
    let channel = control_channel(address, tls).await.map_err(|e| Failure::Ca(e.to_string()))?;
    let mut request = Request::new(SignRequest { csr: key.csr().to_vec() });
    let bearer = MetadataValue::try_from(format!("Bearer {}", bearer.trim()))
        .map_err(|_| Failure::File { path: token.into(), text: "is not a token".into() })?;
    request.metadata_mut().insert("authorization", bearer);
    request.set_timeout(Duration::from_secs(10));
    let answer = CertificatesClient::new(channel).sign(request).await;
    let answer = answer.map_err(|s| Failure::Ca(format!("{:?}: {}", s.code(), s.message())))?.into_inner();
    if let Some(b) = answer.bundle {
        let bundle = Bundle::try_from(b).map_err(|e| Failure::Ca(e.to_string()))?;
        cell.install_bundle(Arc::new(bundle))?;
    }
    let chain = answer.chain.into_iter().map(CertificateDer::from).collect();
    install(cell, key.into_key(), chain, pod)
}

/// Seconds since the epoch, for metrics and the dump.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
