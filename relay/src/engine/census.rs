//! What an engine holds at one moment, and whether its books agree: for simulations, tests and the dump.

use super::{Conn, Engine};
use crate::balance::{EndpointState, Summary};
use weft_core::service::ServiceRef;

/// What is held. Everything but connections and idle ones must be zero when nothing is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    pub connections: usize,
    pub exchanges: usize,
    /// Exchanges on pooled connections, as the pool counts them.
    pub streams: u64,
    pub waiting: usize,
    /// Idle HTTP/1 connections.
    pub idle: usize,
    /// Attempts that balancers have not been told the end of.
    pub attempts: u64,
    pub timers: usize,
    /// Streams that can make us hold bytes, and the bytes that their budget is charged with.
    pub accounts: usize,
    pub charged: usize,
    /// Bytes of recorded bodies, of all engines that share the budget.
    pub replay: usize,
    /// Bytes in outputs, and queued behind them on HTTP/2 streams.
    pub output: usize,
    pub queued: usize,
    /// The largest output.
    pub largest: usize,
}

impl Engine {
    /// What is believed of the endpoints of each Service port: load, latency, ejections. For the dump.
    pub fn backends(&self) -> Vec<(ServiceRef, Summary, Vec<EndpointState>)> {
        let one = |c: &super::Cluster| (c.service.clone(), c.balancer.summary(self.now), c.balancer.states(self.now));
        let mut all: Vec<_> = self.clusters.iter().map(|(_, c)| one(c)).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
    /// Counts what is held. Looks at every connection.
    pub fn census(&mut self) -> Census {
        let mut c = Census {
            connections: self.conns.len(),
            exchanges: self.exchanges.len(),
            streams: self.pool.streams_in_all(),
            waiting: self.pool.waiting(),
            idle: self.pool.idle(),
            attempts: self.clusters.iter().map(|(_, c)| c.balancer.in_flight()).sum(),
            timers: self.wheel.len(),
            accounts: self.credit.len(),
            charged: self.credit.charged(),
            replay: self.shared.replay.held(),
            ..Census::default()
        };
        for (_, conn) in &mut self.conns {
            let output = conn.codec.output().len();
            c.output += output;
            c.largest = c.largest.max(output);
            if let super::Codec::H2(h) = &conn.codec {
                c.queued += h.queued_total();
            }
        }
        c
    }

    /// One line for each exchange under way and each connection, for people.
    pub fn under_way(&self) -> Vec<String> {
        let conn = |c: &Conn| {
            let what = match (&c.codec, &c.role) {
                (super::Codec::H2(h), super::Role::Up(_)) => format!("upstream, {} streams", h.streams()),
                (_, super::Role::Up(_)) => "upstream".into(),
                (super::Codec::H2(h), super::Role::Down(d)) => {
                    format!("{:?} from {}, {} streams", d.wire, d.client, h.streams())
                }
                (_, super::Role::Down(d)) => format!("{:?} from {}", d.wire, d.client),
            };
            let Conn { key, phase, watch, writing, blocked, eof, paused, draining, .. } = c;
            let writing = writing.map(|w| self.now.saturating_duration_since(w));
            format!(
                "{key:?} {what} {phase:?} {watch:?} writing: {writing:?} blocked: {blocked} eof: {eof} paused: {paused} draining: {draining}"
            )
        };
        let line = |x: &super::Exchange| {
            let path = String::from_utf8_lossy(x.head.path());
            let client = if x.is_mirror() { "mirror".into() } else { x.down.client.to_string() };
            let up =
                x.attempt.as_ref().map(|a| format!("attempt {} at {}, over: {}", a.leg, a.address, a.response_over));
            let body = format!("{} of {} bytes up, ended: {}", x.body.released, x.body.total, x.body.end);
            let age = self.now.saturating_duration_since(x.started);
            format!(
                "{:?} {path} {client} {age:?} {body}, {} of {} down, {up:?}, status {}",
                x.state, x.left, x.received, x.status
            )
        };
        self.exchanges.iter().map(|(_, x)| line(x)).chain(self.conns.iter().map(|(_, c)| conn(c))).collect()
    }

    /// Checks the books against each other.
    ///
    /// # Panics
    /// When credits and windows, or two counts of the same thing, differ.
    pub fn assert_balanced(&self) {
        self.credit.assert_balanced();
        let upstream =
            self.exchanges.iter().filter(|(_, x)| x.attempt.as_ref().is_some_and(|a| a.pick.is_some())).count();
        let counted: u64 = self.clusters.iter().map(|(_, c)| c.balancer.in_flight()).sum();
        assert_eq!(upstream as u64, counted, "attempts of exchanges, and attempts that balancers count");
        let waiting =
            self.exchanges.iter().filter(|(_, x)| x.attempt.as_ref().is_some_and(|a| a.wait.is_some())).count();
        assert_eq!(waiting, self.pool.waiting(), "exchanges that wait, and waiters of the pool");
    }
}
