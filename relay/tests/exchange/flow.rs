//! HTTP/2 clients, gRPC, and translation between the versions.

use crate::lab::*;
use std::{collections::HashMap, sync::Arc, time::Instant};
use weft_http::{
    h2::{Config, Connection, ErrorCode, Event, StreamId},
    head::{Head, Pseudo},
};
use weft_relay::{DialError, Wire};

/// A scripted HTTP/2 end.
struct H2 {
    codec: Connection<u32>,
    peer: usize,
    heads: HashMap<u32, Vec<Head>>,
    data: HashMap<u32, Vec<u8>>,
    trailers: HashMap<u32, Head>,
    ended: Vec<u32>,
    resets: Vec<(u32, ErrorCode)>,
    streams: HashMap<u32, StreamId>,
}

impl H2 {
    fn client(lab: &mut Lab) -> H2 {
        let peer = lab.client(Wire::Http2);
        let mut h = H2::over(Connection::client(Arc::new(Config::default())), peer);
        h.exchange(lab);
        h
    }
    fn over(codec: Connection<u32>, peer: usize) -> H2 {
        H2 {
            codec,
            peer,
            heads: HashMap::new(),
            data: HashMap::new(),
            trailers: HashMap::new(),
            ended: vec![],
            resets: vec![],
            streams: HashMap::new(),
        }
    }
    /// Sends what there is, takes what comes.
    fn exchange(&mut self, lab: &mut Lab) {
        loop {
            let got = std::mem::take(&mut lab.peers[self.peer].got);
            let mut input = &got[..];
            while let Some(e) = self.codec.next(&mut input, Instant::now()).unwrap() {
                match e {
                    Event::Request { stream, head, end } => {
                        let n = self.streams.len() as u32 + 1;
                        self.codec.set_token(stream, n);
                        self.streams.insert(n, stream);
                        self.heads.entry(n).or_default().push(*head);
                        self.ended.extend(end.then_some(n));
                    }
                    Event::Response { token, head, end, .. } => {
                        self.heads.entry(token).or_default().push(*head);
                        self.ended.extend(end.then_some(token));
                    }
                    Event::Data { stream, token, data, end } => {
                        self.data.entry(token).or_default().extend(data);
                        self.ended.extend(end.then_some(token));
                        self.codec.release(stream, data.len());
                    }
                    Event::Trailers { token, head, .. } => {
                        self.trailers.insert(token, *head);
                        self.ended.push(token);
                    }
                    Event::Reset { token, code, .. } => self.resets.push((token, code)),
                    _ => {}
                }
            }
            let out = std::mem::take(self.codec.output());
            self.codec.output_taken();
            while self.codec.poll().is_some() {}
            if out.is_empty() {
                if lab.peers[self.peer].got.is_empty() {
                    return;
                }
            } else {
                lab.send(self.peer, out);
            }
        }
    }
    fn request(&mut self, n: u32, method: &str, path: &str, fields: &[(&str, &str)], end: bool) {
        let mut head = Head::default();
        head.set_pseudo(Pseudo::Method, method.as_bytes());
        head.set_pseudo(Pseudo::Scheme, b"http");
        head.set_pseudo(Pseudo::Authority, b"cart");
        head.set_pseudo(Pseudo::Path, path.as_bytes());
        fields.iter().for_each(|(n, v)| head.add(n.as_bytes(), v.as_bytes()));
        let stream = self.codec.open(&head, end, n).unwrap();
        self.streams.insert(n, stream);
    }
    fn status(&self, n: u32) -> u16 {
        self.heads[&n].last().unwrap().status
    }
}

fn status(n: u16) -> Head {
    let mut head = Head::default();
    head.status = n;
    head
}

const GRPC: &[(&str, &str)] = &[("content-type", "application/grpc"), ("te", "trailers")];

#[test]
fn grpc_from_end_to_end() {
    let mut lab = Lab::cart(&[meshed("10.2.0.1:80")]);
    let mut c = H2::client(&mut lab);
    c.request(1, "POST", "/shop.Cart/Add", GRPC, false);
    c.codec.send_data(c.streams[&1], b"ask", false);
    c.exchange(&mut lab);
    let mut app = H2::over(Connection::server(Arc::new(Config::default())), lab.app());
    app.exchange(&mut lab);
    let head = &app.heads[&1][0];
    assert_eq!((head.method(), head.path(), head.authority()), (&b"POST"[..], &b"/shop.Cart/Add"[..], &b"cart"[..]));
    assert_eq!(head.get(b"te"), Some(&b"trailers"[..]));
    assert_eq!(head.get(b"weft-client"), Some(&b"spiffe://cluster.local/ns/shop/sa/front"[..]));
    assert_eq!(app.data[&1], b"ask");
    // the answer begins before the question has ended
    let mut answer = status(200);
    answer.add(b"content-type", b"application/grpc");
    app.codec.send_head(app.streams[&1], &answer, false).unwrap();
    app.codec.send_data(app.streams[&1], b"one", false);
    app.exchange(&mut lab);
    c.exchange(&mut lab);
    assert_eq!((c.status(1), &c.data[&1][..]), (200, &b"one"[..]));
    c.codec.send_data(c.streams[&1], b"more", true);
    c.exchange(&mut lab);
    app.exchange(&mut lab);
    assert_eq!(app.data[&1], b"askmore");
    assert_eq!(app.ended, [1]);
    let mut trailers = Box::<Head>::default();
    trailers.add(b"grpc-status", b"0");
    app.codec.send_trailers(app.streams[&1], trailers);
    app.exchange(&mut lab);
    c.exchange(&mut lab);
    assert_eq!(c.trailers[&1].get(b"grpc-status"), Some(&b"0"[..]));
    lab.at_rest();
    // a cancellation reaches the application
    c.request(2, "POST", "/shop.Cart/Watch", GRPC, false);
    c.exchange(&mut lab);
    app.exchange(&mut lab);
    c.codec.reset(c.streams[&2], ErrorCode::Cancel);
    c.exchange(&mut lab);
    app.exchange(&mut lab);
    assert_eq!(app.resets, [(2, ErrorCode::Cancel)]);
    lab.at_rest();
    assert_eq!(lab.dials.len(), 2);
}

#[test]
fn our_own_answers_to_grpc_are_trailers_only() {
    let mut lab = Lab::cart(&[meshed("10.2.0.1:80")]);
    lab.refuses.insert(addr("10.2.0.1:80"), DialError::Refused);
    let mut c = H2::client(&mut lab);
    c.request(1, "POST", "/shop.Cart/Add", GRPC, true);
    c.exchange(&mut lab);
    lab.pass(ms(1000));
    c.exchange(&mut lab);
    let head = &c.heads[&1][0];
    assert_eq!((head.status, head.get(b"grpc-status")), (200, Some(&b"14"[..])));
    assert!(head.get(b"grpc-message").is_some() && head.get(b"weft-error").is_some());
    // whatever failed, a client whose deadline is over sees the deadline
    let late = [GRPC, &[("grpc-timeout", "1m")]].concat();
    c.request(3, "POST", "/shop.Cart/Add", &late, true);
    c.exchange(&mut lab);
    lab.pass(ms(1000));
    c.exchange(&mut lab);
    assert_eq!(c.heads[&3][0].get(b"grpc-status"), Some(&b"4"[..]));
    assert_eq!(c.ended, [1, 3]);
    lab.at_rest();
}

#[test]
fn many_streams_share_one_connection_and_32_of_64_kib_pass() {
    let mut lab = Lab::cart(&[meshed("10.2.0.1:80")]);
    let mut c = H2::client(&mut lab);
    for n in 1..=32 {
        c.request(n, "GET", "/big", &[], true);
    }
    c.exchange(&mut lab);
    let mut app = H2::over(Connection::server(Arc::new(Config::default())), lab.app());
    app.exchange(&mut lab);
    assert_eq!(app.heads.len(), 32);
    for n in 1..=32 {
        app.codec.send_head(app.streams[&n], &status(200), false).unwrap();
        app.codec.send_data(app.streams[&n], &vec![n as u8; 65_536], true);
    }
    for _ in 0..200 {
        app.exchange(&mut lab);
        c.exchange(&mut lab);
    }
    assert_eq!(c.ended.len(), 32);
    assert!((1..=32).all(|n| c.data[&n].len() == 65_536));
    lab.at_rest();
    assert_eq!(lab.dials.len(), 2);
}

#[test]
fn an_http2_client_and_an_http1_application() {
    let mut lab = Lab::cart(&[plain("10.2.0.1:80")]);
    let mut c = H2::client(&mut lab);
    // nothing is declared: the client's own version
    c.request(1, "GET", "/", &[], true);
    c.exchange(&mut lab);
    assert_eq!(lab.dials, [(At::Out, addr("10.2.0.1:80"), Wire::Http2)]);
    // over the mesh from an HTTP/1 client to an HTTP/1 application, and a refused stream is tried elsewhere
    let mut lab = Lab::cart(&[plain("10.2.0.1:80"), plain("10.2.0.2:80")]);
    let mut c = H2::client(&mut lab);
    c.request(1, "POST", "/", &[], true);
    c.exchange(&mut lab);
    let first = lab.app();
    let mut app = H2::over(Connection::server(Arc::new(Config::default())), first);
    app.exchange(&mut lab);
    app.codec.reset(app.streams[&1], ErrorCode::RefusedStream);
    app.exchange(&mut lab);
    lab.pass(ms(100));
    let second = lab.app();
    assert_ne!(lab.peers[first].address, lab.peers[second].address);
    let mut other = H2::over(Connection::server(Arc::new(Config::default())), second);
    other.exchange(&mut lab);
    other.codec.send_head(other.streams[&1], &status(204), true).unwrap();
    other.exchange(&mut lab);
    c.exchange(&mut lab);
    assert_eq!(c.status(1), 204);
    // a goodbye: streams above its last one go elsewhere at once
    c.request(2, "POST", "/", &[], true);
    c.exchange(&mut lab);
    lab.at_rest_but(1);
}

#[test]
fn a_stream_that_nobody_reads_does_not_stall_the_others() {
    let mut lab = Lab::cart(&[meshed("10.2.0.1:80")]);
    let mut c = H2::client(&mut lab);
    c.request(1, "POST", "/stuck", &[], false);
    c.exchange(&mut lab);
    let mut app = H2::over(Connection::server(Arc::new(Config::default())), lab.app());
    app.exchange(&mut lab);
    // the application reads nothing of stream 1: more than its window stays with the client
    let taken = c.codec.send_data(c.streams[&1], &vec![1; 200_000], false);
    c.exchange(&mut lab);
    assert!(taken <= 65_535);
    c.request(2, "POST", "/free", &[], false);
    c.codec.send_data(c.streams[&2], b"quick", true);
    c.exchange(&mut lab);
    app.exchange(&mut lab);
    assert_eq!(app.data[&2], b"quick");
    c.codec.reset(c.streams[&1], ErrorCode::Cancel);
    c.exchange(&mut lab);
    app.exchange(&mut lab);
    app.codec.send_head(app.streams[&2], &status(200), true).unwrap();
    app.exchange(&mut lab);
    c.exchange(&mut lab);
    assert_eq!(c.status(2), 200);
    lab.at_rest();
}
