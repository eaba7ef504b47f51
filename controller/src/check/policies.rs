//! Policies: targets that are not there, conflicts, and fields that nothing enforces.

use super::Check;
use crate::{
    convert::Effect,
    facts::label_selector_picks,
    finding::Severity::{Error, Info, Warning},
    object::{Kind, Object, ObjectKey, Stored},
    source::suggest,
    status::policy::{self, sections_of},
};
use weft_api::weft::{AuthorizationAction, AuthorizationPolicy, MeshTLSMode, MeshTLSPolicy, TrafficPolicy};

impl Check<'_> {
    pub(super) fn policies(&mut self) {
        for (_, stored) in self.objects() {
            match &stored.object {
                Object::MeshTLSPolicy(p) => self.mesh_tls(stored, p),
                Object::AuthorizationPolicy(p) => self.authorization(stored, p),
                Object::TrafficPolicy(p) => self.traffic(stored, p),
                Object::XBackendTrafficPolicy(p) => {
                    for (i, t) in p.spec.target_refs.iter().enumerate() {
                        self.target(stored, i, &t.group, &t.kind, &t.name, &["Service"]);
                    }
                    self.standing(stored);
                }
                Object::BackendTLSPolicy(_) => {
                    self.say(
                        Info,
                        "policy-unsupported",
                        stored,
                        "spec",
                        "BackendTLSPolicy is for Gateways; within the mesh every connection is mutual TLS",
                        "",
                    );
                }
                _ => {}
            }
        }
    }

    /// A target by name in the policy's namespace.
    fn target(&mut self, stored: &Stored, i: usize, group: &str, kind: &str, name: &str, allowed: &[&str]) -> bool {
        let at = format!("spec.targetRefs[{i}]");
        if !allowed.contains(&kind) {
            let fix = suggest::nearest(kind, allowed.iter().copied())
                .map_or_else(|| format!("one of {}", allowed.join(", ")), |m| format!("did you mean {m}?"));
            self.say(
                Error,
                "policy-target",
                stored,
                &format!("{at}.kind"),
                format!("a policy of this kind cannot target {kind}"),
                fix,
            );
            return false;
        }
        let Some(known) = Kind::ALL.iter().find(|k| k.as_str() == kind) else { return false };
        if known.group() != group {
            self.say(
                Error,
                "policy-target",
                stored,
                &format!("{at}.group"),
                format!("{kind} is not of group {group:?}"),
                format!("group: {:?}", known.group()),
            );
            return false;
        }
        let namespace = stored.object.key().name.namespace;
        if self.index.get(&ObjectKey::new(*known, if known.is_namespaced() { &namespace } else { "" }, name)).is_none()
        {
            let names = self
                .index
                .objects()
                .filter(|(k, _)| k.kind == *known && k.name.namespace == namespace)
                .map(|(k, _)| &*k.name.name);
            let fix = suggest::nearest(name, names)
                .map_or_else(|| "correct the name".to_owned(), |m| format!("did you mean {m}?"));
            self.say(
                Error,
                "policy-target",
                stored,
                &format!("{at}.name"),
                format!("{kind} {namespace}/{name} does not exist"),
                fix,
            );
            return false;
        }
        true
    }

    fn mesh_tls(&mut self, stored: &Stored, p: &MeshTLSPolicy) {
        let key = stored.object.key();
        if let MeshTLSMode::Unknown(mode) = &p.spec.mode {
            self.say(
                Error,
                "policy-unsupported",
                stored,
                "spec.mode",
                format!("{mode} is not known and is taken for Strict"),
                "Permissive or Strict",
            );
        }
        for (i, t) in p.spec.target_refs.iter().enumerate() {
            let at = format!("spec.targetRefs[{i}]");
            let name = t.name.as_deref().unwrap_or_default();
            match t.kind.as_str() {
                "Namespace" if *name != *key.name.namespace => {
                    let message = format!("only the policy's own namespace, {}, can be targeted", key.name.namespace);
                    self.say(Error, "policy-target", stored, &format!("{at}.name"), message, "move the policy there");
                }
                "Namespace" => {}
                "XMesh" if *key.name.namespace != *self.index.mesh.system_namespace => {
                    let system = &self.index.mesh.system_namespace;
                    self.say(
                        Error,
                        "policy-target",
                        stored,
                        &format!("{at}.kind"),
                        format!("a policy for the whole mesh counts only in {system}"),
                        format!("move the policy to {system}"),
                    );
                }
                "XMesh" if *name != *self.index.mesh.name => {
                    self.say(
                        Error,
                        "policy-target",
                        stored,
                        &format!("{at}.name"),
                        format!("the mesh is called {}, not {name}", self.index.mesh.name),
                        "correct the name",
                    );
                }
                "XMesh" => {}
                "Pod" if t.selector.is_some() => {
                    let selector = t.selector.clone().unwrap_or_default();
                    let any = self
                        .pod_templates()
                        .iter()
                        .any(|x| x.namespace == key.name.namespace && label_selector_picks(&selector, &x.labels));
                    if !any {
                        self.say(
                            Warning,
                            "policy-target",
                            stored,
                            &format!("{at}.selector"),
                            "selects no pod",
                            "correct the labels",
                        );
                    }
                }
                kind => {
                    _ = self.target(stored, i, &t.group, kind, name, &["Namespace", "XMesh", "ServiceAccount", "Pod"])
                }
            }
            let older = self.index.of_kind_in(Kind::MeshTLSPolicy, &key.name.namespace).find(|other| {
                let Object::MeshTLSPolicy(o) = &other.object else { return false };
                let before = (other.object.created(), other.object.key()) < (stored.object.created(), key.clone());
                before && o.spec.target_refs.contains(t)
            });
            if let Some(older) = older {
                let message = format!("{} has the same target and wins", older.object.key());
                self.say(Warning, "policy-conflict", stored, &at, message, "remove one of the two");
            }
        }
    }

    fn traffic(&mut self, stored: &Stored, p: &TrafficPolicy) {
        for (i, t) in p.spec.target_refs.iter().enumerate() {
            let there = self.target(stored, i, &t.group, &t.kind, &t.name, &["Service", "HTTPRoute", "GRPCRoute"]);
            let Some(section) = t.section_name.as_deref().filter(|_| there) else { continue };
            let namespace = stored.object.key().name.namespace;
            let target = Kind::ALL.iter().find(|k| k.as_str() == t.kind);
            let target = target.and_then(|k| self.index.get(&ObjectKey::new(*k, &namespace, &t.name)));
            let sections = target.map(|s| sections_of(&s.object)).unwrap_or_default();
            if !sections.iter().any(|s| s == section) {
                let fix = suggest::nearest(section, sections.iter().map(String::as_str))
                    .map_or_else(|| format!("one of {}", sections.join(", ")), |m| format!("did you mean {m}?"));
                self.say(
                    Error,
                    "policy-target",
                    stored,
                    &format!("spec.targetRefs[{i}].sectionName"),
                    format!("{} {} has nothing named {section}", t.kind, t.name),
                    fix,
                );
            }
        }
        self.standing(stored);
    }

    fn authorization(&mut self, stored: &Stored, p: &AuthorizationPolicy) {
        let Some(report) = policy::report(self.index, stored) else { return };
        for p in report.ancestors.iter().flat_map(|a| &a.problems) {
            let (severity, code) = match p.effect {
                Effect::Ignored => (Warning, "policy-unsupported"),
                _ => (Error, "policy-target"),
            };
            self.say(severity, code, stored, &p.field, p.message.clone(), p.fix.clone());
        }
        let namespace = stored.object.key().name.namespace;
        for (i, t) in p.spec.target_refs.iter().enumerate() {
            let Some(selector) = &t.selector else { continue };
            let any = self
                .pod_templates()
                .iter()
                .any(|x| x.namespace == namespace && label_selector_picks(selector, &x.labels));
            if !any {
                let field = format!("spec.targetRefs[{i}].selector");
                self.say(Warning, "policy-target", stored, &field, "selects no pod", "correct the labels");
            }
        }
        if p.spec.action == Some(AuthorizationAction::Deny) && p.spec.rules.is_empty() {
            self.say(
                Warning,
                "policy-empty",
                stored,
                "spec.rules",
                "is empty: a Deny policy without rules denies nothing",
                "write a rule; one without parts, {}, takes everything",
            );
        }
        // whoever is named and does not exist cannot call
        for (i, r) in p.spec.rules.iter().enumerate() {
            for (j, s) in r.sources.iter().flatten().enumerate() {
                let Some(a) = &s.service_account else { continue };
                let namespace = a.namespace.as_deref().unwrap_or(&namespace);
                let used = self.pod_templates().iter().any(|t| *t.namespace == *namespace && t.account() == a.name);
                let declared = self.index.get(&ObjectKey::new(Kind::ServiceAccount, namespace, &a.name)).is_some();
                if !used && !declared {
                    let field = format!("spec.rules[{i}].sources[{j}].serviceAccount.name");
                    let message = format!("no workload runs as ServiceAccount {namespace}/{}", a.name);
                    self.say(Warning, "policy-source", stored, &field, message, "correct the name or the namespace");
                }
            }
        }
    }

    /// Conflicts with other policies, and what has no effect where it stands.
    fn standing(&mut self, stored: &Stored) {
        let Some(report) = policy::report(self.index, stored) else { return };
        for p in report.ancestors.iter().flat_map(|a| &a.problems) {
            let code = match p.effect {
                Effect::Ignored | Effect::Reference("Invalid") => "policy-unsupported",
                Effect::Reference("Conflicted") => "policy-conflict",
                // told already
                _ => continue,
            };
            // a wrong kind or group is a wrong target
            if !p.field.ends_with(".kind") && !p.field.ends_with(".group") {
                self.say(Warning, code, stored, &p.field, p.message.clone(), p.fix.clone());
            }
        }
    }
}
