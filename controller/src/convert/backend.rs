//! backendRefs: which Service port is meant, and whether the route may say so.

use super::{Context, Effect};
use crate::{
    facts::ServiceKind,
    index::Index,
    object::{Kind, Name, Object},
    refs,
};
use std::sync::Arc;
use weft_api::{GATEWAY_GROUP, shared::BackendObjectReference};
use weft_core::{cause::Invalid, route::BackendRef, service::ServiceRef};

/// Why a backendRef leads nowhere, as status and as core say it.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendProblem {
    pub invalid: Invalid,
    /// Reason of `ResolvedRefs`.
    pub reason: &'static str,
    /// Below the reference: `name`, `port`, `kind` or `namespace`.
    pub field: &'static str,
    pub fix: String,
}

/// Resolves a reference of a route of `kind` in `from`, whose parent lives in `parent_namespace`.
///
/// A producer route needs a ReferenceGrant to name a backend in another namespace. A consumer route may also name backends in the namespace
/// of its parent: its clients reach those by themselves (GEP-1294; MeshConsumerRoute).
pub fn resolve(
    index: &Index,
    kind: &str,
    from: &str,
    parent_namespace: &str,
    b: &BackendObjectReference,
) -> Result<ServiceRef, BackendProblem> {
    let group = b.group.as_deref().unwrap_or_default();
    if !refs::is_service_backend(b) {
        let kind = b.kind.as_deref().unwrap_or("Service");
        let named = if group.is_empty() { kind.to_owned() } else { format!("{group}/{kind}") };
        let fix = "name a Service (group \"\", kind Service)".into();
        return Err(BackendProblem {
            invalid: Invalid::InvalidKind(named.into()),
            reason: "InvalidKind",
            field: "kind",
            fix,
        });
    }
    let namespace: Arc<str> = b.namespace.as_deref().unwrap_or(from).into();
    let name = Name { namespace: namespace.clone(), name: b.name.as_str().into() };
    if *namespace != *from && *namespace != *parent_namespace && !granted(index, kind, from, &name) {
        let text = format!("{kind} in {from} to use Service {name}");
        let fix = format!(
            "add a ReferenceGrant to {namespace}: from {GATEWAY_GROUP}/{kind} in {from}, to Service {}",
            name.name
        );
        return Err(BackendProblem {
            invalid: Invalid::RefNotPermitted(text.into()),
            reason: "RefNotPermitted",
            field: "namespace",
            fix,
        });
    }
    let Some(service) = index.service(&name) else {
        let near = crate::source::suggest::nearest(&name.name, index.services_of(&namespace).map(|s| &*s.name.name));
        let fix = near.map_or_else(
            || format!("create the Service in {namespace}, or correct the name"),
            |n| format!("did you mean {n}?"),
        );
        return Err(BackendProblem {
            invalid: Invalid::BackendNotFound(name.to_string().into()),
            reason: "BackendNotFound",
            field: "name",
            fix,
        });
    };
    if service.kind == ServiceKind::ExternalName {
        let text = format!("Service {name} is of type ExternalName, which could lead anywhere (CVE-2021-25740)");
        let fix = "name a Service with endpoints".into();
        return Err(BackendProblem {
            invalid: Invalid::Unsupported(text.into()),
            reason: "UnsupportedValue",
            field: "name",
            fix,
        });
    }
    match b.port {
        Some(port) if service.port(port).is_some() => Ok(ServiceRef { namespace, name: name.name, port }),
        port => {
            let ports: Vec<String> = service.ports.iter().map(|p| p.port.to_string()).collect();
            let fix = format!(
                "the TCP ports of {name} are {}",
                if ports.is_empty() { "none".into() } else { ports.join(", ") }
            );
            let text = format!("{name}, asked for {}", port.map_or("none".into(), |p| p.to_string()));
            Err(BackendProblem {
                invalid: Invalid::PortNotFound(text.into()),
                reason: "BackendNotFound",
                field: "port",
                fix,
            })
        }
    }
}

/// Whether a ReferenceGrant in the Service's namespace allows the reference.
fn granted(index: &Index, kind: &str, from: &str, to: &Name) -> bool {
    index.of_kind_in(Kind::ReferenceGrant, &to.namespace).any(|stored| {
        let Object::ReferenceGrant(g) = &stored.object else { return false };
        let from = g.spec.from.iter().any(|f| f.group == GATEWAY_GROUP && f.kind == kind && f.namespace == from);
        let named = |name: &Option<String>| name.as_deref().is_none_or(|n| n.is_empty() || n == &*to.name);
        from && g.spec.to.iter().any(|t| t.group.is_empty() && t.kind == "Service" && named(&t.name))
    })
}

impl Context<'_> {
    /// Resolves and notes what is wrong.
    pub(super) fn backend(&mut self, field: &str, b: &BackendObjectReference) -> BackendRef {
        match resolve(self.index, self.kind(), &self.route.namespace, &self.parent_namespace, b) {
            Ok(service) => BackendRef::Service(service),
            Err(p) => {
                self.problem(Effect::Reference(p.reason), format!("{field}.{}", p.field), p.invalid.to_string(), p.fix);
                BackendRef::Invalid(p.invalid)
            }
        }
    }
}
