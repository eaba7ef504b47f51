//! `weft explain`: why a request goes where it goes, from a cluster's objects or a folder of them. What is said is what a proxy would do: the same code decides.

use crate::cluster;
use clap::Parser;
use std::path::PathBuf;
use weft_controller::explain::{Question, explain_folder};

#[derive(Parser, Clone, Debug)]
pub struct Args {
    /// Who calls: a namespace, or NAMESPACE/POD
    from: String,
    /// What is called: SERVICE:PORT, SERVICE.NAMESPACE:PORT, NAMESPACE/SERVICE:PORT or IP:PORT
    to: String,
    /// Path and query
    #[arg(long, default_value = "/")]
    path: String,
    #[arg(long, default_value = "GET")]
    method: String,
    /// `name: value`; may be given more than once
    #[arg(long, value_parser = header)]
    header: Vec<(String, String)>,
    /// Folder of Kubernetes objects instead of a cluster; may be given more than once
    #[arg(short, long)]
    folder: Vec<PathBuf>,
    #[command(flatten)]
    cluster: cluster::Args,
    #[arg(long)]
    json: bool,
}

fn header(s: &str) -> Result<(String, String), String> {
    let (name, value) = s.split_once(':').ok_or("not `name: value`")?;
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(token) {
        return Err(format!("{name:?} is no header name"));
    }
    Ok((name.to_ascii_lowercase(), value.trim().into()))
}

pub fn run(args: Args) -> anyhow::Result<()> {
    crate::check::readable(&args.folder)?;
    let mut folders = args.folder;
    let read;
    if folders.is_empty() {
        read = cluster::block_on(async {
            cluster::objects::folder(&cluster::Cluster::connect(&args.cluster).await?).await
        })?;
        folders.push(read.path());
    }
    let question =
        Question { from: args.from, to: args.to, method: args.method, path: args.path, headers: args.header };
    let answer = explain_folder(&folders, &question)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
    } else {
        print!("{answer}");
    }
    Ok(())
}
