//! What the controller implements: the answers, and the news of what changed.

use crate::resource::{ResourceName, Version};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use tokio::sync::broadcast;
use weft_core::{
    endpoint::Endpoints,
    identity::WorkloadIdentity,
    policy::InboundPolicy,
    service::{ServicePort, ServiceRef, Target},
};
use weft_identity::Bundle;

/// A proxy at the other end of a stream. The identity is that of its certificate; the rest is what it says of itself and what
/// [`Provider::admit`] has agreed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub identity: WorkloadIdentity,
    /// Pod UID.
    pub uid: Arc<str>,
    /// Name of the pod, for people.
    pub workload: Arc<str>,
    pub addresses: Vec<IpAddr>,
    pub zone: Option<Arc<str>>,
    /// Version of its program.
    pub version: Box<str>,
    /// The other end of the connection.
    pub remote: SocketAddr,
}

impl Peer {
    /// Whose consumer routes apply.
    pub fn namespace(&self) -> &str {
        self.identity.namespace()
    }
}

/// What a proxy says it uses.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct PeerStatus {
    pub bundle_version: u64,
    /// Key identifier of its leaf's issuer.
    pub leaf_issuer: Box<[u8]>,
    /// Seconds since the epoch.
    pub leaf_not_after: i64,
}

/// One piece of news: everything that it names is asked for again, for each stream that subscribed to it. Naming too much costs a
/// comparison, naming too little leaves proxies behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Everything may have changed.
    All,
    /// The Service port as seen by any namespace.
    ServicePort(ServiceRef),
    Endpoints(ServiceRef),
    /// What lies behind an address, on any port.
    Address(IpAddr),
    /// The inbound policy of the pod with this UID.
    Inbound(Arc<str>),
    Bundle,
}

/// Batches of changes. A receiver that falls behind behaves as after [`Change::All`].
pub type Changes = broadcast::Receiver<Arc<[Change]>>;

/// The controller's side of every stream. Calls come from the tasks of streams and must not block: they read an index.
///
/// The same `Arc` for the same content (a memo of the compiled form) lets the server encode it once for all proxies.
pub trait Provider: Send + Sync + 'static {
    /// May this proxy be served? Its certificate is verified; left to check is that the pod `peer.uid` runs as `peer.identity`. The
    /// text of an error is sent to the proxy.
    fn admit(&self, peer: &Peer) -> Result<(), Box<str>>;
    /// What an original destination means to this proxy.
    fn lookup(&self, peer: &Peer, address: SocketAddr) -> Target;
    /// `None`: there is no such Service port (any more).
    fn service_port(&self, peer: &Peer, service: &ServiceRef) -> Option<Arc<ServicePort>>;
    fn endpoints(&self, peer: &Peer, service: &ServiceRef) -> Option<Arc<Endpoints>>;
    /// The policy of the peer's own pod.
    fn inbound(&self, peer: &Peer) -> Option<Arc<InboundPolicy>>;
    fn bundle(&self) -> Option<Arc<Bundle>>;
    /// News from now on.
    fn changes(&self) -> Changes;

    /// A stream was admitted.
    fn connected(&self, peer: &Arc<Peer>) {
        let _ = peer;
    }
    /// A stream ended.
    fn disconnected(&self, peer: &Arc<Peer>) {
        let _ = peer;
    }
    /// A proxy took a version into use.
    fn acked(&self, peer: &Peer, name: &ResourceName, version: Version) {
        let _ = (peer, name, version);
    }
    /// A proxy refused a version and keeps what it had: belongs on the status of the object behind it.
    fn nacked(&self, peer: &Peer, name: &ResourceName, version: Version, reason: &str) {
        let _ = (peer, name, version, reason);
    }
    /// A proxy uses another bundle or leaf than before.
    fn status(&self, peer: &Peer, status: &PeerStatus) {
        let _ = (peer, status);
    }
}
