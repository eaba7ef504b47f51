//! The controller's side: authenticated streams, each with its subscriptions.
//!
//! Nothing queues for a slow proxy but the names of what changed since it last took something: memory is bounded by its subscriptions,
//! and it always gets the newest value.

pub mod accept;
mod encode;
mod provider;
mod session;

pub use provider::{Change, Changes, Peer, PeerStatus, Provider};

use crate::{
    proto::{self, ControllerMessage, ProxyMessage, discovery_server},
    trust::Confirmations,
};
use accept::{AcceptSettings, PeerInfo};
use encode::Encoder;
use std::{
    pin::Pin,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc},
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use weft_identity::CredentialCell;

/// Limits of a server.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    pub accept: AcceptSettings,
    /// Streams in all.
    pub streams: usize,
    /// Subscriptions of one stream. A pod that talks to a thousand Services needs about three thousand.
    pub subscriptions: usize,
    /// Changes that follow each other within this time go out together; the first after quiet goes at once.
    pub debounce: Duration,
    /// A proxy that takes nothing for so long is dropped; it comes back and states what it has.
    pub stall: Duration,
}
impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            accept: AcceptSettings::default(),
            streams: 10_000,
            subscriptions: 10_000,
            debounce: Duration::from_millis(10),
            stall: Duration::from_secs(30),
        }
    }
}

/// Serves a [`Provider`].
pub struct DiscoveryServer<P> {
    shared: Arc<Shared<P>>,
}
struct Shared<P> {
    provider: Arc<P>,
    settings: ServerSettings,
    encoder: Encoder,
    streams: Arc<Semaphore>,
    confirmations: Confirmations,
    ids: AtomicU64,
    stop: CancellationToken,
}
impl<P> Clone for DiscoveryServer<P> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<P: Provider> DiscoveryServer<P> {
    pub fn new(provider: Arc<P>, settings: ServerSettings) -> Self {
        let streams = Arc::new(Semaphore::new(settings.streams));
        let stop = CancellationToken::new();
        let confirmations = Confirmations::default();
        let (encoder, ids) = (Encoder::default(), AtomicU64::new(0));
        Self { shared: Arc::new(Shared { provider, settings, encoder, streams, confirmations, ids, stop }) }
    }

    /// What the connected proxies say they use.
    pub fn confirmations(&self) -> Confirmations {
        self.shared.confirmations.clone()
    }

    /// Serves until `stop`, then ends the streams (proxies go to another replica) and returns. The certificate that is shown is the
    /// one in `cell` at each handshake; until there is one, connections wait in the backlog.
    pub async fn serve(&self, listener: TcpListener, cell: CredentialCell, stop: CancellationToken) {
        let settings = &self.shared.settings;
        let incoming = accept::incoming(listener, cell, false, settings.accept.clone(), stop.clone());
        let service = discovery_server::DiscoveryServer::new(self.clone()).max_decoding_message_size(MAX_MESSAGE);
        let ending = self.shared.stop.clone();
        let served = accept::http2().add_service(service).serve_with_incoming_shutdown(incoming, async move {
            stop.cancelled().await;
            ending.cancel();
        });
        if let Err(e) = served.await {
            tracing::error!(error = %e, "discovery server ended");
        }
    }
}

/// The largest message from a proxy: 500 subscriptions with the longest names stay below it.
const MAX_MESSAGE: usize = 1 << 20;
/// Messages between a stream's task and its connection. Few: what waits here is no longer the newest.
const OUTGOING: usize = 8;

#[tonic::async_trait]
impl<P: Provider> discovery_server::Discovery for DiscoveryServer<P> {
    type DiscoverStream = Pin<Box<dyn Stream<Item = Result<ControllerMessage, Status>> + Send>>;

    async fn discover(
        &self,
        request: Request<Streaming<ProxyMessage>>,
    ) -> Result<Response<Self::DiscoverStream>, Status> {
        let info = request
            .extensions()
            .get::<PeerInfo>()
            .cloned()
            .ok_or_else(|| Status::internal("connection without peer information"))?;
        if info.identity.is_none() {
            return Err(Status::unauthenticated("a client certificate of the mesh is required"));
        }
        let permit = self
            .shared
            .streams
            .clone()
            .try_acquire_owned()
            .map_err(|_| Status::resource_exhausted("this controller serves as many proxies as it may"))?;
        let (out, outgoing) = mpsc::channel(OUTGOING);
        let shared = self.shared.clone();
        let incoming = request.into_inner();
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(status) = session::run(&shared, info, incoming, &out).await {
                // nobody reads it when the connection is gone
                let _ = out.try_send(Err(status));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

fn controller_message(kind: proto::controller_message::Kind) -> ControllerMessage {
    ControllerMessage { kind: Some(kind) }
}
