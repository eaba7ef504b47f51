//! The engine of one worker.

use crate::api::{Accept, Command, ConnKey, DialError, EngineConfig};
use std::{sync::Arc, time::Instant};
use weft_core::{
    endpoint::Endpoints,
    policy::InboundPolicy,
    service::{ServicePort, ServiceRef},
};

/// Everything between bytes and bytes on one worker thread. See the crate's documentation for who calls what.
pub struct Engine {
    config: EngineConfig,
}

#[allow(unused_variables)]
impl Engine {
    /// `seed` decides every draw (weights, balancing, back-off, identifiers): the same calls with the same seed do the same.
    pub fn new(config: EngineConfig, seed: u64, now: Instant) -> Self {
        Engine { config }
    }
    /// A Service port as discovery knows it now. Running exchanges keep what they decided.
    pub fn set_service(&mut self, service: Arc<ServicePort>, now: Instant) {}
    /// Endpoints of a Service port. Those that have left take no new streams; running ones go on.
    pub fn set_endpoints(&mut self, endpoints: Arc<Endpoints>, now: Instant) {}
    pub fn remove_service(&mut self, service: &ServiceRef, now: Instant) {}
    pub fn remove_endpoints(&mut self, service: &ServiceRef, now: Instant) {}
    /// This pod's own policy. Under a strict one plain inbound connections are drained (design 3.4: a change re-judges what is open).
    pub fn set_inbound(&mut self, policy: Arc<InboundPolicy>, now: Instant) {}

    /// Takes over a connection. What was read from it so far goes to [`Engine::input`].
    pub fn accept(&mut self, accept: Accept, now: Instant) -> ConnKey {
        ConnKey { index: 0, generation: 0 }
    }
    /// Answer to [`Command::Dial`]: ready for bytes (after the TLS handshake).
    pub fn connected(&mut self, conn: ConnKey, now: Instant) {}
    /// Answer to [`Command::Dial`]; the key is dead afterwards.
    pub fn dial_failed(&mut self, conn: ConnKey, error: DialError, now: Instant) {}
    /// Bytes that were read. All are taken in.
    pub fn input(&mut self, conn: ConnKey, bytes: &[u8], now: Instant) {}
    /// The peer has shut down its side (FIN or `close_notify`). The connection lives until a Close or Reset command.
    pub fn eof(&mut self, conn: ConnKey, now: Instant) {}
    /// Reading or writing failed: the key is dead afterwards.
    pub fn broken(&mut self, conn: ConnKey, now: Instant) {}
    /// Whether to read. Ask after each turn and after each [`Command::Wake`].
    pub fn wants_read(&self, conn: ConnKey) -> bool {
        true
    }
    /// Swaps what is to be written into `buffer`, which must be empty. False: nothing. At most about 64 KiB at a time; while it is being written nothing more is given.
    /// Call [`Engine::written`] when all of it has left, then ask again.
    pub fn take_output(&mut self, conn: ConnKey, buffer: &mut Vec<u8>, now: Instant) -> bool {
        false
    }
    /// All bytes of the last [`Engine::take_output`] have left for the socket.
    pub fn written(&mut self, conn: ConnKey, now: Instant) {}

    /// When [`Engine::on_timer`] is due. Changes with every call; ask after each turn.
    pub fn next_timer(&self) -> Option<Instant> {
        None
    }
    pub fn on_timer(&mut self, now: Instant) {}
    /// Finish what is under way until `deadline`, when the rest is reset and counted. Inbound only, or `outbound`, too. Nothing new is refused meanwhile.
    pub fn drain(&mut self, deadline: Instant, outbound: bool, now: Instant) {}
    /// No exchange is under way (of inbound connections, or of any): the drain is over.
    pub fn is_idle(&self) -> bool {
        true
    }
    /// What the rim has to do; take all after every call.
    pub fn poll_command(&mut self) -> Option<Command> {
        None
    }
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }
}
