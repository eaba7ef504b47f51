//! Matches of HTTPRoute and GRPCRoute rules. All given parts of a match must hold (AND); the matches of a rule are alternatives (OR).
//!
//! - **Paths** are compared in the matched form of [`crate::path`], prefixes element by element.
//! - **Headers**: a condition holds when one of the field's values does: any field line, any element of a comma-separated list, or all lines combined with commas
//!   (RFC 9110, 5.3). So a request means the same before and after an intermediary has joined its lines. `x_user` is not `x-user`. `host` is the authority: in any case,
//!   with or without port and trailing dot.
//! - **Query parameters**: the first value of the name, decoded ([`crate::query`]).
//! - Names that repeat inside one match: the first counts, later ones are ignored (Gateway API).

use crate::{
    path::{self, RequestPath},
    query,
};
use regex::{Regex, RegexBuilder};
use regex_syntax::hir::{Hir, HirKind, Look};
use serde::{Deserialize, Serialize};
use std::{str::FromStr, sync::Arc};

/// What a match reads of a request head. Implemented by the engine's head, by tests and by `weft explain`.
pub trait RequestHead {
    fn method(&self) -> &[u8];
    /// Path and query as on the request line, not normalised.
    fn path_and_query(&self) -> &[u8];
    /// `:authority` or `Host`.
    fn authority(&self) -> &[u8];
    /// Calls `found` for each value of a field, in order, until it returns true. `name` is in lower case.
    fn any_value(&self, name: &str, found: &mut dyn FnMut(&[u8]) -> bool) -> bool;
    /// Calls `each` with name (lower case) and value of every field, in order, pseudo-header fields excepted.
    fn each_field(&self, each: &mut dyn FnMut(&[u8], &[u8]));
}

/// A regular expression that compares by its text. Matches whole values, in linear time; what it may compile to is bounded.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(pub Arc<Regex>);

/// Why a text is no pattern.
#[derive(Debug, thiserror::Error)]
pub enum PatternError {
    #[error("longer than {PATTERN_MAX} bytes")]
    TooLong,
    #[error("{0}")]
    Syntax(#[from] Box<regex_syntax::Error>),
    #[error("{0}")]
    Compile(#[from] regex::Error),
}

/// The longest value of a match that the Gateway API's schema allows (headers: 4096 characters).
pub const PATTERN_MAX: usize = 4096;

impl Pattern {
    /// The expression as the user wrote it.
    pub fn source(&self) -> &str {
        let whole = self.0.as_str();
        whole.strip_prefix("^(?:").and_then(|s| s.strip_suffix(")$")).unwrap_or(whole)
    }
    /// Whether the whole of `value` matches. Values that are not UTF-8 match no pattern.
    pub fn is_match(&self, value: &[u8]) -> bool {
        std::str::from_utf8(value).is_ok_and(|v| self.0.is_match(v))
    }
    /// What every matching value begins with, as far as the expression says so.
    pub(crate) fn literal_prefix(&self) -> Vec<u8> {
        fn walk(hir: &Hir, out: &mut Vec<u8>) -> bool {
            match hir.kind() {
                HirKind::Literal(l) => {
                    out.extend_from_slice(&l.0);
                    true
                }
                HirKind::Concat(parts) => parts.iter().all(|p| walk(p, out)),
                HirKind::Capture(c) => walk(&c.sub, out),
                HirKind::Look(Look::Start) => out.is_empty(),
                HirKind::Empty => true,
                _ => false,
            }
        }
        let mut out = Vec::new();
        if let Ok(hir) = regex_syntax::parse(self.source()) {
            walk(&hir, &mut out);
        }
        out
    }
}
impl PartialEq for Pattern {
    fn eq(&self, o: &Self) -> bool {
        self.0.as_str() == o.0.as_str()
    }
}
impl Eq for Pattern {}
impl From<Pattern> for String {
    fn from(p: Pattern) -> String {
        p.source().into()
    }
}
impl TryFrom<String> for Pattern {
    type Error = PatternError;
    fn try_from(s: String) -> Result<Self, PatternError> {
        s.as_str().parse()
    }
}
impl FromStr for Pattern {
    type Err = PatternError;
    fn from_str(s: &str) -> Result<Self, PatternError> {
        if s.len() > PATTERN_MAX {
            return Err(PatternError::TooLong);
        }
        // on its own first: `a)|(b` is an expression only between our parentheses
        regex_syntax::parse(s).map_err(Box::new)?;
        // whole-value match, as Envoy and the Gateway API's implementations read RegularExpression. The limits bound a route's memory and, as time is
        // linear in the size of the program, a request's time: a counted Unicode class as \w{1,60} needs 600 KiB, more is a mistake or an attack.
        let whole = format!("^(?:{s})$");
        let r = RegexBuilder::new(&whole).size_limit(1 << 20).dfa_size_limit(1 << 20).nest_limit(64).build()?;
        Ok(Pattern(Arc::new(r)))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathMatch {
    Exact(Box<str>),
    /// Matches whole path elements; a trailing slash is ignored.
    Prefix(Box<str>),
    Regex(Pattern),
}
impl Default for PathMatch {
    fn default() -> Self {
        PathMatch::Prefix("/".into())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ValueMatch {
    Exact(Box<str>),
    Regex(Pattern),
}

/// A header (name in lower case) or a query parameter (name as written).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedMatch {
    pub name: Box<str>,
    pub value: ValueMatch,
}

/// One entry of `HTTPRoute.spec.rules[].matches`.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HttpMatch {
    pub path: PathMatch,
    pub headers: Vec<NamedMatch>,
    pub query: Vec<NamedMatch>,
    pub method: Option<Box<str>>,
}

/// One entry of `GRPCRoute.spec.rules[].matches`.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GrpcMatch {
    pub service: Option<ValueMatch>,
    pub method: Option<ValueMatch>,
    pub headers: Vec<NamedMatch>,
}

/// How specific a match is: the greater one wins, whatever route it is from (Gateway API, HTTPRouteRule.matches and GRPCRouteRule.matches).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    Http(HttpRank),
    Grpc(GrpcRank),
}

/// Fields in the order of their importance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HttpRank {
    pub path: PathRank,
    pub method: bool,
    pub headers: usize,
    pub query: usize,
}

/// Regular expressions, whose place the specification leaves open, stand between exact paths and prefixes, longer ones first: below a prefix, a catch-all `/`
/// would silence them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathRank {
    /// Characters, a trailing slash not counted.
    Prefix(usize),
    Regex(usize),
    Exact,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GrpcRank {
    pub service: NameRank,
    pub method: NameRank,
    pub headers: usize,
}

/// All exact names that match one request have the same length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NameRank {
    Any,
    Regex(usize),
    Exact,
}

/// The part of a match that a request did not meet: for explanations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Miss<'m> {
    #[error("path")]
    Path,
    #[error("method")]
    Method,
    #[error("header {0}")]
    Header(&'m str),
    #[error("query parameter {0}")]
    Query(&'m str),
    #[error("gRPC service")]
    Service,
    #[error("not a gRPC request (POST /service/method)")]
    NotGrpc,
}

impl NameRank {
    fn of(m: &Option<ValueMatch>) -> Self {
        match m {
            None => NameRank::Any,
            Some(ValueMatch::Regex(p)) => NameRank::Regex(p.source().chars().count()),
            Some(ValueMatch::Exact(_)) => NameRank::Exact,
        }
    }
}

impl ValueMatch {
    pub(crate) fn holds(&self, value: &[u8]) -> bool {
        match self {
            ValueMatch::Exact(v) => v.as_bytes() == value,
            ValueMatch::Regex(p) => p.is_match(value),
        }
    }
}

/// The conditions of a match without those whose name stands before them already.
pub(crate) fn effective(list: &[NamedMatch]) -> impl Iterator<Item = &NamedMatch> {
    list.iter().enumerate().filter(|(at, m)| list[..*at].iter().all(|o| o.name != m.name)).map(|(_, m)| m)
}

/// The elements of a comma-separated field value, trimmed.
pub(crate) fn elements(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|b| *b == b',').map(<[u8]>::trim_ascii)
}

/// Whether a header condition holds.
pub fn header_holds<H: RequestHead + ?Sized>(head: &H, m: &NamedMatch) -> bool {
    let name = &*m.name;
    if name == "host" {
        return host_holds(head.authority(), &m.value);
    }
    // crumbs of a cookie are separated by "; " (RFC 9113, 8.2.3)
    let (separator, lists) = if name == "cookie" { ("; ", false) } else { (",", true) };
    match &m.value {
        ValueMatch::Exact(v) => {
            let v = v.as_bytes();
            // the lines combined, compared element by element, so that blanks after commas make no difference
            let mut rest = Some(elements(v));
            let mut combine = |line: &[u8]| {
                if let Some(list) = &mut rest
                    && !elements(line).all(|e| list.next() == Some(e))
                {
                    rest = None;
                }
            };
            let mut lines = 0;
            head.any_value(name, &mut |line| {
                lines += 1;
                combine(line);
                let line = line.trim_ascii();
                line == v || (lists && elements(line).any(|e| e == v))
            }) || (lists && lines > 0 && rest.is_some_and(|mut list| list.next().is_none()))
                || (!lists && lines > 1 && combined_holds(head, name, separator, &m.value))
        }
        ValueMatch::Regex(p) => {
            let mut lines = 0;
            head.any_value(name, &mut |line| {
                lines += 1;
                let line = line.trim_ascii();
                p.is_match(line) || (lists && line.contains(&b',') && elements(line).any(|e| p.is_match(e)))
            }) || (lines > 1 && combined_holds(head, name, separator, &m.value))
        }
    }
}

fn combined_holds<H: RequestHead + ?Sized>(head: &H, name: &str, separator: &str, value: &ValueMatch) -> bool {
    let mut all = query::Decoded::new();
    let mut first = true;
    head.any_value(name, &mut |line| {
        if !first {
            all.extend_from_slice(separator.as_bytes());
        }
        first = false;
        all.extend_from_slice(line.trim_ascii());
        false
    });
    value.holds(&all)
}

fn host_holds(authority: &[u8], m: &ValueMatch) -> bool {
    let host = path::split_authority(authority).0;
    let host = host.strip_suffix(b".").unwrap_or(host);
    match m {
        ValueMatch::Exact(v) => {
            let v = v.as_bytes();
            authority.eq_ignore_ascii_case(v) || host.eq_ignore_ascii_case(v.strip_suffix(b".").unwrap_or(v))
        }
        ValueMatch::Regex(p) => {
            let lower = |text: &[u8]| -> query::Decoded { text.iter().map(u8::to_ascii_lowercase).collect() };
            p.is_match(&lower(authority)) || p.is_match(&lower(host))
        }
    }
}

fn query_holds(query: Option<&[u8]>, m: &NamedMatch) -> bool {
    let Some(raw) = query.and_then(|q| query::first(q, m.name.as_bytes())) else { return false };
    match &m.value {
        ValueMatch::Exact(v) => query::is(raw, v.as_bytes()),
        ValueMatch::Regex(p) => p.is_match(&query::decode(raw)),
    }
}

impl PathMatch {
    /// Exact and Prefix in their normal form: what a table compares with. A prefix has no trailing slash.
    pub(crate) fn normal(&self) -> Option<Box<str>> {
        match self {
            PathMatch::Exact(v) => path::of_route(v),
            PathMatch::Prefix(v) => Some(path::of_route(v)?.trim_end_matches('/').into()),
            PathMatch::Regex(_) => None,
        }
    }
    pub fn rank(&self) -> PathRank {
        match self {
            PathMatch::Exact(_) => PathRank::Exact,
            PathMatch::Regex(p) => PathRank::Regex(p.source().chars().count()),
            PathMatch::Prefix(v) => PathRank::Prefix(self.normal().map_or(v.len(), |n| n.len())),
        }
    }
    /// Whether the path matches. Tables do this by their index; explanations one by one.
    pub fn holds(&self, path: &RequestPath<'_>) -> bool {
        let matched = path.matched();
        match self {
            PathMatch::Exact(_) => self.normal().is_some_and(|n| n.as_bytes() == matched),
            PathMatch::Prefix(_) => self.normal().is_some_and(|n| path::after_prefix(matched, &n).is_some()),
            PathMatch::Regex(p) => p.is_match(matched),
        }
    }
}

impl HttpMatch {
    pub fn rank(&self) -> HttpRank {
        HttpRank {
            path: self.path.rank(),
            method: self.method.is_some(),
            headers: effective(&self.headers).count(),
            query: effective(&self.query).count(),
        }
    }
    /// Everything but the path.
    pub(crate) fn conditions<'m, H: RequestHead + ?Sized>(
        &'m self,
        head: &H,
        path: &RequestPath<'_>,
    ) -> Result<(), Miss<'m>> {
        if self.method.as_ref().is_some_and(|m| m.as_bytes() != head.method()) {
            return Err(Miss::Method);
        }
        if let Some(m) = effective(&self.headers).find(|m| !header_holds(head, m)) {
            return Err(Miss::Header(&m.name));
        }
        if let Some(m) = effective(&self.query).find(|m| !query_holds(path.query(), m)) {
            return Err(Miss::Query(&m.name));
        }
        Ok(())
    }
    /// Whether a request matches, and if not, why.
    pub fn judge<H: RequestHead + ?Sized>(&self, head: &H, path: &RequestPath<'_>) -> Result<(), Miss<'_>> {
        if !self.path.holds(path) {
            return Err(Miss::Path);
        }
        self.conditions(head, path)
    }
}

/// Service and method of a gRPC request's path. gRPC calls are POST requests (gRPC over HTTP/2, Requests).
pub fn grpc_call<'p, H: RequestHead + ?Sized>(head: &H, path: &'p RequestPath<'_>) -> Option<(&'p [u8], &'p [u8])> {
    if head.method() != b"POST" {
        return None;
    }
    let path = path.matched().strip_prefix(b"/")?;
    let at = path.iter().rposition(|b| *b == b'/')?;
    let (service, method) = (&path[..at], &path[at + 1..]);
    (!service.is_empty() && !method.is_empty()).then_some((service, method))
}

impl GrpcMatch {
    pub fn rank(&self) -> GrpcRank {
        GrpcRank {
            service: NameRank::of(&self.service),
            method: NameRank::of(&self.method),
            headers: effective(&self.headers).count(),
        }
    }
    pub(crate) fn conditions<'m, H: RequestHead + ?Sized>(
        &'m self,
        head: &H,
        (service, method): (&[u8], &[u8]),
    ) -> Result<(), Miss<'m>> {
        if self.service.as_ref().is_some_and(|m| !m.holds(service)) {
            return Err(Miss::Service);
        }
        if self.method.as_ref().is_some_and(|m| !m.holds(method)) {
            return Err(Miss::Method);
        }
        match effective(&self.headers).find(|m| !header_holds(head, m)) {
            Some(m) => Err(Miss::Header(&m.name)),
            None => Ok(()),
        }
    }
    /// Whether a request matches, and if not, why.
    pub fn judge<H: RequestHead + ?Sized>(&self, head: &H, path: &RequestPath<'_>) -> Result<(), Miss<'_>> {
        self.conditions(head, grpc_call(head, path).ok_or(Miss::NotGrpc)?)
    }
}

#[cfg(test)]
#[path = "matches_tests.rs"]
mod tests;
