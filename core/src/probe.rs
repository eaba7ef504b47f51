//! Probes that the kubelet asks of the sidecar instead of the application: the injector writes them into a pod, the controller reads from them what may be asked, the sidecar's admin
//! server performs them.
//!
//! | declared | becomes `httpGet` on [`ADMIN_PORT`] | because |
//! |---|---|---|
//! | `tcpSocket: N` | `/probe/tcp/N` | a captured port accepts everybody |
//! | `grpc: {port: N, service: S}` | `/probe/grpc/N/S` | the kubelet is no member of the mesh, and speaks plain HTTP/2 |

use crate::policy::{GRPC_HEALTH, Probe};
use std::fmt::{self, Write as _};

/// Where a sidecar's admin server listens, reachable from outside the pod.
pub const ADMIN_PORT: u16 = 15020;
/// How long the sidecar may try, in milliseconds: a little less than the kubelet waits, so that its events say why instead of "deadline exceeded".
pub const TIMEOUT_HEADER: &str = "weft-probe-timeout-ms";
/// Every such path begins with it.
pub const PREFIX: &str = "/probe/";
/// Bytes of the name of a health service: longer than any full name that a .proto file gives.
pub const SERVICE_MAX: usize = 256;

/// A probe that the sidecar performs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// Connecting is enough.
    Tcp { port: u16 },
    /// The standard health service, asked about `service` (empty: the server as a whole).
    Grpc { port: u16, service: String },
}

impl Forwarded {
    /// Reads the path of a request; a query means nothing.
    pub fn parse(path: &str) -> Option<Forwarded> {
        let path = path.split('?').next().unwrap_or_default().strip_prefix(PREFIX)?;
        // a sign or leading zeros would make two paths of one probe
        let port = |s: &str| s.parse::<u16>().ok().filter(|p| *p > 0 && p.to_string() == s);
        if let Some(tcp) = path.strip_prefix("tcp/") {
            return Some(Forwarded::Tcp { port: port(tcp)? });
        }
        let (number, service) = match path.strip_prefix("grpc/")?.split_once('/') {
            Some((_, "")) => return None,
            Some((number, service)) => (number, decode(service)?),
            None => (path.strip_prefix("grpc/")?, String::new()),
        };
        Some(Forwarded::Grpc { port: port(number)?, service })
    }

    /// What the workload's policy calls it.
    pub fn probe(&self) -> Probe {
        match self {
            Forwarded::Tcp { port } => Probe { port: *port, path: None },
            Forwarded::Grpc { port, .. } => Probe { port: *port, path: Some(GRPC_HEALTH.into()) },
        }
    }
}

/// The path of the request.
impl fmt::Display for Forwarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Forwarded::Tcp { port } => write!(f, "{PREFIX}tcp/{port}"),
            Forwarded::Grpc { port, service } if service.is_empty() => write!(f, "{PREFIX}grpc/{port}"),
            Forwarded::Grpc { port, service } => write!(f, "{PREFIX}grpc/{port}/{}", encode(service)),
        }
    }
}

/// Everything but RFC 3986's unreserved characters: a path segment that no parser on the way can read in two ways.
fn encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, b| {
        match b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
            true => out.push(char::from(b)),
            // writing to a String does not fail
            false => _ = write!(out, "%{b:02X}"),
        }
        out
    })
}

fn decode(text: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut rest = text.bytes();
    while let Some(b) = rest.next() {
        out.push(match b {
            b'%' => {
                let digit = |b: u8| char::from(b).to_digit(16);
                (digit(rest.next()?)? * 16 + digit(rest.next()?)?) as u8
            }
            b => b,
        });
    }
    String::from_utf8(out).ok().filter(|s| s.len() <= SERVICE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read_again_and_nothing_else() {
        let grpc = |port, service: &str| Forwarded::Grpc { port, service: service.into() };
        for (probe, path) in [
            (Forwarded::Tcp { port: 8080 }, "/probe/tcp/8080"),
            (grpc(9000, ""), "/probe/grpc/9000"),
            (grpc(9000, "shop.v1.Orders"), "/probe/grpc/9000/shop.v1.Orders"),
            (grpc(9000, "a b/ü?"), "/probe/grpc/9000/a%20b%2F%C3%BC%3F"),
        ] {
            assert_eq!(probe.to_string(), path);
            assert_eq!(Forwarded::parse(path).as_ref(), Some(&probe));
        }
        assert_eq!(Forwarded::parse("/probe/tcp/80?x"), Some(Forwarded::Tcp { port: 80 }));
        for path in [
            "/probe/tcp/",
            "/probe/tcp/0",
            "/probe/tcp/65536",
            "/probe/tcp/+80",
            "/probe/tcp/080",
            "/probe/tcp/80/",
            "/probe/udp/80",
            "/probe/grpc/",
            "/probe/grpc/80/",
            "/probe/grpc/80/%",
            "/probe/grpc/80/%g0",
            "/probe/grpc/80/%ff",
            "/ready",
            "",
        ] {
            assert_eq!(Forwarded::parse(path), None, "{path}");
        }
        assert_eq!(Forwarded::parse(&grpc(1, &"x".repeat(SERVICE_MAX + 1)).to_string()), None);
        assert_eq!(grpc(9000, "x").probe(), Probe { port: 9000, path: Some(GRPC_HEALTH.into()) });
    }

    proptest! {
        #[test]
        fn any_service_survives(port in 1u16.., service in "\\PC{0,60}", path in "/probe/(tcp|grpc)/\\PC{0,40}") {
            let probe = Forwarded::Grpc { port, service };
            prop_assert_eq!(Forwarded::parse(&probe.to_string()), Some(probe));
            let _ = Forwarded::parse(&path);
        }
    }
}
