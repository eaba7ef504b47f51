//! `weft`: the command line. `demo` runs the mesh on this machine, `dump` shows what a proxy believes, `explain` says why a
//! request goes where it goes, `check` finds what is wrong, `stat` shows what the routes do; each on a cluster, and where it makes sense on a folder of objects.

mod admin;
mod calls;
mod check;
mod cluster;
mod demo;
mod dump;
mod explain;
mod metrics;
mod rows;
mod sample;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "weft", version, about = "A service mesh that speaks only Gateway API")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the mesh on this machine, without a cluster
    Demo(demo::Args),
    /// Find out what is wrong with the mesh of a cluster, or with a folder of objects
    Check(check::Args),
    /// Say why a request goes where it goes
    Explain(explain::Args),
    /// Show what the routes do now: requests, success, retries, timeouts, latency
    Stat(cluster::stat::Args),
    /// Show what a proxy believes
    Dump(dump::Args),
    /// The sample application of the shop: answers, fails and dawdles as told
    Sample(sample::Args),
}

/// The program `weft`.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Demo(args) => demo::run(args),
        Command::Check(args) => check::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Stat(args) => cluster::stat::run(args),
        Command::Dump(args) => dump::run(args),
        Command::Sample(args) => sample::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("weft: {e:#}");
            ExitCode::FAILURE
        }
    }
}
