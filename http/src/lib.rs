//! The HTTP engine, sans-I/O: bytes in, events and bytes out. It knows no socket, no clock (time is an argument) and no mesh.
//!
//! Both codecs are *pulled*: the caller hands in what it has read and takes one event at a time, so that an event never holds the connection borrowed:
//!
//! ```text
//! while let Some(event) = connection.next(&mut input, now)? { ... }   // Event<'i> borrows the input only
//! connection.send_head(..), send_data(..), reset(..)                  // append to the connection's output
//! connection.output()                                                 // written to the socket once per turn
//! ```
//!
//! `DATA` is handed out as slices of the input, as they arrive; heads are owned ([`head::Head`]), because a retry needs them again.
//!
//! - [`head`]: a message head as bytes with an index, shared by both versions.
//! - [`h1`]: HTTP/1.0 and HTTP/1.1, server and client side.
//! - [`h2`]: HTTP/2, server and client side, flow control and abuse limits.
//! - [`hpack`]: header compression.
//! - [`translate`]: the rules between the versions.
//! - [`syntax`]: the grammar that both share.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod h1;
pub mod h2;
pub mod head;
pub mod hpack;
pub mod syntax;
pub mod translate;
