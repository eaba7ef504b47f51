//! The sample application: an HTTP/1.1 and HTTP/2 server that answers who it is, fails a share of its requests and dawdles on another.
//! With targets it also calls others ([`crate::calls`]). It stands for the services of `examples/shop`, in the demo and in tests; a mesh must not be needed to run it.

use crate::calls::Target;
use anyhow::Context as _;
use bytes::Bytes;
use clap::Parser;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::TcpListener;

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
    /// Answer gRPC calls (any method) with an empty message and `grpc-status: 0`
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
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(if failed { "14" } else { "0" }));
        // one empty message: no compression, length zero
        let mut r = Response::new(body(vec![Frame::data(Bytes::from_static(&[0; 5])), Frame::trailers(trailers)]));
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
    let args = Arc::new(args);
    let server = auto::Builder::new(TokioExecutor::new());
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let (args, server) = (args.clone(), server.clone());
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |r| answer(args.clone(), r));
            // a connection that breaks is the client's affair
            let _ = server.serve_connection(TokioIo::new(socket), service).await;
        });
    }
}
