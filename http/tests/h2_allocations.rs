//! In the steady state a request through two connections of a relay allocates nothing: heads, streams, queues and output come from lists.
//! A program of its own, without the test harness, whose threads would be counted, too.
#![allow(clippy::unwrap_used)]

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::sync::Arc;
use std::time::Instant;
use weft_http::h2::{Config, Connection, Event, StreamId};
use weft_http::head::{Head, Pseudo, pool};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// An application's client, the relay's two connections, an application's server.
struct Chain {
    client: Connection<()>,
    down: Connection<StreamId>,
    up: Connection<StreamId>,
    server: Connection<()>,
    now: Instant,
    wire: Vec<u8>,
    answered: u32,
}

fn head(status: u16) -> Head {
    let mut h = Head::default();
    h.status = status;
    if status == 0 {
        for (p, v) in [
            (Pseudo::Method, "POST"),
            (Pseudo::Scheme, "http"),
            (Pseudo::Authority, "shop:80"),
            (Pseudo::Path, "/pb.Shop/Get"),
        ] {
            h.set_pseudo(p, v.as_bytes());
        }
        h.add(b"content-type", b"application/grpc");
        h.add(b"te", b"trailers");
        h.add(b"user-agent", b"grpc-go/1.60");
        h.add(b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        h.add(b"x-request-id", b"0123456789abcdef");
    } else {
        h.add(b"content-type", b"application/grpc");
        h.add(b"date", b"Tue, 24 Nov 2026 17:00:00 GMT");
    }
    h
}

impl Chain {
    fn new() -> Chain {
        let config = Arc::new(Config::default());
        Chain {
            client: Connection::client(config.clone()),
            down: Connection::server(config.clone()),
            up: Connection::client(config.clone()),
            server: Connection::server(config),
            now: Instant::now(),
            wire: Vec::new(),
            answered: 0,
        }
    }
    fn request(&mut self, request: &Head) {
        let stream = self.client.open(request, false, ()).unwrap();
        self.client.send_data(stream, &[7; 128], true);
    }
    fn turn(&mut self, response: &Head) {
        take(&mut self.client, &mut self.wire);
        let mut input = &self.wire[..];
        while let Some(event) = self.down.next(&mut input, self.now).unwrap() {
            match event {
                Event::Request { stream, head, end } => {
                    let other = self.up.open(&head, end, stream).unwrap();
                    self.down.set_token(stream, other);
                    pool::give(head);
                }
                Event::Data { stream, token, data, end } => {
                    let sent = self.up.send_data(token, data, end);
                    self.down.release(stream, sent);
                }
                _ => {}
            }
        }
        take(&mut self.up, &mut self.wire);
        let mut input = &self.wire[..];
        while let Some(event) = self.server.next(&mut input, self.now).unwrap() {
            match event {
                Event::Request { stream, head, .. } => {
                    self.server.set_token(stream, ());
                    self.server.send_head(stream, response, false).unwrap();
                    pool::give(head);
                }
                Event::Data { stream, data, end, .. } => {
                    self.server.send_data(stream, data, false);
                    self.server.release(stream, data.len());
                    if end {
                        let mut trailers = pool::take();
                        trailers.add(b"grpc-status", b"0");
                        self.server.send_trailers(stream, trailers);
                    }
                }
                _ => {}
            }
        }
        take(&mut self.server, &mut self.wire);
        let mut input = &self.wire[..];
        while let Some(event) = self.up.next(&mut input, self.now).unwrap() {
            match event {
                Event::Response { token, head, end, .. } => {
                    self.down.send_head(token, &head, end).unwrap();
                    pool::give(head);
                }
                Event::Data { stream, token, data, end } => {
                    let sent = self.down.send_data(token, data, end);
                    self.up.release(stream, sent);
                }
                Event::Trailers { token, head, .. } => {
                    self.down.send_trailers(token, head);
                }
                _ => {}
            }
        }
        take(&mut self.down, &mut self.wire);
        let mut input = &self.wire[..];
        while let Some(event) = self.client.next(&mut input, self.now).unwrap() {
            match event {
                Event::Response { head, .. } => pool::give(head),
                Event::Data { stream, data, .. } => self.client.release(stream, data.len()),
                Event::Trailers { head, .. } => {
                    self.answered += 1;
                    pool::give(head);
                }
                _ => {}
            }
        }
    }
}

fn take<T: Copy>(c: &mut Connection<T>, wire: &mut Vec<u8>) {
    wire.clear();
    wire.extend_from_slice(c.output());
    c.output().clear();
    c.output_taken();
}

fn main() {
    let mut chain = Chain::new();
    let (request, response) = (head(0), head(200));
    let round = |chain: &mut Chain| {
        for _ in 0..20 {
            chain.request(&request);
        }
        chain.turn(&response);
    };
    // callgrind subtracts a short run from a long one
    let rounds = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(200);
    for _ in 0..20 {
        round(&mut chain);
    }
    let region = Region::new(ALLOCATOR);
    for _ in 0..rounds {
        round(&mut chain);
    }
    let change = region.change();
    assert_eq!(chain.answered, (rounds + 20) * 20);
    assert_eq!((change.allocations, change.reallocations), (0, 0), "{change:?}");
    println!("{} requests, no allocation", rounds * 20);
}
