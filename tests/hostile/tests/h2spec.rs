//! `h2spec` against every listener that speaks HTTP/2: the outbound one (the application's own h2c), the inbound one in plain text, and the mesh's, which
//! is reached through a forwarder that holds a member's certificate.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use std::{net::SocketAddr, path::PathBuf, process::Command, sync::Arc};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use weft_core::{identity::WorkloadIdentity, service::Protocol};
use weft_identity::{Alpn, credentials::server_name};
use weft_test_hostile::{Builder, Pair, any_port, frames::PREFACE};

/// Installed by `make test`.
fn program() -> PathBuf {
    let cache = std::env::var_os("WEFT_CACHE").map(PathBuf::from).unwrap_or_else(|| {
        let home = std::env::var_os("HOME").expect("HOME is set");
        PathBuf::from(home).join(".cache/weft")
    });
    let at = cache.join("bin/h2spec");
    assert!(at.exists(), "h2spec is missing at {}; `make test` installs it (tests/tools/deps.sh test)", at.display());
    at
}

/// Answers every request with a body.
async fn application() -> SocketAddr {
    let l = TcpListener::bind(any_port()).await.unwrap();
    let at = l.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((s, _)) = l.accept().await {
            tokio::spawn(async move {
                // what is no HTTP/2 reaches the application of an undeclared port as bytes; it is read to its end, since the kernel resets a connection that
                // is closed with unread bytes, and h2spec wants a proper end
                let mut start = [0; 24];
                while let Ok(n @ 1..24) = s.peek(&mut start).await
                    && PREFACE.starts_with(&start[..n])
                {
                    let _ = s.readable().await;
                    tokio::task::yield_now().await;
                }
                if start != *PREFACE {
                    let mut s = s;
                    let _ = s.read(&mut [0; 4096]).await;
                    let _ = s.shutdown().await;
                    while let Ok(1..) = s.read(&mut [0; 4096]).await {}
                    return;
                }
                let Ok(mut c) = h2::server::handshake(s).await else { return };
                while let Some(Ok((request, mut respond))) = c.accept().await {
                    tokio::spawn(async move {
                        // answered once it is whole: an early answer would end the stream before what h2spec sends wrongly in its second part
                        let mut body = request.into_body();
                        while let Some(d) = body.data().await {
                            let Ok(d) = d else { return };
                            let _ = body.flow_control().release_capacity(d.len());
                        }
                        if body.trailers().await.is_err() {
                            return;
                        }
                        let answer = http::Response::builder().header("content-length", "11").body(()).unwrap();
                        let Ok(mut send) = respond.send_response(answer, false) else { return };
                        let _ = send.send_data(Bytes::from_static(b"hello world"), true);
                    });
                }
            });
        }
    });
    at
}

/// The same in HTTP/1.1: what an inbound sidecar speaks to its application for a peer that says nothing else, as h2spec does not.
async fn http1_application() -> SocketAddr {
    let l = TcpListener::bind(any_port()).await.unwrap();
    let at = l.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((s, _)) = l.accept().await {
            let service = hyper::service::service_fn(|r: http::Request<hyper::body::Incoming>| async {
                r.into_body().collect().await?;
                Ok::<_, hyper::Error>(http::Response::new(Full::new(Bytes::from_static(b"hello world"))))
            });
            let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(s), service);
            // requests that are cut off are what h2spec sends
            tokio::spawn(async move { drop(serving.await) });
        }
    });
    at
}

/// Plain text on loopback in, `weft/h2` with a member's certificate out.
async fn forwarder(pair: &Pair) -> SocketAddr {
    let member = pair.mesh.credentials("shop", "prober", Some("prober-uid"));
    let server = WorkloadIdentity::new("cluster.local", "shop", "server").unwrap();
    let config: Arc<rustls::ClientConfig> = member.mesh_client(&server, Alpn::MeshHttp).unwrap();
    let connector = tokio_rustls::TlsConnector::from(config);
    let to = pair.server();
    let l = TcpListener::bind(any_port()).await.unwrap();
    let at = l.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = l.accept().await {
            let connector = connector.clone();
            tokio::spawn(async move {
                let far = TcpStream::connect(to).await.unwrap();
                let name = server_name("server-0-uid").unwrap();
                let mut far = connector.connect(name, far).await.unwrap();
                // the end of either side ends both, as it would without the forwarder
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    at
}

async fn conforms(what: &str, at: SocketAddr) {
    let mut h2spec = Command::new(program());
    h2spec.args(["--strict", "--host", "127.0.0.1", "--timeout", "3", "--port", &at.port().to_string()]);
    let out = tokio::task::spawn_blocking(move || h2spec.output().unwrap()).await.unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let summary = text.lines().rev().find(|l| l.contains("passed")).unwrap_or("no summary").to_owned();
    // "147 tests, 147 passed, 0 skipped, 0 failed"
    let count = |word: &str| {
        let part = summary.split(", ").find(|p| p.ends_with(word))?;
        part.split(' ').next()?.parse::<u32>().ok()
    };
    let failures = text.find("Failures:").map_or(text.as_str(), |at| &text[at..]);
    let counts = (count("tests"), count("passed"), count("skipped"), count("failed"));
    let (Some(tests), Some(passed), Some(skipped), Some(0)) = counts else {
        panic!("{what}: {summary}\n{failures}\n{}", String::from_utf8_lossy(&out.stderr))
    };
    assert!(tests >= 140 && passed + skipped == tests && skipped <= 1, "{what}: {summary}\n{text}");
    println!("{what}: {summary}");
}

async fn pair(at: SocketAddr) -> Pair {
    let start = move || Builder { protocol: Protocol::Http2, http2: true, ..Builder::new(at) }.start();
    tokio::task::spawn_blocking(start).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_21_h2spec_on_the_outbound_listener() {
    let pair = pair(application().await).await;
    conforms("outbound", pair.service()).await;
    tokio::task::block_in_place(|| drop(pair));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_21_h2spec_on_the_plain_inbound_listener() {
    let pair = pair(application().await).await;
    conforms("inbound, plain", pair.server()).await;
    tokio::task::block_in_place(|| drop(pair));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_21_h2spec_on_the_mesh_listener() {
    let pair = pair(http1_application().await).await;
    let at = forwarder(&pair).await;
    conforms("inbound, mesh", at).await;
    tokio::task::block_in_place(|| drop(pair));
}
