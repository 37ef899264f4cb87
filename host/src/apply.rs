//! An adapter folded into its base: the core's plan over this machine's files, by several threads.

use std::path::Path;

use mwa::fold::{Factors, FoldOptions, Folding, Work};
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

/// The most bytes of the base that a thread holds at a time, and the least that are worth a job.
const PIECES: (u64, u64) = (4 << 20, 64 << 10);
/// How many bytes a thread needs for one of those: before, after, as numbers, and the factors.
const ROOM: u64 = 5;

/// Fold `adapter` into `base` and write the result into the folder `out`, which appears whole or not at all.
///
/// # Errors
/// What is wrong with either, whatever of the adapter has no place in the base, and an output that cannot be written.
pub fn apply(
    adapter: &Path,
    base: &Path,
    how: &MergeOptions,
    out: &Path,
    progress: &dyn Progress,
) -> Result<Report> {
    Staging::make_way(out, how.force, [adapter, base].into_iter(), progress)?;
    let disk = Disk::default();
    let options = FoldOptions {
        adapter: text_of(&clean(adapter))?,
        base: text_of(&clean(base))?,
        allow_non_finite: how.merge.allow_non_finite,
    };
    let plan = disk.now(|| Folding::new(&disk, &Readers::ALL, &options))?;
    let inputs = [Checkpoint::of(plan.base.clone(), &disk)?, Checkpoint::of(plan.adapter.clone(), &disk)?];
    let staging = Staging::begin(out, how.force, &inputs)?;
    let mut store = Store::new(inputs.iter().map(|input| input.files.as_slice()), how.sha256);
    staging.lay(&mut store, plan.outputs().iter().map(|output| (&*output.name, output.len)))?;
    store.writing_back(|| written(&plan, &store, how, progress)).map_err(|error| at_output(error, out))?;
    store.sync().map_err(|error| at_output(error, out))?;
    let hashes = store.hashes(how.machine, progress).map_err(|error| at_output(error, out))?;
    let others: Vec<_> = plan.companions.iter().map(|(name, path)| (name.clone(), path.into())).collect();
    let report = |paths: &[String]| plan.report(paths, &hashes.inputs, &hashes.outputs);
    close_two(staging, &inputs, (&plan.texts, &others), how, progress, report)
}

/// Write all that is made in pieces, on all threads.
fn written(plan: &Folding, store: &Store, how: &MergeOptions, progress: &dyn Progress) -> Result<()> {
    let threads = how.machine.threads();
    let most = piece_bytes(how.machine, ROOM, PIECES);
    let set = InstructionSet::widest();
    let run = |work: &mut Work| set.fold(work);
    let files = plan.base.files.len();
    let read = |file: usize, range: core::ops::Range<u64>, into: &mut [u8], is_first: bool| {
        let (input, file) = if file < files { (0, file) } else { (1, file - files) };
        // factors are read for every piece of their weight: they are hashed in the end
        store.read(&Read { input, file, range }, into, is_first && input == 0)
    };
    progress.start(plan.outputs().iter().map(|output| output.len).sum());
    for file in 0..plan.outputs().len() {
        let head = plan.head(file);
        if !head.is_empty() {
            store.write(&Write { file, range: 0..head.len() as u64 }, head)?;
            progress.advance(head.len() as u64);
        }
    }
    let measured = plan.measured();
    let measures = share(
        measured.iter().enumerate().map(|(number, place)| (number as u64, *place)),
        threads,
        progress,
        |(work, found): &mut (Work, Factors), _, place| {
            let mut again = |file, range, into: &mut [u8]| read(file, range, into, false);
            found.push((place, plan.measure(place, most, work, &mut again, &run)?));
            Ok(())
        },
    )?;
    let mut factors: Factors = measures.into_iter().flat_map(|(_, found)| found).collect();
    factors.sort_by_key(|(place, _)| *place);
    let pieces = plan.pieces(most);
    let pieces = pieces.iter().enumerate().map(|(number, piece)| (number as u64, piece));
    share(pieces, threads, progress, |work: &mut Work, _, piece| {
        let mut once = |file, range, into: &mut [u8]| read(file, range, into, true);
        let bytes = plan.make(piece, &factors, work, &mut once, &run)?;
        store.write(&Write { file: piece.output, range: piece.to.clone() }, bytes)?;
        progress.advance(bytes.len() as u64);
        Ok(())
    })?;
    Ok(())
}
