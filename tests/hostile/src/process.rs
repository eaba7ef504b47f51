//! Sidecars as processes of their own: for tests that stop one, starve it, or look at its memory.

use crate::{any_port, until};
use nix::{
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};
use tempfile::TempDir;
use weft_core::{
    endpoint::{Endpoint, Endpoints, MeshPeer},
    route::Routes,
    service::{Protocol, ServicePort},
};
use weft_identity::{request::pem, testing::TestMesh};
use weft_proxy::{
    config::{Config, Credentials, Dial, Listen, Mapped, Static},
    testing::{config, pod, pod_address, service, service_address},
};

/// `weft-proxy`, which is built beside the tests.
pub fn program() -> PathBuf {
    let me = std::env::current_exe().unwrap();
    let at = me.parent().and_then(Path::parent).unwrap().join("weft-proxy");
    assert!(at.exists(), "{} is missing; build it with: cargo build -p weft-proxy", at.display());
    at
}

/// An address that nobody listens on now.
pub fn free() -> SocketAddr {
    TcpListener::bind(any_port()).unwrap().local_addr().unwrap()
}

/// The admin port says that the proxy is ready.
pub fn ready(admin: SocketAddr) -> bool {
    let Ok(mut s) = TcpStream::connect(admin) else { return false };
    let mut all = String::new();
    let asked = s.write_all(b"GET /ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    asked.is_ok() && s.read_to_string(&mut all).is_ok() && all.starts_with("HTTP/1.1 200")
}

/// Lifts this process's limit of descriptors, which its children inherit, to `wanted` or what is allowed. Returns what it is then.
pub fn descriptors(wanted: u64) -> usize {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // only root may lift the hard limit, and the kernel may say no even to it
    let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    if hard < wanted {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted);
    }
    getrlimit(Resource::RLIMIT_NOFILE).unwrap().0 as usize
}

/// Ends with the test.
pub struct Process(pub Child);
impl Process {
    /// Starts the proxy and waits until it serves.
    pub fn start(file: &Path, admin: SocketAddr) -> Process {
        let mut c = Command::new(program());
        c.arg("--config").arg(file).env("WEFT_LOG", "error").stdin(Stdio::null());
        let p = Process(c.spawn().unwrap());
        until("the proxy is ready", || ready(admin));
        p
    }
    /// Stops it where it is, until [`go_on`](Self::go_on).
    pub fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        // the signal is on its way; its effect is in the process's state
        let stat = format!("/proc/{}/stat", self.0.id());
        until("the process stands still", || {
            std::fs::read_to_string(&stat).unwrap().rsplit(") ").next().unwrap().starts_with('T')
        });
    }
    pub fn go_on(&self) {
        self.signal(Signal::SIGCONT);
    }
    fn signal(&self, s: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), s).unwrap();
    }
    /// Resident memory in bytes.
    pub fn resident(&self) -> usize {
        crate::resident_of(&self.0.id().to_string())
    }
    pub fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}
impl Drop for Process {
    fn drop(&mut self) {
        // a process that stands still ends, too
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A client's sidecar and one for each application behind the same Service, each a process.
pub struct Processes {
    pub client: Process,
    pub servers: Vec<Process>,
    service: SocketAddr,
    pods: Vec<SocketAddr>,
    inbound: Vec<SocketAddr>,
    _dir: TempDir,
}

impl Processes {
    pub fn start(apps: &[SocketAddr], routes: Routes) -> Processes {
        let dir = tempfile::tempdir().unwrap();
        let mesh = TestMesh::new("cluster.local");
        let launch = |name: &str, account: &str, mut c: Config| {
            let own = dir.path().join(name);
            std::fs::create_dir(&own).unwrap();
            let (chain, key) = mesh.leaf("shop", account);
            std::fs::write(own.join("ca.pem"), pem("CERTIFICATE", &mesh.root)).unwrap();
            std::fs::write(own.join("cert.pem"), chain.iter().map(|c| pem("CERTIFICATE", c)).collect::<String>())
                .unwrap();
            std::fs::write(own.join("key.pem"), pem("PRIVATE KEY", key.secret_der())).unwrap();
            c.admin = free();
            c.credentials = Some(Credentials::Static { dir: own.clone() });
            let file = own.join("proxy.yaml");
            // JSON is YAML
            std::fs::write(&file, serde_json::to_string(&c).unwrap()).unwrap();
            Process::start(&file, c.admin)
        };
        let (mut servers, mut endpoints, mut dial, mut inbound) = (vec![], vec![], vec![], vec![]);
        for (n, app) in apps.iter().enumerate() {
            let (name, address, listen) = (format!("server-{n}"), pod_address(n as u8), free());
            let mapped = Mapped {
                inbound: vec![Listen { listen, original: address }],
                app: vec![Dial { original: address, to: *app }],
                ..Mapped::default()
            };
            let c = config(pod(&name, address.ip()), mapped, Static::default());
            dial.push(Dial { original: address, to: listen });
            inbound.push(listen);
            let mesh = MeshPeer { uid: c.pod.uid.clone(), identity: mesh.identity("shop", "server") };
            endpoints.push(Arc::new(Endpoint {
                address,
                mesh: Some(mesh),
                zone: None,
                terminating: false,
                workload: name.as_str().into(),
            }));
            servers.push(launch(&name, "server", c));
        }
        let port = ServicePort {
            service: service(),
            protocol: Protocol::Http,
            routes,
            affinity: None,
            requests: Default::default(),
            addresses: vec![service_address()],
        };
        let set = Endpoints {
            service: service(),
            endpoints,
            not_ready: 0,
            http2: false,
            prefer_zone: false,
            policy: Default::default(),
        };
        let at = free();
        let pods: Vec<_> = apps.iter().map(|_| free()).collect();
        let mut outbound = vec![Listen { listen: at, original: service_address() }];
        outbound.extend(pods.iter().enumerate().map(|(n, p)| Listen { listen: *p, original: pod_address(n as u8) }));
        let mapped = Mapped { outbound, dial, ..Mapped::default() };
        let fixed = Static { services: vec![port], endpoints: vec![set], ..Static::default() };
        let c = config(pod("client", "10.1.0.100".parse().unwrap()), mapped, fixed);
        let client = launch("client", "client", c);
        Processes { client, servers, service: at, pods, inbound, _dir: dir }
    }
    /// Where the client's application dials the Service.
    pub fn service(&self) -> SocketAddr {
        self.service
    }
    /// ... or server pod `n` by its own address.
    pub fn pod(&self, n: usize) -> SocketAddr {
        self.pods[n]
    }
    /// Where anybody reaches server pod `n`.
    pub fn inbound(&self, n: usize) -> SocketAddr {
        self.inbound[n]
    }
}
