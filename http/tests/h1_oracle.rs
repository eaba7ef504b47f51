//! hyper as an oracle: whatever we accept, hyper reads as the same messages. We may refuse more (that is the point of being strict), never less, and
//! never something else.
#![allow(clippy::unwrap_used)]

mod h1_support;
use bytes::Bytes;
use h1_support::*;
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::TokioIo;
use proptest::collection::vec;
use proptest::prelude::*;
use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_http::h1::{Client, Event};
use weft_http::head::Pseudo;

#[derive(Clone, Debug, PartialEq, Eq, Default)]
struct Message {
    /// Method and path, or the status.
    line: String,
    body: Vec<u8>,
    complete: bool,
}

fn ours(bytes: &[u8]) -> (Vec<Message>, bool) {
    struct Seen(Vec<Message>);
    impl Seen {
        fn on(&mut self, event: &Event<'_>) -> bool {
            match event {
                Event::Request { head, end, .. } => {
                    let path = String::from_utf8_lossy(head.path()).into_owned();
                    let line = format!("{} {path}", String::from_utf8_lossy(head.method()));
                    self.0.push(Message { line, complete: *end, ..Default::default() });
                }
                Event::Data { data, end } => {
                    let m = self.0.last_mut().unwrap();
                    m.body.extend_from_slice(data);
                    m.complete = *end;
                }
                Event::Trailers { .. } => self.0.last_mut().unwrap().complete = true,
                Event::Response { .. } => unreachable!(),
            }
            self.0.last().unwrap().complete
        }
    }
    let mut seen = Seen(Vec::new());
    let mut server = weft_http::h1::Server::new(config());
    let mut failed = false;
    let mut next = Some(bytes.to_vec());
    while let Some(all) = next.take() {
        let mut input = &all[..];
        loop {
            match server.next(&mut input) {
                Ok(Some(event)) => {
                    if seen.on(&event) {
                        server.send_head(&response(200, &[]), true).unwrap();
                    }
                }
                Ok(None) => break,
                Err(_) => {
                    failed = true;
                    break;
                }
            }
        }
        next = server.take_held();
    }
    (seen.0, failed)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

fn hypers(bytes: &[u8]) -> Vec<Message> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let log = seen.clone();
    runtime().block_on(async move {
        let (mut peer, io) = tokio::io::duplex(1 << 20);
        peer.write_all(bytes).await.unwrap();
        peer.shutdown().await.unwrap();
        let service = hyper::service::service_fn(move |r: hyper::Request<hyper::body::Incoming>| {
            let log = log.clone();
            async move {
                let path = r.uri().path_and_query().map_or("", |p| p.as_str());
                let at = log.borrow().len();
                log.borrow_mut().push(Message { line: format!("{} {path}", r.method()), ..Default::default() });
                let mut body = r.into_body();
                while let Some(frame) = body.frame().await {
                    let Ok(frame) = frame else {
                        return Ok::<_, Infallible>(hyper::Response::new(Empty::<Bytes>::new()));
                    };
                    if let Ok(data) = frame.into_data() {
                        log.borrow_mut()[at].body.extend_from_slice(&data);
                    }
                }
                log.borrow_mut()[at].complete = true;
                Ok(hyper::Response::new(Empty::<Bytes>::new()))
            }
        });
        let connection =
            hyper::server::conn::http1::Builder::new().half_close(true).serve_connection(TokioIo::new(io), service);
        let mut sink = Vec::new();
        let (_, _) = tokio::join!(connection, peer.read_to_end(&mut sink));
    });
    seen.take()
}

const LINES: &[&str] = &[
    "GET /a HTTP/1.1\r\nHost: a\r\n",
    "GET /b?c HTTP/1.1\r\nHost: a\r\n",
    "POST /d HTTP/1.1\r\nHost: a\r\n",
    "POST /e HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n",
    "POST /f HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n",
    "HEAD /g HTTP/1.0\r\n",
    "PUT /h HTTP/1.0\r\nConnection: keep-alive\r\n",
    "GET http://b/i HTTP/1.1\r\nHost: a\r\n",
];
const FIELDS: &[&str] = &[
    "X: y\r\n",
    "X:\r\n",
    "X: \t y \r\n",
    "Connection: close\r\n",
    "Connection: keep-alive\r\n",
    "Content-Length: 3\r\n",
    "Content-Length: 03\r\n",
    "Content-Length: +3\r\n",
    "Content-Length: 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Transfer-Encoding: identity\r\n",
    "Transfer-Encoding : chunked\r\n",
    "Expect: 100-continue\r\n",
    " folded\r\n",
    "X: y\n",
];
const BODIES: &[&str] = &[
    "hello",
    "abc",
    "\r\n",
    "5\r\nhello\r\n",
    "3;x\r\nabc\r\n",
    "3 ;x=\"y\"\r\nabc\r\n",
    "0003\r\nabc\r\n",
    "A\r\n0123456789\r\n",
    "0\r\n\r\n",
    "0\r\n\r\n",
    "0\r\nX: y\r\n\r\n",
    "3 \r\nabc\r\n",
    "-3\r\nabc\r\n",
    "3\nabc\n",
];

/// Messages that are mostly right, with a byte changed now and then.
fn requests() -> impl Strategy<Value = Vec<u8>> {
    let select = proptest::sample::select::<&str>;
    let fields = prop_oneof![3 => Just(vec![]), 1 => vec(select(FIELDS), 1..3)];
    let bodies = prop_oneof![2 => Just(vec![]), 1 => vec(select(BODIES), 1..4)];
    let message = (select(LINES), fields, bodies).prop_map(|(l, f, b)| {
        let mut bytes = format!("{l}{}\r\n", f.concat());
        // what the framing of the line asks for
        bytes += match l {
            l if l.contains("chunked") && b.is_empty() => "5\r\nhello\r\n0\r\n\r\n",
            l if l.contains("Length: 5") && b.is_empty() => "hello",
            _ => "",
        };
        bytes + &b.concat()
    });
    let mutation = proptest::option::weighted(
        0.2,
        (any::<proptest::sample::Index>(), proptest::sample::select(&b"\r\n :;0a,\0\t"[..])),
    );
    (vec(message, 1..4), mutation).prop_map(|(m, mutation)| {
        let mut bytes = m.concat().into_bytes();
        if let Some((at, byte)) = mutation {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn requests_that_we_accept_are_the_same_to_hyper(bytes in requests()) {
        let (ours, failed) = ours(&bytes);
        let theirs = hypers(&bytes);
        let complete: Vec<_> = ours.iter().filter(|m| m.complete).collect();
        let common = complete.len().min(theirs.len());
        for (a, b) in complete.iter().zip(&theirs) {
            prop_assert_eq!(*a, b, "{}", text(&bytes));
        }
        prop_assert_eq!(common, complete.len(), "hyper refuses what we accept: {}\n{:?}\n{:?}", text(&bytes), ours, theirs);
        if !failed {
            let both: Vec<_> = theirs.iter().filter(|m| m.complete).collect();
            prop_assert_eq!(both.len(), complete.len(), "hyper sees more, and we saw no fault: {}", text(&bytes));
        }
    }
}

fn our_response(bytes: &[u8], method: &str) -> Result<Message, ()> {
    let mut client = Client::new(config());
    client.send_head(&request(&format!("{method} a/"), &[]), true).unwrap();
    let mut input = bytes;
    let mut m = Message::default();
    let mut on = |event: Event<'_>| match event {
        Event::Response { head, end, .. } if head.status >= 200 => {
            (m.line, m.complete) = (head.status.to_string(), end)
        }
        Event::Data { data, end } => {
            m.body.extend_from_slice(data);
            m.complete = end;
        }
        Event::Trailers { .. } => m.complete = true,
        _ => {}
    };
    while let Some(event) = client.next(&mut input).map_err(drop)? {
        on(event);
    }
    if let Some(event) = client.eof().map_err(drop)? {
        on(event);
    }
    Ok(m)
}

fn their_response(bytes: &[u8], method: &str) -> Option<Message> {
    runtime().block_on(async move {
        let (mut peer, io) = tokio::io::duplex(1 << 20);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(io)).await.ok()?;
        let asked = hyper::Request::builder().method(method).uri("/").header("host", "a").body(Full::default()).ok()?;
        let exchange = async move {
            let answer = sender.send_request(asked).await.ok()?;
            let line = answer.status().as_u16().to_string();
            let body = answer.into_body().collect().await;
            drop(sender);
            let complete = body.is_ok();
            Some(Message { line, body: body.map(|b| b.to_bytes().to_vec()).unwrap_or_default(), complete })
        };
        let peer = async move {
            let mut first = [0; 4096];
            let _ = peer.read(&mut first).await; // the request; then hyper expects an answer
            let _ = peer.write_all(bytes).await;
            let _ = peer.shutdown().await;
            let mut sink = Vec::new();
            let _ = peer.read_to_end(&mut sink).await;
        };
        let (_, message, ()) = tokio::join!(connection, exchange, peer);
        message
    })
}

const ANSWERS: &[&str] = &[
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.0 200 OK\r\n",
    "HTTP/1.1 204 No\r\n",
    "HTTP/1.1 304 No\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 103 x\r\nlink: y\r\n\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 3\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Connection: close\r\n",
    "X: y\r\n",
    "\r\n",
    "\r\n",
    "\r\n",
    "hello",
    "abc",
    "5\r\nhello\r\n",
    "3;x\r\nabc\r\n",
    "0\r\n\r\n",
    "0\r\nx: y\r\n\r\n",
    "\n",
    " ",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn answers_that_we_accept_are_the_same_to_hyper(start in 0..6usize, words in vec(proptest::sample::select(ANSWERS), 1..9), head in any::<bool>()) {
        let bytes = format!("{}{}", ANSWERS[start], words.concat()).into_bytes();
        let method = if head { "HEAD" } else { "GET" };
        if let Ok(m) = our_response(&bytes, method)
            && m.complete
        {
            let theirs = their_response(&bytes, method);
            prop_assert_eq!(Some(m), theirs, "{}", text(&bytes));
        }
    }
}

/// The other way: hyper's client is answered by our server, and hyper's server by our client, bytes only.
#[test]
fn hyper_reads_what_we_write() {
    let mut head = request("POST a.test/x?y", &[("x-one", "1"), ("cookie", "a"), ("cookie", "b")]);
    head.set_pseudo(Pseudo::Scheme, b"http");
    let mut client = Client::new(config());
    client.send_head(&head, false).unwrap();
    client.send_data(b"hello ", false).unwrap();
    client.send_data(b"world", true).unwrap();
    let mut wire = std::mem::take(client.output());
    client = Client::new(config());
    client.send_head(&request("GET a.test/2", &[]), true).unwrap();
    wire.append(client.output());
    let seen = hypers(&wire);
    assert_eq!(seen.len(), 2);
    assert_eq!((&*seen[0].line, &*seen[0].body), ("POST /x?y", &b"hello world"[..]));
    assert_eq!(seen[1].line, "GET /2");

    for (answer_head, pieces) in
        [(&[("content-length", "5")][..], &["he", "llo"][..]), (&[], &["he", "llo"]), (&[], &[])]
    {
        let mut server = weft_http::h1::Server::new(config());
        server.next(&mut b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".as_slice()).unwrap();
        server.send_head(&response(103, &[("link", "x")]), false).unwrap();
        server.send_head(&response(200, answer_head), false).unwrap();
        pieces.iter().for_each(|p| server.send_data(p.as_bytes(), false).unwrap());
        server.send_data(b"", true).unwrap();
        let m = their_response(server.output(), "GET").unwrap();
        assert_eq!((&*m.line, m.body, m.complete), ("200", pieces.concat().into_bytes(), true));
    }
}
