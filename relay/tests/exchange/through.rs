//! Requests on their way through both proxies.

use crate::lab::*;
use weft_relay::Wire;

const GET: &str = "GET /a?b HTTP/1.1\r\nhost: cart\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";

#[test]
fn http1_through_the_mesh_keeps_both_connections() {
    let mut lab = Lab::cart(&[meshed("10.2.0.1:80")]);
    let c = lab.client(Wire::Http1);
    for round in 0..3 {
        lab.send(c, GET);
        let app = lab.app();
        let got = lab.read(app);
        assert!(got.starts_with("GET /a?b HTTP/1.1\r\nhost: cart\r\n"), "{got}");
        assert!(got.contains("weft-client: spiffe://cluster.local/ns/shop/sa/front\r\n"), "{got}");
        assert!(got.contains("traceparent: 00-") && got.contains("x-request-id: "), "{got}");
        assert!(!got.contains("weft-meta"), "{got}");
        lab.send(app, OK);
        let answer = lab.read(c);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nhi"), "{round}: {answer}");
        lab.at_rest();
    }
    // one mesh connection, one to the application
    assert_eq!(lab.dials.len(), 2);
    assert_eq!(lab.total(|s| s.responses[2]), 3);
    assert_eq!(lab.total(|s| s.attempts_succeeded), 3);
    let record = lab.out.take_log().unwrap();
    assert_eq!((&*record.path, record.status, record.attempts), (&b"/a?b"[..], 200, 1));
}

#[test]
fn a_trace_is_carried_on() {
    let mut lab = Lab::cart(&[plain("10.2.0.1:80")]);
    let c = lab.client(Wire::Http1);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    lab.send(c, format!("GET / HTTP/1.1\r\nhost: cart\r\ntraceparent: {trace}\r\nx-request-id: 7\r\n\r\n"));
    let app = lab.app();
    let got = lab.read(app);
    assert!(got.contains(&format!("traceparent: {trace}\r\n")) && got.contains("x-request-id: 7\r\n"), "{got}");
}

#[test]
fn row_29_fields_of_the_mesh_are_believed_from_the_mesh_only() {
    let spoofed = "GET / HTTP/1.1\r\nhost: cart\r\nweft-client: spiffe://evil\r\nWEFT-Meta: 1;h2\r\nweft-error: unprocessed; x\r\n\
                   x-forwarded-client-cert: By=evil\r\nweft-anything: 1\r\n\r\n";
    let mut lab = Lab::cart(&[meshed("10.2.0.1:80")]);
    let c = lab.client(Wire::Http1);
    lab.send(c, spoofed);
    let app = lab.app();
    let got = lab.read(app);
    assert_eq!(got.matches("weft-").count(), 1, "{got}");
    assert!(got.contains("weft-client: spiffe://cluster.local/ns/shop/sa/front\r\n") && !got.contains("evil"), "{got}");
    // the application does not speak for the mesh either
    lab.send(app, "HTTP/1.1 503 No\r\nweft-error: unprocessed; nothing happened\r\ncontent-length: 0\r\n\r\n");
    let answer = lab.read(c);
    assert!(answer.starts_with("HTTP/1.1 503 ") && !answer.contains("weft-error"), "{answer}");
    // a client outside the mesh
    let side = weft_relay::Side::Inbound { app: addr("10.2.0.1:9"), peer: None };
    let c = lab.client_of(At::In, side, Wire::Http1);
    lab.send(c, spoofed);
    let app = lab.app();
    let got = lab.read(app);
    assert!(!got.contains("weft-") && !got.contains("evil"), "{got}");
}

#[test]
fn bodies_chunks_and_trailers() {
    let mut lab = Lab::cart(&[meshed("10.2.0.1:80")]);
    let c = lab.client(Wire::Http1);
    lab.send(c, "POST /up HTTP/1.1\r\nhost: cart\r\nte: trailers\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n");
    let app = lab.app();
    assert!(lab.read(app).ends_with("\r\n5\r\nhello\r\n"));
    lab.send(c, "0\r\nx-sum: 1\r\n\r\n");
    assert_eq!(lab.read(app), "0\r\nx-sum: 1\r\n\r\n");
    lab.send(app, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-end: 2\r\n\r\n");
    let answer = lab.read(c);
    assert!(answer.ends_with("\r\n3\r\nabc\r\n0\r\nx-end: 2\r\n\r\n"), "{answer}");
    lab.at_rest();
}

#[test]
fn expect_continue_and_early_hints() {
    let mut lab = Lab::cart(&[meshed("10.2.0.1:80")]);
    let c = lab.client(Wire::Http1);
    lab.send(c, "POST / HTTP/1.1\r\nhost: cart\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n");
    let app = lab.app();
    assert!(lab.read(app).contains("expect: 100-continue\r\n"));
    lab.send(app, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
    assert_eq!(lab.read(c), "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
    lab.send(c, "abc");
    assert_eq!(lab.read(app), "abc");
    lab.send(app, OK);
    assert!(lab.read(c).ends_with("hi"));
    lab.at_rest();
}

#[test]
fn an_early_answer_ends_the_upload() {
    let mut lab = Lab::cart(&[meshed("10.2.0.1:80")]);
    let c = lab.client(Wire::Http1);
    lab.send(c, "POST / HTTP/1.1\r\nhost: cart\r\ncontent-length: 100000\r\n\r\nabc");
    let app = lab.app();
    lab.send(app, "HTTP/1.1 413 No\r\ncontent-length: 0\r\n\r\n");
    let answer = lab.read(c);
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("connection: close\r\n"), "{answer}");
    assert!(lab.peers[c].closed.is_some());
    // a half-sent request's connection serves nobody else
    assert!(lab.peers[app].closed.is_some());
    lab.at_rest();
}

#[test]
fn websocket_through_the_mesh() {
    let mut lab = Lab::cart(&[meshed("10.2.0.1:80")]);
    let c = lab.client(Wire::Http1);
    lab.send(
        c,
        "GET /ws HTTP/1.1\r\nhost: cart\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    let app = lab.app();
    let got = lab.read(app);
    assert!(
        got.contains("upgrade: websocket\r\n") && got.contains("sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
        "{got}"
    );
    lab.send(
        app,
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nserver first",
    );
    let answer = lab.read(c);
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.ends_with("\r\n\r\nserver first"), "{answer}");
    assert!(answer.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
    lab.send(c, "GET / HTTP/1.1\r\n\r\n");
    assert_eq!(lab.read(app), "GET / HTTP/1.1\r\n\r\n", "bytes of a tunnel are never parsed");
    lab.send(app, "bye");
    lab.eof(app);
    assert_eq!(lab.read(c), "bye");
    assert!(lab.peers[c].closed.is_some());
    lab.at_rest();
    assert_eq!(lab.total(|s| s.responses[1]), 1);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let mut lab = Lab::cart(&[meshed("10.2.0.1:80")]);
    let c = lab.client(Wire::Http1);
    lab.send(c, format!("{GET}GET /second HTTP/1.1\r\nhost: cart\r\n\r\n"));
    let app = lab.app();
    assert!(!lab.read(app).contains("/second"));
    lab.send(app, OK);
    assert!(lab.read(app).starts_with("GET /second "));
    lab.send(app, "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n2");
    let answers = lab.read(c);
    assert!(answers.ends_with('2') && answers.matches("HTTP/1.1 200").count() == 2, "{answers}");
    lab.at_rest();
}

#[test]
fn a_half_closed_client_gets_its_answer() {
    let mut lab = Lab::cart(&[meshed("10.2.0.1:80")]);
    let c = lab.client(Wire::Http1);
    lab.send(c, GET);
    lab.eof(c);
    lab.pass(ms(500));
    let app = lab.app();
    lab.send(app, OK);
    assert!(lab.read(c).ends_with("hi"));
    assert!(lab.peers[c].closed.is_some());
    lab.at_rest();
}

#[test]
fn row_31_requests_that_lead_nowhere() {
    let get = |lab: &mut Lab| {
        let c = lab.client(Wire::Http1);
        lab.send(c, GET);
        lab.read(c)
    };
    let mut lab = Lab::new();
    assert!(get(&mut lab).starts_with("HTTP/1.1 503 "));
    let mut lab = Lab::cart(&[]);
    let answer = get(&mut lab);
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("0 of 0 endpoints ready"), "{answer}");
    // a rule that does not match
    let mut other = rule(&[("cart", 1)]);
    other.matches = weft_core::route::RuleMatches::Http(vec![weft_core::matches::HttpMatch {
        path: weft_core::matches::PathMatch::Exact("/other".into()),
        ..Default::default()
    }]);
    let mut lab = Lab::ruled(&[plain("10.2.0.1:80")], other);
    assert!(get(&mut lab).starts_with("HTTP/1.1 404 "));
    for backends in [vec![], vec![("cart", 0)]] {
        let mut lab = Lab::ruled(&[plain("10.2.0.1:80")], rule(&backends));
        let answer = get(&mut lab);
        assert!(answer.starts_with("HTTP/1.1 500 ") && answer.contains("weft-error: "), "{answer}");
        lab.at_rest();
    }
    let mut invalid = rule(&[("cart", 1)]);
    invalid.backends[0].backend =
        weft_core::route::BackendRef::Invalid(weft_core::cause::Invalid::BackendNotFound("x".into()));
    let mut lab = Lab::ruled(&[plain("10.2.0.1:80")], invalid);
    assert!(get(&mut lab).starts_with("HTTP/1.1 500 "));
}

#[test]
fn filters_redirects_and_rewrites() {
    use weft_core::filter::*;
    let mut r = rule(&[("cart", 1)]);
    r.filters.request_headers =
        Some(HeaderModifier { set: vec![("x-set".into(), "1".into())], add: vec![], remove: vec!["x-gone".into()] });
    r.filters.response_headers =
        Some(HeaderModifier { set: vec![], add: vec![("x-more".into(), "2".into())], remove: vec![] });
    r.filters.rewrite =
        Some(UrlRewrite { hostname: Some("new".into()), path: Some(PathModifier::ReplaceFullPath("/new".into())) });
    let mut lab = Lab::ruled(&[meshed("10.2.0.1:80")], r);
    let c = lab.client(Wire::Http1);
    lab.send(c, "GET /a?b HTTP/1.1\r\nhost: cart\r\nx-gone: 1\r\n\r\n");
    let app = lab.app();
    let got = lab.read(app);
    assert!(got.starts_with("GET /new?b HTTP/1.1\r\nhost: new\r\n"), "{got}");
    assert!(got.contains("x-set: 1\r\n") && !got.contains("x-gone"), "{got}");
    lab.send(app, OK);
    assert!(lab.read(c).contains("x-more: 2\r\n"));

    let mut r = rule(&[]);
    r.filters.redirect = Some(Redirect { hostname: Some("elsewhere".into()), status: 301, ..Redirect::default() });
    let mut lab = Lab::ruled(&[], r);
    let c = lab.client(Wire::Http1);
    lab.send(c, GET);
    let answer = lab.read(c);
    assert!(answer.starts_with("HTTP/1.1 301 ") && answer.contains("location: http://elsewhere/a?b\r\n"), "{answer}");
    lab.at_rest();
}

#[test]
fn mirrors_answer_nobody_and_slow_nobody() {
    let mut r = rule(&[("cart", 1)]);
    let to = weft_core::route::BackendRef::Service(service("shadow"));
    r.filters.mirrors = vec![weft_core::filter::Mirror { backend: to, numerator: 1, denominator: 1 }];
    let mut lab = Lab::ruled(&[plain("10.2.0.1:80")], r);
    lab.endpoints("shadow", &[plain("10.3.0.1:80")]);
    let c = lab.client(Wire::Http1);
    lab.send(c, "POST /a HTTP/1.1\r\nhost: cart\r\ncontent-length: 5\r\n\r\nhello");
    let apps = lab.apps();
    let by = |lab: &Lab, a: &str| *apps.iter().find(|p| lab.peers[**p].address == Some(addr(a))).unwrap();
    let (main, shadow) = (by(&lab, "10.2.0.1:80"), by(&lab, "10.3.0.1:80"));
    assert!(lab.read(main).ends_with("\r\n\r\nhello"));
    assert!(lab.read(shadow).ends_with("\r\n\r\nhello"));
    lab.send(main, OK);
    assert!(lab.read(c).ends_with("hi"), "the answer does not wait for the mirror");
    lab.send(shadow, "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(lab.read(c), "");
    lab.at_rest();
    assert_eq!((lab.total(|s| s.mirrors), lab.total(|s| s.mirrors_dropped), lab.total(|s| s.responses[2])), (1, 0, 1));
}
