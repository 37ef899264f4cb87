//! The names of `sandbox` where it is not compiled in: asked for, it says so.

use std::path::PathBuf;

use mwa::merge::{Closing, Finished, Merge};
use mwa::{Error, ErrorKind, Result, Shard};

use crate::engine::execute::Hashes;
use crate::find::checkpoint::Checkpoint;
use crate::io::store::Store;
use crate::options::MergeOptions;
use crate::progress::Progress;

/// What a merge in a sandbox would have to say.
pub(crate) enum Guest {}

pub(crate) fn run(
    _: &Merge,
    _: &[Checkpoint],
    _: &MergeOptions,
    _: &mut Store,
    _: impl FnOnce(&[Shard]) -> Result<Vec<PathBuf>>,
    _: &dyn Progress,
) -> Result<(Hashes, Option<Guest>)> {
    Err(Error::new(ErrorKind::Device, "wasm: this program was built without its WebAssembly runtime")
        .help("build it with `cargo build --release --features wasm`"))
}

pub(crate) fn finish(_: &Merge, guest: Guest, _: &Closing) -> Finished {
    match guest {}
}
