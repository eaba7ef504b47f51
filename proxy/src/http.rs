//! HTTP connections: the engine decides, this module owns sockets, TLS and the clock.
//!
//! ```text
//! task of a connection, one turn:  read <= 68 KiB -> engine.input -> commands -> engine.take_output -> one write -> engine.written
//! commands: Dial -> a new task; Wake -> that connection's task runs; Close, Reset -> a mark in its slot
//! ```
//!
//! A turn never runs another connection: it wakes it, and the scheduler runs it after those that woke before. So what several turns append to
//! one connection leaves in one write. The exception is bulk: what a large read has appended is written to the other socket at once, while it is in the
//! cache; else a burst of 32 responses of 64 KiB would pass through the cache twice. A read that was full ends in the middle of somebody's message: where it has brought
//! something for several, the last one is written after the next read, with its rest (1.5 writes for each response of 64 KiB became 1.0). Errors of sockets become
//! `broken`, which the engine turns into retries or resets.

mod drive;

use self::drive::Drive;
use crate::{
    access_log, dial,
    outbound::HttpDest,
    view::Update,
    wire::{Wire, WireError},
    worker::{Shared, Worker},
};
use ahash::AHashMap;
use std::{
    cell::{Cell, RefCell},
    future::{Future as _, poll_fn},
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};
use tokio::time::sleep;
use weft_core::{endpoint::MeshPeer, identity::WorkloadIdentity, service::ServiceRef};
use weft_http::h1::spare;
use weft_relay::{
    Accept, CloseHow, Command, ConnKey, Engine, EngineConfig, Side, Wire as Codec, balance::EndpointState,
};

/// What an inbound client speaks.
pub enum Speaks {
    Http1,
    Http2,
    /// The mesh's HTTP/2 inside TLS; what came behind the handshake.
    Mesh(Vec<u8>),
}

/// The engine of one worker with the tasks that it can reach.
pub struct Http {
    engine: RefCell<Engine>,
    slots: RefCell<AHashMap<ConnKey, Rc<Slot>>>,
    /// The running turn has read so much that batching with other turns gains nothing.
    bulk: Cell<bool>,
    /// Whom the running turn's bulk has woken last: not yet written.
    last: Cell<Option<(ConnKey, Rc<Slot>)>>,
    /// ... and it was not the only one.
    several: Cell<bool>,
    /// When the timer task wakes up, and how to wake it earlier.
    armed: Cell<Option<Instant>>,
    timer: Cell<Option<Waker>>,
}

/// How the engine reaches the task of a connection.
#[derive(Default)]
struct Slot {
    waker: RefCell<Option<Waker>>,
    /// The task is in its turn: it looks at everything again before it ends.
    running: Cell<bool>,
    end: Cell<Option<End>>,
    /// `None` while it is being dialled.
    io: RefCell<Option<Io>>,
}

/// A socket and what is on its way into it.
struct Io {
    wire: Wire,
    /// Output was taken whose departure has not been told.
    owed: bool,
}

impl Io {
    /// Takes the connection's output and writes it, until nothing is left or the socket is full.
    fn write(&mut self, http: &Http, conn: ConnKey, cx: &mut Context<'_>, now: Instant) -> Result<(), WireError> {
        let engine = &http.engine;
        let mut out = Vec::new();
        let r = loop {
            if let Err(e) = self.wire.flush(cx) {
                break Err(e);
            }
            if self.wire.backlog() {
                if self.owed {
                    engine.borrow_mut().blocked(conn, now);
                }
                break Ok(());
            }
            if std::mem::take(&mut self.owed) {
                engine.borrow_mut().written(conn, now);
            }
            if !engine.borrow_mut().take_output(conn, &mut out, now) {
                break Ok(());
            }
            self.wire.push_buf(&mut out);
            self.owed = true;
        };
        spare::give(out);
        r
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Close(CloseHow),
    Reset,
}

impl Slot {
    fn wake(&self) {
        if !self.running.get()
            && let Some(w) = self.waker.borrow().as_ref()
        {
            w.wake_by_ref();
        }
    }
    fn register(&self, cx: &Context<'_>) {
        let mut w = self.waker.borrow_mut();
        if !w.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *w = Some(cx.waker().clone());
        }
    }
    fn end(&self, how: End) {
        self.end.set(Some(how));
        self.wake();
    }
}

impl Http {
    pub fn new(shared: &Shared, seed: u64) -> Http {
        let identity = shared.cell.as_ref().and_then(|c| c.credentials()).map(|c| c.identity().clone());
        let config = EngineConfig {
            zone: shared.config.pod.zone.clone(),
            identity,
            shared: Some(shared.engines.clone()),
            access_log: shared.log.is_on(),
            timeouts: weft_relay::Timeouts {
                head: crate::config::ms(shared.config.timeouts.head),
                ..weft_relay::Timeouts::default()
            },
            ..EngineConfig::default()
        };
        let engine = Engine::new(config, seed, Instant::now());
        Http {
            engine: RefCell::new(engine),
            slots: RefCell::default(),
            bulk: Cell::new(false),
            last: Cell::new(None),
            several: Cell::new(false),
            armed: Cell::new(None),
            timer: Cell::new(None),
        }
    }

    fn update(&self, u: &Update) {
        let now = Instant::now();
        let mut e = self.engine.borrow_mut();
        match u {
            Update::Service(s) => e.set_service(s.clone(), now),
            Update::Endpoints(s) => e.set_endpoints(s.clone(), now),
            Update::NoService(s) => e.remove_service(s, now),
            Update::NoEndpoints(s) => e.remove_endpoints(s, now),
            Update::Inbound(p) => e.set_inbound(p.clone(), now),
            Update::Target { .. } => {}
        }
    }

    /// Exchanges under way, clients that may have sent a request before they heard of the drain, and connections with bytes that have not left. A client's idle connection is neither.
    pub fn busy(&self) -> usize {
        let unsent = |s: &Rc<Slot>| {
            let io = s.io.borrow();
            io.as_ref()
                .is_some_and(|io| io.owed || io.wire.backlog() || (s.end.get().is_some() && io.wire.holds_place()))
        };
        let engine = self.engine.borrow();
        engine.exchanges() + engine.leaving() + self.slots.borrow().values().filter(|s| unsent(s)).count()
    }

    /// What the engine knows of endpoints and has under way.
    pub fn dump(&self) -> serde_json::Value {
        let e = self.engine.borrow();
        let mut services: Vec<_> = e.endpoints(Instant::now());
        services.sort_by(|a, b| a.0.cmp(&b.0));
        let endpoint = |s: &EndpointState| {
            serde_json::json!({
                "address": s.endpoint.address,
                "workload": s.endpoint.workload,
                "in_flight": s.in_flight,
                "latency_ms": s.latency.as_secs_f64() * 1e3,
                "ejected_for_ms": s.ejected_for.map(|d| d.as_millis() as u64),
            })
        };
        let service = |(service, states): &(ServiceRef, Vec<EndpointState>)| serde_json::json!({ "service": service, "endpoints": states.iter().map(endpoint).collect::<Vec<_>>() });
        serde_json::json!({
            "exchanges": e.exchanges(),
            "connections": e.connections(),
            "balancing": services.iter().map(service).collect::<Vec<_>>(),
        })
    }
}

impl Worker {
    /// Calls the engine and carries its commands out.
    fn engine<R>(self: &Rc<Self>, f: impl FnOnce(&mut Engine, Instant) -> R) -> R {
        let r = f(&mut self.http.engine.borrow_mut(), Instant::now());
        self.commands();
        r
    }

    /// Carries out what the engine wants done.
    fn commands(self: &Rc<Self>) {
        loop {
            // the borrow must end before a command is carried out
            let command = self.http.engine.borrow_mut().poll_command();
            let Some(command) = command else { break };
            if self.stopping.get() {
                continue;
            }
            match command {
                Command::Wake(conn) => {
                    let slot = self.http.slots.borrow().get(&conn).cloned();
                    if let Some(s) = slot {
                        if !self.http.bulk.get() || s.running.get() {
                            s.wake();
                        } else if let Some((before, slot)) = self.http.last.replace(Some((conn, s))) {
                            self.http.write_now(before, &slot);
                            self.http.several.set(true);
                        }
                    }
                }
                Command::Close { conn, how } => self.end(conn, End::Close(how)),
                Command::Reset { conn } => self.end(conn, End::Reset),
                Command::Dial { conn, to, tls, wire: _ } => {
                    let slot = self.slot(conn);
                    self.spawn(dial(self.clone(), conn, slot, to, tls));
                }
            }
        }
        if self.shared.log.is_on() {
            while let Some(record) = self.http.engine.borrow_mut().take_log() {
                self.shared.log.line(access_log::http(&record));
            }
        }
        let next = self.http.engine.borrow_mut().next_timer();
        if let Some(next) = next
            && self.http.armed.get().is_none_or(|at| next < at)
            && let Some(w) = self.http.timer.take()
        {
            w.wake();
        }
    }

    fn slot(&self, conn: ConnKey) -> Rc<Slot> {
        let slot = Rc::<Slot>::default();
        self.http.slots.borrow_mut().insert(conn, slot.clone());
        slot
    }

    fn end(&self, conn: ConnKey, how: End) {
        if let Some(s) = self.http.slots.borrow().get(&conn) {
            s.end(how);
        }
    }

    /// Takes a change of configuration in.
    pub fn update_http(self: &Rc<Self>, u: &Update) {
        self.http.update(u);
        self.commands();
    }

    /// Finishes what is under way until `deadline`: on inbound connections, or on all.
    pub fn drain_http(self: &Rc<Self>, deadline: Instant, outbound: bool) {
        self.engine(|e, now| e.drain(deadline, outbound, now));
    }

    /// See [`Engine::last_call`].
    pub fn last_call_http(self: &Rc<Self>) {
        self.engine(|e, now| e.last_call(now));
    }

    fn accept(self: &Rc<Self>, wire: Wire, accept: Accept, early: Vec<u8>) {
        // the slot first: the engine may close a new connection at once
        let conn = self.http.engine.borrow_mut().accept(accept, Instant::now());
        let slot = self.slot(conn);
        self.commands();
        if !early.is_empty() {
            self.engine(|e, now| e.input(conn, &early, now));
        }
        self.spawn(Drive::new(self.clone(), conn, slot, wire));
    }
}

/// Serves a connection of the application.
pub fn outbound(w: &Rc<Worker>, wire: Wire, client: SocketAddr, original: SocketAddr, dest: HttpDest, h2: bool) {
    let side = match dest {
        HttpDest::Service(port) => Side::Outbound { service: port.service.clone() },
        HttpDest::Workload(e) => Side::Workload(e),
    };
    let codec = if h2 { Codec::Http2 } else { Codec::Http1 };
    w.accept(wire, Accept { side, wire: codec, client, original }, Vec::new());
}

/// Serves a connection that reached the pod.
pub fn inbound(
    w: &Rc<Worker>,
    wire: Wire,
    client: SocketAddr,
    original: SocketAddr,
    peer: Option<WorkloadIdentity>,
    speaks: Speaks,
) {
    let (codec, early) = match speaks {
        Speaks::Http1 => (Codec::Http1, Vec::new()),
        Speaks::Http2 => (Codec::Http2, Vec::new()),
        Speaks::Mesh(early) => (Codec::Mesh, early),
    };
    let side = Side::Inbound { app: original, peer };
    w.accept(wire, Accept { side, wire: codec, client, original }, early);
}

/// Wakes the engine when its next timer is due. One for each worker.
pub async fn timers(w: Rc<Worker>) {
    // an hour stands for never
    const NEVER: Duration = Duration::from_secs(3600);
    let mut due = Box::pin(sleep(NEVER));
    poll_fn(|cx| {
        loop {
            let next = w.http.engine.borrow_mut().next_timer();
            let at = next.unwrap_or_else(|| Instant::now() + NEVER);
            if w.http.armed.get() != Some(at) {
                w.http.armed.set(Some(at));
                due.as_mut().reset(at.into());
            }
            w.http.timer.set(Some(cx.waker().clone()));
            if due.as_mut().poll(cx).is_pending() {
                return Poll::<()>::Pending;
            }
            w.http.armed.set(None);
            let fired = catch_unwind(AssertUnwindSafe(|| w.engine(|e, now| e.on_timer(now))));
            if fired.is_err() {
                w.shared.stats.panics.one();
            }
        }
    })
    .await
}

// ---------------------------------------------------------------- dialling

/// Opens a connection that the engine wants and drives it.
async fn dial(w: Rc<Worker>, conn: ConnKey, slot: Rc<Slot>, to: SocketAddr, tls: Option<MeshPeer>) {
    let cancelled = poll_fn(|cx| {
        slot.register(cx);
        if slot.end.get().is_some() { Poll::Ready(()) } else { Poll::Pending }
    });
    // boxed: a handshake's state is larger than a connection's, and lives shorter
    let opened = tokio::select! {
        biased;
        () = cancelled => None,
        r = Box::pin(dial::open(&w, to, tls.as_ref())) => Some(r),
    };
    match opened {
        // the engine has forgotten this connection
        None => w.http.forget(conn),
        Some(Ok(wire)) => {
            w.engine(|e, now| e.connected(conn, now));
            Drive::new(w, conn, slot, wire).await;
        }
        Some(Err(error)) => {
            w.shared.stats.dial_failed.one();
            tracing::debug!(%to, %error, "dial failed");
            w.http.forget(conn);
            w.engine(|e, now| e.dial_failed(conn, error, now));
        }
    }
}

impl Http {
    /// Writes for another connection, in its name, and wakes it: what goes wrong shows again in its own turn.
    fn write_now(&self, conn: ConnKey, slot: &Slot) {
        if slot.running.get() || slot.end.get().is_some() {
            return slot.wake();
        }
        let waker = slot.waker.borrow().clone();
        if let (Some(waker), Some(io)) = (waker, slot.io.borrow_mut().as_mut()) {
            let _ = io.write(self, conn, &mut Context::from_waker(&waker), Instant::now());
        }
        slot.wake();
    }

    fn forget(&self, conn: ConnKey) {
        self.slots.borrow_mut().remove(&conn);
    }
}
