//! The grammar that both versions share (RFC 9110, 5.1, 5.5, 9.1; RFC 3986, 3.2): what may stand in names, values, targets and authorities.
//!
//! An authority is *normalised* when it becomes part of a [`Head`](crate::head::Head), so that routing, authorisation and the application see the same bytes:
//! `EXAMPLE.com.:0080` and `example.com:80` are one host.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};

const TOKEN: [bool; 256] = {
    let mut t = [false; 256];
    let mut b = 0;
    while b < 256 {
        t[b] = (b as u8).is_ascii_alphanumeric();
        b += 1;
    }
    let extra = b"!#$%&'*+-.^_`|~";
    let mut i = 0;
    while i < extra.len() {
        t[extra[i] as usize] = true;
        i += 1;
    }
    t
};

/// Tokens without upper-case letters.
const LOWER: [bool; 256] = {
    let mut t = TOKEN;
    let mut b = b'A';
    while b <= b'Z' {
        t[b as usize] = false;
        b += 1;
    }
    t
};

/// What a normalised authority is made of.
const AUTHORITY: [bool; 256] = {
    let mut t = [false; 256];
    let mut b = 0;
    while b < 256 {
        t[b] = (b as u8).is_ascii_alphanumeric();
        b += 1;
    }
    let extra = b"-._:[]";
    let mut i = 0;
    while i < extra.len() {
        t[extra[i] as usize] = true;
        i += 1;
    }
    t
};

/// A token: methods, field names, protocol names. Never empty.
#[inline]
pub fn is_token(s: &[u8]) -> bool {
    !s.is_empty() && s.iter().all(|b| TOKEN[*b as usize])
}

/// A field name as HTTP/2 has it, and as a `Head` stores it: a token without upper-case letters.
#[inline]
pub fn is_lower_token(s: &[u8]) -> bool {
    !s.is_empty() && s.iter().all(|b| LOWER[*b as usize])
}

/// A field value: no control characters but HTAB, hence no CR, LF or NUL. Written as a fold without early exit, which the compiler vectorises.
#[inline]
pub fn is_value(s: &[u8]) -> bool {
    !s.iter().fold(false, |bad, b| bad | ((*b < 0x20) & (*b != b'\t')) | (*b == 0x7f))
}

/// Path and query of a request: begins with `/` (or is `*`), and has no byte that could end a request line or start a fragment.
#[inline]
pub fn is_target(s: &[u8]) -> bool {
    match s.first() {
        Some(b'/') => !s.iter().fold(false, |bad, b| bad | (*b <= 0x20) | (*b == 0x7f) | (*b == b'#')),
        Some(b'*') => s.len() == 1,
        _ => false,
    }
}

/// Decimal digits only, at most 18 of them: every such number fits an `i64`, and no body is larger.
#[inline]
pub fn decimal(v: &[u8]) -> Option<u64> {
    if v.is_empty() || v.len() > 18 {
        return None;
    }
    v.iter().try_fold(0u64, |n, b| b.is_ascii_digit().then(|| n * 10 + u64::from(b - b'0')))
}

/// The members of a comma-separated list, trimmed, empty ones left out.
pub fn list(v: &[u8]) -> impl Iterator<Item = &[u8]> {
    v.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|m| !m.is_empty())
}

/// Cannot end a line, name a user or begin a path: the last check before an authority is written. [`authority`] is the thorough one.
#[inline]
pub fn is_authority(s: &[u8]) -> bool {
    s.iter().all(|b| AUTHORITY[*b as usize])
}

/// The authority does not follow RFC 3986, or has userinfo (RFC 9110, 4.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed authority")]
pub struct InvalidAuthority;

/// Checks `host[:port]` and gives its normal form: lower case, no trailing dot, IPv6 in its canonical form, port without leading zeros, empty port left out.
/// The port itself stays, default or not, because the application sees it; [`host`] drops it for matching. Names are letters, digits, `-`, `.`, `_`: what DNS and Kubernetes have. Percent signs, commas and
/// zone identifiers are refused, since implementations disagree about them.
pub fn authority(raw: &[u8]) -> Result<Cow<'_, [u8]>, InvalidAuthority> {
    let bad = InvalidAuthority;
    // 255: a DNS name; 6: colon and port
    if raw.is_empty() || raw.len() > 255 + 6 {
        return Err(bad);
    }
    if raw[0] == b'[' {
        let end = raw.iter().position(|b| *b == b']').ok_or(bad)?;
        let ip: Ipv6Addr = std::str::from_utf8(&raw[1..end]).map_err(|_| bad)?.parse().map_err(|_| bad)?;
        let mut text = format!("[{ip}]").into_bytes();
        push_port(&mut text, &raw[end + 1..])?;
        return Ok(if text == raw { Cow::Borrowed(raw) } else { Cow::Owned(text) });
    }
    let mut colon = raw.len();
    let mut last = b'.'; // as before a label: it must not be empty
    let mut changed = false;
    for (at, &b) in raw.iter().enumerate() {
        if b == b':' {
            colon = at;
            break;
        }
        if !AUTHORITY[b as usize] || (b == b'.' && last == b'.') || b == b'[' || b == b']' {
            return Err(bad);
        }
        changed |= b.is_ascii_uppercase();
        last = b;
    }
    let dot = last == b'.';
    let (name, port) = raw.split_at(colon);
    let name = if dot { name.strip_suffix(b".").ok_or(bad)? } else { name };
    // what looks like an IPv4 address must be one: `127.1` and `0x7f.1` mean the same to some resolvers
    if name.iter().rposition(|b| *b == b'.').is_some_and(|p| name[p + 1..].iter().all(u8::is_ascii_digit)) {
        std::str::from_utf8(name).map_err(|_| bad)?.parse::<Ipv4Addr>().map_err(|_| bad)?;
    }
    let plain_port = port.is_empty() || (port.len() > 1 && port[1] != b'0');
    if !changed && !dot && plain_port {
        port_number(port)?;
        return Ok(Cow::Borrowed(raw));
    }
    let mut text = name.to_ascii_lowercase();
    push_port(&mut text, port)?;
    Ok(Cow::Owned(text))
}

fn port_number(port: &[u8]) -> Result<Option<u16>, InvalidAuthority> {
    match port {
        [] | [b':'] => Ok(None),
        [b':', digits @ ..] if digits.len() <= 5 => {
            let n = decimal(digits).ok_or(InvalidAuthority)?;
            u16::try_from(n).map(Some).map_err(|_| InvalidAuthority)
        }
        _ => Err(InvalidAuthority),
    }
}

fn push_port(text: &mut Vec<u8>, port: &[u8]) -> Result<(), InvalidAuthority> {
    if let Some(n) = port_number(port)? {
        text.extend_from_slice(format!(":{n}").as_bytes());
    }
    Ok(())
}

/// The host of a normalised authority, without the port.
pub fn host(authority: &[u8]) -> &[u8] {
    let from = authority.iter().position(|b| *b == b']').unwrap_or(0);
    match authority[from..].iter().position(|b| *b == b':') {
        Some(colon) => &authority[..from + colon],
        None => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_10_authorities_are_normalised() {
        for (raw, normal) in [
            ("example.com", "example.com"),
            ("EXAMPLE.com.", "example.com"),
            ("Example.COM.:0080", "example.com:80"),
            ("example.com:", "example.com"),
            ("a_b.ns.svc:65535", "a_b.ns.svc:65535"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[::1]:8080", "[::1]:8080"),
            ("[0:0:0:0:0:0:0:1]", "[::1]"),
            ("[FE80::A]:080", "[fe80::a]:80"),
        ] {
            assert_eq!(authority(raw.as_bytes()).as_deref(), Ok(normal.as_bytes()), "{raw}");
        }
        for raw in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "user@host",
            "user:pass@host",
            "a b",
            "a,b",
            "a/b",
            "a?b",
            "a#b",
            "a:b",
            "a:65536",
            "a:-1",
            "a:1:2",
            "a%2eb",
            "[::1",
            "[::1]x",
            "[fe80::1%25eth0]",
            "[]",
            "::1",
            "256.1.1.1",
            "1.2.3",
            "0x7f.1",
            ":80",
            "a\\b",
            "é",
        ] {
            assert!(authority(raw.as_bytes()).is_err(), "{raw:?}");
        }
        assert_eq!(host(b"[::1]:80"), b"[::1]");
        assert_eq!(host(b"a.b:80"), b"a.b");
        assert_eq!(host(b"a.b"), b"a.b");
    }

    #[test]
    fn values_and_targets() {
        assert!(is_value(b"a\tb \xff") && !is_value(b"a\rb") && !is_value(b"a\0") && !is_value(b"\x7f"));
        assert!(
            is_target(b"/a?b")
                && is_target(b"*")
                && !is_target(b"*a")
                && !is_target(b"a")
                && !is_target(b"/a b")
                && !is_target(b"/#")
        );
        assert_eq!(decimal(b"007"), Some(7));
        for v in ["", "+1", "-1", " 1", "1,1", "0x1", "1234567890123456789"] {
            assert_eq!(decimal(v.as_bytes()), None, "{v}");
        }
    }
}
