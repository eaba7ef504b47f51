//! The beginning of a `weft/tcp` connection between two sidecars: who speaks which version, and whether the application was reached.
//!
//! ```text
//! client: 'W' 'T' version(1) reserved(1) length(2, big endian) <length bytes, ignored>     then application bytes
//! server:         version(1) status(1)   length(2, big endian) <length bytes: text>        then application bytes
//! ```
//!
//! The client sends its first application bytes behind the preamble without waiting, so an opaque connection costs no extra round trip. It keeps
//! them until the answer: `status` other than `Connected` means that the application never saw them, and another endpoint may be tried.

/// The version that this build speaks. A server answers with the lower of both.
pub const VERSION: u8 = 1;
const MAGIC: [u8; 2] = *b"WT";
const CLIENT_LEN: usize = 6;
const SERVER_LEN: usize = 4;
/// Extensions and texts are short; more is an attack.
const EXT_MAX: usize = 1024;

/// What became of the dial to the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    Connected = 0,
    /// The application refused the connection or could not be reached.
    Unreachable = 1,
    /// It did not answer in time.
    Timeout = 2,
    /// Policy forbids it.
    Denied = 3,
    /// This proxy is at a limit.
    Overloaded = 4,
    /// A status that this build does not know: treated as not connected.
    Unknown = 255,
}
impl Status {
    fn of(b: u8) -> Status {
        match b {
            0 => Status::Connected,
            1 => Status::Unreachable,
            2 => Status::Timeout,
            3 => Status::Denied,
            4 => Status::Overloaded,
            _ => Status::Unknown,
        }
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PreambleError {
    #[error("weft/tcp preamble does not begin with WT")]
    Magic,
    #[error("weft/tcp version {0} is unknown")]
    Version(u8),
    #[error("weft/tcp extension of {0} bytes, at most {EXT_MAX} are allowed")]
    TooLong(usize),
}

/// What the client side sends first.
pub fn request() -> [u8; CLIENT_LEN] {
    [MAGIC[0], MAGIC[1], VERSION, 0, 0, 0]
}

/// What the server side answers, once.
pub fn answer(status: Status) -> [u8; SERVER_LEN] {
    [VERSION, status as u8, 0, 0]
}

fn extension(b: &[u8], at: usize) -> Result<Option<usize>, PreambleError> {
    let n = u16::from_be_bytes([b[at - 2], b[at - 1]]) as usize;
    if n > EXT_MAX {
        return Err(PreambleError::TooLong(n));
    }
    Ok((b.len() >= at + n).then_some(at + n))
}

/// Parses the client's preamble: how many bytes it took, or `None` when more are needed.
pub fn parse_request(b: &[u8]) -> Result<Option<usize>, PreambleError> {
    let n = b.len().min(MAGIC.len());
    if b[..n] != MAGIC[..n] {
        return Err(PreambleError::Magic);
    }
    if let Some(v) = b.get(2)
        && *v == 0
    {
        return Err(PreambleError::Version(*v));
    }
    if b.len() < CLIENT_LEN {
        return Ok(None);
    }
    extension(b, CLIENT_LEN)
}

/// Parses the server's answer: the status and how many bytes it took, or `None` when more are needed.
pub fn parse_answer(b: &[u8]) -> Result<Option<(Status, usize)>, PreambleError> {
    if let Some(v) = b.first()
        && (*v == 0 || *v > VERSION)
    {
        return Err(PreambleError::Version(*v));
    }
    if b.len() < SERVER_LEN {
        return Ok(None);
    }
    Ok(extension(b, SERVER_LEN)?.map(|n| (Status::of(b[1]), n)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_at_every_cut() {
        let r = request();
        for n in 0..r.len() {
            assert_eq!(parse_request(&r[..n]), Ok(None));
        }
        assert_eq!(parse_request(&r), Ok(Some(6)));
        for s in [Status::Connected, Status::Unreachable, Status::Timeout, Status::Denied, Status::Overloaded] {
            let a = answer(s);
            assert_eq!(parse_answer(&a[..3]), Ok(None));
            assert_eq!(parse_answer(&a), Ok(Some((s, 4))));
        }
    }

    #[test]
    fn extensions_are_skipped_and_bounded() {
        let mut r = vec![b'W', b'T', 9, 0, 0, 3, b'a', b'b'];
        assert_eq!(parse_request(&r), Ok(None));
        r.extend_from_slice(b"cGET");
        assert_eq!(parse_request(&r), Ok(Some(9)));
        assert_eq!(parse_request(&[b'W', b'T', 1, 0, 255, 255]), Err(PreambleError::TooLong(65535)));
    }

    #[test]
    fn strangers_are_refused() {
        assert_eq!(parse_request(b"GET / HTTP/1.1"), Err(PreambleError::Magic));
        assert_eq!(parse_request(b"WT\0"), Err(PreambleError::Version(0)));
        assert_eq!(parse_answer(&[7, 0, 0, 0]), Err(PreambleError::Version(7)));
        assert_eq!(parse_answer(&[1, 77, 0, 0]), Ok(Some((Status::Unknown, 4))));
    }
}
