//! An API server for tests: lists in pages, watches with bookmarks and history, status as a part of its own, conflicts, compaction, and
//! definitions that come and go. Shared by the tests of the crate and those beside it.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use kube::client::Body;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};
use tokio::sync::watch;

type Key = (String, String);
pub type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

#[derive(Clone, Debug)]
pub struct Resource {
    pub group: String,
    pub versions: Vec<String>,
    pub plural: String,
    pub kind: String,
    pub namespaced: bool,
}

type BeforeWrite = Box<dyn FnOnce(&mut Store<'_>) + Send>;
#[derive(Default)]
struct State {
    version: u64,
    resources: Vec<Resource>,
    /// By `group/plural`.
    objects: BTreeMap<String, BTreeMap<Key, Value>>,
    /// Version, `group/plural`, type of event, object.
    history: Vec<(u64, String, &'static str, Value)>,
    compacted: u64,
    /// What every request is answered with while it is set.
    down: Option<u16>,
    /// Watches that are older than this are cut.
    epoch: u64,
    /// Plurals that the client may not read.
    forbidden: BTreeSet<String>,
    requests: Vec<String>,
    /// Runs before a write of a status is looked at.
    before_write: Option<BeforeWrite>,
}

pub struct Store<'s>(&'s mut State);

#[derive(Clone)]
pub struct FakeApi {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
}

impl Default for FakeApi {
    fn default() -> Self {
        let api = Self { state: Arc::default(), changed: watch::channel(0).0 };
        for (group, version, plural, kind, namespaced) in [
            ("", "v1", "namespaces", "Namespace", false),
            ("", "v1", "nodes", "Node", false),
            ("", "v1", "pods", "Pod", true),
            ("", "v1", "services", "Service", true),
            ("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", true),
            ("coordination.k8s.io", "v1", "leases", "Lease", true),
            ("events.k8s.io", "v1", "events", "Event", true),
            ("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", false),
        ] {
            api.with(|s| s.0.resources.push(resource(group, &[version], plural, kind, namespaced)));
        }
        api
    }
}

fn resource(group: &str, versions: &[&str], plural: &str, kind: &str, namespaced: bool) -> Resource {
    Resource {
        group: group.into(),
        versions: versions.iter().map(|v| v.to_string()).collect(),
        plural: plural.into(),
        kind: kind.into(),
        namespaced,
    }
}

pub const GATEWAY: &str = "gateway.networking.k8s.io";
/// Kind, plural, namespaced; of the Gateway API.
const GATEWAY_KINDS: [(&str, &str, bool); 10] = [
    ("GatewayClass", "gatewayclasses", false),
    ("Gateway", "gateways", true),
    ("ListenerSet", "listenersets", true),
    ("HTTPRoute", "httproutes", true),
    ("GRPCRoute", "grpcroutes", true),
    ("TLSRoute", "tlsroutes", true),
    ("TCPRoute", "tcproutes", true),
    ("UDPRoute", "udproutes", true),
    ("ReferenceGrant", "referencegrants", true),
    ("BackendTLSPolicy", "backendtlspolicies", true),
];

impl FakeApi {
    pub fn client(&self) -> kube::Client {
        self.client_over(Arc::default())
    }
    /// A client whose network can be cut.
    pub fn client_over(&self, cut: Arc<AtomicBool>) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (api, cut) = (api.clone(), cut.clone());
            async move {
                match cut.load(Relaxed) {
                    true => Err(tower::BoxError::from("no route to host")),
                    false => Ok(api.answer(request).await),
                }
            }
        });
        kube::Client::new(service, "default")
    }
    pub fn with<T>(&self, change: impl FnOnce(&mut Store<'_>) -> T) -> T {
        let out = change(&mut Store(&mut self.state.lock().unwrap()));
        self.changed.send_modify(|n| *n += 1);
        out
    }
    /// Installs a definition.
    pub fn define(&self, group: &str, versions: &[&str], kind: &str, plural: &str, namespaced: bool) {
        self.with(|s| s.define(group, versions, kind, plural, namespaced));
    }
    /// The standard channel of the Gateway API.
    pub fn install_gateway_api(&self) {
        for (kind, plural, namespaced) in GATEWAY_KINDS {
            self.define(GATEWAY, &["v1"], kind, plural, namespaced);
        }
    }
    pub fn install_weft(&self) {
        self.define("weft.dev", &["v1alpha1"], "MeshTLSPolicy", "meshtlspolicies", true);
        self.define("weft.dev", &["v1alpha1"], "TrafficPolicy", "trafficpolicies", true);
        self.define("weft.dev", &["v1alpha1"], "AuthorizationPolicy", "authorizationpolicies", true);
    }
    pub fn install_mesh_kind(&self) {
        self.define("gateway.networking.x-k8s.io", &["v1alpha1"], "XMesh", "xmeshes", false);
    }
    /// Every request fails with this, and every watch is cut.
    pub fn down(&self, status: Option<u16>) {
        self.with(|s| {
            s.0.down = status;
            s.0.epoch += 1;
        });
    }
    pub fn forbid(&self, plural: &str, yes: bool) {
        let s = &mut self.state.lock().unwrap().forbidden;
        _ = if yes { s.insert(plural.into()) } else { s.remove(plural) };
    }
    /// Cuts every watch and forgets the history.
    pub fn compact(&self) {
        self.with(|s| {
            s.0.compacted = s.0.version;
            s.0.history.clear();
            s.0.epoch += 1;
        });
    }
    pub fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let s = self.state.lock().unwrap();
        s.objects.get(&format!("{group}/{plural}"))?.get(&(namespace.into(), name.into())).cloned()
    }
    pub fn all(&self, group: &str, plural: &str) -> Vec<Value> {
        let s = self.state.lock().unwrap();
        s.objects.get(&format!("{group}/{plural}")).into_iter().flat_map(|t| t.values().cloned()).collect()
    }
    /// Method and path of every request until now.
    pub fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().requests.clone()
    }
    pub fn before_next_write(&self, change: impl FnOnce(&mut Store<'_>) + Send + 'static) {
        self.state.lock().unwrap().before_write = Some(Box::new(change));
    }
    /// Puts an object; its kind must be known.
    pub fn apply(&self, object: Value) {
        self.with(|s| s.apply(object));
    }
    pub fn delete(&self, group: &str, plural: &str, namespace: &str, name: &str) {
        self.with(|s| s.delete(group, plural, namespace, name));
    }
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

impl Store<'_> {
    pub fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        self.0.objects.get(&format!("{group}/{plural}"))?.get(&(namespace.into(), name.into())).cloned()
    }
    pub fn define(&mut self, group: &str, versions: &[&str], kind: &str, plural: &str, namespaced: bool) {
        self.0.resources.retain(|r| !(r.group == group && r.plural == plural));
        self.0.resources.push(resource(group, versions, plural, kind, namespaced));
        self.apply(json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {
            "name": format!("{plural}.{group}"),
            "annotations": {"gateway.networking.k8s.io/bundle-version": "v1.7.0", "gateway.networking.k8s.io/channel": "standard"}}}));
    }
    pub fn undefine(&mut self, group: &str, plural: &str) {
        self.0.resources.retain(|r| !(r.group == group && r.plural == plural));
        self.0.objects.remove(&format!("{group}/{plural}"));
        self.0.epoch += 1;
        self.delete("apiextensions.k8s.io", "customresourcedefinitions", "", &format!("{plural}.{group}"));
    }
    pub fn apply(&mut self, mut object: Value) {
        let (group, kind) = {
            let (version, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
            (version.split_once('/').map_or("", |(g, _)| g).to_owned(), kind.to_owned())
        };
        let r = self
            .0
            .resources
            .iter()
            .find(|r| r.group == group && r.kind == kind)
            .unwrap_or_else(|| panic!("no kind {kind} in {group}"));
        let table = format!("{group}/{}", r.plural);
        let namespace = if r.namespaced {
            object["metadata"]["namespace"].as_str().unwrap_or("default").to_owned()
        } else {
            String::new()
        };
        let key = (namespace.clone(), object["metadata"]["name"].as_str().unwrap().to_owned());
        if r.namespaced {
            object["metadata"]["namespace"] = namespace.into();
        }
        let before = self.0.objects.get(&table).and_then(|t| t.get(&key)).cloned();
        self.0.version += 1;
        let meta = object["metadata"].as_object_mut().unwrap();
        let uid = format!("uid-of-{}-{}-{}", key.0, key.1, self.0.version);
        let was = |field: &str| before.as_ref().map(|b| b["metadata"][field].clone()).filter(|v| !v.is_null());
        let uid = was("uid").unwrap_or_else(|| uid.into());
        meta.entry("uid").or_insert(uid);
        let created = was("creationTimestamp").unwrap_or_else(|| "2026-01-01T00:00:00Z".into());
        meta.entry("creationTimestamp").or_insert(created);
        meta.insert("resourceVersion".into(), self.0.version.to_string().into());
        let generation = before
            .as_ref()
            .map_or(1, |b| b["metadata"]["generation"].as_i64().unwrap_or(1) + i64::from(b["spec"] != object["spec"]));
        let meta = object["metadata"].as_object_mut().unwrap();
        meta.insert("generation".into(), generation.into());
        if object["status"].is_null()
            && let Some(b) = before.as_ref().filter(|b| !b["status"].is_null())
        {
            object["status"] = b["status"].clone();
        }
        let event = if before.is_some() { "MODIFIED" } else { "ADDED" };
        self.0.objects.entry(table.clone()).or_default().insert(key, object.clone());
        self.0.history.push((self.0.version, table, event, object));
    }
    pub fn delete(&mut self, group: &str, plural: &str, namespace: &str, name: &str) {
        let table = format!("{group}/{plural}");
        let removed = self.0.objects.get_mut(&table).and_then(|t| t.remove(&(namespace.into(), name.into())));
        if let Some(mut object) = removed {
            self.0.version += 1;
            object["metadata"]["resourceVersion"] = self.0.version.to_string().into();
            self.0.history.push((self.0.version, table, "DELETED", object));
        }
    }
}

fn full(status: u16, body: Value) -> Answer {
    let body = http_body_util::Full::new(Bytes::from(body.to_string())).boxed_unsync();
    Response::builder().status(StatusCode::from_u16(status).unwrap()).body(body).unwrap()
}
fn failure(status: u16, reason: &str) -> Answer {
    full(
        status,
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": reason, "reason": reason, "code": status}),
    )
}

impl FakeApi {
    /// Also for those who serve it on a socket.
    pub async fn answer<B: http_body::Body<Data = Bytes, Error: std::fmt::Debug>>(
        &self,
        request: Request<B>,
    ) -> Answer {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let path = parts.uri.path().to_owned();
        let query: BTreeMap<String, String> = parts
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|p| p.split_once('='))
            .map(|(k, v)| (k.into(), v.into()))
            .collect();
        let steps: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
        let watches = query.get("watch").is_some_and(|w| w == "true" || w == "1");
        {
            let mut s = self.state.lock().unwrap();
            let what = if watches { "WATCH" } else { parts.method.as_str() };
            s.requests.push(format!("{what} {path}"));
            if let Some(status) = s.down {
                return failure(status, "ServiceUnavailable");
            }
        }
        let (group, version, rest) = match steps.as_slice() {
            ["apis"] => return full(200, self.groups()),
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version] => return self.of_version(group, version),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return failure(404, "NotFound"),
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(*namespace), rest),
            rest => (None, rest),
        };
        let Some(plural) = rest.first() else { return failure(404, "NotFound") };
        let known = self
            .state
            .lock()
            .unwrap()
            .resources
            .iter()
            .any(|r| r.group == group && r.plural == *plural && r.versions.iter().any(|v| v == version));
        if !known {
            return failure(404, "NotFound");
        }
        if self.state.lock().unwrap().forbidden.contains(*plural) {
            return failure(403, "Forbidden");
        }
        let table = format!("{group}/{plural}");
        match (parts.method, &rest[1..]) {
            (Method::GET, []) if watches => {
                self.watch(table, query.get("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0))
            }
            (Method::GET, []) => self.list(&table, namespace, &query),
            (Method::GET, [name]) => match self.get(group, plural, namespace.unwrap_or_default(), name) {
                Some(o) => full(200, o),
                None => failure(404, "NotFound"),
            },
            (Method::POST, []) => {
                let mut object: Value = serde_json::from_slice(&body).unwrap();
                if object["metadata"]["name"].is_null() {
                    object["metadata"]["name"] = format!("generated-{}", self.state.lock().unwrap().version).into();
                }
                let name = object["metadata"]["name"].as_str().unwrap().to_owned();
                if self.get(group, plural, namespace.unwrap_or_default(), &name).is_some() {
                    return failure(409, "AlreadyExists");
                }
                if let Some(n) = namespace {
                    object["metadata"]["namespace"] = n.into();
                }
                self.apply(object);
                full(201, self.get(group, plural, namespace.unwrap_or_default(), &name).unwrap())
            }
            (Method::PUT, [name, sub @ ..]) => {
                let new: Value = serde_json::from_slice(&body).unwrap();
                self.put(group, plural, namespace.unwrap_or_default(), name, !sub.is_empty(), new)
            }
            (Method::PATCH, [name]) => match self.get(group, plural, namespace.unwrap_or_default(), name) {
                Some(o) => full(200, o),
                None => failure(404, "NotFound"),
            },
            _ => failure(405, "MethodNotAllowed"),
        }
    }

    fn put(&self, group: &str, plural: &str, namespace: &str, name: &str, status: bool, new: Value) -> Answer {
        let first = self.state.lock().unwrap().before_write.take();
        if let Some(change) = first {
            self.with(change);
        }
        let Some(mut object) = self.get(group, plural, namespace, name) else { return failure(404, "NotFound") };
        let version = &new["metadata"]["resourceVersion"];
        if !version.is_null() && *version != object["metadata"]["resourceVersion"] {
            return failure(409, "Conflict");
        }
        match status {
            true => object["status"] = new["status"].clone(),
            false => {
                let status = object["status"].clone();
                object = new;
                if !status.is_null() {
                    object["status"] = status;
                }
            }
        }
        self.apply(object);
        full(200, self.get(group, plural, namespace, name).unwrap())
    }

    fn groups(&self) -> Value {
        let s = self.state.lock().unwrap();
        let mut groups: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
        for r in s.resources.iter().filter(|r| !r.group.is_empty()) {
            let versions = groups.entry(&r.group).or_default();
            versions.extend(r.versions.iter());
            versions.sort();
            versions.dedup();
        }
        let groups: Vec<Value> = groups
            .into_iter()
            .map(|(name, versions)| {
                let versions: Vec<Value> = versions
                    .into_iter()
                    .map(|v| json!({"groupVersion": format!("{name}/{v}"), "version": v}))
                    .collect();
                json!({"name": name, "versions": versions, "preferredVersion": versions[0]})
            })
            .collect();
        json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
    }
    fn of_version(&self, group: &str, version: &str) -> Answer {
        let s = self.state.lock().unwrap();
        let here = s.resources.iter().filter(|r| r.group == group && r.versions.iter().any(|v| v == version));
        let resources: Vec<Value> = here
            .flat_map(|r| {
                let one = |name: String| json!({"name": name, "singularName": "", "kind": r.kind, "namespaced": r.namespaced, "verbs": ["get"]});
                [one(r.plural.clone()), one(format!("{}/status", r.plural))]
            })
            .collect();
        match resources.is_empty() {
            true => failure(404, "NotFound"),
            false => full(
                200,
                json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{group}/{version}"), "resources": resources}),
            ),
        }
    }

    fn list(&self, table: &str, namespace: Option<&str>, query: &BTreeMap<String, String>) -> Answer {
        let s = self.state.lock().unwrap();
        let empty = BTreeMap::new();
        let all = s.objects.get(table).unwrap_or(&empty);
        let all: Vec<&Value> =
            all.iter().filter(|((ns, _), _)| namespace.is_none_or(|n| n == ns)).map(|(_, o)| o).collect();
        let from: usize = query.get("continue").and_then(|c| c.parse().ok()).unwrap_or(0);
        let limit: usize = query.get("limit").and_then(|l| l.parse().ok()).unwrap_or(usize::MAX);
        let page: Vec<&Value> = all.iter().skip(from).take(limit).copied().collect();
        let mut meta = json!({"resourceVersion": s.version.to_string()});
        if from + page.len() < all.len() {
            meta["continue"] = (from + page.len()).to_string().into();
        }
        full(200, json!({"kind": "List", "apiVersion": "v1", "metadata": meta, "items": page}))
    }

    fn watch(&self, table: String, from: u64) -> Answer {
        let epoch = {
            let s = self.state.lock().unwrap();
            if from < s.compacted {
                return failure(410, "Expired");
            }
            s.epoch
        };
        let (api, changed) = (self.clone(), self.changed.subscribe());
        let stream = futures_util::stream::unfold((from, changed), move |(mut from, mut changed)| {
            let (api, table) = (api.clone(), table.clone());
            async move {
                loop {
                    let mut text = String::new();
                    {
                        let s = api.state.lock().unwrap();
                        if s.epoch != epoch {
                            return None;
                        }
                        let start = s.history.partition_point(|(v, ..)| *v <= from);
                        for (_, of, kind, object) in &s.history[start..] {
                            if *of == table {
                                text += &json!({"type": kind, "object": object}).to_string();
                                text.push('\n');
                            }
                        }
                        from = s.version;
                    }
                    if !text.is_empty() {
                        let frame = http_body::Frame::data(Bytes::from(text));
                        return Some((Ok::<_, Infallible>(frame), (from, changed)));
                    }
                    changed.changed().await.ok()?;
                }
            }
        });
        Response::builder().status(200).body(StreamBody::new(stream).boxed_unsync()).unwrap()
    }
}
