//! Counting confirmations: may a rotation take its next step?

use crate::state::Gate;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// What one controller reports of its proxies.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Names the controller; empty: it has no name.
    pub reporter: String,
    /// Meshed workloads that it knows of, connected or not.
    pub expected: u32,
    /// Bundle version, issuer of the leaf, how many.
    pub confirmed: Vec<(u64, Box<[u8]>, u32)>,
    /// What the controller itself uses.
    pub own: Option<(u64, Box<[u8]>)>,
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
    /// A controller that reaches one CA over two addresses, or that comes back before its old stream is noticed to be dead, counts once.
    pub fn report(&mut self, stream: u64, report: Report) {
        self.reports.retain(|id, r| *id == stream || r.reporter.is_empty() || r.reporter != report.reporter);
        self.reports.insert(stream, report);
    }
    pub fn gone(&mut self, stream: u64) {
        self.reports.remove(&stream);
    }

    /// Every controller knows all workloads, and has the streams of some of them; and it is itself one that must confirm.
    pub fn progress(&self, gate: &Gate) -> Progress {
        let passes = |bundle: u64, issuer: &[u8]| match gate {
            Gate::Bundle(version) => bundle >= *version,
            Gate::Issuer { bundle: version, key } => bundle >= *version && issuer == &**key,
        };
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let proxies = self.reports.values().flat_map(|r| &r.confirmed).filter(|(b, i, _)| passes(*b, i)).map(|c| c.2);
        let own = self.reports.values().filter(|r| r.own.as_ref().is_some_and(|(b, i)| passes(*b, i))).count();
        let workloads = self.reports.values().map(|r| r.expected).max().unwrap_or(0);
        Progress {
            reporters: self.reports.len(),
            expected: workloads.saturating_add(count(self.reports.len())),
            confirmed: proxies.fold(count(own), u32::saturating_add),
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

    /// The controller itself uses what the first of its proxies use.
    fn report(expected: u32, confirmed: &[(u64, &[u8], u32)]) -> Report {
        let own = confirmed.first().map(|(v, i, _)| (*v, (*i).into()));
        let confirmed = confirmed.iter().map(|(v, i, n)| (*v, (*i).into(), *n)).collect();
        Report { expected, confirmed, own, ..Report::default() }
    }

    #[test]
    fn row_72_a_gate_opens_only_when_everybody_has_confirmed_for_a_while() {
        let (mut g, t, hold) = (Gates::default(), Instant::now(), Duration::from_secs(30));
        let gate = Gate::Bundle(7);
        assert!(!g.may_pass(&gate, t, hold), "nobody to ask");
        g.report(1, report(3, &[(7, b"a", 2), (6, b"a", 1)]));
        assert!(!g.may_pass(&gate, t, hold));
        assert_eq!(g.progress(&gate).to_string(), "3 of 4 have confirmed (1 controllers)");
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

    #[test]
    fn a_controller_that_reports_twice_counts_once() {
        let mut g = Gates::default();
        let gate = Gate::Bundle(3);
        let named = |name: &str, n| Report { reporter: name.into(), ..report(4, &[(3, b"a", n)]) };
        g.report(1, named("controller-a", 2));
        g.report(2, named("controller-a", 2));
        assert_eq!(g.progress(&gate).to_string(), "3 of 5 have confirmed (1 controllers)");
        g.report(3, named("controller-b", 2));
        assert_eq!(g.progress(&gate).to_string(), "6 of 6 have confirmed (2 controllers)");
        g.gone(1);
        assert_eq!(g.progress(&gate).reporters, 2, "the stream that was replaced");
    }

    #[test]
    fn controllers_do_not_stand_in_for_proxies() {
        let (mut g, t) = (Gates::default(), Instant::now());
        let gate = Gate::Bundle(3);
        // three replicas, five workloads, four of which have confirmed
        g.report(1, report(5, &[(3, b"a", 2)]));
        g.report(2, report(5, &[(3, b"a", 1), (2, b"a", 1)]));
        g.report(3, report(5, &[(3, b"a", 1)]));
        assert_eq!(g.progress(&gate).to_string(), "7 of 8 have confirmed (3 controllers)");
        assert!(!g.may_pass(&gate, t, Duration::ZERO));
        g.report(2, report(5, &[(3, b"a", 2)]));
        assert!(g.may_pass(&gate, t, Duration::ZERO));
        // a controller that has not confirmed holds it, too
        g.report(3, Report { own: Some((2, (*b"a").into())), ..report(5, &[(3, b"a", 1)]) });
        assert!(!g.may_pass(&gate, t, Duration::ZERO));
    }
}
