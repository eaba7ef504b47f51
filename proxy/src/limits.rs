//! Bounds at the door: how many connections may be open, how fast one address may start handshakes, and how handshakes share the thread with running traffic.

use ahash::AHashMap;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::AcqRel},
    },
    time::{Duration, Instant},
};
use tokio::sync::{Notify, Semaphore};

/// Descriptors that are not connections: listeners, epoll, admin, discovery, CA, log, files read at a reload.
const RESERVED: usize = 64;

/// Lifts the soft limit of file descriptors to the hard one and returns it.
pub fn raise_descriptors() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    let limit = if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// How many connections may be accepted under a limit of descriptors: each may need a second one for the other side.
pub fn connections_for(descriptors: usize) -> usize {
    (descriptors.saturating_sub(RESERVED) / 2).max(1)
}

/// The memory limit of the container, if it has one.
pub fn memory() -> Option<usize> {
    // version 2 of cgroups, then version 1, which says "no limit" with an absurd number
    let read = |path| std::fs::read_to_string(path).ok()?.trim().parse::<usize>().ok();
    let limit = read("/sys/fs/cgroup/memory.max").or_else(|| read("/sys/fs/cgroup/memory/memory.limit_in_bytes"));
    limit.filter(|n| *n < 1 << 50)
}

/// Counts accepted connections of all workers. At the limit accepting pauses: what waits stays in the kernel's backlog, what is open is not touched.
pub struct Gate {
    open: AtomicUsize,
    max: usize,
    freed: Notify,
}

impl Gate {
    pub fn new(max: usize) -> Arc<Gate> {
        Arc::new(Gate { open: AtomicUsize::new(0), max, freed: Notify::new() })
    }
    pub fn open(&self) -> usize {
        self.open.load(std::sync::atomic::Ordering::Acquire)
    }
    pub fn max(&self) -> usize {
        self.max
    }
    pub fn is_full(&self) -> bool {
        self.open() >= self.max
    }
    /// Takes a place. Whoever accepts asks for [`room`](Self::room) first; several acceptors may overshoot by one each.
    pub fn enter(self: &Arc<Gate>) -> Place {
        self.open.fetch_add(1, AcqRel);
        Place(self.clone())
    }
    /// Waits until there is room.
    pub async fn room(&self) {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if !self.is_full() {
                return;
            }
            freed.await;
        }
    }
}

/// The right to one open connection.
pub struct Place(Arc<Gate>);
impl Drop for Place {
    fn drop(&mut self) {
        let before = self.0.open.fetch_sub(1, AcqRel);
        if before >= self.0.max {
            self.0.freed.notify_waiters();
        }
    }
}

/// Sources remembered at one time; beyond them newcomers share one allowance.
const SOURCES: usize = 4096;
/// A source may be this far ahead of its rate without waiting: a pool of an application that opens at once.
const BURST: Duration = Duration::from_millis(250);
/// ... and may wait this long; more is refused.
const QUEUE: Duration = Duration::from_secs(1);

/// New handshakes per source: a virtual clock for each address (GCRA).
pub struct HandshakeRate {
    each: Duration,
    sources: AHashMap<IpAddr, Instant>,
    others: Option<Instant>,
}

impl HandshakeRate {
    pub fn new(per_second: u32) -> HandshakeRate {
        HandshakeRate { each: Duration::from_secs(1) / per_second.max(1), sources: AHashMap::new(), others: None }
    }

    /// How long this handshake has to wait; `None`: too many wait already.
    pub fn admit(&mut self, source: IpAddr, now: Instant) -> Option<Duration> {
        if self.sources.len() >= SOURCES && !self.sources.contains_key(&source) {
            self.sources.retain(|_, t| *t > now);
        }
        let clock = if self.sources.len() < SOURCES || self.sources.contains_key(&source) {
            self.sources.entry(source).or_insert(now)
        } else {
            self.others.get_or_insert(now)
        };
        let next = (*clock).max(now) + self.each;
        let wait = (next - now).saturating_sub(BURST.max(self.each));
        if wait > QUEUE {
            return None;
        }
        *clock = next;
        Some(wait)
    }
}

/// Handshakes of one worker take turns: one step of one handshake (up to a millisecond of public-key work), then everybody else who is ready, then the next.
/// A flood of handshakes thus delays running traffic by one step for each round, and costs nothing when there is no other traffic.
pub struct HandshakeTurn(Semaphore);

impl Default for HandshakeTurn {
    fn default() -> Self {
        HandshakeTurn(Semaphore::new(1))
    }
}

impl HandshakeTurn {
    /// Runs one step in its turn. `step` must not wait.
    pub async fn run<R>(&self, step: impl FnOnce() -> R) -> R {
        let permit = self.0.acquire().await;
        let r = step();
        tokio::task::yield_now().await;
        drop(permit);
        r
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn ip(n: u32) -> IpAddr {
        Ipv4Addr::from(n).into()
    }

    #[test]
    fn row_51_a_flood_from_one_source_waits_then_is_refused_and_others_are_not() {
        let mut r = HandshakeRate::new(100);
        let now = Instant::now();
        let (mut at_once, mut waited, mut refused) = (0, 0, 0);
        for _ in 0..1000 {
            match r.admit(ip(1), now) {
                Some(Duration::ZERO) => at_once += 1,
                Some(_) => waited += 1,
                None => refused += 1,
            }
        }
        assert_eq!((at_once, waited, refused), (25, 100, 875));
        assert_eq!(r.admit(ip(2), now), Some(Duration::ZERO));
        assert_eq!(r.admit(ip(1), now + Duration::from_secs(3)), Some(Duration::ZERO));
    }

    #[test]
    fn row_51_sources_are_bounded() {
        let mut r = HandshakeRate::new(100);
        let now = Instant::now();
        for n in 0..20_000 {
            r.admit(ip(n), now);
        }
        assert!(r.sources.len() <= SOURCES);
        // the crowd of strangers has used its shared allowance up, a known one has not
        assert_eq!(r.admit(ip(30_000), now), None);
        assert_eq!(r.admit(ip(1), now), Some(Duration::ZERO));
        assert_eq!(r.admit(ip(30_000), now + Duration::from_secs(60)), Some(Duration::ZERO));
    }

    #[tokio::test]
    async fn row_43_a_full_gate_opens_when_one_leaves() {
        let gate = Gate::new(2);
        let a = gate.enter();
        let _b = gate.enter();
        assert!(gate.is_full());
        let waiting = tokio::spawn({
            let gate = gate.clone();
            async move { gate.room().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(a);
        waiting.await.expect("there is room");
        assert!(!gate.is_full());
    }
}
