//! An API server in this process, for tests: objects by path, with what clients rely on (create-once, resourceVersions as preconditions, lists of a collection),
//! TokenReviews as told, and faults: away, slow, forbidden.

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::{Client, client::Body};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

#[derive(Default)]
struct Inner {
    objects: BTreeMap<String, Value>,
    /// Answers that are no objects: `/version`, subresources.
    raw: BTreeMap<String, String>,
    revision: u64,
    /// Token to the status of its review.
    reviews: BTreeMap<String, Value>,
    fault: Option<StatusCode>,
    delay: Option<Duration>,
    log: Vec<String>,
}

/// Clones share one server.
#[derive(Clone, Default)]
pub struct FakeApi(Arc<Mutex<Inner>>);

fn status(code: StatusCode, reason: &str, message: String) -> (StatusCode, Value) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code.as_u16()});
    (code, status)
}

/// Of the path of a collection: what comes before its kind, and the kind; for one of a single namespace, a kind that nothing has.
fn collection(path: &str) -> Option<(&str, &str)> {
    let parts: Vec<_> = path.split('/').skip(1).collect();
    let depth = if parts.first() == Some(&"api") { 2 } else { 3 };
    let prefix: usize = parts.iter().take(depth).map(|p| p.len() + 1).sum();
    match parts.get(depth..)? {
        [kind] => Some((&path[..prefix], kind)),
        // of one namespace: nothing of another
        ["namespaces", _, _] => Some((path, "")),
        _ => None,
    }
}

impl FakeApi {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
    pub fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.serve(request).await) }
        });
        Client::new(service, "default")
    }
    /// Every call fails with this status until told otherwise.
    pub fn fails(&self, with: Option<StatusCode>) {
        self.lock().fault = with;
    }
    pub fn is_slow(&self, by: Option<Duration>) {
        self.lock().delay = by;
    }
    /// `path`: that of the object, `/api/v1/namespaces/a/pods/b`.
    pub fn put(&self, path: &str, mut object: Value) {
        let mut s = self.lock();
        s.revision += 1;
        object["metadata"]["resourceVersion"] = s.revision.to_string().into();
        s.objects.insert(path.into(), object);
    }
    pub fn put_raw(&self, path: &str, text: &str) {
        self.lock().raw.insert(path.into(), text.into());
    }
    pub fn get(&self, path: &str) -> Option<Value> {
        self.lock().objects.get(path).cloned()
    }
    pub fn remove(&self, path: &str) -> Option<Value> {
        self.lock().objects.remove(path)
    }
    /// What a review of `token` says.
    pub fn knows_token(&self, token: &str, status: Value) {
        self.lock().reviews.insert(token.into(), status);
    }
    /// Calls so far, `METHOD path`.
    pub fn calls(&self) -> Vec<String> {
        self.lock().log.clone()
    }

    async fn serve(&self, request: Request<Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_string();
        let (fault, delay) = {
            let mut s = self.lock();
            s.log.push(format!("{} {path}", head.method));
            (s.fault, s.delay)
        };
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let (code, answer) = match fault {
            Some(code) => status(code, "", format!("told to fail with {code}")),
            // checked, and not kept
            None if head.uri.query().is_some_and(|q| q.contains("dryRun=All")) => (StatusCode::CREATED, body),
            None => self.answer(&head.method, &path, body),
        };
        let text = match answer {
            Value::String(raw) => raw,
            json => json.to_string(),
        };
        let mut response = Response::new(Body::from(text.into_bytes()));
        *response.status_mut() = code;
        response
    }

    fn answer(&self, method: &Method, path: &str, mut body: Value) -> (StatusCode, Value) {
        let mut s = self.lock();
        let s = &mut *s;
        let missing = || status(StatusCode::NOT_FOUND, "NotFound", format!("{path} not found"));
        let name = body["metadata"]["name"].as_str().unwrap_or_default().to_string();
        if path == "/apis/authentication.k8s.io/v1/tokenreviews" {
            let token = body["spec"]["token"].as_str().unwrap_or_default();
            let unknown = json!({"authenticated": false, "error": "[invalid bearer token, unknown]"});
            body["status"] = s.reviews.get(token).cloned().unwrap_or(unknown);
            return (StatusCode::CREATED, body);
        }
        // reviews are answered, not kept; nobody is allowed anything
        if *method == Method::POST && path.ends_with("accessreviews") {
            body["status"] = json!({"allowed": false});
            return (StatusCode::CREATED, body);
        }
        if let Some(raw) = s.raw.get(path) {
            return (StatusCode::OK, Value::String(raw.clone()));
        }
        s.revision += 1;
        let revision = s.revision.to_string();
        match *method {
            Method::GET => match (s.objects.get(path), collection(path)) {
                (Some(object), _) => (StatusCode::OK, object.clone()),
                (None, Some((prefix, kind))) => {
                    let within = |at: &str| match at.strip_prefix(path).and_then(|r| r.strip_prefix('/')) {
                        Some(name) => !name.contains('/'),
                        // of all namespaces: /api/v1/pods finds /api/v1/namespaces/*/pods/*
                        None => at
                            .strip_prefix(prefix)
                            .and_then(|r| r.strip_prefix("/namespaces/"))
                            .is_some_and(|r| matches!(r.split('/').collect::<Vec<_>>()[..], [_, k, _] if k == kind)),
                    };
                    let items: Vec<_> = s.objects.iter().filter(|(at, _)| within(at)).map(|(_, o)| o.clone()).collect();
                    (StatusCode::OK, json!({"metadata": {"resourceVersion": revision}, "items": items}))
                }
                (None, None) => missing(),
            },
            Method::POST => {
                let path = format!("{path}/{name}");
                if s.objects.contains_key(&path) {
                    return status(StatusCode::CONFLICT, "AlreadyExists", format!("{path} already exists"));
                }
                body["metadata"]["resourceVersion"] = revision.into();
                s.objects.insert(path, body.clone());
                (StatusCode::CREATED, body)
            }
            Method::PUT => {
                let Some(there) = s.objects.get(path) else { return missing() };
                let precondition = &body["metadata"]["resourceVersion"];
                if !precondition.is_null() && *precondition != there["metadata"]["resourceVersion"] {
                    return status(StatusCode::CONFLICT, "Conflict", format!("{path} has been modified"));
                }
                body["metadata"]["resourceVersion"] = revision.into();
                s.objects.insert(path.into(), body.clone());
                (StatusCode::OK, body)
            }
            _ => status(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", format!("{method} {path}")),
        }
    }
}
