//! The life of a pod with a sidecar: the sidecar first, the application between, the sidecar last; Jobs end; nobody waits for what has died.

#![allow(clippy::unwrap_used)]

use k8s_openapi::{
    api::core::v1::{ContainerStateTerminated, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    ResourceExt as _,
    api::{Api, DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use std::time::{Duration, Instant};
use weft_test_cluster::{
    Namespace, SOON, TOOLS, eventually,
    load::{Lines, Load, container, server},
    mesh::{ENABLED, installed, policy},
    now,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_weft-test-load");

/// A strict namespace with a server `web`: what calls it without a working sidecar gets no answer.
async fn strict(title: &str) -> Namespace {
    installed().await;
    let ns = Namespace::new(title, &[ENABLED]).await;
    let targets = json!([{"group": "", "kind": "Namespace", "name": ns.name}]);
    ns.apply(policy("MeshTLSPolicy", "strict", json!({"mode": "Strict", "targetRefs": targets}))).await;
    for object in server(PROGRAM, "web", 1, Some("web")) {
        ns.apply(object).await;
    }
    ns.available("web").await;
    ns
}

/// How a container ended; native sidecars count among the init containers.
fn ended(pod: &Pod, name: &str) -> Option<ContainerStateTerminated> {
    let status = pod.status.as_ref()?;
    let all = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    all.into_iter().find(|c| c.name == name)?.state.as_ref()?.terminated.clone()
}

fn seconds(time: Option<&Time>) -> i64 {
    time.unwrap().0.as_second()
}

/// A Job's application calls at once, with one try: so the sidecar could proxy before the application was started. When it has ended, the sidecar ends, and the Job is complete.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster with Weft"]
async fn jobs_start_behind_their_sidecar_and_complete() {
    let ns = strict("jobs").await;
    let to = format!("web.{}.svc.cluster.local:80", ns.name);
    let (app, volume) = container(PROGRAM, &["once", &to]);
    // several side by side: a start that is right by chance is wrong sometimes
    ns.apply(json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "calls"},
        "spec": {
            "completions": 6, "parallelism": 3, "backoffLimit": 0,
            "template": {
                "metadata": {"labels": {"app": "calls"}},
                "spec": {"restartPolicy": "Never", "containers": [app], "volumes": [volume]},
            },
        },
    }))
    .await;
    let jobs: Api<k8s_openapi::api::batch::v1::Job> = Api::namespaced(ns.client.clone(), &ns.name);
    let complete = async || {
        let status = jobs.get("calls").await.map_err(|e| e.to_string())?.status.unwrap_or_default();
        let is = status
            .conditions
            .iter()
            .flatten()
            .find(|c| (c.type_ == "Complete" || c.type_ == "Failed") && c.status == "True");
        is.map(|c| (c.type_.clone(), c.message.clone())).ok_or(format!("{status:?}"))
    };
    let (how, message) = eventually("end of the Job", SOON, complete).await;
    let pods = ns.pods_of("calls").await;
    for pod in &pods {
        println!("{}: {}", pod.name_any(), ns.logs(&pod.name_any(), "app").await.trim().replace('\n', "; "));
    }
    assert_eq!(how, "Complete", "{message:?}");
    assert_eq!(pods.len(), 6);
    for pod in &pods {
        let (proxy, app) = (ended(pod, "weft-proxy").unwrap(), ended(pod, "app").unwrap());
        assert_eq!((proxy.exit_code, app.exit_code), (0, 0), "{:?}", pod.status);
        assert!(seconds(proxy.started_at.as_ref()) <= seconds(app.started_at.as_ref()), "{:?}", pod.status);
        // nothing is in flight: the sidecar ends at once
        let after = seconds(proxy.finished_at.as_ref()) - seconds(app.finished_at.as_ref());
        assert!((0..=3).contains(&after), "the sidecar ended {after} s after the application");
    }
}

/// A pod is deleted while it answers and while it has yet to call: the request under way is finished, the call after SIGTERM goes through, and both are over before the sidecar ends.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster with Weft"]
async fn a_deleted_pod_finishes_what_it_does_before_its_sidecar_ends() {
    let ns = strict("ends").await;
    let (mut app, volume) = container(PROGRAM, &["serve", "--delay", "3000"]);
    app["env"] = json!([{"name": "NAME", "value": "slow"}]);
    let farewell = format!(
        "trap 'curl -s -o /dev/null --max-time 5 -w \"after TERM: %{{http_code}}\\n\" http://web.{}.svc.cluster.local/; exit 0' TERM; echo up; while :; do sleep 0.1; done",
        ns.name
    );
    ns.apply(json!({
        "apiVersion": "v1", "kind": "Pod",
        // so that its last status can be read
        "metadata": {"name": "slow", "labels": {"app": "slow"}, "finalizers": ["weft.dev/test"]},
        "spec": {
            "terminationGracePeriodSeconds": 20, "volumes": [volume],
            "containers": [app, {"name": "calls", "image": TOOLS, "command": ["sh", "-c", farewell]}],
        },
    }))
    .await;
    ns.apply(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "slow"},
        "spec": {"selector": {"app": "slow"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    }))
    .await;
    ns.ready("slow").await;
    let client = ns.caller("client").await;
    let (log, calls) =
        (Lines::follow(&ns.pods(), "slow", "app").await, Lines::follow(&ns.pods(), "slow", "calls").await);
    let url = ns.url("slow", "/");
    let asked = tokio::task::spawn_blocking(move || client.get(&url, ""));
    assert!(log.until(0, SOON, |l| l.starts_with("request ").then_some(())).await.is_some(), "{:?}", log.all());
    ns.pods().delete("slow", &DeleteParams::default()).await.unwrap();
    let deleted = Instant::now();
    let answer = asked.await.unwrap();
    assert_eq!((answer.status, answer.text.as_str()), (200, "slow"), "{:?}", log.all());
    let over = async || {
        let pod = ns.pods().get("slow").await.map_err(|e| e.to_string())?;
        ended(&pod, "weft-proxy").map(|proxy| (proxy, pod.clone())).ok_or(format!("{:?}", pod.status))
    };
    let (proxy, pod) = eventually("the sidecar's end", SOON, over).await;
    let took = deleted.elapsed();
    let none =
        Patch::Json::<()>(serde_json::from_value(json!([{"op": "remove", "path": "/metadata/finalizers"}])).unwrap());
    ns.pods().patch("slow", &PatchParams::default(), &none).await.unwrap();
    println!("{:?} {:?}; over {:.1} s after the deletion", log.all(), calls.all(), took.as_secs_f64());
    assert!(calls.all().iter().any(|l| l == "after TERM: 200"), "{:?}", calls.all());
    let (app, calls) = (ended(&pod, "app").unwrap(), ended(&pod, "calls").unwrap());
    assert_eq!((proxy.exit_code, app.exit_code, calls.exit_code), (0, 0, 0), "{:?}", pod.status);
    for c in [&app, &calls] {
        assert!(seconds(c.finished_at.as_ref()) <= seconds(proxy.finished_at.as_ref()), "{:?}", pod.status);
    }
    // three seconds of the request, and not the grace period
    assert!(took < Duration::from_secs(12), "{took:?}");
}

/// Pods that die without a word hold nobody up: their clients go on with the other pod at once. A request that the dead one had begun may fail, since it may have been carried out; it does not wait.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster with Weft"]
async fn a_pod_that_dies_keeps_nothing_waiting() {
    let mut load = Load::start("dies", PROGRAM, &[]).await;
    for n in 0..3 {
        load.phase(&format!("death {n}"));
        let victim = load.ns.pods_of("web").await.swap_remove(0).name_any();
        load.ns.pods().delete(&victim, &now()).await.unwrap();
        load.settle("death").await;
        load.ns.available("web").await;
    }
    let report = load.end().await;
    println!("{}{}", report.text, report.failures.join("\n"));
    assert!(report.slowest < 2000, "a call took {} ms", report.slowest);
    // at most the calls that were under way, one for each of six connections and death
    assert!(report.failed <= 18, "{} failed", report.failed);
}
