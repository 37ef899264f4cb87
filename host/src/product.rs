//! Merges in product space, and how far merges in factor space are from them.

use std::fs::File;

use mwa::{AdapterConfig, Error, ErrorKind, Factors, Input, Plan, Products, Rank, Recipe, Residual, Result};

use crate::checkpoint::Checkpoint;
use crate::choose::Choice;
use crate::files::{self, InputFile, io_error};
use crate::hash::hash_file;
use crate::output::Staging;
use crate::report::Distance;
use crate::tasks::{self, Merge, Sum, Survey, parallel};
use crate::{DeviceChoice, Machine, MergeOptions, Progress, cpu};

/// A product merge, written but for its config.
pub(crate) struct Merged {
    pub(crate) plan: Plan,
    /// SHA-256 of each output file.
    pub(crate) hashes: Vec<String>,
    /// SHA-256 of each input file.
    pub(crate) input_hashes: Vec<Vec<String>>,
    pub(crate) distance: Option<Distance>,
    /// The text of `adapter_config.json`.
    pub(crate) config: String,
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
    let configs = configs(checkpoints)?;
    let optional: Vec<_> = configs.iter().copied().map(Some).collect();
    let products = Products::new(Factors::new(inputs, &optional, &choice.weights)?, &configs)?;
    let gaps = products.gaps();
    if let (true, Some(gap)) = (how.strict, gaps.first()) {
        return Err(Error::new(ErrorKind::Names, gap.clone())
            .help("--strict forbids this; merge adapters of the same modules"));
    }
    notes.extend(gaps);

    let sources: Vec<_> = checkpoints.iter().map(|checkpoint| checkpoint.files.as_slice()).collect();
    let found = if let Rank::Energy(share) = rank {
        let surveys: Vec<_> = products.surveys().map(|job| Survey(job, share)).collect();
        tasks::run(&surveys, &sources, &[], how.machine, &())?
    } else {
        Vec::new()
    };
    let ranks = products.ranks(rank, &found)?;
    recipe.elsewhere = products.layout(&ranks, how.dtype);
    let plan = Plan::new(inputs, &choice.weights, &recipe)?;
    let mut outputs = Vec::new();
    for shard in plan.outputs() {
        let output = staging.create(&shard.name, shard.header.file_len())?;
        files::write_at(&output, &shard.header.to_bytes(), 0)
            .map_err(|error| io_error("cannot write the merged file", &error))?;
        outputs.push(output);
    }
    progress.start(checkpoints.iter().flat_map(|checkpoint| &checkpoint.files).map(InputFile::len).sum());
    let sums: Vec<_> = plan.jobs(cpu::JOB_BYTES).map(Sum).collect();
    tasks::run(&sums, &sources, &outputs, how.machine, progress)?;
    let jobs: Vec<_> = products.jobs(&plan, rank, &ranks).into_iter().map(Merge).collect();
    let lost = tasks::run(&jobs, &sources, &outputs, how.machine, progress)?;
    if rank != Rank::Full && lost.iter().all(|lost| lost.norm == 0.0) {
        return Err(Error::new(
            ErrorKind::Input,
            "there is nothing to merge: the products B·A of all inputs are zero",
        )
        .help(
            "B starts at zero, so they were saved before any training, or by a process that held no weights",
        ));
    }
    let modules = jobs
        .iter()
        .zip(&ranks)
        .zip(&lost)
        .map(|((Merge(job), rank), lost)| (job.module().to_owned(), Some(*rank), *lost));
    let distance = Distance::new(modules);
    let (hashes, input_hashes) = hash(checkpoints, &plan, staging, outputs, how.machine, progress)?;
    let config = configs.last().expect("one per checkpoint").rewritten(&products.config(&ranks, &configs));
    drop(jobs);
    Ok(Merged { plan, hashes, input_hashes, distance, config })
}

/// The adapters' configs, which say how their factors are scaled.
fn configs(checkpoints: &[Checkpoint]) -> Result<Vec<&AdapterConfig>> {
    checkpoints
        .iter()
        .map(|checkpoint| {
            checkpoint.config.as_ref().ok_or_else(|| {
                let detail = "has no adapter_config.json, so nothing says how its factors are scaled";
                Error::new(ErrorKind::Config, detail)
                    .file(&*checkpoint.name)
                    .help("product space merges PEFT adapters; name the folder that holds the config too")
            })
        })
        .collect()
}

/// SHA-256 of all outputs, which are brought to the disk first, and of all inputs.
pub(crate) fn hash(
    checkpoints: &[Checkpoint],
    plan: &Plan,
    staging: &Staging,
    outputs: Vec<File>,
    machine: Machine,
    progress: &dyn Progress,
) -> Result<(Vec<String>, Vec<Vec<String>>)> {
    for output in outputs {
        output.sync_all().map_err(|error| io_error("cannot write the merged file", &error))?;
    }
    let written = plan.outputs().iter().map(|shard| staging.path(&shard.name));
    let read = checkpoints.iter().flat_map(|checkpoint| &checkpoint.files).map(|file| file.path.clone());
    let paths: Vec<_> = written.chain(read).collect();
    let mut hashes =
        parallel(paths.len(), machine.threads(), progress, |(): &mut (), i| hash_file(&paths[i]))?;
    let mut rest = hashes.split_off(plan.outputs().len()).into_iter();
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
    let Some(found) = found.into_iter().collect::<Option<Vec<Residual>>>() else { return Ok(None) };
    let are_several = choice.weights.used().count() > 1;
    if are_several && !found.is_empty() && found.iter().all(|residual| residual.error == 0.0) {
        notes.push(
            "one factor of each module is the same in all inputs, so the average of factors is exact".into(),
        );
    }
    Ok(Distance::new(jobs.iter().zip(found).map(|(job, residual)| (job.module().to_owned(), None, residual))))
}
