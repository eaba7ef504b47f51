//! Seeded simulation: engines between scripted applications, joined by pipes of bytes, under faults. Everything that happens is decided by a seed.
//!
//! ```text
//! clients --HTTP/1, HTTP/2--> engine (outbound) --mesh--> engine (inbound) --> applications
//!                                    `-------------- plain endpoints --------> applications
//! ```
//!
//! Each scene checks that every exchange ends exactly once, that bodies are intact or cut off with a reset, that retries happen only where they are
//! allowed, that nothing exceeds its bound, that the counters add up, and that nothing is left at the end.
//!
//! `WEFT_SIM_SEED=n` plays one seed alone and tells every event; `WEFT_SIM_EXCHANGES=n` sets how many exchanges all seeds have together;
//! `WEFT_SIM_KEEP_GOING=1` goes on after a failure.
#![allow(clippy::unwrap_used)]

mod client;
mod judge;
mod plan;
mod rim;
mod scene;
mod server;
mod wire;
mod world;

use judge::Sum;
use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// Exchanges of one seed.
const EACH: u32 = 500;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Plays seeds on two threads until there are enough exchanges, or one seed alone.
fn play(exchanges: u64, one: fn(u64, u32, bool) -> Sum) -> Option<Sum> {
    if let Some(seed) = number("WEFT_SIM_SEED") {
        println!("{:?}", one(seed, number("WEFT_SIM_EXCHANGES").map_or(EACH, |n| n as u32), true));
        return None;
    }
    let exchanges = number("WEFT_SIM_EXCHANGES").unwrap_or(exchanges);
    let seeds = exchanges.div_ceil(u64::from(EACH));
    let next = AtomicU64::new(0);
    let worker = || {
        let mut sum = Sum::default();
        loop {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= seeds {
                return sum;
            }
            match catch_unwind(AssertUnwindSafe(|| one(seed, EACH, false))) {
                Ok(s) => sum.add(s),
                Err(_) if number("WEFT_SIM_KEEP_GOING").is_some() => {}
                Err(e) => {
                    next.store(seeds, Relaxed);
                    eprintln!("seed {seed} failed: run it alone with WEFT_SIM_SEED={seed}");
                    resume_unwind(e);
                }
            }
        }
    };
    let mut total = Sum::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(worker)).collect();
        for t in threads {
            total.add(t.join().unwrap_or_else(|e| resume_unwind(e)));
        }
    });
    println!("{total:?}");
    assert!(total.exchanges >= exchanges);
    Some(total)
}

#[test]
fn a_hundred_thousand_exchanges() {
    let Some(total) = play(100_000, scene::play) else { return };
    // the faults have to bite, and must not drown everything else
    assert!(total.complete > total.exchanges / 2 && total.retried > 0 && total.mirrored > 0 && total.reset > 0);
}

/// The yardstick: the same applications and faults without an engine between.
#[test]
fn applications_alone() {
    let Some(total) = play(10_000, scene::play_direct) else { return };
    assert!(total.complete > total.exchanges / 2 && total.reset > 0 && total.proxied == 0 && total.retried == 0);
}
