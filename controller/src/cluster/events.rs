//! Events for mistakes that no status says: on Services, Pods, Namespaces, on what cannot be read, and on routes that do what they say but hardly what was meant.

use crate::{
    check,
    facts::{EXCLUDE_INBOUND, EXCLUDE_OUTBOUND, INJECT_LABEL},
    metrics::Metrics,
    object::{Kind, Object, ObjectKey, Stored},
    source::kubernetes::Cluster,
    world::World,
};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use std::{collections::BTreeSet, time::Duration};
use tokio::time::Instant;
use weft_discovery::ResourceName;

/// Events that may be sent at once, and then one in each of [`REFILL`]: what a hundred objects have in common is told by the first few.
const BURST: u32 = 25;
const REFILL: Duration = Duration::from_secs(5);
/// Remarks that are remembered, so that each is said once.
const REMEMBERED: usize = 5_000;
/// `note`, by its schema.
const MAX_NOTE: usize = 1_000;

/// Something to say about an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Remark {
    pub key: ObjectKey,
    pub uid: String,
    pub reason: &'static str,
    pub note: String,
}

/// Everything that there is to say now.
pub fn remarks(world: &World, cluster: &Cluster) -> BTreeSet<Remark> {
    let mut out = BTreeSet::new();
    world.with_index(|index| {
        for (key, stored) in index.objects() {
            match &stored.object {
                Object::Service(service) => {
                    let Some(facts) = index.service(&key.name) else { continue };
                    for p in facts.ports.iter().filter(|p| p.declared().unknown) {
                        let said = p.app_protocol.as_deref().unwrap_or_default();
                        let ports = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
                        let mut tcp = ports.enumerate().filter(|(_, s)| s.protocol.as_deref().unwrap_or("TCP") == "TCP");
                        let place = tcp.find(|(_, s)| s.port == i32::from(p.port)).map_or(0, |(i, _)| i);
                        let note = format!(
                            "spec.ports[{}].appProtocol: {said:?} is not known, so the first bytes decide what is spoken (http, kubernetes.io/h2c, grpc, https or tcp)",
                            place
                        );
                        out.insert(remark(key, stored, "UnknownAppProtocol", note));
                    }
                }
                Object::Pod(_) | Object::Namespace(_) => {
                    let meta = stored.object.metadata();
                    for name in [EXCLUDE_INBOUND, EXCLUDE_OUTBOUND] {
                        let Some(text) = meta.annotations.as_ref().and_then(|a| a.get(name)) else { continue };
                        if let Err(e) = weft_init::lists::ports(text) {
                            let note = format!("metadata.annotations[{name}]: {e}");
                            out.insert(remark(key, stored, "InvalidAnnotation", note));
                        }
                    }
                    let label = meta.labels.as_ref().and_then(|l| l.get(INJECT_LABEL));
                    if let Some(value) = label.filter(|v| *v != "enabled" && *v != "disabled") {
                        let note = format!("metadata.labels[{INJECT_LABEL}]: {value:?} means nothing (enabled or disabled)");
                        out.insert(remark(key, stored, "InvalidLabel", note));
                    }
                }
                _ => {}
            }
        }
        for f in check::route_warnings(index) {
            let Some(key) = parse(&f.object) else { continue };
            let Some(stored) = index.get(&key) else { continue };
            let note = format!("{}: {} ({})", f.field, f.message, f.fix);
            out.insert(remark(&key, stored, reason(f.code), note));
        }
        for (workload, name, reason) in world.refusals() {
            if let ResourceName::Endpoints(s) = &name {
                let key = ObjectKey::new(Kind::Service, &s.namespace, &s.name);
                if let Some(stored) = index.get(&key) {
                    let note = format!("proxy {workload} keeps the endpoints from before: {reason}");
                    out.insert(remark(&key, stored, "RefusedByProxy", note));
                }
            }
        }
    });
    // an object that cannot be read has no status of ours
    for f in world.findings().borrow().iter().filter(|f| f.code == "field-invalid") {
        let Some(key) = parse(&f.object) else { continue };
        let uid = cluster.record(&key).map(|r| r.uid).unwrap_or_default();
        out.insert(Remark { key, uid, reason: "Unreadable", note: format!("{}: {} ({})", f.field, f.message, f.fix) });
    }
    out
}

/// The code of a finding as the reason of an Event.
fn reason(code: &str) -> &'static str {
    match code {
        "consumer-not-meshed" => "ConsumerNotMeshed",
        "no-backends" => "NoBackends",
        "weights-zero" => "WeightsZero",
        "retry-code-4xx" => "RetryOfClientError",
        "retry-not-idempotent" => "RetryNotIdempotent",
        "retry-exceeds-timeout" => "RetryExceedsTimeout",
        "backoff-exceeds-timeout" => "BackoffExceedsTimeout",
        _ => "Doubtful",
    }
}

fn remark(key: &ObjectKey, stored: &Stored, reason: &'static str, note: String) -> Remark {
    let uid = stored.object.metadata().uid.clone().unwrap_or_default();
    Remark { key: key.clone(), uid, reason, note }
}

/// The reverse of [`ObjectKey`]'s text.
fn parse(object: &str) -> Option<ObjectKey> {
    let (kind, name) = object.split_once(' ')?;
    let kind = *Kind::ALL.iter().find(|k| k.as_str() == kind)?;
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    Some(ObjectKey::new(kind, namespace, name))
}

/// Sends each remark once.
pub struct Teller {
    recorder: Recorder,
    said: BTreeSet<Remark>,
    tokens: u32,
    refilled: Instant,
}

impl Teller {
    pub fn new(client: Client, replica: &str) -> Self {
        let reporter = Reporter { controller: super::merge::CONTROLLER.into(), instance: Some(replica.into()) };
        Self {
            recorder: Recorder::new(client, reporter),
            said: BTreeSet::new(),
            tokens: BURST,
            refilled: Instant::now(),
        }
    }

    pub async fn tell(&mut self, now: BTreeSet<Remark>, metrics: &Metrics) {
        // what was corrected may be said again when it comes back
        self.said.retain(|r| now.contains(r));
        for r in now {
            if self.said.contains(&r) {
                continue;
            }
            let earned = (self.refilled.elapsed().as_secs() / REFILL.as_secs()) as u32;
            if earned > 0 {
                self.tokens = self.tokens.saturating_add(earned).min(BURST);
                self.refilled += REFILL * earned;
            }
            if self.tokens == 0 || self.said.len() >= REMEMBERED {
                metrics.event(false);
                continue;
            }
            self.tokens -= 1;
            let mut end = r.note.len().min(MAX_NOTE);
            while !r.note.is_char_boundary(end) {
                end -= 1;
            }
            let event = Event {
                type_: EventType::Warning,
                reason: r.reason.into(),
                note: Some(r.note[..end].into()),
                action: "Reading".into(),
                secondary: None,
            };
            let kind = r.key.kind;
            let version = if kind.group().is_empty() {
                kind.version().into()
            } else {
                format!("{}/{}", kind.group(), kind.version())
            };
            let about = ObjectReference {
                api_version: Some(version),
                kind: Some(kind.as_str().into()),
                name: Some(r.key.name.name.to_string()),
                namespace: Some(r.key.name.namespace.to_string()).filter(|n| !n.is_empty()),
                uid: Some(r.uid.clone()).filter(|u| !u.is_empty()),
                ..ObjectReference::default()
            };
            match self.recorder.publish(&event, &about).await {
                Ok(()) => metrics.event(true),
                Err(e) => {
                    tracing::debug!(object = %r.key, error = %e, "an Event cannot be sent");
                    metrics.event(false);
                }
            }
            self.said.insert(r);
        }
    }
}
