//! Flow-control credit: how much each stream may send us, under one memory budget per process.
//!
//! A stream's **window** is what its peer may have sent without our having passed it on. It is always the sum of what the peer may still send
//! (**granted**) and what it has sent and we still hold (**held**):
//!
//! ```text
//!             received(n): granted -= n, held += n
//!   granted <------------------------------------> held        granted + held == window
//!             passed(n):   held -= n, granted += n (+ growth, - shrinkage)
//! ```
//!
//! - Every window starts at 64 KiB ([`INITIAL`]), between meshed proxies at 128 KiB ([`MESH`]), and doubles, up to 1 MiB, while its stream is fast: two windows
//!   passed on within 100 ms, none of it held for as long as 5 ms. What is granted beyond the start is charged to the budget.
//! - What is held is charged, too, as far as it exceeds what was charged for growth: a stream's charge is the larger one of the two. An idle stream
//!   costs nothing, so thousands of them may stand open, and a stream is charged for what it makes us hold.
//! - From three quarters of the budget on, windows shrink back to where they started (what is passed on is not granted anew). From seven eighths on, new
//!   streams are refused. When it is spent, [`Ledger::victim`] names the largest holder among those that are stalled: reset it, until the
//!   budget holds again.
//!
//! The connection's own window is returned at receipt and is not kept here: a stalled stream must not stall its connection (design 3.3).
//! The budget is process-wide; a ledger (one per worker) takes from it 256 KiB at a time, so a frame touches no atomic.

use crate::api::Wire;
use slab::Slab;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Window of a new stream: 64 KiB less one, HTTP/2's own default (RFC 9113, 6.9.2), so that no SETTINGS have to arrive first.
pub const INITIAL: u32 = 65_535;
/// Window of a new stream between meshed proxies: a body of 64 KiB passes without a wait for credit, and without an update, which is told in halves of the window.
pub const MESH: u32 = 128 * 1024;
/// Largest window: 1 MiB is 10 Gbit/s at 0.8 ms, more than one stream gets between two pods.
pub const MOST: u32 = 1 << 20;
/// The window of a new stream on a connection that speaks `wire`.
pub(crate) fn start(wire: Wire) -> u32 {
    if wire == Wire::Mesh { MESH } else { INITIAL }
}
/// What a ledger takes from the budget, or gives back, at once.
const LOT: usize = 256 * 1024;
/// Two windows within this time are fast: at 64 KiB, 1.3 MB/s.
const FAST: Duration = Duration::from_millis(100);
/// Held for so long without anything passed on: stalled.
const STALLED: Duration = Duration::from_millis(5);

/// The memory that all streams of a process may make us hold.
#[derive(Debug)]
pub struct CreditBudget {
    limit: usize,
    used: AtomicUsize,
}
impl CreditBudget {
    /// `limit` in bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, used: AtomicUsize::new(0) }
    }
    /// A quarter of the memory limit of the container; 16 MiB when there is none to be known.
    pub fn of_memory(memory: Option<usize>) -> Self {
        Self::new(memory.map_or(16 << 20, |m| m / 4))
    }
    pub fn limit(&self) -> usize {
        self.limit
    }
    /// Bytes that ledgers have taken: what is charged, and up to half a MiB for each ledger.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }
}

/// The budget is nearly spent: a new stream is refused (REFUSED_STREAM, or 503 where there are no streams).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the memory for streams is nearly spent")]
pub struct Refused;

/// The peer sent more than it was granted: FLOW_CONTROL_ERROR. The codec finds that first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{sent} bytes were sent with a window of {granted}")]
pub struct Exceeded {
    pub sent: u32,
    pub granted: u32,
}

/// Names an account. Not generational: its owner closes it exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CreditKey(u32);

#[derive(Debug)]
struct Account<T> {
    owner: T,
    /// Where the window started; so much costs nothing while it is not used.
    start: u32,
    window: u32,
    granted: u32,
    held: u32,
    /// Bytes passed on since `since`, when the window last changed or a measurement began.
    passed: u32,
    since: Instant,
    /// Since when nothing of what is held was passed on; meaningful while `held` is not 0.
    waits: Instant,
    /// It was stalled since `since`: its reader is the bottleneck, not the window.
    slow: bool,
}
impl<T> Account<T> {
    fn charge(&self) -> usize {
        self.held.max(self.window.saturating_sub(self.start)) as usize
    }
}

/// The accounts of one worker's receiving streams. `T` names the owner, for [`Ledger::victim`].
#[derive(Debug)]
pub struct Ledger<T> {
    budget: Arc<CreditBudget>,
    accounts: Slab<Account<T>>,
    /// Sum of the accounts' charges.
    charged: usize,
    /// Taken from the budget; less than `charged` only while the budget is spent.
    taken: usize,
}

impl<T: Copy> Ledger<T> {
    pub fn new(budget: Arc<CreditBudget>) -> Self {
        Self { budget, accounts: Slab::new(), charged: 0, taken: 0 }
    }

    /// Opens the account of a new stream: its peer may send `start` bytes, [`INITIAL`] or [`MESH`].
    ///
    /// # Errors
    /// [`Refused`] when seven eighths of the budget are used.
    pub fn open(&mut self, owner: T, start: u32, now: Instant) -> Result<CreditKey, Refused> {
        if self.over(7, 8) {
            return Err(Refused);
        }
        let account = Account {
            owner,
            start,
            window: start,
            granted: start,
            held: 0,
            passed: 0,
            since: now,
            waits: now,
            slow: false,
        };
        Ok(CreditKey(u32::try_from(self.accounts.insert(account)).expect("streams are bounded far below 2^32")))
    }

    /// The peer has sent `n` bytes of body, which we now hold.
    ///
    /// # Errors
    /// [`Exceeded`]; nothing is recorded then.
    pub fn received(&mut self, key: CreditKey, n: u32, now: Instant) -> Result<(), Exceeded> {
        let a = &mut self.accounts[key.0 as usize];
        if n > a.granted {
            return Err(Exceeded { sent: n, granted: a.granted });
        }
        let before = a.charge();
        if a.held == 0 {
            a.waits = now;
        }
        a.granted -= n;
        a.held += n;
        let after = a.charge();
        self.recharge(before, after);
        Ok(())
    }

    /// `n` held bytes have left for the other side (or were dropped). Returns by how much to raise the peer's window: usually `n`, more when
    /// the window grows, less when it shrinks. Coalescing small updates is the codec's.
    pub fn passed(&mut self, key: CreditKey, n: u32, now: Instant) -> u32 {
        let pressed = self.over(3, 4);
        let a = &mut self.accounts[key.0 as usize];
        debug_assert!(n <= a.held, "passed on {n} bytes of {} held", a.held);
        let n = n.min(a.held);
        let before = a.charge();
        a.slow |= a.held > 0 && now.saturating_duration_since(a.waits) >= STALLED;
        a.held -= n;
        a.waits = now;
        a.passed = a.passed.saturating_add(n);
        let mut grant = n;
        if pressed && a.window > a.start {
            let shrink = n.min(a.window - a.start);
            a.window -= shrink;
            grant -= shrink;
            (a.passed, a.since, a.slow) = (0, now, false);
        } else if a.passed / 2 >= a.window || now.saturating_duration_since(a.since) > FAST {
            let fast = a.passed / 2 >= a.window && now.saturating_duration_since(a.since) <= FAST && !a.slow;
            if fast && !pressed && a.window < MOST {
                let growth = a.window.min(MOST - a.window);
                a.window += growth;
                grant += growth;
            }
            (a.passed, a.since, a.slow) = (0, now, false);
        }
        a.granted += grant;
        let after = a.charge();
        self.recharge(before, after);
        grant
    }

    /// The peer will send no more on this stream (END_STREAM): what it may still send is taken back. What is held stays to be passed on.
    pub fn finish(&mut self, key: CreditKey) {
        let a = &mut self.accounts[key.0 as usize];
        let before = a.charge();
        a.window = a.held;
        a.granted = 0;
        let after = a.charge();
        self.recharge(before, after);
    }

    /// The stream is over. Returns the bytes that were still held, which are now nobody's.
    pub fn close(&mut self, key: CreditKey) -> u32 {
        let a = self.accounts.remove(key.0 as usize);
        self.recharge(a.charge(), 0);
        a.held
    }

    /// The budget is spent: reset the stream of this owner, and ask again. The largest holder among those whose reader has been standing still for 5 ms, or
    /// the largest of all when every reader moves. `None`: the budget holds.
    pub fn victim(&self, now: Instant) -> Option<T> {
        if self.charged <= self.taken {
            return None;
        }
        let stalled = |a: &Account<T>| now.saturating_duration_since(a.waits) >= STALLED;
        let holders = self.accounts.iter().map(|(_, a)| a).filter(|a| a.held > 0);
        holders.max_by_key(|a| (stalled(a), a.held)).map(|a| a.owner)
    }

    /// New streams are refused now.
    pub fn refuses(&self) -> bool {
        self.over(7, 8)
    }
    /// Bytes that the peer may still send.
    pub fn granted(&self, key: CreditKey) -> u32 {
        self.accounts[key.0 as usize].granted
    }
    /// Bytes that the peer has sent and that have not been passed on.
    pub fn held(&self, key: CreditKey) -> u32 {
        self.accounts[key.0 as usize].held
    }
    pub fn window(&self, key: CreditKey) -> u32 {
        self.accounts[key.0 as usize].window
    }
    /// Open accounts.
    pub fn len(&self) -> usize {
        self.accounts.len()
    }
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }
    /// What the accounts are charged in all.
    pub fn charged(&self) -> usize {
        self.charged
    }

    /// Checks the books, for tests and simulations.
    ///
    /// # Panics
    /// When the sum of credits does not equal the sum of windows, or a sum that is kept differs from the sum of its parts.
    pub fn assert_balanced(&self) {
        let mut charged = 0;
        for (i, a) in &self.accounts {
            assert_eq!(
                u64::from(a.granted) + u64::from(a.held),
                u64::from(a.window),
                "account {i}: granted {} + held {}",
                a.granted,
                a.held
            );
            assert!(a.window <= MOST, "account {i}: window {}", a.window);
            charged += a.charge();
        }
        assert_eq!(charged, self.charged, "sum of charges");
        let used = self.budget.used();
        assert!(
            self.taken <= used && used <= self.budget.limit,
            "taken {} of {used} used, limit {}",
            self.taken,
            self.budget.limit
        );
        assert!(
            self.taken >= self.charged || used + LOT > self.budget.limit,
            "charged {} but took {} although there was more",
            self.charged,
            self.taken
        );
        assert!(self.taken < self.charged + 3 * LOT, "took {} for {}", self.taken, self.charged);
    }

    fn over(&self, of: usize, eighths: usize) -> bool {
        let b = &self.budget;
        // lots of this ledger that are not charged are as good as free
        let used = b.used() - self.taken.min(b.used()) + self.charged;
        used * eighths >= b.limit * of
    }

    fn recharge(&mut self, before: usize, after: usize) {
        self.charged = self.charged + after - before;
        while self.charged > self.taken {
            let b = &self.budget;
            // the last lot may be smaller
            let take = |u: usize| (u < b.limit).then(|| (u + LOT).min(b.limit));
            match b.used.fetch_update(Relaxed, Relaxed, take) {
                Ok(u) => self.taken += (u + LOT).min(b.limit) - u,
                Err(_) => return,
            }
        }
        // one lot is kept, or every stream would take and give one
        if self.taken - self.charged >= 2 * LOT {
            let back = (self.taken - self.charged) / LOT * LOT - LOT;
            self.budget.used.fetch_sub(back, Relaxed);
            self.taken -= back;
        }
    }
}
impl<T> Drop for Ledger<T> {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.taken, Relaxed);
    }
}

#[cfg(test)]
#[path = "credit_tests.rs"]
mod tests;
