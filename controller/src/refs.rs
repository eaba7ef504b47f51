//! Who refers to whom.

use crate::object::{Kind, Name, Object, ObjectKey};
use weft_api::{
    EXPERIMENTAL_GROUP, GATEWAY_GROUP,
    shared::{BackendObjectReference, BackendRef, ParentReference},
};

/// The parents of a route.
pub fn parents(object: &Object) -> &[ParentReference] {
    match object {
        Object::HTTPRoute(r) => &r.spec.parent_refs,
        Object::GRPCRoute(r) => &r.spec.parent_refs,
        Object::TLSRoute(r) => &r.spec.parent_refs,
        Object::TCPRoute(r) => &r.spec.parent_refs,
        Object::UDPRoute(r) => &r.spec.parent_refs,
        _ => &[],
    }
}

/// Whether a parent is a Service. `group` must say so: absent, it is that of Gateways.
pub fn is_service(parent: &ParentReference) -> bool {
    parent.group.as_deref() == Some("") && parent.kind.as_deref() == Some("Service")
}

/// The Services that a route has as parents, with the place in `parentRefs`.
pub fn service_parents(object: &Object) -> Vec<(Name, usize)> {
    let all = parents(object).iter().enumerate().filter(|(_, p)| is_service(p));
    all.map(|(i, p)| (parent_name(object, p), i)).collect()
}

pub fn parent_name(object: &Object, parent: &ParentReference) -> Name {
    let own = object.key().name.namespace;
    Name { namespace: parent.namespace.as_deref().map_or(own, Into::into), name: parent.name.as_str().into() }
}

/// Every backend that a route names, mirrors included, with its path in the object.
pub fn backends(object: &Object) -> Vec<(String, BackendObjectReference)> {
    let mut found = Vec::new();
    let mut stream = |rules: &[weft_api::stream::StreamRouteRule]| {
        for (i, rule) in rules.iter().enumerate() {
            let named = |(j, b): (usize, &BackendRef)| (format!("spec.rules[{i}].backendRefs[{j}]"), b.object());
            found.extend(rule.backend_refs.iter().enumerate().map(named));
        }
    };
    match object {
        Object::TLSRoute(r) => stream(&r.spec.rules),
        Object::TCPRoute(r) => stream(&r.spec.rules),
        Object::UDPRoute(r) => stream(&r.spec.rules),
        Object::HTTPRoute(r) => {
            for (i, rule) in r.spec.rules.iter().enumerate() {
                let mut mirrors = |at: &str, filters: &[weft_api::http::HTTPRouteFilter]| {
                    for (k, f) in filters.iter().enumerate() {
                        let mirror = f
                            .request_mirror
                            .iter()
                            .map(|m| (format!("{at}.filters[{k}].requestMirror.backendRef"), m.backend_ref.clone()));
                        found.extend(mirror);
                    }
                };
                mirrors(&format!("spec.rules[{i}]"), &rule.filters);
                rule.backend_refs
                    .iter()
                    .enumerate()
                    .for_each(|(j, b)| mirrors(&format!("spec.rules[{i}].backendRefs[{j}]"), &b.filters));
                found.extend(
                    rule.backend_refs
                        .iter()
                        .enumerate()
                        .map(|(j, b)| (format!("spec.rules[{i}].backendRefs[{j}]"), b.object())),
                );
            }
        }
        Object::GRPCRoute(r) => {
            for (i, rule) in r.spec.rules.iter().enumerate() {
                let mut mirrors = |at: &str, filters: &[weft_api::grpc::GRPCRouteFilter]| {
                    for (k, f) in filters.iter().enumerate() {
                        let mirror = f
                            .request_mirror
                            .iter()
                            .map(|m| (format!("{at}.filters[{k}].requestMirror.backendRef"), m.backend_ref.clone()));
                        found.extend(mirror);
                    }
                };
                mirrors(&format!("spec.rules[{i}]"), &rule.filters);
                rule.backend_refs
                    .iter()
                    .enumerate()
                    .for_each(|(j, b)| mirrors(&format!("spec.rules[{i}].backendRefs[{j}]"), &b.filters));
                found.extend(
                    rule.backend_refs
                        .iter()
                        .enumerate()
                        .map(|(j, b)| (format!("spec.rules[{i}].backendRefs[{j}]"), b.object())),
                );
            }
        }
        _ => {}
    }
    found
}

/// The Services among the backends.
pub fn backend_services(object: &Object) -> Vec<Name> {
    let own = object.key().name.namespace;
    let services = backends(object).into_iter().filter(|(_, b)| is_service_backend(b));
    services
        .map(|(_, b)| Name {
            namespace: b.namespace.as_deref().map_or_else(|| own.clone(), Into::into),
            name: b.name.as_str().into(),
        })
        .collect()
}

pub fn is_service_backend(b: &BackendObjectReference) -> bool {
    b.group.as_deref().unwrap_or_default().is_empty() && b.kind.as_deref().unwrap_or("Service") == "Service"
}

/// What a policy targets, in its own namespace.
pub fn policy_targets(object: &Object) -> Vec<ObjectKey> {
    let namespace = object.key().name.namespace;
    let key = |group: &str, kind: &str, name: &str| {
        let kind = *Kind::ALL.iter().find(|k| k.group() == group && k.as_str() == kind)?;
        Some(ObjectKey::new(kind, if kind.is_namespaced() { &namespace } else { "" }, name))
    };
    match object {
        Object::TrafficPolicy(p) => p.spec.target_refs.iter().filter_map(|t| key(&t.group, &t.kind, &t.name)).collect(),
        Object::XBackendTrafficPolicy(p) => {
            p.spec.target_refs.iter().filter_map(|t| key(&t.group, &t.kind, &t.name)).collect()
        }
        Object::BackendTLSPolicy(p) => {
            p.spec.target_refs.iter().filter_map(|t| key(&t.group, &t.kind, &t.name)).collect()
        }
        _ => Vec::new(),
    }
}

/// The name of a parent as people know it: `Service shop/orders:80`.
pub fn parent_text(object: &Object, parent: &ParentReference) -> String {
    let kind = parent.kind.as_deref().unwrap_or("Gateway");
    let name = parent_name(object, parent);
    match (parent.port, &parent.section_name) {
        (Some(port), _) => format!("{kind} {name}:{port}"),
        (None, Some(section)) => format!("{kind} {name}/{section}"),
        (None, None) => format!("{kind} {name}"),
    }
}

/// Whether `group` and `kind` of a parent could be meant as a Service, though they do not say it.
pub fn meant_service(parent: &ParentReference) -> bool {
    parent.kind.as_deref() == Some("Service")
        && matches!(parent.group.as_deref(), None | Some(GATEWAY_GROUP | EXPERIMENTAL_GROUP | "core" | "v1"))
}
