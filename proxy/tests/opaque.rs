//! Byte streams through a pair of proxies with mutual TLS between them, on real sockets.
#![allow(clippy::unwrap_used)]

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use weft_core::{
    policy::{InboundPolicy, MeshTlsMode, Probe},
    service::Protocol,
};
use weft_proxy::{
    control::State,
    testing::{Builder, LIMIT, any_port},
};

/// An application: `serve` runs in a thread for each connection.
fn app(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let l = TcpListener::bind(any_port()).unwrap();
    let at = l.local_addr().unwrap();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for s in l.incoming() {
            let serve = serve.clone();
            thread::spawn(move || serve(s.unwrap()));
        }
    });
    at
}

/// Sends back what comes, after the end of input only: the half-close must arrive.
fn echo_at_the_end(mut s: TcpStream) {
    let mut all = Vec::new();
    if s.read_to_end(&mut all).is_ok() {
        let _ = s.write_all(&all);
    }
}
fn echo(mut s: TcpStream) {
    let mut b = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = s.read(&mut b) {
        if s.write_all(&b[..n]).is_err() {
            return;
        }
    }
}
fn dial(at: SocketAddr) -> TcpStream {
    let s = TcpStream::connect(at).unwrap();
    s.set_read_timeout(Some(LIMIT)).unwrap();
    s.set_write_timeout(Some(LIMIT)).unwrap();
    s
}
/// The other side hung up without a byte: an end or a reset, not silence.
fn refused(mut s: TcpStream) {
    let mut b = [0; 16];
    match s.read(&mut b) {
        Ok(0) => {}
        Ok(n) => panic!("got {:?}", String::from_utf8_lossy(&b[..n])),
        Err(e) => assert!(matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{e}"),
    }
}
fn unused_port() -> SocketAddr {
    TcpListener::bind(any_port()).unwrap().local_addr().unwrap()
}
/// Waits for a condition that another thread brings about.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        thread::yield_now();
    }
}

#[test]
fn bytes_both_ways_and_half_close() {
    for protocol in [Protocol::Opaque, Protocol::Detect] {
        let pair = Builder { protocol, ..Builder::new(app(echo_at_the_end)) }.start();
        let mut s = dial(pair.service());
        let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        let mut writer = s.try_clone().unwrap();
        let body = sent.clone();
        let upload = thread::spawn(move || {
            writer.write_all(&body).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut got = Vec::new();
        s.read_to_end(&mut got).unwrap();
        upload.join().unwrap();
        assert_eq!(got.len(), sent.len());
        assert!(got == sent);
        let metrics = {
            let mut m = String::new();
            pair.client.stats().render(&mut m);
            m
        };
        assert!(metrics.contains("weft_tcp_received_bytes_total{direction=\"outbound\",parent=\"shop/web:80\",route=\"\",backend=\"shop/web:80\",mtls=\"yes\"} 3000000"), "{metrics}");
        assert_eq!(pair.servers[0].stats().handshakes_server.get(), 1);
    }
}

#[test]
fn a_server_that_speaks_first_is_heard_within_200_ms() {
    let greeting = |mut s: TcpStream| {
        let _ = s.write_all(b"220 hello\r\n");
        echo(s);
    };
    let pair = Builder::new(app(greeting)).start();
    for (at, n) in [(pair.service(), 20), (pair.pod(), 1), (pair.outside(), 1), (pair.server(), 1)] {
        for _ in 0..n {
            let start = Instant::now();
            let mut s = dial(at);
            let mut b = [0; 11];
            s.read_exact(&mut b).unwrap();
            assert!(start.elapsed() < Duration::from_millis(200), "{:?}", start.elapsed());
            assert_eq!(&b, b"220 hello\r\n");
            s.write_all(b"EHLO me\r\n").unwrap();
            let mut b = [0; 9];
            s.read_exact(&mut b).unwrap();
            assert_eq!(&b, b"EHLO me\r\n");
        }
    }
}

#[test]
fn a_client_that_speaks_late_reaches_a_server_that_waits() {
    let pair = Builder::new(app(echo)).start();
    let mut s = dial(pair.service());
    // the proxies have given up waiting for the first byte when they have dialled on
    until("the silent client is dialled through", || pair.servers[0].stats().accepted_inbound.get() == 1);
    s.write_all(b"\x01\x02\x03").unwrap();
    let mut b = [0; 3];
    s.read_exact(&mut b).unwrap();
    assert_eq!(&b, b"\x01\x02\x03");
}

#[test]
fn letters_without_an_end_are_bytes_after_a_moment() {
    let pair = Builder::new(app(echo)).start();
    for at in [pair.service(), pair.server()] {
        let start = Instant::now();
        let mut s = dial(at);
        s.write_all(b"hello").unwrap();
        let mut b = [0; 5];
        s.read_exact(&mut b).unwrap();
        assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    }
}

#[test]
fn row_38_a_refused_endpoint_is_passed_over_and_all_refused_is_told() {
    let live = app(echo);
    let pair = Builder { protocol: Protocol::Opaque, apps: vec![unused_port(), live], ..Builder::new(live) }.start();
    for _ in 0..10 {
        let mut s = dial(pair.service());
        s.write_all(b"ping").unwrap();
        let mut b = [0; 4];
        s.read_exact(&mut b).unwrap();
    }
    let dead = Builder { protocol: Protocol::Opaque, ..Builder::new(unused_port()) }.start();
    refused(dial(dead.service()));
    let plain = Builder { protocol: Protocol::Opaque, meshed: false, ..Builder::new(unused_port()) }.start();
    refused(dial(plain.service()));
}

#[test]
fn meshed_and_plain_endpoints() {
    let pair = Builder { protocol: Protocol::Opaque, meshed: false, ..Builder::new(app(echo)) }.start();
    let mut s = dial(pair.service());
    s.write_all(b"plain").unwrap();
    let mut b = [0; 5];
    s.read_exact(&mut b).unwrap();
    assert_eq!(pair.servers[0].stats().accepted_inbound.get(), 0);
}

/// A real ClientHello for `alpn`.
fn hello(alpn: &[u8]) -> Vec<u8> {
    let config = rustls::ClientConfig::builder_with_provider(weft_identity::provider::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let mut config = config;
    config.alpn_protocols = vec![alpn.to_vec()];
    let mut c = rustls::ClientConnection::new(Arc::new(config), "db.example".try_into().unwrap()).unwrap();
    let mut out = Vec::new();
    c.write_tls(&mut out).unwrap();
    out
}

#[test]
fn the_applications_own_tls_passes_through_untouched() {
    let pair = Builder::new(app(echo)).start();
    let hello = hello(b"h2");
    for at in [pair.service(), pair.server()] {
        for cut in [1, 5, 60] {
            let mut s = dial(at);
            s.write_all(&hello[..cut]).unwrap();
            s.write_all(&hello[cut..]).unwrap();
            let mut b = vec![0; hello.len()];
            s.read_exact(&mut b).unwrap();
            assert!(b == hello);
        }
    }
}

fn strict(probes: Vec<Probe>) -> InboundPolicy {
    InboundPolicy { tls: MeshTlsMode::Strict, probes, ..InboundPolicy::default() }
}

#[test]
fn row_48_strict_refuses_plain_text_and_foreign_tls_and_serves_the_mesh() {
    let pair = Builder { protocol: Protocol::Opaque, inbound: strict(vec![]), ..Builder::new(app(echo)) }.start();
    let mut s = dial(pair.service());
    s.write_all(b"mesh").unwrap();
    let mut b = [0; 4];
    s.read_exact(&mut b).unwrap();
    let stats = pair.servers[0].stats();
    for (bytes, count) in [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), &stats.refused_plain_text),
        (b"\x00\x00\x00\x08 some protocol".to_vec(), &stats.refused_plain_text),
        (hello(b"h2"), &stats.refused_foreign_tls),
    ] {
        let before = count.get();
        let mut s = dial(pair.server());
        s.write_all(&bytes).unwrap();
        refused(s);
        assert_eq!(count.get(), before + 1);
    }
}

#[test]
fn strict_lets_exactly_the_probes_pass() {
    let web = app(|mut s| {
        let mut b = [0; 1024];
        let n = s.read(&mut b).unwrap_or(0);
        let seen = String::from_utf8_lossy(&b[..n]).to_lowercase();
        assert!(seen.contains("connection: close"), "{seen}");
        let _ = s.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nok\n");
    });
    let inbound = strict(vec![Probe { port: 8080, path: Some("/healthz".into()) }]);
    let pair = Builder { inbound, ..Builder::new(web) }.start();
    let mut s = dial(pair.server());
    // a second request behind the probe goes nowhere
    s.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET /secret HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut answer = String::new();
    s.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"), "{answer}");
    for path in ["/healthz/", "/healthz?a", "/secret"] {
        let mut s = dial(pair.server());
        write!(s, "GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        refused(s);
    }
}

#[test]
fn a_recycled_address_and_a_wrong_identity_are_refused() {
    let wrong_uid =
        Builder { protocol: Protocol::Opaque, expect_uid: Some("other-uid"), ..Builder::new(app(echo)) }.start();
    refused(dial(wrong_uid.service()));
    until("the server counts it", || wrong_uid.servers[0].stats().refused_wrong_uid.get() == 1);
    let stranger =
        Builder { protocol: Protocol::Opaque, expect_account: Some("other"), ..Builder::new(app(echo)) }.start();
    refused(dial(stranger.service()));
    until("the client refuses the certificate", || stranger.client.stats().handshakes_client_failed.get() > 0);
    assert_eq!(stranger.servers[0].stats().handshakes_server.get(), 0);
}

#[test]
fn row_43_at_the_limit_accepting_pauses_and_recovers() {
    let tweak = |c: &mut weft_proxy::config::Config| c.limits.connections = 2;
    let pair = Builder { protocol: Protocol::Opaque, tweak, ..Builder::new(app(echo)) }.start();
    let ping = |s: &mut TcpStream| {
        s.write_all(b"ping").unwrap();
        let mut b = [0; 4];
        s.read_exact(&mut b).unwrap();
    };
    let mut a = dial(pair.service());
    ping(&mut a);
    let mut b = dial(pair.service());
    ping(&mut b);
    // in the backlog: the kernel has accepted, the proxy has not
    let mut c = dial(pair.service());
    until("accepting pauses", || pair.client.stats().accept_paused.get() > 0);
    ping(&mut a);
    ping(&mut b);
    drop(a);
    ping(&mut c);
}

#[test]
fn row_59_drain_ends_at_once_when_idle_and_resets_what_outlives_the_grace_period() {
    let pair = Builder { protocol: Protocol::Opaque, ..Builder::new(app(echo)) }.start();
    let mut s = dial(pair.service());
    s.write_all(b"ping").unwrap();
    let mut b = [0; 4];
    s.read_exact(&mut b).unwrap();
    // an idle proxy stops at once
    let idle = Builder::new(app(echo)).start();
    idle.client.control().terminate();
    let start = Instant::now();
    assert!(idle.client.wait_stopped(LIMIT));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    // one with a stream lets it live until a second before the end of its 2.5 s
    pair.servers[0].control().terminate();
    let mut state = State::Ready;
    until("it drains", || {
        state = pair.servers[0].state().borrow().clone();
        state == State::Draining
    });
    s.write_all(b"ping").unwrap();
    s.read_exact(&mut b).unwrap();
    let start = Instant::now();
    assert!(pair.servers[0].wait_stopped(LIMIT));
    assert!(start.elapsed() > Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(pair.servers[0].stats().drain_reset.get(), 1);
    refused(s);
}
