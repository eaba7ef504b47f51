use super::*;
use crate::{credentials::Alpn, testing::TestMesh};
use proptest::prelude::*;
use std::sync::{Arc, LazyLock};

fn hello(alpn: &[&[u8]], name: &str) -> Vec<u8> {
    static MESH: LazyLock<TestMesh> = LazyLock::new(|| TestMesh::new("mesh.test"));
    let credentials = MESH.credentials("a", "b", None);
    let mut config = (*credentials.mesh_client(&MESH.identity("a", "b"), Alpn::MeshHttp).unwrap()).clone();
    config.alpn_protocols = alpn.iter().map(|a| a.to_vec()).collect();
    let name = name.to_owned().try_into().unwrap();
    let mut c = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut out = Vec::new();
    c.write_tls(&mut out).unwrap();
    out
}

/// Cuts the handshake bytes of one record into records of `size`.
fn resplit(record: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for part in record[5..].chunks(size) {
        out.extend([22, 3, 1]);
        out.extend((part.len() as u16).to_be_bytes());
        out.extend(part);
    }
    out
}

#[test]
fn reads_name_and_protocols() {
    let Peek::Hello(h) = peek(&hello(&[b"weft/h2"], "0b3f-AA.x")) else { panic!() };
    assert_eq!(h.sni.as_deref(), Some("0b3f-aa.x"));
    assert!(h.is_mesh());
    let Peek::Hello(h) = peek(&hello(&[b"h2", b"http/1.1"], "shop.example")) else { panic!() };
    assert_eq!(h.alpn, [Box::from(&b"h2"[..]), Box::from(&b"http/1.1"[..])]);
    assert!(!h.is_mesh());
    let Peek::Hello(h) = peek(&hello(&[], "127.0.0.1")) else { panic!() };
    assert_eq!(h, ClientHello::default());
}

#[test]
fn row_47_a_hello_split_anywhere_is_waited_for() {
    let whole = hello(&[b"weft/tcp"], "pod");
    for n in 0..whole.len() {
        assert_eq!(peek(&whole[..n]), Peek::More, "{n} bytes");
    }
    assert!(matches!(peek(&whole), Peek::Hello(_)));
    for size in [1, 3, 7, 100, 1000] {
        let split = resplit(&whole, size);
        for n in (0..split.len()).step_by(13) {
            // the last record may be complete before its last byte is asked for, never earlier
            assert_eq!(peek(&split[..n]), Peek::More, "{n} of {} in records of {size}", split.len());
        }
        let Peek::Hello(h) = peek(&split) else { panic!("records of {size}") };
        assert!(h.is_mesh() && h.sni.as_deref() == Some("pod"));
    }
}

#[test]
fn row_47_an_oversize_hello_is_not_waited_for() {
    let huge = [22, 3, 1, 0x40, 0, 1, 0, 0x40, 1];
    assert_eq!(peek(&huge), Peek::TooLong);
    // many tiny records never add up to a hello
    let mut drip = vec![22, 3, 1, 0, 4, 1, 0, 0x3f, 0];
    while drip.len() < MAX_HELLO {
        drip.extend([22, 3, 1, 0, 1, 0]);
    }
    assert_eq!(peek(&drip), Peek::TooLong);
}

#[test]
fn other_protocols_are_told_by_their_first_bytes() {
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"PRI * HTTP/2.0", b"\x00\x00\x00\x08\x04\xd2\x16\x2f", b"\x16\x02\x00"] {
        assert_eq!(peek(bytes), Peek::NotTls, "{bytes:?}");
    }
    // a record that is no handshake, a handshake that is no hello, an empty record
    for bytes in [&b"\x17\x03\x03\x00\x05abcde"[..], b"\x16\x03\x03\x00\x05\x02abcd", b"\x16\x03\x01\x00\x00"] {
        assert_eq!(peek(bytes), Peek::NotTls, "{bytes:?}");
    }
    assert_eq!(peek(b""), Peek::More);
    assert_eq!(peek(b"\x16"), Peek::More);
}

#[test]
fn malformed_hellos() {
    let good = hello(&[b"weft/h2"], "pod");
    let mut cut = good.clone();
    // session id length beyond its bound
    cut[5 + 4 + 34] = 200;
    assert_eq!(peek(&cut), Peek::Malformed);
    let mut second = resplit(&good, 50);
    second[55] = 23; // the second record is no handshake
    assert_eq!(peek(&second), Peek::Malformed);
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        peek(&bytes);
        let mut record = vec![22, 3, 1, 2, 0, 1, 0, 1, 0xfc];
        record.extend(&bytes);
        peek(&record);
    }
    /// What we read of a damaged hello, rustls reads too, or refuses it.
    #[test]
    fn agrees_with_rustls(at in 5usize..1900, to in any::<u8>()) {
        let mut bytes = hello(&[b"h2", b"weft/h2"], "some.pod");
        let at = at % bytes.len();
        if at >= 9 { bytes[at] = to; }
        if let Peek::Hello(ours) = peek(&bytes) {
            let mut acceptor = rustls::server::Acceptor::default();
            acceptor.read_tls(&mut &bytes[..]).unwrap();
            if let Ok(Some(accepted)) = acceptor.accept() {
                let theirs = accepted.client_hello();
                prop_assert_eq!(theirs.server_name().map(|n| n.to_ascii_lowercase()), ours.sni.map(String::from));
                let alpn: Vec<Box<[u8]>> = theirs.alpn().map(|a| a.map(Into::into).collect()).unwrap_or_default();
                prop_assert_eq!(alpn, ours.alpn);
            }
        }
    }
}
