//! Causes: why a request got no answer from a backend. Each becomes a status code, a gRPC status, the `weft-error` header and a metric label in exactly one place, here.
//!
//! A cause is a [`Kind`] (the closed list that metrics, retries and status codes know) and a detail for people. The side says who is to blame; the retry class says what
//! is known of the request: whether its backend may have seen it.
//!
//! | kind | HTTP | gRPC | side | retry |
//! |---|---|---|---|---|
//! | no rule matches | 404 | UNIMPLEMENTED | mesh | never |
//! | rule without backends, all weights 0, backend invalid, filter unsupported | 500 | UNAVAILABLE | mesh | never |
//! | no endpoint ready | 503 | UNAVAILABLE | upstream | unprocessed |
//! | connection refused, timed out, TLS failed, stream refused | 503 | UNAVAILABLE | upstream | unprocessed |
//! | reset before the response, bytes that are no response | 502 | UNAVAILABLE | upstream | processed |
//! | reset within the response | none: the response is cut off | UNAVAILABLE | upstream | never |
//! | `timeouts.request` | 504 | DEADLINE_EXCEEDED | upstream | never |
//! | `timeouts.backendRequest` | 504 | DEADLINE_EXCEEDED | upstream | attempt |
//! | too many streams, no memory, retry budget spent | 503 | UNAVAILABLE | mesh | never |
//! | bad request, head or target too large, identity not allowed | 400, 431, 414, 403 | INTERNAL, PERMISSION_DENIED | downstream | never |
//!
//! (Gateway API: HTTPRouteRule.backendRefs, GRPCRouteRule.backendRefs, HTTPRouteTimeouts, GEP-3388; "processed" is retried by no default, GEP-1731.)

use serde::{Deserialize, Serialize};
use std::{borrow::Cow, fmt};

/// Why a backendRef leads nowhere (Gateway API, `ResolvedRefs`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum Invalid {
    #[error("Service {0} does not exist")]
    BackendNotFound(Box<str>),
    #[error("kind {0} is not supported as a backend")]
    InvalidKind(Box<str>),
    #[error("no ReferenceGrant allows {0}")]
    RefNotPermitted(Box<str>),
    #[error("Service {0} has no such port")]
    PortNotFound(Box<str>),
    #[error("{0}")]
    Unsupported(Box<str>),
}

/// Who is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The client and what it sent.
    Downstream,
    /// The backend, its proxy, and the way there.
    Upstream,
    /// Configuration and this proxy's own limits.
    Mesh,
}

/// What a failure says about trying again. [`crate::retry::RetryPolicy`] decides what is done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Another try gets the same answer, or there is no time for one.
    Never,
    /// Provably not processed by an application: safe for every method.
    Unprocessed,
    /// One attempt used up its time: retryable where a policy is set.
    Attempt,
    /// The application may have processed it: idempotent requests on a reused connection at most.
    Processed,
}

/// gRPC status codes that a mesh answers with.
pub mod grpc {
    pub const DEADLINE_EXCEEDED: u8 = 4;
    pub const PERMISSION_DENIED: u8 = 7;
    pub const RESOURCE_EXHAUSTED: u8 = 8;
    pub const UNIMPLEMENTED: u8 = 12;
    pub const INTERNAL: u8 = 13;
    pub const UNAVAILABLE: u8 = 14;
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident: $status:literal $grpc:ident $side:ident $class:ident $label:literal $text:literal;)*) => {
        /// What went wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Kind { $($(#[$doc])* $kind,)* }
        impl Kind {
            /// All kinds, in the order of their numbers: metrics are arrays over it.
            pub const ALL: &[Kind] = &[$(Kind::$kind,)*];
            /// The status of the response.
            pub const fn status(self) -> u16 {
                match self { $(Kind::$kind => $status,)* }
            }
            /// `grpc-status`, for requests with `content-type: application/grpc`; the HTTP status is 200 then.
            pub const fn grpc_status(self) -> u8 {
                match self { $(Kind::$kind => grpc::$grpc,)* }
            }
            pub const fn side(self) -> Side {
                match self { $(Kind::$kind => Side::$side,)* }
            }
            pub const fn class(self) -> Class {
                match self { $(Kind::$kind => Class::$class,)* }
            }
            /// The metric label.
            pub const fn label(self) -> &'static str {
                match self { $(Kind::$kind => $label,)* }
            }
            /// For people.
            pub const fn text(self) -> &'static str {
                match self { $(Kind::$kind => $text,)* }
            }
        }
    };
}

kinds! {
    /// A Service with routes, and none of their rules matches.
    NoRoute: 404 UNIMPLEMENTED Mesh Never "no_route" "no rule matches";
    /// A rule without backends, or without weights, and without a filter that answers.
    NoBackend: 500 UNAVAILABLE Mesh Never "no_backend" "the rule has no backend with a weight";
    InvalidBackend: 500 UNAVAILABLE Mesh Never "invalid_backend" "invalid backend";
    /// A filter of the rule is unknown or cannot be applied: it is never skipped.
    UnsupportedFilter: 500 UNAVAILABLE Mesh Never "unsupported_filter" "filter cannot be applied";
    NoEndpoints: 503 UNAVAILABLE Upstream Unprocessed "no_endpoints" "no endpoint ready";
    ConnectRefused: 503 UNAVAILABLE Upstream Unprocessed "connect_refused" "connection refused";
    ConnectTimeout: 503 UNAVAILABLE Upstream Unprocessed "connect_timeout" "connecting timed out";
    /// Any other failure to connect: unreachable, no file descriptor.
    ConnectFailed: 503 UNAVAILABLE Upstream Unprocessed "connect_failed" "connecting failed";
    TlsFailed: 503 UNAVAILABLE Upstream Unprocessed "tls_failed" "TLS handshake failed";
    /// The certificate is valid and of somebody else.
    WrongIdentity: 503 UNAVAILABLE Upstream Unprocessed "wrong_identity" "the peer has another identity";
    /// REFUSED_STREAM, a stream above GOAWAY's last, or a connection lost before the first byte of the request was written.
    Refused: 503 UNAVAILABLE Upstream Unprocessed "refused" "the peer refused the request unprocessed";
    /// The peer's proxy said `weft-error: unprocessed`.
    Unprocessed: 503 UNAVAILABLE Upstream Unprocessed "unprocessed" "the peer's application was not reached";
    ResetBeforeResponse: 502 UNAVAILABLE Upstream Processed "reset_before_response" "connection lost before the response";
    /// After the head was passed on: the status is for the access log only.
    ResetInResponse: 502 UNAVAILABLE Upstream Never "reset_in_response" "connection lost within the response";
    BadResponse: 502 UNAVAILABLE Upstream Processed "bad_response" "what the peer sent is no response";
    RequestTimeout: 504 DEADLINE_EXCEEDED Upstream Never "request_timeout" "timeouts.request is over";
    BackendTimeout: 504 DEADLINE_EXCEEDED Upstream Attempt "backend_timeout" "timeouts.backendRequest is over";
    /// Nothing moved on the exchange for the configured idle time.
    IdleTimeout: 504 DEADLINE_EXCEEDED Upstream Never "idle_timeout" "no progress";
    OverloadWaiters: 503 UNAVAILABLE Mesh Never "overload_waiters" "too many requests wait for a connection";
    /// Waited for a connection for as long as is allowed.
    OverloadWait: 503 UNAVAILABLE Mesh Never "overload_wait" "no connection became free";
    /// `connectionLimits.maxRequests` of the backend's TrafficPolicy.
    OverloadRequests: 503 UNAVAILABLE Mesh Never "overload_requests" "too many requests to the backend are under way";
    /// `localRateLimit` of the backend's TrafficPolicy.
    RateLimited: 429 RESOURCE_EXHAUSTED Mesh Never "rate_limited" "more requests than the rate limit allows";
    OverloadMemory: 503 UNAVAILABLE Mesh Never "overload_memory" "the memory budget is spent";
    OverloadStreams: 503 UNAVAILABLE Mesh Never "overload_streams" "too many requests in flight";
    /// A retry would have been due, and the budget does not allow it (GEP-3388).
    BudgetExhausted: 503 UNAVAILABLE Mesh Never "retry_budget" "the retry budget is spent";
    Draining: 503 UNAVAILABLE Mesh Never "draining" "the proxy is shutting down";
    /// No answer from the controller within the deadline of a lookup.
    NoConfig: 503 UNAVAILABLE Mesh Never "no_config" "configuration is not available";
    BadRequest: 400 INTERNAL Downstream Never "bad_request" "bad request";
    BodyTimeout: 408 DEADLINE_EXCEEDED Downstream Never "body_timeout" "the request's body stopped arriving";
    HeadTimeout: 408 DEADLINE_EXCEEDED Downstream Never "head_timeout" "the request's head stopped arriving";
    HeadTooLarge: 431 RESOURCE_EXHAUSTED Downstream Never "head_too_large" "header section too large";
    TargetTooLong: 414 RESOURCE_EXHAUSTED Downstream Never "target_too_long" "request target too long";
    Denied: 403 PERMISSION_DENIED Downstream Never "denied" "not allowed for this identity";
    /// Plain text at a strict workload.
    StrictRefused: 403 PERMISSION_DENIED Downstream Never "strict" "the workload accepts mutual TLS of the mesh only";
    /// A path that servers disagree about.
    BadPath: 400 INTERNAL Downstream Never "bad_path" "bad request target";
    /// The client went away: for the access log (499 as nginx writes it), nobody reads it.
    ClientGone: 499 UNAVAILABLE Downstream Never "client_gone" "the client went away";
    Internal: 500 INTERNAL Mesh Never "internal" "a bug in Weft";
}

/// Why a request got no answer from a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    pub kind: Kind,
    /// Particulars; may be empty.
    pub detail: Cow<'static, str>,
}

/// How many bytes of a cause a header carries: enough for an address and a reason, and no header limit is ever in sight.
const HEADER_MAX: usize = 256;

/// The header that names the cause in a response made by Weft.
pub const HEADER: &str = "weft-error";
/// How the header begins when an inbound proxy never reached its application, so that the caller may try again.
pub const UNPROCESSED: &str = "unprocessed; ";

impl Cause {
    pub const fn new(kind: Kind) -> Self {
        Self { kind, detail: Cow::Borrowed("") }
    }
    pub fn with(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, detail: detail.into() }
    }
    /// The value of `weft-error`. Visible ASCII; `unprocessed` is for the inbound side, of a request that its application never got.
    pub fn header(&self, unprocessed: bool) -> String {
        let text = format!("{}{self}", if unprocessed { UNPROCESSED } else { "" });
        let clean = |c: char| if matches!(c, ' '..='~') { c } else { '?' };
        text.chars().take(HEADER_MAX).map(clean).collect()
    }
    /// Whether a `weft-error` value says that the application was not reached. Trusted from the mesh's own connections only.
    pub fn says_unprocessed(header: &[u8]) -> bool {
        header.starts_with(UNPROCESSED.as_bytes())
    }
}
impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.text())?;
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}
impl std::error::Error for Cause {}
impl From<Kind> for Cause {
    fn from(kind: Kind) -> Self {
        Self::new(kind)
    }
}
impl From<Invalid> for Cause {
    fn from(why: Invalid) -> Self {
        Self::with(Kind::InvalidBackend, why.to_string())
    }
}
impl From<crate::path::BadPath> for Cause {
    fn from(why: crate::path::BadPath) -> Self {
        Self::with(Kind::BadPath, why.to_string())
    }
}

/// Why none of a Service's endpoints can take a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointCounts {
    /// Selected by the Service.
    pub total: u32,
    /// Usable, but tried already in this request.
    pub tried: u32,
    pub not_ready: u32,
    pub refused: u32,
    pub timed_out: u32,
    pub tls_failed: u32,
    pub ejected: u32,
}
impl EndpointCounts {
    /// "0 of 3 endpoints ready: 2 refused, 1 ejected"
    pub fn cause(&self, service: &crate::service::ServiceRef) -> Cause {
        Cause::with(Kind::NoEndpoints, format!("{service}: {self}"))
    }
}
impl fmt::Display for EndpointCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0 of {} endpoints ready", self.total)?;
        let counts = [
            (self.refused, "refused"),
            (self.timed_out, "timed out"),
            (self.tls_failed, "failed TLS"),
            (self.ejected, "ejected"),
            (self.not_ready, "not ready"),
            (self.tried, "tried"),
        ];
        for (at, (n, what)) in counts.iter().filter(|(n, _)| *n > 0).enumerate() {
            write!(f, "{} {n} {what}", if at == 0 { ":" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "cause_tests.rs"]
mod tests;
