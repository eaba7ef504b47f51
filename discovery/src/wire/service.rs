//! Targets, Service ports, endpoints and policies.

use super::{WireError, all, optional, port, required, route::nanos};
use crate::proto::{self, inbound_policy::Tls, service_port, target};
use std::{sync::Arc, time::Duration};
use weft_core::{
    authorization::Authorization,
    backend::RequestPolicy,
    endpoint::{Endpoint, Endpoints, MeshPeer},
    policy::{InboundPolicy, MeshTlsMode, Probe},
    retry::Timeouts,
    route::{HttpTable, Routes, Rule},
    service::{Protocol, ServicePort, Target},
};

impl From<&MeshPeer> for proto::MeshPeer {
    fn from(p: &MeshPeer) -> Self {
        Self { uid: p.uid.to_string(), identity: p.identity.uri().into() }
    }
}
impl TryFrom<proto::MeshPeer> for MeshPeer {
    type Error = WireError;
    fn try_from(p: proto::MeshPeer) -> Result<Self, WireError> {
        let identity = p.identity.parse().map_err(|e| WireError::invalid("identity of an endpoint", e))?;
        Ok(Self { uid: p.uid.into(), identity })
    }
}

impl From<&Endpoint> for proto::Endpoint {
    fn from(e: &Endpoint) -> Self {
        Self {
            address: Some((&e.address).into()),
            mesh: e.mesh.as_ref().map(Into::into),
            zone: e.zone.as_deref().map(Into::into),
            terminating: e.terminating,
            workload: e.workload.to_string(),
        }
    }
}
impl TryFrom<proto::Endpoint> for Endpoint {
    type Error = WireError;
    fn try_from(e: proto::Endpoint) -> Result<Self, WireError> {
        Ok(Self {
            address: required("address of an endpoint", e.address)?.try_into()?,
            mesh: optional(e.mesh)?,
            zone: e.zone.map(Into::into),
            terminating: e.terminating,
            workload: e.workload.into(),
        })
    }
}

impl From<&Endpoints> for proto::Endpoints {
    fn from(e: &Endpoints) -> Self {
        Self {
            service: Some((&e.service).into()),
            endpoints: e.endpoints.iter().map(|e| (&**e).into()).collect(),
            not_ready: e.not_ready,
            http2: e.http2,
            prefer_zone: e.prefer_zone,
            policy: super::backend::policy(&e.policy),
        }
    }
}
impl TryFrom<proto::Endpoints> for Endpoints {
    type Error = WireError;
    fn try_from(e: proto::Endpoints) -> Result<Self, WireError> {
        Ok(Self {
            service: required("service of endpoints", e.service)?.try_into()?,
            endpoints: all::<_, Endpoint>(e.endpoints)?.into_iter().map(Arc::new).collect(),
            not_ready: e.not_ready,
            http2: e.http2,
            prefer_zone: e.prefer_zone,
            policy: optional(e.policy)?.unwrap_or_default(),
        })
    }
}

impl From<&Target> for proto::Target {
    fn from(t: &Target) -> Self {
        let kind = match t {
            Target::Service(s) => target::Kind::Service(s.into()),
            Target::Workload(e) => target::Kind::Workload((&**e).into()),
            Target::Outside => target::Kind::Outside(proto::Unit {}),
        };
        Self { kind: Some(kind) }
    }
}
impl TryFrom<proto::Target> for Target {
    type Error = WireError;
    fn try_from(t: proto::Target) -> Result<Self, WireError> {
        Ok(match required("target", t.kind)? {
            target::Kind::Service(s) => Target::Service(s.try_into()?),
            target::Kind::Workload(e) => Target::Workload(Arc::new(e.try_into()?)),
            target::Kind::Outside(_) => Target::Outside,
        })
    }
}

impl From<&InboundPolicy> for proto::InboundPolicy {
    fn from(p: &InboundPolicy) -> Self {
        let tls = match p.tls {
            MeshTlsMode::Permissive => Tls::Permissive,
            MeshTlsMode::Strict => Tls::Strict,
        };
        let probe = |p: &Probe| proto::Probe { port: p.port.into(), path: p.path.as_deref().map(Into::into) };
        Self {
            tls: tls.into(),
            probes: p.probes.iter().map(probe).collect(),
            authorization: p.authorization.0.iter().map(|p| (&**p).into()).collect(),
        }
    }
}
impl TryFrom<proto::InboundPolicy> for InboundPolicy {
    type Error = WireError;
    fn try_from(p: proto::InboundPolicy) -> Result<Self, WireError> {
        // a mode that is not known must not become the permissive one
        let tls = match p.tls() {
            Tls::Permissive => MeshTlsMode::Permissive,
            Tls::Strict => MeshTlsMode::Strict,
            Tls::Unspecified => return Err(WireError::Missing("TLS mode of the inbound policy")),
        };
        let probe =
            |p: proto::Probe| Ok(Probe { port: port("port of a probe", p.port)?, path: p.path.map(Into::into) });
        let authorization = Authorization(super::authorization::policies(p.authorization)?);
        Ok(Self { tls, probes: p.probes.into_iter().map(probe).collect::<Result<_, WireError>>()?, authorization })
    }
}

impl From<&ServicePort> for proto::ServicePort {
    fn from(s: &ServicePort) -> Self {
        use service_port::Protocol as P;
        let protocol = match s.protocol {
            Protocol::Detect => P::Detect,
            Protocol::Http => P::Http,
            Protocol::Http2 => P::Http2,
            Protocol::Tls => P::Tls,
            Protocol::Opaque => P::Opaque,
        };
        let routes = match &s.routes {
            Routes::None => None,
            Routes::Http(t) => {
                let rules = t.rules.iter().map(|r| (&**r).into()).collect();
                Some(service_port::Routes::Http(proto::HttpRoutes { rules }))
            }
            Routes::Stream(t) => {
                let rules = t.iter().map(Into::into).collect();
                Some(service_port::Routes::Stream(proto::StreamRoutes { rules }))
            }
        };
        Self {
            service: Some((&s.service).into()),
            protocol: protocol.into(),
            affinity_ms: s.affinity.map(|d| d.as_millis().try_into().unwrap_or(u64::MAX)),
            addresses: s.addresses.iter().map(Into::into).collect(),
            request_timeout_ns: s.requests.timeouts.request.map(nanos),
            backend_timeout_ns: s.requests.timeouts.backend_request.map(nanos),
            retry: s.requests.retry.as_ref().map(Into::into),
            routes,
        }
    }
}
impl TryFrom<proto::ServicePort> for ServicePort {
    type Error = WireError;
    fn try_from(s: proto::ServicePort) -> Result<Self, WireError> {
        use service_port::Protocol as P;
        let protocol = match s.protocol() {
            P::Detect => Protocol::Detect,
            P::Http => Protocol::Http,
            P::Http2 => Protocol::Http2,
            P::Tls => Protocol::Tls,
            P::Opaque => Protocol::Opaque,
            P::Unspecified => return Err(WireError::Missing("protocol of a Service port")),
        };
        let routes = match s.routes {
            None => Routes::None,
            Some(service_port::Routes::Http(t)) => {
                let rules: Vec<Arc<Rule>> = all::<_, Rule>(t.rules)?.into_iter().map(Arc::new).collect();
                Routes::Http(Arc::new(HttpTable::from(rules)))
            }
            Some(service_port::Routes::Stream(t)) => Routes::Stream(Arc::new(all(t.rules)?)),
        };
        Ok(Self {
            service: required("service of a Service port", s.service)?.try_into()?,
            protocol,
            routes,
            affinity: s.affinity_ms.map(Duration::from_millis),
            addresses: all(s.addresses)?,
            requests: RequestPolicy {
                timeouts: Timeouts {
                    request: s.request_timeout_ns.map(Duration::from_nanos),
                    backend_request: s.backend_timeout_ns.map(Duration::from_nanos),
                },
                retry: optional(s.retry)?,
            },
        })
    }
}
