//! Row 67: which tokens are worth something.

use super::*;
use crate::token::{AUDIENCE, Claims, Pod, TokenSigner};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use proptest::prelude::*;
use std::sync::LazyLock;
use weft_identity::provider::FixedClock;

const NOW: u64 = 1_800_000_000;
static SIGNER: LazyLock<TokenSigner> = LazyLock::new(|| TokenSigner::generate().unwrap().0);

fn pod() -> Pod {
    Pod { name: "cart-0".into(), uid: "uid-1".into(), ips: vec![] }
}
fn claims() -> Claims {
    Claims::new("shop", "cart", pod(), NOW - 60, 3600)
}
fn from() -> SocketAddr {
    ([10, 0, 0, 7], 4000).into()
}
fn authenticator() -> LocalAuthenticator {
    LocalAuthenticator::new(SIGNER.verifier(), FixedClock::at(NOW))
}
async fn ask(token: &str) -> Result<Caller, Denied> {
    authenticator().authenticate(token, from()).await
}
async fn spoilt(spoil: impl Fn(&mut Claims)) -> Denied {
    let mut c = claims();
    spoil(&mut c);
    ask(&SIGNER.sign(&c).unwrap()).await.unwrap_err()
}

#[tokio::test]
async fn a_good_token() {
    let caller = ask(&SIGNER.sign(&claims()).unwrap()).await.unwrap();
    let expected = Caller {
        namespace: "shop".into(),
        service_account: "cart".into(),
        pod_uid: "uid-1".into(),
        pod: "cart-0".into(),
    };
    assert_eq!(caller, expected);
}
#[tokio::test]
async fn row_67_expired_and_not_yet_valid() {
    assert_eq!(spoilt(|c| c.exp = NOW - 30).await, Denied::Token(TokenError::Expired(30)));
    assert_eq!(spoilt(|c| c.nbf = NOW + 60).await, Denied::Token(TokenError::NotYetValid(60)));
    assert_eq!(spoilt(|c| c.iat = NOW + 3600).await.label(), "token_not_yet_valid");
}
#[tokio::test]
async fn row_67_wrong_audience() {
    for aud in [vec![], vec!["https://kubernetes.default.svc"], vec![AUDIENCE, "other"], vec!["weft.dev.evil"]] {
        let denied = spoilt(|c| c.aud = aud.iter().map(ToString::to_string).collect()).await;
        assert_eq!(denied, Denied::Token(TokenError::Audience), "{aud:?}");
    }
}
#[tokio::test]
async fn row_67_other_cluster() {
    let other = TokenSigner::generate().unwrap().0;
    let denied = ask(&other.sign(&claims()).unwrap()).await.unwrap_err();
    assert_eq!(denied, Denied::Token(TokenError::Signature));
    // while the key is replaced both are good
    let both = LocalAuthenticator::new(SIGNER.verifier().and(other.verifier()), FixedClock::at(NOW));
    for signer in [&*SIGNER, &other] {
        both.authenticate(&signer.sign(&claims()).unwrap(), from()).await.unwrap();
    }
}
#[tokio::test]
async fn row_67_deleted_pod() {
    let a = authenticator().with_pods(Arc::new(|uid| uid != "uid-1"));
    let token = SIGNER.sign(&claims()).unwrap();
    assert_eq!(a.authenticate(&token, from()).await, Err(Denied::PodGone("cart-0".into())));
}
#[tokio::test]
async fn row_67_replayed_from_another_address() {
    let mut c = claims();
    c.kubernetes.as_mut().unwrap().pod.as_mut().unwrap().ips = vec![[10, 0, 0, 8].into()];
    let token = SIGNER.sign(&c).unwrap();
    assert_eq!(ask(&token).await.unwrap_err().label(), "wrong_address");
    let own = ([10, 0, 0, 8], 1).into();
    authenticator().authenticate(&token, own).await.unwrap();
    // the same address on a socket of both families
    let mapped: SocketAddr = "[::ffff:10.0.0.8]:1".parse().unwrap();
    authenticator().authenticate(&token, mapped).await.unwrap();
}
#[tokio::test]
async fn row_67_node_tokens_and_unbound_tokens() {
    for sub in [
        "system:node:worker-1",
        "system:serviceaccount:shop",
        "system:serviceaccount:shop:a:b",
        "system:serviceaccount::a",
    ] {
        assert_eq!(spoilt(|c| c.sub = sub.into()).await, Denied::Token(TokenError::Subject), "{sub}");
    }
    assert_eq!(spoilt(|c| c.kubernetes = None).await, Denied::Token(TokenError::NotBound));
    assert_eq!(spoilt(|c| c.kubernetes.as_mut().unwrap().pod = None).await, Denied::Token(TokenError::NotBound));
    // claims that contradict each other
    assert_eq!(
        spoilt(|c| c.kubernetes.as_mut().unwrap().namespace = "kube-system".into()).await,
        Denied::Token(TokenError::Subject)
    );
}
#[tokio::test]
async fn row_67_forged_tokens() {
    let good = SIGNER.sign(&claims()).unwrap();
    let [_, body, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!() };
    let header = |json: &str| B64.encode(json);
    let admin = B64.encode(serde_json::to_vec(&Claims::new("kube-system", "admin", pod(), NOW, 60)).unwrap());
    for forged in [
        format!("{}.{body}.", header(r#"{"alg":"none"}"#)),
        format!("{}.{body}.{signature}", header(r#"{"alg":"HS256"}"#)),
        format!("{}.{body}.{signature}", header(r#"{"alg":"ES256","crit":["x"]}"#)),
        format!("{}.{admin}.{signature}", header(r#"{"alg":"ES256","typ":"JWT"}"#)),
    ] {
        assert_eq!(ask(&forged).await, Err(Denied::Token(TokenError::Signature)), "{forged}");
    }
    for junk in ["", ".", "..", "a.b.c", "...", &"x".repeat(1 << 20), "ü.ü.ü"] {
        assert_eq!(ask(junk).await.unwrap_err().label(), "malformed_token");
    }
}

proptest! {
    #[test]
    fn row_67_no_damage_gets_through(at in 0usize..400, to in "[A-Za-z0-9._-]") {
        let good = SIGNER.sign(&claims()).unwrap();
        let at = at % good.len();
        let mut bad = good.clone();
        bad.replace_range(at..=at, &to);
        prop_assert!(bad == good || SIGNER.verifier().verify(&bad, NOW).is_err());
    }
}
