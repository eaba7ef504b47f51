//! Counting confirmations: may a rotation take its next step?

use crate::state::Gate;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// What one controller reports of its proxies.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Meshed workloads that it knows of, connected or not.
    pub expected: u32,
    /// Bundle version, issuer of the leaf, how many.
    pub confirmed: Vec<(u64, Box<[u8]>, u32)>,
}

/// How far a gate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub reporters: usize,
    pub expected: u32,
    pub confirmed: u32,
}
impl Progress {
    /// All N have confirmed. With no controller to ask, nothing is known and the gate stays shut.
    pub fn is_complete(self) -> bool {
        self.reporters > 0 && self.confirmed >= self.expected
    }
}
impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.reporters {
            0 => f.write_str("no controller is connected"),
            n => write!(f, "{} of {} have confirmed ({n} controllers)", self.confirmed, self.expected),
        }
    }
}

/// The newest report of each connected controller.
#[derive(Debug, Default)]
pub struct Gates {
    reports: BTreeMap<u64, Report>,
    /// The gate that is complete, and since when.
    open: Option<(Gate, Instant)>,
}

impl Gates {
    pub fn report(&mut self, stream: u64, report: Report) {
        self.reports.insert(stream, report);
    }
    pub fn gone(&mut self, stream: u64) {
        self.reports.remove(&stream);
    }

    /// Every controller knows all workloads, and has the streams of some of them.
    pub fn progress(&self, gate: &Gate) -> Progress {
        let passes = |(bundle, issuer, _): &&(u64, Box<[u8]>, u32)| match gate {
            Gate::Bundle(version) => bundle >= version,
            Gate::Issuer { bundle: version, key } => bundle >= version && issuer == key,
        };
        let confirmed = self.reports.values().flat_map(|r| r.confirmed.iter().filter(passes)).map(|c| c.2);
        Progress {
            reporters: self.reports.len(),
            expected: self.reports.values().map(|r| r.expected).max().unwrap_or(0),
            confirmed: confirmed.fold(0, u32::saturating_add),
        }
    }

    /// Whether the gate has been complete for `hold`. A proxy that changes controllers may be counted twice until its old stream is
    /// noticed to be dead (15 s); holding longer than that rules out that it hides another one.
    pub fn may_pass(&mut self, gate: &Gate, now: Instant, hold: Duration) -> bool {
        if !self.progress(gate).is_complete() {
            self.open = None;
            return false;
        }
        match &self.open {
            Some((open, since)) if open == gate => now.saturating_duration_since(*since) >= hold,
            _ => {
                self.open = Some((gate.clone(), now));
                hold.is_zero()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(expected: u32, confirmed: &[(u64, &[u8], u32)]) -> Report {
        Report { expected, confirmed: confirmed.iter().map(|(v, i, n)| (*v, (*i).into(), *n)).collect() }
    }

    #[test]
    fn row_72_a_gate_opens_only_when_everybody_has_confirmed_for_a_while() {
        let (mut g, t, hold) = (Gates::default(), Instant::now(), Duration::from_secs(30));
        let gate = Gate::Bundle(7);
        assert!(!g.may_pass(&gate, t, hold), "nobody to ask");
        g.report(1, report(3, &[(7, b"a", 2), (6, b"a", 1)]));
        assert!(!g.may_pass(&gate, t, hold));
        assert_eq!(g.progress(&gate).to_string(), "2 of 3 have confirmed (1 controllers)");
        g.report(1, report(3, &[(7, b"a", 2), (8, b"a", 1)]));
        assert!(!g.may_pass(&gate, t, hold), "just complete");
        assert!(g.may_pass(&gate, t + hold, hold));
        // a new pod that has not confirmed shuts it again, and the time begins anew
        g.report(1, report(4, &[(7, b"a", 3)]));
        assert!(!g.may_pass(&gate, t + hold, hold));
        g.report(1, report(4, &[(7, b"a", 4)]));
        assert!(!g.may_pass(&gate, t + hold * 2, hold));
        assert!(g.may_pass(&gate, t + hold * 3, hold));
    }

    #[test]
    fn replicas_add_up_and_a_lost_one_shuts_the_gate() {
        let (mut g, t) = (Gates::default(), Instant::now());
        let gate = Gate::Issuer { bundle: 3, key: (*b"new").into() };
        g.report(1, report(5, &[(3, b"new", 2)]));
        g.report(2, report(5, &[(3, b"new", 3)]));
        assert!(g.may_pass(&gate, t, Duration::ZERO));
        g.gone(2);
        assert!(!g.may_pass(&gate, t, Duration::ZERO));
        g.report(1, report(5, &[(3, b"old", 5)]));
        assert!(!g.may_pass(&gate, t, Duration::ZERO), "leaves of the old issuer");
    }
}
