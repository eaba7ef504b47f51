//! The chart is uninstalled under load, and installed again. Last of all tests, since the others need it.

#![allow(clippy::unwrap_used)]

use std::process::Command;
use weft_test_cluster::{
    Namespace, SOON, eventually,
    load::Load,
    mesh::{ENABLED, Workload, helm, installed, is_meshed},
    text,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_weft-test-load");

/// What of ours could still stand in somebody's way: names of webhooks, and objects of ours with finalizers.
fn left() -> String {
    let hooks = "kubectl get mutatingwebhookconfigurations,validatingwebhookconfigurations,validatingadmissionpolicies -o name | grep -i weft";
    let finalizers = "kubectl get gatewayclasses,xmeshes,crds -o jsonpath='{range .items[?(@.metadata.finalizers)]}{.kind}/{.metadata.name}{\"\\n\"}{end}' | grep -i weft";
    let out = Command::new("sh").args(["-c", &format!("{hooks}; {finalizers}; true")]).output().unwrap();
    text(&out)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster with Weft"]
async fn uninstall_leaves_nothing_that_blocks() {
    installed().await;
    let mut load = Load::start("uninstall", PROGRAM, &[]).await;
    let ns = Namespace::new("bare", &[ENABLED]).await;
    ns.start([Workload::sample("meshed", &[])]).await;
    assert!(left().contains("weft-injector"), "{}", left());

    load.phase("helm uninstall");
    helm("uninstall", &[]);
    load.phase("uninstalled");
    assert_eq!(left(), "");
    // labelled as before, and no sidecar
    let client = ns.caller("unmeshed").await;
    assert!(!is_meshed(&ns.pods().get("unmeshed").await.unwrap()));
    ns.start([Workload::sample("plain", &[])]).await;
    assert!(ns.pods_of("plain").await.iter().all(|p| !is_meshed(p)));
    // it calls pods with and without sidecar; strict ones not
    for name in ["meshed", "plain"] {
        let answer = client.get(&ns.url(name, "/"), "");
        assert!(answer.status == 200 && answer.text.starts_with(name), "{name}: {answer:?}");
    }
    assert_eq!(client.get(&load.ns.url("web", "/"), "").status, 0);
    load.settle("uninstalled").await;

    load.phase("installed again");
    helm("upgrade", &[]);
    installed().await;
    let meshed = async || {
        let name = format!("again-{}", weft_test_cluster::load::stamp());
        let client = ns.caller(&name).await;
        if is_meshed(&ns.pods().get(&name).await.unwrap()) { Ok(client) } else { Err("no sidecar") }
    };
    let client = eventually("a sidecar in a new pod", SOON, meshed).await;
    // new and old sidecars trust each other: the root is the one of before
    let answer = client.get(&load.ns.url("web", "/"), "");
    assert_eq!(answer.status, 200, "{answer:?}");
    load.finish().await;
}
