//! An object as the API server sent it: a tree that is always readable, whatever it holds, so that one broken object does not break the
//! list that it came in. The typed reading comes after and says which field does not fit.

use crate::{
    facts::PodFacts,
    object::{Kind, Object, ObjectKey, Stored},
    source::{
        de::Misfit,
        yaml::{Entry, Node, Value},
    },
};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    api::{ApiResource, ObjectMeta},
    core::{DynamicResourceScope, Resource},
};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use std::{borrow::Cow, collections::BTreeMap, fmt, sync::Arc};

/// Bookkeeping of API server and kubectl: often larger than the object itself, and nothing that the mesh reads.
const NOISE: [&str; 2] = ["managedFields", "kubectl.kubernetes.io/last-applied-configuration"];
/// Nodes know lines; this text has none. Not 0, which means "not yet known" to the reader.
const LINE: u32 = 1;

#[derive(Clone, Debug)]
pub struct Item {
    /// Name, namespace and resource version: what a watch needs.
    meta: ObjectMeta,
    pub node: Node,
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let node = Tree::deserialize(d)?.0;
        let text = |key: &str| node.get("metadata").and_then(|m| m.get(key)).and_then(Node::text).map(str::to_owned);
        let meta = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            resource_version: text("resourceVersion"),
            ..ObjectMeta::default()
        };
        Ok(Self { meta, node })
    }
}

impl Resource for Item {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;
    fn kind(dt: &ApiResource) -> Cow<'_, str> {
        dt.kind.as_str().into()
    }
    fn group(dt: &ApiResource) -> Cow<'_, str> {
        dt.group.as_str().into()
    }
    fn version(dt: &ApiResource) -> Cow<'_, str> {
        dt.version.as_str().into()
    }
    fn plural(dt: &ApiResource) -> Cow<'_, str> {
        dt.plural.as_str().into()
    }
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

/// What the API server knows of an object beside what the mesh reads: needed to write its status.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    pub uid: String,
    pub generation: i64,
    pub resource_version: String,
    pub status: serde_json::Value,
}

impl Item {
    pub fn key(&self, kind: Kind) -> ObjectKey {
        let namespace = if kind.is_namespaced() { self.meta.namespace.as_deref().unwrap_or("default") } else { "" };
        ObjectKey::new(kind, namespace, self.meta.name.as_deref().unwrap_or_default())
    }
    pub fn record(&self) -> Record {
        let field = |key: &str| self.node.get("metadata").and_then(|m| m.get(key));
        Record {
            uid: field("uid").and_then(Node::text).unwrap_or_default().into(),
            generation: match field("generation").map(|n| &n.value) {
                Some(Value::Int(n)) => *n,
                _ => 0,
            },
            resource_version: self.meta.resource_version.clone().unwrap_or_default(),
            status: self.node.get("status").map_or(serde_json::Value::Null, json),
        }
    }
    /// The typed object and the fields that its type does not know.
    pub fn read(mut self, kind: Kind, whole: bool) -> Result<(Stored, Vec<Misfit>), Misfit> {
        prune(kind, &mut self.node, whole);
        let (object, unknown) = Object::read(kind, &self.node)?;
        let stored = match &object {
            Object::Pod(pod) if !whole => {
                let facts = PodFacts::of(&object.key().name, pod);
                Stored { object: remainder(pod).into(), origin: None, pod: Some(Arc::new(facts)) }
            }
            _ => Stored::from(object),
        };
        Ok((stored, unknown))
    }
}

/// What is left to know of a Pod beside its facts: who it is, and what its user says to the mesh.
fn remainder(pod: &Pod) -> Pod {
    let meta = &pod.metadata;
    let own = |all: &Option<BTreeMap<String, String>>| {
        let own = all.iter().flatten().filter(|(k, _)| k.starts_with("weft.dev/"));
        Some(own.map(|(k, v)| (k.clone(), v.clone())).collect::<BTreeMap<_, _>>()).filter(|own| !own.is_empty())
    };
    let metadata = ObjectMeta {
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        labels: own(&meta.labels),
        annotations: own(&meta.annotations),
        ..ObjectMeta::default()
    };
    Pod { metadata, ..Pod::default() }
}

/// Leaves what the mesh reads. An object whose remainder did not change has not changed: heartbeats of nodes, written statuses and new
/// resource versions reach nobody.
fn prune(kind: Kind, object: &mut Node, whole: bool) {
    if let Some(meta) = get_mut(object, "metadata") {
        drop_keys(meta, &["resourceVersion", "selfLink"]);
    }
    match kind {
        _ if whole => {}
        Kind::Pod => {
            own_annotations(object);
            within(object, "metadata", |m| {
                keep(
                    m,
                    &["name", "namespace", "uid", "labels", "annotations", "creationTimestamp", "deletionTimestamp"],
                )
            });
            within(object, "spec", |spec| {
                keep(spec, &["serviceAccountName", "nodeName", "hostNetwork", "containers", "initContainers"]);
                for list in ["containers", "initContainers"] {
                    if let Some(Node { value: Value::List(containers), .. }) = get_mut(spec, list) {
                        for c in containers.iter_mut() {
                            keep(c, &["name", "ports", "livenessProbe", "readinessProbe", "startupProbe"]);
                        }
                        // a container with a name only says nothing, unless it is the sidecar
                        let says = |c: &Node| {
                            let more = matches!(&c.value, Value::Map(m) if m.len() > 1);
                            more || c.get("name").and_then(Node::text) == Some(crate::facts::PROXY_CONTAINER)
                        };
                        containers.retain(says);
                        containers.shrink_to_fit();
                    }
                }
            });
            within(object, "status", |status| {
                keep(status, &["phase", "podIP", "podIPs", "conditions"]);
                if let Some(Node { value: Value::List(conditions), .. }) = get_mut(status, "conditions") {
                    conditions.retain(|c| c.get("type").and_then(Node::text) == Some("Ready"));
                    conditions.iter_mut().for_each(|c| keep(c, &["type", "status"]));
                }
            });
        }
        Kind::Node => {
            within(object, "metadata", |m| keep(m, &["name", "uid", "labels"]));
            keep(object, &["metadata", "status"]);
            within(object, "status", |s| keep(s, &["addresses"]));
        }
        Kind::Namespace => {
            own_annotations(object);
            keep(object, &["metadata"]);
        }
        Kind::Service => {
            own_annotations(object);
            within(object, "metadata", |m| drop_keys(m, &["generation", "finalizers"]));
        }
        Kind::EndpointSlice => within(object, "metadata", |m| keep(m, &["name", "namespace", "uid", "labels"])),
        _ if !kind.is_core() => drop_keys(object, &["status"]),
        _ => {}
    }
}

fn own_annotations(object: &mut Node) {
    within(object, "metadata", |m| {
        let Value::Map(entries) = &mut m.value else { return };
        entries.retain_mut(|e| match (&e.key == "annotations", &mut e.value.value) {
            (true, Value::Map(all)) => {
                all.retain(|a| a.key.starts_with("weft.dev/"));
                !all.is_empty()
            }
            _ => true,
        });
    });
}
fn get_mut<'n>(node: &'n mut Node, key: &str) -> Option<&'n mut Node> {
    match &mut node.value {
        Value::Map(entries) => entries.iter_mut().find(|e| e.key == key).map(|e| &mut e.value),
        _ => None,
    }
}
fn within(node: &mut Node, key: &str, change: impl FnOnce(&mut Node)) {
    if let Some(below) = get_mut(node, key) {
        change(below);
    }
}
fn keep(node: &mut Node, keys: &[&str]) {
    if let Value::Map(entries) = &mut node.value {
        entries.retain(|e| keys.contains(&e.key.as_str()));
    }
}
fn drop_keys(node: &mut Node, keys: &[&str]) {
    if let Value::Map(entries) = &mut node.value {
        entries.retain(|e| !keys.contains(&e.key.as_str()));
    }
}

pub(crate) fn json(node: &Node) -> serde_json::Value {
    use serde_json::Value as Json;
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(b) => (*b).into(),
        Value::Int(i) => (*i).into(),
        Value::Float(f) => (*f).into(),
        Value::Text(s) => s.as_str().into(),
        Value::List(items) => items.iter().map(json).collect(),
        Value::Map(entries) => Json::Object(entries.iter().map(|e| (e.key.clone(), json(&e.value))).collect()),
    }
}

/// A [`Node`] read from JSON.
struct Tree(Node);
impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(TreeVisitor).map(|value| Tree(Node { line: LINE, value }))
    }
}
struct TreeVisitor;
impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Value;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, b: bool) -> Result<Value, E> {
        Ok(Value::Bool(b))
    }
    fn visit_i64<E>(self, i: i64) -> Result<Value, E> {
        Ok(Value::Int(i))
    }
    fn visit_u64<E>(self, i: u64) -> Result<Value, E> {
        Ok(i64::try_from(i).map_or(Value::Float(i as f64), Value::Int))
    }
    fn visit_f64<E>(self, f: f64) -> Result<Value, E> {
        Ok(Value::Float(f))
    }
    fn visit_str<E>(self, s: &str) -> Result<Value, E> {
        Ok(Value::Text(s.into()))
    }
    fn visit_string<E>(self, s: String) -> Result<Value, E> {
        Ok(Value::Text(s))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Tree(node)) = seq.next_element()? {
            items.push(node);
        }
        Ok(Value::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if NOISE.contains(&key.as_str()) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let Tree(value) = map.next_value()?;
            entries.push(Entry { key, key_line: LINE, value });
        }
        Ok(Value::Map(entries))
    }
}
