//! What a `TrafficPolicy` or an `XBackendTrafficPolicy` does to the calls of a client.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, time::Duration};
use weft_test_mesh::{
    Mesh,
    app::Reply,
    client::{Answer, Call},
    eventually,
    objects::Objects,
};

fn web(pods: usize) -> Objects {
    let mut o = Objects::shop().pod("client", "client", &[9000]).service(
        "web",
        "web",
        &["80, name: http, targetPort: 8080", "81, name: grpc, targetPort: 8080"],
    );
    for n in 1..=pods {
        o = o.pod(&format!("web-{n}"), "web", &[8080]);
    }
    o
}
/// A route that retries 503 once.
fn retrying(o: Objects) -> Objects {
    o.route("retrying", "web, port: 80", "[{retry: {codes: [503], attempts: 1}, backendRefs: [{name: web, port: 80}]}]")
}
async fn send(call: &Call) -> Answer {
    call.send().await.unwrap()
}
/// As many at once; the statuses, and what `weft-error` says of those that are not 200.
async fn at_once(call: &Call, n: usize) -> (Vec<u16>, Vec<String>) {
    let all: Vec<_> = (0..n)
        .map(|_| {
            let call = call.clone();
            tokio::spawn(async move { call.send().await.unwrap() })
        })
        .collect();
    let (mut statuses, mut errors) = (Vec::new(), Vec::new());
    for a in all {
        let a = a.await.unwrap();
        statuses.push(a.status);
        errors.extend(a.header("weft-error").map(str::to_owned));
    }
    statuses.sort_unstable();
    (statuses, errors)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_budget_of_a_traffic_policy() {
    // nothing by share, two in an hour
    let budget = "retryConstraint: {budget: {percent: 0}, minRetryRate: {count: 2, interval: 1h}}";
    let mesh = Mesh::builder()
        .yaml(retrying(web(1)).traffic("web", budget).yaml())
        .app("web-1", |_, _| Reply::Status(503))
        .start()
        .await;
    let call = mesh.pod("client").call("web", 80);
    let mut refused = 0;
    for _ in 0..10 {
        let a = send(&call).await;
        assert_eq!(a.status, 503);
        refused += usize::from(a.header("weft-error").is_some_and(|e| e.contains("retry budget")));
    }
    assert_eq!((mesh.app("web-1").requests(), refused), (12, 8));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_budget_of_the_standard_policy() {
    let policy = "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\nmetadata: {name: budget, namespace: shop}\nspec: {targetRefs: [{group: \"\", kind: Service, name: web}], retryConstraint: {budget: {percent: 0}, minRetryRate: {count: 1, interval: 1h}}}";
    let mesh =
        Mesh::builder().yaml(retrying(web(1)).and(policy).yaml()).app("web-1", |_, _| Reply::Status(503)).start().await;
    let call = mesh.pod("client").call("web", 80);
    for _ in 0..5 {
        send(&call).await;
    }
    assert_eq!(mesh.app("web-1").requests(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_fails_once_too_often_is_left_alone() {
    let outlier = "outlierDetection: {consecutiveFailures: 1, baseEjectionTime: 10m, maxEjectionPercent: 50}, loadBalancing: {type: RoundRobin}";
    let mesh = Mesh::builder()
        .yaml(web(2).traffic("web", outlier).yaml())
        .app("web-1", |_, _| Reply::Status(500))
        .start()
        .await;
    let call = mesh.pod("client").call("web", 80);
    let mut statuses = Vec::new();
    for _ in 0..20 {
        statuses.push(send(&call).await.status);
    }
    // an application's own 500 is a failure, too
    assert_eq!(statuses.iter().filter(|s| **s == 500).count(), 1, "{statuses:?}");
    assert!(mesh.metrics("client").await.contains("weft_engine_ejections_total 1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn round_robin_takes_endpoints_in_turn() {
    let mesh = Mesh::start(web(3).traffic("web", "loadBalancing: {type: RoundRobin}").yaml()).await;
    let call = mesh.pod("client").call("web", 80);
    let mut by_pod: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..12 {
        *by_pod.entry(send(&call).await.pod()).or_default() += 1;
    }
    assert_eq!(by_pod.into_values().collect::<Vec<_>>(), [4, 4, 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_under_way_are_bounded() {
    let slow = |_, _: &_| Reply::After(Duration::from_millis(500), Box::new(Reply::Echo));
    let mesh = Mesh::builder()
        .yaml(web(1).traffic("web", "connectionLimits: {maxRequests: 2}").yaml())
        .app("web-1", slow)
        .start()
        .await;
    let call = mesh.pod("client").call("web", 80);
    let (statuses, errors) = at_once(&call, 5).await;
    assert_eq!(statuses, [200, 200, 503, 503, 503]);
    assert!(errors.iter().all(|e| e.contains("too many requests to the backend")), "{errors:?}");
    // places are given back
    assert_eq!(at_once(&call, 2).await.0, [200, 200]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_and_who_waits_for_them_are_bounded() {
    let slow = |_, _: &_| Reply::After(Duration::from_millis(300), Box::new(Reply::Echo));
    // HTTP/1 to a pod without a sidecar: one request to a connection
    let objects = Objects::shop()
        .pod("client", "client", &[9000])
        .service("web", "web", &["80, name: http, targetPort: 8080"])
        .plain_pod("web-1", "web", &[8080])
        .traffic("web", "connectionLimits: {maxConnections: 1, maxPendingRequests: 1}");
    let mesh = Mesh::builder().yaml(objects.yaml()).app("web-1", slow).start().await;
    let call = mesh.pod("client").call("web", 80);
    let (statuses, errors) = at_once(&call, 4).await;
    assert_eq!(statuses, [200, 200, 503, 503]);
    assert!(errors.iter().all(|e| e.contains("wait")), "{errors:?}");
    assert_eq!(mesh.app("web-1").connections(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_requests_than_the_rate_get_429_and_grpc_resource_exhausted() {
    let objects = web(1).traffic("web", "localRateLimit: {requests: 3, interval: 1h, burst: 1}");
    let mesh = Mesh::start(objects.yaml()).await;
    let client = mesh.pod("client");
    let mut statuses = Vec::new();
    for _ in 0..6 {
        let a = send(&client.call("web", 80)).await;
        if a.status == 429 {
            assert!(a.header("weft-error").unwrap().starts_with("more requests than the rate limit allows"));
        }
        statuses.push(a.status);
    }
    assert_eq!(statuses, [200, 200, 200, 200, 429, 429]);
    assert_eq!(mesh.app("web-1").requests(), 4);
    // each port is a backend of its own
    for expected in [None, None, None, None, Some(8)] {
        let a = send(&client.call("web", 81).grpc("/shop.Web/Get")).await;
        assert_eq!((a.status, a.grpc_status()), (200, expected));
    }
    let metrics = mesh.metrics("client").await;
    let counted = |port: u16, n: u32| {
        let line =
            |l: &&str| l.contains("cause=\"rate_limited\"") && l.contains(&format!("parent=\"shop/web:{port}\""));
        metrics.lines().find(line).is_some_and(|l| l.ends_with(&format!(" {n}")))
    };
    assert!(counted(80, 2) && counted(81, 1), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_without_routes_has_timeouts_and_retries() {
    let policy = "retry: {codes: [503], attempts: 2}, timeouts: {request: 2s, backendRequest: 300ms}";
    let mesh = Mesh::builder()
        .yaml(web(1).traffic("web", policy).yaml())
        .app("web-1", |n, seen| match (seen.path.as_str(), n) {
            ("/slow", _) => Reply::After(Duration::from_secs(30), Box::new(Reply::Echo)),
            (_, 0 | 1) => Reply::Status(503),
            _ => Reply::Echo,
        })
        .start()
        .await;
    let call = mesh.pod("client").call("web", 80);
    assert_eq!(send(&call).await.status, 200);
    assert_eq!(mesh.app("web-1").requests(), 3);
    let a = send(&call.path("/slow")).await;
    assert_eq!(a.status, 504, "{:?}", a.headers);
    assert_eq!(mesh.app("web-1").requests(), 6, "each try has its own time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_route_has_the_retries_and_timeouts_of_a_policy() {
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: calls, namespace: shop}\nspec: {parentRefs: [{group: \"\", kind: Service, name: web, port: 81}], rules: [{name: all, backendRefs: [{name: web, port: 81}]}]}";
    let target = "group: gateway.networking.k8s.io, kind: GRPCRoute, name: calls, sectionName: all";
    let objects =
        web(1).and(route).traffic_on(target, "retry: {grpcCodes: [8], attempts: 2}, timeouts: {request: 400ms}");
    let mesh = Mesh::builder()
        .yaml(objects.yaml())
        .app("web-1", |n, seen| match (seen.path.as_str(), n) {
            ("/shop.Web/Slow", _) => Reply::After(Duration::from_secs(30), Box::new(Reply::Grpc(0))),
            (_, 0 | 1) => Reply::GrpcOnly(8),
            _ => Reply::Grpc(0),
        })
        .start()
        .await;
    let client = mesh.pod("client");
    let a = send(&client.call("web", 81).grpc("/shop.Web/Get")).await;
    assert_eq!((a.grpc_status(), mesh.app("web-1").requests()), (Some(0), 3));
    let a = send(&client.call("web", 81).grpc("/shop.Web/Slow")).await;
    assert_eq!(a.grpc_status(), Some(4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_comes_and_goes_takes_effect_at_once() {
    let objects = web(1);
    let mesh = Mesh::start(objects.yaml()).await;
    let call = mesh.pod("client").call("web", 80);
    assert_eq!(send(&call).await.status, 200);
    mesh.save(objects.clone().traffic("web", "localRateLimit: {requests: 1, interval: 1h}").yaml());
    eventually("the limit holds", async || send(&call).await.status == 429).await;
    mesh.save(objects.yaml());
    eventually("the limit is gone", async || send(&call).await.status == 200).await;
    for _ in 0..5 {
        assert_eq!(send(&call).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_83_the_family_that_was_dialled() {
    // each pod and the Service have an address of both families
    let yaml = web(2)
        .yaml()
        .replace("clusterIP: 10.96.2.1,", "clusterIP: 10.96.2.1, clusterIPs: [10.96.2.1, 'fd00:96::1'],")
        .replace("podIPs: [{ip: 10.244.2.2}]", "podIPs: [{ip: 10.244.2.2}, {ip: 'fd00:244::2'}]")
        .replace("podIPs: [{ip: 10.244.2.3}]", "podIPs: [{ip: 10.244.2.3}, {ip: 'fd00:244::3'}]");
    let mesh = Mesh::builder()
        .yaml(&yaml)
        .app("web-1", |_, _| Reply::After(Duration::from_secs(3), Box::new(Reply::Echo)))
        .app("web-2", |_, _| Reply::After(Duration::from_secs(3), Box::new(Reply::Echo)))
        .start()
        .await;
    let client = mesh.pod("client");
    for ipv6 in [false, true] {
        let call = Call::new(client.service_address_of("web", 80, ipv6), "web");
        let calls: Vec<_> = (0..6)
            .map(|_| {
                let call = call.clone();
                tokio::spawn(async move { call.send().await.unwrap().status })
            })
            .collect();
        // where the requests are while they are under way
        eventually("six requests are under way at both pods", async || {
            let dump = mesh.dump("client").await;
            let endpoints = dump["workers"].as_array().into_iter().flatten().flat_map(|w| {
                w["engine"]["balancing"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .flat_map(|b| b["endpoints"].as_array().into_iter().flatten())
            });
            let busy: Vec<(bool, u64)> = endpoints
                .map(|e| (e["address"].as_str().unwrap().starts_with('['), e["in_flight"].as_u64().unwrap()))
                .filter(|(_, n)| *n > 0)
                .collect();
            assert!(busy.iter().all(|(six, _)| *six == ipv6), "{ipv6}: {busy:?}");
            busy.len() == 2 && busy.iter().map(|(_, n)| n).sum::<u64>() == 6
        })
        .await;
        for c in calls {
            assert_eq!(c.await.unwrap(), 200);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_affinity_holds_where_a_route_leads() {
    let objects = web(4).service("front", "nobody", &["80, name: http"]).route(
        "front",
        "front",
        "[{backendRefs: [{name: web, port: 80}]}]",
    );
    let pods = async |yaml: &str| {
        let mesh = Mesh::start(yaml).await;
        let call = mesh.pod("client").call("front", 80);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..30 {
            seen.insert(send(&call).await.pod());
        }
        seen.len()
    };
    let sticky = objects.yaml().replace("clusterIP: 10.96.2.1,", "clusterIP: 10.96.2.1, sessionAffinity: ClientIP,");
    assert_eq!(pods(&sticky).await, 1);
    assert!(pods(objects.yaml()).await > 1);
}
