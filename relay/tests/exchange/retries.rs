//! What is tried again, what is not, and how long anything may take.

use crate::lab::*;
use weft_relay::{DialError, Wire};

const GET: &str = "GET / HTTP/1.1\r\nhost: cart\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
const E503: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";

#[test]
fn row_34_two_failures_and_a_success() {
    let mut r = rule(&[("cart", 1)]);
    r.retry = retry(&[503], 2, 10);
    let mut lab = Lab::ruled(&[meshed("10.2.0.1:80"), meshed("10.2.0.2:80")], r);
    let c = lab.client(Wire::Http1);
    lab.send(c, GET);
    for _ in 0..2 {
        let app = asked(&mut lab);
        lab.send(app, E503);
        assert_eq!(lab.read(c), "");
        lab.pass(ms(25));
    }
    let app = asked(&mut lab);
    lab.send(app, OK);
    assert!(lab.read(c).starts_with("HTTP/1.1 200 "));
    assert_eq!((lab.total(|s| s.retries), lab.total(|s| s.attempts), lab.total(|s| s.attempts_succeeded)), (2, 3, 1));
    lab.at_rest();
}

#[test]
fn the_last_listed_code_is_the_answer() {
    let mut r = rule(&[("cart", 1)]);
    r.retry = retry(&[503], 1, 1);
    let mut lab = Lab::ruled(&[plain("10.2.0.1:80")], r);
    let c = lab.client(Wire::Http1);
    lab.send(c, GET);
    for _ in 0..2 {
        let app = asked(&mut lab);
        lab.send(app, E503);
        lab.pass(ms(5));
    }
    assert!(lab.read(c).starts_with("HTTP/1.1 503 "));
    assert!(nobody_asked(&lab));
    lab.at_rest();
}

#[test]
fn a_listed_code_during_the_upload_replays_it() {
    let mut r = rule(&[("cart", 1)]);
    r.retry = retry(&[503], 1, 0);
    let mut lab = Lab::ruled(&[meshed("10.2.0.1:80"), meshed("10.2.0.2:80")], r);
    let c = lab.client(Wire::Http1);
    lab.send(c, "POST / HTTP/1.1\r\nhost: cart\r\ncontent-length: 10\r\n\r\nhello");
    let first = asked(&mut lab);
    lab.send(first, E503);
    lab.pass(ms(1));
    lab.send(c, "world");
    let second = *lab.apps().last().unwrap();
    assert_ne!(first, second);
    assert!(lab.read(second).ends_with("\r\n\r\nhelloworld"));
    lab.send(second, OK);
    assert!(lab.read(c).starts_with("HTTP/1.1 200 "));
    lab.at_rest();
}

#[test]
fn row_35_what_was_not_kept_is_not_sent_again() {
    let mut r = rule(&[("cart", 1)]);
    r.retry = retry(&[503], 3, 0);
    let mut lab = Lab::ruled(&[plain("10.2.0.1:80")], r);
    let c = lab.client(Wire::Http1);
    lab.send(c, "POST / HTTP/1.1\r\nhost: cart\r\ncontent-length: 70000\r\n\r\n");
    lab.send(c, vec![b'x'; 40_000]);
    lab.send(c, vec![b'x'; 30_000]);
    let app = asked(&mut lab);
    lab.send(app, E503);
    assert!(lab.read(c).starts_with("HTTP/1.1 503 "));
    assert!(nobody_asked(&lab));
    let not: Vec<_> =
        lab.out.shared().registry.snapshot().series.iter().flat_map(|(_, s)| s.not_retried.clone()).collect();
    assert_eq!(not, [("body_not_kept", 1)]);
    lab.at_rest();
}

#[test]
fn row_36_the_request_timeout_ends_a_backoff() {
    let mut r = rule(&[("cart", 1)]);
    r.retry = retry(&[503], 5, 10_000);
    r.timeouts.request = Some(ms(50));
    let mut lab = Lab::ruled(&[plain("10.2.0.1:80")], r.clone());
    let c = lab.client(Wire::Http1);
    lab.send(c, GET);
    let app = asked(&mut lab);
    lab.send(app, E503);
    lab.pass(ms(49));
    assert_eq!(lab.read(c), "");
    lab.pass(ms(2));
    let answer = lab.read(c);
    assert!(answer.starts_with("HTTP/1.1 504 ") && answer.contains("timeouts.request"), "{answer}");
    assert!(nobody_asked(&lab));
    // the second try is cancelled, not only the first
    r.retry = retry(&[503], 5, 1);
    let mut lab = Lab::ruled(&[meshed("10.2.0.1:80")], r);
    let c = lab.client(Wire::Http1);
    lab.send(c, GET);
    let app = asked(&mut lab);
    lab.send(app, E503);
    lab.pass(ms(10));
    let second = asked(&mut lab);
    lab.pass(ms(45));
    assert!(lab.read(c).starts_with("HTTP/1.1 504 "));
    assert!(lab.peers[second].closed.is_some(), "the application's connection is closed");
    assert_eq!(lab.total(|s| s.timeouts), 1);
    lab.at_rest();
}

#[test]
fn timeouts_bound_the_response_body_too() {
    let mut r = rule(&[("cart", 1)]);
    r.timeouts.request = Some(ms(50));
    let mut lab = Lab::ruled(&[meshed("10.2.0.1:80")], r);
    let c = lab.client(Wire::Http1);
    lab.send(c, GET);
    let app = asked(&mut lab);
    lab.send(app, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello");
    lab.pass(ms(51));
    assert!(lab.read(c).ends_with("hello"));
    assert!(lab.peers[c].at.is_none(), "cut off");
    lab.at_rest();
}

#[test]
fn row_37_an_attempt_that_takes_too_long_is_tried_elsewhere() {
    let mut r = rule(&[("cart", 1)]);
    r.retry = retry(&[], 1, 0);
    r.timeouts.backend_request = Some(ms(20));
    let mut lab = Lab::ruled(&[meshed("10.2.0.1:80"), meshed("10.2.0.2:80")], r.clone());
    let c = lab.client(Wire::Http1);
    lab.send(c, GET);
    let slow = asked(&mut lab);
    lab.pass(ms(21));
    let other = asked(&mut lab);
    assert_ne!(lab.peers[slow].address, lab.peers[other].address);
    lab.send(other, OK);
    assert!(lab.read(c).starts_with("HTTP/1.1 200 "));
    assert_eq!(lab.total(|s| s.attempt_timeouts), 1);
    lab.at_rest();
    // without `retry` it is the answer
    r.retry = None;
    let mut lab = Lab::ruled(&[meshed("10.2.0.1:80")], r);
    let c = lab.client(Wire::Http1);
    lab.send(c, GET);
    lab.pass(ms(21));
    assert!(lab.read(c).starts_with("HTTP/1.1 504 "));
    lab.at_rest();
}

#[test]
fn row_38_connections_that_fail() {
    // refused: another endpoint, whatever the method and without any policy
    let mut lab = Lab::cart(&[meshed("10.2.0.1:80"), meshed("10.2.0.2:80")]);
    lab.refuses.insert(addr("10.2.0.1:80"), DialError::Refused);
    for _ in 0..10 {
        let c = lab.client(Wire::Http1);
        lab.send(c, "POST / HTTP/1.1\r\nhost: cart\r\ncontent-length: 2\r\n\r\nhi");
        lab.pass(ms(100));
        let app = asked(&mut lab);
        lab.send(app, OK);
        assert!(lab.read(c).starts_with("HTTP/1.1 200 "));
    }
    // the application itself is not there: its proxy says so, and that is as good as refused
    let mut lab = Lab::cart(&[meshed("10.2.0.1:80"), meshed("10.2.0.2:80")]);
    lab.refuses.insert(addr("10.2.0.1:9"), DialError::Refused);
    for _ in 0..10 {
        let c = lab.client(Wire::Http1);
        lab.send(c, "POST / HTTP/1.1\r\nhost: cart\r\ncontent-length: 2\r\n\r\nhi");
        lab.pass(ms(100));
        let app = asked(&mut lab);
        lab.send(app, OK);
        assert!(lab.read(c).starts_with("HTTP/1.1 200 "));
    }
    // everybody refuses: the cause says who
    let mut lab = Lab::cart(&[meshed("10.2.0.1:80")]);
    lab.refuses.insert(addr("10.2.0.1:80"), DialError::Refused);
    let c = lab.client(Wire::Http1);
    lab.send(c, GET);
    lab.pass(ms(1000));
    let answer = lab.read(c);
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("0 of 1 endpoints ready: 1 refused"), "{answer}");
    lab.at_rest();
}

#[test]
fn row_38_resets_after_the_request_was_sent() {
    // a new connection that breaks: it may have been processed
    let mut lab = Lab::cart(&[plain("10.2.0.1:80")]);
    let c = lab.client(Wire::Http1);
    lab.send(c, GET);
    let app = asked(&mut lab);
    lab.abort(app);
    assert!(lab.read(c).starts_with("HTTP/1.1 502 "));
    // a reused one that was closed: idempotent methods only
    for (method, again) in [("GET", true), ("PUT", true), ("POST", false)] {
        let c = lab.client(Wire::Http1);
        lab.send(c, GET);
        let app = asked(&mut lab);
        lab.send(app, OK);
        lab.read(c);
        lab.send(c, format!("{method} / HTTP/1.1\r\nhost: cart\r\ncontent-length: 0\r\n\r\n"));
        assert_eq!(asked(&mut lab), app, "reused");
        lab.eof(app);
        if again {
            let app = asked(&mut lab);
            lab.send(app, OK);
            assert!(lab.read(c).starts_with("HTTP/1.1 200 "), "{method}");
            lab.eof(app);
        } else {
            assert!(lab.read(c).starts_with("HTTP/1.1 502 "), "{method}");
        }
    }
    // never after the first byte of a response has reached the client
    let c = lab.client(Wire::Http1);
    lab.send(c, GET);
    let app = asked(&mut lab);
    lab.send(app, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhell");
    lab.abort(app);
    assert!(lab.read(c).ends_with("hell"));
    assert!(lab.peers[c].at.is_none() && nobody_asked(&lab), "cut off, not tried again");
    lab.at_rest();
}

#[test]
fn attempts_0_disables_every_retry() {
    let mut r = rule(&[("cart", 1)]);
    r.retry = retry(&[503], 0, 0);
    let mut lab = Lab::ruled(&[meshed("10.2.0.1:80"), meshed("10.2.0.2:80")], r);
    for e in ["10.2.0.1:80", "10.2.0.2:80"] {
        lab.refuses.insert(addr(e), DialError::Refused);
    }
    let c = lab.client(Wire::Http1);
    lab.send(c, GET);
    assert!(lab.read(c).starts_with("HTTP/1.1 503 "));
    assert_eq!(lab.dials.len(), 1);
    lab.at_rest();
}

#[test]
fn row_39_the_budget_bounds_retries() {
    let mut r = rule(&[("cart", 1)]);
    r.retry = retry(&[503], 3, 0);
    let mut lab = Lab::ruled(&[plain("10.2.0.1:80")], r);
    let c = lab.client(Wire::Http1);
    for _ in 0..200 {
        lab.send(c, GET);
        while !nobody_asked(&lab) {
            let app = asked(&mut lab);
            lab.send(app, E503);
        }
        assert!(lab.read(c).starts_with("HTTP/1.1 503 "));
    }
    let retries = lab.total(|s| s.retries);
    assert!((10..=50).contains(&retries), "{retries} retries of 200 requests");
    assert!(lab.total(|s| s.retries_refused) > 0);
    lab.at_rest();
}

#[test]
fn row_42_a_client_that_leaves_is_not_retried_for() {
    let mut r = rule(&[("cart", 1)]);
    r.retry = retry(&[503], 3, 100);
    let mut lab = Lab::ruled(&[meshed("10.2.0.1:80")], r);
    for how in 0..3 {
        let c = lab.client(Wire::Http1);
        lab.send(c, GET);
        let app = asked(&mut lab);
        lab.pass(ms(100));
        match how {
            0 => lab.abort(c),
            1 => lab.eof(c),
            _ => {
                // in the pause between attempts
                lab.send(app, E503);
                lab.abort(c);
            }
        }
        lab.pass(ms(1000));
        assert!(nobody_asked(&lab), "{how}: nobody is asked again");
        if how < 2 {
            assert!(lab.peers[app].closed.is_some(), "{how}: the attempt is cancelled");
        }
        lab.at_rest();
    }
    assert_eq!(lab.total(|s| s.responses[0]), 3);
    assert_eq!(lab.total(|s| s.retries), 0);
}
