//! `AuthorizationPolicy`: who may call a workload, judged by its own proxy. The meaning in one place; `docs/authorization.md` says it for users.
//!
//! - No policy: everything is allowed.
//! - A `Deny` rule that matches denies, whatever else there is.
//! - Any `Allow` policy: only what a rule of some `Allow` policy matches is allowed.
//! - A policy in dry-run mode decides nothing. It is judged beside the others, and what it would have denied is told.
//!
//! Who calls is the identity in the certificate and nothing else: plain text has no identity, and only rules without sources match it. A rule about HTTP cannot be judged for a
//! byte stream: there an `Allow` rule with such a part allows nothing, and a `Deny` rule denies by its other parts alone, so that what cannot be seen is not let through.
//! A part of a rule that this version does not know matches nothing in an `Allow` rule and everything in a `Deny` rule.

use crate::{
    identity::WorkloadIdentity,
    path::{self, RequestPath},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Action {
    #[default]
    Allow,
    Deny,
}

/// One policy as it applies to a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// `namespace/name`.
    pub name: Arc<str>,
    pub action: Action,
    pub dry_run: bool,
    /// None: an `Allow` policy allows nothing, a `Deny` policy denies nothing.
    pub rules: Vec<Rule>,
}

/// All parts must hold.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rule {
    /// `None`: whoever calls. Empty: nobody.
    pub sources: Option<Vec<Source>>,
    /// Ports of the application; empty: all.
    pub ports: Vec<u16>,
    /// `None`: HTTP or not. Else a request that one of them takes.
    pub http: Option<Vec<HttpRequests>>,
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// This SPIFFE ID.
    Identity(WorkloadIdentity),
    /// A service account of this mesh's trust domain.
    ServiceAccount { trust_domain: Arc<str>, namespace: Arc<str>, name: Arc<str> },
    /// Any workload of a namespace of this mesh's trust domain.
    Namespace { trust_domain: Arc<str>, namespace: Arc<str> },
    /// A kind of source that this version does not know.
    Unknown,
}

/// Requests by method and path; what is empty takes all.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HttpRequests {
    pub methods: Vec<Box<str>>,
    pub paths: Vec<PathTerm>,
}

/// A path in its normal form, the one that routes have: made by [`PathTerm::exact`] and [`PathTerm::prefix`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathTerm {
    Exact(Box<str>),
    /// Whole path elements; without trailing slash, so the root is empty.
    Prefix(Box<str>),
}

impl PathTerm {
    /// `None`: no request has such a path.
    pub fn exact(value: &str) -> Option<Self> {
        path::of_route(value).map(Self::Exact)
    }
    /// `None`: no request has such a path.
    pub fn prefix(value: &str) -> Option<Self> {
        Some(Self::Prefix(path::of_route(value)?.trim_end_matches('/').into()))
    }
    fn holds(&self, matched: &[u8]) -> bool {
        match self {
            PathTerm::Exact(v) => v.as_bytes() == matched,
            PathTerm::Prefix(v) => path::after_prefix(matched, v).is_some(),
        }
    }
}

/// What a path may mean to a server that reads more into it than the normal form does: escaped slashes as slashes, and parameters (`;x`) as no part of the name. `None`: there is
/// nothing of that in it. A `Deny` rule matches this form, too, or `/admin%2Fusers` and `/admin;x` would be ways around it.
fn loose(matched: &[u8]) -> Option<Vec<u8>> {
    let escaped = |at: usize| {
        let e = &matched[at..];
        e.starts_with(b"%2F") || e.starts_with(b"%5C")
    };
    if !matched.contains(&b';') && !(0..matched.len()).any(escaped) {
        return None;
    }
    let mut out: Vec<u8> = Vec::with_capacity(matched.len());
    let (mut at, mut parameter) = (0, false);
    while let Some(b) = matched.get(at).copied() {
        let (b, n) = if escaped(at) { (b'/', 3) } else { (b, 1) };
        at += n;
        match b {
            b'/' => {
                parameter = false;
                if out.last() != Some(&b'/') {
                    out.push(b);
                }
            }
            b';' => parameter = true,
            _ if parameter => {}
            _ => out.push(b),
        }
    }
    Some(out)
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// From the certificate; `None`: plain text.
    pub peer: Option<&'a WorkloadIdentity>,
    /// Of the application.
    pub port: u16,
    /// `None`: a byte stream.
    pub request: Option<Request<'a>>,
}
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub method: &'a [u8],
    pub path: &'a RequestPath<'a>,
}

/// The judgement of all policies of a workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict<'p> {
    /// The policy that denies; of several the first. When no `Allow` rule matched, the first `Allow` policy.
    pub denied: Option<&'p Policy>,
    /// The policy in dry-run mode that would have denied, were it enforced. Only for what is allowed.
    pub dry_run: Option<&'p Policy>,
    /// The `Allow` policy that allows, where there are any.
    pub allowed: Option<&'p Policy>,
}
impl Verdict<'_> {
    pub fn is_denied(&self) -> bool {
        self.denied.is_some()
    }
}

/// All policies of a workload, in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Authorization(pub Vec<Arc<Policy>>);

impl Authorization {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Whether any rule looks at requests: then their path is needed.
    pub fn reads_paths(&self) -> bool {
        self.0.iter().flat_map(|p| &p.rules).flat_map(|r| r.http.iter().flatten()).any(|h| !h.paths.is_empty())
    }

    /// Judges a call. Costs a pass over the rules and allocates nothing.
    pub fn judge(&self, call: &Call<'_>) -> Verdict<'_> {
        let mut v = Verdict::default();
        // the first of each that did not take the call, or that would deny it
        let (mut strict, mut would_deny, mut would_be_strict) = (None, None, None);
        let mut would_take = false;
        for p in self.0.iter().map(|p| &**p) {
            let matches = p.rules.iter().any(|r| r.matches(p.action, call));
            match (p.action, p.dry_run, matches) {
                (Action::Deny, false, true) => v.denied = v.denied.or(Some(p)),
                (Action::Deny, true, true) => would_deny = would_deny.or(Some(p)),
                (Action::Deny, _, false) => {}
                (Action::Allow, false, true) => v.allowed = v.allowed.or(Some(p)),
                (Action::Allow, false, false) => strict = strict.or(Some(p)),
                (Action::Allow, true, true) => would_take = true,
                (Action::Allow, true, false) => would_be_strict = would_be_strict.or(Some(p)),
            }
        }
        if v.allowed.is_none() {
            v.denied = v.denied.or(strict);
        }
        if v.denied.is_some() {
            v.allowed = None;
        } else {
            // enforced, they would add to what others allow; without others they would end that everything is allowed
            let unlisted = would_be_strict.filter(|_| v.allowed.is_none() && !would_take);
            v.dry_run = would_deny.or(unlisted);
        }
        v
    }
}

impl Rule {
    fn matches(&self, action: Action, call: &Call<'_>) -> bool {
        let unknown = action == Action::Deny;
        if !self.ports.is_empty() && !self.ports.contains(&call.port) {
            return false;
        }
        if let Some(sources) = &self.sources
            && !sources.iter().any(|s| s.is(call.peer, unknown))
        {
            return false;
        }
        match (&self.http, &call.request) {
            (None, _) => true,
            (Some(list), Some(r)) => list.iter().any(|h| h.take(action, r)),
            // bytes: whether a request is in them cannot be seen
            (Some(_), None) => unknown,
        }
    }
}

impl Source {
    fn is(&self, peer: Option<&WorkloadIdentity>, unknown: bool) -> bool {
        if *self == Source::Unknown {
            return unknown;
        }
        let Some(peer) = peer else { return false };
        match self {
            Source::Identity(id) => id == peer,
            Source::ServiceAccount { trust_domain, namespace, name } => {
                peer.trust_domain() == &**trust_domain
                    && peer.namespace() == &**namespace
                    && peer.service_account() == &**name
            }
            Source::Namespace { trust_domain, namespace } => {
                peer.trust_domain() == &**trust_domain && peer.namespace() == &**namespace
            }
            Source::Unknown => unknown,
        }
    }
}

impl HttpRequests {
    fn take(&self, action: Action, r: &Request<'_>) -> bool {
        if !self.methods.is_empty() && !self.methods.iter().any(|m| m.as_bytes() == r.method) {
            return false;
        }
        let any = |matched: &[u8]| self.paths.iter().any(|p| p.holds(matched));
        self.paths.is_empty()
            || any(r.path.matched())
            || (action == Action::Deny && loose(r.path.matched()).is_some_and(|l| any(&l)))
    }
}

#[cfg(test)]
#[path = "authorization_tests.rs"]
mod tests;
