//! Every object that matters, by what it is asked for, and what an update touched.
//!
//! Plain maps, changed in one place ([`Index::apply`]) and read by pure functions. An update answers with what it may have changed for
//! proxies ([`Touched`]): too much costs a comparison, too little leaves proxies behind.

use crate::{
    facts::{INJECT_LABEL, Labels, PodFacts, ServiceFacts, selects},
    object::{Kind, Name, Object, ObjectKey, Stored},
    refs,
    source::Update,
};
use ahash::{HashMap, HashSet};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};
use weft_core::identity::WorkloadIdentity;

/// What holds for the whole mesh.
#[derive(Clone, Debug)]
pub struct Mesh {
    pub trust_domain: Arc<str>,
    /// Where policies for the whole mesh live.
    pub system_namespace: Arc<str>,
    /// Name of the mesh resource.
    pub name: Arc<str>,
    pub members: Members,
}
/// How a pod is known to be in the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Members {
    /// By its label or its namespace's: files say what shall be.
    #[default]
    Labelled,
    /// By its sidecar: a cluster says what is, and a pod from before the label has none.
    WithSidecar,
}
impl Default for Mesh {
    fn default() -> Self {
        Self {
            trust_domain: "cluster.local".into(),
            system_namespace: weft_identity::SYSTEM_NAMESPACE.into(),
            name: "weft".into(),
            members: Members::default(),
        }
    }
}

#[derive(Default)]
pub struct Index {
    pub mesh: Mesh,
    objects: HashMap<ObjectKey, Stored>,
    services: HashMap<Name, Arc<ServiceFacts>>,
    services_in: HashMap<Arc<str>, BTreeSet<Name>>,
    service_by_ip: HashMap<IpAddr, BTreeSet<Name>>,
    node_ports: HashMap<u16, BTreeSet<(Name, u16)>>,
    node_ips: HashMap<IpAddr, usize>,
    pods: HashMap<Name, Arc<PodFacts>>,
    pods_in: HashMap<Arc<str>, BTreeSet<Name>>,
    pod_by_ip: HashMap<IpAddr, Few<Name>>,
    /// More than one only by mistake, in files.
    pod_by_uid: HashMap<Arc<str>, Few<Name>>,
    slices_of: HashMap<Name, BTreeSet<Name>>,
    /// Services by the addresses and pods that their slices name.
    sliced_ips: HashMap<IpAddr, Few<(Name, Name)>>,
    sliced_pods: HashMap<Name, Few<(Name, Name)>>,
    /// Routes by the Service that they have as parent, and as backend.
    routes_on: BTreeMap<Name, BTreeSet<ObjectKey>>,
    routes_to: BTreeMap<Name, BTreeSet<ObjectKey>>,
    /// Policies by what they target.
    policies_on: HashMap<ObjectKey, BTreeSet<ObjectKey>>,
    /// Keys by kind and namespace, for what is asked by namespace.
    by_namespace: HashMap<(Kind, Arc<str>), BTreeSet<Name>>,
}

/// What an update may have changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Touched {
    /// Services whose routes, protocol or addresses may differ, with every port that they have or had.
    pub services: BTreeSet<Name>,
    /// Services whose endpoints may differ.
    pub endpoints: BTreeSet<Name>,
    pub addresses: BTreeSet<IpAddr>,
    /// Pods (by UID) whose inbound policy may differ.
    pub inbound: BTreeSet<Arc<str>>,
    /// Routes whose meaning may differ.
    pub routes: BTreeSet<ObjectKey>,
    /// Routes beside one that changed: only their status may differ.
    pub statuses: BTreeSet<ObjectKey>,
    /// Routes that name a Service which is not there: only the words about it may differ, since what is suggested instead came or went.
    pub dangling: BTreeSet<ObjectKey>,
    /// Ports that vanished, by Service.
    pub former_ports: BTreeMap<Name, BTreeSet<u16>>,
}
impl Touched {
    pub fn is_empty(&self) -> bool {
        *self == Touched::default()
    }
}

fn add<K: std::hash::Hash + Eq, V: Ord>(map: &mut HashMap<K, BTreeSet<V>>, key: K, value: V) {
    map.entry(key).or_default().insert(value);
}
fn drop_from<K: std::hash::Hash + Eq, V: Ord>(map: &mut HashMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(set) = map.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            map.remove(key);
        }
    }
}
/// A sorted set of almost always one: a [`BTreeSet`] would take the room of eleven for it, twenty megabytes in a cluster of 10,000 pods.
type Few<V> = Vec<V>;
fn add_few<K: std::hash::Hash + Eq, V: Ord>(map: &mut HashMap<K, Few<V>>, key: K, value: V) {
    let few = map.entry(key).or_default();
    if let Err(at) = few.binary_search(&value) {
        few.reserve_exact(1);
        few.insert(at, value);
    }
}
fn drop_few<K: std::hash::Hash + Eq, V: Ord>(map: &mut HashMap<K, Few<V>>, key: &K, value: &V) {
    if let Some(few) = map.get_mut(key) {
        if let Ok(at) = few.binary_search(value) {
            few.remove(at);
        }
        if few.is_empty() {
            map.remove(key);
        }
    }
}
fn drop_route(map: &mut BTreeMap<Name, BTreeSet<ObjectKey>>, service: &Name, route: &ObjectKey) {
    if let Some(set) = map.get_mut(service) {
        set.remove(route);
        if set.is_empty() {
            map.remove(service);
        }
    }
}
/// The Services of a namespace that routes name.
fn within<'m>(
    map: &'m BTreeMap<Name, BTreeSet<ObjectKey>>,
    namespace: &'m str,
) -> impl Iterator<Item = (&'m Name, &'m BTreeSet<ObjectKey>)> {
    map.range(Name::new(namespace, "")..).take_while(move |(n, _)| *n.namespace == *namespace)
}

impl Index {
    pub fn new(mesh: Mesh) -> Self {
        Self { mesh, ..Self::default() }
    }

    /// Takes an update in and says what it touched.
    pub fn apply(&mut self, update: &Update) -> Touched {
        let mut touched = Touched::default();
        for key in &update.delete {
            if let Some(old) = self.objects.remove(key) {
                self.detach(key, &old.object, &mut touched);
            }
        }
        for stored in &update.apply {
            let key = stored.object.key();
            let old = self.objects.insert(key.clone(), stored.clone());
            if old.as_ref().is_some_and(|o| o.means(stored)) {
                continue;
            }
            if let Some(old) = old {
                self.detach(&key, &old.object, &mut touched);
            }
            self.attach(&key, stored, &mut touched);
        }
        self.spread(&mut touched);
        touched
    }

    fn attach(&mut self, key: &ObjectKey, stored: &Stored, touched: &mut Touched) {
        let (name, object) = (&key.name, &stored.object);
        add(&mut self.by_namespace, (key.kind, name.namespace.clone()), name.clone());
        match object {
            Object::Service(s) => {
                let facts = Arc::new(ServiceFacts::of(name, s));
                for ip in &facts.ips {
                    add(&mut self.service_by_ip, *ip, name.clone());
                }
                for p in &facts.ports {
                    if let Some(n) = p.node_port {
                        add(&mut self.node_ports, n, (name.clone(), p.port));
                    }
                }
                add(&mut self.services_in, name.namespace.clone(), name.clone());
                self.services.insert(name.clone(), facts);
            }
            Object::Pod(p) => {
                let facts = stored.pod.clone().unwrap_or_else(|| Arc::new(PodFacts::of(name, p)));
                for ip in facts.ips.iter().filter(|_| !facts.host_network) {
                    add_few(&mut self.pod_by_ip, *ip, name.clone());
                }
                add_few(&mut self.pod_by_uid, facts.uid.clone(), name.clone());
                add(&mut self.pods_in, name.namespace.clone(), name.clone());
                self.pods.insert(name.clone(), facts);
            }
            Object::Node(n) => node_ips(n).for_each(|ip| *self.node_ips.entry(ip).or_default() += 1),
            Object::EndpointSlice(s) => {
                if let Some(service) = slice_service(key, &s.metadata.labels) {
                    for (ip, pod) in slice_members(s) {
                        ip.into_iter()
                            .for_each(|ip| add_few(&mut self.sliced_ips, ip, (service.clone(), name.clone())));
                        pod.into_iter()
                            .for_each(|p| add_few(&mut self.sliced_pods, p, (service.clone(), name.clone())));
                    }
                    add(&mut self.slices_of, service, name.clone());
                }
            }
            _ => {}
        }
        for (parent, _) in refs::service_parents(object) {
            self.routes_on.entry(parent).or_default().insert(key.clone());
        }
        for backend in refs::backend_services(object) {
            self.routes_to.entry(backend).or_default().insert(key.clone());
        }
        for target in refs::policy_targets(object) {
            add(&mut self.policies_on, target, key.clone());
        }
        self.touch(key, object, touched);
    }

    fn detach(&mut self, key: &ObjectKey, object: &Object, touched: &mut Touched) {
        self.touch(key, object, touched);
        let name = &key.name;
        drop_from(&mut self.by_namespace, &(key.kind, name.namespace.clone()), name);
        match object {
            Object::Service(_) => {
                if let Some(facts) = self.services.remove(name) {
                    for ip in &facts.ips {
                        drop_from(&mut self.service_by_ip, ip, name);
                    }
                    for p in &facts.ports {
                        if let Some(n) = p.node_port {
                            drop_from(&mut self.node_ports, &n, &(name.clone(), p.port));
                        }
                    }
                    touched.former_ports.entry(name.clone()).or_default().extend(facts.ports.iter().map(|p| p.port));
                }
                drop_from(&mut self.services_in, &name.namespace, name);
            }
            Object::Pod(_) => {
                if let Some(facts) = self.pods.remove(name) {
                    facts.ips.iter().for_each(|ip| drop_few(&mut self.pod_by_ip, ip, name));
                    drop_few(&mut self.pod_by_uid, &facts.uid, name);
                }
                drop_from(&mut self.pods_in, &name.namespace, name);
            }
            Object::Node(n) => {
                for ip in node_ips(n) {
                    let left = self.node_ips.get_mut(&ip).map_or(0, |n| {
                        *n -= 1;
                        *n
                    });
                    if left == 0 {
                        self.node_ips.remove(&ip);
                    }
                }
            }
            Object::EndpointSlice(s) => {
                if let Some(service) = slice_service(key, &s.metadata.labels) {
                    let own = (service.clone(), name.clone());
                    for (ip, pod) in slice_members(s) {
                        ip.iter().for_each(|ip| drop_few(&mut self.sliced_ips, ip, &own));
                        pod.iter().for_each(|p| drop_few(&mut self.sliced_pods, p, &own));
                    }
                    drop_from(&mut self.slices_of, &service, name);
                }
            }
            _ => {}
        }
        for (parent, _) in refs::service_parents(object) {
            drop_route(&mut self.routes_on, &parent, key);
        }
        for backend in refs::backend_services(object) {
            drop_route(&mut self.routes_to, &backend, key);
        }
        for target in refs::policy_targets(object) {
            drop_from(&mut self.policies_on, &target, key);
        }
    }

    /// What a change of this object touches directly, as the index stands.
    fn touch(&self, key: &ObjectKey, object: &Object, touched: &mut Touched) {
        let name = &key.name;
        match object {
            Object::Service(_) => {
                touched.services.insert(name.clone());
                touched.endpoints.insert(name.clone());
                for map in [&self.routes_on, &self.routes_to] {
                    touched.routes.extend(map.get(name).into_iter().flatten().cloned());
                }
                for map in [&self.routes_on, &self.routes_to] {
                    let lost = within(map, &name.namespace).filter(|(s, _)| !self.services.contains_key(*s));
                    touched.dangling.extend(lost.flat_map(|(_, routes)| routes.iter().cloned()));
                }
                touched.addresses.extend(self.services.get(name).iter().flat_map(|s| s.ips.iter().copied()));
                if self.services.get(name).is_some_and(|s| s.ports.iter().any(|p| p.node_port.is_some())) {
                    touched.addresses.extend(self.node_ips.keys().copied());
                }
            }
            Object::Pod(_) => {
                if let Some(pod) = self.pods.get(name) {
                    self.touch_pod(pod, touched);
                }
            }
            Object::Namespace(_) => {
                for pod in self.pods_of(&name.name) {
                    self.touch_pod(pod, touched);
                }
            }
            Object::Node(n) => {
                touched.addresses.extend(node_ips(n));
                let here = self.pods.values().filter(|p| p.node.as_ref() == Some(&name.name));
                here.for_each(|pod| self.touch_pod(pod, touched));
            }
            Object::EndpointSlice(s) => touched.endpoints.extend(slice_service(key, &s.metadata.labels)),
            Object::MeshTLSPolicy(_) | Object::AuthorizationPolicy(_) => {
                // rare, and a policy for the mesh reaches every pod anyhow
                let all = *name.namespace == *self.mesh.system_namespace;
                let pods = self.pods.values().filter(|p| all || p.name.namespace == name.namespace);
                touched.inbound.extend(pods.map(|p| p.uid.clone()));
            }
            Object::ReferenceGrant(_) => {
                // those that refer into this namespace from another
                for (to, routes) in within(&self.routes_to, &name.namespace) {
                    touched.routes.extend(routes.iter().filter(|r| r.name.namespace != to.namespace).cloned());
                }
            }
            Object::TrafficPolicy(_) | Object::XBackendTrafficPolicy(_) => {
                for target in refs::policy_targets(object) {
                    match target.kind {
                        Kind::Service => {
                            touched.routes.extend(self.routes_on.get(&target.name).into_iter().flatten().cloned());
                            touched.endpoints.insert(target.name.clone());
                            touched.services.insert(target.name);
                        }
                        _ => _ = touched.routes.insert(target),
                    }
                }
            }
            _ if key.kind.is_route() => {
                touched.routes.insert(key.clone());
                touched.services.extend(refs::service_parents(object).into_iter().map(|(s, _)| s));
            }
            _ => {}
        }
    }

    fn touch_pod(&self, pod: &PodFacts, touched: &mut Touched) {
        touched.addresses.extend(pod.ips.iter().copied());
        touched.inbound.insert(pod.uid.clone());
        touched.endpoints.extend(
            self.services_of(&pod.name.namespace).filter(|s| selects(&s.selector, &pod.labels)).map(|s| s.name.clone()),
        );
        let by_ip = pod.ips.iter().filter_map(|ip| self.sliced_ips.get(ip)).flatten();
        let sliced = by_ip.chain(self.sliced_pods.get(&pod.name).into_iter().flatten());
        touched.endpoints.extend(sliced.map(|(service, _)| service.clone()));
    }

    /// From routes to the Services that they are attached to, and to the routes beside them there, in whose status a conflict
    /// begins or ends.
    fn spread(&self, touched: &mut Touched) {
        for route in &touched.routes {
            let Some(stored) = self.objects.get(route) else { continue };
            touched.services.extend(refs::service_parents(&stored.object).into_iter().map(|(parent, _)| parent));
        }
        let beside = touched.services.iter().filter_map(|s| self.routes_on.get(s)).flatten();
        touched.statuses.extend(beside.cloned());
    }

    // ---- questions

    pub fn get(&self, key: &ObjectKey) -> Option<&Stored> {
        self.objects.get(key)
    }
    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.objects.len()
    }
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }
    pub fn objects(&self) -> impl Iterator<Item = (&ObjectKey, &Stored)> {
        self.objects.iter()
    }
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Stored> {
        let names = self.by_namespace.iter().filter(move |((k, _), _)| *k == kind).flat_map(|(_, names)| names);
        names.filter_map(move |n| self.objects.get(&ObjectKey { kind, name: n.clone() }))
    }
    pub fn of_kind_in<'i>(&'i self, kind: Kind, namespace: &str) -> impl Iterator<Item = &'i Stored> {
        let names = self.by_namespace.get(&(kind, Arc::from(namespace)));
        names.into_iter().flatten().filter_map(move |n| self.objects.get(&ObjectKey { kind, name: n.clone() }))
    }
    pub fn service(&self, name: &Name) -> Option<&Arc<ServiceFacts>> {
        self.services.get(name)
    }
    pub fn services(&self) -> impl Iterator<Item = &Arc<ServiceFacts>> {
        self.services.values()
    }
    pub fn services_of(&self, namespace: &Arc<str>) -> impl Iterator<Item = &Arc<ServiceFacts>> {
        self.services_in.get(namespace).into_iter().flatten().filter_map(|n| self.services.get(n))
    }
    pub fn pod(&self, name: &Name) -> Option<&Arc<PodFacts>> {
        self.pods.get(name)
    }
    pub fn pods(&self) -> impl Iterator<Item = &Arc<PodFacts>> {
        self.pods.values()
    }
    pub fn pods_of(&self, namespace: &Arc<str>) -> impl Iterator<Item = &Arc<PodFacts>> {
        self.pods_in.get(namespace).into_iter().flatten().filter_map(|n| self.pods.get(n))
    }
    pub fn pod_by_uid(&self, uid: &str) -> Option<&Arc<PodFacts>> {
        self.pods.get(self.pod_by_uid.get(uid)?.first()?)
    }
    /// The pod that has an address. Of several (an address is recycled) the one that is there.
    pub fn pod_by_ip(&self, ip: IpAddr) -> Option<&Arc<PodFacts>> {
        let pods = self.pod_by_ip.get(&ip)?.iter().filter_map(|n| self.pods.get(n));
        pods.min_by_key(|p| (p.absent, p.terminating))
    }
    /// The Services that share an address, and the Service ports that a node's address leads to.
    pub fn services_by_ip(&self, ip: IpAddr) -> impl Iterator<Item = &Arc<ServiceFacts>> {
        self.service_by_ip.get(&ip).into_iter().flatten().filter_map(|n| self.services.get(n))
    }
    pub fn node_port(&self, ip: IpAddr, port: u16) -> Option<&(Name, u16)> {
        self.node_ips.get(&ip)?;
        self.node_ports.get(&port)?.first()
    }
    pub fn slices(&self, service: &Name) -> impl Iterator<Item = &Stored> {
        let names = self.slices_of.get(service).into_iter().flatten();
        names.filter_map(|n| self.objects.get(&ObjectKey { kind: Kind::EndpointSlice, name: n.clone() }))
    }
    pub fn routes_on(&self, service: &Name) -> impl Iterator<Item = &ObjectKey> {
        self.routes_on.get(service).into_iter().flatten()
    }
    pub fn policies_on(&self, target: &ObjectKey) -> impl Iterator<Item = &Stored> {
        self.policies_on.get(target).into_iter().flatten().filter_map(|k| self.objects.get(k))
    }
    pub fn routes(&self) -> impl Iterator<Item = (&ObjectKey, &Stored)> {
        self.objects.iter().filter(|(k, _)| k.kind.is_route())
    }
    pub fn namespaces(&self) -> HashSet<Arc<str>> {
        let declared = self.objects.keys().filter(|k| k.kind == Kind::Namespace).map(|k| k.name.name.clone());
        declared.chain(self.objects.keys().map(|k| k.name.namespace.clone()).filter(|n| !n.is_empty())).collect()
    }
    pub fn namespace_labels(&self, namespace: &str) -> Option<&Labels> {
        match &self.objects.get(&ObjectKey::new(Kind::Namespace, "", namespace))?.object {
            Object::Namespace(n) => n.metadata.labels.as_ref(),
            _ => None,
        }
    }
    pub fn namespace_meshed(&self, namespace: &str) -> bool {
        self.namespace_labels(namespace).and_then(|l| l.get(INJECT_LABEL)).is_some_and(|v| v == "enabled")
    }
    /// Whether a pod has a sidecar: in a cluster its container, in files its own label, else its namespace's. Pods in the host's network never do.
    pub fn meshed(&self, pod: &PodFacts) -> bool {
        let member = || match self.mesh.members {
            Members::WithSidecar => pod.sidecar,
            Members::Labelled => pod.inject.unwrap_or_else(|| self.namespace_meshed(&pod.name.namespace)),
        };
        !pod.host_network && member()
    }
    pub fn identity(&self, pod: &PodFacts) -> Option<WorkloadIdentity> {
        WorkloadIdentity::new(&self.mesh.trust_domain, &pod.name.namespace, &pod.service_account).ok()
    }
    pub fn zone(&self, pod: &PodFacts) -> Option<Arc<str>> {
        let of_node = || match &self.objects.get(&ObjectKey::new(Kind::Node, "", pod.node.as_deref()?))?.object {
            Object::Node(n) => {
                n.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone").map(|z| Arc::from(z.as_str()))
            }
            _ => None,
        };
        pod.zone.clone().or_else(of_node)
    }
}

fn node_ips(n: &k8s_openapi::api::core::v1::Node) -> impl Iterator<Item = IpAddr> {
    let addresses = n.status.iter().flat_map(|s| s.addresses.iter().flatten());
    let addresses = addresses.filter(|a| a.type_ == "InternalIP" || a.type_ == "ExternalIP");
    addresses.filter_map(|a| a.address.parse().ok()).collect::<Vec<_>>().into_iter()
}

/// Addresses and pods of a slice's endpoints.
fn slice_members(s: &EndpointSlice) -> Vec<(Option<IpAddr>, Option<Name>)> {
    let own = s.metadata.namespace.as_deref().unwrap_or("default");
    let pod = |e: &SliceEndpoint| {
        let t = e.target_ref.as_ref().filter(|t| t.kind.as_deref() == Some("Pod"))?;
        Some(Name::new(t.namespace.as_deref().unwrap_or(own), t.name.as_deref()?))
    };
    s.endpoints.iter().map(|e| (e.addresses.first().and_then(|a| a.parse().ok()), pod(e))).collect()
}

fn slice_service(key: &ObjectKey, labels: &Option<Labels>) -> Option<Name> {
    let service = labels.as_ref()?.get("kubernetes.io/service-name")?;
    Some(Name::new(&key.name.namespace, service))
}
