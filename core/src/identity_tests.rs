use super::*;
use proptest::prelude::*;

fn parse(s: &str) -> Result<WorkloadIdentity, IdentityError> {
    s.parse()
}

#[test]
fn row_45_only_the_canonical_form_is_an_identity() {
    let i = parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap();
    assert_eq!((i.trust_domain(), i.namespace(), i.service_account()), ("cluster.local", "shop", "cart"));
    for bad in [
        "",
        "spiffe://",
        "spiffe:///ns/a/sa/b",
        "http://cluster.local/ns/a/sa/b",
        "SPIFFE://cluster.local/ns/a/sa/b",
        "spiffe://spiffe://cluster.local/ns/a/sa/b",
        "spiffe://Cluster.local/ns/a/sa/b",
        "spiffe://cluster.local:443/ns/a/sa/b",
        "spiffe://user@cluster.local/ns/a/sa/b",
        "spiffe://cluster.local/ns/a/sa/b?x=1",
        "spiffe://cluster.local/ns/a/sa/b#frag",
        "spiffe://cluster.local/ns/a/sa/b\0",
        "spiffe://cluster.local\0.evil/ns/a/sa/b",
        "spiffe://cluster.local/ns/a/sa/b/",
        "spiffe://cluster.local/ns/a/sa/",
        "spiffe://cluster.local/ns//sa/b",
        "spiffe://cluster.local//ns/a/sa/b",
        "spiffe://cluster.local/ns/../sa/b",
        "spiffe://cluster.local/ns/a/sa/..",
        "spiffe://cluster.local/ns/./sa/b",
        "spiffe://cluster.local/ns/a/sa/B",
        "spiffe://cluster.local/ns/A/sa/b",
        "spiffe://cluster.local/ns/a%2fb/sa/b",
        "spiffe://cluster.local/ns/a/sa/b,spiffe://x/ns/a/sa/b",
        "spiffe://cluster.local/ns/a/sa/b spiffe://x/ns/a/sa/b",
        "spiffe://cluster.local/ns/a.b/sa/b",
        "spiffe://cluster.local/ns/-a/sa/b",
        "spiffe://cluster.local/ns/a-/sa/b",
        "spiffe://cluster.local/NS/a/sa/b",
        "spiffe://cluster.local",
        "spiffe://clüster.local/ns/a/sa/b",
    ] {
        assert!(parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn lengths_are_bounded() {
    let label = |n: usize| "a".repeat(n);
    assert!(WorkloadIdentity::new(&label(255), &label(63), &label(253)).is_ok());
    assert!(WorkloadIdentity::new(&label(256), "a", "b").is_err());
    assert!(WorkloadIdentity::new("a", &label(64), "b").is_err());
    assert!(WorkloadIdentity::new("a", "a", &label(254)).is_err());
    let long = format!("spiffe://a/ns/a/sa/{}", label(2048));
    assert_eq!(parse(&long), Err(IdentityError::TooLong));
    assert_ne!(parse(&long[..2048]), Err(IdentityError::TooLong));
}

proptest! {
    #[test]
    fn parts_come_back(d in "[a-z0-9._-]{1,40}", n in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", a in "[a-z0-9]([a-z0-9.-]{0,40}[a-z0-9])?") {
        let i = WorkloadIdentity::new(&d, &n, &a).unwrap();
        prop_assert_eq!((i.trust_domain(), i.namespace(), i.service_account()), (&*d, &*n, &*a));
        prop_assert_eq!(parse(i.uri()).unwrap(), i.clone());
        prop_assert_eq!(String::from(i.clone()), i.to_string());
    }
    #[test]
    fn any_text_is_judged(s in any::<String>(), tail in "[/a-z.:?#%\\\\]{0,30}") {
        let _ = parse(&s);
        // what is accepted is printed as it was read
        if let Ok(i) = parse(&format!("spiffe://{tail}")) {
            prop_assert_eq!(i.uri(), format!("spiffe://{tail}"));
        }
    }
}
