//! The merge from end to end: one merge of the core's over the files that were found, an engine, and an output folder.

use std::path::{Component, Path, PathBuf};

use mwa::merge::{Closing, Merge};
use mwa::report::{self, CARD, REPORT, Report};
use mwa::{ErrorKind, Result, Shard, Space};

use crate::engine::device::DeviceChoice;
use crate::engine::{compute, execute, sandbox};
use crate::find::checkpoint::Checkpoint;
use crate::find::choose::{Choice, weigh};
use crate::io::disk::Disk;
use crate::io::staging::{Staging, place_of};
use crate::io::store::Store;
use crate::options::{MergeOptions, Options};
use crate::progress::Progress;

/// Choose and weigh checkpoints, and write nothing.
///
/// # Errors
/// Whatever is wrong with paths, logs, the metric or the weights.
pub fn weights(options: &Options) -> Result<Report> {
    let (_, weighed) = weigh(&Disk::default(), options, &[])?;
    Ok(Report {
        mwa: env!("CARGO_PKG_VERSION").into(),
        selected: Some(weighed.selected),
        inputs: weighed.inputs,
        weighting: weighed.weighting,
        space: report::space_name(Space::Factors).0,
        rank: None,
        residual: None,
        dtype: report::dtype_name(None),
        adapter: options.adapter.clone(),
        outputs: Vec::new(),
        companions: Vec::new(),
        advice: weighed.advice,
        notes: weighed.notes,
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
        let mut choice = Choice::new(options, &excluded)?;
        choice.chosen.notes.extend_from_slice(&dropped);
        let mut planned = Planned::new(choice, how)?;
        let error = match planned.run(how, out, progress) {
            Err(error) if options.choose.drop_bad => error,
            done => return done,
        };
        let (bad, note) = planned.merge.bad_input(&error).ok_or(error)?;
        excluded.push(planned.checkpoints[bad].path.clone());
        dropped.push(note);
    }
}

/// A merge that was planned, and its files.
pub(crate) struct Planned {
    merge: Merge,
    checkpoints: Vec<Checkpoint>,
}

impl Planned {
    pub(crate) fn new(choice: Choice, how: &MergeOptions) -> Result<Self> {
        let Choice { chosen, checkpoints } = choice;
        let cut = execute::cut(how.machine, chosen.inputs.len());
        Ok(Self { merge: Merge::new(chosen, how.merge, cut)?, checkpoints })
    }

    /// Merge on this machine, into the folder `out`.
    pub(crate) fn run(&mut self, how: &MergeOptions, out: &Path, progress: &dyn Progress) -> Result<Report> {
        let Self { merge, checkpoints } = self;
        if matches!((how.merge.space, how.machine.device), (Space::Product(_), DeviceChoice::Gpu(_))) {
            progress.note("product space is computed on the CPU, in f64");
        }
        let mut store = Store::new(checkpoints.iter().map(|checkpoint| checkpoint.files.as_slice()));
        let mut begun = None;
        let mut create = |outputs: &[Shard]| {
            let staging = begun.insert(Staging::begin(out, how.force, checkpoints)?);
            let create = |shard: &Shard| {
                staging.create(&shard.name, shard.header.file_len())?;
                Ok(staging.path(&shard.name))
            };
            outputs.iter().map(create).collect()
        };
        let ran = if how.machine.device == DeviceChoice::Wasm {
            sandbox::run(merge, checkpoints, how, &mut store, create, progress)
        } else {
            let create = |merge: &Merge| create(merge.outputs());
            execute::run(merge, &mut store, create, Box::new(compute::run), how.machine, progress)
                .map(|hashes| (hashes, None))
        };
        let (hashes, guest) = ran.map_err(|error| match error.kind() {
            ErrorKind::Io => error.file(out.display().to_string()),
            _ => error,
        })?;
        for file in checkpoints.iter().flat_map(|checkpoint| &checkpoint.files) {
            file.check_unchanged()?;
        }
        let staging = begun.expect("the outputs were created");
        let texts = guest.as_ref().map_or_else(|| merge.texts(), sandbox::Guest::texts);
        let mut companions = Vec::new();
        for (name, text) in &texts {
            companions.push(staging.write(name, text.as_bytes())?);
        }
        let (copied, notes) = staging.copy_companions(&checkpoints[merge.owner()].companions)?;
        companions.extend(copied);
        let way = |it: &Checkpoint| path_from(staging.target(), &it.path);
        let paths = checkpoints.iter().map(way).collect::<Result<_>>()?;
        let closing = Closing { paths, inputs: hashes.inputs, outputs: hashes.outputs, companions, notes };
        let report = match guest {
            Some(guest) => guest.finish(merge, closing),
            None => merge.finish(&closing)?.report,
        };
        let config = merge.chosen().configs[merge.owner()].as_ref();
        staging.write(CARD, mwa::card(&report, config).as_bytes())?;
        staging.write(REPORT, report.to_json().as_bytes())?;
        staging.publish()?.iter().for_each(|note| progress.note(note));
        Ok(report)
    }
}

/// The way from one folder to a path, so that a report stays true when both are moved together.
fn path_from(folder: &Path, path: &Path) -> Result<String> {
    let path = place_of(path)?.unwrap_or_else(|| path.to_owned());
    let shared = folder.components().zip(path.components()).take_while(|(a, b)| a == b).count();
    if shared == 0 {
        return Ok(path.display().to_string());
    }
    let up = folder.components().skip(shared).map(|_| Component::ParentDir);
    let way: PathBuf = up.chain(path.components().skip(shared)).collect();
    // forward slashes work everywhere
    Ok(way.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_from_the_output_to_the_input() {
        assert_eq!(
            path_from(Path::new("/runs/merged"), Path::new("/runs/a/checkpoint-1")).unwrap(),
            "../a/checkpoint-1"
        );
        assert_eq!(
            path_from(Path::new("/runs/a/merged"), Path::new("/runs/a/checkpoint-1")).unwrap(),
            "../checkpoint-1"
        );
    }
}
