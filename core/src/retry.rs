//! Timeouts and retries of a rule (GEP-1742, GEP-1731, GEP-3388): which outcomes are tried again, and when. How many retries a backend bears is the budget's business, in the relay.
//!
//! | outcome of an attempt | no `retry` | `retry`, attempts > 0 | attempts 0 |
//! |---|---|---|---|
//! | provably not processed (no connection, refused stream, `unprocessed`) | up to [`UNPROCESSED_RETRIES`] | yes | no |
//! | reused connection closed before the response's first byte, idempotent method | up to [`UNPROCESSED_RETRIES`] | yes | no |
//! | the same, other methods; reset after sending; bytes that are no response | no | no | no |
//! | listed status code | - | yes, any method | no |
//! | listed gRPC code, or UNAVAILABLE without a message (trailers only) | no | yes | no |
//! | `timeouts.backendRequest` reached | no | yes | no |
//! | `timeouts.request` reached, response head already passed on | no | no | no |
//!
//! A retry goes to another endpoint where there is one; when the retries are used up, the last outcome is the answer.

use crate::cause::{Class, Kind, grpc};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// `HTTPRoute.spec.rules[].timeouts`; `None` or zero: none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Timeouts {
    /// From the request's first byte to the response's last; terminal.
    pub request: Option<Duration>,
    /// Of one attempt; retryable.
    pub backend_request: Option<Duration>,
}

/// What may be retried, beyond requests that provably were not processed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Status codes, ascending.
    pub codes: Vec<u16>,
    /// gRPC status codes (TrafficPolicy), ascending.
    pub grpc_codes: Vec<u16>,
    /// Tries beyond the first; 0 disables every retry, of unprocessed requests too.
    pub attempts: u32,
    /// Base of the exponential back-off with full jitter.
    pub backoff: Duration,
}

/// The budget of retries to one backend from one proxy (GEP-3388): at most `percent` of the requests of the last `interval`, but `floor` within each `floor_interval` always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryBudget {
    pub percent: u32,
    pub interval: Duration,
    pub floor: u32,
    pub floor_interval: Duration,
}
impl Default for RetryBudget {
    fn default() -> Self {
        Self { percent: 20, interval: Duration::from_secs(10), floor: 10, floor_interval: Duration::from_secs(1) }
    }
}

/// Retries of unprocessed requests where no policy says otherwise: two more endpoints, as Istio does.
pub const UNPROCESSED_RETRIES: u32 = 2;
/// The back-off's base where a route gives none (GEP-1731 leaves it open): Envoy's.
pub const DEFAULT_BACKOFF: Duration = Duration::from_millis(25);
/// The back-off grows to this many times its base, as Envoy's does: a hundred tries must not take minutes.
pub const BACKOFF_CAP: u32 = 10;

/// How an attempt ended, before anything of its response was passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A response head, or the trailers that make up a whole gRPC response. `grpc`: the `grpc-status` of a response without a message (trailers only).
    Response { status: u16, grpc: Option<u16> },
    /// No response. `reused`: the connection had served another request before and was closed, not reset by a stream error, before a byte of the response came.
    Failed { kind: Kind, reused: bool },
}

/// Whether a method may be repeated without being asked (RFC 9110, 9.2.2).
pub fn is_idempotent(method: &[u8]) -> bool {
    matches!(method, b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE")
}

/// Retries that a rule allows for an outcome, beyond the first try; 0: it is the answer.
pub fn retries(policy: Option<&RetryPolicy>, outcome: Outcome, method: &[u8]) -> u32 {
    let policed = policy.map_or(0, |p| p.attempts);
    let safe = policy.map_or(UNPROCESSED_RETRIES, |p| p.attempts);
    match outcome {
        Outcome::Response { status, grpc } => match policy {
            Some(p) if p.takes(status, grpc) => policed,
            _ => 0,
        },
        Outcome::Failed { kind, reused } => match kind.class() {
            Class::Unprocessed => safe,
            Class::Attempt => policed,
            Class::Processed if reused && kind == Kind::ResetBeforeResponse && is_idempotent(method) => safe,
            Class::Processed | Class::Never => 0,
        },
    }
}

impl RetryPolicy {
    /// Whether a response is to be tried again.
    pub fn takes(&self, status: u16, grpc: Option<u16>) -> bool {
        self.attempts > 0
            && (self.codes.contains(&status)
                || grpc.is_some_and(|g| g == u16::from(grpc::UNAVAILABLE) || self.grpc_codes.contains(&g)))
    }
}

/// How long to wait before retry `n` (1 is the first): full jitter over base * 2^(n-1), at most [`BACKOFF_CAP`] bases. `random` is uniform.
pub fn backoff(policy: Option<&RetryPolicy>, n: u32, random: u64) -> Duration {
    let base = policy.map_or(DEFAULT_BACKOFF, |p| p.backoff);
    let factor = 1u32.checked_shl(n.saturating_sub(1)).unwrap_or(u32::MAX).clamp(1, BACKOFF_CAP);
    let window = base.saturating_mul(factor);
    let nanos = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(((u128::from(random) * u128::from(nanos)) >> 64) as u64)
}

impl Timeouts {
    /// Zero means none (GEP-1742).
    pub fn request(&self) -> Option<Duration> {
        self.request.filter(|d| !d.is_zero())
    }
    /// Zero means none.
    pub fn backend_request(&self) -> Option<Duration> {
        self.backend_request.filter(|d| !d.is_zero())
    }
}

#[cfg(test)]
#[path = "retry_tests.rs"]
mod tests;
