use super::*;
use crate::object::Object;
use std::fs;
use tempfile::TempDir;

const SVC: &str = "apiVersion: v1\nkind: Service\nmetadata: {namespace: shop, name: a}\nspec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}\n";
const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {namespace: shop, name: r}\nspec:\n  parentRefs: [{group: '', kind: Service, name: a}]\n  rules:\n    - backendRefs: [{name: a, port: 80, weight: 1}]\n";

struct Case {
    dir: TempDir,
    folder: Folder,
    now: Instant,
}
impl Case {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let folder = Folder::new([dir.path()]);
        Case { dir, folder, now: Instant::now() }
    }
    fn load(&mut self) -> (Update, Option<Instant>) {
        // everything is touched: stamps of files are coarser than a test
        let mut all = BTreeSet::new();
        walk(self.dir.path(), 0, &mut all).unwrap();
        self.folder.load(&all, self.now)
    }
    fn write(&mut self, name: &str, text: &str) -> Update {
        fs::write(self.dir.path().join(name), text).unwrap();
        self.load().0
    }
    fn findings(&self) -> Vec<String> {
        self.folder.findings().iter().map(ToString::to_string).collect()
    }
}
fn applied(u: &Update) -> Vec<String> {
    u.apply.iter().map(|s| s.object.key().to_string()).collect()
}

#[test]
fn only_what_changed_is_sent() {
    let mut c = Case::new(&[("a.yaml", SVC), ("r.yml", ROUTE), ("notes.txt", "no yaml"), (".hidden.yaml", "]")]);
    let (first, again) = c.load();
    assert_eq!(applied(&first), ["Service shop/a", "HTTPRoute shop/r"]);
    assert!(first.complete && again.is_none());
    assert_eq!(c.findings(), [""; 0]);
    let u = c.write("r.yml", &ROUTE.replace("weight: 1", "weight: 2"));
    assert!(applied(&u).contains(&"HTTPRoute shop/r".to_owned()) && u.delete.is_empty());
    // untouched and of the same size and time: not read
    let (u, _) = c.folder.load(&BTreeSet::new(), c.now);
    assert!(u.is_empty());
}

#[test]
fn a_broken_file_keeps_the_last_good_state_and_says_where() {
    let mut c = Case::new(&[("a.yaml", SVC), ("r.yaml", ROUTE)]);
    c.load();
    for (broken, said) in [
        (ROUTE.replace("port: 80", "port: [80"), "r.yaml:7: error: is no YAML"),
        (
            ROUTE.replace("backendRefs", "backendRef"),
            "r.yaml:7: error: HTTPRoute shop/r: spec.rules[0].backendRef: is no field of this object; the last good version stays in use (did you mean backendRefs?)",
        ),
        (
            ROUTE.replace("weight: 1", "weight: heavy"),
            "r.yaml:7: error: HTTPRoute shop/r: spec.rules[0].backendRefs[0].weight: is string \"heavy\", must be u32; the last good version stays in use (write the type that the field has)",
        ),
        (
            ROUTE.replace("weight: 1", "weight: 2000000"),
            "r.yaml:7: error: HTTPRoute shop/r: spec.rules[0].backendRefs[0].weight: is above 1000000; the last good version stays in use (write at most 1000000)",
        ),
        (
            ROUTE.replace("HTTPRoute", "HTTPRuote"),
            "r.yaml:2: error: HTTPRuote shop/r: kind: gateway.networking.k8s.io/v1 has no kind HTTPRuote (did you mean HTTPRoute?)",
        ),
        (
            ROUTE.replace("k8s.io/v1", "k8s.io/v2"),
            "r.yaml:1: error: HTTPRoute shop/r: apiVersion: version v2 of HTTPRoute is not known (write gateway.networking.k8s.io/v1)",
        ),
    ] {
        let u = c.write("r.yaml", &broken);
        if said.contains("HTTPRuote") {
            // another kind: what was a route before is gone, as if deleted
            assert!(u.delete.len() <= 1);
        } else {
            assert!(u.delete.is_empty(), "{said}: {:?}", u.delete);
        }
        assert!(c.findings().iter().any(|f| f.starts_with(said)), "{said}\n{:#?}", c.findings());
        let u = c.write("r.yaml", ROUTE);
        assert!(u.findings.unwrap().is_empty(), "{said}");
    }
}

#[test]
fn a_broken_document_leaves_its_neighbours_working() {
    let mut c = Case::new(&[("all.yaml", &format!("{SVC}---\n{ROUTE}"))]);
    c.load();
    let other = SVC.replace("name: a", "name: b");
    let u =
        c.write("all.yaml", &format!("{SVC}---\n{}---\n{other}", ROUTE.replace("- backendRefs", "- backendRefs: ]")));
    assert!(applied(&u).contains(&"Service shop/b".to_owned()));
    assert!(u.delete.is_empty(), "the route of the broken document stays: {:?}", u.delete);
    assert!(c.findings()[0].contains("is no YAML"), "{:?}", c.findings());
}

#[test]
fn an_object_that_was_never_good_is_left_out() {
    let mut c = Case::new(&[("r.yaml", &ROUTE.replace("weight", "wieght"))]);
    assert!(c.load().0.apply.is_empty());
    assert_eq!(
        c.findings(),
        [
            "r.yaml:7: error: HTTPRoute shop/r: spec.rules[0].backendRefs[0].wieght: is no field of this object; the object is left out (did you mean weight?)"
        ]
    );
}

#[test]
fn fields_that_kubernetes_may_know_already_are_warnings() {
    let mut c = Case::new(&[("a.yaml", &SVC.replace("spec: {", "spec: {newThing: 1, "))]);
    assert_eq!(applied(&c.load().0), ["Service shop/a"]);
    assert!(
        c.findings()[0].starts_with("a.yaml:4: warning: Service shop/a: spec.newThing: is no field"),
        "{:?}",
        c.findings()
    );
}

#[test]
fn the_same_object_twice_is_told_and_the_first_is_used() {
    let mut c = Case::new(&[("a.yaml", SVC), ("b.yaml", &SVC.replace("10.96.0.1", "10.96.0.2"))]);
    let (u, _) = c.load();
    let Object::Service(s) = &u.apply[0].object else { panic!() };
    assert_eq!(s.spec.as_ref().unwrap().cluster_ip.as_deref(), Some("10.96.0.1"));
    assert_eq!(
        c.findings(),
        [
            "b.yaml:3: error: Service shop/a: metadata.name: stands already in a.yaml:1, which is used (remove one of the two)"
        ]
    );
    fs::remove_file(c.dir.path().join("a.yaml")).unwrap();
    c.load();
    c.now += GRACE;
    let (u, _) = c.load();
    let Object::Service(s) = &u.apply[0].object else { panic!() };
    assert_eq!(s.spec.as_ref().unwrap().cluster_ip.as_deref(), Some("10.96.0.2"));
}

#[test]
fn a_file_that_vanishes_or_empties_for_a_moment_keeps_its_objects() {
    let mut c = Case::new(&[("a.yaml", SVC), ("r.yaml", ROUTE)]);
    c.load();
    let path = c.dir.path().join("r.yaml");
    for gone in [true, false] {
        match gone {
            true => fs::remove_file(&path).unwrap(),
            false => fs::write(&path, "").unwrap(),
        }
        let (u, again) = c.load();
        assert!(u.is_empty(), "{u:?}");
        assert_eq!(again, Some(c.now + GRACE));
        // back in time
        fs::write(&path, ROUTE).unwrap();
        assert!(c.load().0.delete.is_empty());
        // gone for good
        match gone {
            true => fs::remove_file(&path).unwrap(),
            false => fs::write(&path, "").unwrap(),
        }
        c.load();
        c.now += GRACE;
        let (u, _) = c.load();
        assert_eq!(u.delete.len(), 1, "{u:?}");
        fs::write(&path, ROUTE).unwrap();
        assert_eq!(applied(&c.load().0), ["HTTPRoute shop/r"]);
    }
}

#[test]
fn kinds_of_others_are_left_alone() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n---\napiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: k}\n---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: n}}\n---\nfoo: bar\n";
    let mut c = Case::new(&[("a.yaml", text)]);
    assert_eq!(applied(&c.load().0), ["Namespace n"]);
    let said = c.findings();
    assert!(
        said[0].contains("info: Service k: kind: kind Service of serving.knative.dev/v1 is none that Weft reads"),
        "{said:?}"
    );
    assert!(said[1].contains("kind: is missing"), "{said:?}");
}
