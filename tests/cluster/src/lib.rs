//! A real Kubernetes for tests. `tests/cluster/cluster up` starts it; the tests in `tests/` run in its node's network (`tests/cluster/cluster enter`), so they reach the API
//! server, pods, Services and names as a node does. They need root, so they are marked `ignored` and `make test` asks for them where it can.
//!
//! A test makes a [`Namespace`] of its own, applies objects, runs pods, and looks at what they say. What it makes goes away when it is dropped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a cluster that does not do as told fails its test

pub mod capture;
pub mod left;
pub mod load;
pub mod mesh;

use k8s_openapi::api::core::v1::{Namespace as KubeNamespace, Pod};
use kube::{
    Client, ResourceExt as _,
    api::{Api, DeleteParams, DynamicObject, GroupVersionKind, LogParams, ObjectMeta, Patch, PatchParams, PostParams},
    discovery,
};
use serde_json::{Value, json};
use std::{
    fmt::Debug,
    path::PathBuf,
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// Images are named as `images/build.sh` names them.
pub fn image(name: &str) -> String {
    format!("weft.dev/{name}:{}", env!("CARGO_PKG_VERSION"))
}

/// The kit's image of a shell and its tools: busybox, curl, both iptables, nft, testd.
pub const TOOLS: &str = "weft.test/tools:1";

/// How long a pod may take: an image is there, so what takes longer on two busy cores is an error.
pub const SOON: Duration = Duration::from_secs(90);

/// The cluster in whose network this process runs.
pub async fn client() -> Client {
    Client::try_default().await.expect(
        "no cluster: run these tests by `tests/cluster/cluster enter cargo test -p weft-test-cluster -- --ignored`",
    )
}

/// `tests/cluster/cluster VERB...`
pub fn script(words: &[&str]) -> Command {
    let mut c = Command::new(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("cluster"));
    c.args(words);
    c
}

/// Standard output and error of a command, for messages.
pub fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// Asks until there is an answer, twenty times a second; panics with the last refusal after `limit`.
pub async fn eventually<T, E: Debug>(what: &str, limit: Duration, mut ask: impl AsyncFnMut() -> Result<T, E>) -> T {
    let end = Instant::now() + limit;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(e) if Instant::now() > end => panic!("{what}: not within {limit:?}: {e:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A namespace of a test's own; deleted, without waiting for it, when dropped.
pub struct Namespace {
    pub name: String,
    pub client: Client,
}

impl Namespace {
    pub async fn new(title: &str, labels: &[(&str, &str)]) -> Self {
        let client = client().await;
        let name = format!("{title}-{:x}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let labels = labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let object = KubeNamespace {
            metadata: ObjectMeta { name: Some(name.clone()), labels: Some(labels), ..Default::default() },
            ..Default::default()
        };
        Api::all(client.clone()).create(&PostParams::default(), &object).await.unwrap();
        Namespace { name, client }
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// Applies an object of any kind to this namespace, as `kubectl apply --server-side` would.
    pub async fn apply(&self, object: Value) {
        let mut object: DynamicObject = serde_json::from_value(object).unwrap();
        object.metadata.namespace = Some(self.name.clone());
        let types = object.types.clone().unwrap();
        let gvk = GroupVersionKind::try_from(&types).unwrap();
        let (resource, _) = discovery::pinned_kind(&self.client, &gvk).await.unwrap();
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.name, &resource);
        let params = PatchParams::apply("weft-test").force();
        let name = object.name_any();
        // the service account of a new namespace comes a moment later, and pods are refused until then
        eventually(&format!("apply {} {name}", types.kind), SOON, async || {
            api.patch(&name, &params, &Patch::Apply(&object)).await
        })
        .await;
    }

    /// Applies a pod and waits until it has ended; its phase, and the pod as it was then.
    pub async fn run(&self, pod: Value) -> (String, Pod) {
        let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
        self.apply(pod).await;
        let phase = async || {
            let pod = self.pods().get(&name).await.map_err(|e| e.to_string())?;
            match pod.status.as_ref().and_then(|s| s.phase.as_deref()) {
                Some(p @ ("Succeeded" | "Failed")) => Ok((p.to_owned(), pod)),
                _ => Err(format!("{:?}", pod.status)),
            }
        };
        eventually(&format!("end of pod {name}"), SOON, phase).await
    }

    /// Waits until a pod is Ready.
    pub async fn ready(&self, name: &str) -> Pod {
        let ready = async || {
            let pod = self.pods().get(name).await.map_err(|e| e.to_string())?;
            let status = pod.status.clone().unwrap_or_default();
            let is = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
            if is { Ok(pod) } else { Err(format!("{status:?}")) }
        };
        eventually(&format!("pod {name} Ready"), SOON, ready).await
    }

    /// What a container has written so far.
    pub async fn logs(&self, pod: &str, container: &str) -> String {
        let params = LogParams { container: Some(container.into()), ..Default::default() };
        self.pods().logs(pod, &params).await.unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("kubectl").args(["delete", "namespace", &self.name, "--wait=false"]).output();
    }
}

/// The deletion parameters of tests: at once.
pub fn now() -> DeleteParams {
    DeleteParams::default().grace_period(0)
}

/// The security context that the restricted profile of Kubernetes wants, with a root that cannot be written.
pub fn restricted(uid: u32) -> Value {
    json!({
        "runAsNonRoot": true, "runAsUser": uid, "runAsGroup": uid, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
    })
}

/// A pod of one container that runs a command to its end.
pub fn once(name: &str, image: &str, command: &[&str], security: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": image, "command": command, "securityContext": security}],
        },
    })
}
