//! Getting and renewing the own certificate: key and request here, identity from the token, trust from the bundle.
//!
//! The first certificate is fetched at once; after that one is renewed at 50 to 80 % of its life, earlier when the bundle says that another
//! issuer signs now. Until the new one is in place the old one stays; a CA that is away costs nothing until the old one expires.

use crate::{
    client::{DialError, control_channel},
    proto::{SignRequest, certificates_client::CertificatesClient},
};
use rustls::pki_types::CertificateDer;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::time::{Instant, timeout};
use weft_identity::{
    Bundle, CredentialCell, Credentials, CredentialsError, KeyRequest, WorkloadIdentity,
    credentials::anonymous_client,
    provider::{self, Clock},
    renewal,
};

/// A CA that does not sign within this time is tried again later.
const SIGN: Duration = Duration::from_secs(10);
/// How often a long wait is checked against the wall clock, which may have been turned.
const LOOK: Duration = Duration::from_secs(30);
/// The largest token that is sent. Kubernetes' have about 1 KiB.
const MAX_TOKEN: usize = 16 << 10;

/// Where the bearer token comes from; read anew for each request, since kubelet replaces it.
#[derive(Clone)]
pub enum TokenSource {
    File(PathBuf),
    Text(Arc<str>),
}
impl std::fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TokenSource::File(p) => write!(f, "TokenSource({})", p.display()),
            TokenSource::Text(_) => f.write_str("TokenSource(..)"),
        }
    }
}
impl TokenSource {
    async fn read(&self) -> Result<String, SignError> {
        let token = match self {
            TokenSource::File(path) => tokio::fs::read_to_string(path)
                .await
                .map_err(|e| SignError::Token(format!("{}: {e}", path.display())))?,
            TokenSource::Text(t) => t.to_string(),
        };
        let token = token.trim();
        if token.is_empty() || token.len() > MAX_TOKEN || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(SignError::Token("it is empty, too long or has characters that no token has".into()));
        }
        Ok(token.into())
    }
}

/// What the renewal needs to know.
#[derive(Clone, Debug)]
pub struct RenewerSettings {
    /// CAs, tried in turn: `host:port`.
    pub cas: Vec<String>,
    /// Who must answer there.
    pub ca_identity: WorkloadIdentity,
    pub token: TokenSource,
    /// Own pod UID, which peers must name; `None` for the control plane.
    pub uid: Option<Arc<str>>,
    pub clock: Clock,
    /// When another issuer signs now, all proxies renew within this time.
    pub reissue_spread: Duration,
}
impl RenewerSettings {
    pub fn new(cas: Vec<String>, ca_identity: WorkloadIdentity, token: TokenSource, uid: Option<Arc<str>>) -> Self {
        let clock = provider::system_clock();
        Self { cas, ca_identity, token, uid, clock, reissue_spread: Duration::from_secs(60) }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error("token: {0}")]
    Token(String),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the CA refused: {}: {}", .0.code(), .0.message())]
    Refused(#[from] tonic::Status),
    #[error("the CA did not sign within {SIGN:?}")]
    TimedOut,
    #[error("key: {0}")]
    Key(Box<str>),
    #[error("the CA's answer is not usable: {0}")]
    Answer(Box<str>),
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error("no CA address is configured")]
    NoAddress,
}

/// Fetches one certificate from `address` and puts it, and the bundle that came with it, into `cell`.
pub async fn sign(s: &RenewerSettings, address: &str, cell: &CredentialCell) -> Result<Arc<Credentials>, SignError> {
    let token = s.token.read().await?;
    let request = KeyRequest::generate().map_err(|e| SignError::Key(e.to_string().into()))?;
    let tls = anonymous_client(&cell.bundle(), &s.ca_identity, &s.clock)?;
    let channel = control_channel(address, tls).await?;
    let mut call = tonic::Request::new(SignRequest { csr: request.csr().to_vec() });
    let bearer = format!("Bearer {token}").parse().map_err(|_| SignError::Token("not a header value".into()))?;
    call.metadata_mut().insert("authorization", bearer);
    let mut client = CertificatesClient::new(channel);
    let answer = timeout(SIGN, client.sign(call)).await.map_err(|_| SignError::TimedOut)??.into_inner();
    let bundle = answer.bundle.map(Bundle::try_from).transpose();
    let bundle = bundle.map_err(|e| SignError::Answer(e.to_string().into()))?.map(Arc::new);
    let chain: Vec<CertificateDer<'static>> = answer.chain.into_iter().map(Into::into).collect();
    Ok(cell.install(bundle, request.into_key(), chain, s.uid.clone(), s.clock.clone())?)
}

/// Keeps the certificate in `cell` fresh. Never ends; drop it to stop.
pub async fn renew(s: RenewerSettings, cell: CredentialCell) {
    let mut changes = cell.subscribe();
    let mut failures = 0u32;
    let mut turn = rand::random_range(0..s.cas.len().max(1));
    loop {
        if failures == 0 {
            wait(&s, &mut changes).await;
        } else {
            tokio::time::sleep(renewal::backoff(failures - 1, rand::random())).await;
        }
        let result = match s.cas.get(turn % s.cas.len().max(1)) {
            Some(address) => sign(&s, address, &cell).await,
            None => Err(SignError::NoAddress),
        };
        match result {
            Ok(new) => {
                failures = 0;
                tracing::info!(identity = %new.identity(), not_after = new.not_after().as_secs(), "certificate in place");
            }
            Err(e) => {
                turn = turn.wrapping_add(1);
                failures = failures.saturating_add(1);
                let now = provider::now(&s.clock).as_secs();
                match cell.credentials() {
                    Some(c) if c.not_after().as_secs() > now => {
                        let left = c.not_after().as_secs() - now;
                        tracing::warn!(error = %e, left_seconds = left, "certificate not renewed; the present one is still valid");
                    }
                    Some(c) if c.not_before().as_secs() > now => {
                        tracing::error!(error = %e, "certificate not renewed, and the present one is not valid yet: is the clock right?");
                    }
                    _ => tracing::error!(error = %e, "no valid certificate"),
                }
            }
        }
    }
}

/// Until it is time to renew.
async fn wait(s: &RenewerSettings, changes: &mut tokio::sync::watch::Receiver<weft_identity::credentials::Current>) {
    let draw: f64 = rand::random();
    let mut reissue: Option<(Box<[u8]>, Instant)> = None;
    loop {
        let current = changes.borrow_and_update().clone();
        let Some(c) = current.credentials else { return };
        let mut left = renewal::wait(c.not_before(), c.not_after(), provider::now(&s.clock), draw);
        let issuer = current.bundle.issuer();
        if !issuer.is_empty() && issuer != c.issuer() {
            let at = match &reissue {
                Some((of, at)) if **of == *issuer => *at,
                _ => Instant::now() + s.reissue_spread.mul_f64(rand::random()),
            };
            reissue = Some((issuer.into(), at));
            left = left.min(at.saturating_duration_since(Instant::now()));
        }
        if left.is_zero() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(left.min(LOOK)) => {}
            _ = changes.changed() => {}
        }
    }
}
