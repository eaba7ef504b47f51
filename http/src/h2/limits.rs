//! Abuse limits: frames that are cheap to send and dear to receive, counted in buckets ([`Rate`]).
//!
//! A bucket is refilled only when it is empty, so that a frame within the limit costs a decrement and no arithmetic on time.

use super::{Abuse, Rate, Rates};
use std::time::Instant;

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: u32,
    /// When it was full last, or refilled, and the useful frames counted until then.
    at: Option<Instant>,
    useful: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Limits {
    buckets: [Bucket; 7],
    /// HEADERS and DATA frames in either direction; wraps around.
    useful: u32,
}

impl Abuse {
    fn index(self) -> usize {
        match self {
            Abuse::Resets => 0,
            Abuse::StreamErrors => 1,
            Abuse::Settings => 2,
            Abuse::Pings => 3,
            Abuse::Ignored => 4,
            Abuse::EmptyData => 5,
            Abuse::WindowUpdates => 6,
        }
    }
    fn rate(self, rates: &Rates) -> Rate {
        match self {
            Abuse::Resets => rates.resets,
            Abuse::StreamErrors => rates.stream_errors,
            Abuse::Settings => rates.settings,
            Abuse::Pings => rates.pings,
            Abuse::Ignored => rates.ignored,
            Abuse::EmptyData => rates.empty_data,
            Abuse::WindowUpdates => rates.window_updates,
        }
    }
}

impl Limits {
    pub fn new(rates: &Rates) -> Self {
        use Abuse::*;
        let all = [Resets, StreamErrors, Settings, Pings, Ignored, EmptyData, WindowUpdates];
        Limits { buckets: all.map(|a| Bucket { left: a.rate(rates).burst, at: None, useful: 0 }), useful: 0 }
    }
    /// A HEADERS or DATA frame was sent or received.
    #[inline]
    pub fn useful(&mut self) {
        self.useful = self.useful.wrapping_add(1);
    }
    /// Counts one; false when that is too many.
    #[inline]
    pub fn take(&mut self, what: Abuse, rates: &Rates, now: Instant) -> bool {
        let bucket = &mut self.buckets[what.index()];
        if bucket.at.is_none() {
            bucket.at = Some(now);
        }
        if bucket.left == 0 {
            let rate = what.rate(rates);
            let millis = bucket.at.map_or(0, |at| now.saturating_duration_since(at).as_millis() as u64);
            let useful = u64::from(self.useful.wrapping_sub(bucket.useful));
            let refill = (millis * u64::from(rate.per_second) / 1000) + useful * u64::from(rate.per_useful);
            if refill == 0 {
                return false;
            }
            *bucket = Bucket { left: refill.min(u64::from(rate.burst)) as u32, at: Some(now), useful: self.useful };
        }
        match bucket.left.checked_sub(1) {
            Some(left) => {
                bucket.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_then_the_rate() {
        let rates = Rates { pings: Rate { burst: 10, per_second: 5, per_useful: 2 }, ..Rates::default() };
        let mut limits = Limits::new(&rates);
        let start = Instant::now();
        let taken = |limits: &mut Limits, ms: u64| {
            let now = start + Duration::from_millis(ms);
            (0..100).take_while(|_| limits.take(Abuse::Pings, &rates, now)).count()
        };
        assert_eq!(taken(&mut limits, 0), 10);
        assert_eq!(taken(&mut limits, 199), 0);
        assert_eq!(taken(&mut limits, 200), 1, "what has accumulated since the refill");
        assert_eq!(taken(&mut limits, 1200), 5);
        assert_eq!(taken(&mut limits, 60_000), 10, "never more than the burst");
        limits.useful();
        limits.useful();
        assert_eq!(taken(&mut limits, 60_000), 4);
    }

    #[test]
    fn no_burst_means_never() {
        let none = Rate { burst: 0, per_second: 100, per_useful: 0 };
        let rates = Rates { settings: none, ..Rates::default() };
        let mut limits = Limits::new(&rates);
        let now = Instant::now();
        assert!(!limits.take(Abuse::Settings, &rates, now));
        assert!(!limits.take(Abuse::Settings, &rates, now + Duration::from_secs(9)));
    }
}
