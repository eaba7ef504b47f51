//! `weft-controller`: serves what the objects of a cluster or a folder say to the proxies of the mesh.

use crate::{
    Folder, Mesh,
    run::{self, CaSettings, Settings},
};
use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use std::{io::IsTerminal as _, net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use weft_discovery::certificates::TokenSource;

#[derive(Parser)]
#[command(
    name = "weft-controller",
    version,
    about = "Serves routes, endpoints and policies to the proxies of the mesh"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the objects of a cluster or a folder
    Serve(Serve),
}

#[derive(Args)]
struct Serve {
    /// Read and write the objects of a Kubernetes cluster: the pod's own, or that of KUBECONFIG
    #[arg(long, conflicts_with = "folder", required_unless_present = "folder")]
    kubernetes: bool,
    /// Folder of Kubernetes objects in YAML, watched; may be given more than once
    #[arg(long)]
    folder: Vec<PathBuf>,
    /// Address for proxies
    #[arg(long, default_value = "0.0.0.0:15012")]
    listen: SocketAddr,
    /// Address for /ready, /live, /metrics and /status
    #[arg(long)]
    admin: Option<SocketAddr>,
    /// The mesh's trust domain
    #[arg(long, default_value = "cluster.local")]
    trust_domain: String,
    /// Address of a CA, host:port; may be given more than once
    #[arg(long, required = true)]
    ca: Vec<String>,
    /// File with the token that proves to the CA who this is
    #[arg(long)]
    token: PathBuf,
    /// File with the trust bundle to begin with
    #[arg(long)]
    bundle: PathBuf,
    /// Namespace of the control plane
    #[arg(long, default_value = weft_identity::SYSTEM_NAMESPACE)]
    namespace: String,
    /// Name of this replica
    #[arg(long, env = "HOSTNAME", default_value = "weft-controller")]
    replica: String,
    /// Write the log as JSON
    #[arg(long)]
    log_json: bool,
}

/// The program `weft-controller`.
pub fn main() -> ExitCode {
    let Command::Serve(args) = Cli::parse().command;
    match serve(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("weft-controller: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: Serve) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match args.log_json {
        true => log.json().init(),
        false => log.with_ansi(std::io::stderr().is_terminal()).init(),
    }
    // two threads: one reads and compiles while the other serves
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
        let signalled = stop.clone();
        tokio::spawn(async move {
            tokio::select! { _ = terminate.recv() => {}, _ = tokio::signal::ctrl_c() => {} }
            signalled.cancel();
        });
        let (trust_domain, system_namespace) = (Arc::from(args.trust_domain), Arc::from(args.namespace));
        let mesh = Mesh { trust_domain, system_namespace, ..Mesh::default() };
        let ca = CaSettings { addresses: args.ca, token: TokenSource::File(args.token), bundle: args.bundle };
        let settings = Settings { mesh, listen: args.listen, admin: args.admin, ca, replica: args.replica };
        if args.kubernetes {
            weft_identity::provider::install();
            let client = crate::source::kubernetes::client().await.context("cannot reach a cluster")?;
            return run::kubernetes(settings, client, stop).await;
        }
        run::run(settings, Folder::new(args.folder), stop).await
    })
}
