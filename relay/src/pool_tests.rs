use super::*;
use rand::{Rng, SeedableRng, rngs::SmallRng};

fn key(wire: Wire) -> PoolKey {
    PoolKey { address: "10.0.0.1:80".parse().unwrap(), peer: None, wire }
}
fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
type P = Pool<u32, u32>;

fn wait(a: Acquire<u32>) -> (WaitKey, Instant, Option<PoolId>) {
    match a {
        Acquire::Wait { key, deadline, dial } => (key, deadline, dial),
        Acquire::Use { .. } => panic!("{a:?}"),
    }
}
/// A pool with one open multiplexed connection 1, one stream on it.
fn shared(limit: u32, now: Instant) -> P {
    let mut p = P::new(PoolConfig::default());
    let (_, _, dial) = wait(p.acquire(&key(Wire::Mesh), now, 0).unwrap());
    p.dialing(dial.unwrap(), 1, now);
    p.opened(1, limit, now);
    assert_eq!(p.take_waiter(1, now), Some(0));
    p
}

#[test]
fn http1_reuses_the_last_idle_connection() {
    let (mut p, t) = (P::new(PoolConfig::default()), Instant::now());
    let k = key(Wire::Http1);
    for c in [1, 2] {
        let (_, _, dial) = wait(p.acquire(&k, t, c).unwrap());
        p.dialing(dial.expect("no connection yet"), c, t);
    }
    for c in [1, 2] {
        p.opened(c, 1, t);
        assert!(p.take_waiter(c, t).is_some());
        assert_eq!(p.take_waiter(c, t), None);
    }
    assert_eq!(p.release(1, true, t), Release::Kept);
    assert_eq!(p.release(2, true, t + ms(1)), Release::Kept);
    assert_eq!(p.idle(), 2);
    assert_eq!(p.acquire(&k, t, 9), Ok(Acquire::Use { conn: 2, dial: None }));
    // 1 has been idle for 4 s, 2 is in use
    let mut closed = vec![];
    assert_eq!(p.next_expiry(), Some(t + ms(4_000)));
    p.expire(t + ms(4_000), |c| closed.push(c));
    assert_eq!(closed, [1]);
    assert_eq!(p.release(2, false, t), Release::Close(2));
    assert_eq!((p.connections(), p.idle(), p.streams_in_all()), (0, 0, 0));
    assert!(p.by_key.is_empty() && p.groups.is_empty());
}

#[test]
fn http1_a_waiter_takes_what_comes_first() {
    let (mut p, t) = (P::new(PoolConfig::default()), Instant::now());
    let k = key(Wire::Http1);
    let (_, _, dial) = wait(p.acquire(&k, t, 1).unwrap());
    p.dialing(dial.unwrap(), 1, t);
    p.opened(1, 1, t);
    assert_eq!(p.take_waiter(1, t), Some(1));
    let (_, _, dial) = wait(p.acquire(&k, t, 2).unwrap());
    p.dialing(dial.unwrap(), 2, t);
    // the connection of the first comes back before the dial is done
    assert_eq!(p.release(1, true, t), Release::Next(2));
    assert_eq!(p.opened(2, 1, t), None);
    assert_eq!(p.take_waiter(2, t), None);
    assert_eq!(p.idle(), 1);
    // another key shares nothing
    let other = PoolKey { address: "10.0.0.2:80".parse().unwrap(), ..k };
    assert!(matches!(p.acquire(&other, t, 3), Ok(Acquire::Wait { dial: Some(_), .. })));
}

#[test]
fn http1_idle_connections_are_bounded() {
    let (mut p, t) = (P::new(PoolConfig { idle_per_key: 2, idle_total: 3, ..PoolConfig::default() }), Instant::now());
    let mut closed = vec![];
    for c in 0..10 {
        let k = PoolKey { address: ([10, 0, 0, (c % 2) as u8], 80).into(), peer: None, wire: Wire::Http1 };
        let (_, _, dial) = wait(p.acquire(&k, t, c).unwrap());
        p.dialing(dial.unwrap(), c, t);
        p.opened(c, 1, t);
        assert!(p.take_waiter(c, t).is_some());
    }
    for c in 0..10 {
        if let Release::Close(c) = p.release(c, true, t + ms(c.into())) {
            closed.push(c);
        }
        assert!(p.idle() <= 3);
    }
    assert_eq!((closed.len(), p.idle(), p.connections()), (7, 3, 3));
}

#[test]
fn row_41_connections_are_bounded_and_so_is_waiting() {
    let config = PoolConfig { http1_per_key: 1, waiters_per_key: 2, waiters_total: 2, ..PoolConfig::default() };
    let (mut p, t) = (P::new(config), Instant::now());
    let k = key(Wire::Http1);
    let (_, _, dial) = wait(p.acquire(&k, t, 1).unwrap());
    p.dialing(dial.unwrap(), 1, t);
    p.opened(1, 1, t);
    assert_eq!(p.take_waiter(1, t), Some(1));
    let (first, deadline, dial) = wait(p.acquire(&k, t, 2).unwrap());
    assert_eq!((dial, deadline), (None, t + config.wait));
    wait(p.acquire(&k, t, 3).unwrap());
    assert_eq!(p.acquire(&k, t, 4), Err(Overload::WaitersOfEndpoint(2)));
    let other = PoolKey { address: "10.0.0.2:80".parse().unwrap(), ..k.clone() };
    assert_eq!(p.acquire(&other, t, 4), Err(Overload::WaitersInAll(2)));
    assert_eq!(p.groups.len(), 1, "a refused key leaves nothing behind");
    assert!(p.cancel(first));
    assert!(!p.cancel(first));
    // the connection dies: whoever still waits wants a dial
    let id = p.closed(1).expect("one waits");
    let dial = p.wants_dial(id, t).expect("no connection");
    p.dialing(dial, 5, t);
    let failed = p.dial_failed(5, t);
    assert_eq!((failed.waiters.as_slice(), failed.dial), (&[3][..], None));
    assert_eq!((p.waiting(), p.groups.len()), (0, 0));
}

#[test]
fn one_shared_connection_serves_all_until_it_is_four_fifths_full() {
    let t = Instant::now();
    let mut p = shared(10, t);
    let k = key(Wire::Mesh);
    for i in 2..8 {
        assert_eq!(p.acquire(&k, t, i), Ok(Acquire::Use { conn: 1, dial: None }));
    }
    let Ok(Acquire::Use { conn: 1, dial: Some(dial) }) = p.acquire(&k, t, 8) else {
        panic!("the eighth of ten streams wants a second connection")
    };
    p.dialing(dial, 2, t);
    // one dial at a time; the first connection is used up to its limit meanwhile
    for i in 9..=10 {
        assert_eq!(p.acquire(&k, t, i), Ok(Acquire::Use { conn: 1, dial: None }));
    }
    let (_, _, none) = wait(p.acquire(&k, t, 11).unwrap());
    assert_eq!(none, None);
    p.opened(2, 10, t);
    assert_eq!(p.take_waiter(2, t), Some(11));
    assert_eq!(p.take_waiter(2, t), None);
    assert_eq!(p.acquire(&k, t, 12), Ok(Acquire::Use { conn: 2, dial: None }));
    assert_eq!((p.streams(1), p.streams(2)), (10, 2));
}

#[test]
fn a_stalled_connection_is_passed_by_and_four_are_the_most() {
    let t = Instant::now();
    let mut p = shared(100, t);
    let k = key(Wire::Mesh);
    p.blocked(1, t);
    assert_eq!(p.acquire(&k, t + ms(4), 2), Ok(Acquire::Use { conn: 1, dial: None }));
    let t = t + ms(5);
    for c in 2..=4 {
        let (_, _, dial) = wait(p.acquire(&k, t, c).unwrap());
        p.dialing(dial.expect("fewer than four"), c, t);
        p.opened(c, 100, t);
        assert_eq!(p.take_waiter(c, t), Some(c));
        p.blocked(c, t - ms(5));
    }
    let (_, _, dial) = wait(p.acquire(&k, t, 5).unwrap());
    assert_eq!(dial, None, "four connections are enough");
    assert_eq!(p.take_waiter(3, t), None);
    p.progressed(3);
    assert_eq!(p.take_waiter(3, t), Some(5));
    // a draining connection makes room for another
    assert!(!p.draining(3));
    assert!(matches!(p.acquire(&k, t, 6), Ok(Acquire::Wait { dial: Some(_), .. })));
    assert_eq!(p.release(3, true, t), Release::Kept);
    assert_eq!(p.release(3, true, t), Release::Close(3));
}

#[test]
fn a_failed_dial_fails_its_waiters_but_not_those_of_other_connections() {
    let (mut p, t) = (P::new(PoolConfig::default()), Instant::now());
    let k = key(Wire::Mesh);
    let (_, _, dial) = wait(p.acquire(&k, t, 1).unwrap());
    p.dialing(dial.unwrap(), 1, t);
    assert!(matches!(p.acquire(&k, t, 2), Ok(Acquire::Wait { dial: None, .. })));
    assert_eq!(p.dial_failed(1, t).waiters.as_slice(), [1, 2]);
    assert_eq!(p.waiting(), 0);

    let mut p = shared(1, t);
    let (_, _, dial) = wait(p.acquire(&k, t, 2).unwrap());
    p.dialing(dial.expect("full"), 2, t);
    let failed = p.dial_failed(2, t);
    assert!(failed.waiters.is_empty(), "the first connection may still serve them");
    assert_eq!(failed.dial, None, "not again at once");
    let (_, _, dial) = wait(p.acquire(&k, t + ms(1_000), 3).unwrap());
    assert!(dial.is_some());
    assert_eq!(p.release(1, true, t), Release::Next(2));
}

#[test]
fn a_retired_endpoint_keeps_its_running_streams() {
    let t = Instant::now();
    let mut p = shared(10, t);
    assert!(p.retire(&key(Wire::Mesh)).is_empty());
    assert!(matches!(p.acquire(&key(Wire::Mesh), t, 5), Ok(Acquire::Wait { dial: Some(_), .. })));
    assert_eq!(p.release(1, true, t), Release::Close(1));
}

/// Random use against the simplest model: who waits, and how many streams each connection has. Bounds hold at every step, nobody is served twice,
/// and nothing is left at the end.
#[test]
fn random_use_keeps_the_books() {
    for seed in 0..200 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let config = PoolConfig {
            idle_per_key: 3,
            idle_total: 4,
            http1_per_key: 6,
            waiters_per_key: 5,
            waiters_total: 8,
            ..PoolConfig::default()
        };
        let (mut p, mut t) = (P::new(config), Instant::now());
        let keys: Vec<PoolKey> = (0..4u8)
            .map(|i| PoolKey {
                address: ([10, 0, 0, i % 2], 80).into(),
                peer: None,
                wire: if i < 2 { Wire::Http1 } else { Wire::Mesh },
            })
            .collect();
        let (mut dialing, mut busy, mut waiting) =
            (Vec::<(u32, bool)>::new(), Vec::<u32>::new(), Vec::<(u32, WaitKey)>::new());
        let mut open = Vec::<u32>::new();
        let mut next = 0;
        let mut dial = |p: &mut P, id: Option<PoolId>, dialing: &mut Vec<(u32, bool)>, t| {
            let mut id = id;
            while let Some(i) = id {
                next += 1;
                dialing.push((next, p.key(i).wire == Wire::Http1));
                p.dialing(i, next, t);
                id = p.wants_dial(i, t);
            }
        };
        for step in 0..2_000u32 {
            t += ms(rng.random_range(0..3));
            match rng.random_range(0..10) {
                0..4 => match p.acquire(&keys[rng.random_range(0..4)], t, step) {
                    Ok(Acquire::Use { conn, dial: d }) => {
                        busy.push(conn);
                        dial(&mut p, d, &mut dialing, t);
                    }
                    Ok(Acquire::Wait { key, dial: d, .. }) => {
                        waiting.push((step, key));
                        dial(&mut p, d, &mut dialing, t);
                    }
                    Err(_) => {}
                },
                4..6 if !dialing.is_empty() => {
                    let (c, http1) = dialing.swap_remove(rng.random_range(0..dialing.len()));
                    if rng.random_ratio(1, 3) {
                        let f = p.dial_failed(c, t);
                        waiting.retain(|(w, _)| !f.waiters.contains(w));
                        dial(&mut p, f.dial, &mut dialing, t);
                    } else {
                        if let Some(c) = p.opened(c, if http1 { 1 } else { 5 }, t) {
                            open.retain(|o| *o != c);
                        }
                        open.push(c);
                        while let Some(w) = p.take_waiter(c, t) {
                            let at = waiting.iter().position(|(x, _)| *x == w).expect("a waiter is served once");
                            waiting.remove(at);
                            busy.push(c);
                        }
                    }
                }
                6..8 if !busy.is_empty() => {
                    let c = busy.swap_remove(rng.random_range(0..busy.len()));
                    match p.release(c, rng.random_ratio(4, 5), t) {
                        Release::Next(w) => {
                            let at = waiting.iter().position(|(x, _)| *x == w).expect("a waiter is served once");
                            waiting.remove(at);
                            busy.push(c);
                        }
                        Release::Close(c) => {
                            assert!(!busy.contains(&c), "seed {seed}: closed a busy connection");
                            open.retain(|o| *o != c);
                        }
                        Release::Kept => {}
                    }
                }
                8 if !waiting.is_empty() => {
                    let (_, key) = waiting.swap_remove(rng.random_range(0..waiting.len()));
                    assert!(p.cancel(key));
                }
                _ if !open.is_empty() && rng.random_ratio(1, 4) => {
                    let c = open.swap_remove(rng.random_range(0..open.len()));
                    busy.retain(|b| *b != c);
                    let id = p.closed(c);
                    let d = id.and_then(|id| p.wants_dial(id, t));
                    dial(&mut p, d, &mut dialing, t);
                }
                _ => p.expire(t, |c| open.retain(|o| *o != c)),
            }
            assert_eq!(p.streams_in_all(), busy.len() as u64, "seed {seed} step {step}");
            assert_eq!(p.waiting(), waiting.len());
            assert!(p.idle() <= config.idle_total && waiting.len() <= config.waiters_total);
            for k in &keys {
                let live = p.by_key.get(k).map_or(0, |id| p.groups[*id as usize].live);
                assert!(live <= if k.wire == Wire::Http1 { 6 } else { 4 });
            }
        }
        for (_, key) in waiting.drain(..) {
            assert!(p.cancel(key));
        }
        for (c, _) in dialing.drain(..) {
            assert!(p.dial_failed(c, t).waiters.is_empty());
        }
        for c in busy.drain(..) {
            p.release(c, true, t);
        }
        p.expire(t + Duration::from_secs(301), |_| {});
        assert_eq!((p.connections(), p.idle(), p.groups.len(), p.by_key.len()), (0, 0, 0, 0), "seed {seed}");
    }
}
