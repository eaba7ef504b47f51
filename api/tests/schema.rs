//! Holds every type to the CRDs: the same fields at every path, the same required fields, the same values of enums.
//!
//! A deserializer that is driven by the schema makes an object with every field. At each struct it compares the fields that the Rust type asks for with those
//! of the schema; the object is then serialised and must be what the schema made.

#![allow(clippy::unwrap_used)]

use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor, value::Error};
use serde_json::{Map, Value, json};
use std::{cell::RefCell, collections::BTreeSet, fmt::Debug, fs, path::PathBuf};

fn crd(channel: &str, file: &str) -> Option<Value> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("crds").join(channel).join(file);
    Some(serde_saphyr::from_str(&fs::read_to_string(path).ok()?).unwrap())
}

/// The schema of a version.
fn schema(crd: &Value, version: &str) -> Value {
    let versions = crd["spec"]["versions"].as_array().unwrap();
    let found = versions.iter().find(|v| v["name"] == version).unwrap_or_else(|| panic!("no version {version}"));
    found["schema"]["openAPIV3Schema"].clone()
}

/// An instance with every field. Lists have one item.
fn instance(s: &Value) -> Value {
    if let Some(values) = s["enum"].as_array() {
        return values[0].clone();
    }
    if let Some(any) = s["anyOf"].as_array()
        && s["type"].is_null()
    {
        return instance(&any[0]);
    }
    match s["type"].as_str() {
        Some("object") => match (s["properties"].as_object(), s["additionalProperties"].as_object()) {
            (Some(p), _) => Value::Object(p.iter().map(|(k, v)| (k.clone(), instance(v))).collect()),
            (None, Some(v)) => json!({ "key": instance(&Value::Object(v.clone())) }),
            (None, None) => json!({}),
        },
        Some("array") => json!([instance(&s["items"])]),
        Some("integer") => json!(s["minimum"].as_i64().unwrap_or(1).max(1)),
        Some("boolean") => json!(true),
        Some("string") if s["format"] == "date-time" => json!("2026-01-01T00:00:00Z"),
        Some("string") => json!("text"),
        other => panic!("schema of type {other:?}: {s}"),
    }
}

/// Reads a value while comparing struct fields with the schema's properties.
#[derive(Clone, Copy)]
struct Checked<'a> {
    value: &'a Value,
    schema: &'a Value,
    path: &'a str,
    wrong: &'a RefCell<BTreeSet<String>>,
}

impl<'de> de::Deserializer<'de> for Checked<'_> {
    type Error = Error;
    fn deserialize_any<V: Visitor<'de>>(self, v: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => v.visit_unit(),
            Value::Bool(b) => v.visit_bool(*b),
            Value::Number(n) => v.visit_i64(n.as_i64().unwrap()),
            Value::String(s) => v.visit_str(s),
            Value::Array(items) => v.visit_seq(Items { of: self, items: items.iter() }),
            Value::Object(fields) => v.visit_map(Fields { of: self, fields: fields.iter(), value: None }),
        }
    }
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        v: V,
    ) -> Result<V::Value, Error> {
        if let (Some(properties), false) = (self.schema["properties"].as_object(), self.path.is_empty()) {
            let (rust, crd): (BTreeSet<&str>, BTreeSet<&str>) =
                (fields.iter().copied().collect(), properties.keys().map(String::as_str).collect());
            for missing in crd.difference(&rust) {
                self.wrong.borrow_mut().insert(format!("{}.{missing}: the type has no such field", self.path));
            }
            for extra in rust.difference(&crd) {
                self.wrong.borrow_mut().insert(format!("{}.{extra}: the schema has no such field", self.path));
            }
        }
        self.deserialize_any(v)
    }
    fn deserialize_option<V: Visitor<'de>>(self, v: V) -> Result<V::Value, Error> {
        v.visit_some(self)
    }
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, v: V) -> Result<V::Value, Error> {
        v.visit_newtype_struct(self)
    }
    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
struct Items<'a> {
    of: Checked<'a>,
    items: std::slice::Iter<'a, Value>,
}
impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Error;
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let Some(value) = self.items.next() else { return Ok(None) };
        let path = format!("{}[]", self.of.path);
        seed.deserialize(Checked { value, schema: &self.of.schema["items"], path: &path, wrong: self.of.wrong })
            .map(Some)
    }
}
struct Fields<'a> {
    of: Checked<'a>,
    fields: serde_json::map::Iter<'a>,
    value: Option<(&'a String, &'a Value)>,
}
impl<'de> de::MapAccess<'de> for Fields<'_> {
    type Error = Error;
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.value = self.fields.next();
        self.value.map(|(k, _)| seed.deserialize(IntoDeserializer::<Error>::into_deserializer(k.as_str()))).transpose()
    }
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let (key, value) = self.value.take().unwrap();
        let path = format!("{}.{key}", self.of.path);
        let properties = &self.of.schema["properties"][key];
        let schema = if properties.is_null() { &self.of.schema["additionalProperties"] } else { properties };
        seed.deserialize(Checked { value, schema, path: &path, wrong: self.of.wrong })
    }
}

/// The fields that every object has besides.
fn complete(mut spec: Value, kind: &str, version: &str, group: &str) -> Value {
    let o = spec.as_object_mut().unwrap();
    o.insert("apiVersion".into(), json!(format!("{group}/{version}")));
    o.insert("kind".into(), json!(kind));
    o.insert("metadata".into(), json!({"name": "x"}));
    spec
}

/// Every place in the schema: the path to it and what stands there.
fn walk<'s>(s: &'s Value, path: Vec<Step>, see: &mut dyn FnMut(&[Step], &'s Value)) {
    see(&path, s);
    for (key, below) in s["properties"].as_object().into_iter().flatten() {
        if path.is_empty() && ["apiVersion", "kind", "metadata"].contains(&key.as_str()) {
            continue;
        }
        walk(below, [path.as_slice(), &[Step::Key(key.clone())]].concat(), see);
    }
    if s["items"].is_object() {
        walk(&s["items"], [path.as_slice(), &[Step::First]].concat(), see);
    }
}
#[derive(Clone, Debug)]
enum Step {
    Key(String),
    First,
}
fn at<'v>(v: &'v mut Value, path: &[Step]) -> &'v mut Value {
    path.iter().fold(v, |v, s| match s {
        Step::Key(k) => &mut v[k],
        Step::First => &mut v[0],
    })
}

/// Whether a place lies in a type of Kubernetes' own (Condition, LabelSelector), which is lenient about missing fields.
fn in_kubernetes_own(path: &[Step]) -> bool {
    path.iter().any(|s| matches!(s, Step::Key(k) if k == "conditions" || k == "matchExpressions"))
}

fn hold<T: DeserializeOwned + serde::Serialize + Debug + k8s_openapi::Resource>(
    channel: &str,
    wrong: &mut BTreeSet<String>,
) {
    let file = format!("{}_{}.yaml", T::GROUP, T::URL_PATH_SEGMENT);
    let Some(crd) = crd(channel, &file) else {
        assert!(channel == "standard" && T::GROUP.ends_with("x-k8s.io"), "{channel}/{file} is missing");
        return;
    };
    assert_eq!((&crd["spec"]["group"], &crd["spec"]["names"]["kind"]), (&json!(T::GROUP), &json!(T::KIND)));
    let schema = schema(&crd, T::VERSION);
    let full = complete(instance(&schema), T::KIND, T::VERSION, T::GROUP);
    let found = RefCell::new(BTreeSet::new());
    let mut note = |w: String| _ = wrong.insert(format!("{channel} {}: {w}", T::KIND));
    let read = T::deserialize(Checked { value: &full, schema: &schema, path: "", wrong: &found })
        .unwrap_or_else(|e| panic!("{}: {e}", T::KIND));
    // the standard schema lacks the experimental fields
    found
        .into_inner()
        .into_iter()
        .filter(|w| channel != "standard" || w.ends_with("the type has no such field"))
        .for_each(&mut note);
    let back = serde_json::to_value(&read).unwrap();
    if back != full {
        note(format!("what was read is not what is written:\n{back}\n{full}"));
    }
    let parse = |v: Value| serde_json::from_value::<T>(v);
    walk(&schema, Vec::new(), &mut |path, s| {
        let required: BTreeSet<&str> =
            s["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for key in s["properties"].as_object().map(Map::keys).into_iter().flatten() {
            if path.is_empty() && ["apiVersion", "kind", "metadata"].contains(&key.as_str()) {
                continue;
            }
            let mut without = full.clone();
            at(&mut without, path).as_object_mut().unwrap().remove(key);
            // a default fills the field in before anybody reads it
            let must = required.contains(key.as_str());
            let given = !s["properties"][key]["default"].is_null();
            if parse(without).is_ok() == must && !given && !in_kubernetes_own(path) {
                note(format!("{path:?}.{key}: required in the schema: {must}, but not so in the type"));
            }
        }
        for value in s["enum"].as_array().into_iter().flatten().filter(|v| v.is_string()) {
            let read = |v: Value| {
                let mut with = full.clone();
                *at(&mut with, path) = v;
                format!("{:?}", parse(with).unwrap())
            };
            let typed = read(json!("no-such-value")).contains("Unknown(\"no-such-value\")");
            let known = !read(value.clone()).contains(&format!("Unknown({value})"));
            // of Kubernetes' own condition, the status is a string there
            if !known || (!typed && !in_kubernetes_own(path)) {
                note(format!("{path:?}: the value {value} is not known"));
            }
        }
    });
}

#[test]
fn types_are_what_the_crds_say() {
    use weft_api::*;
    let mut wrong = BTreeSet::new();
    macro_rules! every { ($($t:ty),*) => { $(for channel in ["experimental", "standard"] { hold::<$t>(channel, &mut wrong); })* } }
    every!(
        GatewayClass,
        Gateway,
        ListenerSet,
        HTTPRoute,
        GRPCRoute,
        TLSRoute,
        TCPRoute,
        UDPRoute,
        ReferenceGrant,
        BackendTLSPolicy
    );
    every!(XMesh, XBackend, XBackendTrafficPolicy, XTelemetryPolicy);
    hold::<MeshTLSPolicy>("weft", &mut wrong);
    hold::<TrafficPolicy>("weft", &mut wrong);
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.into_iter().collect::<Vec<_>>().join("\n"));
}

#[test]
fn every_vendored_crd_has_a_type_and_every_bundle_is_of_one_version() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("crds");
    let mut seen = 0;
    for channel in ["experimental", "standard"] {
        for entry in fs::read_dir(root.join(channel)).unwrap() {
            let crd: Value = serde_saphyr::from_str(&fs::read_to_string(entry.unwrap().path()).unwrap()).unwrap();
            assert_eq!(crd["metadata"]["annotations"]["gateway.networking.k8s.io/bundle-version"], "v1.7.0");
            assert_eq!(crd["metadata"]["annotations"]["gateway.networking.k8s.io/channel"], channel);
            seen += 1;
        }
    }
    assert_eq!(seen, 14 + 10);
}
