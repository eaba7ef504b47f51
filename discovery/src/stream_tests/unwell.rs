//! A controller that misbehaves.

use super::*;

/// Says what it is told to.
struct Script(Mutex<Option<mpsc::Receiver<Result<ControllerMessage, Status>>>>, mpsc::UnboundedSender<ProxyMessage>);
#[tonic::async_trait]
impl proto::discovery_server::Discovery for Script {
    type DiscoverStream = Pin<Box<dyn Stream<Item = Result<ControllerMessage, Status>> + Send>>;
    async fn discover(
        &self,
        request: Request<Streaming<ProxyMessage>>,
    ) -> Result<Response<Self::DiscoverStream>, Status> {
        let (mut incoming, heard) = (request.into_inner(), self.1.clone());
        tokio::spawn(async move {
            while let Some(Ok(m)) = incoming.next().await {
                let _ = heard.send(m);
            }
        });
        match self.0.lock().unwrap().take() {
            Some(out) => Ok(Response::new(Box::pin(ReceiverStream::new(out)))),
            None => Err(Status::unavailable("once")),
        }
    }
}
async fn scripted(
    w: &World,
) -> (SocketAddr, mpsc::Sender<Result<ControllerMessage, Status>>, mpsc::UnboundedReceiver<ProxyMessage>) {
    let (out, script) = mpsc::channel(16);
    let (heard, hears) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let cell = w.mesh.cell("weft-system", "weft-controller", None);
    let incoming = crate::server::accept::incoming(listener, cell, false, Default::default(), CancellationToken::new());
    let service = proto::discovery_server::DiscoveryServer::new(Script(Mutex::new(Some(script)), heard));
    tokio::spawn(crate::server::accept::http2().add_service(service).serve_with_incoming(incoming));
    (address, out, hears)
}
fn say(kind: controller_message::Kind) -> Result<ControllerMessage, Status> {
    Ok(ControllerMessage { kind: Some(kind) })
}
fn update(name: &ResourceName, bytes: Vec<u8>) -> Result<ControllerMessage, Status> {
    say(controller_message::Kind::Update(proto::Update {
        name: Some(name.into()),
        version: vec![],
        resource: bytes.into(),
    }))
}
async fn nack(hears: &mut mpsc::UnboundedReceiver<ProxyMessage>) -> proto::Nack {
    let nack = async {
        loop {
            if let Some(proxy_message::Kind::Nack(n)) = hears.recv().await.unwrap().kind {
                return n;
            }
        }
    };
    timeout(SOON, nack).await.unwrap()
}

#[tokio::test]
async fn a_controller_that_does_not_answer_costs_the_deadline_and_no_more() {
    let w = World::new();
    let (at, out, _hears) = scripted(&w).await;
    let mut settings = w.settings(at);
    settings.lookup_deadline = Duration::from_millis(100);
    let p = w.proxy(settings);
    out.send(say(controller_message::Kind::Welcome(proto::Welcome::default()))).await.unwrap();
    p.up(true).await;
    let asked = std::time::Instant::now();
    assert_eq!(p.client.lookup(vip(1)).await.unwrap_err(), LookupError::TimedOut);
    assert!(asked.elapsed() >= Duration::from_millis(100) && asked.elapsed() < Duration::from_secs(2));
    // the stream breaks while somebody waits: told at once
    let waiting = tokio::spawn({
        let client = p.client.clone();
        async move { client.lookup(vip(2)).await.map(|f| f.target) }
    });
    drop(out);
    assert!(timeout(SOON, waiting).await.unwrap().unwrap().is_err());
}

#[tokio::test]
async fn row_86_a_value_that_cannot_be_read_is_refused_alone() {
    let w = World::new();
    let (at, out, mut hears) = scripted(&w).await;
    let mut p = w.proxy(w.settings(at));
    let name = ResourceName::Endpoints(service("cart"));
    let _lease = p.client.subscribe(name.clone()).unwrap();
    out.send(say(controller_message::Kind::Welcome(proto::Welcome::default()))).await.unwrap();
    let good = Resource::Endpoints(endpoints("cart", &[1]));
    out.send(update(&name, wire::encode(&good).to_vec())).await.unwrap();
    p.update(|u| matches!(u, Update::Endpoints(..))).await;
    // not protobuf; a value of tomorrow; a value of another name
    let other = wire::encode(&Resource::Endpoints(endpoints("other", &[1]))).to_vec();
    for (bytes, reason) in [
        (vec![0xff; 9], "not protobuf"),
        (vec![], "resource is missing, or of a kind that this version does not know"),
        (other, "the value is not of endpoints of shop/cart:80"),
    ] {
        out.send(update(&name, bytes.clone())).await.unwrap();
        let n = nack(&mut hears).await;
        assert!(n.reason.contains(reason), "{}", n.reason);
        assert_eq!(n.version, Version::of(&bytes).0);
        assert_eq!(p.client.endpoints(&service("cart")), Some(endpoints("cart", &[1])), "the last good one stays");
    }
    assert!(p.client.is_connected());
    // and the next good one is taken
    out.send(update(&name, wire::encode(&Resource::Endpoints(endpoints("cart", &[2]))).to_vec())).await.unwrap();
    let u = p.update(|u| matches!(u, Update::Endpoints(..))).await;
    assert_eq!(u, Update::Endpoints(service("cart"), Some(endpoints("cart", &[2]))));
}

#[tokio::test]
async fn a_controller_of_another_identity_is_not_believed() {
    let w = World::new();
    let c = w.controller(None, ServerSettings::default()).await;
    let mut settings = w.settings(c.address);
    settings.controller_identity = w.mesh.identity("weft-system", "somebody");
    let p = w.proxy(settings);
    let tls = p.cell.credentials().unwrap().control_client(&w.mesh.identity("weft-system", "somebody")).unwrap();
    let refused = control_channel(&c.address.to_string(), tls).await.unwrap_err().to_string();
    assert!(refused.contains("peer is spiffe://mesh.test/ns/weft-system/sa/weft-controller"), "{refused}");
    assert!(!p.client.is_connected());
}
