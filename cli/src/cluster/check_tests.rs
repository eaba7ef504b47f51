use super::*;
use weft_ca::testing::FakeApi;

const API: &str = "/apis/gateway.networking.k8s.io/v1";

fn crds(api: &FakeApi, version: &str, channel: &str) {
    for plural in ["gatewayclasses", "gateways", "httproutes", "grpcroutes", "referencegrants"] {
        let notes =
            json!({"gateway.networking.k8s.io/bundle-version": version, "gateway.networking.k8s.io/channel": channel});
        let name = format!("{plural}.gateway.networking.k8s.io");
        api.put(
            &format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"),
            json!({"metadata": {"name": name, "annotations": notes}, "spec": {"group": "gateway.networking.k8s.io", "names": {"plural": plural}}}),
        );
    }
}
fn kubernetes(minor: &str) -> FakeApi {
    let api = FakeApi::default();
    api.put_raw("/version", &json!({"major": "1", "minor": minor, "gitVersion": format!("v1.{minor}.0")}).to_string());
    api
}
fn pod(api: &FakeApi, namespace: &str, name: &str, meshed: bool, edit: impl FnOnce(&mut Value)) {
    let sidecar = if meshed { json!([{"name": "weft-init"}, {"name": "weft-proxy"}]) } else { json!([]) };
    let mut pod = json!({"metadata": {"name": name, "namespace": namespace}, "spec": {"initContainers": sidecar, "containers": [{"name": "app"}]},
        "status": {"phase": "Running", "initContainerStatuses": [{"name": "weft-proxy", "ready": true}]}});
    edit(&mut pod);
    api.put(&format!("/api/v1/namespaces/{namespace}/pods/{name}"), pod);
}
/// What a mesh that is well looks like.
fn installed() -> FakeApi {
    let api = kubernetes("33");
    crds(&api, "v1.7.0", "standard");
    for d in DEPLOYMENTS {
        let path = format!("/apis/apps/v1/namespaces/weft-system/deployments/{d}");
        api.put(&path, json!({"metadata": {"name": d}, "spec": {"replicas": 1}, "status": {"readyReplicas": 1}}));
    }
    for (name, label) in [("shop", Some("enabled")), ("plain", None)] {
        let labels = label.map_or(json!({}), |l| json!({"weft.dev/inject": l}));
        api.put(&format!("/api/v1/namespaces/{name}"), json!({"metadata": {"name": name, "labels": labels}}));
    }
    pod(&api, "shop", "orders-1", true, |_| {});
    pod(&api, "plain", "alone", false, |_| {});
    let bundle = weft_identity_bundle();
    api.put("/api/v1/namespaces/weft-system/configmaps/weft-trust-bundle", json!({"data": {"bundle.pem": bundle}}));
    let ca: Value = serde_json::to_value(k8s_openapi::ByteString(bundle.into_bytes())).unwrap();
    let hooks = json!([{"clientConfig": {"caBundle": ca}}, {"clientConfig": {"caBundle": ca}}]);
    api.put(
        "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/weft-injector",
        json!({"metadata": {"name": "weft-injector"}, "webhooks": hooks}),
    );
    pod(&api, "weft-system", "weft-ca-0", false, |_| {});
    let at = "/api/v1/namespaces/weft-system/pods/weft-ca-0:15014/proxy";
    let soon = now() + 300 * 86_400 + 3600;
    api.put_raw(
        &format!("{at}/metrics"),
        &format!("weft_ca_signing 1\nweft_ca_token_review_up 1\nweft_ca_issuer_not_after_seconds{{authority=\"1\",signing=\"true\"}} {soon}\n"),
    );
    api
}
fn weft_identity_bundle() -> String {
    use weft_ca::state::{Lives, State};
    let now = weft_identity::provider::now(&weft_identity::provider::system_clock());
    State::make("mesh.test", None, now, Lives::default()).unwrap().bundle().unwrap().to_pem()
}
async fn lines(api: &FakeApi) -> Vec<(Level, String)> {
    let report = of(&Cluster::new(api.client()), "weft-system").await.unwrap();
    for l in &report.0 {
        assert!(l.level == Level::Ok || l.next.as_ref().is_some_and(|n| !n.is_empty()), "what next? {l:?}");
    }
    report.0.into_iter().map(|l| (l.level, l.what)).collect()
}
/// Only what is not good.
async fn bad(api: &FakeApi) -> Vec<String> {
    lines(api).await.into_iter().filter(|(l, _)| *l != Level::Ok).map(|(_, what)| what).collect()
}

#[tokio::test]
async fn before_the_install() {
    let api = kubernetes("28");
    let found = lines(&api).await;
    let says = |level: Level, part: &str| {
        assert!(found.iter().any(|(l, what)| *l == level && what.contains(part)), "{part} in {found:?}");
    };
    says(Level::Warning, "Kubernetes v1.28.0 has no native sidecars");
    says(Level::Error, "Gateway API: no gatewayclasses, gateways, httproutes");
    says(Level::Error, "you may not create namespaces, secrets");
    says(Level::Warning, "weft is not installed in namespace weft-system");
    crds(&api, "v1.4.0", "standard");
    assert!(bad(&api).await.iter().any(|w| w == "Gateway API v1.4.0, standard channel: HTTPRoute has no retry"));
    crds(&api, "v1.7.0", "experimental");
    assert!(lines(&api).await.contains(&(Level::Ok, "Gateway API v1.7.0, experimental channel".into())));
    api.put(
        "/api/v1/namespaces/kube-system/configmaps/cilium-config",
        json!({"data": {"kube-proxy-replacement": "true"}}),
    );
    assert!(bad(&api).await.iter().any(|w| w.contains("Cilium balances in the pods' sockets")));
}

#[tokio::test]
async fn a_mesh_that_is_well_has_nothing_to_complain_of() {
    let api = installed();
    // takes no pods any more, so it is not the one to ask
    let leaving = json!({"name": "leaving", "labels": {"weft.dev/inject": "enabled"}, "deletionTimestamp": "2026-01-01T00:00:00Z"});
    api.put("/api/v1/namespaces/leaving", json!({"metadata": leaving}));
    // the fake server has no webhook: only the dry run may complain
    let bad = bad(&api).await;
    assert_eq!(bad, ["a pod made in shop gets no sidecar (dry run)"]);
    assert!(api.calls().iter().any(|c| c == "POST /api/v1/namespaces/shop/pods"));
    let all = lines(&api).await;
    for part in [
        "weft-controller: 1 of 1 ready",
        "root of the trust bundle: 3",
        "issuer of weft-ca-0: 300 days left",
        "1 pods are meshed, their sidecars ready",
    ] {
        assert!(all.iter().any(|(l, w)| *l == Level::Ok && w.contains(part)), "{part} in {all:?}");
    }
}

#[tokio::test]
async fn what_is_broken_is_named() {
    let api = installed();
    api.put(
        "/apis/apps/v1/namespaces/weft-system/deployments/weft-ca",
        json!({"metadata": {"name": "weft-ca"}, "spec": {"replicas": 2}, "status": {"readyReplicas": 1}}),
    );
    pod(&api, "weft-system", "weft-ca-1", false, |p| {
        p["status"]["containerStatuses"] =
            json!([{"name": "weft-ca", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]);
    });
    api.put_raw(
        "/api/v1/namespaces/weft-system/pods/weft-ca-0:15014/proxy/metrics",
        "weft_ca_signing 0\nweft_ca_token_review_up 0\n",
    );
    api.put_raw(
        "/api/v1/namespaces/weft-system/pods/weft-ca-0:15014/proxy/ready",
        "does not sign: Secret weft-system/weft-ca is missing\n",
    );
    api.put("/api/v1/namespaces/weft-system/configmaps/weft-trust-bundle", json!({"data": {"bundle.pem": "junk"}}));
    api.put(
        "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/weft-injector",
        json!({"metadata": {}, "webhooks": [{"clientConfig": {}}]}),
    );
    pod(&api, "shop", "old-1", false, |_| {});
    pod(&api, "shop", "out-1", false, |p| p["metadata"]["labels"] = json!({"weft.dev/inject": "disabled"}));
    pod(&api, "shop", "node-1", false, |p| p["spec"]["hostNetwork"] = true.into());
    pod(&api, "plain", "in-1", false, |p| p["metadata"]["labels"] = json!({"weft.dev/inject": "enabled"}));
    pod(&api, "shop", "young-1", true, |p| p["status"]["initContainerStatuses"][0]["ready"] = false.into());
    api.put_raw("/api/v1/namespaces/shop/pods/young-1:15020/proxy/ready", "waiting for a certificate\n");
    pod(&api, "shop", "older-1", true, |p| p["metadata"]["annotations"] = json!({"weft.dev/injected": "0.0.1"}));
    let parent = json!({"kind": "Service", "group": "", "name": "orders"});
    let condition = json!({"type": "ResolvedRefs", "status": "False", "reason": "BackendNotFound", "message": "Service shop/gone does not exist"});
    api.put(
        &format!("{API}/namespaces/shop/httproutes/bad"),
        json!({"metadata": {"name": "bad", "namespace": "shop"}, "spec": {"parentRefs": [parent]},
            "status": {"parents": [{"controllerName": "other", "conditions": []}, {"controllerName": CONTROLLER, "conditions": [condition]}]}}),
    );
    api.put(
        &format!("{API}/namespaces/shop/grpcroutes/new"),
        json!({"metadata": {"name": "new", "namespace": "shop"}, "spec": {"parentRefs": [parent]}}),
    );
    let bad = bad(&api).await;
    for part in [
        "weft-ca: 1 of 2 ready (weft-ca-1: CrashLoopBackOff)",
        "weft-ca-0 does not sign: Secret weft-system/weft-ca is missing",
        "does not answer its TokenReviews",
        "the trust bundle is not usable: ",
        "the webhook has no caBundle",
        "labelled, but without a sidecar: plain/in-1, shop/old-1",
        "sidecars that are not ready: shop/young-1: the first says \"waiting for a certificate\"",
        "sidecars of another version than 0.1.0: shop/older-1",
        "HTTPRoute shop/bad: ResolvedRefs=False BackendNotFound: Service shop/gone does not exist",
        "not judged by the controller: GRPCRoute shop/new",
    ] {
        assert!(bad.iter().any(|w| w.contains(part)), "{part} in {bad:#?}");
    }
}

#[tokio::test]
async fn errors_say_what_to_do_next() {
    let api = kubernetes("33");
    for (code, part) in [(403, "not allowed: "), (401, "renew the credentials"), (500, "500")] {
        api.fails(Some(http::StatusCode::from_u16(code).unwrap()));
        let Err(e) = of(&Cluster::new(api.client()), "weft-system").await else { panic!("{code}") };
        assert!(e.to_string().contains(part), "{e}");
    }
}
