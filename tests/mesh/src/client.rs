//! Clients: what an application inside a pod does when it calls another.

use crate::app::Seen;
use bytes::Bytes;
use http::{HeaderMap, Request, Version};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{io, net::SocketAddr};
use tokio::net::TcpStream;

/// A request to be sent; a builder.
#[derive(Clone, Debug)]
pub struct Call {
    to: SocketAddr,
    http2: bool,
    method: String,
    path: String,
    host: String,
    headers: Vec<(String, String)>,
    body: Bytes,
}

/// The whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: HeaderMap,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
    /// What the application saw; panics when the answer is not an application's.
    pub fn seen(&self) -> Seen {
        match serde_json::from_slice(&self.body) {
            Ok(s) => s,
            Err(e) => panic!("{e}: {} {:?} {:?}", self.status, self.headers, self.body),
        }
    }
    pub fn pod(&self) -> String {
        self.seen().pod
    }
    /// From the trailers, or from the head of a trailers-only answer.
    pub fn grpc_status(&self) -> Option<u32> {
        self.trailers.get("grpc-status").or(self.headers.get("grpc-status"))?.to_str().ok()?.parse().ok()
    }
}

impl Call {
    pub fn new(to: SocketAddr, host: &str) -> Call {
        Call {
            to,
            http2: false,
            method: "GET".into(),
            path: "/".into(),
            host: host.into(),
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }
    pub fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }
    /// A gRPC call with an empty message.
    pub fn grpc(self, path: &str) -> Self {
        self.http2()
            .method("POST")
            .path(path)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(&[0; 5])
    }
    pub fn method(mut self, m: &str) -> Self {
        self.method = m.into();
        self
    }
    pub fn path(mut self, p: &str) -> Self {
        self.path = p.into();
        self
    }
    pub fn host(mut self, h: &str) -> Self {
        self.host = h.into();
        self
    }
    pub fn header(mut self, n: &str, v: &str) -> Self {
        self.headers.push((n.into(), v.into()));
        self
    }
    pub fn body(mut self, b: &[u8]) -> Self {
        self.body = Bytes::copy_from_slice(b);
        self
    }

    /// Sends it on a connection of its own.
    pub async fn send(&self) -> anyhow::Result<Answer> {
        self.connect().await?.send(self).await
    }

    /// A connection for this call and others to the same address.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        let socket = TcpStream::connect(self.to).await?;
        socket.set_nodelay(true)?;
        let io = TokioIo::new(socket);
        Ok(if self.http2 {
            let (send, drive) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(async move { drop(drive.await) });
            Connection::Http2(send)
        } else {
            let (send, drive) = http1::handshake(io).await?;
            tokio::spawn(async move { drop(drive.await) });
            Connection::Http1(send)
        })
    }
}

/// An open connection of a client.
pub enum Connection {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

impl Connection {
    /// The whole answer to a call.
    pub async fn send(&mut self, call: &Call) -> anyhow::Result<Answer> {
        let (head, body) =
            self.begin(call, Full::new(call.body.clone()).map_err(|e| match e {}).boxed_unsync()).await?;
        let body = body.collect().await?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes(), trailers })
    }
    /// The answer's head; its body is the caller's to read. `body` is sent instead of the call's own.
    pub async fn begin(&mut self, call: &Call, body: Body) -> anyhow::Result<(http::response::Parts, Incoming)> {
        let mut request = Request::builder().method(call.method.as_str());
        for (n, v) in &call.headers {
            request = request.header(n, v);
        }
        let response = match self {
            Connection::Http2(send) => {
                let uri = format!("http://{}{}", call.host, call.path);
                send.ready().await?;
                send.send_request(request.version(Version::HTTP_2).uri(uri).body(body)?).await?
            }
            Connection::Http1(send) => {
                send.ready().await?;
                send.send_request(request.uri(&call.path).header("host", &call.host).body(body)?).await?
            }
        };
        Ok(response.into_parts())
    }
}
