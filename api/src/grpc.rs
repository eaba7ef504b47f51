//! GRPCRoute.

use crate::{
    http::{HTTPHeaderFilter, HTTPRequestMirrorFilter, MatchType},
    shared::{
        BackendObjectReference, GatewayDefaultScope, LocalObjectReference, ParentReference, RouteStatus,
        SessionPersistence,
    },
};

kind! {
    /// Routes gRPC calls by service, method and metadata.
    GRPCRoute, "gateway.networking.k8s.io", "v1", "grpcroutes", NamespaceResourceScope, GRPCRouteSpec, RouteStatus
}

shape! {
    pub struct GRPCRouteSpec {
        parent_refs*: ParentReference,
        use_default_gateways?: GatewayDefaultScope,
        hostnames*: String,
        rules*: GRPCRouteRule,
    }
}
shape! {
    pub struct GRPCRouteRule {
        name?: String,
        matches*: GRPCRouteMatch,
        filters*: GRPCRouteFilter,
        backend_refs*: GRPCBackendRef,
        session_persistence?: SessionPersistence,
    }
}
shape! {
    pub struct GRPCRouteMatch {
        method?: GRPCMethodMatch,
        headers*: GRPCHeaderMatch,
    }
}
shape! {
    pub struct GRPCMethodMatch {
        r#type?: MatchType,
        service?: String,
        method?: String,
    }
}
shape! {
    pub struct GRPCHeaderMatch {
        r#type?: MatchType,
        name: String,
        value: String,
    }
}
shape! {
    pub struct GRPCRouteFilter {
        r#type: GRPCRouteFilterType,
        request_header_modifier?: HTTPHeaderFilter,
        response_header_modifier?: HTTPHeaderFilter,
        request_mirror?: HTTPRequestMirrorFilter,
        extension_ref?: LocalObjectReference,
    }
}
words! {
    pub enum GRPCRouteFilterType {
        RequestHeaderModifier = "RequestHeaderModifier", ResponseHeaderModifier = "ResponseHeaderModifier", RequestMirror = "RequestMirror",
        ExtensionRef = "ExtensionRef",
    }
}
shape! {
    pub struct GRPCBackendRef {
        group?: String,
        kind?: String,
        name: String,
        namespace?: String,
        port?: u16,
        weight?: u32,
        filters*: GRPCRouteFilter,
    }
}
impl GRPCBackendRef {
    /// The reference without weight and filters.
    pub fn object(&self) -> BackendObjectReference {
        BackendObjectReference {
            group: self.group.clone(),
            kind: self.kind.clone(),
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            port: self.port,
        }
    }
}
