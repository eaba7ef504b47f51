//! The controller's side of the bundle: follows what the CA publishes, and reports which proxies use it.

use crate::{
    client::{DialError, control_channel},
    proto::{self, trust_client::TrustClient},
    server::PeerStatus,
};
use ahash::AHashMap;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
};
use tokio_stream::wrappers::ReceiverStream;
use weft_identity::{Bundle, CredentialCell, CredentialsError, WorkloadIdentity};

/// At most one report in this time: reports are sums, only the newest matters.
const REPORT: Duration = Duration::from_millis(200);
/// How often the names of the CAs are resolved again: a replica that is new learns of everybody within this time.
const LOOK: Duration = Duration::from_secs(10);
/// A resolver that takes longer is asked again.
const RESOLVE: Duration = Duration::from_secs(2);
/// Addresses behind one name that are followed.
const MAX_REPLICAS: usize = 16;
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// What the proxies of one controller say they use. The discovery server fills it.
#[derive(Clone, Debug)]
pub struct Confirmations(Arc<Inner>);
#[derive(Debug)]
struct Inner {
    streams: Mutex<AHashMap<u64, Option<PeerStatus>>>,
    changed: watch::Sender<u64>,
}
impl Default for Confirmations {
    fn default() -> Self {
        Self(Arc::new(Inner { streams: Mutex::default(), changed: watch::Sender::new(0) }))
    }
}
impl Confirmations {
    fn edit<T>(&self, edit: impl FnOnce(&mut AHashMap<u64, Option<PeerStatus>>) -> T) -> T {
        let out = edit(&mut self.0.streams.lock().unwrap_or_else(|e| e.into_inner()));
        self.0.changed.send_modify(|n| *n += 1);
        out
    }
    pub(crate) fn set(&self, stream: u64, status: Option<PeerStatus>) {
        self.edit(|s| s.insert(stream, status));
    }
    pub(crate) fn remove(&self, stream: u64) {
        self.edit(|s| s.remove(&stream));
    }
    /// Connected proxies.
    pub fn connected(&self) -> usize {
        self.0.streams.lock().unwrap_or_else(|e| e.into_inner()).len()
    }
    /// How many proxies use which bundle and issuer. Those that have not said are left out.
    pub fn sums(&self) -> Vec<(u64, Box<[u8]>, u32)> {
        let mut sums: AHashMap<(u64, Box<[u8]>), u32> = AHashMap::new();
        let streams = self.0.streams.lock().unwrap_or_else(|e| e.into_inner());
        for s in streams.values().flatten() {
            *sums.entry((s.bundle_version, s.leaf_issuer.clone())).or_default() += 1;
        }
        let mut sums: Vec<_> = sums.into_iter().map(|((v, i), n)| (v, i, n)).collect();
        sums.sort();
        sums
    }
    /// Told of every change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }
}

/// What following needs.
pub struct FollowSettings {
    /// The CA: `host:port`. Every address behind a name is a replica (on a cluster a Service without cluster address), and all are told, since any of them
    /// may move a rotation on.
    pub cas: Vec<String>,
    pub ca_identity: WorkloadIdentity,
    /// Names this replica.
    pub reporter: String,
    /// How many meshed workloads there are, connected or not: a pod that is cut off keeps a root from being retired.
    pub expected: watch::Receiver<u32>,
    pub confirmations: Confirmations,
}

#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error("{}: {}", .0.code(), .0.message())]
    Status(#[from] tonic::Status),
    #[error("the CA closed the stream")]
    Closed,
    #[error("the CA's bundle cannot be read: {0}")]
    Bundle(#[from] crate::wire::WireError),
}

/// Installs every bundle that the CA publishes in `cell`, and reports. Never ends; drop it to stop. The controller's own
/// leaf and bundle are part of every report: it is a member of the mesh like its proxies.
pub async fn follow(s: FollowSettings, cell: CredentialCell) {
    if s.cas.is_empty() {
        tracing::error!("no CA address is configured");
    }
    let s = Arc::new(s);
    let mut following = JoinSet::new();
    let mut streams: BTreeMap<SocketAddr, AbortHandle> = BTreeMap::new();
    let mut unresolved = false;
    loop {
        let (mut found, mut complete) = (BTreeSet::new(), true);
        for ca in &s.cas {
            match tokio::time::timeout(RESOLVE, tokio::net::lookup_host(ca)).await {
                Ok(Ok(addresses)) => found.extend(addresses.take(MAX_REPLICAS)),
                failed => {
                    complete = false;
                    if !unresolved {
                        let e = failed.err().map(|e| e.to_string());
                        tracing::warn!(%ca, error = e.unwrap_or_else(|| "no address".into()), "CA not found");
                    }
                }
            }
        }
        unresolved = !complete;
        for at in &found {
            let (s, cell, at) = (s.clone(), cell.clone(), *at);
            let start = || following.spawn(async move { follow_one(&s, &at.to_string(), &cell).await });
            streams.entry(at).or_insert_with(start);
        }
        if complete {
            streams.retain(|at, stream| {
                let stays = found.contains(at);
                if !stays {
                    stream.abort();
                }
                stays
            });
        }
        while following.try_join_next().is_some() {}
        tokio::time::sleep(if complete { LOOK } else { RESOLVE }).await;
    }
}

async fn follow_one(s: &FollowSettings, address: &str, cell: &CredentialCell) {
    let mut failures = 0u32;
    loop {
        let credentials = cell.ready().await;
        let mut up = false;
        if let Err(e) = session(s, cell, address, &credentials, &mut up).await {
            if up || failures == 0 {
                tracing::warn!(ca = %address, error = %e, "trust stream lost");
            }
            failures = if up { 0 } else { failures.saturating_add(1) };
            let window = Duration::from_millis(100).saturating_mul(1 << failures.min(10)).min(BACKOFF_MAX);
            tokio::time::sleep(window.mul_f64(rand::random())).await;
        }
    }
}

async fn session(
    s: &FollowSettings,
    cell: &CredentialCell,
    address: &str,
    credentials: &weft_identity::Credentials,
    up: &mut bool,
) -> Result<(), FollowError> {
    let channel = control_channel(address, credentials.control_client(&s.ca_identity)?).await?;
    let (out, outgoing) = mpsc::channel(4);
    let mut own = cell.subscribe();
    let mut changes = s.confirmations.changes();
    let mut expected = s.expected.clone();
    let _ = out.try_send(report(s, cell));
    let mut incoming = TrustClient::new(channel).follow(ReceiverStream::new(outgoing)).await?.into_inner();
    let mut due = false;
    let mut tick = tokio::time::interval(REPORT);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // a report now and then, so that the CA can tell a silent controller from a dead one
    let mut heartbeat = tokio::time::interval(Duration::from_secs(10));
    loop {
        tokio::select! {
            m = incoming.message() => {
                *up = true;
                let bundle: Bundle = m?.ok_or(FollowError::Closed)?.try_into()?;
                match cell.install_bundle(Arc::new(bundle)) {
                    Ok(true) => tracing::info!(version = cell.bundle().version(), "new trust bundle"),
                    Ok(false) => {}
                    Err(e) => tracing::error!(error = %e, "the CA's bundle was not taken"),
                }
            }
            Ok(()) = changes.changed() => due = true,
            Ok(()) = expected.changed() => due = true,
            _ = own.changed() => {
                due = true;
                let now = own.borrow_and_update().credentials.clone();
                if now.is_some_and(|c| c.serial() != credentials.serial()) {
                    return Ok(()); // the next stream uses the new certificate
                }
            }
            _ = heartbeat.tick() => due = true,
            _ = tick.tick(), if due => {
                due = out.try_send(report(s, cell)).is_err();
            }
        }
    }
}

fn report(s: &FollowSettings, cell: &CredentialCell) -> proto::TrustReport {
    let one = |(bundle_version, issuer, proxies): (u64, Box<[u8]>, u32)| proto::Confirmed {
        bundle_version,
        leaf_issuer: issuer.into(),
        proxies,
    };
    let confirmed = s.confirmations.sums().into_iter().map(one).collect();
    let current = cell.current();
    let own = current.credentials.map(|c| one((current.bundle.version(), c.issuer().into(), 1)));
    proto::TrustReport { reporter: s.reporter.clone(), expected: *s.expected.borrow(), confirmed, own }
}
