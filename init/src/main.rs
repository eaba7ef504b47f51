//! `weft-init`: captures the pod's TCP traffic for the sidecar, then ends. Runs as the init container.

use clap::{Args, Parser, Subcommand};
use ipnet::IpNet;
use std::{collections::BTreeSet, path::PathBuf, process::ExitCode};
use weft_init::{Backend, Family, Plan, lists};

#[derive(Parser)]
#[command(name = "weft-init", version, about = "Captures a pod's TCP traffic for its sidecar")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Apply the rules, read them back and compare
    Apply(PlanArgs),
    /// Compare the rules in force with the plan; changes nothing
    Verify(PlanArgs),
    /// Print the rules of both families; changes nothing and needs no rights
    Print(PlanArgs),
    /// Take every rule of Weft away
    Remove,
}

#[derive(Args)]
struct PlanArgs {
    /// User id of the proxy; its own traffic is never captured
    #[arg(long, env = "WEFT_PROXY_UID", default_value_t = 2102)]
    proxy_uid: u32,
    /// Port on which the proxy accepts what the application sends
    #[arg(long, env = "WEFT_OUTBOUND_PORT", default_value_t = 15001)]
    outbound_port: u16,
    /// Port on which the proxy accepts what is sent to the application
    #[arg(long, env = "WEFT_INBOUND_PORT", default_value_t = 15006)]
    inbound_port: u16,
    /// Inbound ports that are not captured: numbers and ranges, comma-separated
    #[arg(long, env = "WEFT_EXCLUDE_INBOUND_PORTS", default_value = "", value_parser = lists::ports)]
    exclude_inbound_ports: BTreeSet<u16>,
    /// Destination ports that are not captured: numbers and ranges, comma-separated
    #[arg(long, env = "WEFT_EXCLUDE_OUTBOUND_PORTS", default_value = "", value_parser = lists::ports)]
    exclude_outbound_ports: BTreeSet<u16>,
    /// Destination networks that are not captured, comma-separated CIDRs
    // the full path: clap takes a bare `Vec` for an argument that is repeated
    #[arg(long, env = "WEFT_EXCLUDE_OUTBOUND_NETWORKS", default_value = "", value_parser = lists::networks)]
    exclude_outbound_networks: ::std::vec::Vec<IpNet>,
    /// nft or legacy; found out when not given
    #[arg(long, env = "WEFT_IPTABLES")]
    backend: Option<Backend>,
    /// Enter this network namespace first (a path such as /run/netns/NAME)
    #[arg(long)]
    netns: Option<PathBuf>,
}

impl PlanArgs {
    fn plan(&self) -> Plan {
        Plan {
            proxy_uid: self.proxy_uid,
            outbound_port: self.outbound_port,
            inbound_port: self.inbound_port,
            exclude_inbound_ports: self.exclude_inbound_ports.clone(),
            exclude_outbound_ports: self.exclude_outbound_ports.clone(),
            exclude_outbound_networks: self.exclude_outbound_networks.clone(),
        }
    }
    fn enter(&self) -> anyhow::Result<()> {
        let Some(path) = &self.netns else { return Ok(()) };
        let file =
            std::fs::File::open(path).map_err(|e| anyhow::anyhow!("network namespace {}: {e}", path.display()))?;
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)
            .map_err(|e| anyhow::anyhow!("cannot enter the network namespace {}: {e}", path.display()))
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("weft-init: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Apply(args) => {
            args.enter()?;
            let backend = weft_init::apply(&args.plan(), args.backend)?;
            println!("capture is in force (iptables-{backend})");
        }
        Command::Verify(args) => {
            args.enter()?;
            let backend = args.backend.map_or_else(Backend::detect, Ok);
            let backend = backend.map_err(|[nft, legacy]| anyhow::anyhow!("nft: {nft}; legacy: {legacy}"))?;
            weft_init::verify(&args.plan(), backend)?;
            println!("capture is in force (iptables-{backend})");
        }
        Command::Print(args) => {
            let plan = args.plan();
            for (family, title) in [(Family::V4, "IPv4"), (Family::V6, "IPv6")] {
                print!("# {title}\n{}", plan.transaction(family, &[])?);
            }
        }
        Command::Remove => weft_init::remove()?,
    }
    Ok(())
}
