//! The merge from end to end: choose, check, plan, run, publish.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use mwa::{AdapterConfig, ErrorKind, Exactness, Input, Merge, Plan, Rank, Result, Shard};

use crate::engine::device::DeviceChoice;
use crate::engine::{compute, product, sandbox};
use crate::find::checkpoint::Checkpoint;
use crate::find::choose::{Choice, choose};
use crate::find::same_run;
use crate::io::disk::{InputFile, io_error};
use crate::io::hash::hash_file;
use crate::io::staging::Staging;
use crate::options::{MergeOptions, Options};
use crate::progress::Progress;
use mwa::Space;
use mwa::report;
use mwa::report::{CARD, CONFIG, Distance, HashedFile, REPORT, Report};

/// Choose and weigh checkpoints, and write nothing.
///
/// # Errors
/// Whatever is wrong with paths, logs, the metric or the weights.
pub fn weights(options: &Options) -> Result<Report> {
    let choice = choose(options, &[])?;
    Ok(Report {
        mwa: env!("CARGO_PKG_VERSION").into(),
        selected: choice.selected,
        inputs: choice.inputs,
        weighting: choice.weighting,
        space: report::space_name(Space::Factors).0,
        rank: None,
        residual: None,
        dtype: report::dtype_name(None),
        adapter: options.adapter.clone(),
        outputs: Vec::new(),
        companions: Vec::new(),
        advice: choice.advice,
        notes: choice.notes,
    })
}

/// Merge into the folder `out`, which appears whole or not at all.
///
/// # Errors
/// As [`weights`], and whatever keeps the checkpoints from being averaged or written; then nothing is left behind.
pub fn merge(options: &Options, how: &MergeOptions, out: &Path, progress: &dyn Progress) -> Result<Report> {
    Staging::tidy(out).iter().for_each(|done| progress.note(done));
    if how.force {
        let named = options.inputs.iter().chain(&options.metrics_file);
        Staging::check_inputs(out, named.map(PathBuf::as_path))?;
    }
    Staging::check(out, how.force)?;
    let mut excluded = Vec::new();
    let mut dropped = Vec::new();
    loop {
        let mut choice = choose(options, &excluded)?;
        match merge_choice(&mut choice, how, options.adapter.as_deref(), out, &dropped, progress) {
            Err(error) if options.choose.drop_bad && error.kind() == ErrorKind::NonFinite => {
                let bad =
                    choice.checkpoints.iter().find(|checkpoint| Some(&*checkpoint.name) == error.at_file());
                let bad = bad.ok_or_else(|| error.clone())?;
                excluded.push(bad.path.clone());
                dropped.push(format!(
                    "{} is dropped: tensor `{}` {}",
                    bad.name,
                    error.at_tensor().unwrap_or_default(),
                    error.detail()
                ));
            }
            done => return done,
        }
    }
}

/// One try with the checkpoints chosen.
pub(crate) fn merge_choice(
    choice: &mut Choice,
    how: &MergeOptions,
    adapter: Option<&str>,
    out: &Path,
    dropped: &[String],
    progress: &dyn Progress,
) -> Result<Report> {
    let mut notes = core::mem::take(&mut choice.notes);
    notes.extend_from_slice(dropped);
    let checkpoints = &choice.checkpoints;
    let inputs: Vec<_> = checkpoints
        .iter()
        .map(|checkpoint| Input { name: checkpoint.name.clone(), files: shards(checkpoint, checkpoints) })
        .collect();
    let mut merge = agree(choice, &inputs, how)?;
    notes.append(&mut merge.notes);
    if how.merge.space == Space::Factors {
        notes.extend(same_run::check(&choice.checkpoints, how.merge.allow_cross_run)?);
    }

    let staging = Staging::begin(out, how.force, &choice.checkpoints)?;
    let written = match merge.copied {
        Some(only) => copy(&choice.checkpoints, only, &inputs[only].files, &staging, progress)?,
        None => average(choice, inputs, merge, how, &staging, &mut notes, progress)?,
    };
    for file in choice.checkpoints.iter().flat_map(|checkpoint| &checkpoint.files) {
        file.check_unchanged()?;
    }

    let mut inputs = choice.inputs.clone();
    for ((row, checkpoint), hashes) in inputs.iter_mut().zip(&choice.checkpoints).zip(written.input_hashes) {
        row.path = path_from(staging.target(), &checkpoint.path);
        row.files = checkpoint
            .files
            .iter()
            .zip(hashes)
            .map(|(file, sha256)| hashed(file.name(), file.len(), sha256))
            .collect();
    }
    note_twins(&inputs, &mut notes);
    let owner = &choice.checkpoints[written.owner];
    let mut companions = Vec::new();
    if let Some((name, index)) = mwa::shard_index(&written.shards) {
        companions.push(staging.write(&name, index.as_bytes())?);
    }
    if let Some(config) = written.config.as_deref().or(owner.config.as_ref().map(AdapterConfig::text)) {
        companions.push(staging.write(CONFIG, config.as_bytes())?);
    }
    if let Some(folder) = &owner.folder {
        let (copied, left_out) = staging.copy_companions(folder)?;
        companions.extend(copied);
        notes.extend(left_out);
    }
    let (space, rank) = report::space_name(how.merge.space);
    let mut report = Report {
        mwa: env!("CARGO_PKG_VERSION").into(),
        selected: choice.selected.clone(),
        weighting: choice.weighting.clone(),
        space,
        rank,
        residual: written.distance,
        dtype: report::dtype_name(how.merge.dtype),
        adapter: adapter.map(str::to_owned),
        inputs,
        outputs: written
            .shards
            .iter()
            .zip(written.hashes)
            .map(|(shard, sha256)| hashed(shard.name.clone(), shard.header.file_len(), sha256))
            .collect(),
        companions,
        advice: choice.advice.clone(),
        notes,
    };
    report.advise_residual();
    staging.write(CARD, mwa::card(&report, owner.config.as_ref()).as_bytes())?;
    staging.write(REPORT, report.to_json().as_bytes())?;
    staging.publish()?.iter().for_each(|note| progress.note(note));
    Ok(report)
}

/// What was put into the staging folder.
struct Written {
    shards: Vec<Shard>,
    /// SHA-256 of each shard.
    hashes: Vec<String>,
    /// SHA-256 of each input file.
    input_hashes: Vec<Vec<String>>,
    /// The checkpoint that gives the config and the tokenizer.
    owner: usize,
    /// How far merged products are off.
    distance: Option<Distance>,
    /// The adapter's config, where it is not the owner's.
    config: Option<String>,
}

impl product::Merged {
    fn written(self, owner: usize) -> Written {
        let Self { shards, hashes, input_hashes, distance, config } = self;
        Written { shards, hashes, input_hashes, owner, distance, config }
    }
}

/// Check who may be averaged with whom, and how.
fn agree(choice: &Choice, inputs: &[Input], how: &MergeOptions) -> Result<Merge> {
    let checkpoints = &choice.checkpoints;
    let configs: Vec<_> = checkpoints.iter().map(|checkpoint| checkpoint.config.as_ref()).collect();
    Merge::new(inputs, &configs, &choice.weights, how.merge)
}

fn copy(
    checkpoints: &[Checkpoint],
    only: usize,
    shards: &[Shard],
    staging: &Staging,
    progress: &dyn Progress,
) -> Result<Written> {
    let mut input_hashes = Vec::new();
    for (i, checkpoint) in checkpoints.iter().enumerate() {
        let hash = |(k, file): (usize, &InputFile)| {
            if i == only {
                staging.copy(&file.path, &shards[k].name).map(|copied| copied.sha256)
            } else {
                hash_file(&file.path, progress)
            }
        };
        input_hashes.push(checkpoint.files.iter().enumerate().map(hash).collect::<Result<Vec<_>>>()?);
    }
    let hashes = input_hashes[only].clone();
    Ok(Written { shards: shards.to_vec(), hashes, input_hashes, owner: only, distance: None, config: None })
}

fn average(
    choice: &Choice,
    inputs: Vec<Input>,
    merge: Merge,
    how: &MergeOptions,
    staging: &Staging,
    notes: &mut Vec<String>,
    progress: &dyn Progress,
) -> Result<Written> {
    let checkpoints = &choice.checkpoints;
    let owner = checkpoints.len() - 1;
    let weights = choice.weights.values();
    if let Space::Product(rank) = how.merge.space {
        let done = if how.machine.device == DeviceChoice::Wasm {
            let work = sandbox::Work { checkpoints, inputs: &inputs, weights, how, expected: None };
            sandbox::run(&work, staging, notes, progress)?
        } else {
            let rank = rank.unwrap_or(Rank::Inputs);
            product::merge(choice, merge.recipe, &inputs, (rank, how), staging, notes, progress)?
        };
        return Ok(done.written(owner));
    }
    let plan = Plan::new(&inputs, &choice.weights, &merge.recipe)?;
    if how.machine.device == DeviceChoice::Wasm {
        let expected = Some(plan.outputs());
        let work = sandbox::Work { checkpoints, inputs: &inputs, weights, how, expected };
        return Ok(sandbox::run(&work, staging, notes, progress)?.written(owner));
    }
    let outputs = plan
        .outputs()
        .iter()
        .map(|shard| staging.create(&shard.name, shard.header.file_len()))
        .collect::<Result<Vec<_>>>()?;
    let sources: Vec<_> = checkpoints.iter().map(|checkpoint| checkpoint.files.as_slice()).collect();
    let written = |error: mwa::Error| match error.kind() {
        ErrorKind::Io => error.file(staging.shown().display().to_string()),
        _ => error,
    };
    let ran = compute::run(&plan, &sources, &outputs, how.machine, progress).map_err(written)?;
    for output in outputs {
        output.sync_all().map_err(|error| written(io_error("cannot write the merged file", &error)))?;
    }
    let distance = if merge.exactness == Exactness::Product && how.merge.residual {
        product::distance(choice, &inputs, how.machine, notes, progress)?
    } else {
        None
    };
    notes.extend(Merge::note_underflow(&plan, ran.tally.underflowed));
    Ok(Written {
        shards: plan.outputs().to_vec(),
        hashes: ran.outputs,
        input_hashes: ran.inputs,
        owner,
        distance,
        config: None,
    })
}

/// The files of a checkpoint under the names that the output gives them.
fn shards(checkpoint: &Checkpoint, all: &[Checkpoint]) -> Vec<Shard> {
    let name = |file: &InputFile| {
        let is_loose = checkpoint.folder.is_none();
        if is_loose && all.iter().any(|other| other.files[0].name() != file.name()) {
            return "merged.safetensors".into();
        }
        safetensors_name(&file.name())
    };
    checkpoint.files.iter().map(|file| Shard { name: name(file), header: file.header.clone() }).collect()
}

/// `pytorch_model-00001-of-00002.bin` becomes `model-00001-of-00002.safetensors`, as in the format's own conversions.
fn safetensors_name(name: &str) -> String {
    let stem = [".bin", ".pt", ".pth"].iter().find_map(|end| name.strip_suffix(end));
    stem.map_or_else(
        || name.to_owned(),
        |stem| format!("{}.safetensors", stem.strip_prefix("pytorch_").unwrap_or(stem)),
    )
}

/// Say so when two inputs are the same model.
fn note_twins(inputs: &[report::Input], notes: &mut Vec<String>) {
    let mut seen: BTreeMap<Vec<&str>, &str> = BTreeMap::new();
    for input in inputs {
        let content: Vec<_> = input.files.iter().map(|file| file.sha256.as_str()).collect();
        if let Some(twin) = seen.insert(content, &input.name) {
            notes.push(format!("{twin} and {} hold the same weights, byte for byte", input.name));
        }
    }
}

fn hashed(name: String, bytes: u64, sha256: String) -> HashedFile {
    HashedFile { name, bytes, sha256 }
}

/// The way from one folder to a path, so that a report stays true when both are moved together.
fn path_from(folder: &Path, path: &Path) -> String {
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let shared = folder.components().zip(path.components()).take_while(|(a, b)| a == b).count();
    if shared == 0 {
        return path.display().to_string();
    }
    let up = folder.components().skip(shared).map(|_| Component::ParentDir);
    let way: PathBuf = up.chain(path.components().skip(shared)).collect();
    // forward slashes work everywhere
    way.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_from_the_output_to_the_input() {
        assert_eq!(
            path_from(Path::new("/runs/merged"), Path::new("/runs/a/checkpoint-1")),
            "../a/checkpoint-1"
        );
        assert_eq!(
            path_from(Path::new("/runs/a/merged"), Path::new("/runs/a/checkpoint-1")),
            "../checkpoint-1"
        );
    }

    #[test]
    fn pickles_become_safetensors() {
        assert_eq!(safetensors_name("adapter_model.bin"), "adapter_model.safetensors");
        assert_eq!(safetensors_name("pytorch_model-00001-of-00002.bin"), "model-00001-of-00002.safetensors");
        assert_eq!(safetensors_name("model.safetensors"), "model.safetensors");
    }
}
