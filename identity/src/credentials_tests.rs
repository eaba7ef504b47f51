use super::*;
use crate::testing::TestMesh;
use rustls_pki_types::PrivatePkcs8KeyDer;

fn mesh() -> TestMesh {
    TestMesh::new("mesh.test")
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let m = mesh();
    let (chain, _) = m.leaf("shop", "cart");
    let (_, other) = m.leaf("shop", "cart");
    let made = Credentials::new(other, chain, m.bundle(), None, m.clock.clone());
    assert!(matches!(made, Err(CredentialsError::WrongKey)), "{made:?}");
}

#[test]
fn a_leaf_that_peers_would_refuse_is_refused_here() {
    let m = mesh();
    let (chain, key) = m.leaf("shop", "cart");
    let made = Credentials::new(key, chain, mesh().bundle(), None, m.clock.clone());
    assert!(matches!(made, Err(CredentialsError::Leaf(Refusal::UnknownIssuer))), "{made:?}");
    assert!(matches!(
        Credentials::new(PrivatePkcs8KeyDer::from(vec![1, 2]).into(), vec![], m.bundle(), None, m.clock.clone()),
        Err(CredentialsError::NoCertificate)
    ));
}

#[test]
fn a_uid_that_is_no_name_is_refused() {
    for bad in ["", "a b", "a/b", "10.0.0.1", "ü"] {
        assert!(matches!(server_name(bad), Err(CredentialsError::Uid(_))), "{bad}");
    }
    for good in ["8c5f0d6e-3a10-4c1e-9d44-2f6a5b7c8d9e", "web-0", "11111111-2222-3333-4444-555555555555"] {
        server_name(good).unwrap();
    }
}

#[test]
fn bundles_only_grow_newer_and_never_lock_us_out() {
    let (m, other) = (mesh(), mesh());
    let cell = m.cell("shop", "cart", None);
    let bundle = |version, roots: &[&TestMesh]| {
        let roots = roots.iter().map(|m| m.root.clone()).collect();
        Arc::new(Bundle::new("mesh.test", version, &[], roots).unwrap())
    };
    let mut changes = cell.subscribe();
    assert!(cell.install_bundle(bundle(5, &[&m, &other])).unwrap());
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    assert_eq!(cell.credentials().unwrap().bundle().version(), 5);
    // older and equal ones change nothing
    for version in [4, 5] {
        assert!(!cell.install_bundle(bundle(version, &[&m])).unwrap());
    }
    // without our own root: refused, the last good one stays
    let refused = cell.install_bundle(bundle(6, &[&other])).unwrap_err();
    assert!(matches!(refused, CredentialsError::BundleWithoutOwnRoot { version: 6, .. }), "{refused}");
    let foreign = Arc::new(Bundle::new("other.test", 9, &[], vec![m.root.clone()]).unwrap());
    assert!(matches!(cell.install_bundle(foreign), Err(CredentialsError::WrongTrustDomain { .. })));
    assert_eq!((cell.bundle().version(), changes.has_changed().unwrap()), (5, false));
    // the new root's leaf, then the old root may go
    let (chain, key) = other.leaf("shop", "cart");
    cell.install_leaf(key, chain, None, m.clock.clone()).unwrap();
    assert!(cell.install_bundle(bundle(6, &[&other])).unwrap());
}

#[test]
fn a_bundle_survives_its_file() {
    let m = mesh();
    let made = Bundle::new("mesh.test", 42, &[1, 0xab], vec![m.root.clone(), mesh().root]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bundle.pem");
    made.write(&path).unwrap();
    let read = Bundle::read(&path, Some("mesh.test")).unwrap();
    assert_eq!(read, made);
    // plain PEM, as a user brings it
    let plain: String = made.roots().iter().map(|r| crate::request::pem("CERTIFICATE", r)).collect();
    let read = Bundle::from_pem(&plain, Some("mesh.test")).unwrap();
    assert_eq!((read.version(), read.roots()), (0, made.roots()));
    assert!(matches!(Bundle::from_pem(&plain, None), Err(BundleError::NoTrustDomain)));
    assert!(matches!(Bundle::from_pem("", Some("a")), Err(BundleError::Empty)));
    assert!(matches!(Bundle::read(&path, Some("other")), Err(BundleError::WrongTrustDomain { .. })));
    assert!(matches!(Bundle::from_pem(&made.to_pem().replace("42", "x"), None), Err(BundleError::Pem(_))));
}

use crate::BundleError;

#[test]
fn row_73_keys_are_not_shown() {
    let m = mesh();
    let shown = format!("{:?} {:?}", m.credentials("shop", "cart", None), crate::KeyRequest::generate().unwrap());
    assert!(shown.contains("KeyRequest(..)") && !shown.to_lowercase().contains("private"), "{shown}");
}

#[tokio::test]
async fn the_first_certificate_is_waited_for() {
    let m = mesh();
    let cell = CredentialCell::new(m.bundle());
    let waiting = tokio::spawn({
        let cell = cell.clone();
        async move { cell.ready().await.identity().clone() }
    });
    let (chain, key) = m.leaf("shop", "cart");
    cell.install_leaf(key, chain, None, m.clock.clone()).unwrap();
    assert_eq!(waiting.await.unwrap(), m.identity("shop", "cart"));
}

#[test]
fn whoever_was_away_for_a_whole_rotation_comes_back() {
    let (old, new) = (mesh(), mesh());
    let cell = old.cell("shop", "cart", None);
    let bundle = Arc::new(Bundle::new("mesh.test", 9, &[], vec![new.root.clone()]).unwrap());
    cell.install_bundle(bundle.clone()).unwrap_err();
    let (chain, key) = new.leaf("shop", "cart");
    cell.install_leaf(key.clone_key(), chain.clone(), None, new.clock.clone()).unwrap_err();
    assert_eq!(cell.bundle().version(), 1, "neither alone fits");
    cell.install(Some(bundle), key, chain, None, new.clock.clone()).unwrap();
    assert_eq!((cell.bundle().version(), cell.credentials().unwrap().bundle().version()), (9, 9));
    // an older bundle beside a leaf is left out
    let (chain, key) = new.leaf("shop", "cart");
    cell.install(Some(old.bundle()), key, chain, None, new.clock.clone()).unwrap();
    assert_eq!(cell.bundle().version(), 9);
}
