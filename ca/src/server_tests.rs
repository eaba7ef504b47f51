//! A CA on loopback: signing and refusing.

use super::*;
use crate::{
    authenticate::{Caller, Denied, LocalAuthenticator},
    state::Rotation,
    store::FileStore,
    token::{Claims, Pod, TokenSigner},
};
use rcgen::{CertificateParams, KeyPair};
use std::{net::SocketAddr, sync::atomic::AtomicBool};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tonic::{Code, Request};
use weft_core::{
    endpoint::Endpoints,
    policy::InboundPolicy,
    service::{ServicePort, ServiceRef, Target},
};
use weft_discovery::{
    Change, Changes, ClientSettings, Confirmations, DiscoveryClient, DiscoveryServer, FollowSettings, Peer, Provider,
    RenewerSettings, ServerSettings, TokenSource, certificates,
    client::control_channel,
    proto::{SignRequest, SignResponse, certificates_client::CertificatesClient, trust_client::TrustClient},
    trust,
};
use weft_identity::{
    Alpn, HandshakeFailure,
    credentials::{anonymous_client, server_name},
    der,
};

#[path = "rotation_tests.rs"]
mod rotation;

const SOON: Duration = Duration::from_secs(15);
const DOMAIN: &str = "mesh.test";

struct Running {
    ca: Arc<Ca>,
    address: SocketAddr,
    token_key: String,
    directory: tempfile::TempDir,
    stop: CancellationToken,
    task: JoinHandle<()>,
}
fn settings() -> CaSettings {
    let mut s = CaSettings::new(DOMAIN).unwrap();
    s.poll = Duration::from_millis(20);
    s.hold = Duration::from_millis(50);
    s
}
async fn running(settings: CaSettings) -> Running {
    let (signer, key) = TokenSigner::generate().unwrap();
    let authenticator = Arc::new(LocalAuthenticator::new(signer.verifier(), provider::system_clock()));
    let directory = tempfile::tempdir().unwrap();
    Running { token_key: key.to_string(), ..running_at(None, settings, authenticator, directory).await }
}
async fn running_at(
    at: Option<SocketAddr>,
    settings: CaSettings,
    authenticator: Arc<dyn Authenticator>,
    directory: tempfile::TempDir,
) -> Running {
    let store = Arc::new(FileStore::open(directory.path()).unwrap());
    let lives = settings.lives;
    let clock = provider::system_clock();
    let first = |now| State::make(DOMAIN, None, now, lives);
    let ca = Ca::open(settings, store, authenticator, clock, first).unwrap();
    let listener = TcpListener::bind(at.unwrap_or(([127, 0, 0, 1], 0).into())).await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn({
        let (ca, stop) = (ca.clone(), stop.clone());
        async move { ca.serve(listener, stop).await }
    });
    Running { ca, address, token_key: String::new(), directory, stop, task }
}
impl Running {
    fn token(&self, namespace: &str, account: &str, uid: &str) -> String {
        let now = provider::now(&provider::system_clock()).as_secs();
        let pod = Pod { name: uid.into(), uid: uid.into(), ips: vec![[127, 0, 0, 1].into()] };
        TokenSigner::from_pem(&self.token_key).unwrap().sign(&Claims::new(namespace, account, pod, now, 3600)).unwrap()
    }
    fn renewer(&self, namespace: &str, account: &str, uid: &str) -> RenewerSettings {
        let token = TokenSource::Text(self.token(namespace, account, uid).into());
        let ca = ca_identity(DOMAIN).unwrap();
        let mut s = RenewerSettings::new(vec![self.address.to_string()], ca, token, Some(uid.into()));
        s.reissue_spread = Duration::from_millis(100);
        s
    }
    async fn ask(&self, bearer: Option<&str>, csr: Vec<u8>) -> Result<SignResponse, tonic::Status> {
        let clock = provider::system_clock();
        let tls = anonymous_client(&self.ca.bundle(), &ca_identity(DOMAIN).unwrap(), &clock).unwrap();
        let channel = control_channel(&self.address.to_string(), tls).await.unwrap();
        let mut request = Request::new(SignRequest { csr });
        if let Some(bearer) = bearer {
            request.metadata_mut().insert("authorization", bearer.parse().unwrap());
        }
        CertificatesClient::new(channel).sign(request).await.map(|r| r.into_inner())
    }
    async fn until(&self, done: impl Fn(&State) -> bool) {
        let mut live = self.ca.live.subscribe();
        timeout(SOON, live.wait_for(|l| done(&l.state))).await.expect("the state is reached").unwrap();
    }
    async fn end(self) -> tempfile::TempDir {
        self.stop.cancel();
        timeout(SOON, self.task).await.unwrap().unwrap();
        self.directory
    }
}

#[tokio::test]
async fn row_66_the_identity_is_that_of_the_token() {
    let r = running(settings()).await;
    let key = KeyPair::generate().unwrap();
    let mut p = CertificateParams::default();
    p.subject_alt_names =
        vec![rcgen::SanType::URI("spiffe://mesh.test/ns/kube-system/sa/admin".to_owned().try_into().unwrap())];
    p.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let csr = p.serialize_request(&key).unwrap().der().to_vec();
    let answer = r.ask(Some(&format!("Bearer {}", r.token("shop", "cart", "uid-1"))), csr).await.unwrap();
    let leaf = der::facts(&answer.chain[0]).unwrap();
    assert_eq!(leaf.uris, [b"spiffe://mesh.test/ns/shop/sa/cart"]);
    assert!(!leaf.ca);
    assert_eq!(leaf.usages, Some((true, true)));
    let life = leaf.not_after.as_secs() - leaf.not_before.as_secs();
    assert_eq!(life, 86_400 + 60);
    assert!(leaf.serial.len() >= 8);
    assert_eq!(answer.chain.len(), 2);
    assert_eq!(answer.bundle.unwrap().version, 1);
    // and the certificate has the key that was asked for
    let cert = answer.chain[0].clone().into();
    let parsed = webpki::EndEntityCert::try_from(&cert).unwrap();
    let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
    assert_eq!(parsed.subject_public_key_info().as_ref(), spki);
}

#[tokio::test]
async fn row_66_nothing_is_parsed_before_the_caller_is_known() {
    let r = running(settings()).await;
    // junk without a token: refused for the token
    let junk = vec![0xff; 100];
    assert_eq!(r.ask(None, junk.clone()).await.unwrap_err().code(), Code::Unauthenticated);
    for bearer in ["Basic abc", "Bearer", "Bearer a.b.c", "Bearer "] {
        let refused = r.ask(Some(bearer), junk.clone()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{bearer}");
        // what was wrong with the token stays in the log
        assert!(refused.message().len() < 40, "{refused}");
    }
    let good = format!("Bearer {}", r.token("shop", "cart", "uid-1"));
    let refused = r.ask(Some(&good), junk).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, "request is not PKCS#10 in DER"));
    // 1 MiB is refused by its length alone, token or not
    for bearer in [None, Some(&*good)] {
        assert_eq!(r.ask(bearer, vec![0; 1 << 20]).await.unwrap_err().code(), Code::OutOfRange);
    }
    let refused = r.ask(Some(&good), vec![0x30; csr_size()]).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(r.ca.stats().signed.load(Ordering::Relaxed), 0);
}
fn csr_size() -> usize {
    crate::csr::MAX_CSR
}

#[tokio::test]
async fn row_67_a_service_account_that_is_no_identity() {
    let r = running(settings()).await;
    let token = format!("Bearer {}", r.token("shop", "Not A Name", "uid-1"));
    let refused = r.ask(Some(&token), KeyRequest::generate().unwrap().csr().to_vec()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

/// Never answers until told.
struct Slow(tokio::sync::watch::Receiver<bool>, AtomicU64);
#[tonic::async_trait]
impl Authenticator for Slow {
    async fn authenticate(&self, _: &str, _: SocketAddr) -> Result<Caller, Denied> {
        self.1.fetch_add(1, Ordering::SeqCst);
        let _ = self.0.clone().wait_for(|up| *up).await;
        Err(Denied::Unavailable("the API server is away".into()))
    }
}

#[tokio::test]
async fn row_68_an_authority_that_is_away_fills_a_bounded_queue_and_lets_nobody_in() {
    let mut s = settings();
    (s.concurrent, s.queue) = (2, 4);
    let (answer, waits) = watch::channel(false);
    let slow = Arc::new(Slow(waits, AtomicU64::new(0)));
    let r = Arc::new(running_at(None, s, slow.clone(), tempfile::tempdir().unwrap()).await);
    let csr = KeyRequest::generate().unwrap().csr().to_vec();
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let (r, csr) = (r.clone(), csr.clone());
            tokio::spawn(async move { r.ask(Some("Bearer x"), csr).await.unwrap_err().code() })
        })
        .collect();
    // six find the queue full, at once
    let full = async {
        while r.ca.stats().refused.load(Ordering::Relaxed) < 6 {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, full).await.unwrap();
    assert!(slow.1.load(Ordering::SeqCst) <= 2);
    answer.send(true).unwrap();
    let mut codes = Vec::new();
    for c in calls {
        codes.push(timeout(SOON, c).await.unwrap().unwrap());
    }
    let count = |code| codes.iter().filter(|c| **c == code).count();
    assert_eq!((count(Code::ResourceExhausted), count(Code::Unavailable)), (6, 4));
    assert_eq!(r.ca.stats().signed.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn row_69_a_pod_in_a_loop_is_held_back_and_others_are_not() {
    let r = running(settings()).await;
    let csr = KeyRequest::generate().unwrap().csr().to_vec();
    let greedy = format!("Bearer {}", r.token("shop", "cart", "greedy"));
    let mut refused = 0;
    for _ in 0..14 {
        if r.ask(Some(&greedy), csr.clone()).await.is_err_and(|e| e.code() == Code::ResourceExhausted) {
            refused += 1;
        }
    }
    assert!(refused >= 1, "{refused} of 14");
    r.ask(Some(&format!("Bearer {}", r.token("shop", "cart", "other"))), csr).await.unwrap();
}

#[tokio::test]
async fn row_70_a_state_that_is_lost_or_broken_stops_the_signing_and_keeps_the_bundle() {
    let r = running(settings()).await;
    let ask = || async {
        let good = format!("Bearer {}", r.token("shop", "cart", &format!("{:x}", rand::random::<u64>())));
        r.ask(Some(&good), KeyRequest::generate().unwrap().csr().to_vec()).await
    };
    ask().await.unwrap();
    let path = r.directory.path().join("ca.json");
    let good = std::fs::read(&path).unwrap();
    let bundle = r.ca.bundle();
    let mut live = r.ca.live.subscribe();
    for (spoil, cause) in [
        (Box::new(|| std::fs::remove_file(&path).unwrap()) as Box<dyn Fn()>, "ca.json is missing"),
        (Box::new(|| write_private(&path, b"{}")), "is not a CA state"),
        (Box::new(|| write_private(&path, &swap_keys(&good))), "key does not belong to the"),
    ] {
        spoil();
        timeout(SOON, live.wait_for(|l| l.signing.as_ref().is_err_and(|e| e.contains(cause)))).await.unwrap().unwrap();
        let refused = ask().await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable);
        assert!(refused.message().contains(cause), "{refused}");
        assert_eq!(r.ca.bundle(), bundle);
        // the state comes back, and with it the signing; nothing new was made
        write_private(&path, &good);
        timeout(SOON, live.wait_for(|l| l.signing.is_ok())).await.unwrap().unwrap();
        ask().await.unwrap();
        assert_eq!(r.ca.bundle(), bundle);
    }
}
fn write_private(path: &std::path::Path, text: &[u8]) {
    use std::os::unix::fs::OpenOptionsExt;
    let beside = path.with_extension("new");
    let mut f = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside).unwrap();
    std::io::Write::write_all(&mut f, text).unwrap();
    std::fs::rename(&beside, path).unwrap();
}
/// The issuer's key in the place of the root's.
fn swap_keys(state: &[u8]) -> Vec<u8> {
    let mut v: serde_json::Value = serde_json::from_slice(state).unwrap();
    let a = &mut v["authorities"][0];
    a["root_key"] = a["issuer_key"].clone();
    serde_json::to_vec(&v).unwrap()
}

#[tokio::test]
async fn row_70_an_expired_issuer_is_replaced_under_the_same_root() {
    let directory = tempfile::tempdir().unwrap();
    let store = FileStore::open(directory.path()).unwrap();
    let now = provider::now(&provider::system_clock());
    let past = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs() - 86_400));
    let lives = Lives { root: Duration::from_secs(864_000), issuer: Duration::from_secs(3600) };
    let old = store.create(&State::make(DOMAIN, None, past, lives).unwrap()).unwrap();
    old.check(now).unwrap_err();
    let signer = TokenSigner::generate().unwrap().0;
    let authenticator = Arc::new(LocalAuthenticator::new(signer.verifier(), provider::system_clock()));
    let r = running_at(None, settings(), authenticator, directory).await;
    assert_eq!(r.ca.bundle().roots(), old.bundle().unwrap().roots());
    // a leaf never outlives its issuer
    let mut state = (*r.ca.state()).clone();
    state = state.rotate_issuer(now, Lives { issuer: Duration::from_secs(600), ..lives }).unwrap();
    let issuer = LeafIssuer::new(&state, state.authority(state.signing).unwrap()).unwrap();
    let key = crate::csr::proven_key(KeyRequest::generate().unwrap().csr()).unwrap();
    let identity = WorkloadIdentity::new(DOMAIN, "a", "b").unwrap();
    let chain = issuer.sign(&identity, &key, now, Duration::from_secs(86_400)).unwrap();
    assert_eq!(der::facts(&chain[0]).unwrap().not_after.as_secs(), now.as_secs() + 600);
    let after = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs() + 600));
    assert!(matches!(issuer.sign(&identity, &key, after, Duration::from_secs(60)), Err(IssueError::IssuerExpired)));
}

#[tokio::test]
async fn row_70_an_issuer_that_expires_under_a_running_ca_is_replaced() {
    let now = provider::now(&provider::system_clock()).as_secs();
    let clock = provider::FixedClock::at(now);
    let mut s = settings();
    s.lives = Lives { root: Duration::from_secs(864_000), issuer: Duration::from_secs(3600) };
    let (signer, _) = TokenSigner::generate().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(FileStore::open(directory.path()).unwrap());
    let (authenticator, lives) = (Arc::new(LocalAuthenticator::new(signer.verifier(), clock.clone())), s.lives);
    let ca = Ca::open(s, store, authenticator, clock.clone(), |now| State::make(DOMAIN, None, now, lives)).unwrap();
    let first = ca.bundle();
    // the machine slept for a day
    clock.set(now + 86_400);
    ca.tend_once();
    assert!(ca.live.borrow().signing.is_ok());
    assert_eq!((ca.bundle().roots(), ca.bundle().issuer() == first.issuer()), (first.roots(), false));
    // and then the root itself expires: the end, said so
    clock.set(now + 864_001);
    ca.tend_once();
    let stopped = ca.live.borrow().signing.as_ref().err().cloned().unwrap();
    assert!(stopped.contains("the root certificate expired"), "{stopped}");
}

#[tokio::test]
async fn only_controllers_follow_bundles() {
    let r = running(settings()).await;
    let follow = |credentials: Option<Arc<weft_identity::Credentials>>| async {
        let clock = provider::system_clock();
        let ca = ca_identity(DOMAIN).unwrap();
        let tls = match credentials {
            Some(c) => c.control_client(&ca).unwrap(),
            None => anonymous_client(&r.ca.bundle(), &ca, &clock).unwrap(),
        };
        let channel = control_channel(&r.address.to_string(), tls).await.unwrap();
        TrustClient::new(channel).follow(tokio_stream::pending()).await.map(|_| ()).map_err(|e| e.code())
    };
    assert_eq!(follow(None).await, Err(Code::Unauthenticated));
    let cell = CredentialCell::new(r.ca.bundle());
    let s = r.renewer("shop", "cart", "uid-1");
    let pod = certificates::sign(&s, &r.address.to_string(), &cell).await.unwrap();
    assert_eq!(follow(Some(pod)).await, Err(Code::PermissionDenied));
    let s = r.renewer("weft-system", "weft-controller", "uid-2");
    let controller = certificates::sign(&s, &r.address.to_string(), &cell).await.unwrap();
    timeout(SOON, follow(Some(controller))).await.unwrap().unwrap();
}

#[tokio::test]
async fn leaves_are_renewed_in_time_and_a_ca_that_is_away_costs_nothing() {
    let mut s = settings();
    s.leaf = Duration::from_secs(3);
    let r = running(s.clone()).await;
    let cell = CredentialCell::new(r.ca.bundle());
    let renewing = tokio::spawn(certificates::renew(r.renewer("shop", "cart", "uid-1"), cell.clone()));
    let mut changes = cell.subscribe();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        timeout(SOON, changes.changed()).await.unwrap().unwrap();
        let now = provider::now(&provider::system_clock());
        let c = changes.borrow_and_update().credentials.clone().unwrap();
        assert!(c.not_after() > now);
        if let Some((_, until)) = seen.last() {
            assert!(now < *until, "renewed before the old one expired");
        }
        seen.push((c.serial().to_vec(), c.not_after()));
    }
    seen.dedup_by(|a, b| a.0 == b.0);
    assert_eq!(seen.len(), 3, "each is another one");
    // the CA goes, and the certificate in hand stays; it comes back at the same place, and the renewal with it
    let (address, signer) = (r.address, TokenSigner::from_pem(&r.token_key).unwrap());
    let authenticator = Arc::new(LocalAuthenticator::new(signer.verifier(), provider::system_clock()));
    let directory = r.end().await;
    changes.mark_unchanged();
    let held = cell.credentials().unwrap();
    assert!(held.not_after() > provider::now(&provider::system_clock()));
    let _r = running_at(Some(address), s, authenticator, directory).await;
    timeout(SOON, changes.changed()).await.unwrap().unwrap();
    assert_ne!(cell.credentials().unwrap().serial(), held.serial());
    renewing.abort();
}

#[tokio::test]
async fn row_51_a_client_without_a_certificate_does_not_stay() {
    let mut s = settings();
    s.accept.anonymous_life = Duration::from_millis(100);
    let r = running(s).await;
    let connect = |tls| async {
        let tcp = tokio::net::TcpStream::connect(r.address).await.unwrap();
        let name = server_name(weft_identity::credentials::CONTROL_NAME).unwrap();
        TlsConnector::from(tls).connect(name, tcp).await.unwrap()
    };
    let ca = ca_identity(DOMAIN).unwrap();
    let anonymous = anonymous_client(&r.ca.bundle(), &ca, &provider::system_clock()).unwrap();
    let cell = CredentialCell::new(r.ca.bundle());
    let s = r.renewer("shop", "cart", "uid-1");
    let member = certificates::sign(&s, &r.address.to_string(), &cell).await.unwrap();
    let mut stays = connect(member.control_client(&ca).unwrap()).await;
    let mut goes = connect(anonymous).await;
    // neither says anything; one of them is at its end
    let _ = timeout(SOON, goes.read_to_end(&mut Vec::new())).await.expect("it ends");
    // the other is still there: it gets an acknowledgement of its settings (type 4, flag 1)
    stays.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let acknowledged = async {
        loop {
            let mut head = [0; 9];
            stays.read_exact(&mut head).await.unwrap();
            if head[3..5] == [4, 1] {
                return;
            }
            let mut body = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
            stays.read_exact(&mut body).await.unwrap();
        }
    };
    timeout(SOON, acknowledged).await.expect("it is served");
}

#[tokio::test]
async fn row_51_a_source_that_floods_with_handshakes_is_held_back() {
    let mut s = settings();
    s.accept.per_source = (5, Duration::from_secs(60));
    let limited = Arc::new(AtomicU64::new(0));
    let count = limited.clone();
    s.accept.failed = Some(Arc::new(move |_, failure| {
        if *failure == HandshakeFailure::RateLimited {
            count.fetch_add(1, Ordering::SeqCst);
        }
    }));
    let r = running(s).await;
    let tls = anonymous_client(&r.ca.bundle(), &ca_identity(DOMAIN).unwrap(), &provider::system_clock()).unwrap();
    let mut made = Vec::new();
    for _ in 0..12 {
        made.push(control_channel(&r.address.to_string(), tls.clone()).await.is_ok());
    }
    assert_eq!(made, [[true; 5].as_slice(), &[false; 7]].concat());
    assert_eq!(limited.load(Ordering::SeqCst), 7);
}

#[tokio::test]
async fn a_state_of_another_trust_domain_is_not_opened() {
    let r = running(settings()).await;
    let directory = r.end().await;
    let store = Arc::new(FileStore::open(directory.path()).unwrap());
    let signer = TokenSigner::generate().unwrap().0;
    let authenticator = Arc::new(LocalAuthenticator::new(signer.verifier(), provider::system_clock()));
    let s = CaSettings::new("other.test").unwrap();
    let opened = Ca::open(s, store, authenticator, provider::system_clock(), |_| panic!("there is one"));
    assert!(matches!(opened, Err(CaError::WrongTrustDomain { .. })));
}
