//! What the first bytes of a connection are: HTTP/1, HTTP/2 with prior knowledge, TLS, or something else. Pure.
//!
//! A guess must never turn another protocol into HTTP: an HTTP/1 request counts only with its whole request line and the version at its end, because
//! inline commands of Redis (`GET key`) and memcached begin like HTTP methods.

/// The verdict on a prefix of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// Not enough bytes to tell.
    More,
    Http1,
    /// The connection preface of RFC 9113, 3.4.
    Http2,
    /// A TLS record with a handshake message.
    Tls,
    Other,
}

/// RFC 9113, 3.4.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A request line longer than this is HTTP if it has looked like it so far: the codec answers 414 itself.
const LINE_MAX: usize = 8 * 1024;
/// The longest registered method is 17 bytes (UPDATEREDIRECTREF).
const METHOD_MAX: usize = 24;

/// Judges the bytes that a client has sent so far.
pub fn first_bytes(b: &[u8]) -> First {
    if b.is_empty() {
        return First::More;
    }
    if b[0] == 0x16 {
        // record type handshake, version 3.x
        return match b.get(1) {
            None => First::More,
            Some(3) => First::Tls,
            Some(_) => First::Other,
        };
    }
    let n = b.len().min(PREFACE.len());
    if b[..n] == PREFACE[..n] {
        return if n == PREFACE.len() { First::Http2 } else { First::More };
    }
    http1(b)
}

fn http1(mut b: &[u8]) -> First {
    // one empty line before a request is to be ignored (RFC 9112, 2.2)
    if b[0] == b'\r' {
        match b.get(1) {
            None => return First::More,
            Some(b'\n') => b = &b[2..],
            Some(_) => return First::Other,
        }
        if b.is_empty() {
            return First::More;
        }
    }
    let Some(space) = b.iter().position(|c| !method_char(*c)) else {
        return if b.len() > METHOD_MAX { First::Other } else { First::More };
    };
    if b[space] != b' ' || space == 0 || space > METHOD_MAX {
        return First::Other;
    }
    let rest = &b[space + 1..];
    match rest.first() {
        None => return First::More,
        Some(c) if *c == b'/' || *c == b'*' || c.is_ascii_alphanumeric() || *c == b'[' => {}
        Some(_) => return First::Other,
    }
    match rest.iter().position(|c| *c == b'\n') {
        Some(end) => {
            let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
            let version = &line[line.len().saturating_sub(9)..];
            if version.len() == 9 && version.starts_with(b" HTTP/1.") && version[8].is_ascii_digit() {
                First::Http1
            } else {
                First::Other
            }
        }
        None if rest.iter().any(|c| *c < 0x20 && *c != b'\r' && *c != b'\t') => First::Other,
        None if b.len() > LINE_MAX => First::Http1,
        None => First::More,
    }
}

/// Methods are tokens (RFC 9110, 9.1); every one in use is letters and hyphens.
fn method_char(c: u8) -> bool {
    c.is_ascii_alphabetic() || c == b'-' || c == b'_'
}

#[cfg(test)]
mod tests {
    use super::{First::*, *};

    #[test]
    fn whole_request_lines_are_http1() {
        for line in [
            "GET / HTTP/1.1\r\n",
            "\r\nGET / HTTP/1.1\r\n",
            "OPTIONS * HTTP/1.1\r\n",
            "GET http://a/b HTTP/1.0\r\n",
            "VERSION-CONTROL /x HTTP/1.1\r\n",
            "CONNECT a:443 HTTP/1.1\r\n",
        ] {
            assert_eq!(first_bytes(line.as_bytes()), Http1, "{line:?}");
            for n in 0..line.trim_end().len() {
                assert_eq!(first_bytes(&line.as_bytes()[..n]), More, "{line:?} cut at {n}");
            }
        }
    }

    #[test]
    fn other_protocols_that_begin_like_http_are_not() {
        for line in [
            "GET key\r\n",
            "PING\r\n",
            "SSH-2.0-OpenSSH_9.7\r\n",
            "*1\r\n$4\r\nPING\r\n",
            "EHLO client.example\r\n",
            "GET / HTTP/0.9\r\n",
            "GET /\r\n",
            "USER a b c :d\r\n",
            "\0\0\0\x08\x04\x7f\x16\x2f",
            "GET \x01 HTTP/1.1\r\n",
            "verylongmethodnamethatnobodyuses / HTTP/1.1\r\n",
        ] {
            assert_eq!(first_bytes(line.as_bytes()), Other, "{line:?}");
        }
    }

    #[test]
    fn preface_and_client_hello() {
        for n in 0..PREFACE.len() {
            assert_eq!(first_bytes(&PREFACE[..n]), More);
        }
        assert_eq!(first_bytes(PREFACE), Http2);
        assert_eq!(first_bytes(b"PRI * HTTP/2.1\r\n"), Other);
        assert_eq!(first_bytes(&[0x16, 3, 1]), Tls);
        assert_eq!(first_bytes(&[0x16]), More);
        assert_eq!(first_bytes(&[0x16, 9]), Other);
    }

    #[test]
    fn a_long_request_line_is_left_to_the_codec() {
        let mut line = b"GET /".to_vec();
        line.resize(LINE_MAX, b'a');
        assert_eq!(first_bytes(&line), More);
        line.resize(LINE_MAX + 1, b'a');
        assert_eq!(first_bytes(&line), Http1);
    }
}
