//! Who is asking: credentials in, caller out. The only source of identity in the CA.

use crate::token::{TokenError, TokenVerifier};
use std::{net::SocketAddr, sync::Arc};
use tonic::async_trait;
use weft_identity::provider::{self, Clock};

/// Who presented a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub namespace: Arc<str>,
    pub service_account: Arc<str>,
    pub pod_uid: Arc<str>,
    pub pod: Arc<str>,
}

/// Why a caller gets nothing. What the caller is told is less than what the log is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("no bearer token")]
    NoToken,
    #[error("token: {0}")]
    Token(#[from] TokenError),
    #[error("pod {0} does not exist any more")]
    PodGone(Arc<str>),
    #[error("token of pod {pod} presented from {from}")]
    WrongAddress { pod: Arc<str>, from: SocketAddr },
    /// Of a pod whose addresses are not known yet.
    #[error("the API server does not know an address of pod {0} yet")]
    NoAddress(Arc<str>),
    /// What the token is bound to exists no more.
    #[error("pod or service account of the token was deleted: {0}")]
    Invalidated(Box<str>),
    /// The API server's own words.
    #[error("the API server does not know the token: {0}")]
    Rejected(Box<str>),
    /// The authority that knows tokens cannot be asked. Never a reason to let somebody in.
    #[error("tokens cannot be checked now: {0}")]
    Unavailable(Box<str>),
    #[error("too many requests of {0}")]
    TooMany(Box<str>),
}
impl Denied {
    /// The label of metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Denied::NoToken => "no_token",
            Denied::Token(TokenError::Malformed) => "malformed_token",
            Denied::Token(TokenError::Signature) => "bad_signature",
            Denied::Token(TokenError::Expired(_)) => "expired_token",
            Denied::Token(TokenError::NotYetValid(_)) => "token_not_yet_valid",
            Denied::Token(TokenError::Audience) => "wrong_audience",
            Denied::Token(TokenError::Subject) => "wrong_subject",
            Denied::Token(TokenError::NotBound) => "unbound_token",
            Denied::PodGone(_) => "pod_gone",
            Denied::WrongAddress { .. } => "wrong_address",
            Denied::NoAddress(_) => "no_address_yet",
            Denied::Invalidated(_) => "invalidated",
            Denied::Rejected(_) => "rejected",
            Denied::Unavailable(_) => "unavailable",
            Denied::TooMany(_) => "too_many",
        }
    }
    /// Whether the same request may succeed later.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Denied::Unavailable(_) | Denied::TooMany(_) | Denied::NoAddress(_))
    }
}

/// Checks bearer tokens.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// `from` is the other end of the connection.
    async fn authenticate(&self, token: &str, from: SocketAddr) -> Result<Caller, Denied>;
    /// Whether the authority behind it answers.
    fn is_up(&self) -> bool {
        true
    }
}

/// Whether a pod (by UID) exists.
pub type PodExists = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Checks [local tokens](crate::token).
pub struct LocalAuthenticator {
    verifier: TokenVerifier,
    clock: Clock,
    exists: Option<PodExists>,
}
impl LocalAuthenticator {
    pub fn new(verifier: TokenVerifier, clock: Clock) -> Self {
        Self { verifier, clock, exists: None }
    }
    /// Asks about the pod behind each token: a token outlives its pod.
    pub fn with_pods(mut self, exists: PodExists) -> Self {
        self.exists = Some(exists);
        self
    }
}
#[async_trait]
impl Authenticator for LocalAuthenticator {
    async fn authenticate(&self, token: &str, from: SocketAddr) -> Result<Caller, Denied> {
        let claims = self.verifier.verify(token, provider::now(&self.clock).as_secs())?;
        let (namespace, account) = claims.account()?;
        let pod = claims.kubernetes.as_ref().and_then(|k| k.pod.as_ref()).ok_or(TokenError::NotBound)?;
        if pod.uid.is_empty() {
            return Err(TokenError::NotBound.into());
        }
        if self.exists.as_ref().is_some_and(|exists| !exists(&pod.uid)) {
            return Err(Denied::PodGone(pod.name.as_str().into()));
        }
        if !pod.ips.is_empty() && !pod.ips.contains(&from.ip().to_canonical()) {
            return Err(Denied::WrongAddress { pod: pod.name.as_str().into(), from });
        }
        Ok(Caller {
            namespace: namespace.into(),
            service_account: account.into(),
            pod_uid: pod.uid.as_str().into(),
            pod: pod.name.as_str().into(),
        })
    }
}

#[cfg(test)]
#[path = "authenticate_tests.rs"]
mod tests;
