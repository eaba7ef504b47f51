//! Kubernetes-facing types: Gateway API v1.7.0 of both channels and the kinds of `weft.dev`. No logic.
//!
//! One set of types serves both channels, since each experimental schema is a superset of its standard one and every further field is optional.
//! Words that the API may add to (filter types, match types, reasons) keep what they do not know in `Unknown`, so that a newer object
//! degrades one rule and never the list that it came in. Fields are as the user wrote them: the API server's defaults are applied where
//! objects are converted, because objects from files have never met an API server.
//!
//! `tests/schema` holds every type to the vendored CRDs (`crds/`), `tests/round_trip.rs` to the API's own examples.
//!
//! Core kinds (Service, Pod, Namespace, ...) are those of `k8s-openapi`. Its `Resource` and `Metadata` are implemented for every kind here, which makes
//! each a `kube::Resource` without depending on kube.

#[macro_use]
mod macros;

pub mod experimental;
pub mod gateway;
pub mod grant;
pub mod grpc;
pub mod http;
pub mod meta;
pub mod policy;
pub mod shared;
pub mod stream;
pub mod weft;

pub use experimental::{XBackend, XBackendTrafficPolicy, XMesh, XTelemetryPolicy};
pub use gateway::{Gateway, GatewayClass, ListenerSet};
pub use grant::ReferenceGrant;
pub use grpc::GRPCRoute;
pub use http::HTTPRoute;
pub use k8s_openapi;
pub use meta::{Condition, Duration, DurationError, LabelSelector, ObjectMeta};
pub use policy::BackendTLSPolicy;
pub use stream::{TCPRoute, TLSRoute, UDPRoute};
pub use weft::{AuthorizationPolicy, MeshTLSPolicy, TrafficPolicy};

/// The API group of the standard kinds.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// The API group of the experimental kinds.
pub const EXPERIMENTAL_GROUP: &str = "gateway.networking.x-k8s.io";
/// The API group of Weft's own kinds.
pub const WEFT_GROUP: &str = "weft.dev";
/// What Weft calls itself in `controllerName`.
pub const CONTROLLER_NAME: &str = "weft.dev/gateway-controller";
