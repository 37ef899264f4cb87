//! Which checkpoints on disk are merged, and with which weight: the core's choice among what was found.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mwa::merge::Chosen;
use mwa::report::Report;
use mwa::{OpenOptions, Readers, Result, Run, UserTable, WeighOptions, Weighed};

use crate::find::checkpoint::{Checkpoint, read_text};
use crate::find::open;
use crate::io::disk::{Disk, path_of, text_of};
use crate::io::url::{clean, clean_log, place};
use crate::options::Options;
use crate::plot::weights::picture;

/// The checkpoints of a merge, oldest first: what the core takes, and the files of each on this machine.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) chosen: Chosen,
    /// Shared by all merges of a search.
    pub(crate) checkpoints: Arc<Vec<Checkpoint>>,
    /// A picture of it, if one is wanted.
    pub(crate) picture: Option<String>,
}

/// Find, select and weigh; what was asked of the run is told too. Checkpoints at the paths in `excluded` are left out as bad.
pub(crate) fn weigh(
    disk: &Disk,
    options: &Options,
    excluded: &[PathBuf],
) -> Result<(Run, WeighOptions, Weighed)> {
    let mut moments = options.moments.clone();
    for file in moments.iter_mut().flat_map(|it| &mut it.files) {
        *file = clean(Path::new(file)).display().to_string();
    }
    let wanted = OpenOptions {
        adapter: options.adapter.clone(),
        weights_key: options.weights_key.clone(),
        metrics_from: options.metrics_from.as_deref().map(clean_log),
        base: options.role_base.as_deref().map(|base| clean(Path::new(base)).display().to_string()),
        moments,
    };
    let run = open(disk, &options.inputs, &wanted)?;
    let read = |path: &Path| {
        let path = &*clean(path);
        let name = path.display().to_string();
        read_text(path).map(|text| UserTable { name, text })
    };
    let table = options.metrics_file.as_deref().map(read);
    let rules = options.weights_file.as_deref().map(read);
    let is_excluded = |at: &usize| excluded.contains(&path_of(&run.checkpoints[*at].name));
    let how = WeighOptions {
        choose: options.choose.clone(),
        table: table.transpose()?,
        rules: rules.transpose()?,
        checkpoints: None,
        excluded: (0..run.checkpoints.len()).filter(is_excluded).collect(),
    };
    let weighed = run.weigh(&how)?;
    Ok((run, how, weighed))
}

impl Choice {
    /// As [`weigh`] finds them; with a picture if `is_drawn`.
    pub(crate) fn new(options: &Options, excluded: &[PathBuf], is_drawn: bool) -> Result<Self> {
        let disk = Disk::default();
        let (run, how, weighed) = weigh(&disk, options, excluded)?;
        // where the tensors decide, the weights are not known yet
        let picture = (is_drawn && weighed.robust.is_none()).then(|| picture(&run, &how, &weighed));
        let inputs = run.inputs(&weighed.indexes).into_iter();
        let checkpoints = inputs.map(|it| Checkpoint::of(it.clone(), &disk)).collect::<Result<_>>()?;
        let checkpoints = Arc::new(checkpoints);
        Ok(Self { chosen: run.chosen(weighed), checkpoints, picture })
    }

    /// Those that the report in `folder` names, with its weights.
    pub(crate) fn again(folder: &Path, report: &Report) -> Result<Self> {
        let disk = Disk::default();
        let paths = report.inputs.iter().map(|input| text_of(&place(folder, &input.path)));
        let paths = paths.collect::<Result<Vec<_>>>()?;
        let (found, chosen) = disk.now(|| report.again(&disk, &Readers::ALL, &paths))?;
        let checkpoints = found.into_iter().map(|it| Checkpoint::of(it, &disk)).collect::<Result<_>>()?;
        let checkpoints = Arc::new(checkpoints);
        Ok(Self { chosen, checkpoints, picture: None })
    }
}
