//! Kinds of `weft.dev`, shaped as the Gateway API shapes policies (GEP-713), so that objects can move over when the API has its own.

use crate::{
    experimental::RetryConstraint,
    http::HTTPRouteTimeouts,
    meta::{Duration, LabelSelector},
    policy::{LocalPolicyTargetReferenceWithSectionName, PolicyStatus},
};

kind! {
    /// Whether workloads accept plain text. The policy on the workload wins over that on the namespace, and that over the mesh's.
    MeshTLSPolicy, "weft.dev", "v1alpha1", "meshtlspolicies", NamespaceResourceScope, MeshTLSPolicySpec, PolicyStatus
}
shape! {
    pub struct MeshTLSPolicySpec {
        /// 1 to 16.
        target_refs: Vec<WorkloadTargetReference>,
        mode: MeshTLSMode,
    }
}
shape! {
    /// The mesh (`gateway.networking.x-k8s.io/XMesh`, only from the mesh's own namespace), the policy's own namespace (`Namespace`), a
    /// `ServiceAccount` by name, or `Pod`s by name or by labels.
    pub struct WorkloadTargetReference {
        group: String,
        kind: String,
        name?: String,
        /// Only with kind `Pod`, in place of a name.
        selector?: LabelSelector,
    }
}
words! {
    pub enum MeshTLSMode { Permissive = "Permissive", Strict = "Strict" }
}

kind! {
    /// Retries, timeouts, budgets, balancing and limits where the Gateway API has no field for them, and for GRPCRoutes. Targets a
    /// Service (`sectionName`: a port's name), an HTTPRoute or a GRPCRoute (`sectionName`: a rule's name). A field of the route itself wins.
    TrafficPolicy, "weft.dev", "v1alpha1", "trafficpolicies", NamespaceResourceScope, TrafficPolicySpec, PolicyStatus
}
shape! {
    pub struct TrafficPolicySpec {
        /// 1 to 16.
        target_refs: Vec<LocalPolicyTargetReferenceWithSectionName>,
        timeouts?: HTTPRouteTimeouts,
        retry?: TrafficRetry,
        /// As in XBackendTrafficPolicy; only for Services.
        retry_constraint?: RetryConstraint,
        outlier_detection?: OutlierDetection,
        load_balancing?: LoadBalancing,
        connection_limits?: ConnectionLimits,
        local_rate_limit?: LocalRateLimit,
    }
}
shape! {
    pub struct TrafficRetry {
        /// HTTP status codes, 400 to 599.
        codes*: u16,
        /// gRPC status codes, 1 to 16.
        grpc_codes*: u16,
        /// Tries beyond the first; 1 when absent, 0 forbids every retry.
        attempts?: u32,
        backoff?: Duration,
    }
}
shape! {
    pub struct OutlierDetection {
        /// Failures in a row that eject an endpoint.
        consecutive_failures?: u32,
        /// How long the first ejection lasts.
        base_ejection_time?: Duration,
        /// The share of endpoints that may be ejected at once, in percent.
        max_ejection_percent?: u32,
    }
}
shape! {
    pub struct LoadBalancing {
        r#type: LoadBalancingType,
    }
}
words! {
    pub enum LoadBalancingType { LeastLatency = "LeastLatency", RoundRobin = "RoundRobin", Random = "Random" }
}
shape! {
    pub struct ConnectionLimits {
        max_connections?: u32,
        max_requests?: u32,
        max_pending_requests?: u32,
    }
}
shape! {
    pub struct LocalRateLimit {
        requests: u32,
        interval: Duration,
        /// Requests beyond the rate that may come at once.
        burst?: u32,
    }
}

kind! {
    /// Who may call workloads (GEP-3779's shape). No policy: everybody. Any `Allow` policy: only what its rules take. A `Deny` rule wins.
    AuthorizationPolicy, "weft.dev", "v1alpha1", "authorizationpolicies", NamespaceResourceScope, AuthorizationPolicySpec, PolicyStatus
}
shape! {
    pub struct AuthorizationPolicySpec {
        /// 1 to 16.
        target_refs: Vec<WorkloadTargetReference>,
        /// `Allow` when absent.
        action?: AuthorizationAction,
        /// `Enforce` when absent.
        mode?: AuthorizationMode,
        rules*: AuthorizationRule,
    }
}
words! {
    pub enum AuthorizationAction { Allow = "Allow", Deny = "Deny" }
}
words! {
    pub enum AuthorizationMode { Enforce = "Enforce", DryRun = "DryRun" }
}
shape! {
    /// All parts must hold.
    pub struct AuthorizationRule {
        /// Everybody when absent, nobody when empty.
        sources?: Vec<AuthorizationSource>,
        network_attributes?: NetworkAttributes,
        /// HTTP or not when absent.
        http?: Vec<AuthorizationHttp>,
    }
}
shape! {
    pub struct AuthorizationSource {
        r#type: AuthorizationSourceType,
        service_account?: AuthorizationServiceAccount,
        spiffe?: String,
        namespace?: String,
    }
}
words! {
    pub enum AuthorizationSourceType { ServiceAccount = "ServiceAccount", SPIFFE = "SPIFFE", Namespace = "Namespace" }
}
shape! {
    pub struct AuthorizationServiceAccount {
        /// The policy's own when absent.
        namespace?: String,
        name: String,
    }
}
shape! {
    pub struct NetworkAttributes {
        /// Of the application; all when empty.
        ports*: u16,
    }
}
shape! {
    /// What is empty takes all.
    pub struct AuthorizationHttp {
        methods*: String,
        paths*: AuthorizationPath,
    }
}
shape! {
    pub struct AuthorizationPath {
        /// `PathPrefix` when absent.
        r#type?: AuthorizationPathType,
        value: String,
    }
}
words! {
    pub enum AuthorizationPathType { Exact = "Exact", PathPrefix = "PathPrefix" }
}
