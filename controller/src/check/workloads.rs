//! Pods and what makes them: membership, probes, addresses, network policies.

use super::Check;
use crate::{
    compile,
    facts::{
        EXCLUDE_INBOUND, EXCLUDE_OUTBOUND, INJECT_LABEL, Labels, PROXY_CONTAINER, ServiceFacts, TargetPort,
        label_selector_picks, selects,
    },
    finding::Severity::{Error, Info, Warning},
    object::{Kind, Name, Object, Stored},
    source::suggest,
};
use k8s_openapi::{
    api::{
        core::v1::{PodSpec, Probe},
        networking::v1::NetworkPolicy,
    },
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use std::{collections::BTreeMap, sync::Arc};
use weft_core::policy::MeshTlsMode;

/// The user that sidecars run as, whose traffic capture leaves alone.
const PROXY_UID: i64 = 2102;
/// Where proxies reach the CA and the controller.
const CONTROL_PORTS: [i32; 2] = [15010, 15012];

/// A pod, or the template of a workload.
pub(crate) struct Template<'i> {
    pub stored: &'i Stored,
    pub namespace: Arc<str>,
    pub labels: Labels,
    pub annotations: Labels,
    pub spec: PodSpec,
    /// Where the pod's own fields begin: `""` or `spec.template.`.
    pub at: &'static str,
}
impl Template<'_> {
    pub(crate) fn selected_by(&self, service: &ServiceFacts) -> bool {
        self.namespace == service.name.namespace && selects(&service.selector, &self.labels)
    }
    pub(super) fn account(&self) -> &str {
        self.spec.service_account_name.as_deref().filter(|s| !s.is_empty()).unwrap_or("default")
    }
    pub(super) fn has_port(&self, name: &str) -> bool {
        let containers = self.spec.containers.iter().chain(self.spec.init_containers.iter().flatten());
        containers.flat_map(|c| c.ports.iter().flatten()).any(|p| p.name.as_deref() == Some(name))
    }
}

pub(crate) fn template(stored: &Stored) -> Option<Template<'_>> {
    let made = |meta: Option<&ObjectMeta>, spec: Option<&PodSpec>, at| {
        Some(Template {
            stored,
            namespace: stored.object.key().name.namespace,
            labels: meta.and_then(|m| m.labels.clone()).unwrap_or_default(),
            annotations: meta.and_then(|m| m.annotations.clone()).unwrap_or_default(),
            spec: spec.cloned().unwrap_or_default(),
            at,
        })
    };
    match &stored.object {
        Object::Pod(p) => made(Some(&p.metadata), p.spec.as_ref(), ""),
        Object::Deployment(d) => {
            let t = &d.spec.as_ref()?.template;
            made(t.metadata.as_ref(), t.spec.as_ref(), "spec.template.")
        }
        Object::StatefulSet(d) => {
            let t = &d.spec.as_ref()?.template;
            made(t.metadata.as_ref(), t.spec.as_ref(), "spec.template.")
        }
        Object::DaemonSet(d) => {
            let t = &d.spec.as_ref()?.template;
            made(t.metadata.as_ref(), t.spec.as_ref(), "spec.template.")
        }
        _ => None,
    }
}

/// Whether a Service selects anything that runs or would run.
pub(super) fn selected(templates: &[Template<'_>], service: &ServiceFacts) -> bool {
    templates.iter().any(|t| t.selected_by(service))
}

impl Check<'_> {
    pub(super) fn workloads(&mut self) {
        for (key, stored) in self.objects() {
            self.labels(key.kind, stored);
            if let Some(t) = template(stored) {
                self.pod(&t);
            }
            if let Object::NetworkPolicy(p) = &stored.object {
                self.network_policy(stored, p);
            }
        }
        self.same_addresses();
    }

    /// The injection label where it has no effect, and values that mean nothing.
    fn labels(&mut self, kind: Kind, stored: &Stored) {
        let meta = stored.object.metadata();
        let label = meta.labels.as_ref().and_then(|l| l.get(INJECT_LABEL));
        if let Some(value) = label {
            let field = "metadata.labels";
            match kind {
                Kind::Namespace | Kind::Pod => {
                    if value != "enabled" && value != "disabled" {
                        self.say(
                            Error,
                            "label-value",
                            stored,
                            field,
                            format!("{INJECT_LABEL}: {value} means nothing"),
                            "enabled or disabled",
                        );
                    }
                }
                Kind::Deployment | Kind::StatefulSet | Kind::DaemonSet => {
                    let message = format!("{INJECT_LABEL} stands on the {kind}, where it has no effect");
                    self.say(
                        Error,
                        "label-misplaced",
                        stored,
                        field,
                        message,
                        "move it to spec.template.metadata.labels, or to the namespace",
                    );
                }
                _ => {
                    let message = format!("{INJECT_LABEL} has no effect on a {kind}");
                    self.say(Error, "label-misplaced", stored, field, message, "label the namespace, or the pods");
                }
            }
        }
        if meta.annotations.as_ref().is_some_and(|a| a.contains_key(INJECT_LABEL)) {
            self.say(
                Error,
                "label-misplaced",
                stored,
                "metadata.annotations",
                format!("{INJECT_LABEL} is a label, not an annotation"),
                "move it to metadata.labels",
            );
        }
        for found in
            meta.labels.iter().flatten().map(|(k, _)| k).filter(|k| k.starts_with("weft.dev/") && *k != INJECT_LABEL)
        {
            if suggest::nearest(found, [INJECT_LABEL]).is_some() {
                self.say(
                    Error,
                    "label-misplaced",
                    stored,
                    "metadata.labels",
                    format!("{found} has no effect"),
                    format!("did you mean {INJECT_LABEL}?"),
                );
            }
        }
    }

    /// Whether a pod of this template is, or would be, in the mesh.
    fn meshed(&self, t: &Template<'_>) -> bool {
        let own = t.labels.get(INJECT_LABEL).map(|v| v == "enabled");
        own.unwrap_or_else(|| self.index.namespace_meshed(&t.namespace))
    }

    fn pod(&mut self, t: &Template<'_>) {
        let (stored, at, meshed) = (t.stored, t.at, self.meshed(t));
        if t.at.starts_with("spec")
            && let Some(value) = t.labels.get(INJECT_LABEL).filter(|v| *v != "enabled" && *v != "disabled")
        {
            self.say(
                Error,
                "label-value",
                stored,
                &format!("{at}metadata.labels"),
                format!("{INJECT_LABEL}: {value} means nothing"),
                "enabled or disabled",
            );
        }
        if !meshed {
            return;
        }
        if t.spec.host_network == Some(true) {
            let message = "uses the network of its node, so it gets no sidecar: it is outside the mesh";
            self.say(
                Warning,
                "host-network",
                stored,
                &format!("{at}spec.hostNetwork"),
                message,
                "remove hostNetwork, or label the pod weft.dev/inject: disabled",
            );
        }
        self.users(t);
        self.listens_locally(t);
        self.excluded(t);
        self.probes(t);
        // a pod that was read from a cluster and was made before its namespace was labelled
        let sidecar = |c: &k8s_openapi::api::core::v1::Container| c.name == PROXY_CONTAINER;
        let has = t.spec.containers.iter().chain(t.spec.init_containers.iter().flatten()).any(sidecar);
        if stored.object.kind() == Kind::Pod
            && stored.object.metadata().creation_timestamp.is_some()
            && !has
            && t.spec.host_network != Some(true)
        {
            let message = "its namespace or label asks for a sidecar, but it has none: it was made before that";
            self.say(
                Warning,
                "pod-not-restarted",
                stored,
                "metadata.name",
                message,
                "restart its workload: kubectl rollout restart",
            );
        }
    }

    fn users(&mut self, t: &Template<'_>) {
        let at = t.at;
        let pod = t.spec.security_context.as_ref().and_then(|s| s.run_as_user);
        let fix = "another user: this one's traffic is not captured, since it is the sidecar's own";
        if pod == Some(PROXY_UID) {
            self.say(
                Error,
                "proxy-uid",
                t.stored,
                &format!("{at}spec.securityContext.runAsUser"),
                format!("{PROXY_UID} is the sidecar's user"),
                fix,
            );
        }
        for (i, c) in t.spec.containers.iter().enumerate().filter(|(_, c)| c.name != PROXY_CONTAINER) {
            if c.security_context.as_ref().and_then(|s| s.run_as_user) == Some(PROXY_UID) {
                let field = format!("{at}spec.containers[{i}].securityContext.runAsUser");
                self.say(Error, "proxy-uid", t.stored, &field, format!("{PROXY_UID} is the sidecar's user"), fix);
            }
        }
    }

    /// The sidecar reaches the application at the pod's address: one that listens on 127.0.0.1 only is not reached.
    fn listens_locally(&mut self, t: &Template<'_>) {
        for (i, c) in t.spec.containers.iter().enumerate() {
            let ports: Vec<i32> = c.ports.iter().flatten().map(|p| p.container_port).collect();
            let words = c.command.iter().flatten().chain(c.args.iter().flatten()).map(|w| ("args", w.as_str()));
            let env = c.env.iter().flatten().filter_map(|e| Some(("env", e.value.as_deref()?)));
            for (list, word) in words.chain(env) {
                let local = ["127.0.0.1:", "localhost:", "[::1]:"].into_iter().find_map(|l| {
                    let rest = word.split(l).nth(1)?;
                    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<i32>().ok()
                });
                if let Some(port) = local.filter(|p| ports.contains(p)) {
                    let message = format!(
                        "{word:?} listens on the loopback address only: the sidecar, like every client, comes to the pod's own address"
                    );
                    self.say(
                        Warning,
                        "binds-localhost",
                        t.stored,
                        &format!("{}spec.containers[{i}].{list}", t.at),
                        message,
                        format!("listen on 0.0.0.0:{port} or [::]:{port}"),
                    );
                }
            }
        }
    }

    /// Ports that capture leaves alone although routes are meant for them.
    fn excluded(&mut self, t: &Template<'_>) {
        let field = format!("{}metadata.annotations", t.at);
        let mut list = |name: &str| {
            let value = t.annotations.get(name).map(String::as_str).unwrap_or_default();
            weft_init::lists::ports(value).unwrap_or_else(|e| {
                let fix = "port numbers and ranges, separated by commas";
                self.say(Error, "annotation-value", t.stored, &field, format!("{name}: {e}"), fix);
                Default::default()
            })
        };
        let (inbound, outbound) = (list(EXCLUDE_INBOUND), list(EXCLUDE_OUTBOUND));
        let services: Vec<_> = self.index.services().cloned().collect();
        for port in inbound {
            let hit = services
                .iter()
                .filter(|s| s.name.namespace == t.namespace && selects(&s.selector, &t.labels))
                .find_map(|s| {
                    let p = s
                        .ports
                        .iter()
                        .find(|p| p.target == TargetPort::Number(port) && self.is_routed(&s.name, p.port))?;
                    Some(format!("{}:{}", s.name, p.port))
                });
            if let Some(service) = hit {
                let message = format!(
                    "{EXCLUDE_INBOUND} takes {port} out of the mesh, but {service}, which has routes, leads there: that traffic is plain text"
                );
                self.say(Warning, "port-excluded", t.stored, &field, message, "remove the port from the annotation");
            }
        }
        for port in outbound {
            let mut hits: Vec<String> = services
                .iter()
                .filter(|s| s.port(port).is_some() && self.is_routed(&s.name, port))
                .map(|s| format!("{}:{port}", s.name))
                .collect();
            hits.sort();
            if !hits.is_empty() {
                let message = format!(
                    "{EXCLUDE_OUTBOUND} takes calls to port {port} out of the mesh: the routes of {} do not apply to this pod",
                    hits.join(", ")
                );
                self.say(Warning, "port-excluded", t.stored, &field, message, "remove the port from the annotation");
            }
        }
    }

    fn probes(&mut self, t: &Template<'_>) {
        let strict = match self.index.pod(&t.stored.object.key().name).filter(|_| t.at.is_empty()) {
            Some(pod) => compile::mesh_tls(self.index, pod).0 == MeshTlsMode::Strict,
            None => false,
        };
        for (i, c) in t.spec.containers.iter().enumerate() {
            let all = [
                ("livenessProbe", &c.liveness_probe),
                ("readinessProbe", &c.readiness_probe),
                ("startupProbe", &c.startup_probe),
            ];
            for (name, probe) in all.into_iter().filter_map(|(n, p)| Some((n, p.as_ref()?))) {
                let field = format!("{}spec.containers[{i}].{name}", t.at);
                if let Some(port) = named_port(probe).filter(|p| !t.has_port(p)) {
                    self.say(
                        Error,
                        "probe-port",
                        t.stored,
                        &field,
                        format!("no container has a port named {port}"),
                        "name the containerPort, or write its number",
                    );
                }
                let https = probe.http_get.as_ref().is_some_and(|h| h.scheme.as_deref() == Some("HTTPS"));
                if strict && https {
                    let message = "is HTTPS, and the workload is strict: the application's own TLS from outside the mesh is refused, so the probe fails";
                    self.say(
                        Error,
                        "probe-strict",
                        t.stored,
                        &field,
                        message,
                        "scheme: HTTP, a tcpSocket or an exec probe, or a permissive policy",
                    );
                }
            }
        }
    }

    /// The mesh needs nothing of a NetworkPolicy but the way to its control plane.
    fn network_policy(&mut self, stored: &Stored, p: &NetworkPolicy) {
        let Some(spec) = &p.spec else { return };
        let egress = spec.policy_types.as_ref().map_or(spec.egress.is_some(), |t| t.iter().any(|t| t == "Egress"));
        let namespace = stored.object.key().name.namespace;
        let picks = |labels: &Labels| spec.pod_selector.as_ref().is_none_or(|s| label_selector_picks(s, labels));
        let templates = self.pod_templates();
        let hit = templates.iter().find(|t| t.namespace == namespace && picks(&t.labels) && self.meshed(t));
        let Some(hit) = hit.filter(|_| egress).map(|t| t.stored.object.key()) else { return };
        // another policy may open the way for the same pods
        let policies = self.index.of_kind_in(Kind::NetworkPolicy, &namespace).filter_map(|s| match &s.object {
            Object::NetworkPolicy(p) => p.spec.as_ref(),
            _ => None,
        });
        let rules: Vec<_> = policies.flat_map(|s| s.egress.iter().flatten()).collect();
        let open = |port: i32| {
            rules.iter().any(|r| {
                r.ports.as_ref().is_none_or(|ports| {
                    ports.is_empty()
                        || ports.iter().any(|p| match (&p.port, p.end_port) {
                            (None, _) => true,
                            (Some(IntOrString::Int(low)), high) => (*low..=high.unwrap_or(*low)).contains(&port),
                            (Some(IntOrString::String(_)), _) => false,
                        })
                })
            })
        };
        let shut: Vec<String> = CONTROL_PORTS.iter().filter(|p| !open(**p)).map(ToString::to_string).collect();
        if !shut.is_empty() {
            let message = format!("keeps {hit} from the mesh's control plane (TCP {})", shut.join(" and "));
            let fix = format!(
                "add an egress rule for TCP {} to namespace {}",
                shut.join(" and "),
                self.index.mesh.system_namespace
            );
            self.say(Warning, "network-policy", stored, "spec.egress", message, fix);
        }
    }

    fn same_addresses(&mut self) {
        let mut by_ip: BTreeMap<std::net::IpAddr, Vec<Name>> = BTreeMap::new();
        for pod in self.index.pods().filter(|p| !p.host_network && !p.absent && !p.terminating) {
            pod.ips.iter().for_each(|ip| by_ip.entry(*ip).or_default().push(pod.name.clone()));
        }
        for (ip, mut names) in by_ip.into_iter().filter(|(_, n)| n.len() > 1) {
            names.sort();
            for name in &names[1..] {
                if let Some(stored) = self.index.get(&crate::object::ObjectKey { kind: Kind::Pod, name: name.clone() })
                {
                    self.say(
                        Error,
                        "pod-ip-twice",
                        stored,
                        "status.podIP",
                        format!("{ip} belongs to Pod {}, too", names[0]),
                        "give each pod an address of its own",
                    );
                }
            }
        }
        let mut by_uid: BTreeMap<Arc<str>, Vec<Name>> = BTreeMap::new();
        self.index.pods().for_each(|p| by_uid.entry(p.uid.clone()).or_default().push(p.name.clone()));
        for (uid, mut names) in by_uid.into_iter().filter(|(_, n)| n.len() > 1) {
            names.sort();
            for name in &names[1..] {
                let key = crate::object::ObjectKey { kind: Kind::Pod, name: name.clone() };
                if let Some(stored) = self.index.get(&key) {
                    let message = format!("{uid} belongs to Pod {}, too: proxies are told apart by it", names[0]);
                    self.say(Error, "pod-uid-twice", stored, "metadata.uid", message, "give each pod a UID of its own");
                }
            }
        }
        for pod in self.index.pods() {
            let Some(stored) = self.index.get(&crate::object::ObjectKey { kind: Kind::Pod, name: pod.name.clone() })
            else {
                continue;
            };
            if pod.ips.is_empty() && !pod.absent {
                self.found.push(crate::finding::Finding::at(
                    Info,
                    "pod-without-address",
                    stored,
                    "status.podIP",
                    "is missing: no traffic can reach the pod",
                    "add the address",
                ));
            }
        }
    }
}

fn named_port(p: &Probe) -> Option<&str> {
    let port = p.http_get.as_ref().map(|h| &h.port).or(p.tcp_socket.as_ref().map(|t| &t.port))?;
    match port {
        IntOrString::String(s) if s.parse::<u16>().is_err() => Some(s),
        _ => None,
    }
}
