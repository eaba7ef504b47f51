//! Accepting TLS connections of the control plane: bounded, concurrent handshakes, and the peer's identity beside each connection.
//! The CA uses it, too.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, Sleep, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::Connected};
use weft_identity::{
    CredentialCell, HandshakeFailure, WorkloadIdentity, der,
    limit::Limiter,
    peer_identity,
    provider::{self, Clock},
};

/// Told of a failed handshake, and of the source.
pub type OnFailure = Arc<dyn Fn(SocketAddr, &HandshakeFailure) + Send + Sync>;

/// Limits of accepting.
#[derive(Clone)]
pub struct AcceptSettings {
    /// Connections in all.
    pub connections: usize,
    /// Handshakes at a time. Each costs 200 us of a core and some 10 KiB.
    pub handshakes: usize,
    pub handshake_timeout: Duration,
    /// Handshakes of one source address: so many at once, then one for each duration. Beyond that connections are closed unread.
    pub per_source: (u32, Duration),
    /// How long a client without a certificate may stay: it comes for one and leaves. Without this, anybody could hold all connections.
    pub anonymous_life: Duration,
    /// Told of each failed handshake: for metrics.
    pub failed: Option<OnFailure>,
}
impl std::fmt::Debug for AcceptSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AcceptSettings")
            .field("connections", &self.connections)
            .field("handshakes", &self.handshakes)
            .finish_non_exhaustive()
    }
}
impl Default for AcceptSettings {
    fn default() -> Self {
        Self {
            connections: 20_000,
            handshakes: 64,
            handshake_timeout: Duration::from_secs(5),
            // a pod makes a few an hour; hundreds of a second are a node behind one address that restarts, or a flood
            per_source: (1000, Duration::from_millis(5)),
            anonymous_life: Duration::from_secs(30),
            failed: None,
        }
    }
}

/// Who is at the other end of a connection; found in the extensions of its requests.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    pub remote: SocketAddr,
    /// Of the verified client certificate; `None`: it presented none (only where that is allowed).
    pub identity: Option<WorkloadIdentity>,
    /// When its certificate expires; far away when it has none.
    pub expires: Instant,
}

/// A connection after its handshake.
pub struct TlsIo {
    inner: TlsStream<TcpStream>,
    info: PeerInfo,
    /// When it ends, whatever it does.
    end: Option<Pin<Box<Sleep>>>,
    _permit: OwnedSemaphorePermit,
}
impl Connected for TlsIo {
    type ConnectInfo = PeerInfo;
    fn connect_info(&self) -> PeerInfo {
        self.info.clone()
    }
}
impl AsyncRead for TlsIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.end.as_mut().is_some_and(|end| end.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}
impl AsyncWrite for TlsIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

/// The HTTP/2 server of the control plane: few streams and small windows for each connection, dead peers noticed within 15 s.
pub fn http2() -> Server {
    Server::builder()
        .max_concurrent_streams(8)
        .initial_stream_window_size(64 << 10)
        .initial_connection_window_size(256 << 10)
        .http2_max_header_list_size(16 << 10)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
}

/// Connections whose handshake succeeded. The certificate shown is the one in `cell` at that moment; until there is one, connections wait.
/// `anonymous`: clients without a certificate are let in, too. Ends on `stop`.
pub fn incoming(
    listener: TcpListener,
    cell: CredentialCell,
    anonymous: bool,
    settings: AcceptSettings,
    stop: CancellationToken,
) -> ReceiverStream<io::Result<TlsIo>> {
    let (out, incoming) = mpsc::channel(16);
    tokio::spawn(async move {
        tokio::select! {
            () = accept_all(listener, cell, anonymous, settings, out) => {}
            () = stop.cancelled() => {}
        }
    });
    ReceiverStream::new(incoming)
}

async fn accept_all(
    listener: TcpListener,
    cell: CredentialCell,
    anonymous: bool,
    settings: AcceptSettings,
    out: mpsc::Sender<io::Result<TlsIo>>,
) {
    let connections = Arc::new(Semaphore::new(settings.connections));
    let handshakes = Arc::new(Semaphore::new(settings.handshakes));
    let sources = Limiter::new(settings.per_source.0, settings.per_source.1, 50_000);
    cell.ready().await;
    loop {
        // what is beyond the limits waits in the kernel's backlog
        let Ok(connection) = connections.clone().acquire_owned().await else { return };
        let Ok(handshake) = handshakes.clone().acquire_owned().await else { return };
        let (tcp, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(e) => {
                // out of file descriptors, or a connection that was gone before it was accepted
                tracing::warn!(error = %e, "accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        if !sources.admit(remote.ip(), std::time::Instant::now()) {
            if let Some(failed) = &settings.failed {
                failed(remote, &HandshakeFailure::RateLimited);
            }
            continue;
        }
        let config = cell.credentials().map(|c| (c.control_server(anonymous), c.clock().clone()));
        let (settings, out) = (settings.clone(), out.clone());
        tokio::spawn(async move {
            let Some((Ok(config), clock)) = config else { return };
            let result = timeout(settings.handshake_timeout, TlsAcceptor::from(config).accept(tcp))
                .await
                .map_err(|_| HandshakeFailure::TimedOut)
                .and_then(|r| r.map_err(|e| HandshakeFailure::of(&e)));
            drop(handshake);
            match result {
                Ok(inner) => {
                    let info = info(&inner, remote, &clock);
                    let end = info.identity.is_none().then(|| Box::pin(sleep(settings.anonymous_life)));
                    let io = TlsIo { inner, info, end, _permit: connection };
                    // the server is gone: so is the connection
                    let _ = out.send(Ok(io)).await;
                }
                Err(failure) => {
                    tracing::debug!(%remote, %failure, "handshake failed");
                    if let Some(failed) = &settings.failed {
                        failed(remote, &failure);
                    }
                }
            }
        });
    }
}

fn info(tls: &TlsStream<TcpStream>, remote: SocketAddr, clock: &Clock) -> PeerInfo {
    let certificates = tls.get_ref().1.peer_certificates();
    let identity = peer_identity(certificates).ok();
    let left = certificates.and_then(|c| c.first()).and_then(|leaf| der::facts(leaf).ok()).map(|facts| {
        let now = provider::now(clock).as_secs();
        facts.not_after.as_secs().saturating_sub(now)
    });
    // 30 years stand for "never"
    let expires = Instant::now() + Duration::from_secs(left.unwrap_or(u64::MAX).min(30 * 365 * 86_400));
    PeerInfo { remote, identity, expires }
}
