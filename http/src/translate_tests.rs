use super::*;
use crate::h1;
use std::sync::Arc;

fn head(pseudos: &[(Pseudo, &str)], fields: &[(&str, &str)]) -> Head {
    let mut head = Head::default();
    let defaults =
        [(Pseudo::Method, "GET"), (Pseudo::Scheme, "http"), (Pseudo::Path, "/a"), (Pseudo::Authority, "a.test")];
    for (p, v) in defaults.iter().chain(pseudos) {
        head.set_pseudo(*p, v.as_bytes());
    }
    fields.iter().for_each(|(n, v)| head.add(n.as_bytes(), v.as_bytes()));
    head
}

fn names(head: &Head) -> Vec<String> {
    head.fields().map(|(_, n, v)| format!("{}={}", n.escape_ascii(), v.escape_ascii())).collect()
}

#[test]
fn row_25_downgrade_refuses_what_http_1_would_read_differently() {
    for (pseudo, value) in [
        (Pseudo::Method, "GET / HTTP/1.1\r\nhost: b"),
        (Pseudo::Method, ""),
        (Pseudo::Method, "G\0T"),
        (Pseudo::Path, ""),
        (Pseudo::Path, "a"),
        (Pseudo::Path, "*"),
        (Pseudo::Path, "/ HTTP/1.1\r\n\r\nGET /admin"),
        (Pseudo::Path, "/a\tb"),
        (Pseudo::Path, "/a#b"),
        (Pseudo::Path, "http://b/"),
        (Pseudo::Authority, "a\r\nx: y"),
        (Pseudo::Authority, "user@a"),
        (Pseudo::Authority, "a/b"),
        (Pseudo::Authority, "a b"),
        (Pseudo::Scheme, "ftp"),
        (Pseudo::Scheme, "http://a/?"),
        (Pseudo::Protocol, "websocket"),
    ] {
        let refused = request_from_h2(&mut head(&[(pseudo, value)], &[]));
        assert_eq!(refused.map_err(|r| r.status), Err(400), "{pseudo:?} {value:?}");
    }
    for fields in [
        &[("transfer-encoding", "chunked")][..],
        &[("connection", "close")],
        &[("upgrade", "websocket")],
        &[("keep-alive", "1")],
        &[("proxy-connection", "close")],
        &[("te", "gzip")],
        &[("x", "a\r\ntransfer-encoding: chunked")],
        &[("x", "a\nb")],
        &[("x", "a\rb")],
        &[("x", "a\0b")],
        &[("x", " a")],
        &[("x", "a\t")],
        &[("x\r\ny", "a")],
        &[("x: y\r\nz", "a")],
        &[("x ", "a")],
        &[("X", "a")],
        &[("", "a")],
        &[("content-length", "1"), ("content-length", "2")],
        &[("content-length", "1,1")],
        &[("content-length", "+1")],
        &[("host", "b.test")],
        &[("host", "a.test"), ("host", "a.test")],
        &[("host", "a.test\r\n")],
    ] {
        assert_eq!(request_from_h2(&mut head(&[], fields)).map_err(|r| r.status), Err(400), "{fields:?}");
    }
    assert_eq!(offered(&head(&[(Pseudo::Scheme, "HTTPS")], &[])), Ok(()));
    let plain_connect = request_from_h2(&mut head(&[(Pseudo::Method, "CONNECT")], &[]));
    assert_eq!(plain_connect.map_err(|r| r.status), Err(501));
}

/// Whatever passes can be written, and is read back as the same message.
#[test]
fn row_25_what_passes_arrives_as_one_request() {
    let mut h = head(
        &[(Pseudo::Authority, "A.Test.:080")],
        &[
            ("host", "a.test:80"),
            ("cookie", "a=1"),
            ("x", "y; \u{e9}"),
            ("cookie", "b=2"),
            ("te", "trailers"),
            ("expect", "100-continue"),
            ("content-length", "3"),
            ("content-length", "3"),
        ],
    );
    request_from_h2(&mut h).unwrap();
    assert_eq!(h.authority(), b"a.test:80");
    let config = Arc::new(h1::Config::default());
    let mut client = h1::Client::new(config.clone());
    client.send_head(&h, false).unwrap();
    client.send_data(b"abc", true).unwrap();
    let wire = std::mem::take(client.output());
    let mut server = h1::Server::new(config);
    let mut input = &wire[..];
    let Ok(Some(h1::Event::Request { head: read, end: false, info })) = server.next(&mut input) else { panic!() };
    assert!(info.expect_continue && info.te_trailers);
    assert_eq!(
        names(&read),
        ["cookie=a=1; b=2", "x=y; \\xc3\\xa9", "expect=100-continue", "content-length=3", "te=trailers"]
    );
    assert_eq!((read.method(), read.path(), read.authority()), (h.method(), h.path(), h.authority()));
    assert!(matches!(server.next(&mut input), Ok(Some(h1::Event::Data { data: b"abc", end: true }))));
    assert!(input.is_empty());
}

#[test]
fn host_and_authority() {
    let authority = |mut h: Head| request_from_h2(&mut h).map(|()| String::from_utf8_lossy(h.authority()).into_owned());
    let mut only_host = head(&[], &[("host", "B.test")]);
    only_host.remove_pseudo(Pseudo::Authority);
    assert_eq!(authority(only_host).as_deref(), Ok("b.test"));
    assert_eq!(authority(head(&[], &[("host", "A.TEST.")])).as_deref(), Ok("a.test"));
    assert_eq!(authority(head(&[(Pseudo::Authority, "")], &[])).as_deref(), Ok(""), "HTTP/1.0 has none");
}

#[test]
fn towards_http_2() {
    let mut h = head(
        &[(Pseudo::Authority, "")],
        &[
            ("connection", "x"),
            ("host", "b"),
            ("te", "gzip"),
            ("upgrade", "x"),
            ("x", "y"),
            ("transfer-encoding", "chunked"),
        ],
    );
    request_to_h2(&mut h);
    assert_eq!(names(&h), ["x=y"]);
    assert_eq!(h.pseudo(Pseudo::Authority), None);

    let mut answer = Head::default();
    answer.status = 200;
    answer.add(b"connection", b"close");
    answer.add(UPGRADE_IGNORED, b"ignored");
    let mut foreign = answer.clone();
    assert!(!response_to_h2(&mut answer, true));
    assert_eq!(names(&answer), ["weft-upgrade=ignored"]);
    assert!(response_to_h2(&mut foreign, false));
    assert_eq!((foreign.status, names(&foreign).len()), (502, 0));

    assert_eq!(response_from_h2(&mut answer), Ok(()));
    for status in [0, 99, 101, 1000] {
        answer.status = status;
        assert_eq!(response_from_h2(&mut answer).map_err(|r| r.status), Err(502));
    }
    let mut trailer = head(&[], &[("grpc-status", "0"), ("content-length", "1"), ("weft-meta", "x"), ("x", "a\nb")]);
    assert!(trailers(&mut trailer));
    assert_eq!(names(&trailer), ["grpc-status=0"]);
    assert_eq!(routing_method(&head(&[(Pseudo::Method, "CONNECT"), (Pseudo::Protocol, "websocket")], &[])), b"GET");
    assert_eq!(routing_method(&head(&[(Pseudo::Method, "PUT")], &[])), b"PUT");
}
