//! The mesh in one process: a real CA, a real controller on a folder of YAML, a real sidecar for each pod and an application behind it, on loopback.
//!
//! Each pod has a block of loopback addresses of its own (`127.A.B.0/24`), so meshes of different tests do not meet. What a pod dials goes to its own sidecar's listeners, which stand
//! for the cluster's addresses; everything after that is what runs in a cluster.

#![allow(clippy::unwrap_used, clippy::panic)] // a mesh that cannot be set up fails its test

pub mod app;
pub mod client;
pub mod conformance;
pub mod load;
pub mod objects;
pub mod program;
pub mod raw;

use app::{App, Reply, Script, Seen};
use client::Call;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{runtime::Runtime, task::block_in_place};
use tokio_util::sync::CancellationToken;
use weft_ca::{
    Ca, CaSettings, FileStore, State,
    authenticate::LocalAuthenticator,
    state::Lives,
    token::{Claims, Pod as TokenPod, TokenSigner},
};
use weft_controller::{Folder, Mesh as MeshSettings, run};
use weft_core::identity::WorkloadIdentity;
use weft_discovery::certificates::TokenSource;
use weft_identity::{CONTROLLER_ACCOUNT, SYSTEM_NAMESPACE, provider::system_clock};
use weft_proxy::{
    config::{Away, Capture, Config, Controller, Credentials, Dial, Limits, Listen, Mapped, Pod as ProxyPod, Timeouts},
    control::Proxy,
};

/// The longest that anything may take before it counts as hanging.
pub const LIMIT: Duration = Duration::from_secs(20);
const DOMAIN: &str = "cluster.local";

static NEXT_BLOCK: AtomicU16 = AtomicU16::new(0);

/// A block of loopback addresses that no other pod of this process has; processes differ by their id.
fn block() -> [u8; 2] {
    let [high, low] = NEXT_BLOCK.fetch_add(1, Relaxed).to_be_bytes();
    assert!(high < 4, "a test process starts at most 1,024 pods");
    [16 + (std::process::id() % 50) as u8 * 4 + high, low]
}

/// Ports below 1024 cannot be listened on without a capability.
fn unprivileged(port: u16) -> u16 {
    if port < 1024 { 30_000 + port } else { port }
}

#[derive(Default)]
pub struct Builder {
    yaml: String,
    scripts: BTreeMap<String, Script>,
    away: Away,
    leaf: Option<Duration>,
    tweak: Option<Tweak>,
    bare: Vec<String>,
}
type Tweak = fn(&mut Config);

impl Builder {
    pub fn yaml(mut self, text: &str) -> Self {
        self.yaml.push_str(text);
        self
    }
    /// The application of a pod; others echo.
    pub fn app(mut self, pod: &str, script: impl Fn(u64, &Seen) -> Reply + Send + Sync + 'static) -> Self {
        self.scripts.insert(pod.into(), Arc::new(script));
        self
    }
    pub fn away(mut self, away: Away) -> Self {
        self.away = away;
        self
    }
    /// Life of a leaf certificate.
    pub fn leaf(mut self, life: Duration) -> Self {
        self.leaf = Some(life);
        self
    }
    /// This pod's application is the test's own: it listens on [`PodHandle::app_address`].
    pub fn bare(mut self, pod: &str) -> Self {
        self.bare.push(pod.into());
        self
    }
    /// Changes the start configuration of each sidecar.
    pub fn tweak(mut self, f: Tweak) -> Self {
        self.tweak = Some(f);
        self
    }
    pub async fn start(self) -> Mesh {
        Mesh::build(self).await
    }
}

#[derive(Clone, Debug)]
struct PodSpec {
    name: String,
    namespace: String,
    account: String,
    uid: String,
    /// The IPv4 address first.
    ips: Vec<IpAddr>,
    ports: Vec<u16>,
    meshed: bool,
    block: [u8; 2],
}
impl PodSpec {
    fn at(&self, host: u8, port: u16) -> SocketAddr {
        let [a, b] = self.block;
        SocketAddr::new(Ipv4Addr::new(127, a, b, host).into(), unprivileged(port))
    }
    fn app(&self, port: u16) -> SocketAddr {
        self.at(1, port)
    }
    fn inbound(&self, port: u16) -> SocketAddr {
        self.at(2, port)
    }
    /// Each of the pod's addresses with the listener that stands for it.
    fn inbound_of(&self, port: u16) -> impl Iterator<Item = (SocketAddr, SocketAddr)> {
        self.ips.iter().map(move |ip| (SocketAddr::new(*ip, port), self.at(if ip.is_ipv6() { 4 } else { 2 }, port)))
    }
}

#[derive(Clone, Debug)]
struct ServicePort {
    name: String,
    namespace: String,
    port: u16,
    ip: IpAddr,
}

/// A running mesh.
pub struct Mesh {
    pub dir: tempfile::TempDir,
    pub ca: Arc<Ca>,
    pods: Vec<PodSpec>,
    services: Vec<ServicePort>,
    apps: BTreeMap<String, App>,
    proxies: BTreeMap<String, Proxy>,
    away: Away,
    tweak: Option<Tweak>,
    ca_address: SocketAddr,
    controller_address: SocketAddr,
    controller: Option<Runtime>,
    signer: TokenSigner,
    stop: CancellationToken,
}

fn text(v: &Value) -> String {
    v.as_str().unwrap_or_default().into()
}

impl Mesh {
    pub fn builder() -> Builder {
        Builder::default()
    }
    pub async fn start(yaml: &str) -> Mesh {
        Mesh::builder().yaml(yaml).start().await
    }

    async fn build(b: Builder) -> Mesh {
        weft_identity::provider::install();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("objects")).unwrap();
        fs::write(dir.path().join("objects/all.yaml"), &b.yaml).unwrap();
        let objects: Vec<Value> = serde_saphyr::from_multiple(&b.yaml).unwrap();
        let (pods, services) = read(&objects);

        let stop = CancellationToken::new();
        let (signer, _) = TokenSigner::generate().unwrap();
        let clock = system_clock();
        let mut settings = CaSettings::new(DOMAIN).unwrap();
        settings.leaf = b.leaf.unwrap_or(settings.leaf);
        settings.hold = Duration::from_millis(200);
        settings.poll = Duration::from_millis(100);
        let ca = Ca::open(
            settings,
            Arc::new(FileStore::open(&dir.path().join("ca")).unwrap()),
            Arc::new(LocalAuthenticator::new(signer.verifier(), clock.clone())),
            clock,
            |now| State::make(DOMAIN, None, now, Lives::default()),
        )
        .unwrap();
        ca.bundle().write(&dir.path().join("bundle.pem")).unwrap();
        let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
        let listener = tokio::net::TcpListener::bind(any).await.unwrap();
        let ca_address = listener.local_addr().unwrap();
        {
            let (ca, stop) = (ca.clone(), stop.clone());
            tokio::spawn(async move { ca.serve(listener, stop).await });
        }

        let mut mesh = Mesh {
            dir,
            ca,
            pods,
            services,
            apps: BTreeMap::new(),
            proxies: BTreeMap::new(),
            away: b.away,
            tweak: b.tweak,
            ca_address,
            controller_address: {
                let [a, b] = block();
                (Ipv4Addr::new(127, a, b, 1), 15012).into()
            },
            controller: None,
            signer,
            stop,
        };
        mesh.start_controller();
        for p in mesh.pods.clone() {
            let app = match b.scripts.get(&p.name) {
                Some(script) => {
                    let script = script.clone();
                    App::scripted(&p.name, move |n, s| script(n, s))
                }
                None => App::echo(&p.name),
            };
            if !b.bare.contains(&p.name) {
                for port in &p.ports {
                    app.serve(p.app(*port)).await.unwrap();
                }
                mesh.apps.insert(p.name.clone(), app);
            }
            if p.meshed {
                mesh.start_proxy(&p);
            }
        }
        mesh
    }

    /// Starts a controller: it reads the folder anew, knows nobody, and gets a certificate of its own.
    fn start_controller(&mut self) {
        let Credentials::Ca { token, .. } =
            self.credentials("controller", SYSTEM_NAMESPACE, CONTROLLER_ACCOUNT, "controller-uid")
        else {
            unreachable!("credentials are always the CA's")
        };
        let settings = run::Settings {
            mesh: MeshSettings::default(),
            listen: self.controller_address,
            ca: run::CaSettings {
                addresses: vec![self.ca_address.to_string()],
                token: TokenSource::File(token),
                bundle: self.dir.path().join("bundle.pem"),
            },
            replica: "controller-0".into(),
            admin: None,
        };
        let folder = Folder::new([self.folder()]);
        // threads of its own, so that it can end as a process that is killed does
        let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        rt.spawn(async move {
            if let Err(e) = run::run(settings, folder, CancellationToken::new()).await {
                panic!("the controller ended: {e:#}");
            }
        });
        self.controller = Some(rt);
    }

    /// Kills the controller: streams break, nothing new is answered.
    pub fn stop_controller(&mut self) {
        if let Some(rt) = self.controller.take() {
            rt.shutdown_background();
        }
    }
    /// Starts another one at the same address.
    pub async fn restart_controller(&mut self) {
        // the address is free once the old one's listener is gone
        eventually("the controller's address is free", async || {
            tokio::net::TcpListener::bind(self.controller_address).await.is_ok()
        })
        .await;
        // whoever comes later trusts what the CA has now
        self.ca.bundle().write(&self.dir.path().join("bundle.pem")).unwrap();
        self.start_controller();
    }

    fn credentials(&self, name: &str, namespace: &str, account: &str, uid: &str) -> Credentials {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let pod = TokenPod { name: name.into(), uid: uid.into(), ips: vec![] };
        let token = self.signer.sign(&Claims::new(namespace, account, pod, now, 3600)).unwrap();
        let path = self.dir.path().join(format!("{name}.token"));
        fs::write(&path, token).unwrap();
        let state = self.dir.path().join(format!("{name}.state"));
        fs::create_dir_all(&state).unwrap();
        Credentials::Ca {
            address: self.ca_address.to_string(),
            identity: None,
            token: path,
            bundle: self.dir.path().join("bundle.pem"),
            state: Some(state),
        }
    }

    fn start_proxy(&mut self, p: &PodSpec) {
        let mut outbound = Vec::new();
        for (i, s) in self.services.iter().enumerate() {
            outbound.push(Listen { listen: p.at(10 + i as u8, s.port), original: SocketAddr::new(s.ip, s.port) });
        }
        for (i, o) in self.pods.iter().enumerate() {
            outbound.extend(
                o.ports.iter().map(|port| Listen {
                    listen: p.at(100 + i as u8, *port),
                    original: SocketAddr::new(o.ips[0], *port),
                }),
            );
        }
        let mut dial = Vec::new();
        for o in &self.pods {
            let to = |port, inbound| if o.meshed { inbound } else { o.app(port) };
            let addresses =
                o.ports.iter().flat_map(|port| o.inbound_of(*port).map(|(original, at)| (*port, original, at)));
            dial.extend(addresses.map(|(port, original, at)| Dial { original, to: to(port, at) }));
        }
        let mapped = Mapped {
            outbound,
            inbound: p
                .ports
                .iter()
                .flat_map(|port| p.inbound_of(*port).map(|(original, listen)| Listen { listen, original }))
                .collect(),
            dial,
            app: p
                .ports
                .iter()
                .flat_map(|port| p.inbound_of(*port).map(|(original, _)| Dial { original, to: p.app(*port) }))
                .collect(),
        };
        let mut config = Config {
            pod: ProxyPod {
                uid: p.uid.as_str().into(),
                ips: p.ips.clone(),
                namespace: p.namespace.as_str().into(),
                name: p.name.as_str().into(),
                zone: None,
                identity: Some(WorkloadIdentity::new(DOMAIN, &p.namespace, &p.account).unwrap()),
            },
            capture: Capture::Mapped(mapped),
            admin: p.at(3, 15020),
            workers: 1,
            credentials: Some(self.credentials(&p.name, &p.namespace, &p.account, &p.uid)),
            controller: Some(Controller {
                address: self.controller_address.to_string(),
                identity: None,
                away: self.away,
            }),
            fixed: None,
            limits: Limits::default(),
            timeouts: Timeouts { grace: 2_500, ..Timeouts::default() },
            access_log: None,
        };
        if let Some(tweak) = self.tweak {
            tweak(&mut config);
        }
        let proxy = Proxy::start(config).unwrap();
        let ready = block_in_place(|| proxy.wait_ready(LIMIT));
        assert!(ready, "the sidecar of {} is {:?}", p.name, *proxy.state().borrow());
        self.proxies.insert(p.name.clone(), proxy);
    }

    /// A pod to make calls from.
    pub fn pod(&self, name: &str) -> PodHandle<'_> {
        let spec = self.pods.iter().position(|p| p.name == name).unwrap_or_else(|| panic!("no pod {name}"));
        PodHandle { mesh: self, spec: &self.pods[spec] }
    }
    /// The application behind a pod.
    pub fn app(&self, pod: &str) -> &App {
        &self.apps[pod]
    }
    /// An application for a bare pod that echoes; the test says where it listens.
    pub fn echo(&mut self, pod: &str) -> App {
        let app = App::echo(pod);
        self.apps.insert(pod.into(), app.clone());
        app
    }
    pub fn proxy(&self, pod: &str) -> &Proxy {
        &self.proxies[pod]
    }
    /// What a pod's sidecar believes.
    pub async fn dump(&self, pod: &str) -> Value {
        let call = Call::new(self.proxies[pod].admin(), "admin").path("/dump");
        serde_json::from_slice(&call.send().await.unwrap().body).unwrap()
    }
    /// Takes a sidecar out of service as a deleted pod's is: drain, then terminate, then gone. Its application stays.
    pub fn retire(&mut self, pod: &str) {
        let proxy = self.proxies.remove(pod).unwrap_or_else(|| panic!("{pod} has no sidecar"));
        proxy.control().terminate();
        assert!(block_in_place(|| proxy.wait_stopped(LIMIT)), "the sidecar of {pod} does not stop");
    }
    /// A new sidecar for a pod whose last one has been retired.
    pub fn revive(&mut self, pod: &str) {
        let spec = self.pods.iter().find(|p| p.name == pod).unwrap_or_else(|| panic!("no pod {pod}")).clone();
        self.ca.bundle().write(&self.dir.path().join("bundle.pem")).unwrap();
        self.start_proxy(&spec);
    }
    /// The folder that the controller reads.
    pub fn folder(&self) -> PathBuf {
        self.dir.path().join("objects")
    }
    /// Replaces what the folder holds, as an editor saves.
    pub fn save(&self, yaml: &str) {
        let (new, path) = (self.folder().join("all.yaml~"), self.folder().join("all.yaml"));
        fs::write(&new, yaml).unwrap();
        fs::rename(new, path).unwrap();
    }
    /// Metrics of a pod's sidecar.
    pub async fn metrics(&self, pod: &str) -> String {
        let call = Call::new(self.proxies[pod].admin(), "admin").path("/metrics");
        String::from_utf8(call.send().await.unwrap().body.to_vec()).unwrap()
    }
}

/// Asks again until the answer is yes; panics at [`LIMIT`].
pub async fn eventually(what: &str, mut ask: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !ask().await {
        assert!(Instant::now() < end, "{what}: not within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        for p in self.proxies.values() {
            p.control().stop();
        }
        self.stop_controller();
        self.stop.cancel();
    }
}

/// A pod of a running mesh.
pub struct PodHandle<'a> {
    mesh: &'a Mesh,
    spec: &'a PodSpec,
}

impl PodHandle<'_> {
    /// Where this pod's application dials to reach a Service port.
    pub fn service_address(&self, service: &str, port: u16) -> SocketAddr {
        let find = |s: &ServicePort| s.name == service && s.port == port;
        let i = self.mesh.services.iter().position(find).unwrap_or_else(|| panic!("no Service {service}:{port}"));
        let s = &self.mesh.services[i];
        // without a sidecar kube-proxy would choose an endpoint; tests of such clients dial pods
        assert!(self.spec.meshed, "{} has no sidecar to dial {} through", self.spec.name, s.namespace);
        self.spec.at(10 + i as u8, port)
    }
    /// The same by the Service's address of a family.
    pub fn service_address_of(&self, service: &str, port: u16, ipv6: bool) -> SocketAddr {
        let find = |s: &ServicePort| s.name == service && s.port == port && s.ip.is_ipv6() == ipv6;
        let i = self.mesh.services.iter().position(find).unwrap_or_else(|| panic!("no Service {service}:{port}"));
        self.spec.at(10 + i as u8, port)
    }
    /// Where this pod's application listens.
    pub fn app_address(&self, port: u16) -> SocketAddr {
        self.spec.app(port)
    }
    /// Where other pods' sidecars dial this pod: its own sidecar's inbound listener.
    pub fn inbound_address(&self, port: u16) -> SocketAddr {
        self.spec.inbound(port)
    }
    /// A call to a Service port.
    pub fn call(&self, service: &str, port: u16) -> Call {
        Call::new(self.service_address(service, port), service)
    }
    /// Where this pod's application dials to reach another pod's own address.
    pub fn pod_address(&self, pod: &str, port: u16) -> SocketAddr {
        let i = self.mesh.pods.iter().position(|p| p.name == pod).unwrap_or_else(|| panic!("no pod {pod}"));
        let other = &self.mesh.pods[i];
        match (self.spec.meshed, other.meshed) {
            (true, _) => self.spec.at(100 + i as u8, port),
            (false, true) => other.inbound(port),
            (false, false) => other.app(port),
        }
    }
    /// A call to a pod's own address.
    pub fn call_pod(&self, pod: &str, port: u16) -> Call {
        Call::new(self.pod_address(pod, port), pod)
    }
}

fn read(objects: &[Value]) -> (Vec<PodSpec>, Vec<ServicePort>) {
    let (mut pods, mut services) = (Vec::new(), Vec::new());
    let injected = |ns: &str| {
        let find = |o: &&Value| o["kind"] == "Namespace" && o["metadata"]["name"] == ns;
        objects.iter().find(find).is_some_and(|o| o["metadata"]["labels"]["weft.dev/inject"] == "enabled")
    };
    for o in objects {
        let (meta, spec) = (&o["metadata"], &o["spec"]);
        match o["kind"].as_str() {
            Some("Pod") => {
                let containers = spec["containers"].as_array().into_iter().flatten();
                let ports = containers.flat_map(|c| c["ports"].as_array().into_iter().flatten());
                let namespace = text(&meta["namespace"]);
                pods.push(PodSpec {
                    name: text(&meta["name"]),
                    account: spec["serviceAccountName"].as_str().unwrap_or("default").into(),
                    uid: text(&meta["uid"]),
                    ips: {
                        let first = o["status"]["podIP"].as_str().into_iter();
                        let all = o["status"]["podIPs"].as_array().into_iter().flatten();
                        let mut ips: Vec<IpAddr> =
                            first.chain(all.filter_map(|i| i["ip"].as_str())).map(|ip| ip.parse().unwrap()).collect();
                        ips.sort();
                        ips.dedup();
                        ips
                    },
                    ports: ports.map(|p| p["containerPort"].as_u64().unwrap() as u16).collect(),
                    meshed: match meta["labels"]["weft.dev/inject"].as_str() {
                        Some(l) => l == "enabled",
                        None => injected(&namespace),
                    },
                    namespace,
                    block: block(),
                });
            }
            Some("Service") => {
                let first = spec["clusterIP"].as_str().into_iter();
                let all = spec["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str);
                let mut ips: Vec<IpAddr> = first.chain(all).map(|ip| ip.parse().unwrap()).collect();
                ips.sort();
                ips.dedup();
                for (ip, p) in
                    ips.iter().flat_map(|ip| spec["ports"].as_array().into_iter().flatten().map(move |p| (ip, p)))
                {
                    services.push(ServicePort {
                        name: text(&meta["name"]),
                        namespace: text(&meta["namespace"]),
                        port: p["port"].as_u64().unwrap() as u16,
                        ip: *ip,
                    });
                }
            }
            _ => {}
        }
    }
    (pods, services)
}
