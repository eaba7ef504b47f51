//! The kubelet's probes of the application. It is no member of the mesh, so what it may reach of a strict workload is said precisely: HTTP probes pass at their own port and
//! path (the controller reads them from the pod). TCP probes would only find the proxy, which accepts for everybody, and gRPC probes speak plain HTTP/2, which strict mode refuses, so
//! both are sent to the proxy's admin port, which performs them ([`weft_core::probe`]).

use serde_json::{Value, json};
use weft_core::probe::{ADMIN_PORT, Forwarded, SERVICE_MAX, TIMEOUT_HEADER};

/// Patches for TCP and gRPC probes, and warnings about those that cannot be kept true.
pub fn rewrite(pod: &Value) -> (Vec<Value>, Vec<String>) {
    let (mut patch, mut warnings) = (Vec::new(), Vec::new());
    for list in ["containers", "initContainers"] {
        for (i, c) in pod["spec"][list].as_array().into_iter().flatten().enumerate() {
            for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
                let path = format!("spec.{list}[{i}].{kind}");
                match forwarded(c, &c[kind]) {
                    Ok(None) => {}
                    Ok(Some((field, to))) => {
                        let value = through_the_proxy(&c[kind], field, &to);
                        patch
                            .push(json!({"op": "replace", "path": format!("/spec/{list}/{i}/{kind}"), "value": value}));
                    }
                    Err(text) => warnings.push(format!("weft: {path}.{text}")),
                }
            }
        }
    }
    // the API server passes on a bounded number, too
    warnings.truncate(10);
    (patch, warnings)
}

/// What the proxy shall do for a probe, and the field that said so. An error: a field and what follows of it.
fn forwarded(container: &Value, probe: &Value) -> Result<Option<(&'static str, Forwarded)>, String> {
    let (tcp, grpc) = (&probe["tcpSocket"], &probe["grpc"]);
    if tcp.is_object() {
        if tcp["host"].as_str().is_some_and(|h| !h.is_empty()) {
            // another host's port: it does not come to this pod's proxy
            return Ok(None);
        }
        let port = number(container, &tcp["port"]).ok_or(
            "tcpSocket.port names no port of its container, so the probe finds the proxy instead of the application",
        )?;
        return Ok(Some(("tcpSocket", Forwarded::Tcp { port })));
    }
    if grpc.is_object() {
        let service = grpc["service"].as_str().unwrap_or_default().to_owned();
        let port = number(container, &grpc["port"]).ok_or("grpc.port is no port, so the probe is left as it is")?;
        if service.len() > SERVICE_MAX {
            return Err(format!(
                "grpc.service is longer than {SERVICE_MAX} bytes, so the probe is left as it is and reaches a permissive workload only"
            ));
        }
        return Ok(Some(("grpc", Forwarded::Grpc { port, service })));
    }
    Ok(None)
}

/// The probe with another handler; its times and thresholds stay.
fn through_the_proxy(probe: &Value, field: &str, to: &Forwarded) -> Value {
    // Kubernetes' default is 1 s. A tenth is left for the way back.
    let seconds = probe["timeoutSeconds"].as_u64().filter(|s| *s > 0).unwrap_or(1);
    let header = json!({"name": TIMEOUT_HEADER, "value": seconds.saturating_mul(900).to_string()});
    let mut probe = probe.clone();
    if let Some(p) = probe.as_object_mut() {
        p.remove(field);
        p.insert(
            "httpGet".into(),
            json!({"path": to.to_string(), "port": ADMIN_PORT, "scheme": "HTTP", "httpHeaders": [header]}),
        );
    }
    probe
}

/// A port by number or by the container's name for it.
fn number(container: &Value, port: &Value) -> Option<u16> {
    let is_port = |n: u64| u16::try_from(n).ok().filter(|p| *p > 0);
    if let Some(n) = port.as_u64() {
        return is_port(n);
    }
    let name = port.as_str()?;
    let mut ports = container["ports"].as_array().into_iter().flatten();
    let named = ports.find(|p| p["name"] == name).and_then(|p| p["containerPort"].as_u64());
    named.or_else(|| name.parse().ok()).and_then(is_port)
}
