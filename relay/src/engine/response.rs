//! The upstream's side of an exchange: its response, and its loss.

use super::{Engine, heads, state::Leg};
use crate::{
    api::{ConnKey, Wire},
    balance,
    conn::{Codec, ExKey, Token},
    credit,
    exchange::{Action, Event, State, step},
    outlier::Verdict,
};
use weft_core::{
    cause::{Cause, Kind, UNPROCESSED},
    cors,
    retry::Outcome,
};
use weft_http::{
    h1, h2,
    head::{Head, Known, Pseudo, pool},
    translate,
};

/// How an attempt was lost.
#[derive(Clone, Debug)]
pub(super) struct Lost {
    pub cause: Cause,
    /// On a connection that had served before, and without a byte of a response: it may have been closed while it was idle.
    pub reused: bool,
    /// A retry needs no pause: the peer is not in trouble.
    pub at_once: bool,
}
impl Lost {
    pub fn of(cause: Cause) -> Self {
        Lost { cause, reused: false, at_once: false }
    }
    pub fn at_once(cause: Cause) -> Self {
        Lost { cause, reused: false, at_once: true }
    }
}

impl Engine {
    /// A response head, interim or final. `upgraded`: an HTTP/1 upstream has switched.
    pub(super) fn response(&mut self, token: Token, head: Box<Head>, end: bool, upgraded: bool) {
        let now = self.now;
        let key = token.ex;
        let Some(x) = self.ex(key).filter(|x| x.attempt.as_ref().is_some_and(|a| a.leg == token.leg)) else {
            return pool::give(head);
        };
        let Some(a) = &mut x.attempt else { return };
        let (wire, grpc) = (a.wire, x.grpc);
        if head.status < 200 {
            return self.interim(key, head);
        }
        a.response_over = end;
        let mesh = wire == Wire::Mesh;
        if mesh && let Some(text) = head.known(Known::WeftError).and_then(|e| e.strip_prefix(UNPROCESSED.as_bytes())) {
            let text = String::from_utf8_lossy(text).into_owned();
            a.outcome = Some(balance::Outcome::Broken);
            pool::give(head);
            return self.attempt_failed(key, Lost::of(Cause::with(Kind::Unprocessed, text)));
        }
        // a gRPC response without a message has its status in the head
        let grpc_status = if grpc && end { heads::grpc_status(&head) } else { None };
        let verdict = match (head.status, grpc_status) {
            (502..=504, _) | (_, Some(14)) => Verdict::Gateway,
            (500.., _) => Verdict::ServerError,
            _ => Verdict::Success,
        };
        a.outcome = Some(balance::Outcome::Answered { verdict, latency: now.saturating_duration_since(a.sent) });
        if x.state != State::Sent {
            // a second final head: the codec lets nobody do that
            return pool::give(head);
        }
        let outcome = Outcome::Response { status: head.status, grpc: grpc_status };
        let listed = x.retry().is_some_and(|r| r.takes(head.status, grpc_status));
        if listed {
            match self.may_retry(key, outcome) {
                Ok(()) => {
                    pool::give(head);
                    return self.retry(key, false);
                }
                Err(super::attempt::Refusal::Budget) => {
                    let detail = format!("the backend answered {}", head.status);
                    pool::give(head);
                    return self.give_up(key, Cause::with(Kind::BudgetExhausted, detail));
                }
                // the last outcome is the answer
                Err(_) => {}
            }
        }
        self.forward(key, head, end, upgraded, mesh);
    }

    fn interim(&mut self, key: ExKey, mut head: Box<Head>) {
        let Some(x) = self.ex(key) else { return pool::give(head) };
        let (_, action) = step(x.state, Event::Interim);
        if action == Action::ForwardInterim
            && let Some(leg) = x.leg
        {
            heads::strip_response(&mut head, false, false);
            // a client that cannot take it does not need it
            let _ = self.send_head(leg, &head, false);
        }
        pool::give(head);
    }

    /// Passes the final head on: from here on there is no way back.
    fn forward(&mut self, key: ExKey, mut head: Box<Head>, end: bool, upgraded: bool, mesh: bool) {
        let Some(x) = self.ex(key) else { return pool::give(head) };
        let plain_h2 = x.attempt.as_ref().is_some_and(|a| a.wire == Wire::Http2);
        heads::strip_response(&mut head, mesh, !plain_h2);
        let ignored = head.get(h1::UPGRADE_IGNORED).is_some();
        x.tunnel =
            upgraded || ((200..300).contains(&head.status) && x.head.pseudo(Pseudo::Protocol).is_some() && !ignored);
        if let Some(rule) = x.rule.clone() {
            let mut edit = heads::Edit(&mut head);
            if let Some(b) = rule.backends.get(x.backend) {
                b.filters.apply_response(&mut edit);
            }
            rule.filters.apply_response(&mut edit);
            if let Some(c) = &rule.filters.cors {
                let origin = cors::first_value(&heads::View(&x.head), "origin");
                c.apply_response(origin.as_deref(), &mut edit);
            }
        }
        let leg = x.leg;
        let mesh_client = x.down.meshed();
        if let Some(Leg { stream: Some(_), .. }) = leg
            && translate::response_to_h2(&mut head, mesh_client)
        {
            pool::give(head);
            return self.give_up(key, Cause::with(Kind::BadResponse, "the application ignored the upgrade"));
        }
        if let Some(leg) = leg
            && let Err(why) = self.send_head(leg, &head, end)
        {
            pool::give(head);
            return self.give_up(key, Cause::with(Kind::BadResponse, why));
        }
        let Some(x) = self.ex(key) else { return pool::give(head) };
        x.state = step(x.state, Event::Head).0;
        x.status = if x.tunnel { 101 } else { head.status };
        // nothing will be played back any more
        if x.body.pending.is_empty() {
            x.body.replay.discard();
        }
        pool::give(head);
        if end {
            self.response_end(key);
        }
    }

    /// Writes a head to the client.
    pub(super) fn send_head(&mut self, leg: Leg, head: &Head, end: bool) -> Result<(), String> {
        self.touch(leg.conn);
        let Some(c) = self.conn(leg.conn) else { return Ok(()) };
        match (&mut c.codec, leg.stream) {
            (Codec::Server(s), _) => s.send_head(head, end).map_err(|e| e.to_string()),
            (Codec::H2(h), Some(stream)) => match h.send_head(stream, head, end) {
                // its end has been told or will be
                Ok(()) | Err(h2::SendError::Closed) => Ok(()),
                Err(e) => Err(e.to_string()),
            },
            _ => Ok(()),
        }
    }

    /// A piece of the response's body. False: nobody wants it.
    pub(super) fn response_data(&mut self, token: Token, data: &[u8], end: bool) -> bool {
        let now = self.now;
        let key = token.ex;
        let Some(x) = self.exchanges.get_mut(key.index as usize).filter(|x| x.key == key) else { return false };
        let Some(a) = x.attempt.as_mut().filter(|a| a.leg == token.leg) else { return false };
        if !matches!(x.state, State::Streaming | State::HalfClosed) {
            return false;
        }
        let n = data.len();
        x.received += n as u64;
        a.response_over |= end;
        if n > 0 && a.stream.is_some() && x.leg.is_some() {
            let start = credit::start(a.wire);
            let credit = x.response_credit.or_else(|| self.credit.open(key, start, now).ok());
            x.response_credit = credit;
            match credit {
                Some(c) => {
                    if self.credit.received(c, n as u32, now).is_err() {
                        debug_assert!(false, "the codec lets nobody exceed a window");
                    }
                }
                None => {
                    self.shed(key, Kind::OverloadMemory.into());
                    return false;
                }
            }
        }
        let Some(leg) = x.leg else {
            // a mirror's answer is nobody's
            x.left += n as u64;
            if end {
                self.response_end(key);
            }
            return false;
        };
        let Some(c) = self.conns.get_mut(leg.conn.index as usize).filter(|c| c.key == leg.conn) else { return false };
        let mut failed = None;
        match (&mut c.codec, leg.stream) {
            (Codec::Server(s), _) => match s.send_data(data, end) {
                Ok(()) => c.pending += n as u32,
                Err(e) => failed = Some(e.to_string()),
            },
            (Codec::H2(h), Some(stream)) => x.left += h.send_data(stream, data, end) as u64,
            _ => {}
        }
        self.touch(leg.conn);
        if let Some(why) = failed {
            self.stream_lost(token, Lost::of(Cause::with(Kind::BadResponse, why)));
            return true;
        }
        self.credit_upstream(key);
        // an HTTP/1 upstream may have to pause
        if let Some(a) = self.ex(key).and_then(|x| x.attempt.as_ref())
            && a.stream.is_none()
            && let Some(conn) = a.conn
        {
            self.touch(conn);
        }
        if end {
            self.response_end(key);
        }
        true
    }

    pub(super) fn response_trailers(&mut self, token: Token, mut head: Box<Head>) {
        let key = token.ex;
        let Some(x) = self.ex(key).filter(|x| matches!(x.state, State::Streaming | State::HalfClosed)) else {
            return pool::give(head);
        };
        let Some(a) = x.attempt.as_mut().filter(|a| a.leg == token.leg) else { return pool::give(head) };
        a.response_over = true;
        let leg = x.leg;
        let any = translate::trailers(&mut head);
        let Some(leg) = leg else {
            pool::give(head);
            return self.response_end(key);
        };
        self.touch(leg.conn);
        let Some(c) = self.conn(leg.conn) else { return pool::give(head) };
        match (&mut c.codec, leg.stream) {
            (Codec::Server(s), _) => {
                // the codec closes the connection when it cannot end the message properly
                let _ = if any { s.send_trailers(&head) } else { s.send_data(&[], true) };
                pool::give(head);
            }
            (Codec::H2(h), Some(stream)) if any => {
                h.send_trailers(stream, head);
            }
            (Codec::H2(h), Some(stream)) => {
                h.send_data(stream, &[], true);
                pool::give(head);
            }
            _ => pool::give(head),
        }
        self.response_end(key);
    }

    /// The response has been passed on completely, or waits for the client's window.
    fn response_end(&mut self, key: ExKey) {
        let Some(x) = self.ex(key) else { return };
        if let Some(a) = &mut x.attempt {
            a.response_over = true;
        }
        let (tunnel, over, leg) = (x.tunnel, x.body.end, x.leg);
        let queued = match leg {
            Some(Leg { conn, stream: Some(stream) }) => match self.conn(conn).map(|c| &c.codec) {
                Some(Codec::H2(h)) => h.queued(stream) > 0,
                _ => false,
            },
            _ => false,
        };
        let event = match (tunnel && !over, queued) {
            (true, _) => Event::TunnelEnd,
            (false, true) => Event::EndQueued,
            (false, false) => Event::End,
        };
        let Some(x) = self.ex(key) else { return };
        let (next, action) = step(x.state, event);
        x.state = next;
        match action {
            Action::Complete => {
                self.drop_attempt(key, true);
                self.finish(key);
            }
            Action::Flush => self.drop_attempt(key, true),
            Action::Linger => self.linger(key),
            _ => {}
        }
    }

    /// Bytes of the response have left for the client: the upstream may send as much again.
    pub(super) fn response_left(&mut self, key: ExKey, bytes: u64, end: bool) {
        let Some(x) = self.ex(key) else { return };
        x.left += bytes;
        let (next, action) = if end { step(x.state, Event::Flushed) } else { (x.state, Action::Ignore) };
        x.state = next;
        if action == Action::Complete {
            return self.finish(key);
        }
        self.credit_upstream(key);
    }

    fn credit_upstream(&mut self, key: ExKey) {
        let now = self.now;
        let Some(x) = self.exchanges.get_mut(key.index as usize).filter(|x| x.key == key) else { return };
        let up = x.attempt.as_ref().and_then(|a| Some((a.conn?, a.stream)));
        if let Some(credit) = x.response_credit {
            let held = u64::from(self.credit.held(credit));
            // what is held is what came and has not left
            let n = (held + x.left).saturating_sub(x.received);
            if n == 0 {
                return;
            }
            let grant = self.credit.passed(credit, n as u32, now);
            if let Some((conn, Some(stream))) = up {
                if let Some(Codec::H2(h)) = self.conn(conn).map(|c| &mut c.codec) {
                    h.release(stream, (grant as usize).min(n as usize));
                    if u64::from(grant) > n {
                        h.grow_window(stream, grant - n as u32);
                    }
                }
                self.touch(conn);
            }
        } else if let Some((conn, None)) = up {
            self.touch(conn);
        }
    }

    /// A stream, or the HTTP/1 connection of an attempt, is lost.
    pub(super) fn stream_lost(&mut self, token: Token, lost: Lost) {
        let key = token.ex;
        let Some(x) = self.ex(key) else { return };
        if x.attempt.as_ref().is_none_or(|a| a.leg != token.leg) {
            return;
        }
        self.lost(key, lost);
    }

    pub(super) fn lost(&mut self, key: ExKey, lost: Lost) {
        let Some(x) = self.ex(key) else { return };
        match x.state {
            State::Waiting | State::Sent => self.attempt_failed(key, lost),
            state => {
                let (next, action) = step(state, Event::Lost);
                x.state = next;
                match action {
                    Action::Break => {
                        if let Some(a) = &mut x.attempt {
                            a.outcome = Some(balance::Outcome::Broken);
                        }
                        let kind = match lost.cause.kind {
                            Kind::ResetBeforeResponse => Kind::ResetInResponse,
                            kind => kind,
                        };
                        self.break_off(key, Cause { kind, detail: lost.cause.detail });
                    }
                    Action::Complete => {
                        self.drop_attempt(key, true);
                        self.finish(key);
                    }
                    _ => {}
                }
            }
        }
    }

    /// An HTTP/1 upstream has failed or closed.
    pub(super) fn client_failed(&mut self, conn: ConnKey, e: h1::ParseError) {
        let (reused, kind) = match e.reason {
            h1::Reason::ClosedUnanswered { reused } => (reused, Kind::ResetBeforeResponse),
            h1::Reason::ClosedInHead | h1::Reason::ClosedInBody => (false, Kind::ResetBeforeResponse),
            _ => {
                self.totals.protocol_errors.add(1);
                (false, Kind::BadResponse)
            }
        };
        let detail = if kind == Kind::BadResponse { e.to_string() } else { String::new() };
        self.touch(conn);
        if let Some(token) = self.conn(conn).and_then(|c| c.exchange) {
            self.stream_lost(token, Lost { cause: Cause::with(kind, detail), reused, at_once: reused });
        }
    }
}
