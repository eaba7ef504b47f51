//! Hostile peers: every row of HTTP/2 abuse that a codec can decide. The codec's part is to notice, to say GOAWAY or RST_STREAM with the code of the RFC, and to hold little.
#![allow(clippy::unwrap_used)]

mod h2_support;
use h2_support::*;
use std::time::Duration;
use weft_http::h2::{Abuse, Config, ErrorCode, HeadError, Reason};
use weft_http::hpack::integer;

const CALM: ErrorCode = ErrorCode::EnhanceYourCalm;

/// Says the same until the connection fails; how often that took, and what it heard last.
fn flood(t: &mut Talk, at_most: usize, mut what: impl FnMut(usize) -> Vec<u8>) -> (usize, String) {
    for i in 0..at_most {
        t.say(what(i));
        if t.failed.is_some() {
            return (i, t.hear().pop().unwrap());
        }
        t.hear();
    }
    (at_most, String::new())
}
fn failure(t: &Talk) -> (ErrorCode, Reason) {
    let e = t.failed.expect("the connection fails");
    (e.code, e.reason)
}

#[test]
fn row_15_rapid_reset() {
    let mut t = Talk::server(Config::default());
    let (n, last) = flood(&mut t, 10_000, |i| {
        let id = 1 + 2 * i as u32;
        [request(id, END, &[]), rst(id, 8)].concat()
    });
    assert_eq!(n, 1000);
    assert_eq!(failure(&t), (CALM, Reason::Flood(Abuse::Resets)));
    assert_eq!(last, "GOAWAY 2001 ENHANCE_YOUR_CALM");
}

#[test]
fn row_15_cancelling_all_streams_is_allowed_and_so_is_a_steady_rate() {
    let mut t = Talk::server(Config::default());
    let mut id = 1;
    for _ in 0..20 {
        for _ in 0..200 {
            t.say([request(id, END, &[]), rst(id, 8)].concat());
            id += 2;
        }
        t.wait(Duration::from_secs(1));
    }
    assert_eq!(t.failed, None);
    // after the answer a reset costs nothing
    for _ in 0..5000 {
        t.say(request(id, 0, &[]));
        let stream = t.id(id);
        t.c.send_head(stream, &answer(200, &[]), true).unwrap();
        t.say(rst(id, 8));
        t.hear();
        id += 2;
    }
    assert_eq!(t.failed, None);
}

#[test]
fn row_15_made_you_reset() {
    // the peer provokes our resets instead of sending its own
    let mut t = Talk::server(Config::default());
    let (n, _) = flood(&mut t, 10_000, |i| {
        let id = 1 + 2 * i as u32;
        [request(id, 0, &[]), window(id, 0)].concat()
    });
    assert_eq!((n, failure(&t)), (100, (CALM, Reason::Flood(Abuse::StreamErrors))));
}

#[test]
fn row_15_beyond_the_concurrency_limit() {
    let mut t = Talk::server(Config { max_streams: 2, ..Config::default() });
    t.say([request(1, 0, &[]), request(3, 0, &[])].concat());
    assert_eq!(t.say([request(5, 0, &[]), data(5, END, b"x")].concat()), [""; 0]);
    assert_eq!(t.hear(), ["RST_STREAM 5 REFUSED_STREAM"]);
    let (n, _) = flood(&mut t, 10_000, |i| request(7 + 2 * i as u32, END, &[]));
    assert_eq!((n, failure(&t)), (999, (CALM, Reason::Flood(Abuse::Resets))));
    assert_eq!(t.c.streams(), 2);
}

#[test]
fn row_16_continuation_flood() {
    for piece in [0, 1, 100] {
        let mut t = Talk::server(Config::default());
        t.say(frame(1, 0, 1, &block(&REQUEST)));
        let (n, last) = flood(&mut t, 100_000, |_| frame(9, 0, 1, &vec![0; piece]));
        assert_eq!((n, failure(&t)), (16, (CALM, Reason::TooManyContinuations)));
        assert_eq!(last, "GOAWAY 0 ENHANCE_YOUR_CALM");
    }
    let mut t = Talk::server(Config::default());
    t.say(frame(1, 0, 1, &block(&REQUEST)));
    let (n, _) = flood(&mut t, 100, |_| frame(9, 0, 1, &[0; 16_384]));
    assert_eq!((n, failure(&t)), (3, (CALM, Reason::BlockTooLarge)));
}

#[test]
fn row_17_hpack_bomb() {
    // one entry of 4 KiB, then a byte for each reference to it
    let mut t = Talk::server(Config::default());
    let mut bomb = block(&REQUEST);
    bomb.extend([0x40, 1, b'x']);
    integer::encode(&mut bomb, 0, 7, 4000);
    bomb.extend([b'v'; 4000]);
    bomb.extend([0xbe; 12_000]);
    assert_eq!(t.say(frame(1, END_HEADERS, 1, &bomb)), ["too large 1"]);
    let one = t.id(1);
    t.c.send_head(one, &answer(431, &[]), true).unwrap();
    t.c.discard(one);
    assert_eq!(t.hear(), ["HEADERS 1 :status=431 end", "PING"]);
    // the tables have followed
    let mut next = block(&REQUEST);
    next.push(0xbe);
    let told = t.say(frame(1, END_HEADERS | END, 3, &next));
    assert_eq!(told[0].len(), "request 3 POST /cart x= end".len() + 4000);
}

#[test]
fn row_17_cookie_crumbs_count_decoded() {
    // CVE-2026-47774: crumbs of one indexed byte each
    let mut t = Talk::server(Config::default());
    let mut b = block(&REQUEST);
    b.extend([0x60, 1, b'c']); // cookie: c, indexed
    b.extend([0xbe; 10_000]);
    assert_eq!(t.say(frame(1, END_HEADERS | END, 1, &b)), ["too large 1 end"]);
    // just within the limit: 32 bytes for each field
    let fit = (64 * 1024 - 200) / (32 + 7) - 1;
    let mut b = block(&REQUEST);
    b.extend(vec![0xbe; fit]);
    assert!(t.say(frame(1, END_HEADERS | END, 3, &b))[0].starts_with("request 3"));
}

#[test]
fn row_17_table_size_churn() {
    let refused = |t: &Talk| failure(t) == (ErrorCode::CompressionError, Reason::Compression);
    // what an encoder needs at most: down to the smallest size, then up to the final one
    let twice = [0x20, 0x3f, 0xe1, 0x1f];
    let mut t = Talk::server(Config::default());
    for id in [1, 3] {
        let told = t.say(frame(1, END_HEADERS | END, id, &[&twice[..], &block(&REQUEST)].concat()));
        assert_eq!(told, [format!("request {id} POST /cart end")]);
    }
    t.say(frame(1, END_HEADERS | END, 5, &[0x3f, 0xe2, 0x1f]));
    assert!(refused(&t), "beyond what we allow");
    for churn in [twice.repeat(4_000), [&twice[..], &[0x20]].concat()] {
        let mut t = Talk::server(Config::default());
        t.say(frame(1, END_HEADERS | END, 1, &[&churn[..], &block(&REQUEST)].concat()));
        assert!(refused(&t), "{} bytes of updates", churn.len());
    }
}

#[test]
fn row_17_the_peer_may_not_make_our_encoder_grow() {
    let mut t = Talk::server(Config::default());
    t.say([settings(&[(1, u32::MAX)]), request(1, END, &[])].concat());
    let one = t.id(1);
    t.c.send_head(one, &answer(200, &[]), true).unwrap();
    assert_eq!(t.hear(), ["SETTINGS ack", "HEADERS 1 :status=200 end"], "4,096 and no size update");
}

#[test]
fn row_18_floods() {
    let ping = || frame(6, 0, 0, &[0; 8]);
    type Says = Box<dyn Fn() -> Vec<u8>>;
    let cases: Vec<(Abuse, usize, Says)> = vec![
        (Abuse::Settings, 99, Box::new(|| settings(&[]))),
        (Abuse::Settings, 99, Box::new(|| frame(4, 1, 0, b""))),
        (Abuse::Pings, 1001, Box::new(ping)),
        (Abuse::Pings, 1001, Box::new(|| frame(6, 1, 0, &[0; 8]))),
        (Abuse::Ignored, 1002, Box::new(|| frame(2, 0, 1, &[0, 0, 0, 0, 9]))),
        (Abuse::Ignored, 1002, Box::new(|| frame(2, 0, 99, &[0, 0, 0, 0, 9]))),
        (Abuse::Ignored, 1002, Box::new(|| frame(77, 0, 1, b"unknown"))),
        (Abuse::EmptyData, 100, Box::new(|| data(1, 0, b""))),
        (Abuse::EmptyData, 100, Box::new(|| frame(0, PADDED, 1, b"\0"))),
        (Abuse::WindowUpdates, 10_004, Box::new(|| window(1, 1))),
        (Abuse::WindowUpdates, 10_004, Box::new(|| window(0, 1))),
    ];
    for (what, allowed, bytes) in cases {
        let mut t = Talk::server(Config::default());
        t.say(request(1, 0, &[]));
        let (n, last) = flood(&mut t, 100_000, |_| bytes());
        assert_eq!((n, failure(&t)), (allowed, (CALM, Reason::Flood(what))), "{what}");
        assert_eq!(last, "GOAWAY 1 ENHANCE_YOUR_CALM");
    }
}

#[test]
fn row_18_what_traffic_needs_is_allowed() {
    // gRPC measures the bandwidth with a PING for each message, and credits each read twice
    let mut t = Talk::server(Config::default());
    t.say(request(1, 0, &[]));
    let one = t.id(1);
    for _ in 0..20_000 {
        let told = t.say([data(1, 0, b"message"), frame(6, 0, 0, &[0; 8]), window(0, 7), window(1, 7)].concat());
        assert_eq!(told, ["data 1 7"]);
        t.c.release(one, 7);
        t.hear();
    }
}

#[test]
fn row_18_answers_that_nobody_reads() {
    let mut t = Talk::server(Config { max_control: 1700, ..Config::default() });
    let mut n = 0;
    while t.failed.is_none() {
        t.say(frame(6, 0, 0, &[0; 8]));
        n += 1;
    }
    assert_eq!((n, failure(&t)), (101, (CALM, Reason::ControlBacklog)));
}

#[test]
fn row_19_a_stalled_window_holds_little() {
    // 100 responses that the client never lets go
    let mut t = Talk::server(Config::default());
    t.say(settings(&[(4, 0)]));
    t.hear();
    for i in 0..100 {
        let id = 1 + 2 * i;
        t.say(request(id, END, &[]));
        let stream = t.id(id);
        t.c.send_head(stream, &answer(200, &[]), false).unwrap();
        assert_eq!(t.c.send_data(stream, &[0; 1000], false), 0, "the origin gets no credit");
    }
    assert_eq!(t.c.queued_total(), 100_000);
    assert!(t.hear().iter().all(|f| f.starts_with("HEADERS")));
    assert_eq!(t.hear(), [""; 0]);
    // the output never holds more than its limit, whatever the windows say
    let mut t = Talk::server(Config::default());
    t.say([settings(&[(4, 0x7fff_ffff)]), window(0, 0x7fff_0000)].concat());
    t.say(request(1, END, &[]));
    let one = t.id(1);
    t.c.send_head(one, &answer(200, &[]), false).unwrap();
    t.c.send_data(one, &vec![0; 1 << 20], false);
    assert!(t.c.output().len() <= Config::default().max_output + 5 * 9);
    // and what is reset is given back
    t.say(rst(1, 8));
    assert_eq!(t.c.queued_total(), 0);
}

/// What a client may not do: the connection's end, or the stream's.
#[test]
fn row_21_broken_frames_end_the_connection() {
    use ErrorCode::*;
    let cases: Vec<(&str, ErrorCode, Vec<u8>)> = vec![
        ("larger than allowed", FrameSizeError, frame(0, 0, 1, &[0; 16_385])),
        ("RST_STREAM of 3", FrameSizeError, frame(3, 0, 1, &[0; 3])),
        ("WINDOW_UPDATE of 5", FrameSizeError, frame(8, 0, 1, &[0; 5])),
        ("PING of 7", FrameSizeError, frame(6, 0, 0, &[0; 7])),
        ("SETTINGS of 5", FrameSizeError, frame(4, 0, 0, &[0; 5])),
        ("SETTINGS ack with a payload", FrameSizeError, frame(4, 1, 0, &[0; 6])),
        ("GOAWAY of 7", FrameSizeError, frame(7, 0, 0, &[0; 7])),
        ("HEADERS without room for its priority", FrameSizeError, frame(1, 4 | 0x20, 3, &[0; 3])),
        ("SETTINGS on a stream", ProtocolError, frame(4, 0, 1, &[])),
        ("PING on a stream", ProtocolError, frame(6, 0, 1, &[0; 8])),
        ("GOAWAY on a stream", ProtocolError, frame(7, 0, 1, &[0; 8])),
        ("DATA on the connection", ProtocolError, data(0, 0, b"x")),
        ("HEADERS on the connection", ProtocolError, request(0, 0, &[])),
        ("RST_STREAM on the connection", ProtocolError, rst(0, 8)),
        ("PRIORITY on the connection", ProtocolError, frame(2, 0, 0, &[0; 5])),
        ("CONTINUATION on the connection", ProtocolError, frame(9, 4, 0, &[])),
        ("CONTINUATION of nothing", ProtocolError, frame(9, 4, 1, &[])),
        ("PUSH_PROMISE", ProtocolError, frame(5, 4, 1, &[0, 0, 0, 2])),
        ("DATA on an idle stream", ProtocolError, data(3, 0, b"x")),
        ("RST_STREAM on an idle stream", ProtocolError, rst(3, 8)),
        ("WINDOW_UPDATE on an idle stream", ProtocolError, window(3, 1)),
        ("a stream of the server's numbers", ProtocolError, request(2, 0, &[])),
        ("DATA on a stream of the server's numbers", ProtocolError, data(2, 0, b"x")),
        ("padding longer than DATA", ProtocolError, frame(0, PADDED, 1, b"\x05abcd")),
        ("padding longer than HEADERS", ProtocolError, frame(1, 4 | PADDED, 3, b"\x05abcd")),
        ("window of the connection: zero", ProtocolError, window(0, 0)),
        ("window of the connection: overflow", FlowControlError, window(0, 0x7fff_ffff)),
        ("initial window: overflow", FlowControlError, settings(&[(4, 0x8000_0000)])),
        (
            "initial window: overflow of an open stream",
            FlowControlError,
            [window(1, 0x7fff_0000), settings(&[(4, 0x7fff_ffff)])].concat(),
        ),
        ("maximum frame: too small", ProtocolError, settings(&[(5, 1)])),
        ("push: neither", ProtocolError, settings(&[(2, 2)])),
        ("block interrupted by DATA", ProtocolError, [frame(1, 0, 3, b""), data(1, 0, b"x")].concat()),
        ("block interrupted by another stream", ProtocolError, [frame(1, 0, 3, b""), frame(9, 4, 5, b"")].concat()),
        ("block interrupted by an unknown frame", ProtocolError, [frame(1, 0, 3, b""), frame(99, 4, 3, b"")].concat()),
        ("block that is no HPACK", CompressionError, frame(1, 4, 3, &[0x80])),
        ("an identifier below the last", ProtocolError, [request(9, 0, &[]), request(5, 0, &[])].concat()),
        ("PRIORITY of an idle stream that depends on itself", ProtocolError, frame(2, 0, 9, &[0, 0, 0, 9, 1])),
    ];
    for (name, code, bytes) in cases {
        for pieces in [usize::MAX, 1] {
            let mut t = Talk::server(Config::default());
            t.say(request(1, 0, &[]));
            for piece in bytes.chunks(pieces.min(bytes.len())) {
                if t.failed.is_none() {
                    t.say(piece.to_vec());
                }
            }
            assert_eq!(t.failed.map(|e| e.code), Some(code), "{name}");
            let goaway = t.hear().pop().unwrap();
            assert!(goaway.starts_with("GOAWAY ") && goaway.ends_with(&code.to_string()), "{name}: {goaway}");
            // and it stays so
            assert_eq!(t.say(request(11, END, &[])).len(), 1, "{name}");
            assert_eq!(t.hear(), [""; 0], "{name}");
        }
    }
}

#[test]
fn row_21_more_than_the_connection_window() {
    let mut t = Talk::server(Config { connection_window: 65_535, stream_window: 1 << 20, ..Config::default() });
    t.say(request(1, 0, &[]));
    // credit is told at half the window only: until the client has it, it may not send
    let mut sent = 0;
    let mut c = 0;
    while t.failed.is_none() {
        t.say(data(1, 0, &[0; 16_384]));
        sent += 16_384;
        c += t.hear().iter().filter(|l| l.starts_with("WINDOW_UPDATE 0")).count();
        assert!(sent < 10_000_000 || c > 0);
        if sent > 1 << 20 {
            break;
        }
    }
    // the stream's own window (1 MiB) stops it
    assert_eq!(t.failed, None);
    assert!(t.c.streams() == 0 || t.c.unreleased(t.id(1)) <= 1 << 20);
}

#[test]
fn row_21_broken_streams_leave_the_others_alone() {
    use ErrorCode::*;
    let cases: Vec<(&str, ErrorCode, Vec<u8>)> = vec![
        ("more than the window", FlowControlError, (0..5).flat_map(|_| data(3, 0, &[0; 16_384])).collect()),
        ("window: zero", ProtocolError, window(3, 0)),
        ("window: overflow", FlowControlError, window(3, 0x7fff_ffff)),
        ("PRIORITY on itself", ProtocolError, frame(2, 0, 3, &[0, 0, 0, 3, 1])),
        ("PRIORITY of 4", FrameSizeError, frame(2, 0, 3, &[0; 4])),
        ("trailers with a pseudo-header field", ProtocolError, headers(3, END, &[(":path", "/")])),
        ("trailers with content-length", ProtocolError, headers(3, END, &[("content-length", "1")])),
        ("trailers with connection", ProtocolError, headers(3, END, &[("connection", "close")])),
        ("a second head", ProtocolError, request(3, 0, &[])),
        ("DATA after the end", StreamClosed, [data(3, END, b""), data(3, 0, b"x")].concat()),
        ("HEADERS after the end", StreamClosed, [data(3, END, b""), headers(3, END, &[("t", "1")])].concat()),
    ];
    for (name, code, bytes) in cases {
        let mut t = Talk::server(Config::default());
        t.say([request(1, 0, &[]), request(3, 0, &[])].concat());
        let told = t.say(bytes);
        assert_eq!(told.last().unwrap(), &format!("reset 3 {code}"), "{name}");
        assert_eq!(t.hear().last().unwrap(), &format!("RST_STREAM 3 {code}"), "{name}");
        assert_eq!(t.say([data(1, END, b"x"), request(5, END, &[])].concat()).len(), 2, "{name}");
    }
    // a stream that has ended for both is closed
    let mut t = Talk::server(Config::default());
    t.say(request(1, END, &[]));
    let one = t.id(1);
    t.c.send_head(one, &answer(200, &[]), true).unwrap();
    t.hear();
    assert_eq!(t.say([window(1, 1), frame(2, 0, 1, &[0; 5]), rst(1, 8)].concat()), [""; 0], "these may come late");
    t.say(data(1, 0, b"x"));
    assert_eq!(t.hear(), ["RST_STREAM 1 STREAM_CLOSED"]);
}

#[test]
fn row_21_malformed_requests_are_reset() {
    use HeadError::*;
    let base = REQUEST.to_vec();
    let with = |more: &[(&'static str, &'static str)]| [&REQUEST[..], more].concat();
    let without = |name: &str| REQUEST.iter().copied().filter(|(n, _)| *n != name).collect::<Vec<_>>();
    let instead = |name: &'static str, value: &'static str| {
        REQUEST.iter().map(|(n, v)| if *n == name { (name, value) } else { (*n, *v) }).collect::<Vec<_>>()
    };
    let cases = [
        ("upper case", with(&[("X-Upper", "1")])),
        ("empty name", with(&[("", "1")])),
        ("name with a space", with(&[("a b", "1")])),
        ("name with a colon", with(&[("a:b", "1")])),
        ("name with a line end", with(&[("a\r\nb", "1")])),
        ("value with a line end", with(&[("a", "1\r\nb: 2")])),
        ("value with NUL", with(&[("a", "1\0")])),
        ("value with a bare CR", with(&[("a", "1\r2")])),
        ("value beginning with a space", with(&[("a", " 1")])),
        ("value ending with a tab", with(&[("a", "1\t")])),
        ("connection", with(&[("connection", "close")])),
        ("keep-alive", with(&[("keep-alive", "1")])),
        ("proxy-connection", with(&[("proxy-connection", "close")])),
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("upgrade", with(&[("upgrade", "h2c")])),
        ("te", with(&[("te", "gzip")])),
        ("unknown pseudo-header", with(&[(":secret", "1")])),
        (":status in a request", with(&[(":status", "200")])),
        ("pseudo-header after a field", [&[("a", "b")][..], &base].concat()),
        ("two paths", with(&[(":path", "/")])),
        ("two methods", with(&[(":method", "GET")])),
        ("two authorities", with(&[(":authority", "shop")])),
        ("no method", without(":method")),
        ("no path", without(":path")),
        ("no scheme", without(":scheme")),
        ("no authority", without(":authority")),
        ("empty path", instead(":path", "")),
        ("relative path", instead(":path", "cart")),
        ("absolute path", instead(":path", "http://shop/")),
        ("path with a space", instead(":path", "/a b")),
        ("path with a line end", instead(":path", "/ HTTP/1.1\r\nx: y")),
        ("path with a fragment", instead(":path", "/#a")),
        ("star without OPTIONS", instead(":path", "*")),
        ("method with a space", instead(":method", "GET /")),
        ("empty method", instead(":method", "")),
        ("scheme with a slash", instead(":scheme", "http://")),
        ("authority with userinfo", instead(":authority", "a@shop")),
        ("authority with a path", instead(":authority", "shop/x")),
        ("empty authority", instead(":authority", "")),
        ("CONNECT with a path", instead(":method", "CONNECT")),
        ("content-length no number", with(&[("content-length", "+1")])),
        ("content-length twice", with(&[("content-length", "1"), ("content-length", "1")])),
        ("content-length as a list", with(&[("content-length", "1,1")])),
    ];
    let _ = Name;
    for (name, fields) in cases {
        let mut t = Talk::server(Config::default());
        assert_eq!(t.say(headers(1, 0, &fields)), [""; 0], "{name}");
        assert_eq!(t.hear(), ["RST_STREAM 1 PROTOCOL_ERROR"], "{name}");
        assert_eq!(t.say(request(3, END, &[("te", "trailers")])), ["request 3 POST /cart te=trailers end"], "{name}");
    }
}

#[test]
fn row_22_content_length_and_data_must_agree() {
    let length = |n: &'static str| [("content-length", n)];
    for (name, bytes) in [
        ("an end without data", request(3, END, &length("5"))),
        ("more", [request(3, 0, &length("5")), data(3, 0, b"123456")].concat()),
        ("more, in two", [request(3, 0, &length("5")), data(3, 0, b"123"), data(3, 0, b"456")].concat()),
        ("less", [request(3, 0, &length("5")), data(3, END, b"1234")].concat()),
        (
            "less, then trailers",
            [request(3, 0, &length("5")), data(3, 0, b"1234"), headers(3, END, &[("a", "b")])].concat(),
        ),
        ("padding does not count", [request(3, 0, &length("5")), frame(0, END | PADDED, 3, b"\x01123\0")].concat()),
    ] {
        let mut t = Talk::server(Config::default());
        let told = t.say(bytes);
        assert!(told.iter().all(|l| !l.ends_with(" end")), "{name}: the end must not be told: {told:?}");
        assert_eq!(t.hear(), ["RST_STREAM 3 PROTOCOL_ERROR"], "{name}");
    }
    let mut t = Talk::server(Config::default());
    let told = t.say([request(1, 0, &length("5")), frame(0, PADDED, 1, b"\x02123\0\0"), data(1, END, b"45")].concat());
    assert_eq!(told, ["request 1 POST /cart content-length=5", "data 1 3", "data 1 2 end"]);
    // the other way
    for (name, bytes) in [
        ("less", [headers(1, 0, &[(":status", "200"), ("content-length", "5")]), data(1, END, b"1234")].concat()),
        ("more", [headers(1, 0, &[(":status", "200"), ("content-length", "5")]), data(1, 0, b"123456")].concat()),
        ("none", headers(1, END, &[(":status", "200"), ("content-length", "5")])),
        ("204 with data", [headers(1, 0, &[(":status", "204")]), data(1, END, b"x")].concat()),
    ] {
        let mut t = Talk::client(Config::default());
        t.open("/", true);
        assert_eq!(t.say(bytes).last().unwrap(), "reset 1 PROTOCOL_ERROR", "{name}");
    }
}

#[test]
fn row_25_values_that_could_split_a_request_never_get_in() {
    // what HTTP/1 would take for a line end, in every place of a request
    for evil in ["\r\n", "\n", "\r", "\0"] {
        let text: &'static str = Box::leak(format!("a{evil}b").into_boxed_str());
        for at in 0..5 {
            let mut fields = REQUEST.to_vec();
            match at {
                4 => fields.push(("x", text)),
                at => fields[at].1 = text,
            }
            let mut t = Talk::server(Config::default());
            assert_eq!(t.say(headers(1, END, &fields)), [""; 0], "{fields:?}");
            assert_eq!(t.hear(), ["RST_STREAM 1 PROTOCOL_ERROR"]);
        }
    }
}

#[test]
fn row_11_other_protocols() {
    for bytes in [
        &b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"PRI * HTTP/2.0\r\n\r\nXX",
    ] {
        let mut t = Talk::fresh_server(Config::default());
        t.hear();
        t.say(bytes.to_vec());
        assert_eq!(failure(&t), (ErrorCode::ProtocolError, Reason::Preface));
    }
}

/// Conversations with errors thrown in: nothing panics, little is held, and after the end nothing more is said.
#[test]
fn row_21_torn_and_twisted_conversations() {
    let mut seed = 7u64;
    let mut random = move |n: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % n as u64) as usize
    };
    let pieces: Vec<Vec<u8>> = vec![
        request(1, 0, &[("a", "b"), ("content-length", "10")]),
        data(1, 0, b"01234"),
        frame(0, END | PADDED, 1, b"\x0256789\0\0"),
        request(3, END, &[]),
        frame(1, 0, 5, &block(&REQUEST)),
        frame(9, END_HEADERS, 5, &block(&[("c", "d")])),
        headers(5, END, &[("t", "1")]),
        rst(3, 8),
        settings(&[(1, 0), (3, 1), (4, 70_000), (5, 20_000), (1, 4096)]),
        window(0, 100),
        window(5, 100),
        frame(6, 0, 0, &[1; 8]),
        frame(2, 0, 7, &[0, 0, 0, 1, 1]),
        goaway(0, 0),
        frame(77, 255, 9, b"?"),
        frame(1, END_HEADERS | END | 0x20, 9, &[&[0, 0, 0, 1, 1][..], &[0x82, 0x86, 0x84, 0x41, 0x81, 0x1f]].concat()),
    ];
    for round in 0..20_000 {
        let mut t = if round % 2 == 0 { Talk::server(Config::default()) } else { Talk::client(Config::default()) };
        if round % 2 == 1 {
            for _ in 0..5 {
                t.open("/", false);
            }
        }
        let mut bytes = Vec::new();
        for piece in &pieces {
            if random(8) == 0 {
                continue;
            }
            bytes.extend(piece);
            if random(10) == 0 {
                bytes.extend(&pieces[random(pieces.len())]);
            }
        }
        for _ in 0..random(4) {
            let at = random(bytes.len());
            match random(3) {
                0 => bytes[at] = random(256) as u8,
                1 => bytes[at] ^= 1 << random(8),
                _ => drop(bytes.drain(at..(at + 1 + random(20)).min(bytes.len()))),
            }
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let n = (1 + random(60)).min(rest.len());
            t.say(rest[..n].to_vec());
            let ids: Vec<_> = t.ids.values().copied().collect();
            if let Some(id) = ids.get(random(6)) {
                match random(5) {
                    0 => drop(t.c.send_head(*id, &answer(200, &[]), random(2) == 0)),
                    1 => t.c.release(*id, t.c.unreleased(*id) as usize),
                    2 => t.c.discard(*id),
                    3 => t.c.reset(*id, ErrorCode::Cancel),
                    _ => t.c.grow_window(*id, 10),
                }
            }
            rest = &rest[n..];
        }
        let heard = t.hear();
        assert!(heard.len() < 200);
        if t.failed.is_some() {
            assert!(heard.last().unwrap().starts_with("GOAWAY"), "{heard:?}");
            t.say(request(99, END, &[]));
            assert_eq!(t.hear(), [""; 0]);
        }
        while t.c.take_stream().is_some() {}
        assert_eq!((t.c.streams(), t.c.queued_total()), (0, 0));
    }
}

#[test]
fn row_18_settings_that_touch_every_stream() {
    let mut t = Talk::server(Config::default());
    for i in 0..1000 {
        t.say(request(1 + 2 * i, 0, &[]));
    }
    // 2,730 changes in each frame: one pass over the streams for each frame
    let many: Vec<(u16, u32)> = (0..2730).map(|i| (4, i)).collect();
    let (n, _) = flood(&mut t, 1000, |_| settings(&many));
    // the budget grew with the thousand requests, not with the settings
    assert_eq!((n, failure(&t)), (99, (CALM, Reason::Flood(Abuse::Settings))));
}
