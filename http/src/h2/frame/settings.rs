//! SETTINGS (RFC 9113, 6.5; RFC 8441, 3).

use super::{MAX_WINDOW, MIN_MAX_FRAME, flag, kind, put_header};
use crate::h2::{ErrorCode, Reason};

pub const HEADER_TABLE_SIZE: u16 = 1;
pub const ENABLE_PUSH: u16 = 2;
pub const MAX_CONCURRENT_STREAMS: u16 = 3;
pub const INITIAL_WINDOW_SIZE: u16 = 4;
pub const MAX_FRAME_SIZE: u16 = 5;
pub const MAX_HEADER_LIST_SIZE: u16 = 6;
pub const ENABLE_CONNECT_PROTOCOL: u16 = 8;

/// Largest value of SETTINGS_MAX_FRAME_SIZE.
pub const MAX_MAX_FRAME: u32 = (1 << 24) - 1;

/// One parameter with a value that is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    HeaderTableSize(u32),
    EnablePush(bool),
    MaxConcurrentStreams(u32),
    InitialWindowSize(u32),
    MaxFrameSize(u32),
    MaxHeaderListSize(u32),
    EnableConnectProtocol(bool),
    /// Must be ignored (RFC 9113, 6.5.2).
    Unknown,
}

/// The parameters in order, in which they also take effect. The payload's length is a multiple of six: the caller has seen to that.
pub fn parse(payload: &[u8]) -> impl Iterator<Item = Result<Setting, (ErrorCode, Reason)>> {
    payload.as_chunks::<6>().0.iter().map(|b| {
        let value = u32::from_be_bytes([b[2], b[3], b[4], b[5]]);
        let refuse = |code| Err((code, Reason::SettingsValue));
        Ok(match u16::from_be_bytes([b[0], b[1]]) {
            HEADER_TABLE_SIZE => Setting::HeaderTableSize(value),
            ENABLE_PUSH if value > 1 => return refuse(ErrorCode::ProtocolError),
            ENABLE_PUSH => Setting::EnablePush(value == 1),
            MAX_CONCURRENT_STREAMS => Setting::MaxConcurrentStreams(value),
            INITIAL_WINDOW_SIZE if i64::from(value) > MAX_WINDOW => return refuse(ErrorCode::FlowControlError),
            INITIAL_WINDOW_SIZE => Setting::InitialWindowSize(value),
            MAX_FRAME_SIZE if !(MIN_MAX_FRAME..=MAX_MAX_FRAME).contains(&value) => {
                return refuse(ErrorCode::ProtocolError);
            }
            MAX_FRAME_SIZE => Setting::MaxFrameSize(value),
            MAX_HEADER_LIST_SIZE => Setting::MaxHeaderListSize(value),
            ENABLE_CONNECT_PROTOCOL if value > 1 => return refuse(ErrorCode::ProtocolError),
            ENABLE_CONNECT_PROTOCOL => Setting::EnableConnectProtocol(value == 1),
            _ => Setting::Unknown,
        })
    })
}

pub fn put(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    put_header(out, 6 * settings.len(), kind::SETTINGS, 0, 0);
    for (id, value) in settings {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

pub fn put_ack(out: &mut Vec<u8>) {
    put_header(out, 0, kind::SETTINGS, flag::ACK, 0);
}
