//! Conversations with [`Client`]: requests out, every kind of answer in.
#![allow(clippy::unwrap_used)]

mod h1_support;
use h1_support::*;
use weft_http::h1::{Client, Close, Event, ParseError, Reason, SendError, Waiting};
use weft_http::head::Pseudo;

fn get() -> weft_http::head::Head {
    request("GET a.test/x", &[])
}

fn written(head: &weft_http::head::Head, end: bool) -> String {
    let mut client = Client::new(config());
    client.send_head(head, end).unwrap();
    text(client.output())
}

#[test]
fn requests_are_framed_for_the_application() {
    let fields = &[
        ("x-one", "1"),
        ("te", "trailers"),
        ("cookie", "a=b"),
        ("y", "2"),
        ("cookie", "c=d"),
        ("connection", "x"),
        ("host", "evil"),
    ];
    assert_eq!(
        written(&request("GET a.test:80/x?y", fields), true),
        "GET /x?y HTTP/1.1\nhost: a.test:80\nx-one: 1\nte: trailers\nconnection: te\ncookie: a=b; c=d\ny: 2\n\n"
    );
    assert_eq!(written(&request("POST a/", &[]), true), "POST / HTTP/1.1\nhost: a\ncontent-length: 0\n\n");
    assert_eq!(written(&request("DELETE a/", &[]), true), "DELETE / HTTP/1.1\nhost: a\n\n");
    assert_eq!(written(&request("OPTIONS a*", &[]), true), "OPTIONS * HTTP/1.1\nhost: a\n\n");
    assert_eq!(written(&request("GET /", &[]), true), "GET / HTTP/1.1\nhost: \n\n");
    let mut client = Client::new(config());
    client.send_head(&request("PUT a/", &[]), false).unwrap();
    client.send_data(b"hello", false).unwrap();
    client.send_trailers(&response(0, &[("x-sum", "1")])).unwrap();
    assert_eq!(
        text(client.output()),
        "PUT / HTTP/1.1\nhost: a\ntransfer-encoding: chunked\n\n5\nhello\n0\nx-sum: 1\n\n"
    );
    let mut client = Client::new(config());
    client.send_head(&request("PUT a/", &[("content-length", "5")]), false).unwrap();
    client.send_data(b"hello", true).unwrap();
    assert_eq!(text(client.output()), "PUT / HTTP/1.1\nhost: a\ncontent-length: 5\n\nhello");
}

#[test]
fn row_25_heads_that_would_smuggle_are_not_written() {
    let bad = |head: &weft_http::head::Head| {
        let mut client = Client::new(config());
        assert_eq!(client.send_head(head, true), Err(SendError::Field), "{}", head_text(head));
        assert!(client.output().is_empty() && client.reusable() && client.exchanges() == 0);
    };
    for (name, value) in [
        ("x", "a\r\nhost: b"),
        ("x", "a\nb"),
        ("x", "a\rb"),
        ("x", "a\0b"),
        ("x\r\ny", "a"),
        ("x y", "a"),
        ("x:y", "a"),
        (":x", "a"),
        ("", "a"),
        ("X", "a"),
        ("cookie", "a\r\nb: c"),
        ("content-length", "1, 1"),
        ("content-length", "-1"),
        ("content-length", "1\r\n"),
    ] {
        bad(&request("GET a/", &[(name, value)]));
    }
    bad(&request("GET a/", &[("content-length", "0"), ("content-length", "1")]));
    for (pseudo, value) in [
        (Pseudo::Method, "GET / HTTP/1.1\r\nx:"),
        (Pseudo::Method, "G T"),
        (Pseudo::Method, ""),
        (Pseudo::Path, "/ HTTP/1.1\r\nhost: b\r\n\r\n"),
        (Pseudo::Path, "/a b"),
        (Pseudo::Path, ""),
        (Pseudo::Path, "x"),
        (Pseudo::Path, "/a\0"),
        (Pseudo::Path, "/#a"),
        (Pseudo::Path, "*"),
        (Pseudo::Path, "http://b/"),
        (Pseudo::Authority, "a\r\nx: y"),
        (Pseudo::Authority, "u@a"),
        (Pseudo::Authority, "a b"),
        (Pseudo::Authority, "a/b"),
    ] {
        let mut head = get();
        head.set_pseudo(pseudo, value.as_bytes());
        bad(&head);
    }
    // framing fields of the other version never pass
    let wire = written(
        &request(
            "GET a/",
            &[
                ("transfer-encoding", "chunked"),
                ("upgrade", "x"),
                ("keep-alive", "1"),
                ("proxy-connection", "x"),
                ("http2-settings", "x"),
            ],
        ),
        true,
    );
    assert_eq!(wire, "GET / HTTP/1.1\nhost: a\n\n");
}

#[test]
fn answers_of_every_framing() {
    let seen = ask(&get(), "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello");
    assert_eq!(seen.lines, ["response 200 content-length=5 x=y", "data hello", "end", "reusable"]);
    let seen = ask(&get(), "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    assert_eq!(seen.lines, ["response 200", "data hello", "end", "reusable"]);
    let seen = ask(
        &get(),
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\ngrpc-status: 0\r\n\r\n",
    );
    assert_eq!(seen.lines, ["response 200", "data hello", "trailers grpc-status=0", "reusable"]);
    let seen = ask_to_end(&get(), "HTTP/1.1 200 OK\r\n\r\nhello");
    assert_eq!(seen.lines, ["response 200", "data hello", "end", "not reusable"]);
    let seen = ask_to_end(&get(), "HTTP/1.0 200 OK\r\n\r\nhello");
    assert_eq!(seen.lines, ["response 200", "data hello", "end", "not reusable"]);
    let seen = ask(&get(), "HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nx");
    assert_eq!(seen.lines[2..], ["end", "not reusable"]);
    let seen = ask(&get(), "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\nx");
    assert_eq!(seen.lines[2..], ["end", "reusable"]);
    let seen = ask(&get(), "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx");
    assert_eq!(seen.lines[2..], ["end", "not reusable"]);
    let seen = ask(&get(), "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\nx");
    assert_eq!(seen.lines, ["response 200 content-length=1", "data x", "end", "reusable"]);
    let seen = ask(&get(), "HTTP/1.1 200 OK\r\ncontent-length : 1\r\n\r\nx");
    assert_eq!(
        seen.lines,
        ["response 200 content-length=1", "data x", "end", "reusable"],
        "white space before the colon is removed"
    );
}

#[test]
fn answers_without_a_body() {
    for (answer, seen) in [
        ("204 No Content\r\nContent-Length: 5", "response 204 end"),
        ("204 No Content\r\nTransfer-Encoding: chunked", "response 204 end"),
        ("304 Not Modified\r\nContent-Length: 5\r\netag: x", "response 304 content-length=5 etag=x end"),
        ("205 Reset Content", "response 205 end"),
        ("200 OK\r\nContent-Length: 0", "response 200 content-length=0 end"),
    ] {
        assert_eq!(ask(&get(), format!("HTTP/1.1 {answer}\r\n\r\n")).lines, [seen, "reusable"]);
    }
    let head = request("HEAD a/", &[]);
    assert_eq!(
        ask(&head, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").lines,
        ["response 200 content-length=5 end", "reusable"]
    );
    assert_eq!(
        ask(&head, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").lines,
        ["response 200 end", "reusable"]
    );
    assert_eq!(ask(&head, "HTTP/1.1 200 OK\r\n\r\n").lines, ["response 200 end", "reusable"]);
}

#[test]
fn interim_answers_come_first() {
    let seen = ask(
        &get(),
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\ncontent-length: 5\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx",
    );
    assert_eq!(
        seen.lines,
        ["response 100", "response 103 link=x", "response 200 content-length=1", "data x", "end", "reusable"]
    );
    assert!(ask(&get(), "HTTP/1.1 100 Continue\r\n\r\n".repeat(33)).has("error 502 too many interim"));
}

#[test]
fn row_13_answers_that_are_not_one_answer() {
    // more than the message: the answer is good, the connection is not
    for extra in ["x", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "\r\n"] {
        for message in [
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\ny: z\r\n\r\n",
        ] {
            let seen = ask(&get(), format!("{message}{extra}"));
            assert!(seen.has("not reusable") && !seen.has("error"), "{seen:?}");
            assert_eq!(seen.lines.iter().filter(|l| l.starts_with("response")).count(), 1);
        }
    }
    // when they come later, they meet an idle connection
    let mut client = Client::new(config());
    client.send_head(&get(), true).unwrap();
    client.next(&mut b"HTTP/1.1 204 x\r\n\r\n".as_slice()).unwrap();
    assert!(client.reusable());
    let e = client.next(&mut b"HTTP/1.1 200 OK\r\n\r\n".as_slice()).unwrap_err();
    assert_eq!(e, ParseError { status: 502, reason: Reason::Unsolicited });
    assert!(!client.reusable() && client.close() == Some(Close::Now));
    // a body that ends too early
    for message in [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    ] {
        assert!(ask_to_end(&get(), message).has("error 502 connection closed in the middle of a body"));
    }
    for message in [
        "garbage\r\n\r\n",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        "HTTP/1.2 200 OK\r\n\r\n",
        "http/1.1 200 OK\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/1.1 200 O\0K\r\n\r\n",
        "HTTP/1.1 200 OK\n\r\n",
        "HTTP/1.1 200 OK\r\n\n",
        "HTTP/1.1 200 OK\r\nx: y\n\r\n",
        "HTTP/1.1 200 OK\r\nx: y\r\n z\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: a\rb\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: \0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx y: z\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        "SSH-2.0-x\r\n",
        "\x16\x03\x01\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n",
    ] {
        let seen = ask(&get(), message);
        assert!(seen.has("error 502") && seen.has("not reusable"), "{message:?} {seen:?}");
    }
    let large = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "a".repeat(70_000));
    assert!(ask(&get(), large).has("error 502 head is larger"));
    assert!(
        ask(&get(), format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(129)))
            .has("error 502 too many header fields")
    );
}

#[test]
fn a_connection_that_closes_unanswered_says_whether_it_was_reused() {
    let unanswered = |reused| ParseError { status: 502, reason: Reason::ClosedUnanswered { reused } };
    let mut client = Client::new(config());
    client.send_head(&get(), true).unwrap();
    assert_eq!(client.eof().unwrap_err(), unanswered(false));
    let mut client = Client::new(config());
    for _ in 0..2 {
        client.send_head(&get(), true).unwrap();
        client.next(&mut b"HTTP/1.1 204 x\r\n\r\n".as_slice()).unwrap();
    }
    client.send_head(&get(), true).unwrap();
    assert_eq!(client.eof().unwrap_err(), unanswered(true));
    // one byte, or an interim answer, and it is another matter
    assert!(ask_to_end(&get(), "H").has("closed in the middle of a head"));
    assert!(ask_to_end(&get(), "HTTP/1.1 100 x\r\n\r\n").has("closed in the middle of a head"));
    // idle: nothing is lost
    let mut client = Client::new(config());
    assert!(matches!(client.eof(), Ok(None)));
    assert_eq!(client.close(), Some(Close::Now));
}

#[test]
fn a_lost_connection_completes_nothing() {
    for (answer, reason) in [
        ("", Reason::ClosedUnanswered { reused: false }),
        ("HTTP/1.1 200", Reason::ClosedInHead),
        ("HTTP/1.1 200 OK\r\n\r\nhello", Reason::ClosedInBody),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello", Reason::ClosedInBody),
    ] {
        let mut client = Client::new(config());
        client.send_head(&get(), true).unwrap();
        let mut input = answer.as_bytes();
        while client.next(&mut input).unwrap().is_some() {}
        assert_eq!(client.lost(), Some(ParseError { status: 502, reason }), "{answer}");
        assert_eq!(client.close(), Some(Close::Now));
        assert_eq!(client.lost(), None);
    }
    assert_eq!(Client::new(config()).lost(), None);
}

#[test]
fn an_early_answer_while_the_request_is_sent() {
    let mut client = Client::new(config());
    client.send_head(&request("POST a/", &[("content-length", "10")]), false).unwrap();
    client.send_data(b"hello", false).unwrap();
    assert!(matches!(
        client.next(&mut b"HTTP/1.1 413 x\r\ncontent-length: 0\r\n\r\n".as_slice()),
        Ok(Some(Event::Response { end: true, .. }))
    ));
    assert!(!client.reusable() && client.is_busy());
    assert_eq!((client.waiting(), client.close()), (Waiting::Local, None));
    // either the rest is sent, and the connection is as good as new
    let mut given_up = Client::new(config());
    std::mem::swap(&mut given_up, &mut client);
    given_up.send_data(b"world", true).unwrap();
    assert!(given_up.reusable());
    // or the request is given up
    client.send_head(&request("POST a/", &[]), false).unwrap();
    client.next(&mut b"HTTP/1.1 413 x\r\nconnection: close\r\n\r\n".as_slice()).unwrap();
    client.abort();
    assert_eq!(client.close(), Some(Close::Now));
    assert_eq!(client.send_data(b"more", false), Ok(()), "nobody reads it");
}

#[test]
fn lengths_are_kept() {
    for (data, end, error) in [("hello!", false, SendError::TooLong), ("hell", true, SendError::TooShort)] {
        let mut client = Client::new(config());
        client.send_head(&request("POST a/", &[("content-length", "5")]), false).unwrap();
        assert_eq!(client.send_data(data.as_bytes(), end), Err(error));
        assert!(client.close().is_some());
    }
    let mut client = Client::new(config());
    assert_eq!(client.send_head(&request("POST a/", &[("content-length", "5")]), true), Err(SendError::TooShort));
    assert_eq!(client.send_data(b"x", false), Err(SendError::State));
    client.send_head(&get(), true).unwrap();
    assert_eq!(client.send_head(&get(), true), Err(SendError::State), "one at a time");
}

#[test]
fn idle_connections_own_no_buffers() {
    let mut client = Client::new(config());
    for _ in 0..3 {
        client.send_head(&get(), true).unwrap();
        client.output().clear();
        client.output_taken();
        for mut piece in [b"HTTP/1.1 20".as_slice(), b"0 OK\r\ncontent-length: 3\r\n\r\na", b"bc"] {
            while client.next(&mut piece).unwrap().is_some() {}
        }
        assert_eq!(client.memory(), 0);
        assert!(client.reusable());
    }
    assert_eq!(client.exchanges(), 3);
}
