//! Connections to the control plane: TCP, then TLS with a verified identity, then HTTP/2.

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use std::{sync::Arc, time::Duration};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use weft_identity::{HandshakeFailure, credentials::CONTROL_NAME};

/// How long a dial may take, name resolution and handshake included.
const DIAL: Duration = Duration::from_secs(5);
/// A dead peer is noticed within `PING + PONG`: TCP alone would take minutes.
const PING: Duration = Duration::from_secs(10);
const PONG: Duration = Duration::from_secs(5);

/// Why the control plane could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("{address}: {source}")]
    Tcp { address: Box<str>, source: std::io::Error },
    #[error("{address}: {failure}")]
    Tls { address: Box<str>, failure: HandshakeFailure },
    #[error("{address}: no answer within {DIAL:?}")]
    TimedOut { address: Box<str> },
    #[error("{address}: {reason}")]
    Http2 { address: Box<str>, reason: String },
}

/// Connects once to `address` (`host:port`). The channel is dead when the connection is: reconnecting is the caller's, who knows which
/// credentials are current.
pub async fn control_channel(address: &str, tls: Arc<ClientConfig>) -> Result<Channel, DialError> {
    let dialled = async {
        let tcp =
            TcpStream::connect(address).await.map_err(|source| DialError::Tcp { address: address.into(), source })?;
        let _ = tcp.set_nodelay(true); // only a matter of speed
        let name = CONTROL_NAME.try_into().expect("a constant DNS name");
        let tls = TlsConnector::from(tls)
            .connect(name, tcp)
            .await
            .map_err(|e| DialError::Tls { address: address.into(), failure: HandshakeFailure::of(&e) })?;
        Ok(tls)
    };
    let io = match tokio::time::timeout(DIAL, dialled).await {
        Ok(io) => io?,
        Err(_) => return Err(DialError::TimedOut { address: address.into() }),
    };
    let mut io = Some(TokioIo::new(io));
    let once = tower::service_fn(move |_: http::Uri| {
        let io = io.take().ok_or_else(|| std::io::Error::other("connection lost"));
        std::future::ready(io)
    });
    Endpoint::from_static("http://control.weft")
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .keep_alive_while_idle(true)
        .connect_with_connector(once)
        .await
        .map_err(|e| DialError::Http2 { address: address.into(), reason: format!("{e:?}") })
}
