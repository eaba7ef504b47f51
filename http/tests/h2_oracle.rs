//! Against the `h2` crate, both ways, over pipes in memory: it must understand us, and we it. Bodies are larger than all windows, so flow control is
//! part of every exchange.
#![allow(clippy::unwrap_used)]

mod h2_support;

use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use weft_http::h2::{Config, Connection, ErrorCode, Event, StreamId};
use weft_http::head::pool;

const BODY: usize = 300_000;

fn body(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + seed) as u8).collect()
}
async fn in_time<F: Future>(f: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), f).await.expect("done in time")
}

/// Drives a connection over a pipe until the peer closes or `handle` says enough.
async fn drive<T: Copy>(
    c: &mut Connection<T>,
    pipe: &mut DuplexStream,
    mut handle: impl FnMut(&mut Connection<T>, Event<'_, T>) -> bool,
) {
    let mut buffer = vec![0; 10_000];
    loop {
        while c.has_output() {
            let output = std::mem::take(c.output());
            if pipe.write_all(&output).await.is_err() {
                return;
            }
            c.output_taken();
            while let Some(event) = c.poll() {
                if handle(c, event) {
                    return;
                }
            }
        }
        let n = pipe.read(&mut buffer).await.unwrap_or(0);
        if n == 0 {
            return;
        }
        let mut input = &buffer[..n];
        while let Some(event) = c.next(&mut input, Instant::now()).unwrap() {
            if handle(c, event) {
                return;
            }
        }
    }
}

/// Echoes bodies and trailers; `/refuse` and `/cancel` reset.
fn echo(c: &mut Connection<StreamId>, event: Event<'_, StreamId>) -> bool {
    match event {
        Event::Request { stream, head, end } => {
            c.set_token(stream, stream);
            match head.path() {
                b"/refuse" => c.reset(stream, ErrorCode::RefusedStream),
                b"/early" => {
                    c.send_head(stream, &h2_support::answer(413, &[]), true).unwrap();
                    c.discard(stream);
                }
                _ => {
                    c.send_head(stream, &h2_support::answer(103, &[("link", "</style>")]), false).unwrap();
                    let mut answer = h2_support::answer(200, &[]);
                    for (_, name, value) in head.fields() {
                        answer.add(name, value);
                    }
                    c.send_head(stream, &answer, end).unwrap();
                }
            }
            pool::give(head);
        }
        Event::Data { stream, data, end, .. } => {
            let sent = c.send_data(stream, data, end);
            c.release(stream, sent);
        }
        Event::Sent { stream, bytes, .. } => c.release(stream, bytes as usize),
        Event::Trailers { stream, head, .. } => {
            c.send_trailers(stream, head);
        }
        _ => {}
    }
    false
}

async fn h2_client_exchange(mut send: h2::client::SendRequest<Bytes>, i: usize) {
    send = send.ready().await.unwrap();
    let long = "x".repeat(i * 997 % 20_000);
    let request = http::Request::post(format!("http://shop/{i}"))
        .header("x-number", i.to_string())
        .header("x-long", &long)
        .header("cookie", "a=b")
        .header("cookie", "c=d")
        .body(())
        .unwrap();
    let (response, mut up) = send.send_request(request, false).unwrap();
    let sent = body(i, BODY);
    let upload = sent.clone();
    let up = tokio::spawn(async move {
        let mut rest = Bytes::from(upload);
        while !rest.is_empty() {
            up.reserve_capacity(rest.len());
            let n = std::future::poll_fn(|cx| up.poll_capacity(cx)).await.unwrap().unwrap();
            up.send_data(rest.split_to(n), false).unwrap();
        }
        let mut trailers = http::HeaderMap::new();
        trailers.insert("sum", "42".parse().unwrap());
        up.send_trailers(trailers).unwrap();
    });
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["x-number"], i.to_string());
    assert_eq!(response.headers()["x-long"], long);
    assert_eq!(response.headers().get_all("cookie").iter().count(), 2);
    let mut down = response.into_body();
    let mut got = Vec::new();
    while let Some(piece) = down.data().await {
        let piece = piece.unwrap();
        down.flow_control().release_capacity(piece.len()).unwrap();
        got.extend_from_slice(&piece);
    }
    assert!(got == sent);
    assert_eq!(down.trailers().await.unwrap().unwrap()["sum"], "42");
    up.await.unwrap();
}

#[tokio::test]
async fn our_server_and_their_client() {
    for (window, frame) in [(65_535, 16_384), (100, 16_384), (1 << 20, 1 << 20)] {
        let (mut ours, theirs) = tokio::io::duplex(5_000);
        let server = tokio::spawn(async move {
            let mut c = Connection::server(Arc::new(Config { huffman: frame > 16_384, ..Config::default() }));
            drive(&mut c, &mut ours, echo).await;
            c
        });
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(window).max_frame_size(frame);
        let (send, connection) = builder.handshake::<_, Bytes>(theirs).await.unwrap();
        let connection = tokio::spawn(connection);
        let all: Vec<_> = (0..8).map(|i| tokio::spawn(h2_client_exchange(send.clone(), i))).collect();
        for one in all {
            in_time(one).await.unwrap();
        }
        drop(send);
        let _ = in_time(connection).await.unwrap();
        let c = in_time(server).await.unwrap();
        assert_eq!((c.streams(), c.queued_total()), (0, 0));
    }
}

#[tokio::test]
async fn their_client_understands_our_resets() {
    let (mut ours, theirs) = tokio::io::duplex(5_000);
    let server = tokio::spawn(async move {
        let mut c = Connection::server(Arc::new(Config::default()));
        drive(&mut c, &mut ours, echo).await;
    });
    let (send, connection) = h2::client::handshake(theirs).await.unwrap();
    let connection = tokio::spawn(connection);
    let ask = async |path: &str| {
        let mut send = send.clone().ready().await.unwrap();
        let request = http::Request::post(format!("http://shop{path}")).body(()).unwrap();
        let (response, mut up) = send.send_request(request, false).unwrap();
        up.send_data(Bytes::from(body(1, 10_000)), false).unwrap();
        let result = response.await;
        let reset = std::future::poll_fn(|cx| up.poll_reset(cx)).await;
        (result.map(|r| r.status()), reset)
    };
    let (result, _) = in_time(ask("/refuse")).await;
    assert_eq!(result.unwrap_err().reason(), Some(h2::Reason::REFUSED_STREAM));
    let (result, reset) = in_time(ask("/early")).await;
    assert_eq!(result.unwrap(), 413);
    assert_eq!(reset.unwrap(), h2::Reason::NO_ERROR);
    drop(send);
    let _ = in_time(connection).await.unwrap();
    in_time(server).await.unwrap();
}

/// What our client sees of one exchange.
#[derive(Default, Clone)]
struct Seen {
    interim: usize,
    status: u16,
    body: Vec<u8>,
    trailer: Option<Vec<u8>>,
    /// Of the upload, how much was given to the codec.
    given: usize,
    ended: bool,
}

#[tokio::test]
async fn our_client_and_their_server() {
    for (window, ours_window) in [(65_535, 65_535), (100, 200_000)] {
        let (mut ours, theirs) = tokio::io::duplex(5_000);
        let server = tokio::spawn(async move {
            let mut builder = h2::server::Builder::new();
            builder.initial_window_size(window).max_concurrent_streams(50);
            let mut connection = builder.handshake::<_, Bytes>(theirs).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                tokio::spawn(async move {
                    let answer = http::Response::builder().header("x-path", request.uri().path()).body(()).unwrap();
                    let mut down = respond.send_response(answer, false).unwrap();
                    let mut up = request.into_body();
                    while let Some(piece) = up.data().await {
                        let mut piece = piece.unwrap();
                        up.flow_control().release_capacity(piece.len()).unwrap();
                        while !piece.is_empty() {
                            down.reserve_capacity(piece.len());
                            let n = std::future::poll_fn(|cx| down.poll_capacity(cx)).await.unwrap().unwrap();
                            down.send_data(piece.split_to(n), false).unwrap();
                        }
                    }
                    let mut trailers = http::HeaderMap::new();
                    trailers.insert("grpc-status", "0".parse().unwrap());
                    down.send_trailers(trailers).unwrap();
                });
            }
        });
        const N: usize = 10;
        let mut c = Connection::client(Arc::new(Config { stream_window: ours_window, ..Config::default() }));
        let mut seen = vec![Seen::default(); N];
        let streams: Vec<_> = (0..N)
            .map(|i| {
                let mut head = h2_support::get(&format!("/{i}"));
                head.set_pseudo(weft_http::head::Pseudo::Method, b"POST");
                c.open(&head, false, i).unwrap()
            })
            .collect();
        // a piece after the other, the next when the last has left
        let feed = |c: &mut Connection<usize>, seen: &mut Seen, i: usize| {
            while seen.given < BODY && c.queued(streams[i]) == 0 {
                let n = 7_777.min(BODY - seen.given);
                let whole = body(i, BODY);
                c.send_data(streams[i], &whole[seen.given..seen.given + n], seen.given + n == BODY);
                seen.given += n;
            }
        };
        for (i, one) in seen.iter_mut().enumerate() {
            feed(&mut c, one, i);
        }
        let mut open = N;
        in_time(drive(&mut c, &mut ours, |c, event| {
            match event {
                Event::Response { token, head, .. } => {
                    match head.status {
                        ..200 => seen[token].interim += 1,
                        status => seen[token].status = status,
                    }
                    assert_eq!(head.get(b"x-path"), Some(format!("/{token}").as_bytes()));
                    pool::give(head);
                }
                Event::Data { stream, token, data, end } => {
                    seen[token].body.extend_from_slice(data);
                    c.release(stream, data.len());
                    assert!(!end);
                }
                Event::Trailers { token, head, .. } => {
                    seen[token].trailer = head.get(b"grpc-status").map(<[u8]>::to_vec);
                    seen[token].ended = true;
                    open -= 1;
                    pool::give(head);
                }
                Event::Sent { token, .. } => feed(c, &mut seen[token], token),
                Event::Settings | Event::Room => {}
                other => panic!("{other:?}"),
            }
            open == 0
        }))
        .await;
        for (i, one) in seen.iter().enumerate() {
            assert_eq!(one.status, 200);
            assert!(one.body == body(i, BODY) && one.ended);
            assert_eq!(one.trailer.as_deref(), Some(&b"0"[..]));
        }
        assert_eq!((c.streams(), c.queued_total()), (0, 0));
        drop(ours);
        in_time(server).await.unwrap();
    }
}

/// The other codec's opinion on blocks that ours encodes with tables that shrink and grow.
#[tokio::test]
async fn their_tables_follow_ours() {
    let (mut ours, theirs) = tokio::io::duplex(5_000);
    let server = tokio::spawn(async move {
        let mut c = Connection::server(Arc::new(Config::default()));
        drive(&mut c, &mut ours, echo).await;
    });
    let mut builder = h2::client::Builder::new();
    builder.header_table_size(128);
    let (send, connection) = builder.handshake::<_, Bytes>(theirs).await.unwrap();
    let connection = tokio::spawn(connection);
    for i in 0..200 {
        let mut ready = send.clone().ready().await.unwrap();
        let request = http::Request::get("http://shop/")
            .header(format!("x-{}", i % 7), format!("value-{}", i % 5))
            .header("user-agent", "same")
            .body(())
            .unwrap();
        let (response, _) = ready.send_request(request, true).unwrap();
        let response = in_time(response).await.unwrap();
        assert_eq!(response.headers()[format!("x-{}", i % 7)], format!("value-{}", i % 5));
        assert_eq!(response.headers()["user-agent"], "same");
    }
    drop(send);
    let _ = in_time(connection).await.unwrap();
    in_time(server).await.unwrap();
}
