//! `weft-ca`: the certificate authority of the mesh as a program.

fn main() -> std::process::ExitCode {
    weft_ca::program::main()
}
