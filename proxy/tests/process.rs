//! The binary: start from a static file with credentials from a directory, serve, drain, end.
#![allow(clippy::unwrap_used)]

use nix::{sys::signal, unistd::Pid};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use weft_identity::{request::pem, testing::TestMesh};
use weft_proxy::{
    config::Config,
    testing::{LIMIT, any_port},
};

fn credentials(mesh: &TestMesh, dir: &Path, account: &str) {
    std::fs::create_dir_all(dir).unwrap();
    let (chain, key) = mesh.leaf("shop", account);
    std::fs::write(dir.join("ca.pem"), pem("CERTIFICATE", &mesh.root)).unwrap();
    std::fs::write(dir.join("cert.pem"), chain.iter().map(|c| pem("CERTIFICATE", c)).collect::<String>()).unwrap();
    std::fs::write(dir.join("key.pem"), pem("PRIVATE KEY", key.secret_der())).unwrap();
}

fn free() -> SocketAddr {
    TcpListener::bind(any_port()).unwrap().local_addr().unwrap()
}

/// The client's file, as a person would write it.
fn client_yaml(dir: &Path, admin: SocketAddr, listen: SocketAddr, server: SocketAddr) -> String {
    format!(
        r#"
pod: {{ uid: client-uid, ips: [10.1.0.9], namespace: shop, name: client }}
admin: {admin}
access_log: {dir}/access.log
credentials: !static {{ dir: {dir}/client }}
capture: !mapped
  outbound:
    - {{ listen: {listen}, original: "10.96.0.1:5432" }}
  dial:
    - {{ original: "10.1.0.2:5432", to: {server} }}
static:
  services:
    - service: {{ namespace: shop, name: db, port: 5432 }}
      protocol: Opaque
      routes: None
      affinity: null
      addresses: ["10.96.0.1:5432"]
  endpoints:
    - service: {{ namespace: shop, name: db, port: 5432 }}
      endpoints:
        - address: "10.1.0.2:5432"
          mesh: {{ uid: server-uid, identity: "spiffe://cluster.local/ns/shop/sa/server" }}
          zone: null
          terminating: false
          workload: db-0
      not_ready: 0
      http2: false
      prefer_zone: false
"#,
        dir = dir.display()
    )
}
fn server_yaml(dir: &Path, admin: SocketAddr, listen: SocketAddr, app: SocketAddr) -> String {
    format!(
        r#"
pod: {{ uid: server-uid, ips: [10.1.0.2], namespace: shop, name: db-0 }}
admin: {admin}
credentials: !static {{ dir: {dir}/server }}
capture: !mapped
  inbound:
    - {{ listen: {listen}, original: "10.1.0.2:5432" }}
  app:
    - {{ original: "10.1.0.2:5432", to: {app} }}
static:
  inbound: {{ tls: Strict, probes: [] }}
"#,
        dir = dir.display()
    )
}

struct Process(Child);
impl Process {
    fn start(config: &Path, admin: SocketAddr) -> Process {
        let child = Command::new(env!("CARGO_BIN_EXE_weft-proxy"))
            .arg("--config")
            .arg(config)
            .env("WEFT_LOG", "warn")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let p = Process(child);
        let end = Instant::now() + LIMIT;
        while status(admin, "GET /ready") != Some(200) {
            assert!(Instant::now() < end, "not ready");
            thread::yield_now();
        }
        p
    }
    fn terminate(mut self) -> Option<i32> {
        signal::kill(Pid::from_raw(self.0.id() as i32), signal::Signal::SIGTERM).unwrap();
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(s) = self.0.try_wait().unwrap() {
                return s.code();
            }
            assert!(Instant::now() < end, "still there");
            thread::yield_now();
        }
    }
}
impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn status(at: SocketAddr, request: &str) -> Option<u16> {
    let mut s = TcpStream::connect_timeout(&at, Duration::from_secs(1)).ok()?;
    write!(s, "{request} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").ok()?;
    let mut line = String::new();
    BufReader::new(s).read_line(&mut line).ok()?;
    line.split(' ').nth(1)?.parse().ok()
}

#[test]
fn a_pair_of_processes_from_static_files() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mesh = TestMesh::new("cluster.local");
    credentials(&mesh, &dir.join("client"), "client");
    credentials(&mesh, &dir.join("server"), "server");
    let app = TcpListener::bind(any_port()).unwrap();
    let (client_admin, server_admin, outbound, inbound) = (free(), free(), free(), free());
    let (client_file, server_file) = (dir.join("client.yaml"), dir.join("server.yaml"));
    std::fs::write(&client_file, client_yaml(dir, client_admin, outbound, inbound)).unwrap();
    std::fs::write(&server_file, server_yaml(dir, server_admin, inbound, app.local_addr().unwrap())).unwrap();
    thread::spawn(move || {
        for s in app.incoming() {
            let mut s = s.unwrap();
            let mut b = [0; 4];
            if s.read_exact(&mut b).is_ok() {
                let _ = s.write_all(&b);
            }
        }
    });
    let server = Process::start(&server_file, server_admin);
    let client = Process::start(&client_file, client_admin);
    let mut s = TcpStream::connect(outbound).unwrap();
    s.set_read_timeout(Some(LIMIT)).unwrap();
    s.write_all(b"ping").unwrap();
    let mut b = Vec::new();
    s.read_to_end(&mut b).unwrap();
    assert_eq!(b, b"ping");
    let drained = Command::new(env!("CARGO_BIN_EXE_weft-proxy"))
        .args(["drain", "--admin", &server_admin.to_string()])
        .status()
        .unwrap();
    assert!(drained.success());
    drop(s);
    assert_eq!(client.terminate(), Some(0));
    assert_eq!(server.terminate(), Some(0));
    let log = std::fs::read_to_string(dir.join("access.log")).unwrap();
    let line: serde_json::Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!((&line["parent"], &line["mtls"], &line["sent"]), (&"shop/db:5432".into(), &true.into(), &4.into()));
}

#[test]
fn mistakes_in_the_file_name_the_field() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.yaml");
    for (text, wanted) in [
        ("pod: {}", "uid"),
        ("pod: { uid: u, ips: [], namespace: n, name: p }\nstatic: {}", "pod.ips"),
        ("pod: { uid: u, ips: [10.0.0.1], namespace: n, name: p }", "controller"),
        ("pod: { uid: u, ips: [10.0.0.1], namespace: n, name: p }\nstatic: {}\nworkers: 0", "workers"),
        ("pod: { uid: u, ips: [10.0.0.1], namespace: n, name: p }\nstatic: {}\nspeed: 1", "speed"),
        ("pod: { uid: u, ips: [10.0.0.x], namespace: n, name: p }\nstatic: {}", "line 1"),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = Config::load(&path).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
    assert!(Config::load(&dir.path().join("none")).is_err());
}
