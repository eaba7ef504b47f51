use super::*;

#[test]
fn strict_lets_exactly_the_probes_in() {
    let probe = |port, path: Option<&str>| Probe { port, path: path.map(Into::into) };
    let strict = InboundPolicy {
        tls: MeshTlsMode::Strict,
        probes: vec![probe(8080, Some("/healthz?full=1")), probe(9000, None), probe(9001, Some(GRPC_HEALTH))],
        ..InboundPolicy::default()
    };
    assert_eq!(strict.admit(true, 8080), Admission::Allow);
    assert_eq!(strict.admit(false, 8080), Admission::Probes { http: true, tcp: false });
    assert_eq!(strict.admit(false, 9000), Admission::Probes { http: false, tcp: true });
    assert_eq!(strict.admit(false, 80), Admission::Refuse);
    assert!(strict.is_probe(8080, b"GET", b"/healthz?full=1"));
    assert!(strict.is_probe(9001, b"POST", GRPC_HEALTH.as_bytes()));
    assert!(!strict.is_probe(9001, b"GET", GRPC_HEALTH.as_bytes()));
    assert!(!strict.is_probe(8080, b"POST", GRPC_HEALTH.as_bytes()));
    for (port, method, target) in [
        (8080, &b"POST"[..], &b"/healthz?full=1"[..]),
        (8080, b"GET", b"/healthz"),
        (8080, b"GET", b"//healthz?full=1"),
        (8080, b"GET", b"/healthz/../admin"),
        (9000, b"GET", b"/healthz?full=1"),
    ] {
        assert!(!strict.is_probe(port, method, target));
    }
    let permissive = InboundPolicy::default();
    assert_eq!(permissive.admit(false, 1), Admission::Allow);
}
