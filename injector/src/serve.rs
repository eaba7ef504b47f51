//! HTTPS for the API server, plain HTTP for the kubelet and Prometheus.

use crate::{
    inject::Settings,
    knobs::Annotations,
    limits::{BODY, Bounds, Limits, Source},
    metrics::Metrics,
    review::{self, BadReview},
};
use axum::{
    Extension, Router,
    body::HttpBody as _,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use rustls::ServerConfig;
use std::{
    collections::HashMap,
    sync::{Arc, RwLock, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, sync::watch, time::timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// What requests are judged by; [`crate::cluster`] keeps it true.
pub struct Shared {
    pub settings: Settings,
    pub bundle: watch::Receiver<Option<Arc<str>>>,
    /// Labels and annotations. The labels are the reconciler's; a review needs none.
    pub namespaces: RwLock<HashMap<String, (Annotations, Annotations)>>,
    pub metrics: Metrics,
    pub limits: Limits,
    /// The serving certificate; `None` until there is one.
    pub tls: watch::Receiver<Option<Arc<ServerConfig>>>,
}

impl Shared {
    fn annotations(&self, namespace: &str) -> Option<Annotations> {
        Some(self.namespaces.read().unwrap_or_else(|e| e.into_inner()).get(namespace)?.1.clone())
    }
    /// What is still missing, in words.
    fn waits_for(&self) -> Option<&'static str> {
        if self.tls.borrow().is_none() {
            return Some("the serving certificate (Secret weft-injector-tls)");
        }
        if self.bundle.borrow().is_none() {
            return Some("the trust bundle (ConfigMap weft-trust-bundle, written by weft-ca)");
        }
        None
    }
}

/// A refusal in words, for whoever is not the API server and for its log.
fn refuse(s: &Shared, status: StatusCode, text: String) -> Response {
    s.metrics.refused.fetch_add(1, Relaxed);
    tracing::debug!(%status, text, "refused");
    (status, format!("weft: {text}\n")).into_response()
}

async fn inject(State(s): State<Arc<Shared>>, Extension(source): Extension<Arc<Source>>, request: Request) -> Response {
    let bounds = &s.limits.bounds;
    if !source.may_ask(bounds) {
        return refuse(&s, StatusCode::TOO_MANY_REQUESTS, format!("more than {} requests a second", bounds.rate));
    }
    match timeout(bounds.request, review(&s, &source, request)).await {
        Ok(response) => response,
        Err(_) => refuse(&s, StatusCode::SERVICE_UNAVAILABLE, "too many reviews at one time".into()),
    }
}

async fn review(s: &Shared, source: &Source, request: Request) -> Response {
    let bounds = &s.limits.bounds;
    // the API server says how long it is; who does not pays for the longest
    let size = request.body().size_hint().exact().map_or(BODY, |n| usize::try_from(n).unwrap_or(usize::MAX));
    if size > BODY {
        return refuse(s, StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than {BODY} bytes"));
    }
    let Some(_room) = s.limits.room(source, size).await else {
        return refuse(s, StatusCode::SERVICE_UNAVAILABLE, "the injector stops".into());
    };
    let body = match timeout(bounds.body, axum::body::to_bytes(request.into_body(), size)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => {
            return refuse(
                s,
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body broke off, or has more than {BODY} bytes"),
            );
        }
        Err(_) => {
            return refuse(
                s,
                StatusCode::REQUEST_TIMEOUT,
                format!("the body took longer than {} s", bounds.body.as_secs_f32()),
            );
        }
    };
    let begun = Instant::now();
    let bundle = s.bundle.borrow().clone();
    match review::answer(&body, &|name| s.annotations(name), bundle.as_deref(), &s.settings) {
        Ok((answer, outcome)) => {
            s.metrics.answered(outcome, begun.elapsed());
            tracing::debug!(?outcome, took = ?begun.elapsed(), "reviewed");
            axum::Json(answer).into_response()
        }
        Err(BadReview(text)) => {
            s.metrics.bad.fetch_add(1, Relaxed);
            (StatusCode::BAD_REQUEST, format!("weft: {text}\n")).into_response()
        }
    }
}

/// The webhook's routes.
pub fn webhook(shared: Arc<Shared>) -> Router {
    Router::new().route("/inject", post(inject)).with_state(shared)
}

/// Health and metrics. Ready: the webhook answers, with everything that injection needs.
pub fn admin(shared: Arc<Shared>) -> Router {
    let ready = async |State(s): State<Arc<Shared>>| match s.waits_for() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(what) => (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {what}\n")),
    };
    let metrics = async |State(s): State<Arc<Shared>>| s.metrics.text();
    Router::new()
        .route("/ready", get(ready))
        .route("/live", get(async || "live\n"))
        .route("/metrics", get(metrics))
        .with_state(shared)
}

/// Serves the webhook until `stop`, then finishes what is under way.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    let router = webhook(shared.clone());
    let running = tokio_util::task::TaskTracker::new();
    loop {
        let (socket, client) = tokio::select! {
            () = stop.cancelled() => break,
            a = listener.accept() => match a {
                Ok(a) => a,
                Err(error) => {
                    tracing::warn!(%error, "accepting paused");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let Some(place) = shared.limits.place(client.ip()) else {
            shared.metrics.refused.fetch_add(1, Relaxed);
            continue;
        };
        let Some(tls) = shared.tls.borrow().clone() else { continue };
        // an answer is a head and a body: the second must not wait for the other side's delayed acknowledgement of the first
        let _ = socket.set_nodelay(true);
        let (router, bounds, stop) = (router.clone(), shared.limits.bounds, stop.clone());
        running.spawn(async move {
            // as a whole: naming one field would take that one along and give the place back
            let place = place;
            let Ok(Ok(session)) = timeout(bounds.handshake, TlsAcceptor::from(tls).accept(socket)).await else {
                tracing::debug!(%client, "handshake failed");
                return;
            };
            let service = TowerToHyperService::new(router.layer(Extension(place.source.clone())));
            let builder = http(&bounds);
            let connection = builder.serve_connection(TokioIo::new(session), service);
            tokio::pin!(connection);
            // not all at once, when all came at once; the port is as good as a die
            let age = bounds.age.mul_f64(1.0 + f64::from(client.port() % 64) / 256.0);
            tokio::select! {
                _ = connection.as_mut() => return,
                () = stop.cancelled() => {}
                () = tokio::time::sleep(age) => {}
            }
            connection.as_mut().graceful_shutdown();
            let _ = timeout(bounds.request, connection).await;
        });
    }
    running.close();
    running.wait().await;
}

fn http(bounds: &Bounds) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // heads of a few hundred bytes; bodies are read in pieces
    builder.http1().timer(TokioTimer::new()).header_read_timeout(bounds.head).max_buf_size(64 * 1024);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(64)
        .max_header_list_size(16 * 1024)
        // what a caller may send before there is room for it
        .initial_stream_window_size(64 * 1024)
        .initial_connection_window_size(128 * 1024)
        // a peer that is gone gives its place back
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10));
    builder
}
