//! What is kept of an exchange for the access log.

use super::state::Exchange;
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use weft_core::{identity::WorkloadIdentity, route::RouteRef, service::ServiceRef};
use weft_http::head::Known;

/// One finished exchange.
#[derive(Clone, Debug)]
pub struct Record {
    /// When it began, and how long it took.
    pub started: Instant,
    pub duration: Duration,
    /// Somebody called this pod.
    pub inbound: bool,
    pub client: SocketAddr,
    /// Who called, as TLS has proven.
    pub peer: Option<WorkloadIdentity>,
    pub method: Box<[u8]>,
    pub authority: Box<[u8]>,
    /// As sent on, at most 1 KiB of it.
    pub path: Box<[u8]>,
    pub request_id: Option<Box<[u8]>>,
    pub traceparent: Option<Box<[u8]>>,
    /// 0: there was no response.
    pub status: u16,
    /// Why there was none from a backend.
    pub cause: Option<&'static str>,
    pub detail: Option<Box<str>>,
    /// The policy that has denied it, or, in dry-run mode, would have.
    pub policy: Option<Arc<str>>,
    pub dry_run: bool,
    pub parent: ServiceRef,
    pub route: Option<Arc<RouteRef>>,
    pub rule: u32,
    pub backend: Option<ServiceRef>,
    /// Of the last attempt.
    pub upstream: Option<SocketAddr>,
    pub attempts: u32,
    pub received: u64,
    pub sent: u64,
}

/// A path that is longer is cut: the log is for people.
const PATH: usize = 1024;

impl Record {
    pub(super) fn of(x: &Exchange, backend: Option<&ServiceRef>, now: Instant) -> Record {
        let path = x.head.path();
        let peer = match &x.down.meaning {
            crate::conn::Meaning::App { peer, .. } => peer.clone(),
            _ => None,
        };
        Record {
            started: x.started,
            duration: now.saturating_duration_since(x.started),
            inbound: x.down.inbound(),
            client: x.down.client,
            peer,
            method: x.head.method().into(),
            authority: x.head.authority().into(),
            path: path[..path.len().min(PATH)].into(),
            request_id: x.head.known(Known::RequestId).map(Into::into),
            traceparent: x.head.known(Known::Traceparent).map(Into::into),
            status: x.status,
            cause: x.cause.as_ref().map(|c| c.kind.label()),
            detail: x.cause.as_ref().map(|c| c.to_string().into()),
            policy: x.told.as_ref().map(|t| t.policy.clone()),
            dry_run: x.told.as_ref().is_some_and(|t| t.dry_run),
            parent: x.down.parent.clone(),
            route: x.rule.as_ref().map(|r| r.route.clone()),
            rule: x.rule.as_ref().map_or(0, |r| r.index),
            backend: backend.cloned(),
            upstream: x.upstream,
            attempts: x.attempts,
            received: x.body.total,
            sent: x.received,
        }
    }
}
