//! Against an API server with what the injector asks of one: get, list, create, replace, JSON patch, resource versions.

use super::*;
use crate::{inject::Settings, limits::Limits, metrics::Metrics};
use axum::http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use kube::client::Body;
use serde_json::Value;
use std::sync::Mutex;

type Hook = Box<dyn FnOnce(&mut Store) + Send>;

#[derive(Default)]
struct Store {
    version: u64,
    /// By the path of the request.
    objects: BTreeMap<String, Value>,
    down: bool,
    patches: usize,
    /// Before the next patch is looked at: somebody else is quicker.
    before_patch: Option<Hook>,
}

impl Store {
    fn put(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(path.to_owned(), object.clone());
        object
    }
    fn answer(&mut self, method: &Method, path: &str, query: &str, body: &[u8]) -> (StatusCode, Value) {
        let failure = |code: StatusCode| {
            (
                code,
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": code.to_string(), "reason": code.canonical_reason().unwrap().replace(' ', ""), "code": code.as_u16()}),
            )
        };
        let sent = || serde_json::from_slice::<Value>(body).unwrap();
        if self.down {
            return failure(StatusCode::SERVICE_UNAVAILABLE);
        }
        match *method {
            Method::GET if path.ends_with("/pods") => {
                let namespace = path.strip_prefix("/api/v1/namespaces/").map(|p| p.trim_end_matches("/pods"));
                let labelled = query.contains("labelSelector=weft.dev%2Finject%3Denabled");
                let pods = self.objects.iter().filter(|(path, p)| {
                    path.contains("/pods/")
                        && namespace.is_none_or(|n| p["metadata"]["namespace"] == n)
                        && (!labelled || p["metadata"]["labels"][knobs::INJECT] == "enabled")
                });
                (
                    StatusCode::OK,
                    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods.map(|(_, p)| p.clone()).collect::<Vec<_>>()}),
                )
            }
            Method::GET => match self.objects.get(path) {
                Some(o) => (StatusCode::OK, o.clone()),
                None => failure(StatusCode::NOT_FOUND),
            },
            Method::POST => {
                let object = sent();
                let name = object["metadata"]["name"]
                    .as_str()
                    .map_or_else(|| format!("generated-{}", self.version), str::to_owned);
                let at = format!("{path}/{name}");
                match self.objects.contains_key(&at) {
                    true => failure(StatusCode::CONFLICT),
                    false => (StatusCode::CREATED, self.put(&at, object)),
                }
            }
            Method::PUT => {
                let (object, now) = (sent(), self.objects.get(path).cloned().unwrap_or_default());
                match object["metadata"]["resourceVersion"] == now["metadata"]["resourceVersion"] {
                    true => (StatusCode::OK, self.put(path, object)),
                    false => failure(StatusCode::CONFLICT),
                }
            }
            Method::PATCH => {
                if let Some(hook) = self.before_patch.take() {
                    hook(self);
                }
                let mut object = self.objects[path].clone();
                let patch: json_patch::Patch = serde_json::from_slice(body).unwrap();
                match json_patch::patch(&mut object, &patch) {
                    Ok(()) => {
                        self.patches += 1;
                        (StatusCode::OK, self.put(path, object))
                    }
                    Err(_) => failure(StatusCode::UNPROCESSABLE_ENTITY),
                }
            }
            _ => failure(StatusCode::METHOD_NOT_ALLOWED),
        }
    }
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Store>>);

const CONFIGURATION: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/weft-injector";
const PAIR: &str = "/api/v1/namespaces/weft-system/secrets/weft-injector-tls";

impl Fake {
    fn new() -> Fake {
        weft_identity::provider::install();
        let fake = Fake::default();
        let hook = |name: &str| json!({"name": name, "clientConfig": {"service": {"name": "weft-injector", "namespace": "weft-system"}}, "sideEffects": "None", "admissionReviewVersions": ["v1"]});
        let webhooks = [hook("namespaces.injector.weft.dev"), hook("pods.injector.weft.dev")];
        fake.with(|s| s.put(CONFIGURATION, json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration", "metadata": {"name": "weft-injector"}, "webhooks": webhooks})));
        fake
    }
    fn with<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }
    fn client(&self) -> Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let fake = fake.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                let (status, answer) =
                    fake.with(|s| s.answer(&head.method, head.uri.path(), head.uri.query().unwrap_or_default(), &body));
                let response = Response::builder().status(status).header("content-type", "application/json");
                Ok::<_, tower::BoxError>(response.body(Full::new(axum::body::Bytes::from(answer.to_string()))).unwrap())
            }
        });
        Client::new(service, "weft-system")
    }
    /// Starts an injector's upkeep of its certificate.
    fn injector(&self) -> (watch::Receiver<Option<Arc<ServerConfig>>>, Arc<Shared>, tokio::task::JoinHandle<()>) {
        let (tell, tls) = watch::channel(None);
        let shared = shared(tls.clone());
        let (client, kept) = (self.client(), shared.clone());
        let task = tokio::spawn(async move { serving(client, "weft-system", kept, tell).await });
        (tls, shared, task)
    }
    fn secret(&self, key: &str) -> String {
        let object = self.with(|s| s.objects[PAIR].clone());
        let secret: Secret = serde_json::from_value(object).unwrap();
        String::from_utf8(secret.data.unwrap()[key].0.clone()).unwrap()
    }
    /// The caBundles of the configuration's entries.
    fn bundles(&self) -> Vec<String> {
        let object = self.with(|s| s.objects[CONFIGURATION].clone());
        let c: MutatingWebhookConfiguration = serde_json::from_value(object).unwrap();
        c.webhooks
            .into_iter()
            .flatten()
            .map(|w| String::from_utf8(w.client_config.ca_bundle.unwrap_or(ByteString(Vec::new())).0).unwrap())
            .collect()
    }
    fn is_repaired(&self) -> bool {
        let ca = self.secret("ca.crt");
        self.bundles().iter().all(|b| *b == ca)
    }
}

fn shared(tls: watch::Receiver<Option<Arc<ServerConfig>>>) -> Arc<Shared> {
    Arc::new(Shared {
        settings: Settings {
            image: "i".into(),
            image_pull_policy: "Always".into(),
            trust_domain: "cluster.local".into(),
            ca: "ca:1".into(),
            controller: "c:1".into(),
            native_sidecars: true,
            version: "0.1.0".into(),
            sidecar: crate::sidecar::Sidecar::default(),
        },
        bundle: watch::channel(None).1,
        namespaces: HashMap::new().into(),
        metrics: Metrics::default(),
        limits: Limits::default(),
        tls,
    })
}

/// Waits for a certificate; a minute of no progress is a failure that would otherwise be repeated for ever.
async fn served(tls: &mut watch::Receiver<Option<Arc<ServerConfig>>>) {
    tokio::time::timeout(Duration::from_secs(60), tls.wait_for(Option::is_some))
        .await
        .expect("no certificate")
        .unwrap();
}

/// Ten seconds of the cluster's time: within them everything must be right again (row 62).
async fn ten_seconds() {
    sleep(Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn row_62_a_stale_ca_bundle_is_repaired_within_ten_seconds() {
    let api = Fake::new();
    let (mut tls, shared, task) = api.injector();
    served(&mut tls).await;
    assert!(api.is_repaired() && api.bundles()[0].contains("BEGIN CERTIFICATE"));
    // an upgrade that replaced the object, a person, a restored backup
    for bundle in [Value::Null, json!("c3RhbGU="), json!("")] {
        api.with(|s| {
            let mut c = s.objects[CONFIGURATION].clone();
            c["webhooks"][1]["clientConfig"]["caBundle"] = bundle;
            s.put(CONFIGURATION, c);
        });
        assert!(!api.is_repaired());
        ten_seconds().await;
        assert!(api.is_repaired());
    }
    assert_eq!(shared.metrics.ca_bundle_repairs.load(Relaxed), 4);
    // what is right is left alone
    let patches = api.with(|s| s.patches);
    ten_seconds().await;
    assert_eq!(api.with(|s| s.patches), patches);
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn row_62_an_expired_or_broken_certificate_is_replaced_while_the_old_authority_is_still_believed() {
    let api = Fake::new();
    let (mut tls, shared, task) = api.injector();
    served(&mut tls).await;
    let (first, old) = (tls.borrow_and_update().clone().unwrap(), api.secret("ca.crt"));
    let change = |key: &str, text: &str| {
        api.with(|s| {
            let mut secret = s.objects[PAIR].clone();
            secret["data"][key] = json!(ByteString(text.as_bytes().to_vec()));
            s.put(PAIR, secret);
        })
    };
    change("not-after", "1");
    ten_seconds().await;
    let ca = api.secret("ca.crt");
    assert!(
        ca != old && ca.contains(old.trim()) && ca.matches("BEGIN").count() == 2,
        "replicas that serve the old one are believed"
    );
    assert!(api.is_repaired());
    let second = tls.borrow_and_update().clone().unwrap();
    assert!(!Arc::ptr_eq(&first, &second), "served without a restart");
    change("tls.key", "nonsense");
    ten_seconds().await;
    assert!(api.is_repaired() && api.secret("tls.key").contains("PRIVATE KEY"));
    api.with(|s| s.objects.remove(PAIR));
    ten_seconds().await;
    assert!(api.is_repaired() && tls.has_changed().unwrap());
    assert_eq!(shared.metrics.certificates.load(Relaxed), 4);
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn row_62_an_api_server_that_is_away_changes_nothing_and_a_missing_configuration_is_no_error() {
    let api = Fake::new();
    let (mut tls, _, task) = api.injector();
    served(&mut tls).await;
    tls.borrow_and_update();
    api.with(|s| s.down = true);
    sleep(Duration::from_secs(600)).await;
    assert!(tls.borrow().is_some() && !tls.has_changed().unwrap());
    api.with(|s| {
        s.down = false;
        s.objects.remove(PAIR);
        s.objects.remove(CONFIGURATION);
    });
    ten_seconds().await;
    assert!(tls.has_changed().unwrap() && !api.secret("tls.crt").is_empty());
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn row_62_two_injectors_agree() {
    let api = Fake::new();
    let (mut a, _, first) = api.injector();
    let (mut b, _, second) = api.injector();
    served(&mut a).await;
    served(&mut b).await;
    ten_seconds().await;
    assert!(api.is_repaired());
    let patches = api.with(|s| s.patches);
    sleep(Duration::from_secs(300)).await;
    assert_eq!(api.with(|s| s.patches), patches, "they take turns");
    // while one is about to write, the other has renewed the certificate: the one that knows less is refused
    api.with(|s| {
        let mut c = s.objects[CONFIGURATION].clone();
        c["webhooks"][0]["clientConfig"]["caBundle"] = json!("");
        s.put(CONFIGURATION, c);
        s.before_patch = Some(Box::new(|s| {
            let newer = Pair::make(WEBHOOK, "weft-system", OffsetDateTime::now_utc()).unwrap();
            let secret = serde_json::to_value(write(&newer, "weft-system", None)).unwrap();
            s.put(PAIR, secret);
            let mut c = s.objects[CONFIGURATION].clone();
            for i in 0..2 {
                c["webhooks"][i]["clientConfig"]["caBundle"] = json!(ByteString(newer.ca.clone().into_bytes()));
            }
            s.put(CONFIGURATION, c);
        }));
    });
    let before = api.with(|s| s.patches);
    ten_seconds().await;
    assert!(api.is_repaired());
    assert_eq!(api.with(|s| s.patches), before, "nobody wrote the older one");
    first.abort();
    second.abort();
}

#[tokio::test(start_paused = true)]
async fn pods_that_should_be_meshed_and_are_not_are_reported_once() {
    let api = Fake::new();
    let shared = shared(watch::channel(None).1);
    let labelled = knobs::Annotations::from([(knobs::INJECT.to_owned(), "enabled".to_owned())]);
    shared.namespaces.write().unwrap().insert("shop".into(), (labelled, Default::default()));
    let pod = |namespace: &str, name: &str, change: fn(&mut Value)| {
        let mut p = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": name, "uid": format!("{namespace}-{name}"), "labels": {}, "annotations": {}},
            "spec": {"containers": [{"name": "app"}]}, "status": {"phase": "Running"},
        });
        change(&mut p);
        api.with(|s| s.put(&format!("/api/v1/namespaces/{namespace}/pods/{name}"), p));
    };
    let enabled: fn(&mut Value) = |p| p["metadata"]["labels"][knobs::INJECT] = json!("enabled");
    pod("shop", "old", |_| {});
    pod("shop", "both", enabled);
    pod("plain", "own", enabled);
    pod("plain", "other", |_| {});
    pod("shop", "out", |p| p["metadata"]["labels"][knobs::INJECT] = json!("disabled"));
    pod("shop", "left", |p| p["metadata"]["annotations"][knobs::NOT_INJECTED] = json!("UDP"));
    pod("shop", "host", |p| p["spec"]["hostNetwork"] = json!(true));
    pod("shop", "done", |p| p["status"]["phase"] = json!("Succeeded"));
    pod("shop", "meshed", |p| p["spec"]["initContainers"] = json!([{"name": "weft-proxy"}]));
    let (client, kept) = (api.client(), shared.clone());
    let task = tokio::spawn(async move { report(client, "weft-system", "a", kept).await });
    let told = || {
        let events = api.with(|s| {
            s.objects.iter().filter(|(path, _)| path.contains("/events/")).map(|(_, e)| e.clone()).collect::<Vec<_>>()
        });
        let mut told: Vec<_> = events
            .iter()
            .map(|e| {
                format!(
                    "{}/{}",
                    e["regarding"]["namespace"].as_str().unwrap(),
                    e["regarding"]["name"].as_str().unwrap()
                )
            })
            .collect();
        told.sort();
        told
    };
    sleep(2 * REPORT).await;
    assert_eq!(told(), ["plain/own", "shop/both", "shop/old"]);
    assert_eq!(shared.metrics.unmeshed.load(Relaxed), 3);
    sleep(5 * REPORT).await;
    assert_eq!(told().len(), 3, "told once");
    api.with(|s| s.objects.remove("/api/v1/namespaces/shop/pods/old"));
    sleep(2 * REPORT).await;
    assert_eq!(shared.metrics.unmeshed.load(Relaxed), 2);
    task.abort();
}
