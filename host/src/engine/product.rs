//! Merges in product space, and how far merges in factor space are from them.

use std::path::PathBuf;

use mwa::{Factors, Input, Plan, Products, Rank, Recipe, Result, Shard, Write};

use crate::engine::cpu;
use crate::engine::device::DeviceChoice;
use crate::engine::pool::parallel;
use crate::engine::tasks;
use crate::engine::tasks::{Merge, Sum, Survey, size};
use crate::find::choose::Choice;
use crate::io::disk::InputFile;
use crate::io::staging::Staging;
use crate::io::store::Store;
use crate::options::{Machine, MergeOptions};
use crate::progress::Progress;
use mwa::report::Distance;

/// A merge, written but for its config.
pub(crate) struct Merged {
    pub(crate) shards: Vec<Shard>,
    /// SHA-256 of each output file.
    pub(crate) hashes: Vec<String>,
    /// SHA-256 of each input file.
    pub(crate) input_hashes: Vec<Vec<String>>,
    pub(crate) distance: Option<Distance>,
    /// The text of `adapter_config.json`, where it is not the newest input's.
    pub(crate) config: Option<String>,
}

/// Average what the chosen adapters do, at `rank`, into the staging folder.
pub(crate) fn merge(
    choice: &Choice,
    mut recipe: Recipe,
    inputs: &[Input],
    (rank, how): (Rank, &MergeOptions),
    staging: &Staging,
    notes: &mut Vec<String>,
    progress: &dyn Progress,
) -> Result<Merged> {
    if matches!(how.machine.device, DeviceChoice::Gpu(_)) {
        progress.note("product space is computed on the CPU, in f64");
    }
    let checkpoints = &choice.checkpoints;
    let optional: Vec<_> = checkpoints.iter().map(|checkpoint| checkpoint.config.as_ref()).collect();
    let configs = mwa::adapter_configs(inputs, &optional)?;
    let products = Products::new(Factors::new(inputs, &optional, &choice.weights)?, &configs)?;
    notes.extend(products.gaps(how.merge.strict)?);

    let sources: Vec<_> = checkpoints.iter().map(|checkpoint| checkpoint.files.as_slice()).collect();
    let most = |sizes: &mut dyn Iterator<Item = u64>| sizes.max().unwrap_or(0);
    let found = if let Rank::Energy(share) = rank {
        let surveys = || products.surveys().map(|job| Survey(job, share));
        let largest = most(&mut surveys().map(|survey| size(&survey)));
        let store = Store::new(sources.clone(), Vec::new());
        tasks::run(surveys(), largest, &store, how.machine, &())?
    } else {
        Vec::new()
    };
    let ranks = products.ranks(rank, &found)?;
    recipe.elsewhere = products.layout(&ranks, how.merge.dtype);
    let plan = Plan::new(inputs, &choice.weights, &recipe)?;
    let store = Store::new(sources, create(plan.outputs(), staging)?);
    for (file, shard) in plan.outputs().iter().enumerate() {
        let head = shard.header.to_bytes();
        store.write(&Write { file, range: 0..head.len() as u64 }, &head)?;
    }
    progress.start(checkpoints.iter().flat_map(|checkpoint| &checkpoint.files).map(InputFile::len).sum());
    let together = (cpu::JOB_BYTES * (inputs.len() + 1)) as u64;
    let underflowed =
        tasks::run(plan.jobs(cpu::JOB_BYTES).map(Sum), together, &store, how.machine, progress)?;
    notes.extend(mwa::Merge::note_underflow(&plan, underflowed.into_iter().sum()));
    let jobs = products.jobs(&plan, rank, &ranks).into_iter().map(Merge).collect::<Vec<_>>();
    let largest = most(&mut jobs.iter().map(size));
    let lost = tasks::run(jobs.into_iter(), largest, &store, how.machine, progress)?;
    let distance = products.distance(rank, &ranks, &lost)?;
    let (hashes, input_hashes) = hash(&store, plan.outputs().len(), how.machine, progress)?;
    let config = configs.last().expect("one per checkpoint").rewritten(&products.config(&ranks, &configs));
    let shards = plan.outputs().to_vec();
    Ok(Merged { shards, hashes, input_hashes, distance, config: Some(config) })
}

/// Create the outputs, and say where they are.
pub(crate) fn create(outputs: &[Shard], staging: &Staging) -> Result<Vec<PathBuf>> {
    let create = |shard: &Shard| {
        staging.create(&shard.name, shard.header.file_len())?;
        Ok(staging.path(&shard.name))
    };
    outputs.iter().map(create).collect()
}

/// SHA-256 of all outputs, which are brought to the disk first, and of all inputs.
pub(crate) fn hash(
    store: &Store<'_>,
    outputs: usize,
    machine: Machine,
    progress: &dyn Progress,
) -> Result<(Vec<String>, Vec<Vec<String>>)> {
    store.sync()?;
    let inputs = store.inputs().iter().enumerate();
    let inputs = inputs.flat_map(|(input, files)| (0..files.len()).map(move |file| (Some(input), file)));
    let all: Vec<_> = (0..outputs).map(|file| (None, file)).chain(inputs).collect();
    let mut hashes =
        parallel(all.into_iter(), machine.threads(), progress, |(): &mut (), (input, file)| match input {
            Some(input) => store.hash_input(input, file),
            None => store.hash_output(file),
        })?;
    let mut rest = hashes.split_off(outputs).into_iter();
    let of_files = |files: &&[InputFile]| rest.by_ref().take(files.len()).collect();
    Ok((hashes, store.inputs().iter().map(of_files).collect()))
}

/// How far the average of the factors is from the average of the products; `None` where that says nothing.
pub(crate) fn distance(
    choice: &Choice,
    inputs: &[Input],
    machine: Machine,
    notes: &mut Vec<String>,
    progress: &dyn Progress,
) -> Result<Option<Distance>> {
    let checkpoints = &choice.checkpoints;
    let configs: Vec<_> = checkpoints.iter().map(|checkpoint| checkpoint.config.as_ref()).collect();
    let factors = Factors::new(inputs, &configs, &choice.weights)?;
    let sources = checkpoints.iter().map(|checkpoint| checkpoint.files.as_slice()).collect();
    let found = tasks::residuals(factors.jobs(), &Store::new(sources, Vec::new()), machine, progress)?;
    let (distance, note) = factors.distance(&found);
    notes.extend(note.map(Into::into));
    Ok(distance)
}
