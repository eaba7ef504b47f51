//! Connections that reach the pod: the mesh's TLS is terminated, everything else is judged by policy.
//!
//! ```text
//! accept -> original port -> first bytes -> weft/h2  -> engine    -> application
//!                                           weft/tcp -> preamble  -> application
//!                                           foreign TLS, bytes    -> application (permissive), refused (strict)
//!                                           plain HTTP -> engine  -> application (permissive), exactly the probes (strict)
//! ```
//!
//! The application is dialled on the pod's address. A silent client makes the permissive side dial the application after 50 ms, since the server may speak
//! first; the strict side waits for a ClientHello and dials nothing.

use crate::{
    config::ms,
    first::{self, Gathered, Kind, Spoke},
    http,
    limits::Place,
    opaque,
    preamble::{self, Status},
    probe,
    stats::TcpLabel,
    wire::{Read, Wire, WireError},
    worker::Worker,
};
use rustls::{Connection, ServerConnection};
use std::{net::SocketAddr, rc::Rc, time::Instant};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use weft_core::{identity::WorkloadIdentity, policy::MeshTlsMode};
use weft_identity::{Alpn, HandshakeFailure, peer_identity};

/// Serves one accepted connection to its end.
pub async fn serve(w: Rc<Worker>, sock: TcpStream, place: Place, client: SocketAddr, listener: SocketAddr) {
    let wire = Wire::plain(sock, Vec::new()).hold(Some(place));
    let original = match w.shared.net.original(wire.socket(), listener) {
        Ok(a) => a,
        Err(error) => {
            tracing::warn!(%client, %error, "inbound: no original destination");
            return wire.abort();
        }
    };
    if w.shared.net.is_own(original) {
        w.shared.stats.refused_own_listener.one();
        return wire.abort();
    }
    let c = Inbound { app: w.shared.net.app(original), port: original.port(), client, original };
    if let Err(error) = c.serve(&w, wire).await {
        tracing::debug!(%client, %original, %error, "inbound: connection lost before it was served");
    }
}

/// One inbound connection.
struct Inbound {
    /// Where the application is dialled.
    app: SocketAddr,
    /// Its port, as the client dialled it.
    port: u16,
    client: SocketAddr,
    original: SocketAddr,
}

impl Inbound {
    async fn serve(&self, w: &Rc<Worker>, mut wire: Wire) -> Result<(), WireError> {
        let t = &w.shared.config.timeouts;
        let strict = w.view.inbound().tls == MeshTlsMode::Strict;
        // who may not send bytes is not connected to the application before it has shown to be HTTP
        let waits = strict || !w.allows(None, self.port, false);
        let silence = ms(if waits { t.head } else { t.silence });
        let mut buf = Vec::new();
        let kind = match first::gather(&mut wire, &mut buf, first::inbound, silence, first::UNDECIDED).await? {
            Gathered::Known(kind) => kind,
            Gathered::Late => Kind::Other,
            Gathered::Silent | Gathered::Eof if waits => {
                w.shared.stats.refused_idle.one();
                return Ok(());
            }
            Gathered::Eof => Kind::Other,
            Gathered::Silent => return self.silent(w, wire, buf).await,
        };
        self.kind(w, wire, buf, kind).await
    }

    /// Nothing from the client: its server may be the one to speak.
    async fn silent(&self, w: &Rc<Worker>, mut wire: Wire, mut buf: Vec<u8>) -> Result<(), WireError> {
        w.shared.stats.detected_silent.one();
        let Some(mut up) = self.dial(w, &[]).await else {
            wire.abort();
            return Ok(());
        };
        match first::watch(&mut wire, &mut up.wire, &mut buf, &mut up.first, first::inbound).await? {
            Spoke::Client(kind @ (Kind::Http1 | Kind::Http2 | Kind::Mesh(_))) => {
                drop(up);
                self.kind(w, wire, buf, kind).await
            }
            Spoke::Client(_) | Spoke::Server => {
                // policy may have become strict while we waited
                if w.view.inbound().tls == MeshTlsMode::Strict {
                    w.shared.stats.refused_plain_text.one();
                    wire.abort();
                    return Ok(());
                }
                if !w.allows(None, self.port, true) {
                    self.deny(w, wire);
                    return Ok(());
                }
                up.wire.push(&buf);
                opaque::run(w, wire, up, buf.len());
                Ok(())
            }
        }
    }

    async fn kind(&self, w: &Rc<Worker>, mut wire: Wire, buf: Vec<u8>, kind: Kind) -> Result<(), WireError> {
        let s = &w.shared.stats;
        let strict = w.view.inbound().tls == MeshTlsMode::Strict;
        match kind {
            Kind::Mesh(_) => self.mesh(w, wire, buf).await,
            Kind::Tls(_) if strict => {
                s.refused_foreign_tls.one();
                tracing::info!(client = %self.client, port = self.port, "inbound: refused, foreign TLS on a strict workload");
                wire.abort();
                Ok(())
            }
            Kind::Http1 if strict => {
                let policy = w.view.inbound();
                match probe::allowed(&buf, self.port, &policy.probes) {
                    true => {
                        wire.unread(buf);
                        probe::serve(w, wire, self.app).await
                    }
                    false => {
                        self.refuse_plain(w, wire);
                        Ok(())
                    }
                }
            }
            _ if strict => {
                self.refuse_plain(w, wire);
                Ok(())
            }
            Kind::Http1 | Kind::Http2 => {
                s.detected_http.one();
                wire.unread(buf);
                let speaks = if kind == Kind::Http2 { http::Speaks::Http2 } else { http::Speaks::Http1 };
                http::inbound(w, wire, self.client, self.original, None, speaks);
                Ok(())
            }
            Kind::Tls(_) | Kind::Other => {
                if kind == Kind::Other { &s.detected_other } else { &s.detected_tls }.one();
                if !w.allows(None, self.port, true) {
                    self.deny(w, wire);
                    return Ok(());
                }
                match self.dial(w, &buf).await {
                    Some(up) => opaque::run(w, wire, up, buf.len()),
                    None => wire.abort(),
                }
                Ok(())
            }
        }
    }

    fn deny(&self, w: &Worker, wire: Wire) {
        w.shared.stats.refused_denied.one();
        wire.abort();
    }

    fn refuse_plain(&self, w: &Worker, wire: Wire) {
        w.shared.stats.refused_plain_text.one();
        tracing::info!(client = %self.client, port = self.port, "inbound: refused, plain text to a strict workload");
        wire.abort();
    }

    fn caller(&self, peer: Option<WorkloadIdentity>) -> opaque::Caller {
        opaque::Caller { peer, port: self.port }
    }

    fn label(&self, mtls: bool) -> TcpLabel {
        TcpLabel {
            direction: "inbound",
            parent: format!("port:{}", self.port).into(),
            route: "".into(),
            backend: "".into(),
            mtls,
        }
    }

    async fn dial(&self, w: &Worker, early: &[u8]) -> Option<opaque::Up> {
        match opaque::plain(w, self.app, early).await {
            Ok((wire, first)) => Some(opaque::Up::inbound(wire, first, self.label(false), self.caller(None))),
            Err(error) => {
                w.shared.stats.dial_failed.one();
                tracing::info!(port = self.port, %error, "inbound: the application was not reached");
                None
            }
        }
    }

    /// Terminates the mesh's TLS.
    async fn mesh(&self, w: &Rc<Worker>, wire: Wire, buf: Vec<u8>) -> Result<(), WireError> {
        let s = &w.shared.stats;
        if w.leaving.get() {
            // before a handshake its client has sent no request, so it tries another endpoint
            wire.abort();
            return Ok(());
        }
        let _arriving = Arriving::begin(w);
        let admitted = w.rate.borrow_mut().admit(self.client.ip(), Instant::now());
        match admitted {
            Some(wait) if wait.is_zero() => {}
            Some(wait) => sleep(wait).await,
            None => {
                s.refused_handshake_rate.one();
                wire.abort();
                return Ok(());
            }
        }
        let Some(credentials) = w.shared.cell.as_ref().and_then(|c| c.credentials()) else {
            // a mesh client of a proxy without a certificate: its own proxy will report the failed handshake
            s.handshakes_server_failed.one();
            wire.abort();
            return Ok(());
        };
        let session = match credentials.mesh_server() {
            Ok(c) => ServerConnection::new(c)?,
            Err(error) => {
                s.handshakes_server_failed.one();
                tracing::error!(%error, "inbound: no TLS configuration");
                wire.abort();
                return Ok(());
            }
        };
        let mut wire = wire.secure(Connection::Server(session), buf);
        let mut early = Vec::new();
        let limit = ms(w.shared.config.timeouts.handshake);
        match timeout(limit, handshake(w, &mut wire, &mut early)).await {
            Ok(Ok(())) => s.handshakes_server.one(),
            Ok(Err(e)) => {
                s.handshakes_server_failed.one();
                if let WireError::Tls(t) = &e {
                    let why = HandshakeFailure::of_tls(t);
                    if why == HandshakeFailure::ForeignName {
                        s.refused_wrong_uid.one();
                    }
                    tracing::info!(client = %self.client, port = self.port, %why, "inbound: handshake failed");
                }
                return Ok(());
            }
            Err(_) => {
                s.handshakes_server_failed.one();
                wire.abort();
                return Ok(());
            }
        }
        let Some(session) = wire.session() else { return Ok(()) };
        let alpn = Alpn::from_wire(session.alpn_protocol());
        // parsed once for the connection; the verifier has let this chain through already
        let peer = match peer_identity(session.peer_certificates()) {
            Ok(peer) => peer,
            Err(why) => {
                tracing::warn!(client = %self.client, %why, "inbound: verified certificate without an identity");
                wire.abort();
                return Ok(());
            }
        };
        match alpn {
            Some(Alpn::MeshTcp) => self.tcp(w, wire, early, peer).await,
            _ => {
                let speaks = http::Speaks::Mesh(early);
                http::inbound(w, wire, self.client, self.original, Some(peer), speaks);
                Ok(())
            }
        }
    }

    /// `weft/tcp`: the preamble, the dial, one answer, bytes.
    async fn tcp(
        &self,
        w: &Rc<Worker>,
        mut wire: Wire,
        mut early: Vec<u8>,
        peer: WorkloadIdentity,
    ) -> Result<(), WireError> {
        let limit = ms(w.shared.config.timeouts.handshake);
        let preamble = timeout(limit, async {
            loop {
                match preamble::parse_request(&early) {
                    Ok(Some(n)) => return Ok(Some(n)),
                    Ok(None) => {}
                    Err(error) => {
                        tracing::warn!(client = %self.client, %peer, %error, "inbound: refused");
                        return Ok(None);
                    }
                }
                if wire.read_into(&mut early).await? == Read::Eof {
                    return Ok(None);
                }
            }
        })
        .await;
        let Ok(Some(n)) = preamble.unwrap_or(Ok::<_, WireError>(None)) else {
            w.shared.stats.refused_preamble.one();
            wire.abort();
            return Ok(());
        };
        early.drain(..n);
        if !w.allows(Some(&peer), self.port, true) {
            self.deny(w, wire);
            return Ok(());
        }
        let dialled = opaque::plain(w, self.app, &early).await;
        let (up, status) = match dialled {
            Ok(up) => (Some(up), Status::Connected),
            Err(opaque::DialError::Timeout { .. }) => (None, Status::Timeout),
            Err(_) => (None, Status::Unreachable),
        };
        wire.push(&preamble::answer(status));
        match up {
            Some((up, first)) => {
                let up = opaque::Up::inbound(up, first, self.label(true), self.caller(Some(peer)));
                opaque::run(w, wire, up, early.len());
            }
            None => {
                w.shared.stats.dial_failed.one();
                tracing::info!(port = self.port, ?status, "inbound: the application was not reached");
                let _ = timeout(limit, async {
                    wire.flush_all().await?;
                    std::future::poll_fn(|cx| std::task::Poll::Ready(wire.shutdown(cx))).await
                })
                .await;
            }
        }
        Ok(())
    }
}

/// Counts a handshake, and what follows it up to the engine, as under way.
struct Arriving(Rc<Worker>);
impl Arriving {
    fn begin(w: &Rc<Worker>) -> Arriving {
        w.arriving.set(w.arriving.get() + 1);
        Arriving(w.clone())
    }
}
impl Drop for Arriving {
    fn drop(&mut self) {
        self.0.arriving.set(self.0.arriving.get() - 1);
    }
}

/// Drives a server handshake to its end, one step in each turn of the worker's handshakes. Bytes behind it are appended to `early`.
async fn handshake(w: &Worker, wire: &mut Wire, early: &mut Vec<u8>) -> Result<(), WireError> {
    while wire.is_handshaking() {
        // the step itself must not wait, so the bytes are awaited before the turn
        wire.readable().await?;
        let step = w
            .handshakes
            .run(|| {
                let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
                wire.read(&mut cx, |_, d| early.extend_from_slice(d))
            })
            .await?;
        if step == Read::Eof && wire.is_handshaking() {
            return Err(WireError::Truncated);
        }
    }
    Ok(())
}
