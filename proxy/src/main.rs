//! `weft-proxy`: the sidecar's process.

use anyhow::Context;
use clap::{Parser, Subcommand};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::{Duration, Instant},
};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, reload, util::SubscriberInitExt};
use weft_core::probe::ADMIN_PORT;
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
        /// Admin address of the running proxy; both loopbacks at port 15020 unless given.
        #[arg(long, env = "WEFT_ADMIN")]
        admin: Option<SocketAddr>,
        /// Give up after so many seconds; the kubelet then restarts the container.
        #[arg(long, default_value_t = 120)]
        seconds: u64,
    },
    /// The preStop hook: tells the running proxy to drain its inbound side.
    #[command(name = "drain")]
    Drain {
        /// Admin address of the running proxy; both loopbacks at port 15020 unless given.
        #[arg(long, env = "WEFT_ADMIN")]
        admin: Option<SocketAddr>,
    },
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    match args.command {
        Some(Command::Drain { admin }) => return drain(&running(admin)),
        Some(Command::Wait { admin, seconds }) => return wait(&running(admin), Duration::from_secs(seconds)),
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

/// Where the running proxy may be: in a pod whose first address is IPv6 it listens on `[::]`, which answers IPv4 only where the node lets it.
fn running(admin: Option<SocketAddr>) -> Vec<SocketAddr> {
    let loopbacks: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    admin.map_or_else(|| loopbacks.map(|ip| SocketAddr::new(ip, ADMIN_PORT)).into(), |a| vec![a])
}

fn drain(admin: &[SocketAddr]) -> anyhow::Result<()> {
    let answer = ask(admin, "POST", "/drain")?;
    anyhow::ensure!(answer.starts_with("HTTP/1.1 200"), "the proxy answered {:?}", answer.lines().next());
    Ok(())
}

fn wait(admin: &[SocketAddr], limit: Duration) -> anyhow::Result<()> {
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

/// Plain HTTP/1.1 over the loopback: no client library for one request. Of several addresses, the first that listens.
fn ask(admin: &[SocketAddr], method: &str, path: &str) -> anyhow::Result<String> {
    use std::io::{Read, Write};
    let limit = Duration::from_secs(2);
    let mut failures = Vec::new();
    for at in admin {
        let mut s = match std::net::TcpStream::connect_timeout(at, limit) {
            Ok(s) => s,
            Err(e) => {
                failures.push(format!("admin {at}: {e}"));
                continue;
            }
        };
        s.set_read_timeout(Some(limit))?;
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {at}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        s.write_all(head.as_bytes())?;
        let mut answer = String::new();
        s.read_to_string(&mut answer)?;
        return Ok(answer);
    }
    anyhow::bail!("{}", failures.join("; "))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::{
        io::{Read, Write},
        net::TcpListener,
    };

    #[test]
    fn a_proxy_that_listens_on_one_family_only_is_found() {
        assert_eq!(
            running(None).iter().map(SocketAddr::to_string).collect::<Vec<_>>(),
            ["127.0.0.1:15020", "[::1]:15020"]
        );
        assert_eq!(running(Some("10.0.0.1:9".parse().unwrap())).len(), 1);
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let l = TcpListener::bind(loopback).unwrap();
            let port = l.local_addr().unwrap().port();
            let served = std::thread::spawn(move || {
                for answer in ["200 OK", "503 Service Unavailable", "200 OK"] {
                    let (mut s, _) = l.accept().unwrap();
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let mut b = [0; 256];
                        let n = s.read(&mut b).unwrap();
                        assert!(n > 0);
                        head.extend(&b[..n]);
                    }
                    write!(s, "HTTP/1.1 {answer}\r\nConnection: close\r\n\r\nwaiting for a leaf\n").unwrap();
                }
            });
            let both: Vec<SocketAddr> = running(None).iter().map(|a| SocketAddr::new(a.ip(), port)).collect();
            drain(&both).unwrap();
            let refused = wait(&both, Duration::ZERO).unwrap_err().to_string();
            assert!(refused.ends_with("waiting for a leaf"), "{refused}");
            wait(&both, Duration::ZERO).unwrap();
            served.join().unwrap();
            let gone = drain(&both).unwrap_err().to_string();
            assert!(gone.contains(&format!("127.0.0.1:{port}")) && gone.contains(&format!("[::1]:{port}")), "{gone}");
        }
    }
}
