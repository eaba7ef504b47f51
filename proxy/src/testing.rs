//! Two pods on loopback: a client's proxy and a server's proxy with mutual TLS between them, from a static configuration. For tests.
//!
//! ```text
//! test -> 127.0.0.1:a (stands for 10.96.0.1:80) -> client's proxy -> mTLS -> 127.0.0.1:b (stands for 10.1.0.2:8080) -> server's proxy -> application
//! ```

use crate::{
    config::{Capture, Config, Dial, Limits, Listen, Mapped, Pod, Static, Timeouts},
    control::Proxy,
    worker::Side,
};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use weft_core::{
    endpoint::{Endpoint, Endpoints, MeshPeer},
    policy::InboundPolicy,
    route::Routes,
    service::{Protocol, ServicePort, ServiceRef},
};
use weft_identity::testing::TestMesh;

/// The longest that anything in a test may take before it counts as hanging.
pub const LIMIT: Duration = Duration::from_secs(10);

fn ip(s: &str) -> IpAddr {
    s.parse().expect("a constant address")
}
/// The Service's address and port.
pub fn service_address() -> SocketAddr {
    SocketAddr::new(ip("10.96.0.1"), 80)
}
/// The server pod's address and port, for endpoint `n`.
pub fn pod_address(n: u8) -> SocketAddr {
    SocketAddr::new(ip(&format!("10.1.0.{}", n + 2)), 8080)
}
/// An address outside the mesh that is mapped to the first application.
pub fn outside_address() -> SocketAddr {
    SocketAddr::new(ip("192.0.2.7"), 9000)
}
/// `shop/web:80`.
pub fn service() -> ServiceRef {
    ServiceRef { namespace: "shop".into(), name: "web".into(), port: 80 }
}
/// `port: 0` on loopback.
pub fn any_port() -> SocketAddr {
    SocketAddr::new(ip("127.0.0.1"), 0)
}

/// A pod called `name`.
pub fn pod(name: &str, address: IpAddr) -> Pod {
    Pod {
        uid: format!("{name}-uid").into(),
        ips: vec![address],
        namespace: "shop".into(),
        name: name.into(),
        zone: None,
        identity: None,
    }
}

/// A configuration with these listeners and nothing else.
pub fn config(pod: Pod, mapped: Mapped, fixed: Static) -> Config {
    Config {
        pod,
        capture: Capture::Mapped(mapped),
        admin: any_port(),
        workers: 1,
        credentials: None,
        controller: None,
        fixed: Some(fixed),
        limits: Limits::default(),
        timeouts: Timeouts { grace: 2_500, ..Timeouts::default() },
        access_log: None,
    }
}

/// What a [`Pair`] is built from.
pub struct Builder {
    pub protocol: Protocol,
    pub http2: bool,
    pub routes: Routes,
    /// One server pod for each.
    pub apps: Vec<SocketAddr>,
    /// `false`: the endpoints have no sidecar.
    pub meshed: bool,
    pub inbound: InboundPolicy,
    pub tweak: fn(&mut Config),
    /// The UID that the client expects of endpoint 0, when it shall be a wrong one.
    pub expect_uid: Option<&'static str>,
    pub expect_account: Option<&'static str>,
}

impl Builder {
    pub fn new(app: SocketAddr) -> Builder {
        Builder {
            protocol: Protocol::Detect,
            http2: false,
            routes: Routes::None,
            apps: vec![app],
            meshed: true,
            inbound: InboundPolicy::default(),
            tweak: |_| {},
            expect_uid: None,
            expect_account: None,
        }
    }

    /// Starts both sides and waits until they serve.
    pub fn start(self) -> Pair {
        let mesh = TestMesh::new("cluster.local");
        let mut servers = Vec::new();
        let mut endpoints = Vec::new();
        let mut dial = vec![Dial { original: outside_address(), to: self.apps[0] }];
        for (n, app) in self.apps.iter().enumerate() {
            let (name, address) = (format!("server-{n}"), pod_address(n as u8));
            let mapped = Mapped {
                inbound: vec![Listen { listen: any_port(), original: address }],
                app: vec![Dial { original: address, to: *app }],
                ..Mapped::default()
            };
            let fixed = Static { inbound: self.inbound.clone(), ..Static::default() };
            let mut config = config(pod(&name, address.ip()), mapped, fixed);
            (self.tweak)(&mut config);
            let cell = mesh.cell("shop", "server", Some(&config.pod.uid));
            let uid = self.expect_uid.map_or_else(|| config.pod.uid.clone(), Into::into);
            let server = Proxy::start_with(config, Some(cell)).expect("the server's proxy starts");
            assert!(server.wait_ready(LIMIT), "the server's proxy is ready");
            let at = server.listener(Side::Inbound, None).expect("it listens");
            dial.push(Dial { original: address, to: if self.meshed { at } else { *app } });
            let identity = mesh.identity("shop", self.expect_account.unwrap_or("server"));
            endpoints.push(Arc::new(Endpoint {
                address,
                mesh: self.meshed.then_some(MeshPeer { uid, identity }),
                zone: None,
                terminating: false,
                workload: name.into(),
            }));
            servers.push(server);
        }
        let port = ServicePort {
            service: service(),
            protocol: self.protocol,
            routes: self.routes,
            affinity: None,
            requests: Default::default(),
            addresses: vec![service_address()],
        };
        let set = Endpoints {
            service: service(),
            endpoints,
            not_ready: 0,
            http2: self.http2,
            prefer_zone: false,
            policy: Default::default(),
        };
        let originals = [service_address(), outside_address()]
            .into_iter()
            .chain((0..self.apps.len()).map(|n| pod_address(n as u8)));
        let mapped = Mapped {
            outbound: originals.map(|original| Listen { listen: any_port(), original }).collect(),
            dial,
            ..Mapped::default()
        };
        let fixed = Static { services: vec![port], endpoints: vec![set], ..Static::default() };
        let mut config = config(pod("client", ip("10.1.0.100")), mapped, fixed);
        (self.tweak)(&mut config);
        let cell = mesh.cell("shop", "client", Some(&config.pod.uid));
        let client = Proxy::start_with(config, Some(cell)).expect("the client's proxy starts");
        assert!(client.wait_ready(LIMIT), "the client's proxy is ready");
        Pair { mesh, client, servers }
    }
}

/// A running pair.
pub struct Pair {
    pub mesh: TestMesh,
    pub client: Proxy,
    pub servers: Vec<Proxy>,
}

impl Pair {
    fn at(&self, original: SocketAddr) -> SocketAddr {
        self.client.listener(Side::Outbound, Some(original)).expect("it is mapped")
    }
    /// Where the client's application dials the Service.
    pub fn service(&self) -> SocketAddr {
        self.at(service_address())
    }
    /// ... or the first server pod by its own address.
    pub fn pod(&self) -> SocketAddr {
        self.at(pod_address(0))
    }
    /// ... or something outside.
    pub fn outside(&self) -> SocketAddr {
        self.at(outside_address())
    }
    /// Where anybody reaches the first server pod.
    pub fn server(&self) -> SocketAddr {
        self.servers[0].listener(Side::Inbound, None).expect("it listens")
    }
}
