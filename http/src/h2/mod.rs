//! HTTP/2 (RFC 9113), sans-I/O, server and client side in one [`Connection`].
//!
//! ```text
//!   bytes from the socket                         the other connection's events
//!          |  next(&mut input)                          |  open, send_head, send_data, send_trailers, reset
//!          v                                            v
//!   receive.rs (frames) -> heads.rs (HPACK, rules)   send.rs (windows, queues) -> frame/*, hpack
//!          |  Event<'i>                                 |  output(): written to the socket once per turn
//! ```
//!
//! - DATA is never buffered on the way in: it comes out as slices of the input, in as many pieces as it arrived in. On the way out it goes straight into the output while
//!   windows and [`Config::max_output`] allow; the rest is queued on its stream and moves in turns of [`Config::turn`] frames when windows open or the output has left.
//! - The connection's receive window is credited at receipt, so a stream that nobody reads never stalls the others. Streams are credited by
//!   [`Connection::release`], when the bytes have been passed on; so what a stream can queue is bounded by the window that its origin was granted.
//! - Nothing is allocated for a request in the steady state: streams live in a slab, heads in a pool, buffers in a free list of the thread.
//! - A stream error puts RST_STREAM into the output and is told as [`Event::Reset`]; a connection error puts GOAWAY there, `next` returns it, and from then on nothing else.
//!   Everything the peer can make us do is counted ([`Config`]).
//! - Not offered, with reasons: push (RFC 9113, 8.4; clients have given it up), priorities (5.3.2, deprecated; streams take turns), `Upgrade: h2c` (3.1, deprecated). Cookies stay in the crumbs in
//!   which they came, because a table compresses them better; the HTTP/1 encoder joins them.
//!
//! ```text
//! input(bytes):   while let Some(event) = connection.next(&mut bytes, now)? { .. }
//! written():      connection.output_taken();  while let Some(event) = connection.poll() { .. }   // Sent
//! ```

mod config;
mod connection;
mod error;
mod event;
mod fields;
mod frame;
mod heads;
mod limits;
mod receive;
mod send;
mod streams;

pub use config::{Config, Rate, Rates};
pub use connection::Connection;
pub use error::{Abuse, ConnectionError, ErrorCode, HeadError, OpenError, Reason, SendError};
pub use event::{Cause, Event};
pub use streams::StreamId;

#[cfg(test)]
mod interaction_tests;

#[cfg(test)]
mod size_tests {
    //! Budgets: 1,000 idle connections and 1,000 streams have to fit into a small sidecar.
    use super::*;

    #[test]
    fn connections_streams_and_events_are_small() {
        type Token = (u32, u32);
        assert!(size_of::<Connection<Token>>() <= 832);
        assert!(size_of::<streams::Stream<Token>>() <= 112);
        // returned by value for every frame
        assert!(size_of::<Event<'_, Token>>() <= 40);
    }
}
