//! What every status should hold of ours, as values: the judgement of each route and policy, what proxies refuse, and the objects that stand for Weft itself.

use super::merge::{CONTROLLER, Part};
use crate::{
    finding::Finding,
    index::Index,
    object::{Kind, Object, ObjectKey},
    refs,
    status::{Condition, ParentReport, REFUSED, policy},
    world::World,
};
use ahash::HashMap;
use std::{collections::BTreeMap, sync::Arc};
use weft_api::shared::ParentReference;
use weft_discovery::ResourceName;

/// One object's.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// Of the object that was judged: a status for another one must not be written.
    pub uid: String,
    pub generation: i64,
    pub part: Part,
}

/// What the mesh can do, by the names of Gateway API v1.7: what its mesh profiles have, and what the mesh tests outside them ask for.
pub const FEATURES: [&str; 17] = [
    "GRPCRoute",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteParentRefPort",
    "HTTPRouteResponseHeaderModification",
    "Mesh",
    "MeshClusterIPMatching",
    "MeshConsumerRoute",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteNamedRouteRule",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
];

/// Refusals by Service port.
type Refused = HashMap<(Arc<str>, Arc<str>, u16), Vec<(Arc<str>, Box<str>)>>;

/// Every object's whose status is ours to write, in part or as a whole.
pub fn all(world: &World) -> BTreeMap<ObjectKey, Desired> {
    let findings = world.findings().borrow().clone();
    let mut unknown: HashMap<&str, Vec<&Finding>> = HashMap::default();
    for f in findings.iter().filter(|f| f.code == "field-unknown") {
        unknown.entry(&f.object).or_default().push(f);
    }
    let mut refused = Refused::default();
    for (workload, name, reason) in world.refusals() {
        if let ResourceName::ServicePort(s) = name {
            refused.entry((s.namespace, s.name, s.port)).or_default().push((workload, reason));
        }
    }
    let mut out = BTreeMap::new();
    for report in world.reports() {
        let own = report.parents.iter().filter(|p| is_ours(&p.parent_ref));
        let entry = |p: &ParentReport| {
            let mut conditions = p.conditions.clone();
            ignored(&mut conditions, unknown.get(report.route.as_str()).map_or(&[], Vec::as_slice));
            conditions.extend(refusal(&report.key, &p.parent_ref, &refused, world));
            (p.parent_ref.clone(), conditions)
        };
        let part = Part::Parents(own.map(entry).collect());
        out.insert(report.key.clone(), Desired { uid: report.uid.clone(), generation: report.generation, part });
    }
    world.with_index(|index| {
        own(index, &mut out);
        policies(index, &unknown, &mut out);
    });
    out
}

/// Parents in the mesh. Those of Gateways belong to whoever serves the Gateway.
fn is_ours(parent: &ParentReference) -> bool {
    // another kind of the core group is a misspelt Service: nobody else will tell
    parent.group.as_deref() == Some("") || refs::meant_service(parent)
}

/// Fields that this version does not know: without effect, so the condition that says so gets them, too.
fn ignored(conditions: &mut Vec<Condition>, unknown: &[&Finding]) {
    let accepted = conditions.iter().any(|c| c.kind == "Accepted" && c.status);
    if unknown.is_empty() || !accepted {
        return;
    }
    let words: Vec<String> = unknown.iter().map(|f| format!("{}: {} ({})", f.field, f.message, f.fix)).collect();
    let words = words.join("; ");
    match conditions.iter_mut().find(|c| c.kind == "PartiallyInvalid") {
        Some(c) => c.message = format!("{}; {words}", c.message),
        None => conditions.push(Condition {
            kind: "PartiallyInvalid",
            status: true,
            reason: "UnsupportedValue",
            message: format!("Dropped Rule or field: {words}"),
        }),
    }
}

/// Proxies that keep an older state of a Service port, since they could not take this one.
fn refusal(route: &ObjectKey, parent: &ParentReference, refused: &Refused, world: &World) -> Option<Condition> {
    if refused.is_empty() || !refs::is_service(parent) {
        return None;
    }
    let namespace: Arc<str> = parent.namespace.as_deref().map_or_else(|| route.name.namespace.clone(), Into::into);
    let name = crate::object::Name { namespace, name: parent.name.as_str().into() };
    let ports: Vec<u16> = match parent.port {
        Some(port) => vec![port],
        None => {
            world.with_index(|i| i.service(&name).map(|s| s.ports.iter().map(|p| p.port).collect()).unwrap_or_default())
        }
    };
    let who: Vec<&(Arc<str>, Box<str>)> =
        ports.iter().filter_map(|p| refused.get(&(name.namespace.clone(), name.name.clone(), *p))).flatten().collect();
    let (workload, reason) = who.first()?;
    let message = match who.len() {
        1 => format!("proxy {workload} keeps the configuration from before: {reason}"),
        n => format!("{n} proxies keep the configuration from before; {workload}: {reason}"),
    };
    Some(Condition { kind: REFUSED, status: true, reason: "RefusedByProxy", message })
}

/// GatewayClasses and meshes that name Weft as their controller.
fn own(index: &Index, out: &mut BTreeMap<ObjectKey, Desired>) {
    let condition = |status, reason, message: String| Condition { kind: "Accepted", status, reason, message };
    for stored in index.of_kind(Kind::GatewayClass).chain(index.of_kind(Kind::XMesh)) {
        let (conditions, features) = match &stored.object {
            Object::GatewayClass(c) if c.spec.controller_name == CONTROLLER => {
                // accepting it would promise that Gateways of the class are served
                let message =
                    "this version of Weft serves routes whose parents are Services; it does not serve Gateways yet";
                (vec![condition(false, "Pending", message.into())], Vec::new())
            }
            Object::XMesh(m) if m.spec.controller_name == CONTROLLER => {
                let name = &*stored.object.key().name.name;
                let served = *name == *index.mesh.name;
                let accepted = match (&m.spec.parameters_ref, served) {
                    (_, false) => condition(
                        false,
                        "Pending",
                        format!("the mesh of this cluster is {}: only an XMesh of that name is read", index.mesh.name),
                    ),
                    (Some(_), true) => condition(
                        false,
                        "InvalidParameters",
                        "spec.parametersRef: Weft has no parameters there (remove it)".into(),
                    ),
                    (None, true) => condition(
                        true,
                        "Accepted",
                        format!(
                            "mesh {name} with trust domain {}, controlled from namespace {}, version {}",
                            index.mesh.trust_domain,
                            index.mesh.system_namespace,
                            env!("CARGO_PKG_VERSION")
                        ),
                    ),
                };
                (vec![accepted], if served { FEATURES.to_vec() } else { Vec::new() })
            }
            _ => continue,
        };
        let meta = stored.object.metadata();
        let desired = Desired {
            uid: meta.uid.clone().unwrap_or_default(),
            generation: meta.generation.unwrap_or_default(),
            part: Part::Own { conditions, features },
        };
        out.insert(stored.object.key(), desired);
    }
}

/// What each target makes of each policy.
fn policies(index: &Index, unknown: &HashMap<&str, Vec<&Finding>>, out: &mut BTreeMap<ObjectKey, Desired>) {
    for report in policy::reports(index) {
        let Some(meta) = index.get(&report.key).map(|s| s.object.metadata()) else { continue };
        let entry = |p: &ParentReport| {
            let mut conditions = p.conditions.clone();
            ignored(&mut conditions, unknown.get(report.policy.as_str()).map_or(&[], Vec::as_slice));
            (p.parent_ref.clone(), conditions)
        };
        let desired = Desired {
            uid: meta.uid.clone().unwrap_or_default(),
            generation: meta.generation.unwrap_or_default(),
            part: Part::Ancestors(report.ancestors.iter().map(entry).collect()),
        };
        out.insert(report.key, desired);
    }
}
