//! HTTP/2 by hand: frames with whatever a test wants in them, and heads in the plainest HPACK (literals without names from a table, RFC 7541, 6.2.2).

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const PROTOCOL_ERROR: u32 = 1;
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// RFC 9113, 3.4.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut f = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    f.extend([kind, flags]);
    f.extend(stream.to_be_bytes());
    f.extend(payload);
    f
}

fn string(out: &mut Vec<u8>, s: &[u8]) {
    // an integer with a prefix of 7 bits (RFC 7541, 5.1)
    if s.len() < 127 {
        out.push(s.len() as u8);
    } else {
        out.push(127);
        let mut rest = s.len() - 127;
        while rest >= 128 {
            out.push(rest as u8 | 128);
            rest >>= 7;
        }
        out.push(rest as u8);
    }
    out.extend(s);
}

/// A header block of literals.
pub fn block(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (n, v) in fields {
        out.push(0);
        string(&mut out, n.as_bytes());
        string(&mut out, v);
    }
    out
}

/// The block of an ordinary request, and more fields.
pub fn request(method: &str, path: &str, more: &[(&str, &[u8])]) -> Vec<u8> {
    let mut f: Vec<(&str, &[u8])> =
        vec![(":method", method.as_bytes()), (":scheme", b"http"), (":path", path.as_bytes()), (":authority", b"web")];
    f.extend(more);
    block(&f)
}

/// A frame that was received.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}
impl Frame {
    fn word(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
    /// The error code of a GOAWAY or RST_STREAM.
    pub fn error(&self) -> u32 {
        self.word(if self.kind == GOAWAY { 4 } else { 0 })
    }
}

/// A client's or server's end of a connection.
pub struct Conn(pub TcpStream);
impl Conn {
    /// Connects, says preface and empty SETTINGS.
    pub fn client(at: SocketAddr) -> Conn {
        Conn::with_settings(at, &[])
    }
    pub fn with_settings(at: SocketAddr, settings: &[u8]) -> Conn {
        let mut c = Conn(crate::dial(at));
        c.send(PREFACE);
        c.send(&frame(SETTINGS, 0, 0, settings));
        c
    }
    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }
    /// The next frame; `None` at the end of the connection or a reset.
    pub fn receive(&mut self) -> Option<Frame> {
        let mut h = [0; 9];
        self.exact(&mut h)?;
        let mut payload = vec![0; u32::from_be_bytes([0, h[0], h[1], h[2]]) as usize];
        self.exact(&mut payload)?;
        let stream = u32::from_be_bytes([h[5], h[6], h[7], h[8]]) & 0x7fff_ffff;
        Some(Frame { kind: h[3], flags: h[4], stream, payload })
    }
    fn exact(&mut self, b: &mut [u8]) -> Option<()> {
        match self.0.read_exact(b) {
            Ok(()) => Some(()),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("nothing came within {:?}", crate::LIMIT)
            }
            Err(_) => None,
        }
    }
    /// The first frame that fits.
    pub fn wait(&mut self, what: &str, mut fits: impl FnMut(&Frame) -> bool) -> Frame {
        loop {
            match self.receive() {
                Some(f) if fits(&f) => return f,
                Some(_) => {}
                None => panic!("the connection ended before {what}"),
            }
        }
    }
    /// The end of stream `n`: an END_STREAM or a reset.
    pub fn end_of(&mut self, n: u32) -> Frame {
        self.wait(&format!("the end of stream {n}"), |f| {
            f.stream == n && (f.kind == RST_STREAM || matches!(f.kind, DATA | HEADERS) && f.flags & END_STREAM != 0)
        })
    }
    /// Writes `bytes` until the peer has had enough of them, then returns the code of its GOAWAY.
    pub fn flood(mut self, times: usize, mut bytes: impl FnMut(usize) -> Vec<u8>) -> Option<u32> {
        // whoever floods does not stop to read; the peer's frames are read beside it, since a reset throws away what is unread
        let mut reader = Conn(self.0.try_clone().unwrap());
        let reads = std::thread::spawn(move || {
            let mut code = None;
            while let Some(f) = reader.receive() {
                if f.kind == GOAWAY {
                    code = Some(f.error());
                }
            }
            code
        });
        for n in 0..times {
            if self.0.write_all(&bytes(n)).is_err() {
                break;
            }
        }
        reads.join().unwrap()
    }
}

/// A server by hand: what it says first, and what it does with each frame.
pub fn server(
    settings: &'static [u8],
    react: impl Fn(&mut Conn, &Frame, usize) -> bool + Send + Sync + 'static,
) -> SocketAddr {
    let connections = std::sync::atomic::AtomicUsize::new(0);
    crate::app(move |s| {
        let number = connections.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut c = Conn(s);
        if c.0.read_exact(&mut [0; 24]).is_err() || c.0.write_all(&frame(SETTINGS, 0, 0, settings)).is_err() {
            return;
        }
        while let Some(f) = c.receive() {
            if f.kind == SETTINGS && f.flags & ACK == 0 {
                let _ = c.0.write_all(&frame(SETTINGS, ACK, 0, &[]));
            }
            if f.kind == PING && f.flags & ACK == 0 {
                let _ = c.0.write_all(&frame(PING, ACK, 0, &f.payload));
            }
            if !react(&mut c, &f, number) {
                return;
            }
        }
    })
}
/// An answer without a body.
pub fn ok(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0x88])
}
