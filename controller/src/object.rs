//! The kinds that the controller reads, as one type.

use crate::{
    facts::PodFacts,
    source::{
        de::{self, Misfit},
        yaml::Node,
    },
};
use k8s_openapi::{
    Metadata, Resource,
    api::{
        apps::v1::{DaemonSet, Deployment, StatefulSet},
        core::v1::{Namespace, Node as ClusterNode, Pod, Service, ServiceAccount},
        discovery::v1::EndpointSlice,
        networking::v1::NetworkPolicy,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use std::{fmt, sync::Arc};
use weft_api::{
    AuthorizationPolicy, BackendTLSPolicy, GRPCRoute, Gateway, GatewayClass, HTTPRoute, ListenerSet, MeshTLSPolicy,
    ReferenceGrant, TCPRoute, TLSRoute, TrafficPolicy, UDPRoute, XBackend, XBackendTrafficPolicy, XMesh,
    XTelemetryPolicy,
};

/// A namespace and a name in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}
impl Name {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What an object is called. The namespace of cluster-wide objects is empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    pub kind: Kind,
    pub name: Name,
}
impl ObjectKey {
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, name: Name::new(namespace, name) }
    }
}
impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.name.namespace {
            "" => write!(f, "{} {}", self.kind, self.name.name),
            _ => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

macro_rules! objects {
    ($($kind:ident: $ty:ty, $namespaced:literal, $other_versions:expr;)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind { $($kind),* }
        impl Kind {
            pub const ALL: &'static [Kind] = &[$(Kind::$kind),*];
            pub fn as_str(self) -> &'static str { match self { $(Kind::$kind => <$ty as Resource>::KIND),* } }
            pub fn group(self) -> &'static str { match self { $(Kind::$kind => <$ty as Resource>::GROUP),* } }
            pub fn version(self) -> &'static str { match self { $(Kind::$kind => <$ty as Resource>::VERSION),* } }
            /// Further versions of the same shape.
            pub fn other_versions(self) -> &'static [&'static str] { match self { $(Kind::$kind => &$other_versions),* } }
            pub fn is_namespaced(self) -> bool { match self { $(Kind::$kind => $namespaced),* } }
        }
        /// An object. Cheap to clone.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Object { $($kind(Arc<$ty>)),* }
        impl Object {
            pub fn kind(&self) -> Kind { match self { $(Object::$kind(_) => Kind::$kind),* } }
            pub fn metadata(&self) -> &ObjectMeta { match self { $(Object::$kind(o) => Metadata::metadata(&**o)),* } }
            /// Reads an object of `kind`; beside it the fields that the kind does not have.
            pub fn read(kind: Kind, node: &Node) -> Result<(Object, Vec<Misfit>), Misfit> {
                match kind {
                    $(Kind::$kind => de::read::<$ty>(node).map(|(o, unknown)| (Object::$kind(Arc::new(o)), unknown)),)*
                }
            }
        }
        $(impl From<$ty> for Object {
            fn from(o: $ty) -> Self { Object::$kind(Arc::new(o)) }
        })*
    };
}
objects! {
    Namespace: Namespace, false, [];
    Service: Service, true, [];
    Pod: Pod, true, [];
    Node: ClusterNode, false, [];
    ServiceAccount: ServiceAccount, true, [];
    EndpointSlice: EndpointSlice, true, [];
    Deployment: Deployment, true, [];
    StatefulSet: StatefulSet, true, [];
    DaemonSet: DaemonSet, true, [];
    NetworkPolicy: NetworkPolicy, true, [];
    GatewayClass: GatewayClass, false, ["v1beta1"];
    Gateway: Gateway, true, ["v1beta1"];
    ListenerSet: ListenerSet, true, [];
    HTTPRoute: HTTPRoute, true, ["v1beta1"];
    GRPCRoute: GRPCRoute, true, [];
    TLSRoute: TLSRoute, true, ["v1alpha2", "v1alpha3"];
    TCPRoute: TCPRoute, true, ["v1alpha2"];
    UDPRoute: UDPRoute, true, ["v1alpha2"];
    ReferenceGrant: ReferenceGrant, true, ["v1beta1"];
    BackendTLSPolicy: BackendTLSPolicy, true, ["v1alpha3"];
    XMesh: XMesh, false, [];
    XBackend: XBackend, true, [];
    XBackendTrafficPolicy: XBackendTrafficPolicy, true, [];
    XTelemetryPolicy: XTelemetryPolicy, true, [];
    MeshTLSPolicy: MeshTLSPolicy, true, [];
    TrafficPolicy: TrafficPolicy, true, [];
    AuthorizationPolicy: AuthorizationPolicy, true, [];
}
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
impl Kind {
    /// A kind of Kubernetes itself, which every cluster has.
    pub fn is_core(self) -> bool {
        matches!(self.group(), "" | "apps" | "discovery.k8s.io") || self == Kind::NetworkPolicy
    }
    pub fn is_route(self) -> bool {
        matches!(self, Kind::HTTPRoute | Kind::GRPCRoute | Kind::TLSRoute | Kind::TCPRoute | Kind::UDPRoute)
    }
}

impl Object {
    pub fn key(&self) -> ObjectKey {
        let (kind, meta) = (self.kind(), self.metadata());
        // kubectl's default
        let namespace = if kind.is_namespaced() { meta.namespace.as_deref().unwrap_or("default") } else { "" };
        ObjectKey::new(kind, namespace, meta.name.as_deref().unwrap_or_default())
    }
    /// Seconds since the epoch; 0 when unknown, as in files.
    pub fn created(&self) -> i64 {
        self.metadata().creation_timestamp.as_ref().map_or(0, |t| t.0.as_second())
    }
}

/// Where an object stands in a file.
#[derive(Debug, PartialEq)]
pub struct Origin {
    /// As the user would name it.
    pub file: Arc<str>,
    pub node: Node,
}

/// An object and where it came from.
#[derive(Clone, Debug)]
pub struct Stored {
    pub object: Object,
    /// `None`: from a cluster.
    pub origin: Option<Arc<Origin>>,
    /// Of a Pod: what the mesh reads, from a source that does not keep all of the object. A Pod's type is 2 KB, and 2 KB more for each container.
    pub pod: Option<Arc<PodFacts>>,
}
impl Stored {
    /// Whether another state of an object is none for the mesh: only its place in a file may differ.
    pub fn means(&self, other: &Stored) -> bool {
        self.object == other.object && self.pod == other.pod
    }
}
impl From<Object> for Stored {
    fn from(object: Object) -> Self {
        Self { object, origin: None, pod: None }
    }
}
