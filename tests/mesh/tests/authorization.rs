//! What an `AuthorizationPolicy` does to calls: from inside the mesh, from outside, over HTTP, gRPC and bytes.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};
use weft_test_mesh::{
    LIMIT, Mesh,
    app::Reply,
    client::{Answer, Call},
    eventually,
    objects::Objects,
    raw,
};

/// Clients `web` and `cart`, `outside` without a sidecar, and `orders` with HTTP on 80 and bytes on 90.
fn shop() -> Objects {
    Objects::shop()
        .pod("web", "web", &[9000])
        .pod("cart", "cart", &[9000])
        .plain_pod("outside", "outside", &[9000])
        .service(
            "orders",
            "orders",
            &[
                "80, name: http, targetPort: 8080",
                "90, name: tcp, targetPort: 8090",
                "81, name: grpc, targetPort: 8080",
            ],
        )
        .pod("orders-1", "orders", &[8080, 8090])
}
const ORDERS: &str = "group: \"\", kind: Pod, selector: {matchLabels: {app: orders}}";
fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{targetRefs: [{{{ORDERS}}}], {spec}}}"
    )
}
const WEB: &str = "sources: [{type: ServiceAccount, serviceAccount: {name: web}}]";

/// HTTP on 8080, an echo of bytes on 8090.
async fn start(objects: &Objects) -> Mesh {
    let mut mesh = Mesh::builder().yaml(objects.yaml()).bare("orders-1").start().await;
    let (http, tcp) = (mesh.pod("orders-1").app_address(8080), mesh.pod("orders-1").app_address(8090));
    mesh.echo("orders-1").serve(http).await.unwrap();
    raw::serve(tcp, async |mut s| {
        let (mut r, mut w) = s.split();
        tokio::io::copy(&mut r, &mut w).await.map(drop)
    })
    .await;
    mesh
}
async fn send(call: &Call) -> Answer {
    call.send().await.unwrap()
}
/// Whether bytes come back.
async fn echoes(at: std::net::SocketAddr) -> bool {
    let mut s = raw::dial(at).await;
    let mut back = [0; 4];
    s.write_all(b"ping").await.is_ok()
        && timeout(LIMIT, s.read_exact(&mut back)).await.is_ok_and(|r| r.is_ok())
        && &back == b"ping"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_is_named_may_call() {
    let mesh = start(&shop().and(&policy("only-web", &format!("rules: [{{{WEB}}}]")))).await;
    let a = send(&mesh.pod("web").call("orders", 80)).await;
    assert_eq!(a.status, 200, "{:?}", a.headers);
    let a = send(&mesh.pod("cart").call("orders", 80)).await;
    assert_eq!(a.status, 403);
    assert_eq!(a.header("weft-error"), Some("not allowed for this identity: by shop/only-web"));
    let a = send(&mesh.pod("cart").call("orders", 81).grpc("/shop.Orders/Get")).await;
    assert_eq!((a.status, a.grpc_status()), (200, Some(7)));
    // plain text is nobody, whatever it says of itself
    let outside = mesh.pod("outside");
    let a =
        send(&outside.call_pod("orders-1", 8080).header("weft-client", "spiffe://cluster.local/ns/shop/sa/web")).await;
    assert_eq!(a.status, 403);
    assert_eq!(mesh.app("orders-1").requests(), 1, "what is denied reaches nobody");
    // bytes
    assert!(echoes(mesh.pod("web").service_address("orders", 90)).await);
    assert!(!echoes(mesh.pod("cart").service_address("orders", 90)).await);
    assert!(!echoes(outside.pod_address("orders-1", 8090)).await);
    let metrics = mesh.metrics("orders-1").await;
    let line = |l: &&str| l.starts_with("weft_authorization_denied_total{policy=\"shop/only-web\",mode=\"enforce\"}");
    let n: u64 = metrics.lines().find(line).unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(n >= 5, "{n}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn method_and_path_in_their_normal_form() {
    let read = format!("{WEB}, http: [{{methods: [GET], paths: [{{type: PathPrefix, value: /orders}}]}}]");
    let deny = "http: [{paths: [{type: PathPrefix, value: /orders/secret}]}]";
    let objects = shop()
        .and(&policy("read", &format!("rules: [{{{read}}}]")))
        .and(&policy("secret", &format!("action: Deny, rules: [{{{deny}}}]")));
    let mesh = start(&objects).await;
    let call = mesh.pod("web").call("orders", 80);
    for (method, path, status) in [
        ("GET", "/orders", 200),
        ("GET", "/orders/7?x=1", 200),
        ("GET", "//orders/./7", 200),
        ("POST", "/orders", 403),
        ("GET", "/ordersx", 403),
        ("GET", "/orders/../admin", 403),
        ("GET", "/orders/secret", 403),
        ("GET", "/orders/x/%2e%2e/secret/a", 403),
        ("GET", "/orders/secret%2Fa", 403),
        ("GET", "/orders/secret;v=1", 403),
    ] {
        let a = send(&call.clone().method(method).path(path)).await;
        assert_eq!(a.status, status, "{method} {path}");
    }
    // a rule about requests allows no bytes
    assert!(!echoes(mesh.pod("web").service_address("orders", 90)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trial_counts_and_lets_through() {
    let mesh = start(&shop().and(&policy("trial", &format!("mode: DryRun, rules: [{{{WEB}}}]")))).await;
    for _ in 0..3 {
        assert_eq!(send(&mesh.pod("cart").call("orders", 80)).await.status, 200);
        assert_eq!(send(&mesh.pod("web").call("orders", 80)).await.status, 200);
    }
    let metrics = mesh.metrics("orders-1").await;
    assert!(
        metrics.contains("weft_authorization_denied_total{policy=\"shop/trial\",mode=\"dry_run\"} 3\n"),
        "{metrics}"
    );
    assert!(!metrics.contains("mode=\"enforce\"} 3"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_judges_what_is_under_way_and_the_next_request() {
    let objects = shop();
    let mesh = start(&objects).await;
    let mut stream = raw::dial(mesh.pod("cart").service_address("orders", 90)).await;
    let mut plain = raw::dial(mesh.pod("outside").pod_address("orders-1", 8090)).await;
    let mut kept = raw::dial(mesh.pod("web").service_address("orders", 90)).await;
    for s in [&mut stream, &mut plain, &mut kept] {
        s.write_all(b"ping").await.unwrap();
        raw::until(s, "ping").await;
    }
    let call = mesh.pod("cart").call("orders", 80);
    let mut open = call.connect().await.unwrap();
    assert_eq!(open.send(&call).await.unwrap().status, 200);
    mesh.save(objects.clone().and(&policy("only-web", &format!("rules: [{{{WEB}}}]"))).yaml());
    assert_eq!(raw::rest(&mut stream).await, "");
    assert_eq!(raw::rest(&mut plain).await, "");
    assert_eq!(open.send(&call).await.unwrap().status, 403);
    kept.write_all(b"pong").await.unwrap();
    raw::until(&mut kept, "pong").await;
    mesh.save(objects.yaml());
    eventually("everybody may again", async || open.send(&call).await.unwrap().status == 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_of_the_kubelet_pass() {
    let objects = shop().and(&policy("nobody", "rules: []"));
    let yaml = objects.yaml().replace(
        "serviceAccountName: orders, containers: [{name: app, image: app,",
        "serviceAccountName: orders, containers: [{name: app, image: app, livenessProbe: {httpGet: {port: 8080, path: /healthz}},",
    );
    assert!(yaml.contains("livenessProbe"));
    let mut mesh = Mesh::builder().yaml(&yaml).bare("orders-1").start().await;
    let http = mesh.pod("orders-1").app_address(8080);
    mesh.echo("orders-1").serve(http).await.unwrap();
    let probe = mesh.pod("outside").call_pod("orders-1", 8080);
    assert_eq!(send(&probe.clone().path("/healthz")).await.status, 200);
    for (method, path) in [("POST", "/healthz"), ("GET", "/healthz/x"), ("GET", "/")] {
        assert_eq!(send(&probe.clone().method(method).path(path)).await.status, 403, "{method} {path}");
    }
    // the exception is for who has no identity; whoever has one is judged by it
    assert_eq!(send(&mesh.pod("web").call("orders", 80).path("/healthz")).await.status, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_under_way_ends_when_it_is_no_longer_allowed() {
    let objects = shop();
    let mesh = Mesh::builder()
        .yaml(objects.yaml())
        .app("orders-1", |_, seen| match seen.path.as_str() {
            "/slow" => Reply::After(LIMIT * 2, Box::new(Reply::Echo)),
            _ => Reply::Echo,
        })
        .start()
        .await;
    let slow = mesh.pod("cart").call("orders", 80).path("/slow");
    let waiting = tokio::spawn(async move { slow.send().await.unwrap() });
    eventually("the request has reached the application", async || mesh.app("orders-1").requests() == 1).await;
    mesh.save(objects.clone().and(&policy("only-web", &format!("rules: [{{{WEB}}}]"))).yaml());
    let a = timeout(LIMIT, waiting).await.unwrap().unwrap();
    assert_eq!(a.status, 403, "{:?}", a.headers);
}

/// Where the sidecar of a pod of this process logs.
fn log_of(pod: &str) -> PathBuf {
    std::env::temp_dir().join(format!("weft-authorization-{}-{pod}.log", std::process::id()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_access_log_names_the_policy() {
    let objects = shop()
        .and(&policy("only-web", &format!("rules: [{{{WEB}}}]")))
        .and(&policy("trial", "mode: DryRun, action: Deny, rules: [{http: [{methods: [PUT]}]}]"));
    let mesh = Mesh::builder().yaml(objects.yaml()).tweak(|c| c.access_log = Some(log_of(&c.pod.name))).start().await;
    let web = mesh.pod("web").call("orders", 80);
    for call in [web.clone(), web.method("PUT"), mesh.pod("cart").call("orders", 80)] {
        send(&call).await;
    }
    let logged = async || {
        let text = std::fs::read_to_string(log_of("orders-1")).unwrap_or_default();
        let lines = text.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
        lines.map(|l| (l["status"].clone(), l["policy"].clone(), l["policy_mode"].clone())).collect::<Vec<_>>()
    };
    eventually("three lines", async || logged().await.len() == 3).await;
    use serde_json::{Value::Null, json};
    assert_eq!(
        logged().await,
        [
            (json!(200), Null, Null),
            (json!(200), json!("shop/trial"), json!("dry_run")),
            (json!(403), json!("shop/only-web"), json!("enforce")),
        ]
    );
    for pod in ["web", "cart", "orders-1"] {
        let _ = std::fs::remove_file(log_of(pod));
    }
}
