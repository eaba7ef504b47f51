//! Which iptables speaks to the kernel: the nft variant by preference, the legacy one where the node needs it.
//!
//! Rules of both variants act side by side, and a pod that mixes them is hard to understand, so legacy is chosen only when its nat table
//! already holds rules (another tool of this pod chose it) while nft's holds none, or when nft cannot open the table at all.

use crate::plan::Family;
use std::{
    fmt, io,
    process::{Command, Output, Stdio},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Nft,
    Legacy,
}

impl Backend {
    pub const ALL: [Backend; 2] = [Backend::Nft, Backend::Legacy];

    fn program(self, family: Family) -> String {
        let tool = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        format!("{tool}-{self}")
    }
    /// Runs `iptables-<backend>` on the nat table.
    pub fn run(self, family: Family, args: &[&str]) -> io::Result<Output> {
        // the lock is waited for: another tool of the pod may be at work
        command(&self.program(family)).args(["--wait", "5", "-t", "nat"]).args(args).stdin(Stdio::null()).output()
    }
    /// Feeds `text` to `iptables-<backend>-restore`.
    pub fn restore(self, family: Family, text: &str, args: &[&str]) -> io::Result<Output> {
        use io::Write as _;
        let mut child = command(&format!("{}-restore", self.program(family)))
            .args(["--noflush", "--wait", "5"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // a child that refused its arguments has closed the pipe; its message says more than ours
            let _ = stdin.write_all(text.as_bytes());
        }
        child.wait_with_output()
    }
    /// Rules of the nat table as `-S` prints them; `Err` holds what the tool said.
    pub fn list(self, family: Family) -> Result<Vec<String>, String> {
        match self.run(family, &["-S"]) {
            Ok(o) if o.status.success() => Ok(String::from_utf8_lossy(&o.stdout).lines().map(str::to_owned).collect()),
            Ok(o) => Err(String::from_utf8_lossy(&o.stderr).trim().to_owned()),
            Err(e) => Err(format!("{}: {e}", self.program(family))),
        }
    }
    /// The variant to use in this pod, or what each of them said.
    pub fn detect() -> Result<Backend, [String; 2]> {
        let rules = |b: Backend| b.list(Family::V4).map(|l| l.iter().filter(|l| l.starts_with("-A")).count());
        match (rules(Backend::Nft), rules(Backend::Legacy)) {
            (Ok(0), Ok(n)) if n > 0 => Ok(Backend::Legacy),
            (Ok(_), _) => Ok(Backend::Nft),
            (Err(_), Ok(_)) => Ok(Backend::Legacy),
            (Err(nft), Err(legacy)) => Err([nft, legacy]),
        }
    }
}

/// Translated messages would hide the causes that [`crate::apply`] looks for; PATH of a minimal container often lacks sbin.
fn command(program: &str) -> Command {
    let mut c = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default();
    c.env("LC_ALL", "C").env("PATH", format!("{path}:/usr/sbin:/sbin"));
    c
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::Nft => "nft",
            Backend::Legacy => "legacy",
        })
    }
}

impl std::str::FromStr for Backend {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "nft" => Ok(Backend::Nft),
            "legacy" => Ok(Backend::Legacy),
            _ => Err("neither nft nor legacy".into()),
        }
    }
}
