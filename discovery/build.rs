//! Generates the gRPC code. protox compiles the proto file in this process: no protoc is needed.
use std::{env, error::Error, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("proto");
    let file = root.join("weft/discovery/v1/discovery.proto");
    println!("cargo::rerun-if-changed={}", file.display());
    let set = protox::compile([&file], [&root])?;
    tonic_prost_build::configure().bytes(".weft.discovery.v1.Update.resource").compile_fds(set)?;
    Ok(())
}
