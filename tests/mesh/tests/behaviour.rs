//! What the mesh promises while things change, and when one side is slow: nothing fails, nothing stalls. Memory has a file of its own.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use std::{
    io,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
    time::timeout,
};
use weft_test_mesh::{
    LIMIT, Mesh,
    app::{Reply, Seen},
    eventually,
    load::Load,
    objects::Objects,
    raw,
};

/// A client, and pods `web-1`.. behind one Service: 80 is HTTP, 90 is opaque.
fn web(pods: usize) -> Objects {
    let mut o = Objects::shop().pod("client", "client", &[9000]).service(
        "web",
        "web",
        &["80, name: http, targetPort: 8080", "90, name: tcp, targetPort: 8090", "81, name: data, targetPort: 8080"],
    );
    for n in 1..=pods {
        o = o.pod(&format!("web-{n}"), "web", &[8080, 8090]);
    }
    o
}

/// Applications that echo HTTP on 8080 and bytes on 8090.
async fn start(objects: &Objects, pods: usize, leaf: Option<Duration>) -> Mesh {
    let mut b = Mesh::builder().yaml(objects.yaml());
    if let Some(life) = leaf {
        b = b.leaf(life);
    }
    for n in 1..=pods {
        b = b.bare(&format!("web-{n}"));
    }
    let mut mesh = b.start().await;
    for n in 1..=pods {
        let name = format!("web-{n}");
        let (http, tcp) = (mesh.pod(&name).app_address(8080), mesh.pod(&name).app_address(8090));
        mesh.echo(&name).serve(http).await.unwrap();
        raw::serve(tcp, async |mut s| {
            let (mut r, mut w) = s.split();
            tokio::io::copy(&mut r, &mut w).await.map(drop)
        })
        .await;
    }
    mesh
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_routes_are_edited_100_times() {
    let objects = web(1);
    let mesh = start(&objects, 1, None).await;
    let load = Load::start(&mesh, "client", "web", Some(90));
    load.more(1).await;
    let client = mesh.pod("client");
    let mut slowest = Duration::ZERO;
    for n in 1..=100 {
        let rules = format!(
            "[{{filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-edit, value: \"{n}\"}}]}}}}], backendRefs: [{{name: web, port: 80}}]}}]"
        );
        mesh.save(objects.clone().route("edited", "web, port: 80", &rules).yaml());
        let saved = Instant::now();
        let mut c = client.call("web", 80).connect().await.unwrap();
        eventually("the edit reaches traffic", async || {
            let a = c.send(&client.call("web", 80)).await.unwrap();
            assert_eq!(a.status, 200, "{:?}", a.headers);
            a.header("x-edit") == Some(&n.to_string())
        })
        .await;
        slowest = slowest.max(saved.elapsed());
    }
    load.more(1).await;
    load.finish().await;
    // 100 ms is the promise, measured by the demo; here the machine is busy on purpose
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_49_no_request_fails_while_leaf_issuer_and_root_rotate() {
    let mesh = start(&web(2), 2, Some(Duration::from_secs(6))).await;
    let load = Load::start(&mesh, "client", "web", Some(90));
    load.more(1).await;
    let serial = async |pod: &str| mesh.dump(pod).await["certificate"]["leaf"]["serial"].as_str().unwrap().to_owned();
    let pods = ["client", "web-1", "web-2"];
    let renewed = async |why: &str, ask: &dyn Fn()| {
        let mut old = Vec::new();
        for p in pods {
            old.push(serial(p).await);
        }
        ask();
        for (p, old) in pods.iter().zip(old) {
            eventually(&format!("{why}: a new leaf for {p}"), async || serial(p).await != old).await;
        }
    };
    renewed("its time has come", &|| ()).await;
    load.more(5).await;
    let before = mesh.ca.state();
    renewed("issuer", &|| mesh.ca.rotate_issuer().unwrap()).await;
    assert_ne!(mesh.ca.state().signing, 0);
    load.more(5).await;
    let roots = mesh.ca.bundle().roots().to_vec();
    renewed("root", &|| mesh.ca.rotate_root().unwrap()).await;
    eventually("the rotation is over", async || mesh.ca.state().rotation.is_none()).await;
    let bundle = mesh.ca.bundle();
    assert_eq!(bundle.roots().len(), 1);
    assert_ne!(bundle.roots(), roots, "the old root is gone");
    assert!(mesh.ca.state().revision > before.revision);
    load.more(5).await;
    load.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_76_no_request_fails_while_the_controller_is_killed_and_restarted() {
    let objects = web(2);
    let mut mesh = start(&objects, 2, None).await;
    let load = Load::start(&mesh, "client", "web", Some(90));
    load.more(5).await;
    for n in 0..3 {
        mesh.stop_controller();
        load.more(20).await;
        // what is saved meanwhile is known when it is back
        let rules = format!(
            "[{{filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-edit, value: \"{n}\"}}]}}}}], backendRefs: [{{name: web, port: 80}}]}}]"
        );
        mesh.save(objects.clone().route("edited", "web, port: 80", &rules).yaml());
        mesh.restart_controller().await;
        let client = mesh.pod("client");
        eventually("the edit reaches traffic", async || {
            client.call("web", 80).send().await.unwrap().header("x-edit") == Some(&n.to_string())
        })
        .await;
        load.more(5).await;
    }
    load.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_endpoints_roll() {
    let objects = web(3);
    let mut mesh = start(&objects, 3, None).await;
    let load = Load::start(&mesh, "client", "web", None);
    load.more(5).await;
    for n in 1..=3 {
        let pod = format!("web-{n}");
        let app = mesh.app(&pod).clone();
        eventually("it is used", async || app.requests() > 0).await;
        // as in a cluster, the pod learns of its end at the same time as everybody else
        mesh.save(&objects.without(&pod));
        mesh.retire(&pod);
        load.more(5).await;
        // its successor exists before it is ready
        mesh.save(&objects.unready(&pod));
        mesh.revive(&pod);
        mesh.save(objects.yaml());
        let before = app.requests();
        eventually("it is used again", async || app.requests() > before).await;
    }
    load.finish().await;
}

// ---------------------------------------------------------------- protocols

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_speaks_first_on_an_undeclared_port() {
    let mesh = Mesh::builder().yaml(web(1).yaml()).bare("web-1").start().await;
    raw::serve(mesh.pod("web-1").app_address(8080), async |mut s| {
        s.write_all(b"220 mail.shop ready\r\n").await?;
        let mut b = [0; 64];
        let n = s.read(&mut b).await?;
        s.write_all(&b[..n]).await
    })
    .await;
    let at = mesh.pod("client").service_address("web", 81);
    let mut times = Vec::new();
    for _ in 0..25 {
        let one = async || {
            let start = Instant::now();
            let mut s = raw::dial(at).await;
            assert_eq!(raw::until(&mut s, "\r\n").await, "220 mail.shop ready\r\n");
            let took = start.elapsed();
            s.write_all(b"EHLO me\r\n").await.unwrap();
            assert_eq!(raw::until(&mut s, "\r\n").await, "EHLO me\r\n");
            took
        };
        let (a, b, c, d) = tokio::join!(one(), one(), one(), one());
        times.extend([a, b, c, d]);
    }
    times.sort();
    // of 100; the 50 ms of silence are in it
    assert!(times[98] < Duration::from_millis(200), "{times:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_with_http_routes_fails_closed() {
    let rules = "[{backendRefs: [{name: web, port: 81}]}]";
    let mesh = Mesh::builder().yaml(web(1).route("all", "web, port: 81", rules).yaml()).bare("web-1").start().await;
    raw::serve(mesh.pod("web-1").app_address(8080), async |mut s| s.write_all(b"you must not see this\r\n").await)
        .await;
    let at = mesh.pod("client").service_address("web", 81);
    for bytes in [
        &b"SSH-2.0-OpenSSH_9.7\r\n"[..],
        b"\x16\x03\x01\x00\x05hello",
        b"*1\r\n$4\r\nPING\r\n",
        &[0; 64],
        b"GET /\r\n\r\n",
    ] {
        let got = raw::ask(at, bytes).await;
        assert!(got.starts_with("HTTP/1.1 400 "), "{:?}: {got:?}", String::from_utf8_lossy(bytes));
    }
    // one that says nothing gets nothing: it is not passed on, either
    let mut s = raw::dial(at).await;
    let mut b = [0; 16];
    assert!(timeout(Duration::from_millis(400), s.read(&mut b)).await.is_err());
    let s = mesh.proxy("web-1").stats();
    assert_eq!((s.accepted_inbound.get(), s.handshakes_server.get()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_48_strict_and_permissive_and_back() {
    const WEB: &str = "group: \"\", kind: Pod, selector: {matchLabels: {app: web}}";
    let objects = web(1).plain_pod("old", "old", &[9000]);
    let strict = objects.clone().tls(WEB, "Strict");
    let mesh = start(&strict, 1, None).await;
    let plain = mesh.pod("old").call_pod("web-1", 8080);
    let bytes = mesh.pod("old").pod_address("web-1", 8090);
    let meshed = mesh.pod("client").call("web", 80);
    let refused = async || {
        assert!(plain.send().await.is_err(), "plain HTTP");
        assert!(plain.clone().http2().send().await.is_err(), "plain HTTP/2");
        assert_eq!(raw::ask(bytes, b"ping").await, "", "bytes");
        // a hello without the mesh's protocols is the application's own TLS
        assert_eq!(raw::ask(bytes, &hello()).await, "", "foreign TLS");
        assert_eq!(meshed.send().await.unwrap().status, 200);
    };
    refused().await;
    let s = mesh.proxy("web-1").stats();
    assert_eq!((s.refused_plain_text.get(), s.refused_foreign_tls.get()), (3, 1));
    mesh.save(objects.clone().tls(WEB, "Permissive").yaml());
    eventually("permissive", async || plain.send().await.is_ok()).await;
    let mut s = raw::dial(bytes).await;
    s.write_all(b"ping").await.unwrap();
    assert_eq!(raw::until(&mut s, "ping").await, "ping");
    let mut tls = raw::dial(bytes).await;
    tls.write_all(&hello()).await.unwrap();
    let mut echoed = vec![0; hello().len()];
    timeout(LIMIT, tls.read_exact(&mut echoed)).await.unwrap().unwrap();
    assert_eq!(echoed, hello(), "the application's own TLS is passed through");
    assert_eq!(meshed.send().await.unwrap().status, 200);
    mesh.save(strict.yaml());
    eventually("strict again", async || plain.send().await.is_err()).await;
    refused().await;
}

/// A ClientHello as rustls writes it, without a protocol of the mesh.
fn hello() -> Vec<u8> {
    // record(22, 3.1) { client_hello { 3.3, random, no session, TLS_AES_128_GCM_SHA256, null, no extensions } }
    let mut b = vec![22, 3, 1, 0, 47, 1, 0, 0, 43, 3, 3];
    b.extend([7; 32]);
    b.extend([0, 0, 2, 0x13, 1, 1, 0, 0, 0]);
    b
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_52_a_server_with_another_identity_gets_nothing() {
    let objects = web(1);
    let mesh = start(&objects, 1, None).await;
    let client = mesh.pod("client");
    assert_eq!(client.call("web", 80).send().await.unwrap().status, 200);
    let before = mesh.app("web-1").requests();
    // the pod is said to run as another account: whoever answers there is not who was meant
    mesh.save(&objects.yaml().replace("serviceAccountName: web", "serviceAccountName: someone"));
    eventually("the identity matters", async || client.call("web", 80).send().await.unwrap().status == 503).await;
    let after = mesh.app("web-1").requests();
    assert!(after >= before);
    for call in
        [client.call("web", 80), client.call("web", 80).method("POST").body(b"secret"), client.call("web", 80).http2()]
    {
        let a = call.send().await.unwrap();
        let why = a.header("weft-error").unwrap_or_default().to_owned();
        assert_eq!(a.status, 503);
        assert!(why.starts_with("the peer has another identity"), "{why}");
    }
    // opaque connections are reset
    assert_eq!(raw::ask(client.service_address("web", 90), b"secret").await, "");
    assert_eq!(mesh.app("web-1").requests(), after, "nothing reached the application");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn meshed_and_plain_endpoints_behind_one_service() {
    let objects = web(1).plain_pod("web-2", "web", &[8080, 8090]);
    let mesh = start(&objects, 2, None).await;
    let client = mesh.pod("client");
    let mut seen = std::collections::BTreeMap::new();
    for n in 0..40 {
        let call = client.call("web", 80).method("POST").body(&[b'b'; 3000]);
        let call = if n % 2 == 0 { call } else { call.http2() };
        let s = call.send().await.unwrap().seen();
        assert_eq!(s.body_bytes, 3000);
        // who calls is known to those who can verify it, and only to them
        let who = s.headers.get("weft-client").cloned();
        assert!(!s.headers.contains_key("weft-meta"), "{:?}", s.headers);
        seen.insert(s.pod, who);
        let mut o = raw::dial(client.service_address("web", 90)).await;
        o.write_all(b"ping").await.unwrap();
        assert_eq!(raw::until(&mut o, "ping").await, "ping");
    }
    assert_eq!(seen.get("web-1").cloned().flatten().as_deref(), Some("spiffe://cluster.local/ns/shop/sa/client"));
    assert_eq!(seen.get("web-2"), Some(&None), "{seen:?}");
    // nothing went to the plain one in TLS, nothing to the meshed one in plain text
    assert_eq!(mesh.proxy("web-1").stats().detected_http.get(), 0);
}

// ---------------------------------------------------------------- slow sides

fn sized(_: u64, seen: &Seen) -> Reply {
    match seen.path.strip_prefix("/bytes/") {
        Some(n) => Reply::Bytes(n.parse().unwrap()),
        None => Reply::Echo,
    }
}

async fn sizes() -> Mesh {
    Mesh::builder().yaml(web(1).yaml()).app("web-1", sized).start().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_upload_stalls_nobody() {
    let mesh = sizes().await;
    let client = mesh.pod("client");
    for http2 in [false, true] {
        let call = client.call("web", 80).method("POST");
        let call = if http2 { call.http2() } else { call };
        let (tx, rx) = mpsc::channel::<Result<Frame<Bytes>, io::Error>>(1);
        let mut c = call.connect().await.unwrap();
        let body =
            StreamBody::new(futures_util::stream::unfold(rx, async |mut rx| Some((rx.recv().await?, rx))).boxed());
        let upload = tokio::spawn({
            let call = call.clone();
            async move {
                let (head, body) = c.begin(&call, body.boxed_unsync()).await.unwrap();
                (head.status.as_u16(), body.collect().await.unwrap().to_bytes())
            }
        });
        for _ in 0..20 {
            tx.send(Ok(Frame::data(vec![b's'; 10_000].into()))).await.unwrap();
            for other in [client.call("web", 80), client.call("web", 80).http2()] {
                assert_eq!(timeout(LIMIT, other.send()).await.unwrap().unwrap().status, 200);
            }
        }
        drop(tx);
        let (status, body) = timeout(LIMIT, upload).await.unwrap().unwrap();
        let seen: Seen = serde_json::from_slice(&body).unwrap();
        assert_eq!((status, seen.body_bytes), (200, 200_000));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_two_streams_of_64_kb_at_once() {
    let mesh = sizes().await;
    let client = mesh.pod("client");
    let down = client.call("web", 80).http2().path("/bytes/65536");
    let up = client.call("web", 80).http2().method("POST").body(&[b'u'; 65_536]);
    let calls = (0..64).map(|n| if n % 2 == 0 { down.clone() } else { up.clone() });
    let connection = tokio::sync::Mutex::new(down.connect().await.unwrap());
    let weft_test_mesh::client::Connection::Http2(send) = &*connection.lock().await else { panic!() };
    let answers = futures_util::future::join_all(calls.map(|call| {
        let mut c = weft_test_mesh::client::Connection::Http2(send.clone());
        async move { timeout(LIMIT, c.send(&call)).await.unwrap().unwrap() }
    }))
    .await;
    for (n, a) in answers.into_iter().enumerate() {
        assert_eq!(a.status, 200);
        match n % 2 {
            0 => assert_eq!(a.body.len(), 65_536),
            _ => assert_eq!(a.seen().body_bytes, 65_536),
        }
    }
}
