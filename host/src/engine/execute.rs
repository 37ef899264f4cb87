//! Run a plan made by the caller over files on disk.

use std::fs::File;
use std::path::PathBuf;

use mwa::kernel::Tally;
use mwa::{Plan, Result};

use crate::engine::compute;
use crate::engine::pass::Ran;
use crate::io::disk::{InputFile, io_error};
use crate::options::Machine;
use crate::progress::Progress;

/// Run `plan` on this machine: `inputs` are the files of each input, in the order in which they were planned,
/// `outputs` the files to create, one for each of [`Plan::outputs`].
///
/// This is the part of [`crate::merge`] that computes: it writes where it is told, over what is there, and leaves a
/// half-written file behind when it fails.
///
/// # Errors
/// What [`mwa::Job::run`] says of the data, and what the operating system says of the files.
///
/// # Panics
/// If there are fewer files than the plan has.
pub fn execute(
    plan: &Plan,
    inputs: &[Vec<PathBuf>],
    outputs: &[PathBuf],
    machine: Machine,
    progress: &dyn Progress,
) -> Result<Tally> {
    over_files(inputs, outputs, |sources, outputs| compute::run(plan, sources, outputs, machine, progress))
}

/// Open the inputs, create the outputs, and run something over them.
pub(crate) fn over_files(
    inputs: &[Vec<PathBuf>],
    outputs: &[PathBuf],
    run: impl FnOnce(&[&[InputFile]], &[File]) -> Result<Ran>,
) -> Result<Tally> {
    let open =
        |files: &Vec<PathBuf>| files.iter().map(|path| InputFile::open(path)).collect::<Result<Vec<_>>>();
    let inputs = inputs.iter().map(open).collect::<Result<Vec<_>>>()?;
    let create = |path: &PathBuf| {
        File::create(path)
            .map_err(|error| io_error("cannot create it", &error).file(path.display().to_string()))
    };
    let outputs = outputs.iter().map(create).collect::<Result<Vec<_>>>()?;
    let sources: Vec<_> = inputs.iter().map(Vec::as_slice).collect();
    Ok(run(&sources, &outputs)?.tally)
}
