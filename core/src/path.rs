//! The one normalisation of request paths. The router, the authoriser and the application see forms that cannot disagree.
//!
//! A request target becomes two forms:
//!
//! - the **forwarded** form: what the next hop gets. RFC 3986, 6.2.2: escapes of unreserved characters are decoded, other escapes get upper-case digits, dot
//!   segments (`%2e` too) are removed, `..` never climbs above the root. A raw `\` becomes `/` and raw bytes from 0x80 on are escaped, as browsers and Envoy do.
//!   `%2F`, `%5C`, `;x` and empty segments (`//`) are data of the application and stay: GitLab, RabbitMQ and object stores have meaning in them. The query is
//!   never changed.
//! - the **matched** form: the forwarded path with runs of `/` merged, as the Gateway API compares paths element by element and a route's value cannot hold `//`.
//!   It differs from the forwarded form in nothing else, so an application that merges slashes and one that does not are both judged by what they serve.
//!
//! Refused with 400, because servers disagree about what they mean: escapes that are none (`%zz`), `%00`, overlong UTF-8 (`%c0%ae`), a fragment (`#`), control
//! characters and spaces, and dot segments that a later decoder would find (`..%2f`, `%5c..`, `..;x`).
//!
//! Normalising is idempotent. A target that is already in its forwarded form, as nearly all are, is borrowed and costs one pass over its bytes.

use std::borrow::Cow;

/// Why a request target is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum BadPath {
    #[error("request target does not start with /")]
    NotAbsolute,
    #[error("control character or space in the request target")]
    Control,
    #[error("# in the request target")]
    Fragment,
    #[error("% without two hexadecimal digits in the path")]
    Escape,
    #[error("%00 in the path")]
    Nul,
    #[error("overlong UTF-8 in the path")]
    Overlong,
    #[error("dot segment behind an escaped slash or before a parameter")]
    HiddenDots,
}

/// A request target in its normal forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestPath<'a> {
    /// Path and query.
    forwarded: Cow<'a, [u8]>,
    /// End of the path within `forwarded`.
    end: usize,
    /// The matched form where it differs.
    merged: Option<Box<[u8]>>,
}

impl<'a> RequestPath<'a> {
    /// Normalises a request target (`:path`, or path and query of an HTTP/1 request line). `*` (RFC 9110, 9.3.7) is itself.
    pub fn parse(target: &'a [u8]) -> Result<Self, BadPath> {
        if target == b"*" {
            return Ok(Self { forwarded: Cow::Borrowed(target), end: 1, merged: None });
        }
        if !matches!(target.first(), Some(b'/' | b'\\')) {
            return Err(BadPath::NotAbsolute);
        }
        let mut end = target.len();
        let mut odd = false;
        for (at, b) in target.iter().enumerate() {
            match CLASS[*b as usize] {
                PLAIN => {}
                QUERY if end == target.len() => end = at,
                QUERY => {}
                ODD => odd |= end == target.len(),
                FRAGMENT => return Err(BadPath::Fragment),
                _ => return Err(BadPath::Control),
            }
        }
        let path = &target[..end];
        let forwarded = if !odd || is_normal(path)? {
            Cow::Borrowed(target)
        } else {
            let mut new = remove_dots(&decode(path)?)?;
            if new == path {
                Cow::Borrowed(target)
            } else {
                end = new.len();
                new.extend_from_slice(&target[path.len()..]);
                Cow::Owned(new)
            }
        };
        let merged = merge(&forwarded[..end]);
        Ok(Self { forwarded, end, merged })
    }
    /// Path and query as they are to be sent on.
    pub fn forwarded(&self) -> &[u8] {
        &self.forwarded
    }
    /// Whether [`Self::forwarded`] differs from what came.
    pub fn is_changed(&self) -> bool {
        matches!(self.forwarded, Cow::Owned(_))
    }
    /// The forwarded path without the query.
    pub fn forwarded_path(&self) -> &[u8] {
        &self.forwarded[..self.end]
    }
    /// The path that matches and policies compare with. ASCII without control characters.
    pub fn matched(&self) -> &[u8] {
        self.merged.as_deref().unwrap_or(&self.forwarded[..self.end])
    }
    /// What follows the first `?`, not decoded.
    pub fn query(&self) -> Option<&[u8]> {
        self.forwarded.get(self.end + 1..)
    }
}

/// The normal form of a path that a route names: what [`RequestPath::matched`] is compared with. `None`: such a path matches no request.
pub fn of_route(value: &str) -> Option<Box<str>> {
    let path = RequestPath::parse(value.as_bytes()).ok()?;
    if path.query().is_some() {
        return None;
    }
    // escapes leave ASCII only
    Some(std::str::from_utf8(path.matched()).ok()?.into())
}

const PLAIN: u8 = 0;
const ODD: u8 = 1;
const QUERY: u8 = 2;
const FRAGMENT: u8 = 3;
const CONTROL: u8 = 4;

/// `.` and `/` are odd only together, which [`is_normal`] finds out: a path with a dot takes the second pass.
static CLASS: [u8; 256] = {
    let mut t = [PLAIN; 256];
    let mut b = 0;
    while b < 256 {
        t[b] = match b as u8 {
            0..=b' ' | 0x7f => CONTROL,
            b'%' | b'\\' | b'.' | 0x80.. => ODD,
            b'?' => QUERY,
            b'#' => FRAGMENT,
            _ => PLAIN,
        };
        b += 1;
    }
    t
};

fn unreserved(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~')
}
fn hex(b: u8) -> Option<u8> {
    (b as char).to_digit(16).map(|d| d as u8)
}
fn escape(path: &[u8], at: usize) -> Result<u8, BadPath> {
    let digit = |i: usize| path.get(at + i).copied().and_then(hex).ok_or(BadPath::Escape);
    Ok(digit(1)? << 4 | digit(2)?)
}

/// Finds overlong UTF-8 in the decoded bytes of a path: `last` is the byte before. Latin-1 and other encodings pass.
fn overlong(last: u8, b: u8) -> bool {
    match last {
        0xC0 | 0xC1 => (0x80..=0xBF).contains(&b),
        0xE0 => (0x80..=0x9F).contains(&b),
        0xF0 => (0x80..=0x8F).contains(&b),
        _ => false,
    }
}

/// Whether a path is in its forwarded form already.
fn is_normal(path: &[u8]) -> Result<bool, BadPath> {
    let mut at = 0;
    let mut last = 0;
    while let Some(b) = path.get(at).copied() {
        match b {
            b'\\' | 0x80.. => return Ok(false),
            b'%' => {
                let decoded = escape(path, at)?;
                let lower = |b: u8| b.is_ascii_lowercase();
                // escaped separators take the long way, which looks for dots beside them
                if decoded == 0 || unreserved(decoded) || matches!(decoded, b'/' | b'\\') {
                    return Ok(false);
                }
                if lower(path[at + 1]) || lower(path[at + 2]) || overlong(last, decoded) {
                    return Ok(false);
                }
                last = decoded;
                at += 3;
                continue;
            }
            b'.' if path[..at].ends_with(b"/") => {
                let rest = &path[at + 1..];
                let rest = rest.strip_prefix(b".").unwrap_or(rest);
                if matches!(rest.first(), None | Some(b'/' | b'\\' | b';' | b'%')) {
                    return Ok(false);
                }
            }
            _ => {}
        }
        last = b;
        at += 1;
    }
    Ok(true)
}

/// Brings escapes to their normal form.
fn decode(path: &[u8]) -> Result<Vec<u8>, BadPath> {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = Vec::with_capacity(path.len() + 8);
    let escaped = |out: &mut Vec<u8>, b: u8| {
        out.extend([b'%', DIGITS[(b >> 4) as usize], DIGITS[(b & 15) as usize]]);
    };
    let mut at = 0;
    let mut last = 0;
    while let Some(b) = path.get(at).copied() {
        let (byte, was_escaped) = if b == b'%' { (escape(path, at)?, true) } else { (b, false) };
        at += if was_escaped { 3 } else { 1 };
        if byte == 0 {
            return Err(BadPath::Nul);
        }
        if overlong(last, byte) {
            return Err(BadPath::Overlong);
        }
        last = byte;
        match byte {
            b'\\' if !was_escaped => out.push(b'/'),
            0x80.. => escaped(&mut out, byte),
            b if was_escaped && !unreserved(b) => escaped(&mut out, b),
            b => out.push(b),
        }
    }
    Ok(out)
}

/// RFC 3986, 5.2.4, over a decoded path.
fn remove_dots(path: &[u8]) -> Result<Vec<u8>, BadPath> {
    let mut out = Vec::with_capacity(path.len());
    let mut segments = path[1..].split(|b| *b == b'/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            b"." | b".." => {
                if segment.len() == 2 {
                    out.truncate(out.iter().rposition(|b| *b == b'/').unwrap_or(0));
                }
                if last {
                    out.push(b'/');
                }
            }
            _ if hides_dots(segment) => return Err(BadPath::HiddenDots),
            _ => {
                out.push(b'/');
                out.extend_from_slice(segment);
            }
        }
    }
    Ok(out)
}

/// Whether a server that splits at escaped separators, or cuts parameters, would find a dot segment.
fn hides_dots(segment: &[u8]) -> bool {
    let mut rest = segment;
    loop {
        let cut = rest.windows(3).position(|w| matches!(w, b"%2F" | b"%5C"));
        let part = &rest[..cut.unwrap_or(rest.len())];
        let name = part.split(|b| *b == b';').next().unwrap_or(part);
        if matches!(name, b"." | b"..") {
            return true;
        }
        match cut {
            Some(at) => rest = &rest[at + 3..],
            None => return false,
        }
    }
}

fn merge(path: &[u8]) -> Option<Box<[u8]>> {
    if !path.windows(2).any(|w| w == b"//") {
        return None;
    }
    let mut out = Vec::with_capacity(path.len());
    for b in path {
        if *b != b'/' || out.last() != Some(&b'/') {
            out.push(*b);
        }
    }
    Some(out.into())
}

/// The elements of a path: what stands between slashes, without empty ones.
pub(crate) fn elements(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|e| !e.is_empty())
}

/// What follows `prefix` in a forwarded path: empty, or it starts with `/`. `None` when the prefix does not match.
pub fn after_prefix<'p>(path: &'p [u8], prefix: &str) -> Option<&'p [u8]> {
    let mut rest = path;
    for element in elements(prefix.as_bytes()) {
        let at = rest.iter().position(|b| *b != b'/')?;
        rest = rest[at..].strip_prefix(element)?;
        if !matches!(rest.first(), None | Some(b'/')) {
            return None;
        }
    }
    Some(rest)
}

/// Host and port of an authority: `[::1]:80` gives `[::1]` and 80. No port, or an impossible one: `None`.
pub fn split_authority(authority: &[u8]) -> (&[u8], Option<u16>) {
    let from = authority.iter().rposition(|b| *b == b']').map_or(0, |i| i + 1);
    match authority[from..].iter().position(|b| *b == b':') {
        Some(at) => {
            let (host, port) = (&authority[..from + at], &authority[from + at + 1..]);
            (host, std::str::from_utf8(port).ok().and_then(|p| p.parse().ok()))
        }
        None => (authority, None),
    }
}

#[cfg(test)]
#[path = "path_tests.rs"]
mod tests;
