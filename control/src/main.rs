//! The programs of the control plane and the command line as one: what they share (Kubernetes' client, TLS, the runtime) is in the image once.
//! The image has it under each of their names, and the name that it is called by says which of them it is.

use std::{ffi::OsStr, path::Path, process::ExitCode};

/// What a program does, by its name.
fn program(name: &OsStr) -> Option<fn() -> ExitCode> {
    Some(match name.to_str()? {
        "weft" => weft_cli::main,
        "weft-ca" => weft_ca::program::main,
        "weft-controller" => weft_controller::program::main,
        "weft-injector" => weft_injector::program::main,
        _ => return None,
    })
}

fn main() -> ExitCode {
    let called = std::env::args_os().next().unwrap_or_default();
    match Path::new(&called).file_name().and_then(program) {
        Some(run) => run(),
        None => {
            eprintln!(
                "weft-control: called as {called:?}; this is weft, weft-ca, weft-controller and weft-injector: call it by one of these names"
            );
            ExitCode::FAILURE
        }
    }
}
