//! The names of `sandbox.rs` where it is not compiled in: asked for, it says so.

use std::fs::File;

use mwa::{Error, ErrorKind, Float, Plan, Result};

use crate::Progress;
use crate::checkpoint::Checkpoint;

/// What is merged.
#[expect(dead_code, reason = "the enabled module reads it")]
pub(crate) struct Work<'a> {
    pub(crate) checkpoints: &'a [Checkpoint],
    pub(crate) weights: &'a [f64],
    pub(crate) dtype: Option<Float>,
    pub(crate) plan: &'a Plan,
}

pub(crate) fn run(_: &Work<'_>, _: &[File], _: &dyn Progress) -> Result<Vec<String>> {
    Err(Error::new(ErrorKind::Device, "wasm: this program was built without its WebAssembly runtime")
        .help("build it with `cargo build --release --features wasm`"))
}
