use super::*;
use crate::testing::*;

fn list(items: &[&str]) -> Vec<Box<str>> {
    items.iter().map(|s| (*s).into()).collect()
}
fn cors(origins: &[&str], credentials: bool) -> Cors {
    Cors {
        allow_origins: list(origins),
        allow_credentials: credentials,
        allow_methods: list(&["GET", "OPTIONS"]),
        allow_headers: list(&["x-header-1", "x-header-2"]),
        expose_headers: list(&["x-header-3", "x-header-4"]),
        max_age: 3600,
    }
}
fn asks(origin: &str) -> TestHead {
    head(
        "OPTIONS",
        "/",
        &[("origin", origin), ("access-control-request-method", "PUT"), ("access-control-request-headers", "x-a, x-b")],
    )
}
fn answer(c: &Cors, h: &TestHead) -> Option<TestHead> {
    let mut out = TestHead::default();
    c.preflight(h)?.iter().for_each(|(n, v)| out.add(n, v));
    Some(out)
}
fn field(h: &TestHead, name: &str) -> String {
    h.joined(&format!("access-control-{name}")).unwrap_or_default()
}

#[test]
fn preflights_are_answered() {
    let c = cors(&["https://www.foo.com", "https://*.bar.com"], false);
    let h = answer(&c, &asks("https://www.foo.com")).unwrap();
    assert_eq!(field(&h, "allow-origin"), "https://www.foo.com");
    assert_eq!(field(&h, "allow-methods"), "GET, OPTIONS");
    assert_eq!(field(&h, "allow-headers"), "x-header-1, x-header-2");
    assert_eq!(field(&h, "expose-headers"), "x-header-3, x-header-4");
    assert_eq!(field(&h, "max-age"), "3600");
    assert_eq!(field(&h, "allow-credentials"), "");
    let other = answer(&c, &asks("https://foo.com")).unwrap();
    assert_eq!(other.fields, []);
}

#[test]
fn what_is_no_preflight_is_forwarded() {
    let c = cors(&["*"], false);
    assert!(
        answer(&c, &head("GET", "/", &[("origin", "https://a"), ("access-control-request-method", "GET")])).is_none()
    );
    assert!(answer(&c, &head("OPTIONS", "/", &[("origin", "https://a")])).is_none());
    assert!(answer(&c, &head("OPTIONS", "/", &[("access-control-request-method", "GET")])).is_none());
}

#[test]
fn wildcards_with_credentials_echo_what_was_asked() {
    let star = |credentials| Cors {
        allow_methods: list(&["*"]),
        allow_headers: list(&["*"]),
        expose_headers: list(&["*"]),
        ..cors(&["*"], credentials)
    };
    let h = answer(&star(true), &asks("https://other.foo.com:8080")).unwrap();
    assert_eq!(field(&h, "allow-origin"), "https://other.foo.com:8080");
    assert_eq!(field(&h, "allow-credentials"), "true");
    assert_eq!(field(&h, "allow-methods"), "PUT");
    assert_eq!(field(&h, "allow-headers"), "x-a, x-b");
    assert_eq!(field(&h, "expose-headers"), "");
    let h = answer(&star(false), &asks("null")).unwrap();
    assert_eq!((field(&h, "allow-origin"), field(&h, "expose-headers")), ("null".into(), "*".into()));
}

#[test]
fn origins() {
    for (entry, origin, expected) in [
        ("*", "https://any.example:8443", true),
        ("https://*.bar.com", "https://a.b.bar.com", true),
        ("https://*.bar.com", "https://bar.com", false),
        ("https://*.bar.com", "http://a.bar.com", false),
        ("https://*.bar.com", "https://a.bar.com:8443", false),
        ("https://*.bar.com", "https://a.bar.com.evil.com", false),
        ("https://*.bar.com", "https://evilbar.com", false),
        ("https://foo.com", "https://foo.com:443", true),
        ("https://foo.com:443", "https://foo.com", true),
        ("http://foo.com:8080", "http://foo.com:8080", true),
        ("http://foo.com:8080", "http://foo.com", false),
        ("https://FOO.com", "https://foo.com", true),
        ("https://*", "https://foo.com", true),
        ("https://foo.com", "null", false),
        ("https://foo.com", "", false),
        ("https://foo.com", "https://foo.com:x", false),
        ("http://[::1]:80", "http://[::1]", true),
    ] {
        assert_eq!(origin_matches(entry, origin.as_bytes()), expected, "{entry} {origin}");
    }
    assert!(!origin_matches("https://foo.com", b"https://foo.com\xff"));
}

#[test]
fn responses_carry_the_filters_fields_and_no_others() {
    let c = cors(&["https://www.foo.com"], true);
    let from_app =
        head("", "", &[("access-control-allow-origin", "*"), ("access-control-max-age", "9"), ("vary", "accept")]);
    let mut h = from_app.clone();
    c.apply_response(Some(b"https://www.foo.com"), &mut h);
    assert_eq!(field(&h, "allow-origin"), "https://www.foo.com");
    assert_eq!(field(&h, "allow-credentials"), "true");
    assert_eq!(field(&h, "expose-headers"), "x-header-3, x-header-4");
    assert_eq!(field(&h, "max-age"), "");
    assert_eq!(h.joined("vary").as_deref(), Some("accept,origin"));
    for origin in [Some(&b"https://evil.example"[..]), None] {
        let mut h = from_app.clone();
        c.apply_response(origin, &mut h);
        assert!(h.fields.iter().all(|(n, _)| n == "vary"), "{h:?}");
    }
}
