//! The question: who calls whom with what, as people write it.

use crate::{facts::PodFacts, index::Index, object::Name, source::suggest};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use weft_core::{
    matches::RequestHead,
    service::{ServicePort, ServiceRef},
};

/// `weft explain FROM TO`.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// A namespace, or `namespace/pod` (the beginning of a pod's name is enough).
    pub from: String,
    /// `ip:port`, `service:port`, `service.namespace:port` (with or without `.svc.cluster.local`) or `namespace/service:port`. The port may be left out where there is only one.
    pub to: String,
    /// GET when empty.
    pub method: String,
    /// Path and query; `/` when empty.
    pub path: String,
    pub headers: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    #[error("{0} is no namespace and no pod ({1})")]
    From(String, String),
    #[error("{0} is no Service and no address ({1})")]
    To(String, String),
    #[error("Service {0} has no TCP port {1} ({2})")]
    Port(String, String, String),
}

pub(super) struct Asked {
    pub namespace: Arc<str>,
    pub pod: Option<Arc<PodFacts>>,
    /// As it was asked for.
    pub named: String,
    pub address: Option<SocketAddr>,
    pub service: Option<ServiceRef>,
    pub port: u16,
}

pub(super) fn resolve(index: &Index, q: &Question) -> Result<Asked, AskError> {
    let (namespace, pod) = caller(index, &q.from)?;
    if let Some(address) = address(&q.to) {
        return Ok(Asked {
            namespace,
            pod,
            named: q.to.clone(),
            address: Some(address),
            service: None,
            port: address.port(),
        });
    }
    let (host, port) = match q.to.rsplit_once(':') {
        Some((h, p)) => (h, Some(p)),
        None => (q.to.as_str(), None),
    };
    let host = host.trim_end_matches('.');
    let name = match host.split_once('/') {
        Some((ns, name)) => Name::new(ns, name),
        None => {
            // as the resolver reads it: service, service.namespace, service.namespace.svc...
            let mut parts = host.split('.');
            let (name, ns) = (parts.next().unwrap_or_default(), parts.next());
            Name { namespace: ns.map_or_else(|| namespace.clone(), Into::into), name: name.into() }
        }
    };
    let Some(service) = index.service(&name) else {
        let near = suggest::nearest(&name.name, index.services_of(&name.namespace).map(|s| &*s.name.name));
        let fix =
            near.map_or_else(|| format!("{} has no such Service", name.namespace), |n| format!("did you mean {n}?"));
        return Err(AskError::To(q.to.clone(), fix));
    };
    let known: Vec<String> = service.ports.iter().map(|p| p.port.to_string()).collect();
    let wrong =
        |asked: &str| AskError::Port(name.to_string(), asked.into(), format!("its ports are {}", known.join(", ")));
    let port = match (port, &service.ports[..]) {
        (None, [only]) => only.port,
        (None, _) => 80,
        (Some(p), ports) => match p.parse() {
            Ok(n) => n,
            Err(_) => ports.iter().find(|x| x.name.as_deref() == Some(p)).map(|x| x.port).ok_or_else(|| wrong(p))?,
        },
    };
    if service.port(port).is_none() {
        return Err(wrong(&port.to_string()));
    }
    let address = service.ips.first().map(|ip| SocketAddr::new(*ip, port));
    let service = ServiceRef { namespace: name.namespace, name: name.name, port };
    Ok(Asked { namespace, pod, named: q.to.clone(), address, service: Some(service), port })
}

fn address(text: &str) -> Option<SocketAddr> {
    let ip = |t: &str| t.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 80));
    text.parse().ok().or_else(|| ip(text))
}

fn caller(index: &Index, from: &str) -> Result<(Arc<str>, Option<Arc<PodFacts>>), AskError> {
    let namespaces = index.namespaces();
    match from.split_once('/') {
        None => match namespaces.get(from) {
            Some(n) => Ok((n.clone(), None)),
            None => {
                let near = suggest::nearest(from, namespaces.iter().map(|n| &**n));
                let fix = near
                    .map_or_else(|| "write a namespace, or namespace/pod".to_owned(), |n| format!("did you mean {n}?"));
                Err(AskError::From(from.into(), fix))
            }
        },
        Some((ns, name)) => {
            let namespace: Arc<str> = ns.into();
            let exact = index.pod(&Name::new(ns, name)).cloned();
            let found = exact.or_else(|| index.pods_of(&namespace).find(|p| p.name.name.starts_with(name)).cloned());
            let pods = || index.pods_of(&namespace).map(|p| &*p.name.name);
            match found {
                Some(pod) => Ok((namespace.clone(), Some(pod))),
                None => {
                    let near = suggest::nearest(name, pods());
                    let fix =
                        near.map_or_else(|| format!("{ns} has no such pod"), |n| format!("did you mean {ns}/{n}?"));
                    Err(AskError::From(from.into(), fix))
                }
            }
        }
    }
}

/// The request as matching reads it.
pub(super) struct Head {
    method: String,
    pub target: String,
    authority: String,
    headers: Vec<(String, String)>,
}
impl Head {
    pub fn of(q: &Question, port: &ServicePort) -> Self {
        let or = |s: &str, default: &str| if s.is_empty() { default.to_owned() } else { s.to_owned() };
        let host = q.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case("host")).map(|(_, v)| v.clone());
        let grpc = matches!(&port.routes, weft_core::route::Routes::Http(t) if t.is_grpc());
        // gRPC calls are POST requests, whoever leaves the method out
        let method = if grpc && q.method == "GET" { "" } else { &q.method };
        Self {
            method: or(method, if grpc { "POST" } else { "GET" }),
            target: or(&q.path, "/"),
            authority: host.unwrap_or_else(|| format!("{}.{}", port.service.name, port.service.namespace)),
            headers: q.headers.iter().map(|(n, v)| (n.to_ascii_lowercase(), v.clone())).collect(),
        }
    }
}
impl RequestHead for Head {
    fn method(&self) -> &[u8] {
        self.method.as_bytes()
    }
    fn path_and_query(&self) -> &[u8] {
        self.target.as_bytes()
    }
    fn authority(&self) -> &[u8] {
        self.authority.as_bytes()
    }
    fn any_value(&self, name: &str, found: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.headers.iter().filter(|(n, _)| n == name).any(|(_, v)| found(v.as_bytes()))
    }
    fn each_field(&self, see: &mut dyn FnMut(&[u8], &[u8])) {
        self.headers.iter().for_each(|(n, v)| see(n.as_bytes(), v.as_bytes()));
    }
}
