//! The vocabulary of the HTTP/1 tests: bytes go in, a transcript of what the codec understood comes out, and any cut of the bytes must give the same one.
#![allow(dead_code)] // every test program uses a part

use std::fmt::Write;
use std::sync::Arc;
use weft_http::h1::{Client, Config, Event, ParseError, Server, UPGRADE_IGNORED};
use weft_http::head::{Head, Pseudo};

pub fn config() -> Arc<Config> {
    Arc::new(Config::default())
}

/// A response head.
pub fn response(status: u16, fields: &[(&str, &str)]) -> Head {
    let mut head = Head::default();
    head.status = status;
    for (name, value) in fields {
        head.add(name.as_bytes(), value.as_bytes());
    }
    head
}

/// A request head: `GET example.test/path`.
pub fn request(line: &str, fields: &[(&str, &str)]) -> Head {
    let (method, rest) = line.split_once(' ').unwrap();
    let (authority, path) = rest.split_at(rest.find(['/', '*']).unwrap_or(rest.len()));
    let mut head = Head::default();
    head.set_pseudo(Pseudo::Method, method.as_bytes());
    head.set_pseudo(Pseudo::Scheme, b"http");
    head.set_pseudo(Pseudo::Authority, authority.as_bytes());
    head.set_pseudo(Pseudo::Path, path.as_bytes());
    for (name, value) in fields {
        head.add(name.as_bytes(), value.as_bytes());
    }
    head
}

pub fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string().replace("\\r\\n", "\n")
}

/// A head in one line: `GET a/path x=1 y=2`, `200 x=1`.
pub fn head_text(head: &Head) -> String {
    let mut s = String::new();
    if head.status > 0 {
        let _ = write!(s, "{}", head.status);
    } else if head.pseudo(Pseudo::Method).is_some() {
        let _ = write!(s, "{} ", text(head.method()));
        match head.pseudo(Pseudo::Authority) {
            Some(a) => s.push_str(&text(a)),
            None => s.push('-'),
        }
        s.push_str(&text(head.path()));
        if let Some(p) = head.pseudo(Pseudo::Protocol) {
            let _ = write!(s, " :protocol={}", text(p));
        }
    }
    for (_, name, value) in head.fields() {
        let _ = write!(s, " {}={}", text(name), text(value));
    }
    s.trim().to_string()
}

/// What a connection understood, pieces of data joined.
#[derive(Default, PartialEq, Eq, Clone)]
pub struct Transcript {
    pub lines: Vec<String>,
    data: Vec<u8>,
    open: bool,
}

impl std::fmt::Debug for Transcript {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f)?;
        self.lines.iter().try_for_each(|l| writeln!(f, "    {l}"))
    }
}

impl Transcript {
    pub fn line(&mut self, line: impl Into<String>) {
        if std::mem::take(&mut self.open) {
            let data = std::mem::take(&mut self.data);
            self.lines.push(format!("data {}", text(&data)));
        }
        self.lines.push(line.into());
    }
    /// True when the message has ended.
    pub fn event(&mut self, event: &Event<'_>) -> bool {
        let ends = |end| if end { " end" } else { "" };
        match event {
            Event::Request { head, end, .. } => {
                self.line(format!("request {}{}", head_text(head), ends(*end)));
                *end
            }
            Event::Response { head, end, upgraded } => {
                let upgraded = if *upgraded { " upgraded" } else { "" };
                self.line(format!("response {}{upgraded}{}", head_text(head), ends(*end)));
                *end
            }
            Event::Data { data, end } => {
                self.data.extend_from_slice(data);
                self.open |= !data.is_empty();
                if *end {
                    self.line("end");
                }
                *end
            }
            Event::Trailers { head } => {
                self.line(format!("trailers {}", head_text(head)));
                true
            }
        }
    }
    pub fn error(&mut self, error: ParseError) {
        self.line(format!("error {} {}", error.status, error.reason));
    }
    pub fn finish(mut self) -> Transcript {
        if self.open {
            self.line("...");
        }
        self
    }
    pub fn has(&self, part: &str) -> bool {
        self.lines.iter().any(|l| l.contains(part))
    }
    pub fn requests(&self) -> usize {
        self.lines.iter().filter(|l| l.starts_with("request")).count()
    }
}

/// A server whose application answers every complete request with `200 ok`, every upgrade with success, and every error with its status.
pub struct Application {
    pub server: Server,
    pub seen: Transcript,
    pub wire: Vec<u8>,
}

impl Application {
    pub fn new() -> Self {
        Application { server: Server::new(config()), seen: Transcript::default(), wire: Vec::new() }
    }
    fn feed(&mut self, mut bytes: &[u8]) {
        loop {
            match self.server.next(&mut bytes) {
                Ok(Some(event)) => self.on(event),
                Ok(None) => break,
                Err(e) => {
                    self.failed(e);
                    break;
                }
            }
        }
        assert!(bytes.is_empty(), "input must be consumed when nothing comes");
    }
    fn on(&mut self, event: Event<'_>) {
        let tunnel = matches!(&event, Event::Request { info, .. } if info.upgrade);
        if self.seen.event(&event) {
            if self.server.can_respond() {
                self.server.send_head(&response(200, &[("content-length", "2")]), false).unwrap();
                self.server.send_data(b"ok", true).unwrap();
            }
        } else if tunnel {
            self.server.send_head(&response(200, &[]), false).unwrap();
        }
        self.drain();
    }
    fn failed(&mut self, e: ParseError) {
        self.seen.error(e);
        if self.server.can_respond() {
            self.server.send_head(&response(e.status, &[]), true).unwrap();
        }
        self.drain();
    }
    fn drain(&mut self) {
        self.wire.append(self.server.output());
        self.server.output_taken();
    }
    pub fn input(&mut self, bytes: &[u8]) {
        self.feed(bytes);
        while let Some(held) = self.server.take_held() {
            self.feed(&held);
            self.server.recycle(held);
        }
    }
    pub fn eof(&mut self) {
        match self.server.eof() {
            Ok(Some(event)) => self.on(event),
            Ok(None) => {}
            Err(e) => self.failed(e),
        }
    }
    pub fn finish(mut self) -> Transcript {
        self.drain();
        if let Some(close) = self.server.close() {
            self.seen.line(format!("close {close:?}"));
        }
        if !self.wire.is_empty() {
            let wire = text(&self.wire);
            self.seen.line(format!("wire {wire}"));
        }
        self.seen.finish()
    }
}

fn serve_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, eof: bool) -> Transcript {
    let mut app = Application::new();
    for piece in pieces {
        app.input(piece);
    }
    if eof {
        app.eof();
    }
    app.finish()
}

/// Feeds a server; every cut into two, and single bytes, must give the same transcript.
pub fn serve(bytes: impl AsRef<[u8]>) -> Transcript {
    serve_all(bytes.as_ref(), false)
}
pub fn serve_to_end(bytes: impl AsRef<[u8]>) -> Transcript {
    serve_all(bytes.as_ref(), true)
}
fn serve_all(bytes: &[u8], eof: bool) -> Transcript {
    let whole = serve_pieces([bytes], eof);
    for at in cuts(bytes.len()) {
        let (a, b) = bytes.split_at(at);
        assert_eq!(serve_pieces([a, b], eof), whole, "cut at {at} of {}", text(bytes));
    }
    if bytes.len() <= 8192 {
        assert_eq!(serve_pieces(bytes.chunks(1), eof), whole, "single bytes of {}", text(bytes));
        assert_eq!(serve_pieces(bytes.chunks(7), eof), whole, "sevens of {}", text(bytes));
    }
    whole
}

/// Every position of short inputs, a sample of long ones.
fn cuts(len: usize) -> impl Iterator<Item = usize> {
    (0..=len).step_by((len / 2000).max(1))
}

fn ask_pieces<'a>(head: &Head, pieces: impl IntoIterator<Item = &'a [u8]>, eof: bool) -> Transcript {
    let mut client = Client::new(config());
    let mut seen = Transcript::default();
    let end = head.pseudo(Pseudo::Protocol).is_none();
    client.send_head(head, end).unwrap();
    client.output().clear();
    'all: {
        for mut piece in pieces {
            loop {
                match client.next(&mut piece) {
                    Ok(Some(event)) => drop(seen.event(&event)),
                    Ok(None) => break,
                    Err(e) => {
                        seen.error(e);
                        break 'all;
                    }
                }
            }
            assert!(piece.is_empty());
        }
        if eof {
            match client.eof() {
                Ok(Some(event)) => drop(seen.event(&event)),
                Ok(None) => {}
                Err(e) => seen.error(e),
            }
        }
    }
    seen.line(if client.reusable() { "reusable" } else { "not reusable" });
    seen.finish()
}

/// Sends `head` (without a body) and feeds the client a response, in every cut.
pub fn ask(head: &Head, bytes: impl AsRef<[u8]>) -> Transcript {
    ask_all(head, bytes.as_ref(), false)
}
pub fn ask_to_end(head: &Head, bytes: impl AsRef<[u8]>) -> Transcript {
    ask_all(head, bytes.as_ref(), true)
}
fn ask_all(head: &Head, bytes: &[u8], eof: bool) -> Transcript {
    let whole = ask_pieces(head, [bytes], eof);
    for at in cuts(bytes.len()) {
        let (a, b) = bytes.split_at(at);
        let cut = ask_pieces(head, [a, b], eof);
        // bytes behind the message that arrive later find an idle connection, and an error instead of a silent verdict
        let late = cut.has("bytes without a request");
        if !late {
            assert_eq!(cut, whole, "cut at {at} of {}", text(bytes));
        }
        assert!(!late || whole.has("not reusable"));
    }
    whole
}

pub fn ignored_upgrade(head: &Head) -> bool {
    head.get(UPGRADE_IGNORED).is_some()
}
