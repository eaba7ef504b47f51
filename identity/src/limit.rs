//! How often one caller may ask (for a certificate, for a handshake): a token bucket for each key, in a table of bounded size.

use ahash::AHashMap;
use std::{
    hash::Hash,
    sync::Mutex,
    time::{Duration, Instant},
};

/// Buckets by key. A full table forgets buckets that are full again, and then refuses new keys: memory is bounded and a flood of keys
/// does not wash away the limits of others.
#[derive(Debug)]
pub struct Limiter<K> {
    burst: f64,
    /// Permits that come back in a second.
    rate: f64,
    max_keys: usize,
    buckets: Mutex<AHashMap<K, (f64, Instant)>>,
}

impl<K: Hash + Eq> Limiter<K> {
    /// `burst` at once, then one for each `every`.
    pub fn new(burst: u32, every: Duration, max_keys: usize) -> Self {
        let rate = 1.0 / every.as_secs_f64().max(1e-6);
        Self { burst: burst.into(), rate, max_keys, buckets: Mutex::default() }
    }

    /// Takes a permit, if there is one.
    pub fn admit(&self, key: K, now: Instant) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(|e| e.into_inner());
        if buckets.len() >= self.max_keys && !buckets.contains_key(&key) {
            let full_after = self.burst / self.rate;
            buckets.retain(|_, (left, at)| {
                *left + now.saturating_duration_since(*at).as_secs_f64() * self.rate < self.burst
                    && now.saturating_duration_since(*at).as_secs_f64() < full_after
            });
            if buckets.len() >= self.max_keys {
                return false;
            }
        }
        let (left, at) = buckets.entry(key).or_insert((self.burst, now));
        *left = (*left + now.saturating_duration_since(*at).as_secs_f64() * self.rate).min(self.burst);
        *at = now;
        let admitted = *left >= 1.0;
        if admitted {
            *left -= 1.0;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_69_one_key_does_not_take_what_others_need() {
        let limiter = Limiter::new(5, Duration::from_secs(1), 100);
        let t = Instant::now();
        let admitted = (0..1000).filter(|i| limiter.admit("greedy", t + Duration::from_millis(*i))).count();
        assert_eq!(admitted, 5);
        assert!(limiter.admit("other", t + Duration::from_secs(1)));
        assert!(limiter.admit("greedy", t + Duration::from_millis(2100)));
    }

    #[test]
    fn the_table_is_bounded_and_keeps_what_is_limited() {
        let limiter = Limiter::new(1, Duration::from_secs(10), 100);
        let t = Instant::now();
        assert!((0..100).all(|k| limiter.admit(k, t)));
        assert!(!limiter.admit(100, t), "full of limited keys");
        assert!(!limiter.admit(5, t), "still limited");
        assert!(limiter.admit(100, t + Duration::from_secs(11)), "buckets that are full again are forgotten");
        assert!(limiter.buckets.lock().unwrap().len() <= 100);
    }
}
