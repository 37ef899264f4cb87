//! An adapter taken out of a fine-tuned model: tensors compared by several threads, and what was found written.

use std::path::Path;

use mwa::extract::{ExtractOptions, ExtractRank, Extraction, Found, Part, WEIGHTS};
use mwa::report::Report;
use mwa::{Read, Readers, Result, Write};

use crate::engine::cpu::piece_bytes;
use crate::engine::pool::share;
use crate::engine::simd::InstructionSet;
use crate::find::checkpoint::Checkpoint;
use crate::io::disk::{Disk, text_of};
use crate::io::staging::Staging;
use crate::io::store::Store;
use crate::io::url::clean;
use crate::merge::{at_output, close_two};
use crate::options::MergeOptions;
use crate::progress::Progress;

/// The most bytes of rows that a thread holds at a time, as f64, and the least that are worth a read.
const PIECES: (u64, u64) = (8 << 20, 64 << 10);
/// How many bytes a thread needs for one of those.
const ROOM: u64 = 3;

/// Take an adapter out of the model `tuned`, which was trained from `base`, into the folder `out`, which appears whole or not at all.
///
/// The adapter calls its base by `name`; as the base's own config does without, or else by its path.
///
/// # Errors
/// What is wrong with either, a difference that no adapter holds, and an output that cannot be written.
pub fn extract(
    tuned: &Path,
    base: &Path,
    (rank, name): (ExtractRank, Option<&str>),
    how: &MergeOptions,
    out: &Path,
    progress: &dyn Progress,
) -> Result<Report> {
    Staging::make_way(out, how.force, [tuned, base].into_iter(), progress)?;
    let disk = Disk::default();
    let options = ExtractOptions {
        tuned: text_of(&clean(tuned))?,
        base: text_of(&clean(base))?,
        rank,
        name: name.map(String::from),
    };
    let plan = disk.now(|| Extraction::new(&disk, &Readers::ALL, &options))?;
    let inputs = [Checkpoint::of(plan.tuned.clone(), &disk)?, Checkpoint::of(plan.base.clone(), &disk)?];
    let mut store = Store::new(inputs.iter().map(|input| input.files.as_slice()), how.sha256);
    let found = compared(&plan, &store, how, progress).map_err(|error| at_output(error, out))?;
    let adapter = plan.adapter(&found)?;

    let staging = Staging::begin(out, how.force, &inputs)?;
    staging.create(WEIGHTS, adapter.header.file_len())?;
    store.write_to([(staging.path(WEIGHTS), adapter.header.file_len())].into_iter());
    let work = || -> Result<()> {
        let head = adapter.header.to_bytes();
        store.write(&Write { file: 0, range: 0..head.len() as u64 }, &head)?;
        for (tensor, part) in adapter.header.tensors().iter().zip(&adapter.parts) {
            match part {
                Part::Factor(number, is_left, is_turned) => {
                    let bytes = Part::factor(&found, *number, *is_left, *is_turned);
                    store.write(&Write { file: 0, range: tensor.range.clone() }, &bytes)?;
                }
                Part::Copy(file, range) => {
                    let (mut at, mut bytes) = (range.start, Vec::new());
                    while at < range.end {
                        let end = range.end.min(at + PIECES.0);
                        bytes.resize(usize::try_from(end - at).expect("it is small"), 0);
                        store.read(&Read { input: 0, file: *file, range: at..end }, &mut bytes, false)?;
                        let to = tensor.range.start + (at - range.start);
                        store.write(&Write { file: 0, range: to..to + (end - at) }, &bytes)?;
                        at = end;
                    }
                }
            }
        }
        Ok(())
    };
    store.writing_back(work).map_err(|error| at_output(error, out))?;
    store.sync().map_err(|error| at_output(error, out))?;
    let hashes = store.hashes(how.machine, progress).map_err(|error| at_output(error, out))?;
    let report = |paths: &[String]| plan.report(&adapter, paths, &hashes.inputs, &hashes.outputs[0]);
    close_two(staging, &inputs, (&adapter.texts, &[]), how, progress, report)
}

/// Compare all tensors, one to a thread.
fn compared(
    plan: &Extraction,
    store: &Store,
    how: &MergeOptions,
    progress: &dyn Progress,
) -> Result<Vec<Found>> {
    let threads = how.machine.threads();
    let most = piece_bytes(how.machine, ROOM, PIECES);
    let set = InstructionSet::widest();
    let files = plan.tuned.files.len();
    progress.start(plan.tensors().sum());
    let tensors = plan.tensors().enumerate().map(|(number, len)| (number as u64, (number, len)));
    let parts = share(tensors, threads, progress, |own: &mut Vec<(usize, Found)>, _, (number, len)| {
        let mut read = |file: usize, range: core::ops::Range<u64>, into: &mut [u8]| {
            let (input, file) = if file < files { (0, file) } else { (1, file - files) };
            store.read(&Read { input, file, range }, into, true)
        };
        own.push((number, set.compare(plan, number, most, &mut read)?));
        progress.advance(len);
        Ok(())
    })?;
    let mut found: Vec<_> = parts.into_iter().flatten().collect();
    found.sort_by_key(|(number, _)| *number);
    Ok(found.into_iter().map(|(_, found)| found).collect())
}
