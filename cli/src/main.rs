//! `weft`: the command line. `demo` runs the mesh on this machine, `dump` shows what a proxy believes, `explain` says why a
//! request goes where it goes, `check` finds mistakes in a folder of objects.

mod admin;
mod calls;
mod check;
mod demo;
mod dump;
mod explain;
mod metrics;
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
    /// Find the mistakes in a folder of objects
    Check(check::Args),
    /// Say why a request goes where it goes
    Explain(explain::Args),
    /// Show what a proxy believes
    Dump(dump::Args),
    /// The sample application of the shop: answers, fails and dawdles as told
    Sample(sample::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Demo(args) => demo::run(args),
        Command::Check(args) => check::run(args),
        Command::Explain(args) => explain::run(args),
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
