//! GatewayClass, Gateway and ListenerSet.

use crate::{
    http::HTTPExternalAuthFilter,
    meta::{Condition, LabelSelector},
    shared::{GatewayDefaultScope, LocalObjectReference, ObjectReference, SecretObjectReference},
};
use std::collections::BTreeMap;

kind! {
    /// Which controller serves the Gateways of a class.
    GatewayClass, "gateway.networking.k8s.io", "v1", "gatewayclasses", ClusterResourceScope, GatewayClassSpec, GatewayClassStatus
}
shape! {
    pub struct GatewayClassSpec {
        controller_name: String,
        parameters_ref?: ParametersReference,
        description?: String,
    }
}
shape! {
    pub struct ParametersReference {
        group: String,
        kind: String,
        name: String,
        namespace?: String,
    }
}
shape! {
    pub struct GatewayClassStatus {
        conditions*: Condition,
        supported_features*: SupportedFeature,
    }
}
shape! {
    pub struct SupportedFeature {
        name: String,
    }
}

kind! {
    /// Listeners of an edge proxy.
    Gateway, "gateway.networking.k8s.io", "v1", "gateways", NamespaceResourceScope, GatewaySpec, GatewayStatus
}
shape! {
    pub struct GatewaySpec {
        gateway_class_name: String,
        listeners: Vec<Listener>,
        addresses*: GatewaySpecAddress,
        infrastructure?: GatewayInfrastructure,
        allowed_listeners?: AllowedListeners,
        tls?: GatewayTLSConfig,
        default_scope?: GatewayDefaultScope,
    }
}
shape! {
    pub struct AllowedListeners {
        namespaces?: FromNamespacesSelector,
    }
}
shape! {
    /// From which namespaces listeners or routes may attach.
    pub struct FromNamespacesSelector {
        from?: FromNamespaces,
        selector?: LabelSelector,
    }
}
words! { pub enum FromNamespaces { Same = "Same", All = "All", Selector = "Selector", None = "None" } }
shape! {
    /// A listener of a Gateway or ListenerSet.
    pub struct Listener {
        name: String,
        hostname?: String,
        port: u16,
        protocol: ProtocolType,
        tls?: ListenerTLSConfig,
        allowed_routes?: AllowedRoutes,
        filters?: ListenerFilters,
    }
}
words! { pub enum ProtocolType { HTTP = "HTTP", HTTPS = "HTTPS", TLS = "TLS", TCP = "TCP", UDP = "UDP" } }
shape! {
    /// Filters that run before routing (GEP-5224).
    pub struct ListenerFilters {
        requests*: ListenerFilter,
    }
}
shape! {
    pub struct ListenerFilter {
        r#type: ListenerFilterType,
        external_auth?: HTTPExternalAuthFilter,
        extension_ref?: LocalObjectReference,
    }
}
words! { pub enum ListenerFilterType { ExternalAuth = "ExternalAuth", ExtensionRef = "ExtensionRef" } }
shape! {
    pub struct ListenerTLSConfig {
        mode?: TLSModeType,
        certificate_refs*: SecretObjectReference,
        options?: BTreeMap<String, String>,
    }
}
words! { pub enum TLSModeType { Terminate = "Terminate", Passthrough = "Passthrough" } }
shape! {
    pub struct AllowedRoutes {
        namespaces?: FromNamespacesSelector,
        kinds*: RouteGroupKind,
    }
}
shape! {
    pub struct RouteGroupKind {
        group?: String,
        kind: String,
    }
}
shape! {
    pub struct GatewayTLSConfig {
        backend?: GatewayBackendTLS,
        frontend?: FrontendTLSConfig,
    }
}
shape! {
    pub struct GatewayBackendTLS {
        client_certificate_ref?: SecretObjectReference,
    }
}
shape! {
    pub struct FrontendTLSConfig {
        default: TLSConfig,
        per_port*: TLSPortConfig,
    }
}
shape! {
    pub struct TLSConfig {
        validation?: FrontendTLSValidation,
    }
}
shape! {
    pub struct TLSPortConfig {
        port: u16,
        tls: TLSConfig,
    }
}
shape! {
    pub struct FrontendTLSValidation {
        ca_certificate_refs: Vec<ObjectReference>,
        mode?: FrontendValidationModeType,
    }
}
words! { pub enum FrontendValidationModeType { AllowValidOnly = "AllowValidOnly", AllowInsecureFallback = "AllowInsecureFallback" } }
shape! {
    pub struct GatewaySpecAddress {
        r#type?: String,
        value?: String,
        /// Empty, `Cluster`, or a name with a domain (GEP-5093).
        routability?: String,
    }
}
shape! {
    pub struct GatewayStatusAddress {
        r#type?: String,
        value: String,
        routability?: String,
    }
}
shape! {
    pub struct GatewayInfrastructure {
        labels?: BTreeMap<String, String>,
        annotations?: BTreeMap<String, String>,
        parameters_ref?: LocalObjectReference,
    }
}
shape! {
    pub struct GatewayStatus {
        addresses*: GatewayStatusAddress,
        conditions*: Condition,
        listeners*: ListenerStatus,
        attached_listener_sets?: i32,
    }
}
shape! {
    /// The status of a listener of a Gateway or ListenerSet.
    pub struct ListenerStatus {
        name: String,
        supported_kinds*: RouteGroupKind,
        attached_routes: i32,
        conditions: Vec<Condition>,
    }
}

kind! {
    /// Further listeners of a Gateway (GEP-1713).
    ListenerSet, "gateway.networking.k8s.io", "v1", "listenersets", NamespaceResourceScope, ListenerSetSpec, ListenerSetStatus
}
shape! {
    pub struct ListenerSetSpec {
        parent_ref: ParentGatewayReference,
        listeners: Vec<Listener>,
    }
}
shape! {
    pub struct ParentGatewayReference {
        group?: String,
        kind?: String,
        name: String,
        namespace?: String,
    }
}
shape! {
    pub struct ListenerSetStatus {
        conditions*: Condition,
        listeners*: ListenerStatus,
    }
}
