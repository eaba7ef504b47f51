//! The API server is away, in three ways: it stands still, the mesh cannot reach it, every watch is cut. Traffic goes on, and an edit made meanwhile or after applies.

#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use std::{fs, process::Command, time::Duration};
use weft_test_cluster::{
    Namespace, SOON, eventually,
    load::Load,
    mesh::{Caller, installed, route},
    text,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_weft-test-load");
const OUTAGE: Duration = Duration::from_secs(10);

/// The API server of the cluster in whose network this process runs.
fn api_server() -> String {
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|d| d.path());
    let here = processes.filter(|p| fs::read_link(p.join("ns/net")).is_ok_and(|n| n == own));
    let found: Vec<_> =
        here.filter(|p| fs::read(p.join("cmdline")).is_ok_and(|c| c.starts_with(b"kube-apiserver\0"))).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].file_name().unwrap().to_str().unwrap().to_owned()
}

/// Done at the start, undone when dropped: nothing of the outage may outlive the test.
struct Outage(Vec<String>);

impl Outage {
    fn new(program: &str, start: &[&str], end: &[&str]) -> Self {
        let whole = |words: &[&str]| [program].iter().chain(words).map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let (start, this) = (whole(start), Outage(whole(end)));
        let out = Command::new(&start[0]).args(&start[1..]).output().unwrap();
        assert!(out.status.success(), "{start:?}: {}", text(&out));
        this
    }
    fn stopped() -> Self {
        let pid = api_server();
        Outage::new("kill", &["-STOP", &pid], &["-CONT", &pid])
    }
    /// By a rule about its port, for pods only: this test still reaches it, the control plane does not. The Service's address has become the node's by then.
    fn rule(rule: &[&str]) -> Self {
        Outage::new("iptables", &[&["-w", "-I"], rule].concat(), &[&["-w", "-D"], rule].concat())
    }
    /// Nothing that it says arrives, not even a refusal.
    fn silent() -> Self {
        Outage::rule(&["OUTPUT", "-o", "cni0", "-p", "tcp", "--sport", "6443", "-j", "DROP"])
    }
    /// Whoever speaks to it is cut off.
    fn cut() -> Self {
        let reset = ["-j", "REJECT", "--reject-with", "tcp-reset"];
        Outage::rule(&[&["INPUT", "-i", "cni0", "-p", "tcp", "--dport", "6443"], &reset[..]].concat())
    }
}

impl Drop for Outage {
    fn drop(&mut self) {
        let out = Command::new(&self.0[0]).args(&self.0[1..]).output();
        if !out.as_ref().is_ok_and(|o| o.status.success()) {
            eprintln!("{:?}: {out:?}", self.0);
        }
    }
}

/// The route of the Service under load, which marks every answer.
fn marked(mark: &str) -> Value {
    let filter = json!([{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "x-mark", "value": mark}]}}]);
    let rules = json!([{"filters": filter, "backendRefs": [{"name": "web", "port": 80}]}]);
    route("HTTPRoute", "web", json!({"name": "web"}), rules)
}

async fn shows(client: &Caller, ns: &Namespace, mark: &str) {
    let asked = async || {
        let answer = client.get(&ns.url("web", "/"), "-D -");
        if answer.text.contains(&format!("x-mark: {mark}")) { Ok(()) } else { Err(answer) }
    };
    eventually(&format!("answers marked {mark}"), SOON, asked).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster with Weft"]
async fn an_api_server_that_is_away_stops_no_traffic() {
    installed().await;
    let mut load = Load::start("api", PROGRAM, &[]).await;
    let asks = load.ns.caller("asks").await;
    load.ns.in_force(marked("before")).await;
    shows(&asks, &load.ns, "before").await;

    load.phase("the API server stands still");
    let outage = Outage::stopped();
    tokio::time::sleep(OUTAGE).await;
    drop(outage);
    load.phase("it goes on");
    load.ns.apply(marked("stood still")).await;
    shows(&asks, &load.ns, "stood still").await;

    load.phase("pods cannot reach it");
    let outage = Outage::silent();
    tokio::time::sleep(OUTAGE / 2).await;
    load.ns.apply(marked("unheard")).await;
    tokio::time::sleep(OUTAGE / 2).await;
    // the controller has not heard of it: this outage is one
    let answer = asks.get(&load.ns.url("web", "/"), "-D -");
    assert!(answer.text.contains("x-mark: stood still"), "{answer:?}");
    load.phase("they can");
    drop(outage);
    shows(&asks, &load.ns, "unheard").await;

    load.phase("every watch is cut");
    let outage = Outage::cut();
    load.ns.apply(marked("cut")).await;
    tokio::time::sleep(OUTAGE / 2).await;
    load.phase("watches begin again");
    drop(outage);
    shows(&asks, &load.ns, "cut").await;
    // status, too, which another replica's Lease may decide
    load.ns.in_force(marked("after")).await;
    shows(&asks, &load.ns, "after").await;
    installed().await;
    load.finish().await;
}
