//! Filters of rules and of backendRefs, as the Gateway API defines them, already validated.

use crate::route::BackendRef;
use serde::{Deserialize, Serialize};

/// `set`, `add`, `remove` of RequestHeaderModifier and ResponseHeaderModifier, applied in that order: remove, set, add. Names in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HeaderModifier {
    pub set: Vec<(Box<str>, Box<str>)>,
    pub add: Vec<(Box<str>, Box<str>)>,
    pub remove: Vec<Box<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathModifier {
    ReplaceFullPath(Box<str>),
    /// Replaces the prefix that the rule matched.
    ReplacePrefixMatch(Box<str>),
}

#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Redirect {
    pub scheme: Option<Box<str>>,
    pub hostname: Option<Box<str>>,
    pub path: Option<PathModifier>,
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308; 302 when the route says nothing.
    pub status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UrlRewrite {
    pub hostname: Option<Box<str>>,
    pub path: Option<PathModifier>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mirror {
    pub backend: BackendRef,
    /// Of `denominator` requests, `numerator` are mirrored.
    pub numerator: u32,
    pub denominator: u32,
}

/// GEP-1767.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cors {
    pub allow_origins: Vec<Box<str>>,
    pub allow_credentials: bool,
    pub allow_methods: Vec<Box<str>>,
    pub allow_headers: Vec<Box<str>>,
    pub expose_headers: Vec<Box<str>>,
    /// Seconds.
    pub max_age: u32,
}

/// Filters of one rule or one backendRef. Each kind may stand once, but for mirrors (Gateway API, HTTPRouteFilter).
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Filters {
    pub request_headers: Option<HeaderModifier>,
    pub response_headers: Option<HeaderModifier>,
    pub redirect: Option<Redirect>,
    pub rewrite: Option<UrlRewrite>,
    pub mirrors: Vec<Mirror>,
    pub cors: Option<Cors>,
    /// A filter that Weft does not know: the request gets a 500, the filter is never skipped. Holds the text for the error.
    pub unsupported: Option<Box<str>>,
}
