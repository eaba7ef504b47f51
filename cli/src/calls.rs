//! The calling side of the sample application: it calls its targets at a steady rate, one at a time each, and says every ten seconds what it has seen. On a cluster
//! this is the front end of `examples/shop`: `kubectl logs` shows what an edited route means to a client.

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    fmt,
    str::FromStr,
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, time};

/// A call that has no answer by then has failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the counts are printed, and started anew.
const REPORT: Duration = Duration::from_secs(10);

/// `http://HOST[:PORT]/PATH`, or `grpc://HOST[:PORT]/SERVICE/METHOD` for a unary call with an empty message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    grpc: bool,
    authority: String,
    path: String,
}

impl FromStr for Target {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let wrong = || format!("{s:?} is neither http://HOST[:PORT]/PATH nor grpc://HOST[:PORT]/SERVICE/METHOD");
        let uri: http::Uri = s.parse().map_err(|_| wrong())?;
        let grpc = match uri.scheme_str() {
            Some("http") => false,
            Some("grpc") => true,
            _ => return Err(wrong()),
        };
        let authority = uri.authority().ok_or_else(wrong)?.to_string();
        let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        Ok(Target { grpc, authority, path })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.authority, self.path)
    }
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Target {
    async fn connect(&self) -> anyhow::Result<Sender> {
        let address =
            if self.authority.contains(':') { self.authority.clone() } else { format!("{}:80", self.authority) };
        let socket = TcpStream::connect(&address).await.context("connect")?;
        socket.set_nodelay(true)?;
        let io = TokioIo::new(socket);
        // the driver of a connection ends with it; what went wrong shows at the call
        Ok(if self.grpc {
            let (send, drive) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(async move { drop(drive.await) });
            Sender::Http2(send)
        } else {
            let (send, drive) = http1::handshake(io).await?;
            tokio::spawn(async move { drop(drive.await) });
            Sender::Http1(send)
        })
    }

    fn request(&self) -> anyhow::Result<Request<Full<Bytes>>> {
        Ok(if self.grpc {
            Request::post(format!("http://{}{}", self.authority, self.path))
                .version(Version::HTTP_2)
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                // one empty message: no compression, length zero
                .body(Full::new(Bytes::from_static(&[0; 5])))?
        } else {
            Request::get(&self.path).header("host", &self.authority).body(Full::default())?
        })
    }

    /// One call on the connection of the last one, if that is still open. Whether the answer was a success, and the status when it was none.
    async fn call(&self, connection: &mut Option<Sender>) -> anyhow::Result<Result<(), String>> {
        let mut sender = match connection.take() {
            Some(Sender::Http1(s)) if !s.is_closed() => Sender::Http1(s),
            Some(Sender::Http2(s)) if !s.is_closed() => Sender::Http2(s),
            _ => self.connect().await?,
        };
        let request = self.request()?;
        let response: hyper::Response<Incoming> = match &mut sender {
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
        *connection = Some(sender);
        if !head.status.is_success() {
            return Ok(Err(format!("status {}", head.status.as_u16())));
        }
        if self.grpc {
            let status = body.trailers().or(Some(&head.headers)).and_then(|t| t.get("grpc-status"));
            if status.is_none_or(|s| s != "0") {
                return Ok(Err(format!("grpc-status {}", status.and_then(|s| s.to_str().ok()).unwrap_or("missing"))));
            }
        }
        Ok(Ok(()))
    }

    /// Calls `rate` times a second, until the process ends.
    pub async fn run(self, rate: f64) {
        let mut tick = time::interval(Duration::from_secs_f64(1.0 / rate));
        tick.set_missed_tick_behavior(time::MissedTickBehavior::Skip);
        let (mut seen, mut connection, mut since) = (Seen::default(), None, Instant::now());
        loop {
            tick.tick().await;
            let start = Instant::now();
            match time::timeout(PATIENCE, self.call(&mut connection)).await {
                Ok(Ok(Ok(()))) => seen.latencies.push(start.elapsed()),
                Ok(Ok(Err(status))) => seen.failed(status),
                Ok(Err(e)) => seen.failed(format!("{e:#}")),
                Err(_) => seen.failed("no answer in 5 s".into()),
            }
            if since.elapsed() >= REPORT {
                println!("{self}: {seen}");
                (seen, since) = (Seen::default(), Instant::now());
            }
        }
    }
}

/// What one target answered since the last report.
#[derive(Default)]
struct Seen {
    latencies: Vec<Duration>,
    failed: usize,
    last_error: String,
}

impl Seen {
    fn failed(&mut self, why: String) {
        self.failed += 1;
        self.last_error = why;
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.latencies.clone();
        sorted.sort();
        let percentile = |p: f64| sorted.get(((sorted.len() as f64 * p) as usize).min(sorted.len().saturating_sub(1)));
        let calls = sorted.len() + self.failed;
        write!(f, "{calls} calls, {:.1} % succeeded", 100.0 * sorted.len() as f64 / calls.max(1) as f64)?;
        if let (Some(p50), Some(p99)) = (percentile(0.5), percentile(0.99)) {
            write!(f, ", p50 {} ms, p99 {} ms", p50.as_millis(), p99.as_millis())?;
        }
        if self.failed > 0 {
            write!(f, "; last failure: {}", self.last_error)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let t: Target = "http://orders/a?b".parse().unwrap();
        assert_eq!((t.grpc, t.to_string()), (false, "orders/a?b".into()));
        let t: Target = "grpc://stock:90/shop.Stock/Get".parse().unwrap();
        assert_eq!((t.grpc, t.authority.as_str(), t.path.as_str()), (true, "stock:90", "/shop.Stock/Get"));
        for wrong in ["orders", "https://orders/", "", "http:///x"] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn report() {
        let mut seen = Seen { latencies: (1..=99).map(Duration::from_millis).collect(), ..Seen::default() };
        assert_eq!(seen.to_string(), "99 calls, 100.0 % succeeded, p50 50 ms, p99 99 ms");
        seen.failed("status 503".into());
        assert_eq!(seen.to_string(), "100 calls, 99.0 % succeeded, p50 50 ms, p99 99 ms; last failure: status 503");
        assert_eq!(Seen::default().to_string(), "0 calls, 0.0 % succeeded");
    }
}
