use super::*;
use crate::object::Object;
use tokio::task::JoinHandle;

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {namespace: shop, name: r}\nspec:\n  parentRefs: [{group: '', kind: Service, name: a}]\n  rules:\n    - backendRefs: [{name: a, port: 80, weight: 1}]\n";

fn weight(n: u32) -> String {
    ROUTE.replace("weight: 1", &format!("weight: {n}"))
}

/// A watched folder on a real file system with the kernel's notifications.
struct Watched {
    updates: mpsc::Receiver<Update>,
    stop: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}
impl Watched {
    async fn start(root: &Path) -> Watched {
        let (tx, updates) = mpsc::channel(16);
        let stop = CancellationToken::new();
        let running = tokio::spawn(Folder::new([root]).run(tx, stop.clone()));
        let mut w = Watched { updates, stop, running };
        assert!(w.next().await.complete);
        w
    }
    async fn next(&mut self) -> Update {
        tokio::time::timeout(Duration::from_secs(10), self.updates.recv()).await.expect("nothing was seen").unwrap()
    }
    /// Waits for the route with this weight; nothing may be removed on the way.
    async fn route_of(&mut self, n: u32) {
        loop {
            let u = self.next().await;
            assert!(u.delete.is_empty(), "{n}: {:?}", u.delete);
            let Some(Object::HTTPRoute(r)) = u.apply.first().map(|s| &s.object) else { continue };
            if r.spec.rules[0].backend_refs[0].weight == Some(n) {
                return;
            }
        }
    }
    async fn end(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }
}

#[test]
fn a_folder_that_is_not_there_is_an_error() {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (tx, _rx) = mpsc::channel(1);
    let e = rt.block_on(Folder::new(["/nonexistent/weft"]).run(tx, CancellationToken::new())).unwrap_err();
    assert!(e.to_string().contains("/nonexistent/weft"));
}

/// Saves as editors do.
#[tokio::test]
async fn every_way_of_saving_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.yaml");
    fs::write(&path, ROUTE).unwrap();
    let mut w = Watched::start(dir.path()).await;
    for way in 0..4u32 {
        let text = weight(way + 2);
        let started = Instant::now();
        match way {
            // in place
            0 => fs::write(&path, &text).unwrap(),
            // a new file renamed over the old one
            1 => {
                fs::write(dir.path().join(".r.yaml.tmp"), &text).unwrap();
                fs::rename(dir.path().join(".r.yaml.tmp"), &path).unwrap();
            }
            // the old file renamed away first
            2 => {
                fs::rename(&path, dir.path().join("r.yaml~")).unwrap();
                fs::write(&path, &text).unwrap();
            }
            // removed and written anew
            _ => {
                fs::remove_file(&path).unwrap();
                fs::write(&path, &text).unwrap();
            }
        }
        w.route_of(way + 2).await;
        assert!(started.elapsed() < Duration::from_secs(2), "way {way}: {:?}", started.elapsed());
    }
    w.end().await;
}

#[tokio::test]
async fn a_folder_that_is_removed_and_made_anew_is_watched_again() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("folder");
    let path = root.join("r.yaml");
    fs::create_dir(&root).unwrap();
    fs::write(&path, ROUTE).unwrap();
    let mut w = Watched::start(&root).await;
    // moved away: what was read stays in use, and it is said that the folder cannot be read
    fs::rename(&root, dir.path().join("away")).unwrap();
    let u = w.next().await;
    assert!(u.apply.is_empty() && u.delete.is_empty(), "{u:?}");
    assert_eq!(u.findings.unwrap()[0].code, "file-unreadable");
    fs::create_dir(&root).unwrap();
    fs::write(&path, weight(2)).unwrap();
    w.route_of(2).await;
    // and later changes in it are seen, too
    fs::write(&path, weight(3)).unwrap();
    w.route_of(3).await;
    // replaced at once
    fs::rename(&root, dir.path().join("away again")).unwrap();
    fs::create_dir(&root).unwrap();
    fs::write(&path, weight(4)).unwrap();
    w.route_of(4).await;
    fs::write(&path, weight(5)).unwrap();
    w.route_of(5).await;
    w.end().await;
}

#[tokio::test]
async fn what_links_lead_to_is_watched() {
    let dir = tempfile::tempdir().unwrap();
    let at = |p: &str| dir.path().join(p);
    for (folder, n) in [("one", 1), ("two", 2)] {
        fs::create_dir(at(folder)).unwrap();
        fs::write(at(folder).join("r.yaml"), weight(n)).unwrap();
    }
    let link = |to: &str, path: PathBuf| {
        std::os::unix::fs::symlink(at(to), at("link")).unwrap();
        fs::rename(at("link"), path).unwrap();
    };
    // the root is a link, as `current` of a release is
    link("one", at("root"));
    let mut w = Watched::start(&at("root")).await;
    fs::write(at("one/r.yaml"), weight(3)).unwrap();
    w.route_of(3).await;
    link("two", at("root"));
    w.route_of(2).await;
    fs::write(at("two/r.yaml"), weight(4)).unwrap();
    w.route_of(4).await;
    // a file that is a link, replaced and edited where it leads
    fs::create_dir(at("three")).unwrap();
    fs::write(at("three/r.yaml"), weight(5)).unwrap();
    link("three/r.yaml", at("two/r.yaml"));
    w.route_of(5).await;
    fs::write(at("three/r.yaml"), weight(6)).unwrap();
    w.route_of(6).await;
    w.end().await;
}

#[tokio::test]
async fn folders_that_come_later_are_watched() {
    let dir = tempfile::tempdir().unwrap();
    let mut w = Watched::start(dir.path()).await;
    let below = dir.path().join("a/b");
    fs::create_dir_all(&below).unwrap();
    fs::write(below.join("r.yaml"), weight(2)).unwrap();
    w.route_of(2).await;
    fs::write(below.join("r.yaml"), weight(3)).unwrap();
    w.route_of(3).await;
    w.end().await;
}
