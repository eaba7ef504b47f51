//! Rules of TLSRoute and TCPRoute.

use super::Context;
use weft_api::{shared::BackendRef, stream::StreamRouteRule};
use weft_core::{
    filter::Filters,
    route::{StreamRule, WeightedBackend},
};

/// `hostnames` are those of a TLSRoute; empty for a TCPRoute.
pub fn convert_stream(cx: &mut Context<'_>, hostnames: &[String], rules: &[StreamRouteRule]) -> Vec<StreamRule> {
    let mut out = Vec::new();
    for (i, rule) in rules.iter().enumerate() {
        let backend = |(j, b): (usize, &BackendRef)| WeightedBackend {
            backend: cx.backend(&format!("spec.rules[{i}].backendRefs[{j}]"), &b.object()),
            weight: b.weight.unwrap_or(1),
            filters: Filters::default(),
        };
        let backends = rule.backend_refs.iter().enumerate().map(backend).collect();
        let hostnames = hostnames.iter().map(|h| h.to_ascii_lowercase().into()).collect();
        out.push(StreamRule { route: cx.route.clone(), hostnames, backends });
    }
    out
}
