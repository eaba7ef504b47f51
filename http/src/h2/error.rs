//! Errors of HTTP/2, each naming its code (RFC 9113, 7) and its reason.

/// RFC 9113, 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    NoError,
    ProtocolError,
    InternalError,
    FlowControlError,
    SettingsTimeout,
    StreamClosed,
    FrameSizeError,
    RefusedStream,
    Cancel,
    CompressionError,
    ConnectError,
    EnhanceYourCalm,
    InadequateSecurity,
    Http11Required,
    /// Unknown codes have no special meaning and are passed on as they are.
    Unknown(u32),
}

impl ErrorCode {
    pub const fn from_u32(code: u32) -> ErrorCode {
        use ErrorCode::*;
        match code {
            0x0 => NoError,
            0x1 => ProtocolError,
            0x2 => InternalError,
            0x3 => FlowControlError,
            0x4 => SettingsTimeout,
            0x5 => StreamClosed,
            0x6 => FrameSizeError,
            0x7 => RefusedStream,
            0x8 => Cancel,
            0x9 => CompressionError,
            0xa => ConnectError,
            0xb => EnhanceYourCalm,
            0xc => InadequateSecurity,
            0xd => Http11Required,
            other => Unknown(other),
        }
    }
    pub const fn to_u32(self) -> u32 {
        use ErrorCode::*;
        match self {
            NoError => 0x0,
            ProtocolError => 0x1,
            InternalError => 0x2,
            FlowControlError => 0x3,
            SettingsTimeout => 0x4,
            StreamClosed => 0x5,
            FrameSizeError => 0x6,
            RefusedStream => 0x7,
            Cancel => 0x8,
            CompressionError => 0x9,
            ConnectError => 0xa,
            EnhanceYourCalm => 0xb,
            InadequateSecurity => 0xc,
            Http11Required => 0xd,
            Unknown(other) => other,
        }
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use ErrorCode::*;
        f.write_str(match self {
            NoError => "NO_ERROR",
            ProtocolError => "PROTOCOL_ERROR",
            InternalError => "INTERNAL_ERROR",
            FlowControlError => "FLOW_CONTROL_ERROR",
            SettingsTimeout => "SETTINGS_TIMEOUT",
            StreamClosed => "STREAM_CLOSED",
            FrameSizeError => "FRAME_SIZE_ERROR",
            RefusedStream => "REFUSED_STREAM",
            Cancel => "CANCEL",
            CompressionError => "COMPRESSION_ERROR",
            ConnectError => "CONNECT_ERROR",
            EnhanceYourCalm => "ENHANCE_YOUR_CALM",
            InadequateSecurity => "INADEQUATE_SECURITY",
            Http11Required => "HTTP_1_1_REQUIRED",
            Unknown(code) => return write!(f, "error {code:#x}"),
        })
    }
}

/// The connection is over: GOAWAY with this code is in the output already. What is to be done: fail what [`take_stream`](super::Connection::take_stream)
/// gives, flush, close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {reason}")]
pub struct ConnectionError {
    pub code: ErrorCode,
    pub reason: Reason,
}

/// What the peer did. `Display` is the text for logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Reason {
    #[error("the connection preface is not that of HTTP/2")]
    Preface,
    #[error("the first frame is not SETTINGS")]
    FirstFrame,
    #[error("frame is larger than SETTINGS_MAX_FRAME_SIZE")]
    FrameTooLarge,
    #[error("frame has a wrong length for its type")]
    FrameLength,
    #[error("frame belongs to a stream but has none, or the other way round")]
    FrameStream,
    #[error("frame type is not allowed here")]
    FrameUnexpected,
    #[error("padding is longer than the frame")]
    Padding,
    #[error("a header block was interrupted by another frame")]
    BlockInterrupted,
    #[error("stream depends on itself")]
    SelfDependency,
    #[error("stream identifier is not one that the peer may use")]
    StreamId,
    #[error("frame for a stream that has not begun")]
    IdleStream,
    #[error("frame for a stream that is closed")]
    ClosedStream,
    #[error("more data than the flow-control window allows")]
    WindowExceeded,
    #[error("flow-control window grows beyond 2^31-1")]
    WindowOverflow,
    #[error("window update of zero")]
    WindowZero,
    #[error("a setting has a value that is not allowed")]
    SettingsValue,
    #[error("header block cannot be decompressed")]
    Compression,
    #[error("header block is larger than the limit")]
    BlockTooLarge,
    #[error("too many CONTINUATION frames in one header block")]
    TooManyContinuations,
    #[error("header list is larger than the limit")]
    HeadTooLarge,
    #[error("malformed head: {0}")]
    Head(HeadError),
    #[error("body does not have the length that content-length says")]
    ContentLength,
    #[error("more streams than SETTINGS_MAX_CONCURRENT_STREAMS allows")]
    TooManyStreams,
    #[error("too many {0}")]
    Flood(Abuse),
    #[error("the peer does not read what it asks for")]
    ControlBacklog,
    #[error("closed by us")]
    Local,
}

/// What is counted against floods (see `limits`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Abuse {
    #[error("streams opened and reset at once")]
    Resets,
    #[error("stream errors")]
    StreamErrors,
    #[error("SETTINGS frames")]
    Settings,
    #[error("PING frames")]
    Pings,
    #[error("frames without effect")]
    Ignored,
    #[error("empty DATA frames")]
    EmptyData,
    #[error("WINDOW_UPDATE frames")]
    WindowUpdates,
}

/// Why a head or a trailer section is malformed (RFC 9113, 8.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum HeadError {
    #[error("field name is empty, has upper-case letters or other characters that are not allowed")]
    Name,
    #[error("field value has control characters, or begins or ends with white space")]
    Value,
    #[error("field belongs to one connection and does not exist in HTTP/2")]
    ConnectionField,
    #[error("te has a value other than trailers")]
    Te,
    #[error("pseudo-header field is unknown or not allowed here")]
    PseudoUnknown,
    #[error("pseudo-header field appears twice")]
    PseudoDuplicate,
    #[error("pseudo-header field after a regular one")]
    PseudoOrder,
    #[error("pseudo-header field is missing")]
    PseudoMissing,
    #[error(":method is not a token")]
    Method,
    #[error(":scheme is malformed")]
    Scheme,
    #[error(":path is empty, relative or malformed")]
    Path,
    #[error(":authority or host is missing or malformed")]
    Authority,
    #[error("host differs from :authority")]
    HostDiffers,
    #[error(":status is not three digits, or is 101")]
    Status,
    #[error("content-length is malformed or appears twice")]
    ContentLength,
    #[error("field must not be a trailer")]
    Trailer,
    #[error("trailers without END_STREAM")]
    TrailersNotLast,
    #[error("interim response with END_STREAM")]
    InterimEnd,
    #[error("too many interim responses")]
    TooManyInterim,
}

/// A stream cannot be opened. Nothing has reached the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// [`Event::Room`](super::Event::Room) tells when to try again. Also an extended CONNECT before the peer's SETTINGS, which say whether it takes one.
    #[error("the peer allows no more concurrent streams")]
    NoRoom,
    #[error("the connection is going away")]
    GoingAway,
    #[error("the connection has used up its stream identifiers")]
    Exhausted,
    #[error("the peer does not take extended CONNECT")]
    NoExtendedConnect,
    #[error("the connection has failed")]
    Closed,
}

/// A message cannot be sent. Nothing has reached the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The stream was reset or never existed: an [`Event::Reset`](super::Event::Reset) has told or will tell.
    #[error("the stream is closed")]
    Closed,
    /// Head after the head, anything after the end: a mistake of the caller.
    #[error("the message is not in a state for this")]
    State,
}
