//! What the CA says of itself: `/live`, `/ready`, `/metrics`. Nothing secret is in it: counters, dates, and why it does not sign.

use crate::{
    server::{Ca, lock},
    state::{Phase, State},
};
use axum::{Router, extract, http::StatusCode, routing::get};
use rustls_pki_types::UnixTime;
use std::{
    fmt::Write as _,
    sync::{Arc, atomic::Ordering},
};
use tokio::net::TcpListener;
use weft_identity::der;

/// Serves until dropped.
pub async fn serve(listener: TcpListener, ca: Arc<Ca>) {
    let routes = Router::new()
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(|extract::State(ca): extract::State<Arc<Ca>>| async move { metrics(&ca) }))
        .with_state(ca);
    if let Err(e) = axum::serve(listener, routes).await {
        tracing::error!(error = %e, "admin server ended");
    }
}

/// Ready: it would sign. An API server that is away does not count: the other replicas have no better one.
async fn ready(extract::State(ca): extract::State<Arc<Ca>>) -> (StatusCode, String) {
    match ca.stopped() {
        None => (StatusCode::OK, "ready\n".into()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("does not sign: {why}\n")),
    }
}

fn expiry(pem: &str) -> Option<UnixTime> {
    let cert = crate::state::certificate(pem).ok()?;
    der::facts(&cert).ok().map(|f| f.not_after)
}

/// Prometheus text.
pub fn metrics(ca: &Ca) -> String {
    let mut o = String::with_capacity(2048);
    let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, u64)]| {
        let _ = writeln!(o, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(o, "{name}{labels} {value}");
        }
    };
    let one = |n: u64| [(String::new(), n)];
    let stats = ca.stats();
    let state: Arc<State> = ca.state();
    family("weft_ca_signed_total", "counter", "Leaves signed.", &one(stats.signed.load(Ordering::Relaxed)));
    let reasons: Vec<_> =
        lock(&stats.reasons).iter().map(|(reason, n)| (format!("{{reason=\"{reason}\"}}"), *n)).collect();
    family("weft_ca_denied_total", "counter", "Callers that were denied, by reason.", &reasons);
    let refused = stats.refused.load(Ordering::Relaxed);
    family("weft_ca_refused_total", "counter", "Requests refused for their form or for a full queue.", &one(refused));
    let failed = stats.failed.load(Ordering::Relaxed);
    family("weft_ca_failed_total", "counter", "Requests of good callers that could not be signed.", &one(failed));
    family("weft_ca_signing", "gauge", "1: it signs. /ready says why not.", &one(ca.stopped().is_none().into()));
    let up = ca.authenticates().into();
    family("weft_ca_token_review_up", "gauge", "1: the authority that knows tokens answers.", &one(up));
    family("weft_ca_bundle_version", "gauge", "Version of the trust bundle.", &one(ca.bundle().version()));
    family("weft_ca_state_revision", "gauge", "Revision of the stored state.", &one(state.revision));
    let phase = state.rotation.map(|r| r.phase);
    let phases = [("none", None), ("distribute", Some(Phase::Distribute)), ("renew", Some(Phase::Renew))];
    let phases = phases.map(|(name, p)| (format!("{{phase=\"{name}\"}}"), u64::from(p == phase)));
    family("weft_ca_rotation_phase", "gauge", "Where the rotation of the root stands.", &phases);
    if let Some((_, _, p)) = ca.rotation() {
        family("weft_ca_rotation_expected", "gauge", "Members of the mesh that must confirm.", &one(p.expected.into()));
        family("weft_ca_rotation_confirmed", "gauge", "Members that have confirmed.", &one(p.confirmed.into()));
        let reporters = p.reporters as u64;
        family("weft_ca_rotation_controllers", "gauge", "Controllers that report to this replica.", &one(reporters));
    }
    for (name, help, pem) in [
        (
            "weft_ca_root_not_after_seconds",
            "When the root expires, by authority.",
            (|a| &a.root) as fn(&crate::state::Authority) -> &String,
        ),
        ("weft_ca_issuer_not_after_seconds", "When the issuer expires, by authority.", |a| &a.issuer),
    ] {
        let samples = state.authorities.iter().filter_map(|a| {
            let signs = if a.id == state.signing { "true" } else { "false" };
            Some((format!("{{authority=\"{}\",signing=\"{signs}\"}}", a.id), expiry(pem(a))?.as_secs()))
        });
        family(name, "gauge", help, &samples.collect::<Vec<_>>());
    }
    o
}
