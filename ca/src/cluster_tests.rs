//! The CA on a fake cluster: replicas that share one Secret, what happens to it, and a rotation across them.

use super::*;
use crate::{
    admin,
    gate::Report,
    kubernetes::{ReviewAuthenticator, ReviewSettings, SecretStore},
    testing::FakeApi,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use http::StatusCode;
use serde_json::json;
use std::net::SocketAddr;
use tokio::task::spawn_blocking;
use weft_discovery::{RenewerSettings, TokenSource, certificates};

const DOMAIN: &str = "mesh.test";
const STATE: &str = "/api/v1/namespaces/weft-system/secrets/weft-ca";
const BUNDLE: &str = "/api/v1/namespaces/weft-system/configmaps/weft-trust-bundle";

async fn replica(api: &FakeApi) -> Result<Arc<Ca>, CaError> {
    let mut settings = CaSettings::new(DOMAIN).unwrap();
    settings.hold = Duration::ZERO;
    let (lives, clock) = (settings.lives, provider::system_clock());
    let store = Arc::new(SecretStore::new(api.client(), "weft-system", tokio::runtime::Handle::current()));
    let authenticator = Arc::new(ReviewAuthenticator::new(api.client(), ReviewSettings::default(), clock.clone()));
    let first = move |now| State::make(DOMAIN, None, now, lives);
    spawn_blocking(move || Ca::open(settings, store, authenticator, clock, first)).await.unwrap()
}
async fn tend(ca: &Arc<Ca>) {
    let ca = ca.clone();
    spawn_blocking(move || ca.tend_once()).await.unwrap();
}
async fn step(ca: &Arc<Ca>, step: impl FnOnce(&Ca) -> Result<(), CaError> + Send + 'static) {
    let ca = ca.clone();
    spawn_blocking(move || step(&ca)).await.unwrap().unwrap();
}
async fn serve(ca: &Arc<Ca>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let ca = ca.clone();
    tokio::spawn(async move { ca.serve(listener, CancellationToken::new()).await });
    at
}
/// A pod of the fake cluster, and its token.
fn pod(api: &FakeApi, name: &str) -> String {
    let expires = provider::now(&provider::system_clock()).as_secs() + 3600;
    let claims = json!({"aud": ["weft.dev"], "exp": expires, "sub": "system:serviceaccount:shop:cart", "kubernetes.io": {"pod": {"name": name}}});
    let token = format!("{}.{}.{}", B64.encode("{}"), B64.encode(claims.to_string()), B64.encode("s"));
    let extra =
        json!({"authentication.kubernetes.io/pod-name": [name], "authentication.kubernetes.io/pod-uid": [name]});
    api.knows_token(
        &token,
        json!({"authenticated": true, "audiences": ["weft.dev"], "user": {"username": "system:serviceaccount:shop:cart", "extra": extra}}),
    );
    api.put(
        &format!("/api/v1/namespaces/shop/pods/{name}"),
        json!({"metadata": {"name": name, "uid": name}, "spec": {"serviceAccountName": "cart", "containers": []}, "status": {"podIP": "127.0.0.1"}}),
    );
    token
}
fn bundle_of(api: &FakeApi) -> Bundle {
    Bundle::from_pem(api.get(BUNDLE).unwrap()["data"]["bundle.pem"].as_str().unwrap(), Some(DOMAIN)).unwrap()
}

#[tokio::test]
async fn row_71_replicas_that_start_together_sign_under_one_root() {
    let api = FakeApi::default();
    let started = futures_util::future::join_all((0..4).map(|_| replica(&api))).await;
    let replicas: Vec<Arc<Ca>> = started.into_iter().map(Result::unwrap).collect();
    let root = bundle_of(&api);
    for (n, ca) in replicas.iter().enumerate() {
        assert_eq!(*ca.bundle(), root);
        let at = serve(ca).await.to_string();
        let cell = CredentialCell::new(Arc::new(root.clone()));
        let token = TokenSource::Text(pod(&api, &format!("cart-{n}")).into());
        let s = RenewerSettings::new(vec![at.clone()], ca_identity(DOMAIN).unwrap(), token, None);
        let leaf = certificates::sign(&s, &at, &cell).await.unwrap();
        assert_eq!(leaf.identity().uri(), "spiffe://mesh.test/ns/shop/sa/cart");
        // denied on the wire, counted with the reason
        api.remove(&format!("/api/v1/namespaces/shop/pods/cart-{n}"));
        let refused = certificates::sign(&s, &at, &cell).await.unwrap_err().to_string();
        assert!(refused.contains("the token is not valid here"), "{refused}");
        let text = admin::metrics(ca);
        for line in [
            "weft_ca_signed_total 1",
            "weft_ca_denied_total{reason=\"pod_gone\"} 1",
            "weft_ca_signing 1",
            "weft_ca_token_review_up 1",
            "weft_ca_rotation_phase{phase=\"none\"} 1",
            "weft_ca_root_not_after_seconds{authority=\"1\",signing=\"true\"} 2",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(!text.contains("PRIVATE") && !text.contains("BEGIN"));
    }
}

#[tokio::test]
async fn row_70_what_happens_to_the_secret_stops_the_signing_and_keeps_the_bundle() {
    let api = FakeApi::default();
    let ca = replica(&api).await.unwrap();
    let (good, bundle) = (api.get(STATE).unwrap(), ca.bundle());
    let wrong_pair = {
        use base64::engine::general_purpose::STANDARD;
        let json = STANDARD.decode(good["data"]["ca.json"].as_str().unwrap()).unwrap();
        let mut v: serde_json::Value = serde_json::from_slice(&json).unwrap();
        v["authorities"][0]["root_key"] = v["authorities"][0]["issuer_key"].clone();
        let mut bad = good.clone();
        bad["data"]["ca.json"] = STANDARD.encode(v.to_string()).into();
        bad
    };
    let no_key = json!({"metadata": {"name": "weft-ca"}, "data": {}});
    for (spoilt, cause) in [
        (None, "Secret weft-system/weft-ca is missing"),
        (Some(no_key), "has no key ca.json"),
        (Some(wrong_pair), "the root key does not belong to the root certificate"),
    ] {
        match spoilt {
            Some(object) => api.put(STATE, object),
            None => _ = api.remove(STATE),
        }
        tend(&ca).await;
        let why = ca.stopped().expect("it stops");
        assert!(why.contains(cause), "{why}");
        assert_eq!(ca.bundle(), bundle);
        // nor does a replica that starts now make a root of its own
        let refused = replica(&api).await.map(|_| ()).unwrap_err().to_string();
        assert!(refused.contains(cause), "{refused}");
        // the bundle is still kept true
        api.remove(BUNDLE);
        tend(&ca).await;
        assert_eq!(bundle_of(&api), *bundle);
        assert!(admin::metrics(&ca).contains("weft_ca_signing 0"));
        api.put(STATE, good.clone());
        tend(&ca).await;
        assert_eq!((ca.stopped(), ca.bundle()), (None, bundle.clone()));
    }
    // both gone under a running CA: the bundle comes back, and with it the mark that a mesh was made
    api.remove(STATE);
    api.remove(BUNDLE);
    tend(&ca).await;
    assert!(replica(&api).await.is_err());
}

#[tokio::test]
async fn row_70_an_edited_bundle_is_put_right_and_an_api_server_that_is_away_is_no_lost_state() {
    let api = FakeApi::default();
    let ca = replica(&api).await.unwrap();
    let good = api.get(BUNDLE).unwrap();
    let mut edited = good.clone();
    edited["data"]["bundle.pem"] = "trust-domain: evil".into();
    api.put(BUNDLE, edited);
    tend(&ca).await;
    assert_eq!(api.get(BUNDLE).unwrap()["data"], good["data"]);
    api.fails(Some(StatusCode::SERVICE_UNAVAILABLE));
    tend(&ca).await;
    assert_eq!(ca.stopped(), None);
    // for longer: nobody knows what the others do
    *lock(&ca.read) = Instant::now() - UNREAD;
    tend(&ca).await;
    assert!(ca.stopped().unwrap().contains("reading Secret weft-system/weft-ca"));
    api.fails(None);
    tend(&ca).await;
    assert_eq!(ca.stopped(), None);
}

#[tokio::test]
async fn row_72_a_rotation_goes_through_all_replicas_and_can_be_turned_back_at_each_step() {
    let api = FakeApi::default();
    let (a, b) = (replica(&api).await.unwrap(), replica(&api).await.unwrap());
    let old = a.bundle();
    // two controllers, each with some of the three proxies; both report to both replicas
    let report = |ca: &Ca, bundle: u64, issuer: &[u8]| {
        for (stream, proxies) in [(1, 2), (2, 1)] {
            let report = Report {
                reporter: format!("controller-{stream}"),
                expected: 3,
                confirmed: vec![(bundle, issuer.into(), proxies)],
                own: Some((bundle, issuer.into())),
            };
            ca.lock_gates().report(stream, report);
        }
    };
    let phase = |ca: &Ca| ca.state().rotation.map(|r| r.phase);
    let roots = |ca: &Ca| ca.bundle().roots().len();
    // begun on one, followed by the other and by the ConfigMap
    step(&a, Ca::rotate_root).await;
    tend(&b).await;
    assert_eq!((phase(&b), roots(&b), bundle_of(&api).roots().len()), (Some(Phase::Distribute), 2, 2));
    // one controller alone does not open the gate, however long
    report(&b, old.version(), old.issuer());
    b.lock_gates().gone(2);
    tend(&b).await;
    assert_eq!(phase(&b), Some(Phase::Distribute));
    // turned back before anything was signed
    step(&b, Ca::abort_rotation).await;
    tend(&a).await;
    assert_eq!((phase(&a), a.bundle().roots()), (None, old.roots()));
    // again, to the second phase
    step(&a, Ca::rotate_root).await;
    let both = a.bundle();
    report(&b, both.version(), old.issuer());
    for _ in 0..2 {
        tend(&b).await;
        tend(&a).await;
    }
    assert_eq!((phase(&a), phase(&b), roots(&a)), (Some(Phase::Renew), Some(Phase::Renew), 2));
    assert_ne!(a.bundle().issuer(), old.issuer());
    assert!(admin::metrics(&b).contains("weft_ca_rotation_phase{phase=\"renew\"} 1"));
    assert!(admin::metrics(&b).contains("weft_ca_rotation_expected 5"));
    // turned back there: both roots stay until all have leaves of the old issuer
    step(&a, Ca::abort_rotation).await;
    tend(&b).await;
    assert_eq!((roots(&b), b.bundle().issuer()), (2, old.issuer()));
    let last = b.bundle();
    report(&a, last.version(), last.issuer());
    for _ in 0..2 {
        tend(&a).await;
        tend(&b).await;
    }
    assert_eq!((phase(&b), b.bundle().roots(), bundle_of(&api).roots()), (None, old.roots(), old.roots()));
    // the replica that dies in the middle is replaced by one that goes on where it was
    step(&a, Ca::rotate_root).await;
    drop(a);
    let c = replica(&api).await.unwrap();
    assert_eq!((phase(&c), roots(&c)), (Some(Phase::Distribute), 2));
}

#[tokio::test]
async fn the_token_is_read_anew_for_each_request_since_kubelet_replaces_it() {
    let api = FakeApi::default();
    let ca = replica(&api).await.unwrap();
    let at = serve(&ca).await.to_string();
    let cell = CredentialCell::new(ca.bundle());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    let s = RenewerSettings::new(vec![at.clone()], ca_identity(DOMAIN).unwrap(), TokenSource::File(file.clone()), None);
    let missing = certificates::sign(&s, &at, &cell).await.unwrap_err().to_string();
    assert!(missing.contains("token: "), "{missing}");
    for name in ["cart-0", "cart-1"] {
        std::fs::write(&file, pod(&api, name)).unwrap();
        certificates::sign(&s, &at, &cell).await.unwrap();
        assert!(api.calls().iter().any(|c| *c == format!("GET /api/v1/namespaces/shop/pods/{name}")));
    }
}
