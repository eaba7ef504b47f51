//! Exchanges, sans-I/O: from the bytes of one connection to the bytes of others, by the decisions of `weft-core` and with the codecs of `weft-http`.
//! No sockets, no tokio, no clock: bytes and events in, bytes and commands out, time as an argument.
//!
//! [`Engine`] is the door; one per worker thread. The rim (`weft-proxy`) owns sockets and TLS and drives it:
//!
//! ```text
//!            accept, connected, dial_failed, input, eof, broken, written, on_timer
//!   rim  ----------------------------------------------------------------------->  Engine
//!        <-----------------------------------------------------------------------
//!            take_output, wants_read, poll_command: Dial, Wake, Close, Reset
//! ```

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod admit;
mod api;
pub mod balance;
pub mod budget;
mod conn;
pub mod credit;
pub mod denials;
mod engine;
pub mod exchange;
pub mod outlier;
pub mod pool;
pub mod replay;
pub mod stats;
pub mod timer;
pub mod util;

pub use api::{Accept, CloseHow, Command, ConnKey, DialError, EngineConfig, Limits, PoolConfig, Side, Timeouts, Wire};
pub use engine::{Census, Engine, Record, Shared};
