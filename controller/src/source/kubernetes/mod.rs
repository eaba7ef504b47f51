//! A cluster as a source: every kind that it has is listed and watched, whatever the state of its definitions.
//!
//! ```text
//! installed (what kinds are there) -> one watch for each -> collector: what changed, what vanished while nobody watched -> Update
//! ```
//!
//! An object that does not fit its type is a finding, and its last good state stays. While the API server is away everything stays; a list after
//! that is compared with what was known. `complete` is said once every kind has been listed.

mod installed;
pub(crate) mod item;

pub use installed::{Installed, Served, ask};
pub use item::{Item, Record};

use super::{Source, Update, de::Misfit};
use crate::{
    finding::{Finding, Severity},
    metrics::Metrics,
    object::{Kind, ObjectKey, Stored},
};
use ahash::{HashMap, HashSet};
use futures_util::{StreamExt, pin_mut};
use kube::{Api, Client, runtime::watcher};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// Objects of one page of a list. A page is held as text and as trees until it is read: 100 Pods of 10 KiB are 4 MB for a moment.
const PAGE: u32 = 100;
/// Seconds of one watch, after which the next begins where it ended. A connection that only we believe in says nothing any more: it is given up five seconds later.
const WATCH: u32 = 20;
/// Changes that follow each other within this time are one; the first after quiet goes at once.
const COALESCE: Duration = Duration::from_millis(10);
/// Objects of one update.
const BATCH: usize = 512;
/// Events between the watches and the collector.
const EVENTS: usize = 256;
/// Findings that are kept. More of them are all alike.
const FINDINGS: usize = 1_000;
/// Failures in a row before they are told: a watch that breaks once is everyday life.
const TOLD_AFTER: u32 = 3;
/// Longest pause between attempts. The server is back for at most this long before it is noticed.
const PAUSE: Duration = Duration::from_secs(4);

/// How long to wait after so many failures: doubled from 100 ms to 2-4 s, each time somewhere in the upper half, so that watches that broke
/// together do not come back together.
pub(crate) fn pause(failures: u32) -> Duration {
    let most = (Duration::from_millis(100) * 2u32.saturating_pow(failures.saturating_sub(1).min(8))).min(PAUSE);
    // any source of disorder will do: the hasher's seed differs in every call
    let share = (ahash::RandomState::new().hash_one(failures) % 1_000) as u32;
    most / 2 + most / 2 * share / 1_000
}

/// What is known of the objects whose status the controller writes, and which kinds there are. Shared with the writer.
#[derive(Debug)]
pub struct Cluster {
    records: Mutex<BTreeMap<ObjectKey, Record>>,
    installed: watch::Sender<Installed>,
    changed: watch::Sender<u64>,
}
impl Default for Cluster {
    fn default() -> Self {
        Self {
            records: Mutex::default(),
            installed: watch::channel(Installed::default()).0,
            changed: watch::channel(0).0,
        }
    }
}
impl Cluster {
    pub fn record(&self, key: &ObjectKey) -> Option<Record> {
        self.records.lock().unwrap_or_else(|e| e.into_inner()).get(key).cloned()
    }
    /// What the API server answered to a write: newer than what the watch has told.
    pub fn wrote(&self, key: &ObjectKey, record: Record) {
        self.records.lock().unwrap_or_else(|e| e.into_inner()).insert(key.clone(), record);
    }
    pub fn installed(&self) -> watch::Receiver<Installed> {
        self.installed.subscribe()
    }
    /// Tells when a record changed.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
    fn set(&self, key: &ObjectKey, record: Option<Record>) {
        let mut records = self.records.lock().unwrap_or_else(|e| e.into_inner());
        let differs = match record {
            Some(record) => records.insert(key.clone(), record.clone()) != Some(record),
            None => records.remove(key).is_some(),
        };
        if differs {
            self.changed.send_modify(|n| *n += 1);
        }
    }
}

/// A cluster.
pub struct Kubernetes {
    client: Client,
    cluster: Arc<Cluster>,
    metrics: Arc<Metrics>,
    whole: bool,
}

impl Kubernetes {
    pub fn new(client: Client, metrics: Arc<Metrics>) -> Self {
        Self { client, cluster: Arc::default(), metrics, whole: false }
    }
    /// Reads every kind and every field, for checks. Costs a multiple of the memory.
    pub fn whole(mut self) -> Self {
        self.whole = true;
        self
    }
    /// What the source knows beside the objects.
    pub fn cluster(&self) -> Arc<Cluster> {
        self.cluster.clone()
    }
}

/// The client of every part: as kubectl finds its cluster, else as a pod does. The client's own repetitions are off: the watches and the
/// writers know when to come again.
pub async fn client() -> anyhow::Result<Client> {
    let mut config = kube::Config::infer().await?;
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

enum Event {
    Init,
    Apply { key: ObjectKey, read: Box<Result<(Stored, Vec<Misfit>), Misfit>>, record: Option<Record>, listed: bool },
    Delete(ObjectKey),
    Listed,
    Failed { failures: u32, error: String, forbidden: bool },
}

/// Kinds whose status somebody may have to write.
fn has_status(kind: Kind) -> bool {
    !kind.is_core()
}

/// Lists and watches one kind for as long as it is wanted.
async fn follow(kind: Kind, api: Api<Item>, whole: bool, metrics: Arc<Metrics>, events: mpsc::Sender<(Kind, Event)>) {
    let mut failures = 0;
    let apply = |item: Item, listed: bool| {
        let (key, record) = (item.key(kind), has_status(kind).then(|| item.record()));
        Event::Apply { key, record, listed, read: Box::new(item.read(kind, whole)) }
    };
    let _alive = metrics.watching(kind);
    loop {
        let stream = watcher::watcher(api.clone(), watcher::Config::default().page_size(PAGE).timeout(WATCH));
        pin_mut!(stream);
        while let Some(event) = stream.next().await {
            let event = match event {
                Ok(watcher::Event::Init) => {
                    metrics.relisted(kind);
                    Event::Init
                }
                Ok(watcher::Event::InitApply(item)) => apply(item, true),
                Ok(watcher::Event::InitDone) => {
                    failures = 0;
                    Event::Listed
                }
                Ok(watcher::Event::Apply(item)) => {
                    failures = 0;
                    apply(item, false)
                }
                Ok(watcher::Event::Delete(item)) => {
                    failures = 0;
                    Event::Delete(item.key(kind))
                }
                Err(e) => {
                    let status = text_of(&e);
                    // the history is gone: kube lists anew when a watch says so, but not when its beginning is refused with it
                    if status.as_ref().is_some_and(|(code, _)| *code == 410) {
                        tokio::time::sleep(pause(1)).await;
                        break;
                    }
                    failures += 1;
                    metrics.watch_failed(kind);
                    let forbidden = status.as_ref().is_some_and(|(code, _)| *code == 403);
                    let error = status.map_or_else(|| chain(&e), |(code, message)| format!("{message} (HTTP {code})"));
                    if events.send((kind, Event::Failed { failures, error, forbidden })).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(pause(failures)).await;
                    continue;
                }
            };
            if events.send((kind, event)).await.is_err() {
                return;
            }
        }
        if events.is_closed() {
            return;
        }
    }
}

fn text_of(e: &watcher::Error) -> Option<(u16, String)> {
    let status = match e {
        watcher::Error::InitialListFailed(kube::Error::Api(s))
        | watcher::Error::WatchStartFailed(kube::Error::Api(s)) => s,
        watcher::Error::WatchFailed(kube::Error::Api(s)) | watcher::Error::WatchError(s) => s,
        _ => return None,
    };
    Some((status.code, status.message.clone()))
}
/// An error with its causes.
fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(c) = cause {
        let more = c.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = c.source();
    }
    text
}

impl Source for Kubernetes {
    async fn run(self, updates: mpsc::Sender<Update>, stop: CancellationToken) -> anyhow::Result<()> {
        let (tx, mut events) = mpsc::channel(EVENTS);
        let (news, mut installed) = mpsc::channel(4);
        let mut tasks = JoinSet::new();
        tasks.spawn(installed::follow(self.client.clone(), self.whole, news));
        let mut c = Collector { cluster: self.cluster.clone(), ..Collector::default() };
        let mut last: Option<Instant> = None;
        loop {
            let due = match c.pending.is_empty() && !c.must_say_complete() {
                true => None,
                false if c.pending.apply.len() >= BATCH => Some(Instant::now()),
                false => Some(last.map_or_else(Instant::now, |l| l + COALESCE)),
            };
            tokio::select! {
                // what has come goes together before it goes on
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(news) = installed.recv() => match news {
                    Ok(now) => {
                        c.trouble_with_api(None);
                        for (kind, served) in c.install(now) {
                            let api = Api::all_with(self.client.clone(), &served.resource(kind));
                            let watch = follow(kind, api, self.whole, self.metrics.clone(), tx.clone());
                            c.watches.entry(kind).or_default().task = Some(tasks.spawn(watch));
                        }
                    }
                    Err(e) => c.trouble_with_api(Some(e)),
                },
                Some((kind, event)) = events.recv(), if c.pending.apply.len() < BATCH => c.take(kind, event),
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    last = Some(Instant::now());
                    let mut update = std::mem::take(&mut c.pending);
                    update.complete = c.must_say_complete();
                    c.told_complete |= update.complete;
                    if updates.send(update).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }
}

#[derive(Default)]
struct Watched {
    served: Option<Served>,
    task: Option<AbortHandle>,
    known: HashSet<ObjectKey>,
    /// Seen by the list that is running.
    listing: HashSet<ObjectKey>,
    listed: bool,
    /// What keeps it from being watched.
    trouble: Option<(String, bool)>,
}

#[derive(Default)]
struct Collector {
    cluster: Arc<Cluster>,
    watches: BTreeMap<Kind, Watched>,
    installed: Option<Installed>,
    api_trouble: Option<String>,
    /// By object.
    wrong: BTreeMap<ObjectKey, Vec<Finding>>,
    /// Objects of which a good state is in the index.
    good: HashSet<ObjectKey>,
    pending: Update,
    pending_at: HashMap<ObjectKey, usize>,
    told_complete: bool,
}

impl Collector {
    fn must_say_complete(&self) -> bool {
        !self.told_complete && self.installed.is_some() && self.watches.values().all(|w| w.listed)
    }

    /// Takes in which kinds there are; answers with those to watch from now on.
    fn install(&mut self, now: Installed) -> Vec<(Kind, Served)> {
        let gone: Vec<Kind> = self.watches.keys().filter(|k| !now.kinds.contains_key(k)).copied().collect();
        for kind in gone {
            if let Some(w) = self.watches.remove(&kind) {
                w.task.inspect(AbortHandle::abort);
                tracing::warn!(%kind, objects = w.known.len(), "the kind is no longer installed: its objects are gone");
                w.known.iter().for_each(|k| self.delete(k));
            }
        }
        let mut begin = Vec::new();
        for (kind, served) in &now.kinds {
            let w = self.watches.entry(*kind).or_default();
            if w.served.as_ref() != Some(served) {
                if let Some(task) = w.task.take() {
                    task.abort();
                }
                w.served = Some(served.clone());
                begin.push((*kind, served.clone()));
            }
        }
        self.installed = Some(now.clone());
        self.cluster.installed.send_if_modified(|old| {
            let differs = *old != now;
            *old = now;
            differs
        });
        self.say();
        begin
    }

    fn take(&mut self, kind: Kind, event: Event) {
        // of a watch that was ended meanwhile
        let Some(w) = self.watches.get_mut(&kind) else { return };
        match event {
            Event::Init => w.listing.clear(),
            Event::Listed => {
                let listing = std::mem::take(&mut w.listing);
                let vanished: Vec<ObjectKey> = w.known.difference(&listing).cloned().collect();
                (w.known, w.listed) = (listing, true);
                vanished.iter().for_each(|k| self.delete(k));
                self.trouble(kind, None);
            }
            Event::Apply { key, read, record, listed } => {
                w.known.insert(key.clone());
                if listed {
                    w.listing.insert(key.clone());
                }
                if has_status(kind) {
                    self.cluster.set(&key, record);
                }
                self.apply(key, *read);
                self.trouble(kind, None);
            }
            Event::Delete(key) => {
                w.known.remove(&key);
                self.delete(&key);
                self.trouble(kind, None);
            }
            Event::Failed { failures, error, forbidden } => {
                if failures >= TOLD_AFTER || forbidden {
                    self.trouble(kind, Some((error, forbidden)));
                }
            }
        }
    }

    fn apply(&mut self, key: ObjectKey, read: Result<(Stored, Vec<Misfit>), Misfit>) {
        let good = self.good.contains(&key);
        let object = key.to_string();
        let finding = |severity, code, m: &Misfit, tail: &str| Finding {
            file: "".into(),
            line: 0,
            severity,
            code,
            object: object.clone(),
            field: m.field.clone(),
            message: format!("{}{tail}", m.message),
            fix: m.fix.clone(),
        };
        let (apply, findings) = match read {
            Err(m) => {
                let tail = if good { "; the last good version stays in use" } else { "; the object is left out" };
                (None, vec![finding(Severity::Error, "field-invalid", &m, tail)])
            }
            // of Kubernetes' own kinds this knows the fields of one release, and a newer one may have more
            Ok((stored, _)) if key.kind.is_core() => (Some(stored), Vec::new()),
            Ok((stored, unknown)) => {
                let say = |m: &Misfit| finding(Severity::Warning, "field-unknown", m, "; it is ignored");
                (Some(stored), unknown.iter().map(say).collect())
            }
        };
        if let Some(stored) = apply {
            self.good.insert(key.clone());
            self.pending.delete.retain(|k| *k != key);
            match self.pending_at.get(&key) {
                // only the last state of an object counts
                Some(&at) if self.pending.apply.get(at).is_some_and(|s| s.object.key() == key) => {
                    self.pending.apply[at] = stored;
                }
                _ => {
                    if self.pending.apply.is_empty() {
                        self.pending_at.clear();
                    }
                    self.pending_at.insert(key.clone(), self.pending.apply.len());
                    self.pending.apply.push(stored);
                }
            }
        }
        let before = match findings.is_empty() {
            true => self.wrong.remove(&key),
            false if self.wrong.len() >= FINDINGS && !self.wrong.contains_key(&key) => return,
            false => self.wrong.insert(key.clone(), findings),
        };
        if before.as_ref() != self.wrong.get(&key) {
            self.say();
        }
    }

    fn delete(&mut self, key: &ObjectKey) {
        if has_status(key.kind) {
            self.cluster.set(key, None);
        }
        if self.good.remove(key) {
            self.pending.apply.retain(|s| s.object.key() != *key);
            self.pending_at.clear();
            self.pending.delete.push(key.clone());
        }
        if self.wrong.remove(key).is_some() {
            self.say();
        }
    }

    fn trouble(&mut self, kind: Kind, trouble: Option<(String, bool)>) {
        let Some(w) = self.watches.get_mut(&kind) else { return };
        if w.trouble != trouble {
            w.trouble = trouble;
            self.say();
        }
    }
    fn trouble_with_api(&mut self, trouble: Option<String>) {
        if self.api_trouble.is_some() != trouble.is_some() {
            self.api_trouble = trouble;
            self.say();
        }
    }

    /// Everything that is wrong now, with the next update.
    fn say(&mut self) {
        let general = |severity, code, message: String, fix: &str| Finding {
            file: "".into(),
            line: 0,
            severity,
            code,
            object: String::new(),
            field: String::new(),
            message,
            fix: fix.into(),
        };
        let mut found: Vec<Finding> = self.wrong.values().flatten().cloned().collect();
        let mut by_error: BTreeMap<&(String, bool), Vec<&str>> = BTreeMap::new();
        for (kind, w) in &self.watches {
            if let Some(t) = &w.trouble {
                by_error.entry(t).or_default().push(kind.as_str());
            }
        }
        for ((error, forbidden), kinds) in by_error {
            let message =
                format!("{} cannot be watched, so their last known state stays in use: {error}", kinds.join(", "));
            let fix = match forbidden {
                true => "give the controller's service account the permissions of docs/controller.md",
                false => "look after the API server",
            };
            found.push(general(Severity::Error, "watch-failed", message, fix));
        }
        if let Some(e) = &self.api_trouble {
            let message = format!("the API server does not say which kinds it has: {e}");
            found.push(general(Severity::Error, "api-unreachable", message, "look after the API server"));
        }
        if let Some(installed) = &self.installed {
            let absent = |group: &str| -> Vec<&str> {
                let missing = Kind::ALL.iter().filter(|k| k.group() == group && !installed.kinds.contains_key(k));
                missing.map(|k| k.as_str()).collect()
            };
            let (routes, own) = (absent(weft_api::GATEWAY_GROUP), absent(weft_api::WEFT_GROUP));
            if !routes.is_empty() {
                let message = format!("{} are not installed, so there are none", routes.join(", "));
                let fix = "install the Gateway API's CustomResourceDefinitions, at least the standard channel";
                found.push(general(Severity::Info, "kind-not-installed", message, fix));
            }
            if !own.is_empty() {
                let message = format!("{} are not installed, so there are none", own.join(", "));
                found.push(general(Severity::Info, "kind-not-installed", message, "install Weft's own chart again"));
            }
        }
        found.truncate(FINDINGS);
        self.pending.findings = Some(found.into());
    }
}

#[cfg(test)]
#[path = "kubernetes_tests.rs"]
pub(crate) mod tests;
