//! The data plane's rim: sockets, TLS sessions, timers, listeners and configuration around the engine of `weft-relay`.
//!
//! ```text
//! control thread: admin, credentials, discovery, drain            (control, admin, credentials)
//! worker threads: listeners -> outbound | inbound                 (worker, outbound, inbound, first, detect)
//!                   HTTP  -> tasks that drive the engine           (http)
//!                   bytes -> relays                                (opaque, tcp, preamble, picker)
//!                 sockets with or without TLS                      (wire, net)
//! ```
//!
//! [`control::Proxy::start`] runs a proxy inside any process: the binary, the demo, the tests.

pub mod access_log;
pub mod admin;
pub mod config;
pub mod control;
pub mod credentials;
pub mod detect;
pub mod dial;
pub mod first;
pub mod health;
pub mod http;
pub mod inbound;
pub mod limits;
pub mod metrics;
pub mod net;
pub mod opaque;
pub mod outbound;
pub mod picker;
pub mod preamble;
pub mod probe;
pub mod sidecar;
pub mod stats;
mod sys;
pub mod tcp;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod view;
pub mod wire;
pub mod worker;
