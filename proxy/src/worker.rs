//! A data-plane thread: a single-threaded runtime with its own engine, pools and view of the mesh. Nothing in it is shared but counters and configuration.
//!
//! ```text
//! control thread --Order--> worker: view, engine
//! listener -> accept -> task: outbound::serve | inbound::serve -> a smaller task: connection of the engine | relay
//! ```
//!
//! A task that panics closes its own connection, is counted, and is a bug; the thread goes on.

use crate::{
    access_log::AccessLog,
    config::Config,
    http::Http,
    inbound,
    limits::{Gate, HandshakeRate, HandshakeTurn, Place},
    net::{self, OriginalDst},
    outbound,
    picker::Picker,
    stats::{Count, Rim},
    view::{self, Update, View},
};
use ahash::AHashMap;
use futures_util::FutureExt;
use rand::{SeedableRng, rngs::SmallRng};
use rustls::ClientConfig;
use std::{
    cell::{Cell, RefCell},
    future::Future,
    io,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc, oneshot},
    task::AbortHandle,
};
use weft_core::{
    authorization::Call,
    identity::WorkloadIdentity,
    policy::MeshTlsMode,
    service::{ServicePort, ServiceRef},
};
use weft_discovery::{DiscoveryClient, Updates};
use weft_identity::{Alpn, CredentialCell, Credentials, CredentialsError};

/// What all threads of a proxy share.
pub struct Shared {
    pub config: Config,
    pub net: Arc<dyn OriginalDst>,
    pub stats: Arc<Rim>,
    pub gate: Arc<Gate>,
    /// `None`: not in the mesh.
    pub cell: Option<CredentialCell>,
    /// `None`: static configuration, unknown addresses are outside.
    pub discovery: Option<DiscoveryClient>,
    /// What the engines share: budgets, ejections, counters.
    pub engines: Arc<weft_relay::Shared>,
    pub log: AccessLog,
}

impl Shared {
    /// An address of this pod.
    pub fn is_own_pod(&self, a: SocketAddr) -> bool {
        self.config.pod.ips.contains(&a.ip())
    }
}

/// What a worker is told by the control thread.
pub enum Order {
    Update(Update),
    /// A connection that another worker accepted.
    Serve {
        socket: std::net::TcpStream,
        place: Place,
        client: SocketAddr,
        listener: SocketAddr,
        side: Side,
    },
    /// Finish what is left until `deadline`. `outbound`: that side, too.
    Drain {
        deadline: Instant,
        outbound: bool,
    },
    /// Nothing was under way in a drain that ends with the process: nothing more is accepted, and whoever has not been told to go is told.
    Leave,
    /// How much is under way? A drain ends when it is nothing.
    Busy(oneshot::Sender<usize>),
    /// What does this worker believe?
    Ask(oneshot::Sender<serde_json::Value>),
    Stop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Outbound,
    Inbound,
}

/// Why a byte stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forbidden {
    PlainText,
    Denied,
}

/// How many orders may wait for a worker: a whole configuration of a large namespace; the control thread waits when it is full.
pub const ORDERS: usize = 1024;

/// One data-plane thread's state.
pub struct Worker {
    pub shared: Arc<Shared>,
    pub view: View,
    pub picker: Picker,
    pub http: Http,
    pub rng: RefCell<SmallRng>,
    pub clients: RefCell<Clients>,
    pub rate: RefCell<HandshakeRate>,
    pub handshakes: HandshakeTurn,
    /// Set once the outbound side drains: connections that only wait for a first byte end.
    draining: Cell<bool>,
    drained: Notify,
    /// Service ports whose endpoints have all been seen to be known here.
    whole: RefCell<AHashMap<ServiceRef, Arc<ServicePort>>>,
    /// The own policy has changed: byte streams are judged again.
    judge: Notify,
    /// Running relays of byte streams.
    pub relays: Cell<usize>,
    /// Handshakes of the mesh under way on the inbound side: a TLS 1.3 client may send its request before the server has read the end of the handshake.
    pub arriving: Cell<usize>,
    /// Tasks that accept; gone once the process leaves.
    accepting: RefCell<Vec<AbortHandle>>,
    /// Nothing new begins: no connection, no handshake.
    pub leaving: Cell<bool>,
    /// The runtime is about to end: nothing new is started.
    pub stopping: Cell<bool>,
    /// ... and nothing was under way: idle connections end in order.
    pub quiet: Cell<bool>,
    /// Running tasks, for the acceptor to compare.
    load: Arc<Count>,
}

impl Worker {
    /// Runs a task of one connection. A panic in it is caught and counted.
    pub fn spawn(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        let w = self.clone();
        w.load.one();
        tokio::task::spawn_local(async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                w.shared.stats.panics.one();
            }
            w.load.sub(1);
        });
    }

    /// Resolves when the worker drains both sides.
    pub async fn drained(&self) {
        let mut drained = std::pin::pin!(self.drained.notified());
        drained.as_mut().enable();
        if !self.draining.get() {
            drained.await;
        }
    }

    /// Whether a byte stream from this peer to this port of the application is allowed. `count`: it has just arrived.
    pub fn allows(&self, peer: Option<&WorkloadIdentity>, port: u16, count: bool) -> bool {
        let policy = self.view.inbound();
        if policy.authorization.is_empty() {
            return true;
        }
        let verdict = policy.authorization.judge(&Call { peer, port, request: None });
        if count && let Some(p) = verdict.denied.or(verdict.dry_run) {
            self.shared.engines.denials.add(&p.name, verdict.denied.is_none());
            tracing::info!(policy = %p.name, dry_run = verdict.denied.is_none(), peer = peer.map(|p| p.uri()), port, "inbound: byte stream denied");
        }
        !verdict.is_denied()
    }

    /// Resolves when the own policy no longer allows a byte stream: strict and plain, or not authorized.
    pub async fn forbidden(&self, peer: Option<&WorkloadIdentity>, port: u16) -> Forbidden {
        loop {
            let mut judge = std::pin::pin!(self.judge.notified());
            judge.as_mut().enable();
            if peer.is_none() && self.view.inbound().tls == MeshTlsMode::Strict {
                return Forbidden::PlainText;
            }
            if !self.allows(peer, port, false) {
                return Forbidden::Denied;
            }
            judge.await;
        }
    }

    fn update(self: &Rc<Self>, u: Update) {
        let u = u.suited(&self.shared.config.pod.ips);
        if let Update::NoService(s) = &u {
            self.whole.borrow_mut().remove(s);
        }
        self.view.apply(&u);
        if matches!(u, Update::Inbound(_)) {
            self.judge.notify_waiters();
        }
        self.update_http(&u);
    }

    /// A Service port that a lookup has named. The discovery client has it whole; this worker may not have taken the update yet.
    pub fn service(self: &Rc<Self>, s: &ServiceRef) -> Option<Arc<ServicePort>> {
        let known = self.view.service(s);
        let Some(discovery) = self.shared.discovery.as_ref() else { return known };
        let port = match &known {
            Some(port) => port.clone(),
            None => discovery.service_port(s)?,
        };
        // once for each version of the port: a table may have thousands of rules
        if self.whole.borrow().get(s).is_some_and(|w| Arc::ptr_eq(w, &port)) {
            return Some(port);
        }
        for b in view::backends(&port.routes).iter().chain([s]) {
            if self.view.endpoints(b).is_none()
                && let Some(e) = discovery.endpoints(b)
            {
                self.update(Update::Endpoints(e));
            }
        }
        if known.is_none() {
            self.update(Update::Service(port.clone()));
        }
        self.whole.borrow_mut().insert(s.clone(), port.clone());
        Some(port)
    }

    fn order(self: &Rc<Self>, o: Order) -> bool {
        match o {
            Order::Update(u) => {
                self.update(u);
            }
            Order::Serve { socket, place, client, listener, side } => match TcpStream::from_std(socket) {
                Ok(s) => self.accepted(s, place, client, listener, side),
                Err(error) => tracing::warn!(%client, %error, "a connection could not be taken over"),
            },
            Order::Drain { deadline, outbound } => {
                if outbound {
                    self.draining.set(true);
                    self.drained.notify_waiters();
                }
                self.drain_http(deadline, outbound);
            }
            Order::Leave => {
                self.leaving.set(true);
                self.accepting.take().iter().for_each(AbortHandle::abort);
                self.last_call_http();
            }
            Order::Busy(answer) => {
                let _ = answer.send(self.busy());
            }
            Order::Ask(answer) => {
                let dump = serde_json::json!({ "view": self.view.list(), "engine": self.http.dump() });
                // whoever asked may have gone
                let _ = answer.send(dump);
            }
            Order::Stop => {
                self.stopping.set(true);
                self.quiet.set(self.busy() == 0);
                return false;
            }
        }
        true
    }

    /// What a drain waits for.
    fn busy(&self) -> usize {
        self.http.busy() + self.relays.get() + self.arriving.get()
    }

    fn accepted(self: &Rc<Self>, s: TcpStream, place: Place, client: SocketAddr, listener: SocketAddr, side: Side) {
        let w = self.clone();
        match side {
            Side::Outbound => self.spawn(outbound::serve(w, s, place, client, listener)),
            Side::Inbound => self.spawn(inbound::serve(w, s, place, client, listener)),
        }
    }
}

/// TLS configurations for dialling, made once for each peer identity and certificate: a few, since a pod calls a few services.
#[derive(Default)]
pub struct Clients {
    of: Option<Arc<Credentials>>,
    made: AHashMap<(WorkloadIdentity, Alpn), Arc<ClientConfig>>,
}

/// Beyond this the table starts anew; making a configuration costs less than a hundredth of a handshake.
const CLIENTS: usize = 256;

impl Clients {
    pub fn get(
        &mut self,
        credentials: &Arc<Credentials>,
        peer: &WorkloadIdentity,
        alpn: Alpn,
    ) -> Result<Arc<ClientConfig>, CredentialsError> {
        if !self.of.as_ref().is_some_and(|c| Arc::ptr_eq(c, credentials)) {
            self.made.clear();
            self.of = Some(credentials.clone());
        }
        if let Some(c) = self.made.get(&(peer.clone(), alpn)) {
            return Ok(c.clone());
        }
        let c = credentials.mesh_client(peer, alpn)?;
        if self.made.len() >= CLIENTS {
            self.made.clear();
        }
        self.made.insert((peer.clone(), alpn), c.clone());
        Ok(c)
    }
}

/// How workers reach each other: sockets go to the one that has the fewest.
#[derive(Clone)]
pub struct Peer {
    pub orders: mpsc::Sender<Order>,
    pub load: Arc<Count>,
}

/// Takes what the discovery client learns, for as long as the worker lives.
async fn updates(w: Rc<Worker>, mut updates: Updates) {
    use weft_discovery::Update as From;
    loop {
        let u = match updates.next().await {
            From::ServicePort(_, Some(port)) => Update::Service(port),
            From::ServicePort(s, None) => Update::NoService(s),
            From::Endpoints(_, Some(e)) => Update::Endpoints(e),
            From::Endpoints(s, None) => Update::NoEndpoints(s),
            From::Inbound(policy) => Update::Inbound(policy),
            // addresses are asked for, and the bundle is in the cell already
            From::Target(..) | From::Bundle(_) | From::Connected(_) => continue,
        };
        w.update(u);
    }
}

/// Runs a worker on the current thread until it is stopped. `listeners` is empty but for the first worker, which accepts for all.
pub fn run(
    shared: Arc<Shared>,
    listeners: Vec<(std::net::TcpListener, Side)>,
    peers: Vec<Peer>,
    mut orders: mpsc::Receiver<Order>,
    load: Arc<Count>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(async move {
        let rate = HandshakeRate::new(shared.config.limits.handshakes_per_source);
        let w = Rc::new(Worker {
            view: View::default(),
            picker: Picker::default(),
            http: Http::new(&shared, rand::random()),
            rng: RefCell::new(SmallRng::from_rng(&mut rand::rng())),
            clients: RefCell::default(),
            rate: RefCell::new(rate),
            handshakes: HandshakeTurn::default(),
            draining: Cell::new(false),
            drained: Notify::new(),
            whole: RefCell::default(),
            judge: Notify::new(),
            relays: Cell::new(0),
            arriving: Cell::new(0),
            accepting: RefCell::default(),
            leaving: Cell::new(false),
            stopping: Cell::new(false),
            quiet: Cell::new(false),
            load,
            shared,
        });
        tokio::task::spawn_local(crate::http::timers(w.clone()));
        if let Some(d) = &w.shared.discovery {
            tokio::task::spawn_local(updates(w.clone(), d.updates()));
        }
        for (l, side) in listeners {
            let l = net::register(l)?;
            let task = tokio::task::spawn_local(accept(w.clone(), l, side, peers.clone()));
            w.accepting.borrow_mut().push(task.abort_handle());
        }
        while let Some(o) = orders.recv().await {
            if !w.order(o) {
                break;
            }
        }
        Ok(())
    })
}

/// How long accepting rests when the process or the machine is out of descriptors or memory.
const REST: Duration = Duration::from_millis(50);

async fn accept(w: Rc<Worker>, l: TcpListener, side: Side, peers: Vec<Peer>) {
    let s = w.shared.stats.clone();
    let Ok(listener) = l.local_addr() else { return };
    loop {
        if w.shared.gate.is_full() {
            s.accept_paused.one();
            tracing::warn!(%listener, open = w.shared.gate.open(), "accepting paused: no room for more connections");
            w.shared.gate.room().await;
        }
        let (socket, client) = match l.accept().await {
            Ok(a) => a,
            // EMFILE, ENFILE, ENOBUFS, ENOMEM: the connection stays in the backlog
            Err(e) if matches!(e.raw_os_error(), Some(24 | 23 | 105 | 12)) => {
                s.accept_paused.one();
                tracing::warn!(%listener, error = %e, "accepting paused");
                tokio::time::sleep(REST).await;
                continue;
            }
            // the client was gone before it was accepted
            Err(_) => continue,
        };
        if side == Side::Outbound { &s.accepted_outbound } else { &s.accepted_inbound }.one();
        let place = w.shared.gate.enter();
        let least = peers.iter().enumerate().min_by_key(|(i, p)| (p.load.get(), *i));
        match least {
            Some((i, p)) if i > 0 => {
                if let Ok(socket) = socket.into_std() {
                    let order = Order::Serve { socket, place, client, listener, side };
                    if p.orders.send(order).await.is_err() {
                        return;
                    }
                }
            }
            _ => w.accepted(socket, place, client, listener, side),
        }
    }
}
