//! Upgrades: extended CONNECT inside, `Upgrade` and 101 outside; early data is never a request.
#![allow(clippy::unwrap_used)]

mod h1_support;
use h1_support::*;
use weft_http::h1::{Client, Close, Event, SendError, Server, UPGRADE_IGNORED, Waiting};
use weft_http::head::{Head, Pseudo};

const WEBSOCKET: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const NEXT: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

fn connect(fields: &[(&str, &str)]) -> Head {
    let mut head = request("CONNECT a/chat", fields);
    head.set_pseudo(Pseudo::Protocol, b"websocket");
    head
}

#[test]
fn a_websocket_through_both_codecs() {
    let mut server = Server::new(config());
    let Ok(Some(Event::Request { head, end: false, info })) = server.next(&mut WEBSOCKET.as_bytes()) else { panic!() };
    assert!(info.upgrade);
    assert_eq!(
        head_text(&head),
        "CONNECT a/chat :protocol=websocket sec-websocket-key=dGhlIHNhbXBsZSBub25jZQ== sec-websocket-version=13"
    );
    let mut client = Client::new(config());
    client.send_head(&head, false).unwrap();
    assert_eq!(
        text(client.output()),
        "GET /chat HTTP/1.1\nhost: a\nconnection: upgrade\nupgrade: websocket\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\nsec-websocket-version: 13\n\n"
    );
    let mut answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: abc\r\n\r\n\x81\x01a".as_slice();
    let Ok(Some(Event::Response { head, end: false, upgraded: true })) = client.next(&mut answer) else { panic!() };
    assert_eq!(head_text(&head), "200 sec-websocket-accept=abc");
    assert!(matches!(client.next(&mut answer), Ok(Some(Event::Data { data: b"\x81\x01a", end: false }))));
    server.send_head(&head, false).unwrap();
    server.send_data(b"\x81\x01a", false).unwrap();
    assert_eq!(
        text(server.output()),
        "HTTP/1.1 101 Switching Protocols\nconnection: upgrade\nupgrade: websocket\nsec-websocket-accept: abc\n\n\\x81\\x01a"
    );
    // what looks like requests is data now, both ways
    assert!(
        matches!(server.next(&mut NEXT.as_bytes()), Ok(Some(Event::Data { end: false, data })) if data == NEXT.as_bytes())
    );
    assert_eq!((server.waiting(), client.waiting()), (Waiting::Tunnel, Waiting::Tunnel));
    client.output().clear();
    client.send_data(b"GET", false).unwrap();
    assert_eq!(client.output(), b"GET");
    // the client leaves: the application must learn it
    assert!(matches!(server.eof(), Ok(Some(Event::Data { data: b"", end: true }))));
    assert_eq!(server.close(), None);
    client.send_data(b"", true).unwrap();
    assert_eq!(client.close(), Some(Close::Linger));
    server.send_data(b"", true).unwrap();
    assert_eq!(server.close(), Some(Close::Now));
    assert!(!client.reusable());
}

#[test]
fn row_09_early_data_waits_and_is_data() {
    let seen = serve(format!("{WEBSOCKET}{NEXT}"));
    assert_eq!(seen.requests(), 1);
    assert!(seen.has("data GET /smuggled"), "{seen:?}");
    let mut server = Server::new(config());
    let early = format!("{WEBSOCKET}{NEXT}");
    let mut input = early.as_bytes();
    server.next(&mut input).unwrap();
    assert!(matches!(server.next(&mut input), Ok(None)));
    assert!(server.take_held().is_none(), "not before the answer");
    server.send_head(&response(200, &[]), false).unwrap();
    let held = server.take_held().unwrap();
    assert_eq!(held, NEXT.as_bytes());
}

#[test]
fn an_application_that_leaves_a_tunnel() {
    let mut client = Client::new(config());
    client.send_head(&connect(&[("sec-websocket-key", "k")]), false).unwrap();
    client.next(&mut b"HTTP/1.1 101 x\r\nupgrade: websocket\r\n\r\n".as_slice()).unwrap();
    assert!(matches!(client.eof(), Ok(Some(Event::Data { data: b"", end: true }))));
    client.send_data(b"", true).unwrap();
    assert_eq!(client.close(), Some(Close::Now));
    let mut server = Server::new(config());
    server.next(&mut WEBSOCKET.as_bytes()).unwrap();
    server.send_head(&response(200, &[]), false).unwrap();
    server.send_data(b"bye", true).unwrap();
    assert_eq!(server.close(), Some(Close::Linger));
}

#[test]
fn a_client_that_shuts_down_before_the_switch() {
    let mut server = Server::new(config());
    server.next(&mut WEBSOCKET.as_bytes()).unwrap();
    assert!(matches!(server.eof(), Ok(None)) && server.take_held().is_none());
    server.send_head(&response(200, &[]), false).unwrap();
    let held = server.take_held().unwrap();
    assert!(matches!(server.next(&mut &held[..]), Ok(Some(Event::Data { data: b"", end: true }))));
    assert!(server.take_held().is_none());
    server.send_data(b"bye", true).unwrap();
    assert_eq!(server.close(), Some(Close::Now));
}

#[test]
fn row_09_early_data_of_a_refused_upgrade_is_never_a_request() {
    for early in [true, false] {
        let mut server = Server::new(config());
        server.next(&mut WEBSOCKET.as_bytes()).unwrap();
        if early {
            server.next(&mut NEXT.as_bytes()).unwrap();
        }
        let mut refusal = response(200, &[("content-length", "2")]);
        refusal.add(UPGRADE_IGNORED, b"ignored");
        server.send_head(&refusal, false).unwrap();
        server.send_data(b"no", true).unwrap();
        assert!(server.take_held().is_none());
        let wire = text(server.output());
        assert_eq!(wire.contains("connection: close"), early, "{wire}");
        assert_eq!(server.close(), early.then_some(Close::Linger));
        if !early {
            assert!(matches!(server.next(&mut NEXT.as_bytes()), Ok(Some(Event::Request { .. }))));
        }
    }
}

#[test]
fn row_09_switching_that_nobody_asked_for() {
    let answer =
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
    let seen = ask(&request("GET a/", &[]), answer);
    assert_eq!(seen.lines, ["error 502 101 without having asked for it", "not reusable"]);
    let seen = ask(&connect(&[]), answer.replace("websocket", "other"));
    assert_eq!(seen.lines[0], "error 502 switched to another protocol than asked for");
    assert!(ask(&connect(&[]), "HTTP/1.1 101 x\r\n\r\n").has("error 502"));
}

#[test]
fn row_24_other_offers_are_ignored_cleanly() {
    for (fields, body) in [
        ("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n", ""),
        ("Connection: Upgrade\r\nUpgrade: TLS/1.0, HTTP/2.0\r\n", ""),
        ("Upgrade: websocket\r\n", ""), // without `Connection` it is not for us
        ("Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n", "x"), // a body has no place in extended CONNECT
        ("Connection: Upgrade\r\nUpgrade: \r\n", ""),
        ("Connection: Upgrade\r\n", ""),
    ] {
        let seen = serve(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}{NEXT}"));
        assert_eq!(seen.requests(), 2, "{seen:?}");
        assert!(!seen.has("protocol") && !seen.has("upgrade=") && !seen.has("http2-settings"), "{seen:?}");
    }
    assert!(!serve("POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").has("protocol"));
    assert!(!serve("GET / HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").has("protocol"));
    assert!(
        serve("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c, Bar/2, Foo\r\n\r\n")
            .has(":protocol=foo")
    );
}

#[test]
fn an_application_that_ignores_the_upgrade() {
    let seen = ask(
        &connect(&[("sec-websocket-key", "k")]),
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nweft-upgrade: forged\r\n\r\nno",
    );
    assert_eq!(seen.lines, ["response 200 content-length=2 weft-upgrade=ignored", "data no", "end", "reusable"]);
    let seen = ask(&connect(&[("sec-websocket-key", "k")]), "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(seen.lines, ["response 403 content-length=0 end", "reusable"]);
}

/// A client of HTTP/2 has no key; an application of HTTP/2 has no accept.
#[test]
fn handshake_fields_are_made_where_one_side_has_none() {
    let mut client = Client::new(config());
    client.send_head(&connect(&[]), false).unwrap();
    let wire = text(client.output());
    assert!(wire.contains("\nsec-websocket-key: ") && wire.contains("\nsec-websocket-version: 13\n"), "{wire}");
    client.output().clear();
    client.send_data(b"early", false).unwrap();
    assert!(client.output().is_empty(), "nothing before the answer");
    let mut answer = b"HTTP/1.1 101 x\r\nupgrade: websocket\r\nsec-websocket-accept: abc\r\n\r\n".as_slice();
    let Ok(Some(Event::Response { head, upgraded: true, .. })) = client.next(&mut answer) else { panic!() };
    assert_eq!(head_text(&head), "200");
    assert_eq!(client.output(), b"early");

    let mut server = Server::new(config());
    server.next(&mut WEBSOCKET.as_bytes()).unwrap();
    server.send_head(&response(200, &[]), false).unwrap();
    assert!(text(server.output()).contains("\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\n"));
}

#[test]
fn early_data_towards_the_application_is_bounded() {
    let mut client = Client::new(config());
    client.send_head(&connect(&[]), false).unwrap();
    client.send_data(&[0; 64 * 1024], false).unwrap();
    assert_eq!(client.send_data(b"x", false), Err(SendError::TooLong));
    let mut client = Client::new(config());
    assert_eq!(client.send_head(&request("CONNECT a/", &[]), true), Err(SendError::Field));
    let mut odd = request("GET a/", &[]);
    odd.set_pseudo(Pseudo::Protocol, b"websocket");
    assert_eq!(client.send_head(&odd, true), Err(SendError::Field));
    let mut odd = connect(&[]);
    odd.set_pseudo(Pseudo::Protocol, b"web socket\r\n");
    assert_eq!(client.send_head(&odd, false), Err(SendError::Field));
}
