//! A scene: Services, pods with and without proxies, rules, and clients, drawn from a seed.

use super::{
    client::Slot,
    judge::{Sum, judge},
    plan::{Ended, Mood, Record, plan},
    rim::Rim,
    world::{Event, Target, World},
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use weft_core::{
    endpoint::{Endpoint, Endpoints, MeshPeer},
    filter::{Filters, Mirror},
    identity::WorkloadIdentity,
    matches::{HttpMatch, PathMatch},
    retry::{RetryPolicy, Timeouts},
    route::{BackendRef, HttpTable, RouteKind, RouteRef, Routes, Rule, RuleMatches, WeightedBackend},
    service::{Protocol, ServicePort, ServiceRef},
};
use weft_relay::{Accept, Census, Engine, EngineConfig, Shared, Side, Wire};

/// Services by number; the mirrored requests go to the last one.
const NAMES: [&str; 4] = ["front", "cart", "cart-v2", "shadow"];
const MIRROR: usize = 3;

pub fn service(n: usize) -> ServiceRef {
    ServiceRef { namespace: "shop".into(), name: NAMES[n].into(), port: 80 }
}
fn backend(n: usize, weight: u32) -> WeightedBackend {
    WeightedBackend { backend: BackendRef::Service(service(n)), weight, filters: Filters::default() }
}

fn rule(rng: &mut SmallRng, index: u32, mood: &Mood) -> Rule {
    let millis = |rng: &mut SmallRng, most| Some(Duration::from_millis(rng.random_range(20..most)));
    let timeouts = Timeouts {
        request: if !mood.calm() && rng.random_ratio(1, 3) { millis(rng, 3_000) } else { None },
        backend_request: if !mood.calm() && rng.random_ratio(1, 3) { millis(rng, 1_000) } else { None },
    };
    let retry = rng.random_ratio(1, 2).then(|| RetryPolicy {
        codes: if rng.random() { vec![503] } else { vec![500, 503, 504] },
        grpc_codes: vec![],
        attempts: rng.random_range(0..4),
        backoff: Duration::from_millis(rng.random_range(1..50)),
    });
    let mut filters = Filters::default();
    if rng.random_ratio(1, 4) {
        let (numerator, denominator) = if rng.random() { (1, 1) } else { (1, 2) };
        filters.mirrors.push(Mirror { backend: BackendRef::Service(service(MIRROR)), numerator, denominator });
    }
    let route = RouteRef { kind: RouteKind::Http, namespace: "shop".into(), name: "front".into(), created: 0 };
    let path = PathMatch::Prefix(format!("/rule{index}").into());
    Rule {
        route: Arc::new(route),
        index,
        name: None,
        matches: RuleMatches::Http(vec![HttpMatch { path, ..HttpMatch::default() }]),
        filters,
        backends: if rng.random() { vec![backend(1, 1)] } else { vec![backend(1, 3), backend(2, 1)] },
        timeouts,
        retry,
    }
}

/// Builds the scene of a seed, plays it to its end, and judges it.
pub fn play(seed: u64, exchanges: u32, trace: bool) -> Sum {
    let mut rng = SmallRng::seed_from_u64(seed ^ 0x5eed);
    let mood = Mood::draw(&mut rng);
    if trace {
        eprintln!("{mood:?}");
    }
    let mut world = World::new(seed, mood.clone(), trace);
    world.mirror = MIRROR;
    let rules: Vec<Rule> = (0..4).map(|i| rule(&mut rng, i, &mood)).collect();

    let now = world.now();
    // in some scenes memory is short: each process has 512 KiB for what streams make it hold
    let memory = (!mood.calm() && rng.random_ratio(1, 5)).then_some(2 << 20);
    let engine = |world: &mut World| {
        let config = EngineConfig { shared: Some(Shared::new(memory, now)), ..EngineConfig::default() };
        let rim = world.rims.len();
        world.rims.push(Rim::new(Engine::new(config, seed + rim as u64, now)));
        rim
    };
    engine(&mut world);
    let table = HttpTable::from(rules.iter().cloned().map(Arc::new).collect::<Vec<_>>());
    let front = ServicePort {
        service: service(0),
        protocol: Protocol::Http,
        routes: Routes::Http(Arc::new(table)),
        affinity: None,
        requests: Default::default(),
        addresses: vec![],
    };
    world.rims[0].engine.set_service(Arc::new(front), now);
    for (s, name) in NAMES.iter().enumerate().skip(1) {
        let http2 = rng.random_ratio(1, 3);
        let mut endpoints = vec![];
        for n in 0..rng.random_range(1..4u8) {
            let address: SocketAddr = ([10, 0, s as u8, n], 8080).into();
            let meshed = rng.random_ratio(3, 4);
            if meshed {
                let app: SocketAddr = ([10, 0, s as u8, n], 9080).into();
                let rim = engine(&mut world);
                world.targets.insert(address, Target::Mesh { rim, app });
                world.targets.insert(app, Target::App { service: s });
            } else {
                world.targets.insert(address, Target::App { service: s });
            }
            let identity = WorkloadIdentity::new("cluster.local", "shop", name).expect("a good name");
            let workload: Arc<str> = format!("{name}-{n}").into();
            endpoints.push(Arc::new(Endpoint {
                address,
                mesh: meshed.then(|| MeshPeer { uid: workload.clone(), identity }),
                zone: None,
                terminating: false,
                workload,
            }));
        }
        let list = Endpoints {
            service: service(s),
            endpoints,
            not_ready: 0,
            http2,
            prefer_zone: false,
            policy: Default::default(),
        };
        world.rims[0].engine.set_endpoints(Arc::new(list.clone()), now);
        world.lists.push(list);
    }
    if rng.random_ratio(1, 3) {
        world.at(50_000, Event::Edit);
    }
    // the longest scenes of jumping clocks would outlive the drain
    if !mood.jumps && rng.random_ratio(1, 3) {
        let rim = rng.random_range(0..world.rims.len());
        world.at(rng.random_range(0..500_000), Event::Drain(rim));
    }

    world.plans = (0..exchanges).map(|_| plan(&mut rng, &mood, rules.len())).collect();
    world.book = vec![Record::default(); exchanges as usize];
    let slots = rng.random_range(1..12);
    let mut todo = vec![vec![]; slots];
    (0..exchanges).for_each(|id| todo[rng.random_range(0..slots)].push(id));
    for todo in todo {
        world.slots.push(slot(&mut rng, todo));
    }
    // some clients have no proxy: they dial a meshed pod in plain text, and no rules apply
    let shadow = |app: &SocketAddr| matches!(world.targets[app], Target::App { service: MIRROR });
    let pods: Vec<_> = world.targets.values().filter_map(|t| t.inbound()).filter(|(_, app)| !shadow(app)).collect();
    let plain = world.slots.len() / 4;
    if let Some((rim, app)) = pods.into_iter().min_by_key(|(rim, _)| *rim) {
        for slot in &mut world.slots[..plain] {
            slot.rim = rim;
            slot.accept.side = Side::Inbound { app, peer: None };
            slot.todo.iter().for_each(|id| world.plans[*id as usize].rule = usize::MAX);
        }
    }
    finish(world, &rules)
}

/// The applications alone, without an engine between them: what the simulation itself, and the codecs, are worth.
pub fn play_direct(seed: u64, exchanges: u32, trace: bool) -> Sum {
    let mut rng = SmallRng::seed_from_u64(seed ^ 0x5eed);
    let mood = Mood::draw(&mut rng);
    let mut world = World::new(seed, mood.clone(), trace);
    world.plans = (0..exchanges).map(|_| plan(&mut rng, &mood, 1)).collect();
    world.book = vec![Record::default(); exchanges as usize];
    for id in 0..exchanges.min(8) {
        let mut slot = slot(&mut rng, (id..exchanges).step_by(8).collect());
        slot.direct = Some(1);
        world.slots.push(slot);
    }
    finish(world, &[])
}

fn slot(rng: &mut SmallRng, todo: Vec<u32>) -> Slot {
    let accept = Accept {
        side: Side::Outbound { service: service(0) },
        wire: if rng.random() { Wire::Http1 } else { Wire::Http2 },
        client: ([10, 9, 0, 1], 50_000).into(),
        original: ([10, 96, 0, 1], 80).into(),
    };
    Slot::new(todo, 0, accept, [1, 3, 20, 200][rng.random_range(0..4)])
}

pub fn finish(mut world: World, rules: &[Rule]) -> Sum {
    for slot in 0..world.slots.len() {
        let start = world.rng.random_range(0..10_000);
        world.at(start, Event::Next(slot));
    }
    if world.mood.jumps {
        world.at(1_000_000, Event::Jump);
    }
    // a day of the scene's time: whatever has not ended by then never does
    world.run(86_400_000_000, |w| {
        if w.steps % 64 == 0 {
            in_order(w);
        }
        w.slots.iter().all(Slot::is_done)
    });
    for (id, r) in world.book.iter().enumerate() {
        assert!(r.ended.is_some(), "seed {}: request {id} never ended: {r:#?}\n{:#?}", world.seed, world.plans[id]);
    }
    // nothing more goes wrong; what is under way ends, clients leave, and what is idle is closed
    world.quiet = true;
    world.rest(Duration::from_secs(120));
    world.leave_all();
    world.rest(Duration::from_secs(1_200));
    quiescent(&mut world);
    judge(&world, rules)
}

/// The books of every engine, at any time: they agree, and nothing exceeds its bound.
fn in_order(world: &mut World) {
    for rim in &mut world.rims {
        rim.engine.assert_balanced();
        let limits = rim.engine.config().limits.clone();
        let c = rim.engine.census();
        assert!(c.exchanges <= limits.exchanges, "seed {}: {c:?}", world.seed);
        assert!(c.replay <= weft_relay::replay::MOST_PER_PROCESS, "seed {}: {c:?}", world.seed);
        // an input of 64 KiB goes into an output as a whole, with heads and control frames around it; a mirror may be 256 KiB behind
        assert!(c.largest <= 256 * 1024 + 128 * 1024, "seed {}: {c:?}", world.seed);
        // what is queued is held on behalf of some stream, or is one read of an HTTP/1 connection that is then no longer read
        assert!(
            c.queued + c.output <= c.charged + c.connections * (256 * 1024 + 128 * 1024),
            "seed {}: {c:?}",
            world.seed
        );
        assert!(c.charged <= rim.engine.shared().credit.limit() + 64 * 1024, "seed {}: {c:?}", world.seed);
    }
}

/// Nothing is left behind, and the counters add up with what clients and applications saw.
fn quiescent(world: &mut World) {
    let seed = world.seed;
    for (i, rim) in world.rims.iter_mut().enumerate() {
        let c = rim.engine.census();
        assert_eq!(
            c,
            Census::default(),
            "seed {seed}: engine {i} still holds something: {:#?}",
            rim.engine.under_way()
        );
        assert_eq!(rim.open(), 0, "seed {seed}: engine {i} still has connections");
        assert_eq!(rim.engine.next_timer(), None, "seed {seed}: engine {i} still has timers");
        let snap = rim.engine.shared().registry.snapshot();
        let t = &snap.totals;
        assert_eq!(t.accepted_outbound + t.accepted_inbound + t.accepted_mesh, rim.accepted, "seed {seed}: engine {i}");
        assert_eq!(t.accepted_closed, rim.accepted, "seed {seed}: engine {i}: {t:?}");
        assert_eq!((t.dialed, t.dialed_closed), (rim.dialed, rim.dialed), "seed {seed}: engine {i}: {t:?}");
        assert_eq!((t.panics, t.protocol_errors), (0, 0), "seed {seed}: engine {i}: {t:?}");
        for (key, s) in &snap.series {
            assert_eq!(s.in_flight(), 0, "seed {seed}: engine {i}: {key:?} {s:?}");
            assert_eq!(s.latency.count(), s.requests, "seed {seed}: engine {i}: {key:?} {s:?}");
        }
    }
    if let Some(rim) = world.rims.first() {
        let snap = rim.engine.shared().registry.snapshot();
        let mut responses = [0; 6];
        for (_, s) in &snap.series {
            (0..6).for_each(|i| responses[i] += s.responses[i]);
        }
        let mut seen = [0; 6];
        let mut complete = [0; 6];
        for (r, _) in world.book.iter().zip(&world.plans).filter(|(_, p)| p.rule != usize::MAX) {
            let class = r.head.as_ref().map_or(0, |(status, ..)| *status as usize / 100);
            seen[class] += 1;
            // 408 answers a head that never became a request
            if r.ended == Some(Ended::Complete) && !matches!(r.head, Some((408, ..))) {
                complete[class] += 1;
            }
        }
        let exchanges = world.plans.iter().filter(|p| p.rule != usize::MAX).count() as u64;
        assert!(snap.requests() <= exchanges, "seed {seed}: more requests counted than were sent: {snap:?}");
        for class in 1..6 {
            // a client that gave up, or was cut off, may have missed what was sent to it; and one that had all bytes of a declared length may
            // have left before the upstream said that this was the end (class 0)
            let (counted, saw) = (responses[class], complete[class]);
            assert!(counted + responses[0] >= saw, "seed {seed}: class {class}: {responses:?} {complete:?} {seen:?}");
        }
        if world.mood.calm() {
            assert_eq!((snap.requests(), responses), (exchanges, seen), "seed {seed}");
        }
    }
}
