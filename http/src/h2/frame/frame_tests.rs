//! Frames there and back, and what is refused.

use super::*;
use crate::h2::{ErrorCode, Reason};
use headers::{Headers, HeadersError};
use settings::Setting;

/// The header and the payload of each frame.
fn frames(mut bytes: &[u8]) -> Vec<(Header, &[u8])> {
    let mut all = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk() {
        let header = Header::parse(header);
        let (payload, rest) = rest.split_at(header.len as usize);
        all.push((header, payload));
        bytes = rest;
    }
    assert!(bytes.is_empty());
    all
}

#[test]
fn the_header_is_nine_bytes() {
    let bytes = [0x01, 0x02, 0x03, 0x04, 0x05, 0x86, 0x07, 0x08, 0x09];
    let header = Header::parse(&bytes);
    assert_eq!(header, Header { len: 0x010203, kind: 4, flags: 5, stream: 0x06070809 }, "without the reserved bit");
    let again = Header { stream: 0x86070809, ..header };
    assert_eq!(again.bytes(), bytes);
}

#[test]
fn control_frames_there_and_back() {
    let mut out = Vec::new();
    control::put_rst_stream(&mut out, 3, ErrorCode::Cancel);
    control::put_window_update(&mut out, 5, 77);
    control::put_ping(&mut out, true, *b"12345678");
    control::put_goaway(&mut out, 9, ErrorCode::EnhanceYourCalm, b"why");
    put_data(&mut out, 7, b"abc", true);
    settings::put_ack(&mut out);
    let all = frames(&out);
    let heads: Vec<_> = all.iter().map(|(h, _)| (h.kind, h.flags, h.stream)).collect();
    assert_eq!(heads, [(3, 0, 3), (8, 0, 5), (6, 1, 0), (7, 0, 0), (0, 1, 7), (4, 1, 0)]);
    assert_eq!(control::rst_stream(all[0].1), Some(ErrorCode::Cancel));
    assert_eq!(control::window_update(all[1].1), Some(77));
    assert_eq!(control::ping(all[2].1), Some(*b"12345678"));
    assert_eq!(control::goaway(all[3].1), Some((9, ErrorCode::EnhanceYourCalm)));
    assert_eq!(all[4].1, b"abc");
}

#[test]
fn wrong_lengths() {
    for len in [0, 3, 5, 8] {
        let payload = vec![0; len];
        assert_eq!(control::rst_stream(&payload), None);
        assert_eq!(control::window_update(&payload), None);
    }
    assert_eq!(control::ping(&[0; 7]), None);
    assert_eq!(control::goaway(&[0; 7]), None);
    assert_eq!(control::priority(&[0; 4]), None);
    assert_eq!(control::priority(&[0x80, 0, 0, 3, 9]), Some(3));
}

#[test]
fn headers_with_padding_and_priority() {
    let parse = |flags, payload: &'static [u8]| {
        headers::headers(&Header { len: payload.len() as u32, kind: kind::HEADERS, flags, stream: 1 }, payload)
    };
    let plain = |fragment| Ok(Headers { fragment, depends_on: None });
    assert_eq!(parse(0, b"abc"), plain(b"abc"));
    assert_eq!(parse(flag::PADDED, b"\x02abc\0\0"), plain(b"abc"));
    assert_eq!(parse(flag::PADDED, b"\x03abc"), plain(b""));
    assert_eq!(parse(flag::PADDED, b"\x04abc"), Err(HeadersError::Padding));
    assert_eq!(parse(flag::PADDED, b""), Err(HeadersError::Length));
    assert_eq!(
        parse(flag::PADDED | flag::PRIORITY, b"\x01\x80\0\0\x05\xffabc\0"),
        Ok(Headers { fragment: b"abc", depends_on: Some(5) })
    );
    assert_eq!(parse(flag::PRIORITY, b"\0\0\0\x05"), Err(HeadersError::Length));
}

#[test]
fn long_blocks_are_split() {
    for (len, sizes) in [(0, &[0][..]), (10, &[10]), (11, &[10, 1]), (30, &[10, 10, 10])] {
        let mut out = b"before".to_vec();
        out.extend_from_slice(&[0; HEADER_LEN]);
        out.extend((0..len).map(|i| i as u8));
        headers::finish(&mut out, 6, 5, true, 10);
        let all = frames(&out[6..]);
        assert_eq!(all.iter().map(|(_, p)| p.len()).collect::<Vec<_>>(), sizes);
        for (i, (h, _)) in all.iter().enumerate() {
            let last = i + 1 == all.len();
            assert_eq!(h.kind, if i == 0 { kind::HEADERS } else { kind::CONTINUATION });
            assert_eq!(h.has(flag::END_HEADERS), last);
            assert_eq!(h.has(flag::END_STREAM), i == 0);
        }
        assert_eq!(all.concat_payloads(), (0..len).map(|i| i as u8).collect::<Vec<_>>());
    }
}

trait Concat {
    fn concat_payloads(&self) -> Vec<u8>;
}

impl Concat for Vec<(Header, &[u8])> {
    fn concat_payloads(&self) -> Vec<u8> {
        self.iter().flat_map(|(_, p)| p.to_vec()).collect()
    }
}

#[test]
fn settings_values() {
    let parse = |id: u16, value: u32| {
        let payload = [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
        settings::parse(&payload).next().unwrap()
    };
    let refused = |code| Err((code, Reason::SettingsValue));
    assert_eq!(parse(1, 7), Ok(Setting::HeaderTableSize(7)));
    assert_eq!(parse(2, 0), Ok(Setting::EnablePush(false)));
    assert_eq!(parse(2, 2), refused(ErrorCode::ProtocolError));
    assert_eq!(parse(3, 0), Ok(Setting::MaxConcurrentStreams(0)));
    assert_eq!(parse(4, 0x7fff_ffff), Ok(Setting::InitialWindowSize(0x7fff_ffff)));
    assert_eq!(parse(4, 0x8000_0000), refused(ErrorCode::FlowControlError));
    assert_eq!(parse(5, 16_383), refused(ErrorCode::ProtocolError));
    assert_eq!(parse(5, 1 << 24), refused(ErrorCode::ProtocolError));
    assert_eq!(parse(5, (1 << 24) - 1), Ok(Setting::MaxFrameSize((1 << 24) - 1)));
    assert_eq!(parse(6, 1), Ok(Setting::MaxHeaderListSize(1)));
    assert_eq!(parse(8, 1), Ok(Setting::EnableConnectProtocol(true)));
    assert_eq!(parse(8, 2), refused(ErrorCode::ProtocolError));
    assert_eq!(parse(99, 2), Ok(Setting::Unknown));
}
