//! Which checkpoints on disk are merged, and with which weight: the core's choice among what was found.

use std::path::{Path, PathBuf};

use mwa::merge::Chosen;
use mwa::report::Report;
use mwa::{OpenOptions, Readers, Result, Run, UserTable, WeighOptions, Weighed, Weights};

use crate::find::checkpoint::{Checkpoint, read_text};
use crate::find::open;
use crate::io::disk::{Disk, now, path_of, text_of};
use crate::options::Options;

/// The checkpoints of a merge, oldest first: what the core takes, and the files of each on this machine.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) chosen: Chosen,
    pub(crate) checkpoints: Vec<Checkpoint>,
}

/// Find, select and weigh. Checkpoints at the paths in `excluded` are left out as bad.
pub(crate) fn weigh(disk: &Disk, options: &Options, excluded: &[PathBuf]) -> Result<(Run, Weighed)> {
    let wanted = OpenOptions { adapter: options.adapter.clone(), weights_key: options.weights_key.clone() };
    let run = open(disk, &options.inputs, &wanted)?;
    let table = options.metrics_file.as_deref().map(|path| {
        let name = path.display().to_string();
        read_text(path).map(|text| UserTable { name, text })
    });
    let is_excluded = |at: &usize| excluded.contains(&path_of(&run.checkpoints[*at].name));
    let weighed = run.weigh(&WeighOptions {
        choose: options.choose.clone(),
        table: table.transpose()?,
        checkpoints: None,
        excluded: (0..run.checkpoints.len()).filter(is_excluded).collect(),
    })?;
    Ok((run, weighed))
}

impl Choice {
    /// As [`weigh`] finds them.
    pub(crate) fn new(options: &Options, excluded: &[PathBuf]) -> Result<Self> {
        let disk = Disk::default();
        let (run, weighed) = weigh(&disk, options, excluded)?;
        let checkpoint = |&at: &usize| Checkpoint::of(run.checkpoints[at].clone(), &disk);
        let checkpoints = weighed.indexes.iter().map(checkpoint).collect::<Result<_>>()?;
        Ok(Self { chosen: run.chosen(weighed), checkpoints })
    }

    /// Those that the report in `folder` names, with its weights.
    pub(crate) fn again(folder: &Path, report: &Report, weights: Weights) -> Result<Self> {
        let disk = Disk::default();
        let mut found = Vec::new();
        for input in &report.inputs {
            let (adapter, weights_key) = (report.adapter.clone(), input.weights_key.clone());
            let path = text_of(&folder.join(&input.path))?;
            let options = OpenOptions { adapter, weights_key };
            let mut checkpoint = now(mwa::Checkpoint::open(&disk, &Readers::ALL, &path, &options))?;
            // what came later, or was left out then, was not merged
            if !input.files.is_empty() {
                checkpoint.files.retain(|file| input.files.iter().any(|merged| merged.name == file.name()));
            }
            found.push(checkpoint);
        }
        let (all, weighting) = (found.iter().collect::<Vec<_>>(), report.weighting.clone());
        let chosen = Chosen::of(&all, report.inputs.clone(), weights, weighting);
        let checkpoints = found.into_iter().map(|it| Checkpoint::of(it, &disk)).collect::<Result<_>>()?;
        Ok(Self { chosen, checkpoints })
    }
}
