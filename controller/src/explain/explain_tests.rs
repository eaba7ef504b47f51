use super::*;
use crate::testing::*;

fn shop() -> String {
    [
        namespace("shop", true),
        namespace("web", true),
        namespace("plain", false),
        svc("shop", "orders", 1, "[{name: http, port: 80, targetPort: 8080}]"),
        svc("shop", "orders-v2", 2, "[{name: http, port: 80, targetPort: 8080}]"),
        pod("shop", "orders", 1),
        pod("shop", "orders-v2", 2),
        pod("web", "front", 3),
    ]
    .concat()
}
fn routed() -> String {
    let rules = "[{name: exact, matches: [{path: {type: Exact, value: /a}}], backendRefs: [{name: orders-v2, port: 80}]}, {name: rest, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-a, value: b}]}}], backendRefs: [{name: orders, port: 80, weight: 3}, {name: gone, port: 80}], timeouts: {request: 1s, backendRequest: 200ms}, retry: {codes: [503], attempts: 2, backoff: 10ms}}]";
    shop() + &route("HTTPRoute", "shop", "r", "name: orders, port: 80", rules)
}
fn ask(yaml: &str, from: &str, to: &str, path: &str) -> Explanation {
    let q = Question { from: from.into(), to: to.into(), path: path.into(), ..Question::default() };
    explain(&index(yaml), &q).unwrap()
}

#[test]
fn a_routed_request_from_end_to_end() {
    let e = ask(&routed(), "web/front", "orders.shop:80", "/a");
    assert_eq!(
        (e.target.kind, e.target.name.as_str(), e.dialled.as_str()),
        ("Service", "shop/orders:80", "10.96.0.1:80")
    );
    let rule = e.rule.as_ref().unwrap();
    assert_eq!(
        (rule.route.as_str(), rule.rule.as_str(), rule.matched.as_str()),
        ("HTTPRoute shop/r", "exact", "path = /a")
    );
    assert_eq!(rule.because, "wins over HTTPRoute shop/r rule rest: an exact path comes first");
    assert_eq!(e.from.identity.as_deref(), Some("spiffe://cluster.local/ns/web/sa/front"));
    assert_eq!(
        e.tls,
        ["spiffe://cluster.local/ns/web/sa/front <-> spiffe://cluster.local/ns/shop/sa/orders-v2: mutual TLS 1.3"]
    );
    assert_eq!(e.inbound, ["shop/orders-v2: mutual TLS, and plain text from outside the mesh (no MeshTLSPolicy)"]);
    assert_eq!(e.outcome.status, None);
    let strict = "---\napiVersion: weft.dev/v1alpha1\nkind: MeshTLSPolicy\nmetadata: {namespace: shop, name: p}\nspec: {targetRefs: [{group: '', kind: Namespace, name: shop}], mode: Strict}\n";
    let e = ask(&(routed() + strict), "web/front", "orders.shop:80", "/a");
    assert_eq!(e.inbound, ["shop/orders-v2: mutual TLS of the mesh only (MeshTLSPolicy shop/p)"]);
}

#[test]
fn shares_times_and_filters() {
    let e = ask(&routed(), "web", "shop/orders", "/b");
    let backends: Vec<_> =
        e.backends.iter().map(|b| (b.name.as_str(), b.percent, b.ready, b.problem.as_deref())).collect();
    assert_eq!(
        backends,
        [("shop/orders:80", 75.0, 1, None), ("invalid", 25.0, 0, Some("Service shop/gone does not exist"))]
    );
    assert_eq!(e.filters, ["request header x-a is set to \"b\""]);
    assert_eq!(e.timing.worst_case, "630ms: 3 tries of 200ms and waits of 30ms; timeouts.request (1s) is not reached");
    assert!(e.outcome.text.contains("25.0 % of the requests get 500"), "{}", e.outcome.text);
    assert_eq!(e.considered.len(), 2);
    assert_eq!(e.considered[0].miss.as_deref(), Some("path"));
    let text = e.to_string();
    for part in [
        "namespace web -> 10.96.0.1:80",
        "Service shop/orders:80",
        "routes of  shop (producer)",
        "no: path",
        " 75.0 % shop/orders:80 (1 ready, 0 not)",
        "up to 2 more tries",
    ] {
        assert!(text.contains(part), "{part} not in\n{text}");
    }
}

#[test]
fn consumer_routes_are_told_apart() {
    let mine = route(
        "HTTPRoute",
        "web",
        "mine",
        "name: orders, namespace: shop",
        "[{matches: [{path: {value: /only}}], backendRefs: [{name: orders, namespace: shop, port: 80}]}]",
    );
    let yaml = routed() + &mine;
    let e = ask(&yaml, "web/front", "orders.shop", "/a");
    assert_eq!((e.view.routes, e.view.namespace.as_str()), ("consumer", "web"));
    assert_eq!(e.outcome, Outcome { status: Some(404), text: "no rule matches: 404 from the caller's sidecar".into() });
    let routes: Vec<_> = e.routes.iter().map(|r| (r.route.as_str(), r.applies, r.because.as_str())).collect();
    assert_eq!(
        routes,
        [
            ("HTTPRoute web/mine", true, "applies"),
            ("HTTPRoute shop/r", false, "a producer route, replaced by the caller's own")
        ]
    );
    let e = ask(&yaml, "shop", "orders", "/a");
    assert_eq!((e.view.routes, e.rule.unwrap().rule.as_str()), ("producer", "exact"));
}

#[test]
fn what_the_mesh_does_not_route() {
    let e = ask(&routed(), "plain", "orders.shop", "/a");
    assert!(!e.captured.yes && e.captured.because.contains("namespace plain is not in the mesh") && e.rule.is_none());
    let e = ask(&routed(), "web", "192.0.2.1:443", "");
    assert_eq!(e.target.kind, "outside");
    let e = ask(&routed(), "web", "10.244.0.1:8080", "");
    assert_eq!((e.target.kind, e.tls.len()), ("workload", 1));
    let e = ask(&shop(), "web", "orders.shop.svc.cluster.local:http", "");
    assert!(e.outcome.text.contains("no route applies"));
    assert_eq!(e.protocol.because, "by the port's name, http");
    assert_eq!(ask(&routed(), "web", "orders.shop", "/%zz").outcome.status, Some(400));
}

#[test]
fn grpc_and_streams() {
    let grpc = route(
        "GRPCRoute",
        "shop",
        "g",
        "name: orders",
        "[{matches: [{method: {service: s.S, method: M}}], backendRefs: [{name: orders, port: 80}]}]",
    );
    let e = ask(&(shop() + &grpc), "web", "orders.shop", "/s.S/M");
    assert_eq!(e.rule.unwrap().matched, "service = \"s.S\", method = \"M\"");
    assert!(ask(&(shop() + &grpc), "web", "orders.shop", "/s.S/N").outcome.text.contains("UNIMPLEMENTED"));
    let tcp = route("TCPRoute", "shop", "t", "name: orders", "[{backendRefs: [{name: orders-v2, port: 80}]}]");
    let e = ask(&(shop() + &tcp), "web", "orders.shop", "");
    assert_eq!((e.rule.unwrap().route.as_str(), e.backends[0].name.as_str()), ("TCPRoute shop/t", "shop/orders-v2:80"));
}

#[test]
fn questions_about_what_is_not_there() {
    let i = index(&shop());
    let no = |from: &str, to: &str| {
        explain(&i, &Question { from: from.into(), to: to.into(), ..Question::default() }).unwrap_err().to_string()
    };
    assert_eq!(no("shpo", "orders"), "shpo is no namespace and no pod (did you mean shop?)");
    assert_eq!(no("shop/nobody", "orders"), "shop/nobody is no namespace and no pod (shop has no such pod)");
    assert_eq!(no("shop", "ordres"), "ordres is no Service and no address (did you mean orders?)");
    assert_eq!(no("shop", "orders:81"), "Service shop/orders has no TCP port 81 (its ports are 80)");
}

#[test]
fn precedence_across_routes_is_named() {
    let to = |m: &str| format!("{{matches: [{m}], backendRefs: [{{name: orders, port: 80}}]}}");
    let aged = |name: &str, created: &str, rules: &[String]| {
        route("HTTPRoute", "shop", name, "name: orders", &format!("[{}]", rules.join(", ")))
            .replace(&format!("name: {name}}}"), &format!("name: {name}, creationTimestamp: {created}}}"))
    };
    let all = [
        aged("old", "2026-01-01T00:00:00Z", &[to("{path: {value: /a}}"), to("{path: {value: /same}}")]),
        aged("new", "2026-02-01T00:00:00Z", &[to("{path: {value: /a/b}}"), to("{path: {value: /same}}")]),
        aged("method", "2026-03-01T00:00:00Z", &[to("{path: {value: /a}, method: GET}")]),
        aged(
            "header",
            "2026-04-01T00:00:00Z",
            &[to("{path: {value: /a}, method: GET, headers: [{name: x, value: y}]}")],
        ),
        aged("twin-b", "2026-05-01T00:00:00Z", &[to("{path: {value: /twin}}")]),
        aged("twin-a", "2026-05-01T00:00:00Z", &[to("{path: {value: /twin}}")]),
    ];
    let yaml = shop() + &all.concat();
    let ask = |path: &str, headers: &[(&str, &str)]| {
        let headers = headers.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        let q = Question {
            from: "web".into(),
            to: "orders.shop".into(),
            path: path.into(),
            headers,
            ..Question::default()
        };
        let rule = explain(&index(&yaml), &q).unwrap().rule.unwrap();
        (rule.route, rule.because.split(": ").nth(1).unwrap_or_default().to_owned())
    };
    let said = |route: &str, why: &str| (format!("HTTPRoute shop/{route}"), why.to_owned());
    assert_eq!(ask("/a/b/c", &[]), said("new", "the longer prefix comes first"));
    assert_eq!(ask("/a", &[]), said("method", "it matches the method, too"));
    assert_eq!(ask("/a", &[("x", "y")]), said("header", "it matches more headers"));
    assert_eq!(ask("/same", &[]), said("old", "its route is older"));
    assert_eq!(ask("/twin", &[]), said("twin-a", "its route's name comes first in the alphabet"));
}

#[test]
fn deployments_stand_for_pods_that_files_do_not_have() {
    let d = "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {namespace: shop, name: later}\nspec: {selector: {matchLabels: {app: later}}, template: {metadata: {labels: {app: later}}}}\n";
    let e = ask(&(shop() + &svc("shop", "later", 9, "[{port: 80}]") + d), "web", "later.shop", "");
    assert_eq!(e.backends[0].would_run, ["Deployment shop/later"]);
    assert!(e.to_string().contains("no pods in these objects; Deployment shop/later would run them"), "{e}");
}

#[test]
fn which_policy_allows_or_denies() {
    let policy = |name: &str, more: &str| {
        format!(
            "---\napiVersion: weft.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{namespace: shop, name: {name}}}\nspec: {{targetRefs: [{{group: '', kind: Namespace, name: shop}}], {more}}}\n"
        )
    };
    let line = |yaml: &str, from: &str, path: &str| {
        let e = ask(&(routed() + yaml), from, "orders.shop:80", path);
        e.inbound.into_iter().find(|l| !l.contains("mutual TLS")).unwrap_or_default()
    };
    let front = policy(
        "front",
        "rules: [{sources: [{type: ServiceAccount, serviceAccount: {namespace: web, name: front}}], http: [{paths: [{value: /a}]}]}]",
    );
    let who = "shop/orders-v2: spiffe://cluster.local/ns/web/sa/front is";
    assert_eq!(line("", "web/front", "/a"), "");
    assert_eq!(line(&front, "web/front", "/a"), format!("{who} allowed by a rule of AuthorizationPolicy shop/front"));
    let other = line(&front, "web/front", "/b");
    assert!(other.contains("denied: no rule of AuthorizationPolicy shop/front"), "{other}");
    let deny = policy("no", "action: Deny, mode: DryRun, rules: [{}]");
    let trial = line(&(front.clone() + &deny), "web/front", "/a");
    assert!(trial.ends_with("; AuthorizationPolicy shop/no (DryRun) would deny it"), "{trial}");
    let denied = line(&(front.clone() + &deny.replace("DryRun", "Enforce")), "web/front", "/a");
    assert!(denied.contains("denied by a rule of AuthorizationPolicy shop/no: 403"), "{denied}");
    assert!(line(&front, "web", "/a").contains("name the calling pod"));
}
