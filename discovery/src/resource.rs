//! Names, values and versions of what travels on a stream.

use std::{fmt, net::SocketAddr, sync::Arc};
use weft_core::{
    endpoint::Endpoints,
    policy::InboundPolicy,
    service::{ServicePort, ServiceRef, Target},
};
use weft_identity::Bundle;

/// What a proxy can subscribe to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceName {
    /// An original destination; the value is a [`Target`].
    Address(SocketAddr),
    /// As seen by the client's namespace.
    ServicePort(ServiceRef),
    Endpoints(ServiceRef),
    /// The inbound policy of the proxy's own pod.
    Inbound,
    Bundle,
}

impl ResourceName {
    /// The label of metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            ResourceName::Address(_) => "address",
            ResourceName::ServicePort(_) => "service_port",
            ResourceName::Endpoints(_) => "endpoints",
            ResourceName::Inbound => "inbound",
            ResourceName::Bundle => "bundle",
        }
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResourceName::Address(a) => write!(f, "address {a}"),
            ResourceName::ServicePort(s) => write!(f, "service port {s}"),
            ResourceName::Endpoints(s) => write!(f, "endpoints of {s}"),
            ResourceName::Inbound => f.write_str("inbound policy"),
            ResourceName::Bundle => f.write_str("trust bundle"),
        }
    }
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    Target(Target),
    ServicePort(Arc<ServicePort>),
    Endpoints(Arc<Endpoints>),
    Inbound(Arc<InboundPolicy>),
    Bundle(Arc<Bundle>),
}

impl Resource {
    /// Whether this is the kind of value that `name` stands for, and speaks of the same Service.
    pub fn belongs_to(&self, name: &ResourceName) -> bool {
        match (self, name) {
            (Resource::Target(_), ResourceName::Address(_)) => true,
            (Resource::ServicePort(v), ResourceName::ServicePort(s)) => v.service == *s,
            (Resource::Endpoints(v), ResourceName::Endpoints(s)) => v.service == *s,
            (Resource::Inbound(_), ResourceName::Inbound) | (Resource::Bundle(_), ResourceName::Bundle) => true,
            _ => false,
        }
    }
}

/// A digest of an encoded resource: 16 bytes of SHA-256. Empty: nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Version(pub [u8; 16]);

impl Version {
    pub fn of(encoded: &[u8]) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, encoded);
        let mut v = [0; 16];
        v.copy_from_slice(&digest.as_ref()[..16]);
        Self(v)
    }
}
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}
impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
