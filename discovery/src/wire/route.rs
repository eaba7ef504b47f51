//! Routes: rules, matches, filters, backends, retries and timeouts.

use super::{WireError, all, narrow, optional, port, required};
use crate::proto::{self, backend_ref, invalid, path_match, path_modifier, route_ref, rule, value_match};
use std::{sync::Arc, time::Duration};
use weft_core::{
    cause::Invalid,
    filter::{Cors, Filters, HeaderModifier, Mirror, PathModifier, Redirect, UrlRewrite},
    matches::{GrpcMatch, HttpMatch, NamedMatch, PathMatch, Pattern, ValueMatch},
    retry::{RetryPolicy, Timeouts},
    route::{BackendRef, RouteKind, RouteRef, Rule, RuleMatches, StreamRule, WeightedBackend},
};

pub(super) fn strings(list: &[Box<str>]) -> Vec<String> {
    list.iter().map(|s| s.to_string()).collect()
}
pub(super) fn boxes(list: Vec<String>) -> Vec<Box<str>> {
    list.into_iter().map(Into::into).collect()
}
fn text(s: &Option<Box<str>>) -> Option<String> {
    s.as_deref().map(Into::into)
}
/// 584 years are enough for any timeout.
pub(super) fn nanos(d: Duration) -> u64 {
    d.as_nanos().try_into().unwrap_or(u64::MAX)
}

// ---- who

impl From<&RouteRef> for proto::RouteRef {
    fn from(r: &RouteRef) -> Self {
        let kind = match r.kind {
            RouteKind::Http => route_ref::Kind::Http,
            RouteKind::Grpc => route_ref::Kind::Grpc,
            RouteKind::Tls => route_ref::Kind::Tls,
            RouteKind::Tcp => route_ref::Kind::Tcp,
        };
        Self { kind: kind.into(), namespace: r.namespace.to_string(), name: r.name.to_string(), created: r.created }
    }
}
impl TryFrom<proto::RouteRef> for RouteRef {
    type Error = WireError;
    fn try_from(r: proto::RouteRef) -> Result<Self, WireError> {
        let kind = match r.kind() {
            route_ref::Kind::Http => RouteKind::Http,
            route_ref::Kind::Grpc => RouteKind::Grpc,
            route_ref::Kind::Tls => RouteKind::Tls,
            route_ref::Kind::Tcp => RouteKind::Tcp,
            route_ref::Kind::Unspecified => return Err(WireError::Missing("kind of a route")),
        };
        Ok(Self { kind, namespace: r.namespace.into(), name: r.name.into(), created: r.created })
    }
}

impl From<&BackendRef> for proto::BackendRef {
    fn from(b: &BackendRef) -> Self {
        let kind = match b {
            BackendRef::Service(s) => backend_ref::Kind::Service(s.into()),
            BackendRef::Invalid(i) => {
                use invalid::Kind as K;
                let (kind, detail) = match i {
                    Invalid::BackendNotFound(d) => (K::BackendNotFound, d),
                    Invalid::InvalidKind(d) => (K::InvalidKind, d),
                    Invalid::RefNotPermitted(d) => (K::RefNotPermitted, d),
                    Invalid::PortNotFound(d) => (K::PortNotFound, d),
                    Invalid::Unsupported(d) => (K::Unsupported, d),
                };
                backend_ref::Kind::Invalid(proto::Invalid { kind: kind.into(), detail: detail.to_string() })
            }
        };
        Self { kind: Some(kind) }
    }
}
impl TryFrom<proto::BackendRef> for BackendRef {
    type Error = WireError;
    fn try_from(b: proto::BackendRef) -> Result<Self, WireError> {
        Ok(match required("backend", b.kind)? {
            backend_ref::Kind::Service(s) => BackendRef::Service(s.try_into()?),
            backend_ref::Kind::Invalid(i) => {
                use invalid::Kind as K;
                let kind = i.kind();
                let detail: Box<str> = i.detail.into();
                BackendRef::Invalid(match kind {
                    K::BackendNotFound => Invalid::BackendNotFound(detail),
                    K::InvalidKind => Invalid::InvalidKind(detail),
                    K::RefNotPermitted => Invalid::RefNotPermitted(detail),
                    K::PortNotFound => Invalid::PortNotFound(detail),
                    // a cause that a newer controller knows is still an invalid backend
                    K::Unsupported | K::Unspecified => Invalid::Unsupported(detail),
                })
            }
        })
    }
}

impl From<&WeightedBackend> for proto::WeightedBackend {
    fn from(b: &WeightedBackend) -> Self {
        Self { backend: Some((&b.backend).into()), weight: b.weight, filters: filters(&b.filters) }
    }
}
impl TryFrom<proto::WeightedBackend> for WeightedBackend {
    type Error = WireError;
    fn try_from(b: proto::WeightedBackend) -> Result<Self, WireError> {
        Ok(Self {
            backend: required("backend of a rule", b.backend)?.try_into()?,
            weight: b.weight,
            filters: b.filters.map_or(Ok(Filters::default()), TryInto::try_into)?,
        })
    }
}

// ---- rules

impl From<&Rule> for proto::Rule {
    fn from(r: &Rule) -> Self {
        let matches = match &r.matches {
            RuleMatches::Http(m) => {
                rule::Matches::Http(proto::HttpMatches { matches: m.iter().map(Into::into).collect() })
            }
            RuleMatches::Grpc(m) => {
                rule::Matches::Grpc(proto::GrpcMatches { matches: m.iter().map(Into::into).collect() })
            }
        };
        Self {
            route: Some((&*r.route).into()),
            index: r.index,
            name: r.name.as_deref().map(Into::into),
            matches: Some(matches),
            filters: filters(&r.filters),
            backends: r.backends.iter().map(Into::into).collect(),
            request_timeout_ns: r.timeouts.request.map(nanos),
            backend_timeout_ns: r.timeouts.backend_request.map(nanos),
            retry: r.retry.as_ref().map(Into::into),
        }
    }
}
impl TryFrom<proto::Rule> for Rule {
    type Error = WireError;
    fn try_from(r: proto::Rule) -> Result<Self, WireError> {
        let matches = match required("matches of a rule", r.matches)? {
            rule::Matches::Http(m) => RuleMatches::Http(all(m.matches)?),
            rule::Matches::Grpc(m) => RuleMatches::Grpc(all(m.matches)?),
        };
        Ok(Self {
            route: Arc::new(required("route of a rule", r.route)?.try_into()?),
            index: r.index,
            name: r.name.map(Into::into),
            matches,
            filters: r.filters.map_or(Ok(Filters::default()), TryInto::try_into)?,
            backends: all(r.backends)?,
            timeouts: Timeouts {
                request: r.request_timeout_ns.map(Duration::from_nanos),
                backend_request: r.backend_timeout_ns.map(Duration::from_nanos),
            },
            retry: optional(r.retry)?,
        })
    }
}

impl From<&StreamRule> for proto::StreamRule {
    fn from(r: &StreamRule) -> Self {
        Self {
            route: Some((&*r.route).into()),
            hostnames: strings(&r.hostnames),
            backends: r.backends.iter().map(Into::into).collect(),
        }
    }
}
impl TryFrom<proto::StreamRule> for StreamRule {
    type Error = WireError;
    fn try_from(r: proto::StreamRule) -> Result<Self, WireError> {
        Ok(Self {
            route: Arc::new(required("route of a rule", r.route)?.try_into()?),
            hostnames: boxes(r.hostnames),
            backends: all(r.backends)?,
        })
    }
}

impl From<&RetryPolicy> for proto::RetryPolicy {
    fn from(p: &RetryPolicy) -> Self {
        let wide = |codes: &[u16]| codes.iter().map(|c| (*c).into()).collect();
        Self {
            codes: wide(&p.codes),
            grpc_codes: wide(&p.grpc_codes),
            attempts: p.attempts,
            backoff_ns: nanos(p.backoff),
        }
    }
}
impl TryFrom<proto::RetryPolicy> for RetryPolicy {
    type Error = WireError;
    fn try_from(p: proto::RetryPolicy) -> Result<Self, WireError> {
        let codes = |list: Vec<u32>| list.into_iter().map(|c| narrow("code to retry", c)).collect::<Result<_, _>>();
        Ok(Self {
            codes: codes(p.codes)?,
            grpc_codes: codes(p.grpc_codes)?,
            attempts: p.attempts,
            backoff: Duration::from_nanos(p.backoff_ns),
        })
    }
}

// ---- matches

/// The expression as the user wrote it: [`Pattern`] anchors it when it compiles.
fn pattern(p: &Pattern) -> String {
    let whole = p.0.as_str();
    let inner = whole.strip_prefix("^(?:").and_then(|s| s.strip_suffix(")$"));
    inner.unwrap_or(whole).into()
}
fn compile(s: String) -> Result<Pattern, WireError> {
    super::patterns::compile(s).map_err(|e| WireError::invalid("regular expression", e))
}

impl From<&ValueMatch> for proto::ValueMatch {
    fn from(m: &ValueMatch) -> Self {
        let kind = match m {
            ValueMatch::Exact(s) => value_match::Kind::Exact(s.to_string()),
            ValueMatch::Regex(p) => value_match::Kind::Regex(pattern(p)),
        };
        Self { kind: Some(kind) }
    }
}
impl TryFrom<proto::ValueMatch> for ValueMatch {
    type Error = WireError;
    fn try_from(m: proto::ValueMatch) -> Result<Self, WireError> {
        Ok(match required("kind of a value match", m.kind)? {
            value_match::Kind::Exact(s) => ValueMatch::Exact(s.into()),
            value_match::Kind::Regex(s) => ValueMatch::Regex(compile(s)?),
        })
    }
}

impl From<&PathMatch> for proto::PathMatch {
    fn from(m: &PathMatch) -> Self {
        let kind = match m {
            PathMatch::Exact(s) => path_match::Kind::Exact(s.to_string()),
            PathMatch::Prefix(s) => path_match::Kind::Prefix(s.to_string()),
            PathMatch::Regex(p) => path_match::Kind::Regex(pattern(p)),
        };
        Self { kind: Some(kind) }
    }
}
impl TryFrom<proto::PathMatch> for PathMatch {
    type Error = WireError;
    fn try_from(m: proto::PathMatch) -> Result<Self, WireError> {
        Ok(match required("kind of a path match", m.kind)? {
            path_match::Kind::Exact(s) => PathMatch::Exact(s.into()),
            path_match::Kind::Prefix(s) => PathMatch::Prefix(s.into()),
            path_match::Kind::Regex(s) => PathMatch::Regex(compile(s)?),
        })
    }
}

impl From<&NamedMatch> for proto::NamedMatch {
    fn from(m: &NamedMatch) -> Self {
        Self { name: m.name.to_string(), value: Some((&m.value).into()) }
    }
}
impl TryFrom<proto::NamedMatch> for NamedMatch {
    type Error = WireError;
    fn try_from(m: proto::NamedMatch) -> Result<Self, WireError> {
        Ok(Self { name: m.name.into(), value: required("value of a match", m.value)?.try_into()? })
    }
}

impl From<&HttpMatch> for proto::HttpMatch {
    fn from(m: &HttpMatch) -> Self {
        Self {
            path: Some((&m.path).into()),
            headers: m.headers.iter().map(Into::into).collect(),
            query: m.query.iter().map(Into::into).collect(),
            method: text(&m.method),
        }
    }
}
impl TryFrom<proto::HttpMatch> for HttpMatch {
    type Error = WireError;
    fn try_from(m: proto::HttpMatch) -> Result<Self, WireError> {
        Ok(Self {
            path: required("path of a match", m.path)?.try_into()?,
            headers: all(m.headers)?,
            query: all(m.query)?,
            method: m.method.map(Into::into),
        })
    }
}

impl From<&GrpcMatch> for proto::GrpcMatch {
    fn from(m: &GrpcMatch) -> Self {
        Self {
            service: m.service.as_ref().map(Into::into),
            method: m.method.as_ref().map(Into::into),
            headers: m.headers.iter().map(Into::into).collect(),
        }
    }
}
impl TryFrom<proto::GrpcMatch> for GrpcMatch {
    type Error = WireError;
    fn try_from(m: proto::GrpcMatch) -> Result<Self, WireError> {
        Ok(Self { service: optional(m.service)?, method: optional(m.method)?, headers: all(m.headers)? })
    }
}

// ---- filters

/// No message for no filters: most rules and backends have none.
fn filters(f: &Filters) -> Option<proto::Filters> {
    (*f != Filters::default()).then(|| f.into())
}

impl From<&Filters> for proto::Filters {
    fn from(f: &Filters) -> Self {
        Self {
            request_headers: f.request_headers.as_ref().map(Into::into),
            response_headers: f.response_headers.as_ref().map(Into::into),
            redirect: f.redirect.as_ref().map(Into::into),
            rewrite: f.rewrite.as_ref().map(Into::into),
            mirrors: f.mirrors.iter().map(Into::into).collect(),
            cors: f.cors.as_ref().map(Into::into),
            unsupported: text(&f.unsupported),
        }
    }
}
impl TryFrom<proto::Filters> for Filters {
    type Error = WireError;
    fn try_from(f: proto::Filters) -> Result<Self, WireError> {
        Ok(Self {
            request_headers: f.request_headers.map(Into::into),
            response_headers: f.response_headers.map(Into::into),
            redirect: optional(f.redirect)?,
            rewrite: optional(f.rewrite)?,
            mirrors: all(f.mirrors)?,
            cors: f.cors.map(Into::into),
            unsupported: f.unsupported.map(Into::into),
        })
    }
}

impl From<&HeaderModifier> for proto::HeaderModifier {
    fn from(m: &HeaderModifier) -> Self {
        let pairs = |list: &[(Box<str>, Box<str>)]| {
            list.iter().map(|(n, v)| proto::Header { name: n.to_string(), value: v.to_string() }).collect()
        };
        Self { set: pairs(&m.set), add: pairs(&m.add), remove: strings(&m.remove) }
    }
}
impl From<proto::HeaderModifier> for HeaderModifier {
    fn from(m: proto::HeaderModifier) -> Self {
        let pairs = |list: Vec<proto::Header>| list.into_iter().map(|h| (h.name.into(), h.value.into())).collect();
        Self { set: pairs(m.set), add: pairs(m.add), remove: boxes(m.remove) }
    }
}

impl From<&PathModifier> for proto::PathModifier {
    fn from(m: &PathModifier) -> Self {
        let kind = match m {
            PathModifier::ReplaceFullPath(s) => path_modifier::Kind::Full(s.to_string()),
            PathModifier::ReplacePrefixMatch(s) => path_modifier::Kind::Prefix(s.to_string()),
        };
        Self { kind: Some(kind) }
    }
}
impl TryFrom<proto::PathModifier> for PathModifier {
    type Error = WireError;
    fn try_from(m: proto::PathModifier) -> Result<Self, WireError> {
        Ok(match required("kind of a path modifier", m.kind)? {
            path_modifier::Kind::Full(s) => PathModifier::ReplaceFullPath(s.into()),
            path_modifier::Kind::Prefix(s) => PathModifier::ReplacePrefixMatch(s.into()),
        })
    }
}

impl From<&Redirect> for proto::Redirect {
    fn from(r: &Redirect) -> Self {
        Self {
            scheme: text(&r.scheme),
            hostname: text(&r.hostname),
            path: r.path.as_ref().map(Into::into),
            port: r.port.map(Into::into),
            status: r.status.into(),
        }
    }
}
impl TryFrom<proto::Redirect> for Redirect {
    type Error = WireError;
    fn try_from(r: proto::Redirect) -> Result<Self, WireError> {
        Ok(Self {
            scheme: r.scheme.map(Into::into),
            hostname: r.hostname.map(Into::into),
            path: optional(r.path)?,
            port: r.port.map(|p| port("port of a redirect", p)).transpose()?,
            status: narrow("status of a redirect", r.status)?,
        })
    }
}

impl From<&UrlRewrite> for proto::UrlRewrite {
    fn from(r: &UrlRewrite) -> Self {
        Self { hostname: text(&r.hostname), path: r.path.as_ref().map(Into::into) }
    }
}
impl TryFrom<proto::UrlRewrite> for UrlRewrite {
    type Error = WireError;
    fn try_from(r: proto::UrlRewrite) -> Result<Self, WireError> {
        Ok(Self { hostname: r.hostname.map(Into::into), path: optional(r.path)? })
    }
}

impl From<&Mirror> for proto::Mirror {
    fn from(m: &Mirror) -> Self {
        Self { backend: Some((&m.backend).into()), numerator: m.numerator, denominator: m.denominator }
    }
}
impl TryFrom<proto::Mirror> for Mirror {
    type Error = WireError;
    fn try_from(m: proto::Mirror) -> Result<Self, WireError> {
        if m.denominator == 0 {
            return Err(WireError::Range { field: "denominator of a mirror", value: 0 });
        }
        let backend = required("backend of a mirror", m.backend)?.try_into()?;
        Ok(Self { backend, numerator: m.numerator, denominator: m.denominator })
    }
}

impl From<&Cors> for proto::Cors {
    fn from(c: &Cors) -> Self {
        Self {
            allow_origins: strings(&c.allow_origins),
            allow_credentials: c.allow_credentials,
            allow_methods: strings(&c.allow_methods),
            allow_headers: strings(&c.allow_headers),
            expose_headers: strings(&c.expose_headers),
            max_age: c.max_age,
        }
    }
}
impl From<proto::Cors> for Cors {
    fn from(c: proto::Cors) -> Self {
        Self {
            allow_origins: boxes(c.allow_origins),
            allow_credentials: c.allow_credentials,
            allow_methods: boxes(c.allow_methods),
            allow_headers: boxes(c.allow_headers),
            expose_headers: boxes(c.expose_headers),
            max_age: c.max_age,
        }
    }
}
