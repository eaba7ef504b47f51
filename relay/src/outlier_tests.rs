use super::*;

pub(crate) fn endpoint(n: u8) -> Endpoint {
    Endpoint {
        address: ([10, 0, 0, n], 80).into(),
        mesh: None,
        zone: None,
        terminating: false,
        workload: format!("pod-{n}").into(),
    }
}
fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
struct Bed {
    d: Detector,
    h: Vec<Arc<Health>>,
    t: Instant,
}
fn bed(n: u8) -> Bed {
    let t = Instant::now();
    let d = Detector::new(OutlierConfig::default(), t);
    let h = (0..n).map(|n| d.health(&endpoint(n))).collect();
    Bed { d, h, t }
}
impl Bed {
    fn fail(&mut self, i: usize, times: u32) -> Option<Duration> {
        let mut ejected = None;
        for _ in 0..times {
            self.t += ms(30);
            ejected = ejected.or(self.d.report(&self.h[i], Verdict::Gateway, self.t, 0));
        }
        ejected
    }
    fn out(&self, i: usize) -> bool {
        self.d.is_ejected(&self.h[i], self.t)
    }
}

#[test]
fn five_gateway_failures_in_a_row_eject() {
    let mut b = bed(4);
    assert_eq!(b.fail(0, 4), None);
    b.d.report(&b.h[0], Verdict::Success, b.t, 0);
    assert_eq!(b.fail(0, 4), None);
    assert!(!b.d.any_ejected(b.t));
    assert_eq!(b.fail(0, 1), Some(ms(5_000)));
    assert!(b.out(0) && b.d.any_ejected(b.t));
    b.t += ms(5_000);
    assert!(!b.out(0) && !b.d.any_ejected(b.t));
}

#[test]
fn an_applications_own_errors_need_ten() {
    let b = bed(4);
    let mut t = b.t;
    for i in 1..=10 {
        t += ms(20);
        assert_eq!(b.d.report(&b.h[1], Verdict::ServerError, t, 0).is_some(), i == 10);
    }
}

#[test]
fn one_lost_connection_with_many_streams_is_no_streak() {
    let b = bed(4);
    for _ in 0..1_000 {
        assert_eq!(b.d.report(&b.h[0], Verdict::Gateway, b.t, 0), None);
    }
    assert!(b.d.report(&b.h[0], Verdict::Gateway, b.t + ms(100), 0).is_some());
}

#[test]
fn coming_back_is_on_probation() {
    let mut b = bed(4);
    b.fail(0, 5);
    b.t += ms(5_000);
    assert_eq!(b.fail(0, 1), Some(ms(10_000)), "one failure is enough, for twice as long");
    b.t += ms(10_000);
    b.d.report(&b.h[0], Verdict::Success, b.t, 0);
    assert_eq!(b.fail(0, 4), None);
    // it served for longer than two ejections before: two levels are forgotten
    b.t += ms(21_000);
    b.d.report(&b.h[0], Verdict::Success, b.t, 0);
    assert_eq!(b.fail(0, 5), Some(ms(5_000)));
}

#[test]
fn jitter_is_at_most_a_quarter() {
    let b = bed(4);
    b.d.report(&b.h[0], Verdict::Gateway, b.t, 0);
    let ejected = (0..5).find_map(|_| b.d.report(&b.h[0], Verdict::Gateway, b.t + ms(100), u64::MAX)).unwrap();
    assert!((ms(6_249)..=ms(6_250)).contains(&ejected), "{ejected:?}");
}

#[test]
fn at_most_half_and_never_the_only_one() {
    let mut b = bed(5);
    let ejected = (0..5).filter(|i| b.fail(*i, 10).is_some()).count();
    assert_eq!(ejected, 3, "half of five, rounded up");
    let mut b = bed(1);
    assert_eq!(b.fail(0, 100), None);
    let mut b = bed(2);
    assert!(b.fail(0, 5).is_some());
    assert_eq!(b.fail(1, 50), None);
}

#[test]
fn endpoints_that_are_gone_do_not_count() {
    let mut b = bed(3);
    assert!(b.fail(0, 5).is_some());
    b.h.truncate(1);
    b.h.push(b.d.health(&endpoint(8)));
    // two are left, one of them ejected: no other may be
    assert_eq!(b.fail(1, 50), None);
}

#[test]
fn workers_share_what_they_learn() {
    let b = bed(4);
    let all = Detectors::new(OutlierConfig::default(), b.t);
    let service = ServiceRef { namespace: "a".into(), name: "b".into(), port: 80 };
    let (one, two) = (all.of(&service), all.of(&service));
    assert!(Arc::ptr_eq(&one, &two));
    assert!(
        Arc::ptr_eq(&one.health(&endpoint(1)), &one.health(&endpoint(1))) || one.members.lock().unwrap().len() == 1
    );
    let h = one.health(&endpoint(1));
    assert!(Arc::ptr_eq(&h, &two.health(&endpoint(1))));
}

/// Row 44: an endpoint that is up and down for half a second each does not swing in and out. It is tried a handful of times in ten minutes, and the
/// endpoints that work are never ejected.
#[test]
fn row_44_flapping_does_not_oscillate() {
    let mut b = bed(3);
    let start = b.t;
    let (mut ejections, mut served) = (Vec::new(), 0u32);
    for tick in 0..60_000u64 {
        b.t = start + ms(tick * 10);
        for i in 0..3 {
            if b.out(i) {
                continue;
            }
            let down = i == 0 && (tick * 10) % 1_000 >= 500;
            served += u32::from(i == 0);
            let verdict = if down { Verdict::Gateway } else { Verdict::Success };
            if let Some(time) = b.d.report(&b.h[i], verdict, b.t, tick) {
                assert_eq!(i, 0);
                ejections.push(time);
            }
        }
    }
    assert!(ejections.len() <= 8, "{ejections:?}");
    assert!(ejections.windows(2).all(|w| w[1] * 4 > w[0] * 5), "each is longer than the one before: {ejections:?}");
    assert!(served < 60_000 / 50, "out of rotation for more than 98 % of the time: {served}");
}
