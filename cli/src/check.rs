//! `weft check`: the cluster, or with `-f` every mistake that a folder of objects can show, one line each: file, line, object, field, what is wrong, what to do.

use anyhow::bail;
use clap::Parser;
use std::path::PathBuf;
use weft_controller::{Severity, check::check};

#[derive(Parser, Clone, Debug)]
pub struct Args {
    /// Folder of Kubernetes objects instead of a cluster; may be given more than once
    #[arg(short, long)]
    folder: Vec<PathBuf>,
    #[command(flatten)]
    cluster: crate::cluster::check::Options,
    #[arg(long)]
    json: bool,
    /// Fail on warnings, too
    #[arg(long)]
    strict: bool,
}

/// An error that names the first folder that cannot be read.
pub fn readable(folders: &[PathBuf]) -> anyhow::Result<()> {
    for f in folders {
        if let Err(e) = std::fs::read_dir(f) {
            bail!("{}: {e}: give a folder of YAML files", f.display());
        }
    }
    Ok(())
}

pub fn run(args: Args) -> anyhow::Result<()> {
    if args.folder.is_empty() {
        return crate::cluster::check::run(&args.cluster, args.json, args.strict);
    }
    readable(&args.folder)?;
    let findings = check(&args.folder);
    let count = |s: Severity| findings.iter().filter(|f| f.severity == s).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    if args.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        for f in &findings {
            println!("{f}");
        }
        println!("{errors} errors, {warnings} warnings");
    }
    if errors > 0 || (args.strict && warnings > 0) {
        bail!("{errors} errors and {warnings} warnings");
    }
    Ok(())
}
