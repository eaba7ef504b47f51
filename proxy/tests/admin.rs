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

/// Answers one call: `shop.Orders` serves, `shop.Broken` does not, `shop.Slow` is never answered, nobody knows others.
async fn health(mut request: http::Request<h2::RecvStream>, mut respond: h2::server::SendResponse<bytes::Bytes>) {
    let body = request.body_mut();
    let mut asked = Vec::new();
    while let Some(Ok(d)) = body.data().await {
        let _ = body.flow_control().release_capacity(d.len());
        asked.extend(d);
    }
    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
    assert_eq!(request.headers()["content-type"], "application/grpc");
    let head = http::Response::builder().header("content-type", "application/grpc");
    let status = match asked.get(7..).map(String::from_utf8_lossy).as_deref() {
        Some("shop.Orders") => 1,
        Some("shop.Broken") => 2,
        Some("shop.Slow") => return std::future::pending().await,
        _ => {
            let head = head.header("grpc-status", "5").header("grpc-message", "unknown service");
            respond.send_response(head.body(()).unwrap(), true).unwrap();
            return;
        }
    };
    let mut s = respond.send_response(head.body(()).unwrap(), false).unwrap();
    s.send_data(bytes::Bytes::from(vec![0, 0, 0, 0, 2, 8, status]), false).unwrap();
    let ok = (http::HeaderName::from_static("grpc-status"), http::HeaderValue::from_static("0"));
    s.send_trailers(http::HeaderMap::from_iter([ok])).unwrap();
}

/// An application with the standard health service.
fn grpc_app() -> SocketAddr {
    let (tell, at) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let l = tokio::net::TcpListener::bind(any_port()).await.unwrap();
            tell.send(l.local_addr().unwrap()).unwrap();
            loop {
                let (socket, _) = l.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut c = h2::server::handshake(socket).await.unwrap();
                    while let Some(Ok((request, respond))) = c.accept().await {
                        // the connection moves only while it is asked for the next request
                        tokio::spawn(health(request, respond));
                    }
                });
            }
        });
    });
    at.recv().unwrap()
}

#[test]
fn grpc_probes_of_a_strict_workload() {
    use weft_core::policy::{GRPC_HEALTH, MeshTlsMode};
    let probes = vec![Probe { port: 8080, path: Some(GRPC_HEALTH.into()) }];
    let inbound = InboundPolicy { tls: MeshTlsMode::Strict, probes, ..InboundPolicy::default() };
    let pair = Builder { inbound: inbound.clone(), ..Builder::new(grpc_app()) }.start();
    let at = pair.servers[0].admin();
    let get = |path: &str| call(at, &format!("GET /probe/{path}"));
    assert_eq!(get("grpc/8080/shop.Orders"), (200, "healthy\n".into()));
    assert_eq!(get("grpc/8080/shop.Broken"), (503, "the health service says NOT_SERVING\n".into()));
    assert_eq!(get("grpc/8080"), (503, "grpc-status 5: unknown service\n".into()));
    let slow = call(at, "GET /probe/grpc/8080/shop.Slow HTTP/1.1\r\nweft-probe-timeout-ms: 50\r\nX:");
    assert_eq!(slow, (503, "no answer within 50 ms\n".into()));
    // neither another port nor another kind of probe
    for path in ["grpc/8081", "tcp/8080", "grpc/0", "udp/8080", "grpc/8080/%"] {
        assert_eq!(get(path).0, 404, "{path}");
    }
    // an application that speaks no HTTP/2, and one that is not there
    let closed = TcpListener::bind(any_port()).unwrap().local_addr().unwrap();
    let pair = Builder { inbound, ..Builder::new(closed) }.start();
    let (status, text) = call(pair.servers[0].admin(), "GET /probe/grpc/8080");
    assert!(status == 503 && text.starts_with("cannot connect"), "{status} {text}");
}
