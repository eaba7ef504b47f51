//! HTTP through a pair of proxies with mutual TLS between them, on real sockets.
#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
};
use weft_core::{
    policy::{InboundPolicy, MeshTlsMode},
    service::Protocol,
};
use weft_identity::{Alpn, credentials::server_name};
use weft_proxy::testing::{Builder, LIMIT, any_port};

fn app(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let l = TcpListener::bind(any_port()).unwrap();
    let at = l.local_addr().unwrap();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for s in l.incoming() {
            let serve = serve.clone();
            thread::spawn(move || serve(s.unwrap()));
        }
    });
    at
}

/// Reads one message: its start line and fields, and its body by length or chunks.
fn message(r: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if r.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        head += &line;
    }
    let field = |name: &str| {
        let lower = head.to_ascii_lowercase();
        lower.lines().find_map(|l| l.strip_prefix(&format!("{name}: ")).map(|v| v.trim().to_owned()))
    };
    let mut body = Vec::new();
    if let Some(n) = field("content-length") {
        body.resize(n.parse().unwrap(), 0);
        r.read_exact(&mut body).ok()?;
    } else if field("transfer-encoding").is_some() {
        loop {
            let mut size = String::new();
            r.read_line(&mut size).ok()?;
            let n = usize::from_str_radix(size.trim(), 16).unwrap();
            let mut chunk = vec![0; n + 2];
            r.read_exact(&mut chunk).ok()?;
            if n == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..n]);
        }
    }
    Some((head, body))
}

/// An HTTP/1.1 server that answers with what it got.
fn mirror() -> SocketAddr {
    app(|s| {
        let mut r = BufReader::new(s.try_clone().unwrap());
        let mut w = s;
        while let Some((head, body)) = message(&mut r) {
            let text = format!("{head}\n{}", String::from_utf8_lossy(&body));
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nx-app: yes\r\n\r\n{text}", text.len());
            if w.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    })
}

struct Client(BufReader<TcpStream>);
impl Client {
    fn dial(at: SocketAddr) -> Client {
        let s = TcpStream::connect(at).unwrap();
        s.set_read_timeout(Some(LIMIT)).unwrap();
        Client(BufReader::new(s))
    }
    fn send(&mut self, bytes: &str) {
        self.0.get_mut().write_all(bytes.as_bytes()).unwrap();
    }
    fn answer(&mut self) -> (String, String) {
        let (head, body) = message(&mut self.0).expect("an answer");
        (head, String::from_utf8(body).unwrap())
    }
}

#[test]
fn h1_keep_alive_chunked_upload_and_pipelining() {
    for protocol in [Protocol::Detect, Protocol::Http] {
        let pair = Builder { protocol, ..Builder::new(mirror()) }.start();
        let mut c = Client::dial(pair.service());
        for n in 0..3 {
            c.send(&format!("GET /a?{n} HTTP/1.1\r\nHost: web\r\nX-Mine: 1\r\n\r\n"));
            let (head, body) = c.answer();
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            assert!(body.starts_with(&format!("GET /a?{n} HTTP/1.1\r\n")), "{body}");
            let lower = body.to_ascii_lowercase();
            assert!(lower.contains("host: web\r\n") && lower.contains("x-mine: 1\r\n"), "{body}");
            assert!(!lower.contains("weft-meta"), "{body}");
        }
        c.send(
            "POST /up HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n",
        );
        assert!(c.answer().1.ends_with("\nabcdefg"));
        c.send("GET /1 HTTP/1.1\r\nHost: web\r\n\r\nGET /2 HTTP/1.1\r\nHost: web\r\n\r\n");
        assert!(c.answer().1.starts_with("GET /1 "));
        assert!(c.answer().1.starts_with("GET /2 "));
        // the mesh carried it: one handshake for everything
        assert_eq!(pair.servers[0].stats().handshakes_server.get(), 1);
    }
}

#[test]
fn plain_clients_of_a_permissive_pod_and_pods_by_their_own_address() {
    let pair = Builder::new(mirror()).start();
    for at in [pair.server(), pair.pod()] {
        let mut c = Client::dial(at);
        c.send("GET /x HTTP/1.1\r\nHost: pod\r\n\r\n");
        assert!(c.answer().1.starts_with("GET /x HTTP/1.1\r\n"));
    }
    let strict = InboundPolicy { tls: MeshTlsMode::Strict, ..InboundPolicy::default() };
    let pair = Builder { inbound: strict, ..Builder::new(mirror()) }.start();
    let mut c = Client::dial(pair.service());
    c.send("GET /x HTTP/1.1\r\nHost: web\r\n\r\n");
    assert!(c.answer().0.starts_with("HTTP/1.1 200"));
}

#[test]
fn row_11_a_declared_http_port_answers_400_and_never_turns_into_bytes() {
    let pair = Builder { protocol: Protocol::Http, ..Builder::new(mirror()) }.start();
    for bytes in ["GET /old\r\n\r\n", "SSH-2.0-OpenSSH_9\r\n\r\n", "\u{16}\u{3}\u{1}\0\u{5}hello"] {
        let mut c = Client::dial(pair.service());
        c.send(bytes);
        let mut all = String::new();
        let _ = c.0.read_to_string(&mut all);
        assert!(all.starts_with("HTTP/1.1 400"), "{bytes:?}: {all:?}");
    }
    assert_eq!(pair.servers[0].stats().accepted_inbound.get(), 0);
}

#[test]
fn a_large_body_both_ways_and_a_refused_application() {
    let pair = Builder::new(mirror()).start();
    let mut c = Client::dial(pair.service());
    let body = "0123456789abcdef".repeat(200_000);
    let mut w = c.0.get_ref().try_clone().unwrap();
    let request = format!("PUT /big HTTP/1.1\r\nHost: web\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let upload = thread::spawn(move || w.write_all(request.as_bytes()).unwrap());
    let (_, answer) = c.answer();
    upload.join().unwrap();
    assert!(answer.ends_with(&body));
    let dead = TcpListener::bind(any_port()).unwrap().local_addr().unwrap();
    let pair = Builder::new(dead).start();
    let mut c = Client::dial(pair.service());
    c.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n");
    let (head, _) = c.answer();
    assert!(head.starts_with("HTTP/1.1 503") && head.to_ascii_lowercase().contains("weft-error"), "{head}");
}

#[test]
fn an_upgrade_becomes_a_tunnel() {
    let ws = app(|s| {
        let mut r = BufReader::new(s.try_clone().unwrap());
        let mut w = s;
        let (head, _) = message(&mut r).unwrap();
        assert!(head.to_ascii_lowercase().contains("upgrade: websocket"), "{head}");
        w.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nwelcome")
            .unwrap();
        let mut b = [0; 64];
        while let Ok(n @ 1..) = r.read(&mut b) {
            w.write_all(&b[..n]).unwrap();
        }
    });
    let pair = Builder::new(ws).start();
    let mut c = Client::dial(pair.service());
    c.send("GET /ws HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
    let (head, _) = message(&mut c.0).unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let mut b = [0; 7];
    c.0.read_exact(&mut b).unwrap();
    assert_eq!(&b, b"welcome");
    c.send("GET / HTTP/1.1 is not a request here");
    let mut b = [0; 36];
    c.0.read_exact(&mut b).unwrap();
    assert_eq!(&b, b"GET / HTTP/1.1 is not a request here");
}

/// HTTP/2 with trailers, as gRPC uses it, against a server of the h2 crate.
#[tokio::test]
async fn h2_streams_with_trailers() {
    let l = tokio::net::TcpListener::bind(any_port()).await.unwrap();
    let at = l.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((s, _)) = l.accept().await {
            tokio::spawn(async move {
                let mut c = h2::server::handshake(s).await.unwrap();
                while let Some(Ok((request, mut respond))) = c.accept().await {
                    tokio::spawn(async move {
                        let path = request.uri().path().to_owned();
                        let mut body = request.into_body();
                        let answer =
                            http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                        let mut send = respond.send_response(answer, false).unwrap();
                        while let Some(Ok(d)) = body.data().await {
                            let _ = body.flow_control().release_capacity(d.len());
                            send.send_data(d, false).unwrap();
                        }
                        let mut t = http::HeaderMap::new();
                        t.insert("grpc-status", "0".parse().unwrap());
                        t.insert("x-path", path.parse().unwrap());
                        send.send_trailers(t).unwrap();
                    });
                }
            });
        }
    });
    let pair = tokio::task::spawn_blocking(move || Builder { http2: true, ..Builder::new(at) }.start()).await.unwrap();
    let s = tokio::net::TcpStream::connect(pair.service()).await.unwrap();
    let (client, connection) = h2::client::handshake(s).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut streams = tokio::task::JoinSet::new();
    for n in 0..50 {
        let mut client = client.clone();
        streams.spawn(async move {
            client = client.ready().await.unwrap();
            let request = http::Request::post(format!("http://web/s/{n}")).body(()).unwrap();
            let (answer, mut send) = client.send_request(request, false).unwrap();
            for piece in ["one", "two", "three"] {
                send.send_data(bytes::Bytes::from(piece), false).unwrap();
            }
            send.send_data(bytes::Bytes::new(), true).unwrap();
            let mut body = answer.await.unwrap().into_body();
            let mut got = Vec::new();
            while let Some(d) = body.data().await {
                let d = d.unwrap();
                let _ = body.flow_control().release_capacity(d.len());
                got.extend_from_slice(&d);
            }
            assert_eq!(got, b"onetwothree");
            let t = body.trailers().await.unwrap().unwrap();
            assert_eq!(t["grpc-status"], "0");
            assert_eq!(t["x-path"], format!("/s/{n}").as_str());
        });
    }
    let all = async {
        while let Some(r) = streams.join_next().await {
            r.unwrap()
        }
    };
    tokio::time::timeout(LIMIT, all).await.expect("all streams end");
    driver.abort();
    tokio::task::spawn_blocking(move || drop(pair)).await.unwrap();
}

/// An application that answers when it is told to; says who connected, and when a client has gone.
fn gated() -> (SocketAddr, std::sync::mpsc::Receiver<std::sync::mpsc::Sender<()>>, std::sync::mpsc::Receiver<()>) {
    let (asked, asks) = std::sync::mpsc::channel();
    let (gone, goings) = std::sync::mpsc::channel();
    let at = app(move |s| {
        let mut r = BufReader::new(s.try_clone().unwrap());
        let mut w = s;
        while let Some((head, _)) = message(&mut r) {
            if head.starts_with("GET /now") {
                w.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nnow").unwrap();
                continue;
            }
            let (go, wait) = std::sync::mpsc::channel();
            asked.send(go).unwrap();
            if wait.recv().is_ok() {
                let _ = w.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nlater");
            }
        }
        let _ = gone.send(());
    });
    (at, asks, goings)
}

/// Waits until a drain is in force.
fn draining(proxy: &weft_proxy::control::Proxy) {
    let end = std::time::Instant::now() + LIMIT;
    while *proxy.state().borrow() != weft_proxy::control::State::Draining {
        assert!(std::time::Instant::now() < end);
        thread::yield_now();
    }
}

#[test]
fn row_59_a_drain_finishes_requests_then_ends_at_once() {
    let (at, asks, _) = gated();
    let pair = Builder::new(at).start();
    let mut idle = Client::dial(pair.service());
    idle.send("GET /now HTTP/1.1\r\nHost: web\r\n\r\n");
    assert_eq!(idle.answer().1, "now");
    let mut busy = Client::dial(pair.service());
    busy.send("GET /later HTTP/1.1\r\nHost: web\r\n\r\n");
    let go = asks.recv_timeout(LIMIT).unwrap();
    for proxy in [&pair.client, &pair.servers[0]] {
        proxy.control().terminate();
        draining(proxy);
    }
    go.send(()).unwrap();
    let (head, body) = busy.answer();
    assert_eq!(body, "later");
    assert!(head.to_ascii_lowercase().contains("connection: close"), "{head}");
    let begun = std::time::Instant::now();
    assert!(pair.client.wait_stopped(LIMIT) && pair.servers[0].wait_stopped(LIMIT));
    assert!(begun.elapsed() < std::time::Duration::from_secs(1), "{:?}", begun.elapsed());
    // nothing was under way on this one: it did not hold the drain up
    assert_eq!(idle.0.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(pair.client.stats().drain_reset.get() + pair.servers[0].stats().drain_reset.get(), 0);
}

/// A TLS 1.3 client is done with its handshake before the server is, and sends its first request behind it: whoever stops in between would lose the request.
#[test]
fn row_59_a_stop_waits_for_a_handshake_that_the_client_has_finished() {
    let pair = Builder::new(gated().0).start();
    let credentials = pair.mesh.credentials("shop", "client", None);
    let config = credentials.mesh_client(&pair.mesh.identity("shop", "server"), Alpn::MeshHttp).unwrap();
    let mut tls = rustls::ClientConnection::new(config, server_name("server-0-uid").unwrap()).unwrap();
    let mut s = TcpStream::connect(pair.server()).unwrap();
    s.set_read_timeout(Some(LIMIT)).unwrap();
    tls.write_tls(&mut s).unwrap();
    while tls.is_handshaking() {
        tls.read_tls(&mut s).unwrap();
        tls.process_new_packets().unwrap();
        if tls.is_handshaking() {
            tls.write_tls(&mut s).unwrap();
        }
    }
    let server = &pair.servers[0];
    server.control().terminate();
    draining(server);
    // it has looked for what is under way, and found the handshake
    assert!(!server.wait_stopped(std::time::Duration::from_millis(200)));
    let mut request = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    // HEADERS, END_STREAM | END_HEADERS: GET http web /now
    let block = b"\x82\x86\x04\x04/now\x01\x03web";
    request.extend([0, 0, block.len() as u8, 1, 5, 0, 0, 0, 1]);
    request.extend(block);
    // PING with ACK for the one that asks whether the GOAWAY was heard comes from the reader below
    tls.writer().write_all(&request).unwrap();
    let (mut bytes, mut answer, mut last) = (Vec::new(), Vec::new(), None);
    while answer != b"now" || last != Some(1) {
        while tls.wants_write() {
            tls.write_tls(&mut s).unwrap();
        }
        assert!(tls.read_tls(&mut s).unwrap() > 0, "closed with {answer:?}");
        tls.process_new_packets().unwrap();
        if let Err(e) = tls.reader().read_to_end(&mut bytes) {
            assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock);
        }
        while let Some(frame) = bytes.first_chunk::<9>().copied() {
            let len = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]) as usize;
            let Some(payload) = bytes.get(9..9 + len).map(<[u8]>::to_vec) else { break };
            match frame[3] {
                0 => answer.extend_from_slice(&payload),
                6 if frame[4] == 0 => {
                    tls.writer().write_all(&[&[0, 0, 8, 6, 1, 0, 0, 0, 0], &payload[..]].concat()).unwrap();
                }
                7 => last = Some(u32::from_be_bytes(payload[..4].try_into().unwrap())),
                _ => {}
            }
            bytes.drain(..9 + len);
        }
    }
    assert!(server.wait_stopped(LIMIT));
    assert_eq!(server.stats().drain_reset.get(), 0);
}

#[test]
fn a_prestop_drain_refuses_nothing_and_closes_plain_clients_politely() {
    let (at, _, _) = gated();
    let pair = Builder::new(at).start();
    let now = "GET /now HTTP/1.1\r\nHost: web\r\n\r\n";
    let mut plain = Client::dial(pair.server());
    plain.send(now);
    assert!(!plain.answer().0.to_ascii_lowercase().contains("connection: close"));
    let mut mesh = Client::dial(pair.service());
    mesh.send(now);
    mesh.answer();
    pair.servers[0].control().drain();
    draining(&pair.servers[0]);
    for _ in 0..50 {
        mesh.send(now);
        let (head, body) = mesh.answer();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert_eq!(body, "now");
        let mut fresh = Client::dial(pair.server());
        fresh.send(now);
        let (head, body) = fresh.answer();
        assert_eq!(body, "now");
        assert!(head.to_ascii_lowercase().contains("connection: close"), "{head}");
    }
}

#[test]
fn row_42_a_client_that_leaves_cancels_its_request_at_the_application() {
    let (at, asks, gone) = gated();
    let pair = Builder::new(at).start();
    let mut c = Client::dial(pair.service());
    c.send("GET /later HTTP/1.1\r\nHost: web\r\n\r\n");
    let go = asks.recv_timeout(LIMIT).unwrap();
    // a reset: an end of input alone, so soon, may be a half-close
    socket2::SockRef::from(c.0.get_ref()).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(c);
    // the application hears of it as an end of its connection, when it looks
    drop(go);
    gone.recv_timeout(LIMIT).unwrap();
    assert!(asks.try_recv().is_err(), "the request was not tried again");
}

#[test]
fn what_was_served_is_counted_and_logged() {
    let dir = tempfile::tempdir().unwrap();
    let path: &'static std::path::Path = Box::leak(dir.path().join("log").into_boxed_path());
    static LOG: std::sync::OnceLock<&'static std::path::Path> = std::sync::OnceLock::new();
    LOG.set(path).unwrap();
    let tweak = |c: &mut weft_proxy::config::Config| {
        if &*c.pod.name == "client" {
            c.access_log = Some(LOG.get().unwrap().into());
        }
    };
    let pair = Builder { tweak, ..Builder::new(mirror()) }.start();
    let mut c = Client::dial(pair.service());
    for n in 0..5 {
        c.send(&format!("GET /{n} HTTP/1.1\r\nHost: web\r\n\r\n"));
        c.answer();
    }
    let mut admin = Client::dial(pair.client.admin());
    admin.send("GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let (_, text) = admin.answer();
    let line = "weft_requests_total{parent=\"shop/web:80\",kind=\"\",route=\"\",rule=\"\",backend=\"shop/web:80\",success=\"true\"} 5";
    assert!(text.contains(line), "{text}");
    let end = std::time::Instant::now() + LIMIT;
    let lines = loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if text.lines().count() == 5 {
            break text;
        }
        assert!(std::time::Instant::now() < end, "{text}");
        thread::yield_now();
    };
    let first: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!((&first["path"], &first["status"]), (&"/0".into(), &200.into()));
    assert_eq!((&first["parent"], &first["direction"]), (&"shop/web:80".into(), &"outbound".into()));
}
