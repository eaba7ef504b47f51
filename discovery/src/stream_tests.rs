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

const SOON: Duration = Duration::from_secs(10);

// ---- a controller

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
        Some(Arc::new(InboundPolicy { tls, probes: vec![] }))
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

// ---- what a proxy sees

#[tokio::test]
async fn a_lookup_brings_all_that_its_answer_needs() {
    let w = World::new();
    {
        let mut t = w.tables.edit();
        t.ports.insert((String::new(), service("cart")), port("cart", &["cart-v1", "cart-v2"]));
        t.endpoints.insert(service("cart-v1"), endpoints("cart-v1", &[11]));
        t.endpoints.insert(service("cart-v2"), endpoints("cart-v2", &[12]));
    }
    let c = w.controller(None, ServerSettings::default()).await;
    let p = w.proxy(w.settings(c.address));
    p.up(true).await;
    let found = p.lookup(vip(1)).await;
    assert_eq!(found.target, Target::Service(service("cart")));
    assert_eq!(p.client.service_port(&service("cart")), Some(port("cart", &["cart-v1", "cart-v2"])));
    for name in ["cart", "cart-v1", "cart-v2"] {
        let known = p.client.endpoints(&service(name)).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(known.service, service(name));
    }
    assert_eq!(p.lookup(vip(99)).await.target, Target::Outside);
    // the second time from memory
    p.lookup(vip(1)).await;
    assert!(p.client.cached(vip(1)).is_some() && p.client.cached(vip(5)).is_none());
    assert_eq!(w.tables.fetched(&format!("lookup {}", vip(1))), 1);
    assert_eq!(p.client.wait_inbound().await.tls, MeshTlsMode::Permissive);
}

#[tokio::test]
async fn a_service_that_is_gone_still_answers_the_lookup() {
    let w = World::new();
    w.tables.edit().endpoints.clear();
    let c = w.controller(None, ServerSettings::default()).await;
    let p = w.proxy(w.settings(c.address));
    p.up(true).await;
    assert_eq!(p.lookup(vip(1)).await.target, Target::Service(service("cart")));
    assert_eq!(p.client.endpoints(&service("cart")), None);
}

#[tokio::test]
async fn changes_arrive_and_what_did_not_change_does_not() {
    let mut w = World::new();
    let c = w.controller(None, ServerSettings::default()).await;
    let mut p = w.proxy(w.settings(c.address));
    p.up(true).await;
    let _found = p.lookup(vip(1)).await;
    p.update(|u| matches!(u, Update::Endpoints(..))).await;
    while p.updates.try_next().is_some() {}
    // a change in name only: fetched again, not sent
    w.hear(|h| matches!(h, Heard::Acked(ResourceName::Endpoints(_)))).await;
    w.tables.edit().endpoints.insert(service("cart"), endpoints("cart", &[1, 2]));
    w.tables.tell(&[Change::Endpoints(service("cart")), Change::Endpoints(service("other"))]);
    w.tables.edit().endpoints.insert(service("cart"), endpoints("cart", &[3]));
    w.tables.tell(&[Change::All]);
    let u = p.update(|u| matches!(u, Update::Endpoints(..))).await;
    assert_eq!(u, Update::Endpoints(service("cart"), Some(endpoints("cart", &[3]))));
    w.hear(|h| matches!(h, Heard::Acked(ResourceName::Endpoints(_)))).await;
    // removed
    w.tables.edit().ports.clear();
    w.tables.tell(&[Change::ServicePort(service("cart"))]);
    let u = p.update(|u| matches!(u, Update::ServicePort(..))).await;
    assert_eq!(u, Update::ServicePort(service("cart"), None));
    // an address that means something else now
    w.tables.edit().targets.insert(vip(1), Target::Outside);
    w.tables.tell(&[Change::Address(vip(1).ip())]);
    let u = p.update(|u| matches!(u, Update::Target(..))).await;
    assert_eq!(u, Update::Target(vip(1), Some(Target::Outside)));
}

#[tokio::test]
async fn a_route_to_new_backends_waits_for_their_endpoints() {
    let w = World::new();
    let c = w.controller(None, ServerSettings::default()).await;
    let mut p = w.proxy(w.settings(c.address));
    p.up(true).await;
    let _found = p.lookup(vip(1)).await;
    while p.updates.try_next().is_some() {}
    {
        let mut t = w.tables.edit();
        t.ports.insert((String::new(), service("cart")), port("cart", &["new"]));
        t.endpoints.insert(service("new"), endpoints("new", &[9]));
    }
    w.tables.tell(&[Change::ServicePort(service("cart"))]);
    // make before break: the endpoints come first
    let first = p.update(|u| matches!(u, Update::ServicePort(..) | Update::Endpoints(..))).await;
    assert_eq!(first, Update::Endpoints(service("new"), Some(endpoints("new", &[9]))));
    let second = p.update(|u| matches!(u, Update::ServicePort(..))).await;
    assert_eq!(second, Update::ServicePort(service("cart"), Some(port("cart", &["new"]))));
}

#[tokio::test]
async fn after_a_restart_of_the_controller_only_differences_are_sent() {
    let mut w = World::new();
    let c = w.controller(None, ServerSettings::default()).await;
    let (at, mut p) = (c.address, w.proxy(w.settings(c.address)));
    p.up(true).await;
    let _found = p.lookup(vip(1)).await;
    w.hear(|h| matches!(h, Heard::Acked(ResourceName::Endpoints(_)))).await;
    c.end().await;
    p.up(false).await;
    // away: known answers stay, unknown ones fail at once
    assert_eq!(p.lookup(vip(1)).await.target, Target::Service(service("cart")));
    let asked = std::time::Instant::now();
    assert_eq!(p.client.lookup(vip(7)).await.unwrap_err(), LookupError::Disconnected);
    assert!(asked.elapsed() < Duration::from_millis(500));
    w.tables.edit().endpoints.insert(service("cart"), endpoints("cart", &[1, 2, 3]));
    while p.updates.try_next().is_some() {}
    while w.heard.try_recv().is_ok() {}
    let _c = w.controller(Some(at), ServerSettings::default()).await;
    let u = p.update(|u| !matches!(u, Update::Connected(_))).await;
    assert_eq!(u, Update::Endpoints(service("cart"), Some(endpoints("cart", &[1, 2, 3]))));
    // the only value that was sent is the only one that is acknowledged; the lookup of another address shows that the rest was looked at
    p.lookup(vip(50)).await;
    w.hear(|h| *h == Heard::Acked(ResourceName::Endpoints(service("cart")))).await;
    let next = w.hear(|h| matches!(h, Heard::Acked(_))).await;
    assert_eq!(next, Heard::Acked(ResourceName::Address(vip(50))));
    assert!(w.tables.fetched("port shop/cart:80") >= 2);
}

#[tokio::test]
async fn unused_answers_expire_while_connected_and_leases_keep_them() {
    let w = World::new();
    let c = w.controller(None, ServerSettings::default()).await;
    let mut settings = w.settings(c.address);
    settings.idle = Duration::from_millis(30);
    let mut p = w.proxy(settings);
    p.up(true).await;
    let held = p.lookup(vip(1)).await;
    drop(p.lookup(vip(2)).await);
    let gone = p.update(|u| matches!(u, Update::Target(_, None))).await;
    assert_eq!(gone, Update::Target(vip(2), None));
    assert!(p.client.cached(vip(1)).is_some());
    // the last lease goes, then the address, then what only it needed
    drop(held);
    p.update(|u| *u == Update::Target(vip(1), None)).await;
    p.update(|u| *u == Update::Endpoints(service("cart"), None)).await;
    let left: Vec<_> = p.client.dump().into_iter().map(|(n, ..)| n).collect();
    assert!(!left.contains(&ResourceName::Address(vip(1))), "{left:?}");
    // asked again, it is fetched again
    p.lookup(vip(1)).await;
    assert_eq!(w.tables.fetched(&format!("lookup {}", vip(1))), 2);
}

#[tokio::test]
async fn the_whole_internet_does_not_fit_into_the_table() {
    let w = World::new();
    let c = w.controller(None, ServerSettings::default()).await;
    let mut settings = w.settings(c.address);
    settings.outside = 10;
    settings.entries = 20;
    let p = w.proxy(settings);
    p.up(true).await;
    for host in 0..100 {
        p.lookup(([203, 0, 113, host], 443).into()).await;
    }
    assert!(p.client.dump().len() <= 13, "{:?}", p.client.dump());
    // all of it in use: the next one is refused, and only that
    let mut held = Vec::new();
    let full = loop {
        match p.client.lookup(([198, 51, 100, held.len() as u8], 1).into()).await {
            Ok(found) => held.push(found),
            Err(e) => break e,
        }
    };
    assert_eq!((full, held.len()), (LookupError::Full, 18));
    drop(held);
    p.lookup(vip(1)).await;
}

#[tokio::test]
async fn consumer_routes_are_those_of_the_clients_namespace() {
    let w = World::new();
    w.tables.edit().ports.insert(("strict".into(), service("cart")), port("cart", &["cart"]));
    let c = w.controller(None, ServerSettings::default()).await;
    let producer = w.proxy(w.settings(c.address));
    let consumer = w.proxy_with(w.settings(c.address), w.mesh.cell("strict", "web", Some("web-0")));
    for p in [&producer, &consumer] {
        p.up(true).await;
        p.lookup(vip(1)).await;
    }
    assert_eq!(producer.client.service_port(&service("cart")), Some(port("cart", &[])));
    assert_eq!(consumer.client.service_port(&service("cart")), Some(port("cart", &["cart"])));
    assert_eq!(consumer.client.wait_inbound().await.tls, MeshTlsMode::Strict);
}

#[tokio::test]
async fn a_new_bundle_is_installed_and_confirmed() {
    let mut w = World::new();
    let c = w.controller(None, ServerSettings::default()).await;
    let p = w.proxy(w.settings(c.address));
    p.up(true).await;
    w.hear(|h| matches!(h, Heard::Status(s) if s.bundle_version == 1)).await;
    let roots = vec![w.mesh.root.clone(), TestMesh::new("mesh.test").root];
    w.tables.edit().bundle = Some(Arc::new(Bundle::new("mesh.test", 7, &[1], roots).unwrap()));
    w.tables.tell(&[Change::Bundle]);
    let Heard::Status(s) = w.hear(|h| matches!(h, Heard::Status(s) if s.bundle_version == 7)).await else { panic!() };
    assert_eq!(&*s.leaf_issuer, p.cell.credentials().unwrap().issuer());
    assert_eq!(p.cell.bundle().version(), 7);
    assert_eq!(c.server.confirmations().sums(), [(7, s.leaf_issuer.clone(), 1)]);
    // a bundle that would lock the proxy out is refused with the reason, and the old one stays
    let roots = vec![TestMesh::new("mesh.test").root];
    w.tables.edit().bundle = Some(Arc::new(Bundle::new("mesh.test", 8, &[], roots).unwrap()));
    w.tables.tell(&[Change::Bundle]);
    let Heard::Nacked(name, reason) = w.hear(|h| matches!(h, Heard::Nacked(..))).await else { panic!() };
    assert_eq!(name, ResourceName::Bundle);
    assert!(reason.contains("bundle version 8 does not contain the root"), "{reason}");
    assert_eq!(p.cell.bundle().version(), 7);
}

#[tokio::test]
async fn a_renewed_leaf_moves_the_stream_without_a_gap() {
    let mut w = World::new();
    let c = w.controller(None, ServerSettings::default()).await;
    let p = w.proxy(w.settings(c.address));
    p.up(true).await;
    let mut seen = p.client.connection();
    seen.mark_unchanged();
    w.hear(|h| matches!(h, Heard::Connected(_))).await;
    let (chain, key) = w.mesh.leaf("shop", "web");
    p.cell.install_leaf(key, chain, Some("web-0".into()), w.mesh.clock.clone()).unwrap();
    w.hear(|h| matches!(h, Heard::Connected(_))).await;
    assert_eq!(p.lookup(vip(1)).await.target, Target::Service(service("cart")));
    assert!(!seen.has_changed().unwrap(), "it counted as up all the time");
}

// ---- who is let in, and what they may do (row 81)

/// A proxy that says what it likes.
struct Raw {
    out: mpsc::Sender<ProxyMessage>,
    incoming: Streaming<ControllerMessage>,
}
impl Raw {
    async fn open(w: &World, at: SocketAddr, cell: &CredentialCell) -> Result<Raw, Box<dyn std::error::Error>> {
        let controller = w.mesh.identity("weft-system", "weft-controller");
        let tls = cell.credentials().unwrap().control_client(&controller)?;
        let channel = control_channel(&at.to_string(), tls).await?;
        let (out, outgoing) = mpsc::channel(64);
        let mut client = proto::discovery_client::DiscoveryClient::new(channel);
        let incoming = client.discover(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Raw { out, incoming })
    }
    async fn say(&self, kind: proxy_message::Kind) {
        self.out.send(ProxyMessage { kind: Some(kind) }).await.unwrap();
    }
    async fn hello(&self, uid: &str) {
        self.say(proxy_message::Kind::Hello(proto::Hello { uid: uid.into(), protocol: 1, ..Default::default() })).await;
    }
    async fn next(&mut self) -> Result<controller_message::Kind, Status> {
        let m = timeout(SOON, self.incoming.message()).await.expect("an answer");
        m.map(|m| m.expect("a message").kind.expect("a kind"))
    }
    async fn subscribe(&self, names: impl IntoIterator<Item = ResourceName>) {
        let one = |n: ResourceName| proto::Subscription { name: Some((&n).into()), version: vec![] };
        let subscriptions = names.into_iter().map(one).collect();
        self.say(proxy_message::Kind::Subscribe(proto::Subscribe { subscriptions })).await;
    }
}
fn code<T: std::fmt::Debug>(r: Result<T, Status>) -> Code {
    r.unwrap_err().code()
}

#[tokio::test]
async fn row_81_strangers_do_not_get_a_stream() {
    let w = World::new();
    let c = w.controller(None, ServerSettings::default()).await;
    // a certificate of another mesh
    let stranger = TestMesh::new("mesh.test").cell("shop", "web", None);
    stranger
        .install_bundle(Arc::new(Bundle::new("mesh.test", 9, &[], vec![w.mesh.root.clone()]).unwrap()))
        .unwrap_err();
    let tls =
        stranger.credentials().unwrap().control_client(&w.mesh.identity("weft-system", "weft-controller")).unwrap();
    control_channel(&c.address.to_string(), tls).await.unwrap_err();
    // none at all: TLS 1.3 tells a client only after its own side is done, so the first use fails
    let controller = w.mesh.identity("weft-system", "weft-controller");
    let tls = weft_identity::credentials::anonymous_client(&w.mesh.bundle(), &controller, &w.mesh.clock).unwrap();
    if let Ok(channel) = control_channel(&c.address.to_string(), tls).await {
        let mut client = proto::discovery_client::DiscoveryClient::new(channel);
        timeout(SOON, client.discover(tokio_stream::pending())).await.unwrap().unwrap_err();
    }
    assert_eq!(c.server.confirmations().connected(), 0);
}

#[tokio::test]
async fn row_81_a_pod_that_runs_as_somebody_else_is_refused() {
    let w = World::new();
    let c = w.controller(None, ServerSettings::default()).await;
    let mut raw = Raw::open(&w, c.address, &w.mesh.cell("shop", "web", None)).await.unwrap();
    raw.hello("admin-0").await;
    let refused = raw.next().await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("does not run as spiffe://mesh.test/ns/shop/sa/web"), "{refused}");
}

#[tokio::test]
async fn row_81_a_stream_that_breaks_the_rules_ends_alone() {
    let w = World::new();
    let c = w.controller(None, ServerSettings::default()).await;
    let p = w.proxy(w.settings(c.address));
    p.up(true).await;
    let cell = w.mesh.cell("shop", "web", None);
    // no hello
    let mut raw = Raw::open(&w, c.address, &cell).await.unwrap();
    raw.subscribe([ResourceName::Inbound]).await;
    assert_eq!(code(raw.next().await), Code::InvalidArgument);
    // two
    let mut raw = Raw::open(&w, c.address, &cell).await.unwrap();
    raw.hello("web-1").await;
    assert!(matches!(raw.next().await, Ok(controller_message::Kind::Welcome(_))));
    raw.hello("web-1").await;
    assert_eq!(code(raw.next().await), Code::InvalidArgument);
    // texts for a log
    for uid in ["", "web-\n", &"web-x".repeat(100)] {
        let mut raw = Raw::open(&w, c.address, &cell).await.unwrap();
        raw.hello(uid).await;
        assert_eq!(code(raw.next().await), Code::InvalidArgument, "{uid:?}");
    }
    // a message of more than 1 MiB
    let mut raw = Raw::open(&w, c.address, &cell).await.unwrap();
    raw.hello("web-1").await;
    raw.next().await.unwrap();
    let nack = proto::Nack { name: None, version: vec![0; 16], reason: "x".repeat(2 << 20) };
    raw.say(proxy_message::Kind::Nack(nack)).await;
    assert_eq!(code(raw.next().await), Code::OutOfRange);
    // names that mean nothing are refused one by one, the stream goes on
    let mut raw = Raw::open(&w, c.address, &cell).await.unwrap();
    raw.hello("web-1").await;
    raw.next().await.unwrap();
    let odd = proto::Subscription { name: Some(proto::ResourceName::default()), version: vec![] };
    raw.say(proxy_message::Kind::Subscribe(proto::Subscribe { subscriptions: vec![odd] })).await;
    raw.subscribe([ResourceName::Inbound]).await;
    assert!(
        matches!(raw.next().await, Ok(controller_message::Kind::Refused(r)) if r.reason.contains("name is missing"))
    );
    assert!(matches!(raw.next().await, Ok(controller_message::Kind::Update(_))));
    // and the proxy beside them has noticed nothing
    assert_eq!(p.lookup(vip(1)).await.target, Target::Service(service("cart")));
    assert!(p.client.is_connected());
}

#[tokio::test]
async fn row_81_subscriptions_are_bounded() {
    let w = World::new();
    let settings = ServerSettings { subscriptions: 5, ..Default::default() };
    let c = w.controller(None, settings).await;
    let mut raw = Raw::open(&w, c.address, &w.mesh.cell("shop", "web", None)).await.unwrap();
    raw.hello("web-1").await;
    raw.next().await.unwrap();
    raw.subscribe((0..100).map(|n| ResourceName::Address(vip(n)))).await;
    let (mut updates, mut refused) = (0, 0);
    while updates + refused < 100 {
        match raw.next().await.unwrap() {
            controller_message::Kind::Update(_) => updates += 1,
            controller_message::Kind::Refused(r) => {
                assert!(r.reason.contains("5 subscriptions"), "{}", r.reason);
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((updates, refused), (5, 95));
}

#[tokio::test]
async fn row_81_more_streams_than_are_served() {
    let w = World::new();
    let settings = ServerSettings { streams: 1, ..Default::default() };
    let c = w.controller(None, settings).await;
    let cell = w.mesh.cell("shop", "web", None);
    let _first = Raw::open(&w, c.address, &cell).await.unwrap();
    let second = Raw::open(&w, c.address, &cell).await.err().unwrap();
    assert_eq!(second.downcast_ref::<Status>().unwrap().code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn row_81_a_slow_reader_gets_the_newest_value_or_is_dropped() {
    let mut w = World::new();
    // values of 1 MiB: a few fill the windows
    let big = |n: u8| {
        let mut e = (*endpoints("cart", &[n])).clone();
        let one = Endpoint { workload: "x".repeat(1 << 20).into(), ..(*e.endpoints[0]).clone() };
        e.endpoints = vec![Arc::new(one)];
        Arc::new(e)
    };
    let settings = ServerSettings { stall: Duration::from_millis(300), ..Default::default() };
    let c = w.controller(None, settings).await;
    let mut raw = Raw::open(&w, c.address, &w.mesh.cell("shop", "web", None)).await.unwrap();
    raw.hello("web-1").await;
    raw.next().await.unwrap();
    raw.subscribe([ResourceName::Endpoints(service("cart"))]).await;
    w.hear(|h| matches!(h, Heard::Connected(_))).await;
    // nobody reads: the stream must end, not grow
    let flood = tokio::spawn({
        let tables = w.tables.clone();
        async move {
            let mut tick = tokio::time::interval(Duration::from_millis(2));
            for n in 0u64.. {
                tick.tick().await;
                tables.edit().endpoints.insert(service("cart"), big(n as u8 % 200));
                tables.tell(&[Change::Endpoints(service("cart"))]);
            }
        }
    });
    w.hear(|h| matches!(h, Heard::Disconnected(_))).await;
    flood.abort();
}

#[tokio::test]
async fn row_82_a_newer_proxy_and_messages_of_tomorrow() {
    let w = World::new();
    let c = w.controller(None, ServerSettings::default()).await;
    let cell = w.mesh.cell("shop", "web", None);
    let mut raw = Raw::open(&w, c.address, &cell).await.unwrap();
    raw.say(proxy_message::Kind::Hello(proto::Hello { uid: "web-1".into(), protocol: 99, ..Default::default() })).await;
    assert!(matches!(raw.next().await, Ok(controller_message::Kind::Welcome(w)) if w.protocol == 1));
    raw.out.send(ProxyMessage { kind: None }).await.unwrap();
    raw.subscribe([ResourceName::Inbound]).await;
    assert!(matches!(raw.next().await, Ok(controller_message::Kind::Update(_))));
}

// ---- a controller that misbehaves

/// Says what it is told to.
struct Script(Mutex<Option<mpsc::Receiver<Result<ControllerMessage, Status>>>>, mpsc::UnboundedSender<ProxyMessage>);
#[tonic::async_trait]
impl proto::discovery_server::Discovery for Script {
    type DiscoverStream = Pin<Box<dyn Stream<Item = Result<ControllerMessage, Status>> + Send>>;
    async fn discover(
        &self,
        request: Request<Streaming<ProxyMessage>>,
    ) -> Result<Response<Self::DiscoverStream>, Status> {
        let (mut incoming, heard) = (request.into_inner(), self.1.clone());
        tokio::spawn(async move {
            while let Some(Ok(m)) = incoming.next().await {
                let _ = heard.send(m);
            }
        });
        match self.0.lock().unwrap().take() {
            Some(out) => Ok(Response::new(Box::pin(ReceiverStream::new(out)))),
            None => Err(Status::unavailable("once")),
        }
    }
}
async fn scripted(
    w: &World,
) -> (SocketAddr, mpsc::Sender<Result<ControllerMessage, Status>>, mpsc::UnboundedReceiver<ProxyMessage>) {
    let (out, script) = mpsc::channel(16);
    let (heard, hears) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let cell = w.mesh.cell("weft-system", "weft-controller", None);
    let incoming = crate::server::accept::incoming(listener, cell, false, Default::default(), CancellationToken::new());
    let service = proto::discovery_server::DiscoveryServer::new(Script(Mutex::new(Some(script)), heard));
    tokio::spawn(crate::server::accept::http2().add_service(service).serve_with_incoming(incoming));
    (address, out, hears)
}
fn say(kind: controller_message::Kind) -> Result<ControllerMessage, Status> {
    Ok(ControllerMessage { kind: Some(kind) })
}
fn update(name: &ResourceName, bytes: Vec<u8>) -> Result<ControllerMessage, Status> {
    say(controller_message::Kind::Update(proto::Update {
        name: Some(name.into()),
        version: vec![],
        resource: bytes.into(),
    }))
}
async fn nack(hears: &mut mpsc::UnboundedReceiver<ProxyMessage>) -> proto::Nack {
    let nack = async {
        loop {
            if let Some(proxy_message::Kind::Nack(n)) = hears.recv().await.unwrap().kind {
                return n;
            }
        }
    };
    timeout(SOON, nack).await.unwrap()
}

#[tokio::test]
async fn a_controller_that_does_not_answer_costs_the_deadline_and_no_more() {
    let w = World::new();
    let (at, out, _hears) = scripted(&w).await;
    let mut settings = w.settings(at);
    settings.lookup_deadline = Duration::from_millis(100);
    let p = w.proxy(settings);
    out.send(say(controller_message::Kind::Welcome(proto::Welcome::default()))).await.unwrap();
    p.up(true).await;
    let asked = std::time::Instant::now();
    assert_eq!(p.client.lookup(vip(1)).await.unwrap_err(), LookupError::TimedOut);
    assert!(asked.elapsed() >= Duration::from_millis(100) && asked.elapsed() < Duration::from_secs(2));
    // the stream breaks while somebody waits: told at once
    let waiting = tokio::spawn({
        let client = p.client.clone();
        async move { client.lookup(vip(2)).await.map(|f| f.target) }
    });
    drop(out);
    assert!(timeout(SOON, waiting).await.unwrap().unwrap().is_err());
}

#[tokio::test]
async fn row_86_a_value_that_cannot_be_read_is_refused_alone() {
    let w = World::new();
    let (at, out, mut hears) = scripted(&w).await;
    let mut p = w.proxy(w.settings(at));
    let name = ResourceName::Endpoints(service("cart"));
    let _lease = p.client.subscribe(name.clone()).unwrap();
    out.send(say(controller_message::Kind::Welcome(proto::Welcome::default()))).await.unwrap();
    let good = Resource::Endpoints(endpoints("cart", &[1]));
    out.send(update(&name, wire::encode(&good).to_vec())).await.unwrap();
    p.update(|u| matches!(u, Update::Endpoints(..))).await;
    // not protobuf; a value of tomorrow; a value of another name
    let other = wire::encode(&Resource::Endpoints(endpoints("other", &[1]))).to_vec();
    for (bytes, reason) in [
        (vec![0xff; 9], "not protobuf"),
        (vec![], "resource is missing, or of a kind that this version does not know"),
        (other, "the value is not of endpoints of shop/cart:80"),
    ] {
        out.send(update(&name, bytes.clone())).await.unwrap();
        let n = nack(&mut hears).await;
        assert!(n.reason.contains(reason), "{}", n.reason);
        assert_eq!(n.version, Version::of(&bytes).0);
        assert_eq!(p.client.endpoints(&service("cart")), Some(endpoints("cart", &[1])), "the last good one stays");
    }
    assert!(p.client.is_connected());
    // and the next good one is taken
    out.send(update(&name, wire::encode(&Resource::Endpoints(endpoints("cart", &[2]))).to_vec())).await.unwrap();
    let u = p.update(|u| matches!(u, Update::Endpoints(..))).await;
    assert_eq!(u, Update::Endpoints(service("cart"), Some(endpoints("cart", &[2]))));
}

#[tokio::test]
async fn a_controller_of_another_identity_is_not_believed() {
    let w = World::new();
    let c = w.controller(None, ServerSettings::default()).await;
    let mut settings = w.settings(c.address);
    settings.controller_identity = w.mesh.identity("weft-system", "somebody");
    let p = w.proxy(settings);
    let tls = p.cell.credentials().unwrap().control_client(&w.mesh.identity("weft-system", "somebody")).unwrap();
    let refused = control_channel(&c.address.to_string(), tls).await.unwrap_err().to_string();
    assert!(refused.contains("peer is spiffe://mesh.test/ns/weft-system/sa/weft-controller"), "{refused}");
    assert!(!p.client.is_connected());
}
