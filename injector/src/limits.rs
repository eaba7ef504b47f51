//! What callers may take of the injector. Anybody in the cluster reaches its port: the API server comes from a node's address, without a certificate of its own, so what tells it from
//! strangers is only that it asks for little. Nobody takes so much that another caller goes without.
//!
//! ```text
//! connection -> place (all, per source) -> request -> rate (per source) -> bytes of the body (all, per source) -> judged on one of two threads
//! ```
//!
//! Memory: 32 MiB of bodies, 2 reviews that are being parsed (some 40 MiB each at worst), 256 connections with 128 KiB of windows: within the chart's limit of 256 MiB.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// The API server's own limit for an object is 1.5 MiB in etcd; a review carries it once for a creation. 3 MiB leaves room for escapes.
pub const BODY: usize = 3 * 1024 * 1024;
/// Sources that are remembered beyond those connected.
const REMEMBERED: usize = 1024;
/// What a permit of bytes stands for.
const UNIT: usize = 1024;

/// The numbers; tests choose smaller ones.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at one time: the API server keeps one or two for each of its replicas; more are strangers.
    pub connections: usize,
    /// Of one source. Behind a tunnel all API servers are one.
    pub source_connections: usize,
    /// Bytes of bodies that are being read or judged.
    pub bytes: usize,
    /// Of one source: two of the largest, hundreds of usual ones.
    pub source_bytes: usize,
    /// Requests of one source in a second, and at once after a pause. 5,000 pods in a minute are 83 a second.
    pub rate: f64,
    pub burst: f64,
    /// TLS.
    pub handshake: Duration,
    /// The head of an HTTP/1 request.
    pub head: Duration,
    /// The body, once its head is there: 3 MiB in a cluster take milliseconds.
    pub body: Duration,
    /// A request as a whole, below the webhook's own 10 s.
    pub request: Duration,
    /// A connection is told to end after it, so that replicas which come later get their share.
    pub age: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            connections: 256,
            source_connections: 64,
            bytes: 32 * 1024 * 1024,
            source_bytes: 8 * 1024 * 1024,
            rate: 500.0,
            burst: 2_000.0,
            handshake: Duration::from_secs(5),
            head: Duration::from_secs(5),
            body: Duration::from_secs(3),
            request: Duration::from_secs(8),
            age: Duration::from_secs(300),
        }
    }
}

/// A caller, by address.
pub struct Source {
    connections: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    /// Requests left, as of when.
    bucket: Mutex<(f64, Instant)>,
}

impl Source {
    fn new(b: &Bounds) -> Self {
        let connections = Arc::new(Semaphore::new(b.source_connections));
        Source {
            connections,
            bytes: Arc::new(Semaphore::new(b.source_bytes / UNIT)),
            bucket: Mutex::new((b.burst, Instant::now())),
        }
    }
    /// Takes one request, if there is one left.
    pub fn may_ask(&self, b: &Bounds) -> bool {
        let mut bucket = self.bucket.lock().unwrap_or_else(|e| e.into_inner());
        let now = Instant::now();
        let left = (bucket.0 + now.duration_since(bucket.1).as_secs_f64() * b.rate).min(b.burst);
        let may = left >= 1.0;
        *bucket = (if may { left - 1.0 } else { left }, now);
        may
    }
    /// Nothing would be forgotten with it.
    fn is_idle(&self, b: &Bounds) -> bool {
        let bucket = *self.bucket.lock().unwrap_or_else(|e| e.into_inner());
        let full = bucket.0 + bucket.1.elapsed().as_secs_f64() * b.rate >= b.burst;
        full && self.connections.available_permits() == b.source_connections
    }
}

/// A connection's place; dropping it makes room.
pub struct Place {
    pub source: Arc<Source>,
    _all: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
}

/// Room for a body.
pub struct Room(#[expect(dead_code, reason = "held, not read")] [OwnedSemaphorePermit; 2]);

pub struct Limits {
    pub bounds: Bounds,
    connections: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    sources: Mutex<HashMap<IpAddr, Arc<Source>>>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits::new(Bounds::default())
    }
}

impl Limits {
    pub fn new(bounds: Bounds) -> Self {
        let (connections, bytes) = (Semaphore::new(bounds.connections), Semaphore::new(bounds.bytes / UNIT));
        Limits { bounds, connections: connections.into(), bytes: bytes.into(), sources: Mutex::default() }
    }

    /// A place for a connection from `ip`, if there is one.
    pub fn place(&self, ip: IpAddr) -> Option<Place> {
        let source = self.source(ip);
        let own = source.connections.clone().try_acquire_owned().ok()?;
        let all = self.connections.clone().try_acquire_owned().ok()?;
        Some(Place { source, _all: all, _own: own })
    }

    fn source(&self, ip: IpAddr) -> Arc<Source> {
        let ip = match ip.to_canonical() {
            // whoever has one address of a /64 has them all
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
            v4 => v4,
        };
        let mut sources = self.sources.lock().unwrap_or_else(|e| e.into_inner());
        if sources.len() >= REMEMBERED && !sources.contains_key(&ip) {
            sources.retain(|_, s| !s.is_idle(&self.bounds));
        }
        let fresh = || Arc::new(Source::new(&self.bounds));
        match sources.len() < 2 * REMEMBERED {
            true => sources.entry(ip).or_insert_with(fresh).clone(),
            // so many callers at once: their connections are counted together, which is the bound that holds then
            false => sources.get(&ip).cloned().unwrap_or_else(fresh),
        }
    }

    /// Waits for room for a body of at most `size` bytes.
    pub async fn room(&self, source: &Source, size: usize) -> Option<Room> {
        let units = u32::try_from(size.min(BODY).div_ceil(UNIT).max(1)).ok()?;
        // its own share first: who waits for it holds nothing of the others'
        let own = source.bytes.clone().acquire_many_owned(units).await.ok()?;
        let all = self.bytes.clone().acquire_many_owned(units).await.ok()?;
        Some(Room([own, all]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Limits {
        Limits::new(Bounds { connections: 3, source_connections: 2, rate: 10.0, burst: 2.0, ..Bounds::default() })
    }

    #[tokio::test(start_paused = true)]
    async fn row_61_a_source_has_its_share_of_connections_and_requests() {
        let (l, a, b) = (small(), IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let places = [l.place(a).unwrap(), l.place(a).unwrap()];
        assert!(l.place(a).is_none() && l.place("::ffff:10.0.0.1".parse().unwrap()).is_none());
        let other = l.place(b).unwrap();
        assert!(l.place(IpAddr::from([10, 0, 0, 3])).is_none(), "three in all");
        drop(places);
        let again = l.place(a).unwrap();
        assert!(again.source.may_ask(&l.bounds) && again.source.may_ask(&l.bounds) && !again.source.may_ask(&l.bounds));
        assert!(other.source.may_ask(&l.bounds));
        tokio::time::advance(Duration::from_millis(100)).await;
        assert!(again.source.may_ask(&l.bounds) && !again.source.may_ask(&l.bounds));
        // to come back does not help
        drop(again);
        assert!(!l.place(a).unwrap().source.may_ask(&l.bounds));
        // neither does the next address
        let [v6, next, far] = ["2001:db8::1", "2001:db8::2", "2001:db8:1::1"].map(|ip| l.source(ip.parse().unwrap()));
        assert!(Arc::ptr_eq(&v6, &next) && !Arc::ptr_eq(&v6, &far));
    }

    #[tokio::test(start_paused = true)]
    async fn row_61_strangers_are_forgotten() {
        let l = Limits::new(Bounds { burst: 2.0, rate: 1.0, ..Bounds::default() });
        for n in 0..5_000u32 {
            assert!(l.place(IpAddr::from((n + 1).to_be_bytes())).unwrap().source.may_ask(&l.bounds));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!(l.sources.lock().unwrap().len() <= 2 * REMEMBERED);
    }

    #[tokio::test(start_paused = true)]
    async fn row_61_who_waits_for_its_share_holds_nothing_of_others() {
        let l = Limits::new(Bounds { bytes: 4 * UNIT, source_bytes: 2 * UNIT, ..Bounds::default() });
        let [a, b] = [1, 2].map(|n| l.source(IpAddr::from([10, 0, 0, n])));
        let held = l.room(&a, 2 * UNIT).await.unwrap();
        let waiting = tokio::time::timeout(Duration::from_secs(1), l.room(&a, 1));
        assert!(waiting.await.is_err());
        let other = l.room(&b, 2 * UNIT).await.unwrap();
        drop(held);
        assert!(l.room(&a, 1).await.is_some());
        drop(other);
    }
}
