use super::*;
use proptest::prelude::*;

fn policy(codes: &[u16], attempts: u32) -> RetryPolicy {
    RetryPolicy { codes: codes.into(), grpc_codes: vec![8], attempts, backoff: DEFAULT_BACKOFF }
}
fn failed(kind: Kind) -> Outcome {
    Outcome::Failed { kind, reused: false }
}
fn status(status: u16) -> Outcome {
    Outcome::Response { status, grpc: None }
}

#[test]
fn unprocessed_requests_are_retried_unless_attempts_is_0() {
    for kind in [Kind::ConnectRefused, Kind::ConnectTimeout, Kind::TlsFailed, Kind::Refused, Kind::Unprocessed] {
        assert_eq!(retries(None, failed(kind), b"POST"), UNPROCESSED_RETRIES);
        assert_eq!(retries(Some(&policy(&[], 100)), failed(kind), b"POST"), 100);
        assert_eq!(retries(Some(&policy(&[500], 0)), failed(kind), b"GET"), 0);
    }
}

#[test]
fn row_38_what_may_have_been_processed_is_not_repeated() {
    let p = policy(&[500, 502, 503, 504], 3);
    for kind in [Kind::ResetBeforeResponse, Kind::ResetInResponse, Kind::BadResponse, Kind::RequestTimeout] {
        assert_eq!(retries(Some(&p), failed(kind), b"GET"), 0, "{kind:?}");
    }
    let reused = Outcome::Failed { kind: Kind::ResetBeforeResponse, reused: true };
    assert_eq!(retries(Some(&p), reused, b"GET"), 3);
    assert_eq!(retries(None, reused, b"PUT"), UNPROCESSED_RETRIES);
    assert_eq!(retries(Some(&p), reused, b"POST"), 0);
    assert_eq!(retries(Some(&policy(&[], 0)), reused, b"GET"), 0);
}

#[test]
fn listed_codes_and_timeouts_of_attempts() {
    let p = policy(&[500], 3);
    assert_eq!(retries(Some(&p), status(500), b"POST"), 3);
    assert_eq!(retries(Some(&p), status(503), b"GET"), 0);
    assert_eq!(retries(None, status(500), b"GET"), 0);
    assert_eq!(retries(Some(&policy(&[500], 0)), status(500), b"GET"), 0);
    assert_eq!(retries(Some(&p), failed(Kind::BackendTimeout), b"POST"), 3);
    assert_eq!(retries(None, failed(Kind::BackendTimeout), b"POST"), 0);
    let call = |grpc| Outcome::Response { status: 200, grpc: Some(grpc) };
    assert_eq!(retries(Some(&p), call(14), b"POST"), 3);
    assert_eq!(retries(Some(&p), call(8), b"POST"), 3);
    assert_eq!(retries(Some(&p), call(5), b"POST"), 0);
    assert_eq!(retries(None, call(14), b"POST"), 0);
    assert_eq!(retries(Some(&policy(&[], 0)), call(14), b"POST"), 0);
}

#[test]
fn causes_of_the_mesh_and_the_client_are_final() {
    let p = policy(&[500, 503], 3);
    for kind in Kind::ALL.iter().filter(|k| k.side() != crate::cause::Side::Upstream) {
        assert_eq!(retries(Some(&p), Outcome::Failed { kind: *kind, reused: true }, b"GET"), 0, "{kind:?}");
    }
}

proptest! {
    #[test]
    fn backoff_stays_in_its_window(n in 0u32..200, base in 0u64..u64::MAX, random: u64) {
        let p = RetryPolicy { backoff: Duration::from_nanos(base), ..policy(&[], 1) };
        let waited = backoff(Some(&p), n, random);
        let factor = 2u32.saturating_pow(n.saturating_sub(1)).min(BACKOFF_CAP);
        prop_assert!(waited <= Duration::from_nanos(base).saturating_mul(factor));
        prop_assert!(backoff(None, n, random) < DEFAULT_BACKOFF * BACKOFF_CAP);
    }
}

#[test]
fn backoff_grows_with_full_jitter() {
    let most = |n| backoff(None, n, u64::MAX).as_micros() + 1;
    assert_eq!(
        [most(1), most(2), most(3), most(4), most(5), most(99)],
        [25_000, 50_000, 100_000, 200_000, 250_000, 250_000]
    );
    assert_eq!(backoff(None, 3, 0), Duration::ZERO);
    assert_eq!(backoff(None, 1, u64::MAX / 2).as_micros(), 12_499);
}
