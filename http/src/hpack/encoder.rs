//! Compression (RFC 7541, 6).
//!
//! A field enters the dynamic table when it is sent for the second time; so what differs in every request (paths with identifiers, trace
//! contexts, dates) never pushes out what stays. Which fields have been sent is remembered by their hashes, in a small associative cache.
//! Credentials and cookies never enter a table, here or further on (RFC 7541, 7.1.3).

use super::dynamic_table::{DynamicTable, Stored};
use super::static_table::name_index;
use super::{Class, hash, huffman, integer};
use crate::head::{Head, Known, Pseudo, Tag};

/// 32 sets of 4: a table of 4,096 bytes holds 128 entries at most. 1 KiB for each connection that sends heads.
const SETS: usize = 32;
const WAYS: usize = 4;
/// A field that would take more than a quarter of the table is not worth what it pushes out.
const LARGEST_SHARE: usize = 4;

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// 0: empty.
    hash: u32,
    /// Number of the entry, from 1; 0: only seen.
    entry: u32,
}

#[derive(Debug)]
pub struct Encoder {
    table: DynamicTable,
    slots: Vec<[Slot; WAYS]>,
    /// Entries ever inserted.
    inserted: u32,
    /// The most that we use, whatever the peer allows.
    own_max: usize,
    /// Updates that the next block must begin with: the smallest size since the last block, and the final one (RFC 7541, 4.2).
    update: Option<(usize, usize)>,
    huffman: bool,
}

enum Lookup {
    Entry(usize),
    Seen,
    New,
}

impl Encoder {
    /// `own_max`: bytes of the table that are used at most, if the peer allows. Until it does, the protocol's default holds.
    pub fn new(own_max: usize, huffman: bool) -> Self {
        let start = own_max.min(super::DEFAULT_TABLE);
        let update = (start < super::DEFAULT_TABLE).then_some((start, start));
        Encoder { table: DynamicTable::new(start), slots: Vec::new(), inserted: 0, own_max, update, huffman }
    }
    /// The peer's SETTINGS_HEADER_TABLE_SIZE.
    pub fn set_peer_max(&mut self, max: usize) {
        let max = max.min(self.own_max);
        if max == self.table.max() {
            return;
        }
        self.table.set_max(max);
        let least = self.update.map_or(max, |(least, _)| least.min(max));
        self.update = Some((least, max));
    }
    /// Appends the block of a head: pseudo-header fields, then fields. What exists in HTTP/1 only is left out.
    pub fn encode(&mut self, head: &Head, out: &mut Vec<u8>) {
        self.begin(out);
        if head.status != 0 {
            self.status(head.status, out);
        } else {
            self.request(head, out);
        }
        for (known, name, value, tag) in head.tagged_fields() {
            if !known.hop_by_hop() && known != Known::Host {
                self.field(known, name, value, tag, out);
            }
        }
    }
    /// Appends the block of a trailer section.
    pub fn encode_trailers(&mut self, head: &Head, out: &mut Vec<u8>) {
        self.begin(out);
        for (known, name, value, tag) in head.tagged_fields() {
            if !known.hop_by_hop() && known != Known::Host {
                self.field(known, name, value, tag, out);
            }
        }
    }
    fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some((least, last)) = self.update.take() {
            if least < last {
                integer::encode(out, 0x20, 5, least);
            }
            integer::encode(out, 0x20, 5, last);
        }
    }
    #[inline]
    fn status(&mut self, status: u16, out: &mut Vec<u8>) {
        let index = match status {
            200 => 8,
            204 => 9,
            206 => 10,
            304 => 11,
            400 => 12,
            404 => 13,
            500 => 14,
            _ => {
                let digits = [100, 10, 1].map(|unit| b'0' + (status / unit % 10) as u8);
                // no dynamic entry: four bytes are as short as it gets
                integer::encode(out, 0, 4, 8);
                self.string(&digits, out);
                return;
            }
        };
        out.push(0x80 | index);
    }
    fn request(&mut self, head: &Head, out: &mut Vec<u8>) {
        match head.method() {
            b"GET" => out.push(0x82),
            b"POST" => out.push(0x83),
            method => self.pseudo(2, b":method", method, out),
        }
        match head.pseudo(Pseudo::Scheme) {
            Some(b"http") => out.push(0x86),
            Some(b"https") => out.push(0x87),
            Some(scheme) => self.pseudo(6, b":scheme", scheme, out),
            None => {}
        }
        if let Some(authority) = head.pseudo(Pseudo::Authority) {
            self.pseudo(1, b":authority", authority, out);
        }
        match head.pseudo(Pseudo::Path) {
            Some(b"/") => out.push(0x84),
            Some(path) => self.pseudo(4, b":path", path, out),
            None => {}
        }
        if let Some(protocol) = head.pseudo(Pseudo::Protocol) {
            self.pseudo(0, b":protocol", protocol, out);
        }
    }
    fn pseudo(&mut self, index: usize, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        self.indexed_or_literal(index, Class::UnknownPseudo, name, value, hash(name, value), out);
    }
    #[inline]
    fn field(&mut self, known: Known, name: &[u8], value: &[u8], tag: Tag, out: &mut Vec<u8>) {
        use Known::*;
        match known {
            _ if tag == Tag::NEVER_INDEXED => self.literal(0x10, 4, name_index(known, name), name, value, out),
            Authorization | ProxyAuthorization | Cookie | SetCookie => {
                self.literal(0x10, 4, name_index(known, name), name, value, out);
            }
            // different every time: not worth a hash
            Traceparent | RequestId => self.literal(0, 4, 0, name, value, out),
            _ => {
                let hash = tag.get_hash().unwrap_or_else(|| hash(name, value));
                if let Some(age) = self.find(hash, name, value) {
                    integer::encode(out, 0x80, 7, 62 + age);
                } else {
                    let index = name_index(known, name);
                    self.indexed_or_literal(index, Class::Regular(known), name, value, hash, out);
                }
            }
        }
    }
    #[inline]
    fn find(&self, hash: u32, name: &[u8], value: &[u8]) -> Option<usize> {
        match self.lookup(hash) {
            Lookup::Entry(age) => {
                let e = self.table.get(age)?;
                (e.value == value && e.name == name).then_some(age)
            }
            _ => None,
        }
    }
    fn indexed_or_literal(
        &mut self,
        index: usize,
        class: Class,
        name: &[u8],
        value: &[u8],
        hash: u32,
        out: &mut Vec<u8>,
    ) {
        match self.lookup(hash) {
            Lookup::Entry(age) => match self.table.get(age) {
                Some(e) if e.value == value && e.name == name => integer::encode(out, 0x80, 7, 62 + age),
                // another field with the same hash
                _ => self.literal(0, 4, index, name, value, out),
            },
            Lookup::Seen if (name.len() + value.len() + 32) * LARGEST_SHARE <= self.table.max() => {
                self.literal(0x40, 6, index, name, value, out);
                self.table.insert(Stored { name, value, hash, class, value_ok: true });
                self.inserted = self.inserted.wrapping_add(1);
                let entry = self.inserted;
                if let Some(slot) = self.slots[hash as usize % SETS].iter_mut().find(|s| s.hash == hash) {
                    slot.entry = entry;
                }
            }
            Lookup::Seen => self.literal(0, 4, index, name, value, out),
            Lookup::New => {
                self.remember(hash);
                self.literal(0, 4, index, name, value, out);
            }
        }
    }
    #[inline]
    fn lookup(&self, hash: u32) -> Lookup {
        let Some(set) = self.slots.get(hash as usize % SETS) else { return Lookup::New };
        match set.iter().find(|s| s.hash == hash) {
            None => Lookup::New,
            Some(Slot { entry: 0, .. }) => Lookup::Seen,
            Some(slot) => match self.inserted.wrapping_sub(slot.entry) as usize {
                age if age < self.table.len() => Lookup::Entry(age),
                // evicted since: once more, then it may come back
                _ => Lookup::New,
            },
        }
    }
    fn remember(&mut self, hash: u32) {
        if self.slots.is_empty() {
            self.slots.resize(SETS, Default::default());
        }
        let (inserted, live) = (self.inserted, self.table.len());
        let set = &mut self.slots[hash as usize % SETS];
        let in_table = |s: &Slot| s.entry != 0 && (inserted.wrapping_sub(s.entry) as usize) < live;
        let way =
            set.iter().position(|s| s.hash == hash).or_else(|| set.iter().position(|s| s.hash == 0)).or_else(|| {
                // among those that are not in the table, any
                let from = (hash >> 16) as usize % WAYS;
                (0..WAYS).map(|i| (from + i) % WAYS).find(|i| !in_table(&set[*i]))
            });
        // a set full of live entries keeps them
        if let Some(way) = way {
            set[way] = Slot { hash, entry: 0 };
        }
    }
    #[inline]
    fn literal(&self, first: u8, bits: u32, index: usize, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        integer::encode(out, first, bits, index);
        if index == 0 {
            self.string(name, out);
        }
        self.string(value, out);
    }
    #[inline]
    fn string(&self, text: &[u8], out: &mut Vec<u8>) {
        if self.huffman {
            let len = huffman::encoded_len(text);
            if len < text.len() {
                integer::encode(out, 0x80, 7, len);
                huffman::encode(text, out);
                return;
            }
        }
        integer::encode(out, 0, 7, text.len());
        out.extend_from_slice(text);
    }
}
