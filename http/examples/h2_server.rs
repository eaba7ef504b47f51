//! An HTTP/2 server (prior knowledge) on blocking sockets, one thread for each connection: it answers every request with 200 and the request's body (or a line of its own). For h2spec,
//! nghttp and h2load:
//!
//! ```text
//! cargo run -p weft-http --example h2_server -- 127.0.0.1:8090
//! h2spec -h 127.0.0.1 -p 8090
//! h2load -n 10000 -c 4 -m 32 http://127.0.0.1:8090/
//! ```

#![allow(clippy::print_stdout)]

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};
use weft_http::h2::{Config, Connection, Event, StreamId};
use weft_http::head::{Head, pool};

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".into());
    let listener = TcpListener::bind(address)?;
    println!("listening on {}", listener.local_addr()?);
    let config = Arc::new(Config { max_streams: 100, ..Config::default() });
    for socket in listener.incoming() {
        let (socket, config) = (socket?, config.clone());
        std::thread::spawn(move || {
            if let Err(e) = serve(socket, config) {
                println!("connection: {e}");
            }
        });
    }
    Ok(())
}

fn serve(mut socket: TcpStream, config: Arc<Config>) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut connection = Connection::<StreamId>::server(config);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        while connection.has_output() {
            let output = std::mem::take(connection.output());
            socket.write_all(&output)?;
            connection.output_taken();
            while let Some(event) = connection.poll() {
                handle(&mut connection, event);
            }
        }
        let n = socket.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        let mut input = &buffer[..n];
        loop {
            match connection.next(&mut input, Instant::now()) {
                Ok(Some(event)) => handle(&mut connection, event),
                Ok(None) => break,
                Err(error) => {
                    socket.write_all(connection.output())?;
                    // what has not been read would turn the close into a reset that destroys the GOAWAY
                    socket.shutdown(std::net::Shutdown::Write)?;
                    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
                    while socket.read(&mut buffer).is_ok_and(|n| n > 0) {}
                    return Err(io::Error::other(error));
                }
            }
        }
    }
}

/// The window is given back when the answer has left, so a client that does not read does not make us hold more than its window.
fn handle(connection: &mut Connection<StreamId>, event: Event<'_, StreamId>) {
    match event {
        Event::Request { stream, head, end } => {
            connection.set_token(stream, stream);
            let mut answer = pool::take();
            answer.status = 200;
            answer.add(b"server", b"weft");
            if let Some(kind) = head.get(b"content-type") {
                answer.add(b"content-type", kind);
            }
            let _ = connection.send_head(stream, &answer, false);
            if end {
                // h2spec looks at flow control: there must be something to send
                connection.send_data(stream, b"no request body, so this is the answer\n", true);
            }
            pool::give(answer);
            pool::give(head);
        }
        Event::TooLarge { stream, .. } => {
            let mut answer = Head::default();
            answer.status = 431;
            let _ = connection.send_head(stream, &answer, true);
            connection.discard(stream);
        }
        Event::Data { stream, data, end, .. } => {
            let sent = connection.send_data(stream, data, end);
            connection.release(stream, sent);
        }
        Event::Sent { stream, bytes, .. } => {
            // our own line came from nowhere
            let echoed = bytes.min(connection.unreleased(stream));
            connection.release(stream, echoed as usize);
        }
        Event::Trailers { stream, head, .. } => {
            connection.send_trailers(stream, head);
        }
        // resets need nothing: the stream is gone
        _ => {}
    }
}
