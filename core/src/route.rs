//! Route tables: what the routes of one Service port say, compiled for matching.

use crate::{
    cause::Invalid,
    filter::Filters,
    matches::{GrpcMatch, HttpMatch},
    retry::{RetryPolicy, Timeouts},
    service::ServiceRef,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Which route a rule came from: the label of its metrics and the name in every explanation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RouteRef {
    /// `HTTPRoute`, `GRPCRoute`, `TLSRoute` or `TCPRoute`.
    pub kind: RouteKind,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// Seconds since the epoch: the older route wins (Gateway API, conflict resolution).
    pub created: i64,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RouteKind {
    Http,
    Grpc,
    Tls,
    Tcp,
}

/// A backendRef: a Service port, or why it is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum BackendRef {
    Service(ServiceRef),
    Invalid(Invalid),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WeightedBackend {
    pub backend: BackendRef,
    pub weight: u32,
    pub filters: Filters,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum RuleMatches {
    Http(Vec<HttpMatch>),
    Grpc(Vec<GrpcMatch>),
}

/// A rule of an HTTPRoute or GRPCRoute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    pub route: Arc<RouteRef>,
    /// Place of the rule in its route.
    pub index: u32,
    /// `rules[].name`.
    pub name: Option<Arc<str>>,
    pub matches: RuleMatches,
    pub filters: Filters,
    pub backends: Vec<WeightedBackend>,
    pub timeouts: Timeouts,
    pub retry: Option<RetryPolicy>,
}

/// A rule of a TLSRoute or TCPRoute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamRule {
    pub route: Arc<RouteRef>,
    /// SNI host names, `*.` wildcards allowed; empty: any (TCPRoute).
    pub hostnames: Vec<Box<str>>,
    pub backends: Vec<WeightedBackend>,
}

/// The rules of all routes of one Service port.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub enum Routes {
    #[default]
    None,
    Http(Arc<HttpTable>),
    Stream(Arc<Vec<StreamRule>>),
}

/// Rules in the specification's order of precedence.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(from = "Vec<Arc<Rule>>", into = "Vec<Arc<Rule>>")]
pub struct HttpTable {
    pub rules: Vec<Arc<Rule>>,
}
impl From<Vec<Arc<Rule>>> for HttpTable {
    fn from(rules: Vec<Arc<Rule>>) -> Self {
        Self { rules }
    }
}
impl From<HttpTable> for Vec<Arc<Rule>> {
    fn from(t: HttpTable) -> Self {
        t.rules
    }
}
