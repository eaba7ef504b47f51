//! The controller is away: what is known keeps working, what is new goes where it was sent, never in plain text to a strict workload, and new pods wait and say why.

#![allow(clippy::unwrap_used)]

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Event, Pod},
};
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;
use std::{
    process::Command,
    time::{Duration, Instant},
};
use weft_test_cluster::{
    Namespace, SOON, eventually,
    load::{Load, server},
    mesh::{ENABLED, SYSTEM, Workload, available, installed},
    text,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_weft-test-load");

/// The controller at no replicas, until this is dropped: the tests after this one need it.
struct Away;

impl Away {
    async fn new(client: &kube::Client) -> Self {
        let api: Api<Deployment> = Api::namespaced(client.clone(), SYSTEM);
        let none = Patch::Merge(json!({"spec": {"replicas": 0}}));
        api.patch("weft-controller", &PatchParams::default(), &none).await.unwrap();
        let pods: Api<Pod> = Api::namespaced(client.clone(), SYSTEM);
        let of = ListParams::default().labels("app.kubernetes.io/name=weft-controller");
        let gone = async || {
            let left = pods.list(&of).await.map_err(|e| e.to_string())?.items.len();
            if left == 0 { Ok(()) } else { Err(format!("{left} controllers")) }
        };
        eventually("the controller's end", SOON, gone).await;
        Away
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        let _ =
            Command::new("kubectl").args(["-n", SYSTEM, "scale", "deploy/weft-controller", "--replicas=1"]).output();
    }
}

/// Status and body of the admin port's /ready.
fn readiness(pod: &Pod) -> Option<(String, String)> {
    let ip = pod.status.as_ref()?.pod_ip.as_ref()?;
    let out = Command::new("curl")
        .args(["-s", "--max-time", "5", "-w", "%{http_code}", &format!("http://{ip}:15020/ready")])
        .output()
        .ok()?;
    let said = text(&out);
    let (body, status) = said.rsplit_once('\n')?;
    Some((status.to_owned(), body.to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster with Weft"]
async fn without_a_controller_what_is_known_works_and_what_is_new_waits() {
    installed().await;
    // strict, and with a workload that nobody has asked yet
    let mut load = Load::start("away", PROGRAM, &server(PROGRAM, "late", 1, Some("late"))).await;
    let open = Namespace::new("open", &[ENABLED]).await;
    let (asks, ()) =
        tokio::join!(open.caller("asks"), open.start([Workload::sample("known", &[]), Workload::sample("fresh", &[])]));
    assert_eq!(asks.get(&open.url("known", "/"), "").status, 200);

    load.phase("the controller goes");
    let away = Away::new(&load.ns.client).await;
    load.phase("no controller");
    // known and new; each twice, so that the answer is not a matter of the first try
    for name in ["known", "fresh", "known", "fresh"] {
        let start = Instant::now();
        let answer = asks.get(&open.url(name, "/"), "");
        assert_eq!(answer.status, 200, "{name}: {answer:?}");
        assert!(answer.text.starts_with(name), "{answer:?}");
        // a lookup waits for nobody while the stream is down; the rest is kubectl
        assert!(start.elapsed() < Duration::from_secs(4), "{name}: {:?}", start.elapsed());
    }
    // never in plain text where strict: nobody has told this client that the workload is meshed, so it is not reached
    let late = load.ns.url("late", "/");
    let answer = asks.get(&late, "");
    assert_eq!(answer.status, 0, "{answer:?}");
    // sidecars that serve stay ready
    for pod in load.ns.pods_of("web").await {
        assert_eq!(readiness(&pod).unwrap().0, "200");
    }

    // a new pod is admitted, waits, and says for what
    load.phase("no controller, a new pod");
    for object in server(PROGRAM, "new", 1, Some("new")) {
        load.ns.apply(object).await;
    }
    let said = async || {
        let pod = load.ns.pods_of("new").await.pop().ok_or("no pod yet".to_owned())?;
        match readiness(&pod) {
            Some((status, body)) if body.contains("controller") => Ok((pod, status, body)),
            other => Err(format!("{other:?} {:?}", pod.status)),
        }
    };
    let (pod, status, body) = eventually("a reason on /ready", SOON, said).await;
    println!("a new pod says {status}: {body}");
    assert_eq!(status, "503");
    let name = pod.metadata.name.clone().unwrap();
    let event = async || {
        let of = ListParams::default().fields(&format!("involvedObject.name={name},reason=Unhealthy"));
        let events = Api::<Event>::namespaced(load.ns.client.clone(), &load.ns.name)
            .list(&of)
            .await
            .map_err(|e| e.to_string())?;
        let texts: Vec<String> = events.items.into_iter().filter_map(|e| e.message).collect();
        texts.iter().find(|m| m.contains("Startup probe failed")).cloned().ok_or(format!("{texts:?}"))
    };
    println!("its Event: {}", eventually("an Event about the startup probe", SOON, event).await);
    let log = async || {
        let log = load.ns.logs(&name, "weft-proxy").await;
        log.lines().rev().find(|l| l.contains("controller")).map(str::to_owned).ok_or(log)
    };
    println!("its log: {}", eventually("a line of the sidecar's log about the controller", SOON, log).await);
    let pod = load.ns.pods().get(&name).await.unwrap();
    let app = &pod.status.unwrap().container_statuses.unwrap()[0];
    assert!(app.state.as_ref().unwrap().waiting.is_some() && !app.ready, "the application started: {app:?}");

    load.phase("the controller comes back");
    drop(away);
    available(&load.ns.client, SYSTEM, "weft-controller").await;
    let start = Instant::now();
    load.ns.available("new").await;
    println!("the new pod was available {:.1} s after the controller", start.elapsed().as_secs_f64());
    let reached = async || match asks.get(&late, "") {
        a if a.status == 200 => Ok(()),
        a => Err(a),
    };
    eventually("the strict workload, over mutual TLS", SOON, reached).await;
    load.finish().await;
}
