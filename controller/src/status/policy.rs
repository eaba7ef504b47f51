//! What each target makes of a policy, as conditions (GEP-713): `Accepted` with the reason `Accepted`, `Conflicted`, `TargetNotFound` or `Invalid`, and `PartiallyInvalid` for
//! fields without effect.

use super::{Condition, ParentReport, condition};
use crate::{
    convert::{Effect, ONLY_FOR_SERVICES, Problem, authorization, policy_fields, standings},
    index::Index,
    object::{Kind, Object, ObjectKey, Stored},
    source::suggest,
};
use serde::Serialize;
use std::sync::Arc;
use weft_api::{
    EXPERIMENTAL_GROUP,
    shared::ParentReference,
    weft::{LoadBalancingType, MeshTLSMode, WorkloadTargetReference},
};

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PolicyReport {
    /// `TrafficPolicy shop/orders`.
    pub policy: String,
    #[serde(skip)]
    pub key: ObjectKey,
    /// One for each target.
    pub ancestors: Vec<ParentReport>,
}

/// Why a target takes nothing of a policy.
struct Refused {
    reason: &'static str,
    /// Below the targetRef.
    field: &'static str,
    message: String,
    fix: String,
}

/// The kinds of policies that Weft answers for.
pub const KINDS: [Kind; 4] =
    [Kind::TrafficPolicy, Kind::XBackendTrafficPolicy, Kind::MeshTLSPolicy, Kind::AuthorizationPolicy];

/// Every policy's report, by name.
pub fn reports(index: &Index) -> Vec<PolicyReport> {
    let mut all: Vec<_> = KINDS.iter().flat_map(|k| index.of_kind(*k)).filter_map(|s| report(index, s)).collect();
    all.sort_by(|a, b| a.key.cmp(&b.key));
    all
}

/// One policy's.
pub fn report(index: &Index, stored: &Stored) -> Option<PolicyReport> {
    let key = stored.object.key();
    let direct = |i: usize, group: &str, kind: &str, name: &str, section: Option<&str>| {
        let target = Target { group, kind, name, section };
        target.report(index, stored, i)
    };
    let ancestors = match &stored.object {
        Object::TrafficPolicy(p) => {
            let all = p.spec.target_refs.iter().enumerate();
            all.map(|(i, t)| direct(i, &t.group, &t.kind, &t.name, t.section_name.as_deref())).collect()
        }
        Object::XBackendTrafficPolicy(p) => {
            let all = p.spec.target_refs.iter().enumerate();
            all.map(|(i, t)| direct(i, &t.group, &t.kind, &t.name, None)).collect()
        }
        Object::MeshTLSPolicy(p) => {
            let all = p.spec.target_refs.iter().enumerate();
            all.map(|(i, t)| {
                let older = older_mesh_tls(index, stored, t);
                let mut partial = Vec::new();
                if let MeshTLSMode::Unknown(mode) = &p.spec.mode {
                    partial.push(ignored(
                        "spec.mode",
                        format!("{mode} is not known and is taken for Strict"),
                        "Permissive or Strict",
                    ));
                }
                workload(index, stored, i, t, older, partial)
            })
            .collect()
        }
        Object::AuthorizationPolicy(p) => {
            let mut partial: Vec<Problem> = authorization::doubts(&p.spec)
                .into_iter()
                .map(|(field, message, fix)| ignored(&field, message, &fix))
                .collect();
            // one workload is enough to say so
            let many = index.of_kind(Kind::AuthorizationPolicy).count() > authorization::MOST;
            let crowded = index.pods().filter(|_| many).find(|pod| {
                let on = authorization::on(index, pod);
                on.len() > authorization::MOST && on.iter().any(|s| s.object.key() == key)
            });
            if let Some(pod) = crowded {
                let message =
                    format!("pod {} has more than {} policies and refuses everything", pod.name, authorization::MOST);
                partial.push(ignored("spec.targetRefs", message, "join policies"));
            }
            let all = p.spec.target_refs.iter().enumerate();
            all.map(|(i, t)| workload(index, stored, i, t, None, partial.clone())).collect()
        }
        _ => return None,
    };
    Some(PolicyReport { policy: key.to_string(), key, ancestors })
}

struct Target<'t> {
    group: &'t str,
    kind: &'t str,
    name: &'t str,
    section: Option<&'t str>,
}

impl Target<'_> {
    fn report(&self, index: &Index, stored: &Stored, i: usize) -> ParentReport {
        let key = stored.object.key();
        let namespace = &key.name.namespace;
        let parent = match self.section {
            Some(s) => format!("{} {namespace}/{}/{s}", self.kind, self.name),
            None => format!("{} {namespace}/{}", self.kind, self.name),
        };
        let parent_ref = ParentReference {
            group: Some(self.group.into()),
            kind: Some(self.kind.into()),
            namespace: Some(namespace.to_string()),
            name: self.name.into(),
            section_name: self.section.map(Into::into),
            ..ParentReference::default()
        };
        let at = format!("spec.targetRefs[{i}]");
        let allowed: &[&str] = match key.kind {
            Kind::TrafficPolicy => &["Service", "HTTPRoute", "GRPCRoute"],
            _ => &["Service"],
        };
        let target = match self.resolve(index, namespace, allowed) {
            Ok(target) => target,
            Err(refused) => return refuse(parent, parent_ref, &at, refused),
        };
        let partial = self.without_effect(&stored.object);
        let useful =
            policy_fields(&stored.object).iter().any(|f| self.kind == "Service" || !ONLY_FOR_SERVICES.contains(f));
        let rival = standings(index, &target).into_iter().find(|s| std::ptr::eq(s.stored, stored) && s.place == i);
        let refused = match rival.and_then(|s| s.loses_to) {
            Some((older, field)) => Some(Refused {
                reason: "Conflicted",
                field: "",
                message: format!("{} sets {field} for the same target and wins", older.object.key()),
                fix: "remove one of the two".into(),
            }),
            None if !useful => Some(Refused {
                reason: "Invalid",
                field: "",
                message: "nothing of the policy has an effect on this target".into(),
                fix: "set a field that it can have, or remove the target".into(),
            }),
            None => None,
        };
        finish(parent, parent_ref, &at, refused, partial)
    }

    fn resolve(&self, index: &Index, namespace: &str, allowed: &[&str]) -> Result<ObjectKey, Refused> {
        let known = Kind::ALL.iter().find(|k| k.as_str() == self.kind).filter(|_| allowed.contains(&self.kind));
        let Some(known) = known else {
            let fix = suggest::nearest(self.kind, allowed.iter().copied())
                .map_or_else(|| format!("one of {}", allowed.join(", ")), |m| format!("did you mean {m}?"));
            let message = format!("a policy of this kind cannot target {}", self.kind);
            return Err(Refused { reason: "Invalid", field: ".kind", message, fix });
        };
        if known.group() != self.group {
            let message = format!("{} is not of group {:?}", self.kind, self.group);
            let fix = format!("group: {:?}", known.group());
            return Err(Refused { reason: "Invalid", field: ".group", message, fix });
        }
        let target = ObjectKey::new(*known, namespace, self.name);
        let Some(found) = index.get(&target) else {
            let names = index.of_kind_in(*known, namespace).map(|s| s.object.key().name.name);
            let names: Vec<_> = names.collect();
            let fix = suggest::nearest(self.name, names.iter().map(|n| &**n))
                .map_or_else(|| "correct the name".to_owned(), |m| format!("did you mean {m}?"));
            let message = format!("{} {namespace}/{} does not exist", self.kind, self.name);
            return Err(Refused { reason: "TargetNotFound", field: ".name", message, fix });
        };
        if let Some(section) = self.section {
            let sections = sections_of(&found.object);
            if !sections.iter().any(|s| s == section) {
                let fix = suggest::nearest(section, sections.iter().map(String::as_str))
                    .map_or_else(|| format!("one of {}", sections.join(", ")), |m| format!("did you mean {m}?"));
                let message = format!("{} {} has nothing named {section}", self.kind, self.name);
                return Err(Refused { reason: "TargetNotFound", field: ".sectionName", message, fix });
            }
        }
        Ok(target)
    }

    fn without_effect(&self, object: &Object) -> Vec<Problem> {
        let mut out = Vec::new();
        if self.kind != "Service" {
            let fields = policy_fields(object).into_iter().filter(|f| ONLY_FOR_SERVICES.contains(f));
            out.extend(fields.map(|f| {
                ignored(
                    &format!("spec.{f}"),
                    "has no effect on a route: it is about a backend".into(),
                    "target the Service",
                )
            }));
        }
        match object {
            Object::XBackendTrafficPolicy(p) if p.spec.session_persistence.is_some() => {
                out.push(ignored("spec.sessionPersistence", "is not supported and has no effect".into(), "remove it"));
            }
            Object::TrafficPolicy(p) => {
                if let Some(LoadBalancingType::Unknown(t)) = p.spec.load_balancing.as_ref().map(|l| &l.r#type) {
                    let fix = LoadBalancingType::KNOWN.join(" or ");
                    out.push(ignored("spec.loadBalancing.type", format!("{t} is not known and has no effect"), &fix));
                }
            }
            _ => {}
        }
        out
    }
}

/// The names of the parts that a target has: ports of a Service, rules of a route.
pub(crate) fn sections_of(object: &Object) -> Vec<String> {
    match object {
        Object::HTTPRoute(r) => r.spec.rules.iter().filter_map(|r| r.name.clone()).collect(),
        Object::GRPCRoute(r) => r.spec.rules.iter().filter_map(|r| r.name.clone()).collect(),
        Object::Service(s) => {
            s.spec.iter().flat_map(|s| s.ports.iter().flatten()).filter_map(|p| p.name.clone()).collect()
        }
        _ => Vec::new(),
    }
}

fn ignored(field: &str, message: String, fix: &str) -> Problem {
    Problem { field: field.into(), message, fix: fix.into(), effect: Effect::Ignored }
}

fn refuse(parent: String, parent_ref: ParentReference, at: &str, refused: Refused) -> ParentReport {
    finish(parent, parent_ref, at, Some(refused), Vec::new())
}

fn finish(
    parent: String,
    parent_ref: ParentReference,
    at: &str,
    refused: Option<Refused>,
    partial: Vec<Problem>,
) -> ParentReport {
    let mut problems = partial;
    let mut conditions: Vec<Condition> = Vec::new();
    let told = |p: &Problem| format!("{}: {} ({})", p.field, p.message, p.fix);
    if !problems.is_empty() {
        let words: Vec<String> = problems.iter().map(told).collect();
        conditions.push(condition("PartiallyInvalid", true, "UnsupportedValue", words.join("; ")));
    }
    let accepted = match refused {
        None => condition("Accepted", true, "Accepted", ""),
        Some(r) => {
            let problem = Problem {
                field: format!("{at}{}", r.field),
                message: r.message,
                fix: r.fix,
                effect: Effect::Reference(r.reason),
            };
            let message = told(&problem);
            problems.push(problem);
            condition("Accepted", false, r.reason, message)
        }
    };
    conditions.insert(0, accepted);
    ParentReport { parent, parent_ref, conditions, problems }
}

/// The older MeshTLSPolicy with the same target.
fn older_mesh_tls(index: &Index, stored: &Stored, t: &WorkloadTargetReference) -> Option<ObjectKey> {
    let key = stored.object.key();
    let older = index.of_kind_in(Kind::MeshTLSPolicy, &key.name.namespace).find(|other| {
        let Object::MeshTLSPolicy(o) = &other.object else { return false };
        (other.object.created(), other.object.key()) < (stored.object.created(), key.clone())
            && o.spec.target_refs.contains(t)
    });
    older.map(|o| o.object.key())
}

/// What a target among workloads makes of a policy. `older`: the policy that counts instead.
pub(super) fn workload(
    index: &Index,
    stored: &Stored,
    i: usize,
    t: &WorkloadTargetReference,
    older: Option<ObjectKey>,
    partial: Vec<Problem>,
) -> ParentReport {
    let key = stored.object.key();
    let namespace = &key.name.namespace;
    let name = t.name.as_deref().unwrap_or_default();
    let cluster_wide = matches!(t.kind.as_str(), "XMesh" | "Namespace");
    let parent = match (&t.name, cluster_wide) {
        (Some(n), true) => format!("{} {n}", t.kind),
        (Some(n), false) => format!("{} {namespace}/{n}", t.kind),
        (None, _) => format!("{}s of {namespace} by labels", t.kind),
    };
    let parent_ref = ParentReference {
        group: Some(t.group.clone()),
        kind: Some(t.kind.clone()),
        namespace: (!cluster_wide).then(|| namespace.to_string()),
        // status needs a name; the policy's own stands for its selector
        name: t.name.clone().unwrap_or_else(|| key.name.name.to_string()),
        ..ParentReference::default()
    };
    let conflict = |older: ObjectKey| Refused {
        reason: "Conflicted",
        field: "",
        message: format!("{older} has the same target and wins"),
        fix: "remove one of the two".into(),
    };
    let refused = workload_target(index, namespace, t, name).err().or_else(|| older.map(conflict));
    finish(parent, parent_ref, &format!("spec.targetRefs[{i}]"), refused, partial)
}

fn workload_target(index: &Index, namespace: &str, t: &WorkloadTargetReference, name: &str) -> Result<(), Refused> {
    let system = &index.mesh.system_namespace;
    let no = |reason, field, message: String, fix: String| Err(Refused { reason, field, message, fix });
    match (t.group.as_str(), t.kind.as_str()) {
        ("", "Namespace") if *name != *namespace => no(
            "Invalid",
            ".name",
            format!("only the policy's own namespace, {namespace}, can be targeted"),
            "move the policy there".into(),
        ),
        (EXPERIMENTAL_GROUP, "XMesh") if *namespace != **system => no(
            "Invalid",
            ".kind",
            format!("a policy for the whole mesh counts only in {system}"),
            format!("move the policy to {system}"),
        ),
        (EXPERIMENTAL_GROUP, "XMesh") if *name != *index.mesh.name => no(
            "TargetNotFound",
            ".name",
            format!("the mesh is called {}, not {name}", index.mesh.name),
            "correct the name".into(),
        ),
        ("", "Namespace") | (EXPERIMENTAL_GROUP, "XMesh") => Ok(()),
        // pods come and go: a name or labels that pick none today are no mistake
        ("", "Pod") if t.selector.is_some() || !name.is_empty() => Ok(()),
        ("", "Pod") => no("Invalid", "", "a Pod needs a name or a selector".into(), "add one".into()),
        ("", "ServiceAccount") => {
            let used = index.pods_of(&Arc::from(namespace)).any(|p| *p.service_account == *name);
            if used || index.get(&ObjectKey::new(Kind::ServiceAccount, namespace, name)).is_some() {
                return Ok(());
            }
            let all: Vec<_> =
                index.of_kind_in(Kind::ServiceAccount, namespace).map(|s| s.object.key().name.name).collect();
            let fix = suggest::nearest(name, all.iter().map(|n| &**n))
                .map_or_else(|| "correct the name".to_owned(), |m| format!("did you mean {m}?"));
            no("TargetNotFound", ".name", format!("ServiceAccount {namespace}/{name} does not exist"), fix)
        }
        _ => no(
            "Invalid",
            ".kind",
            format!("a policy of this kind cannot target {} of group {:?}", t.kind, t.group),
            "one of Namespace, ServiceAccount, Pod (group \"\"), XMesh (group gateway.networking.x-k8s.io)".into(),
        ),
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
