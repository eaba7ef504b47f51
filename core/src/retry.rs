//! Timeouts and retries of a rule (GEP-1742, GEP-1731, GEP-3388).

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

/// The budget of retries to one backend from one proxy (GEP-3388): at most `percent` of the requests of the last `interval`, but `min_per_second` always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryBudget {
    pub percent: u32,
    pub interval: Duration,
    pub min_per_second: u32,
}
impl Default for RetryBudget {
    fn default() -> Self {
        Self { percent: 20, interval: Duration::from_secs(10), min_per_second: 10 }
    }
}
