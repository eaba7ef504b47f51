//! What slow and large input costs: memory is measured, so these tests are alone in their process and take turns.
#![allow(clippy::unwrap_used)]

use std::{
    io::{BufReader, Read, Write},
    net::TcpStream,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use weft_core::service::Protocol;
use weft_test_hostile::{Builder, Client, app, dial, http, message, mirror, resident};

static TURN: Mutex<()> = Mutex::new(());
fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn row_06_heads_that_do_not_end_cost_no_more_than_the_limit() {
    let _turn = turn();
    let big = format!("GET /bad HTTP/1.1\r\nHost: web\r\nX: {}\r\n\r\n", "a".repeat(1 << 20));
    // two hundred clients with a mebibyte each: what is held is 64 KiB of each at most
    let pair = http(mirror());
    Client::dial(pair.service()).ordinary("/warm");
    let before = resident();
    let open: Vec<_> = (0..200)
        .map(|_| {
            let mut s = dial(pair.service());
            let _ = s.write_all(&big.as_bytes()[..60_000]);
            s
        })
        .collect();
    Client::dial(pair.service()).ordinary("/beside");
    let grown = resident().saturating_sub(before);
    assert!(grown < 200 * 160 * 1024, "{grown} bytes for 200 heads of 60 kB");
    drop(open);
}

/// `timeouts.head` (1 s here) ends silence, and with 408 a head that has begun, however its bytes trickle; bodies and readers have longer deadlines.
#[test]
fn row_07_slow_heads_end_and_slow_bodies_and_readers_hurt_nobody() {
    let _turn = turn();
    let big = app(|s| {
        let mut r = BufReader::new(s.try_clone().unwrap());
        let mut w = s;
        while let Some(m) = message(&mut r) {
            let n = if m.head.starts_with("GET /big") { 4 << 20 } else { m.body.len() };
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {n}\r\n\r\n");
            let _ = w.write_all(answer.as_bytes());
            if w.write_all(&vec![b'x'; n]).is_err() {
                return;
            }
        }
    });
    let tweak = |c: &mut weft_proxy::config::Config| c.timeouts.head = 1_000;
    let pair = Builder { protocol: Protocol::Http, tweak, ..Builder::new(big) }.start();
    let fine = |path: &str| {
        let mut c = Client::dial(pair.service());
        c.send(format!("POST {path} HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\n\r\nhello"));
        assert_eq!(c.answer().body, b"xxxxx");
    };
    fine("/warm");
    let before = resident();
    let start = Instant::now();
    let open = |bytes: &str, n: usize| -> Vec<TcpStream> {
        let one = |_| {
            let mut s = dial(pair.service());
            s.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            s.write_all(bytes.as_bytes()).unwrap();
            s
        };
        (0..n).map(one).collect()
    };
    let silent = open("", 50);
    let lines = open("GET /slow", 150);
    let heads = open("GET /slow HTTP/1.1\r\nHost: web\r\nX: ", 150);
    let bodies = open("POST /slow HTTP/1.1\r\nHost: web\r\nContent-Length: 100\r\n\r\na", 50);
    let readers = open("GET /big HTTP/1.1\r\nHost: web\r\n\r\n", 20);
    fine("/beside");
    // the slow ones go on, a byte at a time: a deadline for the whole head is not prolonged by bytes
    for s in heads.iter().chain(&lines) {
        let _ = (&mut &*s).write_all(b"a");
    }
    let closed = |mut s: TcpStream| {
        let mut all = Vec::new();
        match s.read_to_end(&mut all) {
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                panic!("still open after {:?}", start.elapsed())
            }
            _ => String::from_utf8_lossy(&all).into_owned(),
        }
    };
    for s in silent {
        closed(s);
    }
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    fine("/beside");
    let grown = resident().saturating_sub(before);
    // the application's own 20 x 4 MiB are in this process, too
    assert!(grown < (20 * 4 + 64) << 20, "{grown}");
    for s in lines.into_iter().chain(heads) {
        let all = closed(s);
        assert!(all.starts_with("HTTP/1.1 408"), "{all:?}");
    }
    // not the default of 10 s
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    fine("/beside");
    drop((bodies, readers));
    fine("/after");
}
