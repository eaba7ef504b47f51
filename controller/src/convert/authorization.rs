//! AuthorizationPolicies, as they apply to one workload.
//!
//! The policies on a workload, its ServiceAccount, its namespace and the mesh count alike: there is no nearest one, since a denial for the whole mesh must not end where somebody
//! writes another policy.

use crate::{
    compile::workload_level,
    facts::PodFacts,
    index::Index,
    object::{Kind, Object, Stored},
};
use std::sync::Arc;
use weft_api::weft::{
    AuthorizationAction, AuthorizationHttp, AuthorizationMode, AuthorizationPath, AuthorizationPathType,
    AuthorizationPolicySpec, AuthorizationRule, AuthorizationSource, AuthorizationSourceType,
};
use weft_core::authorization::{Action, Authorization, HttpRequests, PathTerm, Policy, Rule, Source};

/// The most policies of one workload: each of its requests is judged by all of them. What is beyond them makes the workload refuse everything, which is told on status.
pub const MOST: usize = 128;

/// A part of a policy that is not understood, or that cannot match: field, message, fix.
pub type Doubt = (String, String, String);

/// What applies to a pod, by name.
pub fn authorization(index: &Index, pod: &PodFacts) -> Authorization {
    let mut all: Vec<Arc<Policy>> = on(index, pod).into_iter().filter_map(|s| policy(index, s)).collect();
    if all.len() > MOST {
        // of too many nobody knows which may be left out
        all = vec![Arc::new(Policy {
            name: "too many policies".into(),
            action: Action::Allow,
            dry_run: false,
            rules: Vec::new(),
        })];
    }
    Authorization(all)
}

/// The policies that have a pod among their targets, by name.
pub fn on<'i>(index: &'i Index, pod: &PodFacts) -> Vec<&'i Stored> {
    let own = pod.name.namespace == index.mesh.system_namespace;
    let namespaces = [&pod.name.namespace, &index.mesh.system_namespace];
    let mut found: Vec<&Stored> = Vec::new();
    for namespace in &namespaces[..if own { 1 } else { 2 }] {
        let here = **namespace == pod.name.namespace;
        found.extend(index.of_kind_in(Kind::AuthorizationPolicy, namespace).filter(|s| {
            let Object::AuthorizationPolicy(p) = &s.object else { return false };
            p.spec.target_refs.iter().any(|t| workload_level(index, t, pod, here, namespace).is_some())
        }));
    }
    found.sort_by_cached_key(|s| s.object.key());
    found
}

/// A policy in core's terms.
pub fn policy(index: &Index, stored: &Stored) -> Option<Arc<Policy>> {
    let Object::AuthorizationPolicy(p) = &stored.object else { return None };
    let name = stored.object.key().name;
    let trust_domain = &index.mesh.trust_domain;
    let action = match action(&p.spec) {
        AuthorizationAction::Allow => Action::Allow,
        // one that is not known is not one that may let in
        AuthorizationAction::Deny | AuthorizationAction::Unknown(_) => Action::Deny,
    };
    Some(Arc::new(Policy {
        action,
        dry_run: p.spec.mode == Some(AuthorizationMode::DryRun),
        rules: p.spec.rules.iter().map(|r| rule(r, action, trust_domain, &name.namespace)).collect(),
        name: name.to_string().into(),
    }))
}

fn action(spec: &AuthorizationPolicySpec) -> AuthorizationAction {
    spec.action.clone().unwrap_or(AuthorizationAction::Allow)
}

fn rule(r: &AuthorizationRule, action: Action, trust_domain: &Arc<str>, own: &Arc<str>) -> Rule {
    Rule {
        sources: r.sources.as_ref().map(|all| all.iter().map(|s| source(s, trust_domain, own)).collect()),
        ports: r.network_attributes.as_ref().map(|n| n.ports.clone()).unwrap_or_default(),
        http: r.http.as_ref().map(|all| all.iter().filter_map(|h| http(h, action)).collect()),
    }
}

fn source(s: &AuthorizationSource, trust_domain: &Arc<str>, own: &Arc<str>) -> Source {
    let trust_domain = trust_domain.clone();
    let found = match s.r#type {
        AuthorizationSourceType::ServiceAccount => s.service_account.as_ref().map(|a| Source::ServiceAccount {
            trust_domain,
            namespace: a.namespace.as_deref().map_or_else(|| own.clone(), Into::into),
            name: a.name.as_str().into(),
        }),
        AuthorizationSourceType::SPIFFE => s.spiffe.as_ref().and_then(|s| s.parse().ok()).map(Source::Identity),
        AuthorizationSourceType::Namespace => {
            s.namespace.as_deref().map(|n| Source::Namespace { trust_domain, namespace: n.into() })
        }
        AuthorizationSourceType::Unknown(_) => None,
    };
    found.unwrap_or(Source::Unknown)
}

/// `None`: no request can be one of these, since none has such a path.
fn http(h: &AuthorizationHttp, action: Action) -> Option<HttpRequests> {
    let term = |p: &AuthorizationPath| match (&p.r#type, action) {
        (Some(AuthorizationPathType::Exact), _) => PathTerm::exact(&p.value),
        (Some(AuthorizationPathType::PathPrefix) | None, _) => PathTerm::prefix(&p.value),
        (Some(AuthorizationPathType::Unknown(_)), Action::Allow) => None,
        (Some(AuthorizationPathType::Unknown(_)), Action::Deny) => PathTerm::prefix("/"),
    };
    let paths: Vec<PathTerm> = h.paths.iter().filter_map(term).collect();
    // without the terms that nothing meets an empty list would mean every path
    if paths.is_empty() && !h.paths.is_empty() {
        return None;
    }
    Some(HttpRequests { methods: h.methods.iter().map(|m| m.as_str().into()).collect(), paths })
}

/// What of a policy is not understood or matches nothing.
pub fn doubts(spec: &AuthorizationPolicySpec) -> Vec<Doubt> {
    let mut out = Vec::new();
    let mut doubt = |field: String, message: String, fix: &str| out.push((field, message, fix.to_owned()));
    if let Some(AuthorizationAction::Unknown(a)) = &spec.action {
        doubt("spec.action".into(), format!("{a} is not known and is taken for Deny"), "Allow or Deny");
    }
    if let Some(AuthorizationMode::Unknown(m)) = &spec.mode {
        doubt("spec.mode".into(), format!("{m} is not known and is taken for Enforce"), "Enforce or DryRun");
    }
    for (i, r) in spec.rules.iter().enumerate() {
        for (j, s) in r.sources.iter().flatten().enumerate() {
            let at = format!("spec.rules[{i}].sources[{j}]");
            let (field, there) = match &s.r#type {
                AuthorizationSourceType::ServiceAccount => ("serviceAccount", s.service_account.is_some()),
                AuthorizationSourceType::SPIFFE => ("spiffe", s.spiffe.is_some()),
                AuthorizationSourceType::Namespace => ("namespace", s.namespace.is_some()),
                AuthorizationSourceType::Unknown(t) => {
                    let message = format!("{t} is not known: it allows nobody and denies everybody");
                    doubt(format!("{at}.type"), message, "ServiceAccount, SPIFFE or Namespace");
                    continue;
                }
            };
            if !there {
                doubt(
                    format!("{at}.{field}"),
                    "is missing: the source allows nobody and denies everybody".into(),
                    "add it",
                );
            }
            if let Some(Err(e)) = s.spiffe.as_ref().map(|s| s.parse::<weft_core::identity::WorkloadIdentity>()) {
                let message = format!("is no identity of a workload: {e}; it allows nobody and denies everybody");
                doubt(format!("{at}.spiffe"), message, "spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/NAME");
            }
        }
        for (j, h) in r.http.iter().flatten().enumerate() {
            for (k, p) in h.paths.iter().enumerate() {
                let at = format!("spec.rules[{i}].http[{j}].paths[{k}]");
                if let Some(AuthorizationPathType::Unknown(t)) = &p.r#type {
                    doubt(
                        format!("{at}.type"),
                        format!("{t} is not known: it allows nothing and denies everything"),
                        "Exact or PathPrefix",
                    );
                }
                if PathTerm::exact(&p.value).is_none() {
                    doubt(
                        format!("{at}.value"),
                        format!("no request has the path {:?}", p.value),
                        "a path without query and escapes that are none",
                    );
                }
            }
        }
    }
    out
}
