//! Query parameters as matches read them: `application/x-www-form-urlencoded`, the first value of a repeated name counts (as the Gateway API recommends).
//!
//! Pairs are separated by `&` only; an escaped `%26` is data. Names and values are decoded (`%XX`, `+` is a space; an escape that is none stays as it is).
//! Without `=` the value is empty. A pair with an empty name matches nothing, because no route can name it.

use smallvec::SmallVec;

/// A decoded value: few are longer than 64 bytes.
pub(crate) type Decoded = SmallVec<[u8; 64]>;

/// Pairs in order, not decoded.
pub(crate) fn pairs(query: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    query.split(|b| *b == b'&').filter(|p| !p.is_empty()).map(|pair| match pair.iter().position(|b| *b == b'=') {
        Some(at) => (&pair[..at], &pair[at + 1..]),
        None => (pair, &[][..]),
    })
}

fn bytes(raw: &[u8]) -> impl Iterator<Item = u8> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let b = *raw.get(at)?;
        let digit = |i: usize| raw.get(at + i).and_then(|b| (*b as char).to_digit(16));
        let (b, n) = match (b, digit(1), digit(2)) {
            (b'%', Some(high), Some(low)) => ((high << 4 | low) as u8, 3),
            (b'+', ..) => (b' ', 1),
            _ => (b, 1),
        };
        at += n;
        Some(b)
    })
}

/// Whether `raw` decodes to `expected`.
pub(crate) fn is(raw: &[u8], expected: &[u8]) -> bool {
    bytes(raw).eq(expected.iter().copied())
}

pub(crate) fn decode(raw: &[u8]) -> Decoded {
    bytes(raw).collect()
}

/// The first value of `name`, not decoded.
pub(crate) fn first<'q>(query: &'q [u8], name: &[u8]) -> Option<&'q [u8]> {
    pairs(query).find(|(n, _)| is(n, name)).map(|(_, v)| v)
}
