//! A partner for conversations with an HTTP/2 connection: it says raw frames and hears what comes back, both as one line of text each.
#![allow(dead_code, clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};
use weft_http::h2::{Config, Connection, ConnectionError, ErrorCode, Event, StreamId};
use weft_http::head::{Head, Pseudo, pool};
use weft_http::hpack::{Decoder, integer};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const END: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut f = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    f.extend([kind, flags]);
    f.extend(stream.to_be_bytes());
    f.extend(payload);
    f
}
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut b = Vec::new();
    for (n, v) in fields {
        b.push(0);
        integer::encode(&mut b, 0, 7, n.len());
        b.extend(n.as_bytes());
        integer::encode(&mut b, 0, 7, v.len());
        b.extend(v.as_bytes());
    }
    b
}
pub fn headers(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(1, flags | END_HEADERS, stream, &block(fields))
}
pub const REQUEST: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "http"), (":authority", "shop"), (":path", "/cart")];
/// A request with more fields.
pub fn request(stream: u32, flags: u8, more: &[(&str, &str)]) -> Vec<u8> {
    headers(stream, flags, &[&REQUEST[..], more].concat())
}
pub fn data(stream: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
    frame(0, flags, stream, bytes)
}
pub fn rst(stream: u32, code: u32) -> Vec<u8> {
    frame(3, 0, stream, &code.to_be_bytes())
}
pub fn settings(list: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = list.iter().flat_map(|(k, v)| [&k.to_be_bytes()[..], &v.to_be_bytes()].concat()).collect();
    frame(4, 0, 0, &payload)
}
pub fn window(stream: u32, n: u32) -> Vec<u8> {
    frame(8, 0, stream, &n.to_be_bytes())
}
pub fn goaway(last: u32, code: u32) -> Vec<u8> {
    frame(7, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
}

pub fn head(pseudo: &[(Pseudo, &str)], status: u16, fields: &[(&str, &str)]) -> Head {
    let mut h = Head::default();
    h.status = status;
    for (p, v) in pseudo {
        h.set_pseudo(*p, v.as_bytes());
    }
    for (n, v) in fields {
        h.add(n.as_bytes(), v.as_bytes());
    }
    h
}
pub fn get(path: &str) -> Head {
    let pseudo = [(Pseudo::Method, "GET"), (Pseudo::Scheme, "http"), (Pseudo::Authority, "shop"), (Pseudo::Path, path)];
    head(&pseudo, 0, &[])
}
pub fn answer(status: u16, fields: &[(&str, &str)]) -> Head {
    head(&[], status, fields)
}

pub struct Talk {
    pub c: Connection<u32>,
    pub now: Instant,
    pub failed: Option<ConnectionError>,
    /// Of requests, by number on the wire.
    pub ids: std::collections::HashMap<u32, StreamId>,
    decoder: Decoder,
}

fn lines(text: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(text)
}

fn fields(head: &Head) -> String {
    head.fields().map(|(_, n, v)| format!(" {}={}", lines(n), lines(v))).collect()
}

impl Talk {
    fn new(c: Connection<u32>) -> Talk {
        Talk { c, now: Instant::now(), failed: None, ids: Default::default(), decoder: Decoder::new(4096) }
    }
    /// A server whose client has said its preface.
    pub fn server(config: Config) -> Talk {
        let mut t = Talk::new(Connection::server(Arc::new(config)));
        assert_eq!(t.say([PREFACE, &settings(&[])].concat()), ["settings"]);
        t.hear();
        t
    }
    /// A client whose server has said its SETTINGS.
    pub fn client(config: Config) -> Talk {
        let mut t = Talk::new(Connection::client(Arc::new(config)));
        assert_eq!(t.say(settings(&[])), ["settings"]);
        t.hear();
        t
    }
    pub fn fresh_server(config: Config) -> Talk {
        Talk::new(Connection::server(Arc::new(config)))
    }
    pub fn fresh_client(config: Config) -> Talk {
        Talk::new(Connection::client(Arc::new(config)))
    }
    pub fn wait(&mut self, d: Duration) {
        self.now += d;
    }
    /// The stream of this number; its token is the number.
    pub fn id(&self, id: u32) -> StreamId {
        self.ids[&id]
    }
    pub fn open(&mut self, path: &str, end: bool) -> u32 {
        let next = self.ids.keys().max().map_or(1, |id| id + 2);
        let stream = self.c.open(&get(path), end, next).unwrap();
        assert_eq!(stream.get(), next);
        self.ids.insert(next, stream);
        next
    }
    fn tell(&mut self, event: Event<'_, u32>) -> String {
        let end = |end: bool| if end { " end" } else { "" };
        match event {
            Event::Request { stream, head, end: e } => {
                self.ids.insert(stream.get(), stream);
                self.c.set_token(stream, stream.get());
                let text = format!(
                    "request {} {} {}{}{}",
                    stream.get(),
                    lines(head.method()),
                    lines(head.path()),
                    fields(&head),
                    end(e)
                );
                pool::give(head);
                text
            }
            Event::TooLarge { stream, end: e } => {
                self.ids.insert(stream.get(), stream);
                format!("too large {}{}", stream.get(), end(e))
            }
            Event::Response { token, head, end: e, .. } => {
                let text = format!("response {token} {}{}{}", head.status, fields(&head), end(e));
                pool::give(head);
                text
            }
            Event::Data { token, data, end: e, .. } => format!("data {token} {}{}", data.len(), end(e)),
            Event::Trailers { token, head, .. } => {
                let text = format!("trailers {token}{}", fields(&head));
                pool::give(head);
                text
            }
            Event::Reset { token, code, cause, .. } => {
                let safe = if cause.unprocessed(code) { " unprocessed" } else { "" };
                format!("reset {token} {code}{safe}")
            }
            Event::Sent { token, bytes, end: e, .. } => format!("sent {token} {bytes}{}", end(e)),
            Event::GoAway { code } => format!("goaway {code}"),
            Event::Room => "room".into(),
            Event::Settings => "settings".into(),
            Event::Pong { rtt } => format!("pong {}", rtt.as_millis()),
        }
    }
    /// Bytes for the connection; what it makes of them. A connection error is the last line.
    pub fn say(&mut self, bytes: Vec<u8>) -> Vec<String> {
        let mut input = &bytes[..];
        let mut told = Vec::new();
        loop {
            match self.c.next(&mut input, self.now) {
                Ok(Some(event)) => {
                    let text = self.tell(event);
                    told.push(text);
                }
                Ok(None) => {
                    assert!(input.is_empty(), "all input is taken in");
                    return told;
                }
                Err(error) => {
                    self.failed = Some(error);
                    told.push(error.to_string());
                    return told;
                }
            }
        }
    }
    /// What the connection has to say, frame by frame; and what happens as that leaves comes with the next `happens`.
    pub fn hear(&mut self) -> Vec<String> {
        let bytes = std::mem::take(self.c.output());
        self.c.output_taken();
        let mut rest = &bytes[..];
        let mut heard = Vec::new();
        if let Some(after) = rest.strip_prefix(PREFACE) {
            rest = after;
        }
        while !rest.is_empty() {
            let len = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
            let (kind, flags) = (rest[3], rest[4]);
            let stream = u32::from_be_bytes([rest[5], rest[6], rest[7], rest[8]]);
            let payload = &rest[9..9 + len];
            rest = &rest[9 + len..];
            let word = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
            let end = if flags & END != 0 { " end" } else { "" };
            heard.push(match kind {
                0 => format!("DATA {stream} {len}{end}"),
                1 => {
                    let mut text = format!("HEADERS {stream}");
                    self.decoder
                        .decode(payload, |f| text.push_str(&format!(" {}={}", lines(f.name), lines(f.value))))
                        .unwrap();
                    text + end
                }
                3 => format!("RST_STREAM {stream} {}", ErrorCode::from_u32(word(0))),
                4 if flags & 1 != 0 => "SETTINGS ack".into(),
                4 => "SETTINGS".into(),
                6 => format!("PING{}", if flags & 1 != 0 { " ack" } else { "" }),
                7 => format!("GOAWAY {} {}", word(0), ErrorCode::from_u32(word(4))),
                8 => format!("WINDOW_UPDATE {stream} {}", word(0)),
                other => panic!("frame type {other}"),
            });
        }
        heard
    }
    /// Events that came without input.
    pub fn happens(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        while let Some(event) = self.c.poll() {
            let text = self.tell(event);
            told.push(text);
        }
        told
    }
}
