//! Endpoints of a Service port, and what is known of the workload behind each.

use crate::{backend::BackendPolicy, identity::WorkloadIdentity, service::ServiceRef};
use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, sync::Arc};

/// A meshed workload: who must answer there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MeshPeer {
    /// Pod UID, sent as SNI; a proxy refuses a UID that is not its own (recycled addresses).
    pub uid: Arc<str>,
    pub identity: WorkloadIdentity,
}

/// One address and port behind a Service port, or a workload dialled directly.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    pub address: SocketAddr,
    /// `None`: plain text (no sidecar, or a port excluded from capture).
    pub mesh: Option<MeshPeer>,
    pub zone: Option<Arc<str>>,
    /// Serving but terminating endpoints take traffic only when no others are left (KEP-1669).
    pub terminating: bool,
    /// Name of the pod, for people.
    pub workload: Arc<str>,
}

/// The endpoints of a Service port in the order of their addresses: of both families where the Service has both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Endpoints {
    pub service: ServiceRef,
    /// Ready ones (or `publishNotReadyAddresses`), plus terminating ones that still serve.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// How many the Service selects that are not ready: for error texts ("0 of 3 endpoints ready").
    pub not_ready: u32,
    /// The application is spoken to in HTTP/2 (`kubernetes.io/h2c`), else in the client's version.
    pub http2: bool,
    /// `trafficDistribution: PreferClose` or `PreferSameZone`.
    pub prefer_zone: bool,
    /// How they are treated.
    #[serde(default)]
    pub policy: BackendPolicy,
}
