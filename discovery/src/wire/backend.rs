//! How backends are treated.

use super::{WireError, optional, route::nanos};
use crate::proto::{self, backend_policy::Balancing as Kind};
use std::time::Duration;
use weft_core::{
    backend::{BackendPolicy, Balancing, ConnectionLimits, Outlier, RateLimit},
    retry::RetryBudget,
};

/// No message for no policy: nearly all backends have none.
pub(super) fn policy(p: &BackendPolicy) -> Option<proto::BackendPolicy> {
    (*p != BackendPolicy::default()).then(|| p.into())
}

impl From<&BackendPolicy> for proto::BackendPolicy {
    fn from(p: &BackendPolicy) -> Self {
        let balancing = match p.balancing {
            Balancing::LeastLatency => Kind::LeastLatency,
            Balancing::RoundRobin => Kind::RoundRobin,
            Balancing::Random => Kind::Random,
        };
        let b = p.budget;
        Self {
            budget: (b != RetryBudget::default()).then(|| proto::RetryBudget {
                percent: b.percent,
                interval_ns: nanos(b.interval),
                floor: b.floor,
                floor_interval_ns: nanos(b.floor_interval),
            }),
            outlier: (p.outlier != Outlier::default()).then(|| proto::Outlier {
                consecutive_failures: p.outlier.consecutive_failures,
                base_ejection_ns: p.outlier.base_ejection.map(nanos),
                max_percent: p.outlier.max_percent,
            }),
            balancing: balancing.into(),
            limits: (p.limits != ConnectionLimits::default()).then_some(proto::ConnectionLimits {
                connections: p.limits.connections,
                requests: p.limits.requests,
                pending: p.limits.pending,
            }),
            rate: p.rate.map(|r| proto::RateLimit {
                requests: r.requests,
                interval_ns: nanos(r.interval),
                burst: r.burst,
            }),
            affinity_ms: p.affinity.map(|d| d.as_millis().try_into().unwrap_or(u64::MAX)),
        }
    }
}
impl TryFrom<proto::BackendPolicy> for BackendPolicy {
    type Error = WireError;
    fn try_from(p: proto::BackendPolicy) -> Result<Self, WireError> {
        // a way of balancing that a newer controller knows is balanced as without it: every endpoint is as right as another
        let balancing = match p.balancing() {
            Kind::LeastLatency => Balancing::LeastLatency,
            Kind::RoundRobin => Balancing::RoundRobin,
            Kind::Random => Balancing::Random,
        };
        Ok(Self {
            budget: p.budget.map_or_else(RetryBudget::default, |b| RetryBudget {
                percent: b.percent,
                interval: Duration::from_nanos(b.interval_ns),
                floor: b.floor,
                floor_interval: Duration::from_nanos(b.floor_interval_ns),
            }),
            outlier: p.outlier.map_or_else(Outlier::default, |o| Outlier {
                consecutive_failures: o.consecutive_failures,
                base_ejection: o.base_ejection_ns.map(Duration::from_nanos),
                max_percent: o.max_percent,
            }),
            balancing,
            limits: p.limits.map_or_else(ConnectionLimits::default, |l| ConnectionLimits {
                connections: l.connections,
                requests: l.requests,
                pending: l.pending,
            }),
            rate: optional(p.rate)?,
            affinity: p.affinity_ms.map(Duration::from_millis),
        })
    }
}
impl TryFrom<proto::RateLimit> for RateLimit {
    type Error = WireError;
    fn try_from(r: proto::RateLimit) -> Result<Self, WireError> {
        // the relay divides by both
        for (field, value) in
            [("requests of a rate limit", u64::from(r.requests)), ("interval of a rate limit", r.interval_ns)]
        {
            if value == 0 {
                return Err(WireError::Range { field, value });
            }
        }
        Ok(Self { requests: r.requests, interval: Duration::from_nanos(r.interval_ns), burst: r.burst })
    }
}
