//! TrafficPolicy and XBackendTrafficPolicy: who of them counts where, and what they add to routes and backends.
//!
//! Two policies that set the same field for the same target (the same part of it, too) are in conflict: the older one counts there and the other one not at all (GEP-713). Between
//! targets the nearer one wins field by field: a rule before its route, that before the Service's port, that before the Service. What a route says itself wins over all of them.
//! TrafficPolicy comes before XBackendTrafficPolicy, whatever their age: it is the one that can say everything.

use super::http::DEFAULT_BACKOFF;
use crate::{
    index::Index,
    object::{Kind, Name, Object, ObjectKey, Stored},
};
use weft_api::{
    Duration,
    experimental::RetryConstraint,
    weft::{LoadBalancingType, TrafficPolicySpec},
};
use weft_core::{
    backend::{BackendPolicy, Balancing, ConnectionLimits, Outlier, RateLimit, RequestPolicy},
    retry::{RetryBudget, RetryPolicy, Timeouts},
};

/// Fields that are about a backend: on a route they have no effect.
pub const ONLY_FOR_SERVICES: [&str; 5] =
    ["retryConstraint", "outlierDetection", "loadBalancing", "connectionLimits", "localRateLimit"];

/// One entry of a policy's `targetRefs` beside the others for the same target.
#[derive(Clone, Copy)]
pub struct Standing<'i> {
    pub stored: &'i Stored,
    /// In `targetRefs`.
    pub place: usize,
    pub section: Option<&'i str>,
    /// The policy that counts instead, and the field that both set.
    pub loses_to: Option<(&'i Stored, &'static str)>,
}

/// The fields that a policy sets.
pub fn fields(object: &Object) -> Vec<&'static str> {
    let set: Vec<(&str, bool)> = match object {
        Object::TrafficPolicy(p) => {
            let s = &p.spec;
            vec![
                ("timeouts", s.timeouts.is_some()),
                ("retry", s.retry.is_some()),
                ("retryConstraint", s.retry_constraint.is_some()),
                ("outlierDetection", s.outlier_detection.is_some()),
                ("loadBalancing", s.load_balancing.is_some()),
                ("connectionLimits", s.connection_limits.is_some()),
                ("localRateLimit", s.local_rate_limit.is_some()),
            ]
        }
        Object::XBackendTrafficPolicy(p) => vec![("retryConstraint", p.spec.retry_constraint.is_some())],
        _ => Vec::new(),
    };
    set.into_iter().filter(|(_, set)| *set).map(|(field, _)| field).collect()
}

/// The policies on a target, in the order in which they count.
pub fn standings<'i>(index: &'i Index, target: &ObjectKey) -> Vec<Standing<'i>> {
    let mut policies: Vec<&Stored> = index.policies_on(target).collect();
    policies
        .sort_by_cached_key(|p| (p.object.kind() == Kind::XBackendTrafficPolicy, p.object.created(), p.object.key()));
    let mut out: Vec<Standing<'i>> = Vec::new();
    for stored in policies {
        let own = fields(&stored.object);
        for (place, section) in sections(&stored.object, target) {
            // a target that stands twice in one policy is no conflict
            let rival =
                |s: &&Standing<'i>| s.loses_to.is_none() && s.section == section && !std::ptr::eq(s.stored, stored);
            let shared = |s: &Standing<'i>| {
                let field = fields(&s.stored.object).into_iter().find(|f| own.contains(f))?;
                Some((s.stored, field))
            };
            let loses_to = out.iter().filter(rival).find_map(shared);
            out.push(Standing { stored, place, section, loses_to });
        }
    }
    out
}

/// The entries of `targetRefs` that name a target.
fn sections<'o>(object: &'o Object, target: &ObjectKey) -> Vec<(usize, Option<&'o str>)> {
    let is = |group: &str, kind: &str, name: &str| {
        group == target.kind.group() && kind == target.kind.as_str() && *name == *target.name.name
    };
    match object {
        Object::TrafficPolicy(p) => {
            let all = p.spec.target_refs.iter().enumerate().filter(|(_, t)| is(&t.group, &t.kind, &t.name));
            all.map(|(i, t)| (i, t.section_name.as_deref())).collect()
        }
        Object::XBackendTrafficPolicy(p) => {
            let all = p.spec.target_refs.iter().enumerate().filter(|(_, t)| is(&t.group, &t.kind, &t.name));
            all.map(|(i, _)| (i, None)).collect()
        }
        _ => Vec::new(),
    }
}

/// Those that count for a Service's port, the port's own first.
fn on_port<'i>(index: &'i Index, service: &Name, port_name: Option<&str>) -> Vec<Standing<'i>> {
    let key = ObjectKey { kind: Kind::Service, name: service.clone() };
    let mut all = standings(index, &key);
    all.retain(|s| s.loses_to.is_none() && s.section.is_none_or(|s| Some(s) == port_name));
    all.sort_by_key(|s| s.section.is_none());
    all
}

/// What TrafficPolicies say about one route on one Service.
#[derive(Clone, Debug, Default)]
pub struct TrafficSettings {
    /// By rule name; `None` is the whole route or Service. Strongest first.
    layers: Vec<(Option<String>, RequestLayer)>,
}
#[derive(Clone, Debug, Default)]
pub struct RequestLayer {
    pub timeouts: Option<Timeouts>,
    pub retry: Option<RetryPolicy>,
}

impl TrafficSettings {
    pub fn of(index: &Index, route: &ObjectKey, service: &Name, port_name: Option<&str>) -> Self {
        let mut on_route = standings(index, route);
        on_route.retain(|s| s.loses_to.is_none());
        // a rule's own before the whole route's
        on_route.sort_by_key(|s| s.section.is_none());
        let of_route = on_route.iter().map(|s| (s.section.map(str::to_owned), layer(s.stored)));
        let of_service = on_port(index, service, port_name).into_iter().map(|s| (None, layer(s.stored)));
        Self { layers: of_route.chain(of_service).collect() }
    }

    /// The strongest value of each.
    pub fn of_rule(&self, name: Option<&str>) -> RequestLayer {
        let mut out = RequestLayer::default();
        for (section, layer) in &self.layers {
            if section.is_none() || section.as_deref() == name {
                out.timeouts = out.timeouts.or(layer.timeouts);
                out.retry = out.retry.or_else(|| layer.retry.clone());
            }
        }
        out
    }
}

fn parsed(d: Option<&Duration>) -> Option<std::time::Duration> {
    d.and_then(|d| d.parse().ok()).filter(|d| !d.is_zero())
}

fn layer(stored: &Stored) -> RequestLayer {
    let Object::TrafficPolicy(p) = &stored.object else { return RequestLayer::default() };
    let spec: &TrafficPolicySpec = &p.spec;
    let timeouts = spec
        .timeouts
        .as_ref()
        .map(|t| Timeouts { request: parsed(t.request.as_ref()), backend_request: parsed(t.backend_request.as_ref()) });
    let retry = spec.retry.as_ref().map(|r| {
        let sorted = |codes: &[u16]| {
            let mut codes = codes.to_vec();
            codes.sort_unstable();
            codes.dedup();
            codes
        };
        RetryPolicy {
            codes: sorted(&r.codes),
            grpc_codes: sorted(&r.grpc_codes),
            attempts: r.attempts.unwrap_or(1),
            backoff: parsed(r.backoff.as_ref()).unwrap_or(DEFAULT_BACKOFF),
        }
    });
    RequestLayer { timeouts, retry }
}

/// What holds for requests to a Service port that no route decides.
pub fn requests(index: &Index, service: &Name, port_name: Option<&str>) -> RequestPolicy {
    let mut out = RequestLayer::default();
    for s in on_port(index, service, port_name) {
        let layer = layer(s.stored);
        out.timeouts = out.timeouts.or(layer.timeouts);
        out.retry = out.retry.or(layer.retry);
    }
    RequestPolicy { timeouts: out.timeouts.unwrap_or_default(), retry: out.retry }
}

/// How the endpoints of a Service port are treated. `affinity` is the Service's own.
pub fn backend(
    index: &Index,
    service: &Name,
    port_name: Option<&str>,
    affinity: Option<std::time::Duration>,
) -> BackendPolicy {
    let mut out = BackendPolicy { affinity, ..BackendPolicy::default() };
    // the weakest first, so that the stronger ones overwrite it
    for s in on_port(index, service, port_name).into_iter().rev() {
        match &s.stored.object {
            Object::XBackendTrafficPolicy(p) => {
                out.budget = p.spec.retry_constraint.as_ref().map_or(out.budget, budget);
            }
            Object::TrafficPolicy(p) => traffic(&p.spec, &mut out),
            _ => {}
        }
    }
    out
}

fn traffic(spec: &TrafficPolicySpec, out: &mut BackendPolicy) {
    out.budget = spec.retry_constraint.as_ref().map_or(out.budget, budget);
    if let Some(o) = &spec.outlier_detection {
        out.outlier = Outlier {
            consecutive_failures: o.consecutive_failures,
            base_ejection: parsed(o.base_ejection_time.as_ref()),
            max_percent: o.max_ejection_percent,
        };
    }
    if let Some(l) = &spec.load_balancing {
        out.balancing = match l.r#type {
            LoadBalancingType::RoundRobin => Balancing::RoundRobin,
            LoadBalancingType::Random => Balancing::Random,
            LoadBalancingType::LeastLatency | LoadBalancingType::Unknown(_) => Balancing::LeastLatency,
        };
    }
    if let Some(l) = &spec.connection_limits {
        out.limits = ConnectionLimits {
            connections: l.max_connections,
            requests: l.max_requests,
            pending: l.max_pending_requests,
        };
    }
    if let Some(r) = &spec.local_rate_limit {
        // an interval that is none is refused before; a limit of nothing is no limit
        out.rate = parsed(Some(&r.interval)).filter(|_| r.requests > 0).map(|interval| RateLimit {
            requests: r.requests,
            interval,
            burst: r.burst.unwrap_or_default(),
        });
    }
}

/// GEP-3388, with its defaults.
fn budget(c: &RetryConstraint) -> RetryBudget {
    let mut out = RetryBudget::default();
    if let Some(b) = &c.budget {
        out.percent = b.percent.unwrap_or(out.percent);
        out.interval = parsed(b.interval.as_ref()).unwrap_or(out.interval);
    }
    if let Some(r) = &c.min_retry_rate {
        out.floor = r.count.unwrap_or(out.floor);
        out.floor_interval = parsed(r.interval.as_ref()).unwrap_or(out.floor_interval);
    }
    out
}
