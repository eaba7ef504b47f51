//! Steady load in the mesh: a server of two pods, three meshed clients that keep their connections, together well over 200 requests a second. [`Load::phase`] says what is being done to the mesh;
//! [`Load::finish`] fails when one request failed, and names the phase and the reason of each.

use crate::{
    Namespace, SOON, eventually, image,
    mesh::{ENABLED, available},
    now,
};
use futures_util::{AsyncBufReadExt as _, TryStreamExt as _};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    ResourceExt as _,
    api::{Api, ListParams, LogParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use std::{
    fmt::Write as _,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::task::JoinHandle;

/// Calls a second of one client, and over how many connections. Three clients at 80 leave a fifth above the 200 that the tests claim.
const RATE: u32 = 40;
const CONNECTIONS: u32 = 2;
pub const CLIENTS: usize = 3;

/// Microseconds since 1970, as the load program writes them.
pub fn stamp() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()
}

/// A container of `weft-test-load`, mounted from this machine's disk: `program` is `env!("CARGO_BIN_EXE_weft-test-load")`, which only a test file knows. The second value is the volume.
pub fn container(program: &str, args: &[&str]) -> (Value, Value) {
    let container = json!({
        "name": "app", "image": image("sample"), "command": ["/load"], "args": args,
        "volumeMounts": [{"name": "load", "mountPath": "/load", "readOnly": true}],
        "resources": {"requests": {"cpu": "10m", "memory": "10Mi"}},
    });
    (container, json!({"name": "load", "hostPath": {"path": program, "type": "File"}}))
}

/// A pod of one container of the load program.
pub fn pod(program: &str, name: &str, args: &[&str]) -> Value {
    let (container, volume) = container(program, args);
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 5, "containers": [container], "volumes": [volume]},
    })
}

/// A Deployment of the load program's server, and a Service of the same name, port 80. `answers` is what it calls itself; None: the pod's name.
pub fn server(program: &str, name: &str, replicas: u32, answers: Option<&str>) -> [Value; 2] {
    let (mut container, volume) = container(program, &["serve"]);
    container["env"] = match answers {
        Some(a) => json!([{"name": "NAME", "value": a}]),
        None => json!([{"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]),
    };
    // its path alone would be let through in plain text to a strict workload
    container["readinessProbe"] = json!({"httpGet": {"path": "/probe", "port": 8080}, "periodSeconds": 1});
    let labels = json!({"app": name});
    [
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {
                "replicas": replicas, "selector": {"matchLabels": labels}, "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": "100%"}},
                "template": {"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": 20, "containers": [container], "volumes": [volume]}},
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": labels, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
        }),
    ]
}

/// `kubectl rollout restart`, and waits for it.
pub async fn restart(client: &kube::Client, namespace: &str, name: &str) {
    let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let annotation =
        json!({"spec": {"template": {"metadata": {"annotations": {"weft.test/restarted": stamp().to_string()}}}}});
    api.patch(name, &PatchParams::default(), &Patch::Merge(&annotation)).await.unwrap();
    available(client, namespace, name).await;
}

/// Kills the pods of a Deployment with no grace, as a machine that loses power would, and waits for others in their place.
pub async fn kill(client: &kube::Client, namespace: &str, name: &str) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let of = ListParams::default().labels(&format!("app.kubernetes.io/name={name}"));
    // one that is on its way out already is not replaced
    let staying = pods.list(&of).await.unwrap().items.into_iter().filter(|p| p.metadata.deletion_timestamp.is_none());
    let old: Vec<String> = staying.map(|p| p.name_any()).collect();
    for pod in &old {
        pods.delete(pod, &now()).await.unwrap();
    }
    assert!(!old.is_empty(), "{namespace}/{name} has no pods");
    let others = async || {
        let there = pods.list(&of).await.map_err(|e| e.to_string())?.items;
        let is_ready = |p: &Pod| {
            let conditions = p.status.iter().flat_map(|s| s.conditions.iter().flatten());
            conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
        };
        let stays = |p: &&Pod| !old.contains(&p.name_any()) && p.metadata.deletion_timestamp.is_none();
        let new = there.iter().filter(stays).filter(|p| is_ready(p)).count();
        if new >= old.len() { Ok(()) } else { Err(format!("{new} ready in the place of {old:?}")) }
    };
    eventually(&format!("others in the place of {namespace}/{name}"), SOON, others).await;
    available(client, namespace, name).await;
}

/// The lines of a container's log as they come.
pub struct Lines {
    seen: Arc<Mutex<Vec<String>>>,
    reader: JoinHandle<()>,
}

impl Lines {
    pub async fn follow(pods: &Api<Pod>, pod: &str, container: &str) -> Self {
        let params = LogParams { container: Some(container.into()), follow: true, ..Default::default() };
        let stream = pods.log_stream(pod, &params).await.unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = seen.clone();
        let reader = tokio::spawn(async move {
            let mut lines = stream.lines();
            while let Ok(Some(line)) = lines.try_next().await {
                kept.lock().unwrap().push(line);
            }
        });
        Lines { seen, reader }
    }

    pub fn all(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// The first line from `from` on for which `what` has an answer, and its place plus one.
    pub async fn until<T>(&self, from: usize, limit: Duration, what: impl Fn(&str) -> Option<T>) -> Option<(usize, T)> {
        let (end, mut at) = (Instant::now() + limit, from);
        loop {
            {
                let seen = self.seen.lock().unwrap();
                while let Some(line) = seen.get(at) {
                    at += 1;
                    if let Some(found) = what(line) {
                        return Some((at, found));
                    }
                }
            }
            if Instant::now() > end {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn len(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// The number after `key=` in a line.
pub fn number(line: &str, key: &str) -> Option<u64> {
    line.split(' ').find_map(|w| w.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
}

/// `change TIME SERVER`
pub fn change(line: &str) -> Option<(u128, &str)> {
    let (time, server) = line.strip_prefix("change ")?.split_once(' ')?;
    Some((time.parse().ok()?, server))
}

pub struct Load {
    pub ns: Namespace,
    clients: Vec<Lines>,
    phases: Vec<(u128, String)>,
    calls_before: u64,
}

impl Load {
    /// Two servers `web`, three clients of the Service, all meshed. `more` are further objects, made before the clients.
    pub async fn start(title: &str, program: &str, more: &[Value]) -> Self {
        let ns = Namespace::new(title, &[ENABLED]).await;
        // plain text would carry the load through many a defect
        let strict = json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": "MeshTLSPolicy", "metadata": {"name": "strict"},
            "spec": {"mode": "Strict", "targetRefs": [{"group": "", "kind": "Namespace", "name": ns.name}]},
        });
        for object in server(program, "web", 2, None).iter().chain(more).chain([&strict]) {
            ns.apply(object.clone()).await;
        }
        ns.available("web").await;
        for object in more.iter().filter(|o| o["kind"] == "Deployment") {
            ns.available(object["metadata"]["name"].as_str().unwrap()).await;
        }
        let to = format!("web.{}.svc.cluster.local:80", ns.name);
        let (rate, connections) = (RATE.to_string(), CONNECTIONS.to_string());
        let names: Vec<String> = (0..CLIENTS).map(|n| format!("client-{n}")).collect();
        for (n, name) in names.iter().enumerate() {
            let mut args = vec!["call", &to, "--rate", &rate, "--connections", &connections, "--changes"];
            // one of them speaks HTTP/2
            if n == CLIENTS - 1 {
                args.push("--http2");
            }
            ns.apply(pod(program, name, &args)).await;
        }
        let mut clients = Vec::new();
        for name in &names {
            ns.ready(name).await;
            clients.push(Lines::follow(&ns.pods(), name, "app").await);
        }
        let mut load = Load { ns, clients, phases: vec![(0, "start".into())], calls_before: 0 };
        load.settle("start").await;
        load.calls_before = load.counts("calls");
        load.phase("steady");
        load
    }

    /// What is done to the mesh from now on.
    pub fn phase(&mut self, name: &str) {
        self.phases.push((stamp(), name.into()));
    }

    /// Waits until every client has said how it fares twice from now on: what was done has met at least a second of calls.
    pub async fn settle(&self, what: &str) {
        for (n, client) in self.clients.iter().enumerate() {
            let mut at = client.len();
            for _ in 0..2 {
                let sum = |l: &str| l.starts_with("sum ").then_some(());
                let found = client.until(at, SOON, sum).await;
                at = found.unwrap_or_else(|| panic!("{what}: client {n} says nothing: {:?}", client.all())).0;
            }
        }
    }

    /// Sum over the clients of the newest value of a count.
    fn counts(&self, key: &str) -> u64 {
        let newest = |c: &Lines| {
            c.all().iter().rev().filter(|l| l.starts_with("sum ")).find_map(|l| number(l, key)).unwrap_or(0)
        };
        self.clients.iter().map(newest).sum()
    }

    pub fn client(&self, n: usize) -> &Lines {
        &self.clients[n]
    }

    fn phase_at(&self, time: u128) -> &str {
        self.phases.iter().rev().find(|(from, _)| *from <= time).map_or("?", |(_, name)| name)
    }

    /// Every failure so far, with phase, client and reason.
    pub fn failures(&self) -> Vec<String> {
        let mut all = Vec::new();
        for (n, client) in self.clients.iter().enumerate() {
            for line in client.all() {
                let Some((time, why)) = line.strip_prefix("fail ").and_then(|l| l.split_once(' ')) else { continue };
                let time: u128 = time.parse().unwrap();
                let after = why
                    .strip_prefix("after ")
                    .and_then(|w| w.split_once(' '))
                    .and_then(|(ms, _)| ms.parse::<u128>().ok());
                // when it was sent decides: an answer that never came is told of 5 s later
                let sent = time - after.unwrap_or(0) * 1000;
                let phase = self.phase_at(sent);
                let into = sent
                    .saturating_sub(self.phases.iter().rev().find(|(f, _)| *f <= sent).map_or(0, |(f, _)| *f))
                    / 1000;
                all.push(format!("{phase} (+{into} ms): client {n}: {why}"));
            }
        }
        all
    }

    /// What has come of the load, in words; fails when there was too little.
    pub async fn end(&self) -> Report {
        self.settle("end").await;
        let (calls, failed) = (self.counts("calls") - self.calls_before, self.counts("failed"));
        let seconds = (stamp() - self.phases[1].0) as f64 / 1e6;
        let rate = calls as f64 / seconds;
        let slowest = |from: u128, to: u128| {
            let of = |l: &String| {
                let time: u128 = l.strip_prefix("sum ")?.split(' ').next()?.parse().ok()?;
                (from..to).contains(&time).then(|| number(l, "slowest_ms")).flatten()
            };
            self.clients.iter().flat_map(|c| c.all().iter().filter_map(of).collect::<Vec<_>>()).max().unwrap_or(0)
        };
        let mut text =
            format!("{calls} requests of {CLIENTS} clients in {seconds:.0} s, {rate:.0}/s, {failed} failed\n");
        let ends = self.phases.iter().skip(2).map(|(t, _)| *t).chain([stamp()]);
        for ((from, name), to) in self.phases.iter().skip(1).zip(ends) {
            let took = (to - from) as f64 / 1e6;
            // sums come once a second, so that one that began in this phase ends a second after it
            writeln!(text, "  {name}: {took:.1} s, slowest {} ms", slowest(*from, to + 1_000_000)).unwrap();
        }
        // one second at each end is not counted exactly
        assert!(calls as f64 >= 200.0 * (seconds - 2.0), "not the load of this test: {text}");
        Report { text, failed, slowest: slowest(self.phases[1].0, u128::MAX), failures: self.failures() }
    }

    /// No request failed, and there were enough of them.
    pub async fn finish(self) {
        let report = self.end().await;
        println!("{}", report.text);
        let n = report.failed;
        assert!(n == 0, "{}{n} requests failed:\n{}", report.text, report.failures.join("\n"));
    }
}

/// What has come of a load.
pub struct Report {
    pub text: String,
    pub failed: u64,
    /// The longest call, in milliseconds.
    pub slowest: u64,
    /// Phase, client and reason of each.
    pub failures: Vec<String>,
}
