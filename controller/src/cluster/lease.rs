//! Who writes statuses: the holder of a Lease.
//!
//! client-go's rules, which need no clock in common: a Lease is expired when *this* replica has not seen it change for its duration, by its own
//! monotonic clock; it is taken and renewed by a replacement that names the version that was read; and whoever could not renew it within
//! [`DEADLINE`] of *asking* has stopped leading well before anybody else may begin.

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

/// How long a silent holder keeps the Lease.
pub const DURATION: Duration = Duration::from_secs(15);
/// How long after a renewal was asked for the holder still leads. The difference to [`DURATION`] is more than the longest write takes.
pub const DEADLINE: Duration = Duration::from_secs(9);
/// Between renewals, and between looks of those who wait.
pub const RETRY: Duration = Duration::from_secs(2);
/// The longest that any one request may take: [`DEADLINE`] and this are less than [`DURATION`].
pub const REQUEST: Duration = Duration::from_secs(4);

/// Whether this replica leads, asked before each write.
#[derive(Clone, Debug, Default)]
pub struct Leading(Arc<Mutex<Option<Instant>>>);
impl Leading {
    pub fn holds(&self) -> bool {
        let until = *self.0.lock().unwrap_or_else(|e| e.into_inner());
        until.is_some_and(|until| Instant::now() < until)
    }
    fn set(&self, until: Option<Instant>) {
        *self.0.lock().unwrap_or_else(|e| e.into_inner()) = until;
    }
    /// For a process that shares its duty with nobody.
    pub fn always() -> Self {
        // a year: longer than any such process runs
        Self(Arc::new(Mutex::new(Some(Instant::now() + Duration::from_secs(365 * 86_400)))))
    }
}

pub struct Election {
    pub client: Client,
    pub namespace: String,
    pub name: String,
    /// Of this replica: its pod's name.
    pub identity: String,
}

/// The Lease as it was last seen to change.
struct Observed {
    version: String,
    at: Instant,
}

impl Election {
    /// Takes part until `stop`, then gives the Lease back. `turned` tells when leadership begins and ends.
    pub async fn run(self, leading: Leading, turned: watch::Sender<bool>, stop: CancellationToken) {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut observed: Option<Observed> = None;
        let tell = |leads: bool| {
            turned.send_if_modified(|was| {
                let differs = *was != leads;
                *was = leads;
                differs
            });
        };
        loop {
            match tokio::time::timeout(REQUEST, self.attempt(&leases, &mut observed)).await {
                Ok(Ok(Some(until))) => leading.set(Some(until)),
                Ok(Ok(None)) => leading.set(None),
                Ok(Err(e)) => tracing::warn!(error = %e, lease = %self.name, "the Lease cannot be read or renewed"),
                Err(_) => tracing::warn!(lease = %self.name, "the API server does not answer about the Lease"),
            }
            tell(leading.holds());
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(RETRY) => {}
            }
            tell(leading.holds());
        }
        let held = leading.holds();
        leading.set(None);
        tell(false);
        if held {
            _ = tokio::time::timeout(RETRY, self.release(&leases)).await;
        }
    }

    /// Looks once. `Some`: this replica leads until then.
    async fn attempt(&self, leases: &Api<Lease>, observed: &mut Option<Observed>) -> kube::Result<Option<Instant>> {
        let asked = Instant::now();
        let Some(lease) = leases.get_opt(&self.name).await? else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let fresh = Lease { metadata, spec: Some(self.spec(None)) };
            return won(leases.create(&PostParams::default(), &fresh).await, asked);
        };
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        if observed.as_ref().is_none_or(|o| o.version != version) {
            *observed = Some(Observed { version, at: asked });
        }
        if holder != self.identity && !holder.is_empty() {
            let since = observed.as_ref().map_or(asked, |o| o.at);
            let duration =
                spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(DURATION.as_secs());
            if asked.duration_since(since) <= Duration::from_secs(duration) {
                return Ok(None);
            }
            tracing::info!(holder, "the Lease has expired: taking it over");
        }
        // the version that was read is part of it: of two who try, one gets a conflict
        let next = Lease { spec: Some(self.spec(Some(&spec))), ..lease };
        won(leases.replace(&self.name, &PostParams::default(), &next).await, asked)
    }

    fn spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(jiff::Timestamp::now());
        let same = before.is_some_and(|b| b.holder_identity.as_deref() == Some(&self.identity));
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(DURATION.as_secs() as i32),
            renew_time: Some(now.clone()),
            acquire_time: if same { before.and_then(|b| b.acquire_time.clone()) } else { Some(now) },
            lease_transitions: before.map(|b| b.lease_transitions.unwrap_or_default() + i32::from(!same)),
            ..LeaseSpec::default()
        }
    }

    /// So that the next one need not wait.
    async fn release(&self, leases: &Api<Lease>) -> kube::Result<()> {
        let mut lease = leases.get(&self.name).await?;
        let Some(spec) = lease.spec.as_mut().filter(|s| s.holder_identity.as_deref() == Some(&self.identity)) else {
            return Ok(());
        };
        spec.holder_identity = Some(String::new());
        leases.replace(&self.name, &PostParams::default(), &lease).await.map(drop)
    }
}

fn won(written: kube::Result<Lease>, asked: Instant) -> kube::Result<Option<Instant>> {
    match written {
        // from when it was asked for: the answer may have taken long
        Ok(_) => Ok(Some(asked + DEADLINE)),
        Err(kube::Error::Api(e)) if e.code == 409 => Ok(None),
        Err(e) => Err(e),
    }
}
