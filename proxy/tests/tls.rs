//! Odd and hostile TLS at the inbound side, and routing of the application's own TLS by server name.
#![allow(clippy::unwrap_used)]

use rustls::{ClientConfig, ClientConnection, RootCertStore, client::danger};
use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use weft_core::{
    filter::Filters,
    identity::WorkloadIdentity,
    route::{BackendRef, RouteKind, RouteRef, Routes, StreamRule, WeightedBackend},
    service::Protocol,
};
use weft_identity::{Alpn, credentials::server_name, provider::provider};
use weft_proxy::testing::{Builder, LIMIT, any_port, service};

fn echo() -> SocketAddr {
    let l = TcpListener::bind(any_port()).unwrap();
    let at = l.local_addr().unwrap();
    thread::spawn(move || {
        for s in l.incoming() {
            let mut s = s.unwrap();
            thread::spawn(move || {
                let mut b = [0; 64 * 1024];
                while let Ok(n @ 1..) = s.read(&mut b) {
                    let _ = s.write_all(&b[..n]);
                }
            });
        }
    });
    at
}
fn dial(at: SocketAddr) -> TcpStream {
    let s = TcpStream::connect(at).unwrap();
    s.set_read_timeout(Some(LIMIT)).unwrap();
    s
}
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        thread::yield_now();
    }
}

/// Believes everybody: the tests look at what the server does.
#[derive(Debug)]
struct Anybody;
impl danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<danger::ServerCertVerified, rustls::Error> {
        Ok(danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<danger::HandshakeSignatureValid, rustls::Error> {
        Ok(danger::HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<danger::HandshakeSignatureValid, rustls::Error> {
        Ok(danger::HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn anonymous(version: &'static rustls::SupportedProtocolVersion, alpn: &[u8]) -> ClientConfig {
    let p = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut c = ClientConfig::builder_with_provider(p)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    c.dangerous().set_certificate_verifier(Arc::new(Anybody));
    c.alpn_protocols = vec![alpn.to_vec()];
    c
}

/// Drives a handshake and reads a byte: an error when the server refuses.
fn handshake(at: SocketAddr, config: ClientConfig, uid: &str) -> std::io::Result<()> {
    let mut c = ClientConnection::new(Arc::new(config), server_name(uid).unwrap()).unwrap();
    let mut s = dial(at);
    // TLS 1.3 clients learn of a refused certificate with the first read
    let mut t = rustls::Stream::new(&mut c, &mut s);
    t.write_all(&[b'W', b'T', 1, 0, 0, 0])?;
    t.read_exact(&mut [0; 4])
}

#[test]
fn row_47_old_versions_missing_certificates_and_wrong_names_fail_the_handshake() {
    let pair = Builder { protocol: Protocol::Opaque, ..Builder::new(echo()) }.start();
    let (at, uid) = (pair.server(), "server-0-uid");
    let stats = pair.servers[0].stats();
    assert!(handshake(at, anonymous(&rustls::version::TLS12, Alpn::MeshTcp.wire()), uid).is_err());
    assert!(handshake(at, anonymous(&rustls::version::TLS13, Alpn::MeshTcp.wire()), uid).is_err());
    assert!(handshake(at, anonymous(&rustls::version::TLS13, b"weft/none"), uid).is_err());
    until("all are counted", || stats.handshakes_server_failed.get() == 3);
    // a member under another pod's name
    let member = pair.mesh.credentials("shop", "other", Some("x"));
    let server = WorkloadIdentity::new("cluster.local", "shop", "server").unwrap();
    let config = || (*member.mesh_client(&server, Alpn::MeshTcp).unwrap()).clone();
    assert!(handshake(at, config(), "another-uid").is_err());
    until("it is counted", || stats.refused_wrong_uid.get() == 1);
    // the same member with the right name is let in
    handshake(at, config(), uid).unwrap();
    assert_eq!(stats.handshakes_server.get(), 1);
}

#[test]
fn row_47_a_hello_in_pieces_and_one_without_end() {
    let pair = Builder { protocol: Protocol::Opaque, ..Builder::new(echo()) }.start();
    let member = pair.mesh.credentials("shop", "other", Some("x"));
    let server = WorkloadIdentity::new("cluster.local", "shop", "server").unwrap();
    let config = member.mesh_client(&server, Alpn::MeshTcp).unwrap();
    let mut c = ClientConnection::new(config, server_name("server-0-uid").unwrap()).unwrap();
    let mut hello = Vec::new();
    c.write_tls(&mut hello).unwrap();
    let mut s = dial(pair.server());
    s.set_nodelay(true).unwrap();
    for piece in hello.chunks(97) {
        s.write_all(piece).unwrap();
    }
    let mut t = rustls::Stream::new(&mut c, &mut s);
    t.write_all(&[b'W', b'T', 1, 0, 0, 0]).unwrap();
    let mut answer = [0; 4];
    t.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [1, 0, 0, 0]);
    // a hello that promises 60,000 bytes is not gathered without bound: beyond 16 KiB it is the application's affair
    let mut s = dial(pair.server());
    let mut endless = vec![22, 3, 1, 0x40, 0, 1, 0, 0xea, 0x60];
    endless.resize(20_000, 0);
    s.write_all(&endless).unwrap();
    let mut back = vec![0; 20_000];
    s.read_exact(&mut back).unwrap();
    assert!(back == endless);
}

#[test]
fn row_51_a_flood_of_handshakes_from_one_source_is_bounded_and_streams_go_on() {
    let tweak = |c: &mut weft_proxy::config::Config| c.limits.handshakes_per_source = 10;
    let pair = Builder { protocol: Protocol::Opaque, tweak, ..Builder::new(echo()) }.start();
    let mut open = dial(pair.service());
    let ping = |s: &mut TcpStream| {
        s.write_all(b"ping").unwrap();
        s.read_exact(&mut [0; 4]).unwrap();
    };
    ping(&mut open);
    let config = anonymous(&rustls::version::TLS13, Alpn::MeshTcp.wire());
    let mut hello = Vec::new();
    ClientConnection::new(Arc::new(config), server_name("server-0-uid").unwrap())
        .unwrap()
        .write_tls(&mut hello)
        .unwrap();
    let flood: Vec<_> = (0..100)
        .map(|_| {
            let mut s = dial(pair.server());
            s.write_all(&hello).unwrap();
            s
        })
        .collect();
    let stats = pair.servers[0].stats();
    until("most are refused", || stats.refused_handshake_rate.get() >= 80);
    for _ in 0..100 {
        ping(&mut open);
    }
    drop(flood);
}

#[test]
fn the_applications_tls_is_routed_by_server_name() {
    let rule = |name: &str, hostnames: &[&str], backend| StreamRule {
        route: Arc::new(RouteRef { kind: RouteKind::Tls, namespace: "shop".into(), name: name.into(), created: 0 }),
        hostnames: hostnames.iter().map(|h| (*h).into()).collect(),
        backends: vec![WeightedBackend { backend, weight: 1, filters: Filters::default() }],
    };
    let broken = BackendRef::Invalid(weft_core::cause::Invalid::BackendNotFound("shop/gone".into()));
    let rules =
        vec![rule("good", &["db.example"], BackendRef::Service(service())), rule("gone", &["gone.example"], broken)];
    let routes = Routes::Stream(Arc::new(rules));
    let pair = Builder { protocol: Protocol::Tls, routes, ..Builder::new(echo()) }.start();
    let hello = |name: &'static str| {
        let config = anonymous(&rustls::version::TLS13, b"h2");
        let mut out = Vec::new();
        ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap().write_tls(&mut out).unwrap();
        out
    };
    let send = |bytes: &[u8]| {
        let mut s = dial(pair.service());
        s.write_all(bytes).unwrap();
        let mut back = vec![0; bytes.len()];
        s.read_exact(&mut back).map(|()| back == bytes)
    };
    assert!(send(&hello("db.example")).unwrap());
    for name in ["gone.example", "other.example"] {
        let e = send(&hello(name)).unwrap_err();
        assert!(matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof), "{e}");
    }
    let s = pair.client.stats();
    assert_eq!((s.refused_invalid_backend.get(), s.refused_no_route.get()), (1, 1));
    // not TLS, and no rule without a name: refused, not guessed
    let start = Instant::now();
    assert!(send(b"\0\0\0\x08plain").is_err());
    assert!(start.elapsed() < Duration::from_secs(2));
}
