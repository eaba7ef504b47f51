use super::*;
use std::collections::HashMap;
use weft_identity::testing::TestMesh;

fn vars(state: &Path) -> HashMap<&'static str, String> {
    let bundle = TestMesh::new("cluster.local").bundle().to_pem();
    HashMap::from([
        ("WEFT_POD_NAME", "web-1".into()),
        ("WEFT_POD_NAMESPACE", "shop".into()),
        ("WEFT_POD_UID", "uid-1".into()),
        ("WEFT_POD_IPS", "10.244.0.7,fd00::7".into()),
        ("WEFT_SERVICE_ACCOUNT", "web".into()),
        ("WEFT_TRUST_DOMAIN", "cluster.local".into()),
        ("WEFT_TRUST_BUNDLE", bundle),
        ("WEFT_CA", "weft-ca.weft-system.svc:15010".into()),
        ("WEFT_CONTROLLER", "weft-controller.weft-system.svc:15012".into()),
        ("WEFT_STATE", state.display().to_string()),
    ])
}
fn read(vars: &HashMap<&'static str, String>) -> Result<Config, EnvError> {
    from(|name| vars.get(name).cloned())
}

#[test]
fn a_whole_environment_is_a_whole_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let mut v = vars(&dir.path().join("state"));
    let c = read(&v).unwrap();
    c.check().unwrap();
    assert_eq!(c.pod.identity.as_ref().unwrap().to_string(), "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(c.pod.ips.len(), 2);
    assert_eq!((c.timeouts.grace, c.admin.to_string()), (30_000, "0.0.0.0:15020".into()));
    let Some(Credentials::Ca { bundle, token, .. }) = &c.credentials else { panic!() };
    assert_eq!(token, Path::new(TOKEN));
    Bundle::read(bundle, Some("cluster.local")).unwrap();
    v.insert("WEFT_GRACE", "5".into());
    v.insert("WEFT_AWAY", "refuse".into());
    v.insert("WEFT_ACCESS_LOG", "stdout".into());
    v.insert("WEFT_POD_IPS", "fd00::7".into());
    let c = read(&v).unwrap();
    assert_eq!((c.timeouts.grace, c.admin.to_string()), (5_000, "[::]:15020".into()));
    assert_eq!((c.controller.unwrap().away, c.access_log), (Away::Refuse, Some("-".into())));
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let good = vars(dir.path());
    for name in good.keys().filter(|n| **n != "WEFT_STATE") {
        let mut v = good.clone();
        v.remove(name);
        assert_eq!(
            read(&v).unwrap_err().to_string(),
            format!("{name} is not set: the injector writes it into the container; was this pod injected?")
        );
        // a template that leaves nothing is no value
        v.insert(name, " ".into());
        assert!(matches!(read(&v), Err(EnvError::Missing(n)) if n == *name));
    }
    for (name, value) in [
        ("WEFT_POD_IPS", "10.0.0.1;10.0.0.2"),
        ("WEFT_CA", "weft-ca"),
        ("WEFT_CONTROLLER", ":15012"),
        ("WEFT_AWAY", "maybe"),
        ("WEFT_GRACE", "30s"),
        ("WEFT_ADMIN_PORT", "99999"),
        ("WEFT_ACCESS_LOG", "/etc/passwd"),
        ("WEFT_TRUST_DOMAIN", "UPPER case"),
        ("WEFT_TRUST_BUNDLE", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
    ] {
        let mut v = good.clone();
        v.insert(name, value.into());
        let text = read(&v).unwrap_err().to_string();
        assert!(text.starts_with(name), "{text}");
    }
}
