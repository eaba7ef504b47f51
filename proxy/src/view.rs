//! What a worker knows of the mesh: Service ports, endpoints, the meaning of addresses, its own pod's policy. Filled by [`Update`]s.
//!
//! Addresses are looked up in the discovery client, which keeps them; only a static configuration puts them here.

use ahash::{AHashMap, AHashSet};
use std::{
    cell::RefCell,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use weft_core::{
    endpoint::{Endpoint, Endpoints},
    policy::InboundPolicy,
    route::{BackendRef, Routes},
    service::{ServicePort, ServiceRef, Target},
};

/// A change of what a worker knows.
#[derive(Clone, Debug)]
pub enum Update {
    Service(Arc<ServicePort>),
    Endpoints(Arc<Endpoints>),
    /// No longer needed, or deleted.
    NoService(ServiceRef),
    NoEndpoints(ServiceRef),
    Target {
        address: SocketAddr,
        target: Target,
    },
    Inbound(Arc<InboundPolicy>),
}

#[derive(Default)]
struct Inner {
    services: AHashMap<ServiceRef, Arc<ServicePort>>,
    endpoints: AHashMap<ServiceRef, Arc<Endpoints>>,
    targets: AHashMap<SocketAddr, Target>,
    inbound: Arc<InboundPolicy>,
}

/// One worker's knowledge.
#[derive(Default)]
pub struct View(RefCell<Inner>);

impl View {
    /// Takes a change in.
    pub fn apply(&self, u: &Update) {
        let mut v = self.0.borrow_mut();
        match u {
            Update::Service(s) => {
                v.services.insert(s.service.clone(), s.clone());
            }
            Update::Endpoints(e) => {
                v.endpoints.insert(e.service.clone(), e.clone());
            }
            Update::NoService(s) => {
                v.services.remove(s);
            }
            Update::NoEndpoints(s) => {
                v.endpoints.remove(s);
            }
            Update::Target { address, target } => {
                v.targets.insert(*address, target.clone());
            }
            Update::Inbound(p) => v.inbound = p.clone(),
        }
    }

    pub fn target(&self, a: SocketAddr) -> Option<Target> {
        self.0.borrow().targets.get(&a).cloned()
    }
    pub fn service(&self, s: &ServiceRef) -> Option<Arc<ServicePort>> {
        self.0.borrow().services.get(s).cloned()
    }
    pub fn endpoints(&self, s: &ServiceRef) -> Option<Arc<Endpoints>> {
        self.0.borrow().endpoints.get(s).cloned()
    }
    pub fn inbound(&self) -> Arc<InboundPolicy> {
        self.0.borrow().inbound.clone()
    }
    /// For the dump.
    pub fn list(&self) -> Listing {
        let v = self.0.borrow();
        let mut services: Vec<_> = v.services.values().cloned().collect();
        services.sort_by(|a, b| a.service.cmp(&b.service));
        let mut endpoints: Vec<_> = v.endpoints.values().cloned().collect();
        endpoints.sort_by(|a, b| a.service.cmp(&b.service));
        let mut targets: Vec<_> = v.targets.iter().map(|(a, t)| (*a, t.clone())).collect();
        targets.sort_by_key(|(a, _)| *a);
        Listing { services, endpoints, targets, inbound: v.inbound.clone() }
    }
}

/// The content of a view in a stable order.
#[derive(serde::Serialize)]
pub struct Listing {
    pub services: Vec<Arc<ServicePort>>,
    pub endpoints: Vec<Arc<Endpoints>>,
    pub targets: Vec<(SocketAddr, Target)>,
    pub inbound: Arc<InboundPolicy>,
}

/// An endpoint of our own pod is dialled in plain text: a proxy does not speak TLS with itself (design 4.4).
pub fn own_in_plain(e: Arc<Endpoint>, own: &[IpAddr]) -> Arc<Endpoint> {
    match e.mesh.is_some() && own.contains(&e.address.ip()) {
        true => Arc::new(Endpoint { mesh: None, ..(*e).clone() }),
        false => e,
    }
}

impl Update {
    /// The update as it suits a pod with these addresses; see [`own_in_plain`].
    pub fn suited(self, own: &[IpAddr]) -> Update {
        match self {
            Update::Endpoints(set)
                if set.endpoints.iter().any(|e| e.mesh.is_some() && own.contains(&e.address.ip())) =>
            {
                let mut copy = (*set).clone();
                for e in &mut copy.endpoints {
                    *e = own_in_plain(e.clone(), own);
                }
                Update::Endpoints(Arc::new(copy))
            }
            Update::Target { address, target: Target::Workload(e) } => {
                Update::Target { address, target: Target::Workload(own_in_plain(e, own)) }
            }
            u => u,
        }
    }
}

/// The Services that routes lead to, mirrors included.
pub fn backends(routes: &Routes) -> AHashSet<ServiceRef> {
    let mut found = AHashSet::new();
    let mut add = |b: &BackendRef| {
        if let BackendRef::Service(s) = b
            && !found.contains(s)
        {
            found.insert(s.clone());
        }
    };
    match routes {
        Routes::None => {}
        Routes::Http(table) => {
            for rule in &table.rules {
                for b in &rule.backends {
                    add(&b.backend);
                    b.filters.mirrors.iter().for_each(|m| add(&m.backend));
                }
                rule.filters.mirrors.iter().for_each(|m| add(&m.backend));
            }
        }
        Routes::Stream(rules) => rules.iter().flat_map(|r| &r.backends).for_each(|b| add(&b.backend)),
    }
    found
}
