//! Routes of byte streams and datagrams: TLSRoute, TCPRoute, UDPRoute.

use crate::shared::{BackendRef, GatewayDefaultScope, ParentReference, RouteStatus};

kind! {
    /// Routes TLS connections by the server name that the client asks for.
    TLSRoute, "gateway.networking.k8s.io", "v1", "tlsroutes", NamespaceResourceScope, TLSRouteSpec, RouteStatus
}
kind! {
    /// Routes TCP connections.
    TCPRoute, "gateway.networking.k8s.io", "v1", "tcproutes", NamespaceResourceScope, TCPRouteSpec, RouteStatus
}
kind! {
    /// Routes UDP datagrams.
    UDPRoute, "gateway.networking.k8s.io", "v1", "udproutes", NamespaceResourceScope, UDPRouteSpec, RouteStatus
}

shape! {
    pub struct TLSRouteSpec {
        parent_refs*: ParentReference,
        use_default_gateways?: GatewayDefaultScope,
        /// Server names, `*.` wildcards allowed. Required in v1, but not in v1alpha2, which the experimental channel still serves and of which the API
        /// server gives out stored objects as v1; without any, every name matches.
        hostnames*: String,
        rules: Vec<StreamRouteRule>,
    }
}
shape! {
    pub struct TCPRouteSpec {
        parent_refs*: ParentReference,
        use_default_gateways?: GatewayDefaultScope,
        rules: Vec<StreamRouteRule>,
    }
}
shape! {
    pub struct UDPRouteSpec {
        parent_refs*: ParentReference,
        use_default_gateways?: GatewayDefaultScope,
        rules: Vec<StreamRouteRule>,
    }
}
shape! {
    /// The rule of TLSRoute, TCPRoute and UDPRoute.
    pub struct StreamRouteRule {
        name?: String,
        backend_refs: Vec<BackendRef>,
    }
}
