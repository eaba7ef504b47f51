//! Row 53 of the fault matrix, on real kernels' tables: init runs twice, is killed half-way, meets other tools' rules, lacks rights or a family.

use weft_test_netns::{Lab, Pod, text};

const APPLY: [&str; 3] = ["apply", "--exclude-inbound-ports", "15020"];

fn rules(pod: &Pod, backend: &str) -> [String; 2] {
    ["iptables", "ip6tables"].map(|t| pod.sh(&format!("{t}-{backend} -t nat -S 2>/dev/null")))
}

fn apply(pod: &Pod, backend: &str) {
    let out = pod.init(&[&APPLY[..], &["--backend", backend]].concat());
    assert!(out.status.success(), "{}", text(&out));
}

#[test]
#[ignore = "needs root and network namespaces"]
fn row_53_applied_twice_the_rules_are_the_same_in_both_families() {
    for backend in ["nft", "legacy"] {
        let pod = Lab::new().pod();
        apply(&pod, backend);
        let once = rules(&pod, backend);
        for family in &once {
            assert_eq!(family.matches("--to-ports 15001").count(), 1, "{family}");
            assert_eq!(family.matches("-A OUTPUT -p tcp -j WEFT_OUT").count(), 1, "{family}");
        }
        apply(&pod, backend);
        assert_eq!(once, rules(&pod, backend));
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn row_53_half_applied_and_doubled_rules_are_repaired() {
    for backend in ["nft", "legacy"] {
        let pod = Lab::new().pod();
        apply(&pod, backend);
        let whole = rules(&pod, backend);
        // as after a kill in the middle, and after somebody's second jump
        pod.sh(&format!("iptables-{backend} -t nat -D WEFT_OUT -o lo -j RETURN; ip6tables-{backend} -t nat -F WEFT_IN; iptables-{backend} -t nat -A OUTPUT -p tcp -j WEFT_OUT"));
        let out = pod.init(&[&["verify"], &APPLY[1..], &["--backend", backend]].concat());
        assert!(!out.status.success() && text(&out).contains("-A WEFT_OUT -o lo -j RETURN"), "{}", text(&out));
        apply(&pod, backend);
        assert_eq!(whole, rules(&pod, backend));
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn row_53_other_tools_rules_stay() {
    for backend in ["nft", "legacy"] {
        let pod = Lab::new().pod();
        let other = "-A OUTPUT -p udp -m udp --dport 53 -j RETURN";
        pod.sh(&format!("iptables-{backend} -t nat {other}"));
        apply(&pod, backend);
        assert!(rules(&pod, backend)[0].contains(other));
        let out = pod.init(&["remove"]);
        assert!(out.status.success(), "{}", text(&out));
        let [v4, v6] = rules(&pod, backend);
        assert!(v4.contains(other) && !v4.contains("WEFT") && !v6.contains("WEFT"), "{v4}{v6}");
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn row_53_the_backend_in_use_is_found() {
    let pod = Lab::new().pod();
    pod.sh("iptables-legacy -t nat -A OUTPUT -p udp -m udp --dport 53 -j RETURN");
    let out = pod.init(&APPLY);
    assert!(text(&out).contains("iptables-legacy"), "{}", text(&out));
    let fresh = Lab::new().pod();
    let out = fresh.init(&APPLY);
    assert!(text(&out).contains("iptables-nft"), "{}", text(&out));
}

#[test]
#[ignore = "needs root and network namespaces"]
fn row_53_a_missing_capability_is_named_and_nothing_is_left() {
    let pod = Lab::new().pod();
    let init = weft_test_netns::binary("weft-init");
    let drop = |caps: &str| {
        let out = pod
            .command("setpriv")
            .args([caps, "--"])
            .arg(&init)
            .args(["apply", "--backend", "legacy"])
            .output()
            .unwrap();
        assert!(!out.status.success());
        text(&out)
    };
    let said = drop("--bounding-set=-net_admin");
    assert!(said.contains("add NET_ADMIN"), "{said}");
    let said = drop("--bounding-set=-net_raw");
    assert!(said.contains("add NET_RAW"), "{said}");
    assert!(!rules(&pod, "legacy")[0].contains("WEFT") && !rules(&pod, "nft")[0].contains("WEFT"));
}

#[test]
#[ignore = "needs root and network namespaces"]
fn row_53_without_ipv6_only_ipv4_is_captured() {
    let pod = Lab::new().pod();
    pod.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
    apply(&pod, "nft");
    let [v4, v6] = rules(&pod, "nft");
    assert!(v4.contains("WEFT_OUT") && !v6.contains("WEFT_OUT"), "{v4}{v6}");
}

#[test]
#[ignore = "needs root and network namespaces"]
fn row_53_a_refused_rule_changes_nothing() {
    let pod = Lab::new().pod();
    apply(&pod, "nft");
    let before = rules(&pod, "nft");
    let out = pod.init(&["apply", "--proxy-uid", "0"]);
    assert!(!out.status.success() && text(&out).contains("proxy uid 0"), "{}", text(&out));
    assert_eq!(before, rules(&pod, "nft"));
}
