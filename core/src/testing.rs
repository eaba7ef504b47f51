//! Heads and rules for the tests of this crate.

use crate::{
    filter::{Filters, HeadMut},
    matches::*,
    path::RequestPath,
    retry::Timeouts,
    route::*,
    service::ServiceRef,
};
use std::sync::Arc;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct TestHead {
    pub method: String,
    pub target: String,
    pub authority: String,
    pub fields: Vec<(String, String)>,
}
pub fn head(method: &str, target: &str, fields: &[(&str, &str)]) -> TestHead {
    let fields = fields.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
    TestHead { method: method.into(), target: target.into(), authority: "echo".into(), fields }
}
impl TestHead {
    pub fn path(&self) -> RequestPath<'_> {
        RequestPath::parse(self.target.as_bytes()).unwrap()
    }
    /// All values, joined as an application's library does.
    pub fn joined(&self, name: &str) -> Option<String> {
        let v: Vec<_> = self.fields.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect();
        (!v.is_empty()).then(|| v.join(","))
    }
}
impl RequestHead for TestHead {
    fn method(&self) -> &[u8] {
        self.method.as_bytes()
    }
    fn path_and_query(&self) -> &[u8] {
        self.target.as_bytes()
    }
    fn authority(&self) -> &[u8] {
        self.authority.as_bytes()
    }
    fn any_value(&self, name: &str, found: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.fields.iter().any(|(n, v)| n == name && found(v.as_bytes()))
    }
    fn each_field(&self, each: &mut dyn FnMut(&[u8], &[u8])) {
        self.fields.iter().for_each(|(n, v)| each(n.as_bytes(), v.as_bytes()));
    }
}
fn text(b: &[u8]) -> String {
    String::from_utf8(b.to_vec()).unwrap()
}
impl HeadMut for TestHead {
    fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.fields.iter().find(|(n, _)| n.as_bytes() == name).map(|(_, v)| v.as_bytes())
    }
    fn set(&mut self, name: &[u8], value: &[u8]) {
        self.remove(name);
        self.add(name, value);
    }
    fn add(&mut self, name: &[u8], value: &[u8]) {
        self.fields.push((text(name), text(value)));
    }
    fn remove(&mut self, name: &[u8]) {
        self.fields.retain(|(n, _)| n.as_bytes() != name);
    }
    fn remove_names(&mut self, drop: &mut dyn FnMut(&[u8]) -> bool) {
        self.fields.retain(|(n, _)| !drop(n.as_bytes()));
    }
    fn set_path_and_query(&mut self, value: &[u8]) {
        self.target = text(value);
    }
    fn set_authority(&mut self, value: &[u8]) {
        self.authority = text(value);
    }
}

pub fn route(name: &str, created: i64) -> Arc<RouteRef> {
    let (namespace, name) = name.split_once('/').unwrap_or(("shop", name));
    Arc::new(RouteRef { kind: RouteKind::Http, namespace: namespace.into(), name: name.into(), created })
}
pub fn rule(route: &Arc<RouteRef>, index: u32, matches: Vec<HttpMatch>) -> Arc<Rule> {
    Arc::new(of(route, index, RuleMatches::Http(matches)))
}
pub fn grpc_rule(route: &Arc<RouteRef>, index: u32, matches: Vec<GrpcMatch>) -> Arc<Rule> {
    Arc::new(of(route, index, RuleMatches::Grpc(matches)))
}
fn of(route: &Arc<RouteRef>, index: u32, matches: RuleMatches) -> Rule {
    Rule {
        route: route.clone(),
        index,
        name: None,
        matches,
        filters: Filters::default(),
        backends: Vec::new(),
        timeouts: Timeouts::default(),
        retry: None,
    }
}
pub fn service(name: &str) -> ServiceRef {
    ServiceRef { namespace: "shop".into(), name: name.into(), port: 80 }
}
pub fn exact(name: &str, value: &str) -> NamedMatch {
    NamedMatch { name: name.into(), value: ValueMatch::Exact(value.into()) }
}
pub fn regex(name: &str, value: &str) -> NamedMatch {
    NamedMatch { name: name.into(), value: ValueMatch::Regex(value.parse().unwrap()) }
}
pub fn on(path: PathMatch) -> HttpMatch {
    HttpMatch { path, ..HttpMatch::default() }
}
pub fn prefix(path: &str) -> HttpMatch {
    on(PathMatch::Prefix(path.into()))
}
pub fn exactly(path: &str) -> HttpMatch {
    on(PathMatch::Exact(path.into()))
}
pub fn like(path: &str) -> HttpMatch {
    on(PathMatch::Regex(path.parse().unwrap()))
}
