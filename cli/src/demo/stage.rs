//! The stage: CA, controller, and for each workload its application and its sidecar, as processes of their own. Two ways to put a workload apart from the others:
//! a block of loopback addresses (no root), or a network namespace with the real iptables rules (`--capture`).

use super::{
    bridge::{Bridge, NODE},
    cluster::{Cluster, Service, Workload},
    process::{Process, Processes},
};
use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// The user that sidecars run as under capture: the one whose traffic the rules exempt.
pub const PROXY_UID: u32 = 2102;
pub const TRUST_DOMAIN: &str = "shop.example";
pub const CA_PORT: u16 = 15010;
pub const CONTROLLER_PORT: u16 = 15012;
const CONTROLLER_UID: &str = "00000000-0000-4000-8000-00000000c000";

pub struct Stage {
    pub cluster: Cluster,
    pub state: PathBuf,
    processes: Processes,
    capture: bool,
    bin: PathBuf,
    net: Option<Bridge>,
}

impl Stage {
    /// Starts everything and waits until every sidecar is ready.
    pub fn build(folder: &Path, state: &Path, capture: bool) -> anyhow::Result<Stage> {
        let cluster = Cluster::new(folder, &state.join("shop"))?;
        let bin = std::env::current_exe()?.parent().context("this program lies nowhere")?.to_owned();
        let net = if capture { Some(Bridge::new(&cluster, &bin)?) } else { None };
        for d in ["logs", "ca", "tokens", "sidecars"] {
            fs::create_dir_all(state.join(d))?;
        }
        let mut stage = Stage { cluster, state: state.into(), processes: Processes::default(), capture, bin, net };
        stage.start_control_plane()?;
        for w in stage.cluster.workloads.clone() {
            stage.start_workload(&w)?;
        }
        stage.wait_ready()?;
        Ok(stage)
    }

    fn node(&self) -> IpAddr {
        if self.capture { NODE.into() } else { Ipv4Addr::new(127, self.cluster.network, 0, 1).into() }
    }

    /// The first trust bundle, as the injector would write it into a pod.
    fn bundle(&self) -> PathBuf {
        self.state.join("bundle.pem")
    }

    fn run(&mut self, name: &str, prefix: &[String], program: &str, args: &[String]) -> anyhow::Result<()> {
        let p = Process::start(name, prefix, &self.bin.join(program), args, &self.state.join("logs"))?;
        self.processes.push(p);
        Ok(())
    }

    /// Runs a program to its end; what it printed, or why it failed.
    fn ask(&self, program: &str, args: &[&str]) -> anyhow::Result<String> {
        let path = self.bin.join(program);
        let out = Command::new(&path)
            .args(args)
            .output()
            .with_context(|| format!("cannot start {} (is it built? `make demo` builds it)", path.display()))?;
        if !out.status.success() {
            bail!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// A token for a pod, as the kubelet would mount it.
    fn token(&self, namespace: &str, account: &str, pod: &str, uid: &str) -> anyhow::Result<PathBuf> {
        let key = self.state.join("ca/token-key.pem").display().to_string();
        let args = [
            "token",
            "--key",
            &key,
            "--namespace",
            namespace,
            "--service-account",
            account,
            "--pod",
            pod,
            "--uid",
            uid,
        ];
        let path = self.state.join("tokens").join(pod);
        fs::write(&path, self.ask("weft-ca", &args)?.trim())?;
        Ok(path)
    }

    fn start_control_plane(&mut self) -> anyhow::Result<()> {
        let text = |p: PathBuf| p.display().to_string();
        let (state, key) = (text(self.state.join("ca")), text(self.state.join("ca/token-key.pem")));
        self.ask("weft-ca", &["token-key", "--out", &key])?;
        self.ask("weft-ca", &["init", "--state", &state, "--trust-domain", TRUST_DOMAIN])?;
        // the CA's own directory is private
        fs::copy(self.state.join("ca/bundle.pem"), self.bundle())?;
        let ca = SocketAddr::new(self.node(), CA_PORT).to_string();
        let serve = ["serve", "--state", &state, "--trust-domain", TRUST_DOMAIN, "--token-key", &key, "--listen", &ca];
        self.run("ca", &[], "weft-ca", &serve.map(str::to_owned))?;
        let token = text(self.token("weft-system", "weft-controller", "weft-controller", CONTROLLER_UID)?);
        let (folder, bundle) = (text(self.cluster.folder.clone()), text(self.bundle()));
        let listen = SocketAddr::new(self.node(), CONTROLLER_PORT).to_string();
        let args = [
            "serve",
            "--folder",
            &folder,
            "--listen",
            &listen,
            "--trust-domain",
            TRUST_DOMAIN,
            "--ca",
            &ca,
            "--token",
            &token,
            "--bundle",
            &bundle,
        ];
        self.run("controller", &[], "weft-controller", &args.map(str::to_owned))
    }

    fn start_workload(&mut self, w: &Workload) -> anyhow::Result<()> {
        let prefix = self.net.as_ref().map(|n| n.enter(w)).unwrap_or_default();
        let port = w.ports.first().copied().context("a Deployment of the demo needs a containerPort")?;
        let listen = if self.capture { SocketAddr::new(w.ip.into(), port) } else { w.app(port) };
        let mut args: Vec<String> = w.command.iter().skip(1).filter(|a| !a.starts_with("--listen")).cloned().collect();
        args.push(format!("--listen={listen}"));
        if w.command.first().map(String::as_str) != Some("weft") {
            bail!(
                "Deployment of pod {}: the demo can only run the command `weft sample ...`, not {:?}",
                w.name,
                w.command
            );
        }
        self.run(&w.name, &prefix, "weft", &args)?;
        if w.meshed {
            self.token(&w.namespace, &w.service_account, &w.name, &w.uid)?;
            let config = self.state.join("sidecars").join(format!("{}.yaml", w.name));
            fs::write(&config, serde_json::to_string_pretty(&self.sidecar(w))?)?;
            let mut prefix = prefix;
            let own = self.state.join("sidecars").join(&w.name);
            fs::create_dir_all(&own)?;
            if self.capture {
                nix::unistd::chown(&own, Some(PROXY_UID.into()), Some(PROXY_UID.into()))?;
                prefix.extend(
                    [
                        "setpriv",
                        &format!("--reuid={PROXY_UID}"),
                        &format!("--regid={PROXY_UID}"),
                        "--clear-groups",
                        "--",
                    ]
                    .map(str::to_owned),
                );
            }
            self.run(
                &format!("{}.sidecar", w.name),
                &prefix,
                "weft-proxy",
                &["--config".into(), config.display().to_string()],
            )?;
        }
        Ok(())
    }

    /// The start configuration of a workload's sidecar.
    fn sidecar(&self, w: &Workload) -> Value {
        let address = |ip: Ipv4Addr, port: u16| SocketAddr::new(ip.into(), port);
        let capture = if self.capture {
            json!({"kernel": {"outbound": ["0.0.0.0:15001"], "inbound": ["0.0.0.0:15006"]}})
        } else {
            let others = || self.cluster.workloads.iter().filter(|o| o.meshed);
            let dial = others()
                .flat_map(|o| o.ports.iter().map(move |p| json!({"original": address(o.ip, *p), "to": o.inbound(*p)})));
            let listen = |s: &Service| json!({"listen": w.outbound(s), "original": address(s.cluster_ip, s.port)});
            json!({"mapped": {
                "outbound": self.cluster.services.iter().map(listen).collect::<Vec<_>>(),
                "inbound": w.ports.iter().map(|p| json!({"listen": w.inbound(*p), "original": address(w.ip, *p)})).collect::<Vec<_>>(),
                "dial": dial.collect::<Vec<_>>(),
                "app": w.ports.iter().map(|p| json!({"original": address(w.ip, *p), "to": w.app(*p)})).collect::<Vec<_>>(),
            }})
        };
        let identity = format!("spiffe://{TRUST_DOMAIN}/ns/{}/sa/{}", w.namespace, w.service_account);
        json!({
            "pod": {"uid": w.uid, "ips": [w.ip], "namespace": w.namespace, "name": w.name, "identity": identity},
            "capture": capture,
            "admin": if self.capture { SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 15020) } else { w.admin() },
            "credentials": {"ca": {
                "address": SocketAddr::new(self.node(), CA_PORT),
                "token": self.state.join("tokens").join(&w.name),
                "bundle": self.bundle(),
                "state": self.state.join("sidecars").join(&w.name),
            }},
            "controller": {
                "address": SocketAddr::new(self.node(), CONTROLLER_PORT),
                "identity": format!("spiffe://{TRUST_DOMAIN}/ns/weft-system/sa/weft-controller"),
            },
        })
    }

    pub fn admin(&self, w: &Workload) -> SocketAddr {
        if self.capture { SocketAddr::new(w.ip.into(), 15020) } else { w.admin() }
    }

    /// The same for whoever stands in the pod, which is allowed to see more.
    pub fn own_admin(&self, w: &Workload) -> SocketAddr {
        if self.capture { SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 15020) } else { w.admin() }
    }

    /// What the front end dials to reach a Service port.
    pub fn service_address(&self, from: &Workload, s: &Service) -> SocketAddr {
        if self.capture { SocketAddr::new(s.cluster_ip.into(), s.port) } else { from.outbound(s) }
    }

    /// The network namespace that the load loop must enter.
    pub fn namespace_of(&self, w: &Workload) -> Option<PathBuf> {
        self.net.as_ref().map(|n| n.path(w))
    }

    fn wait_ready(&mut self) -> anyhow::Result<()> {
        let end = Instant::now() + Duration::from_secs(30);
        for w in self.cluster.workloads.clone().iter().filter(|w| w.meshed) {
            loop {
                self.processes.check()?;
                if super::interrupted() {
                    bail!("interrupted");
                }
                if crate::admin::http_get(self.admin(w), "/ready").is_ok_and(|(status, _)| status == 200) {
                    break;
                }
                if Instant::now() > end {
                    bail!(
                        "the sidecar of {} is not ready after 30 s; see {}",
                        w.name,
                        self.state.join("logs").display()
                    );
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    }

    /// An error when one of the processes has ended.
    pub fn check(&mut self) -> anyhow::Result<()> {
        self.processes.check()
    }

    pub fn stop(&mut self) {
        self.processes.stop();
        self.net = None;
    }
}
