use super::*;
use crate::matches::PathMatch;
use proptest::{collection::vec, option, prelude::*, sample::select};

fn id(text: &str) -> WorkloadIdentity {
    let (ns, sa) = text.split_once('/').unwrap();
    WorkloadIdentity::new("cluster.local", ns, sa).unwrap()
}
fn account(text: &str) -> Source {
    let (ns, sa) = text.split_once('/').unwrap();
    Source::ServiceAccount { trust_domain: "cluster.local".into(), namespace: ns.into(), name: sa.into() }
}
fn policy(name: &str, action: Action, rules: Vec<Rule>) -> Arc<Policy> {
    Arc::new(Policy { name: name.into(), action, dry_run: false, rules })
}
fn trial(p: &Arc<Policy>) -> Arc<Policy> {
    Arc::new(Policy { dry_run: true, ..(**p).clone() })
}
fn from(sources: &[&str]) -> Rule {
    Rule { sources: Some(sources.iter().map(|s| account(s)).collect()), ..Rule::default() }
}
fn http(methods: &[&str], paths: &[&str]) -> Option<Vec<HttpRequests>> {
    Some(vec![HttpRequests {
        methods: methods.iter().map(|m| (*m).into()).collect(),
        paths: paths.iter().map(|p| PathTerm::prefix(p).unwrap()).collect(),
    }])
}
/// Who denies a request, and who would.
fn ask(
    a: &Authorization,
    peer: Option<&str>,
    port: u16,
    request: Option<(&str, &str)>,
) -> (Option<String>, Option<String>) {
    let peer = peer.map(id);
    let path = request.map(|(_, p)| RequestPath::parse(p.as_bytes()).unwrap());
    let request = request.zip(path.as_ref()).map(|((m, _), path)| Request { method: m.as_bytes(), path });
    let v = a.judge(&Call { peer: peer.as_ref(), port, request });
    (v.denied.map(|p| p.name.to_string()), v.dry_run.map(|p| p.name.to_string()))
}
fn denied(a: &Authorization, peer: Option<&str>, request: Option<(&str, &str)>) -> bool {
    ask(a, peer, 80, request).0.is_some()
}

#[test]
fn nothing_says_no_without_a_policy_and_everything_but_the_rules_with_one() {
    let none = Authorization::default();
    assert!(!denied(&none, None, None));
    let web = Authorization(vec![policy("shop/web", Action::Allow, vec![from(&["shop/web"])])]);
    assert!(!denied(&web, Some("shop/web"), None));
    assert_eq!(ask(&web, Some("shop/cart"), 80, None).0.as_deref(), Some("shop/web"));
    assert!(denied(&web, None, None), "plain text is nobody");
    let two = Authorization(vec![web.0[0].clone(), policy("shop/x", Action::Allow, vec![from(&["shop/cart"])])]);
    assert!(!denied(&two, Some("shop/web"), None) && !denied(&two, Some("shop/cart"), None));
    for nobody in [vec![], vec![from(&[])]] {
        assert!(denied(&Authorization(vec![policy("a", Action::Allow, nobody)]), Some("shop/web"), None));
    }
    let anybody = Authorization(vec![policy("a", Action::Allow, vec![Rule { ports: vec![80], ..Rule::default() }])]);
    assert!(ask(&anybody, None, 80, None).0.is_none() && ask(&anybody, None, 81, None).0.is_some());
}

#[test]
fn a_denial_wins() {
    let allow = policy("a", Action::Allow, vec![from(&["shop/web"])]);
    let deny = policy("d", Action::Deny, vec![Rule { http: http(&["DELETE"], &["/admin"]), ..Rule::default() }]);
    for order in [[allow.clone(), deny.clone()], [deny.clone(), allow.clone()]] {
        let a = Authorization(order.to_vec());
        let who = Some("shop/web");
        assert!(!denied(&a, who, Some(("GET", "/admin"))));
        assert_eq!(ask(&a, who, 80, Some(("DELETE", "/admin/x"))).0.as_deref(), Some("d"));
        assert!(!denied(&a, who, Some(("DELETE", "/administrator"))));
        // what is in a byte stream cannot be seen
        assert!(denied(&a, who, None));
    }
    assert!(!denied(&Authorization(vec![policy("d", Action::Deny, vec![])]), None, None));
    // a rule about requests allows no bytes
    let a =
        Authorization(vec![policy("a", Action::Allow, vec![Rule { http: http(&["GET"], &[]), ..Rule::default() }])]);
    assert!(denied(&a, None, None) && !denied(&a, None, Some(("GET", "/"))));
}

#[test]
fn identities_are_compared_whole() {
    let is = |s: Source, peer: &str| s.is(Some(&id(peer)), false);
    let td = || Arc::<str>::from("cluster.local");
    assert!(is(Source::Identity(id("shop/web")), "shop/web") && !is(Source::Identity(id("shop/web")), "shop/web2"));
    assert!(is(Source::Namespace { trust_domain: td(), namespace: "shop".into() }, "shop/any"));
    assert!(!is(Source::Namespace { trust_domain: td(), namespace: "shop".into() }, "shop2/any"));
    assert!(!is(Source::Namespace { trust_domain: "other".into(), namespace: "shop".into() }, "shop/any"));
    assert!(!is(account("shop/web"), "web/shop"));
    // a kind of source that is not known: nobody to allow, everybody to deny
    let unknown = |action| {
        Authorization(vec![policy("p", action, vec![Rule { sources: Some(vec![Source::Unknown]), ..Rule::default() }])])
    };
    assert!(denied(&unknown(Action::Allow), Some("a/b"), None) && denied(&unknown(Action::Deny), Some("a/b"), None));
}

#[test]
fn no_way_around_a_path() {
    let deny =
        Authorization(vec![policy("d", Action::Deny, vec![Rule { http: http(&[], &["/admin"]), ..Rule::default() }])]);
    for path in [
        "/admin",
        "/admin/",
        "//admin",
        "/./admin",
        "/x/../admin",
        "/%61dmin",
        "/admin?x",
        "/admin%2Fusers",
        "/admin;x=1/users",
        "/;a/admin",
        "/x;/../admin/y",
        "/admin%5cx",
    ] {
        let Ok(parsed) = RequestPath::parse(path.as_bytes()) else { continue };
        let request = Some(Request { method: b"GET", path: &parsed });
        assert!(deny.judge(&Call { peer: None, port: 80, request }).is_denied(), "{path}");
    }
    assert!(!denied(&deny, None, Some(("GET", "/public/admin%2Fx"))));
    // and none into what is allowed
    let allow = Authorization(vec![policy(
        "a",
        Action::Allow,
        vec![Rule { http: http(&[], &["/public"]), ..Rule::default() }],
    )]);
    for path in ["/public", "//public/x", "/public/%2E/y"] {
        assert!(!denied(&allow, None, Some(("GET", path))), "{path}");
    }
    for path in ["/publi", "/public/../admin", "/public%2Fx", "/public;x", "/publicity", "*"] {
        assert!(denied(&allow, None, Some(("GET", path))), "{path}");
    }
}

#[test]
fn a_trial_decides_nothing_and_tells() {
    let allow = policy("a", Action::Allow, vec![from(&["shop/web"])]);
    let deny = policy("d", Action::Deny, vec![from(&["shop/web"])]);
    let (web, cart) = (Some("shop/web"), Some("shop/cart"));
    let told = |list: Vec<Arc<Policy>>, who| ask(&Authorization(list), who, 80, None);
    let name = |n: &str| Some(n.to_owned());
    assert_eq!(told(vec![trial(&allow)], web), (None, None));
    assert_eq!(told(vec![trial(&allow)], cart), (None, name("a")));
    assert_eq!(told(vec![trial(&deny)], web), (None, name("d")));
    assert_eq!(told(vec![allow.clone(), trial(&deny)], web), (None, name("d")));
    // denied already: there is nothing to add
    assert_eq!(told(vec![allow.clone(), trial(&deny)], cart), (name("a"), None));
    // another policy allows it, so this one would change nothing
    let both = policy("b", Action::Allow, vec![from(&["shop/cart"])]);
    assert_eq!(told(vec![both.clone(), trial(&allow)], cart), (None, None));
    assert_eq!(told(vec![trial(&both), trial(&allow)], cart), (None, None));
}

// ---- against a model that is written as the text says it

fn sources() -> impl Strategy<Value = Source> {
    prop_oneof![
        select(vec!["a/x", "a/y", "b/x"]).prop_map(|s| Source::Identity(id(s))),
        select(vec!["a/x", "a/y", "b/x"]).prop_map(account),
        select(vec!["a", "b"])
            .prop_map(|n| Source::Namespace { trust_domain: "cluster.local".into(), namespace: n.into() }),
        Just(Source::Unknown),
    ]
}
const PATHS: [&str; 6] = ["/", "/a", "/a/b", "/a;p/b", "/b", "/a%2Fb"];
fn rules() -> impl Strategy<Value = Rule> {
    let paths = vec(select(PATHS[..3].to_vec()).prop_map(|p| PathTerm::prefix(p).unwrap()), 0..2);
    let methods = vec(select(vec!["GET", "PUT"]).prop_map(Box::from), 0..2);
    let http = (methods, paths).prop_map(|(methods, paths)| HttpRequests { methods, paths });
    (option::of(vec(sources(), 0..3)), vec(select(vec![80u16, 81]), 0..2), option::of(vec(http, 0..2)))
        .prop_map(|(sources, ports, http)| Rule { sources, ports, http })
}
fn policies() -> impl Strategy<Value = Vec<Arc<Policy>>> {
    let one = (select(vec![Action::Allow, Action::Deny]), any::<bool>(), vec(rules(), 0..3));
    vec(one, 0..5).prop_map(|all| {
        let named = all.into_iter().enumerate();
        named
            .map(|(i, (action, dry_run, rules))| {
                Arc::new(Policy { name: format!("n/p{i}").into(), action, dry_run, rules })
            })
            .collect()
    })
}

/// One rule, one call, as the text says it.
fn model_matches(r: &Rule, deny: bool, call: &Call<'_>) -> bool {
    let source = r.sources.as_ref().is_none_or(|all| {
        all.iter().any(|s| match (s, call.peer) {
            (Source::Unknown, _) => deny,
            (_, None) => false,
            (Source::Identity(i), Some(p)) => i.uri() == p.uri(),
            (Source::ServiceAccount { namespace, name, .. }, Some(p)) => {
                p.uri() == format!("spiffe://cluster.local/ns/{namespace}/sa/{name}")
            }
            (Source::Namespace { namespace, .. }, Some(p)) => {
                p.uri().starts_with(&format!("spiffe://cluster.local/ns/{namespace}/sa/"))
            }
        })
    });
    let port = r.ports.is_empty() || r.ports.contains(&call.port);
    let http = match (&r.http, &call.request) {
        (None, _) => true,
        (Some(_), None) => deny,
        (Some(list), Some(request)) => list.iter().any(|h| {
            let text = std::str::from_utf8(request.path.matched()).unwrap().to_owned();
            let mut forms = vec![text.clone()];
            if deny {
                let cut = text.replace("%2F", "/");
                forms.push(cut.split('/').map(|e| e.split(';').next().unwrap()).collect::<Vec<_>>().join("/"));
            }
            let under = |form: &String, p: &PathTerm| match p {
                PathTerm::Exact(v) => *form == **v,
                PathTerm::Prefix(v) => *form == **v || form.starts_with(&format!("{v}/")),
            };
            (h.methods.is_empty() || h.methods.iter().any(|m| m.as_bytes() == request.method))
                && (h.paths.is_empty() || forms.iter().any(|f| h.paths.iter().any(|p| under(f, p))))
        }),
    };
    source && port && http
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn the_judgement_is_what_the_text_says(
        list in policies(),
        peer in option::of(select(vec!["a/x", "a/y", "b/x", "c/z"])),
        port in select(vec![80u16, 81]),
        request in option::of((select(vec!["GET", "PUT"]), select(PATHS.to_vec()))),
        turn in any::<prop::sample::Index>(),
    ) {
        let peer = peer.map(id);
        let path = request.map(|(_, p)| RequestPath::parse(p.as_bytes()).unwrap());
        let request = request.zip(path.as_ref()).map(|((m, _), path)| Request { method: m.as_bytes(), path });
        let call = Call { peer: peer.as_ref(), port, request };
        let takes = |p: &Policy| p.rules.iter().any(|r| model_matches(r, p.action == Action::Deny, &call));
        let decide = |real: &dyn Fn(&Policy) -> bool| {
            let mut allows = list.iter().filter(|p| p.action == Action::Allow && real(p)).peekable();
            let denies = list.iter().any(|p| p.action == Action::Deny && real(p) && takes(p));
            denies || (allows.peek().is_some() && !allows.any(|p| takes(p)))
        };
        let now = decide(&|p| !p.dry_run);
        let a = Authorization(list.clone());
        let v = a.judge(&call);
        prop_assert_eq!(v.is_denied(), now);
        prop_assert_eq!(v.dry_run.is_some(), !now && decide(&|_| true));
        prop_assert!(v.denied.is_none_or(|p| !p.dry_run) && v.dry_run.is_none_or(|p| p.dry_run));
        // the order of policies and rules decides nothing but whose name is told
        let mut turned = list.clone();
        if !turned.is_empty() {
            let by = turn.index(turned.len());
            turned.rotate_left(by);
        }
        let turned = Authorization(turned);
        let w = turned.judge(&call);
        prop_assert_eq!((w.is_denied(), w.dry_run.is_some()), (v.is_denied(), v.dry_run.is_some()));
    }

    #[test]
    fn routers_and_authorisers_compare_paths_alike(value in "(/[a-c.%2Fe;]{0,4}){1,4}", target in "(/[a-c.%2Fe;]{0,4}){1,4}") {
        let Ok(path) = RequestPath::parse(target.as_bytes()) else { return Ok(()) };
        for (term, route) in [
            (PathTerm::exact(&value), PathMatch::Exact(value.as_str().into())),
            (PathTerm::prefix(&value), PathMatch::Prefix(value.as_str().into())),
        ] {
            prop_assert_eq!(term.is_some_and(|t| t.holds(path.matched())), route.holds(&path), "{} {}", value, target);
        }
    }
}
