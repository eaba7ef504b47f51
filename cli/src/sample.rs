//! The sample application: an HTTP/1.1 and HTTP/2 server that answers who it is, fails a share of its requests and dawdles on another.
//! With targets it also calls others ([`crate::calls`]). It stands for the services of `examples/shop`, in the demo and in tests; a mesh must not be needed to run it.

use crate::calls::Target;
use anyhow::Context as _;
use bytes::Bytes;
use clap::Parser;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Empty, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::GracefulShutdown},
};
use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

/// What is under way after SIGTERM gets this long; the kubelet's patience is 30 s unless a pod says otherwise.
const FAREWELL: Duration = Duration::from_secs(20);

/// The standard health service (grpc.health.v1).
const HEALTH: &str = "/grpc.health.v1.Health/Check";
/// Messages of gRPC: no compression, length, then the message.
static EMPTY: [u8; 5] = [0; 5];
/// `status: SERVING`, field 1 of HealthCheckResponse.
static SERVING: [u8; 7] = [0, 0, 0, 0, 2, 8, 1];

#[derive(Parser, Clone, Debug)]
pub struct Args {
    /// Address to listen on; `:8080` means every address
    #[arg(long, default_value = ":8080", value_parser = listen)]
    pub listen: SocketAddr,
    /// What the application calls itself in its answers
    #[arg(long, default_value = "sample")]
    pub name: String,
    /// Share of requests answered with 503
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub fail_percent: u8,
    /// Share of requests delayed by --delay
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub slow_percent: u8,
    /// How long a slow request waits, e.g. 400ms or 2s
    #[arg(long, default_value = "0ms", value_parser = duration)]
    pub delay: Duration,
    /// Answer gRPC calls (any method) with an empty message and `grpc-status: 0`; the health service says whether it serves
    #[arg(long)]
    pub grpc: bool,
    /// Call this, again and again: http://HOST[:PORT]/PATH, or grpc://HOST[:PORT]/SERVICE/METHOD; several are separated by commas
    #[arg(long, env = "WEFT_SAMPLE_CALL", value_delimiter = ',')]
    pub call: Vec<Target>,
    /// Calls per second and target
    #[arg(long, env = "WEFT_SAMPLE_CALL_RATE", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub call_rate: u16,
}

fn listen(s: &str) -> Result<SocketAddr, String> {
    let full = if s.starts_with(':') { format!("0.0.0.0{s}") } else { s.into() };
    full.parse().map_err(|_| "not HOST:PORT or :PORT".into())
}

/// `400ms` or `2s`.
pub fn duration(s: &str) -> Result<Duration, String> {
    let (number, unit) = s.split_at(s.find(|c: char| !c.is_ascii_digit()).ok_or("needs a unit: ms or s")?);
    let n: u64 = number.parse().map_err(|_| "not a number".to_string())?;
    match unit {
        "ms" => Ok(Duration::from_millis(n)),
        "s" => Ok(Duration::from_secs(n)),
        _ => Err(format!("unit {unit:?} is neither ms nor s")),
    }
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

fn body(frames: Vec<Frame<Bytes>>) -> Body {
    StreamBody::new(futures_util::stream::iter(frames.into_iter().map(Ok))).boxed_unsync()
}

async fn answer(args: Arc<Args>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (head, incoming) = request.into_parts();
    // the request is read to its end, as an application would, so that a connection can be used again
    let received = incoming.collect().await.map(|b| b.to_bytes().len()).unwrap_or(0);
    if rand::random_range(0..100) < args.slow_percent {
        tokio::time::sleep(args.delay).await;
    }
    let failed = rand::random_range(0..100) < args.fail_percent;
    let grpc =
        args.grpc && head.headers.get("content-type").is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
    let mut response = if grpc {
        let mut status = HeaderMap::new();
        status.insert("grpc-status", HeaderValue::from_static(if failed { "14" } else { "0" }));
        let health = head.uri.path() == HEALTH;
        // an error has no message, and its status is in the head, as gRPC servers send it
        let mut r = if failed && !health {
            let mut r = Response::new(Empty::new().boxed_unsync());
            *r.headers_mut() = status;
            r
        } else {
            let message = if health { &SERVING[..] } else { &EMPTY[..] };
            Response::new(body(vec![Frame::data(Bytes::from_static(message)), Frame::trailers(status)]))
        };
        r.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        r
    } else {
        let text = format!("{} {} {} {received}\n", args.name, head.method, head.uri);
        let mut r = Response::new(body(vec![Frame::data(Bytes::from(text))]));
        if failed {
            *r.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
        }
        r
    };
    if let Ok(v) = HeaderValue::from_str(&args.name) {
        response.headers_mut().insert("x-served-by", v);
    }
    Ok(response)
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(args))
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    for target in args.call.clone() {
        tokio::spawn(target.run(args.call_rate.into()));
    }
    serve_on(listener, args).await
}

/// Until SIGTERM, and what is under way then.
async fn serve_on(listener: TcpListener, args: Args) -> anyhow::Result<()> {
    let args = Arc::new(args);
    let server = auto::Builder::new(TokioExecutor::new());
    // process 1 of a container has no default action for SIGTERM: without this the kubelet waits for the whole grace period
    let mut term = signal(SignalKind::terminate())?;
    let under_way = GracefulShutdown::new();
    loop {
        let socket = tokio::select! {
            s = listener.accept() => s,
            _ = term.recv() => break,
        };
        let Ok((socket, _)) = socket else { continue };
        let args = args.clone();
        let service = hyper::service::service_fn(move |r| answer(args.clone(), r));
        let served = under_way.watch(server.serve_connection(TokioIo::new(socket), service).into_owned());
        // a connection that breaks is the client's affair
        tokio::spawn(async move { drop(served.await) });
    }
    // as a careful application: nobody new, and what has begun is finished
    drop(listener);
    let _ = tokio::time::timeout(FAREWELL, under_way.shutdown()).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    async fn until(socket: &mut TcpStream, end: &str) -> String {
        let mut seen = Vec::new();
        while !seen.ends_with(end.as_bytes()) {
            let mut byte = [0];
            socket.read_exact(&mut byte).await.unwrap();
            seen.push(byte[0]);
        }
        String::from_utf8(seen).unwrap()
    }

    #[tokio::test]
    async fn sigterm_finishes_what_has_begun_and_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve_on(listener, Args::parse_from(["sample", "--name=it"])));
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket
            .write_all(b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n")
            .await
            .unwrap();
        // the request has begun, so that the signal is heard by the server
        assert!(until(&mut socket, "\r\n\r\n").await.starts_with("HTTP/1.1 100"));
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM).unwrap();
        // nobody new is let in: an attempt that was in the queue is closed, later ones are refused
        while let Ok(mut late) = TcpStream::connect(address).await {
            if late.read(&mut [0]).await.is_err() {
                break;
            }
        }
        socket.write_all(b"x").await.unwrap();
        assert!(until(&mut socket, "it POST / 1\n").await.starts_with("HTTP/1.1 200"));
        tokio::time::timeout(FAREWELL / 2, server).await.unwrap().unwrap().unwrap();
    }
}
