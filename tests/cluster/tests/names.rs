//! What names are made of changes while the mesh runs: a namespace's label, the trust domain.

#![allow(clippy::unwrap_used)]

use k8s_openapi::api::core::v1::{Event, Namespace as KubeNamespace, Pod};
use kube::{
    ResourceExt as _,
    api::{Api, ListParams, LogParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use std::time::Duration;
use weft_test_cluster::{
    Namespace, SOON, client, eventually,
    load::Load,
    mesh::{ENABLED, SYSTEM, Upgraded, Workload, installed, is_meshed, policy},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_weft-test-load");

async fn label(ns: &Namespace, value: Value) {
    let change = json!({"metadata": {"labels": {"weft.dev/inject": value}}});
    let api: Api<KubeNamespace> = Api::all(ns.client.clone());
    api.patch(&ns.name, &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
}

/// Without its label a namespace gets no more sidecars, and those that run stay members; with it again, what came in between is reported, and a restart mends it.
#[tokio::test]
#[ignore = "needs a cluster with the chart"]
async fn row_85_a_namespace_that_is_relabelled() {
    installed().await;
    let ns = Namespace::new("relabel", &[ENABLED]).await;
    let (before, ()) = tokio::join!(ns.caller("before"), ns.start([Workload::sample("web", &[])]));
    let strict = json!({"targetRefs": [{"group": "", "kind": "Namespace", "name": ns.name}], "mode": "Strict"});
    ns.in_force(policy("MeshTLSPolicy", "strict", strict)).await;

    label(&ns, Value::Null).await;
    // the API server's view of a namespace, by which it calls webhooks, follows a moment later
    let plain = async || {
        let name = format!("between-{}", weft_test_cluster::load::stamp());
        let caller = ns.caller(&name).await;
        if is_meshed(&ns.pods().get(&name).await.unwrap()) { Err("a sidecar") } else { Ok(caller) }
    };
    let between = eventually("a pod without sidecar", SOON, plain).await;
    let url = ns.url("web", "/");
    assert_eq!(
        (before.get(&url, "").status, between.get(&url, "").status),
        (200, 0),
        "members stay, strangers are refused"
    );

    label(&ns, json!("enabled")).await;
    let events: Api<Event> = Api::namespaced(ns.client.clone(), &ns.name);
    let told = async || {
        let list = events.list(&ListParams::default().fields("reason=NotMeshed")).await.map_err(|e| e.to_string())?;
        let of = |e: &&Event| e.involved_object.name.as_deref() == Some(between.pod.as_str());
        list.items.iter().find(of).and_then(|e| e.message.clone()).ok_or_else(|| format!("{} Events", list.items.len()))
    };
    let said = eventually("an Event on the pod without sidecar", SOON, told).await;
    assert!(said.contains("weft.dev/inject") && said.contains("kubectl rollout restart"), "{said}");
    let meshed = async || {
        let name = format!("after-{}", weft_test_cluster::load::stamp());
        let caller = ns.caller(&name).await;
        if is_meshed(&ns.pods().get(&name).await.unwrap()) { Ok(caller) } else { Err("no sidecar") }
    };
    assert_eq!(eventually("a sidecar again", SOON, meshed).await.get(&url, "").status, 200);
}

/// An upgrade to another trust domain gets no further than its first pods, which say why; nobody is cut off, new pods start as members, and a rollback ends it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster with the chart"]
async fn row_85_another_trust_domain() {
    installed().await;
    let mut load = Load::start("domain", PROGRAM, &[]).await;
    load.phase("another trust domain");
    let upgraded = Upgraded::begun(&["--set", "trustDomain=other.example"]);
    let pods: Api<Pod> = Api::namespaced(client().await, SYSTEM);
    for name in ["weft-ca", "weft-controller", "weft-injector"] {
        let says = async || {
            let list = ListParams::default().labels(&format!("app.kubernetes.io/name={name}"));
            let mut said = Vec::new();
            for pod in pods.list(&list).await.map_err(|e| e.to_string())?.items {
                let s = pod.status.clone().unwrap_or_default();
                let ready = s.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
                // those that end at once are asked about the time before
                for previous in [false, true] {
                    let log = LogParams { previous, tail_lines: Some(40), ..LogParams::default() };
                    let text = pods.logs(&pod.name_any(), &log).await.unwrap_or_default();
                    said.push((ready, text));
                }
            }
            let why = |text: &str| {
                text.contains("of trust domain") && text.contains("cluster.local") && text.contains("other.example")
            };
            match said.iter().any(|(ready, text)| !ready && why(text)) {
                true => Ok(()),
                false => Err(format!("{said:?}")),
            }
        };
        eventually(&format!("{name} of another trust domain is not ready, and says why"), SOON, says).await;
    }
    // the webhook and the CA of before serve on
    let ns = Namespace::new("domain-new", &[ENABLED]).await;
    let caller = ns.caller("new").await;
    assert!(is_meshed(&ns.pods().get("new").await.unwrap()));
    assert_eq!(caller.get(&load.ns.url("web", "/"), "").status, 200);
    tokio::time::sleep(Duration::from_secs(3)).await; // under load, with pods that try and fail beside those that serve
    load.phase("helm rollback");
    upgraded.back().await;
    load.phase("as before");
    load.finish().await;
}
