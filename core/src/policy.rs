//! Who may call a workload, and how: what the inbound side of a proxy enforces.

use crate::authorization::Authorization;
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

/// What a gRPC probe calls: the standard health service.
pub const GRPC_HEALTH: &str = "/grpc.health.v1.Health/Check";

/// What a workload's own proxy must know of it.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct InboundPolicy {
    pub tls: MeshTlsMode,
    pub probes: Vec<Probe>,
    /// Who may call, and what.
    #[serde(default)]
    pub authorization: Authorization,
}

/// What an inbound connection may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Everything.
    Allow,
    /// Plain text at a strict workload, on a port with probes: exactly the requests that [`InboundPolicy::is_probe`] takes (`http`), and where a TCP probe is declared
    /// (`tcp`) connecting alone, without a byte passed on.
    Probes { http: bool, tcp: bool },
    /// Nothing: [`crate::cause::Kind::StrictRefused`].
    Refuse,
}

impl InboundPolicy {
    /// Judges a connection to `port`. `meshed`: mutual TLS of the mesh, peer verified. The application's own TLS is plain text to the mesh.
    pub fn admit(&self, meshed: bool, port: u16) -> Admission {
        if meshed || self.tls == MeshTlsMode::Permissive {
            return Admission::Allow;
        }
        let of_port = || self.probes.iter().filter(|p| p.port == port);
        let (http, tcp) = (of_port().any(|p| p.path.is_some()), of_port().any(|p| p.path.is_none()));
        if http || tcp { Admission::Probes { http, tcp } } else { Admission::Refuse }
    }
    /// Whether a plain request is one of the workload's probes: GET or HEAD of exactly the declared target, byte by byte (what the kubelet sends), or a POST to the health
    /// service where a gRPC probe is declared.
    pub fn is_probe(&self, port: u16, method: &[u8], target: &[u8]) -> bool {
        let fits = match method {
            b"GET" | b"HEAD" => target != GRPC_HEALTH.as_bytes(),
            b"POST" => target == GRPC_HEALTH.as_bytes(),
            _ => false,
        };
        fits && self.probes.iter().any(|p| p.port == port && p.path.as_deref().is_some_and(|t| t.as_bytes() == target))
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
