//! Which endpoint an opaque connection goes to: family, session affinity, zone, then the less loaded of two, or what the Service's policy says instead.
//!
//! HTTP is balanced by the engine over latency; a byte stream has none to measure, so its load is the number of open connections from this worker.

use ahash::AHashMap;
use rand::{Rng, rngs::SmallRng};
use std::{
    cell::{Cell, RefCell},
    hash::Hash,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
};
use weft_core::{
    backend::Balancing,
    endpoint::{Endpoint, Endpoints},
};

/// Open opaque connections per endpoint.
#[derive(Default)]
pub struct Picker {
    loads: RefCell<AHashMap<SocketAddr, Rc<Cell<u32>>>>,
    /// Round robin: whose turn is next. One for all Services: each still gets its endpoints evenly, since who dials which Service when is not up to us.
    turn: Cell<usize>,
}

/// What to choose by.
#[derive(Clone, Copy, Default)]
pub struct Choice<'a> {
    /// The own zone.
    pub zone: Option<&'a str>,
    /// Endpoints that the connection was tried at before.
    pub tried: &'a [SocketAddr],
    /// The client's key when the Service has `sessionAffinity: ClientIP`: the same client gets the same endpoint while the set stays.
    pub affinity: Option<u64>,
    /// The client dialled an IPv6 address.
    pub ipv6: bool,
}

/// Counts one connection while it lives.
pub struct Load(Rc<Cell<u32>>);
impl Drop for Load {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Picker {
    fn load(&self, a: SocketAddr) -> u32 {
        self.loads.borrow().get(&a).map_or(0, |l| l.get())
    }

    /// Counts a connection to `a`.
    pub fn enter(&self, a: SocketAddr) -> Load {
        let mut map = self.loads.borrow_mut();
        if map.len() > 1024 {
            // endpoints that went away
            map.retain(|_, l| l.get() > 0);
        }
        let l = map.entry(a).or_default().clone();
        l.set(l.get() + 1);
        Load(l)
    }

    /// An endpoint that was not tried. Of the family that was dialled, unless there are none; terminating ones only when no others are left; the own zone first when the
    /// Service prefers it; none that has as many connections as the policy allows.
    pub fn pick(&self, from: &Endpoints, c: Choice<'_>, rng: &mut SmallRng) -> Option<Arc<Endpoint>> {
        let family = |e: &Arc<Endpoint>| e.address.is_ipv6() == c.ipv6;
        let any = from.endpoints.iter().any(family);
        let most = from.policy.limits.connections.unwrap_or(u32::MAX);
        let usable = |e: &&Arc<Endpoint>| {
            (!any || family(e)) && !c.tried.contains(&e.address) && (most == u32::MAX || self.load(e.address) < most)
        };
        let mut pool: Vec<_> = from.endpoints.iter().filter(usable).filter(|e| !e.terminating).collect();
        if pool.is_empty() {
            pool = from.endpoints.iter().filter(usable).collect();
        }
        if from.prefer_zone && c.zone.is_some() && pool.iter().any(|e| e.zone.as_deref() == c.zone) {
            pool.retain(|e| e.zone.as_deref() == c.zone);
        }
        if let Some(key) = c.affinity {
            // rendezvous: when an endpoint goes, only its own clients move
            let hash = ahash::RandomState::with_seeds(1, 2, 3, 4);
            return pool.into_iter().max_by_key(|e| hash.hash_one((key, e.address))).cloned();
        }
        match (from.policy.balancing, pool.len()) {
            (Balancing::RoundRobin, n @ 1..) => {
                let at = self.turn.get() % n;
                self.turn.set(at + 1);
                return Some(pool[at].clone());
            }
            (Balancing::Random, n @ 1..) => return Some(pool[rng.random_range(0..n)].clone()),
            _ => {}
        }
        match pool.len() {
            0 => None,
            1 => Some(pool[0].clone()),
            n => {
                let a = rng.random_range(0..n);
                let b = (a + rng.random_range(1..n)) % n;
                let (a, b) = (pool[a], pool[b]);
                Some(if self.load(b.address) < self.load(a.address) { b } else { a }.clone())
            }
        }
    }
}

/// A key for affinity.
pub fn affinity_key(client: &impl Hash) -> u64 {
    ahash::RandomState::with_seeds(5, 6, 7, 8).hash_one(client)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use weft_core::service::ServiceRef;

    fn endpoint(n: u8, zone: &str, terminating: bool) -> Arc<Endpoint> {
        Arc::new(Endpoint {
            address: SocketAddr::from(([10, 0, 0, n], 80)),
            mesh: None,
            zone: Some(zone.into()),
            terminating,
            workload: "w".into(),
        })
    }
    fn endpoints(list: Vec<Arc<Endpoint>>, prefer_zone: bool) -> Endpoints {
        Endpoints {
            service: ServiceRef { namespace: "n".into(), name: "s".into(), port: 80 },
            endpoints: list,
            not_ready: 0,
            http2: false,
            prefer_zone,
            policy: Default::default(),
        }
    }

    #[test]
    fn the_less_loaded_of_two_zone_and_terminating() {
        let p = Picker::default();
        let mut rng = SmallRng::seed_from_u64(7);
        let e = endpoints(vec![endpoint(1, "a", false), endpoint(2, "b", false), endpoint(3, "b", true)], false);
        let busy = p.enter(e.endpoints[0].address);
        for _ in 0..50 {
            assert_eq!(p.pick(&e, Choice::default(), &mut rng).unwrap().address.to_string(), "10.0.0.2:80");
        }
        drop(busy);
        let first_two = [e.endpoints[0].address, e.endpoints[1].address];
        assert_eq!(
            p.pick(&e, Choice { tried: &first_two, ..Choice::default() }, &mut rng).unwrap().address.to_string(),
            "10.0.0.3:80"
        );
        let zonal = endpoints(e.endpoints.clone(), true);
        for _ in 0..50 {
            assert_eq!(
                p.pick(&zonal, Choice { zone: Some("a"), ..Choice::default() }, &mut rng).unwrap().address.to_string(),
                "10.0.0.1:80"
            );
        }
        assert!(p.pick(&zonal, Choice { zone: Some("c"), ..Choice::default() }, &mut rng).is_some());
    }

    #[test]
    fn affinity_stays_and_moves_only_those_whose_endpoint_went() {
        let p = Picker::default();
        let mut rng = SmallRng::seed_from_u64(7);
        let all = endpoints((1..=8).map(|n| endpoint(n, "a", false)).collect(), false);
        let less = endpoints(all.endpoints[..7].to_vec(), false);
        for client in 0..100u32 {
            let key = Some(affinity_key(&client));
            let before = p.pick(&all, Choice { affinity: key, ..Choice::default() }, &mut rng).unwrap();
            assert_eq!(
                before.address,
                p.pick(&all, Choice { affinity: key, ..Choice::default() }, &mut rng).unwrap().address
            );
            let after = p.pick(&less, Choice { affinity: key, ..Choice::default() }, &mut rng).unwrap();
            assert!(before.address == after.address || before.address == all.endpoints[7].address);
        }
    }

    #[test]
    fn policy_and_family_decide() {
        let p = Picker::default();
        let mut rng = SmallRng::seed_from_u64(7);
        let mut all = endpoints((1..=3).map(|n| endpoint(n, "a", false)).collect(), false);
        let six = Arc::new(Endpoint { address: "[fd00::1]:80".parse().unwrap(), ..(*all.endpoints[0]).clone() });
        all.endpoints.push(six.clone());
        let six_of = Choice { ipv6: true, ..Choice::default() };
        all.policy.balancing = Balancing::RoundRobin;
        let turns: Vec<_> =
            (0..6).map(|_| p.pick(&all, Choice::default(), &mut rng).unwrap().address.to_string()).collect();
        assert_eq!(turns[..3], turns[3..]);
        assert_eq!(turns[..3].iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
        assert_eq!(p.pick(&all, six_of, &mut rng).unwrap(), six);
        // a Service without endpoints of the family has those of the other
        all.endpoints.pop();
        assert!(p.pick(&all, six_of, &mut rng).unwrap().address.is_ipv4());
        all.policy.limits.connections = Some(1);
        let held: Vec<_> =
            (0..3).map(|_| p.enter(p.pick(&all, Choice::default(), &mut rng).unwrap().address)).collect();
        assert!(p.pick(&all, Choice::default(), &mut rng).is_none());
        drop(held);
        assert!(p.pick(&all, Choice::default(), &mut rng).is_some());
    }
}
