//! Applications behind the sidecars: they answer what they saw, or what a script says.

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::net::TcpListener;

/// What an application saw of a request; the body of its answer, as JSON.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Seen {
    pub pod: String,
    pub method: String,
    /// Path and query as they arrived.
    pub path: String,
    pub host: String,
    pub version: String,
    /// Several values of a name are joined by a comma.
    pub headers: BTreeMap<String, String>,
    pub body_bytes: usize,
    pub trailers: BTreeMap<String, String>,
}

/// What a script makes of the n-th request (from 0).
#[derive(Clone, Debug)]
pub enum Reply {
    /// 200 with [`Seen`].
    Echo,
    /// This status, with [`Seen`].
    Status(u16),
    /// Waits, then does the other thing.
    After(Duration, Box<Reply>),
    /// Closes the connection before any answer byte.
    Drop,
    /// gRPC: headers, no message, trailers with this status.
    Grpc(u32),
    /// gRPC: one head with this status that is the whole answer (trailers only).
    GrpcOnly(u32),
    /// 200 with a body of so many bytes.
    Bytes(usize),
    /// 200 with these trailers after [`Seen`].
    Trailers(Vec<(String, String)>),
    /// 200 with response headers.
    Headers(Vec<(String, String)>),
}

pub type Script = Arc<dyn Fn(u64, &Seen) -> Reply + Send + Sync>;

/// A running application.
#[derive(Clone)]
pub struct App {
    pub name: String,
    script: Script,
    requests: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
}

impl App {
    /// Answers every request with what it saw.
    pub fn echo(name: &str) -> App {
        App::scripted(name, |_, _| Reply::Echo)
    }
    pub fn scripted(name: &str, script: impl Fn(u64, &Seen) -> Reply + Send + Sync + 'static) -> App {
        App { name: name.into(), script: Arc::new(script), requests: Arc::default(), connections: Arc::default() }
    }
    /// Requests that reached the application.
    pub fn requests(&self) -> u64 {
        self.requests.load(SeqCst)
    }
    pub fn connections(&self) -> u64 {
        self.connections.load(SeqCst)
    }

    /// Serves HTTP/1.1 and HTTP/2 with prior knowledge on `address` until the runtime ends.
    pub async fn serve(&self, address: SocketAddr) -> io::Result<()> {
        let listener = TcpListener::bind(address).await?;
        let app = self.clone();
        tokio::spawn(async move {
            let server = auto::Builder::new(TokioExecutor::new());
            loop {
                let Ok((socket, _)) = listener.accept().await else { continue };
                app.connections.fetch_add(1, SeqCst);
                let _ = socket.set_nodelay(true);
                let (app, server) = (app.clone(), server.clone());
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(move |r| app.clone().answer(r));
                    // a connection that ends early is part of the tests
                    let _ = server.serve_connection_with_upgrades(TokioIo::new(socket), service).await;
                });
            }
        });
        Ok(())
    }

    async fn answer(self, request: Request<Incoming>) -> io::Result<Response<Body>> {
        let (head, incoming) = request.into_parts();
        let n = self.requests.fetch_add(1, SeqCst);
        let mut seen = Seen {
            pod: self.name.clone(),
            method: head.method.to_string(),
            path: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            host: head
                .uri
                .authority()
                .map(ToString::to_string)
                .or_else(|| text(&head.headers, "host"))
                .unwrap_or_default(),
            version: format!("{:?}", head.version),
            headers: joined(&head.headers),
            body_bytes: 0,
            trailers: BTreeMap::new(),
        };
        let body = incoming.collect().await.map_err(io::Error::other)?;
        seen.trailers = body.trailers().map(joined).unwrap_or_default();
        seen.body_bytes = body.to_bytes().len();
        let mut reply = (self.script)(n, &seen);
        while let Reply::After(delay, next) = reply {
            tokio::time::sleep(delay).await;
            reply = *next;
        }
        // an answer that cannot be written as JSON does not exist: Seen holds only text and numbers
        let json = Bytes::from(serde_json::to_vec(&seen).map_err(io::Error::other)?);
        let mut response = Response::new(frames(vec![Frame::data(json.clone())]));
        match reply {
            Reply::Echo | Reply::After(..) => {}
            Reply::Status(code) => {
                *response.status_mut() = StatusCode::from_u16(code).map_err(io::Error::other)?;
            }
            Reply::Drop => return Err(io::ErrorKind::ConnectionReset.into()),
            Reply::Grpc(code) => {
                let mut t = HeaderMap::new();
                t.insert("grpc-status", code.into());
                *response.body_mut() = frames(vec![Frame::trailers(t)]);
                response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
            }
            Reply::GrpcOnly(code) => {
                *response.body_mut() = frames(Vec::new());
                response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
                response.headers_mut().insert("grpc-status", code.into());
            }
            Reply::Bytes(n) => {
                *response.body_mut() = frames(vec![Frame::data(Bytes::from(vec![b'x'; n]))]);
                response.headers_mut().insert("content-length", n.into());
            }
            Reply::Trailers(list) => {
                *response.body_mut() = frames(vec![Frame::data(json), Frame::trailers(headers(&list)?)]);
            }
            Reply::Headers(list) => *response.headers_mut() = headers(&list)?,
        }
        if seen.method == "HEAD" {
            // hyper's HTTP/2 sends what it is given
            *response.body_mut() = frames(Vec::new());
        }
        Ok(response)
    }
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

fn frames(list: Vec<Frame<Bytes>>) -> Body {
    if list.is_empty() {
        // one that says that it is over, so that the head is the end
        return http_body_util::Empty::new().map_err(|e| match e {}).boxed_unsync();
    }
    StreamBody::new(futures_util::stream::iter(list.into_iter().map(Ok))).boxed_unsync()
}

fn headers(list: &[(String, String)]) -> io::Result<HeaderMap> {
    let mut map = HeaderMap::new();
    for (n, v) in list {
        let name: http::HeaderName = n.parse().map_err(io::Error::other)?;
        map.append(name, v.parse().map_err(io::Error::other)?);
    }
    Ok(map)
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(String::from_utf8_lossy(headers.get(name)?.as_bytes()).into_owned())
}

fn joined(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (n, v) in headers {
        let v = String::from_utf8_lossy(v.as_bytes());
        all.entry(n.to_string())
            .and_modify(|old: &mut String| *old = format!("{old},{v}"))
            .or_insert_with(|| v.into_owned());
    }
    all
}
