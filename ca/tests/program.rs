//! The program as people and the demo use it.
#![allow(clippy::unwrap_used, reason = "a test: what it cannot unwrap it has failed")]

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};
use weft_discovery::{RenewerSettings, TokenSource, certificates};
use weft_identity::{Bundle, CredentialCell, ca_identity};

fn ca(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weft-ca")).args(arguments).output().unwrap()
}
fn fine(arguments: &[&str]) -> String {
    let out = ca(arguments);
    assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}
fn fails(arguments: &[&str]) -> String {
    let out = ca(arguments);
    assert!(!out.status.success(), "{arguments:?}");
    String::from_utf8(out.stderr).unwrap()
}
fn path(directory: &Path, name: &str) -> String {
    directory.join(name).to_str().unwrap().into()
}

/// Ends the program when the test does.
struct Serving(Child);
impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn from_nothing_to_a_certificate_and_through_a_rotation() {
    let directory = tempfile::tempdir().unwrap();
    let (state, key) = (path(directory.path(), "ca"), path(directory.path(), "token.key"));
    let bundle = fine(&["init", "--state", &state, "--trust-domain", "mesh.test"]);
    let bundle = Path::new(bundle.trim());
    let first = Bundle::read(bundle, None).unwrap();
    // again: the same
    fine(&["init", "--state", &state, "--trust-domain", "mesh.test"]);
    assert_eq!(Bundle::read(bundle, None).unwrap(), first);
    assert!(fails(&["init", "--state", &state, "--trust-domain", "other.test"]).contains("mesh.test"));
    fine(&["token-key", "--out", &key]);
    assert!(fails(&["token-key", "--out", &key]).contains("exists"), "a key is never overwritten");
    let pod = ["--namespace", "shop", "--service-account", "cart", "--pod", "cart-0", "--uid", "uid-1"];
    let token = fine(&[&["token", "--key", &key][..], &pod].concat());

    let out = path(directory.path(), "out.pem");
    let serve = ["serve", "--state", &state, "--trust-domain", "mesh.test", "--listen", "127.0.0.1:0"];
    let more = ["--token-key", &key, "--leaf", "90s", "--bundle-out", &out];
    let mut child = Command::new(env!("CARGO_BIN_EXE_weft-ca"))
        .args(serve)
        .args(more)
        .env("NO_COLOR", "1")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let serving = Serving(child);
    let ready = lines.by_ref().map(Result::unwrap).find(|l| l.contains("CA ready")).unwrap();
    let address = ready.split("listen=").nth(1).unwrap().split(' ').next().unwrap().to_string();
    let (says, said) = std::sync::mpsc::channel();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|l| says.send(l)));

    let cell = CredentialCell::new(Arc::new(Bundle::read(bundle, None).unwrap()));
    let ca = ca_identity("mesh.test").unwrap();
    let token = TokenSource::Text(token.trim().into());
    let s = RenewerSettings::new(vec![address.clone()], ca, token, Some("uid-1".into()));
    let leaf = certificates::sign(&s, &address, &cell).await.unwrap();
    assert_eq!(leaf.identity().uri(), "spiffe://mesh.test/ns/shop/sa/cart");
    assert_eq!(leaf.not_after().as_secs() - leaf.not_before().as_secs(), 99);
    // a rotation that the command line begins is followed by the program, without a restart
    fine(&["rotate", "root", "--state", &state]);
    assert!(fine(&["rotate", "status", "--state", &state]).contains("Distribute"));
    assert!(fails(&["rotate", "root", "--state", &state]).contains("under way"));
    while !said.recv_timeout(Duration::from_secs(10)).expect("it says so").contains("revision=2") {}
    certificates::sign(&s, &address, &cell).await.unwrap();
    assert_eq!(cell.bundle().roots().len(), 2);
    fine(&["rotate", "abort", "--state", &state]);
    assert!(fine(&["rotate", "status", "--state", &state]).contains("no rotation"));
    drop(serving);
    assert!(Bundle::read(Path::new(&out), None).is_ok());
}

#[test]
fn wrong_words_are_answered() {
    let directory = tempfile::tempdir().unwrap();
    let state = path(directory.path(), "ca");
    assert!(fails(&["serve", "--state", &state, "--token-key", "/nonexistent"]).contains("/nonexistent"));
    assert!(fails(&["serve", "--state", &state, "--token-key", "x", "--leaf", "1y"]).contains("unknown unit"));
    assert!(fails(&["init", "--state", &state, "--root-cert", "x"]).contains("--root-key"));
    assert!(fails(&["rotate", "root", "--state", &state]).contains("there is no CA state"));
    assert!(fails(&["init", "--state", &state, "--trust-domain", "Not A Domain"]).contains("trust domain"));
}
