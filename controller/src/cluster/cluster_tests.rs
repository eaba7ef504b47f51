use super::*;
use crate::{
    fake_api::{FakeApi, GATEWAY},
    index::Members,
    source::kubernetes::tests::{Setup, load, objects},
    testing::*,
};
use merge::CONTROLLER;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use tokio::time::{sleep, timeout};
use weft_discovery::ResourceName;

const X: &str = "gateway.networking.x-k8s.io";
const RULES: &str = "[{backendRefs: [{name: orders, port: 80}]}]";
fn shop() -> String {
    [
        namespace("shop", true),
        svc("shop", "orders", 1, "[{name: http, port: 80, targetPort: 8080}]"),
        pod("shop", "orders", 1),
        route("HTTPRoute", "shop", "r", "name: orders", RULES),
    ]
    .concat()
}

/// A running writer that leads.
async fn started(api: FakeApi) -> Setup {
    let s = Setup::new(api, Members::WithSidecar).await;
    let turned = spawn(&s, s.api.client(), Leading::always());
    // whoever loses its election ends, so somebody must hold this end
    tokio::spawn(async move { turned.closed().await });
    s
}
fn spawn(s: &Setup, client: Client, leading: Leading) -> watch::Sender<bool> {
    let writer = Writer {
        client,
        world: s.world.clone(),
        cluster: s.cluster.clone(),
        metrics: s.metrics.clone(),
        leading,
        replica: "r0".into(),
        mesh: "weft".into(),
    };
    let (turned, turns) = watch::channel(true);
    tokio::spawn(writer.run(turns, s.stop.clone()));
    turned
}
fn full() -> FakeApi {
    let api = FakeApi::default();
    api.install_gateway_api();
    api.install_weft();
    api.install_mesh_kind();
    load(&api, &shop());
    api
}
fn status_of(api: &FakeApi) -> Value {
    api.get(GATEWAY, "httproutes", "shop", "r").unwrap()["status"].clone()
}
/// `Type=Status/Reason@generation` of our entry.
fn conditions_of(status: &Value) -> Vec<String> {
    let ours = status["parents"].as_array().into_iter().flatten().find(|p| p["controllerName"] == CONTROLLER);
    let all = ours.and_then(|p| p["conditions"].as_array()).into_iter().flatten();
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    all.map(|c| {
        format!("{}={}/{}@{}", text(&c["type"]), text(&c["status"]), text(&c["reason"]), c["observedGeneration"])
    })
    .collect()
}
async fn until(what: &str, holds: impl Fn() -> bool) {
    let seen = async {
        while !holds() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(60), seen).await.unwrap_or_else(|_| panic!("never: {what}"));
}
fn writes(api: &FakeApi) -> usize {
    api.requests().iter().filter(|r| r.starts_with("PUT") && r.ends_with("/status")).count()
}

#[tokio::test(start_paused = true)]
async fn a_route_gets_its_status_once() {
    let s = started(full()).await;
    until("the status", || !status_of(&s.api).is_null()).await;
    let status = status_of(&s.api);
    assert_eq!(conditions_of(&status), ["Accepted=True/Accepted@1", "ResolvedRefs=True/ResolvedRefs@1"]);
    assert_eq!(status["parents"][0]["parentRef"], json!({"group": "", "kind": "Service", "name": "orders"}));
    // the mesh and the class get theirs, too
    until("all statuses", || writes(&s.api) == 3).await;
    // nothing changes, so nothing is written, however often the world turns
    let wrote = writes(&s.api);
    for n in 0..20 {
        load(&s.api, &svc("shop", &format!("other{n}"), 100 + n, "[{port: 80}]"));
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(writes(&s.api), wrote);
    // an edit: the new generation in every condition, in one write
    load(&s.api, &route("HTTPRoute", "shop", "r", "name: orders, port: 81", RULES));
    until("the new generation", || conditions_of(&status_of(&s.api)) == ["Accepted=False/NoMatchingParent@2"]).await;
    assert_eq!(writes(&s.api), wrote + 1);
    let message = status_of(&s.api)["parents"][0]["conditions"][0]["message"].as_str().unwrap().to_owned();
    assert_eq!(message, "spec.parentRefs[0].port: Service shop/orders has no TCP port 81 (its ports are 80)");
    // the parent goes, and the entry with it
    let mut o = s.api.get(GATEWAY, "httproutes", "shop", "r").unwrap();
    o["spec"]["parentRefs"] = json!([{"name": "gw"}]);
    s.api.apply(o);
    until("no entry", || status_of(&s.api)["parents"] == json!([])).await;
}

#[tokio::test(start_paused = true)]
async fn entries_of_others_survive_a_race() {
    let api = full();
    let foreign = json!({"parentRef": {"name": "gw"}, "controllerName": "example.com/other", "conditions": [{"type": "Accepted", "status": "True"}]});
    let theirs = foreign.clone();
    // between our reading and our writing somebody else writes
    api.before_next_write(move |a| {
        let mut o = a.get(GATEWAY, "httproutes", "shop", "r").unwrap();
        o["status"] = json!({"parents": [theirs]});
        a.apply(o);
    });
    let s = Setup::new(api, Members::WithSidecar).await;
    s.api.forbid("gatewayclasses", false);
    let _turned = spawn(&s, s.api.client(), Leading::always());
    until("both entries", || status_of(&s.api)["parents"].as_array().is_some_and(|p| p.len() == 2)).await;
    assert_eq!(status_of(&s.api)["parents"][0], foreign);
    assert_eq!(conditions_of(&status_of(&s.api)).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_mesh_describes_itself() {
    let s = started(full()).await;
    let mesh = |api: &FakeApi| api.get(X, "xmeshes", "", "weft").unwrap_or_default();
    until("the mesh's status", || !mesh(&s.api)["status"].is_null()).await;
    let m = mesh(&s.api);
    assert_eq!(m["spec"], json!({"controllerName": CONTROLLER}));
    let names: Vec<&str> =
        m["status"]["supportedFeatures"].as_array().unwrap().iter().filter_map(|f| f["name"].as_str()).collect();
    assert_eq!(names, desired::FEATURES);
    assert!(names.is_sorted());
    let accepted = &m["status"]["conditions"][0];
    assert_eq!(
        (&accepted["type"], &accepted["status"], &accepted["observedGeneration"]),
        (&json!("Accepted"), &json!("True"), &json!(1))
    );
    // no Gateway is served, so the class does not promise it
    let class = s.api.get(GATEWAY, "gatewayclasses", "", "weft").unwrap();
    assert_eq!(
        (&class["status"]["conditions"][0]["status"], &class["status"]["conditions"][0]["reason"]),
        (&json!("False"), &json!("Pending"))
    );
    // what a user deletes stays deleted
    s.api.delete(GATEWAY, "gatewayclasses", "", "weft");
    sleep(Duration::from_secs(120)).await;
    assert!(s.api.get(GATEWAY, "gatewayclasses", "", "weft").is_none());
}

#[tokio::test(start_paused = true)]
async fn objects_of_the_same_name_that_are_not_ours_are_left_alone() {
    let api = full();
    let other = json!({"apiVersion": "gateway.networking.x-k8s.io/v1alpha1", "kind": "XMesh", "metadata": {"name": "weft"}, "spec": {"controllerName": "example.com/mesh"}});
    api.apply(other);
    let before = api.get(X, "xmeshes", "", "weft");
    let s = started(api).await;
    until("the route's status", || !status_of(&s.api).is_null()).await;
    sleep(Duration::from_secs(120)).await;
    assert_eq!(s.api.get(X, "xmeshes", "", "weft"), before);
}

#[tokio::test(start_paused = true)]
async fn row_78_kinds_that_come_later_are_seen_to() {
    let api = FakeApi::default();
    load(&api, &[namespace("shop", true), svc("shop", "orders", 1, "[{port: 80}]")].concat());
    let s = started(api).await;
    sleep(Duration::from_secs(60)).await;
    s.api.install_mesh_kind();
    until("the mesh", || s.api.get(X, "xmeshes", "", "weft").is_some_and(|m| !m["status"].is_null())).await;
    s.api.install_gateway_api();
    load(&s.api, &route("HTTPRoute", "shop", "r", "name: orders", RULES));
    until("the status", || !status_of(&s.api).is_null()).await;
}

#[tokio::test(start_paused = true)]
async fn row_86_what_a_proxy_refuses_stands_on_the_route() {
    let s = started(full()).await;
    until("the status", || !status_of(&s.api).is_null()).await;
    let (workload, name) = (Arc::from("web/front-0"), ResourceName::ServicePort(service("shop/orders:80")));
    s.world.refused(&workload, &name, "rule 0: the pattern is too large");
    until("the refusal", || {
        conditions_of(&status_of(&s.api)).contains(&"weft.dev/Refused=True/RefusedByProxy@1".into())
    })
    .await;
    let text = status_of(&s.api).to_string();
    assert!(
        text.contains("proxy web/front-0 keeps the configuration from before: rule 0: the pattern is too large"),
        "{text}"
    );
    s.world.taken(&workload, &name);
    until("it is taken back", || conditions_of(&status_of(&s.api)).len() == 2).await;
}

#[tokio::test(start_paused = true)]
async fn fields_that_nobody_knows_are_in_the_status() {
    let api = full();
    let mut o = api.get(GATEWAY, "httproutes", "shop", "r").unwrap();
    o["spec"]["rules"][0]["teleport"] = json!(true);
    api.apply(o);
    let s = started(api).await;
    until("the condition", || {
        conditions_of(&status_of(&s.api)).contains(&"PartiallyInvalid=True/UnsupportedValue@2".into())
    })
    .await;
    assert!(status_of(&s.api).to_string().contains("Dropped Rule or field: spec.rules[0].teleport"));
}

#[tokio::test(start_paused = true)]
async fn policies_get_an_entry_for_each_target() {
    let api = full();
    api.define(X, &["v1alpha1"], "XBackendTrafficPolicy", "xbackendtrafficpolicies", true);
    let target = |name: &str| format!("{{group: '', kind: Service, name: {name}}}");
    let policy = |group: &str, kind: &str, name: &str, spec: &str| {
        format!(
            "---\napiVersion: {group}/v1alpha1\nkind: {kind}\nmetadata: {{namespace: shop, name: {name}}}\nspec: {{{spec}}}\n"
        )
    };
    let traffic = format!("targetRefs: [{}, {}], timeouts: {{request: 1s}}", target("orders"), target("ordres"));
    let budget = format!("targetRefs: [{}], retryConstraint: {{budget: {{percent: 10}}}}", target("orders"));
    load(&api, &policy("weft.dev", "TrafficPolicy", "t", &traffic));
    load(&api, &policy(X, "XBackendTrafficPolicy", "b", &budget));
    load(
        &api,
        &policy(
            "weft.dev",
            "MeshTLSPolicy",
            "m",
            "targetRefs: [{group: '', kind: Namespace, name: shop}], mode: Strict",
        ),
    );
    load(
        &api,
        &policy(
            "weft.dev",
            "AuthorizationPolicy",
            "a",
            "targetRefs: [{group: '', kind: Namespace, name: shop}], rules: []",
        ),
    );
    // somebody else's entry on one of them
    let mut o = api.get(X, "xbackendtrafficpolicies", "shop", "b").unwrap();
    let foreign = json!({"ancestorRef": {"name": "gw"}, "controllerName": "example.com/other", "conditions": []});
    o["status"] = json!({"ancestors": [foreign]});
    api.apply(o);
    let s = started(api).await;
    let told = |group: &str, plural: &str, name: &str| -> Vec<String> {
        let o = s.api.get(group, plural, "shop", name).unwrap();
        let ours = o["status"]["ancestors"].as_array().cloned().unwrap_or_default().into_iter();
        let ours = ours.filter(|a| a["controllerName"] == CONTROLLER);
        ours.map(|a| {
            let c = &a["conditions"][0];
            let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
            format!(
                "{} {}: {}={}/{}@{}",
                text(&a["ancestorRef"]["kind"]),
                text(&a["ancestorRef"]["name"]),
                text(&c["type"]),
                text(&c["status"]),
                text(&c["reason"]),
                c["observedGeneration"]
            )
        })
        .collect()
    };
    until("the traffic policy", || told("weft.dev", "trafficpolicies", "t").len() == 2).await;
    assert_eq!(
        told("weft.dev", "trafficpolicies", "t"),
        ["Service orders: Accepted=True/Accepted@1", "Service ordres: Accepted=False/TargetNotFound@1"]
    );
    for (plural, name) in [("meshtlspolicies", "m"), ("authorizationpolicies", "a")] {
        until(plural, || told("weft.dev", plural, name) == ["Namespace shop: Accepted=True/Accepted@1"]).await;
    }
    until("the budget", || told(X, "xbackendtrafficpolicies", "b") == ["Service orders: Accepted=True/Accepted@1"])
        .await;
    assert_eq!(s.api.get(X, "xbackendtrafficpolicies", "shop", "b").unwrap()["status"]["ancestors"][0], foreign);
    // the target comes: only the policy's own status tells, since no proxy is concerned
    load(&s.api, &svc("shop", "ordres", 7, "[{name: http, port: 80}]"));
    until("the late target", || {
        told("weft.dev", "trafficpolicies", "t").iter().all(|t| t.ends_with("Accepted=True/Accepted@1"))
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_has_no_status_gets_an_event_once() {
    let api = full();
    load(
        &api,
        &svc(
            "shop",
            "odd",
            5,
            "[{name: dns, port: 53, protocol: UDP}, {name: a, port: 80, appProtocol: carrier/pigeon}]",
        ),
    );
    load(
        &api,
        &pod("shop", "odd", 9).replace("uid: uid-9", "uid: uid-9, annotations: {weft.dev/exclude-inbound-ports: http}"),
    );
    let mut broken = objects(&route("HTTPRoute", "shop", "broken", "name: orders", RULES)).remove(0);
    broken["spec"]["rules"] = json!("none");
    api.apply(broken);
    let doubtful = "[{backendRefs: [{name: orders, port: 80, weight: 0}], retry: {attempts: 1, codes: [404]}}]";
    load(&api, &route("HTTPRoute", "shop", "doubtful", "name: orders", doubtful));
    let s = started(api).await;
    let events = |api: &FakeApi| -> Vec<String> {
        let all = api.all("events.k8s.io", "events");
        all.iter()
            .map(|e| {
                format!(
                    "{} {} {}",
                    e["regarding"]["kind"].as_str().unwrap(),
                    e["regarding"]["name"].as_str().unwrap(),
                    e["reason"].as_str().unwrap()
                )
            })
            .collect()
    };
    until("the events", || events(&s.api).len() >= 3).await;
    sleep(Duration::from_secs(300)).await;
    let mut seen = events(&s.api);
    seen.sort();
    let notes: Vec<String> = s.api.all("events.k8s.io", "events").iter().map(|e| e["note"].to_string()).collect();
    assert!(notes.iter().any(|n| n.contains("spec.ports[1].appProtocol: \\\"carrier/pigeon")), "{notes:?}");
    let expected = [
        "HTTPRoute broken Unreadable",
        "HTTPRoute doubtful RetryOfClientError",
        "HTTPRoute doubtful WeightsZero",
        "Pod odd-9 InvalidAnnotation",
        "Service odd UnknownAppProtocol",
    ];
    assert_eq!(seen, expected);
}

#[tokio::test(start_paused = true)]
async fn row_77_one_writer_at_a_time() {
    let s = Setup::new(full(), Members::WithSidecar).await;
    let cut: Vec<Arc<AtomicBool>> = (0..3).map(|_| Arc::default()).collect();
    let leading: Vec<Leading> = (0..3).map(|_| Leading::default()).collect();
    let stop = CancellationToken::new();
    let mut turns = Vec::new();
    for i in 0..3 {
        let client = s.api.client_over(cut[i].clone());
        let (turned, turn) = watch::channel(false);
        let election = Election {
            client,
            namespace: "weft-system".into(),
            name: "weft-controller".into(),
            identity: format!("r{i}"),
        };
        tokio::spawn(election.run(leading[i].clone(), turned, stop.clone()));
        turns.push(turn);
    }
    let leaders = || leading.iter().enumerate().filter(|(_, l)| l.holds()).map(|(i, _)| i).collect::<Vec<_>>();
    // a minute of looking, at any moment one at most
    let watch = async |time: Duration| {
        let (began, mut none) = (Instant::now(), Duration::ZERO);
        let mut seen = Vec::new();
        while began.elapsed() < time {
            let now = leaders();
            assert!(now.len() <= 1, "{now:?} lead at once");
            match now.first() {
                Some(i) if seen.last() != Some(i) => seen.push(*i),
                None => none += Duration::from_millis(50),
                _ => {}
            }
            sleep(Duration::from_millis(50)).await;
        }
        (seen, none)
    };
    until("a leader", || leaders().len() == 1).await;
    let first = leaders()[0];
    let (seen, none) = watch(Duration::from_secs(300)).await;
    assert_eq!((seen, none), (vec![first], Duration::ZERO), "leadership flaps");
    // cut off: it stops before another begins, and another begins
    cut[first].store(true, Relaxed);
    let (seen, none) = watch(Duration::from_secs(60)).await;
    let second = *seen.last().unwrap();
    assert!(second != first && none < Duration::from_secs(12), "{seen:?}, {none:?} without a leader");
    cut[first].store(false, Relaxed);
    let (seen, _) = watch(Duration::from_secs(60)).await;
    assert_eq!(seen, [second], "a replica that comes back takes nothing");
    // the API server away for everybody: nobody writes, then one does again
    s.api.down(Some(503));
    sleep(lease::DEADLINE + lease::RETRY).await;
    assert!(leaders().is_empty());
    s.api.down(None);
    let (seen, _) = watch(Duration::from_secs(60)).await;
    assert_eq!(seen.len(), 1);
    // an orderly end gives the Lease back
    stop.cancel();
    until("released", || {
        let lease = s.api.get("coordination.k8s.io", "leases", "weft-system", "weft-controller").unwrap();
        lease["spec"]["holderIdentity"] == ""
    })
    .await;
    assert!(leaders().is_empty());
}

#[tokio::test(start_paused = true)]
async fn row_77_who_does_not_lead_writes_nothing() {
    let s = Setup::new(full(), Members::WithSidecar).await;
    let _turned = spawn(&s, s.api.client(), Leading::default());
    sleep(Duration::from_secs(60)).await;
    assert!(!s.api.requests().iter().any(|r| r.starts_with("PUT") || r.starts_with("POST")), "{:?}", s.api.requests());
}

#[tokio::test(start_paused = true)]
async fn a_thousand_statuses_are_written_at_a_measured_pace() {
    let api = full();
    for i in 0..1_000 {
        load(&api, &route("HTTPRoute", "shop", &format!("r{i}"), "name: orders", RULES));
    }
    let s = started(api).await;
    let began = Instant::now();
    sleep(Duration::from_secs(3)).await;
    let after = writes(&s.api);
    assert!((100..=260).contains(&after), "{after} writes in 3 s");
    until("all of them", || writes(&s.api) >= 1_001).await;
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    sleep(Duration::from_secs(120)).await;
    // the mesh, the class and each route once
    assert_eq!(writes(&s.api), 1_003);
}
