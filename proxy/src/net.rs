//! Where connections really go: the original destination of a captured connection, and the address that is dialled for one.
//!
//! Two worlds behind one trait. In a pod the kernel's NAT remembers the original destination. On a laptop without root each workload has a block of loopback
//! addresses: a table says which listener stands for which Service or pod address, and which loopback address a pod address is dialled at.
//! Everything after this trait is the same code.

use crate::config::Mapped;
use ahash::{AHashMap, AHashSet};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Answers "where did this connection want to go" and "where do I reach this address".
pub trait OriginalDst: Send + Sync {
    /// The destination that the client dialled before the capture. An error when the connection was not captured.
    fn original(&self, socket: &TcpStream, listener: SocketAddr) -> io::Result<SocketAddr>;
    /// The address to dial for another pod's or an outside address.
    fn dial(&self, to: SocketAddr) -> SocketAddr {
        to
    }
    /// The address to dial for the application of this pod, given the pod's address and port.
    fn app(&self, to: SocketAddr) -> SocketAddr {
        to
    }
    /// An address that leads back to this proxy's own listeners: dialling it would loop.
    fn is_own(&self, to: SocketAddr) -> bool;
}

/// iptables' REDIRECT with `SO_ORIGINAL_DST`.
pub struct Kernel {
    own_ports: AHashSet<u16>,
    own_ips: AHashSet<IpAddr>,
}

impl Kernel {
    pub fn new(pod_ips: &[IpAddr], listeners: &[SocketAddr]) -> Kernel {
        Kernel {
            own_ports: listeners.iter().map(SocketAddr::port).collect(),
            own_ips: pod_ips.iter().copied().collect(),
        }
    }
}

impl OriginalDst for Kernel {
    fn original(&self, socket: &TcpStream, _: SocketAddr) -> io::Result<SocketAddr> {
        let s = SockRef::from(socket);
        let local = socket.local_addr()?;
        let found = if local.is_ipv4() { s.original_dst_v4() } else { s.original_dst_v6() };
        match found {
            Ok(a) => {
                let a = a.as_socket().ok_or_else(|| io::Error::other("original destination is not an IP address"))?;
                Ok(unmapped(a))
            }
            // connection tracking has no entry: it was dialled directly
            Err(e) if matches!(e.raw_os_error(), Some(2 | 92)) => Ok(unmapped(local)),
            Err(e) => Err(e),
        }
    }
    fn is_own(&self, to: SocketAddr) -> bool {
        self.own_ports.contains(&to.port()) && (to.ip().is_loopback() || self.own_ips.contains(&to.ip()))
    }
}

/// An IPv4 address in IPv6 clothing is the IPv4 address.
fn unmapped(a: SocketAddr) -> SocketAddr {
    SocketAddr::new(a.ip().to_canonical(), a.port())
}

/// The tables of [`Mapped`].
pub struct Table {
    original: AHashMap<SocketAddr, SocketAddr>,
    dial: AHashMap<SocketAddr, SocketAddr>,
    app: AHashMap<SocketAddr, SocketAddr>,
}

impl Table {
    /// `bound`: the addresses that the listeners of `m.outbound` and then `m.inbound` really got (port 0 takes a free one).
    pub fn new(m: &Mapped, bound: &[SocketAddr]) -> Table {
        let entries = m.outbound.iter().chain(&m.inbound);
        Table {
            original: bound.iter().copied().zip(entries.map(|e| e.original)).collect(),
            dial: m.dial.iter().map(|e| (e.original, e.to)).collect(),
            app: m.app.iter().map(|e| (e.original, e.to)).collect(),
        }
    }
}

impl OriginalDst for Table {
    fn original(&self, _: &TcpStream, listener: SocketAddr) -> io::Result<SocketAddr> {
        self.original
            .get(&listener)
            .copied()
            .ok_or_else(|| io::Error::other(format!("listener {listener} stands for no address")))
    }
    fn dial(&self, to: SocketAddr) -> SocketAddr {
        self.dial.get(&to).copied().unwrap_or(to)
    }
    fn app(&self, to: SocketAddr) -> SocketAddr {
        self.app.get(&to).copied().unwrap_or(to)
    }
    fn is_own(&self, to: SocketAddr) -> bool {
        self.original.contains_key(&to)
    }
}

/// Waiting connections per listener: a burst of a whole application's pool. The kernel caps it at `somaxconn`.
const BACKLOG: i32 = 4096;
/// A peer that vanished without a FIN is noticed after 30 s + 3 x 10 s, and unacknowledged data after as long: a dead node must not hold connections for hours.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;
const USER_TIMEOUT: Duration = Duration::from_secs(60);

fn tune(s: SockRef<'_>) -> io::Result<()> {
    // Nagle costs 50 % of CPU at 64 KiB bodies and 40 ms of latency at worst
    s.set_tcp_nodelay(true)?;
    s.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_PROBES),
    )?;
    s.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

/// Opens a listener. Accepted sockets inherit its options on Linux, so an accept costs no `setsockopt`.
pub fn listen(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    let s = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    s.set_reuse_address(true)?;
    if addr.is_ipv6() {
        s.set_only_v6(true)?;
    }
    tune(SockRef::from(&s))?;
    s.bind(&addr.into())?;
    s.listen(BACKLOG)?;
    Ok(s.into())
}

/// Must run inside the worker's runtime.
pub fn register(l: std::net::TcpListener) -> io::Result<TcpListener> {
    TcpListener::from_std(l)
}

/// Dials. The caller bounds the time.
pub async fn dial(addr: SocketAddr) -> io::Result<TcpStream> {
    let s = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    tune(SockRef::from(&s))?;
    s.connect(addr).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Dial, Listen};

    #[tokio::test]
    async fn row_55_a_connection_to_our_own_listener_is_told_from_a_captured_one() {
        let l = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let at = l.local_addr().unwrap();
        let l = register(l).unwrap();
        let (dialled, accepted) = tokio::join!(dial(at), l.accept());
        let kernel = Kernel::new(&["10.1.0.9".parse().unwrap()], &[at]);
        let original = kernel.original(&accepted.unwrap().0, at).unwrap();
        assert_eq!(original, at);
        assert!(kernel.is_own(original));
        assert!(kernel.is_own(SocketAddr::new("10.1.0.9".parse().unwrap(), at.port())));
        assert!(!kernel.is_own(SocketAddr::new("10.1.0.8".parse().unwrap(), at.port())));
        assert!(dialled.unwrap().nodelay().unwrap());
    }

    #[test]
    fn tables_stand_for_addresses() {
        let a = |s: &str| s.parse().unwrap();
        let m = Mapped {
            outbound: vec![Listen { listen: a("127.0.0.1:0"), original: a("10.96.0.1:80") }],
            inbound: vec![Listen { listen: a("127.0.0.1:0"), original: a("[fd00::9]:8080") }],
            dial: vec![Dial { original: a("10.1.0.2:80"), to: a("127.0.0.1:1") }],
            app: vec![Dial { original: a("[fd00::9]:8080"), to: a("127.0.0.1:2") }],
        };
        let t = Table::new(&m, &[a("127.0.0.1:5"), a("127.0.0.1:6")]);
        assert_eq!(t.original[&a("127.0.0.1:5")], a("10.96.0.1:80"));
        assert_eq!(t.original[&a("127.0.0.1:6")], a("[fd00::9]:8080"));
        assert_eq!(t.dial(a("10.1.0.2:80")), a("127.0.0.1:1"));
        assert_eq!(t.dial(a("10.1.0.3:80")), a("10.1.0.3:80"));
        assert_eq!(t.app(a("[fd00::9]:8080")), a("127.0.0.1:2"));
        assert!(t.is_own(a("127.0.0.1:5")) && !t.is_own(a("127.0.0.1:1")));
    }
}
