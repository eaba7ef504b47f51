//! What the engine keeps of an exchange beside its [`State`].

use super::Cluster;
use crate::{
    admit::Permit,
    api::{ConnKey, Wire},
    balance,
    conn::{Down, ExKey},
    credit::CreditKey,
    exchange::State,
    pool::WaitKey,
    replay::Replay,
    stats::Series,
    timer::TimerKey,
};
use smallvec::SmallVec;
use std::{
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use weft_core::{backend::RequestPolicy, cause::Cause, endpoint::Endpoint, retry::RetryPolicy, route::Rule};
use weft_http::{h2::StreamId, head::Head};

/// The client's side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leg {
    pub conn: ConnKey,
    /// `None`: HTTP/1.
    pub stream: Option<StreamId>,
}

/// Where the attempts go.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    None,
    /// A slot of `Engine::clusters`.
    Cluster(u32),
    Endpoint(Arc<Endpoint>),
    App(SocketAddr),
}

/// One try at one endpoint.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// Its number, in tokens of streams.
    pub leg: u32,
    pub conn: Option<ConnKey>,
    pub stream: Option<StreamId>,
    pub wait: Option<WaitKey>,
    /// Its place among those that wait, where these are bounded.
    pub pending: Option<Permit>,
    pub pick: Option<balance::Attempt>,
    pub wire: Wire,
    pub address: SocketAddr,
    pub started: Instant,
    /// When a connection took it: dialling says nothing of how quick the application is, and would put an endpoint off for many seconds.
    pub sent: Instant,
    /// Bytes of the body that have left for the network.
    pub left: u64,
    /// So has the end of the request.
    pub end_left: bool,
    /// The response's end has arrived.
    pub response_over: bool,
    /// How it went, for the balancer; `None` until something is known.
    pub outcome: Option<balance::Outcome>,
}

/// The request's body on its way.
pub(crate) struct Body {
    /// What may be needed again.
    pub replay: Replay,
    /// What came behind a recording that was full while there was nowhere to send it.
    pub pending: Vec<u8>,
    /// Bytes that came.
    pub total: u64,
    /// Bytes that have left once: the client was credited for them.
    pub released: u64,
    pub end: bool,
    pub trailers: Option<Box<Head>>,
}

pub(crate) struct Exchange {
    pub key: ExKey,
    pub state: State,
    /// `None`: a mirror.
    pub leg: Option<Leg>,
    pub down: Rc<Down>,
    pub head: Box<Head>,
    /// What the head counted for when it came; filters may change it.
    pub head_size: usize,
    pub body: Body,
    pub target: Target,
    pub rule: Option<Arc<Rule>>,
    /// Of a Service port without routes, where a policy says something.
    pub requests: Option<Arc<RequestPolicy>>,
    /// Its place among the requests to the backend, where these are bounded.
    pub permit: Option<Permit>,
    /// Which of the rule's backends was drawn.
    pub backend: usize,
    pub attempt: Option<Attempt>,
    /// Attempts begun.
    pub attempts: u32,
    pub tried: SmallVec<[balance::EndpointId; 4]>,
    /// The far application is spoken to in HTTP/2.
    pub app_http2: bool,
    pub grpc: bool,
    pub idempotent: bool,
    /// Both directions are opaque and end on their own (a successful upgrade).
    pub tunnel: bool,
    /// Response bytes that came, and that have left towards the client.
    pub received: u64,
    pub left: u64,
    /// Of the response; 0: none.
    pub status: u16,
    pub cause: Option<Cause>,
    /// What authorization had to say of it.
    pub told: Option<Box<super::authorize::Told>>,
    pub request_credit: Option<CreditKey>,
    pub response_credit: Option<CreditKey>,
    pub request_timer: Option<TimerKey>,
    /// Of the attempt, of the wait for a connection, or of the pause.
    pub timer: Option<TimerKey>,
    pub started: Instant,
    pub series: Arc<Series>,
    pub mirrors: SmallVec<[ExKey; 1]>,
    pub upstream: Option<SocketAddr>,
}

impl Exchange {
    pub fn is_mirror(&self) -> bool {
        self.leg.is_none()
    }
    pub fn retry(&self) -> Option<&RetryPolicy> {
        match (&self.rule, &self.requests) {
            (Some(r), _) => r.retry.as_ref(),
            (None, Some(p)) => p.retry.as_ref(),
            (None, None) => None,
        }
    }
    /// What one attempt may take.
    pub fn attempt_limit(&self) -> Option<Duration> {
        match (&self.rule, &self.requests) {
            (Some(r), _) => r.timeouts.backend_request(),
            (None, Some(p)) => p.timeouts.backend_request(),
            (None, None) => None,
        }
    }
    pub fn cluster<'a>(&self, clusters: &'a mut slab::Slab<Cluster>) -> Option<&'a mut Cluster> {
        match self.target {
            Target::Cluster(i) => clusters.get_mut(i as usize),
            _ => None,
        }
    }
    /// The upstream is ready for body bytes.
    pub fn is_sending(&self) -> bool {
        matches!(self.state, State::Sent | State::Streaming | State::HalfClosed)
            && self.attempt.as_ref().is_some_and(|a| a.conn.is_some() && a.wait.is_none())
    }
}
