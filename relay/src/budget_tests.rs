use super::*;
use std::time::Duration;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn a_share_of_the_requests_of_the_interval() {
    let t = Instant::now();
    let b = Budget::new(
        RetryBudget { percent: 20, interval: Duration::from_secs(10), floor: 0, ..RetryBudget::default() },
        t,
    );
    assert!(!b.try_retry(t));
    for _ in 0..100 {
        b.request(t);
    }
    assert_eq!((0..100).filter(|_| b.try_retry(t)).count(), 20);
    assert_eq!(b.refused(), 81);
    // in the next interval the requests are forgotten
    assert!(!b.try_retry(t + Duration::from_secs(10)));
}

#[test]
fn a_few_per_second_always() {
    let t = Instant::now();
    let b = Budget::new(RetryBudget::default(), t);
    for second in 0..5 {
        let t = t + ms(second * 1_000);
        assert_eq!((0..50).filter(|_| b.try_retry(t)).count(), 10, "second {second}");
    }
}

#[test]
fn another_configuration_counts_at_once() {
    let t = Instant::now();
    let b = Budget::new(
        RetryBudget { percent: 100, interval: Duration::from_secs(1), floor: 0, ..RetryBudget::default() },
        t,
    );
    let t = t + Duration::from_secs(3_600);
    b.request(t);
    b.configure(RetryBudget { percent: 50, interval: Duration::from_secs(100), floor: 0, ..RetryBudget::default() });
    assert!(!b.try_retry(t));
    b.request(t);
    b.request(t);
    assert!(b.try_retry(t));
    assert!(!b.try_retry(t));
}

/// Row 39: ten times the load on a backend whose endpoints all fail, each request with three attempts configured. Over any ten seconds, and in all, the
/// backend sees at most 1.2 times what the clients send.
#[test]
fn row_39_amplification_is_at_most_a_fifth() {
    let start = Instant::now();
    let b = Budget::new(RetryBudget::default(), start);
    let (mut requests, mut retries) = (vec![0u64; 600], vec![0u64; 600]);
    for tick in 0..60_000u64 {
        let now = start + ms(tick);
        // 100/s for 20 s without failures, then 1,000/s of which every one fails
        let failing = tick >= 20_000;
        if failing || tick % 10 == 0 {
            b.request(now);
            requests[tick as usize / 100] += 1;
            for _ in 0..2 {
                if failing && b.try_retry(now) {
                    retries[tick as usize / 100] += 1;
                }
            }
        }
    }
    let (all, extra) = (requests.iter().sum::<u64>(), retries.iter().sum::<u64>());
    assert!(extra * 5 <= all, "{extra} retries for {all} requests");
    let failing = (requests[200..].iter().sum::<u64>(), retries[200..].iter().sum::<u64>());
    assert!(
        failing.1 as f64 <= failing.0 as f64 * 0.2 + 200.0,
        "the first interval may use what quiet times saved: {failing:?}"
    );
    for at in 0..500 {
        let (n, r) = (requests[at..at + 100].iter().sum::<u64>(), retries[at..at + 100].iter().sum::<u64>());
        // a window of the test may begin within a step of the budget's
        assert!(r as f64 <= n as f64 * 0.2 + 205.0, "{r} retries for {n} requests in the 10 s from {at}");
        if at >= 300 {
            assert!(r as f64 <= n as f64 * 0.21, "{r} retries for {n} requests in the 10 s from {at}");
            assert!(r as f64 >= n as f64 * 0.17, "the budget is used: {r} of {n}");
        }
    }
}

#[test]
fn threads_share_it() {
    let t = Instant::now();
    let b = Budget::new(
        RetryBudget { percent: 20, interval: Duration::from_secs(10), floor: 0, ..RetryBudget::default() },
        t,
    );
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| (0..10_000).for_each(|_| b.request(t)));
        }
    });
    let granted: usize = std::thread::scope(|s| {
        let all: Vec<_> = (0..4).map(|_| s.spawn(|| (0..10_000).filter(|_| b.try_retry(t)).count())).collect();
        all.into_iter().map(|h| h.join().unwrap()).sum()
    });
    assert!((8_000..8_004).contains(&granted), "{granted}");
}
