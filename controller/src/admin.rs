//! What the controller says of itself: `/live`, `/ready`, and `/status` with every route's conditions, what is wrong with the files, and what
//! proxies refuse. For people and probes; nothing secret is in it.

use crate::world::World;
use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::net::TcpListener;
use weft_identity::CredentialCell;

#[derive(Clone)]
struct Admin {
    world: Arc<World>,
    cell: CredentialCell,
}

/// Serves until dropped.
pub async fn serve(listener: TcpListener, world: Arc<World>, cell: CredentialCell) {
    let routes = Router::new()
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready))
        .route("/status", get(status))
        .with_state(Admin { world, cell });
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
