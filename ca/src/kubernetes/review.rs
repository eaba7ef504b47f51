//! Who a pod is, as the API server says it of the pod's token.
//!
//! The token is a projected one of audience `weft.dev`, bound to the pod, which only the sidecar sees. A TokenReview with that audience checks signature, expiry, and
//! that pod and service account still exist with the UIDs of the token. Then the Pod itself is read: its UID once more, and its addresses, because a token that comes from
//! elsewhere was taken from the pod. There is no cache: a proxy asks twice a day, and a cached answer would let a deleted pod in.

use super::{outage::Outage, peek::peek, reason};
use crate::{
    authenticate::{Authenticator, Caller, Denied},
    token::{AUDIENCE, TokenError, account},
};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus},
    core::v1::Pod,
};
use kube::{Api, Client, api::PostParams};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;
use tonic::async_trait;
use weft_identity::{
    limit::Limiter,
    provider::{self, Clock},
};

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
/// kubelet reports the addresses of a pod before it starts the sidecar, but the report may still be on its way.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
const LOOKS: u32 = 6;

#[derive(Debug, Clone)]
pub struct ReviewSettings {
    /// For everything that is asked of the API server for one caller. An API server that is well needs milliseconds; the caller gives up after 10 s, and
    /// waiting for a server that is 5 s slow only fills the queue.
    pub deadline: Duration,
    /// Whether the caller must come from its pod's address. Off where the cluster rewrites the source address between pods.
    pub addresses: bool,
}
impl Default for ReviewSettings {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(4), addresses: true }
    }
}

pub struct ReviewAuthenticator {
    client: Client,
    settings: ReviewSettings,
    clock: Clock,
    outage: Outage,
    /// By address, before anything is asked: a flood of made-up tokens must not become a flood of TokenReviews. Where addresses are rewritten
    /// all pods of a node share one, hence room for a whole node that starts.
    sources: Limiter<IpAddr>,
}

impl ReviewAuthenticator {
    pub fn new(client: Client, settings: ReviewSettings, clock: Clock) -> Self {
        let sources = Limiter::new(250, Duration::from_millis(40), 50_000);
        Self { client, settings, clock, outage: Outage::default(), sources }
    }

    async fn review(&self, token: &str) -> Result<TokenReviewStatus, Failure> {
        let spec = TokenReviewSpec { token: Some(token.into()), audiences: Some(vec![AUDIENCE.into()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer = Api::<TokenReview>::all(self.client.clone()).create(&PostParams::default(), &review).await?;
        answer.status.ok_or_else(|| Failure::Away("the TokenReview came back without a status".into()))
    }

    async fn caller(&self, token: &str, from: SocketAddr) -> Result<Caller, Failure> {
        let (caller, namespace, account) = judged(self.review(token).await?)?;
        let pods = Api::<Pod>::namespaced(self.client.clone(), &namespace);
        for _ in 0..LOOKS {
            let pod = pods.get_opt(&caller.pod).await?.ok_or_else(|| Denied::PodGone(caller.pod.clone()))?;
            if pod.metadata.uid.as_deref() != Some(&*caller.pod_uid) {
                return Err(Denied::PodGone(caller.pod.clone()).into());
            }
            if pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref()) != Some(&*account) {
                return Err(Denied::Token(TokenError::Subject).into());
            }
            let status = pod.status.unwrap_or_default();
            if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
                return Err(Denied::PodGone(caller.pod.clone()).into());
            }
            if !self.settings.addresses {
                return Ok(caller);
            }
            let ips = status.pod_ips.into_iter().flatten().map(|i| i.ip).chain(status.pod_ip);
            let ips: Vec<IpAddr> = ips.filter_map(|i| i.parse().ok()).collect();
            if ips.contains(&from.ip().to_canonical()) {
                return Ok(caller);
            }
            if !ips.is_empty() {
                return Err(Denied::WrongAddress { pod: caller.pod.clone(), from }.into());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Err(Denied::NoAddress(caller.pod).into())
    }
}

/// What a review says of a caller. Everything in it comes from the API server.
fn judged(status: TokenReviewStatus) -> Result<(Caller, Arc<str>, Arc<str>), Denied> {
    if status.authenticated != Some(true) {
        return Err(refusal(&status.error.unwrap_or_default()));
    }
    // an API server that does not know audiences answers without them: then the token was good for itself
    if !status.audiences.unwrap_or_default().iter().any(|a| a == AUDIENCE) {
        return Err(TokenError::Audience.into());
    }
    let user = status.user.unwrap_or_default();
    let (namespace, name) = account(user.username.as_deref().unwrap_or_default())?;
    let extra = user.extra.unwrap_or_default();
    let one = |key: &str| match extra.get(key).map(Vec::as_slice) {
        Some([value]) if !value.is_empty() => Ok(Arc::<str>::from(value.as_str())),
        _ => Err(TokenError::NotBound),
    };
    let (namespace, account): (Arc<str>, Arc<str>) = (namespace.into(), name.into());
    let caller = Caller {
        namespace: namespace.clone(),
        service_account: account.clone(),
        pod_uid: one(POD_UID)?,
        pod: one(POD_NAME)?,
    };
    Ok((caller, namespace, account))
}

/// The API server gives one line for people; the usual ones get a label of their own, since they call for different actions.
fn refusal(error: &str) -> Denied {
    let says = |text: &str| error.contains(text);
    if says("has been invalidated") || says("has been deleted") {
        return Denied::Invalidated(error.into());
    }
    if says("cryptographic primitive") || says("signature") {
        return TokenError::Signature.into();
    }
    if says("audience") {
        return TokenError::Audience.into();
    }
    Denied::Rejected(if error.is_empty() { "no reason was given".into() } else { error.into() })
}

/// A judgement, or none.
enum Failure {
    Denied(Denied),
    Away(String),
}
impl From<Denied> for Failure {
    fn from(d: Denied) -> Self {
        Failure::Denied(d)
    }
}
impl From<kube::Error> for Failure {
    fn from(e: kube::Error) -> Self {
        Failure::Away(reason(&e))
    }
}

#[async_trait]
impl Authenticator for ReviewAuthenticator {
    async fn authenticate(&self, token: &str, from: SocketAddr) -> Result<Caller, Denied> {
        peek(token, provider::now(&self.clock).as_secs())?;
        if !self.sources.admit(from.ip(), std::time::Instant::now()) {
            return Err(Denied::TooMany(format!("address {}", from.ip()).into()));
        }
        self.outage.permit(Instant::now()).map_err(|left| {
            Denied::Unavailable(
                format!("the API server does not answer; next try within {} ms", left.as_millis()).into(),
            )
        })?;
        let away = |reason: String| {
            self.outage.failed(Instant::now(), rand::random());
            Denied::Unavailable(reason.into())
        };
        match tokio::time::timeout(self.settings.deadline, self.caller(token, from)).await {
            Ok(Err(Failure::Away(reason))) => Err(away(reason)),
            Err(_) => Err(away(format!("the API server did not answer within {:?}", self.settings.deadline))),
            Ok(judged) => {
                self.outage.answered();
                judged.map_err(|e| match e {
                    Failure::Denied(d) => d,
                    Failure::Away(reason) => Denied::Unavailable(reason.into()),
                })
            }
        }
    }
    fn is_up(&self) -> bool {
        self.outage.is_up()
    }
}

#[cfg(test)]
#[path = "review_tests.rs"]
mod tests;
