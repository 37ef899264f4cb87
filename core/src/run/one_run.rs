//! Tell two full models of one run from those of two runs that were trained into one folder, by their logs.
//!
//! LoRA's factors tell it better, so they are left to the merge itself (see `merge/same_run.rs`).

use alloc::format;
use alloc::vec::Vec;

use crate::error::{Error, ErrorKind, Result};
use crate::merge::same_run::Sample;
use crate::run::checkpoint::Checkpoint;
use crate::run::log::{Logs, shown};

/// Refuse checkpoints whose logs never were one.
///
/// # Errors
/// [`ErrorKind::CrossRun`], with the second of two checkpoints.
pub(crate) fn check(chosen: &[&Checkpoint], logs: &Logs) -> Result<()> {
    let mut runs: Vec<_> = chosen.iter().map(|checkpoint| checkpoint.run()).collect();
    runs.sort_unstable();
    runs.dedup();
    for run in runs {
        let of_run = chosen.iter().filter(|it| it.run() == run && Sample::names(it.tensors()).is_empty());
        let known: Vec<_> = of_run.filter_map(|it| Some((it, it.step?))).collect();
        // a log that cannot be read is told where it is needed
        let Ok(history) = logs.history(shown(run)) else { continue };
        let steps: Vec<_> = known.iter().map(|(_, step)| *step).collect();
        if let Some(found) = history.strangers(&steps) {
            let (a, b) = found.pair;
            let detail = format!(
                "is not of the same run as {}: their logs share no value ({} at step {} is {} in its log, {} in the other)",
                known[a].0.name, found.metric, found.step, found.values.1, found.values.0
            );
            return Err(Error::new(ErrorKind::CrossRun, detail).file(&*known[b].0.name).help(
                "a second run was trained into the folder of a first: name the checkpoints of one of them; \
                 --allow-cross-run averages them anyway",
            ));
        }
    }
    Ok(())
}
