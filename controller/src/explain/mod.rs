//! Why a request goes where it goes: the same compiled ports and the same matching as in a proxy, asked once and told in words.
//!
//! ```text
//! from, to -> captured? -> what does the address mean? -> whose routes? -> which rule, and why -> filters, shares, times, identities
//! ```

mod answer;
mod ask;
mod authorization;

pub use answer::*;
pub use ask::{AskError, Question};

use crate::{
    attach::{self, View},
    compile,
    index::Index,
    object::{Name, ObjectKey, Stored},
    source::folder::Folder,
    status::{self, Judge},
};
use ask::{Asked, Head};
use std::{cmp::Ordering, collections::BTreeSet, path::PathBuf, sync::Arc, time::Instant};
use weft_core::{
    backend::RequestPolicy,
    matches::{PathRank, Rank},
    path::RequestPath,
    policy::MeshTlsMode,
    retry::{BACKOFF_CAP, RetryPolicy, Timeouts, UNPROCESSED_RETRIES},
    route::{BackendRef, Routes, Rule, Step, StreamRule, WeightedBackend},
    service::{Protocol, ServicePort, ServiceRef, Target},
};

/// Matches that are listed before the one that won. More would hide it.
const LISTED: usize = 50;

/// Explains a request on the objects of folders.
pub fn explain_folder(folders: &[PathBuf], question: &Question) -> Result<Explanation, AskError> {
    let mut folder = Folder::new(folders.iter().cloned());
    let (update, _) = folder.load(&BTreeSet::new(), Instant::now());
    let mut index = Index::default();
    index.apply(&update);
    explain(&index, question)
}

/// Explains a request. Errors: the question names something that is not there.
pub fn explain(index: &Index, question: &Question) -> Result<Explanation, AskError> {
    let asked = ask::resolve(index, question)?;
    let mut out = Explanation {
        from: Caller {
            namespace: asked.namespace.to_string(),
            pod: asked.pod.as_ref().map(|p| p.name.name.to_string()),
            meshed: asked.pod.as_ref().map_or_else(|| index.namespace_meshed(&asked.namespace), |p| index.meshed(p)),
            identity: asked.pod.as_ref().and_then(|p| index.identity(p)).map(|i| i.to_string()),
        },
        dialled: asked.address.map_or_else(|| asked.named.clone(), |a| a.to_string()),
        ..Explanation::default()
    };
    let target = match (&asked.service, asked.address) {
        (Some(service), _) => Target::Service(service.clone()),
        (None, Some(address)) => compile::lookup(index, address),
        (None, None) => Target::Outside,
    };
    if let Some(reason) = not_captured(&asked, &out.from) {
        out.captured = Captured { yes: false, because: reason };
        out.outcome = Outcome {
            status: None,
            text: "Kubernetes' own forwarding; no route, no retry and no mutual TLS on the caller's side".into(),
        };
        out.target = describe(&target);
        return Ok(out);
    }
    out.captured = Captured { yes: true, because: "the caller has a sidecar".into() };
    out.target = describe(&target);
    match target {
        Target::Outside => {
            out.outcome =
                Outcome { status: None, text: "forwarded to that address as it is: nothing the mesh knows".into() };
        }
        Target::Workload(e) => {
            out.outcome = Outcome {
                status: None,
                text: "to the pod itself: no Service's routes apply to its own address".into(),
            };
            out.tls = vec![match &e.mesh {
                Some(m) => format!("mutual TLS to {} (pod {}, UID {})", m.identity, e.workload, m.uid),
                None => format!("plain text: pod {} is not in the mesh", e.workload),
            }];
        }
        Target::Service(service) => of_service(index, &asked, &service, question, &mut out),
    }
    Ok(out)
}

fn not_captured(asked: &Asked, from: &Caller) -> Option<String> {
    if !from.meshed {
        let who = from.pod.as_ref().map_or_else(|| format!("namespace {}", from.namespace), |p| format!("pod {p}"));
        return Some(format!("{who} is not in the mesh (label weft.dev/inject: enabled)"));
    }
    let excluded = asked.pod.as_ref().is_some_and(|p| p.excluded_outbound.contains(&asked.port));
    excluded.then(|| format!("the annotation {} takes port {} out", crate::facts::EXCLUDE_OUTBOUND, asked.port))
}

fn describe(target: &Target) -> TargetText {
    match target {
        Target::Service(s) => TargetText { kind: "Service", name: s.to_string() },
        Target::Workload(e) => TargetText { kind: "workload", name: e.workload.to_string() },
        Target::Outside => TargetText { kind: "outside", name: String::new() },
    }
}

fn of_service(index: &Index, asked: &Asked, service: &ServiceRef, question: &Question, out: &mut Explanation) {
    let name = Name { namespace: service.namespace.clone(), name: service.name.clone() };
    let Some((_, facts)) = attach::facts(index, &name, service.port) else { return };
    let compiled = |k: &ObjectKey, s: &Stored| Arc::new(compile::route(index, k, s, &name, Some(facts)));
    let view = attach::view(index, &name, service.port, &asked.namespace, |k, s| compiled(k, s).is_usable());
    let Some(port) = compile::service_port(index, service, &view, &compiled) else { return };
    out.view = match &view {
        View::Producer => ViewText {
            routes: "producer",
            namespace: name.namespace.to_string(),
            because: format!("{} has no routes of its own for {service}", asked.namespace),
        },
        View::Consumer(n) => ViewText {
            routes: "consumer",
            namespace: n.to_string(),
            because: format!("{n} has routes of its own for {service}; they replace those of {}", name.namespace),
        },
    };
    if *asked.namespace == *name.namespace {
        out.view.because = "caller and Service are in one namespace".into();
    }
    out.routes = attached(index, &name, service.port, &view);
    let declared = facts.declared();
    out.protocol = ProtocolText {
        name: match port.protocol {
            Protocol::Detect => "detected from the first bytes",
            Protocol::Http => "HTTP",
            Protocol::Http2 => "HTTP, spoken to the application as HTTP/2",
            Protocol::Tls => "the application's own TLS",
            Protocol::Opaque => "bytes",
        },
        because: match (&port.routes, &facts.app_protocol, &facts.name) {
            (Routes::Http(_) | Routes::Stream(_), ..) => "by the kind of the attached routes".into(),
            (_, Some(p), _) => {
                format!("appProtocol: {p}{}", if declared.unknown { ", which is not known" } else { "" })
            }
            (_, None, Some(n)) if declared.protocol != Protocol::Detect => format!("by the port's name, {n}"),
            _ => "nothing is declared".into(),
        },
    };
    match &port.routes {
        Routes::None => {
            out.outcome =
                Outcome { status: None, text: format!("no route applies: forwarded to an endpoint of {service}") };
            out.backends = vec![share(index, &BackendRef::Service(service.clone()), 1, 1)];
            if port.requests != RequestPolicy::default() {
                out.timing = timing(&port.requests.timeouts, port.requests.retry.as_ref());
            }
        }
        Routes::Http(table) => http(index, table, question, &port, out),
        Routes::Stream(rules) => stream(index, rules, question, out),
    }
    tls(index, asked, question, &port, out);
}

fn attached(index: &Index, service: &Name, port: u16, view: &View) -> Vec<RouteText> {
    let judge = Judge::new(index);
    let group = judge.group(service, port, view);
    let mut routes: Vec<RouteText> = Vec::new();
    for key in index.routes_on(service) {
        let Some(stored) = index.get(key) else { continue };
        let report = judge.report(key, stored);
        let of_service = format!("Service {service}");
        let bad = report.parents.iter().filter(|p| p.parent.starts_with(&of_service)).find_map(|p| {
            p.condition("Accepted").filter(|c| !c.status).map(|c| format!("{}: {}", c.reason, c.message))
        });
        let because = if group.routes.contains(key) {
            "applies".to_owned()
        } else if let Some(bad) = bad {
            bad
        } else if key.name.namespace != service.namespace && status::view_of(key, service) != *view {
            format!("a consumer route, for callers in {}", key.name.namespace)
        } else if status::view_of(key, service) != *view {
            "a producer route, replaced by the caller's own".to_owned()
        } else {
            format!("attached to another port than {port}")
        };
        routes.push(RouteText { route: key.to_string(), applies: group.routes.contains(key), because });
    }
    routes.sort_by_key(|r| !r.applies);
    routes
}

fn http(
    index: &Index,
    table: &weft_core::route::HttpTable,
    question: &Question,
    port: &ServicePort,
    out: &mut Explanation,
) {
    let head = Head::of(question, port);
    let target = head.target.clone();
    let path = match RequestPath::parse(target.as_bytes()) {
        Ok(path) => path,
        Err(e) => {
            out.outcome = Outcome { status: Some(400), text: format!("the sidecar refuses the path: {e}") };
            return;
        }
    };
    let steps: Vec<Step<'_>> = table.steps(&head, &path).collect();
    let won = steps.iter().position(|s| s.miss.is_none());
    out.considered = steps.iter().take(won.map_or(LISTED, |w| w + 1)).map(considered).collect();
    if out.considered.len() > LISTED {
        out.considered.drain(..out.considered.len() - LISTED);
    }
    let Some(step) = won.and_then(|w| steps.get(w)) else {
        let status = if table.is_grpc() { 200 } else { 404 };
        let text = if table.is_grpc() {
            "no rule matches: gRPC status UNIMPLEMENTED (12) from the caller's sidecar"
        } else {
            "no rule matches: 404 from the caller's sidecar"
        };
        out.outcome = Outcome { status: Some(status), text: text.into() };
        return;
    };
    let second = steps.iter().skip(won.unwrap_or_default() + 1).find(|s| s.miss.is_none());
    let rule = step.rule;
    out.rule = Some(RuleText {
        route: route_name(rule),
        rule: rule_name(rule),
        place: rule.index,
        matched: answer::match_text(rule, step.match_index),
        because: second.map_or_else(|| "it is the only one that matches".into(), |s| why(step, s)),
    });
    out.filters = answer::filter_texts(&rule.filters, "");
    for b in &rule.backends {
        let of = match &b.backend {
            BackendRef::Service(s) => format!("to {s}: "),
            BackendRef::Invalid(_) => continue,
        };
        out.filters.extend(answer::filter_texts(&b.filters, &of));
    }
    out.timing = timing(&rule.timeouts, rule.retry.as_ref());
    out.backends = shares(index, &rule.backends);
    out.outcome = if let Some(text) = &rule.filters.unsupported {
        Outcome { status: Some(500), text: format!("500 from the caller's sidecar: {text}") }
    } else if let Some(r) = &rule.filters.redirect {
        Outcome {
            status: Some(r.status),
            text: format!("answered by the caller's sidecar with a redirect, {}", r.status),
        }
    } else {
        delivered(&rule.backends, &out.backends)
    };
}

/// What becomes of a request that goes to backends.
fn delivered(backends: &[WeightedBackend], shares: &[BackendText]) -> Outcome {
    let total: u64 = backends.iter().map(|b| u64::from(b.weight)).sum();
    if total == 0 {
        let text = if backends.is_empty() { "500: the rule has no backends" } else { "500: all weights are 0" };
        return Outcome { status: Some(500), text: text.into() };
    }
    let bad: f64 = shares.iter().filter(|s| s.problem.is_some()).map(|s| s.percent).sum();
    let empty: f64 = shares
        .iter()
        .filter(|s| s.problem.is_none() && s.ready == 0 && s.would_run.is_empty())
        .map(|s| s.percent)
        .sum();
    let mut parts = vec!["forwarded to a backend, drawn by weight".to_owned()];
    if bad > 0.0 {
        parts.push(format!("{bad:.1} % of the requests get 500 (backend invalid)"));
    }
    if empty > 0.0 {
        parts.push(format!("{empty:.1} % get 503 (no endpoint ready)"));
    }
    let status = match (bad >= 99.95, empty >= 99.95) {
        (true, _) => Some(500),
        (_, true) => Some(503),
        _ => None,
    };
    Outcome { status, text: parts.join("; ") }
}

fn stream(index: &Index, rules: &[StreamRule], question: &Question, out: &mut Explanation) {
    let sni = question.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case("sni")).map(|(_, v)| v.as_str());
    match weft_core::route::stream_rule(rules, sni) {
        None => {
            out.outcome =
                Outcome { status: None, text: "no rule takes this server name: the connection is closed".into() }
        }
        Some(rule) => {
            let hostnames = if rule.hostnames.is_empty() {
                "every connection".into()
            } else {
                format!("server names {}", rule.hostnames.join(", "))
            };
            let kind = if rule.hostnames.is_empty() { "TCPRoute" } else { "TLSRoute" };
            let route = format!("{kind} {}/{}", rule.route.namespace, rule.route.name);
            out.rule = Some(RuleText {
                route,
                rule: "0".into(),
                place: 0,
                matched: hostnames,
                because: "it is the first that matches".into(),
            });
            out.backends = shares(index, &rule.backends);
            out.outcome = delivered(&rule.backends, &out.backends);
        }
    }
}

fn shares(index: &Index, backends: &[WeightedBackend]) -> Vec<BackendText> {
    let total: u64 = backends.iter().map(|b| u64::from(b.weight)).sum();
    backends.iter().map(|b| share(index, &b.backend, b.weight, total)).collect()
}

fn share(index: &Index, backend: &BackendRef, weight: u32, total: u64) -> BackendText {
    let percent = if total == 0 { 0.0 } else { f64::from(weight) * 100.0 / total as f64 };
    match backend {
        BackendRef::Invalid(e) => BackendText {
            name: "invalid".into(),
            weight,
            percent,
            problem: Some(e.to_string()),
            ..BackendText::default()
        },
        BackendRef::Service(s) => {
            let e = compile::endpoints(index, s, None);
            let all = e.iter().flat_map(|e| &e.endpoints);
            let endpoints = all.map(|e| EndpointText {
                address: e.address.to_string(),
                workload: e.workload.to_string(),
                identity: e.mesh.as_ref().map(|m| m.identity.to_string()),
                zone: e.zone.as_ref().map(ToString::to_string),
                terminating: e.terminating,
            });
            let endpoints: Vec<_> = endpoints.collect();
            let would_run = if endpoints.is_empty() { workloads_of(index, s) } else { Vec::new() };
            let (ready, not_ready) = (endpoints.len(), e.map_or(0, |e| e.not_ready));
            BackendText { name: s.to_string(), weight, percent, ready, not_ready, endpoints, would_run, problem: None }
        }
    }
}

/// The Deployments and their like whose pods a Service would select.
fn workloads_of(index: &Index, service: &ServiceRef) -> Vec<String> {
    let name = Name { namespace: service.namespace.clone(), name: service.name.clone() };
    let Some(facts) = index.service(&name) else { return Vec::new() };
    let templates = index.objects().filter_map(|(_, s)| crate::check::template(s));
    let selected = templates.filter(|t| !t.at.is_empty() && t.selected_by(facts));
    let mut names: Vec<String> = selected.map(|t| t.stored.object.key().to_string()).collect();
    names.sort();
    names
}

fn tls(index: &Index, asked: &Asked, question: &Question, port: &ServicePort, out: &mut Explanation) {
    let mut lines: Vec<String> = Vec::new();
    let caller = out.from.identity.clone().unwrap_or_else(|| {
        format!("the caller (spiffe://{}/ns/{}/sa/...)", index.mesh.trust_domain, out.from.namespace)
    });
    for e in out.backends.iter().flat_map(|b| &b.endpoints) {
        let line = match &e.identity {
            Some(identity) => format!("{caller} <-> {identity}: mutual TLS 1.3"),
            None => format!("{} ({}) is not in the mesh: plain text", e.workload, e.address),
        };
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    out.tls = lines;
    let pods = out.backends.iter().flat_map(|b| &b.endpoints).filter(|e| e.identity.is_some());
    let pods = pods.filter_map(|e| {
        let address: std::net::SocketAddr = e.address.parse().ok()?;
        Some((index.pod_by_ip(address.ip())?, address.port()))
    });
    let mut accepts: Vec<String> = pods
        .flat_map(|(p, at)| [Some(inbound(index, p)), authorization::line(index, asked, question, port, p, at)])
        .flatten()
        .collect();
    accepts.sort();
    accepts.dedup();
    out.inbound = accepts;
}

/// What a meshed workload takes besides mutual TLS.
fn inbound(index: &Index, pod: &crate::facts::PodFacts) -> String {
    let (mode, policy) = compile::mesh_tls(index, pod);
    let by = policy.map_or_else(|| "no MeshTLSPolicy".to_owned(), |p| p.object.key().to_string());
    let who = format!("{}/{}", pod.name.namespace, pod.service_account);
    match mode {
        MeshTlsMode::Strict => format!("{who}: mutual TLS of the mesh only ({by})"),
        MeshTlsMode::Permissive => format!("{who}: mutual TLS, and plain text from outside the mesh ({by})"),
    }
}

fn considered(s: &Step<'_>) -> Considered {
    Considered {
        route: route_name(s.rule),
        rule: rule_name(s.rule),
        matched: answer::match_text(s.rule, s.match_index),
        miss: s.miss.as_ref().map(ToString::to_string),
    }
}

fn route_name(rule: &Rule) -> String {
    let kind = match rule.route.kind {
        weft_core::route::RouteKind::Grpc => "GRPCRoute",
        _ => "HTTPRoute",
    };
    format!("{kind} {}/{}", rule.route.namespace, rule.route.name)
}
fn rule_name(rule: &Rule) -> String {
    rule.name.as_deref().map_or_else(|| rule.index.to_string(), str::to_owned)
}

/// Which rule of precedence decided between two matches that both hold.
fn why(won: &Step<'_>, lost: &Step<'_>) -> String {
    let over = format!("wins over {} rule {}", route_name(lost.rule), rule_name(lost.rule));
    let rank =
        |s: &Step<'_>| weft_core::route::Matched { rule: s.rule, match_index: s.match_index, prefix: None }.rank();
    let reason = match (rank(won), rank(lost)) {
        (Rank::Http(a), Rank::Http(b)) if a != b => {
            if a.path != b.path {
                match (a.path, b.path) {
                    (PathRank::Exact, _) => "an exact path comes first",
                    (PathRank::Regex(_), PathRank::Prefix(_)) => "a regular expression comes before a prefix",
                    (PathRank::Prefix(_), _) => "the longer prefix comes first",
                    _ => "the longer regular expression comes first",
                }
            } else if a.method != b.method {
                "it matches the method, too"
            } else if a.headers != b.headers {
                "it matches more headers"
            } else {
                "it matches more query parameters"
            }
        }
        (Rank::Grpc(a), Rank::Grpc(b)) if a != b => {
            if a.service != b.service {
                "its service is more specific"
            } else if a.method != b.method {
                "its method is more specific"
            } else {
                "it matches more headers"
            }
        }
        _ if won.rule.route == lost.rule.route => "it comes earlier in the route",
        _ if won.rule.route.created != lost.rule.route.created => "its route is older",
        _ if won.rule.route.precedence(&lost.rule.route) == Ordering::Less => {
            "its route's name comes first in the alphabet"
        }
        _ => "it comes first",
    };
    format!("{over}: {reason}")
}

/// Timeouts and retries, and what they add up to.
fn timing(timeouts: &Timeouts, policy: Option<&RetryPolicy>) -> TimingText {
    let (request, backend) = (timeouts.request, timeouts.backend_request);
    let attempts = policy.map_or(UNPROCESSED_RETRIES, |p| p.attempts);
    let base = policy.map_or(weft_core::retry::DEFAULT_BACKOFF, |p| p.backoff);
    let waits: std::time::Duration =
        (1..=attempts).map(|n| base * 1u32.checked_shl(n - 1).unwrap_or(u32::MAX).clamp(1, BACKOFF_CAP)).sum();
    let retries = match policy {
        None => format!(
            "no retry is configured: only requests that were certainly not processed are tried again, {attempts} times at most"
        ),
        Some(p) if p.attempts == 0 => "attempts: 0 forbids every retry".into(),
        Some(p) => {
            let mut on = vec!["requests that were certainly not processed".to_owned()];
            if backend.is_some() {
                on.push("tries that reach timeouts.backendRequest".into());
            }
            if !p.codes.is_empty() {
                on.push(format!("status {}", p.codes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")));
            }
            if !p.grpc_codes.is_empty() {
                on.push(format!(
                    "gRPC status {}",
                    p.grpc_codes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
                ));
            }
            format!(
                "up to {} more tries after {}; waits of up to {base:?}, doubling, before them",
                p.attempts,
                on.join(", ")
            )
        }
    };
    let tries = backend.map(|b| b * (attempts + 1) + waits);
    let worst = match (request, tries) {
        (Some(r), Some(t)) if t < r => format!(
            "{t:?}: {} tries of {:?} and waits of {waits:?}; timeouts.request ({r:?}) is not reached",
            attempts + 1,
            backend.unwrap_or_default()
        ),
        (Some(r), Some(t)) => format!("{r:?}: timeouts.request ends it (the tries alone would take {t:?})"),
        (Some(r), None) => format!("{r:?}: timeouts.request ends it"),
        (None, Some(t)) => {
            format!("{t:?}: {} tries of {:?} and waits of {waits:?}", attempts + 1, backend.unwrap_or_default())
        }
        (None, None) => "no bound: neither timeouts.request nor timeouts.backendRequest is set".into(),
    };
    let text = |d: Option<std::time::Duration>| d.map_or_else(|| "none".into(), |d| format!("{d:?}"));
    TimingText { request: text(request), backend_request: text(backend), retries, worst_case: worst }
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
