//! A status with our part in place of what our part was. Everything of others stays as it is: the lists `parents` and `ancestors` are atomic for the
//! API server, so whoever writes them writes the others' entries, too.

use crate::status::Condition;
use serde_json::{Map, Value, json};
use weft_api::shared::ParentReference;

/// The name that Weft has in every status.
pub const CONTROLLER: &str = "weft.dev/gateway-controller";
/// GEP-713 and the route kinds bound their lists.
const MAX_PARENTS: usize = 32;
const MAX_ANCESTORS: usize = 16;
/// `message` of a condition, by its schema.
const MAX_MESSAGE: usize = 32_768;

/// Our part.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// `status.parents` of a route.
    Parents(Vec<(ParentReference, Vec<Condition>)>),
    /// `status.ancestors` of a policy.
    Ancestors(Vec<(ParentReference, Vec<Condition>)>),
    /// Conditions of an object that is ours, and what it can do.
    Own { conditions: Vec<Condition>, features: Vec<&'static str> },
}

/// The new status, or `None` when our part stands there already. `now`: RFC 3339.
pub fn merge(old: &Value, part: &Part, generation: i64, now: &str) -> Option<Value> {
    let mut status = match old {
        Value::Object(map) => map.clone(),
        _ => Map::new(),
    };
    match part {
        Part::Parents(ours) => entries(&mut status, "parents", "parentRef", MAX_PARENTS, ours, generation, now),
        Part::Ancestors(ours) => entries(&mut status, "ancestors", "ancestorRef", MAX_ANCESTORS, ours, generation, now),
        Part::Own { conditions, features } => {
            let before = list(&status, "conditions");
            let mut all: Vec<Value> =
                before.iter().filter(|c| !conditions.iter().any(|o| c["type"] == o.kind)).cloned().collect();
            all.extend(conditions.iter().map(|c| condition(c, &before, generation, now)));
            status.insert("conditions".into(), all.into());
            let mut features: Vec<&str> = features.clone();
            features.sort_unstable();
            let features: Vec<Value> = features.into_iter().map(|f| json!({"name": f})).collect();
            match features.is_empty() {
                true => _ = status.remove("supportedFeatures"),
                false => _ = status.insert("supportedFeatures".into(), features.into()),
            }
        }
    }
    let nothing = status.is_empty() && old.is_null();
    let new = Value::Object(status);
    (!nothing && new != *old).then_some(new)
}

fn list(status: &Map<String, Value>, key: &str) -> Vec<Value> {
    status.get(key).and_then(Value::as_array).cloned().unwrap_or_default()
}

fn entries(
    status: &mut Map<String, Value>,
    key: &str,
    reference: &str,
    most: usize,
    ours: &[(ParentReference, Vec<Condition>)],
    generation: i64,
    now: &str,
) {
    let before = list(status, key);
    let (own, others): (Vec<&Value>, Vec<&Value>) = before.iter().partition(|e| e["controllerName"] == CONTROLLER);
    if own.is_empty() && ours.is_empty() {
        return;
    }
    let mut all: Vec<Value> = others.into_iter().cloned().collect();
    for (parent, conditions) in ours {
        let parent = serde_json::to_value(parent).unwrap_or_default();
        if all.iter().any(|e| e["controllerName"] == CONTROLLER && e[reference] == parent) {
            continue;
        }
        if all.len() >= most {
            // GEP-713: a full list is left to those who are in it
            tracing::warn!(%key, "the status has no room for a further entry");
            break;
        }
        let was = own.iter().find(|e| e[reference] == parent);
        let was = was.and_then(|e| e["conditions"].as_array()).cloned().unwrap_or_default();
        let conditions: Vec<Value> = conditions.iter().map(|c| condition(c, &was, generation, now)).collect();
        all.push(json!({reference: parent, "controllerName": CONTROLLER, "conditions": conditions}));
    }
    // in the order that stands there, so that an equal part is an equal status
    let place = |e: &Value| {
        before.iter().position(|b| b["controllerName"] == e["controllerName"] && b[reference] == e[reference])
    };
    all.sort_by_key(|e| place(e).unwrap_or(usize::MAX));
    status.insert(key.into(), all.into());
}

fn condition(c: &Condition, before: &[Value], generation: i64, now: &str) -> Value {
    let status = if c.status { "True" } else { "False" };
    let was = before.iter().find(|b| b["type"] == c.kind && b["status"] == status);
    let since = was.and_then(|b| b["lastTransitionTime"].as_str()).unwrap_or(now);
    let mut end = c.message.len().min(MAX_MESSAGE);
    while !c.message.is_char_boundary(end) {
        end -= 1;
    }
    json!({
        "type": c.kind, "status": status, "reason": c.reason, "message": &c.message[..end],
        "observedGeneration": generation, "lastTransitionTime": since,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(message: &str, good: bool) -> Part {
        let parent = ParentReference {
            group: Some("".into()),
            kind: Some("Service".into()),
            name: "orders".into(),
            ..ParentReference::default()
        };
        let accepted = Condition { kind: "Accepted", status: good, reason: "Accepted", message: message.into() };
        Part::Parents(vec![(parent, vec![accepted])])
    }

    #[test]
    fn only_our_entries_are_replaced() {
        let other = json!({"parentRef": {"name": "gw"}, "controllerName": "example.com/other", "conditions": [{"type": "Odd", "x": 1}]});
        let stale = json!({"parentRef": {"name": "gone"}, "controllerName": CONTROLLER, "conditions": []});
        let old = json!({"parents": [stale, other], "extra": true});
        let new = merge(&old, &part("", true), 3, "2026-01-01T00:00:00Z").unwrap();
        assert_eq!(new["extra"], true);
        assert_eq!(new["parents"].as_array().unwrap().len(), 2);
        assert_eq!(new["parents"][0], other);
        assert_eq!(
            new["parents"][1],
            json!({"parentRef": {"group": "", "kind": "Service", "name": "orders"}, "controllerName": CONTROLLER,
                "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "observedGeneration": 3,
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}]})
        );
    }
    #[test]
    fn nothing_is_written_twice_and_times_stay() {
        let first = merge(&Value::Null, &part("", true), 1, "2026-01-01T00:00:00Z").unwrap();
        assert_eq!(merge(&first, &part("", true), 1, "2026-02-02T00:00:00Z"), None);
        let time = |v: &Value| v["parents"][0]["conditions"][0]["lastTransitionTime"].clone();
        let words = merge(&first, &part("new words", true), 2, "2026-02-02T00:00:00Z").unwrap();
        assert_eq!(
            (time(&words), &words["parents"][0]["conditions"][0]["observedGeneration"]),
            (time(&first), &json!(2))
        );
        let turned = merge(&words, &part("new words", false), 2, "2026-03-03T00:00:00Z").unwrap();
        assert_eq!(time(&turned), "2026-03-03T00:00:00Z");
    }
    #[test]
    fn an_object_that_is_not_ours_gets_no_status() {
        assert_eq!(merge(&Value::Null, &Part::Parents(Vec::new()), 1, "t"), None);
        let foreign = json!({"parents": [{"parentRef": {"name": "gw"}, "controllerName": "example.com/other", "conditions": []}]});
        assert_eq!(merge(&foreign, &Part::Parents(Vec::new()), 1, "t"), None);
    }
    #[test]
    fn our_entry_goes_with_its_parent() {
        let first = merge(&Value::Null, &part("", true), 1, "t").unwrap();
        assert_eq!(merge(&first, &Part::Parents(Vec::new()), 2, "t").unwrap(), json!({"parents": []}));
    }
    #[test]
    fn a_full_list_of_ancestors_is_left_alone() {
        let foreign: Vec<Value> = (0..16)
            .map(|i| json!({"ancestorRef": {"name": i.to_string()}, "controllerName": "example.com/other"}))
            .collect();
        let Part::Parents(ours) = part("", true) else { unreachable!() };
        assert_eq!(merge(&json!({"ancestors": foreign}), &Part::Ancestors(ours), 1, "t"), None);
    }
    #[test]
    fn defaults_of_the_definition_are_overwritten_and_features_sorted() {
        let old = json!({"conditions": [{"type": "Accepted", "status": "Unknown", "reason": "Pending", "message": "Waiting for controller", "lastTransitionTime": "1970-01-01T00:00:00Z"}]});
        let accepted = Condition { kind: "Accepted", status: true, reason: "Accepted", message: "weft".into() };
        let new = merge(&old, &Part::Own { conditions: vec![accepted], features: vec!["Mesh", "HTTPRoute"] }, 1, "now")
            .unwrap();
        assert_eq!(new["conditions"].as_array().unwrap().len(), 1);
        assert_eq!(
            (&new["conditions"][0]["observedGeneration"], &new["conditions"][0]["lastTransitionTime"]),
            (&json!(1), &json!("now"))
        );
        assert_eq!(new["supportedFeatures"], json!([{"name": "HTTPRoute"}, {"name": "Mesh"}]));
    }
}
