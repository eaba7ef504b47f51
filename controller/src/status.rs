//! What each parent makes of a route, as conditions (Gateway API, RouteConditionType), and the same for policies. Values: a cluster gets them
//! written to its objects, a folder gets them printed and served.

use crate::{
    attach::{self, View},
    compile,
    convert::{Effect, Problem},
    index::Index,
    object::{Kind, Name, ObjectKey, Stored},
    refs,
};
use serde::Serialize;
use std::{collections::BTreeSet, sync::Arc};
use weft_api::shared::ParentReference;

/// Of a rule whose match another route has, too: its own kind, since the route stays valid.
pub const SHADOWED: &str = "weft.dev/Shadowed";

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub status: bool,
    pub reason: &'static str,
    pub message: String,
}

/// One parent's judgement.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ParentReport {
    /// `Service shop/orders:80`.
    pub parent: String,
    #[serde(skip)]
    pub parent_ref: ParentReference,
    pub conditions: Vec<Condition>,
    /// What the conditions are made of, with fields and fixes.
    #[serde(skip)]
    pub problems: Vec<Problem>,
}
impl ParentReport {
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|c| c.kind == kind)
    }
    pub fn accepted(&self) -> bool {
        self.condition("Accepted").is_some_and(|c| c.status)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RouteReport {
    /// `HTTPRoute shop/orders`.
    pub route: String,
    #[serde(skip)]
    pub key: ObjectKey,
    pub parents: Vec<ParentReport>,
}

/// Whether a condition says that something is not as it was meant.
pub fn is_bad(c: &Condition) -> bool {
    match c.kind {
        "PartiallyInvalid" | SHADOWED => c.status,
        _ => !c.status,
    }
}

/// Every route's, by name.
pub fn reports(index: &Index) -> Vec<RouteReport> {
    let mut keys: Vec<_> = index.routes().collect();
    keys.sort_by_key(|(k, _)| (*k).clone());
    keys.into_iter().map(|(key, stored)| report(index, key, stored)).collect()
}

/// One route's.
pub fn report(index: &Index, key: &ObjectKey, stored: &Stored) -> RouteReport {
    let parents = refs::parents(&stored.object).iter().enumerate();
    let parents = parents.map(|(i, p)| parent_report(index, key, stored, i, p)).collect();
    RouteReport { route: key.to_string(), key: key.clone(), parents }
}

fn condition(kind: &'static str, status: bool, reason: &'static str, message: impl Into<String>) -> Condition {
    Condition { kind, status, reason, message: message.into() }
}

fn parent_report(
    index: &Index,
    key: &ObjectKey,
    stored: &Stored,
    place: usize,
    parent: &ParentReference,
) -> ParentReport {
    let at = format!("spec.parentRefs[{place}]");
    let text = refs::parent_text(&stored.object, parent);
    let done =
        |conditions, problems| ParentReport { parent: text.clone(), parent_ref: parent.clone(), conditions, problems };
    let refused = |reason, field: &str, message: String, fix: String| {
        let accepted = condition("Accepted", false, reason, format!("{at}.{field}: {message} ({fix})"));
        let problem = Problem { field: format!("{at}.{field}"), message, fix, effect: Effect::Reference(reason) };
        done(vec![accepted], vec![problem])
    };
    if !refs::is_service(parent) {
        if refs::meant_service(parent) {
            let message = "kind Service is of the core group, which is the empty string".into();
            return refused("NoMatchingParent", "group", message, "add group: \"\"".into());
        }
        return match parent.kind.as_deref().unwrap_or("Gateway") {
            "Gateway" | "ListenerSet" => {
                let name = refs::parent_name(&stored.object, parent);
                let kind =
                    if parent.kind.as_deref() == Some("ListenerSet") { Kind::ListenerSet } else { Kind::Gateway };
                match index.get(&ObjectKey { kind, name: name.clone() }) {
                    None => refused(
                        "NoMatchingParent",
                        "name",
                        format!("{kind} {name} does not exist"),
                        "correct the name, or name a Service with group: \"\" and kind: Service".into(),
                    ),
                    Some(_) => refused(
                        "Pending",
                        "kind",
                        format!("no edge proxy serves {kind} {name}"),
                        "name a Service for traffic within the mesh".into(),
                    ),
                }
            }
            other => {
                let fix = match crate::source::suggest::nearest(other, ["Service", "Gateway", "ListenerSet"]) {
                    Some(meant) => format!("did you mean {meant}?"),
                    None => "name a Service".into(),
                };
                refused("NoMatchingParent", "kind", format!("kind {other} cannot be a parent"), fix)
            }
        };
    }
    let ports = match attach::judge(index, stored, parent) {
        Ok(ports) => ports,
        Err(e) => return refused(e.reason, e.field, e.message, e.fix),
    };
    let service = refs::parent_name(&stored.object, parent);
    let port = ports.first().and_then(|p| attach::facts(index, &service, *p)).map(|f| f.1);
    let compiled = compile::route(index, key, stored, &service, port);
    let problems = compiled.problems.clone();
    let mut conditions = vec![accepted(index, key, &compiled, &service, &ports, &at)];
    let told = |p: &&Problem| format!("{}: {} ({})", p.field, p.message, p.fix);
    let broken: Vec<&Problem> = problems.iter().filter(|p| matches!(p.effect, Effect::Reference(_))).collect();
    conditions.push(match broken.first().map(|p| p.effect) {
        Some(Effect::Reference(reason)) => {
            condition("ResolvedRefs", false, reason, broken.iter().map(told).collect::<Vec<_>>().join("; "))
        }
        _ => condition("ResolvedRefs", true, "ResolvedRefs", ""),
    });
    let dropped: Vec<&Problem> = problems
        .iter()
        .filter(|p| matches!(p.effect, Effect::DropsRule | Effect::FailsRule | Effect::Ignored))
        .collect();
    if !dropped.is_empty() && compiled.is_usable() {
        // Gateway API: the message begins with what was done about it
        let words: Vec<String> = dropped.iter().map(told).collect();
        conditions.push(condition(
            "PartiallyInvalid",
            true,
            "UnsupportedValue",
            format!("Dropped Rule or field: {}", words.join("; ")),
        ));
    }
    conditions.extend(shadowed(index, key, &service, &ports).map(|m| condition(SHADOWED, true, "SameMatch", m)));
    done(conditions, problems)
}

fn accepted(
    index: &Index,
    key: &ObjectKey,
    compiled: &compile::Compiled,
    service: &Name,
    ports: &BTreeSet<u16>,
    at: &str,
) -> Condition {
    if !compiled.is_usable() {
        let first = compiled.problems.iter().find(|p| p.effect == Effect::DropsRule);
        let message =
            first.map_or_else(|| "no rule can be used".into(), |p| format!("{}: {} ({})", p.field, p.message, p.fix));
        return condition("Accepted", false, "UnsupportedValue", message);
    }
    let view = view_of(key, service);
    let mut conflicts = Vec::new();
    for port in ports {
        let group = attach::group(index, service, *port, &view, |k, s| usable(index, k, s, service));
        if group.losers.contains(key) {
            let winners: Vec<String> = group.routes.iter().map(ToString::to_string).collect();
            conflicts.push(format!("port {port} belongs to {}", winners.join(", ")));
        }
    }
    if !conflicts.is_empty() && conflicts.len() == ports.len() {
        let fix = "routes of one kind only can be attached to a port: GRPCRoute, then HTTPRoute, TLSRoute, TCPRoute";
        return condition("Accepted", false, "Conflicted", format!("{at}: {} ({fix})", conflicts.join("; ")));
    }
    match conflicts.is_empty() {
        true => condition("Accepted", true, "Accepted", ""),
        false => condition("Accepted", true, "Accepted", format!("{at}: {}", conflicts.join("; "))),
    }
}

/// Whether anything of a route can be used.
pub fn usable(index: &Index, key: &ObjectKey, stored: &Stored, service: &Name) -> bool {
    compile::route(index, key, stored, service, None).is_usable()
}

/// The view that a route is part of.
pub fn view_of(route: &ObjectKey, service: &Name) -> View {
    match route.name.namespace == service.namespace {
        true => View::Producer,
        false => View::Consumer(route.name.namespace.clone()),
    }
}

/// The route's matches that an older route (or an earlier name) on the same port has, too: those never match.
fn shadowed(index: &Index, key: &ObjectKey, service: &Name, ports: &BTreeSet<u16>) -> Option<String> {
    let mut words = BTreeSet::new();
    for port in ports {
        for s in shadows(index, service, *port, &view_of(key, service)).into_iter().filter(|s| s.route == *key) {
            words.insert(format!(
                "spec.rules[{}].matches[{}]: {} has the same match and wins ({})",
                s.rule, s.place, s.winner, s.why
            ));
        }
    }
    (!words.is_empty()).then(|| words.into_iter().collect::<Vec<_>>().join("; "))
}

/// A match that never gets a request, since another rule has the same one.
#[derive(Clone, Debug, PartialEq)]
pub struct Shadow {
    pub route: ObjectKey,
    pub rule: u32,
    /// In `matches`.
    pub place: usize,
    pub winner: String,
    pub why: &'static str,
}

/// The doubled matches of one view of a Service port.
pub fn shadows(index: &Index, service: &Name, port: u16, view: &View) -> Vec<Shadow> {
    let mut out = Vec::new();
    let mut owners: Vec<(String, Arc<weft_core::route::Rule>, ObjectKey)> = Vec::new();
    // routes come in the order in which they win ties
    for key in attach::group(index, service, port, view, |k, s| usable(index, k, s, service)).routes {
        let Some(stored) = index.get(&key) else { continue };
        let compiled = compile::route(index, &key, stored, service, None);
        for rule in &compiled.rules {
            for (place, text) in match_texts(rule).into_iter().enumerate() {
                match owners.iter().find(|(t, ..)| *t == text) {
                    None => owners.push((text, rule.clone(), key.clone())),
                    Some((_, first, owner)) => {
                        let why = match (*owner == key, first.route.created == rule.route.created) {
                            (true, _) => "it comes earlier in the route",
                            (false, true) => "its name comes first in the alphabet",
                            (false, false) => "it is older",
                        };
                        let rule_name = first.name.as_deref().map_or_else(|| first.index.to_string(), str::to_owned);
                        out.push(Shadow {
                            route: key.clone(),
                            rule: rule.index,
                            place,
                            winner: format!("{owner} rule {rule_name}"),
                            why,
                        });
                    }
                }
            }
        }
    }
    out
}

/// Each match of a rule in one normal form: the order of headers and parameters does not count.
fn match_texts(rule: &weft_core::route::Rule) -> Vec<String> {
    use weft_core::route::RuleMatches;
    match &rule.matches {
        RuleMatches::Http(all) => all
            .iter()
            .map(|m| {
                let mut m = m.clone();
                m.headers.sort_by(|a, b| a.name.cmp(&b.name));
                m.query.sort_by(|a, b| a.name.cmp(&b.name));
                format!("{m:?}")
            })
            .collect(),
        RuleMatches::Grpc(all) => all
            .iter()
            .map(|m| {
                let mut m = m.clone();
                m.headers.sort_by(|a, b| a.name.cmp(&b.name));
                format!("{m:?}")
            })
            .collect(),
    }
}
