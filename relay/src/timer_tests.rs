use super::*;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::{cmp::Reverse, collections::BinaryHeap};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Microseconds of any magnitude below 2^bits.
fn span(rng: &mut SmallRng, bits: u32) -> u64 {
    let bits = rng.random_range(1..bits);
    rng.random_range(0..1u64 << bits)
}

#[test]
fn fires_in_order_and_never_early() {
    let t0 = Instant::now();
    let mut w = Wheel::new(t0);
    w.insert(t0 + ms(70_000), "c");
    w.insert(t0 + ms(3), "a");
    w.insert(t0 + ms(100), "b");
    assert_eq!(w.next(), Some(t0 + ms(3)));
    assert_eq!(w.poll(t0 + ms(2)), None);
    assert_eq!(w.poll(t0 + ms(3) - Duration::from_nanos(1)), None);
    assert_eq!(w.poll(t0 + ms(3)), Some("a"));
    assert_eq!(w.poll(t0 + ms(99)), None);
    assert_eq!(w.poll(t0 + ms(80_000)), Some("b"));
    assert_eq!(w.poll(t0 + ms(80_000)), Some("c"));
    assert_eq!(w.poll(t0 + ms(80_000)), None);
    assert_eq!(w.next(), None);
}

#[test]
fn a_sub_millisecond_deadline_is_rounded_up() {
    let t0 = Instant::now();
    let mut w = Wheel::new(t0);
    w.insert(t0 + Duration::from_micros(1_001), ());
    assert_eq!(w.next(), Some(t0 + ms(2)));
    assert_eq!(w.poll(t0 + Duration::from_micros(1_999)), None);
    assert_eq!(w.poll(t0 + ms(2)), Some(()));
}

#[test]
fn a_stale_key_touches_nobody_else() {
    let t0 = Instant::now();
    let mut w = Wheel::new(t0);
    let old = w.insert(t0 + ms(5), 1);
    assert_eq!(w.cancel(old), Some(1));
    let new = w.insert(t0 + ms(5), 2);
    assert_eq!(w.cancel(old), None);
    assert!(!w.reschedule(old, t0 + ms(50)));
    assert_eq!(w.poll(t0 + ms(5)), Some(2));
    assert_eq!(w.cancel(new), None);
    assert!(w.is_empty());
}

#[test]
fn the_steady_state_allocates_no_entries() {
    let t0 = Instant::now();
    let mut w = Wheel::new(t0);
    for i in 0..100_000u64 {
        let k = w.insert(t0 + ms(i + 15_000), i);
        if i % 2 == 0 {
            w.cancel(k);
        }
        while w.poll(t0 + ms(i)).is_some() {}
    }
    assert!(w.entries.len() <= 7_501, "{}", w.entries.len());
}

/// Random inserts, cancels, moves and time steps against a heap: the same timers fire at the same steps, in the same order of ticks, and `next`
/// is never late and always leads to progress.
#[test]
fn agrees_with_a_heap() {
    for seed in 0..60u64 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let t0 = Instant::now();
        let mut w = Wheel::new(t0);
        let mut heap: BinaryHeap<Reverse<(u64, u64)>> = BinaryHeap::new();
        let mut live: std::collections::HashMap<u64, (TimerKey, u64)> = Default::default();
        let mut now_us = 0u64;
        for id in 0..3_000u64 {
            let at_us = now_us.saturating_sub(2_000) + span(&mut rng, 38);
            let tick = at_us.div_ceil(1_000);
            let key = w.insert(t0 + Duration::from_micros(at_us), id);
            live.insert(id, (key, tick));
            heap.push(Reverse((tick, id)));
            if rng.random_ratio(1, 2) {
                let victim = rng.random_range(0..=id);
                let was = live.get(&victim).copied();
                if rng.random_ratio(1, 3) {
                    let at_us = now_us + span(&mut rng, 30);
                    let moved = was.is_some_and(|(key, _)| w.reschedule(key, t0 + Duration::from_micros(at_us)));
                    assert_eq!(moved, was.is_some());
                    if let Some(e) = live.get_mut(&victim) {
                        e.1 = at_us.div_ceil(1_000);
                        heap.push(Reverse((e.1, victim)));
                    }
                } else if let Some((key, _)) = live.remove(&victim) {
                    assert_eq!(w.cancel(key), Some(victim));
                    assert_eq!(w.cancel(key), None);
                }
            }
            assert_eq!(w.len(), live.len());
            if rng.random_ratio(1, 4) {
                // either to the wheel's own next time, or somewhere
                let before = w.next();
                now_us = match before {
                    Some(t) if rng.random_ratio(1, 2) => now_us.max((t - t0).as_micros() as u64),
                    _ => now_us + span(&mut rng, 34),
                };
                let now = t0 + Duration::from_micros(now_us);
                let mut last = 0;
                while let Some(id) = w.poll(now) {
                    let (_, tick) = live.remove(&id).expect("fires once");
                    // a deadline in the past is due at once, whatever its tick
                    assert!(tick <= now_us / 1_000, "seed {seed}: early");
                    last = last.max(tick);
                }
                while let Some(&Reverse((tick, id))) = heap.peek() {
                    match live.get(&id) {
                        Some(&(_, t)) if t == tick => {
                            assert!(
                                tick > now_us / 1_000,
                                "seed {seed}: timer {id} due at {tick} did not fire at {now_us}"
                            );
                            let next = w.next().expect("one is set");
                            assert!(next <= t0 + ms(tick), "seed {seed}: next is late");
                            if tick - now_us / 1_000 < 2 {
                                assert_eq!(next, t0 + ms(tick));
                            }
                            break;
                        }
                        _ => {
                            heap.pop();
                        }
                    }
                }
                assert!(
                    before.is_none() || w.next() != before || w.next() > Some(now),
                    "seed {seed}: no progress at {before:?}"
                );
            }
        }
        // nothing is lost: jump from next to next
        let mut turns = 0;
        while let Some(t) = w.next() {
            while let Some(id) = w.poll(t) {
                assert!(live.remove(&id).is_some());
            }
            turns += 1;
            assert!(turns < 100_000, "seed {seed}: no progress");
        }
        assert!(live.is_empty(), "seed {seed}: {} lost", live.len());
    }
}
