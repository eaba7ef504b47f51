//! Decompression (RFC 7541, 3 and 6).

use super::dynamic_table::{DynamicTable, Stored};
use super::static_table::STATIC;
use super::{Class, HpackError, hash, huffman, integer, value_ok};
use crate::h1::spare;
use crate::head::Tag;

/// A decoded field. The text is valid during the call only.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    pub class: Class,
    pub name: &'a [u8],
    pub value: &'a [u8],
    /// See [`Class::BadName`] for names; this is for values.
    pub value_ok: bool,
    pub tag: Tag,
}

/// One direction of one connection. Owns no memory before the first field enters its table.
#[derive(Debug)]
pub struct Decoder {
    table: DynamicTable,
    /// The limit that the peer must obey: our SETTINGS_HEADER_TABLE_SIZE.
    limit: usize,
    /// The limit became smaller than what the peer uses: its next block must begin with an update (RFC 7541, 4.2).
    must_update: bool,
}

/// RFC 9113, 6.5.2.
pub const DEFAULT_TABLE: usize = 4096;

impl Decoder {
    /// `limit` may be used by the peer at once, hence not less than the protocol's default before it has acknowledged our SETTINGS.
    pub fn new(limit: usize) -> Self {
        Decoder { table: DynamicTable::new(DEFAULT_TABLE), limit: limit.max(DEFAULT_TABLE), must_update: false }
    }
    /// The peer has acknowledged this limit.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        self.must_update = self.table.max() > limit;
    }
    /// Decodes a whole block. Fields are handed out in order, malformed ones, too, because the tables must follow.
    pub fn decode(&mut self, block: &[u8], mut sink: impl FnMut(Field<'_>)) -> Result<(), HpackError> {
        let mut scratch = Scratch { names: Vec::new(), values: Vec::new() };
        self.decode_with(block, &mut scratch, &mut sink)
    }
    fn decode_with(
        &mut self,
        mut block: &[u8],
        scratch: &mut Scratch,
        sink: &mut impl FnMut(Field<'_>),
    ) -> Result<(), HpackError> {
        let (mut fields, mut updates) = (false, 0);
        while let Some(&first) = block.first() {
            if first & 0xe0 == 0x20 {
                let max = integer::decode(&mut block, 5)?;
                updates += 1;
                // two is what an encoder may need: the smallest size since the last block, then the final one (RFC 7541, 4.2)
                if fields || updates > 2 || max > self.limit {
                    return Err(HpackError::SizeUpdate);
                }
                self.table.set_max(max);
                self.must_update = false;
                continue;
            }
            if self.must_update {
                return Err(HpackError::SizeUpdateMissing);
            }
            fields = true;
            if first & 0x80 != 0 {
                let index = integer::decode(&mut block, 7)?;
                sink(self.indexed(index)?);
            } else {
                self.literal(first, &mut block, scratch, sink)?;
            }
        }
        Ok(())
    }
    #[inline]
    fn indexed(&self, index: usize) -> Result<Field<'_>, HpackError> {
        if let Some((name, value, class)) = STATIC.get(index.wrapping_sub(1)) {
            return Ok(Field { class: *class, name, value, value_ok: true, tag: Tag::NONE });
        }
        let Stored { name, value, hash, class, value_ok } =
            index.checked_sub(STATIC.len() + 1).and_then(|age| self.table.get(age)).ok_or(HpackError::Index)?;
        Ok(Field { class, name, value, value_ok, tag: Tag::hash(hash) })
    }
    fn literal(
        &mut self,
        first: u8,
        block: &mut &[u8],
        scratch: &mut Scratch,
        sink: &mut impl FnMut(Field<'_>),
    ) -> Result<(), HpackError> {
        let insert = first & 0xc0 == 0x40;
        let never = first & 0xf0 == 0x10;
        let index = integer::decode(block, if insert { 6 } else { 4 })?;
        let (name, class): (&[u8], Class) = match index {
            0 => {
                let name = string(block, &mut scratch.names)?;
                (name, Class::of(name))
            }
            _ => match STATIC.get(index - 1) {
                Some((name, _, class)) => (name, *class),
                None => {
                    let named = self.table.get(index - STATIC.len() - 1).ok_or(HpackError::Index)?;
                    // its entry may have to make room for the new one
                    spare::ensure(&mut scratch.names);
                    scratch.names.clear();
                    scratch.names.extend_from_slice(named.name);
                    (&scratch.names, named.class)
                }
            },
        };
        let value = string(block, &mut scratch.values)?;
        let value_ok = value_ok(value);
        let tag = match (never, insert) {
            (true, _) => Tag::NEVER_INDEXED,
            (_, false) => Tag::NONE,
            (_, true) => {
                let hash = hash(name, value);
                self.table.insert(Stored { name, value, hash, class, value_ok });
                Tag::hash(hash)
            }
        };
        sink(Field { class, name, value, value_ok, tag });
        Ok(())
    }
}

/// Room for Huffman-coded text, from the thread's free list.
struct Scratch {
    names: Vec<u8>,
    values: Vec<u8>,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        spare::give(std::mem::take(&mut self.names));
        spare::give(std::mem::take(&mut self.values));
    }
}

/// RFC 7541, 5.2.
#[inline]
fn string<'a, 'b: 'a>(block: &mut &'b [u8], scratch: &'a mut Vec<u8>) -> Result<&'a [u8], HpackError> {
    let coded = block.first().ok_or(HpackError::Truncated)? & 0x80 != 0;
    let len = integer::decode(block, 7)?;
    let (text, rest) = block.split_at_checked(len).ok_or(HpackError::Truncated)?;
    *block = rest;
    if !coded {
        return Ok(text);
    }
    spare::ensure(scratch);
    scratch.clear();
    huffman::decode(text, scratch)?;
    Ok(scratch)
}
