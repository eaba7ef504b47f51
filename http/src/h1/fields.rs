//! Fields that are about the connection or the framing: what they say together, and who may say it where.

use super::Reason;
use super::body::Framing;
use crate::head::{Head, Known};
use crate::syntax;
use httparse::Header;

/// `Content-Length` and `Transfer-Encoding` of one head.
#[derive(Default)]
pub(super) struct FramingFields {
    pub length: Option<u64>,
    chunked: bool,
}

impl FramingFields {
    /// A second one is refused even when equal: no honest client sends it, and lists (`5, 5`) are read differently everywhere.
    pub fn length_of_request(&mut self, value: &[u8]) -> Result<(), Reason> {
        let n = syntax::decimal(value).ok_or(Reason::ContentLength)?;
        if self.length.replace(n).is_some() { Err(Reason::ContentLengthDuplicate) } else { Ok(()) }
    }
    /// Applications are less careful: equal ones become one (RFC 9112, 6.3).
    pub fn length_of_response(&mut self, value: &[u8]) -> Result<(), Reason> {
        let n = syntax::decimal(value).ok_or(Reason::ContentLength)?;
        if self.length.replace(n).is_some_and(|o| o != n) { Err(Reason::ContentLengthDuplicate) } else { Ok(()) }
    }
    pub fn coding(&mut self, value: &[u8]) -> Result<(), Reason> {
        if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Reason::TransferEncoding);
        }
        self.chunked = true;
        Ok(())
    }
    pub fn finish(self, http10: bool) -> Result<Option<Framing>, Reason> {
        match self {
            FramingFields { chunked: true, .. } if http10 => Err(Reason::CodingInHttp10),
            FramingFields { chunked: true, length: Some(_) } => Err(Reason::LengthAndCoding),
            FramingFields { chunked: true, length: None } => Ok(Some(Framing::Chunked)),
            FramingFields { length, .. } => Ok(length.map(Framing::Length)),
        }
    }
}

/// The `Connection` fields of one head.
#[derive(Default)]
pub(super) struct ConnectionFields {
    pub keep_alive: bool,
    pub close: bool,
    pub upgrade: bool,
    /// How many other things it names.
    nominates: u8,
}

/// Each nominated name is compared with each field: 32 are more than anybody has hop-by-hop fields, 30,000 would be an attack on the CPU.
const MAX_NOMINATED: u8 = 32;

impl ConnectionFields {
    pub fn new(http10: bool) -> Self {
        ConnectionFields { keep_alive: !http10, ..Default::default() }
    }
    pub fn add(&mut self, value: &[u8]) -> Result<(), Reason> {
        for option in syntax::list(value) {
            match option.len() {
                5 if option.eq_ignore_ascii_case(b"close") => self.close = true,
                7 if option.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
                10 if option.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive = true,
                _ if self.nominates == MAX_NOMINATED => return Err(Reason::TooManyFields),
                _ => self.nominates += 1,
            }
        }
        Ok(())
    }
    /// Removes what `Connection` nominates (RFC 9110, 7.6.1), except fields that are meant for the recipient: nobody may make us drop the
    /// application's authentication, or the client address that somebody before us vouched for.
    pub fn remove_nominated(&self, head: &mut Head, fields: &[Header<'_>]) {
        if self.nominates == 0 {
            return;
        }
        let nominated = |name: &[u8]| {
            let connections = fields.iter().filter(|f| f.name.eq_ignore_ascii_case("connection"));
            connections.flat_map(|f| syntax::list(f.value)).any(|option| option.eq_ignore_ascii_case(name))
        };
        head.remove_if(|known, name, _| !protected(known, name) && nominated(name));
    }
}

/// Fields that `Connection` cannot take away.
fn protected(known: Known, name: &[u8]) -> bool {
    !matches!(known, Known::Other)
        || matches!(
            name,
            b"accept"
                | b"cache-control"
                | b"date"
                | b"etag"
                | b"forwarded"
                | b"last-modified"
                | b"location"
                | b"origin"
                | b"range"
                | b"referer"
                | b"tracestate"
                | b"vary"
                | b"via"
                | b"x-real-ip"
        )
        || name.starts_with(b"weft-")
        || name.starts_with(b"x-forwarded-")
        || name.starts_with(b"content-")
        || name.starts_with(b"if-")
        || name.starts_with(b"sec-")
}

/// Framing, routing and the connection's own fields: whoever sends them as a trailer wants somebody to merge them into the head.
pub(super) fn forbidden_trailer(known: Known) -> Option<&'static str> {
    Some(match known {
        Known::Connection => "connection",
        Known::ContentLength => "content-length",
        Known::Host => "host",
        Known::Http2Settings => "http2-settings",
        Known::KeepAlive => "keep-alive",
        Known::ProxyConnection => "proxy-connection",
        Known::Te => "te",
        Known::Trailer => "trailer",
        Known::TransferEncoding => "transfer-encoding",
        Known::Upgrade => "upgrade",
        Known::WeftMeta => "weft-meta",
        Known::WeftClient => "weft-client",
        _ => return None,
    })
}

/// Request modifiers, authentication, content and response control (RFC 9110, 6.5.1): not passed on, no harm meant.
pub(crate) fn ignored_trailer(known: Known, name: &[u8]) -> bool {
    known.hop_by_hop()
        || matches!(
            known,
            Known::Authorization
                | Known::ContentLength
                | Known::ContentType
                | Known::Cookie
                | Known::Expect
                | Known::Host
                | Known::ProxyAuthorization
                | Known::SetCookie
                | Known::Te
                | Known::Trailer
        )
        || matches!(
            name,
            b"content-encoding"
                | b"content-range"
                | b"cache-control"
                | b"max-forwards"
                | b"range"
                | b"age"
                | b"date"
                | b"expires"
                | b"location"
                | b"retry-after"
                | b"vary"
                | b"warning"
                | b"www-authenticate"
                | b"proxy-authenticate"
                | b"if-match"
                | b"if-none-match"
                | b"if-modified-since"
                | b"if-unmodified-since"
                | b"if-range"
                | b"forwarded"
                | b"x-request-id"
        )
        || name.starts_with(b"x-forwarded-")
        || name.starts_with(b"weft-")
}
