//! Connections that the application opens: original destination, its meaning, the protocol, and who serves it.
//!
//! ```text
//! accept -> original destination -> target -> declared protocol, else first bytes while dialling -> engine (HTTP) | opaque relay
//! ```
//!
//! A port with HTTP routes never turns into bytes: what is not HTTP there gets the codec's 400 (design 3.2).

use crate::{
    config::{Away, ms},
    first::{self, Gathered, Kind, Spoke},
    http,
    limits::Place,
    opaque::{self, Dest, NoWay},
    view::own_in_plain,
    wire::{Wire, WireError},
    worker::Worker,
};
use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};
use tokio::net::TcpStream;
use weft_core::{
    endpoint::Endpoint,
    policy::MeshTlsMode,
    route::Routes,
    service::{Protocol, ServicePort, Target},
};
use weft_discovery::{Lease, client::Found};

/// A client of an HTTP port that has not said anything: as long as an idle keep-alive connection may live. It holds no buffer.
const QUIET: Duration = Duration::from_secs(300);

/// Where HTTP of this connection goes.
#[derive(Clone)]
pub enum HttpDest {
    Service(Arc<ServicePort>),
    Workload(Arc<Endpoint>),
}

/// What is done with a connection.
enum Plan {
    /// HTTP, whatever comes.
    Http(HttpDest),
    /// Bytes at once.
    Opaque(Dest),
    /// TLS by server name.
    Sni(Arc<ServicePort>),
    /// Look.
    Detect(HttpDest),
}

/// Serves one accepted connection to its end.
pub async fn serve(w: Rc<Worker>, sock: TcpStream, place: Place, client: SocketAddr, listener: SocketAddr) {
    let mut wire = Wire::plain(sock, Vec::new()).hold(Some(place));
    let s = &w.shared.stats;
    let original = match w.shared.net.original(wire.socket(), listener) {
        Ok(a) => a,
        Err(error) => {
            tracing::warn!(%client, %error, "outbound: no original destination");
            return wire.abort();
        }
    };
    if w.shared.net.is_own(original) {
        s.refused_own_listener.one();
        tracing::debug!(%client, %original, "outbound: refused, the destination is this proxy's own listener");
        return wire.abort();
    }
    let target = match target(&w, original).await {
        Some((target, lease)) => {
            wire.lease(lease);
            target
        }
        None => {
            s.refused_away.one();
            tracing::warn!(%client, %original, "outbound: refused, the controller does not answer and this pod must not fall back");
            return wire.abort();
        }
    };
    let plan = match target {
        Target::Outside => Plan::Opaque(Dest::Address(original)),
        Target::Workload(e) => Plan::Detect(HttpDest::Workload(e)),
        Target::Service(r) => match w.service(&r) {
            Some(port) => for_service(port),
            None => {
                // named by a lookup but gone since
                s.refused_no_endpoint.one();
                return wire.abort();
            }
        },
    };
    let r = match plan {
        Plan::Http(dest) => must_be_http(&w, wire, client, original, dest).await,
        Plan::Opaque(dest) => {
            // nothing is waited for: servers that speak first do so at once
            forward(&w, wire, dest, original, Vec::new()).await;
            Ok(())
        }
        Plan::Sni(port) => {
            let mut buf = Vec::new();
            match first::gather(&mut wire, &mut buf, first::sni, ms(w.shared.config.timeouts.head), first::UNDECIDED)
                .await
            {
                Ok(g) => {
                    let name = match g {
                        Gathered::Known(Kind::Tls(name)) => name,
                        _ => None,
                    };
                    forward(&w, wire, Dest::Service(port, name), original, buf).await;
                    Ok(())
                }
                Err(e) => Err(e),
            }
        }
        Plan::Detect(dest) => detect(&w, wire, client, original, dest).await,
    };
    if let Err(error) = r {
        tracing::debug!(%client, %original, %error, "outbound: connection lost before it was served");
    }
}

fn for_service(port: Arc<ServicePort>) -> Plan {
    match (&port.routes, port.protocol) {
        (Routes::Http(_), _) => Plan::Http(HttpDest::Service(port)),
        (Routes::Stream(rules), _) if rules.iter().any(|r| !r.hostnames.is_empty()) => Plan::Sni(port),
        (Routes::Stream(_), _) => Plan::Opaque(Dest::Service(port, None)),
        (Routes::None, Protocol::Http | Protocol::Http2) => Plan::Http(HttpDest::Service(port)),
        (Routes::None, Protocol::Tls | Protocol::Opaque) => Plan::Opaque(Dest::Service(port, None)),
        (Routes::None, Protocol::Detect) => Plan::Detect(HttpDest::Service(port)),
    }
}

fn opaque_dest(d: &HttpDest) -> Dest {
    match d {
        HttpDest::Service(p) => Dest::Service(p.clone(), None),
        HttpDest::Workload(e) => Dest::Endpoint(e.clone()),
    }
}

async fn must_be_http(
    w: &Rc<Worker>,
    mut wire: Wire,
    client: SocketAddr,
    original: SocketAddr,
    dest: HttpDest,
) -> Result<(), WireError> {
    // as long as nothing was said nothing is under way: a drain need not wait
    tokio::select! {
        r = wire.readable() => r?,
        () = w.drained() => return Ok(()),
        () = tokio::time::sleep(QUIET) => {
            w.shared.stats.refused_idle.one();
            return Ok(());
        }
    }
    let mut buf = Vec::new();
    let head = ms(w.shared.config.timeouts.head);
    let judge = match &dest {
        HttpDest::Service(port) if port.protocol == Protocol::Http2 => first::must_be_http2,
        _ => first::must_be_http,
    };
    let g = first::gather(&mut wire, &mut buf, judge, head, head).await?;
    let kind = match g {
        Gathered::Known(kind) => kind,
        // the codec knows what to say to half a preface
        Gathered::Late => Kind::Http1,
        Gathered::Silent | Gathered::Eof => {
            w.shared.stats.refused_idle.one();
            return Ok(());
        }
    };
    if crate::detect::first_bytes(&buf) == crate::detect::First::Other || buf.first() == Some(&0x16) {
        w.shared.stats.refused_not_http.one();
    }
    wire.unread(buf);
    http::outbound(w, wire, client, original, dest, kind == Kind::Http2);
    Ok(())
}

async fn detect(
    w: &Rc<Worker>,
    mut wire: Wire,
    client: SocketAddr,
    original: SocketAddr,
    dest: HttpDest,
) -> Result<(), WireError> {
    let s = &w.shared.stats;
    let mut buf = Vec::new();
    let silence = ms(w.shared.config.timeouts.silence);
    let kind = match first::gather(&mut wire, &mut buf, first::outbound, silence, first::UNDECIDED).await? {
        Gathered::Known(kind) => kind,
        Gathered::Late | Gathered::Eof => Kind::Other,
        Gathered::Silent => {
            s.detected_silent.one();
            let mut up = match opaque::connect(w, opaque_dest(&dest), original, &[]).await {
                Ok(up) => up,
                Err(e) => {
                    refuse(w, wire, &e);
                    return Ok(());
                }
            };
            match first::watch(&mut wire, &mut up.wire, &mut buf, &mut up.first, first::outbound).await? {
                Spoke::Client(kind @ (Kind::Http1 | Kind::Http2)) => {
                    // a pooled connection opened ahead of its first request: worth the dial that is now thrown away
                    s.detected_http.one();
                    drop(up);
                    wire.unread(buf);
                    http::outbound(w, wire, client, original, dest, kind == Kind::Http2);
                }
                Spoke::Client(_) | Spoke::Server => {
                    up.wire.push(&buf);
                    opaque::run(w, wire, up, buf.len());
                }
            }
            return Ok(());
        }
    };
    match kind {
        Kind::Http1 | Kind::Http2 => {
            s.detected_http.one();
            wire.unread(buf);
            http::outbound(w, wire, client, original, dest, kind == Kind::Http2);
        }
        other => {
            if matches!(other, Kind::Tls(_)) { &s.detected_tls } else { &s.detected_other }.one();
            forward(w, wire, opaque_dest(&dest), original, buf).await;
        }
    }
    Ok(())
}

/// Dials and relays.
async fn forward(w: &Rc<Worker>, wire: Wire, dest: Dest, original: SocketAddr, early: Vec<u8>) {
    match opaque::connect(w, dest, original, &early).await {
        Ok(up) => {
            opaque::run(w, wire, up, early.len());
        }
        Err(e) => refuse(w, wire, &e),
    }
}

/// Tells the client by a reset, as a server that is not there would.
fn refuse(w: &Worker, wire: Wire, why: &NoWay) {
    let s = &w.shared.stats;
    match why {
        NoWay::NoRoute(_) => s.refused_no_route.one(),
        NoWay::Invalid(_) | NoWay::NoBackend => s.refused_invalid_backend.one(),
        NoWay::NoEndpoint { .. } => s.refused_no_endpoint.one(),
        NoWay::Dial(_) => {}
    }
    tracing::info!(%why, "outbound: opaque connection refused");
    wire.abort();
}

/// What an original destination means, and what keeps the answer from expiring. `None`: the controller is away and this pod refuses what it does not know.
async fn target(w: &Rc<Worker>, a: SocketAddr) -> Option<(Target, Option<Lease>)> {
    if let Some(t) = w.view.target(a) {
        return Some((t, None));
    }
    let Some(discovery) = &w.shared.discovery else { return Some((Target::Outside, None)) };
    let found = match discovery.cached(a) {
        Some(found) => Ok(found),
        None => discovery.lookup(a).await,
    };
    let s = &w.shared.stats;
    match found {
        Ok(Found { target, lease }) => {
            s.lookups.one();
            let target = match target {
                Target::Workload(e) => Target::Workload(own_in_plain(e, &w.shared.config.pod.ips)),
                t => t,
            };
            Some((target, Some(lease)))
        }
        Err(error) => {
            s.lookups_failed.one();
            tracing::info!(address = %a, %error, "outbound: lookup failed");
            let away = w.shared.config.controller.as_ref().map(|c| c.away).unwrap_or_default();
            // a strict workload never falls back to plain text
            let forward = away == Away::Forward && w.view.inbound().tls != MeshTlsMode::Strict;
            forward.then_some((Target::Outside, None))
        }
    }
}
