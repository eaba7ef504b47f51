//! Deadlines: of exchanges, of connections, of the pool, of the drain.
//!
//! A connection's timer is lazy. It stands at or before the true deadline, and looks again when it fires, so that a busy connection touches the wheel every
//! few seconds and not with every request.

use super::Engine;
use crate::{
    api::{CloseHow, Command, ConnKey, Wire},
    conn::{Codec, Down, ExKey, Phase, Role, Watch},
    exchange::{Action, Event, State, step},
};
use std::time::{Duration, Instant};
use weft_core::cause::{Cause, Kind};
use weft_http::{
    h1::{self, Waiting},
    h2,
    head::pool,
};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Timer {
    /// `timeouts.request`.
    Request(ExKey),
    /// The attempt's time, the wait for a connection, the pause between attempts, or the time of half a tunnel.
    Exchange(ExKey),
    Conn(ConnKey),
    Pool,
    Drain,
}

/// A drain under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drain {
    outbound: bool,
    /// Nothing more is accepted.
    last_call: bool,
}

/// How long a closing connection, or one whose GOAWAY was not answered, may take. 10 s: a round trip and what is left of the output.
const CLOSING: Duration = Duration::from_secs(10);
/// A mesh connection with streams under way that says nothing for so long is asked (PING); when it is silent for as long again, its pod or node has gone without a word, and the
/// streams fail. 10 s: far below TCP's 15 minutes, and a live peer answers within a round trip.
const SILENT: Duration = Duration::from_secs(10);
/// How long one direction of an upgraded connection may outlive the other.
const HALF: Duration = Duration::from_secs(60);

impl Engine {
    /// When [`Engine::on_timer`] is due. Changes with every call; ask after each turn.
    pub fn next_timer(&self) -> Option<Instant> {
        self.wheel.next()
    }

    pub fn on_timer(&mut self, now: Instant) {
        self.now = now;
        while let Some(t) = self.wheel.poll(now) {
            match t {
                Timer::Request(key) => self.request_timeout(key),
                Timer::Exchange(key) => self.exchange_timer(key),
                Timer::Conn(key) => self.conn_timer(key),
                Timer::Pool => {
                    self.pool_timer = false;
                    let mut expired = Vec::new();
                    self.pool.expire(now, |c| expired.push(c));
                    for c in expired {
                        self.close(c, CloseHow::Now);
                    }
                    self.pool_timer();
                }
                Timer::Drain => self.drain_over(),
            }
            self.settle();
        }
    }

    fn request_timeout(&mut self, key: ExKey) {
        let Some(x) = self.ex(key) else { return };
        x.request_timer = None;
        let (next, action) = step(x.state, Event::RequestTimeout);
        x.state = next;
        match action {
            Action::Respond => {
                self.drop_attempt(key, false);
                self.respond(key, Kind::RequestTimeout.into());
            }
            Action::Break => self.break_off(key, Kind::RequestTimeout.into()),
            _ => {}
        }
    }

    fn exchange_timer(&mut self, key: ExKey) {
        let now = self.now;
        let Some(x) = self.ex(key) else { return };
        x.timer = None;
        let state = x.state;
        let started = x.attempt.as_ref().map(|a| a.started);
        let limit = x.rule.as_ref().and_then(|r| r.timeouts.backend_request());
        let used_up = limit.is_some_and(|l| started.is_some_and(|s| now >= s + l));
        match state {
            State::Backoff => self.backoff_over(key),
            State::Waiting if !used_up => {
                self.attempt_failed(key, super::response::Lost::of(Kind::OverloadWait.into()));
            }
            State::Waiting | State::Sent => {
                self.attempt_failed(key, super::response::Lost::of(Kind::BackendTimeout.into()));
            }
            State::Streaming | State::HalfClosed => {
                if state == State::Streaming
                    && let Some(x) = self.ex(key)
                {
                    x.series.attempt_timeouts.add(1);
                }
                self.lost(key, super::response::Lost::of(Kind::BackendTimeout.into()));
            }
            State::New | State::Flushing | State::Over => {}
        }
    }

    /// The upstream of a tunnel has ended: the other direction gets a while.
    pub(super) fn linger(&mut self, key: ExKey) {
        let at = self.now + HALF;
        let timer = self.wheel.insert(at, Timer::Exchange(key));
        if let Some(x) = self.ex(key)
            && let Some(old) = x.timer.replace(timer)
        {
            self.wheel.cancel(old);
        }
    }

    /// Arms the timer that closes idle connections.
    pub(super) fn pool_timer(&mut self) {
        if self.pool_timer || self.pool.connections() == 0 {
            return;
        }
        // a quarter more than the idle time at most, for a look at all connections four times in it
        let at = self.now + self.config.pool.idle_timeout / 4;
        self.pool_timer = true;
        self.wheel.insert(at, Timer::Pool);
    }

    // ------------------------------------------------------------ connections

    /// Sees to it that the connection's timer stands at or before its deadline.
    pub(super) fn watch(&mut self, key: ConnKey) {
        let now = self.now;
        let Some(c) = self.conns.get_mut(key.index as usize).filter(|c| c.key == key) else { return };
        let down = matches!(c.role, Role::Down(_));
        let watch = match (&c.codec, c.phase) {
            (_, Phase::Dialing) => Watch::Nothing,
            (_, Phase::Closing) => Watch::Closing,
            (Codec::Server(s), _) if c.eof && c.exchange.is_some() && s.waiting() != Waiting::Tunnel => {
                Watch::HalfClosed
            }
            (Codec::Server(s), _) => match s.waiting() {
                Waiting::Idle => Watch::KeepAlive,
                Waiting::Head => Watch::Head,
                Waiting::Body if !c.paused => Watch::Body,
                Waiting::Tunnel => Watch::Tunnel,
                Waiting::Body | Waiting::Local | Waiting::Closed => Watch::Nothing,
            },
            // attempts have deadlines of their own, idle connections the pool's
            (Codec::Client(_), _) => Watch::Nothing,
            (Codec::H2(h), _) if h.in_frame() => Watch::Head,
            (Codec::H2(h), _) if h.streams() > 0 => {
                let mesh = match &c.role {
                    Role::Down(d) => d.meshed(),
                    Role::Up(wire) => *wire == Wire::Mesh,
                };
                // applications may count PING frames against us
                if mesh { Watch::Alive } else { Watch::Nothing }
            }
            (Codec::H2(h), _) if h.is_going_away() => Watch::Closing,
            (Codec::H2(_), _) if down => Watch::KeepAlive,
            (Codec::H2(_), _) => Watch::Nothing,
        };
        if watch != c.watch {
            c.watch = watch;
            c.since = now;
        }
        let Some(at) = self.deadline(key) else { return };
        let Some(c) = self.conns.get_mut(key.index as usize) else { return };
        match c.timer {
            Some(_) if c.armed <= at => {}
            Some(t) => {
                self.wheel.reschedule(t, at);
                c.armed = at;
            }
            None => {
                c.timer = Some(self.wheel.insert(at, Timer::Conn(key)));
                c.armed = at;
            }
        }
    }

    fn deadline(&self, key: ConnKey) -> Option<Instant> {
        let c = self.conns.get(key.index as usize)?;
        let t = &self.config.timeouts;
        let own = match c.watch {
            Watch::Nothing => None,
            Watch::Head => Some(c.since + t.head),
            Watch::Body => Some(c.since.max(c.heard) + t.body_idle),
            Watch::HalfClosed => Some(c.since + t.body_idle),
            Watch::KeepAlive => Some(c.since + t.keep_alive),
            Watch::Tunnel => Some(c.since.max(c.heard) + t.tunnel_idle),
            Watch::Closing => Some(c.since + CLOSING),
            Watch::Alive => match &c.codec {
                Codec::H2(h) => Some(h.ping_sent().unwrap_or(c.since.max(c.heard)) + SILENT),
                _ => None,
            },
        };
        // only once the socket has refused bytes: a task that has not run yet is no slow peer
        let write = c.writing.filter(|_| c.blocked).map(|w| w + t.write);
        match (own, write) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    fn conn_timer(&mut self, key: ConnKey) {
        let now = self.now;
        let Some(c) = self.conn(key) else { return };
        c.timer = None;
        let watch = c.watch;
        let stuck = c.blocked.then_some(c.writing).flatten().is_some_and(|w| now >= w + self.config.timeouts.write);
        match self.deadline(key) {
            Some(at) if at > now => return self.watch(key),
            None => return,
            Some(_) => {}
        }
        if stuck {
            // a reader so slow that it may as well be gone (row 7)
            self.totals.limits.add("write_timeout", 1);
            return self.cut(key);
        }
        match watch {
            Watch::Nothing => {}
            Watch::KeepAlive => self.drain_conn(key),
            Watch::Closing => self.cut(key),
            // nothing was written for so long that nobody could have told us
            Watch::HalfClosed => {
                self.totals.limits.add("half_closed", 1);
                self.cut(key);
            }
            Watch::Tunnel => {
                self.totals.limits.add("tunnel_idle", 1);
                self.cut(key);
            }
            Watch::Head | Watch::Body => self.too_slow(key, watch),
            Watch::Alive => {
                let asked = match self.conn(key).map(|c| &mut c.codec) {
                    Some(Codec::H2(h)) => h.ping(now),
                    _ => false,
                };
                if asked {
                    self.touch(key);
                } else {
                    self.totals.limits.add("peer_silent", 1);
                    self.cut(key);
                }
            }
        }
    }

    /// A client that takes too long with its head or body: 408 where that can still be said.
    fn too_slow(&mut self, key: ConnKey, watch: Watch) {
        let kind = if watch == Watch::Head { Kind::HeadTimeout } else { Kind::BodyTimeout };
        self.totals.limits.add(kind.label(), 1);
        let Some(c) = self.conn(key) else { return };
        let token = c.exchange;
        let up = matches!(c.role, Role::Up(_));
        match &mut c.codec {
            Codec::Server(s) => {
                s.stop_reading();
                let free = s.can_respond();
                match token {
                    Some(t) if free => self.time_out(t.ex, kind),
                    Some(_) => self.cut(key),
                    None => {
                        let mut head = pool::take();
                        super::respond::plain_head(&mut head, kind.status(), kind.label(), kind.text());
                        // the codec closes either way
                        let _ = s.send_head(&head, true);
                        pool::give(head);
                        self.touch(key);
                    }
                }
            }
            Codec::H2(h) => {
                h.go_away(h2::ErrorCode::EnhanceYourCalm);
                // 408 is for clients; an upstream that stops within a frame is a broken one
                let cause = match up {
                    true => Cause::with(Kind::ResetBeforeResponse, "the upstream stopped in the middle of a frame"),
                    false => kind.into(),
                };
                self.fail_streams(key, super::response::Lost::of(cause));
                if up {
                    self.pool_lost(key);
                }
                self.close(key, CloseHow::Linger(h1::Config::default().linger));
            }
            Codec::Client(_) => {}
        }
    }

    fn time_out(&mut self, key: ExKey, kind: Kind) {
        let Some(x) = self.ex(key) else { return };
        let (next, action) = step(x.state, Event::Shed);
        x.state = next;
        if action == Action::Respond {
            self.drop_attempt(key, false);
            self.respond(key, kind.into());
        }
    }

    /// Ends a connection at once.
    fn cut(&mut self, key: ConnKey) {
        self.commands.push_back(Command::Reset { conn: key });
        self.lose(key, Cause::new(Kind::ResetBeforeResponse));
    }

    // ------------------------------------------------------------ drain

    /// Finish what is under way until `deadline`, when the rest is reset and counted. Inbound only, or `outbound`, too. Nothing new is refused meanwhile
    /// (design 3.6): plain connections are told `Connection: close`, HTTP/2 ones GOAWAY.
    pub fn drain(&mut self, deadline: Instant, outbound: bool, now: Instant) {
        self.now = now;
        self.draining = Some(Drain { outbound, last_call: self.draining.is_some_and(|d| d.last_call) });
        self.wheel.insert(deadline, Timer::Drain);
        let keys: Vec<ConnKey> = self
            .conns
            .iter()
            .filter(|(_, c)| c.down().is_some_and(|d| outbound || d.inbound()))
            .map(|(_, c)| c.key)
            .collect();
        for key in keys {
            // a request may be on its way on an idle HTTP/1 connection: it is answered, and only that answer says `close`
            match self.conn(key) {
                Some(c) if matches!(&c.codec, Codec::Server(s) if s.waiting() == Waiting::Idle) => c.draining = true,
                _ => self.drain_conn(key),
            }
        }
        self.settle();
    }

    /// Nothing is under way of what [`Engine::drain`] was asked to end; without a drain, nothing at all.
    pub fn is_idle(&self) -> bool {
        let outbound = self.draining.is_none_or(|d| d.outbound);
        self.exchanges.iter().all(|(_, x)| !outbound && !x.down.inbound())
    }

    /// HTTP/2 clients that have been told to go and have not answered yet: their last requests may be on their way (RFC 9113, 6.8).
    pub fn leaving(&self) -> usize {
        let going = |c: &crate::conn::Conn| match &c.codec {
            Codec::H2(h) => c.draining && c.phase == Phase::Open && h.is_going_away() && !h.is_finished(),
            _ => false,
        };
        self.conns.iter().filter(|(_, c)| c.down().is_some() && going(c)).count()
    }

    pub(super) fn drain_where(&mut self, which: impl Fn(&Down) -> bool) {
        let keys: Vec<ConnKey> =
            self.conns.iter().filter(|(_, c)| c.down().is_some_and(|d| which(d))).map(|(_, c)| c.key).collect();
        for key in keys {
            self.drain_conn(key);
        }
    }

    /// A connection that is accepted during a drain is told to go with its first request, not before: who has just dialled would dial again. After
    /// [`Engine::last_call`] nobody is accepted who could.
    pub(super) fn drain_new(&mut self, key: ConnKey) {
        let Some(drain) = self.draining else { return };
        if let Some(c) = self.conn(key)
            && c.down().is_some_and(|d| drain.outbound || d.inbound())
        {
            c.draining = true;
            if drain.last_call && matches!(c.codec, Codec::H2(_)) {
                self.drain_conn(key);
            }
        }
    }

    /// Nothing new is accepted any more: HTTP/2 clients that came during the drain and have not asked for anything are told to go, too. When
    /// [`Engine::leaving`] is nothing after this, no request of theirs can be on its way.
    pub fn last_call(&mut self, now: Instant) {
        self.now = now;
        let Some(drain) = &mut self.draining else { return };
        drain.last_call = true;
        let keys: Vec<ConnKey> = self
            .conns
            .iter()
            .filter(|(_, c)| c.draining && c.down().is_some())
            .filter(|(_, c)| matches!(&c.codec, Codec::H2(h) if !h.is_going_away()))
            .map(|(_, c)| c.key)
            .collect();
        for key in keys {
            self.drain_conn(key);
        }
        self.settle();
    }

    fn drain_conn(&mut self, key: ConnKey) {
        let Some(c) = self.conn(key).filter(|c| c.phase == Phase::Open) else { return };
        c.draining = true;
        match &mut c.codec {
            Codec::Server(s) => s.drain(),
            Codec::H2(h) => h.go_away_gracefully(),
            Codec::Client(_) => {}
        }
        self.touch(key);
    }

    fn drain_over(&mut self) {
        let Some(drain) = self.draining else { return };
        let keys: Vec<ExKey> =
            self.exchanges.iter().filter(|(_, x)| drain.outbound || x.down.inbound()).map(|(_, x)| x.key).collect();
        self.totals.drained_by_force.add(keys.len() as u64);
        for key in keys {
            self.shed(key, Kind::Draining.into());
        }
        let conns: Vec<ConnKey> = self
            .conns
            .iter()
            .filter(|(_, c)| c.down().is_some_and(|d| drain.outbound || d.inbound()) && c.phase == Phase::Open)
            .map(|(_, c)| c.key)
            .collect();
        for key in conns {
            if let Some(c) = self.conn(key)
                && let Codec::H2(h) = &mut c.codec
                && !h.is_finished()
            {
                h.go_away(h2::ErrorCode::NoError);
            }
            self.close(key, CloseHow::Now);
        }
    }
}
