//! When a leaf is renewed.

use rustls_pki_types::UnixTime;
use std::time::Duration;

/// The moment to renew, as a wait from `now`: between 50 and 80 % of the leaf's life, spread by `draw` (0..1), so that thousands of
/// pods that started together do not come back together. Zero when that moment has passed, and when `now` lies before the leaf's
/// life (a clock that was turned back must not wait for years).
pub fn wait(not_before: UnixTime, not_after: UnixTime, now: UnixTime, draw: f64) -> Duration {
    let (start, end, now) = (not_before.as_secs(), not_after.as_secs(), now.as_secs());
    let life = end.saturating_sub(start);
    let at = start + (life as f64 * (0.5 + 0.3 * draw.clamp(0.0, 1.0))) as u64;
    if now < start { Duration::ZERO } else { Duration::from_secs(at.saturating_sub(now)) }
}

/// The wait before try `failures + 1` of a renewal: full jitter over a window that doubles from 1 s to 60 s. At 24 h of life the
/// tries left after the first failure are counted in hundreds.
pub fn backoff(failures: u32, draw: f64) -> Duration {
    let window = 1u64.checked_shl(failures.min(10)).unwrap_or(u64::MAX).min(60);
    Duration::from_millis(100 + (window as f64 * 1000.0 * draw.clamp(0.0, 1.0)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(s))
    }

    #[test]
    fn between_half_and_four_fifths_of_life() {
        for (draw, seconds) in [(0.0, 500), (1.0, 800), (0.5, 650)] {
            assert_eq!(wait(at(1000), at(2000), at(1000), draw), Duration::from_secs(seconds));
        }
        assert_eq!(wait(at(1000), at(2000), at(1999), 0.0), Duration::ZERO);
    }

    #[test]
    fn row_50_a_clock_that_jumps_back_renews_at_once() {
        assert_eq!(wait(at(100_000), at(186_400), at(10_000), 0.5), Duration::ZERO);
        assert_eq!(wait(at(100_000), at(186_400), at(300_000), 0.5), Duration::ZERO);
    }

    #[test]
    fn row_69_five_thousand_renewals_spread_over_the_window() {
        let waits: Vec<u64> = (0..5000).map(|i| wait(at(0), at(86_400), at(0), i as f64 / 5000.0).as_secs()).collect();
        let busiest = (0..86_400 / 60).map(|m| waits.iter().filter(|w| **w / 60 == m).count()).max().unwrap();
        assert!(busiest <= 13, "{busiest} in one minute"); // 5000 over 432 minutes
    }

    #[test]
    fn backoff_is_bounded() {
        for n in 0..100 {
            assert!(backoff(n, 1.0) <= Duration::from_millis(60_100));
        }
        assert!(backoff(0, 1.0) <= Duration::from_millis(1_100));
    }
}
