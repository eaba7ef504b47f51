use super::*;

fn read(r: &Replay) -> Vec<u8> {
    let mut all = vec![];
    while !r.at(all.len()).is_empty() {
        all.extend_from_slice(r.at(all.len()));
    }
    all
}

#[test]
fn plays_back_what_was_recorded_from_any_place() {
    let pool = ReplayPool::new(Arc::default());
    let mut r = pool.record();
    let body: Vec<u8> = (0..20_000u32).map(|i| (i % 251) as u8).collect();
    for piece in body.chunks(1_777) {
        assert!(r.push(piece));
    }
    assert!(r.is_whole() && !r.is_complete());
    r.end();
    assert!(r.is_complete());
    assert_eq!(read(&r), body);
    assert_eq!(r.at(4_095), &body[4_095..4_096]);
    assert_eq!(r.at(19_999), &body[19_999..]);
    assert_eq!(r.at(20_000), b"");
}

#[test]
fn too_large_a_body_is_given_up_as_a_whole() {
    let budget = Arc::new(ReplayBudget::default());
    let pool = ReplayPool::new(budget.clone());
    let mut r = pool.record();
    assert!(r.push(&[7; MOST_PER_REQUEST]));
    assert_eq!(budget.held(), MOST_PER_REQUEST);
    assert!(!r.push(&[7]));
    assert!(!r.is_whole() && r.at(0).is_empty());
    assert_eq!(budget.held(), 0);
    assert!(!r.push(&[7]), "and stays given up");
    r.end();
    assert!(!r.is_complete());
}

#[test]
fn the_process_is_bounded_and_recovers() {
    let budget = Arc::new(ReplayBudget::new(3 * CHUNK));
    let (one, two) = (ReplayPool::new(budget.clone()), ReplayPool::new(budget.clone()));
    let (mut a, mut b) = (one.record(), two.record());
    assert!(a.push(&[1; 2 * CHUNK]));
    assert!(b.push(&[2; 10]));
    assert!(!b.push(&[2; CHUNK]), "the second chunk is one too many");
    assert_eq!(budget.held(), 2 * CHUNK);
    drop(a);
    assert_eq!(budget.held(), 0);
    let mut c = two.record();
    assert!(c.push(&[3; 3 * CHUNK]));
}

#[test]
fn chunks_are_used_again() {
    let pool = ReplayPool::new(Arc::default());
    for i in 0..1_000u32 {
        let mut r = pool.record();
        r.push(&[i as u8; 3 * CHUNK]);
        assert!(read(&r).iter().all(|b| *b == i as u8));
    }
    assert_eq!(pool.0.spare.borrow().len(), 3);
}
