//! Bounds: queues, memory, time, and the end of the proxy.

use crate::lab::*;
use weft_relay::{CloseHow, Side, Wire};

const GET: &str = "GET / HTTP/1.1\r\nhost: cart\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";

#[test]
fn row_41_a_slow_backend_gets_a_bounded_queue() {
    let mut lab = Lab::with(|c| {
        c.pool.http1_per_key = 2;
        c.pool.waiters_per_key = 3;
        c.pool.wait = ms(100);
    });
    lab.serve("cart", None);
    lab.endpoints("cart", &[plain("10.2.0.1:80")]);
    let clients: Vec<usize> = (0..6).map(|_| lab.client(Wire::Http1)).collect();
    for c in &clients {
        lab.send(*c, GET);
    }
    assert_eq!(lab.apps().len(), 2);
    lab.pass(ms(99));
    let answered =
        |lab: &mut Lab| clients.iter().map(|c| lab.read(*c)).filter(|a| a.starts_with("HTTP/1.1 503 ")).count();
    assert_eq!(answered(&mut lab), 1, "one is too many for the queue");
    lab.pass(ms(500));
    assert_eq!(answered(&mut lab), 3, "the others wait in vain");
    for app in lab.apps() {
        lab.send(app, OK);
    }
    lab.at_rest();
    assert_eq!(lab.total(|s| s.responses[2]), 2);
}

#[test]
fn requests_under_way_are_bounded() {
    let mut lab = Lab::with(|c| c.limits.exchanges = 2);
    lab.serve("cart", None);
    lab.endpoints("cart", &[meshed("10.2.0.1:80")]);
    let clients: Vec<usize> = (0..3).map(|_| lab.client(Wire::Http1)).collect();
    for c in &clients {
        lab.send(*c, GET);
    }
    let answer = lab.read(clients[2]);
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("requests are under way"), "{answer}");
}

#[test]
fn row_07_slow_heads_bodies_and_readers() {
    // a head that never ends
    let mut lab = Lab::cart(&[plain("10.2.0.1:80")]);
    let c = lab.client(Wire::Http1);
    lab.send(c, "GET / HT");
    for _ in 0..9 {
        lab.pass(ms(1000));
        lab.send(c, "x");
    }
    lab.pass(ms(1001));
    assert!(lab.read(c).starts_with("HTTP/1.1 408 ") || lab.peers[c].at.is_none());
    // a body that stops
    let c = lab.client(Wire::Http1);
    lab.send(c, "POST / HTTP/1.1\r\nhost: cart\r\ncontent-length: 10\r\n\r\nhell");
    lab.pass(ms(61_000));
    assert!(lab.read(c).starts_with("HTTP/1.1 408 "));
    lab.at_rest();
    // a client that does not read
    let c = lab.client(Wire::Http1);
    lab.peers[c].stalled = true;
    lab.send(c, GET);
    let app = lab.app();
    lab.send(app, OK);
    lab.pass(ms(61_000));
    assert!(lab.peers[c].reset, "a reader that is too slow is cut off");
    lab.at_rest();
}

#[test]
fn a_stalled_reader_bounds_its_own_response_and_nobody_elses() {
    let mut lab = Lab::cart(&[meshed("10.2.0.1:80")]);
    let (slow, quick) = (lab.client(Wire::Http1), lab.client(Wire::Http1));
    lab.peers[slow].stalled = true;
    lab.send(slow, GET);
    let app = lab.app();
    lab.read(app);
    lab.send(app, "HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n");
    let mut sent = 0;
    while sent < 1_000_000 {
        // an application writes as long as it is read
        let (at, conn) = lab.peers[app].at.unwrap();
        if !lab.engine(at).wants_read(conn) {
            break;
        }
        lab.send(app, vec![b'x'; 10_000]);
        sent += 10_000;
    }
    assert!(sent <= 300_000, "{sent} bytes were taken for a client that does not read");
    lab.send(quick, GET);
    let other = lab.app();
    assert_ne!(other, app);
    lab.send(other, OK);
    assert!(lab.read(quick).ends_with("hi"), "the others go on over the same mesh connection");
    lab.resume(slow);
    while sent < 1_000_000 {
        let (at, conn) = lab.peers[app].at.unwrap();
        assert!(lab.engine(at).wants_read(conn), "stuck at {sent}");
        lab.send(app, vec![b'x'; 10_000]);
        sent += 10_000;
    }
    let got = lab.read(slow);
    assert_eq!(got.len() - got.find("\r\n\r\n").unwrap() - 4, 1_000_000);
    lab.at_rest();
}

#[test]
fn row_59_a_drain_finishes_and_then_cuts_off() {
    let mut lab = Lab::cart(&[meshed("10.2.0.1:80")]);
    let c = lab.client(Wire::Http1);
    let side = || Side::Inbound { app: addr("10.2.0.1:9"), peer: None };
    let outside = lab.client_of(At::In, side(), Wire::Http1);
    lab.send(c, GET);
    let first = asked(&mut lab);
    lab.send(outside, GET);
    let second = asked(&mut lab);
    let now = lab.now;
    lab.inn.drain(now + ms(1000), false, now);
    lab.pass(ms(1));
    assert!(!lab.inn.is_idle());
    // a new connection is not refused, and told to go
    let late = lab.client_of(At::In, side(), Wire::Http1);
    lab.send(late, GET);
    let third = asked(&mut lab);
    lab.send(third, OK);
    let answer = lab.read(late);
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    lab.send(first, OK);
    assert!(lab.read(c).ends_with("hi"), "what is under way is finished");
    // requests that come now go over another mesh connection
    lab.send(c, GET);
    let again = asked(&mut lab);
    lab.send(again, OK);
    assert!(lab.read(c).ends_with("hi"));
    lab.pass(ms(1000));
    assert!(lab.read(outside).starts_with("HTTP/1.1 503 "), "the deadline ends the rest");
    assert!(lab.peers[second].at.is_none());
    assert!(lab.inn.is_idle());
    assert_eq!(lab.inn.shared().registry.snapshot().totals.drained_by_force, 1);
    lab.at_rest();
}

#[test]
fn idle_connections_are_closed_by_us() {
    let mut lab = Lab::cart(&[plain("10.2.0.1:80")]);
    let c = lab.client(Wire::Http1);
    lab.send(c, GET);
    let app = lab.app();
    lab.send(app, OK);
    lab.pass(ms(6_000));
    assert_eq!(lab.peers[app].closed, Some(CloseHow::Now), "before common servers would");
    assert!(lab.peers[c].at.is_some(), "the application's own pool is left alone");
    lab.pass(ms(600_000));
    assert!(lab.peers[c].at.is_none());
    lab.at_rest();
    assert_eq!(lab.out.connections(), 0);
}

#[test]
fn endpoints_that_leave_finish_what_they_have() {
    let mut lab = Lab::cart(&[meshed("10.2.0.1:80")]);
    let c = lab.client(Wire::Http1);
    lab.send(c, GET);
    let app = lab.app();
    lab.endpoints("cart", &[meshed("10.2.0.2:80")]);
    lab.send(app, OK);
    assert!(lab.read(c).ends_with("hi"));
    lab.send(c, GET);
    assert_eq!(lab.dials.iter().filter(|(_, a, _)| *a == addr("10.2.0.2:80")).count(), 1);
    let app = lab.app();
    lab.send(app, OK);
    lab.at_rest();
}

#[test]
fn a_peer_that_is_gone_without_a_word_is_noticed() {
    let mut lab = Lab::cart(&[meshed("10.2.0.1:80"), meshed("10.2.0.2:80")]);
    let c = lab.client(Wire::Http1);
    lab.send(c, GET);
    let app = asked(&mut lab);
    // the application takes its time: the peer's proxy answers for it
    lab.pass(ms(60_000));
    lab.send(app, OK);
    assert!(lab.read(c).ends_with("hi"));
    // the node dies: nothing comes any more
    lab.send(c, GET);
    asked(&mut lab);
    lab.dead = true;
    lab.pass(ms(19_000));
    assert_eq!(lab.read(c), "");
    lab.pass(ms(2_000));
    assert!(lab.read(c).starts_with("HTTP/1.1 502 "));
}

#[test]
fn kept_heads_are_bounded() {
    let mut lab = Lab::with(|c| c.limits.heads = 10_000);
    lab.serve("cart", None);
    lab.endpoints("cart", &[meshed("10.2.0.1:80")]);
    let long = format!("GET / HTTP/1.1\r\nhost: cart\r\nx-long: {}\r\n\r\n", "x".repeat(6000));
    let clients: Vec<usize> = (0..3).map(|_| lab.client(Wire::Http1)).collect();
    for c in &clients {
        lab.send(*c, &long);
    }
    assert_eq!([0, 1, 2].map(|i| !lab.read(clients[i]).is_empty()), [false, true, true]);
    let app = asked(&mut lab);
    lab.send(app, OK);
    lab.send(clients[1], &long);
    let app = asked(&mut lab);
    lab.send(app, OK);
    assert!(lab.read(clients[1]).ends_with("hi"), "there is room again");
    lab.at_rest();
}

#[test]
fn spent_memory_costs_the_largest_stalled_holder() {
    // 640 KiB of memory for streams
    let mut lab = Lab::with(|c| {
        let now = std::time::Instant::now();
        c.shared = Some(weft_relay::Shared::new(Some(4 * 640 * 1024), now));
    });
    lab.serve("cart", None);
    lab.endpoints("cart", &[meshed("10.2.0.1:80")]);
    let clients: Vec<usize> = (0..14).map(|_| lab.client(Wire::Http1)).collect();
    let mut refused = 0;
    for c in &clients {
        lab.peers[*c].stalled = true;
        lab.send(*c, GET);
        let Some(app) = lab.apps().into_iter().find(|p| !lab.peers[*p].got.is_empty()) else {
            refused += 1;
            continue;
        };
        lab.read(app);
        lab.send(app, "HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n");
        lab.send(app, vec![b'x'; 60_000]);
        lab.pass(ms(10));
        lab.out.assert_balanced();
    }
    let cut = clients.iter().filter(|c| lab.peers[**c].at.is_none() || lab.peers[**c].closed.is_some()).count();
    assert!(refused > 0, "new streams are refused first");
    assert!(lab.out.census().charged <= 640 * 1024, "{:?}, {cut} cut off", lab.out.census());
}
