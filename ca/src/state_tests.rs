use super::*;
use weft_identity::provider::{now, system_clock};

const LIVES: Lives = Lives { root: Duration::from_secs(86_400 * 365), issuer: Duration::from_secs(86_400 * 30) };

fn today() -> UnixTime {
    now(&system_clock())
}
fn later(days: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(today().as_secs() + days * 86_400))
}
fn made() -> State {
    State::make("mesh.test", None, today(), LIVES).unwrap()
}
fn roots(s: &State) -> Vec<Vec<u8>> {
    s.bundle().unwrap().roots().iter().map(|r| r.to_vec()).collect()
}

#[test]
fn row_72_a_rotation_goes_through_supersets_only() {
    let a = made();
    a.check(today()).unwrap();
    assert_eq!(a.gate().unwrap(), None);
    let both = a.rotate_root(None, today(), LIVES).unwrap();
    both.check(today()).unwrap();
    assert_eq!(both.signing, a.signing, "the old one signs until the bundle is everywhere");
    assert_eq!(both.gate().unwrap(), Some(Gate::Bundle(2)));
    assert!(roots(&both).starts_with(&roots(&a)) && roots(&both).len() == 2);
    let renew = both.advance(today()).unwrap();
    renew.check(today()).unwrap();
    assert_eq!(roots(&renew), roots(&both));
    let Some(Gate::Issuer { bundle: 3, key }) = renew.gate().unwrap() else { panic!() };
    assert_eq!(renew.bundle().unwrap().issuer(), &*key);
    assert_ne!(both.bundle().unwrap().issuer(), &*key);
    assert_eq!(renew.oldest().unwrap().id, a.signing);
    let b = renew.advance(today()).unwrap();
    b.check(today()).unwrap();
    assert_eq!(roots(&b), roots(&both)[1..]);
    assert_eq!((b.rotation, b.bundle_version, b.revision), (None, 4, 4));
    assert!(matches!(b.advance(today()), Err(StateError::NoRotation)));
    // the next one gets a number of its own
    assert_eq!(b.rotate_root(None, today(), LIVES).unwrap().rotation.unwrap().to, 3);
}

#[test]
fn row_72_a_rotation_is_turned_back_at_each_step() {
    let a = made();
    let both = a.rotate_root(None, today(), LIVES).unwrap();
    assert!(matches!(both.rotate_root(None, today(), LIVES), Err(StateError::UnderWay(Phase::Distribute))));
    // nothing was signed under the new root
    let back = both.abort(today()).unwrap();
    back.check(today()).unwrap();
    assert_eq!((roots(&back), back.rotation, back.bundle_version), (roots(&a), None, 3));
    // leaves of the new root are about: both stay until they have been renewed
    let renew = both.advance(today()).unwrap();
    let back = renew.abort(today()).unwrap();
    back.check(today()).unwrap();
    assert_eq!((roots(&back), back.signing), (roots(&both), a.signing));
    assert_eq!(back.gate().unwrap(), Some(Gate::Issuer { bundle: 4, key: a.bundle().unwrap().issuer().into() }));
    // and forth again
    let forth = back.abort(today()).unwrap();
    assert_eq!((forth.signing, roots(&forth)), (renew.signing, roots(&both)));
    let end = back.advance(today()).unwrap();
    end.check(today()).unwrap();
    assert_eq!(roots(&end), roots(&a));
}

#[test]
fn an_issuer_is_replaced_under_its_root_also_during_a_rotation() {
    let a = made();
    let next = a.rotate_issuer(today(), LIVES).unwrap();
    next.check(today()).unwrap();
    assert_eq!(roots(&next), roots(&a));
    assert_ne!(next.bundle().unwrap().issuer(), a.bundle().unwrap().issuer());
    let both = a.rotate_root(None, today(), LIVES).unwrap().rotate_issuer(today(), LIVES).unwrap();
    both.check(today()).unwrap();
    assert_eq!(both.gate().unwrap(), Some(Gate::Bundle(3)));
    assert!(!a.issuer_is_old(later(19)) && a.issuer_is_old(later(21)));
    assert!(!a.root_is_old(later(240)) && a.root_is_old(later(250)));
}

#[test]
fn row_70_wrong_pairs_and_expired_parts_are_named() {
    let (a, b) = (made(), made());
    let spoil = |edit: &dyn Fn(&mut Authority)| {
        let mut s = a.clone();
        edit(&mut s.authorities[0]);
        s.check(today()).unwrap_err().to_string()
    };
    let other = &b.authorities[0];
    let error = spoil(&|x| x.issuer_key = other.issuer_key.clone());
    assert_eq!(error, "authority 1: the issuer key does not belong to the issuer certificate");
    let error = spoil(&|x| x.root_key = other.root_key.clone());
    assert_eq!(error, "authority 1: the root key does not belong to the root certificate");
    let error = spoil(&|x| (x.issuer, x.issuer_key) = (other.issuer.clone(), other.issuer_key.clone()));
    assert_eq!(error, "authority 1: the issuer certificate was not signed by the root");
    assert!(spoil(&|x| x.issuer = "junk".into()).starts_with("authority 1: issuer is not usable"));
    assert!(spoil(&|x| x.issuer_key = Secret::new("junk".into())).starts_with("authority 1: issuer is not usable"));
    assert!(matches!(a.check(later(31)), Err(StateError::Expired { what: "issuer", id: 1, .. })));
    assert!(matches!(a.check(later(366)), Err(StateError::Expired { what: "root", id: 1, .. })));
    let before = UnixTime::since_unix_epoch(Duration::from_secs(today().as_secs() - 86_400));
    assert!(matches!(a.check(before), Err(StateError::NotYetValid { what: "root", .. })));
    let mut odd = a.clone();
    odd.authorities.push(other.clone());
    assert!(matches!(odd.check(today()), Err(StateError::Authorities(2))));
    odd.authorities.clear();
    assert!(matches!(odd.check(today()), Err(StateError::Authorities(0))));
    let mut odd = a.clone();
    odd.signing = 7;
    assert!(matches!(odd.check(today()), Err(StateError::NoAuthority(7))));
}

#[test]
fn a_root_is_brought_along() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&key).unwrap().pem();
    let brought =
        |root: &str, key: &KeyPair| Made { root: format!("# ours\n{root}"), key: Secret::new(key.serialize_pem()) };
    let s = State::make("mesh.test", Some(brought(&root, &key)), today(), LIVES).unwrap();
    assert_eq!(roots(&s), [certificate(&root).unwrap().to_vec()]);
    let other = KeyPair::generate().unwrap();
    let wrong = State::make("mesh.test", Some(brought(&root, &other)), today(), LIVES);
    assert!(matches!(wrong, Err(StateError::WrongPair { what: "root", .. })));
    params.is_ca = IsCa::NoCa;
    let leaf = params.self_signed(&key).unwrap().pem();
    let wrong = State::make("mesh.test", Some(brought(&leaf, &key)), today(), LIVES);
    assert!(matches!(wrong, Err(StateError::NotCa { what: "root" })));
    assert!(matches!(State::make("Mesh.Test", None, today(), LIVES), Err(StateError::TrustDomain(_))));
}

#[test]
fn row_73_keys_are_not_shown() {
    let shown = format!("{:?}", made());
    assert!(shown.contains("Secret(..)") && !shown.contains("PRIVATE"), "{shown}");
}
