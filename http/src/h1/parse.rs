//! Heads: httparse finds the tokens in one scan over the bytes where they lie, then every rule of RFC 9112 that it leaves open is checked here,
//! and what remains is copied into a [`Head`]. Hop-by-hop fields end here, framing becomes a [`Framing`].
//!
//! Whatever two implementations might read differently is refused: bare LF, obs-fold, space before a colon, `Content-Length` beside
//! `Transfer-Encoding`, any coding but `chunked`, any doubt about the host.

use super::body::Framing;
use super::fields::{ConnectionFields, FramingFields, forbidden_trailer, ignored_trailer};
use super::{Config, MAX_FIELDS, ParseError, Reason, RequestInfo, UPGRADE_IGNORED, spare};
use crate::head::{Head, Known, Pseudo, pool};
use crate::syntax;
use httparse::{Error, Header, Status};
use std::mem::MaybeUninit;

pub(super) struct Request {
    pub head: Box<Head>,
    pub framing: Framing,
    pub info: RequestInfo,
    /// HEAD: the response has no body.
    pub is_head: bool,
    /// Bytes of the head.
    pub len: usize,
}

pub(super) struct Response {
    pub head: Box<Head>,
    pub framing: Framing,
    pub keep_alive: bool,
    /// 101, and to the protocol that was asked for.
    pub switched: bool,
    pub len: usize,
}

/// What the parser must know of the request.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub is_head: bool,
    pub upgrade: Option<&'a [u8]>,
}

impl Reason {
    /// The status that a client is told for its own mistake.
    pub(super) fn request_status(self) -> u16 {
        match self {
            Reason::HeadTooLarge | Reason::TooManyFields => 431,
            Reason::TargetTooLong => 414,
            Reason::Version => 505,
            Reason::Connect => 501,
            _ => 400,
        }
    }
    pub(super) fn by_client(self) -> ParseError {
        ParseError { status: self.request_status(), reason: self }
    }
    /// An upstream's mistake.
    pub(super) fn by_upstream(self) -> ParseError {
        ParseError { status: 502, reason: self }
    }
}

/// Appends a piece of a head to the buffer of partial heads, whose memory grows to `max` (and one byte, which proves the excess) and no further.
pub(super) fn append(partial: &mut Vec<u8>, piece: &[u8], max: usize) {
    spare::ensure_small(partial);
    let need = partial.len() + piece.len();
    if need > partial.capacity() {
        partial.reserve_exact((need * 2).min(max.max(need)) - partial.len());
    }
    partial.extend_from_slice(piece);
}

/// Whether a head that arrives in pieces is to be parsed again: when a line has ended since `before`, or in its first bytes (so that what is not HTTP is
/// refused at once). So the work is bounded by the number of lines, not of pieces. At the end of the input the rest is parsed, too.
pub(super) fn worth_it(partial: &[u8], before: usize) -> bool {
    before < 32 || partial[before..].contains(&b'\n')
}

/// A request head is also parsed again when its first line passes the limit.
pub(super) fn line_limit_passed(partial: &[u8], before: usize, config: &Config) -> bool {
    let limit = config.max_target + SLACK + 2; // an empty line may be before it
    before < limit && partial.len() >= limit
}

type Fields<'b> = [MaybeUninit<Header<'b>>; MAX_FIELDS];

/// A request head at the front of `d`; `None`: it is incomplete.
pub(super) fn request(d: &[u8], config: &Config) -> Result<Option<Request>, Reason> {
    // one empty line before the request line is tolerated (RFC 9112, 2.2), more are not: each would be parsed again
    let (d, blank) = match d {
        [b'\r', b'\n', b'\r' | b'\n', ..] => return Err(Reason::RequestLine),
        [b'\r', b'\n', rest @ ..] => (rest, 2),
        [b'\n', ..] => return Err(Reason::LineEnd),
        [b'\r'] => return Ok(None),
        _ => (d, 0),
    };
    let mut space: Fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut r = httparse::Request::new(&mut []);
    let len = match r.parse_with_uninit_headers(d, &mut space[..config.max_fields.min(MAX_FIELDS)]) {
        Ok(Status::Complete(n)) => n,
        Ok(Status::Partial) => return incomplete(d, config),
        // which version it is can be said when the line is there
        Err(Error::Version) if !d.contains(&b'\n') => return incomplete(d, config),
        Err(e) => return Err(request_error(e, d, config)),
    };
    let (Some(method), Some(target), Some(version)) = (r.method, r.path, r.version) else {
        return Err(Reason::RequestLine);
    };
    let fields = &*r.headers;
    // 12: spaces, version, CR LF; the same limit as for a line that has not ended yet
    if target.len() > config.max_target || method.len() + target.len() + 12 > config.max_target + SLACK {
        return Err(Reason::TargetTooLong);
    }
    if len > config.max_head {
        return Err(Reason::HeadTooLarge);
    }
    line_ends(d, len, fields)?;

    let mut head = pool::take();
    let mut info = RequestInfo { http10: version == 0, ..Default::default() };
    match request_fields(&mut head, &mut info, method.as_bytes(), target.as_bytes(), fields, config) {
        Ok(framing) => Ok(Some(Request { head, framing, info, is_head: method == "HEAD", len: len + blank })),
        Err(reason) => {
            pool::give(head);
            Err(reason)
        }
    }
}

/// Method, spaces and version beside the target in a request line; the longest registered method has 17 bytes.
const SLACK: usize = 48;

fn incomplete(d: &[u8], config: &Config) -> Result<Option<Request>, Reason> {
    if line_too_long(d, config) {
        Err(Reason::TargetTooLong)
    } else if d.len() >= config.max_head {
        Err(Reason::HeadTooLarge)
    } else {
        Ok(None)
    }
}

fn line_too_long(d: &[u8], config: &Config) -> bool {
    d.get(..config.max_target + SLACK).is_some_and(|start| !start.contains(&b'\n'))
}

fn request_fields(
    head: &mut Head,
    info: &mut RequestInfo,
    method: &[u8],
    target: &[u8],
    fields: &[Header<'_>],
    config: &Config,
) -> Result<Framing, Reason> {
    head.set_pseudo(Pseudo::Method, method);
    head.set_pseudo(Pseudo::Scheme, if config.https { b"https" } else { b"http" });
    let in_target = target_form(head, method, target)?;

    let mut framing = FramingFields::default();
    let mut connection = ConnectionFields::new(info.http10);
    let mut host: Option<&[u8]> = None;
    let mut upgrade: Option<&[u8]> = None;
    for f in fields {
        let value = f.value;
        let first_length = framing.length.is_none();
        match head.add_any_case_if(f.name.as_bytes(), value, |known| kept(known, value, first_length)) {
            Known::Host if host.replace(value).is_some() => return Err(Reason::HostDuplicate),
            Known::ContentLength => framing.length_of_request(value)?,
            Known::TransferEncoding => framing.coding(value)?,
            Known::Connection => connection.add(value)?,
            Known::Te => info.te_trailers |= syntax::list(value).any(|t| t.eq_ignore_ascii_case(b"trailers")),
            Known::Expect => info.expect_continue |= value.eq_ignore_ascii_case(b"100-continue"),
            Known::Upgrade => upgrade = upgrade.or(Some(value)),
            _ => {}
        }
    }
    match host {
        Some(value) => {
            let normal = syntax::authority(value).map_err(|_| Reason::Authority)?;
            if !in_target {
                head.set_pseudo(Pseudo::Authority, &normal);
            }
        }
        None if !info.http10 => return Err(Reason::HostMissing),
        None => {}
    }
    let framing = framing.finish(info.http10)?.unwrap_or(Framing::None);
    let bodyless = matches!(framing, Framing::None | Framing::Length(0));
    if let Framing::Length(n) = framing
        && head.known(Known::ContentLength).is_none()
    {
        add_length(head, n);
    }
    if info.te_trailers {
        head.add(b"te", b"trailers");
    }
    if info.expect_continue && (info.http10 || bodyless) {
        // RFC 9110, 10.1.1: ignored in HTTP/1.0, and meaningless without a body
        head.remove(b"expect");
        info.expect_continue = false;
    }
    info.keep_alive = connection.keep_alive && !connection.close;
    connection.remove_nominated(head, fields);
    if let Some(protocol) = upgrade
        && connection.upgrade
        && bodyless
        && method == b"GET"
        && !info.http10
        && let Some(protocol) = syntax::list(protocol).find(|p| upgradable(p))
    {
        info.upgrade = true;
        head.set_pseudo(Pseudo::Method, b"CONNECT");
        head.set_pseudo(Pseudo::Protocol, &protocol.to_ascii_lowercase());
        head.remove(b"content-length");
    }
    Ok(framing)
}

/// `Upgrade` is an offer that may be ignored (RFC 9110, 7.8), and is when it offers another version of HTTP or TLS: those are ours to choose, not the application's.
/// A protocol with a version (`SPDY/3.1`) has no name in HTTP/2 (RFC 8441, 4) and is ignored, too.
fn upgradable(protocol: &[u8]) -> bool {
    let ours = [&b"h2c"[..], b"h2", b"http", b"tls"].iter().any(|p| protocol.eq_ignore_ascii_case(p));
    !ours && protocol.len() <= 64 && syntax::is_token(protocol)
}

/// Which fields go into a [`Head`] as they are. A length stays in its place when it is the first and is written as we would write it.
#[inline]
fn kept(known: Known, value: &[u8], first_length: bool) -> bool {
    match known {
        Known::Other => true,
        Known::Host | Known::Te => false,
        Known::ContentLength => first_length && (value.len() == 1 || !value.starts_with(b"0")),
        known => !known.hop_by_hop(),
    }
}

/// RFC 9112, 3.2. True: the target itself had the authority, which then wins over `Host`.
fn target_form(head: &mut Head, method: &[u8], target: &[u8]) -> Result<bool, Reason> {
    if method == b"CONNECT" {
        return Err(Reason::Connect);
    }
    if target.contains(&b'#') {
        return Err(Reason::Target);
    }
    match target {
        [b'/', ..] => head.set_pseudo(Pseudo::Path, target),
        b"*" if method == b"OPTIONS" => head.set_pseudo(Pseudo::Path, target),
        _ => {
            let scheme = target.iter().position(|b| *b == b':').ok_or(Reason::Target)?;
            let rest = target[scheme..].strip_prefix(b"://").ok_or(Reason::Target)?;
            if !(target[..scheme].eq_ignore_ascii_case(b"http") || target[..scheme].eq_ignore_ascii_case(b"https")) {
                return Err(Reason::Target);
            }
            let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            head.set_pseudo(Pseudo::Authority, &syntax::authority(authority).map_err(|_| Reason::Authority)?);
            match path {
                [] if method == b"OPTIONS" => head.set_pseudo(Pseudo::Path, b"*"), // RFC 9112, 3.2.4
                [b'/', ..] => head.set_pseudo(Pseudo::Path, path),
                _ => head.set_pseudo(Pseudo::Path, &[b"/", path].concat()),
            }
            return Ok(true);
        }
    }
    Ok(false)
}

/// A response head at the front of `d`; `None`: it is incomplete.
pub(super) fn response(d: &[u8], asked: Asked<'_>, config: &Config) -> Result<Option<Response>, Reason> {
    if matches!(d.first(), Some(b'\r' | b'\n')) {
        return Err(Reason::StatusLine);
    }
    let mut space: Fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut r = httparse::Response::new(&mut []);
    let mut parser = httparse::ParserConfig::default();
    // RFC 9112, 5.1: a proxy removes it from responses
    parser.allow_spaces_after_header_name_in_responses(true);
    let limit = config.max_fields.min(MAX_FIELDS);
    let len = match parser.parse_response_with_uninit_headers(&mut r, d, &mut space[..limit]) {
        Ok(Status::Complete(n)) => n,
        Ok(Status::Partial) if d.len() >= config.max_head => return Err(Reason::HeadTooLarge),
        Ok(Status::Partial) => return Ok(None),
        Err(e) => {
            return Err(match e {
                Error::TooManyHeaders => Reason::TooManyFields,
                Error::HeaderName | Error::HeaderValue => Reason::Field,
                Error::NewLine => Reason::LineEnd,
                Error::Status | Error::Token | Error::Version => Reason::StatusLine,
            });
        }
    };
    let (Some(status @ 100..), Some(version)) = (r.code, r.version) else { return Err(Reason::StatusLine) };
    if len > config.max_head {
        return Err(Reason::HeadTooLarge);
    }
    let fields = &*r.headers;
    line_ends(d, len, fields)?;

    let mut head = pool::take();
    head.status = status;
    match response_fields(&mut head, status, version == 0, fields, asked) {
        Ok((framing, keep_alive, switched)) => Ok(Some(Response { head, framing, keep_alive, switched, len })),
        Err(reason) => {
            pool::give(head);
            Err(reason)
        }
    }
}

fn response_fields(
    head: &mut Head,
    status: u16,
    http10: bool,
    fields: &[Header<'_>],
    asked: Asked<'_>,
) -> Result<(Framing, bool, bool), Reason> {
    let mut framing = FramingFields::default();
    let mut connection = ConnectionFields::new(http10);
    let mut upgrade: Option<&[u8]> = None;
    for f in fields {
        let value = f.value;
        let first_length = framing.length.is_none();
        match head.add_any_case_if(f.name.as_bytes(), value, |known| kept(known, value, first_length)) {
            Known::ContentLength => framing.length_of_response(value)?,
            Known::TransferEncoding => framing.coding(value)?,
            Known::Connection => connection.add(value)?,
            Known::Upgrade => upgrade = Some(value),
            _ => {}
        }
    }
    connection.remove_nominated(head, fields);
    head.remove(UPGRADE_IGNORED);
    let keep_alive = connection.keep_alive && !connection.close;
    let declared = framing.finish(http10)?;
    if status == 101 {
        let asked = asked.upgrade.ok_or(Reason::UnsolicitedSwitch)?;
        if !upgrade.is_some_and(|u| u.eq_ignore_ascii_case(asked)) || http10 {
            return Err(Reason::WrongSwitch);
        }
        head.remove(b"content-length");
        return Ok((Framing::UntilClose, false, true));
    }
    // RFC 9112, 6.3: these have no body whatever they declare; a length tells what a GET would have brought
    let bodyless = asked.is_head || status < 200 || status == 204 || status == 304;
    if let Some(Framing::Length(n)) = declared {
        if status < 200 || status == 204 {
            head.remove(b"content-length");
        } else if head.known(Known::ContentLength).is_none() {
            add_length(head, n);
        }
    }
    let framing = match declared {
        _ if bodyless => Framing::None,
        Some(framing) => framing,
        None if status == 205 => Framing::None, // RFC 9110, 15.3.6: no content
        None => Framing::UntilClose,
    };
    Ok((framing, keep_alive && framing != Framing::UntilClose, false))
}

/// A trailer section with its last empty line at the front of `d`; outer `None`: it is incomplete, inner: nothing of it may be passed on.
#[allow(clippy::type_complexity)]
pub(super) fn trailers(d: &[u8], config: &Config) -> Result<Option<(Option<Box<Head>>, usize)>, Reason> {
    let mut space = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let (len, fields) = match httparse::parse_headers(d, &mut space[..config.max_fields.min(MAX_FIELDS)]) {
        Ok(Status::Complete(found)) => found,
        Ok(Status::Partial) if d.len() >= config.max_head => return Err(Reason::HeadTooLarge),
        Ok(Status::Partial) => return Ok(None),
        Err(Error::TooManyHeaders) => return Err(Reason::TooManyFields),
        Err(_) => return Err(Reason::Trailers),
    };
    if len > config.max_head {
        return Err(Reason::HeadTooLarge);
    }
    line_ends(d, len, fields)?;
    let mut head = pool::take();
    let mut any = false;
    for f in fields {
        let known = head.add_any_case_if(f.name.as_bytes(), f.value, |_| true);
        if let Some(name) = forbidden_trailer(known) {
            pool::give(head);
            return Err(Reason::ForbiddenTrailer(name));
        }
        any = true;
    }
    head.remove_if(|known, name, _| ignored_trailer(known, name));
    if any && head.fields().next().is_some() {
        return Ok(Some((Some(head), len)));
    }
    pool::give(head);
    Ok(Some((None, len)))
}

fn request_error(e: Error, d: &[u8], config: &Config) -> Reason {
    match e {
        Error::TooManyHeaders => Reason::TooManyFields,
        Error::HeaderName | Error::HeaderValue => Reason::Field,
        Error::NewLine => Reason::LineEnd,
        _ if d.starts_with(b"PRI * HTTP/2") => Reason::Http2Preface,
        _ if d.starts_with(&[0x16]) => Reason::Tls,
        Error::Version => {
            let line = d.split(|b| *b == b'\n').next().unwrap_or_default();
            match line.splitn(3, |b| *b == b' ').nth(2) {
                Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor, b'\r'])
                    if major.is_ascii_digit() && minor.is_ascii_digit() =>
                {
                    Reason::Version
                }
                _ => Reason::RequestLine,
            }
        }
        Error::Token if line_too_long(d, config) => Reason::TargetTooLong,
        Error::Token | Error::Status => Reason::RequestLine,
    }
}

/// httparse accepts a bare LF as a line end. Lines begin at every field, at the empty line, and at `len`: CR LF must be before each.
fn line_ends(d: &[u8], len: usize, fields: &[Header<'_>]) -> Result<(), Reason> {
    let start = |f: &Header<'_>| f.name.as_ptr() as usize - d.as_ptr() as usize;
    let after_crlf = |at: usize| at == 0 || (at >= 2 && d[at - 2..at] == *b"\r\n");
    if fields.iter().all(|f| after_crlf(start(f))) && len >= 2 && after_crlf(len - 2) && after_crlf(len) {
        Ok(())
    } else {
        Err(Reason::LineEnd)
    }
}

/// `Content-Length` as we understood it.
fn add_length(head: &mut Head, n: u64) {
    let mut digits = [0; 20];
    head.add(b"content-length", super::encode::decimal(n, &mut digits));
}
