//! How a backend is treated, beyond which of its endpoints there are: what `TrafficPolicy`, `XBackendTrafficPolicy` and the Service itself say of it.
//!
//! A value with every field at its default is a backend without a policy. Budgets, limits and ejections count for each client proxy: nobody coordinates proxies.

use crate::retry::{RetryBudget, RetryPolicy, Timeouts};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What holds for the endpoints of one Service port, whatever route leads there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BackendPolicy {
    pub budget: RetryBudget,
    pub outlier: Outlier,
    pub balancing: Balancing,
    pub limits: ConnectionLimits,
    pub rate: Option<RateLimit>,
    /// `sessionAffinity: ClientIP` of the Service, with its timeout.
    pub affinity: Option<Duration>,
}

/// When endpoints are ejected; what is `None` is the relay's own default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Outlier {
    /// Failures in a row that eject an endpoint: 5xx, no connection, reset or timeout before a response.
    pub consecutive_failures: Option<u32>,
    /// The first ejection; later ones take longer.
    pub base_ejection: Option<Duration>,
    /// Percent of the endpoints that may be ejected at once.
    pub max_percent: Option<u32>,
}

/// How an endpoint is chosen among those that may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Balancing {
    /// The better of two that are drawn, by peak-EWMA latency and requests in flight.
    #[default]
    LeastLatency,
    RoundRobin,
    Random,
}

/// Bounds towards one backend; `None`: only those of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectionLimits {
    /// Connections to one endpoint from one worker thread; a sidecar has one.
    pub connections: Option<u32>,
    /// Requests under way at once.
    pub requests: Option<u32>,
    /// Requests that wait for a connection that somebody else has opened or uses.
    pub pending: Option<u32>,
}

/// A token bucket: `requests` within each `interval`, and `burst` more at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    pub requests: u32,
    pub interval: Duration,
    pub burst: u32,
}

/// What holds for requests to a Service port that has no routes: a rule has the same of its own.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RequestPolicy {
    pub timeouts: Timeouts,
    pub retry: Option<RetryPolicy>,
}
