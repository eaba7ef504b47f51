//! Who may call a workload. Unlike other resources, what cannot be read here is not left out: a policy of an unknown action makes the whole inbound policy unreadable, so that the
//! proxy keeps the last one that it understood; unknown kinds of sources and paths become values that allow nothing and deny everything.

use super::{
    WireError, all, narrow, required,
    route::{boxes, strings},
};
use crate::proto::{self, authorization_policy::Action as Kind, path_term, source};
use std::sync::Arc;
use weft_core::authorization::{Action, HttpRequests, PathTerm, Policy, Rule, Source};

impl From<&Policy> for proto::AuthorizationPolicy {
    fn from(p: &Policy) -> Self {
        let action = match p.action {
            Action::Allow => Kind::Allow,
            Action::Deny => Kind::Deny,
        };
        Self {
            name: p.name.to_string(),
            action: action.into(),
            dry_run: p.dry_run,
            rules: p.rules.iter().map(Into::into).collect(),
        }
    }
}
impl TryFrom<proto::AuthorizationPolicy> for Policy {
    type Error = WireError;
    fn try_from(p: proto::AuthorizationPolicy) -> Result<Self, WireError> {
        let action = match p.action() {
            Kind::Allow => Action::Allow,
            Kind::Deny => Action::Deny,
            Kind::Unspecified => return Err(WireError::Missing("action of an authorization policy")),
        };
        Ok(Self { name: p.name.into(), action, dry_run: p.dry_run, rules: all(p.rules)? })
    }
}

impl From<&Rule> for proto::AuthorizationRule {
    fn from(r: &Rule) -> Self {
        Self {
            sources: r.sources.as_ref().map(|all| proto::Sources { sources: all.iter().map(Into::into).collect() }),
            ports: r.ports.iter().map(|p| (*p).into()).collect(),
            http: r.http.as_ref().map(|all| proto::HttpRequestsList { requests: all.iter().map(Into::into).collect() }),
        }
    }
}
impl TryFrom<proto::AuthorizationRule> for Rule {
    type Error = WireError;
    fn try_from(r: proto::AuthorizationRule) -> Result<Self, WireError> {
        let port = |p| narrow("port of an authorization rule", p);
        Ok(Self {
            sources: r.sources.map(|s| all(s.sources)).transpose()?,
            ports: r.ports.into_iter().map(port).collect::<Result<_, _>>()?,
            http: r.http.map(|h| all(h.requests)).transpose()?,
        })
    }
}

impl From<&Source> for proto::Source {
    fn from(s: &Source) -> Self {
        let kind = match s {
            Source::Identity(id) => Some(source::Kind::Identity(id.uri().into())),
            Source::ServiceAccount { trust_domain, namespace, name } => {
                Some(source::Kind::ServiceAccount(proto::SourceServiceAccount {
                    trust_domain: trust_domain.to_string(),
                    namespace: namespace.to_string(),
                    name: name.to_string(),
                }))
            }
            Source::Namespace { trust_domain, namespace } => Some(source::Kind::Namespace(proto::SourceNamespace {
                trust_domain: trust_domain.to_string(),
                namespace: namespace.to_string(),
            })),
            Source::Unknown => None,
        };
        Self { kind }
    }
}
impl TryFrom<proto::Source> for Source {
    type Error = WireError;
    fn try_from(s: proto::Source) -> Result<Self, WireError> {
        Ok(match s.kind {
            Some(source::Kind::Identity(id)) => {
                Source::Identity(id.parse().map_err(|e| WireError::invalid("identity of a source", e))?)
            }
            Some(source::Kind::ServiceAccount(a)) => Source::ServiceAccount {
                trust_domain: a.trust_domain.into(),
                namespace: a.namespace.into(),
                name: a.name.into(),
            },
            Some(source::Kind::Namespace(n)) => {
                Source::Namespace { trust_domain: n.trust_domain.into(), namespace: n.namespace.into() }
            }
            None => Source::Unknown,
        })
    }
}

impl From<&HttpRequests> for proto::HttpRequests {
    fn from(h: &HttpRequests) -> Self {
        Self { methods: strings(&h.methods), paths: h.paths.iter().map(Into::into).collect() }
    }
}
impl TryFrom<proto::HttpRequests> for HttpRequests {
    type Error = WireError;
    fn try_from(h: proto::HttpRequests) -> Result<Self, WireError> {
        Ok(Self { methods: boxes(h.methods), paths: all(h.paths)? })
    }
}
impl From<&PathTerm> for proto::PathTerm {
    fn from(t: &PathTerm) -> Self {
        let kind = match t {
            PathTerm::Exact(v) => path_term::Kind::Exact(v.to_string()),
            PathTerm::Prefix(v) => path_term::Kind::Prefix(v.to_string()),
        };
        Self { kind: Some(kind) }
    }
}
impl TryFrom<proto::PathTerm> for PathTerm {
    type Error = WireError;
    fn try_from(t: proto::PathTerm) -> Result<Self, WireError> {
        Ok(match required("path of an authorization rule", t.kind)? {
            path_term::Kind::Exact(v) => PathTerm::Exact(v.into()),
            path_term::Kind::Prefix(v) => PathTerm::Prefix(v.into()),
        })
    }
}

/// All of them, in their order.
pub(super) fn policies(list: Vec<proto::AuthorizationPolicy>) -> Result<Vec<Arc<Policy>>, WireError> {
    Ok(all::<_, Policy>(list)?.into_iter().map(Arc::new).collect())
}
