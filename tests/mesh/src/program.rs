//! Real programs beside the mesh: found by name, bounded in time, ended with the test.

use crate::LIMIT;
use std::{path::PathBuf, process::Stdio};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

/// A program's path; panics with the way to get it.
pub fn find(name: &str) -> PathBuf {
    let cache = std::env::var_os("WEFT_CACHE").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache/weft"));
    let mut dirs: Vec<PathBuf> = cache.or(home).into_iter().map(|c| c.join("bin")).collect();
    dirs.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    dirs.push("/usr/sbin".into());
    let found = dirs.into_iter().map(|d| d.join(name)).find(|p| p.is_file());
    found.unwrap_or_else(|| panic!("{name} is not installed; run tests/tools/deps.sh test"))
}

pub fn command(name: &str, args: &[&str]) -> Command {
    let mut c = Command::new(find(name));
    c.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    c
}

/// What a program said.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: Vec<u8>,
    pub err: String,
}
impl Said {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }
    /// Its output; panics unless it ended with 0.
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}\n{}", self.err, self.text());
        self.text()
    }
}

/// Runs a program to its end.
pub async fn run(name: &str, args: &[&str]) -> Said {
    let run = command(name, args).output();
    match timeout(LIMIT, run).await {
        Ok(Ok(o)) => Said { code: o.status.code(), out: o.stdout, err: String::from_utf8_lossy(&o.stderr).into() },
        Ok(Err(e)) => panic!("{name}: {e}"),
        Err(_) => panic!("{name} {args:?} did not end within {LIMIT:?}"),
    }
}

/// A program that runs beside the test; its output is read line by line.
pub struct Running {
    pub child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}
impl Running {
    pub fn start(name: &str, args: &[&str]) -> Running {
        Running::of(command(name, args).stderr(Stdio::inherit()))
    }
    pub fn of(c: &mut Command) -> Running {
        let mut child = c.spawn().unwrap_or_else(|e| panic!("{c:?}: {e}"));
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Running { child, lines }
    }
    /// The next line that contains `part`.
    pub async fn line(&mut self, part: &str) -> String {
        let find = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                if line.contains(part) {
                    return line;
                }
            }
            panic!("the program ended before it said {part:?}")
        };
        timeout(LIMIT, find).await.unwrap_or_else(|_| panic!("nothing with {part:?} within {LIMIT:?}"))
    }
}
