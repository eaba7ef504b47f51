//! Bounds of one backend: requests under way, requests that wait for a connection, and requests per time (`connectionLimits` and `localRateLimit` of a TrafficPolicy).
//!
//! Process-wide: the workers share one [`Limits`] for each backend, without locks. A bound that is not set costs nothing: whoever asks knows the policy and does not ask. What
//! is under way while a bound is first set is not counted; from then on everything is.

use crate::util::FastMap;
use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};
use weft_core::{
    backend::{BackendPolicy, RateLimit},
    service::ServiceRef,
};

/// What counts against a bound.
#[derive(Debug, Default)]
struct Gauge {
    now: AtomicU32,
}

/// A place within a bound, given back when it is dropped.
#[derive(Debug)]
pub struct Permit {
    limits: Arc<Limits>,
    which: Which,
}
#[derive(Clone, Copy, Debug)]
enum Which {
    Request,
    Pending,
}
impl Drop for Permit {
    fn drop(&mut self) {
        self.limits.gauge(self.which).now.fetch_sub(1, Relaxed);
    }
}

/// The bounds of one backend.
#[derive(Debug)]
pub struct Limits {
    origin: Instant,
    requests: Gauge,
    pending: Gauge,
    rate: Bucket,
}

/// A token bucket as one number: the time at which the bucket is full again (the generic cell rate algorithm). A request moves it on by the time in which one token comes; it
/// may not be further away than a whole bucket takes to fill.
#[derive(Debug, Default)]
struct Bucket {
    /// Nanoseconds since the origin.
    full_at: AtomicU64,
    /// Nanoseconds for one token; 0: no bucket.
    token: AtomicU64,
    /// Nanoseconds for all of them.
    whole: AtomicU64,
}

impl Bucket {
    fn configure(&self, rate: Option<RateLimit>) {
        let (token, whole) = rate.map_or((0, 0), |r| {
            // more than one request in a nanosecond is no limit
            let token = (r.interval.as_nanos() / u128::from(r.requests.max(1))).clamp(1, u128::from(u64::MAX)) as u64;
            (token, token.saturating_mul(u64::from(r.requests) + u64::from(r.burst)))
        });
        let same = self.token.swap(token, Relaxed) == token;
        if self.whole.swap(whole, Relaxed) != whole || !same {
            // another limit begins with a full bucket
            self.full_at.store(0, Relaxed);
        }
    }
    fn take(&self, now: u64) -> bool {
        let (token, whole) = (self.token.load(Relaxed), self.whole.load(Relaxed));
        if token == 0 {
            return true;
        }
        let spend = |full_at: u64| {
            let next = full_at.max(now).saturating_add(token);
            (next - now <= whole).then_some(next)
        };
        self.full_at.fetch_update(Relaxed, Relaxed, spend).is_ok()
    }
}

impl Limits {
    /// `origin`: any time not after the first request.
    pub fn new(origin: Instant) -> Self {
        Self { origin, requests: Gauge::default(), pending: Gauge::default(), rate: Bucket::default() }
    }
    /// Takes over what a policy says. The other bounds are asked for by those who know the policy.
    pub fn configure(&self, policy: &BackendPolicy) {
        self.rate.configure(policy.rate);
    }
    fn gauge(&self, which: Which) -> &Gauge {
        match which {
            Which::Request => &self.requests,
            Which::Pending => &self.pending,
        }
    }
    fn enter(self: &Arc<Self>, which: Which, most: u32) -> Option<Permit> {
        let more = |n: u32| (n < most).then(|| n + 1);
        self.gauge(which).now.fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(Permit { limits: self.clone(), which })
    }
    /// A place among at most so many requests under way.
    pub fn request(self: &Arc<Self>, most: u32) -> Option<Permit> {
        self.enter(Which::Request, most)
    }
    /// A place among at most so many requests that wait for a connection.
    pub fn pending(self: &Arc<Self>, most: u32) -> Option<Permit> {
        self.enter(Which::Pending, most)
    }
    /// Takes a token of the rate limit. False: there is none.
    pub fn take(&self, now: Instant) -> bool {
        self.rate.take(u64::try_from(now.saturating_duration_since(self.origin).as_nanos()).unwrap_or(u64::MAX))
    }
}

/// The bounds of a process, for each backend.
#[derive(Debug)]
pub struct AllLimits {
    origin: Instant,
    by_service: Mutex<FastMap<ServiceRef, Weak<Limits>>>,
}
impl AllLimits {
    pub fn new(origin: Instant) -> Self {
        Self { origin, by_service: Mutex::default() }
    }
    /// The bounds of a backend. Asked once when a worker learns of it, not for each request.
    pub fn of(&self, service: &ServiceRef) -> Arc<Limits> {
        let mut map = self.by_service.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(l) = map.get(service).and_then(Weak::upgrade) {
            return l;
        }
        map.retain(|_, l| l.strong_count() > 0);
        let l = Arc::new(Limits::new(self.origin));
        map.insert(service.clone(), Arc::downgrade(&l));
        l
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn limited(requests: u32, burst: u32) -> (Arc<Limits>, Instant) {
        let t = Instant::now();
        let rate = RateLimit { requests, interval: Duration::from_secs(1), burst };
        let l = Arc::new(Limits::new(t));
        l.configure(&BackendPolicy { rate: Some(rate), ..BackendPolicy::default() });
        (l, t)
    }

    #[test]
    fn a_bucket_of_rate_and_burst_that_fills_at_the_rate() {
        let (l, t) = limited(10, 5);
        let taken = |at: Instant| (0..100).filter(|_| l.take(at)).count();
        assert_eq!(taken(t), 15);
        assert_eq!(taken(t + Duration::from_millis(99)), 0);
        assert_eq!(taken(t + Duration::from_millis(100)), 1);
        assert_eq!(taken(t + Duration::from_millis(400)), 3);
        // never more than the bucket holds
        assert_eq!(taken(t + Duration::from_secs(1000)), 15);
        // the same limit again changes nothing; another one begins anew
        let same = RateLimit { requests: 10, interval: Duration::from_secs(1), burst: 5 };
        l.configure(&BackendPolicy { rate: Some(same), ..BackendPolicy::default() });
        assert_eq!(taken(t + Duration::from_secs(1000)), 0);
        l.configure(&BackendPolicy { rate: Some(RateLimit { burst: 0, ..same }), ..BackendPolicy::default() });
        assert_eq!(taken(t + Duration::from_secs(1000)), 10);
        l.configure(&BackendPolicy::default());
        assert_eq!(taken(t + Duration::from_secs(1000)), 100);
    }

    #[test]
    fn over_a_long_time_the_rate_holds_whatever_the_pattern() {
        let (l, t) = limited(7, 0);
        let mut draw = crate::util::Draw(5);
        let (mut at, mut taken) = (0u64, 0);
        while at < 1_000_000 {
            at += draw.next() % 200;
            taken += u64::from(l.take(t + Duration::from_millis(at)));
        }
        assert!((6_990..=7_010).contains(&taken), "{taken}");
    }

    #[test]
    fn permits_are_given_back() {
        let l = Arc::new(Limits::new(Instant::now()));
        let held: Vec<_> = (0..3).map_while(|_| l.request(2)).collect();
        assert_eq!(held.len(), 2);
        assert!(l.pending(1).is_some() && l.pending(0).is_none());
        drop(held);
        assert!(l.request(1).is_some());
    }
}
