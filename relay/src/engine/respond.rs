//! Answers of our own, and the end of every exchange: one place each.

use super::{
    Engine,
    heads::grpc_timeout,
    log::Record,
    state::{Leg, Target},
};
use crate::conn::{Codec, ExKey};
use weft_core::cause::{Cause, Class, HEADER, Kind, grpc::DEADLINE_EXCEEDED};
use weft_http::{
    h2,
    head::{Head, pool},
};

/// An answer to a request that never became an exchange.
pub(super) fn plain_head(head: &mut Head, status: u16, label: &str, text: &str) {
    head.status = status;
    let clean: String = text.chars().filter(|c| matches!(c, ' '..='~')).take(256).collect();
    head.add(HEADER.as_bytes(), if clean.is_empty() { label } else { &clean }.as_bytes());
}

/// `grpc-message`: percent-encoded but for printable ASCII (gRPC over HTTP/2).
fn grpc_message(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        match b {
            b'%' | 0..=0x1f | 0x7f.. => out.push_str(&format!("%{b:02X}")),
            b => out.push(b as char),
        }
    }
    out
}

impl Engine {
    /// Answers with a cause. The exchange's state is `Over`.
    pub(super) fn respond(&mut self, key: ExKey, cause: Cause) {
        self.respond_as(key, cause.kind.status(), cause);
    }

    pub(super) fn respond_as(&mut self, key: ExKey, status: u16, cause: Cause) {
        let now = self.now;
        let Some(x) = self.ex(key) else { return };
        let (leg, grpc, bodyless) = (x.leg, x.grpc, x.head.method() == b"HEAD");
        let unprocessed = x.down.inbound() && cause.kind.class() == Class::Unprocessed;
        let timeout = cause.kind == Kind::RequestTimeout;
        if timeout {
            x.series.timeouts.add(1);
        }
        x.status = if grpc { 200 } else { status };
        let Some(leg) = leg else {
            x.cause = Some(cause);
            return self.finish(key);
        };
        let mut head = pool::take();
        let text = cause.header(unprocessed);
        head.add(HEADER.as_bytes(), text.as_bytes());
        if grpc {
            head.status = 200;
            head.add(b"content-type", b"application/grpc");
            // a server ends a call that is over its deadline by a reset, perhaps before the client's own clock has told it: to the client that is the deadline
            let late = grpc_timeout(&x.head).is_some_and(|t| now.saturating_duration_since(x.started) >= t);
            let code = if late { DEADLINE_EXCEEDED } else { cause.kind.grpc_status() };
            head.add(b"grpc-status", code.to_string().as_bytes());
            head.add(b"grpc-message", grpc_message(&cause.to_string()).as_bytes());
        } else {
            head.status = status;
            head.add(b"content-type", b"text/plain");
        }
        x.cause = Some(cause);
        // RFC 9110, 9.3.2: the answer to HEAD has no body
        let body = if grpc || bodyless { String::new() } else { format!("weft: {text}\n") };
        self.send_answer(leg, &head, body.as_bytes());
        pool::give(head);
        self.finish(key);
    }

    /// Answers as a route says (redirect, CORS preflight).
    pub(super) fn answer(&mut self, key: ExKey, head: Box<Head>) {
        let Some(x) = self.ex(key) else { return pool::give(head) };
        x.state = crate::exchange::step(x.state, crate::exchange::Event::Refuse).0;
        x.status = head.status;
        if let Some(leg) = x.leg {
            self.send_answer(leg, &head, &[]);
        }
        pool::give(head);
        self.finish(key);
    }

    fn send_answer(&mut self, leg: Leg, head: &Head, body: &[u8]) {
        let end = body.is_empty();
        if self.send_head(leg, head, end).is_err() || end {
            return;
        }
        let Some(c) = self.conn(leg.conn) else { return };
        match (&mut c.codec, leg.stream) {
            (Codec::Server(s), _) => {
                // after a head that was accepted only the codec's own close can follow
                let _ = s.send_data(body, true);
            }
            (Codec::H2(h), Some(stream)) => {
                h.send_data(stream, body, true);
            }
            _ => {}
        }
    }

    /// The response has begun and cannot be completed: the client must see that.
    pub(super) fn break_off(&mut self, key: ExKey, cause: Cause) {
        let Some(x) = self.ex(key) else { return };
        if cause.kind == Kind::RequestTimeout {
            x.series.timeouts.add(1);
        }
        let (leg, kind) = (x.leg, cause.kind);
        x.cause = Some(cause);
        self.drop_attempt(key, false);
        if let Some(leg) = leg
            && let Some(c) = self.conn(leg.conn)
        {
            match (&mut c.codec, leg.stream) {
                (Codec::Server(s), _) => s.abort(),
                (Codec::H2(h), Some(stream)) => {
                    let code = match kind {
                        Kind::RequestTimeout | Kind::BackendTimeout | Kind::Draining => h2::ErrorCode::Cancel,
                        _ => h2::ErrorCode::InternalError,
                    };
                    h.reset(stream, code);
                }
                _ => {}
            }
            self.touch(leg.conn);
        }
        self.finish(key);
    }

    /// The end of an exchange, of every one, once: the ticket is handed in.
    pub(super) fn finish(&mut self, key: ExKey) {
        if self.ex(key).is_none() {
            return;
        }
        self.drop_attempt(key, true);
        let now = self.now;
        let mut x = self.exchanges.remove(key.index as usize);
        self.heads -= x.head_size;
        for t in [x.timer.take(), x.request_timer.take()].into_iter().flatten() {
            self.wheel.cancel(t);
        }
        for c in [x.request_credit.take(), x.response_credit.take()].into_iter().flatten() {
            self.credit.close(c);
        }
        if let Some(leg) = x.leg
            && let Some(c) = self.conn(leg.conn)
        {
            match (&mut c.codec, leg.stream) {
                // what still comes of the request is not wanted
                (Codec::H2(h), Some(stream)) if !x.body.end => h.discard(stream),
                (Codec::H2(_), _) => {}
                _ => {
                    c.exchange = None;
                    (c.pending, c.in_flight) = (0, 0);
                }
            }
            self.touch(leg.conn);
        }
        if !x.body.end {
            for m in std::mem::take(&mut x.mirrors) {
                self.drop_mirror(m);
            }
        }
        if x.is_mirror() {
            if x.cause.is_some() {
                x.series.mirrors_dropped.add(1);
            }
        } else {
            let counted = match (&x.cause, x.status) {
                (Some(c), _) if c.kind == Kind::ClientGone => 0,
                (_, status) => status,
            };
            x.series.finish(counted, now.saturating_duration_since(x.started));
            x.series.received.add(x.body.total);
            x.series.sent.add(x.received);
            if let Some(c) = &x.cause {
                x.series.causes.add(c.kind.label(), 1);
            }
            if self.config.access_log {
                let backend = x.cluster(&mut self.clusters).map(|c| c.service.clone());
                let record = Record::of(&x, backend.as_ref(), now);
                if self.log.len() < self.config.limits.log {
                    self.log.push_back(record);
                } else {
                    self.totals.logs_dropped.add(1);
                }
            }
        }
        if let Target::Cluster(at) = x.target
            && let Some(c) = self.clusters.get_mut(at as usize)
        {
            c.users -= 1;
            if c.users == 0 && !c.told {
                self.forget_cluster(at);
            }
        }
        if let Some(t) = x.body.trailers.take() {
            pool::give(t);
        }
        pool::give(x.head);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn grpc_messages_are_escaped() {
        assert_eq!(super::grpc_message("50 % \n é"), "50 %25 %0A %C3%A9");
    }
}
