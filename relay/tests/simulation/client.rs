//! Applications that call: HTTP/1 and HTTP/2 connections with requests as planned. They check what comes back.

use super::{
    plan::{Ended, check, fill},
    wire::{End, Side},
    world::{Close, Event, World},
};
use rand::Rng;
use std::sync::Arc;
use weft_http::{
    h1,
    h2::{self, ErrorCode, StreamId},
    head::{Head, Pseudo, pool},
};
use weft_relay::{Accept, Wire};

/// Requests that are sent one after the other, or a few at once, over one connection at a time.
pub struct Slot {
    /// To be sent, last one first.
    pub todo: Vec<u32>,
    pub rim: usize,
    pub accept: Accept,
    /// Requests at once (HTTP/2).
    pub width: usize,
    /// No engine between: the connection leads to an application of this Service.
    pub direct: Option<usize>,
    conn: Option<usize>,
    pub live: usize,
}
impl Slot {
    pub fn new(todo: Vec<u32>, rim: usize, accept: Accept, width: usize) -> Self {
        Slot { todo, rim, accept, width, direct: None, conn: None, live: 0 }
    }
    pub fn is_done(&self) -> bool {
        self.todo.is_empty() && self.live == 0
    }
}

enum Codec {
    H1(h1::Client),
    H2(Box<h2::Connection<u32>>),
}

struct Live {
    id: u32,
    stream: Option<StreamId>,
    /// The request's body has been sent, with its end.
    sent_all: bool,
}

pub struct ClientConn {
    side: Side,
    slot: usize,
    codec: Codec,
    live: Vec<Live>,
    /// No more requests here.
    leaving: bool,
    gone: bool,
}

/// What a codec told, without its borrows.
enum Told {
    Head { id: u32, head: Box<Head>, end: bool },
    Data { id: u32, data: Vec<u8>, end: bool },
    Trailers { id: u32, head: Box<Head> },
    Reset { id: u32 },
    GoAway,
    Room,
}

impl World {
    pub fn next_requests(&mut self, slot: usize) {
        if self.slots[slot].todo.is_empty() {
            return;
        }
        let c = match self.slots[slot].conn {
            Some(c) => c,
            None => self.open_client(slot),
        };
        loop {
            let client = &mut self.clients[c];
            let width = if matches!(client.codec, Codec::H1(_)) { 1 } else { self.slots[slot].width };
            if client.gone || client.leaving || client.live.len() >= width {
                break;
            }
            let Some(id) = self.slots[slot].todo.pop() else { break };
            if !self.start_request(c, id) {
                self.slots[slot].todo.push(id);
                break;
            }
        }
        self.flush_client(c);
    }

    fn open_client(&mut self, slot: usize) -> usize {
        let c = self.clients.len();
        let s = &self.slots[slot];
        let (rim, accept, direct) = (s.rim, s.accept.clone(), s.direct);
        let codec = match accept.wire {
            Wire::Http1 => Codec::H1(h1::Client::new(Arc::default())),
            _ => Codec::H2(Box::new(h2::Connection::client(Arc::default()))),
        };
        let link = self.connect([End::Client(c), End::Gone]);
        let side = Side { link, side: 0 };
        self.clients.push(ClientConn { side, slot, codec, live: vec![], leaving: false, gone: false });
        self.slots[slot].conn = Some(c);
        match direct {
            None => self.rim_accept(rim, side.other(), accept),
            Some(service) => self.serve(link, 1, service, accept.wire),
        }
        c
    }

    fn start_request(&mut self, c: usize, id: u32) -> bool {
        let plan = &self.plans[id as usize];
        let mut head = pool::take();
        head.set_pseudo(Pseudo::Method, plan.method.as_bytes());
        head.set_pseudo(Pseudo::Scheme, b"http");
        head.set_pseudo(Pseudo::Authority, b"front.shop");
        head.set_pseudo(Pseudo::Path, format!("/rule{}/{id}", plan.rule).as_bytes());
        head.add(b"x-sim", id.to_string().as_bytes());
        head.add(b"te", b"trailers");
        let end = plan.length.is_none();
        if let Some(n) = plan.length.filter(|_| plan.declared) {
            head.add(b"content-length", n.to_string().as_bytes());
        }
        let patience = plan.patience;
        let client = &mut self.clients[c];
        let stream = match &mut client.codec {
            Codec::H1(h) => match h.send_head(&head, end) {
                Ok(()) => None,
                Err(e) => panic!("request {id}: {e}"),
            },
            Codec::H2(h) => match h.open(&head, end, id) {
                Ok(stream) => Some(stream),
                Err(_) => {
                    pool::give(head);
                    return false;
                }
            },
        };
        pool::give(head);
        client.live.push(Live { id, stream, sent_all: end });
        let slot = client.slot;
        self.slots[slot].live += 1;
        self.book[id as usize].started = true;
        self.after(patience, Event::Patience(c, id));
        if !end {
            self.after(0, Event::Body(c, id));
        }
        true
    }

    /// Sends the next piece of a request's body.
    pub fn client_body(&mut self, c: usize, id: u32) {
        let plan = &self.plans[id as usize];
        let (total, pace, trailers) = (plan.length.unwrap_or(0), plan.pace, plan.trailers);
        let piece = self.rng.random_range(1..=20_000u32);
        let client = &mut self.clients[c];
        let Some(live) = client.live.iter_mut().find(|l| l.id == id && !l.sent_all) else { return };
        let record = &mut self.book[id as usize];
        let queued = match (&mut client.codec, live.stream) {
            (Codec::H1(h), _) => h.output().len(),
            (Codec::H2(h), Some(s)) => h.queued(s),
            (Codec::H2(_), None) => unreachable!("HTTP/2 requests have streams"),
        };
        if queued > 64 * 1024 {
            self.after(1_000, Event::Body(c, id));
            return;
        }
        let n = piece.min(total - record.sent);
        let data = fill(id, 0, record.sent, n as usize);
        record.sent += n;
        let last = record.sent == total;
        let end = last && !trailers;
        match (&mut client.codec, live.stream) {
            (Codec::H1(h), _) => {
                h.send_data(&data, end).unwrap_or_else(|e| panic!("request {id}: {e}"));
                if last && trailers {
                    h.send_trailers(&trailer(id, 0)).unwrap_or_else(|e| panic!("request {id}: {e}"));
                }
            }
            (Codec::H2(h), Some(s)) => {
                h.send_data(s, &data, end);
                if last && trailers {
                    h.send_trailers(s, Box::new(trailer(id, 0)));
                }
            }
            _ => {}
        }
        live.sent_all = last;
        if !last {
            self.after(pace, Event::Body(c, id));
        }
        self.flush_client(c);
    }

    pub fn give_up(&mut self, c: usize, id: u32) {
        let client = &mut self.clients[c];
        let Some(live) = client.live.iter().find(|l| l.id == id) else { return };
        match (&mut client.codec, live.stream) {
            (Codec::H2(h), Some(s)) => {
                h.reset(s, ErrorCode::Cancel);
                self.ended(c, id, Ended::Cancelled);
                self.flush_client(c);
            }
            _ => {
                self.ended(c, id, Ended::Cancelled);
                self.leave_client(c, Close::Orderly);
            }
        }
    }

    fn ended(&mut self, c: usize, id: u32, how: Ended) {
        let client = &mut self.clients[c];
        let at = client.live.iter().position(|l| l.id == id).unwrap_or_else(|| panic!("request {id} ends twice"));
        client.live.swap_remove(at);
        let slot = client.slot;
        self.slots[slot].live -= 1;
        let before = self.book[id as usize].ended.replace(how);
        assert_eq!(before, None, "seed {}: request {id} ends twice", self.seed);
        if self.trace {
            eprintln!("{:>10} request {id}: {how:?}", self.us);
        }
        let pause = self.rng.random_range(0..2_000);
        self.after(pause, Event::Next(slot));
    }

    /// The connection is over: whatever is under way was cut off.
    pub fn client_lost(&mut self, c: usize) {
        while let Some(live) = self.clients[c].live.first() {
            let id = live.id;
            self.ended(c, id, Ended::Reset);
        }
        self.leave_client(c, Close::Orderly);
    }
    pub fn client_eof(&mut self, c: usize) {
        if let Codec::H1(h) = &mut self.clients[c].codec {
            let told = match h.eof() {
                Ok(Some(h1::Event::Data { end: true, .. })) => self.clients[c].live.first().map(|l| l.id),
                Ok(_) | Err(_) => None,
            };
            if let Some(id) = told {
                self.complete(c, id);
            }
        }
        self.client_lost(c);
    }

    fn leave_client(&mut self, c: usize, how: Close) {
        let client = &mut self.clients[c];
        if std::mem::replace(&mut client.gone, true) {
            return;
        }
        let (side, slot) = (client.side, client.slot);
        self.close(side, how);
        if self.slots[slot].conn == Some(c) {
            self.slots[slot].conn = None;
        }
        self.after(1, Event::Next(slot));
    }
    /// At the end: nobody has anything to ask any more.
    pub fn leave_all(&mut self) {
        for c in 0..self.clients.len() {
            self.leave_client(c, Close::Orderly);
        }
    }

    pub fn flush_client(&mut self, c: usize) {
        let client = &mut self.clients[c];
        if client.gone {
            return;
        }
        let side = client.side;
        let mut out = std::mem::take(match &mut client.codec {
            Codec::H1(h) => h.output(),
            Codec::H2(h) => h.output(),
        });
        let n = self.write(side, &out);
        out.drain(..n);
        let client = &mut self.clients[c];
        match &mut client.codec {
            Codec::H1(h) => {
                *h.output() = out;
                if h.output().is_empty() {
                    h.output_taken();
                }
                if h.close().is_some() && h.output().is_empty() && client.live.is_empty() {
                    self.leave_client(c, Close::Orderly);
                }
            }
            Codec::H2(h) => {
                *h.output() = out;
                h.output_taken();
                while h.poll().is_some() {}
                // what has moved into the output goes as far as there is room
                let more = n > 0 && h.has_output();
                if client.leaving && client.live.is_empty() && !h.has_output() {
                    self.leave_client(c, Close::Orderly);
                } else if more {
                    self.flush_client(c);
                }
            }
        }
    }

    pub fn client_input(&mut self, c: usize, bytes: &[u8]) {
        let mut input = bytes;
        loop {
            let now = self.now();
            let client = &mut self.clients[c];
            if client.gone {
                return;
            }
            let told = match &mut client.codec {
                Codec::H1(h) => {
                    let id = client.live.first().map(|l| l.id);
                    match h.next(&mut input) {
                        Ok(Some(event)) => {
                            let id = id.unwrap_or_else(|| panic!("seed {}: a response to nothing", self.seed));
                            Some(match event {
                                h1::Event::Response { head, end, .. } => Told::Head { id, head, end },
                                h1::Event::Data { data, end } => Told::Data { id, data: data.into(), end },
                                h1::Event::Trailers { head } => Told::Trailers { id, head },
                                h1::Event::Request { .. } => unreachable!("a client"),
                            })
                        }
                        Ok(None) => None,
                        // the proxy's close may have been due while the request was on its way
                        Err(e) => panic!("seed {}: client {c}, request {id:?}: {e}", self.seed),
                    }
                }
                Codec::H2(h) => match h.next(&mut input, now) {
                    Ok(Some(event)) => Some(match event {
                        h2::Event::Response { token, head, end, .. } => Told::Head { id: token, head, end },
                        h2::Event::Data { token, data, end, .. } => Told::Data { id: token, data: data.into(), end },
                        h2::Event::Trailers { token, head, .. } => Told::Trailers { id: token, head },
                        h2::Event::Reset { token, cause, .. } => {
                            assert!(
                                !matches!(cause, h2::Cause::Violation(_)),
                                "seed {}: request {token}: {cause:?}\n{:#?}\n{:#?}",
                                self.seed,
                                self.plans[token as usize],
                                self.book[token as usize]
                            );
                            Told::Reset { id: token }
                        }
                        h2::Event::GoAway { code } => {
                            // a clock that jumps while a head is on its way makes it late
                            let calm = code == ErrorCode::EnhanceYourCalm && self.mood.jumps;
                            assert!(code == ErrorCode::NoError || calm, "seed {}: {code}", self.seed);
                            Told::GoAway
                        }
                        h2::Event::Room | h2::Event::Settings => Told::Room,
                        _ => continue,
                    }),
                    Ok(None) => None,
                    Err(e) => panic!("seed {}: client {c}: {e}", self.seed),
                },
            };
            let Some(told) = told else { break };
            self.client_told(c, told);
        }
        self.flush_client(c);
    }

    fn client_told(&mut self, c: usize, told: Told) {
        match told {
            Told::Head { id, head, end } => {
                let now = self.us;
                let record = &mut self.book[id as usize];
                if head.status >= 200 {
                    let number = |n| head.get(n).and_then(|v| std::str::from_utf8(v).ok()?.parse().ok());
                    let cause = head.get(b"weft-error").map(|v| String::from_utf8_lossy(v).into_owned());
                    if let Some(echo) = number(b"x-id") {
                        assert_eq!(echo, id, "seed {}: the answer to {echo} reached {id}", self.seed);
                    }
                    let before = record.head.replace((head.status, number(b"x-attempt"), cause));
                    assert_eq!(before, None, "seed {}: request {id} has two final heads", self.seed);
                    record.head_at = now;
                } else {
                    assert!(
                        record.head.is_none(),
                        "seed {}: request {id}: an interim response after the final one",
                        self.seed
                    );
                }
                pool::give(head);
                if end {
                    self.complete(c, id);
                }
            }
            Told::Data { id, data, end } => {
                let record = &mut self.book[id as usize];
                let (_, attempt, _) =
                    record.head.as_ref().unwrap_or_else(|| panic!("request {id}: data before a head"));
                if let Some(attempt) = attempt {
                    check(id, 1 + attempt, record.got, &data);
                }
                record.got += data.len() as u32;
                let link = self.clients[c].side;
                if !data.is_empty() && !end {
                    if self.links[link.link].slow[link.side] && !self.quiet {
                        let delay = self.rng.random_range(0..500_000);
                        self.after(delay, Event::Digest(c, id, data.len()));
                    } else {
                        self.client_digest(c, id, data.len());
                    }
                }
                if end {
                    self.complete(c, id);
                }
            }
            Told::Trailers { id, head } => {
                let record = &self.book[id as usize];
                if let Some((_, Some(attempt), _)) = record.head {
                    let want = trailer(id, 1 + attempt);
                    assert_eq!(head.get(b"x-trailer"), want.get(b"x-trailer"), "request {id}");
                }
                pool::give(head);
                self.complete(c, id);
            }
            Told::Reset { id } => {
                if self.clients[c].live.iter().any(|l| l.id == id) {
                    self.ended(c, id, Ended::Reset);
                }
            }
            Told::GoAway => {
                self.clients[c].leaving = true;
                let slot = self.clients[c].slot;
                if self.slots[slot].conn == Some(c) {
                    self.slots[slot].conn = None;
                    self.after(1, Event::Next(slot));
                }
            }
            Told::Room => {
                let slot = self.clients[c].slot;
                self.after(1, Event::Next(slot));
            }
        }
    }

    fn complete(&mut self, c: usize, id: u32) {
        let client = &mut self.clients[c];
        let Some(live) = client.live.iter().find(|l| l.id == id) else { return };
        let (stream, sent_all) = (live.stream, live.sent_all);
        if let (Codec::H2(h), Some(s)) = (&mut client.codec, stream)
            && !sent_all
        {
            // the answer did not need the rest of the request
            h.reset(s, ErrorCode::Cancel);
        }
        self.ended(c, id, Ended::Complete);
        if let Codec::H1(h) = &self.clients[c].codec
            && !h.reusable()
        {
            self.leave_client(c, Close::Orderly);
        }
    }

    pub fn client_digest(&mut self, c: usize, id: u32, n: usize) {
        let client = &mut self.clients[c];
        let stream = client.live.iter().find(|l| l.id == id).and_then(|l| l.stream);
        if let (Codec::H2(h), Some(s), false) = (&mut client.codec, stream, client.gone) {
            h.release(s, n);
            self.flush_client(c);
        }
    }
}

/// The trailers of a body.
pub fn trailer(id: u32, who: u32) -> Head {
    let mut head = Head::default();
    head.add(b"x-trailer", format!("{id}-{who}").as_bytes());
    head
}
