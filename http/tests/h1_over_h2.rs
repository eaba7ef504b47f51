//! Both codecs as a relay between two sidecars uses them: HTTP/1 from a client, HTTP/2 in between, HTTP/1 to the application, and all the way back.

#![allow(clippy::unwrap_used)]

mod h1_support;
use h1_support::*;
use std::sync::Arc;
use std::time::Instant;
use weft_http::h1::{self, Close};
use weft_http::h2::{self, StreamId};
use weft_http::head::Pseudo;
use weft_http::translate;

/// client -> `down` | `near` ==== `far` | `up` -> application
struct Path {
    down: h1::Server,
    near: h2::Connection<()>,
    far: h2::Connection<()>,
    up: h1::Client,
    near_stream: Option<StreamId>,
    far_stream: Option<StreamId>,
    now: Instant,
    /// What the client and the application have got.
    to_client: Vec<u8>,
    to_application: Vec<u8>,
}

impl Path {
    fn new() -> Path {
        let h2 = Arc::new(h2::Config { extended_connect: true, missing_authority: true, ..Default::default() });
        let mut path = Path {
            down: h1::Server::new(config()),
            near: h2::Connection::client(h2.clone()),
            far: h2::Connection::server(h2),
            up: h1::Client::new(config()),
            near_stream: None,
            far_stream: None,
            now: Instant::now(),
            to_client: Vec::new(),
            to_application: Vec::new(),
        };
        path.turn();
        path
    }
    fn client(&mut self, bytes: &str) {
        let mut input = bytes.as_bytes();
        while let Some(event) = self.down.next(&mut input).unwrap() {
            match event {
                h1::Event::Request { mut head, end, .. } => {
                    translate::request_to_h2(&mut head);
                    self.near_stream = Some(self.near.open(&head, end, ()).unwrap());
                }
                h1::Event::Data { data, end } => drop(self.near.send_data(self.near_stream.unwrap(), data, end)),
                h1::Event::Trailers { head } => drop(self.near.send_trailers(self.near_stream.unwrap(), head)),
                h1::Event::Response { .. } => unreachable!(),
            }
        }
        self.turn();
        if let Some(held) = self.down.take_held() {
            self.client(&String::from_utf8(held).unwrap());
        }
    }
    fn application(&mut self, bytes: &str) {
        let mut input = bytes.as_bytes();
        while let Some(event) = self.up.next(&mut input).unwrap() {
            let stream = self.far_stream.unwrap();
            match event {
                h1::Event::Response { mut head, end, .. } => {
                    translate::response_to_h2(&mut head, true);
                    self.far.send_head(stream, &head, end).unwrap();
                }
                h1::Event::Data { data, end } => drop(self.far.send_data(stream, data, end)),
                h1::Event::Trailers { head } => drop(self.far.send_trailers(stream, head)),
                h1::Event::Request { .. } => unreachable!(),
            }
        }
        self.turn();
    }
    /// Moves bytes until nothing moves.
    fn turn(&mut self) {
        loop {
            let to_far = std::mem::take(self.near.output());
            self.near.output_taken();
            let to_near = std::mem::take(self.far.output());
            self.far.output_taken();
            let mut input = &to_far[..];
            while let Some(event) = self.far.next(&mut input, self.now).unwrap() {
                match event {
                    h2::Event::Request { stream, mut head, end } => {
                        self.far.set_token(stream, ());
                        self.far_stream = Some(stream);
                        translate::request_from_h2(&mut head).unwrap();
                        self.up.send_head(&head, end).unwrap();
                    }
                    h2::Event::Data { stream, data, end, .. } => {
                        self.up.send_data(data, end).unwrap();
                        self.far.release(stream, data.len());
                    }
                    h2::Event::Trailers { head, .. } => self.up.send_trailers(&head).unwrap(),
                    _ => {}
                }
            }
            let mut input = &to_near[..];
            while let Some(event) = self.near.next(&mut input, self.now).unwrap() {
                match event {
                    h2::Event::Response { mut head, end, .. } => {
                        translate::response_from_h2(&mut head).unwrap();
                        self.down.send_head(&head, end).unwrap();
                    }
                    h2::Event::Data { stream, data, end, .. } => {
                        self.down.send_data(data, end).unwrap();
                        self.near.release(stream, data.len());
                    }
                    h2::Event::Trailers { head, .. } => self.down.send_trailers(&head).unwrap(),
                    _ => {}
                }
            }
            while self.near.poll().is_some() || self.far.poll().is_some() {}
            self.to_client.append(self.down.output());
            self.to_application.append(self.up.output());
            if to_far.is_empty() && to_near.is_empty() {
                return;
            }
        }
    }
    fn application_got(&mut self) -> String {
        text(&std::mem::take(&mut self.to_application))
    }
    fn client_got(&mut self) -> String {
        text(&std::mem::take(&mut self.to_client))
    }
}

#[test]
fn a_request_and_its_answer_keep_their_framing() {
    let mut path = Path::new();
    for _ in 0..3 {
        path.client("POST /a?b HTTP/1.1\r\nHost: Shop.Test.\r\nX-One: 1\r\nConnection: x-gone\r\nx-gone: 1\r\nContent-Length: 5\r\nCookie: a=b; c=d\r\n\r\nhello");
        assert_eq!(
            path.application_got(),
            "POST /a?b HTTP/1.1\nhost: shop.test\nx-one: 1\ncontent-length: 5\ncookie: a=b; c=d\n\nhello"
        );
        path.application("HTTP/1.1 200 Fine\r\nX-Two: 2\r\nContent-Length: 2\r\nKeep-Alive: 5\r\n\r\nok");
        assert_eq!(path.client_got(), "HTTP/1.1 200 OK\nx-two: 2\ncontent-length: 2\n\nok");
        assert!(path.up.reusable() && !path.down.is_busy());
    }
}

#[test]
fn chunks_trailers_and_interim_answers() {
    let mut path = Path::new();
    path.client(
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nexpect: 100-continue\r\nte: trailers\r\n\r\n",
    );
    assert_eq!(
        path.application_got(),
        "POST / HTTP/1.1\nhost: a\nexpect: 100-continue\nte: trailers\nconnection: te\ntransfer-encoding: chunked\n\n"
    );
    path.application("HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(path.client_got(), "HTTP/1.1 100 Continue\n\n");
    path.client("5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n");
    assert_eq!(path.application_got(), "5\nhello\n0\nx-sum: 1\n\n");
    path.application("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\ngrpc-status: 0\r\n\r\n");
    assert_eq!(
        path.client_got(),
        "HTTP/1.1 103 Early Hints\nlink: x\n\nHTTP/1.1 200 OK\ntransfer-encoding: chunked\n\n2\nok\n0\ngrpc-status: 0\n\n"
    );
}

#[test]
fn heads_without_bodies() {
    let mut path = Path::new();
    path.client("HEAD / HTTP/1.1\r\nhost: a\r\n\r\n");
    path.application("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n");
    assert_eq!(path.client_got(), "HTTP/1.1 200 OK\ncontent-length: 1000\n\n");
    path.client("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    path.application("HTTP/1.1 304 x\r\ncontent-length: 1000\r\netag: x\r\n\r\n");
    assert_eq!(path.client_got(), "HTTP/1.1 304 Not Modified\ncontent-length: 1000\netag: x\n\n");
    path.client("DELETE / HTTP/1.1\r\nhost: a\r\n\r\n");
    path.application("HTTP/1.1 204 x\r\n\r\n");
    assert_eq!(path.client_got(), "HTTP/1.1 204 No Content\n\n");
    path.client("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n");
    assert!(path.application_got().ends_with("OPTIONS * HTTP/1.1\nhost: a\n\n"));
}

/// HTTP/1.0 without `Host`, an answer that ends with its connection: chunks are nothing for this client.
#[test]
fn an_old_client_and_an_old_application() {
    let mut path = Path::new();
    path.client("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(path.application_got(), "GET / HTTP/1.1\nhost: \n\n");
    path.application("HTTP/1.0 200 OK\r\n\r\nhello");
    let Ok(Some(h1::Event::Data { end: true, .. })) = path.up.eof() else { panic!() };
    path.far.send_data(path.far_stream.unwrap(), b"", true);
    path.turn();
    assert_eq!(path.client_got(), "HTTP/1.1 200 OK\nconnection: close\n\nhello");
    assert_eq!(path.down.close(), Some(Close::Now));
}

#[test]
fn pipelined_requests_take_their_turns() {
    let mut path = Path::new();
    path.client("GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(path.application_got(), "GET /1 HTTP/1.1\nhost: a\n\n");
    path.application("HTTP/1.1 204 x\r\n\r\n");
    path.client("");
    assert_eq!(path.application_got(), "GET /2 HTTP/1.1\nhost: a\n\n");
    path.application("HTTP/1.1 204 x\r\n\r\n");
    assert_eq!(path.client_got(), "HTTP/1.1 204 No Content\n\n".repeat(2));
}

const WEBSOCKET: &str =
    "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n";

#[test]
fn row_24_a_websocket_over_http_2() {
    let mut path = Path::new();
    path.client(WEBSOCKET);
    assert_eq!(
        path.application_got(),
        "GET /chat HTTP/1.1\nhost: a\nconnection: upgrade\nupgrade: websocket\nsec-websocket-key: k\n\n"
    );
    path.application("HTTP/1.1 101 x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: abc\r\n\r\nfrom application");
    assert_eq!(
        path.client_got(),
        "HTTP/1.1 101 Switching Protocols\nconnection: upgrade\nupgrade: websocket\nsec-websocket-accept: abc\n\nfrom application"
    );
    path.client("from client");
    assert_eq!(path.application_got(), "from client");
}

#[test]
fn an_upgrade_that_the_application_ignores() {
    let mut path = Path::new();
    path.client(WEBSOCKET);
    path.application("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno");
    assert_eq!(path.client_got(), "HTTP/1.1 200 OK\ncontent-length: 2\n\nno");
    assert!(!path.down.is_busy() && path.up.reusable());
}

/// A foreign HTTP/2 client says what HTTP/1 would read as more than one request: no application sees a byte of it.
#[test]
fn row_25_nothing_of_a_smuggling_head_reaches_an_application() {
    for (name, value) in [
        ("x", "a\r\ntransfer-encoding: chunked"),
        ("x", "a\nb"),
        ("x", "a\0b"),
        ("x\r\ny", "a"),
        ("x: y\r\nz", "a"),
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
        ("content-length", "1, 1"),
        ("host", "b.test"),
        ("te", "gzip"),
    ] {
        let head = request("GET a.test/x", &[(name, value)]);
        let mut path = Path::new();
        if path.near.open(&head, true, ()).is_ok() {
            path.turn();
        }
        // our own encoder leaves out what belongs to a connection or says the authority twice
        let got = path.application_got();
        let clean = matches!(name, "transfer-encoding" | "connection" | "host" | "te")
            && got == "GET /x HTTP/1.1\nhost: a.test\n\n";
        assert!(got.is_empty() || clean, "{name:?} {value:?} {got}");
    }
    for (pseudo, value) in [
        (Pseudo::Path, "/ HTTP/1.1\r\n\r\nGET /admin"),
        (Pseudo::Path, "/a b"),
        (Pseudo::Path, ""),
        (Pseudo::Method, "GET / HTTP/1.1\r\nx: y\r\n\r\nGET"),
        (Pseudo::Authority, "a\r\nx: y"),
        (Pseudo::Authority, "user@a"),
    ] {
        let mut head = request("GET a.test/x", &[]);
        head.set_pseudo(pseudo, value.as_bytes());
        let mut path = Path::new();
        if path.near.open(&head, true, ()).is_ok() {
            path.turn();
        }
        assert_eq!(path.application_got(), "", "{pseudo:?} {value:?}");
    }
}
