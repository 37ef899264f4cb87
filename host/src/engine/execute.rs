//! Run the jobs of a merge over files on this machine: elements on the CPU or on GPUs, all else on threads.

use std::fs::File;
use std::path::PathBuf;

use mwa::Result;
use mwa::merge::{Chosen, Cut, Findings, Merge, MergeOptions, Next};

use crate::engine::device::DeviceChoice;
use crate::engine::{compute, cpu, gpu, together};
use crate::io::disk::{InputFile, io_error};
use crate::io::store::{Hashes, Store};
use crate::options::Machine;
use crate::progress::{Progress, Quiet};

/// Who computes the elements of a merge.
pub(crate) type Elements<'a> = dyn FnOnce(&Merge, &Store, Machine, &dyn Progress) -> Result<Findings> + 'a;

/// How work is cut, so that buffers fit the memory of `machine` and jobs its caches.
pub(crate) fn cut(machine: Machine, inputs: usize) -> Cut {
    Cut { max_bytes: cpu::job_bytes(cpu::budget(machine), machine.threads(), inputs), by_tensor: false }
}

/// Find the weights, where the tensors decide them, and merge nothing.
pub(crate) fn weigh(
    merge: &mut Merge,
    store: &Store,
    machine: Machine,
    progress: &dyn Progress,
) -> Result<()> {
    while let Next::Jobs(numbers) = merge.next_to_weigh()? {
        let found = cpu::run(merge, numbers, store, machine, &Quiet(progress))?;
        merge.take(found)?;
    }
    Ok(())
}

/// Run the jobs that write nothing, by which inputs are compared, and weights or ranks found; what is to be done then.
pub(crate) fn survey(
    merge: &mut Merge,
    store: &Store,
    machine: Machine,
    progress: &dyn Progress,
) -> Result<Next> {
    let mut next = merge.next()?;
    while let Next::Jobs(numbers) = &next
        && merge.job(numbers.start).writes().len() == 0
    {
        let found = cpu::run(merge, numbers.clone(), store, machine, &Quiet(progress))?;
        merge.take(found)?;
        next = merge.next()?;
    }
    Ok(next)
}

/// Do what comes before the outputs are written, and create them with their heads. `create` makes them, when it is known that
/// there will be any, and says where they are.
fn begin(
    merge: &mut Merge,
    store: &mut Store,
    create: impl FnOnce(&Merge) -> Result<Vec<PathBuf>>,
    machine: Machine,
    progress: &dyn Progress,
) -> Result<Next> {
    let next = survey(merge, store, machine, progress)?;
    let outputs = create(merge)?;
    store.write_to(outputs.into_iter().zip(merge.outputs().iter().map(|it| it.header.file_len())));
    for (file, output) in merge.outputs().iter().enumerate() {
        let head = merge.head(file);
        let range = 0..head.len() as u64;
        debug_assert!(range.end <= output.header.file_len(), "the head is the file's beginning");
        store.write(&mwa::Write { file, range }, &head)?;
    }
    Ok(next)
}

/// Run all jobs. `create` makes the outputs, when it is known that there will be any, and says where they are.
pub(crate) fn run(
    merge: &mut Merge,
    store: &mut Store,
    create: impl FnOnce(&Merge) -> Result<Vec<PathBuf>>,
    elements: Box<Elements<'_>>,
    machine: Machine,
    progress: &dyn Progress,
) -> Result<Hashes> {
    let next = begin(merge, store, create, machine, progress)?;
    if let Next::Jobs(numbers) = next {
        progress.start(merge.bytes());
        store.writing_back(|| {
            let first = merge.elements();
            if !first.is_empty() {
                let found = elements(merge, store, machine, progress)?;
                merge.take(found)?;
            }
            let found = cpu::run(merge, first.end..numbers.end, store, machine, progress)?;
            merge.take(found)
        })?;
        merge.next()?; // whether there was anything to merge
    }
    store.sync()?;
    let hashes = store.hashes(machine, progress)?;
    progress.timings(&store.timings.list());
    Ok(hashes)
}

/// Who creates the outputs of a merge.
pub(crate) type Create<'a> = Box<dyn FnOnce(&Merge) -> Result<Vec<PathBuf>> + 'a>;

/// A merge among several of the same files.
pub(crate) struct Part<'a> {
    pub(crate) merge: &'a mut Merge,
    pub(crate) store: &'a mut Store,
    pub(crate) create: Create<'a>,
}

/// Run all jobs of several merges of the same files, whose elements are read once for all. What is written is not brought to the
/// disk: it is to be looked at, and not to be kept.
///
/// # Errors
/// What fails for all; what fails for one is told of that one.
pub(crate) fn together(
    parts: Vec<Part<'_>>,
    machine: Machine,
    progress: &dyn Progress,
) -> Result<Vec<Result<Hashes>>> {
    let mut begun = Vec::with_capacity(parts.len());
    for Part { merge, store, create } in parts {
        let next = begin(merge, store, create, machine, progress);
        begun.push((merge, store, next, None));
    }
    for lot in lots(&begun) {
        let all: Vec<_> = lot.iter().map(|&at| (&*begun[at].0, &*begun[at].1)).collect();
        let found = match (&all[..], machine.device) {
            ([(merge, store)], _) => vec![compute::run(merge, store, machine, progress)],
            (_, DeviceChoice::Gpu(wanted)) => gpu::together::run(&all, machine, wanted, progress)?,
            _ => together::run(&all, machine, progress)?,
        };
        for (at, found) in lot.into_iter().zip(found) {
            begun[at].3 = Some(found);
        }
    }
    let finish = |(merge, store, next, found): (&mut Merge, &mut Store, Result<Next>, Option<Result<_>>)| {
        if let Next::Jobs(numbers) = next? {
            let last = merge.elements().end;
            if let Some(found) = found {
                merge.take(found?)?;
            }
            let found = cpu::run(merge, last..numbers.end, store, machine, progress)?;
            merge.take(found)?;
            merge.next()?;
        }
        store.hashes(machine, progress)
    };
    Ok(begun.into_iter().map(finish).collect())
}

/// Which of these merges have elements to compute, those together that may be done together.
fn lots<S, F>(begun: &[(&mut Merge, S, Result<Next>, F)]) -> Vec<Vec<usize>> {
    let mut lots: Vec<Vec<usize>> = Vec::new();
    for (at, (merge, _, next, _)) in begun.iter().enumerate() {
        if next.is_err() || merge.elements().is_empty() {
            continue;
        }
        match lots.iter_mut().find(|lot| begun[lot[0]].0.goes_with(merge)) {
            Some(lot) => lot.push(at),
            None => lots.push(vec![at]),
        }
    }
    lots
}

/// Merge `chosen` on this machine: `inputs` are the files of each input, `outputs` the files to create, one for each of
/// the last input's.
///
/// This is the part of [`crate::merge()`] that computes: it writes where it is told, over what is there, and leaves a
/// half-written file behind when it fails.
///
/// # Errors
/// What [`Merge`] says of the inputs, [`mwa::merge::Job::run`] of the data, and the operating system of the files.
///
/// # Panics
/// If there are fewer files than the merge has.
pub fn execute(
    chosen: Chosen,
    options: MergeOptions,
    inputs: &[Vec<PathBuf>],
    outputs: &[PathBuf],
    machine: Machine,
    progress: &dyn Progress,
) -> Result<()> {
    over_files(chosen, options, inputs, outputs, Box::new(compute::run), machine, progress)
}

/// Open the inputs, create the outputs, and merge over them.
pub(crate) fn over_files(
    chosen: Chosen,
    options: MergeOptions,
    inputs: &[Vec<PathBuf>],
    outputs: &[PathBuf],
    elements: Box<Elements<'_>>,
    machine: Machine,
    progress: &dyn Progress,
) -> Result<()> {
    let open =
        |files: &Vec<PathBuf>| files.iter().map(|path| InputFile::open(path)).collect::<Result<Vec<_>>>();
    let mut inputs = inputs.iter().map(open).collect::<Result<Vec<_>>>()?;
    // of moments more is known than the files tell by themselves
    let weighed = inputs.iter_mut().skip(usize::from(chosen.has_base));
    for (file, moments) in weighed.filter_map(|files| files.last_mut()).zip(&chosen.moments) {
        file.header = moments.shard.header.clone();
    }
    let create = |path: &PathBuf| {
        let at = |error| io_error("cannot create it", &error).file(path.display().to_string());
        File::create(path).map(drop).map_err(at)
    };
    let mut merge = Merge::new(chosen, options, cut(machine, inputs.len()))?;
    let mut store = Store::new(inputs.iter().map(Vec::as_slice), false);
    let create = |_: &Merge| outputs.iter().try_for_each(create).map(|()| outputs.to_vec());
    run(&mut merge, &mut store, create, elements, machine, progress).map(drop)
}
