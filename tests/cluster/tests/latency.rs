//! How soon an edited route changes traffic: from the API server's answer to the edit to the first response that another backend gave, 200 times, by the machine's one clock.

#![allow(clippy::unwrap_used)]

use kube::{
    api::{Api, DynamicObject, Patch, PatchParams},
    discovery::ApiResource,
};
use serde_json::json;
use std::time::Duration;
use weft_test_cluster::{
    Namespace, SOON,
    load::{Lines, change, pod, server, stamp},
    mesh::ENABLED,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_weft-test-load");
const EDITS: usize = 200;
/// The goal of the design for an otherwise idle cluster.
const GOAL: Duration = Duration::from_millis(50);

fn at(sorted: &[u128], percent: usize) -> f64 {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)] as f64 / 1000.0
}

fn spread(mut us: Vec<u128>) -> (f64, String) {
    us.sort_unstable();
    let text = [50, 90, 99].map(|p| format!("p{p} {:.1} ms", at(&us, p))).join(", ");
    (at(&us, 99), format!("{text}, slowest {:.1} ms", at(&us, 100)))
}

/// The ticks of all processors so far, and the idle ones among them.
fn processors() -> [u64; 2] {
    let stat = std::fs::read_to_string("/proc/stat").unwrap();
    let times: Vec<u64> = stat.lines().next().unwrap().split_whitespace().skip(1).map(|t| t.parse().unwrap()).collect();
    // idle and iowait
    [times.iter().sum::<u64>(), times[3] + times[4]]
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster with Weft"]
async fn an_edited_route_changes_traffic_within_50_ms() {
    let ns = Namespace::new("latency", &[ENABLED]).await;
    let names = ["one", "two"];
    for name in names {
        for object in server(PROGRAM, name, 1, Some(name)) {
            ns.apply(object).await;
        }
    }
    // the parent has no pods of its own
    ns.apply(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": [{"name": "http", "port": 80}]}})).await;
    let rules = |to: &str| json!([{"backendRefs": [{"name": to, "port": 80}]}]);
    ns.apply(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "web"},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "web"}], "rules": rules("one")},
    }))
    .await;
    for name in names {
        ns.available(name).await;
    }
    // a call every millisecond, one at a time: the resolution of the measurement
    let to = format!("web.{}.svc.cluster.local:80", ns.name);
    ns.apply(pod(PROGRAM, "client", &["call", &to, "--rate", "1000", "--connections", "1", "--changes"])).await;
    ns.ready("client").await;
    let client = Lines::follow(&ns.pods(), "client", "app").await;
    let first = client.until(0, SOON, |l| change(l).filter(|c| c.1 == "one").map(drop)).await;
    assert!(first.is_some(), "{:?}", client.all());

    let routes: Api<DynamicObject> = Api::namespaced_with(
        ns.client.clone(),
        &ns.name,
        &ApiResource {
            group: "gateway.networking.k8s.io".into(),
            version: "v1".into(),
            api_version: "gateway.networking.k8s.io/v1".into(),
            kind: "HTTPRoute".into(),
            plural: "httproutes".into(),
        },
    );
    let before = processors();
    let (mut from_answer, mut from_request) = (Vec::new(), Vec::new());
    for n in 0..EDITS {
        let target = names[(n + 1) % 2];
        let from = client.len();
        let sent = stamp();
        let patch = Patch::Merge(json!({"spec": {"rules": rules(target)}}));
        routes.patch("web", &PatchParams::default(), &patch).await.unwrap();
        let answered = stamp();
        let seen = client.until(from, SOON, |l| change(l).filter(|c| c.1 == target).map(|c| c.0)).await;
        let (_, seen) = seen.unwrap_or_else(|| panic!("edit {n} to {target} was never seen"));
        // the watchers may hear of it before whoever edited
        from_answer.push(seen.saturating_sub(answered));
        from_request.push(seen.saturating_sub(sent));
        // at no fixed distance, so that no period of ours hides or shows another's
        tokio::time::sleep(Duration::from_millis(20 + (n as u64 * 37) % 61)).await;
    }
    let after = processors();
    let busy = 100 - (after[1] - before[1]) * 100 / (after[0] - before[0]).max(1);
    let failed = client.all().iter().filter(|l| l.starts_with("fail ")).count();
    let (p99, text) = spread(from_answer);
    println!("{EDITS} edits, from the API server's answer to changed traffic: {text}");
    println!("  from the request that edits: {}; processors busy: {busy} %", spread(from_request).1);
    assert_eq!(failed, 0, "{:?}", client.all());
    assert!(p99 <= GOAL.as_millis() as f64, "p99 {p99:.1} ms, processors {busy} % busy");
}
