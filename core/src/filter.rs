//! Filters of rules and of backendRefs, as the Gateway API defines them, already validated.
//!
//! The engine asks in this order: [`Filters::usable`] (an unknown filter fails the request), CORS preflight ([`crate::cors`]), redirect, mirrors; then
//! [`Filters::apply_request`] of the rule, once, and of the backend that was drawn, on the copy of the head that goes to it; on the way back
//! [`Filters::apply_response`] of the backend, then of the rule, then CORS. Paths are changed from the request's own path, so that a backend's rewrite replaces the
//! prefix that the rule matched, whatever the rule's rewrite did.

use crate::{
    cause::{Cause, Kind},
    path::{self, RequestPath},
    route::BackendRef,
};
use serde::{Deserialize, Serialize};

/// What filters change of a head. Field names in lower case.
pub trait HeadMut {
    /// The first value of a field.
    fn get(&self, name: &[u8]) -> Option<&[u8]>;
    /// Replaces all values by one.
    fn set(&mut self, name: &[u8], value: &[u8]);
    /// Adds a field line behind those that are there.
    fn add(&mut self, name: &[u8], value: &[u8]);
    fn remove(&mut self, name: &[u8]);
    /// Removes the fields whose names `drop` says yes to.
    fn remove_names(&mut self, drop: &mut dyn FnMut(&[u8]) -> bool);
    /// Requests only: path and query.
    fn set_path_and_query(&mut self, value: &[u8]);
    /// Requests only: `:authority` or `Host`.
    fn set_authority(&mut self, value: &[u8]);
}

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

/// Fields that frame messages or belong to the mesh: no modifier touches them. Controllers say so on the route.
pub fn is_protected(name: &str) -> bool {
    const FRAMING: &[&str] = &[
        "connection",
        "content-length",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    name.is_empty() || name.starts_with(':') || name.starts_with("weft-") || FRAMING.contains(&name)
}

impl HeaderModifier {
    /// Applies the modifier: removes, sets, then adds behind what is there. Names that differ in `_` and `-` only are one name to CGI-like servers, so where a field is set or
    /// removed, its variants go too. `host` is the authority; it can be set, not removed. What [`is_protected`] is left alone.
    pub fn apply(&self, head: &mut (impl HeadMut + ?Sized)) {
        let may = |name: &str| !is_protected(name) && name != "host";
        for name in self.remove.iter().filter(|n| may(n)) {
            head.remove(name.as_bytes());
            remove_variants(head, name);
        }
        for (name, value) in &self.set {
            if may(name) {
                remove_variants(head, name);
                head.set(name.as_bytes(), value.as_bytes());
            } else if &**name == "host" {
                head.set_authority(value.as_bytes());
            }
        }
        for (name, value) in self.add.iter().filter(|(n, _)| may(n)) {
            head.add(name.as_bytes(), value.as_bytes());
        }
    }
}

fn remove_variants(head: &mut (impl HeadMut + ?Sized), name: &str) {
    let dash = |b: u8| if b == b'_' { b'-' } else { b };
    if name.contains(['-', '_']) {
        head.remove_names(&mut |n| n != name.as_bytes() && n.iter().copied().map(dash).eq(name.bytes().map(dash)));
    }
}

impl PathModifier {
    /// The new path and query. `prefix` is the one that the rule matched ([`crate::route::Matched::prefix`]); the query stays unless a full replacement brings
    /// its own. Replacing a prefix where none matched is no filter that can be applied.
    pub fn apply(&self, path: &RequestPath<'_>, prefix: Option<&str>) -> Result<Vec<u8>, Cause> {
        let mut out = match self {
            PathModifier::ReplaceFullPath(new) => new.as_bytes().to_vec(),
            PathModifier::ReplacePrefixMatch(new) => {
                let rest = prefix.and_then(|p| path::after_prefix(path.forwarded_path(), p)).ok_or_else(|| {
                    Cause::with(Kind::UnsupportedFilter, "ReplacePrefixMatch needs a match of type PathPrefix")
                })?;
                let mut out =
                    if rest.is_empty() { new.as_bytes() } else { new.trim_end_matches('/').as_bytes() }.to_vec();
                out.extend_from_slice(rest);
                out
            }
        };
        // one slash first: `//x` would name a host in a Location, and an empty path is none
        let slashes = out.iter().take_while(|b| **b == b'/').count();
        out.splice(..slashes, [b'/']);
        if let Some(query) = path.query().filter(|_| !out.contains(&b'?')) {
            out.push(b'?');
            out.extend_from_slice(query);
        }
        Ok(out)
    }
}

/// What a redirect must know of the request.
#[derive(Clone, Copy, Debug)]
pub struct Redirected<'a> {
    /// `http` or `https`, as the client spoke.
    pub scheme: &'a str,
    pub authority: &'a [u8],
    /// The port that the client dialled: the listener's, or the Service's.
    pub port: u16,
    pub path: &'a RequestPath<'a>,
    pub prefix: Option<&'a str>,
}

impl Redirect {
    pub fn status(&self) -> u16 {
        if self.status == 0 { 302 } else { self.status }
    }
    /// The `Location` (Gateway API, HTTPRequestRedirectFilter). Port: the filter's; else, where it names a scheme, that scheme's well-known one; else the one that was dialled.
    /// 80 for http and 443 for https are not written. Without any host it is a path (a relative reference).
    pub fn location(&self, request: &Redirected<'_>) -> Result<String, Cause> {
        let path = match &self.path {
            Some(p) => p.apply(request.path, request.prefix)?,
            None => request.path.forwarded().to_vec(),
        };
        let scheme = self.scheme.as_deref().unwrap_or(request.scheme);
        let well_known = match scheme {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        };
        let port = match (self.port, &self.scheme) {
            (Some(port), _) => Some(port),
            (None, Some(_)) => well_known,
            (None, None) => Some(request.port),
        };
        let host = match &self.hostname {
            Some(h) => h.as_bytes(),
            None => path::split_authority(request.authority).0,
        };
        // nothing that a client sent may end the host and begin something else
        let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'~' | b'[' | b']' | b':');
        let mut out = String::with_capacity(path.len() + host.len() + 16);
        if !host.is_empty() && host.iter().all(plain) {
            out.push_str(scheme);
            out.push_str("://");
            out.extend(host.iter().map(|b| *b as char));
            if let Some(port) = port.filter(|p| Some(*p) != well_known) {
                out.push_str(&format!(":{port}"));
            }
        }
        for b in path {
            match b {
                b'!'..=b'~' => out.push(b as char),
                _ => out.push_str(&format!("%{b:02X}")),
            }
        }
        Ok(out)
    }
}

impl Mirror {
    /// Whether this request is mirrored; `random` is uniform.
    pub fn samples(&self, random: u64) -> bool {
        let at = (u128::from(random) * u128::from(self.denominator)) >> 64;
        at < u128::from(self.numerator)
    }
}

impl Filters {
    /// An error when the request must fail, because a filter is not one that Weft can apply.
    pub fn usable(&self) -> Result<(), Cause> {
        match &self.unsupported {
            Some(why) => Err(Cause::with(Kind::UnsupportedFilter, why.to_string())),
            None => Ok(()),
        }
    }
    /// Header modifier and rewrite, on a request. `path` is the request's own, `prefix` the matched one.
    pub fn apply_request(
        &self,
        path: &RequestPath<'_>,
        prefix: Option<&str>,
        head: &mut (impl HeadMut + ?Sized),
    ) -> Result<(), Cause> {
        self.usable()?;
        if let Some(m) = &self.request_headers {
            m.apply(head);
        }
        if let Some(r) = &self.rewrite {
            if let Some(host) = &r.hostname {
                head.set_authority(host.as_bytes());
            }
            if let Some(p) = &r.path {
                head.set_path_and_query(&p.apply(path, prefix)?);
            }
        }
        Ok(())
    }
    /// The header modifier, on a response.
    pub fn apply_response(&self, head: &mut (impl HeadMut + ?Sized)) {
        if let Some(m) = &self.response_headers {
            m.apply(head);
        }
    }
    /// Nothing to apply.
    pub fn is_empty(&self) -> bool {
        let Self { request_headers, response_headers, redirect, rewrite, mirrors, cors, unsupported } = self;
        request_headers.is_none()
            && response_headers.is_none()
            && redirect.is_none()
            && rewrite.is_none()
            && mirrors.is_empty()
            && cors.is_none()
            && unsupported.is_none()
    }
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
