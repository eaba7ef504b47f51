//! Upstream connections of one worker: which exchange uses which, and when another one is opened.
//!
//! Connections are kept apart by everything that makes them different to whoever answers: address, expected pod UID and identity, and wire
//! ([`PoolKey`]). An exchange asks with [`Pool::acquire`] and either gets a connection at once or becomes a waiter; waiters are served in order
//! as connections open, streams end or stalled ones move again ([`Pool::take_waiter`]). The pool opens nothing itself: it says that a dial is
//! wanted, the engine dials and reports.
//!
//! - HTTP/1: one exchange at a time. Idle connections are used last in, first out, so that the surplus ages and is closed; an exchange that
//!   finds none dials, and takes whatever comes first, its dial or a connection that another exchange gave back.
//! - HTTP/2 (mesh or plain): one warm connection; a further one (four at most) when each has 80 % of its streams in use or has not moved its
//!   output for 5 ms. The emptiest one that moves is used. When none has room: bounded waiting, then [`Overload`] or the waiter's deadline.

use crate::{Wire, util::FastMap};
use slab::Slab;
use smallvec::SmallVec;
use std::{
    collections::VecDeque,
    hash::Hash,
    net::SocketAddr,
    time::{Duration, Instant},
};
use weft_core::endpoint::MeshPeer;

/// What must be equal for two exchanges to share a connection. The worker is implied: each has a pool of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    pub address: SocketAddr,
    /// Pod UID and identity that must answer; `None`: plain text.
    pub peer: Option<MeshPeer>,
    pub wire: Wire,
}

/// Bounds of a pool. The defaults are a sidecar's.
#[derive(Clone, Copy, Debug)]
pub struct PoolConfig {
    /// Idle HTTP/1 connections kept for one key: more than a burst of browsers leaves behind, fewer than a small application's backlog.
    pub idle_per_key: usize,
    /// Idle HTTP/1 connections kept in all.
    pub idle_total: usize,
    /// Idle HTTP/1 connections close after this: below the 5 s of Node.js and uvicorn, so that it is we who close.
    pub idle_timeout: Duration,
    /// Multiplexed connections without streams close after this: they were worth a handshake.
    pub shared_idle_timeout: Duration,
    /// Connections for one key in HTTP/1.
    pub http1_per_key: usize,
    /// Connections for one key when multiplexed.
    pub shared_per_key: usize,
    /// A multiplexed connection that has not moved its output for so long counts as stalled.
    pub stall: Duration,
    /// Exchanges that may wait for one key.
    pub waiters_per_key: usize,
    /// Exchanges that may wait in all.
    pub waiters_total: usize,
    /// How long one may wait.
    pub wait: Duration,
}
impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            idle_per_key: 64,
            idle_total: 1_024,
            idle_timeout: Duration::from_secs(4),
            shared_idle_timeout: Duration::from_secs(300),
            http1_per_key: 1_024,
            shared_per_key: 4,
            stall: Duration::from_millis(5),
            waiters_per_key: 1_024,
            waiters_total: 4_096,
            wait: Duration::from_secs(2),
        }
    }
}

/// Why an exchange may not even wait: 503, with this text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Overload {
    #[error("{0} requests already wait for a connection to this endpoint")]
    WaitersOfEndpoint(usize),
    #[error("{0} requests already wait for connections")]
    WaitersInAll(usize),
}

/// Names the record of one key, until the next call that changes the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolId(u32);

/// Names a waiter, for cancelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WaitKey {
    group: u32,
    sequence: u64,
}

/// Answer to [`Pool::acquire`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquire<C> {
    /// Use this connection: one more stream is already counted on it. `dial`: another one is wanted besides, for this key.
    Use { conn: C, dial: Option<PoolId> },
    /// Wait until [`Pool::take_waiter`] or [`Pool::release`] yields this waiter, at most until `deadline`. `dial`: open a connection now.
    Wait { key: WaitKey, deadline: Instant, dial: Option<PoolId> },
}

/// Answer to [`Pool::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release<C, W> {
    /// The connection serves this waiter next: one more stream is already counted on it.
    Next(W),
    /// Close this connection (not always the released one: the longest idle one makes room). The pool has forgotten it.
    Close(C),
    Kept,
}

/// Answer to [`Pool::dial_failed`].
#[derive(Clone, Debug)]
pub struct DialFailed<W> {
    /// Who fails with it.
    pub waiters: SmallVec<[W; 4]>,
    /// Another dial is wanted for those who still wait.
    pub dial: Option<PoolId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Dialing,
    Open,
    /// Takes no further exchanges (GOAWAY, `Connection: close`, retired).
    Draining,
}

#[derive(Debug)]
struct Conn<C> {
    conn: C,
    group: u32,
    state: State,
    /// On the idle list of its group (HTTP/1).
    listed: bool,
    streams: u32,
    /// Streams that it can have at once.
    limit: u32,
    blocked_since: Option<Instant>,
    /// Since when it has had no streams; meaningful while `streams` is 0.
    idle_since: Instant,
}

struct Waiter<W> {
    sequence: u64,
    waiter: W,
}

struct Group<W> {
    key: PoolKey,
    /// Connections that are not draining.
    live: usize,
    /// Of these, still being dialled.
    dialing: usize,
    /// All of them, draining ones too: a group lives as long as it has any.
    conns: usize,
    /// Multiplexed connections that are not draining, as places in `Pool::conns`. Empty in HTTP/1, where there may be a thousand.
    shared: SmallVec<[u32; 4]>,
    /// Idle HTTP/1 connections, longest idle first.
    idle: VecDeque<u32>,
    waiters: VecDeque<Waiter<W>>,
    /// Connections that the last exchange's policy allows.
    most: usize,
    /// When the last dial for more room failed: not tried again at once by every request.
    failed: Option<Instant>,
}

/// After the dial of a further connection failed, the existing ones must do for so long.
const FURTHER_DIAL_PAUSE: Duration = Duration::from_secs(1);

/// The pool. `C` names connections, `W` names who waits.
pub struct Pool<C, W> {
    config: PoolConfig,
    groups: Slab<Group<W>>,
    by_key: FastMap<PoolKey, u32>,
    conns: Slab<Conn<C>>,
    by_conn: FastMap<C, u32>,
    sequence: u64,
    waiting: usize,
    idle: usize,
}

impl<C: Copy + Eq + Hash, W: Copy> Pool<C, W> {
    pub fn new(config: PoolConfig) -> Self {
        Self {
            config,
            groups: Slab::new(),
            by_key: FastMap::default(),
            conns: Slab::new(),
            by_conn: FastMap::default(),
            sequence: 0,
            waiting: 0,
            idle: 0,
        }
    }

    /// A connection for one more exchange, or a place in the queue.
    ///
    /// # Errors
    /// [`Overload`] when the queue is full; nothing is held then.
    pub fn acquire(&mut self, key: &PoolKey, now: Instant, waiter: W) -> Result<Acquire<C>, Overload> {
        self.acquire_within(key, None, now, waiter)
    }

    /// The same with at most so many connections for the key, if that is fewer than the pool's own bound. Ones that are open already stay.
    ///
    /// # Errors
    /// As [`Pool::acquire`].
    pub fn acquire_within(
        &mut self,
        key: &PoolKey,
        most: Option<u32>,
        now: Instant,
        waiter: W,
    ) -> Result<Acquire<C>, Overload> {
        let id = match self.by_key.get(key) {
            Some(id) => *id,
            None => self.make_group(key),
        };
        let group = &mut self.groups[id as usize];
        group.most = most.map_or(usize::MAX, |n| n.max(1) as usize);
        // whoever came first is served first
        if group.waiters.is_empty() {
            if let Some(at) = group.idle.pop_back() {
                self.idle -= 1;
                let c = &mut self.conns[at as usize];
                c.listed = false;
                c.streams = 1;
                return Ok(Acquire::Use { conn: c.conn, dial: None });
            }
            let (conns, stall) = (&self.conns, self.config.stall);
            let usable = group.shared.iter().copied().filter(|at| conns[*at as usize].has_room(now, stall));
            if let Some(at) = usable.min_by_key(|at| conns[*at as usize].streams) {
                let c = &mut self.conns[at as usize];
                c.streams += 1;
                let conn = c.conn;
                return Ok(Acquire::Use { conn, dial: self.wants_dial(PoolId(id), now) });
            }
        }
        let here = group.waiters.len();
        let overload = if here >= self.config.waiters_per_key {
            Some(Overload::WaitersOfEndpoint(here))
        } else if self.waiting >= self.config.waiters_total {
            Some(Overload::WaitersInAll(self.waiting))
        } else {
            None
        };
        if let Some(overload) = overload {
            self.forget_if_unused(id);
            return Err(overload);
        }
        self.sequence += 1;
        self.waiting += 1;
        group.waiters.push_back(Waiter { sequence: self.sequence, waiter });
        let key = WaitKey { group: id, sequence: self.sequence };
        Ok(Acquire::Wait { key, deadline: now + self.config.wait, dial: self.wants_dial(PoolId(id), now) })
    }

    /// A dial is wanted for this key: for waiters, or because the multiplexed connections are nearly full or stalled. Whoever gets `Some`
    /// dials and says so with [`Pool::dialing`]; the question may be repeated after that.
    pub fn wants_dial(&self, id: PoolId, now: Instant) -> Option<PoolId> {
        let group = self.groups.get(id.0 as usize)?;
        let wanted = if group.key.wire == Wire::Http1 {
            // each waiter has a dial of its own, though another's may serve it
            group.waiters.len() > group.dialing && group.live < self.config.http1_per_key.min(group.most)
        } else if group.live == 0 {
            !group.waiters.is_empty()
        } else {
            let crowded = |at: &u32| {
                let c = &self.conns[*at as usize];
                c.nearly_full() || c.stalled(now, self.config.stall)
            };
            let paused = group.failed.is_some_and(|t| now.saturating_duration_since(t) < FURTHER_DIAL_PAUSE);
            group.dialing == 0
                && group.live < self.config.shared_per_key.min(group.most)
                && !paused
                && group.shared.iter().all(crowded)
        };
        wanted.then_some(id)
    }

    /// The key to dial for.
    pub fn key(&self, id: PoolId) -> &PoolKey {
        &self.groups[id.0 as usize].key
    }

    /// The engine began to dial a connection, as wanted.
    pub fn dialing(&mut self, id: PoolId, conn: C, now: Instant) {
        let c = Conn {
            conn,
            group: id.0,
            state: State::Dialing,
            listed: false,
            streams: 0,
            limit: 0,
            blocked_since: None,
            idle_since: now,
        };
        let at = u32::try_from(self.conns.insert(c)).expect("connections are bounded by file descriptors");
        self.by_conn.insert(conn, at);
        let group = &mut self.groups[id.0 as usize];
        group.live += 1;
        group.conns += 1;
        group.dialing += 1;
        if group.key.wire != Wire::Http1 {
            group.shared.push(at);
        }
    }

    /// A dialled connection is ready for `limit` exchanges at once (1 in HTTP/1). Serve waiters next ([`Pool::take_waiter`]). Returns a
    /// connection to close when there is no waiter and one idle HTTP/1 connection too many.
    pub fn opened(&mut self, conn: C, limit: u32, now: Instant) -> Option<C> {
        let at = *self.by_conn.get(&conn)?;
        let c = &mut self.conns[at as usize];
        debug_assert_eq!(c.state, State::Dialing);
        c.state = State::Open;
        c.limit = limit;
        c.idle_since = now;
        let group = &mut self.groups[c.group as usize];
        group.dialing -= 1;
        group.failed = None;
        self.list_idle(at)
    }

    /// The peer changed how many streams it takes (SETTINGS_MAX_CONCURRENT_STREAMS). Serve waiters next.
    pub fn set_limit(&mut self, conn: C, limit: u32) {
        if let Some(at) = self.by_conn.get(&conn) {
            self.conns[*at as usize].limit = limit;
        }
    }

    /// The next waiter that this connection can take: one more stream is counted on it. Call until `None` after every event that may have
    /// made room: opened, a higher limit, progress.
    pub fn take_waiter(&mut self, conn: C, now: Instant) -> Option<W> {
        let at = *self.by_conn.get(&conn)?;
        let c = &mut self.conns[at as usize];
        if !c.has_room(now, self.config.stall) {
            return None;
        }
        let w = self.groups[c.group as usize].waiters.pop_front()?;
        c.streams += 1;
        self.waiting -= 1;
        self.unlist_idle(at);
        Some(w.waiter)
    }

    /// An exchange has ended on a connection. `reusable`: it may take another one (false for HTTP/1 that must close).
    pub fn release(&mut self, conn: C, reusable: bool, now: Instant) -> Release<C, W> {
        let Some(&at) = self.by_conn.get(&conn) else { return Release::Kept };
        let c = &mut self.conns[at as usize];
        debug_assert!(c.streams > 0, "released more often than acquired");
        c.streams = c.streams.saturating_sub(1);
        c.idle_since = now;
        if !reusable {
            self.drain(at);
        }
        let c = &self.conns[at as usize];
        if c.state == State::Draining {
            if c.streams > 0 {
                return Release::Kept;
            }
            self.closed(conn);
            return Release::Close(conn);
        }
        if let Some(w) = self.take_waiter(conn, now) {
            return Release::Next(w);
        }
        self.list_idle(at).map_or(Release::Kept, Release::Close)
    }

    /// The connection takes no further exchanges: GOAWAY, `Connection: close`, an endpoint that is gone. True: it has none, close it now (it
    /// has been forgotten already). Waiters may want a dial afterwards.
    pub fn draining(&mut self, conn: C) -> bool {
        let Some(&at) = self.by_conn.get(&conn) else { return false };
        self.drain(at);
        if self.conns[at as usize].streams > 0 {
            return false;
        }
        self.closed(conn);
        true
    }

    /// The connection's output stopped moving at `now` although there is some.
    pub fn blocked(&mut self, conn: C, now: Instant) {
        if let Some(at) = self.by_conn.get(&conn) {
            self.conns[*at as usize].blocked_since.get_or_insert(now);
        }
    }

    /// The connection's output moves again, or is empty. Serve waiters next.
    pub fn progressed(&mut self, conn: C) {
        if let Some(at) = self.by_conn.get(&conn) {
            self.conns[*at as usize].blocked_since = None;
        }
    }

    /// An open connection is gone; its exchanges are the engine's to end. Returns the key's record when waiters remain: ask
    /// [`Pool::wants_dial`]. For a dial that came to nothing see [`Pool::dial_failed`].
    pub fn closed(&mut self, conn: C) -> Option<PoolId> {
        let at = self.by_conn.remove(&conn)?;
        self.unlist_idle(at);
        self.drain(at);
        let id = self.conns.remove(at as usize).group;
        self.groups[id as usize].conns -= 1;
        (!self.forget_if_unused(id)).then_some(PoolId(id))
    }

    /// A dial failed. In HTTP/1 the longest waiter fails with it; multiplexed all of them do, unless another connection may still serve them.
    pub fn dial_failed(&mut self, conn: C, now: Instant) -> DialFailed<W> {
        let mut failed = DialFailed { waiters: SmallVec::new(), dial: None };
        let Some(&at) = self.by_conn.get(&conn) else { return failed };
        let group = &mut self.groups[self.conns[at as usize].group as usize];
        let count = match group.key.wire {
            Wire::Http1 => 1,
            _ if group.live > 1 => {
                group.failed = Some(now);
                0
            }
            _ => group.waiters.len(),
        };
        failed.waiters.extend(group.waiters.drain(..count.min(group.waiters.len())).map(|w| w.waiter));
        self.waiting -= failed.waiters.len();
        failed.dial = self.closed(conn).and_then(|id| self.wants_dial(id, now));
        failed
    }

    /// A waiter gave up: its deadline passed or its client left. False when it had been served or failed.
    pub fn cancel(&mut self, key: WaitKey) -> bool {
        let Some(group) = self.groups.get_mut(key.group as usize) else { return false };
        let Ok(at) = group.waiters.binary_search_by_key(&key.sequence, |w| w.sequence) else { return false };
        group.waiters.remove(at);
        self.waiting -= 1;
        self.forget_if_unused(key.group);
        true
    }

    /// Forgets connections that have been idle too long; each is to be closed.
    pub fn expire(&mut self, now: Instant, mut close: impl FnMut(C)) {
        let old = |c: &Conn<C>| c.is_idle() && now.saturating_duration_since(c.idle_since) >= self.idle_timeout(c);
        let expired: SmallVec<[C; 16]> = self.conns.iter().filter(|(_, c)| old(c)).map(|(_, c)| c.conn).collect();
        for c in expired {
            self.closed(c);
            close(c);
        }
    }

    /// When [`Pool::expire`] finds something next. Looks at every connection: meant for one timer, not for every turn.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.conns.iter().filter(|(_, c)| c.is_idle()).map(|(_, c)| c.idle_since + self.idle_timeout(c)).min()
    }
    fn idle_timeout(&self, c: &Conn<C>) -> Duration {
        let shared = self.groups[c.group as usize].key.wire != Wire::Http1;
        if shared { self.config.shared_idle_timeout } else { self.config.idle_timeout }
    }

    /// The endpoint is gone: its connections take nothing new. Those without exchanges are returned, to be closed. Looks at every connection.
    pub fn retire(&mut self, key: &PoolKey) -> SmallVec<[C; 4]> {
        let Some(id) = self.by_key.get(key).copied() else { return SmallVec::new() };
        let open = self.conns.iter().filter(|(_, c)| c.group == id && c.state == State::Open);
        let open: SmallVec<[C; 8]> = open.map(|(_, c)| c.conn).collect();
        open.into_iter().filter(|c| self.draining(*c)).collect()
    }

    /// The record of a key, if it has connections or waiters.
    pub fn find(&self, key: &PoolKey) -> Option<PoolId> {
        self.by_key.get(key).copied().map(PoolId)
    }
    /// The record and the key of a connection.
    pub fn of_conn(&self, conn: C) -> Option<(PoolId, &PoolKey)> {
        let id = self.conns[*self.by_conn.get(&conn)? as usize].group;
        Some((PoolId(id), &self.groups[id as usize].key))
    }
    /// Exchanges on a connection.
    pub fn streams(&self, conn: C) -> u32 {
        self.by_conn.get(&conn).map_or(0, |at| self.conns[*at as usize].streams)
    }
    /// Exchanges that wait, in all.
    pub fn waiting(&self) -> usize {
        self.waiting
    }
    /// Idle HTTP/1 connections.
    pub fn idle(&self) -> usize {
        self.idle
    }
    /// All connections, dialling ones too.
    pub fn connections(&self) -> usize {
        self.conns.len()
    }
    /// Exchanges on all connections.
    pub fn streams_in_all(&self) -> u64 {
        self.conns.iter().map(|(_, c)| u64::from(c.streams)).sum()
    }

    fn make_group(&mut self, key: &PoolKey) -> u32 {
        let group = Group {
            key: key.clone(),
            live: 0,
            dialing: 0,
            conns: 0,
            shared: SmallVec::new(),
            idle: VecDeque::new(),
            waiters: VecDeque::new(),
            most: usize::MAX,
            failed: None,
        };
        let id = u32::try_from(self.groups.insert(group)).expect("keys are bounded by connections and waiters");
        self.by_key.insert(key.clone(), id);
        id
    }

    /// Out of use for new exchanges, once.
    fn drain(&mut self, at: u32) {
        self.unlist_idle(at);
        let c = &mut self.conns[at as usize];
        let group = &mut self.groups[c.group as usize];
        match c.state {
            State::Draining => return,
            State::Dialing => group.dialing -= 1,
            State::Open => {}
        }
        c.state = State::Draining;
        group.live -= 1;
        group.shared.retain(|s| *s != at);
    }

    /// Puts an HTTP/1 connection on the idle list if it is idle and nobody waits. Returns a connection that must close to make room.
    fn list_idle(&mut self, at: u32) -> Option<C> {
        let c = &mut self.conns[at as usize];
        let group = &mut self.groups[c.group as usize];
        if group.key.wire != Wire::Http1 || !c.is_idle() || c.listed || !group.waiters.is_empty() {
            return None;
        }
        c.listed = true;
        group.idle.push_back(at);
        self.idle += 1;
        if group.idle.len() <= self.config.idle_per_key && self.idle <= self.config.idle_total {
            return None;
        }
        let oldest = self.conns[*group.idle.front()? as usize].conn;
        self.closed(oldest);
        Some(oldest)
    }

    fn unlist_idle(&mut self, at: u32) {
        let c = &mut self.conns[at as usize];
        if !std::mem::take(&mut c.listed) {
            return;
        }
        let idle = &mut self.groups[c.group as usize].idle;
        if let Some(place) = idle.iter().rposition(|i| *i == at) {
            idle.remove(place);
            self.idle -= 1;
        }
    }

    fn forget_if_unused(&mut self, id: u32) -> bool {
        let g = &self.groups[id as usize];
        let unused = g.conns == 0 && g.waiters.is_empty();
        if unused {
            let g = self.groups.remove(id as usize);
            self.by_key.remove(&g.key);
        }
        unused
    }
}

impl<C> Conn<C> {
    fn is_idle(&self) -> bool {
        self.state == State::Open && self.streams == 0
    }
    fn has_room(&self, now: Instant, stall: Duration) -> bool {
        self.state == State::Open && self.streams < self.limit && !self.stalled(now, stall)
    }
    /// 80 % of the streams in use: a further connection is opened before requests have to wait.
    fn nearly_full(&self) -> bool {
        self.state == State::Open && u64::from(self.streams) * 5 >= u64::from(self.limit) * 4
    }
    fn stalled(&self, now: Instant, stall: Duration) -> bool {
        self.blocked_since.is_some_and(|since| now.saturating_duration_since(since) >= stall)
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
