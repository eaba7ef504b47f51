//! Conversations with [`Server`]: what a client sends, what is understood, what is answered.
#![allow(clippy::unwrap_used)]

mod h1_support;
use h1_support::*;
use weft_http::h1::{Close, Config, Event, SendError, Server, Waiting};

const GET: &str = "GET /a?b=c HTTP/1.1\r\nHost: example.test\r\nX-One: 1\r\n\r\n";

#[test]
fn a_request_and_its_answer() {
    let seen = serve(GET);
    assert_eq!(
        seen.lines,
        ["request GET example.test/a?b=c x-one=1 end", "wire HTTP/1.1 200 OK\ncontent-length: 2\n\nok"],
        "{seen:?}"
    );
}

#[test]
fn bodies_by_length_and_in_chunks() {
    let seen = serve("POST /u HTTP/1.1\r\nhost: a\r\ncontent-length: 11\r\n\r\nhello world");
    assert_eq!(seen.lines[..3], ["request POST a/u content-length=11", "data hello world", "end"]);
    let seen = serve(
        "POST /u HTTP/1.1\r\nhost: a\r\ntransfer-encoding: Chunked\r\n\r\n5\r\nhello\r\n006 ; a=\"b;c\"\r\n world\r\n0;x\r\n\r\n",
    );
    assert_eq!(seen.lines[..3], ["request POST a/u", "data hello world", "end"]);
    let seen = serve("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(seen.lines[..2], ["request POST a/ content-length=0 end", "request GET a/2 end"]);
}

#[test]
fn trailers_arrive_and_dangerous_ones_do_not() {
    let post = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n";
    let seen = serve(format!("{post}X-Sum: abc\r\nGrpc-Status: 0\r\nCookie: a=b\r\nAuthorization: c\r\n\r\n"));
    assert_eq!(seen.lines[..3], ["request POST a/", "data x", "trailers x-sum=abc grpc-status=0"]);
    let seen = serve(format!("{post}Set-Cookie: a=b\r\n\r\n"));
    assert_eq!(seen.lines[..3], ["request POST a/", "data x", "end"]);
}

#[test]
fn row_05_trailers_that_smuggle_framing_are_refused() {
    for field in [
        "Content-Length: 5",
        "transfer-encoding: chunked",
        "Host: b",
        "Connection: close",
        "weft-meta: x",
        "weft-client: x",
    ] {
        let seen =
            serve(format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n{field}\r\n\r\n"));
        assert!(seen.has("error 400 field") && seen.has("close"), "{seen:?}");
    }
    for section in [
        "x: y\n\r\n",
        "x: y\r\n\n",
        " x: y\r\n\r\n",
        "x : y\r\n\r\n",
        "x: y\r\n z\r\n\r\n",
        "x: \0\r\n\r\n",
        "\rx: y\r\n\r\n",
    ] {
        let seen = serve(format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n{section}"));
        assert!(seen.has("error 400"), "{section:?} {seen:?}");
    }
}

#[test]
fn row_08_pipelined_requests_are_answered_in_order_up_to_the_bad_one() {
    let seen = serve(
        "GET /1 HTTP/1.1\r\nhost: a\r\n\r\nPOST /2 HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabcGET /3 HTTP/1.1\r\nhost: a\r\nbad field\r\n\r\nGET /4 HTTP/1.1\r\nhost: a\r\n\r\n",
    );
    assert_eq!(
        seen.lines,
        [
            "request GET a/1 end",
            "request POST a/2 content-length=3",
            "data abc",
            "end",
            "error 400 malformed header field",
            "close Linger",
            "wire HTTP/1.1 200 OK\ncontent-length: 2\n\nokHTTP/1.1 200 OK\ncontent-length: 2\n\nokHTTP/1.1 400 Bad Request\ncontent-length: 0\nconnection: close\n\n"
        ],
        "{seen:?}"
    );
}

/// The application thinks while the client goes on sending: nothing is parsed, reading stops, then everything comes in order.
#[test]
fn pipelined_input_is_held_and_bounded() {
    let mut server = Server::new(config());
    let one = GET.as_bytes();
    let mut input = one;
    assert!(matches!(server.next(&mut input), Ok(Some(Event::Request { end: true, .. }))));
    assert_eq!(server.waiting(), Waiting::Local);
    let many = one.repeat(400); // 20 KB
    let mut input = &many[..];
    assert!(server.wants_read());
    assert!(matches!(server.next(&mut input), Ok(None)));
    assert!(input.is_empty() && !server.wants_read() && server.take_held().is_none());
    let mut answered = 0;
    loop {
        server.send_head(&response(204, &[]), true).unwrap();
        answered += 1;
        let Some(held) = server.take_held() else { break };
        let mut rest = &held[..];
        assert!(matches!(server.next(&mut rest), Ok(Some(Event::Request { end: true, .. }))));
        assert!(matches!(server.next(&mut rest), Ok(None)));
        server.recycle(held);
    }
    assert_eq!(answered, 401);
    assert!(server.wants_read());
    assert_eq!(server.waiting(), Waiting::Idle);
}

#[test]
fn a_caller_that_reads_on_meets_a_hard_limit() {
    let mut server = Server::new(config());
    let mut input = GET.as_bytes();
    server.next(&mut input).unwrap();
    let piece = [b'x'; 64 * 1024];
    let refused = (0..10).any(|_| server.next(&mut &piece[..]).is_err());
    assert!(refused && server.memory() < 1 << 20);
}

#[test]
fn keep_alive_of_both_versions() {
    for (head, closes, field) in [
        ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", false, ""),
        ("GET / HTTP/1.1\r\nhost: a\r\nconnection: Close\r\n\r\n", true, "connection: close"),
        ("GET / HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, close\r\n\r\n", true, "connection: close"),
        ("GET / HTTP/1.0\r\n\r\n", true, "connection: close"),
        ("GET / HTTP/1.0\r\nconnection: Keep-Alive\r\n\r\n", false, "connection: keep-alive"),
    ] {
        let seen = serve(head);
        assert_eq!(seen.has("close Now"), closes, "{seen:?}");
        assert!(seen.has(field), "{seen:?}");
    }
}

fn answer(
    request: &str,
    head: &[(&str, &str)],
    status: u16,
    data: &[&str],
    trailers: Option<&[(&str, &str)]>,
) -> (String, Server) {
    let mut server = Server::new(config());
    let mut input = request.as_bytes();
    while server.next(&mut input).unwrap().is_some() {}
    server.send_head(&response(status, head), false).unwrap();
    for d in data {
        server.send_data(d.as_bytes(), false).unwrap();
    }
    match trailers {
        Some(t) => server.send_trailers(&response(0, t)).unwrap(),
        None => server.send_data(b"", true).unwrap(),
    }
    (text(server.output()), server)
}

#[test]
fn answers_are_framed_for_the_client() {
    let get = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let (wire, server) = answer(get, &[], 200, &["hello", "", " world, sixteen!"], None);
    assert_eq!(wire, "HTTP/1.1 200 OK\ntransfer-encoding: chunked\n\n5\nhello\n10\n world, sixteen!\n0\n\n");
    assert_eq!(server.close(), None);
    let (wire, server) =
        answer("GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n", &[("x", "y")], 200, &["hello"], None);
    assert_eq!(wire, "HTTP/1.1 200 OK\nx: y\nconnection: close\n\nhello");
    assert!(server.close().is_some());
    let (wire, server) =
        answer("GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n", &[("content-length", "5")], 200, &["hello"], None);
    assert_eq!(wire, "HTTP/1.1 200 OK\ncontent-length: 5\nconnection: keep-alive\n\nhello");
    assert_eq!(server.close(), None);
    let (wire, _) = answer("HEAD / HTTP/1.1\r\nhost: a\r\n\r\n", &[("content-length", "5")], 200, &["hello"], None);
    assert_eq!(wire, "HTTP/1.1 200 OK\ncontent-length: 5\n\n");
    for (status, length) in [(204, ""), (205, "content-length: 0\n"), (304, "content-length: 5\n")] {
        let (wire, _) = answer(get, &[("content-length", "5")], status, &["hello"], None);
        assert!(wire.ends_with(&format!("\n{length}\n")) && !wire.contains("hello"), "{wire}");
    }
    let (wire, _) =
        answer(get, &[("connection", "x"), ("keep-alive", "1"), ("upgrade", "a"), ("te", "trailers")], 299, &[], None);
    assert_eq!(wire, "HTTP/1.1 299 \ntransfer-encoding: chunked\n\n0\n\n");
}

#[test]
fn trailers_go_to_those_who_take_them() {
    let trailers: &[(&str, &str)] = &[("grpc-status", "0"), ("content-length", "9"), ("x", "y")];
    let (wire, _) =
        answer("GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te\r\n\r\n", &[], 200, &["a"], Some(trailers));
    assert!(wire.ends_with("1\na\n0\ngrpc-status: 0\nx: y\n\n"), "{wire}");
    let (wire, _) = answer("GET / HTTP/1.1\r\nhost: a\r\n\r\n", &[], 200, &["a"], Some(trailers));
    assert!(wire.ends_with("1\na\n0\n\n"), "{wire}");
    let (wire, _) = answer("GET / HTTP/1.0\r\n\r\n", &[], 200, &["a"], Some(trailers));
    assert!(wire.ends_with("close\n\na"), "{wire}");
}

#[test]
fn row_13_an_answer_that_would_split_is_not_written() {
    let mut server = Server::new(config());
    server.next(&mut GET.as_bytes()).unwrap();
    for (name, value) in [
        ("x", "a\r\nset-cookie: b"),
        ("x", "a\nb"),
        ("x", "a\0"),
        ("x y", "a"),
        ("x:", "a"),
        ("", "a"),
        ("X", "a"),
        ("content-length", "5x"),
    ] {
        assert_eq!(
            server.send_head(&response(200, &[(name, value)]), true),
            Err(SendError::Field),
            "{name:?} {value:?}"
        );
        assert!(server.output().is_empty());
    }
    server.send_head(&response(502, &[]), true).unwrap();
    assert!(text(server.output()).starts_with("HTTP/1.1 502 Bad Gateway\n"));
}

#[test]
fn a_length_that_is_not_kept_cuts_the_connection() {
    for (data, end, error) in [("hello!", false, SendError::TooLong), ("hell", true, SendError::TooShort)] {
        let mut server = Server::new(config());
        server.next(&mut GET.as_bytes()).unwrap();
        server.send_head(&response(200, &[("content-length", "5")]), false).unwrap();
        assert_eq!(server.send_data(data.as_bytes(), end), Err(error));
        assert_eq!(server.close(), Some(Close::Now));
        assert!(text(server.output()).ends_with("\n\n"), "nothing of the wrong piece is sent");
    }
    let mut server = Server::new(config());
    server.next(&mut b"GET / HTTP/1.0\r\n\r\n".as_slice()).unwrap();
    server.send_head(&response(200, &[]), false).unwrap();
    server.abort();
    assert_eq!(server.close(), Some(Close::Reset), "an orderly close would complete the body");
}

#[test]
fn row_12_expect_continue() {
    let post = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n";
    // the application wants it
    let mut server = Server::new(config());
    let mut input = &post[..];
    let Ok(Some(Event::Request { head, end: false, info })) = server.next(&mut input) else { panic!() };
    assert!(info.expect_continue && head.get(b"expect").is_some());
    server.send_head(&response(100, &[]), false).unwrap();
    assert_eq!(text(server.output()), "HTTP/1.1 100 Continue\n\n");
    server.output().clear();
    assert!(matches!(server.next(&mut b"hello".as_slice()), Ok(Some(Event::Data { end: true, .. }))));
    server.send_head(&response(200, &[]), true).unwrap();
    assert_eq!(text(server.output()), "HTTP/1.1 200 OK\ncontent-length: 0\n\n");
    assert_eq!(server.close(), None);
    // it does not, and the body is never sent
    for end in [true, false] {
        let mut server = Server::new(config());
        server.next(&mut &post[..]).unwrap();
        server.send_head(&response(417, &[]), end).unwrap();
        assert!(text(server.output()).contains("connection: close"), "{}", text(server.output()));
        if !end {
            server.send_data(b"", true).unwrap();
        }
        assert_eq!(server.close(), Some(Close::Linger));
        let mut late = b"helloGET / HTTP/1.1\r\n".as_slice();
        assert!(matches!(server.next(&mut late), Ok(None)) && late.is_empty());
        assert_eq!(server.memory(), server.output().capacity());
    }
    // pointless ones are ignored
    assert!(!serve("GET / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\n\r\n").has("expect"));
    assert!(!serve("POST / HTTP/1.0\r\ncontent-length: 1\r\nexpect: 100-continue\r\n\r\na").has("expect"));
}

#[test]
fn an_early_answer_closes_and_lingers() {
    let mut server = Server::new(config());
    let mut input = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nxxx".as_slice();
    while server.next(&mut input).unwrap().is_some() {}
    server.send_head(&response(413, &[]), true).unwrap();
    assert!(text(server.output()).contains("413 Content Too Large\ncontent-length: 0\nconnection: close"));
    assert_eq!((server.close(), server.waiting()), (Some(Close::Linger), Waiting::Closed));
}

/// A redirect, a 401: the answer does not wait for the body, which is dropped when it is small, and the connection goes on.
#[test]
fn a_small_body_that_nobody_wants_is_dropped() {
    for (framing, body) in [
        ("content-length: 5", "hello"),
        ("transfer-encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"),
        ("transfer-encoding: chunked", "5\r\nhello\r\n0\r\nx: y\r\n\r\n"),
    ] {
        let post = format!("POST / HTTP/1.1\r\nhost: a\r\n{framing}\r\n\r\n");
        let rest = format!("{body}{GET}");
        for cut in 0..=rest.len() {
            let mut server = Server::new(config());
            server.next(&mut post.as_bytes()).unwrap();
            server.send_head(&response(302, &[]), true).unwrap();
            assert_eq!(text(server.output()), "HTTP/1.1 302 Found\ncontent-length: 0\n\n");
            assert!(!server.is_busy() && server.waiting() == Waiting::Body);
            let mut events = 0;
            for mut piece in [&rest.as_bytes()[..cut], &rest.as_bytes()[cut..]] {
                while let Some(event) = server.next(&mut piece).unwrap() {
                    assert!(matches!(event, Event::Request { end: true, .. }));
                    events += 1;
                }
            }
            assert_eq!(events, 1);
            assert!(server.is_busy());
        }
    }
    // chunks may go on and on
    let mut server = Server::new(config());
    server.next(&mut b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n".as_slice()).unwrap();
    server.send_head(&response(302, &[]), true).unwrap();
    let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    for n in 1..=5 {
        assert!(matches!(server.next(&mut chunk.as_bytes()), Ok(None)));
        assert_eq!(server.close(), (n == 5).then_some(Close::Linger));
    }
    // the client leaves instead
    let mut server = Server::new(config());
    server.next(&mut b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n".as_slice()).unwrap();
    server.send_head(&response(302, &[]), true).unwrap();
    assert!(matches!(server.eof(), Ok(None)));
    assert_eq!(server.close(), Some(Close::Now));
}

/// Both at once: the answer streams while the request does.
#[test]
fn bodies_in_both_directions() {
    let mut server = Server::new(config());
    let mut input = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\nabc".as_slice();
    while server.next(&mut input).unwrap().is_some() {}
    server.send_head(&response(200, &[("content-length", "6")]), false).unwrap();
    server.send_data(b"abc", false).unwrap();
    assert_eq!(server.waiting(), Waiting::Body);
    assert!(matches!(server.next(&mut b"def".as_slice()), Ok(Some(Event::Data { data: b"def", end: true }))));
    server.send_data(b"def", true).unwrap();
    assert_eq!((server.close(), server.waiting()), (None, Waiting::Idle));
    assert!(text(server.output()).ends_with("\n\nabcdef"));
}

#[test]
fn interim_answers() {
    let mut server = Server::new(config());
    server.next(&mut GET.as_bytes()).unwrap();
    server.send_head(&response(103, &[("link", "</a.css>"), ("content-length", "5")]), false).unwrap();
    server.send_head(&response(102, &[]), false).unwrap();
    assert_eq!(server.send_head(&response(101, &[]), false), Err(SendError::State));
    server.send_head(&response(200, &[]), true).unwrap();
    assert_eq!(
        text(server.output()),
        "HTTP/1.1 103 Early Hints\nlink: </a.css>\n\nHTTP/1.1 102 Processing\n\nHTTP/1.1 200 OK\ncontent-length: 0\n\n"
    );
    let mut server = Server::new(config());
    server.next(&mut b"GET / HTTP/1.0\r\n\r\n".as_slice()).unwrap();
    server.send_head(&response(103, &[]), false).unwrap();
    assert!(server.output().is_empty());
}

#[test]
fn a_half_closed_client_gets_its_answers() {
    let seen = serve_to_end("GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(seen.requests(), 2);
    assert!(seen.has("close Now"));
    let mut server = Server::new(config());
    let two = GET.repeat(2);
    let mut input = two.as_bytes();
    while server.next(&mut input).unwrap().is_some() {}
    assert!(server.eof().unwrap().is_none() && server.half_closed() && server.close().is_none());
    server.send_head(&response(200, &[]), true).unwrap();
    assert!(!text(server.output()).contains("close"), "there is another one");
    let held = server.take_held().unwrap();
    let mut rest = &held[..];
    assert!(matches!(server.next(&mut rest), Ok(Some(Event::Request { .. }))));
    assert!(matches!(server.next(&mut rest), Ok(None)));
    server.send_head(&response(200, &[]), true).unwrap();
    assert!(text(server.output()).contains("close"));
    assert_eq!(server.close(), Some(Close::Now));
}

#[test]
fn a_client_that_leaves_in_the_middle() {
    assert_eq!(serve_to_end("").lines, ["close Now"]);
    assert_eq!(serve_to_end("\r\n").lines, ["close Now"]);
    assert!(serve_to_end("GET / HT").has("error 400 connection closed in the middle of a head"));
    assert!(
        serve_to_end("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nabc")
            .has("error 400 connection closed in the middle of a body")
    );
    assert!(
        serve_to_end("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
            .has("closed in the middle of a body")
    );
    assert!(
        serve_to_end("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: y\r\n")
            .has("closed in the middle of a body")
    );
}

#[test]
fn drain_answers_and_closes() {
    let mut server = Server::new(config());
    server.drain();
    assert_eq!(server.close(), Some(Close::Now));
    let mut server = Server::new(config());
    server.next(&mut GET.as_bytes()).unwrap();
    server.drain();
    assert_eq!(server.close(), None);
    server.send_head(&response(200, &[]), true).unwrap();
    assert!(text(server.output()).contains("connection: close"));
    assert_eq!(server.close(), Some(Close::Linger));
}

#[test]
fn row_07_waiting_says_which_deadline_applies() {
    let mut server = Server::new(config());
    let mut last = server.waiting();
    assert_eq!(last, Waiting::Idle);
    let mut changes = vec![last];
    for b in b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nab" {
        let mut input = std::slice::from_ref(b);
        while server.next(&mut input).unwrap().is_some() {}
        if server.waiting() != last {
            last = server.waiting();
            changes.push(last);
        }
    }
    assert_eq!(changes, [Waiting::Idle, Waiting::Head, Waiting::Body, Waiting::Local]);
    // a deadline has passed: 408, although no request has been read
    let mut server = Server::new(config());
    server.next(&mut b"GET / HTTP".as_slice()).unwrap();
    assert!(!server.can_respond());
    server.stop_reading();
    assert!(server.can_respond());
    server.send_head(&response(408, &[]), true).unwrap();
    assert_eq!(text(server.output()), "HTTP/1.1 408 Request Timeout\ncontent-length: 0\nconnection: close\n\n");
    assert_eq!(server.close(), Some(Close::Linger));
}

#[test]
fn idle_connections_own_no_buffers() {
    let mut server = Server::new(config());
    for _ in 0..3 {
        for half in [&GET.as_bytes()[..20], &GET.as_bytes()[20..]] {
            let mut input = half;
            while server.next(&mut input).unwrap().is_some() {}
        }
        server.send_head(&response(200, &[]), true).unwrap();
        server.output().clear();
        server.output_taken();
        assert_eq!(server.memory(), 0);
    }
    assert!(std::mem::size_of::<Server>() <= 256, "{}", std::mem::size_of::<Server>());
    assert!(std::mem::size_of::<weft_http::h1::Client>() <= 192, "{}", std::mem::size_of::<weft_http::h1::Client>());
}

#[test]
fn row_14_names_lose_their_case_and_keep_their_order_and_methods_pass() {
    let seen = serve("BREW /pot HTTP/1.1\r\nB-Second: 2\r\nhost: a\r\nA-first: 1\r\nb-second: 3\r\n\r\n");
    assert_eq!(seen.lines[0], "request BREW a/pot b-second=2 a-first=1 b-second=3 end");
}

#[test]
fn the_rule_of_a_small_configuration() {
    let config = std::sync::Arc::new(Config { max_head: 100, max_target: 20, max_fields: 2, ..Default::default() });
    for (request, reason) in [
        ("GET /aaaaaaaaaaaaaaaaaaaa HTTP/1.1\r\nhost: a\r\n\r\n", "414"),
        ("GET / HTTP/1.1\r\nhost: a\r\nb: c\r\nd: e\r\n\r\n", "431"),
        (
            "GET / HTTP/1.1\r\nhost: a\r\nb: ccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc\r\n\r\n",
            "431",
        ),
    ] {
        let e = Server::new(config.clone()).next(&mut request.as_bytes()).unwrap_err();
        assert_eq!(e.status.to_string(), reason, "{request}");
    }
}
