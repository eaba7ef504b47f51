//! The cluster itself: it comes up, leaves the host alone while it runs, and leaves nothing when it ends. Runs in the host's network.

#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};
use weft_test_cluster::{left, script, text};

/// A cluster of this test's own, ended when dropped.
struct Own(String);

impl Own {
    fn verb(&self, words: &[&str]) -> Output {
        script(words).env("WEFT_CLUSTER", &self.0).output().unwrap()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.verb(&["down"]);
    }
}

#[test]
#[ignore = "needs root and namespaces"]
fn down_leaves_nothing() {
    let cluster = Own(format!("weft-life-{}", std::process::id()));
    let before = left::settings();
    assert_eq!(left::of(&cluster.0), [""; 0]);

    let out = cluster.verb(&["up"]);
    assert!(out.status.success(), "{}", text(&out));
    println!("{}", text(&out));
    let out = cluster.verb(&["enter", "kubectl", "get", "nodes", "--no-headers"]);
    assert!(text(&out).contains(" Ready "), "{}", text(&out));
    // pods, so that there are shims, mounts and interfaces to leave behind
    let out = cluster.verb(&[
        "enter",
        "kubectl",
        "run",
        "idle",
        "--image=weft.test/tools:1",
        "--command",
        "--",
        "sleep",
        "1000",
    ]);
    assert!(out.status.success(), "{}", text(&out));
    let out = cluster.verb(&["enter", "kubectl", "wait", "--for=condition=Ready", "pod/idle", "--timeout=60s"]);
    assert!(out.status.success(), "{}", text(&out));

    assert_eq!(left::settings(), before, "the machine's settings while the cluster runs");
    assert_eq!(left::in_host_network(), [""; 0]);
    assert!(
        left::of(&cluster.0).iter().any(|l| l.starts_with("process ")),
        "the search finds no process of a running cluster"
    );

    let out = cluster.verb(&["down"]);
    assert!(out.status.success(), "{}", text(&out));
    assert_eq!(left::of(&cluster.0), [""; 0]);
    assert_eq!(left::settings(), before);
    assert_eq!(left::in_host_network(), [""; 0]);
    let out = cluster.verb(&["down"]);
    assert!(out.status.success() && text(&out).contains("no cluster"), "{}", text(&out));
}

#[test]
#[ignore = "needs root and namespaces"]
fn a_killed_cluster_is_cleaned_up() {
    let cluster = Own(format!("weft-kill-{}", std::process::id()));
    let out = cluster.verb(&["up"]);
    assert!(out.status.success(), "{}", text(&out));
    // process 1 of the cluster: what a crash or an impatient person ends
    let node = std::fs::read_to_string(format!("/tmp/weft-cluster/{}/node.json", cluster.0)).unwrap();
    let pid: u32 = node.split(|c: char| !c.is_ascii_digit()).find(|s| !s.is_empty()).unwrap().parse().unwrap();
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    let out = cluster.verb(&["down"]);
    assert!(out.status.success(), "{}", text(&out));
    assert_eq!(left::of(&cluster.0), [""; 0]);
}
