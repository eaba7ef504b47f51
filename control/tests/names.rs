//! One program under each name answers as that program does.

use std::{os::unix::process::CommandExt as _, process::Command};

fn called(name: &str) -> (bool, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_weft-control")).arg0(name).arg("--version").output().expect("starts");
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    (out.status.success(), text)
}

#[test]
fn the_name_says_which_program_it_is() {
    for name in ["weft", "weft-ca", "weft-controller", "weft-injector"] {
        for path in [name.to_owned(), format!("/usr/local/bin/{name}")] {
            let version = format!("{name} {}\n", env!("CARGO_PKG_VERSION"));
            assert_eq!(called(&path), (true, version), "called as {path}");
        }
    }
}

#[test]
fn another_name_is_refused_with_the_names_there_are() {
    for name in ["weft-control", "/usr/local/bin/", ""] {
        let (ok, text) = called(name);
        assert!(!ok && text.contains("weft-ca, weft-controller and weft-injector"), "called as {name:?}: {text}");
    }
}
