//! The decision about a request: which rule, which backend, what the filters make of it. The meaning of all that is `weft-core`'s.

use super::{
    Engine,
    heads::{self, Edit, View},
    state::Target,
    timers::Timer,
};
use crate::{
    conn::{ExKey, Meaning},
    stats::{Series, SeriesKey},
};
use smallvec::SmallVec;
use std::sync::Arc;
use weft_core::{
    cause::{Cause, Kind},
    cors::PREFLIGHT_STATUS,
    filter::Redirected,
    path::RequestPath,
    route::{BackendRef, HttpTable, Routes, Rule},
    service::ServiceRef,
};
use weft_http::head::{Head, Pseudo, pool};

/// What becomes of a request that is not refused.
pub(super) enum Decision {
    Go,
    /// A filter answers: redirect, CORS preflight.
    Answer(Box<Head>),
}

impl Engine {
    /// Decides a new exchange: sets its target, rule, series and deadline, and changes its head as the rule says.
    pub(super) fn decide(&mut self, key: ExKey) -> Result<Decision, Cause> {
        let Some(x) = self.exchanges.get_mut(key.index as usize).filter(|x| x.key == key) else {
            return Err(Kind::Internal.into());
        };
        let down = x.down.clone();
        if !down.meshed() {
            let path = RequestPath::parse(x.head.path())?;
            if path.is_changed() {
                let changed = path.forwarded().to_vec();
                x.head.set_pseudo(Pseudo::Path, &changed);
            }
            heads::add_ids(&mut x.head, &mut self.draw);
        }
        match &down.meaning {
            Meaning::App { app, peer } => {
                if let Some(peer) = peer {
                    x.head.add(b"weft-client", peer.uri().as_bytes());
                }
                x.target = Target::App(*app);
                if !self.inbound.authorization.is_empty() {
                    self.authorize(key, true)?;
                }
                Ok(Decision::Go)
            }
            Meaning::Workload(e) => {
                x.target = Target::Endpoint(e.clone());
                Ok(Decision::Go)
            }
            Meaning::Service(service) => match self.services.get(service) {
                None => {
                    self.count_in(key, service, None);
                    Err(Cause::with(Kind::NoConfig, format!("{service} is not known")))
                }
                Some(known) => match &known.port.routes {
                    Routes::Http(table) => {
                        let table = table.clone();
                        self.route(key, service, &table)
                    }
                    Routes::None | Routes::Stream(_) => {
                        if let Some(policy) = &known.requests {
                            x.requests = Some(policy.clone());
                            if let Some(limit) = policy.timeouts.request() {
                                x.request_timer = Some(self.wheel.insert(x.started + limit, Timer::Request(key)));
                            }
                        }
                        self.aim(key, service, service, None)?;
                        Ok(Decision::Go)
                    }
                },
            },
        }
    }

    fn route(&mut self, key: ExKey, service: &ServiceRef, table: &HttpTable) -> Result<Decision, Cause> {
        let random = self.random();
        let Some(x) = self.exchanges.get_mut(key.index as usize).filter(|x| x.key == key) else {
            return Err(Kind::Internal.into());
        };
        let path = RequestPath::parse(x.head.path())?;
        let found = table.find(&View(&x.head), &path);
        let Some(found) = found else {
            self.count_in(key, service, None);
            return Err(Kind::NoRoute.into());
        };
        let (rule, prefix) = (found.rule, found.prefix);
        x.rule = Some(rule.clone());
        if let Some(limit) = rule.timeouts.request() {
            x.request_timer = Some(self.wheel.insert(x.started + limit, Timer::Request(key)));
        }
        let filters = &rule.filters;
        let picked = rule.pick(random);
        let answered = filters.usable().and_then(|()| {
            if let Some(fields) = filters.cors.as_ref().and_then(|c| c.preflight(&View(&x.head))) {
                let mut head = pool::take();
                head.status = PREFLIGHT_STATUS;
                fields.iter().for_each(|(name, value)| head.add(name, value));
                return Ok(Some(head));
            }
            let Some(redirect) = &filters.redirect else { return Ok(None) };
            let scheme = if x.head.pseudo(Pseudo::Scheme) == Some(b"https") { "https" } else { "http" };
            let port = x.down.original.port();
            let request = Redirected { scheme, authority: x.head.authority(), port, path: &path, prefix };
            let location = redirect.location(&request)?;
            let mut head = pool::take();
            head.status = redirect.status();
            head.add(b"location", location.as_bytes());
            Ok(Some(head))
        });
        let (at, backend, of_backend) = match (answered, picked) {
            (Ok(Some(mut head)), _) => {
                filters.apply_response(&mut Edit(&mut head));
                self.count_in(key, service, Some(rule));
                return Ok(Decision::Answer(head));
            }
            (Err(cause), _) | (Ok(None), Err(cause)) => {
                self.count_in(key, service, Some(rule));
                return Err(cause);
            }
            (Ok(None), Ok(picked)) => picked,
        };
        x.backend = at;
        // the path that was matched is needed while the head changes
        let untouched = filters.request_headers.is_none() && filters.rewrite.is_none() && of_backend.is_empty();
        let mut mirrors: SmallVec<[ServiceRef; 2]> = SmallVec::new();
        for m in filters.mirrors.iter().chain(&of_backend.mirrors) {
            if let BackendRef::Service(to) = &m.backend
                && m.samples(self.draw.next())
            {
                mirrors.push(to.clone());
            }
        }
        let copies: SmallVec<[Box<Head>; 2]> = mirrors
            .iter()
            .map(|_| {
                let mut copy = pool::take();
                copy.clone_from(&x.head);
                copy
            })
            .collect();
        if !untouched {
            let own = x.head.path().to_vec();
            let path = RequestPath::parse(&own)?;
            let mut edit = Edit(&mut x.head);
            let applied = filters
                .apply_request(&path, prefix, &mut edit)
                .and_then(|()| of_backend.apply_request(&path, prefix, &mut edit));
            if let Err(cause) = applied {
                self.count_in(key, service, Some(rule));
                copies.into_iter().for_each(pool::give);
                return Err(cause);
            }
        }
        if let Err(cause) = self.aim(key, service, backend, Some(rule)) {
            copies.into_iter().for_each(pool::give);
            return Err(cause);
        }
        for (to, head) in mirrors.into_iter().zip(copies) {
            self.mirror(key, &to, head);
        }
        Ok(Decision::Go)
    }

    /// The exchange is counted for a rule, or for none, and for no backend.
    fn count_in(&mut self, key: ExKey, service: &ServiceRef, rule: Option<&Arc<Rule>>) {
        let series = self.series(service, rule, None);
        if let Some(x) = self.ex(key) {
            x.series = series;
        }
    }

    /// The exchange goes to the endpoints of `backend`, unless a policy of that has no room for it. In both cases it counts there.
    fn aim(
        &mut self,
        key: ExKey,
        service: &ServiceRef,
        backend: &ServiceRef,
        rule: Option<&Arc<Rule>>,
    ) -> Result<(), Cause> {
        let at = self.cluster(backend);
        let series = self.series(service, rule, Some(at));
        let now = self.now;
        let cluster = &mut self.clusters[at as usize];
        cluster.users += 1;
        let admitted = cluster.admit(now);
        let Some(x) = self.ex(key) else { return Err(Kind::Internal.into()) };
        x.target = Target::Cluster(at);
        x.series = series;
        x.permit = admitted?;
        Ok(())
    }

    /// The counters of a decision, found without hashing its labels.
    fn series(&mut self, service: &ServiceRef, rule: Option<&Arc<Rule>>, backend: Option<u32>) -> Arc<Series> {
        let short = (rule.map_or(0, |r| Arc::as_ptr(r) as usize), backend.unwrap_or(u32::MAX));
        if let Some(found) = self.services.get(service).and_then(|s| s.series.get(&short)) {
            return found.clone();
        }
        let series = self.shard.series(&SeriesKey {
            parent: service.clone(),
            route: rule.map(|r| r.route.clone()),
            rule: rule.map_or(0, |r| r.index),
            backend: backend.and_then(|b| self.clusters.get(b as usize)).map(|c| c.service.clone()),
        });
        if let Some(s) = self.services.get_mut(service) {
            s.series.insert(short, series.clone());
        }
        series
    }
}
