//! The index in use: updates go in, answers come out of a memo, and what changed is told to everyone who listens.
//!
//! An update is applied under a write lock and costs what it touches. Nothing is compiled then: the memo forgets what was touched and compiles it again
//! when the first proxy asks, so a cluster full of Services that nobody calls costs nothing.

use crate::{
    attach::{self, View},
    compile::{self, Compiled},
    finding::Finding,
    index::{Index, Mesh, Touched},
    metrics::Counted,
    object::{Name, ObjectKey, Stored},
    source::{Source, Update},
    status::{self, Judge, RouteReport, policy::PolicyReport},
};
use ahash::HashMap;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;
use weft_core::{
    endpoint::Endpoints,
    policy::InboundPolicy,
    service::{ServicePort, ServiceRef, Target},
};
use weft_discovery::{Change, ResourceName};

/// Batches that a slow listener may be behind before it has to take everything anew.
const NEWS: usize = 256;
/// Updates between a source and the index.
const UPDATES: usize = 64;
/// Refusals that are remembered. More of them are all alike.
const REFUSALS: usize = 1_000;

pub struct World {
    inner: RwLock<Inner>,
    news: broadcast::Sender<Arc<[Change]>>,
    complete: watch::Sender<bool>,
    findings: watch::Sender<Arc<[Finding]>>,
    refusals: Mutex<Refusals>,
    refusals_changed: watch::Sender<u64>,
    /// Updates taken in, and microseconds spent on that.
    updates: [AtomicU64; 2],
    reports: Mutex<Reports>,
}

/// By workload and resource.
type Refusals = HashMap<(Arc<str>, ResourceName), Box<str>>;

/// Statuses, and the routes whose status may differ from what stands there.
#[derive(Default)]
struct Reports {
    known: BTreeMap<ObjectKey, Arc<RouteReport>>,
    stale: BTreeSet<ObjectKey>,
}

struct Inner {
    index: Index,
    memo: Mutex<Memo>,
}

type PerPort<K, V> = HashMap<(u16, K), Arc<V>>;

#[derive(Default)]
struct Memo {
    ports: HashMap<Name, PerPort<View, ServicePort>>,
    /// By port and, where traffic stays on the node or prefers it, the client's node.
    endpoints: HashMap<Name, PerPort<Option<Arc<str>>, Endpoints>>,
    /// By route and the Service port that it is attached to: policies may be for one port.
    routes: HashMap<ObjectKey, HashMap<(Name, u16), Arc<Compiled>>>,
    /// Which namespace's routes a client gets.
    views: HashMap<Name, HashMap<(u16, Arc<str>), View>>,
    inbound: HashMap<Arc<str>, Arc<InboundPolicy>>,
}

impl Memo {
    fn forget(&mut self, touched: &Touched) {
        for s in &touched.services {
            self.ports.remove(s);
            self.views.remove(s);
        }
        touched.endpoints.iter().for_each(|s| _ = self.endpoints.remove(s));
        touched.routes.iter().chain(&touched.dangling).for_each(|r| _ = self.routes.remove(r));
        touched.inbound.iter().for_each(|u| _ = self.inbound.remove(u));
    }
}

impl World {
    pub fn new(mesh: Mesh) -> Arc<Self> {
        let inner = RwLock::new(Inner { index: Index::new(mesh), memo: Mutex::default() });
        let (news, complete, findings) =
            (broadcast::channel(NEWS).0, watch::channel(false).0, watch::channel(Arc::default()).0);
        let refusals_changed = watch::channel(0).0;
        Arc::new(Self {
            inner,
            news,
            complete,
            findings,
            refusals: Mutex::default(),
            refusals_changed,
            updates: Default::default(),
            reports: Mutex::default(),
        })
    }

    /// Feeds the world from a source until `stop`.
    pub async fn follow(self: &Arc<Self>, source: impl Source, stop: CancellationToken) -> anyhow::Result<()> {
        let (tx, mut rx) = mpsc::channel(UPDATES);
        let reading = source.run(tx, stop.clone());
        let applying = async {
            while let Some(mut update) = rx.recv().await {
                // what has come meanwhile goes in together
                while let Ok(more) = rx.try_recv() {
                    update.merge(more);
                }
                self.apply(&update);
            }
        };
        tokio::pin!(reading, applying);
        tokio::select! {
            r = &mut reading => r,
            () = &mut applying => Ok(()),
            () = stop.cancelled() => Ok(()),
        }
    }

    /// Takes an update in and tells what changed.
    pub fn apply(&self, update: &Update) -> Touched {
        let started = std::time::Instant::now();
        let (touched, changes) = {
            let mut inner = self.inner.write().unwrap_or_else(|e| e.into_inner());
            let touched = inner.index.apply(update);
            inner.memo.get_mut().unwrap_or_else(|e| e.into_inner()).forget(&touched);
            let changes = changes(&inner.index, &touched);
            // under the same lock, so that nobody judges with the old index and takes it for new
            self.reports
                .lock()
                .unwrap_or_else(|e| e.into_inner())
                .stale
                .extend(touched.routes.iter().chain(&touched.statuses).chain(&touched.dangling).cloned());
            (touched, changes)
        };
        if let Some(findings) = &update.findings {
            self.findings.send_replace(findings.clone());
        }
        if update.complete && !*self.complete.borrow() {
            self.complete.send_replace(true);
        }
        if !changes.is_empty() {
            // nobody listens: then nobody has to know
            _ = self.news.send(changes.into());
        }
        self.updates[0].fetch_add(1, Relaxed);
        self.updates[1].fetch_add(started.elapsed().as_micros() as u64, Relaxed);
        touched
    }

    /// For metrics.
    pub fn counted(&self) -> Counted {
        let (updates, took) = (self.updates[0].load(Relaxed), Duration::from_micros(self.updates[1].load(Relaxed)));
        let (objects, routes) = self.with_index(|i| (i.len(), i.routes().count()));
        Counted { objects, routes, updates, took }
    }

    /// Tells every proxy of something that is not in the index.
    pub fn announce(&self, change: Change) {
        _ = self.news.send([change].into());
    }

    /// A proxy refuses what it was sent.
    pub fn refused(&self, workload: &Arc<str>, name: &ResourceName, reason: &str) {
        let mut refusals = self.refusals.lock().unwrap_or_else(|e| e.into_inner());
        if refusals.len() < REFUSALS {
            refusals.insert((workload.clone(), name.clone()), reason.into());
            self.refusals_changed.send_modify(|n| *n += 1);
        }
    }
    /// A proxy took a resource into use.
    pub fn taken(&self, workload: &Arc<str>, name: &ResourceName) {
        let mut refusals = self.refusals.lock().unwrap_or_else(|e| e.into_inner());
        if !refusals.is_empty() {
            let removed = refusals.remove(&(workload.clone(), name.clone()));
            if removed.is_some() {
                self.refusals_changed.send_modify(|n| *n += 1);
            }
        }
    }
    /// Tells when what proxies refuse changes.
    pub fn refusal_changes(&self) -> watch::Receiver<u64> {
        self.refusals_changed.subscribe()
    }
    /// What proxies refuse now: workload, resource, reason.
    pub fn refusals(&self) -> Vec<(Arc<str>, ResourceName, Box<str>)> {
        let refusals = self.refusals.lock().unwrap_or_else(|e| e.into_inner());
        let mut all: Vec<_> = refusals.iter().map(|((w, n), r)| (w.clone(), n.clone(), r.clone())).collect();
        all.sort();
        all
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(|e| e.into_inner())
    }

    /// True once the source has sent everything that there was.
    pub fn complete(&self) -> watch::Receiver<bool> {
        self.complete.subscribe()
    }
    /// What the source found wrong with its files.
    pub fn findings(&self) -> watch::Receiver<Arc<[Finding]>> {
        self.findings.subscribe()
    }
    pub fn changes(&self) -> broadcast::Receiver<Arc<[Change]>> {
        self.news.subscribe()
    }
    /// Runs a question on the index.
    pub fn with_index<T>(&self, ask: impl FnOnce(&Index) -> T) -> T {
        ask(&self.read().index)
    }

    pub fn lookup(&self, address: SocketAddr) -> Target {
        compile::lookup(&self.read().index, address)
    }

    /// A Service port as a client in `namespace` sees it. The same `Arc` until it changes.
    pub fn service_port(&self, namespace: &str, service: &ServiceRef) -> Option<Arc<ServicePort>> {
        let inner = self.read();
        let name = Name { namespace: service.namespace.clone(), name: service.name.clone() };
        let port = attach::facts(&inner.index, &name, service.port)?.1;
        let compiled = |k: &ObjectKey, s: &Stored| inner.route(k, s, &name, port);
        let view = inner.view(&name, service.port, namespace, &compiled);
        let key = (service.port, view);
        if let Some(known) = inner.memo().ports.get(&name).and_then(|p| p.get(&key)) {
            return Some(known.clone());
        }
        let made = Arc::new(compile::service_port(&inner.index, service, &key.1, &compiled)?);
        // of two that made it at once the first one stays, so that all proxies share it
        Some(inner.memo().ports.entry(name).or_default().entry(key).or_insert(made).clone())
    }

    /// The endpoints of a Service port for a client on `node`.
    pub fn endpoints(&self, service: &ServiceRef, node: Option<&str>) -> Option<Arc<Endpoints>> {
        let inner = self.read();
        let name = Name { namespace: service.namespace.clone(), name: service.name.clone() };
        let by_node = inner.index.service(&name)?.by_node();
        let node = node.filter(|_| by_node);
        let key = (service.port, node.map(Arc::from));
        if let Some(known) = inner.memo().endpoints.get(&name).and_then(|p| p.get(&key)) {
            return Some(known.clone());
        }
        let made = Arc::new(compile::endpoints(&inner.index, service, node)?);
        Some(inner.memo().endpoints.entry(name).or_default().entry(key).or_insert(made).clone())
    }

    /// The policy of the pod with this UID.
    pub fn inbound(&self, uid: &str) -> Option<Arc<InboundPolicy>> {
        let inner = self.read();
        if let Some(known) = inner.memo().inbound.get(uid) {
            return Some(known.clone());
        }
        let pod = inner.index.pod_by_uid(uid)?;
        let made = Arc::new(compile::inbound(&inner.index, pod));
        Some(inner.memo().inbound.entry(pod.uid.clone()).or_insert(made).clone())
    }

    /// The status of every policy, by name.
    pub fn policy_reports(&self) -> Vec<PolicyReport> {
        status::policy::reports(&self.read().index)
    }

    /// The status of every route, by name. Only what was touched since the last call is judged again.
    pub fn reports(&self) -> Vec<Arc<RouteReport>> {
        let inner = self.read();
        let mut reports = self.reports.lock().unwrap_or_else(|e| e.into_inner());
        let judge = Judge::with(&inner.index, Box::new(|route, service| inner.known(route, service)));
        for key in std::mem::take(&mut reports.stale) {
            match inner.index.get(&key) {
                Some(stored) => _ = reports.known.insert(key.clone(), Arc::new(judge.report(&key, stored))),
                None => _ = reports.known.remove(&key),
            }
        }
        reports.known.values().cloned().collect()
    }
}

impl Inner {
    /// A route as some proxy already sees it. What is judged but not asked for by any proxy is not kept.
    fn known(&self, route: &ObjectKey, service: &Name) -> Option<Arc<Compiled>> {
        let memo = self.memo();
        memo.routes.get(route)?.iter().find(|((s, _), _)| s == service).map(|(_, c)| c.clone())
    }
    fn memo(&self) -> MutexGuard<'_, Memo> {
        self.memo.lock().unwrap_or_else(|e| e.into_inner())
    }
    fn route(&self, key: &ObjectKey, stored: &Stored, service: &Name, port: &crate::facts::PortFacts) -> Arc<Compiled> {
        let at = (service.clone(), port.port);
        if let Some(known) = self.memo().routes.get(key).and_then(|r| r.get(&at)) {
            return known.clone();
        }
        let made = Arc::new(compile::route(&self.index, key, stored, service, Some(port)));
        self.memo().routes.entry(key.clone()).or_default().entry(at).or_insert(made).clone()
    }
    fn view(
        &self,
        service: &Name,
        port: u16,
        namespace: &str,
        compiled: &dyn Fn(&ObjectKey, &Stored) -> Arc<Compiled>,
    ) -> View {
        let key = (port, Arc::from(namespace));
        if let Some(known) = self.memo().views.get(service).and_then(|v| v.get(&key)) {
            return known.clone();
        }
        let view = attach::view(&self.index, service, port, namespace, |k, s| compiled(k, s).is_usable());
        self.memo().views.entry(service.clone()).or_default().insert(key, view.clone());
        view
    }
}

/// What proxies must ask for again.
fn changes(index: &Index, touched: &Touched) -> Vec<Change> {
    let mut out = Vec::new();
    let ports = |name: &Name| {
        let now = index.service(name).into_iter().flat_map(|s| s.ports.iter().map(|p| p.port));
        let mut all: Vec<u16> = now.chain(touched.former_ports.get(name).into_iter().flatten().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all.into_iter()
            .map(|port| ServiceRef { namespace: name.namespace.clone(), name: name.name.clone(), port })
            .collect::<Vec<_>>()
    };
    out.extend(touched.services.iter().flat_map(ports).map(Change::ServicePort));
    out.extend(touched.endpoints.iter().flat_map(ports).map(Change::Endpoints));
    out.extend(touched.addresses.iter().copied().map(Change::Address));
    out.extend(touched.inbound.iter().cloned().map(Change::Inbound));
    out
}

#[cfg(test)]
#[path = "world_random_tests.rs"]
mod random_tests;
#[cfg(test)]
#[path = "world_tests.rs"]
mod tests;
