//! Retry budgets (GEP-3388): of the requests to one backend in the last interval, at most a percentage may be followed by a retry, but a few per
//! time always may.
//!
//! Process-wide: one [`Budget`] for each backend, shared by the workers, without locks. The interval slides in ten steps; a step's
//! counter is one atomic word that carries the step's number, so nobody has to clear it in time. The floor is counted on its own over its
//! interval and applies only when the percentage does not already allow more: with every endpoint failing, the load on the backend is
//! `100 % + percent` of the clients' load, never the sum of both allowances.

use crate::util::FastMap;
use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};
use weft_core::{retry::RetryBudget, service::ServiceRef};

/// Steps of an interval: the window is between 90 % and 100 % of it.
const STEPS: usize = 10;
const STEP_BITS: u32 = 24;

/// Counts per step. A word holds the number of its step (upper 40 bits, so that 10 ms steps last for centuries) and a count that stops at 2^24-1.
#[derive(Debug, Default)]
struct Window([AtomicU64; STEPS]);
impl Window {
    fn add(&self, step: u64) {
        let word = &self.0[step as usize % STEPS];
        let mut old = word.load(Relaxed);
        loop {
            let new = match old >> STEP_BITS {
                s if s == step && old & ((1 << STEP_BITS) - 1) == (1 << STEP_BITS) - 1 => return,
                s if s == step => old + 1,
                s if s > step => return, // a clock that is behind: another worker is already further
                _ => (step << STEP_BITS) | 1,
            };
            match word.compare_exchange_weak(old, new, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(now) => old = now,
            }
        }
    }
    fn clear(&self) {
        for w in &self.0 {
            w.store(0, Relaxed);
        }
    }
    fn sum(&self, step: u64) -> u64 {
        let recent = |w: u64| w >> STEP_BITS <= step && (w >> STEP_BITS) + STEPS as u64 > step;
        self.0.iter().map(|w| w.load(Relaxed)).filter(|w| recent(*w)).map(|w| w & ((1 << STEP_BITS) - 1)).sum()
    }
}

/// The retry budget of one backend.
#[derive(Debug)]
pub struct Budget {
    origin: Instant,
    percent: AtomicU32,
    /// Milliseconds of one step.
    step: AtomicU64,
    floor: AtomicU32,
    /// Milliseconds of one step of the floor's interval.
    floor_step: AtomicU64,
    requests: Window,
    retries: Window,
    /// Retries in steps of a tenth of the floor's interval.
    recent: Window,
    refused: AtomicU64,
}

impl Budget {
    /// `origin`: any time not after the first request.
    pub fn new(config: RetryBudget, origin: Instant) -> Self {
        let b = Self {
            origin,
            percent: AtomicU32::new(0),
            step: AtomicU64::new(1),
            floor: AtomicU32::new(0),
            floor_step: AtomicU64::new(1),
            requests: Window::default(),
            retries: Window::default(),
            recent: Window::default(),
            refused: AtomicU64::new(0),
        };
        b.configure(config);
        b
    }

    /// Takes over another configuration. When the interval changes, counting starts anew.
    pub fn configure(&self, config: RetryBudget) {
        self.percent.store(config.percent, Relaxed);
        self.floor.store(config.floor, Relaxed);
        let of = |interval: std::time::Duration| (interval.as_millis() as u64 / STEPS as u64).clamp(1, 360_000);
        let floor_step = of(config.floor_interval);
        if self.floor_step.swap(floor_step, Relaxed) != floor_step {
            self.recent.clear();
        }
        // steps of 1 ms at least; at most an hour in all, far beyond the API's own bound
        let step = of(config.interval);
        if self.step.swap(step, Relaxed) != step {
            self.requests.clear();
            self.retries.clear();
        }
    }

    /// Counts a request of a client (not a retry, not a mirror).
    pub fn request(&self, now: Instant) {
        self.requests.add(self.ms(now) / self.step.load(Relaxed));
    }

    /// Asks for a retry, and counts it when it is allowed, whether it then happens or not. Two workers that ask at the same moment may both
    /// get the last one.
    pub fn try_retry(&self, now: Instant) -> bool {
        let ms = self.ms(now);
        let step = ms / self.step.load(Relaxed);
        let allowed = self.requests.sum(step) * u64::from(self.percent.load(Relaxed)) / 100;
        let recent = ms / self.floor_step.load(Relaxed);
        let within = self.retries.sum(step) < allowed || self.recent.sum(recent) < u64::from(self.floor.load(Relaxed));
        if within {
            self.retries.add(step);
            self.recent.add(recent);
        } else {
            self.refused.fetch_add(1, Relaxed);
        }
        within
    }

    /// Retries that were refused, for metrics.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    fn ms(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.origin).as_millis() as u64
    }
}

/// The budgets of a process, one for each backend.
#[derive(Debug)]
pub struct Budgets {
    origin: Instant,
    by_service: Mutex<FastMap<ServiceRef, Weak<Budget>>>,
}
impl Budgets {
    pub fn new(origin: Instant) -> Self {
        Self { origin, by_service: Mutex::default() }
    }
    /// The budget of a backend, made with the default configuration. Asked once when a worker learns of it, not for each request.
    pub fn of(&self, service: &ServiceRef) -> Arc<Budget> {
        let mut map = self.by_service.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(b) = map.get(service).and_then(Weak::upgrade) {
            return b;
        }
        map.retain(|_, b| b.strong_count() > 0);
        let b = Arc::new(Budget::new(RetryBudget::default(), self.origin));
        map.insert(service.clone(), Arc::downgrade(&b));
        b
    }
}

#[cfg(test)]
#[path = "budget_tests.rs"]
mod tests;
