//! `weft check`, `explain` and `dump` as a person calls them: on a mesh that is well, on one with something broken, with wrong names, without permission, without a cluster.

#![allow(clippy::unwrap_used)]

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use std::{
    env::temp_dir,
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};
use weft_test_cluster::{
    Namespace, SOON, client, eventually,
    mesh::{ENABLED, SYSTEM, Workload, installed, route, weft},
    text,
};

/// Exit status and all that was said.
fn said(command: &mut Command) -> (Option<i32>, String) {
    let out = command.output().unwrap();
    (out.status.code(), text(&out))
}
fn run(words: &[&str]) -> (Option<i32>, String) {
    said(&mut weft(words))
}
fn is(words: &[&str], status: i32, parts: &[&str]) {
    expect(&mut weft(words), status, parts);
}
fn expect(command: &mut Command, status: i32, parts: &[&str]) {
    let (code, text) = said(command);
    assert_eq!(code, Some(status), "{command:?}: {text}");
    for part in parts {
        assert!(text.contains(part), "{command:?}: no {part:?} in\n{text}");
    }
}
/// `what` on a line of its level, and `next:` on the one below.
fn line(text: &str, level: &str, what: &str, next: &str) -> Result<(), String> {
    let mut lines = text.lines();
    let found = lines.find(|l| l.starts_with(level) && l.contains(what));
    let below = lines.next().unwrap_or_default();
    match found.is_some() && (next.is_empty() || (below.trim_start().starts_with("next:") && below.contains(next))) {
        true => Ok(()),
        false => Err(format!("no {level} {what:?} with {next:?} in\n{text}")),
    }
}

/// This process's kubeconfig with changes, removed when dropped.
struct Config(PathBuf);

impl Config {
    fn with(name: &str, change: impl FnOnce(&mut Value)) -> Self {
        let out = Command::new("kubectl").args(["config", "view", "--raw", "-o", "json"]).output().unwrap();
        let mut config: Value = serde_json::from_slice(&out.stdout).unwrap();
        change(&mut config);
        let path = temp_dir().join(format!("weft-test-{}-{name}", std::process::id()));
        fs::write(&path, config.to_string()).unwrap();
        Config(path)
    }
    fn weft(&self, words: &[&str]) -> Command {
        let mut c = weft(words);
        c.env("KUBECONFIG", &self.0);
        c
    }
}

impl Drop for Config {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[tokio::test]
#[ignore = "needs a cluster with the chart"]
async fn check_of_a_mesh_that_is_well_and_of_workloads_that_are_not() {
    installed().await;
    let ns = Namespace::new("check", &[ENABLED]).await;
    ns.start([Workload::sample("web", &[])]).await;
    let rules = json!([{"backendRefs": [{"name": "web", "port": 80}]}]);
    ns.in_force(route("HTTPRoute", "web", json!({"name": "web"}), rules.clone())).await;
    let (code, well) = run(&["check"]);
    for part in [
        "Kubernetes v1.",
        "clock of the API server: ",
        "Gateway API v1.7.0, experimental channel",
        "weft-ca: ",
        "weft-controller: ",
        "weft-injector: ",
        "root of the trust bundle: ",
        "issuer of weft-ca-",
        "the webhook's caBundle: ",
        "gets a sidecar (dry run)",
        "routes and policies in force",
    ] {
        line(&well, "ok ", part, "").unwrap();
    }
    assert!(code == Some(0) && !well.contains("FAIL"), "{well}");
    let (code, machine) = run(&["check", "--json"]);
    let lines: Vec<Value> = serde_json::from_str(&machine).unwrap();
    let all = lines.iter().all(|l| l["level"] == "ok" || l["next"].as_str().is_some_and(|n| !n.is_empty()));
    assert!(code == Some(0) && lines.len() >= 10 && all, "{machine}");

    // a pod older than the label; a route to nowhere
    let late = Namespace::new("late", &[]).await;
    late.caller("old").await;
    let label = ["label", "namespace", &late.name, &format!("{}={}", ENABLED.0, ENABLED.1)].map(str::to_owned).to_vec();
    assert!(Command::new("kubectl").args(label).output().unwrap().status.success());
    late.apply(route("HTTPRoute", "lost", json!({"name": "web"}), rules)).await;
    let old = format!("{}/old", late.name);
    let lost = format!("HTTPRoute {}/lost: Accepted=False NoMatchingParent: spec.parentRefs[0].name", late.name);
    let both = async || {
        let (code, text) = run(&["check"]);
        assert_eq!(code, Some(0), "warnings are no errors: {text}");
        line(&text, "WARN", "labelled, but without a sidecar: ", "kubectl rollout restart")?;
        line(&text, "WARN", &old, "kubectl rollout restart")?;
        line(&text, "WARN", &lost, "change what the message names")
    };
    eventually("warnings of check", SOON, both).await;
    is(&["check", "--strict"], 1, &["weft: 0 errors and ", " warnings"]);
}

/// The injector at no replicas, until this is dropped.
struct NoInjector;
impl NoInjector {
    fn scale(n: u32) {
        let replicas = format!("--replicas={n}");
        let _ = Command::new("kubectl").args(["-n", SYSTEM, "scale", "deploy/weft-injector", &replicas]).output();
    }
}
impl Drop for NoInjector {
    fn drop(&mut self) {
        NoInjector::scale(1);
    }
}

async fn break_bundle(api: &Api<MutatingWebhookConfiguration>) -> Vec<u8> {
    let bundle = api.get("weft-injector").await.unwrap().webhooks.unwrap().remove(0).client_config.ca_bundle.unwrap();
    // base64 of "no certificate"
    let patch =
        json!([{"op": "replace", "path": "/webhooks/0/clientConfig/caBundle", "value": "bm8gY2VydGlmaWNhdGU="}]);
    let patch = Patch::<()>::Json(serde_json::from_value(patch).unwrap());
    api.patch("weft-injector", &PatchParams::default(), &patch).await.unwrap();
    bundle.0
}

/// Row 62: a caBundle that is not true refuses every pod of a labelled namespace. The injector repairs it; without one, `check` says so.
#[tokio::test]
#[ignore = "needs a cluster with the chart"]
async fn row_62_a_broken_ca_bundle_is_said_and_repaired() {
    installed().await;
    let ns = Namespace::new("webhook", &[ENABLED]).await;
    let api: Api<MutatingWebhookConfiguration> = Api::all(client().await);
    let repaired = async |before: &[u8]| {
        let now = api.get("weft-injector").await.map_err(|e| e.to_string())?;
        let bundles = now.webhooks.into_iter().flatten().map(|w| w.client_config.ca_bundle.unwrap_or_default().0);
        let wrong: Vec<String> =
            bundles.filter(|b| b != before).map(|b| String::from_utf8_lossy(&b).into_owned()).collect();
        if wrong.is_empty() { Ok(()) } else { Err(format!("{wrong:?}")) }
    };
    let before = break_bundle(&api).await;
    let broken = Instant::now();
    eventually("the caBundle repaired", Duration::from_secs(10), async || repaired(&before).await).await;
    println!("repaired after {:.1} s", broken.elapsed().as_secs_f64());

    let none = NoInjector;
    NoInjector::scale(0);
    let gone = async || {
        let (_, text) = run(&["check"]);
        line(&text, "FAIL", "weft-injector: 0 of 0 ready", "kubectl -n weft-system")
    };
    eventually("check without an injector", SOON, gone).await;
    let before = break_bundle(&api).await;
    let (code, text) = run(&["check"]);
    line(&text, "FAIL", "the webhook's caBundle is not usable", "weft-injector puts it right").unwrap();
    line(&text, "FAIL", "a pod cannot be made in ", "can the API server reach weft-injector?").unwrap();
    assert_eq!(code, Some(1), "{text}");
    drop(none);
    installed().await;
    eventually("the caBundle repaired by a new injector", Duration::from_secs(10), async || repaired(&before).await)
        .await;
    let well = async || match run(&["check"]) {
        (Some(0), _) => Ok(()),
        other => Err(other),
    };
    eventually("check is content again", SOON, well).await;
    drop(ns);
}

#[tokio::test]
#[ignore = "needs a cluster with the chart"]
async fn check_without_permission_mesh_or_cluster() {
    installed().await;
    is(
        &["check", "--system-namespace", "nowhere"],
        0,
        &["ok   you may install", "WARN weft is not installed in namespace nowhere", "next: helm install weft"],
    );
    // somebody who may look at what is in namespaces
    let ns = Namespace::new("limited", &[]).await;
    let account = format!("system:serviceaccount:{}:default", ns.name);
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "view"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": ns.name}],
    });
    ns.apply(role).await;
    let limited = Config::with("limited", |c| c["users"][0]["user"]["as"] = json!(account));
    expect(
        &mut limited.weft(&["check", "--system-namespace", &ns.name]),
        1,
        &[
            "FAIL you may not create namespaces, secrets",
            "next: install as a cluster administrator",
            "WARN Gateway API: not checked: not allowed",
        ],
    );
    // nothing was looked at: no success for a script that asks strictly
    expect(
        &mut limited.weft(&["check", "--strict"]),
        1,
        &["WARN control plane in weft-system: not checked", "next: run this as somebody who may read it"],
    );
    expect(&mut limited.weft(&["dump", "web", "-n", SYSTEM]), 1, &["not allowed", "Next: "]);
    expect(&mut limited.weft(&["explain", "a", "b:80"]), 1, &["not allowed", "Next: "]);

    let away = Config::with("away", |c| c["clusters"][0]["cluster"]["server"] = json!("https://127.0.0.1:1"));
    for words in [&["check"][..], &["dump", "web"], &["explain", "a", "b:80"]] {
        expect(&mut away.weft(words), 1, &["cannot be reached", "Next: is the cluster up"]);
        let mut none = weft(words);
        none.env("KUBECONFIG", "/nonexistent").env("HOME", "/nonexistent");
        expect(&mut none, 1, &["no cluster", "Next: set KUBECONFIG"]);
        is(&[words, &["--context", "none"]].concat(), 1, &["no cluster", "none", "Next: "]);
    }
}

#[tokio::test]
#[ignore = "needs a cluster with the chart"]
async fn explain_and_dump_answer_or_say_what_to_do() {
    installed().await;
    let ns = Namespace::new("asked", &[ENABLED]).await;
    let plain = json!({"labels": {"weft.dev/inject": "disabled"}});
    let (client, _plain, ()) = tokio::join!(
        ns.caller("client"),
        ns.caller_with("plain", plain, json!({})),
        ns.start([Workload::sample("web", &[]), Workload::sample("beta", &[])]),
    );
    let rules = json!([
        {"matches": [{"headers": [{"name": "x-beta", "value": "1"}]}], "backendRefs": [{"name": "beta", "port": 80}]},
        {"timeouts": {"request": "3s"}, "retry": {"codes": [503], "attempts": 2}, "backendRefs": [{"name": "web", "port": 80}]},
    ]);
    ns.in_force(route("HTTPRoute", "web", json!({"name": "web"}), rules)).await;
    let n = &ns.name;
    let (from, to) = (format!("{n}/client"), format!("web.{n}:80"));
    is(
        &["explain", &from, &to],
        0,
        &[
            &format!("HTTPRoute {n}/web rule 1"),
            &format!("{n}/web:80 (1 ready, 0 not)"),
            "request 3s",
            &format!("spiffe://cluster.local/ns/{n}/sa/web"),
        ],
    );
    is(
        &["explain", &from, &to, "--header", "x-beta: 1"],
        0,
        &[&format!("HTTPRoute {n}/web rule 0"), &format!("{n}/beta:80 (1 ready, 0 not)")],
    );
    is(&["explain", &format!("{n}/plain"), &to], 0, &["captured   no", "is not in the mesh"]);
    let (code, machine) = run(&["explain", &from, &to, "--json"]);
    assert!(code == Some(0) && serde_json::from_str::<Value>(&machine).is_ok(), "{machine}");
    for (words, part) in [
        (["explain", &format!("{n}x"), &to], format!("did you mean {n}?")),
        (["explain", &format!("{n}/clint"), &to], format!("did you mean {n}/client?")),
        (["explain", &from, &format!("wbe.{n}:80")], "did you mean web?".into()),
        (["explain", &from, &format!("web.{n}:81")], "its ports are 80".into()),
    ] {
        is(&words, 1, &[&part]);
    }

    // once asked, its sidecar knows the Service
    assert_eq!(client.get(&ns.url("web", "/"), "").status, 200);
    let parts = [
        format!("of pod {n}/client "),
        format!("identity spiffe://cluster.local/ns/{n}/sa/client, certificate expires in "),
        "controller connected".into(),
        format!("endpoints of {n}/web:80 (0 not ready)"),
    ];
    is(&["dump", "client", "-n", n], 0, &parts.each_ref().map(String::as_str));
    let pod = ns.pods_of("web").await.remove(0).metadata.name.unwrap();
    is(&["dump", "web-", "-n", n], 0, &[&format!("of pod {n}/{pod} ")]);
    let (code, machine) = run(&["dump", "client", "-n", n, "--json"]);
    let dump: Value = serde_json::from_str(&machine).unwrap();
    assert!(code == Some(0) && dump["pod"]["name"] == "client", "{machine}");
    is(&["dump", "nobody", "-n", n], 1, &["has no pod nobody", "Next: kubectl get pods -n"]);
    is(&["dump", "client"], 1, &["namespace default has no pod client", "-n NAMESPACE if it is in another"]);
    is(&["dump", "plain", "-n", n], 1, &["has no sidecar", "Next: kubectl label namespace"]);
}
