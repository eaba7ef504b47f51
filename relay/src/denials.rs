//! What authorization has denied, or would have, by policy: process-wide, for metrics. A denial costs a lock; what is allowed costs nothing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// The most policies that are told apart; more are counted as `overflow`.
const MOST: usize = 200;

#[derive(Debug, Default)]
pub struct Denials(Mutex<BTreeMap<Arc<str>, Counts>>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub enforced: u64,
    pub dry_run: u64,
}

impl Denials {
    pub fn add(&self, policy: &Arc<str>, dry_run: bool) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = map.len() < MOST || map.contains_key(policy);
        let name = if known { policy.clone() } else { "overflow".into() };
        let counts = map.entry(name).or_default();
        if dry_run {
            counts.dry_run += 1;
        } else {
            counts.enforced += 1;
        }
    }
    /// By policy.
    pub fn snapshot(&self) -> BTreeMap<Arc<str>, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded() {
        let d = Denials::default();
        for n in 0..1000 {
            d.add(&format!("p{n}").into(), n % 2 == 0);
        }
        let s = d.snapshot();
        assert_eq!(s.len(), MOST + 1);
        assert_eq!(s["overflow"], Counts { enforced: 400, dry_run: 400 });
    }
}
