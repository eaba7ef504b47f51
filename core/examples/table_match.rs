//! Measures matching: builds tables of N rules (5,000 unless given) and looks requests up. Prints one JSON object a table.
//!
//! `cargo run --profile quick -p weft-core --example table_match [rules]`

use std::{hint::black_box, sync::Arc, time::Instant};
use weft_core::{
    filter::Filters,
    matches::{HttpMatch, NamedMatch, PathMatch, RequestHead, ValueMatch},
    path::RequestPath,
    retry::Timeouts,
    route::{HttpTable, RouteKind, RouteRef, Rule, RuleMatches},
};

/// A request as a browser or client library sends it.
struct Head {
    target: String,
    fields: Vec<(String, String)>,
}
impl RequestHead for Head {
    fn method(&self) -> &[u8] {
        b"GET"
    }
    fn path_and_query(&self) -> &[u8] {
        self.target.as_bytes()
    }
    fn authority(&self) -> &[u8] {
        b"cart.shop"
    }
    fn any_value(&self, name: &str, found: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.fields.iter().any(|(n, v)| n == name && found(v.as_bytes()))
    }
    fn each_field(&self, each: &mut dyn FnMut(&[u8], &[u8])) {
        self.fields.iter().for_each(|(n, v)| each(n.as_bytes(), v.as_bytes()));
    }
}

fn rule(at: usize, matches: Vec<HttpMatch>) -> Arc<Rule> {
    let route =
        RouteRef { kind: RouteKind::Http, namespace: "shop".into(), name: format!("r{at}").into(), created: at as i64 };
    Arc::new(Rule {
        route: Arc::new(route),
        index: 0,
        name: None,
        matches: RuleMatches::Http(matches),
        filters: Filters::default(),
        backends: Vec::new(),
        timeouts: Timeouts::default(),
        retry: None,
    })
}
fn exact(name: &str, value: usize) -> NamedMatch {
    NamedMatch { name: name.into(), value: ValueMatch::Exact(value.to_string().into()) }
}
fn request(target: String, tenant: usize) -> Head {
    let mut fields: Vec<(String, String)> = [
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"),
        ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9"),
        ("accept-encoding", "gzip, deflate, br"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("cookie", "session=0123456789abcdef0123456789abcdef"),
    ]
    .map(|(n, v)| (n.into(), v.into()))
    .into();
    fields.push(("x-tenant".into(), tenant.to_string()));
    Head { target, fields }
}

fn measure(name: &str, table: &HttpTable, requests: &[Head]) {
    let mut took = Vec::with_capacity(200_000);
    let mut found = 0;
    for h in requests.iter().cycle().take(200_000) {
        let from = Instant::now();
        if let Ok(path) = RequestPath::parse(h.path_and_query()) {
            found += usize::from(black_box(table.find(h, &path)).is_some());
        }
        took.push(from.elapsed().as_nanos());
    }
    took.sort_unstable();
    let at = |percent: usize| took[took.len() * percent / 100];
    println!(
        "{{\"table\":\"{name}\",\"rules\":{},\"found\":{},\"p50_ns\":{},\"p99_ns\":{}}}",
        table.rules.len(),
        found as f64 / took.len() as f64,
        at(50),
        at(99)
    );
}

fn main() {
    let rules: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(5000);
    let on = |path| HttpMatch { path, ..HttpMatch::default() };
    // a number that is spread over the rules
    let spread = |i: usize| i * 7919 % rules;

    let paths = |i: usize| {
        vec![
            on(PathMatch::Prefix(format!("/team{}/service{i}/v1", i % 70).into())),
            on(PathMatch::Exact(format!("/team{}/service{i}/health", i % 70).into())),
            HttpMatch { headers: vec![exact("x-tenant", i)], ..on(PathMatch::Prefix("/".into())) },
        ]
    };
    let table = HttpTable::new((0..rules).map(|i| rule(i, paths(i))).collect());
    let requests: Vec<_> = (0..2000)
        .map(|n| {
            let i = spread(n);
            let path = match n % 4 {
                0 => format!("/team{}/service{i}/health", i % 70),
                1 => format!("/team{}/service{i}/v1/items/17?page=2", i % 70),
                2 => "/elsewhere".into(),
                _ => format!("/team{}/nothing", i % 70),
            };
            request(path, if n % 3 == 0 { rules } else { i })
        })
        .collect();
    measure("paths, and a header under /", &table, &requests);

    let patterns = |i: usize| {
        vec![on(PathMatch::Regex(
            format!("/team{}/service{i}/v[0-9]+(/.*)?", i % 70).parse().expect("a valid expression"),
        ))]
    };
    let table = HttpTable::new((0..rules).map(|i| rule(i, patterns(i))).collect());
    measure("regular expressions that begin with a path", &table, &requests);

    // 64 matches in each of a fifth of the rules, all under one path
    let tenants = |i: usize| {
        (0..64)
            .map(|j| HttpMatch { headers: vec![exact("x-tenant", i * 64 + j)], ..on(PathMatch::Prefix("/".into())) })
            .collect()
    };
    let table = HttpTable::new((0..rules / 5).map(|i| rule(i, tenants(i))).collect());
    measure("64 header matches in each rule", &table, &requests);
}
