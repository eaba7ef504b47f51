//! Finds mistakes before traffic does: every one with object, field and fix.
//!
//! The judgements are those of the running mesh (statuses, compiled ports), asked for all objects at once, plus what a person would notice who reads the
//! objects side by side. Works on an index, so a folder and a cluster are judged alike.

mod policies;
mod routes;
mod services;
mod workloads;

pub(crate) use workloads::template;

use crate::{
    convert::{Effect, Problem},
    finding::{Finding, Severity},
    index::{Index, Mesh},
    object::{Name, Object, ObjectKey, Stored},
    source::{Update, folder::Folder},
    status::{self, Judge},
};
use std::{collections::BTreeSet, path::PathBuf, time::Instant};

/// Checks one or more folders. Findings come by file and line.
pub fn check(folders: &[PathBuf]) -> Vec<Finding> {
    let mut folder = Folder::new(folders.iter().cloned());
    let (update, _) = folder.load(&BTreeSet::new(), Instant::now());
    check_update(&update, Mesh::default())
}

/// Checks what a source sent.
pub fn check_update(update: &Update, mesh: Mesh) -> Vec<Finding> {
    let mut index = Index::new(mesh);
    index.apply(update);
    let mut found = check_index(&index);
    found.extend(update.findings.iter().flat_map(|f| f.iter().cloned()));
    found.sort();
    found.dedup();
    found
}

/// Checks the objects of an index.
pub fn check_index(index: &Index) -> Vec<Finding> {
    let mut check = Check { index, judge: Judge::new(index), found: Vec::new() };
    check.statuses();
    check.routes();
    check.services();
    check.workloads();
    check.policies();
    check.found.sort();
    check.found.dedup();
    check.found
}

/// Mistakes in routes that no status speaks of, since the route does what it says: retries of a client's own error, weights of 0, a consumer that is not meshed.
pub fn route_warnings(index: &Index) -> Vec<Finding> {
    let mut check = Check { index, judge: Judge::new(index), found: Vec::new() };
    check.at_a_glance();
    check.found.retain(|f| f.severity != Severity::Info);
    check.found
}

struct Check<'i> {
    index: &'i Index,
    judge: Judge<'i>,
    found: Vec<Finding>,
}

impl<'i> Check<'i> {
    fn say(
        &mut self,
        severity: Severity,
        code: &'static str,
        object: &Stored,
        field: &str,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.found.push(Finding::at(severity, code, object, field, message, fix));
    }

    /// What the parents make of each route.
    fn statuses(&mut self) {
        for report in self.judge.reports() {
            let Some(stored) = self.index.get(&report.key) else { continue };
            if report.parents.is_empty() {
                self.say(
                    Severity::Warning,
                    "route-unattached",
                    stored,
                    "spec.parentRefs",
                    "is empty: the route applies to nothing",
                    "name a Service (group: \"\", kind: Service)",
                );
            }
            for (i, parent) in report.parents.iter().enumerate() {
                for p in &parent.problems {
                    let (severity, code) = judged(p);
                    self.say(severity, code, stored, &p.field, p.message.clone(), p.fix.clone());
                }
                let accepted = parent.condition("Accepted");
                if let Some(c) = accepted.filter(|c| c.reason == "Conflicted" || (c.status && !c.message.is_empty())) {
                    let field = format!("spec.parentRefs[{i}]");
                    let message = c.message.trim_start_matches(&field).trim_start_matches(": ");
                    let (message, fix) =
                        message.split_once(" (").map_or((message, ""), |(m, f)| (m, f.trim_end_matches(')')));
                    let fix = if fix.is_empty() { "attach one kind of route to a port" } else { fix };
                    self.say(Severity::Error, "route-conflict", stored, &field, message, fix);
                }
            }
        }
        for (key, stored) in self.route_list() {
            for (service, _) in crate::refs::service_parents(&stored.object) {
                let view = status::view_of(&key, &service);
                let ports: Vec<u16> =
                    self.index.service(&service).map(|s| s.ports.iter().map(|p| p.port).collect()).unwrap_or_default();
                for port in ports {
                    for s in self.judge.shadows(&service, port, &view).get(&key).into_iter().flatten() {
                        let field = format!("spec.rules[{}].matches[{}]", s.rule, s.place);
                        let message =
                            format!("never gets a request: {} has the same match and wins, since {}", s.winner, s.why);
                        self.say(
                            Severity::Warning,
                            "match-shadowed",
                            stored,
                            &field,
                            message,
                            "make the match more specific, or remove one of the two",
                        );
                    }
                }
            }
        }
    }

    fn route_list(&self) -> Vec<(ObjectKey, &'i Stored)> {
        let mut all: Vec<_> = self.index.routes().map(|(k, s)| (k.clone(), s)).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// Objects of every kind, in order.
    fn objects(&self) -> Vec<(&'i ObjectKey, &'i Stored)> {
        let mut all: Vec<_> = self.index.objects().collect();
        all.sort_by_key(|(k, _)| *k);
        all
    }

    /// Labels of everything that runs or would run: pods, and the templates of workloads.
    fn pod_templates(&self) -> Vec<workloads::Template<'i>> {
        self.objects().into_iter().filter_map(|(_, s)| workloads::template(s)).collect()
    }

    /// Whether a Service port has routes for anyone.
    fn is_routed(&self, service: &Name, port: u16) -> bool {
        self.judge.is_routed(service, port)
    }
}

fn judged(p: &Problem) -> (Severity, &'static str) {
    let below = p.field.rsplit('.').next().unwrap_or_default();
    match p.effect {
        Effect::DropsRule => (Severity::Error, "rule-dropped"),
        Effect::FailsRule => (Severity::Error, "filter-unsupported"),
        Effect::Ignored => (Severity::Warning, "field-ignored"),
        Effect::Reference("Pending") => (Severity::Info, "gateway-unserved"),
        Effect::Reference(reason) => (Severity::Error, reference_code(reason, below)),
    }
}

/// What a broken reference is called, by its reason and the field that is wrong.
fn reference_code(reason: &str, below: &str) -> &'static str {
    match (reason, below) {
        ("NoMatchingParent", "group") => "parent-group",
        ("NoMatchingParent", "kind") => "parent-kind",
        ("NoMatchingParent", "port") => "parent-port",
        ("NoMatchingParent", _) => "parent-not-found",
        ("RefNotPermitted", _) => "reference-not-granted",
        ("BackendNotFound", "port") => "backend-port",
        ("BackendNotFound", _) => "backend-not-found",
        ("InvalidKind", "extensionRef") => "filter-unsupported",
        ("InvalidKind", _) => "backend-kind",
        _ => "reference-unsupported",
    }
}

/// A count with its noun.
fn plural(n: usize, one: &str, many: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {many}") }
}

/// The object behind a key, as routes see it.
fn http_rules(object: &Object) -> Option<&[weft_api::http::HTTPRouteRule]> {
    match object {
        Object::HTTPRoute(r) => Some(&r.spec.rules),
        _ => None,
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
