//! The running CA: what it signs with now, and the loop that keeps that true.
//!
//! The state in the store is the truth: it is read again every moment, so a rotation that was begun by the command line, by another
//! replica or by this one takes effect everywhere without a restart. A state that is missing or broken stops the signing with the
//! exact cause; the last good bundle keeps being served.

mod rpc;

use crate::{
    authenticate::Authenticator,
    gate::{Gates, Progress},
    issue::{IssueError, LeafIssuer},
    state::{Gate, Lives, Phase, State, StateError},
    store::{Store, StoreError},
};
use rustls_pki_types::UnixTime;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
};
use tokio_util::sync::CancellationToken;
use weft_discovery::server::accept::{self, AcceptSettings};
use weft_identity::{
    Bundle, CredentialCell, CredentialsError, KeyRequest, WorkloadIdentity, ca_identity, controller_identity,
    limit::Limiter,
    provider::{self, Clock},
};

/// What a CA is told.
#[derive(Clone, Debug)]
pub struct CaSettings {
    pub trust_domain: String,
    /// Life of a leaf.
    pub leaf: Duration,
    pub lives: Lives,
    /// How often the store is read.
    pub poll: Duration,
    /// How long a gate must have been complete (see [`Gates::may_pass`]).
    pub hold: Duration,
    /// Who may follow bundles and report.
    pub controller: WorkloadIdentity,
    /// Requests being checked and signed at a time.
    pub concurrent: usize,
    /// Requests that may wait for that.
    pub queue: usize,
    /// And how long. A caller gives up after 10 s, and being checked takes some of them.
    pub wait: Duration,
    pub accept: AcceptSettings,
}
impl CaSettings {
    pub fn new(trust_domain: &str) -> Result<Self, weft_identity::IdentityError> {
        Ok(Self {
            trust_domain: trust_domain.into(),
            leaf: Duration::from_secs(86_400),
            lives: Lives::default(),
            poll: Duration::from_secs(1),
            hold: Duration::from_secs(30),
            controller: controller_identity(trust_domain)?,
            concurrent: 64,
            queue: 4096,
            wait: Duration::from_secs(5),
            accept: AcceptSettings::default(),
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(
        "the state is of trust domain {got:?}, configured is {expected:?} (trustDomain, --trust-domain): configure {got:?} again, \
         or begin anew (docs/ca.md, another trust domain)"
    )]
    WrongTrustDomain { expected: String, got: String },
    #[error("own certificate: {0}")]
    Own(#[from] CredentialsError),
    #[error("own certificate: {0}")]
    Issue(#[from] IssueError),
    #[error("own certificate: {0}")]
    Key(#[from] rcgen::Error),
    #[error("trust domain: {0}")]
    TrustDomain(#[from] weft_identity::IdentityError),
}

/// What is in force.
#[derive(Clone)]
pub(crate) struct Live {
    pub bundle: Arc<Bundle>,
    /// `Err`: nothing is signed, and why.
    pub signing: Result<Arc<LeafIssuer>, Box<str>>,
    pub state: Arc<State>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// The certificate authority.
pub struct Ca {
    pub(crate) settings: CaSettings,
    store: Arc<dyn Store>,
    pub(crate) authenticator: Arc<dyn Authenticator>,
    pub(crate) clock: Clock,
    pub(crate) live: watch::Sender<Live>,
    pub(crate) gates: Mutex<Gates>,
    pub(crate) streams: AtomicU64,
    /// By pod UID: a proxy renews a few times a day; ten in a row are a crash loop, more is abuse.
    pub(crate) pods: Limiter<Arc<str>>,
    /// By service account: a Deployment of 500 that starts at once gets through.
    pub(crate) accounts: Limiter<(Arc<str>, Arc<str>)>,
    pub(crate) queue: Arc<Semaphore>,
    pub(crate) working: Semaphore,
    cell: CredentialCell,
    pub(crate) stats: Stats,
    /// Hour of the last warning that the root is old.
    warned: AtomicU64,
    /// When the store was last read.
    read: Mutex<Instant>,
    /// What is wrong with publishing the bundle, said once.
    unpublished: Mutex<Option<Box<str>>>,
}

/// What the CA has done.
#[derive(Debug, Default)]
pub struct Stats {
    pub signed: AtomicU64,
    pub denied: AtomicU64,
    /// Denials by the label of their reason; there are as many labels as `Denied` has.
    pub reasons: Mutex<BTreeMap<&'static str, u64>>,
    pub refused: AtomicU64,
    pub failed: AtomicU64,
}

/// A store that does not answer says nothing about the state: the last one is good for signing for so long. Shorter than the least time between two steps
/// of a rotation that retires an issuer (`hold`), so that nothing is signed under a root that has gone.
const UNREAD: Duration = Duration::from_secs(20);

impl Ca {
    /// Opens the store; makes the first state if there has never been one. `first` is asked for it (a new root, or the user's).
    pub fn open(
        settings: CaSettings,
        store: Arc<dyn Store>,
        authenticator: Arc<dyn Authenticator>,
        clock: Clock,
        first: impl FnOnce(UnixTime) -> Result<State, StateError>,
    ) -> Result<Arc<Self>, CaError> {
        let now = provider::now(&clock);
        let state = match store.load()? {
            Some(state) => state,
            None => store.create(&first(now)?)?,
        };
        if state.trust_domain != settings.trust_domain {
            return Err(CaError::WrongTrustDomain { expected: settings.trust_domain, got: state.trust_domain });
        }
        // an expired issuer under a good root is replaced below; anything else is for people to look at
        let state = match state.check(now) {
            Err(StateError::Expired { what: "issuer", id, .. }) if id == state.signing => {
                let next = state.rotate_issuer(now, settings.lives)?;
                next.check(now)?;
                store.replace(state.revision, &next)?;
                next
            }
            checked => checked.map(|()| state)?,
        };
        let bundle = Arc::new(state.bundle()?);
        store.publish(&bundle)?;
        let issuer = LeafIssuer::new(&state, state.authority(state.signing)?)?;
        let live = Live { bundle: bundle.clone(), signing: Ok(Arc::new(issuer)), state: Arc::new(state) };
        let ca = Arc::new(Self {
            store,
            authenticator,
            clock,
            live: watch::Sender::new(live),
            gates: Mutex::default(),
            streams: AtomicU64::new(0),
            pods: Limiter::new(10, Duration::from_secs(1), 100_000),
            accounts: Limiter::new(2_000, Duration::from_millis(5), 20_000),
            queue: Arc::new(Semaphore::new(settings.queue)),
            working: Semaphore::new(settings.concurrent),
            cell: CredentialCell::new(bundle),
            settings,
            stats: Stats::default(),
            warned: AtomicU64::new(0),
            read: Mutex::new(Instant::now()),
            unpublished: Mutex::default(),
        });
        ca.own_certificate(&ca.state(), None)?;
        Ok(ca)
    }

    /// Serves until `stop`.
    pub async fn serve(self: &Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        let tending = tokio::spawn(self.clone().tend(stop.clone()));
        let incoming = accept::incoming(listener, self.cell.clone(), true, self.settings.accept.clone(), stop.clone());
        let services = rpc::services(self.clone(), stop.clone());
        let served = accept::http2()
            .add_service(services.0)
            .add_service(services.1)
            .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
        if let Err(e) = served.await {
            tracing::error!(error = %e, "CA server ended");
        }
        stop.cancel();
        let _ = tending.await;
    }

    pub fn bundle(&self) -> Arc<Bundle> {
        self.live.borrow().bundle.clone()
    }
    pub fn state(&self) -> Arc<State> {
        self.live.borrow().state.clone()
    }
    pub fn stats(&self) -> &Stats {
        &self.stats
    }
    /// Told of every change of what is in force.
    pub fn changes(&self) -> watch::Receiver<u64> {
        let (out, changes) = watch::channel(self.state().revision);
        let mut live = self.live.subscribe();
        tokio::spawn(async move {
            while live.changed().await.is_ok() {
                let revision = live.borrow_and_update().state.revision;
                if out.send(revision).is_err() {
                    return;
                }
            }
        });
        changes
    }
    /// Where the rotation stands: its phase, what it waits for, how far that is.
    pub fn rotation(&self) -> Option<(Phase, Gate, Progress)> {
        let state = self.state();
        let gate = state.gate().ok().flatten()?;
        let progress = self.lock_gates().progress(&gate);
        Some((state.rotation?.phase, gate, progress))
    }
    pub(crate) fn lock_gates(&self) -> std::sync::MutexGuard<'_, Gates> {
        lock(&self.gates)
    }

    /// Changes the state by one step, in the store first.
    pub fn step(&self, step: impl Fn(&State, UnixTime) -> Result<State, StateError>) -> Result<(), CaError> {
        let now = provider::now(&self.clock);
        // a conflict means that another replica was faster: look again, once is enough since steps are rare
        for last in [false, true] {
            let state = self.store.load()?.ok_or(StoreError::Missing)?;
            let next = step(&state, now)?;
            next.check(now)?;
            match self.store.replace(state.revision, &next) {
                Ok(()) => break,
                Err(StoreError::Conflict { .. }) if !last => continue,
                Err(e) => return Err(e.into()),
            }
        }
        self.reload()
    }
    pub fn rotate_root(&self) -> Result<(), CaError> {
        self.step(|s, now| s.rotate_root(None, now, self.settings.lives))
    }
    pub fn rotate_issuer(&self) -> Result<(), CaError> {
        self.step(|s, now| s.rotate_issuer(now, self.settings.lives))
    }
    pub fn abort_rotation(&self) -> Result<(), CaError> {
        self.step(|s, now| s.abort(now))
    }

    /// Takes the state of the store into force.
    pub fn reload(&self) -> Result<(), CaError> {
        match self.load() {
            Ok(Some(live)) => {
                let bundle = live.bundle.clone();
                tracing::info!(revision = live.state.revision, bundle = bundle.version(), rotation = ?live.state.rotation, "CA state");
                // the own certificate first: whoever gets the new bundle may come back at once
                self.own_certificate(&live.state, Some(bundle.clone()))?;
                self.live.send_replace(live);
                Ok(self.store.publish(&bundle)?)
            }
            Ok(None) => Ok(()),
            Err(CaError::Store(e)) if e.is_temporary() && lock(&self.read).elapsed() < UNREAD => {
                tracing::debug!(error = %e, "the state cannot be read now");
                Err(e.into())
            }
            Err(e) => {
                let reason: Box<str> = e.to_string().into();
                self.live.send_if_modified(|live| {
                    let new = live.signing.as_ref().err() != Some(&reason);
                    if new {
                        tracing::error!(error = %reason, "signing has stopped; the bundle is kept");
                        live.signing = Err(reason.clone());
                    }
                    new
                });
                Err(e)
            }
        }
    }
    /// `None`: what is in force is what is stored.
    fn load(&self) -> Result<Option<Live>, CaError> {
        let state = self.store.load()?.ok_or(StoreError::Missing)?;
        *lock(&self.read) = Instant::now();
        let (same, stopped) = {
            let live = self.live.borrow();
            (*live.state == state, live.signing.is_err())
        };
        // time passes for an unchanged state, too
        state.check(provider::now(&self.clock))?;
        if same && !stopped {
            return Ok(None);
        }
        if state.trust_domain != self.settings.trust_domain {
            let (expected, got) = (self.settings.trust_domain.clone(), state.trust_domain);
            return Err(CaError::WrongTrustDomain { expected, got });
        }
        let bundle = Arc::new(state.bundle()?);
        let signing = Ok(Arc::new(LeafIssuer::new(&state, state.authority(state.signing)?)?));
        Ok(Some(Live { bundle, signing, state: Arc::new(state) }))
    }

    /// The certificate that the CA itself shows, of the oldest authority: even a pod that was created before a rotation trusts it.
    fn own_certificate(&self, state: &State, bundle: Option<Arc<Bundle>>) -> Result<(), CaError> {
        let issuer = LeafIssuer::new(state, state.oldest()?)?;
        let request = KeyRequest::generate()?;
        let key = crate::csr::proven_key(request.csr()).map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
        let identity = ca_identity(&self.settings.trust_domain)?;
        let chain = issuer.sign(&identity, &key, provider::now(&self.clock), self.settings.leaf)?;
        self.cell.install(bundle, request.into_key(), chain, None, self.clock.clone())?;
        Ok(())
    }
    fn own_is_old(&self) -> bool {
        self.cell.credentials().is_none_or(|c| {
            let (from, to) = (c.not_before().as_secs(), c.not_after().as_secs());
            let now = provider::now(&self.clock).as_secs();
            now < from || now > from + to.saturating_sub(from) / 2
        })
    }

    /// Keeps what is in force true: rereads the store, renews the own certificate and old issuers, moves rotations on.
    async fn tend(self: Arc<Self>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(self.settings.poll);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            let ca = self.clone();
            // files and keys: not for the threads that serve
            let tended = tokio::task::spawn_blocking(move || ca.tend_once()).await;
            if let Err(e) = tended {
                tracing::error!(error = %e, "tending the CA's state");
            }
        }
    }
    pub(crate) fn tend_once(&self) {
        let reloaded = self.reload();
        self.keep_published();
        match reloaded {
            Ok(()) => {}
            // a machine that slept, or a clock that was turned: the root is good, so a new issuer is all it takes
            Err(CaError::State(StateError::Expired { what: "issuer", .. })) => {
                if let Err(e) = self.rotate_issuer() {
                    tracing::error!(error = %e, "issuer not renewed");
                }
                return;
            }
            Err(_) => return, // told once, when it began
        }
        if self.own_is_old()
            && let Err(e) = self.own_certificate(&self.state(), None)
        {
            tracing::error!(error = %e, "own certificate not renewed");
        }
        let now = provider::now(&self.clock);
        let state = self.state();
        if state.issuer_is_old(now)
            && let Err(e) = self.rotate_issuer()
        {
            tracing::error!(error = %e, "issuer not renewed");
        }
        // once an hour is enough for something that takes years
        let hour = now.as_secs() / 3600;
        if state.root_is_old(now) && state.rotation.is_none() && self.warned.swap(hour, Ordering::Relaxed) != hour {
            tracing::warn!("the root has lived two thirds of its life: rotate it (weft-ca rotate root)");
        }
        self.tend_rotation(&state, now);
    }
    /// Whatever happens to the state, what is in force stays published.
    fn keep_published(&self) {
        let failed = self.store.publish(&self.bundle()).err().map(|e| Box::from(e.to_string()));
        let mut told = lock(&self.unpublished);
        if *told != failed {
            match &failed {
                Some(e) => tracing::error!(error = %e, "the trust bundle is not published"),
                None => tracing::info!("the trust bundle is published again"),
            }
            *told = failed;
        }
    }
    fn tend_rotation(&self, state: &State, now: UnixTime) {
        let (Some(rotation), Ok(Some(gate))) = (state.rotation, state.gate()) else { return };
        let open = self.lock_gates().may_pass(&gate, Instant::now(), self.settings.hold);
        // every leaf that the old issuer signed has expired by then; an hour for clocks that are apart
        let outlived =
            rotation.phase == Phase::Renew && now.as_secs() > rotation.since + self.settings.leaf.as_secs() + 3600;
        if !open && !outlived {
            return;
        }
        let revision = state.revision;
        let step = |s: &State, now| {
            // somebody else has moved it meanwhile
            if s.revision == revision { s.advance(now) } else { Err(StateError::NoRotation) }
        };
        match self.step(step) {
            Ok(()) => {
                tracing::info!(from = rotation.from, to = rotation.to, phase = ?rotation.phase, "root rotation: phase done")
            }
            Err(CaError::State(StateError::NoRotation)) => {}
            Err(e) => tracing::error!(error = %e, "root rotation"),
        }
    }

    /// Why nothing is signed.
    pub fn stopped(&self) -> Option<Box<str>> {
        self.live.borrow().signing.as_ref().err().cloned()
    }
    /// Whether callers can be told apart.
    pub fn authenticates(&self) -> bool {
        self.authenticator.is_up()
    }
    pub(crate) fn count_denied(&self, label: &'static str) {
        Self::count(&self.stats.denied);
        *lock(&self.stats.reasons).entry(label).or_default() += 1;
    }
    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "../cluster_tests.rs"]
mod cluster_tests;
#[cfg(test)]
#[path = "../server_tests.rs"]
mod tests;
