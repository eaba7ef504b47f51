//! The task that keeps the stream: dial, state what is known, apply what comes, tell what is wanted, come back when it breaks.

use super::{DialError, Shared, control_channel};
use crate::{
    proto::{
        self, ControllerMessage, ProxyMessage, controller_message, discovery_client::DiscoveryClient, proxy_message,
    },
    resource::{Resource, ResourceName, Version},
    wire,
};
use std::{sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use weft_identity::{CredentialCell, Credentials};

/// Revision of the protocol that this program speaks.
pub const PROTOCOL: u32 = 1;
/// Subscriptions per message: with names of 600 bytes at most a message stays below the 1 MiB that the server accepts.
const CHUNK: usize = 500;
/// The largest message from the controller: a table of 5,000 rules has some 2 MiB.
const MAX_MESSAGE: usize = 16 << 20;
/// How often unused entries are looked for, at most.
const SWEEP: Duration = Duration::from_secs(30);
/// A controller that accepts and then says nothing is as good as none.
const WELCOME: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("{0}")]
    Credentials(#[from] weft_identity::CredentialsError),
    #[error("{}: {}", .0.code(), .0.message())]
    Status(#[from] tonic::Status),
    #[error("the controller closed the stream")]
    Closed,
    #[error("the controller did not welcome us within {WELCOME:?}")]
    NoWelcome,
}

/// Why a session ended without an error.
enum End {
    /// Our leaf was renewed: the next stream uses the new one.
    Renewed,
}

pub(super) async fn run(shared: Arc<Shared>, cell: CredentialCell) {
    {
        let mut state = shared.lock();
        for name in [ResourceName::Inbound, ResourceName::Bundle] {
            state.want(&name, Instant::now());
            state.hold(&name);
        }
    }
    let mut failures = 0u32;
    let mut turn = rand::random_range(0..shared.settings.controllers.len().max(1));
    loop {
        let credentials = cell.ready().await;
        let Some(address) = shared.settings.controllers.get(turn % shared.settings.controllers.len().max(1)) else {
            tracing::error!("no controller address is configured");
            return std::future::pending().await;
        };
        let was_up = *shared.connected.borrow();
        let mut welcomed = false;
        let end = session(&shared, &cell, &credentials, address, &mut welcomed).await;
        if welcomed {
            failures = 0;
        }
        match end {
            // the stream counts as up while the planned reconnection is tried once
            Ok(End::Renewed) => continue,
            Err(e) => {
                if was_up || welcomed || failures == 0 {
                    tracing::warn!(controller = %address, error = %e, "discovery stream lost");
                }
                shared.connected.send_if_modified(|up| std::mem::replace(up, false));
            }
        }
        turn = turn.wrapping_add(1);
        // full jitter over a doubling window: thousands of proxies do not come back together
        let s = &shared.settings;
        let window = s.backoff.saturating_mul(1 << failures.min(16)).min(s.backoff_max);
        failures += 1;
        tokio::time::sleep(window.mul_f64(rand::random::<f64>())).await;
    }
}

async fn session(
    shared: &Arc<Shared>,
    cell: &CredentialCell,
    credentials: &Arc<Credentials>,
    address: &str,
    welcomed: &mut bool,
) -> Result<End, StreamError> {
    let s = &shared.settings;
    let channel = control_channel(address, credentials.control_client(&s.controller_identity)?).await?;
    let (out, outgoing) = mpsc::channel::<ProxyMessage>(64);
    let mut cell_changes = cell.subscribe();
    cell_changes.mark_changed();

    let hello = proto::Hello {
        uid: s.uid.to_string(),
        workload: s.workload.to_string(),
        namespace: s.namespace.to_string(),
        addresses: s.addresses.iter().map(|a| wire::ip_bytes(*a)).collect(),
        zone: s.zone.as_deref().unwrap_or_default().to_string(),
        version: s.version.clone(),
        protocol: PROTOCOL,
    };
    // the capacity is larger than one message: the first send cannot block
    let _ = out.send(message(proxy_message::Kind::Hello(hello))).await;
    let mut client = DiscoveryClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let call = client.discover(ReceiverStream::new(outgoing));
    let mut incoming = tokio::time::timeout(WELCOME, call).await.map_err(|_| StreamError::NoWelcome)??.into_inner();
    let first = tokio::time::timeout(WELCOME, incoming.message()).await.map_err(|_| StreamError::NoWelcome)??;
    match first.and_then(|m| m.kind) {
        Some(controller_message::Kind::Welcome(w)) => {
            tracing::info!(controller = %address, version = %w.version, protocol = w.protocol, "discovery stream up");
        }
        _ => return Err(StreamError::Closed),
    }
    *welcomed = true;

    let all = shared.lock().restate();
    let mut pending: std::collections::VecDeque<ProxyMessage> = subscriptions(all).collect();
    shared.connected.send_if_modified(|up| !std::mem::replace(up, true));
    let mut sweep = tokio::time::interval(SWEEP.min(s.idle / 2).max(Duration::from_millis(1)));
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        if pending.is_empty() {
            let outbox = shared.lock().take_outbox();
            pending.extend(subscriptions(outbox.subscribe));
            for names in outbox.unsubscribe.chunks(CHUNK) {
                let names = names.iter().map(|n| n.into()).collect();
                pending.push_back(message(proxy_message::Kind::Unsubscribe(proto::Unsubscribe { names })));
            }
            for (name, version) in outbox.acks {
                let ack = proto::Ack { name: Some((&name).into()), version: version.0.to_vec() };
                pending.push_back(message(proxy_message::Kind::Ack(ack)));
            }
            for (name, version, mut reason) in outbox.nacks {
                truncate(&mut reason, 1024);
                let nack = proto::Nack { name: Some((&name).into()), version: version.0.to_vec(), reason };
                pending.push_back(message(proxy_message::Kind::Nack(nack)));
            }
        }
        tokio::select! {
            m = incoming.message() => {
                let Some(m) = m? else { return Err(StreamError::Closed) };
                apply(shared, cell, m);
                shared.changed.send_modify(|n| *n += 1);
            }
            // reading goes on while writing waits: two sides that both wait for room would wait forever
            permit = out.reserve(), if !pending.is_empty() => {
                let permit = permit.map_err(|_| StreamError::Closed)?;
                if let Some(m) = pending.pop_front() {
                    permit.send(m);
                }
            }
            () = shared.wake.notified(), if pending.is_empty() => {}
            _ = cell_changes.changed() => {
                let now = cell_changes.borrow_and_update().clone();
                let Some(current) = now.credentials else { continue };
                if current.serial() != credentials.serial() || current.issuer() != credentials.issuer() {
                    return Ok(End::Renewed);
                }
                let status = proto::Status {
                    bundle_version: now.bundle.version(),
                    leaf_issuer: current.issuer().to_vec(),
                    leaf_not_after: current.not_after().as_secs() as i64,
                };
                pending.push_back(message(proxy_message::Kind::Status(status)));
            }
            _ = sweep.tick() => shared.lock().sweep(Instant::now(), s.idle),
        }
    }
}

fn message(kind: proxy_message::Kind) -> ProxyMessage {
    ProxyMessage { kind: Some(kind) }
}

fn subscriptions(all: Vec<(ResourceName, Version)>) -> impl Iterator<Item = ProxyMessage> {
    let one = |(name, version): &(ResourceName, Version)| proto::Subscription {
        name: Some(name.into()),
        version: if *version == Version::default() { Vec::new() } else { version.0.to_vec() },
    };
    let chunks: Vec<Vec<_>> = all.chunks(CHUNK).map(|c| c.iter().map(one).collect()).collect();
    let subscribe = |subscriptions| message(proxy_message::Kind::Subscribe(proto::Subscribe { subscriptions }));
    chunks.into_iter().map(subscribe)
}

fn truncate(text: &mut String, max: usize) {
    let mut at = max.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    text.truncate(at);
}

/// One message of the controller. What cannot be read is refused alone; everything else goes on.
fn apply(shared: &Shared, cell: &CredentialCell, m: ControllerMessage) {
    let now = Instant::now();
    match m.kind {
        Some(controller_message::Kind::Update(update)) => {
            let Ok(name) = wire::name(update.name) else {
                tracing::warn!("the controller sent an update without a name that is known here");
                return;
            };
            let version = Version::of(&update.resource);
            let read = wire::decode(&update.resource).map_err(|e| e.to_string()).and_then(|resource| {
                if !resource.belongs_to(&name) {
                    return Err(format!("the value is not of {name}"));
                }
                if let Resource::Bundle(bundle) = &resource {
                    cell.install_bundle(bundle.clone()).map_err(|e| e.to_string())?;
                }
                Ok(resource)
            });
            let mut state = shared.lock();
            match read {
                Ok(resource) => state.apply(name, version, resource, now),
                Err(reason) => {
                    tracing::warn!(resource = %name, reason, "refused; the last good value stays");
                    state.refuse(name, version, reason, now);
                }
            }
        }
        Some(controller_message::Kind::Removed(removed)) => {
            if let Ok(name) = wire::name(removed.name) {
                shared.lock().remove(&name, None, now);
            }
        }
        Some(controller_message::Kind::Refused(refused)) => {
            if let Ok(name) = wire::name(refused.name) {
                tracing::warn!(resource = %name, reason = refused.reason, "the controller does not serve it");
                shared.lock().remove(&name, Some(refused.reason.into()), now);
            }
        }
        // a newer controller may say more than we know
        Some(controller_message::Kind::Welcome(_)) | None => {}
    }
}
