use super::*;
use proptest::prelude::*;

fn annotations(pairs: &[(&str, &str)]) -> Annotations {
    pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}
fn read(pairs: &[(&str, &str)]) -> Result<Knobs, KnobError> {
    Knobs::read(&annotations(pairs), &Annotations::new())
}

#[test]
fn every_annotation_is_read() {
    let k = read(&[
        (SKIP_INBOUND_PORTS, "9090, 8000-8010"),
        (SKIP_OUTBOUND_PORTS, "25"),
        (SKIP_OUTBOUND_NETWORKS, "10.0.0.0/8, fd00::/8"),
        (CPU_REQUEST, "10m"),
        (CPU_LIMIT, "1"),
        (MEMORY_REQUEST, "20Mi"),
        (MEMORY_LIMIT, "1Gi"),
        (IMAGE, "registry.example:5000/weft-proxy@sha256:abc"),
        (LOG_LEVEL, "info,weft_proxy::http=debug"),
        (ACCESS_LOG, "stdout"),
        (WORKERS, "2"),
        (AWAY, "refuse"),
        (REWRITE_PROBES, "false"),
        (NATIVE_SIDECAR, "true"),
    ])
    .unwrap();
    assert_eq!(k.skip_inbound_ports.as_deref(), Some("9090, 8000-8010"));
    assert_eq!((k.workers, k.rewrite_probes, k.native_sidecar), (Some(2), Some(false), Some(true)));
    assert_eq!(read(&[]).unwrap(), Knobs::default());
}

#[test]
fn the_pod_wins_over_its_namespace() {
    let namespace = annotations(&[(LOG_LEVEL, "debug"), (ACCESS_LOG, "stdout")]);
    let k = Knobs::read(&annotations(&[(LOG_LEVEL, "warn")]), &namespace).unwrap();
    assert_eq!((k.log_level.as_deref(), k.access_log.as_deref()), (Some("warn"), Some("stdout")));
}

#[test]
fn row_54_bad_values_are_denied_with_name_value_and_fix() {
    let many = (1..=10_000).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    for (name, value) in [
        (SKIP_INBOUND_PORTS, "80 443"),
        (SKIP_INBOUND_PORTS, "80; iptables -F"),
        (SKIP_INBOUND_PORTS, "--proxy-uid=0"),
        (SKIP_INBOUND_PORTS, "8010-8000"),
        (SKIP_INBOUND_PORTS, &many),
        (SKIP_OUTBOUND_PORTS, "http"),
        (SKIP_OUTBOUND_NETWORKS, "10.0.0.0/8 -j ACCEPT"),
        (CPU_REQUEST, "much"),
        (CPU_REQUEST, "-1"),
        (CPU_LIMIT, "0"),
        (CPU_LIMIT, "0.0m"),
        (MEMORY_REQUEST, "64 Mi"),
        (MEMORY_LIMIT, "1e400"),
        (IMAGE, "image; rm"),
        (IMAGE, ""),
        (LOG_LEVEL, "loud"),
        (LOG_LEVEL, "weft_proxy=loud"),
        (ACCESS_LOG, "/dev/stdout"),
        (WORKERS, "0"),
        (WORKERS, "many"),
        (AWAY, "Forward"),
        (REWRITE_PROBES, "yes"),
        (NATIVE_SIDECAR, "True"),
    ] {
        let e = read(&[(name, value)]).unwrap_err();
        assert_eq!(e.name, name);
        let text = e.to_string();
        assert!(text.starts_with(&format!("annotation {name}=")) && text.len() < 600, "{text}");
    }
    let e = read(&[(MEMORY_REQUEST, "128Mi"), (MEMORY_LIMIT, "64Mi")]).unwrap_err();
    assert_eq!(
        e.to_string(),
        "annotation weft.dev/proxy-memory-request=\"128Mi\": is more than weft.dev/proxy-memory-limit=\"64Mi\""
    );
}

#[test]
fn unknown_annotations_are_told_with_what_may_be_meant() {
    let a = annotations(&[
        ("weft.dev/exclude-inbound-port", "80"),
        ("weft.dev/colour", "blue"),
        ("example.com/skip", "80"),
        (SKIP_OUTBOUND_PORTS, "80"),
        (INJECTED, "0.1.0"),
    ]);
    assert_eq!(
        unknown(&a),
        [
            "weft: annotation weft.dev/colour means nothing",
            "weft: annotation weft.dev/exclude-inbound-port means nothing; did you mean weft.dev/exclude-inbound-ports?"
        ]
    );
}

#[test]
fn the_document_has_every_annotation_and_no_other() {
    let text = include_str!("../../docs/injection.md");
    let documented: BTreeSet<_> =
        text.lines().filter_map(|l| l.strip_prefix("| `weft.dev/")?.split('`').next()).collect();
    let known: BTreeSet<_> = KNOWN.iter().filter_map(|k| k.strip_prefix("weft.dev/")).collect();
    assert_eq!(documented, known);
}

proptest! {
    #[test]
    fn no_value_panics(name in 0..KNOWN.len(), value in "\\PC{0,80}") {
        let _ = read(&[(KNOWN[name], &value)]);
        let _ = unknown(&annotations(&[(&format!("weft.dev/{value}"), "")]));
    }
}
