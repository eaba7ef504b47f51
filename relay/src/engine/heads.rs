//! Heads on their way through: what the mesh adds, takes away and reads.
//!
//! `weft-meta: 1;h2` goes with every request between proxies: the version of these rules, and what the far application is spoken to in. `weft-client` names the verified
//! peer to the application. `weft-error` names a cause. All of them, and everything else that begins with `weft-`, are removed from whatever comes from
//! outside the mesh (row 29), and so is Envoy's client-certificate field, which applications may believe.

use crate::util::Draw;
use std::time::Duration;
use weft_core::{filter::HeadMut, matches::RequestHead};
use weft_http::{
    h1::UPGRADE_IGNORED,
    head::{Head, Known, Pseudo},
    translate,
};

/// What routes read of a head.
pub(crate) struct View<'a>(pub &'a Head);
impl RequestHead for View<'_> {
    fn method(&self) -> &[u8] {
        translate::routing_method(self.0)
    }
    fn path_and_query(&self) -> &[u8] {
        self.0.path()
    }
    fn authority(&self) -> &[u8] {
        self.0.authority()
    }
    fn any_value(&self, name: &str, found: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.0.values(name.as_bytes()).any(found)
    }
    fn each_field(&self, each: &mut dyn FnMut(&[u8], &[u8])) {
        self.0.fields().for_each(|(_, name, value)| each(name, value));
    }
}

/// What filters change of a head.
pub(crate) struct Edit<'a>(pub &'a mut Head);
impl HeadMut for Edit<'_> {
    fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.0.fields().find(|(_, n, _)| *n == name).map(|(_, _, v)| v)
    }
    fn set(&mut self, name: &[u8], value: &[u8]) {
        self.0.set(name, value);
    }
    fn add(&mut self, name: &[u8], value: &[u8]) {
        self.0.add(name, value);
    }
    fn remove(&mut self, name: &[u8]) {
        self.0.remove(name);
    }
    fn remove_names(&mut self, drop: &mut dyn FnMut(&[u8]) -> bool) {
        self.0.remove_if(|_, name, _| drop(name));
    }
    fn set_path_and_query(&mut self, value: &[u8]) {
        self.0.set_pseudo(Pseudo::Path, value);
    }
    fn set_authority(&mut self, value: &[u8]) {
        self.0.set_pseudo(Pseudo::Authority, value);
    }
}

/// The version of what proxies say to each other in `weft-*` fields.
const META: [&[u8]; 2] = [b"1;h1", b"1;h2"];

/// What the far application is spoken to in, as `weft-meta` says. Unknown versions and parts are ignored: HTTP/1.1 is what every application understands.
pub(crate) fn app_http2(head: &Head) -> bool {
    head.known(Known::WeftMeta).is_some_and(|m| m.split(|b| *b == b';').skip(1).any(|part| part == b"h2"))
}

/// Says it.
pub(crate) fn set_meta(head: &mut Head, mesh: bool, http2: bool) {
    if head.known(Known::WeftMeta).is_some() {
        head.remove(b"weft-meta");
    }
    if mesh {
        head.add(b"weft-meta", META[usize::from(http2)]);
    }
}

/// Removes what only the mesh may say.
pub(crate) fn strip_request(head: &mut Head) {
    head.remove_if(|known, name, _| match known {
        Known::WeftMeta | Known::WeftError | Known::WeftClient => true,
        Known::Other => name.starts_with(b"weft-") || name == b"x-forwarded-client-cert",
        _ => false,
    });
}

/// The same for responses. `mesh`: `weft-error` of a proxy is passed on. `marked`: [`UPGRADE_IGNORED`] is our own codec's or a proxy's.
pub(crate) fn strip_response(head: &mut Head, mesh: bool, marked: bool) {
    head.remove_if(|known, name, _| match known {
        Known::WeftError => !mesh,
        Known::WeftMeta | Known::WeftClient => true,
        Known::Other if name.starts_with(b"weft-") => !(marked && name == UPGRADE_IGNORED),
        _ => false,
    });
}

fn hex(mut v: u64, out: &mut [u8]) {
    for b in out {
        *b = b"0123456789abcdef"[(v & 15) as usize];
        v >>= 4;
    }
}

/// W3C trace context is carried on; a request without one begins a trace that is not sampled. `x-request-id` likewise.
pub(crate) fn add_ids(head: &mut Head, draw: &mut Draw) {
    let (mut trace, mut id) = (false, false);
    for (known, ..) in head.fields() {
        trace |= known == Known::Traceparent;
        id |= known == Known::RequestId;
    }
    if !trace {
        let mut value = *b"00-00000000000000000000000000000000-0000000000000000-00";
        // all zeros would be invalid
        hex(draw.next() | 1, &mut value[3..19]);
        hex(draw.next(), &mut value[19..35]);
        hex(draw.next() | 1, &mut value[36..52]);
        head.add(b"traceparent", &value);
    }
    if !id {
        let mut value = [0; 32];
        hex(draw.next(), &mut value[..16]);
        hex(draw.next(), &mut value[16..]);
        head.add(b"x-request-id", &value);
    }
}

/// The deadline that a gRPC client has given its call (gRPC over HTTP/2: at most eight digits and a unit).
pub(crate) fn grpc_timeout(head: &Head) -> Option<Duration> {
    let (unit, digits) = head.known(Known::GrpcTimeout)?.split_last()?;
    let n: u64 = Some(digits).filter(|d| d.len() <= 8).and_then(|d| std::str::from_utf8(d).ok()?.parse().ok())?;
    Some(match unit {
        b'H' => Duration::from_secs(n * 3600),
        b'M' => Duration::from_secs(n * 60),
        b'S' => Duration::from_secs(n),
        b'm' => Duration::from_millis(n),
        b'u' => Duration::from_micros(n),
        b'n' => Duration::from_nanos(n),
        _ => return None,
    })
}

/// `content-type` of gRPC, with or without a subtype.
pub(crate) fn is_grpc(head: &Head) -> bool {
    head.known(Known::ContentType)
        .and_then(|v| v.strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// `grpc-status` of a head or trailers.
pub(crate) fn grpc_status(head: &Head) -> Option<u16> {
    std::str::from_utf8(head.known(Known::GrpcStatus)?).ok()?.parse().ok()
}
