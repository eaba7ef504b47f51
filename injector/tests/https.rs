//! The webhook over HTTPS, as the API server calls it and as strangers do.
#![allow(clippy::unwrap_used)]

use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Request,
    body::{Bytes, Frame},
    client::conn::http2,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;
use weft_injector::{
    certificate::Pair,
    inject::Settings,
    limits::{Bounds, Limits},
    metrics::Metrics,
    serve::{self, Shared},
};

/// Nothing here takes longer, or it hangs.
const LIMIT: Duration = Duration::from_secs(30);

struct Injector {
    at: SocketAddr,
    ca: CertificateDer<'static>,
    shared: Arc<Shared>,
}

type Body = BoxBody<Bytes, Infallible>;
type Sender = http2::SendRequest<Body>;

impl Injector {
    async fn start(bounds: Bounds) -> Injector {
        weft_identity::provider::install();
        let pair = Pair::make("weft-injector", "weft-system", time::OffsetDateTime::now_utc()).unwrap();
        let ca = CertificateDer::from_pem_slice(pair.ca.as_bytes()).unwrap();
        let shared = Arc::new(Shared {
            settings: Settings {
                image: "weft.dev/weft-proxy:0.1.0".into(),
                image_pull_policy: "IfNotPresent".into(),
                trust_domain: "cluster.local".into(),
                ca: "weft-ca.weft-system.svc:15010".into(),
                controller: "weft-controller.weft-system.svc:15012".into(),
                native_sidecars: true,
                version: "0.1.0".into(),
                sidecar: weft_injector::sidecar::Sidecar::default(),
            },
            bundle: watch::channel(Some("-----BEGIN CERTIFICATE-----".into())).1,
            namespaces: HashMap::new().into(),
            metrics: Metrics::default(),
            limits: Limits::new(bounds),
            tls: watch::channel(Some(pair.server().unwrap())).1,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(serve::serve(listener, shared.clone(), CancellationToken::new()));
        Injector { at, ca, shared }
    }

    /// A TLS session from 127.0.0.`source`: on loopback every address of 127/8 is one's own.
    async fn session(&self, source: u8, alpn: &str) -> io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.clone()).unwrap();
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(IpAddr::from([127, 0, 0, source]), 0))?;
        let name = ServerName::try_from("weft-injector.weft-system.svc").unwrap();
        let socket = socket.connect(self.at).await?;
        // as Go's clients do
        socket.set_nodelay(true)?;
        TlsConnector::from(Arc::new(config)).connect(name, socket).await
    }
    async fn connect(&self, source: u8) -> Sender {
        let session = self.session(source, "h2").await.unwrap();
        let (send, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(session)).await.unwrap();
        tokio::spawn(connection);
        send
    }
}

fn review(n: usize) -> Bytes {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": format!("web-{n}-"), "labels": {"app": "web"}},
        "spec": {"containers": [
            {"name": "web", "image": "web:1", "ports": [{"name": "http", "containerPort": 8080}], "livenessProbe": {"tcpSocket": {"port": "http"}},
             "env": (0..40).map(|i| json!({"name": format!("VAR_{i}"), "value": "some value"})).collect::<Vec<_>>()}]},
    });
    let request = json!({"uid": format!("u-{n}"), "operation": "CREATE", "namespace": "shop", "resource": {"group": "", "version": "v1", "resource": "pods"}, "object": pod});
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).to_string().into()
}

async fn post(send: &mut Sender, body: Body) -> (u16, Bytes) {
    let request = Request::post("https://weft-injector.weft-system.svc/inject?timeout=10s").body(body).unwrap();
    let exchange = async {
        send.ready().await.unwrap();
        let response = send.send_request(request).await.unwrap();
        (response.status().as_u16(), response.into_body().collect().await.unwrap().to_bytes())
    };
    tokio::time::timeout(LIMIT, exchange).await.unwrap()
}
async fn ask(send: &mut Sender, n: usize) -> (u16, Bytes) {
    post(send, Full::new(review(n)).boxed()).await
}
/// A body that says `size` bytes of something and never the rest.
fn endless(size: usize) -> Body {
    let first = futures_util::stream::iter([Ok(Frame::data(Bytes::from(vec![b' '; size])))]);
    let never = futures_util::stream::pending();
    http_body_util::BodyExt::boxed(StreamBody::new(futures_util::StreamExt::chain(first, never)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_61_a_source_may_have_so_many_connections_and_others_are_served() {
    let injector = Injector::start(Bounds { connections: 4, source_connections: 2, ..Bounds::default() }).await;
    let (mut a, _b) = (injector.connect(1).await, injector.connect(1).await);
    assert!(injector.session(1, "h2").await.is_err(), "a third of one source");
    assert_eq!(ask(&mut a, 1).await.0, 200);
    let (mut c, _d) = (injector.connect(2).await, injector.connect(2).await);
    assert_eq!(ask(&mut c, 1).await.0, 200);
    assert!(injector.session(3, "h2").await.is_err(), "a fifth in all");
    assert_eq!(injector.shared.metrics.refused.load(Relaxed), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_61_requests_of_a_source_are_counted() {
    let injector = Injector::start(Bounds { rate: 0.001, burst: 3.0, ..Bounds::default() }).await;
    let (mut a, mut b) = (injector.connect(1).await, injector.connect(2).await);
    for n in 0..3 {
        assert_eq!(ask(&mut a, n).await.0, 200);
    }
    let (status, text) = ask(&mut a, 3).await;
    assert_eq!((status, text.starts_with(b"weft: more than")), (429, true));
    assert_eq!(ask(&mut injector.connect(1).await, 4).await.0, 429, "another connection does not help");
    assert_eq!(ask(&mut b, 0).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_61_bodies_that_never_end_take_their_sources_share_and_no_more() {
    let body = Duration::from_millis(300);
    let bounds =
        Bounds { bytes: 7 << 20, source_bytes: 3 << 20, body, request: Duration::from_secs(20), ..Bounds::default() };
    let injector = Injector::start(bounds).await;
    let (hog, mut honest) = (injector.connect(1).await, injector.connect(2).await);
    // each takes all of its source's share until its time is over, one after the other
    let slow: Vec<_> = (0..3)
        .map(|_| {
            let mut hog = hog.clone();
            tokio::spawn(async move { post(&mut hog, endless(100)).await })
        })
        .collect();
    let begun = Instant::now();
    assert_eq!(ask(&mut honest, 1).await.0, 200);
    for s in slow {
        let (status, text) = s.await.unwrap();
        assert_eq!((status, text.starts_with(b"weft: the body took longer")), (408, true), "{text:?}");
    }
    assert!(begun.elapsed() >= body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_60_a_body_beyond_three_mebibytes_is_refused_whether_it_says_so_or_not() {
    let injector = Injector::start(Bounds { body: LIMIT, request: LIMIT, ..Bounds::default() }).await;
    let mut third = injector.connect(3).await;
    assert_eq!(post(&mut third, Full::new(Bytes::from(vec![b' '; (3 << 20) + 1])).boxed()).await.0, 413);
    assert_eq!(post(&mut third, endless((3 << 20) + 1)).await.0, 413);
    assert_eq!(ask(&mut third, 2).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_61_silent_and_old_connections_end() {
    let bounds = Bounds {
        head: Duration::from_millis(100),
        handshake: Duration::from_millis(300),
        age: Duration::from_millis(500),
        ..Bounds::default()
    };
    let injector = Injector::start(bounds).await;
    let end = async |read: &mut (dyn tokio::io::AsyncRead + Unpin + Send)| {
        let mut rest = Vec::new();
        // closed or reset: both end it
        let _ = tokio::time::timeout(LIMIT, read.read_to_end(&mut rest)).await.expect("it stays open");
    };
    let mut half = injector.session(1, "http/1.1").await.unwrap();
    half.write_all(b"POST /inject HTTP/1.1\r\nHost: a\r\nX: ").await.unwrap();
    end(&mut half).await;
    end(&mut TcpStream::connect(injector.at).await.unwrap()).await;
    // an old connection is told to end, what is under way is finished, a new one serves
    let mut old = injector.connect(1).await;
    assert_eq!(ask(&mut old, 1).await.0, 200);
    tokio::time::timeout(LIMIT, async {
        while old.ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it lives for ever");
    assert_eq!(ask(&mut injector.connect(1).await, 2).await.0, 200);
}

/// What a pod that calls by itself learns: nothing that it could not read in any meshed pod.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_61_an_answer_holds_no_secret() {
    let injector = Injector::start(Bounds::default()).await;
    let mut send = injector.connect(1).await;
    let (status, text) = ask(&mut send, 1).await;
    let answer: Value = serde_json::from_slice(&text).unwrap();
    use base64::Engine as _;
    let patch =
        base64::engine::general_purpose::STANDARD.decode(answer["response"]["patch"].as_str().unwrap()).unwrap();
    let patch = String::from_utf8(patch).unwrap();
    assert!(
        status == 200
            && patch.contains("BEGIN CERTIFICATE")
            && !patch.contains("PRIVATE KEY")
            && !patch.contains("Bearer")
    );
    for path in ["/", "/metrics", "/inject/", "/debug/pprof"] {
        let request = Request::get(format!("https://weft-injector.weft-system.svc{path}"))
            .body(Full::new(Bytes::new()).boxed())
            .unwrap();
        send.ready().await.unwrap();
        assert_eq!(send.send_request(request).await.unwrap().status(), 404, "{path}");
    }
}

/// As many as a cluster of some size creates after a failure of its nodes, from one API server with two connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_64_five_thousand_reviews_in_a_minute() {
    const REVIEWS: usize = 5_000;
    let injector = Injector::start(Bounds::default()).await;
    let connections = [injector.connect(1).await, injector.connect(1).await];
    let begun = Instant::now();
    // 4 x 5,000/4 requests at the pace of 5,000 in 30 s: twice what is asked for, and latency is that of the service, not of a queue
    let lanes: Vec<_> = (0..4)
        .map(|lane| {
            let mut send = connections[lane % 2].clone();
            tokio::spawn(async move {
                let mut took = Vec::with_capacity(REVIEWS / 4);
                let first = tokio::time::Instant::now() + Duration::from_millis(6) * lane as u32;
                let mut pace = tokio::time::interval_at(first, Duration::from_millis(24));
                for n in 0..REVIEWS / 4 {
                    pace.tick().await;
                    let asked = Instant::now();
                    let (status, text) = ask(&mut send, lane * REVIEWS + n).await;
                    took.push(asked.elapsed());
                    assert!(status == 200 && text.len() > 1_000, "{status} {text:?}");
                }
                took
            })
        })
        .collect();
    let mut took = Vec::new();
    for lane in lanes {
        took.extend(lane.await.unwrap());
    }
    let all = begun.elapsed();
    took.sort();
    let at = |share: f64| took[(took.len() as f64 * share) as usize - 1];
    println!(
        "row 64: {} reviews in {all:.1?}: p50 {:.1?}, p99 {:.1?}, longest {:.1?}",
        took.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
    assert_eq!(took.len(), REVIEWS);
    assert!(all < Duration::from_secs(60), "{all:?}");
    assert!(at(0.99) <= Duration::from_millis(50), "p99 {:?}", at(0.99));
}
