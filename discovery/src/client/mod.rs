//! The proxy's side: what it knows, what it still wants to know, and who is told.
//!
//! The state is a table of entries by name. [`DiscoveryClient::lookup`] wants an address; its answer makes the entry want the Service
//! port and the endpoints behind it, and a Service port wants the endpoints of every backend of its routes. A Service port whose
//! backends are not all known yet is held back, so that a proxy never routes to endpoints it has not heard of (make before break).
//!
//! Entries live as long as somebody holds a [`Lease`] on them or on what wants them, then until they have been idle for a while. They expire only
//! while the controller is connected: when it is away, old knowledge is better than none.

mod dial;
mod state;
mod stream;

use crate::resource::{Resource, ResourceName};
use state::State;
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use weft_core::{
    endpoint::Endpoints,
    policy::InboundPolicy,
    service::{ServicePort, ServiceRef, Target},
};
use weft_identity::{Bundle, CredentialCell, WorkloadIdentity};

pub use dial::{DialError, control_channel};
pub use stream::PROTOCOL;

/// What a proxy tells of itself, and its limits.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// Controllers, tried in turn: `host:port`.
    pub controllers: Vec<String>,
    /// Who must answer there.
    pub controller_identity: WorkloadIdentity,
    /// Pod UID.
    pub uid: Arc<str>,
    /// Name of the pod, for people.
    pub workload: Arc<str>,
    /// Empty, or checked by the controller against the certificate: wrong credentials are noticed at once.
    pub namespace: Arc<str>,
    pub addresses: Vec<std::net::IpAddr>,
    pub zone: Option<Arc<str>>,
    /// Version of the program, for people.
    pub version: String,
    /// How long a lookup may take while the stream is up (design 3.2).
    pub lookup_deadline: Duration,
    /// How long an unused entry is kept.
    pub idle: Duration,
    /// The most unused answers "outside" that are kept. A client that walks the internet must not fill the table.
    pub outside: usize,
    /// The most entries in all.
    pub entries: usize,
    /// Window of the first reconnection wait; it doubles up to `backoff_max`.
    pub backoff: Duration,
    pub backoff_max: Duration,
}

impl ClientSettings {
    /// The defaults for a pod.
    pub fn new(controllers: Vec<String>, controller_identity: WorkloadIdentity, uid: &str, workload: &str) -> Self {
        Self {
            controllers,
            controller_identity,
            uid: uid.into(),
            workload: workload.into(),
            namespace: "".into(),
            addresses: Vec::new(),
            zone: None,
            version: env!("CARGO_PKG_VERSION").into(),
            lookup_deadline: Duration::from_secs(2),
            idle: Duration::from_secs(600),
            outside: 1024,
            entries: 8192,
            backoff: Duration::from_millis(100),
            backoff_max: Duration::from_secs(5),
        }
    }
}

/// Why a lookup has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The stream is down: forward or refuse at once, as configured.
    #[error("the controller is not connected")]
    Disconnected,
    #[error("the controller did not answer in time")]
    TimedOut,
    #[error("the controller refused: {0}")]
    Refused(Box<str>),
    /// Every entry is in use.
    #[error("too many destinations in use at once")]
    Full,
}

/// What changed. Values are read when the update is taken, so they are the newest.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// `None`: there is no such Service port any more.
    ServicePort(ServiceRef, Option<Arc<ServicePort>>),
    Endpoints(ServiceRef, Option<Arc<Endpoints>>),
    /// An address means something else than before; `None`: it is no longer known and must be looked up again.
    Target(SocketAddr, Option<Target>),
    Inbound(Arc<InboundPolicy>),
    /// Already installed in the [`CredentialCell`].
    Bundle(Arc<Bundle>),
    Connected(bool),
}

/// Keeps an answer, and all that it needs, from expiring. Hold one for each connection.
#[derive(Debug)]
pub struct Lease {
    shared: Arc<Shared>,
    name: ResourceName,
}
impl Clone for Lease {
    fn clone(&self) -> Self {
        self.shared.lock().hold(&self.name);
        Self { shared: self.shared.clone(), name: self.name.clone() }
    }
}
impl Drop for Lease {
    fn drop(&mut self) {
        self.shared.lock().release(&self.name, Instant::now());
    }
}

/// The answer to a lookup. When it is a Service, its [`ServicePort`] and all endpoints that it needs are known.
#[derive(Clone, Debug)]
pub struct Found {
    pub target: Target,
    pub lease: Lease,
}

#[derive(Debug)]
struct Shared {
    settings: ClientSettings,
    state: Mutex<State>,
    /// The stream's task has something to say.
    wake: Notify,
    /// Counts changes of the state, for those who wait for an answer.
    changed: watch::Sender<u64>,
    connected: watch::Sender<bool>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // nothing panics while it holds the lock but for a bug; the table is still whole then
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// A handle; cheap to clone, usable from any thread.
#[derive(Clone, Debug)]
pub struct DiscoveryClient {
    shared: Arc<Shared>,
}

impl DiscoveryClient {
    /// Makes the client and the future that keeps its stream. The future ends never; drop it to stop. Bundles that arrive are installed
    /// in `cell`, and what `cell` holds is reported to the controller.
    pub fn new(settings: ClientSettings, cell: CredentialCell) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(settings.entries, settings.outside)),
            settings,
            wake: Notify::new(),
            changed: watch::Sender::new(0),
            connected: watch::Sender::new(false),
        });
        (Self { shared: shared.clone() }, stream::run(shared, cell))
    }

    /// What an original destination means. Answers from memory when it can; else waits at most the deadline while the
    /// stream is up, and not at all while it is down.
    pub async fn lookup(&self, address: SocketAddr) -> Result<Found, LookupError> {
        let name = ResourceName::Address(address);
        let deadline = Instant::now() + self.shared.settings.lookup_deadline;
        let mut changed = self.shared.changed.subscribe();
        let mut connected = self.shared.connected.subscribe();
        // held from the start, so that the entry is not swept while we wait
        let mut lease: Option<Lease> = None;
        loop {
            changed.borrow_and_update();
            let up = *connected.borrow_and_update();
            {
                let mut state = self.shared.lock();
                if let Some(refused) = state.refused(&name) {
                    return Err(LookupError::Refused(refused));
                }
                if state.complete(&name)
                    && let Some(Resource::Target(target)) = state.value(&name)
                {
                    let lease = match lease {
                        Some(lease) => lease,
                        None => {
                            state.hold(&name);
                            Lease { shared: self.shared.clone(), name }
                        }
                    };
                    return Ok(Found { target, lease });
                }
                if !up {
                    drop(state);
                    return Err(LookupError::Disconnected);
                }
                if lease.is_none() {
                    if !state.want(&name, Instant::now()) {
                        return Err(LookupError::Full);
                    }
                    state.hold(&name);
                    lease = Some(Lease { shared: self.shared.clone(), name: name.clone() });
                    self.shared.wake.notify_one();
                }
            }
            tokio::select! {
                _ = changed.changed() => {}
                _ = connected.changed() => {}
                () = tokio::time::sleep_until(deadline) => return Err(LookupError::TimedOut),
            }
        }
    }

    /// The answer to a lookup if it is in memory, whole.
    pub fn cached(&self, address: SocketAddr) -> Option<Found> {
        let name = ResourceName::Address(address);
        let mut state = self.shared.lock();
        match state.complete(&name).then(|| state.value(&name)) {
            Some(Some(Resource::Target(target))) => {
                state.hold(&name);
                Some(Found { target, lease: Lease { shared: self.shared.clone(), name } })
            }
            _ => None,
        }
    }

    /// The newest value in memory.
    pub fn service_port(&self, service: &ServiceRef) -> Option<Arc<ServicePort>> {
        match self.shared.lock().value(&ResourceName::ServicePort(service.clone())) {
            Some(Resource::ServicePort(v)) => Some(v),
            _ => None,
        }
    }
    /// The newest value in memory.
    pub fn endpoints(&self, service: &ServiceRef) -> Option<Arc<Endpoints>> {
        match self.shared.lock().value(&ResourceName::Endpoints(service.clone())) {
            Some(Resource::Endpoints(v)) => Some(v),
            _ => None,
        }
    }
    /// The policy of our own pod; `None` until the controller has told it.
    pub fn inbound(&self) -> Option<Arc<InboundPolicy>> {
        match self.shared.lock().value(&ResourceName::Inbound) {
            Some(Resource::Inbound(v)) => Some(v),
            _ => None,
        }
    }
    /// Waits for the policy of our own pod: the proxy opens its listeners after it (design 4.3).
    pub async fn wait_inbound(&self) -> Arc<InboundPolicy> {
        let mut changed = self.shared.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if let Some(policy) = self.inbound() {
                return policy;
            }
            // the sender lives in self
            let _ = changed.changed().await;
        }
    }

    /// Subscribes to a name until the lease is dropped (and idle). For what no lookup leads to. `None`: the table is full.
    pub fn subscribe(&self, name: ResourceName) -> Option<Lease> {
        let mut state = self.shared.lock();
        if !state.want(&name, Instant::now()) {
            return None;
        }
        state.hold(&name);
        self.shared.wake.notify_one();
        Some(Lease { shared: self.shared.clone(), name })
    }

    /// Whether the stream is up.
    pub fn is_connected(&self) -> bool {
        *self.shared.connected.borrow()
    }
    /// Told of every change of [`Self::is_connected`].
    pub fn connection(&self) -> watch::Receiver<bool> {
        self.shared.connected.subscribe()
    }

    /// Everything that is known now, then every change. Each consumer (worker) takes its own.
    pub fn updates(&self) -> Updates {
        let (id, ready) = self.shared.lock().consumer();
        Updates { shared: self.shared.clone(), id, ready, connected: None }
    }

    /// Names in the table with the number of leases and whether a value is known: for a dump.
    pub fn dump(&self) -> Vec<(ResourceName, usize, bool)> {
        self.shared.lock().dump()
    }
}

/// The changes for one consumer. Changes of one name coalesce: memory is bounded by the number of names.
#[derive(Debug)]
pub struct Updates {
    shared: Arc<Shared>,
    id: usize,
    ready: Arc<Notify>,
    connected: Option<bool>,
}

impl Updates {
    /// The next change; waits for it. Cancel-safe.
    pub async fn next(&mut self) -> Update {
        let mut connected = self.shared.connected.subscribe();
        loop {
            if let Some(update) = self.try_next() {
                return update;
            }
            tokio::select! {
                () = self.ready.notified() => {}
                _ = connected.changed() => {}
            }
        }
    }
    /// The next change, if there is one.
    pub fn try_next(&mut self) -> Option<Update> {
        if let Some(update) = self.shared.lock().take_update(self.id) {
            return Some(update);
        }
        let up = *self.shared.connected.borrow();
        (self.connected.replace(up) != Some(up)).then_some(Update::Connected(up))
    }
}

impl Drop for Updates {
    fn drop(&mut self) {
        self.shared.lock().drop_consumer(self.id);
    }
}
