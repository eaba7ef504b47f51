//! The kubelet's gRPC probe, performed for it: one unary call of `grpc.health.v1.Health/Check` in plain HTTP/2. Two messages of one field each need no code generator.

use axum::body::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, Response, body::Incoming, client::conn::http2, header::CONTENT_TYPE};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::net::SocketAddr;
use weft_core::policy::GRPC_HEALTH;

/// A health response is seven bytes.
const ANSWER_MAX: usize = 4 * 1024;
/// `ServingStatus.SERVING`.
const SERVING: u64 = 1;

/// Why an application is not healthy; the kubelet's event shows it.
#[derive(Debug, thiserror::Error)]
pub enum Unhealthy {
    #[error("cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("no HTTP/2: {0}")]
    Http(#[from] hyper::Error),
    #[error("HTTP status {0} instead of a gRPC answer")]
    Status(u16),
    #[error("grpc-status {0}")]
    Grpc(String),
    #[error("the health service says {0}")]
    Serving(&'static str),
    #[error("the answer is no HealthCheckResponse: {0}")]
    Answer(&'static str),
}

/// Asks the application at `to` about `service`. The caller sets the limit of time.
pub async fn check(to: SocketAddr, service: &str) -> Result<(), Unhealthy> {
    let socket = crate::opaque::dial_plain(to).await?;
    let (mut send, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await?;
    // ends with the exchange: nobody else holds `send`
    let connection = tokio::spawn(connection);
    let answered = call(&mut send, to, service).await;
    connection.abort();
    answered
}

async fn call(send: &mut http2::SendRequest<Full<Bytes>>, to: SocketAddr, service: &str) -> Result<(), Unhealthy> {
    let mut request = Request::new(Full::new(frame(&question(service))));
    *request.method_mut() = hyper::Method::POST;
    *request.uri_mut() = format!("http://{to}{GRPC_HEALTH}").parse().map_err(|_| Unhealthy::Answer("no URI"))?;
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/grpc"));
    headers.insert(hyper::header::TE, hyper::header::HeaderValue::from_static("trailers"));
    judge(send.send_request(request).await?).await
}

async fn judge(response: Response<Incoming>) -> Result<(), Unhealthy> {
    if response.status() != hyper::StatusCode::OK {
        return Err(Unhealthy::Status(response.status().as_u16()));
    }
    let said = |headers: &hyper::HeaderMap| {
        let text = |name: &str| headers.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
        let status = text("grpc-status")?;
        let message: String = text("grpc-message").unwrap_or_default().chars().take(200).collect();
        Some(if message.is_empty() { status } else { format!("{status}: {message}") })
    };
    let bad = |status: Option<String>| match status.as_deref() {
        Some("0") => Ok(()),
        Some(other) => Err(Unhealthy::Grpc(other.to_owned())),
        None => Err(Unhealthy::Answer("it has no grpc-status")),
    };
    // an error may come as one HEADERS frame ("trailers only")
    let (head, body) = response.into_parts();
    if let Some(status) = said(&head.headers) {
        bad(Some(status))?;
    }
    let body = Limited::new(body, ANSWER_MAX)
        .collect()
        .await
        .map_err(|_| Unhealthy::Answer("it broke off, or is too long"))?;
    bad(body.trailers().and_then(said).or_else(|| said(&head.headers)))?;
    match serving(&body.to_bytes()).ok_or(Unhealthy::Answer("not the message"))? {
        SERVING => Ok(()),
        0 => Err(Unhealthy::Serving("UNKNOWN")),
        2 => Err(Unhealthy::Serving("NOT_SERVING")),
        3 => Err(Unhealthy::Serving("SERVICE_UNKNOWN")),
        _ => Err(Unhealthy::Serving("a status that is not known")),
    }
}

/// A gRPC message: not compressed, its length, itself.
fn frame(message: &[u8]) -> Bytes {
    let mut out = vec![0];
    out.extend((message.len() as u32).to_be_bytes());
    out.extend(message);
    out.into()
}

/// `HealthCheckRequest { string service = 1; }`
fn question(service: &str) -> Vec<u8> {
    let mut out = Vec::new();
    if service.is_empty() {
        return out;
    }
    out.push(0x0a);
    let mut n = service.len();
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out.extend(service.as_bytes());
    out
}

/// `HealthCheckResponse { ServingStatus status = 1; }`: the status, 0 when the field is left out. The message has no other field; what is more is not understood.
fn serving(body: &[u8]) -> Option<u64> {
    let (head, message) = body.split_at_checked(5)?;
    let length = u32::from_be_bytes(head[1..].try_into().ok()?) as usize;
    if head[0] != 0 || length != message.len() {
        return None;
    }
    match message {
        [] => Some(0),
        [0x08, n] if *n < 0x80 => Some(u64::from(*n)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        assert_eq!(frame(&question(""))[..], [0, 0, 0, 0, 0]);
        assert_eq!(frame(&question("ab"))[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(question(&"x".repeat(200))[..3], [0x0a, 0xc8, 1]);
        assert_eq!(serving(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(serving(&[0, 0, 0, 0, 0]), Some(0));
        for bad in [
            &[][..],
            &[0, 0, 0, 0],
            &[1, 0, 0, 0, 2, 8, 1],
            &[0, 0, 0, 0, 3, 8, 1],
            &[0, 0, 0, 0, 2, 8, 0x80],
            &[0, 0, 0, 0, 2, 16, 1],
        ] {
            assert_eq!(serving(bad), None, "{bad:?}");
        }
    }
}
