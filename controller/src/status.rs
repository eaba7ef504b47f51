//! What each parent makes of a route, as conditions (Gateway API, RouteConditionType), and the same for policies. Values: a cluster gets them
//! written to its objects, a folder gets them printed and served.

pub mod policy;

use crate::{
    attach::{self, Group, View},
    compile::{self, Compiled},
    convert::{Effect, Problem},
    index::Index,
    object::{Kind, Name, ObjectKey, Stored},
    refs,
};
use ahash::HashMap;
use serde::Serialize;
use std::{cell::RefCell, collections::BTreeSet, rc::Rc, sync::Arc};
use weft_api::shared::ParentReference;
use weft_core::route::Rule;

/// Of a rule whose match another route has, too: its own kind, since the route stays valid.
pub const SHADOWED: &str = "weft.dev/Shadowed";
/// Of a parent whose configuration a proxy could not take.
pub const REFUSED: &str = "weft.dev/Refused";

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
    /// Of the object that was judged.
    #[serde(skip)]
    pub uid: String,
    #[serde(skip)]
    pub generation: i64,
    pub parents: Vec<ParentReport>,
}

/// Whether a condition says that something is not as it was meant.
pub fn is_bad(c: &Condition) -> bool {
    match c.kind {
        "PartiallyInvalid" | SHADOWED | REFUSED => c.status,
        _ => !c.status,
    }
}

/// Judges the routes of one index. What several routes need (conversions, groups, doubled matches) is made once, so judging all
/// routes of a Service costs what they are, not their square.
pub struct Judge<'i> {
    index: &'i Index,
    known: Known<'i>,
    compiled: RefCell<HashMap<(ObjectKey, Name), Arc<Compiled>>>,
    groups: RefCell<HashMap<(Name, u16, View), Rc<Group>>>,
    shadows: RefCell<HashMap<(Name, u16, View), Rc<Shadows>>>,
}

/// A route as converted for a Service, if that was done before.
pub type Known<'i> = Box<dyn Fn(&ObjectKey, &Name) -> Option<Arc<Compiled>> + 'i>;
/// Doubled matches by the route that loses.
pub type Shadows = HashMap<ObjectKey, Vec<Shadow>>;

impl<'i> Judge<'i> {
    pub fn new(index: &'i Index) -> Self {
        Self::with(index, Box::new(|_, _| None))
    }
    /// With conversions that somebody has already.
    pub fn with(index: &'i Index, known: Known<'i>) -> Self {
        Self { index, known, compiled: RefCell::default(), groups: RefCell::default(), shadows: RefCell::default() }
    }

    /// Every route's, by name.
    pub fn reports(&self) -> Vec<RouteReport> {
        let mut keys: Vec<_> = self.index.routes().collect();
        keys.sort_by_key(|(k, _)| (*k).clone());
        keys.into_iter().map(|(key, stored)| self.report(key, stored)).collect()
    }

    /// One route's.
    pub fn report(&self, key: &ObjectKey, stored: &Stored) -> RouteReport {
        let parents = refs::parents(&stored.object).iter().enumerate();
        let parents = parents.map(|(i, p)| self.parent(key, stored, i, p)).collect();
        let meta = stored.object.metadata();
        let (uid, generation) = (meta.uid.clone().unwrap_or_default(), meta.generation.unwrap_or_default());
        RouteReport { route: key.to_string(), key: key.clone(), uid, generation, parents }
    }

    fn compiled(&self, key: &ObjectKey, stored: &Stored, service: &Name) -> Arc<Compiled> {
        let at = (key.clone(), service.clone());
        let known = self.compiled.borrow().get(&at).cloned();
        known.unwrap_or_else(|| {
            let make = || Arc::new(compile::route(self.index, key, stored, service, None));
            let made = (self.known)(key, service).unwrap_or_else(make);
            self.compiled.borrow_mut().insert(at, made.clone());
            made
        })
    }

    /// The routes of one view of a Service port.
    pub fn group(&self, service: &Name, port: u16, view: &View) -> Rc<Group> {
        let at = (service.clone(), port, view.clone());
        let known = self.groups.borrow().get(&at).cloned();
        known.unwrap_or_else(|| {
            let usable = |k: &ObjectKey, s: &Stored| self.compiled(k, s, service).is_usable();
            let made = Rc::new(attach::group(self.index, service, port, view, usable));
            self.groups.borrow_mut().insert(at, made.clone());
            made
        })
    }

    /// Whether a Service port has routes for anyone.
    pub fn is_routed(&self, service: &Name, port: u16) -> bool {
        let consumers = attach::consumers(self.index, service).into_iter().map(View::Consumer);
        consumers.chain([View::Producer]).any(|v| !self.group(service, port, &v).routes.is_empty())
    }

    /// The doubled matches of one view of a Service port, by the route that loses.
    pub fn shadows(&self, service: &Name, port: u16, view: &View) -> Rc<Shadows> {
        let at = (service.clone(), port, view.clone());
        let known = self.shadows.borrow().get(&at).cloned();
        known.unwrap_or_else(|| {
            let made = Rc::new(self.find_shadows(service, port, view));
            self.shadows.borrow_mut().insert(at, made.clone());
            made
        })
    }

    fn parent(&self, key: &ObjectKey, stored: &Stored, place: usize, parent: &ParentReference) -> ParentReport {
        let index = self.index;
        let at = format!("spec.parentRefs[{place}]");
        let text = refs::parent_text(&stored.object, parent);
        let done = |conditions, problems| ParentReport {
            parent: text.clone(),
            parent_ref: parent.clone(),
            conditions,
            problems,
        };
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
        let compiled = self.compiled(key, stored, &service);
        let problems = compiled.problems.clone();
        let mut conditions = vec![self.accepted(key, &compiled, &service, &ports, &at)];
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
        conditions.extend(self.shadowed(key, &service, &ports).map(|m| condition(SHADOWED, true, "SameMatch", m)));
        done(conditions, problems)
    }

    fn accepted(
        &self,
        key: &ObjectKey,
        compiled: &Compiled,
        service: &Name,
        ports: &BTreeSet<u16>,
        at: &str,
    ) -> Condition {
        if !compiled.is_usable() {
            let first = compiled.problems.iter().find(|p| p.effect == Effect::DropsRule);
            let message = first
                .map_or_else(|| "no rule can be used".into(), |p| format!("{}: {} ({})", p.field, p.message, p.fix));
            return condition("Accepted", false, "UnsupportedValue", message);
        }
        let view = view_of(key, service);
        let mut conflicts = Vec::new();
        for port in ports {
            let group = self.group(service, *port, &view);
            if group.losers.contains(key) {
                let winners: Vec<String> = group.routes.iter().map(ToString::to_string).collect();
                conflicts.push(format!("port {port} belongs to {}", winners.join(", ")));
            }
        }
        if !conflicts.is_empty() && conflicts.len() == ports.len() {
            let fix =
                "routes of one kind only can be attached to a port: GRPCRoute, then HTTPRoute, TLSRoute, TCPRoute";
            return condition("Accepted", false, "Conflicted", format!("{at}: {} ({fix})", conflicts.join("; ")));
        }
        match conflicts.is_empty() {
            true => condition("Accepted", true, "Accepted", ""),
            false => condition("Accepted", true, "Accepted", format!("{at}: {}", conflicts.join("; "))),
        }
    }

    /// The route's matches that an older route (or an earlier name) on the same port has, too: those never match.
    fn shadowed(&self, key: &ObjectKey, service: &Name, ports: &BTreeSet<u16>) -> Option<String> {
        let mut words = BTreeSet::new();
        for port in ports {
            for s in self.shadows(service, *port, &view_of(key, service)).get(key).into_iter().flatten() {
                words.insert(format!(
                    "spec.rules[{}].matches[{}]: {} has the same match and wins ({})",
                    s.rule, s.place, s.winner, s.why
                ));
            }
        }
        (!words.is_empty()).then(|| words.into_iter().collect::<Vec<_>>().join("; "))
    }

    fn find_shadows(&self, service: &Name, port: u16, view: &View) -> Shadows {
        let mut out = Shadows::default();
        let mut owners: HashMap<String, (Arc<Rule>, &ObjectKey)> = HashMap::default();
        let group = self.group(service, port, view);
        // routes come in the order in which they win ties
        for key in &group.routes {
            let Some(stored) = self.index.get(key) else { continue };
            for rule in &self.compiled(key, stored, service).rules {
                for (place, text) in match_texts(rule).into_iter().enumerate() {
                    let Some((first, owner)) = owners.get(&text) else {
                        owners.insert(text, (rule.clone(), key));
                        continue;
                    };
                    let why = match (*owner == key, first.route.created == rule.route.created) {
                        (true, _) => "it comes earlier in the route",
                        (false, true) => "its name comes first in the alphabet",
                        (false, false) => "it is older",
                    };
                    let name = first.name.as_deref().map_or_else(|| first.index.to_string(), str::to_owned);
                    let winner = format!("{owner} rule {name}");
                    out.entry(key.clone()).or_default().push(Shadow { rule: rule.index, place, winner, why });
                }
            }
        }
        out
    }
}

fn condition(kind: &'static str, status: bool, reason: &'static str, message: impl Into<String>) -> Condition {
    Condition { kind, status, reason, message: message.into() }
}

/// The view that a route is part of.
pub fn view_of(route: &ObjectKey, service: &Name) -> View {
    match route.name.namespace == service.namespace {
        true => View::Producer,
        false => View::Consumer(route.name.namespace.clone()),
    }
}

/// A match that never gets a request, since another rule has the same one.
#[derive(Clone, Debug, PartialEq)]
pub struct Shadow {
    pub rule: u32,
    /// In `matches`.
    pub place: usize,
    pub winner: String,
    pub why: &'static str,
}

/// Each match of a rule in one normal form: the order of headers and parameters does not count.
fn match_texts(rule: &Rule) -> Vec<String> {
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
