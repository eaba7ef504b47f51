//! The world as discovery serves it: each proxy sees what its identity may.

use crate::world::World;
use std::{net::SocketAddr, sync::Arc};
use tokio::sync::watch;
use weft_core::{
    endpoint::Endpoints,
    policy::InboundPolicy,
    service::{ServicePort, ServiceRef, Target},
};
use weft_discovery::{Change, Changes, Peer, Provider, ResourceName, Version};
use weft_identity::Bundle;

/// Serves a [`World`] and the trust bundle.
pub struct Serving {
    world: Arc<World>,
    bundle: watch::Receiver<Option<Arc<Bundle>>>,
}

impl Serving {
    /// Tells proxies of every new bundle, from a task of its own that lives as long as the bundle's sender: call it within a runtime.
    pub fn new(world: Arc<World>, bundle: watch::Receiver<Option<Arc<Bundle>>>) -> Self {
        let (mut changes, news) = (bundle.clone(), Arc::downgrade(&world));
        tokio::spawn(async move {
            while changes.changed().await.is_ok() {
                let Some(world) = news.upgrade() else { return };
                world.announce(Change::Bundle);
            }
        });
        Self { world, bundle }
    }
    fn node(&self, peer: &Peer) -> Option<Arc<str>> {
        self.world.with_index(|i| i.pod_by_uid(&peer.uid).and_then(|p| p.node.clone()))
    }
}

impl Provider for Serving {
    /// The pod must exist and run as the identity of the certificate: a leaf proves a service account, the UID says which pod of it.
    fn admit(&self, peer: &Peer) -> Result<(), Box<str>> {
        self.world.with_index(|index| {
            let pod = index.pod_by_uid(&peer.uid).ok_or_else(|| format!("no pod has the UID {}", peer.uid))?;
            match index.identity(pod) {
                Some(identity) if identity == peer.identity => Ok(()),
                Some(identity) => Err(format!("pod {} runs as {identity}, not as {}", pod.name, peer.identity).into()),
                None => Err(format!("pod {} has no identity", pod.name).into()),
            }
        })
    }
    fn lookup(&self, _: &Peer, address: SocketAddr) -> Target {
        self.world.lookup(address)
    }
    fn service_port(&self, peer: &Peer, service: &ServiceRef) -> Option<Arc<ServicePort>> {
        self.world.service_port(peer.namespace(), service)
    }
    fn endpoints(&self, peer: &Peer, service: &ServiceRef) -> Option<Arc<Endpoints>> {
        self.world.endpoints(service, self.node(peer).as_deref())
    }
    fn inbound(&self, peer: &Peer) -> Option<Arc<InboundPolicy>> {
        self.world.inbound(&peer.uid)
    }
    fn bundle(&self) -> Option<Arc<Bundle>> {
        self.bundle.borrow().clone()
    }
    fn changes(&self) -> Changes {
        self.world.changes()
    }
    fn nacked(&self, peer: &Peer, name: &ResourceName, version: Version, reason: &str) {
        tracing::warn!(proxy = %peer.workload, resource = %name, %version, reason, "a proxy refuses a configuration and keeps what it had");
        self.world.refused(&peer.workload, name, reason);
    }
    fn acked(&self, peer: &Peer, name: &ResourceName, _: Version) {
        self.world.taken(&peer.workload, name);
    }
}
