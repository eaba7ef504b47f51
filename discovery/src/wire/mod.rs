//! Conversions between what stands on the wire and what it means. Writing cannot fail; reading checks everything and names the field.

mod authorization;
mod backend;
mod patterns;
mod route;
mod service;

use crate::{
    proto::{self, resource, resource_name},
    resource::{Resource, ResourceName},
};
use prost::Message;
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use weft_core::service::ServiceRef;
use weft_identity::Bundle;

/// Why bytes from the wire mean nothing here. The receiver keeps what it had and says so.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("not protobuf: {0}")]
    Protobuf(#[from] prost::DecodeError),
    #[error("{0} is missing, or of a kind that this version does not know")]
    Missing(&'static str),
    #[error("{field}: {value} is out of range")]
    Range { field: &'static str, value: u64 },
    #[error("{field}: {reason}")]
    Invalid { field: &'static str, reason: Box<str> },
}

impl WireError {
    fn invalid(field: &'static str, reason: impl ToString) -> Self {
        WireError::Invalid { field, reason: reason.to_string().into() }
    }
}

/// A value that must be there.
fn required<T>(field: &'static str, value: Option<T>) -> Result<T, WireError> {
    value.ok_or(WireError::Missing(field))
}
fn port(field: &'static str, value: u32) -> Result<u16, WireError> {
    narrow(field, value)
}
fn narrow(field: &'static str, value: u32) -> Result<u16, WireError> {
    value.try_into().map_err(|_| WireError::Range { field, value: value.into() })
}
/// Converts each element; the first error wins.
fn all<A, B: TryFrom<A, Error = WireError>>(list: Vec<A>) -> Result<Vec<B>, WireError> {
    list.into_iter().map(B::try_from).collect()
}
fn optional<A, B: TryFrom<A, Error = WireError>>(value: Option<A>) -> Result<Option<B>, WireError> {
    value.map(B::try_from).transpose()
}

/// Encodes a value. The same value gives the same bytes: there are no maps in the messages.
pub fn encode(value: &Resource) -> bytes::Bytes {
    let kind = match value {
        Resource::Target(v) => resource::Kind::Target(v.into()),
        Resource::ServicePort(v) => resource::Kind::ServicePort((&**v).into()),
        Resource::Endpoints(v) => resource::Kind::Endpoints((&**v).into()),
        Resource::Inbound(v) => resource::Kind::Inbound((&**v).into()),
        Resource::Bundle(v) => resource::Kind::Bundle((&**v).into()),
    };
    proto::Resource { kind: Some(kind) }.encode_to_vec().into()
}

/// Reads a value.
pub fn decode(bytes: &[u8]) -> Result<Resource, WireError> {
    Ok(match required("resource", proto::Resource::decode(bytes)?.kind)? {
        resource::Kind::Target(v) => Resource::Target(v.try_into()?),
        resource::Kind::ServicePort(v) => Resource::ServicePort(Arc::new(v.try_into()?)),
        resource::Kind::Endpoints(v) => Resource::Endpoints(Arc::new(v.try_into()?)),
        resource::Kind::Inbound(v) => Resource::Inbound(Arc::new(v.try_into()?)),
        resource::Kind::Bundle(v) => Resource::Bundle(Arc::new(v.try_into()?)),
    })
}

/// Reads the name of a resource.
pub fn name(name: Option<proto::ResourceName>) -> Result<ResourceName, WireError> {
    Ok(match required("name", name.and_then(|n| n.kind))? {
        resource_name::Kind::Address(a) => ResourceName::Address(a.try_into()?),
        resource_name::Kind::ServicePort(s) => ResourceName::ServicePort(s.try_into()?),
        resource_name::Kind::Endpoints(s) => ResourceName::Endpoints(s.try_into()?),
        resource_name::Kind::Inbound(_) => ResourceName::Inbound,
        resource_name::Kind::Bundle(_) => ResourceName::Bundle,
    })
}

impl From<&ResourceName> for proto::ResourceName {
    fn from(name: &ResourceName) -> Self {
        let kind = match name {
            ResourceName::Address(a) => resource_name::Kind::Address(a.into()),
            ResourceName::ServicePort(s) => resource_name::Kind::ServicePort(s.into()),
            ResourceName::Endpoints(s) => resource_name::Kind::Endpoints(s.into()),
            ResourceName::Inbound => resource_name::Kind::Inbound(proto::Unit {}),
            ResourceName::Bundle => resource_name::Kind::Bundle(proto::Unit {}),
        };
        Self { kind: Some(kind) }
    }
}

/// 4 or 16 bytes.
pub fn ip_bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}
pub fn ip(bytes: &[u8]) -> Result<IpAddr, WireError> {
    match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
        (Ok(v4), _) => Ok(v4.into()),
        (_, Ok(v6)) => Ok(v6.into()),
        _ => Err(WireError::Range { field: "length of an IP address", value: bytes.len() as u64 }),
    }
}

impl From<&SocketAddr> for proto::SocketAddress {
    fn from(a: &SocketAddr) -> Self {
        Self { ip: ip_bytes(a.ip()), port: a.port().into() }
    }
}
impl TryFrom<proto::SocketAddress> for SocketAddr {
    type Error = WireError;
    fn try_from(a: proto::SocketAddress) -> Result<Self, WireError> {
        Ok((ip(&a.ip)?, port("port of an address", a.port)?).into())
    }
}

impl From<&ServiceRef> for proto::ServiceRef {
    fn from(s: &ServiceRef) -> Self {
        Self { namespace: s.namespace.to_string(), name: s.name.to_string(), port: s.port.into() }
    }
}
impl TryFrom<proto::ServiceRef> for ServiceRef {
    type Error = WireError;
    fn try_from(s: proto::ServiceRef) -> Result<Self, WireError> {
        // Kubernetes' own limits: they bound the memory that a subscription can take
        for (field, text, max) in [("namespace of a Service", &s.namespace, 63), ("name of a Service", &s.name, 253)] {
            if text.is_empty() || text.len() > max {
                return Err(WireError::Range { field, value: text.len() as u64 });
            }
        }
        Ok(Self { namespace: s.namespace.into(), name: s.name.into(), port: port("port of a Service", s.port)? })
    }
}

impl From<&Bundle> for proto::TrustBundle {
    fn from(b: &Bundle) -> Self {
        Self {
            trust_domain: b.trust_domain().into(),
            version: b.version(),
            roots: b.roots().iter().map(|r| r.to_vec()).collect(),
            issuer: b.issuer().to_vec(),
        }
    }
}
impl TryFrom<proto::TrustBundle> for Bundle {
    type Error = WireError;
    fn try_from(b: proto::TrustBundle) -> Result<Self, WireError> {
        let roots = b.roots.into_iter().map(Into::into).collect();
        Bundle::new(&b.trust_domain, b.version, &b.issuer, roots).map_err(|e| WireError::invalid("bundle", e))
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
