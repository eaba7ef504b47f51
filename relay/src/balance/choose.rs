//! The choice among endpoints; see the module above for the rules.

use super::{Balancer, Choice, EndpointId, FLOOR, Tier};
use crate::util::{Draw, mix};
use std::{
    net::IpAddr,
    time::{Duration, Instant},
};
use weft_core::backend::Balancing;

/// Zone preference: requests in flight and ratio of loads from which another zone is used.
const SPILL_IN_FLIGHT: u32 = 16;
const SPILL_RATIO: f64 = 4.0;
/// Clients whose endpoint is remembered. A sidecar has one; an edge gateway has many.
pub(super) const AFFINITY_CLIENTS: usize = 10_000;

impl Balancer {
    pub(super) fn choose(&mut self, c: Choice<'_>) -> Option<u32> {
        match self.tier(c.ipv6).all[..] {
            [] => return None,
            [only] => return Some(only),
            _ => {}
        }
        let ejections = self.detector.any_ejected(c.now);
        if let (Some(timeout), Some(client)) = (self.affinity, c.client) {
            return self.choose_for(client, timeout, ejections, c);
        }
        let mut draw = Draw(c.random);
        let tried = |i: u32| c.avoid.iter().any(|a| a.index == i && a.generation == self.slots[i as usize].generation);
        let ejected = |i: u32| ejections && self.ejected(i, c.now);
        let Tier { all, near } = self.tier(c.ipv6);
        if !near.is_empty() {
            let healthy = if ejections { near.iter().filter(|i| !ejected(**i)).count() } else { near.len() };
            if healthy * 2 >= near.len()
                && let Some(near) = self.one(near, &mut draw, c.now, |i| !tried(i) && !ejected(i))
            {
                let s = &self.slots[near as usize];
                if s.in_flight >= SPILL_IN_FLIGHT {
                    let far = self
                        .two(all, &mut draw, c.now, |i| !self.slots[i as usize].same_zone && !tried(i) && !ejected(i));
                    if let Some(far) = far.filter(|f| self.spills(near, *f, c.now)) {
                        return Some(far);
                    }
                }
                return Some(near);
            }
        }
        self.one(all, &mut draw, c.now, |i| !tried(i) && !ejected(i))
            .or_else(|| self.one(all, &mut draw, c.now, |i| !tried(i)))
            .or_else(|| self.one(all, &mut draw, c.now, |i| !ejected(i)))
            .or_else(|| self.one(all, &mut draw, c.now, |_| true))
    }

    /// The endpoints for a client of a family: of the other one only when there are none.
    fn tier(&self, ipv6: bool) -> &Tier {
        let own = &self.tiers[usize::from(ipv6)];
        if own.all.is_empty() { &self.tiers[usize::from(!ipv6)] } else { own }
    }

    /// One of those of `set` that may be used, as the policy says.
    fn one(&self, set: &[u32], draw: &mut Draw, now: Instant, may: impl Fn(u32) -> bool) -> Option<u32> {
        let n = set.len();
        // the first from a place on that may be used
        let from = |start: usize| (0..n).map(|k| (start + k) % n).find(|at| may(set[*at]));
        match self.balancing {
            Balancing::LeastLatency => self.two(set, draw, now, may),
            _ if n == 0 => None,
            Balancing::RoundRobin => {
                let at = from(self.turn.get() % n)?;
                self.turn.set(at + 1);
                Some(set[at])
            }
            Balancing::Random => {
                // a blind draw is uniform among those that may be used; after many misses the next one is near enough
                let blind = (0..8).map(|_| draw.below(n)).find(|at| may(set[*at]));
                let at = blind.or_else(|| from(draw.below(n)))?;
                Some(set[at])
            }
        }
    }

    /// An endpoint of the own zone is so loaded that one of another zone is better. Latencies from elsewhere are old when the zone is preferred,
    /// and an average that nobody renews decays: they count against the other endpoint only.
    fn spills(&self, near: u32, far: u32, now: Instant) -> bool {
        let (near, far) = (&self.slots[near as usize], &self.slots[far as usize]);
        let average = near.average_at(now).max(FLOOR);
        let other = far.average_at(now).max(average) * f64::from(far.in_flight + 1);
        average * f64::from(near.in_flight + 1) > SPILL_RATIO * other
    }

    /// The less loaded of two different endpoints drawn from those of `set` that may be used.
    fn two(&self, set: &[u32], draw: &mut Draw, now: Instant, may: impl Fn(u32) -> bool) -> Option<u32> {
        let n = set.len();
        if n == 0 {
            return None;
        }
        let mut first = None;
        // blind draws succeed at once unless many are excluded
        for _ in 0..4 {
            let i = set[draw.below(n)];
            if first == Some(i) || !may(i) {
                continue;
            }
            match first {
                None => first = Some(i),
                Some(f) => return Some(self.better(f, i, now)),
            }
        }
        // a uniform pair by one pass over all
        let mut pair = [None, None];
        for (seen, i) in set.iter().copied().filter(|i| may(*i)).enumerate() {
            let place = draw.below(seen + 1);
            if place == 0 {
                pair = [Some(i), pair[0]];
            } else if place == 1 || pair[1].is_none() {
                pair[1] = Some(i);
            }
        }
        match pair {
            [Some(a), Some(b)] => Some(self.better(a, b, now)),
            [a, _] => a,
        }
    }

    fn better(&self, a: u32, b: u32, now: Instant) -> u32 {
        if self.slots[b as usize].load(now) < self.slots[a as usize].load(now) { b } else { a }
    }

    fn ejected(&self, i: u32, now: Instant) -> bool {
        self.slots[i as usize].health.as_ref().is_some_and(|h| self.detector.is_ejected(h, now))
    }

    /// The endpoint of a client: the one that it has, or by rendezvous.
    fn choose_for(&mut self, client: IpAddr, timeout: Duration, ejections: bool, c: Choice<'_>) -> Option<u32> {
        let usable = |s: &Self, i: u32| {
            let tried = c.avoid.iter().any(|a| a.index == i && a.generation == s.slots[i as usize].generation);
            let ejected = ejections && s.ejected(i, c.now);
            !tried && !ejected
        };
        let kept = self.clients.get(&client).copied().filter(|(id, last)| {
            let s = &self.slots[id.index as usize];
            let stays = s.generation == id.generation && self.tier(c.ipv6).all.contains(&id.index);
            stays && c.now.saturating_duration_since(*last) < timeout
        });
        if let Some((id, _)) = kept
            && usable(self, id.index)
        {
            self.clients.insert(client, (id, c.now));
            return Some(id.index);
        }
        let key = match client {
            IpAddr::V4(a) => mix(u64::from(a.to_bits())),
            IpAddr::V6(a) => mix(a.to_bits() as u64 ^ mix((a.to_bits() >> 64) as u64)),
        };
        let score = |i: &u32| mix(self.slots[*i as usize].hash ^ key);
        let all = &self.tier(c.ipv6).all;
        let best = all.iter().copied().filter(|i| usable(self, *i)).max_by_key(score);
        let index = best.or_else(|| all.iter().copied().max_by_key(score))?;
        // a detour around an ejected endpoint does not end the affinity to it
        if kept.is_none() && self.room_for_client(client, timeout, c.now) {
            self.clients
                .insert(client, (EndpointId { index, generation: self.slots[index as usize].generation }, c.now));
        }
        Some(index)
    }

    fn room_for_client(&mut self, client: IpAddr, timeout: Duration, now: Instant) -> bool {
        if self.clients.len() < AFFINITY_CLIENTS || self.clients.contains_key(&client) {
            return true;
        }
        // a sweep costs as much as the table is big: once a second at most
        if now.saturating_duration_since(self.swept) >= Duration::from_secs(1) {
            self.swept = now;
            self.clients.retain(|_, (_, last)| now.saturating_duration_since(*last) < timeout);
        }
        self.clients.len() < AFFINITY_CLIENTS
    }
}
