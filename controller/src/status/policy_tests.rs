use crate::{
    convert,
    testing::{bad, conditions, name, pod, route, svc, world},
    world::World,
};
use std::time::Duration;
use weft_core::backend::{Balancing, RateLimit};

fn policy(kind: &str, name: &str, created: u32, target: &str, spec: &str) -> String {
    let group = if kind.starts_with('X') { "gateway.networking.x-k8s.io" } else { "weft.dev" };
    format!(
        "---\napiVersion: {group}/v1alpha1\nkind: {kind}\nmetadata: {{namespace: shop, name: {name}, creationTimestamp: '2026-01-0{created}T00:00:00Z'}}\nspec: {{targetRefs: [{{{target}}}], {spec}}}\n"
    )
}
fn traffic(name: &str, created: u32, target: &str, spec: &str) -> String {
    policy("TrafficPolicy", name, created, target, spec)
}
const SERVICE: &str = "group: '', kind: Service, name: orders";
fn shop() -> String {
    svc("shop", "orders", 1, "[{port: 80, name: http, targetPort: 8080}, {port: 90, name: admin, targetPort: 8080}]")
        + &pod("shop", "orders", 1)
        + &route("HTTPRoute", "shop", "r", "name: orders", "[{name: main, backendRefs: [{name: orders, port: 80}]}]")
}
fn said(w: &World, policy: &str) -> Vec<(Vec<String>, String)> {
    let reports = w.policy_reports();
    let found = reports.iter().find(|r| r.policy == policy).unwrap_or_else(|| panic!("no {policy}: {reports:?}"));
    found.ancestors.iter().map(|a| (conditions(a), bad(a))).collect()
}
fn backend(w: &World, port: &str) -> weft_core::backend::BackendPolicy {
    w.with_index(|i| convert::policy::backend(i, &name("shop/orders"), Some(port), None))
}

#[test]
fn every_field_of_a_policy_reaches_the_backend() {
    let spec = "retryConstraint: {budget: {percent: 5, interval: 1m}, minRetryRate: {count: 3, interval: 10s}}, outlierDetection: {consecutiveFailures: 2, baseEjectionTime: 7s, maxEjectionPercent: 20}, \
                loadBalancing: {type: RoundRobin}, connectionLimits: {maxConnections: 4, maxRequests: 5, maxPendingRequests: 6}, localRateLimit: {requests: 8, interval: 1s, burst: 2}";
    let w = world(&(shop() + &traffic("t", 1, SERVICE, spec)));
    let b = w.endpoints(&crate::testing::service("shop/orders:80"), None).unwrap().policy;
    assert_eq!((b.budget.percent, b.budget.interval), (5, Duration::from_secs(60)));
    assert_eq!((b.budget.floor, b.budget.floor_interval), (3, Duration::from_secs(10)));
    assert_eq!((b.outlier.consecutive_failures, b.outlier.max_percent), (Some(2), Some(20)));
    assert_eq!(b.outlier.base_ejection, Some(Duration::from_secs(7)));
    assert_eq!(b.balancing, Balancing::RoundRobin);
    assert_eq!((b.limits.connections, b.limits.requests, b.limits.pending), (Some(4), Some(5), Some(6)));
    assert_eq!(b.rate, Some(RateLimit { requests: 8, interval: Duration::from_secs(1), burst: 2 }));
    assert_eq!(said(&w, "TrafficPolicy shop/t"), [(vec!["Accepted=True/Accepted".into()], String::new())]);
}

#[test]
fn a_service_without_routes_has_timeouts_and_retries_of_its_policy() {
    let spec = "timeouts: {request: 2s, backendRequest: 500ms}, retry: {codes: [503], grpcCodes: [14], attempts: 3}";
    let yaml = svc("shop", "orders", 1, "[{port: 80, name: http}]") + &traffic("t", 1, SERVICE, spec);
    let port = world(&yaml).service_port("shop", &crate::testing::service("shop/orders:80")).unwrap();
    assert_eq!(port.requests.timeouts.request, Some(Duration::from_secs(2)));
    assert_eq!(port.requests.timeouts.backend_request, Some(Duration::from_millis(500)));
    let retry = port.requests.retry.clone().unwrap();
    assert_eq!((retry.codes, retry.grpc_codes, retry.attempts), (vec![503], vec![14], 3));
}

#[test]
fn the_older_policy_counts_and_the_other_is_told() {
    let old = traffic("b-old", 1, SERVICE, "loadBalancing: {type: Random}");
    let young = traffic("a-young", 2, SERVICE, "loadBalancing: {type: RoundRobin}, connectionLimits: {maxRequests: 1}");
    let other = traffic("other", 3, SERVICE, "outlierDetection: {consecutiveFailures: 9}");
    let w = world(&(shop() + &old + &young + &other));
    let b = backend(&w, "http");
    // the loser has no effect at all; one that sets something else has
    assert_eq!((b.balancing, b.limits.requests), (Balancing::Random, None));
    assert_eq!(b.outlier.consecutive_failures, Some(9));
    let young = said(&w, "TrafficPolicy shop/a-young");
    assert_eq!(young[0].0, ["Accepted=False/Conflicted"]);
    assert!(young[0].1.contains("TrafficPolicy shop/b-old sets loadBalancing"), "{}", young[0].1);
    assert_eq!(said(&w, "TrafficPolicy shop/other")[0].0, ["Accepted=True/Accepted"]);
}

#[test]
fn a_port_of_its_own_is_nearer_and_no_conflict() {
    let whole = traffic("whole", 1, SERVICE, "connectionLimits: {maxRequests: 1}, loadBalancing: {type: Random}");
    let part = traffic("part", 2, &format!("{SERVICE}, sectionName: admin"), "connectionLimits: {maxRequests: 2}");
    let w = world(&(shop() + &whole + &part));
    let (http, admin) = (backend(&w, "http"), backend(&w, "admin"));
    assert_eq!((http.limits.requests, admin.limits.requests), (Some(1), Some(2)));
    assert_eq!((http.balancing, admin.balancing), (Balancing::Random, Balancing::Random));
    for p in ["whole", "part"] {
        assert_eq!(said(&w, &format!("TrafficPolicy shop/{p}"))[0].0, ["Accepted=True/Accepted"], "{p}");
    }
}

#[test]
fn the_standard_policy_comes_second_and_its_session_persistence_is_reported() {
    let budget = |p: u32| format!("retryConstraint: {{budget: {{percent: {p}}}}}");
    let x = policy("XBackendTrafficPolicy", "x", 1, SERVICE, &(budget(3) + ", sessionPersistence: {}"));
    let w = world(&(shop() + &x));
    assert_eq!(backend(&w, "http").budget.percent, 3);
    let told = said(&w, "XBackendTrafficPolicy shop/x");
    assert_eq!(told[0].0, ["Accepted=True/Accepted", "PartiallyInvalid=True/UnsupportedValue"]);
    assert!(told[0].1.contains("spec.sessionPersistence"), "{}", told[0].1);
    let w = world(&(shop() + &x + &traffic("t", 2, SERVICE, &budget(7))));
    assert_eq!(backend(&w, "http").budget.percent, 7);
    assert_eq!(said(&w, "XBackendTrafficPolicy shop/x")[0].0[0], "Accepted=False/Conflicted");
}

#[test]
fn targets_that_are_not_there_and_fields_that_a_route_cannot_have() {
    let on = |target: &str| traffic("t", 1, target, "retry: {codes: [503]}, loadBalancing: {type: Random}");
    let gateway = "group: gateway.networking.k8s.io, kind";
    for (target, expected, word) in [
        ("group: '', kind: Service, name: order".to_owned(), "Accepted=False/TargetNotFound", "did you mean orders?"),
        (format!("{SERVICE}, sectionName: htp"), "Accepted=False/TargetNotFound", "did you mean http?"),
        (
            format!("{gateway}: HTTPRoute, name: r, sectionName: mian"),
            "Accepted=False/TargetNotFound",
            "did you mean main?",
        ),
        (format!("{gateway}: HTTPRoute, name: r"), "Accepted=True/Accepted", "spec.loadBalancing"),
    ] {
        let w = world(&(shop() + &on(&target)));
        let told = said(&w, "TrafficPolicy shop/t");
        assert_eq!(told[0].0[0], expected, "{target}");
        assert!(told[0].1.contains(word), "{target}: {}", told[0].1);
    }
    let only = traffic("t", 1, &format!("{gateway}: HTTPRoute, name: r"), "loadBalancing: {type: Random}");
    assert_eq!(said(&world(&(shop() + &only)), "TrafficPolicy shop/t")[0].0[0], "Accepted=False/Invalid");
}

#[test]
fn a_policy_that_comes_or_goes_reaches_proxies() {
    let w = world(&shop());
    let port = crate::testing::service("shop/orders:80");
    assert_eq!(w.endpoints(&port, None).unwrap().policy, Default::default());
    let text = traffic("t", 1, SERVICE, "loadBalancing: {type: Random}, timeouts: {request: 1s}");
    let touched = w.apply(&crate::source::folder::read_text("t", &text));
    assert!(touched.endpoints.contains(&name("shop/orders")) && touched.services.contains(&name("shop/orders")));
    assert_eq!(w.endpoints(&port, None).unwrap().policy.balancing, Balancing::Random);
}

fn authorization(name: &str, target: &str, spec: &str) -> String {
    policy("AuthorizationPolicy", name, 1, target, spec)
}

#[test]
fn who_may_call_a_pod() {
    use weft_core::{authorization::Call, identity::WorkloadIdentity};
    let ns = "group: '', kind: Namespace, name: shop";
    let pods = "group: '', kind: Pod, selector: {matchLabels: {app: orders}}";
    let web =
        "rules: [{sources: [{type: ServiceAccount, serviceAccount: {name: web}}], networkAttributes: {ports: [8080]}}]";
    let yaml = shop()
        + &authorization("web", pods, web)
        + &authorization("no-ops", ns, "action: Deny, rules: [{sources: [{type: Namespace, namespace: ops}]}]");
    let w = world(&yaml);
    let inbound = w.inbound("uid-1").unwrap();
    let ask = |ns: &str, sa: &str, port| {
        let peer = WorkloadIdentity::new("cluster.local", ns, sa).unwrap();
        let v = inbound.authorization.judge(&Call { peer: Some(&peer), port, request: None });
        v.denied.map(|p| p.name.to_string())
    };
    assert_eq!(ask("shop", "web", 8080), None);
    assert_eq!(ask("shop", "web", 9090).as_deref(), Some("shop/web"));
    assert_eq!(ask("other", "web", 8080).as_deref(), Some("shop/web"), "the policy's own namespace");
    assert_eq!(ask("ops", "web", 8080).as_deref(), Some("shop/no-ops"));
    assert_eq!(said(&w, "AuthorizationPolicy shop/web")[0].0, ["Accepted=True/Accepted"]);
    // the policy goes: everybody may again
    let touched = w.apply(&crate::source::Update {
        delete: ["web", "no-ops"]
            .map(|n| crate::object::ObjectKey::new(crate::object::Kind::AuthorizationPolicy, "shop", n))
            .into(),
        ..Default::default()
    });
    assert!(touched.inbound.contains("uid-1") && w.inbound("uid-1").unwrap().authorization.is_empty());
}

#[test]
fn authorization_policies_that_are_wrong_are_told() {
    let told = |target: &str, spec: &str| {
        let w = world(&(shop() + &authorization("a", target, spec)));
        said(&w, "AuthorizationPolicy shop/a")[0].clone()
    };
    for (target, expected) in [
        ("group: '', kind: Namespace, name: other", "Accepted=False/Invalid"),
        ("group: '', kind: ServiceAccount, name: oders", "Accepted=False/TargetNotFound"),
        ("group: '', kind: Deployment, name: orders", "Accepted=False/Invalid"),
        ("group: gateway.networking.x-k8s.io, kind: XMesh, name: weft", "Accepted=False/Invalid"),
        ("group: '', kind: ServiceAccount, name: orders", "Accepted=True/Accepted"),
    ] {
        assert_eq!(told(target, "rules: []").0[0], expected, "{target}");
    }
    let bad = told(
        "group: '', kind: Namespace, name: shop",
        "rules: [{sources: [{type: SPIFFE, spiffe: 'spiffe://cluster.local/web'}], http: [{paths: [{value: '/a%zz'}]}]}]",
    );
    assert_eq!(bad.0, ["Accepted=True/Accepted", "PartiallyInvalid=True/UnsupportedValue"]);
    assert!(bad.1.contains("spec.rules[0].sources[0].spiffe") && bad.1.contains("http[0].paths[0].value"), "{}", bad.1);
}
