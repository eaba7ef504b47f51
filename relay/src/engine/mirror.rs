//! Mirrors: copies of a request whose answers nobody waits for. A mirror is an exchange without a client. It never slows the original: when it
//! falls behind, or there is no room, it is dropped and counted.

use super::{
    Engine,
    state::{Exchange, Target},
    timers::Timer,
};
use crate::{
    conn::ExKey,
    exchange::{Event, State, step},
};
use smallvec::SmallVec;
use std::time::Duration;
use weft_core::{
    cause::{Cause, Kind},
    service::ServiceRef,
};
use weft_http::head::{Head, pool};

/// A mirror has this long when the rule sets no time.
const LONGEST: Duration = Duration::from_secs(15);
/// Bytes of the body that a mirror may be behind: four reads.
const BEHIND: u64 = 256 * 1024;

impl Engine {
    /// Begins a mirror of an exchange that is being decided.
    pub(super) fn mirror(&mut self, of: ExKey, to: &ServiceRef, head: Box<Head>) {
        let now = self.now;
        let room = self.exchanges.len() < self.config.limits.exchanges / 4 * 3 && !self.credit.refuses();
        let Some(original) = self.ex(of) else { return pool::give(head) };
        original.series.mirrors.add(1);
        if !room {
            original.series.mirrors_dropped.add(1);
            return pool::give(head);
        }
        let (down, series, end) = (original.down.clone(), original.series.clone(), original.body.end);
        let (grpc, app_http2) = (original.grpc, original.app_http2);
        let limit = original.rule.as_ref().and_then(|r| r.timeouts.request()).unwrap_or(LONGEST);
        let at = self.cluster(to);
        self.clusters[at as usize].users += 1;
        let key = ExKey { index: self.exchanges.vacant_key() as u32, generation: self.next_generation() };
        let timer = self.wheel.insert(now + limit, Timer::Request(key));
        let body = self.new_body(end);
        self.heads += head.size();
        self.exchanges.insert(Exchange {
            key,
            state: step(State::New, Event::Start).0,
            leg: None,
            down,
            head_size: head.size(),
            head,
            body,
            target: Target::Cluster(at),
            rule: None,
            requests: None,
            permit: None,
            backend: 0,
            attempt: None,
            attempts: 0,
            tried: SmallVec::new(),
            app_http2,
            grpc,
            idempotent: false,
            tunnel: false,
            received: 0,
            left: 0,
            status: 0,
            cause: None,
            told: None,
            request_credit: None,
            response_credit: None,
            request_timer: Some(timer),
            timer: None,
            started: now,
            series,
            mirrors: SmallVec::new(),
            upstream: None,
        });
        if let Some(original) = self.ex(of) {
            original.mirrors.push(key);
        }
        self.acquire(key);
    }

    /// Hands a piece of the original's body on.
    pub(super) fn feed_mirrors(&mut self, of: ExKey, data: &[u8], end: bool) {
        let Some(x) = self.ex(of).filter(|x| !x.mirrors.is_empty()) else { return };
        for m in x.mirrors.clone() {
            self.body_data(m, data, end);
            if self.ex(m).is_some_and(|x| x.body.total - x.body.released > BEHIND) {
                self.drop_mirror(m);
            }
        }
    }

    pub(super) fn drop_mirror(&mut self, key: ExKey) {
        self.shed(key, Cause::with(Kind::OverloadMemory, "the mirror fell behind, or its original ended early"));
    }
}
