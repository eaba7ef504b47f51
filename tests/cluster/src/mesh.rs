//! The mesh in a cluster: the chart is installed (`tests/cluster/cluster crds && tests/cluster/cluster install`), and a test makes workloads with sidecars and asks
//! them as an application would: from inside a pod that has a sidecar, or from one that has none.

use crate::{Namespace, SOON, TOOLS, client, eventually, image, restricted, text};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::api::{Api, ListParams};
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
            "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
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

    /// Waits until every pod of a Deployment's newest revision is available, and no other is left.
    pub async fn available(&self, deployment: &str) {
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), &self.name);
        let there = async || {
            let d = api.get(deployment).await.map_err(|e| e.to_string())?;
            let (wanted, s) = (d.spec.and_then(|s| s.replicas), d.status.unwrap_or_default());
            let observed = s.observed_generation >= d.metadata.generation;
            match observed && s.updated_replicas == wanted && s.available_replicas == wanted && s.replicas == wanted {
                true => Ok(()),
                false => Err(format!("{s:?}")),
            }
        };
        eventually(&format!("Deployment {}/{deployment} available", self.name), SOON, there).await;
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
    /// A shell command in the pod.
    pub fn sh(&self, script: &str) -> String {
        let place = ["exec", "-n", &self.namespace, &self.pod, "-c", "app", "--", "sh", "-c", script];
        text(&Command::new("kubectl").args(place).output().unwrap())
    }

    /// One GET; `flags` are curl's.
    pub fn get(&self, url: &str, flags: &str) -> Answer {
        let said = self.sh(&format!("curl -sS --max-time 10 {flags} -w '\\n%{{http_code}}' '{url}'"));
        let (text, status) = said.trim_end().rsplit_once('\n').unwrap_or((&said, "0"));
        // with no answer curl's message follows the status
        match status.parse() {
            Ok(status) => Answer { status, text: text.trim().into() },
            Err(_) => Answer { status: 0, text: said.trim().into() },
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

/// The program `weft` beside this test, as a person would call it.
pub fn weft(words: &[&str]) -> Command {
    let here = std::env::current_exe().unwrap();
    let program: PathBuf = here.parent().and_then(|deps| deps.parent()).unwrap().join("weft");
    assert!(program.exists(), "{}: build it first: cargo build -p weft-cli", program.display());
    let mut c = Command::new(program);
    c.args(words);
    c
}
