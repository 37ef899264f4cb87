//! Which checkpoints on disk are merged, and with which weight: the core's choice among what was found.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use mwa::{History, Listed, Metrics, Result, Weights};

use crate::find::checkpoint::{Checkpoint, read_text};
use crate::find::run;
use crate::options::Options;
use mwa::report::{Advice, Input, Selected, Weighting};

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
    pub(crate) advice: Vec<Advice>,
    pub(crate) notes: Vec<String>,
}

/// Find, select and weigh. Checkpoints at the paths in `excluded` are left out as bad.
pub(crate) fn choose(options: &Options, excluded: &[PathBuf]) -> Result<Choice> {
    let found = run::find(&options.inputs, options.adapter.as_deref())?;
    let runs: Vec<_> = found.checkpoints.iter().map(|it| run_of(&it.path)).collect();
    let names: Vec<_> = runs.iter().map(|run| run.display().to_string()).collect();
    let labels: Vec<_> = found.checkpoints.iter().map(Checkpoint::label).collect();
    let listed = found.checkpoints.iter().zip(&labels).zip(&names).map(|((checkpoint, label), run)| Listed {
        name: &checkpoint.name,
        label,
        run,
        step: checkpoint.step,
        is_bad: excluded.contains(&checkpoint.path),
    });
    let listed: Vec<_> = listed.collect();
    let files = Files { table: options.metrics_file.as_deref(), runs: names.iter().zip(&runs).collect() };
    let choice = mwa::choose(&listed, found.searched, &files, &options.choose)?;
    let inputs = choice.inputs(&listed);
    let mut notes = found.notes;
    notes.extend(choice.notes);
    let mut found: Vec<_> = found.checkpoints.into_iter().map(Some).collect();
    let take = |index: usize| found[index].take().expect("a checkpoint is chosen once");
    let checkpoints = choice.indexes.into_iter().map(take).collect();
    let (weights, weighting) = (choice.weights, choice.weighting);
    let (selected, advice) = (Some(choice.selected), choice.advice);
    Ok(Choice { checkpoints, inputs, weights, weighting, selected, advice, notes })
}

/// The folder whose log covers the checkpoint.
fn run_of(checkpoint: &Path) -> &Path {
    checkpoint.parent().filter(|run| *run != Path::new("")).unwrap_or(Path::new("."))
}

/// Metrics on disk.
struct Files<'a> {
    table: Option<&'a Path>,
    /// the folder of each run, by its name
    runs: Vec<(&'a String, &'a &'a Path)>,
}

impl Metrics for Files<'_> {
    fn table_name(&self) -> Option<String> {
        self.table.map(|path| path.display().to_string())
    }

    fn table(&self) -> Result<Cow<'_, str>> {
        read_text(self.table.expect("it has a name")).map(Cow::Owned)
    }

    fn log(&self, run: &str) -> Result<Cow<'_, History>> {
        let (_, folder) =
            self.runs.iter().find(|(name, _)| *name == run).expect("choose() names listed runs");
        run::history(folder).map(Cow::Owned)
    }
}
