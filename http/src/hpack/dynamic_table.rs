//! The dynamic table (RFC 7541, 2.3.2 and 4), for both directions.
//!
//! Text lies in one buffer, oldest first; entries are spans in it. Evicting moves a mark, and the buffer is moved together when half of it is dead: no
//! allocation for an entry once the buffer has grown to its size.

use super::Class;
use std::collections::VecDeque;

/// RFC 7541, 4.1.
pub const ENTRY_OVERHEAD: usize = 32;
/// Dead bytes that are not worth moving the rest for.
const SLACK: usize = 512;

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: u32,
    name: u32,
    value: u32,
    /// Of name and value, see [`super::hash`].
    hash: u32,
    class: Class,
    value_ok: bool,
}

/// A field in a table, with what was found out when it was put there.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    pub name: &'a [u8],
    pub value: &'a [u8],
    pub hash: u32,
    pub class: Class,
    pub value_ok: bool,
}

#[derive(Debug, Default)]
pub struct DynamicTable {
    /// Newest at the back.
    entries: VecDeque<Entry>,
    text: Vec<u8>,
    /// Where live text begins in `text`.
    start: usize,
    /// The virtual offset of `text[0]`; offsets of entries wrap around.
    base: u32,
    size: usize,
    max: usize,
}

impl DynamicTable {
    pub fn new(max: usize) -> Self {
        DynamicTable { max, ..Default::default() }
    }
    pub fn len(&self) -> usize {
        self.entries.len()
    }
    /// RFC 7541, 4.1.
    #[cfg(test)]
    pub fn size(&self) -> usize {
        self.size
    }
    pub fn max(&self) -> usize {
        self.max
    }
    /// RFC 7541, 4.3.
    pub fn set_max(&mut self, max: usize) {
        self.max = max;
        self.evict_to(max);
    }
    fn evict_to(&mut self, size: usize) {
        while self.size > size {
            let Some(e) = self.entries.pop_front() else { break };
            let text = (e.name + e.value) as usize;
            self.size -= text + ENTRY_OVERHEAD;
            self.start += text;
        }
        if self.entries.is_empty() {
            self.base = self.base.wrapping_add(self.text.len() as u32);
            self.text.clear();
            self.start = 0;
        } else if self.start > self.text.len() / 2 && self.start > SLACK {
            self.text.drain(..self.start);
            self.base = self.base.wrapping_add(self.start as u32);
            self.start = 0;
        }
    }
    /// The entry of this age; 0 is the newest.
    #[inline]
    pub fn get(&self, age: usize) -> Option<Stored<'_>> {
        let e = self.entries.get(self.entries.len().checked_sub(age + 1)?)?;
        let at = e.at.wrapping_sub(self.base) as usize;
        let value = at + e.name as usize;
        Some(Stored {
            name: &self.text[at..value],
            value: &self.text[value..value + e.value as usize],
            hash: e.hash,
            class: e.class,
            value_ok: e.value_ok,
        })
    }
    /// Adds an entry, evicting older ones; one that is larger than the table empties it (RFC 7541, 4.4). True when it is in the table now.
    pub fn insert(&mut self, field: Stored<'_>) -> bool {
        let text = field.name.len() + field.value.len();
        let size = text + ENTRY_OVERHEAD;
        if size > self.max {
            self.evict_to(0);
            return false;
        }
        self.evict_to(self.max - size);
        let at = self.base.wrapping_add(self.text.len() as u32);
        self.text.extend_from_slice(field.name);
        self.text.extend_from_slice(field.value);
        self.entries.push_back(Entry {
            at,
            name: field.name.len() as u32,
            value: field.value.len() as u32,
            hash: field.hash,
            class: field.class,
            value_ok: field.value_ok,
        });
        self.size += size;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::Known;
    use proptest::prelude::*;

    fn stored<'a>(name: &'a [u8], value: &'a [u8]) -> Stored<'a> {
        Stored { name, value, hash: 7, class: Class::Regular(Known::Other), value_ok: true }
    }

    proptest! {
        /// Against the plainest model: a list of pairs.
        #[test]
        fn is_a_bounded_queue(steps in prop::collection::vec((0usize..400, 0usize..30, 0usize..40), 1..300)) {
            let mut table = DynamicTable::new(256);
            let mut model: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
            let mut max = 256;
            for (i, (name, value, resize)) in steps.into_iter().enumerate() {
                if resize == 0 {
                    max = name;
                    table.set_max(max);
                } else {
                    let (n, v) = (vec![i as u8; name % 50], vec![!(i as u8); value]);
                    let fits = n.len() + v.len() + 32 <= max;
                    prop_assert_eq!(table.insert(stored(&n, &v)), fits);
                    if fits { model.insert(0, (n, v)) } else { model.clear() }
                }
                while model.iter().map(|(n, v)| n.len() + v.len() + 32).sum::<usize>() > max {
                    model.pop();
                }
                prop_assert_eq!(table.len(), model.len());
                prop_assert!(table.size() <= max);
                prop_assert!(table.text.len() <= 2 * 400 + SLACK);
                for (age, (n, v)) in model.iter().enumerate() {
                    let e = table.get(age).unwrap();
                    prop_assert_eq!((e.name, e.value), (&n[..], &v[..]));
                }
                prop_assert!(table.get(model.len()).is_none());
            }
        }
    }
}
