//! The engine of one worker: connections and exchanges in two slabs, and everything that happens between them.
//!
//! ```text
//! input -> turn.rs: codec events -> request.rs  (client's side: head, body, gone)   \   exchange.rs: step(state, event)
//!                                -> response.rs (upstream's side: head, body, lost)  -> attempt.rs: endpoint, connection, retry
//! timers.rs: deadlines, idle connections, drain                                     /   respond.rs: answers of our own
//! ```
//!
//! Everything is addressed by generational keys and looked up when it is needed, so nothing holds anything borrowed across an event. Bytes go straight from
//! the input slice of one connection into the output of another. What a turn changes on other connections is noted in `touched` and settled
//! when the turn ends: pipelined requests are taken up, finished connections closed, and each connection with output woken, once.

mod attempt;
mod authorize;
mod census;
mod heads;
mod log;
mod mirror;
mod request;
mod respond;
mod response;
mod route;
mod state;
mod timers;
mod turn;
mod upstream;

use crate::{
    admit::{AllLimits, Limits, Permit},
    api::{Accept, CloseHow, Command, ConnKey, DialError, EngineConfig, Wire},
    balance::Balancer,
    budget::{Budget, Budgets},
    conn::{Codec, Conn, Down, ExKey, Meaning, Phase, Role, Token},
    credit::{self, CreditBudget, Ledger},
    denials::Denials,
    outlier::{Detector, Detectors, OutlierConfig},
    pool::Pool,
    replay::{ReplayBudget, ReplayPool},
    stats::{Registry, Series, Shard, Totals},
    timer::Wheel,
    util::{Draw, FastMap},
};
pub use census::Census;
pub use log::Record;
use slab::Slab;
use state::Exchange;
use std::{collections::VecDeque, rc::Rc, sync::Arc, time::Instant};
use timers::Timer;
use weft_core::{
    backend::{BackendPolicy, RequestPolicy},
    cause::{Cause, Kind},
    endpoint::Endpoints,
    policy::{InboundPolicy, MeshTlsMode},
    service::{ServicePort, ServiceRef},
};
use weft_http::{h1, h2};

/// What the engines of a process share: budgets, ejections, counters.
#[derive(Debug)]
pub struct Shared {
    pub registry: Arc<Registry>,
    pub budgets: Budgets,
    pub detectors: Detectors,
    pub limits: AllLimits,
    pub denials: Denials,
    pub replay: Arc<ReplayBudget>,
    pub credit: Arc<CreditBudget>,
}
impl Shared {
    /// `memory`: the limit of the container in bytes, if it is known.
    pub fn new(memory: Option<usize>, now: Instant) -> Arc<Self> {
        Arc::new(Shared {
            registry: Registry::new(),
            budgets: Budgets::new(now),
            detectors: Detectors::new(OutlierConfig::default(), now),
            limits: AllLimits::new(now),
            denials: Denials::default(),
            replay: Arc::default(),
            credit: Arc::new(CreditBudget::of_memory(memory)),
        })
    }
}

/// The endpoints of one Service port, as this worker balances over them.
pub(crate) struct Cluster {
    service: ServiceRef,
    balancer: Balancer,
    budget: Arc<Budget>,
    detector: Arc<Detector>,
    limits: Arc<Limits>,
    /// What the endpoints came with.
    policy: BackendPolicy,
    /// Exchanges that point here.
    users: u32,
    /// Discovery has told endpoints, and not taken them back.
    told: bool,
}

impl Cluster {
    /// Whether the backend's policy has room for one more request.
    fn admit(&self, now: Instant) -> Result<Option<Permit>, Cause> {
        if let Some(rate) = &self.policy.rate
            && !self.limits.take(now)
        {
            return Err(Cause::with(
                Kind::RateLimited,
                format!("{}: {} in {:?}", self.service, rate.requests, rate.interval),
            ));
        }
        let Some(most) = self.policy.limits.requests else { return Ok(None) };
        match self.limits.request(most) {
            Some(permit) => Ok(Some(permit)),
            None => Err(Cause::with(Kind::OverloadRequests, format!("{}: {most}", self.service))),
        }
    }
}

/// A Service port with the series of its rules.
struct Service {
    port: Arc<ServicePort>,
    /// Of requests that no route decides, where there is anything to say.
    requests: Option<Arc<RequestPolicy>>,
    /// By the rule's address (the rule lives as long as `port`; 0: none) and the backend's cluster (`u32::MAX`: answered here).
    series: FastMap<(usize, u32), Arc<Series>>,
}

struct Configs {
    server: Arc<h1::Config>,
    client: Arc<h1::Config>,
    h2_server: Arc<h2::Config>,
    h2_client: Arc<h2::Config>,
    mesh: Arc<h2::Config>,
}

/// Everything between bytes and bytes on one worker thread. See the crate's documentation for who calls what.
pub struct Engine {
    config: EngineConfig,
    configs: Configs,
    shared: Arc<Shared>,
    conns: Slab<Conn>,
    exchanges: Slab<Exchange>,
    generation: u32,
    /// This pod's own policy.
    inbound: Arc<InboundPolicy>,
    services: FastMap<ServiceRef, Service>,
    clusters: Slab<Cluster>,
    cluster_of: FastMap<ServiceRef, u32>,
    pool: Pool<ConnKey, Token>,
    wheel: Wheel<Timer>,
    commands: VecDeque<Command>,
    /// Connections to settle at the end of the turn.
    touched: Vec<ConnKey>,
    /// Whose turn it is: it needs no wake-up.
    current: Option<ConnKey>,
    replay: ReplayPool,
    credit: Ledger<ExKey>,
    /// Bytes of the heads of all exchanges.
    heads: usize,
    shard: Shard,
    totals: Arc<Totals>,
    log: VecDeque<Record>,
    draw: Draw,
    now: Instant,
    draining: Option<timers::Drain>,
    pool_timer: bool,
}

impl Engine {
    /// `seed` decides every draw (weights, balancing, back-off, identifiers): the same calls with the same seed do the same.
    pub fn new(config: EngineConfig, seed: u64, now: Instant) -> Self {
        let shared = config.shared.clone().unwrap_or_else(|| Shared::new(None, now));
        let h1 = h1::Config {
            head_deadline: config.timeouts.head,
            body_idle: config.timeouts.body_idle,
            ..h1::Config::default()
        };
        let plain = h2::Config {
            max_streams: config.limits.streams,
            max_output: config.limits.output,
            extended_connect: true,
            ..h2::Config::default()
        };
        let configs = Configs {
            server: Arc::new(h1.clone()),
            client: Arc::new(h1),
            // towards others extended CONNECT is used only once they have offered it
            h2_client: Arc::new(h2::Config { extended_connect: false, ..plain.clone() }),
            mesh: Arc::new(h2::Config {
                missing_authority: true,
                stream_window: credit::MESH,
                // credited at receipt: it bounds only what is in flight, which the sockets bound anyway; 32 bodies of 64 KiB at once do not wait for it
                connection_window: 4 << 20,
                rates: h2::Rates::mesh(),
                ..plain.clone()
            }),
            h2_server: Arc::new(plain),
        };
        let shard = shared.registry.shard();
        Engine {
            configs,
            conns: Slab::new(),
            exchanges: Slab::new(),
            generation: 0,
            inbound: Arc::default(),
            services: FastMap::default(),
            clusters: Slab::new(),
            cluster_of: FastMap::default(),
            pool: Pool::new(config.pool),
            wheel: Wheel::new(now),
            commands: VecDeque::new(),
            touched: Vec::new(),
            current: None,
            replay: ReplayPool::new(shared.replay.clone()),
            credit: Ledger::new(shared.credit.clone()),
            heads: 0,
            totals: shard.totals().clone(),
            shard,
            log: VecDeque::new(),
            draw: Draw(seed),
            now,
            draining: None,
            pool_timer: false,
            shared,
            config,
        }
    }

    pub fn config(&self) -> &EngineConfig {
        &self.config
    }
    /// What all engines of the process share; `Registry::snapshot` is what a scrape sees.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    // ------------------------------------------------------------ what discovery knows

    /// A Service port as discovery knows it now. Running exchanges keep what they decided.
    pub fn set_service(&mut self, service: Arc<ServicePort>, now: Instant) {
        self.now = now;
        let at = self.cluster(&service.service);
        let cluster = &mut self.clusters[at as usize];
        cluster.balancer.set_affinity(service.affinity.or(cluster.policy.affinity));
        let requests = (service.requests != RequestPolicy::default()).then(|| Arc::new(service.requests.clone()));
        self.services.insert(service.service.clone(), Service { port: service, requests, series: FastMap::default() });
    }
    /// Endpoints of a Service port. Those that have left take no new streams; running ones go on.
    pub fn set_endpoints(&mut self, endpoints: Arc<Endpoints>, now: Instant) {
        self.now = now;
        let at = self.cluster(&endpoints.service) as usize;
        let before: Vec<_> = self.clusters[at].balancer.states(now).into_iter().map(|s| s.endpoint).collect();
        let affinity = self.services.get(&endpoints.service).and_then(|s| s.port.affinity);
        let cluster = &mut self.clusters[at];
        cluster.told = true;
        cluster.policy = endpoints.policy;
        cluster.balancer.set_affinity(affinity.or(cluster.policy.affinity));
        // other workers do the same with the same
        cluster.budget.configure(cluster.policy.budget);
        cluster.detector.configure(self.shared.detectors.config(&cluster.policy.outlier));
        cluster.limits.configure(&cluster.policy);
        cluster.balancer.update(&endpoints, now);
        let same = |a: &weft_core::endpoint::Endpoint, b: &weft_core::endpoint::Endpoint| {
            a.address == b.address && a.mesh == b.mesh
        };
        for gone in before.iter().filter(|e| !endpoints.endpoints.iter().any(|n| same(n, e))) {
            self.retire(gone);
        }
        self.settle();
    }
    pub fn remove_service(&mut self, service: &ServiceRef, now: Instant) {
        self.now = now;
        if self.services.remove(service).is_some() {
            self.shard.retain(|key| key.parent != *service);
        }
    }
    pub fn remove_endpoints(&mut self, service: &ServiceRef, now: Instant) {
        let Some(&at) = self.cluster_of.get(service) else { return };
        let none = Endpoints {
            service: service.clone(),
            endpoints: Vec::new(),
            not_ready: 0,
            http2: false,
            prefer_zone: false,
            policy: BackendPolicy::default(),
        };
        self.set_endpoints(Arc::new(none), now);
        self.clusters[at as usize].told = false;
        self.forget_cluster(at);
    }
    /// This pod's own policy. Requests under way are judged again; under a strict one plain inbound connections are drained (design 3.4: a change re-judges what is open).
    pub fn set_inbound(&mut self, policy: Arc<InboundPolicy>, now: Instant) {
        self.now = now;
        let before = std::mem::replace(&mut self.inbound, policy);
        if before.authorization != self.inbound.authorization {
            self.authorize_again();
        }
        if self.inbound.tls == MeshTlsMode::Strict {
            self.drain_where(|d| matches!(d.meaning, Meaning::App { peer: None, .. }));
        }
        self.settle();
    }
    fn cluster(&mut self, service: &ServiceRef) -> u32 {
        if let Some(at) = self.cluster_of.get(service) {
            return *at;
        }
        let detector = self.shared.detectors.of(service);
        let mut balancer = Balancer::new(detector.clone(), self.config.zone.clone(), self.now);
        balancer.set_affinity(self.services.get(service).and_then(|s| s.port.affinity));
        let cluster = Cluster {
            service: service.clone(),
            balancer,
            budget: self.shared.budgets.of(service),
            detector,
            limits: self.shared.limits.of(service),
            policy: BackendPolicy::default(),
            users: 0,
            told: false,
        };
        let at = self.clusters.insert(cluster) as u32;
        self.cluster_of.insert(service.clone(), at);
        at
    }
    fn forget_cluster(&mut self, at: u32) {
        let unused = self
            .clusters
            .get(at as usize)
            .is_some_and(|c| c.users == 0 && !c.told && !self.services.contains_key(&c.service));
        if unused {
            let c = self.clusters.remove(at as usize);
            self.cluster_of.remove(&c.service);
        }
    }

    // ------------------------------------------------------------ connections

    /// Takes over a connection. What was read from it so far goes to [`Engine::input`].
    pub fn accept(&mut self, accept: Accept, now: Instant) -> ConnKey {
        self.now = now;
        let codec = match accept.wire {
            Wire::Http1 => Codec::Server(h1::Server::new(self.configs.server.clone())),
            Wire::Http2 => Codec::H2(Box::new(h2::Connection::server(self.configs.h2_server.clone()))),
            Wire::Mesh => Codec::H2(Box::new(h2::Connection::server(self.configs.mesh.clone()))),
        };
        let down = Rc::new(Down::new(accept, &mut self.shard));
        let counter = match (&down.meaning, down.wire) {
            (Meaning::App { .. }, Wire::Mesh) => &self.totals.accepted_mesh,
            (Meaning::App { .. }, _) => &self.totals.accepted_inbound,
            _ => &self.totals.accepted_outbound,
        };
        counter.add(1);
        let key = self.insert(codec, Role::Down(down), Phase::Open);
        // its own task has not begun: it looks for output when it does
        self.conns[key.index as usize].woken = true;
        self.touch(key);
        self.drain_new(key);
        self.settle();
        key
    }
    /// Answer to [`Command::Dial`]: ready for bytes (after the TLS handshake).
    pub fn connected(&mut self, conn: ConnKey, now: Instant) {
        self.begin(conn, now);
        if let Some(c) = self.conn(conn)
            && c.phase == Phase::Dialing
        {
            c.phase = Phase::Open;
            c.woken = true;
            self.opened(conn);
        }
        self.settle();
    }
    /// Answer to [`Command::Dial`]; the key is dead afterwards.
    pub fn dial_failed(&mut self, conn: ConnKey, error: DialError, now: Instant) {
        self.begin(conn, now);
        if self.conn(conn).is_some_and(|c| c.phase == Phase::Dialing) {
            self.totals.dial_failed.add(1);
            self.dial_lost(conn, error);
        }
        self.settle();
    }
    /// Bytes that were read. All are taken in.
    pub fn input(&mut self, conn: ConnKey, bytes: &[u8], now: Instant) {
        self.begin(conn, now);
        self.feed(conn, bytes);
        self.settle();
    }
    /// The peer has shut down its side (FIN or `close_notify`). The connection lives until a Close or Reset command.
    pub fn eof(&mut self, conn: ConnKey, now: Instant) {
        self.begin(conn, now);
        self.ended(conn);
        self.settle();
    }
    /// Reading or writing failed, or the task has ended: the key is dead afterwards.
    pub fn broken(&mut self, conn: ConnKey, now: Instant) {
        self.begin(conn, now);
        self.lose(conn, weft_core::cause::Kind::ResetBeforeResponse.into());
        self.settle();
    }
    /// Whether to read. Ask after each turn and after each [`Command::Wake`].
    pub fn wants_read(&self, conn: ConnKey) -> bool {
        let Some(c) = self.conns.get(conn.index as usize).filter(|c| c.key == conn) else { return false };
        if c.phase != Phase::Open || c.eof {
            return false;
        }
        match &c.codec {
            Codec::Server(s) => !c.paused && s.wants_read(),
            Codec::Client(_) => !c.paused,
            Codec::H2(_) => true,
        }
    }
    /// Swaps what is to be written into `buffer`, which must be empty. False: nothing. At most about 68 KiB at a time; while it is being written nothing more is given.
    /// Call [`Engine::written`] when all of it has left, then ask again.
    pub fn take_output(&mut self, conn: ConnKey, buffer: &mut Vec<u8>, now: Instant) -> bool {
        self.now = now;
        let Some(c) = self.conns.get_mut(conn.index as usize).filter(|c| c.key == conn) else { return false };
        c.woken = false;
        if c.writing.is_some() || c.phase == Phase::Dialing {
            return false;
        }
        let out = c.codec.output();
        if out.is_empty() {
            if c.phase == Phase::Closing {
                self.forget(conn);
            }
            return false;
        }
        std::mem::swap(out, buffer);
        c.in_flight += std::mem::take(&mut c.pending);
        c.writing = Some(now);
        true
    }
    /// Not all of the last output could be written: the socket takes nothing at present. `written` still follows when it does.
    pub fn blocked(&mut self, conn: ConnKey, now: Instant) {
        self.begin(conn, now);
        if let Some(c) = self.conn(conn)
            && c.writing.is_some()
            && !c.blocked
        {
            c.blocked = true;
            self.pool.blocked(conn, now);
            self.watch(conn);
        }
    }
    /// All bytes of the last [`Engine::take_output`] have left for the socket.
    pub fn written(&mut self, conn: ConnKey, now: Instant) {
        self.begin(conn, now);
        self.left(conn);
        self.settle();
    }

    /// What the rim has to do; take all after every call.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }
    /// Finished exchanges, when [`EngineConfig::access_log`] is set. Take them often: what finds no room is dropped and counted.
    pub fn take_log(&mut self) -> Option<Record> {
        self.log.pop_front()
    }
    /// Exchanges under way.
    pub fn exchanges(&self) -> usize {
        self.exchanges.len()
    }
    /// Connections of both sides, dialling ones too.
    pub fn connections(&self) -> usize {
        self.conns.len()
    }
    /// What this worker knows of the endpoints of each Service port: for a dump.
    pub fn endpoints(&self, now: Instant) -> Vec<(ServiceRef, Vec<crate::balance::EndpointState>)> {
        self.clusters.iter().map(|(_, c)| (c.service.clone(), c.balancer.states(now))).collect()
    }

    // ------------------------------------------------------------ keys

    fn begin(&mut self, conn: ConnKey, now: Instant) {
        self.now = now;
        self.current = Some(conn);
    }
    fn next_generation(&mut self) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        self.generation
    }
    fn insert(&mut self, codec: Codec, role: Role, phase: Phase) -> ConnKey {
        let generation = self.next_generation();
        let entry = self.conns.vacant_entry();
        let index = u32::try_from(entry.key()).expect("connections are bounded far below 2^32");
        let key = ConnKey { index, generation };
        entry.insert(Conn::new(key, codec, role, phase, self.now));
        key
    }
    #[inline]
    fn conn(&mut self, key: ConnKey) -> Option<&mut Conn> {
        self.conns.get_mut(key.index as usize).filter(|c| c.key == key)
    }
    #[inline]
    fn ex(&mut self, key: ExKey) -> Option<&mut Exchange> {
        self.exchanges.get_mut(key.index as usize).filter(|x| x.key == key)
    }
    fn random(&mut self) -> u64 {
        self.draw.next()
    }
    /// The connection is looked at when the turn ends.
    #[inline]
    fn touch(&mut self, key: ConnKey) {
        if let Some(c) = self.conn(key)
            && !c.touched
        {
            c.touched = true;
            self.touched.push(key);
        }
    }
    /// Tells the rim to close once the output has left. `how` of the first call counts.
    fn close(&mut self, key: ConnKey, how: CloseHow) {
        let Some(c) = self.conn(key) else { return };
        if c.phase == Phase::Closing {
            return;
        }
        if c.phase == Phase::Dialing {
            self.commands.push_back(Command::Reset { conn: key });
            self.forget(key);
            return;
        }
        c.phase = Phase::Closing;
        self.commands.push_back(Command::Close { conn: key, how });
        self.watch(key);
    }
    fn forget(&mut self, key: ConnKey) {
        if self.conn(key).is_none() {
            return;
        }
        let c = self.conns.remove(key.index as usize);
        if let Some(t) = c.timer {
            self.wheel.cancel(t);
        }
        match c.role {
            Role::Down(_) => self.totals.accepted_closed.add(1),
            Role::Up(_) => {
                self.pool.closed(key);
                self.totals.dialed_closed.add(1);
            }
        }
    }
}
