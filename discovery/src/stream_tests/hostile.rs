//! Who is let in, and what they may do (row 81).

use super::*;

/// A proxy that says what it likes.
struct Raw {
    out: mpsc::Sender<ProxyMessage>,
    incoming: Streaming<ControllerMessage>,
}
impl Raw {
    async fn open(w: &World, at: SocketAddr, cell: &CredentialCell) -> Result<Raw, Box<dyn std::error::Error>> {
        let controller = w.mesh.identity("weft-system", "weft-controller");
        let tls = cell.credentials().unwrap().control_client(&controller)?;
        let channel = control_channel(&at.to_string(), tls).await?;
        let (out, outgoing) = mpsc::channel(64);
        let mut client = proto::discovery_client::DiscoveryClient::new(channel);
        let incoming = client.discover(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Raw { out, incoming })
    }
    async fn say(&self, kind: proxy_message::Kind) {
        self.out.send(ProxyMessage { kind: Some(kind) }).await.unwrap();
    }
    async fn hello(&self, uid: &str) {
        self.say(proxy_message::Kind::Hello(proto::Hello { uid: uid.into(), protocol: 1, ..Default::default() })).await;
    }
    async fn next(&mut self) -> Result<controller_message::Kind, Status> {
        let m = timeout(SOON, self.incoming.message()).await.expect("an answer");
        m.map(|m| m.expect("a message").kind.expect("a kind"))
    }
    async fn subscribe(&self, names: impl IntoIterator<Item = ResourceName>) {
        let one = |n: ResourceName| proto::Subscription { name: Some((&n).into()), version: vec![] };
        let subscriptions = names.into_iter().map(one).collect();
        self.say(proxy_message::Kind::Subscribe(proto::Subscribe { subscriptions })).await;
    }
}
fn code<T: std::fmt::Debug>(r: Result<T, Status>) -> Code {
    r.unwrap_err().code()
}

#[tokio::test]
async fn row_81_strangers_do_not_get_a_stream() {
    let w = World::new();
    let c = w.controller(None, ServerSettings::default()).await;
    // a certificate of another mesh
    let stranger = TestMesh::new("mesh.test").cell("shop", "web", None);
    stranger
        .install_bundle(Arc::new(Bundle::new("mesh.test", 9, &[], vec![w.mesh.root.clone()]).unwrap()))
        .unwrap_err();
    let tls =
        stranger.credentials().unwrap().control_client(&w.mesh.identity("weft-system", "weft-controller")).unwrap();
    control_channel(&c.address.to_string(), tls).await.unwrap_err();
    // none at all: TLS 1.3 tells a client only after its own side is done, so the first use fails
    let controller = w.mesh.identity("weft-system", "weft-controller");
    let tls = weft_identity::credentials::anonymous_client(&w.mesh.bundle(), &controller, &w.mesh.clock).unwrap();
    if let Ok(channel) = control_channel(&c.address.to_string(), tls).await {
        let mut client = proto::discovery_client::DiscoveryClient::new(channel);
        timeout(SOON, client.discover(tokio_stream::pending())).await.unwrap().unwrap_err();
    }
    assert_eq!(c.server.confirmations().connected(), 0);
}

#[tokio::test]
async fn row_81_a_pod_that_runs_as_somebody_else_is_refused() {
    let w = World::new();
    let c = w.controller(None, ServerSettings::default()).await;
    let mut raw = Raw::open(&w, c.address, &w.mesh.cell("shop", "web", None)).await.unwrap();
    raw.hello("admin-0").await;
    let refused = raw.next().await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("does not run as spiffe://mesh.test/ns/shop/sa/web"), "{refused}");
}

#[tokio::test]
async fn row_81_a_pod_with_the_credentials_of_another_namespace_learns_so() {
    let w = World::new();
    let c = w.controller(None, ServerSettings::default()).await;
    let mut raw = Raw::open(&w, c.address, &w.mesh.cell("shop", "web", None)).await.unwrap();
    let hello = proto::Hello { uid: "web-0".into(), namespace: "bank".into(), protocol: 1, ..Default::default() };
    raw.say(proxy_message::Kind::Hello(hello)).await;
    assert_eq!(code(raw.next().await), Code::PermissionDenied);
}

#[tokio::test]
async fn row_81_a_stream_does_not_outlive_its_certificate() {
    let w = World::new();
    let c = w.controller(None, ServerSettings::default()).await;
    let mut params = w.mesh.leaf_params("shop", "web");
    params.not_after = (std::time::SystemTime::now() + Duration::from_secs(2)).into();
    let (chain, key) = w.mesh.leaf_from(&params);
    let cell = CredentialCell::new(w.mesh.bundle());
    cell.install_leaf(key, chain, None, w.mesh.clock.clone()).unwrap();
    let mut raw = Raw::open(&w, c.address, &cell).await.unwrap();
    raw.hello("web-1").await;
    raw.next().await.unwrap();
    assert_eq!(code(raw.next().await), Code::Unauthenticated);
}

#[tokio::test]
async fn row_81_a_stream_that_breaks_the_rules_ends_alone() {
    let w = World::new();
    let c = w.controller(None, ServerSettings::default()).await;
    let p = w.proxy(w.settings(c.address));
    p.up(true).await;
    let cell = w.mesh.cell("shop", "web", None);
    // no hello
    let mut raw = Raw::open(&w, c.address, &cell).await.unwrap();
    raw.subscribe([ResourceName::Inbound]).await;
    assert_eq!(code(raw.next().await), Code::InvalidArgument);
    // two
    let mut raw = Raw::open(&w, c.address, &cell).await.unwrap();
    raw.hello("web-1").await;
    assert!(matches!(raw.next().await, Ok(controller_message::Kind::Welcome(_))));
    raw.hello("web-1").await;
    assert_eq!(code(raw.next().await), Code::InvalidArgument);
    // texts for a log
    for uid in ["", "web-\n", &"web-x".repeat(100)] {
        let mut raw = Raw::open(&w, c.address, &cell).await.unwrap();
        raw.hello(uid).await;
        assert_eq!(code(raw.next().await), Code::InvalidArgument, "{uid:?}");
    }
    // a message of more than 1 MiB
    let mut raw = Raw::open(&w, c.address, &cell).await.unwrap();
    raw.hello("web-1").await;
    raw.next().await.unwrap();
    let nack = proto::Nack { name: None, version: vec![0; 16], reason: "x".repeat(2 << 20) };
    raw.say(proxy_message::Kind::Nack(nack)).await;
    assert_eq!(code(raw.next().await), Code::OutOfRange);
    // names that mean nothing are refused one by one, the stream goes on
    let mut raw = Raw::open(&w, c.address, &cell).await.unwrap();
    raw.hello("web-1").await;
    raw.next().await.unwrap();
    let odd = proto::Subscription { name: Some(proto::ResourceName::default()), version: vec![] };
    raw.say(proxy_message::Kind::Subscribe(proto::Subscribe { subscriptions: vec![odd] })).await;
    raw.subscribe([ResourceName::Inbound]).await;
    assert!(
        matches!(raw.next().await, Ok(controller_message::Kind::Refused(r)) if r.reason.contains("name is missing"))
    );
    assert!(matches!(raw.next().await, Ok(controller_message::Kind::Update(_))));
    // and the proxy beside them has noticed nothing
    assert_eq!(p.lookup(vip(1)).await.target, Target::Service(service("cart")));
    assert!(p.client.is_connected());
}

#[tokio::test]
async fn row_81_subscriptions_are_bounded() {
    let w = World::new();
    let settings = ServerSettings { subscriptions: 5, ..Default::default() };
    let c = w.controller(None, settings).await;
    let mut raw = Raw::open(&w, c.address, &w.mesh.cell("shop", "web", None)).await.unwrap();
    raw.hello("web-1").await;
    raw.next().await.unwrap();
    raw.subscribe((0..100).map(|n| ResourceName::Address(vip(n)))).await;
    let (mut updates, mut refused) = (0, 0);
    while updates + refused < 100 {
        match raw.next().await.unwrap() {
            controller_message::Kind::Update(_) => updates += 1,
            controller_message::Kind::Refused(r) => {
                assert!(r.reason.contains("5 subscriptions"), "{}", r.reason);
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((updates, refused), (5, 95));
}

#[tokio::test]
async fn row_81_more_streams_than_are_served() {
    let w = World::new();
    let settings = ServerSettings { streams: 1, ..Default::default() };
    let c = w.controller(None, settings).await;
    let cell = w.mesh.cell("shop", "web", None);
    let _first = Raw::open(&w, c.address, &cell).await.unwrap();
    let second = Raw::open(&w, c.address, &cell).await.err().unwrap();
    assert_eq!(second.downcast_ref::<Status>().unwrap().code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn row_81_a_slow_reader_gets_the_newest_value_or_is_dropped() {
    let mut w = World::new();
    // values of 1 MiB: a few fill the windows
    let big = |n: u8| {
        let mut e = (*endpoints("cart", &[n])).clone();
        let one = Endpoint { workload: "x".repeat(1 << 20).into(), ..(*e.endpoints[0]).clone() };
        e.endpoints = vec![Arc::new(one)];
        Arc::new(e)
    };
    let settings = ServerSettings { stall: Duration::from_millis(300), ..Default::default() };
    let c = w.controller(None, settings).await;
    let mut raw = Raw::open(&w, c.address, &w.mesh.cell("shop", "web", None)).await.unwrap();
    raw.hello("web-1").await;
    raw.next().await.unwrap();
    raw.subscribe([ResourceName::Endpoints(service("cart"))]).await;
    w.hear(|h| matches!(h, Heard::Connected(_))).await;
    // nobody reads: the stream must end, not grow
    let flood = tokio::spawn({
        let tables = w.tables.clone();
        async move {
            let mut tick = tokio::time::interval(Duration::from_millis(2));
            for n in 0u64.. {
                tick.tick().await;
                tables.edit().endpoints.insert(service("cart"), big(n as u8 % 200));
                tables.tell(&[Change::Endpoints(service("cart"))]);
            }
        }
    });
    w.hear(|h| matches!(h, Heard::Disconnected(_))).await;
    flood.abort();
}

#[tokio::test]
async fn row_82_a_newer_proxy_and_messages_of_tomorrow() {
    let w = World::new();
    let c = w.controller(None, ServerSettings::default()).await;
    let cell = w.mesh.cell("shop", "web", None);
    let mut raw = Raw::open(&w, c.address, &cell).await.unwrap();
    raw.say(proxy_message::Kind::Hello(proto::Hello { uid: "web-1".into(), protocol: 99, ..Default::default() })).await;
    assert!(matches!(raw.next().await, Ok(controller_message::Kind::Welcome(w)) if w.protocol == 1));
    raw.out.send(ProxyMessage { kind: None }).await.unwrap();
    raw.subscribe([ResourceName::Inbound]).await;
    assert!(matches!(raw.next().await, Ok(controller_message::Kind::Update(_))));
}
