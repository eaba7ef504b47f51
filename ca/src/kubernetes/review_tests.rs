//! Rows 67 and 68: tokens on a cluster.

use super::*;
use crate::testing::FakeApi;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use serde_json::{Value, json};
use weft_identity::provider::FixedClock;

const NOW: u64 = 1_800_000_000;
const POD: &str = "/api/v1/namespaces/shop/pods/cart-0";

/// What kubelet would have projected, but for the signature.
fn claims() -> Value {
    json!({
        "aud": [AUDIENCE], "exp": NOW + 3600, "iat": NOW, "iss": "https://kubernetes.default.svc.cluster.local",
        "sub": "system:serviceaccount:shop:cart",
        "kubernetes.io": {"namespace": "shop", "pod": {"name": "cart-0", "uid": "uid-1"}, "serviceaccount": {"name": "cart", "uid": "sa-1"}},
    })
}
fn token(claims: &Value) -> String {
    format!(
        "{}.{}.{}",
        B64.encode(r#"{"alg":"RS256","kid":"k"}"#),
        B64.encode(claims.to_string()),
        B64.encode("signature")
    )
}
fn good_review() -> Value {
    json!({
        "authenticated": true, "audiences": [AUDIENCE],
        "user": {"username": "system:serviceaccount:shop:cart", "uid": "sa-1", "groups": ["system:serviceaccounts"],
            "extra": {POD_NAME: ["cart-0"], POD_UID: ["uid-1"]}},
    })
}
fn pod() -> Value {
    json!({"metadata": {"name": "cart-0", "namespace": "shop", "uid": "uid-1"}, "spec": {"serviceAccountName": "cart", "containers": []},
        "status": {"phase": "Running", "podIP": "10.0.0.7", "podIPs": [{"ip": "10.0.0.7"}, {"ip": "fd00::7"}]}})
}
fn api() -> FakeApi {
    let api = FakeApi::default();
    api.knows_token(&token(&claims()), good_review());
    api.put(POD, pod());
    api
}
fn authenticator(api: &FakeApi) -> ReviewAuthenticator {
    ReviewAuthenticator::new(api.client(), ReviewSettings::default(), FixedClock::at(NOW))
}
fn from() -> SocketAddr {
    ([10, 0, 0, 7], 4000).into()
}
async fn ask(api: &FakeApi) -> Result<Caller, Denied> {
    authenticator(api).authenticate(&token(&claims()), from()).await
}

#[tokio::test]
async fn a_pod_is_who_the_review_says() {
    let api = api();
    let caller = ask(&api).await.unwrap();
    let expected = Caller {
        namespace: "shop".into(),
        service_account: "cart".into(),
        pod_uid: "uid-1".into(),
        pod: "cart-0".into(),
    };
    assert_eq!(caller, expected);
    assert_eq!(api.calls(), ["POST /apis/authentication.k8s.io/v1/tokenreviews", &format!("GET {POD}")]);
    // the identity is the review's, whatever the token's own words are
    let mut other = claims();
    other["sub"] = "system:serviceaccount:kube-system:admin".into();
    api.knows_token(&token(&other), good_review());
    assert_eq!(authenticator(&api).authenticate(&token(&other), from()).await.unwrap(), expected);
}

#[tokio::test]
async fn row_67_tokens_that_cannot_be_good_are_never_asked_about() {
    let api = FakeApi::default();
    let denied = async |edit: &dyn Fn(&mut Value)| {
        let mut c = claims();
        edit(&mut c);
        authenticator(&api).authenticate(&token(&c), from()).await.unwrap_err()
    };
    for aud in
        [json!([]), json!(["https://kubernetes.default.svc"]), json!([AUDIENCE, "other"]), json!("weft.dev.evil")]
    {
        assert_eq!(denied(&|c| c["aud"] = aud.clone()).await.label(), "wrong_audience", "{aud}");
    }
    assert_eq!(denied(&|c| c["exp"] = (NOW - 90).into()).await, Denied::Token(TokenError::Expired(90)));
    // of a node, and of a Secret: for ever and for everything
    assert_eq!(
        denied(&|c| c["kubernetes.io"] = json!({"namespace": "shop", "node": {"name": "n"}})).await.label(),
        "unbound_token"
    );
    let legacy = |c: &mut Value| {
        *c = json!({"iss": "kubernetes/serviceaccount", "kubernetes.io/serviceaccount/namespace": "shop", "sub": "system:serviceaccount:shop:cart"});
    };
    assert_eq!(denied(&legacy).await.label(), "unbound_token");
    assert_eq!(denied(&|c| c["sub"] = "system:node:worker-1".into()).await.label(), "wrong_subject");
    for junk in ["", "a.b", "a.b.c.d", "..", "a.!.c", &"x".repeat(1 << 20)] {
        let denied = authenticator(&api).authenticate(junk, from()).await.unwrap_err();
        assert_eq!(denied.label(), "malformed_token");
    }
    assert!(api.calls().is_empty(), "{:?}", api.calls());
}

#[tokio::test]
async fn row_67_the_review_refuses() {
    let api = api();
    let refused = async |status: Value| {
        api.knows_token(&token(&claims()), status);
        ask(&api).await.unwrap_err()
    };
    let says = |error: &str| json!({"authenticated": false, "error": error});
    let gone = refused(says("[invalid bearer token, service account token has been invalidated]")).await;
    assert_eq!(gone.label(), "invalidated");
    assert!(gone.to_string().contains("was deleted"), "{gone}");
    let other = refused(says("[invalid bearer token, square/go-jose: error in cryptographic primitive]")).await;
    assert_eq!(other, Denied::Token(TokenError::Signature), "of another cluster");
    assert_eq!(
        refused(says("token audiences [\"x\"] is invalid for the target audiences [\"weft.dev\"]")).await.label(),
        "wrong_audience"
    );
    assert_eq!(refused(json!({"authenticated": false})).await.label(), "rejected");
    assert_eq!(refused(json!({})).await.label(), "rejected");
    let odd = |edit: &dyn Fn(&mut Value)| {
        let mut r = good_review();
        edit(&mut r);
        r
    };
    // an API server without audiences has checked the token for itself
    assert_eq!(refused(odd(&|r| r["audiences"] = Value::Null)).await.label(), "wrong_audience");
    assert_eq!(refused(odd(&|r| r["audiences"] = json!(["other"]))).await.label(), "wrong_audience");
    for user in ["system:node:worker-1", "admin", "system:serviceaccount:shop", "system:serviceaccount:shop:a:b", ""] {
        assert_eq!(refused(odd(&|r| r["user"]["username"] = user.into())).await.label(), "wrong_subject", "{user}");
    }
    for extra in [
        json!({}),
        json!({POD_NAME: ["cart-0"]}),
        json!({POD_NAME: ["a", "b"], POD_UID: ["u"]}),
        json!({POD_NAME: ["a"], POD_UID: [""]}),
    ] {
        assert_eq!(refused(odd(&|r| r["user"]["extra"] = extra.clone())).await.label(), "unbound_token", "{extra}");
    }
}

#[tokio::test]
async fn row_67_the_pod_is_gone_or_another() {
    let api = api();
    api.remove(POD);
    assert_eq!(ask(&api).await, Err(Denied::PodGone("cart-0".into())));
    let with = |edit: &dyn Fn(&mut Value)| {
        let mut p = pod();
        edit(&mut p);
        api.put(POD, p);
    };
    // a StatefulSet made it anew under the same name
    with(&|p| p["metadata"]["uid"] = "uid-2".into());
    assert_eq!(ask(&api).await, Err(Denied::PodGone("cart-0".into())));
    with(&|p| p["status"]["phase"] = "Failed".into());
    assert_eq!(ask(&api).await, Err(Denied::PodGone("cart-0".into())));
    with(&|p| p["spec"]["serviceAccountName"] = "default".into());
    assert_eq!(ask(&api).await.unwrap_err().label(), "wrong_subject");
}

#[tokio::test(start_paused = true)]
async fn row_67_replayed_from_another_address() {
    let api = api();
    let a = authenticator(&api);
    let thief = a.authenticate(&token(&claims()), ([10, 0, 0, 8], 1).into()).await.unwrap_err();
    assert_eq!(thief.label(), "wrong_address");
    for own in ["10.0.0.7:1", "[::ffff:10.0.0.7]:1", "[fd00::7]:1"] {
        a.authenticate(&token(&claims()), own.parse().unwrap()).await.unwrap();
    }
    let anywhere = ReviewSettings { addresses: false, ..ReviewSettings::default() };
    let a = ReviewAuthenticator::new(api.client(), anywhere, FixedClock::at(NOW));
    a.authenticate(&token(&claims()), ([10, 0, 0, 8], 1).into()).await.unwrap();
    // kubelet has not reported the address yet: looked at again, then "later"
    let mut young = pod();
    young["status"] = json!({"phase": "Pending"});
    api.put(POD, young);
    let before = api.calls().len();
    let denied = ask(&api).await.unwrap_err();
    assert_eq!(denied, Denied::NoAddress("cart-0".into()));
    assert!(denied.is_temporary());
    assert_eq!(api.calls().len() - before, 1 + LOOKS as usize);
}

#[tokio::test(start_paused = true)]
async fn row_68_an_api_server_that_is_down_or_slow_lets_nobody_in_and_is_left_alone() {
    let api = api();
    let a = authenticator(&api);
    a.authenticate(&token(&claims()), from()).await.unwrap();
    let deny = async || match a.authenticate(&token(&claims()), from()).await {
        Err(Denied::Unavailable(why)) => why,
        other => panic!("{other:?}"),
    };
    for fault in [503, 500, 429, 403] {
        api.fails(Some(http::StatusCode::from_u16(fault).unwrap()));
        let why = deny().await;
        assert!(why.contains("told to fail"), "{why}");
        a.outage.answered();
    }
    assert!(deny().await.contains("the Role or ClusterRole of weft-ca lacks it"));
    a.outage.answered();
    api.fails(None);
    // 5 s slow: three wait for their deadline, then nobody waits and the server is asked nothing
    api.is_slow(Some(Duration::from_secs(5)));
    let start = Instant::now();
    for _ in 0..3 {
        assert!(deny().await.contains("did not answer within 4s"));
    }
    assert_eq!(start.elapsed(), Duration::from_secs(12));
    let (asked, at) = (api.calls().len(), Instant::now());
    for _ in 0..100 {
        assert!(deny().await.contains("next try within"));
    }
    assert_eq!((api.calls().len(), at.elapsed()), (asked, Duration::ZERO));
    assert!(!a.is_up());
    // it comes back: the next one that may try finds out, and all are let in
    api.is_slow(None);
    tokio::time::advance(Duration::from_secs(1)).await;
    a.authenticate(&token(&claims()), from()).await.unwrap();
    a.authenticate(&token(&claims()), from()).await.unwrap();
    assert!(a.is_up());
}

#[tokio::test]
async fn row_68_a_flood_of_invented_tokens_is_no_flood_of_reviews() {
    let api = api();
    let a = authenticator(&api);
    let mut asked = 0;
    for n in 0..1000 {
        let mut c = claims();
        c["jti"] = n.into();
        match a.authenticate(&token(&c), from()).await.unwrap_err() {
            Denied::Rejected(_) => asked += 1,
            Denied::TooMany(who) => assert!(who.contains("10.0.0.7")),
            other => panic!("{other}"),
        }
    }
    assert!((250..500).contains(&asked), "{asked}");
    // others are not held up
    let mut other = pod();
    other["status"]["podIPs"] = json!([{"ip": "10.0.0.9"}]);
    api.put(POD, other);
    a.authenticate(&token(&claims()), ([10, 0, 0, 9], 1).into()).await.unwrap();
}
