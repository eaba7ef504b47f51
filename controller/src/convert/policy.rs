//! TrafficPolicy and XBackendTrafficPolicy: what they add to the rules of a route.

use super::http::DEFAULT_BACKOFF;
use crate::{
    index::Index,
    object::{Kind, Name, Object, ObjectKey, Stored},
};
use weft_api::{Duration, weft::TrafficPolicySpec};
use weft_core::retry::{RetryBudget, RetryPolicy, Timeouts};

/// What TrafficPolicies say about one route on one Service. A field of the route itself wins over all of it; a policy on the rule over one
/// on the route, and that over one on the Service.
#[derive(Clone, Debug, Default)]
pub struct TrafficSettings {
    /// By rule name; `None` is the whole route or Service. Strongest first.
    layers: Vec<(Option<String>, Layer)>,
}
#[derive(Clone, Debug, Default)]
pub struct Layer {
    pub timeouts: Option<Timeouts>,
    pub retry: Option<RetryPolicy>,
}

impl TrafficSettings {
    pub fn of(index: &Index, route: &ObjectKey, service: &Name, port_name: Option<&str>) -> Self {
        let mut layers = Vec::new();
        for policy in in_order(index.policies_on(route)) {
            let Object::TrafficPolicy(p) = &policy.object else { continue };
            for t in p.spec.target_refs.iter().filter(|t| t.kind == route.kind.as_str() && *t.name == *route.name.name)
            {
                layers.push((t.section_name.clone(), layer(&p.spec)));
            }
        }
        // a rule's own before the whole route's; the older policy stays first (GEP-713)
        layers.sort_by_key(|(section, _)| section.is_none());
        let key = ObjectKey { kind: Kind::Service, name: service.clone() };
        let mut of_service = Vec::new();
        for policy in in_order(index.policies_on(&key)) {
            let Object::TrafficPolicy(p) = &policy.object else { continue };
            for t in p.spec.target_refs.iter().filter(|t| t.kind == "Service" && *t.name == *service.name) {
                if t.section_name.as_deref().is_none_or(|s| Some(s) == port_name) {
                    of_service.push((t.section_name.is_none(), layer(&p.spec)));
                }
            }
        }
        of_service.sort_by_key(|(whole, _)| *whole);
        layers.extend(of_service.into_iter().map(|(_, l)| (None, l)));
        Self { layers }
    }

    /// The strongest value of each.
    pub fn of_rule(&self, name: Option<&str>) -> Layer {
        let mut out = Layer::default();
        for (section, layer) in &self.layers {
            if section.is_none() || section.as_deref() == name {
                out.timeouts = out.timeouts.or(layer.timeouts);
                out.retry = out.retry.or_else(|| layer.retry.clone());
            }
        }
        out
    }
}

/// Older first, then by name (GEP-713).
fn in_order<'i>(policies: impl Iterator<Item = &'i Stored>) -> Vec<&'i Stored> {
    let mut all: Vec<_> = policies.collect();
    all.sort_by_cached_key(|p| (p.object.created(), p.object.key()));
    all
}

fn parsed(d: Option<&Duration>) -> Option<std::time::Duration> {
    d.and_then(|d| d.parse().ok()).filter(|d| !d.is_zero())
}

fn layer(spec: &TrafficPolicySpec) -> Layer {
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
    Layer { timeouts, retry }
}

/// The retry budget of a backend Service: TrafficPolicy's, else XBackendTrafficPolicy's, else the default.
pub fn budget(index: &Index, service: &Name) -> RetryBudget {
    let key = ObjectKey { kind: Kind::Service, name: service.clone() };
    let policies = in_order(index.policies_on(&key));
    let constraint = |p: &&Stored| match &p.object {
        Object::TrafficPolicy(p) => p.spec.retry_constraint.clone(),
        _ => None,
    };
    let standard = |p: &&Stored| match &p.object {
        Object::XBackendTrafficPolicy(p) => p.spec.retry_constraint.clone(),
        _ => None,
    };
    let mut out = RetryBudget::default();
    let Some(c) = policies.iter().find_map(constraint).or_else(|| policies.iter().find_map(standard)) else {
        return out;
    };
    if let Some(b) = c.budget {
        out.percent = b.percent.unwrap_or(out.percent);
        out.interval = parsed(b.interval.as_ref()).unwrap_or(out.interval);
    }
    if let Some(r) = c.min_retry_rate {
        let seconds = parsed(r.interval.as_ref()).map_or(1.0, |i| i.as_secs_f64());
        out.min_per_second = (f64::from(r.count.unwrap_or(10)) / seconds).round() as u32;
    }
    out
}
