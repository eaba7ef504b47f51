//! What two pods say to each other, as the node sees it: every frame of its network (it is the bridge between the pods), put together to byte streams. Says of each
//! connection which ports it has and whether its bytes are TLS 1.3.

use socket2::{Domain, Protocol, Socket, Type};
use std::{
    collections::BTreeMap,
    io::Read as _,
    net::{Ipv4Addr, SocketAddrV4},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// Every protocol, in network byte order as the kernel wants it: `htons(ETH_P_ALL)`.
const ALL: i32 = 0x0003_u16.to_be() as i32;
/// Larger than any packet: segmentation is left to the card, so that the node sees up to 64 KiB at once.
const FRAME: usize = 128 * 1024;

/// Client and server of a connection: the client sent the SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ends {
    pub client: SocketAddrV4,
    pub server: SocketAddrV4,
}

/// Both directions, as bytes at their offset in the stream; a frame is seen on each interface that it passes.
#[derive(Default)]
pub struct Connection {
    sent: Direction,
    received: Direction,
}
#[derive(Default)]
struct Direction {
    first: Option<u32>,
    pieces: BTreeMap<u32, Vec<u8>>,
}

impl Direction {
    /// The stream, up to the first byte that was not seen.
    fn bytes(&self) -> Vec<u8> {
        let mut all: Vec<u8> = Vec::new();
        for (&at, piece) in &self.pieces {
            let have = all.len().checked_sub(at as usize);
            match have {
                Some(have) => all.extend(piece.iter().skip(have)),
                None => break,
            }
        }
        all
    }
}

impl Connection {
    pub fn sent(&self) -> Vec<u8> {
        self.sent.bytes()
    }
    pub fn received(&self) -> Vec<u8> {
        self.received.bytes()
    }
}

/// A running capture.
pub struct Capture {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<BTreeMap<Ends, Connection>>,
}

impl Capture {
    /// Between two addresses.
    pub fn start(a: Ipv4Addr, b: Ipv4Addr) -> Self {
        let socket =
            Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(ALL))).expect("a packet socket needs root");
        socket.set_recv_buffer_size(16 << 20).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = stop.clone();
            move || {
                let (mut seen, mut frame) = (BTreeMap::new(), vec![0; FRAME]);
                loop {
                    match (&socket).read(&mut frame) {
                        Ok(n) => add(&mut seen, &frame[..n], a, b),
                        // what has arrived before the end is read
                        Err(_) if stop.load(Ordering::Relaxed) => return seen,
                        Err(_) => {}
                    }
                }
            }
        });
        Capture { stop, thread }
    }

    /// The connections that began since the start.
    pub fn stop(self) -> BTreeMap<Ends, Connection> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// A frame: Ethernet, IPv4, TCP; anything else is passed over.
fn add(seen: &mut BTreeMap<Ends, Connection>, frame: &[u8], a: Ipv4Addr, b: Ipv4Addr) {
    let Some((from, to, tcp)) = ipv4(frame) else { return };
    if ![(a, b), (b, a)].contains(&(from, to)) || tcp.len() < 20 {
        return;
    }
    let port = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
    let (from, to) = (SocketAddrV4::new(from, port(0)), SocketAddrV4::new(to, port(2)));
    let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
    let (syn, ack) = (tcp[13] & 2 != 0, tcp[13] & 16 != 0);
    let forth = Ends { client: from, server: to };
    let back = Ends { client: to, server: from };
    if syn && !ack {
        seen.entry(forth).or_default();
    }
    let direction = match (seen.contains_key(&forth), seen.contains_key(&back)) {
        (true, _) => &mut seen.get_mut(&forth).unwrap().sent,
        (_, true) => &mut seen.get_mut(&back).unwrap().received,
        _ => return, // began before the capture
    };
    if syn {
        direction.first = Some(sequence.wrapping_add(1));
    }
    let data = tcp.get(usize::from(tcp[12] >> 4) * 4..).unwrap_or_default();
    if let Some(first) = direction.first
        && !data.is_empty()
    {
        let piece = direction.pieces.entry(sequence.wrapping_sub(first)).or_default();
        if piece.len() < data.len() {
            *piece = data.to_vec();
        }
    }
}

/// Addresses and TCP segment of a frame.
fn ipv4(frame: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr, &[u8])> {
    let ip = (frame.get(12..14)? == [8, 0]).then(|| &frame[14..])?;
    if ip.len() < 20 || ip[0] >> 4 != 4 || ip[9] != 6 {
        return None;
    }
    let address = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
    // short frames are padded
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    let end = if total == 0 { ip.len() } else { total.min(ip.len()) };
    Some((address(12), address(16), ip.get(usize::from(ip[0] & 15) * 4..end)?))
}

/// Judges the server's side of a connection: records of TLS only, the first a ServerHello that chose version 1.3 (RFC 8446, 4.1.3 and 4.2.1), and after it nothing that is
/// not encrypted but the empty change of cipher.
pub fn tls13(received: &[u8]) -> Result<(), String> {
    let mut types = Vec::new();
    let mut rest = received;
    while rest.len() >= 5 {
        let length = usize::from(u16::from_be_bytes([rest[3], rest[4]]));
        if !(20..=23).contains(&rest[0]) || rest[1] != 3 || length > 16384 + 256 {
            return Err(format!("no record of TLS: {:?}", String::from_utf8_lossy(&rest[..rest.len().min(40)])));
        }
        types.push(rest[0]);
        if types.len() == 1 {
            let hello = rest.get(5..5 + length).ok_or("the ServerHello was cut off")?;
            if server_version(hello) != Some(0x0304) {
                return Err(format!("the server chose version {:?}", server_version(hello)));
            }
        }
        rest = rest.get(5 + length..).unwrap_or_default();
    }
    match types.split_first() {
        Some((22, others)) if others.iter().all(|t| [20, 23].contains(t)) => Ok(()),
        _ => Err(format!("types of records: {types:?}")),
    }
}

/// `supported_versions` of a ServerHello.
fn server_version(hello: &[u8]) -> Option<u16> {
    let number = |at: usize| Some(u16::from_be_bytes([*hello.get(at)?, *hello.get(at + 1)?]));
    if hello.first() != Some(&2) {
        return None;
    }
    // header 4, version 2, random 32, session, cipher suite 2, compression 1, length of extensions 2
    let mut at = 4 + 2 + 32;
    at += 1 + usize::from(*hello.get(at)?) + 2 + 1 + 2;
    loop {
        let (kind, length) = (number(at)?, usize::from(number(at + 2)?));
        if kind == 43 {
            return number(at + 4);
        }
        at += 4 + length;
    }
}

/// Judges the client's side: records of TLS only, the first a ClientHello.
pub fn client_hello(sent: &[u8]) -> bool {
    sent.len() > 5 && sent[0] == 22 && sent[1] == 3 && sent[5] == 1
}
