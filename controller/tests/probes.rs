//! What the injector makes of a pod's probes, the controller must let the sidecar perform.
#![allow(clippy::unwrap_used)]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use weft_controller::{facts::PodFacts, object::Name};
use weft_injector::{inject::Settings, review};

/// The pod as the API server stores it after the injector has answered.
fn injected(pod: &Value) -> Value {
    let settings = Settings {
        image: "weft.dev/weft-proxy:0.1.0".into(),
        image_pull_policy: "IfNotPresent".into(),
        trust_domain: "cluster.local".into(),
        ca: "weft-ca.weft-system.svc:15010".into(),
        controller: "weft-controller.weft-system.svc:15012".into(),
        native_sidecars: true,
        version: "0.1.0".into(),
        sidecar: weft_injector::sidecar::Sidecar::default(),
    };
    let request = json!({"uid": "u", "operation": "CREATE", "namespace": "shop", "resource": {"group": "", "version": "v1", "resource": "pods"}, "object": pod});
    let body = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).to_string();
    let (answer, outcome) = review::answer(body.as_bytes(), &|_| None, Some("bundle"), &settings).unwrap();
    assert_eq!(outcome, review::Outcome::Injected, "{answer}");
    let patch = STANDARD.decode(answer["response"]["patch"].as_str().unwrap()).unwrap();
    let mut after = pod.clone();
    json_patch::patch(&mut after, &serde_json::from_slice::<json_patch::Patch>(&patch).unwrap()).unwrap();
    after
}

fn probes(pod: &Value) -> Vec<(u16, Option<String>)> {
    let facts = PodFacts::of(&Name::new("shop", "web"), &serde_json::from_value(pod.clone()).unwrap());
    facts.probes.iter().map(|p| (p.port, p.path.as_deref().map(str::to_owned))).collect()
}

#[test]
fn a_pod_keeps_its_probes_when_it_is_injected() {
    let pod = json!({
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "containers": [
                {"name": "web", "image": "w", "ports": [{"name": "tcp", "containerPort": 8080}],
                 "livenessProbe": {"tcpSocket": {"port": "tcp"}}, "readinessProbe": {"httpGet": {"port": 8081, "path": "/ok"}}, "startupProbe": {"tcpSocket": {"port": 8082}}},
                {"name": "grpc", "image": "g",
                 "livenessProbe": {"grpc": {"port": 9000, "service": "shop.v1/Orders"}}, "readinessProbe": {"grpc": {"port": 9001}, "timeoutSeconds": 3}},
            ],
            "initContainers": [{"name": "vpn", "image": "v", "restartPolicy": "Always", "startupProbe": {"tcpSocket": {"port": 9100}}}],
        },
    });
    let health = Some(weft_core::policy::GRPC_HEALTH.to_owned());
    let expected = [
        (8080, None),
        (8081, Some("/ok".to_owned())),
        (8082, None),
        (9000, health.clone()),
        (9001, health),
        (9100, None),
    ];
    assert_eq!(probes(&pod), expected, "as declared");
    let after = injected(&pod);
    assert_eq!(probes(&after), expected, "as injected, with nothing of the sidecar's own probes");
    // and they really go through the sidecar
    let [web, grpc] = [0, 1].map(|i| &after["spec"]["containers"][i]);
    assert_eq!(web["livenessProbe"]["httpGet"]["path"], "/probe/tcp/8080");
    assert_eq!(grpc["livenessProbe"]["httpGet"]["path"], "/probe/grpc/9000/shop.v1%2FOrders");
    assert_eq!(
        grpc["readinessProbe"]["httpGet"]["httpHeaders"],
        json!([{"name": "weft-probe-timeout-ms", "value": "2700"}])
    );
    assert!(grpc["readinessProbe"]["grpc"].is_null());
}
