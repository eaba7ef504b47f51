//! A socket with or without TLS under it, as the data plane uses it: read into one scratch buffer of the thread, append, write once for each turn.
//!
//! ```text
//! socket --recv--> scratch (68 KiB, one per thread) --[rustls]--> closure of the caller
//! caller --push--> out (plain) or rustls' records (TLS)  --flush: one send--> socket
//! ```
//!
//! Decisions that are not obvious:
//! - Reads go through `poll_read` with a buffer larger than what arrives: tokio then clears readiness on a short read (epoll's partial-read rule) and the
//!   next poll costs no system call. `try_read` in a loop would pay one `EAGAIN` for each request.
//! - An idle wire owns no buffer: what has been sent goes back to a free list of the thread. A thousand idle connections cost a thousand sockets, not 64 MiB.
//! - After reading TLS, rustls may want to write (handshake, key update), so the read path flushes too.
//! - An end of stream without `close_notify` is a truncation, not an end (RFC 8446, 6.1), and is told apart.

use crate::limits::Place;
use rustls::Connection;
use std::{
    cell::RefCell,
    future::poll_fn,
    io::{self, BufRead, IoSlice, Write},
    pin::Pin,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use weft_discovery::Lease;
use weft_http::h1::spare;

/// The most that a turn handles before it yields (design 3.6).
pub const TURN: usize = 64 * 1024;
/// One read: a body of 64 KiB with its head, frames and TLS records. Without the 4 KiB each such message would come, and be passed on, in two pieces.
const SCRATCH: usize = TURN + 4 * 1024;
/// Pieces at least this long are written to a plain socket without being copied first.
const DIRECT: usize = 4096;

thread_local! {
    static SCRATCH_BUF: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH]);
}

/// Why a wire can no longer be used.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The connection ended in the middle of the TLS session.
    #[error("TLS: the peer closed without close_notify")]
    Truncated,
}

/// What one read brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// Plain bytes handed to the closure. Zero: TLS messages only (handshake).
    Data(usize),
    /// End of input; the other direction may still be open.
    Eof,
    /// Nothing now; the task is registered.
    Pending,
}

pub struct Wire {
    sock: TcpStream,
    tls: Option<Box<Connection>>,
    /// Plain bytes not yet written; `at` of them are gone.
    out: Vec<u8>,
    at: usize,
    /// Bytes read from the socket before this wire knew what they are; handled by the first read.
    early: Vec<u8>,
    eof: bool,
    /// The last read filled the scratch: there is probably more.
    filled: bool,
    shut: bool,
    /// The right to be open, given back when the wire is dropped.
    place: Option<Place>,
    /// Keeps what the connection was routed by in the discovery client's table.
    lease: Option<Lease>,
}

/// Lets rustls write straight into the non-blocking socket.
struct Sink<'a, 'b> {
    sock: &'a mut TcpStream,
    cx: &'a mut Context<'b>,
}
impl Write for Sink<'_, '_> {
    fn write(&mut self, b: &[u8]) -> io::Result<usize> {
        match Pin::new(&mut *self.sock).poll_write(self.cx, b) {
            Poll::Ready(r) => r,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
    fn write_vectored(&mut self, b: &[IoSlice<'_>]) -> io::Result<usize> {
        match Pin::new(&mut *self.sock).poll_write_vectored(self.cx, b) {
            Poll::Ready(r) => r,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wire {
    /// A plain wire. `early` was read from the socket already.
    pub fn plain(sock: TcpStream, early: Vec<u8>) -> Wire {
        Wire {
            sock,
            tls: None,
            out: Vec::new(),
            at: 0,
            early,
            eof: false,
            filled: false,
            shut: false,
            place: None,
            lease: None,
        }
    }

    /// A wire with a TLS session; the handshake happens while reading.
    pub fn tls(sock: TcpStream, mut session: Connection, early: Vec<u8>) -> Wire {
        // the caller bounds what it pushes; rustls would silently take 64 KiB only
        session.set_buffer_limit(None);
        Wire {
            sock,
            tls: Some(Box::new(session)),
            out: Vec::new(),
            at: 0,
            early,
            eof: false,
            filled: false,
            shut: false,
            place: None,
            lease: None,
        }
    }

    pub fn session(&self) -> Option<&Connection> {
        self.tls.as_deref()
    }

    pub fn socket(&self) -> &TcpStream {
        &self.sock
    }

    /// Still in the TLS handshake.
    pub fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|t| t.is_handshaking())
    }

    /// Gives bytes back that were read to find out what they are: the next read begins with them. For plain wires.
    pub fn unread(&mut self, bytes: Vec<u8>) {
        debug_assert!(self.tls.is_none() && self.early.is_empty());
        self.early = bytes;
    }

    /// Reads once, waiting for it, and appends the plain bytes to `into`. `Data(0)` during a handshake.
    pub async fn read_into(&mut self, into: &mut Vec<u8>) -> Result<Read, WireError> {
        poll_fn(|cx| match self.read(cx, |_, d| into.extend_from_slice(d)) {
            Ok(Read::Pending) => Poll::Pending,
            r => Poll::Ready(r),
        })
        .await
    }

    /// Writes what the socket takes now, without waiting for the rest.
    pub async fn flush_now(&mut self) -> Result<(), WireError> {
        poll_fn(|cx| Poll::Ready(self.flush(cx))).await
    }

    /// Flushes, waiting until everything is out.
    pub async fn flush_all(&mut self) -> Result<(), WireError> {
        poll_fn(|cx| match self.flush(cx) {
            Ok(()) if self.backlog() => Poll::Pending,
            r => Poll::Ready(r),
        })
        .await
    }

    /// Waits until a read would bring something.
    pub async fn readable(&self) -> Result<(), WireError> {
        if self.early.is_empty() && !self.eof {
            self.sock.readable().await?;
        }
        Ok(())
    }

    /// Keeps the place of an accepted connection while the wire lives.
    pub fn hold(mut self, place: Option<Place>) -> Wire {
        self.place = place;
        self
    }

    /// Counts as an accepted connection.
    pub fn holds_place(&self) -> bool {
        self.place.is_some()
    }

    /// Gives the place back before the wire is dropped.
    pub fn leave(&mut self) {
        self.place = None;
    }

    pub fn lease(&mut self, lease: Option<Lease>) {
        self.lease = lease;
    }

    /// Starts a TLS session on a plain wire; `early` has been read from it.
    pub fn secure(self, session: Connection, early: Vec<u8>) -> Wire {
        let mut wire = Wire::tls(self.sock, session, early).hold(self.place);
        wire.lease = self.lease;
        wire
    }

    /// At most one read from the socket; plain bytes go to `f` in pieces.
    pub fn read(
        &mut self,
        cx: &mut Context<'_>,
        mut f: impl FnMut(&mut Context<'_>, &[u8]),
    ) -> Result<Read, WireError> {
        if self.eof {
            return Ok(Read::Eof);
        }
        if !self.early.is_empty() {
            let early = std::mem::take(&mut self.early);
            return self.digest(cx, &early, &mut f);
        }
        SCRATCH_BUF.with_borrow_mut(|scratch| {
            let mut rb = ReadBuf::new(scratch);
            match Pin::new(&mut self.sock).poll_read(cx, &mut rb) {
                Poll::Pending => return Ok(Read::Pending),
                Poll::Ready(r) => r?,
            }
            let n = rb.filled().len();
            self.filled = n == SCRATCH;
            if n == 0 {
                self.eof = true;
                return match &self.tls {
                    Some(_) => Err(WireError::Truncated),
                    None => Ok(Read::Eof),
                };
            }
            self.digest(cx, &scratch[..n], &mut f)
        })
    }

    fn digest(
        &mut self,
        cx: &mut Context<'_>,
        raw: &[u8],
        f: &mut impl FnMut(&mut Context<'_>, &[u8]),
    ) -> Result<Read, WireError> {
        let Some(tls) = &mut self.tls else {
            f(cx, raw);
            return Ok(Read::Data(raw.len()));
        };
        let mut cipher = raw;
        let mut plain = 0;
        while !cipher.is_empty() {
            tls.read_tls(&mut cipher)?;
            let state = match tls.process_new_packets() {
                Ok(s) => s,
                Err(e) => {
                    // the alert tells the peer why; if it does not fit, the reset must do
                    let _ = tls.write_tls(&mut Sink { sock: &mut self.sock, cx });
                    return Err(e.into());
                }
            };
            let mut left = state.plaintext_bytes_to_read();
            plain += left;
            while left > 0 {
                let mut r = tls.reader();
                let piece = r.fill_buf()?;
                let k = piece.len();
                f(cx, piece);
                r.consume(k);
                left -= k;
            }
            if state.peer_has_closed() {
                self.eof = true;
                return Ok(if plain > 0 { Read::Data(plain) } else { Read::Eof });
            }
        }
        if tls.wants_write() {
            self.flush(cx)?;
        }
        Ok(Read::Data(plain))
    }

    /// The last read brought as much as one can: the rest of somebody's message is probably behind it.
    pub fn filled(&self) -> bool {
        self.filled
    }

    /// Appends; nothing is written before [`flush`](Self::flush).
    pub fn push(&mut self, d: &[u8]) {
        match &mut self.tls {
            Some(t) => {
                // cannot fail: the writer appends to memory, without a limit
                let _ = t.writer().write_all(d);
            }
            None => {
                if self.out.capacity() == 0 {
                    self.out = spare::take();
                }
                self.out.extend_from_slice(d);
            }
        }
    }

    /// Appends the content of `b` and leaves an empty buffer in its place; takes the memory over when nothing is queued.
    pub fn push_buf(&mut self, b: &mut Vec<u8>) {
        if b.is_empty() {
            return;
        }
        if self.tls.is_none() && self.at == self.out.len() {
            self.out.clear();
            self.at = 0;
            std::mem::swap(&mut self.out, b);
        } else {
            self.push(b);
            b.clear();
        }
    }

    /// Like [`push`](Self::push), but long pieces go to a plain socket at once, without a copy.
    pub fn push_now(&mut self, cx: &mut Context<'_>, d: &[u8]) {
        let mut n = 0;
        if self.tls.is_none() && d.len() >= DIRECT && self.at == self.out.len() {
            // an error shows again at the next flush
            if let Poll::Ready(Ok(k)) = Pin::new(&mut self.sock).poll_write(cx, d) {
                n = k;
            }
        }
        if n < d.len() {
            self.push(&d[n..]);
        }
    }

    /// Writes what is queued as far as the socket takes it.
    pub fn flush(&mut self, cx: &mut Context<'_>) -> Result<(), WireError> {
        match &mut self.tls {
            Some(t) => {
                while t.wants_write() {
                    match t.write_tls(&mut Sink { sock: &mut self.sock, cx }) {
                        Ok(_) => {}
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                        Err(e) => return Err(e.into()),
                    }
                }
            }
            None => {
                while self.at < self.out.len() {
                    match Pin::new(&mut self.sock).poll_write(cx, &self.out[self.at..]) {
                        Poll::Ready(r) => self.at += r?,
                        Poll::Pending => return Ok(()),
                    }
                }
                if self.out.capacity() > 0 {
                    self.at = 0;
                    spare::give(std::mem::take(&mut self.out));
                }
            }
        }
        Ok(())
    }

    /// Something is queued that the socket has not taken.
    pub fn backlog(&self) -> bool {
        self.at < self.out.len() || self.tls.as_ref().is_some_and(|t| t.wants_write())
    }

    /// Ends our direction. Call again until [`is_shut`](Self::is_shut) when there is a backlog.
    pub fn shutdown(&mut self, cx: &mut Context<'_>) -> Result<(), WireError> {
        if self.shut {
            return Ok(());
        }
        if let Some(t) = &mut self.tls {
            t.send_close_notify();
        }
        self.flush(cx)?;
        if !self.backlog() {
            self.shut = true;
            // a socket that the peer has reset already cannot be shut down, and need not be
            let _ = Pin::new(&mut self.sock).poll_shutdown(cx);
        }
        Ok(())
    }

    pub fn is_shut(&self) -> bool {
        self.shut
    }

    /// Makes the close that follows a reset instead of an orderly end: the peer must not take what it got for complete.
    pub fn abort(self) {
        self.reset();
    }

    /// The same for a wire that is dropped in a moment.
    pub fn reset(&self) {
        // fails on a socket that is gone already
        let _ = self.sock.set_zero_linger();
    }
}
