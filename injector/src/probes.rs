//! The kubelet's probes of the application. It is no member of the mesh, so what it may reach of a strict workload is said precisely: HTTP probes pass at their own port and
//! path (the controller reads them from the pod), TCP probes would only find the proxy, which accepts for everybody, so they are sent to its admin port, which dials the application.

use serde_json::{Value, json};

/// Patches for TCP probes, and warnings about those that cannot be kept true.
pub fn rewrite(pod: &Value, admin: u16) -> (Vec<Value>, Vec<String>) {
    let (mut patch, mut warnings) = (Vec::new(), Vec::new());
    for list in ["containers", "initContainers"] {
        for (i, c) in pod["spec"][list].as_array().into_iter().flatten().enumerate() {
            for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
                let (probe, path) = (&c[kind], format!("spec.{list}[{i}].{kind}"));
                if probe["grpc"].is_object() {
                    warnings.push(format!(
                        "weft: {path}: gRPC probes reach a permissive workload only; in strict mode probe HTTP or TCP"
                    ));
                }
                let tcp = &probe["tcpSocket"];
                if !tcp.is_object() {
                    continue;
                }
                if tcp["host"].as_str().is_some_and(|h| !h.is_empty()) {
                    // another host's port: it does not come to this pod's proxy
                    continue;
                }
                match number(c, &tcp["port"]) {
                    Some(port) => {
                        let mut probe = probe.clone();
                        if let Some(p) = probe.as_object_mut() {
                            p.remove("tcpSocket");
                            p.insert("httpGet".into(), json!({"path": format!("/probe/tcp/{port}"), "port": admin, "scheme": "HTTP"}));
                        }
                        patch.push(json!({"op": "replace", "path": format!("/spec/{list}/{i}/{kind}"), "value": probe}));
                    }
                    None => warnings.push(format!(
                        "weft: {path}.tcpSocket.port names no port of its container, so the probe finds the proxy instead of the application"
                    )),
                }
            }
        }
    }
    (patch, warnings)
}

/// A port by number or by the container's name for it.
fn number(container: &Value, port: &Value) -> Option<u64> {
    if let Some(n) = port.as_u64() {
        return Some(n);
    }
    let name = port.as_str()?;
    let mut ports = container["ports"].as_array().into_iter().flatten();
    let named = ports.find(|p| p["name"] == name).and_then(|p| p["containerPort"].as_u64());
    named.or_else(|| name.parse().ok())
}
