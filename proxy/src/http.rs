//! HTTP connections: the engine decides, this module owns sockets, TLS and the clock.
//!
//! ```text
//! task of a connection, one turn:  read <= 68 KiB -> engine.input -> commands -> engine.take_output -> one write -> engine.written
//! commands: Dial -> a new task; Wake -> that connection's task runs; Close, Reset -> a mark in its slot
//! ```
//!
//! A turn never runs another connection: it wakes it, and the scheduler runs it after those that woke before. So what several turns append to
//! one connection leaves in one write. The exception is bulk: what a large read has appended is written to the other socket at once, while it is in the
//! cache; else a burst of 32 responses of 64 KiB would pass through the cache twice. Errors of sockets become `broken`, which the engine turns into retries or resets.

use crate::{
    access_log, dial,
    outbound::HttpDest,
    view::Update,
    wire::{Read, TURN, Wire, WireError},
    worker::{Shared, Worker},
};
use ahash::AHashMap;
use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};
use tokio::time::{Sleep, sleep};
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
                        if self.http.bulk.get() {
                            self.http.write_now(conn, &s);
                        }
                        s.wake();
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
    /// Writes for another connection, in its name. What goes wrong shows again in its own turn.
    fn write_now(&self, conn: ConnKey, slot: &Slot) {
        if slot.running.get() || slot.end.get().is_some() {
            return;
        }
        let waker = slot.waker.borrow().clone();
        if let (Some(waker), Some(io)) = (waker, slot.io.borrow_mut().as_mut()) {
            let _ = io.write(self, conn, &mut Context::from_waker(&waker), Instant::now());
        }
    }

    fn forget(&self, conn: ConnKey) {
        self.slots.borrow_mut().remove(&conn);
    }
}

// ---------------------------------------------------------------- driving

/// How long a closing connection may take to write what is left.
const FLUSH: Duration = Duration::from_secs(60);

/// A read of this size is bulk: a quarter of the scratch, which no burst of small messages on one connection reaches often.
const BULK: usize = 16 * 1024;

/// The task of one connection of the engine. The socket is in the slot.
struct Drive {
    w: Rc<Worker>,
    conn: ConnKey,
    slot: Rc<Slot>,
    /// The end of input has been told.
    ended: bool,
    closing: Option<Box<Closing>>,
    /// Closed in order.
    clean: bool,
}

struct Closing {
    how: CloseHow,
    /// Our side is shut; only reading is left.
    lingering: bool,
    deadline: Pin<Box<Sleep>>,
}

impl Drive {
    fn new(w: Rc<Worker>, conn: ConnKey, slot: Rc<Slot>, wire: Wire) -> Drive {
        *slot.io.borrow_mut() = Some(Io { wire, owed: false });
        Drive { w, conn, slot, ended: false, closing: None, clean: false }
    }

    /// One turn. `Err`: the socket is of no use any more.
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, WireError> {
        let (w, slot, conn) = (&self.w, &self.slot, self.conn);
        let mut io = slot.io.borrow_mut();
        let Some(io) = io.as_mut() else { return Ok(Poll::Ready(())) };
        let engine = &w.http.engine;
        let now = Instant::now();
        let mut left = TURN;
        loop {
            let mut again = false;
            let reads = !self.ended && slot.end.get().is_none() && engine.borrow().wants_read(conn);
            if reads {
                match io.wire.read(cx, |_, d| engine.borrow_mut().input(conn, d, now))? {
                    Read::Data(n) => {
                        left = left.saturating_sub(n.max(1));
                        again = true;
                        w.http.bulk.set(n >= BULK);
                    }
                    Read::Eof => {
                        self.ended = true;
                        engine.borrow_mut().eof(conn, now);
                    }
                    Read::Pending => {}
                }
                w.commands();
                w.http.bulk.set(false);
            }
            // marks from here on are seen by `poll`
            if slot.end.get().is_none() {
                io.write(&w.http, conn, cx, now)?;
                w.commands();
            }
            if slot.end.get().is_some() {
                return Ok(Poll::Ready(()));
            }
            if !again && (reads || self.ended || !engine.borrow().wants_read(conn)) {
                return Ok(Poll::Pending);
            }
            if left == 0 {
                cx.waker().wake_by_ref();
                return Ok(Poll::Pending);
            }
        }
    }

    /// Writes what is left and closes as the engine said. `Ready(false)`: it took too long.
    fn close(&mut self, cx: &mut Context<'_>, c: &mut Closing) -> Result<Poll<bool>, WireError> {
        if self.slot.end.get() == Some(End::Reset) {
            return Ok(Poll::Ready(false));
        }
        let mut io = self.slot.io.borrow_mut();
        let Some(io) = io.as_mut() else { return Ok(Poll::Ready(true)) };
        if !c.lingering {
            io.write(&self.w.http, self.conn, cx, Instant::now())?;
            self.w.commands();
            if io.wire.backlog() {
                return Ok(c.deadline.as_mut().poll(cx).map(|()| false));
            }
            if c.how == CloseHow::Reset {
                return Ok(Poll::Ready(false));
            }
            io.wire.shutdown(cx)?;
            if !io.wire.is_shut() {
                return Ok(c.deadline.as_mut().poll(cx).map(|()| false));
            }
            let CloseHow::Linger(time) = c.how else { return Ok(Poll::Ready(true)) };
            c.lingering = true;
            // everything that was owed has been sent: a drain need not wait for the client's goodbye, and no reset follows
            io.wire.leave();
            self.clean = true;
            c.deadline.as_mut().reset(tokio::time::Instant::now() + time);
        }
        loop {
            match io.wire.read(cx, |_, _| {})? {
                Read::Data(_) => {}
                Read::Eof => return Ok(Poll::Ready(true)),
                Read::Pending => return Ok(c.deadline.as_mut().poll(cx).map(|()| true)),
            }
        }
    }
}

impl Future for Drive {
    type Output = ();
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.slot.register(cx);
        if this.closing.is_none() {
            this.slot.running.set(true);
            let r = this.turn(cx);
            this.slot.running.set(false);
            match r {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(())) => {}
                Err(error) => {
                    tracing::trace!(conn = ?this.conn, %error, "connection broken");
                    return Poll::Ready(());
                }
            }
            // the engine has ended this connection
            match this.slot.end.get() {
                Some(End::Close(how)) => {
                    let deadline = Box::pin(sleep(FLUSH));
                    this.closing = Some(Box::new(Closing { how, lingering: false, deadline }));
                }
                _ => return Poll::Ready(()),
            }
        }
        let Some(mut c) = this.closing.take() else { return Poll::Ready(()) };
        let r = this.close(cx, &mut c);
        this.closing = Some(c);
        match r {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(clean)) => {
                this.clean = clean;
                Poll::Ready(())
            }
            Err(_) => Poll::Ready(()),
        }
    }
}

impl Drop for Drive {
    fn drop(&mut self) {
        self.w.http.forget(self.conn);
        let io = self.slot.io.try_borrow_mut().ok().and_then(|mut io| io.take());
        if self.clean || self.w.quiet.get() {
            return;
        }
        // broken, told to reset, a panic in the turn, or the worker ends: the peer must not take what it got for everything, and the
        // engine must not wait for this connection (a key that is dead already means nothing to it)
        if let Some(io) = io {
            io.wire.reset();
        }
        let tell = || {
            if self.w.http.engine.try_borrow_mut().is_ok() {
                self.w.engine(|e, now| e.broken(self.conn, now));
            }
        };
        if catch_unwind(AssertUnwindSafe(tell)).is_err() {
            self.w.shared.stats.panics.one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thousand idle connections are in the memory goal: what a task of one holds is bounded by the build.
    #[test]
    fn an_idle_connection_is_small() {
        assert!(size_of::<Drive>() <= 64, "{}", size_of::<Drive>());
        assert!(size_of::<Wire>() <= 176, "{}", size_of::<Wire>());
        assert!(size_of::<Slot>() <= 256, "{}", size_of::<Slot>());
    }
}
