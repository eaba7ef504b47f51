//! Memory of the whole process, so these tests have a process of their own and run one at a time.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use http_body_util::BodyExt as _;
use std::{
    fmt::Write as _,
    io,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::Mutex,
    time::timeout,
};
use weft_test_mesh::{
    LIMIT, Mesh,
    app::{Reply, Seen},
    client::Call,
    objects::Objects,
    raw,
};

static ALONE: Mutex<()> = Mutex::const_new(());

fn web() -> Objects {
    Objects::shop().pod("client", "client", &[9000]).pod("web-1", "web", &[8080]).service(
        "web",
        "web",
        &["80, name: http, targetPort: 8080"],
    )
}

fn sized(_: u64, seen: &Seen) -> Reply {
    match seen.path.strip_prefix("/bytes/") {
        Some(n) => Reply::Bytes(n.parse().unwrap()),
        None => Reply::Echo,
    }
}

async fn sizes() -> Mesh {
    Mesh::builder().yaml(web().yaml()).app("web-1", sized).start().await
}

fn empty() -> weft_test_mesh::client::Body {
    http_body_util::Empty::new().map_err(|e| match e {}).boxed_unsync()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_19_a_stalled_reader_stalls_nobody_and_costs_little() {
    let _alone = ALONE.lock().await;
    let mesh = sizes().await;
    let client = mesh.pod("client");
    let big = client.call("web", 80).http2().path("/bytes/67108864");
    let mut shared = big.connect().await.unwrap();
    let before = raw::resident();
    // their heads are read, their bodies are not: on a connection that others use, on one of their own, and in HTTP/1
    let mut stalled = vec![shared.begin(&big, empty()).await.unwrap()];
    let mut kept = Vec::new();
    for call in [big.clone(), client.call("web", 80).path("/bytes/67108864")] {
        let mut c = call.connect().await.unwrap();
        stalled.push(c.begin(&call, empty()).await.unwrap());
        kept.push(c);
    }
    let start = Instant::now();
    for n in 0..100 {
        let path = if n % 10 == 0 { "/bytes/300000" } else { "/" };
        let a = timeout(LIMIT, shared.send(&client.call("web", 80).http2().path(path))).await.unwrap().unwrap();
        assert_eq!(a.status, 200);
        if n % 10 == 0 {
            assert_eq!(a.body.len(), 300_000);
        }
        assert_eq!(timeout(LIMIT, client.call("web", 80).send()).await.unwrap().unwrap().status, 200);
    }
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    // the application itself holds the 3 x 64 MB
    let grown = raw::resident().saturating_sub(before);
    assert!(grown < (3 * 64 + 40) << 20, "{} MB", grown >> 20);
    // whoever reads after all gets everything
    for (head, body) in stalled {
        assert_eq!(head.status, 200);
        let n = timeout(LIMIT, read(body)).await.unwrap();
        assert_eq!(n, 64 << 20);
    }
}

async fn read(mut body: hyper::body::Incoming) -> usize {
    let mut n = 0;
    while let Some(f) = body.frame().await {
        n += f.unwrap().data_ref().map_or(0, Bytes::len);
    }
    n
}

/// Reads a head, then so many bytes as it says, and answers how many came; `GET` gets 256 MB.
async fn sink(mut s: tokio::net::TcpStream) -> io::Result<()> {
    let mut b = vec![0; 256 * 1024];
    let (mut head, mut n) = (Vec::new(), 0);
    let end = loop {
        match head.windows(4).position(|w| w == b"\r\n\r\n") {
            Some(at) => break at + 4,
            None => {
                n = s.read(&mut b).await?;
                if n == 0 {
                    return Ok(());
                }
                head.extend_from_slice(&b[..n]);
            }
        }
    };
    let text = String::from_utf8_lossy(&head[..end]).to_ascii_lowercase();
    let mut answer = String::from("HTTP/1.1 200 OK\r\n");
    if text.starts_with("get ") {
        let _ = write!(answer, "content-length: {}\r\n\r\n", 256 << 20);
        s.write_all(answer.as_bytes()).await?;
        for _ in 0..1024 {
            s.write_all(&b).await?;
        }
        return Ok(());
    }
    let want: usize = text.lines().find_map(|l| l.strip_prefix("content-length: ")).unwrap().parse().unwrap();
    let mut got = head.len() - end;
    while got < want && n > 0 {
        n = s.read(&mut b).await?;
        got += n;
    }
    let body = got.to_string();
    let _ = write!(answer, "content-length: {}\r\n\r\n{body}", body.len());
    s.write_all(answer.as_bytes()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_1_gb_leaves_memory_flat() {
    const LENGTH: usize = 1 << 30;
    let _alone = ALONE.lock().await;
    let mesh = Mesh::builder().yaml(web().yaml()).bare("web-1").start().await;
    raw::serve(mesh.pod("web-1").app_address(8080), sink).await;
    let at = mesh.pod("client").service_address("web", 80);
    let mut s = raw::dial(at).await;
    let head = format!("PUT /sink HTTP/1.1\r\nhost: web\r\ncontent-length: {LENGTH}\r\n\r\n");
    s.write_all(head.as_bytes()).await.unwrap();
    let chunk = vec![b'g'; 1 << 20];
    let start = Instant::now();
    let (mut first, mut most) = (0, 0);
    for n in 0..LENGTH / chunk.len() {
        timeout(LIMIT, s.write_all(&chunk)).await.unwrap().unwrap();
        if n == 64 {
            first = raw::resident();
        }
        if n % 64 == 0 {
            most = most.max(raw::resident());
        }
    }
    let got = raw::until(&mut s, &LENGTH.to_string()).await;
    assert!(got.starts_with("HTTP/1.1 200 "), "{got}");
    assert!(most < first + (16 << 20), "{} MB, then {} MB", first >> 20, most >> 20);
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    // and 256 MB the other way
    let call = Call::new(at, "web").path("/source");
    let (head, body) = call.connect().await.unwrap().begin(&call, empty()).await.unwrap();
    assert_eq!(head.status, 200);
    assert_eq!(timeout(LIMIT, read(body)).await.unwrap(), 256 << 20);
    let end = raw::resident();
    assert!(end < first + (16 << 20), "{} MB, then {} MB", first >> 20, end >> 20);
}
