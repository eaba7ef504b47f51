//! Proxies with a real CA and a real discovery server: start order, lookups, and what happens when the controller is gone.
#![allow(clippy::unwrap_used)]

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use weft_ca::{
    Ca, CaSettings, FileStore, State,
    authenticate::LocalAuthenticator,
    state::Lives,
    token::{Claims, Pod, TokenSigner},
};
use weft_core::{
    endpoint::{Endpoint, Endpoints, MeshPeer},
    identity::WorkloadIdentity,
    policy::{InboundPolicy, MeshTlsMode},
    route::Routes,
    service::{Protocol, ServicePort, ServiceRef, Target},
};
use weft_discovery::{Change, DiscoveryServer, Peer, Provider, ServerSettings, server::Changes};
use weft_identity::{Bundle, provider::system_clock};
use weft_proxy::{
    config::{Away, Config, Controller, Credentials, Dial, Listen, Mapped, Static},
    control::Proxy,
    credentials,
    testing::{LIMIT, any_port, config, pod},
    worker::Side,
};

const SERVICE: &str = "10.96.0.1:5432";
const POD: &str = "10.1.0.2:5432";
const OUTSIDE: &str = "192.0.2.1:9000";
const OUTSIDE_2: &str = "192.0.2.2:9000";

fn at(s: &str) -> SocketAddr {
    s.parse().unwrap()
}
fn service() -> ServiceRef {
    ServiceRef { namespace: "shop".into(), name: "db".into(), port: 5432 }
}

/// A controller that knows one Service.
struct Index {
    bundle: Arc<Bundle>,
    changes: broadcast::Sender<Arc<[Change]>>,
    inbound: Mutex<InboundPolicy>,
}
impl Provider for Index {
    fn admit(&self, peer: &Peer) -> Result<(), Box<str>> {
        (*peer.uid == format!("{}-uid", peer.workload)).then_some(()).ok_or("no such pod".into())
    }
    fn lookup(&self, _: &Peer, a: SocketAddr) -> Target {
        if a == at(SERVICE) { Target::Service(service()) } else { Target::Outside }
    }
    fn service_port(&self, _: &Peer, s: &ServiceRef) -> Option<Arc<ServicePort>> {
        (*s == service()).then(|| {
            Arc::new(ServicePort {
                service: service(),
                protocol: Protocol::Opaque,
                routes: Routes::None,
                affinity: None,
                requests: Default::default(),
                addresses: vec![at(SERVICE)],
            })
        })
    }
    fn endpoints(&self, _: &Peer, s: &ServiceRef) -> Option<Arc<Endpoints>> {
        let identity = WorkloadIdentity::new("cluster.local", "shop", "server").unwrap();
        let endpoint = Endpoint {
            address: at(POD),
            mesh: Some(MeshPeer { uid: "server-uid".into(), identity }),
            zone: None,
            terminating: false,
            workload: "server".into(),
        };
        (*s == service()).then(|| {
            Arc::new(Endpoints {
                service: service(),
                endpoints: vec![Arc::new(endpoint)],
                not_ready: 0,
                http2: false,
                prefer_zone: false,
                policy: Default::default(),
            })
        })
    }
    fn inbound(&self, _: &Peer) -> Option<Arc<InboundPolicy>> {
        Some(Arc::new(self.inbound.lock().unwrap().clone()))
    }
    fn bundle(&self) -> Option<Arc<Bundle>> {
        Some(self.bundle.clone())
    }
    fn changes(&self) -> Changes {
        self.changes.subscribe()
    }
}

/// A CA and a controller on loopback.
struct Plane {
    dir: tempfile::TempDir,
    signer: TokenSigner,
    ca: SocketAddr,
    controller: SocketAddr,
    index: Arc<Index>,
    controller_stop: CancellationToken,
    stop: CancellationToken,
    /// Last, so that everything above is told before the runtime ends.
    runtime: tokio::runtime::Runtime,
}
impl Plane {
    fn start() -> Plane {
        weft_identity::provider::install();
        let dir = tempfile::tempdir().unwrap();
        let (signer, _) = TokenSigner::generate().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (stop, controller_stop) = (CancellationToken::new(), CancellationToken::new());
        let clock = system_clock();
        let authenticator = LocalAuthenticator::new(signer.verifier(), clock.clone());
        let ca = Ca::open(
            CaSettings::new("cluster.local").unwrap(),
            Arc::new(FileStore::open(&dir.path().join("ca")).unwrap()),
            Arc::new(authenticator),
            clock,
            |now| State::make("cluster.local", None, now, Lives::default()),
        )
        .unwrap();
        let listen = || runtime.block_on(tokio::net::TcpListener::bind(any_port())).unwrap();
        let ca_listener = listen();
        let ca_at = ca_listener.local_addr().unwrap();
        let bundle = Arc::new(Bundle::read(&dir.path().join("ca/bundle.pem"), None).unwrap());
        bundle.write(&dir.path().join("bundle.pem")).unwrap();
        let serving = stop.clone();
        runtime.spawn(async move { ca.serve(ca_listener, serving).await });
        // the controller gets its leaf as a proxy does
        let index = Arc::new(Index { bundle, changes: broadcast::channel(16).0, inbound: Mutex::default() });
        let mut plane = Plane { dir, signer, ca: ca_at, controller: any_port(), index, controller_stop, stop, runtime };
        let mut own = pod("controller", "10.1.0.250".parse().unwrap());
        own.namespace = weft_identity::SYSTEM_NAMESPACE.into();
        let from = plane.credentials("controller", weft_identity::SYSTEM_NAMESPACE, weft_identity::CONTROLLER_ACCOUNT);
        let cell = credentials::open(&from, &own).unwrap();
        plane.runtime.spawn(credentials::keep(from, own, cell.clone()));
        let listener = plane.runtime.block_on(tokio::net::TcpListener::bind(any_port())).unwrap();
        plane.controller = listener.local_addr().unwrap();
        let server = DiscoveryServer::new(plane.index.clone(), ServerSettings::default());
        let stop = plane.controller_stop.clone();
        plane.runtime.spawn(async move { server.serve(listener, cell, stop).await });
        plane
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn credentials(&self, name: &str, namespace: &str, account: &str) -> Credentials {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let pod = Pod { name: name.into(), uid: format!("{name}-uid"), ips: vec![] };
        let token = self.signer.sign(&Claims::new(namespace, account, pod, now, 3600)).unwrap();
        let path = self.file(&format!("{name}.token"));
        std::fs::write(&path, token).unwrap();
        Credentials::Ca {
            address: self.ca.to_string(),
            identity: None,
            token: path,
            bundle: self.file("bundle.pem"),
            state: Some(self.dir.path().into()),
        }
    }

    fn proxy(&self, name: &str, ip: IpAddr, mapped: Mapped, away: Away) -> Proxy {
        let mut c: Config = config(pod(name, ip), mapped, Static::default());
        c.fixed = None;
        c.controller = Some(Controller { address: self.controller.to_string(), identity: None, away });
        c.credentials = Some(self.credentials(name, "shop", name));
        c.pod.identity = Some(WorkloadIdentity::new("cluster.local", "shop", name).unwrap());
        let p = Proxy::start(c).unwrap();
        assert!(p.wait_ready(LIMIT), "{name} is {:?}", *p.state().borrow());
        p
    }
    fn server(&self, app: SocketAddr) -> Proxy {
        let mapped = Mapped {
            inbound: vec![Listen { listen: any_port(), original: at(POD) }],
            app: vec![Dial { original: at(POD), to: app }],
            ..Mapped::default()
        };
        self.proxy("server", at(POD).ip(), mapped, Away::Forward)
    }
    fn client(&self, server: SocketAddr, outside: SocketAddr, away: Away) -> Proxy {
        let originals = [SERVICE, OUTSIDE, OUTSIDE_2].into_iter().map(at);
        let mapped = Mapped {
            outbound: originals.map(|original| Listen { listen: any_port(), original }).collect(),
            dial: vec![
                Dial { original: at(POD), to: server },
                Dial { original: at(OUTSIDE), to: outside },
                Dial { original: at(OUTSIDE_2), to: outside },
            ],
            ..Mapped::default()
        };
        self.proxy("client", "10.1.0.9".parse().unwrap(), mapped, away)
    }
}
impl Drop for Plane {
    fn drop(&mut self) {
        self.controller_stop.cancel();
        self.stop.cancel();
    }
}

fn echo() -> SocketAddr {
    let l = TcpListener::bind(any_port()).unwrap();
    let at = l.local_addr().unwrap();
    thread::spawn(move || {
        for s in l.incoming() {
            let mut s = s.unwrap();
            thread::spawn(move || {
                let mut b = [0; 1024];
                while let Ok(n @ 1..) = s.read(&mut b) {
                    let _ = s.write_all(&b[..n]);
                }
            });
        }
    });
    at
}
fn ping(at: SocketAddr) -> std::io::Result<()> {
    let mut s = TcpStream::connect(at)?;
    s.set_read_timeout(Some(LIMIT))?;
    s.write_all(b"\0ping")?;
    s.read_exact(&mut [0; 5])
}
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        thread::yield_now();
    }
}
fn metrics(p: &Proxy) -> String {
    let mut s = TcpStream::connect(p.admin()).unwrap();
    s.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut all = String::new();
    s.read_to_string(&mut all).unwrap();
    all
}
fn kept(dir: &Path) -> Option<Bundle> {
    Bundle::read(&dir.join("bundle.pem"), None).ok()
}

#[test]
fn from_token_to_traffic_and_on_without_the_controller() {
    let plane = Plane::start();
    let server = plane.server(echo());
    let client = plane.client(server.listener(Side::Inbound, None).unwrap(), echo(), Away::Forward);
    let listener = |a: &str| client.listener(Side::Outbound, Some(at(a))).unwrap();
    ping(listener(SERVICE)).unwrap();
    ping(listener(OUTSIDE)).unwrap();
    assert_eq!(server.stats().handshakes_server.get(), 1);
    assert!(kept(plane.dir.path()).is_some());
    assert!(metrics(&client).contains("weft_controller_connected 1"));

    plane.controller_stop.cancel();
    until("the client notices", || metrics(&client).contains("weft_controller_connected 0"));
    // what is known stays, what is not is forwarded at once
    let start = Instant::now();
    ping(listener(SERVICE)).unwrap();
    ping(listener(OUTSIDE_2)).unwrap();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(client.stats().lookups_failed.get(), 1);
}

#[test]
fn without_the_controller_a_refusing_pod_refuses_the_unknown_and_a_strict_one_never_falls_back() {
    for (away, tls) in [(Away::Refuse, MeshTlsMode::Permissive), (Away::Forward, MeshTlsMode::Strict)] {
        let plane = Plane::start();
        plane.index.inbound.lock().unwrap().tls = tls;
        let server = plane.server(echo());
        let client = plane.client(server.listener(Side::Inbound, None).unwrap(), echo(), away);
        let listener = |a: &str| client.listener(Side::Outbound, Some(at(a))).unwrap();
        ping(listener(SERVICE)).unwrap();
        plane.controller_stop.cancel();
        until("the client notices", || metrics(&client).contains("weft_controller_connected 0"));
        ping(listener(SERVICE)).unwrap();
        let e = ping(listener(OUTSIDE)).unwrap_err();
        assert!(
            matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe),
            "{e}"
        );
        assert_eq!(client.stats().refused_away.get(), 1);
    }
}

#[test]
fn a_policy_that_becomes_strict_is_obeyed() {
    let plane = Plane::start();
    let server = plane.server(echo());
    let inbound = server.listener(Side::Inbound, None).unwrap();
    ping(inbound).unwrap();
    let mut open = TcpStream::connect(inbound).unwrap();
    open.set_read_timeout(Some(LIMIT)).unwrap();
    open.write_all(b"\0open").unwrap();
    open.read_exact(&mut [0; 5]).unwrap();
    plane.index.inbound.lock().unwrap().tls = MeshTlsMode::Strict;
    let change: Arc<[Change]> = Arc::new([Change::Inbound("server-uid".into())]);
    plane.index.changes.send(change).unwrap();
    until("plain text is refused", || ping(inbound).is_err());
    assert!(!matches!(open.read(&mut [0; 1]), Ok(1..)), "the open stream was judged again");
}
