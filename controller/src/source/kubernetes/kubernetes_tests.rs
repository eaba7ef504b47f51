use super::*;
use crate::{
    fake_api::{FakeApi, GATEWAY},
    index::{Members, Mesh},
    source::{folder::read_text, kubernetes::item::json, yaml},
    testing::*,
    world::World,
};
use serde_json::{Value, json};
use std::net::SocketAddr;
use tokio::time::{sleep, timeout};
use weft_core::service::Target;

const PATIENCE: Duration = Duration::from_secs(30);

pub struct Setup {
    pub api: FakeApi,
    pub world: Arc<World>,
    pub cluster: Arc<Cluster>,
    pub metrics: Arc<Metrics>,
    pub stop: CancellationToken,
}
impl Setup {
    pub async fn new(api: FakeApi, members: Members) -> Self {
        let (metrics, stop) = (Arc::<Metrics>::default(), CancellationToken::new());
        let world = World::new(Mesh { members, ..Mesh::default() });
        let source = Kubernetes::new(api.client(), metrics.clone());
        let cluster = source.cluster();
        let (following, stopped) = (world.clone(), stop.clone());
        tokio::spawn(async move { following.follow(source, stopped).await.unwrap() });
        timeout(PATIENCE, world.complete().wait_for(|c| *c)).await.unwrap().unwrap();
        Self { api, world, cluster, metrics, stop }
    }
    /// Waits until something holds, looking after every change.
    pub async fn until(&self, what: &str, holds: impl Fn(&World) -> bool) {
        let seen = async {
            while !holds(&self.world) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("never: {what}"));
    }
    fn lookup(&self, at: &str) -> Target {
        self.world.lookup(at.parse::<SocketAddr>().unwrap())
    }
    fn findings(&self) -> Vec<String> {
        self.world.findings().borrow().iter().map(|f| format!("{} {f}", f.code)).collect()
    }
}
impl Drop for Setup {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The documents of a text, as an API server would hold them.
pub fn objects(text: &str) -> Vec<Value> {
    yaml::documents(text).into_iter().map(|d| json(&d.unwrap())).collect()
}
pub fn load(api: &FakeApi, text: &str) {
    objects(text).into_iter().for_each(|o| api.apply(o));
}
fn shop() -> String {
    [
        namespace("shop", true),
        namespace("web", true),
        svc("shop", "orders", 1, "[{name: http, port: 80, targetPort: 8080}]"),
        svc("shop", "stock", 2, "[{name: grpc, port: 9000}]"),
        pod("shop", "orders", 1),
        pod("shop", "orders", 2),
        pod("shop", "stock", 3),
    ]
    .concat()
}
fn http(name: &str, rules: &str) -> String {
    route("HTTPRoute", "shop", name, "name: orders", rules)
}
const RULES: &str = "[{backendRefs: [{name: orders, port: 80}]}]";

#[tokio::test(start_paused = true)]
async fn the_same_objects_make_the_same_world_as_in_a_folder() {
    let strict = "---\napiVersion: weft.dev/v1alpha1\nkind: MeshTLSPolicy\nmetadata: {namespace: shop, name: p}\nspec: {targetRefs: [{group: '', kind: Namespace, name: shop}], mode: Strict}\n";
    let slices = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {namespace: shop, name: stock-a, labels: {kubernetes.io/service-name: stock}}\naddressType: IPv4\nports: [{name: grpc, port: 9001}]\nendpoints:\n- {addresses: [10.244.0.3], conditions: {ready: true}, targetRef: {kind: Pod, name: stock-3, namespace: shop}}\n- {addresses: [10.244.0.9], conditions: {ready: false, serving: true, terminating: true}}\n";
    let text = [
        shop(),
        http("a", "[{matches: [{path: {value: /a}}], backendRefs: [{name: orders, port: 80}, {name: nowhere, port: 80}], timeouts: {request: 2s}}]"),
        http("b", RULES),
        route("HTTPRoute", "web", "own", "namespace: shop, name: orders", "[{backendRefs: [{namespace: shop, name: stock, port: 9000}]}]"),
        route("GRPCRoute", "shop", "g", "name: stock", "[{matches: [{method: {service: a.B}}]}]"),
        strict.into(),
        slices.into(),
    ]
    .concat()
    .replace("metadata: {", "metadata: {creationTimestamp: '2026-01-01T00:00:00Z', ");
    let update = read_text("t.yaml", &text);
    assert!(update.findings.as_ref().is_none_or(|f| f.is_empty()), "{:?}", update.findings);
    let folder = World::new(Mesh::default());
    folder.apply(&update);
    let api = FakeApi::default();
    api.install_gateway_api();
    api.install_weft();
    load(&api, &text);
    let s = Setup::new(api, Members::Labelled).await;
    for service in ["shop/orders:80", "shop/stock:9000"].map(service) {
        for client in ["shop", "web", "elsewhere"] {
            let (a, b) = (folder.service_port(client, &service), s.world.service_port(client, &service));
            assert!(a.is_some());
            assert_eq!(a, b, "{service} for {client}");
        }
        assert_eq!(folder.endpoints(&service, None), s.world.endpoints(&service, None));
    }
    for uid in ["uid-1", "uid-3"] {
        assert_eq!(folder.inbound(uid), s.world.inbound(uid));
        assert!(folder.inbound(uid).is_some());
    }
    for at in ["10.96.0.1:80", "10.96.0.2:9000", "10.244.0.1:1", "10.9.9.9:1"] {
        assert_eq!(folder.lookup(at.parse().unwrap()), s.lookup(at));
    }
    let told = |w: &World| {
        w.reports()
            .iter()
            .map(|r| (r.route.clone(), r.parents.iter().map(conditions).collect::<Vec<_>>()))
            .collect::<Vec<_>>()
    };
    assert_eq!(told(&folder), told(&s.world));
    assert_eq!(told(&folder).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn many_objects_come_in_pages() {
    let api = FakeApi::default();
    for i in 0..1_100 {
        load(
            &api,
            &format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{namespace: n{}, name: s{i}}}\nspec: {{clusterIP: 10.1.{}.{}, ports: [{{port: 80}}]}}\n",
                i % 7,
                i / 250,
                i % 250 + 1
            ),
        );
    }
    let s = Setup::new(api, Members::WithSidecar).await;
    assert_eq!(s.world.with_index(|i| i.services().count()), 1_100);
    let lists = s.api.requests().iter().filter(|r| *r == "GET /api/v1/services").count();
    assert_eq!(lists, 1_100usize.div_ceil(PAGE as usize));
}

#[tokio::test(start_paused = true)]
async fn membership_is_the_sidecar_and_not_the_label() {
    let with = "---\napiVersion: v1\nkind: Pod\nmetadata: {namespace: shop, name: new, uid: uid-new}\nspec: {initContainers: [{name: weft-proxy, image: x, restartPolicy: Always}], containers: [{name: app}]}\nstatus: {podIP: 10.244.0.40}\n";
    let api = FakeApi::default();
    load(&api, &(shop() + with));
    let s = Setup::new(api, Members::WithSidecar).await;
    let meshed = |at: &str| match s.lookup(at) {
        Target::Workload(e) => e.mesh.is_some(),
        other => panic!("{other:?}"),
    };
    assert_eq!((meshed("10.244.0.40:80"), meshed("10.244.0.1:80")), (true, false));
    // row 85: relabelling changes what new pods get, not what the running ones are
    let mut news = s.world.changes();
    load(&s.api, &namespace("shop", false));
    s.until("the label is gone", |w| w.with_index(|i| !i.namespace_meshed("shop"))).await;
    assert_eq!((meshed("10.244.0.40:80"), meshed("10.244.0.1:80")), (true, false));
    assert!(news.try_recv().is_ok());
}

#[tokio::test(start_paused = true)]
async fn ports_that_capture_leaves_alone_are_plain() {
    let pod = |annotation: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{namespace: shop, name: x, uid: uid-x, annotations: {{weft.dev/exclude-inbound-ports: '{annotation}'}}}}\nspec: {{initContainers: [{{name: weft-proxy}}], containers: [{{name: app}}]}}\nstatus: {{podIP: 10.244.0.40}}\n"
        )
    };
    let api = FakeApi::default();
    load(&api, &(shop() + &pod("9090, 8000-8010")));
    let s = Setup::new(api, Members::WithSidecar).await;
    let meshed = |port: u16| match s.lookup(&format!("10.244.0.40:{port}")) {
        Target::Workload(e) => e.mesh.is_some(),
        other => panic!("{other:?}"),
    };
    assert_eq!([7999, 8000, 8010, 8011, 9090].map(meshed), [true, false, false, true, false]);
}

#[tokio::test(start_paused = true)]
async fn a_broken_object_stops_no_other_and_keeps_its_last_good_state() {
    let api = FakeApi::default();
    api.install_gateway_api();
    let broken = |name: &str| {
        let mut o = objects(&http(name, RULES)).remove(0);
        o["spec"]["rules"][0]["backendRefs"][0]["port"] = "eighty".into();
        o
    };
    load(&api, &(shop() + &http("good", RULES)));
    api.apply(broken("never-good"));
    let s = Setup::new(api, Members::WithSidecar).await;
    let routes = |w: &World| w.reports().iter().map(|r| r.route.clone()).collect::<Vec<_>>();
    assert_eq!(routes(&s.world), ["HTTPRoute shop/good"]);
    let text = s.findings().join("\n");
    assert!(text.contains("field-invalid error: HTTPRoute shop/never-good: spec.rules[0].backendRefs[0].port: is string \"eighty\", must be u16; the object is left out"), "{text}");
    s.api.apply(broken("good"));
    s.until("it is told", |w| w.findings().borrow().iter().any(|f| f.object == "HTTPRoute shop/good")).await;
    assert!(s.findings().join("\n").contains("the last good version stays in use"));
    assert_eq!(routes_of(&s.world.service_port("shop", &service("shop/orders:80")).unwrap()), ["shop/good#0"]);
    // a relist does not take it away either
    s.api.compact();
    sleep(Duration::from_secs(10)).await;
    assert_eq!(routes(&s.world), ["HTTPRoute shop/good"]);
    load(&s.api, &http("never-good", RULES));
    s.until("mended", |w| routes(w).len() == 2).await;
    assert!(!s.findings().join("\n").contains("never-good"));
    // one field too many, of a newer definition: ignored and said
    let mut newer = objects(&http("never-good", RULES)).remove(0);
    newer["spec"]["rules"][0]["teleport"] = json!({"to": "mars"});
    s.api.apply(newer);
    s.until("it is told", |w| w.findings().borrow().iter().any(|f| f.code == "field-unknown")).await;
    assert_eq!(routes(&s.world).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_the_mesh_does_not_read_changes_nothing() {
    let api = FakeApi::default();
    api.install_gateway_api();
    load(&api, &(shop() + &http("r", RULES)));
    load(
        &api,
        "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nspec: {}\nstatus: {addresses: [{type: InternalIP, address: 172.18.0.2}]}\n",
    );
    let s = Setup::new(api, Members::WithSidecar).await;
    let mut news = s.world.changes();
    // a heartbeat, a written status, bookkeeping, a remark of somebody else
    for (mut o, field) in [
        (s.api.get("", "nodes", "", "n1").unwrap(), "status"),
        (s.api.get(GATEWAY, "httproutes", "shop", "r").unwrap(), "status"),
        (s.api.get("", "pods", "shop", "orders-1").unwrap(), "metadata"),
        (s.api.get("", "services", "shop", "orders").unwrap(), "metadata"),
    ] {
        match field {
            "status" => o["status"]["conditions"] = json!([{"type": "Seen", "status": "True"}]),
            _ => {
                o["metadata"]["managedFields"] = json!([{"manager": "kubectl"}]);
                o["metadata"]["annotations"] =
                    json!({"kubectl.kubernetes.io/last-applied-configuration": "{}", "other/remark": "1"});
            }
        }
        s.api.apply(o);
    }
    // a change that matters comes after them
    load(&s.api, &svc("shop", "late", 9, "[{port: 80}]"));
    s.until("the Service is there", |w| w.with_index(|i| i.service(&name("shop/late")).is_some())).await;
    let mut told = Vec::new();
    while let Ok(batch) = news.try_recv() {
        told.extend(batch.iter().cloned());
    }
    assert!(
        told.iter().all(|c| format!("{c:?}").contains("late") || format!("{c:?}").contains("10.96.0.9")),
        "{told:?}"
    );
    // but the writer of statuses knows
    let record = s.cluster.record(&ObjectKey::new(Kind::HTTPRoute, "shop", "r")).unwrap();
    assert_eq!((record.generation, &record.status["conditions"][0]["type"]), (1, &json!("Seen")));
}
#[tokio::test(start_paused = true)]
async fn row_75_an_hour_without_the_api_server() {
    for status in [503, 429] {
        let api = FakeApi::default();
        api.install_gateway_api();
        load(&api, &(shop() + &http("r", RULES)));
        let s = Setup::new(api, Members::WithSidecar).await;
        let orders = service("shop/orders:80");
        let before = s.world.service_port("shop", &orders).unwrap();
        let asked = s.api.requests().len();
        s.api.down(Some(status));
        sleep(Duration::from_secs(3_600)).await;
        // nothing is forgotten, and it is said
        assert_eq!(s.world.service_port("shop", &orders).unwrap(), before);
        assert!(
            s.findings().join("\n").contains("cannot be watched, so their last known state stays in use"),
            "{:?}",
            s.findings()
        );
        let asked = s.api.requests().len() - asked;
        let watches = 17;
        assert!(asked < watches * 3_600 / 2, "{asked} requests in an hour");
        // the history of that hour is compacted away: what came and went has to be found by comparing
        s.api.with(|a| {
            a.delete(GATEWAY, "httproutes", "shop", "r");
            objects(&svc("shop", "new", 7, "[{port: 80}]")).into_iter().for_each(|o| a.apply(o));
        });
        s.api.compact();
        s.api.down(None);
        let back = Instant::now();
        s.until("the route is gone", |w| w.reports().is_empty()).await;
        s.until("the Service is there", |w| {
            w.lookup("10.96.0.7:80".parse().unwrap()) == Target::Service(service("shop/new:80"))
        })
        .await;
        assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
        s.until("all is well", |w| w.findings().borrow().iter().all(|f| f.code == "kind-not-installed")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn row_78_definitions_come_and_go() {
    let api = FakeApi::default();
    load(&api, &shop());
    let s = Setup::new(api, Members::WithSidecar).await;
    assert!(s.findings().join("\n").contains("HTTPRoute"), "{:?}", s.findings());
    // an older release: v1beta1 only, and no other kind
    s.api.define(GATEWAY, &["v1beta1"], "HTTPRoute", "httproutes", true);
    load(&s.api, &http("r", RULES).replace("io/v1\n", "io/v1beta1\n"));
    s.until("the route is seen", |w| w.reports().len() == 1).await;
    // an upgrade in place
    s.api.define(GATEWAY, &["v1", "v1beta1"], "HTTPRoute", "httproutes", true);
    s.until("the newer version is watched", |_| {
        s.api.requests().iter().any(|r| r == "WATCH /apis/gateway.networking.k8s.io/v1/httproutes")
    })
    .await;
    assert_eq!(s.world.reports().len(), 1);
    // removed while running: its objects are gone, everything else stays
    s.api.with(|a| a.undefine(GATEWAY, "httproutes"));
    s.until("the route is gone", |w| w.reports().is_empty()).await;
    assert!(s.world.with_index(|i| i.service(&name("shop/orders")).is_some()));
    s.api.install_gateway_api();
    load(&s.api, &http("r", RULES));
    s.until("the route is back", |w| w.reports().len() == 1).await;
    s.until("nothing is missing", |w| !w.findings().borrow().iter().any(|f| f.message.contains("HTTPRoute"))).await;
    assert!(s.cluster.installed().borrow().bundles.contains("v1.7.0 standard"));
}

#[tokio::test(start_paused = true)]
async fn without_permission_it_waits_and_says_so() {
    let api = FakeApi::default();
    api.install_gateway_api();
    api.forbid("httproutes", true);
    load(&api, &(shop() + &http("r", RULES)));
    let world = World::new(Mesh::default());
    let (following, source, stop) =
        (world.clone(), Kubernetes::new(api.client(), Arc::default()), CancellationToken::new());
    let stopped = stop.clone();
    tokio::spawn(async move { following.follow(source, stopped).await.unwrap() });
    let mut findings = world.findings();
    timeout(PATIENCE, findings.wait_for(|f| f.iter().any(|f| f.fix.contains("docs/controller.md"))))
        .await
        .unwrap()
        .unwrap();
    // an index without routes would send traffic past them
    assert!(!*world.complete().borrow());
    api.forbid("httproutes", false);
    timeout(PATIENCE, world.complete().wait_for(|c| *c)).await.unwrap().unwrap();
    assert_eq!(world.reports().len(), 1);
    stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn row_83_slices_as_they_are() {
    let api = FakeApi::default();
    load(&api, &shop());
    let slice = |name: &str, family: &str, port: u16, endpoints: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{namespace: shop, name: {name}, labels: {{kubernetes.io/service-name: orders}}}}\naddressType: {family}\nports: [{{name: http, port: {port}}}]\nendpoints: [{endpoints}]\n"
        )
    };
    let ready = |ip: &str| format!("{{addresses: ['{ip}'], conditions: {{ready: true}}}}");
    load(&api, &slice("a", "IPv4", 8080, &[ready("10.244.0.1"), ready("10.244.0.2")].join(", ")));
    let s = Setup::new(api, Members::WithSidecar).await;
    let seen = |w: &World| -> Vec<String> {
        let e = w.endpoints(&service("shop/orders:80"), None).unwrap();
        e.endpoints.iter().map(|e| format!("{}{}", e.address, if e.terminating { "!" } else { "" })).collect()
    };
    assert_eq!(seen(&s.world), ["10.244.0.1:8080", "10.244.0.2:8080"]);
    // the same address in a second slice, another family, another port in another slice
    load(&s.api, &slice("b", "IPv4", 8080, &ready("10.244.0.2")));
    load(&s.api, &slice("c", "IPv6", 8080, &ready("fd00::1")));
    load(&s.api, &slice("d", "IPv4", 9090, &ready("10.244.0.5")));
    s.until("all slices", |w| seen(w).len() == 3).await;
    assert_eq!(seen(&s.world), ["10.244.0.1:8080", "10.244.0.2:8080", "10.244.0.5:9090"]);
    // terminating but serving stays for those who are on it; terminating and not serving goes
    let ending = "{addresses: [10.244.0.1], conditions: {ready: false, serving: true, terminating: true}}, {addresses: [10.244.0.2], conditions: {ready: false, serving: false, terminating: true}}";
    load(&s.api, &slice("a", "IPv4", 8080, ending));
    s.api.delete("discovery.k8s.io", "endpointslices", "shop", "b");
    s.until("terminating", |w| seen(w) == ["10.244.0.1:8080!", "10.244.0.5:9090"]).await;
    // churn ends where it should
    for n in 0..200 {
        load(&s.api, &slice("d", "IPv4", 9000 + n, &ready("10.244.0.5")));
    }
    s.until("the last one", |w| seen(w) == ["10.244.0.1:8080!", "10.244.0.5:9199"]).await;
    // publishNotReadyAddresses
    load(&s.api, &slice("d", "IPv4", 9000, "{addresses: [10.244.0.5], conditions: {ready: false}}"));
    s.until("not ready", |w| seen(w) == ["10.244.0.1:8080!"]).await;
    load(
        &s.api,
        &svc("shop", "orders", 1, "[{name: http, port: 80}]")
            .replace("spec:\n", "spec:\n  publishNotReadyAddresses: true\n"),
    );
    s.until("published", |w| seen(w).contains(&"10.244.0.5:9000".to_owned())).await;
}

#[tokio::test(start_paused = true)]
async fn row_84_a_service_of_the_same_name_is_another_service() {
    let api = FakeApi::default();
    api.install_gateway_api();
    load(&api, &(shop() + &http("r", RULES)));
    let s = Setup::new(api, Members::WithSidecar).await;
    let accepted = |w: &World| parent(w, "HTTPRoute shop/r").accepted();
    assert!(accepted(&s.world));
    s.api.with(|a| {
        a.delete("", "services", "shop", "orders");
        objects(&svc("shop", "orders", 77, "[{name: http, port: 80}]")).into_iter().for_each(|o| a.apply(o));
    });
    s.until("the new address", |w| {
        w.lookup("10.96.0.77:80".parse().unwrap()) == Target::Service(service("shop/orders:80"))
    })
    .await;
    assert_eq!(s.lookup("10.96.0.1:80"), Target::Outside);
    assert!(accepted(&s.world));
    // headless, an alias, and back
    for (spec, good) in [
        ("clusterIP: None", false),
        ("clusterIP: 10.96.0.78", true),
        ("type: ExternalName\n  externalName: stock.shop.svc.cluster.local", false),
    ] {
        load(&s.api, &svc("shop", "orders", 77, "[{name: http, port: 80}]").replace("clusterIP: 10.96.0.77", spec));
        s.until(spec, |w| accepted(w) == good).await;
        assert_eq!(s.lookup("10.96.0.77:80"), Target::Outside);
    }
    // its address belongs to somebody else afterwards
    load(&s.api, &svc("shop", "other", 77, "[{port: 80}]"));
    s.until("the other one", |w| {
        w.lookup("10.96.0.77:80".parse().unwrap()) == Target::Service(service("shop/other:80"))
    })
    .await;
}
