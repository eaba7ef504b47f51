//! Outlier ejection: an endpoint that keeps failing takes no traffic for a while, whatever the control plane still says of it.
//!
//! Process-wide: workers share one [`Detector`] for each backend and one [`Health`] for each of its endpoints, so what one worker learns the
//! others know. A result costs a few relaxed atomics; only an ejection takes a lock.
//!
//! - **What counts.** Gateway failures (no connection, reset or timeout before a response, 502, 503, 504, gRPC UNAVAILABLE) and, with a longer
//!   streak, any 5xx: an application's own 500 is often the request's fault. A success ends both streaks. A streak must last 100 ms, or
//!   one lost connection with many streams on it would be an ejection.
//! - **How long.** 5 s, doubled with every further ejection up to 5 min, plus up to a quarter of jitter so that proxies do not return together. A
//!   level is forgotten for each period as long as the last ejection that the endpoint has served since. So an endpoint that flaps once a
//!   second is ejected a handful of times in ten minutes, ever longer, and does not make the load of the others oscillate.
//! - **Coming back** is on probation: the first result decides, a failure ejects again, a success clears.
//! - **At most half** of the endpoints (rounded up, never the only one) are ejected at once: when most are failing the cause is probably not
//!   theirs, and loading the rest with all the traffic would finish them.
//! - **Panic threshold: 100 %.** When every endpoint that could be chosen is ejected, ejection is ignored and all are used (`balance`).

use crate::util::FastMap;
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::{Duration, Instant},
};
use weft_core::{backend::Outlier, endpoint::Endpoint, service::ServiceRef};

/// When endpoints are ejected, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutlierConfig {
    /// Gateway failures in a row; 0: never.
    pub consecutive_gateway: u32,
    /// 5xx responses of any kind in a row, gateway failures among them; 0: never.
    pub consecutive_5xx: u32,
    /// Shortest time from the first failure of a streak to the one that ejects.
    pub streak: Duration,
    /// First ejection; doubled each time.
    pub base: Duration,
    pub max: Duration,
    /// Percent of the endpoints that may be ejected at once, rounded up; never the only one.
    pub max_percent: u32,
}
impl Default for OutlierConfig {
    fn default() -> Self {
        Self {
            consecutive_gateway: 5,
            consecutive_5xx: 10,
            streak: Duration::from_millis(100),
            base: Duration::from_secs(5),
            max: Duration::from_secs(300),
            max_percent: 50,
        }
    }
}

impl OutlierConfig {
    /// With what a policy says.
    pub fn with(self, policy: &Outlier) -> Self {
        let mut c = self;
        if let Some(n) = policy.consecutive_failures {
            (c.consecutive_gateway, c.consecutive_5xx) = (n, n);
            if n <= 1 {
                // a streak of one has no length
                c.streak = Duration::ZERO;
            }
        }
        c.base = policy.base_ejection.unwrap_or(c.base);
        c.max = c.max.max(c.base);
        c.max_percent = policy.max_percent.unwrap_or(c.max_percent);
        c
    }
}

/// What a request's end says of its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Any response below 500.
    Success,
    /// 500, 501, 505 and so on, from the application.
    ServerError,
    /// No connection, reset or timeout before a response, 502, 503, 504, gRPC UNAVAILABLE.
    Gateway,
}

/// The health of one endpoint, shared by the workers.
#[derive(Debug)]
pub struct Health {
    gateway: AtomicU32,
    any: AtomicU32,
    /// Milliseconds since the detector's origin, plus 1; 0: no streak.
    streak_since: AtomicU64,
    /// Milliseconds since the origin until which it is ejected; 0: it never was, or has proven itself since.
    until: AtomicU64,
    /// Set when an ejection ends, cleared by the first result.
    probation: AtomicU32,
    /// Written under the detector's lock only.
    level: AtomicU32,
    last: AtomicU64,
    /// A Service of both families has each pod twice: the share that may be ejected is that of a family.
    ipv6: bool,
}

/// Ejects the endpoints of one backend.
#[derive(Debug)]
pub struct Detector {
    /// Read for failures only.
    config: Mutex<OutlierConfig>,
    origin: Instant,
    /// The endpoints that some worker still knows.
    members: Mutex<FastMap<Member, Weak<Health>>>,
    ejections: AtomicU64,
    /// Latest `until` of any member: nothing is ejected after it, so the balancer need not look at each.
    latest: AtomicU64,
}

/// Address and pod UID: a recycled address is another endpoint.
type Member = (SocketAddr, Option<Arc<str>>);

impl Detector {
    /// `origin`: any time not after the first result.
    pub fn new(config: OutlierConfig, origin: Instant) -> Self {
        Self {
            config: Mutex::new(config),
            origin,
            members: Mutex::default(),
            ejections: AtomicU64::new(0),
            latest: AtomicU64::new(0),
        }
    }

    /// Takes over another configuration. Streaks and ejections under way stay.
    pub fn configure(&self, config: OutlierConfig) {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
    }
    fn config(&self) -> OutlierConfig {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The health of an endpoint, shared with whoever asked before and still holds it.
    pub fn health(&self, endpoint: &Endpoint) -> Arc<Health> {
        let member = (endpoint.address, endpoint.mesh.as_ref().map(|m| m.uid.clone()));
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(h) = members.get(&member).and_then(Weak::upgrade) {
            return h;
        }
        members.retain(|_, h| h.strong_count() > 0);
        let h = Arc::new(Health {
            gateway: AtomicU32::new(0),
            any: AtomicU32::new(0),
            streak_since: AtomicU64::new(0),
            until: AtomicU64::new(0),
            probation: AtomicU32::new(0),
            level: AtomicU32::new(0),
            last: AtomicU64::new(0),
            ipv6: endpoint.address.is_ipv6(),
        });
        members.insert(member, Arc::downgrade(&h));
        h
    }

    /// Records a result. `random` jitters the ejection. Returns how long the endpoint is ejected, if this result ejects it.
    pub fn report(&self, health: &Health, verdict: Verdict, now: Instant, random: u64) -> Option<Duration> {
        let ms = self.ms(now);
        let until = health.until.load(Acquire);
        if ms < until {
            // requests that began before the ejection, or a panic: an ejection is served in full
            return None;
        }
        let gateway = match verdict {
            Verdict::Success => {
                if health.any.load(Relaxed) != 0 {
                    health.any.store(0, Relaxed);
                    health.gateway.store(0, Relaxed);
                    health.streak_since.store(0, Relaxed);
                }
                if health.probation.load(Relaxed) != 0 {
                    health.probation.store(0, Relaxed);
                }
                return None;
            }
            Verdict::ServerError => {
                health.gateway.store(0, Relaxed);
                0
            }
            Verdict::Gateway => health.gateway.fetch_add(1, Relaxed) + 1,
        };
        let any = health.any.fetch_add(1, Relaxed) + 1;
        let since = match health.streak_since.load(Relaxed) {
            0 => {
                health.streak_since.store(ms + 1, Relaxed);
                ms
            }
            since => since - 1,
        };
        let c = self.config();
        let reached = (c.consecutive_gateway > 0 && gateway >= c.consecutive_gateway)
            || (c.consecutive_5xx > 0 && any >= c.consecutive_5xx);
        let lasted = ms - since.min(ms) >= c.streak.as_millis() as u64;
        let relapse = health.probation.load(Relaxed) != 0 && verdict == Verdict::Gateway;
        if (reached && lasted) || relapse { self.eject(health, until, ms, random) } else { None }
    }

    fn eject(&self, health: &Health, until: u64, now: u64, random: u64) -> Option<Duration> {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        if health.until.load(Acquire) != until {
            // another worker was first
            return None;
        }
        members.retain(|_, h| h.strong_count() > 0);
        let config = self.config();
        let family = || members.values().filter_map(Weak::upgrade).filter(|h| h.ipv6 == health.ipv6);
        let ejected = family().filter(|h| h.until.load(Relaxed) > now).count();
        let total = family().count();
        let most = (total * config.max_percent as usize).div_ceil(100).min(total.saturating_sub(1));
        if ejected >= most {
            return None;
        }
        let mut level = health.level.load(Relaxed);
        let last = health.last.load(Relaxed);
        if let Some(periods) = (now - until.min(now)).checked_div(last) {
            level = level.saturating_sub(u32::try_from(periods).unwrap_or(u32::MAX));
        }
        let (base, max) = (config.base.as_millis() as u64, config.max.as_millis() as u64);
        let plain = base.saturating_mul(1 << level.min(30)).min(max);
        let time = plain + ((u128::from(random) * u128::from(plain / 4)) >> 64) as u64;
        health.level.store(level + 1, Relaxed);
        health.last.store(plain, Relaxed);
        health.gateway.store(0, Relaxed);
        health.any.store(0, Relaxed);
        health.streak_since.store(0, Relaxed);
        health.probation.store(1, Relaxed);
        health.until.store(now + time, Release);
        self.latest.fetch_max(now + time, Release);
        self.ejections.fetch_add(1, Relaxed);
        Some(Duration::from_millis(time))
    }

    /// Whether the endpoint is ejected now.
    pub fn is_ejected(&self, health: &Health, now: Instant) -> bool {
        let until = health.until.load(Acquire);
        until != 0 && self.ms(now) < until
    }

    /// False: no endpoint is ejected now, so none needs to be asked.
    pub fn any_ejected(&self, now: Instant) -> bool {
        let latest = self.latest.load(Acquire);
        latest != 0 && self.ms(now) < latest
    }

    /// When the endpoint comes back, for the dump; `None` when it is not ejected.
    pub fn ejected_until(&self, health: &Health, now: Instant) -> Option<Instant> {
        self.is_ejected(health, now).then(|| self.origin + Duration::from_millis(health.until.load(Acquire)))
    }

    /// Ejections since the start, for metrics.
    pub fn ejections(&self) -> u64 {
        self.ejections.load(Relaxed)
    }

    fn ms(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.origin).as_millis() as u64
    }
}

/// The detectors of a process, one for each backend that some worker balances over.
#[derive(Debug)]
pub struct Detectors {
    origin: Instant,
    config: OutlierConfig,
    by_service: Mutex<FastMap<ServiceRef, Weak<Detector>>>,
}
impl Detectors {
    pub fn new(config: OutlierConfig, origin: Instant) -> Self {
        Self { origin, config, by_service: Mutex::default() }
    }
    /// The configuration of a backend with this policy.
    pub fn config(&self, policy: &Outlier) -> OutlierConfig {
        self.config.with(policy)
    }
    /// The detector of a backend. Asked once when a worker learns of it, not for each request.
    pub fn of(&self, service: &ServiceRef) -> Arc<Detector> {
        let mut map = self.by_service.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(d) = map.get(service).and_then(Weak::upgrade) {
            return d;
        }
        map.retain(|_, d| d.strong_count() > 0);
        let d = Arc::new(Detector::new(self.config, self.origin));
        map.insert(service.clone(), Arc::downgrade(&d));
        d
    }
}

#[cfg(test)]
#[path = "outlier_tests.rs"]
mod tests;
