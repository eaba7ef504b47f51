//! A cluster as the command line sees it: objects as documents, through the API server only, and errors that say what to do next.

pub mod check;
pub mod objects;
pub mod stat;

use anyhow::Context as _;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use kube::{Client, client::Body};
use serde_json::Value;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Objects of one page of a list.
const PAGE: usize = 500;
/// One call. An API server that is well answers a page within a second or two.
const CALL: Duration = Duration::from_secs(15);
/// Where the proxies and the control plane answer.
pub const PROXY_ADMIN: u16 = 15020;
pub const CONTROL_ADMIN: u16 = 15014;
/// The most that is read of a dump.
const MAX_DUMP: u64 = 64 << 20;

/// Which cluster. The same for every command.
#[derive(clap::Args, Clone, Debug, Default)]
#[group(id = "cluster")]
pub struct Args {
    /// Context of the kubeconfig; default: its current one
    #[arg(long)]
    context: Option<String>,
}

/// Why the cluster did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("{0}")]
    NotFound(String),
    #[error(
        "not allowed: {0}. Next: ask whoever administers the cluster for that permission, or use another --context"
    )]
    Forbidden(String),
    #[error("the API server does not know who you are: {0}. Next: renew the credentials of your kubeconfig's user")]
    Unauthenticated(String),
    #[error("{status}: {message}")]
    Refused { status: StatusCode, message: String },
    #[error(
        "the API server cannot be reached: {0}. Next: is the cluster up, and is this the right context? (kubectl config get-contexts)"
    )]
    Unreachable(String),
}

fn innermost(e: &dyn std::error::Error) -> String {
    let mut e = e;
    while let Some(inner) = e.source() {
        e = inner;
    }
    e.to_string()
}

/// A connection to the API server.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
}

impl Cluster {
    pub async fn connect(args: &Args) -> anyhow::Result<Self> {
        let config = match &args.context {
            None => kube::Config::infer().await.map_err(|e| innermost(&e)),
            Some(context) => {
                let options = kube::config::KubeConfigOptions { context: Some(context.clone()), ..Default::default() };
                kube::Config::from_kubeconfig(&options).await.map_err(|e| innermost(&e))
            }
        };
        let config = config.map_err(|e| {
            anyhow::anyhow!("no cluster: {e}. Next: set KUBECONFIG or write ~/.kube/config, or give --context; for files, use -f FOLDER")
        })?;
        let server = config.cluster_url.clone();
        let client =
            Client::try_from(config).with_context(|| format!("the kubeconfig's cluster {server} cannot be used"))?;
        Ok(Self::new(client))
    }
    pub fn new(client: Client) -> Self {
        Self { client }
    }
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// One call: status, body, and the server's time.
    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, String, Option<SystemTime>), Problem> {
        let unreachable = |e: String| Problem::Unreachable(e);
        let bytes = body.map(|b| b.to_string().into_bytes()).unwrap_or_default();
        let mut request = Request::new(Body::from(bytes));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(|_| Problem::NotFound(format!("{path:?} is no path")))?;
        if body.is_some() {
            request
                .headers_mut()
                .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        }
        let answered = async {
            let answer = self.client.send(request).await.map_err(|e| unreachable(innermost(&e)))?;
            let (head, body) = answer.into_parts();
            let body = body.collect().await.map_err(|e| unreachable(innermost(&e)))?.to_bytes();
            let date = head.headers.get(http::header::DATE).and_then(|d| d.to_str().ok()).and_then(date);
            Ok((head.status, String::from_utf8_lossy(&body).into_owned(), date))
        };
        match tokio::time::timeout(CALL, answered).await {
            Ok(r) => r,
            Err(_) => Err(unreachable(format!("no answer within {CALL:?}"))),
        }
    }
    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Problem> {
        let (status, text, _) = self.call(method, path, body).await?;
        let value: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        if status.is_success() {
            return Ok(value);
        }
        let message = value["message"].as_str().map_or_else(|| text.chars().take(200).collect(), str::to_owned);
        Err(match status {
            StatusCode::NOT_FOUND => Problem::NotFound(message),
            StatusCode::FORBIDDEN => Problem::Forbidden(message),
            StatusCode::UNAUTHORIZED => Problem::Unauthenticated(message),
            status => Problem::Refused { status, message },
        })
    }
    pub async fn get(&self, path: &str) -> Result<Value, Problem> {
        self.ask(Method::GET, path, None).await
    }
    pub async fn create(&self, path: &str, object: &Value) -> Result<Value, Problem> {
        self.ask(Method::POST, path, Some(object)).await
    }
    /// `None`: there is none.
    pub async fn find(&self, path: &str) -> Result<Option<Value>, Problem> {
        match self.get(path).await {
            Ok(v) => Ok(Some(v)),
            Err(Problem::NotFound(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }
    /// All objects of a collection; none if the cluster has no such kind.
    pub async fn list(&self, path: &str) -> Result<Vec<Value>, Problem> {
        let (mut items, mut next) = (Vec::new(), String::new());
        loop {
            let more = if next.is_empty() { String::new() } else { format!("&continue={next}") };
            let Some(mut page) = self.find(&format!("{path}?limit={PAGE}{more}")).await? else { return Ok(items) };
            if let Value::Array(all) = page["items"].take() {
                items.extend(all);
            }
            match page["metadata"]["continue"].as_str() {
                // base64 for URLs, which needs no escaping
                Some(token) if !token.is_empty() => next = token.to_owned(),
                _ => return Ok(items),
            }
        }
    }
    /// Version of the API server, and how far its clock is ahead of ours, in seconds.
    pub async fn version(&self) -> Result<(Value, Option<i64>), Problem> {
        let (status, text, date) = self.call(Method::GET, "/version", None).await?;
        if !status.is_success() {
            self.get("/version").await?;
        }
        let ahead = date.map(|d| match d.duration_since(SystemTime::now()) {
            Ok(ahead) => ahead.as_secs() as i64,
            Err(behind) => -(behind.duration().as_secs() as i64),
        });
        Ok((serde_json::from_str(&text).unwrap_or(Value::Null), ahead))
    }
    /// GET on a port of a pod, through the API server: status and text.
    pub async fn of_pod(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
        path: &str,
    ) -> Result<(StatusCode, String), Problem> {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{path}");
        let (status, text, _) = self.call(Method::GET, &path, None).await?;
        let refused: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        // an answer of the API server itself is a Status
        if !status.is_success() && refused["kind"] == "Status" {
            let message = refused["message"].as_str().unwrap_or_default().to_owned();
            return Err(match status {
                StatusCode::NOT_FOUND => Problem::NotFound(message),
                StatusCode::FORBIDDEN => Problem::Forbidden(message),
                status => Problem::Refused { status, message },
            });
        }
        Ok((status, text))
    }
    /// GET over a port-forward, which arrives on the pod's loopback.
    pub async fn get_within(&self, namespace: &str, pod: &str, port: u16, path: &str) -> anyhow::Result<(u16, String)> {
        let pods = kube::Api::<k8s_openapi::api::core::v1::Pod>::namespaced(self.client(), namespace);
        let forwarded = tokio::time::timeout(CALL, pods.portforward(pod, &[port])).await;
        let mut forward = forwarded
            .with_context(|| format!("the port-forward to {namespace}/{pod} did not open within {CALL:?}"))?
            .map_err(|e| anyhow::anyhow!("no port-forward to {namespace}/{pod}: {}. Next: you need create on pods/portforward in {namespace}", innermost(&e)))?;
        let mut stream = forward.take_stream(port).context("port-forward without a stream")?;
        let exchange = async {
            stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes()).await?;
            let mut text = Vec::new();
            (&mut stream).take(MAX_DUMP).read_to_end(&mut text).await?;
            anyhow::Ok(text)
        };
        let text = tokio::time::timeout(CALL, exchange).await.context("the proxy did not answer in time")??;
        let text = String::from_utf8_lossy(&text);
        let (head, body) = text.split_once("\r\n\r\n").with_context(|| {
            format!("nothing answers at port {port} of {namespace}/{pod}. Next: is it meshed? (kubectl get pod -n {namespace} {pod} -o jsonpath='{{.spec.initContainers[*].name}}')")
        })?;
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).context("answer without a status")?;
        Ok((status, body.to_owned()))
    }
}

/// `Tue, 01 Dec 2026 01:00:00 GMT` (RFC 9110 section 5.6.7).
fn date(text: &str) -> Option<SystemTime> {
    let parts: Vec<&str> = text.split([' ', ':']).collect();
    let [_, day, month, year, h, m, s, "GMT"] = parts[..] else { return None };
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months.iter().position(|n| *n == month)? as i64 + 1;
    let (year, day): (i64, i64) = (year.parse().ok()?, day.parse().ok()?);
    // days from civil, for the Gregorian calendar
    let y = if month <= 2 { year - 1 } else { year };
    let (era, yoe) = (y.div_euclid(400), y.rem_euclid(400));
    let doy = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468;
    let (h, m, s): (i64, i64, i64) = (h.parse().ok()?, m.parse().ok()?, s.parse().ok()?);
    let seconds = days * 86_400 + h * 3600 + m * 60 + s;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.try_into().ok()?))
}

/// The name of a meshed pod that is called so, or whose name begins so.
pub async fn pod(cluster: &Cluster, in_namespace: &str, called: &str) -> anyhow::Result<String> {
    let pods = cluster.list(&format!("/api/v1/namespaces/{in_namespace}/pods")).await?;
    let found = pods.iter().find(|p| name(p) == called);
    let found = found.or_else(|| pods.iter().find(|p| name(p).starts_with(called) && is_meshed(p) && is_running(p)));
    match found {
        Some(p) if is_meshed(p) => Ok(name(p).to_owned()),
        Some(p) => anyhow::bail!(
            "pod {in_namespace}/{} has no sidecar. Next: kubectl label namespace {in_namespace} weft.dev/inject=enabled and restart its workload",
            name(p)
        ),
        None => anyhow::bail!(
            "namespace {in_namespace} has no pod {called}. Next: kubectl get pods -n {in_namespace}; -n NAMESPACE if it is in another"
        ),
    }
}

/// A runtime for one command.
pub fn block_on<T>(run: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    weft_identity::provider::install();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run)
}

pub fn text<'v>(v: &'v Value, pointer: &str) -> &'v str {
    v.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
pub fn items(v: &Value) -> impl Iterator<Item = &Value> {
    v.as_array().into_iter().flatten()
}
pub fn name(v: &Value) -> &str {
    text(v, "/metadata/name")
}
pub fn namespace(v: &Value) -> &str {
    text(v, "/metadata/namespace")
}
/// A pod with a sidecar.
pub fn is_meshed(pod: &Value) -> bool {
    let containers = items(&pod["spec"]["initContainers"]).chain(items(&pod["spec"]["containers"]));
    containers.into_iter().any(|c| c["name"] == "weft-proxy")
}
pub fn is_running(pod: &Value) -> bool {
    pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_http() {
        let seconds = |t: &str| date(t).map(|d| d.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs());
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(seconds("Thu, 29 Feb 2024 00:00:00 GMT"), Some(1_709_164_800));
        assert_eq!(seconds("yesterday"), None);
    }
}
