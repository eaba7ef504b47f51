//! `weft-ca`: the certificate authority of the mesh as a program.

use crate::{
    Ca, CaError, CaSettings, FileStore, Made, State, Store,
    authenticate::{Authenticator, LocalAuthenticator},
    kubernetes::{ReviewAuthenticator, ReviewSettings, SecretStore, root_from},
    state::{Lives, Secret},
    token::{Claims, Pod, TokenSigner},
};
use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{
    io::IsTerminal as _,
    net::{IpAddr, SocketAddr},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use weft_identity::provider::{self, system_clock};

/// The certificate authority of the mesh.
#[derive(Parser)]
#[command(name = "weft-ca", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the state (root, issuer, bundle) if there is none.
    Init(StateArgs),
    /// Sign certificates until SIGTERM.
    Serve(ServeArgs),
    /// Make a key that signs local tokens.
    TokenKey {
        /// File to write (0600); must not exist.
        #[arg(long)]
        out: PathBuf,
    },
    /// Print a local token for a pod.
    Token(TokenArgs),
    /// Rotate the root or the issuer, or turn a rotation back. Running CAs follow by themselves.
    Rotate(RotateArgs),
}

/// Where the state of a cluster is.
#[derive(Args)]
struct ClusterArgs {
    /// Keep the state in the Secret weft-ca of a cluster, publish the bundle as the ConfigMap weft-trust-bundle, and ask the API
    /// server about tokens. In a pod: its service account; elsewhere: the kubeconfig.
    #[arg(long)]
    kubernetes: bool,
    /// Namespace of the control plane.
    #[arg(long, default_value = "weft-system", requires = "kubernetes")]
    namespace: String,
    /// Secret of that namespace with a root of your own: root.pem and root-key.pem, or tls.crt and tls.key.
    #[arg(long, requires = "kubernetes")]
    root_secret: Option<String>,
}

#[derive(Args)]
struct RotateArgs {
    what: What,
    /// Directory of the state.
    #[arg(long, required_unless_present = "kubernetes", conflicts_with = "kubernetes")]
    state: Option<PathBuf>,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// With root: a new root of your own, PEM.
    #[arg(long, requires = "root_key", conflicts_with = "root_secret")]
    root_cert: Option<PathBuf>,
    /// Its key, PKCS#8 PEM.
    #[arg(long, requires = "root_cert")]
    root_key: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// Begin a root rotation.
    Root,
    /// Make a new issuer under the same root.
    Issuer,
    /// Turn the rotation that is under way back.
    Abort,
    /// Take the next step although not all proxies have confirmed. Proxies that have not may lose their connections.
    Force,
    /// Show where the rotation stands.
    Status,
}

#[derive(Args)]
struct StateArgs {
    /// Directory of the state: ca.json (private, 0600) and bundle.pem.
    #[arg(long)]
    state: PathBuf,
    #[arg(long, default_value = "cluster.local")]
    trust_domain: String,
    /// A root of your own, PEM; used when the state is made.
    #[arg(long, requires = "root_key")]
    root_cert: Option<PathBuf>,
    /// Its key, PKCS#8 PEM.
    #[arg(long, requires = "root_cert")]
    root_key: Option<PathBuf>,
}

#[derive(Args)]
struct ServeArgs {
    /// Directory of the state: ca.json (private, 0600) and bundle.pem.
    #[arg(long, required_unless_present = "kubernetes", conflicts_with = "kubernetes")]
    state: Option<PathBuf>,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[arg(long, default_value = "cluster.local")]
    trust_domain: String,
    /// A root of your own, PEM; used when the state is made.
    #[arg(long, requires = "root_key", conflicts_with = "root_secret")]
    root_cert: Option<PathBuf>,
    /// Its key, PKCS#8 PEM.
    #[arg(long, requires = "root_cert")]
    root_key: Option<PathBuf>,
    #[arg(long, default_value = "0.0.0.0:15012")]
    listen: SocketAddr,
    /// Life of a leaf, for example 24h, 90m, 30s.
    #[arg(long, default_value = "24h", value_parser = duration)]
    leaf: Duration,
    /// Address of /ready, /live and /metrics.
    #[arg(long)]
    admin: Option<SocketAddr>,
    /// Key that local tokens are signed with (see token-key).
    #[arg(long, required_unless_present = "kubernetes", conflicts_with = "kubernetes")]
    token_key: Option<PathBuf>,
    /// Take a pod's token from any address. For clusters that rewrite the source address between pods.
    #[arg(long, requires = "kubernetes")]
    any_address: bool,
    /// How long all proxies must have confirmed a step of a root rotation.
    #[arg(long, default_value = "30s", value_parser = duration)]
    rotation_hold: Duration,
    /// Also write the bundle here whenever it changes.
    #[arg(long)]
    bundle_out: Option<PathBuf>,
}

#[derive(Args)]
struct TokenArgs {
    #[arg(long)]
    key: PathBuf,
    #[arg(long)]
    namespace: String,
    #[arg(long, default_value = "default")]
    service_account: String,
    #[arg(long)]
    pod: String,
    #[arg(long)]
    uid: String,
    /// Addresses that the pod speaks from; none: any.
    #[arg(long)]
    ip: Vec<IpAddr>,
    #[arg(long, default_value = "24h", value_parser = duration)]
    life: Duration,
}

fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "expected a number with a unit: 24h, 90m, 30s, 500ms".to_string())?;
    let seconds = |n: u64, each: u64| n.checked_mul(each).map(Duration::from_secs).ok_or("too long".to_string());
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => seconds(number, 1),
        "m" => seconds(number, 60),
        "h" => seconds(number, 3600),
        "d" => seconds(number, 86_400),
        _ => Err(format!("unknown unit {unit:?}; use ms, s, m, h or d")),
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// A root of the user's.
fn brought(cert: &Option<PathBuf>, key: &Option<PathBuf>) -> anyhow::Result<Option<Made>> {
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some(Made { root: read(cert)?, key: Secret::new(read(key)?) })),
        _ => Ok(None),
    }
}

impl StateArgs {
    fn first(&self) -> anyhow::Result<Option<Made>> {
        brought(&self.root_cert, &self.root_key)
    }
}

/// The program `weft-ca`.
pub fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("weft-ca: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    provider::install();
    // keys are in this process's memory: no core dumps, no reading by others of the same user
    nix::sys::prctl::set_dumpable(false).context("forbidding core dumps")?;
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_env("WEFT_LOG").unwrap_or_else(|_| "info".into()))
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    match command {
        Command::Init(args) => init(&args),
        Command::Serve(args) => serve(args),
        Command::TokenKey { out } => {
            use std::io::Write;
            let (_, pem) = TokenSigner::generate()?;
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&out)
                .with_context(|| out.display().to_string())?;
            Ok(file.write_all(pem.as_bytes())?)
        }
        Command::Token(a) => {
            let signer = TokenSigner::from_pem(&read(&a.key)?).with_context(|| a.key.display().to_string())?;
            let pod = Pod { name: a.pod, uid: a.uid, ips: a.ip };
            let now = provider::now(&system_clock()).as_secs();
            let claims = Claims::new(&a.namespace, &a.service_account, pod, now, a.life.as_secs());
            println!("{}", signer.sign(&claims)?);
            Ok(())
        }
        Command::Rotate(args) => rotate(args),
    }
}

fn init(args: &StateArgs) -> anyhow::Result<()> {
    let store = FileStore::open(&args.state)?;
    let now = provider::now(&system_clock());
    let state = match store.load()? {
        Some(state) => state,
        None => store.create(&State::make(&args.trust_domain, args.first()?, now, Lives::default())?)?,
    };
    if state.trust_domain != args.trust_domain {
        bail!("the state is of trust domain {:?}, asked for was {:?}", state.trust_domain, args.trust_domain);
    }
    state.check(now)?;
    store.publish(&state.bundle()?)?;
    println!("{}", store.bundle_path().display());
    Ok(())
}

#[tokio::main(worker_threads = 2)]
async fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let mut settings = CaSettings::new(&args.trust_domain)?;
    settings.leaf = args.leaf;
    settings.hold = args.rotation_hold;
    let clock = system_clock();
    let mut first = brought(&args.root_cert, &args.root_key)?;
    let (authenticator, store): (Arc<dyn Authenticator>, Arc<dyn Store>) = match (&args.state, &args.token_key) {
        (Some(directory), Some(key)) => {
            let signer = TokenSigner::from_pem(&read(key)?).with_context(|| key.display().to_string())?;
            let authenticator = LocalAuthenticator::new(signer.verifier(), clock.clone());
            (Arc::new(authenticator), Arc::new(FileStore::open(directory)?))
        }
        _ => {
            // two GETs of single objects; a rotation that somebody begins, or a bundle that somebody edits, waits for no longer
            settings.poll = Duration::from_secs(2);
            let client = client().await?;
            let runtime = tokio::runtime::Handle::current();
            let store = Arc::new(SecretStore::new(client.clone(), &args.cluster.namespace, runtime));
            if let Some(name) = &args.cluster.root_secret {
                match root_from(client.clone(), &args.cluster.namespace, name).await {
                    Ok(root) => first = Some(root),
                    // needed once; users may keep a root's key elsewhere after that
                    Err(e) => {
                        let store = store.clone();
                        if tokio::task::spawn_blocking(move || store.load()).await??.is_none() {
                            return Err(e.into());
                        }
                        tracing::info!(reason = %e, "the root that was brought is not there any more; the mesh has its state");
                    }
                }
            }
            let review = ReviewSettings { addresses: !args.any_address, ..ReviewSettings::default() };
            let authenticator = ReviewAuthenticator::new(client, review, clock.clone());
            (Arc::new(authenticator), store)
        }
    };
    let (domain, lives) = (args.trust_domain.clone(), settings.lives);
    let brought = first.as_ref().map(|m| m.root.clone());
    let ca = loop {
        let (settings, store, authenticator, clock) =
            (settings.clone(), store.clone(), authenticator.clone(), clock.clone());
        let (domain, first) = (domain.clone(), first.clone());
        // the store blocks
        let opened = tokio::task::spawn_blocking(move || {
            Ca::open(settings, store, authenticator, clock, |now| State::make(&domain, first, now, lives))
        });
        match opened.await? {
            Err(CaError::Store(e)) if e.is_temporary() => {
                tracing::warn!(error = %e, "the state cannot be read yet");
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            opened => break opened?,
        }
    };
    if let Some(root) = brought
        && !ca.state().has_root(&root)
    {
        let rotate = "weft-ca rotate root --kubernetes --root-secret";
        tracing::warn!(
            fix = rotate,
            "the root that was brought is another one than the mesh uses; it is not taken by itself"
        );
    }
    let listener =
        tokio::net::TcpListener::bind(args.listen).await.with_context(|| format!("listening on {}", args.listen))?;
    let stop = CancellationToken::new();
    if let Some(path) = args.bundle_out {
        ca.bundle().write(&path)?;
        let (ca, mut changes) = (ca.clone(), ca.changes());
        tokio::spawn(async move {
            while changes.changed().await.is_ok() {
                changes.borrow_and_update();
                if let Err(e) = ca.bundle().write(&path) {
                    tracing::error!(error = %e, "bundle not written");
                }
            }
        });
    }
    if let Some(at) = args.admin {
        let listener = tokio::net::TcpListener::bind(at).await.with_context(|| format!("listening on {at}"))?;
        tokio::spawn(crate::admin::serve(listener, ca.clone()));
    }
    tracing::info!(listen = %listener.local_addr()?, trust_domain = args.trust_domain, bundle = ca.bundle().version(), "CA ready");
    let ending = stop.clone();
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        ending.cancel();
    });
    ca.serve(listener, stop).await;
    Ok(())
}

/// A client of the cluster that this pod, or the kubeconfig, belongs to.
async fn client() -> anyhow::Result<kube::Client> {
    kube::Client::try_default()
        .await
        .context("no cluster: neither a service account of a pod nor a usable kubeconfig ($KUBECONFIG, ~/.kube/config)")
}

fn rotate(args: RotateArgs) -> anyhow::Result<()> {
    let what = args.what;
    let mut root = brought(&args.root_cert, &args.root_key)?;
    if (root.is_some() || args.cluster.root_secret.is_some()) && !matches!(what, What::Root) {
        bail!("a root of your own goes with \"rotate root\"");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (store, place): (Box<dyn Store>, String) = match &args.state {
        Some(directory) => (Box::new(FileStore::open(directory)?), directory.display().to_string()),
        None => {
            let namespace = &args.cluster.namespace;
            let client = runtime.block_on(client())?;
            if let Some(name) = &args.cluster.root_secret {
                root = Some(runtime.block_on(root_from(client.clone(), namespace, name))?);
            }
            let store = SecretStore::new(client, namespace, runtime.handle().clone());
            (Box::new(store), format!("Secret {namespace}/weft-ca"))
        }
    };
    let now = provider::now(&system_clock());
    let state = store.load()?.with_context(|| format!("{place}: there is no CA state"))?;
    let next = match what {
        What::Root => state.rotate_root(root, now, Lives::default())?,
        What::Issuer => state.rotate_issuer(now, Lives::default())?,
        What::Abort => state.abort(now)?,
        What::Force => state.advance(now)?,
        What::Status => {
            match state.rotation {
                Some(r) => println!(
                    "authority {} -> {}: {:?}, since {}; bundle {}",
                    r.from, r.to, r.phase, r.since, state.bundle_version
                ),
                None => println!("no rotation; authority {}, bundle {}", state.signing, state.bundle_version),
            }
            return Ok(());
        }
    };
    next.check(now)?;
    store.replace(state.revision, &next)?;
    println!("revision {}, bundle {}", next.revision, next.bundle_version);
    Ok(())
}
