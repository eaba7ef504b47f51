//! What the mesh reads out of Kubernetes' own objects, said once: Services, Pods, EndpointSlices.

use crate::object::Name;
use k8s_openapi::{
    api::core::v1::{Pod, Probe as PodProbe, Service},
    apimachinery::pkg::util::intstr::IntOrString,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};
use weft_core::{
    policy::{GRPC_HEALTH, Probe},
    probe::{ADMIN_PORT, Forwarded},
    service::Protocol,
};

/// `weft.dev/inject: enabled` on a namespace or pod; `disabled` on a pod takes it out.
pub const INJECT_LABEL: &str = "weft.dev/inject";
/// Name of the sidecar's container.
pub const PROXY_CONTAINER: &str = "weft-proxy";
/// Ports of a pod that its capture leaves alone, separated by commas.
pub const EXCLUDE_INBOUND: &str = "weft.dev/exclude-inbound-ports";
/// Ports that a pod's calls go to without its sidecar, separated by commas.
pub const EXCLUDE_OUTBOUND: &str = "weft.dev/exclude-outbound-ports";
/// Kubernetes' default for `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_SECONDS: u64 = 10_800;

pub type Labels = BTreeMap<String, String>;

/// How a Service is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// It has an address of its own, or could have.
    Virtual,
    /// `clusterIP: None`: its name leads to pods, so nothing can attach to it.
    Headless,
    /// A DNS alias.
    ExternalName,
}

/// A TCP port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortFacts {
    pub name: Option<Arc<str>>,
    pub port: u16,
    pub target: TargetPort,
    pub node_port: Option<u16>,
    pub app_protocol: Option<Arc<str>>,
}
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    Number(u16),
    Name(Box<str>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    pub name: Name,
    pub kind: ServiceKind,
    pub ports: Vec<PortFacts>,
    /// ClusterIPs, external IPs and load-balancer IPs.
    pub ips: Vec<IpAddr>,
    /// Empty: endpoints come from slices that somebody else writes.
    pub selector: Labels,
    pub publish_not_ready: bool,
    pub affinity: Option<Duration>,
    /// `internalTrafficPolicy: Local`.
    pub local: bool,
    pub prefer_zone: bool,
    /// `trafficDistribution: PreferSameNode`: endpoints of the client's node where there are any.
    pub prefer_node: bool,
    /// Of the primary address: which of a pod's addresses is dialled.
    pub ipv6: bool,
    /// It has addresses of both families, and so have its endpoints.
    pub dual: bool,
}

fn port(n: i32) -> Option<u16> {
    u16::try_from(n).ok().filter(|p| *p > 0)
}

impl ServiceFacts {
    pub fn of(name: &Name, service: &Service) -> Self {
        let spec = service.spec.clone().unwrap_or_default();
        let kind = match (spec.type_.as_deref(), spec.cluster_ip.as_deref()) {
            (Some("ExternalName"), _) => ServiceKind::ExternalName,
            (_, Some("None")) => ServiceKind::Headless,
            _ => ServiceKind::Virtual,
        };
        let tcp = |p: &&k8s_openapi::api::core::v1::ServicePort| p.protocol.as_deref().unwrap_or("TCP") == "TCP";
        let ports = spec.ports.iter().flatten().filter(tcp).filter_map(|p| {
            let number = port(p.port)?;
            let target = match &p.target_port {
                None => TargetPort::Number(number),
                Some(IntOrString::Int(n)) => port(*n).map_or(TargetPort::Number(number), TargetPort::Number),
                Some(IntOrString::String(s)) => {
                    s.parse().map_or(TargetPort::Name(s.as_str().into()), TargetPort::Number)
                }
            };
            Some(PortFacts {
                name: p.name.as_deref().map(Into::into),
                port: number,
                target,
                node_port: p.node_port.and_then(port),
                app_protocol: p.app_protocol.as_deref().map(Into::into),
            })
        });
        let ports = ports.collect();
        let balancer =
            service.status.iter().flat_map(|s| s.load_balancer.iter()).flat_map(|l| l.ingress.iter().flatten());
        let mut ips: Vec<IpAddr> =
            (spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).chain(spec.external_ips.iter().flatten()))
                .chain(balancer.filter_map(|i| i.ip.as_ref()))
                .filter_map(|ip| ip.parse().ok())
                .collect();
        let ipv6 = match spec.ip_families.as_ref().and_then(|f| f.first()) {
            Some(family) => family == "IPv6",
            None => ips.first().is_some_and(IpAddr::is_ipv6),
        };
        let named = spec.ip_families.as_ref().map_or(0, Vec::len);
        let dual = named > 1 || (ips.iter().any(IpAddr::is_ipv6) && ips.iter().any(IpAddr::is_ipv4));
        ips.sort();
        ips.dedup();
        let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
            let seconds = spec.session_affinity_config.and_then(|c| c.client_ip).and_then(|c| c.timeout_seconds);
            Duration::from_secs(seconds.and_then(|s| s.try_into().ok()).unwrap_or(AFFINITY_SECONDS))
        });
        let distribution = spec.traffic_distribution.as_deref();
        Self {
            name: name.clone(),
            kind,
            ports,
            ips,
            selector: spec.selector.unwrap_or_default(),
            publish_not_ready: spec.publish_not_ready_addresses.unwrap_or_default(),
            affinity,
            local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            prefer_zone: matches!(distribution, Some("PreferClose" | "PreferSameZone" | "PreferSameNode")),
            prefer_node: distribution == Some("PreferSameNode"),
            ipv6,
            dual,
        }
    }
    /// Whether endpoints of a family are dialled for it.
    pub fn takes(&self, ipv6: bool) -> bool {
        self.dual || self.ips.is_empty() || ipv6 == self.ipv6
    }
    /// Whether its endpoints differ from node to node.
    pub fn by_node(&self) -> bool {
        self.local || self.prefer_node
    }
    pub fn port(&self, number: u16) -> Option<&PortFacts> {
        self.ports.iter().find(|p| p.port == number)
    }
}

/// What a port declares to be spoken on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declared {
    pub protocol: Protocol,
    /// The application is spoken to in HTTP/2.
    pub http2: bool,
    /// `appProtocol` says something that Weft does not know.
    pub unknown: bool,
}

impl PortFacts {
    /// `appProtocol` first, else the port's name up to the first `-`.
    pub fn declared(&self) -> Declared {
        let found = |protocol, http2| Declared { protocol, http2, unknown: false };
        let word = |w: &str| {
            Some(match w {
                "http" | "kubernetes.io/ws" | "ws" | "http1" => found(Protocol::Http, false),
                "kubernetes.io/h2c" | "h2c" | "http2" | "grpc" => found(Protocol::Http2, true),
                "https" | "tls" | "kubernetes.io/wss" | "wss" | "grpcs" => found(Protocol::Tls, false),
                "tcp" | "mysql" | "postgres" | "postgresql" | "redis" | "mongo" | "mongodb" | "amqp" | "kafka"
                | "smtp" | "ssh" | "ldap" | "nats" | "mqtt" | "memcached" | "cassandra" => {
                    found(Protocol::Opaque, false)
                }
                _ => return None,
            })
        };
        let nothing = found(Protocol::Detect, false);
        if let Some(declared) = &self.app_protocol {
            return word(&declared.to_lowercase()).unwrap_or(Declared { unknown: true, ..nothing });
        }
        let name = self.name.as_deref().unwrap_or_default();
        word(name.split('-').next().unwrap_or_default()).unwrap_or(nothing)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct PodFacts {
    pub name: Name,
    pub uid: Arc<str>,
    pub ips: Vec<IpAddr>,
    pub labels: Labels,
    pub service_account: Arc<str>,
    pub node: Option<Arc<str>>,
    pub zone: Option<Arc<str>>,
    pub host_network: bool,
    pub ready: bool,
    /// Finished, or not yet running.
    pub absent: bool,
    pub terminating: bool,
    /// What the pod's own label says of the mesh.
    pub inject: Option<bool>,
    /// It runs the sidecar's container.
    pub sidecar: bool,
    /// Ports that the sidecar does not take.
    pub excluded: BTreeSet<u16>,
    /// Ports of others that its calls reach without the sidecar.
    pub excluded_outbound: BTreeSet<u16>,
    /// Container ports by name.
    pub named_ports: BTreeMap<Box<str>, u16>,
    pub probes: Vec<Probe>,
}

impl PodFacts {
    pub fn of(name: &Name, pod: &Pod) -> Self {
        let (meta, spec, status) =
            (&pod.metadata, pod.spec.clone().unwrap_or_default(), pod.status.clone().unwrap_or_default());
        let ips = status.pod_ips.iter().flatten().map(|i| &i.ip).chain(&status.pod_ip).filter_map(|ip| ip.parse().ok());
        let mut unique = Vec::new();
        ips.for_each(|ip| {
            if !unique.contains(&ip) {
                unique.push(ip);
            }
        });
        let condition = |t: &str| status.conditions.iter().flatten().find(|c| c.type_ == t).map(|c| c.status == "True");
        let absent = matches!(status.phase.as_deref(), Some("Pending" | "Succeeded" | "Failed" | "Unknown"));
        let labels = meta.labels.clone().unwrap_or_default();
        let containers = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let sidecar = containers().any(|c| c.name == PROXY_CONTAINER);
        let named = containers()
            .flat_map(|c| c.ports.iter().flatten())
            .filter_map(|p| Some((p.name.as_deref()?.into(), port(p.container_port)?)));
        let named_ports: BTreeMap<Box<str>, u16> = named.collect();
        let probes = containers().flat_map(|c| [&c.liveness_probe, &c.readiness_probe, &c.startup_probe]).flatten();
        let mut probes: Vec<Probe> = probes.filter_map(|p| probe(p, &named_ports)).collect();
        probes.sort_by(|a, b| (a.port, &a.path).cmp(&(b.port, &b.path)));
        probes.dedup();
        let ports_of = |annotation: &str| -> BTreeSet<u16> {
            let text =
                meta.annotations.as_ref().and_then(|a| a.get(annotation)).map(String::as_str).unwrap_or_default();
            // a list that cannot be read is refused by the injector, so no rules were made of any part of it
            weft_init::lists::ports(text).unwrap_or_default()
        };
        Self {
            name: name.clone(),
            // a file may leave it out; a UID only has to be told from others, and to be a server name
            uid: meta.uid.as_deref().map_or_else(|| format!("{}.{}", name.name, name.namespace).into(), Into::into),
            ips: unique,
            service_account: spec.service_account_name.as_deref().filter(|s| !s.is_empty()).unwrap_or("default").into(),
            node: spec.node_name.as_deref().map(Into::into),
            zone: labels.get("topology.kubernetes.io/zone").map(|z| z.as_str().into()),
            host_network: spec.host_network.unwrap_or_default(),
            ready: condition("Ready").unwrap_or(!absent),
            absent,
            terminating: meta.deletion_timestamp.is_some(),
            inject: labels.get(INJECT_LABEL).map(|v| v == "enabled"),
            sidecar,
            labels,
            excluded: ports_of(EXCLUDE_INBOUND),
            excluded_outbound: ports_of(EXCLUDE_OUTBOUND),
            named_ports,
            probes,
        }
    }
    /// The address of a family.
    pub fn ip_of(&self, ipv6: bool) -> Option<IpAddr> {
        self.ips.iter().find(|ip| ip.is_ipv6() == ipv6).copied()
    }
    /// The address of a family, or the first.
    pub fn ip(&self, ipv6: bool) -> Option<IpAddr> {
        self.ips.iter().find(|ip| ip.is_ipv6() == ipv6).or(self.ips.first()).copied()
    }
    pub fn target_port(&self, target: &TargetPort) -> Option<u16> {
        match target {
            TargetPort::Number(n) => Some(*n),
            TargetPort::Name(name) => self.named_ports.get(name).copied(),
        }
    }
}

/// Whether a selector (not empty) picks these labels.
pub fn selects(selector: &Labels, labels: &Labels) -> bool {
    !selector.is_empty() && selector.iter().all(|(k, v)| labels.get(k) == Some(v))
}

/// `matchLabels` and `matchExpressions`; an empty selector picks everything.
pub fn label_selector_picks(selector: &weft_api::LabelSelector, labels: &Labels) -> bool {
    let all = selector.match_labels.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    all && selector.match_expressions.iter().flatten().all(|e| {
        let (value, values) = (labels.get(&e.key), e.values.as_deref().unwrap_or_default());
        match e.operator.as_str() {
            "In" => value.is_some_and(|v| values.contains(v)),
            "NotIn" => value.is_none_or(|v| !values.contains(v)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    })
}

/// What the kubelet asks of a pod from outside.
fn probe(p: &PodProbe, named: &BTreeMap<Box<str>, u16>) -> Option<Probe> {
    let number = |p: &IntOrString| match p {
        IntOrString::Int(n) => port(*n),
        IntOrString::String(s) => named.get(s.as_str()).copied().or_else(|| s.parse().ok()),
    };
    if let Some(http) = &p.http_get {
        let (port, path) = (number(&http.port)?, http.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/"));
        // the injector sent it to the sidecar, which asks the application only what it is told here; the sidecar's own probes are no business of the application
        return match port == ADMIN_PORT {
            true => Forwarded::parse(path).map(|f| f.probe()),
            false => Some(Probe { port, path: Some(path.into()) }),
        };
    }
    if let Some(tcp) = &p.tcp_socket {
        return Some(Probe { port: number(&tcp.port)?, path: None });
    }
    // the kubelet calls the standard health service
    let grpc = p.grpc.as_ref()?;
    Some(Probe { port: port(grpc.port)?, path: Some(GRPC_HEALTH.into()) })
}
