//! What the controller says to a cluster: statuses, Events, and the objects that stand for Weft. One replica speaks, the holder of the Lease.
//!
//! Statuses follow traffic, they never lead it: what changed is judged once a burst is over, compared with what stands on the objects, and only what
//! differs is written, one after the other and not too fast. A write reads the object first and names the version that it read.

pub mod desired;
pub mod events;
pub mod lease;
pub mod merge;
pub mod own;

use crate::{
    metrics::{Metrics, Written},
    object::ObjectKey,
    source::kubernetes::{Cluster, Record},
    world::World,
};
use desired::Desired;
use kube::{
    Api, Client,
    api::{DynamicObject, PostParams},
};
use lease::{Election, Leading};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

/// How long statuses wait for further changes.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Between two writes, once a burst of [`BURST`] is spent.
const PACE: Duration = Duration::from_millis(20);
const BURST: u32 = 100;
/// Times that a write is tried again when somebody else was faster.
const CONFLICTS: u32 = 5;
/// After a round in which something could not be written.
const AGAIN: Duration = Duration::from_secs(2);
/// A look without cause, should news have been lost.
const IDLE: Duration = Duration::from_secs(60);
/// Between looks for Events: they are for people.
const REMARKS: Duration = Duration::from_secs(2);

/// What was compared last: the object's version, and what should stand on it.
type Settled = HashMap<ObjectKey, (String, Desired)>;

pub struct Writer {
    pub client: Client,
    pub world: Arc<World>,
    pub cluster: Arc<Cluster>,
    pub metrics: Arc<Metrics>,
    pub leading: Leading,
    /// Of this replica.
    pub replica: String,
    /// The mesh resource's name.
    pub mesh: Arc<str>,
}

/// Takes part in the election and writes while it leads, until `stop`.
pub async fn run(writer: Writer, namespace: String, stop: CancellationToken) {
    let (turned, turns) = watch::channel(false);
    let election = Election {
        client: writer.client.clone(),
        namespace,
        name: weft_identity::CONTROLLER_ACCOUNT.into(),
        identity: writer.replica.clone(),
    };
    let leading = writer.leading.clone();
    tokio::join!(election.run(leading, turned, stop.clone()), writer.run(turns, stop));
}

impl Writer {
    pub async fn run(self, mut turns: watch::Receiver<bool>, stop: CancellationToken) {
        let mut complete = self.world.complete();
        tokio::select! {
            r = complete.wait_for(|c| *c) => if r.is_err() { return },
            () = stop.cancelled() => return,
        }
        let (mut news, mut findings) = (self.world.changes(), self.world.findings());
        let (mut records, mut installed, mut refusals) =
            (self.cluster.changed(), self.cluster.installed(), self.world.refusal_changes());
        let mut own = own::Own::default();
        let mut teller = events::Teller::new(self.client.clone(), &self.replica);
        let (mut next_remarks, mut settled) = (Instant::now(), Settled::new());
        loop {
            let mut wait = IDLE;
            let leads = self.leading.holds();
            self.metrics.leads(leads);
            if leads {
                let kinds = installed.borrow_and_update().clone();
                let again = own.ensure(&self.client, &kinds, &self.mesh).await;
                let failed = self.round(&mut settled, &stop).await;
                if again || failed {
                    wait = AGAIN;
                }
                if next_remarks <= Instant::now() {
                    teller.tell(events::remarks(&self.world, &self.cluster), &self.metrics).await;
                    next_remarks = Instant::now() + REMARKS;
                } else {
                    wait = wait.min(REMARKS);
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                r = turns.changed() => if r.is_err() { return },
                r = news.recv() => if matches!(r, Err(tokio::sync::broadcast::error::RecvError::Closed)) { return },
                r = findings.changed() => if r.is_err() { return },
                r = records.changed() => if r.is_err() { return },
                r = installed.changed() => if r.is_err() { return },
                r = refusals.changed() => if r.is_err() { return },
                () = tokio::time::sleep(wait) => {}
            }
            // traffic has the news already
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(DEBOUNCE) => {}
            }
            while matches!(news.try_recv(), Ok(_) | Err(tokio::sync::broadcast::error::TryRecvError::Lagged(_))) {}
            findings.mark_unchanged();
            records.mark_unchanged();
            refusals.mark_unchanged();
        }
    }

    /// Writes what differs. True: something is left.
    async fn round(&self, settled: &mut Settled, stop: &CancellationToken) -> bool {
        let started = Instant::now();
        let desired = desired::all(&self.world);
        self.metrics.judged(started.elapsed());
        settled.retain(|k, _| desired.contains_key(k));
        let due: BTreeMap<ObjectKey, Desired> =
            desired.into_iter().filter(|(k, d)| self.differs(k, d, settled)).collect();
        let (mut left, mut failed) = (due.len(), false);
        self.metrics.queued(left);
        for (i, (key, desired)) in due.into_iter().enumerate() {
            if i as u32 >= BURST {
                tokio::time::sleep(PACE).await;
            }
            if !self.leading.holds() || stop.is_cancelled() {
                break;
            }
            match self.write(&key, &desired).await {
                Ok(()) => {}
                Err(e) => {
                    self.metrics.wrote(Written::Failed);
                    tracing::warn!(object = %key, error = %e, "the status cannot be written");
                    failed = true;
                }
            }
            left -= 1;
            self.metrics.queued(left);
        }
        self.metrics.queued(0);
        failed
    }

    /// Whether what stands on the object, as it was last seen, is not what should. An object that has changed since it was judged waits for
    /// its next judgement.
    fn differs(&self, key: &ObjectKey, desired: &Desired, settled: &mut Settled) -> bool {
        let Some(record) = self.cluster.record(key) else { return false };
        if record.uid != desired.uid || record.generation != desired.generation {
            return false;
        }
        // most objects, most of the time
        if settled.get(key).is_some_and(|(version, d)| *version == record.resource_version && d == desired) {
            return false;
        }
        let differs = merge::merge(&record.status, &desired.part, desired.generation, "").is_some();
        if !differs {
            settled.insert(key.clone(), (record.resource_version, desired.clone()));
        }
        differs
    }

    async fn write(&self, key: &ObjectKey, desired: &Desired) -> Result<(), WriteError> {
        let Some(served) = self.cluster.installed().borrow().kinds.get(&key.kind).cloned() else { return Ok(()) };
        let resource = served.resource(key.kind);
        let api: Api<DynamicObject> = match key.kind.is_namespaced() {
            true => Api::namespaced_with(self.client.clone(), &key.name.namespace, &resource),
            false => Api::all_with(self.client.clone(), &resource),
        };
        for _ in 0..CONFLICTS {
            let Some(mut object) = within(api.get_opt(&key.name.name)).await? else { return Ok(()) };
            let meta = &object.metadata;
            if meta.uid.as_deref().unwrap_or_default() != desired.uid
                || meta.generation.unwrap_or_default() != desired.generation
            {
                // changed meanwhile: the watch will tell, and it is judged again
                return Ok(());
            }
            let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let old = object.data.get("status").cloned().unwrap_or_default();
            let Some(status) = merge::merge(&old, &desired.part, desired.generation, &now) else {
                self.note(key, &object);
                return Ok(());
            };
            object.data["status"] = status;
            if !self.leading.holds() {
                return Ok(());
            }
            match within(api.replace_status(&key.name.name, &PostParams::default(), &object)).await {
                Ok(written) => {
                    self.metrics.wrote(Written::Done);
                    self.note(key, &written);
                    return Ok(());
                }
                Err(WriteError::Api(kube::Error::Api(e))) if e.code == 409 => self.metrics.wrote(Written::Conflict),
                Err(WriteError::Api(kube::Error::Api(e))) if e.code == 404 => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        Err(WriteError::Conflicts)
    }

    /// The watch may tell it later, or may have told it already.
    fn note(&self, key: &ObjectKey, object: &DynamicObject) {
        let record = Record {
            uid: object.metadata.uid.clone().unwrap_or_default(),
            generation: object.metadata.generation.unwrap_or_default(),
            resource_version: object.metadata.resource_version.clone().unwrap_or_default(),
            status: object.data.get("status").cloned().unwrap_or_default(),
        };
        self.cluster.wrote(key, record);
    }
}

#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("somebody else changes it again and again")]
    Conflicts,
    #[error("the API server does not answer")]
    Late,
}

/// A request that must not outlast leadership.
async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, WriteError> {
    match tokio::time::timeout(lease::REQUEST, request).await {
        Ok(r) => r.map_err(WriteError::Api),
        Err(_) => Err(WriteError::Late),
    }
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
