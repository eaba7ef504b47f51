//! The admin server, on the control thread: a saturated data plane still answers, and a scrape never delays a request.
//!
//! | path | who may | what |
//! |---|---|---|
//! | `GET /ready` | anybody | 200 once connections are served, 503 before and while draining, with the reason |
//! | `GET /live` | anybody | 200 |
//! | `GET /metrics` | anybody | Prometheus text |
//! | `GET /probe/tcp/<port>` | anybody | dials the application: what a kubelet's TCP probe becomes, since a captured port always accepts |
//! | `GET /probe/grpc/<port>/<service>` | anybody | asks the application's health service: what a kubelet's gRPC probe becomes |
//! | `GET /dump` | loopback | what the proxy believes, as JSON |
//! | `POST /drain` | loopback | the preStop hook |
//! | `PUT /log` | loopback | the log filter of the process |

use crate::{
    control::{self, Control, Listening, State as Life, Workers},
    credentials::unix_now,
    health, metrics, opaque,
    worker::Shared,
};
use axum::{
    Json, Router,
    extract::{ConnectInfo, State},
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use serde_json::json;
use std::{
    fmt::Write,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};
use tokio::sync::watch;
use weft_core::probe::{Forwarded, PREFIX, TIMEOUT_HEADER};

/// How long a probe may take when it does not say: Kubernetes' default is 1 s, with a tenth for the way back.
const PROBE: Duration = Duration::from_millis(900);
/// And when it says more: no probe of use takes longer.
const PROBE_MAX: Duration = Duration::from_secs(60);

/// What the admin server shows.
#[derive(Clone)]
pub struct Admin {
    pub shared: Arc<Shared>,
    pub state: watch::Receiver<Life>,
    pub workers: Workers,
    pub listeners: Arc<[Listening]>,
    pub control: Control,
    pub started: Instant,
}

/// Changes the log filter; the error is for whoever asked.
pub type SetFilter = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;
/// Sets the log filter of the process, if its main has given the means.
pub static LOG_FILTER: OnceLock<SetFilter> = OnceLock::new();

/// Serves until the runtime ends.
pub async fn serve(listener: std::net::TcpListener, admin: Admin) {
    let app = Router::new()
        .route("/ready", get(ready))
        .route("/live", get(|| async { "live\n" }))
        .route("/metrics", get(scrape))
        .route(&format!("{PREFIX}{{*what}}"), get(probe))
        .route("/dump", get(dump))
        .route("/drain", post(drain))
        .route("/log", put(log))
        .with_state(admin);
    let served = async {
        let l = tokio::net::TcpListener::from_std(listener)?;
        axum::serve(l, app.into_make_service_with_connect_info::<SocketAddr>()).await
    };
    if let Err(error) = served.await {
        tracing::error!(%error, "the admin server ended");
    }
}

/// Operations that change or reveal are for whoever is in the pod already.
fn local(client: SocketAddr) -> bool {
    client.ip().to_canonical().is_loopback()
}

fn forbidden() -> Response {
    (StatusCode::FORBIDDEN, "only from within the pod\n").into_response()
}

async fn ready(State(a): State<Admin>) -> Response {
    let state = a.state.borrow().clone();
    match state {
        Life::Ready => (StatusCode::OK, "ready\n".to_owned()),
        Life::Starting(what) => (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {what}\n")),
        Life::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned()),
        Life::Stopped => (StatusCode::SERVICE_UNAVAILABLE, "stopped\n".to_owned()),
    }
    .into_response()
}

async fn drain(State(a): State<Admin>, ConnectInfo(client): ConnectInfo<SocketAddr>) -> Response {
    if !local(client) {
        return forbidden();
    }
    a.control.drain();
    "draining\n".into_response()
}

async fn log(ConnectInfo(client): ConnectInfo<SocketAddr>, filter: String) -> Response {
    if !local(client) {
        return forbidden();
    }
    match LOG_FILTER.get().map(|set| set(filter.trim())) {
        Some(Ok(())) => "changed\n".into_response(),
        Some(Err(e)) => (StatusCode::BAD_REQUEST, format!("{e}\n")).into_response(),
        None => (StatusCode::NOT_IMPLEMENTED, "this process has no filter to change\n").into_response(),
    }
}

/// Performs a probe for the kubelet. Only what the controller has named: else anybody could scan the pod through us.
async fn probe(State(a): State<Admin>, headers: HeaderMap, uri: Uri) -> Response {
    let (Some(probe), Some(ip)) = (Forwarded::parse(uri.path()), a.shared.config.pod.ips.first()) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let declared = probe.probe();
    let views = control::ask(&a.workers).await;
    let known = views.first().and_then(|v| v["view"]["inbound"]["probes"].as_array());
    if known
        .is_none_or(|p| !p.iter().any(|p| p["port"] == declared.port && p["path"].as_str() == declared.path.as_deref()))
    {
        let text = format!("the pod declares no such probe of port {}\n", declared.port);
        return (StatusCode::NOT_FOUND, text).into_response();
    }
    let to = a.shared.net.app(SocketAddr::new(*ip, declared.port));
    let performed = async {
        match &probe {
            Forwarded::Tcp { .. } => opaque::dial_plain(to).await.map(drop).map_err(|e| e.to_string()),
            Forwarded::Grpc { service, .. } => health::check(to, service).await.map_err(|e| e.to_string()),
        }
    };
    let asked = headers.get(TIMEOUT_HEADER).and_then(|v| v.to_str().ok()?.parse().ok()).map(Duration::from_millis);
    let limit = asked.unwrap_or(PROBE).min(PROBE_MAX);
    match tokio::time::timeout(limit, performed).await {
        Ok(Ok(())) => "healthy\n".into_response(),
        Ok(Err(e)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{e}\n")).into_response(),
        Err(_) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("no answer within {} ms\n", limit.as_millis())).into_response()
        }
    }
}

async fn dump(State(a): State<Admin>, ConnectInfo(client): ConnectInfo<SocketAddr>) -> Response {
    if !local(client) {
        return forbidden();
    }
    let s = &a.shared;
    let hex = |b: &[u8]| {
        b.iter().fold(String::new(), |mut s, b| {
            let _ = write!(s, "{b:02x}");
            s
        })
    };
    let certificate = s.cell.as_ref().map(|cell| {
        let c = cell.current();
        json!({
            "bundle": { "trust_domain": c.bundle.trust_domain(), "version": c.bundle.version(), "roots": c.bundle.roots().len(),
                        "issuer": hex(c.bundle.issuer()) },
            "leaf": c.credentials.map(|l| json!({
                "identity": l.identity().uri(), "not_before": l.not_before().as_secs(), "not_after": l.not_after().as_secs(),
                "serial": hex(l.serial()), "issuer": hex(l.issuer()),
            })),
        })
    });
    let listeners: Vec<_> = a
        .listeners
        .iter()
        .map(|l| json!({ "side": format!("{:?}", l.side).to_lowercase(), "at": l.at, "original": l.original }))
        .collect();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "state": format!("{:?}", *a.state.borrow()),
        "uptime_seconds": a.started.elapsed().as_secs(),
        "pod": s.config.pod,
        "listeners": listeners,
        "connections": { "open": s.gate.open(), "limit": s.gate.max() },
        "certificate": certificate,
        "controller": s.discovery.as_ref().map(|d| json!({
            "connected": d.is_connected(),
            "resources": d.dump().iter().map(|(n, leases, known)| json!({ "name": n.to_string(), "leases": leases, "known": known })).collect::<Vec<_>>(),
        })),
        "workers": control::ask(&a.workers).await,
    }))
    .into_response()
}

async fn scrape(State(a): State<Admin>) -> Response {
    let mut out = String::with_capacity(16 * 1024);
    a.shared.stats.render(&mut out);
    metrics::render(&a.shared.engines.registry.snapshot(), &mut out);
    metrics::denials(&a.shared.engines.denials, &mut out);
    if let Some(c) = a.shared.cell.as_ref().map(|c| c.current()) {
        let _ = writeln!(out, "# TYPE weft_bundle_version gauge\nweft_bundle_version {}", c.bundle.version());
        if let Some(l) = c.credentials {
            let left = l.not_after().as_secs() as i64 - unix_now() as i64;
            let _ =
                writeln!(out, "# TYPE weft_certificate_expires_seconds gauge\nweft_certificate_expires_seconds {left}");
        }
    }
    if let Some(d) = &a.shared.discovery {
        let up = u8::from(d.is_connected());
        let _ = writeln!(out, "# TYPE weft_controller_connected gauge\nweft_controller_connected {up}");
    }
    let _ = writeln!(out, "# TYPE weft_connections_limit gauge\nweft_connections_limit {}", a.shared.gate.max());
    process(&mut out, a.started);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], out).into_response()
}

/// The process metrics that every Prometheus client library has. Reading /proc costs some microseconds, on the control thread.
fn process(out: &mut String, started: Instant) {
    let uptime = started.elapsed().as_secs_f64();
    let _ = writeln!(out, "# TYPE weft_uptime_seconds gauge\nweft_uptime_seconds {uptime:.3}");
    let page = 4096;
    if let Some(pages) =
        std::fs::read_to_string("/proc/self/statm").ok().and_then(|s| s.split(' ').nth(1)?.parse::<u64>().ok())
    {
        let _ =
            writeln!(out, "# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes {}", pages * page);
    }
    if let Ok(dir) = std::fs::read_dir("/proc/self/fd") {
        let _ = writeln!(out, "# TYPE process_open_fds gauge\nprocess_open_fds {}", dir.count());
    }
    if let Ok(u) = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF) {
        let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
        let cpu = seconds(u.user_time()) + seconds(u.system_time());
        let _ = writeln!(out, "# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total {cpu:.3}");
    }
}
