//! Pods as network namespaces: a bridge for the node, a namespace with a veth pair for each pod, both address families. The tests in
//! `tests/` run the real init rules and the real proxies in them. They need root, so they are marked `ignored` and `make test` asks for them where it can.
//!
//! Everything that a lab makes carries its name and goes away when it is dropped.

#![allow(clippy::unwrap_used, clippy::panic)] // a lab that cannot be set up fails its test

pub mod mesh;

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A node: a bridge that its pods hang on.
pub struct Lab {
    name: String,
    pods: u8,
}

impl Lab {
    pub fn new() -> Self {
        // interface names hold 15 characters
        let name = format!("wt{:x}{:x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        sh(&format!("ip link add {name} type bridge && ip link set {name} up"));
        Lab { name, pods: 0 }
    }

    /// Adds a pod with an IPv4 and an IPv6 address.
    pub fn pod(&mut self) -> Pod {
        self.pods += 1;
        let n = self.pods;
        let (bridge, ns) = (&self.name, format!("{}-{n}", self.name));
        let (v4, v6) = (Ipv4Addr::new(10, 88, 0, n), Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, n.into()));
        sh(&format!(
            "ip netns add {ns} && ip link add {bridge}p{n} type veth peer name eth0 netns {ns} \
             && ip link set {bridge}p{n} master {bridge} up \
             && nsenter --net=/run/netns/{ns} sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.eth0.accept_dad=0 \
             && ip -n {ns} addr add {v4}/24 dev eth0 && ip -n {ns} addr add {v6}/64 dev eth0 nodad \
             && ip -n {ns} link set lo up && ip -n {ns} link set eth0 up \
             && ip -n {ns} route add default via 10.88.0.254 && ip -n {ns} -6 route add default via fd88::fe"
        ));
        Pod { ns, v4, v6 }
    }
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.name]).output();
    }
}

pub struct Pod {
    pub ns: String,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl Pod {
    /// A command that runs inside the pod.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut c = Command::new("nsenter");
        c.arg(format!("--net=/run/netns/{}", self.ns)).arg("--").arg(program);
        c
    }
    /// Runs a shell line inside the pod and returns what it printed; panics when it fails.
    pub fn sh(&self, line: &str) -> String {
        let out = self.command("sh").args(["-c", line]).output().unwrap();
        assert!(out.status.success(), "{}: {line}\n{}", self.ns, text(&out));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }
    /// Runs `weft-init` inside the pod.
    pub fn init(&self, args: &[&str]) -> Output {
        self.command(binary("weft-init")).args(args).output().unwrap()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.ns]).output();
    }
}

/// Standard output and error of a command, for messages.
pub fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

fn sh(line: &str) {
    let out = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(out.status.success(), "{line}\n{}", text(&out));
}

/// A program of the workspace, built by the `cargo build --workspace` that `make test` runs before these tests.
pub fn binary(name: &str) -> PathBuf {
    let mut dir = std::env::current_exe().unwrap();
    dir.pop();
    if dir.ends_with("deps") {
        dir.pop();
    }
    let path = dir.join(name);
    assert!(path.exists(), "{} is not built: run `cargo build --workspace` first", path.display());
    path
}
