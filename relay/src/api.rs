//! The words between the engine and the rim.

pub use crate::pool::PoolConfig;
use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};
use weft_core::{
    endpoint::{Endpoint, MeshPeer},
    identity::WorkloadIdentity,
    service::ServiceRef,
};

/// Names a connection of one engine. A key that outlives its connection is harmless: every call with it does nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnKey {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}
impl fmt::Debug for ConnKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}.{}", self.index, self.generation)
    }
}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wire {
    Http1,
    /// HTTP/2 in plain text with prior knowledge.
    Http2,
    /// `weft/h2`: HTTP/2 between the proxies of the mesh, inside mutual TLS. Its `weft-*` fields are believed.
    Mesh,
}
impl Wire {
    /// Many exchanges share a connection.
    pub fn multiplexed(self) -> bool {
        self != Wire::Http1
    }
}

/// Whose connection it is, and what its requests mean.
#[derive(Clone, Debug)]
pub enum Side {
    /// The application of this pod dialled a Service port.
    Outbound { service: ServiceRef },
    /// The application of this pod dialled a pod: no routes of Services apply.
    Workload(Arc<Endpoint>),
    /// Somebody dialled this pod.
    Inbound {
        /// Where the application listens.
        app: SocketAddr,
        /// Who dialled, as TLS has proven; `None` on plain text.
        peer: Option<WorkloadIdentity>,
    },
}

/// A connection that was accepted and whose protocol is known.
#[derive(Clone, Debug)]
pub struct Accept {
    pub side: Side,
    pub wire: Wire,
    /// Who dialled.
    pub client: SocketAddr,
    /// What was dialled, before capture.
    pub original: SocketAddr,
}

/// What the rim has to do. Keys of [`Command::Dial`] are new connections; the answer is `connected` or `dial_failed`.
#[derive(Clone, Debug)]
pub enum Command {
    Dial {
        conn: ConnKey,
        to: SocketAddr,
        /// With mutual TLS to this peer; `None`: plain text.
        tls: Option<MeshPeer>,
        wire: Wire,
    },
    /// It has output, or its read interest may have changed: run its task. Given at most once until the task has called `take_output`.
    Wake(ConnKey),
    /// Write what `take_output` still gives, then close as told. The key is dead once the output was taken.
    Close { conn: ConnKey, how: CloseHow },
    /// Close at once, with a reset; drop what is not written. The key is dead.
    Reset { conn: ConnKey },
}

/// How to close once the output has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseHow {
    Now,
    /// Shut down our side, read and discard until the peer closes or this long has passed; else a reset may destroy our last bytes (RFC 9112, 9.6).
    Linger(Duration),
    /// With a reset: a body without length was cut off and must not look complete.
    Reset,
}

/// Why a dial failed. In every case no byte of a request has left, so whatever waited for it was provably not processed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    #[error("connection refused")]
    Refused,
    #[error("connect timeout")]
    Timeout,
    #[error("unreachable")]
    Unreachable,
    #[error("TLS: {0}")]
    Tls(Box<str>),
    /// The certificate is valid and of somebody else.
    #[error("{0}")]
    Identity(Box<str>),
    /// No descriptors, no certificate yet, no memory: our own fault.
    #[error("{0}")]
    Local(Box<str>),
    #[error("{0}")]
    Other(Box<str>),
}

/// Bounds of one engine. Each is a promise that the simulation checks.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Exchanges under way, mirrors included. 10,000: ten mesh connections' worth of streams; beyond it new requests get a 503.
    pub exchanges: usize,
    /// Bytes of request heads kept, over all exchanges. 16 MiB: 10,000 of the usual size, 256 of the largest.
    pub heads: usize,
    /// Streams that a peer may open on one connection (design 3.4).
    pub streams: u32,
    /// Access-log records waiting for the admin thread; more are counted and dropped.
    pub log: usize,
    /// Bytes that a connection's output may hold before its producers stop. 68 KiB: a body of 64 KiB leaves in one piece with its head and frames.
    pub output: usize,
}
impl Default for Limits {
    fn default() -> Self {
        Self { exchanges: 10_000, heads: 16 << 20, streams: 1000, log: 4096, output: 68 * 1024 }
    }
}

/// Waiting, bounded.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// From the first byte of a head to its end. 10 s (slowloris).
    pub head: Duration,
    /// Between two pieces of a request's body. 60 s.
    pub body_idle: Duration,
    /// Of an idle downstream connection. 300 s: what applications behind a sidecar expect of a Service is that it does not hang up on their pools.
    pub keep_alive: Duration,
    /// Of a mesh or h2c connection without streams. 300 s: a handshake costs 600 us.
    pub shared_idle: Duration,
    /// Output was handed to the rim and has not left. 60 s (slow reader).
    pub write: Duration,
    /// Both directions of an upgraded connection are silent. 1 h.
    pub tunnel_idle: Duration,
}
impl Default for Timeouts {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            body_idle: Duration::from_secs(60),
            keep_alive: Duration::from_secs(300),
            shared_idle: Duration::from_secs(300),
            write: Duration::from_secs(60),
            tunnel_idle: Duration::from_secs(3600),
        }
    }
}

/// What an engine is told once.
#[derive(Clone, Debug, Default)]
pub struct EngineConfig {
    /// This pod's zone, for zone preference.
    pub zone: Option<Arc<str>>,
    /// This pod's identity, named in access logs.
    pub identity: Option<WorkloadIdentity>,
    pub limits: Limits,
    pub timeouts: Timeouts,
    pub pool: PoolConfig,
    /// What all workers of the process share. `None`: this engine is the only one.
    pub shared: Option<Arc<crate::engine::Shared>>,
    /// Keep a [`Record`](crate::Record) of each exchange for [`Engine::take_log`](crate::Engine::take_log).
    pub access_log: bool,
}
