use super::*;
use crate::testing::*;
use proptest::prelude::*;

fn pairs(list: &[(&str, &str)]) -> Vec<(Box<str>, Box<str>)> {
    list.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect()
}
fn modifier(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> HeaderModifier {
    HeaderModifier { set: pairs(set), add: pairs(add), remove: remove.iter().map(|n| (*n).into()).collect() }
}
fn joined(h: &TestHead, name: &str) -> String {
    h.joined(name).unwrap_or_default()
}

#[test]
fn modifiers_set_add_and_remove() {
    let mut h = head(
        "GET",
        "/",
        &[("x-set", "a"), ("x-set", "b"), ("x-add", "client"), ("x-gone", "1"), ("x-gone", "2"), ("keep", "k")],
    );
    modifier(&[("x-set", "new"), ("x-fresh", "f")], &[("x-add", "ours"), ("x-new", "n")], &["x-gone", "absent"])
        .apply(&mut h);
    assert_eq!(joined(&h, "x-set"), "new");
    assert_eq!(joined(&h, "x-fresh"), "f");
    assert_eq!(joined(&h, "x-add"), "client,ours");
    assert_eq!(joined(&h, "x-new"), "n");
    assert_eq!(h.joined("x-gone"), None);
    assert_eq!(joined(&h, "keep"), "k");
}

#[test]
fn row_28_underscore_variants_cannot_stand_in_for_what_is_set_or_removed() {
    let mut h = head("GET", "/", &[("x_user_id", "root"), ("x-user_id", "root"), ("x-userid", "ok"), ("x_gone", "1")]);
    modifier(&[("x-user-id", "cart")], &[], &["x-gone"]).apply(&mut h);
    let left: Vec<_> = h.fields.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(left, ["x-userid", "x-user-id"]);
}

#[test]
fn framing_and_the_meshs_own_fields_are_not_touched() {
    let before = head("GET", "/", &[("content-length", "3"), ("weft-meta", "1"), ("te", "trailers")]);
    let mut h = before.clone();
    let names = ["content-length", "transfer-encoding", "connection", "weft-meta", ":path", "te", ""];
    let all: Vec<_> = names.iter().map(|n| (*n, "x")).collect();
    modifier(&all, &all, &names).apply(&mut h);
    modifier(&[], &[("host", "a")], &["host"]).apply(&mut h);
    assert_eq!(h, before);
    modifier(&[("host", "other")], &[], &[]).apply(&mut h);
    assert_eq!(h.authority, "other");
}

fn replaced(target: &str, prefix: &str, new: &str) -> String {
    let path = RequestPath::parse(target.as_bytes()).unwrap();
    let out = PathModifier::ReplacePrefixMatch(new.into()).apply(&path, Some(prefix.trim_end_matches('/'))).unwrap();
    String::from_utf8(out).unwrap()
}

/// The table of HTTPPathModifier.replacePrefixMatch, and what it leaves open.
#[test]
fn prefixes_are_replaced() {
    for (target, prefix, new, expected) in [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "", "/bar"),
        ("/foo/", "/foo", "", "/"),
        ("/foo", "/foo", "", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "/", "/"),
        ("/strip-prefix/three?q=/a", "/strip-prefix", "/", "/three?q=/a"),
        ("/prefix/one/two", "/prefix/one", "/one", "/one/two"),
        ("/a", "/", "/xyz", "/xyz/a"),
        ("/foo//evil.example", "/foo", "/", "/evil.example"),
        ("//foo/a//b", "/foo", "/x", "/x/a//b"),
        ("/foo/%2e%2e/foo/a", "/foo", "/x", "/x/a"),
    ] {
        assert_eq!(replaced(target, prefix, new), expected, "{target} {prefix} {new}");
    }
    let path = RequestPath::parse(b"/a?x=1").unwrap();
    let cause = PathModifier::ReplacePrefixMatch("/b".into()).apply(&path, None).unwrap_err();
    assert_eq!(cause.kind, Kind::UnsupportedFilter);
    for (new, expected) in [("/b", "/b?x=1"), ("/b?y=2", "/b?y=2"), ("b", "/b?x=1"), ("", "/?x=1"), ("//b", "/b?x=1")] {
        let out = PathModifier::ReplaceFullPath(new.into()).apply(&path, None).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}

#[test]
fn rewrites_on_rules_and_backends_start_from_the_requests_path() {
    let rewrite = |host: Option<&str>, path| Filters {
        rewrite: Some(UrlRewrite { hostname: host.map(Into::into), path: Some(path) }),
        ..Filters::default()
    };
    let rule = rewrite(Some("one.example"), PathModifier::ReplaceFullPath("/full".into()));
    let backend = rewrite(None, PathModifier::ReplacePrefixMatch("/rewritten-prefix".into()));
    let original = head("GET", "/prefix/original?q", &[]);
    let mut h = original.clone();
    rule.apply_request(&original.path(), Some("/prefix"), &mut h).unwrap();
    assert_eq!((&*h.target, &*h.authority), ("/full?q", "one.example"));
    backend.apply_request(&original.path(), Some("/prefix"), &mut h).unwrap();
    assert_eq!((&*h.target, &*h.authority), ("/rewritten-prefix/original?q", "one.example"));
}

#[test]
fn unknown_filters_fail_the_request() {
    let f = Filters { unsupported: Some("no filter is known as x".into()), ..Filters::default() };
    assert_eq!(f.usable().unwrap_err().to_string(), "filter cannot be applied: no filter is known as x");
    let h = head("GET", "/", &[]);
    assert!(f.apply_request(&h.path(), None, &mut h.clone()).is_err());
    assert!(!f.is_empty() && Filters::default().is_empty());
}

/// HTTPRouteRedirect*: (filter, scheme of the request, authority, port that was dialled, path) -> Location.
#[test]
fn locations() {
    let redirect = |scheme: Option<&str>, hostname: Option<&str>, port, path: Option<PathModifier>| Redirect {
        scheme: scheme.map(Into::into),
        hostname: hostname.map(Into::into),
        path,
        port,
        status: 0,
    };
    let full = |p: &str| Some(PathModifier::ReplaceFullPath(p.into()));
    let prefix = |p: &str| Some(PathModifier::ReplacePrefixMatch(p.into()));
    for (r, scheme, authority, port, expected) in [
        (redirect(None, Some("example.org"), None, None), "http", "echo", 80, "http://example.org/old/x?q=1"),
        (
            redirect(None, Some("example.org"), None, None),
            "http",
            "echo:8080",
            8080,
            "http://example.org:8080/old/x?q=1",
        ),
        (redirect(None, None, None, full("/full")), "http", "echo", 80, "http://echo/full?q=1"),
        (redirect(None, None, None, prefix("/new")), "http", "echo:80", 80, "http://echo/new/x?q=1"),
        (redirect(None, None, Some(8083), None), "http", "echo", 80, "http://echo:8083/old/x?q=1"),
        (redirect(Some("https"), None, None, None), "http", "echo:8080", 8080, "https://echo/old/x?q=1"),
        (redirect(Some("http"), None, None, None), "https", "echo", 443, "http://echo/old/x?q=1"),
        (redirect(Some("https"), None, Some(443), None), "http", "echo", 80, "https://echo/old/x?q=1"),
        (redirect(Some("https"), None, Some(80), None), "http", "echo", 80, "https://echo:80/old/x?q=1"),
        (redirect(Some("http"), None, Some(80), None), "https", "echo", 443, "http://echo/old/x?q=1"),
        (redirect(None, None, None, None), "https", "echo", 443, "https://echo/old/x?q=1"),
        (redirect(None, None, None, None), "https", "echo", 8443, "https://echo:8443/old/x?q=1"),
        (redirect(None, None, None, None), "http", "[::1]:8080", 8080, "http://[::1]:8080/old/x?q=1"),
        (redirect(None, None, None, None), "http", "", 80, "/old/x?q=1"),
        (redirect(None, None, None, None), "http", "a/b@c", 80, "/old/x?q=1"),
    ] {
        let path = RequestPath::parse(b"/old/x?q=1").unwrap();
        let request = Redirected { scheme, authority: authority.as_bytes(), port, path: &path, prefix: Some("/old") };
        assert_eq!(r.location(&request).unwrap(), expected);
    }
    assert_eq!(redirect(None, None, None, None).status(), 302);
    assert_eq!(Redirect { status: 301, ..Redirect::default() }.status(), 301);
}

proptest! {
    /// Nothing of a request can break out of the Location or turn it to another host.
    #[test]
    fn locations_are_clean(target in proptest::collection::vec(any::<u8>(), 0..30), authority in proptest::collection::vec(any::<u8>(), 0..20)) {
        let target = [b"/", &target[..]].concat();
        if let Ok(path) = RequestPath::parse(&target) {
            let request = Redirected { scheme: "http", authority: &authority, port: 80, path: &path, prefix: Some("") };
            for p in [None, Some(PathModifier::ReplacePrefixMatch("/".into()))] {
                let r = Redirect { hostname: Some("h".into()), path: p.clone(), ..Redirect::default() };
                let location = r.location(&request).unwrap();
                prop_assert!(location.starts_with("http://h/") && location.bytes().all(|b| (b'!'..=b'~').contains(&b)));
                let own = Redirect { path: p, ..Redirect::default() }.location(&request).unwrap();
                prop_assert!(own.bytes().all(|b| (b'!'..=b'~').contains(&b)));
            }
        }
    }
}

#[test]
fn mirrors_sample_their_fraction() {
    let mirror = |numerator, denominator| Mirror { backend: BackendRef::Service(service("m")), numerator, denominator };
    const N: u64 = 10_000;
    for (m, p) in [
        (mirror(20, 100), 0.2),
        (mirror(25, 50), 0.5),
        (mirror(35, 100), 0.35),
        (mirror(100, 100), 1.0),
        (mirror(0, 100), 0.0),
        (mirror(3, 2), 1.0),
    ] {
        let taken = (0..N).filter(|i| m.samples(i.wrapping_mul(0x9E37_79B9_7F4A_7C15))).count() as f64;
        let sigma = (N as f64 * p * (1.0 - p)).sqrt();
        assert!((taken - N as f64 * p).abs() <= 3.0 * sigma, "{taken} of {N} for {p}");
    }
}
