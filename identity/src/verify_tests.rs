//! Handshakes in memory between a correct side and one that presents something odd.

use super::*;
use crate::{
    HandshakeFailure,
    credentials::{Alpn, Credentials, server_name},
    provider::{self, FixedClock},
    testing::TestMesh,
};
use rcgen::{CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection, sign::CertifiedKey};
use rustls_pki_types::PrivateKeyDer;
use std::{io, sync::LazyLock, time::Duration, time::SystemTime};

type Chain = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Runs a handshake; the results of the client and of the server.
fn handshake(
    client: Arc<ClientConfig>,
    name: &str,
    server: Arc<ServerConfig>,
) -> (Result<(), Error>, Result<(), Error>) {
    let mut c = ClientConnection::new(client, server_name(name).unwrap()).unwrap();
    let mut s = ServerConnection::new(server).unwrap();
    let (mut client, mut server) = (Ok(()), Ok(()));
    for _ in 0..10 {
        let mut wire = Vec::new();
        while c.wants_write() {
            c.write_tls(&mut wire).unwrap();
        }
        let mut input = io::Cursor::new(wire);
        while input.position() < input.get_ref().len() as u64 && server.is_ok() {
            s.read_tls(&mut input).unwrap();
            server = s.process_new_packets().map(|_| ());
        }
        let mut wire = Vec::new();
        while s.wants_write() {
            s.write_tls(&mut wire).unwrap();
        }
        let mut input = io::Cursor::new(wire);
        while input.position() < input.get_ref().len() as u64 && client.is_ok() {
            c.read_tls(&mut input).unwrap();
            client = c.process_new_packets().map(|_| ());
        }
    }
    if client.is_ok() && server.is_ok() {
        assert!(!c.is_handshaking() && !s.is_handshaking());
    }
    (client, server)
}

/// A client that presents anything.
fn odd_client(mesh: &TestMesh, chain: Chain) -> Arc<ClientConfig> {
    let provider = provider::provider();
    let expect = Expect::Member;
    let verifier = Verifier { bundle: mesh.bundle(), provider: provider.clone(), expect, mandatory: true };
    let key = provider.key_provider.load_private_key(chain.1).unwrap();
    let mut c = ClientConfig::builder_with_details(provider, mesh.clock.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(CertifiedKey::new(chain.0, key))));
    c.alpn_protocols = vec![Alpn::MeshHttp.wire().to_vec()];
    Arc::new(c)
}
/// A server that presents anything and asks for nothing.
fn odd_server(chain: Chain) -> Arc<ServerConfig> {
    let provider = provider::provider();
    let key = provider.key_provider.load_private_key(chain.1).unwrap();
    let mut c = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(CertifiedKey::new(chain.0, key))));
    c.alpn_protocols = vec![Alpn::MeshHttp.wire().to_vec()];
    Arc::new(c)
}

static MESH: LazyLock<TestMesh> = LazyLock::new(|| TestMesh::new("mesh.test"));
const UID: &str = "8c5f0d6e-3a10-4c1e-9d44-2f6a5b7c8d9e";

fn refused(result: Result<(), Error>) -> Refusal {
    match HandshakeFailure::of_tls(&result.unwrap_err()) {
        HandshakeFailure::Refused(r) => r,
        other => panic!("{other:?}"),
    }
}
fn is_alert(result: Result<(), Error>) {
    let failure = HandshakeFailure::of_tls(&result.unwrap_err());
    assert!(matches!(failure, HandshakeFailure::Alert(_)), "{failure:?}");
}

/// Both directions: as the server that a client dials, and as the client of an inbound proxy. Returns what both sides refused it for.
fn present(chain: impl Fn() -> Chain) -> Refusal {
    let us = MESH.credentials("shop", "cart", Some(UID));
    let client = us.mesh_client(&MESH.identity("shop", "web"), Alpn::MeshHttp).unwrap();
    let (at_client, _) = handshake(client, UID, odd_server(chain()));
    let as_server = refused(at_client);
    let (_, at_server) = handshake(odd_client(&MESH, chain()), UID, us.mesh_server().unwrap());
    match refused(at_server) {
        // a purpose is named by role; everything else is the same from both sides
        Refusal::Purpose("client") => assert_eq!(as_server, Refusal::Purpose("server")),
        as_client => assert_eq!(as_client.label(), as_server.label()),
    }
    as_server
}
fn spoilt(spoil: impl Fn(&mut CertificateParams)) -> Refusal {
    let mut params = MESH.leaf_params("shop", "web");
    spoil(&mut params);
    present(|| MESH.leaf_from(&params))
}
fn uri(text: &str) -> SanType {
    SanType::URI(text.to_owned().try_into().unwrap())
}
fn ago(seconds: u64) -> SystemTime {
    SystemTime::now() - Duration::from_secs(seconds)
}

#[test]
fn members_meet() {
    let (a, b) = (MESH.credentials("shop", "web", Some("a")), MESH.credentials("shop", "cart", Some(UID)));
    for alpn in [Alpn::MeshHttp, Alpn::MeshTcp] {
        let (c, s) = handshake(a.mesh_client(b.identity(), alpn).unwrap(), UID, b.mesh_server().unwrap());
        c.and(s).unwrap();
    }
}

#[test]
fn the_cheap_and_strong_choices_come_first() {
    let (a, b) = (MESH.credentials("shop", "web", None), MESH.credentials("shop", "cart", Some(UID)));
    let name = server_name(UID).unwrap();
    let mut c = ClientConnection::new(a.mesh_client(b.identity(), Alpn::MeshHttp).unwrap(), name).unwrap();
    let mut s = ServerConnection::new(b.mesh_server().unwrap()).unwrap();
    for _ in 0..4 {
        let mut wire = Vec::new();
        while c.wants_write() {
            c.write_tls(&mut wire).unwrap();
        }
        let mut input = &wire[..];
        while !input.is_empty() {
            s.read_tls(&mut input).unwrap();
            s.process_new_packets().unwrap();
        }
        let mut wire = Vec::new();
        while s.wants_write() {
            s.write_tls(&mut wire).unwrap();
        }
        let mut input = &wire[..];
        while !input.is_empty() {
            c.read_tls(&mut input).unwrap();
            c.process_new_packets().unwrap();
        }
    }
    assert!(!s.is_handshaking());
    assert_eq!(s.negotiated_cipher_suite().unwrap().suite(), rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    assert_eq!(s.negotiated_key_exchange_group().unwrap().name(), rustls::NamedGroup::X25519MLKEM768);
    assert_eq!(s.alpn_protocol(), Some(&b"weft/h2"[..]));
    assert_eq!(s.server_name(), Some(UID));
    assert_eq!(peer_identity(s.peer_certificates()).unwrap(), MESH.identity("shop", "web"));
    assert_eq!(c.tls13_tickets_received(), 0, "no session is ever resumed");
}

#[test]
fn row_45_expired() {
    let r = spoilt(|p| (p.not_before, p.not_after) = (ago(7200).into(), ago(3600).into()));
    assert!(matches!(r, Refusal::Expired { not_after, now } if now - not_after >= 3600), "{r:?}");
}
#[test]
fn row_45_not_yet_valid() {
    let r = spoilt(|p| p.not_before = (SystemTime::now() + Duration::from_secs(3600)).into());
    assert!(matches!(r, Refusal::NotYetValid { .. }), "{r:?}");
    assert!(HandshakeFailure::Refused(r).suggests_skew());
}
#[test]
fn row_45_wrong_trust_domain() {
    let r = spoilt(|p| p.subject_alt_names = vec![uri("spiffe://other.test/ns/shop/sa/web")]);
    assert_eq!(r, Refusal::WrongTrustDomain { expected: "mesh.test".into(), got: "other.test".into() });
}
#[test]
fn row_45_another_mesh() {
    let other = TestMesh::new("mesh.test");
    assert_eq!(present(|| other.leaf("shop", "web")), Refusal::UnknownIssuer);
}
#[test]
fn row_45_no_workload_identity() {
    for odd in [
        "https://mesh.test/ns/shop/sa/web",
        "spiffe://mesh.test/ns/shop",
        "spiffe://mesh.test/ns/shop/sa/web/",
        "spiffe://mesh.test/ns/shop/sa/../sa/web",
        "spiffe://mesh.test/ns/shop/sa/web?x",
        "spiffe://mesh.test:1/ns/shop/sa/web",
        "SPIFFE://mesh.test/ns/shop/sa/web",
        "spiffe://mesh.test/ns/shop/sa/w%65b",
    ] {
        let r = spoilt(|p| p.subject_alt_names = vec![uri(odd)]);
        assert!(matches!(r, Refusal::NotAnIdentity(..)), "{odd}: {r:?}");
    }
}
#[test]
fn row_45_two_uri_names() {
    let r = spoilt(|p| p.subject_alt_names.push(uri("spiffe://mesh.test/ns/shop/sa/admin")));
    assert_eq!(r, Refusal::SeveralIdentities(2));
    // twice the same is two, too
    let r = spoilt(|p| p.subject_alt_names.push(uri("spiffe://mesh.test/ns/shop/sa/web")));
    assert_eq!(r, Refusal::SeveralIdentities(2));
}

/// A subject alternative name extension with raw URI names.
fn raw_names(names: &[&[u8]]) -> CustomExtension {
    let mut body = Vec::new();
    for n in names {
        body.extend([0x86, n.len() as u8]);
        body.extend(*n);
    }
    let mut der = vec![0x30, body.len() as u8];
    der.extend(body);
    CustomExtension::from_oid_content(&[2, 5, 29, 17], der)
}
#[test]
fn row_45_names_with_nul_and_other_bytes() {
    for odd in [&b"spiffe://mesh.test/ns/shop/sa/web\0"[..], b"spiffe://mesh.test/ns/shop/sa/web\0.evil", b"\xff\xfe"] {
        let r = spoilt(|p| {
            p.subject_alt_names.clear();
            p.custom_extensions = vec![raw_names(&[odd])];
        });
        assert!(matches!(r, Refusal::NotAnIdentity(..)), "{r:?}");
    }
    // a second name that is not even UTF-8 still counts
    let r = spoilt(|p| {
        p.subject_alt_names.clear();
        p.custom_extensions = vec![raw_names(&[b"spiffe://mesh.test/ns/shop/sa/web", b"\xff"])];
    });
    assert_eq!(r, Refusal::SeveralIdentities(2));
}
#[test]
fn row_45_common_name_only() {
    let r = spoilt(|p| {
        p.subject_alt_names.clear();
        p.distinguished_name.push(DnType::CommonName, "spiffe://mesh.test/ns/shop/sa/web");
    });
    assert_eq!(r, Refusal::NoIdentity);
}
#[test]
fn row_45_dns_name_only() {
    let name = SanType::DnsName(UID.to_owned().try_into().unwrap());
    assert_eq!(spoilt(|p| p.subject_alt_names = vec![name.clone()]), Refusal::NoIdentity);
}
#[test]
fn row_45_no_purpose_and_wrong_purpose() {
    assert_eq!(spoilt(|p| p.extended_key_usages.clear()), Refusal::Purpose("server"));
    let r = spoilt(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]);
    assert_eq!(r, Refusal::Purpose("server"));
    // half of it is enough for the half
    let mut params = MESH.leaf_params("shop", "web");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let us = MESH.credentials("shop", "cart", Some(UID));
    let (_, at_server) = handshake(odd_client(&MESH, MESH.leaf_from(&params)), UID, odd_requires(&us));
    at_server.unwrap();
}
fn odd_requires(us: &Credentials) -> Arc<ServerConfig> {
    us.mesh_server().unwrap()
}
#[test]
fn row_45_ca_certificate_as_leaf() {
    let r = spoilt(|p| p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    assert_eq!(r, Refusal::CaAsLeaf);
}
#[test]
fn row_45_weak_or_odd_keys() {
    let params = MESH.leaf_params("shop", "web");
    let us = MESH.credentials("shop", "cart", Some(UID));
    let rsa = || KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let p521 = || KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    for key in [rsa(), p521()] {
        let (chain, key) = MESH.leaf_with_key(&params, key);
        let now = provider::now(&MESH.clock);
        for role in [Role::Server, Role::Client] {
            let r = verify(&MESH.bundle(), &provider::provider(), &chain[0], &chain[1..], now, role, &Expect::Member);
            assert_eq!(r, Err(Refusal::WeakKey));
        }
        // such a peer finds no signature scheme that we accept, and ends the handshake before it shows its certificate
        let client = us.mesh_client(&MESH.identity("shop", "web"), Alpn::MeshHttp).unwrap();
        is_alert(handshake(client, UID, odd_server((chain.clone(), key.clone_key()))).0);
        let (c, s) = handshake(odd_client(&MESH, (chain, key)), UID, us.mesh_server().unwrap());
        assert!(s.is_err(), "the client says {c:?}");
    }
    // and those that are fine
    for fine in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let (chain, key) = MESH.leaf_with_key(&params, KeyPair::generate_for(fine).unwrap());
        let (c, s) = handshake(odd_client(&MESH, (chain, key)), UID, us.mesh_server().unwrap());
        c.and(s).unwrap();
    }
}
#[test]
fn row_45_unknown_critical_extension() {
    let mut odd = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    odd.set_criticality(true);
    let mut params = MESH.leaf_params("shop", "web");
    params.custom_extensions = vec![odd];
    assert_eq!(present(|| MESH.leaf_from(&params)), Refusal::CriticalExtension);
}
#[test]
fn row_45_leaf_signed_by_a_leaf() {
    // a member uses its own leaf as an issuer
    let member = KeyPair::generate().unwrap();
    let member_params = MESH.leaf_params("shop", "web");
    let member_cert = MESH.sign(&member_params, &member).der().clone();
    let issuer = rcgen::Issuer::new(member_params, member);
    let key = KeyPair::generate().unwrap();
    let forged = MESH.leaf_params("shop", "web").signed_by(&key, &issuer).unwrap().der().clone();
    let chain = vec![forged, member_cert, MESH.issuer.clone()];
    let r = present(|| (chain.clone(), rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into()));
    assert!(matches!(r, Refusal::UnknownIssuer | Refusal::Malformed(_) | Refusal::ChainTooLong(_)), "{r:?}");
}
#[test]
fn row_45_signature_that_does_not_verify() {
    let (mut chain, key) = MESH.leaf("shop", "web");
    let mut leaf = chain[0].to_vec();
    *leaf.last_mut().unwrap() ^= 1;
    chain[0] = leaf.into();
    assert_eq!(present(|| (chain.clone(), key.clone_key())), Refusal::BadSignature);
}
#[test]
fn row_45_a_server_with_another_identity() {
    let r = spoilt_identity("shop", "admin");
    let expected = MESH.identity("shop", "web");
    assert_eq!(r, Refusal::WrongIdentity { expected, got: MESH.identity("shop", "admin") });
}
/// Only the dialling side knows whom to expect.
fn spoilt_identity(namespace: &str, account: &str) -> Refusal {
    let us = MESH.credentials("shop", "cart", Some(UID));
    let client = us.mesh_client(&MESH.identity("shop", "web"), Alpn::MeshHttp).unwrap();
    refused(handshake(client, UID, odd_server(MESH.leaf(namespace, account))).0)
}
#[test]
fn row_52_a_valid_certificate_of_another_namespace_is_not_the_server_that_was_dialled() {
    let r = spoilt_identity("evil", "web");
    assert_eq!(r.label(), "wrong_identity");
}

#[test]
fn row_46_long_chains_and_large_certificates_fail_fast() {
    let (chain, _) = MESH.leaf("shop", "web");
    let mut long = chain.clone();
    long.extend(std::iter::repeat_n(chain[1].clone(), 99));
    let r = verify(
        &MESH.bundle(),
        &provider::provider(),
        &long[0],
        &long[1..],
        provider::now(&MESH.clock),
        Role::Server,
        &Expect::Member,
    );
    assert_eq!(r, Err(Refusal::ChainTooLong(101)));
    let mut params = MESH.leaf_params("shop", "web");
    params.custom_extensions =
        vec![CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![0; 40 << 10])];
    let large = MESH.leaf_from(&params);
    let r = present(|| (large.0.clone(), large.1.clone_key()));
    assert!(matches!(r, Refusal::ChainTooLarge(n) if n > 40 << 10), "{r:?}");
    // 1 MiB does not get past the handshake's own limit
    params.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![0; 1 << 20])];
    let us = MESH.credentials("shop", "cart", Some(UID));
    let client = us.mesh_client(&MESH.identity("shop", "web"), Alpn::MeshHttp).unwrap();
    let (c, _) = handshake(client, UID, odd_server(MESH.leaf_from(&params)));
    assert!(matches!(HandshakeFailure::of_tls(&c.unwrap_err()), HandshakeFailure::Protocol(_)));
}
#[test]
fn row_46_name_constraints_of_an_issuer_hold() {
    // an issuer that may sign for other.test only
    let root_key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root_cert = root.self_signed(&root_key).unwrap();
    let root = rcgen::Issuer::new(root, root_key);
    let issuer_key = KeyPair::generate().unwrap();
    let mut issuer = CertificateParams::default();
    issuer.distinguished_name.push(DnType::CommonName, "issuer");
    issuer.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    issuer.name_constraints = Some(rcgen::NameConstraints {
        permitted_subtrees: vec![rcgen::GeneralSubtree::DnsName("other.test".into())],
        excluded_subtrees: vec![],
    });
    let issuer_cert = issuer.signed_by(&issuer_key, &root).unwrap();
    let issuer = rcgen::Issuer::new(issuer, issuer_key);
    let key = KeyPair::generate().unwrap();
    let mut leaf = MESH.leaf_params("shop", "web");
    leaf.subject_alt_names.push(SanType::DnsName("web.shop.mesh.test".to_owned().try_into().unwrap()));
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let bundle = Bundle::new("mesh.test", 1, &[], vec![root_cert.der().clone()]).unwrap();
    let now = provider::now(&provider::system_clock());
    let (leaf, issuer) = (leaf.der(), [issuer_cert.der().clone()]);
    let r = verify(&bundle, &provider::provider(), leaf, &issuer, now, Role::Server, &Expect::Member);
    assert_eq!(r, Err(Refusal::NameConstraint));
}

#[test]
fn row_47_older_versions_are_not_spoken() {
    let us = MESH.credentials("shop", "cart", Some(UID));
    let mut tls12 = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    tls12.alpn_protocols = vec![b"weft/h2".to_vec()];
    let (c, s) = handshake(Arc::new(tls12), UID, us.mesh_server().unwrap());
    is_alert(c);
    assert!(matches!(HandshakeFailure::of_tls(&s.unwrap_err()), HandshakeFailure::Incompatible(_)));
    // and a TLS 1.2 server is not a peer
    let (chain, key) = MESH.leaf("shop", "web");
    let server = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let client = us.mesh_client(&MESH.identity("shop", "web"), Alpn::MeshHttp).unwrap();
    let (_, s) = handshake(client, UID, Arc::new(server));
    assert!(matches!(HandshakeFailure::of_tls(&s.unwrap_err()), HandshakeFailure::Incompatible(_)));
}
/// A hello by hand: version, cipher suites, no extensions.
fn bare_hello(version: [u8; 2], suites: &[[u8; 2]]) -> Vec<u8> {
    let mut body = version.to_vec();
    body.extend([7; 32]);
    body.push(0);
    body.extend((2 * suites.len() as u16).to_be_bytes());
    body.extend(suites.concat());
    body.extend([1, 0]);
    let mut record = vec![22, 3, 1];
    record.extend((body.len() as u16 + 4).to_be_bytes());
    record.extend([1, 0]);
    record.extend((body.len() as u16).to_be_bytes());
    record.extend(body);
    record
}
#[test]
fn row_47_null_and_export_ciphers_and_versions_of_the_past() {
    let us = MESH.credentials("shop", "cart", Some(UID));
    for version in [[3, 0], [3, 1], [3, 2], [3, 3]] {
        // NULL-MD5, EXPORT-RC4-40, RSA-3DES; AES-128-GCM of TLS 1.2
        for suites in [&[[0, 1], [0, 3], [0, 10]][..], &[[0xc0, 0x2b]]] {
            let bytes = bare_hello(version, suites);
            let crate::Peek::Hello(hello) = crate::peek(&bytes) else { panic!() };
            assert!(!hello.is_mesh(), "it is the application's own TLS, and passed on as it is");
            // and if it came to our own TLS it would end there
            let mut s = ServerConnection::new(us.mesh_server().unwrap()).unwrap();
            s.read_tls(&mut &bytes[..]).unwrap();
            let failure = HandshakeFailure::of_tls(&s.process_new_packets().unwrap_err());
            assert!(matches!(failure, HandshakeFailure::Incompatible(_)), "{version:?}: {failure:?}");
            assert!(s.wants_write(), "the peer is told");
        }
    }
}
#[test]
fn row_47_the_server_name_must_be_our_own() {
    let (a, b) = (MESH.credentials("shop", "web", None), MESH.credentials("shop", "cart", Some(UID)));
    let client = |mut edit: Box<dyn FnMut(&mut ClientConfig)>| {
        let mut c = (*a.mesh_client(b.identity(), Alpn::MeshHttp).unwrap()).clone();
        edit(&mut c);
        Arc::new(c)
    };
    // the pod that had this address before
    let (c, s) = handshake(client(Box::new(|_| {})), "11111111-3a10-4c1e-9d44-2f6a5b7c8d9e", b.mesh_server().unwrap());
    is_alert(c);
    assert_eq!(HandshakeFailure::of_tls(&s.unwrap_err()), HandshakeFailure::ForeignName);
    // no name at all
    let (c, s) = handshake(client(Box::new(|c| c.enable_sni = false)), UID, b.mesh_server().unwrap());
    is_alert(c);
    assert_eq!(HandshakeFailure::of_tls(&s.unwrap_err()).label(), "foreign_name");
    // no protocol in common
    let (c, s) =
        handshake(client(Box::new(|c| c.alpn_protocols = vec![b"h2".to_vec()])), UID, b.mesh_server().unwrap());
    is_alert(c);
    assert!(matches!(HandshakeFailure::of_tls(&s.unwrap_err()), HandshakeFailure::Incompatible(_)));
}
#[test]
fn row_47_bytes_that_are_not_tls() {
    let us = MESH.credentials("shop", "cart", Some(UID));
    let mut s = ServerConnection::new(us.mesh_server().unwrap()).unwrap();
    s.read_tls(&mut &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..]).unwrap();
    let failure = HandshakeFailure::of_tls(&s.process_new_packets().unwrap_err());
    assert!(matches!(failure, HandshakeFailure::Protocol(_)), "{failure:?}");
}
#[test]
fn a_client_without_a_certificate() {
    let us = MESH.credentials("shop", "cart", Some(UID));
    let mut anonymous =
        (*crate::credentials::anonymous_client(&MESH.bundle(), us.identity(), &MESH.clock).unwrap()).clone();
    anonymous.alpn_protocols = vec![b"weft/h2".to_vec()];
    let (_, s) = handshake(Arc::new(anonymous.clone()), UID, us.mesh_server().unwrap());
    assert_eq!(HandshakeFailure::of_tls(&s.unwrap_err()), HandshakeFailure::NoCertificate);
    // only the CA lets them in
    anonymous.alpn_protocols = vec![b"h2".to_vec()];
    let (c, s) = handshake(Arc::new(anonymous), "control.weft", us.control_server(true).unwrap());
    c.and(s).unwrap();
}

#[test]
fn row_50_a_clock_that_jumps_names_skew_and_recovers() {
    let real = provider::now(&provider::system_clock()).as_secs();
    let clock = FixedClock::at(real);
    let mesh = TestMesh::new("mesh.test").with_clock(clock.clone());
    let a = mesh.credentials("shop", "web", None);
    let b = mesh.credentials("shop", "cart", Some(UID));
    let meet = || {
        let client = a.mesh_client(b.identity(), Alpn::MeshHttp).unwrap();
        handshake(client, UID, b.mesh_server().unwrap())
    };
    let _ = (meet().0.unwrap(), meet().1.unwrap());
    for (jump, label) in [(-3600, "not_yet_valid"), (-86_400, "not_yet_valid"), (2 * 86_400, "expired")] {
        clock.set(real.saturating_add_signed(jump));
        let failure = HandshakeFailure::of_tls(&meet().0.unwrap_err());
        assert_eq!(failure.label(), label);
        assert!(failure.suggests_skew());
    }
    clock.set(real + 3600);
    let (c, s) = meet();
    c.and(s).unwrap();
}
