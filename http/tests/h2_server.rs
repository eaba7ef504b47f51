//! Conversations with the server side of HTTP/2.
#![allow(clippy::unwrap_used)]

mod h2_support;
use h2_support::*;
use std::time::Duration;
use weft_http::h2::{Config, ErrorCode, SendError};

#[test]
fn hello() {
    let mut t = Talk::fresh_server(Config::default());
    assert_eq!(t.hear(), ["SETTINGS", "WINDOW_UPDATE 0 983041"], "before anybody has asked");
    let hello = [PREFACE, &settings(&[(4, 100)])].concat();
    let (front, back) = hello.split_at(11);
    assert_eq!(t.say(front.to_vec()), [""; 0]);
    assert!(!t.c.is_ready() && t.c.in_frame());
    assert_eq!(t.say(back.to_vec()), ["settings"]);
    assert!(t.c.is_ready() && !t.c.in_frame());
    assert_eq!(t.hear(), ["SETTINGS ack"]);
    assert!(t.c.is_idle());
}

#[test]
fn a_request_and_its_answer() {
    let mut t = Talk::server(Config::default());
    assert_eq!(t.say(request(1, 0, &[("x", "y")])), ["request 1 POST /cart x=y"]);
    assert_eq!(t.say(data(1, 0, b"hello")), ["data 1 5"]);
    assert_eq!(t.say(data(1, END, b"world")), ["data 1 5 end"]);
    let one = t.id(1);
    t.c.send_head(one, &answer(103, &[("link", "</x>")]), false).unwrap();
    t.c.send_head(one, &answer(200, &[]), false).unwrap();
    assert_eq!(t.c.send_data(one, b"hi", false), 2);
    let mut trailers = Box::new(answer(0, &[("grpc-status", "0")]));
    trailers.status = 0;
    assert!(t.c.send_trailers(one, trailers));
    assert_eq!(
        t.hear(),
        ["HEADERS 1 :status=103 link=</x>", "HEADERS 1 :status=200", "DATA 1 2", "HEADERS 1 grpc-status=0 end"]
    );
    assert!(t.c.is_idle() && t.c.streams() == 0);
    assert_eq!(t.c.send_head(one, &answer(200, &[]), true), Err(SendError::Closed));
}

#[test]
fn data_comes_as_it_arrives() {
    let mut t = Talk::server(Config::default());
    t.say(request(1, 0, &[]));
    let frame = frame(0, END | PADDED, 1, b"\x04hello world\0\0\0\0");
    let mut told = Vec::new();
    for piece in frame.chunks(7) {
        told.extend(t.say(piece.to_vec()));
    }
    assert_eq!(told, ["data 1 4", "data 1 7 end"]);
    assert_eq!(t.c.unreleased(t.id(1)), 11);
    assert!(!t.c.in_frame());
}

#[test]
fn byte_by_byte() {
    let mut t = Talk::fresh_server(Config::default());
    let all = [PREFACE.to_vec(), settings(&[]), request(1, 0, &[]), data(1, END, b"ab"), request(3, END, &[])].concat();
    let told: Vec<_> = all.iter().flat_map(|b| t.say(vec![*b])).collect();
    assert_eq!(told, ["settings", "request 1 POST /cart", "data 1 1", "data 1 1 end", "request 3 POST /cart end"]);
}

#[test]
fn heads_over_several_frames() {
    let mut t = Talk::server(Config::default());
    let b = block(&[&REQUEST[..], &[("a", "b")]].concat());
    let (x, yz) = b.split_at(10);
    let (y, z) = yz.split_at(9);
    assert_eq!(t.say([frame(1, END, 1, x), frame(9, 0, 1, y)].concat()), [""; 0]);
    assert!(t.c.in_frame(), "the rim's deadline for heads runs");
    assert_eq!(t.say(frame(9, END_HEADERS, 1, z)), ["request 1 POST /cart a=b end"]);
}

#[test]
fn large_heads_leave_in_several_frames() {
    let mut t = Talk::server(Config::default());
    t.say(request(1, END, &[]));
    let big = "v".repeat(40_000);
    let one = t.id(1);
    t.c.send_head(one, &answer(200, &[("big", &big)]), true).unwrap();
    let bytes = std::mem::take(t.c.output());
    let mut client = Talk::client(Config::default());
    client.open("/", true);
    let told = client.say(bytes);
    assert_eq!(told, [format!("response 1 200 big={big} end")]);
}

#[test]
fn windows_hold_data_back() {
    let mut t = Talk::server(Config::default());
    t.say(settings(&[(4, 10)]));
    t.say([request(1, END, &[]), request(3, END, &[])].concat());
    t.hear();
    for id in [1, 3] {
        let id = t.id(id);
        t.c.send_head(id, &answer(200, &[]), false).unwrap();
        assert_eq!(t.c.send_data(id, &[0; 25], true), 10);
        assert_eq!(t.c.queued(id), 15);
    }
    assert_eq!(t.hear(), ["HEADERS 1 :status=200", "DATA 1 10", "HEADERS 3 :status=200", "DATA 3 10"]);
    assert_eq!(t.say(window(3, 6)), ["sent 3 6"]);
    assert_eq!(t.say(window(3, 9)), ["sent 3 9 end"]);
    assert_eq!(t.hear(), ["DATA 3 6", "DATA 3 9 end"]);
    // the initial window shrinks below zero: 15 bytes more are needed before one moves
    assert_eq!(t.say(settings(&[(4, 0)])), ["settings"]);
    assert_eq!(t.say(window(1, 10)), [""; 0]);
    assert_eq!(t.say(window(1, 1)), ["sent 1 1"]);
    assert_eq!(t.say(settings(&[(4, 20)])), ["settings", "sent 1 14 end"]);
    assert_eq!(t.hear(), ["SETTINGS ack", "DATA 1 1", "SETTINGS ack", "DATA 1 14 end"]);
    assert!(t.c.is_idle() && t.c.queued_total() == 0);
}

#[test]
fn trailers_wait_behind_data() {
    let mut t = Talk::server(Config::default());
    t.say(settings(&[(4, 3)]));
    t.say(request(1, END, &[]));
    t.hear();
    let one = t.id(1);
    t.c.send_head(one, &answer(200, &[]), false).unwrap();
    assert_eq!(t.c.send_data(one, b"abcdef", false), 3);
    assert!(!t.c.send_trailers(one, Box::new(answer(0, &[("t", "1")]))));
    assert_eq!(t.hear(), ["HEADERS 1 :status=200", "DATA 1 3"]);
    assert_eq!(t.say(window(1, 3)), ["sent 1 3 end"]);
    assert_eq!(t.hear(), ["DATA 1 3", "HEADERS 1 t=1 end"]);
}

/// A turn is a body of 64 KiB, and who waits does so for one turn of each stream before it.
#[test]
fn a_turn_is_a_body_of_64_kib() {
    let mut t = Talk::server(Config::default());
    t.say([settings(&[(4, 1 << 20)]), window(0, 1 << 20)].concat());
    t.hear();
    for id in [1, 3, 5] {
        t.say(request(id, END, &[]));
        let s = t.id(id);
        t.c.send_head(s, &answer(200, &[]), false).unwrap();
    }
    t.hear();
    let (one, three, five) = (t.id(1), t.id(3), t.id(5));
    t.c.send_data(one, &[1; 400_000], true);
    t.c.send_data(three, &[3; 65_536], true);
    t.c.send_data(five, &[5; 100], true);
    let mut order = vec![];
    for _ in 0..20 {
        order.extend(t.hear());
    }
    let size = |f: &String| f.split(' ').nth(2).and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
    let of =
        |stream: &str, frames: &[String]| -> usize { frames.iter().filter(|f| f.starts_with(stream)).map(size).sum() };
    let small = order.iter().position(|f| f.starts_with("DATA 5 100 end")).unwrap();
    // what had left before it came, and one turn
    let first = Config::default().max_output;
    assert!(of("DATA 1", &order[..small]) <= first + 65_536, "{order:?}");
    assert_eq!((of("DATA 1", &order), of("DATA 3", &order)), (400_000, 65_536));
    let longest = order.chunk_by(|a, b| a[..6] == b[..6]).map(|c| of("DATA 3", c)).max();
    assert_eq!(longest, Some(65_536), "in one piece: {order:?}");
}

#[test]
fn output_is_bounded_and_fair() {
    let mut t = Talk::server(Config { max_output: 65_536, turn: 1, ..Config::default() });
    t.say([settings(&[(4, 1 << 20)]), window(0, 1 << 20)].concat());
    t.hear();
    for id in [1, 3] {
        t.say(request(id, END, &[]));
        let s = t.id(id);
        t.c.send_head(s, &answer(200, &[]), false).unwrap();
    }
    let (one, three) = (t.id(1), t.id(3));
    t.hear();
    let sent = t.c.send_data(one, &[1; 200_000], true);
    assert_eq!(sent, 65_536);
    assert_eq!(t.c.send_data(three, &[3; 20_000], true), 0, "no room, and another is before it");
    assert_eq!(t.hear().len(), 4);
    // now they take turns; one that does not fit waits for the next output
    assert_eq!(t.hear(), ["DATA 1 16384", "DATA 3 16384", "DATA 1 16384", "DATA 3 3616 end"]);
    let told = t.happens();
    assert_eq!(
        told.iter().filter(|l| l.starts_with("sent 3")).collect::<Vec<_>>(),
        ["sent 3 16384", "sent 3 3616 end"]
    );
    let mut all = 0;
    while t.c.has_output() {
        all += t.hear().len();
    }
    assert!(all > 0 && t.c.is_idle());
}

#[test]
fn credit_is_told_in_halves_of_the_window() {
    let mut t = Talk::server(Config::default());
    t.say(request(1, 0, &[]));
    let one = t.id(1);
    for _ in 0..3 {
        t.say(data(1, 0, &[0; 16_384]));
    }
    assert_eq!(t.hear(), [""; 0]);
    t.c.release(one, 32_766);
    assert_eq!(t.hear(), [""; 0]);
    t.c.release(one, 1);
    assert_eq!(t.hear(), ["WINDOW_UPDATE 1 32767"]);
    t.c.grow_window(one, 100_000);
    assert_eq!(t.hear(), ["WINDOW_UPDATE 1 100000"]);
    assert_eq!(t.c.window(one), 165_535);
    assert_eq!(t.c.unreleased(one), 3 * 16_384 - 32_767);
}

#[test]
fn padding_is_credited_at_once() {
    let mut t = Talk::server(Config::default());
    t.say(request(1, 0, &[]));
    let padded = frame(0, PADDED, 1, &[&[255][..], b"x", &[0; 255]].concat());
    for _ in 0..127 {
        assert_eq!(t.say(padded.clone()), ["data 1 1"]);
    }
    assert_eq!(t.hear(), [""; 0]);
    t.say(padded);
    assert_eq!(t.hear(), ["WINDOW_UPDATE 1 32768"], "its length byte, too");
    assert_eq!(t.c.unreleased(t.id(1)), 128);
}

#[test]
fn the_connection_is_credited_at_receipt() {
    let mut t = Talk::server(Config { connection_window: 100_000, ..Config::default() });
    t.say([request(1, 0, &[]), request(3, 0, &[])].concat());
    // nobody releases anything
    t.say([data(1, 0, &[0; 16_000]), data(1, 0, &[0; 16_000]), data(1, 0, &[0; 16_000])].concat());
    assert_eq!(t.hear(), [""; 0]);
    t.say(data(1, 0, &[0; 2_000]));
    assert_eq!(t.hear(), ["WINDOW_UPDATE 0 50000"]);
    // also what is dropped
    let three = t.id(3);
    t.c.reset(three, ErrorCode::Cancel);
    for _ in 0..5 {
        assert_eq!(t.say(data(3, 0, &[0; 10_000])), [""; 0]);
    }
    assert_eq!(t.hear(), ["RST_STREAM 3 CANCEL", "WINDOW_UPDATE 0 50000"]);
}

#[test]
fn an_early_answer_ends_the_upload() {
    let mut t = Talk::server(Config::default());
    t.say(settings(&[(4, 2)]));
    t.say([request(1, 0, &[("content-length", "1000000")]), data(1, 0, &[0; 16_384])].concat());
    t.hear();
    let one = t.id(1);
    t.c.send_head(one, &answer(413, &[]), false).unwrap();
    t.c.send_data(one, b"too much", true);
    t.c.discard(one);
    assert_eq!(t.hear(), ["HEADERS 1 :status=413", "DATA 1 2"]);
    // the client goes on meanwhile: dropped and credited
    assert_eq!(t.say([data(1, 0, &[0; 16_384]), data(1, 0, &[0; 16_384])].concat()), [""; 0]);
    assert_eq!(t.hear(), ["WINDOW_UPDATE 1 32768"]);
    assert_eq!(t.say(window(1, 6)), ["sent 1 6 end"]);
    assert_eq!(t.hear(), ["DATA 1 6 end", "PING"]);
    assert_eq!(t.say([data(1, 0, &[0; 100]), frame(6, 1, 0, b"weft-lng")].concat()), [""; 0]);
    assert_eq!(t.hear(), ["RST_STREAM 1 NO_ERROR"]);
    assert_eq!(t.say([data(1, 0, &[0; 100]), rst(1, 8)].concat()), [""; 0], "on its way already");
    assert!(t.c.is_idle());
}

#[test]
fn an_early_answer_is_not_lost_to_a_reset() {
    let mut t = Talk::server(Config { max_streams: 3, ..Config::default() });
    t.say([request(1, 0, &[]), request(3, 0, &[])].concat());
    let early = |t: &mut Talk, id: u32| {
        let stream = t.id(id);
        t.c.send_head(stream, &answer(403, &[]), true).unwrap();
        t.c.discard(stream);
    };
    early(&mut t, 1);
    assert_eq!(t.hear(), ["HEADERS 1 :status=403 end", "PING"]);
    early(&mut t, 3);
    assert_eq!(t.hear(), ["HEADERS 3 :status=403 end"], "one PING at a time");
    // the rest of the first was on its way: that stream has ended well
    assert_eq!(t.say([data(1, END, b"small"), frame(6, 1, 0, b"weft-lng")].concat()), [""; 0]);
    assert_eq!(t.hear(), ["PING"], "the other's end may have come after the first PING");
    assert_eq!(t.say(frame(6, 1, 0, b"weft-lng")), [""; 0]);
    assert_eq!(t.hear(), ["RST_STREAM 3 NO_ERROR"]);
    assert!(t.c.is_idle());
    assert_eq!(t.say(frame(6, 1, 0, b"weft-lng")), [""; 0], "not asked");

    // a client that answers no PING and ends nothing does not take the room of new streams
    t.say([request(5, 0, &[]), request(7, 0, &[])].concat());
    t.hear();
    early(&mut t, 5);
    early(&mut t, 7);
    t.say(request(9, 0, &[]));
    t.hear();
    assert_eq!(t.say(request(11, 0, &[])), ["request 11 POST /cart"]);
    let mut heard = t.hear();
    heard.sort();
    assert_eq!(heard, ["RST_STREAM 5 NO_ERROR", "RST_STREAM 7 NO_ERROR"]);
}

#[test]
fn resets_both_ways() {
    let mut t = Talk::server(Config::default());
    t.say([request(1, 0, &[]), request(3, 0, &[])].concat());
    assert_eq!(t.say(rst(1, 8)), ["reset 1 CANCEL"]);
    let three = t.id(3);
    t.c.reset(three, ErrorCode::InternalError);
    assert_eq!(t.hear(), ["RST_STREAM 3 INTERNAL_ERROR"]);
    assert_eq!(t.say(headers(3, END, &[("late", "trailer")])), [""; 0]);
    assert_eq!(t.c.send_data(three, b"x", true), 1, "counts as sent");
    assert!(t.c.is_idle());
}

#[test]
fn trailers_of_requests() {
    let mut t = Talk::server(Config::default());
    t.say([request(1, 0, &[]), request(3, 0, &[])].concat());
    assert_eq!(t.say(headers(1, END, &[("sum", "1")])), ["trailers 1 sum=1"]);
    assert_eq!(t.say(headers(3, 0, &[("sum", "1")])), ["reset 3 PROTOCOL_ERROR"], "without END_STREAM");
}

#[test]
fn going_away_in_two_steps() {
    let mut t = Talk::server(Config::default());
    t.say(request(1, 0, &[]));
    t.c.go_away_gracefully();
    assert_eq!(t.hear(), ["GOAWAY 2147483647 NO_ERROR", "PING"]);
    assert_eq!(t.say(request(3, END, &[])), ["request 3 POST /cart end"], "sent before the client knew");
    assert_eq!(t.say(frame(6, 1, 0, b"weft-end")), [""; 0]);
    assert_eq!(t.hear(), ["GOAWAY 3 NO_ERROR"]);
    // ignored: the client knows that it may try elsewhere
    assert_eq!(t.say([request(5, 0, &[]), data(5, END, b"x"), rst(5, 8), window(5, 1)].concat()), [""; 0]);
    assert!(!t.c.is_finished());
    for id in [1, 3] {
        let id = t.id(id);
        t.c.send_head(id, &answer(200, &[]), true).unwrap();
    }
    assert_eq!(t.say(data(1, END, b"")), ["data 1 0 end"]);
    assert!(t.c.is_finished());
}

#[test]
fn keepalive() {
    let mut t = Talk::server(Config::default());
    let now = t.now;
    assert!(t.c.ping(now) && !t.c.ping(now));
    assert_eq!(t.c.ping_sent(), Some(now));
    assert_eq!(t.hear(), ["PING"]);
    t.wait(Duration::from_millis(70));
    assert_eq!(t.say(frame(6, 1, 0, b"somebody")), [""; 0], "not ours");
    assert_eq!(t.say(frame(6, 1, 0, b"weft-kal")), ["pong 70"]);
    assert_eq!(t.c.ping_sent(), None);
    assert_eq!(t.say(frame(6, 0, 0, b"theirs__")), [""; 0]);
    assert_eq!(t.hear(), ["PING ack"]);
}

#[test]
fn extended_connect() {
    let ws = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":authority", "shop"),
        (":path", "/chat"),
    ];
    let mut t = Talk::server(Config { extended_connect: true, ..Config::default() });
    assert_eq!(t.say(headers(1, 0, &ws)), ["request 1 CONNECT /chat"]);
    let one = t.id(1);
    t.c.send_head(one, &answer(200, &[]), false).unwrap();
    assert_eq!(t.say(data(1, 0, b"frame")), ["data 1 5"]);
    assert_eq!(t.say(headers(3, 0, &[(":method", "CONNECT"), (":authority", "db:5432")])), ["request 3 CONNECT "]);
    // not offered: malformed
    let mut t = Talk::server(Config::default());
    assert_eq!(t.say(headers(1, 0, &ws)), [""; 0]);
    assert_eq!(t.hear(), ["RST_STREAM 1 PROTOCOL_ERROR"]);
}

#[test]
fn the_authority_is_normal_and_one() {
    let mut t = Talk::server(Config::default());
    let with = |authority: &'static str, host: &'static [&'static str]| {
        let mut f = vec![(":method", "GET"), (":scheme", "http"), (":path", "/")];
        if !authority.is_empty() {
            f.push((":authority", authority));
        }
        f.extend(host.iter().map(|h| ("host", *h)));
        f
    };
    for (i, (authority, host, ok)) in [
        ("Shop.EXAMPLE.:080", &[][..], true),
        ("", &["shop.example:80"], true),
        ("shop.example:80", &["SHOP.example:80"], true),
        ("shop.example:80", &["other"], false),
        ("", &["a", "a"], false),
        ("", &[], false),
        ("user@shop", &[], false),
    ]
    .into_iter()
    .enumerate()
    {
        let id = 1 + 2 * i as u32;
        let bytes = headers(id, END, &with(authority, host));
        let mut input = &bytes[..];
        let event = t.c.next(&mut input, t.now).unwrap();
        match event {
            Some(weft_http::h2::Event::Request { head, .. }) => {
                assert!(ok, "{authority} {host:?}");
                assert_eq!(head.authority(), b"shop.example:80");
                assert_eq!(head.fields().count(), 0);
            }
            _ => assert!(!ok, "{authority} {host:?}"),
        }
    }
    // between meshed proxies: an HTTP/1.0 client had none
    let mut t = Talk::server(Config { missing_authority: true, ..Config::default() });
    assert_eq!(t.say(headers(1, END, &with("", &[]))), ["request 1 GET / end"]);
}

#[test]
fn a_closed_connection_takes_nothing() {
    let mut t = Talk::server(Config::default());
    t.say([request(1, 0, &[]), request(3, 0, &[])].concat());
    t.c.close(ErrorCode::NoError);
    assert_eq!(t.hear(), ["GOAWAY 3 NO_ERROR"]);
    assert_eq!(t.say(data(1, 0, b"x")), ["NO_ERROR: closed by us"]);
    let one = t.id(1);
    assert_eq!(t.c.send_data(one, b"x", false), 1);
    assert_eq!(t.c.send_head(one, &answer(200, &[]), true), Err(SendError::Closed));
    let mut left = Vec::new();
    while let Some((stream, token)) = t.c.take_stream() {
        assert_eq!(stream.get(), token);
        left.push(token);
    }
    assert_eq!(left, [1, 3]);
    assert_eq!(t.hear(), [""; 0]);
    assert!(t.c.is_finished());
}
