//! Sidecars in processes of their own: ten thousand connections at once, and processes that are stopped in the middle of something.
#![allow(clippy::unwrap_used)]

use std::{
    io::{BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::{Duration, Instant},
};
use weft_core::{
    filter::Filters,
    matches::HttpMatch,
    retry::{RetryPolicy, Timeouts},
    route::{BackendRef, HttpTable, RouteKind, RouteRef, Routes, Rule, RuleMatches, WeightedBackend},
};
use weft_proxy::testing::service;
use weft_test_hostile::{
    Client, LIMIT, app, dial, message, mirror,
    process::{Processes, descriptors},
    rest,
};

/// Memory is measured and time is judged: one at a time.
static TURN: Mutex<()> = Mutex::new(());
fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One rule for everything.
fn rule(timeouts: Timeouts, retry: Option<RetryPolicy>) -> Routes {
    let backend = WeightedBackend { backend: BackendRef::Service(service()), weight: 1, filters: Filters::default() };
    let rule = Rule {
        route: Arc::new(RouteRef { kind: RouteKind::Http, namespace: "shop".into(), name: "web".into(), created: 0 }),
        index: 0,
        name: None,
        matches: RuleMatches::Http(vec![HttpMatch::default()]),
        filters: Filters::default(),
        backends: vec![backend],
        timeouts,
        retry,
    };
    Routes::Http(Arc::new(HttpTable::new(vec![Arc::new(rule)])))
}

/// Each asks once and keeps its connection, as applications with pools do. What an idle connection costs is printed and bounded; a neighbour is served at once.
#[test]
fn ten_thousand_connections_at_once() {
    const WANTED: usize = 10_000;
    let _turn = turn();
    // two for each connection of the client's sidecar, and what it reserves; where only fewer are allowed (`ulimit -Hn`), the others dial the server's pod in plain text
    let through = WANTED.min((descriptors(2 * WANTED as u64 + 500) - 500) / 2);
    let mut pair = Processes::start(&[mirror()], Routes::None);
    let mut beside = Client::dial(pair.service());
    beside.ordinary("/warm");
    let before = [pair.client.resident(), pair.servers[0].resident()];
    let start = Instant::now();
    let mut slowest = Duration::ZERO;
    let open: Vec<TcpStream> = (0..WANTED)
        .map(|i| {
            // the buffers of the reader go at once
            let mut c = Client::dial(if i < through { pair.service() } else { pair.inbound(0) });
            c.ordinary("/one");
            if i % 100 == 0 {
                let asked = Instant::now();
                beside.ordinary("/beside");
                slowest = slowest.max(asked.elapsed());
            }
            c.0.into_inner()
        })
        .collect();
    let took = start.elapsed();
    let after = [pair.client.resident(), pair.servers[0].resident()];
    let each = [0, 1].map(|i| after[i].saturating_sub(before[i]) / WANTED);
    println!(
        "{WANTED} connections, {through} of them through both sidecars, in {took:?}: client's sidecar {} KiB, {} bytes each; server's {} KiB, {} bytes each; slowest neighbour {slowest:?}",
        after[0] / 1024,
        each[0],
        after[1] / 1024,
        each[1]
    );
    // an idle connection owns no buffers: a task, its slot and the codec, in a build without optimisation
    assert!(each[0] < 4096, "{} bytes for each connection of the client's sidecar", each[0]);
    // the far side has one connection for all of them
    assert!(each[1] < 1024, "{} bytes for each connection at the server's sidecar", each[1]);
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    // all of them are still served
    for s in open.iter().step_by(97) {
        Client(BufReader::new(s.try_clone().unwrap())).ordinary("/again");
    }
    drop(open);
    beside.ordinary("/after");
    assert!(pair.client.lives() && pair.servers[0].lives());
}

/// An application whose `/down` never ends and whose `/up` waits for all of its body; it tells when either has begun.
fn endless() -> (SocketAddr, mpsc::Receiver<()>) {
    let (tell, begun) = mpsc::channel();
    let at = app(move |s| {
        let mut r = BufReader::new(s);
        while let Some(head) = weft_test_hostile::head(&mut r) {
            if head.contains(" /up") {
                let _ = r.read_exact(&mut [0; 1000]);
                tell.send(()).unwrap();
                rest(&mut r, "an upload");
                return;
            }
            if head.contains(" /down") {
                let s = r.get_mut();
                let _ = s.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\nfirst");
                tell.send(()).unwrap();
                let piece = [b'd'; 65_536];
                while s.write_all(&piece).is_ok() {}
                return;
            }
            let _ = r.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    (at, begun)
}
fn ask(at: SocketAddr) -> u16 {
    let mut c = Client::dial(at);
    c.send("GET /ask HTTP/1.1\r\nHost: web\r\n\r\n");
    c.answer().status()
}

const DEADLINE: Duration = Duration::from_secs(2);

#[test]
fn a_sidecar_that_is_stopped_in_the_middle_of_exchanges() {
    let _turn = turn();
    let (one, begun) = endless();
    let pair =
        Processes::start(&[one, mirror()], rule(Timeouts { request: Some(DEADLINE), backend_request: None }, None));
    // by the Service, until both have come to the first endpoint: its application tells
    let mut kept = Vec::new();
    let mut begin = |bytes: &[u8]| -> (Instant, TcpStream) {
        for _ in 0..50 {
            let mut s = dial(pair.service());
            let at = Instant::now();
            s.write_all(bytes).unwrap();
            match begun.recv_timeout(Duration::from_millis(300)) {
                Ok(()) => return (at, s),
                // the other endpoint has it
                Err(_) => kept.push(s),
            }
        }
        panic!("no request came to the first endpoint")
    };
    let (up_at, mut up) =
        begin(&[b"POST /up HTTP/1.1\r\nHost: web\r\nContent-Length: 1048576\r\n\r\n" as &[u8], &[b'u'; 2000]].concat());
    let (down_at, mut down) = begin(b"GET /down HTTP/1.1\r\nHost: web\r\n\r\n");
    down.read_exact(&mut [0; 1000]).unwrap();
    pair.servers[0].stop();
    // the neighbour's requests pass through the same thread of the client's sidecar; what lies in sockets still arrives at the reader
    let mut beside = Client::dial(pair.pod(1));
    let mut slowest = Duration::ZERO;
    for _ in 0..50 {
        let asked = Instant::now();
        beside.ordinary("/beside");
        slowest = slowest.max(asked.elapsed());
    }
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    // the upload has no answer yet: it gets one; the download is cut off, and not as if it were whole
    let answer = message(&mut BufReader::new(&mut up)).unwrap();
    assert_eq!(answer.status(), 504, "{}", answer.head);
    let late = up_at.elapsed();
    assert!(late >= DEADLINE && late < DEADLINE * 3, "{late:?}");
    let got = rest(&mut down, "the download").len();
    assert!(got < 1 << 30, "{got}");
    assert!(down_at.elapsed() < DEADLINE * 3, "{:?}", down_at.elapsed());
    // who is sent to it afterwards waits for the deadline at most
    for _ in 0..2 {
        let asked = Instant::now();
        let status = ask(pair.service());
        assert!(matches!(status, 200 | 503 | 504), "{status}");
        assert!(asked.elapsed() < DEADLINE * 3, "{:?}", asked.elapsed());
    }
    beside.ordinary("/beside");
    pair.servers[0].go_on();
    assert_eq!(ask(pair.pod(0)), 200);
}

#[test]
fn with_retries_a_stopped_sidecar_costs_its_clients_one_try() {
    let _turn = turn();
    let (one, _) = endless();
    let (two, _) = endless();
    let retry =
        RetryPolicy { codes: vec![503, 504], grpc_codes: vec![], attempts: 2, backoff: Duration::from_millis(25) };
    let timeouts = Timeouts { request: Some(LIMIT), backend_request: Some(Duration::from_millis(500)) };
    let pair = Processes::start(&[one, two], rule(timeouts, Some(retry)));
    for n in 0..2 {
        assert_eq!(ask(pair.pod(n)), 200);
    }
    pair.servers[0].stop();
    // ten a second are in the budget of retries
    for _ in 0..10 {
        assert_eq!(ask(pair.service()), 200);
    }
    pair.servers[0].go_on();
    assert_eq!(ask(pair.pod(0)), 200);
}

#[test]
fn a_client_that_is_stopped_stalls_nobody_at_the_server() {
    let _turn = turn();
    let (at, begun) = endless();
    let mut pair = Processes::start(&[at], Routes::None);
    let mut down: Vec<_> = (0..8)
        .map(|_| {
            let mut s = dial(pair.service());
            s.write_all(b"GET /down HTTP/1.1\r\nHost: web\r\n\r\n").unwrap();
            begun.recv_timeout(LIMIT).unwrap();
            s
        })
        .collect();
    pair.client.stop();
    let before = pair.servers[0].resident();
    // somebody else reaches the same pod; that takes longer than filling what the stopped one had room for
    let mut beside = Client::dial(pair.inbound(0));
    for _ in 0..100 {
        beside.send("GET /ask HTTP/1.1\r\nHost: web\r\n\r\n");
        assert_eq!(beside.answer().status(), 200);
    }
    let grown = pair.servers[0].resident().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes for eight downloads that nobody takes");
    pair.client.go_on();
    for s in &mut down {
        match s.read(&mut [0; 65_536]) {
            Ok(1..) => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("the download stands still")
            }
            end => panic!("the download ended: {end:?}"),
        }
    }
    assert!(pair.client.lives() && pair.servers[0].lives());
}
