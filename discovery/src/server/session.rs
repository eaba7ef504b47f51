//! One stream: its subscriptions, and what of them the proxy has.

use super::{Change, Peer, PeerStatus, Provider, Shared, accept::PeerInfo, controller_message};
use crate::{
    client::PROTOCOL,
    proto::{self, ControllerMessage, ProxyMessage, controller_message::Kind, proxy_message},
    resource::{Resource, ResourceName, Version},
    wire,
};
use ahash::{AHashMap, AHashSet};
use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{
    sync::{broadcast::error::RecvError, mpsc},
    time::{Instant, sleep_until, timeout},
};
use tonic::{Status, Streaming};

type Out = mpsc::Sender<Result<ControllerMessage, Status>>;

/// A proxy says hello at once.
const HELLO: Duration = Duration::from_secs(5);
/// Texts that a proxy says of itself end up in logs and dumps.
const MAX_TEXT: usize = 256;
const MAX_ADDRESSES: usize = 16;

/// What the proxy has of a name.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sent {
    /// It has heard nothing from this stream, and stated this version (or none).
    Stated(Option<Version>),
    Value(Version),
    Absent,
}

struct Session<'a, P> {
    shared: &'a Shared<P>,
    peer: Arc<Peer>,
    stream: u64,
    subscriptions: AHashMap<ResourceName, Sent>,
    /// To be looked at at once: new subscriptions.
    fresh: VecDeque<ResourceName>,
    /// To be looked at when the debounce time is over.
    changed: VecDeque<ResourceName>,
    queued: AHashSet<ResourceName>,
    refusals: VecDeque<(proto::ResourceName, String)>,
}

/// Tells the provider when the stream is over, however it ends.
struct Connected<'a, P: Provider> {
    shared: &'a Shared<P>,
    peer: Arc<Peer>,
    stream: u64,
}
impl<P: Provider> Drop for Connected<'_, P> {
    fn drop(&mut self) {
        self.shared.confirmations.remove(self.stream);
        self.shared.provider.disconnected(&self.peer);
    }
}

pub(super) async fn run<P: Provider>(
    shared: &Shared<P>,
    info: PeerInfo,
    mut incoming: Streaming<ProxyMessage>,
    out: &Out,
) -> Result<(), Status> {
    let first = timeout(HELLO, incoming.message()).await.map_err(|_| Status::deadline_exceeded("no hello"))??;
    let Some(proxy_message::Kind::Hello(hello)) = first.and_then(|m| m.kind) else {
        return Err(Status::invalid_argument("the first message is not a hello"));
    };
    if hello.protocol == 0 {
        return Err(Status::invalid_argument("hello without a protocol revision"));
    }
    let protocol = hello.protocol.min(PROTOCOL);
    let expires = info.expires;
    let peer = Arc::new(peer(info, hello)?);
    shared.provider.admit(&peer).map_err(|reason| {
        tracing::warn!(identity = %peer.identity, uid = %peer.uid, remote = %peer.remote, %reason, "proxy refused");
        Status::permission_denied(reason)
    })?;
    // before the first answer, so that nothing that happens in between is missed
    let mut changes = shared.provider.changes();
    shared.provider.connected(&peer);
    let stream = shared.ids.fetch_add(1, Ordering::Relaxed);
    shared.confirmations.set(stream, None);
    let _connected = Connected { shared, peer: peer.clone(), stream };
    let welcome = proto::Welcome {
        protocol,
        version: env!("CARGO_PKG_VERSION").into(),
        max_subscriptions: shared.settings.subscriptions as u32,
    };
    if out.send(Ok(controller_message(Kind::Welcome(welcome)))).await.is_err() {
        return Ok(());
    }

    let settings = &shared.settings;
    let mut s = Session {
        shared,
        peer,
        stream,
        subscriptions: AHashMap::new(),
        fresh: VecDeque::new(),
        changed: VecDeque::new(),
        queued: AHashSet::new(),
        refusals: VecDeque::new(),
    };
    // when changed values may go out again
    let mut open_at = Instant::now();
    // since when the proxy takes nothing
    let mut stalled: Option<Instant> = None;
    let mut prepared: Option<ControllerMessage> = None;
    loop {
        let now = Instant::now();
        if prepared.is_none() {
            prepared = s.next(now >= open_at);
            if prepared.is_some() && s.fresh.is_empty() && s.changed.is_empty() {
                open_at = now + settings.debounce;
            }
        }
        let waiting = prepared.is_none() && !s.changed.is_empty();
        if prepared.is_none() {
            stalled = None;
        } else if stalled.is_none() {
            stalled = Some(now);
        }
        tokio::select! {
            m = incoming.message() => match m? {
                Some(m) => s.heard(m)?,
                None => return Ok(()),
            },
            news = changes.recv() => match news {
                Ok(news) => s.news(&news),
                Err(RecvError::Lagged(_)) => s.news(&[Change::All]),
                Err(RecvError::Closed) => return Err(Status::unavailable("the controller ends")),
            },
            permit = out.reserve(), if prepared.is_some() => {
                let Ok(permit) = permit else { return Ok(()) };
                if let Some(m) = prepared.take() {
                    permit.send(Ok(m));
                }
                stalled = None;
            }
            () = sleep_until(open_at), if waiting => {}
            () = sleep_until(stalled.unwrap_or(now) + settings.stall), if stalled.is_some() => {
                tracing::warn!(workload = %s.peer.workload, "proxy takes nothing; its stream is dropped");
                return Err(Status::resource_exhausted("the proxy takes nothing"));
            }
            () = sleep_until(expires) => return Err(Status::unauthenticated("the client certificate has expired")),
            () = shared.stop.cancelled() => return Err(Status::unavailable("this controller ends")),
        }
    }
}

fn peer(info: PeerInfo, hello: proto::Hello) -> Result<Peer, Status> {
    let identity = info.identity.ok_or_else(|| Status::unauthenticated("no identity"))?;
    let text = |name: &str, t: String| -> Result<String, Status> {
        if t.len() > MAX_TEXT || t.chars().any(char::is_control) {
            return Err(Status::invalid_argument(format!(
                "hello: {name} is longer than {MAX_TEXT} bytes or not clean"
            )));
        }
        Ok(t)
    };
    // nothing follows from it; a pod that was given the credentials of another namespace should learn so
    if !hello.namespace.is_empty() && hello.namespace != identity.namespace() {
        return Err(Status::permission_denied(format!("the certificate is of {identity}, not of that namespace")));
    }
    if hello.uid.is_empty() {
        return Err(Status::invalid_argument("hello: no pod UID"));
    }
    if hello.addresses.len() > MAX_ADDRESSES {
        return Err(Status::invalid_argument("hello: too many addresses"));
    }
    let addresses = hello.addresses.iter().map(|a| wire::ip(a)).collect::<Result<_, _>>();
    Ok(Peer {
        identity,
        uid: text("uid", hello.uid)?.into(),
        workload: text("workload", hello.workload)?.into(),
        addresses: addresses.map_err(|e| Status::invalid_argument(format!("hello: {e}")))?,
        zone: Some(text("zone", hello.zone)?).filter(|z| !z.is_empty()).map(Into::into),
        version: text("version", hello.version)?.into(),
        remote: info.remote,
    })
}

impl<P: Provider> Session<'_, P> {
    fn heard(&mut self, m: ProxyMessage) -> Result<(), Status> {
        let provider = &*self.shared.provider;
        match m.kind {
            Some(proxy_message::Kind::Subscribe(list)) => {
                for s in list.subscriptions {
                    let stated = <[u8; 16]>::try_from(s.version).ok().map(Version);
                    let name = match wire::name(s.name.clone()) {
                        Ok(name) => name,
                        Err(e) => {
                            self.refuse(s.name, format!("not understood: {e}"))?;
                            continue;
                        }
                    };
                    let max = self.shared.settings.subscriptions;
                    if self.subscriptions.len() >= max && !self.subscriptions.contains_key(&name) {
                        self.refuse(s.name, format!("a stream may have {max} subscriptions"))?;
                        continue;
                    }
                    self.subscriptions.insert(name.clone(), Sent::Stated(stated));
                    if self.queued.insert(name.clone()) {
                        self.fresh.push_back(name);
                    }
                }
            }
            Some(proxy_message::Kind::Unsubscribe(list)) => {
                for name in list.names {
                    if let Ok(name) = wire::name(Some(name)) {
                        self.subscriptions.remove(&name);
                    }
                }
            }
            Some(proxy_message::Kind::Ack(ack)) => {
                if let (Ok(name), Ok(version)) = (wire::name(ack.name), <[u8; 16]>::try_from(ack.version)) {
                    provider.acked(&self.peer, &name, Version(version));
                }
            }
            Some(proxy_message::Kind::Nack(nack)) => {
                if let (Ok(name), Ok(version)) = (wire::name(nack.name), <[u8; 16]>::try_from(nack.version)) {
                    let reason: String = nack.reason.chars().filter(|c| !c.is_control()).take(1024).collect();
                    tracing::warn!(workload = %self.peer.workload, resource = %name, reason, "proxy refused a value");
                    provider.nacked(&self.peer, &name, Version(version), &reason);
                }
            }
            Some(proxy_message::Kind::Status(status)) => {
                if status.leaf_issuer.len() > 64 {
                    return Err(Status::invalid_argument("status: issuer key identifier is longer than 64 bytes"));
                }
                let status = PeerStatus {
                    bundle_version: status.bundle_version,
                    leaf_issuer: status.leaf_issuer.into(),
                    leaf_not_after: status.leaf_not_after,
                };
                provider.status(&self.peer, &status);
                self.shared.confirmations.set(self.stream, Some(status));
            }
            Some(proxy_message::Kind::Hello(_)) => return Err(Status::invalid_argument("a second hello")),
            // a newer proxy may say more than we know
            None => {}
        }
        Ok(())
    }

    fn refuse(&mut self, name: Option<proto::ResourceName>, reason: String) -> Result<(), Status> {
        // a proxy that asks for so much nonsense without reading the answers is cut off
        if self.refusals.len() >= 1000 {
            return Err(Status::resource_exhausted("too many refused subscriptions"));
        }
        self.refusals.push_back((name.unwrap_or_default(), reason));
        Ok(())
    }

    /// Notes what must be looked at again.
    fn news(&mut self, news: &[Change]) {
        for change in news {
            match change {
                Change::All => {
                    let names: Vec<_> = self.subscriptions.keys().cloned().collect();
                    names.into_iter().for_each(|n| self.dirty(n));
                }
                Change::ServicePort(s) => self.dirty(ResourceName::ServicePort(s.clone())),
                Change::Endpoints(s) => self.dirty(ResourceName::Endpoints(s.clone())),
                Change::Address(ip) => {
                    let at = |n: &&ResourceName| matches!(n, ResourceName::Address(a) if a.ip() == *ip);
                    let names: Vec<_> = self.subscriptions.keys().filter(at).cloned().collect();
                    names.into_iter().for_each(|n| self.dirty(n));
                }
                Change::Inbound(uid) if *uid == self.peer.uid => self.dirty(ResourceName::Inbound),
                Change::Inbound(_) => {}
                Change::Bundle => self.dirty(ResourceName::Bundle),
            }
        }
    }
    fn dirty(&mut self, name: ResourceName) {
        if self.subscriptions.contains_key(&name) && self.queued.insert(name.clone()) {
            self.changed.push_back(name);
        }
    }

    /// The next message that is worth sending.
    fn next(&mut self, open: bool) -> Option<ControllerMessage> {
        if let Some((name, reason)) = self.refusals.pop_front() {
            return Some(controller_message(Kind::Refused(proto::Refused { name: Some(name), reason })));
        }
        loop {
            let name = match self.fresh.pop_front() {
                Some(name) => name,
                None if open => self.changed.pop_front()?,
                None => return None,
            };
            self.queued.remove(&name);
            let Some(&has) = self.subscriptions.get(&name) else { continue };
            let wire_name = Some((&name).into());
            match self.fetch(&name) {
                Some(resource) => {
                    let (version, bytes) = self.shared.encoder.encode(&resource);
                    self.subscriptions.insert(name, Sent::Value(version));
                    if has == Sent::Value(version) || has == Sent::Stated(Some(version)) {
                        continue;
                    }
                    let update = proto::Update { name: wire_name, version: version.0.to_vec(), resource: bytes };
                    return Some(controller_message(Kind::Update(update)));
                }
                None => {
                    self.subscriptions.insert(name, Sent::Absent);
                    if has == Sent::Absent {
                        continue;
                    }
                    return Some(controller_message(Kind::Removed(proto::Removed { name: wire_name })));
                }
            }
        }
    }

    fn fetch(&self, name: &ResourceName) -> Option<Resource> {
        let (provider, peer) = (&*self.shared.provider, &*self.peer);
        match name {
            ResourceName::Address(a) => Some(Resource::Target(provider.lookup(peer, *a))),
            ResourceName::ServicePort(s) => provider.service_port(peer, s).map(Resource::ServicePort),
            ResourceName::Endpoints(s) => provider.endpoints(peer, s).map(Resource::Endpoints),
            ResourceName::Inbound => provider.inbound(peer).map(Resource::Inbound),
            ResourceName::Bundle => provider.bundle().map(Resource::Bundle),
        }
    }
}
