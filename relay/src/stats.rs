//! What the data plane counts: per parent, route, rule and backend, and per process.
//!
//! A worker writes, the admin thread reads. Each worker has a [`Shard`] with series of its own, so every counter has one writer: adding is
//! a relaxed load and a relaxed store, no locked instruction. An exchange looks its [`Series`] up once, when its decision is taken, and keeps the `Arc`. The
//! [`Registry`] knows all shards' series and sums them up when somebody scrapes; nothing is formatted here.
//!
//! **Bounded**: 5,000 different keys for each process. Requests of further keys are counted in one series whose parent is
//! [`SeriesKey::overflow`], so totals stay right. Latencies go into fixed log-linear buckets of 1/16 of an octave: a quantile is off by at most 3.2 %.
//! An octave's 16 counters are allocated when the first latency falls into it (a series usually touches six of 27).

use crate::util::FastMap;
use std::{
    fmt,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use weft_core::{route::RouteRef, service::ServiceRef};

/// Most series of a process (design 3.7). A series takes about 1.5 KiB, so 7.5 MiB.
pub const MOST_SERIES: usize = 5_000;

/// A counter with a single writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);
impl Counter {
    /// Only the worker that owns it may call this: the sum is not atomic.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Linear part of an octave.
const SUB: usize = 16;
/// Octaves from 16 us on: the last one ends at 2^31 us, 36 minutes.
const OCTAVES: usize = 27;

/// Latencies in fixed buckets, in microseconds. Single writer.
#[derive(Debug, Default)]
pub struct Histogram {
    /// The first holds 0 to 15 us, one bucket for each; octave `i` holds `2^(i+3)` to `2^(i+4)` us in 16 buckets.
    octaves: [OnceLock<Box<[Counter; SUB]>>; OCTAVES + 1],
    count: Counter,
    /// Microseconds.
    sum: Counter,
}
impl Histogram {
    pub fn observe(&self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let (octave, sub) = place(us);
        self.octaves[octave].get_or_init(Box::default)[sub].add(1);
        self.count.add(1);
        self.sum.add(us);
    }
    /// Adds what was observed to `into`.
    fn add_to(&self, into: &mut HistogramSnapshot) {
        if into.buckets.is_empty() {
            into.buckets = vec![0; (OCTAVES + 1) * SUB];
        }
        for (i, o) in self.octaves.iter().enumerate() {
            for (j, c) in o.get().into_iter().flat_map(|o| o.iter()).enumerate() {
                into.buckets[i * SUB + j] += c.get();
            }
        }
        into.sum_us += self.sum.get();
    }
}

fn place(us: u64) -> (usize, usize) {
    if us < SUB as u64 {
        return (0, us as usize);
    }
    let exponent = 63 - us.leading_zeros(); // 4 or more
    let octave = exponent as usize - 3;
    if octave > OCTAVES {
        return (OCTAVES, SUB - 1);
    }
    (octave, (us >> (exponent - 4)) as usize % SUB)
}

/// Lower end of a bucket and of the next one, in microseconds.
fn bounds(bucket: usize) -> (u64, u64) {
    let (octave, sub) = (bucket / SUB, (bucket % SUB) as u64);
    if octave == 0 {
        return (sub, sub + 1);
    }
    let width = 1 << (octave - 1);
    let low = (SUB as u64 + sub) * width;
    (low, low + width)
}

/// A histogram at one moment, summed over workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistogramSnapshot {
    /// Counts per bucket; empty when nothing was observed.
    buckets: Vec<u64>,
    pub sum_us: u64,
}
impl HistogramSnapshot {
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
    /// The latency that this share of the observations (0 to 1) does not exceed, within 3.2 %; `None` without observations.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let count = self.count();
        let rank = ((share * count as f64).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0;
        for (i, n) in self.buckets.iter().enumerate() {
            seen += n;
            if seen >= rank {
                let (low, high) = bounds(i);
                // the middle halves the error; in the linear part a bucket is one value
                let us = if high - low == 1 { low as f64 } else { (low + high) as f64 / 2.0 };
                return Some(Duration::from_nanos((us * 1e3) as u64));
            }
        }
        None
    }
    /// How many observations were below `limit`, for Prometheus' cumulative buckets: exact when `limit` is a power of two of microseconds, else
    /// a bucket that `limit` cuts is counted when its middle is below.
    pub fn below(&self, limit: Duration) -> u64 {
        let limit = limit.as_micros() as u64;
        let counted = |i: usize| {
            let (low, high) = bounds(i);
            u64::midpoint(low, high) < limit.max(1)
        };
        self.buckets.iter().enumerate().take_while(|(i, _)| counted(*i)).map(|(_, n)| n).sum()
    }
}

/// Counts per name, for the few names that a program has (causes of errors). Single writer. Names beyond 64 are counted as `other`.
#[derive(Default)]
pub struct Named {
    slots: OnceLock<Box<[NamedSlot; 64]>>,
}
struct NamedSlot(OnceLock<&'static str>, Counter);
impl Named {
    pub fn add(&self, name: &'static str, n: u64) {
        let slots = self
            .slots
            .get_or_init(|| Box::new(std::array::from_fn(|_| NamedSlot(OnceLock::new(), Counter::default()))));
        for (i, NamedSlot(key, count)) in slots.iter().enumerate() {
            let name = if i + 1 == slots.len() { "other" } else { name };
            if *key.get_or_init(|| name) == name {
                count.add(n);
                return;
            }
        }
    }
    fn add_to(&self, into: &mut Vec<(&'static str, u64)>) {
        for NamedSlot(key, count) in self.slots.get().into_iter().flat_map(|s| s.iter()) {
            let Some(key) = key.get() else { return };
            match into.iter_mut().find(|(k, _)| k == key) {
                Some((_, n)) => *n += count.get(),
                None => into.push((key, count.get())),
            }
        }
    }
}
impl fmt::Debug for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = Vec::new();
        self.add_to(&mut all);
        f.debug_map().entries(all).finish()
    }
}

/// What a series is about. The same labels in every metric, access log and trace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeriesKey {
    /// The Service port that was dialled; for inbound traffic the port of the application.
    pub parent: ServiceRef,
    /// `None`: no route matched, or the Service has none.
    pub route: Option<Arc<RouteRef>>,
    /// Place of the rule in its route; 0 without a route.
    pub rule: u32,
    /// `None`: answered by the proxy itself.
    pub backend: Option<ServiceRef>,
}
impl SeriesKey {
    /// The series of whatever does not fit.
    pub fn overflow() -> Self {
        let name: Arc<str> = "overflow".into();
        Self { parent: ServiceRef { namespace: name.clone(), name, port: 0 }, route: None, rule: 0, backend: None }
    }
}

/// The counters of one series in one worker.
#[derive(Debug, Default)]
pub struct Series {
    /// Exchanges that have begun.
    pub requests: Counter,
    /// Final responses by class: `responses[1]` is 1xx (switching protocols) up to `[5]`; `[0]`: none, the exchange was reset or the client left.
    pub responses: [Counter; 6],
    /// Attempts that have ended, and those that brought a response below 500: what the backends do, beside what the clients see.
    pub attempts: Counter,
    pub attempts_succeeded: Counter,
    /// Attempts after the first.
    pub retries: Counter,
    /// Why they were made: what became of the attempt before.
    pub retried: Named,
    /// Retries that the budget refused.
    pub retries_refused: Counter,
    /// Retries that the policy would have allowed otherwise, by what stood against them.
    pub not_retried: Named,
    /// `request` timeouts.
    pub timeouts: Counter,
    /// `backendRequest` timeouts.
    pub attempt_timeouts: Counter,
    /// Mirrored requests, and those that were dropped.
    pub mirrors: Counter,
    pub mirrors_dropped: Counter,
    /// Body bytes from the client, and to it.
    pub received: Counter,
    pub sent: Counter,
    /// Responses that the proxy made, or resets, by cause.
    pub causes: Named,
    /// From the request's head to the response's end.
    pub latency: Histogram,
}
impl Series {
    /// Counts the end of an exchange: its final status (0: none), and the time since it began.
    pub fn finish(&self, status: u16, latency: Duration) {
        let class = usize::from(status / 100);
        self.responses[if class < 6 { class } else { 0 }].add(1);
        self.latency.observe(latency);
    }
}

/// A series at one moment, summed over workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeriesSnapshot {
    pub requests: u64,
    pub responses: [u64; 6],
    pub attempts: u64,
    pub attempts_succeeded: u64,
    pub retries: u64,
    pub retried: Vec<(&'static str, u64)>,
    pub retries_refused: u64,
    pub not_retried: Vec<(&'static str, u64)>,
    pub timeouts: u64,
    pub attempt_timeouts: u64,
    pub mirrors: u64,
    pub mirrors_dropped: u64,
    pub received: u64,
    pub sent: u64,
    pub causes: Vec<(&'static str, u64)>,
    pub latency: HistogramSnapshot,
}
impl SeriesSnapshot {
    fn add(&mut self, s: &Series) {
        self.requests += s.requests.get();
        for (sum, n) in self.responses.iter_mut().zip(&s.responses) {
            *sum += n.get();
        }
        self.attempts += s.attempts.get();
        self.attempts_succeeded += s.attempts_succeeded.get();
        self.retries += s.retries.get();
        s.retried.add_to(&mut self.retried);
        s.not_retried.add_to(&mut self.not_retried);
        self.retries_refused += s.retries_refused.get();
        self.timeouts += s.timeouts.get();
        self.attempt_timeouts += s.attempt_timeouts.get();
        self.mirrors += s.mirrors.get();
        self.mirrors_dropped += s.mirrors_dropped.get();
        self.received += s.received.get();
        self.sent += s.sent.get();
        s.causes.add_to(&mut self.causes);
        s.latency.add_to(&mut self.latency);
    }
    /// Exchanges under way.
    pub fn in_flight(&self) -> u64 {
        // the counters are read one after the other while workers go on
        self.requests.saturating_sub(self.responses.iter().sum())
    }
}

macro_rules! totals {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of a worker that belong to no series.
        #[derive(Debug, Default)]
        pub struct Totals { $($(#[$doc])* pub $name: Counter,)* pub limits: Named }
        /// The same at one moment, summed over workers.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct TotalsSnapshot {
            $($(#[$doc])* pub $name: u64,)*
            /// Bounds that were hit, by name.
            pub limits: Vec<(&'static str, u64)>,
        }
        impl TotalsSnapshot {
            fn add(&mut self, t: &Totals) {
                $(self.$name += t.$name.get();)*
                t.limits.add_to(&mut self.limits);
            }
            /// Names and values, in the order of the fields.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}
totals! {
    /// Connections accepted from applications of this pod.
    accepted_outbound,
    /// Connections accepted from elsewhere, in plain text.
    accepted_inbound,
    /// Connections accepted from proxies of the mesh.
    accepted_mesh,
    /// Accepted connections that are gone.
    accepted_closed,
    /// Connections dialled.
    dialed,
    /// Dials that came to nothing.
    dial_failed,
    /// Dialled connections that are gone (failed dials too).
    dialed_closed,
    /// Connections closed for a protocol error of the peer.
    protocol_errors,
    /// Panics that closed a connection. Each is a bug.
    panics,
    /// Access-log records that were dropped.
    logs_dropped,
    /// Endpoints ejected.
    ejections,
    /// Streams that outlived the drain and were reset.
    drained_by_force,
}

/// The counters of one worker.
#[derive(Debug)]
pub struct Shard {
    registry: Arc<Registry>,
    series: FastMap<SeriesKey, Arc<Series>>,
    overflow: Arc<Series>,
    totals: Arc<Totals>,
}
impl Shard {
    /// The series of a key, made when it is new; the overflow series when there are too many. Hold on to it: this hashes the whole key.
    pub fn series(&mut self, key: &SeriesKey) -> Arc<Series> {
        if let Some(s) = self.series.get(key) {
            return s.clone();
        }
        let series = Arc::new(Series::default());
        if !self.registry.add(key, &series) {
            return self.overflow.clone();
        }
        self.series.insert(key.clone(), series.clone());
        series
    }
    /// The series of whatever has no place of its own.
    pub fn overflow(&self) -> &Arc<Series> {
        &self.overflow
    }
    pub fn totals(&self) -> &Arc<Totals> {
        &self.totals
    }
    /// Forgets series that nobody needs any more (their Service or route is gone), so that others find room. Exchanges that still count in one
    /// keep it, unseen. Other workers do the same on their own.
    pub fn retain(&mut self, mut keep: impl FnMut(&SeriesKey) -> bool) {
        let registry = &self.registry;
        self.series.retain(|key, series| {
            let keep = keep(key);
            if !keep {
                registry.remove(key, series);
            }
            keep
        });
    }
}

/// All series of a process.
#[derive(Debug)]
pub struct Registry {
    most: usize,
    known: Mutex<Known>,
}
#[derive(Debug, Default)]
struct Known {
    series: FastMap<SeriesKey, Vec<Arc<Series>>>,
    overflow: Vec<Arc<Series>>,
    totals: Vec<Arc<Totals>>,
}
impl Registry {
    pub fn new() -> Arc<Self> {
        Self::with_most(MOST_SERIES)
    }
    fn with_most(most: usize) -> Arc<Self> {
        Arc::new(Self { most, known: Mutex::default() })
    }
    /// The shard of a new worker.
    pub fn shard(self: &Arc<Self>) -> Shard {
        let (overflow, totals) = <(Arc<Series>, Arc<Totals>)>::default();
        let mut known = self.known();
        known.overflow.push(overflow.clone());
        known.totals.push(totals.clone());
        Shard { registry: self.clone(), series: FastMap::default(), overflow, totals }
    }
    /// Everything at one moment, sorted by key; the overflow series comes last, if anything was counted in it.
    pub fn snapshot(&self) -> Snapshot {
        let known = self.known();
        let sum = |all: &[Arc<Series>]| {
            let mut sum = SeriesSnapshot::default();
            all.iter().for_each(|s| sum.add(s));
            sum
        };
        let mut series: Vec<_> = known.series.iter().map(|(k, all)| (k.clone(), sum(all))).collect();
        series.sort_by(|a, b| a.0.cmp(&b.0));
        let overflow = sum(&known.overflow);
        if overflow.requests > 0 {
            series.push((SeriesKey::overflow(), overflow));
        }
        let mut totals = TotalsSnapshot::default();
        known.totals.iter().for_each(|t| totals.add(t));
        Snapshot { series, totals }
    }
    fn add(&self, key: &SeriesKey, series: &Arc<Series>) -> bool {
        let mut known = self.known();
        if let Some(all) = known.series.get_mut(key) {
            all.push(series.clone());
            return true;
        }
        if known.series.len() >= self.most {
            return false;
        }
        known.series.insert(key.clone(), vec![series.clone()]);
        true
    }
    fn remove(&self, key: &SeriesKey, series: &Arc<Series>) {
        let mut known = self.known();
        if let Some(all) = known.series.get_mut(key) {
            all.retain(|s| !Arc::ptr_eq(s, series));
            if all.is_empty() {
                known.series.remove(key);
            }
        }
    }
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a scrape sees.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub series: Vec<(SeriesKey, SeriesSnapshot)>,
    pub totals: TotalsSnapshot,
}
impl Snapshot {
    /// All series together.
    pub fn requests(&self) -> u64 {
        self.series.iter().map(|(_, s)| s.requests).sum()
    }
}

#[cfg(test)]
#[path = "stats_tests.rs"]
mod tests;
