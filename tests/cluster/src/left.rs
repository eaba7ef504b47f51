//! What a cluster may not leave on the host, and may not change there while it runs. Found by the cluster's name, so that a machine on which other
//! clusters run can be judged, too.

use std::{fs, path::Path, process::Command};

/// Settings of the whole machine that a kubelet or kube-proxy would like to change.
const SYSCTLS: [&str; 8] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "net/netfilter/nf_conntrack_max",
    "net/ipv4/ip_forward",
];

/// The machine's settings now.
pub fn settings() -> Vec<(&'static str, Option<String>)> {
    SYSCTLS.map(|s| (s, fs::read_to_string(Path::new("/proc/sys").join(s)).ok())).to_vec()
}

/// Everything of the cluster `name` that is on the host: files, mounts, cgroups, processes.
pub fn of(name: &str) -> Vec<String> {
    let state = format!("/tmp/weft-cluster/{name}");
    let mut found = Vec::new();
    for path in [state.clone(), format!("/run/netns/{name}"), format!("/etc/netns/{name}")] {
        if Path::new(&path).exists() {
            found.push(format!("file {path}"));
        }
    }
    for line in read("/proc/self/mountinfo").lines() {
        if line.contains(&state) || line.contains(&format!("/netns/{name} ")) {
            found.push(format!("mount {line}"));
        }
    }
    for root in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let dir = root.path().join(name);
        if dir.exists() {
            found.push(format!("cgroup {}", dir.display()));
        }
    }
    let own = Path::new("/sys/fs/cgroup").join(name);
    if own.exists() {
        found.push(format!("cgroup {}", own.display()));
    }
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let dir = process.path();
        // ended, and its parent (here process 1 of the machine) has not asked for its status yet
        if read(dir.join("stat")).rsplit(')').next().is_some_and(|s| s.starts_with(" Z")) {
            continue;
        }
        let cgroups = read(dir.join("cgroup"));
        let command = read(dir.join("cmdline")).replace('\0', " ");
        if cgroups.lines().any(|l| l.ends_with(&format!(":/{name}")) || l.contains(&format!(":/{name}/")))
            || command.contains(&format!("{state}/"))
        {
            found.push(format!("process {}: {command}", dir.display()));
        }
    }
    found
}

/// Interfaces and rules of Kubernetes in the host's own network, where they never belong.
pub fn in_host_network() -> Vec<String> {
    let mut found = Vec::new();
    for interface in ["weft0", "weft-lb", "cni0"] {
        if Path::new("/sys/class/net").join(interface).exists() {
            found.push(format!("interface {interface}"));
        }
    }
    for tool in ["iptables-nft-save", "iptables-legacy-save"] {
        let out =
            Command::new(tool).output().map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
        found.extend(
            out.lines().filter(|l| l.starts_with(":KUBE-") || l.starts_with(":CNI-")).map(|l| format!("{tool}: {l}")),
        );
    }
    found
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
}
