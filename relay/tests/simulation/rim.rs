//! The rim of an engine, as a proxy would be: one task for each connection, which reads, hands in, takes the output and writes.

use super::{
    plan::Mood,
    wire::{End, Side},
    world::{Close, Event, Target, World},
};
use rand::Rng;
use std::{collections::HashMap, net::SocketAddr, time::Duration};
use weft_core::identity::WorkloadIdentity;
use weft_relay::{Accept, CloseHow, Command, ConnKey, DialError, Engine, Wire};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RimConn {
    pub rim: usize,
    pub conn: ConnKey,
}

struct Bound {
    side: Side,
    unsent: Vec<u8>,
    at: usize,
    closing: Option<CloseHow>,
}

pub struct Rim {
    pub engine: Engine,
    conns: HashMap<ConnKey, Bound>,
    dialing: HashMap<ConnKey, ()>,
    armed: Option<u64>,
    pub accepted: u64,
    pub dialed: u64,
}
impl Rim {
    pub fn new(engine: Engine) -> Self {
        Rim { engine, conns: HashMap::new(), dialing: HashMap::new(), armed: None, accepted: 0, dialed: 0 }
    }
    pub fn open(&self) -> usize {
        self.conns.len() + self.dialing.len()
    }
}

impl World {
    /// Hands an accepted connection to an engine.
    pub fn rim_accept(&mut self, rim: usize, side: Side, accept: Accept) {
        let now = self.now();
        let conn = self.rims[rim].engine.accept(accept, now);
        self.rims[rim].accepted += 1;
        self.links[side.link].ends[side.side] = End::Engine(RimConn { rim, conn });
        self.bind(rim, conn, side);
    }
    fn bind(&mut self, rim: usize, conn: ConnKey, side: Side) {
        let bound = Bound { side, unsent: vec![], at: 0, closing: None };
        assert!(self.rims[rim].conns.insert(conn, bound).is_none(), "a key is used twice");
        self.turn(RimConn { rim, conn });
    }

    pub fn rim_input(&mut self, c: RimConn, bytes: &[u8]) {
        let now = self.now();
        self.rims[c.rim].engine.input(c.conn, bytes, now);
        self.turn(c);
    }
    pub fn rim_eof(&mut self, c: RimConn) {
        let now = self.now();
        self.rims[c.rim].engine.eof(c.conn, now);
        self.turn(c);
    }
    pub fn rim_broken(&mut self, c: RimConn) {
        let now = self.now();
        if let Some(b) = self.rims[c.rim].conns.remove(&c.conn) {
            if b.closing.is_none() {
                self.rims[c.rim].engine.broken(c.conn, now);
            }
            self.commands(c.rim);
        }
    }

    /// A turn of a connection's task: writes what there is, and reads again if that is wanted.
    pub fn turn(&mut self, c: RimConn) {
        let now = self.now();
        loop {
            let rim = &mut self.rims[c.rim];
            let Some(b) = rim.conns.get_mut(&c.conn) else { break };
            if b.at < b.unsent.len() {
                let (side, at, unsent) = (b.side, b.at, std::mem::take(&mut b.unsent));
                let n = self.write(side, &unsent[at..]);
                let Some(b) = self.rims[c.rim].conns.get_mut(&c.conn) else { break };
                b.unsent = unsent;
                b.at += n;
                if b.at < b.unsent.len() {
                    self.rims[c.rim].engine.blocked(c.conn, now);
                    break;
                }
                b.unsent.clear();
                b.at = 0;
                self.rims[c.rim].engine.written(c.conn, now);
            } else if rim.engine.take_output(c.conn, &mut b.unsent, now) {
                assert!(!b.unsent.is_empty(), "output that is empty");
                // one read of 64 KiB may be added to an output of 64 KiB, plus heads and control frames; a mirror may be 256 KiB behind
                let most = 384 * 1024;
                assert!(b.unsent.len() <= most, "seed {}: {} bytes of output at once", self.seed, b.unsent.len());
            } else {
                if let Some(how) = b.closing {
                    let side = b.side;
                    rim.conns.remove(&c.conn);
                    self.close(
                        side,
                        match how {
                            CloseHow::Now => Close::Orderly,
                            CloseHow::Linger(_) => Close::Linger,
                            CloseHow::Reset => Close::Reset,
                        },
                    );
                }
                break;
            }
        }
        let rim = &self.rims[c.rim];
        if let Some(b) = rim.conns.get(&c.conn) {
            let pipe = &self.links[b.side.link].pipes[1 - b.side.side];
            let ready = !pipe.readable().is_empty() || pipe.rst || (pipe.fin && !pipe.end_seen);
            if ready && rim.engine.wants_read(c.conn) {
                let side = b.side;
                self.kick(side);
            }
        }
        self.commands(c.rim);
    }

    /// Carries out what the engine wants, and looks at its timer.
    pub fn commands(&mut self, rim: usize) {
        while let Some(command) = self.rims[rim].engine.poll_command() {
            if self.trace {
                eprintln!("{:>10} rim {rim}: {command:?}", self.us);
            }
            match command {
                Command::Wake(conn) => {
                    let delay = self.rng.random_range(0..20);
                    self.after(delay, Event::Turn(RimConn { rim, conn }));
                }
                Command::Dial { conn, to, tls, wire } => {
                    self.rims[rim].dialing.insert(conn, ());
                    self.rims[rim].dialed += 1;
                    let delay = self.latency();
                    self.after(delay, Event::Dialed { conn: RimConn { rim, conn }, to, tls: tls.is_some(), wire });
                }
                Command::Close { conn, how } => {
                    if self.rims[rim].dialing.remove(&conn).is_none()
                        && let Some(b) = self.rims[rim].conns.get_mut(&conn)
                    {
                        b.closing = Some(how);
                        self.after(0, Event::Turn(RimConn { rim, conn }));
                    }
                }
                Command::Reset { conn } => {
                    if self.rims[rim].dialing.remove(&conn).is_none()
                        && let Some(b) = self.rims[rim].conns.remove(&conn)
                    {
                        self.close(b.side, Close::Reset);
                    }
                }
            }
        }
        if let Some(t) = self.rims[rim].engine.next_timer() {
            let at = self.us_of(t).max(self.us);
            if self.rims[rim].armed.is_none_or(|a| at < a) {
                self.rims[rim].armed = Some(at);
                self.at(at, Event::Timer(rim));
            }
        }
    }

    pub fn rim_timer(&mut self, rim: usize) {
        let now = self.now();
        if self.rims[rim].armed.is_some_and(|a| a <= self.us) {
            self.rims[rim].armed = None;
        }
        if self.rims[rim].engine.next_timer().is_some_and(|t| t <= now) {
            self.rims[rim].engine.on_timer(now);
            let next = self.rims[rim].engine.next_timer();
            assert!(next.is_none_or(|t| t > now), "seed {}: a timer makes no progress", self.seed);
        }
        self.commands(rim);
    }

    pub fn dialed(&mut self, c: RimConn, to: SocketAddr, tls: bool, wire: Wire) {
        if self.rims[c.rim].dialing.remove(&c.conn).is_none() {
            return; // given up meanwhile
        }
        let now = self.now();
        let Mood { dials, .. } = self.mood;
        let target = self.targets.get(&to).copied();
        let fails = !self.quiet && self.rng.random_ratio(dials, 100);
        let Some(target) = target.filter(|_| !fails) else {
            let error = match self.rng.random_range(0..3) {
                0 => DialError::Timeout,
                1 => DialError::Tls("handshake failed".into()),
                _ => DialError::Refused,
            };
            self.rims[c.rim].engine.dial_failed(c.conn, error, now);
            self.commands(c.rim);
            return;
        };
        let link = self.connect([End::Engine(c), End::Gone]);
        let (here, there) = (Side { link, side: 0 }, Side { link, side: 1 });
        let client: SocketAddr = ([10, 9, 0, 1], 40_000).into();
        match target {
            Target::Mesh { rim, app } if tls => {
                assert_eq!(wire, Wire::Mesh);
                let peer = WorkloadIdentity::new("cluster.local", "shop", "front").ok();
                let side = weft_relay::Side::Inbound { app, peer };
                self.rim_accept(rim, there, Accept { side, wire, client, original: to });
            }
            Target::Mesh { .. } => panic!("a meshed pod is dialled in plain text"),
            Target::App { service } => {
                assert!(!tls && wire != Wire::Mesh);
                self.serve(link, 1, service, wire);
            }
        }
        self.rims[c.rim].engine.connected(c.conn, now);
        self.bind(c.rim, c.conn, here);
    }

    /// Advances the clock by this much, without faults, so that whatever was idle is closed.
    pub fn rest(&mut self, time: Duration) {
        let until = self.us + time.as_micros() as u64;
        self.run(until, |_| false);
    }
}
