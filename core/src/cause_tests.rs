use super::*;
use std::collections::HashSet;

#[test]
fn the_table_is_whole() {
    let labels: HashSet<_> = Kind::ALL.iter().map(|k| k.label()).collect();
    assert_eq!(labels.len(), Kind::ALL.len());
    for (at, k) in Kind::ALL.iter().enumerate() {
        assert_eq!(*k as usize, at);
        assert!((400..600).contains(&k.status()), "{k:?}");
        assert!(k.label().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{k:?}");
        // what is safe to retry never reached an application, so it is not the client's fault either
        assert!(k.class() == Class::Never || k.side() == Side::Upstream, "{k:?}");
    }
}

#[test]
fn row_31_what_each_failure_looks_like() {
    for (kind, status, grpc) in [
        (Kind::NoRoute, 404, 12),
        (Kind::NoBackend, 500, 14),
        (Kind::InvalidBackend, 500, 14),
        (Kind::UnsupportedFilter, 500, 14),
        (Kind::NoEndpoints, 503, 14),
        (Kind::RequestTimeout, 504, 4),
        (Kind::BackendTimeout, 504, 4),
        (Kind::TlsFailed, 503, 14),
        (Kind::BudgetExhausted, 503, 14),
    ] {
        assert_eq!((kind.status(), kind.grpc_status()), (status, grpc), "{kind:?}");
    }
}

#[test]
fn texts_for_people() {
    let counts = EndpointCounts { total: 3, refused: 2, ejected: 1, ..Default::default() };
    assert_eq!(counts.to_string(), "0 of 3 endpoints ready: 2 refused, 1 ejected");
    assert_eq!(EndpointCounts::default().to_string(), "0 of 0 endpoints ready");
    let cause = counts.cause(&crate::testing::service("cart"));
    assert_eq!(
        cause.header(true),
        "unprocessed; no endpoint ready: shop/cart:80: 0 of 3 endpoints ready: 2 refused, 1 ejected"
    );
    assert!(Cause::says_unprocessed(cause.header(true).as_bytes()));
    assert!(!Cause::says_unprocessed(cause.header(false).as_bytes()));
    let hostile = Cause::with(Kind::InvalidBackend, format!("a\r\nset-cookie: x{}", "ü".repeat(1000)));
    let header = hostile.header(false);
    assert!(header.len() <= 256 && header.bytes().all(|b| (b' '..=b'~').contains(&b)));
    let invalid = Cause::from(Invalid::BackendNotFound("shop/x".into()));
    assert_eq!(invalid.to_string(), "invalid backend: Service shop/x does not exist");
}
