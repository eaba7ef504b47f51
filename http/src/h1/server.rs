//! The downstream side: requests in, responses out.
//!
//! Two halves, receiving and sending, each a small state machine. The exchange is over when both are; then the next request may be parsed. Whatever
//! arrives in between is held.

use super::body::{Decoder, Step};
use super::encode::{self, Encoder};
use super::{Close, Config, Event, ParseError, Reason, RequestInfo, SendError, UPGRADE_IGNORED, Waiting, parse, spare};
use crate::head::{Head, Pseudo};
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receiving {
    /// Between requests, or in the middle of a head (then `partial` has its bytes).
    Head,
    Body(Decoder),
    /// The request is complete; more bytes are held.
    Complete,
    /// An upgrade was asked for and not answered: bytes are neither a request nor the other protocol's yet.
    Upgrading,
    Tunnel,
    /// The tunnel's data has ended.
    TunnelEnd,
    /// Nothing is understood any more.
    Dead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    /// No request.
    Idle,
    /// The final head is due.
    Head,
    Body(Encoder),
    Tunnel,
    Complete,
    Dead,
}

/// What only upgrades need, so that other connections do not carry it.
#[derive(Debug)]
struct Upgrade {
    protocol: Box<[u8]>,
    /// `Sec-WebSocket-Key`, for an answer that comes from HTTP/2 without `Sec-WebSocket-Accept`.
    key: Option<Box<[u8]>>,
}

/// A connection that a client opened. See the module's documentation for how to drive it.
#[derive(Debug)]
pub struct Server {
    config: Arc<Config>,
    out: Vec<u8>,
    /// A head or trailer section that has arrived in part.
    partial: Vec<u8>,
    /// Bytes behind an unfinished exchange.
    held: Vec<u8>,
    receiving: Receiving,
    sending: Sending,
    info: RequestInfo,
    is_head: bool,
    /// A byte of the body has come, or we have said 100: the client will send it.
    body_expected: bool,
    /// The response is over, the request's body is not: so many bytes of it may still be dropped before it is too much.
    discard: Option<usize>,
    upgrade: Option<Box<Upgrade>>,
    eof: bool,
    /// The connection ends with this exchange.
    last: bool,
    draining: bool,
    close: Option<Close>,
    exchanges: u32,
}

/// Held bytes beyond this are an error: the caller did not heed `wants_read`. Four reads of the largest size.
const HARD_HELD: usize = 256 * 1024;

impl Server {
    pub fn new(config: Arc<Config>) -> Self {
        Server {
            config,
            out: Vec::new(),
            partial: Vec::new(),
            held: Vec::new(),
            receiving: Receiving::Head,
            sending: Sending::Idle,
            info: RequestInfo::default(),
            is_head: false,
            body_expected: false,
            discard: None,
            upgrade: None,
            eof: false,
            last: false,
            draining: false,
            close: None,
            exchanges: 0,
        }
    }
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// The next event; `None` when all input is consumed. After an error the codec discards everything, but a response can be sent if
    /// none was begun (RFC 9112, 9.6: it closes the connection).
    pub fn next<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<Event<'i>>, ParseError> {
        let r = loop {
            match self.advance(input) {
                // the body that nobody waits for any more
                Ok(Some(Event::Data { data, .. })) if self.discard.is_some_and(|left| left < data.len()) => {
                    self.shut(Close::Linger);
                }
                Ok(Some(Event::Data { data, end: false })) if self.discard.is_some() => {
                    self.discard = self.discard.map(|left| left - data.len());
                }
                Ok(Some(Event::Data { end: true, .. } | Event::Trailers { .. })) if self.discard.is_some() => {
                    self.discard = None;
                    self.settle();
                }
                r => break r,
            }
        };
        if r.is_err() {
            *input = &[];
        }
        r
    }

    fn advance<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<Event<'i>>, ParseError> {
        if !self.held.is_empty() && self.receiving != Receiving::Dead {
            return self.hold(input);
        }
        match self.receiving {
            Receiving::Head if !input.is_empty() => self.head(input),
            Receiving::Body(mut decoder) if !input.is_empty() => {
                self.body_expected = true;
                let step = decoder.step(input, &mut self.partial, &self.config);
                self.receiving = if decoder.is_done() { Receiving::Complete } else { Receiving::Body(decoder) };
                match step.map_err(|r| self.fail(r))? {
                    Step::More => self.at_end(),
                    Step::Data(data, end) => Ok(Some(Event::Data { data, end })),
                    Step::Trailers(head) => Ok(Some(Event::Trailers { head })),
                }
            }
            Receiving::Complete | Receiving::Upgrading if !input.is_empty() => self.hold(input),
            Receiving::Tunnel if !input.is_empty() => Ok(Some(Event::Data { data: std::mem::take(input), end: false })),
            Receiving::TunnelEnd | Receiving::Dead => {
                *input = &[];
                Ok(None)
            }
            _ => self.at_end(),
        }
    }

    fn head<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<Event<'i>>, ParseError> {
        if self.partial.is_empty() {
            return match parse::request(input, &self.config).map_err(|r| self.fail(r))? {
                Some(request) => {
                    *input = &input[request.len..];
                    Ok(Some(self.begin(request)))
                }
                None => {
                    parse::append(&mut self.partial, input, self.config.max_head + 3);
                    *input = &[];
                    self.at_end()
                }
            };
        }
        let before = self.partial.len();
        // an empty line may be before the head, and one byte more proves that it is too large
        let most = self.config.max_head + 3;
        let n = input.len().min(most - before);
        parse::append(&mut self.partial, &input[..n], most);
        if parse::worth_it(&self.partial, before)
            || parse::line_limit_passed(&self.partial, before, &self.config)
            || self.partial.len() == most
        {
            let parsed = parse::request(&self.partial, &self.config).map_err(|r| self.fail(r))?;
            if let Some(request) = parsed {
                *input = &input[request.len - before..];
                self.partial.clear();
                spare::release(&mut self.partial);
                return Ok(Some(self.begin(request)));
            }
        }
        *input = &input[n..];
        self.at_end()
    }

    fn begin<'i>(&mut self, request: parse::Request) -> Event<'i> {
        let parse::Request { head, framing, info, is_head, .. } = request;
        self.exchanges = self.exchanges.saturating_add(1);
        self.info = info;
        self.is_head = is_head;
        self.body_expected = false;
        self.last = !info.keep_alive || self.draining;
        self.sending = Sending::Head;
        let decoder = Decoder::new(framing);
        self.receiving = if info.upgrade {
            let key = head.get(b"sec-websocket-key").filter(|k| k.len() <= 64);
            let protocol = head.pseudo(Pseudo::Protocol).unwrap_or_default();
            self.upgrade = Some(Box::new(Upgrade { protocol: protocol.into(), key: key.map(Into::into) }));
            Receiving::Upgrading
        } else if decoder.is_done() {
            Receiving::Complete
        } else {
            Receiving::Body(decoder)
        };
        Event::Request { head, end: self.receiving == Receiving::Complete, info }
    }

    /// Keeps input for later.
    fn hold<'i>(&mut self, input: &mut &[u8]) -> Result<Option<Event<'i>>, ParseError> {
        if self.held.len() + input.len() > HARD_HELD {
            return Err(self.fail(Reason::Pipelined));
        }
        spare::ensure_small(&mut self.held);
        self.held.extend_from_slice(input);
        *input = &[];
        Ok(None)
    }

    /// The input is consumed: nothing more to say, unless the client has shut down.
    fn at_end<'i>(&mut self) -> Result<Option<Event<'i>>, ParseError> {
        if !self.eof {
            return Ok(None);
        }
        match self.receiving {
            Receiving::Head if self.partial.is_empty() || self.partial == b"\r\n" || self.partial == b"\r" => {
                self.shut(Close::Now);
                Ok(None)
            }
            Receiving::Head => {
                let reason = parse::request(&self.partial, &self.config).err();
                Err(self.fail(reason.unwrap_or(Reason::ClosedInHead)))
            }
            Receiving::Body(_) if self.discard.is_some() => {
                self.shut(Close::Now);
                Ok(None)
            }
            Receiving::Body(_) => Err(self.fail(Reason::ClosedInBody)),
            Receiving::Tunnel => {
                self.receiving = Receiving::TunnelEnd;
                self.settle();
                Ok(Some(Event::Data { data: &[], end: true }))
            }
            Receiving::Complete | Receiving::Upgrading | Receiving::TunnelEnd | Receiving::Dead => Ok(None),
        }
    }

    /// The client has shut down its side (a connection that was lost, by a reset or a timeout, is [`abort`](Self::abort)ed instead). During a response that is a half-close: the answer is still sent. `Some`: the end of a tunnel's data.
    pub fn eof(&mut self) -> Result<Option<Event<'static>>, ParseError> {
        self.eof = true;
        if self.held.is_empty() { self.at_end() } else { Ok(None) }
    }

    /// Bytes held back that can be parsed now, because the exchange before them is over (or the tunnel is open). Hand them to `next`, then `recycle` them.
    pub fn take_held(&mut self) -> Option<Vec<u8>> {
        match self.receiving {
            Receiving::Head | Receiving::Tunnel if !self.held.is_empty() => Some(std::mem::take(&mut self.held)),
            // the client shut down before the switch: `next` tells the end of the tunnel's data
            Receiving::Tunnel if self.eof => Some(Vec::new()),
            _ => None,
        }
    }
    pub fn recycle(&mut self, held: Vec<u8>) {
        spare::give(held);
    }
    /// False while enough is held: the peer is not to be read.
    pub fn wants_read(&self) -> bool {
        self.held.len() < self.config.max_held && !self.eof && self.close.is_none()
    }

    /// An interim response (100..199 but 101, `end` false) or the final one. 2xx to an upgrade request switches protocols and is written as 101,
    /// unless the head has [`UPGRADE_IGNORED`].
    pub fn send_head(&mut self, head: &Head, end: bool) -> Result<(), SendError> {
        // a request that could not be parsed gets its answer, too
        let unparsed = self.receiving == Receiving::Dead && self.sending == Sending::Idle && self.close.is_none();
        if self.sending != Sending::Head && !unparsed {
            return Err(SendError::State);
        }
        spare::ensure(&mut self.out);
        let start = self.out.len();
        let sent = match head.status {
            100 | 102..200 => self.interim(head),
            200..300 if self.receiving == Receiving::Upgrading && head.get(UPGRADE_IGNORED).is_none() => {
                self.switch(head, end)
            }
            200..1000 => self.final_head(head, end),
            _ => Err(SendError::State),
        };
        if sent.is_err() {
            self.out.truncate(start);
            return sent;
        }
        self.settle();
        Ok(())
    }

    fn interim(&mut self, head: &Head) -> Result<(), SendError> {
        if self.info.http10 || self.sending != Sending::Head {
            return Ok(()); // RFC 9110, 15.2
        }
        self.body_expected |= head.status == 100;
        encode::status_line(&mut self.out, head.status);
        encode::fields(&mut self.out, head, None, false)?;
        self.out.extend_from_slice(b"\r\n");
        Ok(())
    }

    fn switch(&mut self, head: &Head, end: bool) -> Result<(), SendError> {
        let Some(upgrade) = self.upgrade.take() else { return Err(SendError::State) };
        encode::status_line(&mut self.out, 101);
        self.out.extend_from_slice(b"connection: upgrade\r\n");
        encode::raw_line(&mut self.out, b"upgrade", &upgrade.protocol);
        if let Some(key) = &upgrade.key
            && *upgrade.protocol == *b"websocket"
            && head.get(b"sec-websocket-accept").is_none()
        {
            encode::raw_line(&mut self.out, b"sec-websocket-accept", &super::websocket::accept(key));
        }
        if let Err(e) = encode::fields(&mut self.out, head, None, false) {
            self.upgrade = Some(upgrade);
            return Err(e);
        }
        self.out.extend_from_slice(b"\r\n");
        self.receiving = Receiving::Tunnel;
        self.sending = if end { Sending::Complete } else { Sending::Tunnel };
        self.last = true;
        Ok(())
    }

    fn final_head(&mut self, head: &Head, end: bool) -> Result<(), SendError> {
        let status = head.status;
        let declared = encode::content_length(head)?;
        let (encoder, length) = if self.is_head || status == 304 {
            (Encoder::Nothing, declared)
        } else if status == 204 {
            (Encoder::Nothing, None)
        } else if status == 205 {
            (Encoder::Nothing, Some(0))
        } else if let Some(n) = declared {
            if end && n > 0 {
                return Err(SendError::TooShort);
            }
            (Encoder::Length(n), Some(n))
        } else if end {
            (Encoder::Length(0), Some(0))
        } else if self.info.http10 {
            (Encoder::UntilClose, None)
        } else {
            (Encoder::Chunked, None)
        };
        let unfinished = matches!(self.receiving, Receiving::Body(_));
        let last = self.last
            || self.draining
            || encoder == Encoder::UntilClose
            || (self.eof && self.held.is_empty())
            // bytes that may belong to the other protocol are never parsed as a request
            || (self.receiving == Receiving::Upgrading && !self.held.is_empty())
            || self.receiving == Receiving::Dead
            // the client will not send the body now, or will send it against our will
            || (unfinished && self.info.expect_continue && !self.body_expected)
            || (end && !self.discardable());
        encode::status_line(&mut self.out, status);
        encode::fields(&mut self.out, head, length, false)?;
        if encoder == Encoder::Chunked {
            self.out.extend_from_slice(b"transfer-encoding: chunked\r\n");
        }
        if last {
            self.out.extend_from_slice(b"connection: close\r\n");
        } else if self.info.http10 {
            self.out.extend_from_slice(b"connection: keep-alive\r\n");
        }
        self.out.extend_from_slice(b"\r\n");
        self.last = last;
        if self.receiving == Receiving::Upgrading {
            self.upgrade = None;
            self.receiving = Receiving::Complete;
        }
        self.sending = if end { Sending::Complete } else { Sending::Body(encoder) };
        Ok(())
    }

    /// A piece of the response's body. Dropped without an error when the message has none (HEAD, 204, 304).
    pub fn send_data(&mut self, data: &[u8], end: bool) -> Result<(), SendError> {
        spare::ensure(&mut self.out);
        match &mut self.sending {
            Sending::Body(encoder) => {
                encoder.data(&mut self.out, data, end).inspect_err(|_| self.abort())?;
            }
            Sending::Tunnel => self.out.extend_from_slice(data),
            _ => return Err(SendError::State),
        }
        if end {
            self.sending = Sending::Complete;
            self.settle();
        }
        Ok(())
    }

    /// Ends the response. Trailers are dropped when the client cannot take them: it did not say `TE: trailers` (RFC 9110, 6.5.1), or the body is not chunked.
    pub fn send_trailers(&mut self, trailers: &Head) -> Result<(), SendError> {
        spare::ensure(&mut self.out);
        match &mut self.sending {
            Sending::Body(encoder) => {
                let wanted = self.info.te_trailers.then_some(trailers);
                encoder.trailers(&mut self.out, wanted).inspect_err(|_| self.abort())?;
            }
            Sending::Tunnel => {}
            _ => return Err(SendError::State),
        }
        self.sending = Sending::Complete;
        self.settle();
        Ok(())
    }

    /// The response cannot be completed: nothing more is sent, the connection closes without a proper end of the message.
    pub fn abort(&mut self) {
        // with neither length nor chunks only a reset shows that the body is not complete
        let bare = matches!(self.sending, Sending::Body(Encoder::UntilClose));
        self.shut(if bare { Close::Reset } else { Close::Now });
    }

    /// The next response head says `Connection: close`; an idle connection closes at once.
    pub fn drain(&mut self) {
        self.draining = true;
        if self.waiting() == Waiting::Idle {
            self.shut(Close::Now);
        }
    }

    /// What is left of the request's body, if anything, is little.
    fn discardable(&self) -> bool {
        match self.receiving {
            Receiving::Body(decoder) => decoder.left().is_none_or(|left| left <= self.config.max_discard as u64),
            _ => true,
        }
    }

    /// Goes on to the next exchange, or closes, when both halves are complete.
    fn settle(&mut self) {
        if self.sending != Sending::Complete {
            return;
        }
        match self.receiving {
            Receiving::Body(_) if !self.last && !self.eof && self.discardable() => {
                self.discard = Some(self.config.max_discard);
            }
            Receiving::Complete if !(self.last || self.eof && self.held.is_empty()) => {
                self.receiving = Receiving::Head;
                self.sending = Sending::Idle;
            }
            // the client asked for it, or has shut down: it sends nothing more
            Receiving::Complete if self.held.is_empty() && (self.eof || !self.info.keep_alive) => self.shut(Close::Now),
            Receiving::TunnelEnd => self.shut(Close::Now),
            Receiving::Head | Receiving::Complete | Receiving::Body(_) | Receiving::Upgrading => {
                self.shut(Close::Linger)
            }
            Receiving::Tunnel | Receiving::Dead => self.shut(Close::Linger),
        }
    }

    fn shut(&mut self, how: Close) {
        self.receiving = Receiving::Dead;
        self.sending = Sending::Dead;
        self.close.get_or_insert(how);
        self.partial.clear();
        self.held.clear();
        spare::release(&mut self.partial);
        spare::release(&mut self.held);
        self.upgrade = None;
    }

    /// The client's bytes make no sense: nothing more is read. A response that was not begun may still be sent, one that was is cut off.
    fn fail(&mut self, reason: Reason) -> ParseError {
        match self.sending {
            Sending::Idle | Sending::Head => self.stop_reading(),
            _ => self.abort(),
        }
        reason.by_client()
    }

    /// What comes is not parsed any more. A response can be sent (408, for one), also when no request has been read, and closes the connection.
    pub fn stop_reading(&mut self) {
        if self.close.is_some() {
            return;
        }
        if self.sending == Sending::Idle {
            (self.info, self.is_head) = (RequestInfo::default(), false);
        }
        self.receiving = Receiving::Dead;
        self.last = true;
        self.partial.clear();
        self.held.clear();
        spare::release(&mut self.partial);
        spare::release(&mut self.held);
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
            Receiving::Head if self.partial.is_empty() && self.held.is_empty() => Waiting::Idle,
            Receiving::Head => Waiting::Head,
            Receiving::Body(_) => Waiting::Body,
            Receiving::Tunnel => Waiting::Tunnel,
            Receiving::Complete | Receiving::Upgrading | Receiving::TunnelEnd | Receiving::Dead => Waiting::Local,
        }
    }
    /// Set when the connection must be closed after the output has left.
    pub fn close(&self) -> Option<Close> {
        self.close
    }
    /// A request was given out and its exchange is not over.
    pub fn is_busy(&self) -> bool {
        !matches!(self.sending, Sending::Idle | Sending::Dead) && self.discard.is_none()
    }
    /// A response can still be sent to the current request, or to the bytes that could not be understood as one.
    pub fn can_respond(&self) -> bool {
        match self.sending {
            Sending::Head => true,
            Sending::Idle => self.receiving == Receiving::Dead,
            _ => false,
        }
    }
    /// The client has shut down its side.
    pub fn half_closed(&self) -> bool {
        self.eof
    }
    /// Requests so far.
    pub fn exchanges(&self) -> u32 {
        self.exchanges
    }
    /// Bytes of memory that the connection holds beyond its own size.
    pub fn memory(&self) -> usize {
        self.out.capacity() + self.partial.capacity() + self.held.capacity()
    }
}
