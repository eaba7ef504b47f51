//! The upstream side: requests out, responses in.

use super::body::{Decoder, Framing, Step};
use super::encode::{self, Encoder};
use super::{Close, Config, Event, ParseError, Reason, SendError, UPGRADE_IGNORED, Waiting, parse, spare, websocket};
use crate::head::{Head, Pseudo, pool};
use crate::syntax;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receiving {
    /// No request is out: nothing may come.
    Idle,
    /// The response's head, or an interim one.
    Head,
    Body(Decoder),
    Complete,
    Tunnel,
    TunnelEnd,
    Dead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    Idle,
    Body(Encoder),
    /// An upgrade was asked for: data waits in `early` until the answer.
    Upgrading,
    Tunnel,
    Complete,
    Dead,
}

#[derive(Debug)]
struct Upgrade {
    protocol: Box<[u8]>,
    /// We made the `Sec-WebSocket-Key`, so `Sec-WebSocket-Accept` means nothing to the other side.
    own_key: bool,
    /// Data for after the switch, and whether it has ended.
    early: Vec<u8>,
    early_end: bool,
}

/// Early data of an upgrade: what the initial window of an HTTP/2 stream lets in.
const MAX_EARLY: usize = 64 * 1024;

/// A connection to a server, one request at a time.
#[derive(Debug)]
pub struct Client {
    config: Arc<Config>,
    out: Vec<u8>,
    /// A head or trailer section that has arrived in part.
    partial: Vec<u8>,
    receiving: Receiving,
    sending: Sending,
    is_head: bool,
    interim: u8,
    upgrade: Option<Box<Upgrade>>,
    /// Not for another exchange.
    last: bool,
    close: Option<Close>,
    exchanges: u32,
}

impl Client {
    pub fn new(config: Arc<Config>) -> Self {
        Client {
            config,
            out: Vec::new(),
            partial: Vec::new(),
            receiving: Receiving::Idle,
            sending: Sending::Idle,
            is_head: false,
            interim: 0,
            upgrade: None,
            last: false,
            close: None,
            exchanges: 0,
        }
    }
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Starts a request. `end`: no body. An extended CONNECT (`:protocol`) becomes an upgrade. On an error nothing was written and the connection is as good as before.
    pub fn send_head(&mut self, head: &Head, end: bool) -> Result<(), SendError> {
        if !self.reusable() {
            return Err(SendError::State);
        }
        spare::ensure(&mut self.out);
        let start = self.out.len();
        let sent = self.request(head, end);
        if sent.is_err() {
            self.out.truncate(start);
            self.upgrade = None;
            return sent;
        }
        self.exchanges = self.exchanges.saturating_add(1);
        self.interim = 0;
        self.receiving = Receiving::Head;
        Ok(())
    }

    fn request(&mut self, head: &Head, end: bool) -> Result<(), SendError> {
        let protocol = head.pseudo(Pseudo::Protocol);
        let mut method = head.method();
        let (path, authority) = (head.path(), head.authority());
        if !syntax::is_token(method) || !syntax::is_target(path) || !syntax::is_authority(authority) {
            return Err(SendError::Field);
        }
        match protocol {
            Some(p) if method != b"CONNECT" || path == b"*" || !syntax::is_token(p) => {
                return Err(SendError::Field);
            }
            Some(_) => method = b"GET",
            None if method == b"CONNECT" || (path == b"*" && method != b"OPTIONS") => return Err(SendError::Field),
            None => {}
        }
        let out = &mut self.out;
        out.reserve(head.size() + 256);
        out.extend_from_slice(method);
        out.push(b' ');
        out.extend_from_slice(path);
        out.extend_from_slice(b" HTTP/1.1\r\n");
        encode::raw_line(out, b"host", authority);

        if let Some(protocol) = protocol {
            out.extend_from_slice(b"connection: upgrade\r\n");
            encode::raw_line(out, b"upgrade", protocol);
            let own_key = protocol == b"websocket" && head.get(b"sec-websocket-key").is_none();
            if own_key {
                encode::raw_line(out, b"sec-websocket-key", &websocket::key());
                if head.get(b"sec-websocket-version").is_none() {
                    out.extend_from_slice(b"sec-websocket-version: 13\r\n");
                }
            }
            encode::fields(out, head, None, true)?;
            out.extend_from_slice(b"\r\n");
            let upgrade = Upgrade { protocol: protocol.into(), own_key, early: Vec::new(), early_end: end };
            self.upgrade = Some(Box::new(upgrade));
            self.is_head = false;
            self.sending = Sending::Upgrading;
            return Ok(());
        }
        let declared = encode::content_length(head)?;
        let encoder = match declared {
            Some(n) if end && n > 0 => return Err(SendError::TooShort),
            Some(n) => Encoder::Length(n),
            None if end => Encoder::Length(0),
            None => Encoder::Chunked,
        };
        // RFC 9110, 8.6: a method that usually has a body says that there is none
        let bodyless = end && !matches!(method, b"POST" | b"PUT" | b"PATCH");
        let length = declared.or((end && !bodyless).then_some(0));
        encode::fields(out, head, length, true)?;
        if encoder == Encoder::Chunked {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
        }
        out.extend_from_slice(b"\r\n");
        self.is_head = method == b"HEAD";
        self.sending = if end { Sending::Complete } else { Sending::Body(encoder) };
        Ok(())
    }

    /// A piece of the request's body. Ignored when the response is over already or the connection is closing: the answer did not need it.
    pub fn send_data(&mut self, data: &[u8], end: bool) -> Result<(), SendError> {
        match &mut self.sending {
            Sending::Body(encoder) => {
                spare::ensure(&mut self.out);
                encoder.data(&mut self.out, data, end).inspect_err(|_| self.abort())?;
            }
            Sending::Tunnel => {
                spare::ensure(&mut self.out);
                self.out.extend_from_slice(data);
            }
            Sending::Upgrading => {
                let Some(upgrade) = &mut self.upgrade else { return Err(SendError::State) };
                if upgrade.early_end || upgrade.early.len() + data.len() > MAX_EARLY {
                    return Err(SendError::TooLong);
                }
                upgrade.early.extend_from_slice(data);
                upgrade.early_end = end;
                return Ok(());
            }
            // after a refused upgrade, or on a connection that fails: nobody reads it
            Sending::Complete | Sending::Dead if self.exchanges > 0 => return Ok(()),
            _ => return Err(SendError::State),
        }
        if end {
            self.sending = Sending::Complete;
            self.settle();
        }
        Ok(())
    }

    /// Ends the request. Trailers reach the server when the body is chunked.
    pub fn send_trailers(&mut self, trailers: &Head) -> Result<(), SendError> {
        match &mut self.sending {
            Sending::Body(encoder) => {
                spare::ensure(&mut self.out);
                encoder.trailers(&mut self.out, Some(trailers)).inspect_err(|_| self.abort())?;
                self.sending = Sending::Complete;
                self.settle();
                Ok(())
            }
            _ => self.send_data(b"", true),
        }
    }

    /// The exchange is given up: the connection cannot be used any more.
    pub fn abort(&mut self) {
        self.shut(Close::Now);
    }

    /// The next event; `None` when all input is consumed. After an error the codec discards everything.
    pub fn next<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<Event<'i>>, ParseError> {
        let r = self.advance(input);
        if r.is_err() {
            *input = &[];
        }
        r
    }

    fn advance<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<Event<'i>>, ParseError> {
        if input.is_empty() {
            return Ok(None);
        }
        match self.receiving {
            Receiving::Idle => Err(self.fail(Reason::Unsolicited)),
            Receiving::Head => self.head(input),
            Receiving::Body(mut decoder) => {
                let step = decoder.step(input, &mut self.partial, &self.config);
                self.receiving = Receiving::Body(decoder);
                let event = match step.map_err(|r| self.fail(r))? {
                    Step::More => return Ok(None),
                    Step::Data(data, end) => Event::Data { data, end },
                    Step::Trailers(head) => Event::Trailers { head },
                };
                if decoder.is_done() {
                    self.complete(input);
                }
                Ok(Some(event))
            }
            Receiving::Tunnel => Ok(Some(Event::Data { data: std::mem::take(input), end: false })),
            Receiving::Complete => {
                // more than the message, while the request is still being sent
                self.last = true;
                *input = &[];
                Ok(None)
            }
            Receiving::TunnelEnd | Receiving::Dead => {
                *input = &[];
                Ok(None)
            }
        }
    }

    fn head<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<Event<'i>>, ParseError> {
        let upgrade = self.upgrade.as_deref();
        let asked = parse::Asked { is_head: self.is_head, upgrade: upgrade.map(|u| &u.protocol[..]) };
        let parsed = if self.partial.is_empty() {
            let parsed = parse::response(input, asked, &self.config);
            match &parsed {
                Ok(Some(response)) => *input = &input[response.len..],
                Ok(None) => {
                    parse::append(&mut self.partial, input, self.config.max_head);
                    *input = &[];
                }
                Err(_) => {}
            }
            parsed
        } else {
            let before = self.partial.len();
            let n = input.len().min(self.config.max_head + 1 - before);
            parse::append(&mut self.partial, &input[..n], self.config.max_head);
            let parsed = if parse::worth_it(&self.partial, before) || self.partial.len() > self.config.max_head {
                parse::response(&self.partial, asked, &self.config)
            } else {
                Ok(None)
            };
            match &parsed {
                Ok(Some(response)) => {
                    *input = &input[response.len - before..];
                    self.partial.clear();
                    spare::release(&mut self.partial);
                }
                _ => *input = &input[n..],
            }
            parsed
        };
        let response = parsed.map_err(|r| self.fail(r))?;
        response.map(|r| self.begin(r, input)).transpose()
    }

    fn begin<'i>(&mut self, response: parse::Response, input: &mut &'i [u8]) -> Result<Event<'i>, ParseError> {
        let parse::Response { mut head, framing, keep_alive, switched, .. } = response;
        if head.status < 200 && !switched {
            self.interim += 1;
            if self.interim > self.config.max_interim {
                pool::give(head);
                return Err(self.fail(Reason::TooManyInterim));
            }
            return Ok(Event::Response { head, end: false, upgraded: false });
        }
        self.last |= !keep_alive;
        let upgrade = self.upgrade.take();
        if switched {
            head.status = 200;
            if let Some(mut upgrade) = upgrade {
                if upgrade.own_key {
                    head.remove(b"sec-websocket-accept");
                }
                if !upgrade.early.is_empty() {
                    spare::ensure(&mut self.out);
                    self.out.append(&mut upgrade.early);
                }
                self.sending = if upgrade.early_end { Sending::Complete } else { Sending::Tunnel };
            }
            self.receiving = Receiving::Tunnel;
            self.settle();
            return Ok(Event::Response { head, end: false, upgraded: true });
        }
        if upgrade.is_some() {
            if head.status < 300 {
                head.add(UPGRADE_IGNORED, b"ignored");
            }
            self.sending = Sending::Complete;
        }
        let decoder = Decoder::new(framing);
        let end = framing == Framing::None || decoder.is_done();
        if end {
            self.complete(input);
        } else {
            self.receiving = Receiving::Body(decoder);
        }
        Ok(Event::Response { head, end, upgraded: false })
    }

    /// The response is over. What is behind it belongs to nobody (response splitting, a second response): the connection is not used again.
    fn complete(&mut self, input: &mut &[u8]) {
        self.receiving = Receiving::Complete;
        if !input.is_empty() {
            self.last = true;
            *input = &[];
        }
        self.settle();
    }

    /// The server has closed: the end of a body without a length, or an error. `None`: it was idle, or the exchange is over.
    pub fn eof(&mut self) -> Result<Option<Event<'static>>, ParseError> {
        match self.receiving {
            Receiving::Head if self.partial.is_empty() && self.interim == 0 => {
                let reused = self.exchanges > 1;
                Err(self.fail(Reason::ClosedUnanswered { reused }))
            }
            Receiving::Head => {
                let upgrade = self.upgrade.as_deref();
                let asked = parse::Asked { is_head: self.is_head, upgrade: upgrade.map(|u| &u.protocol[..]) };
                let reason = parse::response(&self.partial, asked, &self.config).err();
                Err(self.fail(reason.unwrap_or(Reason::ClosedInHead)))
            }
            Receiving::Body(Decoder::UntilClose) => {
                self.shut(Close::Now);
                Ok(Some(Event::Data { data: &[], end: true }))
            }
            Receiving::Body(_) => Err(self.fail(Reason::ClosedInBody)),
            Receiving::Tunnel => {
                self.receiving = Receiving::TunnelEnd;
                self.settle();
                Ok(Some(Event::Data { data: &[], end: true }))
            }
            Receiving::TunnelEnd => Ok(None),
            Receiving::Idle | Receiving::Complete | Receiving::Dead => {
                self.shut(Close::Now);
                Ok(None)
            }
        }
    }

    /// The connection was lost (reset, timeout): what is the matter with the exchange, if there is one. Unlike after [`eof`](Self::eof) a body that ends with
    /// the connection is not complete.
    pub fn lost(&mut self) -> Option<ParseError> {
        let error = match self.receiving {
            Receiving::Body(_) | Receiving::Tunnel => Some(Reason::ClosedInBody.by_upstream()),
            Receiving::Head => self.eof().err(),
            _ => None,
        };
        self.shut(Close::Now);
        error
    }

    fn settle(&mut self) {
        match (self.receiving, self.sending) {
            (Receiving::Complete, Sending::Complete) if self.last => self.shut(Close::Now),
            (Receiving::Complete, Sending::Complete) => {
                self.receiving = Receiving::Idle;
                self.sending = Sending::Idle;
            }
            (Receiving::TunnelEnd, Sending::Complete) => self.shut(Close::Now),
            // half a tunnel is none: the application must learn that the client has gone
            (Receiving::Tunnel, Sending::Complete) => self.shut(Close::Linger),
            _ => {}
        }
    }

    fn shut(&mut self, how: Close) {
        self.receiving = Receiving::Dead;
        self.sending = Sending::Dead;
        self.last = true;
        self.close.get_or_insert(how);
        self.partial.clear();
        spare::release(&mut self.partial);
        self.upgrade = None;
    }

    fn fail(&mut self, reason: Reason) -> ParseError {
        self.shut(Close::Now);
        reason.by_upstream()
    }

    /// Bytes for the socket. Take what is there (swap in another buffer, or drain it).
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }
    /// Gives an empty output buffer back to the thread's list: call it after the output was taken.
    pub fn output_taken(&mut self) {
        spare::release(&mut self.out);
    }
    pub fn waiting(&self) -> Waiting {
        match self.receiving {
            _ if self.close.is_some() => Waiting::Closed,
            Receiving::Idle => Waiting::Idle,
            Receiving::Head => Waiting::Head,
            Receiving::Body(_) => Waiting::Body,
            Receiving::Tunnel => Waiting::Tunnel,
            Receiving::Complete | Receiving::TunnelEnd | Receiving::Dead => Waiting::Local,
        }
    }
    /// Set when the connection must be closed after the output has left. [`Close::Linger`] means that our side of a tunnel has ended before the server's: no event
    /// follows, so whoever relays ends the exchange with it.
    pub fn close(&self) -> Option<Close> {
        self.close
    }
    /// May go (back) to the pool: no exchange, both messages complete, nothing said `close`, not a byte too many.
    pub fn reusable(&self) -> bool {
        self.receiving == Receiving::Idle && !self.last
    }
    /// How many requests were begun on this connection.
    pub fn exchanges(&self) -> u32 {
        self.exchanges
    }
    /// A request was begun and its exchange is not over.
    pub fn is_busy(&self) -> bool {
        !matches!(self.receiving, Receiving::Idle | Receiving::Dead)
    }
    /// Bytes of memory that the connection holds beyond its own size.
    pub fn memory(&self) -> usize {
        let early = self.upgrade.as_ref().map_or(0, |u| u.early.capacity());
        self.out.capacity() + self.partial.capacity() + early
    }
}
