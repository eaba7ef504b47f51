//! What every other test of the cluster relies on: it is a Kubernetes, and Weft's images run in it under the restricted profile.

#![allow(clippy::unwrap_used)]

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Node};
use kube::Api;
use serde_json::json;
use std::process::Command;
use weft_test_cluster::{Namespace, SOON, client, eventually, image, once, restricted, text};

#[tokio::test]
#[ignore = "needs a cluster"]
async fn the_cluster_answers() {
    let client = client().await;
    let version = client.apiserver_version().await.unwrap();
    assert_eq!(version.major, "1", "{version:?}");
    let nodes = Api::<Node>::all(client.clone()).list(&Default::default()).await.unwrap();
    assert_eq!(nodes.items.len(), 1);
    let dns = Api::<Deployment>::namespaced(client, "kube-system").get("coredns").await.unwrap();
    assert_eq!(dns.status.unwrap().available_replicas, Some(1));
}

/// Every program of every image starts with a read-only root, no capability, and a user that the image does not know.
#[tokio::test]
#[ignore = "needs a cluster"]
async fn programs_start_in_restricted_pods() {
    let ns = Namespace::new("programs", &[("pod-security.kubernetes.io/enforce", "restricted")]).await;
    let programs = [
        ("weft-proxy", "weft-proxy"),
        ("weft-proxy", "weft-init"),
        ("weft-control", "weft-ca"),
        ("weft-control", "weft-controller"),
        ("weft-control", "weft-injector"),
        ("weft-control", "weft"),
        ("sample", "weft"),
    ];
    for (in_image, program) in programs {
        for uid in [2102, 65532, 123_456] {
            let name = format!("{in_image}-{program}-{uid}");
            let (phase, pod) = ns.run(once(&name, &image(in_image), &[program, "--version"], restricted(uid))).await;
            let said = ns.logs(&name, "main").await;
            assert_eq!(phase, "Succeeded", "{program} of {in_image} as {uid}: {said}\n{:?}", pod.status);
            assert_eq!(said.trim(), format!("{program} {}", env!("CARGO_PKG_VERSION")));
        }
    }
}

/// The init container: both variants of iptables act in a pod with a read-only root and two capabilities, and what they print is understood.
#[tokio::test]
#[ignore = "needs a cluster"]
async fn capture_in_a_pod() {
    let ns = Namespace::new("capture", &[]).await;
    for backend in ["nft", "legacy"] {
        let security = json!({
            "runAsUser": 0, "runAsNonRoot": false, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]}, "seccompProfile": {"type": "RuntimeDefault"},
        });
        let mut pod = once(backend, &image("weft-proxy"), &["weft-init", "verify"], security.clone());
        let env = json!([{"name": "WEFT_IPTABLES", "value": backend}]);
        pod["spec"]["containers"][0]["env"] = env.clone();
        pod["spec"]["initContainers"] = json!([{
            "name": "init", "image": image("weft-proxy"), "command": ["weft-init", "apply"], "env": env, "securityContext": security,
        }]);
        let (phase, pod) = ns.run(pod).await;
        assert_eq!(phase, "Succeeded", "{:?}", pod.status);
        for container in ["init", "main"] {
            assert_eq!(ns.logs(backend, container).await.trim(), format!("capture is in force (iptables-{backend})"));
        }
    }
}

/// A Service of the sample application answers by name, from the node and so from this test.
#[tokio::test]
#[ignore = "needs a cluster"]
async fn the_sample_answers() {
    let ns = Namespace::new("sample", &[]).await;
    ns.apply(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "sample", "labels": {"app": "sample"}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
            "name": "app", "image": image("sample"), "command": ["weft", "sample"], "args": ["--listen=:8080", "--name=it"],
            "securityContext": restricted(65532), "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
        }]},
    }))
    .await;
    ns.apply(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "sample"},
        "spec": {"selector": {"app": "sample"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }))
    .await;
    ns.ready("sample").await;
    let url = format!("http://sample.{}.svc.cluster.local/hello", ns.name);
    let answer = eventually("an answer of the sample", SOON, async || {
        let out = Command::new("curl").args(["-sS", "--max-time", "3", &url]).output().unwrap();
        if out.status.success() { Ok(text(&out)) } else { Err(text(&out)) }
    })
    .await;
    assert_eq!(answer, "it GET /hello 0\n");
}
