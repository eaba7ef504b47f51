//! A laboratory: an outbound engine, an inbound one, and scripted peers that are bytes. Everything happens when the test says so.
//!
//! ```text
//! client --HTTP/1 or h2--> out --mesh--> inn --plain--> app
//!                           `---------- plain --------> app
//! ```

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use weft_core::{
    endpoint::{Endpoint, Endpoints, MeshPeer},
    filter::Filters,
    identity::WorkloadIdentity,
    matches::HttpMatch,
    retry::{RetryPolicy, Timeouts},
    route::{BackendRef, HttpTable, RouteKind, RouteRef, Routes, Rule, RuleMatches, WeightedBackend},
    service::{Protocol, ServicePort, ServiceRef},
};
use weft_relay::{Accept, CloseHow, Command, ConnKey, DialError, Engine, EngineConfig, Shared, Side, Wire};

/// Which engine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum At {
    Out,
    In,
}

/// What holds the other end of an engine's connection.
#[derive(Clone, Copy, Debug)]
enum Far {
    Engine(At, ConnKey),
    Peer(usize),
}

/// A scripted end: a client, or one connection of an application.
#[derive(Default, Debug)]
pub struct Peer {
    pub at: Option<(At, ConnKey)>,
    /// What it has got and the test has not looked at.
    pub got: Vec<u8>,
    /// How the engine closed it.
    pub closed: Option<CloseHow>,
    pub reset: bool,
    /// Where it was dialled; clients have none.
    pub address: Option<SocketAddr>,
    /// It does not read.
    pub stalled: bool,
}

pub struct Lab {
    pub out: Engine,
    pub inn: Engine,
    pub now: Instant,
    far: HashMap<(At, ConnKey), Far>,
    closing: HashMap<(At, ConnKey), CloseHow>,
    /// Bytes that a peer that stalls has not taken.
    unsent: HashMap<(At, ConnKey), Vec<u8>>,
    pub peers: Vec<Peer>,
    /// Addresses that refuse, or never answer.
    pub refuses: HashMap<SocketAddr, DialError>,
    pub silent: Vec<SocketAddr>,
    pub dials: Vec<(At, SocketAddr, Wire)>,
    /// Nothing passes between the engines any more.
    pub dead: bool,
    ready: VecDeque<(At, ConnKey)>,
}

pub fn addr(s: &str) -> SocketAddr {
    s.parse().unwrap()
}
pub fn service(name: &str) -> ServiceRef {
    ServiceRef { namespace: "shop".into(), name: name.into(), port: 80 }
}
pub fn identity(name: &str) -> WorkloadIdentity {
    WorkloadIdentity::new("cluster.local", "shop", name).unwrap()
}

/// An endpoint with a sidecar.
pub fn meshed(address: &str) -> Arc<Endpoint> {
    let mesh = Some(MeshPeer { uid: address.into(), identity: identity("cart") });
    Arc::new(Endpoint { address: addr(address), mesh, zone: None, terminating: false, workload: address.into() })
}
pub fn plain(address: &str) -> Arc<Endpoint> {
    Arc::new(Endpoint { mesh: None, ..(*meshed(address)).clone() })
}

pub fn rule(backends: &[(&str, u32)]) -> Rule {
    let backends = backends.iter().map(|(name, weight)| WeightedBackend {
        backend: BackendRef::Service(service(name)),
        weight: *weight,
        filters: Filters::default(),
    });
    Rule {
        route: Arc::new(RouteRef { kind: RouteKind::Http, namespace: "shop".into(), name: "front".into(), created: 0 }),
        index: 0,
        name: None,
        matches: RuleMatches::Http(vec![HttpMatch::default()]),
        filters: Filters::default(),
        backends: backends.collect(),
        timeouts: Timeouts::default(),
        retry: None,
    }
}
pub fn retry(codes: &[u16], attempts: u32, backoff_ms: u64) -> Option<RetryPolicy> {
    Some(RetryPolicy {
        codes: codes.to_vec(),
        grpc_codes: vec![],
        attempts,
        backoff: Duration::from_millis(backoff_ms),
    })
}
pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

impl Lab {
    pub fn new() -> Lab {
        Self::with(|_| {})
    }
    pub fn with(change: impl FnOnce(&mut EngineConfig)) -> Lab {
        let now = Instant::now();
        let mut config =
            EngineConfig { shared: Some(Shared::new(None, now)), access_log: true, ..EngineConfig::default() };
        change(&mut config);
        let inn = EngineConfig { shared: Some(Shared::new(None, now)), ..config.clone() };
        Lab {
            out: Engine::new(config, 1, now),
            inn: Engine::new(inn, 2, now),
            now,
            far: HashMap::new(),
            closing: HashMap::new(),
            unsent: HashMap::new(),
            peers: vec![],
            refuses: HashMap::new(),
            silent: vec![],
            dials: vec![],
            dead: false,
            ready: VecDeque::new(),
        }
    }
    /// A Service `cart` with these endpoints and without routes.
    pub fn cart(endpoints: &[Arc<Endpoint>]) -> Lab {
        let mut lab = Lab::new();
        lab.serve("cart", None);
        lab.endpoints("cart", endpoints);
        lab
    }
    /// A Service `cart` with these endpoints and this rule.
    pub fn ruled(endpoints: &[Arc<Endpoint>], rule: Rule) -> Lab {
        let mut lab = Lab::cart(endpoints);
        lab.serve("cart", Some(vec![rule]));
        lab
    }
    pub fn serve(&mut self, name: &str, rules: Option<Vec<Rule>>) {
        let routes = match rules {
            None => Routes::None,
            Some(r) => Routes::Http(Arc::new(HttpTable::new(r.into_iter().map(Arc::new).collect()))),
        };
        let port = ServicePort {
            service: service(name),
            protocol: Protocol::Http,
            routes,
            affinity: None,
            requests: Default::default(),
            addresses: vec![],
        };
        self.out.set_service(Arc::new(port), self.now);
    }
    pub fn endpoints(&mut self, name: &str, endpoints: &[Arc<Endpoint>]) {
        let e = Endpoints {
            service: service(name),
            endpoints: endpoints.to_vec(),
            not_ready: 0,
            http2: false,
            prefer_zone: false,
            policy: Default::default(),
        };
        self.out.set_endpoints(Arc::new(e), self.now);
        self.pump();
    }

    pub fn engine(&mut self, at: At) -> &mut Engine {
        match at {
            At::Out => &mut self.out,
            At::In => &mut self.inn,
        }
    }
    fn peer(&mut self, at: At, conn: ConnKey, address: Option<SocketAddr>) -> usize {
        self.peers.push(Peer { at: Some((at, conn)), address, ..Peer::default() });
        let p = self.peers.len() - 1;
        self.far.insert((at, conn), Far::Peer(p));
        p
    }
    /// The application of the calling pod opens a connection to Service `cart`.
    pub fn client(&mut self, wire: Wire) -> usize {
        let side = Side::Outbound { service: service("cart") };
        self.client_of(At::Out, side, wire)
    }
    pub fn client_of(&mut self, at: At, side: Side, wire: Wire) -> usize {
        let accept = Accept { side, wire, client: addr("10.1.0.1:40000"), original: addr("10.96.0.1:80") };
        let now = self.now;
        let conn = self.engine(at).accept(accept, now);
        let p = self.peer(at, conn, None);
        self.ready.push_back((at, conn));
        self.pump();
        p
    }
    /// The peer sends bytes, and everything that follows happens.
    pub fn send(&mut self, peer: usize, bytes: impl AsRef<[u8]>) {
        let (at, conn) = self.peers[peer].at.expect("a connection that is open");
        let now = self.now;
        for piece in bytes.as_ref().chunks(64 * 1024) {
            self.engine(at).input(conn, piece, now);
            self.ready.push_back((at, conn));
            self.pump();
        }
    }
    /// The peer shuts down its side.
    pub fn eof(&mut self, peer: usize) {
        let (at, conn) = self.peers[peer].at.expect("a connection that is open");
        let now = self.now;
        self.engine(at).eof(conn, now);
        self.ready.push_back((at, conn));
        self.pump();
    }
    /// The peer resets the connection.
    pub fn abort(&mut self, peer: usize) {
        let (at, conn) = self.peers[peer].at.take().expect("a connection that is open");
        self.far.remove(&(at, conn));
        let now = self.now;
        self.engine(at).broken(conn, now);
        self.pump();
    }
    /// What the peer has got since the last time, as text.
    pub fn read(&mut self, peer: usize) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.peers[peer].got)).into_owned()
    }
    /// Lets a peer read again.
    pub fn resume(&mut self, peer: usize) {
        self.peers[peer].stalled = false;
        let Some(key) = self.peers[peer].at else { return };
        if let Some(bytes) = self.unsent.remove(&key) {
            self.peers[peer].got.extend(bytes);
            let now = self.now;
            self.engine(key.0).written(key.1, now);
        }
        self.ready.push_back(key);
        self.pump();
    }
    /// The connections that were dialled to an application, in order.
    pub fn apps(&self) -> Vec<usize> {
        (0..self.peers.len()).filter(|p| self.peers[*p].address.is_some()).collect()
    }
    /// The last connection to an application.
    pub fn app(&self) -> usize {
        *self.apps().last().expect("an application was dialled")
    }
    /// Time passes, timer by timer.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let next = [self.out.next_timer(), self.inn.next_timer()].into_iter().flatten().min();
            let Some(at) = next.filter(|t| *t <= until) else { break };
            self.now = self.now.max(at);
            for at in [At::Out, At::In] {
                let now = self.now;
                self.engine(at).on_timer(now);
            }
            self.pump();
        }
        self.now = until;
    }

    fn pump(&mut self) {
        loop {
            let mut moved = false;
            for at in [At::Out, At::In] {
                while let Some(c) = self.engine(at).poll_command() {
                    moved = true;
                    self.command(at, c);
                }
            }
            while let Some((at, conn)) = self.ready.pop_front() {
                moved = true;
                self.turn(at, conn);
            }
            if !moved {
                return;
            }
        }
    }

    fn command(&mut self, at: At, c: Command) {
        match c {
            Command::Wake(conn) => self.ready.push_back((at, conn)),
            Command::Close { conn, how } => {
                self.closing.insert((at, conn), how);
                self.ready.push_back((at, conn));
            }
            Command::Reset { conn } => self.gone(at, conn, None),
            Command::Dial { conn, to, tls, wire } => {
                self.dials.push((at, to, wire));
                let now = self.now;
                if self.silent.contains(&to) {
                    return;
                }
                if let Some(e) = self.refuses.get(&to).cloned() {
                    return self.engine(at).dial_failed(conn, e, now);
                }
                if tls.is_some() {
                    assert_eq!((at, wire), (At::Out, Wire::Mesh));
                    let side = Side::Inbound { app: SocketAddr::new(to.ip(), 9), peer: Some(identity("front")) };
                    let accept = Accept { side, wire, client: addr("10.1.0.1:41000"), original: to };
                    let there = self.inn.accept(accept, now);
                    self.far.insert((at, conn), Far::Engine(At::In, there));
                    self.far.insert((At::In, there), Far::Engine(at, conn));
                    self.ready.push_back((At::In, there));
                } else {
                    self.peer(at, conn, Some(to));
                }
                self.engine(at).connected(conn, now);
                self.ready.push_back((at, conn));
            }
        }
    }

    fn turn(&mut self, at: At, conn: ConnKey) {
        let now = self.now;
        loop {
            if self.unsent.contains_key(&(at, conn)) {
                return;
            }
            let mut bytes = Vec::new();
            if !self.engine(at).take_output(conn, &mut bytes, now) {
                break;
            }
            assert!(!bytes.is_empty());
            match self.far.get(&(at, conn)).copied() {
                Some(Far::Engine(..)) if self.dead => {}
                Some(Far::Engine(there, key)) => {
                    self.engine(there).input(key, &bytes, now);
                    self.ready.push_back((there, key));
                }
                Some(Far::Peer(p)) if self.peers[p].stalled => {
                    self.unsent.insert((at, conn), bytes);
                    self.engine(at).blocked(conn, now);
                    return;
                }
                Some(Far::Peer(p)) => self.peers[p].got.extend(bytes),
                None => {}
            }
            self.engine(at).written(conn, now);
        }
        if let Some(how) = self.closing.remove(&(at, conn)) {
            self.gone(at, conn, Some(how));
        }
    }

    fn gone(&mut self, at: At, conn: ConnKey, how: Option<CloseHow>) {
        let now = self.now;
        match self.far.remove(&(at, conn)) {
            Some(Far::Engine(there, key)) => {
                self.far.remove(&(there, key));
                if how.is_some() {
                    self.engine(there).eof(key, now);
                    self.ready.push_back((there, key));
                } else {
                    self.engine(there).broken(key, now);
                }
            }
            Some(Far::Peer(p)) => {
                self.peers[p].closed = how;
                self.peers[p].reset = how.is_none();
                self.peers[p].at = None;
            }
            None => {}
        }
    }

    /// Everything is at rest, and the books agree.
    pub fn at_rest(&mut self) {
        self.pump();
        self.out.assert_balanced();
        self.inn.assert_balanced();
        assert_eq!((self.out.exchanges(), self.inn.exchanges()), (0, 0), "exchanges are left");
    }
    /// The sum over all series of the outbound engine.
    pub fn total(&self, of: impl Fn(&weft_relay::stats::SeriesSnapshot) -> u64) -> u64 {
        self.out.shared().registry.snapshot().series.iter().map(|(_, s)| of(s)).sum()
    }
}
impl Lab {
    /// As `at_rest`, with so many exchanges of the outbound engine still under way.
    pub fn at_rest_but(&mut self, left: usize) {
        self.pump();
        self.out.assert_balanced();
        self.inn.assert_balanced();
        assert_eq!(self.out.exchanges(), left);
    }
}

/// The application connection that has a request and has not answered.
pub fn asked(lab: &mut Lab) -> usize {
    let apps = lab.apps();
    let p = apps.into_iter().find(|p| !lab.peers[*p].got.is_empty()).expect("an application was asked");
    lab.read(p);
    p
}
pub fn nobody_asked(lab: &Lab) -> bool {
    lab.apps().iter().all(|p| lab.peers[*p].got.is_empty())
}
