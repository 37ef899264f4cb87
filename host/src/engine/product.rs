//! Merges in product space, and how far merges in factor space are from them.

use std::fs::File;

use mwa::{Factors, Input, Plan, Products, Rank, Recipe, Result, Shard};

use crate::engine::cpu;
use crate::engine::device::DeviceChoice;
use crate::engine::tasks;
use crate::engine::tasks::{Merge, Sum, Survey, parallel};
use crate::find::checkpoint::Checkpoint;
use crate::find::choose::Choice;
use crate::io::disk;
use crate::io::disk::{InputFile, io_error};
use crate::io::hash::hash_file;
use crate::io::staging::Staging;
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
    let found = if let Rank::Energy(share) = rank {
        let surveys: Vec<_> = products.surveys().map(|job| Survey(job, share)).collect();
        tasks::run(&surveys, &sources, &[], how.machine, &())?
    } else {
        Vec::new()
    };
    let ranks = products.ranks(rank, &found)?;
    recipe.elsewhere = products.layout(&ranks, how.merge.dtype);
    let plan = Plan::new(inputs, &choice.weights, &recipe)?;
    let mut outputs = Vec::new();
    for shard in plan.outputs() {
        let output = staging.create(&shard.name, shard.header.file_len())?;
        disk::write_at(&output, &shard.header.to_bytes(), 0)
            .map_err(|error| io_error("cannot write the merged file", &error))?;
        outputs.push(output);
    }
    progress.start(checkpoints.iter().flat_map(|checkpoint| &checkpoint.files).map(InputFile::len).sum());
    let sums: Vec<_> = plan.jobs(cpu::JOB_BYTES).map(Sum).collect();
    tasks::run(&sums, &sources, &outputs, how.machine, progress)?;
    let jobs: Vec<_> = products.jobs(&plan, rank, &ranks).into_iter().map(Merge).collect();
    let lost = tasks::run(&jobs, &sources, &outputs, how.machine, progress)?;
    let distance = products.distance(rank, &ranks, &lost)?;
    let (hashes, input_hashes) = hash(checkpoints, plan.outputs(), staging, outputs, how.machine, progress)?;
    let config = configs.last().expect("one per checkpoint").rewritten(&products.config(&ranks, &configs));
    let shards = plan.outputs().to_vec();
    Ok(Merged { shards, hashes, input_hashes, distance, config: Some(config) })
}

/// SHA-256 of all outputs, which are brought to the disk first, and of all inputs.
pub(crate) fn hash(
    checkpoints: &[Checkpoint],
    shards: &[Shard],
    staging: &Staging,
    outputs: Vec<File>,
    machine: Machine,
    progress: &dyn Progress,
) -> Result<(Vec<String>, Vec<Vec<String>>)> {
    for output in outputs {
        output.sync_all().map_err(|error| io_error("cannot write the merged file", &error))?;
    }
    let written = shards.iter().map(|shard| staging.path(&shard.name));
    let read = checkpoints.iter().flat_map(|checkpoint| &checkpoint.files).map(|file| file.path.clone());
    let paths: Vec<_> = written.chain(read).collect();
    let mut hashes =
        parallel(paths.len(), machine.threads(), progress, |(): &mut (), i| hash_file(&paths[i], progress))?;
    let mut rest = hashes.split_off(shards.len()).into_iter();
    let of_files = |checkpoint: &Checkpoint| rest.by_ref().take(checkpoint.files.len()).collect();
    Ok((hashes, checkpoints.iter().map(of_files).collect()))
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
    let jobs: Vec<_> = factors.jobs().collect();
    let sources: Vec<_> = checkpoints.iter().map(|checkpoint| checkpoint.files.as_slice()).collect();
    let found = tasks::residuals(&jobs, &sources, machine, progress)?;
    let (distance, note) = factors.distance(&found);
    notes.extend(note.map(Into::into));
    Ok(distance)
}
