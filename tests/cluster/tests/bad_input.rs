//! Routes that are wrong, each in one way: a condition or an Event names field and fix, or the API server refuses them; a good route beside them keeps working.

#![allow(clippy::unwrap_used)]

use k8s_openapi::api::core::v1::Event;
use kube::{
    ResourceExt as _,
    api::{Api, DynamicObject, ListParams, PostParams},
};
use serde_json::{Value, json};
use weft_test_cluster::{
    Namespace, SOON, eventually,
    mesh::{ENABLED, Workload, installed, route},
};

/// One rule to a backend, with more fields.
fn rules(backend: Value, more: Value) -> Value {
    let mut rule = json!({"backendRefs": [backend]});
    for (key, value) in more.as_object().unwrap() {
        rule[key] = value.clone();
    }
    json!([rule])
}
fn http(name: &str, parent: Value, rules: Value) -> Value {
    route("HTTPRoute", name, parent, rules)
}
/// A route on Service `other`, which is correct but for what is given.
fn with(name: &str, more: Value) -> Value {
    http(name, json!({"name": "other"}), rules(json!({"name": "other", "port": 80}), more))
}
fn to(name: &str, backend: Value) -> Value {
    http(name, json!({"name": "other"}), rules(backend, json!({})))
}
fn on(name: &str, parent: Value) -> Value {
    http(name, parent, rules(json!({"name": "other", "port": 80}), json!({})))
}
fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

/// What is asked of a condition: type, status, reason, words of its message.
type Said = (&'static str, &'static str, &'static str, &'static [&'static str]);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster with Weft"]
async fn every_mistake_is_said_and_stops_nobody() {
    installed().await;
    let ns = Namespace::new("bad", &[ENABLED]).await;
    let far = Namespace::new("far", &[]).await;
    let port = json!([{"name": "http", "port": 80}]);
    for s in [
        service("other", json!({"selector": {"app": "none"}, "ports": port})),
        service("twin", json!({"selector": {"app": "none"}, "ports": port})),
        service("headless", json!({"clusterIP": "None", "selector": {"app": "none"}, "ports": port})),
        service("alias", json!({"type": "ExternalName", "externalName": "example.com"})),
    ] {
        ns.apply(s).await;
    }
    far.apply(service("far", json!({"selector": {"app": "none"}, "ports": port}))).await;
    // the good one
    let (client, ()) = tokio::join!(ns.caller("client"), ns.start([Workload::sample("web", &[])]));
    let good = http("good", json!({"name": "web"}), {
        let filter = json!({"filters": [{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "x-route", "value": "good"}]}}]});
        rules(json!({"name": "web", "port": 80}), filter)
    });
    ns.in_force(good).await;
    let works = |when: &str| {
        let answer = client.get(&ns.url("web", "/"), "-D -");
        assert!(answer.status == 200 && answer.text.contains("x-route: good"), "{when}: {answer:?}");
    };
    let routed = async || {
        let answer = client.get(&ns.url("web", "/"), "-D -");
        if answer.text.contains("x-route: good") { Ok(()) } else { Err(answer) }
    };
    eventually("the good route", SOON, routed).await;

    let no_parent = |words: &'static [&'static str]| -> Said { ("Accepted", "False", "NoMatchingParent", words) };
    let conditions: &[(Value, Said)] = &[
        // parents
        (
            on("parent-group", json!({"name": "other", "group": "gateway.networking.k8s.io"})),
            no_parent(&["spec.parentRefs[0].group", "add group: \"\""]),
        ),
        (
            on("parent-port", json!({"name": "other", "port": 81})),
            no_parent(&["spec.parentRefs[0].port", "no TCP port 81", "its ports are 80"]),
        ),
        (
            on("parent-name", json!({"name": "othr"})),
            no_parent(&["spec.parentRefs[0].name", "does not exist", "did you mean other?"]),
        ),
        (
            on("parent-section", json!({"name": "other", "sectionName": "http"})),
            no_parent(&["spec.parentRefs[0].sectionName", "choose a port by its number"]),
        ),
        (
            on("parent-headless", json!({"name": "headless"})),
            no_parent(&["spec.parentRefs[0].name", "headless", "give the Service a ClusterIP"]),
        ),
        (
            on("parent-alias", json!({"name": "alias"})),
            no_parent(&["spec.parentRefs[0].name", "ExternalName", "name a Service with a ClusterIP"]),
        ),
        // backends
        (
            to("backend-name", json!({"name": "othr", "port": 80})),
            ("ResolvedRefs", "False", "BackendNotFound", &["spec.rules[0].backendRefs[0].name", "did you mean other?"]),
        ),
        (
            to("backend-port", json!({"name": "other", "port": 81})),
            (
                "ResolvedRefs",
                "False",
                "BackendNotFound",
                &["spec.rules[0].backendRefs[0].port", "asked for 81", "are 80"],
            ),
        ),
        (
            to("backend-kind", json!({"group": "apps", "kind": "Deployment", "name": "web", "port": 80})),
            ("ResolvedRefs", "False", "InvalidKind", &["spec.rules[0].backendRefs[0].kind", "name a Service"]),
        ),
        (
            to("backend-grant", json!({"name": "far", "namespace": far.name, "port": 80})),
            (
                "ResolvedRefs",
                "False",
                "RefNotPermitted",
                &["spec.rules[0].backendRefs[0].namespace", "add a ReferenceGrant"],
            ),
        ),
        (
            to("backend-alias", json!({"name": "alias", "port": 80})),
            (
                "ResolvedRefs",
                "False",
                "UnsupportedValue",
                &["spec.rules[0].backendRefs[0].name", "name a Service with endpoints"],
            ),
        ),
        // what rules say
        (
            with(
                "filter",
                json!({"filters": [{"type": "ExtensionRef", "extensionRef": {"group": "example.com", "kind": "Magic", "name": "wand"}}]}),
            ),
            ("ResolvedRefs", "False", "InvalidKind", &["spec.rules[0].filters[0].extensionRef", "Magic"]),
        ),
        (
            with("regex", json!({"matches": [{"path": {"type": "RegularExpression", "value": "/(?=a)"}}]})),
            ("Accepted", "False", "UnsupportedValue", &["spec.rules[0].matches[0].path.value", "no look-around"]),
        ),
        (
            http("regex-of-two", json!({"name": "other"}), {
                let bad = json!({"matches": [{"headers": [{"type": "RegularExpression", "name": "x", "value": "("}]}]});
                json!([
                    rules(json!({"name": "other", "port": 80}), bad)[0],
                    rules(json!({"name": "other", "port": 80}), json!({}))[0],
                ])
            }),
            (
                "PartiallyInvalid",
                "True",
                "UnsupportedValue",
                &["Dropped Rule", "spec.rules[0].matches[0].headers[0].value"],
            ),
        ),
        (
            with("ignored", json!({"sessionPersistence": {"type": "Cookie", "cookie": {"name": "s"}}})),
            (
                "PartiallyInvalid",
                "True",
                "UnsupportedValue",
                &["spec.rules[0].sessionPersistence", "has no effect", "remove it"],
            ),
        ),
        // beside other routes
        (
            with("same-match", json!({"matches": [{"path": {"value": "/b"}}, {"path": {"value": "/b"}}]})),
            ("weft.dev/Shadowed", "True", "SameMatch", &["spec.rules[0].matches[1]", "same match and wins"]),
        ),
        (
            http("conflict", json!({"name": "twin"}), rules(json!({"name": "other", "port": 80}), json!({}))),
            (
                "Accepted",
                "False",
                "Conflicted",
                &["spec.parentRefs[0]", "port 80 belongs to GRPCRoute", "one kind only"],
            ),
        ),
    ];
    let winner =
        route("GRPCRoute", "winner", json!({"name": "twin"}), rules(json!({"name": "other", "port": 80}), json!({})));
    ns.in_force(winner).await;
    for (object, _) in conditions {
        ns.apply(object.clone()).await;
    }
    for (object, (kind, status, reason, words)) in conditions {
        let said = async || {
            let all = ns.conditions(object).await?;
            let found = all.iter().find(|c| c["type"] == *kind && c["status"] == *status && c["reason"] == *reason);
            let message = found.and_then(|c| c["message"].as_str()).unwrap_or_default();
            if found.is_some() && words.iter().all(|w| message.contains(w)) { Ok(()) } else { Err(format!("{all:?}")) }
        };
        eventually(&format!("{}: {kind}={status} {reason} {words:?}", object["metadata"]["name"]), SOON, said).await;
    }
    works("beside routes with conditions");

    // valid, and hardly what was meant
    let retry = |name: &str, timeouts: Value, retry: Value| with(name, json!({"timeouts": timeouts, "retry": retry}));
    let mut post = with("post", json!({"retry": {"codes": [503], "attempts": 1}}));
    post["spec"]["rules"][0]["matches"] = json!([{"method": "POST"}]);
    let mut nobody = on("consumer", json!({"name": "web", "namespace": ns.name}));
    nobody["spec"]["rules"][0]["backendRefs"] = json!([{"name": "far", "port": 80}]);
    let doubts: &[(&Namespace, Value, &str, &[&str])] = &[
        (
            &ns,
            retry("client-error", json!({}), json!({"codes": [404], "attempts": 1})),
            "RetryOfClientError",
            &["spec.rules[0].retry.codes[0]", "500, 502, 503, 504"],
        ),
        (&ns, post, "RetryNotIdempotent", &["spec.rules[0].matches[0].method", "rule of its own"]),
        (
            &ns,
            retry(
                "too-many",
                json!({"request": "1s", "backendRequest": "400ms"}),
                json!({"codes": [503], "attempts": 5, "backoff": "10ms"}),
            ),
            "RetryExceedsTimeout",
            &["spec.rules[0].retry.attempts", "at most"],
        ),
        (
            &ns,
            retry("too-late", json!({"request": "1s"}), json!({"codes": [503], "attempts": 1, "backoff": "2s"})),
            "BackoffExceedsTimeout",
            &["spec.rules[0].retry.backoff", "a tenth of timeouts.request"],
        ),
        (
            &ns,
            to("no-weight", json!({"name": "other", "port": 80, "weight": 0})),
            "WeightsZero",
            &["spec.rules[0].backendRefs", "give one backend a weight"],
        ),
        (&far, nobody, "ConsumerNotMeshed", &["spec.parentRefs[0].namespace", "label the namespace"]),
    ];
    for (within, object, _, _) in doubts {
        within.apply(object.clone()).await;
    }
    for (within, object, reason, words) in doubts {
        let name = object["metadata"]["name"].as_str().unwrap();
        let events = Api::<Event>::namespaced(within.client.clone(), &within.name);
        let of = ListParams::default().fields(&format!("involvedObject.name={name},reason={reason}"));
        let heard = async || {
            let all = events.list(&of).await.map_err(|e| e.to_string())?.items;
            let messages: Vec<String> = all.into_iter().filter_map(|e| e.message).collect();
            let it = messages.iter().any(|m| words.iter().all(|w| m.contains(w)));
            if it { Ok(()) } else { Err(format!("{messages:?}")) }
        };
        eventually(&format!("an Event {reason} about {name}"), SOON, heard).await;
    }
    for _ in 0..5 {
        works("beside all of them");
    }
    drop(far);
}

/// What the definitions refuse never comes to be; the refusal names the field.
#[tokio::test]
#[ignore = "needs a cluster with Weft"]
async fn what_the_api_server_refuses() {
    installed().await;
    let ns = Namespace::new("refused", &[]).await;
    let resource = kube::discovery::pinned_kind(
        &ns.client,
        &kube::api::GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute"),
    )
    .await
    .unwrap()
    .0;
    let api: Api<DynamicObject> = Api::namespaced_with(ns.client.clone(), &ns.name, &resource);
    let two = json!([{"name": "X", "value": "1"}, {"name": "X", "value": "2"}]);
    for (object, field) in [
        (with("method", json!({"matches": [{"method": "FETCH"}]})), "spec.rules[0].matches[0].method"),
        (with("path", json!({"matches": [{"path": {"type": "Glob", "value": "/"}}]})), "matches[0].path.type"),
        (with("relative", json!({"matches": [{"path": {"type": "Exact", "value": "a"}}]})), "matches[0].path"),
        (with("twice", json!({"matches": [{"headers": two}]})), "matches[0].headers[1]"),
        (with("filter", json!({"filters": [{"type": "Teleport"}]})), "filters[0].type"),
        (with("code", json!({"retry": {"codes": [200]}})), "retry.codes[0]"),
        (with("duration", json!({"timeouts": {"request": "1 minute"}})), "timeouts.request"),
        (with("order", json!({"timeouts": {"request": "1s", "backendRequest": "2s"}})), "timeouts"),
        (to("port", json!({"name": "other"})), "backendRefs[0]"),
        (to("weight", json!({"name": "other", "port": 80, "weight": -1})), "backendRefs[0].weight"),
    ] {
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let name = object.name_any();
        match api.create(&PostParams::default(), &object).await {
            Err(kube::Error::Api(e)) => {
                assert!(e.code == 422 && e.message.contains(field), "{name}: {} {}", e.code, e.message);
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}
