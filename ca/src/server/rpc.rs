//! The two services: signing for everybody with a token, bundles for controllers with a certificate.

use super::{Ca, Live};
use crate::{authenticate::Denied, csr, gate::Report};
use rustls_pki_types::CertificateDer;
use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, async_trait, metadata::MetadataMap};
use weft_discovery::{
    proto::{
        SignRequest, SignResponse, TrustBundle, TrustReport,
        certificates_server::{Certificates, CertificatesServer},
        trust_server::{Trust, TrustServer},
    },
    server::accept::PeerInfo,
};
use weft_identity::provider;

/// A request of the largest CSR fits.
const MAX_SIGN: usize = csr::MAX_CSR + 64;
/// A report of a fleet in the middle of a rotation has a handful of sums.
const MAX_REPORT: usize = 64 << 10;
const MAX_SUMS: usize = 1000;

#[derive(Clone)]
pub(super) struct Service {
    ca: Arc<Ca>,
    stop: CancellationToken,
}

pub(super) fn services(ca: Arc<Ca>, stop: CancellationToken) -> (CertificatesServer<Service>, TrustServer<Service>) {
    let service = Service { ca, stop };
    (
        CertificatesServer::new(service.clone()).max_decoding_message_size(MAX_SIGN),
        TrustServer::new(service).max_decoding_message_size(MAX_REPORT),
    )
}

fn peer<T>(request: &Request<T>) -> Result<PeerInfo, Status> {
    let info = request.extensions().get::<PeerInfo>().cloned();
    info.ok_or_else(|| Status::internal("connection without peer information"))
}

fn bearer(metadata: &MetadataMap) -> Result<&str, Denied> {
    let value = metadata.get("authorization").and_then(|v| v.to_str().ok()).ok_or(Denied::NoToken)?;
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() => Ok(token),
        _ => Err(Denied::NoToken),
    }
}

/// What the caller is told: whether to come back, not what exactly was wrong with its token.
fn denied(ca: &Ca, from: SocketAddr, reason: &Denied) -> Status {
    ca.count_denied(reason.label());
    tracing::warn!(%from, cause = reason.label(), %reason, "denied");
    match reason {
        Denied::Unavailable(_) => Status::unavailable("tokens cannot be checked now"),
        Denied::NoAddress(_) => Status::unavailable("the pod's address is not known yet"),
        Denied::TooMany(_) => Status::resource_exhausted(reason.to_string()),
        Denied::NoToken => Status::unauthenticated("a bearer token is required"),
        _ => Status::unauthenticated("the token is not valid here"),
    }
}

#[async_trait]
impl Certificates for Service {
    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        let ca = &self.ca;
        let from = peer(&request)?.remote;
        // waiting is bounded, too: beyond that the answer is "later" at once
        let _queued = ca.queue.clone().try_acquire_owned().map_err(|_| {
            Ca::count(&ca.stats.refused);
            Status::resource_exhausted("too many requests wait")
        })?;
        let working = tokio::time::timeout(ca.settings.wait, ca.working.acquire()).await;
        let _working = match working {
            Ok(permit) => permit.map_err(|_| Status::unavailable("ends"))?,
            Err(_) => {
                Ca::count(&ca.stats.refused);
                return Err(Status::resource_exhausted("others are served first; come back later"));
            }
        };
        let token = bearer(request.metadata()).map_err(|e| denied(ca, from, &e))?;
        let caller = ca.authenticator.authenticate(token, from).await.map_err(|e| denied(ca, from, &e))?;
        let now = Instant::now();
        if !ca.pods.admit(caller.pod_uid.clone(), now) {
            return Err(denied(ca, from, &Denied::TooMany(format!("pod {}", caller.pod).into())));
        }
        let account = (caller.namespace.clone(), caller.service_account.clone());
        if !ca.accounts.admit(account, now) {
            let who = format!("service account {}/{}", caller.namespace, caller.service_account);
            return Err(denied(ca, from, &Denied::TooMany(who.into())));
        }
        // only now is anything of the request looked at
        let key = csr::proven_key(&request.get_ref().csr).map_err(|e| {
            Ca::count(&ca.stats.refused);
            tracing::warn!(%from, pod = %caller.pod, error = %e, "signing request refused");
            Status::invalid_argument(e.to_string())
        })?;
        let live: Live = ca.live.borrow().clone();
        let issuer = live.signing.map_err(|reason| {
            Ca::count(&ca.stats.failed);
            Status::unavailable(format!("the CA does not sign now: {reason}"))
        })?;
        let chain = issuer.sign_for(&caller, &key, provider::now(&ca.clock), ca.settings.leaf).map_err(|e| {
            Ca::count(&ca.stats.failed);
            tracing::error!(error = %e, pod = %caller.pod, "not signed");
            match e {
                crate::issue::IssueError::Identity(e) => Status::invalid_argument(e.to_string()),
                e => Status::unavailable(format!("the CA does not sign now: {e}")),
            }
        })?;
        Ca::count(&ca.stats.signed);
        tracing::debug!(%from, pod = %caller.pod, namespace = %caller.namespace, account = %caller.service_account, "signed");
        let chain = chain.iter().map(|c: &CertificateDer<'_>| c.to_vec()).collect();
        Ok(Response::new(SignResponse { chain, bundle: Some((&*live.bundle).into()) }))
    }
}

/// Forgets the reports of a stream that ended.
struct Reporter(Arc<Ca>, u64);
impl Drop for Reporter {
    fn drop(&mut self) {
        self.0.lock_gates().gone(self.1);
    }
}

#[async_trait]
impl Trust for Service {
    type FollowStream = Pin<Box<dyn Stream<Item = Result<TrustBundle, Status>> + Send>>;

    async fn follow(&self, request: Request<Streaming<TrustReport>>) -> Result<Response<Self::FollowStream>, Status> {
        let info = peer(&request)?;
        match &info.identity {
            Some(identity) if *identity == self.ca.settings.controller => {}
            Some(identity) => {
                tracing::warn!(from = %info.remote, %identity, "only controllers may follow bundles");
                return Err(Status::permission_denied("only controllers may follow bundles"));
            }
            None => return Err(Status::unauthenticated("a client certificate of the mesh is required")),
        }
        let (out, bundles) = mpsc::channel(2);
        let (ca, stop) = (self.ca.clone(), self.stop.clone());
        let mut incoming = request.into_inner();
        tokio::spawn(async move {
            let id = ca.streams.fetch_add(1, Ordering::Relaxed);
            let reporter = Reporter(ca.clone(), id);
            let mut live = ca.live.subscribe();
            live.mark_changed();
            let mut sent = 0;
            let ended = loop {
                tokio::select! {
                    m = incoming.message() => match m {
                        Ok(Some(r)) if r.confirmed.len() <= MAX_SUMS => {
                            let one = |c: weft_discovery::proto::Confirmed| {
                                (c.bundle_version, c.leaf_issuer.into_boxed_slice(), c.proxies)
                            };
                            let confirmed = r.confirmed.into_iter().map(one).collect();
                            let own = r.own.map(|c| (c.bundle_version, c.leaf_issuer.into_boxed_slice()));
                            let report = Report { reporter: r.reporter, expected: r.expected, confirmed, own };
                            ca.lock_gates().report(id, report);
                        }
                        Ok(Some(_)) => break Some(Status::invalid_argument("report with too many sums")),
                        Ok(None) | Err(_) => break None,
                    },
                    Ok(()) = live.changed() => {
                        let bundle = live.borrow_and_update().bundle.clone();
                        if bundle.version() != sent {
                            sent = bundle.version();
                            if out.send(Ok((&*bundle).into())).await.is_err() {
                                break None;
                            }
                        }
                    }
                    () = stop.cancelled() => break Some(Status::unavailable("this CA ends")),
                    () = tokio::time::sleep_until(info.expires) => {
                        break Some(Status::unauthenticated("the client certificate has expired"));
                    }
                }
            };
            drop(reporter);
            if let Some(status) = ended {
                let _ = out.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(bundles))))
    }
}
