//! What a proxy is told at its start: one YAML (or JSON) file, or the same struct in a test. What can change later comes over discovery, or,
//! without a controller, is written in the same file under `static`.

use serde::{Deserialize, Serialize};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use weft_core::{
    endpoint::Endpoints,
    identity::WorkloadIdentity,
    policy::InboundPolicy,
    service::{ServicePort, Target},
};

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {text}")]
    Parse { path: PathBuf, text: String },
    #[error("{field}: {text}")]
    Invalid { field: &'static str, text: String },
}

/// The whole start configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub pod: Pod,
    #[serde(default)]
    pub capture: Capture,
    /// Admin listener; port 0 takes a free one. The injector exposes it to the kubelet and Prometheus.
    #[serde(default = "default_admin")]
    pub admin: SocketAddr,
    /// Data-plane threads.
    #[serde(default = "one")]
    pub workers: usize,
    /// `None`: this proxy is not in the mesh, everything is plain text (one hop, tests).
    #[serde(default)]
    pub credentials: Option<Credentials>,
    /// Where configuration comes from. Exactly one of `controller` and `static`.
    #[serde(default)]
    pub controller: Option<Controller>,
    #[serde(default, rename = "static")]
    pub fixed: Option<Static>,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Access log: a file, or `-` for the standard output. `None`: no log.
    #[serde(default)]
    pub access_log: Option<PathBuf>,
}

fn default_admin() -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 15020)
}
fn one() -> usize {
    1
}

/// The pod that this proxy stands in.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pod {
    /// Compared with the SNI of inbound mesh connections.
    pub uid: Arc<str>,
    /// Pod addresses of both families; the first is the primary one.
    pub ips: Vec<IpAddr>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    #[serde(default)]
    pub zone: Option<Arc<str>>,
    /// The identity that certificates must carry. `None` with static credentials: whatever the certificate says.
    #[serde(default)]
    pub identity: Option<WorkloadIdentity>,
}

/// How captured connections are recognised.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Capture {
    Kernel(KernelCapture),
    Mapped(Mapped),
}
impl Default for Capture {
    fn default() -> Self {
        Capture::Kernel(KernelCapture::default())
    }
}

/// iptables redirects into these listeners.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KernelCapture {
    pub outbound: Vec<SocketAddr>,
    pub inbound: Vec<SocketAddr>,
}
impl Default for KernelCapture {
    fn default() -> Self {
        let v4 = |port| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
        let v6 = |port| SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), port);
        Self { outbound: vec![v4(15001), v6(15001)], inbound: vec![v4(15006), v6(15006)] }
    }
}

/// Loopback addresses that stand for cluster addresses.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mapped {
    /// What the application dials -> the address that it means.
    pub outbound: Vec<Listen>,
    /// Where other pods dial -> the address of this pod that it means.
    pub inbound: Vec<Listen>,
    /// Cluster address -> where it is really dialled. Others are dialled as they are.
    pub dial: Vec<Dial>,
    /// Address of this pod -> where its application really listens.
    pub app: Vec<Dial>,
}
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    pub listen: SocketAddr,
    pub original: SocketAddr,
}
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dial {
    pub original: SocketAddr,
    pub to: SocketAddr,
}

/// Where the certificate comes from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Credentials {
    /// A directory with `ca.pem`, `cert.pem` and `key.pem`, read again when they change.
    Static { dir: PathBuf },
    /// The mesh's CA signs; authenticated by a token file.
    Ca {
        /// `host:port`.
        address: String,
        /// The identity that the CA's certificate must carry; absent: the mesh's own CA in the bundle's trust domain.
        #[serde(default)]
        identity: Option<WorkloadIdentity>,
        token: PathBuf,
        /// The first trust bundle (PEM), written by the injector.
        bundle: PathBuf,
        /// The newest bundle seen is kept here, so that a restart does not fall behind a rotation.
        #[serde(default)]
        state: Option<PathBuf>,
    },
}

/// What to do with connections to unknown destinations while the controller cannot be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Away {
    /// Forward to the original destination as it is.
    #[default]
    Forward,
    /// Refuse. Strict workloads choose this: nothing leaves in plain text.
    Refuse,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Controller {
    /// `host:port`.
    pub address: String,
    /// The identity that the controller's certificate must carry; absent: the mesh's own controller in the bundle's trust domain.
    #[serde(default)]
    pub identity: Option<WorkloadIdentity>,
    #[serde(default)]
    pub away: Away,
}

/// Everything that a controller would say, in core's own types.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Static {
    pub services: Vec<ServicePort>,
    pub endpoints: Vec<Endpoints>,
    /// Addresses beyond those of `services` (their `addresses`) and `endpoints` (workloads). Everything else is outside.
    pub targets: Vec<StaticTarget>,
    pub inbound: InboundPolicy,
}
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticTarget {
    pub address: SocketAddr,
    pub target: Target,
}

/// Bounds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Accepted connections at one time, both directions; 0: what the file descriptor limit allows. At the limit accepting pauses.
    pub connections: usize,
    /// New mesh handshakes per second from one address; more wait their turn, and beyond one second's worth of waiting are closed.
    pub handshakes_per_source: u32,
    /// Bytes that this process may use; a quarter of it may be held for slow readers. Absent: what the container's cgroup says.
    pub memory: Option<usize>,
}
impl Default for Limits {
    fn default() -> Self {
        // 4,000/s: above what one core can complete (3,000/s measured), so an honest peer never meets it; it bounds the queue of a hostile one
        Self { connections: 0, handshakes_per_source: 4000, memory: None }
    }
}

/// Durations in milliseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// How long a lookup may take while the controller's stream is up.
    pub lookup: u64,
    /// A client that has said nothing for so long on an undeclared port may be waiting for the server's greeting.
    pub silence: u64,
    /// First bytes of a connection that must be HTTP, and from the first byte of every request's head to its end (slowloris).
    pub head: u64,
    /// TCP connect.
    pub connect: u64,
    /// TLS handshake.
    pub handshake: u64,
    /// The pod's termination grace period, counted from the start of the drain.
    pub grace: u64,
}
impl Default for Timeouts {
    fn default() -> Self {
        Self { lookup: 2_000, silence: 50, head: 10_000, connect: 5_000, handshake: 5_000, grace: 30_000 }
    }
}
/// A configured number of milliseconds.
pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
        let config: Config =
            serde_saphyr::from_str(&text).map_err(|e| ConfigError::Parse { path: path.into(), text: e.to_string() })?;
        config.check()?;
        Ok(config)
    }

    /// What the types cannot say.
    pub fn check(&self) -> Result<(), ConfigError> {
        let invalid = |field, text: &str| Err(ConfigError::Invalid { field, text: text.into() });
        if self.pod.ips.is_empty() {
            return invalid("pod.ips", "is empty; give the pod's address");
        }
        if self.workers == 0 || self.workers > 256 {
            return invalid("workers", "must be 1 to 256");
        }
        match (&self.controller, &self.fixed) {
            (Some(_), Some(_)) => return invalid("controller", "stands beside static; give one of them"),
            (None, None) => return invalid("controller", "is missing; give controller or static"),
            _ => {}
        }
        if self.controller.is_some() && self.credentials.is_none() {
            return invalid("credentials", "are missing; a controller is asked over mutual TLS");
        }
        let empty = match &self.capture {
            Capture::Kernel(k) => k.outbound.is_empty() && k.inbound.is_empty(),
            Capture::Mapped(m) => m.outbound.is_empty() && m.inbound.is_empty(),
        };
        if empty {
            return invalid("capture", "has no listener");
        }
        Ok(())
    }
}
