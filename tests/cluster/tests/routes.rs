//! What routes whose parent is a Service do to clients in pods, what `weft stat` says of it, and what stands on their status.

#![allow(clippy::unwrap_used)]

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use serde_json::{Value, json};
use std::time::Duration;
use weft_test_cluster::{
    Namespace, SOON, eventually,
    mesh::{self, Caller, ENABLED, Workload, object, policy, route, stat, weft},
    text,
};

/// Tries enough that a client sees no failure of an application that fails 40 % of its requests: 0.4^21 is one in 200 million.
fn patient() -> Value {
    json!({"codes": [503], "attempts": 20, "backoff": "1ms"})
}
/// So that a budget made for services that work does not decide: see docs/traffic.md.
fn budget(service: &str) -> Value {
    let constraint =
        json!({"budget": {"percent": 100, "interval": "10s"}, "minRetryRate": {"count": 10_000, "interval": "1s"}});
    policy(
        "TrafficPolicy",
        "budget",
        json!({"targetRefs": [{"group": "", "kind": "Service", "name": service}], "retryConstraint": constraint}),
    )
}
fn parent(service: &str) -> Value {
    json!({"name": service})
}
/// How many of `n` answers begin with each of the names.
fn answers(client: &Caller, url: &str, n: usize, names: &[&str]) -> Vec<usize> {
    let said = client.sh(&format!("curl -sS --max-time 10 '{url}?n=[1-{n}]'"));
    let counts: Vec<usize> =
        names.iter().map(|name| said.lines().filter(|l| l.starts_with(&format!("{name} "))).count()).collect();
    assert_eq!(counts.iter().sum::<usize>(), n, "{said}");
    counts
}

#[tokio::test]
#[ignore = "needs a cluster with the chart"]
async fn retries_and_timeouts_change_what_the_client_sees() {
    mesh::installed().await;
    let ns = Namespace::new("retry", &[ENABLED]).await;
    let (client, ()) = tokio::join!(
        ns.caller("client"),
        ns.start([
            Workload::sample("flaky", &["--fail-percent=40"]),
            Workload::sample("slow", &["--slow-percent=100", "--delay=600ms"])
        ]),
    );
    let (flaky, slow) = (ns.url("flaky", "/"), ns.url("slow", "/"));
    // without a route: what the application does
    let before = client.count(&flaky, 200, "");
    assert!((40..=120).contains(&before[&503]), "{before:?}");
    assert_eq!(client.get(&slow, "").status, 200);

    ns.in_force(budget("flaky")).await;
    let backends = |name: &str| json!([{"name": name, "port": 80}]);
    ns.in_force(route(
        "HTTPRoute",
        "patient",
        parent("flaky"),
        json!([{"retry": patient(), "backendRefs": backends("flaky")}]),
    ))
    .await;
    ns.in_force(route(
        "HTTPRoute",
        "brief",
        parent("slow"),
        json!([{"timeouts": {"request": "200ms"}, "backendRefs": backends("slow")}]),
    ))
    .await;
    let timed = async || {
        let answer = client.get(&slow, "");
        if answer.status == 504 { Ok(answer) } else { Err(answer) }
    };
    let answer = eventually("504 after 200 ms", SOON, timed).await;
    assert!(answer.text.contains("timeout"), "{answer:?}");
    assert_eq!(client.count(&flaky, 200, ""), [(200, 200)].into(), "not one failure with retries");

    // a person asks what happened
    let (route_of, rule, backend) = (format!("{}/patient", ns.name), "0", format!("{}/flaky:80", ns.name));
    let seen = async || {
        let lines = stat(&ns, &["--total"]);
        let find = |route: &str| lines.iter().find(|l| l["route"] == route).cloned();
        match (find(&route_of), find(&format!("{}/brief", ns.name)), find("")) {
            (Some(patient), Some(brief), Some(plain)) => Ok((patient, brief, plain)),
            _ => Err(lines),
        }
    };
    let (patient, brief, plain) = eventually("both routes in weft stat", SOON, seen).await;
    assert_eq!((&patient["rule"], &patient["backend"]), (&json!(rule), &json!(backend)), "{patient}");
    assert_eq!((&patient["success"], &patient["requests_per_second"]), (&json!(1.0), &json!(200.0)), "{patient}");
    let tries = patient["attempt_success"].as_f64().unwrap();
    assert!((0.45..0.75).contains(&tries), "40 % of the attempts fail: {patient}");
    // each attempt beyond the first of a request is a retry
    let retries = patient["retries_per_second"].as_f64().unwrap();
    assert!((retries - (200.0 / tries - 200.0)).abs() < 1.0, "{patient}");
    assert!(brief["timeouts_per_second"].as_f64().unwrap() >= 1.0 && brief["success"] != 1.0, "{brief}");
    assert!(plain["retries_per_second"] == 0.0 && plain["success"].as_f64().unwrap() < 0.9, "{plain}");
    let table = text(&weft(&["stat", "client", "-n", &ns.name, "--total"]).output().unwrap());
    for word in ["ATTEMPTS", "RETRIES", "TIMEOUTS", "MTLS", "100.00%", "1/1", route_of.as_str(), backend.as_str()] {
        assert!(table.contains(word), "{word}: {table}");
    }
}

#[tokio::test]
#[ignore = "needs a cluster with the chart"]
async fn a_split_by_weight() {
    mesh::installed().await;
    let ns = Namespace::new("split", &[ENABLED]).await;
    let (client, ()) =
        tokio::join!(ns.caller("client"), ns.start([Workload::sample("v1", &[]), Workload::sample("v2", &[])]));
    let weights = |a: u32, b: u32| {
        let backends = json!([{"name": "v1", "port": 80, "weight": a}, {"name": "v2", "port": 80, "weight": b}]);
        route("HTTPRoute", "split", parent("v1"), json!([{"backendRefs": backends}]))
    };
    let url = ns.url("v1", "/");
    assert_eq!(answers(&client, &url, 50, &["v1", "v2"]), [50, 0], "no route yet");
    ns.in_force(weights(80, 20)).await;
    let split = async || {
        let got = answers(&client, &url, 500, &["v1", "v2"]);
        // 100 of 500, six standard deviations of 9
        if (46..=154).contains(&got[1]) { Ok(()) } else { Err(got) }
    };
    eventually("a fifth to v2", SOON, split).await;
    ns.in_force(weights(0, 1)).await;
    let all = async || {
        let got = answers(&client, &url, 50, &["v1", "v2"]);
        if got == [0, 50] { Ok(()) } else { Err(got) }
    };
    eventually("all to v2", SOON, all).await;
}

/// One Service with a producer's route in its own namespace, and a consumer's in another (GAMMA): each client gets the one that is meant for it.
#[tokio::test]
#[ignore = "needs a cluster with the chart"]
async fn producer_and_consumer_routes() {
    mesh::installed().await;
    let (producer, consumer, third) = tokio::join!(
        Namespace::new("producer", &[ENABLED]),
        Namespace::new("consumer", &[ENABLED]),
        Namespace::new("third", &[ENABLED]),
    );
    let workloads = ["web", "v2", "v3"].map(|n| Workload::sample(n, &[]));
    let (at_home, consuming, elsewhere, ()) = tokio::join!(
        producer.caller("client"),
        consumer.caller("client"),
        third.caller("client"),
        producer.start(workloads),
    );
    let url = producer.url("web", "/");
    for client in [&at_home, &consuming, &elsewhere] {
        assert_eq!(answers(client, &url, 5, &["web"]), [5], "{}", client.namespace);
    }
    producer
        .in_force(route("HTTPRoute", "produced", parent("web"), json!([{"backendRefs": [{"name": "v2", "port": 80}]}])))
        .await;
    producer
        .apply(object(
            "gateway.networking.k8s.io/v1beta1",
            "ReferenceGrant",
            "consumer",
            json!({"from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": consumer.name}], "to": [{"group": "", "kind": "Service"}]}),
        ))
        .await;
    consumer
        .in_force(route(
            "HTTPRoute",
            "consumed",
            json!({"name": "web", "namespace": producer.name}),
            json!([{"backendRefs": [{"name": "v3", "namespace": producer.name, "port": 80}]}]),
        ))
        .await;
    for (client, wanted) in [(&at_home, "v2"), (&consuming, "v3"), (&elsewhere, "v2")] {
        let asked = async || {
            let got = answers(client, &url, 20, &["web", "v2", "v3"]);
            let index = ["web", "v2", "v3"].iter().position(|n| *n == wanted).unwrap();
            if got[index] == 20 { Ok(()) } else { Err(got) }
        };
        eventually(&format!("{wanted} for {}", client.namespace), SOON, asked).await;
    }
}

/// A route's `status.parents` is shared: what another controller has written stays, through edits of the route.
#[tokio::test]
#[ignore = "needs a cluster with the chart"]
async fn statuses_of_routes_and_of_the_mesh() {
    mesh::installed().await;
    let ns = Namespace::new("status", &[ENABLED]).await;
    ns.start([Workload::sample("web", &[])]).await;
    let mine = |path: &str| {
        let rules = json!([{"matches": [{"path": {"type": "PathPrefix", "value": path}}], "backendRefs": [{"name": "web", "port": 80}]}]);
        route("HTTPRoute", "web", parent("web"), rules)
    };
    ns.in_force(mine("/a")).await;
    let gvk = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute");
    let routes: Api<DynamicObject> = Api::namespaced_with(ns.client.clone(), &ns.name, &ApiResource::from_gvk(&gvk));
    let parents = async || routes.get("web").await.unwrap().data["status"]["parents"].as_array().unwrap().clone();
    let ours = parents().await.remove(0);
    assert_eq!(ours["parentRef"], json!({"group": "", "kind": "Service", "name": "web", "port": 80}));
    let resolved = ours["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "ResolvedRefs").unwrap();
    assert_eq!((&resolved["status"], &resolved["observedGeneration"]), (&json!("True"), &json!(1)));

    let theirs = json!({
        "parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"}, "controllerName": "example.com/gateway",
        "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "theirs", "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1}],
    });
    let both = json!({"status": {"parents": [theirs, ours]}});
    routes.patch_status("web", &PatchParams::default(), &Patch::Merge(&both)).await.unwrap();
    for path in ["/b", "/c"] {
        ns.in_force(mine(path)).await;
        assert!(parents().await.contains(&theirs), "{path}");
    }
    assert_eq!(parents().await.len(), 2);

    // what the mesh itself says
    let api = |group, version, kind| {
        let gvk = GroupVersionKind::gvk(group, version, kind);
        let mut resource = ApiResource::from_gvk(&gvk);
        if kind == "XMesh" {
            resource.plural = "xmeshes".into();
        }
        Api::<DynamicObject>::all_with(ns.client.clone(), &resource)
    };
    let class = api("gateway.networking.k8s.io", "v1", "GatewayClass").get("weft").await.unwrap();
    assert_eq!(class.data["spec"]["controllerName"], "weft.dev/gateway-controller");
    let mesh = api("gateway.networking.x-k8s.io", "v1alpha1", "XMesh").get("weft").await.unwrap();
    let accepted = |o: &DynamicObject| {
        let conditions = o.data["status"]["conditions"].as_array().unwrap();
        let c = conditions.iter().find(|c| c["type"] == "Accepted").unwrap();
        (c["status"].as_str().unwrap().to_owned(), c["reason"].as_str().unwrap().to_owned())
    };
    assert_eq!(accepted(&mesh), ("True".into(), "Accepted".into()));
    // no Gateways are served yet, and the class says so
    assert_eq!(accepted(&class), ("False".into(), "Pending".into()));
    let features: Vec<&str> = mesh.data["status"]["supportedFeatures"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|f| f["name"].as_str())
        .collect();
    for feature in ["Mesh", "MeshConsumerRoute", "HTTPRoute", "GRPCRoute"] {
        assert!(features.contains(&feature), "{feature}: {features:?}");
    }
}

/// HTTPRoute without the field `retry`, as the standard channel had it before v1.7. Put back when dropped.
struct WithoutRetry;

impl WithoutRetry {
    async fn made(ns: &Namespace) -> Self {
        let api: Api<CustomResourceDefinition> = Api::all(ns.client.clone());
        let name = "httproutes.gateway.networking.k8s.io";
        let mut crd = serde_json::to_value(api.get(name).await.unwrap()).unwrap();
        let mut removed = 0;
        for version in crd["spec"]["versions"].as_array_mut().unwrap() {
            let rules = &mut version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["rules"];
            removed += u32::from(rules["items"]["properties"].as_object_mut().unwrap().remove("retry").is_some());
        }
        assert!(removed > 0, "the kit's CRDs have it");
        let this = WithoutRetry;
        api.replace(name, &Default::default(), &serde_json::from_value(crd).unwrap()).await.unwrap();
        this
    }
}
impl Drop for WithoutRetry {
    fn drop(&mut self) {
        let crd = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../api/crds/experimental/gateway.networking.k8s.io_httproutes.yaml"
        );
        let words = ["apply", "--server-side", "--force-conflicts", "-f", crd];
        let out = std::process::Command::new("kubectl").args(words).output().unwrap();
        if !out.status.success() {
            eprintln!("{crd} is not put back: {}", text(&out));
        }
    }
}

/// `TrafficPolicy` has what the installed HTTPRoute has no field for.
#[tokio::test]
#[ignore = "needs a cluster with the chart"]
async fn a_traffic_policy_where_routes_have_no_retry() {
    mesh::installed().await;
    let ns = Namespace::new("policy", &[ENABLED]).await;
    let (client, ()) = tokio::join!(
        ns.caller("client"),
        ns.start([
            Workload::sample("flaky", &["--fail-percent=40"]),
            Workload::sample("slow", &["--slow-percent=100", "--delay=600ms"])
        ]),
    );
    let _without = WithoutRetry::made(&ns).await;
    let with = route(
        "HTTPRoute",
        "web",
        parent("flaky"),
        json!([{"retry": patient(), "backendRefs": [{"name": "flaky", "port": 80}]}]),
    );
    // the API server knows no such field any more, and the cli says what to do about that
    let refused = async || {
        let file = std::env::temp_dir().join(format!("{}.json", ns.name));
        std::fs::write(&file, with.to_string()).unwrap();
        let words = ["apply", "--server-side", "-n", &ns.name, "-f", file.to_str().unwrap()];
        let out = std::process::Command::new("kubectl").args(words).output().unwrap();
        std::fs::remove_file(file).unwrap();
        let said = text(&out);
        if !out.status.success() && said.contains("retry") { Ok(()) } else { Err(said) }
    };
    eventually("a route with retry is refused", SOON, refused).await;
    let check = text(&weft(&["check"]).output().unwrap());
    assert!(check.contains("retry") && check.contains("TrafficPolicy"), "{check}");

    let mut plain = with.clone();
    plain["spec"]["rules"][0].as_object_mut().unwrap().remove("retry");
    ns.in_force(plain).await;
    ns.in_force(budget("flaky")).await;
    let before = client.count(&ns.url("flaky", "/"), 100, "");
    assert!(before.get(&503).is_some_and(|n| *n > 10), "{before:?}");
    let target = |kind: &str, name: &str| {
        let group = if kind == "Service" { "" } else { "gateway.networking.k8s.io" };
        json!([{"group": group, "kind": kind, "name": name}])
    };
    ns.in_force(policy(
        "TrafficPolicy",
        "patient",
        json!({"targetRefs": target("HTTPRoute", "web"), "retry": patient()}),
    ))
    .await;
    ns.in_force(policy(
        "TrafficPolicy",
        "brief",
        json!({"targetRefs": target("Service", "slow"), "timeouts": {"request": "200ms"}}),
    ))
    .await;
    let good = async || {
        let got = client.count(&ns.url("flaky", "/"), 100, "");
        if got.len() == 1 && got.contains_key(&200) { Ok(()) } else { Err(got) }
    };
    eventually("no failures with the policy", SOON, good).await;
    let timed = async || {
        let answer = client.get(&ns.url("slow", "/"), "");
        if answer.status == 504 { Ok(()) } else { Err(answer) }
    };
    eventually("504 after 200 ms, on a Service without a route", SOON, timed).await;
    let lines = stat(&ns, &["--total"]);
    let of = |parent: &str| {
        lines.iter().find(|l| l["parent"] == format!("{}/{parent}:80", ns.name) && l["success"] != Value::Null).unwrap()
    };
    assert!(of("flaky")["retries_per_second"].as_f64().unwrap() > 10.0, "{lines:?}");
    assert!(of("slow")["timeouts_per_second"].as_f64().unwrap() > 0.0, "{lines:?}");
}

/// The same for gRPC: a GRPCRoute sends methods to their backends, and a policy on it tries gRPC codes again.
#[tokio::test]
#[ignore = "needs a cluster with the chart"]
async fn grpc_routes_by_method_and_with_retries() {
    mesh::installed().await;
    let ns = Namespace::new("grpc", &[ENABLED]).await;
    let flaky = Workload::sample("flaky", &["--grpc", "--fail-percent=40"]).app_protocol("kubernetes.io/h2c");
    let steady = Workload::sample("steady", &["--grpc"]).app_protocol("kubernetes.io/h2c");
    let (client, ()) = tokio::join!(ns.caller("client"), ns.start([flaky, steady]));
    let call = |method: &str, n: usize| client.grpc(&ns.url("flaky", &format!("/shop.Stock/{method}")), n);
    let before = call("Get", 60);
    assert!(before.get(&Some(14)).is_some_and(|n| *n > 5), "{before:?}");

    let rules = json!([
        {"matches": [{"method": {"service": "shop.Stock", "method": "Count"}}], "backendRefs": [{"name": "steady", "port": 80}]},
        {"matches": [{"method": {"service": "shop.Stock", "method": "Get"}}], "backendRefs": [{"name": "flaky", "port": 80}]},
    ]);
    ns.in_force(route("GRPCRoute", "stock", parent("flaky"), rules)).await;
    ns.in_force(budget("flaky")).await;
    let routed = async || {
        let got = call("Count", 30);
        if got == [(Some(0), 30)].into() { Ok(()) } else { Err(got) }
    };
    eventually("Count at the steady backend", SOON, routed).await;
    assert_eq!(call("Drop", 3), [(Some(12), 3)].into(), "no rule: UNIMPLEMENTED");

    let retry = json!({"grpcCodes": [14], "attempts": 20, "backoff": "1ms"});
    let target = json!([{"group": "gateway.networking.k8s.io", "kind": "GRPCRoute", "name": "stock"}]);
    ns.in_force(policy("TrafficPolicy", "patient", json!({"targetRefs": target, "retry": retry}))).await;
    let good = async || {
        let got = call("Get", 60);
        if got == [(Some(0), 60)].into() { Ok(()) } else { Err(got) }
    };
    eventually("no failures with the policy", Duration::from_secs(60), good).await;
    let lines = stat(&ns, &["--total"]);
    let line = |backend: &str| {
        let (route, backend) = (format!("{}/stock", ns.name), format!("{}/{backend}:80", ns.name));
        lines.iter().find(|l| l["route"] == route && l["backend"] == backend).unwrap_or_else(|| panic!("{lines:?}"))
    };
    assert!(line("flaky")["retries_per_second"].as_f64().unwrap() >= 5.0, "{lines:?}");
    assert_eq!((&line("steady")["success"], &line("steady")["retries_per_second"]), (&json!(1.0), &json!(0.0)));
}
