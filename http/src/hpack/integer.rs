//! Integers with a prefix (RFC 7541, 5.1).

use super::HpackError;

/// Continuation bytes that are looked at: four carry 28 bits, more than any index, length or table size that is accepted.
const MAX_CONTINUATION: usize = 4;

/// Takes an integer with a prefix of `bits` bits off the front.
#[inline]
pub fn decode(input: &mut &[u8], bits: u32) -> Result<usize, HpackError> {
    let (&first, rest) = input.split_first().ok_or(HpackError::Truncated)?;
    let mask = (1usize << bits) - 1;
    let value = first as usize & mask;
    *input = rest;
    if value < mask { Ok(value) } else { decode_long(input, mask) }
}

fn decode_long(input: &mut &[u8], mut value: usize) -> Result<usize, HpackError> {
    for i in 0..MAX_CONTINUATION {
        let (&byte, rest) = input.split_first().ok_or(HpackError::Truncated)?;
        *input = rest;
        value += ((byte & 0x7f) as usize) << (7 * i);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(HpackError::Integer)
}

/// Appends `value` with a prefix of `bits` bits; `first` holds the bits above it.
#[inline]
pub fn encode(out: &mut Vec<u8>, first: u8, bits: u32, value: usize) {
    let mask = (1usize << bits) - 1;
    if value < mask {
        out.push(first | value as u8);
        return;
    }
    out.push(first | mask as u8);
    let mut value = value - mask;
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7541, C.1.
    #[test]
    fn examples_of_the_rfc() {
        for (value, bits, bytes) in [(10, 5, &[0x0a][..]), (1337, 5, &[0x1f, 0x9a, 0x0a]), (42, 8, &[0x2a])] {
            let mut out = Vec::new();
            encode(&mut out, 0, bits, value);
            assert_eq!(out, bytes);
            assert_eq!(decode(&mut &out[..], bits), Ok(value));
        }
    }

    #[test]
    fn what_is_refused() {
        assert_eq!(decode(&mut &[][..], 5), Err(HpackError::Truncated));
        assert_eq!(decode(&mut &[0x1f][..], 5), Err(HpackError::Truncated));
        assert_eq!(decode(&mut &[0x1f, 0x80][..], 5), Err(HpackError::Truncated));
        assert_eq!(decode(&mut &[0x1f, 0xff, 0xff, 0xff, 0xff, 0x01][..], 5), Err(HpackError::Integer));
        // zeros that only lengthen it
        assert_eq!(decode(&mut &[0x1f, 0x80, 0x80, 0x80, 0x80, 0x00][..], 5), Err(HpackError::Integer));
    }
}
