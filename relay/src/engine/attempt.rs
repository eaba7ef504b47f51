//! Attempts: an endpoint, a connection, the request on it, and what follows when it comes to nothing.

use super::{
    Engine, heads,
    response::Lost,
    state::{Attempt, Target},
    timers::Timer,
};
use crate::{
    api::{ConnKey, Wire},
    balance::{self, Choice},
    conn::{Codec, Conn, ExKey, Phase, Token},
    exchange::{Action, Event, step},
    pool::{Acquire, PoolKey},
};
use std::time::Duration;
use weft_core::{
    cause::{Cause, Class, Kind},
    retry::{self, Outcome, UNPROCESSED_RETRIES},
};
use weft_http::{h1, h2, head::pool};

/// Why a retry that the policy would allow does not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The outcome is not one that is tried again.
    Outcome,
    Attempts,
    Body,
    Budget,
}

impl Refusal {
    pub fn label(self) -> &'static str {
        match self {
            Refusal::Outcome => "outcome",
            Refusal::Attempts => "attempts_used_up",
            Refusal::Body => "body_not_kept",
            Refusal::Budget => "budget",
        }
    }
}

impl Engine {
    /// Chooses an endpoint and gets a connection to it, or waits for one. The exchange is in `Waiting`.
    pub(super) fn acquire(&mut self, key: ExKey) {
        let (now, random) = (self.now, self.random());
        let Some(x) = self.exchanges.get_mut(key.index as usize).filter(|x| x.key == key) else { return };
        let mut http2 = x.app_http2;
        let mut most = None;
        let (address, peer, pick) = match &x.target {
            Target::App(app) => (*app, None, None),
            Target::Endpoint(e) => (e.address, e.mesh.clone(), None),
            Target::Cluster(at) => {
                let Some(cluster) = self.clusters.get_mut(*at as usize) else { return };
                if x.attempts == 0 && x.leg.is_some() {
                    cluster.budget.request(now);
                }
                http2 |= cluster.balancer.http2();
                let ipv6 = x.down.dialled_ipv6;
                let choice = Choice { avoid: &x.tried, client: Some(x.down.client.ip()), ipv6, now, random };
                most = cluster.policy.limits.connections;
                match cluster.balancer.pick(choice) {
                    Ok(pick) => (pick.endpoint.address, pick.endpoint.mesh.clone(), Some(pick)),
                    Err(summary) => {
                        let cause = Cause::with(Kind::NoEndpoints, format!("{}: {summary}", cluster.service));
                        return self.give_up(key, cause);
                    }
                }
            }
            Target::None => return,
        };
        let wire = match (&peer, http2) {
            (Some(_), _) => Wire::Mesh,
            (None, true) => Wire::Http2,
            (None, false) => Wire::Http1,
        };
        x.attempts += 1;
        x.app_http2 = http2;
        x.upstream = Some(address);
        if let Some(p) = &pick {
            x.tried.push(p.id);
        }
        let leg = x.attempts;
        x.attempt = Some(Attempt {
            leg,
            conn: None,
            stream: None,
            wait: None,
            pending: None,
            pick,
            wire,
            address,
            started: now,
            sent: now,
            left: 0,
            end_left: false,
            response_over: false,
            outcome: None,
        });
        if leg > 1 {
            x.series.retries.add(1);
        }
        let limit = x.attempt_limit().map(|d| now + d);
        let pool_key = PoolKey { address, peer, wire };
        match self.pool.acquire_within(&pool_key, most, now, Token { ex: key, leg }) {
            Ok(Acquire::Use { conn, dial }) => {
                self.dial(dial);
                if let Some(at) = limit {
                    self.arm(key, at);
                }
                self.open(key, conn);
            }
            Ok(Acquire::Wait { key: wait, deadline, dial }) => {
                // who begins a dial of its own waits for nobody
                if dial.is_none()
                    && let Err(most) = self.wait_in_line(key)
                {
                    self.pool.cancel(wait);
                    let cause =
                        Cause::with(Kind::OverloadWaiters, format!("{most} requests already wait for the backend"));
                    return self.attempt_failed(key, Lost::of(cause));
                }
                self.dial(dial);
                if let Some(a) = self.ex(key).and_then(|x| x.attempt.as_mut()) {
                    a.wait = Some(wait);
                }
                self.arm(key, limit.map_or(deadline, |l| l.min(deadline)));
            }
            Err(full) => self.attempt_failed(key, Lost::of(Cause::with(Kind::OverloadWaiters, full.to_string()))),
        }
    }

    /// A place among those that wait for connections to the backend, where a policy bounds them.
    fn wait_in_line(&mut self, key: ExKey) -> Result<(), u32> {
        let Some(x) = self.exchanges.get_mut(key.index as usize).filter(|x| x.key == key) else { return Ok(()) };
        let Target::Cluster(at) = x.target else { return Ok(()) };
        let Some(cluster) = self.clusters.get(at as usize) else { return Ok(()) };
        let Some(most) = cluster.policy.limits.pending else { return Ok(()) };
        let permit = cluster.limits.pending(most).ok_or(most)?;
        if let Some(a) = &mut x.attempt {
            a.pending = Some(permit);
        }
        Ok(())
    }

    fn arm(&mut self, key: ExKey, at: std::time::Instant) {
        let timer = self.wheel.insert(at, Timer::Exchange(key));
        if let Some(x) = self.ex(key)
            && let Some(old) = x.timer.replace(timer)
        {
            self.wheel.cancel(old);
        }
    }

    /// Sends the request on a connection that the pool has given.
    pub(super) fn open(&mut self, key: ExKey, conn: ConnKey) {
        let Some(x) = self.exchanges.get_mut(key.index as usize).filter(|x| x.key == key) else { return };
        let limit = x.attempt_limit();
        let Some(a) = &mut x.attempt else { return };
        let (next, action) = step(x.state, Event::Opened);
        debug_assert_eq!(action, Action::Send);
        x.state = next;
        a.conn = Some(conn);
        a.sent = self.now;
        // the wait for a connection has its own end; from here on only the attempt's own time counts
        let limit = limit.map(|d| a.started + d);
        if let Some(t) = x.timer {
            match limit {
                Some(at) => {
                    self.wheel.reschedule(t, at);
                }
                None => {
                    self.wheel.cancel(t);
                    x.timer = None;
                }
            }
        }
        let Some(c) = self.conns.get_mut(conn.index as usize).filter(|c| c.key == conn) else {
            debug_assert!(false, "the pool gave a connection that is gone");
            a.conn = None;
            return self.attempt_failed(key, Lost::at_once(Kind::Refused.into()));
        };
        heads::set_meta(&mut x.head, a.wire == Wire::Mesh, x.app_http2);
        let token = Token { ex: key, leg: a.leg };
        let end = x.body.end && x.body.total == 0 && x.body.trailers.is_none();
        let sent = match &mut c.codec {
            Codec::Client(s) => {
                c.exchange = Some(token);
                (c.pending, c.in_flight) = (0, 0);
                s.send_head(&x.head, end).map_err(|e| match e {
                    h1::SendError::State => Lost::at_once(Kind::Refused.into()),
                    e => Lost::of(Cause::with(Kind::BadRequest, e.to_string())),
                })
            }
            Codec::H2(h) => match h.open(&x.head, end, token) {
                Ok(stream) => {
                    a.stream = Some(stream);
                    Ok(())
                }
                Err(h2::OpenError::NoExtendedConnect) => {
                    Err(Lost::of(Cause::with(Kind::BadResponse, "the application does not take extended CONNECT")))
                }
                Err(e) => {
                    // the pool must not think of it for the next one
                    match e {
                        h2::OpenError::NoRoom => self.pool.set_limit(conn, h.streams() as u32),
                        _ => {
                            self.pool.draining(conn);
                        }
                    }
                    Err(Lost::at_once(Cause::with(Kind::Refused, e.to_string())))
                }
            },
            Codec::Server(_) => Err(Lost::of(Kind::Internal.into())),
        };
        if let Err(lost) = sent {
            return self.attempt_failed(key, lost);
        }
        a.end_left = end;
        self.touch(conn);
        if !end {
            self.play(key);
        }
    }

    /// Sends what has been recorded, and what waits behind it.
    fn play(&mut self, key: ExKey) {
        let Some(x) = self.exchanges.get_mut(key.index as usize).filter(|x| x.key == key) else { return };
        let Some(a) = &mut x.attempt else { return };
        let Some(c) = a.conn.and_then(|c| self.conns.get_mut(c.index as usize).filter(|o| o.key == c)) else { return };
        let body = &mut x.body;
        let mut done = Ok(());
        let fin = body.end && body.trailers.is_none();
        let mut at = 0;
        loop {
            let piece = body.replay.at(at);
            if piece.is_empty() || done.is_err() {
                break;
            }
            at += piece.len();
            let last = fin && at == body.replay.len() && body.pending.is_empty();
            done = push(c, a, piece, last);
        }
        if done.is_ok() && !body.pending.is_empty() {
            done = push(c, a, &body.pending, fin);
            // the recording is not whole any more: this attempt is the last
            body.pending = Vec::new();
            body.replay.discard();
        } else if done.is_ok() && fin && at == 0 {
            done = push(c, a, &[], true);
        }
        match done {
            Err(lost) => self.attempt_failed(key, lost),
            Ok(()) if self.ex(key).is_some_and(|x| x.body.trailers.is_some()) => self.send_end(key),
            Ok(()) => {}
        }
        self.credit_client(key);
    }

    /// Passes a piece of the body on.
    pub(super) fn send_data(&mut self, key: ExKey, data: &[u8], end: bool) {
        let Some(x) = self.exchanges.get_mut(key.index as usize).filter(|x| x.key == key) else { return };
        let Some(a) = &mut x.attempt else { return };
        let Some(conn) = a.conn else { return };
        let Some(c) = self.conns.get_mut(conn.index as usize).filter(|c| c.key == conn) else { return };
        let sent = push(c, a, data, end);
        self.touch(conn);
        match sent {
            Ok(()) => self.credit_client(key),
            Err(lost) => self.lost(key, lost),
        }
    }

    /// Passes trailers on: the end of the request.
    pub(super) fn send_end(&mut self, key: ExKey) {
        let Some(x) = self.exchanges.get_mut(key.index as usize).filter(|x| x.key == key) else { return };
        let (Some(a), Some(trailers)) = (&mut x.attempt, &x.body.trailers) else { return };
        let Some(conn) = a.conn else { return };
        let Some(c) = self.conns.get_mut(conn.index as usize).filter(|c| c.key == conn) else { return };
        let sent = match (&mut c.codec, a.stream) {
            (Codec::Client(s), _) => {
                a.end_left = true;
                s.send_trailers(trailers).map_err(|e| Lost::of(Cause::with(Kind::BadRequest, e.to_string())))
            }
            (Codec::H2(h), Some(stream)) => {
                // a copy: another attempt may need them
                let mut copy = pool::take();
                copy.clone_from(trailers);
                a.end_left = h.send_trailers(stream, copy);
                Ok(())
            }
            _ => Ok(()),
        };
        self.touch(conn);
        if let Err(lost) = sent {
            self.lost(key, lost);
        }
    }

    /// An attempt has come to nothing before its response was passed on.
    pub(super) fn attempt_failed(&mut self, key: ExKey, lost: Lost) {
        let Some(x) = self.ex(key) else { return };
        if let Some(a) = &mut x.attempt
            && a.outcome.is_none()
        {
            a.outcome = Some(match lost.cause.kind {
                Kind::ResetBeforeResponse if lost.reused => balance::Outcome::Cancelled,
                Kind::ResetBeforeResponse | Kind::BadResponse | Kind::BackendTimeout | Kind::Unprocessed => {
                    balance::Outcome::Broken
                }
                _ => balance::Outcome::Cancelled,
            });
        }
        if lost.cause.kind == Kind::BackendTimeout {
            x.series.attempt_timeouts.add(1);
        }
        let outcome = Outcome::Failed { kind: lost.cause.kind, reused: lost.reused };
        match self.may_retry(key, outcome) {
            Ok(()) => self.retry(key, lost.at_once),
            Err(Refusal::Budget) => self.give_up(key, Cause::with(Kind::BudgetExhausted, lost.cause.to_string())),
            Err(_) => self.give_up(key, lost.cause),
        }
    }

    /// No other attempt follows: the cause is the answer.
    pub(super) fn give_up(&mut self, key: ExKey, mut cause: Cause) {
        let now = self.now;
        let Some(x) = self.ex(key) else { return };
        let (next, action) = step(x.state, Event::Failed);
        if action != Action::Respond {
            return;
        }
        x.state = next;
        let (target, ipv6) = (x.target.clone(), x.down.dialled_ipv6);
        self.drop_attempt(key, false);
        if let Target::Cluster(at) = target
            && cause.kind.class() == Class::Unprocessed
            && cause.kind != Kind::NoEndpoints
            && let Some(c) = self.clusters.get(at as usize)
        {
            cause = Cause::with(
                cause.kind,
                format!("{}; {}: {}", cause.detail, c.service, c.balancer.summary_for(ipv6, now)),
            );
        }
        self.respond(key, cause);
    }

    /// Whether another attempt may follow; counts against the budget when it may.
    pub(super) fn may_retry(&mut self, key: ExKey, outcome: Outcome) -> Result<(), Refusal> {
        let now = self.now;
        let Some(x) = self.exchanges.get_mut(key.index as usize).filter(|x| x.key == key) else {
            return Err(Refusal::Outcome);
        };
        if x.is_mirror() {
            return Err(Refusal::Outcome);
        }
        let allowed = match &x.target {
            // towards the own application: only where the connection may have been closed while it was idle, or the codec had no place
            Target::App(_) => match outcome {
                Outcome::Failed { kind: Kind::ResetBeforeResponse, reused: true } if x.idempotent => {
                    UNPROCESSED_RETRIES
                }
                Outcome::Failed { kind: Kind::Refused, .. } => UNPROCESSED_RETRIES,
                _ => 0,
            },
            _ => retry::retries(x.retry(), outcome, x.head.method()),
        };
        let refusal = if allowed == 0 {
            Refusal::Outcome
        } else if x.attempts > allowed {
            Refusal::Attempts
        } else if !x.body.replay.is_whole() {
            Refusal::Body
        } else if x.cluster(&mut self.clusters).is_some_and(|c| !c.budget.try_retry(now)) {
            x.series.retries_refused.add(1);
            Refusal::Budget
        } else {
            let why = match outcome {
                Outcome::Failed { kind, .. } => kind.label(),
                Outcome::Response { grpc: Some(_), .. } => "listed_grpc_code",
                Outcome::Response { .. } => "listed_code",
            };
            x.series.retried.add(why, 1);
            return Ok(());
        };
        if refusal != Refusal::Outcome {
            x.series.not_retried.add(refusal.label(), 1);
        }
        Err(refusal)
    }

    /// Gives the attempt up and waits, or goes on at once.
    pub(super) fn retry(&mut self, key: ExKey, at_once: bool) {
        let (now, random) = (self.now, self.random());
        let Some(x) = self.ex(key) else { return };
        let (next, action) = step(x.state, Event::FailedRetry);
        if action != Action::Retry {
            return;
        }
        x.state = next;
        let pause = if at_once { Duration::ZERO } else { retry::backoff(x.retry(), x.attempts, random) };
        self.drop_attempt(key, false);
        if pause.is_zero() {
            self.backoff_over(key);
        } else {
            self.arm(key, now + pause);
        }
    }

    pub(super) fn backoff_over(&mut self, key: ExKey) {
        let Some(x) = self.ex(key) else { return };
        let (next, action) = step(x.state, Event::BackoffOver);
        if action == Action::Acquire {
            x.state = next;
            self.acquire(key);
        }
    }

    /// Ends the attempt, if there is one. `done`: it has served its purpose; else what is still under way is cancelled.
    pub(super) fn drop_attempt(&mut self, key: ExKey, done: bool) {
        let (now, random) = (self.now, self.random());
        let Some(x) = self.exchanges.get_mut(key.index as usize).filter(|x| x.key == key) else { return };
        let timer = x.timer.take();
        let Some(a) = x.attempt.take() else {
            if let Some(t) = timer {
                self.wheel.cancel(t);
            }
            return;
        };
        let succeeded =
            matches!(a.outcome, Some(balance::Outcome::Answered { verdict: crate::outlier::Verdict::Success, .. }));
        x.series.attempts.add(1);
        if succeeded {
            x.series.attempts_succeeded.add(1);
        }
        if let Some(t) = timer {
            self.wheel.cancel(t);
        }
        if let Some(pick) = a.pick
            && let Some(c) = x.cluster(&mut self.clusters)
        {
            let outcome = a.outcome.unwrap_or(balance::Outcome::Cancelled);
            if c.balancer.finish(pick, outcome, now, random).is_some() {
                self.totals.ejections.add(1);
            }
        }
        if let Some(wait) = a.wait {
            self.pool.cancel(wait);
        }
        let Some(conn) = a.conn else { return };
        let Some(c) = self.conns.get_mut(conn.index as usize).filter(|c| c.key == conn) else { return };
        let reusable = match &mut c.codec {
            Codec::Client(s) => {
                c.exchange = None;
                (c.pending, c.in_flight) = (0, 0);
                let reusable = s.reusable() && !c.eof && c.phase == Phase::Open;
                if !reusable {
                    s.abort();
                }
                reusable
            }
            Codec::H2(h) => {
                if let Some(stream) = a.stream
                    && !(a.response_over && a.end_left)
                {
                    h.reset(
                        stream,
                        if done || a.response_over { h2::ErrorCode::NoError } else { h2::ErrorCode::Cancel },
                    );
                }
                true
            }
            Codec::Server(_) => false,
        };
        self.touch(conn);
        self.give_back(conn, reusable);
    }
}

/// Appends to an upstream connection. Bytes that went into the output of HTTP/2 have left; of HTTP/1 they have when they are written.
fn push(c: &mut Conn, a: &mut Attempt, data: &[u8], end: bool) -> Result<(), Lost> {
    match &mut c.codec {
        Codec::Client(s) => {
            s.send_data(data, end).map_err(|e| Lost::of(Cause::with(Kind::BadRequest, e.to_string())))?;
            c.pending += data.len() as u32;
            a.end_left |= end;
        }
        Codec::H2(h) => {
            let Some(stream) = a.stream else { return Ok(()) };
            let n = h.send_data(stream, data, end);
            a.left += n as u64;
            a.end_left |= end && n == data.len() && h.queued(stream) == 0;
        }
        Codec::Server(_) => {}
    }
    Ok(())
}
