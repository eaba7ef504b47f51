use super::*;
use serde_json::json;
use weft_ca::testing::FakeApi;
use weft_controller::explain::{Question, explain_folder};

/// A cluster as far as an explanation needs one.
fn shop() -> FakeApi {
    let api = FakeApi::default();
    let served = |root: &str, kinds: &[(&str, &str)]| {
        let resources: Vec<Value> = kinds.iter().map(|(name, kind)| json!({"name": name, "kind": kind})).collect();
        api.put_raw(root, &json!({"kind": "APIResourceList", "resources": resources}).to_string());
    };
    served("/api/v1", &[("namespaces", "Namespace"), ("pods/status", "Pod"), ("pods", "Pod"), ("services", "Service")]);
    served("/apis/discovery.k8s.io/v1", &[("endpointslices", "EndpointSlice")]);
    served("/apis/gateway.networking.k8s.io/v1", &[("httproutes", "HTTPRoute")]);
    for name in ["shop", "web"] {
        api.put(&format!("/api/v1/namespaces/{name}"), json!({"metadata": {"name": name, "labels": {"weft.dev/inject": "enabled"}, "managedFields": [{"manager": "x"}]}}));
    }
    for (ns, name, ip) in [("shop", "orders", "10.1.0.1"), ("web", "front", "10.1.0.2")] {
        api.put(
            &format!("/api/v1/namespaces/{ns}/pods/{name}"),
            json!({"metadata": {"name": name, "namespace": ns, "uid": name, "labels": {"app": name}},
                "spec": {"serviceAccountName": name, "nodeName": "n", "initContainers": [{"name": "weft-proxy", "image": "p", "restartPolicy": "Always"}], "containers": [{"name": "app", "image": "a", "env": [{"name": "SECRET", "value": "hush"}]}]},
                "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": "True"}]}}),
        );
    }
    api.put(
        "/api/v1/namespaces/shop/services/orders",
        json!({"metadata": {"name": "orders", "namespace": "shop"}, "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "selector": {"app": "orders"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]}}),
    );
    api.put(
        "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices/orders-1",
        json!({"metadata": {"name": "orders-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "orders"}}, "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": ["10.1.0.1"], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "name": "orders", "namespace": "shop", "uid": "orders"}}]}),
    );
    api.put(
        "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/r",
        json!({"metadata": {"name": "r", "namespace": "shop"}, "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "orders", "port": 80}],
            "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/a"}}], "backendRefs": [{"group": "", "kind": "Service", "name": "orders", "port": 80, "weight": 1}]}]}}),
    );
    api
}

#[tokio::test]
async fn a_request_on_a_cluster_is_explained_by_the_code_for_files() {
    let api = shop();
    let folder = folder(&Cluster::new(api.client())).await.unwrap();
    let path = folder.path();
    let ask = |path: &str| Question {
        from: "web/front".into(),
        to: "orders.shop:80".into(),
        path: path.into(),
        ..Question::default()
    };
    let e = explain_folder(std::slice::from_ref(&path), &ask("/a/b")).unwrap();
    assert!(e.captured.yes, "{e}");
    let rule = e.rule.as_ref().unwrap();
    assert_eq!((rule.route.as_str(), e.dialled.as_str()), ("HTTPRoute shop/r", "10.96.0.1:80"));
    assert_eq!((e.backends[0].name.as_str(), e.backends[0].ready), ("shop/orders:80", 1));
    assert_eq!(e.from.identity.as_deref(), Some("spiffe://cluster.local/ns/web/sa/front"));
    assert!(explain_folder(std::slice::from_ref(&path), &ask("/other")).unwrap().rule.is_none());
    // what is nobody's business is not written to disk, and nothing is left behind
    let pods = std::fs::read_to_string(path.join("pod.yaml")).unwrap();
    assert!(!pods.contains("hush") && !pods.contains("managedFields"), "{pods}");
    drop(folder);
    assert!(!path.exists());
}

#[tokio::test]
async fn what_may_not_be_read_is_named() {
    let api = shop();
    api.fails(Some(http::StatusCode::FORBIDDEN));
    let Err(e) = folder(&Cluster::new(api.client())).await else { panic!() };
    assert!(format!("{e:#}").contains("Next: ask whoever administers the cluster"), "{e:#}");
}
