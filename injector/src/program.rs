//! `weft-injector`: the mutating webhook as a process.

use crate::{
    cluster,
    inject::Settings,
    serve::{self, Shared},
    sidecar::{self, Sidecar},
};
use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use std::{collections::HashMap, net::SocketAddr, process::ExitCode, sync::Arc};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

#[derive(Parser)]
#[command(name = "weft-injector", version, about = "Adds the sidecar to pods of labelled namespaces")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer the API server
    Serve(Serve),
}

#[derive(Args)]
struct Serve {
    /// Namespace of the control plane
    #[arg(long, env = "POD_NAMESPACE", default_value = "weft-system")]
    namespace: String,
    /// First part of every identity
    #[arg(long, default_value = "cluster.local")]
    trust_domain: String,
    /// Image of sidecar and init container
    #[arg(long)]
    image: String,
    /// Always, IfNotPresent or Never
    #[arg(long, default_value = "IfNotPresent", value_parser = ["Always", "IfNotPresent", "Never"])]
    image_pull_policy: String,
    /// The CA as proxies reach it, host:port
    #[arg(long, default_value = "weft-ca.weft-system.svc:15010")]
    ca: String,
    /// The controller as proxies reach it, host:port
    #[arg(long, default_value = "weft-controller.weft-system.svc:15012")]
    controller: String,
    /// CPU that a sidecar asks for, unless its pod or namespace says otherwise; empty: none
    #[arg(long, default_value = "10m", value_parser = sidecar::quantity)]
    proxy_cpu_request: String,
    /// CPU that a sidecar gets at most; empty: no limit
    #[arg(long, default_value = "", value_parser = sidecar::quantity)]
    proxy_cpu_limit: String,
    /// Memory that a sidecar asks for; empty: none
    #[arg(long, default_value = "20Mi", value_parser = sidecar::quantity)]
    proxy_memory_request: String,
    /// Memory that a sidecar gets at most; empty: no limit
    #[arg(long, default_value = "256Mi", value_parser = sidecar::quantity)]
    proxy_memory_limit: String,
    /// Log filter of a sidecar
    #[arg(long, default_value = "info", value_parser = sidecar::filter)]
    proxy_log_level: String,
    /// Address of the webhook
    #[arg(long, default_value = "0.0.0.0:15017")]
    listen: SocketAddr,
    /// Address for /ready, /live and /metrics
    #[arg(long, default_value = "0.0.0.0:15014")]
    admin: SocketAddr,
    /// Whether sidecars are init containers that keep running: true, false, or auto (Kubernetes 1.29 and later)
    #[arg(long, default_value = "auto", value_parser = ["auto", "true", "false"])]
    native_sidecars: String,
    /// Name of this replica
    #[arg(long, env = "POD_NAME", default_value = "weft-injector")]
    replica: String,
    /// Write the log as JSON
    #[arg(long)]
    log_json: bool,
}

/// The program `weft-injector`.
pub fn main() -> ExitCode {
    let Command::Serve(args) = Cli::parse().command;
    match serve(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("weft-injector: {e:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(worker_threads = 2)]
async fn serve(args: Serve) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match args.log_json {
        true => log.json().init(),
        false => log.with_ansi(false).init(),
    }
    weft_identity::provider::install();
    let client = kube::Client::try_default().await.context("no Kubernetes: neither in a pod nor a kubeconfig")?;
    let native_sidecars = match args.native_sidecars.as_str() {
        "auto" => native(&client).await?,
        flag => flag == "true",
    };
    let given = |text: String| Some(text).filter(|t| !t.is_empty());
    let sidecar = Sidecar {
        cpu_request: given(args.proxy_cpu_request),
        cpu_limit: given(args.proxy_cpu_limit),
        memory_request: given(args.proxy_memory_request),
        memory_limit: given(args.proxy_memory_limit),
        log_level: args.proxy_log_level,
    };
    sidecar.check().map_err(anyhow::Error::msg)?;
    let (bundle_tell, bundle) = watch::channel(None);
    let (tls_tell, tls) = watch::channel(None);
    let shared = Arc::new(Shared {
        settings: Settings {
            image: args.image,
            image_pull_policy: args.image_pull_policy,
            trust_domain: args.trust_domain,
            ca: args.ca,
            controller: args.controller,
            native_sidecars,
            version: env!("CARGO_PKG_VERSION").into(),
            sidecar,
        },
        bundle,
        namespaces: HashMap::new().into(),
        metrics: crate::metrics::Metrics::default(),
        limits: crate::limits::Limits::default(),
        tls,
    });
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    let admin = TcpListener::bind(args.admin).await.with_context(|| format!("cannot listen on {}", args.admin))?;
    tracing::info!(listen = %args.listen, native_sidecars, "injector starts");
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let signalled = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = tokio::signal::ctrl_c() => {} }
        signalled.cancel();
    });
    let (namespace, me) = (args.namespace, args.replica);
    let health = axum::serve(admin, serve::admin(shared.clone()));
    let background = async {
        tokio::join!(
            cluster::namespaces(client.clone(), shared.clone()),
            cluster::bundle(client.clone(), &namespace, &shared.settings.trust_domain, bundle_tell),
            cluster::serving(client.clone(), &namespace, shared.clone(), tls_tell),
            cluster::report(client.clone(), &namespace, &me, shared.clone()),
        )
    };
    tokio::select! {
        () = serve::serve(listener, shared.clone(), stop) => Ok(()),
        r = async { health.await } => r.context("the admin listener ended"),
        _ = background => anyhow::bail!("the watches ended"),
    }
}

/// Whether the cluster keeps init containers with `restartPolicy: Always` running.
async fn native(client: &kube::Client) -> anyhow::Result<bool> {
    let version = client.apiserver_version().await.context("the API server does not say its version")?;
    let digits = |s: &str| s.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>().unwrap_or(0);
    Ok((digits(&version.major), digits(&version.minor)) >= (1, 29))
}
