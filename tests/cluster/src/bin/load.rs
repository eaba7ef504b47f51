//! The load of the tests, as a program for pods. The client keeps its connections, calls at a steady rate, and writes a line for every failure, with the time and the reason:
//! a test that says "none failed" must have been able to see one. The server answers with its name and, told to end, finishes what it has begun, as a careful application does.
//!
//! It is mounted into pods of the sample image from the node's disk, so that no image is built for it.

use anyhow::Context as _;
use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::TokioIo,
    server::{conn::auto, graceful::GracefulShutdown},
};
use std::{
    cell::RefCell,
    convert::Infallible,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    task::LocalSet,
    time::{self, MissedTickBehavior},
};

/// A call that has no answer by then has failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// Lines about failures and changes in one process's life: a mesh that is down must not fill the node's disk. All are counted.
const LINES: u32 = 2000;

#[derive(Parser)]
enum Args {
    /// Call a server again and again
    Call {
        /// HOST:PORT
        to: String,
        /// Calls per second and connection
        #[arg(long, default_value_t = 50)]
        rate: u32,
        /// Connections, each with one call at a time
        #[arg(long, default_value_t = 2)]
        connections: usize,
        /// Also write a line whenever another server answers than before
        #[arg(long)]
        changes: bool,
        /// Speak HTTP/2, without TLS
        #[arg(long)]
        http2: bool,
    },
    /// Answer with a name
    Serve {
        #[arg(long, default_value = "0.0.0.0:8080")]
        listen: SocketAddr,
        #[arg(long, env = "NAME")]
        name: String,
        /// Time that an answer takes, in milliseconds; then each request is a line, too
        #[arg(long, default_value_t = 0)]
        delay: u64,
    },
    /// Call once and end: what a Job does
    Once {
        /// HOST:PORT, asked once
        to: String,
    },
}

/// Microseconds since 1970: the clock is the machine's, so the test's times compare.
fn stamp() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros())
}

#[derive(Default)]
struct Seen {
    lines: u32,
    calls: u64,
    failed: u64,
    connections: u64,
    slowest: Duration,
    server: String,
}

impl Seen {
    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        self.lines += 1;
        if self.lines <= LINES {
            println!("{text}");
        }
    }
}

/// A connection that can be asked again.
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Sender {
    async fn connect(to: &str, two: bool) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(to).await.context("connect")?;
        socket.set_nodelay(true)?;
        let io = TokioIo::new(socket);
        // what went wrong with a connection shows at the call
        if two {
            let (send, drive) = http2::handshake(Local, io).await?;
            tokio::task::spawn_local(async move { drop(drive.await) });
            return Ok(Sender::Http2(send));
        }
        let (send, drive) = http1::handshake(io).await?;
        tokio::task::spawn_local(async move { drop(drive.await) });
        Ok(Sender::Http1(send))
    }

    async fn is_open(&mut self) -> bool {
        match self {
            Sender::Http1(s) => s.ready().await.is_ok(),
            Sender::Http2(s) => s.ready().await.is_ok(),
        }
    }

    async fn send(&mut self, to: &str) -> anyhow::Result<Response<Incoming>> {
        Ok(match self {
            Sender::Http1(s) => s.send_request(Request::get("/").header("host", to).body(Full::default())?).await?,
            Sender::Http2(s) => s.send_request(Request::get(format!("http://{to}/")).body(Full::default())?).await?,
        })
    }
}

/// Everything is on one thread.
#[derive(Clone)]
struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, f: F) {
        tokio::task::spawn_local(async move { drop(f.await) });
    }
}

/// One call; who answered. The connection stays when it can be used again.
async fn call(to: &str, two: bool, connection: &mut Option<Sender>, seen: &RefCell<Seen>) -> anyhow::Result<String> {
    // a connection that was closed between two calls is nobody's failure: HTTP allows it
    let open = match connection.take() {
        Some(mut c) => c.is_open().await.then_some(c),
        None => None,
    };
    let (age, mut send) = match open {
        Some(c) => ("kept", c),
        None => {
            seen.borrow_mut().connections += 1;
            ("new", Sender::connect(to, two).await?)
        }
    };
    let response = send.send(to).await.with_context(|| format!("request on a {age} connection"))?;
    let (head, body) = response.into_parts();
    let body = body.collect().await.context("body")?.to_bytes();
    *connection = Some(send);
    let header = |n: &str| head.headers.get(n).and_then(|v| v.to_str().ok()).unwrap_or_default();
    anyhow::ensure!(
        head.status.is_success(),
        "status {}: {:?} {:?}",
        head.status.as_u16(),
        header("weft-error"),
        String::from_utf8_lossy(&body)
    );
    Ok(header("x-served-by").to_owned())
}

async fn client(to: String, rate: u32, changes: bool, two: bool, seen: Rc<RefCell<Seen>>) {
    let mut connection = None;
    let mut tick = time::interval(Duration::from_secs(1) / rate);
    // a stalled call is made up for: the rate is that of the test's claim
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        tick.tick().await;
        let start = Instant::now();
        let result = match time::timeout(PATIENCE, call(&to, two, &mut connection, &seen)).await {
            Ok(r) => r.map_err(|e| format!("{e:#}")),
            Err(_) => {
                connection = None;
                Err("no answer in 5 s".into())
            }
        };
        let took = start.elapsed();
        let mut seen = seen.borrow_mut();
        seen.calls += 1;
        seen.slowest = seen.slowest.max(took);
        match result {
            Ok(server) if changes && server != seen.server => {
                seen.line(format_args!("change {} {server}", stamp()));
                seen.server = server;
            }
            Ok(_) => {}
            Err(why) => {
                seen.failed += 1;
                seen.line(format_args!("fail {} after {} ms: {why}", stamp(), took.as_millis()));
            }
        }
    }
}

async fn calls(to: String, rate: u32, connections: usize, changes: bool, two: bool) -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let seen = Rc::new(RefCell::new(Seen::default()));
    for _ in 0..connections {
        tokio::task::spawn_local(client(to.clone(), rate, changes, two, seen.clone()));
    }
    let mut second = time::interval(Duration::from_secs(1));
    loop {
        let end = tokio::select! {
            _ = second.tick() => false,
            _ = term.recv() => true,
        };
        let mut s = seen.borrow_mut();
        println!(
            "sum {} calls={} failed={} connections={} slowest_ms={}",
            stamp(),
            s.calls,
            s.failed,
            s.connections,
            s.slowest.as_millis()
        );
        s.slowest = Duration::ZERO;
        if end {
            return Ok(());
        }
    }
}

async fn serve(listen: SocketAddr, name: String, delay: u64) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let mut term = signal(SignalKind::terminate())?;
    let (server, under_way) = (auto::Builder::new(Local), GracefulShutdown::new());
    println!("start {} {name}", stamp());
    loop {
        let socket = tokio::select! {
            s = listener.accept() => s,
            _ = term.recv() => break,
        };
        let Ok((socket, _)) = socket else { continue };
        let name = name.clone();
        let answer = service_fn(move |request: Request<Incoming>| {
            let name = name.clone();
            async move {
                drop(request.into_body().collect().await);
                if delay > 0 {
                    println!("request {}", stamp());
                    time::sleep(Duration::from_millis(delay)).await;
                }
                let response =
                    Response::builder().header("x-served-by", &name).body(Full::new(Bytes::from(format!("{name}\n"))));
                Ok::<_, Infallible>(response.unwrap_or_default())
            }
        });
        let served = under_way.watch(server.serve_connection(TokioIo::new(socket), answer).into_owned());
        tokio::task::spawn_local(async move { drop(served.await) });
    }
    println!("term {}", stamp());
    drop(listener);
    // nobody's request takes longer; what is stuck is not waited for
    let _ = time::timeout(PATIENCE, under_way.shutdown()).await;
    println!("end {}", stamp());
    Ok(())
}

async fn once(to: String) -> anyhow::Result<()> {
    println!("start {}", stamp());
    let seen = RefCell::new(Seen::default());
    let server = time::timeout(PATIENCE, call(&to, false, &mut None, &seen)).await.context("no answer in 5 s")??;
    println!("answer {} {server}", stamp());
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let work = async {
        match Args::parse() {
            Args::Call { to, rate, connections, changes, http2 } => {
                calls(to, rate.clamp(1, 2000), connections.clamp(1, 64), changes, http2).await
            }
            Args::Serve { listen, name, delay } => serve(listen, name, delay).await,
            Args::Once { to } => once(to).await,
        }
    };
    LocalSet::new().block_on(&runtime, work)
}
