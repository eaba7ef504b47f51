//! The table behind the client: pure bookkeeping under one lock.

use super::Update;
use crate::resource::{Resource, ResourceName, Version};
use ahash::{AHashMap, AHashSet};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::{sync::Notify, time::Instant};
use weft_core::{
    filter::Filters,
    route::{BackendRef, Routes, WeightedBackend},
    service::{ServicePort, Target},
};

#[derive(Debug)]
struct Entry {
    value: Option<Resource>,
    version: Version,
    /// The controller has answered, if only that there is nothing.
    known: bool,
    refused: Option<Box<str>>,
    /// A Service port that waits for the endpoints of its backends.
    staged: Option<(Arc<ServicePort>, Version)>,
    /// Leases, and entries that want this one.
    holders: usize,
    /// What this entry wants.
    wants: Vec<ResourceName>,
    /// Since when nobody holds it.
    idle_since: Instant,
}

/// What the stream's task must tell the controller.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Outbox {
    pub subscribe: Vec<(ResourceName, Version)>,
    pub unsubscribe: Vec<ResourceName>,
    pub acks: Vec<(ResourceName, Version)>,
    pub nacks: Vec<(ResourceName, Version, String)>,
}

#[derive(Debug, Default)]
struct Consumer {
    queue: VecDeque<ResourceName>,
    queued: AHashSet<ResourceName>,
    ready: Arc<Notify>,
}

#[derive(Debug)]
pub(super) struct State {
    entries: AHashMap<ResourceName, Entry>,
    consumers: Vec<Option<Consumer>>,
    outbox: Outbox,
    max_entries: usize,
    max_outside: usize,
}

impl State {
    pub fn new(max_entries: usize, max_outside: usize) -> Self {
        Self { entries: AHashMap::new(), consumers: Vec::new(), outbox: Outbox::default(), max_entries, max_outside }
    }

    /// Makes sure that there is an entry. False: the table is full of entries in use.
    pub fn want(&mut self, name: &ResourceName, now: Instant) -> bool {
        if self.entries.contains_key(name) {
            return true;
        }
        if self.entries.len() >= self.max_entries && !self.evict_oldest(|_| true) {
            return false;
        }
        self.insert(name.clone(), now);
        true
    }

    fn insert(&mut self, name: ResourceName, now: Instant) {
        // an unsubscription that has not left yet would cross the new subscription
        self.outbox.unsubscribe.retain(|n| *n != name);
        self.outbox.subscribe.push((name.clone(), Version::default()));
        self.entries.insert(
            name,
            Entry {
                value: None,
                version: Version::default(),
                known: false,
                refused: None,
                staged: None,
                holders: 0,
                wants: Vec::new(),
                idle_since: now,
            },
        );
    }

    pub fn hold(&mut self, name: &ResourceName) {
        if let Some(e) = self.entries.get_mut(name) {
            e.holders += 1;
        }
    }
    pub fn release(&mut self, name: &ResourceName, now: Instant) {
        if let Some(e) = self.entries.get_mut(name) {
            e.holders = e.holders.saturating_sub(1);
            if e.holders == 0 {
                e.idle_since = now;
            }
        }
    }

    pub fn value(&self, name: &ResourceName) -> Option<Resource> {
        self.entries.get(name)?.value.clone()
    }
    pub fn refused(&self, name: &ResourceName) -> Option<Box<str>> {
        self.entries.get(name)?.refused.clone()
    }

    /// Whether the controller has answered this name and everything that it wants.
    pub fn complete(&self, name: &ResourceName) -> bool {
        self.entries.get(name).is_some_and(|e| e.known && e.wants.iter().all(|w| self.complete(w)))
    }

    /// Replaces what an entry wants. New wants are held before old ones are let go.
    fn set_wants(&mut self, name: &ResourceName, wants: Vec<ResourceName>, now: Instant) {
        for w in &wants {
            if !self.entries.contains_key(w) {
                // beyond the bound on purpose: half a Service port is worse than a few entries too many, and routes are bounded
                self.insert(w.clone(), now);
            }
            self.hold(w);
        }
        let Some(e) = self.entries.get_mut(name) else { return };
        for old in std::mem::replace(&mut e.wants, wants) {
            self.release(&old, now);
        }
    }

    /// A value from the controller, already converted.
    pub fn apply(&mut self, name: ResourceName, version: Version, resource: Resource, now: Instant) {
        let Some(e) = self.entries.get_mut(&name) else { return }; // unsubscribed meanwhile
        e.refused = None;
        match resource {
            Resource::ServicePort(port) => {
                let mut wants = backends(&port);
                // what the value in use wants is kept until the new one takes its place
                let both: Vec<_> = match &e.value {
                    Some(Resource::ServicePort(old)) => {
                        backends(old).into_iter().filter(|w| !wants.contains(w)).collect()
                    }
                    _ => Vec::new(),
                };
                e.staged = Some((port, version));
                wants.extend(both);
                self.set_wants(&name, wants, now);
                self.commit(&name, now);
            }
            Resource::Target(target) => {
                let wants = match &target {
                    Target::Service(s) => {
                        vec![ResourceName::ServicePort(s.clone()), ResourceName::Endpoints(s.clone())]
                    }
                    _ => Vec::new(),
                };
                let outside = target == Target::Outside;
                self.put(&name, version, Resource::Target(target));
                self.set_wants(&name, wants, now);
                if outside {
                    self.bound_outside();
                }
            }
            other => {
                self.put(&name, version, other);
                self.commit_waiting(&name, now);
            }
        }
    }

    fn put(&mut self, name: &ResourceName, version: Version, value: Resource) {
        let Some(e) = self.entries.get_mut(name) else { return };
        (e.value, e.version, e.known) = (Some(value), version, true);
        self.outbox.acks.push((name.clone(), version));
        self.tell(name);
    }

    /// Puts a staged Service port in place once the controller has answered for all its backends.
    fn commit(&mut self, name: &ResourceName, now: Instant) {
        let Some(e) = self.entries.get(name) else { return };
        let ready = |w: &ResourceName| self.entries.get(w).is_some_and(|e| e.known);
        if e.staged.is_none() || !e.wants.iter().all(ready) {
            return;
        }
        let Some((port, version)) = self.entries.get_mut(name).and_then(|e| e.staged.take()) else { return };
        let wants = backends(&port);
        self.put(name, version, Resource::ServicePort(port));
        self.set_wants(name, wants, now);
    }

    /// Commits the Service ports that waited for `name`.
    fn commit_waiting(&mut self, name: &ResourceName, now: Instant) {
        if !matches!(name, ResourceName::Endpoints(_)) {
            return;
        }
        let waiting: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, e)| e.staged.is_some() && e.wants.contains(name))
            .map(|(n, _)| n.clone())
            .collect();
        for n in waiting {
            self.commit(&n, now);
        }
    }

    /// The controller says that there is nothing (any more), or that it will not say.
    pub fn remove(&mut self, name: &ResourceName, refused: Option<Box<str>>, now: Instant) {
        let Some(e) = self.entries.get_mut(name) else { return };
        let had = e.value.take().is_some();
        (e.version, e.known, e.staged, e.refused) = (Version::default(), true, None, refused);
        self.set_wants(name, Vec::new(), now);
        self.commit_waiting(name, now);
        if had {
            self.tell(name);
        }
    }

    /// A value that could not be read: the last good one stays.
    pub fn refuse(&mut self, name: ResourceName, version: Version, reason: String, now: Instant) {
        if let Some(e) = self.entries.get_mut(&name) {
            // without a good value the entry counts as answered, so that nobody waits for it in vain
            let first = !e.known;
            e.known = true;
            if first && matches!(name, ResourceName::Address(_)) {
                e.refused = Some(format!("its answer could not be read: {reason}").into());
            }
            self.outbox.nacks.push((name.clone(), version, reason));
            if first {
                self.commit_waiting(&name, now);
            }
        }
    }

    /// Everything to be stated on a new stream.
    pub fn restate(&mut self) -> Vec<(ResourceName, Version)> {
        self.outbox = Outbox::default();
        // refusals were of the old stream
        for e in self.entries.values_mut() {
            if e.refused.take().is_some() {
                e.known = false;
            }
        }
        let mut all: Vec<_> = self.entries.iter().map(|(n, e)| (n.clone(), e.version)).collect();
        all.sort();
        all
    }
    pub fn take_outbox(&mut self) -> Outbox {
        std::mem::take(&mut self.outbox)
    }

    // ---- expiry

    fn drop_entry(&mut self, name: &ResourceName) {
        let Some(e) = self.entries.remove(name) else { return };
        self.outbox.subscribe.retain(|(n, _)| n != name);
        self.outbox.unsubscribe.push(name.clone());
        for w in &e.wants {
            self.release(w, e.idle_since);
        }
        if e.value.is_some() {
            self.tell(name);
        }
    }

    /// Drops what nobody has held for `idle`. Called only while connected.
    pub fn sweep(&mut self, now: Instant, idle: Duration) {
        loop {
            let expired = |e: &Entry| e.holders == 0 && now.saturating_duration_since(e.idle_since) >= idle;
            let names: Vec<_> = self.entries.iter().filter(|(_, e)| expired(e)).map(|(n, _)| n.clone()).collect();
            if names.is_empty() {
                return;
            }
            names.iter().for_each(|n| self.drop_entry(n));
        }
    }

    fn evict_oldest(&mut self, which: impl Fn(&Entry) -> bool) -> bool {
        let unused = self.entries.iter().filter(|(_, e)| e.holders == 0 && which(e));
        let Some(name) = unused.min_by_key(|(_, e)| e.idle_since).map(|(n, _)| n.clone()) else { return false };
        self.drop_entry(&name);
        true
    }

    fn bound_outside(&mut self) {
        if self.entries.len() <= self.max_outside {
            return;
        }
        let outside = |e: &Entry| matches!(e.value, Some(Resource::Target(Target::Outside))) && e.holders == 0;
        let mut unused: Vec<_> =
            self.entries.iter().filter(|(_, e)| outside(e)).map(|(n, e)| (e.idle_since, n.clone())).collect();
        if unused.len() <= self.max_outside {
            return;
        }
        // an eighth at once, so that the search is not repeated for each new address
        unused.sort();
        let keep = self.max_outside - self.max_outside / 8;
        for (_, name) in &unused[..unused.len() - keep] {
            self.drop_entry(name);
        }
    }

    // ---- consumers

    pub fn consumer(&mut self) -> (usize, Arc<Notify>) {
        let ready = Arc::new(Notify::new());
        let mut c = Consumer { ready: ready.clone(), ..Consumer::default() };
        let mut known: Vec<_> = self.entries.iter().filter(|(_, e)| e.value.is_some()).map(|(n, _)| n).collect();
        known.sort_by_key(|n| !matches!(n, ResourceName::Endpoints(_)));
        for n in known {
            c.queued.insert(n.clone());
            c.queue.push_back(n.clone());
        }
        match self.consumers.iter().position(Option::is_none) {
            Some(id) => {
                self.consumers[id] = Some(c);
                (id, ready)
            }
            None => {
                self.consumers.push(Some(c));
                (self.consumers.len() - 1, ready)
            }
        }
    }
    pub fn drop_consumer(&mut self, id: usize) {
        self.consumers[id] = None;
    }
    fn tell(&mut self, name: &ResourceName) {
        for c in self.consumers.iter_mut().flatten() {
            if c.queued.insert(name.clone()) {
                c.queue.push_back(name.clone());
            }
            c.ready.notify_one();
        }
    }
    pub fn take_update(&mut self, id: usize) -> Option<Update> {
        let c = self.consumers.get_mut(id)?.as_mut()?;
        loop {
            let name = c.queue.pop_front()?;
            c.queued.remove(&name);
            let value = self.entries.get(&name).and_then(|e| e.value.clone());
            return Some(match (name, value) {
                (ResourceName::ServicePort(s), Some(Resource::ServicePort(v))) => Update::ServicePort(s, Some(v)),
                (ResourceName::ServicePort(s), _) => Update::ServicePort(s, None),
                (ResourceName::Endpoints(s), Some(Resource::Endpoints(v))) => Update::Endpoints(s, Some(v)),
                (ResourceName::Endpoints(s), _) => Update::Endpoints(s, None),
                (ResourceName::Address(a), Some(Resource::Target(t))) => Update::Target(a, Some(t)),
                (ResourceName::Address(a), _) => Update::Target(a, None),
                (ResourceName::Inbound, Some(Resource::Inbound(v))) => Update::Inbound(v),
                (ResourceName::Bundle, Some(Resource::Bundle(v))) => Update::Bundle(v),
                // a policy or bundle that was taken away: the last one stays in force
                (ResourceName::Inbound | ResourceName::Bundle, _) => continue,
            });
        }
    }

    pub fn dump(&self) -> Vec<(ResourceName, usize, bool)> {
        let mut all: Vec<_> = self.entries.iter().map(|(n, e)| (n.clone(), e.holders, e.value.is_some())).collect();
        all.sort();
        all
    }
}

/// The endpoints that the routes of a Service port lead to.
fn backends(port: &ServicePort) -> Vec<ResourceName> {
    fn add(all: &mut Vec<ResourceName>, backend: &BackendRef) {
        if let BackendRef::Service(s) = backend {
            let name = ResourceName::Endpoints(s.clone());
            if !all.contains(&name) {
                all.push(name);
            }
        }
    }
    fn filters(all: &mut Vec<ResourceName>, f: &Filters) {
        f.mirrors.iter().for_each(|m| add(all, &m.backend));
    }
    fn weighted(all: &mut Vec<ResourceName>, backends: &[WeightedBackend]) {
        for b in backends {
            add(all, &b.backend);
            filters(all, &b.filters);
        }
    }
    let mut all = Vec::new();
    match &port.routes {
        Routes::None => {}
        Routes::Http(table) => {
            for rule in &table.rules {
                filters(&mut all, &rule.filters);
                weighted(&mut all, &rule.backends);
            }
        }
        Routes::Stream(rules) => rules.iter().for_each(|r| weighted(&mut all, &r.backends)),
    }
    all
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
