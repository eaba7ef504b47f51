//! What routes do: rates between two looks at sidecars' metrics.

use crate::metrics::{Sample, quantile};
use std::{collections::BTreeMap, time::Duration};

/// A line of the table: one backend of one rule, as the sidecar counts it.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Row {
    pub parent: String,
    pub route: String,
    pub rule: String,
    pub backend: String,
    pub requests_per_second: f64,
    /// Share of requests that the client saw succeed, 0 to 1; `None` while there was none.
    pub success: Option<f64>,
    /// Share of attempts that succeeded: what the endpoints really did.
    pub attempt_success: Option<f64>,
    pub retries_per_second: f64,
    pub timeouts_per_second: f64,
    pub p50_ms: Option<f64>,
    pub p95_ms: Option<f64>,
    pub p99_ms: Option<f64>,
}

type Key = [String; 4];
const LABELS: [&str; 4] = ["parent", "route", "rule", "backend"];

/// Counters of one series, summed over its other labels.
#[derive(Clone, Debug, Default)]
struct Counters {
    requests: f64,
    good: f64,
    attempts: f64,
    good_attempts: f64,
    retries: f64,
    timeouts: f64,
    /// Upper bound in seconds -> cumulative count.
    buckets: BTreeMap<u64, f64>,
}

/// The last look, to take differences from.
#[derive(Default)]
pub struct Rows {
    last: BTreeMap<Key, Counters>,
}

fn collect(samples: &[Sample]) -> BTreeMap<Key, Counters> {
    let mut all: BTreeMap<Key, Counters> = BTreeMap::new();
    for s in samples.iter().filter(|s| s.labels.contains_key("parent")) {
        let key = LABELS.map(|l| s.label(l).to_owned());
        let c = all.entry(key).or_default();
        let success = s.label("success") == "true";
        match s.name.as_str() {
            "weft_requests_total" => {
                c.requests += s.value;
                c.good += if success { s.value } else { 0.0 };
            }
            "weft_attempts_total" => {
                c.attempts += s.value;
                c.good_attempts += if success { s.value } else { 0.0 };
            }
            "weft_retries_total" => c.retries += s.value,
            "weft_timeouts_total" => c.timeouts += s.value,
            "weft_request_duration_seconds_bucket" => {
                let bound: f64 = s.label("le").parse().unwrap_or(f64::INFINITY);
                *c.buckets.entry(bound.to_bits()).or_default() += s.value;
            }
            _ => {}
        }
    }
    all
}

fn share(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

impl Rows {
    /// The rows since the last call, `elapsed` ago.
    pub fn update(&mut self, samples: &[Sample], elapsed: Duration) -> Vec<Row> {
        let now = collect(samples);
        let rows = now.iter().map(|(key, c)| row(key, c, self.last.get(key), elapsed)).collect();
        self.last = now;
        rows
    }
    /// The rows since the start, for the summary.
    pub fn total(samples: &[Sample], elapsed: Duration) -> Vec<Row> {
        collect(samples).iter().map(|(key, c)| row(key, c, None, elapsed)).collect()
    }
}

fn row(key: &Key, c: &Counters, last: Option<&Counters>, elapsed: Duration) -> Row {
    let zero = Counters::default();
    let last = last.unwrap_or(&zero);
    let seconds = elapsed.as_secs_f64().max(0.001);
    let mut buckets: Vec<(f64, f64)> = c
        .buckets
        .iter()
        .map(|(b, n)| (f64::from_bits(*b), n - last.buckets.get(b).copied().unwrap_or_default()))
        .collect();
    let mut ms = |p| quantile(&mut buckets, p).map(|s| s * 1e3);
    let [parent, route, rule, backend] = key.clone();
    Row {
        parent,
        route,
        rule,
        backend,
        requests_per_second: (c.requests - last.requests) / seconds,
        success: share(c.good - last.good, c.requests - last.requests),
        attempt_success: share(c.good_attempts - last.good_attempts, c.attempts - last.attempts),
        retries_per_second: (c.retries - last.retries) / seconds,
        timeouts_per_second: (c.timeouts - last.timeouts) / seconds,
        p50_ms: ms(0.5),
        p95_ms: ms(0.95),
        p99_ms: ms(0.99),
    }
}
