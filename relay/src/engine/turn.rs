//! Turns: bytes of one connection become events, and what they changed elsewhere is settled at the end.

use super::{Engine, response::Lost};
use crate::{
    api::{CloseHow, Command, ConnKey},
    conn::{Codec, DOWN, Phase, Role, Token, Watch},
};
use weft_core::cause::{Cause, Kind};
use weft_http::{h1, h2, head::pool};

/// What a codec said, with the borrow of the codec over.
enum Said<'i> {
    Server(h1::Event<'i>),
    Client(h1::Event<'i>),
    H2(h2::Event<'i, Token>),
    Nothing,
    BadRequest(h1::ParseError),
    BadResponse(h1::ParseError),
    BadConnection(h2::ConnectionError),
}

impl Engine {
    /// Takes bytes in.
    pub(super) fn feed(&mut self, key: ConnKey, mut bytes: &[u8]) {
        let now = self.now;
        if let Some(c) = self.conn(key) {
            c.heard = now;
        }
        self.touch(key);
        loop {
            let Some(c) = self.conn(key).filter(|c| c.phase == Phase::Open) else { return };
            let said = match &mut c.codec {
                Codec::Server(s) => match s.next(&mut bytes) {
                    Ok(Some(e)) => Said::Server(e),
                    Ok(None) => Said::Nothing,
                    Err(e) => Said::BadRequest(e),
                },
                Codec::Client(s) => match s.next(&mut bytes) {
                    Ok(Some(e)) => Said::Client(e),
                    Ok(None) => Said::Nothing,
                    Err(e) => Said::BadResponse(e),
                },
                Codec::H2(h) => match h.next(&mut bytes, now) {
                    Ok(Some(e)) => Said::H2(e),
                    Ok(None) => Said::Nothing,
                    Err(e) => Said::BadConnection(e),
                },
            };
            match said {
                Said::Nothing => return,
                Said::Server(e) => self.server_event(key, e),
                Said::Client(e) => self.client_event(key, e),
                Said::H2(e) => {
                    // reads rarely end where frames do: only a frame that brings nothing is a slow one
                    if let Some(c) = self.conn(key)
                        && c.watch == Watch::Head
                    {
                        c.since = now;
                    }
                    self.h2_event(key, e);
                }
                Said::BadRequest(e) => return self.bad_request(key, e),
                Said::BadResponse(e) => return self.client_failed(key, e),
                Said::BadConnection(e) => return self.h2_failed(key, e),
            }
        }
    }

    fn server_event(&mut self, key: ConnKey, event: h1::Event<'_>) {
        let token = self.conn(key).and_then(|c| c.exchange);
        match event {
            h1::Event::Request { head, end, .. } => self.request(key, None, head, end),
            h1::Event::Data { data, end } => {
                if let Some(t) = token {
                    self.request_data(t, data, end);
                }
            }
            h1::Event::Trailers { head } => match token {
                Some(t) => self.request_trailers(t, head),
                None => pool::give(head),
            },
            h1::Event::Response { head, .. } => pool::give(head),
        }
    }

    fn client_event(&mut self, key: ConnKey, event: h1::Event<'_>) {
        let Some(token) = self.conn(key).and_then(|c| c.exchange) else {
            if let h1::Event::Response { head, .. } | h1::Event::Trailers { head } = event {
                pool::give(head);
            }
            return;
        };
        match event {
            h1::Event::Response { head, end, upgraded } => self.response(token, head, end, upgraded),
            h1::Event::Data { data, end } => {
                self.response_data(token, data, end);
            }
            h1::Event::Trailers { head } => self.response_trailers(token, head),
            h1::Event::Request { head, .. } => pool::give(head),
        }
    }

    fn h2_event(&mut self, key: ConnKey, event: h2::Event<'_, Token>) {
        match event {
            h2::Event::Request { stream, head, end } => self.request(key, Some(stream), head, end),
            h2::Event::TooLarge { stream, end } => self.too_large(key, stream, end),
            h2::Event::Response { token, head, end, .. } => self.response(token, head, end, false),
            h2::Event::Data { stream, token, data, end } => {
                let live = if token.leg == DOWN {
                    self.request_data(token, data, end)
                } else {
                    self.response_data(token, data, end)
                };
                // nobody is left to pass it on to: only the books of the codec remain
                if !live && let Some(Codec::H2(h)) = self.conn(key).map(|c| &mut c.codec) {
                    h.release(stream, data.len());
                }
            }
            h2::Event::Trailers { token, head, .. } => {
                if token.leg == DOWN {
                    self.request_trailers(token, head);
                } else {
                    self.response_trailers(token, head);
                }
            }
            h2::Event::Reset { token, code, cause, .. } => {
                if token.leg == DOWN {
                    self.client_gone(token.ex);
                } else {
                    let cause = match cause {
                        c if c.unprocessed(code) => Lost {
                            cause: Cause::with(Kind::Refused, code.to_string()),
                            reused: false,
                            at_once: c == h2::Cause::GoAway,
                        },
                        h2::Cause::Violation(reason) => Lost::of(Cause::with(Kind::BadResponse, reason.to_string())),
                        _ => Lost::of(Cause::with(Kind::ResetBeforeResponse, format!("stream reset with {code}"))),
                    };
                    self.stream_lost(token, cause);
                }
            }
            h2::Event::Sent { token, bytes, end, .. } => {
                if token.leg == DOWN {
                    self.response_left(token.ex, u64::from(bytes), end);
                } else {
                    self.request_left(token, u64::from(bytes), end);
                }
            }
            h2::Event::GoAway { .. } => self.peer_leaves(key),
            h2::Event::Room | h2::Event::Settings => self.more_room(key),
            h2::Event::Pong { .. } => {}
        }
    }

    /// A client's bytes make no sense: what has begun is over, what has not gets the codec's status, and the connection closes.
    fn bad_request(&mut self, key: ConnKey, e: h1::ParseError) {
        // a client that leaves in the middle has broken no rule
        let closed = matches!(e.reason, h1::Reason::ClosedInBody | h1::Reason::ClosedInHead);
        if !closed {
            self.totals.protocol_errors.add(1);
        }
        self.touch(key);
        let token = self.conn(key).and_then(|c| c.exchange);
        if let Some(t) = token
            && let Some(x) = self.ex(t.ex)
        {
            if x.status != 0 || closed {
                x.cause = Some(Cause::with(if closed { Kind::ClientGone } else { Kind::BadRequest }, e.to_string()));
                self.client_gone(t.ex);
            } else {
                self.refuse_bad(t.ex, e.status, e.to_string());
            }
        }
        let Some(c) = self.conn(key) else { return };
        let Codec::Server(s) = &mut c.codec else { return };
        if closed {
            return s.abort();
        }
        if token.is_none() && s.can_respond() {
            let mut head = pool::take();
            super::respond::plain_head(&mut head, e.status, "bad_request", &e.to_string());
            // an answer that cannot be sent is followed by a close all the same
            let _ = s.send_head(&head, true);
            pool::give(head);
        }
    }

    fn too_large(&mut self, key: ConnKey, stream: h2::StreamId, end: bool) {
        let Some(Codec::H2(h)) = self.conn(key).map(|c| &mut c.codec) else { return };
        let mut head = pool::take();
        let kind = Kind::HeadTooLarge;
        super::respond::plain_head(&mut head, kind.status(), kind.label(), kind.text());
        if h.send_head(stream, &head, true).is_ok() && !end {
            h.discard(stream);
        }
        pool::give(head);
    }

    /// An HTTP/2 connection has failed: GOAWAY is in its output, its streams are over.
    fn h2_failed(&mut self, key: ConnKey, e: h2::ConnectionError) {
        self.totals.protocol_errors.add(1);
        self.fail_streams(key, Lost::of(Cause::with(Kind::BadResponse, e.to_string())));
        if let Some(c) = self.conn(key)
            && matches!(c.role, Role::Up(_))
        {
            self.pool_lost(key);
        }
        self.close(key, CloseHow::Linger(h1::Config::default().linger));
    }

    /// Ends every stream of a connection that is gone.
    pub(super) fn fail_streams(&mut self, key: ConnKey, lost: Lost) {
        while let Some(Codec::H2(h)) = self.conn(key).map(|c| &mut c.codec) {
            let Some((_, token)) = h.take_stream() else { break };
            if token.leg == DOWN {
                self.client_gone(token.ex);
            } else {
                if let Some(a) = self.ex(token.ex).and_then(|x| x.attempt.as_mut())
                    && a.leg == token.leg
                {
                    (a.conn, a.stream) = (None, None);
                }
                self.stream_lost(token, lost.clone());
            }
        }
    }

    /// The peer has shut down its side.
    pub(super) fn ended(&mut self, key: ConnKey) {
        let Some(c) = self.conn(key).filter(|c| c.phase == Phase::Open) else { return };
        if c.eof {
            return;
        }
        c.eof = true;
        let busy = c.exchange;
        self.touch(key);
        let Some(c) = self.conn(key) else { return };
        match &mut c.codec {
            Codec::Server(s) => match s.eof() {
                Ok(Some(e)) => self.server_event(key, e),
                Ok(None) => self.client_half_closed(key, busy),
                Err(e) => self.bad_request(key, e),
            },
            Codec::Client(s) => match s.eof() {
                Ok(Some(e)) => self.client_event(key, e),
                Ok(None) => {}
                Err(e) => self.client_failed(key, e),
            },
            // there are no half-closed connections in HTTP/2
            Codec::H2(_) => {
                let up = matches!(c.role, Role::Up(_));
                self.fail_streams(key, Lost::of(Kind::ResetBeforeResponse.into()));
                if up {
                    self.pool_lost(key);
                }
                self.close(key, CloseHow::Now);
            }
        }
    }

    /// The connection is gone.
    pub(super) fn lose(&mut self, key: ConnKey, cause: Cause) {
        let Some(c) = self.conn(key) else { return };
        if c.phase == Phase::Dialing {
            return self.dial_lost(key, crate::api::DialError::Other(cause.to_string().into()));
        }
        let open = c.phase == Phase::Open;
        c.phase = Phase::Closing;
        let token = c.exchange.take();
        let reused = matches!(&c.codec, Codec::Client(s) if s.exchanges() > 1);
        let up = matches!(c.role, Role::Up(_));
        if up {
            self.pool_lost(key);
        }
        if open {
            match token {
                Some(t) if t.leg == DOWN => self.client_gone(t.ex),
                Some(t) => {
                    if let Some(a) = self.ex(t.ex).and_then(|x| x.attempt.as_mut())
                        && a.leg == t.leg
                    {
                        a.conn = None;
                    }
                    self.stream_lost(t, Lost { cause: cause.clone(), reused, at_once: reused });
                }
                None => {}
            }
            self.fail_streams(key, Lost::of(cause));
        }
        self.forget(key);
    }

    /// The last output has left.
    pub(super) fn left(&mut self, key: ConnKey) {
        let now = self.now;
        let Some(c) = self.conn(key) else { return };
        if c.writing.take().is_none() {
            return;
        }
        let unblocked = std::mem::take(&mut c.blocked);
        if c.watch == Watch::HalfClosed {
            c.since = now;
        }
        let bytes = u64::from(std::mem::take(&mut c.in_flight));
        let token = c.exchange;
        c.codec.output_taken();
        if let Codec::H2(_) = c.codec {
            while let Some(Codec::H2(h)) = self.conn(key).map(|c| &mut c.codec) {
                let Some(e) = h.poll() else { break };
                self.h2_event(key, e);
            }
        } else if bytes > 0
            && let Some(t) = token
        {
            if t.leg == DOWN {
                self.response_left(t.ex, bytes, false);
            } else {
                self.request_left(t, bytes, false);
            }
        }
        if unblocked {
            self.pool.progressed(key);
            self.serve_waiters(key);
        }
        self.touch(key);
    }

    /// The end of a turn: every connection that was touched is brought to rest.
    pub(super) fn settle(&mut self) {
        while let Some(key) = self.touched.pop() {
            if let Some(c) = self.conn(key) {
                c.touched = false;
            }
            self.settle_one(key);
        }
        // the memory of the process is spent: the largest stalled holder pays
        if let Some(key) = self.credit.victim(self.now) {
            self.totals.limits.add("memory", 1);
            self.shed(key, Kind::OverloadMemory.into());
            return self.settle();
        }
        self.current = None;
    }

    fn settle_one(&mut self, key: ConnKey) {
        self.take_up_held(key);
        let current = self.current == Some(key);
        let Some(c) = self.conn(key) else { return };
        let was_paused = c.paused;
        if !c.codec.is_h2() {
            let paused = self.is_blocked(key);
            let Some(c) = self.conn(key) else { return };
            c.paused = paused;
        }
        let Some(c) = self.conn(key) else { return };
        let resumed = was_paused && !c.paused;
        let close = match (&c.codec, c.phase) {
            (_, Phase::Dialing | Phase::Closing) => None,
            (Codec::Server(s), _) => s.close().map(|how| match how {
                h1::Close::Now => CloseHow::Now,
                h1::Close::Linger => CloseHow::Linger(s.config().linger),
                h1::Close::Reset => CloseHow::Reset,
            }),
            // while it has an exchange, that decides
            (Codec::Client(s), _) => (s.close().is_some() && c.exchange.is_none()).then_some(CloseHow::Now),
            // a client's last WINDOW_UPDATEs may be unread: closing on them would reset the connection and lose the end of its responses
            (Codec::H2(h), _) => h.is_finished().then_some(match c.role {
                Role::Down(_) => CloseHow::Linger(h1::Config::default().linger),
                _ => CloseHow::Now,
            }),
        };
        if let Some(how) = close {
            // what of it is not over now will never be: half of a tunnel, for one
            let token = c.exchange;
            if let Some(t) = token.filter(|t| t.leg == DOWN) {
                self.client_gone(t.ex);
            }
            let Some(c) = self.conn(key) else { return };
            if matches!(c.role, Role::Up(_)) {
                self.pool_lost(key);
            }
            return self.close(key, how);
        }
        // while the rim has bytes it comes back for more by itself
        let wakes = resumed || (c.writing.is_none() && !c.codec.output().is_empty());
        if wakes && !current && !c.woken && c.phase != Phase::Dialing {
            c.woken = true;
            self.commands.push_back(Command::Wake(key));
        }
        self.watch(key);
    }

    /// Pipelined requests whose turn has come, and early data of an upgrade.
    fn take_up_held(&mut self, key: ConnKey) {
        loop {
            let Some(c) = self.conn(key).filter(|c| c.phase == Phase::Open) else { return };
            let Codec::Server(s) = &mut c.codec else { return };
            let Some(held) = s.take_held() else { return };
            let eof = c.eof;
            self.feed(key, &held);
            let Some(c) = self.conn(key) else { return };
            let Codec::Server(s) = &mut c.codec else { return };
            s.recycle(held);
            if eof && s.close().is_none() {
                // what was held has been taken in: only now the end counts
                match s.eof() {
                    Ok(Some(e)) => self.server_event(key, e),
                    Ok(None) => {}
                    Err(e) => self.bad_request(key, e),
                }
            }
        }
    }

    /// HTTP/1: too much of what was read from it has not been passed on.
    fn is_blocked(&mut self, key: ConnKey) -> bool {
        let Some(token) = self.conn(key).and_then(|c| c.exchange) else { return false };
        // as much as an HTTP/2 stream may send unasked
        const MOST: u64 = 64 * 1024;
        let Some(x) = self.ex(token.ex) else { return false };
        if token.leg == DOWN {
            let way = x.body.total - x.body.released;
            way >= MOST || (way > 0 && !x.is_sending())
        } else {
            !x.is_mirror() && x.received - x.left >= MOST
        }
    }
}
