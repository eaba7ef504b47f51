//! Which routes apply to a Service port, for which clients (GEP-1294).
//!
//! Routes in the Service's namespace are *producer* routes, for every client. A route in another namespace is a *consumer* route: it replaces the
//! producer routes for clients of its own namespace. Within such a group only the most specific kind applies, GRPCRoute before HTTPRoute before TLSRoute before
//! TCPRoute; the others are in conflict. Routes of the winning kind are merged.

use crate::{
    facts::{ServiceFacts, ServiceKind},
    index::Index,
    object::{Kind, Name, ObjectKey, Stored},
    refs,
    source::suggest,
};
use std::{collections::BTreeSet, sync::Arc};
use weft_api::shared::ParentReference;

/// Whose routes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum View {
    Producer,
    /// Of clients in this namespace, which has routes of its own for the Service port.
    Consumer(Arc<str>),
}

/// Why a parentRef attaches to nothing: reason and message of `Accepted: False`.
#[derive(Clone, Debug, PartialEq)]
pub struct NoParent {
    pub reason: &'static str,
    /// Below the parentRef.
    pub field: &'static str,
    pub message: String,
    pub fix: String,
}

/// Judges one Service parent by itself; conflicts with other routes are not its matter. Gives the ports that the route attaches to.
pub fn judge(index: &Index, route: &Stored, parent: &ParentReference) -> Result<BTreeSet<u16>, NoParent> {
    let no = |reason, field, message: String, fix: String| Err(NoParent { reason, field, message, fix });
    let name = refs::parent_name(&route.object, parent);
    if route.object.kind() == Kind::UDPRoute {
        return no(
            "UnsupportedValue",
            "kind",
            "UDPRoutes have no Service parents in Weft: only TCP is captured".into(),
            "remove the parentRef".into(),
        );
    }
    let Some(service) = index.service(&name) else {
        let near = suggest::nearest(&name.name, index.services_of(&name.namespace).map(|s| &*s.name.name));
        let fix = near.map_or_else(
            || format!("create the Service in {}, or correct the name", name.namespace),
            |n| format!("did you mean {n}?"),
        );
        return no("NoMatchingParent", "name", format!("Service {name} does not exist"), fix);
    };
    match service.kind {
        ServiceKind::Virtual => {}
        ServiceKind::Headless => {
            let fix = "give the Service a ClusterIP (remove clusterIP: None)".into();
            return no(
                "NoMatchingParent",
                "name",
                format!("Service {name} is headless: clients reach its pods directly, so no route can apply"),
                fix,
            );
        }
        ServiceKind::ExternalName => {
            return no(
                "NoMatchingParent",
                "name",
                format!("Service {name} is a DNS alias (ExternalName)"),
                "name a Service with a ClusterIP".into(),
            );
        }
    }
    if parent.section_name.is_some() {
        return no(
            "NoMatchingParent",
            "sectionName",
            "Services have no sections".into(),
            "choose a port by its number, with port".into(),
        );
    }
    match parent.port {
        None => Ok(service.ports.iter().map(|p| p.port).collect()),
        Some(port) if service.port(port).is_some() => Ok([port].into()),
        Some(port) => {
            let ports: Vec<String> = service.ports.iter().map(|p| p.port.to_string()).collect();
            no(
                "NoMatchingParent",
                "port",
                format!("Service {name} has no TCP port {port}"),
                format!("its ports are {}", ports.join(", ")),
            )
        }
    }
}

/// The routes of one view of a Service port, in order of precedence between routes: older first, then by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    /// Of the winning kind.
    pub routes: Vec<ObjectKey>,
    /// Of other kinds: `Accepted: False/Conflicted`.
    pub losers: Vec<ObjectKey>,
}

fn strength(kind: Kind) -> Option<u8> {
    match kind {
        Kind::GRPCRoute => Some(0),
        Kind::HTTPRoute => Some(1),
        Kind::TLSRoute => Some(2),
        Kind::TCPRoute => Some(3),
        _ => None,
    }
}

/// All routes that attach to the port in this view. `usable` leaves out routes of which nothing can be used.
pub fn group(
    index: &Index,
    service: &Name,
    port: u16,
    view: &View,
    usable: impl Fn(&ObjectKey, &Stored) -> bool,
) -> Group {
    let namespace = match view {
        View::Producer => &service.namespace,
        View::Consumer(n) => n,
    };
    let mut found: Vec<(u8, i64, &ObjectKey)> = Vec::new();
    for key in index.routes_on(service).filter(|k| k.name.namespace == *namespace) {
        let (Some(stored), Some(strength)) = (index.get(key), strength(key.kind)) else { continue };
        let here = refs::service_parents(&stored.object).into_iter().filter(|(s, _)| s == service);
        let attached = here
            .filter_map(|(_, i)| judge(index, stored, &refs::parents(&stored.object)[i]).ok())
            .any(|ports| ports.contains(&port));
        if attached && usable(key, stored) {
            found.push((strength, stored.object.created(), key));
        }
    }
    found.sort();
    let best = found.first().map(|f| f.0);
    let (winners, losers): (Vec<_>, Vec<_>) = found.into_iter().partition(|f| Some(f.0) == best);
    let keys = |v: Vec<(u8, i64, &ObjectKey)>| v.into_iter().map(|f| f.2.clone()).collect();
    Group { routes: keys(winners), losers: keys(losers) }
}

/// Whose routes a client in `namespace` gets.
pub fn view(
    index: &Index,
    service: &Name,
    port: u16,
    namespace: &str,
    usable: impl Fn(&ObjectKey, &Stored) -> bool,
) -> View {
    if *service.namespace == *namespace {
        return View::Producer;
    }
    let own = View::Consumer(namespace.into());
    match group(index, service, port, &own, usable).routes.is_empty() {
        true => View::Producer,
        false => own,
    }
}

/// The namespaces that have routes of their own for a Service.
pub fn consumers(index: &Index, service: &Name) -> BTreeSet<Arc<str>> {
    index.routes_on(service).map(|k| k.name.namespace.clone()).filter(|n| *n != service.namespace).collect()
}

pub fn facts<'i>(
    index: &'i Index,
    service: &Name,
    port: u16,
) -> Option<(&'i Arc<ServiceFacts>, &'i crate::facts::PortFacts)> {
    let facts = index.service(service)?;
    Some((facts, facts.port(port)?))
}
