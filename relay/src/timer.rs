//! Timers of one worker: a hierarchical wheel of 1 ms ticks.
//!
//! An exchange sets a deadline for nearly every request and cancels nearly all of them, so `insert` and `cancel` are O(1) and allocate nothing
//! once the slab has grown to its peak; firing costs O(1) per timer plus at most five moves down the levels. A level has 64 slots (one machine
//! word says which are in use) and each level's slot spans a whole turn of the level below: six levels reach two years.
//!
//! A timer never fires early: deadlines are rounded up to the next tick. Timers fire in the order of their ticks; within one tick the order is
//! unspecified. Keys carry a generation, so cancelling a timer that has fired, even when its slot serves another one, does nothing.

use std::time::{Duration, Instant};

const LEVELS: usize = 6;
const SLOTS: usize = 64;
const SLOT_BITS: u32 = 6;
/// Farthest deadline in ticks: one turn of the highest level (2.1 years) less one of its slots, so that a turn ahead is never mistaken for
/// now. Later deadlines are moved here; nobody waits so long.
const HORIZON: u64 = (1 << (SLOT_BITS * LEVELS as u32)) - (1 << (SLOT_BITS * (LEVELS as u32 - 1)));
const NONE: u32 = u32::MAX;
/// The list of timers that are due, beside the lists of the slots.
const DUE: usize = LEVELS * SLOTS;

/// Names one timer. Stays invalid after the timer fired or was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerKey {
    index: u32,
    generation: u32,
}

#[derive(Debug)]
struct Entry<T> {
    /// `None`: the entry is on the free list.
    value: Option<T>,
    /// Tick at which it fires.
    when: u64,
    generation: u32,
    list: u32,
    prev: u32,
    next: u32,
}

#[derive(Clone, Copy, Debug)]
struct List {
    head: u32,
    tail: u32,
}

/// A wheel of timers, each with a small value (the key of an exchange and what is due).
#[derive(Debug)]
pub struct Wheel<T> {
    origin: Instant,
    /// Ticks since `origin` that have been worked off: every timer in a slot is due later than this.
    elapsed: u64,
    entries: Vec<Entry<T>>,
    free: u32,
    len: usize,
    lists: Box<[List; LEVELS * SLOTS + 1]>,
    occupied: [u64; LEVELS],
}

impl<T> Wheel<T> {
    /// `now` is the origin of the ticks; times before it count as now.
    pub fn new(now: Instant) -> Self {
        Self {
            origin: now,
            elapsed: 0,
            entries: Vec::new(),
            free: NONE,
            len: 0,
            lists: Box::new([List { head: NONE, tail: NONE }; LEVELS * SLOTS + 1]),
            occupied: [0; LEVELS],
        }
    }

    /// Timers that have neither fired nor been cancelled.
    pub fn len(&self) -> usize {
        self.len
    }
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sets a timer. One whose deadline has passed fires at the next [`Wheel::poll`].
    pub fn insert(&mut self, at: Instant, value: T) -> TimerKey {
        let when = self.tick_of(at);
        let index = match self.free {
            NONE => {
                let index = u32::try_from(self.entries.len())
                    .expect("exchanges are bounded far below 2^32, and each has a few timers");
                self.entries.push(Entry { value: Some(value), when, generation: 0, list: 0, prev: NONE, next: NONE });
                index
            }
            index => {
                let e = &mut self.entries[index as usize];
                self.free = e.next;
                e.value = Some(value);
                e.when = when;
                index
            }
        };
        self.len += 1;
        self.place(index);
        TimerKey { index, generation: self.entries[index as usize].generation }
    }

    /// Takes a timer back; `None` when it has fired or was cancelled before.
    pub fn cancel(&mut self, key: TimerKey) -> Option<T> {
        let e = self.entries.get(key.index as usize)?;
        if e.generation != key.generation || e.value.is_none() {
            return None;
        }
        self.unlink(key.index);
        self.release(key.index)
    }

    /// Moves a timer to another deadline under the same key; false when it has fired or was cancelled.
    pub fn reschedule(&mut self, key: TimerKey, at: Instant) -> bool {
        match self.entries.get(key.index as usize) {
            Some(e) if e.generation == key.generation && e.value.is_some() => {}
            _ => return false,
        }
        let when = self.tick_of(at);
        self.unlink(key.index);
        self.entries[key.index as usize].when = when;
        self.place(key.index);
        true
    }

    /// When to call [`Wheel::poll`] next: never later than the earliest deadline (rounded up to a tick), and exactly it when that lies in the
    /// running block of 64 ms. Farther away it may be earlier, because a slot must be spread over the level below first.
    pub fn next(&self) -> Option<Instant> {
        if self.lists[DUE].head != NONE {
            return Some(self.origin + Duration::from_millis(self.elapsed));
        }
        self.next_slot().map(|(_, _, tick)| self.origin + Duration::from_millis(tick))
    }

    /// Takes one timer that is due. Call until `None`.
    pub fn poll(&mut self, now: Instant) -> Option<T> {
        // rounded down: a timer fires when its whole tick has passed
        let until = now.saturating_duration_since(self.origin).as_millis() as u64;
        loop {
            let head = self.lists[DUE].head;
            if head != NONE {
                self.unlink(head);
                return self.release(head);
            }
            match self.next_slot() {
                Some((level, slot, tick)) if tick <= until => {
                    self.elapsed = tick;
                    self.spread(level, slot);
                }
                _ => {
                    self.elapsed = self.elapsed.max(until);
                    return None;
                }
            }
        }
    }

    fn tick_of(&self, at: Instant) -> u64 {
        let d = at.saturating_duration_since(self.origin);
        // rounded up: never early
        let ticks = d.as_nanos().div_ceil(1_000_000);
        u64::try_from(ticks).unwrap_or(u64::MAX).min(self.elapsed + HORIZON - 1)
    }

    /// The occupied slot that comes first: level, slot, and the tick at which it begins.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        // a lower level's slots all begin before any occupied slot of a higher one: the first level that has any decides
        for level in 0..LEVELS {
            let occupied = self.occupied[level];
            if occupied == 0 {
                continue;
            }
            let shift = SLOT_BITS * level as u32;
            let here = (self.elapsed >> shift) as u32 % SLOTS as u32;
            let ahead = occupied.rotate_right(here).trailing_zeros();
            let slot = (here + ahead) as usize % SLOTS;
            let turn = SLOTS as u64 * (1 << shift);
            let mut tick = self.elapsed / turn * turn + slot as u64 * (1 << shift);
            if slot < here as usize {
                tick += turn;
            }
            return Some((level, slot, tick.max(self.elapsed)));
        }
        None
    }

    /// Moves the timers of a slot whose time has come: to the due list, or to lower levels.
    fn spread(&mut self, level: usize, slot: usize) {
        let list = level * SLOTS + slot;
        let mut at = self.lists[list].head;
        self.lists[list] = List { head: NONE, tail: NONE };
        self.occupied[level] &= !(1 << slot);
        while at != NONE {
            let next = self.entries[at as usize].next;
            self.place(at);
            at = next;
        }
    }

    /// Links an entry into the list that its tick belongs to, as seen from `elapsed`.
    fn place(&mut self, index: u32) {
        let when = self.entries[index as usize].when;
        let list = if when <= self.elapsed {
            DUE
        } else {
            // the highest bit in which the ticks differ says on which level their slots differ
            let level = ((63 - (when ^ self.elapsed).leading_zeros()) / SLOT_BITS) as usize;
            // beyond the horizon's turn the top level wraps: its slots still come in order, for `when - elapsed < HORIZON`
            let level = level.min(LEVELS - 1);
            let slot = (when >> (SLOT_BITS * level as u32)) as usize % SLOTS;
            self.occupied[level] |= 1 << slot;
            level * SLOTS + slot
        };
        let tail = self.lists[list].tail;
        let e = &mut self.entries[index as usize];
        e.list = list as u32;
        e.prev = tail;
        e.next = NONE;
        match tail {
            NONE => self.lists[list].head = index,
            tail => self.entries[tail as usize].next = index,
        }
        self.lists[list].tail = index;
    }

    fn unlink(&mut self, index: u32) {
        let Entry { list, prev, next, .. } = self.entries[index as usize];
        let list = list as usize;
        match prev {
            NONE => self.lists[list].head = next,
            prev => self.entries[prev as usize].next = next,
        }
        match next {
            NONE => self.lists[list].tail = prev,
            next => self.entries[next as usize].prev = prev,
        }
        if list != DUE && self.lists[list].head == NONE {
            self.occupied[list / SLOTS] &= !(1 << (list % SLOTS));
        }
    }

    fn release(&mut self, index: u32) -> Option<T> {
        let e = &mut self.entries[index as usize];
        e.generation = e.generation.wrapping_add(1);
        e.next = self.free;
        self.free = index;
        self.len -= 1;
        e.value.take()
    }
}

#[cfg(test)]
#[path = "timer_tests.rs"]
mod tests;
