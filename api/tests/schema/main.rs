//! Holds every type to the CRDs, in both directions: the same fields at every path, the same required fields, the same words, and no value that the schema
//! allows is refused or changed. Each version that a CRD serves is compared, since the API server gives objects of one version out as any other.
//!
//! `reader` compares fields and words while a type reads an object with every field; `sample` makes such objects and lists the places in a schema, of
//! each of which `hold` then makes variants.

#![allow(clippy::unwrap_used)]

mod reader;
mod sample;

use k8s_openapi::Resource;
use reader::Guided;
use sample::{at, bounds, places, properties, required, sample, written};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};
use weft_api::*;

/// Where a type differs from a schema on purpose: part of the finding, and why. One that no longer occurs fails the test.
const EXCEPTED: &[(&str, &str)] = &[
    (
        "conditions[].message: required in the schema, not in the type",
        "Condition is the one of k8s-openapi, which reads an absent text as an empty one; no decision depends on it",
    ),
    ("conditions[].reason: required in the schema, not in the type", "as the message"),
    ("conditions[].type: required in the schema, not in the type", "as the message"),
    ("conditions[].status: required in the schema, not in the type", "as the message"),
    (
        "conditions[].status: the schema lists words, the type has none",
        "a text in k8s-openapi's Condition, any is kept",
    ),
    (
        "selector.matchExpressions[].key: required in the schema, not in the type",
        "LabelSelector is the one of k8s-openapi, which reads an absent text as an empty one; no label has an empty key",
    ),
    (
        "selector.matchExpressions[].operator: required in the schema, not in the type",
        "as the key; an empty operator is none",
    ),
    (
        "TLSRoute v1 .spec.hostnames: required in the schema, not in the type",
        "optional in v1alpha2, of which the API server gives out stored objects as v1",
    ),
    ("TLSRoute v1alpha3 .spec.hostnames: required in the schema, not in the type", "as in v1"),
    (
        ".allowedRoutes.namespaces.from: the schema does not know the word None",
        "one type serves allowedListeners, where None is a word, and allowedRoutes, where it comes from files only and attaches nothing",
    ),
    (
        ".listeners[].protocol: the type has words, the schema lists none",
        "a pattern in the schema; the words are in its text",
    ),
    (".validation.wellKnownCACertificates: the type has words, the schema lists none", "as the protocol"),
    (
        ".retry.attempts: the number 9223372036854775807 is changed",
        "the schema has no upper bound; what exceeds u32 is read as its maximum, so that it cannot make a list unreadable",
    ),
];

fn read_crd(channel: &str, file: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("crds").join(channel).join(file);
    serde_saphyr::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The differences between types and CRDs, and which CRDs were compared.
#[derive(Default)]
struct Report {
    found: BTreeSet<String>,
    held: BTreeSet<String>,
}

/// Compares a type with the CRD of a channel, if that has the kind.
fn hold<T: DeserializeOwned + Serialize + Resource>(channel: &str, report: &mut Report) {
    let file = format!("{}_{}.yaml", T::GROUP, T::URL_PATH_SEGMENT);
    if channel == "standard" && T::GROUP == EXPERIMENTAL_GROUP {
        return;
    }
    let crd = read_crd(channel, &file);
    report.held.insert(format!("{channel}/{file}"));
    let spec = &crd["spec"];
    let scope = if std::any::type_name::<T::Scope>().contains("Cluster") { "Cluster" } else { "Namespaced" };
    assert_eq!(
        (&spec["group"], &spec["names"]["kind"], &spec["scope"]),
        (&json!(T::GROUP), &json!(T::KIND), &json!(scope))
    );
    assert_eq!(spec["names"]["plural"], T::URL_PATH_SEGMENT);
    let served: BTreeMap<&str, &Value> = spec["versions"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|v| v["served"] == true)
        .map(|v| (v["name"].as_str().unwrap(), &v["schema"]["openAPIV3Schema"]))
        .collect();
    assert!(served.contains_key(T::VERSION), "{channel} {}", T::KIND);
    for (version, schema) in served {
        let mut found = BTreeSet::new();
        hold_version::<T>(schema, &mut found);
        // the types hold the fields and words of the experimental channel's newest version, a superset of every other
        let newest = channel != "standard" && version == T::VERSION;
        let counts = |f: &String| {
            newest || !(f.contains(": the schema has no such field") || f.contains(": the schema does not know"))
        };
        report.found.extend(found.into_iter().filter(counts).map(|f| format!("{channel} {} {version} {f}", T::KIND)));
    }
}

fn hold_version<T: DeserializeOwned + Serialize + Resource>(schema: &Value, found: &mut BTreeSet<String>) {
    let object = |all| {
        let mut o = sample(schema, all);
        o["apiVersion"] = json!(T::API_VERSION);
        o["kind"] = json!(T::KIND);
        o["metadata"] = json!({"name": "x"});
        o
    };
    let through = |v: &Value| {
        let read: T = serde_json::from_value(v.clone()).map_err(|e| e.to_string())?;
        Ok::<_, String>(serde_json::to_value(&read).unwrap())
    };
    let full = object(true);
    let guided = RefCell::new(BTreeSet::new());
    if let Err(e) = T::deserialize(Guided { value: &full, schema, path: "", found: &guided }) {
        found.insert(format!(": {full} is refused: {e}"));
    }
    found.extend(guided.into_inner());

    // a value that the schema allows must come back as it was
    let mut keep = |path: String, what: &str, v: &Value, or: Option<&Value>| match through(v) {
        Ok(back) if back == *v || or == Some(&back) => {}
        Ok(back) => _ = found.insert(format!("{path}: {what} is changed: {v} became {back}")),
        Err(e) => _ = found.insert(format!("{path}: {what} is refused: {e}")),
    };
    keep(String::new(), "an object with every field", &full, None);
    keep(String::new(), "an object with only the required fields", &object(false), None);
    let mut must_fail = Vec::new();
    places(schema, &mut Vec::new(), &mut |path, s| {
        let with = |v: Value| {
            let mut object = full.clone();
            *at(&mut object, path) = v;
            object
        };
        for (key, below) in properties(s, path) {
            let mut without = full.clone();
            at(&mut without, path).as_object_mut().unwrap().remove(key);
            let place = format!("{}.{key}", written(path));
            // the API server adds defaults, but objects from files never met one
            if required(s, key) && below["default"].is_null() {
                must_fail.push((place, without));
            } else {
                keep(place, "an object without this field", &without, None);
            }
        }
        for value in s["enum"].as_array().into_iter().flatten() {
            keep(written(path), &format!("the word {value}"), &with(value.clone()), None);
        }
        if s["enum"].is_array() && s["type"] == "string" {
            keep(written(path), "an unknown word", &with(json!("no-such-word")), None);
        }
        if s["enum"].is_null() && s["type"] == "integer" {
            for n in bounds(s) {
                keep(written(path), &format!("the number {n}"), &with(json!(n)), None);
            }
        }
        let [empty, several] = match s["type"].as_str() {
            Some("array") => {
                let item = sample(&s["items"], true);
                [json!([]), json!([item, item])]
            }
            Some("object") if s["additionalProperties"].is_object() => {
                let value = sample(&s["additionalProperties"], true);
                [json!({}), json!({"a": value, "b/c": value})]
            }
            _ => return,
        };
        keep(written(path), "two entries", &with(several), None);
        // an empty list and an absent one mean the same everywhere in the API
        let mut absent = full.clone();
        if let Some((sample::Step::Key(key), above)) = path.split_last() {
            at(&mut absent, above).as_object_mut().unwrap().remove(key);
        }
        keep(written(path), "no entry", &with(empty), Some(&absent));
    });
    for (place, without) in must_fail {
        if through(&without).is_ok() {
            found.insert(format!("{place}: required in the schema, not in the type"));
        }
    }
}

#[test]
fn types_are_what_the_crds_say() {
    let mut report = Report::default();
    macro_rules! every {
        ($($t:ty),* $(,)?) => { $(for channel in ["experimental", "standard"] { hold::<$t>(channel, &mut report); })* };
    }
    every!(GatewayClass, Gateway, ListenerSet, HTTPRoute, GRPCRoute, TLSRoute, TCPRoute, UDPRoute, ReferenceGrant);
    every!(BackendTLSPolicy, XMesh, XBackend, XBackendTrafficPolicy, XTelemetryPolicy);
    hold::<MeshTLSPolicy>("weft.dev", &mut report);
    hold::<TrafficPolicy>("weft.dev", &mut report);
    hold::<AuthorizationPolicy>("weft.dev", &mut report);

    let unexpected: Vec<_> = report
        .found
        .iter()
        .filter(|f| !EXCEPTED.iter().any(|(part, _)| f.contains(part)))
        .map(String::as_str)
        .collect();
    assert!(unexpected.is_empty(), "{} differences:\n{}", unexpected.len(), unexpected.join("\n"));
    for (part, why) in EXCEPTED {
        assert!(report.found.iter().any(|f| f.contains(part)), "this exception is needed no longer: {part} ({why})");
    }
    // and no CRD without a type
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("crds");
    let files = |channel: &str| {
        let entries = fs::read_dir(root.join(channel)).unwrap();
        entries.map(|e| format!("{channel}/{}", e.unwrap().file_name().to_str().unwrap())).collect::<Vec<_>>()
    };
    let vendored: BTreeSet<_> = ["experimental", "standard", "weft.dev"].into_iter().flat_map(files).collect();
    assert_eq!(report.held, vendored);
}

#[test]
fn the_vendored_crds_are_of_one_version() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("crds");
    for (channel, kinds) in [("experimental", 14), ("standard", 10)] {
        let entries: Vec<_> = fs::read_dir(root.join(channel)).unwrap().collect();
        assert_eq!(entries.len(), kinds);
        for entry in entries {
            let crd = read_crd(channel, entry.unwrap().file_name().to_str().unwrap());
            let annotations = &crd["metadata"]["annotations"];
            assert_eq!(annotations["gateway.networking.k8s.io/bundle-version"], "v1.7.0");
            assert_eq!(annotations["gateway.networking.k8s.io/channel"], channel);
        }
    }
}

/// What Weft's kinds take over from the Gateway API allows the same values there and here. Defaults are left out on purpose: they are applied where objects
/// are converted. Weft's integers say that they are int32, and its messages are its own.
#[test]
fn weft_kinds_share_the_constraints_of_the_api() {
    fn comparable(v: &Value) -> Value {
        const OWN: [&str; 4] = ["description", "default", "format", "message"];
        match v {
            Value::Object(o) => {
                // a condition has a field `message`, which is an object here
                let kept = o.iter().filter(|(k, v)| (!OWN.contains(&k.as_str()) || v.is_object()) && *k != "default");
                Value::Object(kept.map(|(k, v)| (k.clone(), comparable(v))).collect())
            }
            Value::Array(a) => a.iter().map(comparable).collect(),
            other => other.clone(),
        }
    }
    let part = |channel: &str, file: &str, pointer: &str| {
        let crd = read_crd(channel, file);
        let version = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        comparable(version.pointer(pointer).unwrap_or_else(|| panic!("{file} has no {pointer}")))
    };
    let traffic = |pointer: &str| part("weft.dev", "weft.dev_trafficpolicies.yaml", pointer);
    let mesh_tls = |pointer: &str| part("weft.dev", "weft.dev_meshtlspolicies.yaml", pointer);
    let constraint = "/properties/spec/properties/retryConstraint";
    let theirs = part("experimental", "gateway.networking.x-k8s.io_xbackendtrafficpolicies.yaml", constraint);
    assert_eq!(traffic(constraint), theirs);
    let timeouts = "/properties/timeouts";
    let theirs = part(
        "standard",
        "gateway.networking.k8s.io_httproutes.yaml",
        &format!("/properties/spec/properties/rules/items{timeouts}"),
    );
    assert_eq!(traffic(&format!("/properties/spec{timeouts}")), theirs);
    let (status, reference) = ("/properties/status", "/properties/spec/properties/targetRefs/items/properties");
    let tls = "gateway.networking.k8s.io_backendtlspolicies.yaml";
    assert_eq!(traffic(status), part("standard", tls, status));
    assert_eq!(mesh_tls(status), part("standard", tls, status));
    let authorization = |pointer: &str| part("weft.dev", "weft.dev_authorizationpolicies.yaml", pointer);
    assert_eq!(authorization(status), part("standard", tls, status));
    let targets = "/properties/spec/properties/targetRefs";
    assert_eq!(authorization(targets), mesh_tls(targets));
    assert_eq!(traffic(reference), part("standard", tls, reference));
    let selector = "/properties/spec/properties/allowedListeners/properties/namespaces/properties/selector";
    let theirs = part("standard", "gateway.networking.k8s.io_gateways.yaml", selector);
    assert_eq!(mesh_tls(&format!("{reference}/selector")), theirs);
}

/// The comparison itself: each kind of difference, made on purpose in a schema, is found where it is.
#[test]
fn a_difference_is_found() {
    let crd = read_crd("experimental", "gateway.networking.k8s.io_httproutes.yaml");
    let versions = crd["spec"]["versions"].as_array().unwrap();
    let schema = &versions.iter().find(|v| v["name"] == "v1").unwrap()["schema"]["openAPIV3Schema"];
    let found_with = |pointer: &str, change: &dyn Fn(&mut Value)| {
        let mut changed = schema.clone();
        change(changed.pointer_mut(pointer).unwrap());
        let (mut before, mut after) = (BTreeSet::new(), BTreeSet::new());
        hold_version::<HTTPRoute>(schema, &mut before);
        hold_version::<HTTPRoute>(&changed, &mut after);
        let texts = after.difference(&before).filter(|f| !f.starts_with(": "));
        texts.cloned().collect::<Vec<_>>().join("\n")
    };
    let rule = "/properties/spec/properties/rules/items";
    let fields = format!("{rule}/properties");
    let a_match = format!("{rule}/properties/matches/items/properties");
    let text = json!({"type": "string"});
    assert!(
        found_with(&fields, &|f| f["novelty"] = text.clone())
            .contains(".spec.rules[].novelty: the type has no such field")
    );
    let gone = found_with(&fields, &|f| _ = f.as_object_mut().unwrap().remove("retry"));
    assert_eq!(gone, ".spec.rules[].retry: the schema has no such field");
    let must = found_with(rule, &|r| r["required"] = json!(["name"]));
    assert_eq!(must, ".spec.rules[].name: required in the schema, not in the type");
    let new_word = found_with(&format!("{a_match}/method/enum"), &|e| e.as_array_mut().unwrap().push(json!("QUERY")));
    assert_eq!(new_word, ".spec.rules[].matches[].method: the type does not know the word QUERY");
    let old_word = found_with(&format!("{a_match}/method/enum"), &|e| _ = e.as_array_mut().unwrap().pop());
    assert_eq!(old_word, ".spec.rules[].matches[].method: the schema does not know the word PATCH");
    let number = found_with(&format!("{fields}/backendRefs/items/properties/port"), &|p| p["maximum"] = json!(70_000));
    assert_eq!(
        number,
        ".spec.rules[].backendRefs[].port: the number 70000 is refused: invalid value: integer `70000`, expected u16"
    );
    let may = found_with(&format!("{fields}/backendRefs/items/required"), &|r| *r = json!([]));
    assert_eq!(may, ".spec.rules[].backendRefs[].name: an object without this field is refused: missing field `name`");
}
