//! A message head: one buffer of bytes with an index of spans into it.
//!
//! A head is copied once, from the bytes that arrived, and kept until its exchange can no longer be retried. Field names are stored in lower case
//! (HTTP/2's form; HTTP/1 names are case-insensitive), and well-known names are recognised once, when the field is added, so that
//! later passes compare one byte. Heads are reused (`clear`), so a request allocates nothing in the steady state.

/// Field names that the engine itself must understand. `Other` is everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Known {
    Other,
    Connection,
    ContentLength,
    Cookie,
    Authorization,
    Expect,
    Host,
    Http2Settings,
    KeepAlive,
    ProxyConnection,
    ProxyAuthorization,
    SetCookie,
    Te,
    Traceparent,
    Trailer,
    TransferEncoding,
    Upgrade,
    GrpcStatus,
    GrpcTimeout,
    ContentType,
    RequestId,
    WeftMeta,
    WeftError,
    WeftClient,
}

impl Known {
    /// `name` must be in lower case.
    #[inline]
    pub fn of(name: &[u8]) -> Known {
        use Known::*;
        match name.len() {
            2 if name == b"te" => Te,
            4 if name == b"host" => Host,
            6 if name == b"cookie" => Cookie,
            6 if name == b"expect" => Expect,
            7 if name == b"upgrade" => Upgrade,
            7 if name == b"trailer" => Trailer,
            9 if name == b"weft-meta" => WeftMeta,
            10 if name == b"connection" => Connection,
            10 if name == b"keep-alive" => KeepAlive,
            10 if name == b"set-cookie" => SetCookie,
            10 if name == b"weft-error" => WeftError,
            11 if name == b"grpc-status" => GrpcStatus,
            11 if name == b"traceparent" => Traceparent,
            11 if name == b"weft-client" => WeftClient,
            12 if name == b"content-type" => ContentType,
            12 if name == b"grpc-timeout" => GrpcTimeout,
            12 if name == b"x-request-id" => RequestId,
            13 if name == b"authorization" => Authorization,
            14 if name == b"content-length" => ContentLength,
            14 if name == b"http2-settings" => Http2Settings,
            16 if name == b"proxy-connection" => ProxyConnection,
            17 if name == b"transfer-encoding" => TransferEncoding,
            19 if name == b"proxy-authorization" => ProxyAuthorization,
            _ => Other,
        }
    }
    /// Belongs to one connection, never forwarded (RFC 9110, 7.6.1). `te` is judged by its value.
    #[inline]
    pub fn hop_by_hop(self) -> bool {
        use Known::*;
        matches!(self, Connection | KeepAlive | ProxyConnection | TransferEncoding | Upgrade | Http2Settings)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Span {
    at: u32,
    len: u32,
}

#[derive(Clone, Copy, Debug)]
struct Field {
    at: u32,
    name: u16,
    known: Known,
    live: bool,
    value: Span,
    tag: Tag,
}

/// What the compressor of the connection that a field came from knows about it, so that the next one need not find out again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tag(u32);

impl Tag {
    /// Nothing is known.
    pub const NONE: Tag = Tag(0);
    /// The sender forbids tables to hold this field, on every hop (RFC 7541, 6.2.3).
    pub const NEVER_INDEXED: Tag = Tag(1);
    /// The hash of name and value, as `hpack` computes it.
    #[inline]
    pub(crate) fn hash(hash: u32) -> Tag {
        Tag(if hash < 2 { 0 } else { hash })
    }
    #[inline]
    pub(crate) fn get_hash(self) -> Option<u32> {
        (self.0 > 1).then_some(self.0)
    }
}

/// The head of a request, a response, or a trailer section.
#[derive(Clone, Debug, Default)]
pub struct Head {
    buf: Vec<u8>,
    fields: Vec<Field>,
    method: Span,
    scheme: Span,
    authority: Span,
    path: Span,
    protocol: Span,
    /// Response status; 0 in requests and trailers.
    pub status: u16,
    /// Which pseudo-header fields were set, as a bit set of [`Pseudo`].
    present: u8,
}

/// The pseudo-header fields of requests. `:status` is [`Head::status`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Pseudo {
    Method = 1,
    Scheme = 2,
    Authority = 4,
    Path = 8,
    /// Extended CONNECT (RFC 8441).
    Protocol = 16,
}

impl Head {
    /// Empties the head, keeping its memory.
    pub fn clear(&mut self) {
        self.buf.clear();
        self.fields.clear();
        self.status = 0;
        self.present = 0;
    }
    /// Bytes of names, values and pseudo-header fields, removed ones included: what a limit on kept heads counts.
    pub fn size(&self) -> usize {
        self.buf.len()
    }
    fn store(&mut self, v: &[u8]) -> Span {
        let at = self.buf.len() as u32;
        self.buf.extend_from_slice(v);
        Span { at, len: v.len() as u32 }
    }
    fn text(&self, s: Span) -> &[u8] {
        &self.buf[s.at as usize..(s.at + s.len) as usize]
    }
    fn pseudo_span(&mut self, p: Pseudo) -> &mut Span {
        match p {
            Pseudo::Method => &mut self.method,
            Pseudo::Scheme => &mut self.scheme,
            Pseudo::Authority => &mut self.authority,
            Pseudo::Path => &mut self.path,
            Pseudo::Protocol => &mut self.protocol,
        }
    }
    pub fn set_pseudo(&mut self, p: Pseudo, value: &[u8]) {
        let s = self.store(value);
        *self.pseudo_span(p) = s;
        self.present |= p as u8;
    }
    pub fn remove_pseudo(&mut self, p: Pseudo) {
        self.present &= !(p as u8);
    }
    pub fn pseudo(&self, p: Pseudo) -> Option<&[u8]> {
        if self.present & p as u8 == 0 {
            return None;
        }
        let s = match p {
            Pseudo::Method => self.method,
            Pseudo::Scheme => self.scheme,
            Pseudo::Authority => self.authority,
            Pseudo::Path => self.path,
            Pseudo::Protocol => self.protocol,
        };
        Some(self.text(s))
    }
    /// Empty when absent.
    pub fn method(&self) -> &[u8] {
        self.pseudo(Pseudo::Method).unwrap_or_default()
    }
    /// Path and query. Empty when absent.
    pub fn path(&self) -> &[u8] {
        self.pseudo(Pseudo::Path).unwrap_or_default()
    }
    /// Empty when absent. HTTP/1 codecs put `Host` here and nowhere else.
    pub fn authority(&self) -> &[u8] {
        self.pseudo(Pseudo::Authority).unwrap_or_default()
    }
    /// Adds a field. `name` must be in lower case.
    #[inline]
    pub fn add(&mut self, name: &[u8], value: &[u8]) {
        self.add_known(Known::of(name), name, value);
    }
    #[inline]
    fn add_known(&mut self, known: Known, name: &[u8], value: &[u8]) {
        self.add_tagged(known, name, value, Tag::NONE);
    }
    /// Adds a field whose name has been recognised already.
    #[inline]
    pub(crate) fn add_tagged(&mut self, known: Known, name: &[u8], value: &[u8], tag: Tag) {
        let at = self.buf.len() as u32;
        self.buf.extend_from_slice(name);
        let value = self.store(value);
        self.fields.push(Field { at, name: name.len() as u16, known, live: true, value, tag });
    }
    /// Adds a field whose name may be in any case.
    #[inline]
    pub fn add_any_case(&mut self, name: &[u8], value: &[u8]) {
        let at = self.buf.len();
        self.buf.extend(name.iter().map(u8::to_ascii_lowercase));
        let known = Known::of(&self.buf[at..]);
        let value = self.store(value);
        self.fields.push(Field { at: at as u32, name: name.len() as u16, known, live: true, value, tag: Tag::NONE });
    }
    /// Adds a field whose name may be in any case, unless `keep` says no; tells what the name is either way.
    #[inline]
    pub fn add_any_case_if(&mut self, name: &[u8], value: &[u8], keep: impl FnOnce(Known) -> bool) -> Known {
        let at = self.buf.len();
        self.buf.extend(name.iter().map(u8::to_ascii_lowercase));
        let known = Known::of(&self.buf[at..]);
        if keep(known) {
            let value = self.store(value);
            self.fields.push(Field {
                at: at as u32,
                name: name.len() as u16,
                known,
                live: true,
                value,
                tag: Tag::NONE,
            });
        } else {
            self.buf.truncate(at);
        }
        known
    }
    /// Fields in order: (known, name, value).
    #[inline]
    pub fn fields(&self) -> impl Iterator<Item = (Known, &[u8], &[u8])> {
        self.fields.iter().filter(|f| f.live).map(|f| {
            let at = f.at as usize;
            (f.known, &self.buf[at..at + f.name as usize], self.text(f.value))
        })
    }
    /// Fields in order, with what compression knows about them.
    #[inline]
    pub(crate) fn tagged_fields(&self) -> impl Iterator<Item = (Known, &[u8], &[u8], Tag)> {
        self.fields.iter().filter(|f| f.live).map(|f| {
            let at = f.at as usize;
            (f.known, &self.buf[at..at + f.name as usize], self.text(f.value), f.tag)
        })
    }
    /// The first value of a well-known field.
    #[inline]
    pub fn known(&self, known: Known) -> Option<&[u8]> {
        self.fields.iter().find(|f| f.live && f.known == known).map(|f| self.text(f.value))
    }
    /// Values of a field in order; `name` in lower case.
    pub fn values<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.fields().filter(move |(_, n, _)| *n == name).map(|(_, _, v)| v)
    }
    /// The first value of a field; `name` in lower case.
    pub fn get<'a>(&'a self, name: &'a [u8]) -> Option<&'a [u8]> {
        self.values(name).next()
    }
    /// Removes all fields of this name (lower case); says whether there were any.
    pub fn remove(&mut self, name: &[u8]) -> bool {
        let mut any = false;
        for f in &mut self.fields {
            if f.live && self.buf[f.at as usize..f.at as usize + f.name as usize] == *name {
                f.live = false;
                any = true;
            }
        }
        any
    }
    /// Removes all fields for which `drop` is true.
    pub fn remove_if(&mut self, mut drop: impl FnMut(Known, &[u8], &[u8]) -> bool) {
        for f in &mut self.fields {
            if f.live {
                let (at, v) = (f.at as usize, f.value);
                let (name, value) =
                    (&self.buf[at..at + f.name as usize], &self.buf[v.at as usize..(v.at + v.len) as usize]);
                f.live = !drop(f.known, name, value);
            }
        }
    }
    /// Replaces all fields of this name (lower case) by one.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        self.remove(name);
        self.add(name, value);
    }
}

/// A free list of heads, one for each thread: a request takes one when its head has arrived and gives it back when it cannot be retried any more, so
/// that the steady state allocates nothing.
pub mod pool {
    use super::Head;
    use std::cell::RefCell;

    /// Heads travel in their boxes; the list keeps both.
    type Spare = RefCell<Vec<Box<Head>>>;

    /// 64 heads: as many as complete within one turn of a busy worker; more is a burst whose memory goes back to the allocator.
    const KEEP: usize = 64;
    /// Larger ones are not kept: with 2 KiB at most, the list pins 128 KiB for each thread.
    const KEEP_BYTES: usize = 2048;
    /// Fields of a kept head, for the same reason (20 bytes each).
    const KEEP_FIELDS: usize = 64;

    thread_local! {
        static SPARE: Spare = const { RefCell::new(Vec::new()) };
    }

    /// An empty head.
    #[inline]
    pub fn take() -> Box<Head> {
        SPARE.with_borrow_mut(Vec::pop).unwrap_or_default()
    }

    /// Takes a head back.
    #[inline]
    pub fn give(mut head: Box<Head>) {
        if head.buf.capacity() > KEEP_BYTES || head.fields.capacity() > KEEP_FIELDS {
            return;
        }
        head.clear();
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < KEEP {
                spare.push(head);
            }
        });
    }
}
