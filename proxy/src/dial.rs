//! Dialling what the engine asks for.

use crate::{
    config::ms,
    opaque,
    wire::{Read, Wire, WireError},
    worker::Worker,
};
use std::{io, net::SocketAddr};
use tokio::time::timeout;
use weft_core::endpoint::MeshPeer;
use weft_identity::{Alpn, HandshakeFailure, Refusal};
use weft_relay::DialError;

/// Opens a connection: plain text, or the mesh's TLS with `peer` expected at the other end. Every failure says why in the engine's words.
pub async fn open(w: &Worker, to: SocketAddr, peer: Option<&MeshPeer>) -> Result<Wire, DialError> {
    // the engine dials the application by the pod's address, as it does other pods
    let at = if w.shared.is_own_pod(to) { w.shared.net.app(to) } else { w.shared.net.dial(to) };
    // before the socket: without a certificate there is nothing to dial for
    let session = match peer {
        Some(peer) => {
            Some(opaque::session(w, to, peer, Alpn::MeshHttp).map_err(|e| DialError::Local(e.to_string().into()))?)
        }
        None => None,
    };
    let sock = opaque::tcp(w, at).await.map_err(|e| match e {
        opaque::DialError::Timeout { .. } => DialError::Timeout,
        opaque::DialError::Connect { error, .. } => match error.kind() {
            io::ErrorKind::ConnectionRefused => DialError::Refused,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => DialError::Unreachable,
            io::ErrorKind::TimedOut => DialError::Timeout,
            // no descriptors, no ports, no memory
            _ if matches!(error.raw_os_error(), Some(24 | 23 | 99 | 105 | 12)) => {
                DialError::Local(error.to_string().into())
            }
            _ => DialError::Other(error.to_string().into()),
        },
        e => DialError::Other(e.to_string().into()),
    })?;
    let Some(session) = session else { return Ok(Wire::plain(sock, Vec::new())) };
    let mut wire = Wire::tls(sock, session, Vec::new());
    let limit = ms(w.shared.config.timeouts.handshake);
    let handshake = async {
        wire.flush_now().await?;
        while wire.is_handshaking() {
            // a client's peer says nothing inside the session before our preface
            if wire.read_into(&mut Vec::new()).await? == Read::Eof {
                return Err(WireError::Truncated);
            }
        }
        Ok(())
    };
    let s = &w.shared.stats;
    let failed = match timeout(limit, handshake).await {
        Ok(Ok(())) => match wire.session().and_then(|t| t.alpn_protocol()) {
            Some(p) if p == Alpn::MeshHttp.wire() => {
                s.handshakes_client.one();
                return Ok(wire);
            }
            _ => "the peer does not speak weft/h2".into(),
        },
        Ok(Err(WireError::Tls(e))) => match HandshakeFailure::of_tls(&e) {
            HandshakeFailure::Refused(r @ (Refusal::WrongIdentity { .. } | Refusal::WrongTrustDomain { .. })) => {
                s.handshakes_client_failed.one();
                return Err(DialError::Identity(r.to_string().into()));
            }
            why => why.to_string(),
        },
        Ok(Err(e)) => e.to_string(),
        Err(_) => HandshakeFailure::TimedOut.to_string(),
    };
    s.handshakes_client_failed.one();
    Err(DialError::Tls(failed.into()))
}
