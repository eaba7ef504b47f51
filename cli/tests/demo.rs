//! `weft demo` as a user runs it: real processes, real files. One demo at a time, since they share two cores.

#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

static TURN: Mutex<()> = Mutex::new(());

/// A folder for everything that a demo writes, by which its processes can be told, too.
struct Place {
    dir: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Place {
    fn new() -> Place {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let beside = Path::new(env!("CARGO_BIN_EXE_weft")).parent().unwrap();
        for program in ["weft-proxy", "weft-controller", "weft-ca"] {
            assert!(beside.join(program).exists(), "{program} is not built: cargo build --workspace");
        }
        Place { dir: tempfile::tempdir().unwrap(), _turn: turn }
    }
    /// A copy of the shop, with a file changed.
    fn shop(&self, file: &str, change: impl Fn(&str) -> String) -> PathBuf {
        let (from, to) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shop"), self.dir.path().join("in"));
        fs::create_dir(&to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
        let text = fs::read_to_string(to.join(file)).unwrap();
        let changed = change(&text);
        assert_ne!(changed, text);
        fs::write(to.join(file), changed).unwrap();
        to
    }
    fn demo(&self, folder: &Path, args: &[&str]) -> Child {
        let tmp = self.dir.path().join("tmp");
        fs::create_dir_all(&tmp).unwrap();
        let mut c = Command::new(env!("CARGO_BIN_EXE_weft"));
        c.args(["demo", "--folder"]).arg(folder).args(args).env("TMPDIR", tmp);
        c.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
    /// What is left in the folder for temporary files.
    fn left(&self) -> Vec<PathBuf> {
        fs::read_dir(self.dir.path().join("tmp")).unwrap().map(|e| e.unwrap().path()).collect()
    }
    /// Running processes that were started with something in this place.
    fn processes(&self) -> Vec<String> {
        let place = self.dir.path().display().to_string();
        let lines = fs::read_dir("/proc").unwrap().filter_map(|e| fs::read(e.ok()?.path().join("cmdline")).ok());
        let lines = lines.map(|l| String::from_utf8_lossy(&l).replace('\0', " "));
        lines.filter(|l| l.contains(&place)).collect()
    }
}

fn shop() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shop")
}

fn end(child: Child) -> (Output, String) {
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    (out, said)
}

fn promises(summary: &Value) -> Vec<(String, bool)> {
    let all = summary["promises"].as_array().unwrap();
    all.iter().map(|p| (p["promise"].as_str().unwrap().into(), p["kept"].as_bool().unwrap())).collect()
}

#[test]
fn a_timed_demo_sums_up_and_its_exit_code_is_the_promises() {
    let place = Place::new();
    let (out, said) = end(place.demo(&shop(), &["--duration", "6s", "--json", "--rate", "30"]));
    let summary: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
    let promises = promises(&summary);
    assert_eq!(promises.len(), 6, "{promises:?}");
    // how fast an edit is depends on what else this machine does; that the exit code says so does not
    assert_eq!(out.status.success(), promises.iter().all(|(_, kept)| *kept), "{promises:?} {said}");
    for what in ["every request is answered", "every endpoint is reached over mutual TLS", "the split is 90 to 10"] {
        assert!(promises.contains(&(what.into(), true)), "{what}: {promises:?} {said}");
    }
    for e in summary["endpoints"].as_array().unwrap() {
        assert!(e["identity"].as_str().unwrap().starts_with("spiffe://shop.example/ns/shop/sa/"), "{e}");
        assert!(e["certificate_expires_in_s"].as_i64().unwrap() > 3600, "{e}");
    }
    assert_eq!(summary["edits"]["count"], 200);
    assert_eq!(place.processes(), Vec::<String>::new());
    if out.status.success() {
        assert_eq!(place.left(), Vec::<PathBuf>::new());
    }
}

#[test]
fn a_broken_promise_is_named_and_fails() {
    let place = Place::new();
    // without retries nothing hides the endpoint that fails
    let folder = place.shop("orders.yaml", |t| t.replace("attempts: ", "attempts: 0 # "));
    let (out, said) = end(place.demo(&folder, &["--duration", "4s", "--json", "--rate", "30"]));
    let summary: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
    let what = "retries hide an endpoint that fails 40 % of the time";
    assert!(promises(&summary).contains(&(what.into(), false)), "{summary}");
    assert_eq!(out.status.code(), Some(1));
    assert!(said.contains("promises broken: ") && said.contains(what), "{said}");
}

#[test]
fn an_interrupt_at_any_time_leaves_nothing_behind() {
    for running in [false, true] {
        let place = Place::new();
        // ends by itself, should the test fail
        let child = place.demo(&shop(), &["--duration", "60s", "--json"]);
        // at the very start, or when the sidecars have their certificates
        let want = if running { "weft-proxy --config" } else { "weft-controller serve" };
        let limit = Instant::now() + Duration::from_secs(60);
        while !place.processes().iter().any(|l| l.contains(want)) {
            assert!(Instant::now() < limit, "it does not start: {:?}", place.processes());
            thread::sleep(Duration::from_millis(20));
        }
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        let (out, said) = end(child);
        assert_eq!(out.status.code(), Some(1), "{said}");
        assert!(said.contains("interrupted") && out.stdout.is_empty(), "{said}");
        assert_eq!(place.processes(), Vec::<String>::new());
        assert_eq!(place.left(), Vec::<PathBuf>::new(), "{said}");
    }
}

#[test]
fn what_cannot_run_says_why() {
    let place = Place::new();
    let (out, said) = end(place.demo(Path::new("/nonexistent/shop"), &["--duration", "1s"]));
    assert!(!out.status.success() && said.contains("/nonexistent/shop"), "{said}");
    let (out, said) = end(place.demo(&shop(), &["--duration", "soon"]));
    assert!(out.status.code() == Some(2) && said.contains("--duration"), "{said}");
    // no terminal: it does not draw into a pipe, and says what to do instead
    let (out, said) = end(place.demo(&shop(), &[]));
    assert!(!out.status.success() && said.contains("--json"), "{said}");
    assert_eq!(place.processes(), Vec::<String>::new());
}

/// Without the capabilities that it needs, `--capture` names them and the way around. `setpriv` takes them away where the test runs as root.
#[test]
fn capture_without_its_capabilities_names_them() {
    let place = Place::new();
    let root = fs::read_to_string("/proc/self/status").unwrap().lines().any(|l| l.starts_with("Uid:\t0\t"));
    let mut c = Command::new(if root { "setpriv" } else { env!("CARGO_BIN_EXE_weft") });
    if root {
        c.args(["--bounding-set=-net_admin", "--inh-caps=-net_admin", env!("CARGO_BIN_EXE_weft")]);
    }
    let tmp = place.dir.path().join("tmp");
    fs::create_dir_all(&tmp).unwrap();
    let out =
        c.args(["demo", "--capture", "--duration", "1s", "--folder"]).arg(shop()).env("TMPDIR", tmp).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && said.contains("--capture lacks CAP_NET_ADMIN"), "{said}");
    assert!(said.contains("without --capture the demo needs neither"), "{said}");
    assert_eq!(place.processes(), Vec::<String>::new());
}
