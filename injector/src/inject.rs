//! What is added to a pod, as a JSON patch against the pod as it came: a round trip through typed structs would lose fields of newer Kubernetes versions.
//!
//! ```text
//! native:  initContainers: weft-init (rules), weft-proxy (restartPolicy Always, startup probe), the user's own ...   -> all of them are meshed
//! classic: initContainers: the user's own ..., weft-init;   containers: weft-proxy (start gate), the user's own ...
//! ```
//!
//! A classic sidecar cannot run before init containers do, so there the rules come last and the user's own init containers speak outside the mesh.

use crate::{
    knobs::{self, Annotations, INJECT, INJECTED, KnobError, Knobs, NOT_INJECTED},
    probes,
    sidecar::Sidecar,
};
use serde_json::{Value, json};

use weft_init::{Plan, PlanError, lists};

pub const PROXY: &str = "weft-proxy";
pub const INIT: &str = "weft-init";
const TOKEN_VOLUME: &str = "weft-token";
const STATE_VOLUME: &str = "weft-state";
/// The user of the proxy, exempt from capture. Nobody else in the pod may run as it.
pub const PROXY_UID: i64 = 2102;
pub const OUTBOUND_PORT: u16 = 15001;
pub const INBOUND_PORT: u16 = 15006;
pub use weft_core::probe::ADMIN_PORT;
/// What the kubelet waits when a pod does not say.
const GRACE: u64 = 30;
/// The kubelet renews it at 80 %; the CA asks for a token only when a leaf is renewed.
const TOKEN_SECONDS: u64 = 3600;

/// What holds for the whole mesh.
#[derive(Clone, Debug)]
pub struct Settings {
    pub image: String,
    pub image_pull_policy: String,
    pub trust_domain: String,
    /// `host:port` of the CA and of the controller.
    pub ca: String,
    pub controller: String,
    /// The cluster starts init containers with `restartPolicy: Always` as sidecars (Kubernetes 1.29 and later).
    pub native_sidecars: bool,
    pub version: String,
    pub sidecar: Sidecar,
}

/// What becomes of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Inject {
        patch: Vec<Value>,
        warnings: Vec<String>,
    },
    /// The pod runs as it came, with the reason as an annotation.
    Leave {
        patch: Vec<Value>,
        warnings: Vec<String>,
    },
    /// The pod has been injected already, or nobody asked for it.
    Nothing {
        warnings: Vec<String>,
    },
}

/// A pod that must not start as it is.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Denial {
    #[error(transparent)]
    Knob(#[from] KnobError),
    #[error("{0}")]
    Plan(#[from] PlanError),
    #[error("{field}: {text}")]
    Conflict { field: String, text: String },
    #[error(
        "label weft.dev/inject=enabled on the pod asks for what cannot be done: {0}; remove the label, or label the pod weft.dev/inject=disabled"
    )]
    Impossible(&'static str),
    #[error("the object is no pod: {0}")]
    NoPod(&'static str),
}

/// Why a pod of a labelled namespace is left alone. `bool`: a label on the pod itself may overrule it.
fn excluded(pod: &Value) -> Option<(&'static str, bool)> {
    let spec = &pod["spec"];
    if spec["hostNetwork"] == true {
        return Some(("it uses the node's network, which a pod's rules must not touch", false));
    }
    if spec["os"]["name"] == "windows" || spec["nodeSelector"]["kubernetes.io/os"] == "windows" {
        return Some(("it runs on Windows, which has no iptables", false));
    }
    if pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string() {
        return Some(("it is the mirror of a static pod, which the kubelet has started already", false));
    }
    let containers = || spec["containers"].as_array().into_iter().flatten();
    if containers().any(|c| c["securityContext"]["privileged"] == true) {
        return Some(("a privileged container could undo its capture", true));
    }
    let ports = || containers().flat_map(|c| c["ports"].as_array().into_iter().flatten());
    if ports().any(|p| p["hostPort"].as_u64().is_some_and(|p| p > 0)) {
        return Some(("it listens on the node's port, for clients outside the mesh", true));
    }
    if ports().next().is_some() && ports().all(|p| p["protocol"] == "UDP") {
        return Some(("all its ports are UDP, and only TCP is captured", true));
    }
    None
}

/// Judges a pod that the API server has asked about: its selectors have seen the labels of pod and namespace, so the answer is yes unless the pod itself says no. What is known of
/// the namespace may be older than its label; a cache must not let a pod through in plain text. `annotations`: the namespace's, defaults of the pod's own.
pub fn judge(pod: &Value, annotations: &Annotations, s: &Settings) -> Result<Verdict, Denial> {
    if pod["spec"]["containers"].as_array().is_none_or(|c| c.is_empty()) {
        return Err(Denial::NoPod("spec.containers is missing"));
    }
    let own = knobs::texts(&pod["metadata"]["annotations"]);
    let warnings = knobs::unknown(&own);
    let asked = pod["metadata"]["labels"][INJECT].as_str();
    match asked {
        Some("disabled") => return Ok(Verdict::Nothing { warnings }),
        Some("enabled") | None => {}
        Some(other) => {
            let short: String = other.chars().take(63).collect();
            return Err(Denial::Conflict {
                field: format!("metadata.labels[{INJECT}]"),
                text: format!("{short:?} means nothing; write enabled or disabled"),
            });
        }
    }
    if is_injected(pod) {
        return Ok(Verdict::Nothing { warnings });
    }
    if let Some((why, overruled)) = excluded(pod) {
        match (asked == Some("enabled"), overruled) {
            (true, false) => return Err(Denial::Impossible(why)),
            (true, true) => {}
            (false, _) => {
                return Ok(Verdict::Leave { patch: annotate(pod, &[(NOT_INJECTED, why)]), warnings });
            }
        }
    }
    conflicts(pod)?;
    let knobs = Knobs::read(&own, annotations)?;
    inject(pod, &knobs, s, warnings)
}

/// Whether our containers are in the pod, in the place where we put them.
pub fn is_injected(pod: &Value) -> bool {
    let named = |list: &Value, name: &str| list.as_array().into_iter().flatten().any(|c| c["name"] == name);
    let spec = &pod["spec"];
    pod["metadata"]["annotations"][INJECTED].is_string()
        && named(&spec["initContainers"], INIT)
        && (named(&spec["initContainers"], PROXY) || named(&spec["containers"], PROXY))
}

/// Names and user ids that are ours.
fn conflicts(pod: &Value) -> Result<(), Denial> {
    let spec = &pod["spec"];
    let clash = |field: String, text: String| Err(Denial::Conflict { field, text });
    let uid = |c: &Value| c["securityContext"]["runAsUser"].as_i64().or(spec["securityContext"]["runAsUser"].as_i64());
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for (i, c) in spec[list].as_array().into_iter().flatten().enumerate() {
            let name = c["name"].as_str().unwrap_or_default();
            if name == PROXY || name == INIT {
                return clash(
                    format!("spec.{list}[{i}].name"),
                    format!("{name:?} is the mesh's; name the container otherwise"),
                );
            }
            if uid(c) == Some(PROXY_UID) {
                return clash(
                    format!("spec.{list}[{i}].securityContext.runAsUser"),
                    format!("{PROXY_UID} is the proxy's, whose traffic is not captured; run as another user"),
                );
            }
            for (j, p) in c["ports"].as_array().into_iter().flatten().enumerate() {
                let n = p["containerPort"].as_u64().unwrap_or_default();
                let tcp = p["protocol"].as_str().is_none_or(|p| p == "TCP");
                if tcp && [OUTBOUND_PORT, INBOUND_PORT, ADMIN_PORT].map(u64::from).contains(&n) {
                    return clash(
                        format!("spec.{list}[{i}].ports[{j}].containerPort"),
                        format!("{n} is the proxy's; listen on another port"),
                    );
                }
            }
        }
    }
    for (i, v) in spec["volumes"].as_array().into_iter().flatten().enumerate() {
        if let Some(name @ (TOKEN_VOLUME | STATE_VOLUME)) = v["name"].as_str() {
            return clash(
                format!("spec.volumes[{i}].name"),
                format!("{name:?} is the mesh's; name the volume otherwise"),
            );
        }
    }
    Ok(())
}

/// Adds annotations.
fn annotate(pod: &Value, entries: &[(&str, &str)]) -> Vec<Value> {
    let mut patch = Vec::new();
    if !pod["metadata"]["annotations"].is_object() {
        patch.push(json!({"op": "add", "path": "/metadata/annotations", "value": {}}));
    }
    for (name, value) in entries {
        let path = format!("/metadata/annotations/{}", name.replace('~', "~0").replace('/', "~1"));
        patch.push(json!({"op": "add", "path": path, "value": value}));
    }
    patch
}

/// Puts items into a list that may not be there, at its beginning or its end.
fn put(patch: &mut Vec<Value>, pod: &Value, list: &str, items: Vec<Value>, first: bool) {
    let path = format!("/spec/{list}");
    if pod["spec"][list].as_array().is_none_or(|l| l.is_empty()) {
        patch.push(json!({"op": "add", "path": path, "value": items}));
        return;
    }
    for (i, item) in items.into_iter().enumerate() {
        let at = if first { i.to_string() } else { "-".into() };
        patch.push(json!({"op": "add", "path": format!("{path}/{at}"), "value": item}));
    }
}

fn inject(pod: &Value, k: &Knobs, s: &Settings, mut warnings: Vec<String>) -> Result<Verdict, Denial> {
    let native = k.native_sidecar.unwrap_or(s.native_sidecars);
    check_plan(k)?;
    let mut patch = Vec::new();
    if k.rewrite_probes.unwrap_or(true) {
        let (probes, untouched) = probes::rewrite(pod);
        patch.extend(probes);
        warnings.extend(untouched);
    }
    let (init, proxy) = (init_container(k, s), proxy_container(pod, k, s, native));
    // what moves places in a list comes after what names places
    match native {
        true => put(&mut patch, pod, "initContainers", vec![init, proxy], true),
        false => {
            put(&mut patch, pod, "initContainers", vec![init], false);
            put(&mut patch, pod, "containers", vec![proxy], true);
        }
    }
    put(&mut patch, pod, "volumes", volumes(), false);
    let mut entries = vec![(INJECTED, s.version.as_str())];
    // `kubectl logs` and `kubectl exec` mean the application still
    let first = pod["spec"]["containers"][0]["name"].as_str();
    if let Some(first) = first
        && !pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].is_string()
    {
        entries.push(("kubectl.kubernetes.io/default-container", first));
    }
    patch.extend(annotate(pod, &entries));
    Ok(Verdict::Inject { patch, warnings })
}

/// What the init container will be told must be a plan that it can carry out.
fn check_plan(k: &Knobs) -> Result<(), PlanError> {
    let ports = |list: &Option<String>| list.as_deref().map(lists::ports).and_then(Result::ok).unwrap_or_default();
    let networks = k.skip_outbound_networks.as_deref().map(lists::networks).and_then(Result::ok);
    let mut inbound = ports(&k.skip_inbound_ports);
    inbound.insert(ADMIN_PORT);
    let plan = Plan {
        proxy_uid: PROXY_UID as u32,
        outbound_port: OUTBOUND_PORT,
        inbound_port: INBOUND_PORT,
        exclude_inbound_ports: inbound,
        exclude_outbound_ports: ports(&k.skip_outbound_ports),
        exclude_outbound_networks: networks.unwrap_or_default(),
    };
    plan.validate()
}

fn env(name: &str, value: impl Into<String>) -> Value {
    json!({"name": name, "value": value.into()})
}
fn field(name: &str, path: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}})
}
fn image(k: &Knobs, s: &Settings) -> String {
    k.image.clone().unwrap_or_else(|| s.image.clone())
}

/// Sets the rules of capture and ends. The one container that the `restricted` profile does not allow.
fn init_container(k: &Knobs, s: &Settings) -> Value {
    let mut inbound = k.skip_inbound_ports.clone().filter(|l| !l.trim().is_empty()).unwrap_or_default();
    if !inbound.is_empty() {
        inbound.push(',');
    }
    inbound.push_str(&ADMIN_PORT.to_string());
    let mut vars = vec![
        env("WEFT_PROXY_UID", PROXY_UID.to_string()),
        env("WEFT_OUTBOUND_PORT", OUTBOUND_PORT.to_string()),
        env("WEFT_INBOUND_PORT", INBOUND_PORT.to_string()),
        env("WEFT_EXCLUDE_INBOUND_PORTS", inbound),
        // iptables-legacy locks a file; the root of the container is read-only
        env("XTABLES_LOCKFILE", "/var/run/weft/state/xtables.lock"),
    ];
    for (name, value) in [
        ("WEFT_EXCLUDE_OUTBOUND_PORTS", &k.skip_outbound_ports),
        ("WEFT_EXCLUDE_OUTBOUND_NETWORKS", &k.skip_outbound_networks),
    ] {
        if let Some(v) = value {
            vars.push(env(name, v));
        }
    }
    json!({
        "name": INIT,
        "image": image(k, s),
        "imagePullPolicy": s.image_pull_policy,
        "command": ["/usr/local/bin/weft-init"],
        "args": ["apply"],
        "env": vars,
        "resources": {"requests": {"cpu": "10m", "memory": "10Mi"}, "limits": {"memory": "64Mi"}},
        "securityContext": {
            "runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": false,
            "allowPrivilegeEscalation": false, "privileged": false, "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": STATE_VOLUME, "mountPath": "/var/run/weft/state"}],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    })
}

fn proxy_container(pod: &Value, k: &Knobs, s: &Settings, native: bool) -> Value {
    let grace = pod["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap_or(GRACE);
    let mut vars = vec![
        field("WEFT_POD_NAME", "metadata.name"),
        field("WEFT_POD_NAMESPACE", "metadata.namespace"),
        field("WEFT_POD_UID", "metadata.uid"),
        field("WEFT_POD_IPS", "status.podIPs"),
        field("WEFT_SERVICE_ACCOUNT", "spec.serviceAccountName"),
        env("WEFT_TRUST_DOMAIN", &s.trust_domain),
        env("WEFT_CA", &s.ca),
        env("WEFT_CONTROLLER", &s.controller),
        env("WEFT_GRACE", grace.to_string()),
        env("WEFT_LOG", k.log_level.as_ref().unwrap_or(&s.sidecar.log_level)),
    ];
    for (name, value) in [("WEFT_ACCESS_LOG", &k.access_log), ("WEFT_AWAY", &k.away)] {
        if let Some(v) = value {
            vars.push(env(name, v));
        }
    }
    if let Some(n) = k.workers {
        vars.push(env("WEFT_WORKERS", n.to_string()));
    }
    let resources = s.sidecar.resources(k);
    let get = |path: &str| json!({"path": path, "port": ADMIN_PORT});
    let mut c = json!({
        "name": PROXY,
        "image": image(k, s),
        "imagePullPolicy": s.image_pull_policy,
        "command": ["/usr/local/bin/weft-proxy"],
        "args": ["sidecar"],
        "env": vars,
        "ports": [{"name": "weft-admin", "containerPort": ADMIN_PORT, "protocol": "TCP"}],
        "resources": resources,
        "readinessProbe": {"httpGet": get("/ready"), "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 3},
        "livenessProbe": {"httpGet": get("/live"), "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
        "securityContext": {
            "runAsUser": PROXY_UID, "runAsGroup": PROXY_UID, "runAsNonRoot": true,
            "allowPrivilegeEscalation": false, "privileged": false, "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": TOKEN_VOLUME, "mountPath": "/var/run/secrets/weft.dev/token", "readOnly": true},
            {"name": STATE_VOLUME, "mountPath": "/var/run/weft/state"},
        ],
        "lifecycle": {"preStop": {"exec": {"command": ["/usr/local/bin/weft-proxy", "drain"]}}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
    });
    if native {
        c["restartPolicy"] = json!("Always");
        // the application starts after it: a second of delay at most, and ten minutes of patience with a control plane that is away
        c["startupProbe"] =
            json!({"httpGet": get("/ready"), "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": 600});
    } else {
        // containers start one after the other, each after the hook of the one before
        c["lifecycle"]["postStart"] = json!({"exec": {"command": ["/usr/local/bin/weft-proxy", "wait"]}});
    }
    c
}

/// Only the proxy gets the token; the state is in memory, and small.
fn volumes() -> Vec<Value> {
    let token =
        json!({"serviceAccountToken": {"audience": "weft.dev", "expirationSeconds": TOKEN_SECONDS, "path": "token"}});
    vec![
        json!({"name": TOKEN_VOLUME, "projected": {"sources": [token]}}),
        json!({"name": STATE_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": "4Mi"}}),
    ]
}

/// Writes the trust bundle into a patch: separate from [`judge`], which is a function of the pod and the settings alone.
pub fn with_bundle(patch: &mut [Value], bundle: &str) {
    let is_proxy = |v: &Value| v["name"] == PROXY;
    let add = |c: &mut Value| {
        if let Some(vars) = c["env"].as_array_mut() {
            vars.push(env("WEFT_TRUST_BUNDLE", bundle));
        }
    };
    for op in patch {
        let Some(value) = op.get_mut("value") else { continue };
        if is_proxy(value) {
            add(value);
        } else if let Some(c) = value.as_array_mut().and_then(|l| l.iter_mut().find(|c| is_proxy(c))) {
            add(c);
        }
    }
}
