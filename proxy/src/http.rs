//! HTTP connections: the engine on one side, wires on the other.
use crate::{outbound::HttpDest, view::Update, wire::Wire, worker::{Shared, Worker}};
use std::{net::SocketAddr, rc::Rc, time::Instant};
use weft_core::identity::WorkloadIdentity;
pub enum Speaks { Http1, Http2, Mesh(Vec<u8>) }
pub struct Http;
impl Http {
    pub fn new(_: &Shared) -> Http { Http }
    pub fn update(&self, _: &Update) {}
    pub fn drain(&self, _: Instant, _: bool) {}
    pub fn dump(&self) -> serde_json::Value { serde_json::Value::Null }
}
pub async fn timers(_: Rc<Worker>) {}
pub fn outbound(_: &Rc<Worker>, _: Wire, _: SocketAddr, _: SocketAddr, _: HttpDest, _: bool) {}
pub fn inbound(_: &Rc<Worker>, _: Wire, _: SocketAddr, _: SocketAddr, _: SocketAddr, _: Option<WorkloadIdentity>, _: Speaks) {}
