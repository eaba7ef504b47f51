//! Where a body ends (RFC 9112, 6 and 7): `Content-Length`, chunks, or the end of the connection.
//!
//! Data is handed out as slices of the input; only the bytes of size lines are looked at one by one. A trailer section is collected in the connection's
//! buffer of partial heads, because it is parsed as a whole.

use super::{Config, Reason, parse, spare};
use crate::head::Head;

/// Extensions mean nothing to anybody; 4 KiB in one body are more than any sender needs and less than an attacker wants.
const MAX_EXTENSIONS: u32 = 4 * 1024;
/// Hexadecimal digits of a chunk size: what an `u64` has.
const MAX_DIGITS: u8 = 16;

/// How the length of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none, whatever the fields say.
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    /// In the size; digits so far.
    Size {
        value: u64,
        digits: u8,
    },
    /// White space before `;`.
    Gap(u64),
    Extension(u64),
    /// CR of a size line was seen.
    SizeEnd(u64),
    Data(u64),
    DataCr,
    DataLf,
    /// The last chunk's size line is over.
    Trailers,
}

/// Follows one body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decoder {
    Done,
    Length(u64),
    UntilClose,
    Chunked { chunk: State, extensions: u32 },
}
/// Opaque to the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State(Chunk);

pub(super) enum Step<'i> {
    /// The input is consumed.
    More,
    Data(&'i [u8], bool),
    Trailers(Box<Head>),
}

impl Decoder {
    pub(super) fn new(framing: Framing) -> Decoder {
        match framing {
            Framing::None | Framing::Length(0) => Decoder::Done,
            Framing::Length(n) => Decoder::Length(n),
            Framing::UntilClose => Decoder::UntilClose,
            Framing::Chunked => Decoder::Chunked { chunk: State(Chunk::Size { value: 0, digits: 0 }), extensions: 0 },
        }
    }
    pub(super) fn is_done(&self) -> bool {
        *self == Decoder::Done
    }
    /// What is still to come, as far as it is known.
    pub(super) fn left(&self) -> Option<u64> {
        match *self {
            Decoder::Done => Some(0),
            Decoder::Length(n) => Some(n),
            Decoder::UntilClose | Decoder::Chunked { .. } => None,
        }
    }
    /// The next piece of the body. `partial` is empty unless a trailer section has begun.
    pub(super) fn step<'i>(
        &mut self,
        input: &mut &'i [u8],
        partial: &mut Vec<u8>,
        config: &Config,
    ) -> Result<Step<'i>, Reason> {
        if input.is_empty() {
            return Ok(Step::More);
        }
        match self {
            Decoder::Done => Ok(Step::More),
            Decoder::UntilClose => Ok(Step::Data(std::mem::take(input), false)),
            Decoder::Length(left) => {
                let n = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                let data = take(input, n);
                *left -= n as u64;
                let end = *left == 0;
                if end {
                    *self = Decoder::Done;
                }
                Ok(Step::Data(data, end))
            }
            Decoder::Chunked { chunk, extensions } => {
                let chunk = &mut chunk.0;
                while let Some(&b) = input.first() {
                    *chunk = match *chunk {
                        Chunk::Data(left) => {
                            let n = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                            let data = take(input, n);
                            let left = left - n as u64;
                            *chunk = if left == 0 { Chunk::DataCr } else { Chunk::Data(left) };
                            // mostly the body ends here: say so in the same event
                            if left == 0 && input.starts_with(b"\r\n0\r\n\r\n") {
                                take(input, 7);
                                *self = Decoder::Done;
                                return Ok(Step::Data(data, true));
                            }
                            return Ok(Step::Data(data, false));
                        }
                        Chunk::Trailers => {
                            let section = match collect_trailers(input, partial, config)? {
                                Some(section) => section,
                                None => return Ok(Step::More),
                            };
                            *self = Decoder::Done;
                            return Ok(match section {
                                Some(head) => Step::Trailers(head),
                                None => Step::Data(&[], true),
                            });
                        }
                        Chunk::Size { value, digits } => match (b as char).to_digit(16) {
                            // 2^63 and more would overflow somebody's signed integer
                            Some(_) if digits == MAX_DIGITS || value >> 59 != 0 => return Err(Reason::Chunk),
                            Some(d) => Chunk::Size { value: value << 4 | u64::from(d), digits: digits + 1 },
                            None if digits == 0 => return Err(Reason::Chunk),
                            None => match b {
                                b'\r' => Chunk::SizeEnd(value),
                                b';' => Chunk::Extension(value),
                                b' ' | b'\t' => Chunk::Gap(value),
                                _ => return Err(Reason::Chunk),
                            },
                        },
                        Chunk::Gap(value) => match b {
                            b' ' | b'\t' => Chunk::Gap(value),
                            b';' => Chunk::Extension(value),
                            _ => return Err(Reason::Chunk),
                        },
                        Chunk::Extension(value) => match b {
                            b'\r' => Chunk::SizeEnd(value),
                            b'\t' | b' '..=0x7e | 0x80.. => Chunk::Extension(value),
                            _ => return Err(Reason::Chunk),
                        },
                        Chunk::SizeEnd(0) if b == b'\n' => Chunk::Trailers,
                        Chunk::SizeEnd(value) if b == b'\n' => Chunk::Data(value),
                        Chunk::DataCr if b == b'\r' => Chunk::DataLf,
                        Chunk::DataLf if b == b'\n' => Chunk::Size { value: 0, digits: 0 },
                        Chunk::SizeEnd(_) | Chunk::DataCr | Chunk::DataLf => return Err(Reason::Chunk),
                    };
                    if matches!(chunk, Chunk::Gap(_) | Chunk::Extension(_)) {
                        *extensions += 1;
                        if *extensions > MAX_EXTENSIONS {
                            return Err(Reason::ChunkExtensions);
                        }
                    }
                    take(input, 1);
                }
                Ok(Step::More)
            }
        }
    }
}

pub(super) fn take<'i>(input: &mut &'i [u8], n: usize) -> &'i [u8] {
    let (head, rest) = input.split_at(n);
    *input = rest;
    head
}

/// Outer `None`: incomplete, all input collected. Inner `None`: the section had nothing to pass on.
#[allow(clippy::type_complexity)]
fn collect_trailers(
    input: &mut &[u8],
    partial: &mut Vec<u8>,
    config: &Config,
) -> Result<Option<Option<Box<Head>>>, Reason> {
    if partial.is_empty() {
        if input.starts_with(b"\r\n") {
            take(input, 2);
            return Ok(Some(None));
        }
        if let Some((head, n)) = parse::trailers(input, config)? {
            take(input, n);
            return Ok(Some(head));
        }
    }
    let before = partial.len();
    let n = input.len().min(config.max_head + 1 - before);
    parse::append(partial, &input[..n], config.max_head);
    let done = match partial[..] {
        [b'\r', b'\n', ..] => Some((None, 2)),
        _ if parse::worth_it(partial, before) => parse::trailers(partial, config)?,
        _ => None,
    };
    match done {
        Some((head, n)) => {
            take(input, n - before);
            partial.clear();
            spare::release(partial);
            Ok(Some(head))
        }
        None if partial.len() > config.max_head => Err(Reason::HeadTooLarge),
        None => {
            take(input, n);
            Ok(None)
        }
    }
}
