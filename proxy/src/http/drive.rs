//! The task of one connection of the engine: its turns, and how it closes.

use super::{End, Http, Io, Slot};
use crate::{
    wire::{Read, TURN, Wire, WireError},
    worker::Worker,
};
use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::time::{Sleep, sleep};
use weft_relay::{CloseHow, ConnKey};

/// How long a closing connection may take to write what is left.
const FLUSH: Duration = Duration::from_secs(60);

/// A read of this size is bulk: a quarter of the scratch, which no burst of small messages on one connection reaches often.
const BULK: usize = 16 * 1024;

/// The task of one connection of the engine. The socket is in the slot.
pub(super) struct Drive {
    w: Rc<Worker>,
    conn: ConnKey,
    slot: Rc<Slot>,
    /// The end of input has been told.
    ended: bool,
    /// This turn has yielded with more to read.
    yielded: bool,
    /// Whose message the last read has cut in two: written after the next one, or when there is none.
    held: Option<(ConnKey, Rc<Slot>)>,
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
    pub(super) fn new(w: Rc<Worker>, conn: ConnKey, slot: Rc<Slot>, wire: Wire) -> Drive {
        *slot.io.borrow_mut() = Some(Io { wire, owed: false });
        Drive { w, conn, slot, ended: false, yielded: false, held: None, closing: None, clean: false }
    }

    /// One turn. `Err`: the socket is of no use any more.
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, WireError> {
        self.yielded = false;
        let r = self.reads_and_writes(cx);
        if !self.yielded
            && let Some((conn, slot)) = self.held.take()
        {
            self.w.http.write_now(conn, &slot);
            self.w.commands();
        }
        r
    }

    /// Writes what a bulky read has brought for the last one that it woke, or keeps that for the next read: see the top.
    fn pass_on(http: &Http, held: &mut Option<(ConnKey, Rc<Slot>)>, full: bool) {
        let (last, mut several) = (http.last.take(), http.several.take());
        if let Some((conn, slot)) = held.take() {
            http.write_now(conn, &slot);
            several = true;
        }
        match last {
            Some(last) if full && several => *held = Some(last),
            Some((conn, slot)) => http.write_now(conn, &slot),
            None => {}
        }
    }

    fn reads_and_writes(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, WireError> {
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
                if w.http.bulk.take() {
                    Self::pass_on(&w.http, &mut self.held, io.wire.filled());
                    w.commands();
                }
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
                self.yielded = true;
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
        // the second one is left over by a panic in this turn only
        for (_, slot) in self.held.take().into_iter().chain(self.w.http.last.take()) {
            slot.wake();
        }
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
