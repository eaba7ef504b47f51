//! Back-off towards an API server that does not answer: after some failures in a row requests are refused at once, and one at a time is
//! let through to see whether it is back. A server that has just come up is not met by everybody who has waited for it.

use std::{sync::Mutex, time::Duration};
use tokio::time::Instant;

/// So many failures in a row are an outage; fewer are one lost connection.
const FAILURES: u32 = 3;
const FIRST: Duration = Duration::from_millis(200);
/// Proxies renew hours before their certificate expires, and new pods retry: five seconds delay nobody much.
const MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub struct Outage(Mutex<Inner>);
#[derive(Debug, Default)]
struct Inner {
    failures: u32,
    /// When the next request may try; set during an outage.
    retry: Option<Instant>,
}

impl Outage {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
    /// Whether a request may go now; `Err`: how long the outage lasts at least.
    pub fn permit(&self, now: Instant) -> Result<(), Duration> {
        let mut s = self.lock();
        match s.retry {
            Some(at) if at > now => Err(at - now),
            Some(_) => {
                // this one tries; the others wait for what it finds
                s.retry = Some(now + MAX);
                Ok(())
            }
            None => Ok(()),
        }
    }
    pub fn answered(&self) {
        *self.lock() = Inner::default();
    }
    /// `draw`: 0 to 1, so that replicas do not try together.
    pub fn failed(&self, now: Instant, draw: f64) {
        let mut s = self.lock();
        s.failures = s.failures.saturating_add(1);
        if s.failures >= FAILURES {
            let window = FIRST.saturating_mul(1 << (s.failures - FAILURES).min(8)).min(MAX);
            s.retry = Some(now + window.mul_f64(0.5 + draw / 2.0));
        }
    }
    pub fn is_up(&self) -> bool {
        self.lock().retry.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn row_68_after_three_failures_one_at_a_time_tries() {
        let (o, t) = (Outage::default(), Instant::now());
        for _ in 0..2 {
            o.failed(t, 1.0);
            o.permit(t).unwrap();
        }
        o.failed(t, 1.0);
        assert_eq!(o.permit(t), Err(FIRST));
        assert!(!o.is_up());
        let later = t + FIRST;
        o.permit(later).unwrap();
        assert_eq!(o.permit(later), Err(MAX), "somebody is trying");
        o.failed(later, 1.0);
        assert_eq!(o.permit(later), Err(FIRST * 2));
        for _ in 0..20 {
            o.failed(later, 1.0);
        }
        assert_eq!(o.permit(later), Err(MAX), "bounded");
        o.answered();
        assert!((0..100).all(|_| o.permit(later).is_ok()) && o.is_up());
    }
}
