//! The objects of the mesh conformance tests, shaped for a folder: echo-v1 and echo-v2 behind a common Service and one each, a consumer in another namespace, a Service without endpoints.

use std::fmt::Write as _;

/// Namespaces, Services and pods. Pods listen on 8080 (HTTP) and 7070 (gRPC); Services have ports 80, 8080 and 7070.
pub const BASE: &str = include_str!("../fixtures/conformance.yaml");

fn any_route(kind: &str, name: &str, parent: &str, port: Option<u16>, rules: &str) -> String {
    let port = port.map(|p| format!(", port: {p}")).unwrap_or_default();
    let mut text = format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: gateway-conformance-mesh}}\nspec:\n  parentRefs: [{{group: \"\", kind: Service, name: {parent}{port}}}]\n  rules:\n"
    );
    for line in rules.trim().lines() {
        let _ = writeln!(text, "  {line}");
    }
    text
}

/// An HTTPRoute on a Service; `rules` is the YAML list.
pub fn route(name: &str, parent: &str, port: Option<u16>, rules: &str) -> String {
    any_route("HTTPRoute", name, parent, port, rules)
}
/// A GRPCRoute on a Service.
pub fn grpc_route(name: &str, parent: &str, port: Option<u16>, rules: &str) -> String {
    any_route("GRPCRoute", name, parent, port, rules)
}
