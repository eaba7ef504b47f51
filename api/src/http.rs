//! HTTPRoute.

use crate::{
    meta::Duration,
    shared::{
        BackendObjectReference, BackendRef, Fraction, GatewayDefaultScope, LocalObjectReference, ParentReference,
        RouteStatus, SessionPersistence,
    },
};

kind! {
    /// Routes HTTP requests of a Gateway's listeners, or of callers of a Service.
    HTTPRoute, "gateway.networking.k8s.io", "v1", "httproutes", NamespaceResourceScope, HTTPRouteSpec, RouteStatus
}

shape! {
    pub struct HTTPRouteSpec {
        parent_refs*: ParentReference,
        use_default_gateways?: GatewayDefaultScope,
        hostnames*: String,
        rules*: HTTPRouteRule,
    }
}

shape! {
    pub struct HTTPRouteRule {
        name?: String,
        /// Alternatives; one that matches everything when absent.
        matches*: HTTPRouteMatch,
        filters*: HTTPRouteFilter,
        backend_refs*: HTTPBackendRef,
        timeouts?: HTTPRouteTimeouts,
        retry?: HTTPRouteRetry,
        session_persistence?: SessionPersistence,
    }
}

shape! {
    pub struct HTTPRouteMatch {
        path?: HTTPPathMatch,
        headers*: HTTPHeaderMatch,
        query_params*: HTTPQueryParamMatch,
        method?: HTTPMethod,
    }
}
shape! {
    pub struct HTTPPathMatch {
        /// `PathPrefix` when absent.
        r#type?: PathMatchType,
        /// `/` when absent.
        value?: String,
    }
}
words! { pub enum PathMatchType { Exact = "Exact", PathPrefix = "PathPrefix", RegularExpression = "RegularExpression" } }
words! {
    /// How a header, a query parameter or a gRPC method is compared; `Exact` when absent.
    pub enum MatchType { Exact = "Exact", RegularExpression = "RegularExpression" }
}
shape! {
    pub struct HTTPHeaderMatch {
        r#type?: MatchType,
        name: String,
        value: String,
    }
}
shape! {
    pub struct HTTPQueryParamMatch {
        r#type?: MatchType,
        name: String,
        value: String,
    }
}
words! {
    pub enum HTTPMethod {
        Get = "GET", Head = "HEAD", Post = "POST", Put = "PUT", Delete = "DELETE", Connect = "CONNECT", Options = "OPTIONS", Trace = "TRACE",
        Patch = "PATCH",
    }
}

shape! {
    /// One filter; `type` says which of the other fields is set.
    pub struct HTTPRouteFilter {
        r#type: HTTPRouteFilterType,
        request_header_modifier?: HTTPHeaderFilter,
        response_header_modifier?: HTTPHeaderFilter,
        request_mirror?: HTTPRequestMirrorFilter,
        request_redirect?: HTTPRequestRedirectFilter,
        url_rewrite?: HTTPURLRewriteFilter,
        cors?: HTTPCORSFilter,
        external_auth?: HTTPExternalAuthFilter,
        extension_ref?: LocalObjectReference,
    }
}
words! {
    pub enum HTTPRouteFilterType {
        RequestHeaderModifier = "RequestHeaderModifier", ResponseHeaderModifier = "ResponseHeaderModifier", RequestMirror = "RequestMirror",
        RequestRedirect = "RequestRedirect", URLRewrite = "URLRewrite", CORS = "CORS", ExternalAuth = "ExternalAuth", ExtensionRef = "ExtensionRef",
    }
}
shape! {
    pub struct HTTPHeader {
        name: String,
        value: String,
    }
}
shape! {
    pub struct HTTPHeaderFilter {
        set*: HTTPHeader,
        add*: HTTPHeader,
        remove*: String,
    }
}
shape! {
    pub struct HTTPRequestMirrorFilter {
        backend_ref: BackendObjectReference,
        percent?: u32,
        fraction?: Fraction,
    }
}
shape! {
    pub struct HTTPRequestRedirectFilter {
        scheme?: RedirectScheme,
        hostname?: String,
        path?: HTTPPathModifier,
        port?: u16,
        /// 302 when absent.
        status_code?: u16,
    }
}
words! { pub enum RedirectScheme { Http = "http", Https = "https" } }
shape! {
    pub struct HTTPURLRewriteFilter {
        hostname?: String,
        path?: HTTPPathModifier,
    }
}
shape! {
    pub struct HTTPPathModifier {
        r#type: HTTPPathModifierType,
        replace_full_path?: String,
        replace_prefix_match?: String,
    }
}
words! { pub enum HTTPPathModifierType { ReplaceFullPath = "ReplaceFullPath", ReplacePrefixMatch = "ReplacePrefixMatch" } }
shape! {
    /// GEP-1767.
    pub struct HTTPCORSFilter {
        allow_origins*: String,
        allow_credentials?: bool,
        allow_methods*: HTTPMethodWithWildcard,
        allow_headers*: String,
        expose_headers*: String,
        /// Seconds; 5 when absent.
        max_age?: u32,
    }
}
words! {
    pub enum HTTPMethodWithWildcard {
        Get = "GET", Head = "HEAD", Post = "POST", Put = "PUT", Delete = "DELETE", Connect = "CONNECT", Options = "OPTIONS", Trace = "TRACE",
        Patch = "PATCH", Any = "*",
    }
}
shape! {
    /// GEP-1494.
    pub struct HTTPExternalAuthFilter {
        protocol: ExternalAuthProtocol,
        backend_ref: BackendObjectReference,
        grpc?: GRPCAuthConfig,
        http?: HTTPAuthConfig,
        forward_body?: ForwardBodyConfig,
    }
}
words! { pub enum ExternalAuthProtocol { HTTP = "HTTP", GRPC = "GRPC" } }
shape! {
    pub struct GRPCAuthConfig {
        allowed_headers*: String,
    }
}
shape! {
    pub struct HTTPAuthConfig {
        path?: String,
        allowed_headers*: String,
        allowed_response_headers*: String,
    }
}
shape! {
    pub struct ForwardBodyConfig {
        /// Bytes.
        max_size?: u32,
    }
}

shape! {
    pub struct HTTPBackendRef {
        group?: String,
        kind?: String,
        name: String,
        namespace?: String,
        port?: u16,
        weight?: u32,
        filters*: HTTPRouteFilter,
    }
}
impl HTTPBackendRef {
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
    /// The reference and its weight, without filters.
    pub fn backend_ref(&self) -> BackendRef {
        BackendRef {
            group: self.group.clone(),
            kind: self.kind.clone(),
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            port: self.port,
            weight: self.weight,
        }
    }
}

shape! {
    /// GEP-1742.
    pub struct HTTPRouteTimeouts {
        request?: Duration,
        backend_request?: Duration,
    }
}
shape! {
    /// GEP-1731.
    pub struct HTTPRouteRetry {
        /// 400 to 599.
        codes*: u16,
        /// Tries beyond the first; 1 when absent, 0 forbids every retry. The schema sets no upper bound: more than `u32::MAX` is read as that.
        #[serde(deserialize_with = "crate::shared::saturated")]
        attempts?: u32,
        backoff?: Duration,
    }
}
