//! Not one request fails while the mesh is worked on: routes are edited, workloads roll, the control plane is restarted and killed, certificates are made anew, the chart is upgraded. The load is that of
//! [`weft_test_cluster::load`]; a failure is reported with what was being done then.

#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use std::process::Command;
use weft_test_cluster::{
    SOON, eventually,
    load::{Load, change, kill, restart, server, stamp},
    mesh::{SYSTEM, Upgraded},
    text,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_weft-test-load");

fn route(rules: Value) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "web"},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "web"}], "rules": rules},
    })
}

/// Fifty edits of every sort: another backend, a split, a filter, timeouts and retries, rules in front, and back. Each is waited for until a client sees it, so that all fifty meet traffic.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster with Weft"]
async fn routes_edited_fifty_times() {
    let mut more = server(PROGRAM, "one", 1, Some("one")).to_vec();
    more.extend(server(PROGRAM, "two", 1, Some("two")));
    let mut load = Load::start("edits", PROGRAM, &more).await;
    let to = |name: &str| json!({"name": name, "port": 80});
    for n in 0..50 {
        let (target, other) = if n % 2 == 0 { ("one", "two") } else { ("two", "one") };
        let mut rule = json!({"backendRefs": [to(target)]});
        match n / 2 % 5 {
            1 => rule["timeouts"] = json!({"request": "10s", "backendRequest": "5s"}),
            2 => rule["retry"] = json!({"codes": [503], "attempts": 2}),
            3 => {
                rule["filters"] = json!([{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "x-edit", "value": n.to_string()}]}}])
            }
            4 => rule["backendRefs"] = json!([to(target), {"name": other, "port": 80, "weight": 0}]),
            _ => {}
        }
        let mut rules = vec![rule];
        if n % 3 == 0 {
            rules.insert(
                0,
                json!({"matches": [{"path": {"type": "PathPrefix", "value": "/other"}}], "backendRefs": [to(other)]}),
            );
        }
        load.phase(&format!("edit {n}"));
        let at = load.client(0).len();
        load.ns.apply(route(json!(rules))).await;
        let seen = load.client(0).until(at, SOON, |l| change(l).filter(|c| c.1 == target).map(drop)).await;
        assert!(seen.is_some(), "edit {n} was never seen: {:?}", load.failures());
    }
    load.phase("edits are over");
    load.finish().await;
}

/// Ten times all servers are replaced.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster with Weft"]
async fn a_deployment_rolls_ten_times() {
    let mut load = Load::start("rolls", PROGRAM, &[]).await;
    for n in 0..10 {
        load.phase(&format!("roll {n}"));
        restart(&load.ns.client, &load.ns.name, "web").await;
    }
    load.phase("rolls are over");
    load.finish().await;
}

/// Each part of the control plane is replaced in order, and then killed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster with Weft"]
async fn the_control_plane_restarts() {
    let mut load = Load::start("restarts", PROGRAM, &[]).await;
    for name in ["weft-controller", "weft-ca", "weft-injector"] {
        load.phase(&format!("{name} restarts"));
        restart(&load.ns.client, SYSTEM, name).await;
        load.phase(&format!("{name} is killed"));
        kill(&load.ns.client, SYSTEM, name).await;
    }
    load.phase("restarts are over");
    load.finish().await;
}

/// Values change, so that everything is replaced, and change back.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster with Weft"]
async fn the_chart_is_upgraded_and_rolled_back() {
    let mut load = Load::start("upgrade", PROGRAM, &[]).await;
    load.phase("helm upgrade");
    let upgraded = Upgraded::to(&["--set", "log.level=debug"]).await;
    load.phase("helm rollback");
    upgraded.back().await;
    load.phase("upgrades are over");
    load.finish().await;
}

/// When the leaf of each pod of a namespace ends, in whole seconds since 1970.
async fn leaves(load: &Load) -> Vec<u64> {
    let mut ends = Vec::new();
    for app in ["web", "client-0", "client-1", "client-2"] {
        for pod in load.ns.pods_of(app).await {
            let ip = pod.status.unwrap().pod_ip.unwrap();
            let out = Command::new("curl")
                .args(["-sS", "--max-time", "5", &format!("http://{ip}:15020/metrics")])
                .output()
                .unwrap();
            let left = text(&out)
                .lines()
                .find_map(|l| l.strip_prefix("weft_certificate_expires_seconds ")?.parse::<f64>().ok());
            ends.push((stamp() / 1_000_000) as u64 + left.unwrap_or_else(|| panic!("{ip}: {}", text(&out))) as u64);
        }
    }
    ends
}

/// Waits until every pod has another leaf than now.
async fn renewed(load: &Load, what: &str) {
    let before = leaves(load).await;
    // a second's rounding is no other leaf
    let renewed = async || {
        let now = leaves(load).await;
        let all = before.len() == now.len() && before.iter().zip(&now).all(|(b, n)| *n > b + 2);
        if all { Ok(()) } else { Err(format!("{before:?} {now:?}")) }
    };
    eventually(&format!("{what}: new leaves"), SOON, renewed).await;
}

fn rotate(what: &str) -> String {
    let words = ["-n", SYSTEM, "exec", "deploy/weft-ca", "--", "weft-ca", "rotate", what, "--kubernetes"];
    let out = Command::new("kubectl").args(words).output().unwrap();
    assert!(out.status.success(), "rotate {what}: {}", text(&out));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Leaves that live for 20 s are renewed; then the issuer is made anew, then the root.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster with Weft"]
async fn certificates_are_made_anew() {
    let short = Upgraded::to(&["--set", "ca.leafLifetime=20s", "--set", "ca.extraArgs={--rotation-hold=2s}"]).await;
    let mut load = Load::start("rotation", PROGRAM, &[]).await;
    load.phase("leaves are renewed");
    renewed(&load, "short leaves").await;
    load.phase("the issuer is made anew");
    rotate("issuer");
    renewed(&load, "new issuer").await;
    let before = rotate("status");
    load.phase("the root is made anew");
    rotate("root");
    let done = async || {
        let status = rotate("status");
        if status.starts_with("no rotation") && status != before { Ok(status) } else { Err(status) }
    };
    // members whose leaves are long renew within a minute of being told, spread over it
    let after = eventually("end of the root's rotation", 2 * SOON, done).await;
    println!("{}, then {}", before.trim(), after.trim());
    load.phase("rotations are over");
    renewed(&load, "leaves of the new root").await;
    load.finish().await;
    short.back().await;
}
