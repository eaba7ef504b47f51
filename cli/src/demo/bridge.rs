//! Capture without a cluster: a bridge with a network namespace for each workload, and the pod's real iptables rules in each.

use super::{
    cluster::{Cluster, Workload},
    stage::{CA_PORT, CONTROLLER_PORT, PROXY_UID},
};
use anyhow::bail;
use caps::{CapSet, Capability};
use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
};

/// Address of the node on the bridge: CA and controller listen there.
pub const NODE: Ipv4Addr = Ipv4Addr::new(10, 244, 255, 254);

/// What `--capture` needs, and what for.
const CAPABILITIES: &[(Capability, &str)] = &[
    (Capability::CAP_NET_ADMIN, "links, addresses and iptables"),
    (Capability::CAP_NET_RAW, "iptables"),
    (Capability::CAP_SYS_ADMIN, "network namespaces"),
    (Capability::CAP_SETUID, "the sidecars' own user, whose traffic the rules leave alone"),
    (Capability::CAP_SETGID, "the same"),
    (Capability::CAP_CHOWN, "the sidecars' state"),
    (Capability::CAP_DAC_OVERRIDE, "/run/netns"),
];
const PROGRAMS: &[(&str, &str)] =
    &[("ip", "iproute2"), ("iptables-restore", "iptables"), ("setpriv", "util-linux"), ("nsenter", "util-linux")];

/// What of it is missing; `has` and `finds` are the questions to the machine.
fn missing(has: impl Fn(Capability) -> bool, finds: impl Fn(&str) -> bool) -> Result<(), String> {
    let lacks: Vec<String> =
        CAPABILITIES.iter().filter(|(c, _)| !has(*c)).map(|(c, why)| format!("{c} ({why})")).collect();
    let without = "without --capture the demo needs neither root nor iptables";
    if !lacks.is_empty() {
        return Err(format!("--capture lacks {}: run it as root with these capabilities; {without}", lacks.join(", ")));
    }
    let absent: Vec<String> =
        PROGRAMS.iter().filter(|(p, _)| !finds(p)).map(|(p, package)| format!("{p} (package {package})")).collect();
    match absent.is_empty() {
        true => Ok(()),
        false => Err(format!("--capture does not find {}: install it; {without}", absent.join(", "))),
    }
}

fn finds(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from)).any(|d| d.join(program).exists())
}

pub struct Bridge {
    name: String,
    namespaces: Vec<String>,
}

impl Bridge {
    pub fn new(cluster: &Cluster, bin: &Path) -> anyhow::Result<Bridge> {
        missing(|c| caps::has_cap(None, CapSet::Effective, c).unwrap_or(false), finds).map_err(anyhow::Error::msg)?;
        let init = bin.join("weft-init");
        if !init.exists() {
            bail!("cannot find {} (is it built? `make demo` builds it)", init.display());
        }
        remove_left_over();
        let name = format!("{PREFIX}{:x}", std::process::id());
        let mut bridge = Bridge { name: name.clone(), namespaces: Vec::new() };
        shell(&format!("ip link add {name} type bridge && ip addr add {NODE}/16 dev {name} && ip link set {name} up"))?;
        for w in &cluster.workloads {
            let ns = format!("{name}-{}", w.block);
            bridge.namespaces.push(ns.clone());
            shell(&format!(
                "ip netns add {ns} && ip link add {name}p{b} type veth peer name eth0 netns {ns} && ip link set {name}p{b} master {name} up \
                 && ip -n {ns} addr add {}/16 dev eth0 && ip -n {ns} link set lo up && ip -n {ns} link set eth0 up && ip -n {ns} route add default via {NODE}",
                w.ip,
                b = w.block
            ))?;
            if w.meshed {
                shell(&format!(
                    "{} apply --netns /run/netns/{ns} --proxy-uid {PROXY_UID} --exclude-inbound-ports 15020 --exclude-outbound-ports {CA_PORT},{CONTROLLER_PORT}",
                    init.display()
                ))?;
            }
            if super::interrupted() {
                bail!("interrupted");
            }
        }
        Ok(bridge)
    }
    pub fn path(&self, w: &Workload) -> PathBuf {
        PathBuf::from(format!("/run/netns/{}-{}", self.name, w.block))
    }
    pub fn enter(&self, w: &Workload) -> Vec<String> {
        vec!["nsenter".into(), format!("--net={}", self.path(w).display()), "--".into()]
    }
}

/// Names of our bridges and namespaces begin so; the process's number follows.
const PREFIX: &str = "wd";

/// The process that a bridge or a namespace belongs to, by its name.
fn owner(name: &str) -> Option<u32> {
    let number = name.strip_prefix(PREFIX)?.split('-').next()?;
    u32::from_str_radix(number, 16).ok()
}

/// A demo that was killed could take nothing away, and its bridge has the address that ours needs.
fn remove_left_over() {
    let dead = |name: &str| owner(name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
    let names = |folder: &str| -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|e| e.file_name().into_string().ok()).filter(|n| dead(n)).collect()
    };
    for ns in names("/run/netns") {
        let _ = shell(&format!("ip netns del {ns}"));
    }
    for link in names("/sys/class/net") {
        let _ = shell(&format!("ip link del {link}"));
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        for ns in &self.namespaces {
            let _ = shell(&format!("ip netns del {ns}"));
        }
        let _ = shell(&format!("ip link del {}", self.name));
    }
}

fn shell(line: &str) -> anyhow::Result<()> {
    let out = Command::new("sh").args(["-c", line]).output()?;
    if !out.status.success() {
        bail!("{line}: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_capture_lacks_is_named_with_the_way_around() {
        assert_eq!(missing(|_| true, |_| true), Ok(()));
        let e = missing(|c| c != Capability::CAP_SYS_ADMIN, |_| true).unwrap_err();
        assert!(e.starts_with("--capture lacks CAP_SYS_ADMIN (network namespaces): "), "{e}");
        assert!(e.contains("without --capture the demo needs neither"), "{e}");
        assert!(!e.contains("NET_ADMIN"), "only what is missing: {e}");
        let e = missing(|_| true, |p| p != "iptables-restore").unwrap_err();
        assert!(e.contains("iptables-restore (package iptables)") && e.contains("without --capture"), "{e}");
    }

    #[test]
    fn names_tell_whose_they_are() {
        assert_eq!(owner("wd1f-3"), Some(0x1f));
        assert_eq!(owner("wd1f"), Some(0x1f));
        assert_eq!((owner("wd1fp3"), owner("wlan0"), owner("eth0"), owner("wdx")), (None, None, None, None));
    }
}
