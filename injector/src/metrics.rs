//! What the injector counts. A dozen series, none of which grows with the cluster.

use crate::review::Outcome;
use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

const OUTCOMES: [(Outcome, &str); 5] = [
    (Outcome::Injected, "injected"),
    (Outcome::Left, "left"),
    (Outcome::Nothing, "nothing"),
    (Outcome::Denied, "denied"),
    (Outcome::NotReady, "not_ready"),
];

#[derive(Default)]
pub struct Metrics {
    reviews: [AtomicU64; 5],
    pub bad: AtomicU64,
    pub refused: AtomicU64,
    pub ca_bundle_repairs: AtomicU64,
    pub certificates: AtomicU64,
    /// Pods that should be meshed and are not, now.
    pub unmeshed: AtomicU64,
    micros: AtomicU64,
}

impl Metrics {
    pub fn answered(&self, outcome: Outcome, took: Duration) {
        let at = OUTCOMES.iter().position(|(o, _)| *o == outcome).unwrap_or(0);
        self.reviews[at].fetch_add(1, Relaxed);
        self.micros.fetch_add(took.as_micros() as u64, Relaxed);
    }

    /// In Prometheus' text format.
    pub fn text(&self) -> String {
        let mut t = String::new();
        let _ = writeln!(
            t,
            "# HELP weft_injector_reviews_total Pods that were judged, by what became of them.\n# TYPE weft_injector_reviews_total counter"
        );
        for ((_, name), n) in OUTCOMES.iter().zip(&self.reviews) {
            let _ = writeln!(t, "weft_injector_reviews_total{{outcome=\"{name}\"}} {}", n.load(Relaxed));
        }
        for (name, kind, help, n) in [
            ("weft_injector_bad_requests_total", "counter", "Bodies that were no AdmissionReview.", &self.bad),
            ("weft_injector_refused_total", "counter", "Requests beyond what is served at one time.", &self.refused),
            (
                "weft_injector_ca_bundle_repairs_total",
                "counter",
                "Times the webhook's caBundle was made true.",
                &self.ca_bundle_repairs,
            ),
            ("weft_injector_certificates_total", "counter", "Serving certificates that were made.", &self.certificates),
            ("weft_injector_unmeshed_pods", "gauge", "Running pods that should be meshed and are not.", &self.unmeshed),
        ] {
            let _ = writeln!(t, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {}", n.load(Relaxed));
        }
        let seconds = self.micros.load(Relaxed) as f64 / 1e6;
        let _ = writeln!(
            t,
            "# HELP weft_injector_review_seconds_total Time spent on reviews.\n# TYPE weft_injector_review_seconds_total counter\nweft_injector_review_seconds_total {seconds}"
        );
        t
    }
}
