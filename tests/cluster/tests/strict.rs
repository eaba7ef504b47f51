//! Workloads that take plain text and such that do not, for clients outside the mesh and for the kubelet; who may call, by identity.

#![allow(clippy::unwrap_used)]

use k8s_openapi::api::core::v1::Event;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};
use std::{
    process::Command,
    time::{Duration, Instant},
};
use weft_test_cluster::{
    Namespace, SOON, eventually,
    mesh::{self, Caller, ENABLED, Workload, policy},
    text,
};

fn outside() -> Value {
    json!({"labels": {"weft.dev/inject": "disabled"}})
}

/// A change of policy reaches proxies a moment later.
async fn status(client: &Caller, url: &str, flags: &str, wanted: u16) {
    let asked = async || {
        let answer = client.get(url, flags);
        if answer.status == wanted { Ok(()) } else { Err(answer) }
    };
    eventually(&format!("{wanted} for {} from {}", url, client.pod), SOON, asked).await;
}

#[tokio::test]
#[ignore = "needs a cluster with the chart"]
async fn plain_text_to_permissive_and_strict() {
    mesh::installed().await;
    let ns = Namespace::new("tls", &[ENABLED]).await;
    let (meshed, plain, ()) = tokio::join!(
        ns.caller("meshed"),
        ns.caller_with("plain", outside(), json!({})),
        ns.start([Workload::sample("open", &[]), Workload::sample("closed", &[])]),
    );
    let (open, closed) = (ns.url("open", "/"), ns.url("closed", "/"));
    for client in [&meshed, &plain] {
        assert_eq!((client.get(&open, "").status, client.get(&closed, "").status), (200, 200), "{}", client.pod);
    }
    let strict = policy(
        "MeshTLSPolicy",
        "closed",
        json!({"targetRefs": [{"group": "", "kind": "Pod", "selector": {"matchLabels": {"app": "closed"}}}], "mode": "Strict"}),
    );
    ns.in_force(strict.clone()).await;
    status(&plain, &closed, "", 0).await;
    assert_eq!(
        (plain.get(&open, "").status, meshed.get(&open, "").status, meshed.get(&closed, "").status),
        (200, 200, 200)
    );

    // the whole namespace, but for what has a policy of its own
    ns.in_force(policy(
        "MeshTLSPolicy",
        "all",
        json!({"targetRefs": [{"group": "", "kind": "Namespace", "name": ns.name}], "mode": "Strict"}),
    ))
    .await;
    status(&plain, &open, "", 0).await;
    let mut permissive = strict;
    permissive["spec"]["mode"] = json!("Permissive");
    ns.in_force(permissive).await;
    status(&plain, &closed, "", 200).await;
    assert_eq!((meshed.get(&open, "").status, meshed.get(&closed, "").status), (200, 200));
}

/// A workload that is not well: name, probe, arguments; the sidecar's path below /probe and what it says there.
type Ill = (&'static str, Value, &'static [&'static str], Option<(&'static str, &'static str)>);

/// The kubelet has no certificate, and its probes pass all the same: the pod becomes ready, and is not restarted by a liveness probe that would need one failure only.
#[tokio::test]
#[ignore = "needs a cluster with the chart"]
async fn probes_of_strict_workloads() {
    mesh::installed().await;
    let ns = Namespace::new("probes", &[ENABLED]).await;
    ns.apply(policy(
        "MeshTLSPolicy",
        "strict",
        json!({"targetRefs": [{"group": "", "kind": "Namespace", "name": ns.name}], "mode": "Strict"}),
    ))
    .await;
    let probed = |name: &str, probe: Value| {
        let mut quick = probe;
        (quick["periodSeconds"], quick["failureThreshold"], quick["timeoutSeconds"]) = (json!(1), json!(1), json!(5));
        Workload::sample(name, &["--grpc"]).container(json!({"readinessProbe": quick, "livenessProbe": quick}))
    };
    let all = [
        (
            "http",
            json!({"httpGet": {"path": "/healthy?now", "port": "http", "httpHeaders": [{"name": "x-probe", "value": "1"}]}}),
        ),
        ("exec", json!({"exec": {"command": ["weft", "--version"]}})),
        ("tcp", json!({"tcpSocket": {"port": 8080}})),
        ("grpc", json!({"grpc": {"port": 8080, "service": "shop.v1.Orders"}})),
    ];
    // of an application that fails, one that does not listen there, one that does not serve: what the sidecar says, which asks for the kubelet
    let ill: [Ill; 4] = [
        ("sick", json!({"httpGet": {"path": "/ready", "port": 8080}}), &["--fail-percent=100"], None),
        ("deaf", json!({"tcpSocket": {"port": 8081}}), &[], Some(("tcp/8081", "refused"))),
        (
            "idle",
            json!({"grpc": {"port": 8080}}),
            &["--grpc", "--fail-percent=100"],
            Some(("grpc/8080", "grpc-status 14")),
        ),
        ("other", json!({"grpc": {"port": 8080}}), &[], Some(("grpc/8080", "it has no grpc-status"))),
    ];
    for (name, probe, args, _) in &ill {
        let mut probe = probe.clone();
        probe["periodSeconds"] = json!(1);
        Workload::sample(name, args).container(json!({"readinessProbe": probe})).apply(&ns).await;
    }
    ns.start(all.clone().map(|(name, probe)| probed(name, probe))).await;
    let since = Instant::now();
    let plain = ns.caller_with("plain", outside(), json!({})).await;
    for (name, _) in &all {
        assert_eq!(plain.get(&ns.url(name, "/other"), "").status, 0, "{name} is strict for others");
    }
    // five probes of each kind and more
    let well = async || {
        for (name, _) in &all {
            let pod = ns.pods_of(name).await.remove(0);
            let s = pod.status.unwrap();
            let restarts: i32 = s.container_statuses.iter().flatten().map(|c| c.restart_count).sum();
            let ready = s.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
            assert!(ready && restarts == 0, "{name}: {s:?}");
        }
        if since.elapsed() > Duration::from_secs(6) { Ok(()) } else { Err("six seconds") }
    };
    eventually("probed for six seconds", SOON, well).await;

    let events: Api<Event> = Api::namespaced(ns.client.clone(), &ns.name);
    for (name, _, _, asked) in &ill {
        let heard = async || {
            let list =
                events.list(&ListParams::default().fields("reason=Unhealthy")).await.map_err(|e| e.to_string())?.items;
            let of = |e: &Event| e.involved_object.name.as_ref().is_some_and(|n| n.starts_with(&format!("{name}-")));
            let said: Vec<String> = list.into_iter().filter(of).filter_map(|e| e.message).collect();
            match said.iter().any(|m| m.starts_with("Readiness probe failed") && m.contains("statuscode: 503")) {
                true => Ok(()),
                false => Err(format!("{said:?}")),
            }
        };
        eventually(&format!("an Event about {name}"), SOON, heard).await;
        let status = ns.pods_of(name).await.remove(0).status.unwrap();
        // the sidecar is well, the application runs, and it is not ready
        let app = status.container_statuses.iter().flatten().find(|c| c.name == "app").unwrap();
        let sidecar = status.init_container_statuses.iter().flatten().find(|c| c.name == "weft-proxy").unwrap();
        let running = app.state.as_ref().is_some_and(|s| s.running.is_some());
        assert!(sidecar.ready && running && !app.ready && app.restart_count == 0, "{name}: {status:?}");
        if let Some((probe, words)) = asked {
            let url = format!("http://{}:15020/probe/{probe}", status.pod_ip.unwrap());
            let out =
                Command::new("curl").args(["-s", "--max-time", "5", "-w", "%{http_code}", &url]).output().unwrap();
            let said = text(&out);
            assert!(said.ends_with("503") && said.contains(words), "{name}: {said}");
        }
    }
}

/// `AuthorizationPolicy`: in dry-run mode it only counts, then it decides; by identity, method and path. The probes still pass.
#[tokio::test]
#[ignore = "needs a cluster with the chart"]
async fn who_may_call() {
    mesh::installed().await;
    let ns = Namespace::new("authz", &[ENABLED]).await;
    let (friend, stranger, plain, ()) = tokio::join!(
        ns.caller("friend"),
        ns.caller("stranger"),
        ns.caller_with("plain", outside(), json!({})),
        ns.start([Workload::sample("web", &["--grpc"])]),
    );
    let url = |path: &str| ns.url("web", path);
    let allow = |mode: &str| {
        policy(
            "AuthorizationPolicy",
            "web",
            json!({
                "targetRefs": [{"group": "", "kind": "Pod", "selector": {"matchLabels": {"app": "web"}}}], "action": "Allow", "mode": mode,
                "rules": [{
                    "sources": [{"type": "ServiceAccount", "serviceAccount": {"name": "friend"}}],
                    "http": [{"methods": ["GET"], "paths": [{"type": "PathPrefix", "value": "/open"}]}],
                }],
            }),
        )
    };
    let pod = ns.pods_of("web").await.remove(0).metadata.name.unwrap();
    let counted = |mode: &str| {
        let metrics = String::from_utf8(
            Command::new("kubectl")
                .args(["get", "--raw", &format!("/api/v1/namespaces/{}/pods/{pod}:15020/proxy/metrics", ns.name)])
                .output()
                .unwrap()
                .stdout,
        )
        .unwrap();
        let series = format!("weft_authorization_denied_total{{policy=\"{}/web\",mode=\"{mode}\"}} ", ns.name);
        metrics.lines().find_map(|l| l.strip_prefix(&series)?.parse::<u32>().ok()).unwrap_or(0)
    };

    ns.in_force(allow("DryRun")).await;
    let dry = async || {
        assert_eq!(stranger.get(&url("/open/a"), "").status, 200, "a dry run decides nothing");
        if counted("dry_run") > 0 { Ok(()) } else { Err("nothing was counted") }
    };
    eventually("a dry run that counts", SOON, dry).await;
    let before = counted("dry_run");
    assert_eq!(friend.get(&url("/open/a"), "").status, 200);
    assert_eq!(counted("dry_run"), before, "what the policy allows is not counted");

    ns.in_force(allow("Enforce")).await;
    status(&stranger, &url("/open/a"), "", 403).await;
    for (client, path, flags, wanted) in [
        (&friend, "/open/a", "", 200),
        (&friend, "/open", "", 200),
        (&friend, "/openly", "", 403),
        (&friend, "/open/../secret", "--path-as-is", 403),
        (&friend, "/open/a", "-X DELETE", 403),
        (&friend, "/", "", 403),
        (&stranger, "/open/a", "", 403),
        (&plain, "/open/a", "", 403),
    ] {
        assert_eq!(client.get(&url(path), flags).status, wanted, "{} {path} {flags}", client.pod);
    }
    let denied = stranger.get(&url("/open/a"), "-D -");
    assert!(denied.text.contains("weft-error: not allowed for this identity"), "{denied:?}");
    assert_eq!(stranger.grpc(&url("/open/Call"), 20), [(Some(7), 20)].into(), "gRPC says it in its own words");
    assert!(counted("enforce") > 0);

    // a denial wins over what is allowed
    let deny = policy(
        "AuthorizationPolicy",
        "not-even-friends",
        json!({
            "targetRefs": [{"group": "", "kind": "Namespace", "name": ns.name}], "action": "Deny",
            "rules": [{"http": [{"paths": [{"type": "PathPrefix", "value": "/open/private"}]}]}],
        }),
    );
    ns.in_force(deny).await;
    status(&friend, &url("/open/private/x"), "", 403).await;
    assert_eq!(friend.get(&url("/open/a"), "").status, 200);
    ns.available("web").await;
}
