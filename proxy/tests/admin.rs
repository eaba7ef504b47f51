//! The admin server of a running pair.
#![allow(clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
};
use weft_core::policy::{InboundPolicy, Probe};
use weft_proxy::testing::{Builder, LIMIT, any_port};

fn call(at: SocketAddr, request: &str) -> (u16, String) {
    let mut s = TcpStream::connect(at).unwrap();
    s.set_read_timeout(Some(LIMIT)).unwrap();
    write!(s, "{request} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").unwrap();
    let mut all = String::new();
    s.read_to_string(&mut all).unwrap();
    let (head, body) = all.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[test]
fn ready_metrics_dump_probe_and_drain() {
    let app = TcpListener::bind(any_port()).unwrap();
    let inbound = InboundPolicy { probes: vec![Probe { port: 8080, path: None }], ..InboundPolicy::default() };
    let pair = Builder { inbound, ..Builder::new(app.local_addr().unwrap()) }.start();
    let at = pair.servers[0].admin();
    assert_eq!(call(at, "GET /ready"), (200, "ready\n".into()));
    assert_eq!(call(at, "GET /live").0, 200);
    let (status, metrics) = call(at, "GET /metrics");
    assert_eq!(status, 200);
    for name in [
        "weft_connections_open",
        "weft_bundle_version 1",
        "process_resident_memory_bytes",
        "weft_certificate_expires_seconds",
    ] {
        assert!(metrics.contains(name), "{name} in {metrics}");
    }
    let (_, dump) = call(pair.client.admin(), "GET /dump");
    let dump: serde_json::Value = serde_json::from_str(&dump).unwrap();
    assert_eq!(dump["certificate"]["leaf"]["identity"], "spiffe://cluster.local/ns/shop/sa/client");
    assert_eq!(dump["workers"][0]["view"]["services"][0]["service"]["name"], "web");
    let balancing = &dump["workers"][0]["engine"]["balancing"][0];
    assert_eq!(
        (&balancing["service"]["name"], &balancing["endpoints"][0]["workload"]),
        (&"web".into(), &"server-0".into())
    );
    assert!(balancing["endpoints"][0]["ejected_for_ms"].is_null());
    assert_eq!(call(at, "GET /probe/tcp/8080").0, 200);
    assert_eq!(call(at, "GET /probe/tcp/8081").0, 404);
    assert_eq!(call(at, "POST /drain").0, 200);
    let drained = pair.servers[0].state();
    let end = std::time::Instant::now() + LIMIT;
    while *drained.borrow() != weft_proxy::control::State::Draining {
        assert!(std::time::Instant::now() < end);
        std::thread::yield_now();
    }
    assert_eq!(call(at, "GET /ready").0, 503);
    assert_eq!(call(at, "GET /nothing").0, 404);
}
