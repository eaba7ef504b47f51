use super::*;
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};
use weft_identity::KeyRequest;

fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}
fn csr(params: &CertificateParams, key: &KeyPair) -> Vec<u8> {
    params.serialize_request(key).unwrap().der().to_vec()
}

#[test]
fn our_own_requests() {
    let r = KeyRequest::generate().unwrap();
    assert_eq!(proven_key(r.csr()).unwrap().algorithm, &rcgen::PKCS_ECDSA_P256_SHA256);
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let proven = proven_key(&csr(&CertificateParams::default(), &key)).unwrap();
        assert_eq!((proven.der_bytes(), proven.algorithm), (key.public_key_raw(), algorithm));
    }
}

#[test]
fn row_66_only_the_key_is_read() {
    let key = key();
    let mut p = CertificateParams::default();
    p.distinguished_name = DistinguishedName::new();
    p.distinguished_name.push(DnType::CommonName, "spiffe://mesh.test/ns/kube-system/sa/admin");
    p.subject_alt_names = vec![
        SanType::URI("spiffe://mesh.test/ns/kube-system/sa/admin".to_owned().try_into().unwrap()),
        SanType::DnsName("kubernetes.default.svc".to_owned().try_into().unwrap()),
        SanType::IpAddress([10, 0, 0, 1].into()),
        SanType::Rfc822Name("root@mesh.test".to_owned().try_into().unwrap()),
    ];
    p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    p.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    // twice the same extension, and one that nobody knows
    let odd = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    p.custom_extensions = vec![odd.clone(), odd];
    let proven = proven_key(&csr(&p, &key)).unwrap();
    assert_eq!(proven.der_bytes(), key.public_key_raw());
}

#[test]
fn row_66_weak_keys_are_refused() {
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    assert_eq!(proven_key(&csr(&CertificateParams::default(), &rsa)), Err(CsrError::Key));
    let p521 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    assert_eq!(proven_key(&csr(&CertificateParams::default(), &p521)), Err(CsrError::Key));
}

#[test]
fn row_66_a_key_that_the_sender_does_not_hold() {
    let (ours, theirs) = (KeyRequest::generate().unwrap(), key());
    let request = der::request(ours.csr()).unwrap();
    let at = ours.csr().windows(65).position(|w| w == request.public_key).unwrap();
    let mut forged = ours.csr().to_vec();
    forged[at..at + 65].copy_from_slice(theirs.public_key_raw());
    assert_eq!(proven_key(&forged), Err(CsrError::Signature));
    // a point that is on no curve
    let mut broken = ours.csr().to_vec();
    broken[at..at + 65].fill(4);
    assert_eq!(proven_key(&broken), Err(CsrError::Signature));
}

#[test]
fn row_66_size_and_junk() {
    assert_eq!(proven_key(&vec![0x30; 1 << 20]), Err(CsrError::TooLarge));
    for junk in [&b""[..], b"\x30", b"\x30\x00", b"\x30\x84\xff\xff\xff\xff", b"-----BEGIN CERTIFICATE REQUEST-----"] {
        assert_eq!(proven_key(junk), Err(CsrError::Malformed));
    }
    let mut trailing = KeyRequest::generate().unwrap().csr().to_vec();
    trailing.push(0);
    assert_eq!(proven_key(&trailing), Err(CsrError::Malformed));
}

proptest! {
    #[test]
    fn row_66_no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(proven_key(&bytes).is_err());
    }
    /// No bit of a request can be changed without the signature noticing, but for the encoding of the signature itself.
    #[test]
    fn row_66_no_damage_gets_through(at in 0usize..200, bit in 0u8..8) {
        let mut bytes = KeyRequest::generate().unwrap().csr().to_vec();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        prop_assert!(proven_key(&bytes).is_err());
    }
}
