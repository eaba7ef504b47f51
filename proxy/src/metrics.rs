//! What the engines count, as Prometheus text.
//!
//! | metric | labels beside `parent`, `kind`, `route`, `rule`, `backend` | what |
//! |---|---|---|
//! | `weft_requests_total` | `success` | exchanges that have ended: `false` is a 5xx, a reset, or no response |
//! | `weft_requests_in_flight` | | exchanges under way |
//! | `weft_attempts_total` | `success` | what endpoints were asked |
//! | `weft_responses_total` | `class` (`1xx`-`5xx`, `none`) | what the client saw |
//! | `weft_failures_total` | `cause` | responses that the proxy made itself, and resets |
//! | `weft_retries_total`, `weft_retries_refused_total` | | attempts after the first; those that the budget forbade |
//! | `weft_timeouts_total` | `timeout` (`request`, `attempt`) | |
//! | `weft_mirrors_total`, `weft_mirrors_dropped_total` | | |
//! | `weft_received_bytes_total`, `weft_sent_bytes_total` | | bodies from and to the client |
//! | `weft_request_duration_seconds` | `le` | histogram |
//!
//! `weft_authorization_denied_total` has labels of its own: `policy` and `mode` (`enforce`, `dry_run`), for requests and byte streams.

use std::{fmt::Write, time::Duration};
use weft_core::route::RouteKind;
use weft_relay::stats::{SeriesKey, SeriesSnapshot, Snapshot};

/// Upper ends of the histogram's buckets, as powers of two of microseconds, where the engine's own buckets are exact: 128 us to 1 s, and three more to 17 s.
const BUCKETS: [u32; 16] = [7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 22, 24];

fn escape(s: &str) -> String {
    s.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The name of a route's kind, as users write it.
pub fn kind(k: RouteKind) -> &'static str {
    match k {
        RouteKind::Http => "HTTPRoute",
        RouteKind::Grpc => "GRPCRoute",
        RouteKind::Tls => "TLSRoute",
        RouteKind::Tcp => "TCPRoute",
    }
}

fn labels(k: &SeriesKey) -> String {
    let (route_kind, route) = match &k.route {
        Some(r) => (kind(r.kind), format!("{}/{}", r.namespace, r.name)),
        None => ("", String::new()),
    };
    let rule = if k.route.is_some() { k.rule.to_string() } else { String::new() };
    let backend = k.backend.as_ref().map(ToString::to_string).unwrap_or_default();
    format!(
        "parent=\"{}\",kind=\"{route_kind}\",route=\"{}\",rule=\"{rule}\",backend=\"{}\"",
        escape(&k.parent.to_string()),
        escape(&route),
        escape(&backend)
    )
}

fn good(v: &SeriesSnapshot) -> u64 {
    v.responses[1..5].iter().sum()
}
fn bad(v: &SeriesSnapshot) -> u64 {
    v.responses[0] + v.responses[5]
}

/// What authorization has denied, or would have.
pub fn denials(d: &weft_relay::denials::Denials, out: &mut String) {
    let _ = writeln!(out, "# TYPE weft_authorization_denied_total counter");
    for (policy, n) in d.snapshot() {
        for (mode, n) in [("enforce", n.enforced), ("dry_run", n.dry_run)].into_iter().filter(|(_, n)| *n > 0) {
            let _ =
                writeln!(out, "weft_authorization_denied_total{{policy=\"{}\",mode=\"{mode}\"}} {n}", escape(&policy));
        }
    }
}

/// Appends everything.
pub fn render(s: &Snapshot, out: &mut String) {
    let all: Vec<(String, &SeriesSnapshot)> = s.series.iter().map(|(k, v)| (labels(k), v)).collect();
    type Get = fn(&SeriesSnapshot) -> u64;
    let counter = |out: &mut String, name: &str, get: Get| {
        let _ = writeln!(out, "# TYPE {name} counter");
        for (l, v) in &all {
            let _ = writeln!(out, "{name}{{{l}}} {}", get(v));
        }
    };
    let success = |out: &mut String, name: &str, good: Get, bad: Get| {
        let _ = writeln!(out, "# TYPE {name} counter");
        for (l, v) in &all {
            let _ = writeln!(out, "{name}{{{l},success=\"true\"}} {}", good(v));
            let _ = writeln!(out, "{name}{{{l},success=\"false\"}} {}", bad(v));
        }
    };
    success(out, "weft_requests_total", good, bad);
    success(out, "weft_attempts_total", |v| v.attempts_succeeded, |v| v.attempts.saturating_sub(v.attempts_succeeded));
    let _ = writeln!(out, "# TYPE weft_requests_in_flight gauge");
    for (l, v) in &all {
        let _ = writeln!(out, "weft_requests_in_flight{{{l}}} {}", v.in_flight());
    }
    counter(out, "weft_retries_total", |v| v.retries);
    counter(out, "weft_retries_refused_total", |v| v.retries_refused);
    counter(out, "weft_mirrors_total", |v| v.mirrors);
    counter(out, "weft_mirrors_dropped_total", |v| v.mirrors_dropped);
    counter(out, "weft_received_bytes_total", |v| v.received);
    counter(out, "weft_sent_bytes_total", |v| v.sent);
    let _ = writeln!(out, "# TYPE weft_timeouts_total counter");
    for (l, v) in &all {
        let _ = writeln!(out, "weft_timeouts_total{{{l},timeout=\"request\"}} {}", v.timeouts);
        let _ = writeln!(out, "weft_timeouts_total{{{l},timeout=\"attempt\"}} {}", v.attempt_timeouts);
    }
    let _ = writeln!(out, "# TYPE weft_responses_total counter");
    for (l, v) in &all {
        for (class, n) in ["none", "1xx", "2xx", "3xx", "4xx", "5xx"].iter().zip(v.responses) {
            if n > 0 {
                let _ = writeln!(out, "weft_responses_total{{{l},class=\"{class}\"}} {n}");
            }
        }
    }
    let _ = writeln!(out, "# TYPE weft_failures_total counter");
    for (l, v) in &all {
        for (cause, n) in &v.causes {
            let _ = writeln!(out, "weft_failures_total{{{l},cause=\"{cause}\"}} {n}");
        }
    }
    let name = "weft_request_duration_seconds";
    let _ = writeln!(out, "# TYPE {name} histogram");
    for (l, v) in &all {
        for power in BUCKETS {
            let le = Duration::from_micros(1 << power);
            let _ = writeln!(out, "{name}_bucket{{{l},le=\"{}\"}} {}", le.as_secs_f64(), v.latency.below(le));
        }
        let count = v.latency.count();
        let _ = writeln!(out, "{name}_bucket{{{l},le=\"+Inf\"}} {count}");
        let _ = writeln!(out, "{name}_sum{{{l}}} {}", v.latency.sum_us as f64 / 1e6);
        let _ = writeln!(out, "{name}_count{{{l}}} {count}");
    }
    for (name, n) in s.totals.named() {
        let _ = writeln!(out, "# TYPE weft_engine_{name}_total counter\nweft_engine_{name}_total {n}");
    }
    let _ = writeln!(out, "# TYPE weft_limits_hit_total counter");
    for (limit, n) in &s.totals.limits {
        let _ = writeln!(out, "weft_limits_hit_total{{limit=\"{limit}\"}} {n}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use weft_core::{route::RouteRef, service::ServiceRef};
    use weft_relay::stats::Registry;

    #[test]
    fn one_series_in_text() {
        let registry = Registry::new();
        let mut shard = registry.shard();
        let service = |name: &str| ServiceRef { namespace: "shop".into(), name: name.into(), port: 80 };
        let route = RouteRef { kind: RouteKind::Http, namespace: "shop".into(), name: "r\"1".into(), created: 0 };
        let key =
            SeriesKey { parent: service("web"), route: Some(Arc::new(route)), rule: 2, backend: Some(service("v1")) };
        let s = shard.series(&key);
        s.requests.add(2);
        s.retries.add(3);
        s.attempts.add(5);
        s.attempts_succeeded.add(1);
        s.finish(200, Duration::from_millis(3));
        s.finish(503, Duration::from_secs(60));
        s.causes.add("no_endpoint", 1);
        let mut out = String::new();
        render(&registry.snapshot(), &mut out);
        let l = "parent=\"shop/web:80\",kind=\"HTTPRoute\",route=\"shop/r\\\"1\",rule=\"2\",backend=\"shop/v1:80\"";
        for line in [
            format!("weft_requests_total{{{l},success=\"true\"}} 1"),
            format!("weft_requests_total{{{l},success=\"false\"}} 1"),
            format!("weft_attempts_total{{{l},success=\"false\"}} 4"),
            format!("weft_requests_in_flight{{{l}}} 0"),
            format!("weft_responses_total{{{l},class=\"2xx\"}} 1"),
            format!("weft_responses_total{{{l},class=\"5xx\"}} 1"),
            format!("weft_failures_total{{{l},cause=\"no_endpoint\"}} 1"),
            format!("weft_request_duration_seconds_bucket{{{l},le=\"0.001024\"}} 0"),
            format!("weft_request_duration_seconds_bucket{{{l},le=\"0.004096\"}} 1"),
            format!("weft_request_duration_seconds_bucket{{{l},le=\"+Inf\"}} 2"),
            format!("weft_request_duration_seconds_count{{{l}}} 2"),
        ] {
            assert!(out.lines().any(|o| o == line), "{line} in {out}");
        }
        let mut types: Vec<_> = out.lines().filter(|l| l.starts_with("# TYPE")).collect();
        let n = types.len();
        types.dedup();
        assert_eq!(types.len(), n);
    }
}
