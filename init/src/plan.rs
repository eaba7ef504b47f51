//! The capture plan and its rule text.
//!
//! Outbound (chain `WEFT_OUT`, from `OUTPUT`): the proxy's own traffic and loopback leave untouched, so there is no loop; excluded ports and networks
//! leave untouched; every other TCP connection is redirected to the outbound port. Inbound (chain `WEFT_IN`, from `PREROUTING`): excluded ports
//! reach the application directly; everything else is redirected to the inbound port. UDP and other protocols are not captured (docs/capture.md).

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt::Write as _};

/// iptables' multiport match takes at most 15 ports.
const PORTS_PER_RULE: usize = 15;
/// Ports in one list: bounds the rule set; the injector refuses longer annotations with the same number.
pub const MAX_PORTS: usize = 150;
/// Networks in the list of excluded ones.
pub const MAX_NETWORKS: usize = 100;

/// Chain for connections that leave the pod.
pub const OUT: &str = "WEFT_OUT";
/// Chain for connections that enter the pod.
pub const IN: &str = "WEFT_IN";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// What to capture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// User id the proxy runs as: its connections are never captured.
    pub proxy_uid: u32,
    pub outbound_port: u16,
    pub inbound_port: u16,
    /// Inbound ports that reach the application (or the proxy's admin port) directly.
    #[serde(default)]
    pub exclude_inbound_ports: BTreeSet<u16>,
    /// Destination ports of outbound connections that are not captured.
    #[serde(default)]
    pub exclude_outbound_ports: BTreeSet<u16>,
    /// Destination networks that are not captured.
    #[serde(default)]
    pub exclude_outbound_networks: Vec<IpNet>,
}

/// A plan that cannot be carried out as it stands.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    #[error("proxy uid 0 would exempt root's own traffic from the mesh: run the proxy as a user of its own")]
    RootProxy,
    #[error("{0} is 0: give the port that the proxy listens on")]
    ZeroPort(&'static str),
    #[error("outbound and inbound port are both {0}: the proxy needs two")]
    SamePort(u16),
    #[error("{field} lists {count} ports, at most {MAX_PORTS} are possible")]
    TooManyPorts { field: &'static str, count: usize },
    #[error("exclude-outbound-networks lists {0} networks, at most {MAX_NETWORKS} are possible")]
    TooManyNetworks(usize),
    #[error("{field}: port 0 does not exist")]
    PortZero { field: &'static str },
}

impl Plan {
    /// Checks what types cannot: called by [`Plan::rules`], and by whoever accepts a plan from a user.
    pub fn validate(&self) -> Result<(), PlanError> {
        if self.proxy_uid == 0 {
            return Err(PlanError::RootProxy);
        }
        for (name, port) in [("outbound-port", self.outbound_port), ("inbound-port", self.inbound_port)] {
            if port == 0 {
                return Err(PlanError::ZeroPort(name));
            }
        }
        if self.outbound_port == self.inbound_port {
            return Err(PlanError::SamePort(self.inbound_port));
        }
        for (field, ports) in [
            ("exclude-inbound-ports", &self.exclude_inbound_ports),
            ("exclude-outbound-ports", &self.exclude_outbound_ports),
        ] {
            if ports.len() > MAX_PORTS {
                return Err(PlanError::TooManyPorts { field, count: ports.len() });
            }
            if ports.contains(&0) {
                return Err(PlanError::PortZero { field });
            }
        }
        if self.exclude_outbound_networks.len() > MAX_NETWORKS {
            return Err(PlanError::TooManyNetworks(self.exclude_outbound_networks.len()));
        }
        Ok(())
    }

    /// The rules of our chains, in the form in which `iptables -S` prints them back.
    pub fn rules(&self, family: Family) -> Result<Vec<String>, PlanError> {
        self.validate()?;
        let mut rules = Vec::new();
        for ports in multiports(&self.exclude_inbound_ports) {
            rules.push(format!("-A {IN} -p tcp -m multiport --dports {ports} -j RETURN"));
        }
        rules.push(format!("-A {IN} -p tcp -j REDIRECT --to-ports {}", self.inbound_port));
        rules.push(format!("-A {OUT} -m owner --uid-owner {} -j RETURN", self.proxy_uid));
        // the pod talking to itself stays outside the mesh: nobody else can see it, and capturing it could loop
        rules.push(format!("-A {OUT} -o lo -j RETURN"));
        for ports in multiports(&self.exclude_outbound_ports) {
            rules.push(format!("-A {OUT} -p tcp -m multiport --dports {ports} -j RETURN"));
        }
        let mut networks: Vec<IpNet> = self
            .exclude_outbound_networks
            .iter()
            .map(IpNet::trunc)
            .filter(|n| matches!((n, family), (IpNet::V4(_), Family::V4) | (IpNet::V6(_), Family::V6)))
            .collect();
        networks.sort();
        networks.dedup();
        for n in networks {
            // iptables prints the network of everything as no condition at all
            let to = if n.prefix_len() == 0 { String::new() } else { format!(" -d {n}") };
            rules.push(format!("-A {OUT}{to} -j RETURN"));
        }
        rules.push(format!("-A {OUT} -p tcp -j REDIRECT --to-ports {}", self.outbound_port));
        Ok(rules)
    }

    /// The whole transaction for `iptables-restore --noflush`. `present` are the jumps of ours that the table holds now, as `-S` prints them.
    pub fn transaction(&self, family: Family, present: &[String]) -> Result<String, PlanError> {
        let mut text = String::from("*nat\n");
        for chain in [IN, OUT] {
            let _ = writeln!(text, ":{chain} - [0:0]");
        }
        delete_jumps(&mut text, present);
        for rule in self.rules(family)? {
            let _ = writeln!(text, "{rule}");
        }
        for jump in jumps() {
            let _ = writeln!(text, "{jump}");
        }
        text.push_str("COMMIT\n");
        Ok(text)
    }
}

/// The jumps from the built-in chains, as `-S` prints them.
pub fn jumps() -> [String; 2] {
    [format!("-A PREROUTING -p tcp -j {IN}"), format!("-A OUTPUT -p tcp -j {OUT}")]
}

/// The transaction that takes everything of ours away. `chains`: which of ours exist.
pub fn removal(present: &[String], chains: &[&str]) -> String {
    let mut text = String::from("*nat\n");
    delete_jumps(&mut text, present);
    for chain in chains {
        let _ = writeln!(text, "-F {chain}\n-X {chain}");
    }
    text.push_str("COMMIT\n");
    text
}

fn delete_jumps(text: &mut String, present: &[String]) {
    for jump in present {
        if let Some(rest) = jump.strip_prefix("-A ") {
            let _ = writeln!(text, "-D {rest}");
        }
    }
}

fn multiports(ports: &BTreeSet<u16>) -> Vec<String> {
    let all: Vec<String> = ports.iter().map(u16::to_string).collect();
    all.chunks(PORTS_PER_RULE).map(|c| c.join(",")).collect()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
