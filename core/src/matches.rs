//! Matches of HTTPRoute and GRPCRoute rules. All given parts of a match must hold (AND); the matches of a rule are alternatives (OR).

use regex::Regex;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What a match reads of a request head. Implemented by the engine's head, by tests and by `weft explain`.
pub trait RequestHead {
    fn method(&self) -> &[u8];
    /// Path and query as on the request line, not normalised.
    fn path_and_query(&self) -> &[u8];
    /// `:authority` or `Host`.
    fn authority(&self) -> &[u8];
    /// Calls `found` for each value of a field, in order, until it returns true. `name` is in lower case.
    fn any_value(&self, name: &str, found: &mut dyn FnMut(&[u8]) -> bool) -> bool;
}

/// A regular expression that compares by its text. Linear time; compiled with a size limit.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(pub Arc<Regex>);
impl PartialEq for Pattern {
    fn eq(&self, o: &Self) -> bool {
        self.0.as_str() == o.0.as_str()
    }
}
impl Eq for Pattern {}
impl From<Pattern> for String {
    fn from(p: Pattern) -> String {
        p.0.as_str().into()
    }
}
impl TryFrom<String> for Pattern {
    type Error = regex::Error;
    fn try_from(s: String) -> Result<Self, regex::Error> {
        // whole-value match, as Envoy and the Gateway API's implementations read RegularExpression; 64 KiB bounds a route's memory
        let r = regex::RegexBuilder::new(&format!("^(?:{s})$")).size_limit(1 << 20).build()?;
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
