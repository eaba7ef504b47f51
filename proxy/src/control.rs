//! Starting a proxy, and the thread that keeps it: admin, credentials, discovery, drain. The data plane never waits for it.
//!
//! ```text
//! bind -> [control thread] credentials -> discovery -> inbound policy -> workers accept -> ready -> drain -> stop
//! ```
//!
//! Listeners are bound at once, so that a wrong address is an error of the start, but nothing is accepted before the proxy knows who it is and
//! what its pod's policy says; until then connections wait in the kernel's backlog.

use crate::{
    access_log::AccessLog,
    admin,
    config::{Capture, Config, ConfigError, ms},
    credentials,
    limits::{self, Gate},
    net::{self, Kernel, OriginalDst, Table},
    stats::{Count, Rim},
    view::Update,
    worker::{self, ORDERS, Order, Peer, Shared, Side},
};
use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot, watch};
use weft_core::{endpoint::Endpoint, service::Target};
use weft_discovery::{ClientSettings, DiscoveryClient};
use weft_identity::{CredentialCell, controller_identity};

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{listener}: {error}")]
    Bind { listener: SocketAddr, error: io::Error },
    #[error("credentials: {0}")]
    Credentials(#[from] credentials::Failure),
    #[error("access log: {0}")]
    Log(io::Error),
    #[error("{0}")]
    Thread(io::Error),
}

/// What the owner of a proxy can ask of it.
enum Ask {
    Drain { outbound: bool },
    Terminate,
    Stop,
    Update(Update),
}

/// Where a proxy is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// What it waits for.
    Starting(&'static str),
    Ready,
    /// Inbound finishes; ready stays false so that no new clients come.
    Draining,
    Stopped,
}

/// A running proxy. Dropping it stops it at once.
pub struct Proxy {
    control: Control,
    state: watch::Receiver<State>,
    thread: Option<JoinHandle<()>>,
    admin: SocketAddr,
    listeners: Vec<Listening>,
    stats: Arc<Rim>,
}

/// A listener and, in the mapped world, the address that it stands for.
#[derive(Clone, Debug)]
pub struct Listening {
    pub side: Side,
    pub at: SocketAddr,
    pub original: Option<SocketAddr>,
}

/// Steers a running proxy; cheap to clone.
#[derive(Clone)]
pub struct Control(mpsc::UnboundedSender<Ask>);

impl Control {
    /// preStop: the inbound side finishes what it has and asks clients to go elsewhere; nothing is refused.
    pub fn drain(&self) {
        self.ask(Ask::Drain { outbound: false });
    }
    /// SIGTERM: finish what is left, stop as soon as nothing is under way, at the latest a second before the grace period ends.
    pub fn terminate(&self) {
        self.ask(Ask::Terminate);
    }
    /// Stops at once.
    pub fn stop(&self) {
        self.ask(Ask::Stop);
    }
    /// Changes what a proxy with a static configuration believes.
    pub fn update(&self, u: Update) {
        self.ask(Ask::Update(u));
    }
    fn ask(&self, a: Ask) {
        // a proxy that has stopped needs nothing any more
        let _ = self.0.send(a);
    }
}

impl Proxy {
    /// Starts a proxy. Returns when its listeners are bound; [`wait_ready`](Self::wait_ready) tells when it serves.
    pub fn start(config: Config) -> Result<Proxy, StartError> {
        Self::start_with(config, None)
    }

    /// The same with credentials from elsewhere (tests).
    pub fn start_with(config: Config, cell: Option<CredentialCell>) -> Result<Proxy, StartError> {
        config.check()?;
        weft_identity::provider::install();
        let cell = match (cell, &config.credentials) {
            (Some(cell), _) => Some(cell),
            (None, Some(c)) => Some(credentials::open(c, &config.pod)?),
            (None, None) => None,
        };
        let descriptors = limits::raise_descriptors();
        let max = match config.limits.connections {
            0 => limits::connections_for(descriptors),
            n => n.min(limits::connections_for(descriptors)),
        };
        let (sockets, listeners) = bind(&config)?;
        let bound: Vec<_> = listeners.iter().map(|l| l.at).collect();
        let net: Arc<dyn OriginalDst> = match &config.capture {
            Capture::Kernel(_) => Arc::new(Kernel::new(&config.pod.ips, &bound)),
            Capture::Mapped(m) => Arc::new(Table::new(m, &bound)),
        };
        let admin = net::listen(config.admin).map_err(|error| StartError::Bind { listener: config.admin, error })?;
        let admin_at = admin.local_addr().map_err(StartError::Thread)?;
        let stats = Arc::new(Rim::default());
        let log = AccessLog::open(config.access_log.as_deref(), stats.clone()).map_err(StartError::Log)?;
        let (ask, asked) = mpsc::unbounded_channel();
        let (state_tx, state) = watch::channel(State::Starting("nothing yet"));
        let control = Control(ask);
        let run = Run {
            config,
            cell,
            net,
            gate: Gate::new(max),
            stats: stats.clone(),
            log,
            state: state_tx,
            listeners: listeners.clone(),
            control: control.clone(),
        };
        let thread = thread::Builder::new()
            .name("weft-control".into())
            .spawn(move || run.thread(sockets, admin, asked))
            .map_err(StartError::Thread)?;
        Ok(Proxy { control, state, thread: Some(thread), admin: admin_at, listeners, stats })
    }

    pub fn control(&self) -> Control {
        self.control.clone()
    }
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }
    pub fn listeners(&self) -> &[Listening] {
        &self.listeners
    }
    pub fn stats(&self) -> &Arc<Rim> {
        &self.stats
    }
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// The listener that stands for `original` in the mapped world, or the first one of that side.
    pub fn listener(&self, side: Side, original: Option<SocketAddr>) -> Option<SocketAddr> {
        self.listeners.iter().find(|l| l.side == side && (original.is_none() || l.original == original)).map(|l| l.at)
    }

    /// Blocks until the proxy serves. False: it stopped, or `limit` has passed.
    pub fn wait_ready(&self, limit: Duration) -> bool {
        self.wait(limit, |s| *s == State::Ready) && *self.state.borrow() != State::Stopped
    }

    /// Blocks until the proxy has stopped. False: `limit` has passed.
    pub fn wait_stopped(&self, limit: Duration) -> bool {
        self.wait(limit, |_| false)
    }

    fn wait(&self, limit: Duration, reached: impl Fn(&State) -> bool + Sync) -> bool {
        let mut state = self.state.clone();
        let Ok(rt) = tokio::runtime::Builder::new_current_thread().enable_time().build() else { return false };
        let reached = &reached;
        let wait = async move {
            let until = async {
                loop {
                    // the guard of the value must not live across the wait
                    let there = {
                        let s = state.borrow_and_update();
                        *s == State::Stopped || reached(&s)
                    };
                    if there || state.changed().await.is_err() {
                        return;
                    }
                }
            };
            tokio::time::timeout(limit, until).await.is_ok()
        };
        // a caller may be inside another runtime: a thread of its own may block
        thread::scope(|s| s.spawn(move || rt.block_on(wait)).join().unwrap_or(false))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.control.stop();
        if let Some(t) = self.thread.take() {
            // its panic has been reported by the panic hook
            let _ = t.join();
        }
    }
}

type Sockets = Vec<(std::net::TcpListener, Side)>;

fn bind(config: &Config) -> Result<(Sockets, Vec<Listening>), StartError> {
    let wanted: Vec<(Side, SocketAddr, Option<SocketAddr>)> = match &config.capture {
        Capture::Kernel(k) => {
            let out = k.outbound.iter().map(|a| (Side::Outbound, *a, None));
            out.chain(k.inbound.iter().map(|a| (Side::Inbound, *a, None))).collect()
        }
        Capture::Mapped(m) => {
            let out = m.outbound.iter().map(|l| (Side::Outbound, l.listen, Some(l.original)));
            out.chain(m.inbound.iter().map(|l| (Side::Inbound, l.listen, Some(l.original)))).collect()
        }
    };
    let mut sockets = Vec::new();
    let mut listening = Vec::new();
    for (side, listener, original) in wanted {
        match net::listen(listener) {
            Ok(l) => {
                let at = l.local_addr().map_err(|error| StartError::Bind { listener, error })?;
                sockets.push((l, side));
                listening.push(Listening { side, at, original });
            }
            // EAFNOSUPPORT, EADDRNOTAVAIL: a node without IPv6
            Err(e) if listener.is_ipv6() && original.is_none() && matches!(e.raw_os_error(), Some(97 | 99)) => {
                tracing::info!(%listener, "IPv6 is off on this node");
            }
            Err(error) => return Err(StartError::Bind { listener, error }),
        }
    }
    Ok((sockets, listening))
}

/// When the code of the start is let go (see [`crate::sys`]), and how often again: the kernel maps 64 KiB around each page that is needed, and a minute's worth of
/// what is not in use goes. It costs 0.2 ms.
const SETTLED: Duration = Duration::from_secs(2);
const FORGET: Duration = Duration::from_secs(30);

/// What the control thread owns.
struct Run {
    config: Config,
    cell: Option<CredentialCell>,
    net: Arc<dyn OriginalDst>,
    gate: Arc<Gate>,
    stats: Arc<Rim>,
    log: AccessLog,
    state: watch::Sender<State>,
    listeners: Vec<Listening>,
    control: Control,
}

impl Run {
    fn thread(self, sockets: Sockets, admin: std::net::TcpListener, asked: mpsc::UnboundedReceiver<Ask>) {
        let state = self.state.clone();
        match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(rt) => rt.block_on(self.run(sockets, admin, asked)),
            Err(error) => tracing::error!(%error, "no runtime for the control thread"),
        }
        state.send_replace(State::Stopped);
    }

    async fn run(self, sockets: Sockets, admin: std::net::TcpListener, mut asked: mpsc::UnboundedReceiver<Ask>) {
        let workers: Workers = Arc::default();
        let (discovery, stream) = match (&self.config.controller, &self.cell) {
            (Some(c), Some(cell)) => {
                let pod = &self.config.pod;
                let named = c.identity.clone().map_or_else(|| controller_identity(cell.bundle().trust_domain()), Ok);
                let Ok(identity) = named.inspect_err(|error| tracing::error!(%error, "the bundle's trust domain"))
                else {
                    return;
                };
                let mut s = ClientSettings::new(vec![c.address.clone()], identity, &pod.uid, &pod.name);
                s.namespace = pod.namespace.clone();
                s.addresses = pod.ips.clone();
                s.zone = pod.zone.clone();
                s.lookup_deadline = ms(self.config.timeouts.lookup);
                let (client, stream) = DiscoveryClient::new(s, cell.clone());
                (Some(client), Some(stream))
            }
            _ => (None, None),
        };
        let shared = Arc::new(Shared {
            net: self.net.clone(),
            stats: self.stats.clone(),
            gate: self.gate.clone(),
            cell: self.cell.clone(),
            discovery: discovery.clone(),
            engines: weft_relay::Shared::new(self.config.limits.memory.or_else(limits::memory), Instant::now()),
            log: self.log.clone(),
            config: self.config.clone(),
        });
        tokio::spawn(admin::serve(
            admin,
            admin::Admin {
                shared: shared.clone(),
                state: self.state.subscribe(),
                workers: workers.clone(),
                listeners: self.listeners.clone().into(),
                control: self.control.clone(),
                started: Instant::now(),
            },
        ));
        if let (Some(c), Some(cell)) = (self.config.credentials.clone(), &self.cell) {
            tokio::spawn(credentials::keep(c, self.config.pod.clone(), cell.clone()));
        }
        let begin = self.begin(stream, discovery);
        tokio::pin!(begin);
        let policy = loop {
            tokio::select! {
                policy = &mut begin => break policy,
                a = asked.recv() => match a {
                    // nothing is served yet, so nothing has to finish
                    Some(Ask::Stop | Ask::Terminate) | None => return,
                    Some(Ask::Drain { .. } | Ask::Update(_)) => {}
                },
            }
        };
        let threads = match self.workers(&shared, sockets, &workers) {
            Ok(t) => t,
            Err(error) => {
                tracing::error!(%error, "no thread for a worker");
                return;
            }
        };
        for u in policy.into_iter().chain(self.fixed()) {
            tell(&workers, || Order::Update(u.clone())).await;
        }
        self.state.send_replace(State::Ready);
        tracing::info!(listeners = ?self.listeners, "serving");
        tokio::spawn(async {
            // not before the first requests: a start should not pay for it
            let mut next = SETTLED;
            loop {
                tokio::time::sleep(next).await;
                next = FORGET;
                if let Err(error) = crate::sys::forget_startup_code() {
                    tracing::debug!(%error, "code that is not needed stays in memory");
                    return;
                }
            }
        });
        self.serve(&shared, &workers, &mut asked).await;
        tell(&workers, || Order::Stop).await;
        for t in threads {
            // joined from a thread that may block; a worker that was told to stop does so at its next turn
            let _ = tokio::task::spawn_blocking(move || t.join()).await;
        }
    }

    /// Waits for everything that must be known before the first connection.
    async fn begin(
        &self,
        stream: Option<impl Future<Output = ()> + Send + 'static>,
        discovery: Option<DiscoveryClient>,
    ) -> Option<Update> {
        if let Some(cell) = &self.cell {
            self.state.send_replace(State::Starting("the certificate"));
            let c = cell.ready().await;
            if let Err(error) = credentials::check(&self.config.pod, c.identity()) {
                tracing::error!(%error, "not serving");
                self.state.send_replace(State::Starting("a certificate of the right identity"));
                std::future::pending::<()>().await;
            }
        }
        let (stream, discovery) = (stream?, discovery?);
        self.state.send_replace(State::Starting("the controller"));
        tokio::spawn(stream);
        Some(Update::Inbound(discovery.wait_inbound().await))
    }

    /// The static configuration as updates.
    fn fixed(&self) -> Vec<Update> {
        let Some(f) = &self.config.fixed else { return Vec::new() };
        let mut all = vec![Update::Inbound(Arc::new(f.inbound.clone()))];
        for e in &f.endpoints {
            for ep in &e.endpoints {
                let target = Target::Workload(Arc::<Endpoint>::clone(ep));
                all.push(Update::Target { address: ep.address, target });
            }
            all.push(Update::Endpoints(Arc::new(e.clone())));
        }
        for s in &f.services {
            let targets = s.addresses.iter();
            all.extend(targets.map(|a| Update::Target { address: *a, target: Target::Service(s.service.clone()) }));
            all.push(Update::Service(Arc::new(s.clone())));
        }
        let more = f.targets.iter();
        all.extend(more.map(|t| Update::Target { address: t.address, target: t.target.clone() }));
        all
    }

    fn workers(&self, shared: &Arc<Shared>, sockets: Sockets, workers: &Workers) -> io::Result<Vec<JoinHandle<()>>> {
        let (peers, receivers): (Vec<_>, Vec<_>) = (0..self.config.workers)
            .map(|_| {
                let (orders, r) = mpsc::channel(ORDERS);
                (Peer { orders, load: Arc::new(Count::default()) }, r)
            })
            .unzip();
        *workers.lock().unwrap_or_else(|e| e.into_inner()) = peers.clone();
        let mut sockets = Some(sockets);
        let start = |(n, orders): (usize, _)| {
            let (shared, peers) = (shared.clone(), peers.clone());
            let sockets = sockets.take().unwrap_or_default();
            thread::Builder::new().name(format!("weft-worker-{n}")).spawn(move || {
                let load = peers[n].load.clone();
                if let Err(error) = worker::run(shared, sockets, peers, orders, load) {
                    tracing::error!(%error, "a worker ended");
                }
            })
        };
        receivers.into_iter().enumerate().map(start).collect()
    }

    /// Runs until it is time to stop.
    async fn serve(&self, shared: &Shared, workers: &Workers, asked: &mut mpsc::UnboundedReceiver<Ask>) {
        // a second before the kubelet would kill us, so that resets still leave
        let grace = ms(self.config.timeouts.grace).saturating_sub(Duration::from_secs(1));
        let mut deadline = None;
        let mut terminating = false;
        // the listeners are gone: when nothing is under way now, nothing can come
        let mut leaving = false;
        loop {
            let over = async {
                match (terminating, deadline) {
                    (true, Some(at)) => tokio::time::sleep_until(tokio::time::Instant::from_std(at)).await,
                    _ => std::future::pending().await,
                }
            };
            let idle = async {
                if !terminating {
                    std::future::pending::<()>().await;
                }
                while busy(workers).await > 0 {
                    tokio::time::sleep(LOOK).await;
                }
            };
            tokio::select! {
                () = idle => {
                    if std::mem::replace(&mut leaving, true) {
                        return;
                    }
                    tell(workers, || Order::Leave).await;
                }
                () = over => {
                    let left = busy(workers).await;
                    self.stats.drain_reset.add(left as u64);
                    tracing::warn!(left, "the grace period is over: what is left is reset");
                    return;
                }
                a = asked.recv() => match a {
                    None | Some(Ask::Stop) => return,
                    Some(Ask::Update(u)) => tell(workers, || Order::Update(u.clone())).await,
                    Some(a) => {
                        let outbound = matches!(a, Ask::Terminate | Ask::Drain { outbound: true });
                        terminating |= matches!(a, Ask::Terminate);
                        let deadline = *deadline.get_or_insert_with(|| Instant::now() + grace);
                        // what is left is counted here before an engine takes it away
                        let engines = deadline + COUNTED;
                        tracing::info!(outbound, open = shared.gate.open(), "draining");
                        tell(workers, || Order::Drain { deadline: engines, outbound }).await;
                        // orders are taken in turn, so an answer means that the drain is in force; a worker that is stuck does not hold the state up
                        let _ = tokio::time::timeout(Duration::from_secs(1), busy(workers)).await;
                        self.state.send_replace(State::Draining);
                    }
                },
            }
        }
    }
}

/// The workers, once they run.
pub type Workers = Arc<Mutex<Vec<Peer>>>;

fn list(workers: &Workers) -> Vec<Peer> {
    workers.lock().unwrap_or_else(|e| e.into_inner()).clone()
}

async fn tell(workers: &Workers, order: impl Fn() -> Order) {
    for p in list(workers) {
        // a worker that has ended has been reported
        let _ = p.orders.send(order()).await;
    }
}

/// How much later than the end of the grace period the engines cut off by themselves: a fraction of the second that is kept for resets.
const COUNTED: Duration = Duration::from_millis(200);

/// How often a drain looks whether anything is left. A stop is late by half of it.
const LOOK: Duration = Duration::from_millis(10);

/// What is under way in all workers.
async fn busy(workers: &Workers) -> usize {
    let mut sum = 0;
    for p in list(workers) {
        let (tx, rx) = oneshot::channel();
        if p.orders.send(Order::Busy(tx)).await.is_ok() {
            sum += rx.await.unwrap_or(0);
        }
    }
    sum
}

/// What each worker believes.
pub async fn ask(workers: &Workers) -> Vec<serde_json::Value> {
    let mut all = Vec::new();
    for p in list(workers) {
        let (tx, rx) = oneshot::channel();
        if p.orders.send(Order::Ask(tx)).await.is_ok()
            && let Ok(Ok(v)) = tokio::time::timeout(Duration::from_secs(2), rx).await
        {
            all.push(v);
        }
    }
    all
}
