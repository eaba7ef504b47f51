//! Connections that break in the middle of a body, in both versions and on both sides, and halves that close. Nobody may take a part for the whole, who waits on the
//! other side must hear of it, nothing that reached an application is said twice, and a neighbour is served.
#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::{Receiver, Sender, channel},
    },
    time::Duration,
};
use weft_core::service::Protocol;
use weft_test_hostile::{Builder, Client, LIMIT, Message, Pair, app, dial, frames::*, head, http, message, rest};

/// What an application has seen of a request.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Began,
    Whole,
    Broken,
}
use Heard::{Began, Broken, Whole};

/// How an end leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    Reset,
    Fin,
}
impl Leave {
    fn from(self, s: &TcpStream) {
        match self {
            Leave::Reset => socket2::SockRef::from(s).set_linger(Some(Duration::ZERO)).unwrap(),
            Leave::Fin => s.shutdown(Shutdown::Write).unwrap(),
        }
    }
}

/// An HTTP/1.1 application that answers with the request; what is asked of `/odd` goes to `scenario`, with its head, and ends the connection.
fn odd(scenario: impl Fn(&str, BufReader<TcpStream>) + Send + Sync + 'static) -> SocketAddr {
    app(move |s| {
        let mut r = BufReader::new(s);
        while let Some(head) = head(&mut r) {
            if head.contains(" /odd") {
                return scenario(&head, r);
            }
            let mut m = Message { head, body: vec![] };
            m.body.resize(m.field("content-length").map_or(0, |n| n.parse().unwrap()), 0);
            if r.read_exact(&mut m.body).is_err() {
                return;
            }
            let text = format!("{}\n{}", m.head, String::from_utf8_lossy(&m.body));
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
            if r.get_mut().write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    })
}
/// A pair in front of an application that is spoken to in HTTP/2.
fn h2(app: SocketAddr) -> Pair {
    Builder { protocol: Protocol::Http2, http2: true, ..Builder::new(app) }.start()
}
/// Everything goes on for others, and nothing panicked.
fn fine(pair: &Pair) {
    Client::dial(pair.service()).ordinary("/beside");
    calm(pair);
}
fn fine2(pair: &Pair) {
    let mut c = Conn::client(pair.service());
    c.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &request("GET", "/beside", &[])));
    assert_eq!(c.end_of(1).kind, HEADERS);
    calm(pair);
}
fn calm(pair: &Pair) {
    assert_eq!(pair.client.stats().panics.get() + pair.servers[0].stats().panics.get(), 0);
}
fn next(heard: &Receiver<Heard>) -> Heard {
    heard.recv_timeout(LIMIT).expect("the application hears of it")
}

const MIB: usize = 1 << 20;
/// A request with a body, of which 2,000 bytes are there.
const SIZED: &str = "POST /odd HTTP/1.1\r\nHost: web\r\nContent-Length: 1048576\r\n\r\n";
const CHUNKED: &str = "POST /odd HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n";
fn begun(head: &str) -> Vec<u8> {
    [head.as_bytes(), &[b'u'; 2000]].concat()
}

/// An HTTP/1.1 application that tells what becomes of uploads.
fn uploads() -> (SocketAddr, Receiver<Heard>) {
    let (tell, heard) = channel();
    let at = odd(move |head, mut r| {
        let mut body = vec![0; 1000];
        r.read_exact(&mut body).unwrap();
        tell.send(Began).unwrap();
        // a reset is an end, too
        let mut b = [0; 4096];
        while let Ok(n @ 1..) = r.read(&mut b) {
            body.extend_from_slice(&b[..n]);
        }
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding");
        let whole = if chunked { body.ends_with(b"0\r\n\r\n") } else { body.len() == MIB };
        tell.send(if whole { Whole } else { Broken }).unwrap();
    });
    (at, heard)
}

#[test]
fn a_client_that_breaks_off_its_upload() {
    let (at, heard) = uploads();
    let pair = http(at);
    for how in [SIZED, CHUNKED] {
        for leave in [Leave::Reset, Leave::Fin] {
            let mut c = dial(pair.service());
            c.write_all(&begun(how)).unwrap();
            assert_eq!(next(&heard), Began);
            leave.from(&c);
            // a FIN is told by the half that closes: the other one is kept until the application has heard
            let kept = (leave == Leave::Fin).then_some(c);
            assert_eq!(next(&heard), Broken, "{leave:?} in {how:?}");
            if let Some(mut c) = kept {
                let answer = String::from_utf8_lossy(&rest(&mut c, "half a request")).into_owned();
                assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
            }
            fine(&pair);
        }
    }
    assert!(heard.try_recv().is_err(), "nothing was said twice");
}

#[test]
fn a_client_that_breaks_off_its_download() {
    let (tell, heard) = channel();
    let pair = http(odd(move |_, mut r| {
        let s = r.get_mut();
        let _ = s.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n");
        let piece = [b'd'; 65_536];
        let cut = (0..16_384).any(|_| s.write_all(&piece).is_err());
        tell.send(if cut { Broken } else { Whole }).unwrap();
    }));
    for leave in [Leave::Reset, Leave::Fin] {
        let mut c = dial(pair.service());
        c.write_all(b"GET /odd HTTP/1.1\r\nHost: web\r\n\r\n").unwrap();
        c.read_exact(&mut [0; 10_000]).unwrap();
        // who closes with something unread resets, whatever it says
        leave.from(&c);
        drop(c);
        assert_eq!(next(&heard), Broken, "{leave:?}");
        fine(&pair);
    }
}

#[test]
fn an_application_that_breaks_off_an_upload() {
    static TIMES: AtomicUsize = AtomicUsize::new(0);
    for leave in [Leave::Reset, Leave::Fin] {
        let pair = http(odd(move |_, mut r| {
            TIMES.fetch_add(1, Relaxed);
            r.read_exact(&mut [0; 2000]).unwrap();
            leave.from(r.get_ref());
        }));
        for how in [SIZED, CHUNKED] {
            let before = TIMES.load(Relaxed);
            let mut c = Client::dial(pair.service());
            c.send(begun(how));
            let m = c.answer();
            assert!(matches!(m.status(), 502 | 503), "{leave:?} in {how:?}: {}", m.head);
            // the rest of the request is nobody's: 64 KiB of it are dropped, then the connection closes
            let _ = c.0.get_mut().write_all(&[b'u'; MIB - 2000]);
            rest(&mut c.0, "after the answer");
            assert_eq!(TIMES.load(Relaxed), before + 1, "what reached an application is not said again");
            fine(&pair);
        }
    }
}

/// Waits for the test before it goes on.
#[derive(Clone)]
struct Gate(Arc<Mutex<Receiver<()>>>);
impl Gate {
    fn new() -> (Sender<()>, Gate) {
        let (open, gate) = channel();
        (open, Gate(Arc::new(Mutex::new(gate))))
    }
    fn wait(&self) {
        self.0.lock().unwrap().recv_timeout(LIMIT).unwrap();
    }
}

#[test]
fn an_application_that_breaks_off_a_download() {
    let half = "d".repeat(5000);
    for leave in [Leave::Reset, Leave::Fin] {
        let (open, gate) = Gate::new();
        let body = half.clone();
        let pair = http(odd(move |head, mut r| {
            let (fields, start) = match head {
                h if h.contains("chunked") => ("Transfer-Encoding: chunked", "2000\r\n"),
                h if h.contains("/close") => ("Connection: close", ""),
                _ => ("Content-Length: 100000", ""),
            };
            let s = r.get_mut();
            s.write_all(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{start}{body}").as_bytes()).unwrap();
            gate.wait();
            leave.from(s);
        }));
        for kind in ["length", "chunked", "close"] {
            for version in ["1.1", "1.0"] {
                let mut c = dial(pair.service());
                c.write_all(
                    format!("GET /odd/{kind} HTTP/{version}\r\nHost: web\r\nConnection: close\r\n\r\n").as_bytes(),
                )
                .unwrap();
                let mut r = BufReader::new(c);
                let head = head(&mut r).unwrap();
                assert!(head.starts_with("HTTP/1.1 200"), "{head}");
                let seen = r.fill_buf().unwrap();
                assert!(!seen.is_empty());
                open.send(()).unwrap();
                let (mut all, mut b) = (Vec::new(), [0; 4096]);
                let end = loop {
                    match r.read(&mut b) {
                        Ok(0) => break Ok(()),
                        Ok(n) => all.extend_from_slice(&b[..n]),
                        Err(e) => break Err(e.kind()),
                    }
                };
                let what = format!("{leave:?} {kind} {version}: {end:?}");
                assert!(!matches!(end, Err(std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)), "{what}");
                let whole = match (head.to_ascii_lowercase(), version) {
                    (h, _) if h.contains("transfer-encoding") => all.ends_with(b"0\r\n\r\n"),
                    (h, _) if h.contains("content-length") => all.len() == 100_000,
                    // only the end of the connection says that it is whole
                    _ => end.is_ok(),
                };
                // a FIN is the proper end of such a body, and of no other
                assert_eq!(whole, (leave, kind) == (Leave::Fin, "close"), "{what}");
                fine(&pair);
            }
        }
    }
}

// ---------------------------------------------------------------- HTTP/2

/// Begins a request with a body on stream 1.
fn upload(pair: &Pair) -> Conn {
    let mut c = Conn::client(pair.service());
    c.send(&frame(HEADERS, END_HEADERS, 1, &request("POST", "/odd", &[])));
    c.send(&frame(DATA, 0, 1, &[b'u'; 2000]));
    c
}

#[test]
fn an_http2_client_that_breaks_off_upload_or_download() {
    let (tell, heard) = channel();
    // answers begin when the body does, and never end
    let pair = h2(server(&[], move |c, f, _| {
        let last = f.flags & END_STREAM != 0;
        match f.kind {
            HEADERS if last => c.0.write_all(&ok(f.stream)).is_ok(),
            DATA if !f.payload.is_empty() => {
                tell.send(if last { Whole } else { Began }).unwrap();
                let b = [frame(HEADERS, END_HEADERS, f.stream, &[0x88]), frame(DATA, 0, f.stream, &[b'd'; 10_000])];
                c.0.write_all(&b.concat()).is_ok()
            }
            DATA => {
                tell.send(Whole).unwrap();
                true
            }
            RST_STREAM => {
                tell.send(Broken).unwrap();
                true
            }
            _ => true,
        }
    }));
    for downloads in [false, true] {
        for how in ["stream", "reset", "fin"] {
            let mut c = upload(&pair);
            assert_eq!(next(&heard), Began);
            c.wait("the answer's body", |f| f.kind == DATA && f.stream == 1);
            if downloads {
                c.send(&frame(DATA, END_STREAM, 1, &[]));
                assert_eq!(next(&heard), Whole);
            }
            match how {
                "stream" => {
                    c.send(&frame(RST_STREAM, 0, 1, &8u32.to_be_bytes()));
                    assert_eq!(next(&heard), Broken);
                    // the connection goes on
                    c.send(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &request("GET", "/", &[])));
                    assert_eq!(c.end_of(3).kind, HEADERS);
                    fine2(&pair);
                    continue;
                }
                "reset" => Leave::Reset.from(&c.0),
                _ => {}
            }
            drop(c);
            assert_eq!(next(&heard), Broken, "{how}, download: {downloads}");
            fine2(&pair);
        }
    }
    assert!(heard.try_recv().is_err(), "nothing was said twice");
}

#[test]
fn an_http2_application_that_breaks_off_upload_or_download() {
    for answers in [false, true] {
        for how in ["stream", "reset", "fin"] {
            let times = Arc::new(AtomicUsize::new(0));
            let (open, gate) = Gate::new();
            let seen = times.clone();
            let pair = h2(server(&[], move |c, f, _| match f.kind {
                HEADERS if f.flags & END_STREAM != 0 => c.0.write_all(&ok(f.stream)).is_ok(),
                DATA if f.payload.is_empty() => true,
                DATA => {
                    seen.fetch_add(1, Relaxed);
                    if answers {
                        let begin = [frame(HEADERS, END_HEADERS, f.stream, &[0x88]), frame(DATA, 0, f.stream, b"half")];
                        c.0.write_all(&begin.concat()).unwrap();
                        gate.wait();
                    }
                    match how {
                        "stream" => return c.0.write_all(&frame(RST_STREAM, 0, f.stream, &2u32.to_be_bytes())).is_ok(),
                        "reset" => Leave::Reset.from(&c.0),
                        _ => {}
                    }
                    false
                }
                _ => true,
            }));
            let mut c = upload(&pair);
            let what = format!("{how}, after the answer began: {answers}");
            if answers {
                c.wait("half of a body", |f| f.kind == DATA && f.stream == 1);
                open.send(()).unwrap();
                assert_eq!(c.end_of(1).kind, RST_STREAM, "{what}");
            } else {
                let f = c.wait("an answer", |f| f.stream == 1 && matches!(f.kind, HEADERS | RST_STREAM));
                assert!(f.kind == RST_STREAM || f.payload.windows(2).any(|w| w == b"50"), "{what}: {f:?}");
            }
            // the connection goes on
            c.send(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &request("GET", "/", &[])));
            assert_eq!(c.end_of(3).kind, HEADERS, "{what}");
            assert_eq!(times.load(Relaxed), 1, "what reached an application is not said again");
            fine2(&pair);
        }
    }
}

// ---------------------------------------------------------------- half-close

#[test]
fn a_client_that_closes_its_half_gets_every_answer() {
    let pair = http(odd(|_, mut r| {
        let s = r.get_mut();
        s.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {MIB}\r\n\r\n").as_bytes()).unwrap();
        for piece in [b'd'; MIB].chunks(100_000) {
            s.write_all(piece).unwrap();
        }
    }));
    let asks = "POST /one HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\n\r\nhelloGET /two HTTP/1.1\r\nHost: web\r\n\r\nGET /odd HTTP/1.1\r\nHost: web\r\n\r\n";
    let mut c = dial(pair.service());
    c.write_all(asks.as_bytes()).unwrap();
    Leave::Fin.from(&c);
    let mut r = BufReader::new(c);
    for (path, body) in [("/one", "hello"), ("/two", "")] {
        let m = message(&mut r).unwrap();
        let text = String::from_utf8(m.body).unwrap();
        assert!(text.contains(path) && text.ends_with(body), "{text}");
    }
    assert_eq!(message(&mut r).unwrap().body.len(), MIB);
    assert_eq!(rest(&mut r, "after the last answer"), b"");
    fine(&pair);
}

#[test]
fn an_http2_client_that_closes_its_half() {
    let pair = h2(server(&[], |c, f, _| f.kind != HEADERS || c.0.write_all(&ok(f.stream)).is_ok()));
    let mut c = Conn::client(pair.service());
    c.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &request("GET", "/", &[])));
    Leave::Fin.from(&c.0);
    // with or without an answer, the connection ends
    while c.receive().is_some() {}
    fine2(&pair);
}

#[test]
fn an_application_that_closes_its_half_has_still_answered() {
    // the answer, and nothing more, while the request is still on its way
    let (tell, heard) = channel();
    let pair = http(odd(move |_, mut r| {
        r.read_exact(&mut [0; 1000]).unwrap();
        r.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nseen").unwrap();
        Leave::Fin.from(r.get_ref());
        let mut b = [0; 4096];
        while let Ok(1..) = r.read(&mut b) {}
        tell.send(Broken).unwrap();
    }));
    let mut c = Client::dial(pair.service());
    c.send(begun(SIZED));
    let m = c.answer();
    assert_eq!((m.status(), &m.body[..]), (200, &b"seen"[..]), "{}", m.head);
    // what is left of the request is not waited for
    drop(c);
    assert_eq!(next(&heard), Broken);
    fine(&pair);
}
