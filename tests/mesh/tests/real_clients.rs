//! Programs that people use, through both sidecars: what they print is what counts. A program that is not there fails its test and says how to get it.
#![allow(clippy::unwrap_used)]

use futures_util::{SinkExt as _, StreamExt as _};
use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest as _};
use weft_test_mesh::{
    LIMIT, Mesh,
    app::{Reply, Seen},
    client::Call,
    eventually,
    objects::Objects,
    program::{Running, Said, command, run},
    raw,
};

const MB: usize = 1 << 20;

/// A client and an application that echoes, behind a declared port (80) and an undeclared one (81).
fn web() -> Objects {
    Objects::shop().pod("client", "client", &[9000]).pod("web", "web", &[8080]).service(
        "web",
        "web",
        &["80, name: http, targetPort: 8080", "81, name: data, targetPort: 8080"],
    )
}

/// `/bytes/N` answers N bytes, `/trailers` has trailers, everything else is echoed.
fn script(_: u64, seen: &Seen) -> Reply {
    match seen.path.strip_prefix("/bytes/") {
        Some(n) => Reply::Bytes(n.parse().unwrap()),
        None if seen.path == "/trailers" => Reply::Trailers(vec![("x-sum".into(), "42".into())]),
        None => Reply::Echo,
    }
}

async fn echo() -> Mesh {
    Mesh::builder().yaml(web().yaml()).app("web", script).start().await
}

async fn listening(at: SocketAddr) {
    eventually("the application listens", async || TcpStream::connect(at).await.is_ok()).await;
}

async fn curl(args: &[&str]) -> Said {
    run("curl", &[&["-sS", "--max-time", "15"], args].concat()).await
}

fn seen(json: &str) -> Seen {
    serde_json::from_str(json).unwrap_or_else(|e| panic!("{e}: {json}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_gets_posts_uploads_and_downloads() {
    let mesh = echo().await;
    let dir = tempfile::tempdir().unwrap();
    let big = dir.path().join("big");
    fs::write(&big, vec![b'u'; MB]).unwrap();
    let data = format!("@{}", big.display());
    let file = big.display().to_string();
    for port in [80, 81] {
        let at = mesh.pod("client").service_address("web", port);
        let url = format!("http://{at}/path?q=1");
        for version in ["--http1.0", "--http1.1", "--http2-prior-knowledge"] {
            let host = ["-H", "Host: web.shop", version];
            let s = seen(&curl(&[&host[..], &[&url]].concat()).await.ok());
            assert_eq!((s.method.as_str(), s.path.as_str(), s.host.as_str()), ("GET", "/path?q=1", "web.shop"));
            let s = seen(&curl(&[&host[..], &["-d", "a=b&c=d", &url]].concat()).await.ok());
            assert_eq!((s.method.as_str(), s.body_bytes), ("POST", 7));
            assert_eq!(s.headers["content-type"], "application/x-www-form-urlencoded");
            let s = seen(&curl(&[&host[..], &["-X", "PATCH", "--data-binary", &data, &url]].concat()).await.ok());
            assert_eq!((s.method.as_str(), s.body_bytes), ("PATCH", MB));
            let down = format!("http://{at}/bytes/{MB}");
            let said = curl(&[&host[..], &[&down]].concat()).await;
            assert_eq!(said.code, Some(0), "{}", said.err);
            assert!(said.out.len() == MB && said.out.iter().all(|b| *b == b'x'), "{} bytes", said.out.len());
            // HEAD: the length without the bytes
            let head = curl(&[&host[..], &["-I", &down]].concat()).await.ok().to_ascii_lowercase();
            assert!(head.contains(" 200") && head.contains(&format!("content-length: {MB}")), "{head}");
        }
        // an upload that waits for leave; curl would wait longer than its own limit if nobody gave it
        let args = ["-v", "-T", &file, "-H", "Expect: 100-continue", "--expect100-timeout", "60", &url];
        let said = curl(&args).await;
        assert!(said.err.contains("< HTTP/1.1 100"), "{}", said.err);
        assert_eq!(seen(&said.ok()).body_bytes, MB);
        let s = seen(&curl(&["-T", &file, "-H", "Transfer-Encoding: chunked", &url]).await.ok());
        assert_eq!((s.method.as_str(), s.body_bytes), ("PUT", MB));
        // one connection for three requests
        let said = curl(&[
            "-w",
            "%{num_connects}\n",
            "-o",
            "/dev/null",
            &url,
            "-o",
            "/dev/null",
            &url,
            "-o",
            "/dev/null",
            &url,
        ])
        .await;
        assert_eq!(said.ok(), "1\n0\n0\n");
    }
    let metrics = mesh.metrics("web").await;
    assert!(metrics.contains("weft_tls_handshakes_total{side=\"server\",result=\"ok\"}"), "{metrics}");
    assert!(mesh.proxy("web").stats().handshakes_server.get() > 0, "it went through mutual TLS");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nghttp_multiplexes_posts_and_gets_trailers() {
    let mesh = echo().await;
    let dir = tempfile::tempdir().unwrap();
    let body = dir.path().join("body");
    fs::write(&body, vec![b'n'; 300_000]).unwrap();
    for port in [80, 81] {
        let at = mesh.pod("client").service_address("web", port);
        let out = run("nghttp", &["-v", "-n", "-m", "20", &format!("http://{at}/a")]).await.ok();
        assert_eq!(out.matches(":status: 200").count(), 20, "{out}");
        let out = run("nghttp", &["-d", &body.display().to_string(), &format!("http://{at}/up")]).await.ok();
        assert_eq!(seen(&out).body_bytes, 300_000);
        let out = run("nghttp", &["-v", "-n", "-H", "te: trailers", &format!("http://{at}/trailers")]).await.ok();
        assert!(out.contains("x-sum: 42"), "{out}");
        let args = ["-d", &body.display().to_string(), "--trailer", "x-mine: 7", &format!("http://{at}/up")];
        assert_eq!(seen(&run("nghttp", &args).await.ok()).trailers.get("x-mine").map(String::as_str), Some("7"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_generators_see_no_failure() {
    let mesh = echo().await;
    for port in [80, 81] {
        let url = format!("http://{}/", mesh.pod("client").service_address("web", port));
        for args in [&["-n", "600", "-c", "4", "-m", "16"][..], &["-n", "400", "-c", "8", "--h1"]] {
            let out = run("h2load", &[args, &[&url]].concat()).await.ok();
            let total = args[1];
            assert!(out.contains(&format!("{total} succeeded, 0 failed, 0 errored, 0 timeout")), "{out}");
            assert!(out.contains(&format!("status codes: {total} 2xx")), "{out}");
        }
        let out = run("wrk", &["-t", "1", "-c", "16", "-d", "1s", "--timeout", "15s", &url]).await.ok();
        assert!(!out.contains("Non-2xx") && !out.contains("Socket errors"), "{out}");
        assert!(!out.contains(" 0 requests in"), "{out}");
    }
}

// ---------------------------------------------------------------- gRPC

const PROTO: &str = "grpc.examples.echo.Echo";

/// The Go server behind a declared port (7070) and an undeclared one (7071).
async fn grpc() -> (Mesh, Running, [SocketAddr; 2]) {
    let objects = Objects::shop().pod("client", "client", &[9000]).pod("grpc", "grpc", &[7070]).service(
        "grpc",
        "grpc",
        &["7070, name: grpc, targetPort: 7070", "7071, name: data, targetPort: 7070"],
    );
    let mesh = Mesh::builder().yaml(objects.yaml()).bare("grpc").start().await;
    let at = mesh.pod("grpc").app_address(7070).to_string();
    let mut server = Running::start("grpcecho", &["-listen", &at]);
    server.line("listening").await;
    let client = mesh.pod("client");
    let to = [client.service_address("grpc", 7070), client.service_address("grpc", 7071)];
    (mesh, server, to)
}

async fn grpcurl(to: SocketAddr, more: &[&str], data: &str, method: &str) -> Said {
    let (to, method) = (to.to_string(), format!("{PROTO}/{method}"));
    run("grpcurl", &[&["-plaintext"], more, &["-d", data, &to, &method]].concat()).await
}

fn messages(out: &str) -> Vec<String> {
    let values = serde_json::Deserializer::from_str(out).into_iter::<serde_json::Value>();
    values.map(|v| v.unwrap()["message"].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpcurl_in_all_four_kinds() {
    let (_mesh, _server, to) = grpc().await;
    for to in to {
        // over the server's reflection, itself a bidirectional stream
        let out = run("grpcurl", &["-plaintext", &to.to_string(), "list"]).await.ok();
        assert!(out.contains(PROTO), "{out}");
        let out = grpcurl(to, &[], r#"{"message":"hello"}"#, "UnaryEcho").await.ok();
        assert_eq!(messages(&out), ["echo hello"]);
        let out = grpcurl(to, &["-H", "x-mine: seven"], r#"{"message":"metadata:x-mine"}"#, "UnaryEcho").await.ok();
        assert_eq!(messages(&out), ["seven"]);
        let out = grpcurl(to, &["-max-msg-sz", "20000000"], r#"{"message":"big:10000000"}"#, "UnaryEcho").await.ok();
        assert_eq!(messages(&out)[0].len(), 10_000_000);
        let out = grpcurl(to, &[], r#"{"message":"count:500"}"#, "ServerStreamingEcho").await.ok();
        assert_eq!(messages(&out), (0..500).map(|n| n.to_string()).collect::<Vec<_>>());
        let many = r#"{"message":"a"} {"message":"b"} {"message":"c"}"#;
        let out = grpcurl(to, &[], many, "ClientStreamingEcho").await.ok();
        assert_eq!(messages(&out), ["a b c"]);
        let out = grpcurl(to, &[], many, "BidirectionalStreamingEcho").await.ok();
        assert_eq!(messages(&out), ["echo a", "echo b", "echo c"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_23_trailers_only_and_deadlines() {
    let (_mesh, mut server, to) = grpc().await;
    for to in to {
        for (code, name) in [(5, "NotFound"), (7, "PermissionDenied"), (14, "Unavailable")] {
            for method in ["UnaryEcho", "ServerStreamingEcho"] {
                let said = grpcurl(to, &[], &format!(r#"{{"message":"fail:{code}"}}"#), method).await;
                assert_eq!(said.code, Some(64 + code), "grpcurl ends with 64 and the code: {}", said.err);
                assert!(said.err.contains(&format!("Code: {name}")) && said.err.contains("as asked"), "{}", said.err);
            }
        }
        let start = Instant::now();
        let said = grpcurl(to, &["-max-time", "0.4"], r#"{"message":"sleep:30000"}"#, "UnaryEcho").await;
        assert!(said.err.contains("DeadlineExceeded"), "{}", said.err);
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        // the application hears of it, by the deadline it was told of or by the cancellation
        server.line("ended").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_23_a_cancellation_reaches_the_backend_within_50_ms() {
    let (_mesh, mut server, to) = grpc().await;
    for to in to {
        let mut quickest = Duration::MAX;
        // the machine may be busy, so the quickest of several counts
        for _ in 0..6 {
            let (to, method) = (to.to_string(), format!("{PROTO}/BidirectionalStreamingEcho"));
            let mut c = command("grpcurl", &["-plaintext", "-d", "@", &to, &method]);
            let mut call = Running::of(c.stdin(Stdio::piped()).stderr(Stdio::inherit()));
            let mut input = call.child.stdin.take().unwrap();
            input.write_all(b"{\"message\":\"here\"}\n").await.unwrap();
            call.line("echo here").await;
            // the stream is open from end to end
            let start = Instant::now();
            call.child.start_kill().unwrap();
            let line = server.line("ended").await;
            quickest = quickest.min(start.elapsed());
            assert!(line.contains("Canceled"), "{line}");
            if quickest <= Duration::from_millis(50) {
                break;
            }
        }
        assert!(quickest <= Duration::from_millis(50), "{quickest:?}");
    }
}

// ---------------------------------------------------------------- WebSocket

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_echo() {
    let mesh = Mesh::builder().yaml(web().yaml()).bare("web").start().await;
    raw::serve(mesh.pod("web").app_address(8080), async |s| {
        let mut ws = tokio_tungstenite::accept_async(s).await.map_err(std::io::Error::other)?;
        while let Some(Ok(m)) = ws.next().await {
            if m.is_text() || m.is_binary() {
                ws.send(m).await.map_err(std::io::Error::other)?;
            }
        }
        Ok(())
    })
    .await;
    for port in [80, 81] {
        let s = raw::dial(mesh.pod("client").service_address("web", port)).await;
        let request = "ws://web/chat".into_client_request().unwrap();
        let (mut ws, answer) = timeout(LIMIT, tokio_tungstenite::client_async(request, s)).await.unwrap().unwrap();
        assert_eq!(answer.status(), 101);
        for m in [Message::text("hello"), Message::binary(vec![7; 300_000]), Message::text("")] {
            ws.send(m.clone()).await.unwrap();
            assert_eq!(timeout(LIMIT, ws.next()).await.unwrap().unwrap().unwrap(), m);
        }
        ws.send(Message::Ping("p".into())).await.unwrap();
        assert_eq!(timeout(LIMIT, ws.next()).await.unwrap().unwrap().unwrap(), Message::Pong("p".into()));
        ws.close(None).await.unwrap();
        // the close frame comes back, then the end
        let last = timeout(LIMIT, ws.next()).await.unwrap().unwrap().unwrap();
        assert!(last.is_close(), "{last:?}");
        assert!(timeout(LIMIT, ws.next()).await.unwrap().is_none());
    }
}

// ---------------------------------------------------------------- applications

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_as_an_application() {
    let mesh = Mesh::builder().yaml(web().yaml()).bare("web").start().await;
    let at = mesh.pod("web").app_address(8080);
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let content: Vec<u8> = (0..MB).map(|n| (n * 31 % 251) as u8).collect();
    fs::write(dir.path().join("big.bin"), &content).unwrap();
    let d = dir.path().display();
    let conf = format!(
        "daemon off; master_process off; pid {d}/pid; error_log stderr error;\nevents {{}}\nhttp {{ access_log off; client_body_temp_path {d}/b; proxy_temp_path {d}/p; fastcgi_temp_path {d}/f; uwsgi_temp_path {d}/u; scgi_temp_path {d}/s;\n server {{ listen {at}; root {d}; location = /moved {{ return 301 /big.bin; }} location = /cut {{ return 444; }} }} }}\n"
    );
    fs::write(dir.path().join("conf"), conf).unwrap();
    let _nginx = command("nginx", &["-c", &dir.path().join("conf").display().to_string()])
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    listening(at).await;
    for port in [80, 81] {
        let base = format!("http://{}", mesh.pod("client").service_address("web", port));
        let big = format!("{base}/big.bin");
        // what a client speaks its application is spoken to in; this nginx knows no HTTP/2
        for version in ["--http1.0", "--http1.1"] {
            let said = curl(&[version, &big]).await;
            assert!(said.code == Some(0) && said.out == content, "{} {} {}", said.err, said.out.len(), version);
            let said = curl(&[version, "-r", "1000-1999", &big]).await;
            assert!(said.out == content[1000..2000], "{} {}", said.err, said.text());
            let head = curl(&[version, "-I", &big]).await.ok().to_ascii_lowercase();
            let tag = head.lines().find_map(|l| l.strip_prefix("etag: ")).unwrap_or_else(|| panic!("{head}"));
            let none = format!("If-None-Match: {}", tag.trim());
            let code = ["-o", "/dev/null", "-w", "%{http_code} %{size_download} %{redirect_url}"];
            assert_eq!(curl(&[&[version, "-H", &none], &code[..], &[&big]].concat()).await.ok(), "304 0 ");
            let moved = curl(&[&[version], &code[..], &[&format!("{base}/moved")]].concat()).await.ok();
            assert!(moved.starts_with("301 "), "{moved}");
            let missing = curl(&[&[version], &code[..], &[&format!("{base}/no")]].concat()).await.ok();
            assert!(missing.starts_with("404 "), "{missing}");
            // nginx closes without an answer
            let cut = curl(&[&[version], &code[..], &[&format!("{base}/cut")]].concat()).await.ok();
            assert!(cut.starts_with("502 "), "{cut}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_as_an_opaque_application() {
    let objects = Objects::shop().pod("client", "client", &[9000]).pod("redis", "redis", &[6379]).service(
        "redis",
        "redis",
        &["6379, name: data, targetPort: 6379", "6380, name: tcp, targetPort: 6379"],
    );
    let mesh = Mesh::builder().yaml(objects.yaml()).bare("redis").start().await;
    let at = mesh.pod("redis").app_address(6379);
    let dir = tempfile::tempdir().unwrap();
    let (ip, port, d) = (at.ip().to_string(), at.port().to_string(), dir.path().display().to_string());
    let args =
        ["--bind", &ip, "--port", &port, "--save", "", "--appendonly", "no", "--dir", &d, "--protected-mode", "no"];
    let _redis = command("redis-server", &args).stdout(Stdio::null()).spawn().unwrap();
    listening(at).await;
    for port in [6379, 6380] {
        let to = mesh.pod("client").service_address("redis", port);
        let (h, p) = (to.ip().to_string(), to.port().to_string());
        let cli = async |args: &[&str]| run("redis-cli", &[&["-h", &h, "-p", &p], args].concat()).await.ok();
        assert_eq!(cli(&["SET", "key", "value"]).await, "OK\n");
        assert_eq!(cli(&["GET", "key"]).await, "value\n");
        let big = "v".repeat(100_000);
        assert_eq!(cli(&["SET", "big", &big]).await, "OK\n");
        assert_eq!(cli(&["GET", "big"]).await, big + "\n");
        // 2,000 commands over one connection
        assert_eq!(cli(&["-r", "2000", "INCR", &format!("n{port}")]).await.lines().last(), Some("2000"));
        // an inline command begins like an HTTP request
        let mut s = raw::dial(to).await;
        s.write_all(b"GET key\r\n").await.unwrap();
        assert_eq!(raw::until(&mut s, "value\r\n").await, "$5\r\nvalue\r\n");
    }
    let metrics = mesh.metrics("client").await;
    let opened = |l: &&str| l.starts_with("weft_tcp_opened_total{direction=\"outbound\"") && l.contains("mtls=\"yes\"");
    assert_eq!(metrics.lines().filter(opened).count(), 2, "one series for each port: {metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_without_a_sidecar_reach_a_permissive_pod() {
    let objects = web().plain_pod("old", "old", &[9000]);
    let mesh = Mesh::builder().yaml(objects.yaml()).app("web", script).start().await;
    let url = format!("http://{}/plain", mesh.pod("old").pod_address("web", 8080));
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let s = seen(&curl(&[version, &url]).await.ok());
        assert_eq!(s.path, "/plain");
        assert!(!s.headers.keys().any(|k| k.starts_with("weft-")), "{:?}", s.headers);
    }
    let a = Call::new(mesh.pod("client").service_address("web", 80), "web").send().await.unwrap();
    assert_eq!(a.status, 200);
}
