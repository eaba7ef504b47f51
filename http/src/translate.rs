//! What has to happen to a [`Head`] between the two versions. A `Head` is the common form, so most of it happens in the codecs; here are the rules that
//! need both sides, each to be called once for each message:
//!
//! ```text
//!   from HTTP/2 (accept)    request_from_h2    response_from_h2    trailers
//!   to HTTP/2 (send)        request_to_h2      response_to_h2      trailers
//! ```
//!
//! | in HTTP/1 | in a `Head` and in HTTP/2 |
//! |---|---|
//! | `Host`, or the target's authority | `:authority`, normalised; none only for HTTP/1.0 |
//! | the connection's TLS | `:scheme` |
//! | `Connection`, what it nominates, `Keep-Alive`, `Transfer-Encoding` ... | gone; [`RequestInfo`](crate::h1::RequestInfo) keeps what the server side needs |
//! | `TE: trailers, ...` | `te: trailers`; other codings are hop-by-hop and gone |
//! | `Cookie: a; b` | one field or crumbs, as they came; written as one to HTTP/1 |
//! | `Content-Length` | kept: it lets a receiver allocate, and both codecs hold the sender to it |
//! | `Expect: 100-continue`, 1xx | kept: they are end to end; the body is never awaited |
//! | `Upgrade: x` on GET | extended CONNECT with `:protocol: x` (RFC 8441) |
//! | 101 | 200 |
//! | any other 2xx to an upgrade | the same, marked [`UPGRADE_IGNORED`]; 502 to a foreign HTTP/2 client, who would take 2xx for success |
//!
//! Whatever would change the meaning of an HTTP/1 message is refused here with 400 (RFC 9113, 10.3), before an upstream is chosen, and a second time by
//! `h1`'s encoder, which is the last to know.

use crate::h1::UPGRADE_IGNORED;
use crate::head::{Head, Known, Pseudo};
use crate::syntax;
use std::borrow::Cow;

/// A head that must not be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refused {
    /// 400 or 501 for a request, 502 for a response.
    pub status: u16,
    pub reason: &'static str,
}

fn bad_request(reason: &'static str) -> Refused {
    Refused { status: 400, reason }
}

/// Whether a request is one that we serve at all: no forward proxying, no other schemes. What `h2` has parsed needs no more than this, since its rules for heads
/// are those of [`request_from_h2`].
pub fn offered(head: &Head) -> Result<(), Refused> {
    if head.method() == b"CONNECT" && head.pseudo(Pseudo::Protocol).is_none() {
        return Err(Refused { status: 501, reason: "CONNECT is not offered" });
    }
    match head.pseudo(Pseudo::Scheme) {
        Some(s) if s.eq_ignore_ascii_case(b"http") || s.eq_ignore_ascii_case(b"https") => Ok(()),
        _ => Err(bad_request(":scheme is not http or https")),
    }
}

/// Checks and completes a request in HTTP/2's form, wherever it comes from: `Host` becomes the authority, which is normalised; nothing stays that HTTP/1 would read
/// differently. One scan over all fields.
pub fn request_from_h2(head: &mut Head) -> Result<(), Refused> {
    if !syntax::is_token(head.method()) {
        return Err(bad_request("method is not a token"));
    }
    let connect = head.method() == b"CONNECT";
    match head.pseudo(Pseudo::Protocol) {
        None if connect => return Err(Refused { status: 501, reason: "CONNECT is not offered" }),
        Some(_) if !connect => return Err(bad_request(":protocol without CONNECT")),
        Some(p) if !p.split(|b| *b == b'/').all(syntax::is_token) => {
            return Err(bad_request(":protocol is not a token"));
        }
        _ => {}
    }
    match head.pseudo(Pseudo::Scheme) {
        Some(b"http" | b"https") => {}
        Some(s) if s.eq_ignore_ascii_case(b"http") => head.set_pseudo(Pseudo::Scheme, b"http"),
        Some(s) if s.eq_ignore_ascii_case(b"https") => head.set_pseudo(Pseudo::Scheme, b"https"),
        _ => return Err(bad_request(":scheme is not http or https")),
    }
    if !syntax::is_target(head.path()) || (head.path() == b"*" && head.method() != b"OPTIONS") {
        return Err(bad_request(":path is malformed"));
    }
    authority(head)?;
    fields(head, true).map_err(bad_request)
}

/// RFC 9113, 8.3.1: `host` must say the same as `:authority`, or stands in for it.
fn authority(head: &mut Head) -> Result<(), Refused> {
    let malformed = |_| bad_request("authority or host is malformed");
    let mut hosts = head.fields().filter(|(known, ..)| *known == Known::Host).map(|(.., value)| value);
    let host = hosts.next().map(syntax::authority).transpose().map_err(malformed)?;
    if hosts.next().is_some() {
        return Err(bad_request("more than one host"));
    }
    drop(hosts);
    let had_host = host.is_some();
    let given = head.pseudo(Pseudo::Authority).filter(|a| !a.is_empty());
    let given = given.map(syntax::authority).transpose().map_err(malformed)?;
    let normal = match (given, host) {
        (Some(a), Some(h)) if a != h => return Err(bad_request("host differs from :authority")),
        // as it came, which is the usual case
        (Some(Cow::Borrowed(_)), _) => None,
        (Some(Cow::Owned(a)), _) => Some(a),
        (None, Some(h)) => Some(h.into_owned()),
        (None, None) => None,
    };
    if let Some(normal) = normal {
        head.set_pseudo(Pseudo::Authority, &normal);
    } else if head.authority().is_empty() {
        head.remove_pseudo(Pseudo::Authority);
    }
    if had_host {
        head.remove(b"host");
    }
    Ok(())
}

/// Names, values, the connection's fields and `content-length`.
fn fields(head: &mut Head, request: bool) -> Result<(), &'static str> {
    let mut length: Option<&[u8]> = None;
    let mut lengths = 0;
    for (known, name, value) in head.fields() {
        if !syntax::is_lower_token(name) {
            return Err("field name has characters that are not allowed");
        }
        if !syntax::is_value(value) || value != value.trim_ascii() {
            return Err("field value has control characters, or begins or ends with white space");
        }
        match known {
            Known::TransferEncoding
            | Known::Connection
            | Known::Upgrade
            | Known::KeepAlive
            | Known::ProxyConnection => {
                return Err("field belongs to one connection and does not exist in HTTP/2");
            }
            Known::Te if request && !value.eq_ignore_ascii_case(b"trailers") => {
                return Err("te has a value other than trailers");
            }
            Known::ContentLength => {
                if syntax::decimal(value).is_none() || length.is_some_and(|l| l != value) {
                    return Err("content-length is malformed or appears twice");
                }
                length = Some(value);
                lengths += 1;
            }
            _ => {}
        }
    }
    if lengths > 1 {
        let mut first = true;
        head.remove_if(|known, _, _| known == Known::ContentLength && !std::mem::take(&mut first));
    }
    head.remove_if(|known, _, _| known == Known::Http2Settings);
    Ok(())
}

/// Makes a request fit for HTTP/2, whatever filters have added to it.
pub fn request_to_h2(head: &mut Head) {
    if head.authority().is_empty() {
        head.remove_pseudo(Pseudo::Authority);
    }
    head.remove_if(|known, _, value| match known {
        Known::Host => true,
        Known::Te => !value.eq_ignore_ascii_case(b"trailers"),
        known => known.hop_by_hop(),
    });
}

/// Checks a response that came over HTTP/2. Errors are the upstream's: 502.
pub fn response_from_h2(head: &mut Head) -> Result<(), Refused> {
    let bad = |reason| Refused { status: 502, reason };
    if !(100..1000).contains(&head.status) || head.status == 101 {
        return Err(bad(":status is malformed"));
    }
    fields(head, false).map_err(bad)
}

/// Makes a response fit for HTTP/2. `mesh`: the receiver is one of us and knows [`UPGRADE_IGNORED`]; anybody else would take a 2xx for the success of its extended
/// CONNECT and gets 502. True when that has happened: the body is not to be passed on.
pub fn response_to_h2(head: &mut Head, mesh: bool) -> bool {
    head.remove_if(|known, _, _| known.hop_by_hop());
    if mesh || head.get(UPGRADE_IGNORED).is_none() {
        return false;
    }
    head.clear();
    head.status = 502;
    true
}

/// Trailers in either direction: framing, routing and authentication are not taken from there (RFC 9110, 6.5.1). False when nothing is left.
pub fn trailers(head: &mut Head) -> bool {
    head.remove_if(|known, name, value| {
        crate::h1::ignored_trailer(known, name) || !syntax::is_lower_token(name) || !syntax::is_value(value)
    });
    head.fields().next().is_some()
}

/// The method that routes and policies see: an upgrade is a GET, whichever version carries it.
pub fn routing_method(head: &Head) -> &[u8] {
    match head.pseudo(Pseudo::Protocol) {
        Some(_) => b"GET",
        None => head.method(),
    }
}

#[cfg(test)]
#[path = "translate_tests.rs"]
mod tests;
