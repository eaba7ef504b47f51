//! `weft-proxy`: the sidecar's process.

use anyhow::Context;
use clap::{Parser, Subcommand};
use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, reload, util::SubscriberInitExt};
use weft_proxy::{
    admin::LOG_FILTER,
    config::Config,
    control::{Proxy, State},
    sidecar,
};

/// The sidecar of the Weft mesh.
#[derive(Parser)]
#[command(version, subcommand_negates_reqs = true)]
struct Args {
    /// Start configuration, YAML or JSON.
    #[arg(long, env = "WEFT_CONFIG", value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    /// Log filter, such as `info` or `weft_proxy=debug`.
    #[arg(long, env = "WEFT_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Start as the sidecar of a pod: everything comes from the WEFT_* variables that the injector writes.
    Sidecar,
    /// Wait until the running proxy serves: the start gate of clusters without native sidecars.
    Wait {
        /// Admin address of the running proxy.
        #[arg(long, env = "WEFT_ADMIN", default_value = "127.0.0.1:15020")]
        admin: SocketAddr,
        /// Give up after so many seconds; the kubelet then restarts the container.
        #[arg(long, default_value_t = 120)]
        seconds: u64,
    },
    /// The preStop hook: tells the running proxy to drain its inbound side.
    #[command(name = "drain")]
    Drain {
        /// Admin address of the running proxy.
        #[arg(long, env = "WEFT_ADMIN", default_value = "127.0.0.1:15020")]
        admin: SocketAddr,
    },
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    match args.command {
        Some(Command::Drain { admin }) => return drain(admin),
        Some(Command::Wait { admin, seconds }) => return wait(admin, Duration::from_secs(seconds)),
        Some(Command::Sidecar) | None => {}
    }
    let filter = EnvFilter::try_new(&args.log).context("--log")?;
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    tracing_subscriber::registry().with(filter).with(lines).init();
    let set = move |f: &str| {
        let filter = EnvFilter::try_new(f).map_err(|e| e.to_string())?;
        handle.reload(filter).map_err(|e| e.to_string())
    };
    // set once: this is the only main
    let _ = LOG_FILTER.set(Box::new(set));
    let config = match args.command {
        Some(Command::Sidecar) => sidecar::config()?,
        _ => Config::load(&args.config.context("--config is missing")?)?,
    };
    let proxy = Proxy::start(config)?;
    let control = proxy.control();
    let mut state = proxy.state();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut term = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut asked = false;
        loop {
            tokio::select! {
                _ = term.recv() => control.terminate(),
                // at a terminal: once to finish in order, again to stop
                _ = interrupt.recv() => {
                    if std::mem::replace(&mut asked, true) { control.stop() } else { control.terminate() }
                }
                _ = state.wait_for(|s| *s == State::Stopped) => return Ok(()),
            }
        }
    })
}

fn drain(admin: SocketAddr) -> anyhow::Result<()> {
    let answer = ask(admin, "POST", "/drain")?;
    anyhow::ensure!(answer.starts_with("HTTP/1.1 200"), "the proxy answered {:?}", answer.lines().next());
    Ok(())
}

fn wait(admin: SocketAddr, limit: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + limit;
    loop {
        let answer = ask(admin, "GET", "/ready");
        if answer.as_ref().is_ok_and(|a| a.starts_with("HTTP/1.1 200")) {
            return Ok(());
        }
        if Instant::now() >= end {
            // its last line says what it waits for
            anyhow::bail!("not ready after {} s: {}", limit.as_secs(), answer?.lines().last().unwrap_or_default());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Plain HTTP/1.1 over the loopback: no client library for one request.
fn ask(admin: SocketAddr, method: &str, path: &str) -> anyhow::Result<String> {
    use std::io::{Read, Write};
    let limit = Duration::from_secs(2);
    let mut s = std::net::TcpStream::connect_timeout(&admin, limit).with_context(|| format!("admin {admin}"))?;
    s.set_read_timeout(Some(limit))?;
    write!(s, "{method} {path} HTTP/1.1\r\nHost: {admin}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    s.read_to_string(&mut answer)?;
    Ok(answer)
}
