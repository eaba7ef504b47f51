//! From the index to core's values: pure functions of what the index holds. Memoised in [`crate::world`].

use crate::{
    attach::{self, View},
    convert::{self, Context, Problem, RuleSource, TrafficSettings, convert_rules, convert_stream},
    facts::{PodFacts, PortFacts, ServiceFacts, label_selector_picks, selects},
    index::Index,
    object::{Kind, Name, Object, ObjectKey, Stored},
};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};
use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use weft_api::weft::MeshTLSMode;
use weft_core::{
    endpoint::{Endpoint, Endpoints, MeshPeer},
    policy::{InboundPolicy, MeshTlsMode},
    route::{HttpTable, RouteKind, RouteRef, Routes, Rule, StreamRule},
    service::{Protocol, ServicePort, ServiceRef, Target},
};

/// A route as converted for one Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compiled {
    pub rules: Vec<Arc<Rule>>,
    pub stream: Vec<StreamRule>,
    pub problems: Vec<Problem>,
}
impl Compiled {
    pub fn is_usable(&self) -> bool {
        !self.rules.is_empty() || !self.stream.is_empty()
    }
}

pub fn route_ref(key: &ObjectKey, stored: &Stored) -> Option<Arc<RouteRef>> {
    let kind = match key.kind {
        Kind::HTTPRoute => RouteKind::Http,
        Kind::GRPCRoute => RouteKind::Grpc,
        Kind::TLSRoute => RouteKind::Tls,
        Kind::TCPRoute => RouteKind::Tcp,
        _ => return None,
    };
    let (namespace, name) = (key.name.namespace.clone(), key.name.name.clone());
    Some(Arc::new(RouteRef { kind, namespace, name, created: stored.object.created() }))
}

/// A route as it applies to a Service's clients.
pub fn route(index: &Index, key: &ObjectKey, stored: &Stored, service: &Name, port: Option<&PortFacts>) -> Compiled {
    let Some(route) = route_ref(key, stored) else { return Compiled::default() };
    let mut cx = Context { index, route, parent_namespace: service.namespace.clone(), problems: Vec::new() };
    let settings = TrafficSettings::of(index, key, service, port.and_then(|p| p.name.as_deref()));
    let mut out = Compiled::default();
    match &stored.object {
        Object::HTTPRoute(r) => {
            out.rules = convert_rules(&mut cx, &RuleSource::Http(r), &settings).into_iter().map(Arc::new).collect()
        }
        Object::GRPCRoute(r) => {
            out.rules = convert_rules(&mut cx, &RuleSource::Grpc(r), &settings).into_iter().map(Arc::new).collect()
        }
        Object::TLSRoute(r) => out.stream = convert_stream(&mut cx, &r.spec.hostnames, &r.spec.rules),
        Object::TCPRoute(r) => out.stream = convert_stream(&mut cx, &[], &r.spec.rules),
        _ => {}
    }
    out.problems = cx.problems;
    out
}

/// What an address means to a client.
pub fn lookup(index: &Index, address: SocketAddr) -> Target {
    let ip = address.ip().to_canonical();
    let port = address.port();
    let service = |name: &Name, port| {
        Target::Service(ServiceRef { namespace: name.namespace.clone(), name: name.name.clone(), port })
    };
    for s in index.services_by_ip(ip) {
        if s.port(port).is_some() {
            return service(&s.name, port);
        }
    }
    if let Some((name, port)) = index.node_port(ip, port) {
        return service(name, *port);
    }
    match index.pod_by_ip(ip) {
        Some(pod) => Target::Workload(Arc::new(endpoint(index, pod, SocketAddr::new(ip, port)))),
        None => Target::Outside,
    }
}

/// An address of a pod, with who must answer there.
fn endpoint(index: &Index, pod: &PodFacts, address: SocketAddr) -> Endpoint {
    // the sidecar's own server speaks plain HTTP: Prometheus and the kubelet ask it
    let plain = address.port() == weft_core::probe::ADMIN_PORT || pod.excluded.contains(&address.port());
    let meshed = index.meshed(pod) && !plain;
    let peer = || Some(MeshPeer { uid: pod.uid.clone(), identity: index.identity(pod)? });
    Endpoint {
        address,
        mesh: if meshed { peer() } else { None },
        zone: index.zone(pod),
        terminating: pod.terminating,
        workload: pod.name.name.clone(),
    }
}

/// A Service port as the clients of a view see it. `compiled` gives the conversions (a memo, or [`route`] itself).
pub fn service_port(
    index: &Index,
    service: &ServiceRef,
    view: &View,
    compiled: &dyn Fn(&ObjectKey, &Stored) -> Arc<Compiled>,
) -> Option<ServicePort> {
    let name = Name { namespace: service.namespace.clone(), name: service.name.clone() };
    let (facts, port) = attach::facts(index, &name, service.port)?;
    let usable = |k: &ObjectKey, s: &Stored| compiled(k, s).is_usable();
    let group = attach::group(index, &name, service.port, view, usable);
    let declared = port.declared();
    let (mut rules, mut stream) = (Vec::new(), Vec::new());
    for key in &group.routes {
        let Some(stored) = index.get(key) else { continue };
        let c = compiled(key, stored);
        rules.extend(c.rules.iter().cloned());
        stream.extend(c.stream.iter().cloned());
    }
    let kind = group.routes.first().map(|k| k.kind);
    let (protocol, routes) = match kind {
        None => (declared.protocol, Routes::None),
        Some(Kind::GRPCRoute) => (Protocol::Http2, Routes::Http(Arc::new(HttpTable::from(rules)))),
        // which version the application speaks stays declared
        Some(Kind::HTTPRoute) if declared.http2 => (Protocol::Http2, Routes::Http(Arc::new(HttpTable::from(rules)))),
        Some(Kind::HTTPRoute) => (Protocol::Http, Routes::Http(Arc::new(HttpTable::from(rules)))),
        Some(Kind::TLSRoute) => (Protocol::Tls, Routes::Stream(Arc::new(stream))),
        Some(_) => (Protocol::Opaque, Routes::Stream(Arc::new(stream))),
    };
    let addresses = facts.ips.iter().map(|ip| SocketAddr::new(*ip, service.port)).collect();
    let requests = convert::policy::requests(index, &name, port.name.as_deref());
    Some(ServicePort { service: service.clone(), protocol, routes, affinity: facts.affinity, addresses, requests })
}

/// The endpoints of a Service port, of both families where the Service has both. `node`: of a client there, for Services that keep traffic on the node or prefer it.
pub fn endpoints(index: &Index, service: &ServiceRef, node: Option<&str>) -> Option<Endpoints> {
    let name = Name { namespace: service.namespace.clone(), name: service.name.clone() };
    let (facts, port) = attach::facts(index, &name, service.port)?;
    // by address, so that the order is always the same
    let mut found: BTreeMap<SocketAddr, Arc<Endpoint>> = BTreeMap::new();
    let not_ready = Cell::new(0);
    let mut sliced = index.slices(&name).peekable();
    let mut near = BTreeSet::new();
    let mut take = |e: Endpoint, ready: bool, on: Option<&str>| {
        let here = node.is_some() && on == node;
        if facts.local && !here {
            return;
        }
        if ready || facts.publish_not_ready {
            if here && !e.terminating {
                near.insert(e.address);
            }
            found.insert(e.address, Arc::new(e));
        } else if !facts.dual || e.address.is_ipv6() == facts.ipv6 {
            // a pod of both families counts once
            not_ready.set(not_ready.get() + 1);
        }
    };
    if sliced.peek().is_some() {
        for stored in sliced {
            if let Object::EndpointSlice(slice) = &stored.object {
                from_slice(index, facts, port, slice, &mut take);
            }
        }
    } else if !facts.selector.is_empty() {
        for pod in index.pods_of(&name.namespace).filter(|p| selects(&facts.selector, &p.labels)) {
            let ips = match facts.dual {
                true => [pod.ip_of(false), pod.ip_of(true)],
                false => [pod.ip(facts.ipv6), None],
            };
            let number = pod.target_port(&port.target).filter(|_| ips.iter().any(Option::is_some));
            let Some(number) = number else {
                not_ready.set(not_ready.get() + u32::from(!pod.absent));
                continue;
            };
            for ip in ips.into_iter().flatten() {
                let e = endpoint(index, pod, SocketAddr::new(ip, number));
                take(e, pod.ready && !pod.absent, pod.node.as_deref());
            }
        }
    }
    if facts.prefer_node {
        // as kube-proxy: the node's own, if it has any of the family
        for ipv6 in [false, true] {
            if near.iter().any(|a: &SocketAddr| a.is_ipv6() == ipv6) {
                found.retain(|a, _| a.is_ipv6() != ipv6 || near.contains(a));
            }
        }
    }
    Some(Endpoints {
        service: service.clone(),
        endpoints: found.into_values().collect(),
        not_ready: not_ready.get(),
        http2: port.declared().http2,
        prefer_zone: facts.prefer_zone,
        policy: convert::policy::backend(index, &name, port.name.as_deref(), facts.affinity),
    })
}

fn from_slice(
    index: &Index,
    facts: &ServiceFacts,
    port: &PortFacts,
    slice: &EndpointSlice,
    take: &mut dyn FnMut(Endpoint, bool, Option<&str>),
) {
    // a slice's port has the name of the Service's port, and none if that has none
    let named = |p: &&k8s_openapi::api::discovery::v1::EndpointPort| {
        p.name.as_deref().unwrap_or_default() == port.name.as_deref().unwrap_or_default()
    };
    let number = slice.ports.iter().flatten().find(named).and_then(|p| p.port).and_then(|p| u16::try_from(p).ok());
    let Some(number) = number else { return };
    let six = slice.address_type == "IPv6";
    if !facts.takes(six) && slice.address_type != "FQDN" {
        return;
    }
    for e in &slice.endpoints {
        let Some(ip) = e.addresses.first().and_then(|a| a.parse::<IpAddr>().ok()) else { continue };
        let address = SocketAddr::new(ip, number);
        let c = e.conditions.clone().unwrap_or_default();
        let terminating = c.terminating.unwrap_or_default();
        // unknown is ready (EndpointConditions); while terminating it is serving that counts
        let ready = if terminating { c.serving.unwrap_or_default() } else { c.ready.unwrap_or(true) };
        let mut out = match pod_of(index, slice, e, ip) {
            Some(pod) => endpoint(index, pod, address),
            None => Endpoint { address, mesh: None, zone: None, terminating, workload: ip.to_string().into() },
        };
        out.terminating = terminating;
        out.zone = e.zone.as_deref().map(Into::into).or(out.zone);
        take(out, ready, e.node_name.as_deref());
    }
}

fn pod_of<'i>(index: &'i Index, slice: &EndpointSlice, e: &SliceEndpoint, ip: IpAddr) -> Option<&'i Arc<PodFacts>> {
    let target = e.target_ref.as_ref().filter(|t| t.kind.as_deref() == Some("Pod"));
    let named = target.and_then(|t| {
        let namespace = t.namespace.as_deref().or(slice.metadata.namespace.as_deref()).unwrap_or_default();
        index.pod(&Name::new(namespace, t.name.as_deref()?))
    });
    named.or_else(|| index.pod_by_ip(ip))
}

/// Which policy decides about a pod's plain text, and what it says. The workload's own wins over its service account's, that over the
/// namespace's, that over the mesh's; of several for the same target the older one.
pub fn mesh_tls<'i>(index: &'i Index, pod: &PodFacts) -> (MeshTlsMode, Option<&'i Stored>) {
    let mut best: Option<((u8, i64, ObjectKey), &Stored, MeshTlsMode)> = None;
    let namespaces = [&pod.name.namespace, &index.mesh.system_namespace];
    let own = pod.name.namespace == index.mesh.system_namespace;
    for namespace in &namespaces[..if own { 1 } else { 2 }] {
        for stored in index.of_kind_in(Kind::MeshTLSPolicy, namespace) {
            let Object::MeshTLSPolicy(p) = &stored.object else { continue };
            let mode = match p.spec.mode {
                MeshTLSMode::Permissive => MeshTlsMode::Permissive,
                // a mode that is not known is not one that may let plain text in
                MeshTLSMode::Strict | MeshTLSMode::Unknown(_) => MeshTlsMode::Strict,
            };
            let here = **namespace == pod.name.namespace;
            let level = p.spec.target_refs.iter().filter_map(|t| workload_level(index, t, pod, here, namespace)).min();
            if let Some(level) = level {
                let rank = (level, stored.object.created(), stored.object.key());
                if best.as_ref().is_none_or(|(r, ..)| rank < *r) {
                    best = Some((rank, stored, mode));
                }
            }
        }
    }
    best.map_or((MeshTlsMode::default(), None), |(_, stored, mode)| (mode, Some(stored)))
}

/// How near a target among workloads is to a pod that it picks: 0 the pod itself, 3 the mesh. `here`: the policy is in the pod's namespace.
pub fn workload_level(
    index: &Index,
    t: &weft_api::weft::WorkloadTargetReference,
    pod: &PodFacts,
    here: bool,
    namespace: &str,
) -> Option<u8> {
    let named = |name: &str| t.name.as_deref() == Some(name);
    match (t.group.as_str(), t.kind.as_str()) {
        ("", "Pod") if here => {
            let picked = t.selector.as_ref().is_some_and(|s| label_selector_picks(s, &pod.labels));
            (named(&pod.name.name) || picked).then_some(0)
        }
        ("", "ServiceAccount") if here => named(&pod.service_account).then_some(1),
        ("", "Namespace") if here => named(&pod.name.namespace).then_some(2),
        (weft_api::EXPERIMENTAL_GROUP, "XMesh") if *namespace == *index.mesh.system_namespace => {
            named(&index.mesh.name).then_some(3)
        }
        _ => None,
    }
}

/// What a pod's own proxy must know.
pub fn inbound(index: &Index, pod: &PodFacts) -> InboundPolicy {
    InboundPolicy {
        tls: mesh_tls(index, pod).0,
        probes: pod.probes.clone(),
        authorization: convert::authorization::authorization(index, pod),
    }
}
