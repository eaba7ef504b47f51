//! The client's side of an exchange: its request, and its end.

use super::{
    Engine, heads,
    route::Decision,
    state::{Body, Exchange, Leg, Target},
};
use crate::{
    api::ConnKey,
    conn::{Codec, DOWN, ExKey, Meaning, Token},
    credit,
    exchange::{Action, Event, State, step},
    replay::MOST_PER_REQUEST,
};
use smallvec::SmallVec;
use std::time::Duration;
use weft_core::{
    cause::{Cause, Kind},
    retry,
};
use weft_http::{
    h2,
    head::{Head, Pseudo, pool},
    translate,
};

/// A client that shuts down its side so soon after its request has done so on purpose (a half-close) and waits for the answer; later it has left. TCP does not tell one from the
/// other: scripts that pipe a request into a socket end their input with it, clients that give up do so after a timeout.
const HALF_CLOSE: Duration = Duration::from_millis(50);

impl Engine {
    /// A request has arrived.
    pub(super) fn request(&mut self, conn: ConnKey, stream: Option<h2::StreamId>, mut head: Box<Head>, end: bool) {
        let now = self.now;
        let Some(down) = self.conn(conn).and_then(|c| c.down().cloned()) else { return pool::give(head) };
        let app_http2 = match &down.meaning {
            Meaning::App { .. } if down.meshed() => heads::app_http2(&head),
            _ => stream.is_some(),
        };
        // the codec has checked and normalised everything else
        let connect = stream.is_some() && head.method() == b"CONNECT" && head.pseudo(Pseudo::Protocol).is_none();
        heads::strip_request(&mut head);
        let generation = self.next_generation();
        let index = self.exchanges.vacant_key() as u32;
        let key = ExKey { index, generation };
        let token = Token { ex: key, leg: DOWN };
        let x = Exchange {
            key,
            state: State::New,
            leg: Some(Leg { conn, stream }),
            grpc: heads::is_grpc(&head),
            idempotent: retry::is_idempotent(head.method()),
            series: down.series.clone(),
            down,
            head_size: head.size(),
            head,
            body: self.new_body(end),
            target: Target::None,
            rule: None,
            requests: None,
            permit: None,
            backend: 0,
            attempt: None,
            attempts: 0,
            tried: SmallVec::new(),
            app_http2,
            tunnel: false,
            received: 0,
            left: 0,
            status: 0,
            cause: None,
            told: None,
            request_credit: None,
            response_credit: None,
            request_timer: None,
            timer: None,
            started: now,
            mirrors: SmallVec::new(),
            upstream: None,
        };
        self.heads += x.head_size;
        self.exchanges.insert(x);
        let Some(c) = self.conn(conn) else { return };
        match (&mut c.codec, stream) {
            (Codec::H2(h), Some(s)) => {
                h.set_token(s, token);
                if c.draining && !h.is_going_away() {
                    h.go_away_gracefully();
                }
            }
            _ => {
                if let Codec::Server(s) = &mut c.codec
                    && c.draining
                {
                    s.drain();
                }
                c.exchange = Some(token);
                (c.pending, c.in_flight) = (0, 0);
                if c.draining
                    && let Codec::Server(s) = &mut c.codec
                {
                    s.drain();
                }
            }
        }
        if connect {
            return self.refuse_bad(key, 501, "CONNECT is not offered".into());
        }
        match self.decide(key) {
            Ok(Decision::Go) => {
                self.count_request(key);
                let limit = self.config.limits.exchanges;
                if self.exchanges.len() > limit {
                    return self
                        .refuse(key, Cause::with(Kind::OverloadStreams, format!("{limit} requests are under way")));
                }
                if self.credit.refuses() {
                    return self.refuse(key, Kind::OverloadMemory.into());
                }
                if self.heads > self.config.limits.heads {
                    return self
                        .refuse(key, Cause::with(Kind::OverloadMemory, "too many bytes of request heads are kept"));
                }
                if let Some(x) = self.ex(key) {
                    x.state = step(x.state, Event::Start).0;
                }
                self.acquire(key);
            }
            Ok(Decision::Answer(head)) => {
                self.count_request(key);
                self.answer(key, head);
            }
            Err(cause) => {
                self.count_request(key);
                self.refuse(key, cause);
            }
        }
    }

    pub(super) fn new_body(&self, end: bool) -> Body {
        Body { replay: self.replay.record(), pending: Vec::new(), total: 0, released: 0, end, trailers: None }
    }
    fn count_request(&mut self, key: ExKey) {
        if let Some(x) = self.ex(key) {
            x.series.requests.add(1);
        }
    }
    fn refuse(&mut self, key: ExKey, cause: Cause) {
        if let Some(x) = self.ex(key) {
            x.state = step(x.state, Event::Refuse).0;
            self.respond(key, cause);
        }
    }
    /// The request itself is wrong; `status` is the codec's.
    pub(super) fn refuse_bad(&mut self, key: ExKey, status: u16, reason: String) {
        let kind = match status {
            431 => Kind::HeadTooLarge,
            414 => Kind::TargetTooLong,
            _ => Kind::BadRequest,
        };
        let Some(x) = self.ex(key) else { return };
        if x.state == State::New {
            x.series.requests.add(1);
        }
        x.state = State::Over;
        self.drop_attempt(key, false);
        self.respond_as(key, status, Cause::with(kind, reason));
    }

    /// A piece of the request's body. False: nobody wants it.
    pub(super) fn request_data(&mut self, token: Token, data: &[u8], end: bool) -> bool {
        let now = self.now;
        let Some(x) = self.exchanges.get_mut(token.ex.index as usize).filter(|x| x.key == token.ex) else {
            return false;
        };
        let n = data.len();
        if n > 0
            && let Some(Leg { stream: Some(_), .. }) = x.leg
        {
            let credit = match x.request_credit {
                Some(c) => Some(c),
                None => self.credit.open(token.ex, credit::start(x.down.wire), now).ok(),
            };
            x.request_credit = credit;
            match credit {
                Some(c) => {
                    if self.credit.received(c, n as u32, now).is_err() {
                        debug_assert!(false, "the codec lets nobody exceed a window");
                    }
                }
                None => {
                    // the memory of the process is spent: this one does not begin to hold any
                    self.shed(token.ex, Kind::OverloadMemory.into());
                    return false;
                }
            }
        }
        self.body_data(token.ex, data, end);
        true
    }

    /// The same for exchanges and mirrors: record, send on, feed the mirrors.
    pub(super) fn body_data(&mut self, key: ExKey, data: &[u8], end: bool) {
        let Some(x) = self.ex(key) else { return };
        x.body.total += data.len() as u64;
        x.body.end |= end;
        let sending = x.is_sending();
        let body = &mut x.body;
        if !data.is_empty() {
            if !body.pending.is_empty() || (!sending && body.replay.len() + data.len() > MOST_PER_REQUEST) {
                body.pending.extend_from_slice(data);
            } else if x.state == State::Streaming || x.state == State::HalfClosed {
                // committed: nothing is recorded any more
            } else if body.replay.is_whole() && !body.replay.push(data) && !sending {
                return self.shed(
                    key,
                    Cause::with(Kind::OverloadMemory, "no memory to keep the body until a connection is there"),
                );
            }
        }
        if end {
            body.replay.end();
        }
        if sending {
            self.send_data(key, data, end);
        }
        self.feed_mirrors(key, data, end);
        if end {
            self.request_end(key);
        }
        // an HTTP/1 client may have to pause
        if let Some(Leg { conn, stream: None }) = self.ex(key).and_then(|x| x.leg) {
            self.touch(conn);
        }
    }

    pub(super) fn request_trailers(&mut self, token: Token, mut head: Box<Head>) {
        if !translate::trailers(&mut head) {
            pool::give(head);
            self.body_data(token.ex, &[], true);
            return;
        }
        let Some(x) = self.ex(token.ex) else { return pool::give(head) };
        x.body.end = true;
        x.body.replay.end();
        let sending = x.is_sending();
        x.body.trailers = Some(head);
        if sending {
            self.send_end(token.ex);
        }
        self.feed_mirrors(token.ex, &[], true);
        self.request_end(token.ex);
    }

    fn request_end(&mut self, key: ExKey) {
        let Some(x) = self.ex(key) else { return };
        let (next, action) = step(x.state, Event::RequestEnd);
        x.state = next;
        if action == Action::Complete {
            self.drop_attempt(key, true);
            self.finish(key);
        }
    }

    /// The client shut down its side and is owed an answer, or has left.
    pub(super) fn client_half_closed(&mut self, conn: ConnKey, exchange: Option<Token>) {
        let now = self.now;
        let Some(t) = exchange else { return };
        let Some(x) = self.ex(t.ex) else { return };
        let soon = now.saturating_duration_since(x.started) <= HALF_CLOSE;
        // where an answer has begun the next write tells
        if !soon && x.status == 0 && !x.tunnel {
            self.client_gone(t.ex);
            self.close(conn, crate::api::CloseHow::Now);
        }
    }

    /// Nobody waits for the answer any more: the attempt is cancelled, nothing is retried (row 42).
    pub(super) fn client_gone(&mut self, key: ExKey) {
        let Some(x) = self.ex(key) else { return };
        let (next, action) = step(x.state, Event::ClientGone);
        if action == Action::Ignore {
            return;
        }
        x.state = next;
        if x.cause.is_none() && action == Action::Abandon {
            x.cause = Some(Kind::ClientGone.into());
        }
        self.drop_attempt(key, false);
        self.finish(key);
    }

    /// Takes an exchange out of the middle: memory, or the drain's deadline.
    pub(super) fn shed(&mut self, key: ExKey, cause: Cause) {
        let Some(x) = self.ex(key) else { return };
        let (next, action) = step(x.state, Event::Shed);
        x.state = next;
        match action {
            Action::Respond => {
                self.drop_attempt(key, false);
                self.respond(key, cause);
            }
            Action::Break => self.break_off(key, cause),
            _ => {}
        }
    }

    /// Bytes of the request have left for the upstream: the client may send as much again.
    pub(super) fn request_left(&mut self, token: Token, bytes: u64, end: bool) {
        let Some(x) = self.ex(token.ex) else { return };
        let Some(a) = x.attempt.as_mut().filter(|a| a.leg == token.leg) else { return };
        a.left += bytes;
        a.end_left |= end;
        self.credit_client(token.ex);
    }

    /// Grants what has left for the first time.
    pub(super) fn credit_client(&mut self, key: ExKey) {
        let now = self.now;
        let Some(x) = self.exchanges.get_mut(key.index as usize).filter(|x| x.key == key) else { return };
        let Some(a) = &x.attempt else { return };
        let n = a.left.saturating_sub(x.body.released);
        if n == 0 {
            return;
        }
        x.body.released += n;
        let Some(leg) = x.leg else { return };
        match (leg.stream, x.request_credit) {
            (Some(stream), Some(credit)) => {
                let grant = self.credit.passed(credit, n as u32, now);
                let Some(Codec::H2(h)) = self.conn(leg.conn).map(|c| &mut c.codec) else { return };
                h.release(stream, (grant as usize).min(n as usize));
                if u64::from(grant) > n {
                    h.grow_window(stream, grant - n as u32);
                }
                self.touch(leg.conn);
            }
            (Some(_), None) => {}
            (None, _) => self.touch(leg.conn),
        }
    }
}
