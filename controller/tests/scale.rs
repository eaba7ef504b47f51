//! What a large cluster costs the controller: 1,000 Services with routes on half of them, 10,000 endpoints, 500 proxies.
//!
//! The controller runs in a process of its own (this program again), so that its memory is its own: objects come from an API server on a
//! loopback socket, proxies come over mutual TLS. Printed: resident memory, time until everything is read, time from an edit to a proxy.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../src/fake_api.rs"]
#[allow(dead_code)]
mod fake_api;

use fake_api::{FakeApi, GATEWAY};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Map, Value, json};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;
use weft_controller::{Kubernetes, Mesh, World, cluster, index::Members, metrics::Metrics, serve::Serving};
use weft_core::{
    route::Routes,
    service::{ServicePort, ServiceRef},
};
use weft_discovery::{ClientSettings, DiscoveryClient, DiscoveryServer, ServerSettings};
use weft_identity::{Bundle, CONTROLLER_ACCOUNT, CredentialCell, SYSTEM_NAMESPACE, testing::TestMesh};

const DOMAIN: &str = "cluster.local";
const SERVICES: usize = 1_000;
const PODS_EACH: usize = 10;
const PROXIES: usize = 500;
/// Services that each proxy talks to.
const USES: usize = 5;
/// Megabytes: the goal.
const MEMORY: f64 = 150.0;
const CHILD: &str = "WEFT_SCALE_CHILD";

/// The controller itself when the test below starts it, else nothing.
#[test]
fn controller() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(serve(Path::new(&dir)));
}
async fn serve(dir: &Path) {
    let read = |name: &str| fs::read(dir.join(name)).unwrap();
    let bundle = Arc::new(Bundle::read(&dir.join("bundle.pem"), Some(DOMAIN)).unwrap());
    let cell = CredentialCell::new(bundle.clone());
    let chain = ["leaf", "issuer"].map(|n| CertificateDer::from(read(n))).to_vec();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(read("key")));
    cell.install_leaf(key, chain, None, weft_identity::provider::system_clock()).unwrap();
    weft_identity::provider::install();
    let mut config = kube::Config::new(String::from_utf8(read("api")).unwrap().parse().unwrap());
    config.default_retry = false;
    let client = kube::Client::try_from(config).unwrap();
    let (metrics, stop) = (Arc::<Metrics>::default(), CancellationToken::new());
    let world = World::new(Mesh { members: Members::WithSidecar, ..Mesh::default() });
    let source = Kubernetes::new(client.clone(), metrics.clone());
    let writer = cluster::Writer {
        client,
        world: world.clone(),
        cluster: source.cluster(),
        metrics,
        leading: cluster::lease::Leading::always(),
        replica: "scale".into(),
        mesh: "weft".into(),
    };
    let (_turned, turns) = watch::channel(true);
    tokio::spawn(writer.run(turns, stop.clone()));
    let (following, stopped, began) = (world.clone(), stop.clone(), Instant::now());
    tokio::spawn(async move { following.follow(source, stopped).await.unwrap() });
    world.complete().wait_for(|c| *c).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("READY {} {}", listener.local_addr().unwrap(), began.elapsed().as_millis());
    let (_bundles, rx) = watch::channel(Some(bundle));
    let server = DiscoveryServer::new(Arc::new(Serving::new(world, rx)), ServerSettings::default());
    server.serve(listener, cell, stop).await;
}

/// Ends the controller with the test.
struct Running(Child);
impl Running {
    fn megabytes(&self, field: &str) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }
}
impl Drop for Running {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

fn namespace(s: usize) -> String {
    format!("n{}", s % 50)
}
fn cluster_ip(s: usize) -> String {
    format!("10.96.{}.{}", s / 250, s % 250 + 1)
}
fn uid(s: usize, n: usize) -> String {
    format!("00000000-0000-4000-8000-{:012}", s * PODS_EACH + n)
}

/// A pod as a cluster has it: most of it is of no interest to a mesh.
fn pod(s: usize, n: usize) -> Value {
    let index = s * PODS_EACH + n;
    let ip = format!("10.{}.{}.{}", 100 + index / 62_500, index / 250 % 250, index % 250 + 1);
    let env: Vec<Value> = (0..20)
        .map(|i| json!({"name": format!("SETTING_{i}"), "value": "a value of some length, as they are"}))
        .collect();
    let container = |name: &str| {
        json!({"name": name, "image": "registry.example/shop/app@sha256:0123456789abcdef", "env": env,
            "ports": [{"name": "web", "containerPort": 8080}], "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
            "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}},
            "volumeMounts": [{"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]})
    };
    let conditions =
        ["Ready", "Initialized", "ContainersReady", "PodScheduled"].map(|t| json!({"type": t, "status": "True"}));
    let managed: Map<String, Value> = (0..60).map(|i| (format!("f:field{i}"), json!({}))).collect();
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("s{s}-7d4b9c6f5-{n:05}"), "namespace": namespace(s), "uid": uid(s, n),
            "labels": {"app": format!("s{s}"), "pod-template-hash": "7d4b9c6f5"},
            "annotations": {"weft.dev/injected": "0.1.0", "kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"},
            "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": managed}}]},
        "spec": {"serviceAccountName": format!("s{s}"), "nodeName": format!("node-{}", index % 100),
            "containers": [container("app")],
            "initContainers": [container("weft-init"),
                {"name": "weft-proxy", "image": "weft.dev/weft-proxy:0.1.0", "env": env, "restartPolicy": "Always"}],
            "volumes": (0..5).map(|i| json!({"name": format!("v{i}"), "emptyDir": {}})).collect::<Vec<_>>(),
            "tolerations": [{"key": "node.kubernetes.io/not-ready"}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": conditions,
            "containerStatuses": [{"name": "app", "ready": true, "image": "registry.example/shop/app", "restartCount": 0}]}})
}
fn endpoint(s: usize, n: usize) -> Value {
    let p = pod(s, n);
    json!({"addresses": [p["status"]["podIP"]], "conditions": {"ready": true, "serving": true, "terminating": false},
        "nodeName": p["spec"]["nodeName"], "zone": "z1",
        "targetRef": {"kind": "Pod", "name": p["metadata"]["name"], "namespace": namespace(s), "uid": p["metadata"]["uid"]}})
}
fn route(s: usize, weight: u32) -> Value {
    let name = format!("s{s}");
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": name, "namespace": namespace(s)},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": name}],
            "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/v1"}}], "timeouts": {"request": "2s"},
                    "backendRefs": [{"name": name, "port": 80, "weight": weight}]},
                {"backendRefs": [{"name": name, "port": 80}]}]}})
}

fn fill(api: &FakeApi) {
    api.install_gateway_api();
    api.install_weft();
    api.install_mesh_kind();
    api.with(|a| {
        for n in 0..50 {
            a.apply(json!({"apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": namespace(n), "labels": {"weft.dev/inject": "enabled"}}}));
        }
        for n in 0..100 {
            a.apply(json!({"apiVersion": "v1", "kind": "Node",
                "metadata": {"name": format!("node-{n}"), "labels": {"topology.kubernetes.io/zone": format!("z{}", n % 3)}},
                "status": {"addresses": [{"type": "InternalIP", "address": format!("172.18.0.{}", n + 1)}]}}));
        }
        for s in 0..SERVICES {
            let (name, ip) = (format!("s{s}"), cluster_ip(s));
            a.apply(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace(s)},
                "spec": {"clusterIP": ip, "clusterIPs": [ip], "selector": {"app": name},
                    "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}));
            a.apply(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": format!("{name}-abcde"), "namespace": namespace(s), "labels": {"kubernetes.io/service-name": name},
                    "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z"}},
                "endpoints": (0..PODS_EACH).map(|n| endpoint(s, n)).collect::<Vec<_>>(),
                "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]}));
            (0..PODS_EACH).for_each(|n| a.apply(pod(s, n)));
            if s % 2 == 0 {
                a.apply(route(s, 1));
            }
        }
    });
    // what a watch would be told again
    api.compact();
}
fn service(s: usize) -> ServiceRef {
    ServiceRef { namespace: namespace(s).into(), name: format!("s{s}").into(), port: 80 }
}
fn weight(p: &ServicePort) -> Option<u32> {
    match &p.routes {
        Routes::Http(t) => t.rules.first()?.backends.first().map(|b| b.weight),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_cluster_fits_the_memory() {
    if std::env::var(CHILD).is_ok() {
        return;
    }
    let (api, dir, mesh) = (FakeApi::default(), tempfile::tempdir().unwrap(), TestMesh::new(DOMAIN));
    fill(&api);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    let (chain, key) = mesh.leaf(SYSTEM_NAMESPACE, CONTROLLER_ACCOUNT);
    write("api", format!("http://{}", listener.local_addr().unwrap()).as_bytes());
    write("bundle.pem", mesh.bundle().to_pem().as_bytes());
    write("leaf", &chain[0]);
    write("issuer", &chain[1]);
    write("key", key.secret_der());
    let answering = api.clone();
    let app = axum::Router::new().fallback(move |request: axum::extract::Request| {
        let api = answering.clone();
        async move { api.answer(request).await.map(axum::body::Body::new) }
    });
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let mut program = Command::new(std::env::current_exe().unwrap());
    program.args(["controller", "--exact", "--nocapture"]).env(CHILD, dir.path()).stdout(Stdio::piped());
    let mut child = Running(program.spawn().unwrap());
    let out = BufReader::new(child.0.stdout.take().unwrap());
    let ready = tokio::task::spawn_blocking(move || {
        // behind whatever the test harness says of itself
        let line = out.lines().map_while(Result::ok).find(|l| l.contains("READY ")).expect("the controller is ready");
        line.split("READY ").nth(1).unwrap().to_owned()
    });
    let ready = timeout(Duration::from_secs(240), ready).await.unwrap().unwrap();
    let (address, millis) = ready.split_once(' ').unwrap();
    println!(
        "{SERVICES} Services, {} pods and endpoints, {} routes: read in {millis} ms, {:.0} MB",
        SERVICES * PODS_EACH,
        SERVICES / 2,
        child.megabytes("VmRSS:")
    );
    // proxies of pods that exist, each with a certificate of its own; two to a Service that has routes
    let mut clients = Vec::new();
    for n in 0..PROXIES {
        let s = n * 2 % SERVICES;
        let uid = uid(s, 0);
        let controller = mesh.identity(SYSTEM_NAMESPACE, CONTROLLER_ACCOUNT);
        let settings = ClientSettings::new(vec![address.to_owned()], controller, &uid, &uid);
        let cell = mesh.cell(&namespace(s), &format!("s{s}"), Some(&uid));
        let (client, running) = DiscoveryClient::new(settings, cell);
        tokio::spawn(running);
        clients.push(client);
    }
    for (n, client) in clients.iter().enumerate() {
        timeout(Duration::from_secs(120), client.connection().wait_for(|c| *c)).await.expect("connected").unwrap();
        for u in 0..USES {
            let at = format!("{}:80", cluster_ip((n + u * 97) % SERVICES)).parse().unwrap();
            client.lookup(at).await.unwrap();
        }
    }
    // the first one uses Service 0
    let mut times = Vec::new();
    for edit in 2..=40 {
        let mut updates = clients[0].updates();
        let began = Instant::now();
        api.apply(route(0, edit));
        let seen = async {
            while clients[0].service_port(&service(0)).and_then(|p| weight(&p)) != Some(edit) {
                updates.next().await;
            }
        };
        timeout(Duration::from_secs(30), seen).await.expect("the edit arrives");
        times.push(began.elapsed());
    }
    times.sort();
    let mut changed = api.changed();
    let told = async {
        while api.all(GATEWAY, "httproutes").iter().any(|r| r["status"].is_null()) {
            changed.changed().await.unwrap();
        }
    };
    timeout(Duration::from_secs(240), told).await.expect("every route has a status");
    // private memory and the pages of the program: those of a program with debug information are more than an image's
    let memory = child.megabytes("VmRSS:");
    println!(
        "private: {:.0} MB, of the program's file: {:.0} MB",
        child.megabytes("RssAnon:"),
        child.megabytes("RssFile:")
    );
    println!(
        "and {PROXIES} proxies with {USES} Services each: {memory:.0} MB (at most {:.0}); edit to proxy: p50 {:?}, worst {:?}",
        child.megabytes("VmHWM:"),
        times[times.len() / 2],
        times[times.len() - 1]
    );
    assert!(memory <= MEMORY, "{memory} MB");
}
