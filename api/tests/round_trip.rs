//! The Gateway API's own examples and conformance manifests (v1.7.0) are read and written without loss. `fixtures/objects.json` holds every object
//! of the API's groups as one file, made by `fixtures/make.py`.

#![allow(clippy::unwrap_used)]

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use weft_api::*;

/// Nothing and empty are the same.
fn pruned(v: &Value) -> Value {
    let empty = |v: &Value| v.is_null() || v.as_array().is_some_and(Vec::is_empty);
    match v {
        Value::Object(o) => {
            Value::Object(o.iter().map(|(k, v)| (k.clone(), pruned(v))).filter(|(_, v)| !empty(v)).collect())
        }
        Value::Array(a) => a.iter().map(pruned).collect(),
        other => other.clone(),
    }
}

fn through<T: DeserializeOwned + Serialize>(v: &Value) -> Result<Value, String> {
    let typed: T = serde_json::from_value(v.clone()).map_err(|e| e.to_string())?;
    serde_json::to_value(&typed).map_err(|e| e.to_string())
}

#[test]
fn official_objects_survive() {
    let file: Value = serde_json::from_str(include_str!("fixtures/objects.json")).unwrap();
    assert!(file["source"].as_object().unwrap().keys().all(|module| module.ends_with("@v1.7.0")));
    let all = file["objects"].as_array().unwrap();
    assert_eq!(all.len(), 511);
    let mut lost = Vec::new();
    for entry in all {
        let object = &entry["object"];
        let kind = object["kind"].as_str().unwrap();
        let result = match kind {
            "GatewayClass" => through::<GatewayClass>(object),
            "Gateway" => through::<Gateway>(object),
            "ListenerSet" => through::<ListenerSet>(object),
            "HTTPRoute" => through::<HTTPRoute>(object),
            "GRPCRoute" => through::<GRPCRoute>(object),
            "TLSRoute" => through::<TLSRoute>(object),
            "TCPRoute" => through::<TCPRoute>(object),
            "UDPRoute" => through::<UDPRoute>(object),
            "ReferenceGrant" => through::<ReferenceGrant>(object),
            "BackendTLSPolicy" => through::<BackendTLSPolicy>(object),
            "XMesh" => through::<XMesh>(object),
            "XBackend" => through::<XBackend>(object),
            "XBackendTrafficPolicy" => through::<XBackendTrafficPolicy>(object),
            "XTelemetryPolicy" => through::<XTelemetryPolicy>(object),
            other => panic!("{other}"),
        };
        match result {
            Ok(back) => {
                for part in ["kind", "spec", "status"] {
                    let (before, after) = (pruned(&object[part]), pruned(&back[part]));
                    if before != after {
                        lost.push(format!("{} {kind}: {before} became {after}", entry["from"]));
                    }
                }
                for (key, before) in object["metadata"].as_object().unwrap() {
                    let after = &back["metadata"][key];
                    if before != after {
                        lost.push(format!("{} {kind} metadata.{key}: {before} became {after}", entry["from"]));
                    }
                }
            }
            Err(e) => lost.push(format!("{} {kind} {}: {e}", entry["from"], object["apiVersion"])),
        }
    }
    assert!(lost.is_empty(), "{}", lost.join("\n"));
}

#[test]
fn what_is_not_known_is_kept() {
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "r"},
        "spec": {"rules": [{"matches": [{"path": {"type": "Glob", "value": "/a"}, "method": "PURGE"}], "filters": [{"type": "Teleport"}]}]}
    });
    let back = through::<HTTPRoute>(&route).unwrap();
    assert_eq!(back, route);
}
