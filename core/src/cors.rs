//! The CORS filter (GEP-1767, HTTPCORSFilter): which origins may read what, and the answer to a preflight.
//!
//! A preflight (OPTIONS with `origin` and `access-control-request-method`) is answered by the proxy and never forwarded; one from an origin that is not allowed gets the same
//! answer without any CORS field. Other requests are always forwarded; the fields of their responses are this filter's, never the application's.
//!
//! The origin is always echoed, also where `*` would do: the answer is then right for requests with and without credentials, and `vary: origin` keeps caches honest.

use crate::{filter::Cors, filter::HeadMut, matches::RequestHead, query::Decoded};

/// The status of an answer to a preflight: there is nothing to say but the fields.
pub const PREFLIGHT_STATUS: u16 = 204;

const FIELDS: &[&[u8]] = &[
    b"access-control-allow-origin",
    b"access-control-allow-credentials",
    b"access-control-allow-methods",
    b"access-control-allow-headers",
    b"access-control-expose-headers",
    b"access-control-max-age",
];

/// The first value of a field.
pub fn first_value(head: &(impl RequestHead + ?Sized), name: &str) -> Option<Decoded> {
    let mut value = None;
    head.any_value(name, &mut |v| {
        value = Some(Decoded::from_slice(v.trim_ascii()));
        true
    });
    value
}

/// Whether an entry of `allowOrigins` covers an origin: `*`, `scheme://host[:port]`, or with a host `*.suffix`, whose star stands for one or more labels. The port of the scheme
/// may be left out.
pub fn origin_matches(entry: &str, origin: &[u8]) -> bool {
    if entry == "*" {
        return true;
    }
    let Some((scheme, host, port)) = std::str::from_utf8(origin).ok().and_then(split) else { return false };
    split(entry).is_some_and(|(s, h, p)| {
        s.eq_ignore_ascii_case(scheme) && p == port && (h == "*" || crate::route::host_matches(h, host))
    })
}

/// Scheme, host and port of an origin; the well-known port when it names none.
fn split(origin: &str) -> Option<(&str, &str, Option<u16>)> {
    let (scheme, authority) = origin.split_once("://")?;
    // `*:80` and `[::1]:80` too
    let (host, port) = crate::path::split_authority(authority.as_bytes());
    let port = match authority.len() == host.len() {
        true if scheme.eq_ignore_ascii_case("https") => Some(443),
        true if scheme.eq_ignore_ascii_case("http") => Some(80),
        true => None,
        false => Some(port?),
    };
    (!host.is_empty()).then_some((scheme, std::str::from_utf8(host).ok()?, port))
}

impl Cors {
    /// Whether the origin may read responses.
    pub fn allows(&self, origin: &[u8]) -> bool {
        self.allow_origins.iter().any(|o| origin_matches(o, origin))
    }

    /// The fields of the answer when the request is a preflight: nothing else is to be done with it. Status: [`PREFLIGHT_STATUS`].
    pub fn preflight(&self, head: &(impl RequestHead + ?Sized)) -> Option<Vec<(&'static [u8], Vec<u8>)>> {
        if head.method() != b"OPTIONS" {
            return None;
        }
        let origin = first_value(head, "origin")?;
        let method = first_value(head, "access-control-request-method")?;
        let mut out: Vec<(&'static [u8], Vec<u8>)> = Vec::new();
        if !self.allows(&origin) {
            return Some(out);
        }
        out.push((b"access-control-allow-origin", origin.to_vec()));
        if self.allow_credentials {
            out.push((b"access-control-allow-credentials", b"true".to_vec()));
        }
        // `*` is a literal name to browsers once there are credentials; what was asked for says the same and always works
        let list = |allowed: &[Box<str>], asked: &[u8]| -> Vec<u8> {
            if allowed.iter().any(|a| &**a == "*") { asked.to_vec() } else { allowed.join(", ").into() }
        };
        let asked = first_value(head, "access-control-request-headers").unwrap_or_default();
        for (name, value) in [
            (&b"access-control-allow-methods"[..], list(&self.allow_methods, &method)),
            (b"access-control-allow-headers", list(&self.allow_headers, &asked)),
            (b"access-control-expose-headers", self.exposed()),
            (b"access-control-max-age", self.max_age.to_string().into()),
        ] {
            if !value.is_empty() {
                out.push((name, value));
            }
        }
        out.push((b"vary", b"origin, access-control-request-method, access-control-request-headers".to_vec()));
        Some(out)
    }

    /// With credentials `*` would be a literal name, so it is left out (HTTPCORSFilter.exposeHeaders).
    fn exposed(&self) -> Vec<u8> {
        let star = self.expose_headers.iter().any(|h| &**h == "*");
        match (star, self.allow_credentials) {
            (true, true) => self.expose_headers.iter().filter(|h| &***h != "*").cloned().collect::<Vec<_>>().join(", "),
            (true, false) => "*".into(),
            (false, _) => self.expose_headers.join(", "),
        }
        .into()
    }

    /// Writes the fields of a response to a request from `origin` (the request's field, `None` without one).
    pub fn apply_response(&self, origin: Option<&[u8]>, head: &mut (impl HeadMut + ?Sized)) {
        head.remove_names(&mut |name| FIELDS.contains(&name));
        // responses differ by origin, so a cache must ask again for another one
        head.add(b"vary", b"origin");
        let Some(origin) = origin.filter(|o| self.allows(o)) else { return };
        head.set(b"access-control-allow-origin", origin);
        if self.allow_credentials {
            head.set(b"access-control-allow-credentials", b"true");
        }
        let exposed = self.exposed();
        if !exposed.is_empty() {
            head.set(b"access-control-expose-headers", &exposed);
        }
    }
}

#[cfg(test)]
#[path = "cors_tests.rs"]
mod tests;
