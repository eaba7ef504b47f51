//! Routes: what they leave out, what their numbers add up to, whom they cannot reach.

use super::{Check, http_rules, plural, workloads::selected};
use crate::{
    convert::http::DEFAULT_BACKOFF,
    finding::Severity::{Error, Info, Warning},
    object::{Name, Object, ObjectKey, Stored},
    refs, status,
};
use std::time::Duration;
use weft_api::http::{HTTPMethod, HTTPRouteMatch, HTTPRouteRule, PathMatchType};

impl Check<'_> {
    pub(super) fn routes(&mut self) {
        for (key, stored) in self.route_list() {
            self.consumers(&key, stored);
            self.rest(&key, stored);
            self.backends(stored);
            self.hostnames(stored);
            for (i, rule) in http_rules(&stored.object).unwrap_or_default().iter().enumerate() {
                self.retries(stored, &format!("spec.rules[{i}]"), rule);
            }
        }
    }

    /// What a route's own fields and its namespace show, for every change of a running mesh: nothing that must be compiled.
    pub(super) fn at_a_glance(&mut self) {
        for (key, stored) in self.index.routes() {
            self.consumers(key, stored);
            self.weights(stored);
            for (i, rule) in http_rules(&stored.object).unwrap_or_default().iter().enumerate() {
                self.retries(stored, &format!("spec.rules[{i}]"), rule);
            }
        }
    }

    /// A consumer route is applied by the sidecars of its namespace: without any, by nobody.
    fn consumers(&mut self, key: &ObjectKey, stored: &Stored) {
        for (service, i) in refs::service_parents(&stored.object) {
            let own = &key.name.namespace;
            if service.namespace == *own || self.index.service(&service).is_none() {
                continue;
            }
            let meshed = self.index.namespace_meshed(own) || self.index.pods_of(own).any(|p| self.index.meshed(p));
            if !meshed {
                let message = format!("applies only to clients in {own}, and none of them is in the mesh");
                let fix = format!(
                    "label the namespace {own} with weft.dev/inject: enabled, or move the route to {}",
                    service.namespace
                );
                self.say(
                    Warning,
                    "consumer-not-meshed",
                    stored,
                    &format!("spec.parentRefs[{i}].namespace"),
                    message,
                    fix,
                );
            }
        }
    }

    /// Attaching a route replaces plain forwarding: what no rule matches is refused.
    fn rest(&mut self, key: &ObjectKey, stored: &Stored) {
        let narrow = |object: &Object| match object {
            Object::HTTPRoute(r) => {
                !r.spec.rules.is_empty()
                    && !r.spec.rules.iter().any(|r| r.matches.is_empty() || r.matches.iter().any(takes_all))
            }
            Object::GRPCRoute(r) => {
                let all = |m: &weft_api::grpc::GRPCRouteMatch| {
                    m.headers.is_empty() && m.method.as_ref().is_none_or(|m| m.service.is_none() && m.method.is_none())
                };
                !r.spec.rules.is_empty()
                    && !r.spec.rules.iter().any(|r| r.matches.is_empty() || r.matches.iter().any(all))
            }
            _ => false,
        };
        if !narrow(&stored.object) {
            return;
        }
        for (service, i) in refs::service_parents(&stored.object) {
            let view = status::view_of(key, &service);
            let Some(facts) = self.index.service(&service).cloned() else { continue };
            let parent = &refs::parents(&stored.object)[i];
            for port in facts.ports.iter().filter(|p| parent.port.is_none_or(|n| n == p.port)) {
                let group = self.judge.group(&service, port.port, &view);
                let others = group.routes.iter().filter(|k| *k != key).filter_map(|k| self.index.get(k));
                if group.routes.contains(key) && others.into_iter().all(|o| narrow(&o.object)) {
                    let answer = if matches!(stored.object, Object::GRPCRoute(_)) { "UNIMPLEMENTED" } else { "404" };
                    let message = format!(
                        "no rule takes the rest: other requests to {service}:{} get {answer} once this route is attached",
                        port.port
                    );
                    self.say(
                        Warning,
                        "no-catch-all",
                        stored,
                        "spec.rules",
                        message,
                        format!("add a rule without matches whose backend is {}", service.name),
                    );
                    return;
                }
            }
        }
    }

    fn backends(&mut self, stored: &Stored) {
        let key = stored.object.key();
        let own = key.name.namespace.clone();
        // a route that is attached to nothing has no status that would judge its backends
        let attached = refs::service_parents(&stored.object).iter().any(|(s, _)| self.index.service(s).is_some());
        if !attached {
            for (field, b) in refs::backends(&stored.object) {
                if let Err(p) = crate::convert::resolve(self.index, key.kind.as_str(), &own, &own, &b) {
                    let code = super::reference_code(p.reason, p.field);
                    self.say(Error, code, stored, &format!("{field}.{}", p.field), p.invalid.to_string(), p.fix);
                }
            }
        }
        for (field, b) in refs::backends(&stored.object).into_iter().filter(|(_, b)| refs::is_service_backend(b)) {
            let name = Name {
                namespace: b.namespace.as_deref().map_or_else(|| own.clone(), Into::into),
                name: b.name.as_str().into(),
            };
            let Some(service) = self.index.service(&name).cloned() else { continue };
            if self.index.slices(&name).next().is_none()
                && service.kind == crate::facts::ServiceKind::Virtual
                && !selected(&self.pod_templates(), &service)
            {
                let message = format!("Service {name} has no endpoints: nothing that its selector picks is there");
                let fix = if service.selector.is_empty() {
                    "give the Service a selector or EndpointSlices"
                } else {
                    "correct the Service's selector, or start what it selects"
                };
                self.say(Warning, "backend-empty", stored, &format!("{field}.name"), message, fix);
            }
        }
        self.weights(stored);
    }

    /// Rules whose requests go nowhere.
    fn weights(&mut self, stored: &Stored) {
        let weights: Vec<(usize, Vec<u32>)> = match &stored.object {
            Object::HTTPRoute(r) => r
                .spec
                .rules
                .iter()
                .enumerate()
                .map(|(i, r)| (i, r.backend_refs.iter().map(|b| b.weight.unwrap_or(1)).collect()))
                .collect(),
            Object::GRPCRoute(r) => r
                .spec
                .rules
                .iter()
                .enumerate()
                .map(|(i, r)| (i, r.backend_refs.iter().map(|b| b.weight.unwrap_or(1)).collect()))
                .collect(),
            _ => Vec::new(),
        };
        for (i, w) in weights {
            let field = format!("spec.rules[{i}].backendRefs");
            let redirects =
                http_rules(&stored.object).is_some_and(|r| r[i].filters.iter().any(|f| f.request_redirect.is_some()));
            if w.is_empty() && !redirects {
                self.say(
                    Warning,
                    "no-backends",
                    stored,
                    &field,
                    "is empty: requests of this rule get a 500",
                    "name a backend",
                );
            } else if !w.is_empty() && w.iter().all(|w| *w == 0) {
                self.say(
                    Error,
                    "weights-zero",
                    stored,
                    &field,
                    "all weights are 0: requests of this rule get a 500",
                    "give one backend a weight",
                );
            }
        }
    }

    fn hostnames(&mut self, stored: &Stored) {
        let hostnames = match &stored.object {
            Object::HTTPRoute(r) => &r.spec.hostnames,
            Object::GRPCRoute(r) => &r.spec.hostnames,
            _ => return,
        };
        let parents = refs::parents(&stored.object);
        if !hostnames.is_empty() && !parents.is_empty() && parents.iter().all(refs::is_service) {
            let message = "has no effect on a Service: the address that was dialled decides, not the host";
            self.say(
                Info,
                "hostnames-ignored",
                stored,
                "spec.hostnames",
                message,
                "remove it, or match the header Host",
            );
        }
    }

    fn retries(&mut self, stored: &Stored, at: &str, rule: &HTTPRouteRule) {
        let Some(retry) = &rule.retry else { return };
        let attempts = retry.attempts.unwrap_or(1);
        let parsed = |d: Option<&weft_api::Duration>| d.and_then(|d| d.parse().ok()).filter(|d| *d > Duration::ZERO);
        let request = parsed(rule.timeouts.as_ref().and_then(|t| t.request.as_ref()));
        let backend = parsed(rule.timeouts.as_ref().and_then(|t| t.backend_request.as_ref()));
        let backoff = parsed(retry.backoff.as_ref());
        for (i, code) in retry.codes.iter().enumerate().filter(|(_, c)| **c < 500) {
            let message = format!("{code} says that the request is wrong, and it will be wrong again");
            self.say(
                Warning,
                "retry-code-4xx",
                stored,
                &format!("{at}.retry.codes[{i}]"),
                message,
                "list codes of the server's side: 500, 502, 503, 504",
            );
        }
        let unsafe_method = |m: &HTTPRouteMatch| matches!(m.method, Some(HTTPMethod::Post | HTTPMethod::Patch));
        if attempts > 0 && !retry.codes.is_empty() {
            for (i, m) in rule.matches.iter().enumerate().filter(|(_, m)| unsafe_method(m)) {
                let method = m.method.as_ref().map_or("", HTTPMethod::as_str);
                let message =
                    format!("{method} is not idempotent: a request that was answered with a listed code is done twice");
                self.say(
                    Warning,
                    "retry-not-idempotent",
                    stored,
                    &format!("{at}.matches[{i}].method"),
                    message,
                    "put the method into a rule of its own without retry.codes",
                );
            }
        }
        if let (Some(request), true) = (request, attempts > 0) {
            if let Some(backend) = backend {
                let tries = attempts + 1;
                let all = backend.saturating_mul(tries);
                if all > request {
                    let fit = (request.as_nanos() / backend.as_nanos().max(1)).max(1);
                    let message = format!(
                        "{} of {backend:?} each take {all:?}, but timeouts.request ends everything after {request:?}",
                        plural(tries as usize, "try", "tries")
                    );
                    let fix = format!(
                        "timeouts.request of {all:?} or more, or {} at most",
                        plural(fit as usize - 1, "attempt", "attempts")
                    );
                    self.say(Warning, "retry-exceeds-timeout", stored, &format!("{at}.retry.attempts"), message, fix);
                }
            }
            let wait = backoff.unwrap_or(DEFAULT_BACKOFF);
            if wait >= request {
                let message = format!(
                    "the wait before a retry, up to {wait:?}, is not shorter than timeouts.request ({request:?}): hardly a retry will be made"
                );
                self.say(
                    Warning,
                    "backoff-exceeds-timeout",
                    stored,
                    &format!("{at}.retry.backoff"),
                    message,
                    "a back-off of a tenth of timeouts.request, or less",
                );
            }
        }
        if attempts == 0 && !retry.codes.is_empty() {
            self.say(
                Info,
                "retry-disabled",
                stored,
                &format!("{at}.retry.attempts"),
                "0 forbids every retry, those of unprocessed requests too",
                "remove retry.codes, or raise attempts",
            );
        }
    }
}

/// Whether a match takes every request.
fn takes_all(m: &HTTPRouteMatch) -> bool {
    let path = m.path.as_ref().is_none_or(|p| {
        p.value.as_deref().unwrap_or("/") == "/" && p.r#type.as_ref().is_none_or(|t| *t == PathMatchType::PathPrefix)
    });
    path && m.headers.is_empty() && m.query_params.is_empty() && m.method.is_none()
}
