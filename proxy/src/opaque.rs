//! Opaque connections: choosing the far end, dialling it, in plain or in the mesh's TLS, and trying another endpoint while the application has seen nothing.
//!
//! ```text
//! Target -> rule (SNI) -> backend (weight) -> endpoint (picker) -> dial -> [TLS weft/tcp, preamble, first bytes, answer] -> relay
//! ```
//!
//! The client's first bytes travel with the handshake's last flight and are kept until the peer says that its application was reached, so a retry loses nothing.

use crate::{
    config::ms,
    net,
    picker::{self, Load},
    preamble::{self, Status},
    stats::TcpLabel,
    tcp::{Carried, End, Relay},
    wire::{Read, Wire, WireError},
    worker::{Forbidden, Worker},
};
use rand::Rng;
use rustls::{ClientConnection, Connection};
use std::{
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::timeout;
use weft_core::{
    endpoint::{Endpoint, MeshPeer},
    identity::WorkloadIdentity,
    route::{self, BackendRef, Routes},
    service::ServicePort,
};
use weft_identity::{Alpn, HandshakeFailure};

/// Tries to different endpoints before a connection is given up.
const TRIES: usize = 3;

/// Where an opaque connection goes.
pub enum Dest {
    /// To this address as it is, in plain.
    Address(SocketAddr),
    /// To a workload that was dialled by its own address.
    Endpoint(Arc<Endpoint>),
    /// To an endpoint of a Service port.
    Service(Arc<ServicePort>, Option<Box<str>>),
}

/// Why there is no far end.
#[derive(Debug, thiserror::Error)]
pub enum NoWay {
    #[error("no route takes SNI {0:?}")]
    NoRoute(Option<Box<str>>),
    #[error("backend is invalid: {0}")]
    Invalid(weft_core::cause::Invalid),
    #[error("no backend has a weight")]
    NoBackend,
    #[error("{service}: 0 of {all} endpoints ready")]
    NoEndpoint { service: Box<str>, all: u32 },
    #[error("{0}")]
    Dial(#[from] DialError),
}

/// Why a dial failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("{to}: {error}")]
    Connect { to: SocketAddr, error: io::Error },
    #[error("{to}: no answer within {after:?}")]
    Timeout { to: SocketAddr, after: Duration },
    #[error("{to}: {error}")]
    Tls { to: SocketAddr, error: HandshakeFailure },
    #[error("{to}: {error}")]
    Wire { to: SocketAddr, error: WireError },
    #[error("{to}: the peer's proxy answered {status:?}")]
    Answer { to: SocketAddr, status: Status },
    #[error("{to} is meshed, and this proxy has no certificate")]
    NoCredentials { to: SocketAddr },
    #[error("{to}: {error}")]
    Credentials { to: SocketAddr, error: weft_identity::CredentialsError },
}

/// A far end, ready.
pub struct Up {
    pub wire: Wire,
    /// What the server has already said.
    pub first: Vec<u8>,
    pub label: TcpLabel,
    load: Option<Load>,
    /// Of an inbound connection.
    caller: Option<Caller>,
}

/// Who called, and which port of the application: what policies judge a byte stream by.
pub struct Caller {
    pub peer: Option<WorkloadIdentity>,
    pub port: u16,
}

/// Finds and dials the far end of a connection to `original`. `early` are the client's first bytes; they have been sent when this returns.
pub async fn connect(w: &Rc<Worker>, dest: Dest, original: SocketAddr, early: &[u8]) -> Result<Up, NoWay> {
    let label = |parent: &str, route: &str, backend: &str, mtls| TcpLabel {
        direction: "outbound",
        parent: parent.into(),
        route: route.into(),
        backend: backend.into(),
        mtls,
    };
    match dest {
        Dest::Address(to) => {
            let (wire, first) = plain(w, w.shared.net.dial(to), early).await?;
            Ok(Up { wire, first, label: label("outside", "", "", false), load: None, caller: None })
        }
        Dest::Endpoint(e) => {
            let load = Some(w.picker.enter(e.address));
            let (wire, first) = endpoint(w, &e, early).await?;
            Ok(Up { wire, first, label: label("workload", "", &e.workload, e.mesh.is_some()), load, caller: None })
        }
        Dest::Service(port, sni) => {
            let (backend, route) = match &port.routes {
                Routes::Stream(rules) => {
                    let Some(rule) = route::stream_rule(rules, sni.as_deref()) else {
                        return Err(NoWay::NoRoute(sni));
                    };
                    // an invalid backend keeps its share: that many connections are refused
                    let backend = match route::draw(&rule.backends, w.rng.borrow_mut().random()) {
                        None => return Err(NoWay::NoBackend),
                        Some((_, b)) => match &b.backend {
                            BackendRef::Invalid(why) => return Err(NoWay::Invalid(why.clone())),
                            BackendRef::Service(s) => s.clone(),
                        },
                    };
                    (backend, format!("{}/{}", rule.route.namespace, rule.route.name))
                }
                _ => (port.service.clone(), String::new()),
            };
            let mut tried: Vec<SocketAddr> = Vec::new();
            let key = || picker::affinity_key(&w.shared.config.pod.uid);
            let affinity = port.affinity.map(|_| key());
            let ipv6 = original.ip().to_canonical().is_ipv6();
            let mut last = None;
            loop {
                let Some(set) = w.view.endpoints(&backend) else {
                    return Err(NoWay::NoEndpoint { service: backend.to_string().into(), all: 0 });
                };
                let zone = w.shared.config.pod.zone.as_deref();
                let affinity = affinity.or_else(|| set.policy.affinity.map(|_| key()));
                let choice = picker::Choice { zone, tried: &tried, affinity, ipv6 };
                let found = w.picker.pick(&set, choice, &mut w.rng.borrow_mut());
                let Some(e) = found.filter(|_| tried.len() < TRIES) else {
                    let all = set.endpoints.len() as u32 + set.not_ready;
                    return Err(
                        last.map_or(NoWay::NoEndpoint { service: backend.to_string().into(), all }, NoWay::Dial)
                    );
                };
                let load = Some(w.picker.enter(e.address));
                match endpoint(w, &e, early).await {
                    Ok((wire, first)) => {
                        let label = label(&port.service.to_string(), &route, &backend.to_string(), e.mesh.is_some());
                        return Ok(Up { wire, first, label, load, caller: None });
                    }
                    Err(error) => {
                        tracing::debug!(service = %backend, %error, "opaque connection: endpoint failed");
                        tried.push(e.address);
                        last = Some(error);
                    }
                }
            }
        }
    }
}

/// Dials an endpoint: plain, or in TLS with its identity expected. A meshed endpoint is never spoken to in plain.
async fn endpoint(w: &Rc<Worker>, e: &Endpoint, early: &[u8]) -> Result<(Wire, Vec<u8>), DialError> {
    let r = match &e.mesh {
        _ if w.shared.is_own_pod(e.address) => plain(w, w.shared.net.app(e.address), early).await,
        None => plain(w, w.shared.net.dial(e.address), early).await,
        Some(peer) => mesh(w, w.shared.net.dial(e.address), peer, early).await,
    };
    if r.is_err() {
        w.shared.stats.dial_failed.one();
    }
    r
}

/// A TCP connection within the configured time.
pub async fn tcp(w: &Worker, to: SocketAddr) -> Result<tokio::net::TcpStream, DialError> {
    let after = ms(w.shared.config.timeouts.connect);
    match timeout(after, net::dial(to)).await {
        Ok(Ok(s)) => Ok(s),
        Ok(Err(error)) => Err(DialError::Connect { to, error }),
        Err(_) => Err(DialError::Timeout { to, after }),
    }
}

/// A TCP connection, for as long as the caller waits.
pub async fn dial_plain(to: SocketAddr) -> io::Result<tokio::net::TcpStream> {
    net::dial(to).await
}

/// Dials in plain text and sends `early`.
pub async fn plain(w: &Worker, to: SocketAddr, early: &[u8]) -> Result<(Wire, Vec<u8>), DialError> {
    let mut wire = Wire::plain(tcp(w, to).await?, Vec::new());
    wire.push(early);
    Ok((wire, Vec::new()))
}

/// A TLS session of the mesh towards `peer`; the handshake has not begun.
pub fn session(w: &Worker, to: SocketAddr, peer: &MeshPeer, alpn: Alpn) -> Result<Connection, DialError> {
    let cell = w.shared.cell.as_ref().and_then(|c| c.credentials());
    let credentials = cell.ok_or(DialError::NoCredentials { to })?;
    let bad = |error| DialError::Credentials { to, error };
    let config = w.clients.borrow_mut().get(&credentials, &peer.identity, alpn).map_err(bad)?;
    let name = weft_identity::credentials::server_name(&peer.uid).map_err(bad)?;
    let c =
        ClientConnection::new(config, name).map_err(|e| DialError::Tls { to, error: HandshakeFailure::of_tls(&e) })?;
    Ok(c.into())
}

async fn mesh(w: &Worker, to: SocketAddr, peer: &MeshPeer, early: &[u8]) -> Result<(Wire, Vec<u8>), DialError> {
    let session = session(w, to, peer, Alpn::MeshTcp)?;
    let mut wire = Wire::tls(tcp(w, to).await?, session, Vec::new());
    wire.push(&preamble::request());
    wire.push(early);
    // handshake, and the peer's own dial to its application
    let after = ms(w.shared.config.timeouts.handshake + w.shared.config.timeouts.connect);
    let mut first = Vec::new();
    let answered = timeout(after, async {
        wire.flush_now().await?;
        loop {
            let was = wire.is_handshaking();
            let r = wire.read_into(&mut first).await?;
            if was && !wire.is_handshaking() {
                w.shared.stats.handshakes_client.one();
            }
            match preamble::parse_answer(&first).map_err(|e| WireError::Io(io::Error::other(e)))? {
                Some((status, n)) => {
                    first.drain(..n);
                    return Ok(status);
                }
                None if r == Read::Eof => return Err(WireError::Truncated),
                None => {}
            }
        }
    })
    .await;
    let status = match answered {
        Ok(Ok(status)) => status,
        Ok(Err(WireError::Tls(e))) => {
            w.shared.stats.handshakes_client_failed.one();
            return Err(DialError::Tls { to, error: HandshakeFailure::of_tls(&e) });
        }
        Ok(Err(error)) => return Err(DialError::Wire { to, error }),
        Err(_) => return Err(DialError::Timeout { to, after }),
    };
    match status {
        Status::Connected => Ok((wire, first)),
        status => Err(DialError::Answer { to, status }),
    }
}

impl Up {
    /// The far end of a connection that somebody else opened to this pod.
    pub fn inbound(wire: Wire, first: Vec<u8>, label: TcpLabel, caller: Caller) -> Up {
        Up { wire, first, label, load: None, caller: Some(caller) }
    }
}

/// Relays between a client and a far end that has been reached, in a task of its own: it is smaller than the one that accepted.
/// `early` of the client's bytes have been sent already.
pub fn run(w: &Rc<Worker>, mut down: Wire, up: Up, early: usize) {
    let Up { wire, first, label, load, caller } = up;
    down.push(&first);
    let stats = w.shared.stats.tcp(label.clone());
    let line = w.shared.log.is_on().then(|| Line::new(&down, label));
    let relay = Relay::new(down, wire, stats, Carried { sent: early as u64, received: first.len() as u64 });
    drop(first);
    let own = w.clone();
    let running = Running::new(w);
    w.spawn(async move {
        let _running = running;
        let ended = if let Some(Caller { peer, port }) = &caller {
            // a change of policy judges what is open again (design 3.4); boxed, so that the others do not carry the room for it
            let forbidden = Box::pin(own.forbidden(peer.as_ref(), *port));
            tokio::select! {
                r = relay.run() => Ok(r),
                why = forbidden => Err(why),
            }
        } else {
            Ok(relay.run().await)
        };
        let (end, carried) = match ended {
            Ok(ended) => ended,
            Err(Forbidden::PlainText) => return own.shared.stats.refused_plain_text.one(),
            Err(Forbidden::Denied) => return own.shared.stats.refused_denied.one(),
        };
        if let End::Broken(error) = &end {
            tracing::debug!(%error, "opaque connection broken");
        }
        if let Some(line) = line {
            own.shared.log.line(line.end(&end, carried));
        }
        drop(load);
    });
}

/// Counts a relay while it lives: a drain waits for it.
struct Running(Rc<Worker>);
impl Running {
    fn new(w: &Rc<Worker>) -> Running {
        w.relays.set(w.relays.get() + 1);
        Running(w.clone())
    }
}
impl Drop for Running {
    fn drop(&mut self) {
        self.0.relays.set(self.0.relays.get() - 1);
    }
}

/// An access-log line in the making; boxed by the log's being off in most pods.
struct Line(Box<(SystemTime, Option<SocketAddr>, TcpLabel)>);

impl Line {
    fn new(down: &Wire, label: TcpLabel) -> Line {
        Line(Box::new((SystemTime::now(), down.socket().peer_addr().ok(), label)))
    }
    fn end(self, end: &End, c: Carried) -> Box<str> {
        let (began, client, l) = *self.0;
        serde_json::json!({
            "time": began.duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64()),
            "kind": "tcp",
            "direction": l.direction,
            "client": client,
            "parent": l.parent,
            "route": l.route,
            "backend": l.backend,
            "mtls": l.mtls,
            "sent": c.sent,
            "received": c.received,
            "duration_ms": began.elapsed().map_or(0, |d| d.as_millis() as u64),
            "error": match end { End::Clean => None, End::Broken(e) => Some(e.to_string()) },
        })
        .to_string()
        .into()
    }
}
