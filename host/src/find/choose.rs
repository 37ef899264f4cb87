//! Which checkpoints on disk are merged, and with which weight: the core's choice among what was found.

use std::path::PathBuf;

use mwa::report::{Advice, Input, Selected, Weighting};
use mwa::{OpenOptions, Result, UserTable, WeighOptions, Weights};

use crate::find::checkpoint::{Checkpoint, read_text};
use crate::find::open;
use crate::io::disk::{Disk, path_of};
use crate::options::Options;

/// The checkpoints of a merge, oldest first, with their weights.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) checkpoints: Vec<Checkpoint>,
    /// The rows of the report, without files.
    pub(crate) inputs: Vec<Input>,
    pub(crate) weights: Weights,
    pub(crate) weighting: Weighting,
    /// Which they are, and why; none for those of a report.
    pub(crate) selected: Option<Selected>,
    /// Why little is to be expected of them, if so.
    pub(crate) advice: Vec<Advice>,
    pub(crate) notes: Vec<String>,
}

/// Find, select and weigh. Checkpoints at the paths in `excluded` are left out as bad.
pub(crate) fn choose(options: &Options, excluded: &[PathBuf]) -> Result<Choice> {
    let disk = Disk::default();
    let wanted = OpenOptions { adapter: options.adapter.clone(), weights_key: options.weights_key.clone() };
    let run = open(&disk, &options.inputs, &wanted)?;
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
    let checkpoint = |at: usize| Checkpoint::of(run.checkpoints[at].clone(), &disk);
    Ok(Choice {
        checkpoints: weighed.indexes.iter().map(|&at| checkpoint(at)).collect(),
        inputs: weighed.inputs,
        weights: weighed.weights,
        weighting: weighed.weighting,
        selected: Some(weighed.selected),
        advice: weighed.advice,
        notes: weighed.notes,
    })
}
