use super::*;
use crate::{
    inject::{INIT, PROXY},
    knobs,
};
use proptest::prelude::*;

fn settings() -> Settings {
    Settings {
        image: "weft.dev/weft-proxy:0.1.0".into(),
        image_pull_policy: "IfNotPresent".into(),
        trust_domain: "cluster.local".into(),
        ca: "weft-ca.weft-system.svc:15010".into(),
        controller: "weft-controller.weft-system.svc:15012".into(),
        native_sidecars: true,
        version: "0.1.0".into(),
        sidecar: crate::sidecar::Sidecar::default(),
    }
}
fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": "web-", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "web", "image": "web:1", "ports": [{"name": "http", "containerPort": 8080}], "fieldOfTomorrow": 1}]},
    })
}
fn body(pod: &Value) -> Vec<u8> {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {"uid": "u-1", "operation": "CREATE", "namespace": "shop", "resource": {"group": "", "version": "v1", "resource": "pods"}, "object": pod},
    })
    .to_string()
    .into_bytes()
}
fn shop(_: &str) -> Option<Annotations> {
    Some(Annotations::new())
}
const BUNDLE: &str = "-----BEGIN CERTIFICATE-----";

/// The response, and the pod as the API server would store it.
fn review(pod: &Value) -> (Value, Value, Outcome) {
    let (answer, outcome) = answer(&body(pod), &shop, Some(BUNDLE), &settings()).unwrap();
    assert_eq!((&answer["kind"], &answer["response"]["uid"]), (&json!("AdmissionReview"), &json!("u-1")));
    let mut after = pod.clone();
    if let Some(patch) = answer["response"]["patch"].as_str() {
        let patch: json_patch::Patch = serde_json::from_slice(&STANDARD.decode(patch).unwrap()).unwrap();
        json_patch::patch(&mut after, &patch).unwrap();
    }
    (answer["response"].clone(), after, outcome)
}
fn injected(pod: &Value) -> Value {
    let (response, after, outcome) = review(pod);
    assert_eq!((outcome, &response["allowed"]), (Outcome::Injected, &json!(true)), "{response}");
    after
}
fn denied(pod: &Value) -> String {
    let (response, after, outcome) = review(pod);
    assert_eq!((outcome, &response["allowed"], &after), (Outcome::Denied, &json!(false), pod));
    response["status"]["message"].as_str().unwrap().to_owned()
}
fn var<'v>(container: &'v Value, name: &str) -> &'v Value {
    let vars = container["env"].as_array().unwrap();
    vars.iter().find(|v| v["name"] == name).unwrap_or_else(|| panic!("{name} in {vars:?}"))
}

#[test]
fn a_pod_gets_init_container_and_native_sidecar_before_its_own() {
    let mut p = pod();
    p["spec"]["initContainers"] = json!([{"name": "migrate", "image": "m"}]);
    p["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
    p["spec"]["terminationGracePeriodSeconds"] = json!(7);
    let after = injected(&p);
    let names: Vec<_> =
        after["spec"]["initContainers"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, [INIT, PROXY, "migrate"]);
    assert_eq!(after["spec"]["containers"], p["spec"]["containers"], "fields of tomorrow included");
    let (init, proxy) = (&after["spec"]["initContainers"][0], &after["spec"]["initContainers"][1]);
    assert_eq!(init["securityContext"]["capabilities"], json!({"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]}));
    assert_eq!(var(init, "WEFT_EXCLUDE_INBOUND_PORTS")["value"], "15020");
    assert_eq!(proxy["restartPolicy"], "Always");
    assert_eq!(proxy["startupProbe"]["httpGet"], json!({"path": "/ready", "port": 15020}));
    assert_eq!(var(proxy, "WEFT_TRUST_BUNDLE")["value"], BUNDLE);
    assert_eq!(var(proxy, "WEFT_GRACE")["value"], "7");
    assert_eq!(var(proxy, "WEFT_POD_UID")["valueFrom"]["fieldRef"]["fieldPath"], "metadata.uid");
    // the token is the proxy's alone
    let mounts =
        |c: &Value| c["volumeMounts"].as_array().into_iter().flatten().filter(|m| m["name"] == "weft-token").count();
    assert_eq!((mounts(init), mounts(proxy), mounts(&after["spec"]["containers"][0])), (0, 1, 0));
    let volumes: Vec<_> =
        after["spec"]["volumes"].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap()).collect();
    assert_eq!(volumes, ["data", "weft-token", "weft-state"]);
    assert_eq!(after["spec"]["volumes"][1]["projected"]["sources"][0]["serviceAccountToken"]["audience"], "weft.dev");
    let annotations = &after["metadata"]["annotations"];
    assert_eq!(
        (&annotations[knobs::INJECTED], &annotations["kubectl.kubernetes.io/default-container"]),
        (&json!("0.1.0"), &json!("web"))
    );
}

/// A proxy that crashes finds what it knew, and the pod stays captured meanwhile: rules and state outlive the container.
#[test]
fn row_56_a_crash_of_the_proxy_loses_neither_state_nor_capture() {
    for native in ["true", "false"] {
        let mut p = pod();
        p["metadata"]["annotations"] = json!({"weft.dev/native-sidecar": native});
        let after = injected(&p);
        let all = ["initContainers", "containers"].map(|l| after["spec"][l].as_array().unwrap().clone()).concat();
        let proxy = all.iter().find(|c| c["name"] == PROXY).unwrap();
        let mounted = proxy["volumeMounts"].as_array().unwrap().iter().any(|m| m["name"] == "weft-state");
        let volumes = after["spec"]["volumes"].as_array().unwrap();
        let state = volumes.iter().find(|v| v["name"] == "weft-state").unwrap();
        assert!(mounted && state["emptyDir"]["medium"] == "Memory", "of the pod, not of the container");
        // nobody but the init container may touch the rules, and it ends before the application begins
        let able: Vec<_> =
            all.iter().filter(|c| c["securityContext"]["capabilities"]["add"].is_array()).map(|c| &c["name"]).collect();
        assert_eq!(able, [INIT]);
        assert!(proxy["lifecycle"]["preStop"]["exec"]["command"].as_array().unwrap().iter().all(|w| w != "remove"));
        // one that stands still for a minute is started anew, one that is slow is not
        let live = &proxy["livenessProbe"];
        assert_eq!(live["periodSeconds"].as_u64().unwrap() * live["failureThreshold"].as_u64().unwrap(), 60);
    }
}

/// Pod Security Standards, "restricted": everything but the init container.
#[test]
fn row_65_only_the_init_container_needs_more_than_the_restricted_profile() {
    let after = injected(&pod());
    let [init, proxy] = [0, 1].map(|i| after["spec"]["initContainers"][i]["securityContext"].clone());
    for c in [&init, &proxy] {
        assert_eq!(
            (&c["allowPrivilegeEscalation"], &c["privileged"], &c["readOnlyRootFilesystem"]),
            (&json!(false), &json!(false), &json!(true))
        );
        assert_eq!(
            (&c["seccompProfile"]["type"], &c["capabilities"]["drop"]),
            (&json!("RuntimeDefault"), &json!(["ALL"]))
        );
    }
    assert_eq!((&proxy["runAsNonRoot"], &proxy["capabilities"]["add"]), (&json!(true), &Value::Null));
    for c in after["spec"]["initContainers"].as_array().unwrap() {
        for (kind, what) in [("requests", "cpu"), ("requests", "memory"), ("limits", "memory")] {
            assert!(c["resources"][kind][what].is_string(), "a quota asks for {kind}.{what}");
        }
    }
}

#[test]
fn without_native_sidecars_a_gate_holds_the_application_back() {
    let mut p = pod();
    p["metadata"]["annotations"] = json!({"weft.dev/native-sidecar": "false"});
    p["spec"]["initContainers"] = json!([{"name": "migrate", "image": "m"}]);
    let after = injected(&p);
    let names = |list: &str| {
        after["spec"][list]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names("initContainers"), ["migrate", INIT]);
    assert_eq!(names("containers"), [PROXY, "web"]);
    let proxy = &after["spec"]["containers"][0];
    assert_eq!(proxy["lifecycle"]["postStart"]["exec"]["command"][1], "wait");
    assert!(proxy["restartPolicy"].is_null() && proxy["startupProbe"].is_null());
}

#[test]
fn tcp_and_grpc_probes_go_through_the_proxy() {
    let mut p = pod();
    p["spec"]["containers"][0]["livenessProbe"] = json!({"tcpSocket": {"port": "http"}, "periodSeconds": 3});
    p["spec"]["containers"][0]["readinessProbe"] = json!({"httpGet": {"path": "/ok", "port": 8080}});
    p["spec"]["containers"][0]["startupProbe"] = json!({"tcpSocket": {"port": "nothing"}});
    let (response, after, _) = review(&p);
    let c = &after["spec"]["containers"][0];
    let get = |path: &str, millis: &str| json!({"path": path, "port": 15020, "scheme": "HTTP", "httpHeaders": [{"name": "weft-probe-timeout-ms", "value": millis}]});
    assert_eq!(c["livenessProbe"], json!({"httpGet": get("/probe/tcp/8080", "900"), "periodSeconds": 3}));
    assert_eq!(
        (&c["readinessProbe"], &c["startupProbe"]),
        (&p["spec"]["containers"][0]["readinessProbe"], &p["spec"]["containers"][0]["startupProbe"])
    );
    assert!(response["warnings"][0].as_str().unwrap().contains("startupProbe"), "{response}");
    p["metadata"]["annotations"] = json!({"weft.dev/rewrite-probes": "false"});
    assert_eq!(injected(&p)["spec"]["containers"], p["spec"]["containers"]);
    let mut p = pod();
    p["spec"]["containers"][0]["livenessProbe"] =
        json!({"grpc": {"port": 9000, "service": "shop.Orders"}, "timeoutSeconds": 5, "failureThreshold": 2});
    p["spec"]["containers"][0]["readinessProbe"] = json!({"grpc": {"port": 9000, "service": null}});
    p["spec"]["containers"][0]["startupProbe"] = json!({"grpc": {"port": 9000, "service": "x".repeat(300)}});
    let (response, after, _) = review(&p);
    let c = &after["spec"]["containers"][0];
    assert_eq!(
        c["livenessProbe"],
        json!({"httpGet": get("/probe/grpc/9000/shop.Orders", "4500"), "timeoutSeconds": 5, "failureThreshold": 2})
    );
    assert_eq!(c["readinessProbe"], json!({"httpGet": get("/probe/grpc/9000", "900")}));
    assert_eq!(c["startupProbe"], p["spec"]["containers"][0]["startupProbe"]);
    assert!(response["warnings"][0].as_str().unwrap().contains("startupProbe.grpc.service"), "{response}");
}

#[test]
fn row_60_an_injected_pod_is_left_alone_and_our_names_are_refused() {
    let once = injected(&pod());
    let (response, twice, outcome) = review(&once);
    assert_eq!((outcome, &twice, &response["patch"]), (Outcome::Nothing, &once, &Value::Null));
    for (list, name) in
        [("containers", PROXY), ("containers", INIT), ("initContainers", PROXY), ("ephemeralContainers", INIT)]
    {
        let mut p = pod();
        let c = json!({"name": name, "image": "x"});
        match p["spec"][list].as_array_mut() {
            Some(l) => l.push(c),
            None => p["spec"][list] = json!([c]),
        }
        let text = denied(&p);
        assert!(text.contains(&format!("spec.{list}[")) && text.contains("is the mesh's"), "{text}");
    }
    let mut p = pod();
    p["spec"]["volumes"] = json!([{"name": "weft-token", "emptyDir": {}}]);
    assert!(denied(&p).contains("spec.volumes[0].name"));
    let mut p = pod();
    p["spec"]["securityContext"] = json!({"runAsUser": 2102});
    assert!(denied(&p).contains("runAsUser"));
    let mut p = pod();
    p["spec"]["containers"][0]["ports"] = json!([{"containerPort": 15006}]);
    assert!(denied(&p).contains("containerPort"));
    // an annotation alone makes nobody injected
    let mut p = pod();
    p["metadata"]["annotations"] = json!({"weft.dev/injected": "0.1.0"});
    injected(&p);
    // five hundred containers, and init containers that keep running
    let mut p = pod();
    p["spec"]["containers"] = (0..500).map(|n| json!({"name": format!("c{n}"), "image": "x"})).collect();
    p["spec"]["initContainers"] = json!([{"name": "vpn", "image": "v", "restartPolicy": "Always"}]);
    assert_eq!(injected(&p)["spec"]["initContainers"].as_array().unwrap().len(), 3);
}

#[test]
fn row_60_what_is_no_review_is_answered_cleanly() {
    let bad = |body: &[u8]| answer(body, &shop, Some(BUNDLE), &settings()).unwrap_err().0;
    assert!(bad(b"{").starts_with("the body is no AdmissionReview"));
    assert!(bad(b"[]").contains("kind"));
    let text = String::from_utf8(body(&pod())).unwrap();
    assert!(bad(text.replace("admission.k8s.io/v1", "admission.k8s.io/v1beta1").as_bytes()).contains("v1beta1"));
    assert_eq!(bad(text.replace("u-1", "").as_bytes()), "request.uid is missing");
    // other kinds, other operations, subresources: allowed as they are
    for (from, to) in [
        ("\"CREATE\"", "\"UPDATE\""),
        ("\"pods\"", "\"services\""),
        ("\"operation\"", "\"subResource\":\"ephemeralcontainers\",\"operation\""),
    ] {
        let (a, outcome) = answer(text.replace(from, to).as_bytes(), &shop, None, &settings()).unwrap();
        assert_eq!(
            (outcome, &a["response"]["allowed"], &a["response"]["patch"]),
            (Outcome::Nothing, &json!(true), &Value::Null)
        );
    }
    let (a, _) = answer(&body(&json!(3)), &shop, None, &settings()).unwrap();
    assert_eq!(a["response"]["allowed"], false);
    let (a, _) = answer(&body(&json!({"spec": {}})), &shop, None, &settings()).unwrap();
    assert!(a["response"]["status"]["message"].as_str().unwrap().contains("spec.containers"));
}

#[test]
fn row_57_pods_that_cannot_be_captured_are_left_alone_with_the_reason() {
    let with = |change: fn(&mut Value)| {
        let mut p = pod();
        change(&mut p);
        p
    };
    let never: [fn(&mut Value); 4] = [
        |p| p["spec"]["hostNetwork"] = json!(true),
        |p| p["spec"]["os"] = json!({"name": "windows"}),
        |p| p["spec"]["nodeSelector"] = json!({"kubernetes.io/os": "windows"}),
        |p| p["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"}),
    ];
    let unless_asked: [fn(&mut Value); 3] = [
        |p| p["spec"]["containers"][0]["securityContext"] = json!({"privileged": true}),
        |p| p["spec"]["containers"][0]["ports"][0]["hostPort"] = json!(8080),
        |p| p["spec"]["containers"][0]["ports"][0]["protocol"] = json!("UDP"),
    ];
    for (n, change) in never.into_iter().chain(unless_asked).enumerate() {
        let mut p = with(change);
        let (_, after, outcome) = review(&p);
        assert_eq!(outcome, Outcome::Left);
        assert!(after["metadata"]["annotations"][knobs::NOT_INJECTED].is_string());
        assert_eq!(after["spec"], p["spec"]);
        p["metadata"]["labels"][knobs::INJECT] = json!("enabled");
        match n < 4 {
            true => assert!(denied(&p).contains("asks for what cannot be done")),
            false => _ = injected(&p),
        }
    }
}

/// The API server has judged the labels (charts/weft/templates/webhook.yaml); the injector asks only the pod, which is in front of it.
#[test]
fn a_call_means_yes_unless_the_pod_says_no() {
    let ask = |label: Option<&str>, known: &Namespaces<'_>| {
        let mut p = pod();
        if let Some(l) = label {
            p["metadata"]["labels"][knobs::INJECT] = json!(l);
        }
        answer(&body(&p), known, Some(BUNDLE), &settings()).unwrap()
    };
    use Outcome::{Denied, Injected, Nothing};
    // a namespace that is not known yet, and one that is
    for known in [&(|_: &str| None) as &Namespaces<'_>, &shop] {
        for (label, outcome) in [
            (None, Injected),
            (Some("enabled"), Injected),
            (Some("disabled"), Nothing),
            (Some("yes"), Denied),
            (Some(""), Denied),
        ] {
            let (a, got) = ask(label, known);
            assert_eq!(got, outcome, "{label:?}");
            let text = a["response"]["status"]["message"].as_str().unwrap_or_default();
            assert_eq!(
                outcome == Denied,
                text.contains("metadata.labels[weft.dev/inject]") && text.contains("write enabled or disabled"),
                "{text}"
            );
        }
    }
}

#[test]
fn annotations_of_the_namespace_are_defaults() {
    let known = |_: &str| Some(Annotations::from([("weft.dev/proxy-workers".to_owned(), "3".to_owned())]));
    let ask = |p: &Value| {
        let (a, _) = answer(&body(p), &known, Some(BUNDLE), &settings()).unwrap();
        let patch = STANDARD.decode(a["response"]["patch"].as_str().unwrap()).unwrap();
        let mut after = p.clone();
        json_patch::patch(&mut after, &serde_json::from_slice::<json_patch::Patch>(&patch).unwrap()).unwrap();
        var(&after["spec"]["initContainers"][1], "WEFT_WORKERS")["value"].clone()
    };
    let mut p = pod();
    assert_eq!(ask(&p), "3");
    p["metadata"]["annotations"] = json!({"weft.dev/proxy-workers": "2"});
    assert_eq!(ask(&p), "2");
}

#[test]
fn annotations_shape_what_is_added() {
    let mut p = pod();
    p["metadata"]["annotations"] = json!({
        "weft.dev/exclude-inbound-ports": "9090,8000-8010", "weft.dev/exclude-outbound-networks": "10.0.0.0/8", "weft.dev/proxy-memory-limit": "16Mi",
        "weft.dev/proxy-cpu-limit": "1", "weft.dev/when-controller-away": "refuse", "weft.dev/proxy-image": "other:1", "weft.dev/proxy-workers": "2",
    });
    let after = injected(&p);
    let (init, proxy) = (&after["spec"]["initContainers"][0], &after["spec"]["initContainers"][1]);
    assert_eq!(var(init, "WEFT_EXCLUDE_INBOUND_PORTS")["value"], "9090,8000-8010,15020");
    assert_eq!(var(init, "WEFT_EXCLUDE_OUTBOUND_NETWORKS")["value"], "10.0.0.0/8");
    assert_eq!((&init["image"], &proxy["image"]), (&json!("other:1"), &json!("other:1")));
    assert_eq!(
        proxy["resources"],
        json!({"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "1", "memory": "16Mi"}})
    );
    assert_eq!(
        (&var(proxy, "WEFT_AWAY")["value"], &var(proxy, "WEFT_WORKERS")["value"]),
        (&json!("refuse"), &json!("2"))
    );
    p["metadata"]["annotations"] = json!({"weft.dev/exclude-inbound-ports": "80; rm"});
    assert!(denied(&p).starts_with("weft: annotation weft.dev/exclude-inbound-ports=\"80; rm\""));
    // with the admin port one more than the rules hold
    p["metadata"]["annotations"] = json!({"weft.dev/exclude-inbound-ports": "1-150"});
    assert!(denied(&p).contains("151 ports"));
}

#[test]
fn without_a_bundle_a_pod_waits_and_says_why() {
    let (a, outcome) = answer(&body(&pod()), &shop, None, &settings()).unwrap();
    assert_eq!(
        (outcome, &a["response"]["allowed"], &a["response"]["patch"]),
        (Outcome::NotReady, &json!(false), &Value::Null)
    );
    assert!(a["response"]["status"]["message"].as_str().unwrap().contains("weft-trust-bundle"));
}

/// Nothing in an answer depends on anything but the review: a dry run (`dryRun: true`) is the same call.
#[test]
fn row_63_a_dry_run_is_answered_the_same() {
    let real = body(&pod());
    let dry = String::from_utf8(real.clone()).unwrap().replace("\"operation\"", "\"dryRun\":true,\"operation\"");
    let ask = |b: &[u8]| answer(b, &shop, Some(BUNDLE), &settings()).unwrap();
    assert_eq!(ask(&real), ask(dry.as_bytes()));
}

/// A JSON value of any shape, with our names among the keys.
fn junk() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        Just(json!("enabled"))
    ];
    let key = prop_oneof![
        Just("metadata"),
        Just("labels"),
        Just("annotations"),
        Just("spec"),
        Just("containers"),
        Just("initContainers"),
        Just("volumes"),
        Just("ports"),
        Just("name"),
        Just("livenessProbe"),
        Just("tcpSocket"),
        Just("grpc"),
        Just("port"),
        Just("weft.dev/inject"),
        Just("weft.dev/injected"),
        Just("env"),
        Just("securityContext")
    ];
    leaf.prop_recursive(6, 60, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            proptest::collection::vec((key.clone(), inner), 0..5)
                .prop_map(|kv| Value::Object(kv.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}

proptest! {
    #[test]
    fn row_60_no_pod_panics_and_every_patch_applies(pod in junk(), text in "\\PC{0,200}") {
        let _ = answer(text.as_bytes(), &shop, Some(BUNDLE), &settings());
        if let Ok((a, _)) = answer(&body(&pod), &shop, Some(BUNDLE), &settings())
            && let Some(patch) = a["response"]["patch"].as_str()
        {
            let patch: json_patch::Patch = serde_json::from_slice(&STANDARD.decode(patch).unwrap()).unwrap();
            let mut after = pod.clone();
            prop_assert!(json_patch::patch(&mut after, &patch).is_ok(), "{pod} {patch:?}");
        }
    }
}
