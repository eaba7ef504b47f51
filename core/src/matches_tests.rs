use super::*;
use crate::testing::*;
use proptest::prelude::*;

fn holds(m: &HttpMatch, h: &TestHead) -> bool {
    m.judge(h, &h.path()).is_ok()
}
fn with_header(m: NamedMatch) -> HttpMatch {
    HttpMatch { headers: vec![m], ..HttpMatch::default() }
}
fn with_query(m: NamedMatch) -> HttpMatch {
    HttpMatch { query: vec![m], ..HttpMatch::default() }
}

#[test]
fn paths() {
    for (m, path, expected) in [
        (prefix("/v2"), "/v2", true),
        (prefix("/v2"), "/v2/", true),
        (prefix("/v2/"), "/v2", true),
        (prefix("/v2"), "/v2/example?x", true),
        (prefix("/v2"), "/v2example", false),
        (prefix("/v2"), "/V2", false),
        (prefix("/v2"), "//v2", true),
        (prefix("/v2"), "/a/../v2", true),
        (prefix("/"), "/", true),
        (prefix("/"), "*", true),
        (exactly("/one"), "/one", true),
        (exactly("/one"), "/one/", false),
        (exactly("/one"), "/One", false),
        (exactly("/one"), "/%6fne", true),
        (exactly("/a%7eb"), "/a~b", true),
        (exactly("/"), "/", true),
        (like("/u/[0-9]+"), "/u/12?q", true),
        (like("/u/[0-9]+"), "/u/12/x", false),
        (like("/u|/v"), "/v", true),
        (like("/u|/v"), "/x/v", false),
    ] {
        assert_eq!(holds(&m, &head("GET", path, &[])), expected, "{:?} {path}", m.path);
    }
}

#[test]
fn row_27_query_duplicates_escapes_and_empty_keys() {
    for (name, value, target, expected) in [
        ("a", "1", "/?a=1", true),
        ("a", "1", "/?b=2&a=1", true),
        ("a", "1", "/?a=2&a=1", false),
        ("a", "2", "/?a=2&a=1", true),
        ("a", "1", "/?A=1", false),
        ("a", "1&b=2", "/?a=1%26b=2", true),
        ("b", "2", "/?a=1%26b=2", false),
        ("a", "1;b=2", "/?a=1;b=2", true),
        ("a", "", "/?a", true),
        ("a", "", "/?a=", true),
        ("a", "1", "/?&&a=1&", true),
        ("a", "1", "/?=1&a=1", true),
        ("a", "1", "/?%61=%31", true),
        ("a", "x y", "/?a=x+y", true),
        ("a", "x+y", "/?a=x%2By", true),
        ("a", "%zz", "/?a=%zz", true),
        ("a", "=1", "/?a==1", true),
        ("a", "1", "/?", false),
        ("a", "1", "/", false),
        ("a", "1?b", "/?a=1?b", true),
    ] {
        assert_eq!(
            holds(&with_query(exact(name, value)), &head("GET", target, &[])),
            expected,
            "{name}={value} {target}"
        );
    }
    let h = head("GET", "/?a=x%2fy&a=z", &[]);
    assert!(holds(&with_query(regex("a", "x/.")), &h));
    assert!(!holds(&with_query(regex("a", "z")), &h));
}

#[test]
fn row_28_every_value_of_a_header_is_looked_at() {
    type Case<'a> = (&'a [(&'a str, &'a str)], NamedMatch, bool);
    let cases: &[Case<'_>] = &[
        (&[("x", "a"), ("x", "b")], exact("x", "a"), true),
        (&[("x", "a"), ("x", "b")], exact("x", "b"), true),
        (&[("x", "a, b")], exact("x", "b"), true),
        (&[("x", "a,b")], exact("x", "a,b"), true),
        (&[("x", "a, b")], exact("x", "a,b"), true),
        (&[("x", "a"), ("x", "b")], exact("x", "a,b"), true),
        (&[("x", "b"), ("x", "a")], exact("x", "a,b"), false),
        (&[("x", "a"), ("x", "b"), ("x", "c")], exact("x", "a,b"), false),
        (&[("x", "a")], exact("x", "a,b"), false),
        (&[("x", "ab")], exact("x", "a"), false),
        (&[("x", "A")], exact("x", "a"), false),
        (&[("x", "a"), ("x", "b")], regex("x", "b"), true),
        (&[("x", "a"), ("x", "b")], regex("x", "a,b"), true),
        (&[("x", "c, b")], regex("x", "[ab]"), true),
        (&[("x", "abc")], regex("x", "b"), false),
        (&[("x_user", "root")], exact("x-user", "root"), false),
        (&[("x-user", "root")], exact("x_user", "root"), false),
        (&[("cookie", "a=1"), ("cookie", "b=2")], exact("cookie", "a=1; b=2"), true),
        (&[("cookie", "a=1, b=2")], exact("cookie", "b=2"), false),
        (&[("cookie", "a=1"), ("cookie", "b=2")], regex("cookie", "(.*; )?b=2(;.*)?"), true),
        (&[], exact("x", ""), false),
        (&[("x", "")], exact("x", ""), true),
    ];
    for (fields, m, expected) in cases {
        assert_eq!(holds(&with_header(m.clone()), &head("GET", "/", fields)), *expected, "{fields:?} {m:?}");
    }
    // lines joined by an intermediary mean the same
    for m in [exact("x", "b"), exact("x", "a,b"), regex("x", "b"), regex("x", "a.*b")] {
        let apart = header_holds(&head("GET", "/", &[("x", "a"), ("x", "b")]), &m);
        assert_eq!(apart, header_holds(&head("GET", "/", &[("x", "a,b")]), &m), "{m:?}");
    }
}

#[test]
fn host_is_the_authority() {
    for (authority, value, expected) in [
        ("echo:8080", "echo", true),
        ("ECHO", "echo", true),
        ("echo.", "echo", true),
        ("echo:8080", "echo:8080", true),
        ("echo", "echo:8080", false),
        ("xecho", "echo", false),
    ] {
        let h = TestHead { authority: authority.into(), ..head("GET", "/", &[("host", "other")]) };
        assert_eq!(header_holds(&h, &exact("host", value)), expected, "{authority} {value}");
    }
    let h = TestHead { authority: "V1.Echo:80".into(), ..head("GET", "/", &[]) };
    assert!(header_holds(&h, &regex("host", "v[0-9]\\.echo")));
}

#[test]
fn the_first_of_equal_names_counts() {
    let m = HttpMatch {
        headers: vec![exact("x", "1"), exact("x", "2")],
        query: vec![exact("q", "1"), exact("q", "2")],
        ..prefix("/")
    };
    assert!(holds(&m, &head("GET", "/?q=1", &[("x", "1")])));
    assert_eq!((m.rank().headers, m.rank().query), (1, 1));
}

#[test]
fn ranks_follow_the_specification() {
    let get = |m: HttpMatch| HttpMatch { method: Some("GET".into()), ..m };
    let fields =
        |m: HttpMatch, n: usize| HttpMatch { headers: (0..n).map(|i| exact(&format!("h{i}"), "1")).collect(), ..m };
    let asks =
        |m: HttpMatch, n: usize| HttpMatch { query: (0..n).map(|i| exact(&format!("q{i}"), "1")).collect(), ..m };
    let falling = [
        get(exactly("/a")),
        fields(exactly("/a"), 3),
        exactly("/a"),
        like("/abc.*"),
        like("/a.*"),
        prefix("/abc"),
        get(prefix("/a")),
        asks(fields(prefix("/a"), 2), 1),
        fields(prefix("/a"), 2),
        asks(fields(prefix("/a"), 1), 9),
        asks(prefix("/a"), 2),
        asks(prefix("/a"), 1),
        prefix("/a"),
        prefix("/"),
    ];
    assert!(falling.windows(2).all(|w| w[0].rank() > w[1].rank()));
    assert_eq!(prefix("/a/").rank(), prefix("/a").rank());
}

#[test]
fn grpc_calls() {
    let m = |service: Option<&str>, method: Option<&str>| GrpcMatch {
        service: service.map(|s| ValueMatch::Exact(s.into())),
        method: method.map(|s| ValueMatch::Exact(s.into())),
        headers: Vec::new(),
    };
    let call = head("POST", "/pkg.Echo/Say", &[("x", "1")]);
    fn holds<'m>(m: &'m GrpcMatch, h: &TestHead) -> Result<(), Miss<'m>> {
        m.judge(h, &h.path())
    }
    assert_eq!(holds(&m(Some("pkg.Echo"), Some("Say")), &call), Ok(()));
    assert_eq!(holds(&m(None, Some("Say")), &call), Ok(()));
    assert_eq!(holds(&m(Some("pkg.echo"), None), &call), Err(Miss::Service));
    assert_eq!(holds(&m(None, Some("say")), &call), Err(Miss::Method));
    assert_eq!(holds(&m(None, None), &head("GET", "/pkg.Echo/Say", &[])), Err(Miss::NotGrpc));
    assert_eq!(holds(&m(None, None), &head("POST", "/x", &[])), Err(Miss::NotGrpc));
    let wild = GrpcMatch { service: Some(ValueMatch::Regex("pkg\\..*".parse().unwrap())), ..m(None, Some("Say")) };
    assert_eq!(holds(&wild, &call), Ok(()));
    let falling = [m(Some("a"), Some("b")), m(Some("a"), None), wild, m(None, Some("b")), m(None, None)];
    assert!(falling.windows(2).all(|w| w[0].rank() > w[1].rank()));
}

#[test]
fn patterns_are_whole_linear_and_bounded() {
    let p = |s: &str| s.parse::<Pattern>();
    for bad in [
        "(",
        "a)|(b",
        "[",
        "(?P<x",
        "\\w{1,1000}\\w{1,1000}",
        "(?=a)",
        "(a)\\1",
        &"a".repeat(5000),
        &"(".repeat(100),
        "(((a{100}){100}){100}){100}",
    ] {
        assert!(p(bad).is_err(), "{}", &bad[..bad.len().min(40)]);
    }
    let re = p("a|ab").unwrap();
    assert!(re.is_match(b"ab") && !re.is_match(b"ab\n") && !re.is_match(b"abc") && !re.is_match(b"\xff"));
    assert!(p("(?i)GET").unwrap().is_match(b"get"));
    assert_eq!(String::from(re.clone()), "a|ab");
    assert_eq!(Pattern::try_from(String::from(re.clone())).unwrap(), re);
    for (source, literal) in [
        ("/users/[0-9]+", "/users/"),
        ("/users/(a|b)", "/users/"),
        ("/a|/b", ""),
        ("/ab?", "/a"),
        ("^/a\\.b$", "/a.b"),
        ("(?i)/a", "/"),
        ("(/a)(/b).*", "/a/b"),
        (".*", ""),
        ("", ""),
    ] {
        assert_eq!(String::from_utf8(p(source).unwrap().literal_prefix()).unwrap(), literal, "{source}");
    }
}

proptest! {
    /// What begins an expression begins every value that matches it.
    #[test]
    fn literal_prefixes_are_true(source in "[ab/]{0,3}[ab/().?*|+\\[\\]^]{0,6}", value in "[ab/]{0,8}") {
        if let Ok(p) = source.parse::<Pattern>() && p.is_match(value.as_bytes()) {
            prop_assert!(value.as_bytes().starts_with(&p.literal_prefix()), "{source} {value}");
        }
    }
    #[test]
    fn nothing_panics(source in any::<String>(), name in "[a-z-]{0,5}", value in any::<String>(), target in "[/a-z?&=%+.;]{0,40}", raw in proptest::collection::vec(any::<u8>(), 0..30)) {
        let _ = source.parse::<Pattern>().map(|p| (p.is_match(&raw), p.literal_prefix()));
        let target = format!("/{target}");
        let h = head("GET", "/", &[(&name, &value), (&name, &source)]);
        for v in [ValueMatch::Exact(source.as_str().into()), ValueMatch::Regex(".*".parse().unwrap())] {
            let m = NamedMatch { name: name.as_str().into(), value: v };
            let _ = header_holds(&h, &m);
            let _ = query_holds(Some(&raw), &m);
            if let Ok(path) = RequestPath::parse(target.as_bytes()) {
                let _ = HttpMatch { headers: vec![m.clone()], query: vec![m], ..prefix(&source) }.judge(&h, &path).is_ok();
            }
        }
        prop_assert!(query::pairs(&raw).count() <= raw.len());
    }
}
