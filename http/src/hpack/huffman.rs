//! The Huffman code of RFC 7541, 5.2.
//!
//! The code of appendix B is canonical: codes of one length are consecutive in the order of their symbols, so the lengths determine everything and all tables are
//! computed at compile time. Decoding looks up the first eight bits, which settles the symbols that occur in text; longer codes are found by comparing with the
//! limit of each length.

use super::HpackError;

/// RFC 7541, appendix B: bits of the code of each byte, and of EOS.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, //
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, //
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, //
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, //
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, //
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, //
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, //
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, //
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, //
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, //
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, //
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, //
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, //
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, //
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, //
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, //
    30,
];
const EOS: u16 = 256;
const LONGEST: usize = 30;

struct Tables {
    /// The code of each symbol, right-aligned.
    code: [u32; 257],
    /// Symbols in the order of their codes.
    order: [u16; 257],
    /// By length: the first code, the end of the codes (both left-aligned to 32 bits), and where its symbols begin in `order`.
    first: [u32; LONGEST + 1],
    end: [u64; LONGEST + 1],
    from: [u16; LONGEST + 1],
    /// By the first eight bits: (symbol, length), or length 0 when the code is longer.
    short: [(u8, u8); 256],
}

static TABLES: Tables = tables();

const fn tables() -> Tables {
    let mut t = Tables {
        code: [0; 257],
        order: [0; 257],
        first: [0; LONGEST + 1],
        end: [0; LONGEST + 1],
        from: [0; LONGEST + 1],
        short: [(0, 0); 256],
    };
    let (mut code, mut n, mut len) = (0u32, 0, 1);
    while len <= LONGEST {
        t.first[len] = code << (32 - len);
        t.from[len] = n as u16;
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] as usize == len {
                t.code[symbol] = code;
                t.order[n] = symbol as u16;
                if len <= 8 {
                    let mut i = (code as usize) << (8 - len);
                    let end = (code as usize + 1) << (8 - len);
                    while i < end {
                        t.short[i] = (symbol as u8, len as u8);
                        i += 1;
                    }
                }
                code += 1;
                n += 1;
            }
            symbol += 1;
        }
        t.end[len] = (code as u64) << (32 - len);
        code <<= 1;
        len += 1;
    }
    t
}

/// Appends the decoded text.
pub fn decode(mut input: &[u8], out: &mut Vec<u8>) -> Result<(), HpackError> {
    let t = &TABLES;
    // every code has five bits at least
    out.reserve(input.len() * 8 / 5 + 1);
    let (mut bits, mut have) = (0u64, 0u32); // left-aligned
    loop {
        while have <= 56 {
            let Some((&byte, rest)) = input.split_first() else { break };
            bits |= u64::from(byte) << (56 - have);
            have += 8;
            input = rest;
        }
        // 32 bits, filled up with ones: what padding consists of (5.2)
        let window = (bits >> 32) as u32 | u32::MAX.checked_shr(have).unwrap_or(0);
        let (mut symbol, mut len) = t.short[(window >> 24) as usize];
        if len == 0 {
            let mut long = 9;
            while u64::from(window) >= t.end[long] {
                long += 1;
                if long > LONGEST {
                    break;
                }
            }
            if long > LONGEST {
                long = LONGEST;
            }
            let i = t.from[long] as usize + ((window - t.first[long]) >> (32 - long)) as usize;
            let wide = t.order[i];
            if long as u32 > have {
                return padding(window, have);
            }
            if wide == EOS {
                return Err(HpackError::Huffman);
            }
            (symbol, len) = (wide as u8, long as u8);
        }
        if u32::from(len) > have {
            return padding(window, have);
        }
        out.push(symbol);
        bits <<= len;
        have -= u32::from(len);
    }
}

/// What is left is padding: less than a byte, all ones.
fn padding(window: u32, have: u32) -> Result<(), HpackError> {
    if have < 8 && window == u32::MAX { Ok(()) } else { Err(HpackError::Huffman) }
}

/// Bytes of the encoded text.
pub fn encoded_len(text: &[u8]) -> usize {
    text.iter().map(|b| LENGTHS[*b as usize] as usize).sum::<usize>().div_ceil(8)
}

/// Appends the encoded text.
pub fn encode(text: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut have) = (0u64, 0u32); // right-aligned
    for &b in text {
        let len = u32::from(LENGTHS[b as usize]);
        bits = bits << len | u64::from(TABLES.code[b as usize]);
        have += len;
        while have >= 8 {
            have -= 8;
            out.push((bits >> have) as u8);
        }
    }
    if have > 0 {
        out.push((bits << (8 - have)) as u8 | (0xff >> have));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_code_is_complete() {
        // spot checks against appendix B, and Kraft's sum
        assert_eq!(TABLES.code[0], 0x1ff8);
        assert_eq!(TABLES.code[b'a' as usize], 0x3);
        assert_eq!(TABLES.code[b'Z' as usize], 0xfd);
        assert_eq!(TABLES.code[255], 0x3ff_ffee);
        assert_eq!(TABLES.code[256], 0x3fff_ffff);
        assert_eq!(LENGTHS.iter().map(|l| 1u64 << (30 - l)).sum::<u64>(), 1 << 30);
    }

    #[test]
    fn examples_of_the_rfc() {
        // RFC 7541, C.4.1 and C.6.1
        let mut out = Vec::new();
        encode(b"www.example.com", &mut out);
        assert_eq!(out, [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff]);
        let mut text = Vec::new();
        decode(&[0xae, 0xc3, 0x77, 0x1a, 0x4b], &mut text).unwrap();
        assert_eq!(text, b"private");
    }

    #[test]
    fn bad_padding_and_eos() {
        let d = |bytes: &[u8]| decode(bytes, &mut Vec::new());
        assert_eq!(d(&[]), Ok(()));
        assert_eq!(d(&[0b0001_1111]), Ok(())); // a, padding
        assert_eq!(d(&[0b0001_1110]), Err(HpackError::Huffman)); // padding with a zero
        assert_eq!(d(&[0xff]), Err(HpackError::Huffman)); // eight bits of padding
        assert_eq!(d(&[0x1f, 0xff]), Err(HpackError::Huffman));
        assert_eq!(d(&[0xff, 0xff, 0xff, 0xff]), Err(HpackError::Huffman)); // EOS
        assert_eq!(d(&[0xff, 0xff, 0xff, 0xfc]), Err(HpackError::Huffman)); // EOS, then zeros
    }

    proptest! {
        #[test]
        fn round_trip(text: Vec<u8>) {
            let (mut code, mut back) = (Vec::new(), Vec::new());
            encode(&text, &mut code);
            prop_assert_eq!(code.len(), encoded_len(&text));
            decode(&code, &mut back).unwrap();
            prop_assert_eq!(back, text);
        }
        #[test]
        fn no_input_panics(code: Vec<u8>) {
            let mut text = Vec::new();
            if decode(&code, &mut text).is_ok() {
                // one text has one code
                let mut again = Vec::new();
                encode(&text, &mut again);
                prop_assert_eq!(again, code);
            }
        }
    }
}
