//! The world of one seed: clock, queue of events, links, and who is where.

use super::{
    client::{ClientConn, Slot},
    plan::{Mood, Plan, Record},
    rim::{Rim, RimConn},
    server::ServerConn,
    wire::{End, Link, Side},
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::{
    cmp::Ordering,
    collections::{BinaryHeap, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use weft_core::endpoint::Endpoints;
use weft_relay::Wire;

#[derive(Clone, Copy, Debug)]
pub enum Event {
    Read(Side),
    Write(Side),
    /// A connection's task of a rim runs.
    Turn(RimConn),
    Dialed {
        conn: RimConn,
        to: SocketAddr,
        tls: bool,
        wire: Wire,
    },
    Timer(usize),
    /// A slot of a client has room for another request.
    Next(usize),
    /// A client goes on with a request's body.
    Body(usize, u32),
    /// A client's patience with a request is over.
    Patience(usize, u32),
    /// A slow client has digested so many bytes.
    Digest(usize, u32, usize),
    /// A server goes on with an exchange.
    Act(usize, u32),
    /// A slow server has digested so many bytes.
    ServerDigest(usize, u32, usize),
    /// The clock jumps.
    Jump,
    /// Discovery tells other endpoints of a Service.
    Edit,
    /// An engine is told that its pod will go. Nothing may fail for that.
    Drain(usize),
}

struct Due {
    at: u64,
    sequence: u64,
    event: Event,
}
impl PartialEq for Due {
    fn eq(&self, o: &Self) -> bool {
        self.cmp(o) == Ordering::Equal
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, o: &Self) -> Option<Ordering> {
        Some(self.cmp(o))
    }
}
impl Ord for Due {
    fn cmp(&self, o: &Self) -> Ordering {
        (o.at, o.sequence).cmp(&(self.at, self.sequence))
    }
}

/// What answers at an address.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// The inbound proxy of a pod, if dialled with TLS; its application listens at another address.
    Mesh { rim: usize, app: SocketAddr },
    /// An application that serves a Service.
    App { service: usize },
}

impl Target {
    /// The engine and the application of a meshed pod.
    pub fn inbound(self) -> Option<(usize, SocketAddr)> {
        match self {
            Target::Mesh { rim, app } => Some((rim, app)),
            Target::App { .. } => None,
        }
    }
}

pub struct World {
    pub seed: u64,
    pub rng: SmallRng,
    pub mood: Mood,
    pub trace: bool,
    start: Instant,
    /// Microseconds since the start.
    pub us: u64,
    queue: BinaryHeap<Due>,
    sequence: u64,
    pub steps: u64,
    pub links: Vec<Link>,
    pub rims: Vec<Rim>,
    pub slots: Vec<Slot>,
    pub clients: Vec<ClientConn>,
    pub servers: Vec<ServerConn>,
    pub targets: HashMap<SocketAddr, Target>,
    pub plans: Vec<Plan>,
    pub book: Vec<Record>,
    /// The Service whose applications see mirrored requests.
    pub mirror: usize,
    /// All endpoints of each Service; at times discovery tells only some of them.
    pub lists: Vec<Endpoints>,
    /// No more faults: the end is near.
    pub quiet: bool,
}

impl World {
    pub fn new(seed: u64, mood: Mood, trace: bool) -> Self {
        World {
            seed,
            rng: SmallRng::seed_from_u64(seed),
            mood,
            trace,
            start: Instant::now(),
            us: 0,
            queue: BinaryHeap::new(),
            sequence: 0,
            steps: 0,
            links: vec![],
            rims: vec![],
            slots: vec![],
            clients: vec![],
            servers: vec![],
            targets: HashMap::new(),
            plans: vec![],
            book: vec![],
            mirror: usize::MAX,
            lists: vec![],
            quiet: false,
        }
    }

    pub fn now(&self) -> Instant {
        self.start + Duration::from_micros(self.us)
    }
    pub fn us_of(&self, t: Instant) -> u64 {
        // rounded up: a timer is looked at when it is due, not before
        t.saturating_duration_since(self.start).as_nanos().div_ceil(1_000) as u64
    }

    pub fn at(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.queue.push(Due { at, sequence: self.sequence, event });
    }
    pub fn after(&mut self, delay: u64, event: Event) {
        self.at(self.us + delay, event);
    }
    /// A pause of a link.
    pub fn latency(&mut self) -> u64 {
        self.rng.random_range(1..=self.mood.latency)
    }

    /// Handles events until there are none, or none before `until`.
    pub fn run(&mut self, until: u64, mut done: impl FnMut(&mut World) -> bool) {
        while let Some(due) = self.queue.peek() {
            if due.at > until {
                self.us = self.us.max(until);
                return;
            }
            let due = self.queue.pop().expect("peeked");
            self.us = self.us.max(due.at);
            self.steps += 1;
            if self.trace {
                eprintln!("{:>10} {:?}", self.us, due.event);
            }
            self.handle(due.event);
            if done(self) {
                return;
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Read(side) => self.read(side),
            Event::Write(side) => {
                self.links[side.link].writing[side.side] = false;
                match self.links[side.link].ends[side.side] {
                    End::Engine(c) => self.turn(c),
                    End::Client(c) => self.flush_client(c),
                    End::Server(s) => self.flush_server(s),
                    End::Draining | End::Gone => {}
                }
            }
            Event::Turn(c) => self.turn(c),
            Event::Dialed { conn, to, tls, wire } => self.dialed(conn, to, tls, wire),
            Event::Timer(rim) => self.rim_timer(rim),
            Event::Next(slot) => self.next_requests(slot),
            Event::Body(c, id) => self.client_body(c, id),
            Event::Patience(c, id) => self.give_up(c, id),
            Event::Digest(c, id, n) => self.client_digest(c, id, n),
            Event::Act(s, key) => self.act(s, key),
            Event::ServerDigest(s, key, n) => self.server_digest(s, key, n),
            Event::Edit => self.edit(),
            Event::Drain(rim) => {
                // far behind the last exchange, and before the scene is looked over
                let now = self.now();
                self.rims[rim].engine.drain(now + Duration::from_secs(1_000), rim == 0, now);
                self.commands(rim);
            }
            Event::Jump => {
                if !self.quiet {
                    self.us += self.rng.random_range(0..30_000_000);
                    let next = self.rng.random_range(0..20_000_000);
                    self.after(next, Event::Jump);
                }
            }
        }
    }

    /// Some endpoints leave, or come back. Nobody must notice.
    fn edit(&mut self) {
        if self.quiet {
            return;
        }
        let mut list = self.lists[self.rng.random_range(0..self.lists.len())].clone();
        let keep = self.rng.random_range(0..list.endpoints.len());
        let all = self.rng.random_ratio(1, 3);
        let mut at = 0;
        list.endpoints.retain(|_| {
            at += 1;
            all || at - 1 == keep || self.rng.random()
        });
        let now = self.now();
        self.rims[0].engine.set_endpoints(Arc::new(list), now);
        self.commands(0);
        let next = self.rng.random_range(0..200_000);
        self.after(next, Event::Edit);
    }

    /// Schedules a look at what has come for this end.
    pub fn kick(&mut self, side: Side) {
        let link = &mut self.links[side.link];
        if link.ends[side.side] == End::Gone || std::mem::replace(&mut link.reading[side.side], true) {
            return;
        }
        let slow = link.slow[side.side];
        let delay = if slow && !self.quiet { self.rng.random_range(0..100_000) } else { self.latency() };
        self.after(delay, Event::Read(side));
    }
    fn kick_writer(&mut self, side: Side) {
        if !std::mem::replace(&mut self.links[side.link].writing[side.side], true) {
            let delay = self.latency();
            self.after(delay, Event::Write(side));
        }
    }

    fn read(&mut self, side: Side) {
        let link = &mut self.links[side.link];
        link.reading[side.side] = false;
        let end = link.ends[side.side];
        if end == End::Gone {
            return;
        }
        if !self.quiet && self.mood.breaks > 0 && self.rng.random_ratio(self.mood.breaks, 10_000) {
            self.break_link(side.link);
        }
        let link = &mut self.links[side.link];
        let pipe = &mut link.pipes[1 - side.side];
        if pipe.rst {
            if !std::mem::replace(&mut pipe.end_seen, true) {
                link.ends[side.side] = End::Gone;
                match end {
                    End::Engine(c) => self.rim_broken(c),
                    End::Client(c) => self.client_lost(c),
                    End::Server(s) => self.server_lost(s),
                    End::Draining | End::Gone => {}
                }
            }
            return;
        }
        if let End::Engine(c) = end
            && !self.rims[c.rim].engine.wants_read(c.conn)
        {
            return; // a turn of its task looks again
        }
        let ready = pipe.readable().len();
        if ready > 0 {
            let most = match self.rng.random_range(0..4) {
                0 => self.rng.random_range(1..=40),
                1 => self.rng.random_range(1..=3_000),
                _ => 64 * 1024,
            };
            let most = if link.slow[side.side] && !self.quiet { most.min(2_000) } else { most };
            let pipe = &mut self.links[side.link].pipes[1 - side.side];
            let n = ready.min(most);
            let bytes = pipe.readable()[..n].to_vec();
            let was_full = pipe.room() == 0;
            pipe.consume(n);
            if was_full {
                self.kick_writer(side.other());
            }
            match end {
                End::Engine(c) => self.rim_input(c, &bytes),
                End::Client(c) => self.client_input(c, &bytes),
                End::Server(s) => self.server_input(s, &bytes),
                End::Draining | End::Gone => {}
            }
        } else if pipe.fin && !pipe.end_seen {
            pipe.end_seen = true;
            match end {
                End::Engine(c) => self.rim_eof(c),
                End::Client(c) => self.client_eof(c),
                End::Server(s) => self.server_eof(s),
                End::Draining => self.links[side.link].ends[side.side] = End::Gone,
                End::Gone => {}
            }
        }
        let pipe = &self.links[side.link].pipes[1 - side.side];
        if !pipe.readable().is_empty() || pipe.rst || (pipe.fin && !pipe.end_seen) {
            self.kick(side);
        }
    }

    /// Writes what fits. Bytes for somebody who is gone vanish, and are answered with a reset.
    pub fn write(&mut self, side: Side, bytes: &[u8]) -> usize {
        let other = side.other();
        let link = &mut self.links[side.link];
        assert!(!link.pipes[side.side].fin, "{:?} writes after its end", link.ends[side.side]);
        if link.ends[other.side] == End::Gone {
            link.pipes[other.side].rst = true;
            self.kick(side);
            return bytes.len();
        }
        let n = link.pipes[side.side].write(bytes);
        if n > 0 {
            self.kick(other);
        }
        n
    }

    /// Closes an end. What the other end has sent and nobody read turns an orderly close into a reset, as the kernel does.
    pub fn close(&mut self, side: Side, how: Close) {
        let link = &mut self.links[side.link];
        if link.ends[side.side] == End::Gone {
            return;
        }
        let unread = !link.pipes[1 - side.side].readable().is_empty();
        let pipe = &mut link.pipes[side.side];
        match how {
            Close::Linger => {
                pipe.fin = true;
                link.ends[side.side] = End::Draining;
                self.kick(side);
            }
            Close::Orderly if !unread => {
                pipe.fin = true;
                link.ends[side.side] = End::Gone;
            }
            _ => {
                pipe.rst = true;
                link.ends[side.side] = End::Gone;
            }
        }
        self.kick(side.other());
    }

    fn break_link(&mut self, link: usize) {
        for p in &mut self.links[link].pipes {
            p.rst = true;
            p.clear();
        }
        self.kick(Side { link, side: 0 });
        self.kick(Side { link, side: 1 });
    }

    /// A new link between two ends.
    pub fn connect(&mut self, ends: [End; 2]) -> usize {
        let capacity = [(); 2].map(|()| [2_000, 20_000, 200_000][self.rng.random_range(0..3)]);
        let mut link = Link::new(ends, capacity);
        for (slow, end) in link.slow.iter_mut().zip(ends) {
            *slow = !matches!(end, End::Engine(_)) && self.rng.random_ratio(self.mood.slow, 100);
        }
        self.links.push(link);
        self.links.len() - 1
    }
}

/// How a far end closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    Orderly,
    Linger,
    Reset,
}
