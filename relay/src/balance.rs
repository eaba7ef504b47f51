//! The endpoints of one backend, as one worker sees them, and the choice among them.
//!
//! **Load** of an endpoint is its peak-EWMA latency times its requests in flight plus one. The average jumps to a worse observation at once and
//! forgets with a time constant of 10 s. A 502, 503 or 504 counts as no quicker than the endpoints' mean, so that failing quickly attracts nobody, and no
//! slower than it was: whether an application that fails now and then is shunned is for outlier ejection to say. A connection that fails says nothing of
//! latency and counts as four times the average.
//! **Power of two choices** (unless a policy says RoundRobin or Random): two endpoints are drawn and the less loaded one is taken, which avoids both the herd that "the best" attracts and
//! any work that grows with the number of endpoints. A new endpoint starts at the mean of the others: it gets its share at once and no rush.
//!
//! **Who may be drawn**, the first of these sets that is not empty:
//! 1. not ejected, and not in the avoid set of the request (endpoints that it has been tried at);
//! 2. ejected, but not tried yet ("another endpoint first");
//! 3. not ejected; 4. all: the panic threshold of 100 %.
//!
//! All of that among the endpoints that are not terminating, or among the terminating ones when there are no others (KEP-1669).
//!
//! **Zone preference** (`trafficDistribution`): set 1 shrinks to the own zone, unless fewer than half of the zone's endpoints are healthy, or the
//! chosen one is overloaded: 16 requests in flight and four times the requests in flight of one drawn from elsewhere (more, when that one is
//! slower). So a zone with too few endpoints for its clients spills over instead of drowning them.
//!
//! **Session affinity** (ClientIP): a client stays with its endpoint until it has been away for the timeout. The first choice is by rendezvous
//! hashing, so that several workers and proxies choose alike; up to 10,000 clients are remembered, others follow the hash alone.
//!
//! **Families**: a Service with addresses of both has endpoints of both. A client gets those of the family that it dialled; the others only where there are none.
//!
//! Endpoints have ids with generations; one that leaves keeps its counters until its last request has ended.

mod choose;

use crate::{
    outlier::{Detector, Health, Verdict},
    util::{FastMap, mix},
};
use smallvec::SmallVec;
use std::{
    cell::Cell,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};
use weft_core::{
    backend::Balancing,
    endpoint::{Endpoint, Endpoints},
};

/// Time constant of the latency average.
const DECAY: Duration = Duration::from_secs(10);
/// Floor of an average, so that load still counts requests in flight after a pause. 10 us: less than any real answer.
const FLOOR: f64 = 10_000.0;
/// What a failed connection counts as, in averages, and its bound: harsh enough that traffic goes elsewhere at once, mild enough that it comes back
/// within a few time constants.
const FAILURE_FACTOR: f64 = 4.0;
const FAILURE_MOST: f64 = 1e9;

/// Names an endpoint of one balancer. Ids of endpoints that are gone never name another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EndpointId {
    index: u32,
    generation: u32,
}

/// How the last attempt at connecting to an endpoint went, for error texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Connect {
    Unknown,
    Worked,
    Refused,
    TimedOut,
    Failed,
}

/// How an attempt ended, as far as its endpoint is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A response head arrived after this long. 503 and the like are [`Verdict::Gateway`].
    Answered {
        verdict: Verdict,
        latency: Duration,
    },
    Refused,
    ConnectTimeout,
    /// No connection for another reason: unreachable, TLS.
    ConnectFailed,
    /// The connection broke or the attempt's time ran out before a response head.
    Broken,
    /// The client left, or another reason that says nothing of the endpoint.
    Cancelled,
}

/// A request in flight to an endpoint. Must be given back with [`Balancer::finish`].
#[derive(Debug)]
#[must_use = "an attempt that is not finished counts as load for ever"]
pub struct Attempt {
    pub id: EndpointId,
    pub endpoint: Arc<Endpoint>,
}

/// What to choose by.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// Endpoints that the request was tried at before.
    pub avoid: &'a [EndpointId],
    /// Address of the client, for session affinity.
    pub client: Option<IpAddr>,
    /// The client dialled an IPv6 address.
    pub ipv6: bool,
    pub now: Instant,
    pub random: u64,
}

/// Why nobody was chosen, or what an attempt's failure is explained with: "0 of 3 endpoints ready: 2 refused, 1 ejected".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// All that the Service selects.
    pub total: u32,
    /// Could take a request and did not fail to connect last time.
    pub ready: u32,
    pub not_ready: u32,
    pub refused: u32,
    pub timed_out: u32,
    pub failed: u32,
    pub ejected: u32,
    pub terminating: u32,
}
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} endpoints ready", self.ready, self.total)?;
        let parts = [
            (self.refused, "refused"),
            (self.timed_out, "timed out"),
            (self.failed, "unreachable"),
            (self.ejected, "ejected"),
            (self.terminating, "terminating"),
            (self.not_ready, "not ready"),
        ];
        let mut sep = ": ";
        for (n, what) in parts.into_iter().filter(|(n, _)| *n > 0) {
            write!(f, "{sep}{n} {what}")?;
            sep = ", ";
        }
        Ok(())
    }
}

/// One line of a dump.
#[derive(Clone, Debug)]
pub struct EndpointState {
    pub endpoint: Arc<Endpoint>,
    pub in_flight: u32,
    pub latency: Duration,
    /// Time until it comes back.
    pub ejected_for: Option<Duration>,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    /// `None`: free.
    endpoint: Option<Arc<Endpoint>>,
    health: Option<Arc<Health>>,
    listed: bool,
    same_zone: bool,
    in_flight: u32,
    /// Nanoseconds.
    average: f64,
    at: Instant,
    connect: Connect,
    hash: u64,
}

/// The endpoints of one family that may be chosen.
#[derive(Debug, Default)]
struct Tier {
    /// Those that are not terminating, or all terminating ones.
    all: Vec<u32>,
    /// The part in the own zone; empty without preference.
    near: Vec<u32>,
}

/// Chooses endpoints of one backend.
#[derive(Debug)]
pub struct Balancer {
    detector: Arc<Detector>,
    zone: Option<Arc<str>>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_address: FastMap<SocketAddr, SmallVec<[u32; 1]>>,
    /// Of IPv4 and of IPv6 endpoints.
    tiers: [Tier; 2],
    balancing: Balancing,
    /// Round robin: whose turn is next.
    turn: Cell<usize>,
    terminating: u32,
    not_ready: u32,
    /// The application is spoken to in HTTP/2.
    http2: bool,
    affinity: Option<Duration>,
    clients: FastMap<IpAddr, (EndpointId, Instant)>,
    swept: Instant,
    in_flight: u64,
}

impl Balancer {
    /// A balancer without endpoints. `zone`: of this proxy's pod.
    pub fn new(detector: Arc<Detector>, zone: Option<Arc<str>>, now: Instant) -> Self {
        Self {
            detector,
            zone,
            slots: Vec::new(),
            free: Vec::new(),
            by_address: FastMap::default(),
            tiers: <[Tier; 2]>::default(),
            balancing: Balancing::default(),
            turn: Cell::new(0),
            terminating: 0,
            not_ready: 0,
            http2: false,
            affinity: None,
            clients: FastMap::default(),
            swept: now,
            in_flight: 0,
        }
    }

    /// Session affinity by client address with this timeout, or none (`ServicePort::affinity`).
    pub fn set_affinity(&mut self, timeout: Option<Duration>) {
        self.affinity = timeout;
        if timeout.is_none() {
            self.clients = FastMap::default();
        }
    }

    /// The application is spoken to in HTTP/2 (`kubernetes.io/h2c`).
    pub fn http2(&self) -> bool {
        self.http2
    }

    /// Takes over a new list. Endpoints that stay (address, UID and identity) keep their ids, statistics and requests in flight.
    pub fn update(&mut self, endpoints: &Endpoints, now: Instant) {
        for s in &mut self.slots {
            s.listed = false;
        }
        let start = self.mean(now);
        self.http2 = endpoints.http2;
        self.not_ready = endpoints.not_ready;
        self.terminating = 0;
        self.balancing = endpoints.policy.balancing;
        for t in &mut self.tiers {
            t.all.clear();
            t.near.clear();
        }
        for e in &endpoints.endpoints {
            let index = match self.slot_of(e) {
                Some(i) => {
                    self.slots[i as usize].endpoint = Some(e.clone());
                    i
                }
                None => self.insert(e, start, now),
            };
            let same_zone = self.zone.is_some() && e.zone == self.zone;
            let s = &mut self.slots[index as usize];
            if std::mem::replace(&mut s.listed, true) {
                continue; // twice in the list
            }
            s.same_zone = same_zone;
            if e.terminating {
                self.terminating += 1;
            } else {
                self.tiers[usize::from(e.address.is_ipv6())].all.push(index);
            }
        }
        for (family, tier) in self.tiers.iter_mut().enumerate() {
            if tier.all.is_empty() {
                let here = |s: &Slot| s.listed && s.family() == Some(family);
                let listed = self.slots.iter().enumerate().filter(|(_, s)| here(s));
                tier.all.extend(listed.map(|(i, _)| i as u32));
            }
            if endpoints.prefer_zone {
                tier.near.extend(tier.all.iter().copied().filter(|i| self.slots[*i as usize].same_zone));
            }
        }
        for i in 0..self.slots.len() as u32 {
            let s = &self.slots[i as usize];
            if !s.listed && s.endpoint.is_some() && s.in_flight == 0 {
                self.remove(i);
            }
        }
    }

    /// Chooses an endpoint and counts a request in flight to it.
    ///
    /// # Errors
    /// There is no endpoint at all.
    pub fn pick(&mut self, c: Choice<'_>) -> Result<Attempt, Summary> {
        let index = self.choose(c).ok_or_else(|| self.summary_for(c.ipv6, c.now))?;
        self.in_flight += 1;
        let s = &mut self.slots[index as usize];
        s.in_flight += 1;
        let endpoint = s.endpoint.clone().expect("only listed slots are chosen, and they have an endpoint");
        Ok(Attempt { id: EndpointId { index, generation: s.generation }, endpoint })
    }

    /// Ends an attempt. Returns how long its endpoint is ejected, if this ejects it. `random` jitters that.
    pub fn finish(&mut self, attempt: Attempt, outcome: Outcome, now: Instant, random: u64) -> Option<Duration> {
        let mean =
            if matches!(outcome, Outcome::Answered { verdict: Verdict::Gateway, .. }) { self.mean(now) } else { 0.0 };
        let s = &mut self.slots[attempt.id.index as usize];
        debug_assert!(s.generation == attempt.id.generation && s.in_flight > 0, "finished twice");
        self.in_flight -= 1;
        s.in_flight -= 1;
        let verdict = match outcome {
            Outcome::Answered { verdict, latency } => {
                s.connect = Connect::Worked;
                s.observe((latency.as_nanos() as f64).max(mean), now);
                Some(verdict)
            }
            Outcome::Refused | Outcome::ConnectTimeout | Outcome::ConnectFailed => {
                s.connect = match outcome {
                    Outcome::Refused => Connect::Refused,
                    Outcome::ConnectTimeout => Connect::TimedOut,
                    _ => Connect::Failed,
                };
                s.fail(now);
                Some(Verdict::Gateway)
            }
            Outcome::Broken => {
                s.fail(now);
                Some(Verdict::Gateway)
            }
            Outcome::Cancelled => None,
        };
        let ejected = match (&s.health, verdict) {
            (Some(h), Some(v)) => self.detector.report(h, v, now, random),
            _ => None,
        };
        if s.in_flight == 0 && !s.listed {
            self.remove(attempt.id.index);
        }
        ejected
    }

    /// What can be said of all endpoints now, in numbers.
    pub fn summary(&self, now: Instant) -> Summary {
        self.sum(None, now)
    }
    /// The same of those that a client of a family may get.
    pub fn summary_for(&self, ipv6: bool, now: Instant) -> Summary {
        let both = self.tiers.iter().all(|t| !t.all.is_empty());
        self.sum(both.then_some(usize::from(ipv6)), now)
    }
    fn sum(&self, family: Option<usize>, now: Instant) -> Summary {
        let mut sum = Summary { not_ready: self.not_ready, total: self.not_ready, ..Summary::default() };
        for s in self.slots.iter().filter(|s| s.listed && (family.is_none() || s.family() == family)) {
            sum.total += 1;
            let ejected = s.health.as_ref().is_some_and(|h| self.detector.is_ejected(h, now));
            match s.connect {
                _ if s.endpoint.as_ref().is_some_and(|e| e.terminating) => sum.terminating += 1,
                _ if ejected => sum.ejected += 1,
                Connect::Refused => sum.refused += 1,
                Connect::TimedOut => sum.timed_out += 1,
                Connect::Failed => sum.failed += 1,
                Connect::Unknown | Connect::Worked => sum.ready += 1,
            }
        }
        sum
    }

    /// The endpoints as they are, for a dump.
    pub fn states(&self, now: Instant) -> Vec<EndpointState> {
        let listed = self.slots.iter().filter(|s| s.listed);
        let state = |s: &Slot| {
            let until = s.health.as_ref().and_then(|h| self.detector.ejected_until(h, now));
            Some(EndpointState {
                endpoint: s.endpoint.clone()?,
                in_flight: s.in_flight,
                latency: Duration::from_nanos(s.average_at(now) as u64),
                ejected_for: until.map(|t| t.saturating_duration_since(now)),
            })
        };
        listed.filter_map(state).collect()
    }

    /// Endpoints in the list.
    pub fn len(&self) -> usize {
        self.slots.iter().filter(|s| s.listed).count()
    }
    pub fn is_empty(&self) -> bool {
        self.tiers.iter().all(|t| t.all.is_empty())
    }
    /// Attempts that have not been finished, of endpoints that are gone too.
    pub fn in_flight(&self) -> u64 {
        self.in_flight
    }
    /// The endpoint behind an id, while it is listed or has requests in flight.
    pub fn endpoint(&self, id: EndpointId) -> Option<&Arc<Endpoint>> {
        let s = self.slots.get(id.index as usize).filter(|s| s.generation == id.generation)?;
        s.endpoint.as_ref()
    }

    fn mean(&self, now: Instant) -> f64 {
        let listed = self.slots.iter().filter(|s| s.endpoint.is_some());
        let (n, sum) = listed.fold((0u32, 0.0), |(n, sum), s| (n + 1, sum + s.average_at(now)));
        if n == 0 { FLOOR } else { sum / f64::from(n) }
    }

    fn slot_of(&self, e: &Endpoint) -> Option<u32> {
        let same = |i: &u32| self.slots[*i as usize].endpoint.as_ref().is_some_and(|o| o.mesh == e.mesh);
        self.by_address.get(&e.address)?.iter().copied().find(same)
    }

    fn insert(&mut self, e: &Arc<Endpoint>, average: f64, now: Instant) -> u32 {
        let index = self.free.pop().unwrap_or(self.slots.len() as u32);
        let slot = Slot {
            generation: self.slots.get(index as usize).map_or(0, |s| s.generation),
            endpoint: Some(e.clone()),
            health: Some(self.detector.health(e)),
            listed: false,
            same_zone: false,
            in_flight: 0,
            average,
            at: now,
            connect: Connect::Unknown,
            hash: hash_address(e.address),
        };
        match self.slots.get_mut(index as usize) {
            Some(s) => *s = slot,
            None => self.slots.push(slot),
        }
        self.by_address.entry(e.address).or_default().push(index);
        index
    }

    fn remove(&mut self, index: u32) {
        let s = &mut self.slots[index as usize];
        s.generation = s.generation.wrapping_add(1);
        s.health = None;
        let Some(e) = s.endpoint.take() else { return };
        self.free.push(index);
        if let Some(at) = self.by_address.get_mut(&e.address) {
            at.retain(|i| *i != index);
            if at.is_empty() {
                self.by_address.remove(&e.address);
            }
        }
    }
}

/// The same in every process, so that proxies choose alike for one client.
fn hash_address(a: SocketAddr) -> u64 {
    let ip = match a.ip() {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    mix(mix(ip as u64).wrapping_add(mix((ip >> 64) as u64)) ^ u64::from(a.port()))
}

impl Slot {
    /// Place in `Balancer::tiers`.
    fn family(&self) -> Option<usize> {
        self.endpoint.as_ref().map(|e| usize::from(e.address.is_ipv6()))
    }
    fn average_at(&self, now: Instant) -> f64 {
        self.average * (-(now.saturating_duration_since(self.at).as_secs_f64() / DECAY.as_secs_f64())).exp()
    }
    fn load(&self, now: Instant) -> f64 {
        self.average_at(now).max(FLOOR) * f64::from(self.in_flight + 1)
    }
    /// A latency worse than what the average has decayed to counts at once; a better one moves it by the time since the last one.
    fn observe(&mut self, nanos: f64, now: Instant) {
        let keep = (-(now.saturating_duration_since(self.at).as_secs_f64() / DECAY.as_secs_f64())).exp();
        let decayed = self.average * keep;
        self.average = if nanos >= decayed { nanos } else { decayed + nanos * (1.0 - keep) };
        self.at = now;
    }
    fn fail(&mut self, now: Instant) {
        let worse = (self.average_at(now).max(FLOOR) * FAILURE_FACTOR).min(FAILURE_MOST);
        self.average = self.average_at(now).max(worse);
        self.at = now;
    }
}

#[cfg(test)]
#[path = "balance_tests.rs"]
mod tests;
