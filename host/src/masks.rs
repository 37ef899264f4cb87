//! Masks of tasks over a base, and tasks given back: the core's plans over this machine's files, by several threads.

use std::path::Path;

use mwa::masks::{MASKS, MaskOptions, Masking, Masks, UnmaskOptions, Unmasking};
use mwa::report::HashedFile;
use mwa::{Error, ErrorKind, Read, Readers, Result, Write};

use crate::engine::cpu::piece_bytes;
use crate::engine::pool::share;
use crate::find::checkpoint::Checkpoint;
use crate::io::disk::{Disk, InputFile, text_of};
use crate::io::staging::{ANOTHER, Staging, without_force};
use crate::io::store::Store;
use crate::io::url::{self, clean};
use crate::merge::{at_output, beside, close, path_from};
use crate::options::MergeOptions;
use crate::progress::Progress;

/// The most bytes of a model that a thread holds at a time, and the least that are worth a piece.
const PIECES: (u64, u64) = (4 << 20, 64 << 10);
/// How many bytes a thread needs for one of those, of each model: numbers, and what is written.
const ROOM: u64 = 3;

/// What `tasks` changed of `base`, as one vector and a bit of each element and task, into the folder `out`, which appears whole or
/// not at all. `lambdas` are of all tasks, or of each.
///
/// # Errors
/// What is wrong with any of them, and an output that cannot be written.
pub fn masks(
    tasks: &[&Path],
    base: &Path,
    lambdas: &[f64],
    how: &MergeOptions,
    out: &Path,
    progress: &dyn Progress,
) -> Result<Masks> {
    if tasks.is_empty() {
        return Err(Error::new(ErrorKind::Usage, "no task is named")
            .help("give the models that were trained from the base"));
    }
    Staging::make_way(out, how.force, tasks.iter().copied().chain([base]), progress)
        .map_err(|error| without_force(error, ANOTHER))?;
    let disk = Disk::default();
    let options = MaskOptions {
        tasks: tasks.iter().map(|task| text_of(&clean(task))).collect::<Result<_>>()?,
        base: text_of(&clean(base))?,
        lambdas: lambdas.to_vec(),
    };
    let plan = disk.now(|| Masking::new(&disk, &Readers::ALL, &options))?;
    let models = [&plan.base].into_iter().chain(&plan.tasks);
    let inputs = models.map(|model| Checkpoint::of(model.clone(), &disk)).collect::<Result<Vec<_>>>()?;
    let staging = Staging::begin(out, how.force, &inputs)?;
    let mut store = Store::new(inputs.iter().map(|input| input.files.as_slice()), how.sha256);
    staging.lay(&mut store, plan.outputs().iter().map(|(name, header)| (&**name, header.file_len())))?;
    let set =
        store.writing_back(|| masked(&plan, &store, how, progress)).map_err(|error| at_output(error, out))?;
    store.sync().map_err(|error| at_output(error, out))?;
    let hashes = store.hashes(how.machine, progress).map_err(|error| at_output(error, out))?;
    inputs.iter().flat_map(|input| &input.files).try_for_each(InputFile::check_unchanged)?;
    let paths = inputs.iter().map(|input| path_from(staging.target(), &input.path));
    let told = plan.told(&paths.collect::<Result<Vec<_>>>()?, &hashes.inputs, &hashes.outputs, &set);
    let text = serde_json::to_string_pretty(&told).expect("it is plain data") + "\n";
    staging.write(MASKS, text.as_bytes())?;
    close(staging, &[], progress)?;
    Ok(told)
}

/// Write vector and masks on all threads; how many bits of each mask are set.
fn masked(plan: &Masking, store: &Store, how: &MergeOptions, progress: &dyn Progress) -> Result<Vec<u64>> {
    for (file, (_, header)) in plan.outputs().iter().enumerate() {
        let head = header.to_bytes();
        store.write(&Write { file, range: 0..head.len() as u64 }, &head)?;
    }
    let models = 1 + plan.tasks.len();
    let pieces = plan.pieces(piece_bytes(how.machine, models as u64 * ROOM, PIECES));
    progress.start(pieces.iter().map(Masking::len).sum());
    let counts = [plan.base.files.len()].into_iter().chain(plan.tasks.iter().map(|task| task.files.len()));
    let owners: Vec<_> =
        counts.enumerate().flat_map(|(input, count)| (0..count).map(move |file| (input, file))).collect();
    let pieces = pieces.iter().enumerate().map(|(number, piece)| (number as u64, piece));
    let set = share(pieces, how.machine.threads(), progress, |set: &mut Vec<u64>, _, piece| {
        let mut read = |file: usize, range: core::ops::Range<u64>, into: &mut [u8]| {
            let (input, file) = owners[file];
            store.read(&Read { input, file, range }, into, true)
        };
        let made = plan.make(piece, &mut read)?;
        for (file, (start, bytes)) in made.writes.iter().enumerate() {
            store.write(&Write { file, range: *start..start + bytes.len() as u64 }, bytes)?;
        }
        set.resize(plan.tasks.len(), 0);
        set.iter_mut().zip(made.set).for_each(|(sum, set)| *sum += set);
        progress.advance(Masking::len(piece));
        Ok(())
    })?;
    let of_task = |task: usize| -> u64 { set.iter().filter_map(|own| own.get(task)).sum() };
    Ok((0..plan.tasks.len()).map(of_task).collect())
}

/// What was given back.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Unmasked {
    /// The task.
    pub task: String,
    /// The files with weights.
    pub files: Vec<HashedFile>,
    /// What was copied beside them.
    pub companions: Vec<HashedFile>,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// Give a task of the folder `masks` back, into the folder `out`, which appears whole or not at all. The base is where it was, or at
/// `base`.
///
/// # Errors
/// What is wrong with any of them, a base that is another, and an output that cannot be written.
pub fn unmask(
    masks: &Path,
    task: &str,
    base: Option<&Path>,
    how: &MergeOptions,
    out: &Path,
    progress: &dyn Progress,
) -> Result<Unmasked> {
    Staging::make_way(out, how.force, [masks].into_iter().chain(base), progress)
        .map_err(|error| without_force(error, ANOTHER))?;
    let disk = Disk::default();
    let folder = &*clean(masks);
    let told = disk.now(|| Masks::open(&disk, &text_of(folder)?))?;
    let place = base.map_or_else(|| url::place(folder, &told.base.path), clean);
    let options = UnmaskOptions {
        masks: text_of(folder)?,
        task: task.to_owned(),
        base: text_of(&place)?,
        is_base_named: base.is_some(),
    };
    let plan = disk.now(|| Unmasking::new(&disk, &Readers::ALL, told.clone(), &options))?;
    let inputs = [Checkpoint::of(plan.base.clone(), &disk)?];
    let own: Vec<_> = plan.own.iter().map(|file| InputFile::of(file.clone(), &disk)).collect();
    let staging = Staging::begin(out, how.force, &inputs)?;
    let mut store = Store::new([inputs[0].files.as_slice(), own.as_slice()].into_iter(), how.sha256);
    staging.lay(&mut store, plan.base.files.iter().map(|file| (file.name(), file.len)))?;
    let work = || {
        let count = plan.base.files.len();
        let pieces = plan.pieces(piece_bytes(how.machine, 3 * ROOM, PIECES));
        progress.start(plan.base.files.iter().map(|file| file.len).sum());
        let pieces = pieces.iter().enumerate().map(|(number, piece)| (number as u64, piece));
        share(pieces, how.machine.threads(), progress, |_: &mut (), _, piece| {
            let mut read = |file: usize, range: core::ops::Range<u64>, into: &mut [u8]| {
                let (input, file) = file.checked_sub(count).map_or((0, file), |own| (1, own));
                store.read(&Read { input, file, range }, into, true)
            };
            let bytes = plan.make(piece, &mut read)?;
            store.write(&Write { file: piece.file, range: piece.range.clone() }, &bytes)?;
            progress.advance(bytes.len() as u64);
            Ok(())
        })
    };
    store.writing_back(work).map_err(|error| at_output(error, out))?;
    store.sync().map_err(|error| at_output(error, out))?;
    let hashes = store.hashes(how.machine, progress).map_err(|error| at_output(error, out))?;
    plan.check([&hashes.inputs[0], &hashes.inputs[1]])?;
    inputs[0].files.iter().chain(&own).try_for_each(InputFile::check_unchanged)?;
    let (companions, notes) = beside(&staging, &[], &inputs[0].companions, how, progress)?;
    close(staging, &[], progress)?;
    let files =
        plan.base.files.iter().zip(&hashes.outputs).map(|(file, hash)| hash.of(file.name(), file.len));
    Ok(Unmasked { task: plan.task_name().to_owned(), files: files.collect(), companions, notes })
}
