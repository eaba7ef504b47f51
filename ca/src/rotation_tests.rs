//! Rotations under load: a CA, a controller, proxies, and connections between them all the time.

use super::*;

/// A controller whose proxies want nothing but bundles.
struct Bundles {
    cell: CredentialCell,
    changes: tokio::sync::broadcast::Sender<Arc<[Change]>>,
}
impl Provider for Bundles {
    fn admit(&self, _: &Peer) -> Result<(), Box<str>> {
        Ok(())
    }
    fn lookup(&self, _: &Peer, _: SocketAddr) -> Target {
        Target::Outside
    }
    fn service_port(&self, _: &Peer, _: &ServiceRef) -> Option<Arc<ServicePort>> {
        None
    }
    fn endpoints(&self, _: &Peer, _: &ServiceRef) -> Option<Arc<Endpoints>> {
        None
    }
    fn inbound(&self, _: &Peer) -> Option<Arc<InboundPolicy>> {
        Some(Arc::default())
    }
    fn bundle(&self) -> Option<Arc<Bundle>> {
        Some(self.cell.bundle())
    }
    fn changes(&self) -> Changes {
        self.changes.subscribe()
    }
}

struct Mesh {
    tasks: Vec<JoinHandle<()>>,
    confirmations: Confirmations,
    expected: watch::Sender<u32>,
    proxies: Vec<CredentialCell>,
    made: Arc<AtomicU64>,
    failed: Arc<Mutex<Vec<String>>>,
    halt: Arc<AtomicBool>,
}
impl Drop for Mesh {
    fn drop(&mut self) {
        self.halt.store(true, Ordering::SeqCst);
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
impl Mesh {
    /// A controller and `count` proxies; each proxy serves, and dials the next one all the time.
    async fn start(r: &Running, count: usize) -> Mesh {
        let mut tasks = Vec::new();
        let cell = CredentialCell::new(r.ca.bundle());
        let mut renewer = r.renewer("weft-system", "weft-controller", "controller");
        renewer.uid = None;
        tasks.push(tokio::spawn(certificates::renew(renewer, cell.clone())));
        timeout(SOON, cell.ready()).await.unwrap();
        let changes = tokio::sync::broadcast::channel(16).0;
        let provider = Arc::new(Bundles { cell: cell.clone(), changes: changes.clone() });
        let server = DiscoveryServer::new(provider, ServerSettings::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let confirmations = server.confirmations();
        tasks.push(tokio::spawn({
            let cell = cell.clone();
            async move { server.serve(listener, cell, CancellationToken::new()).await }
        }));
        tasks.push(tokio::spawn({
            let mut bundles = cell.subscribe();
            async move {
                while bundles.changed().await.is_ok() {
                    let _ = changes.send([Change::Bundle].into());
                }
            }
        }));
        let (expected, expects) = watch::channel(count as u32);
        let follow = FollowSettings {
            cas: vec![r.address.to_string()],
            ca_identity: ca_identity(DOMAIN).unwrap(),
            reporter: "controller-0".into(),
            expected: expects,
            confirmations: confirmations.clone(),
        };
        tasks.push(tokio::spawn(trust::follow(follow, cell)));

        let (made, failed, halt) = (Arc::default(), Arc::default(), Arc::default());
        let mut mesh = Mesh { tasks, confirmations, expected, proxies: Vec::new(), made, failed, halt };
        let mut servers = Vec::new();
        for n in 0..count {
            let uid = format!("pod-{n}");
            let cell = mesh.proxy(r, at, &uid).await;
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            servers.push(listener.local_addr().unwrap());
            mesh.tasks.push(tokio::spawn(serve(listener, cell.clone())));
            mesh.proxies.push(cell);
        }
        for n in 0..count {
            let (cell, to) = (mesh.proxies[n].clone(), (n + 1) % count);
            let (made, failed, halt) = (mesh.made.clone(), mesh.failed.clone(), mesh.halt.clone());
            let at = servers[to];
            mesh.tasks.push(tokio::spawn(async move {
                while !halt.load(Ordering::SeqCst) {
                    match call(&cell, at, to).await {
                        Ok(()) => made.fetch_add(1, Ordering::SeqCst),
                        Err(e) => {
                            failed.lock().unwrap().push(e);
                            0
                        }
                    };
                }
            }));
        }
        mesh
    }
    async fn proxy(&mut self, r: &Running, controller: SocketAddr, uid: &str) -> CredentialCell {
        let cell = CredentialCell::new(r.ca.bundle());
        self.tasks.push(tokio::spawn(certificates::renew(r.renewer("shop", uid, uid), cell.clone())));
        timeout(SOON, cell.ready()).await.unwrap();
        let identity = controller_identity(DOMAIN).unwrap();
        let mut s = ClientSettings::new(vec![controller.to_string()], identity, uid, uid);
        s.backoff = Duration::from_millis(10);
        let (client, run) = DiscoveryClient::new(s, cell.clone());
        self.tasks.push(tokio::spawn(run));
        timeout(SOON, client.connection().wait_for(|up| *up)).await.unwrap().unwrap();
        cell
    }
    fn nothing_failed(&self) {
        let failed = self.failed.lock().unwrap();
        assert!(failed.is_empty(), "{} calls failed, the first: {}", failed.len(), failed[0]);
        assert!(self.made.load(Ordering::SeqCst) > 0);
    }
}
/// The inbound side: one byte back on each connection.
async fn serve(listener: TcpListener, cell: CredentialCell) {
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let config = cell.credentials().unwrap().mesh_server().unwrap();
        tokio::spawn(async move {
            let mut tls = TlsAcceptor::from(config).accept(tcp).await?;
            let mut b = [0];
            tls.read_exact(&mut b).await?;
            tls.write_all(&b).await?;
            tls.shutdown().await
        });
    }
}
async fn call(cell: &CredentialCell, at: SocketAddr, to: usize) -> Result<(), String> {
    let uid = format!("pod-{to}");
    let expected = WorkloadIdentity::new(DOMAIN, "shop", &uid).unwrap();
    let config = cell.credentials().unwrap().mesh_client(&expected, Alpn::MeshHttp).unwrap();
    let exchange = async {
        let tcp = tokio::net::TcpStream::connect(at).await?;
        let mut tls = TlsConnector::from(config).connect(server_name(&uid).unwrap(), tcp).await?;
        tls.write_all(b"x").await?;
        let mut b = [0];
        tls.read_exact(&mut b).await
    };
    match timeout(SOON, exchange).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(e)) => Err(HandshakeFailure::of(&e).to_string()),
        Err(_) => Err("timed out".into()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_49_leaf_issuer_and_root_rotate_under_load_and_nothing_is_lost() {
    let mut s = settings();
    s.leaf = Duration::from_secs(4);
    let r = running(s).await;
    let mesh = Mesh::start(&r, 4).await;
    let first = r.ca.bundle();
    // issuer
    let issuer = first.issuer().to_vec();
    r.ca.rotate_issuer().unwrap();
    let renewed =
        |cells: &[CredentialCell], not: &[u8]| cells.iter().all(|c| c.credentials().is_some_and(|c| c.issuer() != not));
    for cell in &mesh.proxies {
        let mut changes = cell.subscribe();
        let done = changes.wait_for(|c| c.credentials.as_ref().is_some_and(|c| c.issuer() != issuer));
        timeout(SOON, done).await.expect("a leaf of the new issuer").unwrap();
    }
    assert!(renewed(&mesh.proxies, &issuer));
    // root, by the gates alone
    r.ca.rotate_root().unwrap();
    r.until(|s| s.rotation.is_none() && s.bundle_version >= 5).await;
    let last = r.ca.bundle();
    assert_eq!(last.roots().len(), 1);
    assert_ne!(last.roots(), first.roots());
    for cell in &mesh.proxies {
        let mut changes = cell.subscribe();
        timeout(SOON, changes.wait_for(|c| c.bundle.version() == last.version())).await.unwrap().unwrap();
        assert_eq!(cell.credentials().unwrap().issuer(), last.issuer());
    }
    mesh.nothing_failed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_72_a_pod_that_is_cut_off_holds_the_rotation_and_it_survives_a_restart() {
    let r = running(settings()).await;
    let mesh = Mesh::start(&r, 2).await;
    // one more pod exists than is connected
    mesh.expected.send_replace(3);
    r.ca.rotate_root().unwrap();
    let confirmed = async {
        while !r.ca.rotation().is_some_and(|(_, _, p)| p.confirmed == 3 && p.expected == 4) {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, confirmed).await.expect("both proxies and the controller have confirmed");
    assert_eq!(mesh.confirmations.connected(), 2);
    let (phase, gate, progress) = r.ca.rotation().unwrap();
    assert_eq!((phase, gate), (Phase::Distribute, Gate::Bundle(2)));
    assert_eq!(progress.to_string(), "3 of 4 have confirmed (1 controllers)");
    // it holds however often it is looked at
    for _ in 0..5 {
        r.ca.tend_once();
    }
    assert!(matches!(r.ca.state().rotation, Some(Rotation { phase: Phase::Distribute, .. })));
    // the pod is deleted: on it goes, to the end
    mesh.expected.send_replace(2);
    r.until(|s| s.rotation.is_none()).await;
    mesh.nothing_failed();
    // begun, then the CA dies: the next one finds the rotation where it was, and can turn it back
    mesh.expected.send_replace(9);
    r.ca.rotate_root().unwrap();
    let state = r.ca.state();
    drop(mesh);
    let signer = TokenSigner::generate().unwrap().0;
    let authenticator = Arc::new(LocalAuthenticator::new(signer.verifier(), provider::system_clock()));
    let r = running_at(None, settings(), authenticator, r.end().await).await;
    assert_eq!(r.ca.state(), state);
    assert_eq!(r.ca.bundle().roots().len(), 2);
    r.ca.abort_rotation().unwrap();
    assert_eq!((r.ca.bundle().roots().len(), r.ca.state().rotation), (1, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_72_turned_back_in_the_middle_nothing_is_lost() {
    let r = running(settings()).await;
    let mesh = Mesh::start(&r, 3).await;
    let first = r.ca.bundle();
    r.ca.rotate_root().unwrap();
    r.until(|s| s.rotation.is_some_and(|r| r.phase == Phase::Renew)).await;
    r.ca.abort_rotation().unwrap();
    r.until(|s| s.rotation.is_none()).await;
    assert_eq!(r.ca.bundle().roots(), first.roots());
    assert_eq!(r.ca.bundle().issuer(), first.issuer());
    mesh.nothing_failed();
}
