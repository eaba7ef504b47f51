//! A real server and real clients over loopback with mutual TLS.

use crate::{
    client::{ClientSettings, DiscoveryClient, Found, LookupError, Update, Updates, control_channel},
    proto::{self, ControllerMessage, ProxyMessage, controller_message, proxy_message},
    resource::{Resource, ResourceName, Version},
    server::{Change, Changes, DiscoveryServer, Peer, PeerStatus, Provider, ServerSettings},
    wire,
};
use std::{
    collections::HashMap,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::{broadcast, mpsc},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};
use weft_core::{
    endpoint::{Endpoint, Endpoints},
    filter::Filters,
    matches::HttpMatch,
    policy::{InboundPolicy, MeshTlsMode},
    retry::Timeouts,
    route::{BackendRef, HttpTable, RouteKind, RouteRef, Routes, Rule, RuleMatches, WeightedBackend},
    service::{Protocol, ServicePort, ServiceRef, Target},
};
use weft_identity::{Bundle, CredentialCell, testing::TestMesh};

mod hostile;
mod sees;
mod unwell;

const SOON: Duration = Duration::from_secs(10);

/// Answers from tables; counts what it hears.
struct Tables {
    mesh: Arc<TestMesh>,
    inner: Mutex<Inner>,
    changes: broadcast::Sender<Arc<[Change]>>,
    heard: mpsc::UnboundedSender<Heard>,
}
#[derive(Default)]
struct Inner {
    targets: HashMap<SocketAddr, Target>,
    /// By namespace of the client, and service.
    ports: HashMap<(String, ServiceRef), Arc<ServicePort>>,
    endpoints: HashMap<ServiceRef, Arc<Endpoints>>,
    bundle: Option<Arc<Bundle>>,
    fetched: HashMap<String, usize>,
}
#[derive(Debug, PartialEq)]
enum Heard {
    Connected(String),
    Disconnected(String),
    Nacked(ResourceName, String),
    Acked(ResourceName),
    Status(PeerStatus),
}
impl Tables {
    fn edit(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }
    fn tell(&self, changes: &[Change]) {
        let _ = self.changes.send(changes.to_vec().into());
    }
    fn fetched(&self, what: &str) -> usize {
        self.edit().fetched.get(what).copied().unwrap_or(0)
    }
    fn count(&self, what: String) {
        *self.edit().fetched.entry(what).or_default() += 1;
    }
}
impl Provider for Tables {
    fn admit(&self, peer: &Peer) -> Result<(), Box<str>> {
        // pods are named after their service account here
        let owner = peer.uid.split('-').next().unwrap();
        let fits = peer.identity == self.mesh.identity(peer.namespace(), owner);
        fits.then_some(()).ok_or_else(|| format!("pod {} does not run as {}", peer.uid, peer.identity).into())
    }
    fn lookup(&self, _: &Peer, address: SocketAddr) -> Target {
        self.count(format!("lookup {address}"));
        self.edit().targets.get(&address).cloned().unwrap_or(Target::Outside)
    }
    fn service_port(&self, peer: &Peer, service: &ServiceRef) -> Option<Arc<ServicePort>> {
        self.count(format!("port {service}"));
        let inner = self.edit();
        let of = |ns: &str| inner.ports.get(&(ns.to_string(), service.clone())).cloned();
        of(peer.namespace()).or_else(|| of(""))
    }
    fn endpoints(&self, _: &Peer, service: &ServiceRef) -> Option<Arc<Endpoints>> {
        self.count(format!("endpoints {service}"));
        self.edit().endpoints.get(service).cloned()
    }
    fn inbound(&self, peer: &Peer) -> Option<Arc<InboundPolicy>> {
        let tls = if peer.namespace() == "strict" { MeshTlsMode::Strict } else { MeshTlsMode::Permissive };
        Some(Arc::new(InboundPolicy { tls, ..Default::default() }))
    }
    fn bundle(&self) -> Option<Arc<Bundle>> {
        self.edit().bundle.clone()
    }
    fn changes(&self) -> Changes {
        self.changes.subscribe()
    }
    fn connected(&self, peer: &Arc<Peer>) {
        let _ = self.heard.send(Heard::Connected(peer.uid.to_string()));
    }
    fn disconnected(&self, peer: &Arc<Peer>) {
        let _ = self.heard.send(Heard::Disconnected(peer.uid.to_string()));
    }
    fn acked(&self, _: &Peer, name: &ResourceName, _: Version) {
        let _ = self.heard.send(Heard::Acked(name.clone()));
    }
    fn nacked(&self, _: &Peer, name: &ResourceName, _: Version, reason: &str) {
        let _ = self.heard.send(Heard::Nacked(name.clone(), reason.into()));
    }
    fn status(&self, _: &Peer, status: &PeerStatus) {
        let _ = self.heard.send(Heard::Status(status.clone()));
    }
}

fn service(name: &str) -> ServiceRef {
    ServiceRef { namespace: "shop".into(), name: name.into(), port: 80 }
}
fn endpoints(name: &str, hosts: &[u8]) -> Arc<Endpoints> {
    let one = |h: &u8| {
        Arc::new(Endpoint {
            address: ([10, 0, 0, *h], 8080).into(),
            mesh: None,
            zone: None,
            terminating: false,
            workload: format!("{name}-{h}").into(),
        })
    };
    Arc::new(Endpoints {
        service: service(name),
        endpoints: hosts.iter().map(one).collect(),
        not_ready: 0,
        http2: false,
        prefer_zone: false,
        policy: Default::default(),
    })
}
fn port(name: &str, backends: &[&str]) -> Arc<ServicePort> {
    let route = RouteRef { kind: RouteKind::Http, namespace: "shop".into(), name: "r".into(), created: 0 };
    let one =
        |b: &&str| WeightedBackend { backend: BackendRef::Service(service(b)), weight: 1, filters: Filters::default() };
    let rule = Rule {
        route: Arc::new(route),
        index: 0,
        name: None,
        matches: RuleMatches::Http(vec![HttpMatch::default()]),
        filters: Filters::default(),
        backends: backends.iter().map(one).collect(),
        timeouts: Timeouts::default(),
        retry: None,
    };
    let routes = match backends {
        [] => Routes::None,
        _ => Routes::Http(Arc::new(HttpTable::from(vec![Arc::new(rule)]))),
    };
    Arc::new(ServicePort {
        service: service(name),
        protocol: Protocol::Http,
        routes,
        affinity: None,
        requests: Default::default(),
        addresses: vec![],
    })
}
fn vip(last: u8) -> SocketAddr {
    ([10, 96, 0, last], 80).into()
}

struct Controller {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
    server: DiscoveryServer<Tables>,
}
struct World {
    mesh: Arc<TestMesh>,
    tables: Arc<Tables>,
    heard: mpsc::UnboundedReceiver<Heard>,
}
impl World {
    fn new() -> Self {
        let mesh = Arc::new(TestMesh::new("mesh.test"));
        let (heard_tx, heard) = mpsc::unbounded_channel();
        let tables = Arc::new(Tables {
            mesh: mesh.clone(),
            inner: Mutex::default(),
            changes: broadcast::channel(16).0,
            heard: heard_tx,
        });
        {
            let mut t = tables.edit();
            t.targets.insert(vip(1), Target::Service(service("cart")));
            t.ports.insert((String::new(), service("cart")), port("cart", &[]));
            t.endpoints.insert(service("cart"), endpoints("cart", &[1, 2]));
        }
        Self { mesh, tables, heard }
    }
    async fn controller(&self, at: Option<SocketAddr>, settings: ServerSettings) -> Controller {
        let listener = TcpListener::bind(at.unwrap_or(([127, 0, 0, 1], 0).into())).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = DiscoveryServer::new(self.tables.clone(), settings);
        let stop = CancellationToken::new();
        let cell = self.mesh.cell("weft-system", "weft-controller", None);
        let task = tokio::spawn({
            let (server, stop) = (server.clone(), stop.clone());
            async move { server.serve(listener, cell, stop).await }
        });
        Controller { address, stop, task, server }
    }
    fn settings(&self, at: SocketAddr) -> ClientSettings {
        let controller = self.mesh.identity("weft-system", "weft-controller");
        let mut s = ClientSettings::new(vec![at.to_string()], controller, "web-0", "web-0");
        s.backoff = Duration::from_millis(10);
        s.backoff_max = Duration::from_millis(50);
        s
    }
    fn proxy(&self, settings: ClientSettings) -> Proxy {
        self.proxy_with(settings, self.mesh.cell("shop", "web", Some("web-0")))
    }
    fn proxy_with(&self, settings: ClientSettings, cell: CredentialCell) -> Proxy {
        let (client, run) = DiscoveryClient::new(settings, cell.clone());
        let updates = client.updates();
        Proxy { client, updates, cell, task: tokio::spawn(run) }
    }
    async fn hear(&mut self, which: impl Fn(&Heard) -> bool) -> Heard {
        let heard = async {
            loop {
                let h = self.heard.recv().await.unwrap();
                if which(&h) {
                    return h;
                }
            }
        };
        timeout(SOON, heard).await.expect("the controller hears it")
    }
}
impl Controller {
    async fn end(self) {
        self.stop.cancel();
        timeout(SOON, self.task).await.unwrap().unwrap();
    }
}
struct Proxy {
    client: DiscoveryClient,
    updates: Updates,
    cell: CredentialCell,
    task: JoinHandle<()>,
}
impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}
impl Proxy {
    async fn up(&self, up: bool) {
        timeout(SOON, self.client.connection().wait_for(|c| *c == up)).await.unwrap().unwrap();
    }
    async fn lookup(&self, a: SocketAddr) -> Found {
        timeout(SOON, self.client.lookup(a)).await.unwrap().unwrap()
    }
    async fn update(&mut self, which: impl Fn(&Update) -> bool) -> Update {
        let update = async {
            loop {
                let u = self.updates.next().await;
                if which(&u) {
                    return u;
                }
            }
        };
        timeout(SOON, update).await.expect("the update comes")
    }
}
