//! Which kinds the cluster has: CRDs are missing, older, of the standard channel only, come later and go away. Asked of the API server's own
//! discovery, and asked again at once when a CustomResourceDefinition changes.

use crate::object::Kind;
use futures_util::{StreamExt, pin_mut};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject},
    core::PartialObjectMeta,
    runtime::watcher::{self, watcher},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};

/// Looked at anyway, should a change have been missed.
const POLL: Duration = Duration::from_secs(30);
/// A new definition is served within moments, but not at once: looked at more and more rarely for this long.
const SETTLES: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_millis(100);
/// Times in a row that a kind must be missing before it counts as removed.
const MISSING: u8 = 2;

/// A kind as this cluster serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    pub version: String,
    pub plural: String,
}
impl Served {
    pub fn resource(&self, kind: Kind) -> ApiResource {
        let api_version = match kind.group() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        };
        ApiResource {
            group: kind.group().into(),
            version: self.version.clone(),
            api_version,
            kind: kind.as_str().into(),
            plural: self.plural.clone(),
        }
    }
}

/// Every kind that is there, and which release of the Gateway API's definitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    pub kinds: BTreeMap<Kind, Served>,
    /// Annotations `gateway.networking.k8s.io/bundle-version` and `channel` of the definitions, such as `v1.7.0 standard`.
    pub bundles: BTreeSet<String>,
}

/// Kinds of Kubernetes that are always there.
fn builtin(all: bool) -> impl Iterator<Item = (Kind, Served)> {
    let needed = [
        (Kind::Namespace, "namespaces"),
        (Kind::Service, "services"),
        (Kind::Pod, "pods"),
        (Kind::Node, "nodes"),
        (Kind::EndpointSlice, "endpointslices"),
    ];
    // for checks only: the mesh itself does not read them
    let further = [
        (Kind::ServiceAccount, "serviceaccounts"),
        (Kind::Deployment, "deployments"),
        (Kind::StatefulSet, "statefulsets"),
        (Kind::DaemonSet, "daemonsets"),
        (Kind::NetworkPolicy, "networkpolicies"),
    ];
    let further = if all { further.to_vec() } else { Vec::new() };
    let served =
        |(kind, plural): (Kind, &str)| (kind, Served { version: kind.version().into(), plural: plural.into() });
    needed.into_iter().chain(further).map(served)
}

/// Asks the API server.
pub async fn ask(client: &Client, all: bool) -> kube::Result<BTreeMap<Kind, Served>> {
    let mut kinds: BTreeMap<Kind, Served> = builtin(all).collect();
    let wanted = |group: &str| Kind::ALL.iter().any(|k| !k.is_core() && k.group() == group);
    for group in client.list_api_groups().await?.groups.into_iter().filter(|g| wanted(&g.name)) {
        let mut of_version: BTreeMap<String, APIResourceList> = BTreeMap::new();
        for v in &group.versions {
            // a version may vanish between the two questions
            match client.list_api_group_resources(&v.group_version).await {
                Ok(list) => _ = of_version.insert(v.version.clone(), list),
                Err(kube::Error::Api(e)) if e.is_not_found() => {}
                Err(e) => return Err(e),
            }
        }
        for kind in Kind::ALL.iter().filter(|k| !k.is_core() && k.group() == group.name) {
            let versions = [kind.version()].into_iter().chain(kind.other_versions().iter().copied());
            let found = versions.filter_map(|v| {
                let resource = of_version.get(v)?.resources.iter();
                let resource = resource.filter(|r| !r.name.contains('/')).find(|r| r.kind == kind.as_str())?;
                Some(Served { version: v.into(), plural: resource.name.clone() })
            });
            // the newest that both sides know
            if let Some(served) = found.into_iter().next() {
                kinds.insert(*kind, served);
            }
        }
    }
    Ok(kinds)
}

/// Tells what is installed, first when it is known and then whenever it changes. Ends with the receiver.
pub async fn follow(client: Client, all: bool, news: mpsc::Sender<Result<Installed, String>>) {
    let (trigger, mut triggered) = mpsc::channel::<BTreeSet<String>>(16);
    let definitions = definitions(client.clone(), trigger);
    let asking = async {
        let mut told: Option<Installed> = None;
        let mut missing: BTreeMap<Kind, u8> = BTreeMap::new();
        let (mut bundles, mut failures) = (BTreeSet::new(), 0);
        let (mut changed, mut wait) = (Instant::now(), SOON);
        loop {
            match ask(&client, all).await {
                Ok(mut kinds) => {
                    // whoever was told of trouble is told of its end
                    let recovered = std::mem::take(&mut failures) > 0;
                    for (kind, served) in told.iter().flat_map(|t| &t.kinds) {
                        let count = missing.entry(*kind).or_default();
                        match kinds.contains_key(kind) {
                            true => *count = 0,
                            false => *count += 1,
                        }
                        // a definition that is replaced is away for a moment; its objects are not
                        if (1..MISSING).contains(count) {
                            kinds.insert(*kind, served.clone());
                            (changed, wait) = (Instant::now(), SOON);
                        }
                    }
                    let now = Installed { kinds, bundles: bundles.clone() };
                    if recovered || told.as_ref() != Some(&now) {
                        told = Some(now.clone());
                        if news.send(Ok(now)).await.is_err() {
                            return;
                        }
                    }
                    wait = if changed.elapsed() < SETTLES { (wait * 2).min(POLL) } else { POLL };
                }
                Err(e) => {
                    failures += 1;
                    if news.send(Err(e.to_string())).await.is_err() {
                        return;
                    }
                    wait = super::pause(failures);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                seen = triggered.recv() => {
                    let Some(seen) = seen else { return };
                    bundles = seen;
                    (changed, wait) = (Instant::now(), SOON);
                }
                () = news.closed() => return,
            }
        }
    };
    pin_mut!(definitions, asking);
    tokio::select! {
        () = definitions => {}
        () = asking => {}
    }
}

/// Watches the names of definitions, and their annotations; the definitions themselves are megabytes that nobody needs.
async fn definitions(client: Client, trigger: mpsc::Sender<BTreeSet<String>>) {
    let resource = ApiResource {
        group: "apiextensions.k8s.io".into(),
        version: "v1".into(),
        api_version: "apiextensions.k8s.io/v1".into(),
        kind: "CustomResourceDefinition".into(),
        plural: "customresourcedefinitions".into(),
    };
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client, &resource);
    let mut known: BTreeMap<Arc<str>, Option<String>> = BTreeMap::new();
    let mut failures = 0;
    loop {
        let stream = watcher(api.clone(), watcher::Config::default().page_size(super::PAGE).timeout(super::WATCH));
        pin_mut!(stream);
        while let Some(event) = stream.next().await {
            let (meta, there) = match event {
                Ok(watcher::Event::Apply(o)) | Ok(watcher::Event::InitApply(o)) => (o.metadata, true),
                Ok(watcher::Event::Delete(o)) => (o.metadata, false),
                Ok(watcher::Event::Init) => {
                    known.clear();
                    continue;
                }
                Ok(watcher::Event::InitDone) => {
                    failures = 0;
                    if trigger.send(known.values().flatten().cloned().collect()).await.is_err() {
                        return;
                    }
                    continue;
                }
                Err(e) => {
                    failures += 1;
                    tracing::debug!(error = %e, "CustomResourceDefinitions cannot be watched");
                    tokio::time::sleep(super::pause(failures)).await;
                    if super::text_of(&e).is_some_and(|(code, _)| code == 410) {
                        break;
                    }
                    continue;
                }
            };
            let name: Arc<str> = meta.name.as_deref().unwrap_or_default().into();
            let ours = |k: &&Kind| !k.is_core() && name.split_once('.').is_some_and(|(_, group)| group == k.group());
            if !Kind::ALL.iter().any(|k| ours(&k)) {
                continue;
            }
            let note = |key: &str| meta.annotations.as_ref()?.get(&format!("gateway.networking.k8s.io/{key}")).cloned();
            match there {
                true => {
                    let bundle = note("bundle-version").map(|v| format!("{v} {}", note("channel").unwrap_or_default()));
                    known.insert(name, bundle);
                }
                false => _ = known.remove(&name),
            }
            if trigger.send(known.values().flatten().cloned().collect()).await.is_err() {
                return;
            }
        }
    }
}
