//! From the tree of a YAML document to typed objects: strict, with the path and line of everything that does not fit.
//!
//! Fields that a type does not know are collected, not skipped: the type itself says which fields it has (serde hands the list over),
//! so the message can say which one was probably meant.

use super::{
    suggest,
    yaml::{Entry, Node, Value},
};
use serde::de::{self, DeserializeSeed, IntoDeserializer, Visitor};
use std::{cell::RefCell, fmt};

/// What does not fit a type.
#[derive(Clone, Debug, PartialEq)]
pub struct Misfit {
    /// Such as `spec.rules[0].retry.attempts`.
    pub field: String,
    pub line: u32,
    pub message: String,
    pub fix: String,
}

/// Reads `T`. Errors: the first value of a wrong type, or a missing field. Beside the value come the fields that `T` does not know.
pub fn read<T: de::DeserializeOwned>(node: &Node) -> Result<(T, Vec<Misfit>), Misfit> {
    let unknown = RefCell::new(Vec::new());
    let de = De { node, path: Path::Root, unknown: &unknown, known: None };
    let value = T::deserialize(de).map_err(|e| e.0)?;
    Ok((value, unknown.into_inner()))
}

#[derive(Clone, Copy)]
enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}
impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Key(Path::Root, key) => f.write_str(key),
            Path::Key(parent, key) => write!(f, "{parent}.{key}"),
            Path::Index(parent, i) => write!(f, "{parent}[{i}]"),
        }
    }
}

#[derive(Debug)]
struct Error(Misfit);
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.field, self.0.message)
    }
}
impl std::error::Error for Error {}
impl Error {
    fn plain(message: String, fix: &str) -> Self {
        Error(Misfit { field: String::new(), line: 0, message, fix: fix.into() })
    }
    /// Where it happened, if nobody nearer has said so.
    fn at(mut self, path: &Path<'_>, line: u32) -> Self {
        if self.0.line == 0 {
            let below = std::mem::take(&mut self.0.field);
            self.0.field = match (path, below.is_empty()) {
                (Path::Root, _) => below,
                (_, true) => path.to_string(),
                (_, false) => format!("{path}.{below}"),
            };
            self.0.line = line;
        }
        self
    }
}
impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Error::plain(message.to_string(), "correct the value")
    }
    fn invalid_type(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let wants_text = expected.to_string().contains("string");
        let fix = match unexpected {
            de::Unexpected::Signed(_)
            | de::Unexpected::Unsigned(_)
            | de::Unexpected::Bool(_)
            | de::Unexpected::Float(_)
                if wants_text =>
            {
                "put the value in quotes"
            }
            de::Unexpected::Str(s) if s.parse::<i64>().is_ok() && !wants_text => "take the quotes away",
            de::Unexpected::Map if !wants_text => "begin each item with \"- \"",
            _ => "write the type that the field has",
        };
        Error::plain(format!("is {unexpected}, must be {expected}"), fix)
    }
    fn invalid_value(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Error::plain(format!("is {unexpected}, must be {expected}"), "write a value within the range")
    }
    fn missing_field(field: &'static str) -> Self {
        let mut e = Error::plain("is missing and required".into(), &format!("add {field}"));
        e.0.field = field.into();
        e
    }
}

#[derive(Clone, Copy)]
struct De<'a> {
    node: &'a Node,
    path: Path<'a>,
    unknown: &'a RefCell<Vec<Misfit>>,
    /// The fields of the struct whose field this is.
    known: Option<&'static [&'static str]>,
}

impl<'de> De<'_> {
    fn located<T>(&self, r: Result<T, Error>) -> Result<T, Error> {
        r.map_err(|e| e.at(&self.path, self.node.line))
    }
    fn object<V: Visitor<'de>>(
        self,
        entries: &[Entry],
        known: Option<&'static [&'static str]>,
        v: V,
    ) -> Result<V::Value, Error> {
        // the root's own name and version are for whoever chose the type
        let hidden = |e: &Entry| {
            matches!(self.path, Path::Root)
                && matches!(e.key.as_str(), "apiVersion" | "kind")
                && known.is_some_and(|k| !k.contains(&e.key.as_str()))
        };
        let entries = entries.iter().filter(|e| e.value.value != Value::Null && !hidden(e));
        self.located(v.visit_map(Map { de: self, entries, value: None, known }))
    }
    fn list<V: Visitor<'de>>(self, items: &[Node], v: V) -> Result<V::Value, Error> {
        self.located(v.visit_seq(List { de: self, items: items.iter().enumerate() }))
    }
}

impl<'de> de::Deserializer<'de> for De<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, v: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Null => self.located(v.visit_unit()),
            Value::Bool(b) => self.located(v.visit_bool(*b)),
            Value::Int(i) => self.located(if *i < 0 { v.visit_i64(*i) } else { v.visit_u64(*i as u64) }),
            Value::Float(f) => self.located(v.visit_f64(*f)),
            Value::Text(s) => self.located(v.visit_str(s)),
            Value::List(items) => self.list(items, v),
            Value::Map(entries) => self.object(entries, None, v),
        }
    }
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        v: V,
    ) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Map(entries) => self.object(entries, Some(fields), v),
            _ => self.deserialize_any(v),
        }
    }
    fn deserialize_option<V: Visitor<'de>>(self, v: V) -> Result<V::Value, Error> {
        match self.node.value {
            Value::Null => v.visit_none(),
            _ => v.visit_some(self),
        }
    }
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, v: V) -> Result<V::Value, Error> {
        v.visit_newtype_struct(self)
    }
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        v: V,
    ) -> Result<V::Value, Error> {
        let text = self.node.text().unwrap_or_default();
        self.located(v.visit_enum(IntoDeserializer::<Error>::into_deserializer(text)))
    }
    fn deserialize_ignored_any<V: Visitor<'de>>(self, v: V) -> Result<V::Value, Error> {
        if let (Some(known), Path::Key(_, key)) = (self.known, &self.path) {
            let fix = match suggest::nearest(key, known.iter().copied()) {
                Some(meant) => format!("did you mean {meant}?"),
                None => format!("remove it; the fields here are {}", known.join(", ")),
            };
            let misfit = Misfit {
                field: self.path.to_string(),
                line: self.node.line,
                message: "is no field of this object".into(),
                fix,
            };
            self.unknown.borrow_mut().push(misfit);
        }
        v.visit_unit()
    }
    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map identifier
    }
}

struct Map<'a, I> {
    de: De<'a>,
    entries: I,
    value: Option<&'a Entry>,
    known: Option<&'static [&'static str]>,
}
impl<'de, 'a, I: Iterator<Item = &'a Entry>> de::MapAccess<'de> for Map<'a, I> {
    type Error = Error;
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.value = self.entries.next();
        self.value.map(|e| seed.deserialize(IntoDeserializer::<Error>::into_deserializer(e.key.as_str()))).transpose()
    }
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let Some(entry) = self.value.take() else { return Err(de::Error::custom("a value without its key")) };
        let path = Path::Key(&self.de.path, &entry.key);
        let de = De { node: &entry.value, path, unknown: self.de.unknown, known: self.known };
        seed.deserialize(de).map_err(|e| e.at(&path, entry.key_line))
    }
}

struct List<'a> {
    de: De<'a>,
    items: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
}
impl<'de> de::SeqAccess<'de> for List<'_> {
    type Error = Error;
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let Some((i, node)) = self.items.next() else { return Ok(None) };
        let path = Path::Index(&self.de.path, i);
        let de = De { node, path, unknown: self.de.unknown, known: None };
        seed.deserialize(de).map(Some).map_err(|e| e.at(&path, node.line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::yaml::documents;
    use weft_api::{HTTPRoute, http::PathMatchType};

    fn route(spec: &str) -> Result<(HTTPRoute, Vec<Misfit>), Misfit> {
        let text =
            format!("apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: a}}\nspec:\n{spec}");
        read(&documents(&text)[0].clone().unwrap())
    }
    fn refused(spec: &str) -> String {
        let m = route(spec).unwrap_err();
        format!("{}: {} {}; {}", m.line, m.field, m.message, m.fix)
    }

    #[test]
    fn values_of_every_shape() {
        let (r, unknown) = route("  rules:\n    - matches: [{path: {type: Glob, value: /a}}]\n      backendRefs: [{name: b, port: 80, weight: 2}]\n      retry:\n").unwrap();
        assert!(unknown.is_empty(), "{unknown:?}");
        let rule = &r.spec.rules[0];
        assert_eq!(rule.matches[0].path.as_ref().unwrap().r#type, Some(PathMatchType::Unknown("Glob".into())));
        assert_eq!(
            (rule.backend_refs[0].port, rule.backend_refs[0].weight, rule.retry.is_none()),
            (Some(80), Some(2), true)
        );
    }

    #[test]
    fn unknown_fields_are_named_with_what_was_meant() {
        let (_, unknown) =
            route("  rules:\n    - backendRef: [{name: b}]\n      timeouts:\n        requst: 1s\n").unwrap();
        let said: Vec<_> =
            unknown.iter().map(|m| format!("{}: {} {}; {}", m.line, m.field, m.message, m.fix)).collect();
        assert_eq!(
            said,
            [
                "6: spec.rules[0].backendRef is no field of this object; did you mean backendRefs?",
                "8: spec.rules[0].timeouts.requst is no field of this object; did you mean request?"
            ]
        );
    }

    #[test]
    fn misfits_name_field_line_and_fix() {
        assert_eq!(
            refused("  rules:\n    - backendRefs: [{name: b, port: 70000}]\n"),
            "6: spec.rules[0].backendRefs[0].port is integer `70000`, must be u16; write a value within the range"
        );
        assert_eq!(
            refused("  rules:\n    - name: 7\n"),
            "6: spec.rules[0].name is integer `7`, must be a string; put the value in quotes"
        );
        assert_eq!(
            refused("  rules:\n    - backendRefs: [{port: 80}]\n"),
            "6: spec.rules[0].backendRefs[0].name is missing and required; add name"
        );
        assert_eq!(
            refused("  rules: {name: a}\n"),
            "5: spec.rules is map, must be a sequence; begin each item with \"- \""
        );
        assert_eq!(
            refused("  rules:\n    - backendRefs: [{name: b, port: '80'}]\n"),
            "6: spec.rules[0].backendRefs[0].port is string \"80\", must be u16; take the quotes away"
        );
    }
}
