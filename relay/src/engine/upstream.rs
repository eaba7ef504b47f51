//! Upstream connections: dialled when the pool wants one, handed to waiters, given back, retired.

use super::{Engine, response::Lost};
use crate::{
    api::{CloseHow, Command, ConnKey, DialError, Wire},
    balance,
    conn::{Codec, Phase, Role, Token},
    exchange::State,
    pool::{PoolId, PoolKey, Release},
};
use weft_core::{
    cause::{Cause, Kind},
    endpoint::Endpoint,
};
use weft_http::{h1, h2};

impl Engine {
    /// Dials what the pool wants, as often as it does.
    pub(super) fn dial(&mut self, mut wanted: Option<PoolId>) {
        while let Some(id) = wanted {
            let to = self.pool.key(id).clone();
            self.dial_one(id, to);
            wanted = self.pool.wants_dial(id, self.now);
        }
    }

    fn dial_one(&mut self, id: PoolId, to: PoolKey) {
        let codec = match to.wire {
            Wire::Http1 => Codec::Client(h1::Client::new(self.configs.client.clone())),
            Wire::Http2 => Codec::H2(Box::new(h2::Connection::client(self.configs.h2_client.clone()))),
            Wire::Mesh => Codec::H2(Box::new(h2::Connection::client(self.configs.mesh.clone()))),
        };
        let conn = self.insert(codec, Role::Up(to.wire), Phase::Dialing);
        self.pool.dialing(id, conn, self.now);
        self.totals.dialed.add(1);
        self.commands.push_back(Command::Dial { conn, to: to.address, tls: to.peer, wire: to.wire });
    }

    /// A dial came to nothing: whoever waited for it has failed without a byte sent.
    pub(super) fn dial_lost(&mut self, conn: ConnKey, error: DialError) {
        let failed = self.pool.dial_failed(conn, self.now);
        self.dial(failed.dial);
        self.forget(conn);
        let kind = match error {
            DialError::Refused => Kind::ConnectRefused,
            DialError::Timeout => Kind::ConnectTimeout,
            DialError::Tls(_) => Kind::TlsFailed,
            DialError::Identity(_) => Kind::WrongIdentity,
            DialError::Unreachable | DialError::Local(_) | DialError::Other(_) => Kind::ConnectFailed,
        };
        for token in failed.waiters {
            let waiting = self.ex(token.ex).and_then(|x| x.attempt.as_mut()).filter(|a| a.leg == token.leg);
            let Some(a) = waiting else { continue };
            (a.wait, a.pending) = (None, None);
            a.outcome = Some(match error {
                DialError::Refused => balance::Outcome::Refused,
                DialError::Timeout => balance::Outcome::ConnectTimeout,
                // our own fault says nothing of the endpoint
                DialError::Local(_) => balance::Outcome::Cancelled,
                _ => balance::Outcome::ConnectFailed,
            });
            let detail = match &error {
                DialError::Refused | DialError::Timeout => a.address.to_string(),
                other => format!("{}: {other}", a.address),
            };
            self.attempt_failed(token.ex, Lost::of(Cause::with(kind, detail)));
        }
    }

    /// An upstream connection takes nothing new any more; others may be needed in its place.
    pub(super) fn pool_lost(&mut self, conn: ConnKey) {
        let wanted = self.pool.closed(conn).and_then(|id| self.pool.wants_dial(id, self.now));
        self.dial(wanted);
    }

    /// A dialled connection is ready.
    pub(super) fn opened(&mut self, conn: ConnKey) {
        let now = self.now;
        let Some(c) = self.conn(conn) else { return };
        let limit = match &c.codec {
            Codec::H2(h) => (h.streams() + h.room()) as u32,
            _ => 1,
        };
        c.since = now;
        let surplus = self.pool.opened(conn, limit, now);
        self.serve_waiters(conn);
        if let Some(c) = surplus {
            self.close(c, CloseHow::Now);
        }
        self.pool_timer();
        self.touch(conn);
    }

    pub(super) fn more_room(&mut self, conn: ConnKey) {
        let Some(Codec::H2(h)) = self.conn(conn).map(|c| &c.codec) else { return };
        let limit = (h.streams() + h.room()) as u32;
        self.pool.set_limit(conn, limit);
        self.serve_waiters(conn);
    }

    /// GOAWAY of the peer: its streams run on, new ones go elsewhere.
    pub(super) fn peer_leaves(&mut self, conn: ConnKey) {
        let Some(c) = self.conn(conn) else { return };
        c.draining = true;
        if matches!(c.role, Role::Down(_)) {
            return;
        }
        let of = self.pool.of_conn(conn).map(|(_, key)| key.clone());
        if self.pool.draining(conn) {
            self.close(conn, CloseHow::Now);
        }
        if let Some(key) = of {
            self.dial_for(&key);
        }
    }

    pub(super) fn serve_waiters(&mut self, conn: ConnKey) {
        while let Some(token) = self.pool.take_waiter(conn, self.now) {
            self.serve(conn, token);
        }
    }

    /// A waiter's turn has come.
    fn serve(&mut self, conn: ConnKey, token: Token) {
        let waiting = self.ex(token.ex).filter(|x| x.state == State::Waiting).and_then(|x| x.attempt.as_mut());
        match waiting.filter(|a| a.leg == token.leg) {
            Some(a) => {
                (a.wait, a.pending) = (None, None);
                self.open(token.ex, conn);
            }
            None => self.give_back(conn, true),
        }
    }

    /// Gives a place on a connection back to the pool, which may have the next exchange for it.
    pub(super) fn give_back(&mut self, conn: ConnKey, reusable: bool) {
        let of = if reusable { None } else { self.pool.of_conn(conn).map(|(_, key)| key.clone()) };
        match self.pool.release(conn, reusable, self.now) {
            Release::Next(token) => self.serve(conn, token),
            Release::Close(c) => self.close(c, CloseHow::Now),
            Release::Kept => {}
        }
        if let Some(key) = of {
            self.dial_for(&key);
        }
        self.pool_timer();
    }

    fn dial_for(&mut self, key: &PoolKey) {
        let wanted = self.pool.find(key).and_then(|id| self.pool.wants_dial(id, self.now));
        self.dial(wanted);
    }

    /// An endpoint is gone: its connections take nothing new, running streams go on.
    pub(super) fn retire(&mut self, e: &Endpoint) {
        let wires: &[Wire] = if e.mesh.is_some() { &[Wire::Mesh] } else { &[Wire::Http1, Wire::Http2] };
        for wire in wires {
            let key = PoolKey { address: e.address, peer: e.mesh.clone(), wire: *wire };
            for c in self.pool.retire(&key) {
                self.close(c, CloseHow::Now);
            }
        }
    }
}
