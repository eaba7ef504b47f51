//! In the steady state an exchange allocates nothing: heads, output and partial heads come from the thread's lists.
//! A program of its own, without the test harness, whose threads would be counted, too.
#![allow(clippy::unwrap_used)]

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::sync::Arc;
use weft_http::h1::{Client, Config, Event, Server};
use weft_http::head::pool;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const REQUEST: &[u8] = b"POST /api/v1/things?limit=10 HTTP/1.1\r\nHost: shop.example.svc:8080\r\nUser-Agent: test/1.0\r\nAccept: */*\r\nAccept-Encoding: gzip\r\nX-Request-Id: 0123456789abcdef\r\ncontent-length: 5\r\nCookie: a=b; c=d\r\n\r\nhello";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Tue, 24 Nov 2026 17:00:00 GMT\r\nServer: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";

/// One request through a relay's two codecs, the response back; `cut` pieces each.
fn exchange(server: &mut Server, client: &mut Client, cut: usize) {
    for mut piece in REQUEST.chunks(cut) {
        while let Some(event) = server.next(&mut piece).unwrap() {
            match event {
                Event::Request { head, end, .. } => {
                    client.send_head(&head, end).unwrap();
                    pool::give(head);
                }
                Event::Data { data, end } => client.send_data(data, end).unwrap(),
                _ => panic!(),
            }
        }
    }
    client.output().clear();
    client.output_taken();
    for mut piece in RESPONSE.chunks(cut) {
        while let Some(event) = client.next(&mut piece).unwrap() {
            match event {
                Event::Response { head, end, .. } => {
                    server.send_head(&head, end).unwrap();
                    pool::give(head);
                }
                Event::Data { data, end } => server.send_data(data, end).unwrap(),
                _ => panic!(),
            }
        }
    }
    server.output().clear();
    server.output_taken();
    assert!(client.reusable() && server.memory() == 0 && client.memory() == 0);
}

fn main() {
    let config = Arc::new(Config::default());
    let mut server = Server::new(config.clone());
    let mut client = Client::new(config);
    for cut in [1000, 50, 1] {
        exchange(&mut server, &mut client, cut);
        let region = Region::new(ALLOCATOR);
        for _ in 0..100 {
            exchange(&mut server, &mut client, cut);
        }
        let change = region.change();
        assert_eq!((change.allocations, change.reallocations), (0, 0), "pieces of {cut}: {change:?}");
    }
    println!("an exchange allocates nothing: ok");
}
