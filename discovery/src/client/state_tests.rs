//! The table under anything that may happen to it.

use super::*;
use proptest::{collection::vec, prelude::*};
use std::net::SocketAddr;
use weft_core::{
    endpoint::Endpoints,
    matches::HttpMatch,
    retry::Timeouts,
    route::{HttpTable, RouteKind, RouteRef, Rule, RuleMatches},
    service::{Protocol, ServiceRef},
};

fn service(n: u8) -> ServiceRef {
    ServiceRef { namespace: "a".into(), name: format!("s{n}").into(), port: 80 }
}
fn address(n: u8) -> ResourceName {
    ResourceName::Address(SocketAddr::from(([10, 0, 0, n], 80)))
}
fn endpoints(n: u8) -> Resource {
    Resource::Endpoints(Arc::new(Endpoints {
        service: service(n),
        endpoints: vec![],
        not_ready: 0,
        http2: false,
        prefer_zone: false,
        policy: Default::default(),
    }))
}
fn port(n: u8, backends: &[u8]) -> Resource {
    let backend =
        |b: &u8| WeightedBackend { backend: BackendRef::Service(service(*b)), weight: 1, filters: Filters::default() };
    let rule = Rule {
        route: Arc::new(RouteRef { kind: RouteKind::Http, namespace: "a".into(), name: "r".into(), created: 0 }),
        index: 0,
        name: None,
        matches: RuleMatches::Http(vec![HttpMatch::default()]),
        filters: Filters::default(),
        backends: backends.iter().map(backend).collect(),
        timeouts: Timeouts::default(),
        retry: None,
    };
    Resource::ServicePort(Arc::new(ServicePort {
        service: service(n),
        protocol: Protocol::Http,
        routes: Routes::Http(Arc::new(HttpTable::from(vec![Arc::new(rule)]))),
        affinity: None,
        requests: Default::default(),
        addresses: vec![],
    }))
}

#[derive(Debug, Clone)]
enum Step {
    Lookup(u8),
    Drop(usize),
    Target(u8, Option<u8>),
    Port(u8, Vec<u8>),
    Endpoints(u8),
    Remove(ResourceName),
    Refuse(ResourceName),
    Sweep,
    Reconnect,
}
fn name() -> impl Strategy<Value = ResourceName> {
    prop_oneof![
        (0..6u8).prop_map(address),
        (0..4u8).prop_map(|n| ResourceName::ServicePort(service(n))),
        (0..4u8).prop_map(|n| ResourceName::Endpoints(service(n))),
    ]
}
fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..6u8).prop_map(Step::Lookup),
        2 => any::<usize>().prop_map(Step::Drop),
        3 => (0..6u8, proptest::option::of(0..4u8)).prop_map(|(a, s)| Step::Target(a, s)),
        3 => (0..4u8, vec(0..4u8, 0..3)).prop_map(|(s, b)| Step::Port(s, b)),
        3 => (0..4u8).prop_map(Step::Endpoints),
        1 => name().prop_map(Step::Remove),
        1 => name().prop_map(Step::Refuse),
        1 => Just(Step::Sweep),
        1 => Just(Step::Reconnect),
    ]
}

/// Holders are leases and wants, nothing else; everything that is wanted is there; nothing is in use before what it needs.
fn check(s: &State, leases: &[ResourceName]) {
    for (name, e) in &s.entries {
        let wanted = s.entries.values().flat_map(|e| &e.wants).filter(|w| *w == name).count();
        let leased = leases.iter().filter(|l| *l == name).count();
        assert_eq!(e.holders, wanted + leased, "holders of {name}");
        for w in &e.wants {
            assert!(s.entries.contains_key(w), "{name} wants {w}");
        }
        if let Some(Resource::ServicePort(port)) = &e.value {
            for b in backends(port) {
                assert!(e.wants.contains(&b), "{name} is in use and does not hold {b}");
                assert!(s.entries[&b].known, "{name} is in use before {b} is known");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn holders_add_up_and_nothing_is_left(steps in vec(step(), 0..80)) {
        let idle = Duration::from_secs(60);
        let mut now = Instant::now();
        let mut s = State::new(1000, 1000);
        let (consumer, _) = s.consumer();
        let mut leases: Vec<ResourceName> = Vec::new();
        // what a consumer has built from its updates
        let mut seen: AHashMap<ResourceName, Resource> = AHashMap::new();
        for step in steps {
            now += Duration::from_secs(7);
            let v = Version([1; 16]);
            match step {
                Step::Lookup(a) => {
                    prop_assert!(s.want(&address(a), now));
                    s.hold(&address(a));
                    leases.push(address(a));
                }
                Step::Drop(n) if !leases.is_empty() => {
                    let name = leases.swap_remove(n % leases.len());
                    s.release(&name, now);
                }
                Step::Drop(_) => {}
                Step::Target(a, to) => {
                    let target = to.map_or(Target::Outside, |n| Target::Service(service(n)));
                    s.apply(address(a), v, Resource::Target(target), now);
                }
                Step::Port(n, b) => s.apply(ResourceName::ServicePort(service(n)), v, port(n, &b), now),
                Step::Endpoints(n) => s.apply(ResourceName::Endpoints(service(n)), v, endpoints(n), now),
                Step::Remove(n) => s.remove(&n, None, now),
                Step::Refuse(n) => s.refuse(n, v, "odd".into(), now),
                Step::Sweep => s.sweep(now, idle),
                Step::Reconnect => {
                    let all = s.restate();
                    prop_assert_eq!(all.len(), s.entries.len());
                }
            }
            check(&s, &leases);
            while let Some(update) = s.take_update(consumer) {
                match update {
                    Update::ServicePort(n, v) => set(&mut seen, ResourceName::ServicePort(n), v.map(Resource::ServicePort)),
                    Update::Endpoints(n, v) => set(&mut seen, ResourceName::Endpoints(n), v.map(Resource::Endpoints)),
                    Update::Target(a, v) => set(&mut seen, ResourceName::Address(a), v.map(Resource::Target)),
                    other => panic!("{other:?}"),
                }
            }
            let known: AHashMap<_, _> =
                s.entries.iter().filter_map(|(n, e)| Some((n.clone(), e.value.clone()?))).collect();
            prop_assert_eq!(&seen, &known, "a consumer that follows the updates has what the table has");
        }
        for l in leases.drain(..) {
            s.release(&l, now);
        }
        // what was needed by what expired expires after it
        for _ in 0..4 {
            now += idle;
            s.sweep(now, idle);
        }
        prop_assert!(s.entries.is_empty(), "{:?}", s.dump());
        // and the controller was told of all that went, or never told that it was wanted
        let outbox = s.take_outbox();
        prop_assert!(outbox.subscribe.is_empty());
    }
}
fn set(seen: &mut AHashMap<ResourceName, Resource>, name: ResourceName, value: Option<Resource>) {
    match value {
        Some(v) => seen.insert(name, v),
        None => seen.remove(&name),
    };
}
