use super::World;
use crate::testing::*;
use std::net::SocketAddr;
use weft_core::{
    cause::Invalid,
    route::{BackendRef, Routes},
    service::{Protocol, Target},
};

fn addr(s: &str) -> SocketAddr {
    s.parse().unwrap()
}

fn shop() -> String {
    [
        namespace("shop", true),
        svc(
            "shop",
            "orders",
            1,
            "[{name: http, port: 80, targetPort: web}, {name: admin, port: 9000, targetPort: 8080}]",
        ),
        pod("shop", "orders", 1),
        pod("shop", "orders", 2),
    ]
    .concat()
}

#[test]
fn addresses_mean_services_workloads_or_nothing() {
    let w = world(&shop());
    assert_eq!(w.lookup(addr("10.96.0.1:80")), Target::Service(service("shop/orders:80")));
    assert_eq!(w.lookup(addr("[::ffff:10.96.0.1]:80")), Target::Service(service("shop/orders:80")));
    assert_eq!(w.lookup(addr("10.96.0.1:81")), Target::Outside);
    assert_eq!(w.lookup(addr("192.0.2.1:80")), Target::Outside);
    let Target::Workload(e) = w.lookup(addr("10.244.0.2:8080")) else { panic!() };
    assert_eq!((e.address, &*e.workload), (addr("10.244.0.2:8080"), "orders-2"));
    let mesh = e.mesh.clone().unwrap();
    assert_eq!((&*mesh.uid, mesh.identity.uri()), ("uid-2", "spiffe://cluster.local/ns/shop/sa/orders"));
}

#[test]
fn external_balancer_and_node_addresses_lead_to_the_service() {
    let w = world(
        "apiVersion: v1\nkind: Service\nmetadata: {namespace: shop, name: edge}\nspec: {type: LoadBalancer, clusterIP: 10.96.0.5, externalIPs: [198.51.100.7], ports: [{port: 80, nodePort: 30080}]}\nstatus: {loadBalancer: {ingress: [{ip: 203.0.113.9}]}}\n---\napiVersion: v1\nkind: Node\nmetadata: {name: n1}\nstatus: {addresses: [{type: InternalIP, address: 172.18.0.2}]}\n",
    );
    for a in ["10.96.0.5:80", "198.51.100.7:80", "203.0.113.9:80", "172.18.0.2:30080"] {
        assert_eq!(w.lookup(addr(a)), Target::Service(service("shop/edge:80")), "{a}");
    }
    assert_eq!(w.lookup(addr("172.18.0.2:30081")), Target::Outside);
    assert_eq!(w.lookup(addr("192.0.2.1:30080")), Target::Outside);
}

#[test]
fn endpoints_come_from_selected_pods_with_their_ports_by_name() {
    let w = world(&shop());
    let e = w.endpoints(&service("shop/orders:80"), None).unwrap();
    let all: Vec<_> = e.endpoints.iter().map(|e| (e.address, e.mesh.is_some())).collect();
    assert_eq!(all, [(addr("10.244.0.1:8080"), true), (addr("10.244.0.2:8080"), true)]);
    assert_eq!((e.not_ready, e.http2, e.prefer_zone), (0, false, false));
    assert!(w.endpoints(&service("shop/orders:81"), None).is_none());
    assert!(w.endpoints(&service("shop/nothing:80"), None).is_none());
}

#[test]
fn readiness_terminating_and_publish_not_ready() {
    let sick = |ready: &str, extra: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{namespace: shop, name: p, labels: {{app: orders}}{extra}}}\nstatus: {{phase: Running, podIP: 10.244.0.9, conditions: [{{type: Ready, status: '{ready}'}}]}}\n"
        )
    };
    let base = |more: &str| svc("shop", "orders", 1, "[{port: 80}]").replace("clusterIP", &format!("{more}clusterIP"));
    let ask = |yaml: String| {
        let e = world(&yaml).endpoints(&service("shop/orders:80"), None).unwrap();
        (e.endpoints.len(), e.not_ready, e.endpoints.iter().any(|e| e.terminating))
    };
    assert_eq!(ask(base("") + &sick("True", "")), (1, 0, false));
    assert_eq!(ask(base("") + &sick("False", "")), (0, 1, false));
    assert_eq!(ask(base("publishNotReadyAddresses: true\n  ") + &sick("False", "")), (1, 0, false));
    assert_eq!(ask(base("") + &sick("True", ", deletionTimestamp: 2026-01-01T00:00:00Z")), (1, 0, true));
    assert_eq!(ask(base("") + &sick("False", ", deletionTimestamp: 2026-01-01T00:00:00Z")), (0, 1, false));
    assert_eq!(ask(base("") + &sick("True", "").replace("Running", "Succeeded")), (0, 1, false));
}

#[test]
fn slices_win_over_the_selector_and_know_their_pods() {
    let slice = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {namespace: shop, name: orders-x, labels: {kubernetes.io/service-name: orders}}\naddressType: IPv4\nports: [{name: http, port: 8080}, {name: admin, port: 8081}]\nendpoints:\n- {addresses: [10.244.0.1], zone: a, targetRef: {kind: Pod, namespace: shop, name: orders-1}}\n- {addresses: [10.244.0.8], conditions: {ready: false}}\n- {addresses: [10.244.0.9], conditions: {ready: false, serving: true, terminating: true}}\n";
    let w = world(&(shop() + slice));
    let e = w.endpoints(&service("shop/orders:9000"), None).unwrap();
    let all: Vec<_> = e
        .endpoints
        .iter()
        .map(|e| (e.address.to_string(), e.mesh.is_some(), e.zone.as_deref().map(str::to_owned), e.terminating))
        .collect();
    assert_eq!(
        all,
        [("10.244.0.1:8081".into(), true, Some("a".into()), false), ("10.244.0.9:8081".into(), false, None, true)]
    );
    assert_eq!(e.not_ready, 1);
}

#[test]
fn membership_is_by_the_pods_label_then_the_namespaces_and_by_port() {
    let out = "---\napiVersion: v1\nkind: Pod\nmetadata: {namespace: shop, name: out, labels: {weft.dev/inject: disabled}}\nstatus: {podIP: 10.244.0.3}\n";
    let host = "---\napiVersion: v1\nkind: Pod\nmetadata: {namespace: shop, name: host}\nspec: {hostNetwork: true, containers: []}\nstatus: {podIP: 172.18.0.2}\n";
    let some = "---\napiVersion: v1\nkind: Pod\nmetadata: {namespace: shop, name: some, annotations: {weft.dev/exclude-inbound-ports: '5432, 6379'}}\nstatus: {podIP: 10.244.0.4}\n";
    let lone = "---\napiVersion: v1\nkind: Pod\nmetadata: {namespace: plain, name: lone, labels: {weft.dev/inject: enabled}}\nstatus: {podIP: 10.244.0.5}\n";
    let w = world(&[shop().as_str(), out, host, some, lone].concat());
    let meshed = |a: &str| match w.lookup(addr(a)) {
        Target::Workload(e) => Some(e.mesh.is_some()),
        _ => None,
    };
    assert_eq!((meshed("10.244.0.3:80"), meshed("172.18.0.2:80")), (Some(false), None));
    assert_eq!(
        (meshed("10.244.0.4:80"), meshed("10.244.0.4:6379"), meshed("10.244.0.5:80")),
        (Some(true), Some(false), Some(true))
    );
    // the sidecar's own server, which a Prometheus inside the mesh scrapes
    assert_eq!(meshed("10.244.0.5:15020"), Some(false));
}

#[test]
fn protocols_as_declared_and_as_routed() {
    let ports = "[{name: http-a, port: 1}, {name: grpc, port: 2}, {name: x, port: 3, appProtocol: kubernetes.io/h2c}, {name: https, port: 4}, {name: redis, port: 5}, {name: y, port: 6}, {name: http-z, port: 7, appProtocol: example.com/odd}]";
    let w = world(&svc("shop", "many", 1, ports));
    let p = |n: u16| w.service_port("shop", &service(&format!("shop/many:{n}"))).unwrap().protocol;
    assert_eq!(
        [p(1), p(2), p(3), p(4), p(5), p(6), p(7)],
        [
            Protocol::Http,
            Protocol::Http2,
            Protocol::Http2,
            Protocol::Tls,
            Protocol::Opaque,
            Protocol::Detect,
            Protocol::Detect
        ]
    );
    assert!(w.endpoints(&service("shop/many:3"), None).unwrap().http2);
    let rules = "[{backendRefs: [{name: many, port: 6}]}]";
    for (kind, protocol) in
        [("HTTPRoute", Protocol::Http), ("GRPCRoute", Protocol::Http2), ("TCPRoute", Protocol::Opaque)]
    {
        let w = world(&(svc("shop", "many", 1, ports) + &route(kind, "shop", "r", "name: many, port: 6", rules)));
        assert_eq!(w.service_port("shop", &service("shop/many:6")).unwrap().protocol, protocol);
    }
}

#[test]
fn a_route_without_a_port_applies_to_all_and_with_one_to_that_one() {
    let rules = "[{backendRefs: [{name: orders, port: 80}]}]";
    let w = world(
        &(shop()
            + &route("HTTPRoute", "shop", "all", "name: orders", rules)
            + &route("HTTPRoute", "shop", "one", "name: orders, port: 80", rules)),
    );
    let on = |p: u16| routes_of(&w.service_port("shop", &service(&format!("shop/orders:{p}"))).unwrap());
    assert_eq!(on(80), ["shop/all#0", "shop/one#0"]);
    assert_eq!(on(9000), ["shop/all#0"]);
}

#[test]
fn consumer_routes_replace_producer_routes_for_their_namespace_only() {
    let rules = "[{backendRefs: [{name: orders, namespace: shop, port: 80}]}]";
    let consumer = route("HTTPRoute", "web", "mine", "name: orders, namespace: shop, port: 80", rules);
    let producer = route("HTTPRoute", "shop", "theirs", "name: orders", rules);
    let w = world(&(shop() + &consumer + &producer));
    let seen = |ns: &str, p: u16| routes_of(&w.service_port(ns, &service(&format!("shop/orders:{p}"))).unwrap());
    assert_eq!(seen("web", 80), ["web/mine#0"]);
    assert_eq!(seen("web", 9000), ["shop/theirs#0"], "the consumer route is for port 80 only");
    assert_eq!((seen("shop", 80), seen("other", 80)), (vec!["shop/theirs#0".into()], vec!["shop/theirs#0".into()]));
    // the parent's namespace may be named without a grant
    let port = w.service_port("web", &service("shop/orders:80")).unwrap();
    let Routes::Http(t) = &port.routes else { panic!() };
    assert_eq!(t.rules[0].backends[0].backend, BackendRef::Service(service("shop/orders:80")));
    assert_eq!(
        conditions(&parent(&w, "HTTPRoute web/mine")),
        ["Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs"]
    );
}

#[test]
fn kinds_on_one_port_do_not_mix() {
    let rules = "[{backendRefs: [{name: orders, port: 80}]}]";
    let kinds = ["HTTPRoute", "GRPCRoute", "TCPRoute"]
        .map(|k| route(k, "shop", &k.to_lowercase(), "name: orders, port: 80", rules))
        .concat();
    let w = world(&(shop() + &kinds));
    assert_eq!(routes_of(&w.service_port("shop", &service("shop/orders:80")).unwrap()), ["shop/grpcroute#0"]);
    assert_eq!(conditions(&parent(&w, "GRPCRoute shop/grpcroute"))[0], "Accepted=True/Accepted");
    for loser in ["HTTPRoute shop/httproute", "TCPRoute shop/tcproute"] {
        let p = parent(&w, loser);
        assert_eq!(conditions(&p)[0], "Accepted=False/Conflicted");
        assert!(bad(&p).contains("port 80 belongs to GRPCRoute shop/grpcroute"), "{}", bad(&p));
    }
    // a consumer's kind does not conflict with a producer's
    let w = world(
        &(shop()
            + &route(
                "TCPRoute",
                "web",
                "raw",
                "name: orders, namespace: shop",
                "[{backendRefs: [{name: orders, namespace: shop, port: 80}]}]",
            )
            + &kinds),
    );
    assert!(parent(&w, "TCPRoute web/raw").accepted());
    assert!(matches!(w.service_port("web", &service("shop/orders:80")).unwrap().routes, Routes::Stream(_)));
}

#[test]
fn row_31_backends_that_lead_nowhere_are_invalid_and_said_so() {
    let rules = "[{backendRefs: [{name: orders, port: 80}, {name: gone, port: 80}, {name: orders, port: 81}, {name: bank, namespace: money, port: 80}, {group: example.com, kind: Thing, name: x}]}, {matches: [{path: {value: /none}}]}]";
    let yaml =
        shop() + &svc("money", "bank", 7, "[{port: 80}]") + &route("HTTPRoute", "shop", "r", "name: orders", rules);
    let w = world(&yaml);
    let port = w.service_port("shop", &service("shop/orders:80")).unwrap();
    let Routes::Http(t) = &port.routes else { panic!() };
    let first = t.rules.iter().find(|r| r.index == 0).unwrap();
    let backends: Vec<_> = first.backends.iter().map(|b| b.backend.clone()).collect();
    assert_eq!(backends[0], BackendRef::Service(service("shop/orders:80")));
    assert!(matches!(&backends[1], BackendRef::Invalid(Invalid::BackendNotFound(s)) if **s == *"shop/gone"));
    assert!(matches!(&backends[2], BackendRef::Invalid(Invalid::PortNotFound(_))));
    assert!(matches!(&backends[3], BackendRef::Invalid(Invalid::RefNotPermitted(_))));
    assert!(matches!(&backends[4], BackendRef::Invalid(Invalid::InvalidKind(k)) if **k == *"example.com/Thing"));
    assert!(t.rules.iter().find(|r| r.index == 1).unwrap().backends.is_empty());
    let p = parent(&w, "HTTPRoute shop/r");
    assert_eq!(conditions(&p), ["Accepted=True/Accepted", "ResolvedRefs=False/BackendNotFound"]);
    let said = bad(&p);
    for part in [
        "spec.rules[0].backendRefs[1].name",
        "spec.rules[0].backendRefs[2].port",
        "the TCP ports of shop/orders are 80, 9000",
        "add a ReferenceGrant to money: from gateway.networking.k8s.io/HTTPRoute in shop, to Service bank",
        "spec.rules[0].backendRefs[4].kind",
    ] {
        assert!(said.contains(part), "{part} not in {said}");
    }
    let grant = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {namespace: money, name: g}\nspec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}], to: [{group: '', kind: Service, name: bank}]}\n";
    let w = world(&(yaml.clone() + grant));
    assert!(!bad(&parent(&w, "HTTPRoute shop/r")).contains("ReferenceGrant"));
    let w = world(&(yaml + &grant.replace("HTTPRoute", "GRPCRoute")));
    assert!(bad(&parent(&w, "HTTPRoute shop/r")).contains("ReferenceGrant"), "a grant is for one kind");
}

#[test]
fn row_33_of_two_routes_with_the_same_match_the_older_wins_and_the_other_is_told() {
    let aged = |name: &str, created: &str| {
        route("HTTPRoute", "shop", name, "name: orders", "[{matches: [{path: {type: Exact, value: /a}}], backendRefs: [{name: orders, port: 80}]}, {matches: [{path: {value: /only}}]}]")
            .replace(&format!("name: {name}}}"), &format!("name: {name}, creationTimestamp: {created}}}"))
            .replace("/only", &format!("/{name}"))
    };
    let w = world(&(shop() + &aged("a-young", "2026-02-01T00:00:00Z") + &aged("b-old", "2026-01-01T00:00:00Z")));
    assert_eq!(routes_of(&w.service_port("shop", &service("shop/orders:80")).unwrap())[0], "shop/b-old#0");
    assert_eq!(conditions(&parent(&w, "HTTPRoute shop/b-old")).len(), 2);
    let young = parent(&w, "HTTPRoute shop/a-young");
    assert_eq!(
        conditions(&young),
        ["Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs", "weft.dev/Shadowed=True/SameMatch"]
    );
    assert_eq!(
        young.condition(crate::status::SHADOWED).unwrap().message,
        "spec.rules[0].matches[0]: HTTPRoute shop/b-old has the same match and wins (it is older), rule 0"
            .replace(", rule 0", "")
            .replace("b-old has", "b-old rule 0 has")
    );
    // of the same age the name decides
    let w = world(&(shop() + &aged("a-young", "2026-01-01T00:00:00Z") + &aged("b-old", "2026-01-01T00:00:00Z")));
    assert_eq!(routes_of(&w.service_port("shop", &service("shop/orders:80")).unwrap())[0], "shop/a-young#0");
    assert!(bad(&parent(&w, "HTTPRoute shop/b-old")).contains("alphabet"));
}

#[test]
fn parents_that_cannot_be_parents() {
    let rules = "[{backendRefs: [{name: orders, port: 80}]}]";
    let headless = svc("shop", "flat", 3, "[{port: 80}]").replace("10.96.0.3", "None");
    let alias = "---\napiVersion: v1\nkind: Service\nmetadata: {namespace: shop, name: alias}\nspec: {type: ExternalName, externalName: example.com}\n";
    let r = |n: &str, parent: &str| route("HTTPRoute", "shop", n, parent, rules);
    let all = [
        shop(),
        headless,
        alias.into(),
        r("typo", "name: order"),
        r("port", "name: orders, port: 81"),
        r("flat", "name: flat"),
        r("alias", "name: alias"),
        r("section", "name: orders, sectionName: http"),
        r("group", "name: orders").replace("group: \"\", ", ""),
        r("gateway", "name: edge").replace("group: \"\", kind: Service, ", ""),
        route("UDPRoute", "shop", "udp", "name: orders", rules),
    ];
    let w = world(&all.concat());
    let said = |n: &str| bad(&parent(&w, n)).trim_end().to_owned();
    assert_eq!(
        said("HTTPRoute shop/typo"),
        "Accepted/NoMatchingParent: spec.parentRefs[0].name: Service shop/order does not exist (did you mean orders?)"
    );
    assert_eq!(
        said("HTTPRoute shop/port"),
        "Accepted/NoMatchingParent: spec.parentRefs[0].port: Service shop/orders has no TCP port 81 (its ports are 80, 9000)"
    );
    assert!(said("HTTPRoute shop/flat").contains("headless"));
    assert!(said("HTTPRoute shop/alias").contains("ExternalName"));
    assert!(said("HTTPRoute shop/section").contains("sectionName"));
    assert!(said("HTTPRoute shop/group").contains("add group: \"\""));
    assert!(said("HTTPRoute shop/gateway").contains("Gateway shop/edge does not exist"));
    assert!(said("UDPRoute shop/udp").starts_with("Accepted/UnsupportedValue"));
    assert!(routes_of(&w.service_port("shop", &service("shop/orders:80")).unwrap()).is_empty());
}

#[test]
fn what_cannot_be_converted_becomes_a_condition() {
    let r = |n: &str, rules: &str| route("HTTPRoute", "shop", n, "name: orders", rules);
    let good = "backendRefs: [{name: orders, port: 80}]";
    let w = world(
        &(shop()
            + &r("regex", &format!("[{{matches: [{{path: {{type: RegularExpression, value: '/(a'}}}}], {good}}}]"))
            + &r(
                "part",
                &format!("[{{matches: [{{headers: [{{type: Fuzzy, name: x, value: y}}]}}], {good}}}, {{{good}}}]"),
            )
            + &r(
                "ext",
                &format!(
                    "[{{filters: [{{type: ExtensionRef, extensionRef: {{group: example.com, kind: Magic, name: m}}}}], {good}}}]"
                ),
            )
            + &r("newer", &format!("[{{filters: [{{type: Teleport}}], {good}}}]"))),
    );
    assert_eq!(conditions(&parent(&w, "HTTPRoute shop/regex"))[0], "Accepted=False/UnsupportedValue");
    let part = parent(&w, "HTTPRoute shop/part");
    assert_eq!(
        conditions(&part)[..3],
        ["Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs", "PartiallyInvalid=True/UnsupportedValue"]
    );
    assert!(part.conditions[2].message.starts_with("Dropped Rule"), "{}", bad(&part));
    assert_eq!(
        conditions(&parent(&w, "HTTPRoute shop/ext"))[..2],
        ["Accepted=True/Accepted", "ResolvedRefs=False/InvalidKind"]
    );
    let port = w.service_port("shop", &service("shop/orders:80")).unwrap();
    let Routes::Http(t) = &port.routes else { panic!() };
    let by = |n: &str| {
        t.rules.iter().filter(|r| &*r.route.name == n).map(|r| r.filters.unsupported.clone()).collect::<Vec<_>>()
    };
    assert!(by("regex").is_empty());
    assert_eq!(by("part"), [None]);
    assert!(by("ext")[0].as_deref().unwrap().contains("example.com/Magic m"));
    assert!(by("newer")[0].is_some());
}

#[test]
fn rules_carry_filters_timeouts_and_retries() {
    let rules = "[{name: one, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-A, value: b}], remove: [X-B]}}, {type: RequestMirror, requestMirror: {backendRef: {name: orders, port: 80}, fraction: {numerator: 1, denominator: 3}}}, {type: CORS, cors: {allowOrigins: ['https://a.example']}}], backendRefs: [{name: orders, port: 80, weight: 3}], timeouts: {request: 1s, backendRequest: 0s}, retry: {codes: [503, 500]}}, {filters: [{type: RequestRedirect, requestRedirect: {port: 8443}}]}]";
    let w = world(&(shop() + &route("HTTPRoute", "shop", "r", "name: orders", rules)));
    let port = w.service_port("shop", &service("shop/orders:80")).unwrap();
    let Routes::Http(t) = &port.routes else { panic!() };
    let r = t.rules.iter().find(|r| r.index == 0).unwrap();
    let f = &r.filters;
    assert_eq!(f.request_headers.as_ref().unwrap().set, [("x-a".into(), "b".into())]);
    assert_eq!((f.mirrors[0].numerator, f.mirrors[0].denominator), (1, 3));
    assert_eq!(f.cors.as_ref().unwrap().max_age, 5);
    assert_eq!((r.timeouts.request.unwrap().as_secs(), r.timeouts.backend_request), (1, None));
    let retry = r.retry.as_ref().unwrap();
    assert_eq!((&retry.codes[..], retry.attempts), (&[500, 503][..], 1));
    assert_eq!(r.backends[0].weight, 3);
    assert_eq!(t.rules.iter().find(|r| r.index == 1).unwrap().filters.redirect.as_ref().unwrap().status, 302);
}

#[test]
fn traffic_policies_fill_what_routes_leave_open() {
    let policy = |name: &str, targets: &str, spec: &str| {
        format!(
            "---\napiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{namespace: shop, name: {name}}}\nspec:\n  targetRefs: [{targets}]\n{spec}"
        )
    };
    let group = "group: gateway.networking.k8s.io, kind: GRPCRoute, name: r";
    let yaml = shop()
        + &route(
            "GRPCRoute",
            "shop",
            "r",
            "name: orders, port: 80",
            "[{name: a, backendRefs: [{name: orders, port: 80}]}, {name: b, matches: [{method: {service: s.S}}], backendRefs: [{name: orders, port: 80}]}]",
        )
        + &policy("p", &format!("{{{group}}}"), "  retry: {grpcCodes: [14], attempts: 2}\n  timeouts: {request: 3s}\n")
        + &policy("q", &format!("{{{group}, sectionName: b}}"), "  retry: {attempts: 0}\n")
        + &policy(
            "s",
            "{group: '', kind: Service, name: orders}",
            "  timeouts: {request: 9s}\n  retry: {attempts: 9}\n",
        );
    let w = world(&yaml);
    let port = w.service_port("shop", &service("shop/orders:80")).unwrap();
    let Routes::Http(t) = &port.routes else { panic!() };
    let of = |n: &str| {
        let r = t.rules.iter().find(|r| r.name.as_deref() == Some(n)).unwrap();
        (
            r.retry.as_ref().unwrap().attempts,
            r.retry.as_ref().unwrap().grpc_codes.clone(),
            r.timeouts.request.unwrap().as_secs(),
        )
    };
    assert_eq!((of("a"), of("b")), ((2, vec![14], 3), (0, vec![], 3)));
}

#[test]
fn inbound_policies_from_the_nearest_level() {
    let policy = |ns: &str, name: &str, target: &str, mode: &str| {
        format!(
            "---\napiVersion: weft.dev/v1alpha1\nkind: MeshTLSPolicy\nmetadata: {{namespace: {ns}, name: {name}}}\nspec: {{targetRefs: [{{{target}}}], mode: {mode}}}\n"
        )
    };
    use weft_core::policy::MeshTlsMode::*;
    let mesh = policy("weft-system", "mesh", "group: gateway.networking.x-k8s.io, kind: XMesh, name: weft", "Strict");
    let namespace = policy("shop", "ns", "group: '', kind: Namespace, name: shop", "Permissive");
    let pods = policy("shop", "w", "group: '', kind: Pod, selector: {matchLabels: {app: orders}}", "Strict");
    let mode = |yaml: String| world(&yaml).inbound("uid-1").unwrap().tls;
    assert_eq!(mode(shop()), Permissive);
    assert_eq!(mode(shop() + &mesh), Strict);
    assert_eq!(mode(shop() + &mesh + &namespace), Permissive);
    assert_eq!(mode(shop() + &mesh + &namespace + &pods), Strict);
    assert_eq!(
        mode(shop() + &policy("shop", "ns", "group: gateway.networking.x-k8s.io, kind: XMesh, name: weft", "Strict")),
        Permissive,
        "only from the mesh's namespace"
    );
}

#[test]
fn probes_by_port_and_path() {
    let p = "apiVersion: v1\nkind: Pod\nmetadata: {namespace: shop, name: p, uid: u}\nspec:\n  containers:\n  - name: a\n    ports: [{name: web, containerPort: 8080}]\n    livenessProbe: {httpGet: {port: web, path: /live}}\n    readinessProbe: {tcpSocket: {port: 9000}}\n    startupProbe: {grpc: {port: 9001}}\nstatus: {podIP: 10.0.0.1}\n";
    let probes: Vec<_> =
        world(p).inbound("u").unwrap().probes.iter().map(|p| (p.port, p.path.as_deref().map(str::to_owned))).collect();
    assert_eq!(
        probes,
        [(8080, Some("/live".into())), (9000, None), (9001, Some("/grpc.health.v1.Health/Check".into()))]
    );
}

#[test]
fn traffic_that_stays_on_the_node_and_zones() {
    let node = |n: &str, zone: &str| {
        format!(
            "---\napiVersion: v1\nkind: Node\nmetadata: {{name: {n}, labels: {{topology.kubernetes.io/zone: {zone}}}}}\n"
        )
    };
    let on = |n: u8, node: &str| pod("shop", "orders", n).replace("spec:\n", &format!("spec:\n  nodeName: {node}\n"));
    let local = svc("shop", "orders", 1, "[{port: 80}]").replace(
        "clusterIP",
        "internalTrafficPolicy: Local\n  trafficDistribution: PreferClose\n  sessionAffinity: ClientIP\n  clusterIP",
    );
    let w = world(&[node("n1", "a"), node("n2", "b"), on(1, "n1"), on(2, "n2"), local].concat());
    let zones = |client: Option<&str>| {
        let e = w.endpoints(&service("shop/orders:80"), client).unwrap();
        assert!(e.prefer_zone);
        e.endpoints.iter().filter_map(|e| e.zone.as_deref().map(str::to_owned)).collect::<Vec<_>>()
    };
    assert_eq!((zones(Some("n1")), zones(Some("n2")), zones(None)), (vec!["a".into()], vec!["b".into()], vec![]));
    let port = w.service_port("shop", &service("shop/orders:80")).unwrap();
    assert_eq!(port.affinity.map(|a| a.as_secs()), Some(10_800));
    assert_eq!(port.addresses, [addr("10.96.0.1:80")]);
}

/// Address and node of each endpoint of `shop/orders:80` for a client on a node, and how many are not ready.
fn on_nodes(w: &World, client: Option<&str>) -> (Vec<String>, u32) {
    let e = w.endpoints(&service("shop/orders:80"), client).unwrap();
    (e.endpoints.iter().map(|e| e.address.to_string()).collect(), e.not_ready)
}

#[test]
fn row_83_endpoints_of_both_families() {
    let dual = svc("shop", "orders", 1, "[{name: http, port: 80, targetPort: 8080}]").replace(
        "clusterIP: 10.96.0.1",
        "clusterIP: 10.96.0.1\n  clusterIPs: [10.96.0.1, 'fd00:96::1']\n  ipFamilies: [IPv4, IPv6]",
    );
    let both = |n: u8| {
        pod("shop", "orders", n).replace(
            &format!("podIP: 10.244.0.{n},"),
            &format!("podIP: 10.244.0.{n}, podIPs: [{{ip: 10.244.0.{n}}}, {{ip: 'fd00:244::{n}'}}],"),
        )
    };
    let unready = both(2).replace("status: 'True'", "status: 'False'");
    let w = world(&[dual.clone(), both(1), unready].concat());
    // a pod of two addresses that is not ready is one that is not ready
    assert_eq!(on_nodes(&w, None), (vec!["10.244.0.1:8080".into(), "[fd00:244::1]:8080".into()], 1));
    // the same from slices, which have one family each
    let slice = |name: &str, family: &str, ip: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{namespace: shop, name: {name}, labels: {{kubernetes.io/service-name: orders}}}}\naddressType: {family}\nports: [{{name: http, port: 8080}}]\nendpoints: [{{addresses: ['{ip}']}}]\n"
        )
    };
    let slices = slice("four", "IPv4", "10.244.0.7") + &slice("six", "IPv6", "fd00:244::7");
    let w = world(&(dual + &slices));
    assert_eq!(on_nodes(&w, None).0, ["10.244.0.7:8080", "[fd00:244::7]:8080"]);
    // a Service of one family has endpoints of that one
    let single = svc("shop", "orders", 1, "[{name: http, port: 80, targetPort: 8080}]");
    assert_eq!(on_nodes(&world(&(single.clone() + &slices)), None).0, ["10.244.0.7:8080"]);
    assert_eq!(on_nodes(&world(&(single + &both(1))), None).0, ["10.244.0.1:8080"]);
}

#[test]
fn the_same_node_first() {
    let on = |n: u8, node: &str| pod("shop", "orders", n).replace("spec:\n", &format!("spec:\n  nodeName: {node}\n"));
    let near = svc("shop", "orders", 1, "[{port: 80}]")
        .replace("clusterIP", "trafficDistribution: PreferSameNode\n  clusterIP");
    let w = world(&[near, on(1, "n1"), on(2, "n2"), on(3, "n2")].concat());
    assert_eq!(on_nodes(&w, Some("n1")).0, ["10.244.0.1:80"]);
    assert_eq!(on_nodes(&w, Some("n2")).0, ["10.244.0.2:80", "10.244.0.3:80"]);
    assert_eq!(on_nodes(&w, Some("n3")).0.len(), 3, "elsewhere rather than nowhere");
    assert_eq!(on_nodes(&w, None).0.len(), 3);
}

#[test]
fn the_same_answer_is_the_same_value_until_it_changes() {
    let yaml = shop() + &route("HTTPRoute", "shop", "r", "name: orders", "[{backendRefs: [{name: orders, port: 80}]}]");
    let w = world(&yaml);
    let ask = |ns: &str| w.service_port(ns, &service("shop/orders:80")).unwrap();
    let (a, b) = (ask("shop"), ask("web"));
    assert!(std::sync::Arc::ptr_eq(&a, &b), "one value for all who see the producer's routes");
    w.apply(&crate::source::folder::read_text("t", &svc("shop", "other", 9, "[{port: 80}]")));
    assert!(std::sync::Arc::ptr_eq(&a, &ask("shop")));
    w.apply(&crate::source::Update {
        delete: vec![crate::object::ObjectKey::new(crate::object::Kind::HTTPRoute, "shop", "r")],
        ..Default::default()
    });
    assert_eq!(ask("shop").routes, Routes::None);
}
