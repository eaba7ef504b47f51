//! The behaviours that the Gateway API's mesh conformance tests look for, in process: real controller, CA and sidecars on loopback. Each test is named after the official one
//! and looks at more than it does: paths, redirect targets and statuses too.

use weft_test_mesh::{Mesh, app::Reply, conformance::*};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mesh_basic() {
    let mesh = Mesh::start(BASE).await;
    let a = mesh.pod("echo-v1").call("echo", 80).send().await.unwrap();
    assert_eq!(a.status, 200);
    assert!(["echo-v1", "echo-v2"].contains(&a.pod().as_str()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mesh_http_route_simple_same_namespace() {
    let mesh = Mesh::start(
        &[BASE, &route("mesh-simple", "echo", None, "- backendRefs: [{name: echo-v1, port: 80}]")].concat(),
    )
    .await;
    for _ in 0..20 {
        assert_eq!(mesh.pod("echo-v2").call("echo", 80).send().await.unwrap().pod(), "echo-v1");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mesh_http_route_matching() {
    let rules = "
- matches: [{path: {type: PathPrefix, value: /}}, {headers: [{name: version, value: one}]}]
  backendRefs: [{name: echo-v1, port: 8080}]
- matches: [{path: {type: PathPrefix, value: /v2}}, {headers: [{name: version, value: two}]}]
  backendRefs: [{name: echo-v2, port: 8080}]";
    let mesh = Mesh::start(&[BASE, &route("mesh-matching", "echo", Some(80), rules)].concat()).await;
    let client = mesh.pod("echo-v1");
    for (path, header, pod) in [
        ("/", None, "echo-v1"),
        ("/example", None, "echo-v1"),
        ("/", Some("one"), "echo-v1"),
        ("/v2", None, "echo-v2"),
        ("/v2example", None, "echo-v1"),
        ("/foo/v2/example", None, "echo-v1"),
        ("/", Some("two"), "echo-v2"),
        ("/v2/", None, "echo-v2"),
        // the longer path wins over the header
        ("/v2", Some("one"), "echo-v2"),
    ] {
        let mut call = client.call("echo", 80).path(path);
        if let Some(v) = header {
            call = call.header("version", v);
        }
        let a = call.send().await.unwrap();
        assert_eq!((a.status, a.pod().as_str()), (200, pod), "{path} {header:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mesh_http_route_query_param_matching() {
    let rules = "
- matches: [{queryParams: [{name: animal, value: whale}]}]
  backendRefs: [{name: echo-v1, port: 8080}]
- matches: [{queryParams: [{name: animal, value: dolphin}]}, {queryParams: [{name: animal, value: dolphin}, {name: color, value: blue}]}]
  backendRefs: [{name: echo-v2, port: 8080}]";
    let mesh = Mesh::start(&[BASE, &route("mesh-query", "echo", None, rules)].concat()).await;
    let client = mesh.pod("echo-v1");
    for (path, expect) in [
        ("/?animal=whale", Some("echo-v1")),
        ("/?animal=dolphin", Some("echo-v2")),
        ("/?animal=dolphin&color=blue", Some("echo-v2")),
        ("/?animal=dolphin&animal=whale", Some("echo-v2")),
        ("/", None),
        ("/?animal=shark", None),
    ] {
        let a = client.call("echo", 80).path(path).send().await.unwrap();
        match expect {
            Some(pod) => assert_eq!((a.status, a.pod().as_str()), (200, pod), "{path}"),
            None => assert_eq!(a.status, 404, "{path}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mesh_http_route_request_header_modifier() {
    for place in ["rule", "backend"] {
        let filter = "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: set-overwrites-values}], add: [{name: X-Add, value: add-appends-values}], remove: [X-Remove]}}";
        let rules = match place {
            "rule" => format!("\n- filters: [{filter}]\n  backendRefs: [{{name: echo-v1, port: 80}}]"),
            _ => format!("\n- backendRefs: [{{name: echo-v1, port: 80, filters: [{filter}]}}]"),
        };
        let mesh = Mesh::start(&[BASE, &route("mesh-headers", "echo", None, &rules)].concat()).await;
        let call = mesh.pod("echo-v2").call("echo", 80);
        let call =
            call.header("X-Set", "old").header("X-Add", "first").header("X-Remove", "gone").header("X-Other", "stays");
        let h = call.send().await.unwrap().seen().headers;
        assert_eq!(h["x-set"], "set-overwrites-values", "{place}");
        assert_eq!(h["x-add"], "first,add-appends-values", "{place}");
        assert_eq!(h.get("x-remove"), None, "{place}");
        assert_eq!(h["x-other"], "stays", "{place}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mesh_http_route_redirects() {
    let cases = [
        ("hostname: example.org", 302, "http://example.org/hostname-redirect"),
        ("hostname: example.org, statusCode: 301", 301, "http://example.org/hostname-redirect"),
        ("statusCode: 303", 303, "http://echo/hostname-redirect"),
        ("statusCode: 307", 307, "http://echo/hostname-redirect"),
        ("statusCode: 308", 308, "http://echo/hostname-redirect"),
        ("port: 8083", 302, "http://echo:8083/hostname-redirect"),
        ("scheme: https", 302, "https://echo/hostname-redirect"),
        ("path: {type: ReplaceFullPath, replaceFullPath: /full}", 302, "http://echo/full"),
        ("path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}", 302, "http://echo/new"),
    ];
    for (redirect, status, location) in cases {
        let rules = format!(
            "\n- matches: [{{path: {{type: PathPrefix, value: /hostname-redirect}}}}]\n  filters: [{{type: RequestRedirect, requestRedirect: {{{redirect}}}}}]"
        );
        let mesh = Mesh::start(&[BASE, &route("mesh-redirect", "echo", None, &rules)].concat()).await;
        let a = mesh.pod("echo-v1").call("echo", 80).path("/hostname-redirect").send().await.unwrap();
        assert_eq!((a.status, a.header("location")), (status, Some(location)), "{redirect}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mesh_http_route_rewrite_path() {
    let rules = "
- matches: [{path: {type: PathPrefix, value: /prefix/one}}]
  filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /one}}}]
  backendRefs: [{name: echo-v1, port: 80}]
- matches: [{path: {type: PathPrefix, value: /full/one}}]
  filters: [{type: URLRewrite, urlRewrite: {hostname: other.example, path: {type: ReplaceFullPath, replaceFullPath: /one}}}]
  backendRefs: [{name: echo-v1, port: 80}]";
    let mesh = Mesh::start(&[BASE, &route("mesh-rewrite", "echo", None, rules)].concat()).await;
    let client = mesh.pod("echo-v2");
    let seen = client.call("echo", 80).path("/prefix/one/two?q=1").send().await.unwrap().seen();
    assert_eq!((seen.path.as_str(), seen.host.as_str()), ("/one/two?q=1", "echo"));
    let seen = client.call("echo", 80).path("/full/one/two").send().await.unwrap().seen();
    assert_eq!((seen.path.as_str(), seen.host.as_str()), ("/one", "other.example"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mesh_http_route_weight() {
    let rules = "\n- backendRefs: [{name: echo-v1, port: 8080, weight: 70}, {name: echo-v2, port: 8080, weight: 30}]";
    let mesh = Mesh::start(&[BASE, &route("mesh-weight", "echo", Some(80), rules)].concat()).await;
    let client = mesh.pod("echo-v1");
    let mut v1 = 0;
    for _ in 0..500 {
        let a = client.call("echo", 80).send().await.unwrap();
        assert_eq!(a.status, 200);
        v1 += u32::from(a.pod() == "echo-v1");
    }
    // five standard deviations of a binomial with n = 500, p = 0.7
    assert!((299..=401).contains(&v1), "{v1} of 500 went to v1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mesh_grpc_route_weight_tolerates_a_missing_backend_of_weight_0() {
    let rules = "\n- backendRefs: [{name: echo-v1, port: 7070, weight: 70}, {name: echo-v2, port: 7070, weight: 30}, {name: nobody, port: 7070, weight: 0}]";
    let mesh = Mesh::start(&[BASE, &grpc_route("mesh-grpc-weight", "echo", Some(7070), rules)].concat()).await;
    let client = mesh.pod("echo-v1");
    let mut v1 = 0;
    // all calls on one connection: it is requests that are balanced
    let call = client.call("echo", 7070).grpc("/gateway.Echo/Echo");
    let mut connection = call.connect().await.unwrap();
    for _ in 0..300 {
        let a = connection.send(&call).await.unwrap();
        assert_eq!(a.status, 200, "{:?}", a.headers);
        v1 += u32::from(a.pod() == "echo-v1");
    }
    assert!((170..=250).contains(&v1), "{v1} of 300 went to v1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mesh_grpc_route_request_header_modifier() {
    let rules = "
- matches: [{headers: [{name: x-test-case, value: set}]}]
  filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Header-Set, value: set-overwrites-values}]}}]
  backendRefs: [{name: echo-v1, port: 7070}]
- matches: [{headers: [{name: x-test-case, value: add}]}]
  filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: X-Header-Add, value: add-appends-values}]}}]
  backendRefs: [{name: echo-v1, port: 7070}]
- matches: [{headers: [{name: x-test-case, value: remove}]}]
  filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [X-Header-Remove]}}]
  backendRefs: [{name: echo-v1, port: 7070}]";
    let mesh = Mesh::start(&[BASE, &grpc_route("mesh-grpc-headers", "echo", Some(7070), rules)].concat()).await;
    let call =
        |case: &str| mesh.pod("echo-v2").call("echo", 7070).grpc("/gateway.Echo/Echo").header("x-test-case", case);
    let h = call("set").header("x-header-set", "old").send().await.unwrap().seen().headers;
    assert_eq!(h["x-header-set"], "set-overwrites-values");
    let h = call("add").header("x-header-add", "this-value-should-be-appended").send().await.unwrap().seen().headers;
    assert_eq!(h["x-header-add"], "this-value-should-be-appended,add-appends-values");
    let h = call("remove").header("x-header-remove", "gone").send().await.unwrap().seen().headers;
    assert_eq!(h.get("x-header-remove"), None);
    let a = call("none of these").send().await.unwrap();
    assert_eq!((a.status, a.grpc_status()), (200, Some(12)), "no rule matches: UNIMPLEMENTED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mesh_traffic_split_and_named_rules() {
    let rules = "
- name: first
  matches: [{path: {type: Exact, value: /v1}}]
  backendRefs: [{name: echo-v1, port: 80}]
- name: second
  matches: [{path: {type: Exact, value: /v2}}]
  backendRefs: [{name: echo-v2, port: 80}]";
    let mesh = Mesh::start(&[BASE, &route("mesh-split", "echo", None, rules)].concat()).await;
    let client = mesh.pod("echo-v1");
    assert_eq!(client.call("echo", 80).path("/v1").send().await.unwrap().pod(), "echo-v1");
    assert_eq!(client.call("echo", 80).path("/v2").send().await.unwrap().pod(), "echo-v2");
    assert_eq!(client.call("echo", 80).path("/v3").send().await.unwrap().status, 404);
}

const MARK: &str =
    "filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Header-Set, value: set}]}}]";

fn marked(name: &str, parent: &str, port: Option<u16>) -> String {
    route(name, parent, port, &format!("\n- {MARK}\n  backendRefs: [{{name: {parent}, port: 80}}]"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mesh_frontend_applies_to_the_service_and_not_to_the_pod() {
    let mesh = Mesh::start(&[BASE, &marked("mesh-frontend", "echo-v2", None)].concat()).await;
    let client = mesh.pod("echo-v1");
    let a = client.call("echo-v2", 80).send().await.unwrap();
    assert_eq!(a.header("x-header-set"), Some("set"));
    let a = client.call_pod("echo-v2", 8080).send().await.unwrap();
    assert_eq!((a.status, a.pod().as_str(), a.header("x-header-set")), (200, "echo-v2", None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mesh_frontend_hostname_routes_by_address_never_by_host() {
    let mesh = Mesh::start(&[BASE, &marked("mesh-frontend", "echo-v2", None)].concat()).await;
    let client = mesh.pod("echo-v1");
    let a = client.call("echo-v2", 80).host("echo-v1").send().await.unwrap();
    assert_eq!((a.pod().as_str(), a.header("x-header-set")), ("echo-v2", Some("set")));
    let a = client.call("echo-v1", 80).host("echo-v2").send().await.unwrap();
    assert_eq!((a.pod().as_str(), a.header("x-header-set")), ("echo-v1", None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mesh_ports_a_parent_port_narrows_and_none_means_all() {
    let mesh =
        Mesh::start(&[BASE, &marked("one-port", "echo-v1", Some(80)), &marked("all-ports", "echo-v2", None)].concat())
            .await;
    let client = mesh.pod("echo-v1");
    for (service, port, set) in
        [("echo-v1", 80, true), ("echo-v1", 8080, false), ("echo-v2", 80, true), ("echo-v2", 8080, true)]
    {
        let a = client.call(service, port).send().await.unwrap();
        assert_eq!((a.status, a.header("x-header-set").is_some()), (200, set), "{service}:{port}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mesh_consumer_route_applies_to_clients_of_its_namespace_only() {
    let consumer = marked("mesh-consumer", "echo-v1", None)
        .replace("namespace: gateway-conformance-mesh", "namespace: gateway-conformance-mesh-consumer")
        .replace("kind: Service, name: echo-v1", "kind: Service, name: echo-v1, namespace: gateway-conformance-mesh")
        .replace("{name: echo-v1, port: 80}", "{name: echo-v1, port: 80, namespace: gateway-conformance-mesh}");
    let mesh = Mesh::start(&[BASE, &consumer].concat()).await;
    let a = mesh.pod("consumer").call("echo-v1", 80).send().await.unwrap();
    assert_eq!((a.pod().as_str(), a.header("x-header-set")), ("echo-v1", Some("set")));
    let a = mesh.pod("echo-v2").call("echo-v1", 80).send().await.unwrap();
    assert_eq!((a.pod().as_str(), a.header("x-header-set")), ("echo-v1", None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_route_replaces_the_producers_routes_for_its_namespace() {
    let producer = marked("producer", "echo-v1", None);
    let consumer = route(
        "consumer",
        "echo-v1",
        None,
        "\n- matches: [{path: {type: PathPrefix, value: /only}}]\n  backendRefs: [{name: echo-v1, port: 80}]",
    )
    .replace("namespace: gateway-conformance-mesh", "namespace: gateway-conformance-mesh-consumer")
    .replace("kind: Service, name: echo-v1", "kind: Service, name: echo-v1, namespace: gateway-conformance-mesh")
    .replace("{name: echo-v1, port: 80}", "{name: echo-v1, port: 80, namespace: gateway-conformance-mesh}");
    let mesh = Mesh::start(&[BASE, &producer, &consumer].concat()).await;
    let client = mesh.pod("consumer");
    assert_eq!(client.call("echo-v1", 80).path("/only").send().await.unwrap().header("x-header-set"), None);
    assert_eq!(client.call("echo-v1", 80).path("/other").send().await.unwrap().status, 404);
    assert_eq!(mesh.pod("echo-v2").call("echo-v1", 80).send().await.unwrap().header("x-header-set"), Some("set"));
}

// ---- the mesh column of the failure table

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_31_no_match_no_backend_missing_backend_and_zero_weights() {
    let rules = "
- matches: [{path: {type: PathPrefix, value: /none}}]
- matches: [{path: {type: PathPrefix, value: /missing}}]
  backendRefs: [{name: nobody, port: 80}]
- matches: [{path: {type: PathPrefix, value: /zero}}]
  backendRefs: [{name: echo-v1, port: 80, weight: 0}]
- matches: [{path: {type: PathPrefix, value: /empty}}]
  backendRefs: [{name: empty, port: 80}]
- matches: [{path: {type: PathPrefix, value: /kind}}]
  backendRefs: [{group: example.org, kind: Thing, name: echo-v1, port: 80}]
- matches: [{path: {type: PathPrefix, value: /half}}]
  backendRefs: [{name: echo-v1, port: 80}, {name: nobody, port: 80}]";
    let mesh = Mesh::start(&[BASE, &route("mesh-failures", "echo", None, rules)].concat()).await;
    let client = mesh.pod("echo-v1");
    for (path, status) in
        [("/no-rule", 404), ("/none", 500), ("/missing", 500), ("/zero", 500), ("/empty", 503), ("/kind", 500)]
    {
        let a = client.call("echo", 80).path(path).send().await.unwrap();
        assert_eq!(a.status, status, "{path}: {:?}", a.headers);
        assert!(a.header("weft-error").is_some_and(|e| !e.is_empty()), "{path} says why: {:?}", a.headers);
    }
    let mut failed = 0;
    for _ in 0..200 {
        failed += u32::from(client.call("echo", 80).path("/half").send().await.unwrap().status == 500);
    }
    assert!((60..=140).contains(&failed), "{failed} of 200 failed; half of the weight is invalid");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_filter_is_never_skipped() {
    let rules = "\n- filters: [{type: ExtensionRef, extensionRef: {group: example.org, kind: Thing, name: x}}]\n  backendRefs: [{name: echo-v1, port: 80}]";
    let mesh = Mesh::start(&[BASE, &route("mesh-extension", "echo", None, rules)].concat()).await;
    let a = mesh.pod("echo-v1").call("echo", 80).send().await.unwrap();
    assert_eq!(a.status, 500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_failures_are_grpc_statuses() {
    let rules = "
- matches: [{method: {service: a.B, method: Missing}}]
  backendRefs: [{name: nobody, port: 7070}]
- matches: [{method: {service: a.B, method: Empty}}]
  backendRefs: [{name: empty, port: 80}]";
    let mesh = Mesh::start(&[BASE, &grpc_route("grpc-failures", "echo", Some(7070), rules)].concat()).await;
    for (path, code) in [("/a.B/Missing", 14), ("/a.B/Empty", 14), ("/a.B/Other", 12)] {
        let a = mesh.pod("echo-v1").call("echo", 7070).grpc(path).send().await.unwrap();
        assert_eq!((a.status, a.grpc_status()), (200, Some(code)), "{path}");
    }
}

// ---- retries and timeouts (GEP-1731 and GEP-1742 as of v1.7)

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_34_listed_codes_are_retried_and_the_last_one_is_answered_when_tries_are_used_up() {
    let rules = |attempts| {
        format!(
            "\n- retry: {{codes: [500, 503], attempts: {attempts}, backoff: 5ms}}\n  backendRefs: [{{name: echo-v1, port: 80}}]"
        )
    };
    for (attempts, failures, status, requests) in [(2, 2, 200, 3), (1, 2, 503, 2), (0, 1, 503, 1)] {
        let mesh = Mesh::builder()
            .yaml(&[BASE, &route("mesh-retry", "echo", None, &rules(attempts))].concat())
            .app("echo-v1", move |n, _| if n < failures { Reply::Status(503) } else { Reply::Echo })
            .start()
            .await;
        let a = mesh.pod("echo-v2").call("echo", 80).send().await.unwrap();
        assert_eq!((a.status, mesh.app("echo-v1").requests()), (status, requests), "attempts {attempts}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_36_the_request_timeout_bounds_everything() {
    let rules = "\n- timeouts: {request: 300ms}\n  retry: {codes: [500], attempts: 5, backoff: 5ms}\n  backendRefs: [{name: echo-v1, port: 80}]";
    let mesh = Mesh::builder()
        .yaml(&[BASE, &route("mesh-timeout", "echo", None, rules)].concat())
        .app("echo-v1", |_, _| Reply::After(std::time::Duration::from_millis(200), Box::new(Reply::Status(500))))
        .start()
        .await;
    let start = std::time::Instant::now();
    let a = mesh.pod("echo-v2").call("echo", 80).send().await.unwrap();
    assert_eq!(a.status, 504, "{:?}", a.headers);
    assert!((300..600).contains(&(start.elapsed().as_millis() as u64)), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_37_a_try_that_times_out_is_retried() {
    let rules = "\n- timeouts: {request: 5s, backendRequest: 100ms}\n  retry: {attempts: 2, backoff: 5ms}\n  backendRefs: [{name: echo-v1, port: 80}]";
    let mesh = Mesh::builder()
        .yaml(&[BASE, &route("mesh-timeout", "echo", None, rules)].concat())
        .app("echo-v1", |n, _| {
            if n == 0 { Reply::After(std::time::Duration::from_secs(2), Box::new(Reply::Echo)) } else { Reply::Echo }
        })
        .start()
        .await;
    let a = mesh.pod("echo-v2").call("echo", 80).send().await.unwrap();
    assert_eq!((a.status, mesh.app("echo-v1").requests()), (200, 2));
}
