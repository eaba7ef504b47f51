//! Applications that answer, as the plan of each request says. They check what arrives.

use super::{
    client::trailer,
    plan::{Fate, Served, Serving, check, fill},
    wire::{End, Side},
    world::{Close, Event, World},
};
use rand::Rng;
use std::sync::Arc;
use weft_http::{
    h1,
    h2::{self, ErrorCode, StreamId},
    head::{Head, pool},
};
use weft_relay::Wire;

enum Codec {
    H1(Box<h1::Server>),
    H2(Box<h2::Connection<u32>>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Head,
    Body,
    Over,
}

struct Live {
    key: u32,
    id: u32,
    /// Which of the record's servings it is; `None`: mirrored.
    served: Option<usize>,
    attempt: u32,
    stream: Option<StreamId>,
    phase: Phase,
    bodyless: bool,
    /// Its answer is on its way.
    acting: bool,
    sent: u32,
    got: u32,
    got_end: bool,
}

pub struct ServerConn {
    side: Side,
    service: usize,
    codec: Codec,
    live: Vec<Live>,
    next: u32,
    gone: bool,
}
impl ServerConn {
    pub fn new(side: Side, service: usize, wire: Wire) -> Self {
        let codec = match wire {
            Wire::Http1 => Codec::H1(Box::new(h1::Server::new(Arc::default()))),
            _ => Codec::H2(Box::new(h2::Connection::server(Arc::default()))),
        };
        ServerConn { side, service, codec, live: vec![], next: 0, gone: false }
    }
}

enum Told {
    Request { stream: Option<StreamId>, head: Box<Head>, end: bool },
    Data { key: u32, data: Vec<u8>, end: bool },
    Trailers { key: u32, head: Box<Head> },
    Reset { key: u32 },
}

impl World {
    /// An application takes an end of a link.
    pub fn serve(&mut self, link: usize, side: usize, service: usize, wire: Wire) {
        let s = self.servers.len();
        self.servers.push(ServerConn::new(Side { link, side }, service, wire));
        self.links[link].ends[side] = End::Server(s);
        self.flush_server(s);
    }

    pub fn server_input(&mut self, s: usize, bytes: &[u8]) {
        let mut input = bytes;
        self.server_events(s, &mut input);
        self.flush_server(s);
    }

    fn server_events(&mut self, s: usize, input: &mut &[u8]) {
        loop {
            let now = self.now();
            let server = &mut self.servers[s];
            if server.gone {
                return;
            }
            let told = match &mut server.codec {
                Codec::H1(h) => match h.next(input) {
                    Ok(Some(event)) => {
                        let key = server.live.last().map_or(0, |l| l.key);
                        Some(match event {
                            h1::Event::Request { head, end, .. } => Told::Request { stream: None, head, end },
                            h1::Event::Data { data, end } => Told::Data { key, data: data.into(), end },
                            h1::Event::Trailers { head } => Told::Trailers { key, head },
                            h1::Event::Response { .. } => unreachable!("a server"),
                        })
                    }
                    Ok(None) => None,
                    Err(e) => panic!("seed {}: server {s}: {e}", self.seed),
                },
                Codec::H2(h) => match h.next(input, now) {
                    Ok(Some(event)) => Some(match event {
                        h2::Event::Request { stream, head, end } => {
                            h.set_token(stream, server.next);
                            Told::Request { stream: Some(stream), head, end }
                        }
                        h2::Event::Data { token, data, end, .. } => Told::Data { key: token, data: data.into(), end },
                        h2::Event::Trailers { token, head, .. } => Told::Trailers { key: token, head },
                        h2::Event::Reset { token, cause, .. } => {
                            assert!(
                                !matches!(cause, h2::Cause::Violation(_)),
                                "seed {}: server {s}: {cause:?}",
                                self.seed
                            );
                            Told::Reset { key: token }
                        }
                        h2::Event::TooLarge { .. } => panic!("heads are small here"),
                        h2::Event::GoAway { code } => {
                            // a clock that jumps while a head is on its way makes it late
                            let calm = code == ErrorCode::EnhanceYourCalm && self.mood.jumps;
                            assert!(code == ErrorCode::NoError || calm, "seed {}: {code}", self.seed);
                            continue;
                        }
                        _ => continue,
                    }),
                    Ok(None) => None,
                    Err(e) => panic!("seed {}: server {s}: {e}", self.seed),
                },
            };
            let Some(told) = told else { return };
            self.server_told(s, told);
        }
    }

    fn server_told(&mut self, s: usize, told: Told) {
        match told {
            Told::Request { stream, head, end } => self.request(s, stream, head, end),
            Told::Data { key, data, end } => {
                let n = data.len();
                let server = &mut self.servers[s];
                let side = server.side;
                if let Some(live) = server.live.iter_mut().find(|l| l.key == key) {
                    check(live.id, 0, live.got, &data);
                    live.got += n as u32;
                }
                if n > 0 {
                    if self.links[side.link].slow[side.side] && !self.quiet {
                        let delay = self.rng.random_range(0..200_000);
                        self.after(delay, Event::ServerDigest(s, key, n));
                    } else {
                        self.server_digest(s, key, n);
                    }
                }
                if end {
                    self.request_end(s, key, false);
                }
            }
            Told::Trailers { key, head } => {
                if let Some(live) = self.servers[s].live.iter().find(|l| l.key == key) {
                    assert_eq!(head.get(b"x-trailer"), trailer(live.id, 0).get(b"x-trailer"));
                }
                pool::give(head);
                self.request_end(s, key, true);
            }
            Told::Reset { key } => self.cancelled(s, key),
        }
    }

    fn request(&mut self, s: usize, stream: Option<StreamId>, head: Box<Head>, end: bool) {
        let id = head.get(b"x-sim").and_then(|v| std::str::from_utf8(v).ok()?.parse::<u32>().ok());
        let id = id.unwrap_or_else(|| panic!("seed {}: a request without number", self.seed));
        let plan = &self.plans[id as usize];
        assert_eq!(head.method(), plan.method.as_bytes(), "seed {}: request {id}", self.seed);
        assert!(
            head.get(b"weft-meta").is_none(),
            "seed {}: request {id}: weft-meta reached the application",
            self.seed
        );
        pool::give(head);
        let us = self.us;
        let server = &mut self.servers[s];
        let record = &mut self.book[id as usize];
        let reused = match &server.codec {
            Codec::H1(h) => h.exchanges() > 1,
            Codec::H2(_) => false,
        };
        let mirrored = server.service == self.mirror;
        let (served, attempt) = if mirrored {
            record.mirrored += 1;
            (None, 0)
        } else {
            let state = Serving::Running;
            record.served.push(Served { at: us, status: 0, state, reused, got: 0, got_end: false });
            (Some(record.served.len() - 1), record.served.len() as u32 - 1)
        };
        let script = plan.script(attempt as usize);
        let bodyless = plan.method == "HEAD" || matches!(script.status, 204 | 304);
        let key = server.next;
        server.next += 1;
        let (phase, delay, wait) = (Phase::Head, script.delay, script.wait);
        server.live.push(Live {
            key,
            id,
            served,
            attempt,
            stream,
            phase,
            bodyless,
            acting: false,
            sent: 0,
            got: 0,
            got_end: false,
        });
        if !wait {
            self.begin_answer(s, key, delay);
        }
        if end {
            self.request_end(s, key, false);
        }
    }

    /// Goes on with the answer after a while, once.
    fn begin_answer(&mut self, s: usize, key: u32, delay: u64) {
        let live = self.servers[s].live.iter_mut().find(|l| l.key == key);
        if live.is_some_and(|l| !std::mem::replace(&mut l.acting, true)) {
            self.after(delay, Event::Act(s, key));
        }
    }

    fn request_end(&mut self, s: usize, key: u32, trailers: bool) {
        let Some(live) = self.servers[s].live.iter_mut().find(|l| l.key == key) else { return };
        live.got_end = true;
        let (id, got, served) = (live.id, live.got, live.served);
        let plan = &self.plans[id as usize];
        assert_eq!(got, plan.length.unwrap_or(0), "seed {}: request {id} ends too early", self.seed);
        assert!(!trailers || plan.trailers, "seed {}: request {id} has trailers", self.seed);
        if let Some(served) = served {
            let served = &mut self.book[id as usize].served[served];
            (served.got, served.got_end) = (got, true);
        }
        let script = plan.script(live.attempt as usize);
        let delay = script.delay;
        self.begin_answer(s, key, delay);
        self.forget_if_over(s, key);
    }

    pub fn server_digest(&mut self, s: usize, key: u32, n: usize) {
        let server = &mut self.servers[s];
        let stream = server.live.iter().find(|l| l.key == key).and_then(|l| l.stream);
        if let (Codec::H2(h), Some(stream), false) = (&mut server.codec, stream, server.gone) {
            h.release(stream, n);
            self.flush_server(s);
        }
    }

    /// Goes on with an exchange: head, a piece of the body, the end, or what spoils it.
    pub fn act(&mut self, s: usize, key: u32) {
        let piece = self.rng.random_range(1..=20_000u32);
        let server = &mut self.servers[s];
        if server.gone {
            return;
        }
        let Some(live) = server.live.iter_mut().find(|l| l.key == key && l.phase != Phase::Over) else { return };
        let (id, attempt) = (live.id, live.attempt);
        let script = self.plans[id as usize].script(attempt as usize).clone();
        let state = |world: &mut World, served: Option<usize>, state| {
            if let Some(served) = served {
                world.book[id as usize].served[served].state = state;
            }
        };
        let served = live.served;
        let http2 = matches!(server.codec, Codec::H2(_));
        let length = if live.bodyless { 0 } else { script.length };
        if live.phase == Phase::Head {
            match script.fate {
                Fate::Stall => return,
                Fate::Refuse if http2 => {
                    self.far_reset(s, key, ErrorCode::RefusedStream);
                    return state(self, served, Serving::Refused);
                }
                Fate::LostBeforeHead => {
                    self.far_reset(s, key, ErrorCode::InternalError);
                    return state(self, served, Serving::LostBeforeHead);
                }
                _ => {}
            }
            let leaves = script.fate == Fate::CompleteAndLeave;
            let end = length == 0 && (live.bodyless || !script.trailers) && script.fate != Fate::LostInBody;
            let end = end || live.bodyless;
            live.phase = if end { Phase::Over } else { Phase::Body };
            let mut heads = vec![];
            for _ in 0..script.interim {
                let mut head = status(103);
                head.add(b"link", b"</style.css>; rel=preload");
                heads.push((head, false));
            }
            let mut head = status(script.status);
            head.add(b"x-id", id.to_string().as_bytes());
            head.add(b"x-attempt", attempt.to_string().as_bytes());
            if script.declared && !live.bodyless {
                head.add(b"content-length", length.to_string().as_bytes());
            }
            heads.push((head, end));
            let stream = live.stream;
            for (head, end) in heads {
                match (&mut server.codec, stream) {
                    (Codec::H1(h), _) => {
                        if leaves {
                            h.drain();
                        }
                        h.send_head(&head, end).unwrap_or_else(|e| panic!("request {id}: {e}"));
                    }
                    (Codec::H2(h), Some(stream)) => {
                        let _ = h.send_head(stream, &head, end);
                    }
                    _ => unreachable!("HTTP/2 has streams"),
                }
            }
            if let Some(served) = served {
                self.book[id as usize].served[served].status = script.status;
            }
            state(self, served, if end { Serving::Answered } else { Serving::Headed });
            if end {
                self.answered(s, key, leaves);
            } else {
                self.after(script.pace, Event::Act(s, key));
            }
            return self.flush_server(s);
        }
        let queued = match (&mut server.codec, live.stream) {
            (Codec::H1(h), _) => h.output().len(),
            (Codec::H2(h), Some(stream)) => h.queued(stream),
            _ => 0,
        };
        if queued > 64 * 1024 {
            return self.after(1_000, Event::Act(s, key));
        }
        match script.fate {
            Fate::LostInBody if live.sent >= length / 2 => {
                self.far_reset(s, key, ErrorCode::InternalError);
                return state(self, served, Serving::LostInBody);
            }
            Fate::StallInBody if length > 0 && live.sent >= length / 2 => return,
            _ => {}
        }
        let spoilt = matches!(script.fate, Fate::LostInBody | Fate::StallInBody);
        let n = piece.min(if spoilt { length / 2 } else { length } - live.sent);
        let data = fill(id, 1 + attempt, live.sent, n as usize);
        live.sent += n;
        let last = live.sent == length && !(spoilt && length > 0) && script.fate != Fate::LostInBody;
        let end = last && !script.trailers;
        match (&mut server.codec, live.stream) {
            (Codec::H1(h), _) => {
                h.send_data(&data, end).unwrap_or_else(|e| panic!("request {id}: {e}"));
                if last && !end {
                    h.send_trailers(&trailer(id, 1 + attempt)).unwrap_or_else(|e| panic!("request {id}: {e}"));
                }
            }
            (Codec::H2(h), Some(stream)) => {
                h.send_data(stream, &data, end);
                if last && !end {
                    h.send_trailers(stream, Box::new(trailer(id, 1 + attempt)));
                }
            }
            _ => {}
        }
        if last {
            live.phase = Phase::Over;
            state(self, served, Serving::Answered);
            self.answered(s, key, script.fate == Fate::CompleteAndLeave);
        } else {
            self.after(script.pace, Event::Act(s, key));
        }
        self.flush_server(s);
    }

    /// The response is out. What may still come of the request is not needed.
    fn answered(&mut self, s: usize, key: u32, leaves: bool) {
        let server = &mut self.servers[s];
        let Some(live) = server.live.iter().find(|l| l.key == key) else { return };
        if let (Codec::H2(h), Some(stream)) = (&mut server.codec, live.stream) {
            if !live.got_end {
                h.discard(stream);
            }
            if leaves {
                h.go_away_gracefully();
            }
            server.live.retain(|l| l.key != key);
        } else {
            self.forget_if_over(s, key);
        }
    }
    fn forget_if_over(&mut self, s: usize, key: u32) {
        let server = &mut self.servers[s];
        if matches!(server.codec, Codec::H1(_)) {
            server.live.retain(|l| l.key != key || l.phase != Phase::Over);
        }
    }

    /// The application spoils an exchange.
    fn far_reset(&mut self, s: usize, key: u32, code: ErrorCode) {
        let server = &mut self.servers[s];
        let stream = server.live.iter().find(|l| l.key == key).and_then(|l| l.stream);
        if let (Codec::H2(h), Some(stream)) = (&mut server.codec, stream) {
            h.reset(stream, code);
            server.live.retain(|l| l.key != key);
            self.flush_server(s);
        } else {
            server.live.clear();
            let reset = self.rng.random();
            self.server_close(s, if reset { Close::Reset } else { Close::Orderly });
        }
    }

    fn cancelled(&mut self, s: usize, key: u32) {
        let server = &mut self.servers[s];
        let Some(at) = server.live.iter().position(|l| l.key == key) else { return };
        let live = server.live.swap_remove(at);
        if let Some(served) = live.served {
            let served = &mut self.book[live.id as usize].served[served];
            served.state = match served.state {
                Serving::Running => Serving::CancelledBeforeHead,
                Serving::Headed => Serving::CancelledInBody,
                done => done,
            };
            served.got = live.got;
        }
    }

    pub fn server_lost(&mut self, s: usize) {
        while let Some(live) = self.servers[s].live.first() {
            let key = live.key;
            self.cancelled(s, key);
        }
        self.server_close(s, Close::Orderly);
    }
    pub fn server_eof(&mut self, s: usize) {
        // a proxy does not half-close, so nobody waits for an answer any more
        self.server_lost(s);
    }
    fn server_close(&mut self, s: usize, how: Close) {
        let server = &mut self.servers[s];
        if !std::mem::replace(&mut server.gone, true) {
            let side = server.side;
            self.close(side, how);
        }
    }

    pub fn flush_server(&mut self, s: usize) {
        // an answer without a body (HEAD, 304) is complete for the client before the application has made it, and the next request may come
        while let ServerConn { codec: Codec::H1(h), gone: false, .. } = &mut self.servers[s]
            && let Some(held) = h.take_held()
        {
            self.server_events(s, &mut &held[..]);
        }
        let server = &mut self.servers[s];
        if server.gone {
            return;
        }
        let side = server.side;
        let mut out = std::mem::take(match &mut server.codec {
            Codec::H1(h) => h.output(),
            Codec::H2(h) => h.output(),
        });
        let n = self.write(side, &out);
        out.drain(..n);
        let server = &mut self.servers[s];
        match &mut server.codec {
            Codec::H1(h) => {
                *h.output() = out;
                if h.output().is_empty() {
                    h.output_taken();
                    let how = match h.close() {
                        Some(h1::Close::Now) => Close::Orderly,
                        Some(h1::Close::Linger) => Close::Linger,
                        Some(h1::Close::Reset) => Close::Reset,
                        None => return,
                    };
                    if server.live.iter().all(|l| l.phase == Phase::Over) {
                        self.server_close(s, how);
                    }
                }
            }
            Codec::H2(h) => {
                *h.output() = out;
                h.output_taken();
                while h.poll().is_some() {}
                if h.is_finished() && !h.has_output() {
                    self.server_close(s, Close::Linger);
                } else if n > 0 && h.has_output() {
                    self.flush_server(s);
                }
            }
        }
    }
}

fn status(status: u16) -> Head {
    let mut head = Head::default();
    head.status = status;
    head
}
