//! The names of `sandbox.rs` where it is not compiled in: asked for, it says so.

use mwa::{Error, ErrorKind, Input, Result, Shard};

use crate::engine::product::Merged;
use crate::find::checkpoint::Checkpoint;
use crate::io::staging::Staging;
use crate::options::MergeOptions;
use crate::progress::Progress;

/// What is merged.
#[expect(dead_code, reason = "the enabled module reads it")]
pub(crate) struct Work<'a> {
    pub(crate) checkpoints: &'a [Checkpoint],
    pub(crate) inputs: &'a [Input],
    pub(crate) weights: &'a [f64],
    pub(crate) how: &'a MergeOptions,
    pub(crate) expected: Option<&'a [Shard]>,
}

pub(crate) fn run(_: &Work<'_>, _: &Staging, _: &mut Vec<String>, _: &dyn Progress) -> Result<Merged> {
    Err(Error::new(ErrorKind::Device, "wasm: this program was built without its WebAssembly runtime")
        .help("build it with `cargo build --release --features wasm`"))
}
