//! What the mesh's programs take of a machine, in a cluster that grows by 500 Services with ten endpoints each.

#![allow(clippy::unwrap_used)]

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use serde_json::json;
use std::{fs, process::Command};
use weft_test_cluster::{
    Namespace, SOON, eventually,
    load::Load,
    mesh::{SYSTEM, installed},
    text,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_weft-test-load");
const SERVICES: usize = 500;

/// Resident memory in KiB of a program in a pod. The test sees the cluster's processes: only its network is the node's.
fn resident(pod: &Pod, program: &str) -> u64 {
    let uid = pod.metadata.uid.as_ref().unwrap();
    let processes = fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().into_string().ok());
    let of = |pid: &String| {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
        (read("cgroup")?.contains(uid.as_str()) && read("comm")?.trim() == program).then_some(())?;
        read("status")?.lines().find_map(|l| l.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok())
    };
    processes
        .filter(|p| p.bytes().all(|b| b.is_ascii_digit()))
        .find_map(|p| of(&p))
        .unwrap_or_else(|| panic!("no {program} in {uid}"))
}

async fn system(client: &kube::Client, name: &str) -> Pod {
    let of = ListParams::default().labels(&format!("app.kubernetes.io/name={name}"));
    let pods = Api::<Pod>::namespaced(client.clone(), SYSTEM).list(&of).await.unwrap().items;
    pods.into_iter().find(|p| p.metadata.deletion_timestamp.is_none()).unwrap()
}

fn objects(controller: &Pod) -> usize {
    let ip = controller.status.as_ref().unwrap().pod_ip.as_ref().unwrap();
    let out =
        Command::new("curl").args(["-sS", "--max-time", "5", &format!("http://{ip}:15014/metrics")]).output().unwrap();
    text(&out).lines().find_map(|l| l.strip_prefix("weft_controller_objects ")?.parse().ok()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster with Weft"]
async fn a_sidecars_memory_does_not_depend_on_the_cluster() {
    installed().await;
    let load = Load::start("memory", PROGRAM, &[]).await;
    let controller = system(&load.ns.client, "weft-controller").await;
    let mut pods = Vec::new();
    for app in ["web", "client-0", "client-1", "client-2"] {
        pods.extend(load.ns.pods_of(app).await);
    }
    let sidecars = || pods.iter().map(|p| resident(p, "weft-proxy")).collect::<Vec<_>>();
    // what the first requests take is there
    load.settle("before").await;
    let (before, controller_before, had) = (sidecars(), resident(&controller, "weft-controller"), objects(&controller));

    let big = Namespace::new("big", &[]).await;
    let make: Vec<_> = (0..SERVICES)
        .flat_map(|n| {
            let name = format!("service-{n}");
            let endpoints: Vec<_> = (1..=10).map(|i| json!({"addresses": [format!("10.{}.{}.{i}", 100 + n / 250, n % 250)], "conditions": {"ready": true}})).collect();
            [
                json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}),
                json!({
                    "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                    "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}}, "endpoints": endpoints,
                    "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
                }),
            ]
        })
        .collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": make});
    let file = std::env::temp_dir().join(format!("{}.json", big.name));
    fs::write(&file, list.to_string()).unwrap();
    let out = Command::new("kubectl").args(["-n", &big.name, "create", "-f", file.to_str().unwrap()]).output().unwrap();
    fs::remove_file(&file).unwrap();
    assert!(out.status.success(), "{}", text(&out));
    let known = async || match objects(&controller) {
        n if n >= had + 2 * SERVICES => Ok(()),
        n => Err(format!("{n} objects, {had} before")),
    };
    eventually("the controller knows them", SOON, known).await;
    load.settle("after").await;

    let (after, controller_after) = (sidecars(), resident(&controller, "weft-controller"));
    let mb = |kib: u64| kib as f64 * 1024.0 / 1e6;
    println!(
        "controller: {:.1} MB, with {SERVICES} Services of 10 endpoints more {:.1} MB",
        mb(controller_before),
        mb(controller_after)
    );
    for name in ["weft-ca", "weft-injector"] {
        println!("{name}: {:.1} MB", mb(resident(&system(&load.ns.client, name).await, name)));
    }
    for ((pod, before), after) in pods.iter().zip(&before).zip(&after) {
        println!(
            "sidecar of {}: {:.2} MB, then {:.2} MB",
            pod.metadata.name.as_deref().unwrap(),
            mb(*before),
            mb(*after)
        );
        // a page here and there, and not a byte for each of 5,000 endpoints
        assert!(*after < before + 512, "{before} KiB, then {after} KiB");
    }
    assert!(mb(controller_after) <= 150.0);
    load.finish().await;
}
