//! Carrying a plan out: test, restore, read back, compare; undo what was done when a later step fails.

use crate::{
    backend::Backend,
    plan::{self, Family, IN, OUT, Plan, PlanError},
};
use std::{io, net::Ipv6Addr, process::Output};

#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("capture plan: {0}")]
    Plan(#[from] PlanError),
    #[error(
        "CAP_NET_ADMIN is missing: add NET_ADMIN to the init container's capabilities, or use the mode without capture"
    )]
    NetAdmin,
    #[error(
        "CAP_NET_RAW is missing, which iptables-legacy needs: add NET_RAW to the init container's capabilities, or use a node with nftables"
    )]
    NetRaw,
    #[error(
        "the kernel lacks {module} for {family}: load it on the node (modprobe {module}); iptables-{backend} said: {said}"
    )]
    Module { module: &'static str, family: &'static str, backend: Backend, said: String },
    #[error("{program} is not installed: the init image must hold iptables (nft and legacy)")]
    NotInstalled { program: String },
    #[error("no variant of iptables can open the nat table; nft: {nft}; legacy: {legacy}")]
    NoBackend { nft: String, legacy: String },
    #[error(
        "the rules cannot be written: the network namespace's tables are read-only; iptables-{backend} said: {said}"
    )]
    ReadOnly { backend: Backend, said: String },
    #[error("iptables-{backend} refused the {family} rules: {said}")]
    Refused { backend: Backend, family: &'static str, said: String },
    #[error("after applying, the {family} rules differ from the plan: missing {missing:?}, unexpected {unexpected:?}")]
    Differs { family: &'static str, missing: Vec<String>, unexpected: Vec<String> },
}

const fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// Applies the plan for IPv4, and for IPv6 where the pod has it. Repeating it changes nothing. On error nothing of ours is left
/// behind that was not there before.
pub fn apply(plan: &Plan, backend: Option<Backend>) -> Result<Backend, ApplyError> {
    plan.validate()?;
    let backend = ready(backend)?;
    let had: Vec<String> = ours(&backend.list(Family::V4).map_err(|s| refused(backend, Family::V4, &s))?);
    one(plan, backend, Family::V4)?;
    if ipv6_in_use()
        && let Err(e) = one(plan, backend, Family::V6)
    {
        if had.is_empty() {
            // half a capture is worse than none: IPv6 connections would leave in plain text unnoticed
            let _ = take_away(backend, Family::V4);
        }
        return Err(e);
    }
    Ok(backend)
}

/// Compares the kernel's rules with the plan.
pub fn verify(plan: &Plan, backend: Backend) -> Result<(), ApplyError> {
    verify_family(plan, backend, Family::V4)?;
    if ipv6_in_use() { verify_family(plan, backend, Family::V6) } else { Ok(()) }
}

/// Takes everything of ours away, in both variants and families; what is not there is no error.
pub fn remove() -> Result<(), ApplyError> {
    need(caps::Capability::CAP_NET_ADMIN, ApplyError::NetAdmin)?;
    for backend in Backend::ALL {
        for family in [Family::V4, Family::V6] {
            if backend.list(family).is_ok() {
                take_away(backend, family)?;
            }
        }
    }
    Ok(())
}

fn need(cap: caps::Capability, otherwise: ApplyError) -> Result<(), ApplyError> {
    match caps::has_cap(None, caps::CapSet::Effective, cap) {
        Ok(true) => Ok(()),
        _ => Err(otherwise),
    }
}

fn ready(backend: Option<Backend>) -> Result<Backend, ApplyError> {
    need(caps::Capability::CAP_NET_ADMIN, ApplyError::NetAdmin)?;
    let backend = match backend {
        Some(b) => b,
        None => Backend::detect().map_err(|[nft, legacy]| {
            if let Some(module) = missing_module(&nft).or_else(|| missing_module(&legacy)) {
                let said = format!("{nft}; {legacy}");
                return ApplyError::Module { module, family: name(Family::V4), backend: Backend::Nft, said };
            }
            ApplyError::NoBackend { nft, legacy }
        })?,
    };
    if backend == Backend::Legacy {
        need(caps::Capability::CAP_NET_RAW, ApplyError::NetRaw)?;
    }
    Ok(backend)
}

fn one(plan: &Plan, backend: Backend, family: Family) -> Result<(), ApplyError> {
    let present = ours(&backend.list(family).map_err(|s| refused(backend, family, &s))?);
    let text = plan.transaction(family, &present)?;
    check(backend, family, backend.restore(family, &text, &["--test"]))?;
    check(backend, family, backend.restore(family, &text, &[]))?;
    verify_family(plan, backend, family)
}

fn take_away(backend: Backend, family: Family) -> Result<(), ApplyError> {
    let list = backend.list(family).map_err(|s| refused(backend, family, &s))?;
    let chains: Vec<&str> = [IN, OUT].into_iter().filter(|c| list.iter().any(|l| *l == format!("-N {c}"))).collect();
    let present = ours(&list);
    if chains.is_empty() && present.is_empty() {
        return Ok(());
    }
    check(backend, family, backend.restore(family, &plan::removal(&present, &chains), &[]))
}

/// The jumps of ours in a listing, each as often as it stands there.
fn ours(list: &[String]) -> Vec<String> {
    list.iter()
        .filter(|l| {
            let words: Vec<&str> = l.split(' ').collect();
            let built_in = matches!(words.get(1), Some(&"PREROUTING" | &"OUTPUT"));
            built_in && words.windows(2).any(|w| w[0] == "-j" && (w[1] == IN || w[1] == OUT))
        })
        .cloned()
        .collect()
}

fn verify_family(plan: &Plan, backend: Backend, family: Family) -> Result<(), ApplyError> {
    let list = backend.list(family).map_err(|s| refused(backend, family, &s))?;
    let chain = |l: &&String| [IN, OUT].iter().any(|c| l.starts_with(&format!("-A {c} ")));
    let canonical = |s: &String| s.replace("/32 ", " ").replace("/128 ", " ");
    let mut have: Vec<String> = list.iter().filter(chain).map(canonical).collect();
    have.extend(ours(&list));
    let mut want: Vec<String> = plan.rules(family)?.iter().map(canonical).collect();
    want.extend(plan::jumps());
    // order counts inside a chain; chains and jumps are listed in an order of the tool's own
    let by_chain = |rules: &[String]| {
        let mut v = rules.to_vec();
        v.sort_by_key(|r| r.split(' ').nth(1).map(str::to_owned));
        v
    };
    if by_chain(&have) == by_chain(&want) {
        return Ok(());
    }
    let missing = want.iter().filter(|r| !have.contains(r)).cloned().collect();
    let unexpected = have.iter().filter(|r| !want.contains(r)).cloned().collect();
    Err(ApplyError::Differs { family: name(family), missing, unexpected })
}

fn check(backend: Backend, family: Family, result: io::Result<Output>) -> Result<(), ApplyError> {
    match result {
        Ok(o) if o.status.success() => Ok(()),
        Ok(o) => Err(refused(backend, family, String::from_utf8_lossy(&o.stderr).trim())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let tool = if family == Family::V4 { "iptables" } else { "ip6tables" };
            Err(ApplyError::NotInstalled { program: format!("{tool}-{backend}-restore") })
        }
        Err(e) => Err(refused(backend, family, &e.to_string())),
    }
}

/// What a message of the tool means.
fn refused(backend: Backend, family: Family, said: &str) -> ApplyError {
    let said = said.to_owned();
    if let Some(module) = missing_module(&said) {
        return ApplyError::Module { module, family: name(family), backend, said };
    }
    if said.contains("Permission denied") || said.contains("Operation not permitted") {
        return if backend == Backend::Legacy { ApplyError::NetRaw } else { ApplyError::NetAdmin };
    }
    if said.contains("Read-only file system") {
        return ApplyError::ReadOnly { backend, said };
    }
    if said.contains("No such file or directory") && said.contains("tables-") {
        return ApplyError::NotInstalled { program: said.split(':').next().unwrap_or_default().into() };
    }
    ApplyError::Refused { backend, family: name(family), said }
}

fn missing_module(said: &str) -> Option<&'static str> {
    let has = |s: &str| said.contains(s);
    if has("table does not exist") || has("Table does not exist") {
        Some(if has("ip6tables") { "ip6table_nat" } else { "iptable_nat" })
    } else if has("owner") && (has("No chain/target/match") || has("not supported") || has("not found")) {
        Some("xt_owner")
    } else if has("REDIRECT") && (has("No chain/target/match") || has("not supported") || has("not found")) {
        Some("xt_REDIRECT")
    } else if has("Protocol not supported") || has("Failed to initialize nft") {
        Some("nf_tables")
    } else {
        None
    }
}

/// Whether the pod has an IPv6 address beyond loopback: what is not there need not be captured. A link-local address counts: it can be dialled.
fn ipv6_in_use() -> bool {
    let Ok(text) = std::fs::read_to_string("/proc/net/if_inet6") else { return false };
    text.lines().any(|l| {
        let hex = l.split(' ').next().unwrap_or_default();
        u128::from_str_radix(hex, 16).is_ok_and(|a| !Ipv6Addr::from(a).is_loopback())
    })
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
