//! A deserializer that a schema guides: while a type reads a value, it tells which fields it has and which words it knows, and both are compared with
//! the schema of that place.

use serde::de::{self, DeserializeSeed, Expected, IntoDeserializer, Visitor, value::Error};
use serde_json::Value;
use std::{cell::RefCell, collections::BTreeSet};

/// A value, the schema of its place, the path to it and what was found so far.
#[derive(Clone, Copy)]
pub struct Guided<'a> {
    pub value: &'a Value,
    pub schema: &'a Value,
    pub path: &'a str,
    pub found: &'a RefCell<BTreeSet<String>>,
}

impl Guided<'_> {
    fn note(&self, below: &str, what: &str) {
        self.found.borrow_mut().insert(format!("{}{below}: {what}", self.path));
    }
    fn compare_fields(&self, fields: &[&str]) {
        let Some(properties) = self.schema["properties"].as_object() else {
            return self.note("", "the type has fields here, the schema has not");
        };
        // what identifies an object is no field of the types
        let ours = |k: &&str| !(self.path.is_empty() && ["apiVersion", "kind"].contains(k));
        let crd: BTreeSet<&str> = properties.keys().map(String::as_str).filter(ours).collect();
        let rust: BTreeSet<&str> = fields.iter().copied().collect();
        crd.difference(&rust).for_each(|f| self.note(&format!(".{f}"), "the type has no such field"));
        rust.difference(&crd).for_each(|f| self.note(&format!(".{f}"), "the schema has no such field"));
    }
    /// A type with a vocabulary says in its `expecting` what the words are.
    fn compare_words(&self, expecting: &dyn Expected) {
        let said = expecting.to_string();
        let words = said.strip_prefix("one of ").map(|w| w.split(", ").collect::<BTreeSet<_>>());
        let values =
            self.schema["enum"].as_array().map(|a| a.iter().filter_map(Value::as_str).collect::<BTreeSet<_>>());
        match (values, words) {
            (Some(values), Some(words)) => {
                values.difference(&words).for_each(|w| self.note("", &format!("the type does not know the word {w}")));
                words
                    .difference(&values)
                    .for_each(|w| self.note("", &format!("the schema does not know the word {w}")));
            }
            (Some(_), None) => self.note("", "the schema lists words, the type has none"),
            (None, Some(_)) => self.note("", "the type has words, the schema lists none"),
            (None, None) => {}
        }
    }
}

impl<'de> de::Deserializer<'de> for Guided<'_> {
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
        name: &'static str,
        fields: &'static [&'static str],
        v: V,
    ) -> Result<V::Value, Error> {
        // the schema of metadata is not in a CRD
        if !(name == "ObjectMeta" || self.path == ".metadata") {
            self.compare_fields(fields);
        }
        self.deserialize_any(v)
    }
    fn deserialize_str<V: Visitor<'de>>(self, v: V) -> Result<V::Value, Error> {
        self.compare_words(&v);
        self.deserialize_any(v)
    }
    fn deserialize_string<V: Visitor<'de>>(self, v: V) -> Result<V::Value, Error> {
        self.compare_words(&v);
        self.deserialize_any(v)
    }
    fn deserialize_option<V: Visitor<'de>>(self, v: V) -> Result<V::Value, Error> {
        v.visit_some(self)
    }
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, v: V) -> Result<V::Value, Error> {
        v.visit_newtype_struct(self)
    }
    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

struct Items<'a> {
    of: Guided<'a>,
    items: std::slice::Iter<'a, Value>,
}
impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Error;
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let Some(value) = self.items.next() else { return Ok(None) };
        let path = format!("{}[]", self.of.path);
        seed.deserialize(Guided { value, schema: &self.of.schema["items"], path: &path, ..self.of }).map(Some)
    }
}

struct Fields<'a> {
    of: Guided<'a>,
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
        let property = &self.of.schema["properties"][key];
        let schema = if property.is_null() { &self.of.schema["additionalProperties"] } else { property };
        seed.deserialize(Guided { value, schema, path: &path, ..self.of })
    }
}
