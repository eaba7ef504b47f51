//! The answer, as data and as text.

use serde::Serialize;
use std::fmt;
use weft_core::{
    filter::{Filters, PathModifier},
    matches::{NamedMatch, PathMatch, ValueMatch},
    route::{BackendRef, Rule, RuleMatches},
};

/// Everything there is to say about a request.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Explanation {
    pub from: Caller,
    /// The address, if there is one, else the name.
    pub dialled: String,
    pub captured: Captured,
    pub target: TargetText,
    pub protocol: ProtocolText,
    pub view: ViewText,
    /// Every route that names the Service as its parent, those that apply first.
    pub routes: Vec<RouteText>,
    /// Matches in the order of precedence, up to the one that won.
    pub considered: Vec<Considered>,
    pub rule: Option<RuleText>,
    pub filters: Vec<String>,
    pub backends: Vec<BackendText>,
    pub timing: TimingText,
    pub tls: Vec<String>,
    /// What the workloads behind it accept, and by which policy.
    pub inbound: Vec<String>,
    pub outcome: Outcome,
}
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Caller {
    pub namespace: String,
    pub pod: Option<String>,
    pub meshed: bool,
    pub identity: Option<String>,
}
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Captured {
    pub yes: bool,
    pub because: String,
}
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TargetText {
    /// `Service`, `workload` or `outside`.
    pub kind: &'static str,
    pub name: String,
}
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ProtocolText {
    pub name: &'static str,
    pub because: String,
}
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ViewText {
    /// `producer` or `consumer`.
    pub routes: &'static str,
    pub namespace: String,
    pub because: String,
}
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RouteText {
    pub route: String,
    pub applies: bool,
    pub because: String,
}
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Considered {
    pub route: String,
    pub rule: String,
    #[serde(rename = "match")]
    pub matched: String,
    /// What the request did not meet.
    pub miss: Option<String>,
}
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RuleText {
    pub route: String,
    /// Name, or place.
    pub rule: String,
    pub place: u32,
    #[serde(rename = "match")]
    pub matched: String,
    pub because: String,
}
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct BackendText {
    pub name: String,
    pub weight: u32,
    pub percent: f64,
    pub ready: usize,
    pub not_ready: u32,
    pub endpoints: Vec<EndpointText>,
    /// Workloads whose pods would be endpoints: files often have no pods.
    pub would_run: Vec<String>,
    pub problem: Option<String>,
}
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct EndpointText {
    pub address: String,
    pub workload: String,
    /// `None`: plain text.
    pub identity: Option<String>,
    pub zone: Option<String>,
    pub terminating: bool,
}
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TimingText {
    pub request: String,
    pub backend_request: String,
    pub retries: String,
    pub worst_case: String,
}
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Outcome {
    /// When the answer is certain before a backend is asked.
    pub status: Option<u16>,
    pub text: String,
}

/// One match in words.
pub(super) fn match_text(rule: &Rule, index: usize) -> String {
    let mut parts = Vec::new();
    let value = |v: &ValueMatch| match v {
        ValueMatch::Exact(s) => format!("= {s:?}"),
        ValueMatch::Regex(p) => format!("~ {:?}", p.source()),
    };
    let named = |kind: &str, all: &[NamedMatch]| {
        all.iter().map(|m| format!("{kind} {} {}", m.name, value(&m.value))).collect::<Vec<_>>()
    };
    match &rule.matches {
        RuleMatches::Http(all) => {
            let Some(m) = all.get(index) else { return "everything".into() };
            match &m.path {
                PathMatch::Exact(p) => parts.push(format!("path = {p}")),
                PathMatch::Prefix(p) if &**p == "/" => {}
                PathMatch::Prefix(p) => parts.push(format!("path below {p}")),
                PathMatch::Regex(p) => parts.push(format!("path ~ {:?}", p.source())),
            }
            parts.extend(m.method.iter().map(|m| format!("method {m}")));
            parts.extend(named("header", &m.headers));
            parts.extend(named("query", &m.query));
        }
        RuleMatches::Grpc(all) => {
            let Some(m) = all.get(index) else { return "everything".into() };
            parts.extend(m.service.iter().map(|s| format!("service {}", value(s))));
            parts.extend(m.method.iter().map(|s| format!("method {}", value(s))));
            parts.extend(named("header", &m.headers));
        }
    }
    if parts.is_empty() { "everything".into() } else { parts.join(", ") }
}

/// Filters in words, in the order in which they work.
pub(super) fn filter_texts(f: &Filters, before: &str) -> Vec<String> {
    let mut out = Vec::new();
    let path = |p: &PathModifier| match p {
        PathModifier::ReplaceFullPath(p) => format!("path becomes {p}"),
        PathModifier::ReplacePrefixMatch(p) => format!("the matched prefix becomes {p}"),
    };
    for (what, m) in [("request", &f.request_headers), ("response", &f.response_headers)] {
        let Some(m) = m else { continue };
        out.extend(m.remove.iter().map(|n| format!("{what} header {n} is removed")));
        out.extend(m.set.iter().map(|(n, v)| format!("{what} header {n} is set to {v:?}")));
        out.extend(m.add.iter().map(|(n, v)| format!("{what} header {n} gets {v:?} added")));
    }
    if let Some(r) = &f.rewrite {
        out.extend(r.hostname.iter().map(|h| format!("host becomes {h}")));
        out.extend(r.path.iter().map(path));
    }
    if let Some(r) = &f.redirect {
        let mut to: Vec<String> = Vec::new();
        to.extend(r.scheme.iter().map(|s| format!("scheme {s}")));
        to.extend(r.hostname.iter().map(|s| format!("host {s}")));
        to.extend(r.port.iter().map(|s| format!("port {s}")));
        to.extend(r.path.iter().map(path));
        out.push(format!("redirect {} ({})", r.status, to.join(", ")));
    }
    for m in &f.mirrors {
        let to = match &m.backend {
            BackendRef::Service(s) => s.to_string(),
            BackendRef::Invalid(e) => format!("nowhere: {e}"),
        };
        out.push(format!("{} of {} requests are mirrored to {to}", m.numerator, m.denominator));
    }
    if let Some(c) = &f.cors {
        out.push(format!("CORS for {}", c.allow_origins.join(", ")));
    }
    out.extend(f.unsupported.iter().map(|u| format!("not supported, so requests fail: {u}")));
    out.iter().map(|line| format!("{before}{line}")).collect()
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = self
            .from
            .pod
            .as_ref()
            .map_or_else(|| format!("namespace {}", self.from.namespace), |p| format!("{}/{p}", self.from.namespace));
        writeln!(f, "{who} -> {}", self.dialled)?;
        let mut line = |title: &str, text: &str| writeln!(f, "  {title:<10} {text}");
        line("captured", &format!("{}: {}", if self.captured.yes { "yes" } else { "no" }, self.captured.because))?;
        match self.target.kind {
            "outside" => line("target", "outside the mesh")?,
            kind => line("target", &format!("{kind} {}", self.target.name))?,
        }
        if !self.view.routes.is_empty() {
            line("protocol", &format!("{} ({})", self.protocol.name, self.protocol.because))?;
            line("routes of", &format!("{} ({}): {}", self.view.namespace, self.view.routes, self.view.because))?;
        }
        for r in &self.routes {
            line(
                "",
                &format!(
                    "{} {}{}",
                    if r.applies { "+" } else { "-" },
                    r.route,
                    if r.applies { String::new() } else { format!(": {}", r.because) }
                ),
            )?;
        }
        for c in &self.considered {
            let held = c.miss.as_ref().map_or_else(|| "matches".to_owned(), |m| format!("no: {m}"));
            line("match", &format!("{} rule {} ({}): {held}", c.route, c.rule, c.matched))?;
        }
        if let Some(r) = &self.rule {
            line("rule", &format!("{} rule {}: {}", r.route, r.rule, r.because))?;
        }
        for text in &self.filters {
            line("filter", text)?;
        }
        for b in &self.backends {
            let counted = || match b.ready == 0 && !b.would_run.is_empty() {
                true => format!("no pods in these objects; {} would run them", b.would_run.join(", ")),
                false => format!("{} ready, {} not", b.ready, b.not_ready),
            };
            let state = b.problem.clone().unwrap_or_else(counted);
            line("backend", &format!("{:5.1} % {} ({state})", b.percent, b.name))?;
        }
        if !self.timing.retries.is_empty() {
            line("timeouts", &format!("request {}, each try {}", self.timing.request, self.timing.backend_request))?;
            line("retries", &self.timing.retries)?;
            line("at worst", &self.timing.worst_case)?;
        }
        for text in &self.tls {
            line("identity", text)?;
        }
        for text in &self.inbound {
            line("accepts", text)?;
        }
        line("outcome", &self.outcome.text)
    }
}
