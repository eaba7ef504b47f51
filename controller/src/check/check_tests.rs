use super::*;
use crate::{source::folder::read_text, testing::*};

/// `code field` of what is found, and the whole texts.
fn found(yaml: &str) -> (Vec<String>, String) {
    let all = check_update(&read_text("t.yaml", yaml), Mesh::default());
    let texts = all.iter().map(|f| format!("{f}\n")).collect();
    for f in &all {
        assert!(f.line > 0 && !f.message.is_empty(), "{f:?}");
        assert!(!f.fix.is_empty() || f.severity == Severity::Info, "no fix: {f:?}");
    }
    (all.iter().map(|f| format!("{} {}", f.code, f.field)).collect(), texts)
}
fn shop() -> String {
    [
        namespace("shop", true),
        svc("shop", "orders", 1, "[{name: http, port: 80, targetPort: 8080}]"),
        pod("shop", "orders", 1),
    ]
    .concat()
}
const GOOD: &str = "backendRefs: [{name: orders, port: 80}]";
fn http(name: &str, rules: &str) -> String {
    route("HTTPRoute", "shop", name, "name: orders", rules)
}
/// Exactly one finding more than the shop has, which is none.
fn one(yaml: &str, expected: &str) -> String {
    let (codes, text) = found(yaml);
    assert_eq!(codes, [expected], "{text}");
    text
}

#[test]
fn a_sound_folder_has_no_findings() {
    one_none(&shop());
    one_none(
        &(shop()
            + &http(
                "r",
                &format!(
                    "[{{{GOOD}, timeouts: {{request: 1s, backendRequest: 300ms}}, retry: {{codes: [503], attempts: 2}}}}]"
                ),
            )),
    );
}
fn one_none(yaml: &str) {
    let (codes, text) = found(yaml);
    assert!(codes.is_empty(), "{text}");
}

#[test]
fn the_shop_of_the_examples_is_sound() {
    let shop = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shop");
    let all = check(&[shop]);
    let bad: Vec<String> = all.iter().filter(|f| f.severity != Severity::Info).map(ToString::to_string).collect();
    // the route takes one method, as its documentation says
    let bad: Vec<_> = bad.iter().filter(|f| !f.contains("GRPCRoute shop/stock")).collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn parents() {
    let bad = |parent: &str| shop() + &route("HTTPRoute", "shop", "r", parent, &format!("[{{{GOOD}}}]"));
    let said = one(&bad("name: orders").replace("group: \"\", ", ""), "parent-group spec.parentRefs[0].group");
    assert!(said.starts_with("t.yaml:26: error: HTTPRoute shop/r: spec.parentRefs[0].group: "), "{said}");
    assert!(said.contains("add group: \"\""));
    one(
        &bad("name: orders").replace("kind: Service, name: orders}", "kind: Servise, name: orders}"),
        "parent-kind spec.parentRefs[0].kind",
    );
    one(&bad("name: orders, port: 81"), "parent-port spec.parentRefs[0].port");
    assert!(one(&bad("name: ordres"), "parent-not-found spec.parentRefs[0].name").contains("did you mean orders?"));
    one(
        &bad("name: orders").replace("  parentRefs: [{group: \"\", kind: Service, name: orders}]\n", ""),
        "route-unattached spec.parentRefs",
    );
}

#[test]
fn a_consumer_route_without_meshed_clients() {
    let rules = "[{backendRefs: [{name: orders, namespace: shop, port: 80}]}]";
    let yaml = shop() + &route("HTTPRoute", "web", "r", "name: orders, namespace: shop", rules);
    one(&yaml, "consumer-not-meshed spec.parentRefs[0].namespace");
    one_none(&(yaml + &namespace("web", true)));
}

#[test]
fn row_33_conflicting_and_shadowed_routes() {
    let (codes, text) = found(&(shop() + &http("a", &format!("[{{{GOOD}}}]")) + &http("b", &format!("[{{{GOOD}}}]"))));
    assert_eq!(codes, ["match-shadowed spec.rules[0].matches[0]"], "{text}");
    assert!(
        text.contains("HTTPRoute shop/b") && text.contains("HTTPRoute shop/a rule 0 has the same match and wins"),
        "{text}"
    );
    let (codes, text) = found(
        &(shop()
            + &http("a", &format!("[{{{GOOD}}}]"))
            + &route("TCPRoute", "shop", "t", "name: orders", &format!("[{{{GOOD}}}]"))),
    );
    assert_eq!(codes, ["route-conflict spec.parentRefs[0]"], "{text}");
    assert!(text.contains("port 80 belongs to HTTPRoute shop/a"), "{text}");
}

#[test]
fn narrow_routes_are_told_before_they_hurt() {
    let narrow = http("r", &format!("[{{matches: [{{path: {{value: /new}}}}], {GOOD}}}]"));
    assert!(one(&(shop() + &narrow), "no-catch-all spec.rules").contains("get 404"));
    one_none(&(shop() + &narrow + &http("rest", &format!("[{{{GOOD}}}]"))));
    let grpc = route(
        "GRPCRoute",
        "shop",
        "r",
        "name: orders",
        &format!("[{{matches: [{{method: {{service: a.B}}}}], {GOOD}}}]"),
    );
    assert!(one(&(shop() + &grpc), "no-catch-all spec.rules").contains("UNIMPLEMENTED"));
}

#[test]
fn backends() {
    let with = |b: &str| shop() + &http("r", &format!("[{{backendRefs: [{b}]}}]"));
    let empty = svc("shop", "none", 2, "[{name: http, port: 80}]");
    let (codes, text) = found(&(with("{name: none, port: 80}") + &empty));
    assert_eq!(
        codes,
        ["selector-empty spec.selector", "backend-empty spec.rules[0].backendRefs[0].name"]
            .map(String::from)
            .iter()
            .rev()
            .cloned()
            .collect::<Vec<_>>(),
        "{text}"
    );
    assert!(
        one(&with("{name: ordesr, port: 80}"), "backend-not-found spec.rules[0].backendRefs[0].name")
            .contains("did you mean orders?")
    );
    assert!(
        one(&with("{name: orders, port: 8080}"), "backend-port spec.rules[0].backendRefs[0].port")
            .contains("the TCP ports of shop/orders are 80")
    );
    one(&with("{group: example.com, kind: Thing, name: x}"), "backend-kind spec.rules[0].backendRefs[0].kind");
    let far = svc("money", "bank", 3, "[{name: http, port: 80}]") + &pod("money", "bank", 3);
    assert!(
        one(
            &(with("{name: bank, namespace: money, port: 80}") + &far),
            "reference-not-granted spec.rules[0].backendRefs[0].namespace"
        )
        .contains("add a ReferenceGrant to money")
    );
    one(&with("{name: orders, port: 80, weight: 0}"), "weights-zero spec.rules[0].backendRefs");
    one(&with(""), "no-backends spec.rules[0].backendRefs");
}

#[test]
fn a_deployment_counts_as_what_will_run() {
    let d = "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {namespace: shop, name: d}\nspec: {selector: {matchLabels: {app: later}}, template: {metadata: {labels: {app: later}}, spec: {containers: [{name: a}]}}}\n";
    one_none(
        &(shop()
            + &svc("shop", "later", 4, "[{name: http, port: 80}]")
            + d
            + &http("r", "[{backendRefs: [{name: later, port: 80}]}]")),
    );
}

#[test]
fn retry_and_timeout_arithmetic() {
    let with = |r: &str| shop() + &http("r", &format!("[{{{GOOD}, {r}}}]"));
    let post = http("p", &format!("[{{{GOOD}}}, {{matches: [{{method: POST}}], {GOOD}, retry: {{codes: [503]}}}}]"));
    one(&with("retry: {codes: [404, 503]}"), "retry-code-4xx spec.rules[0].retry.codes[0]");
    one(&(shop() + &post), "retry-not-idempotent spec.rules[1].matches[0].method");
    let said = one(
        &with("timeouts: {request: 1s, backendRequest: 400ms}, retry: {attempts: 3}"),
        "retry-exceeds-timeout spec.rules[0].retry.attempts",
    );
    assert!(said.contains("4 tries of 400ms each take 1.6s, but timeouts.request ends everything after 1s (timeouts.request of 1.6s or more, or 1 attempt at most)"), "{said}");
    one(&with("timeouts: {request: 1s}, retry: {backoff: 2s}"), "backoff-exceeds-timeout spec.rules[0].retry.backoff");
    one(&with("retry: {attempts: 0, codes: [503]}"), "retry-disabled spec.rules[0].retry.attempts");
}

#[test]
fn what_has_no_effect_is_said() {
    let hosts = http("r", &format!("[{{{GOOD}}}]")).replace("  rules:", "  hostnames: [a.example]\n  rules:");
    one(&(shop() + &hosts), "hostnames-ignored spec.hostnames");
    one(
        &(shop() + &http("r", &format!("[{{{GOOD}, filters: [{{type: Teleport}}]}}]"))),
        "filter-unsupported spec.rules[0].filters[0].type",
    );
    one(
        &(shop()
            + &http(
                "r",
                &format!(
                    "[{{{GOOD}, filters: [{{type: ExtensionRef, extensionRef: {{group: a, kind: B, name: c}}}}]}}]"
                ),
            )),
        "filter-unsupported spec.rules[0].filters[0].extensionRef",
    );
    one(
        &(shop() + &http("r", &format!("[{{{GOOD}, sessionPersistence: {{type: Cookie}}}}]"))),
        "field-ignored spec.rules[0].sessionPersistence",
    );
    one(
        &(shop()
            + &http(
                "r",
                &format!("[{{matches: [{{path: {{type: RegularExpression, value: '['}}}}], {GOOD}}}, {{{GOOD}}}]"),
            )),
        "rule-dropped spec.rules[0].matches[0].path.value",
    );
}

#[test]
fn labels_where_they_do_nothing() {
    let labelled = |kind: &str, version: &str| {
        format!(
            "---\napiVersion: {version}\nkind: {kind}\nmetadata: {{namespace: shop, name: x, labels: {{weft.dev/inject: enabled}}}}\n"
        )
    };
    one(
        &(shop()
            + &labelled("Deployment", "apps/v1")
            + "spec: {selector: {matchLabels: {app: x}}, template: {metadata: {labels: {app: x}}}}\n"),
        "label-misplaced metadata.labels",
    );
    one(&(shop() + &labelled("ServiceAccount", "v1")), "label-misplaced metadata.labels");
    one(&(shop() + &namespace("x", true).replace("enabled", "on")), "label-value metadata.labels");
    one(&(shop() + &namespace("x", true).replace("labels", "annotations")), "label-misplaced metadata.annotations");
    assert!(
        one(&(shop() + &namespace("x", true).replace("/inject", "/injected")), "label-misplaced metadata.labels")
            .contains("did you mean weft.dev/inject?")
    );
}

#[test]
fn pods_that_the_mesh_cannot_serve() {
    let with = |pod: &str| shop() + "---\napiVersion: v1\nkind: Pod\n" + pod;
    let meta = "metadata: {namespace: shop, name: x}\n";
    one(
        &with(&format!("{meta}spec: {{hostNetwork: true, containers: []}}\nstatus: {{podIP: 172.18.0.2}}\n")),
        "host-network spec.hostNetwork",
    );
    one(
        &with(&format!(
            "{meta}spec: {{containers: [{{name: a, securityContext: {{runAsUser: 2102}}}}]}}\nstatus: {{podIP: 10.0.0.1}}\n"
        )),
        "proxy-uid spec.containers[0].securityContext.runAsUser",
    );
    one(
        &with(&format!(
            "{meta}spec: {{containers: [{{name: a, args: ['--listen=127.0.0.1:8080'], ports: [{{containerPort: 8080}}]}}]}}\nstatus: {{podIP: 10.0.0.1}}\n"
        )),
        "binds-localhost spec.containers[0].args",
    );
    one(
        &with(
            "metadata: {namespace: shop, name: x, creationTimestamp: 2026-01-01T00:00:00Z}\nspec: {containers: [{name: a}]}\nstatus: {podIP: 10.0.0.1}\n",
        ),
        "pod-not-restarted metadata.name",
    );
    one(
        &with(&format!(
            "{meta}spec: {{containers: [{{name: a, livenessProbe: {{tcpSocket: {{port: web}}}}}}]}}\nstatus: {{podIP: 10.0.0.1}}\n"
        )),
        "probe-port spec.containers[0].livenessProbe",
    );
    one(&with(&format!("{meta}status: {{podIP: 10.244.0.1}}\n")), "pod-ip-twice status.podIP");
    one(
        &with("metadata: {namespace: shop, name: x, uid: uid-1}\nstatus: {podIP: 10.0.0.9}\n"),
        "pod-uid-twice metadata.uid",
    );
    one(&with(&format!("{meta}status: {{phase: Running}}\n")), "pod-without-address status.podIP");
}

#[test]
fn probes_that_strict_breaks() {
    let strict = "---\napiVersion: weft.dev/v1alpha1\nkind: MeshTLSPolicy\nmetadata: {namespace: shop, name: p}\nspec: {targetRefs: [{group: '', kind: Namespace, name: shop}], mode: Strict}\n";
    let probed = "---\napiVersion: v1\nkind: Pod\nmetadata: {namespace: shop, name: x}\nspec: {containers: [{name: a, readinessProbe: {httpGet: {port: 8443, scheme: HTTPS}}}]}\nstatus: {podIP: 10.0.0.1}\n";
    one_none(&(shop() + probed));
    one(&(shop() + probed + strict), "probe-strict spec.containers[0].readinessProbe");
    one_none(&(shop() + &probed.replace("HTTPS", "HTTP") + strict));
}

#[test]
fn ports_out_of_the_mesh() {
    let routed = shop() + &http("r", &format!("[{{{GOOD}}}]"));
    let annotated =
        |a: &str| pod("shop", "orders", 9).replace("uid: uid-9", &format!("uid: uid-9, annotations: {{{a}}}"));
    one(&(routed.clone() + &annotated("weft.dev/exclude-inbound-ports: '8080'")), "port-excluded metadata.annotations");
    one(
        &(routed.clone() + &annotated("weft.dev/exclude-outbound-ports: '443,80'")),
        "port-excluded metadata.annotations",
    );
    one(&(routed + &annotated("weft.dev/exclude-inbound-ports: 'http'")), "annotation-value metadata.annotations");
}

#[test]
fn services() {
    let s =
        |name: &str, n: u8, ports: &str| svc("shop", name, n, ports).replace(&format!("app: {name}"), "app: orders");
    one(&(shop() + &s("db", 2, "[{name: http, port: 3306}]")), "server-first spec.ports[0]");
    one(&(shop() + &s("db", 2, "[{name: db, port: 3306}]")), "protocol-undeclared spec.ports[0]");
    one(&(shop() + &s("x", 2, "[{name: x, port: 80}]")), "protocol-undeclared spec.ports[0]");
    one(
        &(shop() + &s("x", 2, "[{name: x, port: 80, appProtocol: carrier/pigeon}]")),
        "app-protocol-unknown spec.ports[0].appProtocol",
    );
    one(&(shop() + &s("x", 2, "[{name: http, port: 80, targetPort: wbe}]")), "target-port spec.ports[0].targetPort");
    one(&(shop() + &s("x", 1, "[{name: http, port: 80}]")), "cluster-ip-twice spec.clusterIP");
    let typo = s("x", 2, "[{name: http, port: 80}]").replace("app: orders", "app: order");
    one(&(shop() + &typo), "selector-empty spec.selector");
    let headless = s("flat", 3, "[{name: http, port: 80}]").replace("10.96.0.3", "None");
    one(&(shop() + &http("r", &format!("[{{{GOOD}}}]")) + &headless), "headless-bypass spec.clusterIP");
}

#[test]
fn network_policies_that_cut_off_the_control_plane() {
    let policy = |egress: &str| {
        format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: shop, name: n}}\nspec: {{podSelector: {{}}, policyTypes: [Egress], egress: [{egress}]}}\n"
        )
    };
    let said = one(&(shop() + &policy("{ports: [{port: 80, protocol: TCP}]}")), "network-policy spec.egress");
    assert!(said.contains("add an egress rule for TCP 15010 and 15012 to namespace weft-system"), "{said}");
    one_none(&(shop() + &policy("{ports: [{port: 15000, endPort: 15100, protocol: TCP}]}")));
    one_none(&(shop() + &policy("{to: []}")));
}

#[test]
fn policies() {
    let tls = |ns: &str, target: &str| {
        format!(
            "---\napiVersion: weft.dev/v1alpha1\nkind: MeshTLSPolicy\nmetadata: {{namespace: {ns}, name: p}}\nspec: {{targetRefs: [{{{target}}}], mode: Strict}}\n"
        )
    };
    one(&(shop() + &tls("shop", "group: '', kind: Namespace, name: other")), "policy-target spec.targetRefs[0].name");
    one(
        &(shop() + &tls("shop", "group: gateway.networking.x-k8s.io, kind: XMesh, name: weft")),
        "policy-target spec.targetRefs[0].kind",
    );
    one(
        &(shop() + &tls("shop", "group: '', kind: Pod, selector: {matchLabels: {app: nobody}}")),
        "policy-target spec.targetRefs[0].selector",
    );
    let two = tls("shop", "group: '', kind: Namespace, name: shop");
    one(&(shop() + &two + &two.replace("name: p}", "name: q}")), "policy-conflict spec.targetRefs[0]");
    let traffic = |target: &str, spec: &str| {
        format!(
            "---\napiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{namespace: shop, name: t}}\nspec: {{targetRefs: [{{{target}}}], {spec}}}\n"
        )
    };
    assert!(
        one(
            &(shop() + &traffic("group: '', kind: Service, name: ordres", "retry: {}")),
            "policy-target spec.targetRefs[0].name"
        )
        .contains("did you mean orders?")
    );
    one(
        &(shop() + &traffic("group: '', kind: Service, name: orders, sectionName: htpt", "retry: {}")),
        "policy-target spec.targetRefs[0].sectionName",
    );
    one(
        &(shop()
            + &http("r", "[{backendRefs: [{name: orders, port: 80}]}]")
            + &traffic(
                "group: gateway.networking.k8s.io, kind: HTTPRoute, name: r",
                "retry: {}, localRateLimit: {requests: 1, interval: 1s}",
            )),
        "policy-unsupported spec.localRateLimit",
    );
    let twice = traffic("group: '', kind: Service, name: orders", "localRateLimit: {requests: 1, interval: 1s}");
    one(&(shop() + &twice + &twice.replace("name: t}", "name: u}")), "policy-conflict spec.targetRefs[0]");
}

#[test]
fn row_31_what_leads_nowhere_is_an_error_with_its_place() {
    let (_, text) =
        found(&(shop() + &http("r", "[{backendRefs: [{name: gone, port: 80}, {name: orders, port: 80}]}]")));
    assert_eq!(
        text,
        "t.yaml:27: error: HTTPRoute shop/r: spec.rules[0].backendRefs[0].name: Service shop/gone does not exist (create the Service in shop, or correct the name)\n"
    );
}

#[test]
fn every_code_is_documented() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = std::fs::read_to_string(root.join("../docs/check.md")).unwrap();
    let sources = [
        "check/mod.rs",
        "check/routes.rs",
        "check/services.rs",
        "check/workloads.rs",
        "check/policies.rs",
        "source/folder.rs",
    ];
    let mut seen = BTreeSet::new();
    for source in sources {
        let text = std::fs::read_to_string(root.join("src").join(source)).unwrap();
        // codes are the only literals of this form
        let literals = text.split('"').skip(1).step_by(2).map(str::to_owned);
        let code = |s: &String| {
            s != "weft-proxy"
                && s.contains('-')
                && s.len() > 7
                && s.bytes().all(|b| b.is_ascii_lowercase() || b == b'-' || b == b'4')
        };
        seen.extend(literals.filter(code));
    }
    assert!(seen.len() > 45, "{seen:?}");
    let missing: Vec<_> = seen.iter().filter(|c| !docs.contains(&format!("`{c}`"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn sessions_that_nothing_keeps() {
    let policy = "---\napiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\nmetadata: {namespace: shop, name: b}\nspec: {targetRefs: [{group: '', kind: Service, name: orders}], retryConstraint: {budget: {percent: 10}}, sessionPersistence: {}}\n";
    one(&(shop() + policy), "policy-unsupported spec.sessionPersistence");
}

#[test]
fn an_unattached_route_is_judged_all_the_same() {
    let yaml = shop() + &route("HTTPRoute", "shop", "r", "name: orders", "[{backendRefs: [{name: gone, port: 80}]}]");
    let (codes, text) = found(&yaml.replace("group: \"\", ", ""));
    assert_eq!(
        codes,
        ["parent-group spec.parentRefs[0].group", "backend-not-found spec.rules[0].backendRefs[0].name"],
        "{text}"
    );
}

#[test]
fn authorization_that_names_nobody_or_nothing() {
    let policy = |spec: &str| {
        shop()
            + &format!(
                "---\napiVersion: weft.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{namespace: shop, name: a}}\nspec: {{{spec}}}\n"
            )
    };
    let all = "targetRefs: [{group: '', kind: Namespace, name: shop}]";
    one(&policy(&format!("{all}, action: Deny")), "policy-empty spec.rules");
    let source = |s: &str| policy(&format!("{all}, rules: [{{sources: [{s}]}}]"));
    one(
        &source("{type: ServiceAccount, serviceAccount: {name: ordres}}"),
        "policy-source spec.rules[0].sources[0].serviceAccount.name",
    );
    one_none(&source("{type: ServiceAccount, serviceAccount: {name: orders}}"));
    one(
        &source("{type: SPIFFE, spiffe: 'spiffe://cluster.local/x'}"),
        "policy-unsupported spec.rules[0].sources[0].spiffe",
    );
    one(
        &policy("targetRefs: [{group: '', kind: Pod, selector: {matchLabels: {app: nobody}}}]"),
        "policy-target spec.targetRefs[0].selector",
    );
    // what an API server refuses
    let refused = found(&source("{type: Namespace}")).0;
    assert_eq!(refused, ["field-invalid spec.rules[0].sources[0].namespace"]);
}
