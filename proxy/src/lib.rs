//! The data plane's rim.

pub mod config;
pub mod detect;
pub mod first;
pub mod http;
pub mod inbound;
pub mod limits;
pub mod net;
pub mod opaque;
pub mod outbound;
pub mod picker;
pub mod preamble;
pub mod probe;
pub mod stats;
pub mod tcp;
pub mod view;
pub mod wire;
pub mod worker;
