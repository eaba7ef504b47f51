//! The load loop: what the web front end sends to the other services, through its own sidecar, at a steady rate.

use super::{cluster::Service, edit::STAMP};
use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    cell::RefCell,
    collections::VecDeque,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, task::spawn_local, time};

/// Latencies kept for percentiles: the last ten seconds at 100 requests/s.
const WINDOW: usize = 1_000;
/// Requests of one target in flight at one time; the rest of a stalled interval is skipped and counted as failed.
const IN_FLIGHT: usize = 64;
/// A request that has no answer by then has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// What one target's clients have seen.
#[derive(Default)]
pub struct Seen {
    pub sent: u64,
    pub succeeded: u64,
    /// No HTTP answer at all: a broken promise.
    pub broken: u64,
    pub latencies: VecDeque<Duration>,
    pub last_error: Option<String>,
    /// `x-served-by` of answers.
    pub served_by: std::collections::BTreeMap<String, u64>,
    in_flight: usize,
}

impl Seen {
    /// Latency below which the share `p` of the last answers stayed.
    pub fn percentile(&self, p: f64) -> Option<Duration> {
        let mut sorted: Vec<Duration> = self.latencies.iter().copied().collect();
        sorted.sort();
        sorted.get(((sorted.len() as f64 * p) as usize).min(sorted.len().checked_sub(1)?)).copied()
    }
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// A client of one Service, with its idle connections.
#[derive(Clone)]
pub struct Target {
    pub service: Service,
    address: SocketAddr,
    idle: Rc<RefCell<Vec<Sender>>>,
    pub seen: Rc<RefCell<Seen>>,
}

impl Target {
    pub fn new(service: Service, address: SocketAddr) -> Target {
        Target { service, address, idle: Rc::default(), seen: Rc::default() }
    }

    async fn connect(&self) -> anyhow::Result<Sender> {
        let socket = TcpStream::connect(self.address).await.context("connect")?;
        socket.set_nodelay(true)?;
        let io = TokioIo::new(socket);
        // the driver of a connection ends with it; what went wrong shows at the request
        Ok(if self.service.grpc {
            let (send, drive) = http2::handshake(TokioExecutor::new(), io).await?;
            spawn_local(async move { drop(drive.await) });
            Sender::Http2(send)
        } else {
            let (send, drive) = http1::handshake(io).await?;
            spawn_local(async move { drop(drive.await) });
            Sender::Http1(send)
        })
    }

    fn request(&self) -> anyhow::Result<Request<Full<Bytes>>> {
        let host = format!("{}.{}", self.service.name, self.service.namespace);
        Ok(if self.service.grpc {
            Request::post(format!("http://{host}/shop.Stock/Get"))
                .version(Version::HTTP_2)
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(Full::new(Bytes::from_static(&[0; 5])))?
        } else {
            Request::get("/").header("host", host).body(Full::default())?
        })
    }

    /// One request on a connection of its pool. The connection goes back when the answer was read to its end.
    async fn once(&self) -> anyhow::Result<(Response<()>, bool)> {
        let pooled = self.idle.borrow_mut().pop();
        let mut sender = match pooled {
            Some(Sender::Http1(s)) if s.is_closed() => self.connect().await?,
            Some(Sender::Http2(s)) if s.is_closed() => self.connect().await?,
            Some(s) => s,
            None => self.connect().await?,
        };
        let request = self.request()?;
        let response: Response<Incoming> = match &mut sender {
            Sender::Http1(s) => {
                s.ready().await?;
                s.send_request(request).await?
            }
            Sender::Http2(s) => {
                s.ready().await?;
                s.send_request(request).await?
            }
        };
        let (head, body) = response.into_parts();
        let body = body.collect().await?;
        let grpc_ok =
            body.trailers().or(Some(&head.headers)).and_then(|t| t.get("grpc-status")).is_some_and(|v| v == "0");
        let success = if self.service.grpc { grpc_ok } else { head.status.is_success() };
        self.idle.borrow_mut().push(sender);
        Ok((Response::from_parts(head, ()), success))
    }

    async fn counted(self) {
        let start = Instant::now();
        let result =
            time::timeout(PATIENCE, self.once()).await.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in 5 s")));
        let mut seen = self.seen.borrow_mut();
        seen.in_flight -= 1;
        match result {
            Ok((head, success)) => {
                seen.succeeded += u64::from(success);
                if let Some(by) = head.headers().get("x-served-by").and_then(|v| v.to_str().ok()) {
                    *seen.served_by.entry(by.into()).or_default() += 1;
                }
                if !success && let Some(e) = head.headers().get("weft-error") {
                    seen.last_error = Some(String::from_utf8_lossy(e.as_bytes()).into_owned());
                }
                if seen.latencies.len() == WINDOW {
                    seen.latencies.pop_front();
                }
                seen.latencies.push_back(start.elapsed());
            }
            Err(e) => {
                seen.broken += 1;
                seen.last_error = Some(format!("{e:#}"));
            }
        }
    }

    /// Sends `rate` requests per second until dropped.
    pub async fn run(self, rate: f64) {
        let mut tick = time::interval(Duration::from_secs_f64(1.0 / rate));
        tick.set_missed_tick_behavior(time::MissedTickBehavior::Skip);
        loop {
            tick.tick().await;
            {
                let mut seen = self.seen.borrow_mut();
                seen.sent += 1;
                if seen.in_flight >= IN_FLIGHT {
                    seen.broken += 1;
                    continue;
                }
                seen.in_flight += 1;
            }
            spawn_local(self.clone().counted());
        }
    }

    /// Asks until an answer carries the stamp of edit `n`; how long that took.
    pub async fn await_stamp(&self, n: u32, since: Instant, limit: Duration) -> anyhow::Result<Duration> {
        let text = n.to_string();
        while since.elapsed() < limit {
            if let Ok((head, _)) = self.once().await
                && head.headers().get(STAMP).is_some_and(|v| v.as_bytes() == text.as_bytes())
            {
                return Ok(since.elapsed());
            }
            time::sleep(Duration::from_millis(1)).await;
        }
        anyhow::bail!("edit {n} of {} did not reach the traffic within {limit:?}", self.service.name)
    }
}
