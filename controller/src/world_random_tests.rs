//! The world after any sequence of updates is the world that the remaining objects make from nothing: nothing touched is forgotten, nothing forgotten was needed.

use crate::{
    index::Mesh,
    object::{ObjectKey, Stored},
    source::{Update, folder::read_text},
    testing::{namespace, pod, route, svc},
    world::World,
};
use std::{collections::BTreeMap, sync::Arc};
use weft_core::service::ServiceRef;
use weft_discovery::Change;

/// xorshift64*
struct Dice(u64);
impl Dice {
    fn roll(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n
    }
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len())]
    }
}

const NAMESPACES: [&str; 3] = ["a", "b", "c"];
const NAMES: [&str; 3] = ["x", "y", "z"];

/// An object of a small world, so that names meet.
fn object(d: &mut Dice) -> String {
    let (ns, name) = (d.pick(&NAMESPACES), d.pick(&NAMES));
    let n = (d.roll(9) + 1) as u8;
    let far = d.pick(&NAMESPACES);
    let port = d.pick(&["", ", port: 80", ", port: 81"]);
    let rules = match d.roll(4) {
        0 => format!("[{{backendRefs: [{{name: {name}, port: 80}}]}}]"),
        1 => format!(
            "[{{matches: [{{path: {{value: /{name}}}}}], backendRefs: [{{name: x, namespace: {far}, port: 80}}, {{name: y, port: 81}}]}}]"
        ),
        2 => "[{matches: [{path: {type: RegularExpression, value: '['}}]}]".into(),
        _ => format!("[{{backendRefs: [{{name: z, namespace: {far}, port: 80, weight: {n}}}]}}]"),
    };
    match d.roll(14) {
        0 => namespace(ns, d.roll(2) == 0),
        1 | 2 => {
            let ports = d.pick(&[
                "[{name: http, port: 80, targetPort: web}]",
                "[{name: a, port: 80}, {name: b, port: 81, appProtocol: kubernetes.io/h2c}]",
            ]);
            svc(ns, name, n, ports).replace("10.96.0.", d.pick(&["10.96.0.", "10.96.1."]))
        }
        3 | 4 => pod(ns, name, n).replace(&format!("name: {name}-{n}"), &format!("name: {name}-{}", n % 2)),
        5 => format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {{namespace: {ns}, name: g}}\nspec: {{from: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: {far}}}], to: [{{group: '', kind: Service}}]}}\n"
        ),
        6 => format!(
            "---\napiVersion: weft.dev/v1alpha1\nkind: MeshTLSPolicy\nmetadata: {{namespace: {ns}, name: {name}}}\nspec: {{targetRefs: [{{group: '', kind: Namespace, name: {ns}}}], mode: {}}}\n",
            d.pick(&["Strict", "Permissive"])
        ),
        7 => format!(
            "---\napiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{namespace: {ns}, name: {}}}\nspec: {{targetRefs: [{{{}}}], timeouts: {{request: {n}s}}, {}}}\n",
            // two of them, so that they are in conflict
            d.pick(&["t", "u"]),
            d.pick(&[
                "group: '', kind: Service, name: x",
                "group: '', kind: Service, name: x, sectionName: http",
                "group: gateway.networking.k8s.io, kind: HTTPRoute, name: y"
            ]),
            d.pick(&["retry: {attempts: 2}", "loadBalancing: {type: Random}", "connectionLimits: {maxRequests: 3}"])
        ),
        9 => format!(
            "---\napiVersion: weft.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{namespace: {ns}, name: {name}}}\nspec: {{targetRefs: [{{group: '', kind: {}}}], action: {}, rules: [{{sources: [{{type: Namespace, namespace: {far}}}]}}]}}\n",
            d.pick(&["Pod, selector: {matchLabels: {app: x}}", "ServiceAccount, name: y"]),
            d.pick(&["Allow", "Deny"])
        ),
        8 => format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{namespace: {ns}, name: s{n}, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints: [{{addresses: [10.244.0.{n}]}}]\n"
        ),
        _ => route(
            d.pick(&["HTTPRoute", "HTTPRoute", "HTTPRoute", "GRPCRoute", "TCPRoute"]),
            ns,
            name,
            &format!("name: {}, namespace: {far}{port}", d.pick(&NAMES)),
            &rules,
        ),
    }
}

/// Everything that anybody can ask, as text.
fn answers(w: &World) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for ns in NAMESPACES {
        for name in NAMES {
            for port in [80, 81] {
                let s = ServiceRef { namespace: ns.into(), name: name.into(), port };
                for client in ["a", "b", "c", "other"] {
                    all.insert(format!("service {s}"), String::new());
                    all.insert(format!("port {s} for {client}"), format!("{:?}", w.service_port(client, &s)));
                }
                all.insert(format!("endpoints {s}"), format!("{:?}", w.endpoints(&s, None)));
            }
        }
    }
    for n in 1..10 {
        for net in ["10.96.0", "10.96.1", "10.244.0"] {
            let address = format!("{net}.{n}:80");
            all.insert(format!("address {address}"), format!("{:?}", w.lookup(address.parse().unwrap())));
        }
        all.insert(format!("inbound uid-{n}"), format!("{:?}", w.inbound(&format!("uid-{n}"))));
    }
    for r in w.reports() {
        all.insert(r.route.clone(), format!("{:?}", r.parents));
    }
    all
}

fn world_of(objects: &BTreeMap<ObjectKey, Stored>) -> Arc<World> {
    let w = World::new(Mesh::default());
    w.apply(&Update { apply: objects.values().cloned().collect(), ..Update::default() });
    w
}

/// What the news must name for a proxy to hear of a changed answer.
fn named(question: &str, news: &[Change]) -> bool {
    let text = |s: &ServiceRef| s.to_string();
    let word = |n: usize| question.split(' ').nth(n).unwrap_or_default();
    news.iter().any(|c| match c {
        Change::All => true,
        Change::ServicePort(s) => question.starts_with("port ") && text(s) == word(1),
        Change::Endpoints(s) => question.starts_with("endpoints ") && text(s) == word(1),
        Change::Address(ip) => question.starts_with("address ") && word(1).starts_with(&format!("{ip}:")),
        Change::Inbound(uid) => question == format!("inbound {uid}"),
        Change::Bundle => false,
    })
}

#[test]
fn incremental_is_from_scratch() {
    for seed in 1..=40u64 {
        let mut d = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let (w, mut objects) = (World::new(Mesh::default()), BTreeMap::new());
        let mut before = answers(&w);
        for step in 0..40 {
            let mut update = Update::default();
            for _ in 0..=d.roll(3) {
                if d.roll(4) == 0 && !objects.is_empty() {
                    let key: ObjectKey = objects.keys().nth(d.roll(objects.len())).cloned().unwrap();
                    if !update.apply.iter().any(|s: &Stored| s.object.key() == key) {
                        objects.remove(&key);
                        update.delete.push(key);
                    }
                } else {
                    let read = read_text("t", &object(&mut d));
                    // a TCPRoute with matches and the like
                    let Some(stored) = read.apply.into_iter().next() else { continue };
                    let key = stored.object.key();
                    update.delete.retain(|k| *k != key);
                    objects.insert(key, stored.clone());
                    update.apply.push(stored);
                }
            }
            let mut news = w.changes();
            w.apply(&update);
            let news: Vec<Change> = std::iter::from_fn(|| news.try_recv().ok()).flat_map(|b| b.to_vec()).collect();
            let (now, fresh) = (answers(&w), answers(&world_of(&objects)));
            for (question, answer) in &fresh {
                assert_eq!(
                    now.get(question),
                    Some(answer),
                    "seed {seed} step {step}: {question}\nafter {:?} -{:?}",
                    update.apply.iter().map(|s| s.object.key().to_string()).collect::<Vec<_>>(),
                    update.delete
                );
                // a proxy hears of what changed
                let old = before.get(question);
                let asked = ["port", "endpoints", "address", "inbound"]
                    .contains(&question.split(' ').next().unwrap_or_default());
                if asked && old != Some(answer) {
                    assert!(named(question, &news), "seed {seed} step {step}: nobody is told of {question}\n{news:?}");
                }
            }
            assert_eq!(now.len(), fresh.len(), "seed {seed} step {step}: a status of a route that is gone");
            before = now;
        }
    }
}

#[test]
fn the_cost_of_a_change_is_that_of_the_change() {
    let mut text = namespace("big", true);
    for n in 0..1000 {
        text += &svc("big", &format!("s{n}"), 1, "[{name: http, port: 80}]")
            .replace("10.96.0.1", &format!("10.96.{}.{}", n / 250, n % 250 + 1));
        text += &route(
            "HTTPRoute",
            "big",
            &format!("r{n}"),
            &format!("name: s{n}"),
            &format!("[{{backendRefs: [{{name: s{n}, port: 80}}]}}]"),
        );
    }
    let w = World::new(Mesh::default());
    w.apply(&read_text("t", &text));
    let edited = route("HTTPRoute", "big", "r7", "name: s7", "[{backendRefs: [{name: s7, port: 80, weight: 2}]}]");
    let touched = w.apply(&read_text("t", &edited));
    assert_eq!(
        (touched.services.len(), touched.endpoints.len(), touched.routes.len(), touched.addresses.len()),
        (1, 0, 1, 0)
    );
    let touched = w.apply(&read_text("t", &edited));
    assert!(touched.is_empty(), "the same again is no change");
    let touched = w.apply(&read_text("t", &pod("big", "s9", 3)));
    assert_eq!((touched.services.len(), touched.endpoints.len(), touched.routes.len()), (0, 1, 0));
}
