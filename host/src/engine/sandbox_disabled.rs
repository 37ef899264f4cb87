//! The names of `sandbox` where it is not compiled in: asked for, it says so.

use std::path::Path;

use mwa::report::Report;
use mwa::{Error, ErrorKind, Result};

use crate::options::{MergeOptions, Options};
use crate::progress::Progress;

pub(crate) fn merge(_: &Options, _: &MergeOptions, _: &Path, _: &dyn Progress) -> Result<Report> {
    Err(Error::new(ErrorKind::Device, "wasm: this program was built without its WebAssembly runtime")
        .help("build it with `cargo build --release --features wasm`"))
}
