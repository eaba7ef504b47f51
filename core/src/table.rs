//! Matching in large tables. Built once per configuration, read by every request.
//!
//! All matches of all rules are put into the specification's order; a match's place in it is its *position*, and the least position that holds wins. A lookup
//! never walks the order. It asks, strongest kind of path first,
//!
//! ```text
//! exact:  hash of the path               -> bucket
//! regex:  trie of elements, literal part -> buckets of the nodes on the way
//! prefix: trie of elements               -> bucket of the deepest node that has one, then of its parents
//! ```
//!
//! A bucket lists the matches that share a path. A long one is indexed again, by the rarest exact header or query condition of each match (its *guard*), and
//! asked with the fields that the request has, so its cost follows the request and not the table. What no guard covers (regular expressions alone) is
//! tried in order. gRPC has the same buckets under service and method.
//!
//! Nothing is allocated for a lookup but the rare: paths deeper than 16 configured elements, long query values that were escaped.

use crate::{
    matches::{self, HttpMatch, NamedMatch, PathMatch, Rank, RequestHead, ValueMatch, effective, grpc_call},
    path::{RequestPath, elements},
    query,
    route::{Rule, RuleMatches},
};
use smallvec::SmallVec;
use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher},
    sync::Arc,
};

/// Below this, trying in order is cheaper than hashing a request's fields.
const SMALL: usize = 16;

/// Keys that are hashes already.
#[derive(Default)]
struct Hashed(u64);
impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {}
    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}
type ByHash<V> = HashMap<u64, V, BuildHasherDefault<Hashed>>;

/// A match in the order of precedence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub rule: u32,
    /// Place in the rule's matches. A rule without matches has one that takes all.
    pub index: u32,
}

#[derive(Debug, Default)]
struct Bucket {
    /// Positions, ascending.
    all: Vec<u32>,
    guards: Option<Box<Guards>>,
}

#[derive(Debug, Default)]
struct Guards {
    /// Names of the guards: other fields of a request need no hashing.
    headers: HashSet<Box<[u8]>>,
    query: HashSet<Box<[u8]>>,
    /// Hash of kind, name and value -> positions, ascending.
    by: ByHash<Vec<u32>>,
    /// Positions without a guard, ascending.
    open: Vec<u32>,
}

#[derive(Debug, Default)]
struct Node {
    /// In the order of their names.
    children: Vec<(Box<[u8]>, u32)>,
    prefix: Option<(Box<str>, Bucket)>,
    regex: Option<Bucket>,
}

#[derive(Debug, Default)]
struct Http {
    exact: HashMap<Box<[u8]>, Bucket>,
    /// The root is 0.
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Grpc {
    /// By `service/method`.
    both: HashMap<Box<[u8]>, Bucket>,
    service: HashMap<Box<[u8]>, Bucket>,
    method: HashMap<Box<[u8]>, Bucket>,
    rest: Bucket,
}

#[derive(Debug)]
enum Kind {
    Http(Http),
    Grpc(Grpc),
}

/// The index of a table.
#[derive(Debug)]
pub(crate) struct Index {
    pub entries: Vec<Entry>,
    kind: Kind,
}
impl Default for Index {
    fn default() -> Self {
        Self { entries: Vec::new(), kind: Kind::Http(Http::default()) }
    }
}

/// Where a rule without matches stands: as one that takes every request.
static ALL: std::sync::LazyLock<HttpMatch> = std::sync::LazyLock::new(HttpMatch::default);
static ALL_CALLS: std::sync::LazyLock<matches::GrpcMatch> = std::sync::LazyLock::new(Default::default);

pub(crate) fn http_match(rule: &Rule, index: u32) -> &HttpMatch {
    match &rule.matches {
        RuleMatches::Http(m) => m.get(index as usize).unwrap_or(&ALL),
        RuleMatches::Grpc(_) => &ALL,
    }
}
pub(crate) fn grpc_match(rule: &Rule, index: u32) -> &matches::GrpcMatch {
    match &rule.matches {
        RuleMatches::Grpc(m) => m.get(index as usize).unwrap_or(&ALL_CALLS),
        RuleMatches::Http(_) => &ALL_CALLS,
    }
}

pub(crate) fn rank(rule: &Rule, index: u32) -> Rank {
    match &rule.matches {
        RuleMatches::Http(_) => Rank::Http(http_match(rule, index).rank()),
        RuleMatches::Grpc(_) => Rank::Grpc(grpc_match(rule, index).rank()),
    }
}

fn guard_hash(kind: u8, name: &[u8], value: &[u8]) -> u64 {
    let mut h = DefaultHasher::new();
    (kind, name, value).hash(&mut h);
    h.finish()
}
const HEADER: u8 = 1;
const QUERY: u8 = 2;

/// The exact conditions of a match that can guard it. Not those that hold in ways a hash of one element would miss: combined lists, hosts, cookies.
fn guards<'m>(
    headers: &'m [NamedMatch],
    query: &'m [NamedMatch],
) -> impl Iterator<Item = (u8, &'m NamedMatch, u64)> + use<'m> {
    let exact = |kind, m: &'m NamedMatch| match &m.value {
        ValueMatch::Exact(v) => Some((kind, m, guard_hash(kind, m.name.as_bytes(), v.as_bytes()))),
        ValueMatch::Regex(_) => None,
    };
    let listed = |m: &&NamedMatch| match &m.value {
        ValueMatch::Exact(v) => {
            !matches!(&*m.name, "host" | "cookie") && !v.contains(',') && v.trim_ascii().len() == v.len()
        }
        ValueMatch::Regex(_) => false,
    };
    let headers = effective(headers).filter(listed).filter_map(move |m| exact(HEADER, m));
    headers.chain(effective(query).filter_map(move |m| exact(QUERY, m)))
}

impl Bucket {
    fn push(&mut self, at: u32) {
        self.all.push(at);
    }
    /// Chooses the guards. `conditions` gives a position's headers and query conditions.
    fn finish<'m>(&mut self, conditions: impl Fn(u32) -> (&'m [NamedMatch], &'m [NamedMatch])) {
        if self.all.len() <= SMALL {
            return;
        }
        let mut often: ByHash<u32> = ByHash::default();
        for at in &self.all {
            let (h, q) = conditions(*at);
            for (.., hash) in guards(h, q) {
                *often.entry(hash).or_default() += 1;
            }
        }
        let mut g = Guards::default();
        for at in &self.all {
            let (h, q) = conditions(*at);
            match guards(h, q).min_by_key(|(.., hash)| often[hash]) {
                Some((kind, m, hash)) => {
                    let names = if kind == HEADER { &mut g.headers } else { &mut g.query };
                    names.insert(m.name.as_bytes().into());
                    g.by.entry(hash).or_default().push(*at);
                }
                None => g.open.push(*at),
            }
        }
        self.guards = (!g.by.is_empty()).then(|| Box::new(g));
    }

    /// The first position below `best` that holds, else `best`.
    fn first<H: RequestHead + ?Sized>(
        &self,
        head: &H,
        path: &RequestPath<'_>,
        mut best: u32,
        holds: impl Fn(u32) -> bool,
    ) -> u32 {
        let try_all = |list: &[u32], best: u32| -> u32 {
            list.iter().copied().take_while(|at| *at < best).find(|at| holds(*at)).unwrap_or(best)
        };
        let Some(g) = &self.guards else { return try_all(&self.all, best) };
        let mut ask = |hash: u64| {
            if let Some(list) = g.by.get(&hash) {
                best = try_all(list, best);
            }
        };
        if !g.headers.is_empty() {
            head.each_field(&mut |name, value| {
                if g.headers.contains(name) {
                    for element in matches::elements(value) {
                        ask(guard_hash(HEADER, name, element));
                    }
                }
            });
        }
        if !g.query.is_empty() {
            for (name, value) in path.query().into_iter().flat_map(query::pairs) {
                let name = query::decode(name);
                if g.query.contains(&name[..]) {
                    ask(guard_hash(QUERY, &name, &query::decode(value)));
                }
            }
        }
        try_all(&g.open, best)
    }
}

impl Index {
    /// Indexes rules, which must be of one kind.
    pub fn new(rules: &[Arc<Rule>]) -> Self {
        let mut order: Vec<(Reverse<Rank>, Entry)> = Vec::new();
        for (at, rule) in rules.iter().enumerate() {
            let n = match &rule.matches {
                RuleMatches::Http(m) => m.len(),
                RuleMatches::Grpc(m) => m.len(),
            };
            order.extend(
                (0..n.max(1) as u32).map(|index| (Reverse(rank(rule, index)), Entry { rule: at as u32, index })),
            );
        }
        // stable: equal matches stay in the order of routes, rules and matches
        order.sort_by_key(|(rank, _)| *rank);
        let entries: Vec<Entry> = order.into_iter().map(|(_, e)| e).collect();
        let grpc = matches!(rules.first().map(|r| &r.matches), Some(RuleMatches::Grpc(_)));
        let kind = if grpc { Kind::Grpc(Grpc::new(rules, &entries)) } else { Kind::Http(Http::new(rules, &entries)) };
        Self { entries, kind }
    }

    /// The position of the best match, and the prefix that matched.
    pub fn find<H: RequestHead + ?Sized>(
        &self,
        rules: &[Arc<Rule>],
        head: &H,
        path: &RequestPath<'_>,
    ) -> Option<(Entry, Option<&str>)> {
        let entry = |at: u32| self.entries[at as usize];
        let (at, prefix) = match &self.kind {
            Kind::Http(i) => i.find(head, path, |at| {
                let e = entry(at);
                http_match(&rules[e.rule as usize], e.index)
            })?,
            Kind::Grpc(i) => {
                let call = grpc_call(head, path)?;
                let at = i.find(head, path, call, |at| {
                    let e = entry(at);
                    grpc_match(&rules[e.rule as usize], e.index).conditions(head, call).is_ok()
                })?;
                (at, None)
            }
        };
        Some((entry(at), prefix))
    }
}

/// No position.
const NONE: u32 = u32::MAX;

impl Http {
    fn new(rules: &[Arc<Rule>], entries: &[Entry]) -> Self {
        let of = |at: u32| {
            let e = entries[at as usize];
            http_match(&rules[e.rule as usize], e.index)
        };
        let mut new = Self { nodes: vec![Node::default()], ..Self::default() };
        // (path of the node, what stands there, position)
        let mut under: Vec<(Box<[u8]>, bool, u32)> = Vec::new();
        for at in 0..entries.len() as u32 {
            match &of(at).path {
                p @ PathMatch::Exact(_) => {
                    // a path that no request can have is left out
                    if let Some(path) = p.normal() {
                        new.exact.entry(path.as_bytes().into()).or_default().push(at);
                    }
                }
                p @ PathMatch::Prefix(_) => under.extend(p.normal().map(|n| (n.as_bytes().into(), true, at))),
                PathMatch::Regex(r) => {
                    let literal = r.literal_prefix();
                    let whole = literal.iter().rposition(|b| *b == b'/').unwrap_or(0);
                    under.push((literal[..whole].into(), false, at));
                }
            }
        }
        // in the order of their elements, so that a child is always its parent's last
        under.sort_by(|a, b| elements(&a.0).cmp(elements(&b.0)).then(a.2.cmp(&b.2)));
        for (path, prefix, at) in under {
            let node = new.node(&path);
            if prefix {
                let text = String::from_utf8_lossy(&path).into();
                node.prefix.get_or_insert_with(|| (text, Bucket::default())).1.push(at);
            } else {
                node.regex.get_or_insert_default().push(at);
            }
        }
        let conditions = |at: u32| {
            let m = of(at);
            (&*m.headers, &*m.query)
        };
        for b in new.exact.values_mut() {
            b.finish(conditions);
        }
        for n in &mut new.nodes {
            n.prefix.iter_mut().map(|p| &mut p.1).chain(&mut n.regex).for_each(|b| b.finish(conditions));
        }
        new
    }

    /// The node of a path; must be asked in the order of elements.
    fn node(&mut self, path: &[u8]) -> &mut Node {
        let mut at = 0usize;
        for element in elements(path) {
            let last = self.nodes[at].children.last().filter(|(name, _)| **name == *element);
            at = match last {
                Some((_, child)) => *child as usize,
                None => {
                    let child = self.nodes.len();
                    self.nodes[at].children.push((element.into(), child as u32));
                    self.nodes.push(Node::default());
                    child
                }
            };
        }
        &mut self.nodes[at]
    }

    fn find<'s, 'm, H: RequestHead + ?Sized>(
        &'s self,
        head: &H,
        path: &RequestPath<'_>,
        of: impl Fn(u32) -> &'m HttpMatch,
    ) -> Option<(u32, Option<&'s str>)> {
        let conditions = |at: u32| of(at).conditions(head, path).is_ok();
        let matched = path.matched();
        if let Some(b) = self.exact.get(matched) {
            let at = b.first(head, path, NONE, conditions);
            if at != NONE {
                return Some((at, None));
            }
        }
        let mut way: SmallVec<[&Node; 16]> = SmallVec::new();
        way.extend(self.nodes.first());
        for element in elements(matched) {
            let Some(node) = way.last() else { break };
            let Ok(child) = node.children.binary_search_by(|(name, _)| (**name).cmp(element)) else { break };
            way.push(&self.nodes[node.children[child].1 as usize]);
        }
        let mut best = NONE;
        for b in way.iter().filter_map(|n| n.regex.as_ref()) {
            best = b.first(head, path, best, |at| {
                let m = of(at);
                matches!(&m.path, PathMatch::Regex(p) if p.is_match(matched)) && m.conditions(head, path).is_ok()
            });
        }
        if best != NONE {
            return Some((best, None));
        }
        way.iter().rev().filter_map(|n| n.prefix.as_ref()).find_map(|(text, b)| {
            let at = b.first(head, path, NONE, conditions);
            (at != NONE).then_some((at, Some(&**text)))
        })
    }
}

impl Grpc {
    fn new(rules: &[Arc<Rule>], entries: &[Entry]) -> Self {
        let of = |at: u32| {
            let e = entries[at as usize];
            grpc_match(&rules[e.rule as usize], e.index)
        };
        let mut new = Self::default();
        for at in 0..entries.len() as u32 {
            let m = of(at);
            let bucket = match (&m.service, &m.method) {
                (Some(ValueMatch::Exact(s)), Some(ValueMatch::Exact(m))) => {
                    new.both.entry([s.as_bytes(), b"/", m.as_bytes()].concat().into()).or_default()
                }
                (Some(ValueMatch::Exact(s)), _) => new.service.entry(s.as_bytes().into()).or_default(),
                (_, Some(ValueMatch::Exact(m))) => new.method.entry(m.as_bytes().into()).or_default(),
                _ => &mut new.rest,
            };
            bucket.push(at);
        }
        let maps = [&mut new.both, &mut new.service, &mut new.method];
        for b in maps.into_iter().flat_map(|m| m.values_mut()).chain([&mut new.rest]) {
            b.finish(|at| (&of(at).headers, &[]));
        }
        new
    }

    fn find<H: RequestHead + ?Sized>(
        &self,
        head: &H,
        path: &RequestPath<'_>,
        (service, method): (&[u8], &[u8]),
        holds: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        let call = path.matched().strip_prefix(b"/")?;
        let buckets = [self.both.get(call), self.service.get(service), self.method.get(method), Some(&self.rest)];
        let mut best = NONE;
        for b in buckets.into_iter().flatten() {
            best = b.first(head, path, best, &holds);
        }
        (best != NONE).then_some(best)
    }
}
