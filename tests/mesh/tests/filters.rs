//! Every filter and match type of the routes, and routes for bytes, through both sidecars: what the application and the client get of them.

use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use weft_test_mesh::{Mesh, app::Reply, conformance::*, eventually, raw};

async fn ruled(rules: &str) -> Mesh {
    Mesh::start(&[BASE, &route("ruled", "echo", Some(80), rules)].concat()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_match_type_of_an_http_route() {
    let mesh = ruled(
        "
- matches: [{path: {type: Exact, value: /exact}}, {path: {type: RegularExpression, value: '/item/[0-9]+'}}]
  backendRefs: [{name: echo-v1, port: 80}]
- matches: [{method: DELETE}, {headers: [{type: RegularExpression, name: agent, value: 'bot.*'}]}, {queryParams: [{type: RegularExpression, name: page, value: '[0-9]{1,3}'}]}]
  backendRefs: [{name: echo-v2, port: 80}]
- matches: [{path: {value: /all}, method: PUT, headers: [{name: a, value: '1'}, {name: b, value: '2'}], queryParams: [{name: q, value: x y}]}]
  backendRefs: [{name: echo-v1, port: 80}]",
    )
    .await;
    let call = || mesh.pod("echo-v2").call("echo", 80);
    let (v1, v2) = (Some("echo-v1"), Some("echo-v2"));
    let put = || call().method("PUT").path("/all/of/it?q=x%20y").header("a", "1");
    for (n, (call, pod)) in [
        (call().path("/exact"), v1),
        (call().path("/exact/"), None),
        (call().path("/Exact"), None),
        (call().path("/item/42"), v1),
        (call().path("/item/42/more"), None),
        (call().path("/item/x"), None),
        (call().method("DELETE").path("/x"), v2),
        (call().path("/x").header("agent", "bot-7"), v2),
        (call().path("/x").header("agent", "a bot"), None),
        (call().path("/x?page=12"), v2),
        (call().path("/x?page=1234"), None),
        (put().header("b", "2"), v1),
        (put(), None),
    ]
    .into_iter()
    .enumerate()
    {
        let a = call.send().await.unwrap();
        match pod {
            Some(pod) => assert_eq!((a.status, a.pod().as_str()), (200, pod), "case {n}"),
            None => assert_eq!(a.status, 404, "case {n}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_match_type_of_a_grpc_route() {
    let rules = "
- matches: [{method: {service: a.Exact, method: One}}]
  backendRefs: [{name: echo-v1, port: 7070}]
- matches: [{method: {type: RegularExpression, service: 'b\\..*', method: 'Get.+'}}, {method: {service: c.All}}, {headers: [{name: tier, value: gold}]}]
  backendRefs: [{name: echo-v2, port: 7070}]";
    let mesh = Mesh::start(&[BASE, &grpc_route("matches", "echo", Some(7070), rules)].concat()).await;
    for (path, tier, pod) in [
        ("/a.Exact/One", "", Some("echo-v1")),
        ("/a.Exact/Two", "", None),
        ("/b.Any/GetIt", "", Some("echo-v2")),
        ("/b.Any/Get", "", None),
        ("/xb.Any/GetIt", "", None),
        ("/c.All/Whatever", "", Some("echo-v2")),
        ("/a.Exact/Two", "gold", Some("echo-v2")),
    ] {
        let a = mesh.pod("echo-v1").call("echo", 7070).grpc(path).header("tier", tier).send().await.unwrap();
        match pod {
            Some(pod) => assert_eq!((a.status, a.pod().as_str()), (200, pod), "{path}"),
            None => assert_eq!((a.status, a.grpc_status()), (200, Some(12)), "{path}"),
        }
    }
}

/// The fourth case of MeshGRPCRouteRequestHeaderModifier: names in another case, several of each kind, the client's own value first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mesh_grpc_route_request_header_modifier_with_several_of_each() {
    let rules = "
- matches: [{headers: [{name: x-test-case, value: multi}]}]
  filters:
  - type: RequestHeaderModifier
    requestHeaderModifier:
      set: [{name: X-Header-Set-1, value: header-set-1}, {name: X-Header-Set-2, value: header-set-2}]
      add: [{name: X-Header-Add-1, value: header-add-1}, {name: X-Header-Add-2, value: header-add-2}, {name: X-Header-Add-3, value: header-add-3}]
      remove: [X-Header-Remove-1, X-Header-Remove-2]
  backendRefs: [{name: echo-v2, port: 7070}]";
    let mesh = Mesh::start(&[BASE, &grpc_route("grpc-headers", "echo", Some(7070), rules)].concat()).await;
    let call = mesh.pod("echo-v2").call("echo", 7070).grpc("/gateway.Echo/Echo").header("x-test-case", "multi");
    let call = call.header("x-header-set-2", "set-header-2").header("x-header-add-2", "add-header-2");
    let call = call.header("x-header-remove-2", "gone").header("another-header", "another-header-val");
    let seen = call.send().await.unwrap().seen();
    assert_eq!(seen.pod, "echo-v2");
    for (name, value) in [
        ("x-header-set-1", "header-set-1"),
        ("x-header-set-2", "header-set-2"),
        ("x-header-add-1", "header-add-1"),
        ("x-header-add-2", "add-header-2,header-add-2"),
        ("x-header-add-3", "header-add-3"),
        ("another-header", "another-header-val"),
    ] {
        assert_eq!(seen.headers.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(!seen.headers.contains_key("x-header-remove-1") && !seen.headers.contains_key("x-header-remove-2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_of_a_backend_apply_to_its_share_only() {
    let mesh = ruled(
        "
- filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: rule, value: yes}]}}]
  backendRefs:
  - {name: echo-v1, port: 80}
  - name: echo-v2
    port: 80
    filters:
    - {type: URLRewrite, urlRewrite: {hostname: second.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: from, value: second}]}}
  matches: [{path: {type: PathPrefix, value: /old}}]"
            .replace("value: yes", "value: \"yes\"")
            .as_str(),
    )
    .await;
    let mut of = [0, 0];
    while of.contains(&0) {
        assert!(of.iter().sum::<u32>() < 200, "{of:?}: the other one never came");
        let a = mesh.pod("echo-v1").call("echo", 80).path("/old/a?b=c").send().await.unwrap();
        let (seen, from) = (a.seen(), a.header("from").map(str::to_owned));
        assert_eq!(seen.headers["rule"], "yes");
        let got = (seen.path.as_str(), seen.host.as_str(), from.as_deref());
        match seen.pod.as_str() {
            "echo-v1" => assert_eq!(got, ("/old/a?b=c", "echo", None)),
            _ => assert_eq!(got, ("/new/a?b=c", "second.example", Some("second"))),
        }
        of[usize::from(seen.pod == "echo-v2")] += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_mirrors_get_their_share_and_slow_nobody() {
    let rules = "
- filters:
  - {type: RequestMirror, requestMirror: {backendRef: {name: echo-v2, port: 80}, percent: 50}}
  - {type: RequestMirror, requestMirror: {backendRef: {name: echo-v2, port: 8080}, fraction: {numerator: 1, denominator: 1}}}
  - {type: RequestMirror, requestMirror: {backendRef: {name: nobody, port: 80}}}
  backendRefs: [{name: echo-v1, port: 80}]";
    let mesh = Mesh::builder()
        .yaml(&[BASE, &route("mirror", "echo", Some(80), rules)].concat())
        .app("echo-v2", |_, _| Reply::After(Duration::from_millis(300), Box::new(Reply::Status(500))))
        .start()
        .await;
    let call = mesh.pod("echo-v1").call("echo", 80).method("POST").body(&[7; 3000]);
    let mut connection = call.connect().await.unwrap();
    let start = std::time::Instant::now();
    for _ in 0..200 {
        let a = connection.send(&call).await.unwrap();
        assert_eq!((a.status, a.pod().as_str(), a.seen().body_bytes), (200, "echo-v1", 3000));
    }
    assert!(start.elapsed() < Duration::from_secs(30), "waited for the mirrors: {:?}", start.elapsed());
    // one of the two always, the other half of the time: 300, give or take five standard deviations
    let shadow = mesh.app("echo-v2");
    eventually("the mirrored requests arrive", async || shadow.requests() >= 265).await;
    assert!(shadow.requests() <= 335, "{}", shadow.requests());
    let metrics = mesh.metrics("echo-v1").await;
    let sum = |name: &str| -> f64 {
        let of = metrics.lines().filter(|l| l.starts_with(name) && l[name.len()..].starts_with('{'));
        of.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    assert!(sum("weft_mirrors_total") >= 265.0, "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cors_is_answered_by_the_mesh() {
    let mesh = ruled(
        "
- filters: [{type: CORS, cors: {allowOrigins: ['https://*.shop.example'], allowMethods: [GET, PUT], allowHeaders: [x-mine], exposeHeaders: [x-theirs], maxAge: 600}}]
  backendRefs: [{name: echo-v1, port: 80}]",
    )
    .await;
    let call = |origin: &str| mesh.pod("echo-v2").call("echo", 80).header("origin", origin);
    let before = mesh.app("echo-v1").requests();
    let ask = call("https://www.shop.example").method("OPTIONS").header("access-control-request-method", "PUT");
    let a = ask.send().await.unwrap();
    assert!([200, 204].contains(&a.status), "{}", a.status);
    assert_eq!(a.header("access-control-allow-origin"), Some("https://www.shop.example"));
    assert!(a.header("access-control-allow-methods").unwrap_or_default().contains("PUT"), "{:?}", a.headers);
    assert!(a.header("access-control-allow-headers").unwrap_or_default().contains("x-mine"), "{:?}", a.headers);
    assert_eq!(a.header("access-control-max-age"), Some("600"));
    let ask = call("https://evil.example").method("OPTIONS").header("access-control-request-method", "PUT");
    assert_eq!(ask.send().await.unwrap().header("access-control-allow-origin"), None);
    assert_eq!(mesh.app("echo-v1").requests(), before, "no preflight reaches the application");
    let a = call("https://www.shop.example").send().await.unwrap();
    assert_eq!((a.status, a.header("access-control-allow-origin")), (200, Some("https://www.shop.example")));
    assert_eq!(a.header("access-control-expose-headers"), Some("x-theirs"));
    let a = call("https://evil.example").send().await.unwrap();
    assert_eq!((a.status, a.header("access-control-allow-origin")), (200, None));
}

// ---------------------------------------------------------------- bytes

fn stream_route(kind: &str, more: &str, backends: &str, name: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: gateway-conformance-mesh}}\nspec:\n  parentRefs: [{{group: \"\", kind: Service, name: echo, port: 80}}]\n  {more}\n  rules: [{{backendRefs: [{backends}]}}]\n"
    )
}

/// Pods that answer anything with their name, on port 8080.
async fn named(yaml: &str) -> Mesh {
    let yaml =
        [BASE, yaml].concat().replace("port: 80, targetPort: 8080, appProtocol: http", "port: 80, targetPort: 8080");
    let mesh = Mesh::builder().yaml(&yaml).bare("echo-v1").bare("echo-v2").start().await;
    for pod in ["echo-v1", "echo-v2"] {
        raw::serve(mesh.pod(pod).app_address(8080), move |mut s| async move {
            let mut buf = [0; 4096];
            let n = s.read(&mut buf).await?;
            s.write_all(format!("{pod} {n}").as_bytes()).await
        })
        .await;
    }
    mesh
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tcp_route_splits_connections_and_closes_the_invalid_share() {
    let backends = "{name: echo-v1, port: 80, weight: 2}, {name: echo-v2, port: 80, weight: 1}, {name: nobody, port: 80, weight: 1}";
    let mesh = named(&stream_route("TCPRoute", "", backends, "tcp")).await;
    let at = mesh.pod("consumer").service_address("echo", 80);
    let mut of = [0u32; 3];
    for _ in 0..160 {
        // where the share is invalid the reset may come before the client's own side of the connection is set up
        let answer = match raw::connect(at).await {
            Ok(mut s) => {
                let _ = s.write_all(b"anything").await;
                raw::rest(&mut s).await
            }
            Err(e) => {
                assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset);
                String::new()
            }
        };
        match answer.as_str() {
            "echo-v1 8" => of[0] += 1,
            "echo-v2 8" => of[1] += 1,
            "" => of[2] += 1,
            other => panic!("{other}"),
        }
    }
    // 80, 40, 40 with standard deviations of 6.3 and 5.5: five of them
    assert!((48..=112).contains(&of[0]) && (12..=68).contains(&of[1]) && (12..=68).contains(&of[2]), "{of:?}");
}

/// A ClientHello with a server name.
fn hello(name: &str) -> Vec<u8> {
    let n = name.len() as u16;
    let sni = [&[0, 0][..], &(n + 5).to_be_bytes(), &(n + 3).to_be_bytes(), &[0], &n.to_be_bytes(), name.as_bytes()];
    let extensions = sni.concat();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut record = vec![22, 3, 1];
    record.extend((body.len() as u16 + 4).to_be_bytes());
    record.extend([1, 0]);
    record.extend((body.len() as u16).to_be_bytes());
    record.extend(body);
    record
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_routes_go_by_server_name_and_pass_the_applications_tls_through() {
    let one = stream_route("TLSRoute", "hostnames: [one.example]", "{name: echo-v1, port: 80}", "one");
    let any = stream_route("TLSRoute", "hostnames: ['*.example']", "{name: echo-v2, port: 80}", "any");
    let mesh = named(&[one, any].concat()).await;
    let at = mesh.pod("consumer").service_address("echo", 80);
    for (name, pod) in [("one.example", "echo-v1"), ("ONE.example", "echo-v1"), ("two.example", "echo-v2")] {
        let hello = hello(name);
        assert_eq!(raw::ask(at, &hello).await, format!("{pod} {}", hello.len()), "{name}");
        // in pieces, as on a bad line
        let mut s = raw::dial(at).await;
        for piece in hello.chunks(40) {
            s.write_all(piece).await.unwrap();
            s.flush().await.unwrap();
        }
        assert!(raw::rest(&mut s).await.starts_with(pod), "{name}");
    }
    assert_eq!(raw::ask(at, &hello("other.test")).await, "", "no route takes it");
    assert_eq!(raw::ask(at, b"no TLS at all, and more than a record's head").await, "");
}
