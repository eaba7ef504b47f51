//! What the injector knows of the cluster and keeps true in it.
//!
//! ```text
//! watch: namespaces (labels, annotations), ConfigMap weft-trust-bundle     look every 5 s: Secret weft-injector-tls -> own TLS, caBundle of the webhook's configuration
//! every minute, by the holder of the Lease: running pods that are labelled, or whose namespace is, without sidecar -> an Event on each, a metric
//! ```
//!
//! Nothing here is on the way of an answer: an API server that is slow or away leaves the last state in force.

use crate::{certificate::Pair, inject, knobs, serve::Shared};
use futures_util::{StreamExt as _, pin_mut};
use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::MutatingWebhookConfiguration,
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{ConfigMap, Namespace, Pod, Secret},
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client, Resource as _, ResourceExt as _,
    api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams},
    runtime::{
        WatchStreamExt as _,
        events::{Event, EventType, Recorder, Reporter},
        watcher,
    },
};
use rustls::ServerConfig;
use serde_json::json;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use time::OffsetDateTime;
use tokio::{sync::watch, time::sleep};

const SECRET: &str = "weft-injector-tls";
const WEBHOOK: &str = "weft-injector";
const BUNDLE: &str = "weft-trust-bundle";
/// Seconds of one watch, as the controller's: a connection that only we believe in is given up soon after.
const WATCH: u32 = 20;
/// Row 62 asks for a repair within 10 s.
const LOOK: Duration = Duration::from_secs(5);
const REPORT: Duration = Duration::from_secs(60);
/// Events of one pass; the rest are in the metric.
const EVENTS: usize = 50;
/// Pods on a page of a list.
const PAGE: u32 = 500;

/// Keeps what is known of namespaces.
pub async fn namespaces(client: Client, shared: Arc<Shared>) {
    let stream =
        watcher::watcher(Api::<Namespace>::all(client), watcher::Config::default().timeout(WATCH)).default_backoff();
    pin_mut!(stream);
    let known = |n: &Namespace| {
        let copy = |m: &BTreeMap<String, String>| {
            m.iter()
                .filter(|(k, _)| k.starts_with("weft.dev/") || *k == "kubernetes.io/metadata.name")
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect()
        };
        (copy(n.labels()), copy(n.annotations()))
    };
    let mut listing = HashMap::new();
    while let Some(event) = stream.next().await {
        let lock = || shared.namespaces.write().unwrap_or_else(|e| e.into_inner());
        match event {
            Ok(watcher::Event::Apply(n)) => _ = lock().insert(n.name_any(), known(&n)),
            Ok(watcher::Event::Delete(n)) => _ = lock().remove(&n.name_any()),
            Ok(watcher::Event::Init) => listing.clear(),
            Ok(watcher::Event::InitApply(n)) => _ = listing.insert(n.name_any(), known(&n)),
            Ok(watcher::Event::InitDone) => *lock() = std::mem::take(&mut listing),
            Err(error) => tracing::warn!(%error, "namespaces are not watched; what was known stays"),
        }
    }
}

/// Keeps the trust bundle. One that is deleted, empty or of another trust domain leaves the last one in force: pods that start with it are told of newer ones by the controller.
pub async fn bundle(client: Client, namespace: &str, trust_domain: &str, tell: watch::Sender<Option<Arc<str>>>) {
    let config = watcher::Config::default().timeout(WATCH).fields(&format!("metadata.name={BUNDLE}"));
    let stream =
        watcher::watcher(Api::<ConfigMap>::namespaced(client, namespace), config).default_backoff().applied_objects();
    pin_mut!(stream);
    while let Some(event) = stream.next().await {
        match event {
            Ok(map) => {
                let pem = map.data.as_ref().and_then(|d| d.get("bundle.pem"));
                match pem.map(|p| (p, weft_identity::Bundle::from_pem(p, Some(trust_domain)))) {
                    Some((pem, Ok(bundle))) => {
                        tracing::info!(version = bundle.version(), "trust bundle");
                        tell.send_replace(Some(pem.as_str().into()));
                    }
                    Some((_, Err(error))) => {
                        tracing::error!(%error, "ConfigMap {namespace}/{BUNDLE}: bundle.pem; the last bundle stays in force");
                    }
                    None => tracing::error!(
                        "ConfigMap {namespace}/{BUNDLE} has no bundle.pem; the last bundle stays in force"
                    ),
                }
            }
            Err(error) => tracing::warn!(%error, "the trust bundle is not watched; what was known stays"),
        }
    }
}

/// Keeps the serving certificate and the webhook's caBundle.
pub async fn serving(
    client: Client,
    namespace: &str,
    shared: Arc<Shared>,
    tell: watch::Sender<Option<Arc<ServerConfig>>>,
) {
    let mut current: Option<Pair> = None;
    loop {
        // read before the Secret, and patched as read: of two injectors the one that saw an older Secret is refused, so that they never take turns
        let configuration = match Api::all(client.clone()).get_opt(WEBHOOK).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "MutatingWebhookConfiguration {WEBHOOK} cannot be read; the caBundle is not kept");
                None
            }
        };
        match certificate(&client, namespace, &shared).await {
            Ok(pair) => {
                // the authority is made known before what it signed is served
                if let Some(found) = configuration
                    && let Err(error) = ca_bundle(&client, &found, &pair, &shared).await
                {
                    tracing::warn!(%error, "MutatingWebhookConfiguration {WEBHOOK}: the caBundle is not kept");
                }
                if current.as_ref() != Some(&pair) {
                    match pair.server() {
                        Ok(config) => {
                            tell.send_replace(Some(config));
                            current = Some(pair);
                        }
                        Err(error) => {
                            tracing::error!(%error, "Secret {namespace}/{SECRET} cannot be served; the last certificate stays")
                        }
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "Secret {namespace}/{SECRET} cannot be read; what was known stays"),
        }
        sleep(LOOK).await;
    }
}

fn read(secret: &Secret) -> Option<Pair> {
    let data = secret.data.as_ref()?;
    let text = |key: &str| data.get(key).and_then(|b| String::from_utf8(b.0.clone()).ok());
    Some(Pair {
        ca: text("ca.crt")?,
        certificate: text("tls.crt")?,
        key: text("tls.key")?,
        not_after: text("not-after")?.trim().parse().ok()?,
    })
}

fn write(pair: &Pair, namespace: &str, version: Option<String>) -> Secret {
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    let data = BTreeMap::from([
        ("ca.crt".to_owned(), bytes(&pair.ca)),
        ("tls.crt".to_owned(), bytes(&pair.certificate)),
        ("tls.key".to_owned(), bytes(&pair.key)),
        ("not-after".to_owned(), bytes(&pair.not_after.to_string())),
    ]);
    let labels = BTreeMap::from([("app.kubernetes.io/part-of".to_owned(), "weft".to_owned())]);
    let metadata = ObjectMeta {
        name: Some(SECRET.into()),
        namespace: Some(namespace.into()),
        labels: Some(labels),
        resource_version: version,
        ..ObjectMeta::default()
    };
    Secret { metadata, data: Some(data), ..Secret::default() }
}

/// The pair in the Secret; made when there is none, it is due, or it cannot be used. Of several replicas one wins, the others read what it wrote.
async fn certificate(client: &Client, namespace: &str, shared: &Shared) -> anyhow::Result<Pair> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let now = OffsetDateTime::now_utc();
    let found = secrets.get_opt(SECRET).await?;
    let old = found.as_ref().and_then(read).filter(|p| p.server().is_ok());
    if let Some(p) = &old
        && !p.is_due(now)
    {
        return Ok(p.clone());
    }
    let mut pair = Pair::make(WEBHOOK, namespace, now)?;
    if let Some(old) = &old {
        // replicas that still serve the old one are believed until they have read the new one
        let end = "-----END CERTIFICATE-----";
        if let Some(at) = old.ca.find(end) {
            pair.ca.push_str(&old.ca[..at + end.len()]);
            pair.ca.push('\n');
        }
    }
    let params = PostParams::default();
    let written = match &found {
        None => secrets.create(&params, &write(&pair, namespace, None)).await,
        Some(s) => secrets.replace(SECRET, &params, &write(&pair, namespace, s.resource_version())).await,
    };
    match written {
        Ok(_) => {
            shared.metrics.certificates.fetch_add(1, Relaxed);
            tracing::info!(renewed = found.is_some(), "made a serving certificate");
            Ok(pair)
        }
        Err(kube::Error::Api(e)) if e.code == 409 => {
            let theirs = secrets.get(SECRET).await?;
            read(&theirs).ok_or_else(|| anyhow::anyhow!("what another replica wrote cannot be read"))
        }
        Err(e) => Err(e.into()),
    }
}

/// Makes the caBundle of each entry of the configuration ours, if nobody has written it since it was read.
async fn ca_bundle(
    client: &Client,
    found: &MutatingWebhookConfiguration,
    pair: &Pair,
    shared: &Shared,
) -> anyhow::Result<()> {
    let ours = ByteString(pair.ca.clone().into_bytes());
    let mut patch = vec![json!({"op": "test", "path": "/metadata/resourceVersion", "value": found.resource_version()})];
    for (i, w) in found.webhooks.iter().flatten().enumerate() {
        if w.client_config.ca_bundle.as_ref() != Some(&ours) {
            patch.push(json!({"op": "add", "path": format!("/webhooks/{i}/clientConfig/caBundle"), "value": ours}));
        }
    }
    if patch.len() == 1 {
        return Ok(());
    }
    let patch: json_patch::Patch = serde_json::from_value(patch.into())?;
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    configurations.patch(WEBHOOK, &PatchParams::default(), &Patch::Json::<()>(patch)).await?;
    shared.metrics.ca_bundle_repairs.fetch_add(1, Relaxed);
    tracing::info!("MutatingWebhookConfiguration {WEBHOOK}: the caBundle is ours");
    Ok(())
}

/// Reports running pods that should be meshed and are not: they came before the label, or while nobody answered and the webhook was told to let them pass.
pub async fn report(client: Client, namespace: &str, me: &str, shared: Arc<Shared>) {
    let reporter = Reporter { controller: "weft.dev/injector".into(), instance: Some(me.into()) };
    let recorder = Recorder::new(client.clone(), reporter);
    let mut told = HashSet::new();
    loop {
        sleep(REPORT).await;
        match holds(&client, namespace, me).await {
            Ok(true) => {
                if let Err(error) = pass(&client, &recorder, &mut told, &shared).await {
                    tracing::warn!(%error, "pods could not be looked at");
                }
            }
            Ok(false) => shared.metrics.unmeshed.store(0, Relaxed),
            Err(error) => tracing::warn!(%error, "Lease {namespace}/{WEBHOOK}"),
        }
    }
}

async fn pass(client: &Client, recorder: &Recorder, told: &mut HashSet<String>, shared: &Shared) -> kube::Result<()> {
    let (mut seen, mut events) = (HashSet::new(), 0);
    for (namespace, page) in lists(shared) {
        let pods: Api<Pod> = match &namespace {
            Some(ns) => Api::namespaced(client.clone(), ns),
            None => Api::all(client.clone()),
        };
        let mut page = page.limit(PAGE);
        loop {
            let list = pods.list(&page).await?;
            let next = list.metadata.continue_.clone().filter(|c| !c.is_empty());
            for pod in list.items {
                let Some(uid) = pod.uid().filter(|_| is_unmeshed(&pod)) else { continue };
                seen.insert(uid.clone());
                if told.contains(&uid) || events >= EVENTS {
                    continue;
                }
                let whose = if namespace.is_some() { "its namespace" } else { "it" };
                let event = Event {
                    type_: EventType::Warning,
                    reason: "NotMeshed".into(),
                    note: Some(format!(
                        "{whose} is labelled weft.dev/inject=enabled, but this pod has no sidecar: it speaks plain text. Make it anew (kubectl rollout restart of its workload), or label the pod weft.dev/inject=disabled"
                    )),
                    action: "Inject".into(),
                    secondary: None,
                };
                recorder.publish(&event, &pod.object_ref(&())).await?;
                told.insert(uid);
                events += 1;
            }
            match next {
                Some(token) => page = page.continue_token(&token),
                None => break,
            }
        }
    }
    told.retain(|uid| seen.contains(uid));
    shared.metrics.unmeshed.store(seen.len() as u64, Relaxed);
    Ok(())
}

/// Where pods are looked for: the labelled namespaces, and pods with a label of their own everywhere else.
fn lists(shared: &Shared) -> Vec<(Option<String>, ListParams)> {
    let known = shared.namespaces.read().unwrap_or_else(|e| e.into_inner());
    let enabled = known.iter().filter(|(_, (labels, _))| labels.get(knobs::INJECT).is_some_and(|l| l == "enabled"));
    let mut lists: Vec<_> = enabled.map(|(n, _)| (Some(n.clone()), ListParams::default())).collect();
    lists.push((None, ListParams::default().labels(&format!("{}=enabled", knobs::INJECT))));
    lists
}

fn is_unmeshed(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let running = pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
    let named = spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(|c| c.name == inject::PROXY);
    running
        && !named
        && pod.metadata.deletion_timestamp.is_none()
        && !pod.annotations().contains_key(knobs::NOT_INJECTED)
        && pod.labels().get(knobs::INJECT).is_none_or(|l| l != "disabled")
        && spec.host_network != Some(true)
}

/// Takes or keeps the Lease. It lasts three passes; losing it costs a doubled Event at most.
async fn holds(client: &Client, namespace: &str, me: &str) -> kube::Result<bool> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let now = jiff::Timestamp::now();
    let seconds = 3 * REPORT.as_secs() as i32;
    let spec = LeaseSpec {
        holder_identity: Some(me.into()),
        lease_duration_seconds: Some(seconds),
        renew_time: Some(MicroTime(now)),
        ..LeaseSpec::default()
    };
    let params = PostParams::default();
    let taken = match leases.get_opt(WEBHOOK).await? {
        None => {
            let metadata = ObjectMeta { name: Some(WEBHOOK.into()), ..ObjectMeta::default() };
            leases.create(&params, &Lease { metadata, spec: Some(spec) }).await
        }
        Some(mut lease) => {
            let old = lease.spec.take().unwrap_or_default();
            let lasts = i64::from(old.lease_duration_seconds.unwrap_or(0));
            let fresh = old.renew_time.is_some_and(|t| now.as_second() - t.0.as_second() < lasts);
            if fresh && old.holder_identity.as_deref() != Some(me) {
                return Ok(false);
            }
            lease.spec = Some(spec);
            leases.replace(WEBHOOK, &params, &lease).await
        }
    };
    match taken {
        Ok(_) => Ok(true),
        // somebody was quicker
        Err(kube::Error::Api(e)) if e.code == 409 => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
