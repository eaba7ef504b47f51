//! Requests that two implementations might read differently, after RFC 9112 and the families that request-smuggling research has found.
//! Each is refused with a status and a closed connection, or understood in one way, in every cut of its bytes; nothing behind a refused request is ever read as another.
#![allow(clippy::unwrap_used)]

mod h1_support;
use h1_support::*;

/// What follows every attack: must never be seen as a request of its own.
const NEXT: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

fn refused(request: impl AsRef<[u8]>, status: u16) {
    let mut bytes = request.as_ref().to_vec();
    bytes.extend_from_slice(NEXT.as_bytes());
    let seen = serve(&bytes);
    assert!(seen.has(&format!("error {status} ")) && seen.has("close Linger"), "{}\n{seen:?}", text(request.as_ref()));
    assert!(!seen.has("/smuggled"), "{}\n{seen:?}", text(request.as_ref()));
    assert!(!seen.has("200 OK"), "{}\n{seen:?}", text(request.as_ref()));
}

fn post(fields: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}")
}

#[test]
fn row_01_content_length_and_transfer_encoding() {
    for fields in [
        "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        "content-length: 6\r\nx: y\r\nTRANSFER-ENCODING: CHUNKED\r\n",
    ] {
        refused(post(fields, "0\r\n\r\n"), 400);
    }
}

#[test]
fn row_02_content_lengths() {
    for value in [
        "5\r\nContent-Length: 6", // differing
        "5\r\nContent-Length: 5", // equal: refused as well, see docs/http.md
        "5, 5",
        "5,6",
        "+5",
        "-5",
        "0x5",
        "5 5",
        "5;",
        "5.0",
        "5e0",
        "",
        "\"5\"",
        "٥",
        "18446744073709551616",
        "99999999999999999999",
        "5\u{b}",
    ] {
        refused(post(&format!("Content-Length: {value}\r\n"), "hello"), 400);
    }
    let seen = serve(post("Content-Length: 0005\r\n", &format!("hello{NEXT}")));
    assert!(seen.has("content-length=5") && seen.has("data hello") && seen.requests() == 2, "{seen:?}");
}

#[test]
fn row_03_transfer_encodings() {
    for line in [
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding:",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: \u{b}chunked",
        "Transfer-Encoding:\u{a0}chunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        "Transfer-Encoding\r: chunked",
        "Transfer-Encoding\u{0}: chunked",
        " Transfer-Encoding: chunked",
        "X: y\r\n Transfer-Encoding: chunked",
        "Transfer-Encoding\r\n : chunked",
        "Transfer-Encoding:\r\n chunked",
        "X: y\rTransfer-Encoding: chunked",
        "X: y\nTransfer-Encoding: chunked",
    ] {
        refused(post(&format!("{line}\r\n"), "0\r\n\r\n"), 400);
    }
    refused("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400);
    refused("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400);
    // names that only look like it are ordinary fields
    let seen = serve(post("Transfer_Encoding: chunked\r\nX-Transfer-Encoding: chunked\r\n", NEXT));
    assert_eq!(seen.requests(), 2);
    // white space around the value does not change it
    assert!(serve(post("Transfer-Encoding: \t chunked \t\r\n", "1\r\nx\r\n0\r\n\r\n")).has("data x"));
}

#[test]
fn row_04_line_ends_and_control_characters() {
    for request in [
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\x0bb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX y: z\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n: z\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX(y): z\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\r\n\r\n",
        "GET / HTTP/1.1\r\rHost: a\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "G\0T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\rGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        refused(request, 400);
    }
    assert_eq!(serve(format!("\r\n{NEXT}\r\n{NEXT}")).requests(), 2, "one empty line between requests is tolerated");
}

#[test]
fn row_05_chunks() {
    for body in [
        "-1\r\n",
        "+1\r\nx\r\n",
        "0x1\r\nx\r\n",
        "1 \r\nx\r\n",
        " 1\r\nx\r\n",
        "g\r\n",
        "\r\n",
        ";\r\n",
        "1\nx\r\n",
        "1\rx\r\n",
        "1\r\r\n",
        "1\r\nx\n",
        "1\r\nx\rx",
        "1\r\nxy\r\n",
        "1;a\rb\r\n",
        "1;a\nb\r\n",
        "1;a\0\r\n",
        "1;\x7f\r\n",
        "1 2\r\n",
        "0\n\r\n",
        "0\r\n\n",
        "0\r\r\n",
        "1_0\r\n",
        "1,2\r\n",
        "00000000000000001\r\nx\r\n", // 17 digits
        "ffffffffffffffff\r\n",       // 2^64 - 1
        "8000000000000000\r\n",       // 2^63
        "10000000000000000\r\n",      // 2^64
        "fffffffffffffffff\r\n",
        "0 1\r\n\r\n",
        "0\r\nX\r\n\r\n",
        "0\r\nGET / HTTP/1.1\r\n\r\n",
    ] {
        let bytes = post("Transfer-Encoding: chunked\r\n", &format!("{body}{NEXT}"));
        let seen = serve(&bytes);
        assert!(seen.has("error 400 ") && seen.has("close"), "{body:?} {seen:?}");
        assert!(!seen.lines.iter().any(|l| l.starts_with("request") && l.contains("/smuggled")), "{body:?} {seen:?}");
    }
    // the size may be large, the data then comes for as long as it takes
    let seen = serve(post("Transfer-Encoding: chunked\r\n", "7fffffffffffffff\r\nabc"));
    assert!(seen.has("data abc") && !seen.has("error"));
    // extensions: 4 KiB in all, in one chunk or in many
    let chunk = |n: usize| format!("1;{}\r\nx\r\n", "e".repeat(n - 1));
    assert!(!serve(post("Transfer-Encoding: chunked\r\n", &format!("{}0\r\n\r\n", chunk(4096)))).has("error"));
    assert!(serve(post("Transfer-Encoding: chunked\r\n", &chunk(4097))).has("error 400 chunk extensions"));
    assert!(serve(post("Transfer-Encoding: chunked\r\n", &chunk(64).repeat(65))).has("error 400 chunk extensions"));
}

#[test]
fn row_06_large_heads() {
    let big = "a".repeat(1 << 20);
    for (request, status) in [
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {big}\r\n\r\n"), 431),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{big}: x\r\n\r\n"), 431),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "a: b\r\n".repeat(10_000)), 431),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "a: b\r\n".repeat(128)), 431),
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", &big[..64 * 1024]), 414),
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", &big[..16 * 1024]), 414),
        (format!("GET /{big}"), 414),
        (big.clone(), 414),
    ] {
        for piece in [1 << 21, 64 * 1024, 1000, 17] {
            let mut app = Application::new();
            let mut most = 0;
            for p in request.as_bytes().chunks(piece) {
                app.input(p);
                most = most.max(app.server.memory());
            }
            assert!(most <= 64 * 1024 + 4096, "{most} bytes of memory");
            let seen = app.finish();
            assert!(seen.has(&format!("error {status} ")), "{piece} {} {seen:?}", &request[..40]);
        }
    }
    // what is a byte too large, with and without an empty line before it, in pieces and whole
    for blank in ["", "\r\n"] {
        for excess in 0..4 {
            let mut head = format!("{blank}GET / HTTP/1.1\r\nHost: a\r\nX: ");
            let fill = 64 * 1024 + excess - (head.len() - blank.len()) - 4;
            head.push_str(&big[..fill]);
            head.push_str("\r\n\r\n");
            for piece in [1 << 21, 1000, 7] {
                let mut app = Application::new();
                head.as_bytes().chunks(piece).for_each(|p| app.input(p));
                let seen = app.finish();
                assert_eq!(seen.requests(), usize::from(excess == 0), "{piece} {excess}");
                assert_eq!(seen.has("error 431"), excess > 0);
            }
        }
        for excess in 0..4 {
            // a long method counts, too
            let method = &big[..16 * 1024 + 48 + excess - "/ HTTP/1.1\r\n".len() - 1];
            let head = format!("{blank}{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
            for piece in [1 << 21, 1000, 7] {
                let mut app = Application::new();
                head.as_bytes().chunks(piece).for_each(|p| app.input(p));
                let seen = app.finish();
                assert_eq!(seen.requests(), usize::from(excess == 0), "{piece} {excess} {seen:?}");
                assert_eq!(seen.has("error 414"), excess > 0);
            }
        }
    }
    // the limits themselves are allowed
    let fits = format!(
        "GET /{} HTTP/1.1\r\nHost: a\r\n{}X: {}\r\n\r\n",
        &big[1..16 * 1024],
        "a: b\r\n".repeat(126),
        &big[..40_000]
    );
    assert_eq!(serve(fits).requests(), 1);
}

/// Drip-feeding a large head must not cost quadratic work: parsed again only where a line ends.
#[test]
fn row_07_a_dripped_head_is_cheap() {
    let start = std::time::Instant::now();
    let mut app = Application::new();
    for b in format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "a".repeat(60_000)).as_bytes() {
        app.input(std::slice::from_ref(b));
    }
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}

#[test]
fn row_07_ten_thousand_slow_heads_are_cheap() {
    let config = config();
    let mut slow: Vec<_> = (0..10_000).map(|_| weft_http::h1::Server::new(config.clone())).collect();
    for byte in b"GET / HTTP/1.1\r\nHost: a\r\nX: " {
        for server in &mut slow {
            assert!(matches!(server.next(&mut std::slice::from_ref(byte)), Ok(None)));
        }
    }
    let memory: usize = slow.iter().map(|s| s.memory() + std::mem::size_of_val(s)).sum();
    assert!(memory <= 10_000 * 800, "{memory} bytes");
}

#[test]
fn row_10_hosts_and_targets() {
    let host = |h: &str| format!("GET / HTTP/1.1\r\n{h}\r\n");
    for h in [
        "",
        "Host:\r\n",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nHost: b\r\n",
        "Host: a b\r\n",
        "Host: a,b\r\n",
        "Host: user@a\r\n",
        "Host: a/b\r\n",
        "Host: a:b\r\n",
        "Host: a:99999\r\n",
        "Host: http://a\r\n",
        "Host: a?\r\n",
        "Host: [::1\r\n",
        "Host: a%00\r\n",
        "Host: a\\b\r\n",
        "Host: ..\r\n",
        "Host : a\r\n",
    ] {
        refused(host(h), 400);
    }
    for (target, h, understood) in [
        ("/x", "EXAMPLE.com.", "example.com/x"),
        ("/x", "example.com:8080", "example.com:8080/x"),
        ("http://Other.test/x?y", "a", "other.test/x?y"), // the target wins, RFC 9112, 3.2.2
        ("HTTP://other.test", "a", "other.test/"),
        ("https://other.test:8443?q", "a", "other.test:8443/?q"),
        ("http://other.test/a@b", "a", "other.test/a@b"),
        ("//x/y", "a", "a//x/y"),
    ] {
        let seen = serve(format!("GET {target} HTTP/1.1\r\nHost: {h}\r\n\r\n"));
        assert_eq!(seen.lines[0], format!("request GET {understood} end"));
    }
    assert_eq!(serve("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").lines[0], "request OPTIONS a* end");
    assert_eq!(serve("OPTIONS http://b HTTP/1.1\r\nHost: a\r\n\r\n").lines[0], "request OPTIONS b* end");
    assert_eq!(serve("GET /x HTTP/1.0\r\n\r\n").lines[0], "request GET -/x end");
    for target in [
        "*",
        "x",
        "x/y",
        "a:80",
        "ftp://a/",
        "http:/a",
        "http:a",
        "http://",
        "http:///x",
        "http://u@a/",
        "http://u:p@a/",
        "http://a b/",
        "/x#y",
        "http://a#/",
        "?x",
        "://a/",
        "http://a\\@b/",
    ] {
        refused(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"), 400);
    }
    refused("GET http://b/ HTTP/1.1\r\n\r\n", 400);
    refused("GET http://b/ HTTP/1.1\r\nHost: u@b\r\n\r\n", 400);
    refused("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 501);
}

#[test]
fn row_11_what_is_not_http_1() {
    for (bytes, status) in [
        (&b"GET /\r\n"[..], 400),
        (b"GET / \r\n\r\n", 400),
        (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505),
        (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"GET / HTTP/11\r\nHost: a\r\n\r\n", 400),
        (b"GET / http/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1x\r\nHost: a\r\n\r\n", 400),
        (b"GET / ICAP/1.0\r\nHost: a\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\x00\x00", 400),
        (b"SSH-2.0-OpenSSH_9.6\r\n", 400),
        (b"\x00\x01\x02\x03\xff\xfe", 400),
        (b"*1\r\n$4\r\nPING\r\n", 400),
        (b"{\"json\": 1}\r\n", 400),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 400),
    ] {
        refused(bytes, status);
    }
    for (bytes, reason) in [(&b"PRI * HTTP/2.0\r\n\r\n"[..], "HTTP/2 preface"), (b"\x16\x03\x01", "TLS")] {
        assert!(serve(bytes).has(reason));
    }
    // at once, before a line ends: a peer that waits for us does not hang
    for first in [&b"\x16\x03\x01"[..], b"\0", b"\x80\x01", b"{", b"GET\0"] {
        assert!(serve(first).has("error 400"), "{first:?}");
    }
}

#[test]
fn connection_removes_hop_by_hop_fields_and_nothing_that_others_rely_on() {
    let seen = serve(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Hop, Keep-Alive ,,host,Authorization\r\nConnection: x-other, content-length, weft-client, x-forwarded-for, cookie, traceparent\r\nX-Hop: 1\r\nx-other: 2\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nHTTP2-Settings: x\r\nAuthorization: b\r\nX-Forwarded-For: 1.2.3.4\r\nweft-client: c\r\ncookie: d\r\ntraceparent: e\r\nx-stays: 3\r\nTE: trailers, deflate;q=0.5\r\nContent-Length: 0\r\n\r\n",
    );
    assert_eq!(
        seen.lines[0],
        "request GET a/ authorization=b x-forwarded-for=1.2.3.4 weft-client=c cookie=d traceparent=e x-stays=3 content-length=0 te=trailers end"
    );
    assert!(!serve("GET / HTTP/1.1\r\nHost: a\r\nTE: gzip\r\n\r\n").has("te="));
}

#[test]
fn nominations_are_counted() {
    let get = |options: String| format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close, {options}\r\n\r\n");
    assert_eq!(serve(get("x,".repeat(32))).requests(), 1);
    refused(get("x,".repeat(33)), 431);
    refused(get("keep-alive,x\r\nConnection: y,".repeat(20)), 431);
}

#[test]
fn bodies_that_nobody_expects_are_still_bodies() {
    for method in ["GET", "HEAD", "DELETE", "OPTIONS", "TRACE"] {
        let seen = serve(format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{NEXT}", NEXT.len()));
        assert_eq!(seen.requests(), 1, "{seen:?}");
    }
}
