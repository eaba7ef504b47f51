//! The examples of RFC 7541, appendix C; then rules and properties.

use super::*;
use crate::head::{Head, Known, Pseudo, Tag};
use proptest::prelude::*;

type Pairs = &'static [(&'static str, &'static str)];

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

fn decode(d: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, HpackError> {
    let mut fields = Vec::new();
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    d.decode(block, |f| fields.push((text(f.name), text(f.value))))?;
    Ok(fields)
}

fn owned(pairs: Pairs) -> Vec<(String, String)> {
    pairs.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect()
}

/// Blocks of one connection: the block, the fields it decodes to.
fn conversation(table: usize, blocks: &[(&str, Pairs)]) {
    let mut d = Decoder::new(4096);
    if table < 4096 {
        let mut update = Vec::new();
        integer::encode(&mut update, 0x20, 5, table);
        assert_eq!(decode(&mut d, &update), Ok(vec![]));
    }
    for (hex, fields) in blocks {
        assert_eq!(decode(&mut d, &bytes(hex)), Ok(owned(fields)), "{hex}");
    }
}

/// C.3: requests without Huffman coding.
#[test]
fn rfc_7541_c3() {
    conversation(
        4096,
        &[
            (
                "828684410f7777772e6578616d706c652e636f6d",
                &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")],
            ),
            (
                "828684be58086e6f2d6361636865",
                &[
                    (":method", "GET"),
                    (":scheme", "http"),
                    (":path", "/"),
                    (":authority", "www.example.com"),
                    ("cache-control", "no-cache"),
                ],
            ),
            (
                "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
                &[
                    (":method", "GET"),
                    (":scheme", "https"),
                    (":path", "/index.html"),
                    (":authority", "www.example.com"),
                    ("custom-key", "custom-value"),
                ],
            ),
        ],
    );
}

/// C.4: requests with Huffman coding.
#[test]
fn rfc_7541_c4() {
    conversation(
        4096,
        &[
            (
                "828684418cf1e3c2e5f23a6ba0ab90f4ff",
                &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")],
            ),
            (
                "828684be5886a8eb10649cbf",
                &[
                    (":method", "GET"),
                    (":scheme", "http"),
                    (":path", "/"),
                    (":authority", "www.example.com"),
                    ("cache-control", "no-cache"),
                ],
            ),
            (
                "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
                &[
                    (":method", "GET"),
                    (":scheme", "https"),
                    (":path", "/index.html"),
                    (":authority", "www.example.com"),
                    ("custom-key", "custom-value"),
                ],
            ),
        ],
    );
}

/// C.5: responses without Huffman coding, with evictions.
#[test]
fn rfc_7541_c5() {
    conversation(
        256,
        &[
            (
                "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d546e1768747470733a2f2f7777772e6578616d706c652e636f6d",
                &[
                    (":status", "302"),
                    ("cache-control", "private"),
                    ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
                    ("location", "https://www.example.com"),
                ],
            ),
            (
                "4803333037c1c0bf",
                &[
                    (":status", "307"),
                    ("cache-control", "private"),
                    ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
                    ("location", "https://www.example.com"),
                ],
            ),
            (
                "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31",
                &[
                    (":status", "200"),
                    ("cache-control", "private"),
                    ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
                    ("location", "https://www.example.com"),
                    ("content-encoding", "gzip"),
                    ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
                ],
            ),
        ],
    );
}

/// C.6: responses with Huffman coding, with evictions.
#[test]
fn rfc_7541_c6() {
    conversation(
        256,
        &[
            (
                "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
                &[
                    (":status", "302"),
                    ("cache-control", "private"),
                    ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
                    ("location", "https://www.example.com"),
                ],
            ),
            (
                "4883640effc1c0bf",
                &[
                    (":status", "307"),
                    ("cache-control", "private"),
                    ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
                    ("location", "https://www.example.com"),
                ],
            ),
            (
                "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
                &[
                    (":status", "200"),
                    ("cache-control", "private"),
                    ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
                    ("location", "https://www.example.com"),
                    ("content-encoding", "gzip"),
                    ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
                ],
            ),
        ],
    );
}

/// C.2: each representation by itself.
#[test]
fn rfc_7541_c2() {
    for (hex, field, never) in [
        ("400a637573746f6d2d6b65790d637573746f6d2d686561646572", ("custom-key", "custom-header"), false),
        ("040c2f73616d706c652f70617468", (":path", "/sample/path"), false),
        ("100870617373776f726406736563726574", ("password", "secret"), true),
        ("82", (":method", "GET"), false),
    ] {
        let mut seen = 0;
        Decoder::new(4096)
            .decode(&bytes(hex), |f| {
                seen += 1;
                assert_eq!((f.name, f.value), (field.0.as_bytes(), field.1.as_bytes()));
                assert_eq!(f.tag == Tag::NEVER_INDEXED, never);
            })
            .unwrap();
        assert_eq!(seen, 1);
    }
}

#[test]
fn malformed_blocks() {
    use HpackError::*;
    for (block, error) in [
        (&[0x80][..], Index),
        (&[0xff, 0x00], Index), // 127: the dynamic table is empty
        (&[0xbe], Index),
        (&[0x7e, 1, b'x'], Index),
        (&[0x40, 3, b'a'], Truncated),
        (&[0x40], Truncated),
        (&[0x00, 1, b'a'], Truncated),
        (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff], Integer),
        (&[0x3f, 0xe2, 0x1f], SizeUpdate),             // 4,097
        (&[0x82, 0x20], SizeUpdate),                   // not at the beginning
        (&[0x20, 0x3f, 0x09, 0x3f, 0x0a], SizeUpdate), // a third one
        (&[0x00, 0x81, 0xff, 0x00], Huffman),
    ] {
        assert_eq!(decode(&mut Decoder::new(4096), block), Err(error), "{block:x?}");
    }
}

#[test]
fn two_updates_in_a_block_are_allowed() {
    let mut d = Decoder::new(4096);
    assert_eq!(decode(&mut d, &[0x20, 0x3f, 0xe1, 0x1f, 0x82]).map(|f| f.len()), Ok(1));
    assert_eq!(decode(&mut d, &[0x20, 0x3f, 0xe1, 0x1f, 0x82]).map(|f| f.len()), Ok(1), "in the next block again");
}

#[test]
fn a_smaller_limit_must_be_confirmed_by_an_update() {
    let mut d = Decoder::new(100);
    decode(&mut d, &[0x82]).unwrap(); // the peer has not seen our SETTINGS yet
    d.set_limit(100);
    assert_eq!(decode(&mut d, &[0x82]), Err(HpackError::SizeUpdateMissing));
    let mut d = Decoder::new(100);
    d.set_limit(100);
    assert_eq!(decode(&mut d, &[0x3f, 69, 0x82]).map(|f| f.len()), Ok(1)); // 100
    assert_eq!(decode(&mut d, &[0x3f, 70]), Err(HpackError::SizeUpdate)); // 101
}

/// RFC 7541, 4.4: the name of the new entry may come from an entry that makes room for it.
#[test]
fn the_name_may_come_from_an_evicted_entry() {
    let mut d = Decoder::new(4096);
    decode(&mut d, &[0x3f, 0x09]).unwrap(); // 40 bytes
    decode(&mut d, &[0x40, 4, b'n', b'a', b'm', b'e', 1, b'a']).unwrap();
    let again = decode(&mut d, &[0x7e, 3, b'b', b'c', b'd']).unwrap();
    assert_eq!(again, [("name".into(), "bcd".into())]);
    assert_eq!(decode(&mut d, &[0xbe]).unwrap(), [("name".into(), "bcd".into())]);
    // larger than the table: empties it
    assert_eq!(decode(&mut d, &[0x7e, 8, b'b', b'c', b'd', b'd', b'd', b'd', b'd', b'd']).map(|f| f.len()), Ok(1));
    assert_eq!(decode(&mut d, &[0xbe]), Err(HpackError::Index));
}

fn head(fields: &[(&str, &str)]) -> Head {
    let mut head = Head::default();
    for (p, v) in
        [(Pseudo::Method, "GET"), (Pseudo::Scheme, "http"), (Pseudo::Authority, "shop"), (Pseudo::Path, "/cart")]
    {
        head.set_pseudo(p, v.as_bytes());
    }
    for (n, v) in fields {
        head.add(n.as_bytes(), v.as_bytes());
    }
    head
}

fn encode(e: &mut Encoder, head: &Head) -> Vec<u8> {
    let mut out = Vec::new();
    e.encode(head, &mut out);
    out
}

#[test]
fn a_field_enters_the_table_the_second_time() {
    let mut e = Encoder::new(4096, false);
    let h = head(&[("user-agent", "weft"), ("traceparent", "00-1-2-3")]);
    let lengths = [0; 4].map(|_| encode(&mut e, &h).len());
    assert_eq!(
        lengths[0],
        lengths[1] + 1,
        "literals twice; the prefix of the second form holds the index of user-agent"
    );
    // method, scheme, authority, path, user-agent: a byte each; traceparent as a literal
    assert_eq!(lengths[2..], [5 + 1 + 12 + 9, 5 + 1 + 12 + 9]);
    // what is new does not push out what stays
    for i in 0..1000 {
        encode(&mut e, &head(&[("x", &i.to_string())]));
    }
    assert_eq!(encode(&mut e, &h).len(), lengths[3]);
}

#[test]
fn secrets_never_enter_a_table() {
    let mut e = Encoder::new(4096, false);
    for (name, index) in [("authorization", 23), ("cookie", 32), ("set-cookie", 55), ("proxy-authorization", 49)] {
        let h = head(&[(name, "secret")]);
        for _ in 0..3 {
            let block = encode(&mut e, &h);
            let tail = &block[block.len() - 9..];
            assert_eq!(tail, [&[0x1f, index - 15, 6], &b"secret"[..]].concat(), "{name}");
        }
    }
    // nor what the sender marked so (RFC 7541, 6.2.3)
    let mut marked = head(&[]);
    marked.add_tagged(Known::Other, b"x-key", b"secret", Tag::NEVER_INDEXED);
    for _ in 0..3 {
        let block = encode(&mut e, &marked);
        assert!(block.ends_with(b"\x10\x05x-key\x06secret"));
    }
}

#[test]
fn connection_fields_are_left_out() {
    let mut e = Encoder::new(4096, false);
    let plain = encode(&mut e, &head(&[]));
    for name in ["connection", "keep-alive", "transfer-encoding", "upgrade", "proxy-connection", "host"] {
        assert_eq!(encode(&mut Encoder::new(4096, false), &head(&[(name, "x")])), plain, "{name}");
    }
}

/// The encoder follows the peer's limit, also one that went down and up between two blocks (RFC 7541, 4.2).
#[test]
fn table_size_changes_reach_the_decoder() {
    let (mut e, mut d) = (Encoder::new(4096, false), Decoder::new(4096));
    let h = head(&[("user-agent", "weft")]);
    let check = |e: &mut Encoder, d: &mut Decoder| {
        let block = encode(e, &h);
        assert_eq!(decode(d, &block).map(|f| f.len()), Ok(5));
        block
    };
    for _ in 0..3 {
        check(&mut e, &mut d);
    }
    e.set_peer_max(0);
    e.set_peer_max(200);
    assert_eq!(check(&mut e, &mut d)[..3], [0x20, 0x3f, 169]);
    for _ in 0..3 {
        check(&mut e, &mut d);
    }
    e.set_peer_max(60);
    d.set_limit(60);
    for _ in 0..3 {
        check(&mut e, &mut d);
    }
    e.set_peer_max(1 << 20); // more than we want
    d.set_limit(1 << 20);
    for _ in 0..3 {
        check(&mut e, &mut d);
    }
}

proptest! {
    /// Whatever is sent, in whatever order, with table changes in between, arrives.
    #[test]
    fn round_trip(
        heads in prop::collection::vec((prop::collection::vec((0u8..20, 0u8..20, 0usize..80), 0..20), 0usize..600), 1..60),
        huffman: bool,
    ) {
        let (mut e, mut d) = (Encoder::new(4096, huffman), Decoder::new(4096));
        for (fields, resize) in heads {
            if resize < 300 {
                e.set_peer_max(resize);
            }
            let mut h = head(&[]);
            for (name, value, len) in &fields {
                let name = match name {
                    0 => "cookie".into(),
                    1 => "content-length".into(),
                    n => format!("x-{n}"),
                };
                h.add(name.as_bytes(), &vec![b'a' + value; *len]);
            }
            let block = encode(&mut e, &h);
            let mut got = head(&[]);
            let mut regular = 0;
            d.decode(&block, |f| {
                assert!(f.value_ok);
                if let Class::Regular(known) = f.class {
                    regular += 1;
                    got.add_tagged(known, f.name, f.value, f.tag);
                }
            }).unwrap();
            prop_assert_eq!(regular, fields.len());
            prop_assert!(h.fields().eq(got.fields()));
            // what the tags say makes no difference to a second connection
            let with_tags = encode(&mut Encoder::new(4096, huffman), &got);
            prop_assert_eq!(with_tags, encode(&mut Encoder::new(4096, huffman), &h));
        }
    }

    #[test]
    fn no_block_panics(blocks: Vec<Vec<u8>>) {
        let mut d = Decoder::new(4096);
        for block in blocks {
            let _ = decode(&mut d, &block);
        }
    }
}
