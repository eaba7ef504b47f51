//! Rows of the fault matrix that only a whole mesh shows: client, two sidecars, application.
#![allow(clippy::unwrap_used)]

use futures_util::future::join_all;
use http_body_util::BodyExt as _;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};
use weft_test_mesh::{LIMIT, Mesh, app::Reply, client::Connection, eventually, objects::Objects, raw};

fn web(pods: usize) -> Objects {
    let mut o =
        Objects::shop().pod("client", "client", &[9000]).service("web", "web", &["80, name: http, targetPort: 8080"]);
    for n in 1..=pods {
        o = o.pod(&format!("web-{n}"), "web", &[8080]);
    }
    o
}

/// The value of a metric, summed over the series whose labels contain all of `parts`.
async fn metric(mesh: &Mesh, pod: &str, name: &str, parts: &[&str]) -> u64 {
    let text = mesh.metrics(pod).await;
    let is = |l: &&str| l.split(['{', ' ']).next() == Some(name) && parts.iter().all(|p| l.contains(p));
    text.lines().filter(is).map(|l| l.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
}

const RETRY: &str = "[{retry: {codes: [503], attempts: 3, backoff: 1ms}, backendRefs: [{name: web, port: 80}]}]";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_29_nobody_can_say_what_only_the_mesh_may_say() {
    let lies = ["weft-meta", "weft-client", "weft-error", "weft-anything", "x-forwarded-client-cert"];
    let answer = |_: u64, _: &_| {
        let own = [
            ("weft-error", "no_route; a lie"),
            ("weft-meta", "1;h2"),
            ("weft-client", "spiffe://x/ns/a/sa/b"),
            ("x-own", "1"),
        ];
        Reply::Headers(own.map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec())
    };
    let objects = web(1).plain_pod("old", "old", &[9000]);
    let mesh = Mesh::builder().yaml(objects.yaml()).app("web-1", answer).start().await;
    let who = "spiffe://cluster.local/ns/shop/sa/client";
    let meshed = (mesh.pod("client").call("web", 80), Some(who));
    let plain = (mesh.pod("old").call_pod("web-1", 8080), None);
    for (call, client) in [meshed, plain] {
        for call in [call.clone(), call.http2()] {
            let call = lies.iter().fold(call, |c, l| c.header(l, "spiffe://cluster.local/ns/shop/sa/admin"));
            let a = call.header("x-mine", "kept").send().await.unwrap();
            let headers = a.seen().headers;
            assert_eq!(headers.get("weft-client").map(String::as_str), client);
            assert_eq!(headers["x-mine"], "kept");
            for lie in lies.iter().filter(|l| **l != "weft-client") {
                assert!(!headers.contains_key(*lie), "{lie}: {headers:?}");
            }
            // and what the application says of itself is not ours, either
            assert_eq!((a.status, a.header("x-own")), (200, Some("1")));
            assert!(!a.headers.keys().any(|k| k.as_str().starts_with("weft-")), "{:?}", a.headers);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_33_the_older_of_two_routes_wins_and_the_other_takes_over() {
    let route = |name: &str, created: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: shop, creationTimestamp: \"{created}\"}}\nspec: {{parentRefs: [{{group: \"\", kind: Service, name: web}}], rules: [{{filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-route, value: {name}}}]}}}}], backendRefs: [{{name: web, port: 80}}]}}]}}"
        )
    };
    // by name the other would come first
    let young = route("a-young", "2025-06-01T00:00:00Z");
    let both = web(1).and(&young).and(&route("b-old", "2024-06-01T00:00:00Z"));
    let mesh = Mesh::start(both.yaml()).await;
    let client = mesh.pod("client");
    for _ in 0..5 {
        assert_eq!(client.call("web", 80).send().await.unwrap().header("x-route"), Some("b-old"));
    }
    mesh.save(web(1).and(&young).yaml());
    eventually("the younger one takes over", async || {
        client.call("web", 80).send().await.unwrap().header("x-route") == Some("a-young")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_35_only_what_can_be_said_again_is_retried() {
    let mesh = Mesh::builder()
        .yaml(web(1).route("retry", "web", RETRY).yaml())
        .app("web-1", |_, s| {
            // the first try of each path fails
            static SEEN: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());
            let mut seen = SEEN.lock().unwrap();
            if seen.contains(&s.path) {
                return Reply::Echo;
            }
            seen.push(s.path.clone());
            Reply::Status(503)
        })
        .start()
        .await;
    let client = mesh.pod("client");
    for http2 in [false, true] {
        // 64 KiB are recorded; what is larger is gone
        for (size, status, tries) in [(60_000, 200, 2), (200_000, 503, 1)] {
            let before = mesh.app("web-1").requests();
            let call = client.call("web", 80).method("POST").path(&format!("/{http2}/{size}")).body(&vec![b'b'; size]);
            let a = if http2 { call.http2() } else { call }.send().await.unwrap();
            assert_eq!((a.status, a.seen().body_bytes), (status, size), "{http2}");
            assert_eq!(mesh.app("web-1").requests() - before, tries, "{size} {http2}");
        }
    }
    assert_eq!(metric(&mesh, "client", "weft_retries_total", &["shop/web:80"]).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_38_what_did_not_reach_an_application_is_retried_and_nothing_else() {
    let objects = web(2);
    // web-1 has a sidecar and no application: its sidecar says so, and the other one gets it
    let mesh = Mesh::builder().yaml(objects.yaml()).bare("web-1").start().await;
    let client = mesh.pod("client");
    for n in 0..20 {
        let call = client.call("web", 80).method("POST").body(b"once");
        let a = if n % 2 == 0 { call } else { call.http2() }.send().await.unwrap();
        assert_eq!((a.status, a.pod().as_str()), (200, "web-2"), "{:?}", a.headers);
    }
    assert_eq!(mesh.app("web-2").requests(), 20);
    // the application takes a request and closes: it may have been processed
    let mesh = Mesh::builder().yaml(web(1).route("retry", "web", RETRY).yaml()).bare("web-1").start().await;
    let requests = Arc::new(AtomicU64::new(0));
    let counted = requests.clone();
    let (go, _) = tokio::sync::broadcast::channel::<()>(4);
    let told = go.clone();
    raw::serve(mesh.pod("web-1").app_address(8080), move |mut s| {
        let (counted, mut told) = (counted.clone(), told.subscribe());
        async move {
            let head = raw::until(&mut s, "\r\n\r\n").await;
            counted.fetch_add(1, SeqCst);
            if head.contains("/half ") {
                // half of an answer, and no more once it has arrived
                s.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await?;
                let _ = told.recv().await;
            }
            socket_reset(s);
            Ok(())
        }
    })
    .await;
    let client = mesh.pod("client");
    for (path, method) in [("/none", "POST"), ("/none", "GET")] {
        let before = requests.load(SeqCst);
        let a = client.call("web", 80).method(method).path(path).send().await.unwrap();
        assert_eq!(a.status, 502, "{:?}", a.headers);
        assert!(
            a.header("weft-error").is_some_and(|e| e.contains("connection lost before the response")),
            "{:?}",
            a.headers
        );
        assert_eq!(requests.load(SeqCst) - before, 1, "{method}");
    }
    let before = requests.load(SeqCst);
    let call = client.call("web", 80).path("/half");
    let empty = http_body_util::Empty::new().map_err(|e| match e {}).boxed_unsync();
    let (head, mut body) = call.connect().await.unwrap().begin(&call, empty).await.unwrap();
    assert_eq!(head.status, 200);
    let first = timeout(LIMIT, body.frame()).await.unwrap().unwrap().unwrap();
    assert_eq!(first.data_ref().map(|d| &d[..]), Some(&b"half"[..]));
    go.send(()).unwrap();
    let end = timeout(LIMIT, body.frame()).await.unwrap();
    assert!(matches!(end, Some(Err(_))), "a response that is cut off must not look complete: {end:?}");
    assert_eq!(requests.load(SeqCst) - before, 1);
}

/// Closes with a reset.
fn socket_reset(s: tokio::net::TcpStream) {
    s.set_zero_linger().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_39_the_budget_caps_what_failing_endpoints_get() {
    const CALLS: u64 = 600;
    let mesh = Mesh::builder()
        .yaml(web(2).route("retry", "web", RETRY).yaml())
        .app("web-1", |_, _| Reply::Status(503))
        .app("web-2", |_, _| Reply::Status(503))
        .start()
        .await;
    let client = mesh.pod("client");
    let start = Instant::now();
    let one = async || {
        let call = client.call("web", 80);
        let mut c = call.connect().await.unwrap();
        for _ in 0..CALLS / 6 {
            assert_eq!(c.send(&call).await.unwrap().status, 503);
        }
    };
    tokio::join!(one(), one(), one(), one(), one(), one());
    let asked = mesh.app("web-1").requests() + mesh.app("web-2").requests();
    // 20 % of the requests; the floor of 10 a second is what there is before there have been 50
    let floor = 10 * (start.elapsed().as_secs() + 1);
    let most = CALLS + (CALLS / 5).max(floor) + 10;
    assert!((CALLS + 50..=most).contains(&asked), "{asked} tries for {CALLS} requests; {most} are allowed");
    let retries = metric(&mesh, "client", "weft_retries_total", &["shop/web:80"]).await;
    assert_eq!(retries, asked - CALLS);
    assert!(metric(&mesh, "client", "weft_retries_refused_total", &["shop/web:80"]).await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_41_behind_a_slow_application_the_queue_is_bounded() {
    // four connections of the 200 streams that hyper allows, the 1,024 that may wait, and some
    const CALLS: usize = 2_400;
    const STREAMS: usize = 4 * 200;
    let mesh = Mesh::builder()
        .yaml(web(1).yaml())
        .app("web-1", |_, _| Reply::After(Duration::from_secs(4), Box::new(Reply::Echo)))
        .start()
        .await;
    let call = mesh.pod("client").call("web", 80).http2();
    let before = raw::resident();
    let mut all = Vec::new();
    let start = Instant::now();
    for _ in 0..CALLS / 100 {
        let Connection::Http2(send) = call.connect().await.unwrap() else { panic!() };
        for _ in 0..100 {
            let (mut c, call) = (Connection::Http2(send.clone()), call.clone());
            all.push(tokio::spawn(async move {
                let a = timeout(Duration::from_secs(60), c.send(&call)).await.unwrap().unwrap();
                (a.status, a.header("weft-error").unwrap_or_default().to_owned())
            }));
        }
    }
    let answers: Vec<_> = join_all(all).await.into_iter().map(Result::unwrap).collect();
    let served = answers.iter().filter(|(s, _)| *s == 200).count();
    let refused: Vec<_> = answers.iter().filter(|(s, _)| *s == 503).collect();
    assert_eq!(served + refused.len(), CALLS, "{:?}", answers.iter().find(|(s, _)| *s != 200 && *s != 503));
    for (_, why) in &refused {
        assert!(why.contains("wait") || why.contains("connection"), "{why}");
    }
    assert_eq!((served, mesh.app("web-1").requests() as usize), (STREAMS, STREAMS), "{:?}", start.elapsed());
    let grown = raw::resident().saturating_sub(before);
    // client, two sidecars and application in one process: some 25 KB for each request in all of them
    assert!(grown < 200 << 20, "{} MB", grown >> 20);
    // and it recovers alone
    let a = call.send().await.unwrap();
    assert_eq!(a.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_42_a_client_that_leaves_takes_its_request_with_it() {
    let mesh = Mesh::builder().yaml(web(1).route("retry", "web", RETRY).yaml()).bare("web-1").start().await;
    let (arrived, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
    let (gone, mut left) = tokio::sync::mpsc::unbounded_channel();
    raw::serve(mesh.pod("web-1").app_address(8080), move |mut s| {
        let (arrived, gone) = (arrived.clone(), gone.clone());
        async move {
            raw::until(&mut s, "\r\n\r\n").await;
            arrived.send(()).unwrap();
            // until the connection ends
            let _ = s.read(&mut [0; 1]).await;
            gone.send(Instant::now()).unwrap();
            Ok(())
        }
    })
    .await;
    let at = mesh.pod("client").service_address("web", 80);
    let mut quickest = [Duration::MAX; 2];
    for n in 0..8 {
        let mut s = raw::dial(at).await;
        let method = if n < 4 { "GET" } else { "POST" };
        s.write_all(format!("{method} / HTTP/1.1\r\nhost: web\r\ncontent-length: 0\r\n\r\n").as_bytes()).await.unwrap();
        timeout(LIMIT, arrivals.recv()).await.unwrap().unwrap();
        // a reset is a departure at any time; a FIN is one when it does not come with the request (docs/exchange.md: 50 ms)
        match n % 2 {
            0 => s.set_zero_linger().unwrap(),
            _ => tokio::time::sleep(Duration::from_millis(120)).await,
        }
        let start = Instant::now();
        drop(s);
        let end = timeout(LIMIT, left.recv()).await.unwrap().unwrap();
        quickest[n % 2] = quickest[n % 2].min(end.saturating_duration_since(start));
    }
    assert!(quickest.iter().all(|q| *q < Duration::from_millis(50)), "{quickest:?}");
    assert!(arrivals.try_recv().is_err(), "nothing was tried again");
    assert_eq!(metric(&mesh, "client", "weft_retries_total", &["shop/web:80"]).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_43_a_storm_of_connections_harms_nobody_who_is_there() {
    let mesh = Mesh::builder().yaml(web(1).yaml()).tweak(|c| c.limits.connections = 20).start().await;
    let client = mesh.pod("client");
    let call = client.call("web", 80);
    let mut kept = Vec::new();
    for _ in 0..10 {
        let mut c = call.connect().await.unwrap();
        assert_eq!(c.send(&call).await.unwrap().status, 200);
        kept.push(c);
    }
    // ten times the limit; the kernel takes what the sidecar does not
    let at = client.service_address("web", 80);
    let storm = join_all((0..200).map(|_| raw::dial(at))).await;
    let stats = mesh.proxy("client").stats();
    eventually("accepting pauses", async || stats.accept_paused.get() > 0).await;
    for c in &mut kept {
        assert_eq!(timeout(LIMIT, c.send(&call)).await.unwrap().unwrap().status, 200);
    }
    drop(storm);
    let a = timeout(LIMIT, call.send()).await.unwrap().unwrap();
    assert_eq!(a.status, 200);
    for c in &mut kept {
        assert_eq!(timeout(LIMIT, c.send(&call)).await.unwrap().unwrap().status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_59_a_drain_lets_streams_end_and_cuts_off_what_outlives_the_grace_period() {
    let objects = web(1);
    let mut mesh = Mesh::builder().yaml(objects.yaml()).bare("web-1").start().await;
    // answers a head and a byte at once, the rest when told to
    let (go, _) = tokio::sync::broadcast::channel::<()>(1);
    let told = go.clone();
    raw::serve(mesh.pod("web-1").app_address(8080), move |mut s| {
        let mut told = told.subscribe();
        async move {
            let head = raw::until(&mut s, "\r\n\r\n").await;
            s.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nb").await?;
            if head.contains("/never ") {
                std::future::pending::<()>().await;
            }
            let _ = told.recv().await;
            s.write_all(b"ody").await
        }
    })
    .await;
    let at = mesh.pod("client").service_address("web", 80);
    let open = async |path: &str| {
        let mut s = raw::dial(at).await;
        s.write_all(format!("GET {path} HTTP/1.1\r\nhost: web\r\n\r\n").as_bytes()).await.unwrap();
        assert!(raw::until(&mut s, "\r\n\r\nb").await.starts_with("HTTP/1.1 200"));
        s
    };
    let mut ending = Vec::new();
    for _ in 0..20 {
        ending.push(open("/told").await);
    }
    let mut never = open("/never").await;
    let proxy = mesh.proxy("web-1");
    let (control, stats) = (proxy.control(), proxy.stats().clone());
    let start = Instant::now();
    control.terminate();
    let mut state = proxy.state();
    timeout(LIMIT, state.wait_for(|s| *s == weft_proxy::control::State::Draining)).await.unwrap().unwrap();
    go.send(()).unwrap();
    for s in &mut ending {
        assert_eq!(raw::until(s, "ody").await, "ody", "a stream ends in its own time");
    }
    // 2.5 s of grace, less the last second
    let mut rest = Vec::new();
    let end = timeout(LIMIT, never.read_to_end(&mut rest)).await.unwrap();
    assert!(start.elapsed() > Duration::from_millis(1_400), "{:?}", start.elapsed());
    assert!(end.is_err() || rest.is_empty(), "{end:?} {rest:?}");
    mesh.retire("web-1");
    assert!(stats.drain_reset.get() >= 1, "it is counted");
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
}
