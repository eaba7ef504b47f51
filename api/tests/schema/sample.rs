//! Objects made from a schema, and the places in it.

use serde_json::{Map, Value, json};

/// An object with every field, or with the required ones only. Lists and maps have one entry.
pub fn sample(s: &Value, all: bool) -> Value {
    if let Some(values) = s["enum"].as_array() {
        return values[0].clone();
    }
    match s["type"].as_str() {
        Some("object") => match (s["properties"].as_object(), &s["additionalProperties"]) {
            (Some(p), _) => Value::Object(
                p.iter().filter(|(k, _)| all || required(s, k)).map(|(k, v)| (k.clone(), sample(v, all))).collect(),
            ),
            (None, Value::Object(v)) => json!({ "key": sample(&Value::Object(v.clone()), all) }),
            (None, _) => json!({}),
        },
        Some("array") => json!([sample(&s["items"], all)]),
        Some("integer") => json!(s["minimum"].as_i64().unwrap_or(1).max(1)),
        Some("boolean") => json!(true),
        Some("string") if s["format"] == "date-time" => json!("2026-01-01T00:00:00Z"),
        Some("string") => json!("text"),
        other => panic!("a schema of type {other:?} is new to this test: {s}"),
    }
}

pub fn required(s: &Value, key: &str) -> bool {
    s["required"].as_array().is_some_and(|r| r.iter().any(|r| r == key))
}

/// The least and the greatest integer that a schema allows.
pub fn bounds(s: &Value) -> [i64; 2] {
    let (least, greatest) = match s["format"].as_str() {
        Some("int32") => (i64::from(i32::MIN), i64::from(i32::MAX)),
        _ => (i64::MIN, i64::MAX),
    };
    [s["minimum"].as_i64().unwrap_or(least), s["maximum"].as_i64().unwrap_or(greatest)]
}

/// A step into a value: a field, or the only item of a list.
#[derive(Clone, Debug)]
pub enum Step {
    Key(String),
    Item,
}

/// What stands at the end of the path.
pub fn at<'v>(v: &'v mut Value, path: &[Step]) -> &'v mut Value {
    path.iter().fold(v, |v, s| match s {
        Step::Key(k) => &mut v[k],
        Step::Item => &mut v[0],
    })
}

/// Such as `.spec.rules[].name`.
pub fn written(path: &[Step]) -> String {
    path.iter().map(|s| if let Step::Key(k) = s { format!(".{k}") } else { "[]".into() }).collect()
}

/// Calls `see` for every place below `s`, itself included, but not for what identifies an object.
pub fn places<'s>(s: &'s Value, path: &mut Vec<Step>, see: &mut dyn FnMut(&[Step], &'s Value)) {
    let mut into = |path: &mut Vec<Step>, step: Step, below: &'s Value| {
        path.push(step);
        places(below, path, see);
        path.pop();
    };
    for (key, below) in properties(s, path) {
        into(path, Step::Key(key.clone()), below);
    }
    if s["items"].is_object() {
        into(path, Step::Item, &s["items"]);
    }
    if s["additionalProperties"].is_object() {
        into(path, Step::Key("key".into()), &s["additionalProperties"]);
    }
    see(path, s);
}

/// The fields of a place; of the object itself only `spec` and `status`.
pub fn properties<'s>(s: &'s Value, path: &[Step]) -> impl Iterator<Item = (&'s String, &'s Value)> + use<'s> {
    let root = path.is_empty();
    s["properties"]
        .as_object()
        .into_iter()
        .flat_map(Map::iter)
        .filter(move |(k, _)| !root || *k == "spec" || *k == "status")
}
