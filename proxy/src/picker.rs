//! Which endpoint an opaque connection goes to: session affinity, zone, then the less loaded of two.
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
use weft_core::endpoint::{Endpoint, Endpoints};

/// Open opaque connections per endpoint.
#[derive(Default)]
pub struct Picker(RefCell<AHashMap<SocketAddr, Rc<Cell<u32>>>>);

/// Counts one connection while it lives.
pub struct Load(Rc<Cell<u32>>);
impl Drop for Load {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Picker {
    fn load(&self, a: SocketAddr) -> u32 {
        self.0.borrow().get(&a).map_or(0, |l| l.get())
    }

    /// Counts a connection to `a`.
    pub fn enter(&self, a: SocketAddr) -> Load {
        let mut map = self.0.borrow_mut();
        if map.len() > 1024 {
            // endpoints that went away
            map.retain(|_, l| l.get() > 0);
        }
        let l = map.entry(a).or_default().clone();
        l.set(l.get() + 1);
        Load(l)
    }

    /// An endpoint that is not in `tried`. Terminating ones only when no others are left; the own zone first when the Service prefers it.
    /// `affinity` is the client's key when the Service has `sessionAffinity: ClientIP`: the same client gets the same endpoint while the set stays.
    pub fn pick(
        &self,
        from: &Endpoints,
        zone: Option<&str>,
        tried: &[SocketAddr],
        affinity: Option<u64>,
        rng: &mut SmallRng,
    ) -> Option<Arc<Endpoint>> {
        let fresh = |e: &&Arc<Endpoint>| !tried.contains(&e.address);
        let mut pool: Vec<_> = from.endpoints.iter().filter(fresh).filter(|e| !e.terminating).collect();
        if pool.is_empty() {
            pool = from.endpoints.iter().filter(fresh).collect();
        }
        if from.prefer_zone && zone.is_some() && pool.iter().any(|e| e.zone.as_deref() == zone) {
            pool.retain(|e| e.zone.as_deref() == zone);
        }
        if let Some(key) = affinity {
            // rendezvous: when an endpoint goes, only its own clients move
            let hash = ahash::RandomState::with_seeds(1, 2, 3, 4);
            return pool.into_iter().max_by_key(|e| hash.hash_one((key, e.address))).cloned();
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
        }
    }

    #[test]
    fn the_less_loaded_of_two_zone_and_terminating() {
        let p = Picker::default();
        let mut rng = SmallRng::seed_from_u64(7);
        let e = endpoints(vec![endpoint(1, "a", false), endpoint(2, "b", false), endpoint(3, "b", true)], false);
        let busy = p.enter(e.endpoints[0].address);
        for _ in 0..50 {
            assert_eq!(p.pick(&e, None, &[], None, &mut rng).unwrap().address.to_string(), "10.0.0.2:80");
        }
        drop(busy);
        let first_two = [e.endpoints[0].address, e.endpoints[1].address];
        assert_eq!(p.pick(&e, None, &first_two, None, &mut rng).unwrap().address.to_string(), "10.0.0.3:80");
        let zonal = endpoints(e.endpoints.clone(), true);
        for _ in 0..50 {
            assert_eq!(p.pick(&zonal, Some("a"), &[], None, &mut rng).unwrap().address.to_string(), "10.0.0.1:80");
        }
        assert!(p.pick(&zonal, Some("c"), &[], None, &mut rng).is_some());
    }

    #[test]
    fn affinity_stays_and_moves_only_those_whose_endpoint_went() {
        let p = Picker::default();
        let mut rng = SmallRng::seed_from_u64(7);
        let all = endpoints((1..=8).map(|n| endpoint(n, "a", false)).collect(), false);
        let less = endpoints(all.endpoints[..7].to_vec(), false);
        for client in 0..100u32 {
            let key = Some(affinity_key(&client));
            let before = p.pick(&all, None, &[], key, &mut rng).unwrap();
            assert_eq!(before.address, p.pick(&all, None, &[], key, &mut rng).unwrap().address);
            let after = p.pick(&less, None, &[], key, &mut rng).unwrap();
            assert!(before.address == after.address || before.address == all.endpoints[7].address);
        }
    }
}
