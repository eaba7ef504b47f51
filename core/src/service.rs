//! What a client dials: a port of a Service, a workload, or something outside the mesh.

use crate::{backend::RequestPolicy, endpoint::Endpoint, route::Routes};
use serde::{Deserialize, Serialize};
use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

/// A port of a Service: the unit that routes attach to, that endpoints belong to and that metrics are labelled by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServiceRef {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub port: u16,
}
impl fmt::Display for ServiceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.namespace, self.name, self.port)
    }
}

/// What is spoken on a port, as declared (kind of the attached routes, `appProtocol`, port name), strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Protocol {
    /// Nothing declared: look at the first bytes while dialling (design 3.2).
    #[default]
    Detect,
    /// HTTP/1.1 or HTTP/2 with prior knowledge, whatever the client's first bytes say; never opaque.
    Http,
    /// `kubernetes.io/h2c` or a GRPCRoute: the application is spoken to in HTTP/2.
    Http2,
    /// TLS of the application's own, routed by SNI at most.
    Tls,
    /// Bytes.
    Opaque,
}

/// What an original destination address means to one proxy: the answer to a lookup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Target {
    /// A Service port: ClusterIP, external IP, load-balancer IP or node port.
    Service(ServiceRef),
    /// A pod's own address. No routes of Services apply.
    Workload(Arc<Endpoint>),
    /// Nothing the mesh knows: forwarded to the original destination as it is.
    Outside,
}

/// Everything a proxy needs to serve connections to one Service port, as seen by that proxy (consumer routes already chosen).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServicePort {
    pub service: ServiceRef,
    pub protocol: Protocol,
    /// Routes; `Routes::None` means plain Kubernetes forwarding plus mTLS, balancing and metrics.
    pub routes: Routes,
    /// `sessionAffinity: ClientIP`, with its timeout.
    pub affinity: Option<Duration>,
    /// Timeouts and retries of requests that no route decides.
    #[serde(default)]
    pub requests: RequestPolicy,
    /// Addresses that reach this port (ClusterIPs of both families and so on), for `weft dump`.
    pub addresses: Vec<SocketAddr>,
}
