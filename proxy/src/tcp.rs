//! Opaque connections: bytes copied between two wires, plain or TLS, in both directions, with half-close.
//!
//! ```text
//! client socket -> scratch -> [open] -> [seal] -> server socket      and back
//! ```
//!
//! A direction reads only when what it read before has been taken by the other socket, so a relay holds at most one read (68 KiB) for each direction. An end
//! of input is passed on as a half-close after everything before it; an error is passed on as a reset, because the other side must not take a broken transfer
//! for a complete one.

use crate::{
    stats::Tcp,
    wire::{Read, TURN, Wire, WireError},
};
use std::{future::poll_fn, sync::Arc, task::Context, task::Poll};

/// How a relay ended.
#[derive(Debug)]
pub enum End {
    /// Both directions ended in order.
    Clean,
    /// One side broke; the other was reset.
    Broken(WireError),
}

struct Direction {
    /// End of input seen.
    ended: bool,
    /// ... and passed on.
    passed: bool,
}

/// A running opaque connection.
pub struct Relay {
    down: Wire,
    up: Wire,
    to_up: Direction,
    to_down: Direction,
    stats: Arc<Tcp>,
    carried: Carried,
    clean: bool,
}

/// What one connection carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Bytes from the client to the server.
    pub sent: u64,
    pub received: u64,
}

impl Relay {
    /// `down` is the client's wire. What was pushed to either wire before, `carried`, is written first.
    pub fn new(down: Wire, up: Wire, stats: Arc<Tcp>, carried: Carried) -> Relay {
        stats.opened.one();
        stats.sent.add(carried.sent);
        stats.received.add(carried.received);
        let fresh = || Direction { ended: false, passed: false };
        Relay { down, up, to_up: fresh(), to_down: fresh(), stats, carried, clean: false }
    }

    /// Runs to the end.
    pub async fn run(mut self) -> (End, Carried) {
        let end = match poll_fn(|cx| self.turn(cx)).await {
            Ok(()) => {
                self.clean = true;
                End::Clean
            }
            Err(e) => End::Broken(e),
        };
        (end, self.carried)
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        loop {
            let (a, full_a) = step(cx, &mut self.down, &mut self.up, &mut self.to_up, |n| {
                self.carried.sent += n;
                self.stats.sent.add(n);
            })?;
            let (b, full_b) = step(cx, &mut self.up, &mut self.down, &mut self.to_down, |n| {
                self.carried.received += n;
                self.stats.received.add(n);
            })?;
            if self.to_up.passed && self.to_down.passed {
                return Poll::Ready(Ok(()));
            }
            if full_a || full_b {
                // a whole scratch moved: others first
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if !a && !b {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stats.closed.one();
        if !self.clean {
            // broken, or the grace period is over: neither side may take what it got for everything
            self.down.reset();
            self.up.reset();
        }
    }
}

/// Moves one read. Says whether anything happened, and whether the read filled the scratch.
fn step(
    cx: &mut Context<'_>,
    from: &mut Wire,
    to: &mut Wire,
    dir: &mut Direction,
    mut count: impl FnMut(u64),
) -> Result<(bool, bool), WireError> {
    to.flush(cx)?;
    if to.backlog() {
        return Ok((false, false));
    }
    let mut moved = (false, false);
    if !dir.ended {
        // split: the closure writes to `to` while `from` is being read
        let sink = &mut *to;
        let mut taken = 0;
        let r = from.read(cx, |cx, d| {
            taken += d.len();
            sink.push_now(cx, d);
        })?;
        match r {
            Read::Data(_) => {
                count(taken as u64);
                moved = (true, taken >= TURN * 3 / 4);
                to.flush(cx)?;
            }
            Read::Eof => {
                // the last bytes may have come with the end
                count(taken as u64);
                dir.ended = true;
            }
            Read::Pending => {}
        }
    }
    if dir.ended && !dir.passed {
        to.shutdown(cx)?;
        if to.is_shut() {
            dir.passed = true;
            moved.0 = true;
        }
    }
    Ok(moved)
}
