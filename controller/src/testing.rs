//! Fixtures: a world from a few lines of YAML.

use crate::{
    index::{Index, Mesh},
    object::Name,
    source::folder::read_text,
    status::{self, ParentReport},
    world::World,
};
use std::sync::Arc;
use weft_core::{
    route::Routes,
    service::{ServicePort, ServiceRef},
};

/// The objects of a text; findings are failures.
pub fn world(yaml: &str) -> Arc<World> {
    let update = read_text("test.yaml", yaml);
    let findings = update.findings.clone().unwrap_or_default();
    assert!(findings.is_empty(), "{}", findings.iter().map(|f| format!("{f}\n")).collect::<String>());
    let world = World::new(Mesh::default());
    world.apply(&update);
    world
}

pub fn index(yaml: &str) -> Index {
    let mut index = Index::new(Mesh::default());
    index.apply(&read_text("test.yaml", yaml));
    index
}

/// `ns/name:port`.
pub fn service(text: &str) -> ServiceRef {
    let (name, port) = text.split_once(':').unwrap();
    let (namespace, name) = name.split_once('/').unwrap();
    ServiceRef { namespace: namespace.into(), name: name.into(), port: port.parse().unwrap() }
}
pub fn name(text: &str) -> Name {
    let (namespace, name) = text.split_once('/').unwrap();
    Name::new(namespace, name)
}

/// A Service with ClusterIP `10.96.0.<n>`, selecting `app: <name>`.
pub fn svc(namespace: &str, name: &str, n: u8, ports: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{namespace: {namespace}, name: {name}}}\nspec:\n  clusterIP: 10.96.0.{n}\n  selector: {{app: {name}}}\n  ports: {ports}\n"
    )
}
/// A ready pod `<app>-<n>` with address `10.244.0.<n>`.
pub fn pod(namespace: &str, app: &str, n: u8) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{namespace: {namespace}, name: {app}-{n}, uid: uid-{n}, labels: {{app: {app}}}}}\nspec:\n  serviceAccountName: {app}\n  containers: [{{name: app, ports: [{{name: web, containerPort: 8080}}]}}]\nstatus: {{phase: Running, podIP: 10.244.0.{n}, conditions: [{{type: Ready, status: 'True'}}]}}\n"
    )
}
pub fn namespace(name: &str, meshed: bool) -> String {
    let labels = if meshed { ", labels: {weft.dev/inject: enabled}" } else { "" };
    format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}{labels}}}\n")
}
/// A route; `parent` is the inside of its parentRef, `rules` the list of its rules.
pub fn route(kind: &str, namespace: &str, name: &str, parent: &str, rules: &str) -> String {
    let version = "v1";
    format!(
        "---\napiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{namespace: {namespace}, name: {name}}}\nspec:\n  parentRefs: [{{group: \"\", kind: Service, {parent}}}]\n  rules: {rules}\n"
    )
}

/// The routes behind the rules of a Service port, in the order of precedence.
pub fn routes_of(port: &ServicePort) -> Vec<String> {
    match &port.routes {
        Routes::None => Vec::new(),
        Routes::Http(t) => {
            t.rules.iter().map(|r| format!("{}/{}#{}", r.route.namespace, r.route.name, r.index)).collect()
        }
        Routes::Stream(s) => s.iter().map(|r| format!("{}/{}", r.route.namespace, r.route.name)).collect(),
    }
}

/// What the first parent of a route says.
pub fn parent(world: &World, route: &str) -> ParentReport {
    let reports = world.reports();
    let found = reports.iter().find(|r| r.route == route);
    found
        .unwrap_or_else(|| panic!("no {route} among {:?}", reports.iter().map(|r| &r.route).collect::<Vec<_>>()))
        .parents[0]
        .clone()
}
/// `Type=Status/Reason` of each condition.
pub fn conditions(p: &ParentReport) -> Vec<String> {
    p.conditions
        .iter()
        .map(|c| format!("{}={}/{}", c.kind, if c.status { "True" } else { "False" }, c.reason))
        .collect()
}
/// Conditions that are bad, with their messages.
pub fn bad(p: &ParentReport) -> String {
    p.conditions
        .iter()
        .filter(|c| status::is_bad(c))
        .map(|c| format!("{}/{}: {}\n", c.kind, c.reason, c.message))
        .collect()
}
