use super::*;
use rand::{Rng, SeedableRng, rngs::SmallRng};

fn key(n: u16) -> SeriesKey {
    let parent = ServiceRef { namespace: "shop".into(), name: "cart".into(), port: n };
    SeriesKey { backend: Some(parent.clone()), parent, route: None, rule: 0 }
}

#[test]
fn buckets_follow_each_other_without_gaps() {
    let mut end = 0;
    for b in 0..(OCTAVES + 1) * SUB {
        let (low, high) = bounds(b);
        assert_eq!(low, end);
        for us in [low, high - 1] {
            let (o, s) = place(us);
            assert_eq!(o * SUB + s, b, "{us} us");
        }
        end = high;
    }
    assert_eq!(end, 1 << 31);
    assert_eq!(place(u64::MAX), (OCTAVES, SUB - 1));
}

#[test]
fn quantiles_are_within_five_percent() {
    let mut rng = SmallRng::seed_from_u64(7);
    for scale in [50.0f64, 900.0, 20_000.0, 3e6] {
        let h = Histogram::default();
        let mut all: Vec<f64> = (0..20_000).map(|_| scale * (-(1.0 - rng.random::<f64>()).ln() + 0.2)).collect();
        all.iter().for_each(|us| h.observe(Duration::from_nanos((us * 1e3) as u64)));
        all.sort_by(f64::total_cmp);
        let mut s = HistogramSnapshot::default();
        h.add_to(&mut s);
        assert_eq!(s.count(), 20_000);
        for q in [0.5, 0.9, 0.95, 0.99, 0.999] {
            let want = all[(q * 20_000.0) as usize - 1];
            let got = s.quantile(q).unwrap().as_nanos() as f64 / 1e3;
            assert!((got - want).abs() / want < 0.05, "{q} at {scale}: {got} for {want}");
        }
        let limit = 1_024;
        assert_eq!(s.below(Duration::from_micros(limit)), all.iter().filter(|us| **us < limit as f64).count() as u64);
    }
    assert_eq!(HistogramSnapshot::default().quantile(0.5), None);
}

#[test]
fn a_series_is_small() {
    // 1,000 idle series must not cost more than a few MiB
    assert!(size_of::<Series>() <= 768, "{}", size_of::<Series>());
}

#[test]
fn shards_add_up() {
    let r = Registry::new();
    let (mut a, mut b) = (r.shard(), r.shard());
    for (shard, n) in [(&mut a, 3), (&mut b, 4)] {
        let s = shard.series(&key(1));
        for _ in 0..n {
            s.requests.add(1);
            s.finish(200, Duration::from_micros(500));
        }
        s.requests.add(1);
        s.causes.add("connect-refused", 1);
        shard.totals().panics.add(1);
        shard.totals().limits.add("exchanges", 2);
        assert!(Arc::ptr_eq(&s, &shard.series(&key(1))));
    }
    let snap = r.snapshot();
    let [(k, s)] = &snap.series[..] else { panic!("{snap:?}") };
    assert_eq!((k, s.requests, s.responses[2], s.in_flight()), (&key(1), 9, 7, 2));
    assert_eq!(s.causes, [("connect-refused", 2)]);
    assert_eq!((s.latency.count(), s.latency.sum_us), (7, 3_500));
    assert_eq!((snap.totals.panics, snap.totals.limits.as_slice()), (2, &[("exchanges", 4)][..]));
    assert!(snap.totals.named().any(|(name, n)| name == "panics" && n == 2));
}

#[test]
fn too_many_series_overflow_and_room_comes_back() {
    let r = Registry::with_most(10);
    let (mut a, mut b) = (r.shard(), r.shard());
    for n in 0..30 {
        a.series(&key(n)).requests.add(1);
        b.series(&key(n)).requests.add(1);
    }
    let snap = r.snapshot();
    assert_eq!((snap.series.len(), snap.requests()), (11, 60));
    assert_eq!(snap.series[10].0, SeriesKey::overflow());
    assert_eq!(snap.series[10].1.requests, 40);
    a.retain(|k| k.parent.port >= 5);
    assert_eq!(r.snapshot().series.len(), 11, "another worker still counts there");
    b.retain(|k| k.parent.port >= 5);
    assert_eq!(r.snapshot().series.len(), 6);
    a.series(&key(20)).requests.add(1);
    assert_eq!(r.snapshot().series.len(), 7);
}

#[test]
fn names_are_bounded() {
    let n = Named::default();
    let names: Vec<&'static str> = (0..100).map(|i| &*Box::leak(format!("cause-{i}").into_boxed_str())).collect();
    names.iter().for_each(|name| n.add(name, 1));
    let mut all = vec![];
    n.add_to(&mut all);
    assert_eq!((all.len(), all[63]), (64, ("other", 37)));
}

#[test]
fn a_reader_beside_the_writer_sees_no_more_than_was_written() {
    let r = Registry::new();
    let mut shard = r.shard();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut last = 0;
            while last < 100_000 {
                let n = r.snapshot().requests();
                assert!(n >= last);
                last = n;
            }
        });
        let s = shard.series(&key(1));
        (0..100_000).for_each(|_| s.requests.add(1));
        reader.join().unwrap();
    });
}
