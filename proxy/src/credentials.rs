//! How the proxy gets its certificate and keeps it: from the mesh's CA, or from a directory.
//!
//! ```text
//! bundle (injector) -> server TLS to the CA -> CSR with a token -> leaf -> renew between 50 and 80 % of its life
//!        ^ newest one seen is kept in a memory volume, since a root may rotate while the pod restarts
//! ```
//!
//! Everything ends in a [`CredentialCell`], which workers read at each handshake; running connections keep what they have.

use crate::config::{Credentials, Pod};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::sleep;
use weft_core::identity::WorkloadIdentity;
use weft_discovery::certificates::{RenewerSettings, TokenSource, renew};
use weft_identity::{Bundle, BundleError, CredentialCell, CredentialsError, provider::system_clock};

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
                Ok(ca) => {
                    let token = TokenSource::File(token);
                    renew(RenewerSettings::new(vec![address], ca, token, Some(pod.uid)), cell).await;
                }
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
        let got = weft_identity::peer_identity(Some(&self.chain)).map_err(CredentialsError::Leaf)?;
        check(pod, &got)?;
        let uid = Some(pod.uid.clone());
        let c = cell.install(Some(self.bundle), self.key, self.chain, uid, system_clock())?;
        let (not_after, bundle) = (c.not_after().as_secs(), c.bundle().version());
        tracing::info!(identity = %c.identity(), not_after, bundle, "certificate installed");
        Ok(())
    }
}

/// Whether a certificate is the one that this pod was promised.
pub fn check(pod: &Pod, got: &WorkloadIdentity) -> Result<(), Failure> {
    match &pod.identity {
        Some(expected) if expected != got => Err(Failure::Identity { expected: expected.clone(), got: got.clone() }),
        _ => Ok(()),
    }
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

/// Seconds since the epoch, for metrics and the dump.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
