//! Two engines back to back, without sockets and TLS: what one request costs. `pair h1|h2 COUNT`; run it under callgrind with two counts, the difference is the requests'.
#![allow(clippy::unwrap_used)]

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Instant};
use weft_core::{
    endpoint::{Endpoint, Endpoints, MeshPeer},
    filter::Filters,
    identity::WorkloadIdentity,
    matches::{HttpMatch, NamedMatch, PathMatch, ValueMatch},
    retry::{RetryPolicy, Timeouts},
    route::{BackendRef, HttpTable, RouteKind, RouteRef, Routes, Rule, RuleMatches, WeightedBackend},
    service::{Protocol, ServicePort, ServiceRef},
};
use weft_http::{
    h2::{Config, Connection, Event},
    head::{Pseudo, pool},
};
use weft_relay::{Accept, Command, ConnKey, Engine, EngineConfig, Shared, Side, Wire};

#[derive(Clone, Copy, PartialEq)]
enum Far {
    Engine(usize, ConnKey),
    Client,
    App(usize),
}

struct World {
    engines: [Engine; 2],
    far: HashMap<(usize, ConnKey), Far>,
    now: Instant,
    h2: bool,
    client: ConnKey,
    codec: Connection<u32>,
    apps: Vec<(ConnKey, Connection<u32>)>,
    done: usize,
    buffer: Vec<u8>,
    ready: Vec<(usize, ConnKey)>,
    inbox: Vec<(Far, Vec<u8>)>,
}

fn rule(prefix: &str, header: Option<(&str, &str)>, index: u32) -> Arc<Rule> {
    let m = HttpMatch {
        path: PathMatch::Prefix(prefix.into()),
        headers: header
            .iter()
            .map(|(n, v)| NamedMatch { name: (*n).into(), value: ValueMatch::Exact((*v).into()) })
            .collect(),
        ..HttpMatch::default()
    };
    Arc::new(Rule {
        route: Arc::new(RouteRef { kind: RouteKind::Http, namespace: "shop".into(), name: "front".into(), created: 0 }),
        index,
        name: None,
        matches: RuleMatches::Http(vec![m]),
        filters: Filters::default(),
        backends: vec![WeightedBackend {
            backend: BackendRef::Service(service()),
            weight: 1,
            filters: Filters::default(),
        }],
        timeouts: Timeouts { request: Some(std::time::Duration::from_secs(10)), backend_request: None },
        retry: Some(RetryPolicy {
            codes: vec![503],
            grpc_codes: vec![],
            attempts: 2,
            backoff: std::time::Duration::from_millis(25),
        }),
    })
}
fn service() -> ServiceRef {
    ServiceRef { namespace: "shop".into(), name: "cart".into(), port: 80 }
}

impl World {
    fn new(h2: bool) -> World {
        let now = Instant::now();
        let engine = |seed| {
            Engine::new(EngineConfig { shared: Some(Shared::new(None, now)), ..EngineConfig::default() }, seed, now)
        };
        let mut engines = [engine(1), engine(2)];
        let rules = vec![
            rule("/api/v2/orders", Some(("x-canary", "1")), 0),
            rule("/api/v2", None, 1),
            rule("/api", None, 2),
            rule("/static", None, 3),
            rule("/", Some(("x-canary", "always")), 4),
            rule("/", Some(("x-user-group", "beta")), 5),
            rule("/", None, 6),
        ];
        let port = ServicePort {
            service: service(),
            protocol: Protocol::Http,
            routes: Routes::Http(Arc::new(HttpTable::new(rules))),
            affinity: None,
            requests: Default::default(),
            addresses: vec![],
        };
        engines[0].set_service(Arc::new(port), now);
        let address: SocketAddr = "10.0.0.1:80".parse().unwrap();
        let identity = WorkloadIdentity::new("cluster.local", "shop", "cart").unwrap();
        let endpoint = Endpoint {
            address,
            mesh: Some(MeshPeer { uid: "u".into(), identity }),
            zone: None,
            terminating: false,
            workload: "cart".into(),
        };
        let e = Endpoints {
            service: service(),
            endpoints: vec![Arc::new(endpoint)],
            not_ready: 0,
            http2: false,
            prefer_zone: false,
            policy: Default::default(),
        };
        engines[0].set_endpoints(Arc::new(e), now);
        let wire = if h2 { Wire::Http2 } else { Wire::Http1 };
        let accept = Accept { side: Side::Outbound { service: service() }, wire, client: address, original: address };
        let client = engines[0].accept(accept, now);
        let mut w = World {
            engines,
            far: HashMap::new(),
            now,
            h2,
            client,
            codec: Connection::client(Arc::new(Config::default())),
            apps: vec![],
            done: 0,
            buffer: vec![],
            ready: vec![],
            inbox: vec![],
        };
        w.far.insert((0, client), Far::Client);
        w
    }
    fn send(&mut self, engine: usize, conn: ConnKey, bytes: &[u8]) {
        self.engines[engine].input(conn, bytes, self.now);
        self.ready.push((engine, conn));
    }
    fn run(&mut self) {
        loop {
            for at in 0..2 {
                while let Some(c) = self.engines[at].poll_command() {
                    match c {
                        Command::Wake(conn) => self.ready.push((at, conn)),
                        Command::Dial { conn, to, tls, wire } => {
                            if tls.is_some() {
                                let peer = WorkloadIdentity::new("cluster.local", "shop", "front").ok();
                                let accept =
                                    Accept { side: Side::Inbound { app: to, peer }, wire, client: to, original: to };
                                let there = self.engines[1].accept(accept, self.now);
                                self.far.insert((at, conn), Far::Engine(1, there));
                                self.far.insert((1, there), Far::Engine(at, conn));
                                self.ready.push((1, there));
                            } else {
                                self.far.insert((at, conn), Far::App(self.apps.len()));
                                self.apps.push((conn, Connection::server(Arc::new(Config::default()))));
                            }
                            self.engines[at].connected(conn, self.now);
                            self.ready.push((at, conn));
                        }
                        other => panic!("{other:?}"),
                    }
                }
            }
            if let Some((at, conn)) = self.ready.pop() {
                let mut buffer = std::mem::take(&mut self.buffer);
                while self.engines[at].take_output(conn, &mut buffer, self.now) {
                    match self.far[&(at, conn)] {
                        Far::Engine(to, key) => {
                            self.engines[to].input(key, &buffer, self.now);
                            self.ready.push((to, key));
                        }
                        far => self.inbox.push((far, buffer.clone())),
                    }
                    buffer.clear();
                    self.engines[at].written(conn, self.now);
                }
                self.buffer = buffer;
                continue;
            }
            let Some((far, bytes)) = self.inbox.pop() else { return };
            match far {
                Far::Client => self.answered(&bytes),
                Far::App(n) => self.asked(n, &bytes),
                Far::Engine(..) => unreachable!(),
            }
        }
    }
    fn answered(&mut self, bytes: &[u8]) {
        if !self.h2 {
            assert!(bytes.starts_with(b"HTTP/1.1 200"));
            self.done += 1;
            return;
        }
        let mut input = bytes;
        while let Some(e) = self.codec.next(&mut input, self.now).unwrap() {
            match e {
                Event::Response { head, .. } => pool::give(head),
                Event::Data { stream, data, .. } => self.codec.release(stream, data.len()),
                Event::Trailers { head, .. } => {
                    pool::give(head);
                    self.done += 1;
                }
                _ => {}
            }
        }
        self.flush();
    }
    fn flush(&mut self) {
        let out = std::mem::take(self.codec.output());
        self.codec.output_taken();
        if !out.is_empty() {
            let client = self.client;
            self.send(0, client, &out);
        }
    }
    fn asked(&mut self, n: usize, bytes: &[u8]) {
        let (conn, codec) = &mut self.apps[n];
        let conn = *conn;
        if !self.h2 {
            assert!(bytes.starts_with(b"GET /"));
            let mut answer =
                b"HTTP/1.1 200 OK\r\nserver: x\r\ncontent-type: text/plain\r\ncontent-length: 1024\r\n\r\n".to_vec();
            answer.resize(answer.len() + 1024, b'x');
            return self.send(1, conn, &answer);
        }
        let mut input = bytes;
        while let Some(e) = codec.next(&mut input, self.now).unwrap() {
            match e {
                Event::Request { stream, head, .. } => {
                    pool::give(head);
                    codec.set_token(stream, 0);
                    let mut answer = pool::take();
                    answer.status = 200;
                    answer.add(b"content-type", b"application/grpc");
                    codec.send_head(stream, &answer, false).unwrap();
                    answer.clear();
                    codec.send_data(stream, &[0; 128], false);
                    answer.add(b"grpc-status", b"0");
                    codec.send_trailers(stream, answer);
                }
                Event::Data { stream, data, .. } => codec.release(stream, data.len()),
                _ => {}
            }
        }
        let out = std::mem::take(codec.output());
        codec.output_taken();
        while codec.poll().is_some() {}
        if !out.is_empty() {
            self.send(1, conn, &out);
        }
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let h2 = args.next().is_none_or(|a| a == "h2");
    let count: usize = args.next().and_then(|n| n.parse().ok()).unwrap_or(100_000);
    let mut w = World::new(h2);
    let started = Instant::now();
    if h2 {
        while w.done < count {
            for _ in 0..32 {
                let mut head = pool::take();
                head.set_pseudo(Pseudo::Method, b"POST");
                head.set_pseudo(Pseudo::Scheme, b"http");
                head.set_pseudo(Pseudo::Authority, b"cart");
                head.set_pseudo(Pseudo::Path, b"/shop.Cart/Add");
                head.add(b"content-type", b"application/grpc");
                head.add(b"te", b"trailers");
                head.add(b"user-agent", b"grpc-c++/1.2");
                let stream = w.codec.open(&head, false, 0).unwrap();
                pool::give(head);
                w.codec.send_data(stream, &[0; 128], true);
            }
            w.flush();
            w.run();
        }
    } else {
        while w.done < count {
            let client = w.client;
            w.send(0, client, b"GET /api/v2/orders/1 HTTP/1.1\r\nhost: cart\r\nuser-agent: wrk\r\naccept: */*\r\n\r\n");
            w.run();
        }
    }
    let each = started.elapsed() / w.done as u32;
    println!("{} requests, {each:?} each", w.done);
}
