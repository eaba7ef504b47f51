//! A namespace is labelled, its workloads are restarted: what is in their pods then, that the pods run, and that a Job still ends.

#![allow(clippy::unwrap_used)]

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Container, Namespace as KubeNamespace, Pod, SecurityContext},
};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use weft_test_cluster::{
    Namespace, SOON, TOOLS, eventually,
    mesh::{self, ENABLED, Workload, is_meshed},
    once, restricted,
};

fn container<'a>(list: &'a Option<Vec<Container>>, name: &str) -> &'a Container {
    list.iter().flatten().find(|c| c.name == name).unwrap_or_else(|| panic!("no {name}"))
}

fn resources(c: &Container) {
    let r = c.resources.clone().unwrap_or_default();
    let (requests, limits) = (r.requests.unwrap_or_default(), r.limits.unwrap_or_default());
    assert!(requests.contains_key("cpu") && requests.contains_key("memory"), "{}: {requests:?}", c.name);
    // a limit of CPU only adds latency
    assert_eq!(limits.keys().collect::<Vec<_>>(), ["memory"], "{}", c.name);
}

/// What the restricted profile of Kubernetes wants, besides a user and the capabilities that are told.
fn contained(c: &Container) -> SecurityContext {
    let s = c.security_context.clone().unwrap();
    assert_eq!(
        (s.allow_privilege_escalation, s.privileged, s.read_only_root_filesystem),
        (Some(false), Some(false), Some(true))
    );
    assert_eq!(s.seccomp_profile.as_ref().map(|p| p.type_.as_str()), Some("RuntimeDefault"));
    assert_eq!(s.capabilities.as_ref().and_then(|c| c.drop.clone()), Some(vec!["ALL".to_owned()]));
    s
}

/// The sidecar and its init container, as research wants them.
fn judge(pod: &Pod) {
    let spec = pod.spec.as_ref().unwrap();
    let names: Vec<&str> = spec.init_containers.iter().flatten().map(|c| c.name.as_str()).collect();
    assert_eq!(names[..2], ["weft-init", "weft-proxy"], "the mesh comes before the application's own init containers");

    let init = container(&spec.init_containers, "weft-init");
    resources(init);
    let s = contained(init);
    assert_eq!((s.run_as_user, s.run_as_non_root), (Some(0), Some(false)));
    let mut added = s.capabilities.unwrap().add.unwrap();
    added.sort();
    assert_eq!(added, ["NET_ADMIN", "NET_RAW"]);

    let proxy = container(&spec.init_containers, "weft-proxy");
    assert_eq!(proxy.restart_policy.as_deref(), Some("Always"), "a native sidecar");
    resources(proxy);
    let s = contained(proxy);
    assert_eq!((s.run_as_user, s.run_as_group, s.run_as_non_root), (Some(2102), Some(2102), Some(true)));
    assert_eq!(s.capabilities.unwrap().add, None);
    let path =
        |p: &Option<k8s_openapi::api::core::v1::Probe>| p.as_ref().and_then(|p| p.http_get.as_ref()?.path.clone());
    let probes = [&proxy.startup_probe, &proxy.readiness_probe, &proxy.liveness_probe].map(path);
    assert_eq!(probes, ["/ready", "/ready", "/live"].map(|p| Some(p.to_owned())));

    // only the sidecar sees the token of the mesh, which is bound to the pod and to its audience
    let volumes = spec.volumes.clone().unwrap();
    let token = volumes.iter().find(|v| v.name == "weft-token").unwrap().projected.clone().unwrap().sources.unwrap();
    assert_eq!(token[0].service_account_token.as_ref().unwrap().audience.as_deref(), Some("weft.dev"));
    for c in spec.init_containers.iter().flatten().chain(&spec.containers) {
        let sees = c.volume_mounts.iter().flatten().any(|m| m.name == "weft-token");
        assert_eq!(sees, c.name == "weft-proxy", "{}", c.name);
    }
    let notes = pod.metadata.annotations.clone().unwrap();
    assert!(notes.contains_key("weft.dev/injected"), "{notes:?}");
    assert_eq!(notes["kubectl.kubernetes.io/default-container"], "app");
}

#[tokio::test]
#[ignore = "needs a cluster with the chart"]
async fn label_and_restart() {
    mesh::installed().await;
    let ns = Namespace::new("inject", &[]).await;
    let own_init = json!([{"name": "own", "image": TOOLS, "command": ["true"], "securityContext": restricted(65532)}]);
    let mut objects = Workload::sample("web", &[]).replicas(2).objects();
    objects[1]["spec"]["template"]["spec"]["initContainers"] = own_init;
    for object in objects {
        ns.apply(object).await;
    }
    ns.available("web").await;
    assert!(ns.pods_of("web").await.iter().all(|p| !is_meshed(p)), "nobody asked yet");

    let label: Value = json!({"metadata": {"labels": BTreeMap::from([ENABLED])}});
    let namespaces: Api<KubeNamespace> = Api::all(ns.client.clone());
    namespaces.patch(&ns.name, &PatchParams::default(), &Patch::Merge(label)).await.unwrap();
    Api::<k8s_openapi::api::apps::v1::Deployment>::namespaced(ns.client.clone(), &ns.name)
        .restart("web")
        .await
        .unwrap();
    ns.available("web").await;
    let pods = ns.pods_of("web").await;
    assert_eq!(pods.len(), 2);
    pods.iter().for_each(judge);

    // a pod may stay out of it
    let mut pod = once("out", TOOLS, &["true"], restricted(65532));
    pod["metadata"]["labels"] = json!({"weft.dev/inject": "disabled"});
    let (phase, pod) = ns.run(pod).await;
    assert!(phase == "Succeeded" && !is_meshed(&pod), "{phase}");
}

/// The sidecar ends when the application has: also when the Job's pod failed before. What its containers asked for arrived.
#[tokio::test]
#[ignore = "needs a cluster with the chart"]
async fn jobs_end() {
    mesh::installed().await;
    let ns = Namespace::new("jobs", &[ENABLED]).await;
    ns.start([Workload::sample("web", &[])]).await;
    let url = ns.url("web", "/from-a-job");
    // the first thing that an application does may be a request: the sidecar is ready before it starts. In an init container, too.
    let ask = format!("curl -sSf --max-time 5 {url}");
    ns.apply(json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "asks"},
        "spec": {"backoffLimit": 0, "template": {"spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 20,
            "initContainers": [{"name": "first", "image": TOOLS, "command": ["sh", "-c", &ask], "securityContext": restricted(65532)}],
            "containers": [{"name": "app", "image": TOOLS, "command": ["sh", "-c", &ask], "securityContext": restricted(65532)}],
        }}},
    }))
    .await;
    ns.apply(json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "fails"},
        "spec": {"backoffLimit": 0, "template": {"spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 20,
            "containers": [{"name": "app", "image": TOOLS, "command": ["false"], "securityContext": restricted(65532)}],
        }}},
    }))
    .await;
    let jobs: Api<Job> = Api::namespaced(ns.client.clone(), &ns.name);
    for (name, wanted) in [("asks", "Complete"), ("fails", "Failed")] {
        let over = async || {
            let status = jobs.get(name).await.map_err(|e| e.to_string())?.status.unwrap_or_default();
            let is = status.conditions.iter().flatten().any(|c| c.type_ == wanted && c.status == "True");
            if is { Ok(()) } else { Err(format!("{status:?}")) }
        };
        eventually(&format!("Job {name} {wanted}"), SOON, over).await;
    }
    let pods = ns.pods().list(&kube::api::ListParams::default().labels("job-name=asks")).await.unwrap().items;
    let name = pods[0].metadata.name.clone().unwrap();
    for container in ["first", "app"] {
        assert_eq!(ns.logs(&name, container).await, "web GET /from-a-job 0\n");
    }
}

/// In a namespace of the restricted profile Kubernetes refuses the pod, and only for what the init container needs: the sidecar itself would pass.
#[tokio::test]
#[ignore = "needs a cluster with the chart"]
async fn only_the_init_container_breaks_the_restricted_profile() {
    mesh::installed().await;
    let ns = Namespace::new("profile", &[ENABLED, ("pod-security.kubernetes.io/enforce", "restricted")]).await;
    let mut object = once("app", TOOLS, &["true"], restricted(65532));
    object["metadata"]["namespace"] = json!(ns.name);
    let pod: Pod = serde_json::from_value(object).unwrap();
    let account = async || {
        let api: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::namespaced(ns.client.clone(), &ns.name);
        api.get("default").await
    };
    eventually("the namespace's service account", SOON, account).await;
    let refused =
        ns.pods().create(&PostParams { dry_run: true, ..Default::default() }, &pod).await.unwrap_err().to_string();
    assert!(refused.contains("violates PodSecurity") && refused.contains("\"weft-init\""), "{refused}");
    assert!(!refused.contains("weft-proxy") && !refused.contains("volume"), "{refused}");
}

/// A bad annotation is refused with what is wrong about it; what cannot be meshed runs as it came, and says why.
#[tokio::test]
#[ignore = "needs a cluster with the chart"]
async fn what_cannot_be_injected_says_why() {
    mesh::installed().await;
    let ns = Namespace::new("knobs", &[ENABLED]).await;
    let (phase, _) = ns.run(once("first", TOOLS, &["true"], restricted(65532))).await;
    assert_eq!(phase, "Succeeded");
    let dry = PostParams { dry_run: true, ..Default::default() };
    let with = |key: &str, value: &str| {
        let mut pod = once("app", TOOLS, &["true"], restricted(65532));
        pod["metadata"]["annotations"] = json!({key: value});
        pod
    };
    let create = async |pod: Value| ns.pods().create(&dry, &serde_json::from_value(pod).unwrap()).await;
    for (key, value, says) in [
        ("weft.dev/proxy-memory-limit", "lots", "expected a quantity"),
        ("weft.dev/exclude-inbound-ports", "80,x", "\"x\""),
        ("weft.dev/access-log", "yes", "expected off or stdout"),
    ] {
        let refused = create(with(key, value)).await.unwrap_err().to_string();
        assert!(refused.contains(key) && refused.contains(says), "{refused}");
    }
    let made = create(with("weft.dev/proxy-memory-limit", "64Mi")).await.unwrap();
    let limit = container(&made.spec.unwrap().init_containers, "weft-proxy").resources.clone().unwrap().limits.unwrap()
        ["memory"]
        .0
        .clone();
    assert_eq!(limit, "64Mi");

    let mut taken = once("taken", TOOLS, &["true"], restricted(65532));
    taken["spec"]["containers"][0]["ports"] = json!([{"containerPort": 8080, "hostPort": 18080}]);
    let made = create(taken).await.unwrap();
    let notes = made.metadata.annotations.clone().unwrap();
    assert!(!is_meshed(&made) && notes["weft.dev/not-injected"].contains("node's port"), "{notes:?}");
    // of these the injector is not even asked: they start whether it is there or not
    let mut host = once("host", TOOLS, &["true"], restricted(65532));
    host["spec"]["hostNetwork"] = json!(true);
    assert!(!is_meshed(&create(host).await.unwrap()));
}
