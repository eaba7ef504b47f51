//! `weft-injector`: the mutating webhook as a process.

fn main() -> std::process::ExitCode {
    weft_injector::program::main()
}
