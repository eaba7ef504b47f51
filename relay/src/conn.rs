//! A connection as the engine sees it: a codec, whose it is, and what is known of its output.
//!
//! The rim holds the socket. Between `take_output` and `written` it has bytes of ours (`writing`); until then nothing more is given, so a slow peer stops its
//! producers: HTTP/2 queues on streams, HTTP/1 bytes count as not passed on.

use crate::{
    api::{Accept, ConnKey, Side, Wire},
    stats::{Series, SeriesKey, Shard},
    timer::TimerKey,
};
use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Instant};
use weft_core::{endpoint::Endpoint, identity::WorkloadIdentity, service::ServiceRef};
use weft_http::{h1, h2};

/// Names an exchange of one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ExKey {
    pub index: u32,
    pub generation: u32,
}

/// What a stream, or an HTTP/1 connection, is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Token {
    pub ex: ExKey,
    /// 0: the client's side; else the number of the attempt.
    pub leg: u32,
}

pub(crate) const DOWN: u32 = 0;

pub(crate) enum Codec {
    Server(h1::Server),
    Client(h1::Client),
    H2(Box<h2::Connection<Token>>),
}

impl Codec {
    pub fn output(&mut self) -> &mut Vec<u8> {
        match self {
            Codec::Server(c) => c.output(),
            Codec::Client(c) => c.output(),
            Codec::H2(c) => c.output(),
        }
    }
    pub fn output_taken(&mut self) {
        match self {
            Codec::Server(c) => c.output_taken(),
            Codec::Client(c) => c.output_taken(),
            Codec::H2(c) => c.output_taken(),
        }
    }
    pub fn is_h2(&self) -> bool {
        matches!(self, Codec::H2(_))
    }
}

/// What the requests of an accepted connection mean.
pub(crate) enum Meaning {
    Service(ServiceRef),
    Workload(Arc<Endpoint>),
    App { app: SocketAddr, peer: Option<WorkloadIdentity> },
}

/// What all requests of an accepted connection have in common.
pub(crate) struct Down {
    pub meaning: Meaning,
    pub wire: Wire,
    pub client: SocketAddr,
    pub original: SocketAddr,
    /// `original` is an IPv6 address.
    pub dialled_ipv6: bool,
    /// Whose counters these are when no route decides; of a Service: nobody's.
    pub series: Arc<Series>,
    pub parent: ServiceRef,
}

impl Down {
    pub fn new(accept: Accept, shard: &mut Shard) -> Self {
        let port = accept.original.port();
        let (meaning, parent) = match accept.side {
            Side::Outbound { service } => (Meaning::Service(service.clone()), service),
            Side::Workload(e) => {
                // all pods of a namespace and port together: pods come and go, series stay
                let namespace = e.mesh.as_ref().map_or("".into(), |m| m.identity.namespace().into());
                (Meaning::Workload(e), ServiceRef { namespace, name: "workload".into(), port })
            }
            Side::Inbound { app, peer } => {
                (Meaning::App { app, peer }, ServiceRef { namespace: "".into(), name: "inbound".into(), port })
            }
        };
        let series = match &meaning {
            // found with the rule, request by request
            Meaning::Service(_) => shard.overflow().clone(),
            _ => shard.series(&SeriesKey { parent: parent.clone(), route: None, rule: 0, backend: None }),
        };
        Down {
            meaning,
            wire: accept.wire,
            client: accept.client,
            original: accept.original,
            dialled_ipv6: accept.original.ip().to_canonical().is_ipv6(),
            series,
            parent,
        }
    }
    pub fn inbound(&self) -> bool {
        matches!(self.meaning, Meaning::App { .. })
    }
    /// A verified proxy of the mesh speaks: its `weft-meta` and `weft-error` are believed.
    pub fn meshed(&self) -> bool {
        self.wire == Wire::Mesh
    }
}

pub(crate) enum Role {
    Down(Rc<Down>),
    Up(Wire),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The rim dials; output waits.
    Dialing,
    Open,
    /// The rim was told to close; only output is left.
    Closing,
}

/// What a connection's timer watches. Each has its own length in [`Timeouts`](crate::Timeouts).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watch {
    Nothing,
    Head,
    Body,
    /// Nothing under way, towards a client.
    KeepAlive,
    Tunnel,
    /// The client has shut down its side while it is owed an answer: it may have left.
    HalfClosed,
    /// A mesh connection with streams under way, which is asked for a sign of life when it is silent.
    Alive,
    /// An HTTP/2 connection after our GOAWAY without streams, or the last bytes of a closing one.
    Closing,
}

pub(crate) struct Conn {
    pub key: ConnKey,
    pub codec: Codec,
    pub role: Role,
    pub phase: Phase,
    /// A wake-up is on its way.
    pub woken: bool,
    /// It is in the list of connections to settle.
    pub touched: bool,
    /// The rim has bytes that have not left.
    pub writing: Option<Instant>,
    /// The rim said that the socket takes nothing at present.
    pub blocked: bool,
    pub eof: bool,
    /// HTTP/1: whose exchange it is.
    pub exchange: Option<Token>,
    /// HTTP/1: body bytes in the codec's output, and in the rim's hands.
    pub pending: u32,
    pub in_flight: u32,
    /// It was not read because its exchange's other side is slow: wake it when that changes.
    pub paused: bool,
    pub watch: Watch,
    /// Since when `watch` has been what it is.
    pub since: Instant,
    /// When bytes came last.
    pub heard: Instant,
    pub timer: Option<TimerKey>,
    /// When the timer fires; never later than the true deadline.
    pub armed: Instant,
    /// No more requests are taken (drain, GOAWAY, `Connection: close`).
    pub draining: bool,
}

impl Conn {
    pub fn new(key: ConnKey, codec: Codec, role: Role, phase: Phase, now: Instant) -> Self {
        Conn {
            key,
            codec,
            role,
            phase,
            woken: false,
            touched: false,
            writing: None,
            blocked: false,
            eof: false,
            exchange: None,
            pending: 0,
            in_flight: 0,
            paused: false,
            watch: Watch::Nothing,
            since: now,
            heard: now,
            timer: None,
            armed: now,
            draining: false,
        }
    }
    pub fn down(&self) -> Option<&Rc<Down>> {
        match &self.role {
            Role::Down(d) => Some(d),
            Role::Up(_) => None,
        }
    }
}
