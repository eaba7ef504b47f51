//! A proxy of its own process whose descriptors run out.
#![allow(clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::{Command, Stdio},
    time::Duration,
};
use weft_identity::{request::pem, testing::TestMesh};
use weft_test_hostile::{
    app, dial,
    process::{Process, free, program, ready},
    until,
};

#[test]
fn row_43_a_storm_beyond_the_descriptors_pauses_accepting_and_passes() {
    let echo = app(|mut s| {
        let mut b = [0; 64];
        while let Ok(n @ 1..) = s.read(&mut b) {
            if s.write_all(&b[..n]).is_err() {
                return;
            }
        }
    });
    let mesh = TestMesh::new("cluster.local");
    let dir = tempfile::tempdir().unwrap();
    let (chain, key) = mesh.leaf("shop", "server");
    let file = |name: &str, text: String| std::fs::write(dir.path().join(name), text).unwrap();
    file("ca.pem", pem("CERTIFICATE", &mesh.root));
    file("cert.pem", chain.iter().map(|c| pem("CERTIFICATE", c)).collect());
    file("key.pem", pem("PRIVATE KEY", key.secret_der()));
    let (admin, listen) = (free(), free());
    file(
        "proxy.yaml",
        format!(
            r#"
pod: {{ uid: server-uid, ips: [10.1.0.2], namespace: shop, name: db-0 }}
admin: {admin}
credentials: !static {{ dir: {dir} }}
capture: !mapped
  inbound:
    - {{ listen: {listen}, original: "10.1.0.2:5432" }}
  app:
    - {{ original: "10.1.0.2:5432", to: {echo} }}
static:
  inbound: {{ tls: Permissive, probes: [] }}
"#,
            dir = dir.path().display()
        ),
    );
    // both limits, so that the proxy cannot raise the soft one: 128 descriptors, of which 64 are reserved, are 32 connections with two sides
    let child = Command::new("sh")
        .args(["-c", "ulimit -n 128 && exec \"$0\" --config \"$1\""])
        .arg(program())
        .arg(dir.path().join("proxy.yaml"))
        .env("WEFT_LOG", "error")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut process = Process(child);
    until("the proxy is ready", || ready(admin));
    let ping = |s: &mut TcpStream| {
        s.write_all(b"ping").unwrap();
        s.read_exact(&mut [0; 4]).unwrap();
    };
    let mut first: Vec<_> = (0..10).map(|_| dial(listen)).collect();
    first.iter_mut().for_each(ping);
    // ten times what can be served; what is not accepted waits in the kernel's queue
    let mut storm: Vec<_> = (0..320)
        .map(|_| {
            let mut s = dial(listen);
            let _ = s.write_all(b"ping");
            s
        })
        .collect();
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", process.0.id())).unwrap().count();
    for _ in 0..20 {
        first.iter_mut().for_each(ping);
        assert!(descriptors() < 128, "{}", descriptors());
    }
    assert!(ready(admin), "the admin port answers while accepting pauses");
    // somebody at the end of the queue waits, and is not refused
    let mut last = storm.pop().unwrap();
    last.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(last.read(&mut [0; 4]).is_err(), "served beyond the limit");
    drop(storm);
    last.set_read_timeout(Some(weft_test_hostile::LIMIT)).unwrap();
    last.read_exact(&mut [0; 4]).unwrap();
    ping(&mut dial(listen));
    first.iter_mut().for_each(ping);
    assert!(process.lives(), "it lives");
}
