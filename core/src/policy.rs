//! Who may call a workload, and how: what the inbound side of a proxy enforces.

use serde::{Deserialize, Serialize};

/// `MeshTLSPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum MeshTlsMode {
    /// Plain text is accepted from clients outside the mesh.
    #[default]
    Permissive,
    /// Only mutual TLS of the mesh.
    Strict,
}

/// A kubelet probe that passes in strict mode: exactly this port and path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub port: u16,
    /// `None`: a TCP probe.
    pub path: Option<Box<str>>,
}

/// What a workload's own proxy must know of it.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct InboundPolicy {
    pub tls: MeshTlsMode,
    pub probes: Vec<Probe>,
}
