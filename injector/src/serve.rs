//! HTTPS for the API server, plain HTTP for the kubelet and Prometheus.

use crate::{
    inject::Settings,
    knobs::Annotations,
    metrics::Metrics,
    review::{self, BadReview},
};
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use std::{
    collections::HashMap,
    sync::{Arc, RwLock, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// The API server's own limit for an object is 1.5 MiB in etcd; a review carries it once for a creation. 3 MiB leaves room for escapes.
const BODY: usize = 3 * 1024 * 1024;
/// Connections at one time: the API server keeps one or two for each of its replicas; more are strangers.
const CONNECTIONS: usize = 256;
const HANDSHAKE: Duration = Duration::from_secs(5);
/// A request, head and body. Below the webhook's own 10 s.
const REQUEST: Duration = Duration::from_secs(8);

/// What requests are judged by; [`crate::cluster`] keeps it true.
pub struct Shared {
    pub settings: Settings,
    pub bundle: watch::Receiver<Option<Arc<str>>>,
    /// Labels and annotations. The labels are the reconciler's; a review needs none.
    pub namespaces: RwLock<HashMap<String, (Annotations, Annotations)>>,
    pub metrics: Metrics,
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

async fn inject(State(s): State<Arc<Shared>>, body: Bytes) -> Response {
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
    Router::new().route("/inject", post(inject)).layer(DefaultBodyLimit::max(BODY)).with_state(shared)
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
    let room = Arc::new(Semaphore::new(CONNECTIONS));
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
        let Ok(place) = room.clone().try_acquire_owned() else {
            shared.metrics.refused.fetch_add(1, Relaxed);
            continue;
        };
        let Some(tls) = shared.tls.borrow().clone() else { continue };
        let (router, stop) = (router.clone(), stop.clone());
        running.spawn(async move {
            let _place = place;
            let Ok(Ok(session)) = timeout(HANDSHAKE, TlsAcceptor::from(tls).accept(socket)).await else {
                tracing::debug!(%client, "handshake failed");
                return;
            };
            let service = tower::ServiceBuilder::new().service(router);
            let service = hyper_util::service::TowerToHyperService::new(service);
            let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            builder.http1().timer(TokioTimer::new()).header_read_timeout(REQUEST);
            builder
                .http2()
                .timer(TokioTimer::new())
                .max_concurrent_streams(100)
                .keep_alive_interval(Duration::from_secs(30));
            let connection = builder.serve_connection(TokioIo::new(session), service);
            tokio::pin!(connection);
            tokio::select! {
                _ = connection.as_mut() => {}
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = timeout(REQUEST, connection).await;
                }
            }
        });
    }
    running.close();
    running.wait().await;
}
