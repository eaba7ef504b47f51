//! What the table shows beside the sidecar's rows: the load loop's view, which is what the client saw.

use super::load::Target;
use std::collections::BTreeMap;

pub use crate::rows::{Row, Rows};

fn share(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

/// What the clients of one Service saw, in total.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ClientView {
    pub service: String,
    pub sent: u64,
    pub succeeded: u64,
    pub broken: u64,
    pub success: Option<f64>,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub served_by: BTreeMap<String, u64>,
    pub last_error: Option<String>,
}

impl ClientView {
    pub fn of(t: &Target) -> ClientView {
        let seen = t.seen.borrow();
        let ms = |p| seen.percentile(p).map(|d| d.as_secs_f64() * 1e3);
        ClientView {
            service: t.service.name.clone(),
            sent: seen.sent,
            succeeded: seen.succeeded,
            broken: seen.broken,
            success: share(seen.succeeded as f64, seen.sent as f64),
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            served_by: seen.served_by.clone(),
            last_error: seen.last_error.clone(),
        }
    }
}
