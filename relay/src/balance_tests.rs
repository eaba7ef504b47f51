use super::{choose::AFFINITY_CLIENTS, *};
use crate::outlier::OutlierConfig;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use weft_core::service::ServiceRef;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
fn endpoint(n: u8, zone: &str, terminating: bool) -> Arc<Endpoint> {
    let workload = format!("pod-{n}").into();
    Arc::new(Endpoint {
        address: ([10, 0, 0, n], 80).into(),
        mesh: None,
        zone: Some(zone.into()),
        terminating,
        workload,
    })
}
fn list(endpoints: Vec<Arc<Endpoint>>, prefer_zone: bool) -> Endpoints {
    let service = ServiceRef { namespace: "shop".into(), name: "cart".into(), port: 80 };
    Endpoints { service, endpoints, not_ready: 0, http2: false, prefer_zone, policy: Default::default() }
}
struct Bed {
    b: Balancer,
    t: Instant,
    rng: SmallRng,
}
impl Bed {
    fn new(e: &Endpoints) -> Self {
        let t = Instant::now();
        let mut b = Balancer::new(Arc::new(Detector::new(OutlierConfig::default(), t)), Some("z1".into()), t);
        b.update(e, t);
        Self { b, t, rng: SmallRng::seed_from_u64(1) }
    }
    fn try_pick(&mut self, avoid: &[EndpointId], client: Option<IpAddr>) -> Result<Attempt, Summary> {
        self.b.pick(Choice { avoid, client, ipv6: false, now: self.t, random: self.rng.random() })
    }
    fn pick(&mut self) -> Attempt {
        self.try_pick(&[], None).unwrap()
    }
    fn end(&mut self, a: Attempt, outcome: Outcome) -> Option<Duration> {
        self.b.finish(a, outcome, self.t, 0)
    }
    fn answer(&mut self, a: Attempt, latency: Duration) {
        self.end(a, Outcome::Answered { verdict: Verdict::Success, latency });
    }
    /// Ejects these endpoints by failing them.
    fn eject(&mut self, which: &[u8]) {
        for _ in 0..100_000 {
            let a = self.pick();
            self.t += ms(3);
            let outcome = if which.contains(&nr(&a)) {
                Outcome::Broken
            } else {
                Outcome::Answered { verdict: Verdict::Success, latency: ms(1) }
            };
            self.end(a, outcome);
            if self.b.summary(self.t).ejected == which.len() as u32 {
                return;
            }
        }
        panic!("not ejected: {}", self.b.summary(self.t));
    }
}
fn nr(a: &Attempt) -> u8 {
    match a.endpoint.address.ip() {
        IpAddr::V4(a) => a.octets()[3],
        IpAddr::V6(_) => unreachable!(),
    }
}

#[test]
fn equal_endpoints_share_equally() {
    let mut b = Bed::new(&list((0..8).map(|n| endpoint(n, "z1", false)).collect(), false));
    let mut count = [0u32; 8];
    for _ in 0..8_000 {
        let a = b.pick();
        count[nr(&a) as usize] += 1;
        b.t += ms(1);
        b.answer(a, ms(1));
    }
    assert!(count.iter().all(|c| (800..1_200).contains(c)), "{count:?}");
}

#[test]
fn a_slow_endpoint_gets_less_and_is_tried_again() {
    let mut b = Bed::new(&list((0..3).map(|n| endpoint(n, "z1", false)).collect(), false));
    let mut slow = [0u32; 3];
    for (minute, slow) in slow.iter_mut().enumerate() {
        for _ in 0..6_000 {
            let a = b.pick();
            b.t += ms(10);
            let is_slow = nr(&a) == 0;
            *slow += u32::from(is_slow);
            // it recovers in the third minute
            b.answer(a, if is_slow && minute < 2 { ms(10) } else { ms(1) });
        }
    }
    assert!(slow[1] < 600, "{slow:?}");
    assert!(slow[1] > 0, "{slow:?}: never tried again");
    // a tenfold average has decayed after 23 s
    assert!(slow[2] > 1_000, "{slow:?}: does not come back");
}

#[test]
fn requests_in_flight_count() {
    let mut b = Bed::new(&list((0..4).map(|n| endpoint(n, "z1", false)).collect(), false));
    let held: Vec<_> = (0..400).map(|_| b.pick()).collect();
    let mut count = [0u32; 4];
    held.iter().for_each(|a| count[nr(a) as usize] += 1);
    assert!(count.iter().all(|c| (90..=110).contains(c)), "{count:?}");
    assert_eq!(b.b.in_flight(), 400);
    for a in held {
        b.end(a, Outcome::Cancelled);
    }
    assert_eq!(b.b.in_flight(), 0);
}

#[test]
fn failing_fast_attracts_nobody() {
    let mut b = Bed::new(&list((0..4).map(|n| endpoint(n, "z1", false)).collect(), false));
    let mut failed = 0;
    for _ in 0..10_000 {
        let a = b.pick();
        b.t += ms(1);
        if nr(&a) == 0 {
            failed += 1;
            b.end(a, Outcome::Refused);
        } else {
            b.answer(a, ms(5));
        }
    }
    assert!(failed < 20, "{failed}");
}

#[test]
fn a_retry_goes_to_another_endpoint_while_there_is_one() {
    let mut b = Bed::new(&list((0..3).map(|n| endpoint(n, "z1", false)).collect(), false));
    for _ in 0..200 {
        let mut tried: Vec<EndpointId> = vec![];
        for _ in 0..3 {
            let a = b.try_pick(&tried, None).unwrap();
            assert!(!tried.contains(&a.id));
            tried.push(a.id);
            b.end(a, Outcome::Cancelled);
        }
        let a = b.try_pick(&tried, None).expect("all tried: any of them");
        b.end(a, Outcome::Cancelled);
    }
}

#[test]
fn ejected_endpoints_rest_unless_everything_else_was_tried() {
    let mut b = Bed::new(&list((0..3).map(|n| endpoint(n, "z1", false)).collect(), false));
    b.eject(&[1]);
    for _ in 0..300 {
        let a = b.pick();
        assert_ne!(nr(&a), 1);
        b.answer(a, ms(1));
    }
    let healthy: Vec<EndpointId> = [0, 2].map(|i| EndpointId { index: i, generation: 0 }).into();
    let a = b.try_pick(&healthy, None).unwrap();
    assert_eq!(nr(&a), 1, "another endpoint first");
    b.end(a, Outcome::Cancelled);
    assert_eq!(b.b.summary(b.t).to_string(), "2 of 3 endpoints ready: 1 ejected");
}

/// Row 44: when everything is unhealthy, everything is used.
#[test]
fn row_44_panic_when_all_are_ejected() {
    let mut b = Bed::new(&list((0..2).map(|n| endpoint(n, "z1", false)).collect(), false));
    b.eject(&[0]);
    // the healthy one leaves: only the ejected one is left, and is used
    b.b.update(&list(vec![endpoint(0, "z1", false)], false), b.t);
    let a = b.pick();
    assert_eq!(nr(&a), 0);
    b.end(a, Outcome::Cancelled);
    assert_eq!(b.b.summary(b.t).to_string(), "0 of 1 endpoints ready: 1 ejected");
}

#[test]
fn terminating_endpoints_serve_only_when_alone() {
    let mut b = Bed::new(&list(vec![endpoint(0, "z1", true), endpoint(1, "z1", false)], false));
    for _ in 0..50 {
        let a = b.pick();
        assert_eq!(nr(&a), 1);
        b.answer(a, ms(1));
    }
    assert_eq!(b.b.summary(b.t).to_string(), "1 of 2 endpoints ready: 1 terminating");
    b.b.update(&list(vec![endpoint(0, "z1", true), endpoint(2, "z1", true)], false), b.t);
    let mut seen = [false; 3];
    for _ in 0..50 {
        let a = b.pick();
        seen[nr(&a) as usize] = true;
        b.answer(a, ms(1));
    }
    assert_eq!(seen, [true, false, true]);
}

#[test]
fn no_endpoint_says_why() {
    let mut b = Bed::new(&Endpoints { not_ready: 3, ..list(vec![], false) });
    assert_eq!(b.try_pick(&[], None).unwrap_err().to_string(), "0 of 3 endpoints ready: 3 not ready");
    b.b.update(&list((0..3).map(|n| endpoint(n, "z1", false)).collect(), false), b.t);
    b.eject(&[2]);
    let mut tried = vec![];
    for _ in 0..2 {
        let a = b.try_pick(&tried, None).unwrap();
        tried.push(a.id);
        b.end(a, Outcome::Refused);
    }
    assert_eq!(b.b.summary(b.t).to_string(), "0 of 3 endpoints ready: 2 refused, 1 ejected");
}

#[test]
fn the_own_zone_first_and_elsewhere_when_it_is_too_small() {
    let all =
        vec![endpoint(0, "z1", false), endpoint(1, "z1", false), endpoint(2, "z2", false), endpoint(3, "z2", false)];
    let mut b = Bed::new(&list(all.clone(), true));
    for _ in 0..200 {
        let a = b.pick();
        assert!(nr(&a) < 2);
        b.answer(a, ms(1));
    }
    // 200 at once are more than two endpoints should have while two others idle
    let held: Vec<_> = (0..200).map(|_| b.pick()).collect();
    let far = held.iter().filter(|a| nr(a) >= 2).count();
    assert!((20..=100).contains(&far), "{far} of 200 spilled over");
    for a in held {
        b.end(a, Outcome::Cancelled);
    }
    // both of the zone were tried: the retry leaves the zone
    let near: Vec<EndpointId> = [0, 1].map(|i| EndpointId { index: i, generation: 0 }).into();
    let a = b.try_pick(&near, None).unwrap();
    assert!(nr(&a) >= 2);
    b.end(a, Outcome::Cancelled);
    // the zone is empty: everywhere
    b.b.update(&list(all[2..].to_vec(), true), b.t);
    let a = b.pick();
    assert!(nr(&a) >= 2);
    b.end(a, Outcome::Cancelled);
    // without the preference, everywhere from the start
    let mut b = Bed::new(&list(all, false));
    let far = (0..400)
        .filter(|_| {
            let a = b.pick();
            let far = nr(&a) >= 2;
            b.answer(a, ms(1));
            far
        })
        .count();
    assert!((150..250).contains(&far), "{far}");
}

#[test]
fn an_update_keeps_what_is_known() {
    let mut b = Bed::new(&list(vec![endpoint(0, "z1", false), endpoint(1, "z1", false)], false));
    let (x, y) = (b.pick(), b.pick());
    let (gone, stays) = if nr(&x) == 0 { (x, y) } else { (y, x) };
    if nr(&stays) == nr(&gone) {
        panic!("in-flight requests push the second pick to the other endpoint");
    }
    b.b.update(&list(vec![endpoint(2, "z1", false), endpoint(1, "z1", false)], false), b.t);
    assert!(b.b.endpoint(gone.id).is_some(), "kept while a request is in flight");
    assert_eq!(b.b.states(b.t).iter().find(|s| s.endpoint.workload.as_ref() == "pod-1").unwrap().in_flight, 1);
    let (gone_id, stays_id) = (gone.id, stays.id);
    b.end(gone, Outcome::Broken);
    assert!(b.b.endpoint(gone_id).is_none());
    b.b.update(&list(vec![endpoint(2, "z1", false), endpoint(1, "z1", false), endpoint(3, "z1", false)], false), b.t);
    assert_eq!(b.b.endpoint(stays_id).unwrap().workload.as_ref(), "pod-1");
    assert!(b.b.endpoint(gone_id).is_none(), "the slot serves another one under another id");
    b.answer(stays, ms(1));
    assert_eq!((b.b.in_flight(), b.b.len()), (0, 3));
}

#[test]
fn a_new_endpoint_gets_its_share_and_no_rush() {
    let mut b = Bed::new(&list((0..3).map(|n| endpoint(n, "z1", false)).collect(), false));
    for _ in 0..3_000 {
        let a = b.pick();
        b.t += ms(1);
        b.answer(a, ms(20));
    }
    b.b.update(&list((0..4).map(|n| endpoint(n, "z1", false)).collect(), false), b.t);
    let held: Vec<_> = (0..100).map(|_| b.pick()).collect();
    let new = held.iter().filter(|a| nr(a) == 3).count();
    assert!((15..=40).contains(&new), "{new} of the first 100");
    for a in held {
        b.end(a, Outcome::Cancelled);
    }
}

#[test]
fn affinity_holds_until_the_client_was_away() {
    let mut b = Bed::new(&list((0..5).map(|n| endpoint(n, "z1", false)).collect(), false));
    b.b.set_affinity(Some(Duration::from_secs(60)));
    let client = |n: u8| Some(IpAddr::from([192, 168, 0, n]));
    let mut first = [0; 200];
    let mut count = [0u32; 5];
    for n in 0..200u8 {
        let a = b.try_pick(&[], client(n)).unwrap();
        first[n as usize] = nr(&a);
        count[nr(&a) as usize] += 1;
        b.answer(a, ms(1));
    }
    assert!(count.iter().all(|c| (20..=60).contains(c)), "{count:?}");
    // one endpoint leaves and another comes: only its own clients move
    b.b.update(&list((1..6).map(|n| endpoint(n, "z1", false)).collect(), false), b.t);
    for n in 0..200u8 {
        let a = b.try_pick(&[], client(n)).unwrap();
        assert!(nr(&a) == first[n as usize] || first[n as usize] == 0);
        first[n as usize] = nr(&a);
        b.answer(a, ms(1));
    }
    // another proxy chooses alike for clients that it has never seen
    let mut other = Bed::new(&list((1..6).map(|n| endpoint(n, "z1", false)).collect(), false));
    other.b.set_affinity(Some(Duration::from_secs(60)));
    b.t += Duration::from_secs(61);
    for n in 0..200u8 {
        let (a, o) = (b.try_pick(&[], client(n)).unwrap(), other.try_pick(&[], client(n)).unwrap());
        assert_eq!(nr(&a), nr(&o));
        // a retry still goes elsewhere, and the affinity stays
        let elsewhere = b.try_pick(&[a.id], client(n)).unwrap();
        assert_ne!(nr(&elsewhere), nr(&a));
        let again = b.try_pick(&[], client(n)).unwrap();
        assert_eq!(nr(&again), nr(&a));
        for x in [a, elsewhere, again] {
            b.answer(x, ms(1));
        }
        other.answer(o, ms(1));
    }
}

#[test]
fn remembered_clients_are_bounded() {
    let mut b = Bed::new(&list((0..5).map(|n| endpoint(n, "z1", false)).collect(), false));
    b.b.set_affinity(Some(Duration::from_secs(10)));
    for n in 0..30_000u32 {
        let a = b.try_pick(&[], Some(IpAddr::from(n.to_be_bytes()))).unwrap();
        b.answer(a, ms(1));
        b.t += ms(1);
        assert!(b.b.clients.len() <= AFFINITY_CLIENTS);
    }
}

/// Random lists, picks and results: counters never go wrong, nothing leaks, and only endpoints of the list are chosen.
#[test]
fn random_use_keeps_the_books() {
    for seed in 0..100 {
        let mut b = Bed::new(&list(vec![], false));
        b.rng = SmallRng::seed_from_u64(seed);
        let mut listed = vec![];
        let mut held = vec![];
        for _ in 0..1_000 {
            b.t += ms(b.rng.random_range(0..50));
            match b.rng.random_range(0..20) {
                0 => {
                    let mask: u32 = b.rng.random();
                    let term: u32 = b.rng.random::<u32>() & b.rng.random::<u32>();
                    listed = (0..12u8)
                        .filter(|n| mask & (1 << n) != 0)
                        .map(|n| endpoint(n, if n % 3 == 0 { "z1" } else { "z2" }, term & (1 << n) != 0))
                        .collect::<Vec<_>>();
                    b.b.update(&list(listed.clone(), mask & (1 << 20) != 0), b.t);
                }
                1..12 => {
                    let avoid: Vec<EndpointId> = held.iter().rev().take(2).map(|a: &Attempt| a.id).collect();
                    match b.try_pick(&avoid, None) {
                        Ok(a) => {
                            assert!(listed.contains(&a.endpoint));
                            let better = listed.iter().any(|e| !e.terminating);
                            assert!(!a.endpoint.terminating || !better);
                            held.push(a);
                        }
                        Err(_) => assert!(listed.is_empty()),
                    }
                }
                _ if !held.is_empty() => {
                    let a = held.swap_remove(b.rng.random_range(0..held.len()));
                    let outcome = match b.rng.random_range(0..4) {
                        0 => Outcome::Refused,
                        1 => Outcome::Broken,
                        2 => Outcome::Cancelled,
                        _ => Outcome::Answered { verdict: Verdict::Success, latency: ms(b.rng.random_range(0..100)) },
                    };
                    b.end(a, outcome);
                }
                _ => {}
            }
            assert_eq!(b.b.in_flight(), held.len() as u64);
            assert_eq!(b.b.len(), listed.len());
        }
        for a in held {
            b.end(a, Outcome::Cancelled);
        }
        b.b.update(&list(vec![], false), b.t);
        assert_eq!((b.b.in_flight(), b.b.len(), b.b.by_address.len()), (0, 0, 0));
        assert!(b.b.slots.iter().all(|s| s.endpoint.is_none() && s.in_flight == 0));
        assert_eq!(b.b.free.len(), b.b.slots.len());
    }
}

#[test]
fn row_83_a_client_gets_the_family_that_it_dialled() {
    let six = |n: u16| {
        let address = format!("[fd00::{n}]:80").parse().unwrap();
        Arc::new(Endpoint { address, ..(*endpoint(n as u8, "z1", false)).clone() })
    };
    let mut e = list(vec![endpoint(1, "z1", false), endpoint(2, "z1", false), six(1), six(2)], true);
    let mut b = Bed::new(&e);
    let pick = |b: &mut Bed, ipv6| {
        let a = b.b.pick(Choice { avoid: &[], client: None, ipv6, now: b.t, random: b.rng.random() }).unwrap();
        let address = a.endpoint.address;
        b.answer(a, ms(1));
        address
    };
    for _ in 0..100 {
        assert!(pick(&mut b, false).is_ipv4() && pick(&mut b, true).is_ipv6());
    }
    // each family's own numbers
    assert_eq!(b.b.summary_for(true, b.t).to_string(), "2 of 2 endpoints ready");
    e.endpoints.truncate(2);
    b.b.update(&e, b.t);
    assert!(pick(&mut b, true).is_ipv4(), "rather the other family than none");
}

#[test]
fn the_policy_says_how_endpoints_are_chosen() {
    let mut e = list((1..=4).map(|n| endpoint(n, "z1", false)).collect(), false);
    e.policy.balancing = Balancing::RoundRobin;
    let mut b = Bed::new(&e);
    let turn = |b: &mut Bed| {
        let a = b.pick();
        let n = nr(&a);
        // one that is slow and loaded has its turn all the same
        b.answer(a, ms(if n == 1 { 5_000 } else { 1 }));
        n
    };
    let turns: Vec<_> = (0..8).map(|_| turn(&mut b)).collect();
    assert_eq!(turns, [1, 2, 3, 4, 1, 2, 3, 4]);
    b.eject(&[2]);
    let turns: std::collections::BTreeSet<_> = (0..9).map(|_| turn(&mut b)).collect();
    assert_eq!(turns.into_iter().collect::<Vec<_>>(), [1, 3, 4]);
    e.policy.balancing = Balancing::Random;
    b.b.update(&e, b.t);
    b.t += Duration::from_secs(60);
    let mut counts = [0u32; 5];
    for _ in 0..4_000 {
        counts[turn(&mut b) as usize] += 1;
    }
    // 3 sigma of a fair draw
    assert!(counts[1..].iter().all(|n| (1_000 - 83..=1_000 + 83).contains(n)), "{counts:?}");
}
