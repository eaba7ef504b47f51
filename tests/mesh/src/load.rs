//! Traffic that goes on while a test changes the mesh: HTTP/1 and HTTP/2 on connections that stay, HTTP/1 on new ones, and opaque connections, each of
//! which is a handshake of its own between the sidecars. Whatever is not a complete, correct answer is kept as a failure.

use crate::{Mesh, client::Call, raw};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinHandle,
    time::timeout,
};

#[derive(Default)]
struct Counts {
    stop: AtomicBool,
    made: [AtomicU64; 4],
    failed: Mutex<Vec<String>>,
}

/// Running traffic.
pub struct Load {
    counts: Arc<Counts>,
    tasks: Vec<JoinHandle<()>>,
}

/// A pause between requests, so that a busy machine has time for the change itself.
const PAUSE: Duration = Duration::from_millis(3);

impl Load {
    /// From `client` to the HTTP port 80 and, when it has one, the opaque port of a Service.
    pub fn start(mesh: &Mesh, client: &str, service: &str, opaque: Option<u16>) -> Load {
        let client = mesh.pod(client);
        let counts = Arc::new(Counts::default());
        let call = client.call(service, 80).method("POST").path("/load").body(b"0123456789");
        let mut tasks = vec![
            tokio::spawn(kept(counts.clone(), 0, call.clone())),
            tokio::spawn(kept(counts.clone(), 1, call.clone().http2())),
            tokio::spawn(fresh(counts.clone(), 2, call)),
        ];
        if let Some(port) = opaque {
            tasks.push(tokio::spawn(bytes(counts.clone(), 3, client.service_address(service, port))));
        }
        Load { counts, tasks }
    }
    /// Requests of each kind that were answered so far.
    pub fn made(&self) -> Vec<u64> {
        self.counts.made.iter().take(self.tasks.len()).map(|m| m.load(SeqCst)).collect()
    }
    /// Waits until each kind has made `n` more.
    pub async fn more(&self, n: u64) {
        let goal: Vec<u64> = self.made().iter().map(|m| m + n).collect();
        let end = std::time::Instant::now() + crate::LIMIT;
        while self.made().iter().zip(&goal).any(|(m, g)| m < g) {
            let failed = self.failures();
            assert!(failed.is_empty(), "{:#?}", &failed[..failed.len().min(5)]);
            assert!(std::time::Instant::now() < end, "of each kind {:?} were made, not {goal:?}", self.made());
            tokio::time::sleep(PAUSE).await;
        }
    }
    pub fn failures(&self) -> Vec<String> {
        self.counts.failed.lock().unwrap().clone()
    }
    /// Ends the traffic; panics when anything failed.
    pub async fn finish(self) {
        self.counts.stop.store(true, SeqCst);
        let made = self.made();
        for t in self.tasks {
            t.await.unwrap();
        }
        let failed = self.counts.failed.lock().unwrap();
        assert!(failed.is_empty(), "{} of {made:?} failed: {:#?}", failed.len(), &failed[..failed.len().min(5)]);
        assert!(made.iter().all(|m| *m > 0), "{made:?}");
    }
}

impl Counts {
    fn stopped(&self) -> bool {
        self.stop.load(SeqCst)
    }
    async fn count(&self, kind: usize, r: anyhow::Result<()>) -> bool {
        let ok = r.is_ok();
        match r {
            Ok(()) => _ = self.made[kind].fetch_add(1, SeqCst),
            Err(e) => {
                let what = ["kept HTTP/1", "kept HTTP/2", "new HTTP/1", "opaque"][kind];
                let mut all = self.failed.lock().unwrap();
                all.push(format!("{what}, number {}: {e:#}", self.made[kind].load(SeqCst)));
            }
        }
        tokio::time::sleep(PAUSE).await;
        ok
    }
}

async fn kept(counts: Arc<Counts>, kind: usize, call: Call) {
    while !counts.stopped() {
        let Ok(mut c) = call.connect().await else {
            counts.count(kind, Err(anyhow::anyhow!("not connected"))).await;
            continue;
        };
        while !counts.stopped() {
            let r = timeout(crate::LIMIT, c.send(&call)).await.map_err(Into::into).and_then(|a| check(a?));
            if !counts.count(kind, r).await {
                break;
            }
        }
    }
}

async fn fresh(counts: Arc<Counts>, kind: usize, call: Call) {
    while !counts.stopped() {
        let r = timeout(crate::LIMIT, call.send()).await.map_err(Into::into).and_then(|a| check(a?));
        counts.count(kind, r).await;
    }
}

fn check(a: crate::client::Answer) -> anyhow::Result<()> {
    anyhow::ensure!(a.status == 200, "{} {:?}", a.status, a.headers);
    let seen: crate::app::Seen = serde_json::from_slice(&a.body)?;
    anyhow::ensure!(seen.body_bytes == 10, "the application saw {} bytes", seen.body_bytes);
    Ok(())
}

async fn bytes(counts: Arc<Counts>, kind: usize, to: SocketAddr) {
    while !counts.stopped() {
        let exchange = async {
            let mut s = raw::connect(to).await?;
            s.write_all(b"ping").await?;
            let mut b = [0; 4];
            s.read_exact(&mut b).await?;
            anyhow::ensure!(&b == b"ping", "{b:?}");
            Ok(())
        };
        let r = timeout(crate::LIMIT, exchange).await.map_err(Into::into).and_then(|r| r);
        counts.count(kind, r).await;
    }
}
