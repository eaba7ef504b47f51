//! What the controller counts of itself, as Prometheus reads it. Few series, and all of them named here: they grow with the kinds, never with
//! the objects.

use crate::object::Kind;
use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

#[derive(Debug, Default)]
struct OfKind {
    watches: AtomicI64,
    lists: AtomicU64,
    failures: AtomicU64,
}

/// How a write of a status ended.
#[derive(Clone, Copy, Debug)]
pub enum Written {
    Done,
    /// Somebody else wrote meanwhile.
    Conflict,
    Failed,
}

#[derive(Debug, Default)]
pub struct Metrics {
    kinds: [OfKind; Kind::ALL.len()],
    written: [AtomicU64; 3],
    queue: AtomicU64,
    leading: AtomicU64,
    events: AtomicU64,
    events_dropped: AtomicU64,
    judged: AtomicU64,
    judged_micros: AtomicU64,
}

/// What the index holds, and what taking updates in has cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    pub objects: usize,
    pub routes: usize,
    pub updates: u64,
    pub took: Duration,
}

/// Counts a watch for as long as it is held.
#[derive(Debug)]
pub struct Watching(Arc<Metrics>, Kind);
impl Drop for Watching {
    fn drop(&mut self) {
        self.0.kinds[self.1 as usize].watches.fetch_sub(1, Relaxed);
    }
}

impl Metrics {
    pub fn watching(self: &Arc<Self>, kind: Kind) -> Watching {
        self.kinds[kind as usize].watches.fetch_add(1, Relaxed);
        Watching(self.clone(), kind)
    }
    pub fn relisted(&self, kind: Kind) {
        self.kinds[kind as usize].lists.fetch_add(1, Relaxed);
    }
    pub fn watch_failed(&self, kind: Kind) {
        self.kinds[kind as usize].failures.fetch_add(1, Relaxed);
    }
    pub fn wrote(&self, how: Written) {
        self.written[how as usize].fetch_add(1, Relaxed);
    }
    pub fn written(&self, how: Written) -> u64 {
        self.written[how as usize].load(Relaxed)
    }
    pub fn queued(&self, n: usize) {
        self.queue.store(n as u64, Relaxed);
    }
    pub fn leads(&self, yes: bool) {
        self.leading.store(yes.into(), Relaxed);
    }
    pub fn event(&self, sent: bool) {
        if sent { &self.events } else { &self.events_dropped }.fetch_add(1, Relaxed);
    }
    /// Statuses were judged.
    pub fn judged(&self, took: Duration) {
        self.judged.fetch_add(1, Relaxed);
        self.judged_micros.fetch_add(took.as_micros() as u64, Relaxed);
    }

    /// As text, with what others know.
    pub fn render(&self, proxies: usize, index: Counted) -> String {
        let mut out = String::new();
        let head = |out: &mut String, name: &str, kind: &str, help: &str| {
            _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        };
        type Of = fn(&OfKind) -> i64;
        let kinds: [(&str, &str, &str, Of); 3] = [
            ("weft_controller_watches", "gauge", "Watches that are open or being opened.", |k| k.watches.load(Relaxed)),
            (
                "weft_controller_lists_total",
                "counter",
                "Lists of a kind: the first, and those after a watch was lost.",
                |k| k.lists.load(Relaxed) as i64,
            ),
            ("weft_controller_watch_failures_total", "counter", "Failures of lists and watches.", |k| {
                k.failures.load(Relaxed) as i64
            }),
        ];
        for (name, kind, help, value) in kinds {
            head(&mut out, name, kind, help);
            for (k, of) in Kind::ALL.iter().zip(&self.kinds).filter(|(_, of)| of.lists.load(Relaxed) > 0) {
                _ = writeln!(out, "{name}{{kind=\"{k}\"}} {}", value(of));
            }
        }
        let name = "weft_controller_status_writes_total";
        head(&mut out, name, "counter", "Writes of statuses by their end.");
        for (how, n) in ["done", "conflict", "failed"].iter().zip(&self.written) {
            _ = writeln!(out, "{name}{{result=\"{how}\"}} {}", n.load(Relaxed));
        }
        let name = "weft_controller_events_total";
        head(&mut out, name, "counter", "Events for objects without status.");
        _ = writeln!(out, "{name}{{result=\"sent\"}} {}", self.events.load(Relaxed));
        _ = writeln!(out, "{name}{{result=\"dropped\"}} {}", self.events_dropped.load(Relaxed));
        let seconds = |micros: &AtomicU64| micros.load(Relaxed) as f64 / 1e6;
        let plain: [(&str, &str, &str, f64); 9] = [
            (
                "weft_controller_leading",
                "gauge",
                "Whether this replica writes statuses.",
                self.leading.load(Relaxed) as f64,
            ),
            (
                "weft_controller_status_queue",
                "gauge",
                "Statuses that wait to be written.",
                self.queue.load(Relaxed) as f64,
            ),
            ("weft_controller_proxies", "gauge", "Proxies that follow discovery.", proxies as f64),
            ("weft_controller_objects", "gauge", "Objects in the index.", index.objects as f64),
            ("weft_controller_routes", "gauge", "Routes in the index.", index.routes as f64),
            ("weft_controller_index_updates_total", "counter", "Updates taken into the index.", index.updates as f64),
            ("weft_controller_index_seconds_total", "counter", "Time spent on that.", index.took.as_secs_f64()),
            (
                "weft_controller_judgements_total",
                "counter",
                "Rounds in which statuses were judged.",
                self.judged.load(Relaxed) as f64,
            ),
            ("weft_controller_judgement_seconds_total", "counter", "Time spent on that.", seconds(&self.judged_micros)),
        ];
        for (name, kind, help, value) in plain {
            head(&mut out, name, kind, help);
            _ = writeln!(out, "{name} {value}");
        }
        out
    }
}
