//! What the controller says of itself: `/live`, `/ready`, `/metrics`, and `/status` with every route's conditions, what is wrong with the files, and what
//! proxies refuse. For people and probes; nothing secret is in it.

use crate::{metrics::Metrics, world::World};
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderName, StatusCode, header::CONTENT_TYPE},
    routing::get,
};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::net::TcpListener;
use weft_discovery::trust::Confirmations;
use weft_identity::CredentialCell;

#[derive(Clone)]
struct Admin {
    world: Arc<World>,
    cell: CredentialCell,
    metrics: Arc<Metrics>,
    confirmations: Confirmations,
}

/// Serves until dropped.
pub async fn serve(
    listener: TcpListener,
    world: Arc<World>,
    cell: CredentialCell,
    metrics: Arc<Metrics>,
    confirmations: Confirmations,
) {
    let routes = Router::new()
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(measured))
        .route("/status", get(status))
        .with_state(Admin { world, cell, metrics, confirmations });
    if let Err(e) = axum::serve(listener, routes).await {
        tracing::error!(error = %e, "admin server ended");
    }
}

/// Ready: everything is read, and there is a certificate to show to proxies.
async fn ready(State(s): State<Admin>) -> (StatusCode, &'static str) {
    let read = *s.world.complete().borrow();
    match (read, s.cell.credentials().is_some()) {
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "objects are still being read\n"),
        (_, false) => (StatusCode::SERVICE_UNAVAILABLE, "no certificate from the CA yet\n"),
        (true, true) => (StatusCode::OK, "ready\n"),
    }
}

async fn measured(State(s): State<Admin>) -> ([(HeaderName, &'static str); 1], String) {
    let text = s.metrics.render(s.confirmations.connected(), s.world.counted());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

async fn status(State(s): State<Admin>) -> Json<Value> {
    let refusals = s.world.refusals().into_iter();
    let refusals = refusals.map(|(w, n, reason)| json!({"workload": &*w, "resource": n.to_string(), "reason": reason}));
    Json(json!({
        "routes": s.world.reports(),
        "policies": s.world.policy_reports(),
        "findings": &**s.world.findings().borrow(),
        "refusals": refusals.collect::<Vec<_>>(),
        "bundle": s.cell.bundle().version(),
    }))
}
