//! The controller as a process: source, world, discovery server, own certificate, trust. Also started in process by tests and the demo.

use crate::{
    admin, cluster,
    finding::Severity,
    index::{Members, Mesh},
    metrics::Metrics,
    serve::Serving,
    source::{
        Source,
        kubernetes::{Cluster, Kubernetes},
    },
    status,
    world::World,
};
use anyhow::Context as _;
use std::{net::SocketAddr, path::PathBuf, sync::Arc};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use weft_discovery::{
    DiscoveryServer, ServerSettings,
    certificates::{self, RenewerSettings, TokenSource},
    trust::{self, FollowSettings},
};
use weft_identity::{Bundle, CredentialCell};

/// Where the controller gets its certificate and the news of the bundle.
#[derive(Clone, Debug)]
pub struct CaSettings {
    /// `host:port`, tried in turn.
    pub addresses: Vec<String>,
    pub token: TokenSource,
    /// The first bundle.
    pub bundle: PathBuf,
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub mesh: Mesh,
    pub listen: SocketAddr,
    /// Where `/ready`, `/live` and `/status` are; `None`: nowhere.
    pub admin: Option<SocketAddr>,
    pub ca: CaSettings,
    /// Names this replica.
    pub replica: String,
}

/// Runs until `stop`. Errors: what keeps it from starting.
pub async fn run(settings: Settings, source: impl Source, stop: CancellationToken) -> anyhow::Result<()> {
    serve(settings, source, Arc::default(), None, stop).await
}

/// Serves a cluster, and writes to it what is made of its objects.
pub async fn kubernetes(mut settings: Settings, client: kube::Client, stop: CancellationToken) -> anyhow::Result<()> {
    settings.mesh.members = Members::WithSidecar;
    let metrics = Arc::<Metrics>::default();
    let source = Kubernetes::new(client.clone(), metrics.clone());
    let known = source.cluster();
    serve(settings, source, metrics, Some((client, known)), stop).await
}

async fn serve(
    settings: Settings,
    source: impl Source,
    metrics: Arc<Metrics>,
    cluster: Option<(kube::Client, Arc<Cluster>)>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let bundle = tokio::select! {
        b = first_bundle(&settings.ca.bundle, &settings.mesh.trust_domain) => b?,
        () = stop.cancelled() => return Ok(()),
    };
    let cell = CredentialCell::new(Arc::new(bundle));
    let listener =
        TcpListener::bind(settings.listen).await.with_context(|| format!("cannot listen on {}", settings.listen))?;
    let world = World::new(settings.mesh.clone());
    let admin = match settings.admin {
        Some(at) => Some(TcpListener::bind(at).await.with_context(|| format!("cannot listen on {at}"))?),
        None => None,
    };
    let ca_identity = weft_identity::ca_identity(&settings.mesh.trust_domain)?;
    let renewer =
        RenewerSettings::new(settings.ca.addresses.clone(), ca_identity.clone(), settings.ca.token.clone(), None);
    let server =
        DiscoveryServer::new(Arc::new(Serving::new(world.clone(), bundles(cell.clone()))), ServerSettings::default());
    let (expected, expect) = watch::channel(0);
    let follow = FollowSettings {
        cas: settings.ca.addresses.clone(),
        ca_identity,
        reporter: settings.replica.clone(),
        expected: expect,
        confirmations: server.confirmations(),
    };
    let mut background = tokio::task::JoinSet::new();
    background.spawn(certificates::renew(renewer, cell.clone()));
    background.spawn(trust::follow(follow, cell.clone()));
    background.spawn(report(world.clone(), expected));
    if let Some(listener) = admin {
        let confirmations = server.confirmations();
        background.spawn(admin::serve(listener, world.clone(), cell.clone(), metrics.clone(), confirmations));
    }
    let writing = cluster.map(|(client, known)| {
        let writer = cluster::Writer {
            client,
            world: world.clone(),
            cluster: known,
            metrics,
            leading: cluster::lease::Leading::default(),
            replica: settings.replica.clone(),
            mesh: settings.mesh.name.clone(),
        };
        tokio::spawn(cluster::run(writer, settings.mesh.system_namespace.to_string(), stop.clone()))
    });
    let reading = world.follow(source, stop.clone());
    let serving = async {
        // an index that is half full would call a Service "outside"
        let mut complete = world.complete();
        if complete.wait_for(|c| *c).await.is_ok() {
            tracing::info!(listen = %settings.listen, "serving discovery");
            server.serve(listener, cell, stop.clone()).await;
        }
    };
    let ended = tokio::select! {
        r = reading => r,
        () = serving => Ok(()),
    };
    if let Some(writing) = writing {
        // gives the Lease back, so that another replica need not wait for it
        stop.cancel();
        _ = tokio::time::timeout(cluster::lease::RETRY * 2, writing).await;
    }
    ended
}

/// The first bundle. The CA may still be about to publish it, and kubelet about to mount it: that is waited for. A file that is there and wrong is an error.
async fn first_bundle(path: &std::path::Path, trust_domain: &str) -> Result<Bundle, weft_identity::BundleError> {
    let mut tick = tokio::time::interval(BUNDLE);
    let mut said = false;
    loop {
        tick.tick().await;
        match Bundle::read(path, Some(trust_domain)) {
            Err(weft_identity::BundleError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(file = %path.display(), "waiting for the trust bundle: the CA publishes it (on a cluster as ConfigMap weft-trust-bundle, which kubelet mounts within a minute); is weft-ca running?");
                }
            }
            read => return read,
        }
    }
}
/// How often a bundle that is not there yet is looked for: a look at a local file costs nothing.
const BUNDLE: std::time::Duration = std::time::Duration::from_millis(500);

/// The bundle of a cell, told when it changes.
fn bundles(cell: CredentialCell) -> watch::Receiver<Option<Arc<Bundle>>> {
    let (tx, rx) = watch::channel(Some(cell.bundle()));
    let mut changes = cell.subscribe();
    tokio::spawn(async move {
        while changes.changed().await.is_ok() {
            let now = changes.borrow_and_update().bundle.clone();
            // a new leaf is no news
            let differs = |old: &mut Option<Arc<Bundle>>| {
                let new = old.as_ref().is_none_or(|o| o.version() != now.version());
                *old = Some(now.clone());
                new
            };
            tx.send_if_modified(differs);
            if tx.is_closed() {
                return;
            }
        }
    });
    rx
}

/// Says in the log what is wrong with files and routes whenever that changes, and counts the meshed workloads.
async fn report(world: Arc<World>, expected: watch::Sender<u32>) {
    let (mut changes, mut findings) = (world.changes(), world.findings());
    let mut said = std::collections::BTreeSet::new();
    loop {
        let meshed = world.with_index(|i| i.pods().filter(|p| i.meshed(p) && !p.absent).count());
        expected.send_if_modified(|e| std::mem::replace(e, meshed as u32) != meshed as u32);
        let mut now = std::collections::BTreeSet::new();
        for f in findings.borrow_and_update().iter() {
            now.insert((f.severity, f.to_string()));
        }
        for route in world.reports() {
            for parent in &route.parents {
                for c in parent.conditions.iter().filter(|c| status::is_bad(c)) {
                    let line = format!(
                        "{} on {}: {}={} {}: {}",
                        route.route, parent.parent, c.kind, c.status, c.reason, c.message
                    );
                    now.insert((Severity::Warning, line));
                }
            }
        }
        for policy in world.policy_reports() {
            for target in &policy.ancestors {
                for c in target.conditions.iter().filter(|c| status::is_bad(c)) {
                    let line = format!(
                        "{} on {}: {}={} {}: {}",
                        policy.policy, target.parent, c.kind, c.status, c.reason, c.message
                    );
                    now.insert((Severity::Warning, line));
                }
            }
        }
        for (severity, line) in now.difference(&said) {
            match severity {
                Severity::Error => tracing::error!("{line}"),
                Severity::Warning => tracing::warn!("{line}"),
                Severity::Info => tracing::info!("{line}"),
            }
        }
        said = now;
        tokio::select! {
            c = changes.recv() => match c {
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                _ => {
                    // statuses wait for the burst to end: traffic does not wait for them
                    tokio::time::sleep(REPORT).await;
                    while changes.try_recv().is_ok() {}
                }
            },
            f = findings.changed() => if f.is_err() { return },
        }
    }
}

/// How long statuses wait for further changes.
const REPORT: std::time::Duration = std::time::Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_bundle_is_waited_for_and_a_wrong_one_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bundle.pem");
        let ca = weft_identity::testing::TestMesh::new("mesh.test");
        let waiting = tokio::spawn({
            let path = path.clone();
            async move { first_bundle(&path, "mesh.test").await }
        });
        tokio::time::sleep(BUNDLE * 100).await;
        assert!(!waiting.is_finished());
        ca.bundle().write(&path).unwrap();
        assert_eq!(waiting.await.unwrap().unwrap(), *ca.bundle());
        let wrong = first_bundle(&path, "other.test").await.unwrap_err();
        assert!(wrong.to_string().contains("trust domain"), "{wrong}");
    }
}
