//! The names of `sandbox` where it is not compiled in: asked for, it says so.

use std::path::PathBuf;

use mwa::merge::{Closing, Merge, Text};
use mwa::report::Report;
use mwa::{Error, ErrorKind, Result, Shard};

use crate::engine::execute::Hashes;
use crate::find::checkpoint::Checkpoint;
use crate::io::store::Store;
use crate::options::MergeOptions;
use crate::progress::Progress;

/// What a merge in a sandbox would have to say.
pub(crate) enum Guest {}

impl Guest {
    pub(crate) fn texts(&self) -> Vec<Text> {
        match *self {}
    }

    pub(crate) fn finish(self, _: &Merge, _: Closing) -> Report {
        match self {}
    }
}

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
