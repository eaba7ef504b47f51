//! YAML as a tree that knows its lines. Every message about an object names the line of the field it speaks of, so the tree is kept
//! for as long as the object is.
//!
//! Values resolve as in YAML's core schema (`yes` is a string). Anchors, aliases and merge keys work. Bounded: depth, and nodes after aliases are expanded.

use granit_parser::{Event, Parser, ScalarStyle};
use std::{collections::HashMap, fmt};

/// Nested deeper, no object of Kubernetes is.
const MAX_DEPTH: usize = 64;
/// Nodes of one file, aliases expanded: 16 MiB of memory, a thousand times a large manifest.
const MAX_NODES: usize = 200_000;

#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// From 1.
    pub line: u32,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub key: String,
    pub key_line: u32,
    pub value: Node,
}

impl Node {
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|e| e.key == key).map(|e| &e.value),
            _ => None,
        }
    }
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(s) => Some(s),
            _ => None,
        }
    }
    /// The line of a field such as `spec.rules[0].backendRefs[1].port`, or of the nearest thing that is there.
    pub fn line_of(&self, path: &str) -> u32 {
        let (mut node, mut line) = (self, self.line);
        for step in path.split('.').flat_map(|p| p.split('[')).filter(|p| !p.is_empty()) {
            let next = match (&node.value, step.strip_suffix(']')) {
                (Value::List(items), Some(index)) => {
                    index.parse().ok().and_then(|i: usize| items.get(i)).map(|n| (n, n.line))
                }
                (Value::Map(entries), None) => entries.iter().find(|e| e.key == step).map(|e| (&e.value, e.key_line)),
                _ => None,
            };
            let Some((n, l)) = next else { break };
            (node, line) = (n, l);
        }
        line
    }
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::Text(_) => "a string",
            Value::List(_) => "a list",
            Value::Map(_) => "an object",
        }
    }
}

/// Text that is no YAML.
#[derive(Clone, Debug, PartialEq)]
pub struct SyntaxError {
    pub line: u32,
    pub message: String,
}
impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

/// The documents of a file, each read or refused by itself. Empty documents are left out.
pub fn documents(text: &str) -> Vec<Result<Node, SyntaxError>> {
    let mut reader = Reader { parser: Parser::new_from_str(text), anchors: HashMap::new(), nodes: 0 };
    let mut found = Vec::new();
    loop {
        match reader.document() {
            Ok(None) => return found,
            Ok(Some(Node { value: Value::Null, .. })) => {}
            Ok(Some(node)) => found.push(Ok(node)),
            Err(e) => {
                found.push(Err(e));
                if !matches!(reader.parser.proceed_next_document(), Ok(true)) || reader.nodes > MAX_NODES {
                    return found;
                }
            }
        }
    }
}

struct Reader<'t> {
    parser: Parser<'t, granit_parser::StrInput<'t>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl<'t> Reader<'t> {
    fn event(&mut self) -> Result<Option<(Event<'t>, u32)>, SyntaxError> {
        loop {
            return match self.parser.next() {
                None => Ok(None),
                // comments may stand anywhere and mean nothing
                Some(Ok((Event::Comment(..), _))) => continue,
                Some(Ok((event, span))) => Ok(Some((event, span.start.line() as u32))),
                Some(Err(e)) => Err(SyntaxError { line: e.marker().line() as u32, message: e.info() }),
            };
        }
    }

    fn document(&mut self) -> Result<Option<Node>, SyntaxError> {
        self.anchors.clear();
        while let Some((event, line)) = self.event()? {
            match event {
                Event::StreamEnd => return Ok(None),
                Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..) | Event::Alias(_) => {
                    return self.node(event, line, 0).map(Some);
                }
                _ => {}
            }
        }
        Ok(None)
    }

    fn count(&mut self, n: usize, line: u32) -> Result<(), SyntaxError> {
        self.nodes += n;
        match self.nodes > MAX_NODES {
            true => Err(SyntaxError { line, message: format!("the file holds more than {MAX_NODES} values") }),
            false => Ok(()),
        }
    }

    fn node(&mut self, event: Event<'t>, line: u32, depth: usize) -> Result<Node, SyntaxError> {
        self.count(1, line)?;
        if depth > MAX_DEPTH {
            return Err(SyntaxError { line, message: format!("nested deeper than {MAX_DEPTH} levels") });
        }
        let unfinished = || SyntaxError { line, message: "the document ends inside a value".into() };
        let (anchor, node) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let string = style != ScalarStyle::Plain || tag.is_some_and(|t| t.is_yaml_core_schema_tag("str"));
                (anchor, Node { line, value: if string { Value::Text(text.into_owned()) } else { plain(&text) } })
            }
            Event::SequenceStart(_, anchor, _) => {
                let mut items = Vec::new();
                loop {
                    match self.event()?.ok_or_else(unfinished)? {
                        (Event::SequenceEnd, _) => break,
                        (event, line) => items.push(self.node(event, line, depth + 1)?),
                    }
                }
                (anchor, Node { line, value: Value::List(items) })
            }
            Event::MappingStart(_, anchor, _) => {
                let (mut entries, mut merged): (Vec<Entry>, Vec<Entry>) = (Vec::new(), Vec::new());
                loop {
                    let (key, key_line) = match self.event()?.ok_or_else(unfinished)? {
                        (Event::MappingEnd, _) => break,
                        (Event::Scalar(key, ..), line) => (key.into_owned(), line),
                        (_, line) => return Err(SyntaxError { line, message: "a key must be a string".into() }),
                    };
                    let (event, line) = self.event()?.ok_or_else(unfinished)?;
                    let value = self.node(event, line, depth + 1)?;
                    if key == "<<" {
                        merge(&mut merged, value);
                    } else if let Some(first) = entries.iter().find(|e| e.key == key) {
                        let message = format!("the field {key:?} stands twice (first in line {})", first.key_line);
                        return Err(SyntaxError { line: key_line, message });
                    } else {
                        entries.push(Entry { key, key_line, value });
                    }
                }
                merged.retain(|m| !entries.iter().any(|e| e.key == m.key));
                entries.append(&mut merged);
                (anchor, Node { line, value: Value::Map(entries) })
            }
            Event::Alias(id) => {
                let target = self.anchors.get(&id).cloned().ok_or_else(unfinished)?;
                self.count(size(&target), line)?;
                return Ok(target);
            }
            _ => return Err(unfinished()),
        };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }
}

fn size(node: &Node) -> usize {
    match &node.value {
        Value::List(items) => 1 + items.iter().map(size).sum::<usize>(),
        Value::Map(entries) => 1 + entries.iter().map(|e| size(&e.value)).sum::<usize>(),
        _ => 1,
    }
}

/// `<<: *base` or `<<: [*a, *b]`; what came first stays.
fn merge(into: &mut Vec<Entry>, from: Node) {
    match from.value {
        Value::Map(entries) => {
            for e in entries {
                if !into.iter().any(|have| have.key == e.key) {
                    into.push(e);
                }
            }
        }
        Value::List(items) => items.into_iter().for_each(|i| merge(into, i)),
        _ => {}
    }
}

/// YAML 1.2 core schema.
fn plain(text: &str) -> Value {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let decimal = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if let (true, Ok(n)) = (decimal, text.parse()) {
        return Value::Int(n);
    }
    let radix = |prefix: &str, radix| digits.strip_prefix(prefix).and_then(|d| i64::from_str_radix(d, radix).ok());
    if let Some(n) = radix("0x", 16).or_else(|| radix("0o", 8)) {
        return Value::Int(n);
    }
    let number = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'))
        && digits.bytes().any(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(f) if number => Value::Float(f),
        _ => Value::Text(text.into()),
    }
}

#[cfg(test)]
#[path = "yaml_tests.rs"]
mod tests;
