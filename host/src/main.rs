//! The `mwa` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    mwa_host::command::main(std::env::args_os()).into()
}
