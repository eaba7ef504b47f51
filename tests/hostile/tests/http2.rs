//! HTTP/2 against a pair of sidecars, frame by frame: floods end with GOAWAY, faults of one stream stay with it, odd applications harm no other request.
#![allow(clippy::unwrap_used)]

use std::{
    io::Write,
    net::SocketAddr,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};
use weft_core::service::Protocol;
use weft_test_hostile::{Builder, Client, LIMIT, Pair, dial, frames::*, http, mirror, rest};

/// A pair in front of an application that is spoken to in HTTP/2.
fn h2(app: SocketAddr) -> Pair {
    Builder { protocol: Protocol::Http2, http2: true, ..Builder::new(app) }.start()
}

/// A whole ordinary request on a connection of its own.
fn get(at: SocketAddr, path: &str) -> (Frame, Vec<Frame>) {
    let mut c = Conn::client(at);
    c.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &request("GET", path, &[])));
    answer(&mut c, 1)
}
/// The head of the answer on `stream` and the frames behind it, to its end.
fn answer(c: &mut Conn, stream: u32) -> (Frame, Vec<Frame>) {
    let head = c.wait("a head", |f| f.stream == stream && matches!(f.kind, HEADERS | RST_STREAM));
    let mut more = vec![head.clone()];
    while more.last().is_some_and(|f| f.kind != RST_STREAM && f.flags & END_STREAM == 0) {
        more.push(c.wait("the rest", |f| f.stream == stream && matches!(f.kind, HEADERS | DATA | RST_STREAM)));
    }
    (head, more.split_off(1))
}
/// `:status` of a head that our own encoder made: indexed (RFC 7541, appendix A), or with a literal value.
fn status(f: &Frame) -> u16 {
    assert_eq!(f.kind, HEADERS, "{f:?}");
    // size updates of the table may come first
    let at = f.payload.iter().position(|b| b & 0xe0 != 0x20).unwrap();
    match f.payload[at] {
        0x88 => 200,
        0x89 => 204,
        0x8b => 304,
        0x8c => 400,
        0x8d => 404,
        0x8e => 500,
        _ => {
            let p = &f.payload[at..];
            let digits = p.windows(3).find(|w| w.iter().all(u8::is_ascii_digit));
            std::str::from_utf8(digits.unwrap_or_else(|| panic!("no status in {p:?}"))).unwrap().parse().unwrap()
        }
    }
}

/// What a flood must come to, while an ordinary client and a stream that was open before are served.
fn flood_ends_calmly(what: &str, times: usize, mut bytes: impl FnMut(usize) -> Vec<u8>) {
    let pair = http(mirror());
    let mut beside = Client::dial(pair.service());
    beside.ordinary("/before");
    let start = Instant::now();
    let code = Conn::client(pair.service()).flood(times, &mut bytes);
    assert_eq!(code, Some(ENHANCE_YOUR_CALM), "{what}");
    beside.ordinary("/beside");
    Client::dial(pair.service()).ordinary("/fresh");
    assert_eq!(status(&get(pair.service(), "/h2").0), 200, "{what}");
    assert!(start.elapsed() < LIMIT, "{what}: {:?}", start.elapsed());
    assert_eq!(pair.client.stats().panics.get() + pair.servers[0].stats().panics.get(), 0);
}

#[test]
fn row_15_rapid_reset() {
    flood_ends_calmly("rapid reset", 20_000, |n| {
        let id = 2 * n as u32 + 1;
        let mut b = frame(HEADERS, END_HEADERS | END_STREAM, id, &request("GET", "/reset", &[]));
        b.extend(frame(RST_STREAM, 0, id, &8u32.to_be_bytes()));
        b
    });
}

#[test]
fn row_15_resets_that_the_peer_makes_us_send() {
    // "made you reset": each stream is opened properly, then an update of zero forces our reset
    flood_ends_calmly("made you reset", 5_000, |n| {
        let id = 2 * n as u32 + 1;
        let mut b = frame(HEADERS, END_HEADERS, id, &request("POST", "/reset", &[]));
        b.extend(frame(WINDOW_UPDATE, 0, id, &[0; 4]));
        b
    });
}

#[test]
fn row_16_continuation_without_end() {
    for size in [0, 1, 8_000] {
        let piece = vec![0; size];
        let pair = http(mirror());
        let code = Conn::client(pair.service()).flood(100_000, |n| match n {
            0 => frame(HEADERS, 0, 1, &request("GET", "/", &[])),
            _ => frame(CONTINUATION, 0, 1, &piece),
        });
        assert!(code.is_some_and(|c| c != 0), "pieces of {size}: {code:?}");
        Client::dial(pair.service()).ordinary("/fresh");
    }
}

#[test]
fn row_17_small_blocks_that_become_large_lists() {
    let pair = http(mirror());
    let mut c = Conn::client(pair.service());
    // one field of 4,000 bytes goes into the table, then it is named 60,000 times with a byte each
    let mut bomb = request("GET", "/bomb", &[]);
    bomb.extend([0x40, 1, b'x', 127]);
    let n = 3_900 - 127;
    bomb.extend([n as u8 & 127 | 128, (n >> 7) as u8]);
    bomb.resize(bomb.len() + 3_900, b'a');
    bomb.resize(16_000, 0x80 | 62);
    c.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb));
    let (h, _) = answer(&mut c, 1);
    assert!(h.kind == RST_STREAM || status(&h) == 431, "{h:?}");
    // cookie crumbs from the static table, and a table whose size changes all the time
    let mut crumbs = request("GET", "/crumbs", &[]);
    crumbs.resize(16_000, 0x80 | 32);
    c.send(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &crumbs));
    let (h, _) = answer(&mut c, 3);
    assert!(h.kind == RST_STREAM || status(&h) == 431, "{h:?}");
    // the connection goes on
    c.send(&frame(HEADERS, END_HEADERS | END_STREAM, 5, &request("GET", "/after", &[])));
    assert_eq!(status(&answer(&mut c, 5).0), 200);
    let mut c = Conn::client(pair.service());
    let mut churn: Vec<u8> = [0x20, 0x3f, 0xe1, 0x1f].repeat(4_000);
    churn.extend(request("GET", "/churn", &[]));
    c.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &churn[..16_000]));
    // a block of nothing but sizes: no request, whether the table's or the head's rules say it first
    let f = c.wait("a refusal", |f| matches!(f.kind, GOAWAY | RST_STREAM));
    assert!(matches!(f.error(), PROTOCOL_ERROR | 9), "{f:?}");
    Client::dial(pair.service()).ordinary("/fresh");
}

#[test]
fn row_18_cheap_frames_without_end() {
    flood_ends_calmly("SETTINGS", 50_000, |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]));
    flood_ends_calmly("PING", 50_000, |_| frame(PING, 0, 0, &[7; 8]));
    flood_ends_calmly("PRIORITY", 50_000, |_| frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]));
    flood_ends_calmly("unknown frames", 50_000, |_| frame(0xbe, 0, 0, &[1]));
    flood_ends_calmly("empty DATA", 50_000, |n| match n {
        0 => frame(HEADERS, END_HEADERS, 1, &request("POST", "/empty", &[])),
        _ => frame(DATA, 0, 1, &[]),
    });
    flood_ends_calmly("WINDOW_UPDATE", 200_000, |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]));
}

#[test]
fn row_19_a_client_whose_windows_stay_shut_holds_up_nobody() {
    let pair = http(mirror());
    // INITIAL_WINDOW_SIZE 0: a hundred answers of a mebibyte may not send a byte
    let mut c = Conn::with_settings(pair.service(), &[0, 4, 0, 0, 0, 0]);
    for n in 0..100 {
        c.send(&frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &request("GET", "/big", &[])));
    }
    for _ in 0..100 {
        let f = c.wait("heads come without windows", |f| f.kind == HEADERS);
        assert_eq!(status(&f), 200);
    }
    let start = Instant::now();
    for _ in 0..20 {
        assert_eq!(status(&get(pair.service(), "/small").0), 200);
    }
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    // whoever opens the window gets everything
    c.send(&frame(WINDOW_UPDATE, 0, 0, &(4u32 << 20).to_be_bytes()));
    c.send(&frame(WINDOW_UPDATE, 0, 1, &(1u32 << 20).to_be_bytes()));
    let mut got = 0;
    while got < 1 << 20 {
        let f = c.wait("data", |f| f.kind == DATA);
        assert_eq!(f.stream, 1);
        got += f.payload.len();
    }
}

#[test]
fn row_20_an_application_that_allows_few_streams_or_none_at_first() {
    // none at first; one at a time after 50 ms
    let at = server(&[0, 3, 0, 0, 0, 0], |c, f, _| {
        if f.kind == SETTINGS && f.flags & ACK == 0 {
            let mut later = c.0.try_clone().unwrap();
            thread::spawn(move || {
                thread::park_timeout(Duration::from_millis(50));
                let _ = later.write_all(&frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1]));
            });
        }
        f.kind != HEADERS || c.0.write_all(&ok(f.stream)).is_ok()
    });
    let pair = h2(at);
    let all: Vec<_> = (0..20)
        .map(|_| {
            let to = pair.service();
            thread::spawn(move || status(&get(to, "/few").0))
        })
        .collect();
    for t in all {
        // waiting is bounded: each is served, or told that the application is full
        assert!(matches!(t.join().unwrap(), 200 | 503));
    }
    assert_eq!(status(&get(pair.service(), "/later").0), 200);
    assert_eq!(pair.servers[0].stats().panics.get(), 0);
}

#[test]
fn row_20_refused_streams_and_goaway_are_tried_again() {
    // the first connection refuses the first stream, then says GOAWAY above it; what was not processed is safe to repeat
    let at = server(&[], |c, f, number| {
        if f.kind != HEADERS {
            return true;
        }
        match (number, f.stream) {
            (0, 1) => c.0.write_all(&frame(RST_STREAM, 0, 1, &7u32.to_be_bytes())).is_ok(),
            (0, n) => {
                let mut last = (n - 2).to_be_bytes().to_vec();
                last.extend([0; 4]);
                let _ = c.0.write_all(&frame(GOAWAY, 0, 0, &last));
                false
            }
            (_, n) => c.0.write_all(&ok(n)).is_ok(),
        }
    });
    let pair = h2(at);
    for n in 0..10 {
        assert_eq!(status(&get(pair.service(), &format!("/{n}")).0), 200);
    }
}

#[test]
fn row_21_faults_of_one_stream_stay_with_it() {
    let pair = http(mirror());
    let mut c = Conn::client(pair.service());
    let field = |n: &'static str, v: &'static [u8]| request("GET", "/", &[(n, v)]);
    let bad: Vec<Vec<u8>> = vec![
        field("X-Upper", b"1"),
        field("connection", b"close"),
        field("transfer-encoding", b"chunked"),
        field("keep-alive", b"1"),
        field("upgrade", b"websocket"),
        field("te", b"gzip"),
        field(":path", b"/twice"),
        field(":unknown", b"1"),
        field("host", b"other"),
        request("GET", "", &[]),
        request("GET", "relative", &[]),
        request("GET", "/with space", &[]),
        block(&[("x", b"1"), (":method", b"GET"), (":scheme", b"http"), (":path", b"/"), (":authority", b"web")]),
        block(&[(":scheme", b"http"), (":path", b"/"), (":authority", b"web")]),
    ];
    let mut id = 1;
    for b in bad {
        c.send(&frame(HEADERS, END_HEADERS | END_STREAM, id, &b));
        let (h, _) = answer(&mut c, id);
        let refused = h.kind == RST_STREAM && h.error() == PROTOCOL_ERROR;
        assert!(refused || status(&h) == 400, "{}: {h:?}", String::from_utf8_lossy(&b));
        id += 2;
        c.send(&frame(HEADERS, END_HEADERS | END_STREAM, id, &request("GET", "/good", &[])));
        assert_eq!(status(&answer(&mut c, id).0), 200);
        id += 2;
    }
}

#[test]
fn row_22_lengths_that_the_data_denies() {
    let pair = http(mirror());
    for data in [&b"four"[..], b"sixsix"] {
        let mut c = Conn::client(pair.service());
        c.send(&frame(HEADERS, END_HEADERS, 1, &request("POST", "/", &[("content-length", b"5")])));
        c.send(&frame(DATA, END_STREAM, 1, data));
        let f = c.end_of(1);
        assert!(f.kind == RST_STREAM && f.error() == PROTOCOL_ERROR, "{f:?}");
        c.send(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &request("GET", "/good", &[])));
        assert_eq!(status(&answer(&mut c, 3).0), 200);
    }
    // from the application: the client must not take it for whole
    let at = server(&[], |c, f, _| {
        if f.kind != HEADERS {
            return true;
        }
        let mut b = vec![0x88];
        b.extend(block(&[("content-length", b"5")]));
        let mut out = frame(HEADERS, END_HEADERS, f.stream, &b);
        out.extend(frame(DATA, END_STREAM, f.stream, b"four"));
        c.0.write_all(&out).is_ok()
    });
    let pair = h2(at);
    let (h, more) = get(pair.service(), "/short");
    let last = more.last().unwrap_or(&h);
    assert!(last.kind == RST_STREAM || status(&h) == 502, "{h:?} {more:?}");
}

/// An upload stays open; the client cancels; the application must hear of it.
#[test]
fn row_23_a_cancelled_stream_is_cancelled_at_the_application() {
    let (tell, hear) = mpsc::channel();
    let at = server(&[], move |c, f, _| {
        if f.kind == HEADERS {
            let _ = c.0.write_all(&frame(HEADERS, END_HEADERS, f.stream, &[0x88]));
        }
        if matches!(f.kind, HEADERS | DATA | RST_STREAM) {
            let _ = tell.send((f.kind, Instant::now()));
        }
        true
    });
    let pair = h2(at);
    let mut took = Vec::new();
    for _ in 0..5 {
        let mut c = Conn::client(pair.service());
        let grpc: &[(&str, &[u8])] = &[("content-type", b"application/grpc"), ("te", b"trailers")];
        c.send(&frame(HEADERS, END_HEADERS, 1, &request("POST", "/shop.Cart/Watch", grpc)));
        c.send(&frame(DATA, 0, 1, &[0, 0, 0, 0, 1, 9]));
        c.wait("the stream is answered", |f| f.kind == HEADERS && f.stream == 1);
        let start = Instant::now();
        c.send(&frame(RST_STREAM, 0, 1, &8u32.to_be_bytes()));
        let at = loop {
            if let (RST_STREAM, at) = hear.recv_timeout(LIMIT).unwrap() {
                break at;
            }
        };
        took.push(at - start);
    }
    took.sort();
    assert!(took[2] <= Duration::from_millis(50), "{took:?}");
}

/// An answer that is a head only, with and without `grpc-status`: relayed as it came.
#[test]
fn row_23_trailers_only_and_answers_without_a_status() {
    for with in [true, false] {
        let at = server(&[], move |c, f, _| {
            let mut b = vec![0x88];
            b.extend(block(&[("content-type", b"application/grpc")]));
            if with {
                b.extend(block(&[("grpc-status", b"5")]));
            }
            f.kind != HEADERS || c.0.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, f.stream, &b)).is_ok()
        });
        let pair = h2(at);
        let (h, more) = get(pair.service(), "/shop.Cart/Get");
        assert_eq!((status(&h), h.flags & END_STREAM), (200, END_STREAM), "{h:?}");
        assert!(more.is_empty());
        assert_eq!(h.payload.windows(11).any(|w| w == b"grpc-status"), with, "{h:?}");
    }
}

#[test]
fn row_24_websocket_over_http2_and_no_h2c_upgrade() {
    let pair = http(mirror());
    let mut c = Conn::client(pair.service());
    let offered = c.wait("SETTINGS", |f| f.kind == SETTINGS && f.flags & ACK == 0);
    assert!(offered.payload.chunks(6).any(|s| s == [0, 8, 0, 0, 0, 1]), "extended CONNECT is offered, {offered:?}");
    let more: &[(&str, &[u8])] = &[(":protocol", b"websocket"), ("sec-websocket-version", b"13")];
    let mut fields: Vec<(&str, &[u8])> =
        vec![(":method", b"CONNECT"), (":scheme", b"http"), (":path", b"/ws"), (":authority", b"web")];
    fields.extend(more);
    c.send(&frame(HEADERS, END_HEADERS, 1, &block(&fields)));
    let h = c.wait("a head", |f| f.stream == 1 && matches!(f.kind, HEADERS | RST_STREAM));
    assert_eq!(status(&h), 200, "{}", String::from_utf8_lossy(&h.payload));
    c.send(&frame(DATA, 0, 1, b"GET / HTTP/1.1 is not a request here"));
    let mut got = Vec::new();
    while got.len() < 36 {
        got.extend(c.wait("an echo", |f| f.kind == DATA && f.stream == 1).payload);
    }
    assert_eq!(got, b"GET / HTTP/1.1 is not a request here");
    // h2c: ignored, answered in HTTP/1.1
    let mut c = Client::dial(pair.service());
    c.send("GET / HTTP/1.1\r\nHost: web\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n");
    let m = c.answer();
    let got = String::from_utf8_lossy(&m.body).to_ascii_lowercase();
    assert!(m.status() == 200 && !got.contains("h2c") && !got.contains("http2-settings"), "{got}");
    // CONNECT without a protocol: a sidecar is no forward proxy
    let mut c = Conn::client(pair.service());
    c.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[(":method", b"CONNECT"), (":authority", b"web:80")])));
    assert_eq!(status(&answer(&mut c, 1).0), 501);
}

#[test]
fn row_25_values_that_would_be_lines_in_http1() {
    let pair = http(mirror());
    let smuggled: &[u8] = b"1\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: web";
    let bad = [
        request("GET", "/", &[("x", smuggled)]),
        request("GET", "/", &[("x", b"a\0b")]),
        request("GET", "/", &[("x", b"a\nb")]),
        request("GET", "/ HTTP/1.1\r\nX: y", &[]),
        request("GET / HTTP/1.1\r\nX: y", "/", &[]),
        request("POST", "/", &[("transfer-encoding", b"chunked")]),
        request("GET", "/", &[("x: y\r\nz", b"1")]),
    ];
    for b in bad {
        // by the client's own h2c, and by the server pod's plain listener
        for at in [pair.service(), pair.server()] {
            let mut c = Conn::client(at);
            c.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &b));
            let (h, _) = answer(&mut c, 1);
            assert!(h.kind == RST_STREAM || status(&h) == 400, "{h:?}");
        }
    }
    let mut s = dial(pair.service());
    s.write_all(b"GET /after HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").unwrap();
    assert!(rest(&mut s, "after").starts_with(b"HTTP/1.1 200"));
}
