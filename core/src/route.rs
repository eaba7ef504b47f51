//! Route tables: what the routes of one Service port say, compiled for matching.

use crate::{
    cause::{Cause, Invalid, Kind},
    filter::Filters,
    matches::{GrpcMatch, HttpMatch, Miss, Rank, RequestHead},
    path::RequestPath,
    retry::{RetryPolicy, Timeouts},
    service::ServiceRef,
    table::{self, Index},
};
use serde::{Deserialize, Serialize};
use std::{cmp::Ordering, fmt, sync::Arc};

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

/// The rules of all HTTPRoutes, or of all GRPCRoutes, of one Service port, in the specification's order (oldest route, then alphabetical `namespace/name`, then
/// place in the route), with an index for matching. Built once per configuration.
///
/// Rules of the two kinds are never merged: where both are given, the GRPCRoutes' rules are kept (GEP-1294, the more specific kind wins).
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(from = "Vec<Arc<Rule>>", into = "Vec<Arc<Rule>>")]
pub struct HttpTable {
    /// In their order. To change it, build another table: the index belongs to these.
    pub rules: Vec<Arc<Rule>>,
    index: Arc<Index>,
}
impl fmt::Debug for HttpTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HttpTable").field(&self.rules).finish()
    }
}
impl PartialEq for HttpTable {
    fn eq(&self, o: &Self) -> bool {
        self.rules == o.rules
    }
}
impl From<Vec<Arc<Rule>>> for HttpTable {
    fn from(rules: Vec<Arc<Rule>>) -> Self {
        Self::new(rules)
    }
}
impl From<HttpTable> for Vec<Arc<Rule>> {
    fn from(t: HttpTable) -> Self {
        t.rules
    }
}

/// The rule that a request belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Matched<'t> {
    pub rule: &'t Arc<Rule>,
    /// Place in the rule's matches; 0 for a rule without matches.
    pub match_index: usize,
    /// The prefix that matched, normal, without trailing slash (the root is empty): what `ReplacePrefixMatch` replaces. `None` for exact paths, regular
    /// expressions and gRPC.
    pub prefix: Option<&'t str>,
}
impl Matched<'_> {
    /// How specific the match is.
    pub fn rank(&self) -> Rank {
        table::rank(self.rule, self.match_index as u32)
    }
}

/// One match of a table against one request, in the order of precedence.
#[derive(Debug)]
pub struct Step<'t> {
    pub rule: &'t Arc<Rule>,
    pub match_index: usize,
    /// Why it does not hold.
    pub miss: Option<Miss<'t>>,
}

impl HttpTable {
    pub fn new(mut rules: Vec<Arc<Rule>>) -> Self {
        let grpc = |r: &Arc<Rule>| matches!(r.matches, RuleMatches::Grpc(_));
        if rules.iter().any(grpc) {
            rules.retain(grpc);
        }
        rules.sort_by(|a, b| a.route.precedence(&b.route).then(a.index.cmp(&b.index)));
        let index = Arc::new(Index::new(&rules));
        Self { rules, index }
    }
    /// Whether these are rules of GRPCRoutes.
    pub fn is_grpc(&self) -> bool {
        matches!(self.rules.first().map(|r| &r.matches), Some(RuleMatches::Grpc(_)))
    }
    /// The best match of all (Gateway API, HTTPRouteRule.matches). `None`: [`crate::cause::Kind::NoRoute`].
    pub fn find<H: RequestHead + ?Sized>(&self, head: &H, path: &RequestPath<'_>) -> Option<Matched<'_>> {
        let (e, prefix) = self.index.find(&self.rules, head, path)?;
        Some(Matched { rule: &self.rules[e.rule as usize], match_index: e.index as usize, prefix })
    }
    /// Every match in the order of precedence, with the reason why it does not hold: the first without one is what [`Self::find`] finds. For people.
    pub fn steps<'t, H: RequestHead + ?Sized>(
        &'t self,
        head: &H,
        path: &RequestPath<'_>,
    ) -> impl Iterator<Item = Step<'t>> {
        self.index.entries.iter().map(move |e| {
            let rule = &self.rules[e.rule as usize];
            let miss = match &rule.matches {
                RuleMatches::Http(_) => table::http_match(rule, e.index).judge(head, path),
                RuleMatches::Grpc(_) => table::grpc_match(rule, e.index).judge(head, path),
            };
            Step { rule, match_index: e.index as usize, miss: miss.err() }
        })
    }
}

impl RouteRef {
    /// Which route wins where the matches are equally specific: the older, then the first by `namespace/name`.
    pub fn precedence(&self, other: &Self) -> Ordering {
        fn name(r: &RouteRef) -> impl Iterator<Item = u8> + '_ {
            // as one text, as the specification says: `a-b/x` stands before `a/x`
            r.namespace.bytes().chain([b'/']).chain(r.name.bytes())
        }
        self.created.cmp(&other.created).then_with(|| name(self).cmp(name(other))).then(self.kind.cmp(&other.kind))
    }
}

/// Draws a backend by weight: each gets exactly its share of the range of `random` (a uniform number), invalid ones too, whose share is answered with 500. `None`: no backend
/// has a weight.
pub fn draw(backends: &[WeightedBackend], random: u64) -> Option<(usize, &WeightedBackend)> {
    let total: u64 = backends.iter().map(|b| u64::from(b.weight)).sum();
    // scales to 0..total; what is uneven is less than one part in 2^44 for weights up to the API's 1,000,000
    let mut at = ((u128::from(random) * u128::from(total)) >> 64) as u64;
    backends.iter().enumerate().find(|(_, b)| {
        let weight = u64::from(b.weight);
        let found = at < weight;
        at = at.wrapping_sub(weight);
        found
    })
}

impl Rule {
    /// Draws the backend of a request: its place, its Service port and its filters, or the cause that answers the request.
    pub fn pick(&self, random: u64) -> Result<(usize, &ServiceRef, &Filters), Cause> {
        match draw(&self.backends, random) {
            None => Err(Cause::new(Kind::NoBackend)),
            Some((_, WeightedBackend { backend: BackendRef::Invalid(why), .. })) => Err(why.clone().into()),
            Some((at, WeightedBackend { backend: BackendRef::Service(s), filters, .. })) => Ok((at, s, filters)),
        }
    }
}

/// The rule for a connection with this SNI (`None`: no TLS, or none sent): exact host name, then the longest wildcard, then rules without host names (TCPRoute); ties
/// as for HTTP. A wildcard stands for one or more labels (Gateway API, Hostname).
pub fn stream_rule<'r>(rules: &'r [StreamRule], sni: Option<&str>) -> Option<&'r StreamRule> {
    let sni = sni.map(|s| s.strip_suffix('.').unwrap_or(s));
    // characters of the host name; exact ones count above all wildcards
    let rank = |r: &StreamRule| -> Option<(bool, usize)> {
        if r.hostnames.is_empty() {
            return Some((false, 0));
        }
        let sni = sni?;
        r.hostnames.iter().filter(|h| host_matches(h, sni)).map(|h| (!h.starts_with("*."), h.len())).max()
    };
    let ranked = rules.iter().enumerate().filter_map(|(at, r)| Some((rank(r)?, at, r)));
    ranked
        .min_by(|a, b| b.0.cmp(&a.0).then_with(|| a.2.route.precedence(&b.2.route)).then(a.1.cmp(&b.1)))
        .map(|(.., r)| r)
}

/// Whether a host name of a route (`*.` wildcards allowed) covers `host`.
pub fn host_matches(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*').filter(|rest| rest.starts_with('.')) {
        Some(suffix) => {
            let at = host.len().checked_sub(suffix.len()).filter(|at| *at > 0);
            at.and_then(|at| host.get(at..)).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
                && !host.starts_with('.')
        }
        None => pattern.eq_ignore_ascii_case(host),
    }
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
