//! The `mwa` binary.

use std::process::ExitCode;

#[global_allocator]
static MEMORY: mwa_host::Memory = mwa_host::Memory;

fn main() -> ExitCode {
    mwa_host::command::main(std::env::args_os()).into()
}
