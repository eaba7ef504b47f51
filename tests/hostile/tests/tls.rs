//! Hostile certificates and handshakes at the server's sidecar, and descriptors that run out.
#![allow(clippy::unwrap_used)]

use rcgen::{BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, SanType};
use rustls::{
    ClientConfig, ClientConnection,
    client::{ResolvesClientCert, danger},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, SystemTime},
};
use weft_core::{
    policy::{InboundPolicy, MeshTlsMode},
    service::Protocol,
};
use weft_identity::{Alpn, credentials::server_name, provider::provider, testing::TestMesh};
use weft_test_hostile::{Builder, Pair, app, dial, rest, until};

fn echo() -> SocketAddr {
    app(|mut s| {
        let mut b = [0; 64 * 1024];
        while let Ok(n @ 1..) = s.read(&mut b) {
            if s.write_all(&b[..n]).is_err() {
                return;
            }
        }
    })
}
fn opaque() -> Pair {
    Builder { protocol: Protocol::Opaque, ..Builder::new(echo()) }.start()
}
fn ping(s: &mut TcpStream) {
    s.write_all(b"ping").unwrap();
    s.read_exact(&mut [0; 4]).unwrap();
}

/// Believes every server: the tests look at what the server does.
#[derive(Debug)]
struct Anybody;
impl danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<danger::ServerCertVerified, rustls::Error> {
        Ok(danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<danger::HandshakeSignatureValid, rustls::Error> {
        Ok(danger::HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<danger::HandshakeSignatureValid, rustls::Error> {
        Ok(danger::HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Presents a certificate without a look at it; rustls itself would refuse to use some of these.
#[derive(Debug)]
struct Presents(Arc<CertifiedKey>);
impl ResolvesClientCert for Presents {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
    fn has_certs(&self) -> bool {
        true
    }
}

type Leaf = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// A mesh handshake with this certificate, then a preamble: `Ok` when the server let it in.
fn present(at: SocketAddr, (chain, key): Leaf) -> std::io::Result<()> {
    let p = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let certified = CertifiedKey::new(chain, p.key_provider.load_private_key(key).unwrap());
    let mut config = ClientConfig::builder_with_provider(p)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_client_cert_resolver(Arc::new(Presents(Arc::new(certified))));
    config.alpn_protocols = vec![Alpn::MeshTcp.wire().to_vec()];
    let mut c = ClientConnection::new(Arc::new(config), server_name("server-0-uid").unwrap()).unwrap();
    let mut s = dial(at);
    let mut t = rustls::Stream::new(&mut c, &mut s);
    t.write_all(&[b'W', b'T', 1, 0, 0, 0])?;
    t.read_exact(&mut [0; 4])
}

#[test]
fn row_45_certificates_that_are_not_quite_a_members() {
    let pair = opaque();
    let mesh = &pair.mesh;
    let (at, stats) = (pair.server(), pair.servers[0].stats());
    let mut beside = dial(pair.service());
    ping(&mut beside);
    let uri = |s: &str| SanType::URI(s.to_owned().try_into().unwrap());
    let day = Duration::from_secs(86_400);
    type Spoil<'a> = Box<dyn Fn(&mut CertificateParams) + 'a>;
    let cases: Vec<(&str, Spoil)> = vec![
        ("expired", Box::new(|p| p.not_after = (SystemTime::now() - Duration::from_secs(30)).into())),
        ("not yet valid", Box::new(|p| p.not_before = (SystemTime::now() + day / 2).into())),
        ("another trust domain", Box::new(|p| p.subject_alt_names = vec![uri("spiffe://other.local/ns/shop/sa/web")])),
        (
            "a URI that is no identity",
            Box::new(|p| p.subject_alt_names = vec![uri("https://cluster.local/ns/shop/sa/web")]),
        ),
        (
            "a path that is no identity",
            Box::new(|p| p.subject_alt_names = vec![uri("spiffe://cluster.local/shop/web")]),
        ),
        ("two URIs", Box::new(|p| p.subject_alt_names.push(uri("spiffe://cluster.local/ns/shop/sa/other")))),
        ("an encoded NUL", Box::new(|p| p.subject_alt_names = vec![uri("spiffe://cluster.local/ns/shop/sa/web%00")])),
        ("a NUL", Box::new(|p| p.subject_alt_names = vec![uri("spiffe://cluster.local/ns/shop/sa/web\0x")])),
        (
            "a common name only",
            Box::new(|p| {
                p.subject_alt_names.clear();
                p.distinguished_name.push(DnType::CommonName, "spiffe://cluster.local/ns/shop/sa/web");
            }),
        ),
        ("for servers only", Box::new(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])),
        ("no extended use", Box::new(|p| p.extended_key_usages.clear())),
        ("an authority as a leaf", Box::new(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))),
        (
            "an unknown critical extension",
            Box::new(|p| {
                let mut e = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 55_555, 1], vec![5, 0]);
                e.set_criticality(true);
                p.custom_extensions.push(e);
            }),
        ),
    ];
    for (failed, (what, spoil)) in (1..).zip(&cases) {
        let mut p = mesh.leaf_params("shop", "web");
        spoil(&mut p);
        assert!(present(at, mesh.leaf_from(&p)).is_err(), "{what} was let in");
        until(&format!("{what} is counted"), || stats.handshakes_server_failed.get() == failed);
        ping(&mut beside);
    }
    // another mesh's member of the same name, and a chain without its issuer
    assert!(present(at, TestMesh::new("cluster.local").leaf("shop", "web")).is_err());
    let (mut chain, key) = mesh.leaf("shop", "web");
    chain.truncate(1);
    assert!(present(at, (chain, key)).is_err());
    // a hundred certificates: the path to the root is short, what is beyond must not cost time or admit anybody
    let (_, key) = mesh.leaf("shop", "web");
    let stranger = TestMesh::new("cluster.local");
    let mut chain = stranger.leaf("shop", "web").0;
    drop(key);
    while chain.len() < 100 {
        chain.push(mesh.issuer.clone());
    }
    let (_, key) = stranger.leaf("shop", "web");
    assert!(present(at, (chain, key)).is_err());
    ping(&mut beside);
    // a correct one is let in
    present(at, mesh.leaf("shop", "web")).unwrap();
    assert_eq!(stats.handshakes_server.get(), 2);
    assert_eq!(stats.panics.get(), 0);
}

/// A strict pod judges the certificate, too, and nothing else gets in: the application sees none of it.
#[test]
fn row_48_and_52_a_strict_pod_takes_members_only() {
    let (tell, hear) = std::sync::mpsc::channel();
    let at = app(move |mut s| {
        let mut b = [0; 64];
        while let Ok(n @ 1..) = s.read(&mut b) {
            let _ = tell.send(b[..n].to_vec());
            let _ = s.write_all(&b[..n]);
        }
    });
    let strict = InboundPolicy { tls: MeshTlsMode::Strict, ..InboundPolicy::default() };
    let pair = Builder { protocol: Protocol::Opaque, inbound: strict, ..Builder::new(at) }.start();
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: web\r\nweft-peer: spiffe://cluster.local/ns/shop/sa/web\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"SSH-2.0-OpenSSH_9.7\r\n",
        b"\x16\x03\x01\x00\x05hello",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
    ] {
        let mut s = dial(pair.server());
        s.write_all(bytes).unwrap();
        // HTTP is told why (403), the rest is closed
        let back = rest(&mut s, &String::from_utf8_lossy(bytes));
        assert!(!back.starts_with(bytes), "echoed");
    }
    assert!(present(pair.server(), TestMesh::new("cluster.local").leaf("shop", "web")).is_err());
    assert!(hear.try_recv().is_err(), "the application saw something");
    ping(&mut dial(pair.service()));
    assert_eq!(hear.recv().unwrap(), b"ping");
}

/// Half handshakes that say nothing more end after `timeouts.handshake`, and members get in meanwhile.
#[test]
fn row_51_handshakes_that_stop_half_way_end() {
    let tweak = |c: &mut weft_proxy::config::Config| c.timeouts.handshake = 1_000;
    let pair = Builder { protocol: Protocol::Opaque, tweak, ..Builder::new(echo()) }.start();
    let member = pair.mesh.credentials("shop", "other", Some("x"));
    let config = member.mesh_client(&pair.mesh.identity("shop", "server"), Alpn::MeshTcp).unwrap();
    let mut c = ClientConnection::new(config, server_name("server-0-uid").unwrap()).unwrap();
    let mut hello = Vec::new();
    c.write_tls(&mut hello).unwrap();
    let stalled: Vec<_> = (0..200)
        .map(|_| {
            let mut s = dial(pair.server());
            s.write_all(&hello).unwrap();
            s
        })
        .collect();
    for _ in 0..20 {
        ping(&mut dial(pair.service()));
    }
    present(pair.server(), pair.mesh.leaf("shop", "web")).unwrap();
    for mut s in stalled {
        rest(&mut s, "half a handshake");
    }
    let stats = pair.servers[0].stats();
    assert_eq!(stats.handshakes_server_failed.get(), 200);
}
