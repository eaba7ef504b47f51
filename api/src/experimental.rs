//! Kinds of the experimental channel: XMesh, XBackend, XBackendTrafficPolicy, XTelemetryPolicy.

use crate::{
    gateway::{ParametersReference, SupportedFeature},
    http::HTTPHeader,
    meta::{Condition, Duration},
    policy::{BackendTLSPolicyValidation, LocalPolicyTargetReference, PolicyStatus},
    shared::{
        BackendObjectReference, Fraction, LocalObjectReference, ParentReference, SecretObjectReference,
        SessionPersistence,
    },
};
use std::collections::BTreeMap;

kind! {
    /// The mesh as an object (GEP-3949).
    XMesh, "gateway.networking.x-k8s.io", "v1alpha1", "xmeshes", ClusterResourceScope, MeshSpec, MeshStatus
}
shape! {
    pub struct MeshSpec {
        controller_name: String,
        parameters_ref?: ParametersReference,
        description?: String,
    }
}
shape! {
    pub struct MeshStatus {
        conditions*: Condition,
        supported_features*: SupportedFeature,
    }
}

kind! {
    /// A backend that is no Service (GEP-4894).
    XBackend, "gateway.networking.x-k8s.io", "v1alpha1", "xbackends", NamespaceResourceScope, BackendSpec, BackendStatus
}
shape! {
    pub struct BackendSpec {
        r#type: BackendType,
        port: BackendPort,
        external_hostname?: ExternalHostnameBackend,
        endpoint_selector?: EndpointSelectorBackend,
        session_persistence?: SessionPersistence,
        protocol?: BackendProtocol,
        tls?: BackendTLS,
    }
}
words! { pub enum BackendType { ExternalHostname = "ExternalHostname", EndpointSelector = "EndpointSelector" } }
shape! {
    pub struct BackendPort {
        number?: u16,
    }
}
shape! {
    pub struct ExternalHostnameBackend {
        hostname: String,
    }
}
shape! {
    pub struct EndpointSelectorBackend {
        match_labels: BTreeMap<String, String>,
    }
}
words! {
    pub enum BackendProtocol {
        TCP = "TCP", HTTP = "HTTP", HTTP11 = "HTTP11", HTTP2 = "HTTP2", H2C = "H2C", GRPC = "GRPC", WSS = "WSS", MCP = "MCP",
    }
}
shape! {
    pub struct BackendTLS {
        mode: BackendTLSMode,
        client_certificate_ref?: SecretObjectReference,
        validation?: BackendTLSPolicyValidation,
    }
}
words! { pub enum BackendTLSMode { None = "None", ServerOnly = "ServerOnly", ClientAndServer = "ClientAndServer" } }
shape! {
    pub struct BackendStatus {
        ancestors*: BackendAncestorStatus,
    }
}
shape! {
    pub struct BackendAncestorStatus {
        controller_name: String,
        ancestor_ref: ParentReference,
        conditions*: Condition,
    }
}

kind! {
    /// Retry budgets of a Service (GEP-3388).
    XBackendTrafficPolicy, "gateway.networking.x-k8s.io", "v1alpha1", "xbackendtrafficpolicies", NamespaceResourceScope,
    BackendTrafficPolicySpec, PolicyStatus
}
shape! {
    pub struct BackendTrafficPolicySpec {
        target_refs: Vec<LocalPolicyTargetReference>,
        retry_constraint?: RetryConstraint,
        session_persistence?: SessionPersistence,
    }
}
shape! {
    pub struct RetryConstraint {
        budget?: BudgetDetails,
        min_retry_rate?: RequestRate,
    }
}
shape! {
    pub struct BudgetDetails {
        /// 20 when absent.
        percent?: u32,
        /// 10 s when absent.
        interval?: Duration,
    }
}
shape! {
    pub struct RequestRate {
        count?: u32,
        interval?: Duration,
    }
}

kind! {
    /// Tracing of a Gateway (GEP-4768).
    XTelemetryPolicy, "gateway.networking.x-k8s.io", "v1alpha1", "xtelemetrypolicies", NamespaceResourceScope,
    TelemetryPolicySpec, PolicyStatus
}
shape! {
    pub struct TelemetryPolicySpec {
        target_refs: Vec<LocalObjectReference>,
        tracing?: TracingConfig,
    }
}
shape! {
    pub struct TracingConfig {
        mode?: TelemetryMode,
        provider?: TracingProvider,
        sampling_rate?: Fraction,
        parent_based_sampling?: ParentBasedSampling,
        service_name?: String,
        span_name?: String,
        attributes*: TelemetryAttribute,
    }
}
words! {
    pub enum TelemetryMode { ImplementationDefault = "ImplementationDefault", Enabled = "Enabled", Disabled = "Disabled" }
}
shape! {
    pub struct TracingProvider {
        backend_ref: BackendObjectReference,
        headers*: HTTPHeader,
    }
}
shape! {
    pub struct ParentBasedSampling {
        mode?: TelemetryMode,
        sampling_rate?: Fraction,
    }
}
shape! {
    pub struct TelemetryAttribute {
        name: String,
        source_type: AttributeSourceType,
        header_name?: String,
        literal_value?: String,
        attribute_key?: String,
    }
}
words! { pub enum AttributeSourceType { Header = "Header", Literal = "Literal", Attribute = "Attribute" } }
