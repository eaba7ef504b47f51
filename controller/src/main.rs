//! `weft-controller`: serves what the objects of a cluster or a folder say to the proxies of the mesh.

fn main() -> std::process::ExitCode {
    weft_controller::program::main()
}
