//! The `mwa` binary.

use std::path::Path;
use std::process::ExitCode;

#[global_allocator]
static MEMORY: mwa_host::Memory = mwa_host::Memory;

fn main() -> ExitCode {
    // where no desktop has set it, Mesa calls that an error on standard error, in the middle of a merge that succeeds
    let is_set = std::env::var_os("XDG_RUNTIME_DIR").is_some_and(|folder| Path::new(&folder).is_absolute());
    if cfg!(unix) && !is_set {
        // SAFETY: no other thread has begun that could look at the environment
        unsafe { std::env::set_var("XDG_RUNTIME_DIR", std::env::temp_dir()) };
    }
    mwa_host::command::main(std::env::args_os()).into()
}
