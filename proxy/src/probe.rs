//! Kubelet probes at a strict workload: exactly the injected port and path pass in plain text, one request to a connection.
//!
//! The request is written anew (its head, `Connection: close`, no body) and whatever else the client sends is never forwarded, so a probe's connection cannot
//! carry a second request to another path.

use crate::{
    opaque,
    wire::{Read, Wire, WireError},
    worker::Worker,
};
use std::{future::poll_fn, net::SocketAddr, rc::Rc, task::Poll, time::Duration};
use tokio::time::timeout;
use weft_core::policy::Probe;

/// The kubelet sends a few hundred bytes.
const HEAD_MAX: usize = 8 * 1024;
/// The longest probe: Kubernetes' `timeoutSeconds` is a few seconds; the kubelet hangs up by itself.
const LONGEST: Duration = Duration::from_secs(60);

/// Whether the request line in `head` is one of the probes of `port`.
pub fn allowed(head: &[u8], port: u16, probes: &[Probe]) -> bool {
    let head = head.strip_prefix(b"\r\n").unwrap_or(head);
    let Some(rest) = head.strip_prefix(b"GET ").or_else(|| head.strip_prefix(b"HEAD ")) else { return false };
    let Some(end) = rest.iter().position(|c| *c == b' ') else { return false };
    probes.iter().any(|p| p.port == port && p.path.as_deref().is_some_and(|path| path.as_bytes() == &rest[..end]))
}

/// Rewrites a request head for one exchange. `None`: it has a body, or is no head.
fn rewrite(head: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(head).ok()?;
    let mut lines = text.trim_start_matches("\r\n").split("\r\n");
    let mut out = format!("{}\r\n", lines.next()?);
    for line in lines.take_while(|l| !l.is_empty()) {
        let (name, value) = line.split_once(':')?;
        if name.is_empty() || name.contains([' ', '\t']) || value.contains(['\r', '\n', '\0']) {
            return None;
        }
        match name.to_ascii_lowercase().as_str() {
            "connection" | "keep-alive" | "proxy-connection" => {}
            "content-length" if value.trim() == "0" => {}
            "content-length" | "transfer-encoding" | "upgrade" | "expect" => return None,
            _ => {
                out.push_str(line);
                out.push_str("\r\n");
            }
        }
    }
    out.push_str("connection: close\r\n\r\n");
    Some(out.into_bytes())
}

/// Serves one probe and closes.
pub async fn serve(w: &Rc<Worker>, mut wire: Wire, app: SocketAddr) -> Result<(), WireError> {
    let mut head = Vec::new();
    let exchange = async {
        let end = loop {
            if let Some(at) = head.windows(4).position(|b| b == b"\r\n\r\n") {
                break at + 4;
            }
            if head.len() > HEAD_MAX || wire.read_into(&mut head).await? == Read::Eof {
                return Ok(false);
            }
        };
        let Some(request) = rewrite(&head[..end]) else { return Ok(false) };
        let Ok((mut up, _)) = opaque::plain(w, app, &request).await else { return Ok(false) };
        up.flush_all().await?;
        poll_fn(|cx| {
            loop {
                wire.flush(cx)?;
                if wire.backlog() {
                    return Poll::Pending;
                }
                match up.read(cx, |cx, d| wire.push_now(cx, d))? {
                    Read::Data(_) => {}
                    Read::Pending => return Poll::Pending,
                    Read::Eof => return Poll::Ready(wire.shutdown(cx).map(|()| true)),
                }
            }
        })
        .await
    };
    let served = match timeout(LONGEST, exchange).await {
        Ok(r) => r?,
        Err(_) => false,
    };
    if !served {
        wire.abort();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_port_and_the_path() {
        let probes = [Probe { port: 8080, path: Some("/healthz".into()) }, Probe { port: 9090, path: None }];
        let ok = |head: &str, port| allowed(head.as_bytes(), port, &probes);
        assert!(ok("GET /healthz HTTP/1.1\r\n", 8080));
        assert!(ok("HEAD /healthz HTTP/1.1\r\n", 8080));
        for head in [
            "POST /healthz HTTP/1.1\r\n",
            "GET /healthz/x HTTP/1.1\r\n",
            "GET /healthz?x HTTP/1.1\r\n",
            "GET / HTTP/1.1\r\n",
            "GET //healthz HTTP/1.1\r\n",
        ] {
            assert!(!ok(head, 8080), "{head}");
        }
        assert!(!ok("GET /healthz HTTP/1.1\r\n", 8081));
        assert!(!ok("GET /healthz HTTP/1.1\r\n", 9090));
    }

    #[test]
    fn one_request_without_a_body() {
        let r = rewrite(b"GET /h HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nX-Key: v\r\n\r\n").unwrap();
        assert_eq!(
            std::str::from_utf8(&r).unwrap(),
            "GET /h HTTP/1.1\r\nHost: a\r\nX-Key: v\r\nconnection: close\r\n\r\n"
        );
        for bad in
            ["Content-Length: 5", "Transfer-Encoding: chunked", "Upgrade: x", "Transfer-Encoding : chunked", " folded"]
        {
            assert_eq!(rewrite(format!("GET /h HTTP/1.1\r\nHost: a\r\n{bad}\r\n\r\n").as_bytes()), None, "{bad}");
        }
        assert!(rewrite(b"GET /h HTTP/1.1\r\nHost: a\r\ncontent-length: 0\r\n\r\n").is_some());
    }
}
