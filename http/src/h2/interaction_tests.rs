//! A client and a server, joined by pipes that tear everything into pieces, do what chance tells them. At every rest the books must balance: each byte that was sent
//! arrived or is queued, each window's parts add up to its size, and both ends agree about what may be sent. At the end every stream has ended exactly once.
#![allow(clippy::unwrap_used)]

use super::receive::Reading;
use super::streams::Sending;
use super::*;
use crate::head::{Head, Pseudo, pool};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// One direction of one exchange, as a side sees it.
#[derive(Default, Debug)]
struct Direction {
    planned: usize,
    /// Handed to `send_data`, and reported as having left.
    given: usize,
    left: usize,
    ended: bool,
    end_left: bool,
    trailers: bool,
    received: usize,
    receive_ended: usize,
    unreleased: usize,
}

#[derive(Debug)]
struct Exchange {
    stream: StreamId,
    out: Direction,
    inn: Direction,
    head_sent: bool,
    head_received: bool,
    gone: usize,
}

struct Side {
    c: Connection<u32>,
    exchanges: HashMap<u32, Exchange>,
    /// On the way to this side.
    pipe: Vec<u8>,
}

fn pattern(id: u32, client: bool, at: usize) -> u8 {
    (at as u32).wrapping_mul(31).wrapping_add(id * 7 + u32::from(client)) as u8
}

impl Side {
    fn new(c: Connection<u32>) -> Side {
        Side { c, exchanges: HashMap::new(), pipe: Vec::new() }
    }
    fn event(&mut self, event: Event<'_, u32>, client: bool, r: &mut Random) {
        match event {
            Event::Request { stream, head, end } => {
                let id = stream.get();
                self.c.set_token(stream, id);
                assert_eq!(head.path(), format!("/{id}").as_bytes());
                pool::give(head);
                let inn = Direction { receive_ended: end.into(), ..Direction::default() };
                let planned = if r.one_in(4) { 0 } else { r.below(200_000) };
                let out = Direction { planned, trailers: r.one_in(3), ..Direction::default() };
                let x = Exchange { stream, out, inn, head_sent: false, head_received: true, gone: 0 };
                assert!(self.exchanges.insert(id, x).is_none());
            }
            Event::Response { token, head, end, .. } => {
                let x = self.exchanges.get_mut(&token).unwrap();
                assert_eq!(x.gone, 0);
                if head.status >= 200 {
                    assert!(!std::mem::replace(&mut x.head_received, true));
                }
                x.inn.receive_ended += usize::from(end);
                pool::give(head);
            }
            Event::Data { token, data, end, .. } => {
                let x = self.exchanges.get_mut(&token).unwrap();
                assert_eq!(x.gone, 0);
                assert!(x.head_received);
                for (i, b) in data.iter().enumerate() {
                    assert_eq!(*b, pattern(token, !client, x.inn.received + i), "data is intact");
                }
                x.inn.received += data.len();
                x.inn.unreleased += data.len();
                x.inn.receive_ended += usize::from(end);
            }
            Event::Trailers { token, head, .. } => {
                let x = self.exchanges.get_mut(&token).unwrap();
                assert_eq!(head.get(b"sum"), Some(x.inn.received.to_string().as_bytes()));
                x.inn.receive_ended += 1;
                pool::give(head);
            }
            Event::Reset { token, .. } => self.exchanges.get_mut(&token).unwrap().gone += 1,
            Event::Sent { token, bytes, end, .. } => {
                let x = self.exchanges.get_mut(&token).unwrap();
                x.out.left += bytes as usize;
                x.out.end_left |= end;
                assert!(x.out.left <= x.out.given);
                assert_eq!(x.out.end_left && x.gone == 0 && end, end && x.gone == 0);
            }
            Event::Settings | Event::Room => {}
            other => panic!("{other:?}"),
        }
    }
    fn poll(&mut self, client: bool, r: &mut Random) {
        while let Some(event) = self.c.poll() {
            self.event(event, client, r);
        }
    }
    /// Some of what is in the pipe arrives.
    fn receive(&mut self, client: bool, r: &mut Random, now: Instant) {
        let n = match r.below(4) {
            0 => self.pipe.len(),
            1 => 1.min(self.pipe.len()),
            _ => r.below(self.pipe.len() + 1),
        };
        let bytes: Vec<u8> = self.pipe.drain(..n).collect();
        let mut input = &bytes[..];
        while let Some(event) = self.c.next(&mut input, now).unwrap() {
            self.event(event, client, r);
            if r.one_in(20) {
                self.act(client, r);
            }
        }
        assert!(input.is_empty());
    }
    /// Something is sent, released or reset.
    fn act(&mut self, client: bool, r: &mut Random) {
        let mut ids: Vec<u32> = self.exchanges.iter().filter(|(_, x)| x.gone == 0).map(|(id, _)| *id).collect();
        ids.sort_unstable();
        if ids.is_empty() {
            return;
        }
        let id = ids[r.below(ids.len())];
        let x = self.exchanges.get_mut(&id).unwrap();
        match r.below(40) {
            0 if r.one_in(4) => {
                self.c.reset(x.stream, ErrorCode::Cancel);
                x.gone += 1;
            }
            1..15 => {
                let n = if r.one_in(3) { x.inn.unreleased } else { r.below(x.inn.unreleased + 1) };
                x.inn.unreleased -= n;
                self.c.release(x.stream, n.min(self.c.unreleased(x.stream) as usize));
            }
            15 => self.c.grow_window(x.stream, r.below(10_000) as u32),
            16 if !x.head_sent && !client => {
                let mut h = Head::default();
                h.status = 103;
                self.c.send_head(x.stream, &h, false).ok();
            }
            _ if !x.head_sent => {
                let mut h = Head::default();
                h.status = 200;
                h.add(b"server", b"chance");
                x.head_sent = true;
                let end = x.out.planned == 0 && !x.out.trailers;
                self.c.send_head(x.stream, &h, end).unwrap();
                x.out.ended = end;
            }
            _ if !x.out.ended => {
                let n = (r.below(40_000)).min(x.out.planned - x.out.given);
                let bytes: Vec<u8> = (0..n).map(|i| pattern(id, client, x.out.given + i)).collect();
                let last = x.out.given + n == x.out.planned;
                let end = last && !x.out.trailers;
                let sent = self.c.send_data(x.stream, &bytes, end);
                x.out.given += n;
                x.out.left += sent;
                if last && x.out.trailers {
                    let mut h = pool::take();
                    h.add(b"sum", x.out.planned.to_string().as_bytes());
                    self.c.send_trailers(x.stream, h);
                }
                x.out.ended = last;
            }
            _ => {}
        }
    }
    /// Each window's parts add up.
    fn audit(&mut self) {
        let delivering = match self.c.reading {
            Reading::Data(d) => d.stream.map(|s| (s.id, d.left)),
            _ => None,
        };
        let mut queued = 0;
        for (stream, s) in self.c.streams.iter_mut() {
            let under_way = delivering.filter(|(id, _)| *id == stream.id).map_or(0, |(_, left)| left);
            assert_eq!(s.accounted(under_way), i64::from(s.window), "stream {}", stream.id);
            queued += s.queue.len();
            let x = &self.exchanges[&stream.id];
            assert_eq!(x.out.given - x.out.left, s.queue.len(), "sent is told exactly");
            assert!(s.queue.is_empty() || s.sending != Sending::Done);
            assert!(s.queue.is_empty() || s.in_ring || s.send_window <= 0, "nobody is forgotten");
        }
        assert_eq!(queued, self.c.queued);
        let whole = i64::from(self.c.config.connection_window);
        assert_eq!(self.c.receive_window + i64::from(self.c.receive_credit), whole);
    }
}

fn carry(from: &mut Side, to: &mut Side, client: bool, r: &mut Random) {
    let n = if r.one_in(2) { from.c.out.len() } else { r.below(from.c.out.len() + 1) };
    to.pipe.extend(from.c.output().drain(..n));
    from.c.output_taken();
    from.poll(client, r);
}

fn interact(seed: u64) {
    let mut r = Random(seed);
    let config = |r: &mut Random| {
        Arc::new(Config {
            stream_window: 65_535 + r.below(3) as u32 * 50_000,
            connection_window: 65_535 + r.below(3) as u32 * 100_000,
            max_streams: 1 + r.below(20) as u32,
            max_output: 1 + r.below(70_000),
            turn: 1 + r.below(4),
            huffman: r.one_in(2),
            header_table: [0, 100, 4096, 10_000][r.below(4)],
            encoder_table: [0, 60, 4096, 10_000][r.below(4)],
            ..Config::default()
        })
    };
    let now = Instant::now();
    let mut client = Side::new(Connection::client(config(&mut r)));
    let mut server = Side::new(Connection::server(config(&mut r)));
    let (mut opened, wanted) = (0, 5 + r.below(30));
    for step in 0.. {
        assert!(step < 200_000, "it does not end: {opened} of {wanted} {:?} {:?}", client.c, server.c);
        match r.below(10) {
            0 if opened < wanted && client.c.is_ready() && client.c.room() > 0 => {
                let mut head = Head::default();
                let path = format!("/{}", 2 * opened + 1);
                for (p, v) in [
                    (Pseudo::Method, "POST"),
                    (Pseudo::Scheme, "http"),
                    (Pseudo::Authority, "a"),
                    (Pseudo::Path, &path),
                ] {
                    head.set_pseudo(p, v.as_bytes());
                }
                let planned = if r.one_in(3) { 0 } else { r.below(200_000) };
                let out = Direction { planned, trailers: r.one_in(4), ended: planned == 0, ..Direction::default() };
                let out = Direction { trailers: out.trailers && planned > 0, ..out };
                let stream = client.c.open(&head, planned == 0, 2 * opened as u32 + 1).unwrap();
                assert_eq!(stream.get(), 2 * opened as u32 + 1);
                opened += 1;
                let inn = Direction::default();
                let x = Exchange { stream, out, inn, head_sent: true, head_received: false, gone: 0 };
                client.exchanges.insert(stream.get(), x);
            }
            1 | 2 => client.receive(true, &mut r, now),
            3 | 4 => server.receive(false, &mut r, now),
            5 => carry(&mut client, &mut server, true, &mut r),
            6 => carry(&mut server, &mut client, false, &mut r),
            7 | 8 => server.act(false, &mut r),
            _ => client.act(true, &mut r),
        }
        client.poll(true, &mut r);
        server.poll(false, &mut r);
        if step % 16 == 0 {
            client.audit();
            server.audit();
        }
        let quiet =
            client.pipe.is_empty() && server.pipe.is_empty() && client.c.out.is_empty() && server.c.out.is_empty();
        if quiet {
            // nothing is on the way: both ends know the same
            for (stream, s) in client.c.streams.iter_mut() {
                let Some(peer) = server.c.streams.find(stream.id).and_then(|id| server.c.streams.get(id)) else {
                    continue;
                };
                if peer.receiving != super::streams::Receiving::Done {
                    assert_eq!(s.send_window, peer.receive_window);
                }
            }
            assert_eq!(client.c.send_window, server.c.receive_window);
            assert_eq!(server.c.send_window, client.c.receive_window);
            if opened == wanted && client.c.streams() == 0 && server.c.streams() == 0 {
                break;
            }
        }
    }
    for (id, x) in &client.exchanges {
        // a stream may be refused before the server has told of it: it has no exchange there
        let Some(y) = server.exchanges.get(id) else {
            assert_eq!(x.gone, 1);
            continue;
        };
        assert!(x.gone <= 1 && y.gone <= 1 && x.inn.receive_ended <= 1 && y.inn.receive_ended <= 1);
        for (from, to) in [(x, y), (y, x)] {
            let whole = from.out.ended && from.out.left == from.out.planned && to.inn.receive_ended == 1;
            assert!(from.gone + to.gone > 0 || whole, "stream {id}: {from:?} {to:?}");
            if to.inn.receive_ended == 1 {
                assert_eq!(to.inn.received, from.out.planned);
            }
        }
    }
    assert_eq!((client.c.queued, server.c.queued), (0, 0));
}

/// `WEFT_SEED` runs one, as a failure names it; `WEFT_SEEDS` runs more of them than a quick test does.
#[test]
fn random_interaction() {
    let number = |name| std::env::var(name).ok().map(|n| n.parse().unwrap());
    if let Some(seed) = number("WEFT_SEED") {
        return interact(seed);
    }
    for seed in 0..number("WEFT_SEEDS").unwrap_or(50) {
        let result = std::panic::catch_unwind(|| interact(seed));
        if let Err(panic) = result {
            eprintln!("WEFT_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
