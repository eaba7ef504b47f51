//! Sidecars in pods: the real program as a user of its own, fed from a static configuration, behind the real init rules.

use crate::{Pod, binary, text};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    process::{Child, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use weft_core::{
    endpoint::{Endpoint, Endpoints, MeshPeer},
    policy::InboundPolicy,
    route::Routes,
    service::{Protocol, ServicePort, ServiceRef},
};
use weft_identity::testing::TestMesh;
use weft_proxy::config::{Capture, Config, Credentials, KernelCapture, Limits, Pod as ProxyPod, Static, Timeouts};

/// The user that the rules exempt.
pub const PROXY_UID: u32 = 2102;
/// The longest that anything may take before it counts as hanging.
pub const LIMIT: Duration = Duration::from_secs(15);

/// A child process that ends with the test.
pub struct Running(Child);
impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The meshed Service of a test: `web`, port 80, in each family at an address of its own.
pub const SERVICE_V4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
pub const SERVICE_V6: Ipv6Addr = Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 1);
pub const APP_PORT: u16 = 8080;

pub struct Sidecars {
    mesh: TestMesh,
    dir: tempfile::TempDir,
}

impl Default for Sidecars {
    fn default() -> Self {
        Self::new()
    }
}

impl Sidecars {
    pub fn new() -> Self {
        weft_identity::provider::install();
        let dir = tempfile::tempdir().unwrap();
        // the sidecars run as another user
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Sidecars { mesh: TestMesh::new("cluster.local"), dir }
    }

    fn endpoint(&self, pod: &Pod, ip: IpAddr, port: u16, meshed: bool) -> Arc<Endpoint> {
        let peer = MeshPeer { uid: pod.ns.as_str().into(), identity: self.mesh.identity("shop", &pod.ns) };
        Arc::new(Endpoint {
            address: SocketAddr::new(ip, port),
            mesh: meshed.then_some(peer),
            zone: None,
            terminating: false,
            workload: pod.ns.as_str().into(),
        })
    }

    /// Starts the application of a pod; one socket serves both families.
    pub fn app(&self, pod: &Pod) -> Running {
        let mut c = pod.command(binary("weft"));
        c.args(["sample", "--name", &pod.ns, "--listen", &format!("[::]:{APP_PORT}")]);
        let app = Running(c.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let end = Instant::now() + LIMIT;
        for ip in ["127.0.0.1", "[::1]"] {
            let url = format!("http://{ip}:{APP_PORT}/");
            while pod.command("curl").args(["-sf", "-m", "2", &url]).output().unwrap().stdout.is_empty() {
                assert!(Instant::now() < end, "the application of {} does not answer at {url}", pod.ns);
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        app
    }

    /// Captures a pod's traffic and starts its sidecar, which knows the Service `web` behind which `servers` stand (with or without a sidecar).
    pub fn start(&self, pod: &Pod, backend: &str, servers: &[(&Pod, bool)], inbound: InboundPolicy) -> Running {
        let out = pod.init(&[
            "apply",
            "--backend",
            backend,
            "--proxy-uid",
            &PROXY_UID.to_string(),
            "--exclude-inbound-ports",
            "15020",
        ]);
        assert!(out.status.success(), "{}", text(&out));
        let mut fixed = Static { inbound, ..Static::default() };
        for (address, name, v6) in [(IpAddr::V4(SERVICE_V4), "web", false), (IpAddr::V6(SERVICE_V6), "web6", true)] {
            let ip = |p: &Pod| if v6 { IpAddr::V6(p.v6) } else { IpAddr::V4(p.v4) };
            let service = ServiceRef { namespace: "shop".into(), name: name.into(), port: 80 };
            fixed.services.push(ServicePort {
                service: service.clone(),
                protocol: Protocol::Http,
                routes: Routes::None,
                affinity: None,
                requests: Default::default(),
                addresses: vec![SocketAddr::new(address, 80)],
            });
            let endpoints = servers.iter().map(|(p, meshed)| self.endpoint(p, ip(p), APP_PORT, *meshed)).collect();
            fixed.endpoints.push(Endpoints {
                service,
                endpoints,
                not_ready: 0,
                http2: false,
                prefer_zone: false,
                policy: Default::default(),
            });
        }
        let config = Config {
            pod: ProxyPod {
                uid: pod.ns.as_str().into(),
                ips: vec![pod.v4.into(), pod.v6.into()],
                namespace: "shop".into(),
                name: pod.ns.as_str().into(),
                zone: None,
                identity: Some(self.mesh.identity("shop", &pod.ns)),
            },
            capture: Capture::Kernel(KernelCapture::default()),
            admin: "0.0.0.0:15020".parse().unwrap(),
            workers: 1,
            credentials: Some(Credentials::Static { dir: self.credentials(pod) }),
            controller: None,
            fixed: Some(fixed),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            access_log: None,
        };
        let path = self.dir.path().join(format!("{}.json", pod.ns));
        fs::write(&path, serde_json::to_string(&config).unwrap()).unwrap();
        let uid = PROXY_UID.to_string();
        // a copy: the build's own folder may be closed to other users
        let program = self.dir.path().join("weft-proxy");
        if !program.exists() {
            fs::copy(binary("weft-proxy"), &program).unwrap();
        }
        let log = fs::File::create(self.dir.path().join(format!("{}.log", pod.ns))).unwrap();
        let mut c = pod.command("setpriv");
        c.args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "--"]).arg(&program).arg("--config").arg(&path);
        let running = Running(c.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        let end = Instant::now() + LIMIT;
        while !pod
            .command("curl")
            .args(["-sf", "-m", "2", "http://127.0.0.1:15020/ready"])
            .output()
            .unwrap()
            .status
            .success()
        {
            let log = fs::read_to_string(self.dir.path().join(format!("{}.log", pod.ns))).unwrap();
            assert!(Instant::now() < end, "the sidecar of {} is not ready: {log}", pod.ns);
            std::thread::sleep(Duration::from_millis(10));
        }
        running
    }

    fn credentials(&self, pod: &Pod) -> std::path::PathBuf {
        let dir = self.dir.path().join(format!("{}-certs", pod.ns));
        fs::create_dir(&dir).unwrap();
        let (chain, key) = self.mesh.leaf("shop", &pod.ns);
        let pem = |kind: &str, der: &[u8]| {
            let mut s = format!("-----BEGIN {kind}-----\n");
            let text = BASE64.encode(der);
            for line in text.as_bytes().chunks(64) {
                let _ = writeln!(s, "{}", String::from_utf8_lossy(line));
            }
            let _ = writeln!(s, "-----END {kind}-----");
            s
        };
        self.mesh.bundle().write(&dir.join("ca.pem")).unwrap();
        fs::write(dir.join("cert.pem"), chain.iter().map(|c| pem("CERTIFICATE", c)).collect::<String>()).unwrap();
        fs::write(dir.join("key.pem"), pem("PRIVATE KEY", key.secret_der())).unwrap();
        dir
    }
}

impl Pod {
    /// The body of an answer, or what curl said.
    pub fn get(&self, url: &str) -> Result<String, String> {
        let out = self.command("curl").args(["-sS", "-f", "-m", "5", url]).output().unwrap();
        if out.status.success() { Ok(String::from_utf8_lossy(&out.stdout).into_owned()) } else { Err(text(&out)) }
    }
    /// The sum of a metric's samples whose labels contain `labels`.
    pub fn metric(&self, name: &str, labels: &str) -> f64 {
        let text = self.sh("curl -sf -m 5 http://127.0.0.1:15020/metrics");
        let mine = |l: &&str| l.starts_with(name) && l[name.len()..].starts_with(['{', ' ']) && l.contains(labels);
        text.lines().filter(mine).filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}
