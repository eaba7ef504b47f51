//! Hostile bytes on real sockets: what the tests of this package share.
//!
//! ```text
//! raw client -> client's sidecar -> mutual TLS -> server's sidecar -> application (scripted bytes, or a mirror of requests)
//! ```
//!
//! The codecs prove each rule for every cut of its bytes in `http/tests`; here the same inputs meet listeners, timers and neighbours. Every test asks the
//! same question at its end: is somebody else still served? Sockets are blocking and every read has a deadline, so that a hang is a failure with a name.

#![allow(clippy::unwrap_used, clippy::panic)] // a test that cannot be set up fails

pub mod frames;
pub mod process;

use ::http as http_head;

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use weft_core::service::Protocol;
pub use weft_proxy::testing::{Builder, LIMIT, Pair, any_port};

/// An application: `serve` has a thread for each connection.
pub fn app(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let l = TcpListener::bind(any_port()).unwrap();
    let at = l.local_addr().unwrap();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for s in l.incoming() {
            // descriptors may run out in tests that make them run out
            let Ok(s) = s else { continue };
            let serve = serve.clone();
            thread::spawn(move || serve(s));
        }
    });
    at
}

/// A start line with its fields, and the body.
#[derive(Debug)]
pub struct Message {
    pub head: String,
    pub body: Vec<u8>,
}
impl Message {
    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0)
    }
    pub fn field(&self, name: &str) -> Option<String> {
        field(&self.head, name)
    }
}

fn field(head: &str, name: &str) -> Option<String> {
    head.lines().skip(1).find_map(|l| {
        let (n, v) = l.split_once(':')?;
        n.eq_ignore_ascii_case(name).then(|| v.trim().to_owned())
    })
}

/// Reads a head up to its empty line; `None` at the end of the stream or a reset.
pub fn head(r: &mut impl BufRead) -> Option<String> {
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if r.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            return Some(head);
        }
        head += &line;
    }
}

/// Reads one message, its body by length or chunks.
pub fn message(r: &mut impl BufRead) -> Option<Message> {
    let head = head(r)?;
    let mut body = Vec::new();
    if let Some(n) = field(&head, "content-length") {
        body.resize(n.parse().ok()?, 0);
        r.read_exact(&mut body).ok()?;
    } else if field(&head, "transfer-encoding").is_some() {
        loop {
            let mut size = String::new();
            r.read_line(&mut size).ok()?;
            let n = usize::from_str_radix(size.trim(), 16).ok()?;
            let mut chunk = vec![0; n + 2];
            r.read_exact(&mut chunk).ok()?;
            if n == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..n]);
        }
    }
    Some(Message { head, body })
}

/// A server of HTTP/1.1, whose answers contain the requests as they arrived, and of HTTP/2 with prior knowledge: a request gets `ok` when it has ended,
/// `/big` gets a mebibyte, an extended CONNECT what it sends. (A client's own version of HTTP is what its request reaches the application in.)
pub fn mirror() -> SocketAddr {
    app(|s| {
        let mut first = [0; 3];
        if matches!(s.peek(&mut first), Ok(3)) && first == *b"PRI" {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            s.set_nonblocking(true).unwrap();
            return runtime.block_on(async { mirror_h2(tokio::net::TcpStream::from_std(s).unwrap()).await });
        }
        let mut r = BufReader::new(s.try_clone().unwrap());
        let mut w = s;
        while let Some(m) = message(&mut r) {
            let text = format!("{}\n{}", m.head, String::from_utf8_lossy(&m.body));
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
            if w.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    })
}

async fn mirror_h2(s: tokio::net::TcpStream) {
    let Ok(mut c) = h2::server::Builder::new().enable_connect_protocol().handshake::<_, bytes::Bytes>(s).await else {
        return;
    };
    while let Some(Ok((request, mut respond))) = c.accept().await {
        tokio::spawn(async move {
            let tunnel = request.method() == http_head::Method::CONNECT;
            let n = if request.uri().path() == "/big" { 1 << 20 } else { 2 };
            let answer = http_head::Response::new(());
            let mut body = request.into_body();
            let mut open = tunnel.then(|| respond.send_response(answer.clone(), false));
            while let Some(Ok(d)) = body.data().await {
                let _ = body.flow_control().release_capacity(d.len());
                if let Some(Ok(send)) = &mut open {
                    let _ = send.send_data(d, false);
                }
            }
            // a stream that was reset answers nothing
            if !tunnel
                && body.is_end_stream()
                && let Ok(mut send) = respond.send_response(answer, false)
            {
                let _ = send.send_data(vec![b'x'; n].into(), true);
                // the stream lives until the crate has sent it
                let _ = std::future::poll_fn(|cx| send.poll_reset(cx)).await;
            }
        });
    }
}

/// A pair in front of `app` whose Service is declared HTTP.
pub fn http(app: SocketAddr) -> Pair {
    Builder { protocol: Protocol::Http, ..Builder::new(app) }.start()
}

pub fn dial(at: SocketAddr) -> TcpStream {
    let s = TcpStream::connect(at).unwrap();
    s.set_nodelay(true).unwrap();
    s.set_read_timeout(Some(LIMIT)).unwrap();
    s.set_write_timeout(Some(LIMIT)).unwrap();
    s
}

/// Everything until the connection ends; panics when it stays open. A reset is an end.
pub fn rest(s: &mut impl Read, what: &str) -> Vec<u8> {
    let mut all = Vec::new();
    let mut b = [0; 16 * 1024];
    loop {
        match s.read(&mut b) {
            Ok(0) => return all,
            Ok(n) => all.extend_from_slice(&b[..n]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("{what}: still open after {LIMIT:?}, with {:?}", String::from_utf8_lossy(&all))
            }
            Err(_) => return all,
        }
    }
}

/// A client that speaks HTTP/1.1 by hand.
pub struct Client(pub BufReader<TcpStream>);
impl Client {
    pub fn dial(at: SocketAddr) -> Client {
        Client(BufReader::new(dial(at)))
    }
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(bytes.as_ref()).unwrap();
    }
    pub fn answer(&mut self) -> Message {
        message(&mut self.0).expect("an answer")
    }
    /// An ordinary request, which must be answered with itself.
    pub fn ordinary(&mut self, path: &str) {
        self.send(format!("POST {path} HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\n\r\nhello"));
        let m = self.answer();
        let body = String::from_utf8_lossy(&m.body).into_owned();
        assert_eq!(m.status(), 200, "{}", m.head);
        assert!(body.starts_with(&format!("POST {path} HTTP/1.1\r\n")) && body.ends_with("\nhello"), "{body}");
    }
}

/// Waits for a condition that nothing announces.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        thread::park_timeout(Duration::from_millis(1));
    }
}

/// Resident memory of this process (test, sidecars and applications), in bytes.
pub fn resident() -> usize {
    resident_of("self")
}
fn resident_of(process: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}
