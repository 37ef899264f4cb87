//! The steps of a run's checkpoints: one source for all, so that no epoch is weighed against steps.

use crate::run::checkpoint::Checkpoint;
use crate::run::log::Logs;

/// Give all checkpoints their steps from one source: what they hold (their own logs, the metadata of their weights), or
/// else their names. Where neither is there for all, the source that more of them have counts, and the others have none.
/// Logs that count epochs leave the names.
pub(crate) fn settle(checkpoints: &mut [Checkpoint], logs: &Logs) {
    let held = |it: &Checkpoint| logs.step(it.home()).or(it.counted);
    let holding = checkpoints.iter().filter(|it| held(it).is_some()).count();
    let naming = checkpoints.iter().filter(|it| it.number.is_some()).count();
    let is_all = |count: usize| count == checkpoints.len();
    let is_held = is_all(holding) && !(logs.count_epochs() && is_all(naming)) || holding > naming;
    for checkpoint in checkpoints {
        checkpoint.step = if is_held { held(checkpoint) } else { checkpoint.number };
    }
}
