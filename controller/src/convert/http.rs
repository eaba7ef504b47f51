//! Rules of HTTPRoute and GRPCRoute.

use super::{Context, Effect, TrafficSettings};
use std::time::Duration;
use weft_api::{
    GRPCRoute, HTTPRoute,
    grpc::{GRPCHeaderMatch, GRPCRouteMatch, GRPCRouteRule},
    http::{HTTPHeaderMatch, HTTPRouteMatch, HTTPRouteRule, MatchType, PathMatchType},
};
use weft_core::{
    matches::{GrpcMatch, HttpMatch, NamedMatch, PathMatch, Pattern, ValueMatch},
    retry::{RetryPolicy, Timeouts},
    route::{BackendRef, Rule, RuleMatches, WeightedBackend},
};

/// Base of the back-off unless the route says otherwise: a tenth of a usual request, so that a retry after a refused connection is not felt.
pub const DEFAULT_BACKOFF: Duration = Duration::from_millis(25);

/// The route whose rules are converted.
pub enum RuleSource<'r> {
    Http(&'r HTTPRoute),
    Grpc(&'r GRPCRoute),
}

/// The rules that can be used; what is wrong with the others is in `cx.problems`.
pub fn convert_rules(cx: &mut Context<'_>, route: &RuleSource<'_>, settings: &TrafficSettings) -> Vec<Rule> {
    match route {
        RuleSource::Http(r) => {
            // the API's default: one rule that matches everything and leads nowhere
            let default = [HTTPRouteRule::default()];
            let rules = if r.spec.rules.is_empty() { &default[..] } else { &r.spec.rules };
            rules.iter().enumerate().filter_map(|(i, rule)| cx.http_rule(i, rule, settings)).collect()
        }
        RuleSource::Grpc(r) => {
            let default = [GRPCRouteRule::default()];
            let rules = if r.spec.rules.is_empty() { &default[..] } else { &r.spec.rules };
            rules.iter().enumerate().filter_map(|(i, rule)| cx.grpc_rule(i, rule, settings)).collect()
        }
    }
}

impl Context<'_> {
    fn http_rule(&mut self, i: usize, rule: &HTTPRouteRule, settings: &TrafficSettings) -> Option<Rule> {
        let at = format!("spec.rules[{i}]");
        let default = [HTTPRouteMatch::default()];
        let matches = if rule.matches.is_empty() { &default[..] } else { &rule.matches };
        let found: Vec<_> =
            matches.iter().enumerate().map(|(j, m)| self.http_match(&format!("{at}.matches[{j}]"), m)).collect();
        let filters = self.http_filters(&at, &rule.filters);
        let mut backends = Vec::new();
        for (j, b) in rule.backend_refs.iter().enumerate() {
            let at = format!("{at}.backendRefs[{j}]");
            let (mut backend, mut filters) = (self.backend(&at, &b.object()), self.http_filters(&at, &b.filters));
            if filters.redirect.take().is_some() {
                self.problem(
                    Effect::FailsRule,
                    format!("{at}.filters"),
                    "RequestRedirect on a backendRef is not supported",
                    "move the filter to the rule",
                );
                backend = BackendRef::Invalid(weft_core::cause::Invalid::Unsupported(
                    "RequestRedirect on a backendRef".into(),
                ));
            }
            backends.push(WeightedBackend { backend, weight: b.weight.unwrap_or(1), filters });
        }
        if rule.session_persistence.is_some() {
            self.problem(
                Effect::Ignored,
                format!("{at}.sessionPersistence"),
                "is not supported and has no effect",
                "remove it",
            );
        }
        let name = rule.name.as_deref();
        let more = settings.of_rule(name);
        let mut timeouts = more.timeouts.unwrap_or_default();
        if let Some(t) = &rule.timeouts {
            timeouts = Timeouts {
                request: self.duration(&at, "timeouts.request", t.request.as_ref()),
                backend_request: self.duration(&at, "timeouts.backendRequest", t.backend_request.as_ref()),
            };
        }
        let retry = match &rule.retry {
            None => more.retry,
            Some(r) => {
                let mut codes = r.codes.clone();
                codes.sort_unstable();
                codes.dedup();
                let backoff = self.duration(&at, "retry.backoff", r.backoff.as_ref()).unwrap_or(DEFAULT_BACKOFF);
                // GEP-1731: one retry unless the route says otherwise
                Some(RetryPolicy { codes, grpc_codes: Vec::new(), attempts: r.attempts.unwrap_or(1), backoff })
            }
        };
        let matches = RuleMatches::Http(found.into_iter().collect::<Option<_>>()?);
        Some(Rule {
            route: self.route.clone(),
            index: i as u32,
            name: name.map(Into::into),
            matches,
            filters,
            backends,
            timeouts,
            retry,
        })
    }

    fn grpc_rule(&mut self, i: usize, rule: &GRPCRouteRule, settings: &TrafficSettings) -> Option<Rule> {
        let at = format!("spec.rules[{i}]");
        let default = [GRPCRouteMatch::default()];
        let matches = if rule.matches.is_empty() { &default[..] } else { &rule.matches };
        let found: Vec<_> =
            matches.iter().enumerate().map(|(j, m)| self.grpc_match(&format!("{at}.matches[{j}]"), m)).collect();
        let filters = self.grpc_filters(&at, &rule.filters);
        let mut backends = Vec::new();
        for (j, b) in rule.backend_refs.iter().enumerate() {
            let at = format!("{at}.backendRefs[{j}]");
            let (backend, filters) = (self.backend(&at, &b.object()), self.grpc_filters(&at, &b.filters));
            backends.push(WeightedBackend { backend, weight: b.weight.unwrap_or(1), filters });
        }
        if rule.session_persistence.is_some() {
            self.problem(
                Effect::Ignored,
                format!("{at}.sessionPersistence"),
                "is not supported and has no effect",
                "remove it",
            );
        }
        let name = rule.name.as_deref();
        let more = settings.of_rule(name);
        let matches = RuleMatches::Grpc(found.into_iter().collect::<Option<_>>()?);
        let (timeouts, retry) = (more.timeouts.unwrap_or_default(), more.retry);
        Some(Rule {
            route: self.route.clone(),
            index: i as u32,
            name: name.map(Into::into),
            matches,
            filters,
            backends,
            timeouts,
            retry,
        })
    }

    /// Zero is "none".
    fn duration(&mut self, at: &str, field: &str, d: Option<&weft_api::Duration>) -> Option<Duration> {
        match d?.parse() {
            Ok(d) => Some(d).filter(|d| !d.is_zero()),
            Err(e) => {
                // an API server refuses this; an object that came past it anyhow loses the field, visibly
                self.problem(
                    Effect::Ignored,
                    format!("{at}.{field}"),
                    e.to_string(),
                    "write whole numbers with h, m, s or ms",
                );
                None
            }
        }
    }

    /// `None`: the match cannot be used, and so neither can its rule.
    fn http_match(&mut self, at: &str, m: &HTTPRouteMatch) -> Option<HttpMatch> {
        let path = match &m.path {
            None => Some(PathMatch::default()),
            Some(p) => {
                let value = p.value.as_deref().unwrap_or("/");
                match p.r#type.as_ref().unwrap_or(&PathMatchType::PathPrefix) {
                    PathMatchType::Exact => Some(PathMatch::Exact(value.into())),
                    PathMatchType::PathPrefix => Some(PathMatch::Prefix(value.into())),
                    PathMatchType::RegularExpression => {
                        self.regex(&format!("{at}.path.value"), value).map(PathMatch::Regex)
                    }
                    PathMatchType::Unknown(t) => self.unknown(&format!("{at}.path.type"), t, PathMatchType::KNOWN),
                }
            }
        };
        let headers = self.named(
            at,
            "headers",
            m.headers
                .iter()
                .map(|h: &HTTPHeaderMatch| (h.r#type.as_ref(), h.name.to_ascii_lowercase(), h.value.as_str())),
        );
        let query = self.named(
            at,
            "queryParams",
            m.query_params.iter().map(|q| (q.r#type.as_ref(), q.name.clone(), q.value.as_str())),
        );
        let method = m.method.as_ref().map(|m| m.as_str().into());
        Some(HttpMatch { path: path?, headers: headers?, query: query?, method })
    }

    fn grpc_match(&mut self, at: &str, m: &GRPCRouteMatch) -> Option<GrpcMatch> {
        let (mut service, mut method) = (None, None);
        if let Some(x) = &m.method {
            let kind = x.r#type.as_ref();
            // empty means any, as in the API's own reading
            let value = |s: &Option<String>| s.clone().filter(|s| !s.is_empty());
            if let Some(s) = value(&x.service) {
                service = Some(self.value(&format!("{at}.method"), "service", kind, &s)?);
            }
            if let Some(s) = value(&x.method) {
                method = Some(self.value(&format!("{at}.method"), "method", kind, &s)?);
            }
        }
        let headers = m
            .headers
            .iter()
            .map(|h: &GRPCHeaderMatch| (h.r#type.as_ref(), h.name.to_ascii_lowercase(), h.value.as_str()));
        Some(GrpcMatch { service, method, headers: self.named(at, "headers", headers)? })
    }

    /// Headers or query parameters. Of a name that stands twice the first counts (Gateway API, HTTPRouteMatch).
    fn named<'m>(
        &mut self,
        at: &str,
        list: &str,
        items: impl Iterator<Item = (Option<&'m MatchType>, String, &'m str)>,
    ) -> Option<Vec<NamedMatch>> {
        let mut out: Vec<NamedMatch> = Vec::new();
        let mut good = true;
        for (i, (kind, name, value)) in items.enumerate() {
            let at = format!("{at}.{list}[{i}]");
            if out.iter().any(|o| *o.name == *name) {
                self.problem(
                    Effect::Ignored,
                    format!("{at}.name"),
                    format!("{name} stands already in this match, so this entry has no effect"),
                    "remove one",
                );
                continue;
            }
            match self.value(&at, "value", kind, value) {
                Some(value) => out.push(NamedMatch { name: name.into(), value }),
                None => good = false,
            }
        }
        good.then_some(out)
    }

    fn value(&mut self, at: &str, field: &str, kind: Option<&MatchType>, value: &str) -> Option<ValueMatch> {
        match kind.unwrap_or(&MatchType::Exact) {
            MatchType::Exact => Some(ValueMatch::Exact(value.into())),
            MatchType::RegularExpression => self.regex(&format!("{at}.{field}"), value).map(ValueMatch::Regex),
            MatchType::Unknown(t) => self.unknown(&format!("{at}.type"), t, MatchType::KNOWN),
        }
    }

    fn regex(&mut self, field: &str, text: &str) -> Option<Pattern> {
        match Pattern::try_from(text.to_owned()) {
            Ok(p) => Some(p),
            Err(e) => {
                let last = e.to_string().lines().last().unwrap_or_default().trim().to_owned();
                self.problem(
                    Effect::DropsRule,
                    field,
                    format!("{text:?} is no regular expression: {last}"),
                    "correct it (RE2 syntax: no look-around, no back-references)",
                );
                None
            }
        }
    }

    fn unknown<T>(&mut self, field: &str, word: &str, known: &[&str]) -> Option<T> {
        let fix = format!("write one of {}", known.join(", "));
        self.problem(Effect::DropsRule, field, format!("{word} is not known"), fix);
        None
    }
}
