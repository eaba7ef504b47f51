//! The mesh in a cluster: the chart is installed (`tests/cluster/cluster crds && tests/cluster/cluster install`), and a test makes workloads with sidecars and asks
//! them as an application would: from inside a pod that has a sidecar, or from one that has none.

use crate::{Namespace, SOON, TOOLS, client, eventually, image, restricted, text};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Client, ResourceExt as _,
    api::{Api, DynamicObject, GroupVersionKind, ListParams},
    discovery,
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, path::PathBuf, process::Command};

/// The label of a namespace whose pods get a sidecar.
pub const ENABLED: (&str, &str) = ("weft.dev/inject", "enabled");
pub const SYSTEM: &str = "weft-system";

/// Fails unless the control plane is there and available.
pub async fn installed() {
    let api = Api::<Deployment>::namespaced(client().await, SYSTEM);
    for name in ["weft-ca", "weft-controller", "weft-injector"] {
        let available = async || {
            let d = api.get(name).await.map_err(|e| e.to_string())?;
            let s = d.status.unwrap_or_default();
            // an upgrade is over when the new pods are there and the old ones are not
            match s.available_replicas.is_some_and(|n| n > 0) && s.available_replicas == s.replicas {
                true => Ok(()),
                false => Err(format!("{s:?}")),
            }
        };
        eventually(&format!("{name} of the chart (tests/cluster/cluster install)"), SOON, available).await;
    }
}

/// Waits until every pod of a Deployment's newest revision is available, and no other is left.
pub async fn available(client: &Client, namespace: &str, deployment: &str) {
    let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let there = async || {
        let d = api.get(deployment).await.map_err(|e| e.to_string())?;
        let (wanted, s) = (d.spec.and_then(|s| s.replicas), d.status.unwrap_or_default());
        let observed = s.observed_generation >= d.metadata.generation;
        match observed && s.updated_replicas == wanted && s.available_replicas == wanted && s.replicas == wanted {
            true => Ok(()),
            false => Err(format!("{s:?}")),
        }
    };
    eventually(&format!("Deployment {namespace}/{deployment} available"), SOON, there).await;
}

/// Helm on the release that the tests share, with `--wait` where a verb has it; panics with its words when it fails.
pub fn helm(verb: &str, words: &[&str]) {
    let chart = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../charts/weft");
    let mut c = Command::new("helm");
    c.args([verb, "weft"]);
    if verb == "upgrade" {
        c.arg(chart).args(["--install", "--reset-then-reuse-values", "--create-namespace"]);
    }
    let out = c.args(["--namespace", SYSTEM, "--wait", "--timeout", "3m"]).args(words).output().unwrap();
    assert!(out.status.success(), "helm {verb}: {}", text(&out));
}

/// The release with other values. Turned back by [`Upgraded::back`], or when a test fails: the tests after it want the values of before.
pub struct Upgraded(bool);

impl Upgraded {
    pub async fn to(words: &[&str]) -> Self {
        helm("upgrade", words);
        let this = Upgraded(true);
        installed().await;
        this
    }

    /// Does not wait for what the values make of it.
    pub fn begun(words: &[&str]) -> Self {
        helm("upgrade", &[words, &["--wait=false"]].concat());
        Upgraded(true)
    }

    pub async fn back(mut self) {
        self.0 = false;
        helm("rollback", &[]);
        installed().await;
    }
}

impl Drop for Upgraded {
    fn drop(&mut self) {
        if self.0 {
            let _ = Command::new("helm").args(["rollback", "weft", "--namespace", SYSTEM, "--wait"]).output();
        }
    }
}

/// A Deployment with a ServiceAccount and a Service, all of one name: the sample application on port 8080, its Service's port 80.
pub struct Workload {
    name: String,
    args: Vec<String>,
    replicas: u32,
    annotations: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    container: Value,
    app_protocol: Option<String>,
    service: bool,
}

impl Workload {
    /// The sample application answers `NAME METHOD PATH LENGTH`.
    pub fn sample(name: &str, args: &[&str]) -> Self {
        let own = ["--listen=:8080".to_owned(), format!("--name={name}")];
        let args = own.into_iter().chain(args.iter().map(|a| (*a).to_owned())).collect();
        Workload {
            name: name.into(),
            args,
            replicas: 1,
            annotations: BTreeMap::new(),
            labels: BTreeMap::new(),
            container: json!({}),
            app_protocol: None,
            service: true,
        }
    }
    pub fn replicas(mut self, n: u32) -> Self {
        self.replicas = n;
        self
    }
    /// Of the pods.
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.into(), value.into());
        self
    }
    /// Of the pods, besides `app: NAME`; one named `app` replaces that.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }
    /// Fields of the application's container, such as probes.
    pub fn container(mut self, fields: Value) -> Self {
        self.container = fields;
        self
    }
    /// Of the Service's port.
    pub fn app_protocol(mut self, protocol: &str) -> Self {
        self.app_protocol = Some(protocol.into());
        self
    }
    /// Another workload's Service selects these pods, too.
    pub fn without_service(mut self) -> Self {
        self.service = false;
        self
    }

    pub fn objects(&self) -> Vec<Value> {
        let name = &self.name;
        let mut labels = BTreeMap::from([("app".to_owned(), name.clone())]);
        labels.extend(self.labels.clone());
        let mut container = json!({
            "name": "app", "image": image("sample"), "command": ["weft", "sample"], "args": self.args, "securityContext": restricted(65532),
            "ports": [{"name": "http", "containerPort": 8080}],
            // a path that no test asks for: a strict workload takes it in plain text
            "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 1},
        });
        for (key, value) in self.container.as_object().into_iter().flatten() {
            container[key] = value.clone();
        }
        let mut port = json!({"name": "http", "port": 80, "targetPort": 8080});
        if let Some(protocol) = &self.app_protocol {
            port["appProtocol"] = json!(protocol);
        }
        let mut objects = vec![
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}),
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
                "spec": {
                    "replicas": self.replicas, "selector": {"matchLabels": labels},
                    "template": {
                        "metadata": {"labels": labels, "annotations": self.annotations},
                        "spec": {"serviceAccountName": name, "terminationGracePeriodSeconds": 2, "containers": [container]},
                    },
                },
            }),
        ];
        if self.service {
            objects.push(json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
                "spec": {"selector": {"app": labels["app"]}, "ports": [port]},
            }));
        }
        objects
    }

    pub async fn apply(&self, ns: &Namespace) {
        for object in self.objects() {
            ns.apply(object).await;
        }
    }
}

impl Namespace {
    /// Applies workloads, and waits until all of them are available; pods start side by side.
    pub async fn start(&self, workloads: impl IntoIterator<Item = Workload>) {
        let workloads: Vec<Workload> = workloads.into_iter().collect();
        for w in &workloads {
            w.apply(self).await;
        }
        for w in &workloads {
            self.available(&w.name).await;
        }
    }

    pub async fn available(&self, deployment: &str) {
        available(&self.client, &self.name, deployment).await;
    }

    /// Running pods of a workload, by its label `app`.
    pub async fn pods_of(&self, app: &str) -> Vec<Pod> {
        let pods = self.pods().list(&ListParams::default().labels(&format!("app={app}"))).await.unwrap().items;
        pods.into_iter().filter(|p| p.metadata.deletion_timestamp.is_none()).collect()
    }

    /// `service.NAMESPACE.svc.cluster.local`, with a path.
    pub fn url(&self, service: &str, path: &str) -> String {
        format!("http://{service}.{}.svc.cluster.local{path}", self.name)
    }

    /// A pod of tools that waits to be told what to ask; with a sidecar where the namespace says so.
    pub async fn caller(&self, name: &str) -> Caller {
        self.caller_with(name, json!({}), json!({})).await
    }

    /// The same with metadata and fields of the pod's spec.
    pub async fn caller_with(&self, name: &str, metadata: Value, spec: Value) -> Caller {
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
        self.apply(account).await;
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
            "spec": {
                "serviceAccountName": name, "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "app", "image": TOOLS, "command": ["sleep", "100000"], "securityContext": restricted(65532)}],
            },
        });
        pod["metadata"]["name"] = json!(name);
        for (key, value) in spec.as_object().into_iter().flatten() {
            pod["spec"][key] = value.clone();
        }
        self.apply(pod).await;
        self.ready(name).await;
        Caller { namespace: self.name.clone(), pod: name.into() }
    }
}

/// Whether a pod has a sidecar.
pub fn is_meshed(pod: &Pod) -> bool {
    let spec = pod.spec.clone().unwrap_or_default();
    let inits = spec.init_containers.unwrap_or_default();
    inits.iter().chain(&spec.containers).any(|c| c.name == "weft-proxy")
}

/// An application that calls: `curl` in a pod.
pub struct Caller {
    pub namespace: String,
    pub pod: String,
}

/// What came back for one request: status 0 is no answer, and then `text` says why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub text: String,
}

impl Caller {
    /// A shell command in the pod: all that it prints. What kubectl itself has to say, such as a warning when a stream ends, is not part of it.
    pub fn sh(&self, script: &str) -> String {
        let script = format!("exec 2>&1; {script}");
        let place = ["exec", "-n", &self.namespace, &self.pod, "-c", "app", "--", "sh", "-c", &script];
        let out = Command::new("kubectl").args(place).output().unwrap();
        match out.stdout.is_empty() {
            true => text(&out),
            false => String::from_utf8_lossy(&out.stdout).into_owned(),
        }
    }

    /// One GET; `flags` are curl's.
    pub fn get(&self, url: &str, flags: &str) -> Answer {
        let said = self.sh(&format!("curl -sS --max-time 10 {flags} -w '\\n%{{http_code}}' '{url}'"));
        let (text, status) = said.trim_end().rsplit_once('\n').unwrap_or((&said, "0"));
        // with no answer curl's message follows the status; whatever else is said is no answer to the question
        match status.parse() {
            Ok(status) => Answer { status, text: text.trim().into() },
            Err(_) if said.contains("curl: (") => Answer { status: 0, text: said.trim().into() },
            Err(_) => panic!("curl in pod {}: {said}", self.pod),
        }
    }

    /// `n` GETs on one connection: how often each status came; 0 is no answer.
    pub fn count(&self, url: &str, n: usize, flags: &str) -> BTreeMap<u16, usize> {
        let one_by_one = "curl -s --max-time 10 -o /dev/null -w '%{http_code}\\n'";
        let glob = if url.contains('?') { format!("{url}&n=[1-{n}]") } else { format!("{url}?n=[1-{n}]") };
        let said = self.sh(&format!("{one_by_one} {flags} '{glob}'"));
        let mut counts = BTreeMap::new();
        for status in said.lines().filter_map(|l| l.trim().parse::<u16>().ok()) {
            *counts.entry(status).or_default() += 1;
        }
        assert_eq!(counts.values().sum::<usize>(), n, "{url}: {said}");
        counts
    }
}

impl Caller {
    /// `n` unary calls with an empty message: how often each `grpc-status` came; `None` is no status. Each on a connection of its own, since curl 7.88 fails on the
    /// second request of one that speaks HTTP/2 without an upgrade.
    pub fn grpc(&self, url: &str, n: usize) -> BTreeMap<Option<u16>, usize> {
        let flags = "--http2-prior-knowledge -H 'content-type: application/grpc' -H 'te: trailers' --data-binary @- -o /dev/null -D -";
        // no compression, length zero
        let call = format!("printf '\\0\\0\\0\\0\\0' | curl -s --max-time 10 {flags} '{url}'");
        let said = self.sh(&format!("for i in $(seq {n}); do {call}; done"));
        let mut counts = BTreeMap::new();
        for status in said.lines().filter_map(|l| l.trim().strip_prefix("grpc-status:")?.trim().parse::<u16>().ok()) {
            *counts.entry(Some(status)).or_default() += 1;
        }
        let none = n - counts.values().sum::<usize>();
        if none > 0 {
            counts.insert(None, none);
        }
        counts
    }
}

/// `apiVersion`, `kind`, name and `spec` of an object.
pub fn object(api: &str, kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": api, "kind": kind, "metadata": {"name": name}, "spec": spec})
}
/// A route of the Gateway API whose parent is a Service's port 80.
pub fn route(kind: &str, name: &str, parent: Value, rules: Value) -> Value {
    let mut parent = parent;
    for (key, value) in [("group", json!("")), ("kind", json!("Service")), ("port", json!(80))] {
        if parent[key].is_null() {
            parent[key] = value;
        }
    }
    object("gateway.networking.k8s.io/v1", kind, name, json!({"parentRefs": [parent], "rules": rules}))
}
/// A policy of Weft.
pub fn policy(kind: &str, name: &str, spec: Value) -> Value {
    object("weft.dev/v1alpha1", kind, name, spec)
}

impl Namespace {
    /// Waits until an object's status says of every parent or target of ours: accepted, without a reservation, for this generation.
    pub async fn accepted(&self, object: &Value) {
        let said = async || {
            let conditions = self.conditions(object).await?;
            let is = |kind: &str| conditions.iter().find(|c| c["type"] == kind).is_some_and(|c| c["status"] == "True");
            match is("Accepted") && !is("PartiallyInvalid") && !is("Conflicted") {
                true => Ok(()),
                false => Err(format!("{conditions:?}")),
            }
        };
        eventually(&format!("{} {} accepted", object["kind"], object["metadata"]["name"]), SOON, said).await;
    }

    /// Conditions that our controller wrote about the object as it is now; an error while it has not.
    pub async fn conditions(&self, object: &Value) -> Result<Vec<Value>, String> {
        let object: DynamicObject = serde_json::from_value(object.clone()).map_err(|e| e.to_string())?;
        let gvk = GroupVersionKind::try_from(object.types.as_ref().unwrap()).map_err(|e| e.to_string())?;
        let (resource, _) = discovery::pinned_kind(&self.client, &gvk).await.map_err(|e| e.to_string())?;
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.name, &resource);
        let now = api.get(&object.name_any()).await.map_err(|e| e.to_string())?;
        let (status, generation) = (&now.data["status"], now.metadata.generation);
        let entries = ["parents", "ancestors"].into_iter().flat_map(|l| status[l].as_array().into_iter().flatten());
        let ours = entries.filter(|e| e["controllerName"] == "weft.dev/gateway-controller");
        let conditions: Vec<Value> =
            ours.flat_map(|e| e["conditions"].as_array().into_iter().flatten().cloned()).collect();
        match !conditions.is_empty() && conditions.iter().all(|c| c["observedGeneration"].as_i64() == generation) {
            true => Ok(conditions),
            false => Err(format!("generation {generation:?}: {status}")),
        }
    }

    /// Applies and waits until accepted.
    pub async fn in_force(&self, object: Value) {
        self.apply(object.clone()).await;
        self.accepted(&object).await;
    }
}

/// The program `weft` beside this test, as a person would call it.
pub fn weft(words: &[&str]) -> Command {
    let here = std::env::current_exe().unwrap();
    let program: PathBuf = here.parent().and_then(|deps| deps.parent()).unwrap().join("weft");
    assert!(program.exists(), "{}: build it first: cargo build -p weft-cli", program.display());
    let mut c = Command::new(program);
    c.args(words);
    c
}

/// The lines of `weft stat` about the sidecars of a namespace.
pub fn stat(ns: &Namespace, words: &[&str]) -> Vec<Value> {
    let out = weft(&[&["stat", "-n", &ns.name, "-o", "json"], words].concat()).output().unwrap();
    assert!(out.status.success(), "{}", text(&out));
    let said: Value = serde_json::from_slice(&out.stdout).unwrap();
    said["lines"].as_array().unwrap().clone()
}
