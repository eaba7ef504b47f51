//! Rows 70 and 71: the state on a cluster.

use super::*;
use crate::{state::Lives, testing::FakeApi};
use http::StatusCode;
use serde_json::json;
use std::sync::Arc;
use weft_identity::provider::{now, system_clock};

pub(crate) const STATE_AT: &str = "/api/v1/namespaces/weft-system/secrets/weft-ca";
pub(crate) const BUNDLE_AT: &str = "/api/v1/namespaces/weft-system/configmaps/weft-trust-bundle";

fn made() -> State {
    State::make("mesh.test", None, now(&system_clock()), Lives::default()).unwrap()
}
/// Runs what blocks where it may.
async fn with<T: Send + 'static>(api: &FakeApi, run: impl FnOnce(SecretStore) -> T + Send + 'static) -> T {
    let store = SecretStore::new(api.client(), "weft-system", Handle::current());
    tokio::task::spawn_blocking(move || run(store)).await.unwrap()
}

#[tokio::test]
async fn row_71_of_many_replicas_that_start_together_one_root_comes_out() {
    let api = FakeApi::default();
    let barrier = Arc::new(std::sync::Barrier::new(8));
    let mut starting = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (api, barrier) = (api.clone(), barrier.clone());
        starting.spawn(async move {
            with(&api, move |store| {
                let there = store.load().unwrap();
                barrier.wait();
                let state = match there {
                    Some(state) => state,
                    None => store.create(&made()).unwrap(),
                };
                store.publish(&state.bundle().unwrap()).unwrap();
                (state, store.load().unwrap().unwrap())
            })
            .await
        });
    }
    let states = starting.join_all().await;
    assert!(states.iter().all(|s| *s == states[0] && s.0 == s.1));
    let secret = api.get(STATE_AT).unwrap();
    assert_eq!(
        (&secret["type"], &secret["metadata"]["labels"]["app.kubernetes.io/part-of"]),
        (&json!("Opaque"), &json!("weft"))
    );
    let text = api.get(BUNDLE_AT).unwrap()["data"][BUNDLE_KEY].as_str().unwrap().to_string();
    assert_eq!(Bundle::from_pem(&text, Some("mesh.test")).unwrap(), states[0].0.bundle().unwrap());
    assert!(!text.contains("PRIVATE"));
    assert_eq!(api.calls().iter().filter(|c| c.starts_with("PUT")).count(), 0, "what is right is not written again");
}

#[tokio::test]
async fn replacing_needs_the_version_that_was_read() {
    let api = FakeApi::default();
    let (next, late) = with(&api, |store| {
        let a = store.create(&made()).unwrap();
        let b = a.rotate_root(None, now(&system_clock()), Lives::default()).unwrap();
        store.replace(a.revision, &b).unwrap();
        assert_eq!(store.load().unwrap().unwrap(), b);
        let c = b.abort(now(&system_clock())).unwrap();
        (c, store.replace(a.revision, &b).unwrap_err())
    })
    .await;
    assert!(matches!(late, StoreError::Conflict { expected: 1, found: 2 }), "{late}");
    // what others have put on the object stays
    let mut secret = api.get(STATE_AT).unwrap();
    secret["metadata"]["annotations"] = json!({"backup": "nightly"});
    api.put(STATE_AT, secret);
    with(&api, move |store| store.replace(2, &next).unwrap()).await;
    assert_eq!(api.get(STATE_AT).unwrap()["metadata"]["annotations"]["backup"], "nightly");
}

#[tokio::test]
async fn row_70_a_secret_that_is_deleted_or_changed_is_not_made_anew() {
    let api = FakeApi::default();
    let state = with(&api, |store| {
        assert!(store.load().unwrap().is_none(), "there has never been one");
        let state = store.create(&made()).unwrap();
        store.publish(&state.bundle().unwrap()).unwrap();
        state
    })
    .await;
    let good = api.remove(STATE_AT).unwrap();
    let lost = with(&api, |s| s.load().unwrap_err()).await;
    assert!(matches!(lost, StoreError::Lost { .. }));
    let text = lost.to_string();
    assert!(
        text.contains("Secret weft-system/weft-ca is missing")
            && text.contains("ConfigMap weft-system/weft-trust-bundle"),
        "{text}"
    );
    for (data, says) in [
        (json!({}), "no key ca.json"),
        (json!({"ca.json": "e30="}), "is not a CA state"),
        (json!({"ca.json": "AAEC"}), "is not a CA state"),
    ] {
        let mut bad = good.clone();
        bad["data"] = data;
        api.put(STATE_AT, bad);
        let broken = with(&api, |s| s.load().unwrap_err()).await;
        assert!(broken.to_string().contains(says) && !broken.is_temporary(), "{broken}");
        assert!(!format!("{broken:?}").contains("PRIVATE"));
    }
    api.put(STATE_AT, good);
    assert_eq!(with(&api, |s| s.load().unwrap()).await, Some(state));
}

#[tokio::test]
async fn row_70_the_published_bundle_is_put_right() {
    let api = FakeApi::default();
    let bundle = made().bundle().unwrap();
    let publish = async || {
        let bundle = bundle.clone();
        with(&api, move |s| s.publish(&bundle)).await
    };
    publish().await.unwrap();
    let good = api.get(BUNDLE_AT).unwrap();
    api.remove(BUNDLE_AT);
    publish().await.unwrap();
    assert_eq!(api.get(BUNDLE_AT).unwrap()["data"], good["data"]);
    let mut edited = good.clone();
    edited["data"] = json!({BUNDLE_KEY: "evil", "mine": "stays"});
    edited["metadata"]["labels"]["team"] = "platform".into();
    api.put(BUNDLE_AT, edited);
    publish().await.unwrap();
    let now = api.get(BUNDLE_AT).unwrap();
    assert_eq!((&now["data"][BUNDLE_KEY], &now["data"]["mine"]), (&good["data"][BUNDLE_KEY], &json!("stays")));
    assert_eq!(now["metadata"]["labels"]["team"], "platform");
    let mut frozen = good;
    frozen["data"] = json!({BUNDLE_KEY: "old"});
    frozen["immutable"] = true.into();
    api.put(BUNDLE_AT, frozen);
    let refused = publish().await.unwrap_err();
    assert!(refused.to_string().contains("kubectl delete configmap"), "{refused}");
}

#[tokio::test]
async fn row_70_an_api_server_that_is_away_says_nothing_about_the_state() {
    let api = FakeApi::default();
    with(&api, |s| s.create(&made()).unwrap()).await;
    api.fails(Some(StatusCode::SERVICE_UNAVAILABLE));
    let away = with(&api, |s| s.load().unwrap_err()).await;
    assert!(away.is_temporary() && away.to_string().starts_with("reading Secret weft-system/weft-ca: "), "{away}");
    api.fails(Some(StatusCode::FORBIDDEN));
    let forbidden = with(&api, |s| s.load().unwrap_err()).await;
    assert!(!forbidden.is_temporary() && forbidden.to_string().contains("Fix: the Role"), "{forbidden}");
}

#[tokio::test]
async fn a_root_of_the_users_own_in_a_secret() {
    let api = FakeApi::default();
    let other = made();
    let authority = serde_json::to_value(&other).unwrap()["authorities"][0].clone();
    let secret = |cert: &str, key: &str| {
        let b64 = |v: &serde_json::Value| {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.encode(v.as_str().unwrap())
        };
        json!({"metadata": {"name": "root"}, "data": {cert: b64(&authority["root"]), key: b64(&authority["root_key"])}})
    };
    let at = "/api/v1/namespaces/weft-system/secrets/root";
    let ask = async || root_from(api.client(), "weft-system", "root").await;
    assert!(ask().await.unwrap_err().to_string().contains("not found"));
    for (cert, key) in [("root.pem", "root-key.pem"), ("tls.crt", "tls.key")] {
        api.put(at, secret(cert, key));
        let state =
            State::make("mesh.test", Some(ask().await.unwrap()), now(&system_clock()), Lives::default()).unwrap();
        assert_eq!(state.bundle().unwrap().roots(), other.bundle().unwrap().roots());
    }
    api.put(at, secret("tls.crt", "root-key.pem"));
    assert!(ask().await.unwrap_err().to_string().contains("neither root.pem and root-key.pem nor"));
}
