//! From the API's types to core's: what a route says, checked and complete. What cannot be converted becomes a [`Problem`], which becomes a
//! condition on the user's object and a finding of `check`; nothing is skipped in silence.
//!
//! Defaults of the API are applied here, since objects from files have not met an API server.

pub mod authorization;
mod backend;
mod filter;
pub mod http;
pub mod policy;
mod stream;

pub use backend::{BackendProblem, resolve};
pub use http::{RuleSource, convert_rules};
pub use policy::{ONLY_FOR_SERVICES, Standing, TrafficSettings, fields as policy_fields, standings};
pub use stream::convert_stream;

use crate::index::Index;
use std::sync::Arc;
use weft_core::route::{RouteKind, RouteRef};

/// Something in a route that cannot be done as written.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// Such as `spec.rules[0].backendRefs[1]`.
    pub field: String,
    pub message: String,
    pub fix: String,
    pub effect: Effect,
}

/// What a [`Problem`] does to the route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The rule cannot be matched as written and is left out: `PartiallyInvalid`, or `Accepted: False` when no rule is left.
    DropsRule,
    /// Requests of the rule are answered with 500, since a filter must not be skipped.
    FailsRule,
    /// A reference leads nowhere: `ResolvedRefs: False` with this reason; its share of the requests gets 500.
    Reference(&'static str),
    /// The field has no effect.
    Ignored,
}

/// Where a conversion happens.
pub struct Context<'i> {
    pub index: &'i Index,
    pub route: Arc<RouteRef>,
    /// Namespace of the parent: a consumer route may name backends there.
    pub parent_namespace: Arc<str>,
    pub problems: Vec<Problem>,
}

impl Context<'_> {
    pub fn problem(
        &mut self,
        effect: Effect,
        field: impl Into<String>,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.problems.push(Problem { field: field.into(), message: message.into(), fix: fix.into(), effect });
    }
    /// The API group's name of the route's kind.
    pub fn kind(&self) -> &'static str {
        match self.route.kind {
            RouteKind::Http => "HTTPRoute",
            RouteKind::Grpc => "GRPCRoute",
            RouteKind::Tls => "TLSRoute",
            RouteKind::Tcp => "TCPRoute",
        }
    }
}
