//! The static table (RFC 7541, appendix A).

use super::Class;
use crate::head::Known;

/// Entry `i` of the RFC is `STATIC[i - 1]`.
pub static STATIC: [(&[u8], &[u8], Class); 61] = {
    use Class::*;
    const OTHER: Class = Regular(Known::Other);
    [
        (b":authority", b"", Authority),
        (b":method", b"GET", Method),
        (b":method", b"POST", Method),
        (b":path", b"/", Path),
        (b":path", b"/index.html", Path),
        (b":scheme", b"http", Scheme),
        (b":scheme", b"https", Scheme),
        (b":status", b"200", Status),
        (b":status", b"204", Status),
        (b":status", b"206", Status),
        (b":status", b"304", Status),
        (b":status", b"400", Status),
        (b":status", b"404", Status),
        (b":status", b"500", Status),
        (b"accept-charset", b"", OTHER),
        (b"accept-encoding", b"gzip, deflate", OTHER),
        (b"accept-language", b"", OTHER),
        (b"accept-ranges", b"", OTHER),
        (b"accept", b"", OTHER),
        (b"access-control-allow-origin", b"", OTHER),
        (b"age", b"", OTHER),
        (b"allow", b"", OTHER),
        (b"authorization", b"", Regular(Known::Authorization)),
        (b"cache-control", b"", OTHER),
        (b"content-disposition", b"", OTHER),
        (b"content-encoding", b"", OTHER),
        (b"content-language", b"", OTHER),
        (b"content-length", b"", Regular(Known::ContentLength)),
        (b"content-location", b"", OTHER),
        (b"content-range", b"", OTHER),
        (b"content-type", b"", Regular(Known::ContentType)),
        (b"cookie", b"", Regular(Known::Cookie)),
        (b"date", b"", OTHER),
        (b"etag", b"", OTHER),
        (b"expect", b"", Regular(Known::Expect)),
        (b"expires", b"", OTHER),
        (b"from", b"", OTHER),
        (b"host", b"", Regular(Known::Host)),
        (b"if-match", b"", OTHER),
        (b"if-modified-since", b"", OTHER),
        (b"if-none-match", b"", OTHER),
        (b"if-range", b"", OTHER),
        (b"if-unmodified-since", b"", OTHER),
        (b"last-modified", b"", OTHER),
        (b"link", b"", OTHER),
        (b"location", b"", OTHER),
        (b"max-forwards", b"", OTHER),
        (b"proxy-authenticate", b"", OTHER),
        (b"proxy-authorization", b"", Regular(Known::ProxyAuthorization)),
        (b"range", b"", OTHER),
        (b"referer", b"", OTHER),
        (b"refresh", b"", OTHER),
        (b"retry-after", b"", OTHER),
        (b"server", b"", OTHER),
        (b"set-cookie", b"", Regular(Known::SetCookie)),
        (b"strict-transport-security", b"", OTHER),
        (b"transfer-encoding", b"", Regular(Known::TransferEncoding)),
        (b"user-agent", b"", OTHER),
        (b"vary", b"", OTHER),
        (b"via", b"", OTHER),
        (b"www-authenticate", b"", OTHER),
    ]
};

/// The index of a field name, 0 when the table has none.
#[inline]
pub fn name_index(known: Known, name: &[u8]) -> usize {
    match known {
        Known::Other => other_index(name),
        Known::Authorization => 23,
        Known::ContentLength => 28,
        Known::ContentType => 31,
        Known::Cookie => 32,
        Known::Expect => 35,
        Known::Host => 38,
        Known::ProxyAuthorization => 49,
        Known::SetCookie => 55,
        Known::TransferEncoding => 57,
        _ => 0,
    }
}

fn other_index(name: &[u8]) -> usize {
    match name {
        b"accept-charset" => 15,
        b"accept-encoding" => 16,
        b"accept-language" => 17,
        b"accept-ranges" => 18,
        b"accept" => 19,
        b"access-control-allow-origin" => 20,
        b"age" => 21,
        b"allow" => 22,
        b"cache-control" => 24,
        b"content-disposition" => 25,
        b"content-encoding" => 26,
        b"content-language" => 27,
        b"content-location" => 29,
        b"content-range" => 30,
        b"date" => 33,
        b"etag" => 34,
        b"expires" => 36,
        b"from" => 37,
        b"if-match" => 39,
        b"if-modified-since" => 40,
        b"if-none-match" => 41,
        b"if-range" => 42,
        b"if-unmodified-since" => 43,
        b"last-modified" => 44,
        b"link" => 45,
        b"location" => 46,
        b"max-forwards" => 47,
        b"proxy-authenticate" => 48,
        b"range" => 50,
        b"referer" => 51,
        b"refresh" => 52,
        b"retry-after" => 53,
        b"server" => 54,
        b"strict-transport-security" => 56,
        b"user-agent" => 58,
        b"vary" => 59,
        b"via" => 60,
        b"www-authenticate" => 61,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_and_classes_agree_with_the_table() {
        for (i, (name, _, class)) in STATIC.iter().enumerate() {
            assert_eq!(Class::of(name), *class, "{}", i + 1);
            if let Class::Regular(known) = class {
                assert_eq!(name_index(*known, name), i + 1);
            }
        }
        assert_eq!(name_index(Known::Other, b"x"), 0);
    }
}
